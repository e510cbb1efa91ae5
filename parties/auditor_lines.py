"""Lines of a file that stay on disk: an array of where each one ends, and the line itself when it is asked for.

Evidence of a million leaves is larger than the memory that an auditor has, so nothing is kept of a line but eight bytes
of place and what its first reading found. A line that is longer than `LONGEST` bytes counts as an empty one: whoever
wrote it is told so, and it is never held in memory.
"""

import hashlib
import json
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, NoReturn, overload

from lianxin.crypto import canonical, merkle
from lianxin.crypto.errors import CryptoError

LONGEST = 2**24
MOST_BAD = 1000
_WINDOW = 2**18
_BLOCK = 2**20
_DIGITS = 16
_LOW = 2**64 - 1
_TILE_LEVEL = 8
TILE = 2**_TILE_LEVEL
_AROUND = frozenset(b'{}[]:,"')
Record = dict[str, Any]


def _refuse(_text: str) -> NoReturn:
    raise ValueError("a number that no canonical record holds")


def _integer(digits: str) -> int:
    return int(digits) if len(digits) < _DIGITS and digits != "-0" else _refuse(digits)


def _in_order(pairs: list[tuple[str, Any]]) -> Record:
    value = dict(pairs)
    if len(value) != len(pairs) or (names := list(value)) != sorted(names):
        raise ValueError("an object whose names are not in order, or one stands twice")
    return value


_READER = json.JSONDecoder(parse_float=_refuse, parse_constant=_refuse, parse_int=_integer, object_pairs_hook=_in_order)
_AGAIN = json.JSONDecoder()  # for what is known to be canonical


def decoded(line: bytes) -> Record | None:
    """Return the object that `line` is the canonical encoding of, None for any other bytes.

    It says what `canonical.decode_fragment` says; plain lines are only read faster (`_is_plain`).
    """
    if not _is_plain(line):
        return _slowly(line)
    try:
        text = line.decode("ascii")
        value, end = _READER.raw_decode(text)
        return value if end == len(text) and isinstance(value, dict) else None
    except (ValueError, RecursionError):
        return _slowly(line)


def _is_plain(line: bytes) -> bool:
    """Return whether a line is its own encoding if it is JSON of ordered names and small integers.

    It is printable ASCII without a backslash, so each string is written as it is; each space has other than a sign of JSON on
    both sides, so it is within a string; nothing is null, and there are no more objects and lists than levels allowed.
    """
    if not line.isascii() or b"\\" in line or b"null" in line:
        return False
    if line.count(b"{") + line.count(b"[") > canonical.MAX_DEPTH or not line.decode("ascii").isprintable():
        return False
    at = line.find(b" ")
    while at > 0:
        if line[at - 1] in _AROUND or line[at + 1 : at + 2] in (b"", b" ") or line[at + 1] in _AROUND:
            return False
        at = line.find(b" ", at + 1)
    return at < 0


def decoded_again(line: bytes) -> Record:
    """Return the object of a line that was canonical before; an empty one if its file was changed meanwhile."""
    try:
        value, _ = _AGAIN.raw_decode(line.decode())
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _slowly(line: bytes) -> Record | None:
    try:
        return canonical.decode_fragment(line)
    except CryptoError:
        return None


