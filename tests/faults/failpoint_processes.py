"""The same runs as processes on gRPC, of which one is killed at a failpoint and started again, or has no room on its disk."""

import json
import os
import resource
import sqlite3
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from faults import history
from faults.failpoint_runs import DEADLINE_S, Outcome, judge, state_of, store_of
from faults.failpoint_worlds import Scene

from lianxin.federation.errors import LianxinError
from lianxin.parties import failpoints_armed
from lianxin.simulations.layout import RUN, Layout
from lianxin.simulations.runner import Processes, free_address

SETTLE_S = 40.0
NODE = Path(__file__).with_name("failing_node.py")


class Killed(Processes):
    """The processes of a layout; one of them is armed by its environment, and started again unarmed when it is dead."""

    def __init__(self, layout: Layout, known: Path) -> None:
        super().__init__(layout)
        self._known = known
        self.deaths: list[str] = []
        self.seen: list[tuple[str, list[bytes]]] = []

    def begin(self, party: str, fault: str = "") -> None:
        role = "platform" if party == self.layout.parties[0] else "bank"
        home = self.layout.home(party)
        command = [sys.executable, str(NODE), str(self._known), str(home), role, "serve", str(home / "node.toml")]
        armed = {failpoints_armed.VARIABLE: fault} if fault else {}
        with (home / "node.log").open("ab") as log:
            self._children[party] = subprocess.Popen(
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env={**os.environ, **armed}
            )

    def follow(self, victim: str, fault: str, deadline_s: float) -> dict[str, Mapping[str, Any]]:
        """Start all, launch the run, start again whoever dies, and return how it ended by party."""
        for party in self.layout.parties:
            self.begin(party, fault if party == victim else "")
        until, launched = time.monotonic() + deadline_s, False
        while time.monotonic() < until:
            self._raise_the_dead()
            launched = launched or self._try_launch()
            if launched:
                self.meanwhile()
            if launched and (ended := self._ends()) is not None:
                self._settle()
                return ended
            time.sleep(0.1)
        raise TimeoutError("; ".join(f"{party}: {self.last_words(party)}" for party in self.layout.parties))

    def _settle(self) -> None:
        """Wait until every bank has confirmed the end to the platform: one that was killed is told it again."""
        until = time.monotonic() + SETTLE_S
        while time.monotonic() < until and untold(self.layout):
            self._raise_the_dead()
            time.sleep(0.1)

    def meanwhile(self) -> None:
        """Do what is to be done to nodes while they run; nothing here."""

    def _raise_the_dead(self) -> None:
        for party, child in list(self._children.items()):
            if child.poll() is not None:
                self.deaths.append(party)
                self.seen.append((party, history.read_kept(store_of(self.layout, party)).leaves))
                assert len(self.deaths) < 5, self.last_words(party)
                self.begin(party)

    def _try_launch(self) -> bool:
        try:
            for party in self.layout.parties:
                self.ask(party, {"do": "status", "from": 0})
            self.launch()
        except LianxinError:
            return False
        return True

    def _ends(self) -> dict[str, Mapping[str, Any]] | None:
        """Return how the run ended at each node, {} where a node never heard of it; None while it goes on."""
        try:
            ended = {party: self._end_at(party) for party in self.layout.parties}
        except LianxinError:
            return None
        first = self.layout.parties[0]
        if not ended[first]:
            return None
        is_over = all(one or not state_of(self.layout, party) for party, one in ended.items())
        return ended if is_over else None

    def _end_at(self, party: str) -> Mapping[str, Any]:
        """Return how the run ended as a node says it, which it also keeps for its next start."""
        told = self.ask(party, {"do": "status", "from": 0})["ended"].get(RUN)
        return dict(told or kept_end(self.layout, party))


def untold(layout: Layout) -> int:
    """Return how many banks have not confirmed the end of the run to the platform."""
    with sqlite3.connect(f"file:{store_of(layout, layout.parties[0])}?mode=ro", uri=True) as base:
        (found,) = base.execute("select count(*) from settings where key like 'untold/%'").fetchone()
    return int(found)


