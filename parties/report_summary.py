"""Reading a run's summary, in which every key is optional and any part may be text that says why it is not there."""

from collections.abc import Mapping
from typing import Any

from lianxin.parties.report_plots import by_model_order

Summary = Mapping[str, Any]
OVERALL = "overall"


def mapping(summary: Summary, key: str) -> Mapping[str, Any]:
    """Return the mapping under `key`, empty if there is none."""
    value = summary.get(key)
    return value if isinstance(value, Mapping) else {}


def items_of(summary: Summary, key: str) -> list[Any] | None:
    """Return the list under `key`, empty if the summary says so, None if it is not there."""
    value = summary.get(key)
    return list(value) if isinstance(value, list | tuple) else None


def levels_of(*tables: Mapping[str, Any]) -> list[str]:
    """Return the levels of all tables in their own order, `overall` first."""
    found = dict.fromkeys(level for by_level in tables for level in by_level)
    return sorted(found, key=lambda level: level != OVERALL)


def models_of(by_level: Mapping[str, Any]) -> list[str]:
    """Return every model that some level has, in the order of a report's columns."""
    rows = [row for row in by_level.values() if isinstance(row, Mapping)]
    return by_model_order(list(dict.fromkeys(model for row in rows for model in row)))


def value_at(by_level: Mapping[str, Any], level: str, model: str) -> Any:
    """Return what a table {level: {model: value}} holds at a place, None if nothing."""
    row = by_level.get(level)
    return row.get(model) if isinstance(row, Mapping) else None


def level_name(level: str) -> str:
    """Return a level as a reader knows it."""
    return "All banks" if level == OVERALL else level
