"""The salt of a ledger's leaf, without which the hash of a leaf is no more than a riddle whose answer can be tried.

A peer is shown hashes of single leaves: a release's id stands beside what was released, and a witness has paths of proofs.
Nearly all that a leaf says can be guessed: time, contract, operator, a rule out of forty. The salt cannot.
"""

import hashlib
import hmac
from collections.abc import Mapping
from typing import Any

from lianxin.crypto import canonical

_BLANK = "?" * 64
_BLANK_ENTRY = b'"salt":"%b"' % _BLANK.encode()  # a text in a leaf cannot hold it: there a quotation mark is escaped


def salted(leaf: Mapping[str, Any], key: bytes) -> bytes:
    """Return the canonical bytes of a leaf with its `salt`, 64 hex digits; without a key as it is.

    The salt is HMAC-SHA-256 over the rest of the leaf under a key of this node alone: as secret as a drawn one, and the
    same in a replay, whatever the order in which threads write. All is encoded once, with a blank where the salt comes.
    """
    if not key:
        return canonical.encode(dict(leaf))
    before, blank, after = canonical.encode({**leaf, "salt": _BLANK}).partition(_BLANK_ENTRY)
    if not before.endswith(b",") or not after.startswith(b",") or blank in after:
        return _salted_by_parts(leaf, key)
    salt = hmac.digest(key, before + after[1:], hashlib.sha256).hex()
    return b'%b"salt":"%b"%b' % (before, salt.encode(), after)


def _salted_by_parts(leaf: Mapping[str, Any], key: bytes) -> bytes:
    """As `salted`, of any leaf: what comes before the salt and what comes after it are encoded by themselves."""
    before, after = (
        canonical.encode({name: leaf[name] for name in names})
        for names in ([name for name in leaf if name < "salt"], [name for name in leaf if name > "salt"])
    )
    salt = hmac.digest(key, _joined(before, after), hashlib.sha256).hex()
    return _joined(before, canonical.encode({"salt": salt}), after)


def _joined(*objects: bytes) -> bytes:
    """Return the bytes of one object with the entries of several, whose keys follow each other."""
    return b"{%b}" % b",".join(entries for one in objects if (entries := one[1:-1]))
