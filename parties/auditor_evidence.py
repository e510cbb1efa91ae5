"""A run's evidence as an auditor reads it: files to values, and nothing believed yet (docs/records.md, "Run folder").

A line that is no canonical object stands as an empty record, so that positions stay true and the checks that follow
never meet a value of another type than its `fits` shape says. Content is judged in the `auditor_*` modules, under one
`Run`: the contract that all parties signed and every party's `Evidence`.
"""

import hashlib
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

from lianxin.crypto import canonical, merkle
from lianxin.crypto.errors import CryptoError

Record = dict[str, Any]
_LINE_FILES = ("checkpoints", "witnessed", "registry", "firm_keys", "release_consents", "envelopes")
_LATER_FILES = ("grades",)  # evidence of 0.1 and 0.2 has none of these
CONTRACT = {
    "run": str, "purpose": str, "created_at": str, "expires_at": str, "rounds": int, "min_rows": int,
    "parties": [{"party": str, "node_key": str}], "fields": [{"provider": str, "field": str, "use": str}],
    "catalogues": {},
}  # fmt: skip
_LEAF = {"kind": str, "time": str, "run": str, "party": str, "operator": str, "code_version": str}
KINDS: Mapping[str, Record] = {
    "contract": {"contract_hash": str, "event": str},
    "registry": {"epoch": int},
    "firm-keys": {"keys": int, "keys_root": str},
    "release": {
        "provider": str, "recipient": str, "purpose": str, "mode": str, "step": str, "epoch": int,
        "contract_hash": str, "catalogue_hash": str, "fields": [str], "refused": [{"field": str, "rule": str}],
        "rows": int, "consent_root": str, "consents": int,
    },
    "envelope": {
        "direction": str, "peer": str, "conversation": str, "step": str, "round": int, "seq": int, "message_type": str,
        "message_hash": str, "payload_hash": str, "forms": [{"field": str, "form": str}], "releases": [str],
        "decision": str,
    },
    "refusal": {"peer": str, "rule": str},
    "grade": {"grade_hash": str, "policy_hash": str, "table_hash": str, "model": str, "accepted": bool},
    "deletion": {"dataset": str, "rule": str, "count": int},
    "objection": {"event": str, "field": str, "record_hash": str},
    "model-marked": {"revocations": int, "consent_root": str, "choice": str},
    "alarm": {"rule": str, "skew_s": int},
    "split-bits": {"peer": str, "bits": int},
    "score": {"peer": str, "score": str, "firms": int, "conversation": str},
    "scored": {"peer": str, "score": str, "release": str, "scores": int},
    "secure-sum": {
        "contract_hash": str, "label": str, "asked": [str], "threshold": int, "senders": [str], "included": [str],
        "question": str,
        "keys": [{"party": str, "key": str, "signature": str}], "sets": [{"party": str, "signature": str}],
    },
    "privacy": {
        "contract_hash": str, "unit": str, "epsilon_thousandths": int, "delta_exponent": int, "left_thousandths": int,
    },
    "network-round": {"round": int, "accepted": bool, "reason": str, "rows": int, "weights_sha256": str},
}  # fmt: skip
HEADER = {
    "run": str, "conversation": str, "step": str, "round": int, "seq": int, "sender": str, "recipient": str,
    "previous": str, "contract": str, "epoch": int, "expires_at": str, "message_type": str, "payload_hash": str,
    "payload_bytes": int,
}  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """One fault: where it is and what rule it breaks, and what to ask whom.

    `leaf` is the index of the leaf in the party's ledger (-1: none), `rule` a rule id of docs/reference.md or "", `message`
    the place of the envelope as conversation/sender/seq or "".
    """

    detail: str
    remedy: str
    leaf: int = -1
    rule: str = ""
    message: str = ""


