"""How long things are kept, and what is deleted when (rules R07, R16, R21).

- Negative items (R21): a catalogue field with a period, counted from the date in another field, is withheld at release
  once the period has passed (`Field.has_expired`), and where a person reads it also when there is no date to count from
  (`boundary_values`); here is where the dates are found.
- Derived files (R07): models and scores of a run go when the contract's `retain_until` has passed: at a node's start, and
  once a day while it runs. Each deletion has a leaf of kind `deletion`, written before the file goes: a crash in between
  leaves a file that the next sweep deletes.
- What stands of scores for a calendar quarter (`score_standing`) goes with the quarter.
- Evidence (R16): ledgers, registries and contracts are kept; the exported copy of a run's evidence may go after five
  years, the longest of the periods asked for, and not a day before.

Sources: Personal Information Protection Law 19, 47; Credit Reporting Regulation 16; Network Data Regulation 12.
"""

import hashlib
import json
import os
import shutil
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lianxin.crypto.failpoints import reach
from lianxin.federation.errors import GateRefused, InputFault
from lianxin.parties.clock import after, quarter_of
from lianxin.parties.decision import Catalogue, Field
from lianxin.parties.decision_catalogue import end_of

if TYPE_CHECKING:
    from lianxin.parties.node import Node

EVIDENCE_PERIOD = "5y"
DERIVED = ("model.json", "scores.json", "touched.json", "evaluation.json")
_DAYS_UNSAID = 30
_SWEEPING = threading.Lock()  # each conversation's thread may be the first of a day


def expiring_fields(catalogue: Catalogue, fields: Sequence[str]) -> dict[str, Field]:
    """Return those of these fields that the catalogue lets expire, and from the date in which other field."""
    known = ((name, catalogue.get(name)) for name in fields)
    return {name: entry for name, entry in known if entry is not None and entry.expiry and entry.expiry_from}


def date_columns(
    catalogue: Catalogue, fields: Sequence[str], columns: Mapping[str, Sequence[Any]], places: Sequence[int]
) -> dict[str, list[Any]]:
    """Return the columns that the periods of `fields` count from, where the table has them, at these rows."""
    names = {entry.expiry_from for entry in expiring_fields(catalogue, fields).values()} & columns.keys()
    return {name: [columns[name][place] for place in places] for name in sorted(names)}


def sweep(node: "Node") -> list[dict[str, Any]]:
    """Delete what is due at this node, a leaf each, and return what was deleted: run, rule, number of files."""
    now, done = node.clock.now(), []
    for row in node.store.runs():
        until = _retain_until(row.contract)
        if until and until <= now:
            done += delete_derived(node, row.run, "R07")
    node.store.drop_standing(quarter_of(now))
    return done


def sweep_daily(node: "Node") -> None:
    """Sweep once for each day of the node's clock: a node that runs for months deletes in time too. Cheap to call."""
    with _SWEEPING:
        if (today := node.clock.now()[:10]) != node.swept:
            sweep(node)
            node.swept = today


def delete_derived(node: "Node", run: str, rule: str, operator: str | None = None) -> list[dict[str, Any]]:
    """Delete a run's models and scores, after the leaf that says so; return it as a list, empty where nothing was."""
    folder = node.config.state / "runs" / run
    files = [folder / name for name in DERIVED if (folder / name).is_file()]
    if not files:
        return []
    dataset = hashlib.sha256(b"".join(hashlib.sha256(path.read_bytes()).digest() for path in files)).hexdigest()
    leaf = {"kind": "deletion", "run": run, "dataset": dataset, "rule": rule, "count": len(files)}
    node.ledger.append(leaf, operator)
    for path in files:
        path.unlink()
    return [{"run": run, "rule": rule, "count": len(files)}]


def delete_evidence(node: "Node", run: str, operator: str | None = None) -> None:
    """Delete the exported copy of a run's evidence that is older than five years; the ledger itself stays.

    Raises GateRefused (R16), after a refusal leaf, before that; InputFault for a run that this node does not know.
    """
    row = node.store.run(run)
    if row is None:
        raise InputFault(f"run {run} is not known to this node; see its status for the runs that are")
    ended = _expires_at(row.contract) or node.clock.now()
    free = end_of(EVIDENCE_PERIOD, ended[:10])
    if node.clock.now()[:10] < free:
        node.ledger.append({"kind": "refusal", "run": run, "peer": "", "rule": "R16", "step": "sweep"}, operator)
        raise GateRefused(
            f"the evidence of run {run} is kept until {free} (rule R16); it may be copied, not deleted", "R16"
        )
    folder = node.config.state / "runs" / run / "evidence"
    if folder.is_dir():
        count = sum(1 for _ in folder.iterdir())
        leaf = {"kind": "deletion", "run": run, "dataset": "0" * 64, "rule": "R16", "count": count}
        node.ledger.append(leaf, operator)
        shutil.rmtree(folder)


def _contract_record(data: bytes) -> Mapping[str, Any]:
    try:
        content = json.loads(data)
    except ValueError:
        return {}
    return content.get("record", content) if isinstance(content, dict) else {}


def _retain_until(data: bytes) -> str:
    """Return until when a contract lets derived files be kept; to one of an earlier version, which does not say, 30 days."""
    record = _contract_record(data)
    if "retain_until" in record or "expires_at" not in record:
        return str(record.get("retain_until", ""))
    return after(record["expires_at"], _DAYS_UNSAID)


def _expires_at(data: bytes) -> str:
    return str(_contract_record(data).get("expires_at", ""))


def write_model(folder: Path, record: Mapping[str, Any]) -> None:
    """Keep a run's model in its folder, whole or not at all."""
    reach("model-write/before")
    write_beside(folder / "model.json", json.dumps(record, ensure_ascii=False).encode())
    reach("model-write/after")


def write_beside(path: Path, data: bytes) -> None:
    """Write a file whole or not at all; it is on disk before this returns."""
    draft = path.with_name(path.name + ".new")
    with draft.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
