"""What a store is, in figures: its version, database, size and how much it holds; nothing of what it says."""

from pathlib import Path
from typing import Any

import sqlalchemy as sa

from lianxin.parties import store_hold, store_migrations
from lianxin.parties import store_schema as schema
from lianxin.parties.store import Store

_COUNTED = (
    "leaves", "checkpoints", "registry", "firm_keys", "envelopes", "runs", "witnessed", "uses", "standing_scores", "settings",
)  # fmt: skip


def report_of(store: Store) -> dict[str, Any]:
    """Return `dialect`, `place`, `version`, `reads`, `size_bytes`, `counts` by table, `is_held` and `is_durable`."""
    with store.reading() as connection:
        counts = {
            name: connection.scalar(sa.select(sa.func.count()).select_from(schema.metadata.tables[name]))
            for name in _COUNTED
        }
        version = store_migrations.found_version(connection)
        size, is_durable = _postgres(connection) if store.dialect == "postgresql" else _sqlite(connection)
    return {
        "dialect": store.dialect, "place": _plain(store.place), "version": version, "reads": schema.SCHEMA_VERSION,
        "size_bytes": size, "counts": counts, "is_held": store_hold.hold_of(store) is not None, "is_durable": is_durable,
    }  # fmt: skip


def _plain(place: str) -> str:
    return place.removeprefix("sqlite:///file:").partition("?")[0]


def _sqlite(connection: sa.Connection) -> tuple[int, bool]:
    path = Path(connection.exec_driver_sql("PRAGMA database_list").one()[2])
    files = (path.with_name(path.name + ending) for ending in ("", "-wal", "-shm"))
    return sum(file.stat().st_size for file in files if file.exists()), True  # every connection sets synchronous=FULL


def _postgres(connection: sa.Connection) -> tuple[int, bool]:
    size = sum(
        connection.exec_driver_sql(f"SELECT pg_total_relation_size('{name}')").scalar() or 0
        for name in schema.metadata.tables
    )
    found = [connection.exec_driver_sql(f"SHOW {name}").scalar() for name in ("synchronous_commit", "fsync")]
    return size, found[0] in ("on", "remote_apply") and found[1] == "on"
