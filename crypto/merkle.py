"""Merkle trees as in RFC 9162, section 2.1: an append-only list whose every state has one 32-byte root.

    leaf_hash(d)  = SHA-256(0x00 || d)            node(l, r) = SHA-256(0x01 || l || r)
    root([])      = SHA-256("")                    root([d])  = leaf_hash(d)
    root(D[n])    = node(root(D[0:k]), root(D[k:n])),  k the largest power of two below n

`HashTree` makes roots of prefixes and proofs, in O(log^2 n), of whatever holds the hashes of complete subtrees.
`MerkleTree` keeps them all in memory: 64 bytes a leaf, one amortised hash an append (`crypto/tiles.py` keeps them
elsewhere). The `verify_*` functions are sections 2.1.3.2 and 2.1.4.2; they need no tree.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

from lianxin.crypto.errors import ProofOfInclusionRejected

HASH_BYTES = 32
EMPTY_ROOT = hashlib.sha256(b"").digest()


def leaf_hash(leaf: bytes) -> bytes:
    """Return the 32-byte hash of a leaf's bytes."""
    return hashlib.sha256(b"\x00" + leaf).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the 32-byte hash of an inner node over its two children."""
    return hashlib.sha256(b"\x01" + left + right).digest()


class HashTree(ABC):
    """Roots and proofs of an append-only list. Its kinds give `size` and the hash of each complete subtree."""

    @property
    @abstractmethod
    def size(self) -> int:
        """The number of leaves."""

    @abstractmethod
    def _node(self, level: int, position: int) -> bytes:
        """Return the hash over leaves position * 2^level up to (position + 1) * 2^level."""

    def root(self, size: int | None = None) -> bytes:
        """Return the root of the first `size` leaves, by default of all. Raises ValueError outside [0, size]."""
        size = self.size if size is None else size
        if not 0 <= size <= self.size:
            raise ValueError(f"the tree has {self.size} leaves; it has no root of size {size}")
        return self._range_root(0, size) if size else EMPTY_ROOT

    def inclusion_proof(self, index: int, size: int) -> list[bytes]:
        """Return the path that shows leaf `index` under `root(size)`. Raises ValueError for an index outside it."""
        if not 0 <= index < size <= self.size:
            raise ValueError(f"the tree has {self.size} leaves; no proof of leaf {index} in its first {size}")
        return self._path(index, 0, size)

    def consistency_proof(self, old: int, new: int) -> list[bytes]:
        """Return the nodes that show `root(old)` to be a prefix of `root(new)`; none when old equals new.

        Raises ValueError unless 0 < old <= new <= size: every log extends the empty one, so there is nothing to prove.
        """
        if not 0 < old <= new <= self.size:
            raise ValueError(f"the tree has {self.size} leaves; no consistency proof from {old} to {new}")
        return self._subproof(old, 0, new, True) if old < new else []

    def _range_root(self, start: int, end: int) -> bytes:
        width = end - start
        if width & (width - 1) == 0:
            level = width.bit_length() - 1
            return self._node(level, start >> level)
        middle = start + _split(width)
        return node_hash(self._range_root(start, middle), self._range_root(middle, end))

    def _path(self, index: int, start: int, end: int) -> list[bytes]:
        if end - start == 1:
            return []
        middle = start + _split(end - start)
        if index < middle:
            return [*self._path(index, start, middle), self._range_root(middle, end)]
        return [*self._path(index, middle, end), self._range_root(start, middle)]

    def _subproof(self, old: int, start: int, end: int, is_whole: bool) -> list[bytes]:
        if old == end:
            return [] if is_whole else [self._range_root(start, end)]
        middle = start + _split(end - start)
        if old <= middle:
            return [*self._subproof(old, start, middle, is_whole), self._range_root(middle, end)]
        return [*self._subproof(old, middle, end, False), self._range_root(start, middle)]


class MerkleTree(HashTree):
    """The hashes of an append-only list, in memory. Not thread-safe: its owner holds a lock."""

    def __init__(self) -> None:
        self._levels: list[bytearray] = [bytearray()]

    @property
    def size(self) -> int:
        """The number of leaves."""
        return len(self._levels[0]) // HASH_BYTES

    def append(self, leaf: bytes) -> int:
        """Add a leaf's bytes and return its index, from 0."""
        index = self.size
        self._push(0, leaf_hash(leaf))
        return index

    def _push(self, level: int, digest: bytes) -> None:
        if level == len(self._levels):
            self._levels.append(bytearray())
        self._levels[level] += digest
        count = len(self._levels[level]) // HASH_BYTES
        if count % 2 == 0:
            self._push(level + 1, node_hash(self._node(level, count - 2), self._node(level, count - 1)))

    def _node(self, level: int, position: int) -> bytes:
        return bytes(self._levels[level][position * HASH_BYTES : (position + 1) * HASH_BYTES])


