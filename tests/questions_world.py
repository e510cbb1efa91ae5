"""Asking the evidence of the small two-party world: a case of it, with lies, and an answer's rows."""

from pathlib import Path
from typing import Any

from evidence_world import World

from lianxin.parties.auditor_questions import Answer, Case, open_case

FOUR = [f"consent-{n}" for n in range(4)]


def rows(answer: Answer) -> list[dict[str, Any]]:
    """All rows of an answer, each with every column and no other."""
    found = [dict(row) for row in answer.rows]
    assert all(set(row) == set(answer.columns) for row in found)
    assert answer.said and answer.cannot_tell and set(answer.shown) <= set(answer.columns)
    return found


def case_of(folder: Path, **lies: Any) -> Case:
    """The evidence of the small world, with these lies, as it is asked."""
    folder.mkdir(exist_ok=True)
    return open_case([World(folder, lies).story()])
