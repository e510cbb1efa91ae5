"""Attack 7: a bank queries with a plaintext near the modulus and reads the OPRF key from how often the answer wrapped.

The answer to Enc(X) decrypts to V = a(X + k) + bq - wn, so that β = V mod q = a(x + k) - w·ρ with x = X mod q and
ρ = n mod q. An honest query for x gives F = (x + k)^-1·g, and A - β·F = w·ρ·F: baby and giant steps find a small w.
With X = n·2^(24 - |a|), w has 24 bits and is what a leads with: a = w·n/X + e. From a = (β + ρ·w)·(x + k)^-1 mod q,
thirteen queries make a hidden number problem with one unknown, which lattice reduction solves as long as e is shorter
than q. That holds when a is drawn below q, and not when it is 448 bits wider.
"""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import rbcl
from gmpy2 import f_div_2exp, mpz

from lianxin.crypto import group, paillier, psi_paillier
from lianxin.crypto.randomness import Drbg

Q = group.ORDER
LEAK_BITS = 24
QUERIES = 13
NARROW_BITS, WIDE_BITS = 252, 700
OPRF_KEY = psi_paillier.draw_oprf_key(Drbg(b"\x05" * 32))
Evaluator = Callable[[int], tuple[int, bytes]]


@dataclass(frozen=True)
class Stolen:
    """What the attack brought: leading bits of a for so many queries, and the OPRF key or None."""

    wraps_found: int
    oprf_key: int | None


@pytest.fixture(scope="module")
def secret_key() -> paillier.SecretKey:
    return paillier.generate_secret_key(1024, "bank-a", "matching", "run-1", Drbg(b"\x02" * 32))


