"""Runs that were under way when a node ended: which can go on, how the others end, and how their conversations are named.

A network goes on from its checkpoint under the same contract. A joint model does not: its keys and masks serve once.
"""

import json
import re
from collections.abc import MutableMapping
from typing import Any

from lianxin.crypto import canonical
from lianxin.federation.contract import RunContract, parse_contract
from lianxin.federation.errors import RunStopped
from lianxin.parties import checkpoint
from lianxin.parties.ended_runs import EndedRuns
from lianxin.parties.node import Node
from lianxin.parties.retention import delete_derived
from lianxin.parties.run_remedies import failed
from lianxin.parties.store import RunRow

Ended = MutableMapping[str, dict[str, Any]]
OVER = ("finished", "failed")
_AGAIN = re.compile(r"[1-9][0-9]{0,8}")
RULE = "RUN"


def is_unused(node: Node, run: str, conversation: str) -> bool:
    """Return whether this node's ledger holds no envelope of a conversation yet: its chain can begin."""
    return all(row.conversation != conversation for row in node.store.envelopes(run))


def is_numbered(conversation: str, service: str, bank: str) -> bool:
    """Return whether `conversation` is `service/bank`, or that with a number from 1 after it."""
    first = f"{service}/{bank}"
    again = conversation.removeprefix(f"{first}/")
    return conversation == first or (again != conversation and bool(_AGAIN.fullmatch(again)))


def expired(contract: RunContract) -> RunStopped:
    """Return why a run whose contract has ended meanwhile cannot go on."""
    return RunStopped(f"the contract of run {contract.run} ended before the run did; launch it anew under another id")


def has_done_its_part(node: Node, contract: RunContract) -> bool:
    """Return whether a bank's part of a joint model's run is done and on disk, and only the end was not heard in time."""
    is_open = not contract.is_network and contract.expires_at > node.clock.now()
    return is_open and (node.run_folder(contract.run) / "model.json").exists()


def check_goes_on(node: Node, contract: RunContract) -> None:
    """Raise RunStopped for a run that cannot go on after this node was down."""
    if not contract.is_network:
        raise RunStopped(
            f"this node was stopped while run {contract.run} was under way, and a run of {contract.model} does not go on; "
            "launch it anew under another id"
        )
    if contract.expires_at <= node.clock.now():
        raise expired(contract)


def _last_step(node: Node, run: str) -> str:
    rows = node.store.envelopes(run)
    return str(json.loads(rows[-1].header)["step"]) if rows else "contract"


def recall_ends(node: Node, ended: EndedRuns) -> None:
    """Write the evidence and the record of runs that are over, where this node was stopped between their state and those.

    Runs whose contract has ended are left as they are: nobody asks for their end any more.
    """
    for row in node.store.runs():
        if row.state not in OVER or b'"signatures"' not in row.contract or ended.known(row.run) is not None:
            continue
        contract = parse_contract(
            canonical.decode_fragment(row.contract)["record"]
        )  # nothing is done under it any more
        if contract.expires_at > node.clock.now():
            if row.state != "finished":
                drop_result(node, row.run)
            node.export(row.run)
            ended[row.run] = _recalled(node, contract, row)


def _recalled(node: Node, contract: RunContract, row: RunRow) -> dict[str, Any]:
    if row.state == "finished":
        return {"run": row.run, "state": row.state, "rule": row.note, "error": "", "bytes_sent": 0}
    parties = (contract.platform, *contract.banks)
    why = f"this node was stopped when run {row.run} had failed and lost the reason; read it at the other nodes"
    return failed(row.run, RunStopped(why), node.party, parties, _last_step(node, row.run), row.note or RULE)


def drop_result(node: Node, run: str) -> None:
    """Delete what this node has of a model of a run that failed, after a leaf that says so: nothing of it may serve."""
    delete_derived(node, run, RULE)


def end_left(
    node: Node, contract: RunContract, why: str, ended: Ended, rule: str = RULE, operator: str = "", step: str = ""
) -> None:
    """End a run that cannot go on as failed, at this node by itself: its state, its leaf, its evidence, its sentence.

    Without a `step` it is the one of the last envelope that the ledger has of the run.
    """
    step = step or _last_step(node, contract.run)
    node.store.set_run_state(contract.run, "failed", rule)
    node.contract_event(contract.run, contract.hash, "failed", rule, *([operator] if operator else []))
    drop_result(node, contract.run)
    node.ledger.checkpoint()
    node.export(contract.run)
    checkpoint.remove(node.run_folder(contract.run))
    parties = (contract.platform, *contract.banks)
    ended[contract.run] = failed(contract.run, RunStopped(why), node.party, parties, step, rule)
    node.say(f"run {contract.run} failed: {why}")
