"""Sealed boxes between a pair that shares a secret: ChaCha20-Poly1305 (RFC 8439), key and nonce by HKDF (RFC 5869).

key || nonce = HKDF-SHA-256(pair's secret; label, sender, recipient), so that each ordered pair has one box under one label
and no key ever meets two texts. The label is bound: a box of another label, direction or pair does not open.
"""

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from lianxin.crypto.errors import CryptoError

_DOMAIN = b"lianxin/pair-boxes/1"
_KEY_BYTES, _NONCE_BYTES = 32, 12


class BoxRejected(CryptoError):
    """A sealed box was altered, or is of another pair, direction or label."""


def seal_box(secret: bytes, label: str, sender: str, recipient: str, text: bytes, bound: bytes = b"") -> bytes:
    """Return `text` sealed for `recipient`, 16 bytes longer; `bound` is covered and does not travel.

    `secret` is the pair's 32-byte seed. One text, ever, for each (secret, label, sender, recipient).
    """
    key, nonce = _key_and_nonce(secret, label, sender, recipient)
    return ChaCha20Poly1305(key).encrypt(nonce, text, bound)


def open_box(secret: bytes, label: str, sender: str, recipient: str, box: bytes, bound: bytes = b"") -> bytes:
    """Return the text of a box. Raises BoxRejected where it is not what `sender` sealed."""
    key, nonce = _key_and_nonce(secret, label, sender, recipient)
    try:
        return ChaCha20Poly1305(key).decrypt(nonce, box, bound)
    except InvalidTag:
        raise BoxRejected("A sealed box does not open; it was altered on its way or is another pair's.") from None


def _key_and_nonce(secret: bytes, label: str, sender: str, recipient: str) -> tuple[bytes, bytes]:
    parts = (_DOMAIN, label.encode(), sender.encode(), recipient.encode())
    info = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
    derived = HKDFExpand(algorithm=SHA256(), length=_KEY_BYTES + _NONCE_BYTES, info=info).derive(secret)
    return derived[:_KEY_BYTES], derived[_KEY_BYTES:]
