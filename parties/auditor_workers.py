"""Two processes for an auditor who has much to read: the same work in parts, its results in the order of the parts.

What a worker returns is what one process would have returned; how many there are changes no verdict.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Any, TypeVar

from lianxin.parties.auditor_columns import Spread, here

MANY_BYTES = 40_000_000
WORKERS = 2
Task = TypeVar("Task")
Result = TypeVar("Result")


def workers_for(size: int, asked: int | None = None) -> int:
    """Return how many worker processes evidence of `size` bytes is worth; 0 is this process alone."""
    if asked is not None:
        return asked
    return WORKERS if size > MANY_BYTES and (os.cpu_count() or 1) > 1 else 0


@contextmanager
def pool_of(
    workers: int, start: Callable[..., None] | None = None, *given: Any
) -> Iterator[ProcessPoolExecutor | None]:
    """Give a pool of so many processes, None for none; each worker calls `start` with what is `given` first."""
    if not workers:
        yield None
        return
    with ProcessPoolExecutor(workers, get_context("forkserver"), initializer=start, initargs=given) as pool:
        yield pool


def spread_over(pool: ProcessPoolExecutor | None) -> Spread:
    """Return how the first reading is done: by the pool's workers, or here without one."""
    if pool is None:
        return here
    chosen = pool
    return lambda work, tasks: in_order(chosen, work, tasks)


def in_order(
    pool: ProcessPoolExecutor, work: Callable[[Task], Result], tasks: Sequence[Task], first: Sequence[int] = ()
) -> Iterator[Result]:
    """Yield each task's result in their order; the tasks at the places `first` are begun before the others."""
    futures: dict[int, Future[Result]] = {}
    for place in (*first, *(at for at in range(len(tasks)) if at not in set(first))):
        futures[place] = pool.submit(work, tasks[place])
    try:
        for place in range(len(tasks)):
            yield futures.pop(place).result()
    finally:
        for future in futures.values():
            future.cancel()
