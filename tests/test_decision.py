"""The rule book alone, one row a rule. What holds for every request is in test_decision_laws."""

import time
from typing import Any

import consents as w
import pytest

from lianxin.crypto.errors import SignatureRejected
from lianxin.parties import decision
from lianxin.parties.decision import ConsentRejected, Registry

PHONE = {"fields": ["contact_phone"]}


def outcome(case: dict[str, Any]) -> tuple[bool, str]:
    firm = case.get("firm", w.FIRM)
    consents = [w.consent_record(firm, **changes) for changes in case.get("consents", [])]
    records = [*consents, *case.get("more", [])]
    decided = decision.decide(
        w.request_of(*case["fields"], **case.get("request", {})),
        w.subject_of(firm),
        w.contract_of(**case.get("contract", {})) if case.get("contract") != "none" else {},
        w.registry_of(*records),
        case.get("catalogue", w.CATALOGUE),
        case.get("now", w.NOW),
        w.subject_type_of(firm),
        case.get("grades"),
        case.get("uses"),
    )
    return decided.allow, decided.rule


def listed(*pairs: tuple[str, str]) -> dict[str, Any]:
    return {"fields": [{"provider": "platform-a", "field": name, "use": use} for name, use in pairs]}


def pause(kind: str = "pause") -> dict[str, Any]:
    return {"type": kind, "version": 1, "consent_id": "consent-1", "subject_key": w.subject_of(w.FIRM)} | {
        "at": "2026-05-01T00:00:00Z" if kind == "pause" else "2026-05-02T00:00:00Z"
    }


def grade_of(*fields: str, **changes: Any) -> dict[str, Any]:
    return {
        "type": "desensitisation-grade", "version": 1, "provider": "platform-a", "model": "agreement",
        "fields": dict.fromkeys(fields, "band:5"), "risk_ppm": 50_000, "classes_above_ppm": 0, "grade": 4,
        "accepted": True,
    } | changes  # fmt: skip


def graded(*fields: str, consents: tuple[dict[str, Any], ...] = (), **changes: Any) -> dict[str, Any]:
    """A request in mode DESENSITISED for `fields` under a grade of them that `changes` spoil."""
    request = {"mode": "DESENSITISED", "grade": "g"}
    return {
        "fields": fields,
        "request": request,
        "grades": {"g": grade_of(*fields, **changes)},
        "consents": [*consents],
    }


