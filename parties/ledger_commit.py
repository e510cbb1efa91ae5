"""Group commit: whoever comes while the disk is busy goes in with the next transaction.

    1. An appender makes its entry and puts it into the queue; entries are made one at a time, in the queue's order.
    2. If nobody is writing, it leads: it takes what waits (about MOST_LEAVES) and writes it as one transaction.
    3. Everybody else sleeps until a leader has written their entry. A leader that is done wakes those it wrote, and the
       first of those who still wait, to lead the next transaction.

An entry is done only when it is on disk, so nobody acts on a leaf that a crash could take back, and positions follow the
queue. One entry that the store refuses does not fail its neighbours: then each is written alone.
"""

import hashlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from lianxin.federation.errors import InputFault, RunStopped
from lianxin.parties.store_ledger import EnvelopeRow

MOST_LEAVES = 4096
Leaf = Mapping[str, Any]  # the fields of a leaf that its writer gives
Kept = Mapping[str, bytes] | None  # settings that are kept with it


@dataclass
class Entry:
    """Leaves that go in together, with what they speak of; `first` is the position of the first once it is done."""

    leaves: list[bytes]
    envelope: Callable[[int], EnvelopeRow] | None = None
    beside: dict[str, Any] = field(default_factory=dict)
    marks: bool = True
    waits: bool = True  # for the disk
    first: int = -1
    fault: Exception | None = None
    is_done: bool = False
    wants_alone: bool = False
    wake: threading.Lock = field(default_factory=threading.Lock)


@dataclass(frozen=True)
class Preface:
    """What goes to disk in front of a release's leaf, in its transaction: leaves, each with its operator (None: the node's).

    `envelope` makes the row of the message that the first of them is of. With `late_mark` whoever asks raises the mark beside
    the store by itself, before it acknowledges anything. With `goes_on` nothing is waited for: what is released leaves in a
    message whose own leaf waits for the disk, and brings this there with it.
    """

    leaves: tuple[tuple[Mapping[str, Any], str | None], ...] = ()
    envelope: Callable[[int], EnvelopeRow] | None = None
    late_mark: bool = False
    goes_on: bool = False


NO_PREFACE = Preface()


def envelope_row(direction: str, header: bytes, signature: bytes) -> Callable[[int], EnvelopeRow]:
    """Return what makes an envelope's row once the position of its leaf is known."""
    fields, digest = json.loads(header), hashlib.sha256(header).hexdigest()

    def at(index: int) -> EnvelopeRow:
        return EnvelopeRow(
            ledger_index=index, direction=direction, run=fields["run"], conversation=fields["conversation"],
            sender=fields["sender"], seq=fields["seq"], header=header, signature=signature, message_hash=digest,
        )  # fmt: skip

    return at


def joined(one: Any, more: Any) -> Any:
    """Return what two entries bring of one kind; what came alone is handed on as it is: a list of consents may be a stream."""
    if isinstance(more, dict):
        return one | more
    return [*one, *more] if one else more


class GroupCommit:
    """The queue in front of one ledger. `write` puts entries on disk, all or none, and sets their `first`."""

    def __init__(self, write: Callable[[Sequence[Entry]], None]) -> None:
        self._write, self._queue = write, list[Entry]()
        self._lock, self._is_busy = threading.Lock(), False

    def submit(self, make: Callable[[], Entry]) -> Entry:
        """Return the entry that `make` made, once it is on disk. Raises what `make` or the write of this entry raised."""
        entry = self._enter(make)
        if not entry.is_done:
            self._lead(entry)
        if entry.fault is not None:
            raise entry.fault
        return entry

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep every other writer out for the length of the block; what waits is written after it."""
        entry = self._enter(lambda: Entry([], wants_alone=True))
        with self._lock:
            self._queue.remove(entry)
        try:
            yield
        finally:
            self._hand_on()

    def _enter(self, make: Callable[[], Entry]) -> Entry:
        """Return an entry that is written, or that leads now."""
        with self._lock:
            entry = make()
            entry.wake.acquire()
            self._queue.append(entry)
            leads, self._is_busy = not self._is_busy, True
        if not leads:
            entry.wake.acquire()
        return entry

    def _lead(self, own: Entry) -> None:
        """Write what waits, in one transaction, up to the first that wants to be alone; `own` is the first of it."""
        with self._lock:
            batch = self._taken()
        try:
            self._settle(batch)
        finally:
            for entry in batch:
                entry.is_done = True
            self._hand_on()
            for entry in batch:
                if entry is not own:
                    entry.wake.release()

    def _taken(self) -> list[Entry]:
        count, leaves = 0, 0
        for entry in self._queue:
            leaves += len(entry.leaves)
            if entry.wants_alone or (count and leaves > MOST_LEAVES):
                break
            count += 1
        batch, self._queue = self._queue[:count], self._queue[count:]
        return batch

    def _hand_on(self) -> None:
        with self._lock:
            if self._queue:
                self._queue[0].wake.release()
            else:
                self._is_busy = False

    def _settle(self, batch: Sequence[Entry]) -> None:
        try:
            self._write(batch)
        except InputFault as fault:
            if len(batch) == 1:
                batch[0].fault = fault
            else:
                for entry in batch:
                    self._settle([entry])
        except Exception as fault:
            for entry in batch:
                entry.fault = fault
        except BaseException:
            for entry in batch:
                entry.fault = RunStopped("the ledger was interrupted while it was written; start the node again")
            raise
