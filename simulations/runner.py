"""Running a laid-out folder: all nodes in this process, or each as a process of its own on gRPC.

Both run the same nodes from the same configuration files; only the channel differs (house.md, rule 3 of its style).
In one process the run goes bank by bank through `LocalGrid`; with `workers` the heavy kernels share a pool.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lianxin.federation import plan
from lianxin.federation.channel import MemoryNetwork
from lianxin.federation.errors import LianxinError, RunStopped
from lianxin.federation.plan_actual import EVERYBODY
from lianxin.parties.config import load_node, load_run
from lianxin.parties.control import ask
from lianxin.parties.node import make_executor, open_node
from lianxin.parties.usage import tree_cpu_s, tree_peak_mb
from lianxin.simulations.layout import RUN, Layout

START_DEADLINE_S = 900.0  # a platform checks every consent it is given before it answers
POLL_S = 0.1
CAUSE_DEADLINE_S = 3.0
STOP_DEADLINE_S = 10.0
Watch = Callable[[str], None]
Tamper = Callable[[Any, Mapping[str, Any]], None]


@dataclass(frozen=True)
class Ran:
    """How a run went: the platform's summary, (seconds, note) of its progress, bytes a party, process ids if any.

    `cpu_s` is user and system time a party with its workers, `peak_mb` the highest memory; one entry, EVERYBODY, where
    all nodes shared a process, none where it could not be read.
    """

    summary: dict[str, Any]
    events: list[tuple[float, str]]
    bytes_sent: dict[str, int]
    pids: dict[str, int]
    cpu_s: dict[str, float] = field(default_factory=dict)
    peak_mb: dict[str, float] = field(default_factory=dict)


def reference_plan(contract: Any) -> dict[str, Any]:
    """Return a contract's plan at the published unit costs, so that a simulation gives the same bytes anywhere."""
    return plan.make_plan(contract, plan.reference_calibration(contract.key_bits))


def run_in_memory(
    layout: Layout, watch: Watch | None = None, strategy: Any = None, tamper: Tamper | None = None
) -> Ran:
    """Run every node of `layout` in this process and return how it went. Raises the LianxinError that ended the run.

    `strategy(contract, steps)` replaces the star's Flower strategy; `tamper(platform, banks)` is given the node of the
    platform and those of the banks by party before they start: that is how a scenario makes one of them cheat.
    """
    from lianxin.federation.apps import strategy_of
    from lianxin.federation.grid import LocalGrid
    from lianxin.parties.bank import BankNode
    from lianxin.parties.platform import PlatformNode

    executor = make_executor(layout.terms.workers)
    recording = layout.folder / "transcript"
    configs = {party: load_node(layout.home(party) / "node.toml") for party in layout.parties}
    first, *others = layout.parties
    opened = {first: open_node(configs[first], recording), **{p: open_node(configs[p]) for p in others}}
    for node in opened.values():
        node.executor = executor
    platform = PlatformNode(opened[first], reference_plan, LocalGrid, strategy or strategy_of)
    network = MemoryNetwork(platform.handle, first)
    banks = [BankNode(opened[party], network.link(party)) for party in others]
    if tamper is not None:
        tamper(platform, {bank.node.party: bank for bank in banks})
    threads = [threading.Thread(target=bank.serve, daemon=True) for bank in banks]
    watcher = _Watcher(opened[first], watch)
    try:
        before = tree_cpu_s(os.getpid())
        for thread in threads:
            thread.start()
        try:
            summary = platform.launch(load_run(layout.folder / "run.toml"))
        except LianxinError as end:
            _wait_for(lambda: all(RUN in bank.ended for bank in banks), CAUSE_DEADLINE_S)
            _with_causes(end, {bank.node.party: bank.ended.get(RUN, {}) for bank in banks})
            raise
        _wait_for(lambda: all(RUN in bank.ended for bank in banks))
        used = {EVERYBODY: tree_cpu_s(os.getpid()) - before}
        sent, peak = {p: n.bytes_sent for p, n in opened.items()}, {EVERYBODY: tree_peak_mb(os.getpid())}
        return Ran(summary, opened[first].events(), sent, {}, used, peak)
    finally:
        watcher.stop()
        platform.close()
        for bank in banks:
            bank.close()
        network.close()
        for thread in threads:
            thread.join(STOP_DEADLINE_S)
        for node in opened.values():
            node.close()
        collect_evidence(layout)


def _with_causes(end: LianxinError, ended: Mapping[str, Mapping[str, Any]]) -> LianxinError:
    """Put each bank's own sentence before what ended a run, and return it: a platform is told a rule and no counts.

    Only a simulation, which has every node's words, may put them together.
    """
    causes = {party: str(how.get("error", "")).rstrip(".") for party, how in ended.items()}
    said = [f"{party}: {cause}" for party, cause in causes.items() if cause and cause not in str(end)]
    if said:
        end.args = ("; ".join([*said, f"at the platform: {end}"]),)
    return end


def _wait_for(holds: Callable[[], bool], deadline_s: float = STOP_DEADLINE_S) -> None:
    until = time.monotonic() + deadline_s
    while not holds() and time.monotonic() < until:
        time.sleep(POLL_S / 10)


class _Watcher:
    """Passes a node's notes on to whoever watches, while it runs."""

    def __init__(self, node: Any, watch: Watch | None) -> None:
        self._node, self._watch, self._seen = node, watch, 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._pass_on, daemon=True)
        self._thread.start()

    def _pass_on(self) -> None:
        while self._watch is not None and not self._done.wait(POLL_S):
            self._take()

    def _take(self) -> None:
        _, notes, self._seen = self._node.notes.page(self._seen)
        for _, note in notes:
            if self._watch is not None:
                self._watch(note)

    def stop(self) -> None:
        self._done.set()
        self._thread.join()
        self._take()


