"""A sorted map as one 32-byte root, with proofs that a key is in it and proofs that a key is not.

    leaf(k, v)  = len(k) as 4 bytes || k as UTF-8 || v          sorted by the bytes of k, each key once
    root(M)     = SHA-256("lianxin/snapshot" || 0x00 || |M| as 8 bytes || RFC 9162 root over the leaves)

1. Present: the leaf's place and its RFC 9162 inclusion path under the root.
2. Absent: the two leaves between which the key would stand, at neighbouring places. At either end of the map one of them
   is missing: the other is then the first or the last leaf, which the number of leaves in the root shows. An empty map
   needs none.

Who holds the root and a proof needs no map. A proof tells of the map its size and at most two of its leaves.
"""

import hashlib
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lianxin.crypto import merkle
from lianxin.crypto.errors import ProofOfInclusionRejected

_DOMAIN = b"lianxin/snapshot\x00"
_PLACE = {"index": int, "key": str, "value": str, "path": list}


@dataclass(frozen=True, slots=True)
class Place:
    """One leaf: its index, key, value and inclusion path."""

    index: int
    key: str
    value: bytes
    path: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Proof:
    """What `Snapshot.prove` returns: the map's size, and the leaf of the key or the leaves around its gap."""

    size: int
    at: Place | None = None
    before: Place | None = None
    after: Place | None = None


