"""A bank's own model is kept only where its validation rows say so, and the recommendation follows the figures."""

from dataclasses import replace

import numpy as np
import pytest
from test_training import SEED, SETTINGS, SPECS, made_up

from lianxin.parties import training
from lianxin.simulations import clear_networks


def federated(model: str) -> np.ndarray:
    spec, banks = SPECS[model], {f"bank-{n}": made_up(f"bank {n}", 150) for n in range(3)}
    return clear_networks.federated(spec, training.initial(spec, SEED), banks, SETTINGS, 5, 24, SEED).weights


@pytest.mark.parametrize("model", sorted(SPECS))
@pytest.mark.parametrize("how", ["head", "fine_tune"])
def test_a_bank_with_other_rates_gets_a_better_model_of_its_own(model: str, how: str) -> None:
    spec, weights = SPECS[model], federated(model)
    own, held, test = (made_up(name, 300, shift=-2.0) for name in ("own", "own held back", "own test"))
    found = training.personalise(spec, weights, own, held, SETTINGS, how, SEED)
    assert found.kept == how and found.loss is not None and found.federated_loss is not None
    assert found.loss < found.federated_loss and found.loss == training.log_loss(spec, found.weights, held)
    before, after = (training.log_loss(spec, one, test) for one in (weights, found.weights))
    assert before is not None and after is not None and after < before
    below = found.weights[: -training.shapes(spec)[-2][1][1] - 1] == weights[: -training.shapes(spec)[-2][1][1] - 1]
    assert bool(below.all()) == (how == "head" or model == "logistic")


def test_a_personal_model_that_is_worse_on_validation_rows_is_not_kept_and_that_is_said() -> None:
    spec, weights = SPECS["mlp"], federated("mlp")
    own, held = made_up("own", 60, shift=4.0), made_up("held back", 300, shift=-1.0)
    found = training.personalise(spec, weights, own, held, SETTINGS, "fine_tune", SEED)
    assert found.kept == "none" and np.array_equal(found.weights, weights) and found.loss == found.federated_loss
    assert found.note == "no epoch on own rows was better on the validation rows; the federated model is kept"


def test_without_rows_to_judge_by_the_federated_model_is_kept() -> None:
    spec, weights, rows = SPECS["mlp"], federated("mlp"), made_up("own", 100)
    for held in (rows.take([]), rows.take(rows.labels == 1)):
        found = training.personalise(spec, weights, rows, held, SETTINGS, "head", SEED)
        assert found.kept == "none" and "too few rows were held back" in found.note
    assert training.personalise(spec, weights, rows, rows, SETTINGS, "none", SEED).note.startswith("the contract asks")
    assert training.personalise(spec, weights, rows.take([]), rows, SETTINGS, "head", SEED).kept == "none"


def test_a_personal_model_that_runs_away_ends_with_the_best_until_then() -> None:
    spec, weights, rows = SPECS["mlp"], federated("mlp"), made_up("own", 100)
    found = training.personalise(spec, weights, rows, rows, replace(SETTINGS, rate=1e38), "fine_tune", SEED)
    assert found.kept == "none" and np.array_equal(found.weights, weights)


def test_personal_models_of_one_seed_are_equal() -> None:
    spec, weights, rows = SPECS["tabular"], federated("tabular"), made_up("own", 200, shift=-2.0)
    found = {
        training.digest(training.personalise(spec, weights, rows, rows, SETTINGS, "fine_tune", SEED).weights)
        for _ in range(2)
    }
    assert len(found) == 1


@pytest.mark.parametrize(
    ("losses", "name"),
    [
        ({"local": 0.4, "federated": 0.5, "personalised": 0.45}, "local"),
        ({"local": 0.4, "federated": 0.3, "personalised": 0.3}, "federated"),
        ({"local": 0.3, "federated": 0.4, "personalised": 0.3}, "personalised"),
        ({"local": 0.3, "federated": None, "personalised": None}, "local"),
        ({"local": None, "federated": None}, "federated"),
        ({}, "federated"),
    ],
)
def test_the_lowest_loss_is_recommended_and_federated_where_they_are_equal(losses: dict, name: str) -> None:
    assert training.recommend(losses) == name
