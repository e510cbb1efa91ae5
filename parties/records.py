"""Reading a party's own table, and saying in one sentence what is wrong with it.

A table is a CSV (`.csv`, `.csv.gz`; UTF-8 or GB18030, see `records_source`) or a Parquet file. Empty cells and the text
`NA` are missing. A column whose values are all numbers is numeric, unless one is written with a leading zero: that is a
code. Rows are counted from 1, the header not included. A fault names the file, the column, the row and what to do; it
never shows a value.

What a CSV needs is here and in `records_text`; polars, a quarter of a waiting node's memory, is loaded for Parquet
and for whoever asks for a frame (`records_frame`).
"""

import csv
import difflib
import io
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from lianxin.federation.errors import InputFault
from lianxin.parties.identifiers import IdentifierFault, check_uscc, identifiers_are_uscc, normalise_identifier
from lianxin.parties.records_source import (
    GZIP_FAULTS,
    MOST_COLUMNS,
    Unchanged,
    encoding_of,
    note_coding,
    note_read,
    opened,
    too_wide,
)
from lianxin.parties.records_text import TextCells

if TYPE_CHECKING:
    import polars as pl

    from lianxin.parties.records_frame import FrameCells

__all__ = ["FirmTable", "LoanTable", "Table", "encoding_of", "load_firm_table", "load_loan_table", "read_table"]

MISSING_TEXTS = ("", "NA")
_ENDINGS = (".csv.gz", ".csv", ".parquet")
_NEIGHBOURS = 3
_CELLS = 500_000  # of a CSV, as Python's objects in memory at once
_TEST_EVERY = 5
AS_WRITTEN: Mapping[str, str] = {}
_LABELS = {"0": 0, "1": 1, "0.0": 0, "1.0": 1}


@dataclass(frozen=True)
class Table:
    """A table as read: `name` is the file's name without its ending; a CSV's cells are still text."""

    name: str
    file: str
    cells: "TextCells | FrameCells" = field(repr=False)

    @property
    def columns(self) -> tuple[str, ...]:
        """The column names in the file's order."""
        return self.cells.names

    @property
    def rows(self) -> int:
        """The number of data rows."""
        return self.cells.rows

    @property
    def frame(self) -> "pl.DataFrame":
        """The table as a frame of polars: a CSV's cells as text, null where missing."""
        from lianxin.parties.records_frame import frame_of

        return frame_of(self.cells)

    def column(self, name: str) -> list[Any]:
        """Return the column as numbers or as text, None where missing; raises InputFault when there is none."""
        self.check_column(name)
        return self.cells.typed(name)

    def text(self, name: str) -> list[str | None]:
        """Return the column as it is written, None where missing: for identifiers."""
        self.check_column(name)
        return self.cells.text(name)

    def first_text(self, name: str) -> int | None:
        """Return the number of the first data row that keeps the column from being one of numbers, None where nothing does."""
        return self.cells.first_text(name)

    def check_column(self, name: str) -> None:
        """Raise InputFault, with the nearest names, unless the table has the column."""
        if name in self.columns:
            return
        near = difflib.get_close_matches(name, self.columns, n=_NEIGHBOURS, cutoff=0.5)
        has = f"did you mean {' or '.join(near)}" if near else f"it has {_listing(self.columns)}"
        raise InputFault(f"{self.file} has no column {name}; {has}")


def _listing(names: Sequence[str], most: int = 8) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def read_table(path: Path, called: Mapping[str, str] = AS_WRITTEN) -> Table:
    """Return the table in `path`; `called` maps names of columns here to those in the file, which differ from them.

    Raises InputFault when it is absent, unreadable, empty, no table, lacks a column of `called`, or was written to meanwhile.
    """
    ending = next((ending for ending in _ENDINGS if path.name.lower().endswith(ending)), None)
    if not path.exists():
        raise InputFault(f"{path} does not exist; check the path")
    if ending is None or not path.is_file():
        raise InputFault(f"{path} is no .csv, .csv.gz or .parquet file; save the table as one of these")
    cells = _read(path, ending, called)
    if cells.rows == 0 or not cells.names:
        raise InputFault(f"{path.name} holds no data rows; give a table with a header and at least one row")
    return Table(path.name[: -len(ending)], path.name, cells)


