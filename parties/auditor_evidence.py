"""A run's evidence as an auditor reads it: files to values, and nothing believed yet (docs/records.md, "Run folder").

A line that is no canonical object stands as an empty record, so that positions stay true and the checks that follow
never meet a value of another type than its `fits` shape says. Content is judged in the `auditor_*` modules, under one
`Run`: the contract that all parties signed and every party's `Evidence`.

Nothing of a line stays in memory but some bytes (`auditor_lines`, `auditor_columns`): the first reading says whether it is
canonical, of which kind and of which run; a record is decoded again each time it is asked for.
"""

import hashlib
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from pathlib import Path

from lianxin.crypto import merkle
from lianxin.parties import auditor_columns, auditor_lines, auditor_rotations
from lianxin.parties.auditor_columns import KINDS, Columns, fits
from lianxin.parties.auditor_lines import Lines, LineTree, Marks, Record, Records

LINE_FILES = ("checkpoints", "witnessed", "registry", "firm_keys", "release_consents", "envelopes")
_LATER_FILES = ("grades",)  # evidence of 0.1 and 0.2 has none of these
_DOCUMENTS = ("plan", "policy", "software", "commitments")  # evidence of before 0.6 has none of these
_NAMED_LINES = 20
CONTRACT = {
    "run": str, "purpose": str, "created_at": str, "expires_at": str, "rounds": int, "min_rows": int,
    "parties": [{"party": str, "node_key": str}], "fields": [{"provider": str, "field": str, "use": str}],
    "catalogues": {},
}  # fmt: skip
HEADER = auditor_columns.HEADER
NOBODY = "-"


@dataclass(frozen=True)
class Finding:
    """One fault: where it is and what rule it breaks, and what to ask whom.

    `leaf` is the index of the leaf in the party's ledger (-1: none), `rule` a rule id of docs/reference.md or "", `message`
    the place of the envelope as conversation/sender/seq or "". `accused` is the party that did wrong as far as evidence
    shows it: "" where it is the one whose evidence was checked, `NOBODY` where it cannot be told.
    """

    detail: str
    remedy: str
    leaf: int = -1
    rule: str = ""
    message: str = ""
    accused: str = ""


class Crossings(Iterable[tuple[int, Record]]):
    """The leaves of envelopes that crossed, each with its index, decoded one after another; how many is known before."""

    def __init__(self, indexes: Sequence[int], leaves: Sequence[Record]) -> None:
        self.indexes, self._leaves = indexes, leaves

    def __len__(self) -> int:
        return len(self.indexes)

    def __iter__(self) -> Iterator[tuple[int, Record]]:
        return ((index, self._leaves[index]) for index in self.indexes)

    def part(self, start: int, stop: int) -> "Crossings":
        """Return those from `start` to before `stop`."""
        return Crossings(self.indexes[start:stop], self._leaves)


@dataclass
class Evidence:
    """One party's files; `leaves[i]` decodes `ledger_lines[i]`, or is empty where that is no canonical leaf.

    `marks` has sixteen bytes of the hash of each line of envelopes; `documents` are the files
    of one record each that there are: plan, policy, software, commitments.
    """

    party: str
    contract: Record
    ledger_lines: Sequence[bytes]
    records: Mapping[str, Sequence[Record]]
    catalogue: bytes
    columns: Columns
    marks: Marks = field(default_factory=Marks)
    unreadable: list[str] = field(default_factory=list)
    documents: Mapping[str, Record] = field(default_factory=dict)

    @cached_property
    def leaves(self) -> Sequence[Record]:
        """Each leaf by its index."""
        lines = self.ledger_lines
        return Records(lines, self.columns.flags) if isinstance(lines, Lines) else []

    @cached_property
    def tree(self) -> merkle.HashTree:
        """The RFC 9162 tree over the ledger's lines as they are."""
        return LineTree(self.ledger_lines, bytes(self.columns.tiles))

    @cached_property
    def sorted_marks(self) -> Marks:
        """The marks in order."""
        return self.marks.ordered()

    def of_kind(self, kind: str, run: str | None = None) -> Iterator[tuple[int, Record]]:
        """Yield (index, leaf) of the well-formed leaves of one kind, of one run or of all."""
        for index in self.columns.of_kind(kind, run):
            leaf = self.leaves[index]
            if kind in KINDS or leaf.get("kind") == kind:
                yield index, leaf

    @cached_property
    def _epochs(self) -> list[tuple[int, int]]:
        """(leaf, highest epoch up to it): a registry only grows, whatever a later leaf says."""
        leaves = [(index, leaf["epoch"]) for index, leaf in self.of_kind("registry")]
        return list(zip((index for index, _ in leaves), accumulate((epoch for _, epoch in leaves), max), strict=True))

    def epoch_before(self, index: int) -> int:
        """Return the registry's epoch as the leaves before `index` have it."""
        at = bisect_left(self._epochs, (index, -1))
        return self._epochs[at - 1][1] if at else 0

    def release_id(self, index: int) -> str:
        """Return the SHA-256 of the leaf's bytes, which is a release's id."""
        return hashlib.sha256(self.ledger_lines[index]).hexdigest()

    def headers(self) -> Iterator[Record]:
        """Yield the well-formed envelope headers in ledger order."""
        headers = (one.get("header") for one in self.records["envelopes"])
        return (header for header in headers if isinstance(header, dict) and auditor_columns.is_header(header))

    def crossings(self, run: str, direction: str = "", flag: int = 0) -> Crossings:
        """Return the envelope leaves of what crossed, in one direction ("in", "out") or both; a refused one did not.

        With a `flag` of `auditor_columns`, those that have it alone.
        """
        return Crossings(self.columns.crossed(run, direction, flag), self.leaves)


