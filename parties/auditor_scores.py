"""What an auditor checks of scores under a standing agreement: one request, one release, one answer, as many scores as rows.

A limited consent is counted by the request that a release names. So a request's name is due once, in its place: the n-th
answer of conversation `scoring/<bank>/<number>` is that of the request `<run>.<bank>.<number>.<n>`, n from 0, behind the one
release of this name, behind the one leaf of kind `score`. The bank, which alone reads an answer, writes under which release
how many scores came (`scored`); those are the release's rows.

An answer that never left, or was cut off before it was read, is its conversation's last. What both ends agree to hide, a
smaller count at the bank or an answer in neither ledger, cannot be seen.
"""

import hashlib
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator

from lianxin.parties.auditor_envelopes import Releases
from lianxin.parties.auditor_evidence import NOBODY, Evidence, Finding, Record, Run, fits, leaf_finding, message_of
from lianxin.parties.auditor_lines import Places

_ANSWER, _ASK, _REPLY = "scoring.answer", "scoring.ask", "ScoreReply"
_NUMBERS = re.compile(r"(0|[1-9][0-9]{0,17})\.(0|[1-9][0-9]{0,17})", re.ASCII)
_COUNTED = {"unknown": int}
_EXCLUDED = {"excluded": [{"rule": str, "firms": int}]}


def score_findings(run: Run, own: Evidence) -> Iterator[Finding]:
    """Yield the releases, answers and counts of scores at this party that are not those of one request each."""
    if run.contract.get("model") == "scoring":
        book = _Book(run, own)
        yield from _release_findings(run, own, book)
        yield from _answer_findings(run, own, book)
        yield from _came_findings(run, own, book)
        yield from _scored_findings(run, own, book)


class _Named:
    """The indexes of leaves by a text that each one says, in order: 24 bytes a leaf, 16 of them of the text's hash."""

    _KEY, _ENTRY = 16, 24

    def __init__(self, leaves: Iterable[tuple[int, object]]) -> None:
        entries = sorted(self._digest(text) + index.to_bytes(self._ENTRY - self._KEY) for index, text in leaves)
        self._data, self._count = b"".join(entries), len(entries)

    def of(self, text: object, after: int = -1, most: int = 2) -> list[int]:
        """Return the first `most` indexes behind `after` of the leaves that say this text."""
        digest = self._digest(text)
        at = bisect_left(range(self._count), digest + (after + 1).to_bytes(8), key=self._entry)
        found = [self._entry(n) for n in range(at, min(at + most, self._count))]
        return [int.from_bytes(one[self._KEY :]) for one in found if one.startswith(digest)]

    def _entry(self, n: int) -> bytes:
        return self._data[n * self._ENTRY : (n + 1) * self._ENTRY]

    def _digest(self, text: object) -> bytes:
        data = str(text).encode(errors="surrogatepass")
        return hashlib.blake2b(data, digest_size=self._KEY).digest()


class _Book:
    """One party's leaves about scores, by request, and its releases: where they are, and no leaf itself."""

    def __init__(self, run: Run, own: Evidence) -> None:
        self.own, self._run, self._releases = own, run, Releases(run, own)
        self.asked, self.scored = (
            _Named((index, leaf["score"]) for index, leaf in own.of_kind(kind, run.id)) for kind in ("score", "scored")
        )
        self.named = _Named((index, leaf.get("query")) for index, leaf in self.released(_ANSWER))

    def released(self, step: str) -> Iterator[tuple[int, Record]]:
        """Yield the index and leaf of each release of the run for one step."""
        return ((index, leaf) for index, leaf in self.own.of_kind("release", self._run.id) if leaf["step"] == step)

    def behind(self, name: str) -> Record:
        """Return the release for an answer that has this id, an empty record where there is none."""
        _, leaf = self._releases.get(name)
        return leaf if leaf.get("step") == _ANSWER else {}


