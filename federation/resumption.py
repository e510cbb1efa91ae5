"""A conversation that outlives its streams: messages are numbered, kept until they are taken, and sent again after a cut.

A bank dials a stream for a conversation and dials again when it breaks; the platform attaches the new stream to the
same end. What is above (sessions, roles) never notices: each message is delivered once, in order, as the same bytes.

1. The bank draws a token of 32 bytes and dials with (run, conversation, token, serial number of its stream). The platform
   opens a conversation under exactly (authenticated party, run, conversation, token). An opening whose answer was lost
   is dialled again and finds what it had opened: nothing is opened twice. A token serves once.
2. Messages of each direction have the numbers 0, 1, 2… A frame holds `number`, what its writer had said before it;
   `acknowledged`, how many of the reader's messages the writer's protocol has taken; and at most one of: the message
   `number`, `finished` (none follows), `closed` (none follows and none is read any more).
3. A writer keeps what is not acknowledged, at most WINDOW_MESSAGES and WINDOW_BYTES of it; a `put` waits for room until
   its deadline. A message is acknowledged when the protocol takes it, so that a reader too holds at most one window, and
   reading a stream never waits: acknowledgements always get through. They go with the next frame; alone, when half a
   window is owed or after ACKNOWLEDGE_AFTER_S.
4. A reader accepts a frame only if `number` is what it has heard so far, `acknowledged` neither goes back nor beyond what
   was said on this stream, the window is kept and no message follows an end. Else [I10]: the conversation is lost and
   what it held is dropped. On one stream nothing is repeated and nothing missing, so there is nothing to tolerate.
5. A stream may end at any time for any reason. Only a `closed` frame is a farewell; anything else is a cut. The end that
   sees it parks: puts and takes wait on, each until its own deadline.
6. The bank dials again, at once and then with growing pauses, for `resume_window_s`, with step 1's names, the next serial
   number, and `heard`: how many messages it has. The platform finds the end [I09 if there is none under that key, or the
   serial number is not a later one], checks acknowledged <= heard <= said [I10], detaches a stream that is still there,
   and answers with its own `heard`, which the bank checks alike. Each goes on from the other's number with what it kept.
7. An end that stays parked for `resume_window_s` is lost: PeerGone for whoever waits there. A bank without a token asks
   for no resumption; its conversation ends with its stream.
8. When one end says `closed`, after its last message, the other answers `closed`; with both the conversation is over.
   What was put for an end that has closed is dropped. A bank that closes while it is cut off still dials, so that its
   last messages arrive.

Threat model. *The network* may cut, delay and hold connections; TLS keeps it from reading, altering or resuming. It wins
delay or, over a whole window, the end of the conversation. A resumption renews no deadline. A dial that was held back and
let through later has an old serial number.
*Another party*, though pinned, has neither identity nor token [I09], and a guess does not disturb the conversation; a
second process under the bank's own certificate has no token either.
*A malicious bank* may cut and resume at will: it gets the bytes that it was sent before, never older nor newly computed
ones (the role above does not run again). It holds a window of memory each way, within its share of conversations. *A
malicious platform* that lies about what it has heard gets the same bytes again. A restarted platform knows no tokens.
"""

import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from lianxin.federation.errors import PeerError, PeerGone

WINDOW_MESSAGES = 8
WINDOW_BYTES = 16 * 2**20
ACKNOWLEDGE_AFTER_S = 0.1
RESUME_WINDOW_S = 60.0


class PipeEnded(Exception):
    """Nothing more comes out of a pipe, or nothing more goes in."""


class PipeBusy(Exception):
    """A pipe stayed full, or empty, for as long as its caller would wait."""


