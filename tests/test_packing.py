"""Slots: what fits, what is refused, and what a mask over all of Z_n does to them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lianxin.crypto.errors import PackingOverflow
from lianxin.crypto.packing import FREE_BITS, SlotLayout, centre, check_bounds, pack, plan_layout, read_slots
from lianxin.crypto.randomness import Drbg

many = settings(max_examples=1000, derandomize=True, deadline=None)
BOUND = 10**9
LAYOUT = plan_layout(BOUND, 512)
values_in_bounds = st.lists(st.integers(-BOUND, BOUND), max_size=LAYOUT.slots)


def seeded(name: str) -> Drbg:
    return Drbg(bytes(32)).child("test_packing", name)


@pytest.mark.parametrize(("bound_bits", "width", "slots"), [(92, 94, 21), (95, 97, 20), (1982, 1984, 1)])
def test_a_layout_at_2048_bits_has_the_protocols_widths_and_slots(bound_bits: int, width: int, slots: int) -> None:
    assert plan_layout((1 << bound_bits) - 1, 2048) == SlotLayout(width, slots, 2048)


@given(bound=st.integers(1, 1 << 4000), modulus_bits=st.integers(66, 4096))
@many
def test_a_layout_holds_its_bound_and_leaves_64_bits_or_is_refused(bound: int, modulus_bits: int) -> None:
    try:
        layout = plan_layout(bound, modulus_bits)
    except PackingOverflow:
        assert bound.bit_length() + 2 + FREE_BITS > modulus_bits
        return
    top = layout.slots * layout.width_bits + FREE_BITS
    assert top <= modulus_bits < top + layout.width_bits
    extremes = [bound if slot % 2 else -bound for slot in range(layout.slots)]
    assert abs(pack(extremes, layout)) < 1 << (modulus_bits - FREE_BITS)
    assert centre(bound, layout.width_bits) == bound and centre(-bound, layout.width_bits) == -bound


@given(values=values_in_bounds)
@many
def test_packed_values_come_back_up_to_the_borrow_of_a_negative_neighbour(values: list[int]) -> None:
    packed = pack(values, LAYOUT) % (1 << 448)
    read = [centre(slot, LAYOUT.width_bits) for slot in read_slots(packed, LAYOUT, len(values))]
    borrows = [-1 if pack(values[:slot], LAYOUT) < 0 else 0 for slot in range(len(values))]
    assert read == [value + borrow for value, borrow in zip(values, borrows, strict=True)]


@given(values=st.lists(st.integers(0, (1 << LAYOUT.width_bits) - 1), max_size=LAYOUT.slots))
@many
def test_unsigned_masks_come_back_exactly(values: list[int]) -> None:
    assert read_slots(pack(values, LAYOUT), LAYOUT, len(values)) == values


@given(values=values_in_bounds, seed=st.integers(0, 1 << 32))
@many
def test_slots_under_a_mask_of_the_whole_modulus_differ_from_it_by_the_values_and_one_carry(
    values: list[int], seed: int
) -> None:
    n = (1 << 511) + 187
    mask = Drbg(bytes(32)).child(seed).below(n)
    seen, masked = (pack(values, LAYOUT) + mask) % n, read_slots(mask, LAYOUT, len(values))
    for slot, value in enumerate(values):
        difference = centre(read_slots(seen, LAYOUT, len(values))[slot] - masked[slot], LAYOUT.width_bits)
        assert difference - value in (-1, 0, 1)


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


def test_ten_thousand_extreme_sums_never_leave_their_slot() -> None:
    rows, drbg = 1000, seeded("extremes")
    layout = plan_layout(rows * (1 << 40), 1024)
    for _ in range(10_000):
        total = rows * ((1 << 40) - drbg.below(2)) * (1 if drbg.below(2) else -1)
        slot = drbg.below(layout.slots)
        packed = (total << layout.shift(slot)) % (1 << 960)
        assert centre(read_slots(packed, layout, layout.slots)[slot], layout.width_bits) == total
