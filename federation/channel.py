"""The road as a protocol sees it: one conversation, bytes in order, bounded memory, a deadline on every wait.

A `Channel` is one end of one conversation between a bank and the platform (house.md, "Who dials whom": the bank opens
it, the platform never dials). What it carries is opaque here: signed envelopes, checked elsewhere. The same state
machine, `resumption.ConversationEnd`, runs over two roads: `MemoryNetwork` below for simulations and tests, and gRPC with
mutual TLS in `services`. Both block, end, fail and go on after a cut alike:

1. `send` keeps a message until the peer's protocol has taken it, and blocks while a window of them is kept; `receive`
   takes the next one.
2. `finish` says that no more follows: the peer still reads all that was sent, and is told so only if it wants more.
3. `close` ends the conversation both ways. What a peer had not read by then may be lost unless `finish` came before.
4. A peer that closes or fails is a `PeerGone` at once in whoever waits for it; its reasons and texts never cross.
5. A road that is cut is dialled again by the bank. Nobody above notices, unless that takes longer than the window to
   resume in, or than the deadline of the wait: then it is `PeerGone`, or `DeadlinePassed`, at both ends. A peer whose
   process died cannot be told from a cut road.
"""

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial

from lianxin.crypto.randomness import system_seed
from lianxin.federation.admission import CLOSE_DEADLINE_S, Dial, Host, NoRoom, Switchboard, check_ids
from lianxin.federation.admission import PinnedPeer as PinnedPeer
from lianxin.federation.errors import DeadlinePassed, LianxinError, PeerError, PeerGone
from lianxin.federation.resumption import RESUME_WINDOW_S, ConversationEnd, Frame, Pipe, PipeBusy, PipeEnded, pour
from lianxin.federation.tls import ClientTls as ClientTls
from lianxin.federation.tls import ServerTls as ServerTls

MESSAGE_LIMIT_BYTES = 4 * 2**20 - 1024
SEND_DEADLINE_S = 120.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 1.0
ATTEMPT_S = 10.0


class MessageTooLarge(LianxinError):
    """A message is larger than a channel carries; it was not sent."""


class Unreachable(PeerGone):
    """No connection now, or it ended before anything was said: worth another attempt while the deadline allows."""


class Channel(ABC):
    """One end of one conversation. `peer` is the authenticated party at the other end."""

    peer: str
    conversation: str
    run: str

    @abstractmethod
    def send(self, data: bytes) -> None:
        """Hand one message to the peer; raises MessageTooLarge, DeadlinePassed (it does not read) or PeerGone."""

    @abstractmethod
    def receive(self, deadline_s: float) -> bytes:
        """Return the next message; raises DeadlinePassed after `deadline_s` seconds, PeerGone when none can come."""

    @abstractmethod
    def finish(self) -> None:
        """Say that no more messages follow; the peer reads what was sent before. May be called twice."""

    def is_gone(self) -> bool:
        """Return whether the peer's side of the road has ended; what it sent before may still be read."""
        return False

    def is_cut(self) -> bool:
        """Return whether no road is under the conversation just now: gone, or cut and dialled again."""
        return self.is_gone()

    @property
    def closed(self) -> bool:
        """Whether `close` was called at this end."""
        return False

    @abstractmethod
    def close(self, reason: str = "") -> None:
        """End the conversation both ways. `reason` is for this side's own errors and never crosses."""


class Link(ABC):
    """A bank's way to its platform."""

    @abstractmethod
    def open(self, conversation: str, run: str) -> Channel:
        """Return a channel for a new conversation; raises InputFault (ids), PeerGone or DeadlinePassed."""

    @abstractmethod
    def close(self) -> None:
        """Close every channel that is still open, then the connection."""


class PipedChannel(Channel):
    """A channel over two pipes; the road that moves bytes between them and the peer is someone else's."""

    def __init__(
        self, peer: str, conversation: str, run: str, inbox: Pipe, outbox: Pipe, send_deadline_s: float
    ) -> None:
        self.peer, self.conversation, self.run = peer, conversation, run
        self.inbox, self.outbox = inbox, outbox
        self._send_deadline_s = send_deadline_s
        self._finished = False
        self._closed: str | None = None

    def is_gone(self) -> bool:
        """See `Channel.is_gone`."""
        return self.inbox.ended

    @property
    def closed(self) -> bool:
        """Whether `close` was called at this end."""
        return self._closed is not None

    def send(self, data: bytes) -> None:
        """See `Channel.send`."""
        if len(data) > MESSAGE_LIMIT_BYTES:
            raise MessageTooLarge(f"A message of {len(data)} bytes is over the limit of {MESSAGE_LIMIT_BYTES}: cut it.")
        if self._finished:
            raise ValueError("send after finish: this end already said that no more follows")
        try:
            self.outbox.put(bytes(data), self._send_deadline_s)
        except PipeEnded:
            raise self._gone("so nothing more can be sent") from None
        except PipeBusy:
            raise DeadlinePassed(
                f"{self.peer} did not read in conversation {self.conversation} for {self._send_deadline_s:g} s: "
                f"message {self.outbox.left} is the first that it has not taken."
            ) from None

    def receive(self, deadline_s: float) -> bytes:
        """See `Channel.receive`."""
        try:
            return self.inbox.take(deadline_s)
        except PipeEnded:
            raise self._gone("before the message that was due") from None
        except PipeBusy:
            raise DeadlinePassed(
                f"{self.peer} sent nothing in conversation {self.conversation} for {deadline_s:g} s: "
                f"its message {self.inbox.left} was awaited."
            ) from None

    def finish(self) -> None:
        """See `Channel.finish`."""
        self._finished = True
        self.outbox.end()

    def close(self, reason: str = "") -> None:
        """See `Channel.close`."""
        if self._closed is None:
            self._closed = reason
        self.outbox.end()
        self.inbox.end(drop=True)

    def _gone(self, consequence: str) -> PeerError:
        if self._closed is not None:
            why = f" ({self._closed})" if self._closed else ""
            return PeerGone(f"Conversation {self.conversation} with {self.peer} was closed at this end{why}.")
        return PeerGone(f"{self.peer} ended conversation {self.conversation}, {consequence}.")


