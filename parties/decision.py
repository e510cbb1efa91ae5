"""Who may send which field of which firm to whom: the rules R01..R39 as one pure, total function.

`decide` walks the gate's order, denying by default: class known (R13), prohibited (R20), purpose and field agreed
(R01), names and identifiers kept out of models (R11), recipient a party (R09), contract in force (R38), mode known
(R03) and under the field's ceiling (R39, R12); then one live consent of the firm covers every field that needs one, by
a signer with the power to give it. Nothing reads a clock, a file or a random number: contract, catalogue and the
registry's first `epoch` records give an auditor the gate's own answer. Times compare as text.

Sources: Personal Information Protection Law 6, 14, 15, 23, 27-30; Credit Reporting Regulation 14; Anti-Unfair
Competition Law 9. A sole trader (`IND`) counts as a natural person: nothing of it is open, its trade secrets are
personal information, and a secret that the catalogue declares for enterprises alone needs its written consent.
"""

import csv
import hashlib
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from lianxin.crypto import signing
from lianxin.crypto.errors import CryptoError

Record = Mapping[str, Any]
MODES = ("COMPUTE_ONLY", "SCORE_ONLY", "DESENSITISED", "PLAINTEXT")
AGGREGATE = "AGGREGATE"  # a statistic over enough rows: its fields are decided, its firms need no consent
SUBJECT_TYPES = ("ENT", "IND", "NP")
_FIRM, _ALL = frozenset({"PUB", "LIM", "BIZ"}), frozenset({"PUB", "LIM", "BIZ", "PI", "SPI"})
PURPOSES = {  # pre-loan, approval, monitoring, training, validation, product matching, statistics, objections
    **dict.fromkeys(("P1", "P2", "P4", "P5", "P8"), _ALL),
    **{"P3": _ALL - {"SPI"}, "P6": _FIRM, "P7": _FIRM},
}
NAME_PURPOSES = frozenset({"P1", "P2", "P3", "P8"})
SIGNERS = {"ENT": ("legal_rep",), "IND": ("operator",), "NP": ("legal_rep", "operator", "shareholder")}
FIELD_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}", re.ASCII)
_CHOICES = {
    "class": ("PUB", "LIM", "BIZ", "PI", "SPI", "BAN"),
    "id_role": ("DI", "QI", "SA", "NI"),
    "default_release": ("OPEN", "OPEN_NAME", "AUTH", "COMPUTE", "SEP", "SEP_WRITTEN", "NEVER"),
}
_GATED: dict[str, type] = {"fields": list, "separate_consent": bool, "written": bool} | dict.fromkeys(
    ("provider", "recipient", "purpose", "mode", "subject_type", "signer_role", "not_before", "expires_at"), str
)
_KEPT = {*_GATED, "subject_key", "necessity_text", "impact_text", "power_of_attorney_digest", "max_uses"}


class CatalogueRejected(CryptoError):
    """A catalogue's bytes cannot be used; the message names the line and the column."""


class ConsentRejected(CryptoError):
    """A consent or a revocation breaks the schema of docs/records.md, or does not fit the registry."""


@dataclass(frozen=True, slots=True)
class Field:
    """One catalogue field; `transform` is what desensitises it when there is no authorisation."""

    id: str
    class_: str
    id_role: str
    default_release: str
    subject_type: str
    name_zh: str = ""
    category: str = ""
    provider: str = ""
    verified: bool = False
    transform: str = "none"

    @classmethod
    def from_row(cls, row: Record) -> "Field":
        """Return the field of one checked row of a catalogue's CSV."""
        words = (row["field_name_en"], row["class"], row["id_role"], row["default_release"], row["subject_type"])
        texts = (row.get("field_name_zh", ""), row.get("category", ""), row.get("provider", ""))
        return cls(*words, *texts, row.get("verified") == "y", row.get("desens_if_no_auth") or "none")

    def concerns(self, subject_type: str) -> bool:
        """Return whether the catalogue declares this field for subjects of that type."""
        return subject_type in self.subject_type.split("|")


class Catalogue(Mapping[str, Field]):
    """The fields by id, with the bytes that they were read from; `digest` is the SHA-256 of those bytes, hex."""

    def __init__(self, fields: Mapping[str, Field], data: bytes) -> None:
        self._fields, self._data = dict(fields), data
        self.digest = hashlib.sha256(data).hexdigest()

    @classmethod
    def from_csv_bytes(cls, data: bytes) -> "Catalogue":
        """Return the catalogue in `data`; raise CatalogueRejected naming the first bad line and column."""
        try:
            reader = csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True)
            return cls(_read_fields(reader), data)
        except (UnicodeDecodeError, csv.Error):
            raise CatalogueRejected("the catalogue is no well-formed CSV in UTF-8; export it again") from None

    def to_csv_bytes(self) -> bytes:
        """Return the very bytes that this catalogue was read from."""
        return self._data

    def __getitem__(self, field_id: str) -> Field:
        return self._fields[field_id]

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Catalogue) and other.digest == self.digest

    def __hash__(self) -> int:
        return hash(self.digest)


