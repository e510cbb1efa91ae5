"""Lines of a file that stay on disk: an array of where each one ends, and the line itself when it is asked for.

Evidence of a million leaves is larger than the memory that an auditor has, so nothing is kept of a line but eight bytes
of place and what its first reading found. A line that is longer than `LONGEST` bytes counts as an empty one: whoever
wrote it is told so, and it is never held in memory.
"""

import hashlib
import json
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn, overload

from lianxin.crypto import canonical, merkle
from lianxin.crypto.errors import CryptoError

LONGEST = 2**24
_WINDOW = 2**16
_BLOCK = 2**20
_DIGITS = 16
_TILE_LEVEL = 8
TILE = 2**_TILE_LEVEL
_WRITER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), sort_keys=True, check_circular=False)
Record = dict[str, Any]


def _refuse(_text: str) -> NoReturn:
    raise ValueError("a number that no canonical record holds")


def _integer(digits: str) -> int:
    return int(digits) if len(digits) < _DIGITS else _refuse(digits)


_READER = json.JSONDecoder(parse_float=_refuse, parse_constant=_refuse, parse_int=_integer)


def decoded(line: bytes) -> Record | None:
    """Return the object that `line` is the canonical encoding of, None for any other bytes.

    It says what `canonical.decode_fragment` says; lines of plain ASCII without odd values are only read faster.
    """
    is_plain = line.isascii() and b"null" not in line and line.count(b"{") + line.count(b"[") <= canonical.MAX_DEPTH
    try:
        if is_plain:
            text = line.decode("ascii")
            value = _READER.decode(text)
            if isinstance(value, dict) and _WRITER.encode(value) == text:
                return value
        return canonical.decode_fragment(line)
    except (CryptoError, ValueError, RecursionError):
        return _slowly(line) if is_plain else None


def _slowly(line: bytes) -> Record | None:
    try:
        return canonical.decode_fragment(line)
    except CryptoError:
        return None


class Lines(Sequence[bytes]):
    """The lines of one file without their line feeds; a file that is not there has none.

    `is_whole` says whether the last line ends in a line feed, `too_long` which lines are over `LONGEST`.
    """

    def __init__(self, path: Path | None) -> None:
        """Find the lines of `path`. Raises OSError when it is no regular file or cannot be read."""
        self.path, self._ends, self.too_long, self.is_whole = path, array("Q"), list[int](), True
        self._window, self._at, self._last = b"", 0, -1
        if path is not None:
            self._find(path)

    def _find(self, path: Path) -> None:
        if not path.is_file():  # a pipe or a device would never end
            raise OSError("no regular file")
        place = last = 0
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                at = block.find(b"\n")
                while at >= 0:
                    self._end_line(place + at)
                    at = block.find(b"\n", at + 1)
                place += len(block)
                last = block[-1]
        if place and last != 0x0A:
            self.is_whole = False
            self._end_line(place)

    def _end_line(self, end: int) -> None:
        start = self._ends[-1] + 1 if self._ends else 0
        if end - start > LONGEST and len(self.too_long) < TILE:
            self.too_long.append(len(self._ends))
        self._ends.append(end)

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> list[bytes]: ...
    def __getitem__(self, index: int | slice) -> bytes | list[bytes]:
        if isinstance(index, slice):
            return [self[one] for one in range(*index.indices(len(self)))]
        place = index + len(self) if index < 0 else index
        if not 0 <= place < len(self):
            raise IndexError("there is no such line")
        start, end = (self._ends[place - 1] + 1 if place else 0), self._ends[place]
        last, self._last = self._last, place
        if end - start > LONGEST:
            return b""
        if start < self._at or end > self._at + len(self._window):
            if place <= last:  # one line from before; what is read ahead stays
                return self._read(start, end - start)
            self._window, self._at = self._read(start, max(_WINDOW, end - start)), start
        return self._window[start - self._at : end - self._at]

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
        place = index + len(self) if index < 0 else index
        if not self._is_good[place]:
            return {}
        try:
            value = json.loads(self.lines[place])
        except ValueError:  # the file was changed while it was read
            return {}
        return value if isinstance(value, dict) else {}

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
        while len(hashes) > 1:
            hashes = [merkle.node_hash(*pair) for pair in zip(hashes[::2], hashes[1::2], strict=True)]
        return hashes[0]

    def _below(self, tile: int) -> list[bytes]:
        if tile != self._tile:
            end = min((tile + 1) * TILE, self.size)
            self._tile, self._hashes = tile, [merkle.leaf_hash(self._lines[n]) for n in range(tile * TILE, end)]
        return self._hashes


def tiles_of(lines: Sequence[bytes], start: int, stop: int) -> bytes:
    """Return the hashes over each full `TILE` of lines from `start`, a multiple of it, to `stop`."""
    return b"".join(
        merkle.root_of_all([lines[n] for n in range(first, first + TILE)])
        for first in range(start, stop - TILE + 1, TILE)
    )


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
