"""How many firms a bank may ask scores of, over all its agreements, in a rolling window of days.

A request's firms are spent on disk before anything of them is looked at, refused ones too. So that a single request does
not wait for the disk by itself, a block of firms is spent ahead and used up in memory: a node that stops in between has
spent what is left of its blocks.
"""

import threading

from lianxin.crypto import canonical
from lianxin.federation.errors import PeerError
from lianxin.federation.model import Clock
from lianxin.parties.clock import after
from lianxin.parties.config import QuotaSection
from lianxin.parties.store import Store

BLOCK = 500
_DAY = len("2026-01-01")


class ScoreQuota:
    """The platform's count of the firms that each bank has asked scores of. Safe between threads and across restarts."""

    def __init__(self, store: Store, clock: Clock, limits: QuotaSection) -> None:
        self._store, self._clock, self._limits = store, clock, limits
        self._ahead: dict[str, tuple[str, int]] = {}  # by bank: the day of its block, the firms that are left of it
        self._lock = threading.Lock()

    def charge(self, bank: str, firms: int) -> None:
        """Spend `firms` of the bank's quota. Raises PeerError (Q01), having spent nothing, when fewer are left."""
        today = self._clock.now()[:_DAY]
        with self._lock:
            day, left = self._ahead.get(bank, (today, 0))
            left = left if day == today else 0
            if left < firms:
                left += self._spend(bank, firms - left)
            self._ahead[bank] = (today, left - firms)

    def _spend(self, bank: str, least: int) -> int:
        """Spend a block on disk, of at least `least` firms, and return its size."""
        now, limits = self._clock.now(), self._limits
        today, since = now[:_DAY], after(now, -limits.days)[:_DAY]
        block = 0

        def change(kept: bytes | None) -> bytes:
            nonlocal block
            entries = canonical.decode(kept)["spent"] if kept else []
            spent = {entry["time"]: entry["firms"] for entry in entries if entry["time"] > since}
            left = limits.scores - sum(spent.values())
            if left < least:
                raise PeerError(
                    f"{bank} asks scores of {least} more firms and {left} are left of {limits.scores} in {limits.days} "
                    "days; nothing was answered: wait, or raise [quota] scores",
                    "Q01",
                )
            block = min(max(least, BLOCK), left)
            spent[today] = spent.get(today, 0) + block
            days = [{"time": day, "firms": count} for day, count in sorted(spent.items())]
            return canonical.encode({"type": "score-quota", "version": 1, "spent": days})

        self._store.change_setting(f"score-quota/{bank}", change)
        return block
