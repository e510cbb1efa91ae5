"""What becomes of the values of a release whose fields and firms may cross, before anything leaves.

In this order: an item whose period has passed is withheld (R21), so is a disputed one whose answer is overdue (R27); what
is disputed is marked; in mode DESENSITISED the policy's transforms are applied last, to what is left. Withheld means None
in the place of the value: the row keeps its place.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import compress
from typing import Any

from lianxin.parties.boundary_grades import Desensitiser
from lianxin.parties.decision import Catalogue
from lianxin.parties.retention import expiring_fields

Columns = Mapping[str, Sequence[Any]]


@dataclass(frozen=True)
class Values:
    """The columns that leave; the firms whose value is disputed by field; (field, rule, firms) of what was withheld."""

    columns: Mapping[str, Sequence[Any]] = field(repr=False)
    disputed: Mapping[str, frozenset[str]] = field(default_factory=dict, repr=False)
    withheld: tuple[tuple[str, str, int], ...] = ()

    def leaf_keys(self) -> dict[str, Any]:
        """Return what the release leaf says of it: optional keys, absent where there is nothing to say."""
        expired = [{"field": name, "firms": firms} for name, rule, firms in self.withheld if rule == "R21"]
        overdue = [{"field": name, "firms": firms} for name, rule, firms in self.withheld if rule == "R27"]
        firms = len(frozenset().union(*self.disputed.values()))
        found = {"disputed": firms, "expired": expired, "overdue": overdue}
        return {name: value for name, value in found.items() if value}


def kept_values(
    names: Sequence[str],
    columns: Columns,
    dates: Columns,
    firms: Sequence[str],
    keys: Mapping[str, str],
    catalogue: Catalogue,
    disputes: Mapping[str, Mapping[str, str]],
    now: str,
) -> Values:
    """Return the values of fields `names` of the firms in `keys` (firm to subject key).

    `dates` are the columns that periods count from; `disputes` maps a field to the due times of its disputed firms.
    """
    keep, expiring = [firm in keys for firm in firms], expiring_fields(catalogue, names)
    rows = list(compress(firms, keep))
    kept, disputed, withheld = dict[str, Sequence[Any]](), dict[str, frozenset[str]](), list[tuple[str, str, int]]()
    for name in (name for name in names if name in columns):
        due = (
            {firm: disputes[name][keys[firm]] for firm in rows if keys[firm] in disputes[name]}
            if name in disputes
            else {}
        )
        out = {"R27": frozenset(firm for firm, time in due.items() if time <= now)}
        entry = expiring.get(name)
        if entry is not None and (ended := {**columns, **dates}.get(entry.expiry_from)) is not None:
            days = zip(rows, compress(ended, keep), strict=True)
            out["R21"] = frozenset(firm for firm, day in days if entry.has_expired(_day(day), now))
        gone = frozenset().union(*out.values())
        values = tuple(compress(columns[name], keep))
        kept[name] = _without(values, rows, gone) if gone else values
        withheld += [(name, rule, len(found)) for rule, found in sorted(out.items()) if found]
        if marked := frozenset(due) - gone:
            disputed[name] = marked
    return Values(kept, disputed, tuple(withheld))


def _day(value: Any) -> str:
    return "" if value is None else str(value)


def _without(values: Sequence[Any], rows: Sequence[str], gone: frozenset[str]) -> tuple[Any, ...]:
    return tuple(None if firm in gone else value for firm, value in zip(rows, values, strict=True))


def desensitised(values: Values, by: Desensitiser | None, run: str, recipient: str) -> Values:
    """Return the values as the policy lets them leave to this recipient in this run; without a policy, unchanged."""
    if by is None:
        return values
    return Values(by.apply(values.columns, run, recipient), values.disputed, values.withheld)
