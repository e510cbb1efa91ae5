"""How well a score tells bad firms from good ones: AUC, KS, Gini and the curves behind them.

AUC is the Mann-Whitney statistic with ties shared by midranks (Hanley and McNeil 1982): the chance that a bad firm
drawn at random scores above a good one, ties counting one half. KS is the two-sample Kolmogorov-Smirnov distance,
max |TPR - FPR| over the distinct thresholds. Gini = 2 AUC - 1.

Labels are 0 or 1 and **1 is bad**; a higher score is riskier. None of these figures exists when one class is absent:
every function then returns None, and callers print that instead of a number.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def auc(labels: ArrayLike, scores: ArrayLike) -> float | None:
    """Return the area under the ROC curve in [0, 1], or None if one class is absent; ValueError on unusable input."""
    bads, goods, _ = _counts_from_riskiest(labels, scores)
    if not bads.sum() or not goods.sum():
        return None
    goods_below = goods.sum() - np.cumsum(goods)
    doubled_wins = int((bads * (2 * goods_below + goods)).sum())
    return doubled_wins / (2 * int(bads.sum()) * int(goods.sum()))


def ks(labels: ArrayLike, scores: ArrayLike) -> float | None:
    """Return max |TPR - FPR| over the distinct thresholds, in [0, 1], or None if one class is absent."""
    curves = ks_curves(labels, scores)
    return None if curves is None else float(np.abs(curves[1] - curves[2]).max())


def gini(area: float | None) -> float | None:
    """Return 2 `area` - 1 for an AUC, in [-1, 1]; None for None."""
    return None if area is None else 2 * area - 1


def roc_curve(labels: ArrayLike, scores: ArrayLike) -> tuple[Floats, Floats] | None:
    """Return (FPR, TPR) from (0, 0) to (1, 1), one point a distinct score after the first; None if a class is absent.

    The trapezoid area under these points is `auc`.
    """
    curves = ks_curves(labels, scores)
    if curves is None:
        return None
    return np.concatenate(([0.0], curves[2])), np.concatenate(([0.0], curves[1]))


def ks_curves(labels: ArrayLike, scores: ArrayLike) -> tuple[Floats, Floats, Floats] | None:
    """Return (thresholds, cumulative bads, cumulative goods), or None if one class is absent.

    Thresholds are the distinct scores, riskiest first; the other two are the shares of all bads (TPR) and of all
    goods (FPR) that score at or above them. The three have the same length and the shares end at 1.
    """
    bads, goods, thresholds = _counts_from_riskiest(labels, scores)
    if not bads.sum() or not goods.sum():
        return None
    return thresholds, np.cumsum(bads) / bads.sum(), np.cumsum(goods) / goods.sum()


def _counts_from_riskiest(labels: ArrayLike, scores: ArrayLike) -> tuple[NDArray, NDArray, Floats]:
    outcome, score = checked(labels, scores)
    distinct, place = np.unique(score, return_inverse=True)
    bads = np.bincount(place[outcome == 1], minlength=distinct.size)
    goods = np.bincount(place[outcome == 0], minlength=distinct.size)
    return bads[::-1], goods[::-1], distinct[::-1]


def checked(labels: ArrayLike, scores: ArrayLike) -> tuple[NDArray, Floats]:
    """Return labels and scores as vectors of one length; ValueError on labels other than 0 and 1, or a score that is NaN."""
    outcome, score = np.asarray(labels), np.asarray(scores, dtype=np.float64)
    if outcome.ndim != 1 or outcome.shape != score.shape:
        raise ValueError(f"labels and scores are two vectors of one length, not {outcome.shape} and {score.shape}")
    if not np.isin(outcome, (0, 1)).all():
        raise ValueError("labels are 0 (good) or 1 (bad); map other outcomes or drop their rows first")
    if np.isnan(score).any():
        raise ValueError("a score is not a number; drop those rows or say how they are to be ranked")
    return outcome, score
