"""A small run whose nodes meet over real gRPC while something is done to the roads between them, or to a node's clock.

Each bank has a road of its own, a relay that moves bytes and understands none. What is done begins at a moment of the run,
told by a failpoint, so that it falls into the work and not beside it.
"""

import threading
from collections.abc import Callable, Mapping

from faults.cutting_proxy import CuttingProxy
from faults.failpoint_runs import DEADLINE_S, Outcome, Village, judge, noting_places
from faults.failpoint_worlds import Scene, knowing

from lianxin.crypto import failpoints
from lianxin.federation.channel import Link
from lianxin.federation.services import GrpcLink, RunningServer, serve
from lianxin.parties.bank import BankNode
from lianxin.parties.clock import SimulatedClock
from lianxin.parties.failpoints_armed import Fault
from lianxin.parties.platform import PlatformNode
from lianxin.simulations.layout import Layout
from lianxin.simulations.runner import reference_plan


class Moment(Fault):
    """The `nth` time that `place` is reached: `what` happens then, beside the work."""

    def __init__(self, place: str, nth: int, what: Callable[[], object]) -> None:
        super().__init__(place, "delay", nth)
        self._what = what

    def strike(self) -> None:
        """Let it happen."""
        threading.Thread(target=self._what, daemon=True).start()


class Roads:
    """The platform's server, and each bank's relay to it."""

    def __init__(self, server: RunningServer, links: dict[str, Link], proxies: Mapping[str, CuttingProxy]) -> None:
        self._server, self._links, self._proxies = server, links, proxies

    def close(self) -> None:
        """End all of it."""
        for one in [*self._links.values(), *self._proxies.values()]:
            one.close()
        self._server.stop(0.0)


class WiredVillage(Village):
    """The nodes of a layout as threads that speak gRPC, each bank through a relay of its own; all clocks can jump."""

    def __init__(self, layout: Layout, outcome: Outcome, window_s: float) -> None:
        super().__init__(layout, outcome)
        self._window_s, self.proxies, self.refused = window_s, dict[str, CuttingProxy](), list[str]()

    def start(self) -> None:
        """Open all nodes, let the platform listen and the banks dial, and launch the run."""
        self.nodes = {party: self.open(party) for party in self.layout.parties}
        first = self.nodes[self.first]
        self.platform = PlatformNode(first, reference_plan)
        server = serve(
            "127.0.0.1:0", first.identity.server_tls(), first.identity.pinned_peers(), self.platform.handle,
            on_refused=lambda rule, _: self.refused.append(rule), resume_window_s=self._window_s,
        )  # fmt: skip
        links: dict[str, Link] = {}
        for party in self.others:
            identity = self.nodes[party].identity
            self.proxies[party] = CuttingProxy(f"127.0.0.1:{server.port}")
            links[party] = GrpcLink(
                self.proxies[party].address, identity.client_tls(self.first), self.first, resume_window_s=self._window_s
            )
            self.banks[party] = BankNode(self.nodes[party], links[party])
            self._begin(self._serve, party)
        self.network = Roads(server, links, self.proxies)  # type: ignore[assignment]
        self._begin(self._launch)

    def jump(self, party: str, seconds: int) -> None:
        """Set a node's clock that many seconds on, or back."""
        clock = self.nodes[party].clock
        assert isinstance(clock._local, SimulatedClock)
        if clock._steady is None:  # a counter that nobody sets, beside a clock that stands still
            clock._steady = lambda: 0.0
        clock._local.advance(seconds)


Mischief = Callable[[WiredVillage], object]


def run_under(
    scene: Scene, mischief: Mischief, name: str, nth: int, window_s: float = 20.0, deadline_s: float = DEADLINE_S
) -> tuple[Outcome, WiredVillage]:
    """Run a scene over gRPC, let `mischief` happen when the `nth` envelope goes out, and judge what came of it."""
    outcome, places = Outcome(f"{name}", scene.kind), list[tuple[str, int, int]]()
    layout = scene.lay(name)
    with knowing(scene.known), noting_places(places):
        village = WiredVillage(layout, outcome, window_s)
        moment = Moment("envelope-send/after", nth, lambda: mischief(village))
        failpoints.arm(moment)
        try:
            village.start()
            village.wait(deadline_s)
        finally:
            failpoints.arm(None)
            village.stop()
    outcome.struck = moment.has_struck
    judge(scene, layout, outcome, places, [])
    return outcome, village
