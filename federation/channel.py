"""The road as a protocol sees it: one conversation, bytes in order, bounded memory, a deadline on every wait.

A `Channel` is one end of one conversation between a bank and the platform (house.md, "Who dials whom": the bank opens
it, the platform never dials). What it carries is opaque here: signed envelopes, checked elsewhere. The same state
machine runs over two roads: `MemoryNetwork` below for simulations and tests, and gRPC with mutual TLS in `services`.
Both are pairs of bounded `Pipe`s, so that they block, end and fail alike:

1. `send` puts a message into the outgoing pipe and blocks while the peer is behind; `receive` takes the next one.
2. `finish` ends the outgoing pipe: the peer still reads all that was sent, and is told so only if it wants more.
3. `close` ends the conversation both ways. What a peer had not read by then may be lost unless `finish` came before.
4. A peer that dies, fails or closes is a `PeerGone` in whoever waits for it; its reasons and texts never cross.
"""

import re
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass
from pathlib import Path

from lianxin.federation.errors import DeadlinePassed, InputFault, LianxinError, PeerGone

MESSAGE_LIMIT_BYTES = 4 * 2**20 - 1024
QUEUE_MESSAGES = 8
SEND_DEADLINE_S = 120.0
CLOSE_DEADLINE_S = 5.0
FAILURES_KEPT = 100
SERVICES = {"contracts": "Contracts", "matching": "Matching", "vertical": "Vertical", "learning": "Learning"}
_RUN = re.compile(r"[a-z0-9-]{3,64}")
_CONVERSATION = re.compile(r"[a-z0-9./-]{3,96}")


class MessageTooLarge(LianxinError):
    """A message is larger than a channel carries; it was not sent."""


class PipeEnded(Exception):
    """Nothing more comes out of a pipe, or nothing more goes in."""


class PipeBusy(Exception):
    """A pipe stayed full, or empty, for as long as its caller would wait."""


@dataclass(frozen=True)
class PinnedPeer:
    """Whom a server admits under one URI: the party id and the SHA-256 (hex) of its certificate's DER bytes."""

    party: str
    certificate_sha256: str


@dataclass(frozen=True)
class ServerTls:
    """Paths of a server's PEM files: its key, its certificate and the authority that a client's must come from."""

    key: Path
    certificate: Path
    authority: Path


@dataclass(frozen=True)
class ClientTls:
    """Paths of a client's PEM files: its key, its certificate and the one server certificate that it trusts.

    `server_name` is the DNS name that TLS compares, whatever address is dialled: one that `pinned` carries.
    """

    key: Path
    certificate: Path
    pinned: Path
    server_name: str = "localhost"


def is_run_id(run: str) -> bool:
    """Return whether `run` is 3 to 64 of `a-z`, `0-9` and `-`."""
    return _RUN.fullmatch(run) is not None


def is_conversation_id(conversation: str) -> bool:
    """Return whether `conversation` is `service/...`: 3 to 96 of `a-z 0-9 . / -`, no empty or dotted-away segment."""
    segments = conversation.split("/")
    known = segments[0] in SERVICES and not any(segment in ("", ".", "..") for segment in segments)
    return known and _CONVERSATION.fullmatch(conversation) is not None


def check_ids(conversation: str, run: str) -> None:
    """Raise `InputFault` unless both ids may be opened."""
    if not is_run_id(run):
        raise InputFault("The run id is not 3 to 64 of a-z, 0-9 and '-': no conversation was opened.")
    if not is_conversation_id(conversation):
        raise InputFault(f"The conversation id does not begin with one of {', '.join(SERVICES)} or has other letters.")


def is_opening(conversation: str, run: str, kind: str, strangers: Set[str]) -> bool:
    """Return whether both ids are well formed, the first segment is `kind` and the second none of `strangers`."""
    segments = conversation.split("/")
    named = segments[0] == kind and strangers.isdisjoint(segments[1:2])
    return named and is_conversation_id(conversation) and is_run_id(run)


def read_pem(path: Path) -> bytes:
    """Return the bytes of a TLS file; raises InputFault when it cannot be read."""
    try:
        return path.read_bytes()
    except OSError:
        raise InputFault(f"The TLS file {path} cannot be read: make the identity anew or check its owner.") from None


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


