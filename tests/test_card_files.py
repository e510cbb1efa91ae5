"""A bank's scorecard as a file: out and in again, as a spreadsheet, and by the commands after a run."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import worlds
from card_world import made_card
from worlds import finished, province  # noqa: F401

from lianxin.federation.errors import InputFault
from lianxin.federation.points import HUNDREDTHS, PointsTable, points_table
from lianxin.federation.reasons import read_reasons
from lianxin.parties import cli
from lianxin.parties.coding import BinSpec
from lianxin.parties.records import read_table
from lianxin.parties.scorecard_card import BANK_ONLY, JOINT, read_card
from lianxin.parties.scorecard_export import export_card, load_card, score_table


@pytest.fixture(scope="module")
def made():
    return made_card()


# ---- files


def test_a_card_from_json_scores_every_row_as_before(made, tmp_path):
    card, scored, columns = made
    path = tmp_path / "card.json"
    path.write_bytes(export_card(card, "json", "0"))
    again = load_card(path)
    assert again == card
    given = [p if k % 3 else None for k, p in enumerate(scored.points)]
    codes = [[k % 7, 2] for k in range(len(given))]
    assert again.score(columns, given, codes) == card.score(columns, given, codes)


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("version", lambda r: r | {"version": 9}),
        ("type", lambda r: r | {"type": "bank-model"}),
        ("points", lambda r: r["joint"]["features"][0]["points"].pop() and r),
        ("fraction", lambda r: r | {"platform_best": 1.5}),
        ("huge", lambda r: r | {"base_score": 1 << 60}),
        ("no-joint", lambda r: {k: v for k, v in r.items() if k != "joint"}),
        ("bins", lambda r: r["features"][0]["bins"].update(groups=[0, 5]) or r),
        ("list", lambda r: r | {"features": 7}),
        ("order", lambda r: r | {"features": r["features"][::-1]}),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_a_damaged_card_is_refused(made, what, change):
    card, *_ = made
    record = json.loads(json.dumps(card.to_record()))
    assert read_card(record) == card
    with pytest.raises(InputFault):
        read_card(change(record))


@pytest.mark.parametrize("content", [b"", b"part,code", b"{}", b"{", b'{"type": "bank-scorecard"}', b"\xff\xfe"])
def test_a_file_that_is_no_card_is_refused_in_one_sentence(content, tmp_path):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(InputFault):
        load_card(tmp_path / "x")
    with pytest.raises(InputFault, match="cannot be read"):
        load_card(tmp_path / "absent")


def test_the_points_table_opens_in_a_spreadsheet_and_runs_nothing(made):
    card, *_ = made
    evil = replace(card.reasons[0], text="=HYPERLINK(1)")
    names = BinSpec("text", (), ("@cmd", "-1+2"), (0, 1, 2, 1))
    data = export_card(replace(card, reasons=(evil, card.reasons[1]), bins=(card.bins[0], names)), "csv", "0")
    assert data.startswith(b"\xef\xbb\xbf") and data.count(b"\r\n") == data.count(b"\n")
    text = data.decode("utf-8-sig")
    assert "'=HYPERLINK(1)" in text and "'@cmd" in text and "'-1+2" in text
    cells = [cell for line in text.splitlines() for cell in line.split(",")]
    assert not [c for c in cells if c[:1] in "=+@\t" and c]
    assert [c for c in cells if c.startswith("-") and not c[1:].isdigit()] == []  # points below 0 are numbers
    with mock.patch("lianxin.parties.scorecard_export._guarded", lambda cell: cell):
        bare = export_card(replace(card, reasons=(evil, card.reasons[1])), "csv", "0").decode()
    assert ",=HYPERLINK(1)," in bare  # without the guard the formula is in the file


def test_every_bin_of_both_cards_is_in_the_points_table(made):
    card, *_ = made
    lines = export_card(card, "csv", "0").decode("utf-8-sig").splitlines()
    for name, part in card.parts().items():
        for feature in part.features:
            here = [line for line in lines if line.startswith(f"{name},") and f",{feature.field}," in line]
            assert [int(line.split(",")[5]) for line in here] == list(feature.points)


def test_a_table_is_scored_with_and_without_the_platforms_column(made, tmp_path):
    card, *_ = made
    path = tmp_path / "rows.csv"
    path.write_text("uscc,g0,g1,platform_points\nx1,0.5,shop,12\nx2,,mill,\nx3,9,farm,-7\n")
    scores = score_table(card, read_table(path))
    assert [s.model for s in scores] == [JOINT, BANK_ONLY, JOINT]
    assert scores[0] == card.score({"g0": [0.5], "g1": ["shop"]}, [12])[0]
    path.write_text("uscc,g0,g1\nx1,0.5,shop\n")
    assert score_table(card, read_table(path))[0].model == BANK_ONLY
    path.write_text("uscc,g0,g1,platform_points\nx1,0.5,shop,1.5\n")
    with pytest.raises(InputFault, match=r"data row 1 of rows.csv has no whole number in platform_points"):
        score_table(card, read_table(path))


# ---- after a run


def model_of(world: worlds.World, party: str) -> dict[str, Any]:
    return json.loads((world.layout.run_state(party) / "model.json").read_text())


def test_the_points_that_a_bank_got_are_those_of_the_platforms_table(finished):  # noqa: F811
    """The table in the platform's model gives again what was delivered: best and mean over the rows of each refit."""
    platform = model_of(finished, finished.platform)
    table = points_table(platform["features"], platform["points_to_double_odds"])
    assert table.units == HUNDREDTHS and platform["rounding"]["bank-1"]["largest_milli"] <= 530
    for bank in finished.layout.inputs.banks:
        model = model_of(finished, bank.party)
        card = read_card(model["card"])
        loans = read_table(bank.path).text(worlds.ID)
        points = _points_of(finished, [loans[row] for row in model["refit_rows"]], platform, table)
        given = [card.joint.platform_part(p) for p in points]
        assert (card.platform_best, card.platform_mean) == (max(given), round(sum(given) / len(given)))
        barred = [one for one in read_reasons(platform["reasons"]) if one not in card.platform_reasons]
        assert [one.field for one in barred] == ["ban_medical"]


