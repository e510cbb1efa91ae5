"""The end of a run of boosted trees: for each firm that may be scored, its side of each distinct cut (`boosting`, step 6).

B learns of a firm what its own cuts split: at most `split_bits` bits, in the order in which the cuts were first used.
"""

import numpy as np

from lianxin.federation import wire
from lianxin.federation.binning import Work
from lianxin.federation.boosting_ensemble import Flags
from lianxin.federation.errors import PeerError
from lianxin.federation.session import Receive, Role, Send
from lianxin.federation.streams import ROW_BYTES, check_chunk, decode_rows, encode_rows


def platform_cut_bits_role(work: Work, rows: list[int], sides: Flags) -> Role[None]:
    """Deliver the sides: `sides[k, c]` says whether shared firm `rows[k]` lies left of the bank's cut c."""
    packed = np.packbits(sides, axis=1) if sides.shape[1] else np.zeros((len(rows), 0), dtype=np.uint8)
    size = work.contract.chunk_bytes // (ROW_BYTES + packed.shape[1])
    starts = list(range(0, max(1, len(rows)), size))
    for chunk, start in enumerate(starts):
        message = wire.CutBits(
            chunk=chunk,
            rows=encode_rows(rows[start : start + size]),
            bits=packed[start : start + size].tobytes(),
            last=chunk == len(starts) - 1,
        )
        yield Send(message, "boosting.score", work.rights)
    yield Receive("boosting.score", (wire.CutBitsNoted,))


def bank_cut_bits_role(work: Work, cuts: int, limit: int) -> Role[tuple[list[int], Flags]]:
    """Return the shared firms that came and firms x cuts. Raises PeerError (BT06) for lists that do not fit."""
    rows, parts, chunk, last = list[int](), [np.zeros((0, cuts), dtype=np.bool_)], 0, False
    while not last:
        message = yield Receive("boosting.score", (wire.CutBits,))
        check_chunk(message.chunk, chunk)
        part = decode_rows(message.rows, limit)
        parts.append(_unpacked(message.bits, len(part), cuts))
        rows += part
        if len(set(rows)) < len(rows) or (not part and not (message.last and not rows)):
            raise PeerError("sides of cuts came twice for a firm, or for none", "BT06")
        chunk, last = chunk + 1, message.last
    yield Send(wire.CutBitsNoted(rows=len(rows)), "boosting.score")
    return rows, np.concatenate(parts)


def _unpacked(data: bytes, rows: int, cuts: int) -> Flags:
    width = (cuts + 7) // 8
    if len(data) != rows * width:
        raise PeerError("sides of cuts came in another length than their firms and cuts need", "BT06")
    table = np.frombuffer(data, dtype=np.uint8).reshape(rows, width)
    flags = np.unpackbits(table, axis=1).astype(np.bool_)
    if flags[:, cuts:].any():
        raise PeerError("sides of cuts came for more cuts than there are", "BT06")
    return flags[:, :cuts]
