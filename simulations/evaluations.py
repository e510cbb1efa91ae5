"""The intervals and paired tests of a finished simulation: every model on the same held-out rows, level by level.

Only a simulation has the pooled models, so that only here "joint less pooled" is tested. What each bank found out about its
own models is in its `evaluation.json`.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lianxin.crypto.randomness import Drbg, derive_seed
from lianxin.federation.evaluation_leaks import leaks_of_bins
from lianxin.federation.evaluation_models import JOINT, MICRO, evaluate_models, run_record
from lianxin.parties.bank_evaluation import EVALUATION
from lianxin.parties.node import simulated_seed
from lianxin.simulations.layout import RUN, Layout
from lianxin.simulations.pooled import OVERALL

FEDERATED = "federated"
TEST_KEYS = ("difference", "low", "high", "p")
Curves = Mapping[str, Mapping[str, Any]]


def compare(layout: Layout, curves: Curves, scores: Mapping[str, Any]) -> dict[str, Any]:
    """Return the record `evaluation` of all levels, whose names are `overall` and the banks'.

    `curves` {level: {model: {"labels", "scores"}}} are the held-out rows, `scores` the banks' files, whose `subjects` tell
    which rows are of one firm at a bank; a firm of two banks counts as two.
    """
    drbg = Drbg(derive_seed(simulated_seed(layout.terms.seed), "evaluation"))
    levels = [
        evaluate_models(labels, models, _firms(level, scores), drbg, level, chances=_chances(curves[level]))
        for level, (labels, models) in ((level, _same_rows(curves[level])) for level in curves)
        if len(labels)
    ]
    return run_record(RUN, OVERALL, levels)


def comparisons(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return of a record `intervals` {level: {model: [low, high]}} of the AUC and `paired` {level: {"joint-other": test}}."""
    levels = record["levels"]
    return {
        "intervals": {
            one["level"]: {m["model"]: [_real(m["auc"]["low"]), _real(m["auc"]["high"])] for m in one["models"]}
            for one in levels
        },
        "paired": {
            one["level"]: {
                f"{test['first']}-{test['second']}": {name: _real(test[name]) for name in TEST_KEYS}
                for test in one["paired"]
            }
            for one in levels
        },
    }


def bank_records(layout: Layout) -> dict[str, Any]:
    """Return the evaluation that each bank wrote, by bank; without those that did not finish."""
    records = {party: read_record(layout.run_state(party)) for party in layout.parties[1:]}
    return {party: record for party, record in records.items() if record is not None}


def read_record(folder: Path) -> dict[str, Any] | None:
    """Return the evaluation in a folder, None where there is none."""
    path = folder / EVALUATION
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _same_rows(models: Mapping[str, Any]) -> tuple[Sequence[int], dict[str, Sequence[float]]]:
    """Return the labels and the scores of the joint or federated model and of each other that was scored on the same rows."""
    first = next((name for name in (JOINT, FEDERATED) if name in models), "")
    if not first:
        return [], {}
    labels = models[first]["labels"]
    return labels, {name: model["scores"] for name, model in models.items() if list(model["labels"]) == list(labels)}


def _chances(models: Mapping[str, Any]) -> dict[str, Sequence[float]]:
    """Return the chances of default that cards deliver, by model; every model with a card is scored on the joint one's rows."""
    return {name: model["chances"] for name, model in models.items() if "chances" in model}


def _firms(level: str, scores: Mapping[str, Any]) -> list[str]:
    banks = list(scores) if level == OVERALL else [level]
    return [f"{bank} {subject}" for bank in banks for subject in scores[bank]["subjects"]]


def _real(micro: int) -> float:
    return micro / MICRO


def evaluation_parts(layout: Layout, record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parts of a report's summary: `evaluation` of all levels, `bank_evaluations`, and the features that leak."""
    platform = layout.run_state(layout.parties[0]) / "model.json"
    features = json.loads(platform.read_text(encoding="utf-8")).get("features", []) if platform.is_file() else []
    tables = {f["field"]: (f["goods"], f["bads"]) for f in features if {"goods", "bads"} <= set(f)}
    flagged = [
        {"field": leak.field, "reason": leak.reason, **({} if leak.auc is None else {"auc": round(leak.auc * MICRO)})}
        for leak in leaks_of_bins(tables)
    ]
    banks = bank_records(layout)
    leaking = {layout.parties[0]: flagged, **{party: found["leaks"] for party, found in banks.items()}}
    return {"evaluation": record, "bank_evaluations": banks, "leaks": leaking}
