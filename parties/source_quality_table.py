"""One look at a table for its quality: the type and the missing cells of each column, codes, dates; in pieces, no value kept.

The table comes some thousand rows at a time (`iterate_table`), so that memory does not grow with the rows beyond eight
bytes for each identifier.
"""

import hashlib
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from lianxin.federation.errors import InputFault
from lianxin.parties.identifiers import is_uscc, normalise_identifier
from lianxin.parties.records import AS_WRITTEN
from lianxin.parties.records_frame import iterate_table
from lianxin.parties.records_source import digest_of

PIECE_ROWS = 5_000
MISSING = ("", "NA")
_NUMBER = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"
_CODE = r"^[+-]?0[0-9]"
_DAY = r"^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])"


@dataclass
class Column:
    """A column as far as it was read: empty cells, whether all others are numbers or days, the newest day ("" for none)."""

    missing: int = 0
    filled: int = 0
    is_number: bool = True
    is_day: bool = True
    newest: str = ""

    @property
    def kind(self) -> str:
        """Return `empty`, `number`, `day` or `text`."""
        if not self.filled:
            return "empty"
        return "number" if self.is_number else "day" if self.is_day else "text"

    def take(self, cells: pl.Series) -> None:
        """Take in a piece of the column, as text with null for missing."""
        present = cells.drop_nulls()
        self.missing, self.filled = self.missing + cells.null_count(), self.filled + len(present)
        if len(present):
            self.is_number &= bool((present.str.contains(_NUMBER) & ~present.str.contains(_CODE)).all())
            days = present.str.contains(_DAY)
            self.is_day &= bool(days.all())
            self.newest = max(self.newest, str(present.filter(days).str.slice(0, 10).max() or ""))


@dataclass
class Codes:
    """What was found of the identifiers: rows without a valid code, rows that repeat a firm."""

    bad: int = 0
    twice: int = 0
    seen: "array[int]" = field(default_factory=lambda: array("Q"), repr=False)

    def take(self, cells: pl.Series) -> None:
        """Take in a piece of the column of identifiers."""
        for cell in cells:
            code = normalise_identifier(cell) if cell is not None else ""
            self.bad += not is_uscc(code)
            if code:
                self.seen.append(int.from_bytes(hashlib.blake2b(code.encode(), digest_size=8).digest()))

    def count(self) -> None:
        """Count the repetitions, once all are taken in, and forget the rest."""
        self.twice = len(self.seen) - pl.Series(self.seen, dtype=pl.UInt64).n_unique()
        self.seen = array("Q")


@dataclass
class Look:
    """What a table is: the SHA-256 of its file, the day on which that was written, its rows and columns, its codes."""

    digest: str
    written: str
    rows: int = 0
    columns: dict[str, Column] = field(default_factory=dict)
    codes: Codes = field(default_factory=Codes)


def look_at(path: Path, id_column: str, called: Mapping[str, str] = AS_WRITTEN) -> Look:
    """Return one look at the table in `path` (.csv, .csv.gz, .parquet). Raises InputFault for what is no table."""
    try:
        look = Look(digest_of(path), datetime.fromtimestamp(path.stat().st_mtime, UTC).date().isoformat())
    except OSError:
        raise InputFault(f"{path} cannot be read; check the path and the file's permissions") from None
    for piece in iterate_table(path, PIECE_ROWS, called):
        _take(look, piece, id_column)
    if not look.rows:
        raise InputFault(f"{path.name} holds no data rows; give a table with a header and at least one row")
    look.codes.count()
    return look


def _take(look: Look, piece: pl.DataFrame, id_column: str) -> None:
    look.rows += piece.height
    for name in piece.columns:
        cells = piece[name].cast(pl.String).str.strip_chars()
        cells = cells.set(cells.is_in(MISSING), None)
        look.columns.setdefault(name, Column()).take(cells)
        if name == id_column:
            look.codes.take(cells)
