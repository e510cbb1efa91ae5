"""An auditor's verdict as one HTML page: the verdict, who is accused, what failed and where, and all that was checked.

Texts come from evidence of any content; they enter the page through `report_page` alone, which escapes them.
"""

import os
import tempfile
from pathlib import Path

from lianxin.federation.errors import InputFault
from lianxin.parties.auditor_verdict import Check, Verdict
from lianxin.parties.report_page import Part, page, paragraph, table, text


def write_verdict(path: Path, verdict: Verdict) -> None:
    """Write the page of a verdict to `path`, whole or not at all. Raises InputFault where it cannot be written."""
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(verdict_page(verdict))
        os.replace(name, path)
    except OSError as fault:
        raise InputFault(f"the page cannot be written to {path}: {fault.strerror or 'the system refused it'}") from None


def verdict_page(verdict: Verdict) -> str:
    """Return the page of a verdict."""
    parts = [Part("checks", "What was checked", _checks(verdict))]
    if verdict.failures:
        parts = [
            Part("accused", "Who did wrong", _accused(verdict)),
            Part("findings", "Findings", _findings(verdict)),
            *parts,
        ]
    title = f"Verdict on {verdict.run or 'evidence without a contract'}"
    return page(title, f"<h1>{text(title)}</h1>{paragraph(text(verdict.line), 'lead')}", parts)


def _accused(verdict: Verdict) -> str:
    if not verdict.run:
        return paragraph("Nothing was judged: the evidence could not be read as that of one run.")
    if not verdict.accused:
        return paragraph("The evidence does not show who.")
    return table(["Party", "What shows it"], [[text(party), text(detail)] for party, detail in verdict.accused])


def _findings(verdict: Verdict) -> str:
    head = ["Check", "Party", "What was found", "What to ask", "Leaf", "Rule", "Message"]
    return table(head, [_finding(check) for check in verdict.failures], [4])


def _finding(check: Check) -> list[str]:
    leaf = "" if check.leaf < 0 else check.leaf
    return [
        text(one) for one in (check.name, check.subject, check.detail, check.remedy, leaf, check.rule, check.message)
    ]


def _checks(verdict: Verdict) -> str:
    ordered = sorted(verdict.checks, key=lambda check: check.ok)
    rows = [[text(one.name), text(one.subject), text(one.ok), text(one.detail if one.ok else "")] for one in ordered]
    return table(["Check", "Party", "Holds", "Detail"], rows)
