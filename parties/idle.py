"""What a bank does while it waits for the platform: it makes the randomisers that its next messages will use.

A thread works on a pool only while some conversation of the run waits for a message, so that it never competes with
the node's own work for longer than one block takes. Where workers lend processors two threads fill the pool all the time,
but while every worker has work that the node waits for: this tree's sums come before the next trees' randomisers.
"""

import threading
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager

from lianxin.crypto.pool import RandomiserPool
from lianxin.federation.channel import Channel
from lianxin.parties.workers import Workers

POLL_S, LOOK_S = 0.2, 60.0


class IdleFiller:
    """Fills one pool in threads of its own, between `start` and `stop`: whenever somebody waits, with an executor always."""

    def __init__(self, executor: Executor | None = None) -> None:
        always, self._workers = executor is not None, executor if isinstance(executor, Workers) else None
        self._pool: RandomiserPool | None = None
        self._waiting, self._stopped = int(always), False
        self._change = threading.Condition()
        self._threads = [
            threading.Thread(target=self._work, daemon=True, name="idle-filler") for _ in range(1 + always)
        ]

    def start(self, pool: RandomiserPool) -> None:
        """Fill `pool` from now on."""
        self._pool = pool
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End the thread at its next block."""
        with self._change:
            self._stopped = True
            self._change.notify_all()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Say that the caller waits for a peer, and needs no processor until it is back."""
        with self._change:
            self._waiting += 1
            self._change.notify_all()
        try:
            yield
        finally:
            with self._change:
                self._waiting -= 1

    def watch(self, channel: Channel) -> Channel:
        """Return `channel`, whose waits for a message count as idle from now on."""
        return _WatchedChannel(channel, self)

    def _work(self) -> None:
        assert self._pool is not None
        while True:
            with self._change:
                is_due = self._change.wait_for(lambda: self._stopped or self._waiting > 0, LOOK_S)
                if self._stopped:
                    return
            if not is_due:
                continue
            if self._workers is not None and not self._workers.wait_until_spare(POLL_S):
                continue
            try:
                is_full = not self._pool.prepare()
            except Exception:  # the run has ended, or its workers have: whoever takes next meets the fault and tells it
                return
            if is_full:
                with self._change:
                    self._change.wait_for(lambda: self._stopped, POLL_S)


class _WatchedChannel(Channel):
    def __init__(self, channel: Channel, filler: IdleFiller) -> None:
        self._channel, self._filler = channel, filler
        self.peer, self.conversation, self.run = channel.peer, channel.conversation, channel.run

    def send(self, data: bytes) -> None:
        self._channel.send(data)

    def receive(self, deadline_s: float) -> bytes:
        with self._filler.waiting():
            return self._channel.receive(deadline_s)

    def finish(self) -> None:
        self._channel.finish()

    def is_gone(self) -> bool:
        return self._channel.is_gone()

    def close(self, reason: str = "") -> None:
        self._channel.close(reason)
