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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from lianxin.parties.decision_catalogue import (
    FIELD_ID,
    SUBJECT_TYPES,
    Catalogue,
    CatalogueRejected,
    Field,
    Record,
)
from lianxin.parties.decision_consents import MODES, Consent, ConsentRejected, Registry, verify_record

__all__ = [
    "AGGREGATE",
    "FIELD_ID",
    "MODES",
    "PURPOSES",
    "SUBJECT_TYPES",
    "Catalogue",
    "CatalogueRejected",
    "Consent",
    "ConsentRejected",
    "Decision",
    "Field",
    "Record",
    "Registry",
    "ReleaseDecision",
    "ReleaseRequest",
    "decide",
    "decide_field",
    "decide_firm",
    "decide_release",
    "verify_record",
]

AGGREGATE = "AGGREGATE"  # a statistic over enough rows: its fields are decided, its firms need no consent
_FIRM, _ALL = frozenset({"PUB", "LIM", "BIZ"}), frozenset({"PUB", "LIM", "BIZ", "PI", "SPI"})
PURPOSES = {  # pre-loan, approval, monitoring, training, validation, product matching, statistics, objections
    **dict.fromkeys(("P1", "P2", "P4", "P5", "P8"), _ALL),
    **{"P3": _ALL - {"SPI"}, "P6": _FIRM, "P7": _FIRM},
}
NAME_PURPOSES = frozenset({"P1", "P2", "P3", "P8"})
SIGNERS = {"ENT": ("legal_rep",), "IND": ("operator",), "NP": ("legal_rep", "operator", "shareholder")}


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
