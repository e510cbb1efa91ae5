"""The seam between the maths and whoever lends processors: blocks of work through a `concurrent.futures.Executor`.

A block's randomness is derived from its own index and blocks that draw any never depend on the number of workers, so
that the bytes are the same inline, on one worker or on twenty (protocols.md, section 2). A block's work is a top-level
function of plain integers and bytes: worker processes get nothing else, and rebuild tables from that key material
once per process. A secret key's integers reach only workers that its owner started (docs/executors.md).
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from io import BytesIO
from itertools import pairwise
from typing import TypeVar

import gmpy2
from gmpy2 import mpz

from lianxin.crypto.randomness import SEED_BYTES, Drbg, derive_seed

Item = TypeVar("Item")
Result = TypeVar("Result")
LIGHT_IN_FLIGHT = 32
BLOCK_DEADLINE_S = 900
HEAVY_IN_FLIGHT = 2 * (os.cpu_count() or 1)


def share_processors() -> None:
    """Let this thread's long GMP operations run beside other threads: a powmod then holds no interpreter lock.

    Worth it where several threads exponentiate; short multiplications in many threads gain little.
    """
    gmpy2.get_context().allow_release_gil = True


def cut_blocks(items: Sequence[Item], size: int) -> list[Sequence[Item]]:
    """Return `items` as consecutive slices of `size`, the last one shorter."""
    return [items[start : start + size] for start in range(0, len(items), size)]


def cut_evenly(count: int, largest: int) -> list[slice]:
    """Return the fewest consecutive slices of at most `largest` that cover `count` items; sizes differ by at most one.

    Raises ValueError for `largest` under 1.
    """
    if largest < 1:
        raise ValueError(f"a block has at least one item, not {largest}")
    blocks = -(-count // largest)
    edges = [count * block // blocks for block in range(blocks)] + [count]
    return [slice(start, stop) for start, stop in pairwise(edges)]


def block_seeds(drbg: Drbg, count: int) -> list[bytes]:
    """Return one 32-byte seed a block, all under 32 bytes taken from `drbg`.

    Taking those bytes moves the stream on: a second call with the same generator gives other seeds, so that nobody
    reuses a randomiser by passing one generator twice.
    """
    root = drbg.bytes(SEED_BYTES)
    return [derive_seed(root, "block", index) for index in range(count)]


def run_blocks(
    work: Callable[..., Result],
    shared: tuple,
    blocks: Iterable[tuple],
    executor: Executor | None,
    in_flight: int = LIGHT_IN_FLIGHT,
) -> Iterator[Result]:
    """Yield `work(*shared, *block)` for each block, in order; without an executor in this thread.

    At most `in_flight` blocks are taken from `blocks` and not yet answered, which bounds memory by the block and not
    by the input; those that have not begun when one fails are cancelled. Raises ValueError for `in_flight` under 1,
    TimeoutError when a worker does not answer within BLOCK_DEADLINE_S, and what an executor raises that lost a worker.
    """
    if in_flight < 1:
        raise ValueError(f"at least one block is in flight, not {in_flight}")
    if executor is None:
        yield from (work(*shared, *block) for block in blocks)
        return
    waiting: deque[Future[Result]] = deque()
    try:
        for block in blocks:
            waiting.append(executor.submit(work, *shared, *block))
            if len(waiting) >= in_flight:
                yield waiting.popleft().result(BLOCK_DEADLINE_S)
        while waiting:
            yield waiting.popleft().result(BLOCK_DEADLINE_S)
    finally:
        for future in waiting:
            future.cancel()


def encode_residues(residues: Iterable[int], width: int) -> bytes:
    """Return non-negative integers one after the other, big-endian in `width` bytes each."""
    stream = BytesIO()
    for residue in residues:
        stream.write(int(residue).to_bytes(width, "big"))
    return stream.getvalue()


def decode_residues(residues: Sequence[int] | bytes, width: int) -> list[mpz]:
    """Return the numbers of `residues`: integers, or the bytes that `encode_residues` made of them."""
    if not isinstance(residues, bytes):
        return [mpz(residue) for residue in residues]
    from_bytes = mpz.from_bytes
    return [from_bytes(residues[at : at + width]) for at in range(0, len(residues), width)]


class Residues:
    """Numbers modulo some n², given as integers or already encoded in fixed length, and taken a block at a time.

    Raises ValueError for an integer outside [0, modulus) and for bytes that are no whole number of residues.
    """

    def __init__(self, values: Sequence[int] | bytes, modulus: int) -> None:
        self._values, self.width = values, (modulus.bit_length() + 7) // 8
        if isinstance(values, bytes):
            if len(values) % self.width:
                raise ValueError(f"{len(values)} bytes are no whole number of residues of {self.width} bytes each")
        elif len(values) and not (min(values) >= 0 and max(values) < modulus):
            raise ValueError("a residue is outside [0, n²); reduce it first")

    def __len__(self) -> int:
        return len(self._values) // self.width if isinstance(self._values, bytes) else len(self._values)

    def take(self, block: slice, encoded: bool) -> Sequence[int] | bytes:
        """Return the residues of `block` in the form they were given in, or `encoded` as a worker gets them."""
        if isinstance(self._values, bytes):
            return self._values[block.start * self.width : block.stop * self.width]
        part = self._values[block]
        return encode_residues(part, self.width) if encoded else part
