"""The proof of a Paillier-Blum modulus: it verifies, and every altered proof is refused for its own reason."""

from collections.abc import Callable

import gmpy2
import pytest
from torture import repeats

from lianxin.crypto import paillier
from lianxin.crypto.errors import KeyRejected, ProofRejected
from lianxin.crypto.modulus_proof import (
    ROUNDS,
    Answer,
    ModulusProof,
    check_form,
    check_public_key,
    decode_proof,
    draw_challenges,
    encode_proof,
    prove_modulus,
    verify_modulus,
)
from lianxin.crypto.randomness import Drbg

SESSION = b"bank-a to platform, run-1"


def seeded(name: str) -> Drbg:
    return Drbg(bytes(32)).child("test_modulus_proof", name)


KEY = paillier.generate_secret_key(256, "bank-a", "P4", "run-1", seeded("key"))
N = KEY.public.n
ENCODED = prove_modulus(KEY, SESSION, seeded("proof"))
PROOF = decode_proof(N, ENCODED)
P, Q = KEY.reveal_primes()


def a_number_with_jacobi(symbol: int) -> int:
    return next(number for number in range(2, 1000) if gmpy2.jacobi(number, N) == symbol)


def with_w(w: int) -> bytes:
    return encode_proof(N, PROOF._replace(w=w))


def with_last(change: Callable[[Answer], Answer]) -> bytes:
    return encode_proof(N, PROOF._replace(answers=(*PROOF.answers[:-1], change(PROOF.answers[-1]))))


def test_a_2048_bit_key_with_its_proof_is_admitted() -> None:
    secret_key = paillier.generate_secret_key(2048, "bank-a", "P4", "run-1", seeded("2048"))
    proof = prove_modulus(secret_key, SESSION, seeded("2048 proof"))
    check_public_key(secret_key.public, proof, SESSION, 2048)
    assert len(proof) == 256 + ROUNDS * (2 * 256 + 1)
    with pytest.raises(ProofRejected, match="round 0"):
        check_public_key(secret_key.public, proof, SESSION + b"'", 2048)
    with pytest.raises(KeyRejected, match="announces 3072"):
        check_public_key(secret_key.public, proof, SESSION, 3072)


def test_every_honest_small_key_proves_itself() -> None:
    for index in repeats("honest keys proved, 80 rounds each", 13):
        drbg = seeded(f"honest {index}")
        secret_key = paillier.generate_secret_key(128, "bank-a", "P4", "run-1", drbg)
        verify_modulus(secret_key.public.n, prove_modulus(secret_key, SESSION, drbg), SESSION)


def test_all_four_pairs_of_bits_occur_and_decode_to_what_was_encoded() -> None:
    assert {(answer.a, answer.b) for answer in PROOF.answers} == {(0, 0), (0, 1), (1, 0), (1, 1)}
    assert encode_proof(N, PROOF) == ENCODED


def test_challenges_depend_on_the_session_the_modulus_and_w() -> None:
    challenges = draw_challenges(N, PROOF.w, SESSION)
    assert len(set(challenges)) == ROUNDS and all(0 <= y < N for y in challenges)
    for other in (
        draw_challenges(N, PROOF.w, b""),
        draw_challenges(N, 3, SESSION),
        draw_challenges(N - 2, PROOF.w, SESSION),
    ):
        assert not set(other) & set(challenges)


BAD_PROOFS = {
    "w = 0": (lambda: with_w(0), "outside"),
    "w = n": (lambda: with_w(N), "outside"),
    "w is a multiple of p": (lambda: with_w(2 * P), "shares a factor"),
    "w has Jacobi symbol 1": (lambda: with_w(a_number_with_jacobi(1)), "no Jacobi symbol"),
    "another w": (lambda: with_w(a_number_with_jacobi(-1)), "fourth root of round 0"),
    "another x": (
        lambda: with_last(lambda last: last._replace(x=last.x % (N - 1) + 1)),
        f"fourth root of round {ROUNDS - 1}",
    ),
    "another z": (
        lambda: with_last(lambda last: last._replace(z=last.z % (N - 1) + 1)),
        f"n-th root of round {ROUNDS - 1}",
    ),
    "the other a": (lambda: with_last(lambda last: last._replace(a=1 - last.a)), f"fourth root of round {ROUNDS - 1}"),
    "the other b": (lambda: with_last(lambda last: last._replace(b=1 - last.b)), f"fourth root of round {ROUNDS - 1}"),
    "x = 0": (lambda: with_last(lambda last: last._replace(x=0)), "outside"),
    "x + n": (lambda: with_last(lambda last: last._replace(x=last.x + N if last.x + N < 1 << 256 else N)), "outside"),
    "z = 0": (lambda: with_last(lambda last: last._replace(z=0)), "outside"),
    "a byte of 4 for the bits": (lambda: ENCODED[:-1] + b"\x04", "from 0 to 3"),
    "a byte too many": (lambda: ENCODED + b"\x00", "bytes"),
    "a byte too few": (lambda: ENCODED[:-1], "bytes"),
    "nothing": (lambda: b"", "bytes"),
    "one round fewer": (lambda: encode_proof(N, PROOF._replace(answers=PROOF.answers[1:])), "bytes"),
}


@pytest.mark.parametrize("name", BAD_PROOFS)
def test_an_altered_proof_is_refused_for_its_reason(name: str) -> None:
    make, reason = BAD_PROOFS[name]
    verify_modulus(N, ENCODED, SESSION)
    with pytest.raises(ProofRejected, match=reason):
        verify_modulus(N, make(), SESSION)


def test_a_proof_replayed_under_another_session_or_key_is_refused() -> None:
    other = paillier.generate_secret_key(256, "bank-a", "P4", "run-1", seeded("other"))
    with pytest.raises(ProofRejected, match="session differs"):
        verify_modulus(N, ENCODED, b"bank-a to platform, run-2")
    with pytest.raises(ProofRejected):
        verify_modulus(other.public.n, ENCODED, SESSION)


@pytest.mark.parametrize("n", [-15, 0, 1, 2, 2 * N, P])
def test_no_proof_is_considered_for_a_modulus_that_is_not_odd_and_composite(n: int) -> None:
    with pytest.raises(ProofRejected, match="not odd and composite"):
        verify_modulus(n, ENCODED, SESSION)


def test_a_prover_without_a_blum_modulus_is_told_so() -> None:
    secret_key = paillier.secret_key_from_primes(293, 433, "vector", "P4", "run-1")
    with pytest.raises(KeyRejected, match="Blum"):
        prove_modulus(secret_key, SESSION, seeded("not Blum"))


def test_a_small_key_never_passes_admission() -> None:
    with pytest.raises(KeyRejected, match="start at 2048"):
        check_form(N, 256)
    with pytest.raises(KeyRejected, match="has 256 bits"):
        check_form(N, 2048)


def test_a_proof_with_every_x_a_copy_of_another_round_is_refused() -> None:
    shifted = tuple(
        answer._replace(x=other.x)
        for answer, other in zip(PROOF.answers, PROOF.answers[1:] + PROOF.answers[:1], strict=True)
    )
    with pytest.raises(ProofRejected, match="fourth root of round 0"):
        verify_modulus(N, encode_proof(N, ModulusProof(PROOF.w, shifted)), SESSION)
