"""Networks trained at a bank: same seed, same bytes; bounded and exact updates; what a peer may not send."""

import hashlib
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st
from torture import cases

from lianxin.crypto.randomness import Drbg
from lianxin.federation.errors import InputFault, PeerError, RunStopped
from lianxin.parties import training, training_shapes, training_updates
from lianxin.parties.preparation import Prepared, joined
from lianxin.simulations import clear_networks

SEED = b"s" * 32
SPECS = {
    "logistic": training.NetworkSpec("logistic", 3, (4, 3), (8,), 2),
    "mlp": training.NetworkSpec("mlp", 3, (4, 3), (8, 5), 2),
    "tabular": training.NetworkSpec("tabular", 3, (4, 3), (8, 5), 2),
}
BARE = [training.NetworkSpec(model, *inputs, (4,), 2) for model in SPECS for inputs in ((3, ()), (0, (5,)))]
SETTINGS = training.LocalSettings(epochs=2, batch_rows=32, rate=0.05)
models = pytest.mark.parametrize("model", sorted(SPECS))


def uniform(drbg: Drbg, *shape: int) -> np.ndarray:
    return np.frombuffer(drbg.bytes(8 * int(np.prod(shape))), dtype="<u8").reshape(shape) / 2.0**64


def made_up(name: str, rows: int, spec: training.NetworkSpec = SPECS["mlp"], shift: float = 0.0) -> Prepared:
    """Return rows whose bads follow the first number, a bend in the second and the first category."""
    drbg = Drbg(b"t" * 32).child(name)
    numbers = (4 * uniform(drbg, rows, 3) - 2).astype(np.float32)[:, : spec.numeric]
    drawn = [np.floor(uniform(drbg, rows) * size).astype(np.int64) for size in spec.categories]
    places = np.stack(drawn, axis=1) if drawn else np.zeros((rows, 0), dtype=np.int64)
    odds = shift + (numbers[:, 0] + np.abs(numbers[:, 1]) - 1 if spec.numeric else 0.0)
    odds = odds + (1.5 * (places[:, 0] == 2) if spec.categories else 0.0)
    labels = (uniform(drbg, rows) < 1 / (1 + np.exp(-2 * odds))).astype(np.int64)
    return Prepared(numbers, places, labels)


def trained(model: str, name: str = "rows", rows: int = 200, **changes: object) -> training.LocalOutcome:
    spec = SPECS[model]
    settings = replace(SETTINGS, **changes)  # type: ignore[arg-type]
    return training.train_local(spec, training.initial(spec, SEED), made_up(name, rows), settings, SEED, 3)


@pytest.mark.parametrize(
    "spec", [*SPECS.values(), *BARE], ids=lambda spec: f"{spec.model}-{spec.numeric}-{len(spec.categories)}"
)
def test_the_shapes_are_those_of_the_module_and_every_row_has_a_probability(spec: training.NetworkSpec) -> None:
    module = training.build(spec, training.initial(spec, SEED))
    assert {n: tuple(p.shape) for n, p in module.named_parameters()} == dict(training.shapes(spec))
    assert np.array_equal(training.weights_of(module, spec), training.initial(spec, SEED))
    rows = made_up("bare", 60, spec)
    outcome = training.train_local(spec, training.initial(spec, SEED), rows, SETTINGS, SEED)
    chances = training.predict(spec, outcome.weights, rows)
    assert chances.shape == (60,) and ((chances > 0) & (chances < 1)).all() and outcome.update.any()
    assert training.NetworkSpec.from_record(spec.to_record()) == spec


@models
def test_flat_weights_and_parameters_are_the_same_numbers(model: str) -> None:
    spec, weights = SPECS[model], training.initial(SPECS[model], SEED)
    assert np.array_equal(training.flatten(training.unflatten(spec, weights)), weights)
    assert np.array_equal(training.weights_from_bytes(spec, training.bytes_of(weights)), weights)
    assert training.digest(weights) == hashlib.sha256(weights.astype("<f4").tobytes()).hexdigest()
    with pytest.raises(ValueError, match="weights for a network"):
        training.unflatten(spec, weights[:-1])


@models
def test_five_trainings_from_one_seed_give_the_same_bytes(model: str) -> None:
    assert len({training.digest(trained(model).weights) for _ in range(5)}) == 1


def test_another_process_gives_the_same_bytes_whatever_its_threads_and_its_global_seed() -> None:
    code = (
        "import torch; torch.set_num_threads(2); torch.manual_seed(7)\n"
        "import test_training as t\n"
        "print(*(t.training.digest(t.trained(m).weights) for m in sorted(t.SPECS)))\n"
        "print(torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(), torch.initial_seed())"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT / "tests", capture_output=True, text=True, check=True, timeout=100
    ).stdout.split()
    assert found == [*(training.digest(trained(model).weights) for model in sorted(SPECS)), "2", "False", "7"]


def test_training_neither_draws_from_nor_seeds_the_global_generator() -> None:
    before = torch.get_rng_state()
    trained("tabular")
    assert torch.equal(before, torch.get_rng_state())


