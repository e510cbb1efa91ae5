"""A firm's authorisation as a record: made, checked, kept in an append-only registry, and withdrawn by one call.

A consent names one provider, one recipient, one purpose, one mode and a sorted list of fields; it is immutable, so
that widening any of them is a new consent (Personal Information Protection Law 14, 15, 17, 23; rules R03, R04, R06,
R09, R37). The schema of docs/records.md is closed: a missing or unknown key, another type, an unsorted field list, a
recipient that is no single party or an onward transfer is refused before a signature is looked at.

`ConsentRegister` is a provider's registry over its store and ledger: what it imports is checked as a whole, then
written as a whole with the leaf that commits to it.
"""

import hashlib
import hmac
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import lru_cache
from typing import Any

from lianxin.crypto import canonical
from lianxin.federation.errors import EvidenceRejected, InputFault
from lianxin.parties.decision import (
    FIELD_ID,
    MODES,
    PURPOSES,
    SUBJECT_TYPES,
    ConsentRejected,
    Registry,
    verify_record,
)
from lianxin.parties.identifiers import normalise_identifier
from lianxin.parties.ledger import Ledger
from lianxin.parties.store import Store

SIGNER_ROLES = ("legal_rep", "agent", "operator", "shareholder")
_OWN_SIGNER = {"ENT": "legal_rep", "IND": "operator", "NP": "operator"}
_MOST_TEXT = 4000
_Check = Callable[[Any], bool]


def _matches(pattern: str) -> _Check:
    compiled = re.compile(pattern, re.ASCII)
    return lambda value: isinstance(value, str) and compiled.fullmatch(value) is not None


def _one_of(*choices: Any) -> _Check:
    return lambda value: any(type(value) is type(choice) and value == choice for choice in choices)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= _MOST_TEXT and bool(value.strip())


def _is_time(value: Any) -> bool:
    try:
        return _has_time_shape(value) and datetime.fromisoformat(value) is not None
    except ValueError:
        return False


def _is_count(value: Any) -> bool:
    return type(value) is int and value > 0


def _are_fields(value: Any) -> bool:
    is_list = isinstance(value, list) and all(isinstance(name, str) for name in value)
    return is_list and _are_sorted_ids(tuple(value))


@lru_cache(maxsize=1024)
def _are_sorted_ids(names: tuple[str, ...]) -> bool:
    return bool(names) and list(names) == sorted(set(names)) and all(FIELD_ID.fullmatch(name) for name in names)


_has_time_shape = _matches(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}Z")
_is_id, _is_hex, _is_flag = _matches(r"[a-z0-9-]{3,64}"), _matches(r"[0-9a-f]{64}"), _one_of(True, False)
_CONSENT: Mapping[str, _Check] = {
    "type": _one_of("consent"),
    "version": _one_of(1),
    "consent_id": _is_id,
    "created_at": _is_time,
    "jurisdiction": _one_of("CN"),
    "language": _matches(r"[a-z]{2}(-[A-Za-z]{2,4})?"),
    "subject_key": _is_hex,
    "subject_type": _one_of(*SUBJECT_TYPES),
    "signer_role": _one_of(*SIGNER_ROLES),
    "signer_key": _is_hex,
    "notice_id": _is_text,
    "notice_hash": _is_hex,
    "separate_consent": _is_flag,
    "written": _is_flag,
    "consent_action": _one_of("signed"),
    "provider": _is_id,
    "recipient": _is_id,
    "purpose": _one_of(*PURPOSES),
    "fields": _are_fields,
    "catalogue_version": _is_text,
    "mode": _one_of(*MODES),
    "onward_transfer": _one_of(False),
    "not_before": _is_time,
    "expires_at": _is_time,
    "withdrawal_method": _is_text,
}
_OPTIONAL: Mapping[str, _Check] = {
    "supersedes": _is_id,
    "max_uses": _is_count,
    "necessity_text": _is_text,
    "impact_text": _is_text,
    "power_of_attorney_digest": _is_hex,
}
_REVOCATION: Mapping[str, _Check] = {
    "type": _one_of("revocation"),
    "version": _one_of(1),
    "consent_id": _is_id,
    "subject_key": _is_hex,
    "revoked_at": _is_time,
    "reason": _is_text,
    "signer_key": _is_hex,
}


def subject_key(subject_secret: bytes, identifier: str) -> str:
    """Return the hex HMAC-SHA-256 of a normalised identifier under the provider's subject secret.

    Raises InputFault when the identifier is not in its normal form: two spellings must not be two subjects.
    """
    if identifier != normalise_identifier(identifier):
        raise InputFault("an identifier is not in its normal form; normalise it before its subject key is derived")
    return hmac.digest(subject_secret, identifier.encode(), hashlib.sha256).hex()


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
    withdrawal_method: str = "lianxin consent revoke",
    **optional: Any,
) -> dict[str, Any]:
    """Return a consent record, ready to be signed with `signer_key`'s secret key.

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
        "signer_role": signer_role or _OWN_SIGNER.get(subject_type, ""),
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


def make_revocation(
    *, consent_id: str, subject_key: str, revoked_at: str, signer_key: str, reason: str = "withdrawn by the subject"
) -> dict[str, Any]:
    """Return a revocation record, ready to be signed with `signer_key`'s secret key. Raises ConsentRejected."""
    record = {
        "type": "revocation",
        "version": 1,
        "consent_id": consent_id,
        "subject_key": subject_key,
        "revoked_at": revoked_at,
        "reason": reason,
        "signer_key": signer_key,
    }
    _check_keys(record, _REVOCATION, {})
    return record


