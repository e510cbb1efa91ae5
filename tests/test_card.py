"""A bank's scorecard: the refit as whole points, its chances of default, the rows that it scores."""

import itertools
import json
import math
from dataclasses import replace
from unittest import mock

import numpy as np
import pytest
from card_world import BANK, SPECS, made_card, made_up, woe_of
from conftest import SHARED
from conversations import contract_of
from worlds import finished, province  # noqa: F401

from lianxin.federation import evaluation, regression
from lianxin.federation.errors import InputFault, RunStopped
from lianxin.federation.points import HUNDREDTHS, FeaturePoints, PointsTable, bin_points, factor
from lianxin.parties.coding import fit_bins
from lianxin.parties.records import read_table
from lianxin.parties.scorecard_card import BANK_ONLY, JOINT, Calibration, Card, read_card
from lianxin.parties.scorecard_refit import Refit, Rows, is_separable, rank_correlation, totals_of

POLISH = SHARED / "data" / "polish_bankruptcy_5year.csv.gz"


@pytest.fixture(scope="module")
def made():
    return made_card()


# ---- the refit


def test_the_card_is_the_exact_regression_in_whole_points(made):
    card, scored, columns = made
    refit, _, training, _ = made_up()
    fitted = refit.fit(scored, training)
    got = [s.score for s in card.score(columns, scored.points)]
    assert got == totals_of(card.joint, scored).tolist()
    assert np.abs(np.array(got) - refit.exact(fitted.joint, scored)).max() <= 0.5 * (2 + len(SPECS))
    alone = [s.score for s in card.score(columns, [None] * len(got))]
    assert np.abs(np.array(alone) - refit.exact(fitted.bank_only, training)).max() <= 0.5 * (1 + len(SPECS))


def test_a_score_of_the_base_stands_for_the_base_odds_and_pdo_points_double_them(made):
    card, scored, _ = made
    refit, _, training, _ = made_up()
    exact = refit.exact(refit.fit(scored, training).joint, scored)
    z = regression.predict(refit.fit(scored, training).joint, refit.design(scored))
    odds = (1 - z) / z
    expected = card.base_score + factor(card.points_to_double_odds) * np.log(odds / card.base_odds)
    assert exact == pytest.approx(expected)


def test_the_cards_facts_say_what_rounding_changed(made):
    card, scored, _ = made
    effect = card.facts["rounding"]
    assert set(effect) == {"refit", "test"} and effect["refit"]["rows"] == len(scored.labels)
    assert 0 < effect["refit"]["mean_milli"] <= effect["refit"]["largest_milli"] <= 2000
    assert abs(effect["refit"]["auc_card_micro"] - effect["refit"]["auc_exact_micro"]) < 3000
    assert effect["refit"]["rank_micro"] > 999_000
    assert card.facts["separable"] is False and card.facts["sub_score_reversed"] is False


def test_the_rank_correlation_is_that_of_pairwise_midranks():
    draw = np.random.default_rng(1)
    one, other = draw.integers(0, 9, 60).astype(float), draw.integers(0, 9, 60)

    def ranks(v):
        return np.array([sum(v < x) + (sum(v == x) + 1) / 2 for x in v])

    assert rank_correlation(one, other) == pytest.approx(np.corrcoef(ranks(one), ranks(other))[0, 1])
    assert rank_correlation(one, np.zeros(60, dtype=int)) == 1.0


def test_the_chance_of_default_adds_up_to_the_bads_of_the_refit(made):
    card, scored, columns = made
    chances = [s.pd_micro / 10**6 for s in card.score(columns, scored.points)]
    assert sum(chances) == pytest.approx(sum(scored.labels), rel=0.001)
    bands = card.joint.calibration.bands
    assert sum(band[2] for band in bands) == len(scored.labels) and sum(band[3] for band in bands) == sum(scored.labels)
    assert all(low[1] < high[0] and low[4] > high[4] for low, high in itertools.pairwise(bands))


