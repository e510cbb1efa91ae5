"""The rule book a second time, the long way, and made-up questions to ask both.

It reads raw rows of the catalogue's CSV and raw records, never a `Field`, a `Registry` or a `Purpose`.
"""

import csv
import io
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import consents as w

from lianxin.parties.decision import MODES, ReleaseRequest

ROWS = {row["field_name_en"]: row for row in csv.DictReader(io.StringIO(w.CATALOGUE.to_csv_bytes().decode()))}
FIRM_CLASSES, ALL = ["PUB", "LIM", "BIZ"], ["PUB", "LIM", "BIZ", "PI", "SPI"]
CLASSES = {"P1": ALL, "P2": ALL, "P3": ALL[:4], "P4": ALL, "P5": ALL, "P6": FIRM_CLASSES, "P7": FIRM_CLASSES, "P8": ALL}
MATCHING = ["C01", "C03", "C06", "C07", *(f"C{n}" for n in range(13, 22)), "C24"]
ABOUT_PEOPLE = ["P1", "P2", "P3", "P8"]
FIRST = ["R13", "R20", "R01", "R11", "R09", "R18", "R08", "R15", "R38", "R02", "R03", "R12", "R39", "R22"]
RANKS = {"COMPUTE_ONLY": 0, "SCORE_ONLY": 1, "DESENSITISED": 2, "SPLITS": 2, "PLAINTEXT": 3}
LAST = ["R03*", "R04", "R38", "R37", "R03", "R12", "R09", "R29", "R20", "R25"]


@dataclass(frozen=True)
class Case:
    """One generated question: `records` in the registry's order, `used` by consent id, `grade` of the one named g."""

    request: ReleaseRequest
    contract: dict[str, Any]
    records: tuple[dict[str, Any], ...]
    kind: str
    now: str
    used: dict[str, int]
    grade: dict[str, Any]


def is_open(row: dict[str, str], case: Case) -> bool:
    if row["default_release"] == "OPEN":
        return row["class"] == "PUB" or case.request.mode in ("COMPUTE_ONLY", "SCORE_ONLY")
    return row["default_release"] == "OPEN_NAME" and row["duty"] == "y" and case.request.purpose in ABOUT_PEOPLE


def is_graded(name: str, case: Case) -> bool:
    one, record = case.request, case.grade
    is_good = record["accepted"] and record["risk_ppm"] <= 50_000 and record["classes_above_ppm"] == 0
    is_ours = one.grade == "g" and record["provider"] == one.provider and record["model"] != "enclave"
    made = record["fields"].get(name, "drop")
    is_shown = made == "keep" and ROWS.get(name, {}).get("class") != "PUB"
    is_own = one.step == "query.answer" and name not in record["quasi"]
    return is_good and is_ours and made != "drop" and not is_shown and not is_own


def naive_field(name: str, case: Case) -> str:
    one, contract, row = case.request, case.contract, ROWS.get(name)
    if row is None:
        return "R13"
    if row["class"] == "BAN" or row["default_release"] == "NEVER":
        return "R20"
    uses = [
        entry["use"] for entry in contract["fields"] if entry["provider"] == one.provider and entry["field"] == name
    ]
    if not uses or one.purpose != contract["purpose"] or row["class"] not in CLASSES.get(one.purpose, []):
        return "R01"
    if one.purpose == "P6" and row["category"].split()[0] not in MATCHING:
        return "R01"
    is_key = row["id_role"] == "DI" and "feature" in uses and contract.get("model") != "field_query"
    if is_key or (row["default_release"] == "OPEN_NAME" and one.purpose not in ABOUT_PEOPLE):
        return "R11"
    role = {entry["party"]: entry["role"] for entry in contract["parties"]}
    if one.recipient == one.provider or one.recipient not in role or one.provider not in role:
        return "R09"
    if role[one.recipient] == "platform" and one.mode == "PLAINTEXT" and row["class"] in ("BIZ", "PI", "SPI"):
        return "R18"
    is_old = contract["version"] in (1, 2)
    for key, rule in (("agreement", "R08"), ("impact_assessment", "R15")):
        if not is_old and not contract[key]:
            return rule
    if case.now < contract["created_at"] or case.now >= contract["expires_at"]:
        return "R38"
    if not is_old and contract["lawful_basis"] != "consent":
        return "R02"
    if one.mode not in RANKS and one.mode != "AGGREGATE":
        return "R03"
    if row["default_release"] == "COMPUTE" and one.mode in ("DESENSITISED", "SPLITS", "PLAINTEXT"):
        return "R12" if row["class"] == "SPI" else "R39"
    return "R22" if one.mode == "DESENSITISED" and not is_graded(name, case) else ""


