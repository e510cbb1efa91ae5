"""What an auditor checks of scores under a standing agreement: one request, one release, one answer, as many scores as rows.

A limited consent is counted by the request that a release names. So a request's name is due once, in its place: the n-th
answer of conversation `scoring/<bank>/<number>` is that of the request `<run>.<bank>.<number>.<n>`, n from 0, behind the one
release of this name, behind the one leaf of kind `score`. The bank, which alone reads an answer, writes under which release
how many scores came (`scored`); those are the release's rows.

An answer that never left, or was cut off before it was read, is its conversation's last. What both ends agree to hide, a
smaller count at the bank or an answer in neither ledger, cannot be seen.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from lianxin.parties.auditor_evidence import NOBODY, Evidence, Finding, Record, Run, fits, leaf_finding, message_of

_ANSWER, _ASK, _REPLY = "scoring.answer", "scoring.ask", "ScoreReply"
_NUMBERS = re.compile(r"(0|[1-9][0-9]{0,17})\.(0|[1-9][0-9]{0,17})", re.ASCII)
_COUNTED = {"unknown": int}
_EXCLUDED = {"excluded": [{"rule": str, "firms": int}]}
Leaves = dict[str, list[tuple[int, Record]]]


def score_findings(run: Run, own: Evidence) -> Iterator[Finding]:
    """Yield the releases, answers and counts of scores at this party that are not those of one request each."""
    if run.contract.get("model") == "scoring":
        book = _Book.of(run, own)
        yield from _release_findings(run, own, book)
        yield from _answer_findings(run, own, book)
        yield from _came_findings(run, own, book)
        yield from _scored_findings(run, own, book)


@dataclass(frozen=True)
class _Book:
    """One party's leaves about scores with their indexes: by request, and the releases behind answers by their id."""

    asked: Leaves
    scored: Leaves
    releases: dict[str, tuple[int, Record]]

    @classmethod
    def of(cls, run: Run, own: Evidence) -> "_Book":
        asked, scored = (_by_request(run, own, kind) for kind in ("score", "scored"))
        behind = ((index, leaf) for index, leaf in own.of_kind("release", run.id) if leaf["step"] == _ANSWER)
        return cls(asked, scored, {own.release_id(index): (index, leaf) for index, leaf in behind})


def _by_request(run: Run, own: Evidence, kind: str) -> Leaves:
    found: Leaves = defaultdict(list)
    for index, leaf in own.of_kind(kind, run.id):
        found[leaf["score"]].append((index, leaf))
    return dict(found)


def _release_findings(run: Run, own: Evidence, book: _Book) -> Iterator[Finding]:
    """Yield the releases that are of no request, of another's, or not of the firms that were asked about."""
    named = Counter(str(leaf.get("query")) for _, leaf in book.releases.values())
    for index, leaf in book.releases.values():
        request = str(leaf.get("query"))
        asked = [one for at, one in book.asked.get(request, ()) if at < index]
        broken = {
            "names no request of its recipient": not _is_request(run, leaf["recipient"], request),
            "counts its use under another name than its request's": leaf.get("use") != request,
            "is not the only one of its request": named[request] > 1,
            "has not one leaf in front of it that says what was asked": len(asked) != 1,
        }
        for what in [what for what, holds in broken.items() if holds] or _count_faults(leaf, asked[0]):
            yield _finding(own, index, f"a release for scores {what}")


def _is_request(run: Run, bank: str, request: str) -> bool:
    head = f"{run.id}.{bank}."
    return request.startswith(head) and _NUMBERS.fullmatch(request.removeprefix(head)) is not None


def _count_faults(leaf: Record, asked: Record) -> list[str]:
    if not fits(leaf, _EXCLUDED) or not fits(asked, _COUNTED) or asked["peer"] != leaf["recipient"]:
        return ["is of another bank than was asked for, or lacks a count"]
    firms, known = asked["firms"], asked["firms"] - asked["unknown"]
    decided = leaf["rows"] + sum(one["firms"] for one in leaf["excluded"])
    if decided == firms and 0 <= leaf["rows"] <= known:
        return []
    return [f"lets {leaf['rows']} of {decided} firms go; {firms} were asked for, {known} of them known"]


