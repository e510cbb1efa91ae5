"""Whole small runs in which one fault strikes at a failpoint, and what must hold of them afterwards.

In memory all nodes are threads of this process and the fault is a panic, a delay or a disk that fails. As processes on
gRPC a node is killed at the place, armed by its environment as a node of a trial can be, and started again. Either way
the run must end in time, at all nodes alike: finished with the models of the undisturbed run, or failed with a sentence
that says who, where, why and what to do; the auditor verifies what is left, and `history` finds nothing impossible.
"""

import gc
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from faults import history
from faults.failpoint_worlds import Scene, digests_of, knowing

from lianxin.crypto import failpoints
from lianxin.crypto.pool import RandomiserPool
from lianxin.federation.channel import MemoryNetwork
from lianxin.federation.errors import LianxinError
from lianxin.parties import failpoints_armed
from lianxin.parties.auditor import verify_run
from lianxin.parties.bank import BankNode
from lianxin.parties.config import load_node, load_run
from lianxin.parties.failpoints_armed import Fault
from lianxin.parties.node import Node, open_node
from lianxin.parties.platform import PlatformNode
from lianxin.parties.run_remedies import tell
from lianxin.simulations.layout import RUN, Layout
from lianxin.simulations.runner import collect_evidence, reference_plan

PLACES = [f"{point}/{when}" for point in failpoints.POINTS for when in failpoints_armed.WHEN]
POLL_S, SETTLE_S, TRIES = 0.02, 2.0, 6
DEADLINE_S = 240.0  # a run takes seconds; what has not ended then never will, however busy the machine is
OVER = frozenset({"finished", "failed", "refused", "cancelled"})


@dataclass
class Outcome:
    """What came of one run under a fault: how it ended by party, what each store says, and everything that is wrong."""

    fault: str
    kind: str
    struck: bool = False
    ended: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    states: dict[str, str] = field(default_factory=dict)
    restarts: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    wrong: list[str] = field(default_factory=list)

    @property
    def end(self) -> str:
        """`finished` or `failed`, by the stores of all parties; "nowhere" before any of them knew the run."""
        states = {state for state in self.states.values() if state}
        return next(iter(states)) if len(states) == 1 else "nowhere" if not states else "disagreed"


def undisturbed(scene: Scene) -> None:
    """Run a scene once without a fault, and note its models and how often each place was reached."""
    for attempt in range(TRIES):  # on a busy machine the first keys may take longer than a step may; they are made once
        fault = Fault("nowhere/before", "panic")
        outcome = run_in_memory(scene, fault, f"undisturbed-{attempt}")
        if outcome.end == "finished":
            break
    assert not outcome.wrong and outcome.end == "finished", (outcome.wrong, outcome.ended)
    scene.hits = dict(fault.hits)


# ---- in memory


@contextmanager
def noting_places(noted: list[tuple[str, int, int]]) -> Iterator[None]:
    """Note every reservation of a place of a pool, by the pool's seed, once it is durable."""
    begin = RandomiserPool.__init__

    def beginning(pool: RandomiserPool, source: Any, seed: bytes, reserve: Any, *more: Any, **named: Any) -> None:
        def reserving(count: int) -> int:
            first = reserve(count)
            noted.append((seed.hex(), first, count))
            return int(first)

        begin(pool, source, seed, reserving, *more, **named)

    with mock.patch.object(RandomiserPool, "__init__", beginning):
        yield


