"""A sample of releases, drawn by the auditor's own seed, verified again consent by consent, with the papers to ask for.

Drawn are the releases whose SHA-256 with the seed is smallest, so that the same seed draws the same ones whatever the order,
and nobody who does not know the seed can tell which. A release's consents are checked for their signatures, for the notice
they were given on, and for whether each covers what left (`decision`), at the epoch and the time of the leaf.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import nsmallest

from lianxin.crypto import canonical, merkle
from lianxin.crypto.errors import CryptoError
from lianxin.parties import decision
from lianxin.parties.auditor_evidence import Evidence, Record, Run
from lianxin.parties.auditor_questions import (
    Answer,
    Case,
    Cell,
    QuestionFault,
    Row,
    Wanted,
    checked_wanted,
    consent_lists,
    text,
)
from lianxin.parties.auditor_questions_signers import UNFIT, is_signed, keys_for
from lianxin.parties.auditor_registry import History

MOST, PAPERS = 10_000, 3
_COLUMNS = (
    "run", "time", "provider", "recipient", "purpose", "mode", "fields", "rows", "what", "consents", "signed", "notices",
    "in_scope", "holds", "consent", "detail", "leaf", "release",
)  # fmt: skip
_SHOWN = (
    "time", "provider", "recipient", "what", "rows", "consents", "signed", "notices", "in_scope", "holds", "consent", "detail",
    "leaf",
)  # fmt: skip
_CANNOT = (
    "Evidence cannot tell whether the paper says what the record says, whether a key was its firm's own, nor what a notice "
    "that is in no request said: these are the papers to ask for."
)


def sample(case: Case, count: int, seed: str, run: str = "") -> Answer:
    """Answer how `count` releases that rest on consents hold when verified again, drawn by `seed` from one run or all.

    A row `release` counts, of its `consents`, those that are `signed` as they have to be, whose notice stands in a request with
    the same hash (`notices`), and that cover the release (`in_scope`); `holds` asks for all signed and in scope, for no notice
    that differs, and for the list that the leaf commits to. After it, rows `paper`: consents to ask the originals of. Raises
    QuestionFault.
    """
    if not 1 <= count <= MOST or not seed:
        raise QuestionFault(f"a sample has from 1 to {MOST} releases and a seed that you chose")
    said: list[str] = []
    rows = _sampled(case, count, seed, checked_wanted(case, Wanted(run=run)), said)
    return Answer("sample", _COLUMNS, _SHOWN, rows, said, _CANNOT)


def _rank(*words: str) -> bytes:
    return hashlib.sha256(b"lianxin/audit-sample\x00" + "\x00".join(words).encode()).digest()


def _sampled(case: Case, count: int, seed: str, wanted: Wanted, said: list[str]) -> Iterator[Row]:
    drawn = nsmallest(count, _ranked(case, seed, wanted))
    total = sum(bool(leaf["consents"]) for own in case.ledgers.values() for _, leaf in _released(own, wanted))
    failed = 0
    for own in case.ledgers.values():
        indices = sorted(index for _, party, index in drawn if party == own.party)
        for verified in _verified(case, own, indices):
            failed += not verified["holds"]
            papers = _papers(own, verified, seed)
            yield {name: cell for name, cell in verified.items() if name != "ids"}
            yield from papers
    said.append(f"{len(drawn)} of {total} releases that rest on consents were drawn; {failed} of them do not hold")
    said += case.silence()


def _released(own: Evidence, wanted: Wanted) -> Iterator[tuple[int, Record]]:
    return ((index, leaf) for index, leaf in own.of_kind("release", wanted.run or None) if wanted.holds(leaf))


def _ranked(case: Case, seed: str, wanted: Wanted) -> Iterator[tuple[bytes, str, int]]:
    for own in case.ledgers.values():
        for index, leaf in _released(own, wanted):
            if leaf["consents"]:
                yield _rank(seed, own.release_id(index)), own.party, index


@dataclass(frozen=True)
class _Given:
    """What was found of a consent's record: its signatures, and its notice beside the one that a request showed."""

    is_signed: bool
    notice: str
    shown: str
    record: Record


def _verified(case: Case, own: Evidence, indices: Sequence[int]) -> Iterator[Row]:
    """Yield a row for each of these releases of one ledger, with the consents' ids as `ids`."""
    wanted = {own.release_id(index) for index in indices}
    lists = {release: list(ids) for release, ids in consent_lists(own) if release in wanted}
    given = _given(own, {name for ids in lists.values() for name in ids})
    history, due = History(own), set(indices)
    for index, leaf in own.of_kind("release") if indices else ():
        registry = history.at(own.epoch_before(index))
        if index in due:
            ids = lists.get(own.release_id(index))
            uses = history.uses([other.id for name in ids or () for other in _beside(registry, name)], but=leaf)
            in_scope = _in_scope(case, own, leaf, registry, ids or [], uses)
            yield _release_row(own, index, ids, given, in_scope)
        history.note_uses(index, leaf)


def _beside(registry: decision.Registry | None, name: str) -> tuple[decision.Consent, ...]:
    consent = registry.consents.get(name) if registry else None
    return registry.by_scope[consent.scope] if registry and consent else ()


def _given(own: Evidence, names: set[str]) -> dict[str, _Given]:
    asked: dict[str, str] = {}
    found: dict[str, _Given] = {}
    keys, kinds = keys_for(own, (signed for _, signed in _of(own, names, "consent")))
    for name, signed in _of(own, names, "consent-request"):
        try:
            asked[name] = canonical.record_hash(signed["record"]["notice"])
        except UNFIT:
            asked[name] = "none"
    for name, signed in _of(own, names, "consent"):
        record, notice = signed["record"], text(signed["record"], "notice_hash")
        kept = {one: record[one] for one in _PAPER_KEYS if one in record}
        found.setdefault(name, _Given(is_signed(signed, keys, kinds), notice, asked.get(name, ""), kept))
    return found


