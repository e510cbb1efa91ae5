"""Do all logs agree: the same messages at both ends, and heads of each ledger as the others kept them.

The messages are compared without keeping them: for each pair of parties both ends add up a number made of each message's
hash, apart for the 256 first bytes that a hash can have (a multiset hash by addition: Bellare and Micciancio, Eurocrypt 1997,
AdHash). Only where the sums differ are the messages themselves looked at, in a second pass.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from lianxin.parties import auditor_ledger, auditor_receipts
from lianxin.parties.auditor_evidence import Evidence, Record, Run
from lianxin.parties.auditor_questions import Answer, Case, Cell, Row, digest_of, text

SUM_BITS = 2048  # wide, against sets made to have one sum (Wagner, Crypto 2002)
_COLUMNS = (
    "run", "sender", "recipient", "what", "sent", "received", "agree", "detail", "conversation", "seq", "leaf", "message_hash",
)  # fmt: skip
_SHOWN = ("run", "sender", "recipient", "what", "sent", "received", "agree", "detail", "leaf")
_CANNOT = "Evidence cannot tell of a message that both ends left out of their ledgers, nor of a ledger whose heads nobody kept."
Pair = tuple[str, str]  # sender, recipient


def agree(case: Case, run: str = "") -> Answer:
    """Answer whether the ledgers of each two parties hold the same messages, and the heads that each kept of the others'.

    A row `messages` for each sender and recipient, `message` for each that stands at one end alone, and `heads` for each ledger
    (`sender`) and who kept heads of it (`recipient`; `received` is how many). A refusal that names a message counts as its
    receipt. Raises QuestionFault for an unknown run.
    """
    said: list[str] = []
    runs = [case.run(run)] if run else list(case.runs.values())
    return Answer("agree", _COLUMNS, _SHOWN, _rows(case, runs, said), said, _CANNOT)


def _rows(case: Case, runs: Sequence[Run], said: list[str]) -> Iterator[Row]:
    messages = apart = split = 0
    for run in runs:
        sums = _summed(run)
        odd = {pair: found for pair, (sent, came) in sorted(sums.items()) if (found := _odd(sent, came))}
        alone = _alone(run, odd)
        faults = {one.detail.partition(":")[0] for one in auditor_receipts.receipt_findings(run)} if alone else set()
        for pair, (sent, came) in sorted(sums.items()):
            messages += sent.count
            rest = [one for one in alone if one.pair == pair]
            detail = f"{len(rest)} at one end only" if rest else ""
            yield _row(run, pair, "messages", sent=sent.count, received=came.count, agree=not rest, detail=detail)
            for one in rest:
                is_fault = f"{one.party}, leaf {one.index}" in faults
                apart += is_fault
                yield _alone_row(run, one, is_fault)
        for row in _heads(run):
            split += not row["agree"]
            yield row
    said.append(
        f"{messages} messages compared; {apart} stand at one end only without a reason; {split} ledgers are not as another "
        "party saw them"
    )
    said += case.silence()


@dataclass
class _Sum:
    """How many messages, and the sum of the numbers made of them, by the first byte of the hash."""

    count: int = 0
    sums: dict[int, int] = field(default_factory=dict)

    def add(self, name: str) -> None:
        digest = digest_of(name)[:32]
        wide = int.from_bytes(hashlib.shake_256(digest).digest(SUM_BITS // 8))
        place = digest[0] if digest else -1
        self.count += 1
        self.sums[place] = (self.sums.get(place, 0) + wide) % (1 << SUM_BITS)


def _odd(sent: _Sum, came: _Sum) -> set[int]:
    return {place for place in {*sent.sums, *came.sums} if sent.sums.get(place, 0) != came.sums.get(place, 0)}


def _ends(run: Run) -> Iterator[tuple[Pair, bool, str, int, Record]]:
    """Yield each message as (pair, whether this is the sender's leaf, its hash, leaf's index, leaf), both ends in evidence."""
    for party, own in run.evidence.items():
        for index, leaf in own.of_kind("envelope", run.id):
            is_out = leaf["direction"] == "out"
            if leaf["decision"] != "refuse" and leaf["peer"] in run.evidence:
                pair = (party, leaf["peer"]) if is_out else (leaf["peer"], party)
                yield pair, is_out, leaf["message_hash"], index, leaf
        for index, leaf in own.of_kind("refusal", run.id):
            if (name := text(leaf, "message_hash")) and leaf["peer"] in run.evidence:
                yield (leaf["peer"], party), False, name, index, leaf


def _summed(run: Run) -> dict[Pair, tuple[_Sum, _Sum]]:
    sums: dict[Pair, tuple[_Sum, _Sum]] = defaultdict(lambda: (_Sum(), _Sum()))
    for pair, is_out, name, _, _ in _ends(run):
        sums[pair][0 if is_out else 1].add(name)
    return sums


@dataclass(frozen=True)
class _Alone:
    """A message that stands at one end only: at `party`, in its leaf `index`."""

    pair: Pair
    party: str
    index: int
    name: str
    leaf: Record


def _alone(run: Run, odd: dict[Pair, set[int]]) -> list[_Alone]:
    """Return the messages at one end only, among those whose sums differ; a refused message may come again."""
    if not odd:
        return []
    found: dict[tuple[Pair, str], tuple[set[bool], _Alone]] = {}
    for pair, is_out, name, index, leaf in _ends(run):
        digest = digest_of(name)[:32]
        if (digest[0] if digest else -1) in odd.get(pair, ()):
            one = _Alone(pair, pair[0] if is_out else pair[1], index, name, leaf)
            found.setdefault((pair, name), (set(), one))[0].add(is_out)
    alone = [one for sides, one in found.values() if len(sides) == 1 and one.leaf["kind"] == "envelope"]
    return sorted(alone, key=lambda one: (one.pair, one.index))


def _alone_row(run: Run, one: _Alone, is_fault: bool) -> Row:
    sender, recipient = one.pair
    is_sent = one.party == sender
    other = recipient if is_sent else sender
    what = f"{one.leaf['message_type']} in {one.leaf['step']}: the ledger of {other} does not have it"
    excuse = "" if is_fault else "; cut off with its conversation"
    return _row(
        run, one.pair, "message", sent=int(is_sent), received=int(not is_sent), agree=not is_fault, detail=what + excuse,
        conversation=one.leaf["conversation"], seq=one.leaf["seq"], leaf=one.index, message_hash=one.name,
    )  # fmt: skip


def _heads(run: Run) -> Iterator[Row]:
    for holder, kept in run.evidence.items():
        faults = Counter(one.accused for one in auditor_ledger.witnessed_findings(run, kept))
        for party in sorted(set(run.evidence) - {holder}):
            yield _head_row(run, run.evidence[party], holder, faults[party])
        if strange := sum(count for name, count in faults.items() if name not in run.evidence):
            what = f"{strange} heads that it kept were signed by no party of the run"
            yield _row(run, ("", holder), "heads", sent=-1, received=strange, agree=False, detail=what)


def _head_row(run: Run, own: Evidence, holder: str, faults: int) -> Row:
    alone = Run(run.contract, run.contract_hash, run.node_keys, {holder: run.evidence[holder]})
    sizes = [head["size"] for head, _ in auditor_ledger.heads_of(alone, own)]
    what = f"the newest of {max(sizes)} leaves" if sizes else "none was kept"
    what += f"; {faults} are of no ledger in evidence" if faults else ""
    return _row(run, (own.party, holder), "heads", sent=-1, received=len(sizes), agree=not faults, detail=what)


def _row(run: Run, pair: Pair, what: str, **told: Cell) -> Row:
    blank: Row = dict.fromkeys(_COLUMNS, "")
    place: Row = {"run": run.id, "sender": pair[0], "recipient": pair[1], "what": what}
    return {**blank, "sent": 0, "received": 0, "seq": -1, "leaf": -1, **place, **told}
