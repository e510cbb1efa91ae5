"""All figures of some rows' scores in one value, and its record: `evaluate_models`.

A record is canonical JSON: shares, AUCs and probabilities are whole millionths. What does not exist is left out: figures of
rows of one class, calibration of scores that are no probabilities.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lianxin.crypto.randomness import Drbg
from lianxin.federation.evaluation_calibration import Band, Brier, HosmerLemeshow, brier, hosmer_lemeshow, pd_bands
from lianxin.federation.evaluation_importance import Importance
from lianxin.federation.evaluation_intervals import (
    Interval,
    Paired,
    areas,
    clustered,
    gini_interval,
    ks_interval,
    too_few,
    too_few_for_ks,
)
from lianxin.federation.evaluation_leaks import Leak
from lianxin.federation.evaluation_lift import LiftRow, lift_table
from lianxin.federation.evaluation_stability import Stability

JOINT = "joint"
CARD, MODEL = "card", "model"
TEST, TRAIN, OUT_OF_TIME = "test", "train", "out of time"
ONE_CLASS = "the rows hold one class of the label only: no figure of how well a score ranks exists"
NO_ROWS = "there are no such rows: nothing says how the model does on firms that it was not fitted on"
MICRO = 10**6
_MOST = 10**6  # a statistic above this, or infinite, is written as this


@dataclass(frozen=True)
class ModelFigures:
    """What one model's scores do on some rows; calibration is None where there are no probabilities.

    `chances` says whose probabilities were calibrated: `CARD` those that a card delivers, `MODEL` the scores themselves.
    """

    model: str
    auc: Interval
    gini: Interval
    ks: Interval
    lift: tuple[LiftRow, ...]
    brier: Brier | None
    hosmer_lemeshow: HosmerLemeshow | None
    bands: tuple[Band, ...]
    chances: str = "model"


@dataclass(frozen=True)
class Evaluation:
    """Every model on the same rows, and what the first, the joint one, gains over each other: {other: Paired}."""

    level: str
    rows: int
    bads: int
    firms: int
    notes: tuple[str, ...]
    models: Mapping[str, ModelFigures]
    first: str
    paired: Mapping[str, Paired]

    def to_record(self) -> dict[str, Any]:
        """Return the evaluation in whole millionths."""
        return {
            "level": self.level, "rows": self.rows, "bads": self.bads, "firms": self.firms, "notes": list(self.notes),
            "models": [_model_record(figures) for figures in self.models.values()],
            "paired": [{"first": self.first, "second": other, **_micro(test)} for other, test in self.paired.items()],
        }  # fmt: skip


def evaluate_models(
    labels: ArrayLike,
    scores: Mapping[str, ArrayLike],
    firms: Sequence[object] | NDArray | None,
    drbg: Drbg,
    level: str = TEST,
    is_fitted: bool = False,
    chances: Mapping[str, ArrayLike] | None = None,
) -> Evaluation:
    """Return the evaluation of `scores` {model: one score a row} on rows of these labels and firms.

    `chances` {model: one probability a row} are those that are delivered where they are not the scores themselves; Brier,
    Hosmer-Lemeshow and the bands are then theirs.

    The model `joint`, or the first named, is compared with every other. `is_fitted` says that these are training rows.
    Without both classes there are no models in it, and a note says why. ValueError on unusable input.
    """
    outcome = np.asarray(labels)
    rows, bads = int(outcome.size), int((outcome == 1).sum())
    of_firms = rows if firms is None else int(np.unique(np.asarray(firms)).size)
    first = JOINT if JOINT in scores else next(iter(scores), "")
    found = areas(outcome, scores, firms) if scores else None
    if found is None:
        return Evaluation(level, rows, bads, of_firms, (ONE_CLASS if rows else NO_ROWS,), {}, first, {})
    models = {}
    for model, vector in scores.items():
        area, distance = found.interval(model), ks_interval(outcome, vector, drbg.child("ks", level, model), firms)
        lift = lift_table(outcome, vector)
        assert distance is not None and lift is not None
        whose = CARD if model in (chances or {}) else MODEL
        calibrated = _calibration(outcome, chances[model] if chances and whose == CARD else vector, is_fitted)
        models[model] = ModelFigures(model, area, gini_interval(area), distance, lift, *calibrated, whose)
    said = (too_few(rows, bads), too_few_for_ks(rows, bads), clustered(rows, firms))
    notes = tuple(note for note in said if note)
    paired = {other: found.paired(first, other) for other in scores if other != first}
    return Evaluation(level, rows, bads, of_firms, notes, models, first, paired)


def run_record(
    run: str,
    party: str,
    levels: Sequence[Evaluation],
    segments: Sequence[Evaluation] = (),
    small_segments: int = 0,
    stability: Mapping[str, Stability] | None = None,
    importance: Sequence[Importance] = (),
    leaks: Sequence[Leak] = (),
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """Return the record `evaluation` of a run at a party (docs/records.md): canonical, without any firm."""
    return {
        "type": "evaluation", "version": 1, "run": run, "party": party, "notes": list(notes),
        "levels": [level.to_record() for level in levels],
        "segments": [level.to_record() for level in segments], "small_segments": small_segments,
        "stability": [
            {"name": name, "grade": found.grade, **_micro(found)} for name, found in (stability or {}).items()
        ],
        "importance": [{"block": item.block, **_micro(item, "block")} for item in importance],
        "leaks": [{"field": leak.field, "reason": leak.reason, **_micro(leak, "field", "reason")} for leak in leaks],
    }  # fmt: skip


def _calibration(
    outcome: NDArray, scores: ArrayLike, is_fitted: bool
) -> tuple[Brier | None, HosmerLemeshow | None, tuple[Band, ...]]:
    vector = np.asarray(scores, dtype=np.float64)
    if vector.min() < 0.0 or vector.max() > 1.0:
        return None, None, ()
    return brier(outcome, vector), hosmer_lemeshow(outcome, vector, is_fitted=is_fitted), pd_bands(outcome, vector)


def _model_record(figures: ModelFigures) -> dict[str, Any]:
    record: dict[str, Any] = {"model": figures.model, "lift": [_micro(row) for row in figures.lift]}
    record |= {name: _micro(getattr(figures, name)) for name in ("auc", "gini", "ks")}
    if figures.brier is not None:
        record |= {"brier": _micro(figures.brier), "bands": [_micro(band) for band in figures.bands]}
        record["chances"] = figures.chances
    if figures.hosmer_lemeshow is not None:
        record["hosmer_lemeshow"] = _micro(figures.hosmer_lemeshow)
    return record


def _micro(value: Any, *left_out: str) -> dict[str, int]:
    """Return the numbers of a dataclass: counts as they are, real ones in whole millionths; None is left out."""
    named = {item.name: getattr(value, item.name) for item in fields(value) if item.name not in left_out}
    return {
        name: number if isinstance(number, int) else round(min(number, _MOST) * MICRO)
        for name, number in named.items()
        if number is not None
    }
