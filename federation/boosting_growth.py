"""How a bank's ensemble grows (protocols.md, section 6): a histogram GBDT on quantised gradients, without I/O.

Friedman, "Greedy function approximation" (2001), with the second-order gain of XGBoost (Chen and Guestrin, KDD 2016):

    gain = GL²/(HL+λ) + GR²/(HR+λ) - G²/(H+λ)        leaf = -rate·G/(H+λ)

over binned features of both sides. 1. A tree opens: rows and features are drawn (`boosting_samples`); g and h are quantised
(`boosting_cells`). 2. A level: sums per feature and bin of the smaller sibling of each pair, the other is parent minus
sibling. 3. Each node takes its best cut; ties go to the first feature (the platform's before the bank's), then the lowest
bin, then the lowest kind. 4. Rows go left or right; rows, Σg and Σh on the left of a platform's cut have to be those of the
sums by which it was chosen [BT01]. 5. Leaves; validation rows, which take no part in sums, stop the growth when their
log-loss, in whole millionths, has not improved for `patience` trees. Once none of them is left nothing stops it early.

The bank's own rules: a child has at least `min_rows` sampled rows, and neighbouring bins of a node are merged until each
has, before a cut is looked at, so that no cut is chosen on a smaller cell; sums of siblings are asked for only if both have
as many firms. At most s = `split_bits` distinct platform cuts
are used in the whole ensemble. With k of them known and t trees to come, this one counted, m = t(2^depth - 1) nodes may want
one: a new cut is taken only if its gain times (s - k) / min(s, m), at most 1, is above that of the best known or own cut, and
with all known not at all. Spending them late costs far less than running out early; with enough for every node to come
nothing is held back.

Growth is a generator that asks: `Opening`, then a level's `Histograms` and `Sides`. What answers is a joined table
in clear (`grow`, simulations/clear_trees) or the platform under encryption (`boosting`): the rest is the same code.
"""

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lianxin.crypto.randomness import Drbg
from lianxin.federation.boosting_cells import Scales
from lianxin.federation.boosting_cuts import Candidates, NodeSums, sums_of
from lianxin.federation.boosting_ensemble import (
    VALUE_BITS,
    Cut,
    Ensemble,
    Flags,
    Floats,
    Ints,
    Leaf,
    Split,
    Tree,
    TreeColumns,
    TreeShapes,
    probabilities,
)
from lianxin.federation.boosting_samples import Samples
from lianxin.federation.boosting_terms import TreeTerms as TreeTerms
from lianxin.federation.errors import PeerError

_MICRO = 1e6


@dataclass(frozen=True)
class Opening:
    """A tree begins: its number from 0, the sampled rows (a flag each), positions of the sampled platform features, and
    the quantised (g, h) of every row. Needs no answer."""

    tree: int
    sampled: Flags = field(repr=False)
    features: tuple[int, ...]
    gradients: Ints = field(repr=False)
    curvatures: Ints = field(repr=False)


@dataclass(frozen=True)
class Histograms:
    """Answer nodes x sampled platform features x bins x (rows, Σg, Σh) for these sets of sampled rows.

    The bins are padded to the most of any platform feature. `totals[k]` is what each feature's bins must add up to.
    """

    level: int
    nodes: tuple[Flags, ...] = field(repr=False)
    totals: tuple[tuple[int, int, int], ...] = field(repr=False)


@dataclass(frozen=True)
class Sides:
    """Answer, for each platform cut, which of its rows lie left: a flag a row of the table, whatever for other rows."""

    level: int
    cuts: tuple[Cut, ...]
    rows: tuple[Flags, ...] = field(repr=False)


Ask = Opening | Histograms | Sides


@dataclass(frozen=True)
class Grown:
    """One tree is grown: its number, whether it was the last, and the mean weighted log-losses after it.

    With `ended` the tree was not begun: too few rows are left, and the ensemble stays as it was.
    """

    tree: int
    stop: bool
    train_loss: float
    validation_loss: float | None
    ended: bool = False


@dataclass(frozen=True)
class _Choice:
    own: bool
    cut: Cut
    gain: float


