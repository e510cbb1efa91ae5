"""The hashes of an append-only list in tiles of 256, as C2SP tlog-tiles cuts them, so that memory does not grow with it.

    tile(0, n)     = the leaf hashes 256 n … 256 n + 255
    tile(L + 1, n) = the roots of tile(L, 256 n) … tile(L, 256 n + 255)

A full tile never changes: its owner keeps it. What is not full yet, at most 255 hashes a level, is the `Frontier`; it
is a value, so that a write that fails leaves the old one in place. `TiledTree` makes roots and proofs of any prefix
from both, with no other hash in memory.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from lianxin.crypto.merkle import HASH_BYTES, HashTree, node_hash

TILE_LEVELS = 8
TILE_HASHES = 2**TILE_LEVELS
TILE_BYTES = TILE_HASHES * HASH_BYTES


@dataclass(frozen=True)
class Tile:
    """A full tile: 256 hashes of 32 bytes."""

    level: int
    index: int
    data: bytes


ReadTile = Callable[[int, int], bytes]


@dataclass(frozen=True)
class Frontier:
    """The hashes that are in no full tile yet, level by level: `partial[L]` holds fewer than 256."""

    size: int = 0
    partial: tuple[bytes, ...] = ()

    def grown(self, leaf_hashes: Iterable[bytes]) -> "tuple[Frontier, list[Tile]]":
        """Return the frontier after these leaves, and the tiles that became full."""
        levels, size, full = [bytearray(one) for one in self.partial], self.size, list[Tile]()
        for digest in leaf_hashes:
            _push(levels, full, size, digest)
            size += 1
        return Frontier(size, tuple(map(bytes, levels))), full


def _push(levels: list[bytearray], full: list[Tile], size: int, digest: bytes) -> None:
    level = 0
    while True:
        if level == len(levels):
            levels.append(bytearray())
        levels[level] += digest
        if len(levels[level]) < TILE_BYTES:
            return
        data = bytes(levels[level])
        full.append(Tile(level, size >> TILE_LEVELS * (level + 1), data))
        levels[level], digest = bytearray(), reduced(data)
        level += 1


def reduced(hashes: bytes) -> bytes:
    """Return the root over 1, 2, 4 … 256 hashes that lie side by side."""
    while len(hashes) > HASH_BYTES:
        pairs = range(0, len(hashes), 2 * HASH_BYTES)
        hashes = b"".join(
            node_hash(hashes[at : at + HASH_BYTES], hashes[at + HASH_BYTES : at + 2 * HASH_BYTES]) for at in pairs
        )
    return hashes


def restored(size: int, last_leaf_hashes: bytes, read_tile: ReadTile) -> Frontier:
    """Return the frontier of `size` leaves from the hashes of the last `size` mod 256 and from the full tiles."""
    partial, level = [last_leaf_hashes], 0
    while (count := size >> TILE_LEVELS * (level + 1)) > 0:
        first = count - count % TILE_HASHES
        partial.append(b"".join(reduced(read_tile(level, index)) for index in range(first, count)))
        level += 1
    return Frontier(size, tuple(partial))


class TiledTree(HashTree):
    """Roots and proofs over a frontier and the tiles that `read_tile(level, index)` returns."""

    def __init__(self, frontier: Frontier, read_tile: ReadTile) -> None:
        self._frontier, self._read_tile = frontier, read_tile

    @property
    def size(self) -> int:
        """The number of leaves."""
        return self._frontier.size

    def _node(self, level: int, position: int) -> bytes:
        """Return one node's hash from the slice of its tile that lies under it."""
        tile_level, above = divmod(level, TILE_LEVELS)
        index, first = divmod(position << above, TILE_HASHES)
        data = self._tile(tile_level, index)[first * HASH_BYTES : (first + (1 << above)) * HASH_BYTES]
        if len(data) != HASH_BYTES << above:
            raise ValueError("a tile of hashes is missing or cut; rebuild the tiles from the leaves")
        return reduced(data)

    def _tile(self, level: int, index: int) -> bytes:
        if index == self._frontier.size >> TILE_LEVELS * (level + 1):
            return self._frontier.partial[level]
        return self._read_tile(level, index)