def _answer_findings(run: Run, own: Evidence, book: _Book) -> Iterator[Finding]:
    """Yield the answers that left without the one release of the request that was due."""
    answered, used = Counter[str](), Counter[str]()
    for index, leaf in own.crossings(run.id, "out"):
        behind, is_reply = [name for name in leaf["releases"] if name in book.releases], leaf["message_type"] == _REPLY
        if not (behind or is_reply):
            continue
        used.update(behind)
        due = _due(run, leaf["peer"], leaf["conversation"], answered)
        names = [book.releases[name][1].get("query") for name in behind]
        broken = {
            "not behind one release for scores": not (is_reply and len(leaf["releases"]) == len(behind) == 1),
            "under a release that an earlier answer left under": any(used[name] > 1 for name in behind),
            "under a release of another request than the one due": names != [due],
        }
        what = next((what for what, holds in broken.items() if holds), "")
        if what:
            yield _finding(own, index, f"an answer with scores left {what}", message_of(own.party, leaf))


def _due(run: Run, bank: str, conversation: str, answered: Counter[str]) -> str:
    """Return the id of the request whose answer is the next of a conversation, and count it."""
    head, _, number = conversation.rpartition("/")
    place, answered[conversation] = answered[conversation], answered[conversation] + 1
    return f"{run.id}.{bank}.{number}.{place}" if head == f"scoring/{bank}" else ""


def _came_findings(run: Run, own: Evidence, book: _Book) -> Iterator[Finding]:
    """Yield the answers that came and of which no leaf, or not one, says how many scores they brought."""
    answered, cut, came = Counter[str](), _cut(run, own), set[str]()
    replies = [
        (index, leaf)
        for index, leaf in own.crossings(run.id)
        if leaf["direction"] == "in" and leaf["message_type"] == _REPLY
    ]
    last = {leaf["conversation"]: index for index, leaf in replies}
    for index, leaf in replies:
        due = _due(run, own.party, leaf["conversation"], answered)
        came.add(due)
        counted = [at for at, one in book.scored.get(due, ()) if at > index and one["peer"] == leaf["peer"]]
        is_cut = not counted and index == last[leaf["conversation"]] and cut.get(leaf["conversation"], -1) > index
        if len(counted) != 1 and not is_cut:
            yield _finding(
                own,
                index,
                "an answer came, and not one leaf says how many scores it brought",
                message_of(own.party, leaf),
            )
    for request in sorted(set(book.scored) - came):
        yield _finding(own, book.scored[request][0][0], "scores are counted of an answer that never came")


def _cut(run: Run, own: Evidence) -> dict[str, int]:
    """Return the conversations that this party noted as cut off (Q05), with the index of the leaf that says so."""
    noted = (
        (index, leaf.get("conversation")) for index, leaf in own.of_kind("refusal", run.id) if leaf["rule"] == "Q05"
    )
    return {name: index for index, name in noted if isinstance(name, str)}


def _scored_findings(run: Run, own: Evidence, book: _Book) -> Iterator[Finding]:
    """Yield the counts of scores that differ from what the other end's release let go and was asked for."""
    sent = {leaf.get("query"): leaf["rows"] for _, leaf in own.of_kind("release", run.id) if leaf["step"] == _ASK}
    others: dict[str, _Book] = {}
    for request, found in book.scored.items():
        index, leaf = found[0]
        peer = leaf["peer"]
        if peer not in run.evidence:
            continue  # which the check of the parties says
        other = others.setdefault(peer, _Book.of(run, run.evidence[peer]))
        what = _scored_fault(leaf, request, sent.get(request), other)
        if what:
            rule = "G04" if "(rule G04)" in what else ""
            ask = f"ask {own.party} and {peer} what crossed"
            yield Finding(f"{own.party}, leaf {index}: {what}", ask, index, rule, accused=NOBODY)


def _scored_fault(leaf: Record, request: str, sent: int | None, other: _Book) -> str:
    peer = leaf["peer"]
    _, release = other.releases.get(leaf["release"], (0, {}))
    if release.get("query") != request:
        return f"scores came under a release that {peer} did not make for their request"
    if release["rows"] != leaf["scores"]:
        return f"{leaf['scores']} scores came under a release of {release['rows']} rows of {peer} (rule G04)"
    asked = [one["firms"] for _, one in other.asked.get(request, ())]
    return "" if asked == [sent] else f"{peer} answered about another number of firms than were named to it"


def _finding(own: Evidence, index: int, what: str, message: str = "") -> Finding:
    return leaf_finding(own, index, what, "by which right it left", "", message)
