"""A grown ensemble of trees as the bank keeps it: binned columns, cuts, leaves, scoring and importance.

A row's code lies left of a cut (feature, bin, kind) if

    kind 0: code <= bin        kind 1: code <= bin or missing        kind 2: code = bin

Missing values have the last bin of a feature of kind MISSING, so that a cut of kind 0 sends them right. The nodes of a tree
are numbered from the root, 0; left of node i is 2i+1, right of it 2i+2. Leaf values and scores are integers at 2^24: a
score is a sum of integers, and a reloaded ensemble scores the same to the last bit. The platform's cuts are listed once,
in order of first use and within a level in ascending order, which is also the order of the bits that it gives.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lianxin.federation.errors import InputFault

VALUE_BITS = 24
ORDERED, MISSING, CATEGORIES = 0, 1, 2
UP_TO, UP_TO_OR_MISSING, ALONE = 0, 1, 2

Codes = NDArray[np.uint8]
Flags = NDArray[np.bool_]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


class Cut(NamedTuple):
    """Where a feature is cut; cuts compare and sort as (feature, bin, kind)."""

    feature: int
    bin: int
    kind: int


@dataclass(frozen=True)
class TreeShapes:
    """What a party says of its columns: `bins[j]` bins of feature j and its kind (ORDERED, MISSING or CATEGORIES)."""

    bins: tuple[int, ...]
    kinds: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.bins) != len(self.kinds) or any(kind not in (ORDERED, MISSING, CATEGORIES) for kind in self.kinds):
            raise ValueError("each feature has a number of bins and a kind from 0 to 2")

    def fits(self, cut: Cut) -> bool:
        """Return whether the cut names a feature, a kind of cut that it takes, and a bin that leaves both sides one."""
        if not 0 <= cut.feature < len(self.bins):
            return False
        bins, kind = self.bins[cut.feature], self.kinds[cut.feature]
        room = {UP_TO: bins - 1, UP_TO_OR_MISSING: bins - 2, ALONE: bins}
        taken = {ORDERED: (UP_TO,), MISSING: (UP_TO, UP_TO_OR_MISSING), CATEGORIES: (ALONE,)}[kind]
        return cut.kind in taken and 0 <= cut.bin < room[cut.kind]


@dataclass(frozen=True)
class TreeColumns:
    """Binned columns: `codes[j, i]` in [0, bins[j]) is row i's bin of feature j (features x rows, 8 bits)."""

    codes: Codes = field(repr=False)
    shapes: TreeShapes

    @classmethod
    def of(cls, codes: Sequence[Sequence[int]], bins: Sequence[int], kinds: Sequence[int], rows: int) -> "TreeColumns":
        """Return columns of `rows` rows, of which there may be none. Raises ValueError for codes that do not fit."""
        table = np.array([list(column) for column in codes], dtype=np.int64).reshape(len(bins), rows)
        if table.size and (table.min() < 0 or (table >= np.array(bins)[:, None]).any()):
            raise ValueError("a code lies outside its feature's bins")
        return cls(table.astype(np.uint8), TreeShapes(tuple(bins), tuple(kinds)))

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return self.codes.shape[1]

    def left_of(self, cut: Cut) -> Flags:
        """Return for each row whether it lies left of the cut."""
        column = self.codes[cut.feature]
        if cut.kind == ALONE:
            return column == cut.bin
        left = column <= cut.bin
        return left | (column == self.shapes.bins[cut.feature] - 1) if cut.kind == UP_TO_OR_MISSING else left

    def sides(self, cuts: Sequence[Cut]) -> Flags:
        """Return rows x cuts: whether the row lies left of the cut."""
        sides = [self.left_of(cut) for cut in cuts]
        return np.stack(sides, axis=1) if sides else np.zeros((self.rows, 0), dtype=np.bool_)


@dataclass(frozen=True)
class Split:
    """A node that is cut by number `cut` of the platform's cuts, or of the bank's `own`; `rows` were sampled in it."""

    node: int
    own: bool
    cut: int
    rows: int
    gain_micro: int


@dataclass(frozen=True)
class Leaf:
    """A node that is not cut further: what it adds to the log-odds, at 2^24."""

    node: int
    value: int
    rows: int


@dataclass(frozen=True)
class Tree:
    """The cut nodes and the leaves of one tree, each in ascending order of nodes."""

    splits: tuple[Split, ...]
    leaves: tuple[Leaf, ...]


@dataclass(frozen=True)
class Importance:
    """Summed gain (log-loss, in millionths) and number of cuts by feature position, of the platform and of the bank."""

    platform_gain_micro: tuple[int, ...]
    platform_cuts: tuple[int, ...]
    own_gain_micro: tuple[int, ...]
    own_cuts: tuple[int, ...]


