"""Proposals that wait for a person at a bank, and that person's answer."""

import re
import threading
import time
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from lianxin.crypto import canonical
from lianxin.federation.channel import Channel
from lianxin.federation.contract import RunContract
from lianxin.federation.errors import InputFault, PeerGone
from lianxin.parties.agreement import Verdict
from lianxin.parties.config import OPERATOR
from lianxin.parties.node import Node
from lianxin.parties.run_remedies import tell

POLL_S = 0.5
APPROVAL_DEADLINE_S = 86400.0


class GivenUp(PeerGone):
    """The platform said how the run ended while a person was still to answer."""


class LostWaiting(PeerGone):
    """The road to the platform was lost, for longer than it is resumed, while a person was still to answer."""


@dataclass
class Pending:
    """A proposal that waits for a person."""

    contract: RunContract
    plan: Mapping[str, Any]
    answered: threading.Event = field(default_factory=threading.Event)
    verdict: Verdict | None = None
    operator: str = ""


class Approvals:
    """What a `BankNode` does about proposals that wait for a person."""

    node: Node
    pending: dict[str, Pending]
    ended: MutableMapping[str, dict[str, Any]]
    _stop: threading.Event

    def _wait_for_person(self, channel: Channel, contract: RunContract, plan: bytes) -> tuple[Verdict, str]:
        pending = Pending(contract, canonical.decode(plan))
        self.pending[contract.run] = pending
        self.node.say(f"waiting for approval of {contract.run}")
        try:
            until = time.monotonic() + APPROVAL_DEADLINE_S
            while not pending.answered.wait(POLL_S):
                if getattr(channel, "has_word", False):
                    raise GivenUp(f"{channel.peer} ended run {contract.run} before anybody here answered")
                if self._stop.is_set():
                    raise PeerGone(f"this node was stopped before anybody here answered to run {contract.run}")
                if channel.is_gone():
                    raise LostWaiting(
                        f"the road to {channel.peer} was lost before anybody here answered; see in `lianxin bank status` "
                        "whether it is back, and ask its operator to launch the run anew under another id"
                    )
                if time.monotonic() > until:
                    return Verdict("C06", "nobody answered in time"), self.node.config.operator
            assert pending.verdict is not None
            return pending.verdict, pending.operator
        finally:
            del self.pending[contract.run]

    def decide(self, run: str, is_yes: bool, operator: str) -> None:
        """Answer a waiting proposal. Raises InputFault when none waits or the proposer would approve its own."""
        if re.fullmatch(OPERATOR, operator) is None:
            raise InputFault("an operator's name is 3 to 64 of a-z, 0-9, '.' and '-'; say who decides with --operator")
        pending = self.pending.get(run)
        if pending is None:
            waiting = ", ".join(sorted(self.pending)) or "none"
            why = tell(getattr(self.ended, "known", self.ended.get)(run) or {})
            if not why and (row := self.node.store.run(run)) is not None:
                why = f"it is {row.state} here"
            found = why or "see the id in `lianxin bank status`, or ask the platform's operator whether it was proposed"
            raise InputFault(f"no proposal of run {run} waits here (waiting: {waiting}); {found}")
        if is_yes and operator == pending.contract.proposer:
            raise InputFault("the operator who proposed a run may not approve it (R26); let a second person decide")
        pending.verdict = Verdict("", "") if is_yes else Verdict("C07", "refused by the operator")
        pending.operator = operator
        pending.answered.set()
