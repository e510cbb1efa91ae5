"""What may befall roads and clocks in the middle of a run: it ends finished with the same models, or failed by name everywhere.

The roads are real: gRPC with TLS through a relay. In `make test` windows are seconds; `make torture` has the full ones.
"""

import logging
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import worlds
from faults.failpoint_processes import run_with_full_disk
from faults.failpoint_runs import Outcome, undisturbed
from faults.failpoint_worlds import NETWORK, SCORECARD, Scene, scene_of
from faults.nemesis import WiredVillage, run_under
from torture import IS_TORTURE

from lianxin.parties.run_remedies import tell

JUMP_S = 600
only_torture = pytest.mark.skipif(not IS_TORTURE, reason="the counts of make torture are needed")


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


def _is_well(outcome: Outcome) -> None:
    assert outcome.struck and outcome.wrong == [] and outcome.end in ("finished", "failed"), (
        outcome.wrong,
        outcome.ended,
    )


def _said(outcome: Outcome) -> str:
    return " | ".join(tell(record) for record in outcome.ended.values() if record)


def _partition(village: WiredVillage, bank: str, seconds: float) -> None:
    village.proxies[bank].sever()
    time.sleep(seconds)
    village.proxies[bank].mend()


@pytest.mark.slow
def test_bytes_that_are_changed_doubled_and_swapped_a_short_partition_and_a_slow_road_change_nothing(
    scorecard: Scene,
) -> None:
    def mischief(village: WiredVillage) -> None:
        one, other = village.proxies["bank-1"], village.proxies["bank-2"]
        for how in ("changed by one bit", "twice", "in another order"):
            for proxy in (one, other):
                proxy.spoil(how)
            time.sleep(0.4)
        _partition(village, "bank-1", 1.5)
        other.slow(40_000)
        time.sleep(1.0)
        other.slow(0)

    outcome, village = run_under(scorecard, mischief, "roads", 12)
    _is_well(outcome)
    assert outcome.end == "finished"
    for proxy in village.proxies.values():
        assert proxy.spoiled == 3 and proxy.connections > 1


@pytest.mark.slow
@pytest.mark.parametrize("how", ["changed by one bit", "twice", "in another order"])
@pytest.mark.parametrize("nth", [8, 40, 90])
@only_torture
def test_a_spoiled_piece_anywhere_in_a_run_changes_nothing(scorecard: Scene, how: str, nth: int) -> None:
    outcome, village = run_under(
        scorecard, lambda village: village.proxies["bank-2"].spoil(how), f"spoilt-{how[:4].strip()}-{nth}", nth
    )
    _is_well(outcome)
    assert outcome.end == "finished" and village.proxies["bank-2"].spoiled == 1


@pytest.mark.slow
def test_a_partition_that_outlasts_the_window_ends_a_scorecard_by_name_at_all_nodes(scorecard: Scene) -> None:
    window_s, cut_s = (20.0, 60.0) if IS_TORTURE else (1.5, 4.0)
    outcome, _ = run_under(scorecard, lambda village: _partition(village, "bank-1", cut_s), "partition", 30, window_s)
    _is_well(outcome)
    assert outcome.end == "failed" and "bank-1" in _said(outcome)


@pytest.mark.slow
def test_a_partition_that_outlasts_the_window_leaves_a_network_to_end_as_all_nodes_say(network: Scene) -> None:
    window_s, cut_s = (20.0, 60.0) if IS_TORTURE else (1.5, 4.0)
    outcome, _ = run_under(network, lambda village: _partition(village, "bank-2", cut_s), "partition", 40, window_s)
    _is_well(outcome)


@pytest.mark.slow
@only_torture
def test_a_road_of_a_few_bytes_a_second_ends_the_run_by_name_at_all_nodes(scorecard: Scene) -> None:
    def mischief(village: WiredVillage) -> None:
        village.proxies["bank-2"].slow(8)
        time.sleep(90.0)
        village.proxies["bank-2"].slow(0)

    outcome, _ = run_under(scorecard, mischief, "slow", 30, 20.0, 300.0)
    _is_well(outcome)
    assert outcome.end == "failed" and "bank-2" in _said(outcome)


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["bank-1", "platform"])
@only_torture
def test_a_node_without_room_on_its_disk_ends_as_all_nodes_say_and_whole(scorecard: Scene, victim: str) -> None:
    _is_well(run_with_full_disk(scorecard, victim, f"full-{victim}", 10.0))


JUMPS = [("bank-1", JUMP_S), ("platform", -JUMP_S)]
MORE_JUMPS = [("bank-1", -JUMP_S), ("platform", JUMP_S), ("bank-2", JUMP_S)]


@pytest.mark.slow
@pytest.mark.parametrize(("party", "seconds"), JUMPS + (MORE_JUMPS if IS_TORTURE else []))
def test_a_clock_that_jumps_lets_nothing_cross_and_ends_the_run_by_its_rule(
    scorecard: Scene, party: str, seconds: int
) -> None:
    outcome, _ = run_under(scorecard, lambda village: village.jump(party, seconds), f"jump-{party}-{seconds}", 1)
    _is_well(outcome)
    assert outcome.end == "finished" or "T01" in _said(outcome), _said(outcome)
