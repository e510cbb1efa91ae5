"""Who is waited for: every wait of a run has a party, a step, a beginning and an end, which a person may ask for.

A wait is entered in the list while it lasts. What lasts longer than SILENT_S is told once by whoever keeps time (`silent`),
so that an operator reads who is silent long before the deadline ends the run.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

SILENT_S = 30.0


@dataclass(frozen=True)
class Wait:
    """One wait of a run: for whom, in which step, and when it began and ends on a steady clock (seconds)."""

    run: str
    party: str
    step: str
    began: float
    until: float

    def shown(self, now: float) -> dict[str, Any]:
        """Return it as whole seconds: {"for", "step", "since_s", "until_s"}."""
        return {
            "for": self.party, "step": self.step, "since_s": max(0, round(now - self.began)),
            "until_s": max(0, round(self.until - now)),
        }  # fmt: skip


class Waits:
    """The waits of one node that last just now. Safe between threads."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now, self._lock = now, threading.Lock()
        self._lasting: dict[int, Wait] = {}
        self._told: set[int] = set()
        self._next = 0

    @contextmanager
    def on(self, run: str, party: str, step: str, deadline_s: float) -> Iterator[None]:
        """Enter a wait of `run` for `party` in `step` while the block lasts, at most `deadline_s` seconds."""
        began = self._now()
        with self._lock:
            number, self._next = self._next, self._next + 1
            self._lasting[number] = Wait(run, party, step, began, began + deadline_s)
        try:
            yield
        finally:
            with self._lock:
                del self._lasting[number]
                self._told.discard(number)

    def all(self) -> list[Wait]:
        """Return every wait that lasts, the oldest first."""
        with self._lock:
            return [self._lasting[number] for number in sorted(self._lasting)]

    def of(self, run: str) -> list[dict[str, Any]]:
        """Return the waits of one run as they are shown, the oldest first."""
        now = self._now()
        return [wait.shown(now) for wait in self.all() if wait.run == run]

    def silent(self, after_s: float = SILENT_S) -> list[Wait]:
        """Return the waits that have lasted `after_s` seconds and were not returned before."""
        now = self._now()
        with self._lock:
            found = [
                n for n, wait in sorted(self._lasting.items()) if now - wait.began >= after_s and n not in self._told
            ]
            self._told.update(found)
            return [self._lasting[number] for number in found]
