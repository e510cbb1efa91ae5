"""Tiles of hashes: the same roots and proofs as the tree in memory, a frontier that a failed write leaves as it was."""

import pytest
from stores import Place, edited

from lianxin.crypto import merkle, signing, tiles
from lianxin.federation.errors import EvidenceRejected
from lianxin.parties.ledger import Ledger
from lianxin.parties.store import Store

KEY = signing.SigningKey.from_seed(bytes([1]) * 32)
NOTE = {"kind": "note", "run": ""}
SIZES = (1, 2, 255, 256, 257, 511, 512, 700, 65_535, 65_536, 65_537, 66_000, 70_001)


class StillClock:
    def now(self) -> str:
        return "2026-05-01T08:00:00Z"


def open_ledger(path: Place) -> Ledger:
    return Ledger(Store(path), "bank-a", KEY, StillClock(), "lianxin 0.3.0", "operator-1")


@pytest.fixture(scope="module")
def leaves() -> list[bytes]:
    return [b"leaf %d" % n for n in range(SIZES[-1])]


@pytest.fixture(scope="module")
def tree(leaves: list[bytes]) -> merkle.MerkleTree:
    tree = merkle.MerkleTree()
    for leaf in leaves:
        tree.append(leaf)
    return tree


def test_roots_and_proofs_of_tiles_are_those_of_the_tree_in_memory(
    leaves: list[bytes], tree: merkle.MerkleTree
) -> None:
    frontier, kept = tiles.Frontier(), dict[tuple[int, int], bytes]()

    def read(level: int, index: int) -> bytes:
        return kept[level, index]

    for size in SIZES:
        frontier, full = frontier.grown(map(merkle.leaf_hash, leaves[frontier.size : size]))
        kept.update({(tile.level, tile.index): tile.data for tile in full})
        tiled = tiles.TiledTree(frontier, read)
        assert tiled.root() == tree.root(size)
        for old in {1, 2, size // 3, size // 2, size - 1, size, 256, 65_536} & set(range(1, size + 1)):
            assert tiled.root(old) == tree.root(old)
            assert tiled.consistency_proof(old, size) == tree.consistency_proof(old, size)
            assert tiled.inclusion_proof(old - 1, size) == tree.inclusion_proof(old - 1, size)
        last = b"".join(map(merkle.leaf_hash, leaves[size - size % 256 : size]))
        assert tiles.restored(size, last, read) == frontier
    assert sum(map(len, frontier.partial)) < 3 * tiles.TILE_BYTES


def test_a_tile_that_is_missing_or_cut_is_refused_and_never_hashed_as_it_is(leaves: list[bytes]) -> None:
    frontier, full = tiles.Frontier().grown(map(merkle.leaf_hash, leaves[:700]))
    for read in (lambda _level, _index: b"", lambda _level, _index: full[0].data[:-32]):
        with pytest.raises(ValueError, match="missing or cut"):
            tiles.TiledTree(frontier, read).inclusion_proof(254, 700)


def test_a_ledger_that_is_opened_again_reads_its_last_leaves_and_not_all(any_store: Place) -> None:
    ledger = open_ledger(any_store)
    ledger.append_many({**NOTE, "n": n} for n in range(1_000))
    ledger.checkpoint()
    with edited(any_store) as other:  # what is in a full tile is not read at the start...
        other.execute("update leaves set data = ? where position = 5", (b"\0",))
    again = open_ledger(any_store)
    assert again.root() == ledger.root()
    with edited(any_store) as other:  # ...and what is behind the last full tile is
        other.execute("update leaves set data = ? where position = 999", (b"\0",))
    with pytest.raises(EvidenceRejected, match="last signed checkpoint"):
        open_ledger(any_store)


def test_an_older_store_without_tiles_gets_them_and_a_changed_tile_is_refused(any_store: Place) -> None:
    ledger = open_ledger(any_store)
    ledger.append_many({**NOTE, "n": n} for n in range(1_000))
    ledger.checkpoint()
    with edited(any_store) as other:
        other.execute("delete from tiles")
    assert open_ledger(any_store).root() == ledger.root()
    assert Store(any_store).tile_count(0) == 3
    with edited(any_store) as other:
        other.execute('update tiles set data = ? where "index" = 1', (bytes(8192),))
    with pytest.raises(EvidenceRejected, match="last signed checkpoint"):
        open_ledger(any_store)


@pytest.mark.parametrize("position", [10, 990])
def test_leaves_that_lack_between_others_are_refused(any_store: Place, position: int) -> None:
    open_ledger(any_store).append_many({**NOTE, "n": n} for n in range(1_000))
    with edited(any_store) as other:
        other.execute("delete from leaves where position = ?", (position,))
        other.execute("delete from tiles")
    with pytest.raises(EvidenceRejected, match="lacks leaves"):
        open_ledger(any_store)