def collect_evidence(layout: Layout) -> None:
    """Copy each node's evidence of the run to where an auditor looks for it: RUN_DIR/parties/<id>/evidence."""
    for party in layout.parties:
        source, target = layout.run_state(party) / "evidence", layout.home(party) / "evidence"
        if source.exists() and not target.exists():
            shutil.copytree(source, target)


def free_address() -> str:
    """Return a loopback address that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


class Processes:
    """Four processes, or more: one a node, started with the commands that an operator uses."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._cpu_before: dict[str, float] = {}

    def start(self) -> dict[str, int]:
        """Start every node and wait until each answers on its control socket; return their process ids."""
        for party in self.layout.parties:
            role = "platform" if party == self.layout.parties[0] else "bank"
            home = self.layout.home(party)
            command = [sys.executable, "-m", "lianxin.parties.cli", role, "serve", str(home / "node.toml")]
            if role == "platform":
                command += ["--record", str(self.layout.folder / "transcript")]
            log = (home / "node.log").open("wb")
            self._children[party] = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
            )
            log.close()
        for party in self.layout.parties:
            self._wait_until_up(party)
        return {party: child.pid for party, child in self._children.items()}

    def _wait_until_up(self, party: str) -> None:
        until = time.monotonic() + START_DEADLINE_S
        while time.monotonic() < until:
            if self._children[party].poll() is not None:
                raise RunStopped(f"the node of {party} ended at its start: {self.last_words(party)}")
            try:
                self.ask(party, {"do": "status", "from": 0})
                return
            except LianxinError:
                time.sleep(POLL_S)
        raise RunStopped(f"the node of {party} did not answer within {START_DEADLINE_S:.0f} s; see its node.log")

    def last_words(self, party: str) -> str:
        """Return the last line of a node's log."""
        lines = (self.layout.home(party) / "node.log").read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"

    def ask(self, party: str, request: dict[str, Any]) -> dict[str, Any]:
        """Return a node's answer on its control socket."""
        return ask(self.layout.home(party) / "state", request)

    def launch(self) -> None:
        """Ask the platform to launch the folder's run; processor time counts from here."""
        self._cpu_before = {party: tree_cpu_s(child.pid) for party, child in self._children.items()}
        self.ask(
            self.layout.parties[0], {"do": "launch", "config": str(self.layout.folder / "run.toml"), "operator": ""}
        )

    def wait(self, watch: Watch | None = None, deadline_s: float = 3600.0) -> Ran:
        """Follow the run to its end. Raises the sentence that ended it."""
        events: list[tuple[float, str]] = []
        first, until, seen = self.layout.parties[0], time.monotonic() + deadline_s, 0
        while time.monotonic() < until:
            answer = self.ask(first, {"do": "status", "from": seen})
            seen = answer["next"]
            for seconds, note in answer["events"]:
                events.append((seconds, note))
                if watch is not None:
                    watch(note)
            if RUN in answer["ended"]:
                return self._finish(answer["ended"][RUN], events)
            time.sleep(POLL_S)
        raise RunStopped(f"the run did not end within {deadline_s:.0f} s")

    def _finish(self, summary: dict[str, Any], events: list[tuple[float, str]]) -> Ran:
        if summary["state"] != "finished":
            fault = RunStopped(summary["error"])
            fault.exit_code = summary.get("exit_code", 3)
            raise _with_causes(fault, {party: self._ended(party) for party in self.layout.parties[1:]})
        pids = {party: child.pid for party, child in self._children.items()}
        sent = {self.layout.parties[0]: summary["bytes_sent"]}
        for party in self.layout.parties[1:]:
            if self._children[party].poll() is None:
                _wait_for(lambda p=party: RUN in self.ask(p, {"do": "status", "from": 0})["ended"])  # type: ignore[misc]
                ended = self.ask(party, {"do": "status", "from": 0})["ended"]
                sent[party] = ended.get(RUN, {}).get("bytes_sent", 0)
        used = {party: tree_cpu_s(pid) - self._cpu_before.get(party, 0.0) for party, pid in pids.items()}
        return Ran(summary, events, sent, pids, used, {party: tree_peak_mb(pid) for party, pid in pids.items()})

    def _ended(self, party: str) -> dict[str, Any]:
        try:
            _wait_for(lambda: RUN in self.ask(party, {"do": "status", "from": 0})["ended"], CAUSE_DEADLINE_S)
            return dict(self.ask(party, {"do": "status", "from": 0})["ended"].get(RUN, {}))
        except LianxinError:
            return {}

    def kill(self, party: str) -> None:
        """End one node without warning."""
        self._children[party].send_signal(signal.SIGKILL)
        self._children[party].wait(STOP_DEADLINE_S)

    def stop(self) -> None:
        """End the nodes that are still there, then gather the evidence."""
        for child in self._children.values():
            if child.poll() is None:
                child.terminate()
        for child in self._children.values():
            try:
                child.wait(STOP_DEADLINE_S)
            except subprocess.TimeoutExpired:
                child.kill()
        collect_evidence(self.layout)


def run_as_processes(
    layout: Layout, watch: Watch | None = None, on_start: Callable[[dict[str, int]], None] | None = None
) -> Ran:
    """Run every node of `layout` as a process of its own and return how it went."""
    nodes = Processes(layout)
    try:
        pids = nodes.start()
        if on_start is not None:
            on_start(pids)
        nodes.launch()
        return nodes.wait(watch)
    finally:
        nodes.stop()
