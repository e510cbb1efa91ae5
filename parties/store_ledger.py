"""The ledger's tables in a node's store: leaves and what goes in with them, tiles of hashes, signed heads.

Statements that every leaf needs are made once. Positions are primary keys: a second writer of one position fails
instead of overwriting. A write that the disk refuses is rolled back whole and told in one sentence.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from typing import Any

import sqlalchemy as sa

from lianxin.crypto.tiles import Tile
from lianxin.federation.errors import InputFault, RunStopped
from lianxin.parties import store_schema as schema
from lianxin.parties.store_driver import Driven
from lianxin.parties.store_postgres import ConnectionLost

PAGE = 1000
_ADD_LEAVES, _ADD_ENVELOPES = sa.insert(schema.leaves), sa.insert(schema.envelopes)
USES = sa.select(schema.uses.c.consent, schema.uses.c.use).where(
    schema.uses.c.consent.in_(sa.bindparam("wanted", expanding=True))
)
_SCORES = schema.standing_scores.c
_STANDING = sa.select(_SCORES.subject_key, _SCORES.model, _SCORES.data).where(
    _SCORES.bank == sa.bindparam("bank"), _SCORES.quarter == sa.bindparam("quarter"),
    _SCORES.subject_key.in_(sa.bindparam("wanted", expanding=True)),
)  # fmt: skip
_DROP_STANDING = sa.delete(schema.standing_scores).where(
    *(column == sa.bindparam(f"key_{column.name}") for column in schema.standing_scores.primary_key.columns)
)
_LAST_LEAF = sa.select(sa.func.max(schema.leaves.c.position))


@dataclass(frozen=True)
class EnvelopeRow:
    """One envelope that crossed: canonical header bytes, the sender's signature on them, and its leaf's index."""

    ledger_index: int
    direction: str
    run: str
    conversation: str
    sender: str
    seq: int
    header: bytes = field(repr=False)
    signature: bytes = field(repr=False)
    message_hash: str


@dataclass(frozen=True)
class StandingRow:
    """The platform's part of one model's score that a bank is given of a firm, by its subject key, for a quarter."""

    subject_key: str = field(repr=False)
    bank: str
    quarter: str
    model: str
    data: bytes = field(repr=False)


class LedgerTables(ABC):
    """What a store keeps of ledgers: its own, and the heads of others."""

    _left_at: int | None = None  # after the last leaf that this store wrote or found, where it holds its lock

    @abstractmethod
    def writing(self) -> AbstractContextManager[sa.Connection]:
        """Return a transaction that writes."""

    @abstractmethod
    def reading(self) -> AbstractContextManager[sa.Connection]:
        """Return a transaction that reads."""

    @abstractmethod
    def writing_fast(self, waits: bool = True) -> AbstractContextManager[sa.Connection | Driven]:
        """As `writing`, by statements that are compiled once; without `waits` the next that waits brings it to disk."""

    @abstractmethod
    def reading_fast(self) -> AbstractContextManager[sa.Connection | Driven]:
        """Return a transaction that reads by statements which are compiled once."""

    # Leaves

    def leaf_count(self) -> int:
        """Return the number of leaves, counted."""
        with self.reading() as connection:
            return connection.scalar(sa.select(sa.func.count()).select_from(schema.leaves)) or 0

    def next_position(self) -> int:
        """Return the position after the last leaf, without counting."""
        with self.reading() as connection:
            last = connection.scalar(_LAST_LEAF)
        return 0 if last is None else last + 1

    def leaves(self, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """Yield the leaves' bytes from position `start` up to `end`, in order, a page a transaction."""
        column = schema.leaves.c.position
        query = sa.select(column, schema.leaves.c.data).order_by(column).limit(PAGE)
        if end is not None:
            query = query.where(column < end)
        while page := self._rows(query.where(column >= start)):
            yield from (data for _, data in page)
            start = page[-1][0] + 1

    def leaf(self, position: int) -> bytes | None:
        """Return the leaf at a position, None when there is none."""
        return next(self.leaves(position, position + 1), None)

    def append_leaves(
        self,
        first: int,
        leaves: Sequence[bytes],
        envelopes: Sequence[EnvelopeRow] = (),
        release_consents: Mapping[str, Sequence[str]] | None = None,
        registry: Iterable[bytes] = (),
        uses: Sequence[tuple[str, str]] = (),
        tiles: Sequence[Tile] = (),
        settings: Mapping[str, bytes] | None = None,
        firm_keys: Mapping[str, tuple[str, str]] | None = None,
        standing: Sequence[StandingRow] = (),
        waits: bool = True,
    ) -> None:
        """Write `leaves` at positions first, first + 1, … with what they speak of, all or nothing.

        It is on disk when this returns; without `waits`, when the next that waits returns.

        `registry` continues the registry at its next epoch; `uses` are pairs of a consent with a limit and what it is
        used for, each kept once; `settings` take the place of what was under their keys; `firm_keys` as in
        `put_firm_keys`; `standing` as in `put_standing`. A release's id is its leaf's hash, so that a statistic that is
        released twice within a second has one id and one list. Raises InputFault when a position or an envelope's sequence
        number is taken: something else wrote to this store; RunStopped when the disk is full or does not write.
        """
        rows = [{"position": first + offset, "data": leaf} for offset, leaf in enumerate(leaves)]
        try:
            with self.writing() if registry or firm_keys else self.writing_fast(waits) as connection:
                if rows:
                    connection.execute(_ADD_LEAVES, rows)
                if envelopes:
                    connection.execute(_ADD_ENVELOPES, [vars(row) for row in envelopes])
                for name, ids in (release_consents or {}).items():
                    put_row(connection, schema.release_consents, {"release": name}, {"consents": json.dumps(list(ids))})
                if isinstance(connection, sa.Connection):
                    put_registry(connection, registry)
                    put_firm_keys(connection, firm_keys or {})
                put_uses(connection, uses)
                insert_rows(connection, schema.tiles, map(vars, tiles))
                for key, value in (settings or {}).items():
                    put_row(connection, schema.settings, {"key": key}, {"value": value})
                put_standing(connection, standing)
            self._left(first + len(leaves))
        except sa.exc.IntegrityError:
            raise InputFault(
                f"ledger position {first}, or an envelope that its leaf names, is already written; stop the other "
                "process that uses this store"
            ) from None
        except ConnectionLost:
            if not self._has(first, leaves):  # the answer to a commit was lost, and not what it did
                raise
            self._left(first + len(leaves))
        except sa.exc.OperationalError:
            raise RunStopped(
                "the ledger could not be written, and what it would have recorded did not happen; see that the disk "
                "of the state folder has room and works, and go on"
            ) from None

    def _left(self, at: int) -> None:
        if self._left_at is not None:
            self._left_at = at

    def _has(self, first: int, leaves: Sequence[bytes]) -> bool:
        """Return whether these leaves are there: their salts tell them from any others."""
        try:
            return bool(leaves) and self.leaf(first + len(leaves) - 1) == leaves[-1]
        except RunStopped:
            return False

    def standing(self, bank: str, quarter: str, subjects: Sequence[str]) -> dict[str, dict[str, bytes]]:
        """Return by subject key and model what stands of these firms for a bank and a quarter."""
        found: dict[str, dict[str, bytes]] = {}
        with self.reading_fast() as connection:
            for start in range(0, len(subjects), PAGE):
                asked = {"bank": bank, "quarter": quarter, "wanted": list(subjects[start : start + PAGE])}
                for subject, model, data in connection.execute(_STANDING, asked):
                    found.setdefault(subject, {})[model] = data
        return found

    def drop_standing(self, before: str) -> int:
        """Delete what stands of quarters before one and return how many values these were."""
        with self.writing() as connection:
            gone = sa.delete(schema.standing_scores).where(schema.standing_scores.c.quarter < before)
            return int(connection.execute(gone).rowcount)

    # Tiles of hashes

    def tile(self, level: int, index: int) -> bytes:
        """Return a full tile's hashes, nothing when it is not there."""
        query = sa.select(schema.tiles.c.data).where(schema.tiles.c.level == level, schema.tiles.c.index == index)
        with self.reading() as connection:
            return connection.scalar(query) or b""

    def tile_count(self, level: int) -> int:
        """Return how many full tiles there are of a level."""
        query = sa.select(sa.func.count()).select_from(schema.tiles).where(schema.tiles.c.level == level)
        with self.reading() as connection:
            return connection.scalar(query) or 0

    def add_tiles(self, tiles: Sequence[Tile]) -> None:
        """Keep tiles, in place of what was there of the same level and index."""
        with self.writing() as connection:
            for tile in tiles:
                put_row(connection, schema.tiles, {"level": tile.level, "index": tile.index}, {"data": tile.data})

    # Signed heads

    def add_checkpoint(self, size: int, data: bytes) -> None:
        """Add the bytes of a signed checkpoint over the first `size` leaves."""
        with self.writing() as connection:
            position = connection.scalar(sa.select(sa.func.count()).select_from(schema.checkpoints))
            insert_rows(connection, schema.checkpoints, [{"position": position, "size": size, "data": data}])

    def replace_checkpoint(self, data: bytes, cosigned: bytes) -> None:
        """Put `cosigned` in place of the checkpoint `data`: the same head with more signatures."""
        where = schema.checkpoints.c.data == data
        with self.writing() as connection:
            connection.execute(sa.update(schema.checkpoints).where(where).values(data=cosigned))

    def checkpoints(self) -> list[bytes]:
        """Return the bytes of all signed checkpoints, oldest first."""
        newest_first = list(self.newest_checkpoints())
        return newest_first[::-1]

    def newest_checkpoints(self) -> Iterator[bytes]:
        """Yield the bytes of the signed checkpoints, newest first, a page a transaction."""
        column, below = schema.checkpoints.c.position, 2**62
        query = sa.select(column, schema.checkpoints.c.data).order_by(column.desc()).limit(PAGE)
        while page := self._rows(query.where(column < below)):
            yield from (data for _, data in page)
            below = page[-1][0]

    def last_checkpoint(self) -> bytes | None:
        """Return the bytes of the newest signed checkpoint, None when there is none."""
        newest = sa.select(schema.checkpoints.c.data).order_by(schema.checkpoints.c.position.desc()).limit(1)
        with self.reading() as connection:
            return connection.scalar(newest)

    def add_witnessed(self, party: str, data: bytes) -> None:
        """Keep the bytes of a checkpoint that another party signed and showed to this one."""
        with self.writing() as connection:
            position = connection.scalar(sa.select(sa.func.count()).select_from(schema.witnessed))
            insert_rows(connection, schema.witnessed, [{"position": position, "party": party, "data": data}])

    def witnessed(self, *parties: str) -> list[bytes]:
        """Return the signed checkpoints kept of these other parties, oldest first."""
        query = sa.select(schema.witnessed.c.data).where(schema.witnessed.c.party.in_(parties))
        with self.reading() as connection:
            return list(connection.scalars(query.order_by(schema.witnessed.c.position)))

    def newest_witnessed(self, party: str) -> Iterator[bytes]:
        """Yield the signed checkpoints kept of one other party, newest first, a page a transaction."""
        column, below = schema.witnessed.c.position, 2**62
        query = sa.select(column, schema.witnessed.c.data).where(schema.witnessed.c.party == party)
        while page := self._rows(query.where(column < below).order_by(column.desc()).limit(PAGE)):
            yield from (data for _, data in page)
            below = page[-1][0]

    def _rows(self, query: sa.Select[Any]) -> list[Any]:
        with self.reading() as connection:
            return list(connection.execute(query))


