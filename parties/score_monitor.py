"""Whether what is scored is still like what was trained on: counts a day of scores by band and of own features by bin.

Only counts are kept, in the bank's store. The bands are the ten of the model's scores, the bins those of its own features,
and both hold the rows of the training to compare with (`federation.evaluation_stability`: index below 0.1 stable, from 0.25
shifted). Counts are held in memory for a second at most and written together: a node that is killed forgets what it counted
since.
"""

import threading
import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from lianxin.crypto import canonical
from lianxin.federation.evaluation_stability import stability_of_counts
from lianxin.parties.clock import after
from lianxin.parties.node import Node
from lianxin.parties.score_trees import BankModel
from lianxin.parties.scorecard_card import CardScore

WRITE_S = 1.0
KEPT_DAYS = 400
_KEY = "score-bands/{run}"
_DAY = len("2026-01-01")
Counts = dict[str, dict[str, list[int]]]


class ScoreMonitor:
    """The counts of one bank's node, by model, day and what is counted. Safe between threads."""

    def __init__(self, node: Node, now: Callable[[], float] = time.monotonic) -> None:
        self._node, self._now = node, now
        self._held: dict[str, Counts] = defaultdict(dict)
        self._written, self._lock = now(), threading.Lock()

    def note(self, model: BankModel, scores: Iterable[CardScore | None], bins: Sequence[Sequence[int]]) -> None:
        """Count the scores of some rows by band, and the bins of their own features."""
        day = self._node.clock.now()[:_DAY]
        with self._lock:
            counts = self._held[model.run].setdefault(day, {})
            for name, bands in model.bands().items():
                tops = [band[1] for band in bands]
                places = (bisect_left(tops, s.score) for s in scores if s is not None and s.model == name)
                _count(counts, name, max(len(tops), 1), (min(place, len(tops) - 1) for place in places))
            for name, spec, codes in zip(model.fields, model.bins, bins, strict=True):
                _count(counts, f"own/{name}", spec.count, codes)
            if self._now() - self._written >= WRITE_S:
                self._write()

    def flush(self) -> None:
        """Write what is held in memory."""
        with self._lock:
            self._write()

    def _write(self) -> None:
        self._written = self._now()
        for run, days in list(self._held.items()):
            self._node.store.change_setting(_KEY.format(run=run), partial(self._joined, days))
            del self._held[run]

    def _joined(self, more: Counts, kept: bytes | None) -> bytes:
        since = after(self._node.clock.now(), -KEPT_DAYS)[:_DAY]
        days = {day: counts for day, counts in _days(kept).items() if day > since}
        for day, counts in more.items():
            there = days.setdefault(day, {})
            for name, values in counts.items():
                there[name] = _sum(there.get(name), values)
        return canonical.encode({"type": "score-bands", "version": 1, "days": days})

    def report(self, model: BankModel, days: int) -> list[dict[str, Any]]:
        """Return the stability of each score and own feature over the last `days` days against the training: name, rows,
        `index_micro`, `chance_micro`, grade; a line without rows has `rows` alone."""
        self.flush()
        since = after(self._node.clock.now(), -days)[:_DAY]
        kept = _days(self._node.store.setting(_KEY.format(run=model.run)))
        totals: dict[str, list[int]] = {}
        for counts in (counts for day, counts in kept.items() if day > since):
            for name, values in counts.items():
                totals[name] = _sum(totals.get(name), values)
        return [_line(name, trained, totals.get(name)) for name, trained in _trained(model).items()]


def _trained(model: BankModel) -> dict[str, list[int]]:
    """Return the rows of the training a band and a bin."""
    found = {name: [band[2] for band in bands] for name, bands in model.bands().items()}
    return found | {f"own/{name}": list(rows) for name, rows in model.trained_rows().items()}


def _line(name: str, trained: Sequence[int], scored: Sequence[int] | None) -> dict[str, Any]:
    fits = scored is not None and len(scored) == len(trained)
    found = stability_of_counts(trained, scored) if fits and scored else None
    line: dict[str, Any] = {"name": name, "rows": sum(scored or ())}
    if found is None:
        return line
    return line | {
        "index_micro": round(found.index * 10**6), "chance_micro": round(found.by_chance * 10**6), "grade": found.grade,
    }  # fmt: skip


def _count(counts: dict[str, list[int]], name: str, size: int, places: Iterable[int]) -> None:
    values = counts.setdefault(name, [0] * size)
    for place in places:
        values[place] += 1


def _sum(one: Sequence[int] | None, other: Sequence[int]) -> list[int]:
    if one is None or len(one) != len(other):  # trained again under the same name: older counts say nothing of it
        return list(other)
    return [a + b for a, b in zip(one, other, strict=True)]


def _days(kept: bytes | None) -> dict[str, dict[str, list[int]]]:
    return dict(canonical.decode(kept)["days"]) if kept else {}


def answer(monitor: "ScoreMonitor", models: Mapping[str, BankModel], days: int) -> dict[str, Any]:
    """Return what the control socket answers: the lines of each model, by run."""
    return {
        "days": days,
        "models": [{"run": run, "lines": monitor.report(model, days)} for run, model in models.items()],
    }
