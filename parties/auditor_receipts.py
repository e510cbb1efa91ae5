"""What an auditor checks between two ends: a message that one party sent is in the other's ledger, and the other way round.

The last messages of a conversation may be missing at the other end in three cases alone, and the verdict says how many:
when the run failed or was refused; when a bank began a later learning conversation of the run, as it does after its
node or the platform was killed; and when the asking bank's ledger says that the query was cut off (Q05). A bank asks
one thing at a time, so that leaf comes after its last message of the conversation and before its next question. That a
bank noted a cut and yet read what was on the road cannot be seen; that it does so often can.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from lianxin.parties.auditor_evidence import Evidence, Finding, Record, Run

_ASKED = ("query/", "scoring/")


@dataclass(frozen=True)
class _Sent:
    """A message that its sender logged and its recipient did not."""

    sender: str
    index: int
    leaf: Record
    is_excused: bool


def receipt_findings(run: Run) -> Iterator[Finding]:
    """Yield the messages that only one end knows, but those that were cut off with their conversation."""
    for one in _unreceived(run):
        if not one.is_excused:
            yield Finding(
                f"{one.sender}, leaf {one.index}: sent to {one.leaf['peer']}, whose ledger does not know that it came",
                f"ask {one.leaf['peer']} for the missing leaf",
            )
    sent = {(party, leaf["peer"], leaf["message_hash"]) for party, _, leaf in _directed(run, "out")}
    for party, index, leaf in _directed(run, "in"):
        if leaf["peer"] in run.evidence and (leaf["peer"], party, leaf["message_hash"]) not in sent:
            yield Finding(
                f"{party}, leaf {index}: received from {leaf['peer']}, whose ledger does not know that it sent it",
                f"ask {leaf['peer']} for the missing leaf",
            )


def excused_detail(run: Run) -> str:
    """Return what was let pass as cut off: messages of a failed run, and of each bank its cut queries with the messages
    and values that are not in its ledger; "" when there is nothing."""
    excused = [one for one in _unreceived(run) if one.is_excused]
    queries = Counter(name.split("/")[1] for name in _cut_queries(run))
    left = _left_conversations(run)
    others = [one for one in excused if not one.leaf["conversation"].startswith(_ASKED)]
    resumed = [one for one in others if one.leaf["conversation"] in left]
    failed = [one for one in others if one.leaf["conversation"] not in left]
    parts = [f"the run failed and left {len(failed)} messages unreceived"] if failed else []
    parts += [f"the run was resumed and left {len(resumed)} messages unreceived"] if resumed else []
    for bank, count in sorted(queries.items()):
        own = tuple(f"{service}{bank}/" for service in _ASKED)
        lost = [one for one in excused if one.leaf["conversation"].startswith(own)]
        lost_to = [one for one in lost if one.leaf["peer"] == bank]
        told = f"{bank} noted {count} queries as cut off, {len(lost)} messages of them unreceived"
        parts.append(f"{told}, with {_values(run, lost_to)} values that were sent to {bank}")
    return "; ".join(parts)


def _unreceived(run: Run) -> Iterator[_Sent]:
    received = {(leaf["peer"], party, leaf["message_hash"]) for party, _, leaf in _directed(run, "in")}
    for party, one in run.evidence.items():
        for _, leaf in one.of_kind("refusal", run.id):
            received.add((leaf["peer"], party, leaf.get("message_hash", "")))
    cut, left, last = set(_cut_queries(run)), _left_conversations(run), defaultdict[tuple[str, str, str], int](lambda: -1)
    missing = []
    for party, index, leaf in _directed(run, "out"):
        if leaf["peer"] not in run.evidence:
            continue
        place = (party, leaf["peer"], leaf["conversation"])
        if (party, leaf["peer"], leaf["message_hash"]) in received:
            last[place] = max(last[place], leaf["seq"])
        else:
            missing.append((place, index, leaf))
    for place, index, leaf in missing:
        name = leaf["conversation"]
        is_cut = name in cut if name.startswith(_ASKED) else run.has_failed or name in left
        yield _Sent(place[0], index, leaf, is_cut and leaf["seq"] > last[place])


def _left_conversations(run: Run) -> set[str]:
    """Return the conversations of banks that began a later learning conversation: `learning/<bank>`, then `.../1`, ...

    What such a bank was told of the agreement before may have been cut off with it, too.
    """
    newest: dict[str, int] = {}
    names = {leaf["conversation"] for one in run.evidence.values() for _, leaf in one.crossings(run.id)}
    for name in names:
        service, _, rest = name.partition("/")
        bank, _, number = rest.partition("/")
        if service == "learning" and (number.isdigit() or not number):
            newest[bank] = max(newest.get(bank, 0), int(number or 0))
    older = {f"learning/{bank}/{n}" for bank, most in newest.items() for n in range(1, most)}
    return older | {f"{first}/{bank}" for bank, most in newest.items() if most for first in ("learning", "contracts")}


def _cut_queries(run: Run) -> Iterator[str]:
    """Yield the conversations that a bank's ledger says were cut off, while they were its newest and with nothing after."""
    for party, one in run.evidence.items():
        newest, cut = "", set[str]()
        for leaf in one.leaves:
            name = leaf.get("conversation")
            own = tuple(f"{service}{party}/" for service in _ASKED)
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
    releases: dict[str, set[str]] = defaultdict(set)
    for one in lost:
        releases[one.sender].update(one.leaf["releases"])
    return sum(size for sender, names in releases.items() for size in _sizes(run, run.evidence[sender], names))


def _sizes(run: Run, own: Evidence, releases: set[str]) -> Iterator[int]:
    found = {own.release_id(index): leaf for index, leaf in own.of_kind("release", run.id)}  # equal leaves have one id
    return (found[name]["rows"] * len(found[name]["fields"]) for name in releases if name in found)


def _directed(run: Run, direction: str) -> Iterator[tuple[str, int, Record]]:
    for party, one in run.evidence.items():
        yield from ((party, index, leaf) for index, leaf in one.crossings(run.id) if leaf["direction"] == direction)
