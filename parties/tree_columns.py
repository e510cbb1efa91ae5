"""A party's own columns as trees see them: codes, numbers of bins and how each feature may be cut.

A numeric feature is cut between its intervals. Where missing values (or one special number) have a bin of their own it is
the last one, and a cut says on which side they go. Text, and numbers with several bins beside the intervals, are cut one
bin against the rest.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from lianxin.federation.boosting_ensemble import CATEGORIES, MISSING, ORDERED, TreeColumns
from lianxin.parties.coding import BinSpec


def kind_of(spec: BinSpec) -> int:
    """Return ORDERED, MISSING or CATEGORIES, by which of the feature's bins stand in an order."""
    ranks = list(spec.ordered)
    if ranks == list(range(spec.count)):
        return ORDERED
    return MISSING if ranks == list(range(spec.count - 1)) else CATEGORIES


def tree_columns(
    specs: Mapping[str, BinSpec], columns: Mapping[str, Sequence[Any]], rows: Sequence[int]
) -> TreeColumns:
    """Return these rows of the columns that `specs` names, coded, in the order of `specs` (features x rows)."""
    codes = [spec.encode([columns[name][row] for row in rows]) for name, spec in specs.items()]
    bins = [spec.count for spec in specs.values()]
    return TreeColumns.of(codes, bins, [kind_of(spec) for spec in specs.values()], len(rows))


def feature_records(specs: Mapping[str, BinSpec]) -> list[dict[str, Any]]:
    """Return what a model keeps of its features, in their order: field, bins and kind."""
    return [{"field": name, "bins": spec.to_record(), "kind": kind_of(spec)} for name, spec in specs.items()]


def specs_of(features: Sequence[Mapping[str, Any]]) -> dict[str, BinSpec]:
    """Return the specifications that `feature_records` kept. Raises InputFault when one is damaged."""
    return {entry["field"]: BinSpec.from_record(entry["bins"]) for entry in features}