class Growth:
    """One bank's ensemble as it grows. `drbg` draws validation rows and samples, a child for each purpose and tree.

    `firms` numbers the firm behind each row, by default another for each. Raises RunStopped as `Samples` does.
    """

    def __init__(
        self,
        terms: TreeTerms,
        labels: Sequence[int],
        own: TreeColumns,
        platform: TreeShapes,
        drbg: Drbg,
        firms: Sequence[int] | Ints | None = None,
    ) -> None:
        if len(labels) != own.rows or not own.rows:
            raise ValueError(f"{len(labels)} labels for {own.rows} rows; there is at least one, a label each")
        self.terms, self.own, self.platform = terms, own, platform
        self.samples = Samples(terms, own.rows, drbg, firms, is_joint=bool(platform.bins))
        self._labels = np.array(labels, dtype=np.int64)
        self._scales = Scales(terms.weight_permille)
        self.platform_cuts: list[Cut] = []
        self.own_cuts: list[Cut] = []
        self.trees: list[Tree] = []
        self.losses: list[tuple[float, float | None]] = []
        self.notes: list[str] = []
        self.base = self._base()
        self._raw: Ints = np.full(own.rows, self.base, dtype=np.int64)
        self._best = 0
        self._judges = True  # until no validation row is left

    def _base(self) -> int:
        """Return the log-odds at 2^24 of the weighted share of bads among training rows."""
        weights, train = self._scales.weights(self._labels), ~self.validation
        bads = float(weights[train & (self._labels == 1)].sum())
        goods = float(weights[train & (self._labels == 0)].sum())
        return round(math.log(max(bads, 0.5) / max(goods, 0.5)) * 2**VALUE_BITS)

    @property
    def active(self) -> Flags:
        """The rows that take part, a flag each."""
        return self.samples.active

    @property
    def validation(self) -> Flags:
        """The rows that no tree is grown on, a flag each."""
        return self.samples.validation

    def tree(self, live: Flags | None = None, may_grow: bool = True) -> Generator[Ask, Any, Grown]:
        """Grow one tree over the rows that are `live` and always were; a row that is not takes part no more.

        Where too few rows are left, or it may not grow, nothing is asked and growth ends with what it has, which may be no
        tree. Raises PeerError (BT01) for sides that are not those of the sums.
        """
        if live is not None:
            self.samples.keep(live)
        number = len(self.losses)
        sampled = self.samples.rows(number) if may_grow else None
        if sampled is None:
            return self._end(number)
        growing = _Growing(self, number, sampled)
        yield growing.opening
        for level in range(self.terms.depth):
            yield from growing.level(level)
        tree, values = growing.finish()
        self.trees.append(tree)
        self._raw += values
        self.losses.append((self._loss(self.active & ~self.validation), self._validation_loss(number)))
        return Grown(number, self._stops(), *self.losses[-1])

    def _end(self, number: int) -> Grown:
        least = self.terms.min_rows
        self.notes.append(
            f"growth ended before tree {number + 1}: no rows of {least} firms or more are left that may be asked about"
        )
        train, validation = self.losses[-1] if self.losses else (0.0, None)
        return Grown(number, True, train, validation, ended=True)

    def _validation_loss(self, number: int) -> float | None:
        """Return the log-loss of the validation rows; once none is left the last one known, None if there never was one."""
        rows = self.active & self.validation
        if rows.any():
            return self._loss(rows)
        if self.validation.any() and self._judges:
            self._judges = False
            self.notes.append(
                f"no validation row was left for tree {number + 1}: all trees are kept, the validation log-loss stands still"
            )
        return self.losses[-1][1] if self.losses else None

    def _loss(self, rows: Flags) -> float:
        """Return the mean log-loss of these rows, each under its class weight."""
        weights = self._scales.weights(self._labels)[rows]
        margins = np.where(self._labels[rows] == 1, -1.0, 1.0) * self._raw[rows] / 2.0**VALUE_BITS
        return float((weights * np.logaddexp(0.0, margins)).sum() / weights.sum())

    def _stops(self) -> bool:
        grown, patience = len(self.losses), self.terms.patience
        latest = _micro(self.losses[-1][1])
        if patience and self._judges and latest is not None:
            best = _micro(self.losses[self._best - 1][1]) if self._best else None
            if best is None or latest < best:
                self._best = grown
            if grown - self._best >= patience:
                return True
        return grown >= self.terms.trees

    @property
    def is_validated(self) -> bool:
        """Whether validation rows decide how many trees are kept."""
        return bool(self.terms.patience and self.validation.any() and self._judges)

    def ensemble(self) -> Ensemble:
        """Return what has grown so far, cut back to the best number of trees where validation rows decide."""
        kept = self._best if self.is_validated else len(self.trees)
        train = tuple(micro for loss, _ in self.losses if (micro := _micro(loss)) is not None)
        validation = tuple(micro for _, loss in self.losses if (micro := _micro(loss)) is not None)
        return Ensemble(
            self.terms.depth, self.base, tuple(self.platform_cuts), tuple(self.own_cuts), tuple(self.trees[:kept]),
            len(self.trees), train, validation, tuple(self.notes),
        )  # fmt: skip


