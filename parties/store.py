"""A node's memory: one SQLite file, or one PostgreSQL database (`store_postgres`), that survives a crash at any point.

In SQLite a write-ahead log with `synchronous=FULL`: when a method returns, its rows are on disk; every method is one short
transaction, so nothing is ever half-written. What belongs together (a ledger leaf and the envelope, the consent list or
the registry records that it speaks of) goes in by one call of `append_leaves`. Positions are primary keys: a second
writer of one position fails instead of overwriting.

The store knows bytes and positions. What they mean is said in `ledger`, `consent` and `node`.
"""

import json
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import DatabaseError

from lianxin.federation.errors import InputFault, RunStopped
from lianxin.parties import store_migrations, store_postgres
from lianxin.parties import store_schema as schema
from lianxin.parties.store_driver import Drive, Driven
from lianxin.parties.store_ledger import (
    PAGE,
    USES,
    EnvelopeRow,
    LedgerTables,
    insert_rows,
    put_firm_keys,
    put_row,
    registry_pages,
)

__all__ = ["EnvelopeRow", "RunRow", "Store"]

_BUSY_TIMEOUT_MS = 10_000
_CHECKPOINT_PAGES = 4_000  # 16 MB of log: whoever commits the page that is one too many waits for all to be copied
T = TypeVar("T", covariant=True)

_EPOCH = sa.select(sa.func.max(schema.registry.c.epoch))
_SETTING = sa.select(schema.settings.c.value).where(schema.settings.c.key == sa.bindparam("wanted"))


@dataclass(frozen=True)
class RunRow:
    """A run that the node knows: its state, the canonical bytes of the signed contract, and a note for the operator."""

    run: str
    state: str
    contract: bytes = field(repr=False)
    note: str


