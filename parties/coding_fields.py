"""One field's bins by the rules of its owner: by hand where `bins.toml` says so, by value-aware quantiles elsewhere.

Labels are not looked at. A bin that holds fewer rows than the contract's minimum is merged, and a sentence says which:
an interval with its smaller neighbour, a group of categories with the smallest other one, a special value with the
missing ones; where even these are too few together, with the largest bin, which few rows change least. What cannot be
meant (more bins than the contract allows, edges for text) is refused by file, field and key.
"""

import bisect
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lianxin.federation.contract import RunContract
from lianxin.parties import coding
from lianxin.parties.bin_notes import ONE_BIN
from lianxin.parties.coding import BinSpec, is_missing
from lianxin.parties.coding_rules import NO_RULES, BinRules, FieldRule

SKIPPED = "left out by the binning file"
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_MOSTLY = 2  # a text column with numbers in at least one of so many values was meant to be numeric


@dataclass(frozen=True)
class BinLimits:
    """The sizes of a contract that bins keep: the most bins of a feature, the least rows, bads and goods of a bin."""

    max_bins: int = 8
    min_rows: int = 50
    min_bads: int = 5
    min_goods: int = 5

    @classmethod
    def of(cls, contract: RunContract) -> "BinLimits":
        """Return the limits of a run."""
        return cls(contract.max_bins, contract.min_rows, contract.min_bads, contract.min_goods)

    @property
    def minima(self) -> tuple[int, int, int]:
        """(rows, bads, goods), as `star.feature_table` takes them."""
        return self.min_rows, self.min_bads, self.min_goods


@dataclass(frozen=True)
class FieldFit:
    """One field's bins; `notes` are sentences about what was merged, `reason` says why one bin only is left."""

    spec: BinSpec
    notes: tuple[str, ...] = ()
    reason: str = ""


def fit_field(name: str, values: Sequence[Any], limits: BinLimits, rules: BinRules = NO_RULES) -> FieldFit:
    """Return the bins of one field. Raises InputFault where the field's rule cannot be kept on these values.

    A field that is left out has one bin and the reason `SKIPPED`.
    """
    rule = rules.of(name)
    if rule.skip:
        return FieldFit(BinSpec("numeric", (), (), (0, 0)), (), SKIPPED)
    if rule.max_bins > limits.max_bins:
        rules.refuse(name, "max_bins", f"is {rule.max_bins} and the contract allows {limits.max_bins}; lower it")
    if rule.groups:
        spec, notes = _grouped(values, rule, limits)
    elif rule.edges or rule.special:
        numbers = _numbers(name, values, rules)
        spec, notes = _cut(numbers, rule, limits)
    else:
        spec, notes = coding.fit_bins(values, rule.max_bins or limits.max_bins, limits.min_rows), []
        notes = _text_notes(values) if spec.kind == "text" else []
    if rule.monotone != "none" and spec.kind == "text":
        rules.refuse(name, "monotone", "orders numbers, and this column holds text; remove the key or mend the column")
    if spec.count > limits.max_bins:
        key = "groups" if rule.groups else "edges" if rule.edges else "special"
        rules.refuse(
            name, key, f"makes {spec.count} bins with the missing ones and the contract allows {limits.max_bins}"
        )
    return FieldFit(spec, tuple(notes), reason_of(values) if spec.count == 1 else "")


def reason_of(values: Sequence[Any]) -> str:
    """Return why a field of these values ended with one bin."""
    present = [value for value in values if not is_missing(value)]
    if not present:
        return "no row has a value"
    if len(present) == len(values) and all(value == present[0] for value in present):
        return "every row has the same value"
    return ONE_BIN


def _text_notes(values: Sequence[Any]) -> list[str]:
    texts = [value for value in values if isinstance(value, str)]
    numbers = sum(_NUMBER.fullmatch(text) is not None for text in texts)
    if not texts or not len(texts) <= _MOSTLY * numbers < _MOSTLY * len(texts):
        return []
    return [
        f"{len(texts) - numbers} of {len(texts)} values are no numbers, so that all were read as categories; mend them"
    ]


def _numbers(name: str, values: Sequence[Any], rules: BinRules) -> list[float | None]:
    present = [value for value in values if not is_missing(value)]
    texts = sum(not isinstance(value, (int, float)) for value in present)
    if texts:
        key = "edges" if rules.of(name).edges else "special"
        rules.refuse(name, key, f"is for numbers, and {texts} of {len(present)} values are text; mend the column")
    return [None if is_missing(value) else float(value) for value in values]


def _cut(numbers: Sequence[float | None], rule: FieldRule, limits: BinLimits) -> tuple[BinSpec, list[str]]:
    special = {number: place for place, number in enumerate(rule.special, start=1)}
    apart = [0] * (1 + len(special))
    ordinary: list[float] = []
    for number in numbers:
        if number is None or number in special:
            apart[0 if number is None else special[number]] += 1
        else:
            ordinary.append(number)
    groups, taken, notes = _apart_groups(apart, rule.special, limits.min_rows)
    if rule.edges:
        uppers, sizes, more = _by_hand(ordinary, rule.edges, limits.min_rows)
        notes = more + notes
    else:
        room = max(1, (rule.max_bins or limits.max_bins) - taken)
        uppers, sizes = coding.fit_intervals(ordinary, room, limits.min_rows)
    return _joined(uppers, sizes, apart, groups, rule.special, limits.min_rows), notes


