"""Joint boosted trees between the platform A and one bank B (protocols.md, section 6; SecureBoost, Cheng et al. 2021).

A holds binned features, B labels, a Paillier key and binned features of its own. Each bank grows its own ensemble. What
grows is `boosting_growth`; here is what is said for it.
0. Once a run. B→A its key with proof; A→B bins and kind of each feature.
Tree t: 1. both ways: one bit a training row, live consents; a row that is not live at both takes part no more.
2. B→A which rows and which platform features are sampled (drawn at random, never by gradient), then, with nodes shown
   once and with nodes hidden anew each level, Enc(cell) a sampled row: 1, g + offset, h (`boosting_cells`).
   Shown: the row's own cell. Hidden: the cell in the slot of the row's node if that node is asked for, else Enc(0).
3. Level by level. Shown: B→A the sampled rows of the smaller of each two siblings. A: products per node, feature and bin
   (`crypto/histogram`), ⌊S⌋ cells packed into a ciphertext, times a full randomiser. B opens them, checks that each
   feature adds up to the node's rows, Σg and Σh [BT01], subtracts from the parent for the larger sibling, chooses.
4. B→A the platform cuts that it chose. Shown: each with the rows of its node; A→B their sides. Hidden: cuts that were never
   asked before, in ascending order, which says nothing of nodes; A→B the sides of all live rows.
5. After the last level B→A that the tree is grown, and whether it was the last.
6. At the end A→B, for each firm that may be scored, its side of each distinct cut, in order of first use.

What A learns. Shown: the sampled rows, each smaller sibling's rows, the cut and rows of each node that A's features cut, hence
rows that behave alike under B's labels; how many levels were reached. Hidden: the sampled rows and the set of A's cuts a
level; the messages of a tree have the same number and size whatever the nodes hold, but for the number of new cuts. Both:
that rows never sampled are validation rows. What B learns: sums of its own gradients per anonymous feature, bin and node, not
under `min_rows` rows by its own rule alone; sides of cuts: shown, of a node's rows; hidden, of all rows; at the end of
every firm that may be scored. `split_bits` bounds the distinct cuts, and so what sides tell of any row, for the whole run.
It does not bound what sums tell: B knows each row's g and h, which after a few trees differ from row to row, so that of a
cell of few rows, and every level has such cells, an honest but curious B can often compute which rows they are (a test
does). Only B can leave such cells unread.
A malicious B can tag rows through g and h (32 bits a row and tree) and read which bin they are in, choose small or odd nodes
(A refuses sets under `min_rows` in shown mode and cannot see them in hidden mode), and cut where nothing is gained: A caps
trees, nodes, features and distinct cuts [BT02-BT05]; replay finds the rest. A malicious A can move rows between
bins so that the sums still add up, or answer wrong sides: the model suffers, replay finds it; it reads no label from
ciphertexts, but shown node sets correlate with labels.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lianxin.crypto.keyed_ciphertexts import encode_keyed
from lianxin.federation import wire
from lianxin.federation.binning import BankKeys, Work
from lianxin.federation.boosting_cells import CellLayout, plan_cells, slots_of
from lianxin.federation.boosting_ensemble import Cut, Flags, Ints, TreeShapes
from lianxin.federation.boosting_growth import Ask, Grown, Growth, Histograms, Opening, Sides
from lianxin.federation.boosting_rows import pack_flags, unpack_flags
from lianxin.federation.boosting_sums import ciphertexts_for, node_sums, open_sums, receive_histograms
from lianxin.federation.errors import PeerError
from lianxin.federation.key_exchange import announce_key
from lianxin.federation.session import Receive, Role, Send


@dataclass
class BankTrees:
    """What a bank keeps between trees: its growth, and with hidden nodes the sides that it was given."""

    growth: Growth
    sides: dict[Cut, Flags] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class BankTreeTurn:
    """A bank's input to one tree; `live` is a flag a training row, `work` has this tree's rights."""

    work: Work
    keys: BankKeys = field(repr=False)
    trees: BankTrees = field(repr=False)
    live: Flags = field(repr=False)


@dataclass(frozen=True)
class TreeOutcome:
    """`grown` is what growth says of the tree; `active` flags the rows that took part, `cuts` the new platform cuts."""

    grown: Grown
    active: Flags = field(repr=False)
    cuts: tuple[Cut, ...]


def bank_open_role(work: Work, keys: BankKeys) -> Role[TreeShapes]:
    """Send the bank's training key and return the shapes of the platform's columns. Raises PeerError (BT06) for shapes
    outside the contract."""
    modulus, proof = announce_key(work.contract, keys.secret_key, work.drbg)
    yield Send(wire.TrainingKey(modulus=modulus, modulus_proof=proof), "boosting.open")
    answer = yield Receive("boosting.open", (wire.TreeFeatures,))
    most = len(work.contract.fields_of(work.contract.platform, "feature"))
    bins, kinds = tuple(answer.bins), tuple(answer.kinds)
    if not 1 <= len(bins) <= most or any(not 2 <= count <= work.contract.max_bins for count in bins):
        raise PeerError("the platform names more features or bins than the contract lists, or none", "BT06")
    if len(kinds) != len(bins) or any(kind > 2 for kind in kinds):
        raise PeerError("the platform's features come without a known kind each", "BT06")
    return TreeShapes(bins, kinds)


def bank_tree_role(turn: BankTreeTurn) -> Role[TreeOutcome]:
    """Grow one tree with the platform; the tree is in `turn.trees.growth` afterwards. Raises PeerError (BT01, BT06)."""
    live = yield from exchange_live(turn.work, turn.live, is_first=True)
    growth, voice = turn.trees.growth, _BankVoice(turn)
    known = len(growth.platform_cuts)
    asks: Generator[Ask, Any, Grown] = growth.tree(live)
    answer: Any = None
    while True:
        try:
            ask = asks.send(answer)
        except StopIteration as end:
            grown: Grown = end.value
            break
        answer = yield from voice.ask(ask)
    yield Send(wire.TreeGrown(tree=grown.tree, stop=grown.stop), "boosting.split")
    return TreeOutcome(grown, growth.active.copy(), tuple(growth.platform_cuts[known:]))


def exchange_live(work: Work, live: Flags, is_first: bool) -> Role[Flags]:
    """Return the rows that are live at both sides. Raises PeerError (OUT-ROWS) under the contract's minimum."""
    message = wire.LiveRows(bitmap=pack_flags(live))
    if is_first:
        yield Send(message, "round.rows", work.rights)
    answer = yield Receive("round.rows", (wire.LiveRows,))
    theirs = unpack_flags(answer.bitmap, len(live), "M03")
    if not is_first:
        yield Send(message, "round.rows", work.rights)
    both = live & theirs
    if both.sum() < work.contract.min_rows:
        raise PeerError(f"fewer rows are live at both sides than the contract's {work.contract.min_rows}", "OUT-ROWS")
    return both


