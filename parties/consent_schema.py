"""The closed schemas of everything that a registry of consents holds, and of the notice behind a consent.

A missing or unknown key, another type, an unsorted field list, a recipient that is no single party or an onward transfer
is refused before a signature is looked at (docs/records.md; Personal Information Protection Law 14, 17, 23; rules R03,
R06, R09, R36). Consents of version 1 are those of 0.1 and 0.2; version 2 adds grantors, fetch, the life of the data and what
was shown to the signer.
"""

import re
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any

from lianxin.crypto import canonical
from lianxin.parties.decision import FIELD_ID, MODES, PURPOSES, SUBJECT_TYPES, ConsentRejected
from lianxin.parties.decision_purposes import ceiling_fault
from lianxin.parties.decision_signers import grantors_of, signers_of

SIGNER_ROLES = ("legal_rep", "agent", "operator", "shareholder")
CHANNELS = ("web", "app", "counter", "paper", "interface")
FREQUENCIES = ("daily", "weekly", "monthly", "quarterly", "yearly")
CONSENT_ACTIONS = ("signed", "attested")
NOTICE_PARTS = ("who", "purpose", "method", "kinds", "retention", "rights")
_MOST_TEXT = 4000
_MOST_DAYS = 3650
_MOST_GRANTORS = 16
_Check = Callable[[Any], bool]
_Schema = Mapping[str, _Check]


def _matches(pattern: str) -> _Check:
    compiled = re.compile(pattern, re.ASCII)
    return lambda value: isinstance(value, str) and compiled.fullmatch(value) is not None


def _one_of(*choices: Any) -> _Check:
    return lambda value: any(type(value) is type(choice) and value == choice for choice in choices)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= _MOST_TEXT and bool(value.strip())


def _is_time(value: Any) -> bool:
    return _has_time_shape(value) and _is_instant(value)


@lru_cache(maxsize=4096)
def _is_instant(text: str) -> bool:
    try:
        return datetime.fromisoformat(text) is not None
    except ValueError:
        return False


def _is_date(value: Any) -> bool:
    return _has_date_shape(value) and _is_instant(value)


def _is_count(value: Any) -> bool:
    return type(value) is int and value > 0


