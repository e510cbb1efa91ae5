"""Options of a simulation that say how a scorecard's features are cut and chosen, and one binning file for all its nodes."""

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
import worlds
from worlds import World

from lianxin.federation.errors import InputFault
from lianxin.parties.cli_model_options import model_choice
from lianxin.parties.config import load_node, load_run
from lianxin.simulations.binning_file import BINNING
from lianxin.simulations.replay import replay_run
from lianxin.simulations.tables import Inputs

SAID = """# by hand
[judgment_cnt_36m]
skip = true
[loan_rate]
monotone = "down"
"""
SELECTION = {"min_iv": 0.02, "max_correlation": 0.95, "max_vif": 5.0, "sign_check": "drop"}
TERMS = {
    "min_iv_millionths": 20_000, "max_correlation_permille": 950, "max_vif_hundredths": 500, "sign_check": "drop",
}  # fmt: skip


def test_options_of_selection_become_terms_of_the_contract(province: Inputs, tmp_path: Path) -> None:
    choice = model_choice(**SELECTION)
    assert dict(choice.terms) == TERMS
    agreed = load_run(worlds.lay(tmp_path / "run", province, model_terms=dict(choice.terms)).folder / "run.toml")
    assert {name: getattr(agreed, name) for name in TERMS} == TERMS


BAD_OPTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "trees": ({"model": "boosted_trees", "max_vif": 5.0}, "--max-vif is an option of scorecards"),
    "information": ({"min_iv": 1.5}, "--min-iv is a number from 0 to 1"),
    "correlation": ({"max_correlation": 0.0}, "--max-correlation is a number from 0.1 to 1"),
    "inflation": ({"max_vif": 0.5}, "--max-vif is a number from 1 to 1000"),
    "sign": ({"sign_check": "refuse"}, "--sign-check is report or drop"),
    "file": ({"binning": Path("nowhere.toml")}, "--binning: nowhere.toml is no file"),
}


@pytest.mark.parametrize("case", BAD_OPTIONS)
def test_an_option_that_cannot_be_is_named(case: str) -> None:
    asked, said = BAD_OPTIONS[case]
    with pytest.raises(InputFault, match=said):
        model_choice(**asked)


def test_a_binning_file_with_a_mistake_is_refused_before_anything_is_written(province: Inputs, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("[loan_rate]\nedges = [3, 2]\n")
    with pytest.raises(InputFault, match=r"mine\.toml: \[loan_rate\] edges must rise"):
        model_choice(binning=path)
    path.write_text("[loan_rat]\nskip = true\n")
    assert model_choice(binning=path).binning == path
    with pytest.raises(InputFault, match=r"mine\.toml: \[loan_rat\] is a feature of no party's table"):
        worlds.lay(tmp_path / "run", province, binning=path)
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def province(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    """Tables of a platform and one bank, as small as a run may be."""
    return worlds.tables_of(tmp_path_factory.mktemp("tables"), firms=400, banks=1, loans=200)


@pytest.fixture(scope="module")
def cut(province: Inputs, tmp_path_factory: pytest.TempPathFactory) -> World:
    """A finished run of one round whose nodes were given one binning file."""
    folder = tmp_path_factory.mktemp("cut")
    (folder / "mine.toml").write_text(SAID)
    world = worlds.run(worlds.lay(folder / "run", province, rounds=1, binning=folder / "mine.toml", **worlds.SHORT))
    (folder / "mine.toml").unlink()
    return world


def test_each_node_has_its_own_part_of_the_file_and_keeps_to_it(cut: World) -> None:
    assert (cut.layout.folder / BINNING).read_text() == SAID
    parts = {party: load_node(cut.layout.home(party) / "node.toml").binning.file for party in cut.layout.parties}
    said = {party: tomllib.loads(path.read_text()) for party, path in parts.items() if path is not None}
    bank = {"loan_rate": {"monotone": "down"}}
    assert said == {cut.platform: {"judgment_cnt_36m": {"skip": True}}, **dict.fromkeys(cut.banks, bank)}
    model = json.loads((cut.layout.run_state(cut.platform) / "model.json").read_text())
    reasons = {entry["field"]: entry["reason"] for entry in model["dropped"]}
    assert reasons["judgment_cnt_36m"] == "left out by the binning file"


def test_a_replay_begins_from_the_runs_own_copy_and_refuses_a_changed_or_missing_one(
    cut: World, tmp_path: Path
) -> None:
    with worlds.known_keys():
        assert replay_run(cut.layout.folder).transcript_sha256 == cut.ran.summary["transcript_sha256"]
    copy = worlds.copy_of(cut, tmp_path / "run")
    (copy / BINNING).write_text(SAID.replace("down", "none"))
    with pytest.raises(InputFault, match=r"the binning file at .* has changed since the run"):
        replay_run(copy)
    (copy / BINNING).unlink()
    with pytest.raises(InputFault, match="the binning file of the run is no longer at"):
        replay_run(copy)
    scenario = json.loads((copy / "scenario.json").read_text())
    assert "binning" not in scenario["terms"] and scenario["binning"]["file"] == BINNING
