"""The report's section on which features a tree model rests on, by field and by party."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from lianxin.parties.report_page import figure_number, paragraph, table, text
from lianxin.parties.report_summary import Summary, items_of

ABOUT = (
    "The share of a bank's whole gain (log-loss of its training rows) that the cuts of a feature bring, and how many cuts "
    "there are. Gain favours features with many bins; permutation importance, where it is shown, does not."
)


def importance_html(summary: Summary) -> str:
    """Return one table a bank: the share of each party, then of each feature; "" without any."""
    items = [item for item in items_of(summary, "importance") or () if isinstance(item, Mapping)]
    by_bank: dict[object, list[Mapping[str, Any]]] = defaultdict(list)
    for item in items:
        by_bank[item.get("bank")].append(item)
    if not items:
        return ""
    return paragraph(ABOUT) + "".join(_bank_table(bank, found) for bank, found in by_bank.items())


def _bank_table(bank: object, items: Sequence[Mapping[str, Any]]) -> str:
    parties: dict[object, list[Mapping[str, Any]]] = defaultdict(list)
    for item in items:
        parties[item.get("party")].append(item)
    rows = [_row(f"all of {party}", party, found) for party, found in parties.items()]
    rows += [_row(item.get("field"), item.get("party"), [item]) for item in items if item.get("cuts")]
    unused = sum(not item.get("cuts") for item in items)
    note = f" {unused} features are in no cut." if unused else ""
    return table(["Feature", "Party", "Share of gain", "Cuts"], rows, [2, 3], f"<b>{text(bank)}</b>.{note}")


def _row(name: object, party: object, items: Sequence[Mapping[str, Any]]) -> list[str]:
    share = sum(item.get("share") or 0.0 for item in items)
    return [text(name), text(party), figure_number(share), text(sum(item.get("cuts") or 0 for item in items))]
