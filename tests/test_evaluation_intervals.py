"""Intervals and paired tests: against the quadratic definitions, each other, and the frequencies they promise."""

import numpy as np
import polars as pl
import pytest
from conftest import SHARED
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn.linear_model import LogisticRegression
from torture import cases, repeats

from lianxin.crypto.randomness import Drbg
from lianxin.federation import evaluation
from lianxin.federation import evaluation_intervals as intervals

TAIWAN = SHARED / "data" / "taiwan_default_raw.csv.gz"
GUEST = ["PAY_6", *(f"BILL_AMT{k}" for k in range(1, 7)), *(f"PAY_AMT{k}" for k in range(1, 7))]
HOST = ["LIMIT_BAL", "SEX", "EDUCATION", "MARRIAGE", "AGE", "PAY_0", "PAY_2", "PAY_3", "PAY_4", "PAY_5"]
ROWS = st.lists(
    st.tuples(st.integers(0, 1), st.integers(-4, 4), st.integers(-4, 4), st.integers(0, 8)), min_size=4, max_size=40
).filter(lambda rows: 2 <= sum(row[0] for row in rows) <= len(rows) - 2)


def drbg(number: int = 1) -> Drbg:
    return Drbg(number.to_bytes(32, "big"))


def columns(rows):
    return tuple(np.array(column) for column in zip(*rows, strict=True))


def naive_kernels(labels, scores):
    """Return m x n of won pairs, ties one half: the definition."""
    bads, goods = scores[labels == 1][:, None], scores[labels == 0][None, :]
    return (bads > goods) + 0.5 * (bads == goods)


def naive_delong(labels, scores):
    wins = [naive_kernels(labels, one) for one in scores]
    bads = np.array([win.mean(axis=1) for win in wins])
    goods = np.array([win.mean(axis=0) for win in wins])
    covariance = np.atleast_2d(np.cov(bads)) / bads.shape[1] + np.atleast_2d(np.cov(goods)) / goods.shape[1]
    return np.array([win.mean() for win in wins]), covariance


def naive_obuchowski(labels, score, firms):
    """Return the clustered variance of one AUC, firm by firm as the paper writes it."""
    win = naive_kernels(labels, score)
    area, (m, n) = win.mean(), win.shape
    of_bads, of_goods = win.mean(axis=1), win.mean(axis=0)
    names = sorted(set(firms.tolist()))
    x = [(of_bads[firms[labels == 1] == f] - area).sum() for f in names]
    y = [(of_goods[firms[labels == 0] == f] - area).sum() for f in names]
    with_bads, with_goods = len(set(firms[labels == 1])), len(set(firms[labels == 0]))
    s10 = with_bads / ((with_bads - 1) * m) * np.dot(x, x)
    s01 = with_goods / ((with_goods - 1) * n) * np.dot(y, y)
    s11 = len(names) / (len(names) - 1) * np.dot(x, y)
    return s10 / m + s01 / n + 2 * s11 / (m * n)


@cases(500)
@given(ROWS)
def test_areas_and_covariance_are_delongs_definition(rows):
    labels, first, second, _ = columns(rows)
    found = intervals.areas(labels, {"a": first, "b": second})
    values, covariance = naive_delong(labels, [first, second])
    np.testing.assert_allclose(found.values, values, atol=1e-12)
    np.testing.assert_allclose(found.covariance, covariance, atol=1e-12)
    assert found.values[0] == pytest.approx(evaluation.auc(labels, first), abs=1e-12)


@cases(500)
@given(ROWS)
def test_rows_of_one_firm_go_together_as_obuchowski_adds_them_up(rows):
    labels, score, _, firms = columns(rows)
    if min(len(set(firms[labels == 1])), len(set(firms[labels == 0]))) < 2:
        return
    found = intervals.areas(labels, {"a": score}, firms)
    assert found.covariance[0, 0] == pytest.approx(naive_obuchowski(labels, score, firms), abs=1e-12)


@cases(300)
@given(ROWS)
def test_a_pair_of_scores_swapped_turns_the_difference_round(rows):
    labels, first, second, _ = columns(rows)
    found = intervals.areas(labels, {"a": first, "b": second})
    one, other = found.paired("a", "b"), found.paired("b", "a")
    assert (one.difference, one.low, one.high) == pytest.approx((-other.difference, -other.high, -other.low), abs=1e-12)
    assert one.p == other.p and one.low <= one.difference <= one.high


def test_a_score_against_itself_differs_by_nothing():
    labels = np.array([1, 0, 1, 0, 0])
    score = np.array([5.0, 4, 3, 2, 1])
    found = intervals.areas(labels, {"a": score, "b": score * 10 + 3}).paired("a", "b")
    assert (found.difference, found.low, found.high, found.p) == (0.0, 0.0, 0.0, 1.0)