def _apart_groups(
    apart: Sequence[int], special: Sequence[float], least: int
) -> tuple[list[int], int, list[str]]:  # fmt: skip
    """Return the group of each cell beside the intervals (-1: the largest bin), how many there are, and notes.

    A cell of enough rows is a group; the smaller ones go with the missing values, or make one group if that suffices.
    """
    groups = [place if rows >= least else -1 for place, rows in enumerate(apart)]
    small = [place for place, group in enumerate(groups) if group < 0]
    home = 0 if groups[0] == 0 else small[0] if small and sum(apart[place] for place in small) >= least else -1
    for place in small:
        groups[place] = home
    where = "the missing values" if home == 0 else "the other small ones" if home > 0 else "the largest bin"
    notes = [
        f"special value {special[place - 1]:.12g} has fewer than {least} rows and is with {where}"
        for place in small
        if place
    ]
    return groups, len(set(groups) - {-1}), notes


def _by_hand(numbers: Sequence[float], edges: Sequence[float], least: int) -> tuple[list[float], list[int], list[str]]:
    """Return (inner upper edges, rows of each interval, notes) once intervals under the minimum have joined."""
    sizes = [0] * (len(edges) + 1)
    for number in numbers:
        sizes[bisect.bisect_left(edges, number)] += 1
    uppers, members, notes = list(edges), [[place] for place in range(1, len(sizes) + 1)], []
    while len(sizes) > 1 and min(sizes) < least:
        small = min(range(len(sizes)), key=lambda place: (sizes[place], place))
        beside = [place for place in (small - 1, small + 1) if 0 <= place < len(sizes)]
        other = min(beside, key=lambda place: (sizes[place], place))
        low = min(small, other)
        notes.append(
            f"interval {_span(members[small])} has fewer than {least} rows and joined interval {_span(members[other])}"
        )
        sizes[low : low + 2] = [sizes[low] + sizes[low + 1]]
        members[low : low + 2] = [members[low] + members[low + 1]]
        del uppers[low]
    return uppers, sizes, notes


def _span(members: Sequence[int]) -> str:
    return str(members[0]) if len(members) == 1 else f"{members[0]}-{members[-1]}"


def _joined(
    uppers: Sequence[float], sizes: Sequence[int], apart: Sequence[int], groups: Sequence[int],
    special: tuple[float, ...], least: int,
) -> BinSpec:  # fmt: skip
    """Return the specification: intervals first, then the groups beside them, numbered in the order of the cells."""
    bins = len(sizes)
    rows = {
        bins + group: sum(r for r, g in zip(apart, groups, strict=True) if g == group) for group in {*groups} - {-1}
    }
    largest_apart = max(rows, key=lambda one: (rows[one], -one), default=0)
    intervals = [largest_apart] if bins == 1 and sizes[0] < least and rows else list(range(bins))
    largest = largest_apart if intervals == [largest_apart] and rows else list(sizes).index(max(sizes))
    named = [*intervals, *(largest if group < 0 else bins + group for group in groups)]
    order = {one: new for new, one in enumerate(dict.fromkeys(named))}
    return BinSpec("numeric", tuple(uppers), (), tuple(order[one] for one in named), special)


def _grouped(values: Sequence[Any], rule: FieldRule, limits: BinLimits) -> tuple[BinSpec, list[str]]:
    """Return the bins of listed groups of categories; categories that are not listed share one bin."""
    group_of = {category: place for place, group in enumerate(rule.groups) for category in group}
    rare, missing = len(rule.groups), len(rule.groups) + 1
    sizes = [0] * (missing + 1)
    for value in values:
        sizes[missing if is_missing(value) else group_of.get(coding.as_text(value), rare)] += 1
    members = {place: [place] for place in range(missing + 1) if sizes[place] or place < rare}
    notes, least = [], limits.min_rows
    while len(members) > 1 and min(sizes[place] for place in members) < least:
        small, other, *_ = sorted(members, key=lambda place: (sizes[place], place))
        names = [_group_name(place, rare) for place in (small, other)]
        notes.append(f"{names[0]} has fewer than {least} rows and joined {names[1]}")
        sizes[other] += sizes[small]
        members[other] += members.pop(small)
    largest = max(members, key=lambda place: (sizes[place], -place))
    home = {old: new for new, group in members.items() for old in group}
    named = [*(home[place] for place in group_of.values()), home.get(rare, largest), home.get(missing, largest)]
    order = {one: new for new, one in enumerate(dict.fromkeys(named))}
    return BinSpec("text", (), tuple(group_of), tuple(order[one] for one in named)), notes


def _group_name(place: int, rare: int) -> str:
    return (
        f"group {place + 1}"
        if place < rare
        else f"the bin of {'other categories' if place == rare else 'missing values'}"
    )
