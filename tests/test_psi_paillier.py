"""Matching under Paillier: plain set intersection, agreement with the ECDH protocol, exactness, and what it refuses.

Keys have 1024 bits, the least that `evaluate_queries` works with, through the functions below the admission check.
"""

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from torture import cases

from lianxin.crypto import group, paillier, psi_ecdh, psi_paillier
from lianxin.crypto.errors import (
    CiphertextRejected,
    EncodingRejected,
    GroupElementRejected,
    KeyRejected,
    MatchingAborted,
)
from lianxin.crypto.randomness import Drbg

Q = group.ORDER
SID = psi_paillier.session_id(b"c" * 32, "run-1", 3, b"p" * 32, b"b" * 32)
SEED = b"\x07" * 32
NAMES = st.integers(0, 40).map(lambda number: b"firm-%d" % number)
ASKED, FIRMS = st.sets(NAMES, min_size=10, max_size=12), st.sets(NAMES, max_size=25)


@dataclass(frozen=True)
class Bank:
    public: paillier.PublicKey
    encryptor: paillier.OwnerEncryptor
    decryptor: paillier.Decryptor


def make_bank(bits: int) -> Bank:
    secret_key = paillier.generate_secret_key(bits, "bank-a", "matching", "run-1", Drbg(b"\x01" * 32))
    return Bank(secret_key.public, paillier.OwnerEncryptor(secret_key), paillier.Decryptor(secret_key))


@pytest.fixture(scope="module")
def bank() -> Bank:
    return make_bank(psi_paillier.MIN_MODULUS_BITS)


def match(bank: Bank, queries: list[bytes], platform: list[bytes], seed: bytes = bytes(32)) -> set[bytes]:
    """Run both roles over encoded messages, with either randomiser, and return the firms that the bank finds."""
    drbg, expected = Drbg(seed), paillier.TEXTBOOK_DRAWS if seed[0] % 2 else None
    oprf_key = psi_paillier.draw_oprf_key(drbg.child("key"))
    scalars = [psi_paillier.identifier_scalar(SID, firm) for firm in queries]
    sent = psi_paillier.encrypt_queries(bank.encryptor, scalars, drbg.child("queries"))
    stream = drbg.child("answers")
    answers = psi_paillier.evaluate_queries(bank.public, oprf_key, sent, SEED, stream, expected_queries=expected)
    received = psi_paillier.decode_answers(bank.public, psi_paillier.encode_answers(bank.public, answers))
    found = psi_paillier.finish_queries(SID, bank.decryptor, received, drbg.child("finish"))
    own = [psi_paillier.identifier_scalar(SID, firm) for firm in platform]
    tags = psi_paillier.encode_tags(psi_paillier.evaluator_tags(SID, oprf_key, own))
    return {firm for firm, tag in zip(queries, found, strict=True) if tag in set(psi_paillier.decode_tags(tags))}


def match_ecdh(queries: list[bytes], platform: list[bytes], seed: bytes) -> set[bytes]:
    drbg = Drbg(seed)
    oprf_key = psi_ecdh.draw_oprf_key(drbg.child("key"))
    inputs = [psi_ecdh.bound_identifier(SID, firm) for firm in queries]
    blinds, blinded = psi_ecdh.blind_queries(inputs, drbg.child("blinds"))
    outputs = psi_ecdh.finalize(inputs, blinds, psi_ecdh.evaluate_blinded(oprf_key, blinded))
    tags = set(psi_ecdh.evaluator_tags(oprf_key, [psi_ecdh.bound_identifier(SID, firm) for firm in platform]))
    return {firm for firm, output in zip(queries, outputs, strict=True) if psi_ecdh.tag_of(output) in tags}


@cases(per_example=10)  # a case is a firm that is asked for
@given(ASKED, FIRMS, st.binary(min_size=32, max_size=32))
@example(set(), {b"firm-1"}, bytes(32))
@example({b"firm-1"}, {b"firm-1"}, b"\x01" * 32)
def test_both_protocols_find_the_plain_set_intersection(
    bank: Bank, queries: set[bytes], platform: set[bytes], seed: bytes
) -> None:
    found = match(bank, sorted(queries), sorted(platform), seed)
    assert found == queries & platform
    assert found == match_ecdh(sorted(queries), sorted(platform), seed)


