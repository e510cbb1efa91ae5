"""Uniform n-th residues modulo n², drawn fast from tables: what makes a Paillier encryption fresh.

- **Key owner.** γ_p = x_p^n mod p² has order exactly p-1 for a generator x_p of Z_p*; γ_p^{s_p} with s_p uniform in
  [0, p-1) is a uniform n-th residue mod p², independently so mod q², and the Chinese remainder theorem joins them.
  That is the textbook distribution of r^n, whichever generators are taken. One common exponent is not.
- **Evaluator**, who cannot factor n: 132 secret uniform n-th residues h_1..h_4, u_1..u_128; a draw is
  Π h_j^{s_j} · Π u_i^{b_i} with s_j uniform of ⌈|n|/4⌉ bits and b_i bits, within 2^-64 of uniform for any n with
  gcd(n, φ(n)) = 1 (leftover hash over the u_i). A single base is broken by an owner whose p-1 and q-1 share a smooth
  factor; the attack is a test.

Everything here is a function of integers and a `Drbg`, which is what worker processes rebuild their tables from.
"""

from collections.abc import Sequence
from functools import lru_cache
from operator import itemgetter

import gmpy2
from gmpy2 import mpz, powmod

from lianxin.crypto.blocks import decode_residues
from lianxin.crypto.errors import KeyRejected
from lianxin.crypto.randomness import Drbg

WINDOW_BITS = 8
LARGE_WINDOW_BITS = 11  # six times the tables, a quarter fewer multiplications
LARGE_WINDOW_DRAWS = 50_000
LARGEST_WINDOW_BITS = 13  # of short exponents alone: another sixth fewer
LARGEST_WINDOW_DRAWS = 150_000
WIDE_BASES = 4
BIT_BASES = 128
CACHED_KEYS = 8


