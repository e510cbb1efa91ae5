"""Replay: a recorded run made again is equal byte for byte; what was changed is named by class, or by message and field."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import worlds
from worlds import World

from lianxin.federation import wire
from lianxin.federation.errors import EvidenceRejected, InputFault
from lianxin.parties.identity import load_identity
from lianxin.parties.pack_export import write_pack
from lianxin.simulations import replay
from lianxin.simulations.replay import replay_run

finished = worlds.finished
Envelope = wire.envelope_pb2.Envelope


@pytest.fixture
def folder(finished: World, tmp_path: Path) -> Path:
    """A copy of the finished run, to be tampered with."""
    return worlds.copy_of(finished, tmp_path / "run")


@pytest.fixture
def same_again(finished: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let a replay meet the finished run itself: for tests of what is compared."""
    monkeypatch.setattr(replay, "lay_out", lambda *_arguments: finished.layout)
    monkeypatch.setattr(replay, "_run", lambda *_arguments: None)
    yield


def envelopes(folder: Path, word: str = "") -> list[Path]:
    """Return the recorded envelopes that are compared and whose name holds `word`."""
    kept = [path for path in sorted(folder.rglob("*.envelope")) if word in str(path)]
    return [path for path in kept if wire.unseal(path.read_bytes()).header["step"] != "contract.close"]


def pack_of(world: World, path: Path) -> Path:
    """Write the pack of all parties of a run."""
    homes = {party: world.layout.home(party) for party in world.layout.parties}
    keys = {party: load_identity(home / "identity").signing_key for party, home in homes.items()}
    write_pack({party: home / "evidence" for party, home in homes.items()}, keys, path, "2026-01-05T01:00:00Z")
    return path


def test_a_recorded_run_replays_equal_in_every_message_and_model(finished: World) -> None:
    with worlds.known_keys():
        outcome = replay_run(finished.layout.folder, workers=0)
    assert outcome.transcript_sha256 == finished.ran.summary["transcript_sha256"]
    assert outcome.compared == len(envelopes(finished.layout.folder)) > 100
    assert outcome.models >= len(finished.layout.parties) and not outcome.note


def test_a_pack_is_compared_by_the_hash_of_each_header_and_payload(
    finished: World, tmp_path: Path, same_again: None
) -> None:
    scenario = finished.layout.folder / "scenario.json"
    outcome = replay_run(pack_of(finished, tmp_path / "run.evidence"), scenario)
    assert not outcome.by_bytes and outcome.compared == len(envelopes(finished.layout.folder))
    assert outcome.transcript_sha256 == finished.ran.summary["transcript_sha256"]
    with pytest.raises(InputFault, match=r"scenario\.json is missing; replay needs the folder of a simulated run"):
        replay_run(tmp_path / "run.evidence")


def test_a_header_that_differs_from_a_pack_is_named(
    finished: World, folder: Path, tmp_path: Path, same_again: None
) -> None:
    path = folder / "parties" / "platform" / "evidence" / "envelopes.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    place = next(n for n, line in enumerate(lines) if b'"conversation":"matching/' in line)
    lines[place] = lines[place].replace(b'"epoch":', b'"epoch":1')
    path.write_bytes(b"".join(lines))
    homes = {party: folder / "parties" / party / "evidence" for party in finished.layout.parties}
    for party in finished.banks:
        shutil.rmtree(homes.pop(party))
    keys = {party: load_identity(folder / "parties" / party / "identity").signing_key for party in homes}
    write_pack(homes, keys, tmp_path / "one.evidence", "2026-01-05T01:00:00Z")
    with pytest.raises(
        EvidenceRejected, match=r"message matching/bank-\d/.* step matching\..*: .* in its header epoch"
    ):
        replay_run(tmp_path / "one.evidence", folder / "scenario.json")


def test_the_message_and_the_field_that_differ_are_named(folder: Path, same_again: None) -> None:
    path = next(p for p in envelopes(folder, "learning") if p.name.startswith("bank-1"))
    envelope = Envelope.FromString(path.read_bytes())
    message = wire.LearningMessage.FromString(envelope.payload)
    message.kind = "query.watch"
    envelope.payload = message.SerializeToString(deterministic=True)
    path.write_bytes(envelope.SerializeToString(deterministic=True))
    with pytest.raises(EvidenceRejected, match=r"LearningMessage of bank-1 in step learning.*in its message kind"):
        replay_run(folder)