class Village:
    """The nodes of a layout as threads of this process. One that dies of a fault at its start is started again."""

    def __init__(self, layout: Layout, outcome: Outcome) -> None:
        self.layout, self.outcome = layout, outcome
        (self.first, *self.others), self.nodes = layout.parties, dict[str, Node]()
        self.banks: dict[str, BankNode] = {}
        self.network: MemoryNetwork | None = None
        self._threads: list[threading.Thread] = []

    def open(self, party: str) -> Node:
        """Return a party's node; what a fault stops is begun again."""
        for _ in range(TRIES):
            try:
                return open_node(load_node(self.layout.home(party) / "node.toml"))
            except (failpoints_armed.Panic, OSError, LianxinError):
                self.outcome.restarts[party] += 1
            gc.collect()  # what a process leaves open when it ends: its lock and its store
        raise AssertionError(f"{party} does not start after a fault at its start")

    def start(self) -> None:
        self.nodes = {party: self.open(party) for party in self.layout.parties}
        self.platform = PlatformNode(self.nodes[self.first], reference_plan)
        self.network = MemoryNetwork(self.platform.handle, self.first, resume_window_s=2.0)
        for party in self.others:
            self.banks[party] = BankNode(self.nodes[party], self.network.link(party))
            self._begin(self._serve, party)
        self._begin(self._launch)

    def _begin(self, what: Any, *arguments: Any) -> None:
        self._threads.append(threading.Thread(target=what, args=arguments, daemon=True))
        self._threads[-1].start()

    def _serve(self, party: str) -> None:
        try:
            self.banks[party].serve()
        except LianxinError as fault:
            self.outcome.wrong.append(f"{party} stopped serving: {fault}")
        except Exception as fault:
            self.outcome.wrong.append(f"{party} died of {type(fault).__name__} while serving")

    def _launch(self) -> None:
        try:
            self.platform.launch(load_run(self.layout.folder / "run.toml"))
        except LianxinError:
            return
        except Exception as fault:
            self.outcome.wrong.append(f"the launch ended by {type(fault).__name__} and no sentence")

    def is_over(self) -> bool:
        """Whether the platform has an end of the run, and every bank that knows the run has one."""
        if RUN not in self.platform.ended:
            return False
        return all(RUN in bank.ended or self.nodes[party].store.run(RUN) is None for party, bank in self.banks.items())

    def wait(self, deadline_s: float) -> None:
        until = time.monotonic() + deadline_s
        while not self.is_over():
            if time.monotonic() > until:
                self.outcome.wrong.append(f"hung: not over after {deadline_s:.0f} s; {self._notes()}")
                return
            time.sleep(POLL_S)
        until = time.monotonic() + SETTLE_S
        while self.nodes[self.first].store.settings_under("untold/") and time.monotonic() < until:
            time.sleep(POLL_S)  # a bank that has not confirmed the end, or did not hear of it, may do so now

    def _notes(self) -> str:
        return "; ".join(f"{p}: {[what for _, what in node.events()][-3:]}" for p, node in self.nodes.items())

    def stop(self) -> None:
        if self.network is None:
            return
        self.outcome.ended = {self.first: dict(self.platform.ended.get(RUN, {}))}
        self.outcome.ended |= {party: dict(bank.ended.get(RUN, {})) for party, bank in self.banks.items()}
        self.platform.close()
        for bank in self.banks.values():
            bank.close()
        self.network.close()
        for thread in self._threads:
            thread.join(5.0)
        for node in self.nodes.values():
            node.close()


def run_in_memory(scene: Scene, fault: Fault, name: str, deadline_s: float = DEADLINE_S) -> Outcome:
    """Run a scene in this process under `fault` and return what came of it, with everything that is wrong."""
    outcome = Outcome(str(fault), scene.kind)
    layout, places = scene.lay(name), list[tuple[str, int, int]]()
    started = time.monotonic()
    with knowing(scene.known), noting_places(places):
        village = Village(layout, outcome)
        failpoints.arm(fault)
        try:
            village.start()
            village.wait(deadline_s)
        finally:
            failpoints.arm(None)
            village.stop()
    outcome.struck, outcome.seconds = fault.has_struck, time.monotonic() - started
    judge(scene, layout, outcome, places, [])
    return outcome


# ---- what must hold


def store_of(layout: Layout, party: str) -> Path:
    """Return where a party's store is."""
    return layout.home(party) / "state" / "store.sqlite"