class ResumableChannel(PipedChannel):
    """A channel that outlives its streams: see `resumption`."""

    def __init__(self, end: ConversationEnd, run: str, send_deadline_s: float) -> None:
        super().__init__(end.peer, end.conversation, run, end.inbox, end.outbox, send_deadline_s)
        self.end = end

    def close(self, reason: str = "") -> None:
        """See `Channel.close`."""
        super().close(reason)
        self.end.close()

    def is_cut(self) -> bool:
        """See `Channel.is_cut`; a stream whose peer answers no pings is cut by gRPC."""
        return not self.end.is_attached

    def _gone(self, consequence: str) -> PeerError:
        fault = self.end.fault
        if fault is None or self.closed:
            return super()._gone(consequence)
        return type(fault)(str(fault), fault.rule)


@dataclass(frozen=True)
class Stream:
    """A bank's stream: its serial number at the bank's end, what comes out of it, and how to cut it."""

    number: int
    frames: Iterator[Frame] = field(repr=False)
    cut: Callable[[], object] = field(repr=False)


class DialledChannel(ResumableChannel):
    """The bank's end: a thread of its own hears out each stream, and has another one dialled when it breaks.

    A stream that broke young and brought nothing is no new beginning: the window of the cut before it goes on.
    `redial(deadline_s)` returns an attached stream; raises Unreachable, NoRoom or DeadlinePassed when that is worth another
    attempt, and another PeerError when it is not.
    """

    def __init__(
        self, end: ConversationEnd, run: str, send_deadline_s: float, redial: Callable[[float], Stream]
    ) -> None:
        super().__init__(end, run, send_deadline_s)
        self._redial = redial

    def begin(self, stream: Stream) -> None:
        """Carry the conversation over `stream`, and over those that follow it."""
        self._stream, self._until, self._pause = stream, time.monotonic() + self.end.resume_window_s, 0.0
        self.carrier = threading.Thread(target=self._carry, daemon=True, name=f"bank:{self.conversation}")
        self.carrier.start()

    def close(self, reason: str = "") -> None:
        """End both ways: the peer has a few seconds to read what was sent and to end too, then it is cut off.

        If the road is cut just then, it is dialled on in the background: what was sent is still to arrive.
        """
        super().close(reason)
        if not self.end.await_end(CLOSE_DEADLINE_S, CLOSE_DEADLINE_S) and self.end.is_attached:
            self.end.give_up()
            self._stream.cut()
        if self.end.is_done:
            self.carrier.join(CLOSE_DEADLINE_S)

    def farewell(self, reason: str) -> None:
        """Close without waiting; `abandon` has to follow."""
        super().close(reason)

    def abandon(self, deadline_s: float) -> None:
        """Give the carrier `deadline_s` seconds to bring the conversation to its end, then cut it off."""
        self.carrier.join(max(deadline_s, 0.0))
        self.end.give_up()
        self._stream.cut()

    def _carry(self) -> None:
        while True:
            began, before = time.monotonic(), (self.end.heard, self.outbox.left)
            if self.end.fault is None:
                pour(self._stream.frames, self.end, self._stream.number)
            self._stream.cut()
            if before != (self.end.heard, self.outbox.left) or time.monotonic() - began > LONGEST_PAUSE_S:
                self._until, self._pause = time.monotonic() + self.end.resume_window_s, 0.0
            if not self._resume():
                return

    def _resume(self) -> bool:
        while not self.end.is_done:
            self.end.pause(self._pause)
            self._pause = min(max(2 * self._pause, FIRST_PAUSE_S), LONGEST_PAUSE_S)
            left = self._until - time.monotonic()
            try:
                if left <= 0:
                    raise self.end.cut_off()
                self._stream = self._redial(min(left, ATTEMPT_S))
                self._pause = FIRST_PAUSE_S
                return True
            except (Unreachable, NoRoom, DeadlinePassed):
                if self.closed and self.outbox.count == self.outbox.left:
                    self.end.give_up()  # nothing is left to bring but a farewell
            except PeerError as refusal:
                is_told = isinstance(refusal, PeerGone) or refusal.rule == "I10"
                self.end.lose(refusal if is_told else self._forgotten())
        return False

    def _forgotten(self) -> PeerGone:
        return PeerGone(
            f"{self.peer} carries conversation {self.conversation} no more: it gave it up or was restarted."
        )


