"""What an auditor decides again: every release of a party, its fields by the contract and its rows by live consents.

`decision` is the gate's own rule book, run on the contract, the catalogue and the registry at the epoch that the leaf
names, with the leaf's time as `now`. A firm's row may leave by the newest consent that covers it; a consent that limits
its uses is counted over the other uses in the same ledger, each named by the leaf or else by its run. A desensitised
release leaves by a grade record that is in evidence, and that an earlier leaf says was measured.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from lianxin.crypto import canonical, merkle
from lianxin.crypto.errors import CryptoError
from lianxin.parties import decision, decision_consents
from lianxin.parties.auditor_evidence import Evidence, Finding, Record, Run, leaf_finding
from lianxin.parties.auditor_lines import Places
from lianxin.parties.auditor_registry import History

_KEPT = 512
_NAMED_RULE = re.compile(r"\(rule ([A-Z]+-?[A-Z0-9]+)\)\Z")


def release_findings(run: Run, own: Evidence) -> Iterator[Finding]:
    """Yield the releases whose terms, epoch or allowed and refused fields the rules do not give again."""
    history, gate = History(own), _gate(run, own)
    if gate is None:
        yield Finding(f"{own.party}: its catalogue cannot be read", f"ask {own.party} for the catalogue of the run")
        return
    measured = _measured(own)
    for index, leaf in own.of_kind("release", run.id):
        case = gate.case(leaf, history.at(own.epoch_before(index)))
        reason, rule = _release_fault(run, own, index, case), ""
        if not reason:
            reason, rule = _grade_fault(run, index, case, measured), "R22"
        if reason:
            rule = rule or _rule_in(reason)
            yield leaf_finding(own, index, reason, "by which right the fields left", rule)


def _rule_in(reason: str) -> str:
    """Return the rule that a sentence ends with, "" where it ends with none."""
    found = _NAMED_RULE.search(reason)
    return found.group(1) if found else ""


def _release_fault(run: Run, own: Evidence, index: int, case: "_Case") -> str:
    leaf, again = case.leaf, case.fields
    if leaf["contract_hash"] != run.contract_hash or leaf["provider"] != own.party:
        return "the release is under another contract or of another provider"
    if leaf["catalogue_hash"] != case.catalogue.digest:
        return "the release was decided under another catalogue than the one in evidence"
    if not case.has_registry or leaf["epoch"] != own.epoch_before(index):
        return f"the release was decided at epoch {leaf['epoch']}, which is not the registry's epoch at that leaf"
    refused = {(one["field"], one["rule"]) for one in leaf["refused"]}
    if set(again.allowed) != set(leaf["fields"]) or set(again.refused) != refused:
        odd = sorted(set(leaf["fields"]) ^ set(again.allowed)) or sorted(field for field, _ in refused)
        rules = dict(again.refused)
        return f"decided again, field {odd[0]} comes out otherwise (rule {rules.get(odd[0], 'none')})"
    return ""


def _grade_fault(run: Run, index: int, case: "_Case", measured: Mapping[str, int]) -> str:
    leaf, grade = case.leaf, case.request.grade
    if leaf["mode"] != decision.DESENSITISED:
        return ""
    if measured.get(grade, index) >= index:
        return "the release names a grade that no earlier leaf says was measured (rule R22)"
    table = leaf.get("table_hash")
    is_told = "table_hash" in leaf or run.version >= 3
    if is_told and table != case.grades.get(grade, {}).get("table_hash"):
        return "the release is of another table than the one that its grade was measured on (rule R22)"
    return ""


def _measured(own: Evidence) -> dict[str, int]:
    """Return each grade's hash with the index of the first leaf that says it was measured."""
    found: dict[str, int] = {}
    for index, leaf in own.of_kind("grade"):
        found.setdefault(leaf["grade_hash"], index)
    return found


def _grades(own: Evidence) -> dict[str, decision.Record]:
    """Return the grade records in evidence, each by the hash of what it really says."""
    return {canonical.record_hash(record): record for record in own.records.get("grades", []) if record}


def _request(leaf: Record) -> decision.ReleaseRequest:
    fields = (*leaf["fields"], *(one["field"] for one in leaf["refused"]))
    grade = text if isinstance(text := leaf.get("grade"), str) else ""
    words = (leaf["provider"], leaf["recipient"], leaf["purpose"], leaf["mode"], leaf["step"])
    return decision.ReleaseRequest(*words, fields, grade)


def _catalogue(own: Evidence) -> decision.Catalogue | None:
    try:
        return decision.Catalogue.from_csv_bytes(own.catalogue)
    except CryptoError:
        return None


def consent_findings(run: Run, own: Evidence) -> Iterator[Finding]:
    """Yield the releases whose consents were not live, do not cover them, or are not the ones committed to."""
    history, gate = History(own), _gate(run, own)
    for index, leaf in own.of_kind("release"):
        registry = history.at(own.epoch_before(index))
        if leaf["run"] == run.id and gate is not None:
            for reason in gate.consent_faults(index, gate.case(leaf, registry), history):
                yield leaf_finding(own, index, reason, "for the firm's consent", _rule_in(reason))
        history.note_uses(index, leaf)
    yield from _list_findings(run, own, history)


