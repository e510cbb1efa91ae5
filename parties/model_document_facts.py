"""The head of a model document, and the small tables that several of its headings use."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lianxin.parties.clock import kept_past
from lianxin.parties.report_page import facts as fact_list
from lianxin.parties.report_page import paragraph, table, text

if TYPE_CHECKING:
    from lianxin.parties.model_document import ModelFacts

MADE_UP = (
    "Simulation: firm keys and consents were made up for this run; no real firm authorised it. "
    "All draws come from a seed that is written down, so nothing here is secret."
)
KINDS = {"scorecard": "joint scorecard (vertical logistic regression)", "boosted_trees": "joint boosted trees"}


def header_html(given: "ModelFacts") -> str:
    """Return the head: which model, whose, of which contract, and what speaks against using it, if anything."""
    contract = given.contract
    title = f"<h1>{text(f'Model document: {contract.run}')}</h1>"
    lines = [
        ("Bank", given.bank), ("Platform", contract.platform), ("Model", KINDS.get(contract.model, contract.model)),
        ("State of the run", given.state), ("Contract", contract.hash), ("Contract ends", contract.expires_at),
        ("Kept until", contract.retain_until), ("Code version", ", ".join(given.code_versions)),
    ]  # fmt: skip
    return "".join(paragraph(text(alarm), "notice") for alarm in alarms(given)) + title + fact_list(lines)


def alarms(given: "ModelFacts") -> list[str]:
    """Return the sentences that stand above the title: made-up consents, a model past its time, withdrawals, a run that did
    not finish, leaks, too few bads."""
    found = [MADE_UP] if given.is_simulated else []
    past = kept_past(given.contract.retain_until, given.now) if given.now else ""
    found += [f"This model {past}."] if past else []
    if given.state != "finished":
        found.append(f"The run's state is {given.state}, not finished: this model is not to be used.")
    if given.mark["revocations"]:
        found.append(
            f"{given.mark['revocations']:,} consents behind this model were withdrawn after it was trained; the choice "
            f"on record is: {given.mark['choice']}."
        )
    if given.evaluation.get("leaks"):
        found.append("The leakage check flags features of this model: see development evidence.")
    if not given.evaluation:
        found.append(
            "This run has no evaluation on file: it was trained by a version before 0.4, or the file was removed."
        )
    notes = [note for level in given.evaluation.get("levels", ())[:1] for note in level["notes"]]
    return found + [f"Held-out rows: {note}." for note in notes]


def two_columns(head: Sequence[str], pairs: Sequence[tuple[object, object]], caption: str = "") -> str:
    """Return a table of names and values; "" without any."""
    return table(head, [[text(name), text(value)] for name, value in pairs], (), caption) if pairs else ""


def bullets(sentences: Sequence[str]) -> str:
    """Return sentences as a list, escaped; "" without any."""
    return f"<ul>{''.join(f'<li>{text(sentence)}</li>' for sentence in sentences)}</ul>" if sentences else ""


def to_fill_in(who: Sequence[str]) -> str:
    """Return the table that people sign on paper."""
    rows = [[text(one), "&nbsp;", "&nbsp;", "&nbsp;"] for one in who]
    return table(["Role", "Name", "Decision and conditions", "Date and signature"], rows, (), "<b>To be signed</b>")


def level_of(given: "ModelFacts", name: str) -> Mapping[str, Any] | None:
    """Return the evaluation's level of a name, None where there is none."""
    return next((level for level in given.evaluation.get("levels", ()) if level["level"] == name), None)