def _read_fields(reader: "csv.DictReader[str]") -> dict[str, Field]:
    for name in ("field_name_en", "subject_type", *_CHOICES):
        if name not in (reader.fieldnames or ()):
            raise CatalogueRejected(f"line 1 has no column {name}; add it to the header")
    fields: dict[str, Field] = {}
    for row in reader:
        _check_row(row, reader.line_num)
        if row["field_name_en"] in fields:
            raise CatalogueRejected(f"line {reader.line_num}, column field_name_en: this id appears twice")
        fields[row["field_name_en"]] = Field.from_row(row)
    return fields


def _check_row(row: Record, line: int) -> None:
    if None in row or None in row.values():
        raise CatalogueRejected(f"line {line} has another number of columns than the header")
    subjects = row["subject_type"].split("|")
    if not FIELD_ID.fullmatch(row["field_name_en"]):
        raise CatalogueRejected(f"line {line}, column field_name_en: use 1 to 64 ASCII letters, digits, _ . or -")
    for column, choices in _CHOICES.items():
        if row[column] not in choices:
            raise CatalogueRejected(f"line {line}, column {column}: choose one of {', '.join(choices)}")
    if len(set(subjects)) < len(subjects) or not set(subjects) <= set(SUBJECT_TYPES):
        raise CatalogueRejected(f"line {line}, column subject_type: join distinct ENT, IND, NP with |")


@dataclass(frozen=True, slots=True)
class ReleaseRequest:
    """What one party asks to send another: `fields` of `provider` to `recipient`, in `mode`, at `step` of a run."""

    provider: str
    recipient: str
    purpose: str
    mode: str
    step: str
    fields: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Decision:
    """`rule` is a refusal's rule id; when allowed, the right: OPEN, CONSENT, AGGREGATE. `consents` are those used."""

    allow: bool
    rule: str
    needs_consent: bool = False
    transform: str = "none"
    consents: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ReleaseDecision:
    """The field-level part of a release; `rule` is the first refusal when no field may cross, else empty."""

    allowed: tuple[str, ...]
    refused: tuple[tuple[str, str], ...]
    needing_consent: tuple[str, ...]
    rule: str = ""

    def needed_by(self, subject_type: str) -> tuple[str, ...]:
        """Return the fields that this subject's consent must cover: of a natural person, all that are allowed."""
        return self.needing_consent if subject_type == "ENT" else self.allowed


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


def decide_field(
    field_id: str, request: ReleaseRequest, contract: Record, catalogue: Catalogue, now: str | None = None
) -> Decision:
    """Return whether contract (in force at `now`, where given) and class let the field cross; no contract, no field."""
    try:
        entry = catalogue[field_id]
        is_agreed = contract["catalogues"][request.provider] == catalogue.digest
        rule = _field_rule(entry, request, contract, now) if is_agreed else "R13"
    except (KeyError, TypeError, AttributeError):
        return Decision(False, "R13")
    if rule:
        return Decision(False, rule)
    if request.mode == AGGREGATE:
        return Decision(True, AGGREGATE)
    is_open = entry.default_release == "OPEN" and request.mode in MODES[:2]
    transform = entry.transform if request.mode == "DESENSITISED" else "none"
    return Decision(True, "OPEN" if is_open else "CONSENT", not is_open, transform)


def _field_rule(entry: Field, request: ReleaseRequest, contract: Record, now: str | None) -> str:
    wanted = (request.provider, entry.id)
    uses = {listed["use"] for listed in contract["fields"] if (listed["provider"], listed["field"]) == wanted}
    parties = {party["party"] for party in contract["parties"]}
    classes = PURPOSES.get(request.purpose, frozenset())
    is_name = entry.default_release == "OPEN_NAME" and request.purpose not in NAME_PURPOSES
    refusals = {
        "R20": entry.class_ == "BAN" or entry.default_release == "NEVER",
        "R01": not uses or request.purpose != contract["purpose"] or entry.class_ not in classes,
        "R11": is_name or (entry.id_role == "DI" and "feature" in uses),
        "R09": request.recipient == request.provider or not {request.recipient, request.provider} <= parties,
        "R38": now is not None and not contract["created_at"] <= now < contract["expires_at"],
        "R03": request.mode not in (*MODES, AGGREGATE),
        "R12" if entry.class_ == "SPI" else "R39": entry.default_release == "COMPUTE" and request.mode in MODES[2:],
    }
    return next((rule for rule, holds in refusals.items() if holds), "")


def decide_release(
    contract: Record, catalogue: Catalogue, registry: Registry, request: ReleaseRequest, now: str
) -> ReleaseDecision:
    """Return the field-level part of a release; it names the registry's snapshot, which changes the firms only."""
    decisions = {name: decide_field(name, request, contract, catalogue, now) for name in request.fields}
    allowed = tuple(name for name, decision in decisions.items() if decision.allow)
    refused = tuple((name, decision.rule) for name, decision in decisions.items() if not decision.allow)
    needing = tuple(name for name in allowed if decisions[name].needs_consent)
    return ReleaseDecision(allowed, refused, needing, "" if allowed else refused[0][1] if refused else "R01")


