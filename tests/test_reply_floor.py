"""A lost bank is waited for; below the floor a run stops and adds nothing up; late and second answers are never counted."""

from pathlib import Path
from typing import Any

import network_world
import numpy as np
import pytest
import worlds
from conversations import right
from faults.killed_nodes import Place, Town
from sums_grid import PLATFORM, contract_for, key_of, session_of
from sums_world import names_of

from lianxin.federation import apps
from lianxin.federation.channel import Pipe, PipedChannel
from lianxin.federation.contract import RunContract
from lianxin.federation.grid import STEP, PartyGrid, encode_message
from lianxin.federation.session import Session
from lianxin.federation.wire import LearningMessage
from lianxin.parties.agreement import approve, draft_contract, join_signatures
from lianxin.parties.bank import BankNode
from lianxin.parties.clock import SimulatedClock
from lianxin.parties.config import load_node, load_run
from lianxin.parties.node import Node, open_node
from lianxin.parties.platform import PlatformNode
from lianxin.parties.runs_left import is_numbered
from lianxin.simulations.layout import RUN, Layout
from lianxin.simulations.runner import reference_plan

finished, province = worlds.finished, worlds.province
BANK, SOON_S = names_of(3)[0], 0.2
TERMS = {"rejoin_s": 1, "local_epochs": 1, "rounds": 2, "validation_permille": 0, "max_loss_rise_permille": 0}
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")


# ---- a bank that stays away


def opened_rounds(layout: Layout, bank: str) -> set[str]:
    node = open_node(load_node(layout.home(bank) / "node.toml"))
    try:
        return {key.rsplit("/", 2)[1] + key[-2:] for key in node.store.settings_under(f"sum-opened/{RUN}/train")}
    finally:
        node.close()


def test_below_the_floor_a_run_stops_with_the_reason_and_opens_nothing(tmp_path: Path) -> None:
    layout = network_world.lay(tmp_path / "run", network_world.tables_of(tmp_path / "tables", rows=400), **TERMS)
    town = Town(layout)
    ended = town.run([Place("bank-2", "masked", 2)], start_again=False)
    assert ended["state"] == "failed" and ended["error"].startswith("bank-2 left the run")
    assert "platform" not in ended["error"] and any("waiting for bank-2" in note for note in town.notes)
    assert opened_rounds(layout, "bank-1") == {"train/1"}


def test_with_enough_banks_left_the_round_is_added_up_without_the_one_that_stays_away(tmp_path: Path) -> None:
    layout = network_world.lay(
        tmp_path / "run", network_world.tables_of(tmp_path / "tables", banks=4, rows=400), **TERMS
    )
    town = Town(layout)
    ended = town.run([Place("bank-2", "shares", 2)], start_again=False)
    assert ended["state"] == "finished" and set(ended["metrics"]) == {"bank-1", "bank-3", "bank-4"}
    assert opened_rounds(layout, "bank-1") == {"train/1", "train/2"}


# ---- late, second and replayed answers


class Ends:
    """The two ends of a bank's learning conversations, the bank's driven by hand."""

    def __init__(self) -> None:
        self.contract: RunContract = contract_for(3)
        self.banks: list[Session] = []
        self.grid = PartyGrid(
            {BANK: self.fresh()}, SOON_S, returned=lambda banks: {bank: self.fresh() for bank in banks}
        )

    def fresh(self) -> Session:
        up, down, run = Pipe(), Pipe(), self.contract.run
        name = f"learning/{BANK}" + (f"/{len(self.banks)}" if self.banks else "")
        self.banks.append(
            session_of(BANK, self.contract, key_of(BANK), PipedChannel(PLATFORM, name, run, down, up, SOON_S))
        )
        self.banks[-1].follows = True
        theirs = PipedChannel(BANK, name, run, up, down, SOON_S)
        return session_of(PLATFORM, self.contract, key_of(PLATFORM), theirs)

    def ask(self, before: Any = lambda: None) -> Any:
        message = self.grid.create_message(apps.record_of({}, {}, {"note": "go"}), "train", 1, "1")
        ids = self.grid.push_messages([message])
        before()
        (reply,) = self.grid.pull_messages(ids)
        return reply

    def answer(self, which: int, reply_to: str = "") -> bytes:
        """Let the bank answer in its conversation `which`; return the envelope."""
        session = self.banks[which]
        asked: Any = session.receive(STEP, (LearningMessage,), SOON_S)
        message = self.grid.create_message(apps.record_of({"masked": np.ones(2, np.uint64)}, {}, {}), "train", 1, "1")
        sent: list[bytes] = []
        send, session.channel.send = session.channel.send, lambda data: (sent.append(data), send(data))[0]  # type: ignore[method-assign,func-returns-value]
        session.send(
            encode_message(message, self.contract.record["forms"], reply_to or asked.message_id), STEP, self.rights
        )
        session.channel.send = send  # type: ignore[method-assign]
        return sent[0]

    rights = (right(BANK, PLATFORM),)


