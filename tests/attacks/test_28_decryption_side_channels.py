"""Row 28: what decryption tells beside the plaintext: its time, its errors, and the wrong result of a hardware fault.

Ours adds a uniform number to the plaintext and multiplies the ciphertext with a fresh encryption of zero before a secret
exponent meets it, raises it with `powmod_sec`, checks c^{p-1} = 1 mod p on either side before L, and has one error for all
that fails. Each is taken out here, and then: the base of the power is what the peer sent; the results of the powers are
few for a small plaintext; times tell a chosen ciphertext from others (dudect: Welch's t of cropped processor times,
|t| >= 4.5); a flipped bit gives p (Boneh, DeMillo and Lipton, "the Bellcore attack"); an error that depends on the
plaintext gives the plaintext. Blinding and fixed pattern stand in for one another: times tell only where both are out.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import gmpy2
import pytest
from gmpy2 import mpz, powmod, powmod_sec
from scipy import stats
from torture import IS_TORTURE, repeats

from lianxin.crypto import modulus_proof, paillier
from lianxin.crypto.errors import DecryptionFault
from lianxin.crypto.randomness import Drbg

DETECTED = 4.5
CONTROL_ATTEMPTS = 5  # how often the attacker of the control measures anew, on a machine that is busy
Decrypt = Callable[[int], int]


def seeded(name: str) -> Drbg:
    return Drbg(bytes(32)).child("test_28_decryption_side_channels", name)


KEY = paillier.generate_secret_key(1024, "bank-a", "P4", "run-1", seeded("key"))
PUBLIC, (P, Q) = KEY.public, map(mpz, KEY.reveal_primes())
N, SQUARES = mpz(PUBLIC.n), (P**2, Q**2)
ENCRYPTOR, DECRYPTOR = paillier.OwnerEncryptor(KEY), paillier.Decryptor(KEY)


@pytest.fixture
def bases(monkeypatch: pytest.MonkeyPatch) -> list[tuple[mpz, mpz, mpz]]:
    """What `powmod_sec` is given from here on: (base, exponent, modulus)."""
    seen: list[tuple[mpz, mpz, mpz]] = []

    def watching(base: mpz, exponent: mpz, modulus: mpz) -> mpz:
        seen.append((base, exponent, modulus))
        return powmod_sec(base, exponent, modulus)

    monkeypatch.setattr(paillier, "powmod_sec", watching)
    return seen


# ---- time


def test_what_meets_a_secret_exponent_is_spread_evenly_whatever_ciphertext_was_sent(
    bases: list[tuple[mpz, mpz, mpz]],
) -> None:
    for c in (2, ENCRYPTOR.encrypt(5, seeded("sent"))):
        bases.clear()
        drbg = seeded(f"spread {c == 2}")
        for _ in range(256):
            DECRYPTOR.decrypt(c, drbg)
        for square in SQUARES:
            parts = [int(base * 16 // square) for base, _, modulus in bases if modulus == square]
            assert stats.chisquare([parts.count(part) for part in range(16)]).pvalue > 0.01
        assert len({base for base, _, _ in bases}) == 512


class Unrandom(Drbg):
    """A generator of zeros, for a decryption that would draw something else to blind with."""

    def below(self, bound: int) -> int:
        return 0


class Shiftless(Drbg):
    """A generator whose numbers below n are 0 and all others drawn: blinds the ciphertext and not the plaintext."""

    def below(self, bound: int) -> int:
        return 0 if bound == PUBLIC.n else super().below(bound)


def test_without_blinding_the_peer_chooses_the_base_of_every_secret_power(
    bases: list[tuple[mpz, mpz, mpz]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paillier._CrtDecryption, "_fresh_zero", lambda *_: mpz(1))
    for _ in range(10):
        DECRYPTOR.decrypt(2, Unrandom(bytes(32)))
    assert {base for base, _, _ in bases} == {2}


def test_secret_exponents_reach_powmod_sec_and_no_other_power(
    bases: list[tuple[mpz, mpz, mpz]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paillier, "powmod", lambda *_: pytest.fail("a leaky power was taken"))
    monkeypatch.setattr(modulus_proof, "powmod", lambda *_: pytest.fail("a leaky power was taken"))
    assert DECRYPTOR.decrypt(ENCRYPTOR.encrypt(7, seeded("secret powers")), seeded("secret powers")) == 7
    assert [(exponent, modulus) for _, exponent, modulus in bases] == [(P - 1, P**2), (Q - 1, Q**2)]
    modulus_proof.prove_modulus(KEY, b"session", seeded("proof"))


def logarithm(power: mpz, prime: mpz) -> mpz:
    return (power - 1) // prime


H_P, H_Q = (gmpy2.invert(logarithm(powmod(1 + N, prime - 1, prime**2), prime), prime) for prime in (P, Q))


def joined(power_p: mpz, power_q: mpz) -> int:
    """Return the plaintext of two powers by Chinese remainders, whatever the powers are."""
    at_p, at_q = logarithm(power_p, P) * H_P % P, logarithm(power_q, Q) * H_Q % Q
    return int(at_p + P * ((at_q - at_p) * gmpy2.invert(P, Q) % Q))


def unchecked(c: int) -> int:
    """The weak decryption: no check of either power."""
    return joined(powmod(c, P - 1, SQUARES[0]), powmod(c, Q - 1, SQUARES[1]))


@contextmanager
def one_processor() -> Iterator[None]:
    """Keep this process on one processor meanwhile, where the system can."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def welch_t(decrypt: Decrypt, fixed: int, samples: range, drbg: Drbg) -> float:
    """Return Welch's t between the times for `fixed` and for random ciphertexts, mixed, the slowest tenth cropped."""
    zero = ENCRYPTOR.encrypt(0, drbg)
    times: tuple[list[int], list[int]] = ([], [])
    with one_processor():
        for _ in samples:
            zero = int(zero * mpz(zero + 1) % PUBLIC.n_squared)
            kind = drbg.bits(1)
            data = (zero if kind else fixed).to_bytes(PUBLIC.ciphertext_bytes, "big")
            c = int.from_bytes(data, "big")
            start = time.thread_time_ns()
            decrypt(c)
            times[kind].append(time.thread_time_ns() - start)
    limit = sorted(times[0] + times[1])[9 * len(samples) // 10]
    kept = ([one for one in sample if one <= limit] for sample in times)
    return float(stats.ttest_ind(*kept, equal_var=False).statistic)


def detections(decrypt: Decrypt, fixed: int, samples: range, name: str) -> Iterator[bool]:
    """Yield, for three measurements, whether each tells the fixed ciphertext from random ones."""
    for k in range(3):
        yield abs(welch_t(decrypt, fixed, samples, seeded(f"{name} {k}"))) >= DETECTED


SENT = {"the number 2": 2, "0": ENCRYPTOR.encrypt(0, seeded("0")), "1": ENCRYPTOR.encrypt(1, seeded("1"))}
SENT["n - 1"] = ENCRYPTOR.encrypt(-1, seeded("n - 1"))
SENT["a masked sum"] = ENCRYPTOR.encrypt(seeded("mask").below(PUBLIC.n), seeded("a masked sum"))


@pytest.mark.parametrize("name", SENT)
def test_times_tell_no_chosen_ciphertext_from_random_ones_under_ours(name: str) -> None:
    drbg, samples = seeded(f"times of {name}"), repeats(f"decryptions timed, of {name} and of random ciphertexts")
    assert not all(detections(lambda c: DECRYPTOR.decrypt(c, drbg), SENT[name], samples, f"ours {name}"))


def test_without_blinding_and_fixed_pattern_times_tell_a_chosen_ciphertext(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paillier._CrtDecryption, "_fresh_zero", lambda *_: mpz(1))
    monkeypatch.setattr(paillier, "powmod_sec", powmod)
    samples, drbg = repeats("decryptions timed, neither blinded nor of fixed pattern"), Unrandom(bytes(32))
    attempts = (f"weak {attempt}" for attempt in range(CONTROL_ATTEMPTS))
    assert any(all(detections(lambda c: DECRYPTOR.decrypt(c, drbg), 2, samples, name)) for name in attempts)


def short_result(self: paillier._CrtDecryption, c: int, drbg: Drbg) -> int:
    """The weak decryption: the ciphertext is blinded and the plaintext is not, so that the join is as short as it is."""
    blinded = mpz(c) * self._fresh_zero(drbg)
    at_p = self._log_at(self._p, blinded) * self._h_p % self._p
    at_q = self._log_at(self._q, blinded) * self._h_q % self._q
    return int(at_p + self._p * ((at_q - at_p) * self._p_to_q % self._q))


@pytest.mark.skipif(not IS_TORTURE, reason="the counts of make torture are needed")
def test_with_the_ciphertext_alone_blinded_times_tell_a_plaintext_of_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paillier._CrtDecryption, "decrypt", short_result)
    samples, drbg = repeats("decryptions timed, of 0 and with a short result"), seeded("short result")
    assert all(detections(lambda c: DECRYPTOR.decrypt(c, drbg), SENT["0"], samples, "short result"))