def _of(own: Evidence, names: set[str], kind: str) -> Iterator[tuple[str, Record]]:
    for signed in own.records["registry"] if names else ():
        record = signed.get("record")
        if isinstance(record, dict) and record.get("type") == kind and record.get("consent_id") in names:
            yield record["consent_id"], signed


def _in_scope(
    case: Case,
    own: Evidence,
    leaf: Record,
    registry: decision.Registry | None,
    ids: Sequence[str],
    uses: Mapping[str, int],
) -> set[str]:
    """Return which of these consents cover the release when it is decided again, each as the newest of its scope that does."""
    run = case.runs.get(leaf["run"])
    if run is None or registry is None or own.party not in run.evidence:
        return set()
    try:
        catalogue = decision.Catalogue.from_csv_bytes(run.evidence[own.party].catalogue)
    except CryptoError:
        return set()
    judge = _Judge(run, leaf, registry, catalogue, _grades(run, own), uses)
    return {name for name in ids if judge.covers(name)}


@dataclass(frozen=True)
class _Judge:
    run: Run
    leaf: Record
    registry: decision.Registry
    catalogue: decision.Catalogue
    grades: Mapping[str, Record]
    uses: Mapping[str, int]

    def covers(self, name: str) -> bool:
        leaf, consent = self.leaf, self.registry.consents.get(name)
        if consent is None:
            return False
        words = (leaf["provider"], leaf["recipient"], leaf["purpose"], leaf["mode"], leaf["step"])
        request = decision.ReleaseRequest(*words, tuple(leaf["fields"]), text(leaf, "grade"))
        now, kind = leaf["time"], consent.terms["subject_type"]
        fields = decision.decide_release(self.run.contract, self.catalogue, self.registry, request, now, self.grades)
        needed, terms = fields.needed_by(kind), (self.registry, now, self.catalogue, kind, self.uses, self.grades)
        try:
            again = decision.decide_firm(consent.subject, needed, request, *terms, fields.scores)
        except (KeyError, TypeError):
            return False
        return again.allow and again.consents in ((), (name,)) and set(fields.allowed) == set(leaf["fields"])


def _grades(run: Run, own: Evidence) -> dict[str, Record]:
    found = (record for record in run.evidence[own.party].records.get("grades", ()) if record)
    return {canonical.record_hash(record): record for record in found}


def _release_row(
    own: Evidence, index: int, ids: list[str] | None, given: Mapping[str, _Given], in_scope: set[str]
) -> Row:
    leaf, listed = own.leaves[index], ids or []
    known = [given[name] for name in listed if name in given]
    is_listed = merkle.root_of(name.encode() for name in sorted(listed)).hex() == leaf["consent_root"]
    signed, notices = (
        sum(one.is_signed for one in known),
        sum(bool(one.shown) and one.shown == one.notice for one in known),
    )
    odd = sum(bool(one.shown) and one.shown != one.notice for one in known)
    why = [] if is_listed else ["the list of consents is not the one that the leaf commits to"]
    why += [f"{len(listed) - signed} not signed as they have to be (R37)"] * (signed < len(listed))
    why += [f"{len(listed) - len(in_scope)} do not cover what left (R03)"] * (len(in_scope) < len(listed))
    why += [f"{odd} on another notice than their request showed (R06)"] * bool(odd)
    return _row(
        own, index, "release", consents=len(listed), signed=signed, notices=notices, in_scope=len(in_scope), holds=not why,
        detail="; ".join(why), ids=listed,
    )  # fmt: skip


_PAPER_KEYS = (
    "notice_id", "notice_hash", "signer_role", "power_of_attorney_digest", "application_ref", "attestation",
)  # fmt: skip


def _papers(own: Evidence, verified: Row, seed: str) -> Iterator[Row]:
    index, ids = verified["leaf"], verified["ids"]
    if not isinstance(index, int) or not isinstance(ids, list):
        return
    chosen = nsmallest(PAPERS, ids, key=lambda name: _rank(seed, str(verified["release"]), name))
    given = _given(own, set(chosen))
    for name in chosen:
        one = given.get(name)
        detail = _ask(own.party, one) if one else f"ask {own.party} for this consent: its record is not in evidence"
        yield _row(own, index, "paper", consent=name, holds=bool(one and one.is_signed), detail=detail)


def _ask(party: str, given: _Given) -> str:
    record = given.record
    is_shown = bool(given.shown) and given.shown == given.notice
    papers = [f"the consent as its {text(record, 'signer_role') or 'signer'} signed it"]
    papers += [f"notice {text(record, 'notice_id')} of hash {given.notice[:12]}"] * (not is_shown)
    papers += ["the power of attorney of its digest"] * ("power_of_attorney_digest" in record)
    papers += [f"application {text(record, 'application_ref')}"] * ("application_ref" in record)
    papers += ["the institution's proof of the e-signature that it attests"] * ("attestation" in record)
    return f"ask {party} for " + ", ".join(papers)


def _row(own: Evidence, index: int, what: str, **told: Cell) -> Row:
    leaf = own.leaves[index]
    blank: Row = {
        name: leaf[name] for name in ("run", "time", "provider", "recipient", "purpose", "mode", "fields", "rows")
    }
    counts: Row = dict.fromkeys(("consents", "signed", "notices", "in_scope"), 0)
    same: Row = {"what": what, "consent": "", "leaf": index, "release": own.release_id(index)}
    return {**blank, **counts, **same, **told}