def _micro(loss: float | None) -> int | None:
    """Return a log-loss in whole millionths, in which losses are kept and compared."""
    return None if loss is None else round(loss * _MICRO)


class _Growing:
    """One tree on the way: where each row stands, each node's sums, and the choices so far."""

    def __init__(self, growth: Growth, number: int, sampled: Flags) -> None:
        self.growth, terms = growth, growth.terms
        chances = probabilities(growth._raw)
        g, h = growth._scales.quantised(chances, growth._labels)
        features = growth.samples.columns(len(growth.platform.bins), "platform-columns", number)
        self.own_features = growth.samples.columns(len(growth.own.shapes.bins), "own-columns", number)
        self.opening = Opening(number, sampled, features, g, h)
        self.place = np.where(growth.active, 0, -1)
        self.candidates = Candidates(growth.platform, features, growth.own.shapes, self.own_features, terms.min_rows,
                                     growth._scales, terms.ridge)  # fmt: skip
        self._own = growth.own.codes[list(self.own_features)]
        self.totals = {0: self._total(sampled)}
        self.sums: dict[int, NodeSums] = {}
        self.choices: dict[int, _Choice] = {}

    def _total(self, rows: Flags) -> tuple[int, int, int]:
        return int(rows.sum()), int(self.opening.gradients[rows].sum()), int(self.opening.curvatures[rows].sum())

    def _rows_of(self, node: int) -> Flags:
        return self.opening.sampled & (self.place == node)

    def _can_split(self, node: int) -> bool:
        return node in self.totals and self.totals[node][0] >= 2 * self.growth.terms.min_rows

    def _is_enough(self, node: int) -> bool:
        """Return whether the platform would add up the node: what it counts are firms, of which a row is not always one."""
        return self.growth.samples.is_enough(self._rows_of(node))

    def level(self, level: int) -> Generator[Ask, Any, None]:
        """Ask for the level's histograms, choose, ask for the sides, move the rows on."""
        yield from self._histograms(level)
        first = (1 << level) - 1
        asked = [node for node in range(first, 2 * first + 1) if node in self.sums and self._can_split(node)]
        chosen = self._choose(asked)
        platform = {node: choice for node, choice in chosen.items() if not choice.own}
        rows = tuple(self.place == node for node in platform)
        answers = yield Sides(level, tuple(choice.cut for choice in platform.values()), rows)
        sides = dict(zip(platform, answers, strict=True))
        for node, left in sides.items():
            self._check_sides(node, platform[node].cut, left)
        self._register(chosen)
        for node, choice in chosen.items():
            self._move(node, self.growth.own.left_of(choice.cut) if choice.own else sides[node])

    def _check_sides(self, node: int, cut: Cut, left: Flags) -> None:
        if self._total(self._rows_of(node) & left) != self.candidates.left_sums(self.sums[node], cut):
            raise PeerError("the rows left of a cut do not add up to the sums by which the cut was chosen", "BT01")

    def _histograms(self, level: int) -> Generator[Ask, Any, None]:
        asked = self._asked(level)
        nodes = tuple(self._rows_of(node) for node in asked)
        totals = tuple(self.totals[node] for node in asked)
        answer = yield Histograms(level, nodes, totals)
        g, h = self.opening.gradients, self.opening.curvatures
        for node, rows, platform in zip(asked, nodes, answer, strict=True):
            self.sums[node] = self.candidates.joined(platform, sums_of(self._own, rows, g, h, self.candidates.width))
            if node:
                sibling, parent = node + 1 if node % 2 else node - 1, (node - 1) // 2
                self.sums[sibling] = self.sums[parent] - self.sums[node]

    def _asked(self, level: int) -> list[int]:
        if level == 0:
            return [0] if self._can_split(0) else []
        first = (1 << level) - 1
        pairs = [(node, node + 1) for node in range(first, 2 * first + 1, 2) if node in self.totals]
        wanted = [pair for pair in pairs if any(map(self._can_split, pair)) and all(map(self._is_enough, pair))]
        return [min(pair, key=lambda node: (self.totals[node][0], node)) for pair in wanted]

    def _choose(self, nodes: Sequence[int]) -> dict[int, _Choice]:
        known, chosen = set(self.growth.platform_cuts), dict[int, _Choice]()
        for node in nodes:
            best = self._best(node, known)
            if best:
                chosen[node] = best
                known |= set() if best.own else {best.cut}
        return chosen

    def _best(self, node: int, known: set[Cut]) -> _Choice | None:
        """Return the node's best cut; a new platform cut gives way to what is known, the more so the fewer are left for the
        nodes to come, and to an equal gain always."""
        best, terms = self.candidates.best(self.sums[node], None), self.growth.terms
        if best is None or best[0] or best[1] in known or not known:
            return _Choice(*best) if best else None
        other, left = self.candidates.best(self.sums[node], known), terms.split_bits - len(known)
        wanted = min(terms.split_bits, (terms.trees - len(self.growth.losses)) * (2**terms.depth - 1))
        if left <= 0 or (other and wanted * other[2] >= min(left, wanted) * best[2]):
            best = other
        return _Choice(*best) if best else None

    def _register(self, chosen: Mapping[int, _Choice]) -> None:
        self.choices.update(chosen)
        for cuts, own in ((self.growth.platform_cuts, False), (self.growth.own_cuts, True)):
            cuts += sorted({choice.cut for choice in chosen.values() if choice.own == own} - set(cuts))

    def _move(self, node: int, left: Flags) -> None:
        here = self.place == node
        self.place = np.where(here, 2 * node + 2 - left, self.place)
        for child in (2 * node + 1, 2 * node + 2):
            self.totals[child] = self._total(self._rows_of(child))

    def finish(self) -> tuple[Tree, Ints]:
        """Return the tree and what it adds to each row's score."""
        splits = [self._split(node, choice) for node, choice in sorted(self.choices.items())]
        ends = sorted(set(self.totals) - set(self.choices))
        leaves = [Leaf(node, self._leaf_value(node), self.totals[node][0]) for node in ends]
        values = np.zeros(2 << self.growth.terms.depth, dtype=np.int64)
        for leaf in leaves:
            values[leaf.node] = leaf.value
        return Tree(tuple(splits), tuple(leaves)), np.where(self.place >= 0, values[self.place], 0)

    def _split(self, node: int, choice: _Choice) -> Split:
        cuts = self.growth.own_cuts if choice.own else self.growth.platform_cuts
        gain = round(choice.gain * _MICRO)
        return Split(node, choice.own, cuts.index(choice.cut), self.totals[node][0], gain)

    def _leaf_value(self, node: int) -> int:
        _, g, h = self.totals[node]
        scales, terms = self.growth._scales, self.growth.terms
        step = -(g / scales.gradient) / (h / scales.curvature + terms.ridge)
        return round(step * terms.rate_thousandths / 1000.0 * 2**VALUE_BITS)


def grow(
    growth: Growth,
    histograms: Callable[[Opening, Histograms], Any],
    sides: Callable[[Sides], Sequence[Flags]],
) -> Ensemble:
    """Return the ensemble that grows to its end on these answers, given in clear and at once."""
    stop = False
    while not stop:
        asks, answer, opening = growth.tree(), None, None
        try:
            while True:
                ask = asks.send(answer)
                if isinstance(ask, Opening):
                    opening, answer = ask, None
                elif isinstance(ask, Histograms):
                    assert opening is not None
                    answer = histograms(opening, ask)
                else:
                    answer = sides(ask)
        except StopIteration as end:
            stop = end.value.stop
    return growth.ensemble()


def grow_alone(terms: TreeTerms, labels: Sequence[int], own: TreeColumns, drbg: Drbg) -> Ensemble:
    """Return the ensemble of the bank's own features alone, at the same terms; a constant where it has none."""
    growth = Growth(terms, labels, own, TreeShapes((), ()), drbg)

    def nothing(opening: Opening, ask: Histograms) -> Floats:
        return np.zeros((len(ask.nodes), 0, 1, 3), dtype=np.int64)

    return grow(growth, nothing, lambda ask: ())
