"""Flags of rows as bytes, as streams' bitmaps are: one bit a row, the first in the highest bit of the first byte."""

import numpy as np

from lianxin.federation.boosting_ensemble import Flags
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
