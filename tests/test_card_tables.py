"""Tables that a card scores, cell by cell; what a card's chances mean; what its files and commands say."""

import io
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from card_world import made_card
from rich.console import Console
from worlds import finished, province  # noqa: F401 - fixtures

from lianxin.crypto.randomness import Drbg
from lianxin.federation.errors import InputFault, PeerError
from lianxin.federation.evaluation_models import CARD, MODEL, evaluate_models
from lianxin.parties import cli
from lianxin.parties.bank_scorecard import BankScorecard
from lianxin.parties.cli_card import _tables
from lianxin.parties.coding import BinSpec
from lianxin.parties.decision_catalogue import Field
from lianxin.parties.records import read_table
from lianxin.parties.report_results import results_html
from lianxin.parties.scorecard_card import BANK_ONLY, JOINT
from lianxin.parties.scorecard_export import HEADER, card_rows, export_card, score_table
from lianxin.parties.scorecard_refit import chances_of
from lianxin.parties.scorecard_table import as_number, card_rows_of, own_columns
from lianxin.simulations.runner import _with_causes


@pytest.fixture(scope="module")
def made():
    return made_card()


def table_of(folder, lines):
    path = folder / "rows.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("bad", ["abc", "inf", "nan", "'67,000'", "1e999", "٣"])
def test_a_cell_that_is_no_number_costs_its_own_firm_alone(made, tmp_path, bad):
    card, *_ = made
    good = [f"{0.5 + row % 3},shop" for row in range(7)]
    cell = bad.replace("'", '"')
    mixed = read_table(table_of(tmp_path, ["g0,g1", *good, f"{cell},shop"]))
    whole = read_table(table_of(tmp_path, ["g0,g1", *good, ",shop"]))
    assert score_table(card, mixed) == score_table(card, whole)
    assert card_rows_of(card, mixed).notes[0] == "g0: 1 of 8 values is no number and counts as missing: row 8"
    assert not [note for note in card_rows_of(card, whole).notes if "number" in note]
    columns = {name: mixed.column(name) for name in card.fields}  # the table's own reader: all eight firms are missing
    assert card.score(columns, [None] * 8) != score_table(card, mixed)


def test_every_row_that_is_no_number_is_counted_and_the_first_are_named():
    found = own_columns({"x": BinSpec("numeric", (1.0,), (), (0, 1, 0))}, {"x": ["1", " 2.5 ", "NA", ""] + ["?"] * 7})
    assert found.columns["x"] == [1.0, 2.5, None, None] + [None] * 7
    assert found.notes == ("x: 7 of 11 values are no numbers and count as missing: rows 5, 6, 7, 8, 9 and 2 more",)
    assert [as_number(cell) for cell in ("-3", "+.5", "1e3", "1_000", "0x1", True and 7, float("inf"))] == [
        -3, 0.5, 1000, None, None, 7, None,
    ]  # fmt: skip


def test_texts_of_a_text_feature_stay_as_they_are():
    spec = BinSpec("text", (), ("shop",), (0, 1, 1))
    assert own_columns({"t": spec}, {"t": ["shop", "12", None]}) == own_columns(
        {"t": spec}, {"t": ["shop", "12", None]}
    )
    assert own_columns({"t": spec}, {"t": ["shop", "12", None]}).columns["t"] == ["shop", "12", None]


