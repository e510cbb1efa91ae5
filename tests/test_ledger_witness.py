"""Witnesses: what they cosign, what they keep, what a log does with their answers, and when it stops without them."""

from pathlib import Path
from typing import Any

import evidence_world
import pytest

from lianxin.crypto import canonical, notes, signing
from lianxin.crypto.errors import CryptoError, EncodingRejected, ProofOfInclusionRejected, SignatureRejected
from lianxin.federation.errors import EvidenceRejected, GateRefused
from lianxin.parties.auditor import verify_run
from lianxin.parties.clock import SimulatedClock
from lianxin.parties.ledger import Ledger, Witness
from lianxin.parties.ledger_witness import head_of, note_of, note_record, seconds_of
from lianxin.parties.store import Store

KEY, WITNESS, OTHER = (signing.SigningKey.from_seed(bytes([n]) * 32) for n in (1, 2, 3))
PINNED = {"platform": WITNESS.public_hex, "bank-b": OTHER.public_hex}
NOW = "2026-05-01T08:00:00Z"
NOTE = {"kind": "note", "run": ""}
RELEASE = {"kind": "release", "run": "run-1", "recipient": "bank-b", "step": "matching.query"}


@pytest.fixture
def clock() -> SimulatedClock:
    return SimulatedClock(NOW)


def ledger_at(path: Path, clock: SimulatedClock, quorum: int = 0) -> Ledger:
    return Ledger(Store(path), "bank-a", KEY, clock, "lianxin 0.3.0", "operator-1", quorum, 4, PINNED)


@pytest.fixture
def ledger(tmp_path: Path, clock: SimulatedClock) -> Ledger:
    return ledger_at(tmp_path / "a.db", clock)


@pytest.fixture
def witness(tmp_path: Path) -> Witness:
    return Witness(Store(tmp_path / "w.db"), "platform", WITNESS)


def exchange(ledger: Ledger, witness: Witness, key: signing.SigningKey = WITNESS, name: str = "platform") -> int:
    """Show the ledger's head to the witness and take its answer; return how many leaves are cosigned by it."""
    return ledger.take_answer(
        witness.keep_head(ledger.request_for(name), "bank-a", KEY.public_hex, NOW), name, key.public_hex
    )


def test_a_head_comes_back_with_a_cosignature_that_anyone_can_verify(ledger: Ledger, witness: Witness) -> None:
    ledger.append(NOTE)
    assert exchange(ledger, witness) == 1
    ledger.append_many([NOTE] * 700)
    assert exchange(ledger, witness) == 701
    for size, line in zip((1, 701), ledger._store.checkpoints(), strict=True):
        note = note_of(canonical.decode_fragment(line))
        assert notes.parse_checkpoint(note.text).size == size
        assert notes.verify_cosignature(note, "lianxin/platform", WITNESS.public_hex) == seconds_of(NOW) == 1777622400
    assert ledger.request_for("platform").startswith(b"old 701\n\n")


def test_a_proof_that_starts_elsewhere_is_not_cosigned_and_the_next_one_starts_right(
    tmp_path: Path, ledger: Ledger, witness: Witness, clock: SimulatedClock
) -> None:
    ledger.append_many([NOTE] * 3)
    assert exchange(ledger, witness) == 3
    ledger._store.delete_setting("witnessed-by/platform")  # the log forgot, as one restored from a copy would
    ledger.append(NOTE)
    assert exchange(ledger, witness) == 0
    assert exchange(ledger, witness) == 4


