"""A load's findings as an HTML page."""

from collections.abc import Mapping, Sequence
from typing import Any

from lianxin.parties.report_page import Part, page, paragraph, table, text
from lianxin.parties.source_quality import LEVELS, Finding

_HEAD = ("Level", "Check", "Where", "What was found", "What to do")


def sources_page(load: Mapping[str, Any], findings: Sequence[Finding]) -> str:
    """Return the page: what fails first, then what is warned about, then what is well."""
    ordered = sorted(findings, key=lambda one: -LEVELS.index(one.level))
    rows = [[text(cell) for cell in (one.level, one.check, one.where, one.said, one.remedy)] for one in ordered]
    title = "Quality of the data sources"
    lead = f"At {load['at']}, {load['rows']} rows (in tens), {len(load['columns'])} columns; on the whole: {load['level']}."
    return page(
        title, f"<h1>{text(title)}</h1>{paragraph(text(lead), 'lead')}", [Part("checks", "Checks", table(_HEAD, rows))]
    )
