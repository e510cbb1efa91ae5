"""Consents and the registry as values: which consents a provider held after its first `epoch` records, in which state.

Pure: standard library and `crypto` only, since the auditor builds the same states from evidence. How a record is made
and checked against its schema is in `consent_schema`, how it is kept in `consent_register`, what it allows in `decision`,
who must have signed it in `decision_signers`.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any

from lianxin.crypto import canonical, snapshot
from lianxin.parties.decision_catalogue import Record
from lianxin.parties.decision_signers import GATED, ConsentRejected, verify_record

MODES = ("COMPUTE_ONLY", "SCORE_ONLY", "DESENSITISED", "PLAINTEXT")
STATES = ("REQUESTED", "ACTIVE", "PAUSED", "REVOKED", "EXPIRED", "USED_UP", "REFUSED", "INVALID")
COOL_DOWN_DAYS = 30
PERIOD_DAYS = {"daily": 1, "weekly": 7, "monthly": 31, "quarterly": 92, "yearly": 366}
_TIME = "%Y-%m-%dT%H:%M:%SZ"
_SHARED = (
    *GATED, "necessity_text", "impact_text", "power_of_attorney_digest", "max_uses", "data_life_days", "frequency",
)  # fmt: skip
Scope = tuple[str, str, str]


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

    `ended` says REVOKED or SUPERSEDED by consent id, `paused` whose pauses stand, `held_at` when a grantor last paused or
    resumed, `asked` each request's scope, expiry and notice's hash, `declined` the requests that were refused, `refusals`
    and `stops` the time of a scope's last refusal and of its last withdrawal of any kind.
    """

    epoch: int = 0
    consents: dict[str, Consent] = field(default_factory=dict, repr=False)
    ended: dict[str, str] = field(default_factory=dict, repr=False)
    by_scope: dict[Scope, tuple[Consent, ...]] = field(default_factory=dict, repr=False)
    paused: dict[str, frozenset[str]] = field(default_factory=dict, repr=False)
    held_at: dict[tuple[str, str], str] = field(default_factory=dict, repr=False)
    asked: dict[str, tuple[Scope, str, str]] = field(default_factory=dict, repr=False)
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

    @classmethod
    def from_signed(cls, records: Iterable[Record]) -> "Registry":
        """Return the state after signed `records`, verified before, each with its digest: what snapshots are made of.

        Raises ConsentRejected for a record that does not fit.
        """
        plain = (signed["record"] for signed in records)
        return cls().grown((essence_of(one), hashlib.sha256(canonical.encode(one)).digest()) for one in plain)

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

        A consent whose time has not come is PAUSED until then, and one that was used for as many periods of its
        `frequency` as have begun until the next begins. INVALID is one that a newer consent took the place of,
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
        is_held = consent_id in self.paused or now < terms["not_before"] or used >= _uses_by(terms, now, used + 1)
        return "PAUSED" if is_held else "ACTIVE"

    def live_beside(self, consent_id: str, now: str) -> list[str]:
        """Return the other consents of the same scope that are neither ended nor expired: they count as before."""
        given = self.consents.get(consent_id)
        beside = self.by_scope.get(given.scope, ()) if given else ()
        return [one.id for one in beside if one.id != consent_id and self.state_of(one.id, now) in ("ACTIVE", "PAUSED")]

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
        self._check_answer(consent, record.get("notice_hash", ""))
        self.consents[consent.id] = consent
        self.by_scope[consent.scope] = (consent, *self.by_scope.get(consent.scope, ()))

    def _check_answer(self, consent: Consent, notice_hash: str) -> None:
        scope, _, notice = self.asked.get(consent.id, (consent.scope, "", notice_hash))
        if scope != consent.scope:
            raise ConsentRejected("a consent answers a request that was made to another subject or for something else")
        if notice != notice_hash:
            raise ConsentRejected(
                "a consent is given on another notice than its request showed (R06); sign the request"
            )

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
        whom = (given.id, record["subject_key"])
        if record["at"] <= self.held_at.get(whom, ""):
            raise ConsentRejected(
                "a pause or resumption is no later than this grantor's last one; it has to be signed anew"
            )
        if not is_pause and record.get("attestation", {}).get("institution") == given.terms["recipient"]:
            raise ConsentRejected("an institution resumes no consent of which it is the recipient (R37)")
        self.held_at[whom] = record["at"]
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
        self.asked[record["consent_id"]] = (scope, record["expires_at"], canonical.record_hash(record["notice"]))

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


def snapshot_root(registry: Registry, at: str, uses: Mapping[str, int] | None = None) -> str:
    """Return, in hex, what a leaf says as `snapshot_root` at `at`.

    `registry` is `Registry.from_signed` of the records up to the leaf's epoch, `uses` counts for each consent with
    `max_uses` the distinct uses by releases that stand before the leaf.
    """
    return snapshot.Snapshot(snapshot_entries(registry, at, uses)).root.hex()


def snapshot_value(state: str, digest: bytes) -> bytes:
    """Return what a snapshot holds of a consent in this state whose record has this SHA-256."""
    return bytes([STATES.index(state)]) + digest


def essence_of(record: Record) -> dict[str, Any]:
    """Return what the registry reads of a record, smaller than a whole consent; other kinds are returned whole."""
    if record["type"] != "consent":
        return dict(record)
    kept = (
        "type", "version", "consent_id", "created_at", "subject_key", "catalogue_version", "supersedes", "notice_hash",
        "data_from", "data_to",
    )  # fmt: skip
    short = {name: record[name] for name in (*kept, *_SHARED) if name in record}
    if "attestation" in record:
        short["attested_by"] = record["attestation"]["institution"]
    persons = [grantor["subject_key"] for grantor in record.get("grantors", ())[1:]]
    return short | ({"persons": persons} if persons else {})


def _uses_by(terms: Record, now: str, unlimited: int) -> int:
    """Return how many uses a consent's `frequency` allows until `now`: one for each period that has begun."""
    if "frequency" not in terms:
        return unlimited
    try:
        gone = datetime.strptime(now, _TIME) - datetime.strptime(terms["not_before"], _TIME)
        return 1 + max(0, gone.days // PERIOD_DAYS[terms["frequency"]])
    except (ValueError, KeyError):
        return 1  # evidence that no import would take: nothing beyond the first use