def insert_rows(connection: sa.Connection | Driven, table: sa.Table, rows: Iterable[Mapping[str, Any]]) -> None:
    """Insert rows, none if there are none."""
    rows = list(rows)
    if rows:
        connection.execute(_adding(table), rows)


@lru_cache(maxsize=32)
def _adding(table: sa.Table) -> sa.Insert:
    return sa.insert(table)


def put_row(
    connection: sa.Connection | Driven, table: sa.Table, key: Mapping[str, Any], values: Mapping[str, Any]
) -> None:
    """Write the row of `key`, whether it is new or known."""
    bound = {f"key_{name}": value for name, value in key.items()} | {f"new_{name}": one for name, one in values.items()}
    if not connection.execute(_changing(table, tuple(key), tuple(values)), bound).rowcount:
        insert_rows(connection, table, [{**key, **values}])


@lru_cache(maxsize=64)  # a statement that is built anew costs more than to run it
def _changing(table: sa.Table, key: tuple[str, ...], values: tuple[str, ...]) -> sa.Update:
    where = [table.c[name] == sa.bindparam(f"key_{name}") for name in key]
    return sa.update(table).where(*where).values({name: sa.bindparam(f"new_{name}") for name in values})


def put_uses(connection: sa.Connection | Driven, uses: Sequence[tuple[str, str]]) -> None:
    """Keep pairs of a consent and what it is used for, each once."""
    fresh, table = set(uses), schema.uses
    consents = sorted({consent for consent, _ in fresh})
    for start in range(0, len(consents), PAGE):
        known = connection.execute(USES, {"wanted": consents[start : start + PAGE]})
        fresh -= {(consent, use) for consent, use in known}
    insert_rows(connection, table, ({"consent": consent, "use": use} for consent, use in sorted(fresh)))


