"""Who must have signed a record of the registry, whose keys must be registered, and whether both is so.

Who signs what (R09, R37; docs/records.md): a consent of version 1 its subject's registered key; of version 2 every one
of its grantors' registered keys, or instead of them an institution that attests their signatures and does not itself
receive the data; a request the party that asks; everything else one grantor, or the attesting institution. Parties'
keys are registered beside firms' keys, under `party_subject`.

A grantor beside the firm speaks for a natural person's own data: what the register knows of it, and not what the record
says, must be that it is one. Pure, since the auditor judges records by the same functions.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from lianxin.crypto import canonical, merkle, signing
from lianxin.crypto.errors import CryptoError, SignatureRejected
from lianxin.parties.decision_catalogue import SUBJECT_TYPES, Record

KINDS = ("consent", "revocation", "consent-request", "refusal", "pause", "resume")
PERSON_ROLES = ("legal_rep", "operator", "shareholder")
_PERSONS = ("NP", "IND")
_SIGNATURE = re.compile(r"[0-9a-f]{128}")
_ENTRY = {"key", "signer", "signature"}
GATED: dict[str, type] = {"fields": list, "separate_consent": bool, "written": bool} | dict.fromkeys(
    ("provider", "recipient", "purpose", "mode", "subject_type", "signer_role", "not_before", "expires_at"), str
)


class ConsentRejected(CryptoError):
    """A consent or another record of the registry breaks the schema of docs/records.md, or does not fit the registry."""


class Signer(NamedTuple):
    """Who must have signed: under whose subject key the `key` is registered, and the `label` in the signature list."""

    subject: str
    key: str
    label: str


class Grantor(NamedTuple):
    """Who gives a consent: with which `key` ("" where an institution signs for it), as what; is it beside the firm?"""

    subject: str
    key: str
    kind: str
    is_beside: bool


def party_subject(party: str, key: str) -> str:
    """Return the subject key, in hex, under which a party's node key stands in the register of keys."""
    return hashlib.sha256(f"lianxin/party-key\x00{party}\x00{key}".encode()).hexdigest()


def key_lines(keys: Mapping[str, str], kinds: Mapping[str, str]) -> Iterator[bytes]:
    """Yield the canonical line of each registered key, in order of subject keys: those of `firm_keys.jsonl`.

    `kinds` says what is known of whose key it is: ENT, IND or NP.
    """
    for subject in sorted(keys):
        kind = {"kind": kinds[subject]} if subject in kinds else {}
        yield canonical.encode({"subject_key": subject, "key": keys[subject], **kind})


def keys_root(keys: Mapping[str, str], kinds: Mapping[str, str]) -> str:
    """Return what a `firm-keys` leaf commits to: the RFC 9162 root, in hex, over `key_lines` of all registered keys."""
    return merkle.root_of(key_lines(keys, kinds)).hex()


def signers_of(record: Record) -> tuple[Signer, ...]:
    """Return who must have signed a record, by what it says itself; whether these keys are registered is not judged.

    Raises ConsentRejected for a record of no kind of the registry, or one whose grantors are not who it is about.
    """
    try:
        kind, version = record["type"], record["version"]
        if kind not in KINDS:
            raise ConsentRejected("a record is of no kind that a registry holds")
        if "attestation" in record:
            return (_attester_of(record),)
        if kind == "consent-request":
            return (_party_signer(record["requester"], record["key"]),)
        if kind == "consent" and version > 1:
            return _grantors_sign(record)
        label = "" if kind in ("consent", "revocation") else record["subject_key"]
        return (Signer(record["subject_key"], record["signer_key"], label),)
    except (KeyError, TypeError, AttributeError, ValueError, IndexError):
        raise ConsentRejected("a record is no consent or revocation with a subject and a signer") from None


def grantors_of(record: Record) -> tuple[Grantor, ...]:
    """Return who gives a consent, nobody for another record; raises ConsentRejected as `signers_of`.

    An institution attests for grantors whose identity was proved, each of them (R37).
    """
    try:
        if record["type"] != "consent":
            return ()
        if record["version"] == 1:
            return (Grantor(record["subject_key"], record["signer_key"], record["subject_type"], False),)
        is_attested = "attestation" in record
        if is_attested and any("identity_proof" not in one for one in record["grantors"]):
            raise ConsentRejected("an attested consent says how each grantor's identity was proved (R37)")
        if any(one["role"] not in PERSON_ROLES for one in record["grantors"][1:]):
            raise ConsentRejected("a person beside the firm signs in a role of its own, and for itself (R37)")
        return tuple(
            Grantor(one["subject_key"], "" if is_attested and not at else one["key"], one["subject_type"], at > 0)
            for at, one in enumerate(record["grantors"])
        )
    except (KeyError, TypeError, AttributeError, ValueError, IndexError):
        raise ConsentRejected("a record is no consent or revocation with a subject and a signer") from None


