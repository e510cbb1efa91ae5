"""The binning workbench: each field's bins with goods, bads, weight of evidence and what a modeller would say of them.

Before any run a bank looks at its own table; after one, either side at the model that it kept. The tables hold edges and
categories: they are for the owner's eyes and nothing here crosses.

    WOE = ln((goods_b / goods) / (bads_b / bads)): positive is safer.   IV = Σ (share of goods − share of bads)·WOE
    IV below 0.02 tells nothing, below 0.1 little, below 0.3 something, below 0.5 much; above it may know the outcome

The advice is advice: the contract's minimums alone are kept by force.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lianxin.federation.errors import InputFault
from lianxin.federation.evaluation_intervals import Z95, too_few
from lianxin.federation.monotone import NONE, Order, is_monotone
from lianxin.federation.scorecard import WOE_BITS
from lianxin.federation.screening import FeatureTable, feature_table
from lianxin.parties.bin_notes import against_data, left_out_because, merge_notes
from lianxin.parties.coding import BinSpec
from lianxin.parties.coding_fields import BinLimits, fit_field
from lianxin.parties.coding_rules import BinRules
from lianxin.parties.records import LoanTable

LEAST_SHARE = 0.05
_USUAL_AUC = 0.75
_STRENGTHS = ((0.02, "tells nothing"), (0.1, "tells little"), (0.3, "tells something"), (0.5, "tells much"))
_LEAK = "above 0.5: check that it is known before the decision"
_MODELS = ("platform-model", "bank-model")


@dataclass(frozen=True)
class BinLine:
    """One bin: its name, counts, weight of evidence and share of the rows."""

    label: str
    goods: int
    bads: int
    woe: float
    share: float


@dataclass(frozen=True)
class BinTable:
    """One field's bins, its information value, and advice; `dropped` says why a run would leave it out, "" if not."""

    field: str
    bins: tuple[BinLine, ...] = ()
    information_value: float = 0.0
    advice: tuple[str, ...] = ()
    dropped: str = ""

    def to_record(self) -> dict[str, Any]:
        """Return the table as one JSON object."""
        bins = [
            {"label": b.label, "rows": b.goods + b.bads, "goods": b.goods, "bads": b.bads, "woe": round(b.woe, 6),
             "share": round(b.share, 6)}
            for b in self.bins
        ]  # fmt: skip
        value = round(self.information_value, 6)
        return {"field": self.field, "iv": value, "bins": bins, "advice": list(self.advice), "dropped": self.dropped}


@dataclass(frozen=True)
class Workbench:
    """All tables of one look: how many rows and bads they are about, and what holds for all of them."""

    rows: int
    bads: int
    tables: tuple[BinTable, ...] = field(repr=False)
    advice: tuple[str, ...] = ()

    def to_record(self) -> dict[str, Any]:
        """Return all of it as one JSON object."""
        tables = [table.to_record() for table in self.tables]
        return {"rows": self.rows, "bads": self.bads, "advice": list(self.advice), "fields": tables}


def bank_workbench(table: LoanTable, rules: BinRules, limits: BinLimits, fields: Sequence[str] = ()) -> Workbench:
    """Return the tables of a bank's training rows, all fields or the named ones, most telling first.

    Raises InputFault for a field that is not there, and where a rule of the binning file cannot be kept.
    """
    rules.check_columns(table.columns)
    unknown = next((name for name in fields if name not in table.columns), None)
    if unknown is not None:
        raise InputFault(f"the table has no field {unknown}; it has {', '.join(table.columns)}")
    rows = [row for row, part in enumerate(table.split) if part == "train"]
    labels = [table.labels[row] for row in rows]
    tables = [
        field_bins(name, [column[row] for row in rows], labels, limits, rules)
        for name, column in table.columns.items()
        if not fields or name in fields
    ]
    return _sorted(len(rows), sum(labels), tables)


def field_bins(name: str, values: Sequence[Any], labels: Sequence[int], limits: BinLimits, rules: BinRules) -> BinTable:
    """Return one field's bins as a run would make them from these rows."""
    fit = fit_field(name, values, limits, rules)
    if fit.reason:
        return BinTable(name, advice=fit.notes, dropped=left_out_because(fit.reason, values, labels))
    goods, bads = [0] * fit.spec.count, [0] * fit.spec.count
    for code, label in zip(fit.spec.encode(values), labels, strict=True):
        (bads if label else goods)[code] += 1
    order = Order(rules.of(name).monotone, fit.spec.ordered)
    found = feature_table(name, goods, bads, limits.minima, order)
    notes = (*fit.notes, *against_data(name, goods, bads, limits.minima, order))
    if isinstance(found, str):
        return BinTable(name, advice=notes, dropped=left_out_because(found, values, labels))
    notes += merge_notes(found.merged, order)
    return _table(found, fit.spec.merged(dict(enumerate(found.merged))), notes, order.direction != NONE)


