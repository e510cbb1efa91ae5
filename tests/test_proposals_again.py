"""A bank that was restarted before anybody there answered is made the open proposal again, and no other than that."""

import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import runs_world
import worlds
from runs_world import House, wait_for

from lianxin.parties import bank as banks
from lianxin.parties import proposals_again
from lianxin.parties.auditor import verify_run
from lianxin.parties.bank import BankNode
from lianxin.parties.config import load_node
from lianxin.parties.lobby import Lobby
from lianxin.parties.node import open_node
from lianxin.parties.platform import PlatformNode
from lianxin.parties.proposals_again import AWAY_S, Offer, is_open_still
from lianxin.parties.run_remedies import tell
from lianxin.simulations.layout import Layout
from lianxin.simulations.runner import collect_evidence

BANK, RUN = "bank-2", "run-1"
SOON_S = 0.3


@pytest.fixture(scope="module")
def laid(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    tables = worlds.tables_of(tmp_path_factory.mktemp("tables"), firms=120, loans=60)
    layout = worlds.lay(tmp_path_factory.mktemp("laid") / "run", tables)
    runs_world.without_policy(layout, BANK)
    return layout


@pytest.fixture
def layout(laid: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    def hold(_platform: PlatformNode, _contract: Any, active: Any) -> None:
        while not threading.Event().wait(0.02):
            active.life.check()

    monkeypatch.setattr(PlatformNode, "_drive", hold)  # in the place of the training
    monkeypatch.setattr(proposals_again, "HASTY_S", SOON_S)
    return replace(laid, folder=Path(shutil.copytree(laid.folder, tmp_path / "run")))


def waiting(house: House) -> Any:
    """Wait until the proposal waits for a person of the bank and return what waits."""
    wait_for(lambda: RUN in house.banks[BANK].pending)
    return house.banks[BANK].pending[RUN]


def restart(house: House) -> None:
    """End the bank's node and start it again."""
    time.sleep(2 * SOON_S)
    ended = house.banks[BANK]
    ended.close()
    ended.node.close()
    wait_for(lambda: RUN not in ended.pending)
    node = open_node(load_node(house.layout.home(BANK) / "node.toml"))
    house.banks[BANK] = BankNode(node, house.network.link(BANK))
    house.threads.append(threading.Thread(target=house.banks[BANK].serve, daemon=True))
    house.threads[-1].start()


def test_a_bank_that_comes_back_is_made_the_proposal_again_and_the_evidence_holds(layout: Layout) -> None:
    with runs_world.running(layout) as house:
        house.submit(RUN)
        first = waiting(house)
        restart(house)
        again = waiting(house)
        assert (again.contract.hash, again.plan) == (first.contract.hash, first.plan)
        house.banks[BANK].decide(RUN, True, "operator-wu")
        wait_for(lambda: RUN in house.platform.runs and all(RUN in bank.members for bank in house.banks.values()))
        rows = house.node(BANK).store.envelopes(RUN)
        talks = [row.conversation for row in rows if row.conversation.startswith("contracts/")]
        assert talks == ["contracts/bank-2", *["contracts/bank-2/1"] * 3]
        events = [leaf["event"] for leaf in house.leaves(BANK, RUN) if not leaf["event"].endswith("-committed")]
        assert events == ["proposed", "approved", "signed"]
        house.platform.cancel(RUN, "operator-li")
        house.wait(RUN)
    collect_evidence(layout)
    assert verify_run(layout.folder).failures == ()


def test_only_the_proposal_that_was_heard_and_not_answered_may_come_again(layout: Layout) -> None:
    with runs_world.running(layout) as house:
        house.submit(RUN)
        contract, node, next_talk = waiting(house).contract, house.node(BANK), f"contracts/{BANK}/1"
        assert is_open_still(node, contract, next_talk, False)
        assert not is_open_still(node, contract, next_talk, True)  # it ended here
        for talk in (f"contracts/{BANK}", "contracts/bank-1/1", f"contracts/{BANK}/x", f"learning/{BANK}/1"):
            assert not is_open_still(node, contract, talk, False)
        assert not is_open_still(node, replace(contract, record={**contract.record, "rounds": 2}), next_talk, False)
        policy = load_node(layout.home("bank-1") / "node.toml").policy
        told = SimpleNamespace(party=BANK, store=node.store, config=SimpleNamespace(role="bank", policy=policy))
        assert not is_open_still(told, contract, next_talk, False)  # type: ignore[arg-type]
        house.banks[BANK].decide(RUN, True, "operator-wu")
        wait_for(lambda: RUN in house.banks[BANK].members)
        assert not is_open_still(node, contract, next_talk, False)


def test_a_bank_that_takes_it_for_a_used_id_ends_the_run(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(banks, "is_open_still", lambda *_: False)
    with runs_world.running(layout) as house:
        house.submit(RUN)
        waiting(house)
        restart(house)
        house.wait(RUN, at_banks=False)
        assert house.platform.ended[RUN]["state"] == "failed" and BANK in tell(house.platform.ended[RUN])
        assert {leaf["rule"] for leaf in house.leaves(BANK, RUN, "refusal")} == {"C08"}


def test_a_bank_is_waited_for_as_long_as_a_maintenance_takes_and_no_proposal_is_made_without_end() -> None:
    made = list[str]()
    gone = SimpleNamespace(has_word=False, is_gone=lambda: True)
    node: Any = SimpleNamespace(
        store=SimpleNamespace(reserve=lambda *_: len(made)), say=lambda *_: None,
        session=lambda _contract, talk, name: SimpleNamespace(channel=talk, send=lambda *_: made.append(name)),
    )  # fmt: skip
    offer = Offer(node, SimpleNamespace(run=RUN), None, {BANK: node.session(None, gone, f"contracts/{BANK}")})  # type: ignore
    offer.make(BANK)
    offer._made[BANK] -= proposals_again.HASTY_S + 1
    for _ in range(10):
        lobby = Lobby(SimpleNamespace(peer=BANK, conversation="", is_gone=lambda: False))  # type: ignore[arg-type]
        offer.make_again(lambda _, new=lobby: new)  # type: ignore[misc]
    assert made == [f"contracts/{BANK}", f"contracts/{BANK}/2"] and not offer.may_return(BANK)  # it hung up at once
    offer._made[BANK], offer._away = offer._made[BANK] - proposals_again.HASTY_S - 1, {}
    assert offer.may_return(BANK)
    offer._away[BANK] -= AWAY_S
    offer._made[BANK] -= AWAY_S
    assert not offer.may_return(BANK)
