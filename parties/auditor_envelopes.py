"""What an auditor checks of one party's messages: signed headers, their order, their terms, the releases behind them.

Whether the other end knows each of them is `auditor_receipts`'s part.
"""

import hashlib
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from heapq import merge
from operator import itemgetter
from typing import Any

from lianxin.crypto import canonical, signing
from lianxin.crypto.errors import CryptoError
from lianxin.parties.auditor_columns import AGGREGATE, NEVER, SPLIT, is_header, seconds_of
from lianxin.parties.auditor_evidence import (
    HEADER,
    NOBODY,
    Evidence,
    Finding,
    Record,
    Run,
    fits,
    leaf_finding,
    message_of,
)
from lianxin.parties.auditor_lines import Places, Records, decoded_again

FREE_FORMS = frozenset({"CONTROL", "PUBLIC"})
ROW_MODES = frozenset({"COMPUTE_ONLY", "SCORE_ONLY", "DESENSITISED", "PLAINTEXT", "SPLITS"})
FITTING_MODES = {  # the auditor's own copy of what a sender's session keeps to (docs/crossings.md)
    "AGGREGATE": frozenset({"AGGREGATE"}), "DESENSITISED": frozenset({"DESENSITISED", "PLAINTEXT"}),
    "PLAIN": frozenset({"PLAINTEXT"}),
}  # fmt: skip
END_EVENTS = frozenset({"finished", "failed", "ended"})
SCORE_STEPS = frozenset({"scoring.points", "scoring.answer"})
SPLIT_STEPS = frozenset({"boosting.histogram", "boosting.split", "boosting.score", "scoring.answer"})
ROW_FORMS = frozenset({"PSEUDONYM", "CIPHERTEXT", "DESENSITISED", "PLAIN"})  # these say something of rows, one by one


def envelope_findings(run: Run, own: Evidence, part: int = 0, parts: int = 1) -> Iterator[Finding]:
    """Yield the envelope leaves that are not backed by a header signed by its sender, of one of so many equal parts."""
    crossings, count = own.crossings(run.id), len(own.records["envelopes"])
    if len(crossings) != count and part == 0:
        yield Finding(
            f"{own.party}: {len(crossings)} leaves of envelopes and {count} envelopes",
            f"ask {own.party} for the headers of all that crossed",
        )
    both, twins, keepers = min(len(crossings), count), _Twins(run), _Keepers(run)
    start, stop = both * part // parts, both * (part + 1) // parts
    pairs = zip(crossings.part(start, stop), signed_headers(own, start), strict=False)
    for number, ((index, leaf), envelope) in enumerate(pairs, start):
        is_verified = leaf["direction"] == "in" and twins.has(leaf["peer"], own, number)
        reason = _envelope_fault(run, own, leaf, envelope, is_verified)
        if reason:
            ask = f"ask {own.party} and {leaf['peer']} for the header"
            place, accused = message_of(own.party, leaf), keepers.of(own, leaf)
            yield Finding(f"{own.party}, leaf {index}: {reason}", ask, index, "", place, accused)


class _Twins:
    """Which envelopes stand byte for byte in their sender's evidence too: their signatures are verified there."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def has(self, sender: str, own: Evidence, place: int) -> bool:
        """Return whether the envelope at `place` of `own` is in the evidence of its sender."""
        if sender not in self._run.evidence or sender not in self._run.node_keys or place >= len(own.marks):
            return False
        return self._run.evidence[sender].sorted_marks.holds(own.marks[place])


@dataclass(frozen=True)
class Signed:
    """One envelope as it is in evidence; `data` are the header's canonical bytes, `header` is {} where it has no shape."""

    header: Record
    data: bytes
    signature: str


def signed_headers(own: Evidence, start: int = 0) -> Iterator[Signed]:
    """Yield each envelope of a party from the one numbered `start`, in ledger order."""
    records = own.records["envelopes"]
    for at in range(start, len(records)):
        line = records.line(at) if isinstance(records, Records) else b""
        yield _split(line) or _whole(records[at])


def _split(line: bytes) -> Signed | None:
    """Return the envelope of a canonical line without decoding it whole: its header's bytes stand in it as they are."""
    if line[:11] != b'{"header":{' or line[-145:-130] != b'},"signature":"' or line[-2:] != b'"}':
        return None
    data = line[10:-144]
    header = decoded_again(data)
    if not is_header(header):
        return None
    return Signed(header, data, line[-130:-2].decode("ascii", "replace"))


