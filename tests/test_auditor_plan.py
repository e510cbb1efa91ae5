"""What the auditor says of plans and policies: the ones approved, nothing beside them, no approval outside of them."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import audit_world
import evidence_world
import pytest
import worlds
from audit_world import POLICY, STEPS, Told, a_plan, found, passes_without, rewrite
from evidence_world import BANK, PLATFORM, World

from lianxin.federation.steps import STEPS as ALL_STEPS
from lianxin.parties import auditor, auditor_plan, auditor_policy, auditor_sums, decision_policy
from lianxin.parties.config import PolicySection
from lianxin.simulations.runner import reference_plan

terms = audit_world.terms
finished = worlds.finished


def test_an_honest_run_that_tells_its_plan_and_policy_verifies(tmp_path: Path) -> None:
    assert found(Told().story(tmp_path)) == []


def test_evidence_from_before_plans_were_kept_is_not_judged_by_one(tmp_path: Path) -> None:
    assert found(World(tmp_path).story()) == []


def test_a_whole_run_tells_its_plan_and_keeps_to_it(finished: worlds.World) -> None:
    evidence = finished.layout.home(finished.platform) / "evidence"
    assert (evidence / "plan.json").is_file() and (evidence / "policy.json").is_file()
    passed = {(check.name, check.subject) for check in auditor.verify_run(finished.layout.folder).checks if check.ok}
    names = ("plan", "policy", "limits", "quotas", "retention", "commitments")
    assert passed >= {(name, party) for name in names for party in finished.layout.parties}


def test_the_auditors_copies_of_the_protocols_tables_are_theirs() -> None:
    assert {name: step.messages for name, step in ALL_STEPS.items()} == auditor_plan.STEP_MESSAGES
    assert decision_policy.NETWORKS == auditor_sums.NETWORKS


def crossing(kind: str, step: str, form: str = "CONTROL", size: int = 10, times: int = 1) -> Callable[[World], None]:
    """A platform that sends messages beside the plan, behind a release where they carry values."""

    def cheat(world: World) -> None:
        right = [] if form == "CONTROL" else [world.parties[PLATFORM].release([], recipient=BANK, fields=["region"])]
        header = {"step": step, "payload_bytes": size, "conversation": "beside/a"}
        for _ in range(times):
            world.cross(PLATFORM, BANK, kind, form, right, header=header, leaf={"size_bytes": size})

    return cheat


def silent_at(step: str) -> dict[str, Any]:
    """A plan that does not say that anybody learns anything at a step."""
    return a_plan(learns=[entry for entry in a_plan()["learns"] if entry["step"] != step])


BESIDE: dict[str, tuple[Callable[[], Told], str, str, str]] = {
    "a message in another's step": (
        lambda: Told(forged=crossing("TrainingKey", "binning.count")), "knows none", "G02", "beside/a/platform/0",
    ),
    "a step that is not in the plan": (
        lambda: Told(forged=crossing("LiveRows", "round.rows")), "does not list", "", "beside/a/platform/0",
    ),
    "more messages than planned": (
        lambda: Told(forged=crossing("HistogramNoted", "binning.count", times=2)), "the 2 messages", "",
        "vertical/a/platform/0",
    ),
    "more bytes than planned": (
        lambda: Told(forged=crossing("HistogramNoted", "binning.count", size=5001)), "the 5000 bytes", "",
        "beside/a/platform/0",
    ),
    "a value of which the plan says nothing": (
        lambda: Told(plan=silent_at("binning.count")), "does not say that it learns", "", "vertical/a/platform/0",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("told", "says", "rule", "message"), BESIDE.values(), ids=BESIDE)
def test_what_crosses_beside_the_plan_is_named_with_leaf_and_message(
    tmp_path: Path, told: Callable[[], Told], says: str, rule: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = told().story(tmp_path)
    failures = found(run)
    assert {check.name for check in failures} == {"plan"}, failures
    check = next(check for check in failures if check.subject == PLATFORM)
    assert says in check.detail and check.rule == rule and check.message == message and check.leaf >= 0
    assert PLATFORM in check.remedy and check.accused == PLATFORM
    assert passes_without(run, "plan", monkeypatch)


def test_a_message_of_a_party_whose_evidence_is_missing_is_judged_at_the_other_end(tmp_path: Path) -> None:
    run = Told(forged=crossing("LiveRows", "round.rows")).story(tmp_path)
    for path in (run / "parties" / PLATFORM / "evidence").iterdir():
        path.unlink()
    (run / "parties" / PLATFORM / "evidence").rmdir()
    (run / "parties" / PLATFORM).rmdir()
    assert any(check.name == "plan" and f"{PLATFORM} sent a LiveRows" in check.detail for check in found(run))


PLANS: dict[str, tuple[Callable[[], Told], Callable[[Path], None] | None, str, str]] = {
    "the bank was shown another": (lambda: Told(bank_plan=a_plan(totals=["x"])), None, BANK, "another plan than the one"),
    "the file is another": (
        Told, lambda run: rewrite(run, BANK, "plan.json", lambda plan: plan.update(totals=["x"])), BANK, "another plan than",
    ),
    "the file is gone": (
        Told, lambda run: (run / "parties" / BANK / "evidence" / "plan.json").unlink(), BANK, "is missing",
    ),
    "it is of another contract": (lambda: Told(plan=a_plan(contract="0" * 64)), None, PLATFORM, "another run or contract"),
    "it is of other parties": (lambda: Told(plan=a_plan(parties=[PLATFORM])), None, PLATFORM, "other parties"),
    "it is no plan": (lambda: Told(plan=a_plan(messages="many")), None, PLATFORM, "no plan"),
}  # fmt: skip


@pytest.mark.parametrize(("told", "tamper", "party", "says"), PLANS.values(), ids=PLANS)
def test_a_plan_that_was_not_the_one_approved_is_named(
    tmp_path: Path, told: Callable[[], Told], tamper: Callable[[Path], None] | None, party: str, says: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    run = told().story(tmp_path)
    if tamper is not None:
        tamper(run)
    failures = found(run)
    assert {check.name for check in failures} == {"plan"}, failures
    assert any(check.subject == party and says in check.detail for check in failures), failures
    assert passes_without(run, "plan", monkeypatch)


def test_a_bank_that_says_nothing_of_a_plan_that_the_platform_proposed_is_asked(tmp_path: Path) -> None:
    told = Told()
    tell = told._agree
    told._agree = lambda world, name, *rest: None if name == BANK else tell(world, name, *rest)  # type: ignore[method-assign]
    failures = found(told.story(tmp_path))
    assert any(
        check.name == "plan" and check.subject == BANK and "no leaf names the plan" in check.detail
        for check in failures
    )


def test_reruns_and_returns_that_a_contract_allows_are_no_fault(terms: Callable[..., None]) -> None:
    plan = a_plan(messages=[{**one, "step": "learning.exchange"} for one in a_plan()["messages"][:2]])
    road = ("learning.exchange", PLATFORM, BANK)
    run = auditor.Run(
        evidence_world.a_contract()["record"], "", dict.fromkeys((PLATFORM, BANK, "bank-b", "bank-c"), ""), {}
    )
    rerun = auditor.Run({**run.contract, "on_loss": "rerun", "spare_attempts": 2}, "", run.node_keys, {})
    nothing: Any = SimpleNamespace(crossings=lambda _run: [])
    assert auditor_plan._Plan.of(run, nothing, plan).most[road][0] == 2
    assert auditor_plan._Plan.of(rerun, nothing, plan).most[road][0] == 2 + auditor_plan._STAGES


def test_an_end_that_is_told_again_to_a_bank_that_missed_it_is_no_fault_and_no_learning_is() -> None:
    plan = a_plan(messages=[{**one, "step": "contract.close"} for one in a_plan()["messages"][:2]])
    run = auditor.Run(evidence_world.a_contract()["record"], "", dict.fromkeys((PLATFORM, BANK), ""), {})
    for conversation, more in ((f"contracts/{BANK}/1", 1), (f"learning/{BANK}/1", 0), (f"contracts/{BANK}", 0)):
        own: Any = SimpleNamespace(crossings=lambda _run, name=conversation: [(0, {"conversation": name})])
        assert auditor_plan._Plan.of(run, own, plan).most[("contract.close", PLATFORM, BANK)][0] == 2 + more


# ---- policies


def test_a_policy_record_of_a_node_is_judged_as_the_node_judges(terms: Callable[..., None]) -> None:
    section = PolicySection(operator="operator-wang", matching=["ecdh"], min_rows=4, models=["scorecard"])
    contract = evidence_world.a_contract()["record"]
    record = section.model_dump(exclude_none=True)
    assert decision_policy.judge_policy(contract, record, BANK) == ("", "")
    assert decision_policy.judge_policy(contract, {**record, "purposes": []}, BANK)[0] == "P01"


OUTSIDE: dict[str, tuple[dict[str, Any], str]] = {
    "P01": ({"purposes": ["P1"]}, "purpose"), "P02": ({"matching": ["paillier"]}, "matching"),
    "P03": ({"max_rounds": 2}, "rounds"), "P04": ({"min_key_bits": 3072}, "key"), "P05": ({"min_rows": 50}, "rows"),
    "P06": ({"fields": ["loan_rate"]}, "field"), "P07": ({"profiles": []}, "profile"), "P08": ({"models": []}, "model"),
    "R26": ({"operator": "operator-li"}, "proposer"),
}  # fmt: skip


@pytest.mark.parametrize("rule", OUTSIDE)
def test_each_limit_is_judged_again_from_the_records(rule: str) -> None:
    change, says = OUTSIDE[rule]
    run = auditor.Run(evidence_world.a_contract()["record"], "", {}, {})
    judged, reason = auditor_policy._judged(run, BANK, {**POLICY, **change})
    assert judged == rule and says in reason


@pytest.mark.parametrize("rule", ["P05", "R26"])
def test_an_approval_outside_of_the_banks_policy_is_named_by_its_rule(
    tmp_path: Path, rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    change, says = OUTSIDE[rule]
    run = Told(policy={**POLICY, **change}).story(tmp_path)
    [check] = found(run)
    assert (
        (check.name, check.subject, check.rule) == ("policy", BANK, rule) and says in check.detail and check.leaf >= 0
    )
    assert BANK in check.remedy
    assert passes_without(run, "policy", monkeypatch)


@pytest.mark.parametrize("party", [BANK, PLATFORM])
def test_another_policy_than_the_one_that_a_leaf_names_is_found(
    tmp_path: Path, party: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Told().story(tmp_path)
    rewrite(run, party, "policy.json", lambda policy: policy.update(version=2))
    [check] = found(run)
    assert (check.name, check.subject) == ("policy", party) and "another policy" in check.detail and check.leaf >= 0
    assert passes_without(run, "policy", monkeypatch)


def test_the_real_plan_lists_every_step_in_which_it_says_that_values_are_learned(finished: worlds.World) -> None:
    from lianxin.federation.contract import parse_contract
    from lianxin.parties.auditor_evidence import read_evidence

    contract = parse_contract(read_evidence(finished.layout.home(finished.platform)).contract["record"])
    plan = reference_plan(contract)
    assert {entry["step"] for entry in plan["learns"]} <= set(ALL_STEPS)
    assert {entry["step"] for entry in plan["messages"]} <= set(ALL_STEPS)
    assert set(STEPS) <= set(ALL_STEPS)