def _points_of(world: worlds.World, firms: list[Any], platform: dict[str, Any], table: PointsTable) -> list[int]:
    rows = read_table(world.layout.inputs.platform.path)
    row_of = {firm: row for row, firm in enumerate(rows.text(worlds.ID))}
    bins = []
    for entry in platform["features"]:
        column = rows.column(entry["field"])
        codes = BinSpec.from_record(entry["bins"]).encode([column[row_of[firm]] for firm in firms])
        bins.append([entry["merged"][code] for code in codes])
    return table.sums(bins).tolist()


def node_of(world: worlds.World, folder: Path, bank: str = "bank-1") -> Path:
    return worlds.copy_of(world, folder) / "parties" / bank / "node.toml"


def run_cli(*words: object) -> int:
    return cli.run([str(word) for word in words])


def test_a_banks_card_goes_out_comes_back_and_scores_a_table(finished, tmp_path, capsys):  # noqa: F811
    node, card = node_of(finished, tmp_path / "run"), tmp_path / "card.json"
    assert run_cli("bank", "card", "run-1", "--node", node, "--out", card, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["features"] == list(load_card(card).fields) and told["warnings"] == []
    table = finished.layout.inputs.banks[0].path
    out = tmp_path / "scores.csv"
    assert run_cli("bank", "score-card", card, table, "--id", worlds.ID, "--out", out) == 0
    lines = out.read_text(encoding="utf-8-sig").splitlines()
    assert len(lines) == read_table(table).rows + 1 and lines[1].split(",")[1] == BANK_ONLY
    assert not list(tmp_path.glob("*.new"))


@pytest.mark.parametrize("form", ["json", "csv", "pmml"])
def test_every_format_is_written_whole_and_the_same_twice(finished, tmp_path, form):  # noqa: F811
    node, out = node_of(finished, tmp_path / "run"), tmp_path / "card"
    written = []
    for _ in range(2):
        assert run_cli("bank", "card", "run-1", "--node", node, "--format", form, "--out", out) == 0
        written.append(out.read_bytes())
    assert written[0] == written[1] and len(written[0]) > 500


def test_the_base_rate_and_the_bank_only_card_are_options(finished, tmp_path, capsys):  # noqa: F811
    node, out = node_of(finished, tmp_path / "run"), tmp_path / "card.json"
    words = ("bank", "card", "run-1", "--node", node, "--out", out)
    assert run_cli(*words, "--base-rate", "0.02", "--bank-only") == 0
    card = load_card(out)
    assert card.joint.calibration.bad_rate_micro == 20_000 and not card.joint.multiplier_micro
    assert run_cli(*words, "--base-rate", "2") == 2 and "between 0 and 1" in capsys.readouterr().err
    assert run_cli("bank", "card", "run-1", "--node", node) == 0
    assert "base" in capsys.readouterr().out


def test_a_card_that_is_not_there_is_said_in_one_sentence(finished, tmp_path, capsys):  # noqa: F811
    node = node_of(finished, tmp_path / "run")
    model = node.parent / "state" / "runs" / "run-1" / "model.json"
    cases = {
        "run-9": "run run-9 has no model here", "../..": "a run's id has 3 to 64", "run-1": "holds no scorecard",
    }  # fmt: skip
    model.write_text("{}")
    for run, words in cases.items():
        assert run_cli("bank", "card", run, "--node", node) == 2
        said = capsys.readouterr().err
        assert words in said and said.count("\n") == 1
    assert run_cli("bank", "card", "run-1", "--node", node, "--format", "xls", "--out", tmp_path / "x") == 2


def test_a_card_whose_firms_withdrew_is_shown_with_a_warning(finished, tmp_path, capsys):  # noqa: F811
    node = node_of(finished, tmp_path / "run")
    words = ("bank", "card", "run-1", "--node", node, "--out", tmp_path / "card")
    assert run_cli(*words) == 0 and "withdrawn" not in capsys.readouterr().err
    mark = {"type": "model-touched", "version": 1, "run": "run-1", "revocations": 2, "choice": "none"}
    (node.parent / "state" / "runs" / "run-1" / "touched.json").write_text(json.dumps(mark))
    assert run_cli(*words) == 0 and "nobody has decided" in capsys.readouterr().err


def test_a_card_past_its_time_is_named_when_it_scores(made, tmp_path, capsys):
    card, *_ = made
    path, table = tmp_path / "card.json", tmp_path / "rows.csv"
    table.write_text("g0,g1\n1,shop\n")
    for until, is_named in (("2999-01-01T00:00:00Z", False), ("2020-01-01T00:00:00Z", True)):
        path.write_bytes(export_card(replace(card, retain_until=until), "json", "0"))
        assert run_cli("bank", "score-card", path, table) == 0
        assert ("its contract is over" in capsys.readouterr().err) == is_named
