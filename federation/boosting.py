"""Joint boosted trees between the platform A and one bank B (protocols.md, section 6; SecureBoost, Cheng et al. 2021).

A holds binned features, B labels, a Paillier key and binned features of its own. Each bank grows its own ensemble. What
grows is `boosting_growth`; here is what is said for it.
0. Once a run. B→A its key with proof; A→B bins and kind of each feature.
Tree t: 1. both ways: one bit a training row, live consents; a row that is not live at both takes part no more.
   Where too few are left B opens a tree of no rows, which is none, and keeps what has grown.
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
that rows never sampled are validation rows, or were set aside as others left. What B learns: sums of its own gradients per
anonymous feature, bin and node, not under `min_rows` rows by its own rule alone; sides of cuts: shown, of a node's rows;
hidden, of all rows; at the end of every firm that may be scored. `split_bits` bounds the distinct cuts, and so what sides
tell of any row, for the whole run. It does not bound what sums tell: B knows each row's g and h, which after a few trees
differ from row to row, so that of a cell of few rows, and every level has such cells, an honest but curious B can often
compute which rows they are (a test does). Only B can leave such cells unread.

A malicious B can give rows numbers of its own for g and h: a sum of w bits then says of w rows in which bin each is, so
that a level tells w·slots rows' bins of every sampled feature (`rows_taggable`). It can draw trees, and with shown nodes nodes,
over odd sets of rows: A refuses sets behind which are fewer than `min_rows` firms, and two trees' sampled rows or two shown
nodes of a tree that overlap and lie nearer to each other than that [BT02]; three sets or more may still be combined, and
hidden nodes A does not see. It can cut where nothing is gained: A caps trees, nodes, features and distinct cuts
[BT02-BT05]; replay finds the rest.

A malicious A cannot open a ciphertext, but B's choices answer what it makes up, with shown and with hidden nodes. (a) Sums
that no set of rows has, such as one row counted sixty times: whether B cuts there is then that row's label. Once B has cut,
the sides have to add up to the very sums (rows, Σg, Σh), which A cannot make them without knowing labels, else B stops [BT01]
- after the choices of that level were said: in a tree's first level one wrong choice. A false sum that B passes over is not
noticed, and that it was passed over tells A a little too. (b) Columns that it does not have, with sums and sides that agree:
B's choices among them say of sets of rows of A's making, of at least `min_rows` sampled rows, which tells labels best. That
only replay finds. Shown node sets go with labels whether A is honest or not.
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
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
from lianxin.federation.model import Provenance
from lianxin.federation.session import Receive, Role, Send


@dataclass
class BankTrees:
    """What a bank keeps between trees: its growth, and with hidden nodes the sides that it was given."""

    growth: Growth
    sides: dict[Cut, Flags] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class BankTreeTurn:
    """A bank's input to one tree; `live` is a flag a training row, `work` has this tree's rights.

    `admit`, told which rows take part, returns the rights of all that follows; None ends the growth before this tree.
    """

    work: Work
    keys: BankKeys = field(repr=False)
    trees: BankTrees = field(repr=False)
    live: Flags = field(repr=False)
    admit: Callable[[Flags], tuple[Provenance, ...] | None] | None = field(default=None, repr=False)


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
    growth = turn.trees.growth
    live = yield from exchange_live(turn.work, turn.live, is_first=True)
    rights = turn.work.rights if turn.admit is None else turn.admit(live & growth.active)
    voice = _BankVoice(replace(turn, work=replace(turn.work, rights=turn.work.rights if rights is None else rights)))
    known = len(growth.platform_cuts)
    asks: Generator[Ask, Any, Grown] = growth.tree(live, rights is not None)
    answer: Any = None
    while True:
        try:
            ask = asks.send(answer)
        except StopIteration as end:
            grown: Grown = end.value
            break
        answer = yield from voice.ask(ask)
    yield from voice.end(grown)
    return TreeOutcome(grown, growth.active.copy(), tuple(growth.platform_cuts[known:]))


def exchange_live(work: Work, live: Flags, is_first: bool) -> Role[Flags]:
    """Return the rows that are live at both sides, which may be too few for a tree."""
    message = wire.LiveRows(bitmap=pack_flags(live))
    if is_first:
        yield Send(message, "round.rows", work.rights)
    answer = yield Receive("round.rows", (wire.LiveRows,))
    theirs = unpack_flags(answer.bitmap, len(live), "M03")
    if not is_first:
        yield Send(message, "round.rows", work.rights)
    return live & theirs


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

    def end(self, grown: Grown) -> Role[None]:
        """Say that the tree is grown, or by an opening without rows that there is none."""
        if grown.ended:
            yield Send(wire.TreeOpening(tree=grown.tree), "boosting.gradients", self._work.rights)
        else:
            yield Send(wire.TreeGrown(tree=grown.tree, stop=grown.stop), "boosting.split")

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
