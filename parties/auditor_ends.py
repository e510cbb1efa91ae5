"""What an auditor checks of a run's end: one end in each ledger, one where the end was told, and what it may excuse.

A party's ledger says once how a run ended for it. A platform may say `refused` and then `failed`, an agreement `ended` and
then `finished`; a run that finished has not failed as well. Who took part in telling the end (`contract.close`) knows it,
and releases nothing of the run behind that.

A run that broke off excuses messages that did not arrive (`auditor_receipts`): where the party at one of the two ends says
that it failed or was refused, before anything else, and the platform does not say that the run finished. A platform goes on
without a bank that was lost where the contract has `on_loss = rerun`: then the bank's word counts, unless it confirmed the
end to the platform like the others and did not say before it heard of it that the run had broken off. A bank that was killed
and started again says so at its start, and hears the others' end later.
"""

from collections.abc import Iterable, Iterator
from itertools import chain

from lianxin.parties.auditor_envelopes import end_findings
from lianxin.parties.auditor_evidence import Evidence, Finding, Record, Run, leaf_finding
from lianxin.parties.auditor_lines import Lines
from lianxin.parties.auditor_sums import is_network

FINISHED, BROKEN = "finished", frozenset({"failed", "refused"})
ENDS = BROKEN | {FINISHED, "ended"}
CLOSE = "contract.close"
_IS_CLOSE = b'"step":"contract.close"'


def ending_findings(run: Run, own: Evidence) -> Iterator[Finding]:
    """Yield what left after the run's end, and where this ledger says two ends, none though one was told, or another one."""
    ends, closed = _ends(run, own), _closed(run, own)
    return chain(end_findings(run, own), _second_findings(own, ends), _told_findings(run, own, ends, closed))


def _ends(run: Run, own: Evidence) -> list[tuple[int, str]]:
    return [(index, leaf["event"]) for index, leaf in own.of_kind("contract", run.id) if leaf["event"] in ENDS]


def _closed(run: Run, own: Evidence) -> list[tuple[int, Record]]:
    indexes: Iterable[int] = own.columns.crossed(run.id)
    if isinstance(lines := own.ledger_lines, Lines):  # few of very many messages, and decoding takes time
        indexes = (index for index in indexes if _IS_CLOSE in lines[index])
    return [(index, leaf) for index in indexes if (leaf := own.leaves[index])["step"] == CLOSE]


def _second_findings(own: Evidence, ends: list[tuple[int, str]]) -> Iterator[Finding]:
    """Yield where a run finished and broke off in one ledger."""
    first = next((event for _, event in ends if event != "ended"), "")
    for index, event in ends:
        if (event == FINISHED) != (first == FINISHED) and event != "ended":
            what = f"it says that the run is {event}, and an earlier leaf says {first}"
            yield leaf_finding(own, index, what, "how the run ended")
            return


def _told_findings(
    run: Run, own: Evidence, ends: list[tuple[int, str]], closed: list[tuple[int, Record]]
) -> Iterator[Finding]:
    if not closed:
        return
    at, last = closed[0][0], len(own.leaves) - 1
    if not ends and at < last:
        what = "the run's end was told, no leaf says how it ended, and the ledger goes on"
        yield leaf_finding(own, at, what, "for the leaf of the run's end")
    for index, _ in own.of_kind("release", run.id):
        if index > at:
            yield leaf_finding(own, index, "a release after the run's end was told", "for what it was")
    is_other = ends and ends[0][1] in BROKEN and _platform_finished(run)
    if is_other and not is_network(run) and own is not _platform(run) and not _broke_off_first(run, own):
        what = f"it says that the run is {ends[0][1]}, and it took part in telling that it finished"
        yield leaf_finding(own, ends[0][0], what, "how the run ended")


# ---- what an end excuses


def broke_off(run: Run, party: str) -> bool:
    """Return whether a party's ledger says, and may say by the platform's, that the run failed or was refused."""
    own = run.evidence.get(party)
    if own is None or party not in run.node_keys:
        return False  # what a witness says of a run of others excuses nobody
    ends = _ends(run, own)
    if not ends or ends[0][1] not in BROKEN or any(event == FINISHED for _, event in ends):
        return False
    return not _platform_finished(run) or _went_on_without(run, party)


def finished_at(run: Run, party: str) -> int:
    """Return the index of the leaf by which a run finished at a party, -1 where there is none."""
    own = run.evidence.get(party)
    return next((at for at, event in _ends(run, own) if event == FINISHED), -1) if own is not None else -1


def _platform(run: Run) -> Evidence | None:
    return run.evidence.get(str(run.contract.get("platform")))


def _platform_finished(run: Run) -> bool:
    platform = _platform(run)
    return platform is not None and any(event == FINISHED for _, event in _ends(run, platform))


def _went_on_without(run: Run, bank: str) -> bool:
    """Return whether the platform finished a run that may lose a bank, and heard nothing of its end from it, or not first."""
    platform = _platform(run)
    if platform is None or platform.party == bank or run.contract.get("on_loss") != "rerun":
        return False
    told = (leaf for _, leaf in _closed(run, platform) if leaf["direction"] == "in")
    return all(leaf["peer"] != bank for leaf in told) or _broke_off_first(run, run.evidence[bank])


def _broke_off_first(run: Run, own: Evidence) -> bool:
    """Return whether a lost bank said that the run broke off before it heard how the others ended it."""
    ends, closed = _ends(run, own), _closed(run, own)
    is_first = bool(ends) and ends[0][1] in BROKEN and all(ends[0][0] < index for index, _ in closed)
    return is_first and run.contract.get("on_loss") == "rerun"
