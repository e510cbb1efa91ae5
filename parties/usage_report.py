"""The use-and-effect report back to each data source: what its fields were used for in a month, by whom, to what effect.

From the platform's ledger alone, so that every figure can be made again from evidence: a line says with which question.
    run        releases for runs: of each run the largest release of the field to the bank, added up
    query      releases for field queries, and score for requests of scores: their firms added up, and how many requests
    statistic  aggregates that left
Firms, requests and refused values are shown in tens (`operator_suppression`); runs and models are dealings between
institutions and stand as they are. The effect is what the platform's own models say of a field: its information value and
its share of the weights of a scorecard, or of the cuts of trees; `model.json` is no evidence, and the page says so.

A month is reported when it is over: then its leaves do not change, and whoever asks again gets the same bytes.
"""

import hashlib
import json
import re
from calendar import monthrange
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from lianxin.federation.errors import InputFault
from lianxin.parties.decision import AGGREGATE
from lianxin.parties.operator_suppression import LEAST, shown, total

QUERY, SCORE, RUN, STATISTIC = "query", "score", "run", "statistic"
COLUMNS = ("field", "bank", "purpose", "kind", "runs", "requests", "firms", "recompute")
_MONTH = re.compile(r"\d{4}-(0[1-9]|1[0-2])", re.ASCII)
_STEPS = {"query.answer": QUERY, "scoring.answer": SCORE}
Place = tuple[str, str, str, str]
Record = dict[str, Any]


@dataclass
class Use:
    """What was used at one place: field, bank, purpose and kind. `largest` holds each run's largest release."""

    firms: int = 0
    largest: dict[str, int] = field(default_factory=dict)
    requests: set[str] = field(default_factory=set, repr=False)

    @property
    def all_firms(self) -> int:
        """Firms of all releases, of runs those of each one's largest: exact, for the platform's own eyes."""
        return self.firms + sum(self.largest.values())


@dataclass
class Uses:
    """A month's uses by place, refused fields by (field, bank, rule), firms left out and values refused by (bank, rule), all
    exact, and the hash of the last leaf that was read of it."""

    places: dict[Place, Use] = field(default_factory=lambda: defaultdict(Use))
    refused: dict[tuple[str, str, str], int] = field(default_factory=lambda: defaultdict(int))
    left_out: dict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))
    runs: set[str] = field(default_factory=set)
    last_leaf: str = ""


def check_month(month: str, now: str) -> None:
    """Raise InputFault for what is no month, or is not over at `now`."""
    if _MONTH.fullmatch(month) is None:
        raise InputFault("--month is a month such as 2026-01")
    if now[:7] <= month:
        raise InputFault(
            f"{month} is not over: two reports of one month would differ by what came in between, which may be a single firm; "
            "ask for a month before this one"
        )


def uses_in(leaves: Iterable[bytes], month: str) -> Uses:
    """Return the month's uses, read off a platform's leaves, one at a time; in memory are the places and the requests' ids."""
    found, wanted = Uses(), f'"time":"{month}-'.encode()
    for data in leaves:
        if wanted not in data or b'"kind":"re' not in data:
            continue
        leaf = json.loads(data)
        if not leaf["time"].startswith(month) or leaf["kind"] not in ("release", "refusal"):
            continue
        found.last_leaf = hashlib.sha256(data).hexdigest()
        if leaf["kind"] == "release":
            _take(found, leaf)
        elif "values" in leaf:
            found.left_out[leaf["peer"], leaf["rule"]] += leaf["values"]
    return found


def _take(found: Uses, leaf: Record) -> None:
    kind = STATISTIC if leaf["mode"] == AGGREGATE else _STEPS.get(leaf["step"], RUN)
    bank, run, rows = leaf["recipient"], leaf["run"], leaf["rows"]
    found.runs.add(run)
    for name in leaf["fields"]:
        use = found.places[name, bank, leaf["purpose"], kind]
        if kind in (QUERY, SCORE):
            use.firms += rows
            use.requests.add(leaf.get("query", ""))
            use.largest.setdefault(run, 0)
        else:
            use.largest[run] = max(rows, use.largest.get(run, 0))
    for one in leaf["refused"]:
        found.refused[one["field"], bank, one["rule"]] += 1
    for one in leaf.get("excluded", ()):
        found.left_out[bank, one["rule"]] += one["firms"]


