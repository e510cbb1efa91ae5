"""A bank that asks about firms it has no business with, and one that says a message twice.

Inflation: the bank's gate releases its own customers, and the bank asks about more firms beside them: those that it has
from a list bought elsewhere, here the platform's own. Beyond the bank's quota the platform refuses before it answers
(M04). Within the quota no other party can tell, since each query is blinded; but the root over all queries is fixed
before the first answer, so an auditor to whom the bank opens its queries, or who replays its side, finds the strangers.
"""

from dataclasses import replace
from typing import Any, ClassVar

from google.protobuf.message import Message
from pydantic import Field

from lianxin.crypto.randomness import Drbg, derive_seed
from lianxin.federation.model import Released
from lianxin.federation.session import Session
from lianxin.parties.decision import ReleaseRequest
from lianxin.parties.node import simulated_seed
from lianxin.parties.quota import QueryQuota
from lianxin.simulations.cheats_hooks import Banks, ByOneParty, on_message, on_release, replace_method

EARLIER = "run-earlier"


class InflatedMatching(ByOneParty):
    """A bank asks about `firms` strangers beside its own customers; `left` queries are left of its quota, 0: all of it."""

    kind: ClassVar[str] = "inflated_matching"
    firms: int = Field(default=100, ge=1)
    left: int = Field(default=0, ge=0)

    def tamper(self, platform: Any, banks: Banks) -> None:
        """See `Cheat.tamper`."""
        bank = self.bank(banks)
        strangers = self.strangers(platform.table.identifiers, bank.table.identifiers)
        if self.left:
            node = platform.node
            quota = QueryQuota(node.store, node.clock, node.config.quota)
            quota.charge(self.party, EARLIER, node.config.quota.queries - self.left)

        def inflated(request: ReleaseRequest, released: Released) -> Released:
            is_matching = request.step == "matching.query"
            return replace(released, firms=(*released.firms, *strangers)) if is_matching else released

        on_release(bank.node, inflated)

    def strangers(self, known: list[str], own: list[str]) -> list[str]:
        """Return the firms asked about: `firms` of those that exist and are no customers, drawn by the seed."""
        others = sorted(set(known) - set(own))
        Drbg(derive_seed(simulated_seed(self.seed), "cheat", self.kind)).shuffle(others)
        return others[: self.firms]


class ReplayedEnvelope(ByOneParty):
    """A bank puts one of its envelopes on the road a second time, that of its first message of type `message`."""

    kind: ClassVar[str] = "replayed_envelope"
    message: str = "BankCommitment"

    def tamper(self, platform: Any, banks: Banks) -> None:
        """See `Cheat.tamper`."""

        def twice(session: Session, message: Message, _step: str) -> Message:
            if type(message).__name__ == self.message:
                replace_method(session.channel, "send", lambda send: lambda data: (send(data), send(data)))
            return message

        on_message(self.bank(banks).node, twice)
