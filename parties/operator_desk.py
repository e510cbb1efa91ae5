"""What an operator's command changes at a node: the register of institutions, the catalogue, the loads of a table.

A running node is asked through its control socket, else the command opens the node for this once (`act`). Nothing here tells
a firm or a value.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lianxin.federation.errors import InputFault
from lianxin.parties import catalogue_versions
from lianxin.parties.institutions import Entry, Institutions, Terms, register_of, standing_of

if TYPE_CHECKING:
    from lianxin.parties.node import Node

SHOWN = 12
Request = Mapping[str, Any]
Answer = dict[str, Any]


def answer(served: Any, request: Request) -> Answer:
    """Return what a running node answers; a suspension also ends the runs that the bank takes part in.

    Asked again for a bank that is suspended already, it ends those that are left, and is refused where there are none.
    """
    if request["what"] != "suspend":
        return act(served.node, request)
    refused: InputFault | None = None
    try:
        done = act(served.node, request)
    except InputFault as fault:
        refused = fault
    if refused is not None and not _is_suspended(served.node, request["bank"]):
        raise refused
    ended = _end_runs(served, request["bank"], request["operator"])
    if refused is not None and not any(ended.values()):
        raise refused
    return (done if refused is None else _about(served.node, request["bank"])) | ended


def _is_suspended(node: "Node", bank: str) -> bool:
    return bool(standing_of(Institutions(node.store, node.ledger, ()).entries(bank)).suspended_by)


def _end_runs(served: Any, bank: str, operator: str) -> Answer:
    """Cancel the runs with a suspended bank; return which, and which could not be and why."""
    from lianxin.parties.run_queue import cancel_of_bank

    cancelled, left = cancel_of_bank(served, bank, operator, f"{bank} is suspended")
    for run, why in left.items():
        served.node.say(f"{bank} is suspended; run {run} with it could not be cancelled: {why}", run, "warning")
    return {"cancelled": cancelled, "not_cancelled": left}


def act(node: "Node", request: Request) -> Answer:
    """Do at a node what one of these commands asks. Raises InputFault or GateRefused with one sentence."""
    acts: dict[str, Callable[[Node, Request], Answer]] = {
        "enter": _enter, "approve": _approve, "suspend": _suspend, "resume": _resume, "institutions": _list, "show": _show,
        "publish": _publish, "approve-catalogue": _approve_catalogue, "load": _load,
        "listed": _listed,
    }  # fmt: skip
    return acts[request["what"]](node, request)


def _enter(node: "Node", request: Request) -> Answer:
    given: dict[str, Any] = {name: tuple(request[name]) for name in ("purposes", "models", "fields")}
    given |= {name: str(request[name]) for name in ("licence", "agreement", "valid_from", "valid_until")}
    terms = Terms(**given)
    register_of(node).enter(request["bank"], terms, node.clock.now(), request["operator"])
    return _about(node, request["bank"])


def _approve(node: "Node", request: Request) -> Answer:
    register, bank = register_of(node), request["bank"]
    waiting = standing_of(register.entries(bank)).waiting
    named = waiting.digest if waiting is not None and waiting.digest[:SHOWN] == request["digest"] else request["digest"]
    register.approve(bank, named, node.clock.now(), request["operator"])
    return _about(node, bank)


def _suspend(node: "Node", request: Request) -> Answer:
    register_of(node).suspend(request["bank"], request["reason"], node.clock.now(), request["operator"])
    return _about(node, request["bank"])


def _resume(node: "Node", request: Request) -> Answer:
    register_of(node).resume(request["bank"], request["reason"], node.clock.now(), request["operator"])
    return _about(node, request["bank"])


def _list(node: "Node", _request: Request) -> Answer:
    from lianxin.parties.institutions import is_in_force

    register = register_of(node)
    today = node.clock.now()[:10]
    rows = [row_of(bank, entries, today) for bank, entries in register.files().items()]
    return {"institutions": rows, "in_force": is_in_force(node.store)}


def _show(node: "Node", request: Request) -> Answer:
    register, bank = register_of(node), request["bank"]
    if not register.entries(bank):
        raise InputFault(f"the register has no file of {bank}; see `lianxin platform institutions list`")
    return _about(node, bank)


def _about(node: "Node", bank: str) -> Answer:
    entries = Institutions(node.store, node.ledger, ()).entries(bank)
    return {"institution": row_of(bank, entries, node.clock.now()[:10]), "history": entries}


def row_of(bank: str, entries: list[Entry], today: str) -> Answer:
    """Return how an institution stands as plain values; `waiting` is the digest of terms that wait, "" for none."""
    standing = standing_of(entries)
    terms = standing.terms or standing.waiting
    row: Answer = {"bank": bank, "state": standing.state(today)}
    row |= {"waiting": standing.waiting.digest[:SHOWN] if standing.waiting else ""}
    return row | (terms.record if terms else {})


def _publish(node: "Node", request: Request) -> Answer:
    from lianxin.parties.catalogue import load_merged

    path = Path(request["file"])
    return catalogue_versions.publish(node, load_merged(path), request["reason"], request["operator"])


def _approve_catalogue(node: "Node", request: Request) -> Answer:
    return catalogue_versions.approve(node, request["digest"], request["operator"])


def _load(node: "Node", request: Request) -> Answer:
    from lianxin.parties.source_quality_kept import keep_load

    return keep_load(node, json.loads(request["load"]), request["operator"])


def _listed(node: "Node", request: Request) -> Answer:
    """Note in a leaf, before the file is written, that the consents to look after are listed for a desk."""
    from lianxin.parties.institutions import check_operator
    from lianxin.parties.operator_consents import list_leaf

    check_operator(request["operator"])
    index, _ = node.ledger.append(list_leaf(request["numbers"]), request["operator"])
    return {"leaf": index}
