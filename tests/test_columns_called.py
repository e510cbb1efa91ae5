"""A table whose columns have other names than the fields of the catalogue: those of a Chinese export, say."""

from pathlib import Path

import polars as pl
import pytest
import tomli_w

from lianxin.federation.errors import InputFault
from lianxin.parties import cli_score
from lianxin.parties.config import load_node
from lianxin.parties.doctor_table import look_at_table
from lianxin.parties.records import load_firm_table, read_table
from lianxin.parties.records_frame import iterate_table
from lianxin.parties.source_quality_table import look_at

CALLED = {"firm": "企业名称代码", "reg_capital": "注册资本"}
ROWS = [("a1", 5, "x"), ("b2", 7, "y")]
WRITTEN = ("企业名称代码", "注册资本", "other")


def written(folder: Path, kind: str) -> Path:
    if kind == "parquet":
        path = folder / "t.parquet"
        pl.DataFrame(ROWS, schema=WRITTEN, orient="row").write_parquet(path)
        return path
    path = folder / "t.csv"
    path.write_bytes("".join(",".join(map(str, row)) + "\n" for row in (WRITTEN, *ROWS)).encode(kind))
    return path


def configured(folder: Path, called: dict[str, str]) -> Path:
    """A platform's configuration whose table's columns are called so."""
    data = {"table": "t.csv", "id": "firm", "columns": called}
    node = {"role": "platform", "operator": "wang", "identity": "i", "state": "s", "listen": "127.0.0.1:0"}
    (folder / "node.toml").write_text(tomli_w.dumps({**node, "data": data}))
    return folder / "node.toml"


@pytest.mark.parametrize("kind", ["gb18030", "utf-8-sig", "utf-8", "parquet"])
def test_a_column_is_read_by_what_it_is_called_here(tmp_path: Path, kind: str) -> None:
    path = written(tmp_path, kind)
    table = read_table(path, CALLED)
    assert table.columns == ("firm", "reg_capital", "other")
    assert load_firm_table(table, "firm").columns == {"reg_capital": [5, 7], "other": ["x", "y"]}
    pieces = list(iterate_table(path, 1, CALLED))
    assert [piece.columns for piece in pieces] == [["firm", "reg_capital", "other"]] * 2
    assert set(look_at(path, "firm", CALLED).columns) == {"firm", "reg_capital", "other"}
    assert read_table(path).columns == WRITTEN


REFUSED = {
    "a name that the file lacks": ({"reg_capital": "注册资金"}, "no column 注册资金, which .* calls reg_capital"),
    "a name that another column has": ({"other": "注册资本"}, "a column other besides the one"),
    "one column by two names": ({"a": "注册资本", "b": "注册资本"}, "by two names"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_names_that_do_not_fit_are_refused(tmp_path: Path, what: str) -> None:
    called, sentence = REFUSED[what]
    with pytest.raises(InputFault, match=sentence):
        read_table(written(tmp_path, "gb18030"), called)


def test_the_doctor_and_a_list_to_score_read_it_so_too(tmp_path: Path) -> None:
    path = configured(tmp_path, CALLED)
    table = written(tmp_path, "gb18030")
    config = load_node(path)
    lines = list(look_at_table(config))
    assert lines[-1].state == "ok" and "3 columns, GB18030, 2 rows" in lines[-1].found
    assert cli_score._rows(table, "firm", "", config.data.columns)[0] == {
        "firm": "a1", "values": {"reg_capital": 5, "other": "x"},
    }  # fmt: skip


def test_a_name_of_nothing_is_a_mistake_with_its_line(tmp_path: Path) -> None:
    path = configured(tmp_path, {"firm": ""})
    with pytest.raises(InputFault, match=r"line \d+: data\.columns\.firm"):
        load_node(path)
