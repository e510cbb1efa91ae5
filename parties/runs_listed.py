"""The runs of a node as an operator reads them: where each stands, who is waited for until when, why it failed, what to do."""

from collections.abc import Iterable, Mapping
from typing import Any

from lianxin.crypto import canonical
from lianxin.crypto.errors import CryptoError
from lianxin.parties.query_conversations import STANDING
from lianxin.parties.run_queue import QUEUED
from lianxin.parties.run_remedies import tell
from lianxin.parties.store import RunRow

NEWEST = 50
_OPEN = (QUEUED, "proposed", "running")


def listed(served: Any, everything: bool = False) -> list[dict[str, Any]]:
    """Return the runs of a served node by when they began: all that are open, and the newest NEWEST that have ended.

    Each is {"run", "state", "phase", "model", "banks", "since", "waits", "before", "why"}: `waits` as `Waits.of` gives them,
    `before` how many queued runs come first, `why` the sentence of a run that did not end well.
    """
    found = {row.run: _of_row(served, row) for row in served.node.store.runs()}
    found |= {run: found.get(run, _blank(run)) | _of_part(served, part) for run, part in list(_parts(served).items()) if run}
    found |= {run: found.get(run, _blank(run)) | _of_life(served, life) for run, life in list(_lives(served).items())}
    ends = getattr(served.ended, "kept", lambda: dict(served.ended))()
    for run, end in ends.items():
        if run not in found:  # it ended before it was signed by all: there is no row of it
            terms = {name: end[name] for name in ("model", "banks", "since") if name in end}
            found[run] = _blank(run) | terms | {"state": end.get("state", ""), "why": tell(end)}
    ordered = sorted(found.values(), key=lambda one: (one["since"], one["run"]))
    closed = [one["run"] for one in ordered if one["state"] not in (*_OPEN, STANDING)]
    hidden = set() if everything else set(closed[:-NEWEST])
    return [one for one in ordered if one["run"] not in hidden]


def _lives(served: Any) -> Mapping[str, Any]:
    return getattr(served, "lives", {})


def _parts(served: Any) -> Mapping[str, Any]:
    return getattr(served, "parts", {})


def _blank(run: str) -> dict[str, Any]:
    return {
        "run": run, "state": "", "phase": "", "model": "", "banks": [], "since": "", "waits": [], "before": 0, "why": "",
    }  # fmt: skip


def _of_row(served: Any, row: RunRow) -> dict[str, Any]:
    contract = _contract(row.contract)
    ended = served.ended.known(row.run) if row.state not in _OPEN else None
    banks = sorted(party["party"] for party in contract.get("parties", ()) if party.get("role") == "bank")
    resumed = row.run in getattr(served, "members", {})
    return _blank(row.run) | {
        "state": row.state, "model": contract.get("model", ""), "banks": banks, "since": contract.get("created_at", ""),
        "why": tell(ended or {"run": row.run, "state": row.state, "rule": row.note}) if row.state not in _OPEN else "",
        "phase": "resumed" if resumed else "", "waits": served.node.waits.of(row.run),
    }  # fmt: skip


def _contract(data: bytes) -> Mapping[str, Any]:
    """Return what a run's row says of its terms; nothing where it has none yet."""
    try:
        found = canonical.decode_fragment(data) if data else {}
    except CryptoError:
        return {}
    record: Mapping[str, Any] = found.get("record", found)
    return record


def _of_life(served: Any, life: Any) -> dict[str, Any]:
    phase = life.phase_now(served.runs.get(life.run))
    state = "running" if life.phase in ("running", "closing") else "queued" if life.phase == "queued" else "proposed"
    return {
        "state": state, "phase": phase, "model": life.model, "banks": list(life.banks), "since": life.since,
        "waits": served.node.waits.of(life.run), "before": served.places.before(life.number) if state == QUEUED else 0,
    }  # fmt: skip


def _of_part(served: Any, part: Any) -> dict[str, Any]:
    pending, contract = served.pending.get(part.run), part.contract
    member = served.members.get(part.run)
    known = contract or getattr(pending, "contract", None) or getattr(member, "contract", None)
    phase = "waits for a person here" if pending else "under way" if member else "waits for the other parties"
    terms = {"model": known.model, "banks": list(known.banks), "since": known.created_at} if known is not None else {}
    return terms | {
        "state": "running" if member else "proposed", "phase": phase, "waits": served.node.waits.of(part.run),
    }  # fmt: skip


def described(run: Mapping[str, Any]) -> Iterable[str]:
    """Yield the lines of one run in a terminal."""
    banks = ", ".join(run["banks"])
    head = f"{run['run']}: {run['state']}" + (f" ({run['phase']})" if run["phase"] not in ("", run["state"]) else "")
    terms = f", {run['model']} with {banks}" if run["model"] else ""
    yield head + terms + (f", since {run['since']}" if run["since"] else "")
    if run["before"]:
        yield f"  {run['before']} queued runs come before it"
    for wait in run["waits"]:
        yield f"  waits for {wait['for']} in {wait['step']}, since {wait['since_s']} s, for {wait['until_s']} s more"
    if run["why"]:
        yield f"  {run['why']}"
