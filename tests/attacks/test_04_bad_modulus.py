"""Row 4: a key owner sends a modulus under which ciphertexts are no longer encryptions of what their makers meant.

Every crafted modulus comes with the best proof that its maker can forge, knowing all factors, and is refused by name.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from math import prod
from typing import Any

import gmpy2
import pytest
from conversations import bank_keys, contract_of, play, right
from gmpy2 import mpz, powmod

from lianxin.crypto import modulus_proof, paillier
from lianxin.crypto.errors import KeyRejected, ProofRejected
from lianxin.crypto.fixed_base import draw_textbook_residue
from lianxin.crypto.modulus_proof import (
    Answer,
    ModulusProof,
    check_form,
    check_public_key,
    draw_challenges,
    encode_proof,
    prove_modulus,
)
from lianxin.crypto.randomness import Drbg
from lianxin.federation import binning, scorecard, wire
from lianxin.federation.session import Receive, Send

BITS, SESSION = 2048, b"bank-a to platform, run-1"
SMOOTH_PARTS = [int(prime) for prime in range(1009, 1200) if gmpy2.is_prime(prime)]
SMOOTH = prod(SMOOTH_PARTS)


def seeded(name: str) -> Drbg:
    return Drbg(bytes(32)).child("test_04_bad_modulus", name)


@cache
def a_prime(bits: int, residue: int, modulus: int, name: str) -> int:
    """Return a prime of exactly `bits` bits with its top two bits set that is `residue` modulo `modulus`."""
    drbg = seeded(name)
    while True:
        start = (3 << (bits - 2)) | drbg.bits(bits - 2)
        for candidate in range(start - start % modulus + residue, start + 400 * modulus, modulus):
            if gmpy2.is_prime(candidate) and candidate.bit_length() == bits:
                return candidate


def blum(bits: int, name: str) -> int:
    return a_prime(bits, 3, 4, name)


def a_prime_one_above_a_multiple(divisor: int, bits: int, name: str) -> int:
    """Return a prime q = 2k·divisor + 1 that is 3 modulo 4."""
    return a_prime(bits, (2 * divisor + 1) % (4 * divisor), 4 * divisor, name)


def trim(factors: Sequence[int], bits: int, residue: int = 1) -> list[int]:
    """Return the factors and one more prime that makes the product `bits` bits long and `residue` modulo 4."""
    product = prod(factors)
    last = gmpy2.next_prime((5 << (bits - 3)) // product)
    while product * last % 4 != residue:
        last = gmpy2.next_prime(last)
    return [*factors, int(last)]


def forge(factors: Sequence[int], drbg: Drbg) -> bytes:
    """Return the proof of a maker who knows the prime factors: right wherever a right answer exists, else 1."""
    n = prod(factors)
    w = next(w for w in iter(lambda: drbg.between(1, n), None) if gmpy2.jacobi(w, n) == -1)
    answers = []
    for y in draw_challenges(n, w, SESSION):
        options = ((fourth_root((-1) ** a * w**b * y % n, factors), a, b) for a in (0, 1) for b in (0, 1))
        x, a, b = next((option for option in options if option[0]), (1, 0, 0))
        answers.append(Answer(x, nth_root(y, factors) or 1, a, b))
    return encode_proof(n, ModulusProof(w, tuple(answers)))


def fourth_root(square: int, factors: Sequence[int]) -> int:
    """Return a fourth root modulo distinct primes that are not 1 modulo 8, or 0 where there is none."""
    roots = []
    for prime in factors:
        order = (prime - 1) // gmpy2.gcd(4, prime - 1)
        if powmod(square, order, prime) != 1:
            return 0
        roots.append(powmod(square, gmpy2.invert(4, order), prime))
    return join(roots, factors)


def nth_root(y: int, factors: Sequence[int]) -> int:
    """Return an n-th root, or 0 where n has no inverse modulo the order."""
    n, roots = prod(factors), []
    for prime in factors:
        if gmpy2.gcd(n, prime - 1) != 1:
            return 0
        roots.append(powmod(y, gmpy2.invert(n, prime - 1), prime))
    return join(roots, factors)


def join(roots: Sequence[int], factors: Sequence[int]) -> int:
    n = prod(factors)
    return int(
        sum(root * (n // prime) * gmpy2.invert(n // prime, prime) for root, prime in zip(roots, factors, strict=True))
        % n
    )


def sixteen_small_factors() -> list[int]:
    return trim([a_prime(16, 1, 2, f"small {index}") for index in range(16)], BITS)


def three_primes() -> list[int]:
    return [a_prime(683, 3, 4, "three 1"), blum(683, "three 2"), a_prime(682, 5, 8, "three 3")]


def order_shared_with_n() -> list[int]:
    p = blum(682, "shared p")
    return [p, a_prime_one_above_a_multiple(p, 1366, "shared q")]


FORM = {
    "even": (lambda: trim([2], BITS, residue=2), "even"),
    "prime": (lambda: [a_prime(BITS, 1, 4, "prime")], "is prime"),
    "square, p = q": (lambda: [blum(1024, "square")] * 2, "perfect power"),
    "cube": (lambda: [int(gmpy2.next_prime(mpz(11) << 679))] * 3, "perfect power"),
    "sixteen factors of 16 bits": (sixteen_small_factors, "factor under 2"),
    "the largest factor under 2^20": (lambda: trim([1_048_573], BITS), "factor under 2"),
    "too short": (lambda: [blum(1020, "short p"), blum(1020, "short q")], "has 2040 bits"),
    "too long": (lambda: [blum(1025, "long p"), blum(1025, "long q")], "has 2050 bits"),
    "one prime 1 modulo 4": (lambda: [blum(1024, "mixed p"), a_prime(1024, 5, 8, "mixed q")], "3 modulo 4"),
}
PROOF = {
    "both primes 1 modulo 4": (lambda: [a_prime(1024, 5, 8, "ones p"), a_prime(1024, 5, 8, "ones q")], "fourth root"),
    "three primes": (three_primes, "fourth root"),
    "gcd(n, phi) > 1": (order_shared_with_n, "n-th root"),
}
Maker = Callable[[], list[int]]


@pytest.mark.parametrize("name", FORM)
def test_a_crafted_modulus_is_refused_by_its_form_before_any_proof(name: str) -> None:
    make, reason = FORM[name]
    n = prod(make())
    with pytest.raises(KeyRejected, match=reason):
        check_public_key(paillier.PublicKey(n, "bank-a", "P4", "run-1"), b"", SESSION, BITS)


@pytest.mark.parametrize("name", PROOF)
def test_a_modulus_of_good_form_is_refused_by_the_best_forged_proof(name: str) -> None:
    make, reason = PROOF[name]
    factors = make()
    check_form(prod(factors), BITS)
    public = paillier.PublicKey(prod(factors), "bank-a", "P4", "run-1")
    with pytest.raises(ProofRejected, match=reason):
        check_public_key(public, forge(factors, seeded(name)), SESSION, BITS)


def a_platform_with(n: int, proof: bytes) -> Iterator[Any]:
    """Return a platform's machine that answers the exchange of training keys with this modulus."""
    yield Receive("binning.keys", (wire.TrainingKey,))
    modulus = n.to_bytes(-(-n.bit_length() // 8), "big")
    yield Send(wire.TrainingKey(modulus=modulus, modulus_proof=proof), "binning.keys")


@pytest.mark.parametrize("name", [*FORM, *PROOF])
def test_a_bank_stores_a_refused_key_only_once_the_check_is_taken_out(
    name: str, bank_key: paillier.SecretKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    factors, contract = {**FORM, **PROOF}[name][0](), contract_of()
    n, keys = prod(factors), bank_keys(bank_key)
    work = binning.Work(contract, scorecard.plan_layouts(contract), "bank-1", seeded(name), (right("bank-1", "x"),))
    monkeypatch.setattr(binning, "announce_key", lambda *_: (b"\x01", b""))
    proof = bytes(256 + modulus_proof.ROUNDS * 513)
    with pytest.raises((KeyRejected, ProofRejected)):
        play(binning.bank_keys_role(work, keys), a_platform_with(n, proof))
    assert keys.platform is None
    monkeypatch.setattr(modulus_proof, "check_public_key", lambda *_, **__: None)
    play(binning.bank_keys_role(work, keys), a_platform_with(n, proof))
    assert keys.platform is not None and keys.platform.n == n


@pytest.mark.parametrize("n", [-1, 0, 1])
def test_a_degenerate_modulus_is_refused(n: int) -> None:
    with pytest.raises(KeyRejected, match="bits"):
        check_form(n, BITS)


def test_a_short_modulus_is_refused_even_when_the_contract_announces_it() -> None:
    with pytest.raises(KeyRejected, match="start at 2048"):
        check_form(blum(512, "floor p") * blum(512, "floor q"), 1024)


def test_the_same_forger_convinces_the_verifier_for_honest_factors() -> None:
    factors = [blum(1024, "honest p"), blum(1024, "honest q")]
    public = paillier.PublicKey(prod(factors), "bank-a", "P4", "run-1")
    check_public_key(public, forge(factors, seeded("honest")), SESSION, BITS)


def test_the_crafted_moduli_are_the_twelve_of_the_review_and_each_is_another_number() -> None:
    moduli = {prod(make()) for make, _ in (*FORM.values(), *PROOF.values())}
    assert len(moduli) == 12


def test_a_single_round_would_admit_three_primes_half_the_time() -> None:
    factors = three_primes()
    n, w = prod(factors), a_prime(64, 1, 2, "w")
    answered = [
        any(fourth_root((-1) ** a * w**b * y % n, factors) for a in (0, 1) for b in (0, 1))
        for y in draw_challenges(n, w, SESSION)
    ]
    assert 20 <= sum(answered) <= 60


def test_without_the_check_an_owner_reads_the_evaluators_factor_through_a_perfect_rerandomisation() -> None:
    """p divides q - 1, so no r^n has a component of order p modulo q; that of c^a comes through and gives a mod p."""
    p, drbg = 10_007, seeded("through")
    q = a_prime_one_above_a_multiple(p, 256, "through q")
    n, power = p * q, (q - 1) // p
    c, secret = 2 + drbg.below(n - 2), drbg.bits(200)
    answer = powmod(c, secret, n * n) * draw_textbook_residue(n, drbg) % (n * n)
    logs = {int(powmod(c, power * exponent, q)): exponent for exponent in range(p)}
    assert len(logs) == p and logs[int(powmod(answer, power, q))] == secret % p
    factors = trim([p, a_prime_one_above_a_multiple(p, 1024, "through large q")], BITS)
    with pytest.raises(KeyRejected, match="factor under 2"):
        check_form(prod(factors), BITS)


def smooth_key(bits: int, name: str) -> paillier.SecretKey:
    p, q = (a_prime_one_above_a_multiple(SMOOTH, bits // 2, f"{name} {side}") for side in "pq")
    return paillier.secret_key_from_primes(p, q, "bank-a", "P4", "run-1")


def test_primes_that_share_a_smooth_factor_below_them_pass_admission() -> None:
    secret_key = smooth_key(BITS, "smooth")
    proof = prove_modulus(secret_key, SESSION, seeded("smooth proof"))
    check_public_key(secret_key.public, proof, SESSION, BITS)


@pytest.fixture(scope="module")
def attacker() -> "SmoothOwner":
    return SmoothOwner(smooth_key(768, "attack"))


class SmoothOwner:
    """A key owner with p = q = 1 mod R, R smooth, who takes logarithms of randomness in each small subgroup."""

    def __init__(self, secret_key: paillier.SecretKey) -> None:
        self.public, self._primes = secret_key.public, secret_key.reveal_primes()
        self._logs = {(part, prime): self._table(part, prime) for part in SMOOTH_PARTS for prime in self._primes}

    @staticmethod
    def _table(part: int, prime: int) -> dict[int, int]:
        power = (prime - 1) // part
        generator = next(g for g in (powmod(x, power, prime) for x in range(2, 1000)) if g != 1)
        return {int(powmod(generator, exponent, prime)): exponent for exponent in range(part)}

    def _components(self, c: int, part: int) -> list[int]:
        return [self._logs[part, prime][int(powmod(c, (prime - 1) // part, prime))] for prime in self._primes]

    def exponent_mod(self, part: int, sent: int, answer: int, other_randomiser: int) -> int | None:
        """Return a mod part if `answer` = sent^a·h^s and `other_randomiser` = h^t for one base h, None if open."""
        (c_p, c_q), (v_p, v_q), (h_p, h_q) = (self._components(c, part) for c in (sent, answer, other_randomiser))
        determinant = (c_p * h_q - c_q * h_p) % part
        return (v_p * h_q - v_q * h_p) * pow(determinant, -1, part) % part if determinant else None


def read_exponent(owner: SmoothOwner, draw: Callable[[], int], drbg: Drbg) -> tuple[int, int]:
    """Return in how many subgroups the owner reads the evaluator's exponent, and how many there are to read."""
    modulus = int(owner.public.n_squared)
    sent = paillier.encrypt_with(owner.public, 12345, drbg.between(1, owner.public.n))
    secret = drbg.bits(250)
    answer = int(powmod(sent, secret, modulus) * draw() % modulus)
    other = draw()
    read = {part: owner.exponent_mod(part, sent, answer, other) for part in SMOOTH_PARTS}
    return sum(value == secret % part for part, value in read.items()), sum(
        value is not None for value in read.values()
    )


def test_an_owner_with_smooth_orders_reads_the_exponent_through_a_single_base(attacker: SmoothOwner) -> None:
    drbg, n = seeded("single base"), attacker.public.n
    base = draw_textbook_residue(n, drbg)
    right, readable = read_exponent(attacker, lambda: int(powmod(base, drbg.bits(n.bit_length() + 80), n * n)), drbg)
    assert right == readable >= len(SMOOTH_PARTS) - 2


@pytest.mark.parametrize("draws", [1, 1000])
def test_an_owner_with_smooth_orders_reads_nothing_through_our_randomisers(attacker: SmoothOwner, draws: int) -> None:
    drbg = seeded(f"ours {draws}")
    source = paillier.randomiser_for(attacker.public, drbg.bytes(32), draws)
    right, readable = read_exponent(attacker, lambda: source.draw(drbg), drbg)
    assert readable >= len(SMOOTH_PARTS) - 2 and right <= 1
