"""Exact interval arithmetic over the integers (Moore, "Interval Analysis", 1966): the range of a result from the ranges
of what goes in.

An operation's result is the narrowest interval that holds every outcome:

    [a, b] + [c, d] = [a + c, b + d]        [a, b] - [c, d] = [a - d, b - c]
    [a, b] · [c, d] = [min P, max P] with P = {ac, ad, bc, bd}        [a, b] | [c, d] = [min(a, c), max(b, d)]

Each occurrence of a range counts as a value of its own: x - x over [0, 1] is [-1, 1]. So the range of a longer formula
may be wider than what can occur, and never narrower. There are no floats here: a bound is exact or it is no bound.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Interval:
    """All integers from `low` to `high`, both included. ValueError if it would be empty, TypeError for no integers."""

    low: int
    high: int

    def __post_init__(self) -> None:
        if type(self.low) is not int or type(self.high) is not int:
            raise TypeError("the ends of an interval are Python integers; scale a fraction to fixed point first")
        if self.low > self.high:
            raise ValueError("an interval's low end is above its high end; swap them")

    @property
    def magnitude(self) -> int:
        """The largest absolute value in the interval."""
        return max(-self.low, self.high)

    @property
    def signed_bits(self) -> int:
        """The shortest two's complement that holds every value, its sign bit included."""
        return max((end if end >= 0 else ~end).bit_length() for end in (self.low, self.high)) + 1

    def includes(self, other: "Interval") -> bool:
        """Return whether every value of `other` is one of this interval."""
        return self.low <= other.low and other.high <= self.high

    def __add__(self, other: "Interval") -> "Interval":
        return Interval(self.low + other.low, self.high + other.high)

    def __neg__(self) -> "Interval":
        return Interval(-self.high, -self.low)

    def __sub__(self, other: "Interval") -> "Interval":
        return self + -other

    def __mul__(self, other: "Interval") -> "Interval":
        ends = [a * b for a in (self.low, self.high) for b in (other.low, other.high)]
        return Interval(min(ends), max(ends))

    def __or__(self, other: "Interval") -> "Interval":
        return Interval(min(self.low, other.low), max(self.high, other.high))

    def __lshift__(self, bits: int) -> "Interval":
        return Interval(self.low << bits, self.high << bits)

    def scale(self, factor: int) -> "Interval":
        """Return the range of factor·x, for a factor of any sign."""
        return self * exactly(factor)

    def square(self) -> "Interval":
        """Return the range of x², which is narrower than that of two independent values' product."""
        ends = (self.low * self.low, self.high * self.high)
        return Interval(0 if self.low <= 0 <= self.high else min(ends), max(ends))

    def total(self, terms: int) -> "Interval":
        """Return the range of a sum of exactly `terms` values of this interval. Raises ValueError for terms < 0."""
        if terms < 0:
            raise ValueError(f"a sum has at least 0 terms, got {terms}")
        return Interval(terms * self.low, terms * self.high)

    def total_at_most(self, terms: int) -> "Interval":
        """Return the range of a sum of 0 to `terms` values of this interval. Raises ValueError for terms < 0."""
        return (self | exactly(0)).total(terms)


def exactly(value: int) -> Interval:
    """Return the interval of one value."""
    return Interval(value, value)


def around(bound: int) -> Interval:
    """Return all values with |value| <= bound. Raises ValueError for a negative bound."""
    return Interval(-bound, bound)


def unsigned(bits: int) -> Interval:
    """Return what an unsigned field of `bits` bits holds: [0, 2^bits)."""
    return Interval(0, (1 << bits) - 1)


def signed(bits: int) -> Interval:
    """Return what a field of `bits` bits, read as two's complement, holds: [-2^(bits-1), 2^(bits-1))."""
    return Interval(-1 << (bits - 1), (1 << (bits - 1)) - 1)
