"""Integer points and reason codes: one sign, sums that a table gives again exactly, codes that say nothing else."""

import json
import math

import numpy as np
import pytest
from conversations import contract_of
from hypothesis import given
from hypothesis import strategies as st
from torture import cases

from lianxin.federation import reasons
from lianxin.federation.errors import InputFault
from lianxin.federation.points import (
    HUNDREDTHS,
    FeaturePoints,
    PointsTable,
    bin_points,
    factor,
    log_odds,
    points_table,
    rounding,
    sub_score_limit,
)

WOES = st.lists(st.integers(-6 * 4096, 6 * 4096), min_size=2, max_size=8)
FEATURES = st.lists(st.tuples(st.floats(-1.5, 1.5), WOES), min_size=1, max_size=12)


def table_of(features: list[tuple[float, list[int]]], pdo: int, units: int) -> PointsTable:
    return PointsTable(
        tuple(
            FeaturePoints(f"f{k}", bin_points(weight, woe, pdo, units), (1,) * len(woe))
            for k, (weight, woe) in enumerate(features)
        ),
        pdo,
        units,
    )


def test_more_points_are_safer_and_pdo_points_double_the_odds_of_good():
    safer, riskier = bin_points(-1.0, [4096, -4096], 20)
    assert safer > 0 > riskier
    odds = [math.exp(-float(log_odds(p, 20))) for p in (0, 20, 40)]
    assert odds == pytest.approx([1.0, 2.0, 4.0])


@cases(300)
@given(FEATURES, st.integers(1, 200), st.randoms(use_true_random=False))
def test_a_sub_score_of_hundredths_is_half_a_point_and_the_hundredths_off(features, pdo, random):
    """Whole points a bin are off by up to half a point a feature; hundredths by half a point and what they round."""
    fine, whole = table_of(features, pdo, HUNDREDTHS), table_of(features, pdo, 1)
    bins = [random.randrange(len(woe)) for _, woe in features]
    exact = sum(-w * woe[b] / 4096 * factor(pdo) for (w, woe), b in zip(features, bins, strict=True))
    exact = max(-sub_score_limit(pdo), min(sub_score_limit(pdo), exact))
    columns = [[b] for b in bins]
    assert abs(fine.sums(columns)[0] - exact) <= 0.5 + 0.005 * len(features) + 1e-6
    assert abs(whole.sums(columns)[0] - exact) <= 0.5 * len(features) + 0.5


def test_whole_points_a_bin_lose_what_hundredths_keep():
    features = [(-0.49 / factor(20), [4096, -4096])] * 20
    bins = [[0]] * 20
    assert table_of(features, 20, 1).sums(bins)[0] == 0  # 20 features of almost half a point each are gone
    assert table_of(features, 20, HUNDREDTHS).sums(bins)[0] == 10


def test_halves_go_up_and_sums_stay_within_the_limit_of_the_protocol():
    table = PointsTable((FeaturePoints("a", (50, -50, -51, 10**6, -(10**6)), (1,) * 5),), 20, HUNDREDTHS)
    limit = sub_score_limit(20)
    assert table.sums([[0, 1, 2, 3, 4]]).tolist() == [1, 0, -1, limit, -limit]
    assert limit == round(16 * 20 / math.log(2))


@cases(300)
@given(FEATURES, st.integers(1, 200), st.sampled_from([1, HUNDREDTHS]), st.randoms(use_true_random=False))
def test_a_table_from_its_record_gives_every_row_the_same_points(features, pdo, units, random):
    table = table_of(features, pdo, units)
    again = points_table(json.loads(json.dumps(table.to_record())), pdo)
    bins = [[random.randrange(len(woe)) for _ in range(5)] for _, woe in features]
    assert again == table
    assert again.sums(bins).tolist() == table.sums(bins).tolist()
    one_by_one = [table.sums([[column[row]] for column in bins])[0] for row in range(5)]
    assert one_by_one == table.sums(bins).tolist()


@pytest.mark.parametrize(
    "change",
    [
        {"points": [1.5, 2]}, {"points": []}, {"points": "12"}, {"rows": [1]}, {"rows": [-1, 2]}, {"field": 7},
        {"points": [True, 2]}, {"points": [1 << 30, 2]}, {"units": 7},
    ],
    ids=lambda change: "-".join(f"{k}-{v}" for k, v in change.items()),
)  # fmt: skip
def test_a_damaged_points_table_is_refused(change):
    entry = {"field": "a", "points": [1, 2], "rows": [3, 4], "units": HUNDREDTHS}
    assert points_table([entry], 20).features[0].points == (1, 2)
    with pytest.raises(InputFault, match="train the model again"):
        points_table([entry | change], 20)


