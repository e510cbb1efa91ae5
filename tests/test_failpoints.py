"""Faults at every durable step: a small run under each ends in time, at all nodes alike, and leaves nothing impossible.

In `make test` each place is struck once in memory, with actions in turn, and a few nodes are killed as processes; in `make
torture` all places meet all actions, three times each. What was struck is printed as a table; a place that nothing reached
is a failure.
"""

import ast
import errno
import logging
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import worlds
from conversations import contract_of
from faults import failpoint_report as report
from faults.failpoint_processes import run_as_processes
from faults.failpoint_runs import PLACES, Outcome, run_in_memory, undisturbed
from faults.failpoint_worlds import NETWORK, SCORECARD, Scene, scene_of
from sqlalchemy.exc import OperationalError
from torture import IS_TORTURE

from lianxin.crypto import failpoints
from lianxin.federation import grid
from lianxin.federation.apps import EnsembleStrategy, record_of
from lianxin.federation.errors import InputFault, PeerGone, RunStopped
from lianxin.federation.grid import PartyGrid
from lianxin.parties import bank_worker, platform, platform_turns
from lianxin.parties.failpoints_armed import ACTIONS, VARIABLE, Fault, Panic, arm_for, parse_fault
from lianxin.parties.run_remedies import tell

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("crypto", "federation", "parties")
SEEDS = range(3) if IS_TORTURE else range(1)
IN_MEMORY = ("panic", "delay", "eio", "enospc")
QUICK = {place: ("panic", "enospc", "eio")[number % 3] for number, place in enumerate(PLACES)}
OUTLIVED = (  # what a run outlives may strike together: in make test these are two runs instead of ten
    ("consent-write/before", "consent-write/after", "snapshot-root/before", "snapshot-root/after",
     "checkpoint-sign/before", "model-write/before"),
    ("checkpoint-sign/after", "witness-answer/before", "model-write/after"),
    ("witness-answer/after",),
)  # fmt: skip
ENDING = [place for place in PLACES if IS_TORTURE or not any(place in one for one in OUTLIVED)]
KILLED = (
    (NETWORK, "bank-2", "envelope-send/after", 9),
    (SCORECARD, "bank-1", "model-write/before", 1),
    (SCORECARD, "platform", "witness-answer/after", 1),
)


# ---- where the places are


def _reached() -> Iterator[tuple[str, str]]:
    for room in ROOMS:
        for path in sorted((ROOT / room).glob("*.py")):
            for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "reach":
                    (said,) = call.args
                    assert isinstance(said, ast.Constant), f"{path.name}: a failpoint's name is written out"
                    yield path.name, said.value


def test_each_of_the_ten_points_has_a_before_and_an_after_and_there_are_no_others() -> None:
    assert {name for _, name in _reached()} == set(PLACES)
    assert len(PLACES) == 20


def test_a_place_that_is_not_armed_does_nothing_and_an_armed_one_strikes_once_at_its_turn() -> None:
    failpoints.reach("decrypt/before")
    fault = Fault("decrypt/before", "panic", 2)
    failpoints.arm(fault)
    try:
        failpoints.reach("decrypt/before")
        failpoints.reach("decrypt/after")
        with pytest.raises(Panic):
            failpoints.reach("decrypt/before")
        failpoints.reach("decrypt/before")
    finally:
        failpoints.arm(None)
    assert fault.hits == {"decrypt/before": 3, "decrypt/after": 1} and fault.has_struck


# ---- arming by the environment


def test_a_node_of_a_trial_reads_its_fault_from_the_environment() -> None:
    assert arm_for("trial", {}) is None
    try:
        fault = arm_for("trial", {VARIABLE: "revoke/after:enospc:3"})
        assert str(fault) == "revoke/after:enospc:3"
    finally:
        failpoints.arm(None)


def test_a_production_node_does_not_start_while_a_fault_is_set() -> None:
    with pytest.raises(InputFault, match=r"LIANXIN_FAILPOINT is set, .* unset it and start again"):
        arm_for("production", {VARIABLE: "revoke/after:enospc:3"})


@pytest.mark.parametrize(
    "text", ["", "revoke", "revoke/after", "revoke/after:boom:1", "revoke/during:eio:1", "other/after:eio:1",
             "revoke/after:eio:0", "revoke/after:eio:-1", "revoke/after:eio:1e3", "revoke/after:eio:١"],
)  # fmt: skip
def test_a_text_that_is_no_fault_is_refused_in_one_sentence(text: str) -> None:
    with pytest.raises(InputFault, match="LIANXIN_FAILPOINT is no fault: write POINT/before"):
        parse_fault(text)


# ---- whole runs


@pytest.fixture(scope="module")
def struck() -> Iterator[list[Outcome]]:
    """What came of every run of this module, told at its end."""
    outcomes: list[Outcome] = []
    yield outcomes
    report.tell(outcomes)