def needs_consent(name: str, case: Case) -> bool:
    row = ROWS[name]
    if case.request.mode == "AGGREGATE" or is_open(row, case):
        return False
    return case.request.mode != "DESENSITISED" or row["class"] in ("PI", "SPI")


def naive_consent(record: dict[str, Any], need: list[str], case: Case) -> str:
    """The first demand that the consent does not meet, in the order of LAST; R03* for one that was replaced."""
    events = [
        other for other in case.records if other.get("consent_id") == record["consent_id"] and other is not record
    ]
    if any(other["type"] == "revocation" for other in events):
        return "R04"
    if any(other.get("supersedes") == record["consent_id"] for other in case.records):
        return "R03*"
    holds = [other["type"] for other in events if other["type"] in ("pause", "resume")]
    is_used_up = case.used.get(record["consent_id"], 0) >= record.get("max_uses", 10**9)
    if holds[-1:] == ["pause"] or is_used_up or not record["not_before"] <= case.now < record["expires_at"]:
        return "R38"
    kind, one = record["subject_type"], case.request
    allowed = {"ENT": ["legal_rep"], "IND": ["operator"], "NP": ["legal_rep", "operator", "shareholder"]}[kind]
    if record["signer_role"] not in allowed and not (
        record["signer_role"] == "agent" and record.get("power_of_attorney_digest")
    ):
        return "R37"
    if RANKS[one.mode] > RANKS[record["mode"]] or any(name not in record["fields"] for name in need):
        return "R03"
    rows = [ROWS[name] for name in need]
    of_others = [row["class"] for row in rows if row["class"] in ("PI", "SPI") and kind == "ENT"
                 and ("NP" in row["subject_type"] or "ENT" not in row["subject_type"])]  # fmt: skip
    written = [row for row in rows if row["default_release"] == "SEP_WRITTEN"
               or (kind == "IND" and row["class"] == "BIZ" and "IND" not in row["subject_type"])]  # fmt: skip
    sensitive = [row for row in rows if row["class"] == "SPI" or (kind != "ENT" and row in written)]
    personal = [row for row in rows if kind != "ENT" or row["class"] in ("PI", "SPI")]
    is_told = record["separate_consent"] and "necessity_text" in record and "impact_text" in record
    if "SPI" in of_others or (sensitive and not is_told):
        return "R12"
    if record["provider"] != one.provider or kind != case.kind or "PI" in of_others:
        return "R09"
    if [row for row in personal if row not in sensitive] and not record["separate_consent"]:
        return "R09"
    if written and not record["written"]:
        return "R20"
    return "R25" if one.mode == "PLAINTEXT" and personal and not record["written"] else ""


def naive(case: Case) -> tuple[bool, str]:
    """Return whether the row may cross and the right or rule, decided the long way."""
    one = case.request
    rules = [rule for name in one.fields if (rule := naive_field(name, case))]
    if rules or not one.fields:
        return False, min(rules, key=FIRST.index, default="R01")
    need = list(one.fields) if case.kind != "ENT" else [name for name in one.fields if needs_consent(name, case)]
    if one.mode == "AGGREGATE":
        return False, "R03"
    if one.purpose == "P7" and case.kind != "ENT":
        return False, "R29"
    is_score = one.step in ("scoring.points", "scoring.answer", "boosting.score")
    if not need and not (is_score and case.contract["version"] > 3):
        return True, "DESENSITISED" if one.mode == "DESENSITISED" else "OPEN"
    given = [record for record in case.records if record["type"] == "consent"
             and (record["recipient"], record["purpose"]) == (one.recipient, one.purpose)]  # fmt: skip
    shortfalls = [naive_consent(record, need, case) for record in given]
    if "" in shortfalls:
        return True, "CONSENT"
    if shortfalls:
        return False, max(shortfalls, key=LAST.index).rstrip("*")
    rows = [ROWS[name] for name in need]
    classes = [row["class"] for row in rows]
    if case.kind != "ENT":
        is_written = any(row["default_release"] == "SEP_WRITTEN" for row in rows) or (
            case.kind == "IND" and any(row["class"] == "BIZ" and "IND" not in row["subject_type"] for row in rows)
        )
        return False, "R12" if is_written or "SPI" in classes else "R09"
    return False, "R12" if "SPI" in classes else "R09" if "PI" in classes else "R39" if "BIZ" in classes else "R02"


# ---- made-up questions

NAMES = [
    "est_date",
    "size_class",
    "staff_count",
    "pwr_kwh_12m",
    "admin_coercion",
    "contact_phone",
    "ind_tax_amt",
    "uscc",
]
NAMES += ["legal_rep_name", "shareholder_names", "dishonest_flag", "beneficial_owner", "key_person_id_no", "loan_id"]
NAMES += ["ban_gene", "nothing"]
OFTEN = ["est_date", "staff_count", "pwr_kwh_12m", "contact_phone", "admin_coercion"]
TIMES = [f"2026-0{month}-15T00:00:00Z" for month in range(1, 10)]
TERMS = ("agreement", "impact_assessment")


