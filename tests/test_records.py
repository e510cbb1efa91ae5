"""Tables: what is read, and the one sentence for each way in which a table can be wrong."""

import gzip
from collections.abc import Callable
from datetime import date
from pathlib import Path

import polars as pl
import pytest

from lianxin.federation.errors import InputFault
from lianxin.parties.identifiers import uscc_from
from lianxin.parties.records import LoanTable, Table, load_firm_table, load_loan_table, read_table

CODES = [uscc_from("9", "1", "630102", f"MA0000{i:02d}") for i in range(20)]
SECRET = "4242424242"


def write(folder: Path, text: str | bytes, name: str = "loans.csv") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def loans(folder: Path, rows: str, header: str = "uscc,label,split,loan,income") -> Table:
    return read_table(write(folder, f"{header}\n{rows}"))


def as_loans(table: Table) -> LoanTable:
    return load_loan_table(table, "uscc", "label", "split", "loan")


def good_rows() -> list[str]:
    return [f"F{i},{i % 2},{'train' if i < 8 else 'test'},L{i},{SECRET}" for i in range(10)]


def with_row(number: int, row: str) -> str:
    rows = good_rows()
    rows[number - 1] = row
    return "\n".join(rows) + "\n"


def test_numbers_stay_numbers_text_stays_text_and_missing_is_none(tmp_path: Path) -> None:
    table = loans(tmp_path, "F1,1.5,x,7,\nF2,NA,,-8, 3 \n")
    assert (table.name, table.rows, table.columns) == ("loans", 2, ("uscc", "label", "split", "loan", "income"))
    assert [table.column(name) for name in table.columns[1:]] == [[1.5, None], ["x", None], [7, -8], [None, 3]]


def test_codes_with_a_leading_zero_stay_text(tmp_path: Path) -> None:
    table = loans(tmp_path, "F1,0113,0.5,0,1\nF2,51,0,1,1\n")
    assert [table.column(n) for n in ("label", "split", "loan")] == [["0113", "51"], [0.5, 0.0], [0, 1]]


def test_a_column_without_any_value_is_all_missing(tmp_path: Path) -> None:
    assert loans(tmp_path, "F1,,,,\n").column("income") == [None]


def test_plain_packed_and_parquet_tables_read_alike(tmp_path: Path) -> None:
    plain = loans(tmp_path, "F1,1,train,3,2.5\nF2,0,,4,NA\n")
    packed = read_table(write(tmp_path, gzip.compress((tmp_path / "loans.csv").read_bytes()), "loans.csv.gz"))
    frame = pl.DataFrame({name: plain.column(name) for name in plain.columns}, strict=False)
    frame.write_parquet(tmp_path / "loans.parquet")
    columnar = read_table(tmp_path / "loans.parquet")
    for table in (packed, columnar):
        assert (table.name, table.columns) == (plain.name, plain.columns)
        assert [table.column(n) for n in table.columns] == [plain.column(n) for n in plain.columns]


def test_parquet_dates_are_text_flags_are_numbers_and_nan_is_missing(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {
            "day": [date(2024, 5, 1), None],
            "flag": [True, False],
            "x": [float("nan"), 1.0],
            "id": [7.0, 8.0],
            "t": ["NA", "a"],
        }
    )
    frame.write_parquet(tmp_path / "t.parquet")
    table = read_table(tmp_path / "t.parquet")
    assert [table.column(n) for n in ("day", "flag", "x", "t")] == [
        ["2024-05-01", None],
        [1, 0],
        [None, 1.0],
        [None, "a"],
    ]
    assert table.text("id") == ["7", "8"]


def test_a_quoted_cell_may_hold_commas_and_line_ends(tmp_path: Path) -> None:
    table = read_table(write(tmp_path, 'a,b\r\n"x, y","1\n2"\r\n\r\n'))
    assert (table.column("a"), table.column("b")) == (["x, y"], ["1\n2"])


def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path: Path) -> None:
    assert read_table(write(tmp_path, b"\xef\xbb\xbfuscc,a\nF1,1\n")).columns == ("uscc", "a")


