"""Two scorecards at once, on one platform, one bank and their pools of workers, are what each is alone and without workers."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import runs_world
import worlds
from torture import IS_TORTURE

from lianxin.parties.auditor import verify_run
from lianxin.simulations.layout import Layout

RUNS = ("run-a", "run-b")
FILES = ("model.json", "scores.json")
TERMS = {"rounds": 1, "minimums": {"spare_attempts": 0, "max_bins": 2}, "revoked_firms": 0, **worlds.SHORT}


@pytest.fixture(scope="module")
def laid(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    tables = worlds.tables_of(tmp_path_factory.mktemp("tables"), firms=800, banks=1, loans=250)
    layout = worlds.lay(tmp_path_factory.mktemp("laid") / "run", tables, **TERMS)
    runs_world.set_runs(layout, at_once=2, queued=4)
    return layout


def copied(laid: Layout, folder: Path, workers: int) -> Layout:
    layout = replace(laid, folder=Path(shutil.copytree(laid.folder, folder)))
    for party in layout.parties:
        worlds.edit_toml(layout.home(party) / "node.toml", lambda content: content.update(workers=workers))
    return layout


def left(house: runs_world.House, run: str) -> dict[tuple[str, str], bytes]:
    """Return what a run left at every party: its model and a bank's scores.

    What crossed is not the same: releases are named with a salt that depends on their place in the ledger (docs/runs.md).
    """
    folders = {party: house.node(party).run_folder(run) for party in house.layout.parties}
    places = [(party, path) for party in folders for path in sorted(folders[party].glob("*.json"))]
    return {(party, path.name): path.read_bytes() for party, path in places if path.name in FILES}


def evidence_of(house: runs_world.House, run: str, folder: Path) -> Path:
    """Return the folder of a run's evidence, as an auditor is given it."""
    for party in house.layout.parties:
        shutil.copytree(house.node(party).run_folder(run) / "evidence", folder / "parties" / party / "evidence")
    return folder


@pytest.mark.skipif(not IS_TORTURE, reason="the counts of make torture are needed")
def test_two_scorecards_at_once_with_workers_are_what_each_is_alone(laid: Layout, tmp_path: Path) -> None:
    alone: dict[str, Any] = {}
    with runs_world.running(copied(laid, tmp_path / "apart", workers=0)) as house:
        for run in RUNS:
            house.submit(run)
            house.finish(run)
            alone[run] = left(house, run)
    with runs_world.running(copied(laid, tmp_path / "at once", workers=1)) as house:
        for run in RUNS:
            house.submit(run)
        runs_world.wait_for(lambda: len(house.platform.runs) == 2)
        house.finish(*RUNS)
        for run in RUNS:
            beside = left(house, run)
            assert beside.keys() == alone[run].keys() >= {("platform", FILES[0]), *(("bank-1", name) for name in FILES)}
            assert [what for what in beside if beside[what] != alone[run][what]] == []
        for run in RUNS:
            verdict = verify_run(evidence_of(house, run, tmp_path / run), workers=0)
            assert verdict.ok, verdict.failures
