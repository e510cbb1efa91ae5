"""How sure a figure is: 95 % intervals of AUC, Gini and KS, and the paired test of two scores of the same rows.

AUC and Gini: the covariance of DeLong, DeLong and Clarke-Pearson (1988), in O(n log n) by the midranks of Sun and Xu
(2014). With m bads, n goods, R the midrank among all rows and R' the midrank within the row's own class,

    V10_i = (R_i - R'_i) / n  of a bad,     V01_j = 1 - (R_j - R'_j) / m  of a good,     AUC = mean V10 = mean V01
    cov   = S10 / m + S01 / n,              S the sample covariance of the V over the models

Rows of one firm are not independent. Where firms are given, the V less their mean are first added up by firm (Obuchowski
1997), which also counts how a firm's bads and goods move together; with one row a firm it is DeLong's covariance again.

A score that separates the classes wholly has no variance to show for it. The interval is then the exact one of
k = min(m, n) pairs without a row in common, all of them won: AUC >= 0.025^(1/k). Likewise where two scores differ by D in
every row: k pairs that all differ by D leave a share of at most q = 1 - 0.025^(1/k) that differs by anything from -1 to 1, so
D - q (1 + D) to D + q (1 - D), and p = 2 (1 + |D|)^-k, the chance of k such pairs were there no difference. Only scores that
rank all rows alike differ by nothing for certain.

KS by bootstrap (Efron 1979): rows are drawn within each class, or firms where rows cluster. KS is a maximum, which a
sample overstates. Its optimism is how far a resample's KS exceeds the sample's own distance at the resample's cut-off
(Efron 1983); the interval is KS less the mean optimism, give or take 1.96 standard deviations of it. It held the true KS
in 91 to 96 of 100 samples with 50 to 400 bads, a percentile interval in 66 to 81; with fewer bads it holds it less often,
in 86 to 90 of 100 with 10 to 30, which a note beside it says.

Labels are 0 or 1 and 1 is bad. A figure with one class absent is None. A class of a single firm says nothing about the
spread: the interval is then the whole range.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lianxin.crypto.randomness import Drbg
from lianxin.federation.evaluation import Floats, checked, ks_curves

Z95 = 1.959963984540054
TAIL = 0.025
FEW_BADS = 100
FEW_FOR_KS = 50
RESAMPLES = 400
LEAST_RESAMPLES = 100
DRAWS = 8_000_000  # rows drawn over all resamples of one figure: bounded work on large tables
Measure = Callable[[Floats, Floats], float]


@dataclass(frozen=True)
class Interval:
    """A figure and its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Paired:
    """How much the first score's AUC exceeds the second's on the same rows: 95 % interval, two-sided p."""

    difference: float
    low: float
    high: float
    p: float


@dataclass(frozen=True)
class Areas:
    """AUCs of several scores of the same rows, in the order of `models`, and their covariance (models x models)."""

    models: tuple[str, ...]
    values: Floats
    covariance: Floats
    pairs: int  # of rows without one in common: the smaller class, in firms; below 2 there is no covariance
    alike: NDArray  # models x models: whether two scores rank all rows alike

    def interval(self, model: str) -> Interval:
        """Return the AUC of a model with its interval."""
        place = self.models.index(model)
        value, variance = float(self.values[place]), float(self.covariance[place, place])
        if self.pairs < 2:
            return Interval(value, 0.0, 1.0)
        if variance <= 0.0:
            reach = 1.0 - TAIL ** (1.0 / self.pairs)
            return Interval(value, max(value - reach, 0.0), min(value + reach, 1.0))
        half = Z95 * variance**0.5
        return Interval(value, max(value - half, 0.0), min(value + half, 1.0))

    def paired(self, first: str, second: str) -> Paired:
        """Return the paired comparison of two models."""
        from scipy.special import ndtr  # with it comes SciPy, which a node that waits does not need

        places = self.models.index(first), self.models.index(second)
        contrast = np.zeros(len(self.models))
        contrast[places[0]] += 1.0
        contrast[places[1]] -= 1.0
        difference = float(contrast @ self.values)
        if self.pairs < 2:
            return Paired(difference, -1.0, 1.0, 1.0)
        if self.alike[places]:
            return Paired(0.0, 0.0, 0.0, 1.0)
        variance = float(contrast @ self.covariance @ contrast)
        if variance <= 1e-18:  # zero but for rounding
            return _paired_exactly(difference, self.pairs)
        error = variance**0.5
        half = Z95 * error
        return Paired(
            difference,
            max(difference - half, -1.0),
            min(difference + half, 1.0),
            float(2 * ndtr(-abs(difference) / error)),
        )