def _release_findings(run: Run, own: Evidence, book: _Book) -> Iterator[Finding]:
    """Yield the releases that are of no request, of another's, or not of the firms that were asked about."""
    for index, leaf in book.released(_ANSWER):
        request = str(leaf.get("query"))
        asked = [own.leaves[at] for at in book.asked.of(request) if at < index]
        broken = {
            "names no request of its recipient": not _is_request(run, leaf["recipient"], request),
            "counts its use under another name than its request's": leaf.get("use") != request,
            "is not the only one of its request": len(book.named.of(request)) > 1,
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
    answered, used = Counter[str](), Places()
    for index, leaf in own.crossings(run.id, "out"):
        behind = {name: release for name in leaf["releases"] if (release := book.behind(name))}
        is_reply = leaf["message_type"] == _REPLY
        if not (behind or is_reply):
            continue
        due = _due(run, leaf["peer"], leaf["conversation"], answered)
        names = [release.get("query") for release in behind.values()]
        earlier = [name for name in behind if name.encode() in used]
        for name in behind:
            used.add(name.encode())
        broken = {
            "not behind one release for scores": not (is_reply and len(leaf["releases"]) == len(behind) == 1),
            "under a release that an earlier answer left under": bool(earlier),
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
    answered, cut, came = Counter[str](), _cut(run, own), Places()
    last = {leaf["conversation"]: index for index, leaf in _replies(run, own)}
    for index, leaf in _replies(run, own):
        due = _due(run, own.party, leaf["conversation"], answered)
        came.add(due.encode(errors="surrogatepass"))
        counted = [at for at in book.scored.of(due, index) if own.leaves[at]["peer"] == leaf["peer"]]
        is_cut = not counted and index == last[leaf["conversation"]] and cut.get(leaf["conversation"], -1) > index
        if len(counted) != 1 and not is_cut:
            yield _finding(
                own,
                index,
                "an answer came, and not one leaf says how many scores it brought",
                message_of(own.party, leaf),
            )
    for index, leaf in _first_scored(run, book):
        if leaf["score"].encode(errors="surrogatepass") not in came:
            yield _finding(own, index, "scores are counted of an answer that never came")


def _replies(run: Run, own: Evidence) -> Iterator[tuple[int, Record]]:
    return ((index, leaf) for index, leaf in own.crossings(run.id, "in") if leaf["message_type"] == _REPLY)


def _first_scored(run: Run, book: _Book) -> Iterator[tuple[int, Record]]:
    """Yield the first leaf of each request that says how many scores came."""
    for index, leaf in book.own.of_kind("scored", run.id):
        if book.scored.of(leaf["score"], most=1) == [index]:
            yield index, leaf


def _cut(run: Run, own: Evidence) -> dict[str, int]:
    """Return the conversations that this party noted as cut off (Q05), with the index of the leaf that says so."""
    noted = (
        (index, leaf.get("conversation")) for index, leaf in own.of_kind("refusal", run.id) if leaf["rule"] == "Q05"
    )
    return {name: index for index, name in noted if isinstance(name, str)}


def _scored_findings(run: Run, own: Evidence, book: _Book) -> Iterator[Finding]:
    """Yield the counts of scores that differ from what the other end's release let go and was asked for."""
    sent = _Named((index, leaf.get("query")) for index, leaf in book.released(_ASK))
    others: dict[str, _Book] = {}
    for index, leaf in _first_scored(run, book):
        peer = leaf["peer"]
        if peer not in run.evidence:
            continue  # which the check of the parties says
        if peer not in others:
            others[peer] = _Book(run, run.evidence[peer])
        rows = [own.leaves[at]["rows"] for at in sent.of(leaf["score"])]
        what = _scored_fault(leaf, rows, others[peer])
        if what:
            rule = "G04" if "(rule G04)" in what else ""
            ask = f"ask {own.party} and {peer} what crossed"
            yield Finding(f"{own.party}, leaf {index}: {what}", ask, index, rule, accused=NOBODY)


def _scored_fault(leaf: Record, sent: list[int], other: _Book) -> str:
    peer, request = leaf["peer"], leaf["score"]
    release = other.behind(leaf["release"])
    if not release or release.get("query") != request:
        return f"scores came under a release that {peer} did not make for their request"
    if release["rows"] != leaf["scores"]:
        return f"{leaf['scores']} scores came under a release of {release['rows']} rows of {peer} (rule G04)"
    asked = [other.own.leaves[at]["firms"] for at in other.asked.of(request)]
    return (
        ""
        if len(asked) == 1 and asked == sent[-1:]
        else f"{peer} answered about another number of firms than were named to it"
    )


def _finding(own: Evidence, index: int, what: str, message: str = "") -> Finding:
    return leaf_finding(own, index, what, "by which right it left", "", message)
