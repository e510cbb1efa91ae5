"""Two run folders side by side: what was agreed otherwise, how well the models do, what it cost, where the messages part.

Messages are compared in the order of the platform's ledger, by the digests that its leaves hold: no transcript is needed.
The end of a run is left out, where receipts hold ledger heads.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from lianxin.federation.errors import InputFault
from lianxin.simulations.scenario_evidence import Leaf, leaves_of, parties_of

_LEFT_OUT = "contract.close"
_NAMED = ("step", "round", "message_type", "size_bytes", "payload_hash")
_NOTHING = "-"


@dataclass(frozen=True)
class Folder:
    """What a run folder says of itself: `terms` by dotted name, `result` as it was written, the platform's id."""

    path: Path
    terms: Mapping[str, Any]
    result: Mapping[str, Any]
    platform: str

    @property
    def verdict(self) -> str:
        """Return the verdict of its auditor: of a story its own word, else whether the evidence was verified."""
        told = self.result.get("scenario")
        if isinstance(told, Mapping):
            return str(told.get("verdict", _NOTHING))
        verified = self.result.get("ledger_verified")
        return _NOTHING if verified is None else "verified" if verified else "not verified"


def open_folder(run_dir: Path) -> Folder:
    """Return what a finished or stopped simulation left. Raises InputFault where the folder is none, naming what is missing."""
    parties_of(run_dir)
    scenario, result = _read(run_dir, "scenario.json"), _read(run_dir, "result.json")
    try:
        platform = str(scenario["inputs"]["platform"])
        world = scenario.get("scenario", {})
        stated = {
            "terms": scenario["terms"],
            **{part: world[part] for part in ("world", "event", "cheat") if part in world},
        }
    except (KeyError, TypeError, AttributeError):
        raise InputFault(f"{run_dir}/scenario.json tells of no run; make the run again") from None
    return Folder(run_dir, dict(_dotted("", stated)), result, platform)


def compare_runs(first: Path, second: Path) -> dict[str, Any]:
    """Return the comparison as JSON: `terms` {name: [a, b]} that differ, `auc` {level: {model: [a, b]}}, `bytes`, `seconds`,
    `verdicts`, `messages` {"equal", "first"}. Raises InputFault where a folder is no run folder."""
    one, other = open_folder(first), open_folder(second)
    names = [*one.terms, *(name for name in other.terms if name not in one.terms)]
    pairs = {name: [one.terms.get(name, _NOTHING), other.terms.get(name, _NOTHING)] for name in names}
    return {
        "runs": [str(first), str(second)],
        "terms": {name: pair for name, pair in pairs.items() if pair[0] != pair[1]},
        "auc": _side_by_side(one.result.get("auc"), other.result.get("auc")),
        "bytes": [_total(folder.result.get("bytes_sent")) for folder in (one, other)],
        "seconds": [_seconds(folder.result) for folder in (one, other)],
        "verdicts": [one.verdict, other.verdict],
        "messages": _messages(one, other),
    }


def _read(run_dir: Path, name: str) -> Mapping[str, Any]:
    try:
        found = json.loads((run_dir / name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise InputFault(
            f"{run_dir} holds no readable {name}; name the folder of a simulation that has ended"
        ) from None
    if not isinstance(found, dict):
        raise InputFault(f"{run_dir}/{name} is not what a simulation writes; make the run again")
    return found


def _dotted(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _dotted(f"{prefix}.{key}" if prefix else str(key), inner)
    else:
        yield prefix, value


def _side_by_side(one: Any, other: Any) -> dict[str, Any]:
    first, second = (table if isinstance(table, Mapping) else {} for table in (one, other))
    levels = {}
    for level in dict.fromkeys([*first, *second]):
        rows = first.get(level) or {}, second.get(level) or {}
        levels[level] = {model: [row.get(model) for row in rows] for model in dict.fromkeys([*rows[0], *rows[1]])}
    return levels


def _total(sent: Any) -> int:
    return sum(sent.values()) if isinstance(sent, Mapping) else 0


def _seconds(result: Mapping[str, Any]) -> float | None:
    told = result.get("seconds")
    return told.get("total") if isinstance(told, Mapping) else None


def _messages(one: Folder, other: Folder) -> dict[str, Any]:
    """Return how many messages are equal up to the first that differs, and that one with both sides' entries of its leaf."""
    equal = 0
    for mine, theirs in zip_longest(_crossed(one), _crossed(other)):
        if mine is None or theirs is None or mine[1]["message_hash"] != theirs[1]["message_hash"]:
            return {"equal": equal, "first": _difference(mine, theirs)}
        equal += 1
    return {"equal": equal, "first": None}


def _crossed(folder: Folder) -> Iterator[tuple[str, Leaf]]:
    """Yield (conversation/sender/seq, leaf) of what crossed the platform's boundary, in its order."""
    for leaf in leaves_of(folder.path, folder.platform, "envelope"):
        if leaf["step"] != _LEFT_OUT and leaf["decision"] != "refuse":
            sender = folder.platform if leaf["direction"] == "out" else leaf["peer"]
            yield f"{leaf['conversation']}/{sender}/{leaf['seq']}", leaf


def _difference(mine: tuple[str, Leaf] | None, theirs: tuple[str, Leaf] | None) -> dict[str, Any]:
    """Return which messages stand there, and the entries of their leaves that differ; none where only the header's do."""
    names = [side[0] if side else _NOTHING for side in (mine, theirs)]
    if mine is None or theirs is None:
        return {"messages": names, "differs": {}}
    return {"messages": names, "differs": {n: [mine[1][n], theirs[1][n]] for n in _NAMED if mine[1][n] != theirs[1][n]}}
