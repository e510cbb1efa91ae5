"""The report's sections on boundaries: who was matched, what left each node, by which right, and what was verified."""

from collections.abc import Mapping, Sequence
from typing import Any

from lianxin.parties.report_page import duration, facts, heading, paragraph, plain, records, size, table, text
from lianxin.parties.report_summary import OVERALL, Summary, items_of, level_name, levels_of, mapping

FORMS = ("PLAIN", "DESENSITISED", "AGGREGATE", "PSEUDONYM", "MASKED", "CIPHERTEXT", "PUBLIC", "CONTROL")


def matched_html(summary: Summary) -> str:
    """Return how many firms each bank and the platform have in common."""
    matched = summary.get("matched")
    if isinstance(matched, int):
        matched = {OVERALL: matched}
    if not isinstance(matched, Mapping) or not matched:
        return ""
    rows = [[text(level_name(level)), text(matched[level])] for level in levels_of(matched)]
    return table(["Level", "Firms matched"], rows, [1], "Firms found on both sides.")


def left_html(summary: Summary) -> str:
    """Return, for each node, what crossed its boundary outwards; rows of one form, field and receiver are added up."""
    items = items_of(summary, "left")
    if items is None:
        return ""
    nodes: dict[str, list[Mapping[str, Any]]] = {}
    for item in (item for item in items if isinstance(item, Mapping)):
        nodes.setdefault(plain(item.get("sender")), []).append(item)
    about = (
        "What crossed each node's boundary, by form, field and receiver, the most open form first. Envelopes and bytes "
        "are added up over the run; rows is the largest number of rows behind one entry."
    )
    blocks = "".join(_node_left(node, nodes[node]) for node in sorted(nodes))
    return paragraph(about) + (blocks or paragraph("Nothing left any node in this run."))


def _node_left(node: str, items: Sequence[Mapping[str, Any]]) -> str:
    groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for item in items:
        groups.setdefault(tuple(plain(item.get(key)) for key in ("form", "field", "message", "recipient")), []).append(
            item
        )
    rows = [
        [_form(group[0]), *(text(cell) for cell in group[1:]), *_left_totals(groups[group])]
        for group in sorted(groups, key=lambda group: (_openness(group[0]), group))
    ]
    head = ["Form", "Field", "Message", "To", "Envelopes", "Bytes", "Rows, at most", "Releases"]
    return (
        f"<h3>{text(node)}</h3>"
        + paragraph(_openly({group[0] for group in groups}), "small")
        + table(head, rows, range(4, 8))
    )


def _openly(forms: set[str]) -> str:
    if not forms <= set(FORMS):
        return '<span class="bad">Something left in a form that this report does not know.</span>'
    if "PLAIN" in forms:
        return '<span class="bad">Row values left as held (PLAIN).</span>'
    if "DESENSITISED" in forms:
        return '<span class="watched">No row left as held; desensitised row values did.</span>'
    return '<span class="good">No row value left as held or desensitised.</span>'


def _left_totals(items: Sequence[Mapping[str, Any]]) -> list[str]:
    envelopes, sent = (text(sum(item.get(key) or 0 for item in items)) for key in ("envelopes", "bytes"))
    rows = max((item["rows"] for item in items if item.get("rows") is not None), default=None)
    given = [item.get("releases") for item in items]
    ids = {release for value in given if isinstance(value, list | tuple | set) for release in value}
    counted = sum(value for value in given if isinstance(value, int))
    return [envelopes, sent, text(rows), text(len(ids) + counted)]


def _openness(form: str) -> int:
    return FORMS.index(form) if form in FORMS else -1


def _form(form: str) -> str:
    mark = " watch" if form == "DESENSITISED" else "" if form in FORMS[2:] else " open"
    return f'<span class="form{mark}">{text(form)}</span>'


def rights_html(summary: Summary) -> str:
    """Return the consents, and what was refused, left out or withdrawn; an empty list is said to be empty."""
    lists = (
        ("refusals", "Refused", ("party", "field", "rule", "reason"), "Nothing was refused."),
        ("excluded", "Firms left out", ("party", "recipient", "rule", "firms"), "No firm was left out."),
        ("revoked", "Consents withdrawn during the run", ("round", "party", "firm"), "No consent was withdrawn."),
    )
    consents = mapping(summary, "consents")
    blocks = [f"<h3>Consents</h3>{facts((heading(key), item) for key, item in consents.items())}"] if consents else []
    for key, title, columns, none in lists:
        items = items_of(summary, key)
        if items is not None:
            blocks.append(f"<h3>{title}</h3>" + (records(items, columns) if items else paragraph(none)))
    return "".join(blocks)


def plan_html(summary: Summary) -> str:
    """Return who learns what at each step, and the planned cost beside the real one."""
    plan = mapping(summary, "plan")
    learns = items_of(plan, "learns")
    blocks = [records(learns, ("who", "what", "step", "malicious"))] if learns else []
    compared = [row for row in items_of(plan, "compared") or () if isinstance(row, Mapping)]
    if compared:
        return "".join(blocks) + compared_html(compared, plan.get("calibration"), plan.get("bounds"))
    costs = [
        [name, *(show(value) for value in _predicted(plan.get(key), summary.get(actual)))]
        for key, actual, name, show in (
            ("bytes", "bytes_sent", "Bytes sent", size),
            ("seconds", "seconds", "Wall time", duration),
        )
        if key in plan
    ]
    if costs:
        blocks.append(table(["Cost", "Planned", "This run"], costs, [1, 2], "What the plan said, and what it came to."))
    return "".join(blocks)


