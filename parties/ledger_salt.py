"""The salt of a ledger's leaf, without which the hash of a leaf is no more than a riddle whose answer can be tried.

A peer is shown hashes of single leaves: a release's id stands beside what was released, and a witness has paths of proofs.
Nearly all that a leaf says can be guessed: time, contract, operator, a rule out of forty. The salt cannot.
"""

import hashlib
import hmac
from typing import Any

from lianxin.crypto import canonical


def salted(leaf: dict[str, Any], key: bytes) -> dict[str, Any]:
    """Return the leaf with its `salt`, 64 hex digits; without a key as it is.

    The salt is HMAC-SHA-256 over the rest of the leaf under a key of this node alone: as secret as a drawn one, and the
    same in a replay, whatever the order in which threads write.
    """
    if not key:
        return leaf
    return {**leaf, "salt": hmac.digest(key, canonical.encode(leaf), hashlib.sha256).hex()}
