"""Attack 11: the platform solves for the bank's labels from the gradients that it is shown.

It knows its own columns X and its scores z_A, and after each round the sum Xᵀr over the residuals r = p(z) - y. The least
squares solution nearest to what it expects of r without labels is the best linear guess. Over the full batch it says hardly
more than the platform's own sub-score, which the finished model reveals anyway and the plan says so; over sixteen rows it
is the labels themselves. The contract knows no batch, and both roles refuse a round under its minimum of rows.
"""

import numpy as np
import pytest
from rounds_in_clear_sight import Training

from lianxin.crypto import canonical
from lianxin.federation import evaluation
from lianxin.federation.contract import parse_contract
from lianxin.federation.errors import PeerError

ROWS, FEATURES, ROUNDS, BATCH = 400, 6, 4, 16


def label_guesses(training, rows=None):
    """The platform's guess of each label: the residuals that explain its gradients best, away from its own forecast."""
    chosen = np.arange(training.rows) if rows is None else np.array(rows)
    design, guesses = training.design[chosen], []
    for played, gradient in enumerate(training.gradients):
        a0, a1, a2 = training.polynomial(played)
        z = training.seen_scores[played][chosen]
        forecast = a0 + a1 * z + a2 * z * z
        blind = forecast - forecast.mean()
        correction, *_ = np.linalg.lstsq(design.T, gradient - design.T @ blind, rcond=1e-9)
        guesses.append(forecast - (blind + correction))
    return np.mean(guesses, axis=0)


@pytest.fixture(scope="module")
def full(bank_key):
    training = Training(ROWS, FEATURES, bank_key)
    for attempt in range(ROUNDS):
        training.round(attempt)
    return training


def test_the_full_batch_tells_labels_no_better_than_the_platforms_own_sub_score(full):
    labels = full.labels.tolist()
    guessed = evaluation.auc(labels, label_guesses(full).tolist())
    sub_score = evaluation.auc(labels, scores_after(full).tolist())
    assert sub_score > 0.6, "the platform's fields do tell something"
    assert guessed <= sub_score + 0.02
    assert np.linalg.matrix_rank(np.stack(full.gradients)) <= FEATURES, "more rounds add no row of X"


def scores_after(training):
    """The platform's sub-score at its last weights."""
    return training.design @ training.weights.weights


def test_a_batch_of_sixteen_rows_gives_every_label_away_where_no_minimum_holds(bank_key):
    training = Training(ROWS, 20, bank_key, seed=12, least=1)
    chosen = np.random.default_rng(3).choice(ROWS, BATCH, replace=False)
    while len(set(training.labels[chosen])) < 2:
        chosen = np.random.default_rng(int(chosen[0]) + 4).choice(ROWS, BATCH, replace=False)
    training.round(0, np.isin(np.arange(ROWS), chosen).tolist())
    rows = sorted(chosen.tolist())
    guessed = label_guesses(training, rows)
    assert evaluation.auc(training.labels[rows].tolist(), guessed.tolist()) > 0.99


@pytest.mark.parametrize("live", [BATCH, 49])
def test_a_round_over_a_batch_is_refused_by_the_contracts_minimum(bank_key, live):
    training = Training(ROWS, FEATURES, bank_key)
    with pytest.raises(PeerError) as refused:
        training.round(0, [row < live for row in range(ROWS)])
    assert refused.value.rule == "OUT-ROWS"


def test_no_contract_can_name_a_batch_or_a_minimum_under_fifty_rows(full):
    record = dict(canonical.decode(canonical.encode(dict(full.contract.record))))
    for change in ({"batch": BATCH}, {"min_rows": BATCH}):
        with pytest.raises(PeerError) as refused:
            parse_contract({**record, **change})
        assert refused.value.rule == "C01"
