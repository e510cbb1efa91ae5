"""The figures of a finished simulation: bank-only, joint and the references in clear, side by side.

Only a simulation may look into every node's state folder; it reads the models and held-out scores that the nodes kept,
codes the raw tables with them, and fits the references on exactly the rows that were trained on.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from lianxin.crypto import canonical
from lianxin.federation import evaluation
from lianxin.federation.contract import RunContract, parse_contract
from lianxin.parties import coding
from lianxin.parties.auditor import Verdict, verify_run
from lianxin.parties.records import LoanTable, load_firm_table, load_loan_table, read_table
from lianxin.simulations import evaluations
from lianxin.simulations.layout import RUN, Layout
from lianxin.simulations.pooled import OVERALL, PooledBank, PooledResult, pooled_reference
from lianxin.simulations.results_star import VERTICAL, StarBank, recommend, validation_aucs, vertical_scores
from lianxin.simulations.results_trees import TreeRun, pooled_trees, tree_figures
from lianxin.simulations.runner import Ran
from lianxin.simulations.tables import PartyInput

MODELS = ("bank_only", "joint", "pooled", "pooled_single")
_SCALE = 4096.0


@dataclass(frozen=True)
class Outcome:
    """Everything that a finished simulation shows: `figures` is the --json object, `models` the banks' own."""

    figures: dict[str, Any]
    curves: dict[str, Any]
    platform_model: Mapping[str, Any]
    verdict: Verdict
    evaluation: Mapping[str, Any]
    models: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, repr=False)


def verify_apart(folder: Path) -> Callable[[], Verdict]:
    """Start verifying a run's evidence in another process; return what waits for its verdict."""
    pool = ProcessPoolExecutor(1, mp_context=get_context("forkserver"))
    waiting = pool.submit(verify_run, folder)
    pool.shutdown(wait=False)
    return waiting.result


def verify_here(folder: Path) -> Callable[[], Verdict]:
    """Verify a run's evidence in this process when it is asked for."""
    return lambda: verify_run(folder)


def gather(layout: Layout, ran: Ran, verify: Callable[[Path], Callable[[], Verdict]] = verify_here) -> Outcome:
    """Return the figures of a finished run; `verify` may work beside what is fitted here."""
    waiting = verify(layout.folder)
    platform_model = _read(layout.run_state(layout.parties[0]) / "model.json")
    banks = [bank.party for bank in layout.inputs.banks if (layout.run_state(bank.party) / "model.json").exists()]
    models = {bank: _read(layout.run_state(bank) / "model.json") for bank in banks}
    scores = {bank: _read(layout.run_state(bank) / "scores.json") for bank in banks}
    if layout.terms.is_network:
        return _of_network(layout, ran, waiting, platform_model, models, scores)
    names = MODELS[:3] if layout.terms.is_trees else MODELS  # an ensemble is one bank's: none is over all their rows
    reference = _clear_trees if layout.terms.is_trees else _pooled
    pooled = reference(layout, platform_model, models) if banks else None
    curves = _curves(scores, pooled)
    beside = {} if layout.terms.is_trees or len(models) < 2 else _beside(layout, platform_model, models, curves)
    names = (*names, VERTICAL) if beside else names
    record = evaluations.compare(layout, curves, scores)
    verdict = waiting()
    figures = {
        "run_dir": str(layout.folder),
        "matched": {OVERALL: sum(ran.summary["matched"].values()), **ran.summary["matched"]},
        "rounds": layout.terms.turns,
        "auc": {level: _figures(models_, evaluation.auc, names) for level, models_ in curves.items()},
        "ks": {level: _figures(models_, evaluation.ks, names) for level, models_ in curves.items()},
        **evaluations.comparisons(record),
        "seconds": seconds_of(ran.events),
        "bytes_sent": dict(ran.bytes_sent),
        "refused": refused_of(layout, platform_model),
        "ledger_verified": verdict.ok,
        "transcript_sha256": ran.summary["transcript_sha256"],
        **beside,
    }
    if layout.terms.is_trees:
        clear = {level: row["pooled"] for level, row in figures["auc"].items()}
        figures |= {"auc_clear": clear, **tree_figures(models, ran.events)}
    return Outcome(figures, curves, platform_model, verdict, record, models)


def _of_network(
    layout: Layout, ran: Ran, waiting: Callable[[], Verdict], platform_model: Mapping[str, Any], models: dict[str, Any],
    scores: dict[str, Any],
) -> Outcome:  # fmt: skip
    from lianxin.simulations.results_networks import (  # with torch, which others do without
        network_curves,
        network_figures,
    )

    contract = contract_of(layout)
    curves = network_curves(layout, contract, models, scores)
    record = evaluations.compare(layout, curves, scores)
    verdict = waiting()
    figures = {
        "run_dir": str(layout.folder),
        **network_figures(layout, contract, platform_model, models, curves),
        **evaluations.comparisons(record),
        "seconds": seconds_of(ran.events),
        "bytes_sent": dict(ran.bytes_sent),
        "refused": refused_of(layout, platform_model),
        "ledger_verified": verdict.ok,
        "transcript_sha256": ran.summary["transcript_sha256"],
    }
    return Outcome(figures, curves, platform_model, verdict, record, models)


