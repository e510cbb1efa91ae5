"""The question that should have no answer: which authorisations were used after they had ended, or while they were held.

Each consent behind each release is judged anew by the registry's own rules (`decision`), at the epoch that the ledger had
reached and at the leaf's own time, with the uses of limited consents counted along the ledger. Beside that stands what the
firm itself signed: a withdrawal dated before a release, which the registry took in only after it.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from lianxin.parties import decision
from lianxin.parties.auditor_envelopes import END_EVENTS
from lianxin.parties.auditor_evidence import Evidence, Record
from lianxin.parties.auditor_questions import Answer, Case, Row, Wanted, checked_wanted
from lianxin.parties.auditor_registry import History

_COLUMNS = (
    "run", "time", "provider", "recipient", "purpose", "authorisation", "state", "since", "in_registry", "rule", "fields",
    "leaf", "release",
)  # fmt: skip
_SHOWN = ("time", "provider", "recipient", "authorisation", "state", "since", "in_registry", "rule", "leaf")
_RULES = {
    "REVOKED": "R04", "EXPIRED": "R38", "PAUSED": "R38", "USED_UP": "R38", "REFUSED": "R17", "REQUESTED": "R02",
    "INVALID": "R02", "ENDED": "R38",
}  # fmt: skip
_CANNOT = (
    "Evidence cannot tell of a withdrawal that never reached the registry: the firm's own copy and its receipt "
    "(`lianxin consent prove`) show that one. A time is as true as the heads and witnesses around its leaf."
)


def after_revocation(case: Case, run: str = "") -> Answer:
    """Answer which authorisations were used when they were not live: consents, and the contract itself; no row is good.

    A row is a consent (or a contract) behind a release with its state then, and since when that holds where it is known.
    `in_registry` is false where only the firm's signature says so: the registry took the record in after the release. Raises
    QuestionFault for an unknown run.
    """
    said: list[str] = []
    rows = _dead_uses(case, checked_wanted(case, Wanted(run=run)), said)
    return Answer("after-revocation", _COLUMNS, _SHOWN, rows, said, _CANNOT)


def _dead_uses(case: Case, wanted: Wanted, said: list[str]) -> Iterator[Row]:
    judged = known = early = 0
    for own in case.ledgers.values():
        walk = _Walk(case, own)
        for index, leaf in own.of_kind("release"):
            if wanted.holds(leaf):
                for row in walk.judged(index, leaf):
                    known, early = known + bool(row["in_registry"]), early + (not row["in_registry"])
                    yield row
                judged += leaf["consents"]
            walk.note(index, leaf)
    said.append(f"{judged} uses of consents judged anew; {known} were of an authorisation that was not live")
    if early:
        said.append(
            f"{early} came after a firm had signed a withdrawal and before the registry held it; ask for the delay"
        )
    said += case.silence()


class _Walk:
    """One ledger, walked forward: the registry as it was at each release, and since when each authorisation is at an end."""

    def __init__(self, case: Case, own: Evidence) -> None:
        self._case, self._own, self._history = case, own, History(own)
        self._withdrawn, self._ends = _withdrawn(own), dict[str, int]()
        for index, leaf in own.of_kind("contract"):
            if leaf["event"] in END_EVENTS:
                self._ends.setdefault(leaf["run"], index)

    def note(self, index: int, leaf: Record) -> None:
        """Count the uses of the release at this leaf."""
        self._history.at(self._own.epoch_before(index))
        self._history.note_uses(index, leaf)

    def judged(self, index: int, leaf: Record) -> Iterator[Row]:
        """Yield a row for each authorisation behind the release that was not live."""
        run, end = self._case.runs.get(leaf["run"]), self._ends.get(leaf["run"], index)
        if run is not None and not leaf["time"] < run.contract["expires_at"]:
            yield self._row(index, leaf, _Dead(f"contract of {run.id}", "EXPIRED", run.contract["expires_at"]))
        if index > end:
            yield self._row(index, leaf, _Dead(f"contract of {leaf['run']}", "ENDED", self._own.leaves[end]["time"]))
        registry = self._history.at(self._own.epoch_before(index))
        ids = self._history.consents_of(index)
        if registry is None or ids is None:
            missing = "list of consents" if ids is None else "registry"
            yield self._row(index, leaf, _Dead(f"{missing} missing", "INVALID", ""))
            return
        uses = self._history.uses(ids, but=leaf)
        for name in ids:
            dead = self._dead(registry, name, leaf["time"], uses.get(name, 0))
            if dead is not None:
                yield self._row(index, leaf, dead)

    def _dead(self, registry: decision.Registry, name: str, now: str, used: int) -> "_Dead | None":
        withdrawn = self._withdrawn.get(name, "")
        try:
            state = registry.state_of(name, now, used)
            if state == "ACTIVE":
                return _Dead(name, "REVOKED", withdrawn, False) if withdrawn and withdrawn < now else None
            expiry = registry.consents[name].terms["expires_at"] if state == "EXPIRED" else ""
        except (KeyError, TypeError):  # a malformed record, or a request that ran out unanswered
            return _Dead(name, "INVALID", "")
        return _Dead(name, state, withdrawn if state == "REVOKED" else expiry)

    def _row(self, index: int, leaf: Record, dead: "_Dead") -> Row:
        row: Row = {name: leaf[name] for name in ("run", "time", "provider", "recipient", "purpose", "fields")}
        row |= {"authorisation": dead.what, "state": dead.state, "since": dead.since, "in_registry": dead.is_known}
        return row | {"rule": _RULES[dead.state], "leaf": index, "release": self._own.release_id(index)}


@dataclass(frozen=True)
class _Dead:
    """An authorisation that was not live, in which state, since when, and whether the registry held that then."""

    what: str
    state: str
    since: str
    is_known: bool = True


def _withdrawn(own: Evidence) -> dict[str, str]:
    """Return each withdrawn consent with the time that the first withdrawal of it was signed for."""
    found: dict[str, str] = {}
    for signed in own.records["registry"]:
        record = signed.get("record")
        if isinstance(record, dict) and record.get("type") == "revocation":
            name, at = record.get("consent_id"), record.get("revoked_at")
            if isinstance(name, str) and isinstance(at, str):
                found[name] = min(at, found.get(name, at))
    return found
