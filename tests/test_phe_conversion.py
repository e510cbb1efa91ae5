"""Keys and ciphertexts of python-paillier: both libraries open what the other made, and only at one public scale."""

import sys
from typing import Any

import gmpy2
import pytest

from lianxin.crypto import paillier, phe_conversion
from lianxin.crypto.errors import CiphertextRejected, ExtraMissing, KeyRejected
from lianxin.crypto.randomness import Drbg

LABEL = ("bank-a", "P4", "run-1")
MESSAGES = 1000


def seeded(name: str) -> Drbg:
    return Drbg(bytes(32)).child("test_phe_conversion", name)


KEY = paillier.generate_secret_key(256, *LABEL, seeded("key"))
PUBLIC, (P, Q) = KEY.public, KEY.reveal_primes()
ENCRYPTOR, DECRYPTOR = paillier.OwnerEncryptor(KEY), paillier.Decryptor(KEY)
THIRD = PUBLIC.n // 3 - 1  # phe's range: |m| <= n/3 - 1


@pytest.fixture(scope="module")
def phe() -> Any:
    return pytest.importorskip("phe", reason="the optional extra `phe` is not installed")


def opened_here(c: int) -> int:
    return paillier.centred(DECRYPTOR.decrypt(c, seeded("open")), PUBLIC.n)


def messages(name: str) -> list[int]:
    """Return 1,000 numbers of either sign in phe's range, its edges among them."""
    drbg = seeded(name)
    return [0, 1, -1, THIRD, -THIRD, *(drbg.between(-THIRD, THIRD + 1) for _ in range(MESSAGES - 5))]


def test_keys_come_back_as_they_went(phe: Any) -> None:
    public = phe_conversion.from_phe_public(phe_conversion.to_phe_public(PUBLIC), *LABEL)
    secret = phe_conversion.from_phe_private(phe_conversion.to_phe_private(KEY), *LABEL)
    assert public == PUBLIC == secret.public and public.key_id == PUBLIC.key_id
    assert set(secret.reveal_primes()) == {P, Q}


def test_what_is_encrypted_here_is_decrypted_there_and_back_again(phe: Any) -> None:
    theirs, plain = phe_conversion.to_phe_private(KEY), messages("here")
    numbers = phe_conversion.to_phe_numbers(PUBLIC, ENCRYPTOR.encrypt_many(plain, seeded("encrypt")), 0)
    assert [theirs.decrypt(number) for number in numbers] == plain
    assert [opened_here(c) for c in phe_conversion.from_phe_numbers(PUBLIC, numbers, 0)] == plain


def test_what_is_encrypted_there_is_decrypted_here(phe: Any) -> None:
    theirs, plain = phe_conversion.to_phe_public(PUBLIC), messages("there")
    cs = phe_conversion.from_phe_numbers(PUBLIC, [theirs.encrypt(m) for m in plain], 0)
    assert [opened_here(c) for c in cs] == plain


def test_sums_and_multiples_of_both_libraries_mix(phe: Any) -> None:
    their_public, their_secret = phe_conversion.to_phe_public(PUBLIC), phe_conversion.to_phe_private(KEY)
    drbg = seeded("mixed")
    for _ in range(100):
        a, b, k = drbg.between(-(1 << 60), 1 << 60), drbg.between(-(1 << 60), 1 << 60), drbg.bits(40)
        (ours,) = phe_conversion.to_phe_numbers(PUBLIC, [ENCRYPTOR.encrypt(a, drbg)], 0)
        there = (ours + their_public.encrypt(b)) * -k + a
        assert their_secret.decrypt(there) == -(a + b) * k + a
        (back,) = phe_conversion.from_phe_numbers(PUBLIC, [there], 0)
        here = paillier.add_plain(PUBLIC, paillier.multiply(PUBLIC, paillier.add(PUBLIC, back, back), k), -b)
        assert opened_here(here) == 2 * k * (-(a + b) * k + a) - b


def test_a_key_that_phe_made_decrypts_here_and_gives_no_owners_encryptor(phe: Any) -> None:
    their_public, their_secret = phe.generate_paillier_keypair(n_length=256)
    secret_key = phe_conversion.from_phe_private(their_secret, *LABEL)
    cs = phe_conversion.from_phe_numbers(secret_key.public, [their_public.encrypt(-7)], 0)
    (opened,) = paillier.Decryptor(secret_key).decrypt_many(cs, seeded("theirs"))
    assert paillier.centred(opened, secret_key.public.n) == -7
    with pytest.raises(KeyRejected, match="safe primes"):
        paillier.OwnerEncryptor(secret_key)


