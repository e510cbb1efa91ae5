"""One table from file to file: read, transformed a column at a time, measured before and after, written whole.

Nothing is written of a table whose grade the sharing model does not accept (R22). Memory holds the file, the table that
leaves, and one raw column.
"""

import os
import re
import stat
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import polars as pl

from lianxin.crypto.randomness import SEED_BYTES
from lianxin.federation.errors import InputFault
from lianxin.parties.desensitise import Policy, evaluate_table, grade_record, rows_of, table_hash, transform_column
from lianxin.parties.desensitise_aggregate import aggregate, measure_groups
from lianxin.parties.desensitise_policy import check_schema
from lianxin.parties.desensitise_risk import Measurement
from lianxin.parties.desensitise_transforms import Drop
from lianxin.parties.records import Table, read_table

ENDINGS = (".csv", ".parquet")


class RawColumns(Mapping[str, Sequence[str]]):
    """A table's columns as text, each made when it is asked for."""

    def __init__(self, table: Table, names: Sequence[str] | None = None) -> None:
        self._table, self._names = table, tuple(table.columns if names is None else names)

    def __getitem__(self, name: str) -> Sequence[str]:
        return [text or "" for text in self._table.text(name)]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


@dataclass(frozen=True)
class ColumnFigures:
    """What became of one column: `suppressed` values did not fit their transform, `single` values occur once."""

    column: str
    role: str
    transform: str
    technique: str
    suppressed: int
    single: int


@dataclass(frozen=True)
class Outcome:
    """A desensitised table before it is written; `unnamed` are columns that the policy does not name."""

    policy: Policy
    grade: dict[str, Any]
    before: Measurement
    after: Measurement
    columns: tuple[ColumnFigures, ...]
    unnamed: tuple[str, ...]
    left: Mapping[str, Sequence[str]] = field(repr=False)
    canaries: int = 0

    def with_canaries(self, left: Mapping[str, Sequence[str]], canaries: int) -> "Outcome":
        """Return the outcome with canary rows among what leaves; the grade counts none of them."""
        return replace(self, left=left, canaries=canaries)


def desensitise_table(
    policy: Policy, path: Path, key: bytes, provider: str, measured_at: str, earlier: Sequence[Path] = ()
) -> Outcome:
    """Return what the policy makes of the table in `path`, and its grade; `earlier` are tables that left before.

    Raises InputFault for a table that cannot be read or is not the policy's.
    """
    table = read_table(path)
    check_schema(policy, table.columns)
    raw = RawColumns(table)
    named = RawColumns(table, [name for name in table.columns if name in policy.by_column])
    before = evaluate_table(policy, named, is_raw=True)
    left, figures = _transformed(policy, named, key)
    held = [dict(RawColumns(read_table(one))) for one in earlier]
    if policy.is_aggregate:
        after, left = measure_groups(policy, named, key, policy.model), aggregate(policy, named, key)
    else:
        after = evaluate_table(policy, left, earlier=held)
    grade = grade_record(policy, after, table_hash(raw, key), provider, measured_at)
    unnamed = tuple(name for name in table.columns if name not in policy.by_column)
    return Outcome(policy, grade, before, after, figures, unnamed, left)


def _transformed(
    policy: Policy, named: Mapping[str, Sequence[str]], key: bytes
) -> tuple[dict[str, tuple[str, ...]], tuple[ColumnFigures, ...]]:
    left, figures = {}, []
    for name in named:
        rule, values = policy.by_column[name], named[name]
        made = transform_column(policy, rule, values, key)
        stays = not isinstance(rule, Drop) and not policy.is_aggregate
        suppressed = sum(1 for value, cell in zip(values, made, strict=True) if value and not cell) if stays else 0
        single = sum(1 for value, rows in Counter(made).items() if value and rows == 1) if stays else 0
        figures.append(ColumnFigures(name, rule.role, rule.written(), rule.technique, suppressed, single))
        if stays:
            left[name] = made
    return left, tuple(figures)


def check_out(out: Path) -> None:
    """Raise InputFault unless `out` is a new .csv or .parquet file in a folder that is there."""
    if out.suffix.lower() not in ENDINGS:
        raise InputFault(f"{out} is no .csv or .parquet file; name the result so")
    if out.exists():
        raise InputFault(f"{out} exists already; remove it or choose another name")
    if not out.parent.is_dir():
        raise InputFault(f"{out.parent} is no folder; make it first")


def write_table(out: Path, left: Mapping[str, Sequence[str]]) -> None:
    """Write the columns to `out`, whole or not at all; suppressed values are empty cells. Raises InputFault."""
    rows_of(left)
    frame = pl.DataFrame({name: pl.Series(name, column, dtype=pl.String) for name, column in left.items()})
    frame = frame.select(pl.when(pl.all() != "").then(pl.all()).name.keep())
    partial = out.with_name(out.name + ".partial")
    try:
        if out.suffix.lower() == ".parquet":
            frame.write_parquet(partial)
        else:
            frame.write_csv(partial)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(out)
    except OSError as fault:
        with suppress(OSError):
            partial.unlink()
        raise InputFault(f"{out} cannot be written ({fault.strerror}); choose another place") from None


def load_key(path: Path) -> bytes:
    """Return the 32 bytes of a key file: 64 hex digits, mode 600. Raises InputFault."""
    try:
        mode = path.stat().st_mode
        with path.open("rb") as file:
            text = file.read(4096).decode("ascii", "replace").rstrip("\r\n")
    except OSError:
        raise InputFault(f"{path} cannot be read; make a key with `lianxin desensitise key {path}`") from None
    if stat.S_IMODE(mode) & 0o077:
        raise InputFault(f"{path} can be read by others; set its mode to 600")
    if not re.fullmatch(rf"[0-9a-f]{{{2 * SEED_BYTES}}}", text):
        raise InputFault(f"{path} is no key file: it holds {2 * SEED_BYTES} lower-case hex digits and nothing else")
    return bytes.fromhex(text)
