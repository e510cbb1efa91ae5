"""Questions about releases: who got which field of whom, and which releases rest on a measured desensitisation.

`who_got` goes through each ledger twice: first to count what crossed behind the releases that are asked about, then to tell
them, one by one. In between it keeps, for each of these releases, its digest and three numbers.
"""

from array import array
from collections.abc import Iterator
from itertools import islice

from lianxin.crypto import canonical
from lianxin.crypto.errors import CryptoError
from lianxin.parties import decision
from lianxin.parties.auditor_evidence import Evidence, Record, Run
from lianxin.parties.auditor_questions import (
    Answer,
    Case,
    Row,
    Wanted,
    checked_wanted,
    consent_lists,
    digest_of,
    known_subject,
    number,
    subject_consents,
    text,
)

LISTED = 8  # so many consent ids stand in a row unless all are asked for
_MOST_FORMS = 63
_WHO = (
    "run", "time", "provider", "recipient", "purpose", "mode", "forms", "step", "round", "fields", "refused", "rows",
    "consents", "consent_ids", "consent_root", "contract_hash", "use", "operator", "code_version", "messages", "bytes",
    "leaf", "release",
)  # fmt: skip
_WHO_SHOWN = (
    "time", "provider", "recipient", "purpose", "mode", "forms", "step", "fields", "rows", "consents", "operator",
    "messages", "bytes", "leaf",
)  # fmt: skip
_CANNOT_WHO = (
    "Evidence cannot tell the values themselves, nor which firms are in a release that needs no consent (open fields, "
    "statistics): their commitments open with the provider's salts (`lianxin ledger prove --firm`). What left without a leaf "
    "at either end is not seen."
)
_GRADED = (
    "run", "time", "provider", "recipient", "purpose", "step", "fields", "rows", "grade", "model", "level", "k", "l",
    "theta_max_ppm", "risk_ppm", "accepted", "measured_leaf", "holds", "why", "leaf",
)  # fmt: skip
_GRADED_SHOWN = (
    "time", "provider", "recipient", "step", "fields", "rows", "model", "level", "k", "risk_ppm", "measured_leaf", "holds",
    "why", "leaf",
)  # fmt: skip
_CANNOT_GRADED = (
    "Evidence cannot tell whether the measure was taken of the table that it names: that table never leaves its owner, who can "
    "show it to you and measure again (`lianxin desensitise`)."
)


class _Chosen:
    """The releases of one ledger that are asked about, and how often, how much and in which forms they crossed."""

    def __init__(self) -> None:
        self._place: dict[bytes, int] = {}
        self.leaves = array("Q")
        self.messages, self.bytes, self.forms = array("Q"), array("Q"), array("Q")
        self.all_messages = self.all_bytes = 0

    def __contains__(self, release: str) -> bool:
        return digest_of(release) in self._place

    def add(self, release: str, leaf: int) -> None:
        """Take in the release at this leaf; equal leaves have one id, and the first of them counts."""
        if self._place.setdefault(digest_of(release), len(self.leaves)) == len(self.leaves):
            self.leaves.append(leaf)
            for column in (self.messages, self.bytes, self.forms):
                column.append(0)

    def count(self, releases: list[str], size: int, forms: int) -> None:
        """Count a message at each release behind it that is asked about, and once in all if there is any."""
        places = {place for one in releases if (place := self._place.get(digest_of(one), -1)) >= 0}
        for place in places:
            self.messages[place] += 1
            self.bytes[place] += size
            self.forms[place] |= forms
        self.all_messages += bool(places)
        self.all_bytes += size * bool(places)


class _Forms:
    """Names of forms as bits of a number."""

    def __init__(self) -> None:
        self._bits: dict[str, int] = {}

    def bits(self, leaf: Record) -> int:
        """Return the forms of an envelope's leaf."""
        found = 0
        for one in leaf["forms"]:
            if len(self._bits) < _MOST_FORMS or one["form"] in self._bits:
                found |= 1 << self._bits.setdefault(one["form"], len(self._bits))
        return found

    def names(self, bits: int) -> list[str]:
        """Return the names of these bits, sorted."""
        return sorted(name for name, bit in self._bits.items() if bits >> bit & 1)


