"""A user's own tables as the parties of a run: everything that can be refused is refused before a byte is written."""

import gzip
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from lianxin.federation.errors import InputFault
from lianxin.parties.records import Table, load_firm_table, load_loan_table, read_table

_PARTY_MIN, _PARTY_MAX = 3, 64
COORDINATOR = "coordinator"  # the platform of a run across banks, which has no table


@dataclass(frozen=True)
class PartyInput:
    """One party's table: where it lies (None: it has none), how many rows it has, and which columns are its features."""

    party: str
    path: Path | None
    rows: int
    features: tuple[str, ...]

    @property
    def file(self) -> Path:
        """Where its table lies, of a party that has one."""
        assert self.path is not None, f"{self.party} has no table"
        return self.path


@dataclass(frozen=True)
class Inputs:
    """The checked tables of a run: one platform, one or more banks, and the names of the columns with a role."""

    platform: PartyInput
    banks: tuple[PartyInput, ...]
    id_column: str
    label_column: str
    split_column: str | None
    loan_id_column: str | None

    @property
    def holders(self) -> list[PartyInput]:
        """The parties that have a table, the platform first where it has one."""
        return [party for party in (self.platform, *self.banks) if party.path is not None]


def check_network_inputs(
    banks: Sequence[Path], id_column: str, label_column: str, split_column: str | None, loan_id_column: str | None, least: int
) -> tuple[Inputs, tuple[str, ...]]:  # fmt: skip
    """Return banks' tables under a platform without one, and the columns left out since not every bank has them.

    Raises InputFault on the first fault found, fewer than `least` banks among them.
    """
    if len(banks) < least:
        raise InputFault(
            f"a network is trained across {least} banks or more, and {len(banks)} --bank tables were given: a sum of fewer "
            "shows each bank the other's update"
        )
    roles = [role for role in (id_column, label_column, split_column, loan_id_column) if role is not None]
    _check_roles(roles)
    found = [_bank_input(path, id_column, label_column, split_column, loan_id_column) for path in banks]
    _check_distinct([PartyInput(COORDINATOR, None, 0, ()), *found])
    shared = tuple(name for name in found[0].features if all(name in bank.features for bank in found))
    if not shared:
        raise InputFault(
            "the banks' tables have no column in common beside id and label; a network needs the same columns"
        )
    _check_kinds(found, shared)
    alike = tuple(replace(bank, features=shared) for bank in found)
    left = sorted({name for bank in found for name in bank.features} - set(shared))
    platform = PartyInput(COORDINATOR, None, 0, ())
    return Inputs(platform, alike, id_column, label_column, split_column, loan_id_column), tuple(left)


def _check_kinds(banks: Sequence[PartyInput], shared: Sequence[str]) -> None:
    """Raise InputFault, naming file and row, for a column that holds numbers at one bank and text at another."""
    tables = [read_table(bank.file) for bank in banks]
    for name in shared:
        texts = {table.file: table.first_text(name) for table in tables}
        numbers = [table.file for table in tables if texts[table.file] is None and _has_value(table, name)]
        odd = {file: row for file, row in texts.items() if row is not None}
        if numbers and odd:
            where = ", ".join(f"{file} (first in data row {row})" for file, row in odd.items())
            raise InputFault(
                f"column {name} holds numbers in {numbers[0]} and text in {where}; leave the cell empty where a number is "
                "missing, or give the column one kind in every table"
            )


def _has_value(table: Table, name: str) -> bool:
    return any(value is not None for value in table.column(name))


def check_inputs(
    platform: Path,
    banks: Sequence[Path],
    id_column: str,
    label_column: str,
    split_column: str | None = None,
    loan_id_column: str | None = None,
) -> Inputs:
    """Return the parties and features of these tables; raises InputFault, one sentence, on the first fault found.

    Party ids come from the file names; every column without a role is a feature. Whether the tables share firms is
    not judged here: the parties find that out by matching.
    """
    roles = (id_column, label_column, split_column, loan_id_column)
    _check_roles([role for role in roles if role is not None])
    if not banks:
        raise InputFault("no bank's table was given; name at least one")
    platform_input = _platform_input(platform, id_column, label_column, {r for r in roles if r is not None})
    bank_inputs = tuple(_bank_input(path, id_column, label_column, split_column, loan_id_column) for path in banks)
    _check_distinct([platform_input, *bank_inputs])
    return Inputs(platform_input, bank_inputs, id_column, label_column, split_column, loan_id_column)


def _check_roles(roles: Sequence[str]) -> None:
    for place, role in enumerate(roles):
        if role in roles[:place]:
            raise InputFault(f"column {role} is named for two roles; id, label, split and loan id are four columns")


def _platform_input(path: Path, id_column: str, label_column: str, roles: set[str]) -> PartyInput:
    table = read_table(path)
    if label_column in table.columns:
        raise InputFault(f"{table.file} has the label column {label_column}; labels stay at the banks, so remove it")
    firms = load_firm_table(table, id_column)
    features = tuple(name for name in firms.columns if name not in roles)
    return _party(path, table.name, table.rows, features)


def _bank_input(
    path: Path, id_column: str, label_column: str, split_column: str | None, loan_id_column: str | None
) -> PartyInput:
    table = read_table(path)
    loans = load_loan_table(table, id_column, label_column, split_column, loan_id_column)
    return PartyInput(party_id(table.name, path.name), path, table.rows, tuple(loans.columns))


def _party(path: Path, stem: str, rows: int, features: tuple[str, ...]) -> PartyInput:
    if not features:
        raise InputFault(f"{path.name} has no column left to use as a feature; add at least one")
    return PartyInput(party_id(stem, path.name), path, rows, features)


def party_id(stem: str, source: str) -> str:
    """Return `stem` as a party id (`[a-z0-9-]{3,64}`); `source` is what an InputFault names when nothing is left."""
    plain = re.sub(r"[^a-z0-9]+", "-", stem.lower()).strip("-")
    if not plain:
        raise InputFault(f"the name of {source} has no letter a-z or digit to make a party id of; rename it")
    padded = plain if len(plain) >= _PARTY_MIN else f"party-{plain}"
    return padded[:_PARTY_MAX].rstrip("-")


def _check_distinct(parties: Iterable[PartyInput]) -> None:
    seen: dict[str, str] = {}
    for entry in parties:
        if entry.party in seen:
            files = f"{seen[entry.party]} and {_file_of(entry)}"
            raise InputFault(f"{files} both make the party id {entry.party}; rename one")
        seen[entry.party] = _file_of(entry)


def _file_of(entry: PartyInput) -> str:
    return "the platform's name" if entry.path is None else entry.path.name


def write_table(path: Path, columns: Mapping[str, Sequence[Any]]) -> None:
    """Write `columns` as a gzip CSV whose bytes depend on the values alone: no time and no file name inside."""
    plain = io.BytesIO()
    pl.DataFrame({name: list(values) for name, values in columns.items()}, strict=False).write_csv(plain)
    with path.open("wb") as raw, gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as packed:
        packed.write(plain.getvalue())
