"""Whether a predicted probability of default means what it says: Brier, Hosmer-Lemeshow, predicted against observed.

    Brier = mean (p - y)^2 = reliability - resolution + uncertainty + within   (Murphy 1973; Stephenson et al. 2008)
    Hosmer-Lemeshow = sum over groups of (O - E)^2 / (E (1 - E / n)), chi-square (Hosmer and Lemeshow 1980)

The decomposition is over tenths by score; `within` is what differences inside a group leave over, so that the four add up
exactly. Hosmer-Lemeshow has as many degrees of freedom as groups on rows that the model was not fitted on, two fewer on
its own. Observed rates have Wilson's interval (1927), which stays within [0, 1] and means something with no bads at all.

After sampling bads and goods at different rates, odds are put right by the odds of the two base rates (King and Zeng
2001, section 4.1). Labels are 0 or 1 and 1 is bad; probabilities are of bad, in [0, 1].
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lianxin.federation.evaluation import Floats, checked
from lianxin.federation.evaluation_intervals import Z95
from lianxin.federation.evaluation_lift import TENTHS, groups_by_score

PD_EDGES = (0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64)  # bands double: fixed, to compare over the years


@dataclass(frozen=True)
class Brier:
    """The Brier score and its parts: score = reliability - resolution + uncertainty + within."""

    score: float
    reliability: float
    resolution: float
    uncertainty: float
    within: float


@dataclass(frozen=True)
class HosmerLemeshow:
    """The statistic, its degrees of freedom, and the chance of one at least as large under right probabilities."""

    statistic: float
    degrees: int
    p: float


@dataclass(frozen=True)
class Band:
    """Rows of one band of predicted probability [lower, upper): mean prediction, observed rate and its interval."""

    lower: float
    upper: float
    rows: int
    bads: int
    predicted: float
    observed: float
    low: float
    high: float

    @property
    def holds(self) -> bool:
        """Whether the mean prediction lies in the interval of the observed rate."""
        return self.low <= self.predicted <= self.high


def brier(labels: ArrayLike, probabilities: ArrayLike, groups: int = TENTHS) -> Brier | None:
    """Return the Brier score and its parts, None without rows; ValueError on unusable input."""
    outcome, predicted = _checked(labels, probabilities)
    if not outcome.size:
        return None
    score, base = float(((predicted - outcome) ** 2).mean()), float(outcome.mean())
    rows, bads, expected = _sums(outcome, predicted, groups)
    reliability = float(((expected - bads) ** 2 / rows).sum() / outcome.size)
    resolution = float((rows * (bads / rows - base) ** 2).sum() / outcome.size)
    uncertainty = base * (1 - base)
    return Brier(score, reliability, resolution, uncertainty, score - reliability + resolution - uncertainty)


def hosmer_lemeshow(
    labels: ArrayLike, probabilities: ArrayLike, groups: int = TENTHS, is_fitted: bool = False
) -> HosmerLemeshow | None:
    """Return the test over groups by score, None where fewer than three groups have rows or a class is absent.

    `is_fitted` says that these are the rows that the model was fitted on. A group whose prediction is 0 or 1 for every row
    and wrong for one makes the statistic infinite and p 0.
    """
    from scipy.special import chdtrc  # with it comes SciPy, which a node that waits does not need

    outcome, predicted = _checked(labels, probabilities)
    if not 0 < outcome.sum() < outcome.size:
        return None
    rows, bads, expected = _sums(outcome, predicted, groups)
    if rows.size < 3:
        return None
    spread, distance = expected * (1 - expected / rows), (bads - expected) ** 2
    terms = np.divide(distance, spread, out=np.where(distance > 1e-18, np.inf, 0.0), where=spread > 1e-15)
    statistic, degrees = float(terms.sum()), int(rows.size) - (2 if is_fitted else 0)
    return HosmerLemeshow(statistic, degrees, float(chdtrc(degrees, statistic)) if np.isfinite(statistic) else 0.0)


def pd_bands(labels: ArrayLike, probabilities: ArrayLike, edges: Sequence[float] = PD_EDGES) -> tuple[Band, ...]:
    """Return the bands between `edges` (rising, inside (0, 1)) that have rows; ValueError on unusable input."""
    outcome, predicted = _checked(labels, probabilities)
    bounds = (0.0, *edges, 1.0)
    if any(low >= high for low, high in pairwise(bounds)):
        raise ValueError("the edges of bands rise and lie between 0 and 1")
    band = np.searchsorted(np.asarray(edges), predicted, side="right")
    found = []
    for k in np.unique(band):
        rows = band == k
        count, bads = int(rows.sum()), int(outcome[rows].sum())
        low, high = wilson(bads, count)
        mean = float(predicted[rows].mean())
        found.append(Band(bounds[k], bounds[k + 1], count, bads, mean, bads / count, low, high))
    return tuple(found)


def wilson(bads: int, rows: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a rate of `bads` in `rows`; ValueError unless 0 <= bads <= rows, rows > 0."""
    if not 0 <= bads <= rows or rows < 1:
        raise ValueError("a rate needs at least one row and no more bads than rows")
    rate, weight = bads / rows, Z95**2 / rows
    centre = (rate + weight / 2) / (1 + weight)
    half = Z95 * (rate * (1 - rate) / rows + weight / (4 * rows)) ** 0.5 / (1 + weight)
    return (0.0 if bads == 0 else centre - half), (1.0 if bads == rows else centre + half)


def prior_corrected(probabilities: ArrayLike, sampled: float, actual: float) -> Floats:
    """Return probabilities learnt where the share of bads was `sampled` as they are where it is `actual`.

    ValueError unless both shares lie strictly between 0 and 1.
    """
    if not (0 < sampled < 1 and 0 < actual < 1):
        raise ValueError("the shares of bads before and after sampling lie strictly between 0 and 1")
    given = _probabilities(probabilities)
    bad, good = given * (actual / sampled), (1 - given) * ((1 - actual) / (1 - sampled))
    return bad / (bad + good)


def _checked(labels: ArrayLike, probabilities: ArrayLike) -> tuple[NDArray, Floats]:
    outcome, predicted = checked(labels, probabilities)
    return outcome, _probabilities(predicted)


def _probabilities(values: ArrayLike) -> Floats:
    given = np.asarray(values, dtype=np.float64)
    if given.size and not (given.min() >= 0.0 and given.max() <= 1.0):
        raise ValueError("these scores are no probabilities; calibrate them before asking how well they are calibrated")
    return given


def _sums(outcome: NDArray, predicted: Floats, groups: int) -> tuple[Floats, Floats, Floats]:
    """Return rows, bads and expected bads of each group that has rows."""
    group = groups_by_score(predicted, groups)
    rows = np.bincount(group, minlength=groups).astype(np.float64)
    sums = (np.bincount(group, weights=each, minlength=groups) for each in (outcome, predicted))
    bads, expected = (each.astype(np.float64) for each in sums)
    kept = rows > 0
    return rows[kept], bads[kept], expected[kept]