def test_a_named_column_of_sub_scores_must_be_there_and_its_own_row_is_blamed(made, tmp_path, capsys):
    card, *_ = made
    path = table_of(tmp_path, ["g0,g1,platform_points", "0.5,shop,12", "1,mill,", "1,shop,abc", "2,shop,7"])
    with pytest.raises(InputFault, match=r"data row 3 of rows\.csv has no whole number in platform_points"):
        score_table(card, read_table(path))
    with pytest.raises(InputFault, match="no column pts"):
        score_table(card, read_table(path), "pts")
    path = table_of(tmp_path, ["g0,g1,platform_points", "0.5,shop,12", "1,mill,"])
    assert card_rows_of(card, read_table(path)).notes == (
        "1 of 2 rows have no platform_points and are scored by the bank alone",
    )
    file = tmp_path / "card.json"
    file.write_bytes(export_card(replace(card, retain_until="2999-01-01T00:00:00Z"), "json", "0"))
    path = table_of(tmp_path, ["g0,g1", "0.5,shop", "x,mill"])
    assert cli.run(["bank", "score-card", str(file), str(path), "--json"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["notes"] == told.err.strip().splitlines()
    assert "2 of 2 rows have no platform_points" in told.err and "row 2" in told.err
    assert cli.run(["bank", "score-card", str(file), str(path), "--points", "pts"]) == 2
    assert cli.run(["bank", "score-card", str(file), str(path), "--out", str(tmp_path / "no" / "s.csv")]) == 2
    assert "cannot be written" in capsys.readouterr().err


# ---- chances


def test_the_chances_that_are_evaluated_are_those_that_the_card_delivers(made):
    card, scored, columns = made
    delivered = [s.pd_micro / 10**6 for s in card.score(columns, scored.points)]
    assert chances_of(card.joint, scored) == delivered
    drawn = Drbg(bytes(32))
    scores = {"joint": np.clip(np.array(delivered) ** 2, 0, 1)}
    with_card = evaluate_models(scored.labels, scores, None, drbg=drawn, chances={"joint": delivered}).models["joint"]
    without = evaluate_models(scored.labels, scores, None, drbg=drawn).models["joint"]
    assert (with_card.chances, without.chances) == (CARD, MODEL)
    assert with_card.auc == without.auc and with_card.brier.score < without.brier.score
    assert with_card.brier.score == pytest.approx(np.mean((np.array(delivered) - scored.labels) ** 2))
    assert abs(sum(delivered) - sum(scored.labels)) < 1


def test_a_run_evaluates_its_cards_chances(finished):  # noqa: F811
    folder = finished.layout.run_state(finished.banks[0])
    scores = json.loads((folder / "scores.json").read_text())
    record = json.loads((folder / "evaluation.json").read_text())
    labels = np.array(scores["labels"])
    joint = next(m for m in record["levels"][0]["models"] if m["model"] == "joint")
    brier = np.mean((np.array(scores["joint_pd"]) - labels) ** 2)
    assert joint["chances"] == CARD and joint["brier"]["score"] == round(brier * 10**6)
    assert joint["brier"]["score"] != round(np.mean((np.array(scores["joint"]) - labels) ** 2) * 10**6)


def test_a_card_says_what_its_points_mean_by_the_calibration(made):
    card, *_ = made
    calibration = card.joint.calibration
    chance = calibration.chance_micro(600) / 10**6
    assert calibration.odds_at(600) == pytest.approx((1 - chance) / chance, rel=1e-3)
    double = calibration.points_to_double()
    assert double is not None
    exact = replace(calibration, slope_nano=-34_657_359)  # ln 2 / 20
    assert exact.points_to_double() == pytest.approx(20) and double > 0
    assert exact.odds_at(620) == pytest.approx(2 * exact.odds_at(600), rel=1e-6)
    said = card.scale()
    assert [one.split(":")[0] for one in said] == ["joint", "bank only"]
    assert f"600 points mean odds of {calibration.odds_at(600):.3g}:1" in said[0]
    flat = replace(calibration, slope_nano=0)
    assert flat.points_to_double() is None


# ---- files and terminal


def test_numbers_of_the_bands_stand_in_columns_of_their_own(made):
    card, *_ = made
    rows = [dict(zip(HEADER, row, strict=True)) for row in card_rows(card)]
    bands = [row for row in rows if row["field"] == "band" and row["part"] == JOINT]
    assert [(b["score_from"], b["score_to"], b["training_rows"], b["bads"]) for b in bands] == [
        band[:4] for band in card.joint.calibration.bands
    ]
    rate = next(row for row in rows if row["field"] == "base rate" and row["part"] == BANK_ONLY)
    assert float(rate["probability_of_default"]) == card.parts()[BANK_ONLY].calibration.bad_rate_micro / 10**6
    assert all(0 < float(b["probability_of_default"]) < 1 for b in bands)


def test_the_terminal_never_cuts_a_number_or_a_code_at_80_columns(made):
    card, *_ = made
    long = replace(card, reasons=tuple(replace(one, field=one.field + "_of_the_bank" * 4) for one in card.reasons))
    console = Console(width=80, file=io.StringIO())
    for table in _tables(long, JOINT):
        console.print(table)
    shown = console.file.getvalue()
    assert "…" not in shown and all(len(line) <= 80 for line in shown.splitlines())
    for reason, feature in zip(long.reasons, long.joint.features, strict=True):
        assert reason.code in shown and all(f" {points} " in shown for points in feature.points)


def test_a_format_is_known_and_has_a_file(finished, tmp_path, capsys):  # noqa: F811
    node = str(finished.layout.home(finished.banks[0]) / "node.toml")
    for words, sentence in (
        (["--format", "xml"], "--format is one of json, csv, pmml"),
        (["--format", "pmml"], "say with --out"),
        (["--out", str(tmp_path)], "cannot be written"),
    ):
        assert cli.run(["bank", "card", "run-1", "--node", node, *words]) == 2
        said = capsys.readouterr()
        assert sentence in said.err and said.err.count("\n") == 1 and not said.out
    assert cli.run(["bank", "card", "run-1", "--node", node]) == 0
    said = capsys.readouterr().err
    assert "points mean odds of" in said and "its contract is over" not in said  # by the clock of the trial


def test_no_code_is_given_to_a_field_that_no_one_may_use(finished):  # noqa: F811
    entries = {
        "open": Field("open", "LIM", "NI", "AUTH", "ENT"), "kept": Field("kept", "LIM", "NI", "NEVER", "ENT"),
        "barred": Field("barred", "BAN", "NI", "NEVER", "ENT"),
    }  # fmt: skip
    run = SimpleNamespace(node=SimpleNamespace(catalogue=entries))
    assert [name for name in (*entries, "new") if BankScorecard._may_count(run, name)] == ["open", "new"]
    model = json.loads((finished.layout.run_state(finished.banks[0]) / "model.json").read_text())
    assert model["card"]["platform_reasons"]


def test_faults_name_their_own_command_and_the_version_is_told(capsys):
    assert cli.run(["--version"]) == 0 and capsys.readouterr().out.startswith("lianxin ")
    assert cli.run(["bank", "card", "--nix"]) == 2
    assert "see `lianxin bank card --help`" in capsys.readouterr().err
    words = ["simulate", "province", "--model", "boosted_trees"]
    assert cli.run([*words, "--rounds", "3"]) == 2 and "--rounds is an option of scorecards" in capsys.readouterr().err
    assert cli.run([*words, "--patience", "3"]) == 2 and "--validation" in capsys.readouterr().err
    assert cli.run(["simulate", "province", "--out", "/proc/nowhere/run"]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_a_simulation_tells_each_banks_own_cause():
    end = PeerError("bank-2 could not do query.count (rule L01)", "L01")
    ended = {"bank-1": {"error": ""}, "bank-2": {"error": "bank-2 shares 7 bads and the contract asks for 20"}}
    assert _with_causes(end, ended) is end and (end.rule, end.exit_code) == ("L01", 4)
    assert str(end).startswith("bank-2: bank-2 shares 7 bads") and str(end).endswith("(rule L01)")
    quiet = PeerError("gone", "L01")
    assert str(_with_causes(quiet, {"bank-1": {}})) == "gone"


def test_the_headline_says_how_sure_it_is():
    def headline(**test):
        level = {"level": "overall", "paired": [{"first": "joint", "second": "bank_only", **test}]}
        return results_html({"auc": {"overall": {"joint": 0.7, "bank_only": 0.69}}, "evaluation": {"levels": [level]}})

    assert "interval −0.0100 to +0.0300: no difference shown" in headline(difference=10_000, low=-10_000, high=30_000)
    surely = headline(difference=10_000, low=5_000, high=15_000)
    assert "interval +0.0050 to +0.0150." in surely and "no difference" not in surely
    assert "rank these rows alike" in headline(difference=0, low=0, high=0)
