"""A running node and its changing keys: what lies in the identity folder is taken up without closing a conversation.

`refresh` reads the folder anew, gives each statement that is not in the ledger yet its leaf, and puts in force what is in
force now: from then on the door shows the new certificate, new contracts name the new node key, and the ledger's heads
carry the signatures of both. A run goes on under the key of its contract, which is held as long as a run names it.
`attend` does so whenever the folder changes or a time passes, and looks once a day at what expires.
"""

import logging
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lianxin.crypto import canonical
from lianxin.crypto.rotation import NODE, TLS
from lianxin.federation.contract import RunContract, decode_contract
from lianxin.federation.errors import InputFault, LianxinError
from lianxin.parties import keys as saved_keys
from lianxin.parties.agreement import open_contract
from lianxin.parties.identity import Identity
from lianxin.parties.identity_chain import ACCEPTED, ROTATIONS, statement_path
from lianxin.parties.identity_of import identity_of

if TYPE_CHECKING:
    from lianxin.parties.node import Node

TICK_S = 15.0
UNDER_WAY = ("queued", "proposed", "running", "standing")
_NOTED, _INTRODUCED = "rotation/", "introduced/"
CHANGING = threading.RLock()  # whom a node trusts is changed by one at a time, else a revocation is lost to a refresh


def begin(node: "Node") -> None:
    """Take up what lies in the folder when a node opens; nothing is done where nothing was ever rotated or revoked."""
    if any(node.identity.statements.values()) or _has_more(node):
        refresh(node)


def _has_more(node: "Node") -> bool:
    from lianxin.parties.peer_trust import PREFIX

    return (node.config.identity / ACCEPTED).is_dir() or bool(node.store.settings_under(PREFIX))


def refresh(node: "Node") -> Identity:
    """Read the identity folder, write what is new in it into the ledger, and put it in force. Raises InputFault."""
    from lianxin.parties.peer_trust import revoked_in

    with CHANGING:
        found = identity_of(node.config, node.clock.now())
        if _retire(node, found):
            found = identity_of(node.config, node.clock.now())
        identity = found.without(revoked_in(node.store, found))
        node.ledger.sign_with(
            identity.ledger_keys(), identity.witness_keys()
        )  # both keys sign before the leaf is there
        _write_leaves(node, identity)
        put_in_force(node, identity)
    return identity


def put_in_force(node: "Node", identity: Identity) -> None:
    """Have the door, the ledger and the registry go by this identity from now on, by it alone."""
    node.identity = identity
    node.ledger.sign_with(identity.ledger_keys(), identity.witness_keys())
    node.register.pin(
        {peer.party: peer.node_key for peer in identity.peers.values()} | {node.party: identity.signing_key.public_hex}
    )


def _write_leaves(node: "Node", identity: Identity) -> None:
    for party, statements in sorted(identity.statements.items()):
        for signed in statements:
            root = identity.chains[party].root  # numbers begin anew with an introduction
            place = f"{_NOTED}{party}/{root + '/' if root else ''}{signed['record']['number']}"
            if node.store.setting(place) is None:
                leaf = {"kind": "key-rotation", "run": "", "peer": party, "rotation": signed}
                node.ledger.append(leaf, settings={place: canonical.encode(signed["record"])})
                node.counts["rotations"] += 1
                node.say(
                    f"rotation {signed['record']['number']} of {party} ({signed['record']['what']}) is in the ledger"
                )
    for party, chain in sorted(identity.chains.items()):
        path = node.config.identity / ACCEPTED / f"{party}.json"
        if path.exists() and node.store.setting(_INTRODUCED + chain.node_key) is None:
            leaf = {
                "kind": "peer", "run": "", "event": "accepted", "peer": party, "rule": "", "node_key": chain.node_key,
                "certificate_sha256": chain.certificate_sha256,
            }  # fmt: skip
            node.ledger.append(leaf, settings={_INTRODUCED + chain.node_key: b"1"})


def _retire(node: "Node", identity: Identity) -> list[Path]:
    """Remove own keys whose overlap is over and that no contract under way names, and return which; the newest stays."""
    now, chain = node.clock.now(), identity.chains[identity.party]
    needed = {*chain.accepted(NODE, now), *chain.accepted(TLS, now)}
    needed |= {contract.node_keys.get(node.party, "") for contract in contracts_under_way(node)}
    needed |= {chain.in_force(NODE, now), chain.in_force(TLS, now)}
    places = _own_places(node.config.identity, identity)
    over = [path for path, value in places if value not in needed and path.exists()]
    for path in over:
        path.unlink()
        node.say(f"{path.name} is retired: its overlap is over and no run under way names it")
    return over


