"""Which columns of two parties say the same: correlations between platform A's and bank B's, under encryption.

A holds d_A columns in weights of evidence over B's training rows, B holds d_B own ones. Each knows the correlations among
its own; those between the two are Σ_i u_i·x_i with A's standardised u and B's x, one encrypted histogram (protocols.md,
section 2) whose bins are combined with integer weights.
1. B→A: per row Enc(1 + Σ_j (x_ij + 2^15)·2^{W(j+1)}), x at 2^12: a slot of ones, then one a column of the contract.
2. A→B: per own column c  Π bin^u·Enc(M·2^{W·S})·full randomiser,  u_c = (WOE − mean)/spread at 2^16 over these rows, S
   the slots in use, M uniform over what is above them; and its own correlation matrix in millionths.
3. B reads Σu (which standardised columns keep near 0, or rows were left out) and Σu·(x + 2^15), so
   r = (Σu·x − mean_x·Σu) / (N·2^16·spread_x), joins the matrices, and takes the most inflated column out until all
   variance inflations are within the contract's limit. Its own it drops by itself.
4. B→A: each platform column's inflation in hundredths, and which of them go. With several banks the platform drops
   what any of them named.

Learns: A d_A inflations and the verdict; B d_A·d_B correlations and d_A(d_A−1)/2 among unnamed columns of A, and no
mean, spread or row of them: `numbers_shown` counts them towards the N/10 rule. Ciphertexts tell A nothing. A malicious B
gives rows fields of their own and reads the u of as many rows a column as the slots in use hold (`rows_readable`);
without M it would be all of n. A malicious A answers wrongly and has good columns dropped, and so does a B that states
inflations which it did not find. All are found only by replay; a verdict against its own figures is refused [V01].

No slot overflows: |u| <= (⌊√N⌋ + 1)·2^16, since one row's square is at most the sum of all, 0 <= x + 2^15 < 2^16, and
`plan_selection` proves the sum over N rows by interval arithmetic.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import sha256
from math import isqrt
from typing import Any

import numpy as np

from lianxin.crypto import packing, paillier
from lianxin.crypto.histogram_stream import HistogramStream
from lianxin.crypto.intervals import Interval, around, unsigned
from lianxin.crypto.keyed_ciphertexts import decode_keyed, encode_keyed
from lianxin.crypto.multiexp import combine_bins
from lianxin.federation import wire
from lianxin.federation.binning import BankKeys, Columns, Work, evaluator_randomiser
from lianxin.federation.contract import RunContract
from lianxin.federation.errors import PeerError
from lianxin.federation.scorecard import Floats
from lianxin.federation.screening import Moments, inflated
from lianxin.federation.session import Receive, Role, Send
from lianxin.federation.streams import check_chunk

PRODUCTS, VERDICT = "selection.products", "selection.verdict"
STANDARD_BITS = 16
OFFSET_BITS = 15
MILLION = 10**6
_SLACK = 1e-3  # a correlation may pass 1 by the rounding of u
_MOST_HUNDREDTHS = 10**9


@dataclass(frozen=True)
class SelectionLayout:
    """`slots` slots in a ciphertext (the first of ones in each), `parts` ciphertexts a row; `proof`: nothing overflows."""

    slots: packing.SlotLayout
    parts: int
    columns: int
    proof: tuple[packing.ProvedRange, ...] = field(default=(), repr=False, compare=False)

    @property
    def used_bits(self) -> int:
        """The low bits of a plaintext that B reads; A hides what is above."""
        return self.slots.width_bits * self.slots.slots

    def places(self, part: int) -> range:
        """Return which own columns a row's ciphertext `part` carries."""
        size = self.slots.slots - 1
        return range(part * size, min(self.columns, (part + 1) * size))


def standard_range(rows: int) -> Interval:
    """Return the range of a standardised weight at 2^16 over at most `rows` rows."""
    return around((isqrt(rows) + 1) << STANDARD_BITS)


def product_range(rows: int) -> Interval:
    """Return the range of Σ u·(x + 2^15) over at most `rows` rows."""
    return (standard_range(rows) * unsigned(OFFSET_BITS + 1)).total_at_most(rows)


