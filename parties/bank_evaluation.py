"""What a bank finds out about its finished models, from its own labels and scores: `evaluation.json` beside the model.

Levels are the held-out rows, the training rows with score consent, and, where the configuration names a column of dates,
the latest of the held-out rows. Beside them stand segments, stability of own bins and scores from training to held-out rows,
importance of the platform's part and of each own column, and own features that look like leaks.

A run class leaves what is needed beyond the held-out scores as `Evidence` under `result["evidence"]`; without it the training
level, the stability of scores and the importance are left out. Nothing here leaves the bank, and nothing names a firm.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lianxin.crypto import canonical
from lianxin.federation.boosting_ensemble import Ensemble, Flags, TreeColumns
from lianxin.federation.errors import InputFault
from lianxin.federation.evaluation_importance import Importance, Scorer, additive, permutation_importance
from lianxin.federation.evaluation_leaks import leaks
from lianxin.federation.evaluation_models import (
    OUT_OF_TIME,
    TEST,
    TRAIN,
    Evaluation,
    evaluate_models,
    run_record,
)
from lianxin.federation.evaluation_segments import latest, segments
from lianxin.federation.evaluation_stability import Stability, stability_of_codes, stability_of_scores
from lianxin.parties.retention import write_beside

if TYPE_CHECKING:
    from lianxin.parties.bank_side import BankSide
    from lianxin.parties.config import EvaluationSection
    from lianxin.parties.records import LoanTable

EVALUATION = "evaluation.json"
EVIDENCE = "evidence"
PLATFORM_PART = ""  # the platform's columns, which move together; no column of a bank has this name
BANK_MODELS = ("joint", "bank_only")
NO_DATES = "no out-of-time test: no held-out row has a later date than the others"
AS_LATE = (
    "some training rows are as late as the rows of the out-of-time test: split the table by date, train before and test "
    "after, for one that stands for the future"
)
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Evidence:
    """What a run leaves for its evaluation.

    `train_rows` are rows of the bank's table that every model was fitted on, `train` {model: a score each}. `score` gives
    joint scores of the held-out rows when columns are handed to other rows; `columns` {party: the columns it knows}.
    `chances` {model: a probability a training row} are a card's, empty where the scores are the probabilities.
    """

    train_rows: Sequence[int] = field(repr=False)
    train: Mapping[str, Sequence[float]] = field(repr=False)
    score: Scorer = field(repr=False)
    columns: Mapping[str, Sequence[str]]
    chances: Mapping[str, Sequence[float]] = field(default_factory=dict, repr=False)


def linear_evidence(
    train_rows: Sequence[int],
    train: Mapping[str, Sequence[float]],
    coefficients: Floats,
    design: Floats,
    names: Sequence[str],
    platform: str,
    bank: str,
    chances: Mapping[str, Sequence[float]] | None = None,
) -> Evidence:
    """Return the evidence of a linear score: `design` is the held-out rows', intercept left out, the platform's part first."""
    parts = {name: design[:, place] * coefficients[1 + place] for place, name in enumerate((PLATFORM_PART, *names))}
    return Evidence(train_rows, train, additive(parts), {platform: (PLATFORM_PART,), bank: tuple(names)}, chances or {})


def tree_evidence(
    train_rows: Sequence[int],
    train: Mapping[str, Sequence[float]],
    ensemble: Ensemble,
    own: TreeColumns,
    sides: Flags,
    names: Sequence[str],
    platform: str,
    bank: str,
) -> Evidence:
    """Return the evidence of an ensemble: `own` and `sides` are the held-out rows' own columns and sides of cuts."""
    places = {name: place for place, name in enumerate(names)}

    def score(orders: Mapping[str, NDArray]) -> Floats:
        codes = own.codes.copy()
        for name, order in orders.items():
            if name != PLATFORM_PART:
                codes[places[name]] = own.codes[places[name]][order]
        moved = sides[orders[PLATFORM_PART]] if PLATFORM_PART in orders else sides
        return ensemble.predict(replace(own, codes=codes), moved)

    return Evidence(train_rows, train, score, {platform: (PLATFORM_PART,), bank: tuple(names)})


def check_columns(section: "EvaluationSection", table: "LoanTable") -> None:
    """Raise InputFault when the configuration evaluates by a column that the table has not got, or by one of no dates."""
    for key, names in (("segments", section.segments), ("time", [section.time] if section.time else [])):
        for name in names:
            if name not in table.columns:
                raise InputFault(
                    f"evaluation.{key}: the bank's table has no column {name}; name one of its own columns"
                )
    try:
        latest(table.columns[section.time] if section.time else [], section.latest_permille)
    except ValueError:
        raise InputFault(
            f"evaluation.time: the column {section.time} holds both numbers and text; write all dates as YYYY-MM-DD"
        ) from None


