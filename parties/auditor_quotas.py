"""What an auditor checks of quotas and budgets: what one party let go over all runs of its ledger, in rolling windows.

A platform's `policy.json` holds the quotas that were in force when it proposed the run, and its leaf `proposed` commits to
them: they are judged from there to the run's end. Each bank is counted over all runs, as the node counts it: matching queries
(M04), firms in field queries and in requests for scores (Q01, by calendar days), distinct cuts of tree models (BQ01),
statistics of one field to one recipient (OUT-BUDGET). Queries of other runs are reckoned from their messages' bytes at the
largest key that there is: never more than were asked. What a bank spent of differential privacy is summed over the window that
its leaves name.

Not to be seen: how many models one firm was scored by, and which sets of firms two statistics were about; no leaf names firms.
"""

import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from lianxin.parties.auditor_envelopes import END_EVENTS
from lianxin.parties.auditor_evidence import Evidence, Finding, Record, Run, fits, leaf_finding
from lianxin.parties.auditor_limits import SPARE_BYTES, query_bytes
from lianxin.parties.auditor_plan import approvals_with
from lianxin.parties.auditor_times import seconds_of

QUOTA: Record = dict.fromkeys(("queries", "field_queries", "split_bits", "scores", "outputs", "days"), int)
MOST_KEY_BITS = 8192
DAY_S, TOLERANCE_S = 86_400, 120  # a leaf comes a moment after what was charged
_RULES = {"queries": "M04", "field_queries": "Q01", "scores": "Q01", "split_bits": "BQ01", "outputs": "OUT-BUDGET"}
_WORDS = {
    "queries": "matching queries", "field_queries": "firms in field queries", "scores": "firms in requests for scores",
    "split_bits": "sides of cuts", "outputs": "statistics of one field",
}  # fmt: skip
_ASKS = re.compile(rb'"message_type":"Bank(BlindedElements|Queries)"')
_KINDS = ("envelope", "query", "score", "split-bits", "release")


@dataclass
class Window:
    """A sum over the last `days` days, to which amounts come in the order of their times."""

    days: int
    by_day: bool
    total: int = 0
    _entries: deque[tuple[int, int]] = field(default_factory=deque)

    def add(self, at: int, amount: int) -> int:
        """Add an amount at a time in seconds, and return the sum over the window that ends there."""
        at = at // DAY_S * DAY_S if self.by_day else at
        if self._entries and self._entries[-1][0] == at:
            self._entries[-1] = (at, self._entries[-1][1] + amount)
        else:
            self._entries.append((at, amount))
        self.total += amount
        while self._entries[0][0] <= self._since(at):
            self.total -= self._entries.popleft()[1]
        return self.total

    def _since(self, at: int) -> int:
        return at - self.days * DAY_S + (0 if self.by_day else TOLERANCE_S)


def quota_findings(run: Run, own: Evidence) -> Iterator[Finding]:
    """Yield the first leaf, for each quota and bank, by which this party let more go than its own quota allows."""
    yield from _privacy_findings(run, own)
    yield from _left_findings(own)
    policy = own.documents.get("policy", {})
    quota: Any = policy.get("quota")
    if policy.get("type") != "platform-policy" or not fits(quota, QUOTA) or not quota["days"] > 0:
        return
    start, end = _in_force(run, own)
    windows: dict[tuple[str, str], Window] = {}
    said = set[tuple[str, str]]()
    for kind in _KINDS:
        for index, leaf in _questions(own) if kind == "envelope" else own.of_kind(kind):
            at = seconds_of(leaf["time"])
            for name, peer, amount in _spent(run, leaf) if at is not None else ():
                window = windows.setdefault((name, peer), Window(quota["days"], name not in ("queries", "split_bits")))
                total, who = window.add(at or 0, amount), peer.partition("/")[0]
                if total > quota[name] and start <= index <= end and (name, who) not in said:
                    said.add((name, who))
                    yield _over(own, index, name, who, total, quota)


def _in_force(run: Run, own: Evidence) -> tuple[int, int]:
    """Return from which leaf to which this run's quotas are known to be in force; before and after they may be others."""
    named = approvals_with(run, own, "policy_hash")
    ends = (index for index, leaf in own.of_kind("contract", run.id) if leaf["event"] in END_EVENTS)
    return (named[0][0] if named else len(own.leaves)), next(ends, len(own.leaves))


def _questions(own: Evidence) -> Iterator[tuple[int, Record]]:
    """Yield the leaves of messages with matching queries, found by their bytes: few of very many."""
    for index in own.columns.of_kind("envelope"):
        if _ASKS.search(own.ledger_lines[index]):
            yield index, own.leaves[index]


def _over(own: Evidence, index: int, name: str, who: str, total: int, quota: Record) -> Finding:
    rule, most, days = _RULES[name], quota[name], quota["days"]
    what = f"{who} had {total} {_WORDS[name]} in {days} days, the quota is {most} (rule {rule})"
    return leaf_finding(own, index, what, "why it answered", rule)


def _spent(run: Run, leaf: Record) -> Iterator[tuple[str, str, int]]:
    """Yield (quota, whose, how much) of one leaf; a statistic counts for each of its fields."""
    kind = leaf["kind"]
    if kind == "envelope":
        key_bits = run.contract.get("key_bits") if leaf["run"] == run.id else MOST_KEY_BITS
        unit = query_bytes(leaf["message_type"], key_bits if isinstance(key_bits, int) else MOST_KEY_BITS)
        size = leaf.get("size_bytes")
        if unit and leaf["direction"] == "in" and isinstance(size, int):
            yield "queries", leaf["peer"], max(0, size - SPARE_BYTES) // unit
    elif kind in ("query", "score"):
        firms = leaf.get("firms")
        if isinstance(firms, int) and isinstance(leaf.get("peer"), str):
            yield ("scores" if kind == "score" else "field_queries"), leaf["peer"], firms
    elif kind == "split-bits":
        yield "split_bits", leaf["peer"], leaf["bits"]
    elif leaf["mode"] == "AGGREGATE":
        yield from (("outputs", f"{leaf['recipient']}/{name}", 1) for name in sorted(set(leaf["fields"])))


def _left_findings(own: Evidence) -> Iterator[Finding]:
    """Yield the leaves by which more sides of cuts were told than the leaf itself says were left."""
    for index, leaf in own.of_kind("split-bits"):
        left = leaf.get("left", 0)
        if leaf["bits"] < 0 or (isinstance(left, int) and left < 0):
            what = f"sides of more cuts were told to {leaf['peer']} than were left (rule BQ01)"
            yield leaf_finding(own, index, what, "why it told them", "BQ01")


def _privacy_findings(run: Run, own: Evidence) -> Iterator[Finding]:
    """Yield the first leaf by which runs of this table spent more ε in a rolling window than the first leaf of it shows."""
    windows: dict[int, Window] = {}
    budget: dict[int, int] = {}
    for index, leaf in own.of_kind("privacy"):
        days, at = leaf.get("days", 0), seconds_of(leaf["time"])
        if type(days) is not int or days <= 0 or at is None:
            continue
        spent = windows.setdefault(days, Window(days, by_day=False)).add(at, leaf["epsilon_thousandths"])
        budget.setdefault(days, leaf["left_thousandths"] + spent)
        if spent > budget[days]:
            what = (
                f"runs spent {spent} thousandths of epsilon in {days} days, of a budget of {budget[days]} (rule DP01)"
            )
            yield leaf_finding(own, index, what, "with what noise it trained", "DP01")
            return


__all__ = ["QUOTA", "Window", "quota_findings"]
