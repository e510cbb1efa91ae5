"""Row 10: masks that are a little too small leave the size of what they hide in the high bits of the sum.

Two rows, one whose residual is at the end of its range ("member") and one whose residual is 0, are looked at through
the slots that the other side opens; two identifiers, through the quotient that the bank finds above its answer. Under
our masks both look uniform and alike (chi-squared of the high bits, Kolmogorov and Smirnov between the two, p > 0.01,
seeded). The same tests catch masks that lack 40 statistical bits.
"""

from collections.abc import Callable, Sequence

import pytest
from conversations import contract_of
from scipy import stats
from torture import repeats

from lianxin.crypto import group, paillier, psi_paillier
from lianxin.crypto.intervals import unsigned
from lianxin.crypto.packing import SIGN_AND_CARRY_BITS, pack, read_slots
from lianxin.crypto.randomness import Drbg
from lianxin.federation import binning, scorecard

Q = group.ORDER
LAYOUTS = scorecard.plan_layouts(contract_of())
SLOTS, WIDTH = LAYOUTS.residual.slots, LAYOUTS.width_bits
MEMBER = scorecard.residual_ranges()["residual"].high
MODULUS = (1 << 2047) + (1 << 2046) + 139
HIGH_BITS, MISSING_BITS = 8, 40
Mask = Callable[[Drbg, int], int]


def seeded(name: str) -> Drbg:
    return Drbg(bytes(32)).child("test_10_small_masks", name)


def our_mask(drbg: Drbg, number: int) -> int:
    """The mask of a pack as the platform draws it."""
    return binning.mask_of(drbg, MODULUS, 0, number)


def weak_mask(drbg: Drbg, number: int) -> int:
    """As many bits a slot as the residual has, and no statistical ones: 40 short of what such masks should have."""
    stream = drbg.child("weak", number)
    return pack([stream.bits(MEMBER.bit_length()) for _ in range(SLOTS)], LAYOUTS.residual)


def opened_slots(residual: int, mask: Mask, drbg: Drbg, packs: range) -> list[int]:
    """Return every slot of packs full of one residual, as the bank reads them under the mask."""
    full = pack([residual] * SLOTS, LAYOUTS.residual)
    opened = ((full + mask(drbg, number)) % MODULUS for number in packs)
    return [slot for value in opened for slot in read_slots(value, LAYOUTS.residual, SLOTS)]


def p_uniform(values: Sequence[int], bits: int) -> float:
    """Return the p-value of chi-squared for the 8 highest of `bits` bits to be uniform."""
    counts = [0] * (1 << HIGH_BITS)
    for value in values:
        counts[value >> bits - HIGH_BITS] += 1
    return float(stats.chisquare(counts).pvalue)


def p_alike(left: Sequence[int], right: Sequence[int], bits: int) -> float:
    """Return the p-value of Kolmogorov and Smirnov for two samples of `bits` bits to come from one distribution."""
    scaled = [[(value >> max(0, bits - 50)) / 2.0**50 for value in sample] for sample in (left, right)]
    return float(stats.ks_2samp(*scaled).pvalue)


