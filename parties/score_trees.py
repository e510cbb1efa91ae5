"""A bank's finished boosted trees as they score firms: raw log-odds, a score in points, a chance of default.

    score = base_score + PDO / ln 2 · (-z - ln base_odds), rounded          z = the ensemble's log-odds of being bad
    chance of default = 1 / (1 + e^-z)

Higher is safer, on the scale that the run's contract gives scorecards. z is the sum of integers that training made of the
same row, so a served score is the trained one. A row without the platform's sides of the cuts is scored by the ensemble of
the bank's own features, which is kept beside the joint one, and says so. Trees have no reason codes.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lianxin.federation.boosting_ensemble import VALUE_BITS, Ensemble, Flags, Ints, TreeColumns, probabilities
from lianxin.federation.contract import RunContract
from lianxin.federation.errors import InputFault
from lianxin.federation.scoring import SubScore, sides_of_cuts
from lianxin.parties.coding import BinSpec
from lianxin.parties.scorecard_card import BANK_ONLY, BILLION, JOINT, MILLION, Band, Calibration, Card, CardScore
from lianxin.parties.scorecard_refit import bands_of
from lianxin.parties.tree_columns import kind_of, specs_of

BANK_TREES = "bank-trees"
Columns = Mapping[str, Sequence[Any]]


@dataclass(frozen=True)
class Scale:
    """Which points stand for which odds; see `scorecard_card`."""

    points_to_double_odds: int
    base_score: int
    base_odds: int

    @classmethod
    def of(cls, contract: RunContract) -> "Scale":
        """Return the scale of a run's contract."""
        return cls(contract.points_to_double_odds, contract.base_score, contract.base_odds)

    def points(self, raw: Ints) -> Ints:
        """Return the score of each log-odds at 2^24 of being bad."""
        safe = -raw / 2.0**VALUE_BITS - math.log(self.base_odds)
        return np.rint(self.base_score + self.points_to_double_odds / math.log(2.0) * safe).astype(np.int64)

    def bands(self, raw: Ints, labels: Sequence[int]) -> tuple[Band, ...]:
        """Return the scores of some rows in at most ten bands, as a card keeps them; none of no rows."""
        if not len(labels):
            return ()
        slope = -math.log(2.0) / self.points_to_double_odds
        intercept = -slope * self.base_score - math.log(self.base_odds)
        line = Calibration(round(intercept * MILLION), round(slope * BILLION), 0)
        return bands_of(self.points(raw), labels, line)


