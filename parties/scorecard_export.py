"""A bank's scorecard as a file: JSON (whole), CSV (the points table, for a spreadsheet), PMML (for a decision engine).

JSON and PMML come back by `load_card` and score every row as before. The CSV is for people: UTF-8 with a byte order
mark, and a text that a spreadsheet would take for a formula (it begins with = + - @, a tab or a line end) has an
apostrophe before it. None of them names a firm. The edges of the bank's own bins are in all three, so the files stay
in the bank; of the platform's features they hold the field ids and codes, no points and no bins.
"""

import contextlib
import csv
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from lianxin.crypto import canonical
from lianxin.crypto.errors import CryptoError
from lianxin.federation.errors import InputFault
from lianxin.federation.reasons import SUB_SCORE, SUB_SCORE_TEXT
from lianxin.parties.records import Table
from lianxin.parties.scorecard_card import PLATFORM_POINTS, Card, CardScore, read_card
from lianxin.parties.scorecard_pmml import decimal, to_pmml
from lianxin.parties.scorecard_pmml_reader import LARGEST_BYTES, from_pmml
from lianxin.parties.scorecard_table import card_rows_of

FORMATS = ("json", "csv", "pmml")
HEADER = (
    "part", "code", "field", "description", "bin", "points", "points_below_best", "training_rows",
    "score_from", "score_to", "bads", "probability_of_default",
)  # fmt: skip
SCORE_HEADER = ("model", "score", "probability_of_default", "reason_1", "reason_2", "reason_3", "reason_4")
BAND_TEXT = "rows of the refit with a score in this band, their bads, the mean chance by the calibration"
RATE_TEXT = "share of bads that the chances are calibrated to: of the refit's rows, or --base-rate"
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
_MODEL = "model.json"


def stored_card(run_folder: Path, run: str) -> Card:
    """Return the scorecard of a finished run in a bank's state folder; raises InputFault when there is none."""
    path = run_folder / _MODEL
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputFault(
            f"run {run} has no model here: it did not finish, was dropped after a withdrawal, or its time has passed"
        ) from None
    except (OSError, ValueError):
        raise InputFault(f"the model of run {run} cannot be read; restore it from a copy or train again") from None
    if isinstance(record, Mapping) and record.get("type") == "bank-trees":
        raise InputFault(
            f"the model of run {run} is boosted trees, which have no card: `lianxin bank score` scores firms by it, and "
            f"`lianxin bank document {run}` describes it"
        )
    if not isinstance(record, Mapping) or "card" not in record:
        raise InputFault(f"the model of run {run} holds no scorecard: it is of another kind, or was made before 0.4")
    return read_card(record["card"])


def export_card(card: Card, form: str, version: str) -> bytes:
    """Return the card as a file's bytes; `form` is json, csv or pmml, `version` this program's. Raises InputFault."""
    if form not in FORMATS:
        raise InputFault(f"a scorecard is exported as one of {', '.join(FORMATS)}; choose one of them")
    if form == "json":
        return canonical.encode(card.to_record()) + b"\n"
    return _csv(HEADER, card_rows(card)) if form == "csv" else to_pmml(card, version)


def check_writable(path: Path) -> None:
    """Raise InputFault where no file can be written in the place of `path`: told before anything is worked out."""
    folder = path.parent
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise InputFault(f"{path} cannot be written; name a file in a folder that exists and can be written")


def write_beside(path: Path, data: bytes) -> None:
    """Write a file whole or not at all: beside its place, then renamed. Raises InputFault when it cannot be written."""
    draft = path.with_name(f"{path.name}.new")
    try:
        draft.write_bytes(data)
        os.replace(draft, path)
    except OSError:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
        raise InputFault(f"{path} cannot be written; name a file in a folder that exists and can be written") from None


