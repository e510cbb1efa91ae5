"""Nodes as processes of their own on gRPC: the same bytes as in memory, and what becomes of a run when one dies.

Every test stops the processes that it started, by their ids, and no others; all traffic is on the loopback interface.
"""

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import worlds
from torture import ONLY
from worlds import World

from lianxin.parties.auditor import PARTY_CHECKS, verify_run
from lianxin.simulations.layout import RUN, Layout
from lianxin.simulations.replay import replay_run
from lianxin.simulations.runner import Processes, Ran, free_address, run_as_processes
from lianxin.simulations.tables import Inputs

finished, province = worlds.finished, worlds.province
DEADLINE_S = 240.0
DEAD, SURVIVORS = "bank-2", ("platform", "bank-1", "bank-3")


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    """A province with a platform and three banks."""
    return worlds.tables_of(tmp_path_factory.mktemp("four"), firms=400, banks=3, loans=120)


@pytest.fixture(scope="module")
def five(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    """A province with a platform and four banks, whose sums are opened without one of them."""
    return worlds.tables_of(tmp_path_factory.mktemp("five"), firms=400, banks=4, loans=120)


@pytest.fixture
def nodes(four: Inputs, tmp_path: Path) -> Iterator[Callable[..., Processes]]:
    """Lay out and start four nodes, or those of other tables; whatever is left of them ends with the test."""
    started: list[Processes] = []

    def start(inputs: Inputs = four, **terms: Any) -> Processes:
        started.append(Processes(worlds.lay(tmp_path / "run", inputs, free_address(), **worlds.SHORT, **terms)))
        started[-1].start()
        return started[-1]

    yield start
    for group in started:
        group.stop()


def logs_of(layout: Layout) -> str:
    return "".join((layout.home(party) / "node.log").read_text() for party in layout.parties)


def kill_after(group: Processes, last: str) -> Callable[[str], None]:
    """Return a watcher that kills one bank, by its process id, when the platform notes `last`."""

    def watch(note: str) -> None:
        if note == last:
            group.kill(DEAD)

    return watch


def run_killing(group: Processes, last: str) -> Ran:
    group.launch()
    return group.wait(kill_after(group, last), DEADLINE_S)


def without_the_dead(layout: Layout, folder: Path) -> Path:
    """Return a copy of the survivors' evidence: the folder of a bank that died holds none."""
    for party in SURVIVORS:
        shutil.copytree(layout.home(party) / "evidence", folder / "parties" / party / "evidence")
    return folder


def assert_survivors_verify(layout: Layout, folder: Path) -> None:
    """Check that nothing is wrong with the survivors' evidence but that one party's is not there."""
    verdict = verify_run(without_the_dead(layout, folder))
    holding = {(check.name, check.subject) for check in verdict.checks if check.ok}
    assert {(name, party) for name in PARTY_CHECKS for party in SURVIVORS} <= holding
    assert [(check.name, check.detail.split(":")[0]) for check in verdict.failures] == [("parties", DEAD)]


def attempts_of(evidence: Path) -> list[tuple[int, int]]:
    """Return the (round, attempt) of each conversation of a round, in the order of a bank's ledger."""
    names = [leaf["conversation"].split("/") for leaf in worlds.leaves_in(evidence, "envelope")]
    return list(dict.fromkeys((int(name[3]), int(name[4])) for name in names if name[2:3] == ["round"]))


def test_processes_on_grpc_give_the_transcript_of_the_same_seed_in_memory_and_replay_equal(
    finished: World, province: Inputs, tmp_path: Path
) -> None:
    layout = worlds.lay(tmp_path / "run", province, free_address())
    ran = run_as_processes(layout)
    assert len(set(ran.pids.values())) == 3
    assert ran.summary["transcript_sha256"] == finished.ran.summary["transcript_sha256"]
    assert ran.bytes_sent == finished.ran.bytes_sent
    assert verify_run(layout.folder).failures == ()
    with worlds.known_keys():
        assert replay_run(layout.folder).transcript_sha256 == ran.summary["transcript_sha256"]
    assert "Traceback" not in logs_of(layout)


def test_a_bank_killed_mid_round_is_dropped_and_the_round_runs_again_with_the_others(
    nodes: Callable[..., Processes], tmp_path: Path
) -> None:
    group = nodes(minimums={"on_loss": "rerun", "spare_attempts": 2, "max_bins": 3}, revoked_firms=0)
    ran = run_killing(group, "begin round 2")
    group.stop()
    layout = group.layout
    notes = [note for _, note in ran.events]
    assert f"lost {DEAD}" in notes and "end round 3" in notes
    assert ran.summary["state"] == "finished" and set(ran.summary["scored"]) == {"bank-1", "bank-3"}
    made = attempts_of(layout.home("bank-1") / "evidence")
    assert [one for one in made if one != (2, 1)] == [
        (1, 0),
        (2, 2),
        (3, 3),
    ]  # it may be gone before the sum's first stage
    assert_survivors_verify(layout, tmp_path / "audit")
    assert "Traceback" not in logs_of(layout)


@ONLY
def test_of_four_banks_one_is_killed_mid_round_and_the_round_is_opened_with_the_three_that_stay(
    nodes: Callable[..., Processes], five: Inputs
) -> None:
    group = nodes(five, minimums={"on_loss": "rerun", "spare_attempts": 0, "max_bins": 3}, revoked_firms=0)
    ran = run_killing(group, "begin round 2")
    group.stop()
    layout, left = group.layout, ["bank-1", "bank-3", "bank-4"]
    assert ran.summary["state"] == "finished" and sorted(ran.summary["scored"]) == left
    for bank in left:  # nobody computes the round a second time, and no spare attempt was there for it
        assert attempts_of(layout.home(bank) / "evidence") == [(1, 0), (2, 1), (3, 2)]
    notes = [note for _, note in ran.events]
    assert notes.index("end round 2") < notes.index(f"lost {DEAD}") < notes.index("end round 3")
    assert "Traceback" not in logs_of(layout)


def test_a_bank_killed_mid_round_stops_a_run_whose_contract_says_so_in_one_sentence(
    nodes: Callable[..., Processes], tmp_path: Path
) -> None:
    group = nodes(minimums={"on_loss": "stop", "spare_attempts": 0, "max_bins": 3}, revoked_firms=0)
    layout = group.layout
    command = [sys.executable, "-m", "lianxin.parties.cli", "platform", "launch", str(layout.folder / "run.toml")]
    command += ["--node", str(layout.home("platform") / "node.toml")]
    launched = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        _follow(group, kill_after(group, "end round 1"))
        _, said = launched.communicate(timeout=DEADLINE_S)
    finally:
        launched.kill()
        launched.wait()
    group.stop()
    last = said.strip().splitlines()[-1]
    assert launched.returncode in (3, 4)
    assert DEAD in last and "Traceback" not in said + logs_of(layout)
    ends = {party: worlds.leaves_in(layout.home(party) / "evidence", "contract")[-1]["event"] for party in SURVIVORS}
    assert set(ends.values()) == {"failed"}
    assert_survivors_verify(layout, tmp_path / "audit")


def _follow(group: Processes, watch: Callable[[str], None]) -> None:
    seen, until = 0, time.monotonic() + DEADLINE_S
    while time.monotonic() < until:
        answer = group.ask("platform", {"do": "status", "from": seen})
        for _, note in answer["events"]:
            watch(note)
        seen = answer["next"]
        if RUN in answer["ended"]:
            return
        time.sleep(0.05)
    raise AssertionError("the run did not end")