def hang_up(channels: Iterable[DialledChannel]) -> None:
    """Close the channels of a link that is closed, all at once: each has the same few seconds to end."""
    leaving = list(channels)
    for channel in leaving:
        channel.farewell("the link was closed")
    until = time.monotonic() + CLOSE_DEADLINE_S
    for channel in leaving:
        channel.abandon(until - time.monotonic())


Handler = Callable[[Channel], None]


class MemoryNetwork:
    """A platform and its banks in one process: each conversation runs `handler` in a thread of its own.

    What a handler raises is kept in `failures` as (party, conversation, exception), the latest hundred. `sever` and `mend`
    do what a network does to those who rely on it.
    """

    def __init__(
        self,
        handler: Handler,
        platform: str = "platform",
        send_deadline_s: float = SEND_DEADLINE_S,
        resume_window_s: float = RESUME_WINDOW_S,
    ) -> None:
        make_channel = partial(ResumableChannel, send_deadline_s=send_deadline_s)
        self._host = Host(Switchboard(resume_window_s), make_channel, handler)
        self.failures = self._host.failures
        self._platform, self._send_deadline_s, self._resume_window_s = platform, send_deadline_s, resume_window_s
        self._streams: dict[ConversationEnd, tuple[str, Stream]] = {}
        self._threads: list[threading.Thread] = []
        self._severed: set[str] = set()
        self._lock = threading.Lock()
        self._closed = False

    def link(self, party: str) -> Link:
        """Return the link of the bank `party`; its identity is this argument, as certificates are on the real road."""
        return _MemoryLink(self, party)

    def open(self, party: str, conversation: str, run: str) -> DialledChannel:
        """Start the platform's end of a conversation with `party`; return the bank's end."""
        check_ids(conversation, run)
        end = ConversationEnd(self._platform, conversation, self._resume_window_s)
        opening = Dial(party, conversation, run, system_seed().hex())
        channel = DialledChannel(end, run, self._send_deadline_s, lambda _: self.dial(end, opening, end.heard))
        channel.begin(self.dial(end, opening))
        with self._lock:
            self._threads.append(channel.carrier)
        return channel

    def dial(self, end: ConversationEnd, opening: Dial, heard: int | None = None) -> Stream:
        """Return a stream from the bank's `end` to the platform. Raises Unreachable, PeerGone, or as `Host.connect`."""
        number = end.prepare()
        with self._lock:
            if self._closed:
                raise PeerGone(f"{self._platform} is not running: its network was closed.")
            if opening.party in self._severed:
                raise Unreachable(f"{self._platform} cannot be reached: the network is cut.")
            theirs, stream = self._host.connect(replace(opening, stream=number, heard=heard), lambda _: None)
            end.attach(number, theirs.heard)
            made = Stream(number, theirs.frames(stream), partial(theirs.detach, stream))
            hearing = (end.frames(number), theirs, stream)
            thread = threading.Thread(
                target=self._host.hear, args=hearing, daemon=True, name=f"hears:{end.conversation}"
            )
            self._threads = [t for t in self._threads if t.is_alive()] + [thread]
            self._streams = {e: known for e, known in self._streams.items() if not e.is_done} | {
                end: (opening.party, made)
            }
            thread.start()
        return made

    def sever(self, party: str) -> None:
        """Cut every stream of `party`, and let none through until `mend`."""
        with self._lock:
            self._severed.add(party)
            for owner, stream in self._streams.values():
                if owner == party:
                    stream.cut()

    def mend(self, party: str) -> None:
        """Let `party` through again."""
        with self._lock:
            self._severed.discard(party)

    def close(self, deadline_s: float = CLOSE_DEADLINE_S) -> None:
        """End every conversation and wait up to `deadline_s` seconds for each handler to return."""
        with self._lock:
            self._closed, threads = True, list(self._threads)
        self._host.close("the network is closing")
        self._host.join(deadline_s)
        for thread in threads:
            thread.join(deadline_s)


class _MemoryLink(Link):
    def __init__(self, network: MemoryNetwork, party: str) -> None:
        self._network, self._party = network, party
        self._channels: list[DialledChannel] = []

    def open(self, conversation: str, run: str) -> Channel:
        channel = self._network.open(self._party, conversation, run)
        self._channels = [c for c in self._channels if not c.closed] + [channel]
        return channel

    def close(self) -> None:
        hang_up(self._channels)
