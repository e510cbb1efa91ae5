"""Rows to be scored by a finished model: each cell judged by itself, by the kind that its feature had at the training.

A table's reader calls a column text as soon as one cell of it is no number; scored like that, every firm of the table would
be taken for one that has no value. Here "abc", "inf" or "67,000" in a feature of numbers is missing for its own firm
alone, and a sentence counts such cells by their rows. Text features keep every cell as it is.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lianxin.federation.errors import InputFault
from lianxin.parties.coding import BinSpec, is_missing
from lianxin.parties.records import MISSING_TEXTS, Table
from lianxin.parties.scorecard_card import PLATFORM_POINTS, Card

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_NAMED_ROWS = 5
_LONGEST = 64


@dataclass(frozen=True)
class OwnColumns:
    """Own features as a model takes them, a column a name, and a sentence for each that holds cells of another kind."""

    columns: Mapping[str, list[Any]] = field(repr=False)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class CardRows:
    """A table's rows as a card scores them: own features, the platform's sub-scores or None, and what is to be said."""

    own: OwnColumns = field(repr=False)
    points: tuple[int | None, ...] = field(repr=False)
    notes: tuple[str, ...] = ()


def own_columns(specs: Mapping[str, BinSpec], given: Mapping[str, Sequence[Any]]) -> OwnColumns:
    """Return the columns of `given` that features of these bins need, by name; absent ones stay absent.

    In a feature of numbers a text that reads as a finite number is that number, and any other is missing and counted.
    """
    columns, notes = dict[str, list[Any]](), list[str]()
    for name, spec in specs.items():
        if name not in given:
            continue
        cells = list(given[name])
        if spec.kind == "numeric":
            read = [as_number(cell) for cell in cells]
            odd = [row for row, (cell, number) in enumerate(zip(cells, read, strict=True), 1) if _is_odd(cell, number)]
            notes += [_odd_cells(name, odd, len(cells))] if odd else []
            cells = list(read)
        columns[name] = cells
    return OwnColumns(columns, tuple(notes))


def as_number(cell: Any) -> int | float | None:
    """Return the finite number in a cell, None where there is none."""
    if isinstance(cell, str):
        text = cell.strip()
        if len(text) > _LONGEST or NUMBER.fullmatch(text) is None:
            return None
        cell = float(text)
    if isinstance(cell, int):
        return cell
    return cell if isinstance(cell, float) and math.isfinite(cell) else None


def _is_odd(cell: Any, number: int | float | None) -> bool:
    return number is None and not is_missing(cell) and not (isinstance(cell, str) and cell.strip() in MISSING_TEXTS)


def _odd_cells(name: str, rows: Sequence[int], of: int) -> str:
    shown = ", ".join(str(row) for row in rows[:_NAMED_ROWS])
    more = f" and {len(rows) - _NAMED_ROWS} more" if len(rows) > _NAMED_ROWS else ""
    what = "is no number and counts as missing" if len(rows) == 1 else "are no numbers and count as missing"
    return f"{name}: {len(rows)} of {of} values {what}: row{'s' if len(rows) > 1 else ''} {shown}{more}"


def card_rows_of(card: Card, table: Table, points_column: str = "") -> CardRows:
    """Return a table's rows for `Card.score`; sub-scores stand in `points_column` as whole numbers, empty where there is none.

    Without a name it is `platform_points`, which may be absent: every row then is scored by the bank alone, and a note
    says so. Raises InputFault for a named column that is not there, and for a sub-score that is no whole number, by row.
    """
    given = {name: table.column(name) for name in card.fields if name in table.columns}
    own = own_columns(dict(zip(card.fields, card.bins, strict=True)), given)
    if points_column:
        table.check_column(points_column)
    column, nobody = points_column or PLATFORM_POINTS, (None,) * table.rows
    takes = card.joint.multiplier_micro != 0
    points = _points(table, column) if takes and column in table.columns else nobody
    return CardRows(own, points, own.notes + (_alone(points, column) if takes else ()))


def _points(table: Table, column: str) -> tuple[int | None, ...]:
    found = []
    for row, cell in enumerate(table.column(column), start=1):
        number = as_number(cell)
        is_empty = number is None and not _is_odd(cell, number)
        if not is_empty and (number is None or not float(number).is_integer()):
            raise InputFault(f"data row {row} of {table.file} has no whole number in {column}; mend or empty it")
        found.append(None if number is None else int(number))
    return tuple(found)


def _alone(points: Sequence[int | None], column: str) -> tuple[str, ...]:
    alone = sum(value is None for value in points)
    if not alone:
        return ()
    return (f"{alone} of {len(points)} rows have no {column} and are scored by the bank alone",)