@dataclass(frozen=True)
class TreeModel:
    """A bank's trees of one run: `specs` are the bins of its own features, in order; `trained` the rows of the training in
    each of them by field, `banded` the training's scores in bands by `JOINT` and `BANK_ONLY`."""

    run: str
    scale: Scale
    specs: Mapping[str, BinSpec] = field(repr=False)
    joint: Ensemble = field(repr=False)
    bank_only: Ensemble = field(repr=False)
    trained: Mapping[str, tuple[int, ...]] = field(repr=False)
    banded: Mapping[str, tuple[Band, ...]] = field(repr=False)

    @property
    def fields(self) -> tuple[str, ...]:
        """The own features that a row needs."""
        return tuple(self.specs)

    @property
    def bins(self) -> tuple[BinSpec, ...]:
        """The bins of the own features."""
        return tuple(self.specs.values())

    def encode(self, columns: Columns) -> list[list[int]]:
        """Return each own feature's bins. Raises InputFault naming the columns that are not there."""
        if absent := [name for name in self.fields if name not in columns]:
            raise InputFault(
                f"the table has no column {', '.join(absent)}, which the trees of run {self.run} need; add it, empty where "
                "the value is not known"
            )
        return [spec.encode(columns[name]) for name, spec in self.specs.items()]

    def score(
        self, columns: Columns, values: Sequence[int | None], codes: Sequence[Sequence[int]] = ()
    ) -> list[CardScore]:
        """Return a score for each row. `values` has the platform's sides of the cuts of each row, or None for a row that has
        none, `codes` the numbers that came with it. Raises InputFault for a column that is not there, PeerError (Q04) for
        what is no part of these trees."""
        numbers = codes or [()] * len(values)
        pairs = list(zip(values, numbers, strict=True))
        joint = [row for row, value in enumerate(values) if value is not None]
        parts = [SubScore(value, tuple(given)) for value, given in pairs if value is not None]
        sides = sides_of_cuts(parts, len(self.joint.platform_cuts))
        alone = [row for row, value in enumerate(values) if value is None]
        bins, found = self.encode(columns), dict[int, CardScore]()
        for name, rows, raw in (
            (JOINT, joint, self.raw(bins, joint, sides)),
            (BANK_ONLY, alone, self.raw(bins, alone, None)),
        ):
            found.update(zip(rows, self._scores(name, raw), strict=True))
        return [found[row] for row in range(len(values))]

    def raw(self, bins: Sequence[Sequence[int]], rows: Sequence[int], sides: Flags | None) -> Ints:
        """Return the log-odds at 2^24 of these rows of the own bins, by the joint ensemble or, without sides, the own one."""
        if not len(rows):
            return np.zeros(0, dtype=np.int64)
        counts, kinds = [spec.count for spec in self.bins], [kind_of(spec) for spec in self.bins]
        own = TreeColumns.of([[column[row] for row in rows] for column in bins], counts, kinds, len(rows))
        if sides is None:
            return self.bank_only.raw_scores(own, np.zeros((len(rows), 0), dtype=np.bool_))
        return self.joint.raw_scores(own, sides)

    def _scores(self, name: str, raw: Ints) -> list[CardScore]:
        chances = np.rint(probabilities(raw) * MILLION).astype(np.int64).tolist()
        points = self.scale.points(raw).tolist()
        return [CardScore(name, score, chance, ()) for score, chance in zip(points, chances, strict=True)]

    def texts(self) -> dict[str, str]:
        """Return nothing: trees have no reason codes."""
        return {}

    def bands(self) -> dict[str, tuple[Band, ...]]:
        """Return the training's scores in bands by model, as `Card.bands`."""
        return dict(self.banded)

    def trained_rows(self) -> dict[str, tuple[int, ...]]:
        """Return the rows of the training in each own bin by field, as `Card.trained_rows`."""
        return dict(self.trained)


BankModel = Card | TreeModel


def service_record(contract: RunContract, own: TreeColumns, raw: Mapping[str, Ints], labels: Sequence[int]) -> Any:
    """Return what a bank's tree model keeps to be served: `feature_rows` by own feature and bin, `bands` of the scores.

    `own` are its training rows; `raw` {model: log-odds} and `labels` are of those that the platform lets be scored.
    """
    scale, names = Scale.of(contract), ("from", "to", "rows", "bads", "pd_micro")
    counted = zip(own.codes, own.shapes.bins, strict=True)
    return {
        "feature_rows": [np.bincount(codes, minlength=bins).tolist() for codes, bins in counted],
        "bands": {
            model: [dict(zip(names, band, strict=True)) for band in scale.bands(raw[model], labels)]
            for model in (JOINT, BANK_ONLY)
        },
    }  # fmt: skip


def read_tree_model(contract: RunContract, record: Mapping[str, Any]) -> TreeModel:
    """Return the trees that a bank's model record holds. Raises InputFault for one that is damaged."""
    try:
        specs = specs_of(record["features"])
        names = ("from", "to", "rows", "bads", "pd_micro")
        banded = {
            model: tuple(tuple(int(band[name]) for name in names) for band in record["bands"][model])
            for model in (JOINT, BANK_ONLY)
        }
        rows = [tuple(map(int, counts)) for counts in record["feature_rows"]]
        joint, alone = (Ensemble.from_record(record[name]) for name in ("ensemble", "bank_only"))
        shapes = TreeColumns.of([[]] * len(specs), *_shapes(specs), 0).shapes
        sound = all(shapes.fits(cut) for one in (joint, alone) for cut in one.own_cuts) and not alone.platform_cuts
        trained = dict(zip(specs, rows, strict=True))
    except (KeyError, TypeError, ValueError):
        sound = False
    if not sound:
        raise InputFault(f"the model of run {contract.run} is damaged or of an earlier version; train it again")
    return TreeModel(contract.run, Scale.of(contract), specs, joint, alone, trained, banded)  # type: ignore[arg-type]


def _shapes(specs: Mapping[str, BinSpec]) -> tuple[list[int], list[int]]:
    return [spec.count for spec in specs.values()], [kind_of(spec) for spec in specs.values()]
