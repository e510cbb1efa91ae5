"""Checking a proof from one party's ledger, offline: of a leaf, or of the releases that hold one firm.

What is needed beside the proof is the party's node key, from a contract or from the party. Shown is what the leaves say;
for a firm also that its commitment is under each leaf's root of rows. That there are no other leaves is not shown.
"""

import hashlib
import hmac
from typing import Any

from lianxin.crypto import canonical, merkle, notes
from lianxin.crypto.errors import EncodingRejected, ProofOfInclusionRejected
from lianxin.parties.auditor_evidence import Record, fits

_PROOF = {"type": str, "party": str, "checkpoint": str, "leaves": [{"index": int, "leaf": {}, "path": [str]}]}
_FIRM = {"salt": str, "index": int, "rows": int, "path": [str]}


def verify_proof(proof: Record, node_key: str) -> notes.Checkpoint:
    """Return the head under which everything in `proof` was shown.

    Raises EncodingRejected when it is no proof, SignatureRejected when the head is not signed by `node_key`, and
    ProofOfInclusionRejected for a leaf that is not under the head or a firm that is not under a leaf.
    """
    if not fits(proof, _PROOF) or proof["type"] != "ledger-proof" or proof.get("version") != 1:
        raise EncodingRejected("this is no ledger-proof of version 1 (docs/records.md)")
    note = notes.parse_note(proof["checkpoint"].encode())
    name = notes.log_name(proof["party"])
    notes.verify(note, name, node_key)
    head = notes.parse_checkpoint(note.text)
    if head.origin != name:
        raise ProofOfInclusionRejected("the proof's checkpoint is of another ledger than the party's")
    for entry in proof["leaves"]:
        leaf = merkle.leaf_hash(canonical.encode(entry["leaf"]))
        merkle.verify_inclusion(leaf, entry["index"], head.size, _digests(entry["path"]), head.root)
        if "subject_key" in proof:
            _verify_firm(entry.get("firm"), str(proof["subject_key"]), entry["leaf"])
    return head


def _verify_firm(firm: Any, subject: str, leaf: Record) -> None:
    if (
        not fits(firm, _FIRM)
        or not fits(leaf, {"kind": str, "rows": int, "rows_root": str})
        or leaf["kind"] != "release"
    ):
        raise ProofOfInclusionRejected("a leaf of a firm's proof is no release, or lacks the firm's place in it")
    if firm["rows"] != leaf["rows"]:
        raise ProofOfInclusionRejected("a firm's proof counts other rows than its release")
    salt, root = _digests([firm["salt"], leaf["rows_root"]])
    commitment = hmac.digest(salt, subject.encode(), hashlib.sha256)
    merkle.verify_inclusion(merkle.leaf_hash(commitment), firm["index"], firm["rows"], _digests(firm["path"]), root)


def _digests(texts: list[str]) -> list[bytes]:
    try:
        return [bytes.fromhex(one) for one in texts]
    except ValueError:
        raise ProofOfInclusionRejected("a proof's hashes are not in hex digits") from None
