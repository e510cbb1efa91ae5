"""Slots: what fits, what is refused, what a mask over all of Z_n does to them, and a proof that nothing overflows."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torture import cases

from lianxin.crypto.errors import PackingOverflow
from lianxin.crypto.intervals import Interval, around, unsigned
from lianxin.crypto.packing import (
    FREE_BITS,
    SlotLayout,
    centre,
    check_bounds,
    pack,
    plan_layout,
    prove_fits,
    prove_within,
    read_slots,
)
from lianxin.crypto.randomness import Drbg

BOUND = 10**9
LAYOUT = plan_layout(BOUND, 512)
POOLS = st.lists(
    st.integers(-BOUND, BOUND) | st.sampled_from([-BOUND, 0, BOUND]), min_size=LAYOUT.slots, max_size=LAYOUT.slots
)


def vectors(pool: list[int]) -> list[list[int]]:
    """Return ten lists of the pool's values, in other orders and of other lengths."""
    turned = [pool[k:] + pool[:k] for k in range(5)]
    return [*turned, *(one[: k + 1] for k, one in enumerate(turned))]


@pytest.mark.parametrize(("bound_bits", "width", "slots"), [(92, 94, 21), (95, 97, 20), (1982, 1984, 1)])
def test_a_layout_at_2048_bits_has_the_protocols_widths_and_slots(bound_bits: int, width: int, slots: int) -> None:
    assert plan_layout((1 << bound_bits) - 1, 2048) == SlotLayout(width, slots, 2048)


@cases(per_example=10)
@given(longest=st.integers(1, 1 << 4000), modulus_bits=st.integers(66, 4096))
def test_a_layout_holds_its_bound_and_leaves_64_bits_or_is_refused(longest: int, modulus_bits: int) -> None:
    for bound in (1 + (longest >> 399 * step) for step in range(10)):
        try:
            layout = plan_layout(bound, modulus_bits)
        except PackingOverflow:
            assert bound.bit_length() + 2 + FREE_BITS > modulus_bits
            continue
        top = layout.slots * layout.width_bits + FREE_BITS
        assert top <= modulus_bits < top + layout.width_bits
        extremes = [bound if slot % 2 else -bound for slot in range(layout.slots)]
        assert abs(pack(extremes, layout)) < 1 << (modulus_bits - FREE_BITS)
        assert centre(bound, layout.width_bits) == bound and centre(-bound, layout.width_bits) == -bound


@cases(per_example=10)
@given(pool=POOLS)
def test_packed_values_come_back_up_to_the_borrow_of_a_negative_neighbour(pool: list[int]) -> None:
    for values in vectors(pool):
        packed = pack(values, LAYOUT) % (1 << 448)
        read = [centre(slot, LAYOUT.width_bits) for slot in read_slots(packed, LAYOUT, len(values))]
        borrows = [-1 if pack(values[:slot], LAYOUT) < 0 else 0 for slot in range(len(values))]
        assert read == [value + borrow for value, borrow in zip(values, borrows, strict=True)]


@cases(per_example=10)
@given(pool=POOLS)
def test_unsigned_masks_come_back_exactly(pool: list[int]) -> None:
    for values in vectors([value % (1 << LAYOUT.width_bits) for value in pool]):
        assert read_slots(pack(values, LAYOUT), LAYOUT, len(values)) == values


@cases(per_example=10)
@given(pool=POOLS, seed=st.integers(0, 1 << 32))
def test_slots_under_a_mask_of_the_whole_modulus_differ_from_it_by_the_values_and_one_carry(
    pool: list[int], seed: int
) -> None:
    n, drbg = (1 << 511) + 187, Drbg(bytes(32)).child("test_packing", seed)
    for values in vectors(pool):
        mask = drbg.below(n)
        seen = read_slots((pack(values, LAYOUT) + mask) % n, LAYOUT, len(values))
        masked = read_slots(mask, LAYOUT, len(values))
        for value, with_it, without in zip(values, seen, masked, strict=True):
            assert centre(with_it - without, LAYOUT.width_bits) - value in (-1, 0, 1)


