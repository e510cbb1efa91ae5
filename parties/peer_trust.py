"""Whom a node trusts no more: an operator revokes a peer, in force at once and until a new identity of it is accepted.

    1. `revoked/<party>` with the peer's keys and certificates goes into the store, with a leaf, in one transaction.
    2. The door refuses the peer by I20, a proposal that names it by C20, and a run that would name it before it is proposed.
    3. The ledger counts its cosignatures no more, and the registry takes no record on its word.
    4. Its conversations are cut without a farewell, and then runs and agreements under way with it are ended by name: what
       cannot be ended is named, keeps nobody connected, and is ended when it is asked again or at the next start.

Only the key counts: a peer whose node key and certificate are both others than those revoked, as `accept-peer` demands, is
trusted again. What was signed before stays what it was; the auditor judges it by the ledger.
"""

import hashlib
import logging
import re
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from functools import partial
from typing import Any

from lianxin.crypto import canonical
from lianxin.crypto.rotation import NODE, TLS
from lianxin.federation.admission import PinnedPeer
from lianxin.federation.contract import RunContract
from lianxin.federation.errors import InputFault, LianxinError
from lianxin.parties.agreement import open_contract
from lianxin.parties.config import OPERATOR
from lianxin.parties.identity import Identity
from lianxin.parties.identity_network import PLATFORM
from lianxin.parties.key_rotation import CHANGING, UNDER_WAY, put_in_force
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
    """Revoke a peer of a served node; return what was `ended`, and what was `left` because it could not be.

    Of a peer that is revoked already the roads are cut again and what is left is ended. Raises InputFault for a stranger, a
    decision without a name, and where all was done before.
    """
    node: Node = served.node
    if re.fullmatch(OPERATOR, operator) is None:
        raise InputFault("an operator's name is 3 to 64 of a-z, 0-9, '.' and '-'; say who decides with --operator")
    if not reason.strip() or len(reason) > MOST_REASON or not reason.isprintable():
        raise InputFault(f"--reason is one line of 1 to {MOST_REASON} characters; it stays in this node's store")
    with CHANGING:
        is_new = party not in node.identity.revoked
        if is_new:
            _begin(node, party, operator, reason)
    ended, left = _cut_and_end(served, party, operator)
    if not (is_new or ended or left):
        raise InputFault(
            f"{party} is revoked here already and nothing goes on with it; only a new identity is accepted (`accept-peer`)"
        )
    words = f"{party} was revoked by {operator}; ended: {', '.join(ended) or 'none'}"
    node.say(words + (f"; could not be ended: {', '.join(left)}" if left else ""), level="warning")
    return {"party": party, "ended": ended, "left": left}


def _begin(node: Node, party: str, operator: str, reason: str) -> None:
    """Keep that a peer is revoked, and go by it from now on."""
    if party not in node.identity.peers:
        raise InputFault(f"{party} is no peer of {node.party}: there are {', '.join(sorted(node.identity.peers))}")
    _write(node, party, operator, reason)
    put_in_force(node, node.identity.without([party]))
    node.counts["peers/revoked"] += 1


def _cut_and_end(served: Any, party: str, operator: str) -> tuple[list[str], list[str]]:
    """Cut the roads first, so that nobody waits for the peer's answer; a bank without its platform stops, so it cuts last."""
    is_platform = served.node.identity.revoked[party].role == PLATFORM
    try:
        if not is_platform:
            _cut(served, party)
    finally:
        try:
            found = _end_runs(served, party, operator)
        finally:
            if is_platform:
                _cut(served, party)
    return found


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
    try:
        node.ledger.checkpoint()  # with the mark beside the store: an older copy, which forgets this, is told by it
    except Exception:  # the peer is cut off all the same; the next checkpoint raises the mark
        logging.getLogger("lianxin").exception("a fault in the checkpoint after %s was revoked", party)
        node.say(f"{party} is revoked, but the checkpoint after it could not be made", level="warning")