def kept_end(layout: Layout, party: str) -> Mapping[str, Any]:
    """Return the record of the run's end in a party's store, {} where there is none."""
    with sqlite3.connect(f"file:{store_of(layout, party)}?mode=ro", uri=True) as base:
        found = base.execute("select value from settings where key = ?", (f"ended/{RUN}",)).fetchone()
    return dict(json.loads(found[0])) if found else {}


class Full(Killed):
    """A disk without room: no file of the victim can grow from its part in the run on, for some seconds."""

    def __init__(self, layout: Layout, known: Path, victim: str, seconds: float) -> None:
        super().__init__(layout, known)
        self._victim, self._seconds, self._since = victim, seconds, 0.0
        self.was_full = False

    def meanwhile(self) -> None:
        """Take the room away once the victim knows the run, and give it back."""
        if not self.was_full and state_of(self.layout, self._victim):
            self.was_full, self._since = True, time.monotonic()
            self._let_grow(1024)
        elif self._since and time.monotonic() - self._since > self._seconds:
            self._since = 0.0
            self._let_grow(resource.RLIM_INFINITY)

    def _let_grow(self, size: int) -> None:
        resource.prlimit(self._children[self._victim].pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def run_as_processes(scene: Scene, victim: str, fault: str, name: str, deadline_s: float = DEADLINE_S) -> Outcome:
    """Run a scene as processes of which `victim` is armed with `fault`, and return what came of it."""
    outcome, layout = Outcome(f"{victim} {fault}", scene.kind), scene.lay(name, free_address())
    group = Killed(layout, _known_of(scene, name))
    _follow(scene, group, outcome, victim, fault, deadline_s)
    outcome.struck = bool(group.deaths)
    if set(group.deaths) - {victim}:
        outcome.wrong.append(f"others died too: {group.deaths}")
    return outcome


def run_with_full_disk(scene: Scene, victim: str, name: str, seconds: float) -> Outcome:
    """Run a scene as processes of which `victim` has no room on its disk for `seconds`, and return what came of it."""
    outcome, layout = Outcome(f"{victim} full", scene.kind), scene.lay(name, free_address())
    group = Full(layout, _known_of(scene, name), victim, seconds)
    _follow(scene, group, outcome, victim, "", DEADLINE_S)
    outcome.struck = group.was_full
    return outcome


def _known_of(scene: Scene, name: str) -> Path:
    known = scene.folder / f"{name}.known.json"
    scene.known.save(known)
    return known


def _follow(scene: Scene, group: Killed, outcome: Outcome, victim: str, fault: str, deadline_s: float) -> None:
    layout, started = group.layout, time.monotonic()
    try:
        outcome.ended = group.follow(victim, fault, deadline_s)
    except TimeoutError as hung:
        outcome.wrong.append(f"hung: {hung}")
    finally:
        group.stop()
    outcome.seconds = time.monotonic() - started
    outcome.restarts.update(group.deaths)
    logs = {party: (layout.home(party) / "node.log").read_text(errors="replace") for party in layout.parties}
    outcome.wrong += [f"{party} left a traceback in its log" for party, log in logs.items() if "Traceback" in log]
    judge(scene, layout, outcome, noted_places(layout), group.seen)


def noted_places(layout: Layout) -> list[tuple[str, int, int]]:
    """Return the reservations that the nodes noted as processes."""
    files = [layout.home(party) / "places.jsonl" for party in layout.parties]
    lines = [line for path in files if path.exists() for line in path.read_text().splitlines() if line.endswith("]")]
    return [(pool, first, count) for pool, first, count in map(json.loads, lines)]


def hits_by_party(scene: Scene, name: str = "counted") -> dict[str, dict[str, int]]:
    """Run a scene once as processes without a fault, and return how often each party reaches each place."""
    layout = scene.lay(name, free_address())
    group = Killed(layout, _known_of(scene, name))
    try:
        group.follow("", "", DEADLINE_S)
    finally:
        group.stop()
    return {party: json.loads((layout.home(party) / "hits.json").read_text()) for party in layout.parties}
