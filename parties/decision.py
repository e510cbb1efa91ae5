"""Who may send which field of which firm to whom: the rules R01..R39 as one pure, total function.

`decide` walks the gate's order, denying by default: class known (R13), prohibited (R20), purpose and field agreed
(R01), names and identifiers kept out of models (R11), recipient a party (R09) and no platform operator for plaintext
(R18), written agreement (R08), impact assessment (R15), contract in force (R38), lawful basis (R02), mode known (R03)
and under the field's ceiling (R39, R12), a measured grade behind what is desensitised (R22); then one live consent of
the firm covers every field that needs one, by a signer with the power to give it. Nothing reads a clock, a file or a
random number: contract, catalogue, grades and the registry's first `epoch` records give an auditor the gate's own
answer. A score of a firm leaves by a live consent in its mode even where all it is made of is open (from contract version
4 on). Times compare as text. Which rule a refusal names depends on no order of fields or of consents.

A trade secret crosses by authorisation or desensitised; personal information by authorisation, desensitised or not. In
mode SPLITS a recipient learns on which side of a model's cuts a row lies: a bit of a value, so what is held for computing
alone (R39, R12) is kept back as it is from every reader, and each firm's consent is to mode DESENSITISED or above, while
no measured grade is asked for, since nothing is published and the firm itself has agreed.

Sources: Personal Information Protection Law 6, 13-15, 20, 23, 27-30, 55; Credit Reporting Regulation 13, 14, 18; Data
Security Law 38; Anti-Unfair Competition Law 9. A sole trader (`IND`) counts as a natural person: nothing of it is open,
its trade secrets are personal information, and a secret that the catalogue declares for enterprises alone needs its
written consent. `decision_rules` has every rule with its source and its place.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from operator import itemgetter

from lianxin.parties.decision_catalogue import (
    FIELD_ID,
    SUBJECT_TYPES,
    Catalogue,
    CatalogueRejected,
    Field,
    Record,
)
from lianxin.parties.decision_consents import MODES, Consent, Registry
from lianxin.parties.decision_grades import transform_of
from lianxin.parties.decision_purposes import PURPOSES
from lianxin.parties.decision_signers import PERSON_ROLES, ConsentRejected, verify_record

__all__ = [
    "AGGREGATE",
    "DESENSITISED",
    "FIELD_ID",
    "GATE_ORDER",
    "MODES",
    "PURPOSES",
    "SPLITS",
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
DESENSITISED = "DESENSITISED"  # the mode, and the right of a field that crosses by its measured grade alone
SCORE_STEPS = frozenset({"scoring.points", "boosting.score", "scoring.answer"})  # in which a firm's score leaves
SPLITS = "SPLITS"  # a row's sides of a model's cuts, by consents to mode DESENSITISED and by no grade
_PERSONAL = ("PI", "SPI")
_NAMED = itemgetter("provider", "field")
_UNNAMED_TERMS = (1, 2)  # contract versions without agreement, impact assessment and lawful basis
_NETWORKS = ("logistic", "mlp", "tabular")  # models that are trained across banks; the platform adds up alone
_FREE_SCORES = (1, 2, 3)  # contract versions in which a score of open fields alone asked for no consent
GATE_ORDER = (
    "R13", "R20", "R01", "R11", "R09", "R18", "R08", "R15", "R38", "R02", "R03", "R12", "R39", "R22",
)  # fmt: skip
_STATE_RULES = {"REVOKED": "R04", "INVALID": ""}  # replaced by a newer one: R03, told only where nothing else is
_FIRM_ORDER = ("", "R04", "R38", "R37", "R03", "R12", "R09", "R29", "R20", "R25")
SIGNERS = {"ENT": ("legal_rep",), "IND": ("operator",), "NP": PERSON_ROLES}


@dataclass(frozen=True, slots=True)
class ReleaseRequest:
    """What one party asks to send another: `fields` of `provider` to `recipient`, in `mode`, at `step` of a run.

    `grade` is the hash of the grade record by which fields in mode DESENSITISED cross.
    """

    provider: str
    recipient: str
    purpose: str
    mode: str
    step: str
    fields: tuple[str, ...]
    grade: str = ""


@dataclass(frozen=True, slots=True)
class Decision:
    """`rule` is a refusal's rule id; when allowed, the right: OPEN, CONSENT, DESENSITISED, AGGREGATE.

    `consents` are those used, `transform` what the grade says of the field in mode DESENSITISED.
    """

    allow: bool
    rule: str
    needs_consent: bool = False
    transform: str = "none"
    consents: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ReleaseDecision:
    """The field-level part of a release; `rule` is empty unless no field may cross: then it is `refusal`.

    With `scores` each firm needs a live consent, even where no field does.
    """

    allowed: tuple[str, ...]
    refused: tuple[tuple[str, str], ...]
    needing_consent: tuple[str, ...]
    rule: str = ""
    scores: bool = False

    @property
    def refusal(self) -> str:
        """The refused fields' rule that comes first in the gate's order, "" when none is refused."""
        return min((rule for _, rule in self.refused), key=GATE_ORDER.index, default="")

    def needed_by(self, subject_type: str) -> tuple[str, ...]:
        """Return the fields that this subject's consent must cover: of a natural person, all that are allowed."""
        return self.needing_consent if subject_type == "ENT" else self.allowed


