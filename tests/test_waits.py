"""Every wait has a deadline and a reason, and an operator reads who is waited for, in which step and until when."""

import ast
import re
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import worlds
from conftest import ROOT
from worlds import ends

from lianxin.federation import wire
from lianxin.federation.channel import Channel
from lianxin.federation.errors import DeadlinePassed, PeerGone
from lianxin.federation.resumption import Pipe, PipeBusy
from lianxin.federation.waits import Waits
from lianxin.parties.lobby import UNASKED, Lobby
from lianxin.parties.run_life import RunCancelled, RunLife
from lianxin.parties.run_link import RunLink

__all__ = ["ends"]

ROOMS = ("crypto", "federation", "parties")
BLOCKING = {"wait": 1, "join": 1, "get": 1, "acquire": 1, "take": 1, "result": 1, "wait_for": 2}
DEADLINES = {"timeout", "deadline_s", "blocking"}
_LIKELY = re.compile(r"\.(wait|join|get|acquire|take|result)\(\s*\)|\.wait_for\(")
ALLOWED = {  # a wait without a deadline, and why nothing can keep it for ever
    "crypto/pool.py self._lock.wait_for(lambda: block not in self._claimed)": "who claims a block lets go of it in a finally",
    "parties/auditor_workers.py futures.pop(place).result()": "a pool that loses a worker answers every future",
    "parties/cli_serve.py stopped.wait()": "a node serves until a signal or the end of its lobby says stop",
    "parties/consent_import.py future.result()": "a pool that loses a worker answers every future",
    "parties/control.py _WORKING_FOLDER.acquire()": "held for the few system calls that bind a socket",
    "parties/ledger_commit.py entry.wake.acquire()": "whoever writes the batch wakes its entries, also when it fails",
    "parties/platform.py place.take()": "asks twice a second whether its run was stopped or the node is closing",
    "parties/platform_turns.py place.take()": "asks twice a second whether its run was stopped or the node is closing",
    "parties/score_platform.py talk.turn.take()": "a turn in one conversation, whose channel has a deadline",
    "parties/store.py self._lock.acquire()": "held for one transaction, which the database bounds",
}


def waits_in(path: str, text: str) -> Iterator[str]:
    """Yield each call in a module that may wait for ever, as `path call`."""
    if _LIKELY.search(text) is None:  # most modules wait for nobody, and parsing them all takes seconds
        return
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        least, named = BLOCKING.get(node.func.attr), {word.arg for word in node.keywords}
        if least is not None and len(node.args) < least and not named & DEADLINES:
            yield f"{path} {ast.unparse(node)}"


def test_no_wait_is_without_a_deadline_unless_a_reason_stands_here() -> None:
    found = set[str]()
    for room in ROOMS:
        for path in sorted((ROOT / room).glob("*.py")):
            found |= set(waits_in(f"{room}/{path.name}", path.read_text(encoding="utf-8")))
    assert found == set(ALLOWED)


@pytest.mark.parametrize(
    ("bad", "good"),
    [
        ("event.wait()", "event.wait(5.0)"),
        ("thread.join()", "thread.join(timeout=5)"),
        ("queue.get()", "queue.get(timeout=1)"),
        ("lock.acquire()", "lock.acquire(blocking=False)"),
        ("change.wait_for(lambda: done)", "change.wait_for(lambda: done, 5.0)"),
        ("future.result()", "future.result(60)"),
        ("pipe.take()", "pipe.take(3.0)"),
    ],
)
def test_a_bare_wait_is_found_and_one_with_a_deadline_is_not(bad: str, good: str) -> None:
    assert list(waits_in("parties/x.py", bad)) == [f"parties/x.py {bad}"] and not list(waits_in("parties/x.py", good))


# ---- who is waited for


