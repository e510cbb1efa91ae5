"""Lift, calibration, stability, segments, leaks and importance: hand counts, laws, and the libraries that know them too."""

from datetime import date

import numpy as np
import polars as pl
import pytest
from conftest import SHARED
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2
from sklearn.metrics import brier_score_loss
from torture import cases

from lianxin.crypto.randomness import Drbg
from lianxin.federation import evaluation
from lianxin.federation import evaluation_calibration as calibration
from lianxin.federation import evaluation_importance as importance
from lianxin.federation import evaluation_leaks as leaks
from lianxin.federation import evaluation_lift as lift
from lianxin.federation import evaluation_segments as segments
from lianxin.federation import evaluation_stability as stability

RATED = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 20)), min_size=3, max_size=80).filter(
    lambda rows: 0 < sum(label for label, _ in rows) < len(rows)
)
SBA = SHARED / "data" / "sba_loans.csv.gz"


def rated(rows):
    labels, tenths = zip(*rows, strict=True)
    return np.array(labels), np.array(tenths) / 20


def well_calibrated(seed=1, rows=20_000):
    rng = np.random.default_rng(seed)
    predicted = rng.beta(1, 6, rows)
    return (rng.random(rows) < predicted).astype(int), predicted


# ---- lift


@cases(250)
@given(RATED)
def test_lift_groups_keep_equal_scores_together_and_end_with_everything(rows):
    labels, score = rated(rows)
    table, group = lift.lift_table(labels, score), lift.groups_by_score(score)
    for value in np.unique(score):
        assert np.unique(group[score == value]).size == 1
    assert (np.diff(group[np.argsort(-score, kind="stable")]) >= 0).all()
    assert sum(row.rows for row in table) == labels.size and sum(row.bads for row in table) == labels.sum()
    assert table[-1].caught == table[-1].flagged == 1.0 and table[-1].cumulative_lift == pytest.approx(1.0)


def test_a_table_of_lift_by_hand():
    table = lift.lift_table([1, 1, 0, 1, 0, 0, 0, 0, 0, 0], [9, 9, 8, 7, 6, 5, 4, 3, 2, 1], groups=5)
    assert [(row.rows, row.bads) for row in table] == [(2, 2), (2, 1), (2, 0), (2, 0), (2, 0)]
    assert [row.lift for row in table[:2]] == pytest.approx([1 / 0.3, 0.5 / 0.3])
    assert table[1].cumulative_lift == pytest.approx(0.75 / 0.3)
    assert (table[0].caught, table[1].caught, table[1].flagged) == pytest.approx((2 / 3, 1.0, 1 / 7))
    assert table[0].bad_rate == 1.0


def test_a_constant_score_is_one_group_without_lift():
    (row,) = lift.lift_table([1, 0, 0], [2.0, 2.0, 2.0])
    assert (row.rows, row.lift, row.caught) == (3, 1.0, 1.0)
    assert lift.lift_table([0, 0], [1.0, 2.0]) is None


# ---- calibration


@cases(250)
@given(RATED)
def test_the_parts_of_brier_add_up_and_the_whole_is_scikit_learns(rows):
    labels, predicted = rated(rows)
    found = calibration.brier(labels, predicted)
    assert found.score == pytest.approx(brier_score_loss(labels, predicted), abs=1e-12)
    parts = found.reliability - found.resolution + found.uncertainty + found.within
    assert parts == pytest.approx(found.score, abs=1e-12)
    assert found.reliability >= 0 and found.resolution >= 0


@pytest.mark.parametrize(("is_fitted", "degrees"), [(False, 10), (True, 8)], ids=["held-out", "fitted"])
def test_hosmer_lemeshow_is_the_sum_over_groups_and_its_tail(is_fitted, degrees):
    labels, predicted = well_calibrated()
    found, group = calibration.hosmer_lemeshow(labels, predicted, is_fitted=is_fitted), lift.groups_by_score(predicted)
    total = 0.0
    for k in range(10):
        rows = group == k
        expected = predicted[rows].sum()
        total += (labels[rows].sum() - expected) ** 2 / (expected * (1 - expected / rows.sum()))
    assert found.statistic == pytest.approx(total) and found.degrees == degrees
    assert found.p == pytest.approx(chi2.sf(total, degrees))


