"""One store copied into another, whatever databases they are in; and the check that a copy's ledger is whole.

A copy is of one moment: a snapshot of SQLite's write-ahead log, or a REPEATABLE READ transaction of PostgreSQL. Nobody who
writes waits for it, and a page of rows is in memory. The portable form of both is a SQLite file without a log beside it.
"""

import os
import sqlite3
from itertools import islice
from pathlib import Path
from typing import cast

import sqlalchemy as sa

from lianxin.crypto import canonical
from lianxin.crypto.errors import CryptoError
from lianxin.crypto.frontier import Frontier as PlainFrontier
from lianxin.crypto.merkle import leaf_hash
from lianxin.crypto.tiles import Frontier, TiledTree
from lianxin.federation.errors import EvidenceRejected
from lianxin.parties import store_schema as schema
from lianxin.parties.ledger_keys import LedgerKeys
from lianxin.parties.ledger_tree import REBUILD_LEAVES
from lianxin.parties.store import Store
from lianxin.parties.store_ledger import PAGE


def copy_to_file(store: Store, path: Path) -> None:
    """Write the store as it is at one moment to a new portable file, readable by its owner alone."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    if store.dialect == "sqlite":
        _copy_pages(store, path)
    else:
        target = Store(path)
        copy_rows(store, target)
        target.close()
    with_no_log(path)


def copy_rows(source: Store, target: Store) -> None:
    """Put the rows of every table of one store into another that has none, in one transaction at each end."""
    with source.reading() as given, target.writing() as taken:
        for table in schema.metadata.sorted_tables:
            taken.execute(sa.delete(table)) if table is schema.schema else None
            rows = given.execution_options(yield_per=PAGE).execute(
                sa.select(table).order_by(*table.primary_key.columns)
            )
            for page in rows.mappings().partitions(PAGE):
                taken.execute(sa.insert(table), [dict(row) for row in page])


def _copy_pages(store: Store, path: Path) -> None:
    pooled = store._engine.raw_connection()
    source, target = cast(sqlite3.Connection, pooled.driver_connection), sqlite3.connect(path)
    try:
        source.execute("BEGIN")  # from here on the pages of this moment, however much is written meanwhile
        source.execute("SELECT version FROM schema").fetchone()
        source.backup(target)
    finally:
        target.close()
        source.execute("ROLLBACK") if source.in_transaction else None
        pooled.close()


def with_no_log(path: Path) -> None:
    """Make a closed SQLite file one that needs no other file beside it, on disk before this returns."""
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode=DELETE")
    connection.close()
    with path.open("rb") as file:
        os.fsync(file.fileno())


def check_ledger(store: Store, party: str, keys: LedgerKeys) -> tuple[int, str]:
    """Return the size and root (hex) of the ledger in a store, every leaf hashed again.

    Raises EvidenceRejected when leaves lack between others, when a stored tile is another than that of the leaves, or when the
    leaves are not those under the last head, which one of the party's `keys` signed.
    """
    frontier, leaves = Frontier(), store.leaves()
    while page := list(islice(leaves, REBUILD_LEAVES)):
        frontier, tiles = frontier.grown(map(leaf_hash, page))
        if any(store.tile(tile.level, tile.index) not in (tile.data, b"") for tile in tiles):
            raise _differs(party, "its stored hashes are not those of its leaves")
    if frontier.size != store.next_position():
        raise _differs(party, "it lacks leaves between others")
    tree = TiledTree(frontier, store.tile)
    data = store.last_checkpoint()
    if data is not None:
        try:
            head = keys.head_of(canonical.decode_fragment(data), party)
            agrees = head.size <= frontier.size and head.root == tree.root(head.size)
        except (CryptoError, EvidenceRejected, ValueError, KeyError, TypeError):
            agrees = False
        if not agrees:
            raise _differs(party, "it is not the one under its last head, or another key signed that")
    return frontier.size, tree.root(frontier.size).hex()


def registry_roots(store: Store, *epochs: int) -> list[str]:
    """Return the roots (hex) over the registry's first records, so many as each epoch says; "" where there are not so many."""
    root, found = PlainFrontier(), {0: PlainFrontier().root().hex()}
    for line in store.iterate_registry():
        root.append(line)
        if root.size in epochs:
            found[root.size] = root.root().hex()
    return [found.get(epoch, "") for epoch in epochs]


def _differs(party: str, how: str) -> EvidenceRejected:
    return EvidenceRejected(f"the ledger of {party} in this copy does not hold: {how}; use another backup")
