"""One quota of matching queries a bank, over all of its runs, sessions and certificates (attacks.md, row 2).

A query tells a bank whether one firm of its choice is among the platform's, so their number in a window of days is
limited, and charged on disk before anything is answered: an aborted run has spent its queries. A party of this network
is one legal entity with one pin, so the quota is kept by party.

Field queries have a quota of their own, in firms asked about: of the days that are over their sums are kept, no more.

So have the cuts of tree models: each one tells a bank a bit of every row that it asks for, so what a bank may learn of one
firm in a window of days is their number, over all of its runs. A run for which fewer are left than its contract allows is
not begun.
"""

from collections.abc import Sequence

from lianxin.crypto import canonical
from lianxin.federation.errors import GateRefused, PeerError
from lianxin.federation.model import Clock
from lianxin.parties.clock import after
from lianxin.parties.config import QuotaSection
from lianxin.parties.store import Store

_DAY = len("2026-01-01")


class QueryQuota:
    """The platform's count of what each bank has asked. Safe between threads and across restarts."""

    def __init__(self, store: Store, clock: Clock, limits: QuotaSection) -> None:
        self._store, self._clock, self._limits = store, clock, limits

    def charge(self, bank: str, run: str, queries: int) -> int:
        """Spend `queries` (padding included) of the bank's quota and return what is left in the window.

        Raises PeerError (M04), having spent nothing, when fewer are left.
        """
        now, limits = self._clock.now(), self._limits
        left = 0

        def spend(kept: bytes | None) -> bytes:
            nonlocal left
            spent = [entry for entry in _entries(kept) if entry["time"] > after(now, -limits.days)]
            left = limits.queries - sum(entry["queries"] for entry in spent) - queries
            if left < 0:
                raise PeerError(
                    f"{bank} asks {queries} matching queries and {left + queries} are left of {limits.queries} in "
                    f"{limits.days} days; nothing was answered: wait, or raise [quota] queries",
                    "M04",
                )
            return canonical.encode(
                {"type": "query-quota", "version": 1, "spent": [*spent, {"time": now, "run": run, "queries": queries}]}
            )

        self._store.change_setting(f"quota/{bank}", spend)
        return left


class FieldQuota:
    """The platform's count of the firms that each bank has asked about. Safe between threads and across restarts."""

    def __init__(self, store: Store, clock: Clock, limits: QuotaSection) -> None:
        self._store, self._clock, self._limits = store, clock, limits

    def charge(self, bank: str, firms: int) -> int:
        """Spend `firms` of the bank's quota and return what is left; a day's count comes back as a whole, after `days`.

        Raises PeerError (Q01), having spent nothing, when fewer are left.
        """
        now, limits = self._clock.now(), self._limits
        today, since = now[:_DAY], after(now, -limits.days)[:_DAY]
        left = 0

        def spend(kept: bytes | None) -> bytes:
            nonlocal left
            spent = {entry["time"]: entry["queries"] for entry in _entries(kept) if entry["time"] > since}
            left = limits.field_queries - sum(spent.values()) - firms
            if left < 0:
                raise PeerError(
                    f"{bank} asks about {firms} firms and {left + firms} are left of {limits.field_queries} in "
                    f"{limits.days} days; nothing was answered: wait, or raise [quota] field_queries",
                    "Q01",
                )
            spent[today] = spent.get(today, 0) + firms
            days = [{"time": day, "queries": count} for day, count in sorted(spent.items())]
            return canonical.encode({"type": "field-query-quota", "version": 1, "spent": days})

        self._store.change_setting(f"field-quota/{bank}", spend)
        return left


class SplitQuota:
    """The platform's count of the distinct cuts whose sides each bank has been told. Safe between threads, on disk."""

    def __init__(self, store: Store, clock: Clock, limits: QuotaSection) -> None:
        self._store, self._clock, self._limits = store, clock, limits

    def left(self, bank: str) -> int:
        """Return how many cuts the bank may still be told the sides of in the window."""
        since = after(self._clock.now(), -self._limits.days)
        spent = _entries(self._store.setting(f"split-quota/{bank}"))
        return self._limits.split_bits - sum(entry["queries"] for entry in spent if entry["time"] > since)

    def check(self, banks: Sequence[str], bits: int) -> None:
        """Raise GateRefused (BQ01), before a run begins, when fewer than `bits` cuts are left to one of the banks."""
        for bank in banks:
            if (left := self.left(bank)) < bits:
                raise GateRefused(
                    f"{bank} may be told the sides of {left} more cuts in these {self._limits.days} days and the run's "
                    f"split_bits is {bits} (rule BQ01); lower the run's split_bits, wait, or raise [quota] split_bits",
                    "BQ01",
                )

    def charge(self, bank: str, run: str, cuts: int) -> int:
        """Spend `cuts` new ones of the bank's quota and return what is left in the window.

        Raises PeerError (BQ01), having spent nothing, when fewer are left.
        """
        now, limits = self._clock.now(), self._limits
        left = 0

        def spend(kept: bytes | None) -> bytes:
            nonlocal left
            spent = [entry for entry in _entries(kept) if entry["time"] > after(now, -limits.days)]
            left = limits.split_bits - sum(entry["queries"] for entry in spent) - cuts
            if left < 0:
                raise PeerError(
                    f"{bank} asks for the sides of {cuts} more cuts and {left + cuts} are left of {limits.split_bits} in "
                    f"{limits.days} days; nothing was told: wait, or raise [quota] split_bits",
                    "BQ01",
                )
            spent = _joined(spent, {"time": now, "run": run, "queries": cuts})
            return canonical.encode({"type": "split-quota", "version": 1, "spent": spent})

        self._store.change_setting(f"split-quota/{bank}", spend)
        return left


def _joined(spent: list[dict], entry: dict) -> list[dict]:
    """Return the list with an entry more; what one run spends at one time is one entry."""
    same = [one for one in spent if (one["time"], one["run"]) == (entry["time"], entry["run"])]
    others = [one for one in spent if one not in same]
    return [*others, entry | {"queries": entry["queries"] + sum(one["queries"] for one in same)}]


def _entries(kept: bytes | None) -> list[dict]:
    return canonical.decode(kept)["spent"] if kept else []