def put_standing(connection: sa.Connection | Driven, rows: Sequence[StandingRow]) -> None:
    """Keep what stands, in place of what was there: the same two statements a row, whether there was something or not."""
    if rows:
        fresh = [dict(vars(row)) for row in rows]
        keys = [{f"key_{name}": value for name, value in row.items() if name != "data"} for row in fresh]
        connection.execute(_DROP_STANDING, keys)
        insert_rows(connection, schema.standing_scores, fresh)


def put_firm_keys(connection: sa.Connection, keys: Mapping[str, tuple[str, str]]) -> None:
    """Register by subject key a public key and the type of subject that it is, "" where that is not known.

    Raises InputFault when another key or type is registered already.
    """
    kept = dict[str, str](), dict[str, str]()
    tables, wanted = (schema.firm_keys, schema.firm_kinds), sorted(keys)
    for known, table in zip(kept, tables, strict=True):
        for start in range(0, len(wanted), PAGE):
            rows = connection.execute(sa.select(table).where(table.c.subject_key.in_(wanted[start : start + PAGE])))
            known.update((subject, value) for subject, value in rows)
    for at, (known, table) in enumerate(zip(kept, tables, strict=True)):
        if any(keys[subject][at] not in ("", value) for subject, value in known.items()):
            raise InputFault(
                "a firm of this list already has another key or is another type of subject; what is registered does not change"
            )
        fresh = ((one, keys[one][at]) for one in wanted if one not in known and keys[one][at])
        insert_rows(connection, table, [{"subject_key": one, table.c[1].name: value} for one, value in fresh])


def put_registry(connection: sa.Connection, records: Iterable[bytes]) -> None:
    """Continue the registry by `records`; without any nothing is asked."""
    for page in registry_pages(connection, records) if records else ():
        insert_rows(connection, schema.registry, page)


def registry_pages(connection: sa.Connection, records: Iterable[bytes]) -> Iterator[list[dict[str, Any]]]:
    """Yield the rows by which `records` continue the registry at its next epoch, a page of them in memory."""
    epoch = connection.scalar(sa.select(sa.func.max(schema.registry.c.epoch))) or 0
    rows = ({"epoch": at, "data": record} for at, record in enumerate(records, start=epoch + 1))
    while page := list(islice(rows, PAGE)):
        yield page
