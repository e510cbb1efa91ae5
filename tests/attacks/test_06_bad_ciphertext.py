"""Row 6: integers that are no ciphertexts, sent as ciphertexts."""

import gmpy2
import pytest
from gmpy2 import powmod
from hypothesis import given
from hypothesis import strategies as st
from torture import cases

from lianxin.crypto import paillier
from lianxin.crypto.errors import CiphertextRejected, DecryptionFault
from lianxin.crypto.randomness import Drbg


def seeded(name: str) -> Drbg:
    return Drbg(bytes(32)).child("test_06_bad_ciphertext", name)


KEY = paillier.generate_secret_key(256, "bank-a", "P4", "run-1", seeded("key"))
PUBLIC, (P, Q) = KEY.public, KEY.reveal_primes()
N, SQUARE, SIZE = PUBLIC.n, int(PUBLIC.n_squared), PUBLIC.ciphertext_bytes
GOOD = paillier.OwnerEncryptor(KEY).encrypt_many(range(20), seeded("good"))
BAD = {
    "0": (0, "is outside"),
    "n squared": (SQUARE, "is outside"),
    "n squared + 1": (SQUARE + 1, "is outside"),
    "the largest that fits": ((1 << 8 * SIZE) - 1, "is outside"),
    "n": (N, "shares a factor"),
    "n squared - n": (SQUARE - N, "shares a factor"),
    "p": (P, "shares a factor"),
    "a multiple of p squared": (P * P * 7, "shares a factor"),
    "a multiple of q": (Q * (N + 2), "shares a factor"),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("place", [0, 7, 20])
def test_an_integer_that_is_no_ciphertext_is_refused_with_its_place(name: str, place: int) -> None:
    value, reason = BAD[name]
    data = paillier.encode_ciphertexts(PUBLIC, [*GOOD[:place], value, *GOOD[place:]])
    with pytest.raises(CiphertextRejected, match=f"ciphertext {place} {reason}"):
        paillier.decode_ciphertexts(PUBLIC, data)


def test_a_negative_integer_is_neither_checked_nor_encoded() -> None:
    with pytest.raises(CiphertextRejected, match="ciphertext 1 is outside"):
        paillier.check_ciphertexts(PUBLIC, [1, -1])
    with pytest.raises(OverflowError):
        paillier.encode_ciphertexts(PUBLIC, [-1])


def test_good_ciphertexts_come_back_and_one_is_a_unit_like_any_other() -> None:
    assert paillier.decode_ciphertexts(PUBLIC, paillier.encode_ciphertexts(PUBLIC, [*GOOD, 1])) == [*GOOD, 1]
    assert paillier.decode_ciphertexts(PUBLIC, b"") == []


@pytest.mark.parametrize(
    "change", [lambda d: b"\x00" + d, lambda d: d[1:], lambda d: d + b"\x00", lambda d: d[: SIZE // 2]]
)
def test_leading_zeros_and_other_lengths_are_refused(change) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(CiphertextRejected, match="no whole number"):
        paillier.decode_ciphertexts(PUBLIC, change(paillier.encode_ciphertexts(PUBLIC, GOOD[:3])))


def test_without_the_range_check_one_ciphertext_would_have_two_encodings() -> None:
    twin = GOOD[3] + SQUARE
    opened = [paillier.Decryptor(KEY).decrypt(c, seeded("twins")) for c in (GOOD[3], twin)]
    assert opened == [3, 3] and gmpy2.gcd(twin, N) == 1 and twin < 1 << 8 * SIZE
    with pytest.raises(CiphertextRejected, match="ciphertext 0 is outside"):
        paillier.decode_ciphertexts(PUBLIC, twin.to_bytes(SIZE, "big"))


def test_without_the_check_of_units_a_crafted_sum_shows_a_factor_to_whoever_adds_it() -> None:
    spoilt = GOOD[0]
    for c in (*GOOD[1:], 7 * P):
        spoilt = paillier.add(PUBLIC, spoilt, c)
    assert gmpy2.gcd(spoilt, N) == P
    with pytest.raises(CiphertextRejected, match="ciphertext 20 shares a factor"):
        paillier.check_ciphertexts(PUBLIC, [*GOOD, 7 * P])


def is_refused(values: list[int]) -> bool:
    try:
        paillier.check_ciphertexts(PUBLIC, values)
    except CiphertextRejected:
        return True
    return False


elements = st.one_of(
    st.sampled_from(GOOD),
    st.integers(-5, SQUARE + 5),
    st.integers(0, N + 1).map(lambda k: k * P),
    st.sampled_from([0, 1, Q, N]),
)


@cases(per_example=10)
@given(pool=st.lists(elements, min_size=8, max_size=8))
def test_the_batch_is_refused_exactly_when_one_of_it_is_and_exactly_by_the_definition(pool: list[int]) -> None:
    alone = [is_refused([value]) for value in pool]
    assert alone == [not (0 < value < SQUARE and gmpy2.gcd(value, N) == 1) for value in pool]
    for batch in (slice(start, start + length) for start in range(5) for length in (2, 4)):
        assert is_refused(pool[batch]) == any(alone[batch])
    assert is_refused(pool) == any(alone)


def test_a_randomiser_that_shares_a_factor_decrypts_to_a_wrong_plaintext_in_a_library_that_does_not_check() -> None:
    m = 12345
    c = int((1 + N * m) * powmod(P, N, SQUARE) % SQUARE)
    order = (P - 1) * (Q - 1)
    unchecked = (pow(c, order, SQUARE) - 1) // N * pow(order, -1, N) % N
    assert unchecked != m
    with pytest.raises(DecryptionFault):
        paillier.Decryptor(KEY).decrypt(c, seeded("oracle"))
    with pytest.raises(CiphertextRejected):
        paillier.check_ciphertexts(PUBLIC, [c])


@pytest.mark.parametrize("value", [0, P, Q, N, SQUARE])
def test_decryption_itself_gives_no_plaintext_for_what_is_no_unit(value: int) -> None:
    with pytest.raises(DecryptionFault, match="no unit"):
        paillier.Decryptor(KEY).decrypt(value, seeded("decrypt"))
