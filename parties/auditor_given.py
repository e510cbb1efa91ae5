"""What was given to an auditor: packs and run folders, put together to one contract and one folder of evidence a party.

A part of a pack counts for its party where the party's node key signed it; a part that another key signed is named and laid
aside, so that it neither replaces the party's own nor accuses it. Of two exports of one party the later one is judged, whose
ledger goes on where the other's ends; two of the same ledger have to be the same. Where evidence holds several contracts, each
signed by all of its parties, the one of the keys that the auditor knows is judged; without such keys none is.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lianxin.crypto import canonical, signing
from lianxin.crypto.errors import CryptoError
from lianxin.parties import auditor_pack, auditor_rotations
from lianxin.parties.auditor_columns import fits
from lianxin.parties.auditor_evidence import CONTRACT, NOBODY, Evidence, Finding, Record
from lianxin.parties.auditor_ledger import PART
from lianxin.parties.auditor_lines import LONGEST, decoded
from lianxin.parties.auditor_verdict import Check

_TEXTS = (
    "type", "platform", "proposer", "matching", "model", "alignment", "on_loss", "profile", "retain_until", "strategy",
    "aggregation", "personalisation", "privacy_unit", "nodes", "sign_check",
)  # fmt: skip
_NUMBERS = (
    "version", "key_bits", "spare_attempts", "max_queries", "max_firms", "max_rows", "min_intersection", "trees",
    "split_bits", "epsilon_thousandths", "delta_exponent", "groups", "max_rollbacks", "update_bits",
)  # fmt: skip
_TYPES: Mapping[str, type] = dict.fromkeys(_TEXTS, str) | dict.fromkeys(_NUMBERS, int)
_GROWING = frozenset({"checkpoints.jsonl", "witnessed.jsonl"})  # lines are added to these without a leaf
Keys = Mapping[str, str]


@dataclass
class Given:
    """Folders by party, several of one party where several were given, and the run that each pack says it is of."""

    folders: dict[str, list[Path]] = field(default_factory=dict)
    packs: list[tuple[str, str]] = field(default_factory=list)
    aside: dict[str, list[Path]] = field(default_factory=dict)
    damaged: list[Check] = field(default_factory=list)

    def add(self, folder: Path) -> None:
        """Take the folder of each party under `folder`/parties."""
        for one in sorted(path for path in (folder / "parties").glob("*") if path.is_dir()):
            self.folders.setdefault(one.name, []).append(one)

    def unpack(self, pack: Path, scratch: Path) -> None:
        """Take the parts of a pack, unpacked to `scratch`. Raises PackFault for a pack that is damaged or hostile."""
        auditor_pack.unpack(pack, scratch)
        self.packs.append((pack.name, auditor_pack.manifest_of(pack).run))
        self.add(scratch)

    def contracts(self) -> list[Record]:
        """Return the different contracts that all of their parties signed, in the order of parties."""
        found: dict[str, Record] = {}
        for folders in self.folders.values():
            for folder in folders:
                if (record := signed_contract(_read(folder / "evidence" / "contract.json"))) is not None:
                    found.setdefault(canonical.record_hash(record), record)
        return list(found.values())

    def of_two_runs(self) -> str:
        """Return the sentence where what was given is of different runs, each under one contract; "" where it is not."""
        found: dict[Path, set[str]] = {}
        for folder in (one for folders in self.folders.values() for one in folders):
            if (record := signed_contract(_read(folder / "evidence" / "contract.json"))) is not None:
                found.setdefault(folder.parent, set()).add(canonical.record_hash(record))
        hashes = list(dict.fromkeys(one for held in found.values() for one in sorted(held)))
        if len(hashes) < 2 or any(len(held) != 1 for held in found.values()):
            return ""
        count = "two" if len(hashes) == 2 else str(len(hashes))
        named = ", ".join(f"contract {one[:16]}…" for one in hashes)
        return f"these packs are of {count} different runs ({named}); give one run's packs"

    def lay_aside(self, keys: Keys) -> None:
        """Put the parts of packs aside that another key signed than the party's; raises PackFault for a bad signature."""
        for party, folders in self.folders.items():
            odd = [one for one in folders if not _is_of(one, keys.get(party, ""))]
            if odd and party in keys:
                self.aside[party] = odd
                self.folders[party] = [one for one in folders if one not in odd]

    def latest(self) -> dict[str, Path]:
        """Return the folder to judge of each party; raises PackFault for two exports that do not go on from each other."""
        found = {party: folders[0] for party, folders in self.folders.items() if folders}
        for party, folder in found.items():
            for other in self.folders[party][1:]:
                folder = found[party] = _later(folder, other)
        return found


