"""One round of the joint scorecard between the platform A and one bank B (protocols.md, section 5, steps 1 to 4), and
the delivery of A's sub-scores as points (step 6).

0. B→A and back: one bit a training row, live consents; both go on with the rows that are live at both.
1. A→B: mean and spread of z_A on the public grid; B→A: those of z; both read (a0, a1, a2) from the contract's table.
2. B→A: per live row Enc(constant), Enc(slope), shifted to slot (i mod S) of its pack by the key owner.
   A: R_i = constant·slope^{z_A+s}·(1 + n·a2·z_A²·shift).
3. A→B: per pack of S rows Π R_i·Enc(M), M uniform in [0, n), full randomiser; B reads v_i = r_i + m_i mod 2^W and forms
   g_B = Σ x_i·v_i − Σ x_i·m_i, the second sum known since binning. A revoked row stays as 0 + m_i, so the sums hold.
4. A→B: per own feature Π bin^WOE·Enc(M), full randomiser; B returns (to Flower, under pairwise masks) Σ_k slot_k mod
   2^W, rounded; A subtracts the slots of M. A learns the sum over the banks only.

Leaks per round: g_A (sum over banks) to A, g_B to B, the gridded range to each other, which training rows are live.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import numpy as np

from lianxin.crypto import packing, paillier
from lianxin.crypto.histogram_stream import HistogramStream
from lianxin.crypto.keyed_ciphertexts import decode_keyed, encode_keyed
from lianxin.crypto.multiexp import combine_bins
from lianxin.federation import scorecard, wire
from lianxin.federation.binning import BankKeys, Columns, Work, evaluator_randomiser, mask_of
from lianxin.federation.errors import PeerError
from lianxin.federation.scorecard import SHIFT, Floats, grid_steps, residual_polynomial, row_bends
from lianxin.federation.session import Receive, Role, Send
from lianxin.federation.streams import (
    check_chunk,
    decode_bitmap,
    decode_rows,
    encode_bitmap,
    encode_rows,
    send_windowed,
)

POINT_BYTES = 4


@dataclass(frozen=True)
class BankTurn:
    """A bank's input to one round. `scores` is z_B at the lookahead weights, a training row each; `corrections[j]` is
    Σ x_ij·m_i mod 2^W of this attempt for own column j, the intercept last."""

    work: Work
    attempt: int
    keys: BankKeys = field(repr=False)
    own: Columns = field(repr=False)
    labels: Sequence[int] = field(repr=False)
    scores: Floats = field(repr=False)
    live: Sequence[bool] = field(repr=False)
    corrections: Sequence[int] = field(repr=False)


@dataclass(frozen=True)
class BankOutcome:
    """`totals[j]`: masked, rounded gradient sum of platform feature j mod 2^W; `gradient`: the bank's own; `bends`: the
    curvature of each active row, as this side can tell it."""

    totals: list[int] = field(repr=False)
    gradient: Floats = field(repr=False)
    active: list[bool] = field(repr=False)
    bends: Floats = field(repr=False)


@dataclass(frozen=True)
class PlatformTurn:
    """The platform's input to one round with one bank. `scores` is z_A a training row."""

    work: Work
    attempt: int
    public: paillier.PublicKey
    features: Columns = field(repr=False)
    scores: Floats = field(repr=False)
    live: Sequence[bool] = field(repr=False)


@dataclass(frozen=True)
class PlatformOutcome:
    """`masks[j]`: Σ_k slot_k(M_j) mod 2^W, to be subtracted from the banks' sum; `bends` as a bank's."""

    masks: list[int] = field(repr=False)
    active: list[bool] = field(repr=False)
    bends: Floats = field(repr=False)


