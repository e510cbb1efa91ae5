"""The rule book alone: one row a rule, and laws that hold for every request."""

import time
from typing import Any

import consents as w
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lianxin.crypto import canonical
from lianxin.crypto.errors import SignatureRejected
from lianxin.parties import decision
from lianxin.parties.decision import MODES, Catalogue, CatalogueRejected, ConsentRejected, Registry

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
    )
    return decided.allow, decided.rule


def listed(*pairs: tuple[str, str]) -> dict[str, Any]:
    return {"fields": [{"provider": "platform-a", "field": name, "use": use} for name, use in pairs]}


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
    ("R02", "an open field in plaintext without consent", {"fields": ("est_date",), "request": {"mode": "PLAINTEXT"}}),
]  # fmt: skip
RIGHTS = [
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


@pytest.mark.parametrize(("rule", "why", "case"), REFUSALS, ids=[f"{rule}-{why}" for rule, why, _ in REFUSALS])
def test_a_request_without_a_right_is_refused_by_its_rule(rule: str, why: str, case: dict[str, Any]) -> None:
    assert outcome(case) == (False, rule)


@pytest.mark.parametrize(("right", "why", "case"), RIGHTS, ids=[f"{right}-{why}" for right, why, _ in RIGHTS])
def test_a_request_with_a_right_is_allowed_by_it(right: str, why: str, case: dict[str, Any]) -> None:
    assert outcome(case) == (True, right)


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


def test_desensitised_mode_names_the_catalogues_transform() -> None:
    decided = decision.decide_field("staff_count", w.request_of(mode="DESENSITISED"), w.contract_of(), w.CATALOGUE)
    assert decided.transform == w.CATALOGUE["staff_count"].transform != "none"


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


def test_a_catalogue_gives_back_its_bytes_and_is_known_by_their_digest() -> None:
    data = w.CATALOGUE.to_csv_bytes()
    again = Catalogue.from_csv_bytes(data)
    assert (again.to_csv_bytes(), again.digest, dict(again)) == (data, w.CATALOGUE.digest, dict(w.CATALOGUE))
    assert again == w.CATALOGUE and again != Catalogue.from_csv_bytes(data + b"\n")


HEADER = "field_name_en,class,subject_type,id_role,default_release\n"
BAD_CATALOGUES = [
    (b"\xff\xfe", "UTF-8"),
    (b"name,class\n", "line 1 has no column field_name_en"),
    ((HEADER + "x,BIZ\n").encode(), "line 2 has another number of columns"),
    ((HEADER + "x,SECRET,ENT,NI,AUTH\n").encode(), "line 2, column class"),
    ((HEADER + "x,BIZ,ENT,NI,AUTH\nx,BIZ,ENT,NI,AUTH\n").encode(), "line 3, column field_name_en: this id appears"),
    ((HEADER + "х,BIZ,ENT,NI,AUTH\n").encode(), "line 2, column field_name_en: use"),
    ((HEADER + "x,BIZ,ENT|ENT,NI,AUTH\n").encode(), "line 2, column subject_type"),
    ((HEADER + "x,BIZ,ENT,NI,MAYBE\n").encode(), "line 2, column default_release"),
]


@pytest.mark.parametrize(("data", "message"), BAD_CATALOGUES)
def test_a_bad_catalogue_is_refused_by_line_and_column(data: bytes, message: str) -> None:
    with pytest.raises(CatalogueRejected, match=message):
        Catalogue.from_csv_bytes(data)


NAMES = ["est_date", "size_class", "staff_count", "pwr_kwh_12m", "admin_coercion", "contact_phone", "ind_tax_amt"]
NAMES += ["legal_rep_name", "ban_gene", "key_person_id_no"]
TIMES = [f"2026-0{month}-15T00:00:00Z" for month in range(1, 10)]
modes = st.sampled_from(MODES)
field_sets = st.lists(st.sampled_from(NAMES), unique=True, min_size=1)
consent_changes = st.fixed_dictionaries(
    {
        "fields": field_sets,
        "mode": st.sampled_from(MODES),
        "separate_consent": st.booleans(),
        "written": st.booleans(),
        "subject_type": st.sampled_from(["ENT", "IND"]),
        "expires_at": st.sampled_from(TIMES[5:]),
        "purpose": st.sampled_from(["P4", "P4", "P5"]),
        "signer_role": st.sampled_from(["legal_rep", "operator"]),
    }
)
registries = st.lists(consent_changes, max_size=4).map(
    lambda rows: [w.consent_record(consent_id=f"consent-{i}", **row) for i, row in enumerate(rows)]
)


@settings(max_examples=400, deadline=None, derandomize=True)
@given(registries, field_sets, field_sets, modes, modes, st.sampled_from(["ENT", "IND"]))
def test_widening_a_request_never_turns_a_refusal_into_a_right(
    records: list[dict[str, Any]], fields: list[str], more: list[str], low: str, high: str, kind: str
) -> None:
    low, high = sorted((low, high), key=MODES.index)
    registry, contract, subject = w.registry_of(*records), w.contract_of(), w.subject_of(w.FIRM)
    narrow = w.request_of(*fields, mode=low)
    wide = w.request_of(*dict.fromkeys([*fields, *more]), mode=high)
    decided = [
        decision.decide(request, subject, contract, registry, w.CATALOGUE, w.NOW, kind) for request in (narrow, wide)
    ]
    assert decided[0].allow or not decided[1].allow


@settings(max_examples=300, deadline=None, derandomize=True)
@given(registries, st.sampled_from(TIMES), st.sets(st.integers(0, 3)), field_sets)
def test_a_consent_that_is_used_is_neither_withdrawn_nor_expired(
    records: list[dict[str, Any]], now: str, revoked: set[int], fields: list[str]
) -> None:
    ended = {f"consent-{i}" for i in revoked if i < len(records)}
    registry = w.registry_of(*records, *(w.revocation_record(consent_id=name) for name in sorted(ended)))
    request = w.request_of(*fields)
    decided = decision.decide_firm(w.subject_of(w.FIRM), fields, request, registry, now, w.CATALOGUE)
    for used in decided.consents:
        record = registry.consents[used].record
        assert used not in ended and record["not_before"] <= now < record["expires_at"]
        assert set(fields) <= set(record["fields"])


@settings(max_examples=300, deadline=None, derandomize=True)
@given(registries, field_sets, st.sampled_from(NAMES))
def test_a_superset_of_every_consents_fields_is_denied(
    records: list[dict[str, Any]], fields: list[str], extra: str
) -> None:
    records = [record | {"fields": sorted(set(record["fields"]) - {extra}) or ["uscc"]} for record in records]
    asked = [*dict.fromkeys([*fields, extra])]
    decided = decision.decide_firm(
        w.subject_of(w.FIRM), asked, w.request_of(*asked), w.registry_of(*records), w.NOW, w.CATALOGUE
    )
    assert not decided.allow


junk = st.recursive(
    st.none() | st.integers() | st.text(max_size=8) | st.just("platform-a"), lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["party", "field", "use", "provider", "platform-a"]), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.dictionaries(st.sampled_from(["fields", "parties", "catalogues", "expires_at"]), junk, min_size=1))
def test_what_is_no_contract_is_refused_without_an_error(odd: dict[str, Any]) -> None:
    odd.pop("expires_at" if isinstance(odd.get("expires_at"), str) else "", None)
    for contract in (odd, w.contract_of() | odd):
        decided = decision.decide_field("staff_count", w.request_of("staff_count"), contract, w.CATALOGUE, w.NOW)
        assert decided == decision.Decision(False, decided.rule) or contract == w.contract_of()


@settings(max_examples=200, deadline=None, derandomize=True)
@given(registries)
def test_a_consent_survives_encoding_and_decoding(records: list[dict[str, Any]]) -> None:
    for record in records:
        data = canonical.encode(record)
        assert canonical.encode(canonical.decode(data)) == data and canonical.decode(data) == record
