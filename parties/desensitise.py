"""Desensitisation: a policy applied to a table's columns, and the grade that says how well it hides whom.

1. `apply_policy` transforms value by value: what leaves for one row does not depend on the other rows, so that a query
   for one firm gives what the whole table would. What the policy does not name does not leave.
2. `measure` applies the policy to the whole table and judges the result (`desensitise_risk`); the grade record is what
   the gate asks for before a row leaves in mode DESENSITISED, and what an auditor reads (R22).

A masked or pseudonymous identifier is no direct identifier any more: a mask is counted among the quasi-identifiers, a
pseudonym can only be undone or joined by who holds the key or knows an earlier table of the project. A public table
may hold neither pseudonym nor noise under a key that still exists: it could be restored, and is not anonymised (R14).

The key is the owner's alone (R24), 32 bytes. The grade speaks of the table that was measured: who gets a few of its
rows knows of each that at least k rows of the table look like it.
"""

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from fractions import Fraction
from itertools import chain
from typing import Any

from lianxin.crypto.randomness import SEED_BYTES, derive_seed
from lianxin.federation.errors import InputFault
from lianxin.parties.desensitise_policy import Policy, check_schema, load_policy, policy_of, schema_hash
from lianxin.parties.desensitise_risk import Measurement, evaluate, ppm
from lianxin.parties.desensitise_transforms import Drop, Mask, Noise, Pseudonym, Transform

__all__ = [
    "Columns",
    "Policy",
    "apply_policy",
    "as_text",
    "evaluate_table",
    "grade_record",
    "label_of",
    "load_policy",
    "measure",
    "policy_of",
    "schema_hash",
    "table_hash",
]

Columns = Mapping[str, Sequence[object]]
_EXACT_FLOAT = 2**53


def as_text(value: object) -> str:
    """Return a cell as text, "" where missing; whole floats without a point, larger ones with their exponent."""
    if value is None or value != value:
        return ""
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT_FLOAT:
        return str(int(value))
    return str(value)


def apply_policy(policy: Policy, columns: Columns, key: bytes, seed: bytes = b"") -> dict[str, tuple[str, ...]]:
    """Return the columns that may leave, transformed, rows in their order; "" is missing or suppressed.

    Columns that the policy drops or does not name are absent; `columns` may be some of the policy's. The same key and
    seed give the same values. Raises InputFault for a keyed transform without a key of 32 bytes, and for a policy of
    statistics, which lets no row leave.
    """
    if policy.is_aggregate:
        raise InputFault("this policy lets statistics of groups leave and no row; use a policy without `aggregate`")
    rules = [policy.by_column[name] for name in columns if name in policy.by_column]
    left = [rule for rule in rules if not isinstance(rule, Drop)]
    return {rule.column: transform_column(policy, rule, columns[rule.column], key, seed) for rule in left}


def transform_column(
    policy: Policy, rule: Transform, values: Sequence[object], key: bytes, seed: bytes = b""
) -> tuple[str, ...]:
    """Return one column transformed by `rule`. Raises InputFault for a keyed transform without a key of 32 bytes."""
    if rule.is_keyed and len(key) != SEED_BYTES:
        raise InputFault(f"column {rule.column} needs the owner's key of {SEED_BYTES} bytes; name its file")
    secret = _column_seed(policy, rule, key, seed)
    known: dict[object, str] = {}
    for value in values:
        if value not in known:
            known[value] = _suppressing(rule, as_text(value), secret)
    return tuple([known[value] for value in values])


def _column_seed(policy: Policy, rule: Transform, key: bytes, seed: bytes) -> bytes:
    labels = ("desensitise", policy.project, rule.transform, rule.column)
    return derive_seed(key, *labels, seed) if isinstance(rule, Noise) else derive_seed(key, *labels)


def _suppressing(rule: Transform, text: str, secret: bytes) -> str:
    """Return the transformed value; one on which the transform fails is suppressed, and no error names it."""
    try:
        return rule.apply(text, secret) if text else ""
    except (ValueError, ArithmeticError, LookupError, UnicodeError):
        return ""


def measure(
    policy: Policy,
    columns: Columns,
    key: bytes,
    provider: str,
    measured_at: str,
    model: str | None = None,
    earlier: Sequence[Mapping[str, Sequence[str]]] = (),
    seed: bytes = b"",
) -> dict[str, Any]:
    """Return the grade record of the policy on this whole table, for `model` or the policy's own.

    `earlier` are tables, as transformed, that the same recipient holds: what they say of a row that shares a pseudonym
    is counted among its quasi-identifiers. Raises InputFault for another table than the policy's and one without rows.
    """
    check_schema(policy, list(columns))
    if policy.is_aggregate:
        from lianxin.parties.desensitise_aggregate import measure_groups

        figures = measure_groups(policy, columns, key, model or policy.model)
    else:
        figures = evaluate_table(policy, apply_policy(policy, columns, key, seed), model, earlier)
    return grade_record(policy, figures, table_hash(columns, key), provider, measured_at, model)


