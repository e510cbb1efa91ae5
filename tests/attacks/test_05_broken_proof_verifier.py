"""Row 5: a verifier of Π^mod that leaves a check of w out admits a modulus that anybody can factor.

The proof's equations are x^4 = (-1)^a·w^b·y and z^n = y. Who may choose w = 0 answers the first with x = 0, whatever n is
made of; who may choose w with a factor of n answers it modulo one prime alone and puts 0 at the others. z exists as soon
as gcd(n, φ(n)) = 1. Three libraries had left out (w|n) = -1 or gcd(w, n) = 1. And a verifier whose challenges do not
depend on the session takes a proof that somebody else made, for another run.
"""

from collections.abc import Sequence
from math import prod
from typing import Any

import gmpy2
import pytest
from gmpy2 import powmod

from lianxin.crypto import modulus_proof, paillier
from lianxin.crypto.errors import ProofRejected
from lianxin.crypto.modulus_proof import (
    Answer,
    ModulusProof,
    check_form,
    check_public_key,
    draw_challenges,
    encode_proof,
    prove_modulus,
    verify_modulus,
)
from lianxin.crypto.randomness import Drbg

BITS, SESSION = 2048, b"bank-a to platform, run-1"


def seeded(name: str) -> Drbg:
    return Drbg(bytes(32)).child("test_05_broken_proof_verifier", name)


def many_small_primes() -> list[int]:
    """Return 64 distinct primes of 32 bits, 3 modulo 4: a modulus of 2048 bits that is factored in minutes."""
    primes: list[int] = []
    candidate = (1 << 32) - 10_000
    while len(primes) < 64:
        candidate = int(gmpy2.next_prime(candidate))
        if candidate % 4 == 3:
            primes.append(candidate)
    return primes


FACTORS = many_small_primes()
N = prod(FACTORS)


