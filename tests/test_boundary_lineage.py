"""Whose data are in which model, what a withdrawal does to it, and the commands that people use for it."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import worlds

from lianxin.crypto import canonical
from lianxin.federation.errors import InputFault
from lianxin.parties import cli, lineage
from lianxin.parties.cli_boundary import act
from lianxin.parties.config import load_node
from lianxin.parties.control import ControlServer
from lianxin.parties.identifiers import normalise_identifier
from lianxin.parties.node import Node, open_node
from lianxin.parties.records import read_table
from lianxin.simulations.layout import APPROVER, PROPOSER
from lianxin.simulations.tables import write_table

finished = worlds.finished


@pytest.fixture
def folder(finished: worlds.World, tmp_path: Path) -> Path:
    return worlds.copy_of(finished, tmp_path / "copy")


def opened(folder: Path, party: str) -> Node:
    return open_node(load_node(folder / "parties" / party / "node.toml"))


@pytest.fixture
def platform(finished: worlds.World, folder: Path) -> Iterator[Node]:
    node = opened(folder, finished.platform)
    yield node
    node.close()


@pytest.fixture
def bank(finished: worlds.World, folder: Path) -> Iterator[Node]:
    node = opened(folder, finished.banks[0])
    yield node
    node.close()


def leaves(node: Node, kind: str) -> list[dict[str, Any]]:
    return [leaf for leaf in map(canonical.decode, node.store.leaves()) if leaf["kind"] == kind]


def end_one(node: Node, subject: str) -> None:
    """Put the end of a subject's consents into the cached registry, as its signed revocation would."""
    registry = node.register.registry()
    for name, consent in registry.consents.items():
        if consent.subject == subject:
            registry.ended[name] = "REVOKED"


@pytest.mark.rule("R04")
@pytest.mark.rule("R30")
def test_a_run_with_a_withdrawal_has_a_marked_model_and_one_leaf(platform: Node) -> None:
    [mark] = lineage.mark_models(platform)
    assert (mark["run"], mark["revocations"], mark["choice"]) == ("run-1", 1, "none")
    assert len(leaves(platform, "model-marked")) == 1
    assert json.loads((platform.run_folder("run-1") / "touched.json").read_text()) == mark


def test_a_consent_that_no_run_used_touches_no_model(platform: Node) -> None:
    assert lineage.models_touched(platform.store, []) == {}
    assert lineage.models_touched(platform.store, ["consent-unknown"]) == {}
    registry = platform.register.registry()
    assert lineage.models_touched(platform.store, registry.ended) == {"run-1": sorted(registry.ended)}


@pytest.mark.rule("R04")
@pytest.mark.parametrize("choice", ["retrain", "keep", "drop"])
def test_the_operators_choice_is_recorded_and_drop_deletes_the_model(platform: Node, choice: str) -> None:
    folder = platform.run_folder("run-1")
    mark = lineage.choose(platform, "run-1", choice, "operator-9")
    assert (mark["choice"], mark["operator"]) == (choice, "operator-9")
    last = leaves(platform, "model-marked")[-1]
    assert (last["choice"], last["operator"], last["revocations"]) == (choice, "operator-9", 1)
    assert (folder / "model.json").exists() == (choice != "drop")
    assert [leaf["rule"] for leaf in leaves(platform, "deletion")] == (["R04"] if choice == "drop" else [])


def test_a_choice_is_one_of_three_and_about_a_marked_model(platform: Node) -> None:
    with pytest.raises(InputFault, match="retrain, drop, keep"):
        lineage.choose(platform, "run-1", "forget", "operator-9")
    with pytest.raises(InputFault, match="no withdrawal touches"):
        lineage.choose(platform, "run-9", "keep", "operator-9")


@pytest.mark.rule("R04")
def test_a_firm_that_withdraws_is_out_of_the_banks_saved_scores(bank: Node) -> None:
    folder = bank.run_folder("run-1")
    before, scores = (json.loads((folder / name).read_text()) for name in ("model.json", "scores.json"))
    codes = read_table(bank.config.data.table).text(bank.config.data.id)
    row = before["test_rows"][3]
    subject = bank.boundary.subject_key(normalise_identifier(codes[row] or ""))
    end_one(bank, subject)
    assert [mark["revocations"] for mark in lineage.mark_models(bank)] == [1]
    after, left = (json.loads((folder / name).read_text()) for name in ("model.json", "scores.json"))
    assert row not in after["test_rows"] and after["weights"] == before["weights"]
    kept = [place for place, one in enumerate(before["test_rows"]) if one in after["test_rows"]]
    assert left["joint"] == [scores["joint"][place] for place in kept] != scores["joint"]
    [leaf] = leaves(bank, "deletion")
    assert (leaf["rule"], leaf["run"], leaf["count"]) == ("R04", "run-1", len(before["test_rows"]) - len(kept))
    lineage.mark_models(bank)
    assert len(leaves(bank, "deletion")) == len(leaves(bank, "model-marked")) == 1