ROLES = [{"party": "platform-a", "role": "platform"}, {"party": "bank-1", "role": "bank"}]
TERMS = {"version": 3, "agreement": "agreement-1", "impact_assessment": "pia-1", "lawful_basis": "consent"}
TO_PLATFORM: dict[str, Any] = {
    "firm": w.FIRM, "fields": ("loan_amt",),
    "request": {"provider": "bank-1", "recipient": "platform-a", "mode": "SCORE_ONLY"},
    "contract": {"parties": ROLES, "catalogues": {"bank-1": w.CATALOGUE.digest},
                 "fields": [{"provider": "bank-1", "field": name, "use": "feature"} for name in ("loan_amt", "match_status")]},
    "consents": [{"provider": "bank-1", "recipient": "platform-a", "fields": ["loan_amt", "match_status"],
                  "mode": "PLAINTEXT"}],
}  # fmt: skip
READ = {"request": {"mode": "PLAINTEXT"}}
APPROVAL: dict[str, Any] = {"contract": {"purpose": "P2", "model": "field_query"}, "request": {"purpose": "P2"}}
SOLE = {"firm": w.SOLE_TRADER, "fields": ("pwr_kwh_12m",)}
TAX = {"firm": w.SOLE_TRADER, "fields": ("ind_tax_amt",)}
TAX_CONSENT = {**w.PERSON, "fields": ["ind_tax_amt"]}
REFUSALS = [
    ("R13", "a field that no catalogue classes", {"fields": ("shoe_size",)}),
    ("R13", "a catalogue other than the contract's", {"fields": ("est_date",), "contract": {"catalogues": {}}}),
    ("R13", "no contract at all", {"fields": ("est_date",), "contract": "none"}),
    ("R20", "a prohibited field", {"fields": ("ban_religion",), "consents": [{"fields": ["ban_religion"]}]}),
    ("R20", "a field that is never released", {"fields": ("bank_acct_no",)}),
    ("R20", "a sole trader's tax without written consent", {**TAX, "consents": [TAX_CONSENT]}),
    ("R01", "a field outside the contract", {"fields": ("biz_scope",)}),
    ("R01", "another purpose than the contract's", {"fields": ("est_date",), "request": {"purpose": "P1"}}),
    ("R01", "a purpose that nobody knows",
     {"fields": ("est_date",), "request": {"purpose": "P9"}, "contract": {"purpose": "P9"}}),
    ("R01", "a person's field for statistics",
     {"fields": ("contact_phone",), "request": {"purpose": "P7"}, "contract": {"purpose": "P7"}}),
    ("R01", "no field", {"fields": ()}),
    ("R11", "a published name as a join key of a model", {"fields": ("legal_rep_name",)}),
    ("R11", "a direct identifier as a feature",
     {"fields": ("uscc",), "contract": listed(("uscc", "feature"))}),
    ("R09", "a recipient outside the contract", {"fields": ("est_date",), "request": {"recipient": "bank-2"}}),
    ("R09", "a provider that is its own recipient", {"fields": ("est_date",), "request": {"recipient": "platform-a"}}),
    ("R09", "personal information without consent", {"fields": ("contact_phone",)}),
    ("R09", "personal information without separate consent", {"fields": ("contact_phone",), "consents": [PHONE]}),
    ("R09", "a person's data under the enterprise's seal",
     {"fields": ("key_person_dishonest_flag",), "consents": [{**w.PERSON, "fields": ["key_person_dishonest_flag"]}]}),
    ("R09", "a sole trader without separate consent", {**SOLE, "consents": [{}]}),
    ("R09", "a sole trader's open field without consent", {"firm": w.SOLE_TRADER, "fields": ("est_date",)}),
    ("R09", "a sole trader under an enterprise's consent",
     {**SOLE, "consents": [{**w.PERSON, "subject_type": "ENT", "signer_role": "legal_rep"}]}),
    ("R09", "a consent given to another provider",
     {"fields": ("contact_phone",), "consents": [{**w.PERSON, **PHONE, "provider": "bank-3"}]}),
    ("R39", "a consent for another recipient",
     {"fields": ("staff_count",), "consents": [{"recipient": "bank-2"}]}),
    ("R39", "a consent for another purpose", {"fields": ("staff_count",), "consents": [{"purpose": "P5"}]}),
    ("R38", "a contract that has run out", {"fields": ("est_date",), "now": "2026-07-01T00:00:00Z"}),
    ("R38", "a contract that has not begun", {"fields": ("est_date",), "now": "2026-04-30T23:59:59Z"}),
    ("R38", "a consent that has run out",
     {"fields": ("staff_count",), "consents": [{"expires_at": w.NOW}]}),
    ("R38", "a consent that has not begun",
     {"fields": ("staff_count",), "consents": [{"not_before": "2026-06-01T00:00:01Z"}]}),
    ("R03", "a mode that nobody knows", {"fields": ("est_date",), "request": {"mode": "REPLICA"}}),
    ("R03", "a row in the mode of statistics", {"fields": ("est_date",), "request": {"mode": "AGGREGATE"}}),
    ("R03", "more fields than the consent names",
     {"fields": ("staff_count", "pwr_kwh_12m"), "consents": [{"fields": ["staff_count"]}]}),
    ("R03", "a wider mode than the consent's",
     {"fields": ("staff_count",), "request": {"mode": "PLAINTEXT"}, "consents": [{}]}),
    ("R03", "a consent that a newer one replaced",
     {"fields": ("staff_count",),
      "consents": [{}, {"consent_id": "consent-2", "supersedes": "consent-1", "purpose": "P5"}]}),
    ("R39", "a trade secret without consent", {"fields": ("staff_count",)}),
    ("R39", "a compute-only secret in plaintext",
     {"fields": ("pwr_kwh_12m",), "request": {"mode": "PLAINTEXT"}, "consents": [{"mode": "PLAINTEXT"}]}),
    ("R12", "a compute-only sensitive field in plaintext",
     {"fields": ("key_person_id_no",), "request": {"mode": "PLAINTEXT"}}),
    ("R12", "sensitive information without consent", {"fields": ("beneficial_owner",)}),
    ("R12", "a person's sensitive data under the enterprise's seal",
     {"fields": ("beneficial_owner",), "consents": [{**w.PERSON, "fields": ["beneficial_owner"]}]}),
    ("R12", "sensitive information without its necessity told",
     {**TAX, "consents": [{"separate_consent": True, "written": True, "impact_text": "x", "fields": ["ind_tax_amt"]}]}),
    ("R12", "an enterprise's secret of a sole trader, impact not told",
     {"firm": w.SOLE_TRADER, "fields": ("staff_count",), "consents": [{"separate_consent": True, "written": True}]}),
    ("R04", "a consent that was withdrawn",
     {"fields": ("staff_count",), "consents": [{}], "more": [w.revocation_record()]}),
    ("R37", "a shareholder's signature for the firm",
     {"fields": ("staff_count",), "consents": [{"signer_role": "shareholder"}]}),
    ("R37", "an agent without a power of attorney",
     {"fields": ("staff_count",), "consents": [{"signer_role": "agent"}]}),
    ("R02", "an unpublished field of low harm without consent", {"fields": ("admin_coercion",)}),
    ("R02", "an unpublished open field in plaintext without consent", {"fields": ("size_class",), **READ}),
    ("R02", "another lawful basis than consent, which no program can check",
     {"fields": ("est_date",), "contract": {**TERMS, "lawful_basis": "public_interest"}}),
    ("R08", "a contract without an agreement", {"fields": ("est_date",), "contract": {**TERMS, "agreement": " "}}),
    ("R08", "a contract of no version known", {"fields": ("est_date",), "contract": {"version": 0}}),
    ("R15", "a contract without an impact assessment",
     {"fields": ("est_date",), "contract": {**TERMS, "impact_assessment": ""}}),
    ("R01", "a category that product matching does not need",
     {"fields": ("dishonest_flag",), "contract": {"purpose": "P6"}, "request": {"purpose": "P6"}}),
    ("R01", "sensitive information for monitoring",
     {"fields": ("beneficial_owner",), "contract": {"purpose": "P3"}, "request": {"purpose": "P3"}}),
    ("R18", "a trade secret as held for the platform's operator",
     {**TO_PLATFORM, "fields": ("match_status",), "request": {**TO_PLATFORM["request"], "mode": "PLAINTEXT"}}),
    ("R38", "a consent that its firm holds back", {"fields": ("staff_count",), "consents": [{}], "more": [pause()]}),
    ("R38", "a consent used as often as it may be",
     {"fields": ("staff_count",), "consents": [{"max_uses": 2}], "uses": {"consent-1": 2}}),
    ("R04", "a withdrawn consent, whatever an older one lacks",
     {"fields": ("staff_count",), "consents": [{}, {"consent_id": "consent-2", "supersedes": "consent-1"}],
      "more": [w.revocation_record(consent_id="consent-2")]}),
    ("R25", "a person's phone as held without written consent",
     {"fields": ("contact_phone",), **READ, "consents": [{**w.PERSON, **PHONE, "mode": "PLAINTEXT"}]}),
    ("R25", "a sole trader's open field as held without written consent",
     {"firm": w.SOLE_TRADER, "fields": ("est_date",), **READ,
      "consents": [{**w.PERSON, "fields": ["est_date"], "mode": "PLAINTEXT"}]}),
    ("R29", "a sole trader's row for statistics",
     {"firm": w.SOLE_TRADER, "fields": ("est_date",), "request": {"purpose": "P7"}, "contract": {"purpose": "P7"},
      "consents": [{**w.PERSON, "fields": ["est_date"], "purpose": "P7"}]}),
    ("R22", "no grade named", {"fields": ("staff_count",), "request": {"mode": "DESENSITISED"}}),
    ("R22", "a grade that nobody measured", {**graded("staff_count"), "grades": {}}),
    ("R22", "a grade that is not accepted", graded("staff_count", accepted=False)),
    ("R22", "a risk above one in twenty, whatever is claimed", graded("staff_count", risk_ppm=50_001)),
    ("R22", "classes above the threshold, whatever is claimed", graded("staff_count", classes_above_ppm=1)),
    ("R22", "another provider's grade", graded("staff_count", provider="platform-b")),
    ("R22", "a grade of other fields", {**graded("total_assets"), "fields": ("staff_count",)}),
    ("R22", "a field that the policy drops", graded("staff_count", fields={"staff_count": "drop"})),
    ("R22", "a grade for an enclave", graded("staff_count", model="enclave")),
    ("R22", "what is no grade record", graded("staff_count", type="checkpoint")),
    ("R39", "a compute-only secret desensitised", graded("pwr_kwh_12m")),
    ("R09", "personal information desensitised without consent", graded("contact_phone")),
    ("R03", "personal information desensitised under a lower mode",
     graded("contact_phone", consents=({**w.PERSON, **PHONE, "mode": "SCORE_ONLY"},))),
    ("R09", "a sole trader desensitised without consent", {**graded("est_date"), "firm": w.SOLE_TRADER}),
    ("R09", "a shareholder's name without his consent", {"fields": ("shareholder_names",), **APPROVAL}),
]  # fmt: skip
RIGHTS = [
    ("OPEN", "a published field as held", {"fields": ("est_date", "uscc"), "contract": {"model": "field_query"}, **READ}),
    ("OPEN", "who represents the firm, for its approval", {"fields": ("legal_rep_name", "dse_names"), **APPROVAL}),
    ("OPEN", "a contract with all its terms", {"fields": ("est_date",), "contract": TERMS}),
    ("CONSENT", "a bank's field scored by the platform", TO_PLATFORM),
    ("CONSENT", "a consent taken up again",
     {"fields": ("staff_count",), "consents": [{}], "more": [pause(), pause("resume")]}),
    ("CONSENT", "a consent with a use left",
     {"fields": ("staff_count",), "consents": [{"max_uses": 2}], "uses": {"consent-1": 1}}),
    ("CONSENT", "a firm's phone as held by written consent",
     {"fields": ("contact_phone",), **READ,
      "consents": [{**w.PERSON, **PHONE, "written": True, "mode": "PLAINTEXT"}]}),
    ("DESENSITISED", "a trade secret by its grade", graded("staff_count", "admin_coercion", "est_date")),
    ("DESENSITISED", "a grade for the public serves a party too", graded("staff_count", model="public")),
    ("CONSENT", "personal information by grade and consent",
     graded("staff_count", "contact_phone", consents=({**w.PERSON, **PHONE, "mode": "DESENSITISED"},))),
    ("OPEN", "an open field in compute mode", {"fields": ("est_date", "size_class")}),
    ("OPEN", "the code as identifier", {"fields": ("uscc",)}),
    ("CONSENT", "a trade secret by its firm's consent", {"fields": ("staff_count", "est_date"), "consents": [{}]}),
    ("CONSENT", "a lower mode than the consent's",
     {"fields": ("staff_count",), "consents": [{"mode": "PLAINTEXT"}]}),
    ("CONSENT", "a secret in plaintext by a plaintext consent",
     {"fields": ("staff_count",), "request": {"mode": "PLAINTEXT"}, "consents": [{"mode": "PLAINTEXT"}]}),
    ("CONSENT", "a sole trader by separate consent", {**SOLE, "consents": [{"separate_consent": True}]}),
    ("CONSENT", "a sole trader's tax by written consent",
     {**TAX, "consents": [{**TAX_CONSENT, "written": True}]}),
    ("CONSENT", "an agent with a power of attorney",
     {"fields": ("staff_count",), "consents": [{"signer_role": "agent", "power_of_attorney_digest": "1" * 64}]}),
    ("CONSENT", "a firm's published phone by separate consent",
     {"fields": ("contact_phone",), "consents": [{**PHONE, "separate_consent": True}]}),
    ("CONSENT", "an older live consent behind a newer withdrawn one",
     {"fields": ("staff_count",), "consents": [{}, {"consent_id": "consent-2"}],
      "more": [w.revocation_record(consent_id="consent-2")]}),
]  # fmt: skip


