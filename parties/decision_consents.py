"""Consents and the registry as values: which consents a provider held after its first `epoch` records, in which state.

Pure: standard library and `crypto` only, since the auditor builds the same states from evidence. How a record is made
and checked against its schema is in `consent_schema`, how it is kept in `consent_register`, what it allows in `decision`.

Who signs what (R09, R37; docs/records.md): a consent of version 1 its subject's registered key; of version 2 every one
of its grantors' registered keys, or instead of them the institution that attests their signatures; a request the party
that asks; everything else one grantor, or the attesting institution. Parties' keys are registered beside firms' keys,
under `party_subject`.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, NamedTuple

from lianxin.crypto import canonical, signing
from lianxin.crypto.errors import CryptoError, SignatureRejected
from lianxin.parties.decision_catalogue import Record

MODES = ("COMPUTE_ONLY", "SCORE_ONLY", "DESENSITISED", "PLAINTEXT")
STATES = ("REQUESTED", "ACTIVE", "PAUSED", "REVOKED", "EXPIRED", "USED_UP", "REFUSED", "INVALID")
KINDS = ("consent", "revocation", "consent-request", "refusal", "pause", "resume")
COOL_DOWN_DAYS = 30
_TIME = "%Y-%m-%dT%H:%M:%SZ"
_SIGNATURE = re.compile(r"[0-9a-f]{128}")
_ENTRY = {"key", "signer", "signature"}
_GATED: dict[str, type] = {"fields": list, "separate_consent": bool, "written": bool} | dict.fromkeys(
    ("provider", "recipient", "purpose", "mode", "subject_type", "signer_role", "not_before", "expires_at"), str
)
_SHARED = (
    *_GATED, "necessity_text", "impact_text", "power_of_attorney_digest", "max_uses", "data_life_days",
)  # fmt: skip
Scope = tuple[str, str, str]


class ConsentRejected(CryptoError):
    """A consent or another record of the registry breaks the schema of docs/records.md, or does not fit the registry."""


class Signer(NamedTuple):
    """Who must have signed: under whose subject key the `key` is registered, and the `label` in the signature list."""

    subject: str
    key: str
    label: str


@dataclass(frozen=True, slots=True)
class Consent:
    """What the gate reads of a consent; `mode` is an index into `MODES`.

    `terms` is shared with every consent of the same terms, `persons` are the subject keys of natural persons who signed
    beside the firm, `digest` the SHA-256 of the record's canonical bytes.
    """

    id: str
    fields: frozenset[str]
    mode: int
    subject: str = field(repr=False)
    terms: Record = field(repr=False)
    persons: tuple[str, ...] = field(default=(), repr=False)
    digest: bytes = field(default=b"", repr=False)

    @property
    def record(self) -> dict[str, Any]:
        """The consent's terms without its ids and notices."""
        return {**self.terms, "subject_key": self.subject}

    @property
    def scope(self) -> Scope:
        """Subject, recipient and purpose."""
        return self.subject, self.terms["recipient"], self.terms["purpose"]


@lru_cache(maxsize=4096)  # thousands of firms sign the same list
def _field_set(*fields: str) -> frozenset[str]:
    return frozenset(fields)


@lru_cache(maxsize=4096)
def _terms(*items: tuple[str, Any]) -> dict[str, Any]:
    return {name: list(value) if name == "fields" else value for name, value in items}