def load_card(path: Path) -> Card:
    """Return the scorecard in a JSON or PMML file, told apart by its first character. Raises InputFault."""
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST_BYTES + 1)
    except OSError:
        raise InputFault(f"{path} cannot be read; check the path of the scorecard") from None
    start = data.lstrip(b"\xef\xbb\xbf \t\r\n")[:1]
    if start == b"<":
        return from_pmml(data)
    if start != b"{":
        raise InputFault(f"{path.name} is no scorecard in JSON or PMML; export it with `lianxin bank card`")
    if len(data) > LARGEST_BYTES:
        raise InputFault(f"{path.name} is larger than {LARGEST_BYTES >> 20} MiB; a scorecard is not")
    try:
        return read_card(canonical.decode(data.strip()))
    except CryptoError:
        raise InputFault(f"{path.name} was changed after its export; export the scorecard again") from None


def score_table(card: Card, table: Table, points_column: str = "", against: str = "best") -> list[CardScore]:
    """Return the score of every row of a table that has the card's own features as columns, read by `card_rows_of`.

    Raises InputFault for a column of another kind or one that is not there.
    """
    rows = card_rows_of(card, table, points_column)
    return card.score(rows.own.columns, rows.points, against=against)


def scores_csv(scores: Sequence[CardScore], names: Sequence[str | None] | None, column: str) -> bytes:
    """Return scores as CSV, a row a score, with the firms' names in `column` where there are any."""
    head = SCORE_HEADER if names is None else (column, *SCORE_HEADER)
    return _csv(head, _score_rows(scores, names))


def _score_rows(scores: Sequence[CardScore], names: Sequence[str | None] | None) -> Iterator[Sequence[object]]:
    for row, score in enumerate(scores):
        first = [] if names is None else [names[row] or ""]
        reasons = [*score.reasons, *[""] * (len(SCORE_HEADER) - 3 - len(score.reasons))]
        yield [*first, score.model, score.score, _Plain(decimal(score.pd_micro, 10**6)), *reasons]


class _Plain(str):
    """Text of our own that a spreadsheet reads as a number."""


def card_rows(card: Card) -> Iterator[Sequence[object]]:
    """Yield the points table, a row a bin, as `HEADER` names its cells; then what the bands of scores were worth."""
    for name, part in card.parts().items():
        yield name, "", "", "base points", "", part.base_points, *[""] * 6
        yield from ([*row, *[""] * 4] for row in bin_rows(card, name))
        rate = _Plain(decimal(part.calibration.bad_rate_micro, 10**6))
        yield name, "", "base rate", RATE_TEXT, *[""] * 7, rate
        yield from band_rows(card, name)


def bin_rows(card: Card, name: str) -> Iterator[Sequence[object]]:
    """Yield the rows of one part's bins, the first eight cells of `HEADER`, that of the platform's sub-score first."""
    part = card.parts()[name]
    if part.multiplier_micro:
        times = f"points = floor((platform_points x {part.multiplier_micro} + 500000) / 1000000)"
        yield name, SUB_SCORE, PLATFORM_POINTS, SUB_SCORE_TEXT, times, "", "", ""
    for reason, spec, feature in zip(card.reasons, card.bins, part.features, strict=True):
        pairs = zip(spec.labels(), feature.points, feature.rows, strict=True)
        for label, points, rows in pairs:
            yield name, reason.code, reason.field, reason.text, label, points, feature.best - points, rows


def band_rows(card: Card, name: str) -> Iterator[Sequence[object]]:
    """Yield the rows of one part's bands of scores."""
    for low, high, rows, bads, chance in card.parts()[name].calibration.bands:
        yield name, "", "band", BAND_TEXT, "", "", "", rows, low, high, bads, _Plain(decimal(chance, 10**6))


def _csv(header: Sequence[str], rows: Iterator[Sequence[object]]) -> bytes:
    file = io.StringIO(newline="")
    writer = csv.writer(file, lineterminator="\r\n")
    writer.writerow(header)
    writer.writerows([_guarded(cell) for cell in row] for row in rows)
    return file.getvalue().encode("utf-8-sig")


def _guarded(cell: object) -> object:
    """Return a cell that no spreadsheet runs: text that looks like a formula begins with an apostrophe."""
    is_text = isinstance(cell, str) and not isinstance(cell, _Plain)
    return f"'{cell}" if is_text and str(cell).startswith(_FORMULA) else cell
