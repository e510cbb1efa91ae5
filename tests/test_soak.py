"""What a soak says of nodes that grow and of those that do not; in torture, some dozens of runs that leave nothing behind."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torture import IS_TORTURE

from lianxin.federation.errors import InputFault
from lianxin.simulations import bench_soak
from lianxin.simulations.bench_soak import FLAT_KB_A_RUN, Asked, Reading, draw, explain, fit_slope, lines_of


def noise(count: int, seed: int) -> np.ndarray[Any, Any]:
    """Readings of an allocator that wanders: neighbouring ones hang together."""
    steps = np.random.default_rng(seed).normal(0, 400, count)
    wander = np.zeros(count)
    for at in range(1, count):
        wander[at] = 0.8 * wander[at - 1] + steps[at]
    return 300_000 + wander


def test_a_slope_is_found_inside_its_interval_and_none_where_there_is_none() -> None:
    flat = [fit_slope(noise(200, seed)) for seed in range(100)]
    assert sum(one["low"] <= 0 <= one["high"] for one in flat) >= 85
    leaking = [fit_slope(noise(200, seed) + 64 * np.arange(200)) for seed in range(100)]
    assert sum(one["low"] <= 64 <= one["high"] for one in leaking) >= 85
    assert all(one["low"] > FLAT_KB_A_RUN for one in leaking)


def test_a_warm_up_that_ends_is_no_slope() -> None:
    values = np.concatenate([np.linspace(200_000, 300_000, 50), noise(150, 3)])
    assert fit_slope(values[50:])["low"] < FLAT_KB_A_RUN < fit_slope(values)["low"]


def leaves(runs: int, odd: dict[int, list[dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    yield {"kind": "registry", "run": ""}
    for number in range(runs):
        run = f"soak-{number}"
        yield {"kind": "contract", "event": "proposed", "run": run}
        yield from ({"kind": "envelope", "run": run} for _ in range(5))
        yield from odd.get(number, [])


def test_leaves_of_the_usual_course_are_explained() -> None:
    told = explain(leaves(6, {}))
    assert told["unexplained"] == {} and told["runs"] == 6 and told["leaves"] == 37
    assert told["a_run"] == {"contract proposed": 1, "envelope": 5} and told["of_no_run"] == {"registry": 1}


@pytest.mark.parametrize(
    ("leaf", "named"),
    [
        ({"kind": "refusal", "run": "", "rule": "I04"}, ["refusal I04"]),
        ({"kind": "alarm", "run": "", "rule": "T01"}, ["alarm T01"]),
        ({"kind": "envelope", "run": "soak-2"}, ["another course: soak-2"]),
        ({"kind": "refusal", "run": "soak-2", "rule": "L13"}, ["refusal L13", "another course: soak-2"]),
    ],
)
def test_whatever_else_is_in_a_ledger_is_unexplained(leaf: dict[str, Any], named: list[str]) -> None:
    assert list(explain(leaves(6, {2: [leaf]}))["unexplained"]) == named


def test_another_model_is_refused_in_a_sentence() -> None:
    with pytest.raises(InputFault, match="a soak is of one of logistic, scorecard"):
        bench_soak.check_model("mlp")


def test_the_picture_is_the_same_for_the_same_readings() -> None:
    readings = {"all nodes": [Reading(300_000 + 10 * n, 40, 45) for n in range(20)]}
    assert draw(readings, 5) == draw(readings, 5) and draw(readings, 5).startswith(b"<?xml")


@pytest.mark.skipif(not IS_TORTURE, reason="the counts of make torture are needed")
def test_dozens_of_runs_through_the_same_nodes_leave_nothing_behind(tmp_path: Path) -> None:
    record = bench_soak.bench_soak(Asked(runs=60), tmp_path / "soak", lambda _: None)
    one = record["nodes"][bench_soak.ALL]
    assert record["flat"], lines_of(record)
    assert one["files"]["last"] <= one["files"]["warm"] + 2 and one["threads"]["last"] <= one["threads"]["warm"] + 2
    assert all(ledger["unexplained"] == {} and ledger["runs"] == 60 for ledger in record["ledgers"].values())
