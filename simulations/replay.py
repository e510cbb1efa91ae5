"""Replay: a simulated run made again from its scenario and seed, every message and every model compared.

From a run's folder messages are compared byte for byte, from a pack by their headers, which hold the hash of each payload,
and their signatures. The replay always runs in one process through `LocalGrid`, whatever ran at first: the same machines
give the same messages. The closing receipts, which hold ledger heads, are not compared. What the run was made from is
compared first, class by class (`replay_inputs`), so that a changed table is not told as a changed message.
"""

import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lianxin.crypto import canonical
from lianxin.crypto.errors import CryptoError
from lianxin.crypto.transcript import TranscriptDigest
from lianxin.federation import wire
from lianxin.federation.errors import EvidenceRejected, GuardRefused, InputFault, LianxinError
from lianxin.parties.auditor_evidence import Evidence, Record, read_evidence
from lianxin.parties.catalogue import load_catalogue
from lianxin.parties.run_inputs import digest_of
from lianxin.simulations.binning_file import kept_binning
from lianxin.simulations.layout import RUN, Layout, Terms, lay_out
from lianxin.simulations.replay_evidence import unpacked
from lianxin.simulations.replay_inputs import (
    SCENARIO,
    check_again,
    check_evidence,
    check_folder,
    inputs_then,
    other_code,
    parties_in,
    read_scenario,
)
from lianxin.simulations.replay_road import differing, in_words
from lianxin.simulations.runner import run_in_memory

CLOSE = "contract.close"
MODEL = "model.json"
_PLANNED = "; the plan is made by the program: another build of it may have run then"
Place = tuple[str, str, int]  # conversation, sender, sequence number


@dataclass(frozen=True)
class Replayed:
    """What a replay compared; it exists only when everything was equal. `note` tells of another version of the code."""

    compared: int
    transcript_sha256: str
    models: int = 0
    by_bytes: bool = True
    note: str = ""

    def sentence(self) -> str:
        """Return the outcome as one sentence."""
        how = "byte for byte" if self.by_bytes else "by the hash of each header and payload"
        models = f", and {self.models} model digests" if self.models else ""
        note = f"; {self.note}" if self.note else ""
        return f"{self.compared} messages are equal, {how}{models}; transcript {self.transcript_sha256}{note}"

    def to_record(self) -> dict[str, Any]:
        """Return the replay as a JSON object."""
        return {
            "equal": True, "messages": self.compared, "transcript_sha256": self.transcript_sha256, "models": self.models,
            "compared": "bytes" if self.by_bytes else "hashes", "note": self.note,
        }  # fmt: skip


def replay_run(run: Path, scenario: Path | None = None, tables: Path | None = None, workers: int = 2) -> Replayed:
    """Make the run of a folder, or of a pack with its `scenario` file, again and compare.

    `tables` is where the tables are now, if they were moved. Raises EvidenceRejected naming the first message that differs
    in the run's own order, InputFault when scenario, tables or another input are not what they were.
    """
    if not run.exists():
        raise InputFault(f"{run} does not exist; name the folder of a simulated run, or its pack with --scenario")
    is_folder = run.is_dir()
    path = scenario or (run if is_folder else run.parent) / SCENARIO
    record = read_scenario(path)
    if is_folder and scenario is None:
        check_folder(run, record)
    inputs = inputs_then(record["inputs"], tables, path.parent)
    with nullcontext(run) if is_folder else unpacked([run]) as recorded:
        evidence = {party: read_evidence(recorded / "parties" / party) for party in parties_in(recorded)}
        check_evidence(record, evidence, RUN)
        terms = Terms(**record["terms"], workers=workers, binning=kept_binning(path.parent, record.get("binning")))
        catalogue = load_catalogue(_catalogue(path.parent, recorded))
        with tempfile.TemporaryDirectory(prefix="lianxin-replay-") as place:
            layout = lay_out(Path(place) / "run", inputs, terms, catalogue)
            check_again(layout.folder, record)
            _run(layout, record, evidence)
            try:
                return _compare(recorded, layout.folder, evidence, is_folder, other_code(record))
            except EvidenceRejected as differs:
                raise EvidenceRejected("; ".join(filter(None, (str(differs), other_code(record))))) from None


def _catalogue(beside: Path, recorded: Path) -> Path:
    """Return the run's catalogue: the one beside its scenario, else that of the first party's evidence."""
    own = beside / "catalogue.csv"
    return own if own.is_file() else next(iter(sorted(recorded.glob("parties/*/evidence/catalogue.csv"))), own)


def _run(layout: Layout, record: Mapping[str, Any], evidence: Mapping[str, Evidence]) -> None:
    """Run the folder, with mishaps and cheats where it was a scenario's. A run that ended early ends so again."""
    ends = {leaf["event"] for own in evidence.values() for _, leaf in own.of_kind("contract", RUN)}
    try:
        if "scenario" not in record:
            run_in_memory(layout)
            return
        from lianxin.simulations.scenario import scenario_of
        from lianxin.simulations.scenario_run import forge, play

        told = scenario_of(record["scenario"])
        try:
            play(layout, told)
        finally:
            forge(layout, told)
    except LianxinError as end:
        if isinstance(end, InputFault) or not ends & {"failed", "refused"}:
            raise


def _compare(before: Path, after: Path, evidence: Mapping[str, Evidence], by_bytes: bool, note: str) -> Replayed:
    again = {party: read_evidence(after / "parties" / party) for party in parties_in(after)}
    if by_bytes:
        old, new = _messages(before / "transcript"), _messages(after / "transcript")
    else:
        old, new = _headers(evidence), _headers({party: own for party, own in again.items() if party in evidence})
    if not old:
        raise InputFault(f"{before} holds no recorded message; replay needs the folder of a simulated run, or its pack")
    for place in _in_order([*old, *new], evidence):
        _same(place, old.get(place), new.get(place))
    models = _compare_models(before, after, evidence, again)
    return Replayed(len(old), _transcript(again), models, by_bytes, note)