def _is_days(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _MOST_DAYS


def _are_fields(value: Any) -> bool:
    is_list = isinstance(value, list) and all(isinstance(name, str) for name in value)
    return is_list and _are_sorted_ids(tuple(value))


@lru_cache(maxsize=1024)
def _are_sorted_ids(names: tuple[str, ...]) -> bool:
    return bool(names) and list(names) == sorted(set(names)) and all(FIELD_ID.fullmatch(name) for name in names)


def _is_object(needed: _Schema, optional: _Schema) -> _Check:
    def is_sound(value: Any) -> bool:
        try:
            check_keys(value, needed, optional)
        except ConsentRejected:
            return False
        return True

    return is_sound


_has_time_shape = _matches(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}Z")
_has_date_shape = _matches(r"\d{4}-\d{2}-\d{2}")
_is_id, _is_hex, _is_flag = _matches(r"[a-z0-9-]{3,64}"), _matches(r"[0-9a-f]{64}"), _one_of(True, False)
_is_language = _matches(r"[a-z]{2}(-[A-Za-z]{2,4})?")
FIRM_KEY: _Schema = {"subject_key": _is_hex, "key": _is_hex}
_SUBJECT: _Schema = {"subject_key": _is_hex, "subject_type": _one_of(*SUBJECT_TYPES)}
_SCOPE: _Schema = {
    "provider": _is_id,
    "recipient": _is_id,
    "purpose": _one_of(*PURPOSES),
    "fields": _are_fields,
    "catalogue_version": _is_text,
    "mode": _one_of(*MODES),
}
_CONSENT: _Schema = {
    "type": _one_of("consent"),
    "version": _one_of(1),
    "consent_id": _is_id,
    "created_at": _is_time,
    "jurisdiction": _one_of("CN"),
    "language": _is_language,
    **_SUBJECT,
    "signer_role": _one_of(*SIGNER_ROLES),
    "signer_key": _is_hex,
    "notice_id": _is_text,
    "notice_hash": _is_hex,
    "separate_consent": _is_flag,
    "written": _is_flag,
    "consent_action": _one_of("signed"),
    **_SCOPE,
    "onward_transfer": _one_of(False),
    "not_before": _is_time,
    "expires_at": _is_time,
    "withdrawal_method": _is_text,
}
_OPTIONAL: _Schema = {
    "supersedes": _is_id,
    "max_uses": _is_count,
    "necessity_text": _is_text,
    "impact_text": _is_text,
    "power_of_attorney_digest": _is_hex,
}
_PROOF: _Schema = {
    "method": _is_text,
    "verifier": _is_text,
    "result": _one_of("passed"),
    "time": _is_time,
    "evidence_digest": _is_hex,
}
_GRANTOR: _Schema = {**_SUBJECT, "role": _one_of(*SIGNER_ROLES), "key": _is_hex}
_GRANTOR_OPTIONAL: _Schema = {"power_of_attorney_digest": _is_hex, "identity_proof": _is_object(_PROOF, {})}
_is_grantor = _is_object(_GRANTOR, _GRANTOR_OPTIONAL)
_ATTESTATION: _Schema = {
    "institution": _is_id,
    "key": _is_hex,
    "method": _is_text,
    "time": _is_time,
    "evidence_digest": _is_hex,
}
_ATTESTED: _Schema = {"attestation": _is_object(_ATTESTATION, {})}


def _are_grantors(value: Any) -> bool:
    return isinstance(value, list) and 0 < len(value) <= _MOST_GRANTORS and all(map(_is_grantor, value))


def _are_persons(value: Any) -> bool:
    is_person = _is_object({"subject_key": _is_hex, "role": _one_of(*SIGNER_ROLES), "key": _is_hex}, {})
    return isinstance(value, list) and 0 < len(value) < _MOST_GRANTORS and all(map(is_person, value))


_CONSENT_2: _Schema = {
    **_CONSENT,
    "version": _one_of(2),
    "grantors": _are_grantors,
    "notice_language": _is_language,
    "consent_action": _one_of(*CONSENT_ACTIONS),
    "fetch": _one_of("ONETIME", "PERIODIC"),
    "data_life_days": _is_days,
}
_OPTIONAL_2: _Schema = {
    **_OPTIONAL,
    **_ATTESTED,
    "channel": _one_of(*CHANNELS),
    "recipient_licence": _is_text,
    "product_code": _is_text,
    "application_ref": _is_text,
    "data_from": _is_date,
    "data_to": _is_date,
    "frequency": _one_of(*FREQUENCIES),
}
_NOTICE: _Schema = {
    "type": _one_of("notice"),
    "version": _one_of(1),
    "notice_id": _is_text,
    "language": _is_language,
    **dict.fromkeys(NOTICE_PARTS, _is_text),
}


def _act(kind: str, *versions: int, **further: _Check) -> _Schema:
    named: _Schema = {"consent_id": _is_id, "subject_key": _is_hex, "reason": _is_text, "signer_key": _is_hex}
    return {"type": _one_of(kind), "version": _one_of(*versions), **named, **further}


_REVOCATION = _act("revocation", 1, 2, revoked_at=_is_time)
_ACTS: Mapping[str, tuple[_Schema, _Schema]] = {
    "revocation": (_REVOCATION, _ATTESTED),
    "pause": (_act("pause", 1, at=_is_time), _ATTESTED),
    "resume": (_act("resume", 1, at=_is_time), _ATTESTED),
    "refusal": (_act("refusal", 1, at=_is_time, recipient=_is_id, purpose=_one_of(*PURPOSES)), _ATTESTED),
    "consent-request": (
        {
            "type": _one_of("consent-request"), "version": _one_of(1), "consent_id": _is_id, "created_at": _is_time,
            "requester": _is_id, "key": _is_hex, **_SUBJECT, **_SCOPE, "not_before": _is_time, "expires_at": _is_time,
            "notice": _is_object(_NOTICE, {}), "fetch": _one_of("ONETIME", "PERIODIC"), "data_life_days": _is_days,
        },
        {"persons": _are_persons} | {name: _OPTIONAL_2[name] for name in (
            "max_uses", "necessity_text", "impact_text", "channel", "recipient_licence", "product_code",
            "application_ref", "data_from", "data_to", "frequency", "supersedes",
        )},
    ),
}  # fmt: skip


def check_keys(record: Any, needed: _Schema, optional: _Schema) -> None:
    """Raise ConsentRejected, naming the key, unless `record` has all `needed` keys, and others only as `optional` says."""
    if not isinstance(record, Mapping):
        raise ConsentRejected("a consent or another record of the registry is an object")
    for name, is_sound in needed.items():
        if name not in record or not is_sound(record[name]):
            raise ConsentRejected(f"{name} is missing or not as docs/records.md says")
    for name in record.keys() - needed.keys():
        if name not in optional:
            raise ConsentRejected("a key is not one that docs/records.md names; remove it")
        if not optional[name](record[name]):
            raise ConsentRejected(f"{name} is not as docs/records.md says")


def check_any_record(record: Any) -> None:
    """Raise ConsentRejected unless `record` is a consent, revocation, request, refusal, pause or resume."""
    kind = record.get("type") if isinstance(record, Mapping) else None
    if isinstance(kind, str) and kind in _ACTS:
        check_keys(record, *_ACTS[kind])
        _check_attestation(record)
        if kind == "consent-request":
            _check_terms(record)
            _check_ceiling(record)
    else:
        check_consent_record(record)


def check_consent_record(record: Any) -> None:
    """Raise ConsentRejected unless `record` is a consent of docs/records.md; one of version 2 within its ceilings too."""
    is_second = isinstance(record, Mapping) and record.get("version") == 2
    check_keys(record, *((_CONSENT_2, _OPTIONAL_2) if is_second else (_CONSENT, _OPTIONAL)))
    _check_terms(record)
    if is_second:
        _check_ceiling(record)
        _check_attestation(record)
        _check_grantors(record)


def check_revocation_record(record: Any) -> None:
    """Raise ConsentRejected unless `record` is a revocation of docs/records.md."""
    check_keys(record, *_ACTS["revocation"])
    _check_attestation(record)


def check_notice(notice: Any) -> str:
    """Return the SHA-256, in hex, of a notice that says all that R06 asks for; raises ConsentRejected naming the key.

    Who asks, for which purpose, by which method, which kinds of data, kept how long, and how to exercise one's rights
    (Personal Information Protection Law 17).
    """
    check_keys(notice, _NOTICE, {})
    return canonical.record_hash(dict(notice))


def _check_terms(record: Mapping[str, Any]) -> None:
    if record["provider"] == record["recipient"]:
        raise ConsentRejected("a consent's recipient is its provider; name the one institution that receives")
    if not record["created_at"] <= record["not_before"] < record["expires_at"]:
        raise ConsentRejected("a consent's created_at, not_before and expires_at are not in this order")
    if "fetch" not in record:
        return
    if record["fetch"] == "ONETIME" and record.get("max_uses") != 1:
        raise ConsentRejected("a consent to fetch once has max_uses 1; write it, or fetch PERIODIC")
    if (record["fetch"] == "PERIODIC") != ("frequency" in record):
        raise ConsentRejected("frequency goes with fetch PERIODIC, and with no other")
    if record.get("data_from", "") > record.get("data_to", "9999"):
        raise ConsentRejected("data_from is later than data_to")


def _check_ceiling(record: Mapping[str, Any]) -> None:
    if fault := ceiling_fault(record):
        raise ConsentRejected(fault)


def _check_attestation(record: Mapping[str, Any]) -> None:
    attested = "attestation" in record
    if record.get("consent_action", "attested" if attested else "signed") != ("attested" if attested else "signed"):
        raise ConsentRejected("consent_action is attested exactly where an attestation is given")
    if attested and record["signer_key"] != record["attestation"]["key"]:
        raise ConsentRejected("the signer of an attested record is the institution that attests it")
    if attested:
        signers_of(record)
    if record["type"] == "revocation" and attested != (record["version"] == 2):
        raise ConsentRejected("a revocation of version 2 is an attested one")


def _check_grantors(record: Mapping[str, Any]) -> None:
    """Each grantor speaks for itself: the first is the subject, the others are natural persons (R09, R37)."""
    first, *others = record["grantors"]
    named = (first["subject_key"], first["subject_type"], first["role"], first["key"])
    if named != tuple(record[name] for name in ("subject_key", "subject_type", "signer_role", "signer_key")):
        raise ConsentRejected("the first grantor is not the consent's subject with its signer")
    if any(one["subject_type"] != "NP" for one in others) or (others and not record["separate_consent"]):
        raise ConsentRejected("grantors beside the firm are natural persons, who consent separately (R09)")
    if len({one["subject_key"] for one in record["grantors"]}) != len(record["grantors"]):
        raise ConsentRejected("a grantor is named twice")
    if any(one["role"] == "agent" and "power_of_attorney_digest" not in one for one in record["grantors"]):
        raise ConsentRejected("an agent signs under a power of attorney; give its digest (R37)")
    if first.get("power_of_attorney_digest") != record.get("power_of_attorney_digest"):
        raise ConsentRejected("the power of attorney is not the one of the first grantor")
    grantors_of(record)
