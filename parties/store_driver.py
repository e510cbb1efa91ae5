"""What a node asks its store for every request, by the driver: SQLAlchemy's way to SQLite costs ten times what SQLite does.

A statement is compiled once, by SQLAlchemy, and then handed to SQLite as text. The connections are made by the engine, with
what is set on them, and wait for their next use in a list: to take one out of the engine's pool and to put it back takes
longer than most of what is asked. A transaction is committed by the engine's dialect and rolled back with what it raises. It
has as much of a `sa.Connection` as the functions of `store_ledger` use, which take the one or the other.

A transaction that need not be on disk before the next one is can be committed without waiting for the disk: everybody reads
it at once, and in a write-ahead log it comes before whatever is committed later, so that the next one that waits brings it
to disk. A loss of power before that takes it back whole; the end of the process does not.
"""

import sqlite3
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from itertools import chain
from operator import itemgetter
from typing import Any, cast

import sqlalchemy as sa

Values = Mapping[str, Any]
_KEPT = 16  # connections that wait; more are closed after their use


class Driven:
    """A transaction on a driver's connection. Not shared between threads."""

    def __init__(self, connection: sqlite3.Connection, dialect: sa.Dialect) -> None:
        self._connection, self._dialect = connection, dialect

    def execute(self, statement: Any, values: Values | Sequence[Values] | None = None) -> sqlite3.Cursor:
        """Run a statement with one set of values, or an insertion or deletion with several; return the rows, or their count."""
        if isinstance(values, Sequence):
            text, names = _plain(statement, tuple(values[0]), self._dialect)
            return self._connection.executemany(text, map(_picker(names), values))
        return self._run(statement, values or {})

    def scalar(self, statement: Any, values: Values | None = None) -> Any:
        """Return the first value of the first row, None without one."""
        row = self._run(statement, values or {}).fetchone()
        return None if row is None else row[0]

    def _run(self, statement: Any, values: Values) -> sqlite3.Cursor:
        lists = {name: value for name, value in values.items() if isinstance(value, list)}
        if not lists:
            text, names = _plain(statement, tuple(values), self._dialect)
            return self._connection.execute(text, _picker(names)(values))
        lengths = tuple((name, len(value)) for name, value in lists.items())
        text, names = _with_lists(statement, lengths, self._dialect)
        return self._connection.execute(text, [*chain.from_iterable(_listed(values[name]) for name in names)])


def _listed(value: Any) -> Iterable[Any]:
    return value if isinstance(value, list) else (value,)


def _picker(names: tuple[str, ...]) -> Any:
    """Return what takes these names' values out of a mapping, as a tuple."""
    if len(names) > 1:
        return itemgetter(*names)
    return lambda values: tuple(values[name] for name in names)


@lru_cache(maxsize=256)
def _plain(statement: Any, keys: tuple[str, ...], dialect: sa.Dialect) -> tuple[str, tuple[str, ...]]:
    """Return a statement's text and the names of its values in their order; `keys` are the columns of an insertion."""
    made = statement.compile(dialect=dialect, column_keys=list(keys) if isinstance(statement, sa.Insert) else None)
    return str(made), tuple(made.positiontup or ())


@lru_cache(maxsize=64)
def _with_lists(
    statement: Any, lengths: tuple[tuple[str, int], ...], dialect: sa.Dialect
) -> tuple[str, tuple[str, ...]]:
    """Return the text of a statement whose lists have these lengths, and the names of its values, a list's once."""
    text, names = _plain(statement, (), dialect)
    for name, length in lengths:
        text = text.replace(f"__[POSTCOMPILE_{name}]", ", ".join("?" * length))
    return text, names


class Drive:
    """The driver's connections to the file of one engine. Safe between threads."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine, self._waiting, self._closed = engine, deque[sqlite3.Connection](), False

    @contextmanager
    def transaction(self, waits: bool = True) -> Iterator[Driven]:
        """Run a transaction: committed at the block's end, rolled back if it raises. Raises SQLAlchemy's errors for SQLite's.

        Without `waits` it is not waited for until it is on disk.
        """
        connection, dialect = self._taken(), self._engine.dialect
        try:
            if not waits:
                connection.execute("PRAGMA synchronous=NORMAL")
            connection.execute("BEGIN")
            yield Driven(connection, dialect)
            dialect.do_commit(cast(Any, connection))
        except sqlite3.Error as fault:
            raise sa.exc.DBAPIError.instance(None, None, fault, sqlite3.Error, True, dialect=dialect) from None
        finally:
            self._give_back(connection, waits)

    def close(self) -> None:
        """Close what waits now, and what is in use once it is given back."""
        self._closed = True
        while self._waiting:
            self._waiting.pop().close()

    def _taken(self) -> sqlite3.Connection:
        try:
            return self._waiting.pop()
        except IndexError:
            pooled = self._engine.raw_connection()
            connection = cast(sqlite3.Connection, pooled.driver_connection)
            pooled.detach()
            return connection

    def _give_back(self, connection: sqlite3.Connection, waits: bool) -> None:
        """Roll back what was not committed, and keep the connection as a new one is, or close it."""
        is_whole = False
        try:
            connection.rollback()
            if not waits:
                connection.execute("PRAGMA synchronous=FULL")
            is_whole = True
        finally:
            if is_whole and len(self._waiting) < _KEPT:
                self._waiting.append(connection)
            else:
                connection.close()
            if self._closed:
                self.close()
