"""What both ends of a field query share: the standing agreement's sessions, and the leaf that says who asked what.

A leaf of kind `query` stands at both ends before any value is looked at: {"query": request id, "peer", "purpose",
"mode", "fields", "other_fields", "firms": how many, "conversation"}, with the person who asks as its operator (R26).
Only fields of the agreement are named: what else a bank writes as a field's name is a number of names.
"""

from collections.abc import Sequence
from typing import Any

from lianxin.federation import wire
from lianxin.federation.channel import Channel
from lianxin.federation.contract import RunContract
from lianxin.federation.field_query import Question
from lianxin.federation.model import Provenance
from lianxin.federation.session import Session, Trace
from lianxin.parties.node import Node

STANDING = "standing"


def resumed_session(node: Node, contract: RunContract, channel: Channel, conversation: str) -> Session:
    """Return this node's end of a conversation that began earlier, perhaps before a restart, where it was left."""
    session = node.session(contract, channel, conversation)
    for row in node.store.envelopes(contract.run):
        if row.conversation != conversation:
            continue
        if row.sender == node.party:
            session._sent, session._last_sent = row.seq + 1, row.message_hash
        elif row.sender == channel.peer:
            session._received, session._last_received = row.seq + 1, row.message_hash
    return session


def end_expired(node: Node, contract: RunContract) -> None:
    """End an agreement whose time has passed at this node: its state, its leaf and its evidence."""
    node.store.set_run_state(contract.run, "finished")
    node.contract_event(contract.run, contract.hash, "finished")
    node.ledger.checkpoint()
    node.export(contract.run)
    node.say(f"agreement {contract.run} has ended")


def log_question(node: Node, contract: RunContract, peer: str, question: Question, conversation: str) -> str:
    """Append the leaf of kind `query` in the name of the person who asks; return its hash."""
    offered = set(contract.fields_of(contract.platform, "feature"))
    listed = [name for name in question.fields if name in offered]
    others = len(question.fields) - len(listed)
    leaf = {
        "kind": "query", "run": contract.run, "peer": peer, "query": question.request, "purpose": question.purpose,
        "mode": question.mode, "fields": listed, "firms": len(question.firms), "conversation": conversation,
        **({"other_fields": others} if others else {}),
    }  # fmt: skip
    return node.ledger.append(leaf, question.operator)[1]


class Receipts:
    """A trace that remembers the hashes of the messages that came in: both ledgers hold them."""

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self.hashes: list[str] = []

    def crossed(
        self, direction: str, peer: str, opened: wire.Opened, crossings: Sequence[wire.Crossing],
        rights: Sequence[Provenance], envelope: bytes,
    ) -> None:  # fmt: skip
        """See `federation.session.Trace`."""
        self._trace.crossed(direction, peer, opened, crossings, rights, envelope)
        if direction == "in":
            self.hashes.append(opened.message_hash)

    def refused(self, run: str, peer: str, rule: str, step: str, message_hash: str | None) -> None:
        """See `federation.session.Trace`."""
        self._trace.refused(run, peer, rule, step, message_hash)


def text_of(value: Any) -> str | None:
    """Return a table's value as the text that crosses, None where nothing is on file."""
    return None if value is None else str(value)