def mostly(chance: Random, value: Any, *others: Any) -> Any:
    return chance.choice([value] * 24 + list(others))


def a_consent(chance: Random, number: int, kind: str, has_successors: bool) -> dict[str, Any]:
    texts = {"necessity_text": "x", "impact_text": "y", "power_of_attorney_digest": "1" * 64}
    limit = {"max_uses": chance.choice([1, 2])} if chance.random() < 0.2 else {}
    older = {"supersedes": f"consent-{number - 1}"} if has_successors and number and chance.random() < 0.15 else {}
    roles = {"ENT": "legal_rep", "IND": "operator", "NP": "shareholder"}
    return w.consent_record(
        consent_id=f"consent-{number}", fields=chance.sample(NAMES[:14], chance.choice([4, 12, 14])),
        mode=chance.choice([*MODES, "PLAINTEXT"]), subject_type=(own := mostly(chance, kind, "ENT", "IND", "NP")),
        separate_consent=mostly(chance, True, False, False), written=chance.random() < 0.5,
        expires_at=chance.choice(TIMES[4:]), purpose=chance.choice(["P4", "P4", "P4", "P2", "P7"]),
        recipient=mostly(chance, "bank-1", "bank-2"), provider=mostly(chance, "platform-a", "bank-3"),
        signer_role=mostly(chance, roles[own], "legal_rep", "operator", "shareholder", "agent"),
        **{name: text for name, text in texts.items() if chance.random() < 0.8}, **limit, **older,
    )  # fmt: skip


def a_registry(chance: Random, kind: str, has_successors: bool) -> tuple[dict[str, Any], ...]:
    records = [a_consent(chance, number, kind, has_successors) for number in range(chance.choice([0, 1, 1, 2, 3, 4]))]
    subject, ids = w.subject_of(w.FIRM), [record["consent_id"] for record in records]
    for name in ids:
        if chance.random() < 0.1:
            records.append(w.revocation_record(consent_id=name))
        for kind_of, at in (("pause", TIMES[0]), ("resume", TIMES[1])):
            if chance.random() < 0.1:
                records.append({"type": kind_of, "consent_id": name, "subject_key": subject, "at": at})
    return tuple(records)


def a_contract(chance: Random) -> dict[str, Any]:
    roles = [("platform-a", "platform"), ("bank-1", "bank")], [("platform-a", "bank"), ("bank-1", "platform")]
    return w.contract_of(
        version=chance.choice([1, 2, 3, 3, 4]), purpose=chance.choice(["P4", "P4", "P4", "P2", "P2", "P6", "P7", "P3"]),
        model=chance.choice(["scorecard", "field_query"]), lawful_basis=mostly(chance, "consent", "emergency"),
        parties=[{"party": party, "role": role} for party, role in mostly(chance, roles[0], roles[1])],
        **{name: mostly(chance, "a-1", "") for name in TERMS},
    )  # fmt: skip


def a_question(chance: Random, has_successors: bool = True) -> Case:
    """Return one made-up question; most of it is in order, so that many reach the firm and its consents."""
    contract, kind = a_contract(chance), chance.choice(["ENT", "ENT", "IND", "NP"])
    names = OFTEN if chance.random() < 0.6 else NAMES
    fields = chance.sample(names, chance.choice([1, 1, 2, 3]))
    request = w.request_of(
        *fields, mode=mostly(chance, chance.choice([*RANKS]), "AGGREGATE", "REPLICA"), grade=mostly(chance, "g", ""),
        purpose=mostly(chance, contract["purpose"], "P4", "P9"), recipient=mostly(chance, "bank-1", "bank-2", "platform-a"),
    )  # fmt: skip
    grade = {
        "type": "desensitisation-grade", "provider": mostly(chance, "platform-a", "bank-1"),
        "accepted": mostly(chance, True, False), "risk_ppm": mostly(chance, 50_000, 50_001),
        "classes_above_ppm": mostly(chance, 0, 1), "model": mostly(chance, "agreement", "public", "enclave"),
        "fields": {name: mostly(chance, "band:5", "drop") for name in fields if chance.random() < 0.9},
    }  # fmt: skip
    used = {f"consent-{number}": chance.randrange(3) for number in range(4)}
    records, now = a_registry(chance, kind, has_successors), mostly(chance, TIMES[4], TIMES[5], TIMES[3], TIMES[6])
    grade["quasi"] = [name for name in fields if chance.random() < 0.8]
    grade["fields"] |= {name: "keep" for name in grade["fields"] if chance.random() < 0.1}
    request = replace(request, step=chance.choice(["train", "query.answer", "scoring.points", "scoring.answer"]))
    return Case(request, contract, records, kind, now, used, grade)
