"""The binning workbench by its commands, and a run in which both sides' binning files and every selection term count."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import worlds
from conversations import contract_of
from worlds import World

from lianxin.federation.errors import InputFault, RunStopped
from lianxin.parties import cli
from lianxin.parties.bank import BankNode
from lianxin.parties.bank_scorecard import BankScorecard
from lianxin.parties.bin_notes import left_out_because, merge_notes, separates
from lianxin.parties.coding_fields import BinLimits
from lianxin.parties.coding_rules import NO_RULES, BinRules, FieldRule
from lianxin.parties.config import load_node
from lianxin.parties.node import open_node
from lianxin.parties.records import LoanTable
from lianxin.parties.workbench import auc_half_width, bank_workbench, model_workbench, size_advice
from lianxin.simulations.tables import Inputs

province, finished = worlds.province, worlds.finished
ROWS = 600
AGES = [row * 7 % 50 for row in range(ROWS)]
BAD = [int(row % 10 < (4 if age < 10 or age > 40 else 1)) for row, age in enumerate(AGES)]


def loans(**columns: list[Any]) -> LoanTable:
    split = ["train" if row % 5 else "test" for row in range(ROWS)]
    return LoanTable([f"f{row}" for row in range(ROWS)], BAD, split, {"age": AGES, **columns})


def look(table: LoanTable, rules: BinRules = NO_RULES, *fields: str) -> dict[str, dict[str, Any]]:
    return {t["field"]: t for t in bank_workbench(table, rules, BinLimits(6, 50, 5, 5), fields).to_record()["fields"]}


def test_a_table_has_counts_weights_and_advice_of_each_bin() -> None:
    (table,) = look(loans()).values()
    train = [row for row in range(ROWS) if row % 5]
    assert sum(b["rows"] for b in table["bins"]) == len(train)
    assert sum(b["bads"] for b in table["bins"]) == sum(BAD[row] for row in train)
    assert all(b["rows"] == b["goods"] + b["bads"] for b in table["bins"])
    worst = max(table["bins"], key=lambda b: b["bads"] / b["rows"])
    assert worst["woe"] < 0 and any("does not go one way" in said for said in table["advice"])
    rules = BinRules("bins.toml", {"age": FieldRule(monotone="auto")})
    ordered = look(loans(), rules)["age"]
    woe = [b["woe"] for b in ordered["bins"]]
    assert woe in (sorted(woe), sorted(woe, reverse=True)) and ordered["iv"] < table["iv"]


def test_columns_that_cannot_serve_are_left_out_with_their_reason() -> None:
    found = look(loans(empty=[None] * ROWS, flat=[1] * ROWS, told=[float(b) for b in BAD]))
    assert found["empty"]["dropped"] == "no row has a value"
    assert found["flat"]["dropped"] == "every row has the same value"
    assert "known before the decision" in found["told"]["dropped"]
    assert list(look(loans(flat=[1] * ROWS), NO_RULES, "flat")) == ["flat"]


def test_a_thin_bin_and_a_field_that_tells_too_much_are_advised_on() -> None:
    thin = [1] * 575 + [2] * 25
    found = bank_workbench(loans(thin=thin), NO_RULES, BinLimits(6, 20, 1, 1)).to_record()
    table = next(t for t in found["fields"] if t["field"] == "thin")
    assert not table["dropped"] and "bin 2 holds under 5% of the rows; merge it" in table["advice"]
    strong = look(loans(strong=[b if row % 7 else 1 - b for row, b in enumerate(BAD)]))["strong"]
    assert "above 0.5" in strong["advice"][0]


def test_too_few_bads_are_said_with_the_interval_that_they_leave() -> None:
    few, interval = size_advice(2600, 52)
    assert "2,600 rows at 2.0 % give 52 bads" in few and "0.673 to 0.827" in interval
    assert size_advice(20_000, 2_000) == []
    assert auc_half_width(52, 2548) > 3 * auc_half_width(2000, 18_000)


def test_a_bank_sees_its_bins_before_any_run(finished: World, capsys: pytest.CaptureFixture[str]) -> None:
    node = str(finished.layout.home(finished.banks[0]) / "node.toml")
    assert cli.run(["bank", "bins", "--node", node, "--max-bins", "4", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert {table["field"] for table in shown["fields"]} == set(worlds.BANK_FIELDS)
    assert shown["rows"] == 240 and sum(b["rows"] for b in shown["fields"][0]["bins"]) == 240
    assert cli.run(["bank", "bins", "--node", node, "--field", "loan_rate"]) == 0
    said = capsys.readouterr().out
    assert "loan_rate: IV" in said and "dpd_max_12m" not in said and "bad rate" in said


def test_a_platform_sees_the_bins_of_a_finished_run(finished: World, capsys: pytest.CaptureFixture[str]) -> None:
    node = str(finished.layout.home(finished.platform) / "node.toml")
    assert cli.run(["platform", "bins", "run-1", "--node", node, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    model = json.loads((finished.layout.run_state(finished.platform) / "model.json").read_text())
    assert {t["field"]: round(t["iv"] * 10**6) for t in shown["fields"] if t["bins"]} == {
        entry["field"]: entry["iv_micro"] for entry in model["features"]
    }


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["bank", "bins", "--field", "nonsense"], "has no field nonsense"),
        (["bank", "bins", "--run", "run-9"], "holds no model"),
        (["platform", "bins", "Run 1"], "a run's id is"),
        (["platform", "bins", "run-1", "--field", "nonsense"], "the run has no field nonsense"),
    ],
)
def test_a_mistake_in_what_is_asked_is_one_sentence(
    finished: World, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    party = finished.banks[0] if arguments[0] == "bank" else finished.platform
    assert cli.run([*arguments, "--node", str(finished.layout.home(party) / "node.toml")]) == 2
    said = capsys.readouterr().err
    assert words in said and said.strip().count("\n") == 0


TERMS = {"max_vif_hundredths": 102, "min_iv_millionths": 20_000, "max_correlation_permille": 950, "sign_check": "drop"}


def with_rules(layout: Any, party: str, text: str) -> None:
    (layout.home(party) / "bins.toml").write_text(text)
    worlds.edit_toml(layout.home(party) / "node.toml", lambda config: config.update(binning={"file": "bins.toml"}))


@pytest.fixture(scope="module")
def chosen(province: Inputs, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A finished run under every selection term, with a binning file at the platform and at one bank: the models."""
    minimums = {**worlds.QUICK["minimums"], "max_bins": 5, **TERMS}
    layout = worlds.lay(tmp_path_factory.mktemp("chosen") / "run", province, minimums=minimums, **worlds.SHORT)
    with_rules(layout, layout.parties[0], '[judgment_cnt_36m]\nskip = true\n[utility_continuity_m]\nmonotone = "up"\n')
    with_rules(layout, layout.parties[1], '[loan_rate]\nmonotone = "down"\n[dpd_max_12m]\nspecial = [0]\n')
    worlds.run(layout)
    return {p: json.loads((layout.run_state(p) / "model.json").read_text()) for p in layout.parties}


