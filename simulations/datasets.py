"""Public data sets as the parties of a run, for benchmarks: which columns each side holds, under which ids.

- `taiwan`: the platform has all 23 fields of the raw table (Yeh, 2009), the bank the label alone.
- `taiwan_fate`: the platform has the ten fields of FATE's host, the bank the thirteen of its guest and the label.
- `polish`: the bank has 20 ratios of the balance sheet; of the 44 that tax, sales and cost filings hold, the platform has
  those with the fewest gaps, as many as the N/10 rule allows.
- `sba`: the platform has public registers, the banks are the three with most loans (see `sba`).
- `gmsc`: Give Me Some Credit; the platform has the five fields of FATE's host, the bank five of its guest and the label.

Files lie in a folder that the caller names, in the form of its README. Nothing is learned from labels here: the Polish
fields are chosen by their gaps, ties in the file's order, ⌊N/10/(rounds + bins)⌋ of them for N training rows.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lianxin.federation.errors import InputFault
from lianxin.parties.records import Table, read_table
from lianxin.simulations.sba import map_sba
from lianxin.simulations.tables import Inputs, check_inputs, write_table
from lianxin.simulations.world import stream

ROUNDS, BINS = 6, 8
_POLISH_BANK = (2, 3, 4, 6, 8, 10, 17, 25, 28, 29, 37, 38, 40, 46, 50, 51, 53, 54, 55, 59)
_GMSC_BANK = (
    "NumberOfOpenCreditLinesAndLoans", "NumberOfTimes90DaysLate", "NumberRealEstateLoansOrLines",
    "NumberOfTime60-89DaysPastDueNotWorse", "NumberOfDependents",
)  # fmt: skip
_GMSC_PLATFORM = (
    "RevolvingUtilizationOfUnsecuredLines", "age", "NumberOfTime30-59DaysPastDueNotWorse", "DebtRatio", "MonthlyIncome",
)  # fmt: skip
_GAPS = (None, "", "NA")
Columns = Mapping[str, Sequence[Any]]


@dataclass(frozen=True)
class Source:
    """One set: its files, its columns for row id, label and split, what each side holds, and the least bins a feature."""

    files: tuple[str, ...]
    label: str
    chosen: Callable[[Table, int], tuple[list[str], list[str]]]
    row_id: str
    bins: int = BINS


def _taiwan(table: Table, _rows: int) -> tuple[list[str], list[str]]:
    return [name for name in table.columns if name not in ("id", "y", "split")], []


def _polish(table: Table, rows: int) -> tuple[list[str], list[str]]:
    bank = [f"Attr{number}" for number in _POLISH_BANK]
    others = [name for name in table.columns if name.startswith("Attr") and name not in bank]
    gaps = {name: sum(value in _GAPS for value in table.column(name)) for name in others}
    most = max(1, rows // 10 // (ROUNDS + BINS))
    kept = sorted(others, key=lambda name: (gaps[name], others.index(name)))[:most]
    return [name for name in others if name in kept], bank


def _gmsc(_table: Table, _rows: int) -> tuple[list[str], list[str]]:
    return list(_GMSC_PLATFORM), list(_GMSC_BANK)


SOURCES: Mapping[str, Source] = {
    "taiwan": Source(("taiwan_default_raw.csv.gz",), "y", _taiwan, "id"),
    "taiwan_fate": Source(("taiwan_default_raw.csv.gz", "taiwan_default_fate_guest.csv.gz",
                           "taiwan_default_fate_host.csv.gz"), "y", _taiwan, "id"),
    "polish": Source(("polish_bankruptcy_5year.csv.gz",), "bankrupt", _polish, "firm_id"),
    "gmsc": Source(("give_me_some_credit.csv.gz",), "SeriousDlqin2yrs", _gmsc, "id"),
}  # fmt: skip
NAMES = ("taiwan", "taiwan_fate", "polish", "sba", "gmsc")
SBA_FILE, SBA_BANKS = "sba_loans.csv.gz", 3


def map_dataset(name: str, folder: Path, out: Path, rows: int | None = None, seed: int = 1) -> Inputs:
    """Write the parties' tables of a set to `out` and return the inputs; `rows` keeps that many, drawn by `seed`.

    Raises InputFault for an unknown set, a file that is not in `folder`, or a column that a file lacks.
    """
    if name not in NAMES:
        raise InputFault(f"--data is one of {', '.join(NAMES)}, or all; {name} is none")
    out.mkdir(parents=True, exist_ok=True)
    if name == "sba":
        return map_sba(_file(folder, SBA_FILE), out, SBA_BANKS)
    source = SOURCES[name]
    tables = [read_table(_file(folder, file)) for file in source.files]
    main = tables[0]
    _check(main, [source.row_id, source.label, "split"])
    kept = _drawn(main.rows, rows, seed)
    ids = [f"firm-{value}" for value in main.column(source.row_id)]
    roles = {"firm_id": ids, "label_bad": main.column(source.label), "split": main.column("split")}
    platform, bank = _sides(name, source, tables)
    at = {role: [values[row] for row in kept] for role, values in roles.items()}
    write_table(out / "platform.csv.gz", {"firm_id": at["firm_id"], **_at(platform, kept)})
    write_table(out / "bank-1.csv.gz", {**at, **_at(bank, kept)})
    return check_inputs(out / "platform.csv.gz", [out / "bank-1.csv.gz"], "firm_id", "label_bad", "split")


def _file(folder: Path, name: str) -> Path:
    path = folder / name
    if not path.is_file():
        raise InputFault(f"{path} is missing; give --folder the folder with the public data sets")
    return path


def _check(table: Table, names: Sequence[str]) -> None:
    absent = [name for name in names if name not in table.columns]
    if absent:
        raise InputFault(f"{table.file} lacks {', '.join(absent)}; give the table in its published form")


def _drawn(total: int, rows: int | None, seed: int) -> list[int]:
    if rows is None or rows >= total:
        return list(range(total))
    return sorted(stream(seed, "dataset-rows").choice(total, rows, replace=False).tolist())


def _sides(name: str, source: Source, tables: Sequence[Table]) -> tuple[Columns, Columns]:
    main = tables[0]
    if name == "taiwan_fate":
        order = {value: row for row, value in enumerate(map(str, main.column(source.row_id)))}
        return _joined(tables[2], "host", order), _joined(tables[1], "guest", order)
    train = sum(split == "train" for split in main.column("split"))
    platform, bank = source.chosen(main, train)
    _check(main, [*platform, *bank])
    return {n: _values(main, n) for n in platform}, {n: _values(main, n) for n in bank}


def _joined(table: Table, side: str, order: Mapping[str, int]) -> Columns:
    """Return one of FATE's tables in the order of the raw one; both sides call their columns x0, x1, …"""
    _check(table, ["id", "x0"])
    places = [order[str(value)] for value in table.column("id")]
    columns: dict[str, list[Any]] = {}
    for name in [column for column in table.columns if column.startswith("x")]:
        values: list[Any] = [None] * len(order)
        for place, value in zip(places, table.column(name), strict=True):
            values[place] = value
        columns[f"{side}_{name}"] = values
    return columns


def _values(table: Table, name: str) -> list[Any]:
    return [None if value in _GAPS else value for value in table.column(name)]


def _at(columns: Columns, rows: Sequence[int]) -> dict[str, list[Any]]:
    return {name: [values[row] for row in rows] for name, values in columns.items()}