def _is_of(folder: Path, key: str) -> bool:
    """Return whether a part is signed by a party's key, or by one to which its own ledger leads from there."""
    part = auditor_pack.part_key(folder)
    return part in ("", key) or auditor_rotations.reaches(folder, key, part)


def contract_of(contracts: Sequence[Record], known_keys: Keys | None) -> tuple[Record | None, str]:
    """Return the contract to judge by, and why there is none, "" where there is one or evidence holds none at all."""
    if len(contracts) > 1 and known_keys is not None:
        contracts = [one for one in contracts if _is_known(keys_of(one), known_keys)]
    if len(contracts) == 1:
        return contracts[0], ""
    if not contracts:
        return None, "" if known_keys is None else "no contract in evidence is signed by the keys that you know"
    named = ", ".join(canonical.record_hash(one)[:16] for one in contracts)
    return None, f"evidence holds {len(contracts)} contracts, each signed by all of its parties ({named})"


def _is_known(keys: Keys, known_keys: Keys) -> bool:
    """Return whether the auditor knows a key of a contract, and no other one of any of its parties."""
    shared = [party for party in keys if party in known_keys]
    return bool(shared) and all(known_keys[party] == keys[party] for party in shared)


def keys_of(contract: Record) -> dict[str, str]:
    """Return each party's node key by a contract."""
    return {entry["party"]: entry["node_key"] for entry in contract["parties"]}


def signed_contract(signed: Record) -> Record | None:
    """Return the record of a contract that all of its parties signed and whose terms are of their types, else None."""
    record: object = signed.get("record")
    if not fits(record, CONTRACT) or not isinstance(record, dict):
        return None
    keys = keys_of(record)
    if any(type(record[name]) is not kind for name, kind in _TYPES.items() if name in record):
        return None
    try:
        signing.verify_signed(signed, keys)
    except CryptoError:
        return None
    return record if record["type"] == "run-contract" and len(keys) == len(record["parties"]) else None


def with_part(own: Evidence, folder: Path) -> Evidence:
    """Return evidence with what its part of a pack says of the export as a document, where it came from a pack."""
    record = _read(folder / auditor_pack.PART_FILE).get("record")
    if isinstance(record, dict):
        own.documents = {**own.documents, PART: record}
    return own


def part_findings(given: Given) -> Iterator[Finding]:
    """Yield the parts that another key signed than their party's: nothing in them was judged."""
    for party, folders in sorted(given.aside.items()):
        for _ in folders:
            what = f"{party}: a part of it is signed by another key than its node key, and was not judged"
            yield Finding(what, f"ask who sent it, and {party} for its own", accused=NOBODY)


def run_findings(given: Given, run: str) -> Iterator[Finding]:
    """Yield the packs that say they are of another run than the contract in them."""
    for name, said in sorted(given.packs):
        if said != run:
            what = f"{name}: its manifest says another run than the contract in it, which is of run {run}"
            yield Finding(what, "ask who made the pack for one of the run that it holds", accused=NOBODY)


def _read(path: Path) -> Record:
    try:
        if path.is_file() and path.stat().st_size <= LONGEST:
            return decoded(path.read_bytes().removesuffix(b"\n")) or {}
    except OSError:
        pass
    return {}


def _later(one: Path, other: Path) -> Path:
    """Return the later of two exports of a party; where the ledgers are equal, everything else has to be so, too."""
    short, long = sorted((one, other), key=lambda folder: [_size(folder, name) for name in ("ledger", "witnessed")])
    party, name = one.name, "ledger.jsonl"
    if not _is_start(short / "evidence" / name, long / "evidence" / name):
        raise auditor_pack.PackFault(
            f"part {party}: two exports of it were given, and one's ledger is not the beginning of the other's; give "
            f"them one by one, and ask {party} why it has two ledgers", party, name,
        )  # fmt: skip
    is_same = _size(short, "ledger") == _size(long, "ledger")
    if is_same and (odd := next(_different(short / "evidence", long / "evidence"), "")):
        raise auditor_pack.PackFault(
            f"part {party}: two exports of one ledger were given, and their {odd} are not the same; give them one by one, "
            f"and ask {party} which of them it made", party, odd,
        )  # fmt: skip
    return long


def _different(one: Path, other: Path) -> Iterator[str]:
    names = {path.name for folder in (one, other) for path in folder.iterdir()} - _GROWING
    for name in sorted(names):
        if not (_is_start(one / name, other / name) and _is_start(other / name, one / name)):
            yield name


def _size(folder: Path, name: str) -> int:
    path = folder / "evidence" / f"{name}.jsonl"
    return path.stat().st_size if path.is_file() else 0


def _is_start(short: Path, long: Path) -> bool:
    try:
        with short.open("rb") as one, long.open("rb") as other:
            while block := one.read(2**20):
                if other.read(len(block)) != block:
                    return False
    except OSError:
        return False
    return True