@pytest.mark.rule(
    "R01", "R02", "R03", "R04", "R08", "R09", "R11", "R12", "R13", "R15", "R18", "R20", "R22", "R25", "R29"
)
@pytest.mark.rule("R37", "R38", "R39")
@pytest.mark.parametrize(("rule", "why", "case"), REFUSALS, ids=[f"{rule}-{why}" for rule, why, _ in REFUSALS])
def test_a_request_without_a_right_is_refused_by_its_rule(rule: str, why: str, case: dict[str, Any]) -> None:
    assert outcome(case) == (False, rule)


@pytest.mark.rule("R19", "R22", "R39")
@pytest.mark.parametrize(("right", "why", "case"), RIGHTS, ids=[f"{right}-{why}" for right, why, _ in RIGHTS])
def test_a_request_with_a_right_is_allowed_by_it(right: str, why: str, case: dict[str, Any]) -> None:
    assert outcome(case) == (True, right)


def test_the_table_of_refusals_shows_the_rules_that_its_marks_name() -> None:
    marks = test_a_request_without_a_right_is_refused_by_its_rule.pytestmark  # type: ignore[attr-defined]
    assert {rule for mark in marks if mark.name == "rule" for rule in mark.args} == {rule for rule, _, _ in REFUSALS}


def test_the_newest_live_consent_that_covers_is_the_one_used() -> None:
    registry = w.registry_of(*(w.consent_record(consent_id=f"consent-{i}") for i in (1, 2)))
    subject, request = w.subject_of(w.FIRM), w.request_of()
    found = decision.decide_firm(subject, ("staff_count",), request, registry, w.NOW, w.CATALOGUE)
    assert found.consents == ("consent-2",)