def test_a_shift_is_the_place_of_the_index_modulo_the_slots() -> None:
    layout = SlotLayout(94, 21, 2048)
    assert [layout.shift(index) for index in (0, 1, 20, 21, 43)] == [0, 94, 1880, 0, 94]


@pytest.mark.parametrize("bound", [0, -5, 1 << 1983])
def test_a_bound_that_no_slot_can_hold_is_refused(bound: int) -> None:
    with pytest.raises(PackingOverflow):
        plan_layout(bound, 2048)


@pytest.mark.parametrize(("width", "slots"), [(0, 1), (10, 0), (94, 22)])
def test_a_layout_that_does_not_fit_its_modulus_cannot_be_made(width: int, slots: int) -> None:
    with pytest.raises(PackingOverflow):
        SlotLayout(width, slots, 2048)


@pytest.mark.parametrize("values", [[1 << 32], [-(1 << 31) - 1], [0] * 15])
def test_a_value_or_a_count_beyond_the_slots_is_refused(values: list[int]) -> None:
    layout = SlotLayout(32, 14, 512)
    with pytest.raises(PackingOverflow):
        pack(values, layout)
    with pytest.raises(PackingOverflow):
        read_slots(0, layout, 15)


def test_bounds_are_inclusive_and_a_refusal_names_the_place_but_no_value() -> None:
    check_bounds([BOUND, -BOUND, 0], BOUND)
    with pytest.raises(PackingOverflow, match="value 2 exceeds") as refusal:
        check_bounds([0, 1, -BOUND - 1], BOUND)
    assert str(BOUND + 1) not in str(refusal.value)


def test_a_proof_names_each_step_with_the_bits_it_needs_and_has() -> None:
    layout = SlotLayout(10, 3, 128)
    steps = prove_fits(layout, {"score": around(100), "count": Interval(0, 511)})
    assert [(step.name, step.bits_needed, step.bits_available) for step in steps] == [
        ("score", 8, 10),
        ("count", 10, 10),
        ("all slots together", 30, 64),
    ]


@pytest.mark.parametrize("reached", [Interval(0, 512), Interval(-513, 0), around(1 << 40)])
def test_the_first_range_that_does_not_fit_its_slot_is_named_with_its_bits(reached: Interval) -> None:
    fine, layout = around(100), SlotLayout(10, 3, 128)
    message = f"wide may need {reached.signed_bits} bits, available are 10;"
    with pytest.raises(PackingOverflow, match=message):
        prove_fits(layout, {"fine": fine, "wide": reached, "wider": around(1 << 50)})


def test_a_proof_of_nothing_is_refused() -> None:
    with pytest.raises(PackingOverflow, match="at least one range"):
        prove_fits(SlotLayout(10, 3, 128), {})


@pytest.mark.parametrize(
    ("reached", "needed"), [(Interval(0, 256), "9 bits,"), (Interval(-1, 0), "1 bits with a sign,")]
)
def test_a_field_without_a_sign_takes_its_largest_value_and_neither_more_nor_a_negative_one(
    reached: Interval, needed: str
) -> None:
    assert prove_within("rows", Interval(0, 255), unsigned(8)).bits_needed == 8
    with pytest.raises(PackingOverflow, match=f"rows may need {needed} available are 8;"):
        prove_within("rows", reached, unsigned(8))


@cases(per_example=5)
@given(low=st.integers(-(1 << 90), 1 << 90), length=st.integers(0, 1 << 90))
def test_a_range_is_proved_exactly_when_every_value_of_it_is_read_back(low: int, length: int) -> None:
    reached = Interval(low, low + length)
    for width in range(max(1, reached.signed_bits - 4), reached.signed_bits + 5):
        is_read = all(centre(end, width) == end for end in (reached.low, reached.high))
        try:
            prove_fits(SlotLayout(width, 1, 256), {"value": reached})
        except PackingOverflow:
            assert not is_read
        else:
            assert is_read
