"""Any threshold of shares gives the secret, fewer say nothing; boxes between a pair open for that pair alone."""

from itertools import combinations, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torture import cases

from lianxin.crypto import pair_boxes, shamir
from lianxin.crypto.pair_boxes import BoxRejected
from lianxin.crypto.randomness import Drbg
from lianxin.crypto.shamir import ShareRejected


def drbg(*labels: int | str) -> Drbg:
    return Drbg(bytes(32)).child("test_shamir", *labels)


@cases(per_example=4)
@given(st.integers(0, 1 << 64), st.integers(1, 12))
def test_any_threshold_of_the_shares_gives_the_secret_and_more_change_nothing(seed: int, parties: int) -> None:
    stream = drbg(seed, parties)
    secret = shamir.draw_secret(stream)
    for threshold in {1, (parties + 1) // 2, max(1, parties - 1), parties}:
        shares = dict(enumerate(shamir.split(secret, threshold, parties, stream), start=1))
        order = list(shares)
        stream.shuffle(order)
        assert shamir.combine({place: shares[place] for place in order[:threshold]}, threshold) == secret
        assert shamir.combine(shares, threshold) == secret


def test_one_share_less_than_the_threshold_fits_every_secret_equally() -> None:
    secret = shamir.draw_secret(drbg("hidden"))
    shares = dict(enumerate(shamir.split(secret, 3, 5, drbg("split")), start=1))
    for few in combinations(shares, 2):
        known = {place: shares[place] for place in few}
        assert shamir.combine({**known, 9: bytes(32)}, 3) != secret
        with pytest.raises(ShareRejected):
            shamir.combine(known, 3)


def test_the_first_coefficients_are_the_known_ones_of_a_line() -> None:
    """f(x) = 7 + a·x over the field: shares of a line differ by a, which pins the polynomial's evaluation."""
    shares = [int.from_bytes(share, "big") for share in shamir.split((7).to_bytes(32, "big"), 2, 4, drbg("line"))]
    slopes = {(after - before) % shamir.PRIME for before, after in pairwise(shares)}
    assert len(slopes) == 1 and (shares[0] - slopes.pop()) % shamir.PRIME == 7


def test_the_prime_is_the_largest_below_two_to_the_256() -> None:
    import gmpy2

    assert gmpy2.is_prime(shamir.PRIME, 40)
    assert gmpy2.next_prime(shamir.PRIME) > 2**256


BAD_SHARES = {
    "none at all": {},
    "too few": {1: bytes(32)},
    "place zero, which is the secret itself": {0: bytes(32), 1: bytes(32)},
    "a share that is too short": {1: bytes(32), 2: bytes(31)},
    "a share above the prime": {1: bytes(32), 2: b"\xff" * 32},
}


@pytest.mark.parametrize("case", BAD_SHARES)
def test_what_is_no_share_is_refused(case: str) -> None:
    with pytest.raises(ShareRejected):
        shamir.combine(BAD_SHARES[case], 2)


def test_a_secret_above_the_prime_and_a_threshold_above_the_parties_are_refused() -> None:
    with pytest.raises(ShareRejected):
        shamir.split(b"\xff" * 32, 2, 3, drbg("x"))
    for threshold in (0, 4):
        with pytest.raises(ValueError, match="threshold"):
            shamir.split(bytes(32), threshold, 3, drbg("x"))


# ---- boxes

SECRET, TEXT = b"s" * 32, b"what only the recipient reads"


def test_a_box_opens_for_its_recipient_and_is_sixteen_bytes_longer() -> None:
    box = pair_boxes.seal_box(SECRET, "label", "a", "b", TEXT, b"bound")
    assert pair_boxes.open_box(SECRET, "label", "a", "b", box, b"bound") == TEXT and len(box) == len(TEXT) + 16


BAD_BOXES = {
    "another secret": ((b"t" * 32, "label", "a", "b"), b"bound", 0),
    "another label": ((SECRET, "label2", "a", "b"), b"bound", 0),
    "the other direction": ((SECRET, "label", "b", "a"), b"bound", 0),
    "names that run together": ((SECRET, "labela", "", "b"), b"bound", 0),
    "another bound text": ((SECRET, "label", "a", "b"), b"bounds", 0),
    "one bit altered": ((SECRET, "label", "a", "b"), b"bound", 1),
}


@pytest.mark.parametrize("case", BAD_BOXES)
def test_a_box_of_another_pair_label_direction_or_text_does_not_open(case: str) -> None:
    place, bound, flip = BAD_BOXES[case]
    box = bytearray(pair_boxes.seal_box(SECRET, "label", "a", "b", TEXT, b"bound"))
    box[3] ^= flip
    with pytest.raises(BoxRejected):
        pair_boxes.open_box(*place, bytes(box), bound)
