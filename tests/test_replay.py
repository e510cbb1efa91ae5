"""Replay: a recorded run made again is equal byte for byte; what was changed since is named by message and field."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import worlds
from worlds import World

from lianxin.federation import wire
from lianxin.federation.errors import EvidenceRejected, InputFault
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
    """Let a replay meet the messages of the finished run itself: for tests of the comparison alone."""
    messages = replay._messages

    def from_the_run(folder: Path) -> dict[str, Path]:
        return messages(finished.layout.folder / "transcript" if "lianxin-replay-" in str(folder) else folder)

    monkeypatch.setattr(replay, "_messages", from_the_run)
    monkeypatch.setattr(replay, "lay_out", lambda *_arguments: None)
    monkeypatch.setattr(replay, "run_in_memory", lambda _layout: finished.ran)
    yield


def envelopes(folder: Path, word: str = "") -> list[Path]:
    """Return the recorded envelopes that are compared and whose name holds `word`."""
    return [path for path in sorted(folder.rglob("*.envelope")) if word in str(path) and not replay._is_receipt(path)]


def test_a_recorded_run_replays_equal_in_every_message(finished: World) -> None:
    with worlds.known_keys():
        outcome = replay_run(finished.layout.folder)
    assert outcome.transcript_sha256 == finished.ran.summary["transcript_sha256"]
    assert outcome.compared == len(envelopes(finished.layout.folder)) > 100


def test_one_flipped_byte_of_one_recorded_message_is_found_by_a_whole_replay(folder: Path) -> None:
    path = envelopes(folder, "round")[0]
    envelope = Envelope.FromString(path.read_bytes())
    envelope.payload = envelope.payload[:-1] + bytes([envelope.payload[-1] ^ 1])
    path.write_bytes(envelope.SerializeToString(deterministic=True))
    with worlds.known_keys(), pytest.raises(EvidenceRejected) as differs:
        replay_run(folder)
    said = str(differs.value)
    assert path.name in said and envelope.message_type in said and envelope.step in said
    assert "payload_hash" in said and "\n" not in said


def test_the_message_and_the_field_that_differ_are_named(folder: Path, same_again: None) -> None:
    path = next(p for p in envelopes(folder, "learning") if p.name.startswith("bank-1"))
    envelope = Envelope.FromString(path.read_bytes())
    message = wire.LearningMessage.FromString(envelope.payload)
    message.kind = "query.watch"
    envelope.payload = message.SerializeToString(deterministic=True)
    path.write_bytes(envelope.SerializeToString(deterministic=True))
    with pytest.raises(EvidenceRejected, match=r"LearningMessage of bank-1 in step learning.*fields \['kind'\]"):
        replay_run(folder)


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a header entry": (lambda p: p.write_bytes(_with_epoch(p.read_bytes())), r"header \['epoch'\]"),
    "a signature": (lambda p: p.write_bytes(_with_signature(p.read_bytes())), "differs"),
    "a message taken out": (lambda p: p.unlink(), "is not in the recording"),
    "a message put in": (lambda p: p.with_name("x-9.envelope").write_bytes(p.read_bytes()), "is not in the replay"),
    "bytes that are no envelope": (lambda p: p.write_bytes(b"\xff"), "the recorded bytes are no envelope"),
}  # fmt: skip


def _with_epoch(data: bytes) -> bytes:
    envelope = Envelope.FromString(data)
    envelope.epoch += 1
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


def test_an_untouched_copy_passes_the_same_comparison(folder: Path, same_again: None) -> None:
    assert replay_run(folder).compared == len(envelopes(folder))


def test_a_table_that_changed_or_went_away_stops_the_replay_before_it_begins(folder: Path, tmp_path: Path) -> None:
    scenario = json.loads((folder / "scenario.json").read_text())
    table = tmp_path / "bank-1.csv.gz"
    table.write_bytes(Path(scenario["inputs"]["tables"]["bank-1"]["path"]).read_bytes() + b"\0")
    scenario["inputs"]["tables"]["bank-1"]["path"] = str(table)
    (folder / "scenario.json").write_text(json.dumps(scenario))
    with pytest.raises(InputFault, match=r"bank-1 at .* has changed since the run"):
        replay_run(folder)
    table.unlink()
    with pytest.raises(InputFault, match="bank-1 is no longer at"):
        replay_run(folder)


def test_a_folder_that_is_no_simulated_run_is_refused(tmp_path: Path, folder: Path, same_again: None) -> None:
    with pytest.raises(InputFault, match=r"no readable scenario\.json"):
        replay_run(tmp_path)
    for path in (folder / "transcript").rglob("*.envelope"):
        path.unlink()
    with pytest.raises((InputFault, EvidenceRejected)):
        replay_run(folder)