def who_got(case: Case, wanted: Wanted, firm: str = "", all_ids: bool = False) -> Answer:
    """Answer who got which fields of whom, when, for what and by which right; a row a release, the columns `_WHO`.

    `firm` is a subject key: then only releases that a consent of this firm stands behind. Up to `LISTED` consent ids stand in
    a row, all of them with `all_ids`; a consent's root commits to them all. `forms`, `messages` and `bytes` are of the
    envelopes that left with the release behind them. Raises QuestionFault for a name that the evidence has not.
    """
    wanted = checked_wanted(case, wanted)
    said: list[str] = []
    subject = known_subject(firm) if firm else ""
    return Answer("who-got", _WHO, _WHO_SHOWN, _releases(case, wanted, subject, all_ids, said), said, _CANNOT_WHO)


def _releases(case: Case, wanted: Wanted, firm: str, all_ids: bool, said: list[str]) -> Iterator[Row]:
    releases = messages = size = 0
    for own in case.ledgers.values():
        names = set(subject_consents(own, firm)) if firm else None
        chosen, forms, listed = _chosen(own, wanted, names, all_ids)
        for place, index in enumerate(chosen.leaves):
            row = _who_row(own, index, listed) | {"forms": forms.names(chosen.forms[place])}
            row |= {"messages": chosen.messages[place], "bytes": chosen.bytes[place]}
            yield row
        releases, messages, size = (
            releases + len(chosen.leaves),
            messages + chosen.all_messages,
            size + chosen.all_bytes,
        )
    of_firm = " that a consent of this firm stands behind" if firm else ""
    said.append(f"{releases} releases{of_firm}; {messages} messages of {size} bytes left behind them")
    said += case.silence()


def _chosen(
    own: Evidence, wanted: Wanted, names: set[str] | None, all_ids: bool
) -> tuple[_Chosen, _Forms, dict[str, list[str]]]:
    """Return the releases asked about with what crossed behind them, and the consent ids that are to be told of them.

    `names` are a firm's consents, None when no firm is asked about.
    """
    held = None if names is None else {name for name, ids in consent_lists(own) if not names.isdisjoint(ids)}
    chosen, forms = _Chosen(), _Forms()
    for index, leaf in own.of_kind("release", wanted.run or None):
        if wanted.holds(leaf) and (held is None or own.release_id(index) in held):
            chosen.add(own.release_id(index), index)
    for _, leaf in own.of_kind("envelope", wanted.run or None):
        if leaf["direction"] == "out" and leaf["decision"] != "refuse":
            chosen.count(leaf["releases"], number(leaf, "size_bytes"), forms.bits(leaf))
    return chosen, forms, _listed(own, chosen, names, all_ids)


def _listed(own: Evidence, chosen: _Chosen, names: set[str] | None, all_ids: bool) -> dict[str, list[str]]:
    found = {}
    for release, ids in consent_lists(own):
        told = ids if names is None or all_ids else [one for one in ids if one in names]
        if release in chosen and (all_ids or len(told) <= LISTED):
            found[release] = list(told)
    return found


def _who_row(own: Evidence, index: int, listed: dict[str, list[str]]) -> Row:
    leaf, release = own.leaves[index], own.release_id(index)
    same = (
        "run", "time", "provider", "recipient", "purpose", "mode", "step", "rows", "consents", "consent_root",
        "contract_hash", "operator", "code_version",
    )  # fmt: skip
    row: Row = {name: leaf[name] for name in same}
    row |= {"round": number(leaf, "round"), "fields": leaf["fields"], "use": text(leaf, "use"), "leaf": index}
    row |= {"refused": [f"{one['field']} ({one['rule']})" for one in leaf["refused"]], "release": release}
    return row | {"consent_ids": listed.get(release, [])}


