"""Tables from CSV, Parquet and PostgreSQL: their encodings, what no table is, and files that change under a run."""

import gzip
import hashlib
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pytest
from stores import Cluster, connected

from lianxin.federation.errors import InputFault
from lianxin.parties import records_postgres, records_source
from lianxin.parties.config import DataSection, NodeConfig, load_node
from lianxin.parties.records import encoding_of, read_table
from lianxin.parties.records_postgres import take_copy
from lianxin.parties.records_source import check_as_read, how_read

TEXT = "uscc,行业,收入\nF1,制造业和批发零售,1\nF2,信息传输、软件,2\n"
CODINGS = {"utf-8": "utf-8", "utf-8-sig": "utf-8-sig", "gb18030": "gb18030"}


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("coding", CODINGS)
def test_the_encoding_of_a_table_is_found_and_its_text_is_the_same(tmp_path: Path, coding: str) -> None:
    plain = write(tmp_path / "t.csv", TEXT.encode(coding))
    packed = write(tmp_path / "t.csv.gz", gzip.compress(TEXT.encode(coding)))
    for path in (plain, packed):
        assert encoding_of(path) == coding
        table = read_table(path)
        assert table.columns == ("uscc", "行业", "收入")
        assert how_read(path).endswith({"utf-8": "", "utf-8-sig": "byte order mark", "gb18030": "GB18030"}[coding])
        assert bool(how_read(path)) == (coding != "utf-8")
        assert table.column("行业") == ["制造业和批发零售", "信息传输、软件"]


def test_a_character_on_the_edge_of_a_block_is_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records_source, "_BLOCK", 7)
    monkeypatch.setattr(records_source, "_check_header", lambda *_: None)
    for coding in CODINGS:
        assert encoding_of(write(tmp_path / "t.csv", TEXT.encode(coding))) == coding


ODD = {
    "latin": ("name,size\nGrößenänderung,1\nFaçade é,2\n".encode("latin-1"), "neither UTF-8 nor GB18030 text"),
    "bytes of no text": (b"a,b\n1,\xff\xfe\xfd\n", "neither UTF-8 nor GB18030 text at about data row 1"),
    "a character cut off": ("a,b\n1,业".encode()[:-1], "neither UTF-8 nor GB18030 text at about data row 1"),
    "UTF-16": ("a,b\n1,2\n".encode("utf-16"), "holds NUL bytes in its header"),
    "a NUL byte": (b"a,b\n1,2\n3,\x004\n", "holds NUL bytes at about data row 2"),
    "a million columns": (",".join(f"c{n}" for n in range(1_000_000)).encode() + b"\n", "over 10,000 columns"),
    "a header of many names": (",".join(f"c{n}" for n in range(10_001)).encode() + b"\n1\n", "over 10,000 columns"),
    "a ragged row": (b"a,b\n1,2\n3\n", "data row 2 of t.csv has 1 cells"),
    "two columns of a name": (b"a,b,a\n1,2,3\n", "two columns named a"),
}


@pytest.mark.parametrize(("content", "says"), ODD.values(), ids=ODD)
def test_what_is_no_table_is_refused_in_one_sentence(tmp_path: Path, content: bytes, says: str) -> None:
    with pytest.raises(InputFault, match=says) as fault:
        read_table(write(tmp_path / "t.csv", content))
    assert "\n" not in str(fault.value) and "c9999" not in str(fault.value)


def test_a_million_columns_are_refused_by_a_part_of_the_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, read = tmp_path / "t.csv.gz", 0
    path.write_bytes(gzip.compress(b"a" * 50_000_000, 1))
    real = gzip.GzipFile.read

    def counted(file: gzip.GzipFile, size: int = -1) -> bytes:
        nonlocal read
        data = real(file, size)
        read += len(data)
        return data

    monkeypatch.setattr(gzip.GzipFile, "read", counted)
    with pytest.raises(InputFault, match="over 10,000 columns"):
        encoding_of(path)
    assert read <= 2**20


def test_a_parquet_file_of_too_many_columns_is_refused_by_its_footer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = tmp_path / "wide.parquet"
    pl.DataFrame({f"c{n}": [1] for n in range(10_001)}).write_parquet(wide)
    with pytest.raises(InputFault, match="over 10,000 columns"):
        read_table(wide)
    claimed = write(tmp_path / "claimed.parquet", b"PAR1" + bytes(100) + (2**25).to_bytes(4, "little") + b"PAR1")
    monkeypatch.setattr(pl, "read_parquet_schema", lambda _: pytest.fail("the footer is not read"))
    with pytest.raises(InputFault, match="over 10,000 columns"):
        read_table(claimed)


def test_a_file_that_is_written_to_while_it_is_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "t.csv", TEXT.encode())
    real = records_source.digest_of

    def slow(file: Path) -> str:
        found = real(file)
        with path.open("ab") as other:
            other.write(b"F3,x,3\n")
        return found

    monkeypatch.setattr(records_source, "digest_of", slow)
    with pytest.raises(InputFault, match=r"t\.csv was written to while it was read"):
        read_table(path)
    monkeypatch.undo()
    assert read_table(path).rows == 3


