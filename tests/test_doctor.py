"""`lianxin doctor` finds what is wrong with a machine and a node, and says what to do, a line each."""

import json
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import worlds

from lianxin.crypto import canonical
from lianxin.parties import cli, doctor_machine, doctor_node, watch_health
from lianxin.parties.clock import SystemClock
from lianxin.parties.config import load_node
from lianxin.parties.doctor import FAIL, OK, WARN, Line, guarded, worst
from lianxin.parties.doctor_machine import look_at_machine, platform_line
from lianxin.parties.doctor_node import look_at_node
from lianxin.parties.doctor_table import header_of
from lianxin.parties.identity import make_network
from lianxin.parties.identity_of import identity_of
from lianxin.parties.keys import make_key_file
from lianxin.parties.ledger import Ledger
from lianxin.parties.store import Store

finished, province = worlds.finished, worlds.province


@pytest.fixture
def home(finished, tmp_path) -> Path:
    """A bank's home after a finished run, to be broken."""
    return worlds.copy_of(finished, tmp_path / "run") / "parties" / "bank-1"


def found(path: Path) -> dict[str, Line]:
    """The worst line of each thing."""
    order = {OK: 0, WARN: 1, FAIL: 2}
    lines = sorted(look_at_node(path), key=lambda line: order[line.state])
    return {line.what: line for line in lines}


def test_a_sound_node_has_no_failure(home):
    lines = found(home / "node.toml")
    assert {what: line.state for what, line in lines.items()} == {
        "configuration": OK, "identity": OK, "keys": OK, "certificates": OK, "state": lines["state"].state, "disk": OK,
        "store": OK, "clock": OK, "table": OK, "peers": WARN,
    }  # fmt: skip
    assert "its root holds" in lines["store"].found and "UTF-8" in lines["table"].found


def test_keys_that_are_sealed_are_opened_for_the_doctor_and_the_usage_report(tmp_path, capsys):
    make_network(tmp_path / "net", "platform", ("bank-1",), None, SystemClock(), 2)
    make_key_file(tmp_path / "k.key")
    file = tmp_path / "p.toml"
    file.write_text(
        'role = "platform"\noperator = "operator-1"\nidentity = "net/platform"\nstate = "state"\nlisten = "127.0.0.1:0"\n'
        '[keys]\nkey_file = "k.key"\n'
    )
    assert cli.run(["platform", "protect-keys", str(file)]) == 0
    (tmp_path / "state").mkdir(mode=0o700)
    store = Store(tmp_path / "state" / "store.sqlite")
    Ledger(
        store, "platform", identity_of(load_node(file)).signing_key, SystemClock(), "test", "operator-1"
    ).checkpoint()
    store.close()
    lines = found(file)
    assert FAIL not in {lines[what].state for what in ("identity", "certificates", "store")}
    assert cli.run(["platform", "usage", str(file), "--month", "2026-01"]) == 0, capsys.readouterr()


def chmod_key(home: Path) -> None:
    (home / "identity" / "node.key").chmod(0o644)


def remove_key(home: Path) -> None:
    (home / "identity" / "tls.key").unlink()


def open_subject_key(home: Path) -> None:
    (home / "identity" / "subject.key").chmod(0o640)


def other_column(home: Path) -> None:
    worlds.edit_toml(home / "node.toml", lambda c: c["data"].update(label="bad"))


def no_table(home: Path) -> None:
    worlds.edit_toml(home / "node.toml", lambda c: c["data"].update(table="nowhere.csv"))


def mistakes(home: Path) -> None:
    worlds.edit_toml(home / "node.toml", lambda c: c.update(colour="red", workers="many"))


def raised_mark(home: Path) -> None:
    path = home / "state" / "high-water.json"
    mark = canonical.decode(path.read_bytes())
    path.write_bytes(canonical.encode(mark | {"ledger_size": mark["ledger_size"] + 9999}))


def no_store(home: Path) -> None:
    (home / "state" / "store.sqlite").write_bytes(b"no store at all, but long enough to be read as one" * 50)


def changed_leaf(home: Path) -> None:
    import sqlite3

    with sqlite3.connect(home / "state" / "store.sqlite") as store:
        (data,) = store.execute("select data from leaves where position = 3").fetchone()
        store.execute("update leaves set data = ? where position = 3", (data.replace(b'"operator-', b'"operator_', 1),))