def desensitised(case: Case, run: str = "") -> Answer:
    """Answer which releases left as desensitised, by which measured grade, and whether that grade carries them.

    A row a release; `holds` says that each of its fields is let through again by the pure rules of R22 on the grade record in
    evidence, that an earlier leaf says it was measured, and of the same table. Raises QuestionFault for an unknown run.
    """
    said: list[str] = []
    rows = _graded_releases(case, checked_wanted(case, Wanted(run=run)), said)
    return Answer("desensitised", _GRADED, _GRADED_SHOWN, rows, said, _CANNOT_GRADED)


def _graded_releases(case: Case, wanted: Wanted, said: list[str]) -> Iterator[Row]:
    count = failed = 0
    for own in case.ledgers.values():
        grades = _grades(case, own)
        measured: dict[str, int] = {}
        for index, leaf in own.of_kind("grade"):
            measured.setdefault(leaf["grade_hash"], index)
        for index, leaf in own.of_kind("release", wanted.run or None):
            if leaf["mode"] == decision.DESENSITISED or text(leaf, "grade"):
                row = _grade_row(case, own, index, leaf, grades, measured)
                count, failed = count + 1, failed + (not row["holds"])
                yield row
    said.append(f"{count} releases rest on a desensitisation; the grade of {failed} of them does not carry them")
    said += case.silence()


def _grades(case: Case, own: Evidence) -> dict[str, Record]:
    """Return the grade records in all of a party's evidence, each by the hash of what it really says."""
    parts = [run.evidence[own.party] for run in case.runs.values() if own.party in run.evidence]
    found = (record for part in parts for record in part.records.get("grades", ()) if record)
    return {canonical.record_hash(record): record for record in found}


def _grade_row(
    case: Case, own: Evidence, index: int, leaf: Record, grades: dict[str, Record], measured: dict[str, int]
) -> Row:
    name = text(leaf, "grade")
    record = grades.get(name, {})
    why = _grade_fault(case, own, index, leaf, grades, measured)
    row: Row = {one: leaf[one] for one in ("run", "time", "provider", "recipient", "purpose", "step", "rows", "fields")}
    row |= {one: number(record, one) for one in ("k", "l", "theta_max_ppm", "risk_ppm")}
    row |= {"grade": name, "model": text(record, "model"), "level": number(record, "grade"), "leaf": index}
    row |= {"accepted": record.get("accepted") is True, "measured_leaf": measured.get(name, -1)}
    return row | {"holds": not why, "why": why}


def _grade_fault(
    case: Case, own: Evidence, index: int, leaf: Record, grades: dict[str, Record], measured: dict[str, int]
) -> str:
    name = text(leaf, "grade")
    if name not in grades:
        return "its grade record is not in evidence"
    if measured.get(name, index) >= index:
        return "no earlier leaf says that the grade was measured"
    if text(leaf, "table_hash") != text(grades[name], "table_hash"):
        return "it is of another table than the grade was measured on"
    run = case.runs.get(leaf["run"])
    if run is None or own.party not in run.evidence:
        return "the contract of its run is not in evidence"
    refused = list(islice(_refused(run, own, leaf, grades), 1))
    return f"field {refused[0]} is not carried by the grade (rule R22)" if refused else ""


def _refused(run: Run, own: Evidence, leaf: Record, grades: dict[str, Record]) -> Iterator[str]:
    words = (leaf["provider"], leaf["recipient"], leaf["purpose"], decision.DESENSITISED, leaf["step"])
    request = decision.ReleaseRequest(*words, tuple(leaf["fields"]), text(leaf, "grade"))
    try:
        catalogue = decision.Catalogue.from_csv_bytes(run.evidence[own.party].catalogue)
    except CryptoError:
        yield from leaf["fields"]
        return
    for name in leaf["fields"]:
        again = decision.decide_field(name, request, run.contract, catalogue, leaf["time"], grades)
        if not again.allow:
            yield name
