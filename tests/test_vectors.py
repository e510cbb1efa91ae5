"""Known answers: toy vectors that others published, and the project's own full-size ones with a second implementation."""

import json
from functools import cache
from typing import Any

import make_vectors
import pytest
from gmpy2 import is_prime
from make_vectors import VECTORS, Textbook

from lianxin.crypto import modulus_proof, paillier
from lianxin.crypto.errors import CiphertextRejected, CryptoError, ProofRejected
from lianxin.crypto.randomness import Drbg

BITS = (2048, 3072)
QUICK = {2048: range(20), 3072: range(2)}
KEYS = [pytest.param(bits, index, id=f"{bits}-{index}") for bits in BITS for index in QUICK[bits]]


@cache
def vectors(bits: int) -> dict[str, Any]:
    return json.loads((VECTORS / f"paillier_{bits}.json").read_text(encoding="utf-8"))


@cache
def proof() -> dict[str, Any]:
    return json.loads((VECTORS / "modulus_proof_2048.json").read_text(encoding="utf-8"))


def numbers(bits: int, index: int) -> dict[str, Any]:
    """Return one vector with its hex read."""
    entry = vectors(bits)["keys"][index]
    return {
        name: make_vectors.read(v) if isinstance(v, str) else [make_vectors.read(one) for one in v]
        for name, v in entry.items()
    }


def key_of(vector: dict[str, Any]) -> paillier.SecretKey:
    return paillier.secret_key_from_primes(vector["p"], vector["q"], "bank-1", "vectors", "vector-run")


def expected(vector: dict[str, Any]) -> list[int]:
    """Return the plaintexts of c_1, c_2, the sum's ciphertext and the multiple's."""
    (first, second), n = vector["m"], vector["n"]
    return [first, second, (first + second) % n, first * vector["k"] % n]


# ---- published


def test_the_toy_vector_of_python_paillier_is_met_by_both_implementations() -> None:
    toy = paillier.secret_key_from_primes(293, 433, "vector", "P4", "run-1")
    assert toy.public.n == 126869
    assert paillier.encrypt_with(toy.public, 10100, 74384) == Textbook(293, 433).encrypt(10100, 74384) == 935906717
    assert paillier.Decryptor(toy).decrypt(935906717, Drbg(bytes(32))) == Textbook(293, 433).decrypt(935906717) == 10100


def test_the_toy_vector_with_another_generator_opens_by_the_generators_own_logarithm() -> None:
    toy = paillier.secret_key_from_primes(83, 109, "vector", "P4", "run-1")
    n, g, m, r, c = toy.public.n, 27, 42, 25, 45106492
    assert n == 9047 and pow(g, m, n * n) * pow(r, n, n * n) % (n * n) == c
    opened, generator = (paillier.Decryptor(toy).decrypt(one, Drbg(bytes(32))) for one in (c, g))
    assert opened * pow(generator, -1, n) % n == m


# ---- our own