def _whole(envelope: Record) -> Signed:
    header, signature = envelope.get("header"), envelope.get("signature")
    if not fits(header, HEADER) or not isinstance(header, dict):
        return Signed({}, b"", "")
    return Signed(header, canonical.encode(header), signature if isinstance(signature, str) else "")


class _Keepers:
    """Who is to blame for an envelope that does not hold: who keeps it, unless its sender keeps it no better.

    A sender's messages are looked through once, however many of them do not hold: twenty bytes each are kept.
    """

    def __init__(self, run: Run) -> None:
        self._run, self._sent = run, dict[str, Places]()

    def of(self, own: Evidence, leaf: Record) -> str:
        """Return the party that an envelope of `own` accuses, "" for `own` itself."""
        sender = self._run.evidence.get(leaf["peer"])
        if leaf["direction"] != "in" or sender is None:
            return ""
        number = self._numbers(sender).get(leaf["message_hash"].encode(errors="surrogatepass"))
        envelope = None if number is None else next(signed_headers(sender, number), None)
        if number is None or envelope is None:
            return ""
        crossings = sender.crossings(self._run.id)
        _, sent = next(iter(crossings.part(number, number + 1)))
        return NOBODY if _envelope_fault(self._run, sender, sent, envelope) else ""

    def _numbers(self, sender: Evidence) -> Places:
        """Return which of a sender's envelopes each message that it sent is, by the message's hash."""
        if sender.party not in self._sent:
            found = self._sent[sender.party] = Places()
            for number, (_, sent) in enumerate(sender.crossings(self._run.id)):
                if sent["direction"] == "out":
                    found.add(sent["message_hash"].encode(errors="surrogatepass"), number)
        return self._sent[sender.party]


def _envelope_fault(run: Run, own: Evidence, leaf: Record, envelope: Signed, is_verified: bool = False) -> str:
    header = envelope.header
    if not header or header.get("type") != "envelope":
        return "the envelope's header is malformed"
    if hashlib.sha256(envelope.data).hexdigest() != leaf["message_hash"]:
        return "the header is not the one whose hash the leaf holds"
    try:
        if not is_verified:
            signature = bytes.fromhex(envelope.signature)
            signing.verify(run.node_keys.get(header["sender"], ""), "envelope", envelope.data, signature)
    except (CryptoError, ValueError, TypeError):
        return "the header is not signed by its sender's node key"
    ends = (own.party, leaf["peer"]) if leaf["direction"] == "out" else (leaf["peer"], own.party)
    shared = ("conversation", "step", "round", "seq", "message_type", "payload_hash")
    if (header["sender"], header["recipient"]) != ends or any(header[name] != leaf[name] for name in shared):
        return "the leaf says something else than the signed header"
    if leaf.get("size_bytes") != header["payload_bytes"]:
        return "the leaf says something else than the signed header"
    return ""


def _place(header: Record) -> str:
    return f"{header['conversation']}/{header['sender']}/{header['seq']}"


def sequence_findings(run: Run, own: Evidence) -> Iterator[Finding]:
    """Yield the gaps in a sender's numbers and chain of hashes within a conversation."""
    ends: dict[tuple[str, str], tuple[int, bytes]] = defaultdict(lambda: (0, bytes(32)))
    for one in signed_headers(own):
        if not (header := one.header):
            continue
        place = (header["conversation"], header["sender"])
        seq, previous = ends[place]
        if (header["seq"], header["previous"]) != (seq, previous.hex()):
            what = f"{place[1]}'s envelope {header['seq']} does not follow its envelope {seq - 1}"
            accused = "" if place[1] == own.party else NOBODY
            ask = f"ask {place[1]} for what it sent in between"
            yield Finding(f"{own.party}, {place[0]}: {what}", ask, message=_place(header), accused=accused)
        ends[place] = (header["seq"] + 1, hashlib.sha256(one.data).digest())


