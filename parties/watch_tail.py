"""What has come into a node's ledger and notes since it was started: counted by kind and rule, refusals and alarms logged.

It reads the ledger from behind, a page at a time, so that whatever writes a leaf needs to know nothing of it.
"""

import json
import threading
from collections import Counter
from typing import TYPE_CHECKING, Any

from lianxin.parties.rule_words import in_log
from lianxin.parties.store_ledger import PAGE
from lianxin.parties.watch_log import log_event

if TYPE_CHECKING:
    from lianxin.parties.node import Node

_ENDS = ("finished", "failed", "cancelled", "refused")


class Tail:
    """Counts of one node since it was opened; `look` brings them up to date. Safe to share between threads."""

    def __init__(self, node: "Node") -> None:
        self._node, self._lock = node, threading.Lock()
        self._position, self._note = node.ledger.size, 0
        self._phases: dict[str, tuple[str, float]] = {}  # by run
        self.leaves: Counter[str] = Counter()  # by kind
        self.decisions: Counter[tuple[str, str]] = Counter()  # (allow or deny, rule): of the gate
        self.refusals: Counter[str] = Counter()  # by rule: of messages, conversations and peers
        self.alarms: Counter[str] = Counter()  # by rule
        self.contracts: Counter[str] = Counter()  # by event
        self.phase_s: dict[str, float] = {}  # seconds in each phase of a run that was said here
        self.kept: dict[str, tuple[Any, ...]] = {}  # figures that are too dear for every look

    def look(self, most: int = 50 * PAGE) -> int:
        """Take in what is new, `most` leaves at once, and return how many leaves are left for the next look."""
        with self._lock:
            size = self._node.ledger.size
            end = min(size, self._position + most)
            if end > self._position:
                for data in self._node.store.leaves(self._position, end):
                    self._take(json.loads(data))
                    self._position += 1
            self._hear()
            return size - end

    def _take(self, leaf: dict[str, Any]) -> None:
        kind, rule = leaf["kind"], leaf.get("rule", "")
        self.leaves[kind] += 1
        if kind == "release":
            self.decisions["allow", ""] += 1
            self.decisions.update(("deny", one["rule"]) for one in leaf.get("refused", ()))
        elif kind in ("refusal", "alarm"):
            (self.refusals if kind == "refusal" else self.alarms)[rule] += 1
            fields = {"rule": rule, "peer": leaf.get("peer", ""), "step": leaf.get("step", "")}
            fields = {name: value for name, value in fields.items() if value} | {"what": in_log(rule)}
            log_event(self._node.party, kind, "warning", leaf["run"], fields)
        elif kind == "contract":
            self.contracts[leaf["event"]] += 1

    def _hear(self) -> None:
        _, notes, self._note = self._node.notes.told(self._note)
        for seconds, what, run in notes:
            words = what.split()
            is_over = words[:1] in (["failed"], ["stopped:"]) or (
                words[:1] == ["run"] and words[2:3] and words[2] in _ENDS
            )
            if words[:1] == ["phase"] or is_over:
                phase, since = self._phases.pop(run, ("", 0.0))
                if phase:
                    self.phase_s[phase] = self.phase_s.get(phase, 0.0) + seconds - since
                if not is_over:
                    self._phases[run] = (words[1], seconds)