def test_slots_of_a_member_and_of_a_zero_are_uniform_and_alike_under_our_masks() -> None:
    packs = repeats("packs of slots under our masks, of a member and of zero", 10_000 // SLOTS + 1)
    member, zero = (opened_slots(r, our_mask, seeded(f"ours {r > 0}"), packs) for r in (MEMBER, 0))
    assert len(member) == len(zero) >= 10_000
    assert p_uniform(member, WIDTH) > 0.01 and p_uniform(zero, WIDTH) > 0.01
    assert p_alike(member, zero, WIDTH) > 0.01


def test_the_same_tests_tell_a_member_from_a_zero_under_masks_without_statistical_bits() -> None:
    packs = range(1000 // SLOTS)
    member, zero = (opened_slots(r, weak_mask, seeded(f"weak {r > 0}"), packs) for r in (MEMBER, 0))
    assert p_uniform(member, WIDTH) < 1e-9 and p_uniform(zero, WIDTH) < 1e-9
    assert p_alike(member, zero, WIDTH) < 1e-9
    threshold = 1 << MEMBER.bit_length()
    assert sum(slot >= threshold for slot in member) > len(member) // 3 and max(zero) < threshold


# ---- the quotient above a matching answer


@pytest.fixture(scope="module")
def secret_key() -> paillier.SecretKey:
    return paillier.generate_secret_key(1024, "bank-a", "matching", "run-1", seeded("key"))


def quotients(secret_key: paillier.SecretKey, scalar: int, bound_bits: int, drbg: Drbg, number: range) -> list[int]:
    """Return ⌊(a(x + k) + bq) / q⌋ for fresh a and b of step 2, b below ⌊n/q⌋ or, where it is less, 2^bound_bits."""
    n, oprf_key = secret_key.public.n, psi_paillier.draw_oprf_key(drbg)
    bound = min(n // Q, 1 << bound_bits)
    draws = ((psi_paillier._draw_exponent(drbg), drbg.below(bound)) for _ in number)
    return [(a * (scalar + oprf_key) + b * Q) % n // Q for a, b in draws]


def share(values: Sequence[int], n: int) -> list[int]:
    """Return the quotients as fractions of n/q with 60 bits."""
    return [(value << 60) // (n // Q + 1) for value in values]


def test_quotients_of_two_identifiers_are_uniform_and_alike_under_our_b(secret_key: paillier.SecretKey) -> None:
    n, number = secret_key.public.n, repeats("matching quotients of two identifiers", 10_000)
    left, right = (share(quotients(secret_key, x, 2048, seeded(f"b {x}"), number), n) for x in (0, Q - 1))
    assert p_uniform(left, 60) > 0.01 and p_uniform(right, 60) > 0.01
    assert p_alike(left, right, 60) > 0.01


def test_the_same_tests_catch_a_b_that_does_not_reach_over_the_product(secret_key: paillier.SecretKey) -> None:
    n, product_bits = secret_key.public.n, (psi_paillier.EXPONENT_BOUND * 2 * Q // Q).bit_length()
    weak = product_bits - MISSING_BITS
    near, far = (quotients(secret_key, x, weak, seeded(f"weak {x}"), range(1000)) for x in (0, Q - 1))
    bits = max(*near, *far).bit_length()
    assert p_alike(near, far, bits) < 1e-3
    assert p_uniform(share(near, n), 60) < 1e-9


def fractions(secret_key: paillier.SecretKey, answers: Sequence[tuple[int, bytes]], drbg: Drbg) -> list[float]:
    """Return what the bank decrypts, as fractions of n."""
    opened = paillier.Decryptor(secret_key).decrypt_many([c for c, _ in answers], drbg)
    return [value / secret_key.public.n for value in opened]


def test_the_answers_that_really_leave_decrypt_to_uniform_fractions_of_n(secret_key: paillier.SecretKey) -> None:
    public, drbg = secret_key.public, seeded("answers")
    queries = [paillier.encrypt_with(public, 5, drbg.between(2, public.n))] * 200
    ours = psi_paillier.evaluate_queries(public, 77, queries, bytes(32), drbg, expected_queries=1)
    assert stats.kstest(fractions(secret_key, ours, drbg), "uniform").pvalue > 0.01
    short = [(psi_paillier._draw_exponent(drbg), drbg.below(public.n // Q >> MISSING_BITS)) for _ in range(50)]
    weak = [psi_paillier._evaluate_with(public.n, 77, queries[0], a, b, 1) for a, b in short]
    assert stats.kstest(fractions(secret_key, weak, drbg), "uniform").pvalue < 1e-9


# ---- widths, from the types


def test_the_width_of_a_slot_follows_from_the_scales_and_the_bounds_of_the_contract() -> None:
    contract = contract_of()
    term_bits = scorecard.WOE_BITS + scorecard.SCORE_BITS + scorecard.SLOPE_BITS
    bound = contract.max_rows * len(contract.banks) * scorecard.WOE_LIMIT * scorecard.RESIDUAL_LIMIT << term_bits
    assert bound.bit_length() + SIGN_AND_CARRY_BITS == WIDTH
    assert (scorecard.SHIFT - 1) >> scorecard.SCORE_BITS < scorecard.SCORE_LIMIT
    assert SLOTS * WIDTH + 64 <= contract.key_bits < (SLOTS + 1) * WIDTH + 64


def test_every_statistical_mask_is_at_least_sixty_bits_longer_than_what_it_hides() -> None:
    contract = contract_of(max_rows=250_000)
    tags = unsigned(scorecard.TAG_BITS).total_at_most(contract.max_rows).high
    product = psi_paillier.EXPONENT_BOUND * 2 * Q
    packed = 1 << contract.key_bits - 64
    spans = {
        "tags of the label counts": (binning.tag_ring(contract), tags),
        "slots of a pack": (1 << contract.key_bits - 1, packed >> 1),
        "matching answers": (1 << contract.key_bits - 1, product),
        "matching answers, smallest modulus": (1 << psi_paillier.MIN_MODULUS_BITS - 1, product),
        "exponents over the group": (psi_paillier.EXPONENT_BOUND, Q),
    }
    assert {name for name, (mask, hidden) in spans.items() if mask < hidden << 60} == set()