class Snapshot:
    """A sorted map with its Merkle tree, 32 bytes a node."""

    def __init__(self, entries: Iterable[tuple[str, bytes]]) -> None:
        """Build the map. Raises ValueError when a key is given twice."""
        ordered = sorted((key.encode(), value) for key, value in entries)
        self._keys, self._values = [key for key, _ in ordered], [value for _, value in ordered]
        if any(first == second for first, second in zip(self._keys, self._keys[1:], strict=False)):
            raise ValueError("a key stands twice in a snapshot")
        self._levels = _levels([_leaf(key, value) for key, value in ordered])

    @property
    def size(self) -> int:
        """The number of keys."""
        return len(self._keys)

    @property
    def root(self) -> bytes:
        """The map's 32-byte root."""
        return _bind(self.size, self._levels[-1][0] if self._keys else merkle.EMPTY_ROOT)

    def put(self, entries: Mapping[str, bytes]) -> None:
        """Set the values of keys, new ones among them; only what changed is hashed again."""
        ordered = [(key.encode(), value) for key, value in entries.items()]
        first = min((self._insert(key) for key, _ in ordered if not self._has(key)), default=self.size)
        dirty = set(range(first, self.size))
        for key, value in ordered:
            place = bisect_left(self._keys, key)
            if self._values[place] != value:
                self._values[place] = value
                self._levels[0][place] = merkle.leaf_hash(_leaf(key, value))
                dirty.add(place)
        self._hash_above(dirty)

    def _has(self, key: bytes) -> bool:
        place = bisect_left(self._keys, key)
        return place < self.size and self._keys[place] == key

    def _insert(self, key: bytes) -> int:
        place = bisect_left(self._keys, key)
        for column, value in (
            (self._keys, key),
            (self._values, b""),
            (self._levels[0], merkle.leaf_hash(_leaf(key, b""))),
        ):
            column.insert(place, value)
        return place

    def _hash_above(self, dirty: set[int]) -> None:
        """Hash the nodes over these leaves again; behind an inserted leaf all are among them."""
        for level, below in enumerate(self._levels):
            if len(below) < 2:
                break
            if level + 1 == len(self._levels):
                self._levels.append([])
            above, dirty = self._levels[level + 1], {place >> 1 for place in dirty}
            above.extend([b""] * ((len(below) + 1) // 2 - len(above)))
            for place in dirty:
                pair = below[2 * place : 2 * place + 2]
                above[place] = merkle.node_hash(*pair) if len(pair) > 1 else pair[0]

    def prove(self, key: str) -> Proof:
        """Return the proof that `key` is in the map, or that it is not."""
        wanted = key.encode()
        index = bisect_left(self._keys, wanted)
        if index < self.size and self._keys[index] == wanted:
            return Proof(self.size, at=self._place(index))
        before = self._place(index - 1) if index else None
        return Proof(self.size, before=before, after=self._place(index) if index < self.size else None)

    def _place(self, index: int) -> Place:
        path, position = [], index
        for level in self._levels[:-1]:
            sibling = position ^ 1
            if sibling < len(level):
                path.append(level[sibling])
            position >>= 1
        return Place(index, self._keys[index].decode(), self._values[index], tuple(path))


def verify_present(root: bytes, key: str, value: bytes, proof: Proof) -> None:
    """Raise ProofOfInclusionRejected unless `proof` shows `key` with `value` in the map of `root`."""
    if proof.at is None or (proof.at.key, proof.at.value) != (key, value) or proof.before or proof.after:
        raise ProofOfInclusionRejected("a proof is not one that this key has this value")
    _verify_place(root, proof.size, proof.at)


def verify_absent(root: bytes, key: str, proof: Proof) -> None:
    """Raise ProofOfInclusionRejected unless `proof` shows that the map of `root` has no `key`."""
    before, after = proof.before, proof.after
    if proof.at is not None:
        raise ProofOfInclusionRejected("a proof that a key is there shows nothing missing")
    if not _is_gap(proof.size, before, after):
        raise ProofOfInclusionRejected("the leaves of a proof of absence are no neighbours; a leaf may stand between")
    if not _is_between(before, key, after):
        raise ProofOfInclusionRejected("the key does not belong between the leaves of its proof of absence")
    if before is None and after is None and root != _bind(0, merkle.EMPTY_ROOT):
        raise ProofOfInclusionRejected("a proof of absence without leaves is for the empty map alone")
    for place in (before, after):
        if place is not None:
            _verify_place(root, proof.size, place)


def proof_to_record(proof: Proof) -> dict[str, Any]:
    """Return the proof as a record for canonical JSON; bytes are in hex and missing parts are left out."""
    parts = {"at": proof.at, "before": proof.before, "after": proof.after}
    shown = {name: _place_record(place) for name, place in parts.items() if place is not None}
    return {"type": "snapshot-proof", "version": 1, "size": proof.size, **shown}


def proof_from_record(record: Mapping[str, Any]) -> Proof:
    """Return the proof that `proof_to_record` wrote. Raises ProofOfInclusionRejected for anything else."""
    try:
        parts = {name: _place_from(record[name]) for name in ("at", "before", "after") if name in record}
        proof = Proof(record["size"], **parts)
        is_same = type(proof.size) is int and proof_to_record(proof) == dict(record)
    except (KeyError, TypeError, ValueError, AttributeError):
        is_same = False
    if not is_same:
        raise ProofOfInclusionRejected("a record is no snapshot proof of version 1")
    return proof


def _levels(leaves: list[bytes]) -> list[list[bytes]]:
    """Return the tree level by level; an odd last node goes up as it is, which is the tree of RFC 9162."""
    sha256 = hashlib.sha256
    levels = [[sha256(b"\x00" + leaf).digest() for leaf in leaves]]
    while len(levels[-1]) > 1:
        below = levels[-1]
        pairs = zip(below[::2], below[1::2], strict=False)
        level = [sha256(b"\x01" + left + right).digest() for left, right in pairs]
        levels.append(level + (below[-1:] if len(below) % 2 else []))
    return levels


def _leaf(key: bytes, value: bytes) -> bytes:
    return len(key).to_bytes(4, "big") + key + value


def _bind(size: int, tree_root: bytes) -> bytes:
    return hashlib.sha256(_DOMAIN + size.to_bytes(8, "big") + tree_root).digest()


def _verify_place(root: bytes, size: int, place: Place) -> None:
    """Recompute the map's root from one leaf: the tree's root is what the path leads to."""
    digest = merkle.leaf_hash(_leaf(place.key.encode(), place.value))
    tree_root = _led_to(digest, place.index, size, place.path)
    merkle.verify_inclusion(digest, place.index, size, place.path, tree_root)
    if _bind(size, tree_root) != root:
        raise ProofOfInclusionRejected("a leaf's path does not lead to the snapshot's root")


def _led_to(digest: bytes, index: int, size: int, path: tuple[bytes, ...]) -> bytes:
    position, last = index, size - 1
    for sibling in path:
        while position == last and position % 2 == 0 and last:
            position, last = position >> 1, last >> 1
        digest = merkle.node_hash(sibling, digest) if position % 2 else merkle.node_hash(digest, sibling)
        position, last = position >> 1, last >> 1
    return digest


def _is_gap(size: int, before: Place | None, after: Place | None) -> bool:
    first = before.index + 1 if before is not None else 0
    return size >= 0 and (first == after.index if after is not None else first == size)


def _is_between(before: Place | None, key: str, after: Place | None) -> bool:
    wanted = key.encode()
    return (before is None or before.key.encode() < wanted) and (after is None or wanted < after.key.encode())


def _place_record(place: Place) -> dict[str, Any]:
    path = [node.hex() for node in place.path]
    return {"index": place.index, "key": place.key, "value": place.value.hex(), "path": path}


def _place_from(record: Mapping[str, Any]) -> Place:
    if set(record) != set(_PLACE) or any(type(record[name]) is not kind for name, kind in _PLACE.items()):
        raise ValueError
    path = tuple(bytes.fromhex(node) for node in record["path"])
    return Place(record["index"], record["key"], bytes.fromhex(record["value"]), path)