@lru_cache(maxsize=64)
def _plan(rows: int, key_bits: int, columns: int) -> SelectionLayout:
    widest = product_range(rows)
    room = packing.plan_layout(widest.magnitude, key_bits)
    count = max(1, min(room.slots - 1, columns))
    slots = packing.SlotLayout(room.width_bits, count + 1, key_bits)
    return SelectionLayout(
        slots, max(1, -(-columns // count)), columns, packing.prove_fits(slots, {"products": widest})
    )


def plan_selection(contract: RunContract, bank: str) -> SelectionLayout:
    """Return the layout of one bank's columns. Raises PackingOverflow when the contract's sizes fit none."""
    return _plan(contract.max_rows, contract.key_bits, len(contract.fields_of(bank, "feature")))


def columns_a_row(contract: RunContract, bank: str) -> int:
    """Return how many ciphertexts carry one row's own columns; 0 without a limit, where nothing is selected."""
    return plan_selection(contract, bank).parts if contract.max_vif_hundredths else 0


def numbers_shown(contract: RunContract, bank: str) -> int:
    """Return how many numbers about the platform's columns a bank sees in selection, at most; 0 without a limit."""
    if not contract.max_vif_hundredths:
        return 0
    theirs = len(contract.fields_of(contract.platform, "feature"))
    return theirs * len(contract.fields_of(bank, "feature")) + theirs * (theirs - 1) // 2


def rows_readable(contract: RunContract, bank: str) -> int:
    """Return of how many rows a column a bank that leaves the protocol could read the standardised weight."""
    layout = plan_selection(contract, bank)
    return layout.parts * (layout.used_bits // standard_range(contract.max_rows).signed_bits)


@dataclass(frozen=True)
class Verdict:
    """What B found: each platform column's inflation when it was judged, and the columns to drop, in order of place."""

    inflations: tuple[int, ...]
    dropped: tuple[int, ...]


@dataclass(frozen=True)
class BankSelection:
    """The bank's outcome: own columns to drop by place, each own column's inflation, and the verdict that it sent."""

    own_dropped: tuple[int, ...]
    own_inflations: Floats = field(repr=False)
    verdict: Verdict


# ---- the bank


def bank_selection_role(work: Work, keys: BankKeys, own: Columns, rows: int, limit: int) -> Role[BankSelection]:
    """Return what selection over both parties' columns leaves; `limit` is of inflations, in hundredths, 0 for none.

    `own` has no intercept, and may have no column over these `rows` rows. Raises PeerError (V01) when the answer is none
    to the bank's rows.
    """
    layout, moments = plan_selection(work.contract, work.bank), Moments.of(own)
    yield from _send_columns(work, keys, own, rows, layout)
    theirs = yield Receive(PRODUCTS, (wire.OwnCorrelations,))
    answer = yield Receive(PRODUCTS, (wire.CrossProducts,))
    sums = _opened(work, keys, layout, answer.ciphertexts)
    cross = np.array([_correlations(line, moments, rows) for line in sums])
    matrix = _joined(_triangle(theirs.millionths, len(sums)), cross, moments.correlations())
    gone, judged = inflated(matrix, limit)
    dropped = tuple(sorted(place for place in gone if place < len(sums)))
    verdict = Verdict(_hundredths(judged[: len(sums)], dropped, limit), dropped)
    message = wire.SelectionVerdict(inflation_hundredths=verdict.inflations, dropped=verdict.dropped)
    yield Send(message, VERDICT, work.rights)
    yield Receive(VERDICT, (wire.SelectionNoted,))
    mine = tuple(sorted(place - len(sums) for place in gone if place >= len(sums)))
    return BankSelection(mine, judged[len(sums) :], verdict)


def _hundredths(judged: Floats, dropped: Sequence[int], limit: int) -> tuple[int, ...]:
    """Return inflations in hundredths; of a column that is dropped no less than what is above the limit, however close."""
    rounded = [min(round(float(value) * 100), _MOST_HUNDREDTHS) for value in judged]
    return tuple(max(value, limit + 1) if place in dropped else value for place, value in enumerate(rounded))


def _send_columns(work: Work, keys: BankKeys, own: Columns, rows: int, layout: SelectionLayout) -> Role[None]:
    size, width = work.chunk_rows(layout.parts), layout.slots.width_bits
    shifted = [[(value + (1 << OFFSET_BITS)) for value in woe] for woe in own.woe]
    for chunk, start in enumerate(range(0, rows, size)):
        values = []
        for row in range(start, min(start + size, rows)):
            for part in range(layout.parts):
                inside = [place for place in layout.places(part) if place < len(own.bins)]
                columns = enumerate((shifted[place][own.codes[place][row]] for place in inside), start=1)
                values.append(1 + sum(value << (width * slot) for slot, value in columns))
        data = encode_keyed(keys.secret_key.public, keys.encrypt_many(values))
        yield Send(wire.OwnColumns(chunk=chunk, ciphertexts=data), PRODUCTS, work.rights)


def _opened(work: Work, keys: BankKeys, layout: SelectionLayout, data: bytes) -> list[list[list[int]]]:
    """Return, per column of A and part, the signed slots in use."""
    ciphertexts = decode_keyed(keys.secret_key.public, data)
    most = len(work.contract.fields_of(work.contract.platform, "feature"))
    columns, rest = divmod(len(ciphertexts), layout.parts)
    if rest or not 1 <= columns <= most:
        raise PeerError("cross products came for another number of columns than the contract lists", "V01")
    drbg = work.drbg.child("selection-blinding", sha256(data).digest())
    opened = keys.decryptor.decrypt_many(ciphertexts, drbg, work.executor)
    slots = [_signed_slots(int(value), layout) for value in opened]
    return [slots[start : start + layout.parts] for start in range(0, len(slots), layout.parts)]


def _signed_slots(value: int, layout: SelectionLayout) -> list[int]:
    low, width, found = value % (1 << layout.used_bits), layout.slots.width_bits, []
    for _ in range(layout.slots.slots):
        slot = packing.centre(low, width)
        found.append(slot)
        low = (low - slot) >> width
    return found


def _correlations(parts: Sequence[Sequence[int]], moments: Moments, rows: int) -> list[float]:
    """Return one platform column's correlation with each own column. Raises PeerError (V01) for impossible sums."""
    sums = parts[0][0]
    if abs(sums) > rows or any(line[0] != sums for line in parts):
        raise PeerError("cross products are not those of standardised columns over the bank's rows", "V01")
    products = [slot - (sums << OFFSET_BITS) for line in parts for slot in line[1:]][: len(moments.sums)]
    means, spreads = moments.sums / rows, moments.spreads()
    found = [
        (product - mean * sums) / (rows * 2.0**STANDARD_BITS * spread) if spread else 0.0
        for product, mean, spread in zip(products, means.tolist(), spreads.tolist(), strict=True)
    ]
    if any(abs(value) > 1 + _SLACK for value in found):
        raise PeerError("a correlation that came lies outside -1 and 1", "V01")
    return found


def _triangle(millionths: Sequence[int], columns: int) -> Floats:
    if len(millionths) != columns * (columns - 1) // 2 or any(abs(value) > MILLION for value in millionths):
        raise PeerError("own correlations came for another number of columns, or outside -1 and 1", "V01")
    matrix = np.eye(columns)
    matrix[np.triu_indices(columns, 1)] = np.array(millionths, dtype=float) / MILLION
    return np.maximum(np.minimum(matrix + matrix.T - np.eye(columns), 1.0), -1.0)


def _joined(theirs: Floats, cross: Floats, own: Floats) -> Floats:
    cross = cross.reshape(len(theirs), len(own))
    return np.block([[theirs, cross], [cross.T, own]])


# ---- the platform


def platform_selection_role(work: Work, public: paillier.PublicKey, columns: Columns, limit: int) -> Role[Verdict]:
    """Answer one bank's columns with the cross products of `columns` (merged bins, with WOE) and return its verdict.

    `limit` is of inflations, in hundredths, as the bank has it. Raises PeerError (V01) for rows or a verdict that do not
    fit, one that drops a column which by its own figures may stay among them.
    """
    layout, moments = plan_selection(work.contract, work.bank), Moments.of(columns)
    sums = [HistogramStream(public, columns.bins, work.executor) for _ in range(layout.parts)]
    digest = yield from _receive_columns(columns, public, layout, sums)
    correlations = moments.correlations()[np.triu_indices(len(columns.bins), 1)]
    millionths = [round(float(value) * MILLION) for value in correlations]
    yield Send(wire.OwnCorrelations(millionths=millionths), PRODUCTS, work.rights)
    totals, weights = [one.totals() for one in sums], standard_weights(columns, moments)
    cells = [
        combine_bins(public, totals[part][place], weights[place])
        for place in range(len(weights))
        for part in range(layout.parts)
    ]
    data = encode_keyed(public, list(_hidden(work, public, layout, cells, digest)))
    yield Send(wire.CrossProducts(ciphertexts=data), PRODUCTS, work.rights)
    answer = yield Receive(VERDICT, (wire.SelectionVerdict,))
    verdict = _checked(answer, len(columns.bins), limit)
    yield Send(wire.SelectionNoted(features=len(columns.bins)), VERDICT)
    return verdict


def _receive_columns(
    columns: Columns, public: paillier.PublicKey, layout: SelectionLayout, sums: Sequence[HistogramStream]
) -> Role[bytes]:
    """Take every row's ciphertexts into the histograms, one a part; return their digest."""
    received, chunk, digest = 0, 0, sha256()
    while received < columns.rows:
        message = yield Receive(PRODUCTS, (wire.OwnColumns,))
        check_chunk(message.chunk, chunk)
        part = decode_keyed(public, message.ciphertexts)
        rows, rest = divmod(len(part), layout.parts)
        if rest or not rows or received + rows > columns.rows:
            raise PeerError("own columns cover another number of rows than were declared", "V01")
        digest.update(message.ciphertexts)
        codes = [column[received : received + rows] for column in columns.codes]
        for place, one in enumerate(sums):
            one.add(part[place :: layout.parts], codes)
        received, chunk = received + rows, chunk + 1
    return digest.digest()


def standard_weights(columns: Columns, moments: Moments) -> list[list[int]]:
    """Return (WOE − mean)/spread at 2^16 of each bin; zeros for a column without spread, and for a bin of no row here."""
    means, spreads = moments.sums / moments.rows, moments.spreads()
    most = standard_range(moments.rows).high
    weights = []
    for woe, mean, spread in zip(columns.woe, means.tolist(), spreads.tolist(), strict=True):
        scaled = [round((value - mean) / spread * 2.0**STANDARD_BITS) if spread else 0 for value in woe]
        weights.append([value if abs(value) <= most else 0 for value in scaled])
    return weights


def _hidden(
    work: Work, public: paillier.PublicKey, layout: SelectionLayout, cells: Sequence[int], inputs: bytes
) -> Iterator[int]:
    """Yield each cell with everything above the slots in use hidden, and re-randomised."""
    randomiser = evaluator_randomiser(work, public, len(cells))
    drbg = work.drbg.child("cross-products", inputs)
    for cell in cells:
        mask = above_slots(int(public.n), layout, drbg)
        yield paillier.add(public, paillier.add_plain(public, cell, mask), randomiser.draw(drbg))


def above_slots(n: int, layout: SelectionLayout, drbg: Any) -> int:
    """Return M·2^{W·S}, M uniform in [1, ⌊n/2^{W·S}⌋ − 1): a negative low part borrows from it and nothing wraps."""
    return int(1 + drbg.below((n >> layout.used_bits) - 2)) << layout.used_bits


def _checked(answer: Any, columns: int, limit: int) -> Verdict:
    dropped, inflations = tuple(answer.dropped), tuple(answer.inflation_hundredths)
    if len(inflations) != columns or list(dropped) != sorted(set(dropped)) or any(p >= columns for p in dropped):
        raise PeerError("the bank's verdict does not fit the platform's columns", "V01")
    if dropped and (not limit or min(inflations[place] for place in dropped) <= limit):
        raise PeerError("the bank's verdict drops a column whose inflation is not above the contract's limit", "V01")
    return Verdict(inflations, dropped)
