"""Runs that wait for their turn at a platform, kept in its store, and what a person may ask about runs of a running node.

A queued run is a row of the table `runs` in state `queued`, without a contract: that is drafted when its turn comes. Its
terms stand under `queued/<run>`, written before the row, so that a row without terms cannot be.
"""

import json
from collections.abc import Mapping
from typing import Any

from lianxin.federation.errors import InputFault, LianxinError
from lianxin.parties.config import RunConfig
from lianxin.parties.node import Node
from lianxin.parties.run_life import RunLife

QUEUED = "queued"
_PREFIX = "queued/"


def keep(node: Node, terms: RunConfig, operator: str) -> RunLife:
    """Keep a run's terms and its place in line, durably; return its life."""
    number = node.store.reserve("queue", 1)
    kept = {"number": number, "operator": operator, "since": node.clock.now(), "terms": terms.model_dump(mode="json")}
    node.store.put_setting(_PREFIX + terms.run, json.dumps(kept, sort_keys=True).encode())
    node.store.put_run(terms.run, QUEUED, b"")
    return _life(terms.run, kept)


def _life(run: str, kept: Mapping[str, Any]) -> RunLife:
    terms = kept["terms"]
    return RunLife(run, kept["number"], kept["operator"], terms["model"], tuple(sorted(terms["banks"])), kept["since"])


def terms_of(node: Node, run: str) -> RunConfig:
    """Return the terms of a queued run. Raises InputFault where they are gone."""
    kept = node.store.setting(_PREFIX + run)
    if kept is None:
        raise InputFault(f"the terms of queued run {run} are not in the store; launch it anew under another id")
    return RunConfig(**json.loads(kept)["terms"])


def forget(node: Node, run: str) -> None:
    """Let go of the terms: the run has a contract, or has ended."""
    node.store.delete_setting(_PREFIX + run)


def left(node: Node) -> list[RunLife]:
    """Return the runs that waited when this node ended, in the order in which they were launched."""
    queued = {row.run for row in node.store.runs() if row.state == QUEUED}
    kept = {key.removeprefix(_PREFIX): json.loads(value) for key, value in node.store.settings_under(_PREFIX).items()}
    return sorted((_life(run, kept[run]) for run in queued & kept.keys()), key=lambda life: life.number)


# ---- what a person asks of a running node


def cancel(served: Any, run: str, operator: str, reason: str = "") -> dict[str, Any]:
    """Cancel a run that a platform leads or has queued. Raises InputFault where it is none of them, or is standing."""
    served.cancel(run, operator, reason)
    return {"run": run}


def cancel_of_bank(served: Any, bank: str, operator: str, reason: str = "") -> tuple[list[str], dict[str, str]]:
    """Cancel every run under way or queued at a platform in which `bank` takes part, each by itself.

    Returns their ids, and by id why one could not be cancelled that is still there.
    """
    done, left = list[str](), dict[str, str]()
    for run in sorted(life.run for life in list(served.lives.values()) if bank in life.banks):
        try:
            served.cancel(run, operator, reason)
            done.append(run)
        except LianxinError as fault:
            if run in served.lives:  # else it ended by itself meanwhile
                left[run] = str(fault)
    return done, left


def answer(served: Any, request: Mapping[str, Any]) -> dict[str, Any]:
    """Answer a request about runs: `what` is list, cancel, leave or resume. Raises ValueError for another one."""
    what, run, operator = request["what"], str(request.get("run", "")), str(request.get("operator", ""))
    if what == "list":
        from lianxin.parties.runs_listed import listed

        return {"runs": listed(served, bool(request.get("all", False)))}
    operator = operator or served.node.config.operator
    if what == "cancel" and hasattr(served, "lives"):
        return cancel(served, run, operator, str(request.get("reason", "")))
    if what == "leave" and hasattr(served, "leave"):
        served.leave(run, operator, str(request.get("reason", "")))
        return {"run": run}
    if what == "resume" and hasattr(served, "resume"):
        return {"run": run, "said": served.resume(run)}
    raise ValueError("unknown request about runs")
