"""Replay: a simulated run made again from its scenario, every message compared byte for byte.

The tables and the binning file must be the same bytes as then. The replay always runs in one process through `LocalGrid`,
whatever ran at first: the same machines give the same messages. The closing receipts, which hold ledger heads, are not
compared.
"""

import hashlib
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lianxin.federation import wire
from lianxin.federation.errors import EvidenceRejected, GuardRefused, InputFault
from lianxin.parties.catalogue import load_catalogue
from lianxin.simulations.binning_file import kept_binning
from lianxin.simulations.layout import Terms, lay_out
from lianxin.simulations.runner import run_in_memory
from lianxin.simulations.tables import Inputs, check_inputs, check_network_inputs


@dataclass(frozen=True)
class Replayed:
    """What a replay compared; it exists only when everything was equal."""

    compared: int
    transcript_sha256: str

    def to_record(self) -> dict[str, Any]:
        """Return the replay as a JSON object."""
        return {"equal": True, "messages": self.compared, "transcript_sha256": self.transcript_sha256}


def replay_run(run_dir: Path) -> Replayed:
    """Make the run of `run_dir` again and compare. Raises EvidenceRejected naming the first message that differs,
    InputFault when the folder, its tables or its binning file are not what they were."""
    scenario = _scenario(run_dir)
    inputs = _inputs(scenario["inputs"])
    binning = kept_binning(run_dir, scenario.get("binning"))
    terms = Terms(**scenario["terms"], workers=2, binning=binning)
    with tempfile.TemporaryDirectory(prefix="lianxin-replay-") as place:
        again = Path(place) / "run"
        ran = run_in_memory(lay_out(again, inputs, terms, load_catalogue(run_dir / "catalogue.csv")))
        compared = _compare(run_dir / "transcript", again / "transcript")
    return Replayed(compared, ran.summary["transcript_sha256"])


def _scenario(run_dir: Path) -> Mapping[str, Any]:
    try:
        return json.loads((run_dir / "scenario.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise InputFault(
            f"{run_dir} holds no readable scenario.json; replay needs the folder of a simulated run"
        ) from None


def _inputs(described: Mapping[str, Any]) -> Inputs:
    tables = {party: Path(entry["path"]) for party, entry in described["tables"].items()}
    for party, path in tables.items():
        if not path.exists():
            raise InputFault(f"the table of {party} is no longer at {path}; put it back to replay")
        if hashlib.sha256(path.read_bytes()).hexdigest() != described["tables"][party]["sha256"]:
            raise InputFault(f"the table of {party} at {path} has changed since the run; replay needs the same bytes")
    roles = [described[name] for name in ("id_column", "label_column", "split_column", "loan_id_column")]
    banks = [tables[bank] for bank in described["banks"]]
    if described["platform"] not in tables:
        return check_network_inputs(banks, roles[0], roles[1], roles[2], roles[3], least=1)[0]
    return check_inputs(tables[described["platform"]], banks, *roles)


def _compare(before: Path, after: Path) -> int:
    names = {side: _messages(folder) for side, folder in (("recorded", before), ("replayed", after))}
    for name in sorted(set(names["recorded"]) | set(names["replayed"])):
        old, new = names["recorded"].get(name), names["replayed"].get(name)
        if old is None or new is None:
            missing = "recording" if old is None else "replay"
            raise EvidenceRejected(f"message {name} is not in the {missing}: the run went another way")
        if old.read_bytes() != new.read_bytes():
            raise EvidenceRejected(f"message {name} differs: {_difference(old.read_bytes(), new.read_bytes())}")
    if not names["recorded"]:
        raise InputFault(f"{before} holds no recorded message; replay needs the folder of a simulated run")
    return len(names["recorded"])


def _messages(folder: Path) -> dict[str, Path]:
    found = {}
    for path in sorted(folder.rglob("*.envelope")):
        if not _is_receipt(path):
            found[str(path.relative_to(folder))] = path
    return found


def _is_receipt(path: Path) -> bool:
    try:
        return wire.unseal(path.read_bytes()).header["step"] == "contract.close"
    except GuardRefused:
        return False


def _difference(old: bytes, new: bytes) -> str:
    """Return which header entries or message fields differ, by name only."""
    try:
        first, second = wire.unseal(old), wire.unseal(new)
    except GuardRefused:
        return "the recorded bytes are no envelope"
    entries = [key for key in first.header if first.header[key] != second.header.get(key)]
    fields = [
        f.name
        for f in first.message.DESCRIPTOR.fields
        if getattr(first.message, f.name) != getattr(second.message, f.name, None)
    ]
    where = f"{first.header['message_type']} of {first.header['sender']} in step {first.header['step']}"
    return f"{where}: header {entries or 'equal'}, fields {fields or 'equal'}"
