"""A run at its platform from its proposal to its end: where it stands, and how it is stopped from outside.

Whoever stops a run (a person, or a bank that withdraws) names the fault; every conversation of the run is closed, so that
no thread of it waits on, and whoever leads it ends it by that fault.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from lianxin.federation.channel import Channel
from lianxin.federation.contract import RunContract
from lianxin.federation.errors import LianxinError, RunStopped

CANCELLED, WITHDRAWN, BUSY = "C12", "C13", "C14"
POLL_S = 0.5


class RunCancelled(RunStopped):
    """A person ended the run; `rule` is what the other parties are told, `operator` who it was, "" at another party."""

    def __init__(self, message: str, rule: str, operator: str = "") -> None:
        super().__init__(message)
        self.rule, self.operator = rule, operator


@dataclass
class RunLife:
    """What is known of a run under lead. `phase` is for people; `number` is its place among all that were launched."""

    run: str
    number: int
    operator: str
    model: str = ""
    banks: tuple[str, ...] = ()
    since: str = ""
    phase: str = "queued"
    stopped: LianxinError | None = None
    over: threading.Event = field(default_factory=threading.Event)
    meter: Any = None
    _channels: set[Channel] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def described(self, contract: RunContract, phase: str) -> "RunLife":
        """Note what the contract says of the run; return this life."""
        self.model, self.banks, self.phase = contract.model, tuple(contract.banks), phase
        self.since = self.since or contract.created_at
        return self

    def phase_now(self, active: Any = None) -> str:
        """Return where the run stands, for people: queued, agreement, approved, matching, round 3, closing and so on."""
        if active is None or self.phase != "running":
            return self.phase
        work, turns = active.work, active.work.contract.turns
        turn = getattr(work, "next_round", 0) if active.work.contract.is_network else getattr(work, "round", 0)
        if not turn:
            return "binning" if len(work.shared) == len(self.banks) else "matching"
        return f"round {turn}" if turn <= turns else "evaluation"

    def stop(self, fault: LianxinError) -> None:
        """End the run by `fault`, unless something has ended it already; what it waits for is closed."""
        with self._lock:
            self.stopped = self.stopped or fault
            channels = list(self._channels)
        self.over.set()
        for channel in channels:
            channel.close("the run was stopped")

    def check(self) -> None:
        """Raise the fault by which the run was stopped, if it was."""
        if self.stopped is not None:
            raise self.stopped

    def holds(self, channel: Channel) -> None:
        """Close `channel` too when the run is stopped. Raises the fault when it is stopped already."""
        with self._lock:
            self._channels.add(channel)
        self.check()

    def lets_go(self, channel: Channel) -> None:
        """Forget a conversation that has ended."""
        with self._lock:
            self._channels.discard(channel)


class Places:
    """As many places as runs may go on at once; who was launched first takes the next one. Safe between threads."""

    def __init__(self, count: int) -> None:
        self._free, self._change = count, threading.Condition()
        self._waiting: set[int] = set()

    def enter(self, number: int) -> None:
        """Stand in line from now on under `number`."""
        with self._change:
            self._waiting.add(number)

    def take(self, number: int, check: Callable[[], None]) -> None:
        """Wait for a place in the order of numbers. `check()` is asked again and again, and ends the wait by what it raises."""
        with self._change:
            self._waiting.add(number)
            try:
                while self._free < 1 or min(self._waiting) != number:
                    check()
                    self._change.wait(POLL_S)
                check()
                self._free -= 1
            finally:
                self._waiting.discard(number)
                self._change.notify_all()

    def leave(self, number: int) -> None:
        """Stand in line no longer."""
        with self._change:
            self._waiting.discard(number)
            self._change.notify_all()

    def take_at_once(self) -> None:
        """Take a place whether one is free or not: a run that goes on after a restart waits for nobody."""
        with self._change:
            self._free -= 1

    def give(self) -> None:
        """Give a place back."""
        with self._change:
            self._free += 1
            self._change.notify_all()

    def before(self, number: int) -> int:
        """Return how many wait in line before `number`."""
        with self._change:
            return sum(one < number for one in self._waiting)

    @property
    def waiting(self) -> int:
        """How many wait."""
        with self._change:
            return len(self._waiting)


class Place:
    """One run's place: taken, given back while people decide, and taken again. `give` may be called twice."""

    def __init__(self, places: Places, life: RunLife, check: Callable[[], None]) -> None:
        self._places, self._life, self._check = places, life, check
        self._has = False

    def take(self) -> None:
        """Wait for a place unless it has one. Raises what ends the run meanwhile."""
        if not self._has:
            self._places.take(self._life.number, self._check)
            self._has = True

    def take_at_once(self) -> None:
        """See `Places.take_at_once`."""
        self._places.take_at_once()
        self._has = True

    def give(self) -> None:
        """Give it back, if it has one."""
        if self._has:
            self._has = False
            self._places.give()