def bank_round_role(turn: BankTurn) -> Role[BankOutcome]:
    """Return the bank's machine for one round."""
    work, layouts = turn.work, turn.work.layouts
    live = wire.LiveRows(bitmap=encode_bitmap(turn.live))
    yield Send(live, "round.rows", work.rights)
    answer = yield Receive("round.rows", (wire.LiveRows,))
    active = _both(work, turn.live, decode_bitmap(answer.bitmap, len(turn.live)))
    polynomial, bends = yield from _bank_range(turn, active)
    constants, slopes = scorecard.residual_shares(polynomial, turn.scores, turn.labels)
    readings = [0] * len(turn.labels)
    yield from _bank_residuals(turn, active, constants, slopes, readings)
    masked = yield Receive("round.gradient", (wire.MaskedGradient,))
    totals = _slot_sums(turn, masked.ciphertexts)
    yield Send(wire.RoundNoted(rows=sum(active)), "round.gradient")
    modulus = 1 << layouts.width_bits
    gradient = [
        scorecard.gradient_value((_weighted(codes, woe, readings) - correction) % modulus, layouts)
        for codes, woe, correction in zip(turn.own.codes, turn.own.woe, turn.corrections, strict=True)
    ]
    return BankOutcome([scorecard.rounded(total, layouts) for total in totals], np.array(gradient), active, bends)


def _both(work: Work, own: Sequence[bool], other: Sequence[bool]) -> list[bool]:
    active = [a and b for a, b in zip(own, other, strict=True)]
    if sum(active) < work.contract.min_rows:
        raise PeerError(f"fewer rows are live at both sides than the contract's {work.contract.min_rows}", "OUT-ROWS")
    return active


def _bank_range(turn: BankTurn, active: Sequence[bool]) -> Role[tuple[tuple[float, float, float], Floats]]:
    theirs = yield Receive("round.range", (wire.ScoreRange,))
    own_mean, own_spread = _mean_and_spread(turn.scores, active)
    mean = own_mean + theirs.mean_steps * scorecard.GRID
    spread = own_spread + theirs.spread_steps * scorecard.GRID
    mean_steps, spread_steps = grid_steps(mean, max(spread, scorecard.GRID))
    choice = wire.RangeChoice(mean_steps=mean_steps, spread_steps=spread_steps)
    yield Send(choice, "round.range", turn.work.rights)
    polynomial = residual_polynomial(mean_steps, spread_steps)
    return polynomial, row_bends(polynomial, turn.scores[np.array(active, dtype=bool)], theirs.mean_steps)


def _mean_and_spread(scores: Floats, active: Sequence[bool]) -> tuple[float, float]:
    chosen = scores[np.array(active, dtype=bool)]
    return (float(chosen.mean()), float(chosen.std())) if len(chosen) else (0.0, 0.0)


