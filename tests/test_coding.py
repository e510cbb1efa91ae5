"""Bins: sizes, totality, and no two bins whose counts differ by a few firms."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lianxin.federation.errors import InputFault
from lianxin.parties.coding import BinSpec, fit_bins, merge_bins, separate_bins, single_bin_features

NUMBERS = st.one_of(st.none(), st.integers(-5, 5), st.floats(allow_infinity=False), st.just(0), st.just(math.nan))
TEXTS = st.one_of(st.none(), st.sampled_from(["a", "b", "c", "d"]), st.text(max_size=2), st.integers(0, 2))


def rows_of(codes: list[int]) -> list[int]:
    return np.bincount(codes).tolist()


@settings(deadline=None)
@given(
    values=st.one_of(st.lists(NUMBERS, max_size=150), st.lists(TEXTS, max_size=150)),
    max_bins=st.integers(2, 9),
    min_rows=st.integers(1, 30),
)
def test_bins_are_few_and_each_has_its_minimum_of_rows_or_there_is_one(
    values: list, max_bins: int, min_rows: int
) -> None:
    spec = fit_bins(values, max_bins, min_rows)
    sizes = np.bincount(spec.encode(values), minlength=spec.count)
    assert sizes.sum() == len(values) and len(sizes) == spec.count <= max_bins
    assert spec.count == 1 or sizes.min() >= min_rows


@settings(deadline=None)
@given(values=st.lists(NUMBERS, max_size=80), others=st.lists(st.one_of(NUMBERS, TEXTS)))
def test_every_value_seen_or_not_has_a_bin(values: list, others: list) -> None:
    spec = fit_bins(values, 6, 5)
    assert all(0 <= code < spec.count for code in spec.encode([*others, math.inf, -math.inf, "x", None]))


@settings(deadline=None)
@given(values=st.one_of(st.lists(NUMBERS, max_size=80), st.lists(TEXTS, max_size=80)))
def test_a_specification_survives_its_record(values: list) -> None:
    spec = fit_bins(values, 6, 5)
    record = json.loads(json.dumps(spec.to_record(), allow_nan=False))
    assert BinSpec.from_record(record) == spec


@pytest.mark.parametrize(
    "damage",
    [
        {"groups": [0]},
        {"groups": [0, 2, 1, 4]},
        {"groups": [0, True, 2, 3]},
        {"uppers": ["x", "2.0"]},
        {"uppers": ["2.0", "1.0"]},
        {"kind": "tree"},
        {"version": 2},
        {"categories": None},
    ],
)
def test_a_damaged_record_is_refused(damage: dict) -> None:
    good = BinSpec("numeric", (1.0, 2.0), (), (0, 1, 2, 3)).to_record()
    assert BinSpec.from_record(good).count == 4
    with pytest.raises(InputFault, match="damaged"):
        BinSpec.from_record(good | damage)


def test_a_value_held_by_many_rows_has_a_bin_of_its_own() -> None:
    counts = [0] * 900 + [1] * 60 + list(range(2, 102))
    spec = fit_bins(counts, 6, 50)
    assert rows_of(spec.encode(counts))[:2] == [900, 60]
    assert spec.count == 4


def test_quantiles_alone_would_have_put_the_zeros_and_ones_together() -> None:
    counts = [0] * 900 + [1] * 60 + [2] * 40
    edges = np.unique(np.quantile(counts, np.linspace(0, 1, 7)[1:-1]))
    assert len(edges) == 1
    assert rows_of(fit_bins(counts, 6, 40).encode(counts)) == [900, 60, 40]


def test_codes_of_low_cardinality_keep_a_bin_each() -> None:
    values = [0] * 300 + [1] * 100 + [2] * 60
    assert rows_of(fit_bins(values, 8, 50).encode(values)) == [300, 100, 60]


def test_distinct_numbers_fall_into_even_bins() -> None:
    assert rows_of(fit_bins([i / 7 for i in range(1000)], 8, 50).encode([i / 7 for i in range(1000)])) == [125] * 8


def test_a_higher_number_never_has_a_lower_bin() -> None:
    values = np.random.default_rng(3).lognormal(12, 1.5, 700).round(-4).tolist()
    codes = fit_bins(values, 8, 50).encode(sorted(values))
    assert codes == sorted(codes)


def test_missing_is_a_bin_when_enough_rows_miss_the_value() -> None:
    values = [None] * 50 + [1.0] * 60 + [2.0] * 90
    spec = fit_bins(values, 8, 50)
    assert rows_of(spec.encode(values)) == [60, 90, 50]
    assert spec.labels() == ["up to 1", "above 1", "missing"]


def test_a_few_missing_values_join_the_largest_bin() -> None:
    values = [None] * 49 + [1.0] * 60 + [2.0] * 90
    spec = fit_bins(values, 8, 50)
    assert rows_of(spec.encode(values)) == [60, 139]
    assert spec.labels()[1] == "above 1 or missing"


def test_a_feature_that_nearly_nobody_has_ends_with_one_bin() -> None:
    values = [None] * 1000 + [1, 2] * 20
    assert fit_bins(values, 8, 50).count == 1


def test_rare_categories_and_unseen_ones_share_a_bin() -> None:
    values = ["retail"] * 200 + ["mining"] * 100 + [f"rare {i}" for i in range(60)]
    spec = fit_bins(values, 8, 50)
    assert rows_of(spec.encode(values)) == [200, 100, 60]
    assert spec.encode(["never seen"]) == [2]
    assert spec.labels() == ["retail or missing", "mining", "any other"]


def test_too_few_rare_rows_take_the_smallest_category_with_them() -> None:
    values = ["a"] * 200 + ["b"] * 60 + ["c"] * 55 + ["d"]
    assert rows_of(fit_bins(values, 8, 50).encode(values)) == [200, 60, 56]


def test_without_rare_categories_an_unseen_one_joins_the_largest_bin() -> None:
    spec = fit_bins(["a"] * 60 + ["b"] * 90, 8, 50)
    assert spec.encode(["c", None]) == spec.encode(["b", "b"])


def test_dates_written_as_text_are_categories() -> None:
    values = ["2/28/1997"] * 70 + [f"{month}/1/1998" for month in range(1, 13)] * 5
    spec = fit_bins(values, 8, 50)
    assert (spec.kind, rows_of(spec.encode(values))) == ("text", [70, 60])


def test_two_spellings_of_one_letter_are_one_category() -> None:
    spec = fit_bins(["é"] * 60 + ["b"] * 60, 8, 50)
    assert spec.encode(["e\u0301"]) == spec.encode(["é"])


def test_bins_need_room_for_two() -> None:
    with pytest.raises(ValueError, match="max_bins"):
        fit_bins([1, 2], 1, 1)


def differences(codes: list[list[int]]) -> list[int]:
    """Return the symmetric differences, in rows, of all bins of different features, and all sizes of bins."""
    sets = [(f, {i for i, c in enumerate(col) if c == b}) for f, col in enumerate(codes) for b in set(col)]
    pairs = [len(a ^ b) for i, (f, a) in enumerate(sets) for g, b in sets[:i] if f != g]
    return pairs + [len(rows) for _, rows in sets]


def kept_columns(codes: list[list[int]], mappings: list[dict[int, int]]) -> list[list[int]]:
    gone = single_bin_features(mappings)
    both = list(zip(codes, mappings, strict=True))
    return [merge_bins(column, mapping) for f, (column, mapping) in enumerate(both) if f not in gone]


def nearly_equal_columns() -> list[list[int]]:
    """Two features of 400 rows whose first bins differ by one firm, and one that has nothing to do with them."""
    first = [0] * 100 + [1] * 150 + [2] * 150
    second = [0] * 101 + [1] * 149 + [2] * 150
    return [first, second, [0, 1] * 200]


def test_two_counts_disclose_one_firms_label_until_the_bins_are_separated() -> None:
    codes, label_of_firm_100 = nearly_equal_columns(), 1
    labels = [0] * 100 + [label_of_firm_100] + [0] * 299

    def bads(column: list[int], bin_: int) -> int:
        return sum(label for label, code in zip(labels, column, strict=True) if code == bin_)

    assert bads(codes[1], 0) - bads(codes[0], 0) == label_of_firm_100
    kept = kept_columns(codes, separate_bins(codes, [3, 3, 2]))
    assert all(d == 0 or d >= 50 for d in differences(kept))
    assert len(kept) == 3


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**32), features=st.integers(1, 7), bins=st.integers(2, 6), noise=st.floats(0, 0.3))
def test_after_separating_every_two_bins_differ_in_none_or_in_fifty_rows(
    seed: int, features: int, bins: int, noise: float
) -> None:
    rng = np.random.default_rng(seed)
    base = rng.integers(0, bins, 400)
    codes = [np.where(rng.random(400) < noise, rng.integers(0, bins, 400), base).tolist() for _ in range(features)]
    mappings = separate_bins(codes, [bins] * features)
    assert all(d == 0 or d >= 50 for d in differences(kept_columns(codes, mappings)))
    assert all(set(m) == set(range(bins)) and set(m.values()) == set(range(len(set(m.values())))) for m in mappings)
    assert separate_bins(codes, [bins] * features) == mappings


def test_equal_bins_and_distant_bins_are_left_alone() -> None:
    column, other = [0] * 200 + [1] * 200, [0, 1] * 200
    assert separate_bins([column, column, other], [2, 2, 2]) == [{0: 0, 1: 1}] * 3


def test_a_bin_under_the_minimum_is_merged_even_when_it_is_empty() -> None:
    assert separate_bins([[0] * 100 + [2] * 100], [3]) == [{0: 0, 1: 0, 2: 1}]
    assert separate_bins([[0] * 100 + [1] * 49 + [2] * 100], [3]) == [{0: 0, 1: 0, 2: 1}]


def test_features_that_were_counted_before_stay_as_they_are() -> None:
    codes = nearly_equal_columns()
    mappings = separate_bins(codes, [3, 3, 2], settled=2)
    assert mappings[:2] == [{0: 0, 1: 1, 2: 2}] * 2
    mappings = separate_bins(codes, [3, 3, 2], settled=1)
    assert mappings[0] == {0: 0, 1: 1, 2: 2}
    assert all(d == 0 or d >= 50 for d in differences(kept_columns(codes, mappings)))


def test_a_feature_that_ends_with_one_bin_is_named() -> None:
    mappings = separate_bins([[0] * 395 + [1] * 5, [0, 1] * 200], [2, 2])
    assert single_bin_features(mappings) == [0]


def test_a_merged_specification_encodes_as_merged_codes() -> None:
    values = [0] * 100 + [1] * 100 + [None] * 100
    spec, mapping = fit_bins(values, 8, 50), {0: 0, 1: 0, 2: 1}
    assert spec.merged(mapping).encode(values) == merge_bins(spec.encode(values), mapping)
    assert spec.merged(mapping).labels() == ["any number", "missing"]


def test_a_bin_number_outside_its_feature_is_a_bug() -> None:
    with pytest.raises(ValueError, match="outside"):
        separate_bins([[0, 2]], [2])