def test_two_consents_that_cover_only_together_do_not_cover() -> None:
    halves = [{"fields": ["staff_count"]}, {"consent_id": "consent-2", "fields": ["pwr_kwh_12m"]}]
    assert outcome({"fields": ("staff_count", "pwr_kwh_12m"), "consents": halves}) == (False, "R03")


@pytest.mark.parametrize(("used", "allowed"), [(0, True), (1, True), (2, False)])
def test_a_consent_for_two_runs_is_not_used_by_a_third(used: int, allowed: bool) -> None:
    registry = w.registry_of(w.consent_record(max_uses=2))
    decided = decision.decide_firm(
        w.subject_of(w.FIRM), ("staff_count",), w.request_of("staff_count"), registry, w.NOW, w.CATALOGUE, "ENT",
        {"consent-1": used},
    )  # fmt: skip
    assert (decided.allow, decided.rule) == ((True, "CONSENT") if allowed else (False, "R38"))


def test_a_field_without_a_class_is_held_to_a_sensitive_persons_consent() -> None:
    registry = w.registry_of(w.consent_record(fields=["shoe_size"]))
    decided = decision.decide_firm(
        w.subject_of(w.FIRM), ("shoe_size",), w.request_of("shoe_size"), registry, w.NOW, w.CATALOGUE
    )
    assert decided.rule == "R12"


