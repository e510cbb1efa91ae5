"""Sets of rows: as bytes, as streams' bitmaps are (one bit a row, the first in the highest bit of the first byte), by how
many firms are behind them, and by what lies between two of them.

A firm may have several rows. `firms` numbers the firm behind each row; None stands for a firm of its own a row.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from lianxin.federation.boosting_ensemble import Flags, Ints
from lianxin.federation.errors import PeerError


def pack_flags(flags: Flags) -> bytes:
    """Return ⌈rows/8⌉ bytes."""
    return np.packbits(flags).tobytes()


def unpack_flags(data: bytes, count: int, rule: str) -> Flags:
    """Return `count` flags. Raises PeerError (`rule`) for another length or a set bit beyond the last flag."""
    if len(data) != (count + 7) // 8:
        raise PeerError("a bitmap of rows has another length than its rows need", rule)
    flags = np.unpackbits(np.frombuffer(data, dtype=np.uint8)).astype(np.bool_)
    if flags[count:].any():
        raise PeerError("a bitmap of rows has bits set beyond the last row", rule)
    return flags[:count]


def number_firms(identifiers: Sequence[str]) -> Ints:
    """Return a number a row, equal where the identifiers are."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in identifiers], dtype=np.int64)


def firms_behind(rows: Flags, firms: Ints | None) -> int:
    """Return how many different firms the rows belong to."""
    return int(rows.sum()) if firms is None else len(np.unique(firms[rows]))


def is_near(rows: Flags, others: Iterable[bytes], least: int, firms: Ints | None) -> bool:
    """Return whether the rows differ from one of the other sets (packed), but by fewer than `least` firms."""
    packed = np.packbits(rows)
    for other in others:
        between = np.unpackbits(packed ^ np.frombuffer(other, dtype=np.uint8), count=len(rows)).astype(np.bool_)
        if between.any() and firms_behind(between, firms) < least:
            return True
    return False
