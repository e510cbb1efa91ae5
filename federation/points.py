"""Integer points of a scorecard: what each bin is worth, what crosses as a sub-score, and what it stands for.

**Sign.** Points are higher for a safer firm, and `points_to_double_odds` (PDO) more of them double the odds good:bad:

    worth of a bin  = round(-w · WOE · PDO / ln 2 · units)     w < 0 where the label 1 is bad and WOE > 0 is safer
    sub-score       = ⌊(Σ over the features of the worth of the firm's bin) / units + 1/2⌋, within ±round(16 · PDO / ln 2)
    log-odds of bad = -sub-score · ln 2 / PDO

A table of integers, and nothing else, makes the sub-score: the same bins give the same whole points at training
(protocols.md, section 5, step 6) and in every scoring after it. A platform's table is in hundredths of a point (`units`),
so that a sub-score is half a point off and not half a point a feature: with 33 features and a PDO of 20 the whole points
of 33 bins cost 0.0008 of AUC, hundredths nothing. A bank's own card has whole points (`units` 1), for people to add up.

A `PointsTable` is also what reason codes are made of (`reasons`): a feature's points lost against its best bin, or
against its mean over the rows of the training.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lianxin.federation.errors import InputFault

LOG_ODDS_LIMIT = 16
HUNDREDTHS = 100
POINT_LIMIT = 1 << 24
WOE_SCALE = 4096.0  # weights of evidence are kept at 2^12
BASELINES = ("best", "mean")
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class FeaturePoints:
    """One feature of a card: its field id, and for each bin what it is worth (in the table's units) and its rows at
    training."""

    field: str
    points: tuple[int, ...]
    rows: tuple[int, ...]

    @property
    def best(self) -> int:
        """What the safest bin is worth."""
        return max(self.points)

    @property
    def mean(self) -> int:
        """The mean worth over the rows of the training, rounded; of all bins alike where no rows are known."""
        rows = self.rows if sum(self.rows) else (1,) * len(self.points)
        return round(sum(p * n for p, n in zip(self.points, rows, strict=True)) / sum(rows))

    def baseline(self, against: str = "best") -> int:
        """Return what points are lost against: `best` or `mean`. ValueError for anything else."""
        if against not in BASELINES:
            raise ValueError(f"points are lost against one of {', '.join(BASELINES)}")
        return self.best if against == "best" else self.mean


@dataclass(frozen=True)
class PointsTable:
    """The points of one party's features, in the order in which bins are given; `units` of worth are one point."""

    features: tuple[FeaturePoints, ...]
    points_to_double_odds: int
    units: int = 1

    def sums(self, bins: Sequence[ArrayLike]) -> Integers:
        """Return the sub-score of each row, in whole points, from a vector of bin numbers for each feature."""
        if len(bins) != len(self.features) or not bins:
            raise ValueError(f"a table of {len(self.features)} features takes as many columns of bins, not {len(bins)}")
        columns = [
            np.array(f.points, dtype=np.int64)[np.asarray(b, dtype=np.intp)]
            for f, b in zip(self.features, bins, strict=True)
        ]
        limit = sub_score_limit(self.points_to_double_odds)
        total = np.sum(columns, axis=0, dtype=np.int64)
        return np.clip((2 * total + self.units) // (2 * self.units), -limit, limit)

    def lost(self, bins: Sequence[int], against: str = "best") -> dict[str, int]:
        """Return by field what one firm lost, in units, given its bin of each feature; not above 0 where nothing is."""
        pairs = zip(self.features, bins, strict=True)
        return {f.field: f.baseline(against) - f.points[b] for f, b in pairs}

    def to_record(self) -> list[dict[str, Any]]:
        """Return the table as canonical-JSON values, a feature an entry."""
        return [
            {"field": f.field, "points": list(f.points), "units": self.units, "rows": list(f.rows)}
            for f in self.features
        ]


def points_table(features: Sequence[Mapping[str, Any]], points_to_double_odds: int) -> PointsTable:
    """Return the table in a model record's `features`, each with `field`, `points`, `rows` and, unless 1, `units`.

    Raises InputFault when an entry has none: the model was made before 0.4, and has to be trained again to be served.
    """
    units = {entry.get("units", 1) for entry in features} or {1}
    table = tuple(_feature(entry) for entry in features)
    if len(units) > 1 or not units <= {1, HUNDREDTHS}:
        raise InputFault("a model's points table mixes units; train the model again with this version")
    return PointsTable(table, points_to_double_odds, units.pop())


def _feature(entry: Mapping[str, Any]) -> FeaturePoints:
    try:
        points, rows = tuple(entry["points"]), tuple(entry["rows"])
        known = bool(points) and len(rows) == len(points) and isinstance(entry["field"], str)
        known = known and all(type(v) is int and abs(v) <= POINT_LIMIT for v in points)
        known = known and all(type(v) is int and v >= 0 for v in rows)
    except (KeyError, TypeError):
        known = False
    if not known:
        raise InputFault("a model's points table is missing or damaged; train the model again with this version")
    return FeaturePoints(entry["field"], points, rows)


def factor(points_to_double_odds: int) -> float:
    """Return how many points one unit of log-odds is: PDO / ln 2."""
    return points_to_double_odds / math.log(2.0)


def sub_score_limit(points_to_double_odds: int) -> int:
    """Return the largest sub-score: the points of log-odds of 16, the limit of every score of the protocol."""
    return round(LOG_ODDS_LIMIT * factor(points_to_double_odds))


def bin_points(weight: float, woe: Sequence[int], points_to_double_odds: int, units: int = 1) -> tuple[int, ...]:
    """Return what each bin of a feature of this weight is worth, from its weights of evidence at 2^12.

    Halves go to the even number.
    """
    return tuple(round(-weight * w / WOE_SCALE * factor(points_to_double_odds) * units) for w in woe)


def log_odds(points: ArrayLike, points_to_double_odds: int) -> NDArray[np.float64]:
    """Return the log-odds of *bad* that points stand for: fewer points, higher odds."""
    return -np.asarray(points, dtype=np.float64) / factor(points_to_double_odds)


def rounding(exact: ArrayLike, points: ArrayLike) -> dict[str, int]:
    """Return by how much integer points miss the exact ones: `largest_milli` and `mean_milli`, in thousandths."""
    distance = np.abs(np.asarray(exact, dtype=np.float64) - np.asarray(points, dtype=np.float64))
    if not distance.size:
        return {"largest_milli": 0, "mean_milli": 0}
    return {"largest_milli": round(float(distance.max()) * 1000), "mean_milli": round(float(distance.mean()) * 1000)}