def root_of(leaves: Iterable[bytes]) -> bytes:
    """Return the root over `leaves` in their order, in O(log n) memory."""
    frontier: list[tuple[int, bytes]] = []
    for leaf in leaves:
        level, digest = 0, leaf_hash(leaf)
        while frontier and frontier[-1][0] == level:
            digest = node_hash(frontier.pop()[1], digest)
            level += 1
        frontier.append((level, digest))
    if not frontier:
        return EMPTY_ROOT
    root = frontier.pop()[1]
    while frontier:
        root = node_hash(frontier.pop()[1], root)
    return root


def root_of_all(leaves: Sequence[bytes]) -> bytes:
    """Return the root over `leaves`, as `root_of` does, several times faster and in memory for all of their hashes.

    Level by level, an odd last node going up as it is: that is the same tree.
    """
    sha256 = hashlib.sha256
    level = [sha256(b"\x00" + leaf).digest() for leaf in leaves]
    while len(level) > 1:
        odd = level[-1:] if len(level) % 2 else []
        pairs = zip(level[::2], level[1::2], strict=False)
        level = [sha256(b"\x01" + left + right).digest() for left, right in pairs] + odd
    return level[0] if level else EMPTY_ROOT


def verify_inclusion(leaf_digest: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> None:
    """Raise ProofOfInclusionRejected unless `proof` leads from the leaf hash at `index` to the `root` over `size`."""
    if not 0 <= index < size:
        raise ProofOfInclusionRejected(f"leaf {index} is not in a tree of {size} leaves")
    _check_digests(leaf_digest, root, *proof)
    digest, position, last = leaf_digest, index, size - 1
    for sibling in proof:
        if last == 0:
            raise ProofOfInclusionRejected("an inclusion proof is longer than the path to the root")
        if position % 2 or position == last:
            digest = node_hash(sibling, digest)
            while position % 2 == 0 and position:
                position, last = position >> 1, last >> 1
        else:
            digest = node_hash(digest, sibling)
        position, last = position >> 1, last >> 1
    if last or digest != root:
        raise ProofOfInclusionRejected("an inclusion proof does not lead to the root; the leaf or the log was changed")


def verify_consistency(old: int, new: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]) -> None:
    """Raise ProofOfInclusionRejected unless `proof` shows the tree of `old` leaves to be a prefix of that of `new`.

    A proof from the empty tree says nothing, and is refused too.
    """
    if not 0 < old <= new:
        raise ProofOfInclusionRejected(f"a log of {new} leaves has no consistency proof from {old} leaves")
    if old == new:
        _verify_same_head(old_root, new_root, proof)
        return
    _check_digests(old_root, new_root, *proof)
    path = list(proof) if old & (old - 1) else [old_root, *proof]
    if not path:
        raise ProofOfInclusionRejected("a consistency proof is empty")
    _verify_consistency_path(old - 1, new - 1, old_root, new_root, path)


def _verify_same_head(old_root: bytes, new_root: bytes, proof: Sequence[bytes]) -> None:
    if proof or old_root != new_root:
        raise ProofOfInclusionRejected("two heads of one size differ, or a proof is given where none is needed")


def _verify_consistency_path(position: int, last: int, old_root: bytes, new_root: bytes, path: list[bytes]) -> None:
    while position % 2:
        position, last = position >> 1, last >> 1
    old_digest = new_digest = path[0]
    for sibling in path[1:]:
        if last == 0:
            raise ProofOfInclusionRejected("a consistency proof is longer than the path to the root")
        if position % 2 or position == last:
            old_digest, new_digest = node_hash(sibling, old_digest), node_hash(sibling, new_digest)
            while position % 2 == 0 and position:
                position, last = position >> 1, last >> 1
        else:
            new_digest = node_hash(new_digest, sibling)
        position, last = position >> 1, last >> 1
    if last or old_digest != old_root or new_digest != new_root:
        raise ProofOfInclusionRejected("a consistency proof does not join the two heads; the log was rewritten")


def _split(width: int) -> int:
    return 1 << ((width - 1).bit_length() - 1)


def _check_digests(*digests: bytes) -> None:
    if any(len(digest) != HASH_BYTES for digest in digests):
        raise ProofOfInclusionRejected(f"every hash of a proof has {HASH_BYTES} bytes")