def term_findings(run: Run, own: Evidence) -> Iterator[Finding]:
    """Yield the envelopes outside the contract: another run, another contract, a round too many, too late."""
    contract = run.contract
    last = turns_of(contract) + 1  # the evaluation comes after the rounds; a round that is run again keeps its number
    for header in (one.header for one in signed_headers(own) if one.header):
        broken = {
            "names another run": header["run"] != run.id,
            "names another contract": header["contract"] != run.contract_hash,
            "is of round {round}, the contract allows {last}": not 0 <= header["round"] <= last,
            "outlives the contract": header["expires_at"] > contract["expires_at"],
        }
        for what in (text for text, holds in broken.items() if holds):
            where = f"{own.party}, {header['conversation']}, envelope {header['seq']} of {header['sender']}"
            ask = f"ask {header['sender']} under which terms it sent it"
            said = what.format(round=header["round"], last=last)
            yield Finding(f"{where} {said}", ask, message=_place(header), accused=_party(run, header["sender"]))
    end = seconds_of(contract["expires_at"])
    for index in own.columns.crossed(run.id):
        if end is not None and NEVER < own.columns.times[index] < end:
            continue
        leaf = own.leaves[index]
        if not leaf["time"] < contract["expires_at"]:
            yield leaf_finding(
                own, index, "crossed after the contract's end", "why", "R38", message_of(own.party, leaf)
            )
    yield from _split_findings(run, own)


def _party(run: Run, name: str) -> str:
    return name if name in run.node_keys else NOBODY


def turns_of(contract: Record) -> int:
    """Return how many rounds, of a scorecard or trees, a contract allows."""
    trees = contract.get("trees")
    return trees if contract.get("model") == "boosted_trees" and isinstance(trees, int) else contract["rounds"]


def _split_findings(run: Run, own: Evidence) -> Iterator[Finding]:
    """Yield the peers to whom sides of more distinct cuts were told than the contract's `split_bits`."""
    told, most = Counter[str](), run.contract.get("split_bits", 0)
    for _, leaf in own.of_kind("split-bits", run.id):
        told[leaf["peer"]] += leaf["bits"]
    for peer, bits in sorted(told.items()):
        if not isinstance(most, int) or bits > most:
            what = f"sides of {bits} cuts were told to {peer}, the contract allows {most}"
            yield Finding(f"{own.party}: {what}", f"ask {own.party} by which terms")
    yield from _uncounted_findings(run, own)


def _uncounted_findings(run: Run, own: Evidence) -> Iterator[Finding]:
    """Yield the first message to each peer with sides of a cut that no earlier leaf counts.

    With hidden nodes each message is a new cut; with shown ones a cut may come again, but not before one was counted.
    """
    counted, told, is_hidden = Counter[str](), Counter[str](), run.contract.get("nodes") == "hidden"
    for index, leaf in merge(own.of_kind("split-bits", run.id), own.crossings(run.id, "out", SPLIT), key=itemgetter(0)):
        peer = leaf["peer"]
        if leaf["kind"] == "split-bits":
            counted[peer] += leaf["bits"]
        else:
            told[peer] += 1
            if counted[peer] < (told[peer] if is_hidden else 1):
                what = f"sides of a cut were told to {peer} that no earlier split-bits leaf counts"
                yield leaf_finding(own, index, what, "what it told", "", message_of(own.party, leaf))
                counted[peer] = len(own.ledger_lines)


def right_findings(run: Run, own: Evidence) -> Iterator[Finding]:
    """Yield the envelopes that carry values without an earlier release of this party, in a fitting mode, to their
    recipient."""
    releases = Releases(run, own)
    for index, leaf in own.crossings(run.id, "out"):
        behind = [releases.get(one) for one in leaf["releases"]]
        needs_right = any(one["form"] not in FREE_FORMS for one in leaf["forms"])
        is_right = all(at < index and release.get("recipient") == leaf["peer"] for at, release in behind)
        if not is_right or (needs_right and not behind):
            yield _without_right(own, index, leaf, f"left without an earlier release to {leaf['peer']}")
            continue
        if not _is_of_round(leaf, [release for _, release in behind]):
            what = f"of round {leaf['round']} left behind no release for that round"
            yield _without_right(own, index, leaf, what)
        modes = {release.get("mode") for _, release in behind}
        for form in sorted({one["form"] for one in leaf["forms"]}):
            if not fits_mode(form, leaf["step"], modes):
                yield _without_right(own, index, leaf, f"left as {form} behind a release in another mode")


def _without_right(own: Evidence, index: int, leaf: Record, what: str) -> Finding:
    said = f"a {leaf['message_type']} {what} (rule G04)"
    return leaf_finding(own, index, said, "by which right it left", "G04", message_of(own.party, leaf))