@dataclass(frozen=True)
class Registry:
    """A provider's consents after its first `epoch` records, `by_scope` (subject, recipient, purpose) newest first.

    `ended` says REVOKED or SUPERSEDED by consent id, `paused` whose pauses stand, `asked` each request's scope and
    expiry, `declined` the requests that were refused, `refusals` and `stops` the time of a scope's last refusal and of its
    last withdrawal of any kind.
    """

    epoch: int = 0
    consents: dict[str, Consent] = field(default_factory=dict, repr=False)
    ended: dict[str, str] = field(default_factory=dict, repr=False)
    by_scope: dict[Scope, tuple[Consent, ...]] = field(default_factory=dict, repr=False)
    paused: dict[str, frozenset[str]] = field(default_factory=dict, repr=False)
    asked: dict[str, tuple[Scope, str]] = field(default_factory=dict, repr=False)
    declined: dict[str, str] = field(default_factory=dict, repr=False)
    refusals: dict[Scope, str] = field(default_factory=dict, repr=False)
    stops: dict[Scope, str] = field(default_factory=dict, repr=False)

    @classmethod
    def from_records(
        cls, records: Sequence[Record], epoch: int, firm_keys: Mapping[str, str], verify: bool = True
    ) -> "Registry":
        """Return the state after the first `epoch` of the signed `records`.

        With `verify`, each is checked to be signed by the keys that `firm_keys` (subject key to key, hex) holds: raises
        SignatureRejected. Raises ConsentRejected for a record that does not fit, or an epoch that is not reached.
        """
        if not 0 <= epoch <= len(records):
            raise ConsentRejected(f"epoch {epoch} is asked of a registry of {len(records)} records")
        return cls().extended(records[:epoch], firm_keys, verify)

    def extended(self, records: Sequence[Record], firm_keys: Mapping[str, str], verify: bool = True) -> "Registry":
        """Return the state after these records more; raises as `from_records`."""
        try:
            plain = [verify_record(signed, firm_keys) if verify else signed["record"] for signed in records]
        except (KeyError, TypeError):
            raise ConsentRejected("a record of the registry is none that it may hold") from None
        return self.grown((essence_of(record), b"") for record in plain)

    def grown(self, essences: Iterable[tuple[Record, bytes]]) -> "Registry":
        """Return the state after records more, each as (`essence_of` it, its digest), verified before.

        Raises ConsentRejected for one that does not fit what the registry holds.
        """
        dicts: dict[str, Any] = {name: dict(value) for name, value in vars(self).items() if isinstance(value, dict)}
        fresh = replace(self, **dicts)
        count = 0
        try:
            for record, digest in essences:
                fresh.admit(record, digest)
                count += 1
        except (KeyError, TypeError, ValueError, AttributeError):
            raise ConsentRejected("a record of the registry is neither a consent nor a revocation") from None
        return replace(fresh, epoch=self.epoch + count)

    def admit(self, record: Record, digest: bytes = b"") -> None:
        """Take one record into this state itself; only `grown` and a register that builds a state of its own call it."""
        kind = record["type"]
        if kind == "consent":
            self._give(record, digest)
        elif kind == "revocation":
            self._end(record)
        elif kind == "consent-request":
            self._ask(record)
        elif kind == "refusal":
            self._refuse(record)
        else:
            self._pause(record, kind == "pause")

    def state_of(self, consent_id: str, now: str, used: int = 0) -> str:
        """Return which of `STATES` a consent is in at `now`, after `used` uses.

        A consent whose time has not come is PAUSED until then. INVALID is one that a newer consent took the place of,
        and an id that the registry does not know: what an import refused is not in it.
        """
        consent = self.consents.get(consent_id)
        if consent is None:
            return self._request_state(consent_id, now)
        if consent_id in self.ended:
            return "REVOKED" if self.ended[consent_id] == "REVOKED" else "INVALID"
        terms = consent.terms
        if now >= terms["expires_at"]:
            return "EXPIRED"
        if used >= terms.get("max_uses", used + 1):
            return "USED_UP"
        return "PAUSED" if consent_id in self.paused or now < terms["not_before"] else "ACTIVE"

    def cool_down(self, scope: Scope, at: str) -> str:
        """Return until when this subject may not be asked again for this recipient and purpose, "" when it may (R17)."""
        if scope not in self.refusals:
            return ""
        until = datetime.strptime(self.refusals[scope], _TIME) + timedelta(days=COOL_DOWN_DAYS)
        end = until.strftime(_TIME)
        return end if at < end else ""

    def _request_state(self, consent_id: str, now: str) -> str:
        if consent_id in self.declined:
            return "REFUSED"
        if consent_id in self.asked:
            return "REQUESTED" if now < self.asked[consent_id][1] else "EXPIRED"
        return "INVALID"

    def _give(self, record: Record, digest: bytes) -> None:
        if record["consent_id"] in self.consents:
            raise ConsentRejected("this consent id is in the registry already; a new consent needs a new id")
        if "supersedes" in record:
            self._end({**record, "consent_id": record["supersedes"]}, "SUPERSEDED")
        items = (
            (name, tuple(record[name]) if name == "fields" else record[name]) for name in _SHARED if name in record
        )
        persons = tuple(record.get("persons", ()))
        consent = Consent(
            record["consent_id"], _field_set(*record["fields"]), MODES.index(record["mode"]), record["subject_key"],
            _terms(*items), persons, digest,
        )  # fmt: skip
        if self.asked.get(consent.id, (consent.scope, ""))[0] != consent.scope:
            raise ConsentRejected("a consent answers a request that was made to another subject or for something else")
        self.consents[consent.id] = consent
        self.by_scope[consent.scope] = (consent, *self.by_scope.get(consent.scope, ()))

    def _given(self, record: Record) -> Consent:
        given = self.consents.get(record["consent_id"])
        if given is None or record["subject_key"] not in (given.subject, *given.persons):
            raise ConsentRejected("a record ends or holds a consent that this subject has not given here before")
        return given

    def _end(self, record: Record, why: str = "REVOKED") -> None:
        given = self._given(record)
        if self.ended.get(given.id) != "REVOKED":
            self.ended[given.id] = why
        if why == "REVOKED":
            self._stop(given.scope, record["revoked_at"])

    def _pause(self, record: Record, is_pause: bool) -> None:
        given = self._given(record)
        whose = self.paused.pop(given.id, frozenset())
        whose = whose | {record["subject_key"]} if is_pause else whose - {record["subject_key"]}
        if whose:
            self.paused[given.id] = whose

    def _ask(self, record: Record) -> None:
        scope = (record["subject_key"], record["recipient"], record["purpose"])
        if record["consent_id"] in self.asked or record["consent_id"] in self.consents:
            raise ConsentRejected(
                "a consent was asked for or given under this id already; a new request needs a new id"
            )
        if until := self.cool_down(scope, record["created_at"]):
            raise ConsentRejected(f"this subject refused; it may not be asked again for this before {until} (R17)")
        self.asked[record["consent_id"]] = (scope, record["expires_at"])

    def _refuse(self, record: Record) -> None:
        scope = (record["subject_key"], record["recipient"], record["purpose"])
        if self.asked.get(record["consent_id"], (scope, ""))[0] != scope or record["consent_id"] in self.consents:
            raise ConsentRejected(
                "a refusal answers a request that was made to another subject, or one answered already"
            )
        self.declined[record["consent_id"]] = record["at"]
        self.refusals[scope] = max(record["at"], self.refusals.get(scope, ""))
        self._stop(scope, record["at"])

    def _stop(self, scope: Scope, at: str) -> None:
        self.stops[scope] = max(at, self.stops.get(scope, ""))


