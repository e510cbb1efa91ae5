"""A node's memory: one SQLite file (or another SQLAlchemy URL) that survives a crash at any point.

Write-ahead log with `synchronous=FULL`: when a method returns, its rows are on disk; every method is one short
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
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DatabaseError

from lianxin.federation.errors import InputFault
from lianxin.parties import store_schema as schema

_PAGE = 1000
_BUSY_TIMEOUT_MS = 10_000


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
class RunRow:
    """A run that the node knows: its state, the canonical bytes of the signed contract, and a note for the operator."""

    run: str
    state: str
    contract: bytes = field(repr=False)
    note: str


class Store:
    """All tables of one node. Safe to share between threads; one process a file."""

    def __init__(self, path_or_url: Path | str) -> None:
        """Open the store at a file path or a SQLAlchemy URL, and create its tables when it is new.

        Raises InputFault when the file is no store of this version.
        """
        text = str(path_or_url)
        url = text if "://" in text else f"sqlite:///{text}"
        self._lock = threading.RLock()
        self._engine = sa.create_engine(url, hide_parameters=True)
        if self._engine.dialect.name == "sqlite":
            sa.event.listen(self._engine, "connect", _set_pragmas)
            sa.event.listen(self._engine, "begin", _begin)
        try:
            self._open_schema()
        except DatabaseError:
            self.close()
            raise InputFault(f"{text} cannot be opened as a store; name a file that a node of Lianxin wrote") from None
        except InputFault:
            self.close()
            raise

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()

    # Ledger

    def leaf_count(self) -> int:
        """Return the number of leaves."""
        return self._count(schema.leaves)

    def leaves(self, start: int = 0) -> Iterator[bytes]:
        """Yield the leaves' bytes from position `start` on, in order, a page a transaction."""
        while True:
            page = self._page(schema.leaves.c.position, start)
            yield from page
            start += len(page)
            if len(page) < _PAGE:
                return

    def append_leaves(
        self,
        first: int,
        leaves: Sequence[bytes],
        envelopes: Sequence[EnvelopeRow] = (),
        release_consents: Mapping[str, Sequence[str]] | None = None,
        registry: Sequence[bytes] = (),
        uses: Sequence[tuple[str, str]] = (),
    ) -> None:
        """Write `leaves` at positions first, first + 1, … with what they speak of, all or nothing.

        `registry` continues the registry at its next epoch; `uses` are pairs of a consent with a limit and what it is used
        for, each kept once. A release's id is its leaf's hash, so that a statistic that
        is released twice within a second has one id and one list. Raises InputFault when a position or an envelope's
        sequence number is taken: something else wrote to this store.
        """
        rows = [{"position": first + offset, "data": leaf} for offset, leaf in enumerate(leaves)]
        lists = {name: json.dumps(list(ids)) for name, ids in (release_consents or {}).items()}
        try:
            with self.writing() as connection:
                _insert(connection, schema.leaves, rows)
                _insert(connection, schema.envelopes, [vars(row) for row in envelopes])
                for name, ids in lists.items():
                    _put(connection, schema.release_consents, {"release": name}, {"consents": ids})
                _insert(connection, schema.registry, _registry_rows(connection, registry))
                for consent, use in uses:
                    _put(connection, schema.uses, {"consent": consent, "use": use}, {"use": use})
        except sa.exc.IntegrityError:
            raise InputFault(
                f"ledger position {first}, or an envelope that its leaf names, is already written; stop the other "
                "process that uses this store"
            ) from None

    def add_checkpoint(self, size: int, data: bytes) -> None:
        """Add the bytes of a signed checkpoint over the first `size` leaves."""
        with self.writing() as connection:
            position = connection.scalar(sa.select(sa.func.count()).select_from(schema.checkpoints))
            _insert(connection, schema.checkpoints, [{"position": position, "size": size, "data": data}])

    def checkpoints(self) -> list[bytes]:
        """Return the bytes of all signed checkpoints, oldest first."""
        return self._scalars(sa.select(schema.checkpoints.c.data).order_by(schema.checkpoints.c.position))

    def last_checkpoint(self) -> bytes | None:
        """Return the bytes of the newest signed checkpoint, None when there is none."""
        newest = sa.select(schema.checkpoints.c.data).order_by(schema.checkpoints.c.position.desc()).limit(1)
        return next(iter(self._scalars(newest)), None)

    def add_witnessed(self, party: str, data: bytes) -> None:
        """Keep the bytes of a checkpoint that another party signed and showed to this one."""
        with self.writing() as connection:
            position = connection.scalar(sa.select(sa.func.count()).select_from(schema.witnessed))
            _insert(connection, schema.witnessed, [{"position": position, "party": party, "data": data}])

    def witnessed(self, party: str | None = None) -> list[bytes]:
        """Return the signed checkpoints kept of one other party, or of all, oldest first."""
        query = sa.select(schema.witnessed.c.data).order_by(schema.witnessed.c.position)
        return self._scalars(query if party is None else query.where(schema.witnessed.c.party == party))

    # Consents

    def registry_epoch(self) -> int:
        """Return the number of signed consents and revocations."""
        return self._count(schema.registry)

    def append_registry(self, records: Sequence[bytes]) -> int:
        """Append signed records and return the new epoch."""
        with self.writing() as connection:
            rows = _registry_rows(connection, records)
            _insert(connection, schema.registry, rows)
        return rows[-1]["epoch"] if rows else self.registry_epoch()

    def iterate_registry(self) -> Iterator[bytes]:
        """Yield the registry's records in order, a page of them in memory."""
        start = 1
        while page := self._page(schema.registry.c.epoch, start):
            yield from page
            start += len(page)

    def registry_records(self, epoch: int | None = None) -> list[bytes]:
        """Return the registry's records in order: the first `epoch`, by default all."""
        query = sa.select(schema.registry.c.data).order_by(schema.registry.c.epoch)
        return self._scalars(query if epoch is None else query.where(schema.registry.c.epoch <= epoch))

    def add_firm_keys(self, keys: Mapping[str, str]) -> None:
        """Register firms' public keys by subject key. Raises InputFault when a firm has another key already."""
        with self.writing() as connection:
            known = _pairs(connection, sa.select(schema.firm_keys.c.subject_key, schema.firm_keys.c.key))
            if any(known.get(subject, key) != key for subject, key in keys.items()):
                raise InputFault("a firm of this list already has another key; a registered key does not change")
            fresh = [{"subject_key": subject, "key": key} for subject, key in keys.items() if subject not in known]
            _insert(connection, schema.firm_keys, fresh)

    def firm_keys(self) -> dict[str, str]:
        """Return every registered firm's public key by subject key, in order of subject keys."""
        query = sa.select(schema.firm_keys.c.subject_key, schema.firm_keys.c.key).order_by(
            schema.firm_keys.c.subject_key
        )
        with self.reading() as connection:
            return _pairs(connection, query)

    def add_release_consents(self, release: str, consents: Sequence[str]) -> None:
        """Keep the ids of the consents behind a release."""
        with self.writing() as connection:
            _insert(connection, schema.release_consents, [{"release": release, "consents": json.dumps(list(consents))}])

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
        with self.reading() as connection:
            for start in range(0, len(wanted), _PAGE):
                query = sa.select(schema.uses).where(schema.uses.c.consent.in_(wanted[start : start + _PAGE]))
                for consent, use in connection.execute(query):
                    found.setdefault(consent, set()).add(use)
        return found

    # Runs and envelopes

    def put_run(self, run: str, state: str, contract: bytes, note: str = "") -> None:
        """Write a run's state, signed contract and note, whether it is new or known."""
        values = {"state": state, "contract": contract, "note": note}
        with self.writing() as connection:
            _put(connection, schema.runs, {"run": run}, values)

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

    def add_envelope(self, row: EnvelopeRow) -> None:
        """Keep one envelope. Raises InputFault when its sequence number is taken in its direction."""
        try:
            with self.writing() as connection:
                _insert(connection, schema.envelopes, [vars(row)])
        except sa.exc.IntegrityError:
            raise InputFault(f"sequence number {row.seq} of a conversation is already used in this direction") from None

    def envelopes(self, run: str | None = None) -> list[EnvelopeRow]:
        """Return the envelopes of one run, or of all, in ledger order."""
        query = sa.select(schema.envelopes).order_by(schema.envelopes.c.ledger_index)
        with self.reading() as connection:
            rows = connection.execute(query if run is None else query.where(schema.envelopes.c.run == run))
            return [EnvelopeRow(*row) for row in rows]

    # Settings

    def setting(self, key: str) -> bytes | None:
        """Return the bytes kept under `key`, None when there are none."""
        return next(iter(self._scalars(sa.select(schema.settings.c.value).where(schema.settings.c.key == key))), None)

    def put_setting(self, key: str, value: bytes) -> None:
        """Keep `value` under `key`, in place of what was there."""
        with self.writing() as connection:
            _put(connection, schema.settings, {"key": key}, {"value": value})

    def change_setting(self, key: str, change: Callable[[bytes | None], bytes]) -> bytes:
        """Put `change(what is kept)` in place of what is kept under `key`, in one transaction; return the new bytes.

        What `change` raises leaves everything as it was.
        """
        with self.writing() as connection:
            kept = connection.scalar(sa.select(schema.settings.c.value).where(schema.settings.c.key == key))
            changed = change(kept)
            _put(connection, schema.settings, {"key": key}, {"value": changed})
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
            found = schema.open_tables(connection)
        if found != schema.SCHEMA_VERSION:
            raise InputFault(
                f"the store has schema version {found}, this program reads {schema.SCHEMA_VERSION}; run the version that "
                "wrote it"
            )

    def writing(self) -> AbstractContextManager[sa.Connection]:
        """Return a transaction that writes: committed at the block's end, rolled back if it raises."""
        return _Locked(self._lock, self._engine)

    def reading(self) -> AbstractContextManager[sa.Connection]:
        """Return a transaction that reads."""
        return self._engine.begin()

    def _scalars(self, query: sa.Select[Any]) -> list[bytes]:
        with self.reading() as connection:
            return list(connection.scalars(query))

    def _count(self, table: sa.Table) -> int:
        with self.reading() as connection:
            return connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0

    def _page(self, position: sa.Column[int], start: int) -> list[bytes]:
        query = sa.select(position.table.c.data).where(position >= start)
        return self._scalars(query.order_by(position).limit(_PAGE))