class Store(LedgerTables):
    """All tables of one node. Safe to share between threads; one process a file."""

    def __init__(self, path_or_url: Path | str | sa.URL, *, read_only: bool = False, holds: bool = False) -> None:
        """Open the store at a file path or a SQLAlchemy URL, and create or migrate its tables when they are new or older.

        With `read_only` nothing is created or changed. With `holds` a PostgreSQL database is this store's alone while it is
        open. Raises InputFault when what is there is no store, or a newer version's.
        """
        url = path_or_url if isinstance(path_or_url, sa.URL) else sa.engine.make_url(_url_of(str(path_or_url)))
        self._lock, self._read_only = threading.RLock(), read_only or "mode=ro" in str(path_or_url)
        self.migrated_from: int | None = None
        self.place = store_postgres.named(url) if url.get_backend_name() == "postgresql" else str(path_or_url)
        if url.get_backend_name() == "postgresql":
            left_at = (lambda: self._left_at) if holds else None
            self._engine, self._writer = store_postgres.engines(url, self._read_only, left_at)
        else:
            self._engine = self._writer = sa.create_engine(url, hide_parameters=True)
            sa.event.listen(self._engine, "connect", _set_timeout if self._read_only else _set_pragmas)
            sa.event.listen(self._engine, "begin", _begin)
        self._drive = Drive(self._engine)
        try:
            self._open_schema()
            self._left_at = self.next_position() if holds else None
        except DatabaseError:
            self.close()
            raise InputFault(
                f"{self.place} cannot be opened as a store; name a file that a node of Lianxin wrote"
            ) from None
        except (InputFault, RunStopped):
            self.close()
            raise

    @property
    def dialect(self) -> str:
        """`sqlite` or `postgresql`."""
        return str(self._engine.dialect.name)

    def close(self) -> None:
        """Close every connection."""
        self._drive.close()
        self._engine.dispose()
        self._writer.dispose()

    # Consents

    def registry_epoch(self) -> int:
        """Return the number of signed consents and revocations."""
        with self.reading_fast() as connection:
            return connection.scalar(_EPOCH) or 0

    def append_registry(self, records: Sequence[bytes]) -> int:
        """Append signed records and return the new epoch."""
        with self.writing() as connection:
            for page in registry_pages(connection, records):
                insert_rows(connection, schema.registry, page)
        return self.registry_epoch()

    def iterate_registry(self, after: int = 0) -> Iterator[bytes]:
        """Yield the registry's records after the first `after` in order, a page of them in memory."""
        start = after + 1
        while page := self._page(schema.registry.c.epoch, start):
            yield from page
            start += len(page)

    def registry_records(self, epoch: int | None = None) -> list[bytes]:
        """Return the registry's records in order: the first `epoch`, by default all."""
        query = sa.select(schema.registry.c.data).order_by(schema.registry.c.epoch)
        return self._scalars(query if epoch is None else query.where(schema.registry.c.epoch <= epoch))

    def add_firm_keys(self, keys: Mapping[str, str]) -> None:
        """Register firms' public keys by subject key, without a leaf. Raises InputFault when a firm has another already."""
        with self.writing() as connection:
            put_firm_keys(connection, {subject: (key, "") for subject, key in keys.items()})

    def firm_kinds(self) -> dict[str, str]:
        """Return which type of subject each registered key is known to be of (ENT, IND, NP), by subject key."""
        with self.reading() as connection:
            return _pairs(connection, sa.select(schema.firm_kinds.c.subject_key, schema.firm_kinds.c.kind))

    def firm_kinds_of(self, subjects: Iterable[str]) -> dict[str, str]:
        """Return the known types of these subject keys."""
        return self._found(schema.firm_kinds, subjects)

    def firm_keys(self) -> dict[str, str]:
        """Return every registered firm's public key by subject key, in order of subject keys."""
        query = sa.select(schema.firm_keys.c.subject_key, schema.firm_keys.c.key).order_by(
            schema.firm_keys.c.subject_key
        )
        with self.reading() as connection:
            return _pairs(connection, query)

    def firm_keys_of(self, subjects: Iterable[str]) -> dict[str, str]:
        """Return the registered public keys of these subject keys; who has none is left out."""
        return self._found(schema.firm_keys, subjects)

    def _found(self, table: sa.Table, subjects: Iterable[str]) -> dict[str, str]:
        found: dict[str, str] = {}
        wanted = sorted(subjects)
        with self.reading() as connection:
            for start in range(0, len(wanted), PAGE):
                named = table.c.subject_key.in_(wanted[start : start + PAGE])
                found |= _pairs(connection, sa.select(table).where(named))
        return found

    def release_consents(self) -> dict[str, list[str]]:
        """Return the ids of the consents behind each release, by release id."""
        query = sa.select(schema.release_consents.c.release, schema.release_consents.c.consents)
        with self.reading() as connection:
            rows = _pairs(connection, query.order_by(schema.release_consents.c.release))
        return {release: json.loads(ids) for release, ids in rows.items()}

    def uses(self, consents: Iterable[str]) -> dict[str, set[str]]:
        """Return, for each of these consents that was used, what it was used for."""
        found: dict[str, set[str]] = {}
        wanted = list(consents)
        with self.reading_fast() as connection:
            for start in range(0, len(wanted), PAGE):
                for consent, use in connection.execute(USES, {"wanted": wanted[start : start + PAGE]}):
                    found.setdefault(consent, set()).add(use)
        return found

    # Runs and envelopes

    def put_run(self, run: str, state: str, contract: bytes, note: str = "") -> None:
        """Write a run's state, signed contract and note, whether it is new or known."""
        values = {"state": state, "contract": contract, "note": note}
        with self.writing() as connection:
            put_row(connection, schema.runs, {"run": run}, values)

    def set_run_state(self, run: str, state: str, note: str = "") -> None:
        """Change a known run's state and note. Raises InputFault when the run is unknown."""
        with self.writing() as connection:
            change = sa.update(schema.runs).where(schema.runs.c.run == run).values(state=state, note=note)
            if not connection.execute(change).rowcount:
                raise InputFault(f"run {run} is not known to this node; approve its contract first")

    def run(self, run: str) -> RunRow | None:
        """Return what the node knows of one run, None when it knows nothing."""
        return next((row for row in self.runs() if row.run == run), None)

    def runs(self) -> list[RunRow]:
        """Return every run, by id."""
        with self.reading() as connection:
            return [RunRow(*row) for row in connection.execute(sa.select(schema.runs).order_by(schema.runs.c.run))]

    def envelopes(self, run: str | None = None) -> list[EnvelopeRow]:
        """Return the envelopes of one run, or of all, in ledger order."""
        query = sa.select(schema.envelopes).order_by(schema.envelopes.c.ledger_index)
        with self.reading() as connection:
            rows = connection.execute(query if run is None else query.where(schema.envelopes.c.run == run))
            return [EnvelopeRow(*row) for row in rows]

    # Settings

    def setting(self, key: str) -> bytes | None:
        """Return the bytes kept under `key`, None when there are none."""
        with self.reading_fast() as connection:
            found: bytes | None = connection.scalar(_SETTING, {"wanted": key})
        return found

    def settings_under(self, prefix: str) -> dict[str, bytes]:
        """Return what is kept under the keys that begin with `prefix`, by key in order."""
        key = schema.settings.c.key
        query = sa.select(key, schema.settings.c.value).where(key.startswith(prefix, autoescape=True)).order_by(key)
        with self.reading() as connection:
            return {name: value for name, value in connection.execute(query)}

    def put_setting(self, key: str, value: bytes) -> None:
        """Keep `value` under `key`, in place of what was there."""
        with self.writing() as connection:
            put_row(connection, schema.settings, {"key": key}, {"value": value})

    def change_setting(self, key: str, change: Callable[[bytes | None], bytes]) -> bytes:
        """Put `change(what is kept)` in place of what is kept under `key`, in one transaction; return the new bytes.

        What `change` raises leaves everything as it was.
        """
        with self.writing() as connection:
            kept = connection.scalar(sa.select(schema.settings.c.value).where(schema.settings.c.key == key))
            changed = change(kept)
            put_row(connection, schema.settings, {"key": key}, {"value": changed})
        return changed

    def reserve(self, key: str, count: int) -> int:
        """Return the first of `count` numbers under `key` that were never returned before, and never will be again.

        The reservation is on disk before this returns.
        """
        end = self.change_setting(f"reserved/{key}", lambda kept: str(int(kept or b"0") + count).encode())
        return int(end) - count

    def delete_setting(self, key: str) -> None:
        """Forget what is kept under `key`, if anything."""
        with self.writing() as connection:
            connection.execute(sa.delete(schema.settings).where(schema.settings.c.key == key))

    def _open_schema(self) -> None:
        with self.writing() as connection:
            if not self._read_only:
                self.migrated_from = store_migrations.migrate(connection)
            elif (found := store_migrations.found_version(connection)) is None:
                raise InputFault(f"{self.place} holds no store yet; start the node once")
            else:
                store_migrations.check_version(found)
                if found != schema.SCHEMA_VERSION:
                    raise InputFault(
                        f"{self.place} is of schema version {found}; start the node once, which brings it up"
                    )

    def writing(self) -> AbstractContextManager[sa.Connection]:
        """Return a transaction that writes: committed at the block's end, rolled back if it raises."""
        return _Locked(self._lock, self._begun(self._writer))

    def reading(self) -> AbstractContextManager[sa.Connection]:
        """Return a transaction that reads."""
        return self._begun(self._engine)

    def writing_fast(self, waits: bool = True) -> AbstractContextManager[sa.Connection | Driven]:
        """Return a transaction that writes, as `writing`, for statements that are compiled once.

        Without `waits` SQLite does not wait for the disk: it is there with the next transaction that does.
        """
        return _Locked(self._lock, self._driven(waits))

    def reading_fast(self) -> AbstractContextManager[sa.Connection | Driven]:
        """Return a transaction that reads, for statements that are compiled once: on SQLite by its driver."""
        return self._driven()

    def _begun(self, engine: sa.Engine) -> AbstractContextManager[sa.Connection]:
        if self.dialect == "sqlite":
            return engine.begin()
        return store_postgres.told(engine.begin(), lambda: self.place)

    def _driven(self, waits: bool | None = None) -> AbstractContextManager[sa.Connection | Driven]:
        """Return a transaction on SQLite's driver, elsewhere one of the writer, or of a reader where `waits` is None."""
        if self.dialect == "sqlite":
            return self._drive.transaction(waits is not False)
        return self._begun(self._engine if waits is None else self._writer)

    def _scalars(self, query: sa.Select[Any]) -> list[bytes]:
        with self.reading() as connection:
            return list(connection.scalars(query))

    def _page(self, position: sa.Column[int], start: int) -> list[bytes]:
        query = sa.select(position.table.c.data).where(position >= start)
        return self._scalars(query.order_by(position).limit(PAGE))


