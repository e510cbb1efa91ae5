"""The disk under a node's state folder: what must stay free of it, and what one run may write.

    L15  less is free than `free_disk_bytes`, or where that is less than `free_disk_permille` of the disk: no run begins; a
         run under way ends by name at a quarter of that, so that its end, the ledger and the evidence still fit
    L16  a run has written more than `run_disk_bytes` at this node

What a run writes is counted as it is written: envelopes that are kept, and what its run folder holds. The ledger's own
leaf of an envelope counts as LEAF_BYTES. Nothing is written once a check has failed: `charge` comes before the write.
"""

import os
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from lianxin.federation.errors import RunStopped

if TYPE_CHECKING:
    from lianxin.parties.config_operations import LimitsSection

LEAF_BYTES = 2048
LOOK_EVERY_BYTES, LOOK_EVERY_S = 8 * 2**20, 2.0
RUNS_KEPT = 256
Disk = Callable[[Path], tuple[int, int]]


class DiskShort(RunStopped):
    """A run may not begin or go on for want of disk; `rule` is L15 or L16."""

    def __init__(self, message: str, rule: str) -> None:
        super().__init__(message)
        self.rule = rule


def disk_of(folder: Path) -> tuple[int, int]:
    """Return (bytes free to this process, bytes in all) of the disk that holds `folder`."""
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize


class DiskGuard:
    """Watches the disk of one state folder. Safe between threads; it looks at the disk every few MiB or seconds."""

    def __init__(
        self,
        folder: Path,
        limits: "LimitsSection",
        counts: "Counter[str] | None" = None,
        disk: Disk = disk_of,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder, self._limits, self._disk, self._steady = folder, limits, disk, steady
        self._counts: Counter[str] = Counter() if counts is None else counts
        self._written: OrderedDict[str, int] = OrderedDict()
        self._since_look, self._looked_at, self._free = 0, float("-inf"), 0
        self._floor = 0
        self._lock = threading.Lock()

    def check_start(self) -> None:
        """Raise DiskShort (L15) when a new run may not begin."""
        with self._lock:
            self._look()
            if self._free < self._floor:
                raise self._short("so no run begins here", self._floor)

    def charge(self, run: str, size: int) -> None:
        """Count `size` bytes that a run is about to write. Raises DiskShort: L16 over its share, L15 for want of room."""
        with self._lock:
            self._since_look += size
            if self._since_look >= LOOK_EVERY_BYTES or self._steady() - self._looked_at >= LOOK_EVERY_S:
                self._look()
            written = self._written.pop(run, 0)
            self._written[run] = written + size
            if len(self._written) > RUNS_KEPT:
                self._written.popitem(last=False)
            if written + size > self._limits.run_disk_bytes:
                raise self._over(run)
            if self._free - self._since_look < self._floor // 4:
                raise self._short(f"so run {run} was ended before it fills it", self._floor // 4)

    def state(self) -> dict[str, int]:
        """Return `free_bytes` and `floor_bytes` now, for whoever watches the node."""
        with self._lock:
            self._look()
            return {"free_bytes": self._free, "floor_bytes": self._floor}

    def _look(self) -> None:
        self._free, whole = self._disk(self._folder)
        self._floor = min(self._limits.free_disk_bytes, whole * self._limits.free_disk_permille // 1000)
        self._since_look, self._looked_at = 0, self._steady()

    def _short(self, consequence: str, floor: int) -> DiskShort:
        self._counts["limits/L15"] += 1
        text = (
            f"{self._free} bytes are free where this node keeps its state and {floor} have to stay free, {consequence}"
        )
        return DiskShort(f"{text}; make room or lower [limits] free_disk_bytes", "L15")

    def _over(self, run: str) -> DiskShort:
        self._counts["limits/L16"] += 1
        share = self._limits.run_disk_bytes
        return DiskShort(
            f"run {run} would write over {share} bytes here; raise [limits] run_disk_bytes if it may", "L16"
        )