def decide_field(
    field_id: str, request: ReleaseRequest, contract: Record, catalogue: Catalogue, now: str | None = None,
    grades: Mapping[str, Record] | None = None,
) -> Decision:  # fmt: skip
    """Return whether contract (in force at `now`, where given) and class let the field cross; no contract, no field.

    `grades` are the provider's grade records by their hash; without them nothing crosses desensitised.
    """
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
    if request.mode == DESENSITISED:
        return _desensitised(entry, request, grades)
    is_open = _is_open(entry, request)
    return Decision(True, "OPEN" if is_open else "CONSENT", not is_open)


def _desensitised(entry: Field, request: ReleaseRequest, grades: Mapping[str, Record] | None) -> Decision:
    transform = transform_of(entry.id, request.provider, request.grade, grades, entry.class_, request.step)
    if not transform:
        return Decision(False, "R22")
    is_personal = entry.class_ in _PERSONAL and not _is_open(entry, request)
    return Decision(True, "CONSENT" if is_personal else DESENSITISED, is_personal, transform)


def _is_open(entry: Field, request: ReleaseRequest) -> bool:
    """What the law publishes is open in every mode, limited data where no row can be read (R19); nothing else is."""
    if entry.default_release == "OPEN":
        return entry.class_ == "PUB" or (entry.class_ == "LIM" and request.mode in MODES[:2])
    return entry.default_release == "OPEN_NAME" and entry.is_duty and PURPOSES[request.purpose].duty


def _field_rule(entry: Field, request: ReleaseRequest, contract: Record, now: str | None) -> str:
    uses = {
        listed["use"] for listed, (provider, name) in zip(contract["fields"], map(_NAMED, contract["fields"]), strict=True)
        if name == entry.id and (provider == request.provider or _is_handed_on(listed, request, contract))
    }  # fmt: skip
    roles = {party["party"]: party.get("role") for party in contract["parties"]}
    purpose = PURPOSES.get(request.purpose)
    is_for = purpose is not None and purpose.admits(entry.class_, entry.category)
    is_name = entry.default_release == "OPEN_NAME" and not (purpose and purpose.names)
    is_operator = roles.get(request.recipient) == "platform" and request.mode == "PLAINTEXT"
    refusals = {
        "R20": entry.class_ == "BAN" or entry.default_release == "NEVER",
        "R01": not uses or request.purpose != contract["purpose"] or not is_for,
        "R11": is_name or (entry.id_role == "DI" and "feature" in uses and not _is_read_only(contract)),
        "R09": request.recipient == request.provider or not {request.recipient, request.provider} <= roles.keys(),
        "R18": is_operator and entry.class_ in ("BIZ", *_PERSONAL),
        **_term_refusals(contract, now),
        "R03": request.mode not in (*MODES, SPLITS, AGGREGATE),
        "R12" if entry.class_ == "SPI" else "R39": entry.default_release == "COMPUTE" and is_shown(request.mode),
    }
    return next((rule for rule, holds in refusals.items() if holds), "")


def _is_handed_on(listed: Record, request: ReleaseRequest, contract: Record) -> bool:
    """Return whether a platform hands an aggregate over the banks' fields on to a bank: a network's weights."""
    is_network = contract.get("model") in _NETWORKS and request.mode == AGGREGATE
    is_from_platform = request.provider == contract.get("platform") != request.recipient
    return bool(is_network and is_from_platform and listed["use"] != "identifier")


def is_shown(mode: str) -> bool:
    """Return whether the recipient of rows in this mode reads something of their values, and computes not only on them."""
    return mode == SPLITS or mode in MODES[2:]


def _is_read_only(contract: Record) -> bool:
    return contract.get("model") == "field_query"  # nothing is trained: a name is shown, and is no feature of a model


