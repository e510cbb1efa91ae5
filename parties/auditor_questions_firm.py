"""One firm's whole history with the proof of it: what it signed, which releases used that, and where it stands now.

Consents stand behind releases by their ids; whose row needs no consent (open fields) is under the release's root of rows
alone, and the provider opens it firm by firm: `lianxin ledger prove --firm` writes that proof. A proof that was brought is
checked under the party's node key, and each leaf in it held against the ledger in evidence.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from lianxin.crypto import canonical, snapshot
from lianxin.crypto.errors import CryptoError
from lianxin.parties.auditor_evidence import Evidence, Record
from lianxin.parties.auditor_proof import verify_proof
from lianxin.parties.auditor_questions import Answer, Case, Cell, Row, consent_lists, known_subject, last_time
from lianxin.parties.auditor_questions_signers import UNFIT, is_signed, keys_for
from lianxin.parties.auditor_registry import History, use_of
from lianxin.parties.decision_consents import STATES, snapshot_entries

_COLUMNS = (
    "provider", "time", "what", "consent", "recipient", "purpose", "mode", "fields", "rows", "proved", "detail", "leaf",
    "release",
)  # fmt: skip
_SHOWN = ("provider", "time", "what", "consent", "recipient", "purpose", "mode", "fields", "proved", "detail", "leaf")
_CANNOT = (
    "Evidence cannot tell, without a proof by its provider (`lianxin ledger prove --firm`), which releases of open fields hold "
    "this firm; a proof shows the releases that are in it, and not that there are no others."
)


@dataclass(frozen=True)
class Shown:
    """A consent's state as a receipt shows it: `party`'s registry held `consent` in `state` at `at` ("" for not at all)."""

    party: str
    consent: str
    state: str
    at: str


def firm_history(case: Case, subject: str, proofs: Sequence[Record] = (), receipts: Sequence[Shown] = ()) -> Answer:
    """Answer what a firm signed, what was released by it and how it stands; a row a record, release, consent and proof.

    `subject` is its subject key at one provider, `proofs` are ledger-proof records and `receipts` what consent-proofs showed,
    verified by the caller. `proved` is yes for what a signature, a path to a signed head or a committed snapshot shows, no
    where that fails, and "" where no proof was brought. Raises QuestionFault for what is no subject key.
    """
    said: list[str] = []
    rows = _history(case, known_subject(subject), proofs, receipts, said)
    return Answer("firm", _COLUMNS, _SHOWN, rows, said, _CANNOT)


def _history(
    case: Case, subject: str, proofs: Sequence[Record], receipts: Sequence[Shown], said: list[str]
) -> Iterator[Row]:
    keys = {party: key for run in case.runs.values() for party, key in run.node_keys.items()}
    checked = [_Proof.checked(proof, subject, keys, case.ledgers) for proof in proofs]
    releases = proved = 0
    for own in case.ledgers.values():
        firm = _Firm.of(own, subject)
        shown = {index for one in checked if one.party == own.party and not one.fault for index in one.leaves}
        rows = [*_record_rows(own, firm), *_release_rows(own, firm, shown), *_proof_rows(own, checked)]
        if not (firm.records or shown):
            continue
        releases += sum(row["what"] == "release" for row in rows)
        proved += len(shown)
        yield from sorted(rows, key=lambda row: (row["leaf"], row["what"]))
        yield from _state_rows(own, firm, receipts)
    for one in checked:
        if one.fault:
            yield _row(one.party, what="proof", proved="no", detail=one.fault)
    said.append(f"{releases} releases hold this firm, {proved} of them by a proof of its provider")
    said += ["neither a record nor a proof in this evidence is of this firm"] * (not releases and not proved)
    said += case.silence()


@dataclass
class _Firm:
    """What evidence of one party has of a firm: its records by epoch, its consents, and those behind each release."""

    records: list[tuple[int, Record]]
    consents: list[str]
    behind: dict[str, list[str]]

    @classmethod
    def of(cls, own: Evidence, subject: str) -> "_Firm":
        records = [
            (epoch, signed) for epoch, signed in enumerate(own.records["registry"], 1)
            if isinstance(record := signed.get("record"), dict) and record.get("subject_key") == subject
        ]  # fmt: skip
        given = (signed["record"] for _, signed in records if signed["record"].get("type") == "consent")
        consents = [name for one in given if isinstance(name := one.get("consent_id"), str)]
        names = set(consents)
        lists = consent_lists(own) if names else ()
        behind = {release: [one for one in ids if one in names] for release, ids in lists if not names.isdisjoint(ids)}
        return cls(records, consents, behind)


@dataclass(frozen=True)
class _Proof:
    """A proof of this firm's releases: the leaves that it shows, or why it shows none."""

    party: str
    leaves: tuple[int, ...]
    fault: str = ""

    @classmethod
    def checked(cls, proof: Record, subject: str, keys: Mapping[str, str], ledgers: Mapping[str, Evidence]) -> "_Proof":
        party = proof.get("party")
        if not isinstance(party, str) or party not in keys:
            return cls("", (), "a proof is of no party that a contract in evidence names")
        try:
            verify_proof(proof, keys[party])
            leaves = {entry["index"]: canonical.encode(entry["leaf"]) for entry in proof["leaves"]}
        except CryptoError as fault:
            return cls(party, (), str(fault))
        if proof.get("subject_key") != subject:
            return cls(party, (), "the proof is of another firm")
        own = ledgers.get(party)
        odd = [
            n for n, line in leaves.items() if own and not (n < len(own.ledger_lines) and own.ledger_lines[n] == line)
        ]
        if odd:
            return cls(party, (), f"leaf {odd[0]} of the proof is not the one in evidence; ask {party} why it has two")
        return cls(party, tuple(sorted(leaves)))


