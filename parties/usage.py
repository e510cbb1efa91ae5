"""What a process and its workers used: processor time and memory of a tree, read from /proc.

The kernel's own high-water marks, summed over the tree, count pages that processes share more than once and miss no short
peak. Where there is no /proc everything is 0.
"""

import os
from pathlib import Path

_PROC = Path("/proc")
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_MEGABYTE = 1e6


def process_tree(pid: int) -> list[int]:
    """Return `pid` and all of its living descendants."""
    tree = [pid]
    for parent in tree:  # grows while it is walked: children of children follow
        for task in _entries(_PROC / str(parent) / "task"):
            tree += [int(child) for child in _read(task / "children").split()]
    return tree


def tree_cpu_s(pid: int) -> float:
    """Return user and system seconds of the tree so far, of children that have ended too, to the kernel's tick."""
    return sum(sum(map(int, _after_name(process)[11:15])) for process in process_tree(pid)) * _TICK_S


def tree_peak_mb(pid: int) -> float:
    """Return the sum over the tree of each process's highest resident size so far, in megabytes (10^6 bytes)."""
    return sum(_peak_bytes(process) for process in process_tree(pid)) / _MEGABYTE


def _peak_bytes(pid: int) -> int:
    lines = _read(_PROC / str(pid) / "status").splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)


def _after_name(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat from the third on; a process that has just ended has used nothing."""
    return _read(_PROC / str(pid) / "stat").rpartition(")")[2].split() or ["0"] * 15


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