def evaluate_table(
    policy: Policy,
    left: Mapping[str, Sequence[str]],
    model: str | None = None,
    earlier: Sequence[Mapping[str, Sequence[str]]] = (),
    is_raw: bool = False,
) -> Measurement:
    """Return the figures of columns as they leave, or of the raw ones for a comparison, by the policy's roles.

    Raises InputFault when there is no row, or columns differ in length.
    """
    model = model or policy.model
    rules = [policy.by_column[name] for name in left]
    quasi = (left[rule.column] for rule in rules if rule.role == "quasi" or (not is_raw and _is_shared(rule)))
    held = (column for table in earlier for column in _held_already(rules, left, table))
    sensitive = (left[rule.column] for rule in rules if rule.role == "sensitive")
    identified = any(rule.role == "identifier" if is_raw else _is_direct(rule) for rule in rules)
    context = Fraction(policy.context_ppm, 1_000_000)
    barred = () if is_raw else _barred(rules, model)
    return evaluate(rows_of(left), chain(quasi, held), sensitive, model, context, barred, identified)


def rows_of(columns: Mapping[str, Sequence[object]]) -> int:
    """Return how many rows the columns have. Raises InputFault when there is none, or they differ."""
    lengths = {len(column) for column in columns.values()}
    if len(lengths) > 1:
        raise InputFault("the table's columns have different numbers of rows; mend the table")
    if not lengths or 0 in lengths:
        raise InputFault("nothing is left of the table, no row or no column; there is nothing to measure")
    return lengths.pop()


def _is_direct(rule: Transform) -> bool:
    return rule.role == "identifier" and not isinstance(rule, Drop | Mask | Pseudonym)


def _is_shared(rule: Transform) -> bool:
    """Whether the classes are made by this column, so that every row of a class has its value."""
    is_masked = rule.role == "identifier" and isinstance(rule, Mask)
    return not isinstance(rule, Drop) and (rule.role == "quasi" or is_masked)


def _barred(rules: Sequence[Transform], model: str) -> tuple[str, ...]:
    direct = [f"column {rule.column} is a direct identifier and stays" for rule in rules if _is_direct(rule)]
    keyed = [
        f"column {rule.column} could be restored with the key, which no public table allows"
        for rule in rules
        if rule.is_keyed and model == "public"
    ]
    return (*direct, *keyed)


def _held_already(
    rules: Sequence[Transform], left: Mapping[str, Sequence[str]], earlier: Mapping[str, Sequence[str]]
) -> list[list[str]]:
    """Return what an earlier table says of each row through a pseudonym that both have, a column each; "" of none.

    Every earlier column counts, but for those that leave again now as sensitive or other.
    """
    shared = [rule.column for rule in rules if isinstance(rule, Pseudonym) and rule.column in earlier]
    if not shared:
        return []
    joint, open_now = shared[0], {rule.column for rule in rules if rule.role in ("sensitive", "other")}
    names = [name for name in earlier if name not in shared and name not in open_now]
    rows = dict(zip(earlier[joint], zip(*(earlier[name] for name in names), strict=True), strict=False))
    none = ("",) * len(names)
    joined = [rows.get(pseudonym, none) for pseudonym in left[joint]]
    return [list(column) for column in zip(*joined, strict=True)]


def grade_record(
    policy: Policy, figures: Measurement, hash_of_table: str, provider: str, measured_at: str, model: str | None = None
) -> dict[str, Any]:
    """Return the grade record (docs/records.md) of these figures: whole numbers, shares in millionths rounded up."""
    rows = [] if policy.is_aggregate else [rule for rule in policy.rules if not isinstance(rule, Drop)]
    return {
        "type": "desensitisation-grade", "version": 1, "provider": provider, "policy_hash": policy.hash,
        "table_hash": hash_of_table, "model": model or policy.model,
        "fields": {rule.column: rule.written() for rule in rows},
        "quasi": sorted(rule.column for rule in rows if _is_shared(rule)), "rows": figures.rows, "classes": figures.classes,
        "k": figures.k, "l": figures.l, "t_ppm": ppm(figures.t), "theta_max_ppm": ppm(figures.theta_max),
        "classes_above_ppm": ppm(figures.above), "risk_ppm": ppm(figures.risk), "grade": figures.grade,
        "accepted": figures.accepted, "measured_at": measured_at,
    }  # fmt: skip


def label_of(grade: Mapping[str, Any]) -> str:
    """Return what a table of this grade may be called: only what is accepted for the public is `anonymised` (R14)."""
    if not grade["accepted"]:
        return "not desensitised"
    return "anonymised" if grade["model"] == "public" else "deidentified"


def table_hash(columns: Columns, key: bytes) -> str:
    """Return HMAC-SHA-256 under `key` of the table's cells: it tells two tables apart and confirms no guess of one."""
    digest = hmac.new(key, b"lianxin/desensitised-table\x00", hashlib.sha256)
    for name in sorted(columns):
        column = columns[name]
        digest.update(_framed(name) + len(column).to_bytes(8, "big"))
        digest.update(b"".join([_framed(as_text(value)) for value in column]))
    return digest.hexdigest()


def _framed(text: str) -> bytes:
    data = text.encode("utf-8", "surrogatepass")
    return len(data).to_bytes(4, "big") + data
