"""Whole training runs over public data sets, or a made-up table of a province's size: quality, time, bytes, memory.

Each run is a simulation as `lianxin simulate` makes it, consents, gate, ledger and audit included, with one report. Beside
its AUC stand the same algorithm in clear on the same bins, exact logistic regression on them, and for trees scikit-learn's
histogram trees at equal settings (Ke et al., NIPS 2017 style), each with the paired interval of the difference.
"""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from lianxin.federation.apps import strategy_of
from lianxin.federation.errors import InputFault
from lianxin.federation.evaluation_intervals import areas
from lianxin.simulations import datasets, layout, planned, results, runner, story
from lianxin.simulations.bench_machine import describe_machine
from lianxin.simulations.bench_trees import sklearn_scores, uncapped_scores
from lianxin.simulations.clear_scorecard import clear_scores
from lianxin.simulations.pooled import OVERALL
from lianxin.simulations.tables import Inputs
from lianxin.simulations.wide_world import SHAPES, make_wide

SCORECARD_BINS, TREE_BINS = 8, 32
MOST_AHEAD = 4_194_304
TREE_CHUNK = 1 << 20  # bytes of ciphertexts a message, the most that a contract allows
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Asked:
    """What one run is asked for. `data` is a set of `datasets` or a shape of `wide_world`; `rows` keeps fewer rows."""

    data: str
    model: str = "scorecard"
    nodes: str = "shown"
    rows: int | None = None
    key_bits: int = 2048
    rounds: int = 6
    trees: int = 30
    depth: int = 4
    matching: str = "ecdh"
    profile: str = ""
    workers: int = 2
    processes: bool = False
    seed: int = 1
    warm_pool_s: float = 0.0

    @property
    def name(self) -> str:
        """The name of the run's folder and files."""
        parts = [self.data, self.model, *([self.nodes] if self.model == "boosted_trees" else [])]
        return "-".join([*parts, *([str(self.rows)] if self.rows else [])])


def asked_for(data: str, **choices: Any) -> list[Asked]:
    """Return the runs behind `--data`: one set, or every set. Raises InputFault for an unknown name or model."""
    if choices["model"] not in ("scorecard", "boosted_trees"):
        raise InputFault(f"--model is scorecard or boosted_trees; {choices['model']} is none")
    if choices.get("warm_pool_s") and choices.get("processes"):
        raise InputFault("--warm-pool waits inside one process; leave --processes and --shape out")
    if choices["nodes"] not in ("shown", "hidden"):
        raise InputFault("--nodes is shown or hidden: whether the platform sees which rows a node holds")
    names = datasets.NAMES if data == "all" else (data,)
    unknown = [name for name in names if name not in (*datasets.NAMES, *SHAPES)]
    if unknown:
        raise InputFault(f"--data is one of {', '.join(datasets.NAMES)}, or all; {unknown[0]} is none")
    return [Asked(name, **choices) for name in names]


def bench_training(asked: Asked, folder: Path | None, out: Path, tell: Tell) -> dict[str, Any]:
    """Run one training and return its figures; the report and the figures are written to `out`.

    `folder` holds the public data sets. Raises InputFault where a run of that name is in `out` already.
    """
    home = out / asked.name
    layout.check_out(home)
    inputs = _inputs(asked, folder, home / "tables")
    terms = _terms(asked)
    catalogue = layout.choose_catalogue(inputs, None, False, terms.is_trees, terms.is_shown)
    address = runner.free_address() if asked.processes else "127.0.0.1:7443"
    tell(f"{asked.name}: keys and consents of {inputs.platform.rows} firms")
    laid = layout.lay_out(home / "run", inputs, terms, catalogue, address)
    with planned.metered(asked.key_bits) as beside:
        ran = _run(asked, laid, lambda note: tell(f"{asked.name}: {note}"))
    _take_off(ran, beside.own_cpu_s)
    tell(f"{asked.name}: references in clear")
    outcome = results.gather(laid, ran)
    summary = story.summary_of(laid, ran, outcome, calibration=beside.calibration)
    record = _record(asked, laid, ran, outcome, summary["plan"]["compared"])
    _write(home, summary, record)
    return record


