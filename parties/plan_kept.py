"""What a run took at its platform beside what the plan said that the banks approved: a line at the run's end.

The plan counts at the contract's largest sizes, so that a run of fewer rows stays under it. In a simulation nothing is
measured here: its nodes may share a process, and its summary is the same on every machine.
"""

import os
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lianxin.parties.usage import tree_cpu_s

if TYPE_CHECKING:
    from lianxin.parties.node import Node

Kept = dict[str, dict[str, float]]


class Meter:
    """Begins to measure when it is made; `read` says what this party has used since."""

    def __init__(self, node: "Node", plan: Mapping[str, Any]) -> None:
        self._node, self._totals = node, {total["party"]: total for total in plan.get("totals", ())}
        self._sent, self._cpu, self._began = node.bytes_sent, tree_cpu_s(os.getpid()), time.monotonic()

    def read(self) -> Kept:
        """Return {"bytes_sent", "cpu_s", "wall_s"}, each with what was planned and the actual; empty in a simulation."""
        total = self._totals.get(self._node.party)
        if total is None or self._node.config.simulation is not None:
            return {}
        used = tree_cpu_s(os.getpid()) - self._cpu
        return {
            "bytes_sent": {"planned": total["wire_bytes"], "actual": self._node.bytes_sent - self._sent},
            "cpu_s": {"planned": total["cpu_us"] / 1e6, "actual": round(used, 3)},
            "wall_s": {"planned": total["wall_us"] / 1e6, "actual": round(time.monotonic() - self._began, 3)},
        }


def describe_kept(kept: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Return the sentence for a terminal; none where nothing was measured."""
    if not kept:
        return []
    sent, cpu, wall = (kept[name] for name in ("bytes_sent", "cpu_s", "wall_s"))
    return [
        f"sent {sent['actual'] / 1e6:.1f} MB, computed for {cpu['actual']:.0f} s, took {wall['actual']:.0f} s; the plan said "
        f"{sent['planned'] / 1e6:.1f} MB, {cpu['planned']:.0f} s and {wall['planned']:.0f} s at the contract's largest sizes"
    ]