class _BankVoice:
    """Says what one tree's growth asks, in the order of the protocol."""

    def __init__(self, turn: BankTreeTurn) -> None:
        self._turn, self._work = turn, turn.work
        self._layout: CellLayout = plan_cells(turn.work.contract)
        self._hidden = turn.work.contract.nodes == "hidden"
        self._opening: Opening | None = None
        self._cells: list[int] = []

    def ask(self, ask: Ask) -> Role[Any]:
        """Return the answer to one of growth's questions."""
        if isinstance(ask, Opening):
            return (yield from self._open(ask))
        if isinstance(ask, Histograms):
            return (yield from self._histograms(ask))
        return (yield from (self._hidden_sides(ask) if self._hidden else self._shown_sides(ask)))

    def _open(self, opening: Opening) -> Role[None]:
        self._opening, rows = opening, opening.sampled
        message = wire.TreeOpening(tree=opening.tree, sampled=pack_flags(rows), features=opening.features)
        yield Send(message, "boosting.gradients", self._work.rights)
        self._cells = self._layout.encode(opening.gradients[rows], opening.curvatures[rows])
        if not self._hidden:
            yield from self._send_cells(0, self._cells)

    def _send_cells(self, level: int, cells: Sequence[int]) -> Role[None]:
        """Encrypt a chunk, send it, go on: no more than a chunk of ciphertexts is in memory."""
        public, size = self._turn.keys.secret_key.public, gradient_rows(self._work)
        for chunk, start in enumerate(range(0, len(cells), size)):
            part = self._turn.keys.encrypt_many(cells[start : start + size])
            message = wire.TreeGradients(level=level, chunk=chunk, ciphertexts=encode_keyed(public, part))
            yield Send(message, "boosting.gradients", self._work.rights)

    def _histograms(self, ask: Histograms) -> Role[Ints]:
        opening = self._opening
        assert opening is not None
        slots = slots_of(ask.level) if self._hidden else 1
        if self._hidden:
            yield from self._send_cells(ask.level, self._in_slots(ask, opening))
            yield Send(wire.TreeNodes(level=ask.level), "boosting.histogram", self._work.rights)
        else:
            rows = [pack_flags(node) for node in ask.nodes]
            yield Send(wire.TreeNodes(level=ask.level, rows=rows), "boosting.histogram", self._work.rights)
        bins = [self._turn.trees.growth.platform.bins[feature] for feature in opening.features]
        sums, keys = sum(bins) * (1 if self._hidden else len(ask.nodes)), self._turn.keys
        expected = ciphertexts_for(sums, self._layout, slots)
        ciphertexts = yield from receive_histograms(keys.secret_key.public, expected)
        opened = open_sums(self._work, keys, self._layout, ciphertexts, sums, slots)
        return node_sums(opened, bins, ask.totals, slots, self._hidden)

    def _in_slots(self, ask: Histograms, opening: Opening) -> list[int]:
        slot = np.full(len(opening.sampled), -1)
        for place, rows in enumerate(ask.nodes):
            slot[rows] = place
        width, places = self._layout.width_bits, slot[opening.sampled].tolist()
        return [cell << width * p if p >= 0 else 0 for cell, p in zip(self._cells, places, strict=True)]

    def _shown_sides(self, ask: Sides) -> Role[list[Flags]]:
        cuts = [
            wire.Cut(feature=cut.feature, bin=cut.bin, kind=cut.kind, rows=pack_flags(rows))
            for cut, rows in zip(ask.cuts, ask.rows, strict=True)
        ]
        yield Send(wire.SplitChoice(level=ask.level, cuts=cuts), "boosting.split", self._work.rights)
        sides = []
        for place, rows in enumerate(ask.rows):
            sides.append((yield from _receive_sides(place, rows)))
        return sides

    def _hidden_sides(self, ask: Sides) -> Role[list[Flags]]:
        known, live = self._turn.trees.sides, self._turn.trees.growth.active
        fresh = sorted(set(ask.cuts) - set(known))
        cuts = [wire.Cut(feature=cut.feature, bin=cut.bin, kind=cut.kind) for cut in fresh]
        yield Send(wire.SplitChoice(level=ask.level, cuts=cuts), "boosting.split", self._work.rights)
        for place, cut in enumerate(fresh):
            known[cut] = yield from _receive_sides(place, live)
        return [known[cut] for cut in ask.cuts]


def _receive_sides(place: int, rows: Flags) -> Role[Flags]:
    """Return the sides of `rows`, as a flag for each row of the table. Raises PeerError (BT06) for others."""
    answer = yield Receive("boosting.split", (wire.SplitBits,))
    if answer.place != place:
        raise PeerError("the sides of another cut came than was due", "BT06")
    sides = np.zeros(len(rows), dtype=np.bool_)
    sides[rows] = unpack_flags(answer.bits, int(rows.sum()), "BT06")
    return sides


def gradient_rows(work: Work) -> int:
    """Return how many encrypted rows go into a chunk of the contract's size."""
    return max(1, work.contract.chunk_bytes // (work.contract.key_bits // 4))
