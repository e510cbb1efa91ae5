"""The contract's bounds prove, step by step, that no packed value of a run overflows its slot (protocols.md, 4 and 5).

Rows come as near to the proved ranges as the public table lets them, sums reach them, and one bit less overflows.
"""

from functools import cache

import numpy as np
import pytest
from conversations import contract_of
from torture import IS_TORTURE, repeats

from lianxin.crypto import paillier
from lianxin.crypto.errors import PackingOverflow
from lianxin.crypto.intervals import Interval, unsigned
from lianxin.crypto.packing import SlotLayout, centre, prove_fits, read_slots
from lianxin.crypto.randomness import Drbg
from lianxin.federation import binning, contract, scorecard
from lianxin.federation.contract import RunContract
from lianxin.federation.star import BankStar
from lianxin.parties.agreement import _fits

LARGEST = contract._INTEGERS["max_rows"][1]
MODULUS = (1 << 2047) + (1 << 2046) + 139
polynomial = cache(scorecard.residual_polynomial)


def seeded(name: str) -> Drbg:
    return Drbg(bytes(32)).child("test_overflow_proof", name)


def sized(rows: int, banks: int, key_bits: int = 2048) -> RunContract:
    return RunContract({**contract_of(banks).record, "max_rows": rows, "key_bits": key_bits})


@pytest.mark.parametrize("banks", [1, 3, 64])
@pytest.mark.parametrize("rows", [64, 1024, 30_000, 132_000, 250_000, LARGEST])
def test_layouts_come_with_their_proof_and_have_the_widths_of_the_protocol(rows: int, banks: int) -> None:
    layouts = scorecard.plan_layouts(sized(rows, banks))
    bound = rows * banks * (6 << 12) * (64 << 56)
    assert layouts.width_bits == bound.bit_length() + 2
    assert layouts.masks.width_bits == layouts.width_bits + (rows << 15).bit_length() + 1
    assert layouts.rounding_bits == bound.bit_length() - 24
    assert all(0 < step.bits_needed <= step.bits_available for step in layouts.proof)
    assert len({step.name for step in layouts.proof}) >= 12


@pytest.mark.parametrize("rows", [250_000, LARGEST])
def test_a_ciphertext_of_2048_bits_sums_at_least_eight_packed_values_at_the_largest_contract(rows: int) -> None:
    assert scorecard.plan_layouts(sized(rows, 1)).residual.slots >= 8
    assert scorecard.plan_layouts(sized(rows, 64)).residual.slots >= 8
    assert scorecard.plan_layouts(sized(rows, 64)).masks.slots >= 8


def test_the_ring_of_tag_shares_is_the_one_that_is_proved() -> None:
    assert binning.tag_ring(contract_of()) == unsigned(contract_of().key_bits - scorecard.TAG_SHIFT - 2).high + 1


def grid() -> list[tuple[int, int]]:
    """Return the public grid; in `make test` all means of the four smallest spreads, every eighth of the others."""
    means, step = range(-scorecard.MEAN_STEPS, scorecard.MEAN_STEPS + 1), 1 if IS_TORTURE else 8
    spreads = range(1, scorecard.SPREAD_STEPS + 1)
    return [(mean, spread) for spread in spreads for mean in (means if spread <= 4 else means[::step])]


def test_the_coefficient_limits_cover_the_public_grid_and_are_hardly_wider() -> None:
    largest = np.abs([polynomial(*cell) for cell in grid()]).max(axis=0) * 2**10
    assert all(largest <= scorecard.COEFFICIENT_LIMITS)
    assert all(largest >= [limit - 2 for limit in scorecard.COEFFICIENT_LIMITS])


def row_values(cell: tuple[int, int], scores_b: list[float], scores_a: list[float], label: int) -> dict[str, list[int]]:
    """Return what both sides compute for rows at these scores, by the names of the proof."""
    constants, slopes = scorecard.residual_shares(polynomial(*cell), np.array(scores_b), [label] * len(scores_b))
    fixed = scorecard.fixed_scores(np.array(scores_a))
    squares = scorecard.square_terms(polynomial(*cell), fixed)
    scaled = [slope * (z + scorecard.SHIFT) for slope, z in zip(slopes, fixed, strict=True)]
    sums = [c + s + q for c, s, q in zip(constants, scaled, squares, strict=True)]
    return {
        "slope": slopes,
        "constant less shifted slope": constants,
        "slope times exponent": scaled,
        "square term": squares,
        "residual": sums,
    }


def test_no_row_leaves_the_proved_ranges_and_the_worst_one_comes_within_a_tenth_of_them() -> None:
    drbg, proved = seeded("rows"), scorecard.residual_ranges()
    corners = [(b, a) for b in (-16.0, 16.0) for a in (-16.0, 16.0)]
    worst = dict.fromkeys(proved, 0)
    for cell in grid():
        inner = [(drbg.below(33) - 16.0, drbg.below(33) - 16.0) for _ in range(4)]
        scores_b, scores_a = zip(*corners, *inner, strict=True)
        for name, values in row_values(cell, list(scores_b), list(scores_a), drbg.below(2)).items():
            assert proved[name].includes(Interval(min(values), max(values))), name
            worst[name] = max(worst[name], *map(abs, values))
    assert worst["residual"] >= 0.9 * proved["residual"].magnitude
    assert all(worst[name] >= 0.7 * reached.magnitude for name, reached in proved.items())