class Steady:
    """A steady clock that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_wait_is_shown_with_party_step_and_times_while_it_lasts() -> None:
    clock = Steady()
    waits = Waits(clock)
    with waits.on("run-1", "bank-2", "matching.query", 600.0), waits.on("run-2", "bank-1", "train", 10.0):
        clock.now += 40.0
        assert waits.of("run-1") == [{"for": "bank-2", "step": "matching.query", "since_s": 40, "until_s": 560}]
        assert waits.of("run-2")[0]["until_s"] == 0 and len(waits.all()) == 2
    assert waits.all() == [] == waits.of("run-1")


def test_who_is_silent_is_told_once_for_each_wait() -> None:
    clock = Steady()
    waits = Waits(clock)
    with waits.on("run-1", "bank-2", "train", 600.0):
        assert waits.silent() == []
        clock.now += 31.0
        assert [wait.party for wait in waits.silent()] == ["bank-2"] and waits.silent() == []
    with waits.on("run-1", "bank-2", "train", 600.0):
        clock.now += 31.0
        assert len(waits.silent()) == 1


def test_a_session_enters_its_waits_and_says_at_whom_and_where_one_failed(ends: worlds.Ends) -> None:
    seen: list[list[dict[str, Any]]] = []
    session = ends.platform.session
    receive = session.channel.receive
    session.channel.receive = lambda deadline_s: (seen.append(session.waits.of(session.contract.run)), receive(0.01))[1]  # type: ignore[method-assign]
    with pytest.raises(DeadlinePassed) as late:
        session.receive("contract.close", (wire.RunClosed,), 60.0)
    assert seen == [[{"for": "bank-1", "step": "contract.close", "since_s": 0, "until_s": 60}]]
    assert (late.value.party, late.value.step) == ("bank-1", "contract.close") and session.waits.all() == []


# ---- what runs share


class Road(Channel):
    """A lobby's road that keeps what was sent."""

    def __init__(self) -> None:
        self.peer, self.conversation, self.run = "bank-1", "contracts/bank-1", "lobby"
        self.sent: list[bytes] = []
        self.over = False

    def send(self, data: bytes) -> None:
        self.sent.append(data)

    def receive(self, deadline_s: float) -> bytes:
        raise DeadlinePassed("nothing")

    def finish(self) -> None: ...

    def is_gone(self) -> bool:
        return self.over

    def close(self, reason: str = "") -> None:
        self.over = True


def test_a_lobby_hands_each_run_its_own_messages_and_no_more_than_fit() -> None:
    lobby = Lobby(Road())
    first, second = lobby.of("run-a"), lobby.of("run-b")
    assert lobby.hand("run-b", b"1") and lobby.hand("run-a", b"2") and not lobby.hand("run-c", b"3")
    assert (first.receive(0.0), second.receive(0.0)) == (b"2", b"1") and not second.has_word
    with pytest.raises(DeadlinePassed):
        first.receive(0.0)
    assert sum(lobby.hand("run-a", bytes([n])) for n in range(50)) == 8
    assert lobby.of("run-a") is first and first.receive(0.0) == b"\x00"


def test_a_run_that_leaves_a_lobby_closes_it_only_when_it_is_the_last() -> None:
    road = Road()
    lobby = Lobby(road)
    first, second = lobby.of("run-a"), lobby.of("run-b")
    first.close()
    assert not road.over and not lobby.hand("run-a", b"x") and lobby.hand("run-b", b"y")
    second.close()
    assert road.over
    with pytest.raises(PeerGone):
        first.receive(0.0)


def test_the_end_of_the_road_ends_every_run_on_it_after_what_came_before() -> None:
    lobby = Lobby(Road())
    talk = lobby.of("run-a")
    lobby.hand("run-a", b"last")
    lobby.end()
    assert talk.receive(1.0) == b"last"
    for late in (talk, lobby.of("run-b")):
        with pytest.raises(PeerGone):
            late.receive(1.0)


def test_a_peer_that_says_what_nobody_asked_for_is_left_alone() -> None:
    road = Road()
    lobby = Lobby(road)
    assert [lobby.unasked() for _ in range(UNASKED)][-2:] == [False, True] and road.over


def test_a_refusal_is_overheard_while_the_run_waits_for_something_else() -> None:
    heard: list[str] = []
    lobby = Lobby(Road(), heard.append)
    talk = lobby.of("run-a")
    lobby.hand("run-a", b"x")
    assert not talk.refused and heard == []
    lobby.hand("run-a", b"y", is_refusal=True)
    assert talk.refused and heard == ["run-a"]


def test_a_stopped_run_closes_what_it_waits_for_and_opens_nothing_more() -> None:
    life, roads = RunLife("run-a", 0, "li"), [Road(), Road()]
    life.holds(roads[0])
    life.stop(RunCancelled("x cancelled run run-a (rule C12)", "C12", "x"))
    assert roads[0].over
    with pytest.raises(RunCancelled):
        life.holds(roads[1])
    life.stop(RunCancelled("later", "C13"))
    with pytest.raises(RunCancelled, match="C12"):
        life.check()


def test_a_bank_that_leaves_closes_its_runs_conversations_and_no_others() -> None:
    opened: list[Road] = []

    def make(_conversation: str, _run: str) -> Road:
        opened.append(Road())
        return opened[-1]

    shared: Any = SimpleNamespace(open=make)
    one, other = RunLink(shared), RunLink(shared)
    one.open("matching/bank-1", "run-a")
    other.open("matching/bank-1", "run-b")
    one.close()
    for _ in range(100):
        if opened[0].over:
            break
        threading.Event().wait(0.01)
    assert [road.over for road in opened] == [True, False]
    with pytest.raises(PeerGone, match="was stopped here"):
        one.open("vertical/bank-1/rows", "run-a")


def test_a_full_pipe_that_is_not_read_ends_the_wait_at_its_deadline() -> None:
    pipe = Pipe(capacity=1)
    pipe.put(b"1", 0)
    with pytest.raises(PipeBusy):
        pipe.put(b"2", 0.01)
