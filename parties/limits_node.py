"""A node's limits at work: the toll at its door, what of it outlives a restart, and refusals that do not flood the ledger.

Whoever is turned away a thousand times a minute would write a thousand leaves: only the first refusal of a peer by a rule
is written at once, those of the following minute are counted into the next leaf (`times`). `node.counts` has every one.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lianxin.crypto import canonical
from lianxin.federation.limits import Limits, Toll

if TYPE_CHECKING:
    from lianxin.parties.config_operations import LimitsSection
    from lianxin.parties.ledger import Ledger
    from lianxin.parties.node import Node
    from lianxin.parties.store import Store

QUIET_S = 60.0
KINDS_KEPT = 1024
_DAY = 10


def limits_of(section: "LimitsSection") -> Limits:
    """Return the limits at the door that a configuration says."""
    named = {name: getattr(section, name) for name in Limits.__dataclass_fields__}
    return Limits(**named)


def toll_of(node: "Node", log: "RefusalLog") -> Toll:
    """Return the toll of a running node: by its own clock's day, kept in its store."""
    today = lambda: node.clock.now()[:_DAY]  # noqa: E731
    return Toll(limits_of(node.config.limits), time.monotonic, today, log.held_back, StoredDay(node.store))


class Door:
    """What a node's server or link is given of its limits; `close` keeps what was counted."""

    def __init__(self, node: "Node") -> None:
        self._limits = node.config.limits
        self.log = RefusalLog(node.ledger, lambda what: node.counts.update([what]))
        self.toll = toll_of(node, self.log)

    def serve_options(self) -> dict[str, Any]:
        """Return the arguments of `services.serve` that keep these limits."""
        shares = {"max_streams": self._limits.conversations_in_all, "max_streams_per_party": self._limits.conversations}
        return {**shares, "toll": self.toll, "on_refused": self.refused}

    def refused(self, rule: str, uri: str | None) -> None:
        """Count and, if it is the first for a minute, write that a peer was turned away at the door."""
        self.log.refused(rule, uri or "")

    def close(self) -> None:
        """Keep the bytes of the day and write the refusals that are counted and not written yet."""
        self.toll.save()
        self.log.close()


class StoredDay:
    """The bytes of a day of each party, in the store: written every few MiB, so that at most so much is forgotten."""

    def __init__(self, store: "Store") -> None:
        self._store = store

    def read(self, party: str, day: str) -> int:
        """Return what was kept of this day, 0 for another."""
        kept = self._store.setting(f"limits/{party}")
        record = canonical.decode(kept) if kept else {}
        return int(record["bytes"]) if record.get("day") == day else 0

    def write(self, party: str, day: str, count: int) -> None:
        """Keep the bytes of this day in place of what was kept."""
        record = {"type": "bytes-of-a-day", "version": 1, "day": day, "bytes": count}
        self._store.put_setting(f"limits/{party}", canonical.encode(record))


class RefusalLog:
    """Writes refusals to the ledger, at most one leaf a minute for each peer, rule and step. Safe between threads.

    `written` hears of each leaf that was written, (rule, peer, times), for a node's own log.
    """

    def __init__(
        self, ledger: "Ledger", count: Callable[[str], None], steady: Callable[[], float] = time.monotonic
    ) -> None:
        self._ledger, self._count, self._steady = ledger, count, steady
        self._open: OrderedDict[tuple[str, str, str], tuple[float, int, str]] = OrderedDict()
        self._lock = threading.Lock()

    def refused(self, rule: str, peer: str, step: str = "connect", run: str = "") -> None:
        """Count one refusal, and write a leaf when this peer had none by this rule for a minute."""
        self._count(f"limits/{rule}" if rule.startswith("L1") else f"refusals/{rule}")
        with self._lock:
            now, key = self._steady(), (peer, rule, step)
            since, waiting, _ = self._open.pop(key, (float("-inf"), 0, ""))
            due = now - since >= QUIET_S
            self._open[key] = (now, 0, run) if due else (since, waiting + 1, run)
            leaves = [(key, waiting + 1, run)] if due else []
            if len(self._open) > KINDS_KEPT:
                oldest, (_, more, its_run) = self._open.popitem(last=False)
                leaves += [(oldest, more, its_run)] if more else []
        for leaf in leaves:
            self._write(*leaf)

    def held_back(self, rule: str, party: str) -> None:
        """Count and write what was not refused but held back (L12)."""
        self.refused(rule, party, "receive")

    def close(self) -> None:
        """Write what is still counted and not written."""
        with self._lock:
            left, self._open = list(self._open.items()), OrderedDict()
        for key, (_, waiting, run) in left:
            if waiting:
                self._write(key, waiting, run)

    def _write(self, key: tuple[str, str, str], times: int, run: str) -> None:
        peer, rule, step = key
        leaf = {"kind": "refusal", "run": run, "peer": peer, "rule": rule, "step": step}
        self._ledger.append(leaf | ({"times": times} if times > 1 else {}))
