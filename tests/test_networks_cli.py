"""`lianxin simulate` with a network: what its options become, and what is refused in one sentence before anything runs."""

import json
from pathlib import Path
from typing import Any

import network_world
import pytest

from lianxin.federation.errors import InputFault
from lianxin.parties import cli
from lianxin.parties.cli_model_options import model_choice

WORDS = ["simulate", "files", "--id", "firm", "--label", "label_bad", "--split", "split", "--model", "logistic"]


def test_options_become_the_contracts_terms() -> None:
    choice = model_choice(
        "mlp",
        strategy="fedprox",
        epsilon=2.5,
        hidden="32, 8",
        local_rate=0.05,
        proximal=0.1,
        validation=0.25,
        groups=None,
    )
    assert choice.is_network and choice.terms == {
        "strategy": "fedprox", "epsilon_thousandths": 2500, "hidden_units": [32, 8], "local_rate_millionths": 50_000,
        "proximal_thousandths": 100, "validation_permille": 250,
    }  # fmt: skip
    assert model_choice("logistic").terms == {"validation_permille": 200}


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"model": "mlp", "strategy": "average"}, "--strategy is fedavg, fedprox, fedadam or fedmedian"),
        ({"model": "mlp", "aggregation": "none"}, "--aggregation is secret or clear"),
        ({"model": "mlp", "hidden": "0,x"}, "--hidden is 1 to 4 sizes"),
        ({"model": "mlp", "epsilon": -1.0}, "--epsilon is a number"),
        ({"model": "mlp", "trees": 3}, "--trees is an option of scorecards and trees"),
        ({"model": "scorecard", "epsilon": 1.0}, "--epsilon is an option of networks"),
        ({"model": "boosted_trees", "strategy": "fedavg"}, "--strategy is an option of networks"),
    ],
    ids=["strategy", "aggregation", "hidden", "epsilon", "trees", "of a scorecard", "of trees"],
)
def test_options_that_do_not_fit_are_refused_by_name(asked: dict[str, Any], said: str) -> None:
    with pytest.raises(InputFault, match=said):
        model_choice(**asked)


def banks_of(folder: Path, count: int) -> list[str]:
    inputs = network_world.tables_of(folder, rows=300)
    return [word for bank in inputs.banks[:count] for word in ("--bank", str(bank.path))]


def test_a_platforms_table_and_too_few_banks_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    banks, out = banks_of(tmp_path / "tables", 3), ["--out", str(tmp_path / "out")]
    assert cli.run([*WORDS, *banks, *out, "--platform", banks[1]]) == 2
    assert "leave --platform out" in capsys.readouterr().err
    assert cli.run([*WORDS, *banks[:4], *out]) == 2
    assert "across 3 banks or more" in capsys.readouterr().err
    assert cli.run([*WORDS[:-1], "scorecard", *banks, *out]) == 2
    assert "name it with --platform" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_run_prints_its_figures_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    banks, out = banks_of(tmp_path / "tables", 3), ["--out", str(tmp_path / "out")]
    assert (
        cli.run([*WORDS, *banks, *out, "--aggregation", "clear", "--rounds", "2", "--max-loss-rise", "0", "--json"])
        == 0
    )
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures["aggregation"] == "clear" and figures["rounds"] == 2 and figures["ledger_verified"] is True
    assert set(figures["auc"]["bank-1"]) == {"local", "federated", "personalised", "pooled"} and figures["same_model"]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Rounds were not judged" in page and "Updates were added in clear" in page
