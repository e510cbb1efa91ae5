"""Each note is known by its run: who launched one reads of no other, and a status that shows several says which is whose."""

import io
import json
from types import SimpleNamespace
from typing import Any

import pytest

from lianxin.parties import cli_nodes, cli_serve, cli_status
from lianxin.parties.event_ring import EventRing
from lianxin.parties.node import Node
from lianxin.parties.watch_log import close_log, log_note, open_log
from lianxin.parties.watch_tail import Tail


@pytest.fixture
def node() -> Any:
    made: Any = SimpleNamespace(party="platform", notes=EventRing(), ledger=SimpleNamespace(size=0))
    made.say = lambda what, run="", level="info": Node.say(made, what, run, level)
    return made


def answer(node: Any, start: int = 0) -> dict[str, Any]:
    """Return a status as it comes over the control socket."""
    told: dict[str, Any] = json.loads(json.dumps(cli_serve._status(node, start, {})))
    return told


def two_runs(node: Any) -> None:
    node.say("connected")
    for what, run in (("phase matching", "run-a"), ("phase matching", "run-b"), ("end round 1", "run-b")):
        node.say(what, run)
    node.say("run run-a finished")


def test_a_note_is_of_the_run_that_is_said_or_that_its_sentence_names(node: Any) -> None:
    two_runs(node)
    assert answer(node)["of_runs"] == ["", "run-a", "run-b", "run-b", "run-a"]
    node.say("run run-c is queued behind 2")
    node.say("run run-c: its checkpoint was not done: no room")
    assert answer(node, 5)["of_runs"] == ["run-c", "run-c"]


def test_who_launched_a_run_reads_its_notes_alone(
    node: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    two_runs(node)
    ended = {"run-a": {"state": "finished", "run": "run-a", "matched": {"bank-1": 3}}}
    replies = iter([{"run": "run-a", "from": 0, "network": False, "before": 0}, answer(node) | {"ended": ended}])
    monkeypatch.setattr(cli_nodes, "ask", lambda *_: next(replies))
    monkeypatch.setattr(cli_nodes, "role_config", lambda *_: SimpleNamespace(state="state"))
    path: Any = SimpleNamespace(resolve=lambda: "run.toml")
    cli_nodes.platform_launch(path, path, "li", True, False)
    said = capsys.readouterr()
    assert said.err.splitlines() == ["phase matching", "run run-a finished"]
    assert said.out.startswith("run run-a finished")


def test_a_status_that_shows_two_runs_says_whose_each_note_is(node: Any) -> None:
    two_runs(node)
    whole = list(cli_status._newest_notes(answer(node)))
    assert whole == [
        "connected",
        "run-a: phase matching",
        "run-b: phase matching",
        "run-b: end round 1",
        "run run-a finished",
    ]
    assert list(cli_status._newest_notes(answer(node, 2))) == whole[2:]
    node.notes = EventRing()
    node.say("phase training", "run-b")
    node.say("end round 2", "run-b")
    assert list(cli_status._newest_notes(answer(node))) == ["phase training", "end round 2"]


def test_phases_of_two_runs_at_once_are_timed_apart(node: Any) -> None:
    for seconds, what, run in (
        (1.0, "phase matching", "run-a"), (3.0, "phase matching", "run-b"), (6.0, "phase training", "run-a"),
        (7.0, "run run-b failed", "run-b"), (9.0, "run run-a finished", "run-a"),
    ):  # fmt: skip
        node.notes.add(seconds, what, run)
    tail = Tail(node)
    tail._hear()
    assert tail.phase_s == {"matching": (6.0 - 1.0) + (7.0 - 3.0), "training": 3.0}


def test_a_line_of_the_log_says_the_name_of_its_event_once() -> None:
    stream = io.StringIO()
    handler = open_log("text", "info", "platform", stream)
    try:
        for what, run in (("approved bank-1", "run-a"), ("phase matching", "run-a"), ("connected", "")):
            log_note("platform", what, run)
        log_note("platform", "run run-a finished")
    finally:
        close_log(handler)
    lines = [line.split(" ", 1)[1] for line in stream.getvalue().splitlines()]
    assert lines == [
        "info platform run-a approved bank-1", "info platform run-a phase matching", "info platform - connected",
        "info platform run-a run-finished run run-a finished",
    ]  # fmt: skip
