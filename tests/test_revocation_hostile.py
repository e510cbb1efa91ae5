"""Revocations that meet a fault, another change of keys, a stopped node, or a peer that answers slowly."""

import json
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import query_world
from query_world import BANK, OTHER, PLATFORM, RUN
from test_key_rotation import PARTIES

from lianxin.crypto import canonical
from lianxin.federation.errors import InputFault
from lianxin.parties import cli, key_rotation, peer_trust, runs_resumed
from lianxin.parties.clock import SystemClock
from lianxin.parties.config import load_node
from lianxin.parties.ended_runs import EndedRuns
from lianxin.parties.identity import load_identity, make_network
from lianxin.parties.node import open_node
from lianxin.parties.peer_trust import PREFIX, end_kept, revoke
from lianxin.parties.store import Store

WHO, WHY = "operator-li", "its key was seen elsewhere"


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return query_world.tables(tmp_path_factory.mktemp("tables"))


# ---- by itself: what is done in which order


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Any]:
    make_network(tmp_path / "net", PARTIES[0], PARTIES[1:], None, SystemClock(), 2)
    store = Store(tmp_path / "p.sqlite")

    def append(_leaf: Any, _who: str, kept: dict[str, bytes]) -> None:
        for one in kept.items():
            store.put_setting(*one)

    yield SimpleNamespace(
        identity=load_identity(tmp_path / "net" / "platform"), store=store, party="platform", counts=Counter[str](),
        ledger=SimpleNamespace(append=append, sign_with=lambda *_: None, checkpoint=lambda: b""),
        register=SimpleNamespace(pin=lambda _: None),
        clock=SystemClock(), say=lambda *_what, **_how: None,
    )  # fmt: skip
    store.close()


def served(node: Any, done: list[str], cancel: Any) -> Any:
    lives = {run: SimpleNamespace(banks=("bank-1",)) for run in ("run-a", "run-b")}
    return SimpleNamespace(node=node, lives=lives, cancel=cancel, cut=lambda party: done.append(f"cut {party}"))


def test_a_peer_is_cut_before_its_runs_are_ended_and_a_fault_in_one_leaves_nothing_else_undone(node: Any) -> None:
    done: list[str] = []

    def cancel(run: str, *_: str) -> None:
        if run == "run-a":
            raise InputFault("run run-a is finished, not under way")
        done.append(f"end {run}")
        one.lives.pop(run)

    one: Any = served(node, done, cancel)
    assert revoke(one, "bank-1", WHO, WHY) == {"party": "bank-1", "ended": ["run-b"], "left": ["run-a"]}
    assert done == ["cut bank-1", "end run-b"]


def test_a_checkpoint_that_cannot_be_made_keeps_nobody_connected(node: Any) -> None:
    def checkpoint() -> bytes:
        raise OSError("no disk")

    node.ledger.checkpoint, done = checkpoint, list[str]()
    one: Any = served(node, done, lambda run, *_: one.lives.pop(run))
    assert revoke(one, "bank-1", WHO, WHY)["ended"] == ["run-a", "run-b"]
    assert done == ["cut bank-1"] and list(node.identity.revoked) == ["bank-1"]


def test_a_run_that_was_over_before_it_could_be_ended_is_not_left(node: Any) -> None:
    def cancel(run: str, *_: str) -> None:
        one.lives.pop(run)
        raise InputFault(f"run {run} is finished, not under way")

    one: Any = served(node, [], cancel)
    assert revoke(one, "bank-1", WHO, WHY) == {"party": "bank-1", "ended": [], "left": []}


def test_a_second_revocation_cuts_again_and_ends_what_was_left(node: Any) -> None:
    done, faults = list[str](), [RuntimeError("no disk"), RuntimeError("no disk")]

    def cancel(run: str, *_: str) -> None:
        if faults:
            raise faults.pop()
        one.lives.pop(run)

    one: Any = served(node, done, cancel)
    assert revoke(one, "bank-1", WHO, WHY)["left"] == ["run-a", "run-b"]
    assert revoke(one, "bank-1", WHO, WHY) == {"party": "bank-1", "ended": ["run-a", "run-b"], "left": []}
    with pytest.raises(InputFault, match="is revoked here already"):
        revoke(one, "bank-1", WHO, WHY)
    assert done == ["cut bank-1"] * 3 and node.counts["peers/revoked"] == 1