def join(residues: Sequence[int]) -> int:
    """Return the number modulo N with these residues modulo the factors."""
    parts = [r * (N // p) * gmpy2.invert(N // p, p) for r, p in zip(residues, FACTORS, strict=True)]
    return int(sum(parts) % N)


def nth_root(y: int) -> int:
    return join([int(powmod(y, gmpy2.invert(N, p - 1), p)) for p in FACTORS])


def with_w_zero() -> ModulusProof:
    """Return the answers for w = 0: x = 0 and b = 1 in every round."""
    return ModulusProof(0, tuple(Answer(0, nth_root(y), 0, 1) for y in draw_challenges(N, 0, SESSION)))


def with_w_a_multiple_of_all_primes_but_one() -> ModulusProof:
    """Return the answers for a w that is 0 modulo all primes but the last, where -1 makes every number a square."""
    last = FACTORS[-1]
    w = join([0] * 63 + [2])
    answers = []
    for y in draw_challenges(N, w, SESSION):
        a = 0 if gmpy2.legendre(2 * y, last) == 1 else 1
        square = (-1) ** a * 2 * y % last
        x = join([0] * 63 + [int(powmod(square, gmpy2.invert(4, (last - 1) // 2), last))])
        answers.append(Answer(x, nth_root(y), a, 1))
    return ModulusProof(w, tuple(answers))


def equations_hold(n: int, proof: ModulusProof, session: bytes = SESSION) -> bool:
    """The weak verifier: the two equations of each round and nothing about w."""
    return all(
        powmod(x, 4, n) == (-1) ** a * proof.w**b * y % n and powmod(z, n, n) == y
        for y, (x, z, a, b) in zip(draw_challenges(n, proof.w, session), proof.answers, strict=True)
    )


FORGED = {
    "w = 0": (with_w_zero, r"outside \(0, n\)"),
    "w shares 63 of 64 primes": (with_w_a_multiple_of_all_primes_but_one, "w shares a factor"),
}


def test_the_crafted_modulus_has_the_form_of_a_good_one() -> None:
    check_form(N, BITS)
    assert gmpy2.gcd(N, prod(p - 1 for p in FACTORS)) == 1


@pytest.mark.parametrize("name", FORGED)
def test_a_proof_with_a_bad_w_passes_a_verifier_of_the_equations_alone_and_not_ours(name: str) -> None:
    make, reason = FORGED[name]
    forged = make()
    assert equations_hold(N, forged)
    with pytest.raises(ProofRejected, match=reason):
        verify_modulus(N, encode_proof(N, forged), SESSION)
    with pytest.raises(ProofRejected, match=reason):
        check_public_key(paillier.PublicKey(N, "bank-a", "P4", "run-1"), encode_proof(N, forged), SESSION, BITS)


class Unchecking:
    """gmpy2 as a verifier sees it that has left out the named checks."""

    def __init__(self, w: int, *left_out: str) -> None:
        self._w, self._left_out = w, left_out

    def __getattr__(self, name: str) -> Any:
        sound = getattr(gmpy2, name)
        verdict = {"gcd": 1, "jacobi": -1}.get(name)
        if name not in self._left_out:
            return sound
        return lambda number, n: verdict if number == self._w else sound(number, n)


@pytest.mark.parametrize("left_out", [(), ("gcd",), ("jacobi",), ("gcd", "jacobi")])
def test_our_verifier_itself_admits_the_modulus_only_with_both_checks_of_w_taken_out(
    left_out: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    forged = with_w_a_multiple_of_all_primes_but_one()
    monkeypatch.setattr(modulus_proof, "gmpy2", Unchecking(forged.w, *left_out))
    if len(left_out) == 2:
        verify_modulus(N, encode_proof(N, forged), SESSION)
        return
    with pytest.raises(ProofRejected, match=r"w shares a factor|Jacobi"):
        verify_modulus(N, encode_proof(N, forged), SESSION)


HONEST = paillier.generate_secret_key(512, "bank-a", "P4", "run-1", seeded("honest"))
PROOF = prove_modulus(HONEST, SESSION, seeded("proof"))


def test_without_the_range_check_zero_and_the_modulus_would_be_taken_for_w(monkeypatch: pytest.MonkeyPatch) -> None:
    forged = with_w_zero()
    monkeypatch.setattr(modulus_proof, "_decode_number", lambda data, _n: int.from_bytes(data, "big"))
    with pytest.raises(ProofRejected, match="w shares a factor"):
        verify_modulus(N, encode_proof(N, forged), SESSION)
    monkeypatch.setattr(modulus_proof, "gmpy2", Unchecking(0, "gcd", "jacobi"))
    verify_modulus(N, encode_proof(N, forged), SESSION)


@pytest.mark.parametrize("w", ["n", "-1", "with Jacobi +1", "a square"])
def test_every_other_bad_w_is_refused_for_an_honest_modulus_too(w: str) -> None:
    n, drbg = HONEST.public.n, seeded(w)
    number = {
        "n": n,
        "-1": n - 1,
        "with Jacobi +1": next(k for k in range(2, 1000) if gmpy2.jacobi(k, n) == 1 and not gmpy2.is_square(k)),
        "a square": drbg.below(n) ** 2 % n,
    }[w]
    data = encode_proof(n, modulus_proof.decode_proof(n, PROOF)._replace(w=number))
    with pytest.raises(ProofRejected, match="outside" if w == "n" else "Jacobi"):
        verify_modulus(n, data, SESSION)


def answered_rounds(w: int) -> int:
    """Return in how many rounds the owner of an honest modulus finds a fourth root for this w."""
    p, q = HONEST.reveal_primes()
    n = p * q
    return sum(
        any(
            gmpy2.legendre(square, p) == gmpy2.legendre(square, q) == 1
            for square in ((-1) ** a * w**b * y % n for a in (0, 1) for b in (0, 1))
        )
        for y in draw_challenges(n, w, SESSION)
    )


def test_with_a_jacobi_symbol_of_one_even_an_honest_owner_answers_only_half_of_the_rounds() -> None:
    n = HONEST.public.n
    plus = next(k for k in range(2, 1000) if gmpy2.jacobi(k, n) == 1 and not gmpy2.is_square(k))
    minus = next(k for k in range(2, 1000) if gmpy2.jacobi(k, n) == -1)
    assert answered_rounds(minus) == modulus_proof.ROUNDS
    assert 20 <= answered_rounds(plus) <= 60


@pytest.mark.parametrize("session", [b"bank-a to platform, run-2", b"bank-b to platform, run-1", b""])
def test_a_proof_replayed_under_another_session_passes_only_where_challenges_ignore_the_session(
    session: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    n = HONEST.public.n
    verify_modulus(n, PROOF, SESSION)
    with pytest.raises(ProofRejected, match="round 0"):
        verify_modulus(n, PROOF, session)
    sound = draw_challenges
    monkeypatch.setattr(modulus_proof, "draw_challenges", lambda n, w, _session: sound(n, w, b""))
    replayed = prove_modulus(HONEST, SESSION, seeded("unbound"))
    verify_modulus(n, replayed, session)


def test_a_proof_for_one_modulus_is_none_for_another_whose_owner_copies_it() -> None:
    other = paillier.generate_secret_key(512, "bank-a", "P4", "run-1", seeded("other"))
    with pytest.raises(ProofRejected):
        verify_modulus(other.public.n, PROOF, SESSION)


def test_the_weak_verifier_takes_an_honest_proof_too() -> None:
    assert equations_hold(HONEST.public.n, modulus_proof.decode_proof(HONEST.public.n, PROOF))