def state_of(layout: Layout, party: str) -> str:
    """Return the state of the run in a party's store, "" where it was never signed there."""
    with sqlite3.connect(f"file:{store_of(layout, party)}?mode=ro", uri=True) as base:
        found = base.execute("select state from runs where run = ?", (RUN,)).fetchone()
    return str(found[0]) if found else ""


def _has_signed(layout: Layout, party: str) -> bool:
    with sqlite3.connect(f"file:{store_of(layout, party)}?mode=ro", uri=True) as base:
        found = base.execute("select contract from runs where run = ?", (RUN,)).fetchone()
    return found is not None and b'"signatures"' in found[0]


def judge(
    scene: Scene,
    layout: Layout,
    outcome: Outcome,
    places: list[tuple[str, int, int]],
    seen: list[tuple[str, list[bytes]]],
) -> None:
    """Put all that is wrong with a run's end into `outcome.wrong`."""
    collect_evidence(layout)
    outcome.states = {party: state_of(layout, party) for party in layout.parties}
    outcome.wrong += _states_wrong(layout, outcome)
    outcome.wrong += _words_wrong(layout, outcome)
    outcome.wrong += _models_wrong(scene, layout, outcome)
    outcome.wrong += _evidence_wrong(layout)
    kept = {party: history.read_kept(store_of(layout, party)) for party in layout.parties}
    outcome.wrong += history.check(history.History(kept, seen, places))
    outcome.wrong += [f"half-written: {path.name}" for path in layout.folder.glob("parties/*/state/**/*.new")]


def _states_wrong(layout: Layout, outcome: Outcome) -> Iterator[str]:
    if outcome.end == "disagreed" or not set(outcome.states.values()) <= OVER | {""}:
        yield f"states disagree or are none of an end: {outcome.states}"
    for party, record in outcome.ended.items():
        if record and outcome.states[party] and record["state"] != outcome.states[party]:
            yield f"{party} says {record['state']} and its store {outcome.states[party]}"


def _words_wrong(layout: Layout, outcome: Outcome) -> Iterator[str]:
    """A failure names a party, a step or a phase, the reason and a remedy, at every node that knows the run."""
    for party, record in outcome.ended.items():
        if not record or record["state"] == "finished":
            continue
        said = tell(record)
        if not record.get("error") and not record.get("why"):
            yield f"{party} does not say why: {record}"
        if not any(one in said for one in [*layout.parties, "this node"]):
            yield f"{party} does not say who: {said}"
        if not record.get("step"):
            yield f"{party} does not say where: {said}"
        if ";" not in said:
            yield f"{party} does not say what to do: {said}"
        if "Traceback" in said or "Panic()" in said:
            yield f"{party} says more than a person can use: {said}"


def _models_wrong(scene: Scene, layout: Layout, outcome: Outcome) -> Iterator[str]:
    found = digests_of(layout)
    if outcome.end == "failed":
        yield from (f"{party} keeps a model of a run that failed" for party in found)
    if outcome.end != "finished":
        return
    if not scene.digests:
        scene.digests.update(found)
    for party in layout.parties:
        if found.get(party) != scene.digests.get(party):
            yield f"{party} has another model than the undisturbed run"


def _evidence_wrong(layout: Layout) -> Iterator[str]:
    there = [party for party in layout.parties if (layout.home(party) / "evidence").is_dir()]
    knowing_it = [party for party in layout.parties if _has_signed(layout, party)]
    if there != knowing_it:
        yield f"evidence of {there} where {knowing_it} had signed the run"
    if there != layout.parties:
        return  # a run that not everybody had signed: there is nothing that an auditor could hold side by side
    try:
        failures = verify_run(layout.folder).failures
    except LianxinError as fault:
        yield f"the auditor refuses the evidence of {there}: {fault}"
        return
    if failures:
        yield f"the auditor finds {len(failures)} faults, the first: {failures[0]}"