def test_decide_release_splits_the_fields_and_names_those_that_need_consent() -> None:
    request = w.request_of("est_date", "staff_count", "ban_gene", "biz_scope")
    release = decision.decide_release(w.contract_of(), w.CATALOGUE, Registry(), request, w.NOW)
    assert release.allowed == ("est_date", "staff_count")
    assert release.refused == (("ban_gene", "R20"), ("biz_scope", "R01"))
    assert release.needing_consent == ("staff_count",)
    assert release.needed_by("IND") == ("est_date", "staff_count")


def test_a_statistic_needs_no_firms_consent_but_the_contract_and_the_class() -> None:
    request = w.request_of("staff_count", "ban_gene", mode=decision.AGGREGATE)
    release = decision.decide_release(w.contract_of(), w.CATALOGUE, Registry(), request, w.NOW)
    assert (release.allowed, release.needing_consent, release.refused) == (("staff_count",), (), (("ban_gene", "R20"),))


@pytest.mark.rule("R22")
def test_desensitised_mode_names_the_transform_that_was_measured() -> None:
    request = w.request_of(mode="DESENSITISED", grade="g")
    grades = {"g": grade_of("staff_count")}
    decided = decision.decide_field("staff_count", request, w.contract_of(), w.CATALOGUE, w.NOW, grades)
    assert decided == decision.Decision(True, "DESENSITISED", False, "band:5")


@pytest.mark.rule("R05")
def test_a_refused_field_refuses_no_other() -> None:
    request = w.request_of("est_date", "ban_gene", "staff_count")
    release = decision.decide_release(w.contract_of(), w.CATALOGUE, Registry(), request, w.NOW)
    assert release.allowed == ("est_date", "staff_count") and (release.rule, release.refusal) == ("", "R20")


def test_a_release_of_nothing_is_refused_by_the_rule_that_comes_first_in_the_gate() -> None:
    for fields in (("biz_scope", "ban_gene"), ("ban_gene", "biz_scope")):
        release = decision.decide_release(w.contract_of(), w.CATALOGUE, Registry(), w.request_of(*fields), w.NOW)
        assert release.rule == release.refusal == "R20"