class Releases:
    """The releases of a run at one party by their ids; only the ones that were asked for last are kept."""

    _KEPT = 64

    def __init__(self, run: Run, own: Evidence) -> None:
        self._own, self._places, self._latest = own, Places(), dict[str, tuple[int, Record]]()
        for index in own.columns.of_kind("release", run.id):
            self._places.add(hashlib.sha256(own.ledger_lines[index]).digest(), index)  # equal leaves have one id

    def get(self, name: str) -> tuple[int, Record]:
        """Return the index and leaf of the first release of this id; where there is none, a place behind every leaf."""
        if name not in self._latest:
            if len(self._latest) >= self._KEPT:
                self._latest.clear()
            self._latest[name] = self._find(name)
        return self._latest[name]

    def _find(self, name: str) -> tuple[int, Record]:
        try:
            at = self._places.get(bytes.fromhex(name)) if len(name) == 64 and name == name.lower() else None
        except ValueError:
            at = None
        return (len(self._own.ledger_lines), {}) if at is None else (at, self._own.leaves[at])


def _is_of_round(leaf: Record, behind: list[Record]) -> bool:
    """Return whether a message that says something of rows in a round stands behind a release for that round and step group
    alone: consents are asked anew in each. Which rows are live is said for whatever the round computes."""
    if not leaf["round"] or not any(one["form"] in ROW_FORMS for one in leaf["forms"]):
        return True
    group = leaf["step"].split(".")[0]
    rows = [release for release in behind if release.get("mode") in ROW_MODES]
    return all(
        release.get("round") == leaf["round"]
        and (leaf["step"] == "round.rows" or str(release.get("step")).split(".")[0] == group)
        for release in rows
    )


def fits_mode(form: str, step: str, modes: set[Any]) -> bool:
    """Return whether one of the releases' `modes` lets values of `form` cross in `step`."""
    fitting = FITTING_MODES.get(form, ROW_MODES)
    is_score = form == "DESENSITISED" and step in SCORE_STEPS and "SCORE_ONLY" in modes
    is_split = form == "DESENSITISED" and step in SPLIT_STEPS and "SPLITS" in modes
    return form in FREE_FORMS or is_score or is_split or bool(modes & fitting)


def minimum_findings(run: Run, own: Evidence) -> Iterator[Finding]:
    """Yield the aggregates, released or sent, over fewer rows than the contract's minimum."""
    minimum = run.contract["min_rows"]
    for index, leaf in own.of_kind("release", run.id):
        if leaf["mode"] == "AGGREGATE" and leaf["rows"] < minimum:
            yield _too_few(own, index, leaf["rows"], minimum, "")
    for index, leaf in own.crossings(run.id, "", AGGREGATE):
        rows, is_left = leaf.get("rows", 0), leaf["direction"] == "out"
        is_told = type(rows) is int and (is_left or rows != 0)  # a recipient does not know of how many rows it is
        if type(rows) is not int or (is_told and rows < minimum):
            yield _too_few(own, index, rows, minimum, message_of(own.party, leaf))


def _too_few(own: Evidence, index: int, rows: object, minimum: int, message: str) -> Finding:
    told = rows if type(rows) is int else "no number of"
    what = f"an aggregate over {told} rows, the contract's minimum is {minimum} (rule OUT-ROWS)"
    return leaf_finding(own, index, what, "why the statistic left", "OUT-ROWS", message)


def end_findings(run: Run, own: Evidence) -> Iterator[Finding]:
    """Yield the releases and the values sent after this party's own ledger says that the run had ended."""
    events = own.of_kind("contract", run.id)
    end = next((index for index, leaf in events if leaf["event"] in END_EVENTS), len(own.ledger_lines))
    for index in own.columns.of_kind("release", run.id):
        if index > end:
            yield leaf_finding(own, index, "a release after the run's end", "for what it was")
    crossed = own.crossings(run.id, "out")
    for index, leaf in crossed.part(bisect_right(crossed.indexes, end), len(crossed)):
        if any(one["form"] not in FREE_FORMS for one in leaf["forms"]):
            what = f"a {leaf['message_type']} with values left after the run's end"
            yield leaf_finding(own, index, what, "by which right it left", "", message_of(own.party, leaf))
