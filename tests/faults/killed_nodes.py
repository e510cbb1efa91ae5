"""A network's run whose nodes are killed at chosen places and started again on the same state folder.

`Town` does it in memory: whoever is to die raises `Killed`, which no program catches, and new node objects take over.
`run_to_death` is a node's process that ends itself by SIGKILL at a place. Either way the programs under test know of none.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from lianxin.federation.channel import Channel, Link, MemoryNetwork
from lianxin.federation.errors import LianxinError, PeerGone
from lianxin.federation.grid import PartyGrid
from lianxin.federation.secure_sum import BankSum
from lianxin.parties.bank import BankNode
from lianxin.parties.config import load_node, load_run
from lianxin.parties.node import open_node
from lianxin.parties.platform import PlatformNode
from lianxin.parties.platform_network import PlatformNetwork
from lianxin.simulations.layout import RUN, Layout
from lianxin.simulations.runner import reference_plan

SOON_S = 60.0
STAGES = {"keys": "advertise", "shares": "share", "masked": "mask", "agree": "agree", "open": "open"}


class Killed(BaseException):
    """A node is dead from here on."""


@dataclass(frozen=True)
class Place:
    """Where a party dies: at a stage of the sum of `kind` in a round, or on entering a step of the platform's work.

    `after` lets the step be done first.
    """

    party: str
    what: str
    round: int = 0
    kind: str = "train"
    after: bool = False

    @property
    def method(self) -> tuple[type, str]:
        return (BankSum, STAGES[self.what]) if self.what in STAGES else (PlatformNetwork, self.what)

    def fits(self, one: Any, arguments: Sequence[Any]) -> bool:
        if isinstance(one, BankSum):
            return one.bank == self.party and one.terms.label.startswith(f"{self.kind}/{self.round}/")
        return one.node.party == self.party and (not self.round or _round_of(one, arguments) == self.round)


def _round_of(work: PlatformNetwork, arguments: Sequence[Any]) -> int:
    first = arguments[0] if arguments else work.next_round
    return first if isinstance(first, int) else int(getattr(first, "round", work.next_round))


@contextmanager
def dying_at(place: Place, die: Callable[[], None]) -> Iterator[None]:
    """Let `die` happen at `place`, once."""
    holder, name = place.method
    original, spent = getattr(holder, name), threading.Event()

    def stepping(one: Any, *arguments: Any, **named: Any) -> Any:
        is_here = not spent.is_set() and place.fits(one, arguments)
        if not is_here:
            return original(one, *arguments, **named)
        spent.set()
        if place.after:
            original(one, *arguments, **named)
        die()

    with mock.patch.object(holder, name, stepping):
        yield


class Road(Link):
    """A bank's link to whatever network there is now."""

    def __init__(self, town: "Town", party: str) -> None:
        self._town, self._party = town, party
        self._links: dict[int, Link] = {}

    def open(self, conversation: str, run: str) -> Channel:
        network = self._town.network
        if network is None:
            raise PeerGone("the platform is down")
        return self._links.setdefault(id(network), network.link(self._party)).open(conversation, run)

    def close(self) -> None:
        for link in self._links.values():
            link.close()


class Town:
    """The nodes of a layout in one process; each can be killed and started again."""

    def __init__(self, layout: Layout) -> None:
        self.layout, (self.first, *self.banks) = layout, layout.parties
        self.network: MemoryNetwork | None = None
        self.platform: PlatformNode | None = None
        self.nodes: dict[str, BankNode] = {}
        self.deaths: list[str] = []
        self.notes: list[str] = []
        self._died = threading.Condition()
        self._threads: list[threading.Thread] = []

    def start(self, party: str) -> None:
        node = open_node(load_node(self.layout.home(party) / "node.toml"))
        say = node.say
        node.say = lambda what, *run, **how: (say(what, *run, **how), self.notes.append(f"{party}: {what}"))[0]  # type: ignore
        if party == self.first:
            self.platform = PlatformNode(node, reference_plan, PartyGrid)
            self.network = MemoryNetwork(self.platform.handle, party, resume_window_s=2.0)
            self._leading_dies(self.platform)
            self.platform.take_up()
            return
        self.nodes[party] = BankNode(node, Road(self, party))
        self._threads.append(threading.Thread(target=self.nodes[party].serve, daemon=True))
        self._threads[-1].start()

    def _leading_dies(self, platform: PlatformNode) -> None:
        lead = platform._lead_again

        def leading(contract: Any) -> None:
            try:
                lead(contract)
            except Killed:
                return

        platform._lead_again = leading  # type: ignore[method-assign]

    def kill(self, party: str) -> None:
        """End a node as it is: nothing more is written by it."""
        if party == self.first:
            assert self.platform is not None and self.network is not None
            platform, network, self.network = self.platform, self.network, None
            for bank in self.banks:
                network.sever(bank)
            platform._closing.set()
            network.close(0.0)
            platform.node.close()
        else:
            dead = self.nodes.pop(party)
            dead._stop.set()
            for member in dead.members.values():
                member.over.set()
            dead.node.close()

    def die(self, party: str) -> None:
        with self._died:
            self.deaths.append(party)
            self._died.notify_all()
        raise Killed

    def run(self, places: Sequence[Place] = (), start_again: bool = True) -> dict[str, Any]:
        """Run the layout with a death at each place; return how it ended at the platform."""
        with ExitStack() as stack:
            for place in places:
                stack.enter_context(dying_at(place, lambda p=place.party: self.die(p)))  # type: ignore[misc]
            try:
                for party in self.layout.parties:
                    self.start(party)
                threading.Thread(target=self._launch, daemon=True).start()
                seen = 0
                until = time.monotonic() + SOON_S
                while time.monotonic() < until:
                    with self._died:
                        self._died.wait_for(lambda s=seen: len(self.deaths) > s, 0.05)  # type: ignore[misc]
                    for party in self.deaths[seen:]:
                        self.kill(party)
                        if start_again:
                            self.start(party)
                        seen += 1
                    if self.platform is not None and RUN in self.platform.ended and seen == len(self.deaths):
                        return self._ended()
                raise AssertionError(f"the run did not end: {self.notes[-12:]}")
            finally:
                self.stop()

    def _ended(self) -> dict[str, Any]:
        assert self.platform is not None
        until = time.monotonic() + 10.0
        while time.monotonic() < until and not all(RUN in bank.ended for bank in self.nodes.values()):
            time.sleep(0.02)
        return self.platform.ended[RUN]

    def _launch(self) -> None:
        assert self.platform is not None
        try:
            self.platform.launch(load_run(self.layout.folder / "run.toml"))
        except (LianxinError, Killed):
            return

    def stop(self) -> None:
        for party in [*self.nodes]:
            self.kill(party)
        if self.network is not None:
            self.kill(self.first)
        for thread in self._threads:
            thread.join(5.0)


def run_to_death(arguments: list[str]) -> None:
    """Be the node of `lianxin ROLE serve FILE` until the place that `arguments` name: party, what, round, kind, role, file."""
    party, what, number, kind, role, path = arguments
    from lianxin.parties.cli import app

    with dying_at(Place(party, what, int(number), kind), lambda: os.kill(os.getpid(), signal.SIGKILL)):
        sys.argv = ["lianxin", role, "serve", str(Path(path))]
        app()


if __name__ == "__main__":
    run_to_death(sys.argv[1:])