@pytest.fixture(autouse=True)
def faults_are_quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def _scene(kind: str, folder: Path) -> Scene:
    scene = scene_of(kind, folder)
    undisturbed(scene)
    return scene


@pytest.fixture(scope="module")
def scorecard(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return worlds._once("failpoints/scorecard", lambda: _scene(SCORECARD, tmp_path_factory.mktemp("scorecard")))


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return worlds._once("failpoints/network", lambda: _scene(NETWORK, tmp_path_factory.mktemp("network")))


def _nth(scene: Scene, place: str, seed: int) -> int:
    """Return at which of its times a place is struck: the first, one in the middle, the last that an undisturbed run has."""
    hits = scene.hits.get(place, 0)
    return (1, max(1, hits // 2), max(1, hits))[seed % 3]


def _check(outcome: Outcome, struck: list[Outcome]) -> None:
    struck.append(outcome)
    assert outcome.struck, f"nothing reached {outcome.fault}"
    assert outcome.wrong == [], outcome.wrong
    assert outcome.end in ("finished", "failed")


@pytest.mark.slow
def test_an_undisturbed_run_reaches_every_place(scorecard: Scene) -> None:
    assert {place for place in PLACES if not scorecard.hits.get(place)} == set()


class Several(Fault):
    """More than one fault in one run; it has struck when each of them has."""

    def __init__(self, faults: list[Fault]) -> None:
        super().__init__("+".join(map(str, faults)), "panic")
        self.faults = faults

    def __call__(self, name: str) -> None:
        for fault in self.faults:
            fault(name)
        self.has_struck = all(fault.has_struck for fault in self.faults)


@pytest.mark.slow
@pytest.mark.skipif(IS_TORTURE, reason="make torture strikes each place in a run of its own")
@pytest.mark.parametrize("number", range(len(OUTLIVED)))
def test_a_run_outlives_faults_at_its_start_and_at_its_end(
    scorecard: Scene, struck: list[Outcome], number: int
) -> None:
    faults = [Fault(place, QUICK[place]) for place in OUTLIVED[number]]
    outcome = run_in_memory(scorecard, Several(faults), f"outlived-{number}")
    struck += [replace(outcome, fault=str(fault), struck=fault.has_struck) for fault in faults]
    assert all(fault.has_struck for fault in faults), [str(one) for one in faults if not one.has_struck]
    assert outcome.wrong == [] and outcome.end == "finished", (outcome.wrong, outcome.ended)


@pytest.mark.slow
@pytest.mark.parametrize("place", ENDING)
def test_a_run_under_a_fault_ends_finished_or_failed_by_name_at_all_nodes(
    scorecard: Scene, struck: list[Outcome], place: str
) -> None:
    for seed in SEEDS:
        for action in IN_MEMORY if IS_TORTURE else (QUICK[place],):
            fault = Fault(place, action, _nth(scorecard, place, seed))
            outcome = run_in_memory(scorecard, fault, f"{place.replace('/', '-')}-{action}-{seed}")
            _check(outcome, struck)
            if action == "delay":
                assert outcome.end == "finished"


@pytest.mark.slow
def test_delays_at_all_places_of_one_run_change_nothing(scorecard: Scene, struck: list[Outcome]) -> None:
    class Slow(Fault):
        def __call__(self, name: str) -> None:
            with self._lock:
                self.hits[name] += 1
                is_first = self.hits[name] == 1
            self.has_struck = True
            if is_first:
                ACTIONS["delay"]()

    outcome = run_in_memory(scorecard, Slow("all/places", "delay"), "slow")
    _check(outcome, struck)
    assert outcome.end == "finished"


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "victim", "place", "nth"), KILLED, ids=lambda one: str(one).replace("/", "-"))
def test_a_process_killed_at_a_place_and_started_again_ends_as_all_others_do(
    request: pytest.FixtureRequest, struck: list[Outcome], kind: str, victim: str, place: str, nth: int
) -> None:
    scene: Scene = request.getfixturevalue(kind)
    outcome = run_as_processes(scene, victim, f"{place}:sigkill:{nth}", f"killed-{kind}-{place.replace('/', '-')}")
    _check(outcome, struck)
    if kind == NETWORK:
        assert outcome.end == "finished", outcome.ended
    if place == "model-write/before":
        assert outcome.end == "failed" and "bank-1 left the run" in outcome.ended["platform"]["error"], outcome.ended


@pytest.mark.slow
def test_a_bank_that_cannot_write_its_model_fails_the_run_at_all_nodes_and_no_model_stays(
    scorecard: Scene, struck: list[Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    write, tried = bank_worker.write_result, list[str]()

    def writing(node: Any, run: Any) -> None:
        if node.party == "bank-1":
            tried.append(node.party)
            raise OSError(errno.ENOSPC, "no space left")
        write(node, run)

    monkeypatch.setattr(bank_worker, "write_result", writing)
    outcome = run_in_memory(scorecard, Fault("nowhere/before", "panic"), "no-room-for-a-model")
    assert outcome.wrong == [] and outcome.end == "failed", (outcome.wrong, outcome.ended)
    assert tried == ["bank-1"] * 2 and "bank-1 could not write its model" in outcome.ended["bank-1"]["error"]
    assert outcome.ended["platform"]["party"] == "bank-1"


@pytest.mark.slow
def test_a_platform_whose_disk_takes_nothing_ends_a_run_as_soon_as_it_does(
    scorecard: Scene, struck: list[Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    end, tries = platform.PlatformNode._end, list[str]()

    def full(*_: Any) -> None:
        with closing(sqlite3.connect(":memory:")) as base:
            base.execute("pragma max_page_count = 1")
            try:
                base.execute("create table one (it)")
            except sqlite3.OperationalError as fault:
                raise OperationalError("insert", None, fault) from fault

    def ending(node: Any, contract: Any, sessions: Any, state: str, *more: Any) -> None:
        tries.append(state)
        if len(tries) < 3:
            full()
        end(node, contract, sessions, state, *more)

    monkeypatch.setattr(platform, "keep_plan", full)
    monkeypatch.setattr(platform.PlatformNode, "_end", ending)
    monkeypatch.setattr(platform_turns, "END_AGAIN_S", 0.02)
    outcome = run_in_memory(scorecard, Fault("nowhere/before", "panic"), "platform-full", 20.0)
    assert outcome.wrong == [] and outcome.end == "failed" and tries == ["failed"] * 3, (outcome.wrong, tries)
    said = tell(outcome.ended["platform"])
    assert (
        "failed at platform in agreement" in said and "disk under this node's state folder failed (SQLITE_FULL)" in said
    )


class Seats(PartyGrid):
    """A grid whose banks answer at once, but for one that is lost when it is to evaluate."""

    def __init__(self, banks: Sequence[str], gone: str) -> None:
        super().__init__(dict.fromkeys(banks), 0.0)  # type: ignore[arg-type]
        self.gone = gone

    def send_and_receive(self, messages: Any, *, timeout: float | None = None) -> list[Any]:
        return [self._said(message) for message in messages]

    def _said(self, message: Any) -> Any:
        bank, kind = self.banks[message.metadata.dst_node_id], message.metadata.message_type
        if (kind, bank) != ("evaluate", self.gone):
            return grid._answer(message, content=record_of({}, {"stopped": 1} if kind == "train" else {}, {}))
        self.lost[bank] = PeerGone("it went away")
        return grid._answer(message, error=grid.Error(code=grid.LOST, reason="L01"))


@pytest.mark.parametrize(
    ("terms", "goes_on"),
    [
        pytest.param({"on_loss": "stop"}, False, id="stop"),
        pytest.param({"on_loss": "rerun", "min_banks": 3}, False, id="rerun-below-its-floor"),
        pytest.param({"on_loss": "rerun", "min_banks": 2}, True, id="rerun-with-enough-left"),
    ],
)
def test_a_bank_lost_at_its_evaluation_counts_as_one_lost_in_a_round(terms: dict[str, Any], goes_on: bool) -> None:
    contract = contract_of(3, model="boosted_trees", trees=2, **terms)
    told, steps = list[Any](), mock.Mock()
    steps.evaluated.side_effect = lambda replies: told.append(sorted(replies))
    with nullcontext() if goes_on else pytest.raises(RunStopped, match="bank-2 left the run: it went away"):
        EnsembleStrategy(contract, steps).start(Seats(contract.banks, "bank-2"))
    assert told == ([["bank-1", "bank-3"]] if goes_on else [])
    steps.drop_round.assert_called_once_with(["bank-2"])


@pytest.mark.slow
@pytest.mark.skipif(not IS_TORTURE, reason="the counts of make torture are needed")
@pytest.mark.parametrize("place", PLACES)
def test_processes_killed_at_every_place(request: pytest.FixtureRequest, struck: list[Outcome], place: str) -> None:
    for seed in SEEDS:
        scene: Scene = request.getfixturevalue(SCORECARD)
        victims = report.victims_of(scene, place)
        victim, hits = victims[seed % len(victims)]
        nth = (1, max(1, hits // 2), hits)[seed % 3]
        name = f"each-{place.replace('/', '-')}-{seed}"
        _check(run_as_processes(scene, victim, f"{place}:sigkill:{nth}", name), struck)


def test_the_table_of_what_was_struck_names_a_place_that_nothing_reached() -> None:
    said: list[dict[str, Any]] = report.table(
        [Outcome("decrypt/after:panic:1", SCORECARD, struck=True, states={"a": "failed"})]
    )
    by_place = {row["place"]: row for row in said}
    assert by_place["decrypt/after"]["struck"] == 1 and by_place["decrypt/after"]["failed"] == 1
    assert by_place["revoke/before"]["struck"] == 0
