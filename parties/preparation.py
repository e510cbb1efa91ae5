"""A table's columns as numbers that every bank makes alike: agreed from counts alone, no row is shown.

**Numbers.** Every bank counts its values in the cells of a public grid (`FIRST_GRID`: sixteen cells an octave, both signs),
the banks' counts are added, and `refine` lays a second grid with the cells where the values are; counted again, it gives
the quantiles. A knot is a quantile's cell edge; its score is the normal score of the cell's middle rank (van der Waerden).
A value's number lies on the line between the knots about it, and beyond the outer ones it is theirs: huge and infinite
values weigh no more than the largest usual one. A missing value is 0, the middle, with a column of its own that says so
where banks miss enough of them.

**Texts.** A bank names its texts that enough rows have; those that enough banks name have a place in the list. The rest
is "other", place 0, and missing is place 1. A text of one bank alone would show that bank's own update in the sum.

Error: a cell holds [edge, next edge), and a quantile is given as its cell's edge: it lies below the true one by less than
the cell's width, which in the first grid is at most a sixteenth of the value. A bank counts its rows in groups of
`least_rows` neighbours, each where its median is, so that no count is of fewer; this moves a quantile by at most two
groups' ranks a bank.
"""

import hashlib
import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lianxin.crypto import canonical
from lianxin.federation.errors import InputFault, PeerError, RunStopped
from lianxin.parties.coding import as_text, is_missing

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
SCORE_ONE = 1 << 20
OTHER, MISSING, FIRST_CATEGORY = 0, 1, 2
LEAST_BANKS = 3
MOST_CATEGORIES = 64
REFINED_CELLS = 512
_OCTAVES = range(-24, 64)
_CELLS_AN_OCTAVE = 16
_MOST_SCORE = 8 * SCORE_ONE
_MOST_KNOTS = 65


@dataclass(frozen=True)
class Grid:
    """Cells [edge, next edge) on the number line; the first also takes all below it, the last all above."""

    edges: Floats = field(repr=False)

    @property
    def cells(self) -> int:
        """How many cells there are, without the place for missing values."""
        return len(self.edges)

    def places(self, numbers: Floats) -> Ints:
        """Return the cell of each number; none may be NaN."""
        return np.maximum(np.searchsorted(self.edges, numbers, side="right") - 1, 0).astype(np.int64)


def _first_edges() -> Floats:
    steps = np.arange(_CELLS_AN_OCTAVE) / _CELLS_AN_OCTAVE + 1.0
    above = np.concatenate([np.ldexp(steps, octave) for octave in _OCTAVES])
    return np.concatenate([-above[::-1], [0.0], above])


FIRST_GRID = Grid(_first_edges())