@dataclass(frozen=True, slots=True)
class _Need:
    """What a consent of one type of subject must say to cover these fields; `missing` is the rule for having none."""

    fields: frozenset[str]
    classes: frozenset[str]
    foreign: frozenset[str]
    is_written: bool
    missing: str


@lru_cache(maxsize=256)
def _need(catalogue: Catalogue, fields: tuple[str, ...], subject_type: str) -> _Need:
    entries = [catalogue[name] for name in fields if name in catalogue]
    is_person = subject_type != "ENT"
    written = [e for e in entries if e.default_release == "SEP_WRITTEN"
               or (subject_type == "IND" and e.class_ == "BIZ" and not e.concerns("IND"))]  # fmt: skip
    raised = {e.class_ if e.class_ == "SPI" or not is_person else "SPI" if e in written else "PI" for e in entries}
    unknown = {"SPI"} if len(entries) < len(fields) else set()
    foreign = unknown | {e.class_ for e in entries if e.class_ in ("PI", "SPI")
               and not is_person and (e.concerns("NP") or not e.concerns("ENT"))}  # fmt: skip
    missing = next((rule for name, rule in (("SPI", "R12"), ("PI", "R09"), ("BIZ", "R39")) if name in raised), "R02")
    return _Need(frozenset(fields), frozenset(raised), frozenset(foreign), bool(written), missing)


def decide_firm(
    subject_key: str, fields_needing_consent: Sequence[str], request: ReleaseRequest, registry: Registry, now: str,
    catalogue: Catalogue, subject_type: str | None = None, uses: Mapping[str, int] | None = None,
) -> Decision:
    """Return whether one live consent of this firm covers all these fields for this request.

    `subject_type` is what the provider knows the firm to be; without it (the auditor) a consent is judged as what it
    says it is. `uses` counts the other runs that used a limited consent. The newest consent that covers wins; a
    refusal's rule is the newest consent's shortfall, or where there is none the strictest class's rule.
    """
    fields = tuple(fields_needing_consent)
    if not fields or request.mode not in MODES:
        return Decision(request.mode in MODES, "OPEN" if request.mode in MODES else "R03")
    rules = []
    for consent in registry.by_scope.get((subject_key, request.recipient, request.purpose), ()):
        rule = _life_rule(consent, registry, now, (uses or {}).get(consent.id, 0))
        rule = rule or _scope_rule(consent, fields, request, catalogue, subject_type)
        if not rule:
            return Decision(True, "CONSENT", True, consents=(consent.id,))
        rules.append(rule)
    return Decision(False, rules[0] if rules else _need(catalogue, fields, subject_type or "ENT").missing, True)


def _life_rule(consent: Consent, registry: Registry, now: str, used: int) -> str:
    if consent.id in registry.ended:
        return "R04" if registry.ended[consent.id] == "REVOKED" else "R03"
    is_used_up = used >= consent.record.get("max_uses", used + 1)
    return "" if consent.record["not_before"] <= now < consent.record["expires_at"] and not is_used_up else "R38"


def _scope_rule(
    consent: Consent, fields: tuple[str, ...], request: ReleaseRequest, catalogue: Catalogue, subject_type: str | None
) -> str:
    record = consent.record
    has_attorney = record["signer_role"] == "agent" and "power_of_attorney_digest" in record
    need = _need(catalogue, fields, record["subject_type"])
    is_informed = record["separate_consent"] and "necessity_text" in record and "impact_text" in record
    refusals = {
        "R37": not has_attorney and record["signer_role"] not in SIGNERS.get(record["subject_type"], ()),
        "R03": request.mode not in MODES[: consent.mode + 1] or not need.fields <= consent.fields,
        "R12": "SPI" in need.foreign or ("SPI" in need.classes and not is_informed),
        "R09": record["provider"] != request.provider
        or (subject_type or record["subject_type"]) != record["subject_type"]
        or "PI" in need.foreign
        or ("PI" in need.classes and not record["separate_consent"]),
        "R20": need.is_written and not record["written"],
    }
    return next((rule for rule, holds in refusals.items() if holds), "")


def decide(
    request: ReleaseRequest, subject_key: str, contract: Record, registry: Registry, catalogue: Catalogue, now: str,
    subject_type: str = "ENT",
) -> Decision:
    """Return whether all of the request's fields of this one firm may cross: the fields first, then the firm."""
    release = decide_release(contract, catalogue, registry, request, now)
    if release.refused or release.rule:
        return Decision(False, release.refused[0][1] if release.refused else release.rule)
    needed = release.needed_by(subject_type)
    return decide_firm(subject_key, needed, request, registry, now, catalogue, subject_type)
