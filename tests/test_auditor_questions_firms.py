"""Questions about firms and their consents: what an honest run answers, and how a forged one's answer changes."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import worlds
from evidence_world import BANK, FIRMS, NOW, PLATFORM, RUN, World, a_consent, a_revocation
from questions_world import FOUR, case_of, rows
from test_auditor_releases import desensitised as graded

from lianxin.crypto import canonical
from lianxin.parties import decision_grades
from lianxin.parties.auditor_questions import Case, open_case
from lianxin.parties.auditor_questions_firm import Shown, firm_history
from lianxin.parties.auditor_questions_firms import firms_in_model
from lianxin.parties.auditor_questions_releases import desensitised
from lianxin.parties.auditor_questions_replay import replayable
from lianxin.parties.auditor_questions_sample import sample
from lianxin.parties.ledger_proof import prove_subject
from lianxin.parties.store import Store

FIRM = f"{0:064x}"
finished = worlds.finished


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return case_of(tmp_path_factory.mktemp("honest"))


@pytest.fixture(scope="module")
def run(finished: worlds.World) -> Case:
    return open_case([finished.layout.folder])


def test_the_firms_in_a_model_are_those_of_its_releases(honest: Case, run: Case, finished: worlds.World) -> None:
    told = rows(firms_in_model(honest, RUN))
    assert [row["subject_key"] for row in told] == [f"{n:064x}" for n in range(4)]
    assert all(row["state"] == "ACTIVE" and row["steps"] == ["binning"] for row in told)
    answer = firms_in_model(run, next(iter(run.runs)))
    of_platform = [row for row in rows(answer) if row["provider"] == finished.platform]
    most = max(leaf["rows"] for leaf in finished.leaves(finished.platform, "release") if leaf["step"] == "binning.rows")
    assert len(of_platform) >= most and all(row["subject_key"] for row in of_platform)


def test_a_firm_that_withdrew_since_and_one_that_was_left_out_are_told(tmp_path: Path) -> None:
    later = {"after release": lambda world: world.parties[PLATFORM].ledger.append_registry([a_revocation(1)])}
    told = rows(answer := firms_in_model(case_of(tmp_path, **later), RUN))
    assert [row["state"] for row in told] == ["ACTIVE", "REVOKED", "ACTIVE", "ACTIVE"]
    assert told[1]["withdrawn_at"] == NOW and "1 of them have withdrawn since" in answer.said[0]
    fewer = case_of(tmp_path / "fewer", release={"consents": FOUR[:2], "rows": 2})
    assert len(rows(firms_in_model(fewer, RUN))) == 2


@contextmanager
def opened(world: worlds.World, party: str) -> Iterator[Store]:
    path = world.layout.home(party) / "state" / "store.sqlite"
    store = Store(f"sqlite:///file:{path.resolve()}?mode=ro&uri=true")
    try:
        yield store
    finally:
        store.close()


def test_one_firms_history_is_told_with_the_proof_that_its_provider_wrote(run: Case, finished: worlds.World) -> None:
    party = finished.platform
    subject = rows(firms_in_model(run, next(iter(run.runs))))[-1]["subject_key"]
    with opened(finished, party) as store:
        proof = prove_subject(store, party, subject)
    told = rows(answer := firm_history(run, subject, [proof]))
    releases = [row for row in told if row["what"] == "release"]
    assert [row["leaf"] for row in releases] == [entry["index"] for entry in proof["leaves"]]
    assert releases and all(row["proved"] == "yes" for row in told)
    assert f"{len(releases)} releases hold this firm" in answer.said[0]
    assert all(row["proved"] == "" for row in rows(firm_history(run, subject)) if row["what"] == "release")
    proof["leaves"][0]["leaf"]["operator"] = "operator-nobody"
    [bad] = [row for row in rows(firm_history(run, subject, [proof])) if row["proved"] == "no"]
    assert bad["what"] == "proof" and bad["provider"] == party


def test_a_firms_records_are_told_with_who_signed_them_and_how_it_stands(honest: Case, tmp_path: Path) -> None:
    told = rows(firm_history(honest, f"{4:064x}"))
    assert [(row["what"], row["proved"]) for row in told] == [("consent", "yes"), ("revocation", "yes"), ("state", "")]
    assert told[-1]["detail"].startswith("REVOKED") and told[0]["leaf"] < told[1]["leaf"]
    forged = a_consent(0, signer=FIRMS[f"{1:064x}"], max_uses=3)
    lies = {"consents": [forged, *(a_consent(n) for n in range(1, 4))]}
    case = case_of(tmp_path, **lies)
    told = rows(firm_history(case, FIRM, (), [Shown(PLATFORM, "consent-0", "ACTIVE", NOW)]))
    assert [(row["what"], row["proved"]) for row in told] == [
        ("consent", "no"), ("release", ""), ("state", ""), ("receipt", "yes"),
    ]  # fmt: skip
    assert "2 of 3 uses left" in told[2]["detail"]


def test_a_firm_of_whom_nothing_is_known_has_no_history(honest: Case) -> None:
    assert rows(answer := firm_history(honest, "f" * 64)) == []
    assert any("neither a record nor a proof" in one for one in answer.said)


def test_releases_by_a_measured_grade_are_told_and_judged(
    honest: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert rows(desensitised(honest)) == []
    [good] = rows(desensitised(case_of(tmp_path / "good", **{"after release": graded()})))
    assert good["holds"] and (good["k"], good["level"], good["model"], good["why"]) == (20, 3, "agreement", "")
    spoilt = case_of(tmp_path / "bad", **{"after release": graded(accepted=False)})
    [bad] = rows(desensitised(spoilt))
    assert not bad["holds"] and "R22" in bad["why"]
    monkeypatch.setattr(decision_grades, "_is_accepted", lambda record: True)
    assert rows(desensitised(spoilt))[0]["holds"]


UNFIT_GRADES: dict[str, tuple[dict[str, Any], str]] = {
    "untold": ({"is_told": False}, "no earlier leaf"),
    "unkept": ({"is_kept": False}, "not in evidence"),
    "of another table": ({"table": "2" * 64}, "another table"),
}


@pytest.mark.parametrize("name", sorted(UNFIT_GRADES))
def test_a_grade_that_was_not_measured_or_not_of_this_table_does_not_hold(name: str, tmp_path: Path) -> None:
    lie, told = UNFIT_GRADES[name]
    [row] = rows(desensitised(case_of(tmp_path, **{"after release": graded(**lie)})))
    assert not row["holds"] and told in row["why"]


def test_what_a_replay_needs_and_lacks_is_told(run: Case, honest: Case, tmp_path: Path) -> None:
    told = {(row["party"], row["item"]): row for row in rows(replayable(run))}
    for party in next(iter(run.runs.values())).node_keys:
        held = {item for (one, item), row in told.items() if one == party and row["committed"]}
        assert held >= {"contract", "seed", "catalogue", "registry", "transcript", "software"}
    answer = replayable(honest)
    assert not any(row["committed"] for row in rows(answer) if row["item"] == "seed")
    assert "platform's seed" in answer.said[0]
    seed = {"before release": lambda world: world.parties[BANK].log(
        "contract", event="seed-committed", contract_hash="0" * 64, rule="")}  # fmt: skip
    made = {
        row["party"]: row["committed"] for row in rows(replayable(case_of(tmp_path, **seed))) if row["item"] == "seed"
    }
    assert made == {BANK: True, PLATFORM: False}


def test_a_plan_counts_for_a_replay_where_a_leaf_has_its_hash(tmp_path: Path) -> None:
    plan = {"type": "plan", "version": 1}
    leaf = {"event": "proposed", "contract_hash": "0" * 64, "rule": "", "plan_hash": canonical.record_hash(plan)}
    folder = World(tmp_path, {"before release": lambda world: world.parties[PLATFORM].log("contract", **leaf)}).story()
    file = folder / "parties" / PLATFORM / "evidence" / "plan.json"
    found = []
    for content in (None, plan, plan | {"changed": True}):
        if content is not None:
            file.write_bytes(canonical.encode(content) + b"\n")
        told = {(row["party"], row["item"]): row for row in rows(replayable(open_case([folder])))}
        found.append((told[PLATFORM, "plan"]["committed"], told[PLATFORM, "plan"]["in_evidence"]))
    assert found == [(True, False), (True, True), (True, False)]


def test_a_sample_is_drawn_by_the_seed_and_holds_in_an_honest_run(run: Case, honest: Case) -> None:
    first, again = (rows(sample(run, 2, "mine")) for _ in range(2))
    drawn = [row["release"] for row in first if row["what"] == "release"]
    assert first == again and len(set(drawn)) == 2
    assert drawn != [row["release"] for row in rows(sample(run, 2, "yours")) if row["what"] == "release"]
    for row in first:
        if row["what"] == "release":
            assert row["holds"] and row["signed"] == row["in_scope"] == row["consents"] > 0
    [release, *papers] = rows(sample(honest, 9, "mine"))
    assert release["consents"] == 4 and len(papers) == 3 and all("ask platform" in one["detail"] for one in papers)


FORGED: dict[str, tuple[dict[str, Any], str]] = {
    "not signed": ({"consents": [a_consent(0, signer=FIRMS[f"{1:064x}"]), *(a_consent(n) for n in (1, 2, 3))]}, "R37"),
    "another purpose": ({"consents": [a_consent(0, purpose="P5"), *(a_consent(n) for n in (1, 2, 3))]}, "R03"),
    "another list": ({"release": {"listed": FOUR[:3]}}, "commits to"),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(FORGED))
def test_a_sampled_release_by_a_forged_consent_does_not_hold(name: str, tmp_path: Path) -> None:
    lies, told = FORGED[name]
    release, *_ = rows(answer := sample(case_of(tmp_path, **lies), 5, "mine"))
    assert not release["holds"] and told in release["detail"] and "1 of them do not hold" in answer.said[0]