def _read(path: Path, ending: str, called: Mapping[str, str]) -> "TextCells | FrameCells":
    try:
        with Unchanged(path):
            note_read(path)
            return _read_parquet(path, called) if ending == ".parquet" else _read_csv(path, called)
    except GZIP_FAULTS as fault:
        raise InputFault(f"{path.name} is no complete gzip file; compress or copy it again") from fault
    except OSError as fault:
        raise InputFault(f"{path} cannot be read; check the file's permissions") from fault


def _read_parquet(path: Path, called: Mapping[str, str]) -> "FrameCells":
    from lianxin.parties.records_frame import read_parquet

    return read_parquet(path, called)


def _read_csv(path: Path, called: Mapping[str, str]) -> TextCells:
    """Return the rows as text, a batch of cells as Python's objects in memory beside the packed cells that grow."""
    coding = encoding_of(path)
    note_coding(path, coding)
    cells = TextCells(())
    for names, rows in csv_batches(path, coding, called):
        cells = cells if cells.names else TextCells(names)
        cells.add(rows)
    return cells


def csv_batches(
    path: Path, coding: str, called: Mapping[str, str] = AS_WRITTEN, most: int = _CELLS
) -> Iterator[tuple[list[str], list[list[str]]]]:
    """Yield (names, rows) of a CSV, at most `most` rows and half a million cells each, none for a table without rows.

    Raises InputFault for what is no table.
    """
    with opened(path) as raw, io.TextIOWrapper(raw, coding, newline="") as text:
        rows = _rows(path.name, text)
        names = called_names(path.name, checked_names(path.name, next(rows)), called)
        for batch in _batches(rows, max(1, min(most, _CELLS // len(names)))):
            yield names, batch


def _batches(rows: Iterator[list[str]], most: int) -> Iterator[list[list[str]]]:
    while batch := list(islice(rows, most)):
        yield batch


def _rows(file: str, text: TextIO) -> Iterator[list[str]]:
    """Yield the header and the data rows; each row has as many cells as the header, and lines without any end the file."""
    read = blank = width = 0
    lines = csv.reader(text, strict=True)
    while True:
        try:
            row = next(lines, None)
        except csv.Error as fault:
            raise InputFault(f"{file} has broken quoting at about data row {read}; export the table again") from fault
        if row is None:
            break
        read += 1
        if not row:
            blank = blank or read
            continue
        if width and (blank or len(row) != width):
            _refuse_ragged(file, (blank or read) - 1, 0 if blank else len(row), width)
        width, blank = width or len(row), 0
        yield row
    if not width:
        raise InputFault(f"{file} is empty; give a table with a header and at least one row")


def _refuse_ragged(file: str, number: int, cells: int, expected: int) -> None:
    raise InputFault(f"data row {number} of {file} has {cells} cells and the header {expected}; mend the row")


def checked_names(file: str, header: Sequence[str]) -> list[str]:
    names = [unicodedata.normalize("NFC", name).strip() for name in header]
    if len(names) == 1 and any(mark in names[0] for mark in ";\t|"):
        raise InputFault(f"{file} is not separated by commas; export it as comma-separated values")
    if len(names) > MOST_COLUMNS:
        raise too_wide(file)
    seen = set[str]()
    for place, name in enumerate(names, start=1):
        if not name:
            raise InputFault(f"column {place} of {file} has no name; give every column one")
        if name in seen:
            raise InputFault(f"{file} has two columns named {name}; rename one")
        seen.add(name)
    return names


def called_names(file: str, names: Sequence[str], called: Mapping[str, str]) -> list[str]:
    """Return a file's column names as they are called here. Raises InputFault for one that it lacks, or that two would have."""
    here = {unicodedata.normalize("NFC", written).strip(): name for name, written in called.items()}
    if len(here) < len(called):
        raise InputFault(f"[data.columns] calls one column of {file} by two names; leave one of them")
    if lacking := [written for written in here if written not in names]:
        raise InputFault(
            f"{file} has no column {lacking[0]}, which [data.columns] calls {here[lacking[0]]}; correct it there"
        )
    found = [here.get(name, name) for name in names]
    if twice := [name for name in called if found.count(name) > 1]:
        raise InputFault(
            f"{file} has a column {twice[0]} besides the one that [data.columns] calls so; call it otherwise"
        )
    return found


@dataclass(frozen=True)
class FirmTable:
    """The platform's view: one row a firm; `columns[name][i]` belongs to `identifiers[i]` (normalised)."""

    identifiers: list[str] = field(repr=False)
    columns: Mapping[str, list[Any]] = field(repr=False)


@dataclass(frozen=True)
class LoanTable:
    """A bank's view: one row a loan; `labels` are 0 or 1, `split` is "train" or "test"."""

    identifiers: list[str] = field(repr=False)
    labels: list[int] = field(repr=False)
    split: list[str] = field(repr=False)
    columns: Mapping[str, list[Any]] = field(repr=False)


def load_firm_table(table: Table, id_column: str) -> FirmTable:
    """Return the platform's table, each firm once and every other column; raises InputFault."""
    identifiers = _identifiers(table, id_column)
    _check_once(table, id_column, identifiers, "keep one row a firm")
    return FirmTable(identifiers, {name: table.column(name) for name in table.columns if name != id_column})


def load_loan_table(
    table: Table, id_column: str, label_column: str, split_column: str | None, loan_id_column: str | None
) -> LoanTable:
    """Return a bank's table with every other column; raises InputFault.

    A firm may have several rows only when `loan_id_column` tells them apart. Without `split_column` every fifth firm
    of those with, and of those without, a bad loan is for testing, in the order of the table.
    """
    identifiers = _identifiers(table, id_column)
    if loan_id_column is None:
        _check_once(table, id_column, identifiers, "keep one row a firm, or name the column of loan ids")
    else:
        loan_ids = _identifiers(table, loan_id_column, codes=False)
        _check_once(table, loan_id_column, loan_ids, "give every loan its own id")
    labels = _labels(table, label_column)
    split = _drawn_split(identifiers, labels) if split_column is None else _split(table, split_column)
    _check_two_classes(table, label_column, labels, split)
    special = {id_column, label_column, split_column, loan_id_column}
    columns = {name: table.column(name) for name in table.columns if name not in special}
    return LoanTable(identifiers, labels, split, columns)


def _identifiers(table: Table, column: str, codes: bool = True) -> list[str]:
    present: list[str] = []
    for number, value in enumerate(table.text(column), start=1):
        if value is None or not (identifier := normalise_identifier(value)):
            raise InputFault(f"data row {number} of {table.file} has no {column}; fill it in or remove the row")
        present.append(identifier)
    if codes and identifiers_are_uscc(present):
        _check_codes(table, column, present)
    return present


def _check_codes(table: Table, column: str, identifiers: Iterable[str]) -> None:
    for number, identifier in enumerate(identifiers, start=1):
        try:
            check_uscc(identifier)
        except IdentifierFault as fault:
            where = f"the {column} in data row {number} of {table.file}"
            raise InputFault(f"{where} is no valid code: {fault}; correct it or remove the row") from None


def _check_once(table: Table, column: str, identifiers: Sequence[str], advice: str) -> None:
    first: dict[str, int] = {}
    for number, identifier in enumerate(identifiers, start=1):
        if identifier in first:
            rows = f"data rows {first[identifier]} and {number} of {table.file}"
            raise InputFault(f"{rows} have the same {column}; {advice}")
        first[identifier] = number


def _labels(table: Table, column: str) -> list[int]:
    labels: list[int] = []
    for number, value in enumerate(table.text(column), start=1):
        if value not in _LABELS:
            found = "no value" if value is None else "a value other than 0 and 1"
            row = f"data row {number} of {table.file}"
            raise InputFault(f"{row} has {found} in {column}; a label is 1 for a bad loan and 0 for a good one")
        labels.append(_LABELS[value])
    return labels


def _split(table: Table, column: str) -> list[str]:
    values = table.text(column)
    for number, value in enumerate(values, start=1):
        if value not in ("train", "test"):
            row = f"data row {number} of {table.file}"
            raise InputFault(f"{row} has neither train nor test in {column}; write one of the two in every row")
    return [str(value) for value in values]


def _drawn_split(identifiers: Sequence[str], labels: Sequence[int]) -> list[str]:
    worst: dict[str, int] = {}
    for identifier, label in zip(identifiers, labels, strict=True):
        worst[identifier] = max(label, worst.get(identifier, 0))
    tested: set[str] = set()
    for kind in (0, 1):
        tested.update([firm for firm, label in worst.items() if label == kind][_TEST_EVERY - 1 :: _TEST_EVERY])
    return ["test" if identifier in tested else "train" for identifier in identifiers]


def _check_two_classes(table: Table, column: str, labels: Sequence[int], split: Sequence[str]) -> None:
    classes = {label for label, part in zip(labels, split, strict=True) if part == "train"}
    if len(classes) == 1:
        raise InputFault(f"{table.file} has one class only in {column} among its train rows; a model needs both")
    if not classes:
        raise InputFault(f"{table.file} has no train rows; mark the rows to learn from as train")