def _term_refusals(contract: Record, now: str | None) -> dict[str, bool]:
    """Whether each rule on the contract's own terms refuses; the versions that could not name them are not asked."""
    is_asked = not (type(contract.get("version")) is int and contract["version"] in _UNNAMED_TERMS)
    named = {key: is_asked and not _is_named(contract.get(key)) for key in ("agreement", "impact_assessment")}
    return {
        "R08": named["agreement"],
        "R15": named["impact_assessment"],
        "R38": now is not None and not contract["created_at"] <= now < contract["expires_at"],
        "R02": is_asked and contract.get("lawful_basis") != "consent",
    }


def _is_named(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def decide_release(
    contract: Record, catalogue: Catalogue, registry: Registry, request: ReleaseRequest, now: str,
    grades: Mapping[str, Record] | None = None,
) -> ReleaseDecision:  # fmt: skip
    """Return the field-level part of a release; it names the registry's snapshot, which changes the firms only."""
    decisions = {name: decide_field(name, request, contract, catalogue, now, grades) for name in request.fields}
    allowed = tuple(name for name, decision in decisions.items() if decision.allow)
    refused = tuple((name, decision.rule) for name, decision in decisions.items() if not decision.allow)
    needing = tuple(name for name in allowed if decisions[name].needs_consent)
    release = ReleaseDecision(allowed, refused, needing, scores=_is_score(contract, request))
    return release if allowed else replace(release, rule=release.refusal or "R01")


def _is_score(contract: Record, request: ReleaseRequest) -> bool:
    version = contract.get("version")
    return request.step in SCORE_STEPS and not (type(version) is int and version in _FREE_SCORES)


@dataclass(frozen=True, slots=True)
class _Need:
    """What a consent of one type of subject must say to cover these fields; `missing` is the rule for having none.

    `persons` are the classes that a natural person must sign for beside the firm, `foreign` those nobody could sign for.
    """

    fields: frozenset[str]
    classes: frozenset[str]
    persons: frozenset[str]
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
    persons = {e.class_ for e in entries if e.class_ in _PERSONAL
               and not is_person and (e.concerns("NP") or not e.concerns("ENT"))}  # fmt: skip
    missing = next((rule for name, rule in (("SPI", "R12"), ("PI", "R09"), ("BIZ", "R39")) if name in raised), "R02")
    classes = (frozenset(raised), frozenset(persons), frozenset(unknown))
    return _Need(frozenset(fields), *classes, bool(written), missing)


def decide_firm(
    subject_key: str, fields_needing_consent: Sequence[str], request: ReleaseRequest, registry: Registry, now: str,
    catalogue: Catalogue, subject_type: str | None = None, uses: Mapping[str, int] | None = None,
    grades: Mapping[str, Record] | None = None, scores: bool | None = None,
) -> Decision:  # fmt: skip
    """Return whether one live consent of this firm covers all these fields for this request.

    A score is the firm's own: with `scores` (by default in every step of SCORE_STEPS; a `ReleaseDecision` says what its
    contract asks for) the firm needs a live consent in the mode, whatever the class of the fields, also for none.

    `subject_type` is what the provider knows the firm to be; without it (the auditor) a consent is judged as what it
    says it is. `uses` counts the other uses of a limited consent. The newest consent that covers wins. A refusal's rule
    is the shortfall of the consent that came nearest, or where there is none the strictest class's rule.
    """
    judge = Judge(fields_needing_consent, request, registry, now, catalogue, subject_type, grades, scores)
    return judge.decide_firm(subject_key, uses)


class Judge:
    """The question of `decide_firm` asked of many firms at one instant: what is the same for all is found out once.

    What a consent's terms, fields, mode and having co-signers come to is kept while the judge lives, since thousands of firms
    sign the same; whether it is live is asked each time. One release, one judge: it is never kept for the next.
    """

    def __init__(
        self, fields_needing_consent: Sequence[str], request: ReleaseRequest, registry: Registry, now: str,
        catalogue: Catalogue, subject_type: str | None = None, grades: Mapping[str, Record] | None = None,
        scores: bool | None = None,
    ) -> None:  # fmt: skip
        self._fields, self._request, self._registry = tuple(fields_needing_consent), request, registry
        self._now, self._catalogue, self._type = now, catalogue, subject_type
        asks = request.step in SCORE_STEPS if scores is None else scores
        self._same_for_all = self._without_consent(grades, not self._fields and not asks)
        self._scope_rules: dict[tuple[int, int, int, bool], tuple[Consent, str]] = {}

    def _without_consent(self, grades: Mapping[str, Record] | None, is_free: bool) -> Decision | None:
        """Return what is decided whatever a firm consented to, None where its consents are asked."""
        rule = _row_rule(self._fields, self._request, self._type, grades, self._catalogue)
        if rule:
            return Decision(False, rule)
        is_raw = self._request.mode != DESENSITISED
        return Decision(True, "OPEN" if is_raw else DESENSITISED) if is_free else None

    def decide_firm(self, subject_key: str, uses: Mapping[str, int] | None = None) -> Decision:
        """Return what the function of this name says of this firm."""
        if self._same_for_all is not None:
            return self._same_for_all
        rules, uses, request = [], uses or {}, self._request
        for consent in self._registry.by_scope.get((subject_key, request.recipient, request.purpose), ()):
            state = self._registry.state_of(consent.id, self._now, uses.get(consent.id, 0))
            rule = self._scope_rule(consent) if state == "ACTIVE" else _STATE_RULES.get(state, "R38")
            if state == "ACTIVE" and not rule:
                return Decision(True, "CONSENT", True, consents=(consent.id,))
            rules.append(rule)
        if not rules:
            return Decision(False, _need(self._catalogue, self._fields, self._type or "ENT").missing, True)
        return Decision(False, max(rules, key=_FIRM_ORDER.index) or "R03", True)

    def _scope_rule(self, consent: Consent) -> str:
        key = (id(consent.terms), id(consent.fields), consent.mode, bool(consent.persons))
        known = self._scope_rules.get(key)
        if known is None:  # kept with the consent, so that nothing else takes the place that an id names
            rule = _scope_rule(consent, self._fields, self._request, self._catalogue, self._type)
            known = self._scope_rules[key] = consent, rule
        return known[1]


def _row_rule(
    fields: tuple[str, ...], request: ReleaseRequest, subject_type: str | None, grades: Mapping[str, Record] | None,
    catalogue: Catalogue,
) -> str:  # fmt: skip
    """Return the rule that keeps the row of any firm of this type back, whatever it consented to."""
    purpose = PURPOSES.get(request.purpose)
    class_of = {name: catalogue[name].class_ if name in catalogue else "" for name in fields}
    is_graded = all(
        transform_of(name, request.provider, request.grade, grades, class_of[name], request.step) for name in fields
    )
    refusals = {
        "R03": request.mode not in (*MODES, SPLITS),
        "R01": purpose is None,
        "R29": purpose is not None and not purpose.persons and subject_type in ("IND", "NP"),
        "R22": request.mode == DESENSITISED and not is_graded,
    }
    return next((rule for rule, holds in refusals.items() if holds), "")


def _scope_rule(
    consent: Consent, fields: tuple[str, ...], request: ReleaseRequest, catalogue: Catalogue, subject_type: str | None
) -> str:
    record = consent.record
    has_attorney = record["signer_role"] == "agent" and "power_of_attorney_digest" in record
    need = _need(catalogue, fields, record["subject_type"])
    foreign = need.foreign if consent.persons else need.foreign | need.persons
    is_informed = record["separate_consent"] and "necessity_text" in record and "impact_text" in record
    refusals = {
        "R37": not has_attorney and record["signer_role"] not in SIGNERS.get(record["subject_type"], ()),
        "R03": (DESENSITISED if request.mode == SPLITS else request.mode) not in MODES[: consent.mode + 1]
        or not need.fields <= consent.fields,
        "R12": "SPI" in foreign or ("SPI" in need.classes and not is_informed),
        "R09": record["provider"] != request.provider
        or (subject_type or record["subject_type"]) != record["subject_type"]
        or "PI" in foreign
        or ("PI" in need.classes and not record["separate_consent"]),
        "R29": not PURPOSES[request.purpose].persons and record["subject_type"] != "ENT",
        "R20": need.is_written and not record["written"],
        "R25": request.mode == "PLAINTEXT" and not need.classes.isdisjoint(_PERSONAL) and not record["written"],
    }
    return next((rule for rule, holds in refusals.items() if holds), "")


def decide(
    request: ReleaseRequest, subject_key: str, contract: Record, registry: Registry, catalogue: Catalogue, now: str,
    subject_type: str = "ENT", grades: Mapping[str, Record] | None = None, uses: Mapping[str, int] | None = None,
) -> Decision:  # fmt: skip
    """Return whether all of the request's fields of this one firm may cross: the fields first, then the firm."""
    release = decide_release(contract, catalogue, registry, request, now, grades)
    if release.refused or release.rule:
        return Decision(False, release.refusal or release.rule)
    needed = release.needed_by(subject_type)
    terms = (registry, now, catalogue, subject_type, uses, grades, release.scores)
    return decide_firm(subject_key, needed, request, *terms)
