"""A node's table as the node will read it when it starts: its header, its columns in the catalogue, its rows."""

import csv
import gzip
from collections.abc import Collection, Iterator
from pathlib import Path

from lianxin.parties.config import NodeConfig
from lianxin.parties.doctor import FAIL, OK, WARN, Line

HEADER_BYTES = 1 << 20
MOST_READ = 256 << 20  # bytes of a file whose rows are read too: a larger one takes minutes and much memory
_SHOWN = 8


def look_at_table(config: NodeConfig) -> Iterator[Line]:
    """Yield what is wrong with a node's table. Raises InputFault with the sentence by which the node would not start."""
    from lianxin.parties.records import called_names

    data = config.data
    if data.table is None:
        yield Line("table", OK, "none is asked for")
        return
    if data.database:
        yield Line("table", OK, "it is in a database, which is asked when the node starts")
        return
    written, encoding = header_of(data.table)
    columns = called_names(data.table.name, written, data.columns)
    wanted = [name for name in (data.id, data.label, data.split, data.loan_id) if name]
    absent = [name for name in wanted if name not in columns]
    said = f"{data.table}: {len(columns)} columns" + (f", {encoding}" if encoding else "")
    if absent:
        yield Line(
            "table", FAIL, f"{said}; no column {', '.join(absent)}", "name its columns in [data] as the file does"
        )
        return
    yield from _unknown(config, columns, wanted)
    if data.table.stat().st_size > MOST_READ:
        yield Line("table", OK, f"{said}; its header alone was read, its rows are when the node starts")
    else:
        yield Line("table", OK, f"{said}, {_rows(config)} rows")


def _unknown(config: NodeConfig, columns: Collection[str], named: Collection[str]) -> Iterator[Line]:
    """Yield a warning of the columns that are no field of the catalogue and that the configuration names nowhere."""
    from lianxin.parties.catalogue import load_merged

    looked = {*named, *config.evaluation.segments, config.evaluation.time, *config.evaluation.known_after}
    catalogue = load_merged(config.data.catalogue, config.data.catalogue_additions)
    unknown = [name for name in columns if name not in looked and name not in catalogue]
    if unknown:
        more = f" and {len(unknown) - _SHOWN} more" if len(unknown) > _SHOWN else ""
        found = f"no field of the catalogue: {', '.join(unknown[:_SHOWN])}{more}; nobody can ask for it"
        yield Line(
            "table",
            WARN,
            found,
            "correct its name, say in [data.columns] what it is called in the file, leave it out, or add the field by "
            "[data] catalogue_additions",
        )


def _rows(config: NodeConfig) -> int:
    """Return how many data rows the table has, read as the node reads it. Raises InputFault for one that it would refuse."""
    from lianxin.parties.records import load_firm_table, load_loan_table, read_table

    data = config.data
    assert data.table is not None  # else it is not looked at
    table = read_table(data.table, data.columns)
    if config.role == "platform":
        load_firm_table(table, data.id)
    else:
        load_loan_table(table, data.id, data.label or "", data.split, data.loan_id)
    return table.rows


def header_of(path: Path) -> tuple[list[str], str]:
    """Return the column names of a table file and, of text, its encoding. Raises OSError, or ValueError for another file."""
    if path.name.lower().endswith(".parquet"):
        import polars as pl

        return list(pl.read_parquet_schema(path)), ""
    if path.name.lower().endswith(".gz"):
        with gzip.open(path) as packed:
            start = packed.read(HEADER_BYTES)
    else:
        with path.open("rb") as plain:
            start = plain.read(HEADER_BYTES)
    first = start.split(b"\n", 1)[0].rstrip(b"\r")
    for encoding in ("utf-8-sig", "gb18030"):
        try:
            name = {"utf-8-sig": "UTF-8 with a mark" if first.startswith(b"\xef\xbb\xbf") else "UTF-8"}.get(
                encoding, "GB18030"
            )
            return [cell.strip() for cell in next(csv.reader([first.decode(encoding)]))], name
        except UnicodeDecodeError:
            continue
    raise ValueError("neither UTF-8 nor GB18030")
