"""What an auditor checks between two ends: a message that one party sent is in the other's ledger, and the other way round.

A message that its recipient refused, by a rule and by the message's hash, counts as known where the run did not finish there
afterwards; the verdict says how many each party refused. The last messages of a conversation may be missing at the other end
in three cases alone, and the verdict says how many: when the run broke off for one of the two (`auditor_ends`); when a bank
began a later learning conversation of the run, or was told its end in a later one, as after its node or the platform was
killed; and when the asking
bank's ledger says that the query was cut off (Q05). A bank asks one thing at a time, so that leaf comes after its last message
of the conversation and before its next question. That a bank noted a cut and yet read what was on the road cannot be seen;
that it does so often can.
"""

import re
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from lianxin.parties.auditor_columns import mark_of
from lianxin.parties.auditor_ends import broke_off, finished_at
from lianxin.parties.auditor_envelopes import Releases
from lianxin.parties.auditor_evidence import Finding, Record, Run, message_of
from lianxin.parties.auditor_lines import Marks

_ASKED = ("query/", "scoring/")
_STANDING = frozenset({"field_query", "scoring"})
_RULE = re.compile(r"[A-Z]{1,8}-?[A-Z0-9]{1,12}")


@dataclass(frozen=True)
class _Sent:
    """A message that its sender logged and its recipient did not."""

    sender: str
    index: int
    leaf: Record
    is_excused: bool


class Receipts:
    """What each end's ledger does not know of the other's, found once: eight bytes a message that one end lacks."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._refused = {party: _refused(run, party) for party in run.evidence}
        self._missing = _missing(run, self._refused)

    def findings(self) -> Iterator[Finding]:
        """Yield the messages that only one end knows, but those that were cut off with their conversation."""
        for one in self._unreceived():
            if not one.is_excused:
                is_late = _mark_of(one) in self._late.get(one.leaf["peer"], ())
                what = "sent to {}, whose ledger says that it refused it, and that the run finished after that"
                unknown = "sent to {}, whose ledger does not know that it came"
                yield _one_ended(one.sender, one.index, one.leaf, what if is_late else unknown)
        for recipient, index, leaf in _unsent(self._run):
            yield _one_ended(recipient, index, leaf, "received from {}, whose ledger does not know that it sent it")

    def excused_detail(self) -> str:
        """Return what was let pass: messages that were refused, messages of a failed run, and of each bank its cut queries with
        the messages and values that are not in its ledger; "" when there is nothing."""
        run, excused = self._run, [one for one in self._unreceived() if one.is_excused]
        queries = Counter(name.split("/")[1] for name in _cut_queries(run))
        parts = [
            f"{len(marks)} messages were refused by {party}" for party, marks in sorted(self._refused.items()) if marks
        ]
        parts += _ended_details(run, [one for one in excused if not one.leaf["conversation"].startswith(_ASKED)])
        for bank, count in sorted(queries.items()):
            own = tuple(f"{service}{bank}/" for service in _ASKED)
            lost = [one for one in excused if one.leaf["conversation"].startswith(own)]
            lost_to = [one for one in lost if one.leaf["peer"] == bank]
            told = f"{bank} noted {count} queries as cut off, {len(lost)} messages of them unreceived"
            parts.append(f"{told}, with {_values(run, lost_to)} values that were sent to {bank}")
        return "; ".join(parts)

    @cached_property
    def _late(self) -> Mapping[str, frozenset[int]]:
        """The messages that each party says it refused in a run that finished there afterwards: that counts for nothing."""
        found = {party: frozenset(_refusals(self._run, party)) for party in self._run.evidence}
        return {party: marks - self._refused[party] for party, marks in found.items()}

    def _unreceived(self) -> Iterator[_Sent]:
        run = self._run
        if not any(self._missing.values()):
            return
        cut, left = set(_cut_queries(run)), _Left(run)
        broken = {party for party in run.evidence if broke_off(run, party)}
        for sender, places in self._missing.items():
            own = run.evidence[sender]
            last = _last_received(run, sender, places)
            for index in places:
                leaf = own.leaves[index]
                name = leaf["conversation"]
                has_failed = not broken.isdisjoint((sender, leaf["peer"]))
                is_cut = name in cut if name.startswith(_ASKED) else has_failed or name in left
                yield _Sent(sender, index, leaf, is_cut and leaf["seq"] > last[leaf["peer"], name])


def receipt_findings(run: Run) -> Iterator[Finding]:
    """Yield the messages that only one end knows, but those that were cut off with their conversation."""
    return Receipts(run).findings()


def _ended_details(run: Run, others: list[_Sent]) -> list[str]:
    if not others:
        return []
    left = _Left(run)
    resumed = sum(one.leaf["conversation"] in left for one in others)
    failed = len(others) - resumed
    parts = [f"the run failed and left {failed} messages unreceived"] if failed else []
    return parts + (
        [f"the run was resumed or its end told again, and {resumed} messages were left unreceived"] if resumed else []
    )


def _one_ended(party: str, index: int, leaf: Record, what: str) -> Finding:
    peer = leaf["peer"]
    detail = f"{party}, leaf {index}: {what.format(peer)}"
    return Finding(detail, f"ask {peer} for the missing leaf", index, "", message_of(party, leaf), peer)


def _unsent(run: Run) -> Iterator[tuple[str, int, Record]]:
    """Yield (recipient, index, leaf) of what came and is in its sender's ledger not as sent."""
    sent = _marks(run, "out")
    for recipient, one in run.evidence.items():
        for index in one.columns.crossed(run.id, "in"):
            if not sent.holds(one.columns.marks[index]):
                leaf = one.leaves[index]
                if leaf["peer"] in run.evidence:
                    yield recipient, index, leaf


