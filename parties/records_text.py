"""Cells of a CSV as text: packed, so that a table takes little more memory than its file, and what they are as numbers.

A piece of a column is one string in which each cell is followed by NUL, which no text of a table holds (`records_source`);
a missing cell is empty. Whether a column is one of numbers is thus asked of a piece at once.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

MISSING = "NA"
END = "\0"
SPACE = "\t\n\v\f\r \x85\xa0\u1680" + "".join(map(chr, range(0x2000, 0x200B))) + "\u2028\u2029\u202f\u205f\u3000"
SEPARATORS = "\x1c\x1d\x1e\x1f"  # `str.strip` takes these for white space too, Unicode does not
_DIGITS = "(?:[1-9][0-9]*+|0)"  # a number with a zero before it is a code
_SIMPLE = rf"[+-]?{_DIGITS}\.[0-9]*+\0"  # what most are: the others follow in full
_NUMBERS = re.compile(rf"(?:{_SIMPLE}|[+-]?(?:{_DIGITS}(?:\.[0-9]*+)?|\.[0-9]++)(?:[eE][+-]?[0-9]++)?\0|\0)*+")
_WHOLE_NUMBERS = re.compile(r"(?:[+-]?(?:[1-9][0-9]{0,17}+|0)\0|\0)*+")


class TextCells:
    """The cells of a table, column by column, as text; `add` takes in rows."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names, self.rows = tuple(names), 0
        self._pieces: dict[str, list[str]] = {name: [] for name in names}

    def add(self, rows: Sequence[Sequence[str]]) -> None:
        """Take in a batch of rows, each with as many cells as there are columns, and strip them."""
        self.rows += len(rows)
        for pieces, cells in zip(self._pieces.values(), zip(*rows, strict=True), strict=True):
            pieces.append(_packed(cells))

    def text(self, name: str) -> list[str | None]:
        """Return a column as it is written, None where missing."""
        return [cell or None for piece in self._pieces[name] for cell in _cells(piece)]

    def typed(self, name: str) -> list[Any]:
        """Return a column as whole numbers of at most 18 digits, else as floats, else as text; None where missing."""
        pieces, found = self._pieces[name], list[Any]()
        number: Callable[[str], Any] = int if all(map(_WHOLE_NUMBERS.fullmatch, pieces)) else float
        if number is float and not all(map(_NUMBERS.fullmatch, pieces)):
            return self.text(name)
        for piece in pieces:
            found += [number(cell) if cell else None for cell in _cells(piece)]
        return found

    def first_text(self, name: str) -> int | None:
        """Return the number, from 1, of the first row that keeps a column from being one of numbers, None without one."""
        before = 0
        for piece in self._pieces[name]:
            found = _NUMBERS.match(piece)
            assert found is not None  # it matches the empty string too
            if found.end() < len(piece):
                return before + piece.count(END, 0, found.end()) + 1
            before += piece.count(END)
        return None


def _packed(cells: Sequence[str]) -> str:
    text = END.join(cells)
    space = SPACE if any(map(text.__contains__, SEPARATORS)) else None
    text = END.join([cell.strip(space) for cell in cells])
    if MISSING in text:
        text = END.join(["" if cell == MISSING else cell for cell in text.split(END)])
    return text + END


def _cells(piece: str) -> list[str]:
    return piece[:-1].split(END)