def test_a_witness_keeps_the_head_before_it_answers(
    ledger: Ledger, witness: Witness, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger.append(NOTE)

    def fail(*_arguments: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(witness._store, "add_witnessed", fail)
    with pytest.raises(OSError, match="disk full"):
        witness.keep_head(ledger.request_for("platform"), "bank-a", KEY.public_hex, NOW)


def test_a_fork_is_refused_kept_and_not_cosigned(
    tmp_path: Path, ledger: Ledger, witness: Witness, clock: SimulatedClock
) -> None:
    ledger.append_many([{**NOTE, "n": n} for n in range(3)])
    assert exchange(ledger, witness) == 3
    fork = ledger_at(tmp_path / "fork.db", clock)
    fork.append_many([{**NOTE, "n": n} for n in (0, 1, 9)])
    with pytest.raises(EvidenceRejected, match="two different ledgers"):
        exchange(fork, witness)
    lines = [canonical.decode_fragment(line) for line in witness._store.witnessed("bank-a")]
    heads = [head_of(line, "bank-a", KEY.public_hex) for line in lines]
    assert (len(heads), {head.size for head in heads}, len({head.root for head in heads})) == (2, {3}, 2)
    assert [len(note_of(line).signatures) for line in lines] == [2, 1]


def test_a_rewritten_longer_ledger_is_kept_and_not_cosigned(
    tmp_path: Path, ledger: Ledger, witness: Witness, clock: SimulatedClock
) -> None:
    ledger.append_many([{**NOTE, "n": n} for n in range(3)])
    exchange(ledger, witness)
    forged = ledger_at(tmp_path / "forged.db", clock)
    forged.append_many([{**NOTE, "n": n} for n in (0, 1, 9, 10)])
    forged._store.put_setting("witnessed-by/platform", b"3")
    assert exchange(forged, witness) == 0
    assert len(witness._store.witnessed("bank-a")) == 2
    careless = Witness(Store(tmp_path / "careless.db"), "platform", WITNESS)
    forged._store.delete_setting("witnessed-by/platform")
    assert exchange(forged, careless) == 4  # who has not seen the first ledger cannot know


def test_a_shorter_head_another_signer_or_party_and_a_record_that_is_none_are_refused(
    tmp_path: Path, ledger: Ledger, witness: Witness, clock: SimulatedClock
) -> None:
    short = ledger_at(tmp_path / "short.db", clock)
    short.append(NOTE)
    ledger.append_many([NOTE] * 2)
    exchange(ledger, witness)
    with pytest.raises(EvidenceRejected, match="1 leaves after one of 2"):
        exchange(short, witness)
    request = ledger.request_for("platform")
    with pytest.raises(SignatureRejected):
        witness.keep_head(request, "bank-a", OTHER.public_hex, NOW)
    with pytest.raises((SignatureRejected, EvidenceRejected)):
        witness.keep_head(request, "bank-b", KEY.public_hex, NOW)
    text = "lianxin/bank-a\nno checkpoint\n"
    for bad in (
        {"type": "checkpoint-note", "version": 1, "note": "x"},
        note_record(notes.Note(text, (notes.sign(text, "lianxin/bank-a", KEY),))),
        signing.sign_record({"type": "consent", "version": 1, "party": "bank-a"}, [("bank-a", KEY)]),
    ):  # fmt: skip
        with pytest.raises(EvidenceRejected, match="no checkpoint"):
            witness.keep(bad, "bank-a", KEY.public_hex)


def test_a_head_of_before_is_kept_and_the_next_one_extends_it(ledger: Ledger, witness: Witness) -> None:
    ledger.append(NOTE)
    old = {"type": "checkpoint", "version": 1, "party": "bank-a", "size": 1, "root": ledger.root(), "time": NOW}
    witness.keep(signing.sign_record(old, [("bank-a", KEY)]), "bank-a", KEY.public_hex)
    ledger.append(NOTE)
    assert exchange(ledger, witness) == 0  # the log does not know yet what this witness has
    assert exchange(ledger, witness) == 2
    with pytest.raises(ProofOfInclusionRejected):
        ledger.append(NOTE)
        witness.cosign(ledger.checkpoint(), "bank-a", KEY.public_hex, (), NOW)


def test_an_answer_that_is_a_cosignature_of_nothing_of_ours_is_refused(ledger: Ledger, witness: Witness) -> None:
    ledger.append(NOTE)
    answer = witness.keep_head(ledger.request_for("platform"), "bank-a", KEY.public_hex, NOW)
    with pytest.raises(SignatureRejected, match="no checkpoint of this ledger"):
        ledger.take_answer(answer, "platform", OTHER.public_hex)
    foreign = notes.cosign("lianxin/bank-b\n1\nAAAA\n", "lianxin/platform", WITNESS, 1).line().encode()
    with pytest.raises(SignatureRejected):
        ledger.take_answer(foreign, "platform", WITNESS.public_hex)
    for bad in (b"", b"no answer", b"1"):
        with pytest.raises(EncodingRejected):
            ledger.take_answer(bad, "platform", WITNESS.public_hex)


# ---- checkpoints by time, and the quorum


def test_a_checkpoint_is_made_after_sixty_seconds_of_activity_and_at_the_end(
    ledger: Ledger, clock: SimulatedClock
) -> None:
    for seconds, heads in ((0, 0), (59, 0), (1, 1), (30, 1), (30, 2), (0, 2)):
        clock.advance(seconds)
        ledger.append(NOTE)
        assert len(ledger._store.checkpoints()) == heads
    ledger.close()
    ledger.close()
    assert len(ledger._store.checkpoints()) == 3


@pytest.mark.rule("W01")
def test_without_its_quorum_for_four_hours_a_node_releases_nothing_until_it_is_cosigned(
    tmp_path: Path, clock: SimulatedClock, witness: Witness
) -> None:
    careless, ledger = ledger_at(tmp_path / "c.db", clock), ledger_at(tmp_path / "q.db", clock, quorum=1)
    for one in (careless, ledger):
        one.append_release(RELEASE, ["c-1"])
    clock.advance(4 * 3600)
    ledger.append_release(RELEASE | {"round": 1}, [])
    clock.advance(1)
    careless.append_release(RELEASE, [])  # with no quorum asked for, nothing stops it
    with pytest.raises(GateRefused, match="did not cosign") as refused:
        ledger.append_release(RELEASE, [])
    assert refused.value.rule == "W01"
    last = canonical.decode(list(ledger._store.leaves())[-1])
    assert (last["kind"], last["rule"], last["peer"], last["step"]) == ("refusal", "W01", "bank-b", "matching.query")
    again = ledger_at(tmp_path / "q.db", clock, quorum=1)
    with pytest.raises(GateRefused):
        again.append_release(RELEASE, [])
    exchange(again, witness)
    again.append_release(RELEASE, [])
    assert ledger_at(tmp_path / "q.db", clock, quorum=1).append_release(RELEASE, [])[0] == again.size


@pytest.mark.rule("W01")
def test_a_quorum_of_two_is_two_parties_on_one_checkpoint(
    tmp_path: Path, clock: SimulatedClock, witness: Witness
) -> None:
    ledger = ledger_at(tmp_path / "q.db", clock, quorum=2)
    ledger.append(NOTE)
    clock.advance(5 * 3600)
    exchange(ledger, witness)
    exchange(ledger, witness)
    with pytest.raises(GateRefused):
        ledger.append_release(RELEASE, [])
    third = Witness(Store(tmp_path / "o.db"), "bank-b", OTHER)
    exchange(ledger, witness)
    assert exchange(ledger, third, OTHER, "bank-b") == ledger.size
    ledger.append_release(RELEASE, [])


def test_junk_under_a_witness_name_and_key_id_does_not_keep_its_true_cosignature_out(
    tmp_path: Path, clock: SimulatedClock, witness: Witness
) -> None:
    ledger = ledger_at(tmp_path / "q.db", clock, quorum=1)
    ledger.append(NOTE)
    note, data = note_of(ledger.checkpoint()), ledger._store.last_checkpoint()
    junk = notes.NoteSignature(
        "lianxin/platform", notes.key_id("lianxin/platform", notes.COSIGNATURE, WITNESS.public_hex), bytes(72)
    )
    ledger._store.replace_checkpoint(data or b"", canonical.encode(note_record(note.with_signatures([junk]))))
    clock.advance(5 * 3600)
    ledger = ledger_at(tmp_path / "q.db", clock, quorum=1)
    with pytest.raises(GateRefused):
        ledger.append_release(RELEASE, [])
    assert exchange(ledger, witness) == ledger.size
    answered = notes.Note(note.text, (notes.cosign(note.text, "lianxin/platform", WITNESS, 1),)).signatures[0]
    assert ledger.take_answer(answered.line().encode(), "platform", WITNESS.public_hex) == 1
    (first, *_) = (note_of(canonical.decode_fragment(line)) for line in ledger._store.checkpoints())
    assert notes.verify_cosignature(first, "lianxin/platform", WITNESS.public_hex) == 1
    ledger.append_release(RELEASE, [])


def test_a_second_answer_for_the_same_head_leaves_the_first_cosignature(ledger: Ledger, witness: Witness) -> None:
    ledger.append(NOTE)
    exchange(ledger, witness)
    before = ledger._store.last_checkpoint()
    later = witness.keep_head(ledger.request_for("platform"), "bank-a", KEY.public_hex, "2026-05-02T08:00:00Z")
    assert ledger.take_answer(later, "platform", WITNESS.public_hex) == 1
    assert ledger._store.last_checkpoint() == before


def test_a_witness_that_is_not_pinned_cosigns_and_counts_for_no_quorum(
    tmp_path: Path, clock: SimulatedClock, witness: Witness
) -> None:
    ledger = Ledger(Store(tmp_path / "q.db"), "bank-a", KEY, clock, "test", "operator-1", 1, 4, {"bank-b": "00" * 32})
    ledger.append(NOTE)
    clock.advance(5 * 3600)
    assert exchange(ledger, witness) == 1
    with pytest.raises(GateRefused):
        ledger.append_release(RELEASE, [])


# ---- the auditor


def test_the_auditor_refuses_a_cosignature_that_does_not_verify(tmp_path: Path) -> None:
    world = evidence_world.World(tmp_path)
    run = world.story()
    assert verify_run(run).ok
    bank, platform = (world.parties[name] for name in (evidence_world.BANK, evidence_world.PLATFORM))
    note = note_of(canonical.decode_fragment(platform.store.checkpoints()[-1]))
    key = evidence_world.KEYS[evidence_world.BANK]
    name = notes.log_name(evidence_world.BANK)
    good = notes.cosign(note.text, name, key, 1)
    bent = notes.NoteSignature(good.name, good.key_id, good.signature[:-1] + b"x")
    for signature, holds in ((good, True), (bent, False)):
        line = note_record(note.with_signatures([signature]))
        file = run / "parties" / evidence_world.PLATFORM / "evidence" / "checkpoints.jsonl"
        lines = file.read_bytes().splitlines()
        file.write_bytes(b"\n".join([*lines[:-1], canonical.encode(line), b""]))
        verdict = verify_run(run)
        assert verdict.ok is holds
        assert {check.name for check in verdict.failures} == (set() if holds else {"cosignatures"})
    assert bank.name != platform.name


def other_run(world: evidence_world.World) -> None:
    """The platform keeps the head of a bank of another contract."""
    key = evidence_world.KEYS["stranger"]
    stranger = Ledger(Store(world.folder / "x.db"), "stranger", key, SimulatedClock(NOW), "test", "operator-1")
    stranger.append({**NOTE, "run": "run-2"})
    world.parties[evidence_world.PLATFORM].witness.keep(stranger.checkpoint(), "stranger", key.public_hex)


def test_a_platform_that_serves_another_bank_is_honest_and_does_not_show_its_head(tmp_path: Path) -> None:
    world = evidence_world.World(tmp_path, {"after release": other_run})
    run = world.story()
    platform = world.parties[evidence_world.PLATFORM]
    file = run / "parties" / evidence_world.PLATFORM / "evidence" / "witnessed.jsonl"
    assert verify_run(run).ok
    assert len(platform.store.witnessed("stranger")) == 1
    assert b"stranger" not in file.read_bytes() and len(file.read_bytes().splitlines()) == 1
    file.write_bytes(file.read_bytes() + platform.store.witnessed("stranger")[0] + b"\n")  # as 0.2 wrote it
    verdict = verify_run(run)
    assert verdict.ok
    details = [check.detail for check in verdict.checks if check.name == "witnessed"]
    assert sorted(details) == ["verified", "verified; 1 heads of parties of other runs not judged"]
    file.write_bytes(file.read_bytes().replace(b"lianxin/stranger", b"lianxin/bank-a"))
    assert [check.name for check in verify_run(run).failures] == ["witnessed"]


def test_a_head_signed_by_nobody_of_the_run_is_no_head() -> None:
    line = {"type": "checkpoint-note", "version": 1, "note": "lianxin/x\n1\nAA==\n\n— x AAAAAAAA\n"}
    with pytest.raises((CryptoError, EvidenceRejected)):
        head_of(line, "x", KEY.public_hex)