def test_hosmer_lemeshow_passes_right_probabilities_and_fails_wrong_ones():
    found = [calibration.hosmer_lemeshow(*well_calibrated(seed)).p for seed in range(40)]
    assert np.mean(np.array(found) < 0.05) < 0.2
    labels, predicted = well_calibrated()
    assert calibration.hosmer_lemeshow(labels, predicted * 0.8).p < 1e-6
    sure = np.where(np.arange(labels.size) % 2, 0.0, predicted)
    assert calibration.hosmer_lemeshow(labels, sure).p == 0.0


def test_bands_hold_right_probabilities_and_not_halved_ones():
    labels, predicted = well_calibrated()
    right, halved = calibration.pd_bands(labels, predicted), calibration.pd_bands(labels, predicted / 2)
    assert sum(band.rows for band in right) == labels.size and sum(band.bads for band in right) == labels.sum()
    assert sum(band.holds for band in right) >= len(right) - 1 and sum(band.holds for band in halved) <= 3
    assert all(band.lower <= band.predicted <= band.upper for band in right)


def test_a_probability_on_an_edge_is_in_the_upper_band():
    (band,) = calibration.pd_bands([0, 1], [0.02, 0.02])
    assert (band.lower, band.upper) == (0.02, 0.04)


@pytest.mark.parametrize(
    ("bads", "rows", "low", "high"), [(0, 10, 0.0, 0.27754), (5, 10, 0.23659, 0.76341), (10, 10, 0.72246, 1.0)]
)
def test_wilsons_interval_is_the_published_one(bads, rows, low, high):
    assert calibration.wilson(bads, rows) == pytest.approx((low, high), abs=1e-5)


def test_odds_are_put_right_after_sampling_and_back():
    labels, predicted = well_calibrated(3, 200_000)
    keep = (labels == 1) | (np.arange(labels.size) % 5 == 0)
    sampled, base = labels[keep].mean(), labels.mean()
    moved = calibration.prior_corrected(predicted, base, sampled)
    assert moved[keep].mean() == pytest.approx(sampled, abs=0.005)
    np.testing.assert_allclose(calibration.prior_corrected(moved, sampled, base), predicted, atol=1e-9)


def test_scores_that_are_no_probabilities_are_refused():
    with pytest.raises(ValueError, match="no probabilities"):
        calibration.brier([0, 1], [0.2, 1.2])
    with pytest.raises(ValueError, match="strictly between"):
        calibration.prior_corrected([0.5], 0.0, 0.1)
    with pytest.raises(ValueError, match="edges of bands rise"):
        calibration.pd_bands([0, 1], [0.2, 0.3], (0.5, 0.2))


# ---- stability


def test_the_stability_index_by_hand_and_its_grades():
    found = stability.stability_of_counts([50, 30, 20], [40, 30, 30])
    assert found.index == pytest.approx(-0.1 * np.log(0.8) + 0.1 * np.log(1.5))
    assert [stability.Stability(value, 0.0).grade for value in (0.099, 0.1, 0.25)] == ["stable", "watch", "shifted"]


@cases(250)
@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=1, max_size=12))
def test_the_index_is_never_negative_and_symmetric_and_bins_that_are_empty_twice_do_nothing(pairs):
    first, second = (list(column) for column in zip(*pairs, strict=True))
    found = stability.stability_of_counts(first, second)
    if not sum(first) or not sum(second):
        assert found is None
        return
    assert found.index >= -1e-12 and np.isfinite(found.index)
    assert stability.stability_of_counts(second, first).index == pytest.approx(found.index)
    assert stability.stability_of_counts([*first, 0], [*second, 0]) == found


def test_an_empty_bin_gets_half_a_row_in_both_samples():
    found = stability.stability_of_counts([10, 0], [5, 5])
    assert found.index == pytest.approx(stability.stability_of_counts([21, 1], [11, 11]).index)


def test_two_samples_of_one_population_differ_by_chance_and_a_shift_is_seen():
    rng = np.random.default_rng(1)
    found = [stability.stability_of_scores(rng.normal(size=900), rng.normal(size=300)) for _ in range(100)]
    assert np.mean([one.index for one in found]) == pytest.approx(found[0].by_chance, rel=0.25)
    assert stability.stability_of_scores(rng.normal(size=900), rng.normal(size=900) + 1).grade == "shifted"
    assert stability.stability_of_scores([1.0] * 5, [1.0] * 9).index == 0.0
    assert stability.stability_of_scores([], [1.0]) is None


