"""A network's run goes on after its platform or a bank was killed, wherever it was, and ends with the same model."""

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import network_world
import pytest
from faults.killed_nodes import STAGES, Place, Town
from faults.processes_killed import Mortal
from torture import IS_TORTURE, ONLY

from lianxin.parties.auditor import verify_run
from lianxin.simulations.layout import Layout
from lianxin.simulations.runner import collect_evidence, free_address
from lianxin.simulations.tables import Inputs

TERMS = {"rejoin_s": 20, "local_epochs": 1, "rounds": 2, "max_loss_rise_permille": 100}


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return network_world.tables_of(tmp_path_factory.mktemp("tables"), rows=400)


@pytest.fixture(scope="module")
def undisturbed(tables: Inputs, tmp_path_factory: pytest.TempPathFactory) -> str:
    layout = network_world.lay(tmp_path_factory.mktemp("whole") / "run", tables, **TERMS)
    assert Town(layout).run()["state"] == "finished"
    return digest_of(layout)


@pytest.fixture(autouse=True)
def deaths_are_quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pytest.PytestUnhandledThreadExceptionWarning)
        yield


def models_of(layout: Layout) -> dict[str, dict[str, Any]]:
    return {party: json.loads((layout.run_state(party) / "model.json").read_text()) for party in layout.parties}


def digest_of(layout: Layout) -> str:
    (digest,) = {model["model_sha256"] for model in models_of(layout).values()}
    return digest


PLACES = {
    **{f"a bank at {stage}": [Place("bank-2", stage, 2)] for stage in STAGES},
    "a bank while rounds are judged": [Place("bank-1", "masked", 1, "query.judge")],
    "a bank while fields are counted": [Place("bank-3", "open", 0, "query.firsta")],
    "the platform before any round": [Place("PLATFORM", "_agree")],
    "the platform in round 2": [Place("PLATFORM", "_averaged", 2)],
    "the platform after round 1": [Place("PLATFORM", "end_round", 1, after=True)],
    "the platform at the evaluation": [Place("PLATFORM", "evaluation")],
    "the platform and a bank": [Place("PLATFORM", "_judged", 1), Place("bank-2", "agree", 2)],
}


DAILY = (
    "a bank at keys", "a bank at masked", "a bank while fields are counted", "the platform in round 2",
    "the platform at the evaluation", "the platform and a bank",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", [pytest.param(name, marks=[] if name in DAILY else ONLY) for name in PLACES])
def test_a_run_ends_with_the_same_model_whoever_was_killed(
    tables: Inputs, undisturbed: str, tmp_path: Path, name: str
) -> None:
    layout = network_world.lay(tmp_path / "run", tables, **TERMS)
    places = [
        Place(**{**vars(p), "party": layout.parties[0] if p.party == "PLATFORM" else p.party}) for p in PLACES[name]
    ]
    town = Town(layout)
    ended = town.run(places)
    assert ended["state"] == "finished", (ended, town.notes)
    assert town.deaths == [place.party for place in places]
    assert digest_of(layout) == undisturbed
    collect_evidence(layout)
    assert verify_run(layout.folder).failures == ()


def killed_for_real(layout: Layout, places: list[Place]) -> str:
    """Run a layout as processes of which some are killed, and return the digest of the model that all end with."""
    group = Mortal(layout)
    try:
        ended = group.follow(places, 120.0)
    finally:
        group.stop()
    assert ended["state"] == "finished", ended
    logs = "".join((layout.home(party) / "node.log").read_text() for party in layout.parties)
    assert "Traceback" not in logs
    assert verify_run(layout.folder).failures == ()
    return digest_of(layout)


@ONLY
@pytest.mark.slow
def test_processes_killed_without_warning_end_with_the_same_model(
    tables: Inputs, undisturbed: str, tmp_path: Path
) -> None:
    layout = network_world.lay(tmp_path / "run", tables, free_address(), **TERMS)
    places = [Place(layout.parties[0], "_averaged", 2), Place("bank-2", "masked", 1), Place("bank-3", "open", 2)]
    assert killed_for_real(layout, places) == undisturbed


@pytest.mark.slow
@pytest.mark.skipif(not IS_TORTURE, reason="the counts of make torture are needed")
def test_of_four_processes_each_stage_of_a_sum_may_kill_one(tmp_path: Path) -> None:
    four = network_world.tables_of(tmp_path / "tables", banks=4, rows=400)
    whole = network_world.lay(tmp_path / "whole", four, **TERMS)
    assert Town(whole).run()["state"] == "finished"
    layout = network_world.lay(tmp_path / "run", four, free_address(), **TERMS)
    places = [
        Place("bank-1", "keys", 1),
        Place("bank-2", "shares", 1),
        Place("bank-3", "agree", 2),
        Place("bank-4", "open", 2),
    ]
    assert killed_for_real(layout, places) == digest_of(whole)