FIGURES = {"bytes": "Bytes", "cpu_s": "Processor time", "phase_s": "Phase", "wall_s": "Wall time"}
GOOD_FACTOR = 1.5


def compared_html(rows: Sequence[Mapping[str, Any]], source: object, bounds: object = None) -> str:
    """Return the plan beside what the run came to: the totals first, then bytes by step.

    `rows` are those of `plan_actual.compare`; `source` says where the costs came from, "measured" or "reference",
    `bounds` what is to be said of the bounds of times.
    """
    totals = [row for row in rows if row["figure"] != "bytes" or not row["step"]]
    steps = [row for row in rows if row["figure"] == "bytes" and row["step"]]
    costs = {
        "measured": "costs measured on this machine",
        "reference": "the published costs of another machine, so that times are a rough guide",
    }.get(str(source), "costs of unknown origin")
    about = (
        "At most: the contract's bounds, which the parties approved. Expected: the same count at the sizes that this run "
        f"turned out to have, priced at {costs}. Phases are processor seconds of all parties beside seconds by the wall; "
        "with several workers or processes the wall is shorter."
    )
    about += f" {text(bounds)}" if bounds else ""
    head = ["Cost", "Party", "At most", "Expected", "This run", "Times expected"]
    blocks = table(head, [_compared(row) for row in totals], range(2, 6), "What the plan said, and what it came to.")
    if steps:
        by_step = [[text(row["step"]), *_compared(row)[1:]] for row in steps]
        blocks += table(["Step", *head[1:]], by_step, range(2, 6), "Bytes of messages by step and sender.")
    return paragraph(about) + blocks


def _compared(row: Mapping[str, Any]) -> list[str]:
    name, show = FIGURES[row["figure"]], size if row["figure"] == "bytes" else duration
    numbers = (row["at_most"], row["expected"], row["actual"])
    step = f": {row['step']}" if row["step"] else ""
    shown = [text("–") if number is None else show(number) for number in numbers]
    return [text(f"{name}{step}"), text(row["party"]), *shown, _factor(row)]


def _factor(row: Mapping[str, Any]) -> str:
    factor = row["factor"]
    if factor is None:
        return text("–")
    is_judged = row["figure"] in ("bytes", "cpu_s") and not row["step"]
    kind = "good" if 1 / GOOD_FACTOR <= factor <= GOOD_FACTOR else "watched"
    return f'<span class="{kind}">{factor:.2f}</span>' if is_judged else f"{factor:.2f}"


def _predicted(planned: object, actual: object) -> tuple[object, object]:
    if isinstance(planned, Mapping):
        return planned.get("predicted"), planned.get("actual", actual)
    return planned, actual


def verification_html(summary: Summary) -> str:
    """Return the verdict on the evidence, its checks and the transcript's hash."""
    given = mapping(summary, "verification")
    blocks = []
    if "ok" in given:
        passed = given["ok"] is True
        blocks.append(
            paragraph(
                '<span class="good">Verified.</span> The evidence of this run passed every check.'
                if passed
                else '<span class="bad">NOT VERIFIED.</span> Do not use this run\'s results before the cause is known.'
            )
        )
    checks = given.get("checks")
    if isinstance(checks, list | tuple) and checks:
        blocks.append(_checks(checks))
    elif checks:
        blocks.append(facts([("Checks", checks)]))
    if summary.get("transcript_sha256"):
        blocks.append(paragraph(f"Transcript, SHA-256: <code>{text(summary['transcript_sha256'])}</code>"))
    return "".join(blocks)


CHECK_COLUMNS = {
    "name": "Check", "subject": "Party", "ok": "Holds", "detail": "Detail", "remedy": "What to ask", "leaf": "Leaf",
    "rule": "Rule", "message": "Message", "accused": "Accused",
}  # fmt: skip


def _checks(checks: Sequence[object]) -> str:
    """Return the table of a verdict's checks, without the columns that none of them fills; those that failed first."""
    known = [check for check in checks if isinstance(check, Mapping) and set(check) <= set(CHECK_COLUMNS)]
    if len(known) != len(checks):
        return records(checks, ("check", "name", "ok", "detail"))
    rows = [
        {**check, "leaf": "" if check.get("leaf", -1) == -1 else check["leaf"]}
        for check in sorted(known, key=lambda check: check.get("ok") is True)
    ]
    keys = [key for key in CHECK_COLUMNS if any(row.get(key, "") != "" for row in rows)]
    cells = [["" if row.get(key, "") == "" else text(row[key]) for key in keys] for row in rows]
    return table([CHECK_COLUMNS[key] for key in keys], cells, [place for place, key in enumerate(keys) if key == "leaf"])


def limits_html(summary: Summary) -> str:
    """Return what this run does not show, as a list."""
    limits = summary.get("limits") or ()
    lines = "".join(f"<li>{text(limit)}</li>" for limit in ([limits] if isinstance(limits, str) else limits))
    return f"<ul>{lines}</ul>" if lines else ""
