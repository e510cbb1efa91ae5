"""Honest oddities that a verdict tells of: rounds that were taken back, and who refused what in a run that stopped."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from evidence_world import BANK, PLATFORM, World

from lianxin.parties import auditor
from lianxin.parties.auditor_told import told


def details(kinds: dict[str, list[dict[str, Any]]], check: str, party: str = PLATFORM, **contract: Any) -> list[str]:
    """What a passed check tells of a ledger of these leaves, which start at index 10."""
    run = SimpleNamespace(id="run-1", node_keys={PLATFORM: "", BANK: ""}, contract={"platform": PLATFORM, **contract})
    own = SimpleNamespace(party=party, of_kind=lambda kind, run: enumerate(kinds.get(kind, []), 10))
    return list(told(run, own, check))  # type: ignore[arg-type]


def a_round(turn: int, accepted: bool = False, reason: str = "4 of 5 banks found it worse") -> dict[str, Any]:
    return {"round": turn, "accepted": accepted, "reason": reason}


def test_rounds_that_were_taken_back_are_told_with_their_reason() -> None:
    rounds = {"network-round": [a_round(1, accepted=True), a_round(2), a_round(2), a_round(3, reason="\x1b[31m")]}
    network = {"model": "mlp", "aggregation": "secret"}
    assert details(rounds, "rounds", **network) == [
        "round 2 was taken back: 4 of 5 banks found it worse",
        "round 3 was taken back: for a reason of odd signs",
        "a sum in secret does not say whose update it was",
    ]
    assert details(rounds, "rounds", model="mlp", aggregation="clear")[-1].startswith("round 3")
    assert details(rounds, "rounds", model="scorecard") == details(rounds, "rounds", BANK, **network) == []
    assert details({"network-round": [a_round(1, accepted=True)]}, "rounds", **network) == []


@pytest.mark.parametrize("event", ["failed", "refused"])
def test_a_run_that_stopped_says_who_refused_what(event: str) -> None:
    refused = [{"peer": BANK, "rule": "M04", "step": "matching.query"}, {"peer": "x\n", "rule": "\x1b", "step": 1}]
    leaves = {"contract": [{"event": event}], "refusal": refused}
    assert details(leaves, "end") == [
        "the run was stopped",
        f"{PLATFORM}, leaf 10: refused a message of {BANK} in matching.query (rule M04)",
        f"{PLATFORM}, leaf 11: refused a message of a party outside the contract (rule of an odd name)",
    ]
    assert details({**leaves, "refusal": refused * 5}, "end")[-1] == "it refused 5 more"
    assert details({**leaves, "contract": [{"event": "finished"}]}, "end") == details(leaves, "plan") == []


def test_the_verdict_holds_what_is_told(tmp_path: Path) -> None:
    verdict = auditor.verify_run(
        World(tmp_path, {"status": {"unlogged": ["in"], "refused": True}, "end": "failed"}).story()
    )
    ends = [check.detail for check in verdict.checks if check.name == "end" and check.ok]
    assert any(
        detail.startswith("verified; the run was stopped; ") and "refused a message of" in detail for detail in ends
    )
