"""Workers: what the node waits for is counted, what is made ahead asks for a processor to spare, and both are answered."""

import threading
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

import pytest

from lianxin.crypto.pool import BLOCK, CountedPlaces, RandomiserPool
from lianxin.crypto.randomness import Drbg, derive_seed, derive_seeds
from lianxin.parties.idle import IdleFiller
from lianxin.parties.workers import Workers, processes_of


class Held(Executor):
    """Processes that answer when the test says so."""

    def __init__(self) -> None:
        self.futures: list[Future[Any]] = []

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        if fn is print:
            raise RuntimeError("the processes are gone")
        self.futures.append(Future())
        return self.futures[-1]


def test_a_process_is_to_spare_while_fewer_answers_are_awaited_than_there_are_processes() -> None:
    behind = Held()
    workers = Workers(behind, 2)
    assert workers.wait_until_spare(0)
    workers.submit(len, "")
    assert workers.wait_until_spare(0)
    workers.submit(len, "")
    assert not workers.wait_until_spare(0)
    behind.futures[0].set_result(0)
    assert workers.wait_until_spare(0)


def test_what_was_cancelled_failed_or_never_taken_is_awaited_no_more() -> None:
    behind = Held()
    workers = Workers(behind, 1)
    workers.submit(len, "").cancel()
    assert workers.wait_until_spare(0)
    workers.submit(len, "")
    behind.futures[1].set_exception(ValueError())
    assert workers.wait_until_spare(0)
    with pytest.raises(RuntimeError):
        workers.submit(print)
    assert workers.wait_until_spare(0)


class Source:
    """Draws whatever it is asked for, and says so."""

    def __init__(self) -> None:
        self.drew = threading.Event()

    def draw_many(self, count: int, drbg: Drbg, executor: Executor | None = None) -> list[int]:
        self.drew.set()
        return [drbg.bits(64) for _ in range(count)]


def test_nothing_is_made_ahead_while_every_worker_has_what_the_node_waits_for() -> None:
    behind, source = Held(), Source()
    workers = Workers(behind, 1)
    pool = RandomiserPool(source, b"s" * 32, CountedPlaces(), 4 * BLOCK, processes_of(workers))  # type: ignore[arg-type]
    pool.planned = BLOCK
    workers.submit(len, "")
    filler = IdleFiller(workers)
    filler.start(pool)
    try:
        assert not source.drew.wait(0.3) and pool.ready == 0
        behind.futures[0].set_result(0)
        assert source.drew.wait(5)
    finally:
        filler.stop()


def test_the_processes_behind_end_with_the_workers_and_another_executor_is_its_own() -> None:
    with ThreadPoolExecutor(1) as threads:
        workers = Workers(threads, 1)
        assert workers.submit(len, "abc").result(5) == 3
        assert processes_of(workers) is threads is processes_of(threads) and processes_of(None) is None
        workers.shutdown()
        with pytest.raises(RuntimeError):
            threads.submit(len, "")


def test_many_seeds_under_one_label_are_those_that_are_derived_one_by_one() -> None:
    lasts = ["", "a", "firm", b"a", 7, "x" * 200]
    assert derive_seeds(b"s" * 32, "firm", lasts) == [derive_seed(b"s" * 32, "firm", last) for last in lasts]
