"""One field's bins by its owner's rules: special values, hand-drawn edges, groups, and what is merged with a note."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torture import cases

from lianxin.federation.errors import InputFault
from lianxin.parties.coding import BinSpec, fit_bins, merge_bins, separate_bins
from lianxin.parties.coding_fields import SKIPPED, BinLimits, fit_field
from lianxin.parties.coding_rules import NO_RULES, BinRules, FieldRule

LIMITS = BinLimits(max_bins=6, min_rows=20)


def ruled(**said: object) -> BinRules:
    return BinRules("bins.toml", {"f": FieldRule(**said)})  # type: ignore[arg-type]


def fitted(values: list, limits: BinLimits = LIMITS, **said: object) -> tuple[BinSpec, list[int], tuple[str, ...]]:
    fit = fit_field("f", values, limits, ruled(**said))
    return fit.spec, np.bincount(fit.spec.encode(values), minlength=fit.spec.count).tolist(), fit.notes


def test_without_a_rule_bins_are_those_of_quantiles() -> None:
    values = [*range(100), None]
    assert fit_field("f", values, LIMITS, NO_RULES).spec == fit_bins(values, 6, 20)


def test_special_values_have_bins_of_their_own_beside_the_missing_one() -> None:
    values = [-999] * 30 + [-1] * 25 + [None] * 40 + list(range(60))
    spec, rows, notes = fitted(values, special=(-999.0, -1.0))
    assert rows == [20, 20, 20, 40, 30, 25] and notes == ()
    assert spec.labels()[3:] == ["missing", "exactly -999", "exactly -1"]
    assert spec.ordered == (0, 1, 2)
    assert spec.encode([-999.0, -998, math.nan, None, "x", -1]) == [4, 0, 3, 3, 3, 5]
    assert BinSpec.from_record(spec.to_record()) == spec and spec.to_record()["version"] == 2


def test_a_rare_special_value_goes_with_the_missing_ones_and_is_noted() -> None:
    spec, rows, notes = fitted([-999] * 3 + [None] * 20 + list(range(60)), special=(-999.0,))
    assert spec.encode([-999]) == spec.encode([None]) and rows[-1] == 23
    assert notes == ("special value -999 has fewer than 20 rows and is with the missing values",)


def test_rare_special_and_missing_values_share_a_bin_or_join_the_largest() -> None:
    together, rows, _ = fitted([-9] * 12 + [-8] * 9 + list(range(60)), special=(-9.0, -8.0))
    assert together.encode([-9]) == together.encode([-8]) and rows[-1] == 21
    apart, rows, notes = fitted([-9] * 2 + [0] * 50 + [1] * 30, special=(-9.0,))
    assert apart.encode([-9]) == apart.encode([0]) and rows == [52, 30] and "largest bin" in notes[0]


def test_edges_by_hand_are_kept_and_a_bin_under_the_minimum_joins_its_smaller_neighbour() -> None:
    values = list(range(100))
    spec, rows, notes = fitted(values, edges=(24.0, 49.0))
    assert (spec.uppers, rows, notes) == ((24.0, 49.0), [25, 25, 50], ())
    spec, rows, notes = fitted(values, edges=(24.0, 29.0, 69.0))
    assert rows == [30, 40, 30] and spec.uppers == (29.0, 69.0)
    assert notes == ("interval 2 has fewer than 20 rows and joined interval 1",)


def test_groups_by_hand_share_a_bin_and_the_rest_is_any_other() -> None:
    values = ["a"] * 20 + ["b"] * 15 + ["c"] * 30 + ["d"] * 25 + [None] * 4
    spec, rows, notes = fitted(values, groups=(("a", "b"), ("c",)))
    assert rows == [35, 30, 29]
    assert notes == ("the bin of missing values has fewer than 20 rows and joined the bin of other categories",)
    assert spec.encode(["a"]) == spec.encode(["b"]) != spec.encode(["c"])
    assert spec.encode(["never seen"]) == spec.encode(["d"])
    codes = fitted([1] * 30 + [2] * 30 + [3] * 30, groups=(("1", "3"), ("2",)))
    assert codes[0].kind == "text" and codes[1] == [60, 30]


@pytest.mark.parametrize(
    ("values", "said", "words"),
    [
        (
            list(range(400)),
            {"edges": tuple(float(e) for e in range(50, 400, 50))},
            r"\[f\] edges makes 8 bins .* allows 6",
        ),
        (list(range(90)), {"max_bins": 9}, r"\[f\] max_bins is 9 and the contract allows 6"),
        (["a", "b"] * 40, {"edges": (1.0,)}, r"\[f\] edges is for numbers, and 80 of 80 values are text"),
        ([1, 2, "n/a"] * 30, {"special": (1.0,)}, r"\[f\] special is for numbers, and 30 of 90"),
        (["a", "b"] * 40, {"monotone": "up"}, r"\[f\] monotone orders numbers"),
        (["a", "b", "c", "d", "e", "g", "h"] * 30, {"groups": tuple((c,) for c in "abcdegh")}, r"groups makes 7 bins"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_file_field_and_key(values: list, said: dict, words: str) -> None:
    with pytest.raises(InputFault, match=words) as fault:
        fit_field("f", values, LIMITS, ruled(**said))
    assert "bins.toml" in str(fault.value)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([None] * 80, "no row has a value"),
        ([math.nan] * 80, "no row has a value"),
        ([7] * 80, "every row has the same value"),
        (["x"] * 80, "every row has the same value"),
        ([1] * 75 + [2] * 5, "one bin is left at the contract's minimum of rows"),
    ],
)
def test_a_column_that_tells_nothing_is_left_out_by_name(values: list, reason: str) -> None:
    assert fit_field("f", values, LIMITS).reason == reason


def test_a_skipped_field_is_left_out_and_text_among_numbers_is_noted() -> None:
    assert fit_field("f", [1, 2], LIMITS, ruled(skip=True)).reason == SKIPPED
    (note,) = fit_field("f", ["1", "2.5", "n/a"] * 30, LIMITS).notes
    assert note.startswith("30 of 90 values are no numbers")


RULES = st.one_of(
    st.builds(FieldRule, special=st.lists(st.integers(-3, 3).map(float), unique=True, max_size=3).map(tuple)),
    st.builds(
        FieldRule,
        edges=st.lists(st.integers(-9, 9).map(float), unique=True, min_size=1, max_size=4).map(sorted).map(tuple),
        special=st.lists(st.integers(-3, 3).map(float), unique=True, max_size=2).map(tuple),
    ),
)  # fmt: skip
NUMBERS = st.lists(st.one_of(st.none(), st.integers(-12, 12), st.floats(-5, 5)), min_size=1, max_size=120)


@cases()
@given(NUMBERS, RULES, st.integers(1, 25))
def test_whatever_the_rule_each_bin_has_its_minimum_or_there_is_one_and_every_value_a_bin(
    values: list, rule: FieldRule, least: int
) -> None:
    spec = fit_field("f", values, BinLimits(12, least), BinRules("bins.toml", {"f": rule})).spec
    sizes = np.bincount(spec.encode(values), minlength=spec.count)
    assert len(sizes) == spec.count and (spec.count == 1 or sizes.min() >= least)
    assert BinSpec.from_record(spec.to_record()) == spec
    assert all(0 <= code < spec.count for code in spec.encode([*rule.special, 99, -99, None, "x"]))
    assert len(spec.labels()) == spec.count and all(spec.labels())


@cases(200)
@given(st.lists(RULES, min_size=2, max_size=3), st.integers(0, 2**32))
def test_bins_by_hand_still_differ_from_one_another_by_no_or_enough_rows(rules: list[FieldRule], seed: int) -> None:
    rng, least = np.random.default_rng(seed), 20
    columns = [rng.integers(-6, 7, 150).tolist() for _ in rules]
    fits = [
        fit_field("f", c, BinLimits(12, least), BinRules("b", {"f": r})).spec
        for c, r in zip(columns, rules, strict=True)
    ]
    codes = [spec.encode(column) for spec, column in zip(fits, columns, strict=True)]
    mappings = separate_bins(codes, [spec.count for spec in fits], least)
    merged = [merge_bins(c, m) for c, m in zip(codes, mappings, strict=True)]
    sets = [{b: frozenset(np.flatnonzero(np.array(c) == b)) for b in set(c)} for c in merged]
    live = [one for one in sets if len(one) > 1]
    for place, one in enumerate(live):
        for other in live[place + 1 :]:
            assert all(len(a ^ b) == 0 or len(a ^ b) >= least for a in one.values() for b in other.values())
