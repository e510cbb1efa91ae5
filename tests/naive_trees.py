"""Boosted trees once more, row by row and without arrays: what tests compare federation/boosting_growth with.

Written from the rules (gain, merged cells, order of ties, the spending of distinct cuts), not from the code: a second
implementation that agrees. No sampling and no validation rows.
"""

import math
from dataclasses import dataclass, field
from typing import Any

Cut = tuple[int, int, int]


@dataclass
class Column:
    """One feature: whose it is, its position there, a code a row, how many bins, its kind."""

    own: bool
    feature: int
    codes: list[int]
    bins: int
    kind: int

    def left(self, row: int, bin_: int, kind: int) -> bool:
        code = self.codes[row]
        if kind == 2:
            return code == bin_
        return code <= bin_ or (kind == 1 and code == self.bins - 1)


@dataclass
class NaiveTrees:
    """Grows at once; afterwards `trees[t]` maps a node to (own, cut) or to its leaf's value, `raw` a score a row."""

    columns: list[Column]
    labels: list[int]
    terms: Any
    trees: list[dict[int, Any]] = field(default_factory=list)
    known: set[Cut] = field(default_factory=set)

    def __post_init__(self) -> None:
        top = max(1.0, self.terms.weight_permille / 1000)
        self.to_g, self.to_h = 32767 / top, 4 * 65535 / top
        self.weight = [self.terms.weight_permille / 1000 if y else 1.0 for y in self.labels]
        bads = sum(w for w, y in zip(self.weight, self.labels, strict=True) if y)
        goods = sum(w for w, y in zip(self.weight, self.labels, strict=True) if not y)
        self.raw = [round(math.log(max(bads, 0.5) / max(goods, 0.5)) * 2**24)] * len(self.labels)
        for _ in range(self.terms.trees):
            self.trees.append(self.tree())

    def tree(self) -> dict[int, Any]:
        p = [1 / (1 + math.exp(-z / 2**24)) for z in self.raw]
        self.g = [round(w * (q - y) * self.to_g) for w, q, y in zip(self.weight, p, self.labels, strict=True)]
        self.h = [round(w * q * (1 - q) * self.to_h) for w, q in zip(self.weight, p, strict=True)]
        tree: dict[int, Any] = {}
        level = {0: list(range(len(self.labels)))}
        for _ in range(self.terms.depth):
            level = self.next_level(tree, level)
        for node, rows in level.items():
            self.end(tree, node, rows)
        return tree

    def next_level(self, tree: dict[int, Any], level: dict[int, list[int]]) -> dict[int, list[int]]:
        chosen, following = dict[int, tuple[Column, Cut]](), dict[int, list[int]]()
        spent = set(self.known)
        for node, rows in sorted(level.items()):
            if choice := self.choose(rows, spent):
                chosen[node] = choice
                if not choice[0].own:
                    spent.add(choice[1])
        self.known = spent
        for node, rows in level.items():
            if node not in chosen:
                self.end(tree, node, rows)
                continue
            column, cut = chosen[node]
            tree[node] = (column.own, cut)
            following[2 * node + 1] = [row for row in rows if column.left(row, cut[1], cut[2])]
            following[2 * node + 2] = [row for row in rows if not column.left(row, cut[1], cut[2])]
        return following

    def choose(self, rows: list[int], known: set[Cut]) -> tuple[Column, Cut] | None:
        best = self.best(rows, None)
        if best is None or best[1].own or best[2] in known or not known:
            return best and best[1:]
        other, unspent = self.best(rows, known), self.terms.split_bits - len(known)
        if unspent <= 0:
            return other and other[1:]
        nodes = (self.terms.trees - len(self.trees)) * sum(2**level for level in range(self.terms.depth))
        if other is None:
            return best[1:]
        worth = min(1.0, unspent / min(self.terms.split_bits, nodes))
        return (other if other[0] >= worth * best[0] else best)[1:]

    def best(self, rows: list[int], known: set[Cut] | None) -> tuple[float, Column, Cut] | None:
        best = None
        for column in self.columns:
            for cut in sorted(self.cuts(column, rows, known)):
                gain = self.gain(column, rows, cut)
                if gain > 1e-9 and (best is None or gain > best[0]):
                    best = (gain, column, cut)
        return best

    def cuts(self, column: Column, rows: list[int], known: set[Cut] | None) -> list[Cut]:
        """Return where the column may be cut: between merged cells of enough rows each."""
        least, found = self.terms.min_rows, list[Cut]()
        counts = [sum(column.codes[row] == bin_ for row in rows) for bin_ in range(column.bins)]

        def may(cut: Cut) -> bool:
            return column.own or known is None or cut in known

        if column.kind == 2:
            singles = [(column.feature, b, 2) for b in range(column.bins)]
            return [c for c in singles if may(c) and counts[c[1]] >= least and len(rows) - counts[c[1]] >= least]
        passes = [(0, counts)]
        if column.kind == 1 and counts[-1] >= least:
            passes.append((1, counts[:-1]))
        for kind, ordered in passes:
            cell = 0
            for bin_, count in enumerate(ordered):
                cell += count
                cut = (column.feature, bin_, kind)
                if may(cut) and cell >= least and sum(ordered[bin_ + 1 :]) >= least:
                    found.append(cut)
                    cell = 0
        return found

    def gain(self, column: Column, rows: list[int], cut: Cut) -> float:
        left = [row for row in rows if column.left(row, cut[1], cut[2])]
        right = [row for row in rows if not column.left(row, cut[1], cut[2])]
        return self.strength(left) + self.strength(right) - self.strength(rows)

    def strength(self, rows: list[int]) -> float:
        g = sum(self.g[row] for row in rows) / self.to_g
        return g * g / (sum(self.h[row] for row in rows) / self.to_h + self.terms.ridge)

    def end(self, tree: dict[int, Any], node: int, rows: list[int]) -> None:
        g, h = sum(self.g[row] for row in rows) / self.to_g, sum(self.h[row] for row in rows) / self.to_h
        tree[node] = round(-g / (h + self.terms.ridge) * self.terms.rate_thousandths / 1000 * 2**24)
        for row in rows:
            self.raw[row] += tree[node]
