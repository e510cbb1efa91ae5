"""Row 7, second script: a bank reads one row of the platform's z through the part of a plaintext that no mask covers.

In the scorecard round the platform raises the bank's ciphertext C1 to z + s and returns it under a mask. A bank that
encrypts its bracket plus 2^{W·S}, a tag above all slots, finds z + s above the slots if the mask stops there. A mask
uniform over all of Z_n leaves a uniform plaintext, whatever was encrypted.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from conversations import contract_of, play, right

from lianxin.crypto import paillier
from lianxin.crypto.keyed_ciphertexts import decode_keyed, encode_keyed
from lianxin.crypto.packing import centre, pack, plan_layout, read_slots
from lianxin.crypto.randomness import Drbg
from lianxin.federation import binning, rounds, scorecard, wire
from lianxin.federation.session import Receive, Send
from lianxin.federation.streams import encode_bitmap

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


# ---- the same against the round as it is run


ROWS = 60


def a_bank_that_tags(secret_key: paillier.SecretKey, work: binning.Work, opened: list[int]) -> Iterator[Any]:
    """Return a bank's machine for one round that puts 2^{W·S} on the slope of every pack's first row."""
    public, layout, drbg = secret_key.public, work.layouts.residual, work.drbg.child("liar")
    live = wire.LiveRows(bitmap=encode_bitmap([True] * ROWS))
    yield Send(live, "round.rows", work.rights)
    yield Receive("round.rows", (wire.LiveRows,))
    yield Receive("round.range", (wire.ScoreRange,))
    yield Send(wire.RangeChoice(mean_steps=0, spread_steps=4), "round.range", work.rights)
    constants, slopes = scorecard.residual_shares((0.5, 0.2, 0.0), np.zeros(ROWS), [1] * ROWS)
    tag = 1 << layout.width_bits * layout.slots
    shifted = [c << layout.shift(i) for i, c in enumerate(constants)]
    tagged = [(c << layout.shift(i)) + (0 if i % layout.slots else tag) for i, c in enumerate(slopes)]
    encrypted = paillier.OwnerEncryptor(secret_key).encrypt_many(shifted + tagged, drbg)
    data = [encode_keyed(public, part) for part in (encrypted[:ROWS], encrypted[ROWS:])]
    yield Send(wire.ResidualShares(chunk=0, constants=data[0], slopes=data[1]), "round.residuals", work.rights)
    answer = yield Receive("round.residuals", (wire.MaskedResiduals,))
    packs = decode_keyed(public, answer.ciphertexts)
    opened += paillier.Decryptor(secret_key).decrypt_many(packs, drbg)
    yield Receive("round.gradient", (wire.MaskedGradient,))
    yield Send(wire.RoundNoted(rows=ROWS), "round.gradient")


@pytest.mark.parametrize("covers_the_modulus", [False, True])
def test_in_a_real_round_a_tag_reads_the_platforms_scores_only_under_masks_that_cover_no_more_than_the_slots(
    covers_the_modulus: bool, bank_key: paillier.SecretKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    contract = contract_of()
    layouts, opened = scorecard.plan_layouts(contract), list[int]()
    top = layouts.width_bits * layouts.residual.slots
    bank, platform = (
        binning.Work(contract, layouts, "bank-1", seeded(own), (right(own, other),))
        for own, other in (("bank-1", "platform-a"), ("platform-a", "bank-1"))
    )
    if not covers_the_modulus:
        monkeypatch.setattr(rounds, "mask_of", lambda drbg, _n, _attempt, pack: drbg.child("weak", pack).bits(top))
    monkeypatch.setattr(rounds, "evaluator_randomiser", lambda _work, public, _n: paillier.TextbookRandomiser(public))
    scores = np.array([(seeded("z").child(i).below(64) - 32) / 16 for i in range(ROWS)])
    features = binning.Columns((tuple(i % 2 for i in range(ROWS)),), (2,), ((100, -100),))
    turn = rounds.PlatformTurn(platform, 0, bank_key.public, features, scores, [True] * ROWS)
    play(a_bank_that_tags(bank_key, bank, opened), rounds.platform_round_role(turn))
    read = [(value >> top) - scorecard.SHIFT for value in opened]
    first_rows = scorecard.fixed_scores(scores)[:: layouts.residual.slots]
    right_ones = [abs(z - guess) <= 1 for z, guess in zip(first_rows, read, strict=True)]
    assert len(read) >= 3 and right_ones == [not covers_the_modulus] * len(read)
