"""How good the data of a platform's sources are: one look at a table, compared with the catalogue, the promises and the load
before.

    schema      columns that the catalogue does not have (R13: never used), promised fields that the table lacks, columns
                whose type is another than at the load before
    codes       identifiers that are no valid code, firms that stand twice
    lag         days since the newest date of a source (its column `date`, else the file's own time) beyond what it promised
    missing     empty cells of each field, in permille, and how far that moved since the load before
    disputed    values under objection, and repaired ones, by field (R27)

A finding has a level (`ok`, `warn`, `fail`) and what to do. No finding names a value, a row or a firm; counts of firms are
shown in tens. The table is read in pieces; of its identifiers a hash of eight bytes each is in memory.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from lianxin.parties.decision_catalogue import Catalogue
from lianxin.parties.operator_suppression import LEAST, shown
from lianxin.parties.source_quality_table import Column, Look
from lianxin.parties.source_quality_terms import Source, source_of

OK, WARN, FAIL = "ok", "warn", "fail"
LEVELS = (OK, WARN, FAIL)
MOVED_PERMILLE = 100
BAD_CODES_PERMILLE = 10
Record = dict[str, Any]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: `where` is a column, a source or the table; `remedy` is empty for what is well."""

    check: str
    where: str
    level: str
    said: str
    remedy: str = ""

    @property
    def record(self) -> Record:
        """The finding as plain values."""
        return dict(vars(self))


def judge(
    look: Look, catalogue: Catalogue, sources: Sequence[Source], id_column: str, today: str,
    objections: Sequence[Mapping[str, Any]] = (), before: Mapping[str, Any] | None = None,
) -> list[Finding]:  # fmt: skip
    """Return what there is to say of a table: `look` at it, `before` is the record of the load before, if any."""
    fields = {name: column for name, column in look.columns.items() if name != id_column}
    earlier = {one["name"]: one for one in (before or {}).get("columns", ())}
    return [
        *_schema(fields, catalogue, sources, earlier),
        *_codes(look, id_column),
        *(_lag(one, look, today) for one in sources),
        *_missing(fields, look.rows, catalogue, sources, earlier),
        *_objections(fields, objections),
    ]


def worst(findings: Sequence[Finding]) -> str:
    """Return the gravest level of these findings."""
    return max((one.level for one in findings), key=LEVELS.index, default=OK)


def load_record(look: Look, findings: Sequence[Finding], at: str) -> Record:
    """Return what is kept of a load: digest and shape of the table, the share of missing cells, the findings; no value."""
    columns = [
        {"name": name, "kind": one.kind, "missing_permille": shown_permille(one.missing, look.rows)}
        for name, one in look.columns.items()
    ]
    return {
        "type": "source-load", "version": 1, "at": at, "table_sha256": look.digest, "rows": shown(look.rows),
        "columns": columns, "findings": [one.record for one in findings], "level": worst(findings),
    }  # fmt: skip


def shown_permille(part: int, rows: int) -> int:
    """Return a share in permille, as if less than `LEAST` on either side were none or all: they are single firms."""
    if part < LEAST:
        return 0
    return 1000 if rows - part < LEAST else part * 1000 // rows


def _schema(
    fields: Mapping[str, Column], catalogue: Catalogue, sources: Sequence[Source], earlier: Mapping[str, Any]
) -> Iterator[Finding]:
    extra = sorted(name for name in fields if name not in catalogue)
    for name in extra:
        yield Finding(
            "schema", name, WARN, "the catalogue has no such field", "give it a class, or leave the column out (R13)"
        )
    for one in sources:
        for name in one.fields:
            if name not in fields:
                said = f"{one.name} promised it and the table lacks it"
                yield Finding(
                    "schema", name, FAIL, said, f"ask {one.contact or one.name}, or take it out of the sources"
                )
    for name, column in fields.items():
        kind = earlier.get(name, {}).get("kind", column.kind)
        if kind not in (column.kind, "empty") and column.kind != "empty":
            remedy = "ask the source what changed; bins were fitted to the other type"
            yield Finding("schema", name, FAIL, f"was {kind} at the load before and is {column.kind}", remedy)
    for name in sorted(set(earlier) - set(fields)):
        if not any(name in one.fields for one in sources) and name in catalogue:
            yield Finding("schema", name, WARN, "was in the load before and is gone", "ask its source whether it ended")


def _codes(look: Look, id_column: str) -> Iterator[Finding]:
    if id_column not in look.columns:
        yield Finding("codes", id_column, FAIL, "the table has no such column", "name the column of firms in [data] id")
        return
    bad, twice = look.codes.bad, look.codes.twice
    level = FAIL if bad * 1000 > look.rows * BAD_CODES_PERMILLE else WARN if bad else OK
    remedy = "correct the codes at their source (GB 32100); a node refuses a table with one" if bad else ""
    yield Finding("codes", id_column, level, f"{shown(bad)} of {shown(look.rows)} rows have no valid code", remedy)
    remedy = "keep one row a firm; a node refuses a table with two" if twice else ""
    yield Finding("duplicates", id_column, FAIL if twice else OK, f"{shown(twice)} rows repeat a firm", remedy)


def _lag(source: Source, look: Look, today: str) -> Finding:
    newest = (
        look.columns[source.date].newest if source.date in look.columns else look.written if not source.date else ""
    )
    if not newest:
        remedy = f"name a column of dates (2026-01-31) in `date`, or ask {source.contact or source.name}"
        return Finding("lag", source.name, FAIL, "nothing says of when its data are", remedy)
    days = (date.fromisoformat(today) - date.fromisoformat(newest)).days
    level = OK if 0 <= days <= source.every_days else WARN if 0 <= days <= 2 * source.every_days else FAIL
    said = f"newest {newest}, {days} days ago; promised every {source.every_days} days"
    remedy = f"ask {source.contact or source.name} for the load that is due"
    if days < 0:
        said, remedy = f"newest {newest} is in the future", "correct the dates at their source"
    return Finding("lag", source.name, level, said, "" if level == OK else remedy)


def _missing(
    fields: Mapping[str, Column], rows: int, catalogue: Catalogue, sources: Sequence[Source], earlier: Mapping[str, Any]
) -> Iterator[Finding]:
    limits, owner = (
        {name: one.missing_permille for one in sources for name in one.fields},
        source_of(catalogue, sources),
    )
    for name, column in fields.items():
        share = shown_permille(column.missing, rows)
        before = earlier.get(name, {}).get("missing_permille", share)
        is_over, has_moved = share > limits.get(name, 1000), abs(share - before) > MOVED_PERMILLE
        level = FAIL if share == 1000 and rows else WARN if is_over or has_moved else OK
        said = f"{share} permille missing" + (f", {before} at the load before" if has_moved else "")
        yield Finding("missing", name, level, said, "" if level == OK else f"ask {owner.get(name, 'its source')} why")


def _objections(fields: Mapping[str, Column], objections: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    states = Counter((one["field"], one["state"]) for one in objections)
    for name in fields:
        disputed, repaired = states[name, "disputed"], states[name, "repaired"]
        if disputed or repaired:
            remedy = "answer them in time: `lianxin boundary objection list`" if disputed else ""
            said = f"{shown(disputed)} values disputed, {shown(repaired)} repaired"
            yield Finding("disputed", name, WARN if disputed else OK, said, remedy)
