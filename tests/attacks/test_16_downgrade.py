"""Attack 16: a party, or whoever sits between, moves a run to weaker terms than the ones that were agreed.

Smaller keys, fewer rows behind a statistic, another matching, a lesser form of a named value, an older contract. The
terms are in one signed contract whose hash is in every envelope, with floors that no contract may undercut.
"""

from pathlib import Path
from typing import Any

import audit_world
import pytest
import worlds
from audit_world import POLICY, Told, found, passes_without
from conversations import contract_of
from evidence_world import BANK, PLATFORM, World
from worlds import STEP, Ends

from lianxin.crypto import canonical
from lianxin.crypto.signing import sign_record
from lianxin.federation import contract as contracts
from lianxin.federation import wire
from lianxin.federation.contract import RunContract, decode_contract, parse_contract
from lianxin.federation.errors import GuardRefused, PeerError
from lianxin.federation.session import Session
from lianxin.parties.agreement import approve, encode_signed, join_signatures, open_contract

ends = worlds.ends
WEAKER: dict[str, Any] = {
    "key_bits": 1024, "min_rows": 2, "min_bads": 0, "min_goods": 0, "min_intersection": 1, "matching": "hash",
    "alignment": "none", "chunk_bytes": 1, "rounds": 1000,
}  # fmt: skip


@pytest.mark.parametrize("term", WEAKER)
def test_terms_under_the_floor_are_no_contract_whoever_signed_them(term: str) -> None:
    good = contract_of()
    assert decode_contract(canonical.encode(dict(good.record))).hash == good.hash
    with pytest.raises(PeerError, match=term) as refused:
        decode_contract(canonical.encode({**good.record, term: WEAKER[term]}))
    assert refused.value.rule == "C01"


def test_without_the_floors_a_weak_key_would_be_agreed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contracts, "_INTEGERS", {name: (0, 10**9) for name in contracts._INTEGERS})
    assert parse_contract({**contract_of().record, "key_bits": 1024}).key_bits == 1024


def test_terms_changed_after_a_bank_approved_them_do_not_become_a_contract(ends: Ends) -> None:
    own, approved = ("platform-a", ends.platform.key), approve(ends.contract, "bank-1", ends.bank.key)
    assert open_contract(join_signatures(ends.contract, own, {"bank-1": approved})).hash == ends.contract.hash
    weaker = parse_contract({**ends.contract.record, "min_bads": 1})
    with pytest.raises(PeerError, match="approved another contract") as refused:
        join_signatures(weaker, own, {"bank-1": approved})
    assert refused.value.rule == "C05"
    bank = canonical.decode_fragment(approved)["signatures"]
    moved = sign_record(dict(weaker.record), [own])
    moved["signatures"] += bank
    with pytest.raises(PeerError) as refused:
        open_contract(encode_signed(moved))
    assert refused.value.rule == "C05"


def weaker_end(ends: Ends) -> None:
    """Let the platform's end work under weaker terms of the same run, while the bank keeps to the agreed ones."""
    ends.platform.session.contract = RunContract({**ends.contract.record, "min_bads": 1})


def test_an_envelope_under_weaker_terms_of_the_same_run_is_refused_by_hash(ends: Ends) -> None:
    weaker_end(ends)
    ends.platform.session.send(wire.RunStatus(state="finished"), STEP)
    with pytest.raises(PeerError, match="contract whose hash differs") as refused:
        ends.bank.session.receive(STEP, (wire.RunStatus,), 0.0)
    assert refused.value.rule == "S01" and ends.bank.refusals() == ["S01"]


def test_without_the_hash_in_the_envelope_two_ends_work_under_different_terms(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    weaker_end(ends)
    monkeypatch.setattr(RunContract, "hash", "00" * 32)
    ends.platform.session.send(wire.RunStatus(state="finished"), STEP)
    assert ends.bank.session.receive(STEP, (wire.RunStatus,), 0.0).state == "finished"
    assert ends.platform.session.contract.min_bads < ends.bank.session.contract.min_bads


def raw_as_control(ends: Ends) -> Any:
    number = wire.NamedNumber(name="masked", declared_form=wire.form_number("CONTROL"), value=7)
    return wire.LearningMessage(metrics=[number])


def test_a_masked_value_that_is_called_control_leaves_neither_end(ends: Ends) -> None:
    message = raw_as_control(ends)
    with pytest.raises(GuardRefused) as refused:
        ends.platform.session.send(message, "learning.exchange")
    assert refused.value.rule == "G05"
    ends.platform.put(ends.platform.sealed(message, "learning.exchange"))
    with pytest.raises(PeerError) as heard:
        ends.bank.session.receive("learning.exchange", (wire.LearningMessage,), 0.0)
    assert heard.value.rule == "G05" and ends.bank.refusals() == ["G05"]


def test_without_the_guard_on_forms_the_renamed_value_crosses_without_a_right(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "_form_here", lambda message, field, declared: wire.form_of(field))
    monkeypatch.setattr(wire, "FREE_FORMS", wire.FREE_FORMS | {"DECLARED"})
    ends.platform.session.send(raw_as_control(ends), "learning.exchange")
    message: Any = ends.bank.session.receive("learning.exchange", (wire.LearningMessage,), 0.0)
    assert message.metrics[0].value == 7


def test_a_contract_past_its_end_carries_nothing_more(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    ends.bank.clock.advance(360 * 86400)
    ends.platform.session.send(wire.RunStatus(state="finished"), STEP)
    data = ends.platform.taken()
    with pytest.raises(PeerError) as refused:
        ends.bank.session.accept(data, STEP, (wire.RunStatus,))
    assert refused.value.rule == "S04" and ends.bank.refusals() == ["S04"]
    monkeypatch.setattr(Session, "_check_header", lambda *_arguments: None)
    assert ends.bank.session.accept(data, STEP, (wire.RunStatus,)).state == "finished"  # type: ignore[attr-defined]


# ---- what the auditor says of a bank that signed them all the same

terms = audit_world.terms


@pytest.mark.rule("P04")
def test_the_auditor_judges_the_signed_terms_by_the_policy_in_force_and_names_who_approved(
    tmp_path: Path, terms: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Told(policy={**POLICY, "min_key_bits": 3072}).story(tmp_path)
    [check] = found(run)
    assert (check.name, check.accused, check.rule) == ("policy", BANK, "P04") and check.leaf >= 0
    assert passes_without(run, "policy", monkeypatch)


def test_the_auditor_names_an_envelope_under_other_terms_than_the_signed_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = World(tmp_path, {"status": {"header": {"contract": "0" * 64}}}).story()
    failures = found(run)
    assert {(check.name, check.accused) for check in failures} == {("terms", PLATFORM)}
    assert passes_without(run, "terms", monkeypatch)
