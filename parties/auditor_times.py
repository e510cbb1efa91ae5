"""What an auditor checks of a ledger's times: each leaf belongs between the signed heads around it, and none goes back.

Every release is judged at its leaf's own time, so a leaf that is dated back lets an expired or withdrawn authorisation
live again. A party signs the time of each head, and a witness the time at which it saw one: a leaf that came after a head
is no older than it, one under a head no younger, and leaves do not step back. Clocks of honest parties differ, and what
is decided is written a moment later, so a minute either way is left alone. A witness's time counts as far as its own
ledger goes; where only that one disagrees, either clock may have been wrong.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import accumulate

from lianxin.parties.auditor_columns import NEVER, seconds_of
from lianxin.parties.auditor_evidence import NOBODY, Evidence, Finding, Run, leaf_finding
from lianxin.parties.auditor_ledger import cosigned_at, heads_of

TOLERANCE_S = 60
Marks = list[tuple[int, int]]


def time_findings(run: Run, own: Evidence) -> Iterator[Finding]:
    """Yield the leaves and heads without a readable time, and the leaves that are dated back or ahead."""
    heads, seen = _heads(run, own), _cosigned(run, own)
    for head, _ in heads_of(run, own):
        if seconds_of(head["time"]) is None:
            yield Finding(
                f"{own.party}: a signed head of {head['size']} leaves says no time", f"ask {own.party} for it"
            )
    before, witnessed, after = _Steps(heads, max), _Steps(seen, max), _Steps([(-size, at) for size, at in heads], min)
    latest = NEVER
    for index, at in enumerate(own.columns.times):
        if not own.columns.flags[index]:
            continue  # no canonical leaf, which `leaf_findings` says
        if at == NEVER:
            yield _finding(own, index, "its time is none (YYYY-MM-DDTHH:MM:SSZ)")
            continue
        floor = max(latest, before.until(index, NEVER))
        if at < floor - TOLERANCE_S:
            yield _finding(own, index, f"it is dated {floor - at} s before an earlier leaf or signed head")
        elif at < witnessed.until(index, NEVER) - TOLERANCE_S:
            what = "it is dated before a witness cosigned the leaves before it, or one clock was wrong"
            yield replace(_finding(own, index, what), accused=NOBODY)
        if at > after.until(-index - 1, -NEVER) + TOLERANCE_S:
            yield _finding(own, index, "it is dated after a signed head that covers it")
        latest = max(latest, at)


class _Steps:
    """The largest (or smallest) value of all marks up to a place."""

    def __init__(self, marks: Marks, best: Callable[[int, int], int]) -> None:
        ordered = sorted(marks)
        self._places = [place for place, _ in ordered]
        self._values = list(accumulate((value for _, value in ordered), best))

    def until(self, place: int, default: int) -> int:
        found = bisect_right(self._places, place)
        return self._values[found - 1] if found else default


def _heads(run: Run, own: Evidence) -> Marks:
    """Return the size and time of every head of this ledger that its party signed, whoever kept it."""
    found = ((head["size"], seconds_of(head["time"])) for head, _ in heads_of(run, own))
    return [(size, at) for size, at in found if at is not None]


def _cosigned(run: Run, own: Evidence) -> Marks:
    """Return the size of each head of this ledger that a party of the run cosigned, with the time of its cosignature."""
    marks = []
    reach = {party: _last(one) + TOLERANCE_S for party, one in run.evidence.items() if party != own.party}
    for head, line in heads_of(run, own):
        for party in set(reach) & set(run.node_keys):
            at = cosigned_at(line, party, run.node_keys[party])
            if at is not None and at <= reach[party]:
                marks.append((head["size"], at))
    return marks


def _last(evidence: Evidence) -> int:
    """Return the time until which this party's own ledger goes."""
    return max(evidence.columns.times, default=NEVER)


def _finding(own: Evidence, index: int, what: str) -> Finding:
    return leaf_finding(own, index, what, "what its clock showed")
