"""How an auditor follows a party from the node key of a contract to those before and after it.

A rotation is a leaf of kind `key-rotation` that holds the signed statement (crypto/rotation.py): in the party's own ledger,
and in those of the peers that accepted it. A link counts where the old and the new key signed it, so that it does not
matter who shows it. What a party had in force at a size of its ledger is told by its own leaves: a head over such a leaf
has to carry the new key's signature, a head before it the old one's; without the leaf, no head of another key is its own.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lianxin.crypto import rotation
from lianxin.crypto.errors import CryptoError
from lianxin.crypto.rotation import NODE, Rotation
from lianxin.parties.auditor_lines import LONGEST, decoded

if TYPE_CHECKING:
    from lianxin.parties.auditor_evidence import Evidence

KIND = "key-rotation"
_MARK = b'"kind":"key-rotation"'
UNKNOWN = -1


class Era(NamedTuple):
    """A node key of a party, and the leaf of its own ledger that named it: 0 for the first, UNKNOWN where none shows it."""

    key: str
    since: int


def eras_of(evidence: "Mapping[str, Evidence]", node_keys: Mapping[str, str]) -> dict[str, tuple[Era, ...]]:
    """Return the node keys of each party of a contract in their order, the contract's among them."""
    links = [
        (said, index if holder == said.party else UNKNOWN)
        for holder, own in evidence.items()
        for index, said in _statements(own)
    ]
    return {party: _chain(key, [link for link in links if link[0].party == party]) for party, key in node_keys.items()}


def _statements(own: "Evidence") -> Iterator[tuple[int, Rotation]]:
    """Yield the rotations of node keys in a ledger whose both signatures hold."""
    for index, leaf in own.of_kind(KIND):
        if (said := verified(leaf["rotation"])) is not None:
            yield index, said


def verified(signed: Any) -> Rotation | None:
    """Return a node key's rotation that its old and its new key signed, None for anything else."""
    try:
        said = rotation.read(signed)
        return rotation.verify(signed, said.old) if said.what == NODE else None
    except (CryptoError, KeyError, TypeError, ValueError):
        return None


def _chain(key: str, links: list[tuple[Rotation, int]]) -> tuple[Era, ...]:
    """Return the keys that lead to `key` and those that follow it; of two statements of one key the own ledger's first."""
    ordered = sorted(links, key=lambda link: (link[1] == UNKNOWN, link[1]))
    after = {said.old: Era(said.new, since) for said, since in reversed(ordered)}
    before = {said.new: Era(said.old, since) for said, since in reversed(ordered)}
    first, seen = key, {key}
    while (earlier := before.get(first)) is not None and earlier.key not in seen:
        first = earlier.key
        seen.add(first)
    found = [Era(first, 0)]
    while (later := after.get(found[-1].key)) is not None and later.key not in [era.key for era in found]:
        found.append(later)
    return tuple(found)


def key_at(eras: tuple[Era, ...], size: int) -> str:
    """Return the key whose signature a party's own head of `size` leaves has to carry."""
    begun = [era.key for era in eras[1:] if era.since != UNKNOWN and era.since < size]
    return begun[-1] if begun else eras[0].key


def odd_leaves(own: "Evidence", eras: tuple[Era, ...]) -> Iterator[tuple[int, str]]:
    """Yield the leaves about rotations that do not hold, with what is wrong: both keys sign, and each key is left once."""
    seen = eras[0].key if eras else ""
    for index, leaf in own.of_kind(KIND):
        signed = leaf["rotation"]
        record = signed.get("record") if isinstance(signed, dict) else None
        if not isinstance(record, dict) or leaf["peer"] != record.get("party"):
            yield index, "what should be a rotation of a key is none"
            continue
        if record.get("what") != NODE:
            continue
        said = verified(signed)
        if said is None:
            yield index, "its new node key is not signed by the old and the new key"
        elif said.party == own.party and eras:
            if said.old != seen:
                yield index, "it replaces another node key than the one in force"
            else:
                seen = said.new


def reaches(folder: Path, key: str, other: str) -> bool:
    """Return whether the ledger in a party's folder leads from one node key to another by rotations that hold."""
    found: list[tuple[Rotation, int]] = []
    try:
        with (folder / "evidence" / "ledger.jsonl").open("rb") as file:
            for index, line in enumerate(iter(lambda: file.readline(LONGEST + 1), b"")):
                leaf = decoded(line.removesuffix(b"\n")) if _MARK in line else None
                said = verified(leaf.get("rotation")) if leaf and leaf.get("kind") == KIND else None
                found += [(said, index)] if said is not None and said.party == folder.name else []
    except OSError:
        return False
    return other in {era.key for era in _chain(key, found)}