WITHOUT: list[tuple[str, str, Any]] = [
    ("R22", "transform_of", lambda *_: "band:5"),
    ("R08", "_term_refusals", lambda *_: {}),
    ("R15", "_term_refusals", lambda *_: {}),
    ("R18", "_field_rule", lambda *_: ""),
    ("R29", "_row_rule", lambda *_: ""),
    ("R25", "_scope_rule", lambda *_: ""),
    ("R37", "_scope_rule", lambda *_: ""),
]


@pytest.mark.parametrize(("rule", "defence", "nothing"), WITHOUT, ids=[f"{rule}-{name}" for rule, name, _ in WITHOUT])
def test_without_its_defence_a_refusal_is_none(
    rule: str, defence: str, nothing: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = [case for name, _, case in REFUSALS if name == rule]
    monkeypatch.setattr(decision, defence, nothing)
    if rule == "R29":
        monkeypatch.setattr(decision, "_scope_rule", nothing)  # asked once more of each consent
    assert any(outcome(case)[0] for case in refused)


@pytest.mark.rule("R04", "R38")
def test_without_its_state_a_withdrawn_consent_would_still_open_the_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    case = {"fields": ("staff_count",), "consents": [{}], "more": [w.revocation_record()]}
    assert outcome(case) == (False, "R04")
    monkeypatch.setattr(Registry, "state_of", lambda *_: "ACTIVE")
    assert outcome(case) == (True, "CONSENT")


def test_the_registry_at_an_epoch_is_a_function_of_its_first_records() -> None:
    records = [w.signed(w.consent_record()), w.signed(w.revocation_record())]
    before, after = (Registry.from_records(records, epoch, w.firm_keys(w.FIRM)) for epoch in (1, 2))
    assert (before.ended, after.ended) == ({}, {"consent-1": "REVOKED"})
    assert before.extended(records[1:], w.firm_keys(w.FIRM)) == after


def test_a_registry_with_an_unsigned_change_is_refused_when_verified() -> None:
    records = [w.signed(w.consent_record())]
    records[0]["record"]["fields"].append("total_assets")
    assert Registry.from_records(records, 1, w.firm_keys(w.FIRM), verify=False).epoch == 1
    with pytest.raises(SignatureRejected):
        Registry.from_records(records, 1, w.firm_keys(w.FIRM))


BAD_REGISTRIES = [
    ("one id twice", [w.consent_record(), w.consent_record()]),
    ("a revocation of nothing", [w.revocation_record()]),
    ("another firm's revocation", [w.consent_record(), w.revocation_record(w.SOLE_TRADER)]),
    ("another firm's supersession",
     [w.consent_record(), w.consent_record(w.SOLE_TRADER, consent_id="consent-2", supersedes="consent-1")]),
    ("a record of no type", [{"version": 1}]),
]  # fmt: skip


@pytest.mark.parametrize(("why", "records"), BAD_REGISTRIES, ids=[why for why, _ in BAD_REGISTRIES])
def test_records_that_do_not_fit_the_registry_are_refused(why: str, records: list[dict[str, Any]]) -> None:
    with pytest.raises(ConsentRejected):
        w.registry_of(*records)


@pytest.mark.parametrize("epoch", [-1, 2])
def test_an_epoch_that_was_not_reached_is_refused(epoch: int) -> None:
    with pytest.raises(ConsentRejected, match="epoch"):
        Registry.from_records([w.signed(w.consent_record())], epoch, w.firm_keys(w.FIRM))


def test_a_record_that_lacks_what_the_gate_reads_is_refused_though_its_firm_signed_it() -> None:
    for name in ("mode", "signer_role", "not_before", "written"):
        record = {key: value for key, value in w.consent_record().items() if key != name}
        with pytest.raises(ConsentRejected):
            Registry.from_records([w.signed(record)], 1, w.firm_keys(w.FIRM))


def test_thirty_thousand_firms_are_decided_in_about_a_second() -> None:
    registry = w.registry_of(w.consent_record())
    fields, request, subject = ("pwr_kwh_12m", "staff_count"), w.request_of(), w.subject_of(w.FIRM)
    started = time.process_time()
    for _ in range(30_000):
        decision.decide_firm(subject, fields, request, registry, w.NOW, w.CATALOGUE, "ENT")
    assert time.process_time() - started < 3.0
