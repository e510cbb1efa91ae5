"""Worker processes that tell what the node waits for from what is made ahead.

What is submitted to `Workers` is the node's own work, which somebody waits for. What is made ahead goes straight to the
processes behind them, and whoever makes it asks first whether a processor is to spare: a queue serves both in turn, and
a histogram that stands behind a thousand randomisers for later makes everybody wait.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any


class Workers(Executor):
    """An executor of `count` processes, `behind`, that counts what it was asked for and has not answered."""

    def __init__(self, behind: Executor, count: int) -> None:
        self.behind, self._count = behind, count
        self._asked, self._change = 0, threading.Condition()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Ask the processes for `fn(*args, **kwargs)`."""
        with self._change:
            self._asked += 1
        try:
            future = self.behind.submit(fn, *args, **kwargs)
        except BaseException:
            self._answered()
            raise
        future.add_done_callback(self._answered)
        return future

    def _answered(self, _: Future[Any] | None = None) -> None:
        with self._change:
            self._asked -= 1
            self._change.notify_all()

    def wait_until_spare(self, seconds: float) -> bool:
        """Return whether within so many seconds a process has nothing of the node's own work to do."""
        with self._change:
            return self._change.wait_for(lambda: self._asked < self._count, seconds)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the processes."""
        self.behind.shutdown(wait, cancel_futures=cancel_futures)


def processes_of(executor: Executor | None) -> Executor | None:
    """Return the executor for what is made ahead: the processes behind `Workers`, any other executor itself."""
    return executor.behind if isinstance(executor, Workers) else executor
