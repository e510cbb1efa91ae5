"""The root of a growing list in memory for its logarithm: RFC 9162's tree without the tree.

Kept are the roots of the complete subtrees into which the list so far falls, largest first. Appending joins equal ones as
a binary counter carries; the root folds them from the right. No proofs can be made from it.
"""

import hashlib

from lianxin.crypto import merkle


class Frontier:
    """An append-only list's size and root. Not thread-safe: its owner holds a lock."""

    __slots__ = ("_nodes", "size")

    def __init__(self) -> None:
        self._nodes: list[bytes] = []
        self.size = 0

    def copy(self) -> "Frontier":
        """Return a second frontier of the same list, which grows by itself."""
        other = Frontier()
        other._nodes, other.size = list(self._nodes), self.size
        return other

    def append(self, leaf: bytes) -> None:
        """Add a leaf's bytes."""
        digest, carry = hashlib.sha256(b"\x00" + leaf).digest(), self.size
        while carry & 1:
            digest = hashlib.sha256(b"\x01" + self._nodes.pop() + digest).digest()
            carry >>= 1
        self._nodes.append(digest)
        self.size += 1

    def root(self) -> bytes:
        """Return the 32-byte root over all leaves so far."""
        if not self._nodes:
            return merkle.EMPTY_ROOT
        root = self._nodes[-1]
        for node in self._nodes[-2::-1]:
            root = merkle.node_hash(node, root)
        return root
