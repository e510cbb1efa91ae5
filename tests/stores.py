"""Stores on SQLite and on PostgreSQL for tests: a temporary cluster of the Debian packages' server, a schema a test."""

import itertools
import os
import shutil
import signal
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

Place = Path | sa.URL
ABSENT = "PostgreSQL is not installed"
START_DEADLINE_S = 30.0
_numbers = itertools.count()


def server_programs() -> Path | None:
    """Return the folder with initdb and postgres, None where PostgreSQL is not installed for this process to run."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found or (os.geteuid() == 0 and shutil.which("setpriv") is None):
        return None
    return found[-1].parent


def _as_owner(command: list[str]) -> list[str]:
    """Return the command as the server's user runs it: PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return command
    return ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", "--pdeathsig=QUIT", *command]


class Cluster:
    """A running server on a Unix socket alone. `url` is a database of it; `server` its process."""

    def __init__(self, folder: Path, programs: Path) -> None:
        self.folder, self.programs = folder, programs
        if os.geteuid() == 0:
            shutil.chown(folder, "postgres", "postgres")
        asked = ["-A", "trust", "-U", "lianxin", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync", "--no-instructions"]
        self._run([str(programs / "initdb"), "-D", str(folder / "data"), *asked])
        self.start()

    @property
    def url(self) -> sa.URL:
        """The URL of the cluster's own database."""
        return sa.URL.create("postgresql+psycopg", "lianxin", database="postgres", query={"host": str(self.folder)})

    def start(self) -> None:
        """Start the server and wait until it answers."""
        settings = {"listen_addresses": "", "unix_socket_directories": str(self.folder), "fsync": "off",
                    "full_page_writes": "off", "shared_buffers": "16MB", "max_connections": "200"}  # fmt: skip
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        self.server = subprocess.Popen(
            _as_owner([str(self.programs / "postgres"), "-D", str(self.folder / "data"), *options]),
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/", start_new_session=True,
        )  # fmt: skip
        deadline = time.monotonic() + START_DEADLINE_S
        while subprocess.run([str(self.programs / "pg_isready"), "-q", "-h", str(self.folder)], check=False).returncode:
            assert time.monotonic() < deadline and self.server.poll() is None, "the server did not start"
            time.sleep(0.05)

    def stop(self) -> None:
        """End the server at once, as a power cut does."""
        self.server.send_signal(signal.SIGQUIT)
        self.server.wait(START_DEADLINE_S)

    def schema(self) -> sa.URL:
        """Return the URL of a fresh schema, which a store takes for its whole database."""
        name = f"t{next(_numbers)}"
        with connected(self.url) as connection:
            connection.execute(f"CREATE SCHEMA {name}")
        return self.url.update_query_dict({"options": f"-csearch_path={name}"})

    def _run(self, command: list[str]) -> None:
        subprocess.run(_as_owner(command), check=True, capture_output=True, cwd="/")


def cluster() -> Iterator[Cluster]:
    """Yield a running cluster, which ends with the block; skips where PostgreSQL or its driver is not installed."""
    programs = server_programs()
    if programs is None:
        pytest.skip(ABSENT)
    folder = Path(tempfile.mkdtemp(prefix="lx-"))
    try:
        made = Cluster(folder, programs)
        yield made
        made.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def connected(url: sa.URL) -> Iterator[Any]:
    """Connect by the driver, beside any store, and commit at the end."""
    import psycopg

    options = str(url.query.get("options", ""))
    given = {"host": url.query["host"], "dbname": url.database, "user": url.username, "options": options}
    with psycopg.connect(**given) as connection:
        yield connection


class _Edits:
    def __init__(self, connection: Any, mark: str) -> None:
        self._connection, self._mark = connection, mark

    def execute(self, statement: str, values: tuple[Any, ...] = ()) -> Any:
        return self._connection.execute(statement.replace("?", self._mark), values)


@contextmanager
def edited(place: Place) -> Iterator[_Edits]:
    """Write into a store's tables behind its back, committed at the end; values stand as `?`."""
    if isinstance(place, sa.URL):
        with connected(place) as connection:
            yield _Edits(connection, "%s")
        return
    connection = sqlite3.connect(place)
    try:
        with connection:
            yield _Edits(connection, "?")
    finally:
        connection.close()