def _record_rows(own: Evidence, firm: _Firm) -> Iterator[Row]:
    leaves = [(leaf["epoch"], index) for index, leaf in own.of_kind("registry")] if firm.records else []
    epochs = sorted(set(leaves))
    keys, kinds = keys_for(own, (signed for _, signed in firm.records))
    for epoch, signed in firm.records:
        record, at = signed["record"], bisect_left(epochs, (epoch, -1))
        is_good = is_signed(signed, keys, kinds)
        times = (record.get(name) for name in ("revoked_at", "at", "created_at"))
        told = {name: record[name] for name in ("recipient", "purpose", "mode", "fields") if name in record}
        yield _row(
            own.party, **told, time=next((one for one in times if isinstance(one, str)), ""), what=str(record.get("type")),
            consent=record.get("consent_id", ""), proved="yes" if is_good else "no",
            detail=f"epoch {epoch}, " + ("signed by its registered key" if is_good else "not signed as it has to be (R37)"),
            leaf=epochs[at][1] if at < len(epochs) else -1,
        )  # fmt: skip


def _release_rows(own: Evidence, firm: _Firm, shown: set[int]) -> Iterator[Row]:
    for index, leaf in own.of_kind("release") if firm.behind or shown else ():
        behind = firm.behind.get(own.release_id(index), [])
        if behind or index in shown:
            told = {name: leaf[name] for name in ("time", "recipient", "purpose", "mode", "fields", "rows")}
            yield _row(
                own.party, **told, what="release", consent=behind[0] if behind else "", proved="yes" if index in shown else "",
                detail=f"step {leaf['step']} of run {leaf['run']}, by {leaf['operator']} with {leaf['code_version']}",
                leaf=index, release=own.release_id(index),
            )  # fmt: skip


def _proof_rows(own: Evidence, checked: Iterable[_Proof]) -> Iterator[Row]:
    for one in checked:
        if one.party == own.party and not one.fault:
            what = f"shows {len(one.leaves)} releases under a signed head"
            yield _row(own.party, what="proof", proved="yes", detail=what, leaf=max(one.leaves, default=-1))


def _state_rows(own: Evidence, firm: _Firm, receipts: Iterable[Shown]) -> Iterator[Row]:
    uses: dict[str, set[str]] = {name: set() for name in firm.consents}
    for index, leaf in own.of_kind("release") if firm.behind else ():
        for name in firm.behind.get(own.release_id(index), ()):
            uses[name].add(use_of(leaf))
    now, registry = last_time(own), History(own).at(len(own.records["registry"]))
    at, committed = _last_snapshot(own) if firm.consents else (-1, {})
    for name, used in uses.items():
        try:
            state = registry.state_of(name, now, len(used)) if registry else "INVALID"
            most = registry.consents[name].terms.get("max_uses") if registry else None
        except (KeyError, TypeError):
            state, most = "INVALID", None
        left = f"{max(0, most - len(used))} of {most} uses left" if isinstance(most, int) else "uses not limited"
        shown = f"; {committed.get(name, 'not')} in the snapshot that leaf {at} commits to" if committed else ""
        proved = "yes" if committed.get(name) == state else ""
        yield _row(
            own.party, time=now, what="state", consent=name, proved=proved, detail=f"{state}, {left}{shown}", leaf=at
        )
    for one in receipts:
        if one.party == own.party and one.consent in uses:
            told = f"{one.state or 'not in the registry'}, by the receipt that was brought"
            yield _row(own.party, time=one.at, what="receipt", consent=one.consent, proved="yes", detail=told)


def _last_snapshot(own: Evidence) -> tuple[int, dict[str, str]]:
    """Return the last leaf with a snapshot's root and each consent's state in it; none where the registry gives another."""
    found = [(index, leaf) for index, leaf in own.of_kind("registry") if "snapshot_root" in leaf][-1:]
    if not found:
        return -1, {}
    [(at, last)] = found
    history = History(own)
    for index, leaf in own.of_kind("release"):
        if index < at:
            history.at(own.epoch_before(index))
            history.note_uses(index, leaf)
    registry = history.at(last["epoch"])
    try:
        if registry is None:
            return at, {}
        entries = dict(snapshot_entries(registry, last["snapshot_at"], history.uses(registry.consents)))
        if snapshot.Snapshot(entries.items()).root.hex() != last["snapshot_root"]:
            return at, {}
    except UNFIT:
        return at, {}
    return at, {name: STATES[value[0]] for name, value in entries.items()}


def _row(party: str, **told: Cell) -> Row:
    blank: Row = dict.fromkeys(_COLUMNS, "")
    return {**blank, "fields": [], "rows": 0, "leaf": -1, "provider": party, **told}
