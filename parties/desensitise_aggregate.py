"""Statistics of groups: what leaves under a policy with `aggregate` is a row a group, and no row of the table.

Rows are grouped by the policy's quasi-identifiers, as transformed. A group of fewer rows than `minimum_group` (20 at
least) is left out. Of each `aggregate` column leaves its sum or mean over the rows of the group that have a number, to
a few significant digits, and only where at least `minimum_group` rows have one. Groups are sorted by their values.

A group's statistic can still be told apart from another table's over nearly the same rows; an owner who publishes one
every week must compare them. One large member can dominate a sum: few significant digits soften that and do not end it.
"""

from collections.abc import Mapping, Sequence
from decimal import ROUND_HALF_EVEN, Context, Decimal
from fractions import Fraction

from lianxin.federation.errors import InputFault
from lianxin.parties.desensitise import as_text, rows_of, transform_column
from lianxin.parties.desensitise_numbers import number, written
from lianxin.parties.desensitise_policy import Policy
from lianxin.parties.desensitise_risk import MOST_CAREFUL, Measurement, judge
from lianxin.parties.desensitise_transforms import Aggregate, Drop, Transform

COUNT = "rows"
_Groups = dict[tuple[str, ...], list[int]]


def aggregate(policy: Policy, columns: Mapping[str, Sequence[object]], key: bytes) -> dict[str, tuple[str, ...]]:
    """Return a column for each quasi-identifier, `rows`, and one for each statistic (`mean_of_…`, `sum_of_…`).

    Raises InputFault when no group is large enough.
    """
    groups = _groups(policy, columns, key)
    order = sorted(groups)
    by = [rule.column for rule in _grouping(policy)]
    result = {name: tuple([values[place] for values in order]) for place, name in enumerate(by)}
    result[COUNT] = tuple([str(len(groups[values])) for values in order])
    for rule in policy.rules:
        if isinstance(rule, Aggregate):
            cells = [number(as_text(value)) for value in columns[rule.column]]
            made = [_statistic(rule, [cells[row] for row in groups[values]], policy.minimum_group) for values in order]
            result[f"{rule.statistic}_of_{rule.column}"] = tuple(made)
    return result


def measure_groups(policy: Policy, columns: Mapping[str, Sequence[object]], key: bytes, model: str) -> Measurement:
    """Return the figures of what `aggregate` lets leave: classes are groups, and the grade 4 where it is accepted."""
    groups = _groups(policy, columns, key)
    sizes: dict[int, int] = {}
    for rows in groups.values():
        sizes[len(rows)] = sizes.get(len(rows), 0) + 1
    above, risk, reasons = judge(sizes, model, MOST_CAREFUL)
    k, covered = min(sizes), sum(map(len, groups.values()))
    return Measurement(
        covered,
        len(groups),
        k,
        0,
        Fraction(0),
        Fraction(1, k),
        above,
        risk,
        2 if reasons else 4,
        not reasons,
        sizes,
        reasons,
    )


def _grouping(policy: Policy) -> list[Transform]:
    return [rule for rule in policy.rules if rule.role == "quasi" and not isinstance(rule, Drop)]


def _groups(policy: Policy, columns: Mapping[str, Sequence[object]], key: bytes) -> _Groups:
    rows, by = rows_of(columns), _grouping(policy)
    transformed = [transform_column(policy, rule, columns[rule.column], key) for rule in by]
    found: _Groups = {}
    for row, values in enumerate(zip(*transformed, strict=True) if by else [()] * rows):
        found.setdefault(values, []).append(row)
    large = {values: members for values, members in found.items() if len(members) >= policy.minimum_group}
    if not large:
        raise InputFault(f"no group has {policy.minimum_group} rows; group by fewer or coarser columns")
    return large


def _statistic(rule: Aggregate, cells: Sequence[Decimal | None], least: int) -> str:
    present = [cell for cell in cells if cell is not None]
    if len(present) < least:
        return ""
    exact = Context(prec=200)
    total = Decimal(0)
    for cell in present:
        total = exact.add(total, cell)
    value = exact.divide(total, Decimal(len(present))) if rule.statistic == "mean" else total
    return written(Context(prec=rule.digits, rounding=ROUND_HALF_EVEN).plus(value))