@dataclass(frozen=True)
class Ensemble:
    """A bank's model: `base` + the leaves of its trees = log-odds at 2^24 that a row is bad.

    `trees` are those kept, `grown` how many were grown before growth stopped; the losses are those of every grown tree, mean
    weighted log-loss in millionths, the second list empty without validation rows and repeating its last entry once none is
    left; `notes` are sentences on what ended growth or early stopping before its time.
    """

    depth: int
    base: int
    platform_cuts: tuple[Cut, ...]
    own_cuts: tuple[Cut, ...]
    trees: tuple[Tree, ...]
    grown: int
    train_loss_micro: tuple[int, ...]
    validation_loss_micro: tuple[int, ...]
    notes: tuple[str, ...] = ()

    def raw_scores(self, own: TreeColumns, platform_bits: Flags) -> Ints:
        """Return a log-odds at 2^24 a row. `platform_bits[i, c]` says whether row i lies left of platform cut c.

        Raises ValueError for another number of rows or cuts.
        """
        if platform_bits.shape != (own.rows, len(self.platform_cuts)):
            raise ValueError(f"{platform_bits.shape} bits for {own.rows} rows and {len(self.platform_cuts)} cuts")
        sides = np.concatenate([platform_bits, own.sides(self.own_cuts)], axis=1)
        total = np.full(own.rows, self.base, dtype=np.int64)
        for tree in self.trees:
            total += self._tree_scores(tree, sides)
        return total

    def _tree_scores(self, tree: Tree, sides: Flags) -> Ints:
        values, columns = np.zeros(2 << self.depth, dtype=np.int64), np.full(2 << self.depth, -1, dtype=np.int64)
        for split in tree.splits:
            columns[split.node] = split.cut + (len(self.platform_cuts) if split.own else 0)
        rows, place = np.arange(len(sides)), np.zeros(len(sides), dtype=np.int64)
        for _ in range(self.depth if tree.splits else 0):  # a level a step
            column = columns[place]
            place = np.where(column >= 0, 2 * place + 2 - sides[rows, column], place)
        values[[leaf.node for leaf in tree.leaves]] = [leaf.value for leaf in tree.leaves]
        return values[place]

    def predict(self, own: TreeColumns, platform_bits: Flags) -> Floats:
        """Return the probability a row that it is bad. Raises ValueError as `raw_scores` does."""
        return probabilities(self.raw_scores(own, platform_bits))

    def importance(self, platform_features: int, own_features: int) -> Importance:
        """Return gain and count of the kept trees' cuts by feature position."""
        gains = (np.zeros(platform_features, dtype=np.int64), np.zeros(own_features, dtype=np.int64))
        counts = (np.zeros(platform_features, dtype=np.int64), np.zeros(own_features, dtype=np.int64))
        for split in (split for tree in self.trees for split in tree.splits):
            feature = (self.own_cuts if split.own else self.platform_cuts)[split.cut].feature
            gains[split.own][feature] += split.gain_micro
            counts[split.own][feature] += 1
        lists = [tuple(values.tolist()) for values in (gains[0], counts[0], gains[1], counts[1])]
        return Importance(*lists)

    def to_record(self) -> dict[str, Any]:
        """Return the ensemble as canonical-JSON values (docs/records.md)."""
        return {
            "type": "tree-ensemble", "version": 1, "depth": self.depth, "base": self.base, "value_bits": VALUE_BITS,
            "platform_cuts": [list(cut) for cut in self.platform_cuts], "own_cuts": [list(cut) for cut in self.own_cuts],
            "trees": [{"splits": [vars(split) for split in tree.splits], "leaves": [vars(leaf) for leaf in tree.leaves]}
                      for tree in self.trees],
            "grown": self.grown, "train_loss_micro": list(self.train_loss_micro),
            "validation_loss_micro": list(self.validation_loss_micro), "notes": list(self.notes),
        }  # fmt: skip

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "Ensemble":
        """Return the ensemble that `to_record` wrote. Raises InputFault when the record is not one."""
        try:
            ensemble = _read(record)
            sound = record["type"] == "tree-ensemble" and record["version"] == 1 and record["value_bits"] == VALUE_BITS
            sound = sound and all(_is_whole(tree, ensemble) for tree in ensemble.trees)
        except (KeyError, TypeError, ValueError):
            sound = False
        if not sound:
            raise InputFault("a stored tree ensemble is damaged; train it again, or import it anew")
        return ensemble


def _read(record: Mapping[str, Any]) -> Ensemble:
    whole = {name: _integer(record[name]) for name in ("depth", "base", "grown")}
    trees = tuple(
        Tree(
            tuple(Split(own=bool(s["own"]), **_integers(s, "own")) for s in tree["splits"]),
            tuple(Leaf(**_integers(leaf)) for leaf in tree["leaves"]),
        )
        for tree in record["trees"]
    )
    cuts = [tuple(Cut(*map(_integer, cut)) for cut in record[name]) for name in ("platform_cuts", "own_cuts")]
    losses = [tuple(map(_integer, record[name])) for name in ("train_loss_micro", "validation_loss_micro")]
    notes = tuple(map(_sentence, record["notes"]))
    return Ensemble(whole["depth"], whole["base"], cuts[0], cuts[1], trees, whole["grown"], losses[0], losses[1], notes)


def _sentence(value: Any) -> str:
    if type(value) is not str:
        raise TypeError("a note of a stored ensemble is no text")
    return value


def _integer(value: Any) -> int:
    if type(value) is not int:
        raise TypeError("a number of a stored ensemble is no integer")
    return value


def _integers(entry: Mapping[str, Any], *but: str) -> dict[str, int]:
    return {name: _integer(value) for name, value in entry.items() if name not in but}


def _is_whole(tree: Tree, ensemble: Ensemble) -> bool:
    """Return whether every node that is reached is cut or a leaf, once, within the depth, by a cut that is listed."""
    cut_nodes, leaves = [split.node for split in tree.splits], [leaf.node for leaf in tree.leaves]
    reached = {0, *(child for node in cut_nodes for child in (2 * node + 1, 2 * node + 2))}
    counts = (len(ensemble.platform_cuts), len(ensemble.own_cuts))
    listed = all(0 <= split.cut < counts[split.own] for split in tree.splits)
    once = sorted([*cut_nodes, *leaves]) == sorted(reached) and cut_nodes == sorted(cut_nodes)
    return listed and once and max(reached) < (2 << ensemble.depth) - 1 and 0 <= ensemble.depth <= 6


def probabilities(raw: Ints) -> Floats:
    """Return 1/(1 + e^-z) of log-odds at 2^24."""
    odds = np.exp(-np.abs(raw / 2.0**VALUE_BITS))
    return np.where(raw >= 0, 1.0, odds) / (1.0 + odds)