def _bank_residuals(
    turn: BankTurn, active: Sequence[bool], constants: list[int], slopes: list[int], readings: list[int]
) -> Role[None]:
    work, public, layout = turn.work, turn.keys.secret_key.public, turn.work.layouts.residual
    size, rows = work.chunk_rows(2), len(turn.labels)

    def make(chunk: int) -> Any:
        chosen = [i for i in range(chunk * size, min(rows, (chunk + 1) * size)) if active[i]]
        shifted = [[values[i] << layout.shift(i) for i in chosen] for values in (constants, slopes)]
        encrypted = turn.keys.encrypt_many(shifted[0] + shifted[1])
        parts = [
            encode_keyed(public, part) for part in (encrypted[: len(chosen)], encrypted[len(chosen) :])
        ]
        return wire.ResidualShares(chunk=chunk, constants=parts[0], slopes=parts[1])

    def take(chunk: int, answer: Any) -> None:
        packs = decode_keyed(public, answer.ciphertexts)
        first, end = chunk * size, min(rows, (chunk + 1) * size)
        if len(packs) != -(-(end - first) // layout.slots):
            raise PeerError("masked residuals came in another number of packs than rows need", "B03")
        blinding = work.drbg.child("residual-blinding", sha256(answer.ciphertexts).digest())
        opened = turn.keys.decryptor.decrypt_many(packs, blinding, work.executor)
        for k, value in enumerate(opened):
            start = first + k * layout.slots
            count = min(layout.slots, end - start)
            readings[start : start + count] = packing.read_slots(int(value), layout, count)

    count = -(-rows // size)
    yield from send_windowed(count, make, "round.residuals", work.rights, wire.MaskedResiduals, take)


def _slot_sums(turn: BankTurn, data: bytes) -> list[int]:
    layout = turn.work.layouts.residual
    ciphertexts = decode_keyed(turn.keys.secret_key.public, data)
    contract = turn.work.contract
    if not 1 <= len(ciphertexts) <= len(contract.fields_of(contract.platform, "feature")):
        raise PeerError("the platform asks for more gradient sums than it has features", "B03")
    drbg = turn.work.drbg.child("gradient-blinding", sha256(data).digest())
    opened = turn.keys.decryptor.decrypt_many(ciphertexts, drbg, turn.work.executor)
    return [_slot_sum(int(value), layout) for value in opened]


def _slot_sum(value: int, layout: packing.SlotLayout) -> int:
    return sum(packing.read_slots(value, layout, layout.slots)) % (1 << layout.width_bits)


def _weighted(codes: Sequence[int], woe: Sequence[int], readings: Sequence[int]) -> int:
    sums = [0] * len(woe)
    for code, reading in zip(codes, readings, strict=True):
        sums[code] += reading
    return sum(weight * total for weight, total in zip(woe, sums, strict=True))


def platform_round_role(turn: PlatformTurn) -> Role[PlatformOutcome]:
    """Return the platform's machine for one round with one bank."""
    work = turn.work
    theirs = yield Receive("round.rows", (wire.LiveRows,))
    flags = decode_bitmap(theirs.bitmap, len(turn.live))
    yield Send(wire.LiveRows(bitmap=encode_bitmap(turn.live)), "round.rows", work.rights)
    active = _both(work, turn.live, flags)
    mean_steps, spread_steps = grid_steps(*_mean_and_spread(turn.scores, active))
    offer = wire.ScoreRange(mean_steps=mean_steps, spread_steps=spread_steps)
    yield Send(offer, "round.range", work.rights)
    choice = yield Receive("round.range", (wire.RangeChoice,))
    if abs(choice.mean_steps) > scorecard.MEAN_STEPS or not 1 <= choice.spread_steps <= scorecard.SPREAD_STEPS:
        raise PeerError("the bank chose a range outside the public grid", "B04")
    polynomial = residual_polynomial(choice.mean_steps, choice.spread_steps)
    randomiser = evaluator_randomiser(work, turn.public, len(turn.features.bins))
    sums = yield from _platform_residuals(turn, active, polynomial, randomiser)
    masked, masks = _masked_gradient(turn, sums, randomiser)
    data = encode_keyed(turn.public, masked)
    yield Send(wire.MaskedGradient(ciphertexts=data), "round.gradient", work.rights)
    yield Receive("round.gradient", (wire.RoundNoted,))
    own = turn.scores[np.array(active, dtype=bool)]
    return PlatformOutcome(masks, active, row_bends(polynomial, own, choice.mean_steps - mean_steps))


def _platform_residuals(
    turn: PlatformTurn,
    active: Sequence[bool],
    polynomial: tuple[float, float, float],
    randomiser: paillier.ResidueSource,
) -> Role[list[list[int]]]:
    """Take the bank's shares chunk by chunk, answer each with masked packs, return the histogram of all residuals."""
    work, public, rows = turn.work, turn.public, len(turn.live)
    size, fixed = work.chunk_rows(2), scorecard.fixed_scores(turn.scores)
    squares = scorecard.square_terms(polynomial, fixed)
    sums = HistogramStream(public, turn.features.bins, work.executor)
    for chunk in range(-(-rows // size)):
        message = yield Receive("round.residuals", (wire.ResidualShares,))
        check_chunk(message.chunk, chunk)
        chosen = [i for i in range(chunk * size, min(rows, (chunk + 1) * size)) if active[i]]
        residuals = _residuals(turn, message, chosen, fixed, squares)
        codes = [[column[i] for i in chosen] for column in turn.features.codes]
        sums.add(residuals, codes)
        packs = _masked_packs(turn, chunk, dict(zip(chosen, residuals, strict=True)), randomiser, message)
        data = encode_keyed(public, packs)
        yield Send(wire.MaskedResiduals(chunk=chunk, ciphertexts=data), "round.residuals", work.rights)
    return sums.totals()


def _residuals(
    turn: PlatformTurn, message: Any, chosen: Sequence[int], fixed: Sequence[int], squares: Sequence[int]
) -> list[int]:
    public, layout = turn.public, turn.work.layouts.residual
    constants = decode_keyed(public, message.constants)
    slopes = decode_keyed(public, message.slopes)
    if len(constants) != len(chosen) or len(slopes) != len(chosen):
        raise PeerError("residual shares came for another number of rows than are live", "B03")
    residuals = []
    for i, constant, slope in zip(chosen, constants, slopes, strict=True):
        scaled = paillier.multiply(public, slope, fixed[i] + SHIFT)
        plain = paillier.add_plain(public, paillier.add(public, constant, scaled), squares[i] << layout.shift(i))
        residuals.append(plain)
    return residuals


def _masked_packs(
    turn: PlatformTurn, chunk: int, residuals: dict[int, int], randomiser: paillier.ResidueSource, message: Any
) -> list[int]:
    work, layout, rows = turn.work, turn.work.layouts.residual, len(turn.live)
    size = work.chunk_rows(2)
    drbg = work.drbg.child("pack-randomness", turn.attempt, chunk, sha256(message.constants + message.slopes).digest())
    packs = []
    for start in range(chunk * size, min(rows, (chunk + 1) * size), layout.slots):
        mask = mask_of(work.drbg, turn.public.n, turn.attempt, start // layout.slots)
        cell = paillier.add_plain(turn.public, randomiser.draw(drbg), mask)
        for i in range(start, min(start + layout.slots, rows)):
            if i in residuals:
                cell = paillier.add(turn.public, cell, residuals[i])
        packs.append(cell)
    return packs


def _masked_gradient(
    turn: PlatformTurn, sums: Sequence[Sequence[int]], randomiser: paillier.ResidueSource
) -> tuple[list[int], list[int]]:
    public = turn.public
    inputs = sha256(b"".join(paillier.encode_ciphertexts(public, bins) for bins in sums)).digest()
    drbg = turn.work.drbg.child("gradient-masks", turn.attempt, inputs)
    masked, masks = [], []
    for bins, weights in zip(sums, turn.features.woe, strict=True):
        mask = drbg.below(int(public.n))
        combined = paillier.add_plain(public, combine_bins(public, bins, weights), mask)
        masked.append(paillier.add(public, combined, randomiser.draw(drbg)))
        masks.append(_slot_sum(mask, turn.work.layouts.residual))
    return masked, masks


# ---- points


def platform_points_role(work: Work, rows: Sequence[int], values: Sequence[int]) -> Role[None]:
    """Deliver the sub-score, in integer points, of each shared row whose consent has score mode."""
    size = work.contract.chunk_bytes // (2 * POINT_BYTES)
    starts = list(range(0, max(1, len(rows)), size))
    for chunk, start in enumerate(starts):
        part = values[start : start + size]
        message = wire.ScorePoints(
            chunk=chunk,
            rows=encode_rows(rows[start : start + size]),
            points=b"".join(v.to_bytes(POINT_BYTES, "big", signed=True) for v in part),
            last=chunk == len(starts) - 1,
        )
        yield Send(message, "scoring.points", work.rights)
    yield Receive("scoring.points", (wire.PointsNoted,))


def bank_points_role(work: Work, limit: int) -> Role[dict[int, int]]:
    """Return the points of each shared row that got any. Raises PeerError (B05) for lists that do not fit."""
    points: dict[int, int] = {}
    chunk, last = 0, False
    while not last:
        message = yield Receive("scoring.points", (wire.ScorePoints,))
        check_chunk(message.chunk, chunk)
        rows = decode_rows(message.rows, limit)
        is_repeated = len(set(rows)) < len(rows) or set(rows) & set(points) or not rows
        if len(message.points) != POINT_BYTES * len(rows) or is_repeated:
            raise PeerError("sub-scores came for another number of rows, or twice for one", "B05")
        for k, row in enumerate(rows):
            points[row] = int.from_bytes(message.points[k * POINT_BYTES : (k + 1) * POINT_BYTES], "big", signed=True)
        chunk, last = chunk + 1, message.last
    yield Send(wire.PointsNoted(rows=len(points)), "scoring.points")
    return points