def test_a_run_keeps_to_binning_files_and_selection_terms(chosen: dict[str, Any]) -> None:
    platform, bank, other = chosen.values()
    reasons = {entry["field"]: entry["reason"] for entry in platform["dropped"]}
    assert reasons["judgment_cnt_36m"] == "left out by the binning file"
    for entry in platform["features"]:
        assert entry["iv_micro"] >= TERMS["min_iv_millionths"]
        if entry["field"] == "utility_continuity_m":
            cells = entry["bins"]["groups"][: len(entry["bins"]["uppers"]) + 1]
            woe = [entry["woe"][b] for b in dict.fromkeys(entry["merged"][cell] for cell in cells)]
            assert woe == sorted(woe)
    rate = next(entry for entry in bank["features"] if entry["field"] == "loan_rate")
    inside = list(dict.fromkeys(rate["bins"]["groups"][: len(rate["bins"]["uppers"]) + 1]))
    assert [rate["woe"][b] for b in inside] == sorted((rate["woe"][b] for b in inside), reverse=True)
    told = [entry["reason"] for model in chosen.values() for entry in model["dropped"]]
    assert any("variance inflation" in reason for reason in told), told
    for model in (bank, other):
        named = {entry["field"] for entry in [*model["features"], *model["dropped"]]}
        assert named == set(worlds.BANK_FIELDS) and set(model["wrong_sign"]) == {"joint", "bank_only"}


