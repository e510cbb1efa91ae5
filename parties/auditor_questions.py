"""What an auditor asks of evidence, and the shape of an answer; the questions themselves are in `auditor_questions_*`.

A question is a function `(case, ...) -> Answer`. Its rows come one at a time, in a pass or two over the leaves; what is kept
meanwhile is a few dozen bytes for each release, firm or message class that the answer is about, and the registry's state
where a decision is made again. An answer believes the files as they are: it is worth as much as `auditor`'s verdict on the
same files. Nothing is told but what evidence holds: subject keys and consent ids, no identifier of a firm.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

from lianxin.crypto import canonical, signing
from lianxin.crypto.errors import CryptoError
from lianxin.parties.auditor_evidence import CONTRACT, Evidence, Record, Run, fits, read_evidence
from lianxin.parties.auditor_lines import Places
from lianxin.parties.auditor_pack import part_key
from lianxin.parties.auditor_times import seconds_of
from lianxin.parties.decision_purposes import PURPOSES

Cell = str | int | bool | list[str]
Row = dict[str, Cell]
MOST_MEMBER_BYTES = 64 * 1024 * 1024
_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_SUBJECT = re.compile(r"[0-9a-f]{64}", re.ASCII)


class QuestionFault(ValueError):
    """What was asked names something that the evidence has not, or evidence that cannot be asked; one sentence."""


@dataclass(frozen=True)
class Answer:
    """Rows to be read once, in their order, each with all of `columns`; `shown` are the columns of a narrow table.

    `said` are sentences about the whole: complete when the rows were read. `cannot_tell` says what evidence of this kind
    cannot tell, whoever asks.
    """

    question: str
    columns: tuple[str, ...]
    shown: tuple[str, ...]
    rows: Iterator[Row]
    said: list[str]
    cannot_tell: str


@dataclass(frozen=True)
class Case:
    """All evidence that was given: `runs` by id under their signed contracts, and of each party its longest ledger.

    A ledger holds the leaves of all its party's runs; the envelopes and the contract in one folder are those of one run.
    """

    runs: Mapping[str, Run]
    ledgers: Mapping[str, Evidence]
    folders: Mapping[tuple[str, str], Path] = field(default_factory=dict)

    def run(self, name: str) -> Run:
        """Return the run of this id; raises QuestionFault when no contract of it is in evidence."""
        if name not in self.runs:
            raise QuestionFault(f"run {_plain(name)} has no contract in this evidence; it has {', '.join(self.runs)}")
        return self.runs[name]

    def ledger(self, party: str) -> Evidence:
        """Return a party's longest ledger; raises QuestionFault when its evidence was not given."""
        if party not in self.ledgers:
            raise QuestionFault(f"no evidence of {_plain(party)} was given; there is that of {', '.join(self.ledgers)}")
        return self.ledgers[party]

    @property
    def parties(self) -> list[str]:
        """All parties of the contracts in evidence, sorted."""
        return sorted({party for run in self.runs.values() for party in run.node_keys})

    @property
    def missing(self) -> list[str]:
        """The parties that a contract names and whose evidence was not given."""
        return [party for party in self.parties if party not in self.ledgers]

    def member(self, run: str, party: str, name: str) -> Record:
        """Return a canonical record beside a run's evidence (`plan.json`...), empty where there is none that can be read."""
        path = self.folders.get((run, party), Path()) / "evidence" / name
        try:
            is_fit = path.is_file() and path.stat().st_size <= MOST_MEMBER_BYTES
            return canonical.decode_fragment(path.read_bytes().removesuffix(b"\n")) if is_fit else {}
        except (OSError, CryptoError):
            return {}

    def silence(self) -> list[str]:
        """Return a sentence for the parties whose evidence was not given, none where there is all."""
        return [f"no evidence of {', '.join(self.missing)} was given: what they did stands in their own"] * any(
            self.missing
        )