def _attester_of(record: Record) -> Signer:
    """An institution attests no consent of which it is the recipient itself: it would help itself (R37)."""
    named = record["attestation"]
    if record["type"] == "consent" and named["institution"] == record["recipient"]:
        raise ConsentRejected("an institution attests a consent to itself; have another one attest it (R37)")
    return _party_signer(named["institution"], named["key"])


def _party_signer(party: str, key: str) -> Signer:
    return Signer(party_subject(party, key), key, party)


def _grantors_sign(record: Record) -> tuple[Signer, ...]:
    signers = tuple(Signer(one["subject_key"], one["key"], one["subject_key"]) for one in record["grantors"])
    first = (record["subject_key"], record["signer_key"])
    if signers[0][:2] != first or len({one.subject for one in signers}) != len(signers):
        raise ConsentRejected("a consent's first grantor is its subject, and no grantor is named twice")
    return signers


def check_signatures(record: Record, data: bytes, entries: Any) -> tuple[Signer, ...]:
    """Return who has signed when the signatures are those of exactly the signers that the record names, in their order.

    `data` are the record's canonical bytes.

    Raises SignatureRejected or ConsentRejected. Whether the keys are registered is `check_registered`'s part.
    """
    signers = signers_of(record)
    if not isinstance(entries, list) or len(entries) != len(signers):
        raise SignatureRejected("a record carries one signature of each of its signers and no other")
    for entry, signer in zip(entries, signers, strict=True):
        is_entry = isinstance(entry, dict) and set(entry) == _ENTRY and all(type(v) is str for v in entry.values())
        if not is_entry or entry["key"] != signer.key or (signer.label and entry["signer"] != signer.label):
            raise SignatureRejected("a signature is of another key or signer than the record names, or out of order")
        if not _SIGNATURE.fullmatch(entry["signature"]):
            raise SignatureRejected("a signature is 128 lower-case hex digits")
        signing.verify(signer.key, record["type"], data, bytes.fromhex(entry["signature"]))
    return signers


def check_registered(
    signers: Iterable[Signer], firm_keys: Mapping[str, str], grantors: Iterable[Grantor] = (),
    kinds: Mapping[str, str] | None = None,
) -> None:  # fmt: skip
    """Raise ConsentRejected unless the keys of all signers and grantors are the registered ones, and they are who they say.

    `firm_keys` maps a subject key to its key, `kinds` to the type of subject that the provider found its identifier to
    be. Of a key without one, from before 0.3, what its own consent says counts, but never that it is a person beside a firm.
    """
    if any(firm_keys.get(signer.subject) != signer.key for signer in signers):
        raise ConsentRejected("a record is no consent or revocation by the key that is registered for its subject")
    for one in grantors:
        if one.subject not in firm_keys or one.key not in ("", firm_keys[one.subject]):
            raise ConsentRejected("a grantor has no registered key, or another one; register it first (R37)")
        _check_kind(one, (kinds or {}).get(one.subject, ""))


def _check_kind(one: Grantor, kind: str) -> None:
    if one.is_beside and kind not in _PERSONS:
        raise ConsentRejected("a grantor beside the firm is not registered as a natural person (R09, R37)")
    if not one.is_beside and (kind or ("" if one.kind == "NP" else one.kind)) != one.kind:
        raise ConsentRejected("a consent's subject is registered as another type of subject than the consent says")


def verify_record(
    signed: Record, firm_keys: Mapping[str, str], kinds: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Return the record when the registered keys of those whom it names, and nobody else, have signed it.

    `kinds` is as in `check_registered`. Raises SignatureRejected otherwise; ConsentRejected when a value that the gate
    reads is missing or of another type, or a signer has no registered key.
    """
    if not isinstance(signed, Mapping) or set(signed) != {"record", "signatures"} or type(signed["record"]) is not dict:
        raise ConsentRejected("a signed record holds `record` and `signatures` and nothing else")
    record: dict[str, Any] = signed["record"]
    check_registered(signers_of(record), firm_keys, grantors_of(record), kinds)
    check_gated(record)
    check_signatures(record, canonical.encode(record), signed["signatures"])
    return record


def check_gated(record: Record) -> None:
    """Raise ConsentRejected when a value that the gate or the registry reads is missing or of another type."""
    gated: dict[str, type] = GATED if record["type"] == "consent" else {}
    gated = gated | {"consent_id": str} | ({"max_uses": int} if "max_uses" in record else {})
    gated = gated | ({"frequency": str} if "frequency" in record else {})
    if any(type(record.get(name)) is not kind for name, kind in gated.items()):
        raise ConsentRejected("a record lacks a value that the gate reads, or it has another type")


def check_kind(kind: Any) -> str:
    """Return a registered key's type of subject; raises ConsentRejected for none of ENT, IND, NP."""
    if kind not in SUBJECT_TYPES:
        raise ConsentRejected(f"a registered key's kind is one of {', '.join(SUBJECT_TYPES)}")
    return str(kind)
