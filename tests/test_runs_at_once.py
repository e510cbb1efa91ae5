"""Two runs at once do not disturb each other: each leaves the models and the transcript that it leaves alone."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import network_world
import pytest
import runs_world

from lianxin.parties.transcript_digest import transcript_digest
from lianxin.simulations.layout import Layout

TERMS = {"rounds": 1, "local_epochs": 1, "rejoin_s": 2}
RUNS = ("run-a", "run-b")


@pytest.fixture(scope="module")
def laid(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    tables = network_world.tables_of(tmp_path_factory.mktemp("tables"), rows=300)
    layout = network_world.lay(tmp_path_factory.mktemp("laid") / "run", tables, **TERMS)
    runs_world.set_runs(layout, at_once=2, queued=4)
    return layout


@pytest.fixture
def copied(laid: Layout, tmp_path: Path) -> Callable[[str], Layout]:
    """Return how to make a fresh copy of the layout under a name."""
    return lambda name: replace(laid, folder=Path(shutil.copytree(laid.folder, tmp_path / name)))


def told(house: runs_world.House, run: str) -> dict[str, Any]:
    """Return what a run left at every party: its model, and the digest of what crossed."""
    folders = {party: house.node(party).config.state / "runs" / run for party in house.layout.parties}
    digests = {party: transcript_digest(house.node(party).store, run) for party in house.layout.parties}
    return {
        "digests": digests,
        "models": {party: (path / "model.json").read_bytes() for party, path in folders.items()},
    }


def test_a_run_beside_another_leaves_what_it_leaves_alone(copied: Callable[[str], Layout]) -> None:
    with runs_world.running(copied("apart")) as house:
        house.submit(RUNS[0])
        house.finish(RUNS[0])
        alone = told(house, RUNS[0])
    with runs_world.running(copied("at once")) as house:
        for run in reversed(RUNS):
            house.submit(run)
        runs_world.wait_for(lambda: len(house.platform.runs) == 2)
        house.finish(*RUNS)
        assert told(house, RUNS[0]) == alone
        weights = {run: json.loads(told(house, run)["models"]["bank-1"])["model_sha256"] for run in RUNS}
        assert all(weights.values())
        finished = {party: [("finished", "")] for party in house.layout.parties}
        assert [house.ends(run) for run in RUNS] == [finished, finished]
        assert not house.platform.lives and not any(bank.members or bank.parts for bank in house.banks.values())