BAD_FILES = [
    ("absent.csv", None, ["absent.csv", "does not exist"]),
    ("loans.xlsx", b"PK", ["loans.xlsx", ".parquet"]),
    ("loans.csv", b"", ["loans.csv is empty"]),
    ("loans.csv", b"\n\n", ["loans.csv is empty"]),
    ("loans.csv", b"a,b\n", ["loans.csv", "no data rows"]),
    ("loans.csv", b"a,b\n1,2\n\xd0,4242424242\n", ["loans.csv", "UTF-8", "data row 2"]),
    ("loans.csv", b"a\xff,b\n1,2\n", ["loans.csv", "UTF-8", "header"]),
    ("loans.csv", b"a,b\n1,2\n4242424242\n", ["data row 2 of loans.csv", "1 cells", "header 2"]),
    ("loans.csv", b"a,b\n1,2\n\n3,4\n", ["data row 2 of loans.csv", "0 cells"]),
    ("loans.csv", b"a,b\n1,2,4242424242\n", ["data row 1 of loans.csv", "3 cells"]),
    ("loans.csv", b'a,b\n1,2\n"4242424242"x,2\n', ["loans.csv", "quoting", "data row 2"]),
    ("loans.csv", b'a,b\n1,"4242424242\n', ["loans.csv", "quoting", "data row 1"]),
    ("loans.csv", b"a;b\n1;2\n", ["loans.csv", "commas"]),
    ("loans.csv", b"a,a\n1,2\n", ["loans.csv", "two columns named a"]),
    ("loans.csv", b"a, \n1,2\n", ["column 2 of loans.csv", "no name"]),
    ("loans.csv.gz", b"a,b\n1,4242424242\n", ["loans.csv.gz", "gzip"]),
    ("loans.csv.gz", gzip.compress(b"a,b\n1,4242424242\n", mtime=0)[:-6], ["loans.csv.gz", "gzip"]),
    ("loans.parquet", b"PAR1 4242424242", ["loans.parquet", "Parquet"]),
]


def assert_one_sentence(message: str) -> None:
    assert SECRET not in message and "\n" not in message and ". " not in message and not message.endswith(".")
    assert ";" in message, "it says what to do"


@pytest.mark.parametrize(("name", "content", "says"), BAD_FILES)
def test_a_file_that_is_no_table_is_refused_in_one_sentence(
    tmp_path: Path, name: str, content: bytes | None, says: list[str]
) -> None:
    path = tmp_path / name if content is None else write(tmp_path, content, name)
    with pytest.raises(InputFault) as fault:
        read_table(path)
    assert all(part in str(fault.value) for part in says), str(fault.value)
    assert_one_sentence(str(fault.value).replace(str(tmp_path), ""))


