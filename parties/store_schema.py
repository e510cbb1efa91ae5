"""The tables of a node's store; `since` says which version of the schema brought one (`store_migrations`).

A version only adds tables: opening a store of an earlier version creates what is missing, in one transaction, and an
older program refuses the newer store by its number.

1: 0.1 and 0.2. 2: `uses`, what a limited consent was used for; `tiles`, the ledger's
hashes; `firm_kinds`, whether a registered key is an enterprise's, a sole trader's or a person's. 3: `standing_scores`, the
platform's part of each score that a bank was given of a firm in a quarter.
"""

from typing import Any

import sqlalchemy as sa

metadata = sa.MetaData()
_TEXT = sa.Text().with_variant(
    sa.Text(collation="C"), "postgresql"
)  # by bytes, as SQLite: what is exported is in that order


def _table(name: str, *columns: Any, since: int = 1) -> sa.Table:
    return sa.Table(name, metadata, *columns, info={"since": since})


def _position(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, primary_key=True, autoincrement=False)


def _bytes(name: str) -> sa.Column[bytes]:
    return sa.Column(name, sa.LargeBinary, nullable=False)


def _text(name: str, is_key: bool = False) -> sa.Column[str]:
    return sa.Column(name, _TEXT, primary_key=is_key, nullable=False)


schema = _table("schema", _position("version"))
leaves = _table("leaves", _position("position"), _bytes("data"))
checkpoints = _table(
    "checkpoints", _position("position"), sa.Column("size", sa.BigInteger, nullable=False), _bytes("data")
)
registry = _table("registry", _position("epoch"), _bytes("data"))
firm_keys = _table("firm_keys", _text("subject_key", True), _text("key"))
firm_kinds = _table("firm_kinds", _text("subject_key", True), _text("kind"), since=2)
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
uses = _table("uses", _text("consent", True), _text("use", True), since=2)
tiles = _table("tiles", _position("level"), _position("index"), _bytes("data"), since=2)
standing_scores = _table(
    "standing_scores", _text("subject_key", True), _text("bank", True), _text("quarter", True), _text("model", True),
    _bytes("data"), since=3,
)  # fmt: skip

SCHEMA_VERSION = max(table.info["since"] for table in metadata.tables.values())
