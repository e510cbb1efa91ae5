"""Is a log complete: its leaves, the signed heads over them, the numbers of its messages, its times, and its silences."""

from collections.abc import Iterator
from heapq import nlargest

from lianxin.parties import auditor_ledger, auditor_times
from lianxin.parties.auditor_evidence import Evidence, Finding, Run
from lianxin.parties.auditor_questions import Answer, Case, Row, known_party

SHOWN_FAULTS = 20
SILENCES = 3
_COLUMNS = ("party", "what", "holds", "count", "detail", "leaf")
_CANNOT = (
    "Evidence cannot tell of leaves that were never written, nor of a ledger that was kept beside this one and shown to nobody "
    "here: hold the last head against what its witnesses and the other parties kept (`agree`)."
)


def complete(case: Case, party: str = "") -> Answer:
    """Answer whether each party's log (or that of one) is whole; a row a thing that was looked at, and one for each fault.

    `leaves` are well formed and this party's, `heads` are signed and over the leaves as they are, up to the last one (`chain`
    and `end`), `sequence` counts each sender's messages from 0 without gap in every conversation of every run, `times` fit
    the heads around them. A `silence` is no fault: one of the longest times without a leaf. Raises QuestionFault.
    """
    said: list[str] = []
    owns = [case.ledger(known_party(case, party))] if party else list(case.ledgers.values())
    return Answer("complete", _COLUMNS, _COLUMNS, _rows(case, owns, said), said, _CANNOT)


def _rows(case: Case, owns: list[Evidence], said: list[str]) -> Iterator[Row]:
    for own in owns:
        run = next(run for run in case.runs.values() if run.evidence.get(own.party) is own)
        total, faults = len(own.ledger_lines), 0
        for what, count, findings in (
            ("leaves", total, auditor_ledger.leaf_findings(run, own)),
            ("heads", len(own.records["checkpoints"]), auditor_ledger.checkpoint_findings(run, own)),
            ("sequence", sum(1 for _ in own.of_kind("envelope")), sequence_gaps(own)),
            ("times", total, auditor_times.time_findings(run, own)),
        ):
            found = list(findings)
            faults += len(found)
            yield from _told(own, what, count, found)
        yield from _silences(own)
        last = max((head["size"] for head, _ in _own_heads(run, own)), default=0)
        told = f"{own.party}: {total} leaves, {last} of them under its last signed head, {total - last} after it"
        said.append(f"{told}; {faults} faults")
    said += case.silence()


def _own_heads(run: Run, own: Evidence) -> Iterator[tuple[dict[str, int], object]]:
    alone = Run(run.contract, run.contract_hash, run.node_keys, {own.party: own})
    return auditor_ledger.heads_of(alone, own)


def _told(own: Evidence, what: str, count: int, found: list[Finding]) -> Iterator[Row]:
    yield {"party": own.party, "what": what, "holds": not found, "count": count, "detail": "", "leaf": -1}
    for one in found[:SHOWN_FAULTS]:
        detail = f"{one.detail}; {one.remedy}"
        yield {"party": own.party, "what": what, "holds": False, "count": 1, "detail": detail, "leaf": one.leaf}
    if rest := len(found[SHOWN_FAULTS:]):
        yield {"party": own.party, "what": what, "holds": False, "count": rest, "detail": f"{rest} more", "leaf": -1}


def sequence_gaps(own: Evidence) -> Iterator[Finding]:
    """Yield where a sender's numbers within one conversation do not go on, by the leaves of all runs of a ledger."""
    due: dict[tuple[str, str, str], int] = {}
    for index, leaf in own.of_kind("envelope"):
        if leaf["decision"] == "refuse":
            continue
        sender = own.party if leaf["direction"] == "out" else leaf["peer"]
        place = (leaf["run"], leaf["conversation"], sender)
        if leaf["seq"] != due.get(place, 0):
            what = f"{sender}'s message {leaf['seq']} of {leaf['conversation']} comes where {due.get(place, 0)} is due"
            yield Finding(f"{own.party}, leaf {index}: {what}", f"ask {sender} for what it sent in between", leaf=index)
        due[place] = leaf["seq"] + 1


def _silences(own: Evidence) -> Iterator[Row]:
    for gap, index in nlargest(SILENCES, _gaps(own)):
        if gap > 0:
            what = f"no leaf for {gap} s before this one"
            yield {"party": own.party, "what": "silence", "holds": True, "count": gap, "detail": what, "leaf": index}


def _gaps(own: Evidence) -> Iterator[tuple[int, int]]:
    before, text, at = None, "", None
    for index, leaf in enumerate(own.leaves):
        if leaf and leaf["time"] != text:
            text = leaf["time"]
            at = auditor_times.seconds_of(text)
            if at is not None and before is not None:
                yield at - before, index
            before = at if at is not None else before