def _missing(run: Run, refused: Mapping[str, frozenset[int]]) -> dict[str, "array[int]"]:
    """Return by party the indexes of what it sent and its recipient's ledger does not know, neither as refused."""
    received = _marks(run, "in")
    received.extend(mark for marks in refused.values() for mark in marks)
    received = received.ordered()
    missing = {party: array("Q") for party in run.evidence}
    for sender, one in run.evidence.items():
        for index in one.columns.crossed(run.id, "out"):
            if not received.holds(one.columns.marks[index]) and one.leaves[index]["peer"] in run.evidence:
                missing[sender].append(index)
    return missing


def _marks(run: Run, direction: str) -> Marks:
    """Return, sorted, the marks of all messages that crossed in one direction."""
    found = Marks()
    for one in run.evidence.values():
        found.extend(one.columns.marks[index] for index in one.columns.crossed(run.id, direction))
    return found.ordered()


def _refused(run: Run, party: str) -> frozenset[int]:
    """Return the marks of the messages that a party refused, as far as its own ledger does not say otherwise later on.

    A refusal ends a run; an agreement that stands goes on after one.
    """
    end = -1 if run.contract.get("model") in _STANDING else finished_at(run, party)
    return frozenset(mark for mark, index in _refusals(run, party).items() if index > end)


def _refusals(run: Run, party: str) -> dict[int, int]:
    """Return the marks of the messages that a party's leaves of kind `refusal` name by a rule of known form, and the leaves."""
    found = {}
    for index, leaf in run.evidence[party].of_kind("refusal", run.id):
        digest = leaf.get("message_hash")
        if isinstance(digest, str) and _RULE.fullmatch(leaf["rule"]):
            found[mark_of(leaf["peer"], party, digest)] = index
    return found


def _mark_of(one: _Sent) -> int:
    return mark_of(one.sender, one.leaf["peer"], one.leaf["message_hash"])


def _last_received(run: Run, sender: str, places: "array[int]") -> dict[tuple[str, str], int]:
    """Return the last number that the recipient knows of each conversation in which it lacks a message of `sender`."""
    own, gone = run.evidence[sender], set(places)
    wanted = {(leaf["peer"], leaf["conversation"]) for leaf in map(own.leaves.__getitem__, places)}
    last = defaultdict[tuple[str, str], int](lambda: -1)
    for index, leaf in own.crossings(run.id, "out") if places else ():
        place = (leaf["peer"], leaf["conversation"])
        if place in wanted and index not in gone:
            last[place] = max(last[place], leaf["seq"])
    return last


class _Left:
    """The conversations after which a bank began a later one: `learning/<bank>`, then `.../1`, ..., and in the same way
    `contracts/<bank>`, in which the platform tells the end of a run until the bank has confirmed it.

    What a bank that began a later learning conversation was told of the agreement may have been cut off with it, too.
    """

    def __init__(self, run: Run) -> None:
        self._newest: dict[tuple[str, str], int] = {}
        for one in run.evidence.values():
            for _, leaf in one.crossings(run.id):
                service, bank, number = _named(leaf["conversation"])
                if service in ("learning", "contracts") and number >= 0:
                    self._newest[service, bank] = max(self._newest.get((service, bank), 0), number)

    def __contains__(self, name: str) -> bool:
        service, bank, number = _named(name)
        newest = self._newest.get((service, bank), 0)
        if name == f"{service}/{bank}":
            return newest > 0 or (service == "contracts" and self._newest.get(("learning", bank), 0) > 0)
        return 0 < number < newest and name == f"{service}/{bank}/{number}"


def _named(conversation: str) -> tuple[str, str, int]:
    """Return a conversation's service, bank and number, 0 where it has none, -1 where it is no number."""
    service, _, rest = conversation.partition("/")
    bank, _, number = rest.partition("/")
    is_number = number.isascii() and number.isdigit() and len(number) < 10
    return service, bank, int(number) if is_number else -1 if number else 0


def _cut_queries(run: Run) -> Iterator[str]:
    """Yield the conversations that a bank's ledger says were cut off, while they were its newest and with nothing after."""
    for party, one in run.evidence.items():
        if not any(leaf["rule"] == "Q05" for _, leaf in one.of_kind("refusal", run.id)):
            continue
        newest, cut = "", set[str]()
        own = tuple(f"{service}{party}/" for service in _ASKED)
        for leaf in one.leaves:
            name = leaf.get("conversation")
            if not isinstance(name, str) or leaf["run"] != run.id or not name.startswith(own):
                continue
            if leaf["kind"] != "refusal":
                newest = name
                cut.discard(name)
            elif leaf.get("rule") == "Q05" and name == newest:
                cut.add(name)
        yield from sorted(cut)


def _values(run: Run, lost: list[_Sent]) -> int:
    """Return how many released values lie behind these messages."""
    names: dict[str, set[str]] = defaultdict(set)
    for one in lost:
        names[one.sender].update(one.leaf["releases"])
    return sum(_size(Releases(run, run.evidence[sender]), found) for sender, found in names.items())


def _size(releases: Releases, names: set[str]) -> int:
    found = (releases.get(name)[1] for name in names)
    return sum(leaf["rows"] * len(leaf["fields"]) for leaf in found if leaf)
