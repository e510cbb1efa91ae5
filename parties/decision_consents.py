"""Consents and the registry as values: which consents a provider held after its first `epoch` records.

Pure: standard library and `crypto` only, since the auditor builds the same states from evidence. How a record is made,
checked against its schema and kept is in `consent`; what a consent allows is in `decision`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from lianxin.crypto import signing
from lianxin.crypto.errors import CryptoError
from lianxin.parties.decision_catalogue import Record

MODES = ("COMPUTE_ONLY", "SCORE_ONLY", "DESENSITISED", "PLAINTEXT")
_GATED: dict[str, type] = {"fields": list, "separate_consent": bool, "written": bool} | dict.fromkeys(
    ("provider", "recipient", "purpose", "mode", "subject_type", "signer_role", "not_before", "expires_at"), str
)
_KEPT = {*_GATED, "subject_key", "necessity_text", "impact_text", "power_of_attorney_digest", "max_uses"}


class ConsentRejected(CryptoError):
    """A consent or a revocation breaks the schema of docs/records.md, or does not fit the registry."""


@dataclass(frozen=True)
class Consent:
    """What the gate reads of a consent; `mode` is an index into `MODES`, `record` its terms without ids and notices."""

    id: str
    fields: frozenset[str]
    mode: int
    record: Record = field(repr=False)


@lru_cache(maxsize=4096)  # thousands of firms sign the same list
def _field_set(*fields: str) -> frozenset[str]:
    return frozenset(fields)


@dataclass(frozen=True)
class Registry:
    """A provider's consents after its first `epoch` records, `by_scope` (subject, recipient, purpose) newest first."""

    epoch: int = 0
    consents: dict[str, Consent] = field(default_factory=dict, repr=False)
    ended: dict[str, str] = field(default_factory=dict, repr=False)
    by_scope: dict[tuple[str, str, str], tuple[Consent, ...]] = field(default_factory=dict, repr=False)

    @classmethod
    def from_records(
        cls, records: Sequence[Record], epoch: int, firm_keys: Mapping[str, str], verify: bool = True
    ) -> "Registry":
        """Return the state after the first `epoch` of the signed `records`.

        With `verify`, each is checked to be signed by the key that `firm_keys` (subject key to key, hex) holds: raises
        SignatureRejected. Raises ConsentRejected for a record that does not fit, or an epoch that is not reached.
        """
        if not 0 <= epoch <= len(records):
            raise ConsentRejected(f"epoch {epoch} is asked of a registry of {len(records)} records")
        return cls().extended(records[:epoch], firm_keys, verify)

    def extended(self, records: Sequence[Record], firm_keys: Mapping[str, str], verify: bool = True) -> "Registry":
        """Return the state after these records more; raises as `from_records`."""
        grown = Registry(self.epoch + len(records), dict(self.consents), dict(self.ended), dict(self.by_scope))
        try:
            for signed in records:
                record = verify_record(signed, firm_keys) if verify else signed["record"]
                (grown._end if record["type"] == "revocation" else grown._give)(record)
        except (KeyError, TypeError, ValueError, AttributeError):
            raise ConsentRejected("a record of the registry is neither a consent nor a revocation") from None
        return grown

    def _give(self, record: Record) -> None:
        if record["consent_id"] in self.consents:
            raise ConsentRejected("this consent id is in the registry already; a new consent needs a new id")
        if "supersedes" in record:
            self._end({**record, "consent_id": record["supersedes"]}, "SUPERSEDED")
        kept = {name: record[name] for name in _KEPT & record.keys()}
        consent = Consent(record["consent_id"], _field_set(*record["fields"]), MODES.index(record["mode"]), kept)
        scope = (record["subject_key"], record["recipient"], record["purpose"])
        self.consents[consent.id] = consent
        self.by_scope[scope] = (consent, *self.by_scope.get(scope, ()))

    def _end(self, record: Record, why: str = "REVOKED") -> None:
        given = self.consents.get(record["consent_id"])
        if given is None or given.record["subject_key"] != record["subject_key"]:
            raise ConsentRejected("a record ends a consent that this subject has not given here before")
        if self.ended.get(given.id) != "REVOKED":
            self.ended[given.id] = why


def verify_record(signed: Record, firm_keys: Mapping[str, str]) -> dict[str, Any]:
    """Return the record when its subject's registered key alone signed it and is its `signer_key`.

    Raises SignatureRejected otherwise; ConsentRejected when a value that the gate reads is missing or of another type,
    or the subject has no registered key.
    """
    record = signed["record"]
    key = firm_keys.get(record["subject_key"])
    gated: dict[str, type] = _GATED if record["type"] == "consent" else {"consent_id": str}
    gated = gated | ({"max_uses": int} if "max_uses" in record else {})
    if key is None or record["signer_key"] != key or record["type"] not in ("consent", "revocation"):
        raise ConsentRejected("a record is no consent or revocation by the key that is registered for its subject")
    if any(type(record.get(name)) is not kind for name, kind in gated.items()):
        raise ConsentRejected("a record lacks a value that the gate reads, or it has another type")
    return signing.verify_by(signed, key)