def _beside(
    layout: Layout, platform_model: Mapping[str, Any], models: Mapping[str, Any], curves: dict[str, Any]
) -> dict[str, Any]:
    """Add each bank's scorecard with the platform alone to `curves`; return what is recommended to whom, and by what."""
    banks = star_banks(layout, platform_model, models)
    contract = contract_of(layout)
    terms = contract.rounds, contract.ridge, contract.sign_check == "drop"
    found = vertical_scores(banks, *terms)
    for level in curves:
        scored = [s for bank in found for s in found[bank]] if level == OVERALL else found[level]
        curves[level][VERTICAL] = {"labels": curves[level]["joint"]["labels"], "scores": scored}
    validation = validation_aucs(banks, *terms)
    return {"recommended": recommend(validation), "validation_auc": validation}


def star_banks(layout: Layout, platform_model: Mapping[str, Any], models: Mapping[str, Any]) -> list[StarBank]:
    """Return each bank's rows of a finished scorecard run, the platform's columns as bins and in their common weights."""
    features = platform_model["features"]
    numbered = [{**one, "woe": [k * _SCALE for k in range(len(one["woe"]))]} for one in features]
    woe = [np.array(one["woe"], dtype=float) / _SCALE for one in features]
    banks, inputs = [], {bank.party: bank for bank in layout.inputs.banks}
    for bank in joined_banks(layout, {**platform_model, "features": numbered}, models):
        train, test = bank.shared_train.astype(int), bank.shared_test.astype(int)
        shared = [np.stack([w[codes[:, k]] for k, w in enumerate(woe)], axis=1) for codes in (train, test)]
        model, identifiers = models[bank.name], _loans(layout, inputs[bank.name]).identifiers
        live = [r for r, is_live in zip(model["training_rows"], model["active"], strict=True) if is_live]
        numbers = {firm: number for number, firm in enumerate(dict.fromkeys(identifiers[row] for row in live))}
        firms = np.array([numbers[identifiers[row]] for row in live])
        joined = replace(bank, shared_train=shared[0], shared_test=shared[1])
        banks.append(StarBank(joined, train, test, tuple(len(w) for w in woe), firms))
    return banks


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _figures(models: Mapping[str, Any], measure: Any, names: Sequence[str]) -> dict[str, float | None]:
    """Return one figure a model; None where a model or a class is absent."""
    return {
        name: measure(models[name]["labels"], models[name]["scores"])
        if name in models and models[name]["labels"]
        else None
        for name in names
    }


def _curves(scores: Mapping[str, Any], pooled: PooledResult | None) -> dict[str, Any]:
    levels: dict[str, dict[str, Any]] = {OVERALL: {}}
    for bank in scores:
        levels[bank] = {m: {"labels": scores[bank]["labels"], **_by_row(scores[bank], m)} for m in MODELS[:2]}
    for model in MODELS[:2]:
        labels = [y for bank in scores for y in scores[bank]["labels"]]
        vectors = [_by_row(scores[bank], model) for bank in scores]
        joined = {key: [s for one in vectors for s in one[key]] for key in (vectors[0] if vectors else {"scores": []})}
        levels[OVERALL][model] = {"labels": labels, **joined}
    for name in MODELS[2:]:
        figures = getattr(pooled, name) if pooled is not None else None
        if pooled is not None and figures is not None:
            for level in levels:
                predicted = figures.predictions[level].tolist()
                levels[level][name] = {"labels": pooled.labels[level].tolist(), "scores": predicted}
    return levels


def _by_row(scores: Mapping[str, Any], model: str) -> dict[str, Any]:
    """Return a model's scores and, where its card gives chances of its own, these."""
    chances = scores.get(f"{model}_pd")
    return {"scores": scores[model], **({} if chances is None else {"chances": chances})}


def contract_of(layout: Layout) -> RunContract:
    """Return the contract of a finished run, from the platform's evidence."""
    path = layout.home(layout.parties[0]) / "evidence" / "contract.json"
    return parse_contract(_read(path)["record"])


def _clear_trees(layout: Layout, platform_model: Mapping[str, Any], models: Mapping[str, Any]) -> PooledResult:
    return pooled_trees(tree_runs(layout, platform_model, models))


