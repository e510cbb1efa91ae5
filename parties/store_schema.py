"""The tables of a node's store, and how an older store becomes one of this version.

A version only adds tables and indexes: opening a store of an earlier version creates what is missing, in one
transaction, and an older program refuses the newer store by its number.

1: 0.1 and 0.2. 2: `uses`, what a limited consent was used for; `tiles`, the ledger's
hashes; `firm_kinds`, whether a registered key is an enterprise's, a sole trader's or a person's. 3: `standing_scores`, the
platform's part of each score that a bank was given of a firm in a quarter.
"""

from typing import Any

import sqlalchemy as sa

SCHEMA_VERSION = 3
metadata = sa.MetaData()


def _table(name: str, *columns: Any) -> sa.Table:
    return sa.Table(name, metadata, *columns)


def _position(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, primary_key=True, autoincrement=False)


def _bytes(name: str) -> sa.Column[bytes]:
    return sa.Column(name, sa.LargeBinary, nullable=False)


def _text(name: str, is_key: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.Text, primary_key=is_key, nullable=False)


schema = _table("schema", _position("version"))
leaves = _table("leaves", _position("position"), _bytes("data"))
checkpoints = _table(
    "checkpoints", _position("position"), sa.Column("size", sa.BigInteger, nullable=False), _bytes("data")
)
registry = _table("registry", _position("epoch"), _bytes("data"))
firm_keys = _table("firm_keys", _text("subject_key", True), _text("key"))
firm_kinds = _table("firm_kinds", _text("subject_key", True), _text("kind"))
release_consents = _table("release_consents", _text("release", True), _text("consents"))
runs = _table("runs", _text("run", True), _text("state"), _bytes("contract"), _text("note"))
witnessed = _table("witnessed", _position("position"), _text("party"), _bytes("data"))
settings = _table("settings", _text("key", True), _bytes("value"))
envelopes = _table(
    "envelopes",
    _position("ledger_index"),
    _text("direction"),
    _text("run"),
    _text("conversation"),
    _text("sender"),
    sa.Column("seq", sa.BigInteger, nullable=False),
    _bytes("header"),
    _bytes("signature"),
    _text("message_hash"),
    sa.UniqueConstraint("direction", "run", "conversation", "sender", "seq"),
)
uses = _table("uses", _text("consent", True), _text("use", True))
tiles = _table("tiles", _position("level"), _position("index"), _bytes("data"))
standing_scores = _table(
    "standing_scores", _text("subject_key", True), _text("bank", True), _text("quarter", True), _text("model", True),
    _bytes("data"),
)  # fmt: skip


def open_tables(connection: sa.Connection) -> int | str:
    """Create what is missing in a new store or in one of an earlier version; return the version that is there then.

    A database with tables and without a version is none of ours: "none", and nothing is created.
    """
    present = set(sa.inspect(connection).get_table_names())
    if present and "schema" not in present:
        return "none"
    found = connection.scalar(sa.select(schema.c.version)) if present else None
    if found is not None and found >= SCHEMA_VERSION:
        return found
    metadata.create_all(connection)
    connection.execute(sa.delete(schema))
    connection.execute(sa.insert(schema).values(version=SCHEMA_VERSION))
    return SCHEMA_VERSION