def _paired_exactly(difference: float, pairs: int) -> Paired:
    """Return the comparison of two scores whose difference is the same in every row of so many pairs."""
    reach = 1.0 - TAIL ** (1.0 / pairs)
    low, high = difference - reach * (1.0 + difference), difference + reach * (1.0 - difference)
    return Paired(difference, low, high, min(1.0, 2.0 * (1.0 + abs(difference)) ** -pairs))


def areas(
    labels: ArrayLike, scores: Mapping[str, ArrayLike], firms: Sequence[object] | NDArray | None = None
) -> Areas | None:
    """Return the AUCs of `scores` {model: one score a row} with their covariance, or None if a class is absent.

    `firms` names the firm of each row where several rows may be of one. ValueError on unusable input.
    """
    if not scores:
        raise ValueError("at least one model's scores are needed")
    vectors = [checked(labels, vector) for vector in scores.values()]
    is_bad = vectors[0][0] == 1
    if is_bad.all() or not is_bad.any():
        return None
    parts = [_components(is_bad, vector) for _, vector in vectors]
    values = np.array([bads.mean() for bads, _ in parts])
    cluster = _numbered(firms, len(is_bad))
    of_bads, of_goods = (
        _by_firm(np.column_stack([part[side] for part in parts]) - values, cluster[rows], cluster.max() + 1)
        for side, rows in ((0, is_bad), (1, ~is_bad))
    )
    covariance, pairs = _covariance(of_bads, of_goods, cluster, is_bad)
    ranks = np.array([_midranks(vector) for _, vector in vectors])
    alike = (ranks[:, None, :] == ranks[None, :, :]).all(axis=2)
    return Areas(tuple(scores), values, covariance, pairs, alike)


def gini_interval(area: Interval) -> Interval:
    """Return Gini = 2 AUC - 1 with the interval that the AUC's becomes."""
    return Interval(2 * area.value - 1, 2 * area.low - 1, 2 * area.high - 1)


def ks_interval(
    labels: ArrayLike, scores: ArrayLike, drbg: Drbg, firms: Sequence[object] | NDArray | None = None
) -> Interval | None:
    """Return KS with its bootstrap interval, or None if a class is absent; the same `drbg` gives the same one."""
    curves = ks_curves(labels, scores)
    if curves is None:
        return None
    gaps = curves[1] - curves[2]

    def optimism(bads: Floats, goods: Floats) -> float:
        drawn = np.cumsum(bads) / bads.sum() - np.cumsum(goods) / goods.sum()
        place = int(np.abs(drawn).argmax())
        return float(abs(drawn[place]) - gaps[place] * np.sign(drawn[place]))

    value, found = float(np.abs(gaps).max()), resampled(labels, scores, optimism, drbg, firms)
    assert found is not None
    if found[1].size == 0:
        return Interval(value, 0.0, 1.0)
    centre, half = value - float(found[1].mean()), Z95 * float(found[1].std())
    return Interval(value, min(max(centre - half, 0.0), value), max(min(centre + half, 1.0), value))


