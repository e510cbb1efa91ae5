"""Attack 21: a party truncates, edits, reorders or forks its own ledger, and signs the result with its own key.

Its own signature cannot stop it: each attack first succeeds against a verifier who sees the new head alone. A witness
who kept an earlier head refuses every one of them, and keeps both heads of a fork as evidence.
"""

import base64
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from audit_world import found, passes_without
from evidence_world import KEYS, PLATFORM, World

from lianxin.crypto import canonical, merkle, notes, signing
from lianxin.crypto.errors import EncodingRejected, ProofOfInclusionRejected, SignatureRejected
from lianxin.federation.errors import EvidenceRejected, GateRefused
from lianxin.parties.clock import SimulatedClock
from lianxin.parties.ledger import Ledger, Witness
from lianxin.parties.ledger_witness import head_of, note_of
from lianxin.parties.store import Store

VECTORS = Path(__file__).resolve().parents[2].parent / "shared" / "vectors" / "merkle_rfc9162.json"
NOW = "2026-05-01T08:00:00Z"
KEY, WITNESS_KEY = (signing.SigningKey.from_seed(bytes([n]) * 32) for n in (1, 2))
NOTES = [{"kind": "note", "run": "", "n": n} for n in range(7)]


class StillClock:
    def now(self) -> str:
        return "2026-05-01T08:00:00Z"


def ledger_of(path: Path, notes: list[dict]) -> Ledger:
    ledger = Ledger(Store(path), "bank-a", KEY, StillClock(), "lianxin 0.1.0", "operator-1")
    ledger.append_many(notes)
    return ledger


def proof_from(ledger: Ledger, old: int) -> list[bytes]:
    return [bytes.fromhex(node) for node in ledger.consistency_proof(old)]


@pytest.fixture
def witness(tmp_path: Path) -> Witness:
    """A witness who has cosigned the honest ledger at seven leaves."""
    witness = Witness(Store(tmp_path / "witness.db"), "platform", WITNESS_KEY)
    witness.cosign(ledger_of(tmp_path / "honest.db", NOTES).checkpoint(), "bank-a", KEY.public_hex, now=NOW)
    return witness


ATTACKS: dict[str, Callable[[list[dict]], list[dict]]] = {
    "truncated": lambda notes: notes[:5],
    "a leaf edited": lambda notes: [*notes[:2], {**notes[2], "n": 99}, *notes[3:]],
    "two leaves reordered": lambda notes: [notes[1], notes[0], *notes[2:]],
    "truncated and grown again": lambda notes: [*notes[:5], *({**NOTES[0], "n": n} for n in range(50, 55))],
    "a leaf edited and the log grown": lambda notes: [{**notes[0], "n": 99}, *notes[1:], notes[0], notes[0]],
    "a leaf put in the middle": lambda notes: [*notes[:3], {**NOTES[0], "n": 99}, *notes[3:]],
}


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_a_rewritten_ledger_passes_alone_and_is_refused_by_the_witness(
    tmp_path: Path, witness: Witness, attack: Callable[[list[dict]], list[dict]]
) -> None:
    forged = ledger_of(tmp_path / "forged.db", attack(NOTES))
    head = forged.checkpoint()
    assert head_of(head, "bank-a", KEY.public_hex).root.hex() == forged.root()
    assert ledger_of(tmp_path / "forged.db", []).size == forged.size  # its own node opens it
    proof = proof_from(forged, min(len(NOTES), forged.size))
    with pytest.raises((EvidenceRejected, ProofOfInclusionRejected)):
        witness.cosign(head, "bank-a", KEY.public_hex, proof, NOW)


def test_an_extension_is_cosigned(tmp_path: Path, witness: Witness) -> None:
    grown = ledger_of(tmp_path / "grown.db", [*NOTES, *NOTES])
    cosigned = witness.cosign(grown.checkpoint(), "bank-a", KEY.public_hex, proof_from(grown, 7), NOW)
    note = notes.parse_note(cosigned["note"].encode())
    notes.verify(note, "lianxin/bank-a", KEY.public_hex)
    assert notes.verify_cosignature(note, "lianxin/platform", WITNESS_KEY.public_hex) == 1777622400


def test_two_heads_of_one_size_are_kept_as_evidence_that_anyone_can_verify(tmp_path: Path, witness: Witness) -> None:
    fork = ledger_of(tmp_path / "fork.db", [*NOTES[:6], {**NOTES[6], "n": 99}])
    with pytest.raises(EvidenceRejected, match="two different ledgers"):
        witness.keep(fork.checkpoint(), "bank-a", KEY.public_hex)
    heads = [canonical.decode_fragment(data) for data in Store(tmp_path / "witness.db").witnessed("bank-a")]
    found = [head_of(head, "bank-a", KEY.public_hex) for head in heads]
    assert [head.size for head in found] == [7, 7]
    assert len({head.root for head in found}) == 2
    assert [cosigned for _, cosigned in witness._heads("bank-a")] == [False, True]  # the second one only as evidence