def reports(
    uses: Uses, platform: str, month: str, source_of: Mapping[str, str], models: Iterable[Record], least: int = LEAST
) -> list[Record]:
    """Return a report for each source that a field was used or refused of, by name; see docs/records.md, "usage-report".

    `models` are the platform's own models of runs; those of runs without a leaf in the month are left out.
    """
    own = {name: source_of.get(name, "unnamed") for name in _fields(uses)}
    effects = [line for model in models if model.get("run") in uses.runs for line in effect_of(model)]
    return [
        _report(source, month, uses, {name for name, one in own.items() if one == source}, effects, least)
        | {"platform": platform}
        for source in sorted(set(own.values()))
    ]


def _fields(uses: Uses) -> set[str]:
    return {place[0] for place in uses.places} | {place[0] for place in uses.refused}


def _report(source: str, month: str, uses: Uses, names: set[str], effects: list[Record], least: int) -> Record:
    lines = [_line(place, use, month, least) for place, use in sorted(uses.places.items()) if place[0] in names]
    refused = [
        {"field": name, "bank": bank, "rule": rule, "releases": shown(count, least)}
        for (name, bank, rule), count in sorted(uses.refused.items()) if name in names
    ]  # fmt: skip
    return {
        "type": "usage-report", "version": 1, "source": source, "month": month, "least": least,
        "last_leaf": uses.last_leaf, "uses": lines,
        "totals": _totals(lines), "refused": refused, "models": [one for one in effects if one["field"] in names],
        "left_out": [
            {"bank": bank, "rule": rule, "firms_or_values": shown(count, least)}
            for (bank, rule), count in sorted(uses.left_out.items())
        ],
    }  # fmt: skip


def _line(place: Place, use: Use, month: str, least: int) -> Record:
    name, bank, purpose, kind = place
    line = {"field": name, "bank": bank, "purpose": purpose, "kind": kind, "runs": sorted(use.largest)}
    counts = {"requests": shown(len(use.requests), least), "firms": shown(use.all_firms, least)}
    last = monthrange(int(month[:4]), int(month[5:]))[1]
    asked = (
        f"lianxin audit ask who-got EVIDENCE --field {name} --recipient {bank} --purpose {purpose} "
        f"--since {month}-01 --until {month}-{last}"
    )
    return line | counts | {"recompute": asked}


def _totals(lines: list[Record]) -> list[Record]:
    """Return what is shown of each field added up: at least so many, since what is suppressed counts nothing."""
    found = []
    for name in sorted({line["field"] for line in lines}):
        own = [line for line in lines if line["field"] == name]
        counts = {key: total(line[key] for line in own) for key in ("requests", "firms")}
        named = {
            "banks": len({line["bank"] for line in own}),
            "runs": len({run for line in own for run in line["runs"]}),
        }
        found.append({"field": name, **named, **counts})
    return found


def effect_of(model: Record) -> Iterator[Record]:
    """Yield what a platform's model says of each of its fields: information value and shares, in millionths and permille."""
    run, features = str(model.get("run")), model.get("features", [])
    if model.get("type") == "platform-model":
        weights = [abs(weight) for weight in model.get("weights", [])]
        for entry, weight in zip(features, weights, strict=False):
            share = weight * 1000 // (sum(weights) or 1)
            yield {"run": run, "field": entry["field"], "iv_micro": entry.get("iv_micro", 0), "weight_permille": share}
    elif model.get("type") == "platform-trees":
        cuts = [cut[0] for bank in model["banks"].values() for cut in bank["cuts"]]
        for place, entry in enumerate(features):
            yield {"run": run, "field": entry["field"], "cuts_permille": cuts.count(place) * 1000 // (len(cuts) or 1)}
