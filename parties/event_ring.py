"""The newest notes of what a node did, under positions that never change: memory stays bounded however long it runs."""

import threading
from collections import deque
from itertools import islice

KEPT = 10_000


class EventRing:
    """Keeps the newest `most` notes, each with the seconds of a steady clock and its run. Safe to share between threads.

    The first note ever has position 0; `first` is the position of the oldest that is still kept, `noted` that of the next.
    """

    def __init__(self, most: int = KEPT) -> None:
        self._kept: deque[tuple[float, str, str]] = deque(maxlen=most)
        self._lock, self.noted = threading.Lock(), 0

    @property
    def first(self) -> int:
        """The position of the oldest note that is kept."""
        return self.noted - len(self._kept)

    def add(self, seconds: float, what: str, run: str = "") -> None:
        """Keep a note about `run`, "" for none, in place of the oldest where there is no room."""
        with self._lock:
            self._kept.append((seconds, what, run))
            self.noted += 1

    def since(self, start: int = 0) -> list[tuple[float, str]]:
        """Return the notes from position `start` on that are still kept, oldest first."""
        return self.page(start)[1]

    def page(self, start: int = 0) -> tuple[int, list[tuple[float, str]], int]:
        """Return how many notes from `start` on are gone, those that are kept, and the position to ask from next."""
        missed, notes, following = self.told(start)
        return missed, [(seconds, what) for seconds, what, _ in notes], following

    def told(self, start: int = 0) -> tuple[int, list[tuple[float, str, str]], int]:
        """Return what `page` does, each note with the run that it is about."""
        with self._lock:
            missed = max(0, self.first - start)
            return missed, list(islice(self._kept, max(0, start - self.first), None)), max(start, self.noted)