def _end_runs(served: Any, party: str, operator: str) -> tuple[list[str], list[str]]:
    """End what goes on with a party at this node: at a platform its runs and agreements, at a bank its part in them.

    Each is ended by itself: return which were, and which could not be.
    """
    ended, left = list[str](), list[str]()
    for run, end in _endings(served, party, operator):
        try:
            end()
            ended.append(run)
        except Exception as fault:
            if not isinstance(fault, LianxinError):
                logging.getLogger("lianxin").exception("a fault while run %s was ended", run)
            row = served.node.store.run(run)
            if (row is not None and row.state in UNDER_WAY) or run in getattr(served, "lives", {}):
                left.append(run)  # else it was over before it could be ended
    return ended, left


def _endings(served: Any, party: str, operator: str) -> Iterator[tuple[str, Callable[[], object]]]:
    why = f"{party} was revoked at {served.node.party} by {operator} (rule {RULE})"
    for run, one in list(getattr(served, "desks", {}).items()) + list(getattr(served, "standing", {}).items()):
        if party in one.contract.node_keys:
            yield run, partial(_end_agreement, served, run, operator)
    for run, life in list(getattr(served, "lives", {}).items()):
        if party in life.banks:
            yield run, partial(served.cancel, run, operator, why)
    for run, contract in _parts_of(served).items():
        if party in contract.node_keys:
            yield run, partial(_leave, served, run, party == contract.platform, operator, why)


def _parts_of(served: Any) -> dict[str, RunContract]:
    """Return the runs in which a bank takes part, and the proposals that wait for a person there."""
    held = [*getattr(served, "members", {}).items(), *getattr(served, "pending", {}).items()]
    return {run: one.contract for run, one in held}


def _leave(served: Any, run: str, is_platform: bool, operator: str, why: str) -> None:
    """Leave a run; one of a platform that was revoked ends here by itself: its word is not waited for."""
    from lianxin.parties.runs_left import end_left

    member = served.members.pop(run, None) if is_platform else None
    if member is None:
        served.leave(run, operator, why)
        return
    member.stop()
    end_left(served.node, member.contract, why, served.ended, RULE, operator)


def end_kept(node: Node, ended: MutableMapping[str, dict[str, Any]]) -> list[str]:
    """End the runs and agreements that the store has under way with a revoked party, before a node takes them up.

    Return which: they were under way when this node was stopped, and the peer was revoked meanwhile, or just before.
    """
    found = []
    for row in node.store.runs() if node.identity.revoked else ():
        contract = open_contract(row.contract) if row.state in ("running", "standing") else None
        gone = sorted(set(node.identity.revoked) & set(contract.node_keys)) if contract is not None else []
        if contract is not None and gone:
            _end_kept(node, contract, gone[0], ended)
            found.append(contract.run)
    return found


def _end_kept(node: Node, contract: RunContract, party: str, ended: MutableMapping[str, dict[str, Any]]) -> None:
    from lianxin.parties.query_conversations import end_expired
    from lianxin.parties.runs_left import end_left
    from lianxin.parties.runs_resumed import untold

    operator = _who_revoked(node, party)
    if not contract.is_standing:
        if node.party == contract.platform:
            untold(node, contract)
        why = f"{party} was revoked at {node.party} by {operator} (rule {RULE})"
        end_left(node, contract, why, ended, RULE, operator)
        return
    if node.party == contract.platform:
        node.contract_event(contract.run, contract.hash, "ended", operator=operator)
    end_expired(node, contract)
    ended[contract.run] = {"run": contract.run, "state": "finished", "rule": "", "error": "", "told": [], "matched": {}}


def _who_revoked(node: Node, party: str) -> str:
    kept = node.store.setting(PREFIX + party)
    return str(canonical.decode(kept)["operator"]) if kept is not None else node.config.operator


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
    if link is not None and served.node.identity.revoked[party].role == PLATFORM:
        link.cut()
