"""Which features of one party stay in a scorecard: information value, correlation, variance inflation, signs.

    correlation     of WOE columns over training rows, from exact integer moments (every sum is below 2^53)
    inflation       VIF_j = [R^-1]_jj of the correlation matrix R (Belsley, Kuh, Welsch, "Regression Diagnostics", 1980,
                    section 3.3), by eigenvalues of at least 10^-6: copies have some 10^5 and not infinity, and a matrix whose
                    entries came rounded is never read as a negative one
    sign            under WOE = ln(good share / bad share) every weight is negative when the label 1 is bad; a positive
                    one says that a feature's own direction was turned round by the others

Everything is a deterministic function of counts and weights. What is dropped carries a sentence for its owner.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from lianxin.federation import regression
from lianxin.federation.binning import Columns
from lianxin.federation.contract import RunContract
from lianxin.federation.monotone import NO_ORDER, Minima, Order, merged_counts, monotone_bins
from lianxin.federation.scorecard import WOE_BITS, Floats

LEAST_EIGENVALUE = 1e-6
FEW_BINS = "fewer than two bins hold the contract's minimum of rows, bads and goods"
SEPARATES = "it separates goods from bads without a rest; check that it is known before the decision"
WRONG_SIGN = "its weight has the wrong sign beside the other features"


@dataclass(frozen=True)
class FeatureTable:
    """What is known of one feature: counts a bin (over all banks at the platform), weights of evidence at 2^12,
    information value, and `merged`: the bin of each bin that was counted."""

    name: str
    goods: tuple[int, ...]
    bads: tuple[int, ...]
    woe: tuple[int, ...]
    information_value: float
    merged: tuple[int, ...]


def woe_integers(goods: Sequence[int], bads: Sequence[int]) -> tuple[int, ...]:
    """Return the weights of evidence of a feature's bins at 2^12."""
    good, bad = sum(goods), sum(bads)
    return tuple(round(regression.woe(g, b, good, bad) * 2**WOE_BITS) for g, b in zip(goods, bads, strict=True))


def feature_table(
    name: str, goods: Sequence[int], bads: Sequence[int], minima: Minima, order: Order = NO_ORDER
) -> FeatureTable | str:
    """Return the table of a feature whose bins keep minima = (rows, bads, goods), or why it tells nothing."""
    if sum(goods) and sum(bads) and not any(g and b for g, b in zip(goods, bads, strict=True)):
        return SEPARATES
    mapping = monotone_bins(goods, bads, minima, order)
    good, bad = merged_counts(goods, bads, mapping)
    if len(good) < 2 or min(bad) < minima[1] or min(good) < minima[2]:
        return FEW_BINS
    value = regression.information_value(good, bad)
    return FeatureTable(name, tuple(good), tuple(bad), woe_integers(good, bad), value, tuple(mapping))


def minima_of(contract: RunContract) -> Minima:
    """Return the contract's minimum (rows, bads, goods) of a bin."""
    return contract.min_rows, contract.min_bads, contract.min_goods


@dataclass
class Moments:
    """Exact sums over training rows of integer columns: how many rows, Σx_j, Σx_j·x_k. Parts of the rows add up."""

    rows: int
    sums: Floats = field(repr=False)
    products: Floats = field(repr=False)

    @classmethod
    def of(cls, columns: Columns) -> "Moments":
        """Return the moments of WOE columns at 2^12: |x| < 2^15, so that 2^23 rows stay exact in doubles."""
        coded = [np.array(w, dtype=float)[np.array(c)] for c, w in zip(columns.codes, columns.woe, strict=True)]
        design = np.stack(coded, axis=1) if coded else np.zeros((columns.rows, 0))
        return cls(columns.rows, design.sum(axis=0), design.T @ design)

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(self.rows + other.rows, self.sums + other.sums, self.products + other.products)

    def spreads(self) -> Floats:
        """Return the standard deviation of each column (divided by the rows)."""
        means = self.sums / self.rows
        return np.sqrt(np.maximum(np.diag(self.products) / self.rows - means**2, 0.0))

    def correlations(self) -> Floats:
        """Return the correlation matrix; a column without spread has 0 with every other one."""
        means, spreads = self.sums / self.rows, self.spreads()
        covariance = self.products / self.rows - np.outer(means, means)
        scale = np.outer(spreads, spreads)
        found = np.divide(covariance, scale, out=np.zeros_like(covariance), where=scale > 0)
        np.fill_diagonal(found, 1.0)
        return np.clip(found, -1.0, 1.0)


def correlated(names: Sequence[str], values: Sequence[float], matrix: Floats, permille: int) -> dict[str, str]:
    """Return {feature to drop: why}: of two above the limit the one with less information value goes, a tie's later one.

    Pairs are judged from the strongest on; one whose feature went already no longer counts. 1000 lets all stay.
    """
    places = [(-abs(matrix[j, k]), j, k) for j in range(len(names)) for k in range(j + 1, len(names))]
    gone: dict[str, str] = {}
    for strength, j, k in sorted(places):
        if permille >= 1000 or -strength * 1000 <= permille:
            break
        if names[j] in gone or names[k] in gone:
            continue
        keep, out = (j, k) if values[j] >= values[k] else (k, j)
        gone[names[out]] = f"its correlation with {names[keep]}, which tells more, is {-strength:.3f}"
    return gone


def inflations(matrix: Floats) -> Floats:
    """Return the variance inflation of each column of a correlation matrix, at least 1."""
    if not len(matrix):
        return np.zeros(0)
    values, vectors = np.linalg.eigh(matrix)
    return np.maximum((vectors**2 / np.maximum(values, LEAST_EIGENVALUE)).sum(axis=1), 1.0)


def inflated(matrix: Floats, hundredths: int) -> tuple[list[int], Floats]:
    """Return (columns to drop in order, each column's inflation when it was judged) so that all others keep the limit.

    The most inflated goes first, in a tie the last column, until none is above. 0 lets all stay.
    """
    left, gone = list(range(len(matrix))), list[int]()
    judged = np.ones(len(matrix))
    while left:
        now = inflations(matrix[np.ix_(left, left)])
        judged[left] = now
        if not hundredths or now.max() * 100 <= hundredths:
            break
        worst = max(place for place in range(len(left)) if now[place] >= now.max() * (1 - 1e-6))
        gone.append(left.pop(worst))
    return gone, judged


def fit_signed(
    design: Floats, labels: Sequence[int], ridge: float, first: int, drops: bool
) -> tuple[Floats, list[int]]:
    """Return (coefficients, columns of wrong sign) of a logistic regression of 0/1 labels, 1 being bad.

    Columns from `first` on are weights of evidence and want weights that are not positive. With `drops` the most
    positive one is taken out and the rest fitted again until none is wrong: its coefficient is 0 then.
    """
    left, wrong = list(range(design.shape[1])), list[int]()
    while True:
        fitted = regression.fit_logistic(design[:, left], np.array(labels), ridge)
        bad = [place for place, column in enumerate(left) if column >= first and fitted[1 + place] > 0]
        if not drops or not bad:
            break
        wrong.append(left.pop(max(bad, key=lambda place: fitted[1 + place])))
    coefficients = np.zeros(1 + design.shape[1])
    coefficients[[0, *(1 + column for column in left)]] = fitted
    return coefficients, sorted([*wrong, *(left[place] for place in bad)])
