"""Whether two samples are alike: the stability index of a score or of a feature's bins.

    index = sum over bins of (a_b - e_b) ln(a_b / e_b),   e_b, a_b the shares of the earlier and of the later sample

This is Jeffreys' divergence, as Siddiqi (2006, chapter 9) uses it. Below 0.1 the samples are alike, from 0.25 on they differ.
A bin that one sample has empty would be infinite: then half a row is added to every bin of both samples. A bin that is empty
in both counts for nothing. Small samples move by chance: with B bins and n and m rows the index of two samples of one
population is about (B - 1)(1/n + 1/m), which is given beside it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from lianxin.federation.evaluation_lift import TENTHS

WATCH, SHIFTED = 0.1, 0.25


@dataclass(frozen=True)
class Stability:
    """An index, its grade, and what chance alone would give on average."""

    index: float
    by_chance: float

    @property
    def grade(self) -> str:
        """`stable` below 0.1, `watch` below 0.25, else `shifted`."""
        return "stable" if self.index < WATCH else "watch" if self.index < SHIFTED else "shifted"


def stability_of_counts(earlier: Sequence[int] | ArrayLike, later: Sequence[int] | ArrayLike) -> Stability | None:
    """Return the stability of two samples' rows a bin, in the same order; None where a sample has no row.

    ValueError unless both have as many bins and no count is negative.
    """
    first, second = np.asarray(earlier, dtype=np.float64), np.asarray(later, dtype=np.float64)
    if first.ndim != 1 or first.shape != second.shape or (first < 0).any() or (second < 0).any():
        raise ValueError("two samples are compared by their rows in the same bins, none of them negative")
    kept = (first > 0) | (second > 0)
    first, second = first[kept], second[kept]
    if not first.sum() or not second.sum():
        return None
    chance = (first.size - 1) * (1 / first.sum() + 1 / second.sum())
    if (first == 0).any() or (second == 0).any():
        first, second = first + 0.5, second + 0.5
    expected, actual = first / first.sum(), second / second.sum()
    return Stability(float(((actual - expected) * np.log(actual / expected)).sum()), float(chance))


def stability_of_codes(earlier: ArrayLike, later: ArrayLike, bins: int) -> Stability | None:
    """Return the stability of two samples of bin numbers, each from 0 to `bins` - 1; None where a sample is empty."""
    first, second = np.asarray(earlier, dtype=np.intp), np.asarray(later, dtype=np.intp)
    for codes in (first, second):
        if codes.size and not (codes.min() >= 0 and codes.max() < bins):
            raise ValueError(f"a bin number lies outside 0 to {bins - 1}")
    return stability_of_counts(np.bincount(first, minlength=bins), np.bincount(second, minlength=bins))


def stability_of_scores(earlier: ArrayLike, later: ArrayLike, groups: int = TENTHS) -> Stability | None:
    """Return the stability of two samples of a score, in bins cut at the earlier sample's tenths; None where one is empty.

    Equal scores stay in one bin, so that a score with few values has fewer bins.
    """
    first, second = np.asarray(earlier, dtype=np.float64), np.asarray(later, dtype=np.float64)
    if not first.size or not second.size:
        return None
    cuts = np.unique(np.quantile(first, np.arange(1, groups) / groups, method="higher"))
    return stability_of_codes(
        np.searchsorted(cuts, first, side="left"), np.searchsorted(cuts, second, side="left"), cuts.size + 1
    )