@cases()
@given(*[st.integers(0, Q - 1)] * 2, st.integers(1, psi_paillier.EXPONENT_BOUND - 1), st.integers(0, 2**700))
def test_an_answer_decrypts_to_the_masked_line_of_the_protocol(bank: Bank, x: int, k: int, a: int, b: int) -> None:
    n, drbg = bank.public.n, Drbg(bytes(32))
    b, a = b % (n // Q), a + (a % Q == 0)
    randomiser = paillier.randomiser_for(bank.public, SEED, paillier.TEXTBOOK_DRAWS).draw(drbg)
    answer, element = psi_paillier._evaluate_with(n, k, bank.encryptor.encrypt(x, drbg), a, b, randomiser)
    assert bank.decryptor.decrypt(answer, drbg) == (a * (x + k) + b * Q) % n
    assert element == group.base_multiply(a)


def test_the_share_of_lost_queries_is_the_documented_quotient() -> None:
    drbg, n = Drbg(bytes(32)), (1 << 957) + 1
    k, lost, expected = psi_paillier.draw_oprf_key(drbg), 0, 0.0
    for _ in range(40_000):
        x, a, b = drbg.below(Q), psi_paillier._draw_exponent(drbg), drbg.below(n // Q)
        expected += a * (x + k) / (n - Q)
        lost += (a * (x + k) + b * Q) % n % Q != a * (x + k) % Q
    assert abs(lost - expected) < 5 * expected**0.5
    assert lost > 100


def test_the_documented_bounds_on_lost_queries_hold() -> None:
    largest = psi_paillier.EXPONENT_BOUND * 2 * Q
    assert largest * 2**1093 < 2**2047 - Q
    assert largest * 2**69 < 2**1023 - Q


def test_an_exponent_is_wide_and_never_zero_modulo_the_order() -> None:
    queue = [Q, 5 * Q, 7 * Q + 1]

    class Rigged(Drbg):
        def between(self, low: int, high: int) -> int:
            assert (low, high) == (1, Q * 2**448)
            return queue.pop(0)

    assert psi_paillier._draw_exponent(Rigged(bytes(32))) == 7 * Q + 1


def test_answers_are_the_same_without_and_with_workers_and_in_a_rerun(bank: Bank) -> None:
    queries = psi_paillier.encrypt_queries(bank.encryptor, list(range(210)), Drbg(bytes(32)))

    def run(executor: ProcessPoolExecutor | None) -> tuple[list, list]:
        answers = psi_paillier.evaluate_queries(bank.public, 77, queries, SEED, Drbg(SEED), executor)
        return answers, psi_paillier.finish_queries(SID, bank.decryptor, answers, Drbg(bytes(32)), executor)

    inline = run(None)
    assert run(None) == inline
    for workers in (1, 2):
        with ProcessPoolExecutor(workers) as executor:
            assert run(executor) == inline
    assert inline[1] == psi_paillier.evaluator_tags(SID, 77, range(210))


def test_one_generator_never_gives_one_exponent_to_two_sets_of_queries_or_keys(bank: Bank) -> None:
    first, second = (psi_paillier.encrypt_queries(bank.encryptor, [1, 2], Drbg(seed)) for seed in (bytes(32), SEED))
    runs = [(77, first), (77, second), (77, first[:1]), (78, first)]
    elements = [
        element
        for key, queries in runs
        for _, element in psi_paillier.evaluate_queries(bank.public, key, queries, SEED, Drbg(bytes(32)))
    ]
    assert len(set(elements)) == len(elements) == 7


def test_a_session_id_is_bound_to_each_of_its_parts() -> None:
    parts: list[tuple] = [
        (b"c" * 32, "run-1", 3, b"p" * 32, b"b" * 32),
        (b"d" * 32, "run-1", 3, b"p" * 32, b"b" * 32),
        (b"c" * 32, "run-2", 3, b"p" * 32, b"b" * 32),
        (b"c" * 32, "run-1", 4, b"p" * 32, b"b" * 32),
        (b"c" * 32, "run-1", 3, b"q" * 32, b"b" * 32),
        (b"c" * 32, "run-1", 3, b"p" * 32, b"a" * 32),
        (b"c" * 32, "run-", 13, b"p" * 32, b"b" * 32),
    ]
    ids = {psi_paillier.session_id(*one) for one in parts}
    assert len(ids) == len(parts)
    assert {len(one) for one in ids} == {64}


def test_scalars_and_tags_of_another_session_never_match() -> None:
    other = psi_paillier.session_id(b"c" * 32, "run-1", 4, b"p" * 32, b"b" * 32)
    assert psi_paillier.identifier_scalar(SID, b"firm") != psi_paillier.identifier_scalar(other, b"firm")
    assert psi_paillier.evaluator_tags(SID, 5, [9]) != psi_paillier.evaluator_tags(other, 5, [9])


def test_an_answer_that_decrypts_to_zero_modulo_the_order_ends_the_session(bank: Bank) -> None:
    drbg = Drbg(bytes(32))
    answers = [(bank.encryptor.encrypt(plaintext, drbg), group.base_multiply(4)) for plaintext in (3, 9 * Q)]
    assert len(psi_paillier.finish_queries(SID, bank.decryptor, answers[:1], drbg)) == 1
    with pytest.raises(MatchingAborted, match="decrypts to zero"):
        psi_paillier.finish_queries(SID, bank.decryptor, answers, drbg)


def test_a_key_that_cancels_an_identifier_ends_the_session_before_any_answer() -> None:
    scalar = psi_paillier.identifier_scalar(SID, b"firm")
    with pytest.raises(MatchingAborted, match="start again under a fresh one"):
        psi_paillier.evaluator_tags(SID, Q - scalar, [5, scalar])


BAD_GROUP_ELEMENTS = {"identity": bytes(32), "not canonical": b"\xff" * 32, "negative": (1).to_bytes(32, "little")}


@pytest.mark.parametrize("element", BAD_GROUP_ELEMENTS.values(), ids=BAD_GROUP_ELEMENTS.keys())
def test_an_answer_with_a_bad_group_element_is_refused(bank: Bank, element: bytes) -> None:
    answers = [(bank.encryptor.encrypt(3, Drbg(bytes(32))), element)]
    with pytest.raises(GroupElementRejected):
        psi_paillier.decode_answers(bank.public, psi_paillier.encode_answers(bank.public, answers))
    with pytest.raises(GroupElementRejected):
        psi_paillier.finish_queries(SID, bank.decryptor, answers, Drbg(bytes(32)))


@pytest.mark.parametrize("name", ["0", "n", "n^2", "n^2+1", "p"])
def test_a_ciphertext_that_is_no_canonical_unit_is_refused_by_both_roles(bank: Bank, name: str) -> None:
    n = bank.public.n
    p = bank.decryptor._primes[0]
    ciphertext = {"0": 0, "n": n, "n^2": n * n, "n^2+1": n * n + 1, "p": p}[name]
    with pytest.raises(CiphertextRejected):
        psi_paillier.evaluate_queries(bank.public, 5, [ciphertext], SEED, Drbg(bytes(32)))
    with pytest.raises(CiphertextRejected):
        data = psi_paillier.encode_answers(bank.public, [(ciphertext, group.base_multiply(2))])
        psi_paillier.decode_answers(bank.public, data)


@pytest.mark.parametrize("change", [-1, 1])
def test_answers_and_tags_of_a_wrong_length_are_refused(bank: Bank, change: int) -> None:
    row = bank.public.ciphertext_bytes + 32
    with pytest.raises(EncodingRejected, match=str(row)):
        psi_paillier.decode_answers(bank.public, bytes(2 * row + change))
    with pytest.raises(EncodingRejected, match="16"):
        psi_paillier.decode_tags(bytes(64 + change))
    with pytest.raises(ValueError, match="16 bytes"):
        psi_paillier.encode_tags([bytes(16), bytes(16 + change)])


def test_a_modulus_too_small_to_hide_the_oprf_key_is_refused() -> None:
    small = make_bank(512)
    query = small.encryptor.encrypt(1, Drbg(bytes(32)))
    with pytest.raises(KeyRejected, match="1024 bits, got 512"):
        psi_paillier.evaluate_queries(small.public, 5, [query], SEED, Drbg(bytes(32)))


@pytest.mark.parametrize("scalar", [-1, Q])
def test_a_scalar_that_is_not_reduced_is_not_encrypted(bank: Bank, scalar: int) -> None:
    with pytest.raises(ValueError, match="not reduced"):
        psi_paillier.encrypt_queries(bank.encryptor, [scalar], Drbg(bytes(32)))
