"""Safe primes p = 2p' + 1 with p' prime, by one sieve over p' and 2p' + 1 together (Wiener, "Safe prime generation
with a combined sieve", ePrint 2003/186).

A window of odd candidates p' starts at a uniform point; a candidate is struck when a small prime r divides p'
(p' = 0 mod r) or 2p' + 1 (p' = (r-1)/2 mod r). Survivors take a Fermat test on p', then on p, then a full test on p'.
With p' prime and 2^(p-1) = 1 mod p, p is prime by Pocklington's criterion.
"""

from collections.abc import Iterator
from functools import lru_cache

import gmpy2
from gmpy2 import mpz

from lianxin.crypto.randomness import Drbg

MINIMUM_PRIME_BITS = 32
_ROUNDS = 40


def draw_safe_prime(bits: int, drbg: Drbg) -> int:
    """Return a safe prime of exactly `bits` bits with its top two bits set, a function of `drbg` alone.

    Raises ValueError for fewer than 32 bits, where the sieve's primes would reach the candidates.
    """
    if bits < MINIMUM_PRIME_BITS:
        raise ValueError(f"a safe prime needs at least {MINIMUM_PRIME_BITS} bits here, asked for {bits}")
    while True:
        start = mpz((3 << (bits - 3)) | drbg.bits(bits - 3) | 1)
        for half in _survivors(start, window=bits * bits // 4, limit=_sieve_limit(bits)):
            if is_safe_half(half) and (2 * half + 1).bit_length() == bits:
                return int(2 * half + 1)


def is_safe_half(half: mpz) -> bool:
    """Return whether `half` and 2·`half` + 1 are both prime."""
    prime = 2 * half + 1
    if gmpy2.powmod(2, half - 1, half) != 1 or gmpy2.powmod(2, prime - 1, prime) != 1:
        return False
    return gmpy2.is_prime(half, _ROUNDS)


def _sieve_limit(bits: int) -> int:
    return min(1 << 20, bits * bits)


def _survivors(start: mpz, window: int, limit: int) -> Iterator[mpz]:
    """Yield start + 2k, k < window, that no odd prime under `limit` rules out."""
    struck = bytearray(window)
    for prime in small_odd_primes(limit):
        half_inverse = (prime + 1) // 2
        offset = int(start % prime)
        for residue in (0, (prime - 1) // 2):
            first = (residue - offset) * half_inverse % prime
            if first < window:
                struck[first::prime] = b"\x01" * ((window - first - 1) // prime + 1)
    position = struck.find(0)
    while position >= 0:
        yield start + 2 * position
        position = struck.find(0, position + 1)


@lru_cache(maxsize=4)
def small_odd_primes(limit: int) -> tuple[int, ...]:
    """Return the odd primes under `limit`, ascending (Eratosthenes)."""
    composite = bytearray(limit)
    for number in range(3, int(gmpy2.isqrt(limit)) + 1, 2):
        if not composite[number]:
            composite[number * number :: 2 * number] = b"\x01" * ((limit - number * number - 1) // (2 * number) + 1)
    return tuple(number for number in range(3, limit, 2) if not composite[number])
