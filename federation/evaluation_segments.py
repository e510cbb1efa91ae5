"""Parts of the rows that are looked at by themselves: segments, and the latest loans as an out-of-time test.

A segment is shown only where it has enough rows, bads and goods, counted in firms; the others are counted and not named,
so that a table of segments describes no single firm.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from unicodedata import normalize

import numpy as np
from numpy.typing import NDArray

LEAST_FIRMS, LEAST_OF_A_CLASS = 50, 5
MOST_SEGMENTS, MOST_NUMBERS = 40, 10
Value = str | int | float | None


@dataclass(frozen=True)
class Segments:
    """The rows (ascending places) of each segment that is large enough, by name; and how many were not."""

    rows: Mapping[str, NDArray] = field(repr=False)
    too_small: int


def segments(labels: Sequence[int], values: Sequence[Any], firms: Sequence[object], name: str = "") -> Segments:
    """Return the rows of each distinct value of a column, as `name=value`.

    Numbers of more than 10 distinct values are cut at their fifths; of other values the 40 most frequent are kept. A missing
    value is a segment of its own. ValueError unless all three have one length.
    """
    if not len(labels) == len(values) == len(firms):
        raise ValueError("labels, values of the segment and firms are of the same rows")
    named = [normalize("NFC", f"{name}={text}" if name else text) for text in _named(values)]
    order, found, too_small = dict.fromkeys(named), dict[str, NDArray](), 0
    keys, bad = np.array(named, dtype=object), np.asarray(labels) == 1
    of_firm = np.unique(np.asarray(firms), return_inverse=True)[1] if len(firms) else np.empty(0, dtype=int)
    for key in sorted(order):
        rows = np.flatnonzero(keys == key)
        if _is_large(of_firm[rows], bad[rows]):
            found[key] = rows
        else:
            too_small += 1
    kept = sorted(found, key=lambda key: (-found[key].size, key))[:MOST_SEGMENTS]
    return Segments({key: found[key] for key in found if key in kept}, too_small + len(found) - len(kept))


def latest(values: Sequence[Any], share_permille: int) -> NDArray:
    """Return the places of the rows that are the latest by a date (ISO text) or number, about `share_permille` of those known.

    Rows of one value stay on one side, so that the share is met from above by the rows of the cut's own value; a missing
    value is on neither side. Empty where all rows have one value. ValueError for a mix of numbers and text, or a share
    outside 1 to 999.
    """
    if not 1 <= share_permille <= 999:
        raise ValueError("the share of the latest rows is from 1 to 999 permille")
    known = [place for place, value in enumerate(values) if not _is_missing(value)]
    if len({_kind(values[place]) for place in known}) > 1:
        raise ValueError("the column of dates holds both numbers and text")
    ranked = sorted(known, key=lambda place: values[place])
    cut = len(ranked) - max(1, len(ranked) * share_permille // 1000) if ranked else 0
    if not ranked or values[ranked[0]] == values[ranked[cut]]:
        return np.empty(0, dtype=np.intp)
    first = values[ranked[cut]]
    return np.array([place for place in known if values[place] >= first], dtype=np.intp)


def _named(values: Sequence[Any]) -> list[str]:
    known = [value for value in values if not _is_missing(value)]
    if len(set(known)) > MOST_NUMBERS and all(isinstance(value, int | float) for value in known):
        cuts = np.unique(np.quantile(np.array(known, dtype=float), (0.2, 0.4, 0.6, 0.8)))
        places = (None if _is_missing(v) else int(np.searchsorted(cuts, float(v), side="left")) for v in values)
        return ["missing" if place is None else _range(cuts, place) for place in places]
    return ["missing" if _is_missing(value) else str(value) for value in values]


def _range(cuts: NDArray, place: int) -> str:
    if place == 0:
        return f"to {cuts[0]:g}"
    return f"above {cuts[place - 1]:g}" + (f" to {cuts[place]:g}" if place < cuts.size else "")


def _kind(value: Any) -> str:
    return "number" if isinstance(value, int | float) else type(value).__name__


def _is_missing(value: Any) -> bool:
    return value is None or value == "" or value != value


def _is_large(firms: NDArray, bad: NDArray) -> bool:
    counts = (np.unique(firms).size, np.unique(firms[bad]).size, np.unique(firms[~bad]).size)
    return counts[0] >= LEAST_FIRMS and min(counts[1:]) >= LEAST_OF_A_CLASS
