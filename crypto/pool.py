"""Randomisers made ahead, while a party waits for its peer, each of them used once (protocols.md, section 1).

A pool is the endless sequence ρ_0, ρ_1, … of one key's randomisers. It is cut into blocks, and block b is drawn from
DRBG(pool seed, b), so that a randomiser depends on its place alone and not on whether it was made ahead.

1. `prepare`, while idle: the next block that is not there yet is made, as far as the owner plans to use them.
2. `take(k)`: `reserve(k)` returns the first of k places that nobody ever had, and has written so to disk before it
   returns; then the randomisers of those places are handed out and forgotten, those not yet prepared made on the spot.

A process killed between 2 and the message that would have used them has lost the places, and no later one gets them: a
randomiser masks one plaintext. Two pools of one seed must share one `reserve`. Not for a pool: what has to be the same
when it is said again, which is a message and is kept as a whole.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Executor

from lianxin.crypto.failpoints import reach
from lianxin.crypto.paillier import ResidueSource
from lianxin.crypto.randomness import Drbg, derive_seed

BLOCK = 128
Reserve = Callable[[int], int]


class RandomiserPool:
    """One key's randomisers. Safe between threads; prepares at most `capacity` ahead (a ciphertext's length each).

    `planned` is the number of places that its owner expects to take in all: beyond it nothing is prepared.
    """

    def __init__(
        self, source: ResidueSource, seed: bytes, reserve: Reserve, capacity: int, executor: Executor | None = None
    ) -> None:
        self._source, self._seed, self._reserve = source, seed, reserve
        self._capacity, self._executor = capacity, executor
        self.planned = 0
        self._blocks: dict[int, list[int]] = {}
        self._claimed: set[int] = set()
        self._next = 0
        self._lock = threading.Condition()

    def __repr__(self) -> str:
        return "RandomiserPool(<secret>)"

    @property
    def ready(self) -> int:
        """How many randomisers are prepared and not yet taken."""
        with self._lock:
            return max(0, sum(map(len, self._blocks.values())) - self._next % BLOCK)

    def prepare(self) -> bool:
        """Make the next block that nobody is at; return False when the pool is full, or holds all that is planned."""
        with self._lock:
            block = self._next // BLOCK
            while block in self._blocks or block in self._claimed:
                block += 1
            held = len(self._blocks) + len(self._claimed) + 1
            if held * BLOCK > self._capacity or block * BLOCK >= self.planned:
                return False
            self._claimed.add(block)
        self._make_claimed(block)
        return True

    def _make_claimed(self, block: int) -> list[int]:
        """Make a block that this thread has claimed, keep it unless it is over, and let who waits for it go on."""
        made: list[int] | None = None
        try:
            made = self._make(block)
            return made
        finally:
            with self._lock:
                self._claimed.discard(block)
                if made is not None and (block + 1) * BLOCK > self._next:
                    self._blocks[block] = made
                self._lock.notify_all()

    def fill(self, count: int) -> None:
        """Prepare until `count` are ready, or the pool is full."""
        while self.ready < count and self.prepare():
            continue

    def take(self, count: int) -> list[int]:
        """Return `count` randomisers that were never handed out, after their reservation is durable."""
        reach("pool-pop/before")
        first = self._reserve(count)
        reach("pool-pop/after")
        end, taken = first + count, list[int]()
        for block in range(first // BLOCK, -(-end // BLOCK)):
            low, high = max(first, block * BLOCK), min(end, (block + 1) * BLOCK)
            taken += self._block(block)[low - block * BLOCK : high - block * BLOCK]
        self._forget(end)
        return taken

    def _block(self, block: int) -> list[int]:
        with self._lock:
            self._lock.wait_for(lambda: block not in self._claimed)
            made = self._blocks.get(block)
            if made is not None:
                return made
            self._claimed.add(block)
        return self._make_claimed(block)

    def _make(self, block: int) -> list[int]:
        return self._source.draw_many(BLOCK, Drbg(derive_seed(self._seed, "pool-block", block)), self._executor)

    def _forget(self, end: int) -> None:
        with self._lock:
            self._next = max(self._next, end)
            for block in [block for block in self._blocks if (block + 1) * BLOCK <= self._next]:
                del self._blocks[block]


class CountedPlaces:
    """Reservations in memory, for simulations of one process and for tests: nothing survives the process."""

    def __init__(self) -> None:
        self._next, self._lock = 0, threading.Lock()

    def __call__(self, count: int) -> int:
        """Return the first of `count` fresh places."""
        with self._lock:
            first, self._next = self._next, self._next + count
            return first