def test_an_answer_to_the_attempt_before_is_refused_by_name() -> None:
    ends = Ends()
    assert ends.ask().has_error()
    assert ends.grid.await_return([BANK]) == {BANK} and not ends.grid.lost
    reply = ends.ask(lambda: ends.answer(1, f"train/1/{BANK}"))
    assert reply.has_error() and reply.error.reason == "L03"
    assert ends.grid.may_return([BANK]) == []  # it broke a rule: it is not waited for


def test_an_answer_in_the_conversation_before_comes_nowhere() -> None:
    ends = Ends()
    assert ends.ask().has_error()
    ends.grid.await_return([BANK])
    late = ends.ask(lambda: ends.answer(0))
    assert late.has_error()
    ends.grid.await_return([BANK])
    assert not ends.ask(lambda: ends.answer(2)).has_error()


def test_a_second_answer_is_none_to_the_next_question() -> None:
    ends = Ends()
    first = ends.ask(lambda: ends.answer(0))
    assert not first.has_error()
    session = ends.banks[0]
    message = ends.grid.create_message(apps.record_of({"masked": np.ones(2, np.uint64)}, {}, {}), "train", 1, "1")
    session.send(encode_message(message, ends.contract.record["forms"], f"train/1/{BANK}"), STEP, ends.rights)
    assert ends.ask().error.reason == "L03"


def test_a_replayed_answer_breaks_the_chain() -> None:
    ends = Ends()
    kept: list[bytes] = []
    assert not ends.ask(lambda: kept.append(ends.answer(0))).has_error()
    assert ends.ask(lambda: ends.banks[0].channel.send(kept[0])).error.reason == "S03"


# ---- what cannot go on


def left_running(layout: Layout) -> dict[str, Node]:
    """Return the nodes of a layout as they are after all were killed in the middle of its run."""
    nodes = {party: open_node(load_node(layout.home(party) / "node.toml")) for party in layout.parties}
    first, *banks = nodes.values()
    contract = draft_contract(
        load_run(layout.folder / "run.toml"), first.identity, first.catalogue.digest, first.clock.now()
    )
    approvals = {bank.party: approve(contract, bank.party, bank.identity.signing_key) for bank in banks}
    signed = join_signatures(contract, (first.party, first.identity.signing_key), approvals)
    for node in nodes.values():
        node.store.put_run(contract.run, "running", signed)
    return nodes


def ends_of(nodes: dict[str, Node]) -> list[str]:
    first, *banks = nodes.values()
    made = [PlatformNode(first, reference_plan), *(BankNode(bank, None) for bank in banks)]  # type: ignore[arg-type]
    try:
        assert {one.ended[RUN]["state"] for one in made} == {"failed"}
        assert {node.store.run(RUN).state for node in nodes.values()} == {"failed"}  # type: ignore[union-attr]
        return [one.ended[RUN]["error"] for one in made]
    finally:
        for node in nodes.values():
            node.close()


def test_a_joint_models_run_that_was_left_is_failed_when_its_node_starts(province: Any, tmp_path: Path) -> None:
    said = ends_of(left_running(worlds.lay(tmp_path / "run", province)))
    assert all("a run of scorecard does not go on; launch it anew" in one for one in said)


def test_a_network_goes_on_neither_from_a_damaged_checkpoint_nor_after_its_contract(tmp_path: Path) -> None:
    inputs = network_world.tables_of(tmp_path / "tables", rows=100)
    damaged = left_running(network_world.lay(tmp_path / "damaged", inputs))
    for node in damaged.values():
        (node.run_folder(RUN) / "checkpoint").write_bytes(b'{"type":"run-checkpoint"}\n{}')
    assert all("is damaged" in one for one in ends_of(damaged))
    late = left_running(network_world.lay(tmp_path / "late", inputs))
    for node in late.values():
        node.clock = SimulatedClock("2099-01-01T00:00:00Z")  # type: ignore[assignment]
    assert all("ended before the run did" in one for one in ends_of(late))


def test_a_conversation_is_numbered_from_one_and_names_its_bank() -> None:
    assert all(is_numbered(name, "learning", BANK) for name in (f"learning/{BANK}", f"learning/{BANK}/1"))
    others = (
        "learning/bank-2",
        f"learning/{BANK}/0",
        f"learning/{BANK}/01",
        f"learning/{BANK}/1/2",
        f"learning/{BANK}1",
    )
    assert not any(is_numbered(name, "learning", BANK) for name in others)