def test_a_witness_that_restarts_remembers_what_it_saw(tmp_path: Path, witness: Witness) -> None:
    again = Witness(Store(tmp_path / "witness.db"), "platform", WITNESS_KEY)
    short = ledger_of(tmp_path / "short.db", NOTES[:5]).checkpoint()
    with pytest.raises(EvidenceRejected, match="5 leaves after one of 7"):
        again.keep(short, "bank-a", KEY.public_hex)
    forgetful = Witness(Store(tmp_path / "other.db"), "platform", WITNESS_KEY)
    forgetful.keep(short, "bank-a", KEY.public_hex)  # without memory the truncated ledger passes


# ---- lines that nobody signed


def junk(name: str, key: signing.SigningKey | None = None, size: int = 72) -> notes.NoteSignature:
    named = notes.key_id(name, notes.COSIGNATURE, key.public_hex) if key else b"junk"
    return notes.NoteSignature(name, named, bytes(size))


def shown(ledger: Ledger, old: int, *lines: notes.NoteSignature) -> bytes:
    """Return a request with lines of the attacker's own making under the head."""
    note = note_of(ledger.checkpoint())
    proof = proof_from(ledger, old) if old else []
    return notes.make_request(old, proof, notes.Note(note.text, (*note.signatures, *lines)))


def ask(witness: Witness, request: bytes) -> bytes:
    return witness.keep_head(request, "bank-a", KEY.public_hex, NOW)


FORGED = [*NOTES[:3], {**NOTES[0], "n": 99}, *NOTES[3:]]


def test_a_fork_that_bears_the_witness_name_and_key_id_is_not_what_the_next_head_starts_from(
    tmp_path: Path, witness: Witness
) -> None:
    forged = ledger_of(tmp_path / "forged.db", FORGED)
    assert ask(witness, shown(forged, 7, junk("lianxin/platform", WITNESS_KEY))) == b"7\n"
    forged.append_many(NOTES[:2])
    assert ask(witness, shown(forged, 8)) == b"7\n"  # the fork is still none of ours


def test_a_fork_of_the_same_size_is_not_cosigned_when_it_is_shown_again(tmp_path: Path, witness: Witness) -> None:
    fork = ledger_of(tmp_path / "fork.db", [*NOTES[:6], {**NOTES[6], "n": 99}])
    for _ in range(3):
        with pytest.raises(EvidenceRejected, match="two different ledgers"):
            ask(witness, shown(fork, 7))
    honest = ledger_of(tmp_path / "honest.db", NOTES[:1])
    assert notes.parse_signatures(ask(witness, shown(honest, 7)).decode())  # whoever was forked goes on


def test_lines_that_nobody_verified_are_not_kept_and_a_full_note_does_not_stop_the_witness(
    tmp_path: Path, witness: Witness
) -> None:
    grown = ledger_of(tmp_path / "grown.db", [*NOTES, *NOTES])
    full = [junk(f"ghost-{n}") for n in range(notes.SIGNATURE_LIMIT - 1)]
    assert ask(witness, shown(grown, 7, *full)).startswith("\u2014 lianxin/platform ".encode())
    kept = [canonical.decode_fragment(data) for data in Store(tmp_path / "witness.db").witnessed("bank-a")]
    assert [len(note_of(line).signatures) for line in kept] == [2, 2]
    grown.append_many(NOTES)
    assert ask(witness, shown(grown, 14)).startswith("\u2014 lianxin/platform ".encode())


def test_a_head_that_leaves_no_room_for_a_cosignature_is_neither_answered_nor_kept(tmp_path: Path) -> None:
    def request_of(filling: int) -> bytes:
        text = notes.Checkpoint("lianxin/bank-a", 7, bytes(32), ("x" * filling,)).text()
        return notes.make_request(0, [], notes.Note(text, (notes.sign(text, "lianxin/bank-a", KEY),)))

    witness, spare = Witness(Store(tmp_path / "new.db"), "platform", WITNESS_KEY), notes.NOTE_LIMIT_BYTES
    full = request_of(spare - len(request_of(0)))
    assert len(full) == notes.NOTE_LIMIT_BYTES and notes.parse_request(full)
    with pytest.raises(EncodingRejected):
        ask(witness, full)
    assert Store(tmp_path / "new.db").witnessed("bank-a") == []


ANSWERS = {
    "names of others": [junk(f"lianxin/ghost-{n}") for n in range(2)],
    "as many lines as a note holds": [junk(f"g{n}") for n in range(notes.SIGNATURE_LIMIT - 1)],
    "a line of 20,000 bytes": [junk("g", size=20_000)],
    "another witness by its key id": [junk("lianxin/bank-b", signing.SigningKey.from_seed(b"b" * 32))],
    "its own line twice": [junk("lianxin/platform", WITNESS_KEY)],
}


