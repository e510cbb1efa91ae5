"""Row 7, second script: a bank reads one row of the platform's z through the part of a plaintext that no mask covers.

In the scorecard round the platform raises the bank's ciphertext C1 to z + s and returns it under a mask. A bank that
encrypts its bracket plus 2^{W·S}, a tag above all slots, finds z + s above the slots if the mask stops there. A mask
uniform over all of Z_n leaves a uniform plaintext, whatever was encrypted.
"""

from collections.abc import Callable

import pytest

from lianxin.crypto import paillier
from lianxin.crypto.packing import centre, pack, plan_layout, read_slots
from lianxin.crypto.randomness import Drbg

Z_BITS, SHIFT = 20, 1 << 20


def seeded(name: str) -> Drbg:
    return Drbg(bytes(32)).child("test_07_uncovered_mask", name)


KEY = paillier.generate_secret_key(512, "bank-a", "P4", "run-1", seeded("key"))
PUBLIC = KEY.public
LAYOUT = plan_layout(1 << 60, PUBLIC.bits)
TOP = LAYOUT.width_bits * LAYOUT.slots
BANK, OPENER = paillier.OwnerEncryptor(KEY), paillier.Decryptor(KEY)
Mask = Callable[[Drbg], int]


def over_the_slots(drbg: Drbg) -> int:
    return pack([drbg.bits(LAYOUT.width_bits - 1) for _ in range(LAYOUT.slots)], LAYOUT)


def over_the_modulus(drbg: Drbg) -> int:
    return drbg.below(PUBLIC.n)


def platform_answers(c0: int, c1: int, z: int, mask: int, drbg: Drbg) -> int:
    """Return C0·C1^{z+s}·Enc(mask), fully re-randomised: the platform's part for one row."""
    row = paillier.add(PUBLIC, c0, paillier.multiply(PUBLIC, c1, z + SHIFT))
    masked = paillier.add_plain(PUBLIC, row, mask)
    return paillier.add(PUBLIC, masked, paillier.textbook_randomiser(PUBLIC, drbg))


def read_row(mask_with: Mask, drbg: Drbg) -> tuple[int, int]:
    """Return the platform's z and what the crafted query makes of it."""
    z, bracket = drbg.below(2 << Z_BITS) - SHIFT, drbg.bits(38)
    c0, c1 = BANK.encrypt(-bracket * SHIFT, drbg), BANK.encrypt(bracket + (1 << TOP), drbg)
    opened = OPENER.decrypt(platform_answers(c0, c1, z, mask_with(drbg), drbg), drbg)
    return z, (opened >> TOP) - SHIFT


def test_a_mask_over_the_slots_alone_gives_every_row_away() -> None:
    for index in range(50):
        z, read = read_row(over_the_slots, seeded(f"weak {index}"))
        assert read == z


def test_a_mask_over_the_whole_modulus_gives_no_row_away() -> None:
    reads = [read_row(over_the_modulus, seeded(f"ours {index}")) for index in range(50)]
    assert not [z for z, read in reads if read == z]


@pytest.mark.parametrize(("mask_with", "hidden"), [(over_the_slots, False), (over_the_modulus, True)])
def test_the_opened_top_is_spread_evenly_over_sixteen_parts_only_under_the_whole_mask(
    mask_with: Mask, hidden: bool
) -> None:
    drbg, counts = seeded("spread"), [0] * 16
    crafted = (SHIFT + 5) << TOP
    for _ in range(4000):
        opened = (crafted + mask_with(drbg)) % PUBLIC.n
        counts[opened * 16 // PUBLIC.n] += 1
    chi_squared = sum((count - 250) ** 2 / 250 for count in counts)
    assert (chi_squared < 37.7) == hidden


def test_an_honest_row_comes_out_right_under_the_whole_mask() -> None:
    for index in range(50):
        drbg = seeded(f"honest {index}")
        z, bracket, slot = drbg.below(2 << Z_BITS) - SHIFT, drbg.bits(38), LAYOUT.shift(index)
        c0, c1 = BANK.encrypt(-bracket * SHIFT << slot, drbg), BANK.encrypt(bracket << slot, drbg)
        mask = over_the_modulus(drbg)
        opened = OPENER.decrypt(platform_answers(c0, c1, z, mask, drbg), drbg)
        seen, masked = (read_slots(value, LAYOUT, LAYOUT.slots) for value in (opened, mask))
        differences = [centre(a - b, LAYOUT.width_bits) for a, b in zip(seen, masked, strict=True)]
        wanted = [bracket * z if place == index % LAYOUT.slots else 0 for place in range(LAYOUT.slots)]
        assert all(abs(a - b) <= 1 for a, b in zip(differences, wanted, strict=True))