def test_a_folder_is_no_table(tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(InputFault, match=r"folder\.csv is no"):
        read_table(tmp_path / "folder.csv")


def test_a_parquet_column_of_lists_is_refused(tmp_path: Path) -> None:
    pl.DataFrame({"a": [[1, 2]]}).write_parquet(tmp_path / "loans.parquet")
    with pytest.raises(InputFault, match=r"column a of loans\.parquet"):
        read_table(tmp_path / "loans.parquet")


def test_an_unknown_column_is_answered_with_the_nearest_names(tmp_path: Path) -> None:
    table = loans(tmp_path, "F1,1,train,1,1\n")
    with pytest.raises(InputFault, match=r"loans\.csv has no column labels; did you mean label"):
        table.column("labels")
    with pytest.raises(InputFault, match="has no column zzz; it has uscc, label, split, loan, income"):
        load_firm_table(table, "zzz")


def test_a_firm_table_keeps_every_other_column(tmp_path: Path) -> None:
    firms = load_firm_table(read_table(write(tmp_path, "uscc,a,b\n F1 ,1,x\nF2,,y\n", "firms.csv")), "uscc")
    assert firms.identifiers == ["F1", "F2"] and dict(firms.columns) == {"a": [1, None], "b": ["x", "y"]}


def test_a_loan_table_has_labels_split_and_features(tmp_path: Path) -> None:
    table = as_loans(loans(tmp_path, "\n".join(good_rows())))
    assert table.labels == [0, 1] * 5 and table.split == ["train"] * 8 + ["test"] * 2
    assert list(table.columns) == ["income"] and table.identifiers[3] == "F3"


def test_tables_do_not_show_their_rows(tmp_path: Path) -> None:
    table = loans(tmp_path, "\n".join(good_rows()))
    assert SECRET not in repr(table) + repr(as_loans(table)) + repr(load_firm_table(table, "uscc"))


BAD_LOANS = [
    (with_row(3, f",1,train,L3,{SECRET}"), ["data row 3 of loans.csv", "has no uscc"]),
    (with_row(3, f"NA,1,train,L3,{SECRET}"), ["data row 3 of loans.csv", "has no uscc"]),
    (with_row(4, f"F3,1,train,,{SECRET}"), ["data row 4 of loans.csv", "has no loan"]),
    (with_row(4, f"F3,1,train,L7,{SECRET}"), ["data rows 4 and 8 of loans.csv", "same loan"]),
    (with_row(5, f"F4,{SECRET},train,L4,1"), ["data row 5 of loans.csv", "other than 0 and 1 in label"]),
    (with_row(5, "F4,yes,train,L4,1"), ["data row 5 of loans.csv", "other than 0 and 1 in label"]),
    (with_row(5, "F4,,train,L4,1"), ["data row 5 of loans.csv", "no value in label"]),
    (with_row(6, f"F5,1,{SECRET},L5,1"), ["data row 6 of loans.csv", "neither train nor test in split"]),
    (with_row(6, "F5,1,,L5,1"), ["data row 6 of loans.csv", "neither train nor test in split"]),
    ("F0,0,train,L0,1\nF1,0,train,L1,1\nF2,1,test,L2,1\n", ["loans.csv", "one class only in label", "train"]),
    ("F0,0,test,L0,1\nF1,1,test,L1,1\n", ["loans.csv", "no train rows"]),
]


@pytest.mark.parametrize(("rows", "says"), BAD_LOANS)
def test_a_bad_loan_row_is_refused_by_file_row_and_column_without_its_value(
    tmp_path: Path, rows: str, says: list[str]
) -> None:
    with pytest.raises(InputFault) as fault:
        as_loans(loans(tmp_path, rows))
    assert all(part in str(fault.value) for part in says), str(fault.value)
    assert_one_sentence(str(fault.value))


def coded(change: Callable[[list[str]], None]) -> str:
    codes = list(CODES)
    change(codes)
    return "".join(f"{code},{i % 2},train,L{i},1\n" for i, code in enumerate(codes))


def test_an_invalid_code_among_codes_is_refused_with_its_row_and_rule(tmp_path: Path) -> None:
    def spoil(codes: list[str]) -> None:
        codes[6] = codes[6][:-1] + ("0" if codes[6][-1] != "0" else "1")

    with pytest.raises(InputFault, match=r"the uscc in data row 7 of loans\.csv .*character 18") as fault:
        as_loans(loans(tmp_path, coded(spoil)))
    assert not any(code[:-1] in str(fault.value) for code in CODES)
    assert_one_sentence(str(fault.value))


def test_two_spellings_of_one_code_are_the_same_firm(tmp_path: Path) -> None:
    def repeat(codes: list[str]) -> None:
        codes[9] = codes[2].lower()

    table = loans(tmp_path, coded(repeat))
    with pytest.raises(InputFault, match=r"data rows 3 and 10 of loans\.csv have the same uscc; keep one row a firm"):
        load_firm_table(table, "uscc")
    with pytest.raises(InputFault, match="name the column of loan ids"):
        load_loan_table(table, "uscc", "label", "split", None)
    assert as_loans(table).identifiers[9] == CODES[2]


def test_codes_of_digits_alone_are_read_as_text(tmp_path: Path) -> None:
    digits = [code for n in range(400) if (code := uscc_from("9", "1", "630102", f"{n:08d}")).isdigit()]
    table = read_table(write(tmp_path, "uscc,a\n" + "".join(f"{code},1\n" for code in digits)))
    assert len(digits) > 9 and load_firm_table(table, "uscc").identifiers == digits


def test_without_a_split_column_a_fifth_of_each_class_of_firms_is_for_testing(tmp_path: Path) -> None:
    rows = [f"F{i // 2},{int(i % 10 == 0)},,L{i},1" for i in range(200)]
    table = load_loan_table(loans(tmp_path, "\n".join(rows)), "uscc", "label", None, "loan")
    tested = {firm for firm, part in zip(table.identifiers, table.split, strict=True) if part == "test"}
    learned = {firm for firm, part in zip(table.identifiers, table.split, strict=True) if part == "train"}
    bad = {firm for firm, label in zip(table.identifiers, table.labels, strict=True) if label}
    assert not tested & learned
    assert (len(tested), len(tested & bad)) == (20, 4)
