"""What becomes of the values of a release whose fields and firms may cross, before anything leaves.

In this order: an item whose period has passed is withheld (R21), so is a disputed one whose answer is overdue (R27); what
is disputed is marked; in mode DESENSITISED the policy's transforms are applied last, to what is left. Withheld means None
in the place of the value: the row keeps its place.

A field with a period needs the date that it counts from. Where a person reads the value (DESENSITISED, PLAINTEXT), an item
without one is withheld too (R21), for nobody can tell that it may still be told; where it is computed on, it stays and the
leaf counts it as undated.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import compress
from typing import Any

from lianxin.parties.boundary_grades import Desensitiser
from lianxin.parties.decision import Catalogue, Field
from lianxin.parties.retention import expiring_fields

Columns = Mapping[str, Sequence[Any]]


@dataclass(frozen=True)
class Values:
    """The columns that leave; the firms whose value is disputed by field; (field, rule, firms) of what was withheld;
    (field, firms) of the items that leave to be computed on though no date says that their period lasts."""

    columns: Mapping[str, Sequence[Any]] = field(repr=False)
    disputed: Mapping[str, frozenset[str]] = field(default_factory=dict, repr=False)
    withheld: tuple[tuple[str, str, int], ...] = ()
    undated: tuple[tuple[str, int], ...] = ()

    def leaf_keys(self) -> dict[str, Any]:
        """Return what the release leaf says of it: optional keys, absent where there is nothing to say."""
        expired = [{"field": name, "firms": firms} for name, rule, firms in self.withheld if rule == "R21"]
        overdue = [{"field": name, "firms": firms} for name, rule, firms in self.withheld if rule == "R27"]
        firms = len(frozenset().union(*self.disputed.values()))
        undated = [{"field": name, "firms": firms} for name, firms in self.undated]
        found = {"disputed": firms, "expired": expired, "overdue": overdue, "undated": undated}
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
    is_read: bool = False,
) -> Values:
    """Return the values of fields `names` of the firms in `keys` (firm to subject key).

    `dates` are the columns that periods count from; `disputes` maps a field to the due times of its disputed firms;
    `is_read` says that a person will see the values.
    """
    keep, expiring = [firm in keys for firm in firms], expiring_fields(catalogue, names)
    rows = list(compress(firms, keep))
    kept, disputed, withheld = dict[str, Sequence[Any]](), dict[str, frozenset[str]](), list[tuple[str, str, int]]()
    undated: list[tuple[str, int]] = []
    for name in (name for name in names if name in columns):
        due = (
            {firm: disputes[name][keys[firm]] for firm in rows if keys[firm] in disputes[name]}
            if name in disputes
            else {}
        )
        out = {"R27": frozenset(firm for firm, time in due.items() if time <= now)}
        values = tuple(compress(columns[name], keep))
        if (entry := expiring.get(name)) is not None:
            ended = {**columns, **dates}.get(entry.expiry_from, [None] * len(keep))
            out["R21"], open_ended = _expired(entry, rows, values, compress(ended, keep), now)
            if is_read:
                out["R21"] |= open_ended
            elif open_ended:
                undated.append((name, len(open_ended)))
        gone = frozenset().union(*out.values())
        kept[name] = _without(values, rows, gone) if gone else values
        withheld += [(name, rule, len(found)) for rule, found in sorted(out.items()) if found]
        if marked := frozenset(due) - gone:
            disputed[name] = marked
    return Values(kept, disputed, tuple(withheld), tuple(undated))


def _expired(
    entry: Field, rows: Sequence[str], values: Sequence[Any], ended: Iterable[Any], now: str
) -> tuple[frozenset[str], frozenset[str]]:
    """Return the firms whose item has expired, and those that have an item and no date to count its period from."""
    dated = list(zip(rows, values, map(_text, ended), strict=True))
    gone = frozenset(firm for firm, _, day in dated if entry.has_expired(day, now))
    return gone, frozenset(firm for firm, value, day in dated if not day.strip() and _text(value)) - gone


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _without(values: Sequence[Any], rows: Sequence[str], gone: frozenset[str]) -> tuple[Any, ...]:
    return tuple(None if firm in gone else value for firm, value in zip(rows, values, strict=True))


def desensitised(values: Values, by: Desensitiser | None, run: str, recipient: str) -> Values:
    """Return the values as the policy lets them leave to this recipient in this run; without a policy, unchanged."""
    if by is None:
        return values
    return replace(values, columns=by.apply(values.columns, run, recipient))