def _in_order(places: Sequence[Place], evidence: Mapping[str, Evidence]) -> Iterator[Place]:
    """Yield places in the run's own order: as the party with most of the messages has them in its ledger; then the rest."""
    longest = max(evidence.values(), key=lambda own: len(own.records["envelopes"]), default=None)
    ordered = [] if longest is None else [_place(header) for header in longest.headers() if header["run"] == RUN]
    there = set(places)
    yield from dict.fromkeys([*(place for place in ordered if place in there), *sorted(there)])


def _same(place: Place, old: bytes | Path | None, new: bytes | Path | None) -> None:
    name = "/".join(map(str, place))
    if old is None or new is None:
        missing = "recording" if old is None else "replay"
        raise EvidenceRejected(f"message {name} is not in the {missing}: the run went another way")
    first, second = (one.read_bytes() if isinstance(one, Path) else one for one in (old, new))
    if first != second:
        tell = _difference if isinstance(old, Path) else _header_difference
        raise EvidenceRejected(f"message {name} differs: {tell(first, second)}")


def _messages(folder: Path) -> dict[Place, bytes | Path]:
    """Return the recorded files by place; one that is no envelope stands under its own name."""
    found: dict[Place, bytes | Path] = {}
    for path in sorted(folder.rglob("*.envelope")):
        try:
            header = wire.unseal(path.read_bytes()).header
        except GuardRefused:
            header = {}
        sender, _, number = path.stem.rpartition("-")
        if header.get("step") != CLOSE:
            conversation = path.parent.name if not header else header["conversation"]
            is_true = header and (header["sender"], f"{header['seq']:06d}") == (sender, number)
            found[_place(header) if is_true else (conversation, sender, _number(number))] = path
    return found


def _number(text: str) -> int:
    return int(text) if text.isdecimal() else -1


def _headers(evidence: Mapping[str, Evidence]) -> dict[Place, bytes | Path]:
    """Return each message's canonical header with its signature, by place, over all parties' evidence."""
    found: dict[Place, bytes | Path] = {}
    for own in evidence.values():
        for record in own.records["envelopes"]:
            header = record.get("header", {})
            if header.get("run") == RUN and header.get("step") != CLOSE:
                with suppress(KeyError, CryptoError):
                    found.setdefault(_place(header), canonical.encode(dict(record)))
    return found


def _place(header: Mapping[str, Any]) -> Place:
    return header["conversation"], header["sender"], header["seq"]


def _difference(old: bytes, new: bytes) -> str:
    """Return which header entries or message fields differ, by name only."""
    try:
        first, second = wire.unseal(old), wire.unseal(new)
    except GuardRefused:
        return "the recorded bytes are no envelope"
    entries, fields = differing(first, second)
    where = f"{first.header['message_type']} of {first.header['sender']} in step {first.header['step']}"
    return f"{where}: {in_words(entries, fields)}{_PLANNED if tuple(fields) == ('plan',) else ''}"


def _header_difference(old: bytes, new: bytes) -> str:
    first, second = (canonical.decode_fragment(one)["header"] for one in (old, new))
    entries = [name for name in first if first[name] != second.get(name)]
    where = f"{first['message_type']} of {first['sender']} in step {first['step']}"
    return f"{where}: {in_words(entries, ()) if entries else 'its header is equal, its signature is not'}"


def _compare_models(before: Path, after: Path, evidence: Mapping[str, Evidence], again: Mapping[str, Evidence]) -> int:
    """Return how many model digests were compared. Raises EvidenceRejected naming the party whose model differs."""
    compared = 0
    for party, own in evidence.items():
        old = {**_digests(own), **_kept_model(before, party)}
        new = {**(_digests(again[party]) if party in again else {}), **_kept_model(after, party)}
        for name, digest in old.items():
            if name in new and new[name] != digest:
                raise EvidenceRejected(
                    f"the model of {party} differs ({name}) although every message is equal; ask {party}"
                )
        compared += len(set(old) & set(new))
    return compared


def _digests(own: Evidence) -> dict[str, str]:
    said: Record = own.documents.get("commitments", {})
    models = said.get("models", {})
    found = {name: digest for name, digest in models.items() if isinstance(digest, str)}
    return found | ({"model_sha256": said["model_sha256"]} if isinstance(said.get("model_sha256"), str) else {})


def _kept_model(folder: Path, party: str) -> dict[str, str]:
    path = folder / "parties" / party / "state" / "runs" / RUN / MODEL
    if not path.is_file():
        return {}
    found = {MODEL: digest_of(path)}
    with suppress(ValueError):
        weights = json.loads(path.read_text(encoding="utf-8")).get("model_sha256")
        found |= {"model_sha256": weights} if isinstance(weights, str) else {}
    return found


def _transcript(again: Mapping[str, Evidence]) -> str:
    """Return the replayed run's transcript digest; see `parties/transcript_digest`."""
    digest = TranscriptDigest()
    longest = max(again.values(), key=lambda own: len(own.records["envelopes"]), default=None)
    for record in longest.records["envelopes"] if longest else ():
        header = record["header"]
        if header["run"] == RUN and header["step"] != CLOSE:
            data = canonical.encode(header) + bytes.fromhex(record["signature"])
            digest.add(*_place(header), hashlib.sha256(data).digest())
    return digest.hexdigest()
