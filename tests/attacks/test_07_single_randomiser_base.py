"""Attack 7: a bank crafts a modulus and reads the OPRF key through a randomiser that spans one direction only.

The bank takes primes with p = q = 1 mod R for a smooth R, longer than the evaluator's exponents. They pass the proof of
a Paillier-Blum modulus: both are 3 mod 4 and gcd(n, φ(n)) = 1. Modulo n an answer is c^a·(randomiser), and for each
prime l that divides R the bank computes logarithms in the subgroups of order l modulo p and modulo q, which is a vector
out = a·in + s·h mod l. If every randomiser is a power of one base, then the direction of h is read from the answer to a
query whose own vector is zero, a mod l follows from two equations in two unknowns, and α = a(x + k) mod q gives k.
A randomiser over the whole group of n-th residues leaves every vector uniform.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import gmpy2
import pytest
from gmpy2 import mpz, powmod

from lianxin.crypto import group, paillier, psi_paillier
from lianxin.crypto.randomness import Drbg

Q = group.ORDER
SMOOTH_BITS = psi_paillier.EXPONENT_BOUND.bit_length() + 40
PRIME_BITS = 800
OPRF_KEY = psi_paillier.draw_oprf_key(Drbg(b"\x05" * 32))
Evaluator = Callable[[list[int]], list[tuple[int, bytes]]]
Vector = tuple[int, int]


@dataclass(frozen=True)
class CraftedKey:
    """The bank's crafted key, the prime factors of R, and tables of logarithms in the subgroups of those orders."""

    secret_key: paillier.SecretKey
    small_primes: tuple[int, ...]
    logarithms: dict[tuple[int, int], dict[int, int]]

    def vector(self, ciphertext: int, small: int) -> Vector:
        p, q = self.secret_key.reveal_primes()
        at_p, at_q = (int(powmod(ciphertext % prime, (prime - 1) // small, prime)) for prime in (p, q))
        return self.logarithms[small, p][at_p], self.logarithms[small, q][at_q]

    def vectors(self, ciphertexts: list[int]) -> list[tuple[int, list[Vector]]]:
        return [(small, [self.vector(one, small) for one in ciphertexts]) for small in self.small_primes]


@pytest.fixture(scope="module")
def crafted() -> CraftedKey:
    small_primes, candidate, drbg = [], 300, Drbg(b"\x02" * 32)
    while prod(small_primes).bit_length() < SMOOTH_BITS:
        candidate = int(gmpy2.next_prime(candidate))
        small_primes.append(candidate)
    p, q = (_crafted_prime(prod(small_primes), drbg) for _ in range(2))
    secret_key = paillier.secret_key_from_primes(p, q, "bank-a", "matching", "run-1")
    tables = {(small, prime): _subgroup_logarithms(small, prime) for small in small_primes for prime in (p, q)}
    return CraftedKey(secret_key, tuple(small_primes), tables)


def _crafted_prime(smooth: int, drbg: Drbg) -> int:
    while True:
        prime = 2 * smooth * drbg.bits(PRIME_BITS - smooth.bit_length()) + 1
        if prime % 4 == 3 and prime.bit_length() >= PRIME_BITS and gmpy2.is_prime(prime):
            return prime


def _subgroup_logarithms(small: int, prime: int) -> dict[int, int]:
    powers = (powmod(x, (prime - 1) // small, prime) for x in range(2, prime))
    base, table, element = next(power for power in powers if power != 1), {}, mpz(1)
    for exponent in range(small):
        table[int(element)] = exponent
        element = element * base % prime
    return table


def single_base_evaluator(public: paillier.PublicKey) -> Evaluator:
    """Step 2 as it would be with powers of one secret n-th residue; the exponents a are as wide as ours."""
    drbg = Drbg(b"\x03" * 32)
    base = paillier.textbook_randomiser(public, drbg)

    def answer(ciphertext: int) -> tuple[int, bytes]:
        a, b = psi_paillier._draw_exponent(drbg), drbg.below(public.n // Q)
        randomiser = int(powmod(base, drbg.bits(public.bits + 80), public.n_squared))
        return psi_paillier._evaluate_with(public.n, OPRF_KEY, ciphertext, a, b, randomiser)

    return lambda queries: [answer(one) for one in queries]


def our_evaluator(public: paillier.PublicKey, batch_size: int) -> Evaluator:
    """Step 2 as we answer it, in a batch of at least that many queries, whose number chooses the randomiser."""
    filler = [paillier.encrypt_with(public, 1, 2)] * batch_size

    def answer(queries: list[int]) -> list[tuple[int, bytes]]:
        batch = queries + filler[len(queries) :]
        return psi_paillier.evaluate_queries(public, OPRF_KEY, batch, b"\x06" * 32, Drbg(b"\x04" * 32))[: len(queries)]

    return answer


def _query(crafted: CraftedKey, plaintext: int, drbg: Drbg) -> int:
    public = crafted.secret_key.public
    return paillier.encrypt_with(public, plaintext, drbg.between(2, public.n))


def _empty_query(crafted: CraftedKey, drbg: Drbg) -> int:
    """Return an encryption of 0 whose vector is zero for every l: its randomiser is an R-th power."""
    public = crafted.secret_key.public
    power = powmod(drbg.between(2, public.n), prod(crafted.small_primes), public.n)
    return paillier.encrypt_with(public, 0, int(power))


def _cross(left: Vector, right: Vector) -> int:
    return left[0] * right[1] - left[1] * right[0]


def attack(crafted: CraftedKey, evaluate: Evaluator) -> int | None:
    """Return the OPRF key that the bank reads from one ordinary query and an empty one, or None."""
    drbg = Drbg(b"\x07" * 32)
    x = drbg.below(Q)
    ordinary = _query(crafted, x, drbg)
    (answer, element), (direction, _) = evaluate([ordinary, _empty_query(crafted, drbg)])
    a, modulus = mpz(0), mpz(1)
    for small, (into, out, h) in crafted.vectors([ordinary, answer, direction]):
        if _cross(into, h) % small == 0:
            continue
        residue = _cross(out, h) * pow(_cross(into, h), -1, small)
        a += modulus * ((residue - a) * gmpy2.invert(modulus, small) % small)
        modulus *= small
    assert modulus > psi_paillier.EXPONENT_BOUND
    if a % Q == 0 or group.base_multiply(int(a)) != element:
        return None
    alpha = paillier.Decryptor(crafted.secret_key).decrypt(answer, drbg)
    return (alpha * pow(int(a), -1, Q) - x) % Q


def count_parallel_randomisers(crafted: CraftedKey, evaluate: Evaluator) -> int:
    """Return for how many l the randomisers of two answers lie on one line."""
    drbg = Drbg(b"\x08" * 32)
    answers = evaluate([_empty_query(crafted, drbg) for _ in range(2)])
    pairs = crafted.vectors([answer for answer, _ in answers])
    return sum(_cross(*vectors) % small == 0 for small, vectors in pairs)


def test_the_crafted_modulus_keeps_the_promises_that_are_proved_of_it(crafted: CraftedKey) -> None:
    p, q = crafted.secret_key.reveal_primes()
    assert p % 4 == q % 4 == 3
    assert gmpy2.gcd(p * q, (p - 1) * (q - 1)) == 1


def test_through_a_single_base_the_bank_takes_the_oprf_key(crafted: CraftedKey) -> None:
    evaluate = single_base_evaluator(crafted.secret_key.public)
    assert count_parallel_randomisers(crafted, evaluate) == len(crafted.small_primes)
    assert attack(crafted, evaluate) == OPRF_KEY


@pytest.mark.parametrize("batch_size", [2, paillier.TEXTBOOK_DRAWS], ids=["textbook", "tables"])
def test_through_our_randomisers_the_bank_takes_nothing(crafted: CraftedKey, batch_size: int) -> None:
    evaluate = our_evaluator(crafted.secret_key.public, batch_size)
    # By chance a pair is parallel once in l, 0.2 of the primes in all.
    assert count_parallel_randomisers(crafted, evaluate) <= 4
    assert attack(crafted, evaluate) is None
