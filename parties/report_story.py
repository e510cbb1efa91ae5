"""The report's first and last part where a run was a story: what it tells, and how an auditor found it to end."""

from lianxin.parties.report_page import paragraph, records, text
from lianxin.parties.report_summary import Summary, items_of, mapping


def story_html(summary: Summary) -> str:
    """Return the story in its paragraphs; they are parted by empty lines."""
    given = mapping(summary, "story")
    told = given.get("text")
    if not isinstance(told, str):
        return ""
    before = played_html(given.get("played"))
    return before + "".join(
        paragraph(text(" ".join(part.split())), "lead") for part in told.split("\n\n") if part.strip()
    )


def played_html(said: object) -> str:
    """Return in front of a story how much smaller than told it was played; "" where it was not."""
    words = str(said or "")
    return paragraph(text(f"{words[:1].upper()}{words[1:]}."), "notice") if words else ""


def conclusion_html(summary: Summary) -> str:
    """Return the verdict in one sentence, whom it accuses, who withdrew, and what is not as the story has it."""
    given = mapping(summary, "conclusion")
    if not given:
        return ""
    ended = (
        '<span class="good">As told.</span>' if given.get("as_expected") else '<span class="bad">Not as told.</span>'
    )
    blocks = [paragraph(f"{ended} The story ends <b>{text(given.get('expected'))}</b>. {_said(given.get('sentence'))}")]
    for key, about in (
        ("accused", "Whom the evidence accuses."),
        ("withdrawn", "Releases without the firms that had withdrawn their consent (R04), the first of each round."),
        ("surprises", "What is not as the story has it."),
    ):
        items = items_of(given, key)
        if items:
            blocks.append(
                paragraph(text(about), "caption") + records(items, ("party", "why", "provider", "recipient", "round"))
            )
    return "".join(blocks)


def _said(sentence: object) -> str:
    return f"The auditor says: {text(sentence)}." if sentence else ""