def test_another_seed_another_order_and_other_rows_give_other_weights() -> None:
    spec = SPECS["mlp"]
    start, rows = training.initial(spec, SEED), made_up("rows", 200)
    other = training.train_local(spec, start, rows, SETTINGS, b"o" * 32)
    digests = {
        training.digest(w) for w in (start, trained("mlp").weights, other.weights, trained("mlp", "more").weights)
    }
    assert len(digests) == 4
    assert training.digest(training.initial(spec, b"o" * 32)) != training.digest(start)


def test_the_first_weights_are_fixed_for_ever() -> None:
    weights = training.initial(SPECS["tabular"], SEED)
    assert training.digest(weights) == FIRST
    assert (
        not weights[-6:].any() and training.predict(SPECS["tabular"], weights, made_up("rows", 5)).tolist() == [0.5] * 5
    )


FIRST = "aad91cbe2ca6db951277c1d2369ccfd4ddc74f59bd8e567f5595cecf70983d88"


@models
def test_more_training_lowers_the_loss(model: str) -> None:
    spec, rows, start = SPECS[model], made_up("rows", 400), training.initial(SPECS[model], SEED)
    outcome = training.train_local(spec, start, rows, replace(SETTINGS, epochs=10), SEED)
    before, after = training.log_loss(spec, start, rows), training.log_loss(spec, outcome.weights, rows)
    assert before == pytest.approx(np.log(2)) and after is not None and after < 0.85 * np.log(2)
    assert outcome.steps == 10 * 13 and outcome.rows == 400 and abs(outcome.loss - after) < 0.1


def test_bends_are_learnt_by_tabular_and_not_by_logistic() -> None:
    train, test, settings = made_up("rows", 1000), made_up("held out", 1000), replace(SETTINGS, epochs=10)

    def loss(spec: training.NetworkSpec) -> float:
        weights = training.train_local(spec, training.initial(spec, SEED), train, settings, SEED).weights
        return training.log_loss(spec, weights, test) or 9.0

    losses = {model: loss(spec) for model, spec in SPECS.items()}
    assert losses["tabular"] < losses["logistic"] - 0.03 and losses["mlp"] < losses["logistic"] - 0.03


@models
def test_the_update_is_scaled_to_the_norm_bound_and_the_weights_say_so(model: str) -> None:
    free, bound = trained(model, norm_bound=1e9), trained(model, norm_bound=0.01)
    assert not free.scaled and bound.scaled
    assert np.sqrt((bound.update**2).sum()) == pytest.approx(0.01)
    assert np.allclose(bound.update, free.update * 0.01 / np.sqrt((free.update**2).sum()))
    start = training.initial(SPECS[model], SEED)
    assert np.array_equal(bound.weights, (start + bound.update).astype(np.float32))


def test_a_proximal_weight_holds_the_weights_near() -> None:
    norms = [np.sqrt((trained("mlp", proximal=weight, norm_bound=1e9).update ** 2).sum()) for weight in (0.0, 0.5, 5.0)]
    assert norms[0] > norms[1] > norms[2] > 0


def test_weighted_bads_raise_the_probabilities() -> None:
    spec, rows = SPECS["mlp"], made_up("rows", 200)
    mean = [
        training.predict(spec, trained("mlp", positive_weight=w, norm_bound=1e9).weights, rows).mean()
        for w in (1.0, 5.0)
    ]
    assert mean[1] > mean[0] + 0.05


@models
def test_training_that_runs_away_stops_the_run_and_says_what_to_lower(model: str) -> None:
    with pytest.raises(
        RunStopped, match=r"local training of round 3 gave numbers that are none .* lower local_rate_mill"
    ):
        trained(model, rate=1e38)


def test_no_rows_stop_the_round_and_one_class_or_one_row_does_not() -> None:
    spec, start = SPECS["tabular"], training.initial(SPECS["tabular"], SEED)
    rows = made_up("rows", 50)
    with pytest.raises(RunStopped, match="no training row is left for round 4"):
        training.train_local(spec, start, rows.take([]), SETTINGS, SEED, 4)
    for few in (rows.take([0]), rows.take(rows.labels == 0)):
        assert np.isfinite(training.train_local(spec, start, few, SETTINGS, SEED).weights).all()
    assert training.predict(spec, start, rows.take([])).shape == (0,)
    assert training.log_loss(spec, start, rows.take([])) is None


BAD = {
    "a list": lambda w: w.tolist(),
    "bytes": lambda w: w.tobytes(),
    "float64": lambda w: w.astype(np.float64),
    "integers": lambda w: w.astype(np.int32),
    "objects": lambda w: w.astype(object),
    "one short": lambda w: w[:-1],
    "another shape": lambda w: w.reshape(1, -1),
    "NaN": lambda w: np.where(np.arange(len(w)) == 3, np.nan, w).astype(np.float32),
    "infinite": lambda w: np.where(np.arange(len(w)) == 3, np.inf, w).astype(np.float32),
}


