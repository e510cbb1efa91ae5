"""The platform's side of joint boosted trees: see `boosting` for the protocol, and what each side learns.

Every size that the bank names is checked before work is spent on it or a bit of a row leaves [BT02-BT05].
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import numpy as np

from lianxin.crypto import paillier
from lianxin.crypto.keyed_ciphertexts import decode_keyed, strip_key_tag
from lianxin.federation import wire
from lianxin.federation.binning import LABEL_PURPOSE, Work
from lianxin.federation.boosting import exchange_live
from lianxin.federation.boosting_cells import plan_cells, slots_of
from lianxin.federation.boosting_ensemble import Codes, Cut, Flags, Ints, TreeColumns
from lianxin.federation.boosting_rows import firms_behind, is_near, pack_flags, unpack_flags
from lianxin.federation.boosting_sums import row_sums, send_histograms, tree_randomiser
from lianxin.federation.errors import PeerError
from lianxin.federation.key_exchange import received_key
from lianxin.federation.session import Receive, Role, Send
from lianxin.federation.streams import check_chunk


@dataclass
class PlatformTrees:
    """What the platform keeps of one bank's ensemble: `cuts` are the distinct ones asked so far, in order of first use,
    `sampled` the different sets of rows that trees were grown on, packed.

    `charge(k)` is called, and has to be durable when it returns, before sides of k new cuts leave; it may refuse by raising.
    """

    public: paillier.PublicKey
    columns: TreeColumns = field(repr=False)
    charge: Callable[[int], None] = field(default=lambda fresh: None, repr=False)
    cuts: list[Cut] = field(default_factory=list)
    sampled: list[bytes] = field(default_factory=list, repr=False)
    grown: int = 0
    stopped: bool = False


@dataclass(frozen=True)
class PlatformTreeTurn:
    """The platform's input to one tree with one bank; `live` is a flag a training row, `work` has this tree's rights.

    `firms` numbers the firm behind each row, by default another for each: what the contract's minimum counts.
    """

    work: Work
    trees: PlatformTrees = field(repr=False)
    live: Flags = field(repr=False)
    firms: Sequence[int] | Ints | None = field(default=None, repr=False)


@dataclass(frozen=True)
class PlatformTreeOutcome:
    """The tree's number from 0, whether the bank grows no more, the rows that took part, the cuts that were new."""

    tree: int
    stop: bool
    active: Flags = field(repr=False)
    cuts: tuple[Cut, ...]


def platform_open_role(work: Work, columns: TreeColumns) -> Role[paillier.PublicKey]:
    """Return the bank's key after its admission check, and send the columns' shapes."""
    offer = yield Receive("boosting.open", (wire.TrainingKey,))
    public = received_key(work.contract, work.bank, LABEL_PURPOSE, offer.modulus, offer.modulus_proof)
    message = wire.TreeFeatures(bins=columns.shapes.bins, kinds=columns.shapes.kinds)
    yield Send(message, "boosting.open", work.rights)
    return public


def platform_tree_role(turn: PlatformTreeTurn) -> Role[PlatformTreeOutcome]:
    """Answer one tree of the bank. Raises PeerError (BT02-BT05) for more than the contract lets it ask."""
    work, trees = turn.work, turn.trees
    active = yield from exchange_live(work, turn.live, is_first=False)
    opening = yield Receive("boosting.gradients", (wire.TreeOpening,))
    if not opening.sampled and opening.tree == trees.grown:  # too few rows are left: the bank keeps what has grown
        trees.stopped = True
        return PlatformTreeOutcome(opening.tree, True, active, ())
    answers = _PlatformAnswers(turn, active, opening)
    known = len(trees.cuts)
    for level in range(work.contract.depth):
        yield from answers.gradients(level)
        yield from answers.histograms(level)
        yield from answers.sides(level)
    grown = yield Receive("boosting.split", (wire.TreeGrown,))
    if grown.tree != trees.grown:
        raise PeerError("another tree ended than was begun", "BT05")
    trees.grown, trees.stopped = trees.grown + 1, grown.stop
    return PlatformTreeOutcome(grown.tree, grown.stop, active, tuple(trees.cuts[known:]))


