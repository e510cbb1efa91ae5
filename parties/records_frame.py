"""Tables as frames of polars: Parquet files, a CSV's cells for whoever reckons with them, and a table in pieces.

It is loaded at its first use only: `records` reads a CSV without it.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from lianxin.federation.errors import InputFault
from lianxin.parties.records import AS_WRITTEN, MISSING_TEXTS, called_names, checked_names, csv_batches
from lianxin.parties.records_source import GZIP_FAULTS, Unchanged, encoding_of, too_wide
from lianxin.parties.records_text import TextCells

_NUMBER = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"  # the digits of ASCII: no cast takes others
_WHOLE_NUMBER = r"^[+-]?[0-9]{1,18}$"
_CODE_WITH_ZERO = r"^[+-]?0[0-9]"
_MOST_FOOTER_BYTES = 2**24


class FrameCells:
    """The cells of a table as a frame: a Parquet's columns are Int64, Float64 or String."""

    def __init__(self, frame: pl.DataFrame) -> None:
        self.frame = frame
        self.names, self.rows = tuple(frame.columns), frame.height

    def text(self, name: str) -> list[str | None]:
        """Return a column as it is written, None where missing."""
        return _plain_text(self.frame[name]).to_list()

    def typed(self, name: str) -> list[Any]:
        """Return a column as whole numbers, as floats or as text, None where missing."""
        return _typed(self.frame[name]).to_list()

    def first_text(self, name: str) -> int | None:
        """Return the number, from 1, of the first row that keeps a column from being one of numbers, None without one."""
        series = self.frame[name]
        if series.dtype != pl.String or _typed(series).dtype != pl.String:
            return None
        is_odd = ~series.str.contains(_NUMBER) | series.str.contains(_CODE_WITH_ZERO)
        places = is_odd.fill_null(False).arg_true()
        return int(places[0]) + 1 if len(places) else None


def frame_of(cells: TextCells | FrameCells) -> pl.DataFrame:
    """Return the cells of a table as a frame: those of a CSV as text, null where missing."""
    if isinstance(cells, FrameCells):
        return cells.frame
    return pl.DataFrame([pl.Series(name, cells.text(name), dtype=pl.String) for name in cells.names])


def _typed(series: pl.Series) -> pl.Series:
    if series.dtype != pl.String:
        return series
    present = series.drop_nulls()
    is_number = bool(present.str.contains(_NUMBER).all()) and not bool(present.str.contains(_CODE_WITH_ZERO).any())
    if not is_number or present.is_empty():
        return series
    whole = bool(present.str.contains(_WHOLE_NUMBER).all())
    return series.str.strip_prefix("+").cast(pl.Int64 if whole else pl.Float64)


def _plain_text(series: pl.Series) -> pl.Series:
    if series.dtype == pl.Float64 and bool((series.drop_nulls() % 1 == 0).all()):
        series = series.cast(pl.Int64, strict=False)
    return series.cast(pl.String)


# ---- in pieces


def iterate_table(path: Path, most: int, called: Mapping[str, str] = AS_WRITTEN) -> Iterator[pl.DataFrame]:
    """Yield the table in `path` in pieces of at most `most` rows, a CSV's cells as text; see `records.read_table`."""
    try:
        with Unchanged(path):
            yield from (
                _parquet_pieces(path, most, called)
                if path.name.lower().endswith(".parquet")
                else _csv_pieces(path, most, called)
            )
    except GZIP_FAULTS as fault:
        raise InputFault(f"{path.name} is no complete gzip file; compress or copy it again") from fault
    except OSError as fault:
        raise InputFault(f"{path} cannot be read; check the path and the file's permissions") from fault


def _csv_pieces(path: Path, most: int, called: Mapping[str, str]) -> Iterator[pl.DataFrame]:
    for names, rows in csv_batches(path, encoding_of(path), called, most):
        yield _frame(names, rows)


def _frame(names: Sequence[str], rows: Sequence[Sequence[str]]) -> pl.DataFrame:
    cells = TextCells(names)
    cells.add(rows)
    return frame_of(cells)


def _parquet_pieces(path: Path, most: int, called: Mapping[str, str]) -> Iterator[pl.DataFrame]:
    try:
        _check_footer(path)
        written = list(pl.read_parquet_schema(path))
        names = called_names(path.name, checked_names(path.name, written), called)
        rows = pl.scan_parquet(path, glob=False).select(pl.len()).collect().item()
        for start in range(0, rows, most):
            yield (
                pl.scan_parquet(path, glob=False)
                .slice(start, most)
                .collect()
                .rename(dict(zip(written, names, strict=True)))
            )
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as fault:
        raise InputFault(f"{path.name} is no readable Parquet file; write it again") from fault


# ---- Parquet


def read_parquet(path: Path, called: Mapping[str, str] = AS_WRITTEN) -> FrameCells:
    """Return the cells of a Parquet file. Raises InputFault for what is none, or is no table."""
    file = path.name
    try:
        _check_footer(path)
        names = called_names(file, checked_names(file, list(pl.read_parquet_schema(path))), called)
        frame = pl.read_parquet(path, glob=False)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as fault:
        raise InputFault(f"{file} is no readable Parquet file; write it again") from fault
    plain = []
    for name in frame.columns:
        plain.append(_plain_type(file, frame.drop_in_place(name)))
    return FrameCells(pl.DataFrame([series.alias(name) for series, name in zip(plain, names, strict=True)]))


def _check_footer(path: Path) -> None:
    """Raise InputFault for a file whose description of itself is larger than that of any table, before it is read."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 8))
        if int.from_bytes(file.read(4), "little") > _MOST_FOOTER_BYTES and file.read(4) == b"PAR1":
            raise too_wide(path.name)


def _plain_type(file: str, series: pl.Series) -> pl.Series:
    """Return the series as Int64, Float64 or String, missing values as null."""
    kind = series.dtype
    if kind.is_integer() or kind == pl.Boolean:
        return series.cast(pl.Int64)
    if kind.is_numeric():
        return series.cast(pl.Float64).fill_nan(None)
    if kind.is_temporal() or kind == pl.Null or isinstance(kind, (pl.String, pl.Categorical, pl.Enum)):
        text = series.cast(pl.String).str.strip_chars()
        return text.set(text.is_in(MISSING_TEXTS), None)
    raise InputFault(f"column {series.name} of {file} holds neither numbers nor text; flatten or drop it")