def extreme_sums(drbg: Drbg, reached: Interval, slots: int) -> list[int]:
    """Return a sum a slot: its least or its largest value, or one next to it."""
    ends, choice = (reached.low, reached.low + 1, reached.high - 1, reached.high), drbg.bits(2 * slots)
    return [ends[choice >> 2 * slot & 3] for slot in range(slots)]


def misread(totals: list[int], layout: SlotLayout, mask: int) -> bool:
    """Return whether a slot of the packed totals under the mask differs from total and mask by more than a carry."""
    packed = sum(total << layout.shift(index) for index, total in enumerate(totals))
    seen, masked = (read_slots(value, layout, layout.slots) for value in ((packed + mask) % MODULUS, mask))
    differences = (centre(a - b, layout.width_bits) for a, b in zip(seen, masked, strict=True))
    return any(abs(difference - total) > 1 for difference, total in zip(differences, totals, strict=True))


def test_random_extreme_sums_over_banks_packed_and_masked_never_leave_their_slots() -> None:
    drbg, layout = seeded("extremes"), scorecard.plan_layouts(sized(LARGEST, 3)).residual
    one = scorecard.gradient_range(LARGEST)
    for _ in repeats("extreme vectors, packed, summed and masked", 10_000):
        packs = [extreme_sums(drbg, one, layout.slots) for _ in range(3)]
        totals = [sum(column) for column in zip(*packs, strict=True)]
        assert not misread(totals, layout, drbg.below(MODULUS))


def test_at_the_bits_of_the_bound_alone_extreme_sums_overflow_and_the_proof_refuses_them() -> None:
    drbg, layouts = seeded("one less"), scorecard.plan_layouts(sized(LARGEST, 3))
    gradient = scorecard.gradient_range(LARGEST).total(3)
    enough, narrow = (SlotLayout(layouts.width_bits - less, layouts.residual.slots, 2048) for less in (1, 2))
    assert prove_fits(enough, {"gradient": gradient})[0].bits_needed == enough.width_bits
    with pytest.raises(PackingOverflow, match=f"gradient may need {enough.width_bits} bits, .* {narrow.width_bits};"):
        prove_fits(narrow, {"gradient": gradient})
    for _ in range(100):
        totals = extreme_sums(drbg, gradient, narrow.slots)
        assert misread(totals, narrow, drbg.below(MODULUS))
        assert not misread(totals, enough, drbg.below(MODULUS))


def test_extreme_sums_of_masks_never_leave_their_slots_and_do_in_narrower_ones() -> None:
    drbg, layouts = seeded("mask sums"), scorecard.plan_layouts(sized(LARGEST, 3))
    masks = layouts.masks
    reached = scorecard.mask_sum_range(LARGEST, layouts.width_bits)
    narrow = SlotLayout(masks.width_bits - 1, masks.slots, 2048)
    for _ in repeats("extreme sums of masks", 1000):
        sums = extreme_sums(drbg, reached, masks.slots)
        assert not misread(sums, masks, drbg.below(MODULUS))
    assert misread([reached.high] * masks.slots, narrow, drbg.below(MODULUS))


TOO_WIDE = {
    "a coefficient": ("COEFFICIENT_LIMITS", (1024, 295, 60), "residual under its limit"),
    "a shift": ("SHIFT", 1 << 22, "exponent, score and shift"),
    "a scale": ("RESIDUAL_LIMIT", 1 << 2000, "does not fit 2048"),
}


@pytest.mark.parametrize("name", TOO_WIDE)
def test_terms_that_do_not_fit_are_refused_by_name_before_anything_is_encrypted(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    encrypted: list[int] = []
    monkeypatch.setattr(paillier.OwnerEncryptor, "encrypt_many", lambda *_: encrypted.append(1))
    constant, value, reason = TOO_WIDE[name]
    columns = binning.Columns((tuple(row % 2 for row in range(60)),), (2,))
    labels = [row % 2 for row in range(60)]
    BankStar(contract_of(), "bank-1", labels, columns)
    monkeypatch.setattr(scorecard, constant, value)
    with pytest.raises(PackingOverflow, match=reason):
        BankStar(contract_of(), "bank-1", labels, columns)
    assert not _fits(contract_of()) and not encrypted


def test_more_rows_than_a_count_has_bits_are_refused_by_name() -> None:
    scorecard.plan_layouts(sized((1 << 32) - 1, 1))
    with pytest.raises(PackingOverflow, match="rows of a bin may need 33 bits, available are 32;"):
        scorecard.plan_layouts(sized(1 << 32, 1))