class Lines(Sequence[bytes]):
    """The lines of one file without their line feeds; a file that is not there has none.

    `is_whole` says whether the last line ends in a line feed, `too_long` which lines are over `LONGEST`. A file is read no
    further than its line number `MOST_BAD` that is not even in braces; `is_cut` says so. A file of line feeds alone shrinks a
    thousandfold in a pack, and each line of it would cost an entry here.
    """

    def __init__(self, path: Path | None) -> None:
        """Find the lines of `path`. Raises OSError when it is no regular file or cannot be read."""
        self.path, self._ends, self.too_long, self.is_whole = path, array("Q"), list[int](), True
        self._window, self._at, self._last = b"", 0, -1
        self.is_cut, self._bad = False, 0
        if path is not None:
            self._find(path)

    def _find(self, path: Path) -> None:
        if not path.is_file():  # a pipe or a device would never end
            raise OSError("no regular file")
        place = last = 0
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                *ended, _ = block.split(b"\n")
                ended = self._until_too_bad(ended)
                if ended:
                    self._end_lines(place, ended)
                if self.is_cut:
                    return
                place += len(block)
                last = block[-1]
        if place and last != 0x0A:
            self.is_whole = False
            self._end_lines(place, [b""])

    def _until_too_bad(self, ended: list[bytes]) -> list[bytes]:
        """Return the lines up to the one too many that is no object; what is before the first line feed is not looked at."""
        bad = [at for at, one in enumerate(ended) if at and not (one.startswith(b"{") and one.endswith(b"}"))]
        self._bad += len(bad)
        if self._bad < MOST_BAD:
            return ended
        self.is_cut = True
        return ended[: bad[len(bad) - 1 - (self._bad - MOST_BAD)] + 1]

    def _end_lines(self, place: int, ended: list[bytes]) -> None:
        """Note where these pieces of a block at `place` end; a line too long is larger than a block, so only a first one."""
        start, count = (self._ends[-1] + 1 if self._ends else 0), len(self._ends)
        self._ends.extend(
            accumulate(map(len, ended[1:]), lambda end, size: end + size + 1, initial=place + len(ended[0]))
        )
        if self._ends[count] - start > LONGEST and len(self.too_long) < TILE:
            self.too_long.append(count)

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> list[bytes]: ...
    def __getitem__(self, index: int | slice) -> bytes | list[bytes]:
        ends = self._ends
        if isinstance(index, slice):
            return [self[one] for one in range(*index.indices(len(ends)))]
        place = index + len(ends) if index < 0 else index
        if not 0 <= place < len(ends):
            raise IndexError("there is no such line")
        start, end, at = (ends[place - 1] + 1 if place else 0), ends[place], self._at
        last, self._last = self._last, place
        if at <= start and end <= at + len(self._window):
            return self._window[start - at : end - at]
        if end - start > LONGEST:
            return b""
        if place <= last:  # one line from before; what is read ahead stays
            return self._read(start, end - start)
        self._window, self._at = self._read(start, max(_WINDOW, end - start)), start
        return self._window[: end - start]

    def _read(self, start: int, count: int) -> bytes:
        if self.path is None:
            return b""
        with self.path.open("rb", buffering=0) as file:
            file.seek(start)
            return file.read(count)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_window": b"", "_at": 0, "_last": -1}


class Records(Sequence[Record]):
    """The records that lines encode, decoded when they are asked for; an empty one where a line is not canonical."""

    def __init__(self, lines: Lines, is_good: bytearray) -> None:
        self.lines, self._is_good = lines, is_good

    def __len__(self) -> int:
        return len(self.lines)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        if isinstance(index, slice):
            return [self[one] for one in range(*index.indices(len(self)))]
        return decoded_again(self.lines[index]) if self._is_good[index] else {}

    def line(self, index: int) -> bytes:
        """Return the bytes of one line as they are, none where they are not canonical."""
        return self.lines[index] if self._is_good[index] else b""

    def __iter__(self) -> Iterator[Record]:
        return (self[index] for index in range(len(self)))


def empty_records() -> Records:
    """Return the records of a file that is not there."""
    return Records(Lines(None), bytearray())


