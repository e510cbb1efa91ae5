"""A standing agreement that ends while conversations are open: nothing is answered after it; without the checks it is."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import query_world
from query_world import ASKER, BANK, OPEN, PLATFORM, RUN, Network

from lianxin.crypto import canonical
from lianxin.federation import field_query
from lianxin.federation.errors import PeerError, PeerGone
from lianxin.federation.field_query import FirmAnswer
from lianxin.federation.session import converse
from lianxin.parties import query_platform
from lianxin.parties.agreement import open_contract
from lianxin.simulations.tables import Inputs


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return query_world.tables(tmp_path_factory.mktemp("tables"))


@pytest.fixture
def brief(tables: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Network]:
    """A network of its own, whose platform waits a moment only for what is under way at an agreement's end."""
    monkeypatch.setattr(query_platform, "CLOSE_DEADLINE_S", 0.3)
    with query_world.running(query_world.lay(tmp_path / "run", tables, step_deadline_s=600)) as network:
        network.agree()
        yield network


def silent(network: Network) -> tuple[Any, Any]:
    """Open a conversation as a bank does and say nothing; return its channel and the question that could be put."""
    asker = network.banks[BANK].standing[RUN]
    number = asker.node.store.reserve(f"query/{RUN}", 1)
    channel = asker._link.open(field_query.conversation_of(BANK, number), RUN)
    query_world.wait_for(lambda: network.platform.desks[RUN]._open)
    question = asker._question(network.fresh(2), [OPEN], "plaintext", ASKER)
    return channel, replace(question, request=field_query.request_id(asker.contract, BANK, number))


def put(network: Network, channel: Any, question: Any, right: Any) -> Any:
    asker = network.banks[BANK].node
    session = asker.session(open_contract(asker.store.run(RUN).contract), channel, channel.conversation)
    return converse(field_query.bank_role(question, right), session, 5.0)


def after_the_end(network: Network) -> list[str]:
    """Return the kinds of the platform's leaves of the run after the one that says `ended`."""
    leaves = [canonical.decode(leaf) for leaf in network.platform.node.store.leaves()]
    kinds = [leaf.get("event", leaf["kind"]) for leaf in leaves if leaf.get("run") == RUN]
    return kinds[kinds.index("ended") + 1 :]


@pytest.mark.rule("S01")
def test_a_bank_that_opened_a_conversation_and_waited_is_not_served_after_the_end(brief: Network) -> None:
    channel, question = silent(brief)
    right, _ = brief.banks[BANK].standing[RUN]._release(question)
    desk = brief.platform.desks[RUN]
    brief.platform.end(RUN)
    with pytest.raises(PeerGone):
        put(brief, channel, question, right)
    assert not desk._open
    assert not {"query", "release"} & set(after_the_end(brief))


@pytest.mark.rule("S01")
def test_without_the_cut_and_the_check_it_would_be(brief: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    channel, question = silent(brief)
    right, _ = brief.banks[BANK].standing[RUN]._release(question)
    monkeypatch.setattr(query_platform.QueryDesk, "_check_open", lambda _self: None)
    monkeypatch.setattr(query_platform.QueryDesk, "_cut", lambda _self: None)
    brief.platform.end(RUN)
    assert [one[0].form for one in put(brief, channel, question, right)] == ["PLAIN", "PLAIN"]
    assert {"query", "release"} <= set(after_the_end(brief))


@pytest.mark.rule("S01")
@pytest.mark.parametrize("answered", [0, 1])
def test_a_question_is_answered_no_further_than_to_the_end(
    brief: Network, monkeypatch: pytest.MonkeyPatch, answered: int
) -> None:
    desk = brief.platform.desks[RUN]
    honest, before = desk._answer, len(brief.leaves(PLATFORM, "release"))

    def ending(bank: str, question: Any, place: int) -> FirmAnswer:
        desk._closed = True
        return honest(bank, question, place)

    desk._closed = not answered
    monkeypatch.setattr(desk, "_enter", lambda channel: desk._open.add(channel))
    monkeypatch.setattr(desk, "_answer", ending)
    with pytest.raises(PeerError, match="refused by rule S01"):
        brief.ask(*brief.fresh(3), fields=(OPEN,))
    assert len(brief.leaves(PLATFORM, "release")) == before + answered
    assert len(brief.leaves(PLATFORM, "query")) == answered
