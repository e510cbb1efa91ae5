"""A node's table from PostgreSQL: copied once at each start into the state folder as a Parquet file.

The copy is taken in one REPEATABLE READ transaction, by a cursor of the server, in the order of the firms' identifiers:
the same rows make the same file. A batch of rows is in memory. From then on the copy is the node's table: its digest is
what a run commits to, and what an opening shows. The copy is for its owner alone.
"""

import decimal
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import sqlalchemy as sa

from lianxin.federation.errors import InputFault
from lianxin.parties.config import NodeConfig
from lianxin.parties.records_source import MOST_COLUMNS, too_wide
from lianxin.parties.store_postgres import checked_url, named

_CELLS = 500_000


def take_copy(config: NodeConfig) -> Path | None:
    """Copy the table that `[data]` names in a database to `data.table`; return that, None where it is a file already.

    Raises InputFault where the database cannot be read, or the query gives no table with the column of identifiers.
    """
    data = config.data
    if not data.database or data.table is None:
        return None
    url = checked_url(data.database, data.password_file, "data.table")
    if not data.query.strip():
        raise InputFault("data.query is missing; name the table, or write a SELECT, that gives the node's rows")
    try:
        engine = sa.create_engine(url, hide_parameters=True, isolation_level="REPEATABLE READ", poolclass=sa.NullPool,
                                  connect_args={"connect_timeout": 10})  # fmt: skip
    except ModuleNotFoundError:
        raise InputFault(
            "the driver for PostgreSQL is not installed; install this package with its extra: lianxin[postgres]"
        ) from None
    try:
        with (
            engine.connect().execution_options(postgresql_readonly=True) as connection,
            tempfile.TemporaryDirectory(dir=config.state) as drafts,
        ):
            _write(_rows(connection, data.query, data.id), Path(drafts), data.table)
    except sa.exc.SQLAlchemyError as fault:
        code = getattr(getattr(fault, "orig", None), "sqlstate", None)
        raise InputFault(
            f"the {named(url)} gave no table for data.query{f' (SQLSTATE {code})' if code else ''}; try the query there as the "
            "node's user"
        ) from None
    return data.table


def _rows(connection: sa.Connection, query: str, id_column: str) -> Iterator[pl.DataFrame]:
    """Yield the rows in order, a batch at a time, each column numbers or text."""
    result = connection.execution_options(yield_per=_CELLS // 20).exec_driver_sql(
        _ordered(connection, query, id_column)
    )
    names = list(result.keys())
    if len(names) > MOST_COLUMNS:
        raise too_wide("data.query")
    for page in result.partitions(max(1, _CELLS // len(names))):
        yield pl.DataFrame(
            [pl.Series(name, *_plain(column)) for name, column in zip(names, zip(*page, strict=True), strict=True)]
        )


def _ordered(connection: sa.Connection, query: str, id_column: str) -> str:
    quote = connection.dialect.identifier_preparer
    plain = query.strip().rstrip(";").replace("%", "%%")  # the driver's own mark
    inner = plain if plain.lower().startswith(("select", "with")) else f"SELECT * FROM {_quoted(quote, plain)}"
    return (
        f'SELECT * FROM ({inner}) AS given ORDER BY {quote.quote_identifier(id_column)}::text COLLATE "C", given::text'
    )


def _quoted(quote: Any, name: str) -> str:
    return ".".join(quote.quote_identifier(part.strip('"')) for part in name.split("."))


def _plain(values: Sequence[Any]) -> tuple[list[Any], Any]:
    """Return a column as what a table's file could hold, with its type: whole numbers, numbers or text."""
    present = [value for value in values if value is not None]
    if all(isinstance(value, int) for value in present):  # and flags
        return [None if value is None else int(value) for value in values], pl.Int64
    if all(isinstance(value, int | float | decimal.Decimal) for value in present):
        return [None if value is None else float(value) for value in values], pl.Float64
    return [None if value is None else str(value) for value in values], pl.String


def _write(batches: Iterable[pl.DataFrame], drafts: Path, target: Path) -> None:
    """Write batches as one Parquet file, put in place whole; a column that changes its type is of the wider one."""
    parts = []
    for number, batch in enumerate(batches):
        parts.append(drafts / f"{number:06d}.parquet")
        batch.write_parquet(parts[-1])
    if not parts:
        raise InputFault("data.query gives no rows; a table has at least one")
    types = _types(parts)
    frames = [pl.scan_parquet(part).select(pl.col(name).cast(kind) for name, kind in types.items()) for part in parts]
    draft = drafts / "table.parquet"
    pl.concat(frames).sink_parquet(draft, maintain_order=True)
    os.chmod(draft, 0o600)
    shutil.move(draft, target)


def _types(parts: Sequence[Path]) -> dict[str, Any]:
    order, types = [pl.Int64, pl.Float64, pl.String], dict[str, Any]()
    for part in parts:
        for name, kind in pl.read_parquet_schema(part).items():
            types[name] = max(types.get(name, pl.Int64), kind, key=lambda one: order.index(one))
    return types