def test_another_base_rate_moves_the_log_odds_by_the_difference_of_the_rates(made):
    card, scored, columns = made
    moved = card.at_base_rate(20_000)
    for before, after in zip(card.score(columns, scored.points), moved.score(columns, scored.points), strict=True):
        assert before.score == after.score and before.reasons == after.reasons
    line, there = card.joint.calibration, moved.joint.calibration
    rate = sum(scored.labels) / len(scored.labels)
    shift = math.log(0.02 / 0.98) - math.log(rate / (1 - rate))
    assert (there.intercept_micro - line.intercept_micro) / 10**6 == pytest.approx(shift, abs=1e-5)
    assert there.slope_nano == line.slope_nano
    assert moved.bank_only.calibration.bad_rate_micro == 20_000
    for wrong in (0, 10**6, -5):
        with pytest.raises(InputFault, match="between 0 and 1"):
            card.at_base_rate(wrong)


def test_the_chance_does_not_overflow_at_any_score():
    line = Calibration(0, -50_000_000, 200_000)
    assert (line.chance_micro(-(10**6)), line.chance_micro(10**6), line.chance_micro(0)) == (10**6, 0, 500_000)


# ---- bad input


def test_one_class_of_the_label_stops_by_name():
    refit, scored, training, _ = made_up()
    with pytest.raises(RunStopped, match=r"bank-1's rows with score consent hold one class"):
        refit.fit(replace(scored, labels=[0] * len(scored.labels)), training)
    with pytest.raises(RunStopped, match=r"bank-1's training rows hold one class"):
        refit.fit(scored, replace(training, labels=[1] * len(training.labels)))


def test_perfect_separation_stays_finite_and_is_flagged():
    refit, scored, training, columns = made_up()
    labels = [int(p < 0) for p in scored.points]
    apart, own = replace(scored, labels=labels), replace(training, labels=labels)
    card = refit.card(refit.fit(apart, own), apart, own, Rows([[], []], [], []), {})
    assert card.facts["separable"] is True and "test" not in card.facts["rounding"]
    assert all(0 <= s.pd_micro <= 10**6 and abs(s.score) < 10**5 for s in card.score(columns, scored.points))
    assert not is_separable(np.array([1.0, 2.0, 2.0]), [1, 1, 0]) and is_separable(np.array([1.0, 2.0]), [1, 0])


def test_a_refit_that_does_not_settle_says_what_to_change():
    refit, scored, training, _ = made_up()
    fault = regression.FitNotConverged("x")
    with (
        mock.patch.object(regression, "fit_logistic", side_effect=fault),
        pytest.raises(RunStopped, match="raise ridge_thousandths"),
    ):
        refit.fit(scored, training)


def test_a_sub_score_that_tells_the_wrong_way_is_flagged_and_loses_points_against_its_best():
    refit, scored, training, columns = made_up(slope=-1.0)
    card = refit.card(refit.fit(scored, training), scored, training, Rows([[], []], [], []), {})
    assert card.facts["sub_score_reversed"] is True and card.joint.multiplier_micro < 0
    best, worst = (card.score({n: c[:1] for n, c in columns.items()}, [p])[0] for p in (min(scored.points), 500))
    assert "A-00" not in best.reasons and worst.reasons[0] == "A-00"


def test_a_bank_without_features_of_its_own_has_a_card_of_the_sub_score_alone():
    _, scored, _, _ = made_up()
    refit = Refit(contract_of(banks=1), BANK, {}, [])
    bare, own = Rows([], scored.labels, scored.points), Rows([], scored.labels)
    card = refit.card(refit.fit(bare, own), bare, own, bare, {})
    (with_points, without) = card.score({}, [60, None])
    assert with_points.model == JOINT and without.model == BANK_ONLY
    assert without.pd_micro / 10**6 == pytest.approx(sum(scored.labels) / len(scored.labels), abs=0.001)
    assert read_card(json.loads(json.dumps(card.to_record()))) == card


# ---- scoring rows


def test_missing_and_unseen_values_are_scored_in_bins_of_theirs(made):
    card, *_ = made
    columns = {"g0": [None, 1e12, "text"], "g1": ["never seen", None, 7]}
    earned = [s.score - card.joint.base_points for s in card.score(columns, [0, 0, 0])]
    first, second = (feature.points for feature in card.joint.features)
    assert earned == [first[0] + second[2], first[2] + second[1], first[0] + second[2]]


def test_a_column_that_is_not_there_is_named(made):
    card, *_ = made
    with pytest.raises(InputFault, match="no column g1, which the scorecard of run test-run-1 needs"):
        card.score({"g0": [1.0]}, [0])


