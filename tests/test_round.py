"""Whole runs in memory: one seed gives one transcript, the figures hold, consents decide row by row, round by round."""

import hmac
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import worlds
from torture import ONLY
from worlds import World

from lianxin.crypto import canonical
from lianxin.parties import decision
from lianxin.parties.auditor import verify_run
from lianxin.parties.records import read_table
from lianxin.simulations.results import gather
from lianxin.simulations.tables import Inputs

finished, province = worlds.finished, worlds.province
ROUND = "round.residuals"


def releases(world: World, party: str, step: str, recipient: str = "") -> list[dict[str, Any]]:
    leaves = world.leaves(party, "release")
    return [leaf for leaf in leaves if leaf["step"] == step and recipient in ("", leaf["recipient"])]


def consents_behind(world: World, party: str, leaf: dict[str, Any]) -> set[str]:
    lines = (world.layout.home(party) / "evidence" / "release_consents.jsonl").read_bytes().splitlines()
    lists = {entry["release"]: entry["consents"] for entry in map(canonical.decode_fragment, lines)}
    return set(lists[canonical.record_hash(leaf)])


def test_the_same_seed_gives_the_same_transcript(finished: World, province: Inputs, tmp_path: Path) -> None:
    again = worlds.run(worlds.lay(tmp_path / "run", province))
    assert again.ran.summary["transcript_sha256"] == finished.ran.summary["transcript_sha256"]


@pytest.mark.parametrize("workers", [pytest.param(1, marks=ONLY), 2])
def test_the_number_of_workers_does_not_change_the_transcript(
    finished: World, province: Inputs, tmp_path: Path, workers: int
) -> None:
    layout = worlds.lay(tmp_path / "run", province)
    helped = worlds.run(replace(layout, terms=replace(layout.terms, workers=workers)))
    assert helped.ran.summary["transcript_sha256"] == finished.ran.summary["transcript_sha256"]


@ONLY
def test_another_seed_gives_another_transcript(finished: World, province: Inputs, tmp_path: Path) -> None:
    other = worlds.run(worlds.lay(tmp_path / "run", province, seed=6, rounds=1))
    first = {name: other.ran.summary[name] for name in ("matched", "transcript_sha256")}
    assert first["transcript_sha256"] != finished.ran.summary["transcript_sha256"]
    assert first["matched"] != finished.ran.summary["matched"]


def test_the_evidence_of_a_finished_run_verifies(finished: World) -> None:
    assert [str(check) for check in verify_run(finished.layout.folder).failures] == []


# ---- figures


def _agreeing(world: World, provider: str, recipient: str, modes: set[str]) -> set[str]:
    """Return the firms of `provider`'s table with a signed consent for `recipient`, found without the gate's code."""
    home = world.layout.home(provider)
    secret = bytes.fromhex((home / "identity" / "subject.key").read_text().strip())
    lines = (home / "consents.jsonl").read_bytes().splitlines()
    records = [canonical.decode_fragment(line)["record"] for line in lines]
    given = {r["subject_key"] for r in records if r["recipient"] == recipient and r["mode"] in modes}
    tables = {party.party: party.path for party in (world.layout.inputs.platform, *world.layout.inputs.banks)}
    firms = read_table(tables[provider]).text(worlds.ID)
    return {firm for firm in firms if hmac.digest(secret, firm.encode(), "sha256").hex() in given}


def test_matched_is_the_plain_intersection_of_the_firms_that_consent_at_both_ends(finished: World) -> None:
    both = {"COMPUTE_ONLY", "SCORE_ONLY"}
    platform = finished.platform
    expected = {
        bank: len(_agreeing(finished, platform, bank, both) & _agreeing(finished, bank, platform, both))
        for bank in finished.banks
    }
    assert finished.ran.summary["matched"] == expected
    assert all(50 < count < 285 for count in expected.values())