BROKEN = {
    "a key that others can read": (chmod_key, "identity", "can be read by others"),
    "a missing key": (remove_key, "identity", "tls.key is missing"),
    "a subject key open to the group": (open_subject_key, "keys", "can be read by others"),
    "a column that the table lacks": (other_column, "table", "no column bad"),
    "a table that is not there": (no_table, "table", "nowhere.csv: it is not there"),
    "mistakes in the file": (mistakes, "configuration", "is no key that this file may have"),
    "an older copy of the store": (raised_mark, "store", "an older copy was put back"),
    "a file that is no store": (no_store, "store", "cannot be opened as a store"),
    "a leaf that was changed": (changed_leaf, "store", "whose root is another"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_broken_fails_in_its_line_and_the_exit_code_says_so(home, case, capsys):
    breaking, what, said = BROKEN[case]
    breaking(home)
    line = found(home / "node.toml")[what]
    assert line.state == FAIL and any(said in one.text() for one in look_at_node(home / "node.toml")), line
    assert cli.run(["doctor", str(home / "node.toml"), "--json"]) == 2
    told = json.loads(capsys.readouterr().out)
    assert told["fail"] >= 1 and any(one["what"] == what and one["state"] == FAIL for one in told["lines"])


def test_every_mistake_of_a_file_is_a_line(home):
    mistakes(home)
    lines = look_at_node(home / "node.toml")
    assert len(lines) == 2 and {line.what for line in lines} == {"configuration"}


def test_a_line_that_cannot_be_looked_at_takes_nothing_from_the_others(home, monkeypatch):
    monkeypatch.setattr(doctor_node, "disk_of", lambda folder: 1 / 0)
    lines = found(home / "node.toml")
    assert lines["disk"].state == FAIL and "ZeroDivisionError" in lines["disk"].found and lines["store"].state == OK


@pytest.mark.parametrize(("days", "state"), [(-1, FAIL), (10, WARN), (29, WARN), (31, OK)])
def test_a_certificate_is_warned_of_a_month_before_it_ends(home, monkeypatch, days, state):
    end = datetime.now(UTC) + timedelta(days=days, hours=1)
    one = watch_health.Certificate("bank-1", "own", datetime(2020, 1, 1, tzinfo=UTC), end)
    monkeypatch.setattr(doctor_node, "certificates_of", lambda identity: [one])
    assert found(home / "node.toml")["certificates"].state == state


def test_a_full_disk_and_a_clock_behind_the_ledger_fail(home, monkeypatch):
    monkeypatch.setattr(doctor_node, "disk_of", lambda folder: (1 << 20, 1 << 40))
    worlds.edit_toml(home / "node.toml", lambda c: (c.pop("simulation"), c.update(profile="production")))
    monkeypatch.setattr(doctor_node.SystemClock, "now", lambda clock: "2026-01-05T00:00:00Z")
    lines = found(home / "node.toml")
    assert lines["disk"].state == FAIL
    assert lines["clock"].state == FAIL and "3600 s behind the ledger" in lines["clock"].found


def test_a_port_is_free_taken_or_ones_own(finished, tmp_path, monkeypatch):
    home = worlds.copy_of(finished, tmp_path / "run") / "parties" / finished.platform
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        worlds.edit_toml(home / "node.toml", lambda c: c.update(listen=address))
        assert "taken by another program" in found(home / "node.toml")["port"].found
        monkeypatch.setattr(doctor_node, "is_running", lambda config: True)
        assert found(home / "node.toml")["port"].state == OK
    assert "is free" in found(home / "node.toml")["port"].found


def test_a_peer_is_reached_by_its_pinned_certificate_or_named(finished):
    from lianxin.federation import services
    from lianxin.parties.identity import load_identity

    bank, platform = (load_identity(finished.layout.home(one) / "identity") for one in ("bank-1", "platform"))
    server = services.serve(
        "127.0.0.1:0", platform.server_tls(), platform.pinned_peers(), lambda channel: None, on_refused=lambda *_: None
    )
    try:
        address = f"127.0.0.1:{server.port}"
        assert doctor_node.reached(bank, "platform", address).state == OK
        assert doctor_node.reached(bank, "bank-2", address).state == FAIL  # another certificate than that one's
    finally:
        server.stop()
    assert doctor_node.reached(bank, "platform", address).state == WARN


def test_a_header_is_read_in_utf_8_with_and_without_a_mark_and_in_gb18030(tmp_path):
    path = tmp_path / "t.csv"
    for encoding, name in (("utf-8", "UTF-8"), ("utf-8-sig", "UTF-8 with a mark"), ("gb18030", "GB18030")):
        path.write_bytes("企业,金额\r\n甲,1\r\n".encode(encoding))
        assert header_of(path) == (["企业", "金额"], name)


def test_each_system_is_told_where_it_stands():
    assert platform_line("Linux", "x86_64").state == platform_line("Linux", "aarch64").state == OK
    assert platform_line("Darwin", "arm64").state == WARN and "simulate" in platform_line("Darwin", "arm64").remedy
    assert platform_line("Windows", "AMD64").state == FAIL and "WSL 2" in platform_line("Windows", "AMD64").remedy
    assert "WSL 2" in platform_line("Linux", "x86_64", True).found


def test_a_package_of_another_version_is_named(monkeypatch):
    real = doctor_machine.metadata.version
    monkeypatch.setattr(doctor_machine.metadata, "version", lambda name: "0.1" if name == "gmpy2" else real(name))
    (line,) = (line for line in look_at_machine() if line.what == "packages")
    assert line.state == FAIL and "gmpy2 is 0.1 and >=2.2 is asked for" in line.found


def test_this_machine_is_looked_at_in_a_line_each(capsys):
    code = cli.run(["doctor", "--json"])
    told = json.loads(capsys.readouterr().out)
    whats = [line["what"] for line in told["lines"]]
    assert len(set(whats)) == len(whats) == 9 and code == (2 if told["fail"] else 0)
    assert cli.run(["doctor"]) == code
    assert len(capsys.readouterr().out.splitlines()) == 10


def test_a_warning_fails_nothing_and_every_fault_has_a_sentence():
    assert worst([Line("a", OK, ""), Line("b", WARN, "")]) == 0 and worst([Line("c", FAIL, "")]) == 2
    (line,) = guarded("disk", lambda: [][0], "look at it")
    assert line.text() == "fail  disk: it could not be looked at (IndexError); look at it"


def test_the_self_test_carries_a_run_to_verified_evidence(tmp_path):
    from lianxin.simulations.self_test import carry_out

    with worlds.known_keys():
        assert "its evidence verified" in carry_out(tmp_path)