class _PlatformAnswers:
    """What the bank may ask for one tree, answered step by step."""

    def __init__(self, turn: PlatformTreeTurn, active: Flags, opening: Any) -> None:
        self._work, self._trees, self._active = turn.work, turn.trees, active
        self._firms = None if turn.firms is None else np.array(turn.firms, dtype=np.int64)
        self._contract, shapes = turn.work.contract, turn.trees.columns.shapes
        self._hidden = self._contract.nodes == "hidden"
        self._layout = plan_cells(self._contract)
        self._sampled = self._checked_sample(opening.sampled)
        self._features = _checked_features(opening.features, len(shapes.bins))
        if opening.tree != self._trees.grown or opening.tree >= self._contract.trees or self._trees.stopped:
            raise PeerError("the bank begins another tree than is due, or more than the contract lists", "BT05")
        self._bins = [shapes.bins[feature] for feature in self._features]
        self._codes = turn.trees.columns.codes[list(self._features)]
        self._places = np.flatnonzero(self._sampled)
        self._ciphertexts = bytearray()
        self._inputs = sha256(opening.SerializeToString(deterministic=True))
        self._asked: list[Flags] = []

    def _checked_rows(self, data: bytes, among: Flags) -> Flags:
        rows = unpack_flags(data, len(among), "BT02")
        if (rows & ~among).any() or firms_behind(rows, self._firms) < self._contract.min_rows:
            raise PeerError(
                "the bank names rows that take no part, or of fewer firms than the contract's minimum", "BT02"
            )
        return rows

    def _checked_sample(self, data: bytes) -> Flags:
        rows, earlier = self._checked_rows(data, self._active), self._trees.sampled
        self._check_apart(rows, earlier)
        earlier += [] if bytes(data) in earlier else [bytes(data)]
        return rows

    def _check_apart(self, rows: Flags, others: Sequence[bytes]) -> None:
        if is_near(rows, others, self._contract.min_rows, self._firms):
            raise PeerError("the bank asks for rows that differ from others by fewer firms than the minimum", "BT02")

    def gradients(self, level: int) -> Role[None]:
        """Take a ciphertext a sampled row: once a tree with shown nodes, each level with hidden ones."""
        if level and not self._hidden:
            return
        public, rows, chunk = self._trees.public, len(self._places), 0
        self._ciphertexts.clear()
        while len(self._ciphertexts) < rows * public.ciphertext_bytes:
            message = yield Receive("boosting.gradients", (wire.TreeGradients,))
            check_chunk(message.chunk, chunk)
            part = strip_key_tag(public, message.ciphertexts)
            decode_keyed(public, message.ciphertexts)
            self._ciphertexts += part
            chunk += 1
            if message.level != level or not part or len(self._ciphertexts) > rows * public.ciphertext_bytes:
                raise PeerError("gradients came for another number of rows or another level than is due", "BT02")
            self._inputs.update(message.ciphertexts)

    def histograms(self, level: int) -> Role[None]:
        """Answer the sums of the nodes that are asked for: one pass a node, or one for all hidden nodes."""
        message = yield Receive("boosting.histogram", (wire.TreeNodes,))
        nodes = self._checked_nodes(level, message)
        self._inputs.update(message.SerializeToString(deterministic=True))
        public = self._trees.public
        sums = row_sums(self._work, public, [self._table(rows) for rows in nodes], self._bins)
        source = tree_randomiser(self._work, public, sum(self._trees.columns.shapes.bins))
        slots = slots_of(level) if self._hidden else 1
        inputs = self._inputs.digest()
        yield from send_histograms(self._work, source, public, self._layout, sums, slots, inputs)

    def _checked_nodes(self, level: int, message: Any) -> list[Flags]:
        if message.level != level or len(message.rows) > (0 if self._hidden else slots_of(level)):
            raise PeerError("the bank asks for more nodes than a level has, or for another level", "BT02")
        if self._hidden:
            return [self._sampled]
        nodes = [self._checked_rows(rows, self._sampled) for rows in message.rows]
        _check_disjoint(nodes, "BT02")
        for rows in nodes:
            self._check_apart(rows, [pack_flags(other) for other in self._asked if (rows & other).any()])
        self._asked += nodes
        return nodes

    def _table(self, rows: Flags) -> tuple[bytes, Codes]:
        """Return the ciphertexts of these rows and their codes."""
        width = self._trees.public.ciphertext_bytes
        chosen = rows[self._places]
        table = np.frombuffer(self._ciphertexts, dtype=np.uint8).reshape(-1, width)
        return table[chosen].tobytes(), self._codes[:, self._places[chosen]]

    def sides(self, level: int) -> Role[None]:
        """Charge the new cuts, then tell the sides: of each node's rows, or of every live row with hidden nodes."""
        message = yield Receive("boosting.split", (wire.SplitChoice,))
        if message.level != level or len(message.cuts) > 1 << level:
            raise PeerError("the bank cuts more nodes than a level has, or another level", "BT03")
        cuts = [self._checked_cut(cut) for cut in message.cuts]
        rows = [self._rows_of(cut) for cut in message.cuts]
        if not self._hidden:
            _check_disjoint(rows, "BT03")
        self._take(cuts)
        for place, (cut, chosen) in enumerate(zip(cuts, rows, strict=True)):
            bits = pack_flags(self._trees.columns.left_of(cut)[chosen])
            yield Send(wire.SplitBits(place=place, bits=bits), "boosting.split", self._work.rights)

    def _checked_cut(self, said: Any) -> Cut:
        cut = Cut(said.feature, said.bin, said.kind)
        if cut.feature not in self._features or not self._trees.columns.shapes.fits(cut):
            raise PeerError("the bank cuts a feature that this tree has not, or where it cannot be cut", "BT03")
        return cut

    def _rows_of(self, said: Any) -> Flags:
        if not self._hidden:
            return self._checked_rows(said.rows, self._active)
        if said.rows:
            raise PeerError("the bank names rows although nodes are hidden", "BT03")
        return self._active

    def _take(self, cuts: Sequence[Cut]) -> None:
        fresh = sorted(set(cuts) - set(self._trees.cuts))
        if len(self._trees.cuts) + len(fresh) > self._contract.split_bits:
            raise PeerError("the bank asks for more distinct cuts than the contract's split_bits", "BT04")
        if fresh:
            self._trees.charge(len(fresh))
        self._trees.cuts += fresh


def _checked_features(features: Sequence[int], count: int) -> tuple[int, ...]:
    named = tuple(features)
    if not named or list(named) != sorted(set(named)) or named[-1] >= count:
        raise PeerError("the bank samples features that there are not, or none, or one twice", "BT02")
    return named


def _check_disjoint(nodes: Sequence[Flags], rule: str) -> None:
    if nodes and (np.sum(nodes, axis=0, dtype=np.int64) > 1).any():
        raise PeerError("the bank puts a row into two nodes of one level", rule)