def test_fixed_point_numbers_keep_their_value_under_the_runs_exponent(phe: Any) -> None:
    their_secret, scale_bits = phe_conversion.to_phe_private(KEY), 16
    values = [1.5, -0.25, 3.0, -1000.0625]
    fixed = [int(value * 2**scale_bits) for value in values]
    numbers = phe_conversion.to_phe_numbers(PUBLIC, ENCRYPTOR.encrypt_many(fixed, seeded("fixed")), -scale_bits // 4)
    assert [their_secret.decrypt(number) for number in numbers] == values
    theirs = [phe_conversion.to_phe_public(PUBLIC).encrypt(value, precision=2.0**-scale_bits) for value in values]
    assert [opened_here(c) for c in phe_conversion.from_phe_numbers(PUBLIC, theirs, -scale_bits // 4)] == fixed


def test_the_exponent_that_phe_gives_a_float_shows_its_size_and_is_refused(phe: Any) -> None:
    theirs = phe_conversion.to_phe_public(PUBLIC)
    small, large = theirs.encrypt(0.0003), theirs.encrypt(30_000.0)
    assert small.exponent < large.exponent
    with pytest.raises(CiphertextRejected, match=f"number 1 has exponent {large.exponent}, the run's is"):
        phe_conversion.from_phe_numbers(PUBLIC, [small, large], small.exponent)


def test_a_plaintext_beyond_a_third_of_n_opens_here_and_overflows_there(phe: Any) -> None:
    c = ENCRYPTOR.encrypt(THIRD + 1, seeded("overflow"))
    assert opened_here(c) == THIRD + 1
    with pytest.raises(OverflowError):
        phe_conversion.to_phe_private(KEY).decrypt(phe_conversion.to_phe_numbers(PUBLIC, [c], 0)[0])


def test_conversion_does_not_re_randomise(phe: Any) -> None:
    c = ENCRYPTOR.encrypt(5, seeded("same"))
    assert phe_conversion.from_phe_numbers(PUBLIC, phe_conversion.to_phe_numbers(PUBLIC, [c], 0), 0) == [c]


# ---- refusals


BAD_CIPHERTEXTS = {
    "zero": (0, "is outside"),
    "n squared": (int(PUBLIC.n_squared), "is outside"),
    "a good one plus n squared": (7 + int(PUBLIC.n_squared), "is outside"),
    "negative": (-7, "is outside"),
    "p": (P, "shares a factor"),
    "n": (PUBLIC.n, "shares a factor"),
}


@pytest.mark.parametrize("name", BAD_CIPHERTEXTS)
def test_a_number_that_is_no_ciphertext_is_refused_both_ways(phe: Any, name: str) -> None:
    value, reason = BAD_CIPHERTEXTS[name]
    theirs = phe_conversion.to_phe_public(PUBLIC)
    numbers = [phe.EncryptedNumber(theirs, 1), phe.EncryptedNumber(theirs, value)]
    with pytest.raises(CiphertextRejected, match=f"ciphertext 1 {reason}"):
        phe_conversion.from_phe_numbers(PUBLIC, numbers, 0)
    with pytest.raises(CiphertextRejected, match=f"ciphertext 1 {reason}"):
        phe_conversion.to_phe_numbers(PUBLIC, [1, value], 0)


def test_a_randomiser_that_is_no_unit_opens_wrongly_there_and_is_refused_here(phe: Any) -> None:
    theirs = phe_conversion.to_phe_public(PUBLIC)
    number = theirs.encrypt(12345, r_value=P)
    assert gmpy2.gcd(number.ciphertext(be_secure=False), PUBLIC.n) == P
    assert phe_conversion.to_phe_private(KEY).raw_decrypt(number.ciphertext(be_secure=False)) != 12345
    with pytest.raises(CiphertextRejected, match="ciphertext 0 shares a factor"):
        phe_conversion.from_phe_numbers(PUBLIC, [number], 0)


def test_a_number_of_another_key_or_of_another_kind_is_refused(phe: Any) -> None:
    other = paillier.generate_secret_key(256, *LABEL, seeded("other")).public
    number = phe_conversion.to_phe_public(other).encrypt(5)
    with pytest.raises(CiphertextRejected, match="number 0 is encrypted under another key"):
        phe_conversion.from_phe_numbers(PUBLIC, [number], 0)
    with pytest.raises(CiphertextRejected, match="number 0 is no phe"):
        phe_conversion.from_phe_numbers(PUBLIC, [5], 0)


def test_a_key_object_that_does_not_hold_together_is_refused(phe: Any) -> None:
    public, secret = phe_conversion.to_phe_public(PUBLIC), phe_conversion.to_phe_private(KEY)
    public.g = 2
    with pytest.raises(KeyRejected, match="g = n"):
        phe_conversion.from_phe_public(public, *LABEL)
    secret.p = 23
    with pytest.raises(KeyRejected, match="primes of another modulus"):
        phe_conversion.from_phe_private(secret, *LABEL)
    composite = phe.PaillierPrivateKey(phe.PaillierPublicKey(15 * 23), 15, 23)
    with pytest.raises(KeyRejected, match="two distinct primes"):
        phe_conversion.from_phe_private(composite, *LABEL)
    for convert in (phe_conversion.from_phe_public, phe_conversion.from_phe_private):
        with pytest.raises(KeyRejected, match=r"is converted, got PublicKey"):
            convert(PUBLIC, *LABEL)


def test_without_the_extra_one_sentence_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "phe", None)
    for convert in (
        lambda: phe_conversion.to_phe_public(PUBLIC),
        lambda: phe_conversion.from_phe_private(None, *LABEL),
        lambda: phe_conversion.from_phe_numbers(PUBLIC, [], 0),
    ):
        with pytest.raises(ExtraMissing, match=r"install the extra: pip install 'lianxin\[phe\]'"):
            convert()