def resampled(
    labels: ArrayLike,
    scores: ArrayLike,
    measure: Measure,
    drbg: Drbg,
    firms: Sequence[object] | NDArray | None = None,
) -> tuple[float, Floats] | None:
    """Return a figure and its values on resamples, or None if a class is absent.

    `measure` takes the counts of bads and of goods at each distinct score, riskiest first. Rows are drawn within each
    class; with `firms` whole firms are drawn, and a resample that lacks a class is left out. No value comes back where a
    class has a single firm.
    """
    outcome, vector = checked(labels, scores)
    is_bad = outcome == 1
    if is_bad.all() or not is_bad.any():
        return None
    distinct, place = np.unique(-vector, return_inverse=True)
    sides = [(place[is_bad], np.flatnonzero(is_bad)), (place[~is_bad], np.flatnonzero(~is_bad))]

    def figure(weight: Floats) -> float | None:
        counts = [np.bincount(at, weight[rows], distinct.size).astype(np.float64) for at, rows in sides]
        return measure(*counts) if counts[0].any() and counts[1].any() else None

    value = figure(np.ones(len(vector)))
    assert value is not None
    cluster = _numbered(firms, len(vector))
    if min(np.unique(cluster[is_bad]).size, np.unique(cluster[~is_bad]).size) < 2:
        return value, np.empty(0)
    is_clustered = cluster.max() + 1 < len(vector)
    weights = _weights_of_firms(drbg, cluster) if is_clustered else _weights_of_rows(drbg, [rows for _, rows in sides])
    times = max(LEAST_RESAMPLES, min(RESAMPLES, DRAWS // len(vector)))
    found = (figure(weights()) for _ in range(times))
    return value, np.array([one for one in found if one is not None])


def auc_of_counts(bads: Floats, goods: Floats) -> float:
    """Return the AUC from the bads and goods at each distinct score, riskiest first; ties count one half."""
    below = goods.sum() - np.cumsum(goods)
    return float((bads * (below + goods / 2)).sum() / (bads.sum() * goods.sum()))


def too_few(rows: int, bads: int) -> str:
    """Return the sentence that an interval of so few bads, or goods, is printed with; "" from 100 of each on."""
    fewer, name = min((bads, "bads"), (rows - bads, "goods"))
    if fewer >= FEW_BADS or not rows:
        return ""
    return (
        f"{rows:,} rows at {100 * fewer / rows:.1f} % give {fewer:,} {name}: below {FEW_BADS} the interval is too wide "
        "to rank models by"
    )


def too_few_for_ks(rows: int, bads: int) -> str:
    """Return the sentence that an interval of KS from so few bads, or goods, is printed with; "" from 50 of each on."""
    fewer, name = min((bads, "bads"), (rows - bads, "goods"))
    if fewer >= FEW_FOR_KS or not rows:
        return ""
    return (
        f"{fewer:,} {name}: below {FEW_FOR_KS} the interval of KS holds the true one less often than in 95 of 100 samples "
        "(in 86 to 90 with 10 to 30)"
    )


def clustered(rows: int, firms: Sequence[object] | NDArray | None) -> str:
    """Return the sentence for rows of which several are of one firm, "" where each is a firm of its own."""
    distinct = int(_numbered(firms, rows).max()) + 1 if rows else 0
    if distinct == rows:
        return ""
    return (
        f"{rows:,} rows are of {distinct:,} firms: intervals and tests count firms, since rows of one firm go together"
    )


def _components(is_bad: NDArray, score: Floats) -> tuple[Floats, Floats]:
    """Return V10 of the bads and V01 of the goods."""
    ranks, bads, goods = _midranks(score), score[is_bad], score[~is_bad]
    return (ranks[is_bad] - _midranks(bads)) / goods.size, 1.0 - (ranks[~is_bad] - _midranks(goods)) / bads.size


def _midranks(values: Floats) -> Floats:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2.0)[place]


def _numbered(firms: Sequence[object] | NDArray | None, rows: int) -> NDArray:
    if firms is None:
        return np.arange(rows)
    if len(firms) != rows:
        raise ValueError(f"each of the {rows} rows has a firm; {len(firms)} were given")
    return np.unique(np.asarray(firms), return_inverse=True)[1]


def _by_firm(values: Floats, cluster: NDArray, size: int) -> Floats:
    return np.column_stack([np.bincount(cluster, weights=column, minlength=size) for column in values.T])


def _covariance(of_bads: Floats, of_goods: Floats, cluster: NDArray, is_bad: NDArray) -> tuple[Floats, int]:
    m, n = int(is_bad.sum()), int((~is_bad).sum())
    with_bads, with_goods = np.unique(cluster[is_bad]).size, np.unique(cluster[~is_bad]).size
    pairs, firms = min(with_bads, with_goods), len(of_bads)
    if pairs < 2:
        return np.zeros((of_bads.shape[1],) * 2), pairs
    s10 = with_bads / ((with_bads - 1) * m) * of_bads.T @ of_bads
    s01 = with_goods / ((with_goods - 1) * n) * of_goods.T @ of_goods
    s11 = firms / (firms - 1) * of_bads.T @ of_goods
    return s10 / m + s01 / n + (s11 + s11.T) / (m * n), pairs


def _draws(drbg: Drbg, size: int) -> NDArray:
    """Return `size` places in [0, size); a place is off its even chance by less than size / 2^32."""
    words = np.frombuffer(drbg.bytes(4 * size), dtype="<u4").astype(np.uint64)
    return ((words * np.uint64(size)) >> np.uint64(32)).astype(np.intp)


def _weights_of_rows(drbg: Drbg, classes: Sequence[NDArray]) -> Callable[[], Floats]:
    def draw() -> Floats:
        weight = np.zeros(sum(rows.size for rows in classes))
        for rows in classes:
            weight[rows] = np.bincount(_draws(drbg, rows.size), minlength=rows.size)
        return weight

    return draw


def _weights_of_firms(drbg: Drbg, cluster: NDArray) -> Callable[[], Floats]:
    size = int(cluster.max()) + 1
    return lambda: np.bincount(_draws(drbg, size), minlength=size)[cluster].astype(np.float64)