def made_up(seed, bads=60, goods=300, gain=1.0):
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.ones(bads, dtype=int), np.zeros(goods, dtype=int)])
    return labels, rng.normal(size=bads + goods) + gain * labels


def test_the_interval_of_auc_holds_the_true_one_as_often_as_it_says():
    truth, held = norm.cdf(1 / np.sqrt(2)), []
    for seed in repeats("coverage of AUC"):
        area = intervals.areas(*_named(*made_up(seed))).interval("a")
        held.append(area.low <= truth <= area.high)
    assert 0.925 < np.mean(held) < 0.975


def test_the_paired_test_rejects_equal_scores_as_often_as_it_says_and_finds_a_gain():
    rejected, found = [], []
    for seed in repeats("level of the paired test", 500):
        rng = np.random.default_rng(seed)
        labels = (rng.random(500) < 0.2).astype(int)
        common = rng.normal(size=500) + labels
        noisy = {name: common + rng.normal(size=500) for name in ("a", "b")}
        rejected.append(intervals.areas(labels, noisy).paired("a", "b").p < 0.05)
        better = {"a": noisy["a"] + 0.8 * labels, "b": noisy["b"]}
        found.append(intervals.areas(labels, better).paired("a", "b").low > 0)
    assert 0.02 < np.mean(rejected) < 0.09
    assert np.mean(found) > 0.9


def test_firms_with_several_rows_widen_an_interval_that_rows_alone_make_too_narrow():
    """Without the firms, ten copies of each row would look like ten times the evidence."""
    labels, score = made_up(3)
    firms = np.repeat(np.arange(360), 10)
    many = {"a": np.repeat(score, 10)}
    wide = intervals.areas(np.repeat(labels, 10), many, firms).interval("a")
    narrow = intervals.areas(np.repeat(labels, 10), many).interval("a")
    once = intervals.areas(labels, {"a": score}).interval("a")
    assert wide.high - wide.low == pytest.approx(once.high - once.low, rel=0.01)
    assert narrow.high - narrow.low < 0.4 * (once.high - once.low)


@pytest.mark.parametrize("firms", [None, "two loans each"], ids=["rows", "firms"])
def test_delong_agrees_with_the_bootstrap(firms):
    labels, score = made_up(5, 120, 600)
    firms = None if firms is None else np.arange(720) // 2
    area = intervals.areas(labels, {"a": score}, firms)
    value, drawn = intervals.resampled(labels, score, intervals.auc_of_counts, drbg(), firms)
    assert value == pytest.approx(evaluation.auc(labels, score), abs=1e-12)
    assert drawn.std() == pytest.approx(area.covariance[0, 0] ** 0.5, rel=0.12)


def test_the_interval_of_ks_holds_the_true_one_where_a_percentile_one_would_not(monkeypatch):
    monkeypatch.setattr(intervals, "RESAMPLES", 120)
    truth, held, percentile = 2 * norm.cdf(0.5) - 1, [], []
    for seed in range(100):
        labels, score = made_up(seed, 80, 320)
        found = intervals.ks_interval(labels, score, drbg(seed))
        held.append(found.low <= truth <= found.high)
        drawn = intervals.resampled(labels, score, _ks, drbg(seed))[1]
        percentile.append(np.quantile(drawn, 0.025) <= truth <= np.quantile(drawn, 0.975))
    assert np.mean(held) > 0.86 and np.mean(percentile) < 0.84


def test_the_same_seed_gives_the_same_interval_and_it_holds_the_value():
    labels, score = made_up(1)
    one, again, other = (intervals.ks_interval(labels, score, drbg(seed)) for seed in (1, 1, 2))
    assert one == again != other
    assert one.value == evaluation.ks(labels, score) and one.low <= one.value <= one.high


def test_a_score_that_separates_wholly_is_not_certain():
    labels = np.array([1, 1, 1, 0, 0, 0, 0])
    area = intervals.areas(labels, {"a": labels * 1.0}).interval("a")
    assert area.value == area.high == 1.0
    assert area.low == pytest.approx(0.025 ** (1 / 3))


@pytest.mark.parametrize("each", [2, 3, 5, 30])
def test_a_difference_that_is_the_same_in_every_row_is_not_certain(each):
    """As many pairs as the smaller class has rows would all differ so by chance, were there no difference, p of the time."""
    labels = np.repeat([1, 0], [each, each + 2])
    found = intervals.areas(labels, {"a": labels * 1.0, "none": labels * 0.0, "b": -labels * 1.0})
    half, whole, back = found.paired("a", "none"), found.paired("a", "b"), found.paired("none", "a")
    assert half.difference == 0.5 and half.p == pytest.approx(min(1.0, 2 * 1.5**-each))
    assert whole.difference == 1.0 and whole.p == pytest.approx(2 * 0.5**each) and whole.high == 1.0
    assert whole.low == pytest.approx(2 * 0.025 ** (1 / each) - 1)
    assert (back.low, back.high, back.p) == pytest.approx((-half.high, -half.low, half.p))
    for one in (half, whole):
        assert -1.0 <= one.low < one.difference <= one.high <= 1.0 and (one.low > 0) is (one.p < 0.05)


