"""Pairwise masks that cancel in the sum: the additive core of secure aggregation (Bonawitz et al., CCS 2017).

Each pair {u, v} agrees on a seed, s_uv = HKDF-SHA-256(X25519(u, v); run, context, both ids, both public keys), and
expands it with ChaCha20 to a vector m_uv over Z_{2^W}. The party with the smaller id adds m_uv, the other subtracts it:
masked_u = x_u + Σ_{v > u} m_uv - Σ_{v < u} m_uv, and Σ_u masked_u = Σ_u x_u, exactly, modulo 2^W.

Threat model: the adder is honest-but-curious and sees only masked vectors; each is uniform as long as one of its pair
seeds is unknown to whoever looks, so a party that colludes with all peers but one still learns only a sum of two.
Leaks: nothing but the sum; with a party missing the sum is uniform and worth nothing. Public keys must be signed by
their owners before they are used, or the adder could sit between two parties: that is the caller's part. So is a fresh
`round_label` for every vector, aborted rounds included: two vectors under one label differ by their plain values.
Nothing is clipped: a value outside [0, 2^W) is refused, and bounds that keep Σ x_u in the ring come from the contract.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from lianxin.crypto.errors import CryptoError, GroupElementRejected
from lianxin.crypto.randomness import SEED_BYTES, Drbg

KEY_BYTES = 32
WORD_BITS = 64
_DOMAIN = b"lianxin/pairwise-masks/pair-seed/1"


class ValueOutsideRing(CryptoError):
    """A value is not in [0, 2^W): masking it would lose what is outside."""


class MaskedVectorRejected(CryptoError):
    """Vectors of one round differ in length or are missing, so that their sum has no meaning."""


def agreement_keypair(seed: bytes) -> tuple[bytes, bytes]:
    """Return (secret key, public key) for X25519, 32 raw bytes each; `seed` is 32 secret bytes, fresh for each use."""
    if len(seed) != KEY_BYTES:
        raise ValueError(f"an X25519 key pair is made from {KEY_BYTES} bytes, not {len(seed)}")
    secret_key = X25519PrivateKey.from_private_bytes(seed)
    return secret_key.private_bytes_raw(), secret_key.public_key().public_bytes_raw()


def pair_seed(secret: bytes, peer_public: bytes, run: str, context: str, pair: tuple[str, str]) -> bytes:
    """Return the 32-byte seed that both parties of `pair` derive, whichever order they name each other in.

    Raises GroupElementRejected where the peer's public key is no 32 bytes or of small order, and ValueError where a
    party is paired with itself.
    """
    if pair[0] == pair[1]:
        raise ValueError("a pair of masks needs two different parties")
    own_key = X25519PrivateKey.from_private_bytes(secret)
    try:
        shared = own_key.exchange(X25519PublicKey.from_public_bytes(peer_public))
    except ValueError as error:
        raise GroupElementRejected("A peer's X25519 public key gives no shared secret; refuse its message.") from error
    names = [name.encode() for name in (run, context, *sorted(pair))]
    keys = sorted((own_key.public_key().public_bytes_raw(), peer_public))
    info = b"".join(len(part).to_bytes(4, "big") + part for part in (_DOMAIN, *names, *keys))
    return HKDF(algorithm=SHA256(), length=SEED_BYTES, salt=None, info=info).derive(shared)


def mask_vector(own: str, seeds: Mapping[str, bytes], round_label: str, length: int, width_bits: int) -> list[int]:
    """Return the sum of this party's signed masks: `length` integers in [0, 2^width_bits).

    `seeds` maps each peer's id to its pair seed. `round_label` is never used twice under the same seeds.
    """
    if own in seeds:
        raise ValueError("a party has no mask with itself")
    total = [0] * length
    for peer, seed in sorted(seeds.items()):
        sign = 1 if own < peer else -1
        stream = keystream(seed, round_label, length, width_bits)
        total = [value + sign * mask for value, mask in zip(total, stream, strict=True)]
    ring = (1 << width_bits) - 1
    return [value & ring for value in total]


def apply_mask(values: Sequence[int], mask: Sequence[int], width_bits: int) -> list[int]:
    """Return values + mask modulo 2^width_bits.

    Raises ValueOutsideRing at a value outside [0, 2^width_bits), MaskedVectorRejected where the lengths differ.
    """
    return sum_masked([values, mask], width_bits)


def sum_masked(vectors: Sequence[Sequence[int]], width_bits: int) -> list[int]:
    """Return the element-wise sum modulo 2^width_bits: the plain sum, once every party's vector is there.

    Raises ValueOutsideRing at a value outside the ring, MaskedVectorRejected where lengths differ or none is given.
    """
    if not vectors or len({len(vector) for vector in vectors}) != 1:
        raise MaskedVectorRejected("Masked vectors are missing or differ in length; run the round again.")
    for vector in vectors:
        _check_in_ring(vector, width_bits)
    ring = (1 << width_bits) - 1
    return [sum(column) & ring for column in zip(*vectors, strict=True)]


def _check_in_ring(values: Sequence[int], width_bits: int) -> None:
    if values and (min(values) < 0 or max(values) >> width_bits):
        raise ValueOutsideRing(f"A value does not fit {width_bits} bits; widen the ring or tighten the bound.")


def keystream(seed: bytes, round_label: str, length: int, width_bits: int) -> list[int]:
    """Return the mask that `seed` stands for under `round_label`: `length` integers in [0, 2^width_bits)."""
    if width_bits < 1:
        raise ValueError("masks need a ring of at least one bit")
    size, ring = (width_bits + 7) // 8, (1 << width_bits) - 1
    stream = _stream(seed, round_label, length, width_bits).bytes(size * length)
    return [int.from_bytes(stream[at : at + size], "little") & ring for at in range(0, size * length, size)]


def keystream_words(seed: bytes, round_label: str, length: int) -> np.ndarray:
    """Return `keystream` of a ring of 64 bits as uint64 words, shape (length,); read-only."""
    stream = _stream(seed, round_label, length, WORD_BITS).bytes(WORD_BITS // 8 * length)
    return np.frombuffer(stream, dtype="<u8")


def _stream(seed: bytes, round_label: str, length: int, width_bits: int) -> Drbg:
    return Drbg(seed).child("pairwise-mask", round_label, length, width_bits)