class _Locked(AbstractContextManager[T]):
    """One write transaction under the store's lock; commits on a clean exit and rolls back otherwise."""

    def __init__(self, lock: threading.RLock, transaction: AbstractContextManager[T]) -> None:
        self._lock, self._transaction = lock, transaction

    def __enter__(self) -> T:
        self._lock.acquire()
        try:
            return self._transaction.__enter__()
        except BaseException:
            self._lock.release()
            raise

    def __exit__(self, *failure: Any) -> None:
        try:
            self._transaction.__exit__(*failure)
        finally:
            self._lock.release()


def _url_of(text: str) -> str:
    return text if "://" in text else f"sqlite:///{text}"


def _set_pragmas(connection: Any, record: Any) -> None:
    _set_timeout(connection, record)
    for pragma in ("journal_mode=WAL", "synchronous=FULL", f"wal_autocheckpoint={_CHECKPOINT_PAGES}"):
        connection.execute(f"PRAGMA {pragma}")


def _set_timeout(connection: Any, _record: Any) -> None:
    connection.isolation_level = None
    connection.execute(f"PRAGMA busy_timeout={_BUSY_TIMEOUT_MS}")


def _begin(connection: sa.Connection) -> None:
    connection.exec_driver_sql("BEGIN")


def _pairs(connection: sa.Connection, query: sa.Select[Any]) -> dict[str, str]:
    return {key: value for key, value in connection.execute(query)}