def test_a_binning_file_that_does_not_fit_keeps_its_node_from_starting_and_one_beyond_the_contract_ends_the_run(
    province: Inputs, tmp_path: Path
) -> None:
    layout = worlds.lay(tmp_path / "run", province)
    platform, bank, _ = layout.parties
    config = layout.home(bank) / "node.toml"
    with_rules(layout, bank, "[loan_rate]\nedges = [3, 2]\n")
    with pytest.raises(InputFault, match=r"\[loan_rate\] edges must rise"):
        open_node(load_node(config))
    with_rules(layout, bank, "[loan_rat]\nskip = true\n")
    node = open_node(load_node(config))
    with pytest.raises(InputFault, match=r"\[loan_rat\] is no column of this node"):
        BankNode(node, None)  # type: ignore[arg-type]
    node.close()
    with_rules(layout, bank, "")
    with_rules(layout, platform, "[tax_late_cnt_24m]\nmax_bins = 9\n")
    with pytest.raises(InputFault, match=r"\[tax_late_cnt_24m\] max_bins is 9 and the contract allows 3"):
        worlds.run(layout)


def test_a_bank_with_too_few_bads_ends_the_run_with_the_counts_of_its_firms() -> None:
    run = object.__new__(BankScorecard)
    run.node, run.contract = SimpleNamespace(party="bank-1"), contract_of()  # type: ignore[assignment]
    run.table = LoanTable([f"f{row // 2}" for row in range(90)], [int(row < 8) for row in range(90)], [], {})
    with pytest.raises(RunStopped, match="80 shared training rows have 4 firms with a bad loan and 36 with a good one"):
        run._check_classes(range(80))
    run.table = LoanTable([f"f{row}" for row in range(90)], run.table.labels, [], {})
    run._check_classes(range(80))


def test_what_was_merged_and_what_goes_against_the_data_is_said() -> None:
    falls = BinRules("bins.toml", {"risk": FieldRule(monotone="up")})
    risk = [3 if (b and row % 3) or row % 7 == 0 else row % 3 for row, b in enumerate(BAD)]
    found = look(loans(risk=risk), falls, "risk")["risk"]
    assert any(said.startswith('monotone = "up" goes against the data') for said in found["advice"])
    right = look(loans(risk=risk), BinRules("bins.toml", {"risk": FieldRule(monotone="down")}), "risk")["risk"]
    assert not any("against the data" in said for said in right["advice"])
    rare = [row % 3 if bad else row // 10 % 6 for row, bad in enumerate(BAD)]
    merged = look(loans(rare=rare), NO_RULES, "rare")["rare"]
    assert any("were merged for too few rows" in said for said in merged["advice"])
    assert merge_notes([0, 0, 1, 0]) == (
        "of 4 bins that were counted these were merged for too few rows, bads or goods, or against the direction wished: "
        "1 and 2 and 4",
    )
    assert merge_notes([0, 1]) == ()


def test_a_field_that_separates_is_named_so_although_its_bins_are_too_few() -> None:
    few = [int(row < 30) for row in range(ROWS)]  # fewer bads than a bin must have rows
    table = LoanTable(
        [f"f{row}" for row in range(ROWS)], few, ["train"] * ROWS, {"told": [row / 7 for row in range(ROWS)]}
    )
    found = look(table)["told"]
    assert "separates goods from bads" in found["dropped"]
    level = LoanTable(table.identifiers, few, table.split, {"told": ["late" if bad else "paid" for bad in few]})
    assert "separates goods from bads" in look(level)["told"]["dropped"]
    assert not separates(list(range(ROWS)), BAD) and not separates([str(row) for row in range(ROWS)], BAD)
    assert left_out_because("its IV is low", ["late" if bad else "paid" for bad in few], few) == "its IV is low"


def test_the_label_is_called_the_label(finished: World, tmp_path: Path) -> None:
    with pytest.raises(InputFault, match=r"\[bad\] is the label"):
        BinRules("bins.toml", {"bad": FieldRule(skip=True)}).check_columns(["age"], "bad")


def test_notes_of_a_run_are_shown_with_its_bins(finished: World, tmp_path: Path) -> None:
    record = json.loads((finished.layout.run_state(finished.banks[0]) / "model.json").read_text())
    name = record["features"][0]["field"]
    record["notes"] = [{"field": name, "note": "interval 1 joined interval 2"}]
    (tmp_path / "model.json").write_text(json.dumps(record))
    found = {table.field: table for table in model_workbench(tmp_path / "model.json").tables}
    assert "interval 1 joined interval 2" in found[name].advice
