"""Who may leave a message unreceived, and until when something may leave: a cut query and the end of a run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from evidence_world import BANK, PLATFORM, World, a_consent, failed

from lianxin.parties import auditor

FOUR = [f"consent-{number}" for number in range(4)]
FIRST, SECOND = f"query/{BANK}/1", f"query/{BANK}/2"
Lie = Callable[[World], None]


def asks(world: World, query: str) -> None:
    world.cross(BANK, PLATFORM, "QueryRequest", "CONTROL", [], header={"conversation": query})


def answers(world: World, query: str, is_kept: bool) -> None:
    right = world.parties[PLATFORM].release(FOUR, recipient=BANK, fields=["revenue"], query=query)
    denied = {} if is_kept else {"unlogged": ["in"]}
    world.cross(PLATFORM, BANK, "QueryReply", "CIPHERTEXT", [right], header={"conversation": query}, **denied)


def cut(world: World, query: str) -> None:
    world.parties[BANK].log("refusal", peer=PLATFORM, rule="Q05", step="query.answer", conversation=query)


def telling(*steps: tuple[Any, ...]) -> Lie:
    def lie(world: World) -> None:
        for step, *given in steps:
            step(world, *given)

    return lie


HONEST = telling((asks, FIRST), (answers, FIRST, True), (answers, FIRST, False), (cut, FIRST))
DENIED: list[tuple[str, Lie]] = [
    ("an answer and no word of it", telling((asks, FIRST), (answers, FIRST, False))),
    ("an answer before one that came",
     telling((asks, FIRST), (answers, FIRST, False), (answers, FIRST, True), (cut, FIRST))),
    ("a cut before the last message",
     telling((asks, FIRST), (cut, FIRST), (answers, FIRST, True), (answers, FIRST, False))),
    ("a cut told after the next question",
     telling((asks, FIRST), (answers, FIRST, False), (asks, SECOND), (answers, SECOND, True), (cut, FIRST))),
    ("a cut of another conversation",
     telling((asks, FIRST), (answers, FIRST, False), (cut, SECOND))),
]  # fmt: skip


@pytest.mark.rule("Q05")
def test_the_last_answers_of_a_cut_query_may_be_missing_and_the_verdict_counts_them(tmp_path: Path) -> None:
    verdict = auditor.verify_run(World(tmp_path, {"after release": HONEST}).story())
    assert verdict.ok, verdict.failures
    [told] = [check.detail for check in verdict.checks if check.name == "receipts"]
    assert "bank-a noted 1 queries as cut off, 1 messages" in told and "with 4 values" in told


@pytest.mark.rule("Q05")
@pytest.mark.parametrize("end", ["finished", "failed"])
@pytest.mark.parametrize(("why", "lie"), DENIED, ids=[why for why, _ in DENIED])
def test_a_bank_cannot_deny_an_answer_by_calling_its_query_cut(why: str, lie: Lie, end: str, tmp_path: Path) -> None:
    found = failed(World(tmp_path, {"after release": lie, "end": end}).story())
    assert "receipts" in found and f"ask {BANK} for the missing leaf" in found["receipts"]
    assert set(found) <= {"receipts", "sequence"}


def is_told(world: World, number: str, is_heard: bool) -> None:
    told = {"conversation": f"contracts/{BANK}{number}"}
    world.cross(PLATFORM, BANK, "RunStatus", "CONTROL", [], header=told)
    world.cross(BANK, PLATFORM, "RunClosed", "CONTROL", [], header=told, **({} if is_heard else {"unlogged": ["in"]}))


def test_the_answer_to_an_end_that_is_told_again_may_be_missing(tmp_path: Path) -> None:
    again = telling((is_told, "", False), (is_told, "/1", False), (is_told, "/2", True))
    assert failed(World(tmp_path, {"after end": again}).story()) == {}


def test_the_answer_to_an_end_that_is_not_told_again_is_there(tmp_path: Path) -> None:
    once = telling((is_told, "", True), (is_told, "/1", False))
    assert f"ask {PLATFORM} for" in failed(World(tmp_path, {"after end": once}).story())["receipts"]


def releases_again(world: World) -> None:
    world.parties[PLATFORM].release(FOUR, recipient=BANK, fields=["revenue"])


def sends_values(world: World) -> None:
    leaves = list(world.parties[PLATFORM].store.release_consents())
    world.cross(PLATFORM, BANK, "EncryptedLabels", "CIPHERTEXT", [leaves[0]])


def goes_on(world: World) -> None:
    world.cross(PLATFORM, BANK, "RunStatus", "CONTROL", [])
    world.parties[PLATFORM].ledger.append_registry([a_consent(4, consent_id="consent-new")])
    world.parties[PLATFORM].ledger.checkpoint()


@pytest.mark.rule("R08")
@pytest.mark.parametrize("end", ["finished", "failed", "ended"])
@pytest.mark.parametrize(
    ("lie", "told"), [(releases_again, "a release after"), (sends_values, "EncryptedLabels"), (goes_on, "")]
)
def test_nothing_is_released_or_sent_after_the_run_ended(lie: Lie, told: str, end: str, tmp_path: Path) -> None:
    found = failed(World(tmp_path, {"after end": lie, "end": end}).story())
    assert set(found) == ({"end"} if told else set()), found
    assert told in found.get("end", "")


@pytest.mark.rule("R08")
def test_without_its_check_what_leaves_after_the_end_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(auditor.PARTY_CHECKS, "end", lambda run, own: iter(()))
    assert failed(World(tmp_path, {"after end": telling((releases_again,), (sends_values,))}).story()) == {}