def narrow_evaluator(public: paillier.PublicKey) -> Evaluator:
    """Step 2 as it would be with a drawn below q; everything else as in the protocol."""
    drbg = Drbg(b"\x03" * 32)

    def evaluate(ciphertext: int) -> tuple[int, bytes]:
        a, b = drbg.between(1, Q), drbg.below(public.n // Q)
        randomiser = paillier.textbook_randomiser(public, drbg)
        return psi_paillier._evaluate_with(public.n, OPRF_KEY, ciphertext, a, b, randomiser)

    return evaluate


def our_evaluator(public: paillier.PublicKey) -> Evaluator:
    drbg = Drbg(b"\x04" * 32)
    return lambda query: psi_paillier.evaluate_queries(public, OPRF_KEY, [query], bytes(32), drbg)[0]


def attack(secret_key: paillier.SecretKey, evaluate: Evaluator, exponent_bits: int) -> Stolen:
    n, drbg = secret_key.public.n, Drbg(b"\x06" * 32)
    encryptor, decryptor = paillier.OwnerEncryptor(secret_key), paillier.Decryptor(secret_key)

    def ask(plaintext: int) -> tuple[int, bytes]:
        answer, element = evaluate(encryptor.encrypt(plaintext, drbg))
        return decryptor.decrypt(answer, drbg) % Q, element

    x = drbg.below(Q)
    alpha, element = ask(x)
    honest = group.multiply(pow(alpha, -1, Q), element)
    oversized = n >> (exponent_bits - LEAK_BITS)
    oversized += x - oversized % Q
    find_wraps = _small_logarithm(group.multiply(n % Q, honest))
    multiples, leading = [], []
    for _ in range(QUERIES):
        beta, element = ask(oversized)
        wraps = find_wraps(rbcl.crypto_core_ristretto255_sub(element, group.multiply(beta, honest)))
        if wraps is not None:
            multiples.append((beta + n % Q * wraps) % Q)
            leading.append(wraps * n // oversized)
    candidates = _hidden_number(multiples, leading, 1 << (exponent_bits + 1 - LEAK_BITS)) if multiples else []
    keys = [(pow(u, -1, Q) - x) % Q for u in candidates]
    # The attacker knows that a key is right by the element that an honest query gave.
    right = [key for key in keys if (x + key) % Q and group.base_multiply(pow(x + key, -1, Q)) == honest]
    return Stolen(len(multiples), right[0] if right else None)


def _small_logarithm(base: bytes) -> Callable[[bytes], int | None]:
    """Return a function that finds w < 2^(LEAK_BITS + 1) with w·base = element, or None."""
    steps = 1 << (LEAK_BITS // 2 + 1)
    table, element = {bytes(32): 0}, bytes(32)
    for index in range(1, steps):
        element = rbcl.crypto_core_ristretto255_add(element, base)
        table[element] = index
    giant = group.multiply(steps, base)

    def find(element: bytes) -> int | None:
        for count in range(steps // 2):
            if element in table:
                return count * steps + table[element]
            element = rbcl.crypto_core_ristretto255_sub(element, giant)
        return None

    return find


def _hidden_number(multiples: list[int], leading: list[int], error: int) -> list[int]:
    """Return candidates for u with multiples[i]·u = leading[i] + e_i mod q and |e_i| < error, for all i."""
    size = len(multiples)
    basis = [[mpz(Q * Q if row == column else 0) for column in range(size + 2)] for row in range(size)]
    basis.append([mpz(one * Q) for one in multiples] + [mpz(error), mpz(0)])
    basis.append([mpz(one * Q) for one in leading] + [mpz(0), mpz(error * Q)])
    _reduce_lattice(basis)
    found = {int(row[size]) // error % Q for row in basis}
    return [one for u in found for one in (u, Q - u) if u]


def _reduce_lattice(basis: list[list[mpz]]) -> None:
    """Reduce `basis` in place by the integral form of Lenstra, Lenstra and Lovász (Cohen 1993, algorithm 2.6.7)."""
    size = len(basis)
    inner = [[mpz(0)] * size for _ in range(size)]
    volume = [mpz(1)] + [mpz(0)] * size
    for row in range(size):
        for column in range(row + 1):
            value = sum((a * b for a, b in zip(basis[row], basis[column], strict=True)), mpz(0))
            for index in range(column):
                value = (volume[index + 1] * value - inner[row][index] * inner[column][index]) // volume[index]
            inner[row][column] = value
        volume[row + 1] = inner[row][row]
    row = 1
    while row < size:
        _shorten(basis, inner, volume, row, row - 1)
        step = inner[row][row - 1]
        if 4 * (volume[row + 1] * volume[row - 1] + step * step) < 3 * volume[row] * volume[row]:
            _exchange(basis, inner, volume, row)
            row = max(1, row - 1)
            continue
        for column in range(row - 2, -1, -1):
            _shorten(basis, inner, volume, row, column)
        row += 1


def _shorten(basis: list[list[mpz]], inner: list[list[mpz]], volume: list[mpz], row: int, column: int) -> None:
    factor = f_div_2exp(2 * inner[row][column] // volume[column + 1] + 1, 1)
    if factor:
        basis[row] = [a - factor * b for a, b in zip(basis[row], basis[column], strict=True)]
        inner[row][column] -= factor * volume[column + 1]
        for index in range(column):
            inner[row][index] -= factor * inner[column][index]


def _exchange(basis: list[list[mpz]], inner: list[list[mpz]], volume: list[mpz], row: int) -> None:
    basis[row], basis[row - 1] = basis[row - 1], basis[row]
    for index in range(row - 1):
        inner[row][index], inner[row - 1][index] = inner[row - 1][index], inner[row][index]
    step = inner[row][row - 1]
    middle = (volume[row - 1] * volume[row + 1] + step * step) // volume[row]
    for other in range(row + 1, len(basis)):
        value = inner[other][row]
        inner[other][row] = (volume[row + 1] * inner[other][row - 1] - step * value) // volume[row]
        inner[other][row - 1] = (middle * value + step * inner[other][row]) // volume[row + 1]
    volume[row] = middle


def test_with_exponents_below_the_order_the_bank_takes_the_oprf_key(secret_key: paillier.SecretKey) -> None:
    stolen = attack(secret_key, narrow_evaluator(secret_key.public), NARROW_BITS)
    assert stolen == Stolen(QUERIES, OPRF_KEY)


def test_against_our_exponents_the_same_plaintext_shows_no_wrap_count(secret_key: paillier.SecretKey) -> None:
    assert attack(secret_key, our_evaluator(secret_key.public), NARROW_BITS) == Stolen(0, None)


def test_against_our_exponents_a_fitted_plaintext_shows_wraps_and_still_no_key(secret_key: paillier.SecretKey) -> None:
    assert attack(secret_key, our_evaluator(secret_key.public), WIDE_BITS) == Stolen(QUERIES, None)
