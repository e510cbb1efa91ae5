"""The risk report of one desensitised table: before and after, for a terminal and as one HTML page.

Neither shows a value of the table. The page needs nothing from elsewhere and is the same for the same outcome.
"""

import contextlib
import os
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from lianxin.crypto import canonical
from lianxin.parties.desensitise import label_of
from lianxin.parties.desensitise_risk import Measurement, ppm
from lianxin.parties.desensitise_table import Outcome
from lianxin.parties.report import ReportNotWritten
from lianxin.parties.report_page import Part, facts, page, paragraph, plain, table, text

_BINS = ((1, 1), (2, 4), (5, 19), (20, None))
_LIMITS = (
    "The grade speaks of this table and of the columns that the policy calls identifying. It does not know what else a "
    "recipient holds, nor whether a column that is called “other” can be looked up somewhere.",
    "Noise is no differential privacy: no budget is counted. Pseudonyms can be undone by whoever has the key.",
    "De-identified data of persons stay personal information; only a table that is accepted for the public may be "
    "called anonymised. Nothing here is legal advice.",
)


def summary(outcome: Outcome) -> dict[str, Any]:
    """Return the outcome as one JSON object: grade and its hash, figures before, columns, label, canary rows."""
    return {
        "grade": outcome.grade,
        "grade_hash": canonical.record_hash(outcome.grade),
        "label": label_of(outcome.grade),
        "reasons": list(outcome.after.reasons),
        "before": _figures(outcome.before),
        "columns": [vars(column) for column in outcome.columns],
        "unnamed": list(outcome.unnamed),
        "canaries": outcome.canaries,
    }


def _figures(measured: Measurement) -> dict[str, int]:
    return {
        "rows": measured.rows, "classes": measured.classes, "k": measured.k, "l": measured.l, "t_ppm": ppm(measured.t),
        "theta_max_ppm": ppm(measured.theta_max), "classes_above_ppm": ppm(measured.above),
        "risk_ppm": ppm(measured.risk), "grade": measured.grade,
    }  # fmt: skip


def _lines(outcome: Outcome) -> list[tuple[str, str, str]]:
    def line(name: str, show: Any) -> tuple[str, str, str]:
        return name, show(outcome.before), show(outcome.after)

    return [
        line("rows", lambda one: plain(one.rows)),
        line("equivalence classes", lambda one: plain(one.classes)),
        line("smallest class (k)", lambda one: plain(one.k)),
        line("fewest sensitive values in a class (l)", lambda one: plain(one.l or None)),
        line("largest distance from the table (t)", lambda one: _share(one.t)),
        line("largest row risk", lambda one: _share(one.theta_max)),
        line("classes above the threshold", lambda one: _share(one.above)),
        line("overall risk", lambda one: _share(one.risk)),
        line("grade (GB/T 42460)", lambda one: plain(one.grade)),
    ]


def _share(value: Fraction) -> str:
    return f"{ppm(value) / 1_000_000:.4f}"


def terminal_table(outcome: Outcome) -> Table:
    """Return the figures before and after, side by side."""
    shown = Table(
        title=Text(plain(f"{outcome.policy.project}: {outcome.policy.model} sharing, {label_of(outcome.grade)}"))
    )
    shown.add_column("figure")
    for name in ("before", "after"):
        shown.add_column(name, justify="right")
    for line in _lines(outcome):
        shown.add_row(*line)
    return shown


def columns_table(outcome: Outcome) -> Table:
    """Return what became of every column."""
    shown = Table()
    for name in ("column", "role", "transform", "technique"):
        shown.add_column(name, overflow="fold")
    for name in ("suppressed", "occur once"):
        shown.add_column(name, justify="right")
    for row in _column_rows(outcome):
        shown.add_row(*(Text(cell) for cell in row))
    return shown


def _column_rows(outcome: Outcome) -> list[list[str]]:
    rows = [
        [plain(c.column), c.role, plain(c.transform), c.technique, plain(c.suppressed), plain(c.single)]
        for c in outcome.columns
    ]
    return rows + [
        [plain(name), "–", "dropped: not in the policy", "suppression", "0", "0"] for name in outcome.unnamed
    ]


