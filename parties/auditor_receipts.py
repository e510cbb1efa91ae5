"""What an auditor checks between two ends: a message that one party sent is in the other's ledger, and the other way round.

The last messages of a conversation may be missing at the other end in three cases alone, and the verdict says how many:
when the run failed or was refused; when a bank began a later learning conversation of the run, as it does after its
node or the platform was killed; and when the asking bank's ledger says that the query was cut off (Q05). A bank asks
one thing at a time, so that leaf comes after its last message of the conversation and before its next question. That a
bank noted a cut and yet read what was on the road cannot be seen; that it does so often can.
"""

from array import array
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from lianxin.parties.auditor_columns import mark_of
from lianxin.parties.auditor_envelopes import Releases
from lianxin.parties.auditor_evidence import Finding, Record, Run, message_of

_ASKED = ("query/", "scoring/")


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
        self._missing = _missing(run)

    def findings(self) -> Iterator[Finding]:
        """Yield the messages that only one end knows, but those that were cut off with their conversation."""
        for one in self._unreceived():
            if not one.is_excused:
                yield _one_ended(one.sender, one.index, one.leaf, "sent to {}, whose ledger does not know that it came")
        for recipient, index, leaf in _unsent(self._run):
            yield _one_ended(recipient, index, leaf, "received from {}, whose ledger does not know that it sent it")

    def excused_detail(self) -> str:
        """Return what was let pass as cut off: messages of a failed run, and of each bank its cut queries with the messages
        and values that are not in its ledger; "" when there is nothing."""
        run, excused = self._run, [one for one in self._unreceived() if one.is_excused]
        queries = Counter(name.split("/")[1] for name in _cut_queries(run))
        parts = _ended_details(run, [one for one in excused if not one.leaf["conversation"].startswith(_ASKED)])
        for bank, count in sorted(queries.items()):
            own = tuple(f"{service}{bank}/" for service in _ASKED)
            lost = [one for one in excused if one.leaf["conversation"].startswith(own)]
            lost_to = [one for one in lost if one.leaf["peer"] == bank]
            told = f"{bank} noted {count} queries as cut off, {len(lost)} messages of them unreceived"
            parts.append(f"{told}, with {_values(run, lost_to)} values that were sent to {bank}")
        return "; ".join(parts)

    def _unreceived(self) -> Iterator[_Sent]:
        run = self._run
        if not any(self._missing.values()):
            return
        cut, left, has_failed = set(_cut_queries(run)), _Left(run), run.has_failed
        for sender, places in self._missing.items():
            own = run.evidence[sender]
            last = _last_received(run, sender, places)
            for index in places:
                leaf = own.leaves[index]
                name = leaf["conversation"]
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
    return parts + ([f"the run was resumed and left {resumed} messages unreceived"] if resumed else [])


def _one_ended(party: str, index: int, leaf: Record, what: str) -> Finding:
    peer = leaf["peer"]
    detail = f"{party}, leaf {index}: {what.format(peer)}"
    return Finding(detail, f"ask {peer} for the missing leaf", index, "", message_of(party, leaf), peer)


def _unsent(run: Run) -> Iterator[tuple[str, int, Record]]:
    """Yield (recipient, index, leaf) of what came and is in its sender's ledger not as sent."""
    sent = _marks(run, "out")
    for recipient, one in run.evidence.items():
        for index in one.columns.crossed(run.id, "in"):
            if not _is_in(one.columns.marks[index], sent):
                leaf = one.leaves[index]
                if leaf["peer"] in run.evidence:
                    yield recipient, index, leaf


def _missing(run: Run) -> dict[str, "array[int]"]:
    """Return by party the indexes of what it sent and its recipient's ledger does not know, neither as refused."""
    received = _marks(run, "in")
    missing = {party: array("Q") for party in run.evidence}
    for sender, one in run.evidence.items():
        for index in one.columns.crossed(run.id, "out"):
            if not _is_in(one.columns.marks[index], received) and one.leaves[index]["peer"] in run.evidence:
                missing[sender].append(index)
    return missing


def _marks(run: Run, direction: str) -> "array[int]":
    """Return, sorted, the marks of all messages that crossed in one direction, of the refused ones too where they came in."""
    found = array("Q")
    for party, one in run.evidence.items():
        found.extend(one.columns.marks[index] for index in one.columns.crossed(run.id, direction))
        if direction == "in":
            refused = ((leaf["peer"], leaf.get("message_hash")) for _, leaf in one.of_kind("refusal", run.id))
            found.extend(mark_of(peer, party, digest) for peer, digest in refused if isinstance(digest, str))
    return array("Q", sorted(found))


def _is_in(mark: int, marks: "array[int]") -> bool:
    at = bisect_left(marks, mark)
    return at < len(marks) and marks[at] == mark


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
    """The conversations of banks that began a later learning conversation: `learning/<bank>`, then `.../1`, ...

    What such a bank was told of the agreement before may have been cut off with it, too.
    """

    def __init__(self, run: Run) -> None:
        self._newest: dict[str, int] = {}
        for one in run.evidence.values():
            for _, leaf in one.crossings(run.id):
                service, bank, number = _named(leaf["conversation"])
                if service == "learning" and number >= 0:
                    self._newest[bank] = max(self._newest.get(bank, 0), number)

    def __contains__(self, name: str) -> bool:
        service, bank, number = _named(name)
        newest = self._newest.get(bank, 0)
        if name == f"{service}/{bank}":
            return newest > 0 and service in ("learning", "contracts")
        return service == "learning" and 0 < number < newest and name == f"learning/{bank}/{number}"


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
