"""One firm's place in a release: a salted commitment under the leaf's `rows_root`, opened without opening another's.

A firm's commitment is HMAC(s, k), k its subject key and s derived from the release's secret salt and k. Salt and
commitments are kept beside the ledger; the proof is the firm's own salt and the RFC 9162 path.
"""

import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass, field

from lianxin.crypto import merkle
from lianxin.crypto.errors import ProofOfInclusionRejected
from lianxin.crypto.randomness import derive_seed, derive_seeds
from lianxin.federation.errors import InputFault
from lianxin.parties.store import Store

_COMMITMENTS = "release-commitments/"
_SALT_BYTES, _FIRM = 32, "firm"


@dataclass(frozen=True)
class FirmProof:
    """One firm's place in a release: its salt and the path from its commitment to the leaf's `rows_root`."""

    salt: str = field(repr=False)
    index: int
    rows: int
    path: tuple[str, ...]


def firm_salt(release_salt: bytes, key: str) -> bytes:
    """Return the 32-byte salt of one subject key under a release's salt."""
    return derive_seed(release_salt, _FIRM, key)


def firm_commitment(salt: bytes, key: str) -> bytes:
    """Return the 32-byte commitment HMAC-SHA-256(salt, subject key)."""
    return hmac.digest(salt, key.encode(), hashlib.sha256)


def commitments_to(salt: bytes, keys: Iterable[str]) -> tuple[str, dict[str, bytes]]:
    """Return the root, hex, over one release's commitments to these subject keys, and what is to be kept of them.

    That is a setting of the store, salt and commitments, and goes into the transaction of the release's leaf.
    """
    named = list(keys)
    salts = derive_seeds(salt, _FIRM, named)
    commitments = [firm_commitment(own, key) for own, key in zip(salts, named, strict=True)]
    rows_root = merkle.root_of_all(commitments).hex()
    return rows_root, {_COMMITMENTS + rows_root: salt + b"".join(commitments)}


def prove(store: Store, rows_root: str, key: str) -> FirmProof | None:
    """Return the proof that a subject key is under a release's `rows_root`, None when it is not.

    Raises InputFault when this party made no release of that root.
    """
    kept = store.setting(_COMMITMENTS + rows_root)
    if kept is None:
        raise InputFault("no release of this party has that root of rows; take it from a release leaf")
    commitments = [kept[at : at + merkle.HASH_BYTES] for at in range(_SALT_BYTES, len(kept), merkle.HASH_BYTES)]
    own_salt = firm_salt(kept[:_SALT_BYTES], key)
    if (own := firm_commitment(own_salt, key)) not in commitments:
        return None
    tree = merkle.MerkleTree()
    for commitment in commitments:
        tree.append(commitment)
    index = commitments.index(own)
    path = tuple(node.hex() for node in tree.inclusion_proof(index, tree.size))
    return FirmProof(own_salt.hex(), index, tree.size, path)


def verify_firm(proof: FirmProof, key: str, rows_root: str) -> None:
    """Raise ProofOfInclusionRejected unless `proof` shows subject key `key` among the rows under `rows_root`."""
    try:
        salt, root, path = bytes.fromhex(proof.salt), bytes.fromhex(rows_root), [bytes.fromhex(n) for n in proof.path]
    except ValueError:
        raise ProofOfInclusionRejected("a firm's proof is not in hex digits") from None
    digest = merkle.leaf_hash(firm_commitment(salt, key))
    merkle.verify_inclusion(digest, proof.index, proof.rows, path, root)