class LineTree(merkle.HashTree):
    """The RFC 9162 tree over lines as they are. In memory are the hashes over each `TILE` leaves alone.

    `tiles` are those hashes, one after another; what lies below one is hashed again from the lines.
    """

    def __init__(self, lines: Sequence[bytes], tiles: bytes) -> None:
        self._lines, self._upper = lines, [bytearray(tiles)]
        while len(below := self._upper[-1]) >= 2 * merkle.HASH_BYTES:
            pairs = range(0, len(below) // 64 * 64, 64)
            self._upper.append(
                bytearray(b"".join(hashlib.sha256(b"\x01" + below[at : at + 64]).digest() for at in pairs))
            )
        self._tile, self._hashes = -1, list[bytes]()

    @property
    def size(self) -> int:
        """The number of leaves."""
        return len(self._lines)

    def _node(self, level: int, position: int) -> bytes:
        if level >= _TILE_LEVEL:
            return bytes(self._upper[level - _TILE_LEVEL][position * 32 : position * 32 + 32])
        first = position << level
        hashes = self._below(first // TILE)[first % TILE : first % TILE + (1 << level)]
        return root_of_tile(hashes)

    def _below(self, tile: int) -> list[bytes]:
        if tile != self._tile:
            end = min((tile + 1) * TILE, self.size)
            self._tile, self._hashes = tile, [merkle.leaf_hash(self._lines[n]) for n in range(tile * TILE, end)]
        return self._hashes


def root_of_tile(hashes: list[bytes]) -> bytes:
    """Return the node over the hashes of a power of two of leaves."""
    while len(hashes) > 1:
        hashes = [merkle.node_hash(*pair) for pair in zip(hashes[::2], hashes[1::2], strict=True)]
    return hashes[0]


class Marks(Sequence[int]):
    """Numbers below 2^128 in a row, sixteen bytes each: hashes cut so far that nobody finds two messages under one of them."""

    BYTES = 16

    def __init__(self, marks: Iterable[int] = ()) -> None:
        self.high, self.low = array("Q"), array("Q")
        self.extend(marks)

    def __len__(self) -> int:
        return len(self.high)

    @overload
    def __getitem__(self, index: int) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> list[int]: ...
    def __getitem__(self, index: int | slice) -> int | list[int]:
        if isinstance(index, slice):
            return [self[one] for one in range(*index.indices(len(self)))]
        return self.high[index] << 64 | self.low[index]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Marks) and self.high == other.high and self.low == other.low

    __hash__ = None  # type: ignore[assignment]

    def append(self, mark: int) -> None:
        """Put one more number behind these."""
        self.high.append(mark >> 64)
        self.low.append(mark & _LOW)

    def extend(self, marks: Iterable[int]) -> None:
        """Put more numbers behind these."""
        if isinstance(marks, Marks):
            self.high += marks.high
            self.low += marks.low
            return
        for mark in marks:
            self.append(mark)

    def ordered(self) -> "Marks":
        """Return the same numbers in order."""
        return Marks(sorted(self))

    def holds(self, mark: int) -> bool:
        """Return whether `mark` is among these, which are in order."""
        high, low = mark >> 64, mark & _LOW
        at = bisect_left(self.high, high)
        while at < len(self.high) and self.high[at] == high:
            if self.low[at] == low:
                return True
            at += 1
        return False


class Places:
    """Where each of many byte strings stood first, by 16 bytes of its BLAKE2b: twenty bytes each, and no object."""

    _KEY, _ENTRY, _BUCKETS = 16, 20, 1024

    def __init__(self) -> None:
        self._buckets = [bytearray() for _ in range(self._BUCKETS)]

    def add(self, key: bytes, place: int = 0) -> None:
        """Note that `key` stood at `place`, a number below 2^32, unless it stood somewhere before."""
        digest, bucket = self._of(key)
        if self._find(digest, bucket) < 0:
            bucket += digest + place.to_bytes(self._ENTRY - self._KEY)

    def get(self, key: bytes) -> int | None:
        """Return where `key` stood, None where it never did."""
        digest, bucket = self._of(key)
        at = self._find(digest, bucket)
        return None if at < 0 else int.from_bytes(bucket[at + self._KEY : at + self._ENTRY])

    def __contains__(self, key: bytes) -> bool:
        return self._find(*self._of(key)) >= 0

    def _of(self, key: bytes) -> tuple[bytes, bytearray]:
        digest = hashlib.blake2b(key, digest_size=self._KEY).digest()
        return digest, self._buckets[int.from_bytes(digest[:2]) % self._BUCKETS]

    def _find(self, digest: bytes, bucket: bytearray) -> int:
        at = bucket.find(digest)
        while at % self._ENTRY and at >= 0:  # not at the start of an entry
            at = bucket.find(digest, at + 1)
        return at
