"""The auditor decides desensitised releases and counted uses again, from leaves and grade records alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from evidence_world import BANK, NOW, PLATFORM, World, a_consent

from lianxin.crypto import canonical
from lianxin.parties import auditor, auditor_registry, decision_grades

GRADE: dict[str, Any] = {
    "type": "desensitisation-grade", "version": 1, "provider": PLATFORM, "policy_hash": "0" * 64, "table_hash": "1" * 64,
    "model": "agreement", "fields": {"revenue": "round(step=10)"}, "rows": 60, "classes": 3, "k": 20, "l": 0, "t_ppm": 0,
    "theta_max_ppm": 50_000, "classes_above_ppm": 0, "risk_ppm": 50_000, "grade": 3, "accepted": True, "measured_at": NOW,
}  # fmt: skip
FOUR = [f"consent-{number}" for number in range(4)]


def failures(world: World) -> list[tuple[str, str]]:
    return [(check.name, check.detail) for check in auditor.verify_run(world.story()).failures]


def desensitised(
    is_told: bool = True,
    is_kept: bool = True,
    fields: Any = ("revenue",),
    table: str = "1" * 64,
    step: str = "binning.count",
    **changes: Any,
) -> Callable[[World], None]:
    """A release of these fields under a grade that `changes` spoil; kept as evidence and told by a leaf, or not."""
    record = GRADE | changes
    digest = canonical.record_hash(record)

    def release(world: World) -> None:
        platform = world.parties[PLATFORM]
        if is_kept:
            platform.store.put_setting(f"grade/{digest}", canonical.encode(record))
        leaf = {"grade_hash": digest, "policy_hash": "0" * 64, "table_hash": "1" * 64, "model": record["model"]}
        if is_told:
            platform.log("grade", **leaf, accepted=record["accepted"], rows=60, level=3)
        platform.release(
            [], recipient=BANK, mode="DESENSITISED", step=step, fields=list(fields), grade=digest, table_hash=table
        )

    return release


@pytest.mark.rule("R22")
def test_a_release_under_a_measured_and_accepted_grade_verifies_without_a_consent(tmp_path: Path) -> None:
    assert failures(World(tmp_path, {"after release": desensitised()})) == []


@pytest.mark.rule("R22")
def test_an_answer_about_a_named_firm_verifies_where_its_field_was_measured_for_a_class(tmp_path: Path) -> None:
    answer = desensitised(step="query.answer", quasi=["revenue"])
    assert failures(World(tmp_path, {"after release": answer})) == []


SPOILT: list[tuple[str, dict[str, Any], str]] = [
    ("not accepted", {"accepted": False}, "R22"),
    ("of another provider", {"provider": BANK}, "R22"),
    ("for an enclave", {"model": "enclave"}, "R22"),
    ("too risky, whatever it claims", {"risk_ppm": 50_001}, "R22"),
    ("of another field", {"fields": {"region": "round(step=10)"}}, "R22"),
    ("that is not in evidence", {"is_kept": False}, "R22"),
    ("that no leaf says was measured", {"is_told": False}, "no earlier leaf"),
    ("of another table", {"table": "2" * 64}, "another table"),
    ("of no table that the release names", {"table": ""}, "another table"),
    ("of a column that was measured for no class, of a named firm", {"step": "query.answer", "quasi": []}, "R22"),
    ("of no class at all, of a named firm", {"step": "query.answer"}, "R22"),
]


@pytest.mark.rule("R22")
@pytest.mark.parametrize(("why", "changes", "told"), SPOILT, ids=[why for why, _, _ in SPOILT])
def test_a_release_under_a_grade_that_does_not_carry_it_is_found(
    why: str, changes: dict[str, Any], told: str, tmp_path: Path
) -> None:
    [(name, detail)] = failures(World(tmp_path, {"after release": desensitised(**changes)}))
    assert name == "releases" and told in detail


@pytest.mark.rule("R22")
def test_without_the_check_of_grades_the_auditor_would_miss_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decision_grades, "_is_accepted", lambda record: True)
    assert failures(World(tmp_path, {"after release": desensitised(accepted=False)})) == []


def uses(*names: str) -> dict[str, Any]:
    """Consents for two uses, the run's own being one, and then a release for each further use."""

    def release(world: World) -> None:
        for name in names:
            world.parties[PLATFORM].release(FOUR, recipient=BANK, fields=["revenue"], use=name)

    consents = [a_consent(number, max_uses=2) for number in range(4)]
    return {"consents": consents, "after release": release}


@pytest.mark.rule("R38")
@pytest.mark.parametrize(
    ("names", "found"), [(("q-1",), 0), (("q-1", "q-1"), 0), (("q-1", "q-2"), 4), (("", "q-1"), 0)]
)
def test_a_limited_consent_is_counted_by_the_uses_that_leaves_name(
    names: tuple[str, ...], found: int, tmp_path: Path
) -> None:
    told = failures(World(tmp_path, uses(*names)))
    assert len(told) == found and all(name == "consents" and "R38" in detail for name, detail in told)


def newer_and_older(is_used: bool) -> dict[str, Any]:
    """The first firm gave a second consent, for one use, after its first; an earlier run used it, or did not."""

    def earlier_run(world: World) -> None:
        if is_used:
            world.parties[PLATFORM].release(["consent-new"], recipient=BANK, fields=["revenue"], run="run-0")

    newer = a_consent(0, consent_id="consent-new", max_uses=1)
    return {"consents": [*(a_consent(number) for number in range(4)), newer], "before release": earlier_run}


@pytest.mark.rule("R38")
@pytest.mark.parametrize(("is_used", "told"), [(True, ""), (False, "R03")])
def test_a_used_up_newer_consent_leaves_the_older_one_to_stand(is_used: bool, told: str, tmp_path: Path) -> None:
    lies = newer_and_older(is_used) | {"release": {"epoch": 7}}
    assert [name for name, detail in failures(World(tmp_path, lies)) if told in detail] == (
        ["consents"] if told else []
    )


@pytest.mark.rule("R38")
def test_counted_by_runs_alone_a_consent_could_be_used_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auditor_registry, "use_of", lambda leaf: leaf["run"])
    assert failures(World(tmp_path, uses("q-1", "q-2", "q-3"))) == []
