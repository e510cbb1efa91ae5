"""Hundreds of small runs through a platform and its banks that are never restarted: `lianxin bench soak`.

What is looked for is what grows: memory, open files, threads, seconds a run. Each run is a whole one, from proposal to close,
over gRPC with mutual TLS, with gate and ledger; all nodes in this process, or each in one of its own. A small network across
three banks takes a few seconds; a scorecard for two banks, which makes its keys each time, takes ten.

1. After each run the memory (resident set), open files and threads of each process are read.
2. After a warm-up the slope of memory over runs is fitted to the means of blocks of runs, because neighbouring readings
   are no independent ones; with a 95 % interval (Student's t on the blocks). The warm-up is a quarter of the runs, at least
   twenty: so long the stores' page caches fill, 2 MB for each connection, and the allocator keeps what it once had.
3. Every ledger is read at the end: each run has to have left the same kinds and numbers of leaves as every other, and what
   belongs to no run is named. A refusal, an alarm or a run with other leaves is unexplained.
"""

import gc
import io
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Protocol

import numpy as np
import tomli_w
from scipy import stats

from lianxin.crypto import canonical
from lianxin.federation.errors import InputFault, RunStopped
from lianxin.parties.config import load_node, load_run
from lianxin.simulations import layout, runner
from lianxin.simulations.bench_machine import check_processes_can_be_read, describe_machine
from lianxin.simulations.tables import check_network_inputs
from lianxin.simulations.wide_world import Shape, make_wide

