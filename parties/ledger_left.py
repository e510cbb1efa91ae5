"""What left a node, from its ledger's leaves alone: messages, bytes and rows by peer, field, form, purpose, run or day.

A message counts in every line that it touches: one with two forms stands in two lines of a table by form. `messages` and
`bytes` are those of the envelopes that went out; `releases` and `rows` those of the releases behind them, each counted
once a line, `rows` being the distinct firms of each. Leaves are read one at a time; in memory are the lines of the table and
one short entry a release.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

DIMENSIONS = ("peer", "field", "form", "purpose", "run", "day")
COUNTS = ("messages", "bytes", "releases", "rows")


@dataclass
class Line:
    """The counts of one line."""

    messages: int = 0
    bytes: int = 0
    rows: int = 0
    releases: set[str] = field(default_factory=set, repr=False)


def what_left(leaves: Iterable[bytes], by: Sequence[str]) -> list[dict[str, Any]]:
    """Return the lines of the table by the dimensions `by`, in their order; a value that a message has not is ""."""
    releases = dict[str, tuple[tuple[str, ...], str, int]]()
    lines = dict[tuple[str, ...], Line]()
    for data in leaves:
        leaf = json.loads(data)
        if leaf["kind"] == "release":
            releases[hashlib.sha256(data).hexdigest()] = (tuple(leaf["fields"]), leaf["purpose"], leaf["rows"])
        elif leaf["kind"] == "envelope" and (leaf["direction"], leaf["decision"]) == ("out", "allow"):
            _count(lines, leaf, releases, by)
    return [
        dict(zip(by, key, strict=True))
        | {"messages": line.messages, "bytes": line.bytes, "releases": len(line.releases), "rows": line.rows}
        for key, line in sorted(lines.items())
    ]


def _count(
    lines: dict[tuple[str, ...], Line],
    leaf: Mapping[str, Any],
    releases: Mapping[str, tuple[tuple[str, ...], str, int]],
    by: Sequence[str],
) -> None:
    behind = [name for name in leaf["releases"] if name in releases] or [""]
    seen = set[tuple[str, ...]]()
    for release in behind:
        fields, purpose, rows = releases.get(release, ((), "", 0))
        for key in _keys(leaf, fields, purpose, by):
            line = lines.setdefault(key, Line())
            if key not in seen:
                line.messages, line.bytes = line.messages + 1, line.bytes + leaf["size_bytes"]
                seen.add(key)
            if release and release not in line.releases:
                line.releases.add(release)
                line.rows += rows


def _keys(leaf: Mapping[str, Any], fields: Sequence[str], purpose: str, by: Sequence[str]) -> Iterator[tuple[str, ...]]:
    values: dict[str, Sequence[str]] = {
        "peer": [leaf["peer"]], "run": [leaf["run"]], "day": [leaf["time"][:10]], "purpose": [purpose],
        "field": fields or [""], "form": sorted({one["form"] for one in leaf["forms"]}) or [""],
    }  # fmt: skip
    return product(*(values[name] for name in by))