def test_a_file_that_changed_since_it_was_read_is_no_input_of_a_run(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", TEXT.encode())
    read_table(path)
    before, old = hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns
    check_as_read(path, before)
    path.write_bytes(TEXT.replace("F1", "F9").encode())
    os.utime(path, ns=(old, old))  # neither its size nor its time tells
    after = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(InputFault, match=r"t\.csv has changed since this node read it"):
        check_as_read(path, after)
    read_table(path)
    check_as_read(path, after)
    check_as_read(tmp_path / "never-read.csv", after)


BIG = """
import resource, sys, threading, time
from pathlib import Path
from lianxin.parties.records import read_table
at_start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
table = read_table(Path(sys.argv[1]))
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(table.rows, len(table.columns), at_start // 1024, peak // 1024, int(table.frame.estimated_size("mb")))
"""


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_reading_takes_little_more_memory_than_the_table(tmp_path: Path, ending: str) -> None:
    rows, path = 40_000, tmp_path / f"big.{ending}"
    frame = pl.DataFrame({"id": [f"F{n:017d}" for n in range(rows)]})
    frame = frame.with_columns((pl.int_range(rows) * (k + 1) % 99_991).alias(f"c{k}") for k in range(19))
    frame.write_csv(path) if ending == "csv" else frame.write_parquet(path)
    ran = subprocess.run(
        [sys.executable, "-c", BIG, str(path)], capture_output=True, text=True, check=True, timeout=120
    )
    found, columns, at_start, peak, size = map(int, ran.stdout.split())
    assert (found, columns) == (rows, 20)
    assert peak - at_start < 3 * size + 130, ran.stdout


# ---- PostgreSQL


@pytest.fixture
def database(postgres: Cluster) -> str:
    url = postgres.schema()
    with connected(url) as connection:
        connection.execute("CREATE TABLE firms (uscc text, staff int, revenue numeric, note text, since date)")
        connection.execute(
            "INSERT INTO firms SELECT 'F' || n, n % 7, n / 3.0, CASE WHEN n % 2 = 0 THEN '批发' END, date '2020-01-01' + n "
            "FROM generate_series(1, 900) AS n ORDER BY random()"
        )
    return str(url.render_as_string())


def config_of(tmp_path: Path, database: str, query: str) -> NodeConfig:
    path = tmp_path / "p.toml"
    path.write_text(
        'role = "platform"\noperator = "li-na"\nidentity = "id"\nstate = "state"\nlisten = "127.0.0.1:7443"\n'
        f'[data]\ntable = "{database}"\nquery = "{query}"\nid = "uscc"\n'
    )
    config = load_node(path)
    config.state.mkdir(exist_ok=True)
    return config


@pytest.mark.parametrize(
    "query", ["firms", "SELECT uscc, staff, revenue, note, since FROM firms WHERE uscc LIKE 'F%';"]
)
def test_a_table_of_a_database_is_copied_once_whole_and_always_alike(
    tmp_path: Path, database: str, query: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records_postgres, "_CELLS", 500)  # nine batches
    config = config_of(tmp_path, database, query)
    path = take_copy(config)
    assert path == config.data.table == tmp_path / "state" / "table.parquet"
    assert oct(path.stat().st_mode)[-3:] == "600"
    table, first = read_table(path), path.read_bytes()
    assert (table.rows, table.columns) == (900, ("uscc", "staff", "revenue", "note", "since"))
    firms = table.text("uscc")
    assert firms == sorted(firms, key=lambda one: str(one).encode())
    at = firms.index("F10")
    got = [table.column(name)[at] for name in table.columns[1:]]
    assert got == [3, pytest.approx(10 / 3), "批发", "2020-01-11"]
    take_copy(config)
    assert path.read_bytes() == first
    assert list(config.state.iterdir()) == [path]


REFUSED = {
    "no such table": ("absent", "gave no table for data.query .SQLSTATE 42P01."),
    "another statement": ("DROP TABLE firms", "gave no table for data.query"),
    "no rows": ("SELECT * FROM firms WHERE staff > 99", "gives no rows"),
    "no query": ("", "data.query is missing"),
    "no column of that name": ("SELECT staff FROM firms", "gave no table for data.query"),
}


@pytest.mark.parametrize(("query", "says"), REFUSED.values(), ids=REFUSED)
def test_a_query_that_gives_no_table_is_refused_in_one_sentence(
    tmp_path: Path, database: str, query: str, says: str
) -> None:
    with pytest.raises(InputFault, match=says) as fault:
        take_copy(config_of(tmp_path, database, query))
    assert "\n" not in str(fault.value)


def test_a_password_in_the_url_of_a_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputFault, match=r"data\.table holds a password"):
        take_copy(config_of(tmp_path, "postgresql+psycopg://li:secret@127.0.0.1/x", "firms"))


def test_a_file_is_no_database(tmp_path: Path) -> None:
    data = DataSection(table=tmp_path / "t.csv", id="uscc")
    assert take_copy(SimpleNamespace(data=data)) is None  # type: ignore[arg-type]