def test_bin_numbers_outside_are_refused():
    with pytest.raises(ValueError, match="outside 0 to 2"):
        stability.stability_of_codes([0, 3], [1], 3)
    with pytest.raises(ValueError, match="same bins"):
        stability.stability_of_counts([1, 2], [1])


# ---- segments and dates


def test_segments_count_firms_and_keep_the_small_ones_unnamed():
    labels = [k % 2 for k in range(300)]
    values = ["a"] * 150 + ["b"] * 100 + ["c"] * 50
    firms = [*range(150), *[k // 2 for k in range(100)], *([7] * 50)]
    found = segments.segments(labels, values, firms, "trade")
    assert list(found.rows) == ["trade=a", "trade=b"] and found.too_small == 1
    assert found.rows["trade=b"].tolist() == list(range(150, 250))
    assert not segments.segments([0] * 300, values, firms).rows


def test_a_number_of_many_values_is_cut_into_fifths():
    found = segments.segments([k % 2 for k in range(500)], [*range(499), None], list(range(500)), "sum")
    assert sorted(rows.size for rows in found.rows.values()) == [99, 100, 100, 100, 100] and found.too_small == 1
    assert np.concatenate(list(found.rows.values())).size == 499


@pytest.mark.parametrize(
    ("values", "permille", "late"),
    [
        (["2024-01-01", "2025-01-01", "2023-01-01", None, "2025-01-01"], 250, [1, 4]),
        ([1, 2, 3, 4, 5, 6, 7, 8, 9, 10], 200, [8, 9]),
        ([3, 3, 3], 300, []),
        ([], 200, []),
        ([None, ""], 200, []),
    ],
    ids=["dates", "numbers", "one", "none", "missing"],
)
def test_the_latest_rows_are_those_of_the_latest_values(values, permille, late):
    assert segments.latest(values, permille).tolist() == late


def test_dates_of_two_kinds_are_refused():
    with pytest.raises(ValueError, match="both numbers and text"):
        segments.latest([2024, "2025-01-01"], 200)


# ---- leaks


def test_a_feature_that_holds_the_outcome_is_flagged_and_noise_of_many_levels_is_not():
    rng = np.random.default_rng(2)
    labels = (rng.random(6000) < 0.1).astype(int)
    columns = {
        "outcome": labels + rng.normal(0, 0.2, 6000),
        "turned": -labels + rng.normal(0, 0.2, 6000),
        "in the middle": np.where(labels == 1, 0.0, rng.choice([-1.0, 1.0], 6000) * rng.uniform(0.5, 2, 6000)),
        "only of bads": ["2025" if bad else None for bad in labels],
        "dated": [date(2025, 1, 1) if bad else date(2024, 1, 1) for bad in labels],
        "honest": rng.normal(size=6000) + labels,
        "noise": rng.permutation(6000).astype(float),
        "firm": [f"f{k}" for k in range(6000)],
    }
    found = leaks.leaks(labels.tolist(), {name: list(values) for name, values in columns.items()}, ("honest", "absent"))
    assert {leak.field: leak.reason for leak in found} == {
        "outcome": leaks.RANKS_TOO_WELL, "turned": leaks.RANKS_TOO_WELL, "in the middle": leaks.RANKS_TOO_WELL,
        "only of bads": leaks.RANKS_TOO_WELL, "dated": leaks.RANKS_TOO_WELL, "honest": leaks.AFTER_DECISION,
    }  # fmt: skip
    assert all(leaks.single_auc(labels.tolist(), list(columns[name])) < 0.58 for name in ("noise", "firm"))


def test_scoring_levels_on_their_own_rows_would_flag_pure_noise():
    """Without the two halves a column of many levels seems to know the outcome."""
    rng = np.random.default_rng(3)
    labels = (rng.random(3000) < 0.05).astype(int)
    level = rng.integers(0, 400, 3000)
    rates = np.bincount(level, labels, minlength=400) / np.maximum(np.bincount(level, minlength=400), 1)
    assert evaluation.auc(labels, rates[level]) > 0.85
    assert abs(leaks._crossed(labels, level) - 0.5) < 0.1


def test_a_platform_sees_a_leak_in_the_counts_of_its_bins():
    tables = {"judged": ([900, 10], [5, 85]), "staff": ([500, 410], [40, 50]), "empty": ([0, 0], [0, 0])}
    (leak,) = leaks.leaks_of_bins(tables)
    assert (leak.field, leak.reason) == ("judged", leaks.RANKS_TOO_WELL)
    labels = np.repeat([0, 1, 0, 1], [500, 40, 410, 50])
    scores = np.repeat([40 / 540, 40 / 540, 50 / 460, 50 / 460], [500, 40, 410, 50])
    assert leaks.auc_of_bins(*tables["staff"]) == pytest.approx(evaluation.auc(labels, scores))
    assert leaks.auc_of_bins([1, 2], [0, 0]) is None


@pytest.mark.skipif(not SBA.exists(), reason="shared/data is not beside the checkout")
def test_of_the_real_loans_exactly_the_fields_after_the_decision_are_flagged():
    frame = pl.read_csv(SBA, infer_schema_length=30_000)
    columns = {name: frame[name].to_list() for name in frame.columns if name != "Default"}
    found = leaks.leaks(frame["Default"].to_list(), columns, ("DisbursementDate", "DisbursementGross"))
    assert {leak.field for leak in found if leak.reason == leaks.RANKS_TOO_WELL} == {
        "Term",
        "ChgOffDate",
        "ChgOffPrinGr",
    }
    assert {leak.field for leak in found if leak.reason == leaks.AFTER_DECISION} == {
        "DisbursementDate",
        "DisbursementGross",
    }
    term = next(leak for leak in found if leak.field == "Term")
    assert 0.9 < term.auc < 0.95


# ---- importance


def parts_of(seed=1, rows=4000):
    rng = np.random.default_rng(seed)
    strong, weak, idle = rng.normal(size=(3, rows))
    labels = (rng.random(rows) < 1 / (1 + np.exp(2 - 2 * strong - 0.7 * weak))).astype(int)
    return labels, {"strong": 2 * strong, "weak": 0.7 * weak, "idle": 0 * idle}


def test_importance_orders_columns_by_what_they_bring():
    labels, parts = parts_of()
    blocks = {"platform": ("strong", "idle"), "strong": ("strong",), "weak": ("weak",), "idle": ("idle",)}
    found = importance.permutation_importance(labels, importance.additive(parts), blocks, Drbg(b"p" * 32))
    assert {item.block for item in found[:2]} == {"platform", "strong"}
    assert [item.block for item in found[2:]] == ["weak", "idle"]
    losses = {item.block: item for item in found}
    assert losses["idle"].loss == losses["idle"].high == 0.0
    assert losses["platform"].loss == pytest.approx(losses["strong"].loss, abs=0.02)
    assert losses["weak"].low <= losses["weak"].loss <= losses["weak"].high


def test_a_model_that_is_no_sum_is_asked_for_its_scores():
    labels, parts = parts_of()
    first, second = parts["strong"], parts["weak"]

    def tree(orders):
        whole = np.arange(labels.size)
        a, b = first[orders.get("strong", whole)], second[orders.get("weak", whole)]
        return np.where(a > 1, 2.0, np.where(b > 0, 1.0, 0.0))

    found = importance.permutation_importance(labels, tree, {"strong": ("strong",), "none": ()}, Drbg(b"p" * 32))
    assert found[0].block == "strong" and found[0].loss > 0.1 and found[1].loss == 0.0


def test_importance_is_the_same_for_the_same_seed_whatever_stands_beside_it():
    labels, parts = parts_of()
    score = importance.additive(parts)
    one = importance.permutation_importance(labels, score, {"weak": ("weak",)}, Drbg(b"p" * 32))
    both = importance.permutation_importance(labels, score, {"strong": ("strong",), "weak": ("weak",)}, Drbg(b"p" * 32))
    assert one[0] in both
    assert importance.permutation_importance([0] * 4000, score, {"weak": ("weak",)}, Drbg(b"p" * 32)) == ()


def test_a_permutation_has_every_row_once():
    assert sorted(importance.permutation(Drbg(b"q" * 32), 100)) == list(range(100))