@dataclass
class Evidence:
    """One party's files; `leaves[i]` decodes `ledger_lines[i]`, or is empty where that is no canonical leaf."""

    party: str
    contract: Record
    ledger_lines: list[bytes]
    records: Mapping[str, list[Record]]
    catalogue: bytes
    leaves: list[Record] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)

    @cached_property
    def tree(self) -> merkle.MerkleTree:
        """The RFC 9162 tree over the ledger's lines as they are."""
        tree = merkle.MerkleTree()
        for line in self.ledger_lines:
            tree.append(line)
        return tree

    def of_kind(self, kind: str, run: str | None = None) -> Iterator[tuple[int, Record]]:
        """Yield (index, leaf) of the well-formed leaves of one kind, of one run or of all."""
        for index, leaf in enumerate(self.leaves):
            if leaf.get("kind") == kind and run in (None, leaf["run"]) and fits(leaf, KINDS[kind]):
                yield index, leaf

    @cached_property
    def _epochs(self) -> list[tuple[int, int]]:
        """(leaf, highest epoch up to it): a registry only grows, whatever a later leaf says."""
        leaves = list(self.of_kind("registry"))
        return list(
            zip((index for index, _ in leaves), accumulate((leaf["epoch"] for _, leaf in leaves), max), strict=True)
        )

    def epoch_before(self, index: int) -> int:
        """Return the registry's epoch as the leaves before `index` have it."""
        at = bisect_left(self._epochs, (index, -1))
        return self._epochs[at - 1][1] if at else 0

    def release_id(self, index: int) -> str:
        """Return the SHA-256 of the leaf's bytes, which is a release's id."""
        return hashlib.sha256(self.ledger_lines[index]).hexdigest()

    def headers(self) -> Iterator[Record]:
        """Yield the well-formed envelope headers in ledger order."""
        return (one["header"] for one in self.records["envelopes"] if fits(one.get("header"), HEADER))

    def crossings(self, run: str) -> list[tuple[int, Record]]:
        """Return the envelope leaves of what crossed; a refused one did not."""
        return [(index, leaf) for index, leaf in self.of_kind("envelope", run) if leaf["decision"] != "refuse"]


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

    @property
    def version(self) -> int:
        """The contract's version, 1 when it says none; what 0.3 added is demanded from 3 on."""
        version = self.contract.get("version")
        return version if type(version) is int else 1

    @property
    def has_failed(self) -> bool:
        """Whether some party's ledger says that the run failed or was refused."""
        ends = {leaf["event"] for e in self.evidence.values() for _, leaf in e.of_kind("contract", self.id)}
        return bool(ends & {"failed", "refused"})


def read_evidence(folder: Path) -> Evidence:
    """Return the evidence in `folder`/evidence; what is missing or malformed is named in `unreadable`."""
    unreadable: list[str] = []
    there = [name for name in _LATER_FILES if (folder / "evidence" / f"{name}.jsonl").exists()]
    read = {name: _read(folder, f"{name}.jsonl", unreadable) for name in ("ledger", *_LINE_FILES, *there)}
    lines = {name: _split_lines(name, data, unreadable) for name, data in read.items()}
    records = {name: [_decoded(line) for line in lines[name]] for name in (*_LINE_FILES, *there)}
    for name, found in records.items():
        unreadable += [f"{name}.jsonl, line {n}, is not canonical" for n, one in enumerate(found, 1) if not one]
    contract = _decoded(_read(folder, "contract.json", unreadable).removesuffix(b"\n"))
    catalogue = _read(folder, "catalogue.csv", unreadable)
    leaves = [_decoded(line) for line in lines["ledger"]]
    leaves = [leaf if fits(leaf, _LEAF) else {} for leaf in leaves]
    return Evidence(folder.name, contract, lines["ledger"], records, catalogue, leaves, unreadable)


def _read(folder: Path, name: str, unreadable: list[str]) -> bytes:
    try:
        return (folder / "evidence" / name).read_bytes()
    except OSError:
        unreadable.append(f"{name} is missing or cannot be read")
        return b""


def _split_lines(name: str, data: bytes, unreadable: list[str]) -> list[bytes]:
    if data and not data.endswith(b"\n"):
        unreadable.append(f"{name}.jsonl ends within a line")
    return data.removesuffix(b"\n").split(b"\n") if data else []


def _decoded(line: bytes) -> Record:
    try:
        return canonical.decode_fragment(line)
    except CryptoError:
        return {}


def fits(value: Any, shape: Any) -> bool:
    """Return whether `value` has the keys and types of `shape`; a list's shape is that of each of its items."""
    if isinstance(shape, list):
        return isinstance(value, list) and all(fits(item, shape[0]) for item in value)
    if isinstance(shape, Mapping):
        return isinstance(value, dict) and all(key in value and fits(value[key], one) for key, one in shape.items())
    return type(value) is shape