@dataclass(frozen=True)
class Wanted:
    """Which releases are asked about; "" asks for all. Times compare as text, both ends included."""

    recipient: str = ""
    field: str = ""
    purpose: str = ""
    run: str = ""
    since: str = ""
    until: str = ""

    def holds(self, leaf: Record) -> bool:
        """Return whether a well-formed release leaf is one of them."""
        is_named = all(
            value in ("", leaf[name])
            for name, value in (("recipient", self.recipient), ("purpose", self.purpose), ("run", self.run))
        )
        is_then = self.since <= leaf["time"] and leaf["time"] <= (self.until or "9999")
        return is_named and is_then and (not self.field or self.field in leaf["fields"])


def open_case(folders: Iterable[Path]) -> Case:
    """Return the evidence under `folder`/parties of each of these run folders, joined by run and party.

    Raises QuestionFault for a folder without evidence, one party's evidence of a run given twice, a run under two
    contracts, or two ledgers of one party of which neither goes on from the other.
    """
    given: dict[str, dict[str, Evidence]] = {}
    contracts: dict[str, Record] = {}
    places: dict[tuple[str, str], Path] = {}
    for one in _party_folders(folders):
        own = read_evidence(one)
        contract = _signed_contract(own)
        _check_part(one, own.party, contract)
        run = contract["run"]
        if contracts.setdefault(run, contract) != contract:
            raise QuestionFault(
                f"{own.party}: its contract of run {_plain(run)} is another than the others'; verify them"
            )
        if (run, own.party) in places:
            raise QuestionFault(f"evidence of {own.party} for run {_plain(run)} was given twice; give it once")
        places[run, own.party] = one
        given.setdefault(run, {})[own.party] = own
    return Case({name: _run(contracts[name], given[name]) for name in sorted(given)}, _ledgers(given), places)


def _party_folders(folders: Iterable[Path]) -> Iterator[Path]:
    for folder in folders:
        found = sorted(one for one in (folder / "parties").glob("*") if (one / "evidence").is_dir())
        if not found:
            raise QuestionFault(f"{folder} holds no evidence: there is no parties/NAME/evidence in it")
        yield from found


def _signed_contract(own: Evidence) -> Record:
    record: Any = own.contract.get("record")
    try:
        if not fits(record, CONTRACT):
            raise KeyError
        keys = {entry["party"]: entry["node_key"] for entry in record["parties"]}
        signing.verify_signed(own.contract, keys)
    except (CryptoError, KeyError):
        raise QuestionFault(f"{own.party}: contract.json is not one that all of its parties signed") from None
    contract: Record = record
    return contract


def _check_part(folder: Path, party: str, contract: Record) -> None:
    """Raise QuestionFault for a part of a pack that another key than the party's node key has signed."""
    keys = {entry["party"]: entry["node_key"] for entry in contract["parties"]}
    if part_key(folder) not in ("", keys.get(party)):
        raise QuestionFault(
            f"the pack's part of {_plain(party)} is not signed by its node key; ask it for its own pack"
        )


def _run(contract: Record, evidence: Mapping[str, Evidence]) -> Run:
    keys = {entry["party"]: entry["node_key"] for entry in contract["parties"]}
    return Run(contract, canonical.record_hash(contract), keys, evidence)


def _ledgers(given: Mapping[str, Mapping[str, Evidence]]) -> dict[str, Evidence]:
    longest: dict[str, Evidence] = {}
    for own in (one for parties in given.values() for one in parties.values()):
        other = longest.setdefault(own.party, own)
        if other is own:
            continue
        short, long = sorted((own, other), key=lambda one: len(one.ledger_lines))
        if any(a != b for a, b in zip_longest(short.ledger_lines, _first(long, len(short.ledger_lines)))):
            raise QuestionFault(f"{own.party}: its ledgers of two runs contradict each other; ask it why it keeps two")
        longest[own.party] = long
    return {party: longest[party] for party in sorted(longest)}


def _first(own: Evidence, count: int) -> Iterator[bytes]:
    return (own.ledger_lines[n] for n in range(count))