FIGURES, PLOT = "soak.json", "soak.svg"
ALL = "all nodes"
MODELS = ("logistic", "scorecard")
LEAST_WARM_UP, BLOCKS = 20, 12
FLAT_KB_A_RUN = 16.0
RUN_DEADLINE_S = 300.0
_MINIMUMS = {"max_bins": 3, "spare_attempts": 0}
_SMALL = {"hidden_units": [4], "batch_rows": 64, "validation_permille": 300}
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Asked:
    """How many runs of which model, of how many loans a bank, and whether each node is a process of its own."""

    runs: int = 300
    model: str = "logistic"
    rows: int = 300
    processes: bool = False
    seed: int = 1

    @property
    def warm_up(self) -> int:
        """How many runs are not looked at for their slope."""
        return max(LEAST_WARM_UP, self.runs // 4)


@dataclass(frozen=True)
class Reading:
    """What one process holds after a run: kB of memory, open files, threads."""

    rss_kb: int
    files: int
    threads: int


def read_process(pid: int) -> Reading:
    """Return what a process holds now, from /proc."""
    home = Path(f"/proc/{pid}")
    pages = int((home / "statm").read_text().split()[1])
    threads = len(os.listdir(home / "task"))
    return Reading(pages * os.sysconf("SC_PAGE_SIZE") // 1024, len(os.listdir(home / "fd")), threads)


def check_model(model: str) -> None:
    """Raise InputFault for a model that is not soaked."""
    if model not in MODELS:
        raise InputFault(f"a soak is of one of {', '.join(MODELS)}; choose one with --model")


class Nodes(Protocol):
    """A platform and banks that are up, and the processes that they are."""

    pids: Mapping[str, int]

    def run(self, path: Path, name: str) -> str: ...


def bench_soak(asked: Asked, out: Path, tell: Tell) -> dict[str, Any]:
    """Run all runs and return the figures; `out` gets them, the plot and the folder of the nodes.

    Raises InputFault where `out` holds something already, RunStopped where a run does not finish.
    """
    check_processes_can_be_read()
    layout.check_out(out)
    tell("keys and consents")
    laid = _lay(asked, out)
    readings: dict[str, list[Reading]] = {}
    seconds: list[float] = []
    with (_processes if asked.processes else _threads)(laid) as nodes:
        for number in range(asked.runs):
            began = time.monotonic()
            _run(laid, nodes, f"soak-{number:04d}")
            seconds.append(round(time.monotonic() - began, 3))
            gc.collect()
            for party, pid in nodes.pids.items():
                readings.setdefault(party, []).append(read_process(pid))
            tell(f"run {number + 1} of {asked.runs}")
    record: dict[str, Any] = {
        "bench": "soak", "model": asked.model,
        "runs": asked.runs, "warm_up": asked.warm_up, "rows": asked.rows, "processes": asked.processes,
        "run_s": {"median": median(seconds), "first": median(seconds[:5]), "last": median(seconds[-5:])},
        "nodes": {party: _figures(found, asked.warm_up) for party, found in readings.items()},
        "ledgers": {party: explain(_leaves(laid, party)) for party in laid.parties}, "machine": describe_machine(),
    }  # fmt: skip
    record["flat"] = all(one["flat"] for one in record["nodes"].values())
    (out / FIGURES).write_text(json.dumps(record, indent=1) + "\n")
    (out / PLOT).write_bytes(draw(readings, asked.warm_up))
    return record


def _lay(asked: Asked, out: Path) -> layout.Layout:
    shape = Shape(firms=4 * asked.rows, fields=3, loans=asked.rows, own_fields=2)
    inputs = make_wide(asked.seed, out / "tables", shape, 2 if asked.model == "scorecard" else 3)
    if asked.model == "scorecard":
        terms = layout.Terms(asked.seed, "ecdh", profile="short_exponents", rounds=1, minimums=_MINIMUMS)
    else:
        paths = [bank.path for bank in inputs.banks if bank.path is not None]
        inputs = check_network_inputs(paths, inputs.id_column, inputs.label_column, inputs.split_column, None, least=1)[
            0
        ]
        terms = layout.Terms(asked.seed, model=asked.model, rounds=1, model_terms=_SMALL)
    catalogue = layout.choose_catalogue(inputs, None, False)
    return layout.lay_out(out / "run", inputs, terms, catalogue, runner.free_address())


def _run(laid: layout.Layout, nodes: Nodes, name: str) -> None:
    path = laid.folder / "soak.toml"
    terms = load_run(laid.folder / "run.toml").model_dump(exclude_unset=True)
    path.write_text(tomli_w.dumps({**terms, "run": name}))
    state = nodes.run(path, name)
    if state != "finished":
        raise RunStopped(f"run {name} of the soak did not finish ({state}); its nodes' logs are in {laid.folder}")


# ---- the nodes, in one process or in three


@contextmanager
def _threads(laid: layout.Layout) -> Iterator[Nodes]:
    """All nodes in this process, over the loopback interface as an operator's nodes are."""
    import threading

    from lianxin.federation.services import GrpcLink, serve
    from lianxin.parties.bank import BankNode
    from lianxin.parties.limits_node import Door
    from lianxin.parties.node import open_node
    from lianxin.parties.platform import PlatformNode

    first, *others = laid.parties
    opened = {party: open_node(load_node(laid.home(party) / "node.toml")) for party in laid.parties}
    platform = PlatformNode(opened[first], runner.reference_plan)
    me, address = opened[first].identity, opened[first].config.listen or ""
    door = Door(opened[first])
    server = serve(address, me.server_tls(), me.pinned_peers(), platform.handle, **door.serve_options())
    banks = [BankNode(opened[p], GrpcLink(address, opened[p].identity.client_tls(first), first)) for p in others]
    threads = [threading.Thread(target=bank.serve, daemon=True) for bank in banks]
    for thread in threads:
        thread.start()

    class InThreads:
        pids: Mapping[str, int] = {ALL: os.getpid()}

        def run(self, path: Path, name: str) -> str:
            state = str(platform.launch(load_run(path))["state"])
            _until(lambda: all(bank.node.store.run(name).state in _ENDS for bank in banks))  # type: ignore[union-attr]
            return state

    try:
        yield InThreads()
    finally:
        platform.close()
        for bank in banks:
            bank.close()
        server.stop()
        door.close()
        for node in opened.values():
            node.close()


_ENDS = ("finished", "failed", "cancelled")


@contextmanager
def _processes(laid: layout.Layout) -> Iterator[Nodes]:
    """Each node a process of its own."""
    nodes, first = runner.Processes(laid), laid.parties[0]

    class InProcesses:
        pids: Mapping[str, int] = {}

        def run(self, path: Path, name: str) -> str:
            nodes.ask(first, {"do": "launch", "config": str(path), "operator": ""})
            ended: dict[str, Any] = {}

            def has_ended() -> bool:
                ended.update(
                    {p: nodes.ask(p, {"do": "status", "from": 10**9})["ended"].get(name) for p in laid.parties}
                )
                return all(ended.values())

            _until(has_ended)
            return str(ended[first]["state"])

    running = InProcesses()
    try:
        running.pids = nodes.start()
        yield running
    finally:
        nodes.stop()


def _until(holds: Callable[[], bool]) -> None:
    until = time.monotonic() + RUN_DEADLINE_S
    while not holds():
        if time.monotonic() > until:
            raise RunStopped(f"a run of the soak did not end within {RUN_DEADLINE_S:.0f} s at every node")
        time.sleep(0.05)


# ---- figures


def _figures(found: Sequence[Reading], warm_up: int) -> dict[str, Any]:
    steady = found[warm_up:]
    slope = fit_slope([one.rss_kb for one in steady])
    return {
        "rss_kb": {"first": found[0].rss_kb, "warm": steady[0].rss_kb, "last": steady[-1].rss_kb},
        "kb_a_run": slope, "flat": slope["low"] <= FLAT_KB_A_RUN,
        "files": {"warm": steady[0].files, "most": max(one.files for one in steady), "last": steady[-1].files},
        "threads": {"warm": steady[0].threads, "most": max(one.threads for one in steady), "last": steady[-1].threads},
    }  # fmt: skip


def fit_slope(values: Sequence[float]) -> dict[str, float]:
    """Return the `slope` of values a run, with the `low` and `high` of its 95 % interval, over means of blocks of runs."""
    blocks = min(BLOCKS, max(len(values) // 2, 3))
    parts = np.array_split(np.arange(len(values)), blocks)
    data = np.asarray(values, dtype=float)
    x, y = np.array([part.mean() for part in parts]), np.array([data[part].mean() for part in parts])
    line = stats.linregress(x, y)
    reach = float(stats.t.ppf(0.975, blocks - 2)) * float(line.stderr)
    slope = float(line.slope)
    return {"slope": round(slope, 2), "low": round(slope - reach, 2), "high": round(slope + reach, 2)}


def _leaves(laid: layout.Layout, party: str) -> Iterator[Mapping[str, Any]]:
    from lianxin.parties.store_open import open_store

    store = open_store(load_node(laid.home(party) / "node.toml"), read_only=True)
    try:
        yield from (canonical.decode(leaf) for leaf in store.leaves())
    finally:
        store.close()


def explain(leaves: Iterator[Mapping[str, Any]]) -> dict[str, Any]:
    """Return how many leaves a ledger has, those of a run and of none by kind, and `unexplained`: what is not as usual.

    As usual is: the kinds and numbers of leaves that most runs left; no refusal, no alarm.
    """
    of_runs: dict[str, Counter[str]] = {}
    of_none: Counter[str] = Counter()
    unexplained: Counter[str] = Counter()
    kinds_of = Counter[str]()
    for leaf in leaves:
        kind = f"{leaf['kind']} {leaf['event']}" if "event" in leaf else str(leaf["kind"])
        run = str(leaf.get("run", ""))
        kinds_of.update([kind])
        of_runs.setdefault(run, Counter()).update([kind]) if run else of_none.update([kind])
        if leaf["kind"] in ("refusal", "alarm"):
            unexplained.update([f"{kind} {leaf.get('rule', '')}"])
    shapes = Counter(tuple(sorted(kinds.items())) for kinds in of_runs.values())
    usual = dict(shapes.most_common(1)[0][0]) if shapes else {}
    unexplained.update(f"another course: {run}" for run, kinds in of_runs.items() if dict(kinds) != usual)
    return {
        "leaves": kinds_of.total(),
        "runs": len(of_runs),
        "a_run": usual,
        "of_no_run": dict(of_none),
        "unexplained": dict(unexplained),
    }


def draw(readings: Mapping[str, Sequence[Reading]], warm_up: int) -> bytes:
    """Return the plot as SVG: memory of each process after each run, the warm-up shaded."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context({"svg.hashsalt": "lianxin", "svg.fonttype": "path"}):
        figure = Figure(figsize=(8.0, 3.6), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        for party, found in readings.items():
            axes.plot([one.rss_kb / 1024 for one in found], label=party, linewidth=1.2)
        axes.axvspan(0, warm_up, color="#eceff3")
        axes.set(xlabel="run", ylabel="resident memory, MB", ylim=(0, None))
        axes.legend(frameon=False)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def lines_of(record: Mapping[str, Any]) -> list[str]:
    """Return a record as lines for a person."""
    run_s, lines = record["run_s"], []
    lines.append(
        f"{record['runs']} runs, {run_s['median']:.2f} s each (first {run_s['first']:.2f}, last {run_s['last']:.2f})"
    )
    for party, one in record["nodes"].items():
        memory, slope = one["rss_kb"], one["kb_a_run"]
        lines.append(
            f"{party}: {memory['warm'] // 1024} MB after {record['warm_up']} runs, {memory['last'] // 1024} MB at the end; "
            f"{slope['slope']:+.1f} kB a run (95 %: {slope['low']:+.1f} to {slope['high']:+.1f}); files {one['files']['warm']} "
            f"to {one['files']['last']}, threads {one['threads']['warm']} to {one['threads']['last']}"
        )
    for party, ledger in record["ledgers"].items():
        odd = ", ".join(ledger["unexplained"]) or "none"
        lines.append(f"ledger of {party}: {ledger['leaves']} leaves of {ledger['runs']} runs; unexplained: {odd}")
    return [*lines, "flat" if record["flat"] else "not flat"]