def write_html(path: Path, outcome: Outcome) -> None:
    """Write the report page to `path`, whole or not at all. Raises ReportNotWritten."""
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            file.write(render(outcome).encode())
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as fault:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise ReportNotWritten(f"{path} cannot be written ({fault.strerror}); choose another place") from None


def render(outcome: Outcome) -> str:
    """Return the report as one HTML document."""
    title = f"Desensitisation of {outcome.policy.project}"
    return page(title, _header(outcome, title), [_risk(outcome), _columns(outcome), _limits()])


def _header(outcome: Outcome, title: str) -> str:
    grade, label = outcome.grade, label_of(outcome.grade)
    verdict = "; ".join(outcome.after.reasons) or "accepted for this sharing model"
    notice = paragraph(text(f"{label}: {verdict}"), "" if grade["accepted"] else "notice")
    return f"<h1>{text(title)}</h1>" + notice + facts([
        ("Provider", grade["provider"]), ("Sharing model", grade["model"]), ("Grade", grade["grade"]),
        ("Measured", grade["measured_at"]), ("Canary rows beside the table", outcome.canaries or None),
        ("Grade hash", canonical.record_hash(grade)), ("Policy hash", grade["policy_hash"]),
    ])  # fmt: skip


def _risk(outcome: Outcome) -> Part:
    figures = table(("figure", "before", "after"), [[text(cell) for cell in line] for line in _lines(outcome)], (1, 2))
    caption = "Share of rows by the size of their class. Colour: before grey, after blue."
    plot = f'<div class="wideplot"><figure>{_plot(outcome)}<figcaption>{caption}</figcaption></figure></div>'
    return Part("risk", "Risk before and after", figures + plot)


def _columns(outcome: Outcome) -> Part:
    head = ("column", "role", "transform", "technique", "suppressed", "occur once")
    rows = [[text(cell) for cell in row] for row in _column_rows(outcome)]
    note = (
        "A value that has not the shape of its transform is suppressed. A value that occurs once singles out its row."
    )
    return Part("columns", "Columns", paragraph(note, "small") + table(head, rows, (4, 5)))


def _limits() -> Part:
    return Part("limits", "What this does not say", "".join(paragraph(text(limit)) for limit in _LIMITS))


def _plot(outcome: Outcome) -> str:
    """Return bars of the rows in classes of 1, 2 to 4, 5 to 19 and 20 or more, before and after."""
    bars, wide, high = "", 150, 150
    for place, ends in enumerate(_BINS):
        for side, (measured, colour) in enumerate(((outcome.before, "#6b7480"), (outcome.after, "#1f4e8c"))):
            share = _share_of(measured.sizes, ends)
            left, tall = 40 + place * wide + side * 52, round(high * share)
            bars += f'<rect x="{left}" y="{20 + high - tall}" width="48" height="{tall}" fill="{colour}"/>'
            bars += _text(left + 24, 14 + high - tall, f"{float(share):.1%}")
        low, top = ends
        name = f"{low} or more" if top is None else str(low) if low == top else f"{low} to {top}"
        bars += _text(40 + place * wide + 50, 38 + high, f"{name} rows" if top != 1 else "1 row")
    axis = f'<line x1="30" x2="640" y1="{20 + high}" y2="{20 + high}" stroke="#aab4c0"/>'
    return f'<svg role="img" viewBox="0 0 660 {48 + high}" font-size="12" fill="#5b6675">{axis}{bars}</svg>'


def _text(x: int, y: int, words: str) -> str:
    return f'<text x="{x}" y="{y}" text-anchor="middle">{words}</text>'


def _share_of(sizes: Mapping[int, int], ends: tuple[int, int | None]) -> Fraction:
    low, top = ends
    inside = sum(size * count for size, count in sizes.items() if low <= size and (top is None or size <= top))
    return Fraction(inside, sum(size * count for size, count in sizes.items()))