@pytest.mark.parametrize("bad", sorted(BAD))
def test_weights_that_do_not_fit_are_refused_by_rule(bad: str) -> None:
    weights = training.initial(SPECS["mlp"], SEED)
    with pytest.raises(PeerError) as refused:
        training.received_weights(SPECS["mlp"], BAD[bad](weights))
    assert refused.value.rule == "NN01"
    assert np.array_equal(training.received_weights(SPECS["mlp"], weights), weights)


@pytest.mark.parametrize(
    "change", [{"model": "tree"}, {"numeric": -1}, {"hidden": [0]}, {"hidden": 3}, {"more": 1}, {"categories": ["a"]}]
)
def test_a_shape_that_is_none_is_refused(change: dict) -> None:
    with pytest.raises(InputFault, match="damaged"):
        training.NetworkSpec.from_record({**SPECS["mlp"].to_record(), **change})


@given(st.lists(st.floats(-1, 1, width=32), min_size=4, max_size=20), st.integers(8, 40))
@cases(1000, per_example=4)  # numbers, four or more each
def test_an_update_comes_back_from_its_whole_numbers_within_half_a_step(numbers: list[float], bits: int) -> None:
    update, _ = training.within_bound(np.array(numbers, dtype=np.float32), 3.0)
    whole = training.quantise(update, bits, 3.0)
    assert whole.dtype == np.int64 and np.abs(whole).max() <= 3.0 * 2**bits
    assert np.abs(training.dequantise(whole, bits) - update).max() <= 2.0 ** -(bits + 1)


def test_what_is_over_the_bound_or_no_number_is_refused_and_never_clipped() -> None:
    for update in ([3.1, 0.0], [np.nan, 0.0], [np.inf, 0.0], [2.5, 2.5]):
        with pytest.raises(RunStopped, match="nothing of it was sent"):
            training.quantise(np.array(update), 24, 3.0)
    assert training.within_bound(np.array([np.nan]), 1.0)[1] is False
    with pytest.raises(RunStopped, match="over no rows"):
        training.dequantise(np.zeros(2), 24, 0)


def test_banks_in_any_order_sum_to_the_same_weights() -> None:
    spec, start = SPECS["mlp"], training.initial(SPECS["mlp"], SEED)
    banks = {f"bank-{n}": made_up(f"bank {n}", 90 + 40 * n) for n in range(4)}
    runs = [
        clear_networks.federated(spec, start, dict(order), SETTINGS, 2, 24, SEED)
        for order in (banks.items(), reversed(banks.items()))
    ]
    assert training.digest(runs[0].weights) == training.digest(runs[1].weights)
    assert runs[0].losses == runs[1].losses and runs[0].losses[1] < runs[0].losses[0]


def test_one_round_is_the_average_of_the_banks_updates_weighted_by_rows() -> None:
    spec, start = SPECS["mlp"], training.initial(SPECS["mlp"], SEED)
    banks = {f"bank-{n}": made_up(f"bank {n}", 90 + 40 * n) for n in range(3)}
    run = clear_networks.federated(spec, start, banks, SETTINGS, 1, 30, SEED)
    seeds = {bank: clear_networks.derive_seed(SEED, bank, 1) for bank in banks}
    updates = [
        training.train_local(spec, start, rows, SETTINGS, seeds[bank]).update * rows.rows
        for bank, rows in banks.items()
    ]
    mean = np.sum(updates, axis=0) / sum(rows.rows for rows in banks.values())
    assert np.abs(run.weights - (start + mean)).max() < 1e-6


def test_federation_of_small_banks_is_near_pooled_and_better_than_any_alone() -> None:
    spec, start = SPECS["mlp"], training.initial(SPECS["mlp"], SEED)
    banks = {f"bank-{n}": made_up(f"few {n}", 80) for n in range(5)}
    test, args = made_up("held out", 2000), (replace(SETTINGS, epochs=5), 12, SEED)

    def loss(run: clear_networks.ClearRun) -> float:
        return training.log_loss(spec, run.weights, test) or 9.0

    together = loss(clear_networks.federated(spec, start, banks, args[0], args[1], 24, SEED))
    assert together < min(loss(clear_networks.local(spec, start, rows, *args)) for rows in banks.values())
    assert together < loss(clear_networks.pooled(spec, start, banks, *args)) + 0.02
    assert joined(list(banks.values())).rows == 400


def test_modules_without_torch_import_without_it() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import lianxin.parties.training_shapes, lianxin.parties.training_updates, lianxin.parties.preparation\n"
        "from lianxin.federation.errors import InputFault\n"
        "try:\n  import lianxin.parties.training\nexcept InputFault as fault:\n  print(fault)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=100)
    assert "pip install 'lianxin[nn]'" in found.stdout
    assert training_shapes.count(SPECS["mlp"]) == len(training.initial(SPECS["mlp"], SEED))
    assert training_updates.quantise is training.quantise