class FixedBase:
    """Powers of one base from tables of all digits of `window_bits`: a multiplication for each digit of the exponent."""

    def __init__(self, base: int, modulus: int, exponent_bits: int, window_bits: int = WINDOW_BITS) -> None:
        self._modulus, self._window_bits = mpz(modulus), window_bits
        self._rows: list[list[mpz]] = []
        power = mpz(base) % self._modulus
        for _ in range(-(-exponent_bits // window_bits)):
            row = [mpz(1)]
            for _ in range((1 << window_bits) - 1):
                row.append(row[-1] * power % self._modulus)
            self._rows.append(row)
            power = row[-1] * power % self._modulus

    def power(self, exponent: int) -> mpz:
        """Return base^exponent mod modulus; every digit costs one multiplication, zero digits too.

        Raises OverflowError for an exponent that is negative or longer than the tables.
        """
        product, modulus, bits, rest = mpz(1), self._modulus, self._window_bits, int(exponent)
        if rest < 0 or rest >> (bits * len(self._rows)):
            raise OverflowError("an exponent is negative, or longer than the tables of its base")
        mask = (1 << bits) - 1
        for row in self._rows:
            product = product * row[rest & mask] % modulus
            rest >>= bits
        return product

    def powers(self, exponents: Sequence[int]) -> list[mpz]:
        """Return `power` of each exponent, with the same multiplications. Raises OverflowError as it does.

        One digit of all exponents comes after the other, so that a row of the tables is read while it is at hand.
        """
        products, modulus = [mpz(1)] * len(exponents), self._modulus
        for row, digits in zip(self._rows, self._digits(exponents), strict=True):
            products = [
                product * entry % modulus for product, entry in zip(products, _picked(row, digits), strict=True)
            ]
        return products

    def _digits(self, exponents: Sequence[int]) -> list[list[int]]:
        """Return, digit by digit from the lowest, that digit of each exponent."""
        import numpy as np  # who only holds a key never comes here, and does without its memory

        width, count = self._window_bits, len(self._rows)
        if any(exponent < 0 or exponent >> (width * count) for exponent in exponents):
            raise OverflowError("an exponent is negative, or longer than the tables of its base")
        size = -(-width * count // 8)
        data = b"".join(int(exponent).to_bytes(size, "little") for exponent in exponents)
        bits = np.unpackbits(np.frombuffer(data, dtype=np.uint8).reshape(-1, size), axis=1, bitorder="little")
        digits = bits[:, : width * count].reshape(-1, count, width).astype(np.int32) @ (1 << np.arange(width))
        return digits.T.tolist()


def _picked(row: list[mpz], digits: Sequence[int]) -> Sequence[mpz]:
    """Return `row[d]` for each digit, fetched together."""
    return itemgetter(*digits)(row) if len(digits) > 1 else [row[digit] for digit in digits]


class SubsetProducts:
    """Products of chosen elements, eight elements a table of all their subsets."""

    def __init__(self, elements: Sequence[mpz], modulus: int) -> None:
        self._modulus = mpz(modulus)
        self._rows = [
            self._subsets(elements[start : start + WINDOW_BITS]) for start in range(0, len(elements), WINDOW_BITS)
        ]

    def _subsets(self, elements: Sequence[mpz]) -> list[mpz]:
        row = [mpz(1)]
        for element in elements:
            row += [product * element % self._modulus for product in row]
        return row

    def product(self, choice: bytes) -> mpz:
        """Return the product of the elements whose bits are set in `choice` (one byte for eight elements)."""
        result, modulus = mpz(1), self._modulus
        for row, digit in zip(self._rows, choice, strict=True):
            result = result * row[digit] % modulus
        return result


class OwnerResidues:
    """The owner's n-th residues, from p and q. Raises KeyRejected unless both are safe primes.

    With `exponent_bits` the two exponents are that short: residues are then uniform only under the assumption that
    short powers of γ cannot be told from full ones (the profile `short_exponents`).
    """

    def __init__(self, p: int, q: int, exponent_bits: int | None = None, window_bits: int = WINDOW_BITS) -> None:
        n = mpz(p) * q
        orders = (int(p) - 1, int(q) - 1)
        self._p_bound, self._q_bound = orders if exponent_bits is None else (1 << exponent_bits,) * 2
        self._p_squared, self._q_squared = mpz(p) ** 2, mpz(q) ** 2
        lengths = ((self._p_bound - 1).bit_length(), (self._q_bound - 1).bit_length())
        self._p_power = FixedBase(owner_base(p, n), self._p_squared, lengths[0], window_bits)
        self._q_power = FixedBase(owner_base(q, n), self._q_squared, lengths[1], window_bits)
        self._p_to_q = gmpy2.invert(self._p_squared, self._q_squared)
        self._n_squared = n * n

    def draw(self, drbg: Drbg) -> mpz:
        """Return an n-th residue mod n², uniform for full exponents."""
        at_p = self._p_power.power(drbg.below(self._p_bound))
        at_q = self._q_power.power(drbg.below(self._q_bound))
        return self._joined(at_p, at_q)

    def draw_many(self, count: int, drbg: Drbg) -> list[mpz]:
        """Return what so many calls of `draw` would."""
        exponents = [(drbg.below(self._p_bound), drbg.below(self._q_bound)) for _ in range(count)]
        at_p = self._p_power.powers([s_p for s_p, _ in exponents])
        at_q = self._q_power.powers([s_q for _, s_q in exponents])
        return [self._joined(p, q) for p, q in zip(at_p, at_q, strict=True)]

    def _joined(self, at_p: mpz, at_q: mpz) -> mpz:
        return at_p + self._p_squared * ((at_q - at_p) * self._p_to_q % self._q_squared)

    def encrypt(self, message: int, n: int, drbg: Drbg) -> mpz:
        """Return (1 + message·n)·(fresh n-th residue) mod n², for a message in [0, n)."""
        return (1 + mpz(message) * n) * self.draw(drbg) % self._n_squared

    def encrypt_many(self, messages: Sequence[int], n: int, drbg: Drbg) -> list[mpz]:
        """Return what `encrypt` would of each message in turn."""
        residues, modulus = self.draw_many(len(messages), drbg), self._n_squared
        return [(1 + mpz(message) * n) * residue % modulus for message, residue in zip(messages, residues, strict=True)]


def owner_window_bits(expected_draws: int, exponent_bits: int | None = None) -> int:
    """Return the window of an owner's tables: a larger one where so many draws pay it back, the largest for short
    exponents (`exponent_bits`), whose tables have half as many rows."""
    if exponent_bits is not None and expected_draws >= LARGEST_WINDOW_DRAWS:
        return LARGEST_WINDOW_BITS
    return LARGE_WINDOW_BITS if expected_draws >= LARGE_WINDOW_DRAWS else WINDOW_BITS


def check_safe(*primes: int) -> None:
    """Raise KeyRejected unless each of these primes is safe: (prime - 1)/2 is prime too."""
    if not all(gmpy2.is_prime((mpz(prime) - 1) // 2, 40) for prime in primes):
        raise KeyRejected("the owner's fast encryption needs safe primes; use the textbook encryption with this key")


def owner_base(prime: int, n: int) -> mpz:
    """Return γ = x^n mod prime², of order exactly prime - 1, for the smallest generator x of Z_prime*.

    Raises KeyRejected unless `prime` is a safe prime, for which x is a generator when x² ≠ 1 and x^{(prime-1)/2} = -1.
    """
    check_safe(prime)
    half, x = (mpz(prime) - 1) // 2, mpz(2)
    while x * x % prime == 1 or powmod(x, half, prime) != prime - 1:
        x += 1
    return powmod(x, n, mpz(prime) ** 2)


class EvaluatorResidues:
    """An evaluator's n-th residues under somebody else's n: 132 secret ones from `seed`, then table look-ups.

    `residues` are those 132 where somebody has made them already.
    """

    def __init__(self, n: int, seed: bytes, residues: Sequence[mpz] | None = None) -> None:
        self._modulus = mpz(n) ** 2
        self._exponent_bits = -(-int(n).bit_length() // WIDE_BASES)
        residues = residues or residues_of(n, evaluator_units(n, seed))
        self._wide = [FixedBase(base, self._modulus, self._exponent_bits) for base in residues[:WIDE_BASES]]
        self._bits = SubsetProducts(residues[WIDE_BASES:], self._modulus)

    def draw(self, drbg: Drbg) -> mpz:
        """Return an n-th residue mod n², within 2^-64 of uniform."""
        result = self._bits.product(drbg.bytes(BIT_BASES // 8))
        for base in self._wide:
            result = result * base.power(drbg.bits(self._exponent_bits)) % self._modulus
        return result


def evaluator_units(n: int, seed: bytes) -> list[int]:
    """Return the units r whose powers r^n are an evaluator's secret residues."""
    drbg = Drbg(seed)
    return [_draw_unit(n, drbg) for _ in range(WIDE_BASES + BIT_BASES)]


def residues_of(n: int, units: Sequence[int]) -> list[mpz]:
    """Return r^n mod n² for each unit r."""
    return [powmod(r, n, mpz(n) ** 2) for r in units]


def draw_textbook_residue(n: int, drbg: Drbg) -> mpz:
    """Return r^n mod n² for a uniform unit r mod n."""
    return powmod(_draw_unit(n, drbg), n, mpz(n) ** 2)


def _draw_unit(n: int, drbg: Drbg) -> int:
    while True:
        r = drbg.between(1, int(n))
        if gmpy2.gcd(r, n) == 1:
            return r


@lru_cache(maxsize=CACHED_KEYS)
def owner_residues(p: int, q: int, exponent_bits: int | None = None, window_bits: int = WINDOW_BITS) -> OwnerResidues:
    """Return this process's tables for the owner's key, built at the first call: at 2048 bits 20 MB, with the large
    window 115 MB, for short exponents 50 MB and with the largest window 180 MB. The draws are the same with any window."""
    return OwnerResidues(p, q, exponent_bits, window_bits)


@lru_cache(maxsize=CACHED_KEYS)
def evaluator_residues(n: int, seed: bytes, residues: bytes = b"") -> EvaluatorResidues:
    """Return this process's tables for an evaluator's bases (36 MB at 2048 bits), built at the first call, from the
    encoded `residues` where they come with it."""
    width = ((mpz(n) ** 2).bit_length() + 7) // 8
    return EvaluatorResidues(n, seed, decode_residues(residues, width))
