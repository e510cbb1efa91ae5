"""What struck where, as a table and as JSON: how often each place was hit by a fault, and how the runs ended."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from faults.failpoint_processes import hits_by_party
from faults.failpoint_runs import PLACES, Outcome
from faults.failpoint_worlds import Scene

OUT = "LIANXIN_FAULT_REPORT"


def table(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Return a row a place: how often it was struck, how the runs ended, and how many were not as they must be."""
    return [_row(place, [one for one in outcomes if one.fault.split()[-1].startswith(place)]) for place in PLACES]


def _row(place: str, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    ends = [one.end for one in outcomes if one.struck]
    actions = sorted({one.fault.split(":")[-2] for one in outcomes if one.struck})
    return {
        "place": place, "struck": len(ends), "actions": actions, "finished": ends.count("finished"),
        "failed": ends.count("failed"), "wrong": sum(bool(one.wrong) for one in outcomes),
    }  # fmt: skip


def tell(outcomes: Sequence[Outcome]) -> None:
    """Print the table, and write it as JSON to where LIANXIN_FAULT_REPORT says."""
    rows = table(outcomes)
    print(f"\n{'place':26}{'struck':>7}{'finished':>10}{'failed':>8}{'wrong':>7}  actions")
    for row in rows:
        ends = f"{row['finished']:10}{row['failed']:8}{row['wrong']:7}"
        print(f"{row['place']:26}{row['struck']:7}{ends}  {' '.join(row['actions'])}")
    if os.environ.get(OUT):
        Path(os.environ[OUT]).write_text(json.dumps(rows, indent=1))


def victims_of(scene: Scene, place: str) -> list[tuple[str, int]]:
    """Return the parties that reach `place` as processes, with how often; counted at the first use."""
    if not scene.hits_of:
        scene.hits_of = hits_by_party(scene)
    return [(party, hits[place]) for party, hits in sorted(scene.hits_of.items()) if hits.get(place)]
