"""Paillier keys, both kinds of encryption, decryption, and the blocks that carry them to workers."""

import copy
import hmac
import pickle
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from math import prod

import gmpy2
import pytest
from gmpy2 import mpz
from hypothesis import given
from hypothesis import strategies as st
from torture import cases

from lianxin.crypto import fixed_base, paillier, shared_residues
from lianxin.crypto.errors import DecryptionFault, KeyRejected
from lianxin.crypto.fixed_base import EvaluatorResidues, FixedBase, OwnerResidues, owner_base
from lianxin.crypto.randomness import Drbg, derive_seed
from lianxin.crypto.safe_primes import _survivors, is_safe_half, small_odd_primes


def seeded(name: str) -> Drbg:
    return Drbg(bytes(32)).child("test_paillier", name)


KEY = paillier.generate_secret_key(256, "bank-a", "P4", "run-1", seeded("key"))
PUBLIC = KEY.public
ENCRYPTOR, DECRYPTOR = paillier.OwnerEncryptor(KEY), paillier.Decryptor(KEY)
TINY_P, TINY_Q = 23, 59
plaintexts = st.integers(min_value=-(PUBLIC.n // 2), max_value=PUBLIC.n // 2)


@pytest.fixture(scope="module", params=["one thread", "two threads", "one process", "two processes"])
def executor(request: pytest.FixtureRequest) -> Iterator[Executor]:
    count, kind = request.param.split()
    pool = ThreadPoolExecutor if kind.startswith("thread") else ProcessPoolExecutor
    with pool(1 if count == "one" else 2) as workers:
        yield workers


def test_the_vector_of_python_paillier_is_met() -> None:
    toy = paillier.secret_key_from_primes(293, 433, "vector", "P4", "run-1")
    assert paillier.encrypt_with(toy.public, 10100, 74384) == 935906717
    assert paillier.Decryptor(toy).decrypt(935906717, seeded("toy")) == 10100


def test_a_generated_key_has_two_safe_primes_with_their_top_two_bits_set() -> None:
    for bits in (64, 128, 256, 512):
        secret_key = paillier.generate_secret_key(bits, "bank-a", "P4", "run-1", seeded(f"form {bits}"))
        for prime in secret_key.reveal_primes():
            assert prime.bit_length() == bits // 2 and prime >> (bits // 2 - 2) == 3
            assert gmpy2.is_prime(prime, 40) and gmpy2.is_prime(prime // 2, 40)
        assert secret_key.public.bits == bits and secret_key.public.n % 4 == 1


def test_a_key_is_a_function_of_its_generator_alone() -> None:
    again = paillier.generate_secret_key(256, "bank-a", "P4", "run-1", seeded("key"))
    other = paillier.generate_secret_key(256, "bank-a", "P4", "run-1", seeded("another key"))
    assert again.public == PUBLIC and other.public.n != PUBLIC.n


def test_one_generator_gives_two_different_keys_in_a_row() -> None:
    drbg = seeded("two keys")
    first, second = (paillier.generate_secret_key(128, "bank-a", "P4", "run-1", drbg) for _ in range(2))
    assert gmpy2.gcd(first.public.n, second.public.n) == 1


def test_the_joint_sieve_loses_no_safe_prime_and_keeps_no_candidate_with_a_small_factor() -> None:
    start, window, limit = mpz((3 << 38) + 1), 20_000, 1000
    kept = set(_survivors(start, window, limit))
    candidates = [start + 2 * position for position in range(window)]
    safe = {half for half in candidates if gmpy2.is_prime(half) and gmpy2.is_prime(2 * half + 1)}
    small = prod(small_odd_primes(limit))
    clean = {half for half in candidates if gmpy2.gcd(half * (2 * half + 1), small) == 1}
    assert safe and safe <= kept == clean and all(is_safe_half(half) == (half in safe) for half in kept)


def test_the_small_primes_are_all_there() -> None:
    assert list(small_odd_primes(1000)) == [number for number in range(3, 1000) if gmpy2.is_prime(number)]


@pytest.mark.parametrize(
    ("p", "q", "reason"), [(23, 23, "distinct"), (23, 57, "distinct"), (23, 47, "shares a factor")]
)
def test_primes_that_make_no_key_are_refused(p: int, q: int, reason: str) -> None:
    with pytest.raises(KeyRejected, match=reason):
        paillier.secret_key_from_primes(p, q, "bank-a", "P4", "run-1")


def test_an_odd_number_of_bits_is_refused() -> None:
    with pytest.raises(ValueError, match="even"):
        paillier.generate_secret_key(255, "bank-a", "P4", "run-1", seeded("odd"))


def test_a_key_id_changes_with_every_part_and_with_where_a_part_ends() -> None:
    parts = [
        (15, "ab", "c", "d"),
        (21, "ab", "c", "d"),
        (15, "a", "bc", "d"),
        (15, "ab", "", "cd"),
        (15, "ab", "cd", ""),
    ]
    assert len({paillier.PublicKey(*part).key_id for part in parts}) == len(parts)


def test_a_secret_key_and_what_holds_it_show_nothing_and_are_not_copied() -> None:
    for secret in (KEY, ENCRYPTOR, DECRYPTOR):
        for shown in (repr(secret), str(secret), f"{secret}"):
            assert shown == f"{type(secret).__name__}(<secret>)"
        for duplicate in (copy.copy, copy.deepcopy, pickle.dumps):
            with pytest.raises(TypeError):
                duplicate(secret)


@cases()
@given(a=plaintexts, b=plaintexts, k=st.integers(0, 1 << 80))
def test_sums_and_multiples_of_ciphertexts_decrypt_to_sums_and_multiples(a: int, b: int, k: int) -> None:
    drbg = seeded("homomorphism").child(a, b)
    c_a, c_b = ENCRYPTOR.encrypt(a, drbg), paillier.encrypt_with(PUBLIC, b, drbg.between(1, PUBLIC.n))
    assert DECRYPTOR.decrypt(paillier.add(PUBLIC, c_a, c_b), drbg) == (a + b) % PUBLIC.n
    assert DECRYPTOR.decrypt(paillier.add_plain(PUBLIC, c_a, b), drbg) == (a + b) % PUBLIC.n
    assert DECRYPTOR.decrypt(paillier.multiply(PUBLIC, c_a, k), drbg) == a * k % PUBLIC.n
    assert paillier.centred(DECRYPTOR.decrypt(c_a, drbg), PUBLIC.n) == a


def test_twenty_seeded_keys_agree_with_textbook_arithmetic_in_plain_integers() -> None:
    for index in range(20):
        drbg = seeded(f"textbook {index}")
        secret_key = paillier.generate_secret_key(128, "bank-a", "P4", "run-1", drbg)
        (p, q), n = secret_key.reveal_primes(), secret_key.public.n
        m, r = drbg.below(n), drbg.between(1, n)
        c = pow(1 + n, m, n * n) * pow(r, n, n * n) % (n * n)
        assert paillier.encrypt_with(secret_key.public, m, r) == c
        order = (p - 1) * (q - 1)
        textbook = (pow(c, order, n * n) - 1) // n * pow(order, -1, n) % n
        assert paillier.Decryptor(secret_key).decrypt(c, drbg) == textbook == m


def test_both_libraries_decrypt_what_the_other_encrypts() -> None:
    phe = pytest.importorskip("phe", reason="the optional extra `phe` is not installed")
    p, q = KEY.reveal_primes()
    theirs = phe.PaillierPublicKey(PUBLIC.n)
    their_secret, drbg = phe.PaillierPrivateKey(theirs, p, q), seeded("phe")
    for _ in range(100):
        m, r = drbg.below(PUBLIC.n), drbg.between(1, PUBLIC.n)
        assert theirs.raw_encrypt(m, r_value=r) == paillier.encrypt_with(PUBLIC, m, r)
        assert their_secret.raw_decrypt(ENCRYPTOR.encrypt(m, drbg)) == m


def test_a_randomiser_that_is_no_unit_is_refused() -> None:
    p, _ = KEY.reveal_primes()
    with pytest.raises(ValueError, match="no unit"):
        paillier.encrypt_with(PUBLIC, 5, 3 * p)


def test_a_negative_multiple_is_refused() -> None:
    with pytest.raises(ValueError, match="k >= 0"):
        paillier.multiply(PUBLIC, 5, -1)


def test_fixed_base_powers_are_powers() -> None:
    table, drbg = FixedBase(7, 1_000_003, 60), seeded("fixed base")
    for exponent in [0, 1, 255, 256, (1 << 60) - 1, *(drbg.bits(60) for _ in range(200))]:
        assert table.power(exponent) == pow(7, exponent, 1_000_003)
    with pytest.raises(OverflowError):
        table.power(1 << 64)


@pytest.mark.parametrize("window", [1, 5, 8, 11])
def test_a_window_changes_nothing_but_the_price(window: int) -> None:
    table, plain, drbg = FixedBase(7, 1_000_003, 64, window), FixedBase(7, 1_000_003, 64), seeded("windows")
    for exponent in [0, 1, (1 << 64) - 1, *(drbg.bits(64) for _ in range(50))]:
        assert table.power(exponent) == plain.power(exponent)
    for beyond in (-1, 1 << (64 + window)):
        with pytest.raises(OverflowError):
            table.power(beyond)
        with pytest.raises(OverflowError):
            table.powers([1, beyond])


@pytest.mark.parametrize("window", [1, 5, 8, 13])
@pytest.mark.parametrize("count", [0, 1, 2, 50])
def test_powers_of_many_exponents_are_the_powers_of_each(window: int, count: int) -> None:
    table, drbg = FixedBase(7, 1_000_003, 64, window), seeded("many powers")
    exponents = [0, (1 << 64) - 1, *(drbg.bits(64) for _ in range(48))][:count]
    assert table.powers(exponents) == [pow(7, exponent, 1_000_003) for exponent in exponents]


@pytest.mark.parametrize("bits", [None, 448])
def test_many_draws_and_encryptions_are_those_made_one_after_the_other(bits: int | None) -> None:
    residues = OwnerResidues(*KEY.reveal_primes(), bits)
    one, many = seeded("one after the other"), seeded("one after the other")
    assert residues.draw_many(3, many) == [residues.draw(one) for _ in range(3)]
    assert residues.encrypt_many([5, 0], PUBLIC.n, many) == [residues.encrypt(m, PUBLIC.n, one) for m in (5, 0)]


def test_residues_that_workers_made_together_draw_as_those_made_here() -> None:
    with ThreadPoolExecutor(2) as executor:
        told = shared_residues.made_by(PUBLIC.n, bytes(32), executor)
        assert shared_residues.made_by(PUBLIC.n, bytes(32), executor) is told
    here, together = EvaluatorResidues(PUBLIC.n, bytes(32)), fixed_base.evaluator_residues(PUBLIC.n, bytes(32), told)
    assert together.draw(seeded("together")) == here.draw(seeded("together"))
    paillier.forget_evaluators()
    assert shared_residues._kept(PUBLIC.n, bytes(32)) == []


def test_the_largest_window_is_for_short_exponents_of_many_draws() -> None:
    windows = [fixed_base.owner_window_bits(draws, bits) for bits in (None, 448) for draws in (1, 50_000, 150_000)]
    assert windows == [8, 11, 11, 8, 11, 13]


def test_the_number_of_draws_expected_changes_no_ciphertext() -> None:
    few, many = paillier.OwnerEncryptor(KEY, "short"), paillier.OwnerEncryptor(KEY, "short", 1_000_000)
    assert few.encrypt_many(range(5), seeded("draws")) == many.encrypt_many(range(5), seeded("draws"))
    assert few.draw_many(5, seeded("draws")) == many.draw_many(5, seeded("draws"))


def test_the_owners_bases_have_full_order() -> None:
    for prime in KEY.reveal_primes():
        base, square = owner_base(prime, PUBLIC.n), mpz(prime) ** 2
        orders = [gmpy2.powmod(base, (prime - 1) // factor, square) for factor in (1, 2, (prime - 1) // 2)]
        assert orders[0] == 1 and 1 not in orders[1:]


def test_the_owner_reaches_every_residue_and_one_common_exponent_only_half() -> None:
    residues, drbg = OwnerResidues(TINY_P, TINY_Q), seeded("owner reach")
    n = TINY_P * TINY_Q
    every = {pow(r, n, n * n) for r in range(1, n) if gmpy2.gcd(r, n) == 1}
    drawn = [int(residues.draw(drbg)) for _ in range(20 * len(every))]
    assert set(drawn) == every and len(every) == (TINY_P - 1) * (TINY_Q - 1)
    chi_squared = sum((drawn.count(residue) - 20) ** 2 / 20 for residue in every)
    assert abs(chi_squared - len(every)) < 4 * (2 * len(every)) ** 0.5
    common = {pow(drawn[0], s, n * n) for s in range(n)}
    assert len(common) <= len(every) // 2


def test_the_evaluator_reaches_every_residue_and_one_base_only_half() -> None:
    n, drbg = TINY_P * TINY_Q, seeded("evaluator reach")
    residues = EvaluatorResidues(n, drbg.bytes(32))
    order = (TINY_P - 1) * (TINY_Q - 1)
    assert len({int(residues.draw(drbg)) for _ in range(20 * order)}) == order
    base = int(fixed_base.draw_textbook_residue(n, drbg))
    assert len({pow(base, s, n * n) for s in range(20 * order)}) <= order // 2


def test_an_evaluators_draw_is_four_wide_powers_times_a_subset_of_128_residues() -> None:
    residues, bases, drbg = EvaluatorResidues(PUBLIC.n, bytes(32)), Drbg(bytes(32)), seeded("plain draw")
    h = [fixed_base.draw_textbook_residue(PUBLIC.n, bases) for _ in range(4)]
    u = [fixed_base.draw_textbook_residue(PUBLIC.n, bases) for _ in range(128)]
    choice = int.from_bytes(drbg.bytes(16), "little")
    powers = [pow(base, drbg.bits(64), PUBLIC.n_squared) for base in h]
    subset = [element for index, element in enumerate(u) if choice >> index & 1]
    assert residues.draw(seeded("plain draw")) == prod(powers) * prod(subset) % PUBLIC.n_squared


def test_an_owners_encryptor_needs_safe_primes() -> None:
    with pytest.raises(KeyRejected, match="safe primes"):
        paillier.OwnerEncryptor(paillier.secret_key_from_primes(293, 433, "vector", "P4", "run-1"))


@pytest.mark.parametrize("draws", [1, 199, 200])
def test_every_randomiser_encrypts_zero_and_few_draws_take_the_textbook_one(draws: int) -> None:
    source, drbg = paillier.randomiser_for(PUBLIC, bytes(32), draws), seeded("sources")
    assert isinstance(source, paillier.TextbookRandomiser if draws < 200 else paillier.Randomiser)
    drawn = [source.draw(drbg), *source.draw_many(70, drbg)]
    assert len(set(drawn)) == 71 and DECRYPTOR.decrypt_many(drawn, drbg) == [0] * 71


def test_secret_bases_depend_on_their_seed() -> None:
    first, second = (paillier.Randomiser(PUBLIC, bytes([seed]) * 32) for seed in (1, 2))
    assert first.draw(seeded("draw")) != second.draw(seeded("draw"))
    assert first.draw(seeded("draw")) == paillier.Randomiser(PUBLIC, b"\x01" * 32).draw(seeded("draw"))


def test_a_generator_used_for_two_batches_never_repeats_a_randomiser() -> None:
    drbg, source = seeded("two batches"), paillier.Randomiser(PUBLIC, bytes(32))
    encrypted = [c for _ in range(3) for c in ENCRYPTOR.encrypt_many([7] * 130, drbg)]
    assert len(set(encrypted)) == 390
    assert len({r for _ in range(3) for r in source.draw_many(130, drbg)}) == 390


def test_workers_of_any_kind_and_number_give_the_same_integers(executor: Executor) -> None:
    messages, source = list(range(-100, 100)), paillier.Randomiser(PUBLIC, bytes(32))
    textbook = paillier.TextbookRandomiser(PUBLIC)
    alone = ENCRYPTOR.encrypt_many(messages, seeded("workers"))
    assert ENCRYPTOR.encrypt_many(messages, seeded("workers"), executor) == alone
    plain = DECRYPTOR.decrypt_many(alone, seeded("blind"), executor)
    assert [paillier.centred(m, PUBLIC.n) for m in plain] == messages
    for drawer in (source, textbook):
        assert drawer.draw_many(150, seeded("draws"), executor) == drawer.draw_many(150, seeded("draws"))


def test_a_workers_fault_reaches_the_caller_by_name(executor: Executor) -> None:
    p, _ = KEY.reveal_primes()
    with pytest.raises(DecryptionFault, match="no unit"):
        DECRYPTOR.decrypt_many([1] * 100 + [p], seeded("fault"), executor)


def test_a_flipped_bit_in_the_exponentiation_is_noticed_before_it_gives_the_factors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sound, c = paillier.powmod_sec, ENCRYPTOR.encrypt(5, seeded("bellcore"))
    p, q = KEY.reveal_primes()

    def faulty(base: mpz, exponent: mpz, modulus: mpz) -> mpz:
        power = sound(base, exponent, modulus)
        return power ^ 2 if modulus == mpz(p) ** 2 else power

    wrong_at_p = (int(faulty(mpz(c), mpz(p - 1), mpz(p) ** 2)) - 1) // p % p
    released = wrong_at_p + p * ((5 - wrong_at_p) * pow(p, -1, q) % q)
    assert gmpy2.gcd(released - 5, PUBLIC.n) == q
    monkeypatch.setattr(paillier, "powmod_sec", faulty)
    with pytest.raises(DecryptionFault, match="failed its check"):
        DECRYPTOR.decrypt(c, seeded("bellcore"))


def test_a_ciphertext_is_blinded_before_the_secret_exponent_meets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    sound, seen, c = paillier.powmod_sec, [], ENCRYPTOR.encrypt(5, seeded("blinded"))

    def watching(base: mpz, exponent: mpz, modulus: mpz) -> mpz:
        seen.append(base)
        return sound(base, exponent, modulus)

    monkeypatch.setattr(paillier, "powmod_sec", watching)
    drbg, squares = seeded("blinding"), [mpz(prime) ** 2 for prime in KEY.reveal_primes()]
    assert [DECRYPTOR.decrypt(c, drbg) for _ in range(50)] == [5] * 50
    assert len(set(seen)) == 100 and not {c % square for square in squares} & set(seen)


@pytest.mark.parametrize("size", [0, 31, 32, 64, 65, 200])
def test_a_derived_seed_is_an_hmac_of_its_labels(size: int) -> None:
    key, message = bytes(range(size)), b"".join(len(p).to_bytes(8, "big") + p for p in (b"sfirm", b"i7", b"b\x00"))
    for _ in range(2):
        assert derive_seed(key, "firm", 7, b"\x00") == hmac.digest(key, message, "sha256")
