"""A proposal whose bank was restarted before it answered: the platform makes it again in the bank's next lobby.

    platform -> bank  contracts/<bank>      Proposal     heard, and nobody answered before the node ended
    platform -> bank  contracts/<bank>/<n>  Proposal     the same contract and plan, in a conversation of its own
    bank -> platform  contracts/<bank>/<n>  Approval, and from here on as ever

A run's id serves once (C08). A proposal made again is no second use of it: the bank has heard this contract, has sent nothing
of the run, holds no seed of it and has not ended it; policy and software are those under which it heard it first, which the
leaf of that says. Else it is refused by C08 like any other.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from lianxin.crypto import canonical
from lianxin.federation import wire
from lianxin.federation.contract import RunContract
from lianxin.federation.errors import PeerGone
from lianxin.federation.session import Session
from lianxin.parties.commitments import is_kept_as_now
from lianxin.parties.lobby import Lobby
from lianxin.parties.node import Node
from lianxin.parties.runs_left import is_numbered, is_unused

AWAY_S = 600.0  # for which a bank may be away before its answer: what a maintenance takes
HASTY_S = 5.0  # a bank that hangs up on a proposal at once does not want it


def is_open_still(node: Node, contract: RunContract, conversation: str, has_ended: bool) -> bool:
    """Return whether a proposal in `conversation` is one that this bank has heard before and is yet to answer."""
    run, store = contract.run, node.store
    first = f"contracts/{node.party}"
    if conversation == first or not is_numbered(conversation, "contracts", node.party):
        return False
    if has_ended or store.run(run) is not None or store.setting(f"seed/{run}") is not None:
        return False
    rows = store.envelopes(run)
    heard = all(row.direction == "in" and canonical.decode(row.header)["contract"] == contract.hash for row in rows)
    return bool(rows) and heard and is_unused(node, run, conversation) and is_kept_as_now(node, run)


@dataclass
class Offer:
    """A proposal on its way to its banks; `sessions` are those of the agreement, `approvals` what came back."""

    node: Node
    contract: RunContract
    message: Any
    sessions: dict[str, Session]
    approvals: dict[str, bytes] = field(default_factory=dict)
    _made: dict[str, float] = field(default_factory=dict)
    _away: dict[str, float] = field(default_factory=dict)

    def make(self, bank: str) -> None:
        """Send the proposal to a bank."""
        self._made[bank] = time.monotonic()
        self._away.pop(bank, None)
        self.sessions[bank].send(self.message, "contract.agree")

    def make_again(self, lobbies: Callable[[str], Lobby | None]) -> None:
        """Send it to each bank that came to a new lobby and has not answered."""
        for bank, session in sorted(self.sessions.items()):
            lobby, run = lobbies(bank), self.contract.run
            if bank in self.approvals or lobby is None or getattr(session.channel, "has_word", False):
                continue
            talk = lobby.of(run)
            if talk is session.channel or talk.is_gone() or not self.may_return(bank):
                continue
            number = self.node.store.reserve(f"contracts/{bank}/{run}", 1) + 1
            self.sessions[bank] = self.node.session(self.contract, talk, f"contracts/{bank}/{number}")
            with suppress(PeerGone):  # it is gone again: when it comes back there is a new lobby
                self.make(bank)
            self.node.say(f"proposed to {bank} again, which came back before it answered", run)

    def may_return(self, bank: str) -> bool:
        """Return whether a bank that is away may come back to answer: it had left the proposal standing for a while."""
        since = self._away.setdefault(bank, time.monotonic())
        return self._made[bank] + HASTY_S < since and time.monotonic() < since + AWAY_S


def proposal_of(contract: RunContract, plan: bytes) -> Any:
    """Return the message by which a contract is proposed with its plan."""
    return wire.Proposal(contract=canonical.encode(dict(contract.record)), plan=plan)
