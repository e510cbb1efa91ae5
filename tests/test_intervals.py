"""Ranges of integers: every outcome is inside, both ends are reached, and no float is a bound."""

from collections.abc import Callable, Iterator
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torture import cases

from lianxin.crypto.intervals import Interval, around, exactly, signed, unsigned

NUMBERS = st.integers(-(1 << 70), 1 << 70) | st.integers(-3, 3)
POOLS = st.lists(NUMBERS, min_size=5, max_size=5)
ranges_of_five = cases(per_example=10)
PAIRS: dict[str, tuple[Callable, Callable]] = {
    "add": (lambda x, y: x + y, lambda a, b: a + b),
    "subtract": (lambda x, y: x - y, lambda a, b: a - b),
    "multiply": (lambda x, y: x * y, lambda a, b: a * b),
}


def ranges(pool: list[int]) -> list[Interval]:
    """Return the ten ranges between two of five numbers."""
    return [Interval(min(ends), max(ends)) for ends in combinations(pool, 2)]


def neighbours(pool: list[int]) -> Iterator[tuple[Interval, Interval, Interval]]:
    """Return ten triples of the ten ranges."""
    found = ranges(pool)
    return ((found[k], found[k - 3], found[k - 4]) for k in range(10))


def holds(interval: Interval, value: int) -> bool:
    return interval.low <= value <= interval.high


def values_of(interval: Interval, pool: list[int]) -> list[int]:
    """Return both ends and a value for each number of the pool."""
    width = interval.high - interval.low + 1
    return [interval.low, interval.high, *(interval.low + number % width for number in pool)]


@pytest.mark.parametrize("name", PAIRS)
@ranges_of_five
@given(pool=POOLS)
def test_a_result_of_two_values_is_in_the_result_of_their_ranges_whose_ends_are_reached(
    name: str, pool: list[int]
) -> None:
    on_ranges, on_values = PAIRS[name]
    for x, y, _ in neighbours(pool):
        result = on_ranges(x, y)
        reached = [on_values(a, b) for a in values_of(x, pool) for b in values_of(y, pool)]
        assert (result.low, result.high) == (min(reached), max(reached))


@ranges_of_five
@given(pool=POOLS, factor=NUMBERS, bits=st.integers(0, 80))
def test_scaling_shifting_squaring_and_negating_a_value_stay_in_range_and_reach_the_ends(
    pool: list[int], factor: int, bits: int
) -> None:
    for x in ranges(pool):
        values = values_of(x, pool)
        scaled, squares = [value * factor for value in values], [value * value for value in values]
        assert (x.scale(factor).low, x.scale(factor).high) == (min(scaled), max(scaled))
        assert x << bits == x.scale(1 << bits) and -x == x.scale(-1)
        assert x.square().high == max(squares) and x.square().low == (0 if holds(x, 0) else min(squares))
        assert (x * x).includes(x.square())


@ranges_of_five
@given(pool=POOLS, count=st.integers(0, 300))
def test_a_sum_of_values_is_in_the_total_of_as_many_ranges(pool: list[int], count: int) -> None:
    for x in ranges(pool):
        values = values_of(x, pool)
        assert holds(x.total(len(values)), sum(values))
        assert (x.total(count).low, x.total(count).high) == (count * x.low, count * x.high)
        assert x.total(count) + x == x.total(count + 1)
        most = x.total_at_most(count)
        assert all(most.includes(x.total(fewer)) for fewer in (0, count // 2, count))
        assert most.low in (0, count * x.low) and most.high in (0, count * x.high)


@ranges_of_five
@given(pool=POOLS)
def test_ranges_keep_the_laws_of_the_numbers_that_they_stand_for(pool: list[int]) -> None:
    for x, y, z in neighbours(pool):
        assert x + y == y + x and x * y == y * x and x | y == y | x
        assert (x + y) + z == x + (y + z) and (x * y) * z == x * (y * z) and (x | y) | z == x | (y | z)
        assert (x * y + x * z).includes(x * (y + z))
        assert x + exactly(0) == x and x * exactly(1) == x and x - y == x + -y


@ranges_of_five
@given(pool=POOLS)
def test_wider_ranges_never_give_a_narrower_result(pool: list[int]) -> None:
    for x, y, wider in neighbours(pool):
        hull = x | wider
        assert hull.includes(x) and hull.includes(wider)
        assert hull.low in (x.low, wider.low) and hull.high in (x.high, wider.high)
        assert all(on_ranges(hull, y).includes(on_ranges(x, y)) for on_ranges, _ in PAIRS.values())
        assert hull.square().includes(x.square()) and hull.signed_bits >= x.signed_bits


@ranges_of_five
@given(pool=POOLS)
def test_the_bits_of_a_range_hold_it_and_one_bit_less_does_not(pool: list[int]) -> None:
    for x in ranges(pool):
        assert signed(x.signed_bits).includes(x)
        assert x.signed_bits == 1 or not signed(x.signed_bits - 1).includes(x)
        assert around(x.magnitude).includes(x) and holds(x, x.magnitude) | holds(x, -x.magnitude)


@pytest.mark.parametrize(
    ("interval", "bits"),
    [(exactly(0), 1), (exactly(-1), 1), (exactly(1), 2), (Interval(-2, 1), 2), (Interval(-2, 2), 3), (around(127), 8)],
)
def test_bits_are_those_of_twos_complement(interval: Interval, bits: int) -> None:
    assert interval.signed_bits == bits


@pytest.mark.parametrize("bits", [1, 2, 21, 97])
def test_a_field_is_as_wide_as_it_says(bits: int) -> None:
    assert signed(bits).signed_bits == bits == unsigned(bits).signed_bits - 1
    assert unsigned(bits).high - unsigned(bits).low == signed(bits).high - signed(bits).low == (1 << bits) - 1


def test_a_difference_of_a_range_with_itself_counts_both_occurrences() -> None:
    assert Interval(0, 1) - Interval(0, 1) == around(1)


@pytest.mark.parametrize("ends", [(1, 0), (0, -1)])
def test_an_empty_range_cannot_be_made(ends: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="above its high end"):
        Interval(*ends)


@pytest.mark.parametrize("end", [1.0, 2.5, float("inf"), "1", None, True])
def test_only_integers_bound_a_range(end: object) -> None:
    with pytest.raises(TypeError, match="Python integers"):
        Interval(0, end)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="Python integers"):
        Interval(end, 10)  # type: ignore[arg-type]


def test_a_negative_bound_or_number_of_terms_is_refused() -> None:
    with pytest.raises(ValueError, match="above its high end"):
        around(-1)
    with pytest.raises(ValueError, match="at least 0 terms"):
        around(1).total(-1)
    with pytest.raises(ValueError, match="at least 0 terms"):
        around(1).total_at_most(-1)
