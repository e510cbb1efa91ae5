"""Opening a ledger's tree from its store: the last leaves and the tiles of hashes, without reading all leaves.

A store of before 0.3 has no tiles, and one that was edited may lack some: they are made again from the leaves. Whether
leaves and tiles agree with what was signed is judged by the checkpoint over them.
"""

from collections.abc import Iterable
from itertools import islice

from lianxin.crypto.merkle import leaf_hash, root_of
from lianxin.crypto.tiles import TILE_HASHES, TILE_LEVELS, Frontier, restored
from lianxin.federation.errors import EvidenceRejected
from lianxin.parties.store import Store

REBUILD_LEAVES = 64 * TILE_HASHES


def opened_frontier(store: Store, party: str) -> Frontier:
    """Return the frontier of the ledger in `store`. Raises EvidenceRejected when the last leaves have gaps."""
    size = store.next_position()
    if any(store.tile_count(level) != size >> TILE_LEVELS * (level + 1) for level in range(_levels(size))):
        return rebuilt_frontier(store, party, size)
    last = [leaf_hash(leaf) for leaf in store.leaves(size - size % TILE_HASHES)]
    if len(last) != size % TILE_HASHES:
        raise _gap(party)
    return restored(size, b"".join(last), store.tile)


def rebuilt_frontier(store: Store, party: str, size: int) -> Frontier:
    """Return the frontier after writing every tile again from all leaves, a few thousand leaves in memory at a time."""
    frontier, leaves = Frontier(), store.leaves()
    while page := list(islice(leaves, REBUILD_LEAVES)):
        frontier, tiles = frontier.grown(map(leaf_hash, page))
        store.add_tiles(tiles)
    if frontier.size != size:
        raise _gap(party)
    return frontier


def registry_root(encoded_records: Iterable[bytes]) -> str:
    """Return the root, in hex, over the canonical bytes of a registry's signed records."""
    return root_of(encoded_records).hex()


def _levels(size: int) -> int:
    return max(1, -(-size.bit_length() // TILE_LEVELS))


def _gap(party: str) -> EvidenceRejected:
    return EvidenceRejected(
        f"the ledger of {party} lacks leaves between others, and disagrees with its own last signed checkpoint; restore "
        "the store from a copy"
    )