def test_of_two_messages_that_differ_the_one_that_was_said_first_is_named(folder: Path, same_again: None) -> None:
    for path in (envelopes(folder, "learning_bank-1")[-1], envelopes(folder, "vertical_bank-2_binning")[0]):
        path.write_bytes(_with_epoch(path.read_bytes()))
    with pytest.raises(
        EvidenceRejected, match=r"message vertical/bank-2/binning/bank-2/0 differs: TrainingKey of bank-2"
    ):
        replay_run(folder)


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a header entry": (lambda p: p.write_bytes(_with_epoch(p.read_bytes())), "in its header epoch"),
    "a payload": (lambda p: p.write_bytes(_with_payload(p.read_bytes())), "in its header payload_hash"),
    "a signature": (lambda p: p.write_bytes(_with_signature(p.read_bytes())), "differs"),
    "a message taken out": (lambda p: p.unlink(), "is not in the recording"),
    "a message put in": (lambda p: p.with_name("x-9.envelope").write_bytes(p.read_bytes()), "is not in the replay"),
    "bytes that are no envelope": (lambda p: p.write_bytes(b"\xff"), "the run went another way|are no envelope"),
}  # fmt: skip


def _with_epoch(data: bytes) -> bytes:
    envelope = Envelope.FromString(data)
    envelope.epoch += 1
    return envelope.SerializeToString(deterministic=True)


def _with_payload(data: bytes) -> bytes:
    envelope = Envelope.FromString(data)
    message = wire.MESSAGES[envelope.message_type].FromString(envelope.payload)
    field = next(f.name for f in message.DESCRIPTOR.fields if f.type == f.TYPE_BYTES or f.type == f.TYPE_UINT32)
    value = getattr(message, field)
    setattr(message, field, value + 1 if isinstance(value, int) else bytes(value) + b"\x01")
    envelope.payload = message.SerializeToString(deterministic=True)
    return envelope.SerializeToString(deterministic=True)


def _with_signature(data: bytes) -> bytes:
    envelope = Envelope.FromString(data)
    envelope.signature = envelope.signature[::-1]
    return envelope.SerializeToString(deterministic=True)


@pytest.mark.parametrize("change", CHANGES)
def test_a_recording_that_was_changed_is_told_from_the_replay(folder: Path, same_again: None, change: str) -> None:
    tamper, sentence = CHANGES[change]
    tamper(envelopes(folder, "matching")[0])
    with pytest.raises(EvidenceRejected, match=sentence):
        replay_run(folder)


def test_a_model_that_differs_under_equal_messages_is_named_by_party(folder: Path, same_again: None) -> None:
    path = folder / "parties" / "bank-1" / "state" / "runs" / "run-1" / "model.json"
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(EvidenceRejected, match=r"the model of bank-1 differs \(model\.json\)"):
        replay_run(folder)


def test_an_untouched_copy_passes_the_same_comparison(folder: Path, same_again: None) -> None:
    assert replay_run(folder).compared == len(envelopes(folder))


def flipped(path: Path) -> None:
    """Change the last byte of a file that is no line feed."""
    data = bytearray(path.read_bytes())
    place = max(n for n, byte in enumerate(data) if byte not in b"\n")
    data[place] ^= 1
    path.write_bytes(bytes(data))


def _term(folder: Path, name: str, value: Any) -> None:
    path = folder / "scenario.json"
    record = json.loads(path.read_text())
    record["terms"][name] = value
    path.write_text(json.dumps(record))


def _own_table(folder: Path) -> None:
    path = folder / "scenario.json"
    record = json.loads(path.read_text())
    entry = record["inputs"]["tables"]["bank-1"]
    shutil.copy(entry["path"], folder / "bank-1.csv.gz")
    flipped(folder / "bank-1.csv.gz")
    entry["path"] = str(folder / "bank-1.csv.gz")
    path.write_text(json.dumps(record))


def _committed_seed(folder: Path) -> None:
    """Change the seed and the digest beside it: the ledgers still say otherwise."""
    _term(folder, "seed", 6)
    path = folder / "scenario.json"
    record = json.loads(path.read_text())
    record["digests"] = replay_inputs_digests(record)
    path.write_text(json.dumps(record))


def replay_inputs_digests(record: dict[str, Any]) -> dict[str, Any]:
    """Return the record's digests with seed and scenario made anew."""
    from lianxin.simulations import replay_inputs

    return record["digests"] | replay_inputs._said(record)


CLASSES: dict[str, tuple[Callable[[Path], object], str]] = {
    "table": (_own_table, r"the table of bank-1 at .* has changed since the run"),
    "scenario": (lambda f: _term(f, "rounds", 2), r"the scenario in .* has changed since the run"),
    "seed": (lambda f: _term(f, "seed", 6), r"the seed in .* has changed since the run"),
    "committed seed": (_committed_seed, r"not the one that bank-1 committed to"),
    "catalogue": (lambda f: flipped(f / "catalogue.csv"), r"the catalogue in .* has changed"),
    "consents": (lambda f: flipped(f / "parties/bank-1/consents.jsonl"), r"the consents of bank-1 in .* have changed"),
    "policy": (
        lambda f: worlds.edit_toml(f / "parties/bank-2/node.toml", lambda t: t["policy"].update(max_rounds=14)),
        r"the policy of bank-2 in .* have changed",
    ),
}  # fmt: skip


