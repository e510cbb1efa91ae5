"""Values that the gate keeps back from a release although their party holds them: expired (R21), or disputed too long (R27).

The row keeps its place in such a release, with None for the value. Training reads values once, when bins are fitted, and
goes on with what it coded then; a value that is kept back later than that may be used no more, so its row leaves. Counting
the values that are missing tells cheaply that there is none, as nearly always.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from lianxin.federation.model import Released

Cells = frozenset[tuple[str, str]]
NO_CELLS: Cells = frozenset()


def kept_back(held: Mapping[str, Sequence[Any]], places: Sequence[int], released: Released) -> Cells:
    """Return (field, firm) of the values that are held and were not released; `held[f][places[i]]` is row i's of field f."""
    found = set[tuple[str, str]]()
    for name in released.columns.keys() & held.keys():
        values, own = released.columns[name], [held[name][place] for place in places]
        if list(values).count(None) != own.count(None):
            rows = zip(released.firms, values, own, strict=True)
            found |= {(name, firm) for firm, value, mine in rows if value is None and mine is not None}
    return frozenset(found)


def firms_of(cells: Cells) -> frozenset[str]:
    """Return whose values they are."""
    return frozenset(firm for _, firm in cells)
