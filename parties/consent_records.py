"""Records that a firm or an institution signs: consents of both versions, requests, and what ends or holds a consent.

A consent is immutable: widening purpose, method or kind of data is a new one (Personal Information Protection Law 14,
23; R03, R09). Nothing is ticked beforehand (R36).
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lianxin.parties.consent_schema import check_any_record, check_consent_record, check_notice
from lianxin.parties.decision import ConsentRejected

OWN_SIGNER = {"ENT": "legal_rep", "IND": "operator", "NP": "operator"}
WITHDRAWAL = "lianxin consent revoke"
_CARRIED = (
    "supersedes", "max_uses", "necessity_text", "impact_text", "channel", "recipient_licence", "product_code",
    "application_ref", "data_from", "data_to", "frequency",
)  # fmt: skip
_ASKED = (
    "consent_id", "subject_key", "subject_type", "provider", "recipient", "purpose", "fields", "catalogue_version", "mode",
    "not_before", "expires_at", "fetch", "data_life_days",
)  # fmt: skip


def make_consent(
    *,
    consent_id: str,
    created_at: str,
    subject_key: str,
    subject_type: str,
    signer_key: str,
    provider: str,
    recipient: str,
    purpose: str,
    fields: Iterable[str],
    mode: str,
    not_before: str,
    expires_at: str,
    catalogue_version: str,
    notice_id: str,
    notice_hash: str,
    signer_role: str | None = None,
    separate_consent: bool = False,
    written: bool = False,
    language: str = "zh",
    withdrawal_method: str = WITHDRAWAL,
    **optional: Any,
) -> dict[str, Any]:
    """Return a consent of version 1, ready to be signed with `signer_key`'s secret key.

    Nothing is ticked beforehand (R36): a natural person's consent (IND, NP) only covers personal information when
    `separate_consent` is given, and sensitive information with `necessity_text`, `impact_text` and, where the
    catalogue says so, `written`. `optional` also takes `supersedes`, `max_uses` and `power_of_attorney_digest`. The
    signer is by default the subject itself: legal representative or operator. Raises ConsentRejected.
    """
    record = {
        "type": "consent",
        "version": 1,
        "consent_id": consent_id,
        "created_at": created_at,
        "jurisdiction": "CN",
        "language": language,
        "subject_key": subject_key,
        "subject_type": subject_type,
        "signer_role": signer_role or OWN_SIGNER.get(subject_type, ""),
        "signer_key": signer_key,
        "notice_id": notice_id,
        "notice_hash": notice_hash,
        "separate_consent": separate_consent,
        "written": written,
        "consent_action": "signed",
        "provider": provider,
        "recipient": recipient,
        "purpose": purpose,
        "fields": sorted(set(fields)),
        "catalogue_version": catalogue_version,
        "mode": mode,
        "onward_transfer": False,
        "not_before": not_before,
        "expires_at": expires_at,
        "withdrawal_method": withdrawal_method,
        **optional,
    }
    check_consent_record(record)
    return record


def make_grantor(
    subject_key: str, subject_type: str, key: str, role: str | None = None, **optional: Any
) -> dict[str, Any]:
    """Return one grantor of a consent: whose key is registered under `subject_key`, and in which role it signs."""
    own = role or OWN_SIGNER.get(subject_type, "")
    return {"subject_key": subject_key, "subject_type": subject_type, "role": own, "key": key, **optional}


def answer_request(
    request: Mapping[str, Any],
    grantors: Sequence[Mapping[str, Any]],
    created_at: str,
    *,
    separate_consent: bool,
    written: bool,
    attestation: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the consent of version 2 that gives exactly what `request` asks for, ready for its grantors to sign.

    Both flags are the signer's own and have no default (R36). With an `attestation` the institution signs instead, and
    is the first grantor's key. Raises ConsentRejected.
    """
    check_any_record(request)
    if not grantors:
        raise ConsentRejected("a consent has at least one grantor, the subject itself")
    notice, first = request["notice"], grantors[0]
    record = {
        **{name: request[name] for name in (*_ASKED, *_CARRIED) if name in request},
        "type": "consent", "version": 2, "created_at": created_at, "jurisdiction": "CN", "language": notice["language"],
        "signer_role": first["role"], "signer_key": first["key"], "grantors": [dict(one) for one in grantors],
        "notice_id": notice["notice_id"], "notice_hash": check_notice(notice), "notice_language": notice["language"],
        "separate_consent": separate_consent, "written": written, "onward_transfer": False,
        "consent_action": "attested" if attestation else "signed", "withdrawal_method": WITHDRAWAL,
        "not_before": max(request["not_before"], created_at),
    }  # fmt: skip
    if "power_of_attorney_digest" in first:
        record["power_of_attorney_digest"] = first["power_of_attorney_digest"]
    if attestation:
        record["attestation"] = dict(attestation)
    check_consent_record(record)
    return record


def make_request(*, requester: str, key: str, notice: Mapping[str, Any], **terms: Any) -> dict[str, Any]:
    """Return a consent request, to be signed by the requester's node key; raises ConsentRejected.

    `terms` are the keys of docs/records.md: `consent_id`, `created_at`, `subject_key`, `subject_type`, the scope, the
    limits and what of the optional ones is wanted.
    """
    fixed = {"type": "consent-request", "version": 1, "requester": requester, "key": key, "notice": dict(notice)}
    record = {**terms, **fixed, "fields": sorted(set(terms.get("fields", ())))}
    check_any_record(record)
    return record


def make_revocation(
    *, consent_id: str, subject_key: str, revoked_at: str, signer_key: str, reason: str = "withdrawn by the subject",
    attestation: Mapping[str, Any] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Return a revocation record, ready to be signed with `signer_key`'s secret key. Raises ConsentRejected."""
    named = {"consent_id": consent_id, "subject_key": subject_key, "revoked_at": revoked_at, "signer_key": signer_key}
    return _act("revocation", 2 if attestation else 1, attestation, reason=reason, **named)


def make_pause(*, is_pause: bool = True, reason: str = "asked for by the subject", **named: str) -> dict[str, Any]:
    """Return the record that pauses a consent, or with `is_pause` false resumes it; `named` as in docs/records.md."""
    return _act("pause" if is_pause else "resume", 1, None, reason=reason, **named)


def make_refusal(*, reason: str = "refused by the subject", **named: str) -> dict[str, Any]:
    """Return the refusal of a request: the subject is not asked again for the same within 30 days (R17)."""
    return _act("refusal", 1, None, reason=reason, **named)


def _act(kind: str, version: int, attestation: Mapping[str, Any] | None, **named: str) -> dict[str, Any]:
    record: dict[str, Any] = {"type": kind, "version": version, **named}
    if attestation:
        record["attestation"] = dict(attestation)
    check_any_record(record)
    return record