class Pipe:
    """A bounded queue of messages in one direction, with an end. Safe between threads."""

    def __init__(self, capacity: int = QUEUE_MESSAGES) -> None:
        self._capacity = capacity
        self._messages: deque[bytes] = deque()
        self._ended = False
        self._change = threading.Condition()

    @property
    def ended(self) -> bool:
        """Whether no message can be put any more."""
        return self._ended

    def put(self, message: bytes, deadline_s: float | None = None) -> None:
        """Append `message`; raises PipeEnded, or PipeBusy when still full after `deadline_s`."""
        with self._change:
            self._change.wait_for(lambda: self._ended or len(self._messages) < self._capacity, deadline_s)
            if self._ended:
                raise PipeEnded
            if len(self._messages) >= self._capacity:
                raise PipeBusy
            self._messages.append(message)
            self._change.notify_all()

    def take(self, deadline_s: float | None = None) -> bytes:
        """Return the oldest message; raises PipeEnded, or PipeBusy when still empty after `deadline_s`."""
        with self._change:
            self._change.wait_for(lambda: self._ended or self._messages, deadline_s)
            if not self._messages:
                raise PipeEnded if self._ended else PipeBusy
            message = self._messages.popleft()
            self._change.notify_all()
            return message

    def end(self, drop: bool = False) -> None:
        """Refuse further messages; those inside stay readable unless `drop`."""
        with self._change:
            self._ended = True
            if drop:
                self._messages.clear()
            self._change.notify_all()

    def drain(self) -> Iterator[bytes]:
        """Yield messages until the pipe ends."""
        while True:
            try:
                message = self.take()
            except PipeEnded:
                return
            yield message


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
            raise PeerGone(self._ended("so nothing more can be sent")) from None
        except PipeBusy:
            raise DeadlinePassed(
                f"{self.peer} did not read in conversation {self.conversation} for {self._send_deadline_s:g} s."
            ) from None

    def receive(self, deadline_s: float) -> bytes:
        """See `Channel.receive`."""
        try:
            return self.inbox.take(deadline_s)
        except PipeEnded:
            raise PeerGone(self._ended("before the message that was due")) from None
        except PipeBusy:
            raise DeadlinePassed(
                f"{self.peer} sent nothing in conversation {self.conversation} for {deadline_s:g} s."
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

    def _ended(self, consequence: str) -> str:
        if self._closed is not None:
            why = f" ({self._closed})" if self._closed else ""
            return f"Conversation {self.conversation} with {self.peer} was closed at this end{why}."
        return f"{self.peer} ended conversation {self.conversation}, {consequence}."


Handler = Callable[[Channel], None]


class MemoryNetwork:
    """A platform and its banks in one process: each conversation runs `handler` in a thread of its own.

    What a handler raises is kept in `failures` as (party, conversation, exception), the latest hundred.
    """

    def __init__(self, handler: Handler, platform: str = "platform", send_deadline_s: float = SEND_DEADLINE_S) -> None:
        self.failures: deque[tuple[str, str, Exception]] = deque(maxlen=FAILURES_KEPT)
        self._handler, self._platform, self._send_deadline_s = handler, platform, send_deadline_s
        self._running: list[tuple[threading.Thread, PipedChannel]] = []
        self._lock = threading.Lock()
        self._closed = False

    def link(self, party: str) -> Link:
        """Return the link of the bank `party`; its identity is this argument, as certificates are on the real road."""
        return _MemoryLink(self, party)

    def open(self, party: str, conversation: str, run: str) -> PipedChannel:
        """Start the platform's end of a conversation with `party`; return the bank's end."""
        check_ids(conversation, run)
        up, down = Pipe(), Pipe()
        theirs = PipedChannel(party, conversation, run, up, down, self._send_deadline_s)
        thread = threading.Thread(target=self._converse, args=(theirs,), daemon=True, name=f"platform:{conversation}")
        with self._lock:
            if self._closed:
                raise PeerGone(f"{self._platform} is not running: its network was closed.")
            self._running = [(t, c) for t, c in self._running if t.is_alive()] + [(thread, theirs)]
            thread.start()
        return PipedChannel(self._platform, conversation, run, down, up, self._send_deadline_s)

    def close(self, deadline_s: float = CLOSE_DEADLINE_S) -> None:
        """End every conversation and wait up to `deadline_s` seconds for each handler to return."""
        with self._lock:
            self._closed, running = True, self._running
        for _, channel in running:
            channel.close("the network is closing")
        for thread, _ in running:
            thread.join(deadline_s)

    def _converse(self, channel: PipedChannel) -> None:
        try:
            self._handler(channel)
        except Exception as failure:
            self.failures.append((channel.peer, channel.conversation, failure))
        finally:
            channel.close()


class _MemoryLink(Link):
    def __init__(self, network: MemoryNetwork, party: str) -> None:
        self._network, self._party = network, party
        self._channels: list[PipedChannel] = []

    def open(self, conversation: str, run: str) -> Channel:
        channel = self._network.open(self._party, conversation, run)
        self._channels = [c for c in self._channels if not c.closed] + [channel]
        return channel

    def close(self) -> None:
        for channel in self._channels:
            channel.close("the link was closed")
