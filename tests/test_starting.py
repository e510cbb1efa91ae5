"""What keeps a node from starting is named, with the exit code by which systemd tries again or does not; a doctor sees it."""

import configparser
import json
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import ROOT

from lianxin.federation import services
from lianxin.federation.errors import InputFault, StillHeld
from lianxin.parties import cli, cli_doctor, cli_serve, cli_status, config, watch_figures
from lianxin.parties.control import ControlServer
from lianxin.parties.doctor import FAIL, OK, WARN, Line, each_once
from lianxin.parties.doctor_node import look_at_node
from lianxin.parties.identity import load_identity
from lianxin.parties.store_open import lock_state
from lianxin.parties.watch_metrics import MetricsServer

FIRMS = "uscc,reg_capital\n91630202QH0JLWJF4Q,5700000\n91632801QH022WNJ34,490000\n"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A platform's home as its first day leaves it: `platform.toml`, `firms.csv` and `net`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "firms.csv").write_text(FIRMS)
    assert cli.run(["network", "init", "net", "--platform", "platform", "--bank", "bank-1"]) == 0
    assert cli.run([*INIT, "--operator", "operator-li"]) == 0
    return tmp_path


INIT = [
    "platform", "init", "platform.toml", "--identity", "net/platform", "--table", "firms.csv", "--id", "uscc",
    "--listen", "127.0.0.1:1",
]  # fmt: skip


@pytest.fixture
def taken() -> Iterator[str]:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        one.listen()
        yield f"127.0.0.1:{one.getsockname()[1]}"


def listening(home: Path, address: str) -> None:
    path = home / "platform.toml"
    path.write_text(path.read_text().replace("127.0.0.1:1", address))


def test_a_port_that_another_program_has_is_named_and_tried_again(home, taken, capsys):
    listening(home, taken)
    assert cli.run(["platform", "serve", "platform.toml"]) == 3
    assert f"cannot listen on {taken}: another program has the port" in capsys.readouterr().err


def test_an_address_of_another_machine_and_tls_files_that_are_no_pair_are_mistakes(home):
    platform, bank = load_identity(home / "net" / "platform"), load_identity(home / "net" / "bank-1")
    own = platform.server_tls()
    mixed = replace(own, key=bank.server_tls().key, held=None)
    for address, tls, said in (
        ("192.0.2.1:7443", own, "cannot listen on 192.0.2.1:7443"),
        ("127.0.0.1:0", mixed, "the TLS key and the TLS certificate are no pair"),
    ):
        with pytest.raises(InputFault, match=said) as caught:
            services.serve(address, tls, platform.pinned_peers(), lambda channel: None, on_refused=lambda *_: None)
        assert caught.value.exit_code == 2


def test_a_state_folder_that_another_node_holds_is_tried_again_and_a_wrong_file_is_not(home, capsys):
    (home / "platform-state").mkdir()
    with lock_state(home / "platform-state"):
        assert cli.run(["platform", "serve", "platform.toml"]) == 3
    assert "a node already runs on" in capsys.readouterr().err
    (home / "platform.toml").write_text("role = 1\n")
    assert cli.run(["platform", "serve", "platform.toml"]) == 2


def test_a_taken_port_of_the_metrics_is_tried_again(taken):
    pytest.importorskip("prometheus_client")
    with pytest.raises(StillHeld, match="another program has the port"):
        MetricsServer(taken, lambda: [], lambda: [])


@pytest.mark.parametrize("role", ["bank", "platform"])
def test_the_units_try_again_what_is_still_held_and_nothing_that_a_person_must_mend(role):
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.read_string((ROOT / "docs" / "deploy" / f"lianxin-{role}.service").read_text(encoding="utf-8"))
    never = unit["Service"]["RestartPreventExitStatus"].split()
    assert str(InputFault.exit_code) in never and str(StillHeld.exit_code) not in never
    assert unit["Service"]["Restart"] == "on-failure"


RUN = """run = "queries-1"
proposer = "operator-li"
purpose = "P2"
model = "field_querry"
impact_assessment = "impact-1"
agreement = "agreement-1"
features = ["reg_capital"]

[banks.bank-1]
identifiers = ["uscc"]
"""


@pytest.mark.parametrize("model", ['"field_querry"', "[]", "7"])
def test_a_wrong_model_is_told_alone(tmp_path, model):
    path = tmp_path / "run.toml"
    path.write_text(RUN.replace('"field_querry"', model))
    with pytest.raises(InputFault) as caught:
        config.load_run(path)
    assert str(caught.value).startswith(f"{path}: line 4: model: is to be ") and "\n" not in str(caught.value)
    path.write_text(RUN.replace("field_querry", "field_query"))
    assert config.load_run(path).max_rows == 64


def test_mistakes_come_through_a_running_node_as_they_come_without_it(home, capsys):
    (home / "run.toml").write_text("colour = 1\nshape = 2\n")
    (home / "platform-state").mkdir()
    node = ControlServer(home / "platform-state", lambda asked: vars(config.load_run(Path(asked["config"]))))
    try:
        assert cli.run(["platform", "launch", "run.toml", "--node", "platform.toml"]) == 2
    finally:
        node.close()
    with pytest.raises(InputFault) as caught:
        config.load_run(home / "run.toml")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == len(caught.value.lines) > 5 and lines[0].startswith(f"{home / 'run.toml'} has ")
    assert [line.strip() for line in lines[1:]] == caught.value.lines[1:]