class Pipe:
    """A bounded queue of messages in one direction, with an end. Safe between threads.

    `left` counts the messages that have gone out of it: message `left` is the next. `size_bytes` is what is inside.
    `change` may be shared with others who wait for what happens here. A message of any size fits an empty pipe.
    """

    def __init__(
        self,
        capacity: int = WINDOW_MESSAGES,
        capacity_bytes: int = WINDOW_BYTES,
        change: threading.Condition | None = None,
    ) -> None:
        self._capacity, self._capacity_bytes = capacity, capacity_bytes
        self._messages: deque[bytes] = deque()
        self._ended = False
        self._change = change or threading.Condition()
        self.left = 0
        self.size_bytes = 0

    @property
    def ended(self) -> bool:
        """Whether no message can be put any more."""
        return self._ended

    @property
    def count(self) -> int:
        """How many messages have gone or are inside."""
        return self.left + len(self._messages)

    def put(self, message: bytes, deadline_s: float | None = None) -> None:
        """Append `message`; raises PipeEnded, or PipeBusy when there is still no room after `deadline_s`."""
        with self._change:
            if deadline_s != 0:
                self._change.wait_for(lambda: self._ended or self._has_room(message), deadline_s)
            if self._ended:
                raise PipeEnded
            if not self._has_room(message):
                raise PipeBusy
            self._messages.append(message)
            self.size_bytes += len(message)
            self._change.notify_all()

    def take(self, deadline_s: float | None = None) -> bytes:
        """Return the oldest message; raises PipeEnded, or PipeBusy when still empty after `deadline_s`."""
        with self._change:
            if deadline_s != 0:
                self._change.wait_for(lambda: self._ended or self._messages, deadline_s)
            if not self._messages:
                raise PipeEnded if self._ended else PipeBusy
            return self._pop()

    def at(self, number: int) -> bytes:
        """Return message `number`, which has to be inside and stays there."""
        return self._messages[number - self.left]

    def release(self, number: int) -> None:
        """Let go of every message before `number`."""
        with self._change:
            while self._messages and self.left < number:
                self._pop()

    def end(self, drop: bool = False) -> None:
        """Refuse further messages; those inside stay readable unless `drop`."""
        with self._change:
            self._ended = True
            if drop:
                self._messages.clear()
                self.size_bytes = 0
            self._change.notify_all()

    def _has_room(self, message: bytes) -> bool:
        fits = len(self._messages) < self._capacity and self.size_bytes + len(message) <= self._capacity_bytes
        return fits or not self._messages

    def _pop(self) -> bytes:
        message = self._messages.popleft()
        self.left += 1
        self.size_bytes -= len(message)
        self._change.notify_all()
        return message


@dataclass(frozen=True)
class Frame:
    """What one end says at a time on a stream (step 2). At most one of the last three is set."""

    number: int
    acknowledged: int
    message: bytes | None = field(default=None, repr=False)
    finished: bool = False
    closed: bool = False