@pytest.mark.rule("W01")
@pytest.mark.parametrize("more", ANSWERS.values(), ids=ANSWERS)
def test_a_witness_adds_nothing_to_a_checkpoint_but_its_own_cosignature(
    tmp_path: Path, more: list[notes.NoteSignature]
) -> None:
    other = signing.SigningKey.from_seed(b"b" * 32).public_hex
    pinned, clock = {"platform": WITNESS_KEY.public_hex, "bank-b": other}, SimulatedClock(NOW)

    def opened() -> Ledger:
        return Ledger(Store(tmp_path / "a.db"), "bank-a", KEY, clock, "lianxin 0.3.0", "operator-1", 2, 4, pinned)

    ledger = opened()
    ledger.append(NOTES[0])
    note = note_of(ledger.checkpoint())
    own = notes.cosign(note.text, "lianxin/platform", WITNESS_KEY, 1).line().encode()
    with pytest.raises((EncodingRejected, SignatureRejected)):
        ledger.take_answer(own + "".join(one.line() for one in more).encode(), "platform", WITNESS_KEY.public_hex)
    assert ledger.take_answer(own, "platform", WITNESS_KEY.public_hex) == 1
    clock.advance(5 * 3600)
    again = opened()
    with pytest.raises(GateRefused):
        again.append_release({"kind": "release", "run": "run-1", "recipient": "bank-b", "step": "x"}, [])
    assert again.request_for("platform")
    again.close()


def test_one_witness_under_two_pinned_names_is_one(tmp_path: Path) -> None:
    clock, key = SimulatedClock(NOW), WITNESS_KEY.public_hex
    pinned = {"platform": key, "bank-b": key}
    ledger = Ledger(Store(tmp_path / "a.db"), "bank-a", KEY, clock, "lianxin 0.3.0", "operator-1", 2, 4, pinned)
    ledger.append(NOTES[0])
    note = note_of(ledger.checkpoint())
    for party in pinned:
        ledger.take_answer(notes.cosign(note.text, f"lianxin/{party}", WITNESS_KEY, 1).line().encode(), party, key)
    clock.advance(5 * 3600)
    with pytest.raises(GateRefused):
        ledger.append_release({"kind": "release", "run": "run-1", "recipient": "bank-b", "step": "x"}, [])


@pytest.mark.skipif(not VECTORS.is_file(), reason="shared/vectors is not beside the checkout")
@pytest.mark.parametrize("should_fail", [False, True], ids=["good", "bad"])
def test_every_published_proof_is_judged_as_labelled(should_fail: bool) -> None:
    cases = [case for case in json.loads(VECTORS.read_text()).items() if case[1]["wantErr"] is should_fail]
    judged = [(name, _is_refused(name, case)) for name, case in cases if not name.startswith("subtree")]
    assert len(judged) > 10
    assert [name for name, refused in judged if refused is not should_fail] == []


def _is_refused(name: str, case: dict) -> bool:
    proof = [base64.b64decode(node) for node in case["proof"] or []]
    read = {key: base64.b64decode(case[key] or "") for key in ("leafHash", "root", "root1", "root2") if key in case}
    try:
        if name.startswith("inclusion"):
            merkle.verify_inclusion(read["leafHash"], case["leafIdx"], case["treeSize"], proof, read["root"])
        else:
            merkle.verify_consistency(case["size1"], case["size2"], read["root1"], read["root2"], proof)
    except ProofOfInclusionRejected:
        return True
    return False


# ---- what the auditor says of it


def forged_head(lines: list[bytes]) -> dict:
    record = {"type": "checkpoint", "version": 1, "party": PLATFORM, "size": len(lines), "time": NOW}
    record["root"] = merkle.root_of(lines).hex()
    return signing.sign_record(record, [(PLATFORM, KEYS[PLATFORM])])


REWRITTEN: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    "edited": lambda lines: [lines[0].replace(b"operator-1", b"operator-9"), *lines[1:]],
    "reordered": lambda lines: [lines[1], lines[0], *lines[2:]],
}


@pytest.mark.parametrize("attack", REWRITTEN)
def test_the_auditor_names_the_platform_whose_ledger_is_not_the_one_that_a_bank_saw(
    tmp_path: Path, attack: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = World(tmp_path).story()
    folder = run / "parties" / PLATFORM / "evidence"
    lines = REWRITTEN[attack]((folder / "ledger.jsonl").read_bytes().splitlines())
    (folder / "ledger.jsonl").write_bytes(b"".join(line + b"\n" for line in lines))
    (folder / "checkpoints.jsonl").write_bytes(canonical.encode(forged_head(lines)) + b"\n")
    failures = found(run)
    assert {(check.name, check.accused) for check in failures} == {("witnessed", PLATFORM)}
    assert passes_without(run, "witnessed", monkeypatch)
