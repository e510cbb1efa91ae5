"""What holds for every request: laws of the rule book, and a second, naive one that must say the same."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from random import Random
from typing import Any

import consents as w
import pytest
from naive_gate import FIRST, LAST, NAMES, ROWS, Case, a_question, mostly, naive, needs_consent
from torture import repeats

from lianxin.crypto import canonical
from lianxin.parties import decision, decision_purposes
from lianxin.parties.decision import Registry, ReleaseRequest


def questions(law: str, has_successors: bool = True) -> Iterator[tuple[Random, Case]]:
    """Yield made-up questions, the same ones each time, with the chance that may change each further."""
    for number in repeats(f"test_decision_laws::{law}"):
        chance = Random(f"{law} {number}")
        yield chance, a_question(chance, has_successors)


def answer(case: Case) -> decision.Decision:
    registry, subject = w.registry_of(*case.records), w.subject_of(w.FIRM)
    grades, terms = {"g": case.grade}, (case.contract, registry, w.CATALOGUE, case.now, case.kind)
    return decision.decide(case.request, subject, *terms, grades, case.used)


@pytest.mark.rule(
    "R01", "R02", "R03", "R04", "R08", "R09", "R11", "R12", "R13", "R15", "R18", "R19", "R20", "R22", "R25"
)
@pytest.mark.rule("R29", "R37", "R38", "R39")
def test_a_second_and_naive_rule_book_says_the_same() -> None:
    seen: Counter[str] = Counter()
    for _, case in questions("oracle"):
        decided = answer(case)
        assert (decided.allow, decided.rule) == naive(case), case
        seen[decided.rule if decided.allow else f"no {decided.rule}"] += 1
    assert {"OPEN", "CONSENT", "DESENSITISED"} <= seen.keys() and seen["OPEN"] + seen["CONSENT"] > 50
    assert {f"no {rule}" for rule in {*FIRST, *LAST} - {"R03*"}} <= seen.keys(), "the questions reach every rule"


def test_a_decision_does_not_depend_on_the_order_of_fields_or_of_consents() -> None:
    for chance, case in questions("order", has_successors=False):
        fields = list(case.request.fields)
        given_ = [record for record in case.records if record["type"] == "consent"]
        ends = [record for record in case.records if record["type"] != "consent"]
        chance.shuffle(fields)
        chance.shuffle(given_)
        again = answer(replace(case, request=replace(case.request, fields=tuple(fields)), records=(*given_, *ends)))
        decided = answer(case)
        assert (again.allow, again.rule) == (decided.allow, decided.rule), case


def test_a_row_crosses_by_a_live_covering_consent_or_by_a_right_that_needs_none() -> None:
    for _, case in questions("rights"):
        decided = answer(case)
        if decided.allow:
            check_right(case, decided)


def check_right(case: Case, decided: decision.Decision) -> None:
    rows = [ROWS[name] for name in case.request.fields]
    if decided.rule == "CONSENT":
        (used,) = decided.consents
        record = next(one for one in case.records if one["type"] == "consent" and one["consent_id"] == used)
        guarded = {
            row["field_name_en"] for row in rows if case.kind != "ENT" or needs_consent(row["field_name_en"], case)
        }
        assert record["not_before"] <= case.now < record["expires_at"] and guarded <= set(record["fields"])
        assert not any(one["type"] == "revocation" and one["consent_id"] == used for one in case.records)
        assert record["recipient"] == case.request.recipient and record["subject_type"] == case.kind
    else:
        assert case.kind == "ENT" and decided.consents == () and not any(row["class"] == "SPI" for row in rows)
        assert decided.rule == ("DESENSITISED" if case.request.mode == "DESENSITISED" else "OPEN")
        assert decided.rule == "DESENSITISED" or all(row["default_release"].startswith("OPEN") for row in rows)
    assert not any(row["class"] == "BAN" or row["default_release"] == "NEVER" for row in rows)


def test_taking_a_consent_away_never_turns_a_refusal_into_a_right() -> None:
    for chance, case in questions("less", has_successors=False):
        gone = f"consent-{chance.randrange(3)}"
        left = tuple(one for one in case.records if one["consent_id"] != gone)
        assert not answer(replace(case, records=left)).allow or answer(case).allow, case


def test_widening_a_request_never_turns_a_refusal_into_a_right() -> None:
    """A desensitised row needs a grade, which a wider mode does not: that mode alone is not compared."""
    modes = ["COMPUTE_ONLY", "SCORE_ONLY", decision.SPLITS, "PLAINTEXT"]
    for chance, case in questions("wider"):
        low, high = sorted(chance.choices(modes, k=2), key=modes.index)
        fields = tuple(dict.fromkeys([*case.request.fields, *chance.sample(NAMES, 2)]))
        wide = answer(replace(case, request=replace(case.request, mode=high, fields=fields)))
        assert not wide.allow or answer(replace(case, request=replace(case.request, mode=low))).allow, case


def test_one_judge_of_many_firms_says_of_each_what_is_said_of_it_alone() -> None:
    """The firms of one release have consents of equal and of different terms, live and ended."""
    asked = [case for _, case in questions("judge")]
    seen: Counter[str] = Counter()
    for start in range(0, len(asked), 10):
        case, firms = asked[start], asked[start : start + 10]
        records = [renamed(record, str(place)) for place, firm in enumerate(firms) for record in firm.records]
        terms = (case.request.fields, case.request, w.registry_of(*records), case.now, w.CATALOGUE, case.kind)
        judge = decision.Judge(*terms, {"g": case.grade})
        for place in (*range(len(firms)), 0):
            subject = f"{w.subject_of(w.FIRM)}{place}"
            decided = judge.decide_firm(subject, case.used)
            assert decided == decision.decide_firm(subject, *terms, case.used, {"g": case.grade})
            seen[decided.rule if decided.allow else "no"] += 1
    assert seen["CONSENT"] and seen["no"]


def renamed(record: dict[str, Any], mark: str) -> dict[str, Any]:
    """Return the record as one of another firm."""
    own = w.subject_of(w.FIRM)
    named = {name: record[name] + mark for name in ("consent_id", "supersedes") if name in record}
    return record | named | ({"subject_key": own + mark} if record["subject_key"] == own else {})


@pytest.mark.rule("R03")
def test_a_superset_of_every_consents_fields_is_denied() -> None:
    for chance, case in questions("superset"):
        extra, subject = chance.choice(NAMES[:13]), w.subject_of(w.FIRM)
        given_ = [one for one in case.records if one["type"] == "consent" and "supersedes" not in one]
        records = [one | {"fields": [name for name in one["fields"] if name != extra]} for one in given_]
        asked = tuple(dict.fromkeys([*case.request.fields, extra]))
        request = replace(case.request, fields=asked, mode="COMPUTE_ONLY")
        assert not decision.decide_firm(subject, asked, request, w.registry_of(*records), case.now, w.CATALOGUE).allow


def test_a_consent_survives_encoding_and_decoding() -> None:
    for _, case in questions("encoding"):
        for record in (one for one in case.records if one["type"] == "consent"):
            data = canonical.encode(record)
            assert canonical.encode(canonical.decode(data)) == data and canonical.decode(data) == record


WORDS = [
    "P4",
    "P7",
    "platform-a",
    "bank-1",
    "PLAINTEXT",
    "DESENSITISED",
    "g",
    "",
    "\u2028",
    "party",
    "field",
    "use",
    *NAMES,
]
KEYS = ["type", "fields", "provider", "model", "accepted", "risk_ppm", "classes_above_ppm", "parties", "catalogues",
        "expires_at", "version", "party", "field", "use"]  # fmt: skip


def junk(chance: Random, depth: int = 3) -> Any:
    """Any value that a canonical record can hold, and None, which it cannot."""
    kind = chance.randrange(6 if depth else 4)
    if kind == 4:
        return [junk(chance, depth - 1) for _ in range(chance.randrange(3))]
    if kind == 5:
        return {chance.choice(KEYS + WORDS): junk(chance, depth - 1) for _ in range(chance.randrange(4))}
    return (None, chance.random() < 0.5, chance.randrange(-1, 60_000), chance.choice(WORDS))[kind]


@pytest.mark.rule("R13")
def test_every_well_typed_request_has_an_answer() -> None:
    registry, subject = w.registry_of(w.consent_record()), w.subject_of(w.FIRM)
    for chance, case in questions("total"):
        one = case.request
        words = [mostly(chance, *chance.sample(WORDS, 1), text) for text in (one.provider, one.recipient, one.purpose)]
        request = ReleaseRequest(
            *words, *chance.sample(WORDS, 2), tuple(chance.sample(WORDS, chance.randrange(4))), "g"
        )
        request = chance.choice([request, replace(one, mode=chance.choice(WORDS)), replace(one, grade="g")])
        contract = chance.choice(
            [case.contract, {key: junk(chance) for key in KEYS}, case.contract | {"fields": junk(chance)}]
        )
        grades = {"g": chance.choice([case.grade, junk(chance), case.grade | {chance.choice(KEYS): junk(chance)}])}
        now, kind = mostly(chance, w.NOW, *WORDS), mostly(chance, case.kind, *WORDS)
        decided = decision.decide(request, subject, contract, registry, w.CATALOGUE, now, kind, grades)
        assert decided.rule and (decided.allow or not decided.consents)


@pytest.mark.rule("R13")
def test_what_is_no_contract_is_refused_without_an_error() -> None:
    request = w.request_of("staff_count")
    for chance, _ in questions("junk"):
        odd = {key: junk(chance) for key in chance.sample(["fields", "parties", "catalogues", "expires_at"], 2)}
        for contract in (odd, w.contract_of() | odd):
            decided = decision.decide_field("staff_count", request, contract, w.CATALOGUE, w.NOW)
            is_later = isinstance(odd.get("expires_at"), str) and odd["expires_at"] > w.NOW
            assert decided == decision.Decision(False, decided.rule) or (is_later and contract != odd)


# ---- ceilings


def lasting(purpose: str, days: int, **changes: Any) -> dict[str, Any]:
    end = datetime(2026, 1, 1) + timedelta(days=days)
    times = {"not_before": "2026-01-01T00:00:00Z", "expires_at": end.strftime("%Y-%m-%dT%H:%M:%SZ")}
    return {"purpose": purpose} | times | changes


@pytest.mark.rule("R38")
@pytest.mark.parametrize(
    ("purpose", "days", "uses"),
    [("P1", 30, 0), ("P2", 30, 1), ("P3", 1200, 40), ("P4", 730, 0), ("P5", 365, 0), ("P6", 180, 0), ("P7", 365, 0),
     ("P8", 90, 20)],
)  # fmt: skip
def test_a_consent_lasts_and_serves_no_longer_than_its_purpose(purpose: str, days: int, uses: int) -> None:
    limit = {"max_uses": uses} if uses else {}
    assert decision_purposes.ceiling_fault(lasting(purpose, days, **limit)) == ""
    assert f"at most {days} days" in decision_purposes.ceiling_fault(lasting(purpose, days + 1, **limit))
    assert decision_purposes.check_ceiling(lasting(purpose, days + 1, **limit)) == "R38"
    if uses:
        for over in ({}, {"max_uses": uses + 1}):
            assert f"at most {uses} uses" in decision_purposes.ceiling_fault(lasting(purpose, days, **over))


@pytest.mark.rule("R01")
@pytest.mark.parametrize(
    "record", [{}, lasting("P9", 1), lasting("P4", 0), lasting("P4", 1, max_uses=True), lasting("P4", 1, expires_at=3)]
)
def test_a_consent_whose_limits_cannot_be_read_has_a_fault(record: dict[str, Any]) -> None:
    assert decision_purposes.ceiling_fault(record).count(";") == 1
    assert decision_purposes.check_ceiling(record) == ("R38" if record.get("purpose") == "P4" else "R01")


def test_an_empty_registry_opens_nothing_that_needs_a_consent() -> None:
    decided = decision.decide_firm(
        w.subject_of(w.FIRM), ("staff_count",), w.request_of(), Registry(), w.NOW, w.CATALOGUE
    )
    assert decided == decision.Decision(False, "R39", True)


@pytest.mark.rule("R19")
@pytest.mark.parametrize("class_", ["PUB", "LIM", "BIZ", "PI", "SPI"])
def test_a_field_is_open_by_its_class_whatever_its_release_says(class_: str) -> None:
    """A catalogue that contradicts itself is refused at a node's start; here it opens nothing all the same."""
    header = w.CATALOGUE.to_csv_bytes().decode("utf-8-sig").splitlines()[0].split(",")
    row = {
        "field_name_en": "salary", "class": class_, "subject_type": "ENT", "id_role": "SA", "default_release": "OPEN",
        "legal_basis": "consent", "desens_if_no_auth": "drop",
    }  # fmt: skip
    text = "\n".join([",".join(header), ",".join(row.get(name, "") for name in header)]) + "\n"
    catalogue = decision.Catalogue.from_csv_bytes(text.encode())
    listed = [{"provider": "platform-a", "field": "salary", "use": "feature"}]
    contract = w.contract_of(fields=listed, catalogues={"platform-a": catalogue.digest})
    for mode in decision.MODES:
        found = decision.decide_field("salary", w.request_of("salary", mode=mode), contract, catalogue, w.NOW)
        is_open = class_ == "PUB" or (class_ == "LIM" and mode in decision.MODES[:2])
        assert not found.allow or found.needs_consent is not is_open
        assert (found.rule, found.needs_consent) == ("OPEN", False) or not is_open or mode == "DESENSITISED"