def files_of(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    model, scores = (json.loads((folder / name).read_text()) for name in ("model.json", "scores.json"))
    return model, scores


@pytest.mark.rule("R04")
def test_the_rows_that_go_are_the_firms_own_though_the_table_has_other_rows_by_now(bank: Node) -> None:
    folder, table = bank.run_folder("run-1"), bank.config.data.table
    _, before = files_of(folder)
    frame, whole = read_table(table).frame, table.read_bytes()
    try:
        write_table(table, {name: frame[name].to_list()[::-1] for name in frame.columns})
        end_one(bank, before["subjects"][3])
        lineage.mark_models(bank)
    finally:
        table.write_bytes(whole)  # other tests read the table that this run was made from
    model, after = files_of(folder)
    stays = [place for place, subject in enumerate(before["subjects"]) if subject != before["subjects"][3]]
    assert len(stays) < len(before["labels"])
    assert after == {name: [values[place] for place in stays] for name, values in before.items()}
    assert model["test_rows"] == after["test_rows"]


@pytest.mark.rule("R04")
def test_a_deletion_that_a_crash_cut_in_two_is_finished_by_the_next(
    bank: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, write = bank.run_folder("run-1"), lineage.write_beside
    before, scores = files_of(folder)
    end_one(bank, scores["subjects"][3])

    def crash(path: Path, data: bytes) -> None:
        if path.name == lineage.MODEL:
            raise OSError("the machine stops here")
        write(path, data)

    monkeypatch.setattr(lineage, "write_beside", crash)
    with pytest.raises(OSError, match="stops here"):
        lineage.mark_models(bank)
    monkeypatch.undo()
    model, left = files_of(folder)
    assert model == before and scores["subjects"][3] not in left["subjects"], "the figures went first"
    lineage.mark_models(bank)
    model, left = files_of(folder)
    assert model["test_rows"] == left["test_rows"] != before["test_rows"]
    assert len(leaves(bank, "deletion")) == len(leaves(bank, "model-marked")) == 1


def test_scores_that_do_not_say_whose_they_are_go_whole(bank: Node) -> None:
    folder = bank.run_folder("run-1")
    _, scores = files_of(folder)
    subject = scores.pop("subjects")[0]
    (folder / "scores.json").write_text(json.dumps(scores))
    end_one(bank, subject)
    lineage.mark_models(bank)
    model, left = files_of(folder)
    assert left["joint"] == left["labels"] == model["test_rows"] == []
    assert leaves(bank, "deletion")[0]["count"] == len(scores["labels"])


@pytest.mark.rule("R26")
def test_an_approval_names_proposer_and_approver_in_one_leaf(finished: worlds.World) -> None:
    events = {leaf["event"]: leaf for leaf in finished.leaves(finished.banks[0], "contract")}
    for event in ("approved", "signed"):
        assert (events[event]["proposer"], events[event]["approver"]) == (PROPOSER, APPROVER)
    assert "proposer" not in events["finished"]


def run_command(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, Any]:
    code = cli.run(["boundary", *words])
    out, err = capsys.readouterr()
    return code, json.loads(out)["rows"] if "--json" in words and code == 0 else out + err


def test_the_commands_work_on_a_node_that_does_not_run(
    finished: worlds.World, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    node = ("--node", str(folder / "parties" / finished.platform / "node.toml"), "--json")
    table = read_table(load_node(Path(node[1])).data.table)
    firm = str(table.text("uscc")[0])
    assert run_command(capsys, "objection", "list", *node) == (0, [])
    code, [row] = run_command(capsys, "objection", "open", firm, "--field", "judgment_cnt_36m", *node)
    assert code == 0 and row["state"] == "disputed" and len(row["subject"]) == 12
    ended = run_command(capsys, "objection", "resolve", "objection-1", "--state", "repaired", *node)
    assert ended[1][0]["state"] == "repaired" and firm not in json.dumps(ended)
    assert run_command(capsys, "sweep", *node) == (0, [])
    assert run_command(capsys, "models", *node)[1][0]["revocations"] == 1
    chosen = run_command(capsys, "models", "--run", "run-1", "--choice", "keep", "--operator", "li.hua", *node)
    assert (chosen[1][0]["choice"], chosen[1][0]["operator"]) == ("keep", "li.hua")
    assert "touched" not in run_command(capsys, "models", *node[:2])[1]


def test_the_commands_work_on_a_node_that_runs(
    finished: worlds.World, folder: Path, platform: Node, capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(folder / "parties" / finished.platform / "node.toml")
    server = ControlServer(platform.config.state, lambda request: act(platform, request))
    try:
        code, rows = run_command(capsys, "models", "--node", file, "--json")
        assert (code, rows[0]["run"]) == (0, "run-1")
        assert run_command(capsys, "sweep", "--node", file, "--evidence", "run-1")[0] == 5
    finally:
        server.close()
    assert [leaf["rule"] for leaf in leaves(platform, "refusal")][-1] == "R16"


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (2, ("objection", "open")),
        (2, ("objection", "open", "91630000600037341L", "--field", "no_such_field")),
        (2, ("objection", "resolve", "objection-7", "--state", "repaired")),
        (2, ("objection", "close")),
        (2, ("objection", "list", "--operator", "Not An Operator")),
        (5, ("sweep", "--evidence", "run-1")),
        (2, ("sweep", "--evidence", "run-9")),
        (2, ("models", "--run", "run-1")),
        (2, ("models", "--run", "run-1", "--choice", "burn")),
    ],
)
def test_a_mistake_in_a_command_is_one_sentence_and_changes_nothing(
    finished: worlds.World, folder: Path, capsys: pytest.CaptureFixture[str], code: int, words: tuple[str, ...]
) -> None:
    node = str(folder / "parties" / finished.platform / "node.toml")
    assert (cli.run(["boundary", *words, "--node", node])) == code
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "Traceback" not in told


def test_a_node_that_was_never_started_is_told_so(
    finished: worlds.World, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = folder / "parties" / finished.platform
    shutil.rmtree(home / "state")
    assert cli.run(["boundary", "sweep", "--node", str(home / "node.toml")]) == 2
    assert "never started" in capsys.readouterr().err
