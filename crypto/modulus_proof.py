"""A received modulus is admitted only with a proof that it is a Paillier-Blum modulus.

Π^mod of CGGMP21 (Canetti, Gennaro, Goldfeder, Makriyannis, Peled; ePrint 2021/060, section 6.3), non-interactive by
Fiat and Shamir: n = pq with p = q = 3 mod 4 and gcd(n, φ(n)) = 1, shown to a verifier who learns nothing else.

1. The prover draws w with Jacobi symbol (w|n) = -1.
2. y_1..y_80 = hash(session, n, w) in Z_n.
3. For each y the prover finds the bits a, b that make (-1)^a·w^b·y a square mod n, and sends them with a fourth root x
   of that number and with z = y^{1/n mod φ(n)}.
4. The verifier: n odd and composite; (w|n) = -1, hence gcd(w, n) = 1; z^n = y and x^4 = (-1)^a·w^b·y for every y.

A modulus outside the language passes one round with probability at most 1/2. What the proof gives is that raising to
the n-th power permutes the units, so that every unit mod n² is an encryption. It does not show that the primes are
safe, and no defence rests on that. The session names both parties and the run: under another one a proof is worthless.
"""

import hashlib
from functools import lru_cache
from typing import NamedTuple

import gmpy2
from gmpy2 import mpz, powmod, powmod_sec

from lianxin.crypto.errors import KeyRejected, ProofRejected
from lianxin.crypto.paillier import MINIMUM_BITS, PublicKey, SecretKey
from lianxin.crypto.randomness import Drbg

ROUNDS = 80
TRIAL_LIMIT = 1 << 20
_PRIME_ROUNDS = 25
_SLACK_BYTES = 16


class Answer(NamedTuple):
    """One round: a fourth root x of (-1)^a·w^b·y, the bits a and b, and the n-th root z of y."""

    x: int
    z: int
    a: int
    b: int


class ModulusProof(NamedTuple):
    """w, of Jacobi symbol -1, and the answers to the 80 challenges."""

    w: int
    answers: tuple[Answer, ...]


def prove_modulus(secret_key: SecretKey, session: bytes, drbg: Drbg) -> bytes:
    """Return the encoded proof for this key's n under `session`; `drbg` draws w. KeyRejected if n is not Blum."""
    p, q = (mpz(prime) for prime in secret_key.reveal_primes())
    if p % 4 != 3 or q % 4 != 3:
        raise KeyRejected("only a Blum modulus, both primes 3 modulo 4, can be proved; generate a new key")
    n = p * q
    w = mpz(drbg.between(1, int(n)))
    while gmpy2.jacobi(w, n) != -1:
        w = mpz(drbg.between(1, int(n)))
    answers = tuple(_answer(p, q, w, y) for y in draw_challenges(n, w, session))
    return encode_proof(n, ModulusProof(int(w), answers))


def _answer(p: mpz, q: mpz, w: mpz, y: mpz) -> Answer:
    n = p * q
    for a, b in ((0, 0), (0, 1), (1, 0), (1, 1)):
        square = _target(n, w, y, a, b)
        if gmpy2.legendre(square, p) == 1 and gmpy2.legendre(square, q) == 1:
            break
    x = _join(_fourth_root(square, p), _fourth_root(square, q), p, q)
    z = _join(_nth_root(y, p, n), _nth_root(y, q, n), p, q)
    return Answer(int(x), int(z), a, b)


def _target(n: mpz, w: mpz, y: mpz, a: int, b: int) -> mpz:
    return (-1 if a else 1) * (w if b else 1) * y % n


def _fourth_root(square: mpz, prime: mpz) -> mpz:
    """Return the fourth root that is a square: squares have odd order (prime-1)/2, where 4 has an inverse."""
    order = (prime - 1) // 2
    return powmod_sec(square % prime, gmpy2.invert(4, order), prime)


def _nth_root(y: mpz, prime: mpz, n: mpz) -> mpz:
    return powmod_sec(y % prime, gmpy2.invert(n, prime - 1), prime)


def _join(at_p: mpz, at_q: mpz, p: mpz, q: mpz) -> mpz:
    return at_p + p * ((at_q - at_p) * gmpy2.invert(p, q) % q)


def draw_challenges(n: int, w: int, session: bytes) -> list[mpz]:
    """Return the 80 challenges y in [0, n) that SHAKE-256 gives for this session, n and w."""
    size = _size(n)
    state = hashlib.shake_256(b"lianxin/modulus-proof\x00")
    for part in (session, int(n).to_bytes(size, "big"), int(w).to_bytes(size, "big")):
        state.update(len(part).to_bytes(8, "big") + part)
    wide = size + _SLACK_BYTES
    stream = state.digest(ROUNDS * wide)
    return [mpz(int.from_bytes(stream[i * wide : (i + 1) * wide], "big")) % n for i in range(ROUNDS)]