@pytest.mark.parametrize("changed", CLASSES)
def test_an_input_that_changed_is_named_by_its_class_before_the_run_is_made_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    monkeypatch.setattr(replay, "lay_out", lambda *_arguments: pytest.fail("the run was made again"))
    tamper, sentence = CLASSES[changed]
    tamper(folder)
    with pytest.raises(InputFault, match=sentence):
        replay_run(folder)


def test_code_of_another_version_is_named_whether_or_not_anything_differs(folder: Path, same_again: None) -> None:
    path = folder / "scenario.json"
    record = json.loads(path.read_text())
    record["digests"]["code_version"] = "lianxin 0.0.9"
    path.write_text(json.dumps(record))
    assert "the run was made by lianxin 0.0.9" in replay_run(folder).note
    flipped(envelopes(folder, "matching")[0])
    with pytest.raises(EvidenceRejected, match=r"the run was made by lianxin 0\.0\.9"):
        replay_run(folder)


def test_tables_that_were_moved_are_found_where_they_are_now(
    finished: World, folder: Path, tmp_path: Path, same_again: None
) -> None:
    record = json.loads((folder / "scenario.json").read_text())
    (tmp_path / "moved").mkdir()
    for entry in record["inputs"]["tables"].values():
        name = Path(entry["path"]).name
        shutil.copy(entry["path"], tmp_path / "moved" / name)
        entry["path"] = f"/nowhere/{name}"
    (folder / "scenario.json").write_text(json.dumps(record))
    with pytest.raises(InputFault, match=r"is no longer at .*--tables"):
        replay_run(folder)
    assert replay_run(folder, tables=tmp_path / "moved").compared == len(envelopes(folder))


def test_a_copied_folder_is_replayed_from_its_own_tables_and_a_refusal_names_the_file_read(
    finished: World, folder: Path, same_again: None
) -> None:
    entries = json.loads((folder / "scenario.json").read_text())["inputs"]["tables"]
    (folder / "tables").mkdir(exist_ok=True)
    for entry in entries.values():
        shutil.copy(entry["path"], folder / "tables" / Path(entry["path"]).name)
    assert replay_run(folder).compared == len(envelopes(folder))
    own = folder / "tables" / Path(entries["bank-1"]["path"]).name
    flipped(own)
    with pytest.raises(InputFault, match=rf"the table of bank-1 at {own} has changed"):
        replay_run(folder)


def test_what_differs_is_said_in_words_and_a_plan_is_the_programs_own() -> None:
    said = replay.in_words(("payload_hash",), ("plan",))
    assert said == "what differs is in its message plan and in its header payload_hash"
    assert "another build of it" in replay._PLANNED


def test_a_folder_that_is_no_simulated_run_is_refused(tmp_path: Path, folder: Path, same_again: None) -> None:
    with pytest.raises(InputFault, match=r"scenario\.json is missing"):
        replay_run(tmp_path)
    with pytest.raises(InputFault, match="nofolder does not exist; name the folder of a simulated run"):
        replay_run(Path("nofolder"))
    for text, said in (("{", "is no JSON"), ("[]", "tells of no run")):
        (tmp_path / "scenario.json").write_text(text)
        with pytest.raises(InputFault, match=said):
            replay_run(tmp_path)
    for path in (folder / "transcript").rglob("*.envelope"):
        path.unlink()
    with pytest.raises((InputFault, EvidenceRejected)):
        replay_run(folder)


LAID = """
import sys
from pathlib import Path
from lianxin.parties.catalogue import load_catalogue
from lianxin.simulations.layout import Terms, lay_out
from lianxin.simulations.replay_inputs import inputs_then, read_scenario, check_again
run, out, tables = map(Path, sys.argv[1:])
record = read_scenario(run / "scenario.json")
layout = lay_out(out, inputs_then(record["inputs"], tables), Terms(**record["terms"]), load_catalogue(run / "catalogue.csv"))
check_again(layout.folder, record)
print("equal")
"""


def test_another_process_with_another_hash_seed_lays_out_the_same_inputs(finished: World, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    moved.mkdir()
    record = json.loads((finished.layout.folder / "scenario.json").read_text())
    for entry in record["inputs"]["tables"].values():
        shutil.copy(entry["path"], moved)
    environment = {**os.environ, "PYTHONHASHSEED": "4711", "TMPDIR": str(tmp_path)}
    arguments = [sys.executable, "-c", LAID, str(finished.layout.folder), str(tmp_path / "again"), str(moved)]
    told = subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert told.stdout == "equal\n", told.stderr
