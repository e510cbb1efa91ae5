"""AUC, KS and curves against hand counts, scikit-learn and the laws they obey."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from sklearn.metrics import roc_curve as sklearn_roc_curve

from lianxin.federation import evaluation

ROWS = st.lists(st.tuples(st.integers(0, 1), st.integers(-5, 5)), min_size=2, max_size=60).filter(
    lambda rows: 0 < sum(label for label, _ in rows) < len(rows)
)


def _columns(rows):
    labels, scores = zip(*rows, strict=True)
    return np.array(labels), np.array(scores, dtype=float)


def test_auc_counts_won_pairs_and_half_of_the_tied_ones():
    assert evaluation.auc([1, 1, 0, 0], [3, 1, 2, 1]) == 2.5 / 4


def test_ks_is_the_largest_gap_between_the_two_cumulative_shares():
    assert evaluation.ks([1, 0, 1, 0, 0], [5, 4, 3, 2, 1]) == pytest.approx(2 / 3)


def test_ks_sees_a_score_that_ranks_the_wrong_way_round():
    assert evaluation.ks([0, 0, 1, 1], [4, 3, 2, 1]) == 1.0
    assert evaluation.auc([0, 0, 1, 1], [4, 3, 2, 1]) == 0.0


def test_a_constant_score_tells_nothing():
    assert evaluation.auc([0, 1, 0, 1], [7, 7, 7, 7]) == 0.5
    assert evaluation.ks([0, 1, 0, 1], [7, 7, 7, 7]) == 0.0


@settings(max_examples=60, deadline=None)
@given(ROWS)
def test_auc_and_ks_agree_with_scikit_learn_on_tied_scores(rows):
    labels, scores = _columns(rows)
    wrong, caught, _ = sklearn_roc_curve(labels, scores, drop_intermediate=False)
    assert evaluation.auc(labels, scores) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert evaluation.ks(labels, scores) == pytest.approx(np.abs(caught - wrong).max(), abs=1e-12)
    mine = evaluation.roc_curve(labels, scores)
    np.testing.assert_allclose(mine, (wrong, caught), atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(ROWS)
def test_auc_is_the_area_under_the_roc_curve_and_reverses_with_the_score(rows):
    labels, scores = _columns(rows)
    wrong, caught = evaluation.roc_curve(labels, scores)
    assert evaluation.auc(labels, scores) == pytest.approx(np.trapezoid(caught, wrong), abs=1e-12)
    assert evaluation.auc(labels, -scores) == pytest.approx(1 - evaluation.auc(labels, scores), abs=1e-12)


def test_ks_curves_walk_from_the_riskiest_score_to_all_rows():
    thresholds, bads, goods = evaluation.ks_curves([1, 0, 0, 1], [2.0, 1.0, 2.0, 3.0])
    assert thresholds.tolist() == [3.0, 2.0, 1.0]
    assert bads.tolist() == [0.5, 1.0, 1.0]
    assert goods.tolist() == [0.0, 0.5, 1.0]


def test_gini_is_twice_the_auc_less_one():
    assert evaluation.gini(0.75) == 0.5


@pytest.mark.parametrize("labels", [[], [0, 0, 0], [1, 1]])
def test_without_both_classes_no_figure_is_made_up(labels):
    scores = list(range(len(labels)))
    assert evaluation.auc(labels, scores) is None
    assert evaluation.ks(labels, scores) is None
    assert evaluation.gini(evaluation.auc(labels, scores)) is None
    assert evaluation.roc_curve(labels, scores) is None
    assert evaluation.ks_curves(labels, scores) is None


@pytest.mark.parametrize(
    ("labels", "scores", "message"),
    [
        ([0, 1], [1.0], "one length"),
        ([0, 2], [1.0, 2.0], "0 .good. or 1 .bad."),
        ([0, 1], [1.0, float("nan")], "not a number"),
    ],
    ids=["lengths", "labels", "nan"],
)
def test_unusable_input_is_refused_by_name(labels, scores, message):
    with pytest.raises(ValueError, match=message):
        evaluation.auc(labels, scores)
