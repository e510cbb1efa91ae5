"""How a count of firms is shown to somebody who may not learn of a single one: `<10`, or rounded down to tens.

A small count is suppressed, and every other is rounded, because two figures can be subtracted: a total and its parts, a field
and its neighbour, a report and the one before. A total is made of what is shown of its parts and tells no more than they do.
Only months that are over are reported (`usage_report`), so that no two reports are of periods that overlap.
"""

from collections.abc import Iterable

LEAST = 10
SMALL = f"<{LEAST}"
Cell = int | str


def shown(count: int, least: int = LEAST) -> Cell:
    """Return a count as it is shown: 0, `<10`, or the next lower multiple of `least`."""
    if 0 < count < least:
        return f"<{least}"
    return count - count % least


def total(cells: Iterable[Cell]) -> int:
    """Return the sum of shown cells, a suppressed one counting nothing: at least so many."""
    return sum(cell for cell in cells if isinstance(cell, int))