def verify_modulus(n: int, proof: bytes, session: bytes) -> None:
    """Return if `proof` shows that n is a Paillier-Blum modulus; raise ProofRejected, saying which check failed."""
    if n < 3 or n % 2 == 0 or gmpy2.is_prime(n, _PRIME_ROUNDS):
        raise ProofRejected("the modulus is not odd and composite, so no proof is considered")
    unverified = decode_proof(n, proof)
    if gmpy2.gcd(unverified.w, n) != 1:
        raise ProofRejected("w shares a factor with n")
    if gmpy2.jacobi(unverified.w, n) != -1:
        raise ProofRejected("w has no Jacobi symbol of -1 modulo n")
    challenges = draw_challenges(n, unverified.w, session)
    for index, (y, answer) in enumerate(zip(challenges, unverified.answers, strict=True)):
        _verify_round(mpz(n), mpz(unverified.w), y, answer, index)


def _verify_round(n: mpz, w: mpz, y: mpz, answer: Answer, index: int) -> None:
    if gmpy2.gcd(y, n) != 1:
        raise ProofRejected(f"challenge {index} shares a factor with n")
    if powmod(answer.x, 4, n) != _target(n, w, y, answer.a, answer.b):
        raise ProofRejected(f"the fourth root of round {index} is wrong: n is no Blum modulus or the session differs")
    if powmod(answer.z, n, n) != y:
        raise ProofRejected(f"the n-th root of round {index} is wrong: n and φ(n) may share a factor")


def encode_proof(n: int, proof: ModulusProof) -> bytes:
    """Return w, then x, z and the byte 2a+b of each round, numbers in the fixed length of n."""
    size = _size(n)
    parts = [proof.w.to_bytes(size, "big")]
    for answer in proof.answers:
        parts += [answer.x.to_bytes(size, "big"), answer.z.to_bytes(size, "big"), bytes([2 * answer.a + answer.b])]
    return b"".join(parts)


def decode_proof(n: int, data: bytes) -> ModulusProof:
    """Return the proof that `data` encodes. Raises ProofRejected unless every number is in (0, n) and lengths fit."""
    size = _size(n)
    step = 2 * size + 1
    if len(data) != size + ROUNDS * step:
        raise ProofRejected(f"a proof for this modulus has {size + ROUNDS * step} bytes, got {len(data)}")
    w = _decode_number(data[:size], n)
    answers = (_decode_answer(data[size + i * step : size + (i + 1) * step], n) for i in range(ROUNDS))
    return ModulusProof(w, tuple(answers))


def _decode_answer(data: bytes, n: int) -> Answer:
    size = _size(n)
    if data[-1] > 3:
        raise ProofRejected("the two bits of a round are not encoded as a byte from 0 to 3")
    x, z = _decode_number(data[:size], n), _decode_number(data[size : 2 * size], n)
    return Answer(x, z, data[-1] >> 1, data[-1] & 1)


def _decode_number(data: bytes, n: int) -> int:
    number = int.from_bytes(data, "big")
    if not 0 < number < n:
        raise ProofRejected("a number of the proof is outside (0, n)")
    return number


def _size(n: int) -> int:
    return (int(n).bit_length() + 7) // 8


def check_public_key(public: PublicKey, proof: bytes, session: bytes, bits: int) -> None:
    """Return if the received key may be stored: its form is right, has `bits` bits and the proof holds.

    Raises KeyRejected or ProofRejected, each with its own sentence. The caller binds `public.key_id` to the run.
    """
    check_form(public.n, bits)
    verify_modulus(public.n, proof, session)


def check_form(n: int, bits: int) -> None:
    """Raise KeyRejected unless n has `bits` >= 2048 bits and the form of a Blum modulus that arithmetic can see."""
    if bits < MINIMUM_BITS:
        raise KeyRejected(f"the contract announces {bits} bits; keys start at {MINIMUM_BITS}")
    if n < 1 or int(n).bit_length() != bits:
        raise KeyRejected(f"the modulus has {int(n).bit_length()} bits, the contract announces {bits}")
    if n % 2 == 0:
        raise KeyRejected("the modulus is even")
    if gmpy2.gcd(n, _trial_product()) != 1:
        raise KeyRejected("the modulus has a prime factor under 2^20")
    if gmpy2.is_power(n):
        raise KeyRejected("the modulus is a perfect power")
    if gmpy2.is_prime(n, _PRIME_ROUNDS):
        raise KeyRejected("the modulus is prime")
    if n % 4 != 1:
        raise KeyRejected("the modulus is 3 modulo 4, so its primes are not both 3 modulo 4")


@lru_cache(maxsize=1)
def _trial_product() -> mpz:
    return gmpy2.primorial(TRIAL_LIMIT)