@dataclass(frozen=True)
class Run:
    """What every check is judged by: the contract that all parties signed, its keys, and all evidence by party."""

    contract: Record
    contract_hash: str
    node_keys: Mapping[str, str]
    evidence: Mapping[str, Evidence]

    @property
    def id(self) -> str:
        """The run's id."""
        return self.contract["run"]

    @cached_property
    def eras(self) -> Mapping[str, tuple[auditor_rotations.Era, ...]]:
        """The node keys of each party in their order, as rotations in the ledgers lead from the contract's."""
        return auditor_rotations.eras_of(self.evidence, self.node_keys)

    @property
    def version(self) -> int:
        """The contract's version, 1 when it says none; what 0.3 added is demanded from 3 on."""
        version = self.contract.get("version")
        return version if type(version) is int else 1


def read_evidence(folder: Path, spread: auditor_columns.Spread = auditor_columns.here) -> Evidence:
    """Return the evidence in `folder`/evidence; what is missing or malformed is named in `unreadable`.

    `spread` reads many lines in parts, by default one after another in this process.
    """
    unreadable: list[str] = []
    lines = _lines_of(folder, unreadable)
    judged = auditor_columns.judge(lines, folder.name, spread)
    records: dict[str, Sequence[Record]] = {}
    for name in lines.keys() - {"ledger"}:
        records[name] = Records(lines[name], judged[name].flags)
        unreadable += _bad_lines(name, judged[name].flags)
    contract = _document(folder, "contract.json", unreadable)
    there = [name for name in _DOCUMENTS if _is_there(folder, f"{name}.json")]
    documents = {name: record for name in there if (record := _document(folder, f"{name}.json", unreadable))}
    catalogue = _bytes(folder, "catalogue.csv", unreadable)
    columns, marks = judged["ledger"], judged["envelopes"].marks
    return Evidence(folder.name, contract, lines["ledger"], records, catalogue, columns, marks, unreadable, documents)


def _is_there(folder: Path, name: str) -> bool:
    return (folder / "evidence" / name).exists()


def _lines_of(folder: Path, unreadable: list[str]) -> dict[str, Lines]:
    later = [name for name in _LATER_FILES if _is_there(folder, f"{name}.jsonl")]
    return {name: _lines(folder, name, unreadable) for name in ("ledger", *LINE_FILES, *later)}


def _lines(folder: Path, name: str, unreadable: list[str]) -> Lines:
    try:
        lines = Lines(folder / "evidence" / f"{name}.jsonl")
    except OSError:
        unreadable.append(f"{name}.jsonl is missing or cannot be read")
        return Lines(None)
    if not lines.is_whole:
        unreadable.append(f"{name}.jsonl ends within a line")
    if lines.is_cut:
        unreadable.append(
            f"{name}.jsonl is read up to line {len(lines)} alone: {auditor_lines.MOST_BAD} of its lines are no objects"
        )
    unreadable += [
        f"{name}.jsonl, line {n + 1}, is over {auditor_lines.LONGEST} bytes" for n in lines.too_long[:_NAMED_LINES]
    ]
    return lines


def _bad_lines(name: str, flags: bytearray) -> Iterator[str]:
    place, found = flags.find(0), 0
    while place >= 0:
        found += 1
        if found <= _NAMED_LINES:
            yield f"{name}.jsonl, line {place + 1}, is not canonical"
        place = flags.find(0, place + 1)
    if found > _NAMED_LINES:
        yield f"{name}.jsonl: {found - _NAMED_LINES} more lines are not canonical"


def _bytes(folder: Path, name: str, unreadable: list[str]) -> bytes:
    """Return a file's bytes, none where it is missing, no file, or too large to be what it is called."""
    path = folder / "evidence" / name
    try:
        if path.is_file() and path.stat().st_size <= auditor_lines.LONGEST:
            return path.read_bytes()
    except OSError:
        pass
    unreadable.append(f"{name} is missing or cannot be read")
    return b""


def _document(folder: Path, name: str, unreadable: list[str]) -> Record:
    data = _bytes(folder, name, unreadable)
    record = auditor_lines.decoded(data.removesuffix(b"\n"))
    if record is None and data and name != "contract.json":  # of a contract its own check speaks
        unreadable.append(f"{name} is not canonical")
    return record or {}


def leaf_finding(own: Evidence, index: int, what: str, ask: str, rule: str = "", message: str = "") -> Finding:
    """Return the finding `what` about one leaf of `own`; `ask` is what to ask its party."""
    return Finding(f"{own.party}, leaf {index}: {what}", f"ask {own.party} {ask}", index, rule, message)


def message_of(party: str, leaf: Record) -> str:
    """Return the place of the message that an envelope leaf of `party` is about: conversation/sender/seq."""
    sender = party if leaf["direction"] == "out" else leaf["peer"]
    return f"{leaf['conversation']}/{sender}/{leaf['seq']}"


__all__ = [
    "CONTRACT", "HEADER", "KINDS", "NOBODY", "Crossings", "Evidence", "Finding", "Record", "Run", "fits", "leaf_finding",
    "message_of", "read_evidence",
]  # fmt: skip
