"""The time that the gate decides by: never before the node's own ledger, never moved by a jump of the machine's clock.

A consent that was seen expired must not come back to life because somebody sets a clock back, and one that is not in
force must not begin early because somebody sets it forward. So `now` is the later of the machine's clock and the newest
time that the ledger has; between two readings a steady counter, which nobody sets, says how much time can have passed.
When the two clocks part by more than 30 seconds, `fault_s` says by how much: the gate writes an alarm and decides nothing
(rule T01) until the clock is right again, or the node is started again by somebody who has looked at it.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

from lianxin.crypto import canonical
from lianxin.federation.model import Clock
from lianxin.parties.clock import FORMAT
from lianxin.parties.store import Store

TOLERANCE_S = 30
Steady = Callable[[], float]


class LedgerClock:
    """A `Clock` that never goes back. Safe to share between threads."""

    def __init__(self, local: Clock, latest: str = "", steady: Steady | None = None) -> None:
        """`latest` is the newest time that the ledger holds; `steady` counts seconds, None where nothing does."""
        self._local, self._latest, self._steady = local, latest, steady
        self._base = (local.now(), steady() if steady else 0.0)
        self._lock, self._held = threading.Lock(), threading.local()

    def now(self) -> str:
        """Return the time as `YYYY-MM-DDTHH:MM:SSZ` (UTC), inside `held` always the same."""
        held = getattr(self._held, "time", None)
        if held is not None:
            return str(held)
        with self._lock:
            self._latest = max(self._latest, self._trusted())
            return self._latest

    @contextmanager
    def held(self) -> Iterator[str]:
        """Let the time stand still for this thread: what is decided and the leaf that says so have one time."""
        outer = getattr(self._held, "time", None)
        self._held.time = self.now()
        try:
            yield self._held.time
        finally:
            self._held.time = outer

    def fault_s(self) -> int:
        """Return by how many seconds the machine's clock is behind the ledger or has jumped, 0 within the tolerance."""
        with self._lock:
            local = self._local.now()
            skews = (seconds_between(local, self._latest), abs(seconds_between(local, self._expected())))
        return max((skew for skew in skews if skew > TOLERANCE_S), default=0)

    def _expected(self) -> str:
        """Return what the machine's clock should show by the steady counter; without one, what it does show."""
        if self._steady is None:
            return self._local.now()
        start, counted = self._base
        passed = timedelta(seconds=round(self._steady() - counted))
        return (datetime.strptime(start, FORMAT) + passed).strftime(FORMAT)

    def _trusted(self) -> str:
        local, expected = self._local.now(), self._expected()
        if abs(seconds_between(local, expected)) > TOLERANCE_S:
            return expected
        if self._steady is not None:
            self._base = (local, self._steady())
        return local


def seconds_between(earlier: str, later: str) -> int:
    """Return the seconds from one time to another; 0 when one of them is no time."""
    if earlier == later:
        return 0
    try:
        span = datetime.strptime(later, FORMAT) - datetime.strptime(earlier, FORMAT)
    except ValueError:
        return 0
    return round(span.total_seconds())


def newest_time(store: Store) -> str:
    """Return the time of the ledger's last leaf, "" when it has none."""
    count = store.leaf_count()
    last = next(iter(store.leaves(count - 1)), None) if count else None
    return canonical.decode(last)["time"] if last else ""
