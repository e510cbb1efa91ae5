"""Whom a node trusts no more: an operator revokes a peer, in force at once and until a new identity of it is accepted.

    1. `revoked/<party>` with the peer's keys and certificates goes into the store, with a leaf, in one transaction.
    2. The door refuses the peer by I20, a proposal that names it by C20, and a run that would name it before it is proposed.
    3. Its conversations are cut without a farewell, and runs and agreements under way with it are ended by name.

Only the key counts: a peer whose node key and certificate are both others than those revoked, as `accept-peer` demands, is
trusted again. What was signed before stays what it was; the auditor judges it by the ledger.
"""

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from lianxin.crypto import canonical
from lianxin.crypto.rotation import NODE, TLS
from lianxin.federation.admission import PinnedPeer
from lianxin.federation.errors import InputFault
from lianxin.parties.config import OPERATOR
from lianxin.parties.identity import Identity
from lianxin.parties.node import Node
from lianxin.parties.store import Store

PREFIX = "revoked/"
RULE = "I20"
MOST_REASON = 200


class LivePins(Mapping[str, PinnedPeer]):
    """Whom a door admits, by URI, as `current` has it at the moment when it is asked."""

    def __init__(self, current: Callable[[], Mapping[str, PinnedPeer]]) -> None:
        self._now = current

    def __getitem__(self, uri: str) -> PinnedPeer:
        return self._now()[uri]

    def __iter__(self) -> Iterator[str]:
        return iter(self._now())

    def __len__(self) -> int:
        return len(self._now())


def revoked_in(store: Store, identity: Identity) -> list[str]:
    """Return the peers that are revoked: those of whose keys one was revoked, also where they were rotated since.

    Who stole the key of a revoked peer can sign its next rotation; only an identity introduced anew begins without it.
    """
    found = []
    for place, data in store.settings_under(PREFIX).items():
        party, record = place.removeprefix(PREFIX), canonical.decode(data)
        if party not in identity.peers:
            continue
        had = {*identity.chains[party].values(NODE), *identity.chains[party].values(TLS)}
        if had & {*record["node_keys"], *record["certificates"]}:
            found.append(party)
    return found


def revoke(served: Any, party: str, operator: str, reason: str) -> dict[str, Any]:
    """Revoke a peer of a served node; return what was ended. Raises InputFault for a stranger or a decision without a name."""
    node: Node = served.node
    if re.fullmatch(OPERATOR, operator) is None:
        raise InputFault("an operator's name is 3 to 64 of a-z, 0-9, '.' and '-'; say who decides with --operator")
    if not reason.strip() or len(reason) > MOST_REASON or not reason.isprintable():
        raise InputFault(f"--reason is one line of 1 to {MOST_REASON} characters; it stays in this node's store")
    if party in node.identity.revoked:
        raise InputFault(f"{party} is revoked here already; only a new identity of it is accepted (`accept-peer`)")
    if party not in node.identity.peers:
        raise InputFault(f"{party} is no peer of {node.party}: there are {', '.join(sorted(node.identity.peers))}")
    _write(node, party, operator, reason)
    node.identity = node.identity.without([party])
    node.counts["peers/revoked"] += 1
    ended = _end_runs(served, party, operator)
    _cut(served, party)
    node.say(f"{party} was revoked by {operator}; ended: {', '.join(ended) or 'none'}", level="warning")
    return {"party": party, "ended": ended}


def _write(node: Node, party: str, operator: str, reason: str) -> None:
    chain = node.identity.chains[party]
    keys, certificates = chain.values(NODE), chain.values(TLS)
    record = {
        "type": "peer-revocation", "version": 1, "party": party, "node_keys": keys, "certificates": certificates,
        "time": node.clock.now(), "operator": operator, "reason": reason,
    }  # fmt: skip
    leaf = {
        "kind": "peer", "run": "", "event": "revoked", "peer": party, "rule": RULE, "node_key": keys[-1],
        "certificate_sha256": certificates[-1], "reason_sha256": hashlib.sha256(reason.encode()).hexdigest(),
    }  # fmt: skip
    node.ledger.append(leaf, operator, {PREFIX + party: canonical.encode(record)})


def _end_runs(served: Any, party: str, operator: str) -> list[str]:
    """End what goes on with a party at this node: at a platform its runs and agreements, at a bank its part in them."""
    why = f"{party} was revoked at {served.node.party} by {operator} (rule {RULE})"
    ended = []
    for run, one in list(getattr(served, "desks", {}).items()) + list(getattr(served, "standing", {}).items()):
        if party in one.contract.node_keys:
            _end_agreement(served, run, operator)
            ended.append(run)
    for run, life in list(getattr(served, "lives", {}).items()):
        if party in life.banks:
            served.cancel(run, operator, why)
            ended.append(run)
    for run, member in list(getattr(served, "members", {}).items()):
        if party in member.contract.node_keys:
            served.leave(run, operator, why)
            ended.append(run)
    return ended


def _end_agreement(served: Any, run: str, operator: str) -> None:
    from lianxin.parties.query_conversations import end_expired

    if run in getattr(served, "standing", {}):
        one = served.standing.pop(run)
        one.close()
        end_expired(served.node, one.contract)
        return
    served.end(run, operator)


def _cut(served: Any, party: str) -> None:
    """Cut the roads to a party: at a platform the door's, at a bank the link where that is the platform."""
    cut = getattr(served, "cut", None)
    if cut is not None:
        cut(party)
    link = getattr(served, "link", None)
    if link is not None and served.node.identity.revoked[party].role == "platform":
        link.cut()
