"""Ciphertexts as they cross: under which key they stand comes before them, since any unit mod n² decrypts to something.

    first 8 bytes of the key id (n, owner, purpose, run), then each ciphertext in its fixed length, big-endian

A ciphertext of another purpose, run or owner is refused by name before a number of it is looked at (attacks.md, row 8).
The tag guards against mistakes and says what happened; that another key's ciphertext tells nothing is the keys' own
doing, one modulus a purpose.
"""

from collections.abc import Sequence

from lianxin.crypto import paillier
from lianxin.crypto.errors import CiphertextRejected

KEY_TAG_BYTES = 8


def encode_keyed(public: paillier.PublicKey, cs: Sequence[int]) -> bytes:
    """Return the ciphertexts behind their key's tag."""
    return add_key_tag(public, paillier.encode_ciphertexts(public, cs))


def decode_keyed(public: paillier.PublicKey, data: bytes) -> list[int]:
    """Return the checked ciphertexts of `data`. Raises CiphertextRejected for another key's, or as `decode_ciphertexts`."""
    return paillier.decode_ciphertexts(public, strip_key_tag(public, data))


def add_key_tag(public: paillier.PublicKey, data: bytes) -> bytes:
    """Return `data` behind the tag of the key under which its ciphertexts stand."""
    return _tag(public) + data


def strip_key_tag(public: paillier.PublicKey, data: bytes) -> bytes:
    """Return what stands behind the tag. Raises CiphertextRejected, with both tags, where it is another key's."""
    got, expected = bytes(data[:KEY_TAG_BYTES]), _tag(public)
    if got != expected:
        raise CiphertextRejected(
            f"ciphertexts under key {got.hex()} came where {public.owner}'s key {expected.hex()} for {public.purpose} "
            "is due; encrypt under that key"
        )
    return bytes(data[KEY_TAG_BYTES:])


def _tag(public: paillier.PublicKey) -> bytes:
    return bytes.fromhex(public.key_id[: 2 * KEY_TAG_BYTES])
