"""Masks between pairs cancel in the sum and hide every part of it; values outside the ring are refused, not clipped."""

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torture import cases

from lianxin.crypto import pairwise_masks
from lianxin.crypto.errors import GroupElementRejected
from lianxin.crypto.pairwise_masks import MaskedVectorRejected, ValueOutsideRing
from lianxin.crypto.randomness import Drbg, derive_seed

PARTIES = ["bank-a", "bank-b", "bank-c", "bank-d", "bank-e", "bank-f"]


def agree(parties: list[str], seed: bytes = bytes(32)) -> dict[str, dict[str, bytes]]:
    """Return, for each party, its pair seed with each other one."""
    keys = {party: pairwise_masks.agreement_keypair(derive_seed(seed, party)) for party in parties}
    seeds: dict[str, dict[str, bytes]] = {party: {} for party in parties}
    for left, right in combinations(parties, 2):
        for own, peer in ((left, right), (right, left)):
            secret, public = keys[own][0], keys[peer][1]
            seeds[own][peer] = pairwise_masks.pair_seed(secret, public, "run-1", "test", (own, peer))
    return seeds


SEEDS = {count: agree(PARTIES[:count]) for count in range(2, 7)}


def mask_all(values: dict[str, list[int]], width_bits: int, label: str) -> dict[str, list[int]]:
    masked = {}
    for party, vector in values.items():
        mask = pairwise_masks.mask_vector(party, SEEDS[len(values)][party], label, len(vector), width_bits)
        masked[party] = pairwise_masks.apply_mask(vector, mask, width_bits)
    return masked


@cases(per_example=5)
@given(st.integers(0, 1 << 64), st.integers(1, 130), st.integers(0, 9))
def test_the_sum_of_masked_vectors_is_the_sum_of_the_values(seed: int, width_bits: int, length: int) -> None:
    drbg = Drbg(bytes(32)).child("test_pairwise_masks", seed)
    for count in range(2, 7):
        values = {party: [drbg.bits(width_bits) for _ in range(length)] for party in PARTIES[:count]}
        values["bank-a"] = [2**width_bits - 1] * length
        masked = mask_all(values, width_bits, "round-1")
        plain_sum = [sum(column) % 2**width_bits for column in zip(*values.values(), strict=True)]
        assert pairwise_masks.sum_masked(list(masked.values()), width_bits) == plain_sum


def _chi_square_of_bytes(values: list[int]) -> float:
    expected = len(values) / 256
    counts = [0] * 256
    for value in values:
        counts[value] += 1
    return sum((count - expected) ** 2 / expected for count in counts)


@pytest.mark.parametrize("count", range(2, 7))
def test_with_one_party_missing_the_sum_looks_uniform(count: int) -> None:
    values = {party: [3] * 20_000 for party in PARTIES[:count]}
    masked = list(mask_all(values, 8, "round-1").values())
    # 255 degrees of freedom: 400 is passed by chance once in 10^8.
    assert _chi_square_of_bytes(pairwise_masks.sum_masked(masked, 8)) > 1_000_000
    for missing in range(count):
        partial = pairwise_masks.sum_masked(masked[:missing] + masked[missing + 1 :], 8)
        assert _chi_square_of_bytes(partial) < 400


def test_both_parties_of_a_pair_derive_one_seed() -> None:
    seeds = SEEDS[3]
    assert seeds["bank-a"]["bank-b"] == seeds["bank-b"]["bank-a"]
    assert len({seed for own in seeds.values() for seed in own.values()}) == 3


def test_a_pair_seed_is_bound_to_run_context_names_and_keys() -> None:
    secret, public = pairwise_masks.agreement_keypair(b"\x01" * 32)
    _, peer = pairwise_masks.agreement_keypair(b"\x02" * 32)
    _, other_peer = pairwise_masks.agreement_keypair(b"\x03" * 32)
    assert public != peer
    seeds = {
        pairwise_masks.pair_seed(secret, key, run, context, pair)
        for key, run, context, pair in [
            (peer, "run-1", "round-1", ("a", "b")),
            (peer, "run-2", "round-1", ("a", "b")),
            (peer, "run-1", "round-2", ("a", "b")),
            (peer, "run-1r", "ound-1", ("a", "b")),
            (peer, "run-1", "round-1", ("a", "c")),
            (other_peer, "run-1", "round-1", ("a", "b")),
        ]
    }
    assert len(seeds) == 6