def _take_off(ran: runner.Ran, meter_s: float) -> None:
    """Take the meter's processor time off a run in one process, which counts everything that this process started."""
    if planned.EVERYBODY in ran.cpu_s:
        ran.cpu_s[planned.EVERYBODY] -= meter_s


def _run(asked: Asked, laid: layout.Layout, watch: Callable[[str], None]) -> runner.Ran:
    if asked.processes:
        return runner.run_as_processes(laid, watch)
    if not asked.warm_pool_s:
        return runner.run_in_memory(laid, watch)
    for bank in laid.parties[1:]:  # as many randomisers as the whole run takes, made while the platform waits
        config = laid.home(bank) / "node.toml"
        config.write_text(f"randomisers_ahead = {MOST_AHEAD}\n{config.read_text()}")
    return runner.run_in_memory(laid, watch, partial(_strategy_that_waits, asked.warm_pool_s))


def _strategy_that_waits(seconds: float, contract: Any, steps: Any) -> Any:
    """Return the run's strategy, which waits before it says that all is counted: its banks are idle and fill their pools."""
    counted = steps.counted

    def waited(replies: Any) -> Any:
        time.sleep(seconds)
        return counted(replies)

    steps.counted = waited
    return strategy_of(contract, steps)


def _inputs(asked: Asked, folder: Path | None, tables: Path) -> Inputs:
    if asked.data in SHAPES:
        shape = SHAPES[asked.data]
        if asked.rows:
            share = asked.rows / shape.loans
            shape = replace(shape, loans=asked.rows, firms=max(asked.rows, round(shape.firms * share)))
        return make_wide(asked.seed, tables, shape)
    if folder is None:
        raise InputFault("--folder is missing: give the folder with the public data sets")
    return datasets.map_dataset(asked.data, folder, tables, asked.rows, asked.seed)


def _terms(asked: Asked) -> layout.Terms:
    is_trees = asked.model == "boosted_trees"
    grown: dict[str, Any] = {
        "trees": asked.trees,
        "depth": asked.depth,
        "nodes": asked.nodes,
        "chunk_bytes": TREE_CHUNK,
    }
    bins = {"max_bins": TREE_BINS if is_trees else SCORECARD_BINS}
    profile = asked.profile or ("short_exponents" if is_trees else "full_exponents")
    return layout.Terms(
        asked.seed, asked.matching, asked.model, profile, asked.key_bits, asked.rounds, asked.workers,
        model_terms={**bins, **(grown if is_trees else {})},
    )  # fmt: skip


def _record(
    asked: Asked, laid: layout.Layout, ran: runner.Ran, outcome: results.Outcome, compared: list[dict[str, Any]]
) -> dict[str, Any]:
    figures, machine = outcome.figures, describe_machine()
    scores = _reference_scores(laid, outcome)
    trees: dict[str, Any] = {key: figures[key] for key in ("seconds_per_tree", "trees") if key in figures}
    rows = {bank: len(model["training_rows"]) for bank, model in outcome.models.items()}
    factors = {figure: planned.factor_of(compared, figure) for figure in ("bytes", "cpu_s", "wall_s")}
    return {
        "bench": "training", **asdict(asked), "run": asked.name, "training_rows": rows,
        "features": {laid.inputs.platform.party: len(outcome.platform_model["features"]),
                     **{bank: len(model["features"]) for bank, model in outcome.models.items()}},
        **comparisons_of(scores), "seconds": figures["seconds"], **trees, "bytes_sent": figures["bytes_sent"],
        "cpu_s": {party: round(value, 2) for party, value in ran.cpu_s.items()},
        "peak_mb": {party: round(value, 1) for party, value in ran.peak_mb.items()},
        "times_planned": factors, "ledger_verified": figures["ledger_verified"], "machine": machine,
    }  # fmt: skip


