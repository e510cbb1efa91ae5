"""A run under way at its platform: its work, and the learning conversations that its banks have opened.

A bank that was killed, or that lost its platform, dials again under the next number: `learning/<bank>`, then
`learning/<bank>/1` and so on. A conversation's chain of envelopes is never begun twice, and the newest conversation of
a bank takes the place of the one before it, of which nothing is read any more.
"""

import logging
import threading
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Union

from lianxin.federation.channel import Channel
from lianxin.federation.contract import RunContract
from lianxin.federation.errors import LianxinError, PeerError, RunStopped
from lianxin.federation.session import Session
from lianxin.parties.fault_words import fault_words
from lianxin.parties.node import Node
from lianxin.parties.run_life import RunLife

if TYPE_CHECKING:
    from lianxin.parties.platform_network import PlatformNetwork
    from lianxin.parties.platform_run import PlatformRun

Work = Union["PlatformRun", "PlatformNetwork"]  # named, not loaded: Flower comes with a run

FAILURES_KEPT = 64
LOOK_S = 5.0


@dataclass
class ActiveRun:
    """A run under way: its work, the learning channels as banks open them, and what failed in their conversations."""

    work: Work
    learning: dict[str, Channel] = field(default_factory=dict)
    failures: deque[LianxinError] = field(default_factory=lambda: deque(maxlen=FAILURES_KEPT))
    arrived: threading.Condition = field(default_factory=threading.Condition)
    done: threading.Event = field(default_factory=threading.Event)
    again: bool = False
    life: RunLife | None = None
    _taken: dict[str, Channel] = field(default_factory=dict)

    def hold(self, channel: Channel) -> None:
        """Keep a bank's learning channel, in place of an earlier one, until the run is over or a later one comes."""
        bank = channel.peer
        with self.arrived:
            before, self.learning[bank] = self.learning.get(bank), channel
            self.arrived.notify_all()
        if before is not None:
            before.close("the bank dialled again")
        with self.arrived:
            while not self.done.is_set() and self.learning.get(bank) is channel:
                self.arrived.wait(LOOK_S)

    def finish(self) -> None:
        """Let go of every learning channel: a bank would still wait on it."""
        with self.arrived:
            self.done.set()
            self.arrived.notify_all()

    def absent(self, banks: Iterable[str], deadline_s: float) -> list[str]:
        """Return which of `banks` have not dialled within `deadline_s` seconds."""
        with self.arrived:
            self.arrived.wait_for(lambda: self.done.is_set() or set(banks) <= set(self.learning), deadline_s)
            return sorted(set(banks) - set(self.learning))

    def sessions(self, node: Node, contract: RunContract, banks: Iterable[str]) -> dict[str, Session]:
        """Return this node's end of the newest learning conversation of each of `banks`, which all have one."""
        with self.arrived:
            self._taken |= {bank: self.learning[bank] for bank in banks}
            return {
                bank: node.session(contract, ch, ch.conversation) for bank, ch in self._taken.items() if bank in banks
            }

    def returned(self, node: Node, contract: RunContract, banks: Sequence[str]) -> Mapping[str, Session]:
        """Return a session for each of the lost `banks` that dials again within the contract's `rejoin_s`.

        Their earlier conversations are closed first: an answer that is late comes nowhere.
        """
        for bank in banks:
            self._taken[bank].close("it was lost")
        waited = node.waits.on(contract.run, ", ".join(banks), "learning.exchange", float(contract.rejoin_s))
        with waited, self.arrived:
            self.arrived.wait_for(
                lambda: self.done.is_set() or all(map(self._is_back, banks)), float(contract.rejoin_s)
            )
            back = [bank for bank in banks if self._is_back(bank)]
        if self.life is not None:
            self.life.check()
        return self.sessions(node, contract, back)

    def _is_back(self, bank: str) -> bool:
        channel = self.learning[bank]
        return channel is not self._taken[bank] and not channel.is_gone()


def cause_of(run: str, active: ActiveRun | None, fault: Exception) -> LianxinError:
    """Return what a person should read: the first failure inside a conversation says more than its echo."""
    failure = fault if isinstance(fault, LianxinError) else _unknown(run, fault)
    own = [f for f in (active.failures if active else []) if type(f) is not PeerError or f.rule != "S05"]
    return own[0] if own and isinstance(failure, RunStopped) else failure


def _unknown(run: str, fault: Exception) -> RunStopped:
    logging.getLogger("lianxin").error("a fault in run %s", run, exc_info=fault)
    return RunStopped(fault_words(fault, f"run {run}"))
