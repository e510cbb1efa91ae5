"""A store in PostgreSQL: its connections, what they must promise, and what is said when one is lost.

Writes go over one connection of their own. While it lives it holds an advisory lock of the database, so that two nodes never
write to one store; when it is lost the next transaction connects again, asks for the lock again, and goes on only where the
ledger still ends where this node left it: else another node wrote meanwhile, and nothing more is written here. Transactions are
REPEATABLE READ: a writer that comes between is refused, as SQLite does. A commit has to be on disk before it is answered:
a server that is told otherwise (`synchronous_commit`) is refused (PostgreSQL 15, sections 13.2, 13.3.5, 30.3).
"""

import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import InterfaceError, InternalError, OperationalError

from lianxin.federation.errors import InputFault, RunStopped, StillHeld

DIALECT = "postgresql+psycopg"
_LOCK_CLASS = 0x4C58  # "LX", so that the lock is not one that another program of the database takes
_DURABLE = frozenset({"on", "remote_apply"})
_CONNECT_DEADLINE_S = 10
_KEEPALIVE = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3}
_SERVER_KEEPALIVE = "-c tcp_keepalives_idle=10 -c tcp_keepalives_interval=5 -c tcp_keepalives_count=3"
_SECRETS = frozenset({"password", "sslpassword", "passfile"})


class ConnectionLost(RunStopped):
    """The database did not answer to the end: what was to be written is there whole or not at all."""


def checked_url(text: str, password_file: Path | None, key: str = "store.url") -> sa.URL:
    """Return the URL of a PostgreSQL database with the password of its file.

    Raises InputFault for another dialect, for a password in the URL, and for a file that others can read.
    """
    try:
        url = sa.engine.make_url(text)
    except (sa.exc.ArgumentError, ValueError):
        raise InputFault(f"{key} is no URL; write {DIALECT}://user@host/database") from None
    if url.drivername not in (DIALECT, "postgresql"):
        raise InputFault(f"{key} names another database than PostgreSQL; write {DIALECT}://user@host/database")
    if url.password is not None or _SECRETS & set(url.query):
        raise InputFault(
            f"{key} holds a password, which would be read wherever the file is; write it into a file of mode 600 and "
            "name that in password_file"
        )
    password = read_password(password_file) if password_file is not None else None
    return url.set(drivername=DIALECT, password=password)


def read_password(path: Path) -> str:
    """Return the first line of a file that its owner alone can read. Raises InputFault for any other file."""
    try:
        mode, text = path.stat().st_mode, path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise InputFault(f"{path} cannot be read; write the database's password into it, one line") from None
    if stat.S_IMODE(mode) & 0o077:
        raise InputFault(f"{path} can be read by others; set its mode to 600")
    if not (password := text.split("\n", 1)[0].strip("\r")):
        raise InputFault(f"{path} is empty; write the database's password into it, one line")
    return password


def named(url: sa.URL) -> str:
    """Return the database as it may be told: without user, password or options."""
    return f"PostgreSQL database {url.database} at {url.host or url.query.get('host', 'the local socket')}"


def engines(
    url: sa.URL, read_only: bool = False, left_at: Callable[[], int | None] | None = None
) -> tuple[sa.Engine, sa.Engine]:
    """Return the engine of readers and the writer's, of one connection; nothing is dialled yet.

    With `left_at` the writer's connection takes the store's lock, and is refused where the ledger has another size than that
    says (None: not known yet). Raises InputFault where the driver is not installed.
    """
    kept = {"connect_timeout": _CONNECT_DEADLINE_S, "application_name": "lianxin", **_KEEPALIVE}
    options = f"{_SERVER_KEEPALIVE} -c default_transaction_read_only={'on' if read_only else 'off'}"
    given: dict[str, Any] = {"hide_parameters": True, "pool_pre_ping": True, "isolation_level": "REPEATABLE READ"}
    given["connect_args"] = {**kept, "options": " ".join(filter(None, [_options(url), options]))}
    try:
        readers = sa.create_engine(url, pool_size=4, max_overflow=28, **given)
        writer = sa.create_engine(url, pool_size=1, max_overflow=0, **given)
    except ModuleNotFoundError:
        raise InputFault(
            "the driver for PostgreSQL is not installed; install this package with its extra: lianxin[postgres]"
        ) from None
    if not read_only:
        sa.event.listen(writer, "connect", _check_durable)
    if left_at is not None:
        sa.event.listen(writer, "connect", _take_lock)
        sa.event.listen(writer, "connect", lambda connection, _record: _check_left(connection, left_at()))
    return readers, writer


def _options(url: sa.URL) -> str:
    given = url.query.get("options", "")
    return given if isinstance(given, str) else " ".join(given)


def _asked(connection: Any, query: str) -> Any:
    """Return the first row."""
    with connection.cursor() as cursor:
        row = cursor.execute(query).fetchone()
    connection.rollback()
    return row


def _check_durable(connection: Any, _record: Any) -> None:
    found, coding = _asked(
        connection, "SELECT current_setting('synchronous_commit'), current_setting('server_encoding')"
    )
    if found not in _DURABLE:
        raise InputFault(
            f"the database has synchronous_commit = {found}, and would lose what it had confirmed; set it to on for the "
            "node's user"
        )
    if coding != "UTF8":
        raise InputFault(f"the database is encoded in {coding}; make one with ENCODING 'UTF8'")


def _take_lock(connection: Any, _record: Any) -> None:
    (is_ours,) = _asked(connection, f"SELECT pg_try_advisory_lock({_LOCK_CLASS}, hashtext(current_schema()))")
    if not is_ours:
        raise StillHeld(
            "another node uses this database as its store, or a connection that was lost has not ended there yet; stop "
            "that node, or wait a minute, or give this one a database of its own"
        )


def _check_left(connection: Any, size: int | None) -> None:
    if size is None:
        return
    (found,) = _asked(connection, "SELECT coalesce(max(position) + 1, 0) FROM leaves")
    if found != size:
        raise InputFault(
            f"the ledger in the database has {found} leaves where this node left {size}: another node wrote there while the "
            "connection was lost, or the answer to a commit was lost with it; stop this node, see that no other one uses the "
            "database, and start it again"
        )


@contextmanager
def told(transaction: AbstractContextManager[sa.Connection], where: Callable[[], str]) -> Iterator[sa.Connection]:
    """Run a transaction; raises ConnectionLost, in one sentence, where the database does not carry it to its end."""
    try:
        with transaction as connection:
            yield connection
    except (OperationalError, InterfaceError, InternalError):
        raise ConnectionLost(
            f"the {where()} did not carry out a transaction (its connection was lost, its disk is full, or another program "
            "writes there), and nothing of it is half-written; see that it runs and has room, and go on: the next "
            "transaction connects again"
        ) from None
