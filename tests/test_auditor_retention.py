"""What the auditor says of times that are over: models that were kept, contracts that had ended, withdrawals without a mark."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import audit_world
import pytest
from audit_world import Told, found, passes_without
from evidence_world import BANK, NOW, PLATFORM, World, a_revocation

from lianxin.crypto import merkle

terms = audit_world.terms
KEPT = {"retain_until": "2026-06-01T00:00:00Z", "expires_at": "2026-05-20T00:00:00Z"}
LATER = "2026-06-02T00:02:00Z"


def goes_on(until: str = LATER, **leaf: Any) -> Callable[[World], None]:
    """Both ledgers go on after the run, with a leaf that has nothing to do with it; and first the `leaf` of the platform."""

    def after(world: World) -> None:
        for party in world.parties.values():
            party.clock.time = until
        if leaf:
            world.parties[PLATFORM].log("deletion", dataset="0" * 64, count=2, **leaf)
        for party in world.parties.values():
            party.ledger.append({"kind": "alarm", "run": "", "rule": "T01", "skew_s": 31})

    return after


def test_a_model_that_was_kept_after_its_time_is_named(
    tmp_path: Path, terms: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    terms(**KEPT)
    run = Told(lies={"after end": goes_on()}).story(tmp_path)
    failures = found(run)
    assert {(check.name, check.subject, check.rule) for check in failures} == {
        ("retention", PLATFORM, "R07"), ("retention", BANK, "R07")
    }  # fmt: skip
    assert all(check.leaf >= 0 and check.subject in check.remedy for check in failures)
    assert passes_without(run, "retention", monkeypatch)


def deletes(world: World) -> None:
    goes_on("2026-06-01T00:00:30Z", rule="R07")(world)
    world.parties[BANK].log("deletion", dataset="0" * 64, count=2, rule="R07")
    goes_on()(world)


@pytest.mark.parametrize(
    "after", [deletes, goes_on("2026-06-01T12:00:00Z")], ids=["it was deleted", "the day of the sweep is not over"]
)
def test_what_was_deleted_in_time_is_no_fault(
    tmp_path: Path, terms: Callable[..., None], after: Callable[[World], None]
) -> None:
    terms(**KEPT)
    assert found(Told(lies={"after end": after}).story(tmp_path)) == []


def test_rows_that_were_taken_out_are_no_deletion_of_the_model(tmp_path: Path, terms: Callable[..., None]) -> None:
    terms(**KEPT)
    failures = found(Told(lies={"after end": goes_on(rule="R04")}).story(tmp_path))
    assert (PLATFORM, "R07") in {(check.subject, check.rule) for check in failures}


def test_nothing_is_asked_under_a_contract_that_has_expired(
    tmp_path: Path, terms: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    terms(**KEPT)

    def asks(world: World) -> None:
        for party in world.parties.values():
            party.clock.time = "2026-05-20T00:00:00Z"
        asked = {"query": "q", "purpose": "P4", "mode": "PLAINTEXT", "fields": ["region"], "conversation": "query/a/0"}
        world.parties[PLATFORM].log("query", peer=BANK, firms=1, **asked)

    run = Told(lies={"after end": asks}).story(tmp_path)
    [check] = found(run)
    assert (check.name, check.subject, check.rule) == ("retention", PLATFORM, "R38") and check.leaf >= 0
    assert passes_without(run, "retention", monkeypatch)


# ---- withdrawals


def withdrawn(**mark: Any) -> Callable[[World], None]:
    """A consent that the run used is withdrawn after its end; the platform marks its model, or not."""

    def after(world: World) -> None:
        platform = world.parties[PLATFORM]
        platform.clock.time = NOW
        platform.ledger.append_registry([a_revocation(1)])
        root = merkle.root_of([b"consent-1"]).hex()
        if mark:
            leaf = {"revocations": 1, "consent_root": root, "choice": "none", **mark}
            platform.log("model-marked", **leaf)
            if leaf["choice"] == "drop":
                platform.log("deletion", dataset="0" * 64, count=2, rule="R04")

    return after


UNMARKED = {
    "no mark": ({}, "1 withdrawals touch"),
    "a mark of fewer": ({"revocations": 0, "consent_root": merkle.root_of([]).hex()}, "1 withdrawals touch"),
    "a mark of other consents": ({"consent_root": merkle.root_of([b"consent-2"]).hex()}, "not of the withdrawals"),
}


@pytest.mark.parametrize(("mark", "says"), UNMARKED.values(), ids=UNMARKED)
def test_a_withdrawal_that_is_not_on_the_models_mark_is_named(
    tmp_path: Path, mark: dict[str, Any], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Told(lies={"after end": withdrawn(**mark)}).story(tmp_path)
    failures = found(run)
    assert {(check.name, check.subject, check.rule) for check in failures} == {("retention", PLATFORM, "R04")}
    assert any(says in check.detail for check in failures) and all(check.leaf >= 0 for check in failures)
    assert passes_without(run, "retention", monkeypatch)


@pytest.mark.parametrize("choice", ["none", "keep", "drop"])
def test_a_marked_or_dropped_model_is_no_fault(tmp_path: Path, choice: str) -> None:
    assert found(Told(lies={"after end": withdrawn(choice=choice)}).story(tmp_path)) == []


def test_a_run_that_failed_has_no_model_to_mark(tmp_path: Path) -> None:
    assert found(Told(lies={"after end": withdrawn(), "end": "failed"}).story(tmp_path)) == []
