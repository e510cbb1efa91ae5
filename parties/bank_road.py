"""Whether a bank's road to its platform stands: what its log, its status, its metrics and `watch` say of it.

A stream that is cut is dialled again at once and nobody above notices, so the road itself is looked at, not what comes
over it: a stream whose peer answers no pings is cut, an idle one is not.
"""

import threading
import time
from typing import Any

from lianxin.federation.channel import Channel
from lianxin.parties.node import Node

AWAY_S = 2.0  # a cut that is mended sooner is no event


class PlatformRoad:
    """The road to the platform since the node was started. Safe between threads."""

    def __init__(self, node: Node) -> None:
        self._node, self.peer = node, node.identity.platform()
        self._lock = threading.Lock()
        self._cut_at, self._is_told = time.monotonic(), False
        self.is_up, self.since = False, node.clock.now()

    @property
    def address(self) -> str:
        """Where the platform is dialled, "" where it has no address (in a simulation)."""
        return self._node.config.platform_address or ""

    def look(self, lobby: Channel) -> None:
        """Take in whether the lobby's road stands now; one that is cut for AWAY_S is said to be away."""
        if lobby.is_cut():
            self.lost(AWAY_S)
            return
        with self._lock:
            self._node.heard_at[self.peer] = self._cut_at = time.monotonic()
            if self.is_up:
                return
            self.is_up, self._is_told, self.since = True, False, self._node.clock.now()
        self._node.say("connected")

    def lost(self, patience_s: float = 0.0) -> None:
        """Take in that there is no lobby, or no road under it; it is said once, after `patience_s` without a road."""
        with self._lock:
            if self._is_told or time.monotonic() - self._cut_at < patience_s:
                return
            if self.is_up:
                self.since = self._node.clock.now()
            self.is_up, self._is_told = False, True
        self._node.counts["platform/lost"] += 1
        self._node.say(self.sentence())

    def told(self) -> dict[str, Any]:
        """Return {"peer", "address", "connected", "since", "sentence"}; the time is the ledger's clock's."""
        return {
            "peer": self.peer, "address": self.address, "connected": self.is_up, "since": self.since,
            "sentence": self.sentence(),
        }  # fmt: skip

    def sentence(self) -> str:
        """Return how the road is, for people."""
        if self.is_up:
            return f"{self.peer} is connected since {self.since}"
        where = f" at {self.address}" if self.address else ""
        asked = "it is dialled until it answers; ask its operator whether it runs"
        return f"{self.peer} is away since {self.since}{where}: {asked}"