@pytest.mark.parametrize("public", [bytes(32), (1).to_bytes(32, "little"), bytes(31), bytes(33)])
def test_a_public_key_of_small_order_or_wrong_length_is_refused(public: bytes) -> None:
    secret, _ = pairwise_masks.agreement_keypair(b"\x01" * 32)
    with pytest.raises(GroupElementRejected, match="X25519"):
        pairwise_masks.pair_seed(secret, public, "run-1", "test", ("a", "b"))


def test_a_party_is_not_paired_with_itself() -> None:
    secret, public = pairwise_masks.agreement_keypair(b"\x01" * 32)
    with pytest.raises(ValueError, match="two different parties"):
        pairwise_masks.pair_seed(secret, public, "run-1", "test", ("a", "a"))
    with pytest.raises(ValueError, match="no mask with itself"):
        pairwise_masks.mask_vector("a", {"a": bytes(32)}, "round-1", 1, 8)


def test_masks_of_two_rounds_widths_or_lengths_share_nothing() -> None:
    seeds = SEEDS[2]["bank-a"]
    first = pairwise_masks.mask_vector("bank-a", seeds, "round-1", 50, 64)
    assert first == pairwise_masks.mask_vector("bank-a", seeds, "round-1", 50, 64)
    for other in (("round-2", 50, 64), ("round-1", 51, 64), ("round-1", 50, 63)):
        assert not set(first) & set(pairwise_masks.mask_vector("bank-a", seeds, *other))


def test_a_label_used_twice_shows_the_difference_of_the_values() -> None:
    first = mask_all({"bank-a": [10, 20], "bank-b": [0, 0]}, 32, "round-1")["bank-a"]
    again = mask_all({"bank-a": [11, 25], "bank-b": [0, 0]}, 32, "round-1")["bank-a"]
    fresh = mask_all({"bank-a": [11, 25], "bank-b": [0, 0]}, 32, "round-2")["bank-a"]
    assert [(b - a) % 2**32 for a, b in zip(first, again, strict=True)] == [1, 5]
    assert [(b - a) % 2**32 for a, b in zip(first, fresh, strict=True)] != [1, 5]


@pytest.mark.parametrize("bad", [-1, 2**16, 2**64])
def test_a_value_outside_the_ring_is_refused_and_never_clipped(bad: int) -> None:
    with pytest.raises(ValueOutsideRing, match="16 bits"):
        pairwise_masks.apply_mask([0, bad], [0, 0], 16)
    with pytest.raises(ValueOutsideRing, match="16 bits"):
        pairwise_masks.sum_masked([[0, 1], [2, bad]], 16)


def test_the_largest_value_of_the_ring_is_taken() -> None:
    assert pairwise_masks.apply_mask([2**16 - 1], [2], 16) == [1]


@pytest.mark.parametrize("vectors", [[], [[1], [1, 2]], [[1, 2], []]])
def test_vectors_that_are_missing_or_of_unequal_length_are_refused(vectors: list[list[int]]) -> None:
    with pytest.raises(MaskedVectorRejected):
        pairwise_masks.sum_masked(vectors, 16)


def test_a_ring_has_at_least_one_bit() -> None:
    with pytest.raises(ValueError, match="one bit"):
        pairwise_masks.mask_vector("a", {"b": bytes(32)}, "round-1", 1, 0)


@pytest.mark.parametrize(
    ("secret", "public"),
    [
        (
            "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a",
            "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a",
        ),
        (
            "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb",
            "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f",
        ),
    ],
)
def test_key_pairs_are_those_of_rfc_7748_section_6_1(secret: str, public: str) -> None:
    assert pairwise_masks.agreement_keypair(bytes.fromhex(secret)) == (bytes.fromhex(secret), bytes.fromhex(public))