@pytest.mark.parametrize("bits", BITS)
def test_a_file_has_twenty_different_keys_of_its_size_from_safe_primes_and_says_where_it_is_from(bits: int) -> None:
    record = vectors(bits)
    assert record["provenance"]["generator"] == "tests/make_vectors.py" and record["bits"] == bits
    assert record["provenance"]["seed"] == make_vectors.SEED.hex()
    moduli = {numbers(bits, index)["n"] for index in range(len(record["keys"]))}
    assert len(record["keys"]) == len(moduli) == 20
    for index in QUICK[bits]:
        vector = numbers(bits, index)
        assert vector["n"] == vector["p"] * vector["q"] and vector["n"].bit_length() == bits
        assert all(is_prime(prime, 10) and is_prime(prime // 2, 10) for prime in (vector["p"], vector["q"]))


@pytest.mark.parametrize(("bits", "index"), KEYS)
def test_encryption_sums_and_multiples_give_the_vectors_bytes(bits: int, index: int) -> None:
    vector = numbers(bits, index)
    public = key_of(vector).public
    cs = [paillier.encrypt_with(public, m, r) for m, r in zip(vector["m"], vector["r"], strict=True)]
    assert cs == vector["c"]
    assert (
        paillier.add(public, *cs) == vector["sum"]
        and paillier.multiply(public, cs[0], vector["k"]) == vector["multiple"]
    )


@pytest.mark.parametrize(("bits", "index"), KEYS)
def test_decryption_gives_the_vectors_plaintexts(bits: int, index: int) -> None:
    vector = numbers(bits, index)
    opener = paillier.Decryptor(key_of(vector))
    cs = [*vector["c"], vector["sum"], vector["multiple"]]
    assert opener.decrypt_many(cs, Drbg(bytes(32))) == expected(vector)


@pytest.mark.parametrize("index", range(0, 20, 4))
def test_the_second_implementation_opens_the_same_sum(index: int) -> None:
    vector = numbers(2048, index)
    assert Textbook(vector["p"], vector["q"]).decrypt(vector["sum"]) == expected(vector)[2]


@pytest.mark.parametrize(("bits", "index"), [(2048, 0), (3072, 0)])
def test_the_second_implementation_encrypts_to_the_same_ciphertext(bits: int, index: int) -> None:
    vector = numbers(bits, index)
    assert Textbook(vector["p"], vector["q"]).encrypt(vector["m"][1], vector["r"][1]) == vector["c"][1]


@pytest.mark.parametrize(("bits", "index"), KEYS)
def test_python_paillier_agrees_on_every_number(bits: int, index: int) -> None:
    phe = pytest.importorskip("phe", reason="the optional extra `phe` is not installed")
    vector = numbers(bits, index)
    public = phe.PaillierPublicKey(vector["n"])
    opener = phe.PaillierPrivateKey(public, vector["p"], vector["q"])
    assert [public.raw_encrypt(m, r_value=r) for m, r in zip(vector["m"], vector["r"], strict=True)] == vector["c"]
    assert [opener.raw_decrypt(c) for c in (*vector["c"], vector["sum"], vector["multiple"])] == expected(vector)


def test_the_generator_still_gives_the_same_vector() -> None:
    assert make_vectors.entry_of(make_vectors.secret_key(2048, 4), 4) == vectors(2048)["keys"][4]


# ---- what must be refused


@pytest.mark.parametrize("bits", BITS)
def test_each_bad_ciphertext_of_the_vectors_is_refused_for_its_reason_and_its_good_neighbours_are_not(
    bits: int,
) -> None:
    vector, bad = numbers(bits, 0), vectors(bits)["bad"]
    public = key_of(vector).public
    good = paillier.encode_ciphertexts(public, vector["c"])
    assert paillier.decode_ciphertexts(public, good) == vector["c"] and len(bad) == 10
    for case in bad:
        data = good + make_vectors.read(case["c"]).to_bytes(public.ciphertext_bytes, "big")
        with pytest.raises(CiphertextRejected, match=f"ciphertext 2 {case['reason']}"):
            paillier.decode_ciphertexts(public, data)


def test_the_ciphertext_with_a_randomiser_that_is_no_unit_opens_to_another_number_where_nobody_checks() -> None:
    vector, bad = numbers(2048, 0), vectors(2048)["bad"]
    c = next(make_vectors.read(case["c"]) for case in bad if case["name"] == "the textbook form with r = p")
    book = Textbook(vector["p"], vector["q"])
    assert book.decrypt((1 + 5 * book.n) % book.n**2) == 5 != book.decrypt(c)
    with pytest.raises(CryptoError):
        paillier.Decryptor(key_of(vector)).decrypt(c, Drbg(bytes(32)))


def test_the_modulus_proof_of_the_vectors_verifies_here_and_in_plain_integers() -> None:
    record = proof()
    n, data, session = make_vectors.read(record["n"]), bytes.fromhex(record["proof"]), bytes.fromhex(record["session"])
    assert n == numbers(2048, 0)["n"]
    modulus_proof.verify_modulus(n, data, session)
    make_vectors.verify_plainly(n, data, session, rounds=4)


BAD_PROOFS = [case["name"] for case in proof()["bad"]]


@pytest.mark.parametrize("name", BAD_PROOFS)
def test_each_bad_modulus_proof_of_the_vectors_is_refused_for_its_reason(name: str) -> None:
    record = proof()
    case = next(case for case in record["bad"] if case["name"] == name)
    data, put = bytearray.fromhex(record["proof"]), bytes.fromhex(case["bytes"])
    data[case["at"] : case["at"] + len(put)] = put
    assert bytes(data) != bytes.fromhex(record["proof"])
    with pytest.raises(ProofRejected, match=case["reason"]):
        modulus_proof.verify_modulus(make_vectors.read(record["n"]), bytes(data), bytes.fromhex(record["session"]))


def test_the_good_proof_is_refused_in_another_session_and_for_another_modulus() -> None:
    record = proof()
    data, other = bytes.fromhex(record["proof"]), record["other_session"]
    with pytest.raises(ProofRejected, match=other["reason"]):
        modulus_proof.verify_modulus(make_vectors.read(record["n"]), data, bytes.fromhex(other["session"]))
    with pytest.raises(ProofRejected):
        modulus_proof.verify_modulus(numbers(2048, 1)["n"], data, bytes.fromhex(record["session"]))
