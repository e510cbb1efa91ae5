"""Bins whose weight of evidence goes one way: minimums kept, neighbours alone joined, and the best direction chosen."""

import itertools

import pytest
from conversations import contract_of
from hypothesis import given
from hypothesis import strategies as st
from torture import cases

from lianxin.federation import regression
from lianxin.federation.binning import Columns
from lianxin.federation.monotone import Order, is_monotone, merge_small_bins, merged_counts, monotone_bins
from lianxin.federation.screening import FEW_BINS, SEPARATES, FeatureTable, feature_table
from lianxin.federation.star import screen_own

MINIMA = (50, 5, 5)
COUNTS = st.lists(st.tuples(st.integers(0, 90), st.integers(0, 90)), min_size=2, max_size=8)


def split(counts: list[tuple[int, int]]) -> tuple[list[int], list[int]]:
    return [g for g, _ in counts], [b for _, b in counts]


@cases()
@given(COUNTS, st.sampled_from(["up", "down", "auto"]), st.integers(0, 2))
def test_shares_go_one_way_and_every_bin_keeps_its_minimums(counts: list, direction: str, apart: int) -> None:
    goods, bads = split(counts)
    ordered = tuple(range(max(2, len(counts) - apart)))
    mapping = monotone_bins(goods, bads, MINIMA, Order(direction, ordered))
    good, bad = merged_counts(goods, bads, mapping)
    assert sorted(set(mapping)) == list(range(len(good))) and sum(good) == sum(goods) and sum(bad) == sum(bads)
    for g, b in zip(good, bad, strict=True) if len(good) > 1 else ():
        assert g + b >= 50 and b >= 5 and g >= 5
    inside = [mapping[b] for b in ordered]
    assert inside == sorted(inside), "only neighbours are joined"
    shares = [bad[b] / max(1, good[b] + bad[b]) for b in dict.fromkeys(inside)]
    ways = {"up": (shares[::-1],), "down": (shares,), "auto": (shares, shares[::-1])}[direction]
    assert any(all(low <= high for low, high in itertools.pairwise(way)) for way in ways)


def test_auto_takes_the_way_that_keeps_more_information() -> None:
    goods, bads = [90, 80, 85, 60], [10, 20, 15, 40]
    found = {way: monotone_bins(goods, bads, MINIMA, Order(way, (0, 1, 2, 3))) for way in ("up", "down", "auto")}
    value = {way: regression.information_value(*merged_counts(goods, bads, m)) for way, m in found.items()}
    assert found["auto"] == found["down"] == [0, 1, 1, 2] and value["down"] > value["up"]
    assert not is_monotone(goods, bads, (0, 1, 2, 3)) and is_monotone(
        *merged_counts(goods, bads, [0, 1, 1, 2]), (0, 1, 2)
    )


def test_the_missing_bin_stays_out_of_the_order_and_no_direction_changes_nothing() -> None:
    goods, bads = [90, 80, 60, 50], [10, 20, 40, 9]
    assert monotone_bins(goods, bads, MINIMA, Order("down", (0, 1, 2))) == [0, 1, 2, 3]
    assert monotone_bins(goods, bads, MINIMA, Order("none", (0, 1, 2, 3))) == merge_small_bins(goods, bads, MINIMA)
    thin = monotone_bins([90, 80, 60, 9], [10, 20, 40, 1], MINIMA, Order("down", (0, 1, 2)))
    assert thin == [0, 1, 2, 0]  # too few missing rows: with the bin of the nearest share


def test_a_feature_that_separates_or_has_too_few_bads_is_left_out_with_its_reason() -> None:
    assert feature_table("f", [80, 0], [0, 80], MINIMA) == SEPARATES
    assert feature_table("f", [80, 0, 60], [0, 80, 0], MINIMA) == SEPARATES
    assert feature_table("f", [80, 70], [3, 4], MINIMA) == FEW_BINS
    assert isinstance(feature_table("f", [80, 40], [10, 30], MINIMA), FeatureTable)


@pytest.fixture
def own() -> tuple[Columns, list[int]]:
    """400 rows: a telling column, a copy of it but for a few rows, a weak one, one that knows the label."""
    first = [row % 4 for row in range(400)]
    labels = [int(row // 4 % 10 < 2 + 2 * code) for row, code in enumerate(first)]
    copy = [code if row * 13 % 11 else (code + 1) % 4 for row, code in enumerate(first)]
    weak = [row % 3 % 2 for row in range(400)]
    return Columns((first, copy, weak, list(labels)), (4, 4, 2, 2)), labels


def test_a_banks_own_features_are_chosen_by_the_contracts_terms(own: tuple[Columns, list[int]]) -> None:
    columns, labels = own
    contract = contract_of(min_iv_millionths=20_000, max_correlation_permille=700)
    screen = screen_own(contract, ["first", "copy", "weak", "label"], columns, labels)
    assert [feature.name for feature in screen.kept] == ["first"] and len(screen.columns.bins) == 1
    reasons = dict(screen.dropped)
    assert (
        reasons["label"] == SEPARATES and "with first" in reasons["copy"] and "under the contract's" in reasons["weak"]
    )


def test_without_terms_all_that_tells_stays(own: tuple[Columns, list[int]]) -> None:
    columns, labels = own
    screen = screen_own(contract_of(), ["first", "copy", "weak", "label"], columns, labels)
    assert [feature.name for feature in screen.kept] == ["first", "copy", "weak"]
    assert screen_own(contract_of(), [], Columns((), ()), labels).kept == ()
