"""Features that know the outcome: a single one that ranks too well, or one that exists only after the decision.

A feature is judged alone, in two ways. As a number: its AUC as it stands. By levels: values are cut into at most 64 levels of
at least 50 rows, each text of at least 50 rows and "missing" being a level too, and the rows of one half are scored by the bad
rates of the other half's levels, so that a feature of many levels gains nothing by chance. The first finds a feature that
rises or falls with the outcome, the second one that does neither (a loan's final term), or whose presence is the outcome (a
date of default). Above 0.9, or below 0.1, the feature is flagged; credit features alone reach that only by knowing more than
the decision could.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lianxin.federation.evaluation import auc
from lianxin.federation.evaluation_intervals import auc_of_counts

TOO_GOOD = 0.9
LEVELS, LEAST_ROWS = 64, 50
AFTER_DECISION, RANKS_TOO_WELL = "known only after the decision", "ranks too well alone"


@dataclass(frozen=True)
class Leak:
    """A feature that is flagged, its single-variable AUC (at least 0.5; None where it has none), and why."""

    field: str
    auc: float | None
    reason: str


def leaks(
    labels: Sequence[int], columns: Mapping[str, Sequence[Any]], known_after: Collection[str] = ()
) -> tuple[Leak, ...]:
    """Return the flagged features of `columns` {field: a value a row}; those in `known_after` whatever they tell."""
    found = []
    for name, values in columns.items():
        alone = single_auc(labels, values)
        if name in known_after:
            found.append(Leak(name, alone, AFTER_DECISION))
        elif alone is not None and alone > TOO_GOOD:
            found.append(Leak(name, alone, RANKS_TOO_WELL))
    return tuple(found)


def leaks_of_bins(tables: Mapping[str, tuple[Sequence[int], Sequence[int]]], known_after: Collection[str] = ()) -> tuple[
    Leak, ...
]:  # fmt: skip
    """Return the flagged features of which only (goods, bads) a bin are known: what a platform can check."""
    found = []
    for name, (goods, bads) in tables.items():
        alone = auc_of_bins(goods, bads)
        if name in known_after:
            found.append(Leak(name, alone, AFTER_DECISION))
        elif alone is not None and alone > TOO_GOOD:
            found.append(Leak(name, alone, RANKS_TOO_WELL))
    return tuple(found)


def auc_of_bins(goods: Sequence[int], bads: Sequence[int]) -> float | None:
    """Return the AUC of ranking bins by their bad rate, None if a class is absent; on the rows that set the rates."""
    pairs = np.array([(g, b) for g, b in zip(goods, bads, strict=True) if g + b], dtype=np.float64).reshape(-1, 2)
    if not pairs.size or not pairs[:, 0].sum() or not pairs[:, 1].sum():
        return None
    order = np.argsort(-pairs[:, 1] / pairs.sum(axis=1), kind="stable")
    return auc_of_counts(pairs[order, 1], pairs[order, 0])


def single_auc(labels: Sequence[int], values: Sequence[Any]) -> float | None:
    """Return the better of a feature's two AUCs alone, turned to be at least 0.5; None if a class is absent.

    What is no number (text, dates) has levels alone.
    """
    outcome = np.asarray(labels)
    known = np.array([not _is_missing(value) for value in values], dtype=bool)
    has_text = any(not isinstance(value, int | float) for value, told in zip(values, known, strict=True) if told)
    found = [] if has_text else [auc(outcome[known], [float(v) for v, told in zip(values, known, strict=True) if told])]
    levels = _levels_of_text(values) if has_text else _levels_of_numbers(values, known)
    found.append(_crossed(outcome, levels))
    turned = [max(value, 1 - value) for value in found if value is not None]
    return max(turned, default=None)


def _levels_of_numbers(values: Sequence[Any], known: NDArray) -> NDArray:
    numbers = np.array([float(v) for v, told in zip(values, known, strict=True) if told])
    levels = np.zeros(len(known), dtype=np.intp)
    if numbers.size:
        count = max(1, min(LEVELS, numbers.size // LEAST_ROWS))
        cuts = np.unique(np.quantile(numbers, np.arange(1, count) / count, method="higher"))
        levels[known] = 1 + np.searchsorted(cuts, numbers, side="left")
    return levels


def _levels_of_text(values: Sequence[Any]) -> NDArray:
    texts = np.array(["" if _is_missing(value) else f"={value}" for value in values])
    _, place, counts = np.unique(texts, return_inverse=True, return_counts=True)
    kept = np.where(counts >= LEAST_ROWS, np.arange(1, counts.size + 1), 0)
    return kept[place]


def _crossed(outcome: NDArray, levels: ArrayLike) -> float | None:
    """Return the mean AUC of each half's rows scored by the bad rates of the other half."""
    level = np.asarray(levels)
    half = np.zeros(outcome.size, dtype=bool)
    for label in (0, 1):  # every other row of each class, so that both halves have both
        half[np.flatnonzero(outcome == label)[::2]] = True
    found = [_scored(outcome, level, half), _scored(outcome, level, ~half)]
    kept = [value for value in found if value is not None]
    return float(np.mean(kept)) if kept else None


def _scored(outcome: NDArray, level: NDArray, half: NDArray) -> float | None:
    others = ~half
    if not others.any():
        return None
    size, base = int(level.max()) + 1, float(outcome[others].mean())
    rows, bads = np.bincount(level[others], minlength=size), np.bincount(level[others], outcome[others], minlength=size)
    rates = (bads + base) / (rows + 1)  # one row at the base rate more: a level of few rows says little
    return auc(outcome[half], rates[level[half]])


def _is_missing(value: Any) -> bool:
    return value is None or value == "" or value != value