def tree_runs(layout: Layout, platform_model: Mapping[str, Any], models: Mapping[str, Any]) -> list[TreeRun]:
    """Return what each bank's ensemble of a finished run is grown again from."""
    inputs, contract = layout.inputs, contract_of(layout)
    firms = load_firm_table(read_table(inputs.platform.file), inputs.id_column)
    return [
        TreeRun(contract, bank.party, layout.terms.seed, platform_model, models[bank.party], firms, _loans(layout, bank))
        for bank in inputs.banks if bank.party in models
    ]  # fmt: skip


def _loans(layout: Layout, bank: PartyInput) -> LoanTable:
    inputs = layout.inputs
    return load_loan_table(
        read_table(bank.file), inputs.id_column, inputs.label_column, inputs.split_column, inputs.loan_id_column
    )


def _pooled(layout: Layout, platform_model: Mapping[str, Any], models: Mapping[str, Any]) -> PooledResult:
    banks = joined_banks(layout, platform_model, models)
    return pooled_reference(banks, layout.terms.minimums.get("ridge_thousandths", 1000) / 1000)


def joined_banks(layout: Layout, platform_model: Mapping[str, Any], models: Mapping[str, Any]) -> list[PooledBank]:
    """Return each bank's rows of a finished scorecard run joined with the platform's, in the run's bins and WOE."""
    inputs = layout.inputs
    firms = load_firm_table(read_table(inputs.platform.file), inputs.id_column)
    row_of = {firm: row for row, firm in enumerate(firms.identifiers)}
    banks = []
    for bank in inputs.banks:
        if bank.party not in models:
            continue
        model = models[bank.party]
        loans = _loans(layout, bank)
        train = [row for row, live in zip(model["training_rows"], model["active"], strict=True) if live]
        parts = {}
        for name, rows in (("train", train), ("test", model["test_rows"])):
            places = [row_of[loans.identifiers[row]] for row in rows]
            parts[f"shared_{name}"] = _coded(platform_model["features"], firms.columns, places)
            parts[f"own_{name}"] = _coded(model["features"], loans.columns, rows)
            parts[f"y_{name}"] = np.array([loans.labels[row] for row in rows])
        columns = tuple(feature["field"] for feature in model["features"])
        banks.append(PooledBank(name=bank.party, own_columns=columns, **parts))
    return banks


def _coded(
    features: Sequence[Mapping[str, Any]], columns: Mapping[str, Sequence[Any]], rows: Sequence[int]
) -> np.ndarray:
    coded = []
    for feature in features:
        spec = coding.BinSpec.from_record(feature["bins"])
        codes = spec.encode([columns[feature["field"]][row] for row in rows])
        merged = feature.get("merged")
        bins = [merged[code] for code in codes] if merged else codes
        coded.append(np.array(feature["woe"], dtype=float)[np.array(bins, dtype=int)] / _SCALE)
    return np.stack(coded, axis=1) if coded else np.zeros((len(rows), 0))


def seconds_of(events: Sequence[tuple[float, str]]) -> dict[str, float]:
    """Return the seconds of each phase and in all, from a run's notes of progress."""
    marks = {note: at for at, note in events if note.startswith("phase ")}
    end = events[-1][0]
    order = ["phase matching", "phase binning", "phase training", "phase scoring"]
    times = [marks.get(name, end) for name in order] + [end]
    spans = {name.removeprefix("phase "): round(times[k + 1] - times[k], 3) for k, name in enumerate(order)}
    return {"matching": spans["matching"], "binning": spans["binning"], "training": spans["training"],
            "total": round(end - events[0][0], 3)}  # fmt: skip


def refused_of(layout: Layout, platform_model: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that the gate or the platform left out, and how many firms lacked a consent at matching."""
    fields = {entry["field"] for entry in platform_model["refused"]}
    firms = 0
    for party in layout.parties:
        for leaf in leaves_of(layout, party):
            if leaf["kind"] == "release":
                fields |= {entry["field"] for entry in leaf["refused"]}
                firms += sum(e["firms"] for e in leaf["excluded"]) if is_first_of(leaf) else 0
    return {"fields": sorted(fields), "firms": firms}


def is_first_of(leaf: Mapping[str, Any]) -> bool:
    """Return whether a release leaf is of the step in which a run first asks for its firms."""
    return leaf["step"] == "matching.query" or (leaf["step"] == "learning.exchange" and not leaf["round"])


def leaves_of(layout: Layout, party: str) -> list[dict[str, Any]]:
    """Return a party's ledger leaves of the run, from its evidence."""
    path = layout.home(party) / "evidence" / "ledger.jsonl"
    if not path.exists():
        return []
    leaves = [canonical.decode(line) for line in path.read_bytes().splitlines()]
    return [leaf for leaf in leaves if leaf["run"] in (RUN, "")]
