"""`lianxin simulate` with a network: what its options become, and what is refused in one sentence before anything runs."""

import json
from pathlib import Path
from typing import Any

import network_world
import pytest

from lianxin.federation.contract import NETWORK_TERMS
from lianxin.federation.errors import InputFault
from lianxin.parties import cli, cli_network_options
from lianxin.parties.cli_model_options import model_choice
from lianxin.simulations.tables import check_network_inputs

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


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"epsilon": 0.0001}, "--epsilon is at least 0.001"),
        ({"clip": 1.0}, "--clip is a part of differential privacy"),
        ({"epsilon": 0.0, "delta_exponent": 7}, "--delta-exponent is a part of differential privacy"),
    ],
    ids=["tiny", "clip alone", "delta alone"],
)
def test_privacy_is_asked_for_whole_or_refused(asked: dict[str, Any], said: str) -> None:
    with pytest.raises(InputFault, match=said):
        model_choice("mlp", **asked)
    terms = model_choice("mlp", epsilon=0.001, clip=1.5, delta_exponent=7).terms
    assert (terms["epsilon_thousandths"], terms["clip_thousandths"], terms["delta_exponent"]) == (1, 1500, 7)


@pytest.mark.parametrize(
    ("banks", "asked", "said"),
    [
        (3, ["--strategy", "fedmedian"], "median of groups"),
        (3, ["--groups", "2"], "groups need 12 banks"),
        (2, [], "across 3 banks or more"),
    ],
    ids=["fedmedian", "groups", "two banks"],
)
def test_terms_that_cannot_be_kept_are_refused_before_anything_is_made(
    banks: int, asked: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", str(tmp_path / "out")]
    assert cli.run(["simulate", "province", "--model", "logistic", "--banks", str(banks), *asked, *out]) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "out").exists()
    assert cli.run([*WORDS, *banks_of(tmp_path / "tables", banks), *asked, *out]) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "out").exists()


SCALES = {"local_rate": 10**6, "server_rate": 10**6, "proximal": 1000, "max_loss_rise": 1000, "clip": 1000}


@pytest.mark.parametrize("name", sorted(set(cli_network_options.OPTIONS) - {"epsilon"}))
def test_help_names_the_default_that_a_contract_has(name: str) -> None:
    annotation, default = cli_network_options.OPTIONS[name]
    (option,) = annotation.__metadata__
    key = {"hidden": "hidden_units"}.get(name) or cli_network_options.NUMBERS.get(name, (name,))[0]
    value = NETWORK_TERMS[key]
    if isinstance(value, list):
        said = "; " + ",".join(str(one) for one in value) + "."
    else:
        said = f"{value} (the default)" if isinstance(value, str) else f"; {value / SCALES.get(name, 1):g}."
    assert default is None and said in option.help


def test_text_among_numbers_is_refused_by_file_and_row_before_a_run(tmp_path: Path) -> None:
    inputs = network_world.tables_of(tmp_path, rows=60)
    paths = [bank.file for bank in inputs.banks]
    columns = network_world.bank_columns(5, 1, 60)
    columns["turnover"] = [str(one) for one in columns["turnover"]]
    columns["turnover"][6] = columns["turnover"][9] = "inf"
    network_world.write_table(paths[1], columns)
    with pytest.raises(InputFault) as fault:
        check_network_inputs(paths, "firm", "label_bad", "split", None, 3)
    said = str(fault.value)
    assert "column turnover holds numbers in bank-1.csv.gz and text in bank-2.csv.gz (first in data row 7)" in said
    assert "inf" not in said.replace("in ", "")


def test_a_run_with_noise_says_so_beside_its_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The columns of bank-1 lack `noise`, bank-3 has no test rows, and few rows are held back."""
    inputs = network_world.tables_of(tmp_path / "tables", rows=300)
    paths = [bank.file for bank in inputs.banks]
    for place, change in ((0, lambda c: c.pop("noise")), (2, lambda c: c.update(split=["train"] * 300))):
        columns = network_world.bank_columns(5, place, 300)
        change(columns)
        network_world.write_table(paths[place], columns)
    banks = [word for path in paths for word in ("--bank", str(path))]
    asked = ["--aggregation", "clear", "--rounds", "2", "--epsilon", "6", "--delta-exponent", "4", "--json"]
    assert cli.run([*WORDS, *banks, "--out", str(tmp_path / "out"), *asked]) == 0
    printed = capsys.readouterr()
    figures = json.loads(printed.out.splitlines()[-1])
    assert figures["refused"]["fields"] == ["noise"]
    assert "note: Column noise was left out: not every bank has it." in printed.err
    assert "note: bank-3: it has no test rows" in printed.err
    assert set(figures["validation_loss"]["bank-1"]) == {"local", "federated", "personalised"}
    assert all(40 < rows < 100 for rows in figures["validation_rows"].values())
    assert figures["weak_recommendations"] == ["bank-1", "bank-2", "bank-3"]
    privacy = figures["privacy"]
    assert (privacy["epsilon"], privacy["delta_exponent"], privacy["unit"]) == (6.0, 4, "record")
    assert all(noise > 0 for noise in privacy["noise"].values()) and set(privacy["epsilon_left"].values()) == {2.0}
    page = (tmp_path / "out" / "report.html").read_text()
    for said in (
        "ε = 6 per record at each bank, δ = 1e-4, noise σ = ",
        "budget left ε = 2",
        "(weak)",
        "Rows held back",
    ):
        assert said in page
    assert "ε = 6 per record" in " ".join(printed.err.split())
