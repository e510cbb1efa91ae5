"""Products of powers modulo n²: Π base_i^{exponent_i}, which encrypts Σ exponent_i·m_i.

For many terms the bucket method (Pippenger, FOCS 1976; Bernstein et al., ePrint 2012/549): per window of c exponent
bits, multiply each base into the bucket of its digit, join the buckets with running products Π_d bucket_d^d, and
square c times between windows. c is chosen by counting.

Terms are worked on in blocks of equal size; each block pays for its own buckets, so that blocks are as large as memory
and workers allow. Bases travel to a worker as one string of fixed-length bytes.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import Executor

import gmpy2
from gmpy2 import mpz, powmod

from lianxin.crypto.blocks import HEAVY_IN_FLIGHT, Residues, cut_evenly, decode_residues, encode_residues, run_blocks
from lianxin.crypto.paillier import PublicKey

WORKER_TERMS = 16384
_INLINE_TERMS = 32768
_LARGEST_WINDOW = 16


def multi_exponentiate(
    public: PublicKey,
    bases: Sequence[int] | bytes,
    exponents: Sequence[int],
    executor: Executor | None = None,
    block_terms: int = WORKER_TERMS,
    in_flight: int = HEAVY_IN_FLIGHT,
) -> int:
    """Return Π bases[i]^exponents[i] mod n². Raises ValueError for unequal lengths, a negative exponent or a bad base.

    `bases` are integers in [0, n²) or the bytes of `paillier.encode_ciphertexts`, which save a worker's block its
    encoding. An executor gets blocks of at most `block_terms`, at most `in_flight` at once (by default two for each
    processor of this machine).
    """
    elements = Residues(bases, int(public.n_squared))
    if len(elements) != len(exponents):
        raise ValueError(f"{len(elements)} bases for {len(exponents)} exponents")
    if len(exponents) and min(exponents) < 0:
        raise ValueError("exponents are not negative here; combine_bins takes signed weights")
    size = block_terms if executor else _INLINE_TERMS
    blocks = _blocks(elements, exponents, size, executor is not None)
    product = mpz(1)
    for part in run_blocks(_power_block, (int(public.n),), blocks, executor, in_flight):
        product = product * mpz.from_bytes(part, "big") % public.n_squared
    return int(product)


def _blocks(elements: Residues, exponents: Sequence[int], size: int, encoded: bool) -> Iterator[tuple]:
    for block in cut_evenly(len(elements), size):
        yield elements.take(block, encoded), [int(exponent) for exponent in exponents[block]]


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


def _power_block(n: int, bases: Sequence[int] | bytes, exponents: Sequence[int]) -> bytes:
    modulus = mpz(n) ** 2
    width = (modulus.bit_length() + 7) // 8
    return encode_residues([_product_of_powers(decode_residues(bases, width), exponents, modulus)], width)


def _product_of_powers(elements: Sequence[mpz], exponents: Sequence[int], modulus: mpz) -> mpz:
    length = max((exponent.bit_length() for exponent in exponents), default=0)
    window = window_bits(len(elements), length)
    result = mpz(1)
    for position in reversed(range(0, length, window)):
        result = powmod(result, 1 << window, modulus)
        digits = [(exponent >> position) & ((1 << window) - 1) for exponent in exponents]
        result = result * _window_product(elements, digits, window, modulus) % modulus
    return result


def _window_product(elements: Sequence[mpz], digits: Sequence[int], window: int, modulus: mpz) -> mpz:
    buckets = [mpz(1)] * (1 << window)
    for element, digit in zip(elements, digits, strict=True):
        buckets[digit] = buckets[digit] * element % modulus
    running, product = mpz(1), mpz(1)
    for bucket in reversed(buckets[1:]):
        running = running * bucket % modulus
        product = product * running % modulus
    return product