def _own_places(folder: Path, identity: Identity) -> list[tuple[Path, str]]:
    chain = identity.chains[identity.party]
    places = [(folder / "node.key", chain.values(NODE)[0]), (folder / "tls.key", chain.values(TLS)[0])]
    return places + [(statement_path(folder, identity.party, s.number, "key"), s.new) for s in chain.steps]


def contracts_under_way(node: "Node") -> list[RunContract]:
    """Return the contracts of the runs under way here, by run; a proposed one is kept as nobody has signed it yet."""
    rows = [row for row in node.store.runs() if row.state in UNDER_WAY and row.contract]
    return [decode_contract(row.contract) if row.state == "proposed" else open_contract(row.contract) for row in rows]


# ---- a served node


def attend(served: Any) -> Callable[[], None]:
    """Look after a served node's keys in a thread of its own until what is returned is called."""
    stopped = threading.Event()
    thread = threading.Thread(target=_attend, args=(served.node, stopped), daemon=True, name="keys")
    thread.start()

    def stop() -> None:
        stopped.set()
        thread.join(TICK_S)

    return stop


def _attend(node: "Node", stopped: threading.Event) -> None:
    from lianxin.parties.key_expiry import warn

    seen, warned = _state_of(node), ""
    while True:
        try:
            if (state := _state_of(node)) != seen:
                refresh(node)
                seen = _state_of(node)
            if (day := node.clock.now()[:10]) != warned:
                warn(node)
                warned = day
        except LianxinError as fault:
            node.say(f"the identity folder was not taken up: {fault}", level="warning")
            seen = state
        except Exception:
            logging.getLogger("lianxin").exception("a fault while keys were looked after")
        if stopped.wait(TICK_S):
            return


def _state_of(node: "Node") -> tuple[Any, ...]:
    """Return what changes when the folder does, or when a time in a statement passes."""
    now, found = node.clock.now(), []
    for folder in (ROTATIONS, ACCEPTED):
        place = node.config.identity / folder
        found += sorted(one.name + str(one.stat().st_mtime_ns) for one in os.scandir(place)) if place.is_dir() else []
    steps = [step for chain in node.identity.chains.values() for step in chain.steps]
    return tuple(found), tuple((step.starts <= now, step.until <= now) for step in steps)


def answer(served: Any, request: Mapping[str, Any]) -> dict[str, Any]:
    """Answer a request about keys: `what` is take-up, revoke or retire-paillier. Raises ValueError for another one."""
    from lianxin.parties.peer_trust import revoke

    if request["what"] == "take-up":
        identity = refresh(served.node)
        return {"node_key": identity.signing_key.public_hex}
    if request["what"] == "revoke":
        return revoke(served, str(request["party"]), str(request["operator"]), str(request["reason"]))
    if request["what"] == "retire-paillier":
        return retire_paillier(served.node.store, served.node.config.state, bool(request["dry"]))
    raise ValueError("unknown request about keys")


def retire_paillier(store: Any, state: Path, dry: bool) -> dict[str, Any]:
    """Drop the saved Paillier keys of runs that are over, so that none is used again; return which went and which stayed.

    Raises InputFault when there are keys and all are in use.
    """
    under_way = {row.run for row in store.runs() if row.state in UNDER_WAY}
    saved = sorted((state / saved_keys.FOLDER).glob("*/*.json"))
    kept = [path for path in saved if path.parent.name in under_way]
    if saved and len(kept) == len(saved):
        runs = ", ".join(sorted({path.parent.name for path in kept}))
        raise InputFault(f"every saved Paillier key is in use by a run under way ({runs}); rotate when it has ended")
    gone = [path for path in saved if path not in kept]
    for path in () if dry else gone:
        path.unlink(missing_ok=True)
        if not any(path.parent.iterdir()):
            path.parent.rmdir()
    named = {"dropped": gone, "kept": kept}
    return {name: [f"{path.parent.name}/{path.stem}" for path in paths] for name, paths in named.items()}
