"""Runs queue, are listed, cancelled and left; a restart forgets none; whoever waits for a person keeps nobody back."""

import json
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import runs_world
import worlds
from runs_world import House, wait_for

from lianxin.crypto import canonical
from lianxin.federation.errors import InputFault, LianxinError
from lianxin.parties import cli, cli_serve, run_queue
from lianxin.parties.active_run import ActiveRun
from lianxin.parties.auditor import verify_run
from lianxin.parties.config import load_run
from lianxin.parties.control import ControlServer
from lianxin.parties.platform import PlatformNode
from lianxin.parties.run_life import Place, Places, RunLife
from lianxin.parties.run_remedies import remedy, tell
from lianxin.parties.runs_listed import listed
from lianxin.simulations.layout import Layout
from lianxin.simulations.runner import collect_evidence


class Gates:
    """What holds each run after its agreement, in the place of its training, until it is let through."""

    def __init__(self) -> None:
        self._open: dict[str, threading.Event] = {}

    def of(self, run: str) -> threading.Event:
        return self._open.setdefault(run, threading.Event())

    def drive(self, _platform: PlatformNode, contract: Any, active: ActiveRun) -> None:
        assert active.life is not None
        while not self.of(contract.run).wait(0.02):
            active.life.check()


@pytest.fixture
def gates(monkeypatch: pytest.MonkeyPatch) -> Gates:
    made = Gates()
    monkeypatch.setattr(
        PlatformNode, "_drive", lambda platform, contract, active: made.drive(platform, contract, active)
    )
    return made


