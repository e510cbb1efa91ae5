"""A bank that was killed in a run that may lose it says at its start that the run broke off, and later hears how it ended.

Its word counts then, though it confirms the end to the platform; that of a bank that heard the end first does not.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import audit_world
import pytest
from audit_world import Told
from evidence_world import BANK
from test_auditor_resealed import names, resealed

from lianxin.parties import auditor, auditor_ends

terms = audit_world.terms
Leaf = dict[str, Any]


def failing(leaves: list[Leaf]) -> list[Leaf]:
    return [{**leaf, "event": "failed"} if leaf.get("event") == "finished" else leaf for leaf in leaves]


def failing_first(leaves: list[Leaf]) -> list[Leaf]:
    """The bank's leaf of the end, and that it failed, before the first message in which it is told."""
    (end,) = [leaf for leaf in failing(leaves) if leaf.get("event") == "failed"]
    others = [leaf for leaf in leaves if leaf.get("event") != "finished"]
    told = next(place for place, leaf in enumerate(others) if leaf.get("step") == "contract.close")
    return [*others[:told], end, *others[told:]]


def test_a_lost_bank_that_said_so_before_it_was_told_the_end_is_accused_of_nothing(
    tmp_path: Path, terms: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    terms(on_loss="rerun")
    run = resealed(Told().story(tmp_path), BANK, failing_first)
    assert auditor.verify_run(run).failures == ()
    monkeypatch.setattr(auditor_ends, "_broke_off_first", lambda *_: False)
    assert "took part in telling that it finished" in names(run)["end", BANK]


@pytest.mark.parametrize(("on_loss", "change"), [("stop", failing_first), ("rerun", failing)])
def test_a_bank_that_may_not_be_lost_or_heard_the_end_first_is_still_named(
    tmp_path: Path, terms: Callable[..., None], on_loss: str, change: Callable[[list[Leaf]], list[Leaf]]
) -> None:
    terms(on_loss=on_loss)
    told = names(resealed(Told().story(tmp_path), BANK, change))
    assert "took part in telling that it finished" in told["end", BANK]