@pytest.fixture
def powers(monkeypatch: pytest.MonkeyPatch) -> list[tuple[mpz, mpz]]:
    """What `powmod_sec` returns from here on: (power, modulus)."""
    seen: list[tuple[mpz, mpz]] = []

    def watching(base: mpz, exponent: mpz, modulus: mpz) -> mpz:
        seen.append((powmod_sec(base, exponent, modulus), modulus))
        return seen[-1][0]

    monkeypatch.setattr(paillier, "powmod_sec", watching)
    return seen


def test_what_secret_powers_result_in_is_spread_evenly_whatever_was_encrypted(powers: list[tuple[mpz, mpz]]) -> None:
    drbg = seeded("results")
    for _ in range(256):
        assert DECRYPTOR.decrypt(SENT["0"], drbg) == 0
    for square in SQUARES:
        parts = [int(power * 16 // square) for power, modulus in powers if modulus == square]
        assert stats.chisquare([parts.count(part) for part in range(16)]).pvalue > 0.01


def test_without_the_shift_the_power_of_an_encrypted_zero_is_one(powers: list[tuple[mpz, mpz]]) -> None:
    for _ in range(10):
        DECRYPTOR.decrypt(SENT["0"], Shiftless(bytes(32)))
    assert {power for power, _ in powers} == {1}


# ---- faults


def test_one_wrong_bit_of_an_unchecked_decryption_gives_the_factors_to_whoever_knows_the_plaintext() -> None:
    c, drbg = ENCRYPTOR.encrypt(12345, seeded("bellcore")), seeded("bits")
    power_p, power_q = powmod(c, P - 1, SQUARES[0]), powmod(c, Q - 1, SQUARES[1])
    assert unchecked(c) == joined(power_p, power_q) == 12345
    for _ in range(100):  # a flip below the length of p is lost when L divides by p
        released = joined(power_p ^ (mpz(1) << 520 + drbg.below(500)), power_q)
        assert gmpy2.gcd(released - 12345, N) == Q


@pytest.mark.parametrize("prime", [P, Q], ids=["p", "q"])
def test_no_wrong_bit_of_either_power_leaves_our_decryption(prime: mpz, monkeypatch: pytest.MonkeyPatch) -> None:
    drbg, flipped = seeded(f"flips {prime == P}"), [0]
    sound = {
        square: powmod_sec(1 + N, square_root - 1, square) for square, square_root in zip(SQUARES, (P, Q), strict=True)
    }
    monkeypatch.setattr(
        paillier,
        "powmod_sec",
        lambda base, exponent, modulus: (
            sound[modulus] ^ (mpz(1) << flipped[0]) if modulus == prime**2 else sound[modulus]
        ),
    )
    monkeypatch.setattr(paillier._CrtDecryption, "_fresh_zero", lambda *_: mpz(1))
    side = "p" if prime == P else "q"
    for _ in repeats(f"flipped bits of the power at {side}"):
        flipped[0] = drbg.below(1024)
        with pytest.raises(DecryptionFault, match="failed its check"):
            DECRYPTOR.decrypt(int(1 + N), drbg)


# ---- errors


def opened_or_overflow(c: int) -> None:
    """The weak receiver: it decodes numbers within a third of n and says so when one lies beyond."""
    plaintext, third = DECRYPTOR.decrypt(c, seeded("oracle")), int(N) // 3
    if third < plaintext < N - third:
        raise OverflowError("the sum is too large")


def opened_by_ours(c: int) -> None:
    DECRYPTOR.decrypt(c, seeded("oracle"))


def read_by_errors(receive: Callable[[int], None], c: int, bits: int) -> int:
    """Return the plaintext of c, known to be below 2^bits, from which shifted copies of it are refused."""
    low, high = 0, 1 << bits
    while high - low > 1:
        middle = (low + high) // 2
        try:
            receive(paillier.add_plain(PUBLIC, c, int(N) // 3 - middle + 1))
        except OverflowError:
            low = middle
        else:
            high = middle
    return low


def test_an_error_that_depends_on_the_plaintext_gives_it_bit_by_bit_and_ours_has_none() -> None:
    for secret in (3, 51_730, 999_999):
        c = ENCRYPTOR.encrypt(secret, seeded(f"secret {secret}"))
        assert read_by_errors(opened_or_overflow, c, 20) == secret
        assert read_by_errors(opened_by_ours, c, 20) == 0


def test_every_failing_decryption_has_one_type_and_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    drbg, refusals = seeded("one sentence"), set()
    no_units = [0, int(P), int(Q), int(N), int(N * N), int(7 * P), int(Q * Q * 3)]
    no_units += [c * int(prime) for prime in (P, Q) for c in ENCRYPTOR.encrypt_many([0, 1, -1, 1 << 900], drbg)]
    for c in no_units:
        with pytest.raises(DecryptionFault) as refused:
            DECRYPTOR.decrypt(c, drbg)
        refusals.add((type(refused.value), str(refused.value)))
    for plaintext in (0, 1, -1, 1 << 900):
        for prime in (P, Q):
            monkeypatch.setattr(
                paillier, "powmod_sec", lambda b, e, m, at=prime**2: powmod_sec(b, e, m) ^ (2 if m == at else 0)
            )
            with pytest.raises(DecryptionFault) as refused:
                DECRYPTOR.decrypt(ENCRYPTOR.encrypt(plaintext, drbg), drbg)
            refusals.add((type(refused.value), str(refused.value)))
    assert len(refusals) == 1
    assert not any(digit in str(refusals) for digit in "0123456789")
