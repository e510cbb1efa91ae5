"""A proof, for anyone and offline, of a consent's state at a provider, or that the provider had no such consent.

    1. The snapshot's root is in a registry leaf: what the map was, at which time, after which number of records.
    2. The leaf is in the provider's ledger, under a head that the provider's node key signed (`auditor_proof`).
    3. The consent's id stands in the map under that root with its state and its record's hash, or does not stand there.

What is needed beside the proof is the provider's node key. Who shows it a second head that contradicts the first has
evidence against the provider; that the provider took in all that it was given is not shown. Pure.
"""

from typing import Any, NamedTuple

from lianxin.crypto import snapshot
from lianxin.crypto.errors import EncodingRejected, ProofOfInclusionRejected
from lianxin.parties.auditor_evidence import Record, fits
from lianxin.parties.auditor_proof import verify_proof
from lianxin.parties.decision_consents import STATES

_PROOF = {"type": str, "consent_id": str, "snapshot": {}, "ledger": {}}
_LEAF = {"kind": str, "party": str, "epoch": int, "snapshot_root": str, "snapshot_at": str}
_VALUE_BYTES = 33


class Shown(NamedTuple):
    """What a proof shows: `state` and `record_hash` (hex) are empty where the registry has no such consent at `at`."""

    party: str
    consent_id: str
    state: str
    record_hash: str
    at: str
    epoch: int


def make_consent_proof(consent_id: str, proof: snapshot.Proof, ledger: Record) -> dict[str, Any]:
    """Return the proof record of docs/records.md; `ledger` is the `ledger-proof` of the one leaf with the snapshot's root."""
    shown = {"snapshot": snapshot.proof_to_record(proof), "ledger": dict(ledger)}
    return {"type": "consent-proof", "version": 1, "consent_id": consent_id, **shown}


def verify_consent_proof(proof: Record, node_key: str) -> Shown:
    """Return what `proof` shows about a consent at the party whose node key is `node_key`.

    Raises EncodingRejected when it is no proof, SignatureRejected when the head is not signed by that key, and
    ProofOfInclusionRejected when leaf, snapshot and consent do not belong together.
    """
    if not fits(proof, _PROOF) or (proof["type"], proof.get("version")) != ("consent-proof", 1):
        raise EncodingRejected("this is no consent-proof of version 1 (docs/records.md)")
    verify_proof(proof["ledger"], node_key)
    leaf, party = _leaf_of(proof["ledger"]), proof["ledger"]["party"]
    if leaf["party"] != party:
        raise ProofOfInclusionRejected("a consent's proof holds a leaf of another party")
    root, found = _root_of(leaf), snapshot.proof_from_record(proof["snapshot"])
    state, digest = _state_of(root, proof["consent_id"], found)
    return Shown(party, proof["consent_id"], state, digest, leaf["snapshot_at"], leaf["epoch"])


def _leaf_of(ledger: Record) -> Record:
    leaves = ledger["leaves"]
    if len(leaves) != 1 or not fits(leaves[0]["leaf"], _LEAF) or leaves[0]["leaf"]["kind"] != "registry":
        raise ProofOfInclusionRejected("a consent's proof holds one leaf, the registry's with a snapshot's root")
    leaf: Record = leaves[0]["leaf"]
    return leaf


def _root_of(leaf: Record) -> bytes:
    try:
        return bytes.fromhex(leaf["snapshot_root"])
    except ValueError:
        raise ProofOfInclusionRejected("a leaf's snapshot root is not in hex digits") from None


def _state_of(root: bytes, consent_id: str, proof: snapshot.Proof) -> tuple[str, str]:
    if proof.at is None:
        snapshot.verify_absent(root, consent_id, proof)
        return "", ""
    value = proof.at.value
    snapshot.verify_present(root, consent_id, value, proof)
    if len(value) != _VALUE_BYTES or value[0] >= len(STATES):
        raise ProofOfInclusionRejected("a snapshot's value is no state and hash of a record")
    return STATES[value[0]], value[1:].hex()