def as_numbers(values: Sequence[Any]) -> Floats:
    """Return the values as float64, NaN where one is missing or no number; too large ones are infinite."""
    try:
        read = values if not any(isinstance(value, (str, bytes)) for value in values) else map(_number, values)
        return np.array(list(read), dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        return np.array([_number(value) for value in values], dtype=np.float64)


def _number(value: Any) -> float:
    try:
        return float(value) if isinstance(value, (int, float)) else math.nan
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def histogram_of(values: Sequence[Any], grid: Grid, least_rows: int) -> Ints:
    """Return the counts of a bank's values in the cells and, in the last place, of the missing ones (cells + 1 counts).

    The values go in groups of at least `least_rows` neighbours, each counted in the cell of its median; fewer values, or
    fewer missing ones, count nothing.
    """
    numbers = as_numbers(values)
    present = np.sort(numbers[~np.isnan(numbers)])
    missing, counts = len(numbers) - len(present), np.zeros(grid.cells + 1, dtype=np.int64)
    groups = len(present) // least_rows
    ends = len(present) * np.arange(groups + 1) // max(groups, 1)
    medians = present[(ends[:-1] + ends[1:] - 1) // 2]
    np.add.at(counts, grid.places(medians), np.diff(ends))
    counts[-1] = missing if missing >= least_rows else 0
    return counts


def refine(totals: Sequence[int] | Ints, grid: Grid) -> Grid:
    """Return the grid with each cell in 2^k equal parts, as many as its share of the rows asks for.

    About `REFINED_CELLS` cells are added at most, in the cells that hold rows; a column without rows keeps the grid.
    """
    counts = _checked(totals, grid)[:-1]
    held = np.flatnonzero(counts)
    if not len(held):
        return grid
    wanted = np.maximum(counts[held] * REFINED_CELLS / counts.sum(), 1.0)
    parts = 1 << np.floor(np.log2(wanted)).astype(np.int64)
    ends = np.append(grid.edges, 2 * grid.edges[-1])
    finer = [
        ends[cell] + (ends[cell + 1] - ends[cell]) * np.arange(count) / count
        for cell, count in zip(held, parts, strict=True)
    ]
    beside = ends[np.setdiff1d(held + 1, held)]
    return Grid(np.unique(np.concatenate([*finer, beside])))


def _checked(totals: Sequence[int] | Ints, grid: Grid) -> Ints:
    counts = np.asarray(totals, dtype=np.int64)
    if counts.shape != (grid.cells + 1,) or (counts < 0).any():
        raise PeerError("a sum of the banks' counts does not fit its grid; the preparation is refused", "NN02")
    return counts


@dataclass(frozen=True)
class NumberField:
    """A numeric field: its number at each knot, in 2^-20; `has_missing` says whether a column tells missing values."""

    name: str
    knots: tuple[float, ...]
    scores: tuple[int, ...] = field(repr=False)
    has_missing: bool

    @property
    def columns(self) -> int:
        """How many columns of numbers the field has."""
        return 2 if self.has_missing else 1

    def numbers(self, values: Sequence[Any]) -> NDArray[np.float32]:
        """Return rows x columns: the value's number, then 1 where it is missing."""
        read = as_numbers(values)
        missing = np.isnan(read)
        known = np.zeros(len(read))
        if self.knots:
            known[~missing] = np.interp(read[~missing], self.knots, np.array(self.scores) / SCORE_ONE)
        return np.stack([known, missing], axis=1)[:, : self.columns].astype(np.float32)


def knots_from(name: str, totals: Sequence[int] | Ints, grid: Grid, quantiles: int) -> NumberField:
    """Return the numeric field whose knots are the edges of the cells of `quantiles` + 1 quantiles of the summed counts.

    The outer two lie an eighth of a step inside. Raises PeerError NN02 when the counts do not fit the grid.
    """
    counts = _checked(totals, grid)
    below = np.concatenate([[0], np.cumsum(counts[:-1])])
    rows = int(below[-1])
    if not rows:
        return NumberField(name, (), (), bool(counts[-1]))
    shares = np.arange(quantiles + 1) / quantiles
    shares[[0, -1]] = [1 / (8 * quantiles), 1 - 1 / (8 * quantiles)]
    cells = np.unique(np.searchsorted(below[1:], np.ceil(shares * rows), side="left"))
    middles = (below[cells] + below[cells + 1]) / (2 * rows)
    scores = tuple(round(NormalDist().inv_cdf(middle) * SCORE_ONE) for middle in middles.tolist())
    return NumberField(name, tuple(grid.edges[cells].tolist()), scores, bool(counts[-1]))


@dataclass(frozen=True)
class TextField:
    """A text field: `categories` are the agreed texts, in the order of their places from `FIRST_CATEGORY` on."""

    name: str
    categories: tuple[str, ...]

    @property
    def size(self) -> int:
        """How many places there are: other, missing and the agreed texts."""
        return FIRST_CATEGORY + len(self.categories)

    def places(self, values: Sequence[Any]) -> Ints:
        """Return each value's place; total: whatever is not in the list is other."""
        known = {text: FIRST_CATEGORY + place for place, text in enumerate(self.categories)}
        read = (MISSING if is_missing(value) else known.get(as_text(value), OTHER) for value in values)
        return np.fromiter(read, dtype=np.int64, count=len(values))


def kind_of(values: Sequence[Any]) -> str:
    """Return "number" or "text", or "empty" for a column without a value, which fits either."""
    present = [value for value in values if not is_missing(value)]
    if not present:
        return "empty"
    return "number" if all(isinstance(value, (int, float)) for value in present) else "text"


def categories_of(values: Sequence[Any], least_rows: int) -> tuple[str, ...]:
    """Return the texts that at least `least_rows` rows have, at most `MOST_CATEGORIES`, sorted."""
    counted = Counter(as_text(value) for value in values if not is_missing(value))
    often = sorted((-rows, text) for text, rows in counted.items() if rows >= least_rows)
    return tuple(sorted(text for _, text in often[:MOST_CATEGORIES]))


def agreed_categories(named: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """Return the texts that at least three of the banks' lists name (all of them, of fewer lists), sorted.

    Where more than `MOST_CATEGORIES` are named, those that most banks name stay.
    """
    counted = Counter(text for texts in named for text in set(texts))
    least = min(LEAST_BANKS, len(named))
    shared = sorted((-banks, text) for text, banks in counted.items() if banks >= least)
    return tuple(sorted(text for _, text in shared[:MOST_CATEGORIES]))


def agreed_kind(name: str, kinds: Sequence[str], banks: Sequence[str] = ()) -> str:
    """Return "number" or "text" from the banks' kinds of one field. Raises RunStopped where they differ, naming the `banks`
    (in the order of `kinds`) that hold text."""
    said = set(kinds) - {"empty"}
    if len(said) > 1 or not said <= {"number", "text"}:
        raise RunStopped(
            f"the field {name} holds numbers at some banks and text at others{_with_text(kinds, banks)}; give it one kind in "
            "every bank's table, or leave it out of the contract"
        )
    return said.pop() if said else "number"


def _with_text(kinds: Sequence[str], banks: Sequence[str]) -> str:
    found = [bank for bank, kind in zip(banks, kinds, strict=False) if kind == "text"]
    return f" (text at {', '.join(found)})" if found else ""


@dataclass(frozen=True)
class Prepared:
    """Rows as a network takes them, in the order of the table's rows that were asked for.

    `numbers` is rows x columns, `categories` rows x text fields, `labels` 0 or 1 with 1 = bad; `firms` tells which rows
    are of one firm (any whole numbers), None where each row is a firm.
    """

    numbers: NDArray[np.float32] = field(repr=False)
    categories: Ints = field(repr=False)
    labels: Ints = field(repr=False)
    firms: Ints | None = field(default=None, repr=False)

    @property
    def rows(self) -> int:
        """The number of rows."""
        return len(self.labels)

    def take(self, rows: Sequence[int] | NDArray[Any]) -> "Prepared":
        """Return these rows (places, or a flag for each row)."""
        kept = None if self.firms is None else self.firms[rows]
        return Prepared(self.numbers[rows], self.categories[rows], self.labels[rows], kept)


def joined(parts: Sequence[Prepared]) -> Prepared:
    """Return the rows of all parts one after the other; firms are dropped, since each bank numbers its own."""
    return Prepared(
        np.concatenate([part.numbers for part in parts]),
        np.concatenate([part.categories for part in parts]),
        np.concatenate([part.labels for part in parts]),
    )


@dataclass(frozen=True)
class Preparation:
    """What all banks do alike to their columns; the network's inputs are the numeric fields' columns, then the texts."""

    numbers: tuple[NumberField, ...]
    texts: tuple[TextField, ...]

    @property
    def columns(self) -> int:
        """How many columns of numbers the network takes."""
        return sum(number.columns for number in self.numbers)

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many places each text field has."""
        return tuple(text.size for text in self.texts)

    @property
    def fields(self) -> tuple[str, ...]:
        """The names of all fields that are used."""
        return (*(number.name for number in self.numbers), *(text.name for text in self.texts))

    def apply(
        self, columns: Mapping[str, Sequence[Any]], labels: Sequence[int], firms: Sequence[int] | None = None
    ) -> Prepared:
        """Return the rows of these columns; every field of the preparation must be among them, as long as `labels`."""
        rows = len(labels)
        numbers = [number.numbers(columns[number.name]) for number in self.numbers]
        places = [text.places(columns[text.name]) for text in self.texts]
        return Prepared(
            np.hstack(numbers) if numbers else np.zeros((rows, 0), dtype=np.float32),
            np.stack(places, axis=1) if places else np.zeros((rows, 0), dtype=np.int64),
            np.array(labels, dtype=np.int64),
            None if firms is None else np.array(firms, dtype=np.int64),
        )

    @property
    def mark(self) -> Ints:
        """The SHA-256 of the record as four whole numbers: a question under another preparation is another question."""
        return np.frombuffer(hashlib.sha256(canonical.encode(self.to_record())).digest(), dtype="<i8").astype(np.int64)

    def to_record(self) -> dict[str, Any]:
        """Return the preparation as canonical-JSON values; knots are `repr` texts, which read back exactly."""
        numbers = [
            {"field": n.name, "knots": [repr(k) for k in n.knots], "scores": list(n.scores), "missing": n.has_missing}
            for n in self.numbers
        ]
        texts = [{"field": text.name, "categories": list(text.categories)} for text in self.texts]
        return {"type": "preparation", "version": 1, "numbers": numbers, "texts": texts}

    @classmethod
    def from_record(cls, record: Any) -> "Preparation":
        """Return the preparation that `to_record` wrote. Raises InputFault when the record is none."""
        try:
            preparation = cls(
                tuple(_number_field(entry) for entry in record["numbers"]),
                tuple(_text_field(entry) for entry in record["texts"]),
            )
            known = set(record) == {"type", "version", "numbers", "texts"} and record["type"] == "preparation"
            known = known and type(record["version"]) is int and record["version"] == 1
        except (KeyError, TypeError, ValueError, OverflowError):
            known = False
        if not known or len(set(preparation.fields)) != len(preparation.fields):
            raise InputFault("a preparation of fields is damaged; train the model again")
        return preparation

    @classmethod
    def received(cls, record: Any, fields: Sequence[str]) -> "Preparation":
        """Return the preparation that a peer sent. Raises PeerError NN02 when it is none, or not of exactly `fields`."""
        try:
            preparation = cls.from_record(record)
        except InputFault:
            raise PeerError("the preparation of the fields is malformed; the run is refused", "NN02") from None
        if sorted(preparation.fields) != sorted(fields):
            raise PeerError("the preparation is not of the contract's fields; the run is refused", "NN02")
        return preparation


def _number_field(entry: Any) -> NumberField:
    _require(set(entry) == {"field", "knots", "scores", "missing"} and type(entry["missing"]) is bool)
    _require(isinstance(entry["field"], str) and all(isinstance(knot, str) for knot in entry["knots"]))
    knots, scores = tuple(float(knot) for knot in entry["knots"]), tuple(entry["scores"])
    _require(len(knots) == len(scores) <= _MOST_KNOTS and all(math.isfinite(knot) for knot in knots))
    _require(all(type(score) is int and abs(score) <= _MOST_SCORE for score in scores))
    _require(all(low < high for values in (knots, scores) for low, high in itertools.pairwise(values)))
    return NumberField(entry["field"], knots, scores, entry["missing"])


def _text_field(entry: Any) -> TextField:
    _require(set(entry) == {"field", "categories"} and isinstance(entry["field"], str))
    texts = tuple(entry["categories"])
    _require(isinstance(entry["categories"], list) and all(isinstance(text, str) for text in texts))
    _require(len(set(texts)) == len(texts) <= MOST_CATEGORIES)
    return TextField(entry["field"], texts)


def _require(holds: bool) -> None:
    if not holds:
        raise ValueError("not a preparation")