def _list_findings(run: Run, own: Evidence, history: History) -> Iterator[Finding]:
    """Yield the first list of consents that is a second one of its release, or the first of none that a leaf tells of.

    Nothing is decided by either, but who reads the lists alone would take them for something. Exports of before 0.6 could hold
    lists of releases that came after the last checkpoint.
    """
    releases, found = Places(), set[str]()
    for index in own.columns.of_kind("release"):
        releases.add(own.release_id(index).encode(), index)
    is_whole = any(leaf["event"] == "inputs-committed" for _, leaf in own.of_kind("contract", run.id))
    for at, release in history.lists():
        what = "" if release is not None else "is none"
        if release is not None and history.first_list(release) != at:
            what = "is a second one of its release"
        elif release is not None and is_whole and release not in releases:
            what = "is of no release in the ledger"
        if what and what not in found:
            found.add(what)
            said = f"{own.party}: release_consents.jsonl, line {at + 1}: the list of consents {what}"
            yield Finding(said, f"ask {own.party} for the list behind each release, once")


def _gate(run: Run, own: Evidence) -> "_Gate | None":
    catalogue = _catalogue(own)
    return None if catalogue is None else _Gate(run, catalogue, _grades(own))


class _Gate:
    """The gate's rules under one contract and catalogue. What it decided of the same rows and rights, it remembers: a run
    releases the same list of firms again and again."""

    def __init__(self, run: Run, catalogue: decision.Catalogue, grades: Mapping[str, decision.Record]) -> None:
        self._contract, self._catalogue, self._grades = run.contract, catalogue, grades
        self._decided: dict[tuple[decision.ReleaseRequest, bool], decision.ReleaseDecision] = {}
        self._faults: dict[tuple[object, ...], tuple[str, ...]] = {}

    def case(self, leaf: Record, registry: decision.Registry | None) -> "_Case":
        """Return the release's case; without a registry (an epoch that was not reached) it is decided on an empty one."""
        request, state = _request(leaf), registry or decision.Registry()
        key = (request, self._is_in_force(leaf["time"]))  # all that the decision on fields takes from the time
        if key not in self._decided:
            _make_room(self._decided)
            self._decided[key] = decision.decide_release(
                self._contract, self._catalogue, state, request, leaf["time"], self._grades
            )
        return _Case(leaf, state, self._catalogue, self._grades, request, self._decided[key], registry is not None)

    def _is_in_force(self, now: str) -> bool:
        return bool(self._contract["created_at"] <= now < self._contract["expires_at"])

    def consent_faults(self, index: int, case: "_Case", history: History) -> tuple[str, ...]:
        """Return what is wrong with the consents behind the release at `index`, "" for nothing."""
        leaf = case.leaf
        said = (
            leaf["consent_root"],
            leaf["consents"],
            leaf["rows"],
            case.has_registry,
            self._is_in_force(leaf["time"]),
        )
        key = (history.digest_of(index), case.request, *said, *history.era(leaf["time"]))
        if key in self._faults:
            return self._faults[key]
        ids = history.consents_of(index)
        faults = tuple(_consent_faults(case, history, ids))
        if not any(map(history.is_limited, _scopes(case.registry, ids or ()))):
            _make_room(self._faults)
            self._faults[key] = faults
        return faults


def _make_room(kept: dict[Any, Any]) -> None:
    if len(kept) >= _KEPT:
        kept.clear()


def _scopes(registry: decision.Registry, ids: Iterable[str]) -> Iterator[decision_consents.Scope]:
    found = (registry.consents.get(one) for one in ids)
    return (consent.scope for consent in found if consent is not None)


@dataclass(frozen=True)
class _Case:
    """One release decided again: its leaf, the registry at its epoch, and how the fields come out."""

    leaf: Record
    registry: decision.Registry
    catalogue: decision.Catalogue
    grades: Mapping[str, decision.Record]
    request: decision.ReleaseRequest
    fields: decision.ReleaseDecision
    has_registry: bool


def _consent_faults(case: _Case, history: History, ids: list[str] | None) -> Iterator[str]:
    if ids is None:
        yield "the list of consents behind the release is missing"
        return
    leaf = case.leaf
    root = merkle.root_of(one.encode() for one in sorted(ids)).hex()
    if root != leaf["consent_root"] or len(ids) != leaf["consents"] or len(ids) != len(set(ids)):
        yield "the list of consents is not the one that the leaf commits to"
    firms = {consent.record["subject_key"] for one in ids if (consent := case.registry.consents.get(one))}
    if (case.fields.needing_consent or case.fields.scores) and len(firms) < leaf["rows"]:
        yield f"{leaf['rows']} rows left by the consents of {len(firms)} firms (rule R02)"
    judges: dict[str, decision.Judge] = {}
    for consent_id in ids:
        rule = _consent_rule(case, consent_id, history, judges)
        if rule:
            yield f"consent {consent_id} was not live or does not cover the release (rule {rule})"


def _consent_rule(case: _Case, consent_id: str, history: History, judges: dict[str, decision.Judge]) -> str:
    consent = case.registry.consents.get(consent_id)
    if consent is None:
        return "R02"
    try:
        others = (one.id for one in case.registry.by_scope[consent.scope])  # the newest that is not used up wins
        uses = history.uses(others, but=case.leaf)
        again = _judge(case, consent.terms["subject_type"], judges).decide_firm(consent.subject, uses)
    except (KeyError, TypeError):  # a malformed record, which the registry's own check names
        return "R37"
    if not again.allow:
        return again.rule
    return "" if again.consents in ((), (consent_id,)) else "R03"


def _judge(case: _Case, kind: str, judges: dict[str, decision.Judge]) -> decision.Judge:
    """Return who decides on the firms of one kind of this release: one for all of them."""
    if kind not in judges:
        terms = (case.request, case.registry, case.leaf["time"], case.catalogue, kind, case.grades, case.fields.scores)
        judges[kind] = decision.Judge(case.fields.needed_by(kind), *terms)
    return judges[kind]
