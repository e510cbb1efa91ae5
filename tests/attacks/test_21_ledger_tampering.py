"""Attack 21: a party truncates, edits, reorders or forks its own ledger, and signs the result with its own key.

Its own signature cannot stop it: each attack first succeeds against a verifier who sees the new head alone. A witness
who kept an earlier head refuses every one of them, and keeps both heads of a fork as evidence.
"""

import base64
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from lianxin.crypto import canonical, merkle, notes, signing
from lianxin.crypto.errors import ProofOfInclusionRejected
from lianxin.federation.errors import EvidenceRejected
from lianxin.parties.ledger import Ledger, Witness
from lianxin.parties.ledger_witness import head_of
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