def test_only_firms_that_agreed_to_scoring_and_did_not_withdraw_are_scored(finished: World) -> None:
    both, scoring = {"COMPUTE_ONLY", "SCORE_ONLY"}, {"SCORE_ONLY"}
    for place, bank in enumerate(finished.banks):
        at_bank = _agreeing(finished, bank, finished.platform, both)
        expected = len(_agreeing(finished, finished.platform, bank, scoring) & at_bank) - (1 if place == 0 else 0)
        assert finished.ran.summary["scored"][bank] == expected < finished.ran.summary["matched"][bank]


@pytest.mark.slow
def test_the_joint_model_is_the_pooled_model_in_clear_and_better_than_the_bank_alone(tmp_path: Path) -> None:
    inputs = worlds.tables_of(tmp_path / "tables", seed=1, firms=3000, loans=1000)
    layout = worlds.lay(
        tmp_path / "run", inputs, seed=1, rounds=6, workers=2, minimums={"spare_attempts": 0}, **worlds.SHORT
    )
    world = worlds.run(layout)
    figures = gather(layout, world.ran).figures
    overall = figures["auc"]["overall"]
    assert abs(overall["joint"] - overall["pooled"]) <= 0.002
    assert abs(overall["joint"] - overall["pooled_single"]) <= 0.01
    assert overall["joint"] > overall["bank_only"] + 0.03
    assert figures["ledger_verified"] is True


# ---- consents


def test_a_field_refused_by_class_is_in_no_release_and_each_refusal_names_the_rule(finished: World) -> None:
    leaves = finished.leaves(finished.platform, "release")
    assert leaves and not any(worlds.BANNED in leaf["fields"] for leaf in leaves)
    asked = releases(finished, finished.platform, "matching.query")
    assert all({"field": worlds.BANNED, "rule": "R20"} in leaf["refused"] for leaf in asked)


def test_firms_without_consent_are_left_out_of_matching_and_counted_by_rule(finished: World) -> None:
    (leaf,) = releases(finished, finished.platform, "matching.query", "bank-1")
    left_out = sum(entry["firms"] for entry in leaf["excluded"])
    assert left_out > 500 and leaf["rows"] + left_out == finished.layout.inputs.platform.rows


def revoked_is_gone_from_round_three(world: World) -> None:
    """Check that the one firm that withdrew after round 2 is behind the release of round 2 and not of round 3."""
    home = world.layout.home(world.platform)
    (line,) = (home / "revocations.jsonl").read_bytes().splitlines()
    consent_id = canonical.decode_fragment(line)["record"]["consent_id"]
    by_round = {leaf["round"]: leaf for leaf in releases(world, world.platform, ROUND, "bank-1")}
    assert by_round[3]["rows"] == by_round[2]["rows"] - 1 == by_round[1]["rows"] - 1
    behind = {number: consents_behind(world, world.platform, leaf) for number, leaf in by_round.items()}
    assert behind[1] == behind[2] == behind[3] | {consent_id} and consent_id not in behind[3]


def live_rows(world: World, bank: str) -> list[int]:
    """Return the live training rows of each round as the platform noted them."""
    return [int(note.split()[3]) for _, note in world.ran.events if note.startswith("round ") and f" {bank} " in note]


def test_a_firm_that_withdraws_after_round_two_is_gone_from_round_three(finished: World) -> None:
    revoked_is_gone_from_round_three(finished)
    before, same, after = live_rows(finished, "bank-1")
    assert before == same == after + 1
    assert len(set(live_rows(finished, "bank-2"))) == 1


def test_a_gate_that_ignores_withdrawals_keeps_the_firm_in_round_three_and_the_auditor_sees_it(
    province: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Blind(decision.Judge):
        """A gate that does not see withdrawals."""

        def __init__(self, needed: Any, request: Any, registry: Any, *rest: Any, **named: Any) -> None:
            super().__init__(needed, request, replace(registry, ended={}), *rest, **named)

    monkeypatch.setattr(decision, "Judge", Blind)
    careless = worlds.run(worlds.lay(tmp_path / "run", province, **worlds.SHORT))
    with pytest.raises(AssertionError):
        revoked_is_gone_from_round_three(careless)
    assert len(set(live_rows(careless, "bank-1"))) == 1
    monkeypatch.undo()
    failed = {check.name for check in verify_run(careless.layout.folder).failures}
    assert failed == {"consents"}
