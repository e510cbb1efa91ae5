"""Products of powers modulo n²: Π base_i^{exponent_i}, which encrypts Σ exponent_i·m_i.

For many terms the bucket method (Pippenger, FOCS 1976; Bernstein et al., ePrint 2012/549): per window of c exponent
bits, multiply each base into the bucket of its digit, join the buckets with running products Π_d bucket_d^d, and
square c times between windows. c is chosen by counting.
"""

from collections.abc import Sequence
from concurrent.futures import Executor

import gmpy2
from gmpy2 import mpz, powmod

from lianxin.crypto.blocks import cut_blocks, run_blocks
from lianxin.crypto.paillier import PublicKey

_BLOCK = 8192
_LARGEST_WINDOW = 16


def multi_exponentiate(
    public: PublicKey, bases: Sequence[int], exponents: Sequence[int], executor: Executor | None = None
) -> int:
    """Return Π bases[i]^exponents[i] mod n². Raises ValueError for unequal lengths or a negative exponent."""
    if len(bases) != len(exponents):
        raise ValueError(f"{len(bases)} bases for {len(exponents)} exponents")
    if any(exponent < 0 for exponent in exponents):
        raise ValueError("exponents are not negative here; combine_bins takes signed weights")
    size = _BLOCK if executor else max(1, len(bases))
    blocks = zip(cut_blocks(bases, size), cut_blocks(exponents, size), strict=True)
    plain = (([int(base) for base in b], [int(exponent) for exponent in e]) for b, e in blocks)
    product = mpz(1)
    for part in run_blocks(_bucket_block, (int(public.n),), plain, executor):
        product = product * part % public.n_squared
    return int(product)


def combine_bins(public: PublicKey, bins: Sequence[int], weights: Sequence[int]) -> int:
    """Return Π bins[b]^weights[b] mod n² for signed weights, with one inversion for all negative ones.

    Raises ValueError for unequal lengths.
    """
    modulus = public.n_squared
    above, below = mpz(1), mpz(1)
    for cell, weight in zip(bins, weights, strict=True):
        power = powmod(cell, abs(int(weight)), modulus)
        if weight < 0:
            below = below * power % modulus
        else:
            above = above * power % modulus
    return int(above * gmpy2.invert(below, modulus) % modulus)


def window_bits(terms: int, exponent_bits: int) -> int:
    """Return the window that takes the fewest multiplications for that many terms."""

    def cost(window: int) -> int:
        return -(-exponent_bits // window) * (terms + (2 << window) + window)

    return min(range(1, _LARGEST_WINDOW + 1), key=cost)


def _bucket_block(n: int, bases: Sequence[int], exponents: Sequence[int]) -> int:
    modulus, elements = mpz(n) ** 2, [mpz(base) for base in bases]
    length = max((exponent.bit_length() for exponent in exponents), default=0)
    window = window_bits(len(elements), length)
    result = mpz(1)
    for position in reversed(range(0, length, window)):
        result = powmod(result, 1 << window, modulus)
        digits = [(exponent >> position) & ((1 << window) - 1) for exponent in exponents]
        result = result * _window_product(elements, digits, window, modulus) % modulus
    return int(result)


def _window_product(elements: Sequence[mpz], digits: Sequence[int], window: int, modulus: mpz) -> mpz:
    buckets = [mpz(1)] * (1 << window)
    for element, digit in zip(elements, digits, strict=True):
        buckets[digit] = buckets[digit] * element % modulus
    running, product = mpz(1), mpz(1)
    for bucket in reversed(buckets[1:]):
        running = running * bucket % modulus
        product = product * running % modulus
    return product