def snapshot_entries(
    registry: Registry, now: str, uses: Mapping[str, int] | None = None
) -> Iterator[tuple[str, bytes]]:
    """Yield, for each consent, its id and the number of its state in `STATES` (a byte) before its record's digest.

    `uses` counts the uses of consents with a limit. It is the map of which a leaf's `snapshot_root` is the root at `now`.
    """
    for name, consent in registry.consents.items():
        state = registry.state_of(name, now, (uses or {}).get(name, 0))
        yield name, snapshot_value(state, consent.digest)


def snapshot_value(state: str, digest: bytes) -> bytes:
    """Return what a snapshot holds of a consent in this state whose record has this SHA-256."""
    return bytes([STATES.index(state)]) + digest


def party_subject(party: str, key: str) -> str:
    """Return the subject key, in hex, under which a party's node key stands in the register of keys."""
    return hashlib.sha256(f"lianxin/party-key\x00{party}\x00{key}".encode()).hexdigest()


def essence_of(record: Record) -> dict[str, Any]:
    """Return what the registry reads of a record, smaller than a whole consent; other kinds are returned whole."""
    if record["type"] != "consent":
        return dict(record)
    kept = ("type", "version", "consent_id", "created_at", "subject_key", "catalogue_version", "supersedes")
    short = {name: record[name] for name in (*kept, *_SHARED) if name in record}
    if "attestation" in record:
        short["attested_by"] = record["attestation"]["institution"]
    persons = [grantor["subject_key"] for grantor in record.get("grantors", ())[1:]]
    return short | ({"persons": persons} if persons else {})