class ConversationEnd:
    """One end of a conversation, whatever streams it has had: at most one at a time is attached. Safe between threads.

    The protocol puts into `outbox` and takes from `inbox`; a stream's writer asks for `frames`, its reader hands over
    what came by `accept`. Streams have serial numbers; what comes from any but the latest is dropped.
    """

    def __init__(self, peer: str, conversation: str, resume_window_s: float = RESUME_WINDOW_S) -> None:
        self.peer, self.conversation, self.resume_window_s = peer, conversation, resume_window_s
        self._change = threading.Condition()
        self.inbox, self.outbox = Pipe(change=self._change), Pipe(change=self._change)
        self.fault: PeerError | None = None
        self.heard, self._said = 0, 0
        self._stream, self._peer_stream, self._attached = 0, -1, False
        self._closing = self._over = False
        self._peer_finished = self._peer_closed = False
        self._begin_saying(0)

    @property
    def is_done(self) -> bool:
        """Whether both ends have closed, or the conversation is lost."""
        return self._over or self.fault is not None

    @property
    def is_attached(self) -> bool:
        """Whether a stream is attached now."""
        return self._attached

    def close(self) -> None:
        """Say, after what was put so far, that this end neither says nor reads any more."""
        with self._change:
            self._closing = True
            self.outbox.end()
            self.inbox.end(drop=True)

    def lose(self, fault: PeerError) -> None:
        """End the conversation by `fault` unless it is over; what was heard stays readable if the peer is merely gone."""
        with self._change:
            if not self.is_done:
                self.fault = fault
                self._detach()
                self.outbox.end(drop=True)
                self.inbox.end(drop=not isinstance(fault, PeerGone))

    def give_up(self) -> None:
        """End the conversation unless it is over: what is still under way is nobody's any more."""
        self.lose(PeerGone(f"Conversation {self.conversation} with {self.peer} was given up at this end."))

    def cut_off(self) -> PeerGone:
        """Return what a person is told when nobody resumed in time."""
        late = f" and not resumed for {self.resume_window_s:g} s" if self.resume_window_s else ""
        return PeerGone(f"The connection of conversation {self.conversation} with {self.peer} was cut{late}.")

    # ---- streams come and go

    def prepare(self) -> int:
        """Return the serial number of a new stream, for `frames` and `attach`; the one before says nothing more."""
        with self._change:
            self._detach()
            return self._stream

    def attach(self, stream: int, peer_heard: int) -> None:
        """Go on from message `peer_heard` on `stream`. Raises PeerError (I09, I10) when that cannot be."""
        with self._change:
            if self.fault is not None or stream != self._stream:
                raise PeerError(f"Conversation {self.conversation} with {self.peer} has ended here.", "I09")
            if not self.outbox.left <= peer_heard <= self._said:
                bounds = f"{self.outbox.left} to {self._said}"
                raise self._broken(f"claims to have heard {peer_heard} messages where {bounds} are possible")
            self._begin_saying(peer_heard)
            self._attached = True
            self._change.notify_all()

    def replace(self, peer_stream: int, peer_heard: int) -> int:
        """Attach the peer's stream `peer_stream` in the place of what is attached; return its number at this end.

        Raises PeerError: I09 for a serial number that is not a later one, which changes nothing here; else as `attach`.
        """
        with self._change:
            if peer_stream <= self._peer_stream:
                raise PeerError(f"{self.peer} dialled conversation {self.conversation} by an old stream.", "I09")
            self.attach(self.prepare(), peer_heard)
            self._peer_stream = peer_stream
            return self._stream

    def detach(self, stream: int) -> None:
        """Park this end, if `stream` is still the latest."""
        with self._change:
            if stream == self._stream:
                self._detach()

    def await_resumption(self) -> None:
        """Return when a parked end was attached again or is done; lose it when `resume_window_s` have passed before."""
        with self._change:
            parked = self._stream
            if not self._attached and not self._change.wait_for(
                lambda: self.is_done or self._stream != parked, self.resume_window_s
            ):
                self.lose(self.cut_off())

    def await_end(self, deadline_s: float, parked_s: float | None = None) -> bool:
        """Wait until this end is done; return False when a stream that is there says nothing for `deadline_s`, or when
        none has been there for `parked_s` (None: `await_resumption`, in the thread that saw the cut, bounds that)."""
        seen: tuple[int, ...] = ()
        until: float | None = None
        with self._change:
            while not self.is_done:
                now, state = time.monotonic(), (self._stream, self._cursor) if self._attached else (-1,)
                if state != seen:
                    seen, patience = state, deadline_s if self._attached else parked_s
                    until = None if patience is None else now + patience
                if until is not None and now >= until:
                    return False
                self._change.wait(None if until is None else until - now)
            return True

    def pause(self, seconds: float) -> None:
        """Wait `seconds`, less when this end is done before."""
        with self._change:
            self._change.wait_for(lambda: self.is_done, seconds)

    def _detach(self) -> None:
        self._stream, self._attached = self._stream + 1, False
        self._change.notify_all()

    def _begin_saying(self, cursor: int) -> None:
        self._cursor, self._told, self._empty_frames = cursor, 0, 0
        self._finish_said = self._close_said = False

    # ---- what this end says

    def frames(self, stream: int) -> Iterator[Frame]:
        """Yield what there is to say on `stream` as it comes, until all is said or another stream takes its place."""
        while (frame := self._next(stream)) is not None:
            yield frame

    def due(self, stream: int) -> Frame | None:
        """Return what there is to say on `stream` at once, None if nothing, or only what may wait a while."""
        with self._change:
            return self._due() if stream == self._stream and self._attached else None

    def _next(self, stream: int) -> Frame | None:
        alone_at: float | None = None
        with self._change:
            while stream == self._stream:
                if self._attached and (frame := self._due()) is not None:
                    return frame
                if self._attached and self._over:
                    return None
                if self._attached and self._owed():
                    alone_at = alone_at or time.monotonic() + ACKNOWLEDGE_AFTER_S
                    if time.monotonic() >= alone_at:
                        return self._frame()
                self._change.wait(alone_at and max(alone_at - time.monotonic(), 0.0))
            return None

    def _due(self) -> Frame | None:
        if self._cursor < self.outbox.count:
            frame = self._frame(message=self.outbox.at(self._cursor))
            self._cursor += 1
            self._said = max(self._said, self._cursor)
            return frame
        if self._closing and not self._close_said:
            self._close_said = True
            self._end_if_both_closed()
            return self._frame(closed=True)
        if self.outbox.ended and not self._closing and not self._finish_said:
            self._finish_said = True
            return self._frame(finished=True)
        return self._frame() if self._owed() >= WINDOW_MESSAGES // 2 else None

    def _owed(self) -> int:
        return self.inbox.left - self._told

    def _frame(self, message: bytes | None = None, finished: bool = False, closed: bool = False) -> Frame:
        self._told = self.inbox.left
        return Frame(self._cursor, self._told, message, finished, closed)

    # ---- what this end hears

    def accept(self, stream: int, frame: Frame) -> bool:
        """Take in a frame of `stream`; return False, and drop it, when that is not the latest. Raises PeerError (I10)."""
        with self._change:
            if stream != self._stream or not self._attached:
                return False
            self._check(frame)
            self.outbox.release(frame.acknowledged)
            if frame.message is not None:
                self._hear(frame.message)
            if frame.finished or frame.closed:
                self._peer_finished = True
                self.inbox.end()
            if frame.closed:
                self._peer_closed = self._closing = True
                self.outbox.end(drop=True)
                self._end_if_both_closed()
            self._change.notify_all()
            return True

    def _check(self, frame: Frame) -> None:
        if frame.number != self.heard:
            raise self._broken(f"sent frame {frame.number} where {self.heard} was due")
        if not self.outbox.left <= frame.acknowledged <= self._cursor:
            bounds = f"{self.outbox.left} to {self._cursor}"
            raise self._broken(f"acknowledged {frame.acknowledged} messages where {bounds} are possible")
        is_new = frame.message is not None or frame.closed or (frame.finished and not self._peer_finished)
        says = is_new or frame.acknowledged > self.outbox.left
        self._empty_frames = 0 if says else self._empty_frames + 1
        if self._empty_frames > WINDOW_MESSAGES:
            raise self._broken(f"sent {self._empty_frames} frames that say nothing")

    def _hear(self, message: bytes) -> None:
        if self._peer_finished:
            raise self._broken("sent a message after it had finished")
        try:
            self.inbox.put(message, 0.0)
        except PipeBusy:
            raise self._broken("sent more than the window holds") from None
        except PipeEnded:
            pass  # closed here: nobody reads
        self.heard += 1

    def _end_if_both_closed(self) -> None:
        self._over = self._over or (self._close_said and self._peer_closed)
        self._change.notify_all()

    def _broken(self, what: str) -> PeerError:
        fault = PeerError(f"{self.peer} {what} (conversation {self.conversation}).", "I10")
        self.lose(fault)
        return fault


def pour(frames: Iterable[Frame], end: ConversationEnd, stream: int) -> PeerError | None:
    """Hand to `end` what `stream` brings until it ends or another takes its place; return the rule that the peer broke."""
    try:
        for frame in frames:
            if not end.accept(stream, frame):
                break
    except PeerError as broken:
        end.lose(broken)
        return broken
    finally:
        end.detach(stream)
    return None
