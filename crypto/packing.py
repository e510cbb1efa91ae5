"""Several bounded integers in one plaintext, with slots that are read modulo 2^W (protocols.md, section 5).

|v| <= bound fits W = bits(bound) + 2 bits with its sign and a spare one; S = ⌊(|n| - 64) / W⌋ slots leave 64 bits free
at the top. For the packed T = Σ t_k·2^{Wk} and a mask M uniform over all of Z_n, V = (T + M) mod n is uniform, and

    slot_k(V) - slot_k(M) = t_k + e_k  (mod 2^W),  e_k in {-1, 0, 1},

except when T + M wraps around n, which the 64 free bits keep under 2^-63. The carries e_k are noise in the last place.
A mask that covers only the slots leaves the top of a crafted plaintext readable; that attack is a test.

That nothing overflows is proved and not hoped for: `prove_fits` takes the range of every value that a slot will hold,
carries and rounding included, from interval arithmetic over the contract's bounds (`intervals`). Its slack is one bit:
bits(bound) + 1 hold the bound itself and the spare bit takes the noise; at bits(bound) an extreme value is misread.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add, or_

from lianxin.crypto.errors import PackingOverflow
from lianxin.crypto.intervals import Interval, signed

FREE_BITS = 64
SIGN_AND_CARRY_BITS = 2


@dataclass(frozen=True)
class SlotLayout:
    """`slots` slots of `width_bits` each under a modulus of `modulus_bits`; PackingOverflow if they don't fit."""

    width_bits: int
    slots: int
    modulus_bits: int

    def __post_init__(self) -> None:
        if self.width_bits < 1 or self.slots < 1:
            raise PackingOverflow("a layout has at least one slot of at least one bit")
        if self.width_bits * self.slots + FREE_BITS > self.modulus_bits:
            raise PackingOverflow(
                f"{self.slots} slots of {self.width_bits} bits and {FREE_BITS} free bits exceed {self.modulus_bits}"
            )

    def shift(self, index: int) -> int:
        """Return the place, in bits, of the slot that the index-th value takes: W·(index mod S)."""
        return self.width_bits * (index % self.slots)


def plan_layout(bound: int, modulus_bits: int) -> SlotLayout:
    """Return the layout for |value| <= bound. Raises PackingOverflow if not even one slot fits."""
    if bound < 1:
        raise PackingOverflow(f"a bound is at least 1, got {bound}")
    width = int(bound).bit_length() + SIGN_AND_CARRY_BITS
    if width + FREE_BITS > modulus_bits:
        raise PackingOverflow(f"a slot of {width} bits does not fit {modulus_bits}; lower the bounds or the scale")
    return SlotLayout(width, (modulus_bits - FREE_BITS) // width, modulus_bits)


@dataclass(frozen=True)
class ProvedRange:
    """One step of a proof: a value that needs so many bits, sign included where it has one, and has so many."""

    name: str
    bits_needed: int
    bits_available: int


def prove_within(name: str, reached: Interval, field: Interval) -> ProvedRange:
    """Return the step that shows every value of `reached` to lie in `field`, which `signed` or `unsigned` gave.

    Raises PackingOverflow with the name, the bits that are needed and those that are available.
    """
    is_magnitude = field.low >= 0
    available = field.signed_bits - is_magnitude
    needed = reached.signed_bits - (is_magnitude and reached.low >= 0)
    if not field.includes(reached):
        sign = " with a sign" if is_magnitude and reached.low < 0 else ""
        raise PackingOverflow(
            f"{name} may need {needed} bits{sign}, available are {available}; lower the rows or banks, or enlarge the key"
        )
    return ProvedRange(name, needed, available)


def prove_fits(layout: SlotLayout, ranges: Mapping[str, Interval]) -> tuple[ProvedRange, ...]:
    """Return the proof, a step a name in order and one for all slots together, that no slot of `layout` overflows.

    Each range is what a slot of an unmasked plaintext may come to, read centred; every slot may hold any of them. Raises
    PackingOverflow with the first name that does not fit, the bits that it needs and those that a slot has.
    """
    slot = signed(layout.width_bits)
    steps = [prove_within(name, reached, slot) for name, reached in ranges.items()]
    if not steps:
        raise PackingOverflow("a proof names at least one range, got none")
    widest = reduce(or_, ranges.values())
    packed = reduce(add, (widest << layout.shift(index) for index in range(layout.slots)))
    return (*steps, prove_within("all slots together", packed, signed(layout.modulus_bits - FREE_BITS)))


def check_bounds(values: Sequence[int], bound: int) -> None:
    """Raise PackingOverflow, naming the first index but no value, unless every |value| <= bound."""
    for index, value in enumerate(values):
        if not -bound <= value <= bound:
            raise PackingOverflow(f"value {index} exceeds the declared bound of {int(bound).bit_length()} bits")


def pack(values: Sequence[int], layout: SlotLayout) -> int:
    """Return Σ values[k]·2^{Wk}, negative where the highest value is. Raises PackingOverflow if one does not fit.

    A value is signed, from -2^{W-1}, or a mask up to 2^W - 1: its reader knows whether to `centre`.
    """
    if len(values) > layout.slots:
        raise PackingOverflow(f"{len(values)} values for {layout.slots} slots; use more ciphertexts")
    low, high = -1 << (layout.width_bits - 1), 1 << layout.width_bits
    for index, value in enumerate(values):
        if not low <= value < high:
            raise PackingOverflow(f"value {index} does not fit a slot of {layout.width_bits} bits")
    return sum(int(value) << layout.shift(index) for index, value in enumerate(values))


def read_slots(value: int, layout: SlotLayout, count: int) -> list[int]:
    """Return the first `count` slots, each in [0, 2^W). Raises PackingOverflow for more than the layout has."""
    if not 0 <= count <= layout.slots:
        raise PackingOverflow(f"asked for {count} slots of a layout with {layout.slots}")
    low_bits = (1 << layout.width_bits) - 1
    return [(int(value) >> layout.shift(index)) & low_bits for index in range(count)]


def centre(v: int, width_bits: int) -> int:
    """Return the representative of v mod 2^width_bits in [-2^(width_bits-1), 2^(width_bits-1))."""
    half = 1 << (width_bits - 1)
    return (int(v) + half) % (half << 1) - half
