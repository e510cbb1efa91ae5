"""The file behind a table: how its text is encoded, and whether it is still what was read.

Text is UTF-8, UTF-8 with a byte order mark, or GB18030, which is told by what is written: a file that is no UTF-8, decodes as
GB18030, and whose Chinese characters are mostly everyday ones (level 1 of GB/T 2312). A file is gone through once, a block in
memory, before any of it is parsed: a header that no table has, or a NUL byte, ends it there.
"""

import codecs
import gzip
import hashlib
import os
import re
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from lianxin.federation.errors import InputFault

MOST_COLUMNS = 10_000
MOST_HEADER_BYTES = 2**20
UTF8, UTF8_BOM, GB18030 = "utf-8", "utf-8-sig", "gb18030"
_BLOCK = 2**20
_OF_CHINESE = re.compile(
    "[\u0000-\u007f\u00b7\u2010-\u2027\u2030\u2460-\u2473\u3000-\u303f\u3400-\u9fff\uff00-\uffef]*"
)
_HANZI = re.compile("[\u3400-\u9fff]")
_read: dict[Path, str] = {}
_codings: dict[Path, str] = {}
_reading = threading.Lock()


def encoding_of(path: Path) -> str:
    """Return `utf-8`, `utf-8-sig` (with a byte order mark) or `gb18030`: how the text of a CSV file is encoded.

    Raises InputFault for a file that is none of these, that holds NUL bytes, or whose header is no table's.
    """
    rows = 0
    decoder, first = codecs.getincrementaldecoder(UTF8)(), b""
    with opened(path) as file:
        for block in _blocks(path, file):
            first = first or block
            try:
                decoder.decode(block)
            except UnicodeDecodeError as fault:
                return _chinese(path, rows + block.count(b"\n", 0, max(0, fault.start)))
            rows += block.count(b"\n")
    try:
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return _chinese(path, rows)
    return UTF8_BOM if first.startswith(codecs.BOM_UTF8) else UTF8


def _blocks(path: Path, file: IO[bytes]) -> Iterator[bytes]:
    """Yield a text's blocks; raises InputFault for what cannot be one."""
    rows = 0
    while block := file.read(_BLOCK):
        if not rows:
            _check_header(path, block)
        if b"\0" in block:
            row = rows + block.count(b"\n", 0, block.index(b"\0"))
            where = f"at about data row {row}" if row else "in its header"
            raise InputFault(f"{path.name} holds NUL bytes {where}; export it again as text in UTF-8 (not UTF-16)")
        rows += block.count(b"\n")
        yield block


def _check_header(path: Path, block: bytes) -> None:
    header, _, _ = block.partition(b"\n")
    if len(header) >= MOST_HEADER_BYTES or header.count(b",") >= MOST_COLUMNS:
        raise too_wide(path.name)


def too_wide(file: str) -> InputFault:
    """Return the refusal of a table with more columns than any has."""
    return InputFault(f"{file} has over {MOST_COLUMNS:,} columns in its header; give a table with those that are used")


def _chinese(path: Path, row: int) -> str:
    decoder, hanzi = codecs.getincrementaldecoder(GB18030)(), set[str]()
    try:
        with opened(path) as file:
            while block := file.read(_BLOCK):
                text = decoder.decode(block)
                if not _OF_CHINESE.fullmatch(text):
                    raise _undecodable(path, row)
                hanzi.update(_HANZI.findall(text))
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        raise _undecodable(path, row) from None
    if sum(map(_is_everyday, hanzi)) * 2 < max(1, len(hanzi)):
        raise _undecodable(path, row)
    return GB18030


def _is_everyday(character: str) -> bool:
    return b"\xb0\xa1" <= character.encode("gb2312", "replace") <= b"\xd7\xf9"


def _undecodable(path: Path, row: int) -> InputFault:
    where = f"at about data row {row}" if row else "in its header"
    return InputFault(f"{path.name} is neither UTF-8 nor GB18030 text {where}; save it with the UTF-8 encoding")


def opened(path: Path) -> IO[bytes]:
    """Return the bytes of a file, decompressed where it is a `.gz`."""
    return gzip.open(path, "rb") if path.name.lower().endswith(".gz") else path.open("rb")  # type: ignore[return-value]


# ---- a file that changes


class Unchanged:
    """A block in which a file is read: raises InputFault at its end when the file was written to meanwhile."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        self._before = _mark_of(self._path)

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None and not issubclass(kind, InputFault | UnicodeDecodeError):  # type: ignore[arg-type]
            return
        if _mark_of(self._path) != self._before:
            raise InputFault(
                f"{self._path.name} was written to while it was read; put a finished copy where nobody writes, and read that"
            )


def _mark_of(path: Path) -> tuple[int, int, int]:
    found = os.stat(path)
    return found.st_ino, found.st_size, found.st_mtime_ns


def note_read(path: Path) -> None:
    """Remember what the file was when this process read it."""
    with _reading:
        _read[path.resolve()] = digest_of(path)


def note_coding(path: Path, coding: str) -> None:
    """Remember how the text of a file was encoded when this process read it."""
    with _reading:
        _codings[path.resolve()] = coding


def how_read(path: Path | None) -> str:
    """Return a sentence for whoever watches the node where a table's text was not plain UTF-8, "" where it was."""
    with _reading:
        coding = UTF8 if path is None else _codings.get(path.resolve(), UTF8)
    told = {UTF8_BOM: "UTF-8 with a byte order mark", GB18030: "GB18030"}
    return f"{path.name} was read as {told[coding]}" if path is not None and coding in told else ""


def check_as_read(path: Path | None, digest: str | None) -> None:
    """Raise InputFault where this process read the file and what it read had another digest than `digest`."""
    if path is None or digest is None:
        return
    with _reading:
        known = _read.get(path.resolve(), digest)
    if known != digest:
        raise InputFault(
            f"{path.name} has changed since this node read it; start the node again with the table as it is to be used, or put "
            "the old one back"
        )


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, hex, read a block at a time."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


GZIP_FAULTS = (gzip.BadGzipFile, EOFError, zlib.error)