def signers_of(record: Record) -> tuple[Signer, ...]:
    """Return who must have signed a record, by what it says itself; whether these keys are registered is not judged.

    Raises ConsentRejected for a record of no kind of the registry, or one whose grantors are not who it is about.
    """
    try:
        kind, version = record["type"], record["version"]
        if kind not in KINDS:
            raise ConsentRejected("a record is of no kind that a registry holds")
        if "attestation" in record:
            named = record["attestation"]
            return (_party_signer(named["institution"], named["key"]),)
        if kind == "consent-request":
            return (_party_signer(record["requester"], record["key"]),)
        if kind == "consent" and version > 1:
            return _grantors_of(record)
        label = "" if kind in ("consent", "revocation") else record["subject_key"]
        return (Signer(record["subject_key"], record["signer_key"], label),)
    except (KeyError, TypeError, AttributeError, ValueError):
        raise ConsentRejected("a record is no consent or revocation with a subject and a signer") from None


def _party_signer(party: str, key: str) -> Signer:
    return Signer(party_subject(party, key), key, party)


def _grantors_of(record: Record) -> tuple[Signer, ...]:
    signers = tuple(Signer(one["subject_key"], one["key"], one["subject_key"]) for one in record["grantors"])
    first = (record["subject_key"], record["signer_key"])
    if signers[0][:2] != first or len({one.subject for one in signers}) != len(signers):
        raise ConsentRejected("a consent's first grantor is its subject, and no grantor is named twice")
    return signers


def check_signatures(record: Record, data: bytes, entries: Any) -> tuple[Signer, ...]:
    """Return who signed: exactly the signers that the record names, each once. `data` are the record's canonical bytes.

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


def check_registered(signers: Iterable[Signer], firm_keys: Mapping[str, str]) -> None:
    """Raise ConsentRejected unless each signer's key is the one that `firm_keys` (subject key to key) holds."""
    if any(firm_keys.get(signer.subject) != signer.key for signer in signers):
        raise ConsentRejected("a record is no consent or revocation by the key that is registered for its subject")


def verify_record(signed: Record, firm_keys: Mapping[str, str]) -> dict[str, Any]:
    """Return the record when the registered keys of those whom it names, and nobody else, have signed it.

    Raises SignatureRejected otherwise; ConsentRejected when a value that the gate reads is missing or of another type,
    or a signer has no registered key.
    """
    if not isinstance(signed, Mapping) or set(signed) != {"record", "signatures"} or type(signed["record"]) is not dict:
        raise ConsentRejected("a signed record holds `record` and `signatures` and nothing else")
    record: dict[str, Any] = signed["record"]
    check_registered(signers_of(record), firm_keys)
    check_gated(record)
    check_signatures(record, canonical.encode(record), signed["signatures"])
    return record


def check_gated(record: Record) -> None:
    """Raise ConsentRejected when a value that the gate or the registry reads is missing or of another type."""
    gated: dict[str, type] = _GATED if record["type"] == "consent" else {}
    gated = gated | {"consent_id": str} | ({"max_uses": int} if "max_uses" in record else {})
    if any(type(record.get(name)) is not kind for name, kind in gated.items()):
        raise ConsentRejected("a record lacks a value that the gate reads, or it has another type")
