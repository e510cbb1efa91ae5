"""The report of one run: a single HTML file for a bank's risk committee, and the short table for a terminal.

`write_report` takes a summary, a mapping in which every key is optional. A part that is not there is left out; a part
given as text, or named in `summary["missing"]` as {part: reason}, is shown as that reason. The keys are: `title`,
`notice`, `run`, `purpose`, `parties`, `started`, `code_version`, `matched` {level: n}, `auc`, `ks` and `gini` {level:
{model: value}}, `evaluation` (the record of all levels), `bank_evaluations` {bank: record}, `leaks` {party: [leak]}, `curves`
{level: {model: {"labels", "scores"}}}, `rounds`, `woe`, `importance`, `network`, `privacy`, `left`,
`advice`, `refusals`, `excluded`, `revoked`,
`consents`, `plan` {"learns", "bytes", "seconds"}, `seconds`, `bytes_sent`, `verification` {"ok", "checks"},
`transcript_sha256`, `limits`; of a scenario `story` {"text"} and `conclusion` (`report_story`).
Levels are `overall` and bank names, models the keys of `LOOKS`.

The file needs nothing from elsewhere, holds no clock of its own and is the same for the same summary.
"""

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from lianxin.federation.errors import LianxinError
from lianxin.parties import (
    language,
    report_evaluation,
    report_evidence,
    report_networks,
    report_results,
    report_story,
    report_trees,
)
from lianxin.parties.report_page import (
    Part,
    duration,
    facts,
    figure_number,
    heading,
    page,
    paragraph,
    plain,
    size,
    text,
)
from lianxin.parties.report_plots import look
from lianxin.parties.report_summary import Summary, levels_of, mapping, models_of, value_at


class ReportNotWritten(LianxinError):
    """The report's file cannot be written; the run itself is not touched."""


def write_report(path: Path, summary: Summary) -> None:
    """Write the report of `summary` to `path`, whole or not at all; folders are made. Raises ReportNotWritten."""
    document = render(summary).encode("utf-8")
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            file.write(document)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as fault:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise ReportNotWritten(
            f"the report could not be written to {path} ({fault.strerror}); choose a folder that can be written"
        ) from fault


def render(summary: Summary) -> str:
    """Return the report of `summary` as one HTML document."""
    title = plain(summary.get("title") or "Joint credit model: run report")
    parts = [_part(summary, *section) for section in SECTIONS]
    return page(title, _header(summary, title), [part for part in parts if part is not None])


def summary_table(summary: Summary) -> Table:
    """Return AUC and KS of every model side by side, a row a level (`overall` first), for the terminal."""
    noise = Text(plain(summary["privacy"])) if summary.get("privacy") else None
    title = Text(plain(summary.get("title") or "Joint credit model"))
    result = Table(title=title, caption=noise, caption_justify="left", padding=0)  # eight figures in 80 columns
    result.add_column("level", overflow="fold")
    columns = [(metric, model) for metric in ("auc", "ks") for model in models_of(mapping(summary, metric))]
    for metric, model in columns:
        style, label = (
            "bold" if model == "joint" else "",
            language.shown(plain(look(model).label)).lower().split(" ref")[0],
        )
        heading_ = Text(f"{metric.upper()}\n" + label.replace(",", "").replace(" ", "\n"))
        result.add_column(heading_, justify="right", style=style, no_wrap=True)
    for level in levels_of(mapping(summary, "auc"), mapping(summary, "ks")):
        values = [value_at(mapping(summary, metric), level, model) for metric, model in columns]
        result.add_row(Text(plain(level)), *(figure_number(value) for value in values))
    return result


def _part(
    summary: Summary, anchor: str, title: str, keys: Sequence[str], body: Callable[[Summary], str]
) -> Part | None:
    missing = mapping(summary, "missing")
    reasons = {key: summary[key] if isinstance(summary.get(key), str) else missing.get(key) for key in keys}
    shown = body(summary) + "".join(
        paragraph(f"{text(heading(key))}: not shown. {text(reason)}", "reason")
        for key, reason in reasons.items()
        if reason and key not in TEXT_PARTS
    )
    return Part(anchor, title, shown) if shown else None


def _header(summary: Summary, title: str) -> str:
    notice = summary.get("notice")
    checked = mapping(summary, "verification").get("ok")
    pairs = [
        ("Run", summary.get("run")),
        ("Purpose", summary.get("purpose")),
        ("Parties", _parties(summary.get("parties"))),
        ("Started", summary.get("started")),
        ("Code version", summary.get("code_version")),
        ("Wall time", _optional(duration, summary.get("seconds"))),
        ("Sent in all", _optional(size, summary.get("bytes_sent"))),
        ("Evidence", None if checked is None else "verified" if checked is True else "NOT VERIFIED"),
    ]
    return (paragraph(text(notice), "notice") if notice else "") + f"<h1>{text(title)}</h1>" + facts(pairs)


def _parties(given: object) -> object:
    if not isinstance(given, list | tuple):
        return given or None
    named = [_party(item) if isinstance(item, Mapping) else item for item in given]
    return named or None


def _party(item: Mapping[str, Any]) -> object:
    return f"{item['party']} ({item['role']})" if {"party", "role"} <= set(item) else item.get("party", item)


def _optional(show: Callable[[object], str], value: object) -> str | None:
    if isinstance(value, Mapping):
        return plain({key: show(part) for key, part in value.items()})
    return None if value is None else show(value)


TEXT_PARTS = ("transcript_sha256", "limits")
SECTIONS: tuple[tuple[str, str, tuple[str, ...], Callable[[Summary], str]], ...] = (
    ("story", "The story", ("story",), report_story.story_html),
    ("results", "Results", ("auc", "ks", "gini"), report_results.results_html),
    ("evaluation", "How sure the figures are", ("evaluation",), report_evaluation.evaluation_html),
    ("curves", "Curves", ("curves",), report_results.curves_html),
    ("matching", "Matching", ("matched",), report_evidence.matched_html),
    ("network", "Network across banks", ("network",), report_networks.network_html),
    ("training", "Training", ("rounds",), report_results.rounds_html),
    ("woe", "Weight of evidence", ("woe",), report_results.woe_html),
    ("importance", "Importance of features", ("importance",), report_trees.importance_html),
    ("left", "What left each node", ("left",), report_evidence.left_html),
    ("rights", "Refusals and consents", ("consents", "refusals", "excluded", "revoked"), report_evidence.rights_html),
    ("plan", "Plan: who learns what, and the cost", ("plan",), report_evidence.plan_html),
    ("verification", "Verification", ("verification", "transcript_sha256"), report_evidence.verification_html),
    ("limits", "Limits", ("limits",), report_evidence.limits_html),
    ("conclusion", "How the story ended", ("conclusion",), report_story.conclusion_html),
)
