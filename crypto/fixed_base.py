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

import gmpy2
from gmpy2 import mpz, powmod

from lianxin.crypto.errors import KeyRejected
from lianxin.crypto.randomness import Drbg

WINDOW_BITS = 8
WIDE_BASES = 4
BIT_BASES = 128
CACHED_KEYS = 8


class FixedBase:
    """Powers of one base from window-8 tables: a multiplication for each byte of the exponent."""

    def __init__(self, base: int, modulus: int, exponent_bits: int) -> None:
        self._modulus = mpz(modulus)
        self._rows: list[list[mpz]] = []
        power = mpz(base) % self._modulus
        for _ in range(-(-exponent_bits // WINDOW_BITS)):
            row = [mpz(1)]
            for _ in range((1 << WINDOW_BITS) - 1):
                row.append(row[-1] * power % self._modulus)
            self._rows.append(row)
            power = row[-1] * power % self._modulus

    def power(self, exponent: int) -> mpz:
        """Return base^exponent mod modulus; every byte costs one multiplication, zero bytes too.

        Raises OverflowError for an exponent that is negative or longer than the tables.
        """
        product, modulus = mpz(1), self._modulus
        for row, digit in zip(self._rows, int(exponent).to_bytes(len(self._rows), "little"), strict=True):
            product = product * row[digit] % modulus
        return product


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

    def __init__(self, p: int, q: int, exponent_bits: int | None = None) -> None:
        n = mpz(p) * q
        orders = (int(p) - 1, int(q) - 1)
        self._p_bound, self._q_bound = orders if exponent_bits is None else (1 << exponent_bits,) * 2
        self._p_squared, self._q_squared = mpz(p) ** 2, mpz(q) ** 2
        self._p_power = FixedBase(owner_base(p, n), self._p_squared, (self._p_bound - 1).bit_length())
        self._q_power = FixedBase(owner_base(q, n), self._q_squared, (self._q_bound - 1).bit_length())
        self._p_to_q = gmpy2.invert(self._p_squared, self._q_squared)
        self._n_squared = n * n

    def draw(self, drbg: Drbg) -> mpz:
        """Return an n-th residue mod n², uniform for full exponents."""
        at_p = self._p_power.power(drbg.below(self._p_bound))
        at_q = self._q_power.power(drbg.below(self._q_bound))
        return at_p + self._p_squared * ((at_q - at_p) * self._p_to_q % self._q_squared)

    def encrypt(self, message: int, n: int, drbg: Drbg) -> mpz:
        """Return (1 + message·n)·(fresh n-th residue) mod n², for a message in [0, n)."""
        return (1 + mpz(message) * n) * self.draw(drbg) % self._n_squared


def owner_base(prime: int, n: int) -> mpz:
    """Return γ = x^n mod prime², of order exactly prime - 1, for the smallest generator x of Z_prime*.

    Raises KeyRejected unless `prime` is a safe prime, for which x is a generator when x² ≠ 1 and x^{(prime-1)/2} = -1.
    """
    half = (mpz(prime) - 1) // 2
    if not gmpy2.is_prime(half, 40):
        raise KeyRejected("the owner's fast encryption needs safe primes; use the textbook encryption with this key")
    x = mpz(2)
    while x * x % prime == 1 or powmod(x, half, prime) != prime - 1:
        x += 1
    return powmod(x, n, mpz(prime) ** 2)


class EvaluatorResidues:
    """An evaluator's n-th residues under somebody else's n: 132 secret ones from `seed`, then table look-ups."""

    def __init__(self, n: int, seed: bytes) -> None:
        drbg, self._modulus = Drbg(seed), mpz(n) ** 2
        self._exponent_bits = -(-int(n).bit_length() // WIDE_BASES)
        residues = [draw_textbook_residue(n, drbg) for _ in range(WIDE_BASES + BIT_BASES)]
        self._wide = [FixedBase(base, self._modulus, self._exponent_bits) for base in residues[:WIDE_BASES]]
        self._bits = SubsetProducts(residues[WIDE_BASES:], self._modulus)

    def draw(self, drbg: Drbg) -> mpz:
        """Return an n-th residue mod n², within 2^-64 of uniform."""
        result = self._bits.product(drbg.bytes(BIT_BASES // 8))
        for base in self._wide:
            result = result * base.power(drbg.bits(self._exponent_bits)) % self._modulus
        return result


def draw_textbook_residue(n: int, drbg: Drbg) -> mpz:
    """Return r^n mod n² for a uniform unit r mod n."""
    while True:
        r = drbg.between(1, int(n))
        if gmpy2.gcd(r, n) == 1:
            return powmod(r, n, mpz(n) ** 2)


@lru_cache(maxsize=CACHED_KEYS)
def owner_residues(p: int, q: int, exponent_bits: int | None = None) -> OwnerResidues:
    """Return this process's tables for the owner's key (16 MB at 2048 bits), built at the first call."""
    return OwnerResidues(p, q, exponent_bits)


@lru_cache(maxsize=CACHED_KEYS)
def evaluator_residues(n: int, seed: bytes) -> EvaluatorResidues:
    """Return this process's tables for an evaluator's bases (36 MB at 2048 bits), built at the first call."""
    return EvaluatorResidues(n, seed)