def _table(found: FeatureTable, spec: BinSpec, notes: Sequence[str] = (), was_ordered: bool = False) -> BinTable:
    rows = sum(found.goods) + sum(found.bads)
    lines = tuple(
        BinLine(label, good, bad, woe / 2**WOE_BITS, (good + bad) / rows)
        for label, good, bad, woe in zip(spec.labels(), found.goods, found.bads, found.woe, strict=True)
    )
    advice = (*_advice(found, spec, lines, was_ordered), *notes)
    return BinTable(found.name, lines, found.information_value, advice)


def _advice(found: FeatureTable, spec: BinSpec, lines: Sequence[BinLine], was_ordered: bool) -> list[str]:
    value = found.information_value
    advice = [f"IV {next((what for most, what in _STRENGTHS if value < most), _LEAK)}"]
    small = [str(place) for place, line in enumerate(lines, start=1) if line.share < LEAST_SHARE]
    if small:
        advice.append(f"bin {', '.join(small)} holds under {LEAST_SHARE:.0%} of the rows; merge it")
    if len(spec.ordered) > 2 and not was_ordered and not is_monotone(found.goods, found.bads, spec.ordered):
        advice.append('the weight of evidence does not go one way; monotone = "auto" in the binning file makes it')
    return advice


def _sorted(rows: int, bads: int, tables: Sequence[BinTable]) -> Workbench:
    ranked = sorted(tables, key=lambda table: (bool(table.dropped), -table.information_value, table.field))
    return Workbench(rows, bads, tuple(ranked), tuple(size_advice(rows, bads)))


def size_advice(rows: int, bads: int) -> list[str]:
    """Return what a modeller should know of a sample with too few bads (or goods); nothing for a large one."""
    said = too_few(rows, bads)
    if not said or not 0 < bads < rows:
        return [said] if said else []
    half = auc_half_width(bads, rows - bads)
    low, high = max(0.0, _USUAL_AUC - half), min(1.0, _USUAL_AUC + half)
    return [said, f"an AUC of {_USUAL_AUC} on these very rows would have the 95 % interval {low:.3f} to {high:.3f}"]


def auc_half_width(bads: int, goods: int, area: float = _USUAL_AUC) -> float:
    """Return half the 95 % interval of an AUC over so many bads and goods (Hanley and McNeil 1982, section III)."""
    both_bad, both_good = area / (2 - area), 2 * area**2 / (1 + area)
    spread = area * (1 - area) + (bads - 1) * (both_bad - area**2) + (goods - 1) * (both_good - area**2)
    return Z95 * math.sqrt(spread / (bads * goods))


def model_workbench(path: Path, fields: Sequence[str] = ()) -> Workbench:
    """Return the tables of a finished scorecard run from the model that this node kept.

    Raises InputFault where there is no model, where it is of another kind, or has no such field.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise InputFault(f"{path} holds no model; name a finished run of this node") from None
    if not isinstance(record, dict) or record.get("type") not in _MODELS:
        raise InputFault(f"{path} is no scorecard; only a scorecard has weights of evidence")
    noted: dict[str, tuple[str, ...]] = {}
    for entry in record.get("notes", ()):
        noted[entry["field"]] = (*noted.get(entry["field"], ()), entry["note"])
    tables = [_model_table(entry, noted.get(entry["field"], ())) for entry in record["features"]]
    tables += [
        BinTable(entry["field"], advice=noted.get(entry["field"], ()), dropped=entry["reason"])
        for entry in record.get("dropped", ())
    ]
    named = {table.field for table in tables}
    unknown = next((name for name in fields if name not in named), None)
    if unknown is not None:
        raise InputFault(f"the run has no field {unknown}; it has {', '.join(sorted(named))}")
    counts = [(sum(b.goods for b in t.bins), sum(b.bads for b in t.bins)) for t in tables if t.bins]
    goods, bads = counts[0] if counts else (0, 0)
    return _sorted(goods + bads, bads, [table for table in tables if not fields or table.field in fields])


def _model_table(entry: Mapping[str, Any], notes: Sequence[str]) -> BinTable:
    if "goods" not in entry:
        raise InputFault(
            "this model was kept by an earlier version, without its counts; train it again to see its bins"
        )
    merged = entry.get("merged", range(len(entry["woe"])))
    spec = BinSpec.from_record(entry["bins"]).merged(dict(enumerate(merged)))
    found = FeatureTable(
        entry["field"], tuple(entry["goods"]), tuple(entry["bads"]), tuple(entry["woe"]), entry["iv_micro"] / 10**6, ()
    )
    return _table(found, spec, (*notes, *merge_notes(merged)))