class _Locked(AbstractContextManager[sa.Connection]):
    """One write transaction under the store's lock; commits on a clean exit and rolls back otherwise."""

    def __init__(self, lock: threading.RLock, engine: sa.Engine) -> None:
        self._lock, self._transaction = lock, engine.begin()

    def __enter__(self) -> sa.Connection:
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


def _set_pragmas(connection: Any, _record: Any) -> None:
    connection.isolation_level = None
    for pragma in ("journal_mode=WAL", "synchronous=FULL", f"busy_timeout={_BUSY_TIMEOUT_MS}"):
        connection.execute(f"PRAGMA {pragma}")


def _begin(connection: sa.Connection) -> None:
    connection.exec_driver_sql("BEGIN")


def _insert(connection: sa.Connection, table: sa.Table, rows: Iterable[Mapping[str, Any]]) -> None:
    rows = list(rows)
    if rows:
        connection.execute(sa.insert(table), rows)


def _put(connection: sa.Connection, table: sa.Table, key: Mapping[str, Any], values: Mapping[str, Any]) -> None:
    where = [table.c[name] == value for name, value in key.items()]
    if not connection.execute(sa.update(table).where(*where).values(**values)).rowcount:
        _insert(connection, table, [{**key, **values}])


def _registry_rows(connection: sa.Connection, records: Sequence[bytes]) -> list[dict[str, Any]]:
    epoch = connection.scalar(sa.select(sa.func.count()).select_from(schema.registry)) or 0
    return [{"epoch": epoch + offset, "data": record} for offset, record in enumerate(records, start=1)]


def _pairs(connection: sa.Connection, query: sa.Select[Any]) -> dict[str, str]:
    return {key: value for key, value in connection.execute(query)}
