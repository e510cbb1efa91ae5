"""The auditor's questions: what an honest run answers, and how a forged one's answer changes."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import worlds
from evidence_world import BANK, FIRMS, NOW, PLATFORM, RUN, World, a_consent
from questions_world import FOUR, case_of, rows

from lianxin.crypto import canonical, signing
from lianxin.parties import (
    auditor_questions_agree,
    auditor_questions_complete,
    auditor_questions_uses,
    consent,
    decision,
)
from lianxin.parties.auditor_questions import Case, QuestionFault, Wanted, open_case
from lianxin.parties.auditor_questions_agree import agree
from lianxin.parties.auditor_questions_complete import complete
from lianxin.parties.auditor_questions_firms import firms_in_model
from lianxin.parties.auditor_questions_messages import learned
from lianxin.parties.auditor_questions_releases import who_got
from lianxin.parties.auditor_questions_sample import sample
from lianxin.parties.auditor_questions_uses import after_revocation

FIRM = f"{0:064x}"
finished = worlds.finished


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return case_of(tmp_path_factory.mktemp("honest"))


@pytest.fixture(scope="module")
def run(finished: worlds.World) -> Case:
    return open_case([finished.layout.folder])


def test_all_releases_of_a_run_are_told_with_what_left_behind_them(run: Case, finished: worlds.World) -> None:
    told = rows(who_got(run, Wanted()))
    for party in (finished.platform, *finished.banks):
        made = [row for row in told if row["provider"] == party]
        leaves = finished.leaves(party, "release")
        assert [row["fields"] for row in made] == [leaf["fields"] for leaf in leaves]
        sent = [leaf for leaf in finished.leaves(party, "envelope") if leaf["direction"] == "out"]
        assert sum(row["messages"] for row in made) == sum(len(leaf["releases"]) for leaf in sent)
        assert all(row["operator"] and row["code_version"].startswith("lianxin ") for row in made)


def test_releases_are_asked_for_by_recipient_field_purpose_time_and_run(run: Case, finished: worlds.World) -> None:
    bank, field = finished.banks[0], "judgment_cnt_36m"
    told = rows(who_got(run, Wanted(bank, field, "P4", "", "2026-01-01", "2026-12-31")))
    assert told and all((row["recipient"], field in row["fields"]) == (bank, True) for row in told)
    assert rows(who_got(run, Wanted(bank, field, "P2"))) == []
    assert rows(who_got(run, Wanted(bank, since="2027-01-01"))) == rows(who_got(run, Wanted(until="2025-12-31"))) == []


def test_a_firm_is_in_the_releases_that_its_consent_stands_behind(honest: Case, tmp_path: Path) -> None:
    [row] = rows(who_got(honest, Wanted(), FIRM))
    assert (row["consent_ids"], row["recipient"], row["messages"]) == (["consent-0"], BANK, 1)
    assert row["refused"] == ["genes (R20)"] and row["forms"] == ["CIPHERTEXT"]
    hidden = case_of(tmp_path, release={"consents": FOUR[1:], "rows": 3})
    assert rows(who_got(hidden, Wanted(), FIRM)) == [] and len(rows(who_got(hidden, Wanted()))) == 2
    [all_of_them] = rows(who_got(honest, Wanted(BANK), all_ids=True))
    assert all_of_them["consent_ids"] == FOUR


def test_a_release_that_was_slipped_in_is_told(honest: Case, tmp_path: Path) -> None:
    extra = {"after release": lambda world: world.parties[BANK].release([], recipient=PLATFORM, fields=["bad_flag"])}
    assert len(rows(who_got(case_of(tmp_path, **extra), Wanted(PLATFORM)))) == 2
    assert len(rows(who_got(honest, Wanted(PLATFORM)))) == 1


def test_an_honest_run_has_used_no_authorisation_that_was_not_live(run: Case, honest: Case) -> None:
    assert rows(after_revocation(run)) == rows(after_revocation(honest)) == []


REVOKED = {"release": {"consents": [*FOUR, "consent-4"]}}
DEAD: dict[str, tuple[dict[str, Any], str, str]] = {
    "revoked": (REVOKED, "consent-4", "REVOKED"),
    "unknown": ({"release": {"consents": [*FOUR[:3], "consent-9"]}}, "consent-9", "INVALID"),
    "expired": (
        {"consents": [*(a_consent(n) for n in range(3)), a_consent(3, expires_at="2026-04-01T00:00:00Z")]},
        "consent-3",
        "EXPIRED",
    ),
    "not begun": (
        {"consents": [*(a_consent(n) for n in range(3)), a_consent(3, not_before="2026-06-01T00:00:00Z")]},
        "consent-3",
        "PAUSED",
    ),
    "used up": (
        {
            "consents": [*(a_consent(n) for n in range(3)), a_consent(3, max_uses=1)],
            "before release": lambda world: world.parties[PLATFORM].release(
                FOUR, recipient=BANK, fields=[], run="run-0"
            ),
        },
        "consent-3",
        "USED_UP",
    ),
}


@pytest.mark.parametrize("name", sorted(DEAD))
def test_a_dead_authorisation_that_was_used_is_told(name: str, tmp_path: Path) -> None:
    lies, what, state = DEAD[name]
    [row] = rows(after_revocation(case_of(tmp_path, **lies), RUN))
    assert (row["authorisation"], row["state"], row["in_registry"]) == (what, state, True)
    assert row["provider"] == PLATFORM and row["rule"].startswith("R")


def test_without_the_registrys_rule_a_use_after_revocation_is_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = case_of(tmp_path, **REVOKED)
    assert [row["authorisation"] for row in rows(after_revocation(case))] == ["consent-4"]
    monkeypatch.setattr(decision.Registry, "state_of", lambda *_: "ACTIVE")
    assert rows(after_revocation(case)) == []


def early_withdrawal() -> dict[str, Any]:
    """Consent 2 is withdrawn a day before the release, by its own signature, and the registry takes it in afterwards."""
    signer = FIRMS[f"{2:064x}"]
    record = consent.make_revocation(
        consent_id="consent-2",
        subject_key=f"{2:064x}",
        revoked_at="2026-04-30T08:00:00Z",
        signer_key=signer.public_hex,
    )
    signed = signing.sign_record(record, [("firm", signer)])
    return {"after release": lambda world: world.parties[PLATFORM].ledger.append_registry([signed])}


def test_a_withdrawal_that_was_taken_in_late_is_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = case_of(tmp_path, **early_withdrawal())
    [row] = rows(answer := after_revocation(case))
    assert (row["authorisation"], row["state"], row["in_registry"]) == ("consent-2", "REVOKED", False)
    assert row["since"] == "2026-04-30T08:00:00Z" and any("before the registry held it" in one for one in answer.said)
    monkeypatch.setattr(auditor_questions_uses, "_withdrawn", lambda own: {})
    assert rows(after_revocation(case)) == []


def test_a_release_under_a_contract_that_is_over_is_told(tmp_path: Path) -> None:
    late = {"after end": lambda world: world.parties[BANK].release([], recipient=PLATFORM, fields=["bad_flag"])}
    [row] = rows(after_revocation(case_of(tmp_path, **late)))
    assert (row["authorisation"], row["state"], row["since"]) == (f"contract of {RUN}", "ENDED", NOW)


def test_what_a_party_was_sent_is_counted_by_form_and_class(honest: Case, run: Case, finished: worlds.World) -> None:
    told = {row["message_type"]: row for row in rows(learned(honest, BANK))}
    assert told["EncryptedLabels"]["fields"] == ["region", "revenue"]
    assert told["EncryptedLabels"]["classes"] == ["BIZ", "PUB"] and told["RunStatus"]["fields"] == []
    bank = finished.banks[0]
    came = [leaf for leaf in finished.leaves(bank, "envelope") if leaf["direction"] == "in"]
    answer = rows(learned(run, bank))
    assert sum(row["messages"] for row in answer) == len(came)
    assert sum(row["bytes"] for row in answer) == sum(leaf["size_bytes"] for leaf in came)


def test_one_message_more_changes_what_was_learned_and_the_plan_stands_beside_it(tmp_path: Path) -> None:
    more = {"after release": lambda world: world.cross(PLATFORM, BANK, "PlatformTags", "PSEUDONYM", [])}
    folder = World(tmp_path, more).story()
    [tags] = [row for row in rows(learned(open_case([folder]), BANK)) if row["message_type"] == "PlatformTags"]
    assert (tags["messages"], tags["planned_messages"]) == (1, -1)
    message = {"step": "binning.count", "sender": PLATFORM, "recipient": BANK, "envelopes": 7, "bytes": 70}
    learns = [{"who": "bank-a", "what": "its own bins", "step": "binning.count", "malicious": "no more"}]
    plan = {"type": "plan", "version": 1, "messages": [message], "learns": learns}
    (folder / "parties" / BANK / "evidence" / "plan.json").write_bytes(canonical.encode(plan) + b"\n")
    told = rows(answer := learned(open_case([folder]), BANK))
    assert {(row["planned_messages"], row["planned_bytes"]) for row in told} == {(7, 70)}
    assert any("bank-a: its own bins" in one for one in answer.said)


def test_without_the_senders_evidence_the_partys_own_leaves_are_told(tmp_path: Path) -> None:
    folder = World(tmp_path).story()
    shutil.rmtree(folder / "parties" / PLATFORM)
    told = rows(answer := learned(open_case([folder]), BANK))
    assert {row["told_by"] for row in told} == {BANK} and all(not row["fields"] for row in told)
    assert any("no evidence of platform was given" in one for one in answer.said)


def test_honest_logs_agree(honest: Case, run: Case) -> None:
    for case in (honest, run):
        told = rows(answer := agree(case))
        assert told and all(row["agree"] for row in told) and {row["what"] for row in told} == {"messages", "heads"}
        assert " 0 stand at one end only" in answer.said[0]


@pytest.mark.parametrize(("side", "leaf_at"), [("in", PLATFORM), ("out", BANK)])
def test_a_message_at_one_end_only_is_told(
    side: str, leaf_at: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = case_of(tmp_path, status={"unlogged": (side,)})
    [row] = [one for one in rows(agree(case)) if one["what"] == "message"]
    assert not row["agree"] and "RunStatus" in row["detail"] and (row["sent"] == 1) == (leaf_at == PLATFORM)
    leaf = case.ledgers[leaf_at].leaves[row["leaf"]]
    assert leaf["message_hash"] == row["message_hash"]
    monkeypatch.setattr(auditor_questions_agree, "_odd", lambda sent, came: set())
    assert all(one["agree"] for one in rows(agree(case)))


def test_a_ledger_that_is_not_as_its_witness_saw_it_is_told(tmp_path: Path) -> None:
    folder = World(tmp_path).story()
    ledger = folder / "parties" / PLATFORM / "evidence" / "ledger.jsonl"
    ledger.write_bytes(ledger.read_bytes().replace(b'"operator-1"', b'"operator-9"', 1))
    odd = [row for row in rows(agree(open_case([folder]))) if not row["agree"]]
    assert [(row["sender"], row["recipient"], row["what"]) for row in odd] == [(PLATFORM, BANK, "heads")]
    broken = {row["what"] for row in rows(complete(open_case([folder]))) if not row["holds"]}
    assert broken == {"heads"}


def test_honest_logs_are_complete(honest: Case, run: Case) -> None:
    for case in (honest, run):
        told = rows(complete(case))
        assert all(row["holds"] for row in told)
        assert {row["what"] for row in told} >= {"leaves", "heads", "sequence", "times"}


def test_a_gap_in_a_senders_numbers_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = case_of(tmp_path, status={"header": {"seq": 7}})
    faults = [row for row in rows(complete(case, PLATFORM)) if row["what"] == "sequence" and row["detail"]]
    assert len(faults) == 1 and "message 7 of vertical/a comes where 1 is due" in faults[0]["detail"]
    monkeypatch.setattr(auditor_questions_complete, "sequence_gaps", lambda own: iter(()))
    assert all(row["holds"] for row in rows(complete(case, PLATFORM)))


def test_leaves_that_were_cut_off_are_told(tmp_path: Path) -> None:
    folder = World(tmp_path).story()
    ledger = folder / "parties" / BANK / "evidence" / "ledger.jsonl"
    ledger.write_bytes(b"".join(ledger.read_bytes().splitlines(True)[:-1]))
    faults = [row["detail"] for row in rows(complete(open_case([folder]), BANK)) if not row["holds"] and row["detail"]]
    assert len(faults) == 1 and "changed, reordered or dropped" in faults[0]


def test_parts_of_two_folders_are_joined_by_party(tmp_path: Path) -> None:
    folder = World(tmp_path).story()
    other = tmp_path / "other" / "parties"
    other.mkdir(parents=True)
    shutil.move(folder / "parties" / BANK, other / BANK)
    joined = open_case([folder, other.parent])
    assert list(joined.ledgers) == [BANK, PLATFORM] and joined.missing == []
    assert open_case([folder]).missing == [BANK]
    with pytest.raises(QuestionFault, match="was given twice"):
        open_case([folder, folder])


def test_evidence_that_cannot_be_asked_is_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(QuestionFault, match="holds no evidence"):
        open_case([tmp_path])
    folder = World(tmp_path).story()
    contract = folder / "parties" / BANK / "evidence" / "contract.json"
    contract.write_bytes(contract.read_bytes().replace(b'"min_rows":4', b'"min_rows":5'))
    with pytest.raises(QuestionFault, match=r"bank-a: contract\.json is not one that all"):
        open_case([folder])


UNKNOWN: dict[str, Any] = {
    "recipient": lambda case: who_got(case, Wanted(recipient="bank-z")),
    "field": lambda case: who_got(case, Wanted(field="shoe_size")),
    "run": lambda case: who_got(case, Wanted(run="run-9")),
    "day": lambda case: who_got(case, Wanted(since="yesterday")),
    "order": lambda case: who_got(case, Wanted(since="2026-02-01", until="2026-01-01")),
    "firm": lambda case: who_got(case, Wanted(), "91110000600037341L"),
    "party": lambda case: learned(case, "bank-z"),
    "model": lambda case: firms_in_model(case, "run-9"),
    "sample": lambda case: sample(case, 0, "mine"),
    "seed": lambda case: sample(case, 1, ""),
}


@pytest.mark.parametrize("name", sorted(UNKNOWN))
def test_what_the_evidence_has_not_is_refused_in_a_sentence(name: str, honest: Case) -> None:
    with pytest.raises(QuestionFault) as fault:
        list(UNKNOWN[name](honest).rows)
    assert "\n" not in str(fault.value) and len(str(fault.value)) > 20