@pytest.fixture(scope="module")
def laid(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    tables = worlds.tables_of(tmp_path_factory.mktemp("tables"), firms=120, loans=60)
    layout = worlds.lay(tmp_path_factory.mktemp("laid") / "run", tables)
    runs_world.set_runs(layout, at_once=1, queued=2)
    return layout


@pytest.fixture
def layout(laid: Layout, tmp_path: Path) -> Layout:
    return replace(laid, folder=Path(shutil.copytree(laid.folder, tmp_path / "run")))


def phases(served: Any) -> dict[str, tuple[str, str]]:
    return {one["run"]: (one["state"], one["phase"]) for one in listed(served)}


def started(house: House, run: str) -> None:
    """Wait until a run is under way on every node."""
    wait_for(lambda: run in house.platform.runs and all(run in bank.members for bank in house.banks.values()))


# ---- order and room


def test_places_are_taken_in_the_order_of_launch_and_given_back() -> None:
    places, taken = Places(1), list[str]()
    lives = [RunLife(f"run-{n}", n, "li") for n in range(3)]
    held = [Place(places, life, life.check) for life in lives]
    held[0].take()
    places.enter(1)
    threads = [
        threading.Thread(target=lambda n=n: (held[n].take(), taken.append(lives[n].run)), daemon=True) for n in (2, 1)
    ]
    for thread in threads:
        thread.start()
    wait_for(lambda: places.waiting == 2)
    assert places.before(2) == 1 and taken == []
    held[0].give()
    wait_for(lambda: taken == ["run-1"])
    held[1].give()
    wait_for(lambda: taken == ["run-1", "run-2"])
    for thread in threads:
        thread.join(5.0)


def test_runs_queue_in_order_and_one_too_many_is_refused(layout: Layout, gates: Gates) -> None:
    with runs_world.running(layout) as house:
        assert house.submit("run-a") == 0
        started(house, "run-a")
        assert (house.submit("run-b"), house.submit("run-c")) == (0, 1)
        with pytest.raises(InputFault, match="3 runs are under way or wait"):
            house.submit("run-d")
        assert house.platform.node.store.run("run-d") is None
        with pytest.raises(InputFault, match="run run-b exists already"):
            house.submit("run-b")
        wait_for(lambda: phases(house.platform)["run-b"][0] == "queued" == phases(house.platform)["run-c"][0])
        assert [one["before"] for one in listed(house.platform)] == [0, 0, 1]
        for run in ("run-a", "run-b", "run-c"):
            started(house, run)
            assert len(house.platform.runs) == 1
            gates.of(run).set()
            house.wait(run)
        leaves = [canonical.decode(leaf) for leaf in house.platform.node.store.leaves()]
        proposed = [leaf["run"] for leaf in leaves if leaf["kind"] == "contract" and leaf["event"] == "proposed"]
        assert proposed == ["run-a", "run-b", "run-c"]


def test_the_queue_goes_on_after_a_restart(layout: Layout, gates: Gates) -> None:
    with runs_world.running(layout) as house:
        house.submit("run-a")
        started(house, "run-a")
        house.submit("run-b")
        house.submit("run-c")
        assert [life.run for life in run_queue.left(house.platform.node)] == ["run-b", "run-c"]
    for run in ("run-b", "run-c"):
        gates.of(run).set()
    with runs_world.running(layout) as house:
        house.wait("run-b", "run-c")
        assert house.state("platform", "run-a") == "failed"  # a joint model does not go on; its record says what to do
        why = tell(house.platform.ended["run-a"])
        assert "launch it anew under another id" in why and "run-a" in why
        assert {run: house.state("bank-1", run) for run in ("run-b", "run-c")} == {
            "run-b": "finished",
            "run-c": "finished",
        }
        assert run_queue.left(house.platform.node) == []


# ---- people who take their time


def test_a_waiting_approval_of_one_run_does_not_block_others(layout: Layout, gates: Gates) -> None:
    content: dict[str, Any] = {}
    worlds.edit_toml(layout.home("bank-1") / "node.toml", lambda toml: content.update(toml["policy"]))
    runs_world.without_policy(layout, "bank-1")
    with runs_world.running(layout) as house:
        bank = house.banks["bank-1"]
        house.submit("run-a")
        wait_for(lambda: "run-a" in bank.pending)
        house.submit("run-b")
        wait_for(lambda: "run-b" in bank.pending)  # run-a has given its place back, with at_once = 1
        shown = {one["run"]: one["waits"] for one in listed(house.platform)}
        assert [wait["for"] for wait in shown["run-a"]] == ["bank-1"] and shown["run-a"][0]["step"] == "contract.agree"
        bank.decide("run-b", True, "operator-zhao")
        started(house, "run-b")
        bank.decide("run-a", True, "operator-zhao")
        wait_for(lambda: phases(house.platform)["run-a"] == ("proposed", "approved"))
        assert "run-a" not in house.platform.runs
        gates.of("run-b").set()
        started(house, "run-a")
        gates.of("run-a").set()
        house.wait("run-a", "run-b")
        assert {run: house.platform.ended[run]["state"] for run in ("run-a", "run-b")} == dict.fromkeys(
            ("run-a", "run-b"), "finished"
        )


def test_a_run_is_cancelled_while_a_person_is_still_to_answer(layout: Layout, gates: Gates) -> None:
    runs_world.without_policy(layout, "bank-2")
    with runs_world.running(layout) as house:
        house.submit("run-a")
        wait_for(lambda: "run-a" in house.banks["bank-2"].pending)
        house.platform.cancel("run-a", "operator-li", "wrong terms")
        house.wait("run-a")
        assert house.banks["bank-2"].pending == {}
        assert house.ends("run-a") == {party: [("failed", "C12")] for party in layout.parties}
        assert house.leaves("platform", "run-a")[-1]["operator"] == "operator-li"


# ---- cancelled and left


def test_a_queued_run_is_cancelled_before_anything_was_proposed(layout: Layout, gates: Gates) -> None:
    with runs_world.running(layout) as house:
        house.submit("run-a")
        started(house, "run-a")
        house.submit("run-b")
        house.platform.cancel("run-b", "operator-li")
        house.wait("run-b", at_banks=False)
        (leaf,) = house.leaves("platform", "run-b", "refusal")
        assert (leaf["rule"], leaf["operator"], leaf["step"]) == ("C12", "operator-li", "queue")
        assert house.state("platform", "run-b") == "failed" and house.leaves("platform", "run-b") == []
        assert house.state("bank-1", "run-b") == "" and run_queue.left(house.platform.node) == []
        with pytest.raises(
            InputFault, match=r"run run-b is failed, not under way; .*operator-li of platform cancelled"
        ):
            house.platform.cancel("run-b", "operator-li")
        gates.of("run-a").set()
        house.wait("run-a")


def test_a_run_under_way_is_cancelled_on_every_node_and_its_evidence_holds(layout: Layout, gates: Gates) -> None:
    with runs_world.running(layout) as house:
        house.submit("run-1")
        started(house, "run-1")
        house.platform.cancel("run-1", "operator-li")
        house.wait("run-1")
        assert house.ends("run-1") == {party: [("failed", "C12")] for party in layout.parties}
        assert {house.state(party, "run-1") for party in layout.parties} == {"failed"}
        assert not house.platform.runs and not house.platform.lives
        assert not any(bank.members or bank.parts for bank in house.banks.values())
        for party, ended in [("platform", house.platform.ended), ("bank-1", house.banks["bank-1"].ended)]:
            said = tell(ended["run-1"])
            assert "run-1" in said and "(rule C12)" in said and "to do: " in said and "at " in said, party
    collect_evidence(layout)
    assert verify_run(layout.folder).failures == ()


def test_a_bank_that_withdraws_ends_the_run_by_name_and_its_evidence_holds(layout: Layout, gates: Gates) -> None:
    with runs_world.running(layout) as house:
        house.submit("run-1")
        started(house, "run-1")
        house.banks["bank-2"].leave("run-1", "operator-wu", "not now")
        house.wait("run-1")
        assert house.ends("run-1") == {party: [("failed", "C13")] for party in layout.parties}
        ended = house.platform.ended["run-1"]
        assert ended["error"].startswith("bank-2 withdrew from run run-1") and ended["party"] == "bank-2"
        assert "operator-wu" not in json.dumps(ended) and "operator-wu" in house.banks["bank-2"].ended["run-1"]["error"]
        assert [leaf["operator"] for leaf in house.leaves("bank-2", "run-1") if leaf["event"] == "failed"] == [
            "operator-wu"
        ]
    collect_evidence(layout)
    assert verify_run(layout.folder).failures == ()


def test_a_bank_withdraws_after_it_approved_and_before_another_has(layout: Layout, gates: Gates) -> None:
    runs_world.without_policy(layout, "bank-2")
    with runs_world.running(layout) as house:
        house.submit("run-a")
        wait_for(lambda: "run-a" in house.banks["bank-2"].pending and "run-a" in house.banks["bank-1"].parts)
        house.banks["bank-1"].leave("run-a", "operator-wang")
        house.wait("run-a")
        assert {party: ends[-1] for party, ends in house.ends("run-a").items()} == dict.fromkeys(
            layout.parties, ("failed", "C13")
        )


def test_one_run_that_fails_leaves_another_one_alone(layout: Layout, gates: Gates) -> None:
    runs_world.set_runs(layout, at_once=2, queued=2)
    with runs_world.running(layout) as house:
        house.submit("run-a")
        house.submit("run-b")
        started(house, "run-a")
        started(house, "run-b")
        house.banks["bank-1"].leave("run-a", "operator-wang")
        house.wait("run-a")
        assert "run-b" in house.platform.runs and all("run-b" in bank.members for bank in house.banks.values())
        gates.of("run-b").set()
        house.wait("run-b")
        assert house.ends("run-b") == {party: [("finished", "")] for party in layout.parties}


def test_a_bank_with_as_many_runs_as_it_may_have_refuses_the_next_one(layout: Layout, gates: Gates) -> None:
    runs_world.set_runs(layout, at_once=2, queued=2)
    worlds.edit_toml(layout.home("bank-2") / "node.toml", lambda content: content["runs"].update(at_once=1))
    with runs_world.running(layout) as house:
        house.submit("run-a")
        started(house, "run-a")
        house.submit("run-b")
        house.wait("run-b")
        assert "(rule C14)" in house.platform.ended["run-b"]["error"]
        assert "wait until a run at that bank has ended" in tell(house.platform.ended["run-b"])
        gates.of("run-a").set()
        house.wait("run-a")


# ---- what people read


def test_the_commands_list_cancel_leave_and_resume(
    layout: Layout, gates: Gates, capsys: pytest.CaptureFixture[str]
) -> None:
    with runs_world.running(layout) as house:
        handlers: dict[str, Callable[[Any], Any]] = {
            "platform": lambda request: cli_serve._platform_answer(house.platform, request),
            "bank-1": lambda request: cli_serve._bank_answer(house.banks["bank-1"], request),
        }
        controls = [ControlServer(layout.home(p) / "state", handler) for p, handler in handlers.items()]
        files = {party: str(layout.home(party) / "node.toml") for party in handlers}
        try:
            house.submit("run-a")
            started(house, "run-a")
            house.submit("run-b")
            assert cli.run(["platform", "runs", files["platform"]]) == 0
            shown = capsys.readouterr().out
            assert "run-a: running" in shown and "run-b: queued" in shown
            assert cli.run(["bank", "runs", files["bank-1"], "--json"]) == 0
            (one,) = json.loads(capsys.readouterr().out)["runs"]
            assert (one["run"], one["state"]) == ("run-a", "running")
            assert cli.run(["platform", "resume", "run-b", "--node", files["platform"]]) == 0
            assert "goes on by itself: queued" in capsys.readouterr().out
            named = ["--operator", "operator-li"]
            assert cli.run(["platform", "cancel", "run-b", "--node", files["platform"], *named]) == 0
            assert cli.run(["bank", "leave", "run-a", "--node", files["bank-1"], *named]) == 0
            house.wait("run-a")
            house.wait("run-b", at_banks=False)
            capsys.readouterr()
            assert cli.run(["platform", "resume", "run-a", "--node", files["platform"]]) == 2
            said = capsys.readouterr().err
            assert "bank-1 withdrew" in said and "rule C13" in said and said.count("\n") == 1
            assert cli.run(["platform", "cancel", "run-zzz", "--node", files["platform"], *named]) == 2
            assert "is not known here" in capsys.readouterr().err
        finally:
            for control in controls:
                control.close()


def test_ends_are_kept_in_the_store_and_the_newest_in_memory(layout: Layout, gates: Gates) -> None:
    with runs_world.running(layout) as house:
        ended = house.platform.ended
        for number in range(300):
            ended[f"run-{number}"] = {"run": f"run-{number}", "state": "failed", "error": "x", "rule": "RUN"}
        assert len(ended) == 256 and "run-0" not in ended
        assert (ended.known("run-0") or {})["error"] == "x" and ended.known("run-none") is None


@pytest.mark.parametrize("rule", ["C12", "C99", "P03", "OUT-ROWS", "SS04", "ZZ", "RUN", "I05", "NN02"])
def test_every_rule_has_something_to_do(rule: str) -> None:
    record = {
        "run": "run-1",
        "state": "failed",
        "rule": rule,
        "error": "it broke",
        "party": "bank-1",
        "step": "matching",
    }
    said = tell(record)
    assert (
        said.startswith(f"run run-1 failed at bank-1 in matching (rule {rule}): it broke; to do: ")
        and remedy(rule) in said
    )
    assert tell(record | {"state": "finished"}) == ""


def test_a_run_whose_terms_no_longer_hold_after_a_restart_ends_by_name(layout: Layout, gates: Gates) -> None:
    with runs_world.running(layout) as house:
        house.submit("run-a")
        started(house, "run-a")
        house.submit("run-b")
        run_queue.forget(house.platform.node, "run-b")
        gates.of("run-a").set()
        house.wait("run-a")
        house.wait("run-b", at_banks=False)
        assert "terms of queued run run-b are not in the store" in house.platform.ended["run-b"]["error"]
        with pytest.raises(LianxinError):
            house.platform.launch(load_run(runs_world.write_run(layout, "run-b")))
