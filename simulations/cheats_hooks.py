"""How a scenario makes one node cheat: the places where what an honest node does is replaced, at that node alone.

All nodes of a simulation in memory are threads of one process, so nothing is replaced in a module: each hook changes
one object of one node, before the run begins. What a hook is given is what the honest code was about to do, and what it
returns is done in its place. Sealing, signing, ledger and order stay the node's own: a cheat signs what it does.
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Protocol

from google.protobuf.message import Message
from pydantic import BaseModel, ConfigDict

from lianxin.federation.errors import InputFault
from lianxin.federation.model import Released
from lianxin.federation.session import Session
from lianxin.parties.decision import ReleaseRequest
from lianxin.simulations.layout import Layout

Banks = Mapping[str, Any]


class Cheat(Protocol):
    """What a scenario asks of a cheat: `tamper` before the nodes start, `forge` when the evidence lies gathered."""

    def tamper(self, platform: Any, banks: Banks) -> None:
        """Replace what the cheating node does; `platform` is a PlatformNode, `banks` BankNodes by party."""
        ...

    def forge(self, layout: Layout) -> None:
        """Change the cheating party's files under `layout`."""
        ...


class ByOneParty(BaseModel):
    """A cheat by one party: its options are the keys of a `[[cheat]]` table, and others are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    kind: ClassVar[str]
    party: str = ""
    seed: int = 1

    def tamper(self, platform: Any, banks: Banks) -> None:
        """See `Cheat.tamper`; a cheat in the files alone leaves the nodes as they are."""

    def forge(self, layout: Layout) -> None:
        """See `Cheat.forge`; a cheat at the node leaves the files as they are."""

    def bank(self, banks: Banks) -> Any:
        """Return the cheating bank's node. Raises InputFault when the scenario has no such bank."""
        if self.party not in banks:
            raise InputFault(
                f"cheat {self.kind}: no bank is called {self.party or 'nothing'}; name one of {sorted(banks)}"
            )
        return banks[self.party]

    def own_node(self, platform: Any, banks: Banks) -> Any:
        """Return what the cheating party, by default the platform, has of a node. Raises InputFault for no party."""
        return platform.node if self.party in ("", platform.node.party) else self.bank(banks).node


def replace_method(owner: Any, name: str, make: Callable[[Any], Any]) -> None:
    """Put `make(honest method)` in the place of one object's method."""
    object.__setattr__(owner, name, make(getattr(owner, name)))


def on_message(node: Any, change: Callable[[Session, Message, str], Message]) -> None:
    """Let `change(session, message, step)` say what this node sends, in all of its conversations."""

    def make(honest: Callable[..., Session]) -> Callable[..., Session]:
        def session(*place: Any, **named: Any) -> Session:
            one = honest(*place, **named)
            replace_method(
                one, "send", lambda send: lambda m, step, rights=(): send(change(one, m, step), step, rights)
            )
            return one

        return session

    replace_method(node, "session", make)


def on_release(node: Any, change: Callable[[ReleaseRequest, Released], Released]) -> None:
    """Let `change(request, released)` say with which rows this node goes on after its gate has let some go."""

    def make(honest: Callable[..., Released]) -> Callable[..., Released]:
        def release(contract: Any, request: ReleaseRequest, *rows: Any, **named: Any) -> Released:
            return change(request, honest(contract, request, *rows, **named))

        return release

    replace_method(node.boundary, "release", make)


class _Members(dict[str, Any]):
    """A bank's runs under way; whoever enters is shown to `meet` before it starts."""

    def __init__(self, meet: Callable[[Any], None]) -> None:
        super().__init__()
        self._meet = meet

    def __setitem__(self, run: str, worker: Any) -> None:
        self._meet(worker.work)
        super().__setitem__(run, worker)


def on_run(bank: Any, meet: Callable[[Any], None]) -> None:
    """Let `meet(run)` change this bank's side of a run before it begins."""
    bank.members = _Members(meet)