def test_init_names_the_option_that_was_wrong_and_no_file_that_is_not_there(home, capsys):
    (home / "platform.toml").unlink()
    capsys.readouterr()
    assert cli.run([*INIT, "--operator", "o"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("platform init: --operator: is 3 to 64 of ") and ".new" not in said and "line" not in said
    assert not list(home.glob("platform.toml*"))


def found(home: Path) -> dict[str, list[Line]]:
    lines = look_at_node(home / "platform.toml")
    return {what: [line for line in lines if line.what == what] for what in dict.fromkeys(line.what for line in lines)}


def test_the_doctor_reads_the_rows_of_a_table(home):
    (line,) = found(home)["table"]
    assert line.state == OK and "2 columns, UTF-8, 2 rows" in line.found
    (home / "firms.csv").write_text(FIRMS + "91632801QH022WNJ34\n")
    (line,) = found(home)["table"]
    assert line.state == FAIL and "data row 3 of firms.csv has 1 cells" in line.found
    (home / "firms.csv").write_text(FIRMS + "91632801QH022WNJ34,7\n")
    (line,) = found(home)["table"]
    assert line.state == FAIL and "have the same uscc" in line.found


def test_the_doctor_says_that_it_did_not_read_the_rows_of_a_large_table(home, monkeypatch):
    monkeypatch.setattr("lianxin.parties.doctor_table.MOST_READ", 10)
    (home / "firms.csv").write_text(FIRMS + "91632801QH022WNJ34\n")
    (line,) = found(home)["table"]
    assert line.state == OK and "its header alone was read" in line.found


def test_the_doctor_warns_of_a_column_that_no_catalogue_has(home):
    (home / "firms.csv").write_text(FIRMS.replace("reg_capital", "zorg"))
    warned, line = found(home)["table"]
    assert warned.state == WARN and "no field of the catalogue: zorg" in warned.found and line.state == OK


def test_a_table_that_is_not_there_is_named(home):
    (home / "firms.csv").unlink()
    (line,) = found(home)["table"]
    assert line.state == FAIL and line.found.startswith(f"{home / 'firms.csv'}: it is not there")


def test_one_cause_fails_once_and_the_rest_was_not_looked_at(home):
    (home / "net" / "platform" / "node.key").chmod(0o644)
    lines = found(home)
    failed = [line for group in lines.values() for line in group if line.state == FAIL]
    assert [line.what for line in failed] == ["identity"] and "node.key" in failed[0].found
    assert [line.found for line in lines["certificates"]] == ["not looked at because of identity"]
    twice = each_once([Line("a", FAIL, "x"), Line("a", FAIL, "x"), Line("b", FAIL, "y"), Line("c", OK, "x")])
    assert [line.state for line in twice] == [FAIL, FAIL, FAIL, OK]


def test_the_doctor_tells_a_port_that_cannot_be_had_from_one_that_is_taken(home, taken):
    listening(home, taken)
    assert "taken by another program" in found(home)["port"][0].found
    path = home / "platform.toml"
    path.write_text(path.read_text().replace(taken, "192.0.2.1:7443"))
    (line,) = found(home)["port"]
    assert line.state == FAIL and "cannot be listened on" in line.found


def test_a_platform_that_has_done_nothing_says_so_and_who_is_connected(monkeypatch, capsys):
    class Notes:
        def told(self, start: int) -> tuple[int, list[str], int]:
            return 0, [], 0

    node = SimpleNamespace(party="platform", notes=Notes())
    served = SimpleNamespace(node=node, ended={}, resumed=[], lives={}, lobby={})
    answer = lambda *_: cli_serve._platform_answer(served, {"do": "status", "from": 0})  # noqa: E731
    monkeypatch.setattr(cli_status, "ask", answer)
    settings = SimpleNamespace(state=None)
    cli_status.show_status(settings, False)
    assert capsys.readouterr().out.splitlines() == ["no bank is connected", "no run yet"]
    served.lobby, served.lives = {"bank-2": 1, "bank-1": 1}, {"run-1": 1}
    cli_status.show_status(settings, False)
    assert capsys.readouterr().out.splitlines() == ["connected: bank-1, bank-2", "run-1: under way"]
    cli_status.show_status(settings, True)
    assert json.loads(capsys.readouterr().out)["connected"] == ["bank-1", "bank-2"]


def test_figures_are_told_as_a_person_reads_them_and_where_they_are_any():
    assert cli_doctor._told("lianxin_start_time_seconds", 1_795_371_284.6) == "2026-11-22T18:14:44Z"
    assert cli_doctor._told("lianxin_uptime_seconds", 61.0) == "61"
    for role, count in (("bank", 1), ("platform", 0)):
        node = SimpleNamespace(config=SimpleNamespace(role=role))
        watched = SimpleNamespace(served=SimpleNamespace(node=node, members={}))
        assert len(list(watch_figures._stock(watched))) == count