def test_a_bank_that_revokes_its_platform_ends_its_part_by_itself_and_hangs_up_last(
    node: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    node.identity, node.party = load_identity(tmp_path / "net" / "bank-1"), "bank-1"
    contract = SimpleNamespace(platform="platform", node_keys={"platform": "", "bank-1": ""})
    member = SimpleNamespace(contract=contract, stop=lambda: done.append("stop"))
    link = SimpleNamespace(cut=lambda: done.append("hang up"))
    monkeypatch.setattr("lianxin.parties.runs_left.end_left", lambda *_: done.append("end"))
    one = SimpleNamespace(node=node, members={"run-a": member}, pending={}, link=link, ended={})
    assert revoke(one, "platform", WHO, WHY)["ended"] == ["run-a"]
    assert done == ["stop", "end", "hang up"] and one.members == {}


# ---- at open nodes


def test_from_a_revocation_on_neither_the_registry_nor_the_ledger_takes_the_peers_word(
    tmp_path: Path, tables: Any
) -> None:
    layout = query_world.lay(tmp_path / "run", tables)
    with query_world.running(layout) as nodes:
        node: Any = nodes.platform.node
        assert BANK in node.register._admission.parties and BANK in node.ledger._witnesses
        revoke(nodes.platform, BANK, WHO, WHY)
        assert set(node.register._admission.parties) == {PLATFORM, OTHER}
        assert set(node.ledger._witnesses) == {OTHER}


def test_a_revocation_is_not_lost_to_a_refresh_that_is_under_way(
    tmp_path: Path, tables: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = query_world.lay(tmp_path / "run", tables)
    with query_world.running(layout) as nodes:
        node, other = nodes.platform.node, list[threading.Thread]()
        write = key_rotation._write_leaves

        def slowly(*given: Any) -> None:  # the peer is revoked after it was read who is
            other.append(threading.Thread(target=revoke, args=(nodes.platform, BANK, WHO, WHY)))
            other[0].start()
            other[0].join(0.3)
            write(*given)

        monkeypatch.setattr(key_rotation, "_write_leaves", slowly)
        key_rotation.refresh(node)
        other[0].join(10)
        assert list(node.identity.revoked) == [BANK] and set(node.identity.peers) == {OTHER}
        assert node.identity.pinned_peers()[f"spiffe://lianxin.test/{BANK}"].revoked


def test_a_revoked_bank_is_not_waited_for_when_its_agreement_ends(
    tmp_path: Path, tables: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = query_world.lay(tmp_path / "run", tables)
    with query_world.running(layout) as nodes:
        nodes.agree()
        told: list[str] = []
        late = runs_resumed._take_late

        def noted(session: Any) -> None:
            told.append(session.peer)
            late(session)

        monkeypatch.setattr(runs_resumed, "_take_late", noted)
        assert revoke(nodes.platform, BANK, WHO, WHY)["ended"] == [RUN] and told == [OTHER]


def test_a_peer_revoked_while_the_node_is_stopped_has_no_agreement_any_more(
    tmp_path: Path, tables: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    layout = query_world.lay(tmp_path / "run", tables)
    with query_world.running(layout) as nodes:
        nodes.agree()
    config = str(layout.home(PLATFORM) / "node.toml")
    assert cli.run(["platform", "revoke-peer", BANK, config, "--operator", WHO, "--reason", WHY, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"party": BANK, "ended": [RUN], "left": []}
    with query_world.running(layout) as nodes:
        node: Any = nodes.platform.node
        assert nodes.platform.desks == {} and node.store.run(RUN).state == "finished"
        ends = [leaf for leaf in nodes.leaves(PLATFORM, "contract") if leaf["event"] == "ended"]
        assert [leaf["operator"] for leaf in ends] == [WHO]


def test_a_node_that_was_killed_between_revoking_and_ending_ends_it_at_its_start(tmp_path: Path, tables: Any) -> None:
    layout = query_world.lay(tmp_path / "run", tables)
    with query_world.running(layout) as nodes:
        nodes.agree()
        for party, gone in ((PLATFORM, BANK), (BANK, OTHER)):
            peer_trust._begin(nodes.node(party), gone, WHO, WHY)
    with query_world.running(layout) as nodes:
        assert nodes.platform.desks == {} and RUN not in nodes.banks[BANK].standing
        assert nodes.platform.ended[RUN]["state"] == nodes.banks[BANK].ended[RUN]["state"] == "finished"


def test_a_run_that_was_left_on_with_a_revoked_bank_fails_by_name_and_the_others_are_to_be_told(
    tmp_path: Path, tables: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = query_world.lay(tmp_path / "run", tables)
    with query_world.running(layout) as nodes:
        contract = nodes.agree()
        peer_trust._begin(nodes.platform.node, BANK, WHO, WHY)
    node = open_node(load_node(layout.home(PLATFORM) / "node.toml"))
    try:
        monkeypatch.setattr(type(contract), "is_standing", False)
        node.store.set_run_state(RUN, "running")
        ended = EndedRuns(node.store)
        assert end_kept(node, ended) == [RUN] and end_kept(node, ended) == []
        assert (ended[RUN]["state"], ended[RUN]["rule"]) == ("failed", "I20")
        assert f"{BANK} was revoked at {PLATFORM} by {WHO}" in ended[RUN]["error"]
        assert node.store.setting(f"untold/{OTHER}/{RUN}") is not None
        assert canonical.decode(node.store.setting(PREFIX + BANK) or b"")["operator"] == WHO
    finally:
        node.close()
