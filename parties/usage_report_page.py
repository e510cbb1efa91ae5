"""A use-and-effect report as an HTML page and as CSV; names come from other organisations and enter through `report_page`."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from lianxin.parties.report_page import Part, page, paragraph, table, text
from lianxin.parties.usage_report import COLUMNS

_KEYS = {
    "uses": ("field", "bank", "purpose", "kind", "runs", "requests", "firms"),
    "totals": ("field", "banks", "runs", "requests", "firms"),
    "refused": ("field", "bank", "rule", "releases"),
    "models": ("run", "field", "iv_micro", "weight_permille", "cuts_permille"),
    "left_out": ("bank", "rule", "firms_or_values"),
}
_TITLES = {
    "uses": "What was used",
    "totals": "By field",
    "refused": "What was refused",
    "models": "Effect in models",
    "left_out": "Firms and values refused, over all sources",
}


def usage_page(report: Mapping[str, Any]) -> str:
    """Return the page of one source's report."""
    title = f"Use of the data of {report['source']} in {report['month']}"
    parts = [Part(name, _TITLES[name], _table(report[name], keys)) for name, keys in _KEYS.items()]
    parts.append(Part("recompute", "How to make these figures again", _recompute(report)))
    lead = (
        f"{report['platform']} reports what left it of these fields, from its ledger up to leaf {report['last_leaf'][:12]}. "
        f"Counts of firms, requests and refusals are rounded down to multiples of {report['least']}, smaller ones are not told."
    )
    return page(title, f"<h1>{text(title)}</h1>{paragraph(text(lead), 'lead')}", parts)


def _table(rows: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> str:
    if not rows:
        return paragraph("None.")
    used = [key for key in keys if any(key in row for row in rows)]
    return table(
        [text(key.replace("_", " ")) for key in used], [[text(row.get(key, "")) for key in used] for row in rows]
    )


def _recompute(report: Mapping[str, Any]) -> str:
    said = (
        "Each question lists the releases of a line: firms are its rows, added up for queries and scores, and of each run the "
        "largest. The effect is read from the platform's own models, which are no evidence."
    )
    rows = [[text(line["recompute"])] for line in report["uses"]]
    return paragraph(text(said)) + (table(["Question to the platform's evidence"], rows) if rows else "")


def usage_csv(reports: Sequence[Mapping[str, Any]]) -> str:
    """Return the lines of use of several reports as CSV, with source and month in front."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(("source", "month", *COLUMNS))
    for report in reports:
        for line in report["uses"]:
            cells = [" ".join(line[name]) if isinstance(line[name], list) else line[name] for name in COLUMNS]
            writer.writerow((report["source"], report["month"], *cells))
    return out.getvalue()