def checked_wanted(case: Case, wanted: Wanted) -> Wanted:
    """Return the same with days made into times; raises QuestionFault for a run, party, field or time that cannot be."""
    if wanted.run:
        known_run(case, wanted.run)
    if wanted.recipient:
        known_party(case, wanted.recipient)
    if wanted.field and not any(wanted.field in _fields_of(run) for run in case.runs.values()):
        raise QuestionFault(f"no contract in this evidence lists the field {_plain(wanted.field)}")
    if wanted.purpose and wanted.purpose not in PURPOSES:
        raise QuestionFault(f"there is no purpose {_plain(wanted.purpose)}; purposes are {', '.join(PURPOSES)}")
    since, until = _time(wanted.since, "T00:00:00Z"), _time(wanted.until, "T23:59:59Z")
    if until and since > until:
        raise QuestionFault("--since is after --until; nothing lies between them")
    return Wanted(wanted.recipient, wanted.field, wanted.purpose, wanted.run, since, until)


def _fields_of(run: Run) -> set[str]:
    return {entry["field"] for entry in run.contract["fields"]}


def known_run(case: Case, name: str) -> str:
    """Return the id of a run with a contract or any leaf in evidence; raises QuestionFault for another."""
    if name in case.runs or any(True for own in case.ledgers.values() for _ in own.of_kind("contract", name)):
        return name
    raise QuestionFault(f"no leaf is of run {_plain(name)}; there are contracts of {', '.join(case.runs)}")


def known_party(case: Case, name: str) -> str:
    """Return a party that a contract in evidence names; raises QuestionFault for another."""
    if name in case.parties:
        return name
    raise QuestionFault(f"no contract in this evidence names {_plain(name)}; they name {', '.join(case.parties)}")


def known_subject(subject: str) -> str:
    """Return a subject key; raises QuestionFault for what is none."""
    if _SUBJECT.fullmatch(subject) is None:
        raise QuestionFault(
            "a firm is named by its subject key, 64 lower-case hex digits, or give --subject-secret too"
        )
    return subject


def _time(given: str, rest: str) -> str:
    time = given + rest if _DATE.fullmatch(given) else given
    if time and seconds_of(time) is None:
        raise QuestionFault(f"{_plain(given)} is no time; write 2026-01-31 or 2026-01-31T08:00:00Z")
    return time


def _plain(name: str) -> str:
    return name if name.isprintable() and len(name) <= 64 else "of that name"


def number(leaf: Record, name: str) -> int:
    """Return a leaf's whole number that its kind does not demand, 0 where it has none."""
    value = leaf.get(name)
    return value if type(value) is int else 0


def text(leaf: Record, name: str) -> str:
    """Return a leaf's text that its kind does not demand, "" where it has none."""
    value = leaf.get(name)
    return value if isinstance(value, str) else ""


def subject_consents(own: Evidence, subject: str) -> list[str]:
    """Return the ids of the consents in a party's registry that this firm gave, in order."""
    found = []
    for signed in own.records["registry"]:
        record = signed.get("record")
        if isinstance(record, dict) and (record.get("type"), record.get("subject_key")) == ("consent", subject):
            found.append(str(record.get("consent_id")))
    return found


def consent_lists(own: Evidence) -> Iterator[tuple[str, Sequence[str]]]:
    """Yield each release's id with the ids of the consents behind it, as the party's first list of it has them.

    The first is the one that the check `consents` decides again, and that check refuses a second.
    """
    shape, seen = {"release": str, "consents": [str]}, Places()
    for one in own.records["release_consents"]:
        if fits(one, shape) and (name := one["release"].encode(errors="surrogatepass")) not in seen:
            seen.add(name)
            yield one["release"], one["consents"]


def last_time(own: Evidence) -> str:
    """Return the time of a ledger's last readable leaf, "" for an empty one."""
    last = (own.leaves[n] for n in reversed(range(len(own.ledger_lines))))
    return next((leaf["time"] for leaf in last if leaf), "")


def digest_of(release: str) -> bytes:
    """Return the bytes of a release's id, b"" for a text that is none."""
    return bytes.fromhex(release) if _SUBJECT.fullmatch(release) else b""
