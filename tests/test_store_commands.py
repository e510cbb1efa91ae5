"""`lianxin platform store|backup|restore`, on a node that is stopped and on one that runs."""

import json
import os
import stat
from pathlib import Path
from types import SimpleNamespace

import pytest

from lianxin.federation.errors import InputFault
from lianxin.parties import cli, store_backup
from lianxin.parties.config import load_node
from lianxin.parties.control import ControlServer
from lianxin.parties.node import Node, open_node

CONFIG = """role = "platform"
profile = "trial"
operator = "li-na"
identity = "net/platform-a"
state = "{state}"
listen = "127.0.0.1:7443"
"""


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    """An open node of a platform without a table, and its configurations p.toml and, of an empty state, q.toml."""
    monkeypatch.chdir(tmp_path)
    assert cli.run(["network", "init", "net", "--platform", "platform-a", "--bank", "bank-a"]) == 0
    for name in ("p", "q"):
        Path(f"{name}.toml").write_text(CONFIG.format(state=f"{name}-state"))
    opened = open_node(load_node(Path("p.toml")))
    opened.ledger.append({"kind": "note", "run": ""})
    return opened


def said(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    capsys.readouterr()
    assert cli.run(list(words)) == code, capsys.readouterr()
    out = capsys.readouterr()
    return out.out if code == 0 else out.err


def test_store_says_what_there_is(node: Node, capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(said(capsys, "platform", "store", "p.toml", "--json"))
    assert (found["dialect"], found["version"], found["is_held"], found["is_durable"]) == (
        "sqlite",
        found["reads"],
        False,
        True,
    )
    assert found["counts"]["leaves"] == node.ledger.size and found["size_bytes"] > 0
    assert found["place"].endswith("p-state/store.sqlite")
    assert f"{node.ledger.size} leaves" in said(capsys, "platform", "store", "p.toml")
    assert "holds no store yet" in said(capsys, "platform", "store", "q.toml", code=2)
    assert "a platform's configuration" in said(capsys, "bank", "store", "p.toml", code=2)
    node.close()


def test_a_state_folder_that_was_open_is_closed_with_all_that_is_in_it(node: Node) -> None:
    node.close()
    before, state = os.umask(0o022), Path("p-state")
    try:
        state.chmod(0o755), (state / "store.sqlite").chmod(0o644)
        again = open_node(load_node(Path("p.toml")))
        again.ledger.append({"kind": "note", "run": ""})
        again.ledger.checkpoint()
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in state.iterdir() if path.is_file()}
        again.close()
    finally:
        os.umask(before)
    loose = {name: oct(mode) for name, mode in modes.items() if mode & 0o077 and name != "lock"}
    assert (stat.S_IMODE(state.stat().st_mode), loose) == (0o700, {})
    assert modes.keys() >= {"store.sqlite", "store.sqlite-wal", "high-water.json"}


def test_a_state_folder_that_cannot_be_closed_is_refused(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    node.close()
    Path("p-state").chmod(0o755)

    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "chmod", refuse)
    with pytest.raises(InputFault, match="is open to others"):
        open_node(load_node(Path("p.toml")))


def test_a_running_node_is_backed_up_and_a_stopped_one_restored(node: Node, capsys: pytest.CaptureFixture[str]) -> None:
    served = SimpleNamespace(node=node)
    control = ControlServer(node.config.state, lambda request: store_backup.answer(served, request))
    running = json.loads(said(capsys, "platform", "backup", "p.toml", "--to", "running", "--json"))
    control.close()
    node.ledger.append({"kind": "note", "run": ""})
    node.close()
    stopped = json.loads(said(capsys, "platform", "backup", "p.toml", "--to", "stopped", "--json"))
    assert node.counts["backups"] == 1 and running["ledger_size"] <= stopped["ledger_size"]
    assert "exists already" in said(capsys, "platform", "backup", "p.toml", "--to", "stopped", code=2)
    Path("q-state").mkdir()
    Path("q-state/high-water.json").write_bytes(Path("p-state/high-water.json").read_bytes())
    assert "is behind" in said(capsys, "platform", "restore", "q.toml", "--from", "running", code=6)
    done = json.loads(said(capsys, "platform", "restore", "q.toml", "--from", "stopped", "--json"))
    assert (done["ledger_size"], done["is_held"]) == (stopped["ledger_size"] + 1, False)
    again = open_node(load_node(Path("q.toml")))
    assert again.ledger.size >= done["ledger_size"]
    again.close()


def test_a_loss_is_accepted_by_name_and_with_a_reason(node: Node, capsys: pytest.CaptureFixture[str]) -> None:
    node.close()
    said(capsys, "platform", "backup", "p.toml", "--to", "copy")
    asked = ("platform", "restore", "q.toml", "--from", "copy")
    assert "says that the backup" in said(capsys, *asked, code=6)
    assert "needs --operator and --reason" in said(capsys, *asked, "--accept-loss", code=2)
    assert "say either --from" in said(capsys, "platform", "restore", "q.toml", code=2)
    named = ("--accept-loss", "--operator", "li-na", "--reason", "the disk died")
    assert "nothing is released" in said(capsys, *asked, *named)
    assert json.loads(said(capsys, "platform", "store", "q.toml", "--json"))["is_held"]
    lift = ("platform", "restore", "q.toml", "--lift", "--reason", "all imported", "--operator")
    assert "another operator" in said(capsys, *lift, "li-na", code=2)
    assert "is ended" in said(capsys, *lift, "wang-fang")
    assert not json.loads(said(capsys, "platform", "store", "q.toml", "--json"))["is_held"]
