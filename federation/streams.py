"""Pieces that several protocols say: row lists, bitmaps and ciphertext streams, in chunks with a window.

A stream goes chunk by chunk with the answer to each; at most `WINDOW` chunks are unanswered, so that memory stays
bounded by the chunk on both sides and neither waits for the other to empty a queue.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from google.protobuf.message import Message

from lianxin.federation import wire
from lianxin.federation.errors import PeerError
from lianxin.federation.model import Provenance
from lianxin.federation.session import Receive, Role, Send

WINDOW = 4
ROW_BYTES = 4


def encode_rows(rows: Iterable[int]) -> bytes:
    """Return row numbers as 4 bytes each, big-endian."""
    return b"".join(row.to_bytes(ROW_BYTES, "big") for row in rows)


def decode_rows(data: bytes, limit: int) -> list[int]:
    """Return the row numbers in `data`. Raises PeerError (M03) for a bad length or a row at or above `limit`."""
    if len(data) % ROW_BYTES:
        raise PeerError("a list of rows has a length that is no multiple of four", "M03")
    rows = [int.from_bytes(data[i : i + ROW_BYTES], "big") for i in range(0, len(data), ROW_BYTES)]
    if any(row >= limit for row in rows):
        raise PeerError("a list of rows names a row outside the shared table", "M03")
    return rows


def encode_bitmap(flags: Sequence[bool]) -> bytes:
    """Return one bit a flag, the first in the highest bit of the first byte."""
    padded = [*flags, *([False] * (-len(flags) % 8))]
    value = int("".join("1" if flag else "0" for flag in padded) or "0", 2)
    return value.to_bytes(len(padded) // 8, "big")


def decode_bitmap(data: bytes, count: int) -> list[bool]:
    """Return `count` flags. Raises PeerError (M03) for another length or a set bit beyond the last flag."""
    if len(data) != (count + 7) // 8:
        raise PeerError("a bitmap of live rows has another length than the training table", "M03")
    bits = bin(int.from_bytes(data, "big"))[2:].zfill(len(data) * 8) if data else ""
    if "1" in bits[count:]:
        raise PeerError("a bitmap of live rows has bits set beyond the training table", "M03")
    return [bit == "1" for bit in bits[:count]]


def check_chunk(got: int, expected: int) -> None:
    """Raise PeerError (S05) unless the stream's next chunk came."""
    if got != expected:
        raise PeerError(f"a stream came with chunk {got} where {expected} was due", "S05")


def send_windowed(
    count: int,
    make: Callable[[int], Message],
    step: str,
    rights: tuple[Provenance, ...],
    answer_type: type[Message],
    take: Callable[[int, Any], None],
) -> Role[None]:
    """Send `count` chunks and take the answer to each, at most WINDOW unanswered. `make(c)` builds chunk c."""
    for chunk in range(count + WINDOW):
        if chunk >= WINDOW and chunk - WINDOW < count:
            answer = yield Receive(step, (answer_type,))
            check_chunk(answer.chunk, chunk - WINDOW)
            take(chunk - WINDOW, answer)
        if chunk < count:
            yield Send(make(chunk), step, rights)


def receive_rows(limit: int, most: int) -> Role[list[int]]:
    """Receive the bank's training rows. Raises PeerError (M03) above `most` rows or outside the shared table."""
    rows: list[int] = []
    chunk, last = 0, False
    while not last:
        message = yield Receive("binning.rows", (wire.TrainingRows,))
        check_chunk(message.chunk, chunk)
        if not message.rows:
            raise PeerError("the bank sent an empty chunk of training rows", "M03")
        rows += decode_rows(message.rows, limit)
        chunk, last = chunk + 1, message.last
        if len(rows) > most:
            raise PeerError(f"the bank sent more training rows than the contract's {most}", "M03")
    return rows


def note_rows(live: Sequence[bool], rights: tuple[Provenance, ...]) -> Role[None]:
    """Tell the bank which of its training rows are live here."""
    message = wire.TrainingRowsNoted(rows=sum(live), live=encode_bitmap(live))
    yield Send(message, "binning.rows", rights)


def send_rows(rows: Sequence[int], chunk_bytes: int, rights: tuple[Provenance, ...]) -> Role[list[bool]]:
    """Send the training rows in chunks; return which of them are live at the platform."""
    size = chunk_bytes // ROW_BYTES
    starts = list(range(0, max(1, len(rows)), size))
    for chunk, start in enumerate(starts):
        part = encode_rows(rows[start : start + size])
        message = wire.TrainingRows(chunk=chunk, rows=part, last=chunk == len(starts) - 1)
        yield Send(message, "binning.rows", rights)
    answer = yield Receive("binning.rows", (wire.TrainingRowsNoted,))
    return decode_bitmap(answer.live, len(rows))