def _reference_scores(laid: layout.Layout, outcome: results.Outcome) -> dict[str, Any]:
    """Return the labels of all banks' test rows and each model's scores of them."""
    curves = outcome.curves[OVERALL]
    scores = {"labels": np.array(curves["joint"]["labels"])}
    scores |= {name: np.array(curves[name]["scores"]) for name in ("joint", "bank_only")}
    if laid.terms.is_trees:
        runs = results.tree_runs(laid, outcome.platform_model, outcome.models)
        scores["clear"] = np.array(curves["pooled"]["scores"])
        scores["clear_uncapped"] = np.concatenate([uncapped_scores(run) for run in runs])
        scores["scikit_learn"] = np.concatenate([sklearn_scores(run) for run in runs])
        return scores
    banks = results.joined_banks(laid, outcome.platform_model, outcome.models)
    rounds = len(outcome.platform_model["gradient_norms_milli"])
    clear = clear_scores(banks, rounds, laid.terms.minimums.get("ridge_thousandths", 1000) / 1000)
    scores["clear"] = np.concatenate([clear[bank.name] for bank in banks])
    scores["exact_logistic"] = np.array(curves["pooled"]["scores"])
    return scores


def comparisons_of(scores: Mapping[str, Any]) -> dict[str, Any]:
    """Return `auc` {model: [value, low, high]} and `paired` {"joint-other": {difference, low, high, p}}, 95 % intervals.

    `scores` has "labels" and one array a model, all of the same rows, "joint" and "clear" among them.
    """
    models = {name: values for name, values in scores.items() if name != "labels"}
    found = areas(scores["labels"], models)
    if found is None:
        return {"auc": {}, "paired": {}}
    pairs = [("joint", other) for other in models if other != "joint"]
    pairs += [(f, "scikit_learn") for f in ("clear_uncapped", "clear") if {f, "scikit_learn"} <= set(models)]
    intervals = {name: found.interval(name) for name in models}
    return {
        "auc": {name: [round(v, 6) for v in (one.value, one.low, one.high)] for name, one in intervals.items()},
        "paired": {
            f"{first}-{second}": {k: round(v, 6) for k, v in asdict(found.paired(first, second)).items()}
            for first, second in pairs
        },
    }


def _write(home: Path, summary: Mapping[str, Any], record: Mapping[str, Any]) -> None:
    from lianxin.parties.report import write_report

    write_report(home / "report.html", summary)
    (home / "figures.json").write_text(json.dumps(record, indent=1) + "\n")


def lines_of(record: Mapping[str, Any]) -> list[str]:
    """Return a run's figures as lines for a terminal."""
    head = f"{record['run']}: {record['training_rows']} training rows, {record['features']} features"
    lines = [head]
    for name, (value, low, high) in record["auc"].items():
        lines.append(f"  AUC {name}: {value:.4f} [{low:.4f}, {high:.4f}]")
    for pair, test in record["paired"].items():
        lines.append(f"  AUC {pair}: {test['difference']:+.4f} [{test['low']:+.4f}, {test['high']:+.4f}]")
    lines.append("  seconds: " + ", ".join(f"{phase} {value:.1f}" for phase, value in record["seconds"].items()))
    if record.get("seconds_per_tree") is not None:
        lines.append(f"  seconds a tree: {record['seconds_per_tree']:.2f}")
    sent = ", ".join(f"{party} {size / 1e6:.1f} MB" for party, size in record["bytes_sent"].items())
    memory = ", ".join(f"{party} {size:.0f} MB" for party, size in record["peak_mb"].items())
    cpu = ", ".join(f"{party} {value:.0f} s" for party, value in record["cpu_s"].items())
    factors = ", ".join(f"{name} {v:.2f}" for name, v in record["times_planned"].items() if v is not None)
    return [*lines, f"  sent: {sent}", f"  memory: {memory}", f"  processor: {cpu}", f"  times planned: {factors}"]
