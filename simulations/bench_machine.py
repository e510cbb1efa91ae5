"""What a benchmark needs of its machine: a description, one pinned core, CPU time, and what a tree of processes used.

Figures of one core are CPU seconds with the process pinned, so that a busy machine slows them little. A side of
matching is a process with its workers; what it used is read from /proc at its end, while all of them still live: the
kernel's own high-water marks, summed, count pages that processes share more than once and miss no short peak.
"""

import os
import platform
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import gmpy2

from lianxin.federation.errors import InputFault
from lianxin.parties.usage import process_tree, tree_cpu_s, tree_peak_mb

__all__ = [
    "Samples", "check_processes_can_be_read", "cpu_seconds", "describe_machine", "pinned", "process_tree", "tree_cpu_s",
    "tree_peak_mb", "wall_seconds",
]  # fmt: skip

LIBRARIES = ("lianxin", "gmpy2", "rbcl", "cryptography", "grpcio", "protobuf", "numpy")
_PROC = Path("/proc")


class Samples:
    """Measurements by name and round, in seconds an operation.

    What else runs on a machine makes a whole stretch of time slow; a quotient is therefore taken within each round, of
    medians that are seconds apart, and its median over the rounds is the figure.
    """

    def __init__(self) -> None:
        self._rounds: list[dict[str, list[float]]] = []

    def next_round(self) -> None:
        """Begin a round."""
        self._rounds.append(defaultdict(list))

    def add(self, name: str, seconds: float) -> None:
        """Keep one measurement of this round."""
        self._rounds[-1][name].append(seconds)

    def medians(self) -> dict[str, float]:
        """Return for every name the median of all its measurements."""
        names = dict.fromkeys(name for one in self._rounds for name in one)
        return {name: statistics.median(x for one in self._rounds for x in one.get(name, ())) for name in names}

    def ratio(self, over: str, under: str) -> float | None:
        """Return the median over the rounds of the quotient of two medians; None where no round has both."""
        both = [(one[over], one[under]) for one in self._rounds if over in one and under in one]
        quotients = [statistics.median(top) / statistics.median(bottom) for top, bottom in both]
        return round(statistics.median(quotients), 4) if quotients else None


def cpu_seconds(work: Callable[[], object], operations: int = 1) -> float:
    """Return this process's CPU seconds (user and system) for one of the `operations` that `work` does."""
    start = time.process_time()
    work()
    return (time.process_time() - start) / operations


def wall_seconds(work: Callable[[], object]) -> float:
    """Return the seconds that `work` takes by a steady clock."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


@contextmanager
def pinned() -> Iterator[int | None]:
    """Keep this process, and those it starts meanwhile, on one core; yield its number, None where none can be kept."""
    if not hasattr(os, "sched_setaffinity"):
        yield None
        return
    before = os.sched_getaffinity(0)
    core = max(before)
    os.sched_setaffinity(0, {core})
    try:
        yield core
    finally:
        os.sched_setaffinity(0, before)


def describe_machine() -> dict[str, Any]:
    """Return the processor, its cores, the system and the versions of what computes."""
    return {
        "processor": _processor(),
        "cores": _usable_cores(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "arithmetic": gmpy2.mp_version(),
        "libraries": {name: metadata.version(name) for name in LIBRARIES},
    }


def _processor() -> str:
    try:
        lines = (_PROC / "cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.machine())


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_processes_can_be_read() -> None:
    """Raise InputFault where there is no /proc to read a side's memory and CPU time from."""
    if not (_PROC / "self" / "status").exists():
        raise InputFault(
            "the matching benchmark reads memory and CPU time of its processes from /proc: run it on Linux"
        )