def check_consent_record(record: Mapping[str, Any]) -> None:
    """Raise ConsentRejected, naming the key, unless `record` is a consent of docs/records.md."""
    _check_keys(record, _CONSENT, _OPTIONAL)
    if record["provider"] == record["recipient"]:
        raise ConsentRejected("a consent's recipient is its provider; name the one institution that receives")
    if not record["created_at"] <= record["not_before"] < record["expires_at"]:
        raise ConsentRejected("a consent's created_at, not_before and expires_at are not in this order")


def _check_keys(record: Any, needed: Mapping[str, _Check], optional: Mapping[str, _Check]) -> None:
    if not isinstance(record, Mapping):
        raise ConsentRejected("a consent or revocation is an object")
    for name, is_sound in needed.items():
        if name not in record or not is_sound(record[name]):
            raise ConsentRejected(f"{name} is missing or not as docs/records.md says")
    for name in record.keys() - needed.keys():
        if name not in optional:
            raise ConsentRejected("a key is not one that docs/records.md names; remove it")
        if not optional[name](record[name]):
            raise ConsentRejected(f"{name} is not as docs/records.md says")


def check_consent(signed: Mapping[str, Any], firm_keys: Mapping[str, str]) -> dict[str, Any]:
    """Return the consent when its schema holds and the key registered for its subject (`firm_keys`) signed it.

    Raises ConsentRejected or SignatureRejected.
    """
    check_consent_record(_record_of(signed))
    return verify_record(signed, firm_keys)


def check_revocation(signed: Mapping[str, Any], firm_keys: Mapping[str, str]) -> dict[str, Any]:
    """Return the revocation when its schema holds and the key registered for its subject signed it.

    Raises ConsentRejected or SignatureRejected.
    """
    _check_keys(_record_of(signed), _REVOCATION, {})
    return verify_record(signed, firm_keys)


def _record_of(signed: Any) -> Any:
    if not isinstance(signed, Mapping) or "record" not in signed:
        raise ConsentRejected("a signed record holds `record` and `signatures`")
    return signed["record"]


def decode_signed(data: bytes) -> dict[str, Any]:
    """Return the signed record whose canonical encoding is `data`; raises EncodingRejected for any other bytes."""
    return canonical.decode_fragment(data)


class ConsentRegister:
    """A provider's registry of consents and revocations. Safe to share between threads; one process a store."""

    def __init__(self, store: Store, ledger: Ledger) -> None:
        self.store, self._ledger = store, ledger
        self._lock = threading.RLock()
        self._registry = Registry()

    @property
    def epoch(self) -> int:
        """The number of records in the registry."""
        return self.registry().epoch

    def register_firm_keys(self, keys: Mapping[str, str]) -> None:
        """Register firms' public keys (subject key to key, hex); raises InputFault for another form or another key."""
        if not all(_is_hex(subject) and _is_hex(key) for subject, key in keys.items()):
            raise InputFault("a list of firm keys maps subject keys to public keys, 64 lower-case hex digits each")
        self.store.add_firm_keys(keys)

    def import_records(self, signed_records: Sequence[Mapping[str, Any]]) -> int:
        """Add signed consents and revocations, all or none, with one ledger leaf; return the new epoch.

        Raises ConsentRejected or SignatureRejected before anything is written.
        """
        with self.held() as registry:
            if not signed_records:
                return registry.epoch
            firm_keys = self.store.firm_keys()
            for signed in signed_records:
                is_revocation = isinstance(_record_of(signed), Mapping) and signed["record"].get("type") == "revocation"
                (check_revocation if is_revocation else check_consent)(signed, firm_keys)
            grown = registry.extended(signed_records, firm_keys, verify=False)
            self._ledger.append_registry(signed_records)
            self._registry = grown
            return grown.epoch

    def revoke(self, signed: Mapping[str, Any]) -> int:
        """Add one signed revocation and return the epoch from which the consent is dead.

        A consent that is revoked already stays so, and nothing is written.
        """
        with self.held() as registry:
            record = check_revocation(signed, self.store.firm_keys())
            if registry.ended.get(record["consent_id"]) == "REVOKED":
                return registry.epoch
            return self.import_records([signed])

    def registry(self) -> Registry:
        """Return the present state of the registry, cached by epoch.

        Raises EvidenceRejected when the store holds fewer records than it did: a copy of yesterday was put back.
        """
        with self._lock:
            epoch = self.store.registry_epoch()
            if epoch < self._registry.epoch:
                raise EvidenceRejected("the registry is shorter than it was; restore the store that holds all of it")
            if epoch > self._registry.epoch:
                fresh = self.store.registry_records()[self._registry.epoch :]
                records = [canonical.decode_fragment(data) for data in fresh]
                self._registry = self._registry.extended(records, {}, verify=False)
            return self._registry

    @contextmanager
    def held(self) -> Iterator[Registry]:
        """Hold the registry still: no consent or revocation comes in before the block ends."""
        with self._lock:
            yield self.registry()