def test_points_lost_count_from_the_best_bin_or_from_the_mean_of_the_rows():
    table = PointsTable((FeaturePoints("a", (10, 0, -30), (1, 1, 2)), FeaturePoints("b", (5, 7), (0, 0))), 20)
    assert table.lost([2, 0]) == {"a": 40, "b": 2}
    assert table.lost([2, 0], "mean") == {"a": 18, "b": 1}  # mean of a: -50/4, of b without rows: 6
    with pytest.raises(ValueError, match="best, mean"):
        table.lost([0, 0], "median")


def test_the_rounding_of_no_rows_is_nothing():
    assert rounding([], []) == {"largest_milli": 0, "mean_milli": 0}
    assert rounding([1.5, 2.0], [1, 2]) == {"largest_milli": 500, "mean_milli": 250}


# ---- reason codes


def test_reasons_are_adverse_only_worst_first_and_equal_losses_go_by_name():
    lost = {"c": 5, "a": 5, "b": 9, "none": 0, "gain": -4, "d": 1, "e": 2}
    assert reasons.reason_codes(lost) == ["b", "a", "c", "e"]
    assert reasons.reason_codes(dict(reversed(lost.items())), top=2) == ["b", "a"]
    assert reasons.reason_codes({"a": 0}) == []


def test_a_code_is_the_place_in_the_contract_so_that_it_says_nothing_of_what_the_model_kept():
    contract = contract_of(banks=1)
    table = reasons.reason_table(contract, contract.platform, {})
    assert [r.field for r in table] == list(contract.fields_of(contract.platform, "feature"))
    assert [r.code for r in table] == [f"A-{k:02d}" for k in range(1, len(table) + 1)]
    assert all(r.code.startswith("B-") for r in reasons.reason_table(contract, contract.banks[0]))
    assert reasons.read_reasons([r.to_record() for r in table]) == table


def test_a_reason_text_is_one_printable_line():
    contract = contract_of(banks=1)
    field = contract.fields_of(contract.platform, "feature")[0]
    (reason, *_) = reasons.reason_table(contract, contract.platform, {field: "late\x1b[31m\npayments" + "x" * 500})
    assert reason.text.isprintable() and len(reason.text) == 200


def test_numbers_of_the_platform_become_codes_and_unknown_ones_are_left_out():
    table = (reasons.Reason(1, "A-01", "a", "one"), reasons.Reason(7, "A-07", "g", "seven"))
    assert reasons.numbers_of(["g", "a"], table) == [7, 1]
    assert reasons.codes_of([7, 0, 99, 1], table) == ["A-07", "A-01"]


@pytest.mark.parametrize("change", [{"number": 0}, {"number": "1"}, {"code": None}, {"text": 3}, {"field": "b"}])
def test_a_damaged_table_of_codes_is_refused(change):
    good = [
        {"number": 1, "code": "A-01", "field": "a", "text": "a"},
        {"number": 2, "code": "A-02", "field": "b", "text": ""},
    ]
    assert len(reasons.read_reasons(good)) == 2
    with pytest.raises(InputFault, match="reason codes is damaged"):
        reasons.read_reasons([good[0] | change, good[1]])


def test_the_kth_code_of_the_platform_counts_as_a_kth_of_its_loss():
    own = {"B-01": 20, "B-02": 9, "B-03": 0}
    assert reasons.merged_codes(own, ["A-05", "A-02", "A-09"], 30) == ["A-05", "B-01", "A-02", "A-09"]
    assert reasons.merged_codes(own, ["A-05", "A-02"], 20) == ["B-01", "A-05", "A-02", "B-02"]
    assert reasons.merged_codes(own, ["A-05"], 0) == ["B-01", "B-02"]  # nothing lost at the platform: no code of it
    assert reasons.merged_codes(own, [], 12) == ["B-01", "A-00", "B-02"]


@cases(300)
@given(
    st.dictionaries(st.sampled_from([f"B-{k:02d}" for k in range(9)]), st.integers(-50, 50)),
    st.lists(st.sampled_from([f"A-{k:02d}" for k in range(9)]), max_size=6),
    st.integers(-60, 60),
)
def test_merged_codes_keep_each_partys_order_and_name_nothing_that_lost_nothing(own, theirs, lost):
    codes = reasons.merged_codes(own, theirs, lost)
    mine = [code for code in codes if code.startswith("B-")]
    others = [code for code in codes if code.startswith("A-") and code != "A-00"]
    assert len(codes) <= 4 and len(set(codes)) == len(codes)
    assert all(own[code] > 0 for code in mine)
    assert mine == [code for code in reasons.reason_codes(own, 9) if code in mine]
    assert others == [code for code in dict.fromkeys(theirs) if code in others]
    assert lost > 0 or not others


def test_the_table_needs_a_column_of_bins_for_each_feature():
    table = table_of([(-1.0, [4096, 0])], 20, 1)
    with pytest.raises(ValueError, match="1 features"):
        table.sums([[0], [1]])
    assert np.array_equal(table.sums([[0, 1]]), [29, 0])
