"""The credit file of a firm: what a query brought, with the right behind each value, for the terminal and for paper.

Everything shown came from the platform or from a table, so it enters a page through `report_page.text` and a terminal as
plain text. The file names no score and no judgement; it says so.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from lianxin.parties import report_page as html
from lianxin.parties.decision_rules import RULES

HOW = {"PLAIN": "as held", "DESENSITISED": "desensitised", "REFUSED": "refused"}
NOT_ON_FILE = "nothing on file"
DISPUTED = "disputed by the firm (R27)"
_PRINT = "@media print{@page{size:A4;margin:16mm}section+section{break-before:page}.notice{border-left-width:2pt}}"
_HEAD = ("field", "value", "how", "right", "mark")
Record = Mapping[str, Any]


def field_row(one: Record) -> tuple[str, str, str, str, str]:
    """Return a field's cells as text: id and name, value, how it came, right or rule, mark."""
    name = f"{one['field']} {one.get('name', '')}".rstrip()
    if one["form"] == "REFUSED":
        return name, "", HOW["REFUSED"], refusal(one["rule"]), ""
    value = NOT_ON_FILE if one["value"] is None else str(one["value"])
    return name, html.plain(value), HOW[one["form"]], _right(one), DISPUTED if one["disputed"] else ""


def _right(one: Record) -> str:
    if one["right"] == "OPEN":
        return "open by its class"
    is_grade = one["form"] == "DESENSITISED" and len(one["right"]) == 64
    return f"grade {one['right'][:16]}" if is_grade else f"consent {one['right']}"


def refusal(rule: str) -> str:
    """Return a rule id with what it asks for, as far as this version knows the rule."""
    known = RULES.get(rule)
    return f"{rule}: {known.what}" if known is not None else rule


def tables(answer: Record) -> Iterator[Table]:
    """Yield a table a firm for the terminal."""
    for firm in answer["firms"]:
        table = Table(*_HEAD, title=Text(_title(firm)), title_justify="left")
        for one in firm["fields"]:
            table.add_row(*(Text(cell) for cell in field_row(one)))
        yield table


def _title(firm: Record) -> str:
    return f"{html.plain(firm['firm'])} (not asked: its code may not leave this bank)" if firm["here"] else firm["firm"]


def footer(answer: Record) -> list[tuple[str, str]]:
    """Return what every file says of the question, as pairs of a name and a text."""
    return [
        ("request", answer["request"]),
        ("agreement", f"{answer['agreement']} (run {answer['run']})"),
        ("asked by", f"{answer['operator']} of {answer['bank']}"),
        ("answered by", answer["platform"]),
        ("purpose", answer["purpose"]),
        ("mode", answer["mode"]),
        ("time", answer["time"]),
        ("keep until", answer["retain_until"]),
        ("receipts", ", ".join([answer["leaf"], *answer["messages"]])),
    ]


def page(answer: Record) -> str:
    """Return the credit files of an answer's firms as one printable HTML page, a firm a sheet."""
    firms = answer["firms"]
    title = f"Credit file of {firms[0]['firm']}" if len(firms) == 1 else f"Credit files of {len(firms)} firms"
    head = f"<h1>{html.text(title)}</h1>" + html.paragraph(html.text(answer["note"]), "notice")
    parts = [html.Part(f"firm-{place}", _title(firm), _firm(firm, answer)) for place, firm in enumerate(firms, 1)]
    made = html.page(title, head, parts)
    return made.replace("</style>", f"{_PRINT}</style>", 1)


def _firm(firm: Record, answer: Record) -> str:
    given = [one for one in firm["fields"] if one["form"] != "REFUSED"]
    refused = [one for one in firm["fields"] if one["form"] == "REFUSED"]
    releases = sorted({one["release"] for one in given})
    facts = [*footer(answer), ("releases at the platform", ", ".join(releases))]
    parts = [_table(given, _HEAD, "What may be shown, and by which right"), _refused(refused), html.facts(facts)]
    return "".join(parts)


def _table(fields: Sequence[Record], head: Sequence[str], caption: str) -> str:
    if not fields:
        return html.paragraph("Nothing may be shown.", "reason")
    rows = [[html.text(cell) for cell in field_row(one)] for one in fields]
    return html.table([html.text(html.heading(name)) for name in head], rows, caption=html.text(caption))


def _refused(fields: Sequence[Record]) -> str:
    if not fields:
        return ""
    rows = [[html.text(cell) for cell in (field_row(one)[0], refusal(one["rule"]))] for one in fields]
    return html.table([html.text("Field"), html.text("Refused by")], rows, caption=html.text("What is refused"))