def test_two_scores_that_both_separate_wholly_are_not_known_to_be_equal():
    labels = np.array([1, 1, 1, 0, 0, 0])
    first, second = labels * 10 + np.arange(6), labels * 10 - np.arange(6)
    found = intervals.areas(labels, {"a": first, "b": second, "again": first * 2.0})
    reach = 1 - 0.025 ** (1 / 3)
    assert found.paired("a", "b") == intervals.Paired(0.0, -reach, reach, 1.0)
    assert found.paired("a", "again") == intervals.Paired(0.0, 0.0, 0.0, 1.0)


def test_one_bad_alone_leaves_the_whole_range_open():
    labels, score = np.array([1, 0, 0, 0]), np.array([4.0, 1, 2, 3])
    found = intervals.areas(labels, {"a": score, "b": -score})
    assert (found.interval("a").low, found.interval("a").high) == (0.0, 1.0)
    assert found.paired("a", "b").p == 1.0
    ks = intervals.ks_interval(labels, score, drbg())
    assert (ks.low, ks.high) == (0.0, 1.0)


@pytest.mark.parametrize("labels", [[0, 0, 0], [1, 1]], ids=["goods", "bads"])
def test_without_both_classes_there_is_no_interval(labels):
    scores = list(range(len(labels)))
    assert intervals.areas(labels, {"a": scores}) is None
    assert intervals.ks_interval(labels, scores, drbg()) is None


def test_gini_moves_with_the_auc():
    found = intervals.gini_interval(intervals.Interval(0.75, 0.7, 0.8))
    assert (found.value, found.low, found.high) == pytest.approx((0.5, 0.4, 0.6))


def test_few_bads_are_said_to_be_few():
    assert intervals.too_few(2600, 52).startswith("2,600 rows at 2.0 % give 52 bads: below 100")
    assert intervals.too_few(500, 450).startswith("500 rows at 10.0 % give 50 goods")
    assert intervals.too_few(5000, 100) == ""
    assert intervals.too_few_for_ks(500, 49).startswith(
        "49 bads: below 50 the interval of KS holds the true one less often"
    )
    assert intervals.too_few_for_ks(500, 470).startswith("30 goods: below 50")
    assert intervals.too_few_for_ks(500, 50) == intervals.too_few_for_ks(0, 0) == ""
    assert intervals.clustered(4, ["a", "a", "b", "c"]).startswith("4 rows are of 3 firms")
    assert intervals.clustered(3, ["a", "b", "c"]) == intervals.clustered(3, None) == ""


def test_firms_must_be_of_the_same_rows():
    with pytest.raises(ValueError, match="each of the 4 rows has a firm; 2 were given"):
        intervals.areas([0, 1, 0, 1], {"a": [1.0, 2, 3, 4]}, ["x", "y"])


def test_draws_are_even():
    drawn = np.bincount(np.concatenate([intervals._draws(drbg(k), 20) for k in range(500)]), minlength=20)
    assert (np.abs(drawn - 500) < 5 * 500**0.5).all()


def _named(labels, score):
    return labels, {"a": score}


def _ks(bads, goods):
    return float(np.abs(np.cumsum(bads) / bads.sum() - np.cumsum(goods) / goods.sum()).max())


@pytest.mark.skipif(not TAIWAN.exists(), reason="shared/data is not beside the checkout")
def test_on_real_loans_the_gain_of_joining_and_its_interval_are_the_known_ones():
    """Logistic regression on the split of a public benchmark; the interval known before was a paired bootstrap's."""
    frame = pl.read_csv(TAIWAN)
    is_test, labels = (frame["split"] == "test").to_numpy(), frame["y"].to_numpy()
    scores = {}
    for name, columns_ in (("bank_only", GUEST), ("joint", GUEST + HOST)):
        table = frame.select(columns_).to_numpy().astype(float)
        table = np.clip(table, *np.quantile(table[~is_test], (0.01, 0.99), axis=0))
        train = table[~is_test]
        fit = LogisticRegression(max_iter=500).fit((train - train.mean(0)) / train.std(0), labels[~is_test])
        scores[name] = fit.decision_function((table[is_test] - train.mean(0)) / train.std(0))
    found = intervals.areas(labels[is_test], scores)
    assert found.values == pytest.approx([0.6568, 0.7114], abs=2e-4)
    gain = found.paired("joint", "bank_only")
    assert (gain.difference, gain.low, gain.high) == pytest.approx((0.055, 0.039, 0.070), abs=2e-3)
    half = found.interval("joint")
    assert (half.high - half.low) / 2 == pytest.approx(0.016, abs=2e-3)
