"""Bins whose weight of evidence goes one way, and bins under a minimum (protocols.md, section 4: "monotone merges").

The weight of evidence falls as a bin's share of bads rises, so order is compared on shares, in integers: share of bin b
above that of bin c when bads_b·rows_c > bads_c·rows_b. Neighbours that go the wrong way are pooled until none does
(pool adjacent violators: Ayer et al., Annals of Mathematical Statistics 1955). Only bins of intervals have an order;
missing and special values stay beside it. `auto` takes the way that keeps more information value.

Bins were counted before they are pooled, so that a merge tells nobody anything new.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from lianxin.federation import regression

UP, DOWN, AUTO, NONE = DIRECTIONS = ("up", "down", "auto", "none")
Minima = tuple[int, int, int]


@dataclass(frozen=True)
class Order:
    """Which way a feature's weight of evidence may go as its value rises; `ordered` are its bins of intervals, in order."""

    direction: str = NONE
    ordered: tuple[int, ...] = ()


NO_ORDER = Order()


@dataclass
class _Group:
    bins: list[int]
    rows: int
    bads: int
    is_ordered: bool

    def take(self, other: "_Group") -> None:
        self.bins = sorted(self.bins + other.bins)
        self.rows, self.bads = self.rows + other.rows, self.bads + other.bads
        self.is_ordered |= other.is_ordered

    def is_short(self, minima: Minima) -> bool:
        counts = (self.rows, self.bads, self.rows - self.bads)
        return any(count < least for count, least in zip(counts, minima, strict=True))

    @property
    def share(self) -> float:
        return self.bads / self.rows if self.rows else 0.0


def merge_small_bins(goods: Sequence[int], bads: Sequence[int], minima: Minima) -> list[int]:
    """Return old bin → new bin such that every new bin has at least minima = (rows, bads, goods).

    The smallest offender joins the bin whose share of bads is nearest; new bins keep the order of the old ones.
    """
    groups = _groups(goods, bads, ())
    while len(groups) > 1 and _pool_smallest(groups, minima):
        continue
    return _mapping(groups, len(goods))


def monotone_bins(goods: Sequence[int], bads: Sequence[int], minima: Minima, order: Order) -> list[int]:
    """Return old bin → new bin with the minimums kept, and shares that go the wished way over the ordered bins.

    Among ordered bins only neighbours are joined. Without a direction it is `merge_small_bins`.
    """
    if order.direction == NONE or len(order.ordered) < 2:
        return merge_small_bins(goods, bads, minima)
    ways = (UP, DOWN) if order.direction == AUTO else (order.direction,)
    found = [_one_way(goods, bads, minima, order.ordered, way == UP) for way in ways]
    return max(found, key=lambda mapping: regression.information_value(*merged_counts(goods, bads, mapping)))


def merged_counts(goods: Sequence[int], bads: Sequence[int], mapping: Sequence[int]) -> tuple[list[int], list[int]]:
    """Return (goods, bads) of the new bins."""
    size = max(mapping, default=-1) + 1
    good, bad = [0] * size, [0] * size
    for old, new in enumerate(mapping):
        good[new] += goods[old]
        bad[new] += bads[old]
    return good, bad


def is_monotone(goods: Sequence[int], bads: Sequence[int], ordered: Sequence[int]) -> bool:
    """Return whether the shares of bads over the ordered bins only rise or only fall."""
    groups = [group for group in _groups(goods, bads, ordered) if group.is_ordered]
    return any(_violation(groups, rises) is None for rises in (True, False))


def _groups(goods: Sequence[int], bads: Sequence[int], ordered: Sequence[int]) -> list[_Group]:
    """Return one group a bin, the ordered ones first and in their order."""
    order = [*ordered, *(b for b in range(len(goods)) if b not in ordered)]
    return [_Group([b], goods[b] + bads[b], bads[b], b in ordered) for b in order]


def _one_way(
    goods: Sequence[int], bads: Sequence[int], minima: Minima, ordered: Sequence[int], rises: bool
) -> list[int]:
    groups = _groups(goods, bads, ordered)
    while len(groups) > 1:
        inside = [group for group in groups if group.is_ordered]
        place = _violation(inside, rises)
        if place is not None:
            inside[place].take(inside[place + 1])
            groups.remove(inside[place + 1])
        elif not _pool_smallest(groups, minima):
            break
    return _mapping(groups, len(goods))


def _violation(groups: Sequence[_Group], rises: bool) -> int | None:
    """Return the first place whose weight of evidence and the next one's go the wrong way, None if none does."""
    for place, (low, high) in enumerate(itertools.pairwise(groups)):
        riskier = high.bads * low.rows - low.bads * high.rows
        if (riskier > 0) if rises else (riskier < 0):
            return place
    return None


def _pool_smallest(groups: list[_Group], minima: Minima) -> bool:
    """Join the smallest group under a minimum with the one nearest in its share; return whether there was one."""
    short = [group for group in groups if group.is_short(minima)]
    if not short:
        return False
    worst = min(short, key=lambda group: (group.rows, group.bins))
    inside = [group for group in groups if group.is_ordered]
    others = [group for group in groups if group is not worst]
    if worst.is_ordered and len(inside) > 1:
        place = next(index for index, group in enumerate(inside) if group is worst)
        others = [inside[index] for index in (place - 1, place + 1) if 0 <= index < len(inside)]
    nearest = min(others, key=lambda group: (abs(group.share - worst.share), group.bins))
    keep, gone = sorted((nearest, worst), key=lambda group: (not group.is_ordered, group.bins))
    keep.take(gone)
    del groups[next(index for index, group in enumerate(groups) if group is gone)]
    return True


def _mapping(groups: Sequence[_Group], bins: int) -> list[int]:
    mapping = [0] * bins
    for new, group in enumerate(sorted(groups, key=lambda group: group.bins)):
        for old in group.bins:
            mapping[old] = new
    return mapping