def write_evaluation(run: "BankSide", folder: Path) -> None:
    """Write a finished run's evaluation into its folder; a fault in it is told and costs neither the model nor the run."""
    try:
        write_beside(folder / EVALUATION, canonical.encode(evaluate_run(run)))
    except (ValueError, ArithmeticError) as fault:
        logging.getLogger("lianxin").exception("a fault in the evaluation of %s", run.contract.run)
        run.node.say(
            f"no evaluation of {run.contract.run}: a fault of this program ({type(fault).__name__}); report it"
        )


def evaluate_run(run: "BankSide") -> dict[str, Any]:
    """Return the record of a finished run's evaluation at this bank."""
    section, table, evidence = run.node.config.evaluation, run.table, run.result.get(EVIDENCE)
    rows = list(run.result["test_rows"])
    levels, notes = [_level(run, rows, _held_out(run), TEST, _held_out_chances(run))], list[str]()
    if evidence is not None:
        levels.append(_level(run, evidence.train_rows, evidence.train, TRAIN, evidence.chances))
    if section.time:
        late, note = _late(run, rows)
        levels += [_part_level(run, rows, late, OUT_OF_TIME)] if late.size else []
        notes += [note] if note else []
    parts, too_small = _segments(run, rows)
    training = run.training
    columns = {name: [table.columns[name][row] for row in training] for name in run.features if name in table.columns}
    flagged = leaks([table.labels[row] for row in training], columns, section.known_after)
    return run_record(
        run.contract.run, run.node.party, levels, parts, too_small, _stability(run, evidence), _importance(run, evidence),
        flagged, notes,
    )  # fmt: skip


def _held_out(run: "BankSide") -> dict[str, Floats]:
    return {name: np.asarray(run.result[name], dtype=np.float64) for name in BANK_MODELS if name in run.result}


def _held_out_chances(run: "BankSide") -> dict[str, Floats]:
    """Return the card's chances of default of the held-out rows, by model; none of a model without a card."""
    named = {name: f"{name}_pd" for name in BANK_MODELS}
    return {name: np.asarray(run.result[key], dtype=np.float64) for name, key in named.items() if key in run.result}


def _taken(scores: Mapping[str, Floats], places: NDArray) -> dict[str, Floats]:
    return {name: vector[places] for name, vector in scores.items()}


def _part_level(run: "BankSide", rows: Sequence[int], places: NDArray, level: str) -> Evaluation:
    taken = [_taken(vectors, places) for vectors in (_held_out(run), _held_out_chances(run))]
    return _level(run, [rows[k] for k in places], taken[0], level, taken[1])


def _level(
    run: "BankSide", rows: Sequence[int], scores: Mapping[str, Any], level: str, chances: Mapping[str, Any]
) -> Evaluation:
    labels, firms = [run.table.labels[row] for row in rows], [run.table.identifiers[row] for row in rows]
    return evaluate_models(labels, scores, firms, run.drbg.child("evaluation"), level, level == TRAIN, chances)


def _late(run: "BankSide", rows: Sequence[int]) -> tuple[NDArray, str]:
    """Return the places in `rows` of the latest ones, and what is to be said about them."""
    dates = run.table.columns[run.node.config.evaluation.time]
    late = latest([dates[row] for row in rows], run.node.config.evaluation.latest_permille)
    if not late.size:
        return late, NO_DATES
    first = min(dates[rows[place]] for place in late)
    trained = (dates[row] for row in run.training)
    is_mixed = any(isinstance(date, type(first)) and date >= first for date in trained)
    return late, AS_LATE if is_mixed else ""


def _segments(run: "BankSide", rows: Sequence[int]) -> tuple[list[Evaluation], int]:
    labels, firms = [run.table.labels[row] for row in rows], [run.table.identifiers[row] for row in rows]
    found, too_small = [], 0
    for name in run.node.config.evaluation.segments:
        parts = segments(labels, [run.table.columns[name][row] for row in rows], firms, name)
        too_small += parts.too_small
        found += [_part_level(run, rows, places, part) for part, places in parts.rows.items()]
    return found, too_small


def _stability(run: "BankSide", evidence: Evidence | None) -> dict[str, Stability]:
    """Return how alike training and held-out rows are, in each own feature's bins and in the scores."""
    found = {}
    parts = (run.training, run.result["test_rows"])
    for name, spec in run.specs.items():
        train, test = (spec.encode([run.table.columns[name][row] for row in part]) for part in parts)
        found[name] = stability_of_codes(train, test, spec.count)
    if evidence is not None:
        for model, scores in evidence.train.items():
            found[f"score {model}"] = stability_of_scores(scores, run.result[model])
    return {name: index for name, index in found.items() if index is not None}


def _importance(run: "BankSide", evidence: Evidence | None) -> tuple[Importance, ...]:
    if evidence is None or not run.result["test_rows"]:
        return ()
    blocks = {f"all of {party}": tuple(columns) for party, columns in evidence.columns.items() if columns}
    blocks |= {name: (name,) for name in evidence.columns.get(run.node.party, ())}
    drbg = run.drbg.child("evaluation", "importance")
    return permutation_importance(run.result["labels"], evidence.score, blocks, drbg)
