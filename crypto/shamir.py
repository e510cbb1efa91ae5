"""Shamir's secret sharing over a prime field (How to share a secret, CACM 22(11), 1979).

A secret s in [0, p) is the constant of a random polynomial f of degree t - 1; party x holds f(x), x = 1..n. Any t shares
give s = f(0) by Lagrange interpolation; any t - 1 say nothing about it.

p = 2^256 - 189 is the largest prime below 2^256: a share fills 32 bytes and no more, and a secret that is drawn below p
lacks less than 2^-247 of a bit of the 256 that a mask's seed should have (2^255 - 19 would lack a whole one). A prime
above 2^256 would hold every 32-byte text, with shares of 33 bytes.

Wrong shares are not found here: interpolation takes what it is given. Who shares commits to the secret and to each share
(federation/secure_sum).
"""

from collections.abc import Mapping
from functools import lru_cache

from lianxin.crypto.errors import CryptoError
from lianxin.crypto.randomness import Drbg

PRIME = 2**256 - 189
SHARE_BYTES = 32


class ShareRejected(CryptoError):
    """Bytes are no share of this field, or there are too few of them."""


def draw_secret(drbg: Drbg) -> bytes:
    """Return a secret uniform in [0, p), as 32 bytes."""
    return drbg.below(PRIME).to_bytes(SHARE_BYTES, "big")


def split(secret: bytes, threshold: int, parties: int, drbg: Drbg) -> list[bytes]:
    """Return the shares of parties 1..`parties`, 32 bytes each; any `threshold` of them give `secret` back.

    Raises ShareRejected where the secret is not below p, ValueError where 1 <= threshold <= parties < p does not hold.
    """
    if not 1 <= threshold <= parties:
        raise ValueError("a secret is shared with a threshold from 1 to the number of parties")
    coefficients = [_element(secret), *(drbg.below(PRIME) for _ in range(threshold - 1))]
    return [_value_at(coefficients, place).to_bytes(SHARE_BYTES, "big") for place in range(1, parties + 1)]


def combine(shares: Mapping[int, bytes], threshold: int) -> bytes:
    """Return the secret of which `shares` (party's number to share) are; the first `threshold` of them are used.

    Raises ShareRejected where there are fewer, a number is not at least 1, or a share is not below p.
    """
    places = tuple(sorted(shares))[:threshold]
    if len(places) < threshold or threshold < 1 or places[0] < 1:
        raise ShareRejected(f"{threshold} shares open a secret; {len(places)} came")
    weights = _weights_at_zero(places)
    total = sum(weight * _element(shares[place]) for weight, place in zip(weights, places, strict=True))
    return (total % PRIME).to_bytes(SHARE_BYTES, "big")


def _element(data: bytes) -> int:
    value = int.from_bytes(data, "big")
    if len(data) != SHARE_BYTES or value >= PRIME:
        raise ShareRejected(f"a share has {SHARE_BYTES} bytes and is below the field's prime; refuse its message")
    return value


def _value_at(coefficients: list[int], place: int) -> int:
    value = 0
    for coefficient in reversed(coefficients):
        value = (value * place + coefficient) % PRIME
    return value


@lru_cache(maxsize=64)
def _weights_at_zero(places: tuple[int, ...]) -> tuple[int, ...]:
    weights = []
    for own in places:
        above, below = 1, 1
        for other in places:
            if other != own:
                above, below = above * other % PRIME, below * (other - own) % PRIME
        weights.append(above * pow(below, -1, PRIME) % PRIME)
    return tuple(weights)
