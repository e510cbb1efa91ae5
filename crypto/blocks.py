"""The seam between the maths and whoever lends processors: fixed blocks through a `concurrent.futures.Executor`.

Work is cut into blocks whose size never depends on the number of workers, and each block's randomness is derived from
its own index, so that the bytes are the same inline, on one worker or on twenty (protocols.md, section 2). The work is
a top-level function of plain integers and bytes: worker processes get nothing else, and rebuild tables from that key
material once per process. A secret key's integers reach only workers that its owner started.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from typing import TypeVar

import gmpy2

from lianxin.crypto.randomness import SEED_BYTES, Drbg, derive_seed

Item = TypeVar("Item")
Result = TypeVar("Result")
_IN_FLIGHT = 32


def share_processors() -> None:
    """Let this thread's long GMP operations run beside other threads: a powmod then holds no interpreter lock.

    Worth it where several threads exponentiate; short multiplications in many threads gain little.
    """
    gmpy2.get_context().allow_release_gil = True


def cut_blocks(items: Sequence[Item], size: int) -> list[Sequence[Item]]:
    """Return `items` as consecutive slices of `size`, the last one shorter."""
    return [items[start : start + size] for start in range(0, len(items), size)]


def block_seeds(drbg: Drbg, count: int) -> list[bytes]:
    """Return one 32-byte seed a block, all under 32 bytes taken from `drbg`.

    Taking those bytes moves the stream on: a second call with the same generator gives other seeds, so that nobody
    reuses a randomiser by passing one generator twice.
    """
    root = drbg.bytes(SEED_BYTES)
    return [derive_seed(root, "block", index) for index in range(count)]


def run_blocks(
    work: Callable[..., Result], shared: tuple, blocks: Iterable[tuple], executor: Executor | None
) -> Iterator[Result]:
    """Yield `work(*shared, *block)` for each block, in order; without an executor in this thread.

    At most 32 blocks are in flight, which bounds memory by the block and not by the input; those that have not begun
    when one fails are cancelled.
    """
    if executor is None:
        yield from (work(*shared, *block) for block in blocks)
        return
    waiting: deque[Future[Result]] = deque()
    try:
        for block in blocks:
            waiting.append(executor.submit(work, *shared, *block))
            if len(waiting) >= _IN_FLIGHT:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
