"""The one door for random numbers: everything else takes a `Drbg` as an argument.

A `Drbg` is the ChaCha20 keystream (RFC 8439) under a 32-byte seed. Children are derived with HMAC-SHA-256 over
length-prefixed labels, so that a message's randomness is a function of (run seed, step, attempt, inputs) and a rerun
over other inputs never meets the same stream (protocols.md, section 1).
"""

import hashlib
import secrets
from collections.abc import Iterable, MutableSequence
from functools import lru_cache
from typing import Any

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

Label = str | bytes | int
_BLOCK = 4096
SEED_BYTES = 32
_INNER, _OUTER = (bytes(byte ^ pad for byte in range(256)) for pad in (0x36, 0x5C))


def system_seed() -> bytes:
    """Return 32 bytes from the operating system."""
    return secrets.token_bytes(SEED_BYTES)


def derive_seed(seed: bytes, *labels: Label) -> bytes:
    """Return the 32-byte child seed of `seed` under `labels`; distinct label lists give independent seeds."""
    encoded = [_encode_label(label) for label in labels]
    message = b"".join([part for label in encoded for part in (len(label).to_bytes(8, "big"), label)])
    inner, outer = (pad.copy() for pad in _pads(seed))
    inner.update(message)
    outer.update(inner.digest())
    return outer.digest()


def derive_seeds(seed: bytes, first: Label, lasts: Iterable[Label]) -> list[bytes]:
    """Return `derive_seed(seed, first, last)` for each of `lasts`, at half of the price: what all share is hashed once."""
    inner, outer = (pad.copy() for pad in _pads(seed))
    start = _encode_label(first)
    inner.update(len(start).to_bytes(8, "big") + start)
    seeds = []
    for last in lasts:
        label, below, above = _encode_label(last), inner.copy(), outer.copy()
        below.update(len(label).to_bytes(8, "big") + label)
        above.update(below.digest())
        seeds.append(above.digest())
    return seeds


@lru_cache(maxsize=64)
def _pads(key: bytes) -> tuple[Any, Any]:
    """Return SHA-256 after each of HMAC's two pads (RFC 2104): many children of one seed then pay for them once."""
    block = (key if len(key) <= 64 else hashlib.sha256(key).digest()).ljust(64, b"\0")
    return hashlib.sha256(block.translate(_INNER)), hashlib.sha256(block.translate(_OUTER))


def _encode_label(label: Label) -> bytes:
    if isinstance(label, bytes):
        return b"b" + label
    if isinstance(label, str):
        return b"s" + label.encode()
    return b"i" + str(int(label)).encode()


class Drbg:
    """A deterministic stream of random numbers. Not shared between threads: give each its own `child`."""

    def __init__(self, seed: bytes) -> None:
        if len(seed) != SEED_BYTES:
            raise ValueError(f"a Drbg seed has {SEED_BYTES} bytes, this one {len(seed)}")
        self._seed = seed
        self._stream = Cipher(ChaCha20(seed, bytes(16)), mode=None).encryptor()
        self._buffer = b""
        self._position = 0

    def __repr__(self) -> str:
        return "Drbg(<secret>)"

    def __reduce__(self) -> str:
        raise TypeError("a Drbg is not pickled; pass a derived seed instead")

    def child(self, *labels: Label) -> "Drbg":
        """Return the generator derived from this one's seed under `labels`; this one's position does not matter."""
        return Drbg(derive_seed(self._seed, *labels))

    def child_seed(self, *labels: Label) -> bytes:
        """Return the 32-byte seed that `child(*labels)` would start from."""
        return derive_seed(self._seed, *labels)

    def bytes(self, size: int) -> bytes:
        """Return the next `size` bytes of the stream."""
        if self._position + size > len(self._buffer):
            fresh = self._stream.update(bytes(max(_BLOCK, size)))
            self._buffer = self._buffer[self._position :] + fresh
            self._position = 0
        start, self._position = self._position, self._position + size
        return self._buffer[start : self._position]

    def bits(self, count: int) -> int:
        """Return a uniform integer in [0, 2**count)."""
        size = (count + 7) // 8
        return int.from_bytes(self.bytes(size), "big") >> (8 * size - count)

    def below(self, bound: int) -> int:
        """Return a uniform integer in [0, bound), by rejection."""
        if bound < 1:
            raise ValueError("below() needs a bound of at least 1")
        width = (bound - 1).bit_length()
        while True:
            candidate = self.bits(width) if width else 0
            if candidate < bound:
                return candidate

    def between(self, low: int, high: int) -> int:
        """Return a uniform integer in [low, high)."""
        return low + self.below(high - low)

    def shuffle(self, items: MutableSequence) -> None:
        """Permute `items` in place, uniformly (Fisher-Yates)."""
        for last in range(len(items) - 1, 0, -1):
            other = self.below(last + 1)
            items[last], items[other] = items[other], items[last]
