"""What an auditor checks of what had to go in time: models and scores, rights after a contract's end, marks for withdrawals.

- R07: a party that finished a run keeps its model and scores until the contract's `retain_until`, and deletes them with a leaf
  of kind `deletion`, which a node writes at its start and once a day. A day after that time, by the ledger's own last leaf,
  the leaf has to be there.
- R38: nothing is asked, scored, summed or spent under a contract that has expired or not begun; releases and messages have
  checks of their own.
- R04: a consent that the run used and that was withdrawn is on the model's mark: a party that finished the run has a leaf of
  kind `model-marked` with as many revocations, and its root is theirs. What was dropped, or deleted, needs no mark any more.

What was really deleted, and whether a copy is kept elsewhere, no ledger shows.
"""

from collections.abc import Iterator

from lianxin.crypto import merkle
from lianxin.parties.auditor_evidence import Evidence, Finding, Record, Run, fits, leaf_finding
from lianxin.parties.auditor_registry import History
from lianxin.parties.auditor_times import seconds_of

GRACE_S = 86_400 + 60  # swept once a day
STANDING = frozenset({"field_query", "scoring"})
_UNDER_CONTRACT = ("query", "score", "secure-sum", "privacy")
_MARK = {"revocations": int, "consent_root": str}


def retention_findings(run: Run, own: Evidence) -> Iterator[Finding]:
    """Yield what this party did not delete or mark in time, and what it did under a contract that was not in force."""
    yield from _expired_findings(run, own)
    ended = next((index for index, leaf in own.of_kind("contract", run.id) if leaf["event"] == "finished"), None)
    if ended is None or run.contract.get("model") in STANDING or run.version < 3:
        return
    yield from _kept_findings(run, own, ended)
    yield from _mark_findings(run, own)


def _expired_findings(run: Run, own: Evidence) -> Iterator[Finding]:
    begins, ends = run.contract["created_at"], run.contract["expires_at"]
    for kind in _UNDER_CONTRACT:
        for index, leaf in own.of_kind(kind, run.id):
            if not begins <= leaf["time"] < ends:
                what = f"a leaf of kind {kind} under a contract that was not in force then (rule R38)"
                yield leaf_finding(own, index, what, "under which contract it went on", "R38")


# ---- what had to be deleted


def _kept_findings(run: Run, own: Evidence, ended: int) -> Iterator[Finding]:
    due, last = seconds_of(run.contract.get("retain_until")), _last_time(own)
    if due is None or last <= due + GRACE_S or any(True for _ in _deletions(run, own)):
        return
    until = run.contract["retain_until"]
    what = f"{own.party}, leaf {ended}: no leaf says that what came of this run was deleted, which was due {until} (rule R07)"
    yield Finding(what, f"ask {own.party} whether it still has the model", ended, "R07")


def _last_time(own: Evidence) -> int:
    """Return the time of the last leaf that says one."""
    for index in range(len(own.leaves) - 1, -1, -1):
        at = seconds_of(own.leaves[index].get("time"))
        if at is not None:
            return at
    return -1


def _deletions(run: Run, own: Evidence) -> Iterator[int]:
    """Yield the leaves by which the run's files went: by time (R07), or whole by an operator's choice to drop (R04)."""
    dropped = [index for index, leaf in own.of_kind("model-marked", run.id) if leaf["choice"] == "drop"]
    for index, leaf in own.of_kind("deletion", run.id):
        if leaf["rule"] == "R07" or (leaf["rule"] == "R04" and dropped and dropped[0] < index):
            yield index


# ---- what had to be marked


def _mark_findings(run: Run, own: Evidence) -> Iterator[Finding]:
    """Yield the missing mark of the withdrawals that touch this run's model, and the last mark that is not theirs."""
    used = _used(run, own)
    if not used or any(True for _ in _deletions(run, own)):
        return
    marks = [(index, leaf) for index, leaf in own.of_kind("model-marked", run.id) if fits(leaf, _MARK)]
    index, leaf = marks[-1] if marks else (-1, {})
    history = History(own)
    if marks:
        yield from _false_mark(own, index, leaf, used & _revoked(history, own.epoch_before(index)))
    touched = used & _revoked(history, own.epoch_before(len(own.leaves)))
    marked = leaf.get("revocations", 0)
    if len(touched) > marked:
        at = _revocation_leaf(own, index)
        what = f"{len(touched)} withdrawals touch this run's model, and {marked} are on its mark (rule R04)"
        yield leaf_finding(own, at, what, "to mark the model, and to choose what becomes of it", "R04")


def _false_mark(own: Evidence, index: int, leaf: Record, touched: set[str]) -> Iterator[Finding]:
    root = merkle.root_of(one.encode() for one in sorted(touched)).hex()
    if (leaf["revocations"], leaf["consent_root"]) != (len(touched), root):
        what = "the mark is not of the withdrawals that touched this run's model by then (rule R04)"
        yield leaf_finding(own, index, what, "which withdrawals it counted", "R04")


def _used(run: Run, own: Evidence) -> set[str]:
    """Return the ids of the consents behind this party's releases of the run, but for those that were withdrawn before the
    release: that is the check of consents' to say."""
    history, found, seen = History(own), set[str](), (0, b"")
    for index in own.columns.of_kind("release", run.id):
        state, digest = history.at(own.epoch_before(index)), history.digest_of(index)
        if seen == (seen := (own.epoch_before(index), digest)):
            continue  # a run releases the same list again and again
        ended = state.ended if state is not None else {}
        found.update(one for one in history.consents_of(index) or () if ended.get(one) != "REVOKED")
    return found


def _revoked(history: History, epoch: int) -> set[str]:
    """Return the ids of the consents that were withdrawn up to an epoch; `history` goes forward only."""
    state = history.at(epoch)
    return {name for name, why in state.ended.items() if why == "REVOKED"} if state is not None else set()


def _revocation_leaf(own: Evidence, after: int) -> int:
    """Return the index of the first leaf of the registry after a mark, by which a further withdrawal came."""
    return next((index for index, _ in own.of_kind("registry") if index > after), max(after, 0))
