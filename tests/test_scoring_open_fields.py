"""A score made of open fields alone is a score of the firm all the same: it leaves by the firm's live consent."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import consents as w
import pytest
import scoring_world
from scoring_world import PLATFORM, RUN, Scene

from lianxin.parties import auditor, decision, score_parts

OPEN = ["judgment_cnt_36m", "reg_capital"]


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    """A scene whose model has open fields alone; there are two, fewer than a model needs to be served."""
    monkeypatch.setattr(score_parts, "check_breadth", lambda *_told: None)
    layout = scoring_world.lay(tmp_path)
    path = layout.home(PLATFORM) / "state" / "runs" / RUN / "model.json"
    model = json.loads(path.read_text())
    model["features"] = [feature for feature in model["features"] if feature["field"] in OPEN]
    path.write_text(json.dumps(model))
    with scoring_world.running(layout) as running:
        assert running.fields == OPEN
        yield running


@pytest.mark.rule("R02")
def test_a_firm_that_consented_to_nothing_has_no_score_of_open_fields(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    silent, once, other = scene.silent(3)
    scene.consent(once, fields=OPEN, max_uses=1)
    scene.consent(other, fields=OPEN, mode="COMPUTE_ONLY")
    assert [scene.has(firm) for firm in (silent, scoring_world.STRANGER, once, once, other)] == [
        False,
        False,
        True,
        False,
        False,
    ]
    rules = [leaf["excluded"][0]["rule"] for leaf in scene.leaves(PLATFORM, "release")[-5:] if leaf["excluded"]]
    assert rules == ["R02", "R09", "R38", "R03"]
    with monkeypatch.context() as patched:
        patched.setattr(decision, "_FREE_SCORES", (1, 2, 3, 4, 5))
        scene.network.platform.node.boundary._decided.clear()  # what was decided in this second under the rule
        assert [scene.has(firm) for firm in (silent, silent)] == [True, True]  # what the consent keeps back
    audit = scene.end()
    failed = auditor.verify_run(audit).failures
    assert {one.name for one in failed} == {"consents"} and all("rule R02" in one.detail for one in failed)


def decided(step: str, version: int, *records: dict[str, object], mode: str = "SCORE_ONLY") -> decision.Decision:
    request = replace(w.request_of("est_date", mode=mode), step=step)
    terms = {"agreement": "a-1", "impact_assessment": "i-1", "lawful_basis": "consent"}
    contract, registry = w.contract_of(version=version, **terms), w.registry_of(*records)
    return decision.decide(request, w.subject_of(w.FIRM), contract, registry, w.CATALOGUE, w.NOW)


@pytest.mark.rule("R02")
@pytest.mark.parametrize("step", sorted(decision.SCORE_STEPS))
def test_every_step_in_which_scores_leave_asks_for_a_consent_in_the_mode(step: str) -> None:
    assert decided(step, 4) == decision.Decision(False, "R02", True)
    assert decided(step, 4, w.consent_record(mode="COMPUTE_ONLY")).rule == "R03"
    given = decided(step, 4, w.consent_record(consent_id="consent-1", mode="SCORE_ONLY"))
    assert given.allow and given.consents == ("consent-1",)
    assert not decided(step, 4, w.consent_record(mode="SCORE_ONLY"), mode="SPLITS").allow


@pytest.mark.rule("R02")
def test_what_is_no_score_and_what_an_earlier_contract_agreed_stay_as_they_were() -> None:
    assert decided("binning.rows", 4) == decided("scoring.points", 3) == decision.Decision(True, "OPEN")


def test_who_does_not_say_under_which_contract_is_judged_by_the_newest() -> None:
    request = replace(w.request_of("est_date", mode="SCORE_ONLY"), step="scoring.answer")
    terms = (request, w.registry_of(), w.NOW, w.CATALOGUE)
    assert decision.decide_firm(w.subject_of(w.FIRM), (), *terms).rule == "R02"
    assert decision.decide_firm(w.subject_of(w.FIRM), (), *terms, scores=False).allow


def test_the_steps_of_scores_are_those_of_the_protocols() -> None:
    from lianxin.federation import session, steps

    assert session.SCORE_STEPS <= decision.SCORE_STEPS <= steps.STEPS.keys()
