"""Lift and gain: what a cut through the ranking catches, by tenths of the rows.

Rows are ranked riskiest first and put into `groups` of about one size. Rows of equal score are never torn apart: a score
goes where the middle of its rows lies, so that groups may differ in size and one may be missing where many scores tie.
Labels are 0 or 1 and 1 is bad; a higher score is riskier.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lianxin.federation.evaluation import Floats, checked

TENTHS = 10


@dataclass(frozen=True)
class LiftRow:
    """One group; `caught` and `flagged` are the shares of all bads and of all goods in it and the riskier ones."""

    group: int
    rows: int
    bads: int
    lift: float
    cumulative_lift: float
    caught: float
    flagged: float

    @property
    def bad_rate(self) -> float:
        """The share of bads in the group."""
        return self.bads / self.rows


def groups_by_score(scores: Floats, groups: int = TENTHS) -> NDArray:
    """Return each row's group, 0 for the riskiest; rows of equal score share one. Every number below `groups` may miss."""
    _, place, counts = np.unique(-scores, return_inverse=True, return_counts=True)
    middle = np.cumsum(counts) - counts / 2
    return np.minimum((middle * groups / max(scores.size, 1)).astype(np.intp), groups - 1)[place]


def lift_table(labels: ArrayLike, scores: ArrayLike, groups: int = TENTHS) -> tuple[LiftRow, ...] | None:
    """Return the groups that have rows, riskiest first, or None if a class is absent; ValueError on unusable input.

    Lift is the group's bad rate by that of all rows; the cumulative one is of this group and the riskier ones.
    """
    outcome, score = checked(labels, scores)
    total = int(outcome.sum())
    if not 0 < total < outcome.size:
        return None
    group = groups_by_score(score, groups)
    rows, bads = np.bincount(group, minlength=groups), np.bincount(group[outcome == 1], minlength=groups)
    rate, all_rows, all_bads = total / outcome.size, np.cumsum(rows), np.cumsum(bads)
    return tuple(
        LiftRow(
            k + 1,
            int(rows[k]),
            int(bads[k]),
            float(bads[k] / rows[k] / rate),
            float(all_bads[k] / all_rows[k] / rate),
            float(all_bads[k] / total),
            float((all_rows[k] - all_bads[k]) / (outcome.size - total)),
        )
        for k in range(groups)
        if rows[k]
    )
