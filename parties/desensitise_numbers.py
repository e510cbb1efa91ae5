"""Transforms of numbers: bands, top and bottom codes, rounding, noise. Exact decimal arithmetic, no floats.

A value that is no plain number of at most 18 digits before the point is suppressed (the empty text), never passed on.

Noise is the discrete Laplace or the discrete Gaussian of Canonne, Kamath and Steinke (2020, algorithms 1 to 3), drawn
in whole steps around the value rounded to a step, so that no digit below the step leaves. **It is no differential
privacy and no budget is counted**: a value's noise is a function of key, column and value, so that asking again gives
no second draw to average with; rows of equal value therefore stay equal, and whoever knows one of them knows the others.
"""

import re
from bisect import bisect_right
from collections.abc import Sequence
from decimal import ROUND_HALF_EVEN, Context, Decimal

from lianxin.crypto.randomness import Drbg
from lianxin.parties.desensitise_text import SUPPRESSED, plain

_NUMBER = re.compile(r"[+-]?(\d{1,18}|\d{1,3}(,\d{3}){1,5})(\.\d{1,18})?([eE][+-]?\d{1,2})?|[+-]?\.\d{1,18}", re.ASCII)
_EXACT = Context(prec=120)
_LIMIT = Decimal(10) ** 18
_LARGEST_SCALE = 10**6


def number(text: str) -> Decimal | None:
    """Return the number that `text` writes, exactly; None for anything else and for 10**18 and more."""
    value = plain(text)
    if not _NUMBER.fullmatch(value):
        return None
    found = Decimal(value.replace(",", ""))
    return found if abs(found) < _LIMIT else None


def written(value: Decimal) -> str:
    """Return `value` without exponent, trailing zeros or a minus before zero."""
    digits = format(value, "f")
    digits = digits.rstrip("0").rstrip(".") if "." in digits else digits
    return "0" if digits in ("-0", "") else digits


def band(text: str, edges: Sequence[Decimal]) -> str:
    """Return the band of `edges` that holds the number: <a, [a,b), >=b; suppressed when it is none."""
    value = number(text)
    if value is None:
        return SUPPRESSED
    place = bisect_right(edges, value)
    if place == 0:
        return f"<{written(edges[0])}"
    low = written(edges[place - 1])
    return f">={low}" if place == len(edges) else f"[{low},{written(edges[place])})"


def clip(text: str, low: Decimal | None, high: Decimal | None) -> str:
    """Return the number, or the bound that it passes (bottom and top code); suppressed when it is none."""
    value = number(text)
    if value is None:
        return SUPPRESSED
    value = low if low is not None and value < low else value
    return written(high if high is not None and value > high else value)


def round_to(text: str, step: Decimal) -> str:
    """Return the nearest multiple of `step`, halves to the even one; suppressed when it is no number."""
    value = number(text)
    return SUPPRESSED if value is None else written(_EXACT.multiply(steps_of(value, step), step))


def steps_of(value: Decimal, step: Decimal) -> Decimal:
    """Return value / step as the nearest whole number, halves to the even one."""
    return _EXACT.divide(value, step).to_integral_value(ROUND_HALF_EVEN, _EXACT)


def add_noise(text: str, kind: str, step: Decimal, scale: int, drbg: Drbg) -> str:
    """Return the number in whole steps with noise of `scale` steps from `drbg`; suppressed when it is no number."""
    value = number(text)
    if value is None:
        return SUPPRESSED
    noise = discrete_laplace(scale, drbg) if kind == "laplace" else discrete_gaussian(scale, drbg)
    return written(_EXACT.multiply(steps_of(value, step) + noise, step))


def discrete_laplace(scale: int, drbg: Drbg) -> int:
    """Return k with probability in proportion to exp(-|k| / scale)."""
    while True:
        low = drbg.below(scale)
        if not _is_exponential(low, scale, drbg):
            continue
        high = 0
        while _is_exponential(1, 1, drbg):
            high += 1
        size, is_negative = low + scale * high, drbg.bits(1)
        if size or not is_negative:
            return -size if is_negative else size


def discrete_gaussian(scale: int, drbg: Drbg) -> int:
    """Return k with probability in proportion to exp(-k*k / (2 * scale * scale))."""
    wide, variance = scale + 1, scale * scale
    while True:
        drawn = discrete_laplace(wide, drbg)
        distance = abs(drawn) * wide - variance
        if _is_exponential(distance * distance, 2 * variance * wide * wide, drbg):
            return drawn


def _is_exponential(numerator: int, denominator: int, drbg: Drbg) -> bool:
    """Return True with probability exp(-numerator / denominator), exactly."""
    while numerator > denominator:
        if not _is_exponential(1, 1, drbg):
            return False
        numerator -= denominator
    place = 1
    while drbg.below(denominator * place) < numerator:
        place += 1
    return place % 2 == 1