def test_a_row_without_sub_score_is_scored_by_the_banks_own_card_and_says_so(made):
    card, _, columns = made
    one = {name: column[:2] for name, column in columns.items()}
    both = card.score(one, [None, 10])
    assert [s.model for s in both] == [BANK_ONLY, JOINT]
    alone = card.without_platform()
    assert alone.score(one, [None, None])[0] == both[0] and "A-00" not in both[0].reasons
    with pytest.raises(InputFault, match="row 1 has no platform_points"):
        replace(card, bank_only=None).score(one, [None, 10])


def test_reasons_name_what_cost_most_of_both_parties(made):
    card, *_ = made
    low = min(range(3), key=lambda b: card.joint.features[0].points[b])
    worst = {"g0": [(0.5, 1.5, 2.5)[low]], "g1": ["shop"]}
    (score,) = card.score(worst, [-50], [[3, 1]])
    lost = card.platform_best - card.joint.platform_part(-50)
    own = card.joint.features[0].best - card.joint.features[0].points[low]
    assert own > 0 and lost > 0
    assert {"A-03", "A-01", "B-01"} <= set(score.reasons) and score.reasons.index("A-03") < score.reasons.index("A-01")
    assert card.texts()["B-01"] == "years in business" and card.texts()["A-03"] == "f2"
    (mean,) = card.score(worst, [card_points_at_mean(card)], against="mean")
    assert "A-00" not in mean.reasons
    with pytest.raises(InputFault, match="best, mean"):
        card.score(worst, [0], against="median")


def card_points_at_mean(card: Card) -> int:
    return next(p for p in range(-461, 462) if card.joint.platform_part(p) >= card.platform_mean)


def test_no_platform_value_bin_or_point_is_in_a_card(made):
    card, *_ = made
    told = card.to_record()
    assert {entry["field"] for entry in told["platform_reasons"]} == {f"f{k}" for k in range(6)}
    assert all(set(entry) == {"number", "code", "field", "text"} for entry in told["platform_reasons"])
    assert {entry["field"] for entry in told["features"]} == {"g0", "g1"}


# ---- how near whole points stay to the exact model


@pytest.mark.skipif(not POLISH.exists(), reason="shared/data is not beside the checkout")
def test_the_refit_on_whole_points_is_as_good_as_pooled_regression_on_real_rows():
    """Polish firms, 33 platform features: the hardest for rounding. Sub-scores in clear at the pooled weights."""
    bins, labels, train = _polish()
    split = 33
    coded = [np.array(woe_of(c[train].tolist(), labels[train].tolist(), int(c.max()) + 1)) for c in bins]
    design = np.stack([w[c] / 4096 for w, c in zip(coded, bins, strict=True)], axis=1)
    pooled = regression.fit_logistic(design[train], labels[train], 1.0)
    best = evaluation.auc(labels[~train], (design @ pooled[1:])[~train])
    gaps = {}
    for units in (1, HUNDREDTHS):
        features = tuple(
            FeaturePoints(str(k), bin_points(float(w), c.tolist(), 20, units), (1,) * len(c))
            for k, (w, c) in enumerate(zip(pooled[1:], coded[:split], strict=False))
        )
        points = PointsTable(features, 20, units).sums(bins[:split])
        joined = np.column_stack([-points / factor(20), design[:, split:]])
        fitted = regression.fit_logistic(joined[train], labels[train], 1.0)
        gaps[units] = abs(evaluation.auc(labels[~train], (joined @ fitted[1:])[~train]) - best)
    assert gaps[HUNDREDTHS] <= 0.0005 < gaps[1]


def _polish() -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Return the columns in bins (33 of the platform, then 20 of the bank), the labels, and which rows train."""
    table = read_table(POLISH)
    own = {2, 3, 4, 6, 8, 10, 17, 25, 28, 29, 37, 38, 40, 46, 50, 51, 53, 54, 55, 59}
    names = [n for n in table.columns if n.startswith("Attr")]
    names = [n for n in names if int(n[4:]) not in own][:33] + [n for n in names if int(n[4:]) in own]
    train = np.array(table.column("split")) == "train"
    bins = []
    for name in names:
        column = table.column(name)
        spec = fit_bins([v for v, used in zip(column, train, strict=True) if used], 8, 50)
        bins.append(np.array(spec.encode(column)))
    return bins, np.array(table.column("bankrupt")), train
