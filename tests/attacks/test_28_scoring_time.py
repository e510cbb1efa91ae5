"""Row 28, what an answer's time tells: of a firm without a score a bank learns by the clock no more than by the bytes.

The attacker is a bank that times each request from the message that it sends to the one that comes, over firms that have
consented, firms that have not, and firms that the platform does not know, in mixed order. Welch's t between each two of the
three stays under 4.5, the threshold of the TVLA tests (Goodwill et al. 2011), of the seconds and of their ranks, which a
few slow answers of a busy machine do not blur. The same attack works on a desk that answers at once where there is nothing
to release and that keeps no schedule; there the attacker asks on, up to a bound, until the clock has told.
"""

import statistics
import time
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from random import Random
from typing import Any

import pytest
import scoring_world
from scoring_world import RUN, Scene
from torture import repeats

from lianxin.federation import scoring
from lianxin.federation.scoring import Answer
from lianxin.parties import score_platform
from lianxin.parties.identifiers import is_uscc
from lianxin.simulations import scoring_scene
from lianxin.simulations.bench_matching import firm_code
from lianxin.simulations.scoring_scene import TREES

LIMIT = 4.5
QUICK = 150  # requests of all three kinds together in `make test`
WARM_UP = 12
CONTROL = 90
CONTROL_ROUNDS = 8  # the most times that the attacker of the control asks `CONTROL` requests more


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with scoring_world.running(scoring_world.lay(tmp_path)) as running:
        yield running


def told(one: list[float], other: list[float]) -> float:
    """Return the larger of Welch's t of the seconds and of their ranks (Conover and Iman 1981)."""
    order = {seconds: rank for rank, seconds in enumerate(sorted({*one, *other}))}
    ranks = [[float(order[seconds]) for seconds in kind] for kind in (one, other)]
    return max(welch(one, other), welch(*ranks))


def welch(one: list[float], other: list[float]) -> float:
    spread = statistics.variance(one) / len(one) + statistics.variance(other) / len(other)
    return abs(statistics.fmean(one) - statistics.fmean(other)) / spread**0.5


def kinds_of(scene: Scene) -> dict[str, list[str]]:
    known = set(scene.platform.table.identifiers)
    strangers = [code for code in map(firm_code, range(80)) if is_uscc(code) and code not in known]
    return {"score": scene.fresh(80), "silent": scene.silent(80), "stranger": strangers}


def kinds_of_trees(scene: Scene) -> dict[str, list[str]]:
    """Return firms whose sides may be told, firms that have consented to scores alone, and firms nobody knows."""
    known = scene.platform.table.identifiers
    told = scoring_scene.tells_sides(known)
    alone = [firm for firm in scoring_scene.consented(known) if firm not in set(told)]
    return kinds_of(scene) | {"score": told[:60], "silent": alone[:60]}


def timed(
    scene: Scene, count: int, kinds: dict[str, list[str]] | None = None, model: str = RUN
) -> dict[str, list[float]]:
    """Return the seconds of `count` requests by kind; a firm is asked about in turn, the kinds in mixed order."""
    kinds, draw, found = kinds or kinds_of(scene), Random(28), dict[str, list[float]]()
    order = [kind for kind in kinds for _ in range(count // 3)]
    draw.shuffle(order)
    for place, kind in enumerate([*list(kinds) * (WARM_UP // 3), *order]):
        firm = kinds[kind][place % len(kinds[kind])]
        seconds = _one(scene, firm, model)
        if place >= WARM_UP:
            found.setdefault(kind, []).append(seconds)
    return found


def _one(scene: Scene, firm: str, model: str) -> float:
    road = scene.asker._open_road()
    times: list[float] = []
    honest_send, honest_receive = road.channel.send, road.channel.receive

    def send(data: bytes) -> None:
        times.append(time.perf_counter())
        honest_send(data)

    def receive(deadline_s: float) -> bytes:
        data = honest_receive(deadline_s)
        times.append(time.perf_counter())
        return data

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(road.channel, "send", send)
        patch.setattr(road.channel, "receive", receive)
        scene.asker.parts([firm], [model], scoring_world.ASKER)
    return times[1] - times[0]


def worst(times: dict[str, list[float]]) -> float:
    return max(told(times[one], times[other]) for one, other in combinations(sorted(times), 2))


def test_the_time_of_an_answer_does_not_tell_who_has_consented_or_is_known(scene: Scene) -> None:
    count = min(len(repeats("scoring time", QUICK)), 2_001)
    times = timed(scene, count)
    assert set(times) == {"score", "silent", "stranger"}
    assert worst(times) < LIMIT


def test_nor_does_the_time_of_an_answer_about_trees(tmp_path: Path) -> None:
    with scoring_world.running(scoring_world.lay(tmp_path, trees=True)) as scene:
        count = min(len(repeats("scoring time of trees", QUICK)), 2_001)
        kinds = kinds_of_trees(scene)
        times = timed(scene, count, kinds, TREES)
        assert [scene.ask(kinds[kind][0], models=(TREES,)).by_firm[kinds[kind][0]] != (None,) for kind in kinds] == [
            True, False, False,
        ]  # fmt: skip
    assert set(times) == {"score", "silent", "stranger"}
    assert worst(times) < LIMIT


def test_with_an_early_exit_and_without_the_schedule_it_does(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    desk = scene.desk
    honest = desk._answer_request
    (anybody,) = scene.fresh()
    last: list[Any] = []

    def early(talk: Any, asked: Any) -> Answer:
        allowed = {one.subject for one in scene.platform.node.register.registry().consents.values()}
        keys = {scene.platform.node.boundary.subject_key(firm) for firm in asked.firms}
        if keys & allowed or not last:
            last[:] = [honest(talk, asked)]
            return last[0]
        return Answer(scoring.NOTHING * len(asked.firms), last[0].right)

    monkeypatch.setattr(desk, "_answer_request", early)
    monkeypatch.setattr(score_platform.Paced, "send", lambda self, data: self._channel.send(data))
    scene.asker._hang_up()
    assert scene.has(anybody)
    assert _is_told(scene)


def _is_told(scene: Scene) -> bool:
    kinds = kinds_of(scene)
    times: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(CONTROL_ROUNDS):
        for kind, seconds in timed(scene, CONTROL, kinds).items():
            times[kind] += seconds
        if min(told(times["score"], times[kind]) for kind in ("silent", "stranger")) > LIMIT:
            return True
    return False
