"""Sentences about bins for their owner: what was merged by counts, a direction that the data do not have, a leak.

They hold places of bins and weights, no firm; a node keeps them in its own model and shows them in its own workbench.
"""

from collections.abc import Sequence
from typing import Any

from lianxin.federation.monotone import DOWN, NONE, UP, Minima, Order
from lianxin.federation.screening import FEW_BINS, SEPARATES, FeatureTable, feature_table
from lianxin.parties.coding import is_missing

_MOST_LEVELS = 32  # more texts than this separate anything, like identifiers do
_LEAST_EACH = 2


def merge_notes(merged: Sequence[int], order: Order | None = None) -> tuple[str, ...]:
    """Return what became of bins that were counted: `merged` is the bin of each; nothing where all stayed.

    `order` is the direction that was wished, None where it is not known any more.
    """
    groups = [[old + 1 for old, new in enumerate(merged) if new == one] for one in sorted(set(merged))]
    joined = [" and ".join(str(place) for place in group) for group in groups if len(group) > 1]
    if not joined:
        return ()
    direction = order is None or (order.direction != NONE and len(order.ordered) > 1)
    why = "too few rows, bads or goods" + (", or against the direction wished" if direction else "")
    return (f"of {len(merged)} bins that were counted these were merged for {why}: {'; '.join(joined)}",)


def against_data(name: str, goods: Sequence[int], bads: Sequence[int], minima: Minima, order: Order) -> tuple[str, ...]:
    """Return the sentence that a direction wished goes against the counts, nothing where it does not."""
    if order.direction not in (UP, DOWN) or len(order.ordered) < 2:
        return ()
    other = DOWN if order.direction == UP else UP
    wished, turned = (_kept(name, goods, bads, minima, Order(way, order.ordered)) for way in (order.direction, other))
    if wished >= turned:
        return ()
    return (
        f'monotone = "{order.direction}" goes against the data: it keeps an IV of {wished:.4f}, "{other}" one of {turned:.4f}',
    )


def _kept(name: str, goods: Sequence[int], bads: Sequence[int], minima: Minima, order: Order) -> float:
    found = feature_table(name, goods, bads, minima, order)
    return found.information_value if isinstance(found, FeatureTable) else 0.0


def left_out_because(reason: str, values: Sequence[Any], labels: Sequence[int]) -> str:
    """Return why a field is left out: that it separates bads from goods where it does, which few bins alone do not show."""
    return SEPARATES if reason in (FEW_BINS, ONE_BIN) and separates(values, labels) else reason


ONE_BIN = "one bin is left at the contract's minimum of rows"


def separates(values: Sequence[Any], labels: Sequence[int]) -> bool:
    """Return whether a field alone tells every bad from every good: by a cut of its numbers, or by levels of its texts."""
    sides: tuple[list[Any], list[Any]] = ([], [])
    for value, label in zip(values, labels, strict=True):
        sides[label].append(None if is_missing(value) else value)
    if min(len(side) for side in sides) < _LEAST_EACH:
        return False
    levels = [set(side) for side in sides]
    if not levels[0] & levels[1] and len(levels[0] | levels[1]) <= _MOST_LEVELS:
        return True
    goods, bads = levels
    is_number = all(isinstance(value, (int, float)) for value in goods | bads)
    return is_number and (max(goods) < min(bads) or max(bads) < min(goods))
