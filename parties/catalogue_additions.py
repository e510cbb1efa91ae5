"""Additions to a catalogue: what a province or a party adds, and how it may tighten what is there and never loosen it.

An addition is a catalogue file of its own. A field that the base lacks is added. A field that it has is changed where the
addition's row has a value; a column that the addition lacks or leaves empty stays as it was. The merged catalogue is
written in one order, so that the same files give the same bytes, digest and evidence.
"""

import csv
import io

from lianxin.parties.decision import Catalogue, CatalogueRejected, Field
from lianxin.parties.decision_catalogue import CLASSES, is_no_more_open

_ID, _VERSION = "field_name_en", "catalogue_version"
Row = dict[str, str]


def merge_additions(base: Catalogue, *additions: Catalogue) -> Catalogue:
    """Return `base` with the additions merged in, in their order; with none, `base` itself.

    Raises CatalogueRejected naming the addition (when there are several), the line and the column that would loosen a
    field: a freer class or release, fewer identifiers, a longer storage, other subjects, an office, another category.
    """
    merged = base
    for number, addition in enumerate(additions, start=1):
        try:
            merged = _merge(merged, addition)
        except CatalogueRejected as fault:
            raise (CatalogueRejected(f"addition {number}, {fault}") if len(additions) > 1 else fault) from None
    return merged


def _merge(base: Catalogue, addition: Catalogue) -> Catalogue:
    rows = {row[_ID]: row for _, row in _rows(base)}
    columns = [name for found in (base, addition) for name in _columns(found)]
    for line, row in _rows(addition):
        before = rows.get(row[_ID])
        if before is not None:
            row = before | {name: value for name, value in row.items() if value}
            column = loosened_column(Field.from_row(before), Field.from_row(row))
            if column:
                raise CatalogueRejected(
                    f"line {line}, column {column}: an addition may tighten a field, never loosen it"
                )
        rows[row[_ID]] = row
    version = f"{_name_of(base)}+{_name_of(addition)}"
    return _written([*dict.fromkeys(columns), _VERSION], [row | {_VERSION: version} for row in rows.values()])


def _written(columns: list[str], rows: list[Row]) -> Catalogue:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(dict.fromkeys(columns)), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return Catalogue.from_csv_bytes(text.getvalue().encode())


def _reader(catalogue: Catalogue) -> "csv.DictReader[str]":
    return csv.DictReader(io.StringIO(catalogue.to_csv_bytes().decode("utf-8-sig"), newline=""), strict=True)


def _columns(catalogue: Catalogue) -> list[str]:
    return list(_reader(catalogue).fieldnames or ())


def _rows(catalogue: Catalogue) -> list[tuple[int, Row]]:
    reader = _reader(catalogue)
    return [(reader.line_num, row) for row in reader]


def _name_of(catalogue: Catalogue) -> str:
    return catalogue.version or catalogue.digest[:8]


def loosened_column(old: Field, new: Field) -> str:
    """Return the first column in which `new` lets more cross than `old`, "" when none does."""
    subjects, before = set(new.subject_type.split("|")), set(old.subject_type.split("|"))
    checks = {
        "class": CLASSES.index(new.class_) < CLASSES.index(old.class_),
        "default_release": not is_no_more_open(new.default_release, old.default_release),
        "id_role": new.id_role not in (old.id_role, "DI") and old.id_role != "NI",
        "subject_type": subjects not in (before, before | {"NP"}),
        "category": old.category.split()[:1] != new.category.split()[:1],
        "expiry": _is_kept_longer(old, new),
        "duty": new.is_duty and not old.is_duty,
        "desens_if_no_auth": old.transform == "drop" != new.transform,
    }
    return next((column for column, is_looser in checks.items() if is_looser), "")


def _is_kept_longer(old: Field, new: Field) -> bool:
    if not old.expiry:
        return False
    is_moved = old.expiry_from not in ("", new.expiry_from)
    return not new.expiry or is_moved or new.longest_days > old.longest_days
