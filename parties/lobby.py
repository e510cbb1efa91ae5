"""A bank's lobby as several runs share it: one conversation, and for each run an end of its own.

`contracts/<bank>` is one stream of envelopes. Each run has a session on it with a sequence of its own, so that what comes
is handed to the run that its header names; the session judges it then as if the stream were the run's alone. What the road
loses, all runs on it lose; what one run does with its end touches no other.
"""

import threading
from collections.abc import Callable

from lianxin.federation import wire
from lianxin.federation.channel import Channel
from lianxin.federation.errors import DeadlinePassed, PeerGone
from lianxin.federation.resumption import Pipe, PipeBusy, PipeEnded

UNASKED = 8  # messages that no run awaits, after which a peer is left alone
Overheard = Callable[[str], None]


class RunTalk(Channel):
    """One run's end of a lobby: it sends on the common road and takes what came for its run."""

    def __init__(self, lobby: "Lobby", run: str) -> None:
        self._lobby = lobby
        self.peer, self.conversation, self.run = lobby.channel.peer, lobby.channel.conversation, run
        self.inbox = Pipe()
        self.refused = False  # whether the peer has said that it takes no further part
        self._read: bytes | None = None

    def send(self, data: bytes) -> None:
        """See `Channel.send`."""
        self._lobby.channel.send(data)

    def receive(self, deadline_s: float) -> bytes:
        """See `Channel.receive`."""
        read, self._read = self._read, None
        return self._take(deadline_s) if read is None else read

    def _take(self, deadline_s: float) -> bytes:
        try:
            return self.inbox.take(deadline_s)
        except PipeEnded:
            what = f"{self.peer} ended conversation {self.conversation}, before the message that was due."
            raise PeerGone(what) from None
        except PipeBusy:
            raise DeadlinePassed(
                f"{self.peer} sent nothing in conversation {self.conversation} for {deadline_s:g} s: "
                f"its message {self.inbox.left} was awaited."
            ) from None

    @property
    def has_word(self) -> bool:
        """Whether a message waits for this run."""
        return self.inbox.count > self.inbox.left

    def next_step(self, deadline_s: float) -> str:
        """Return the step that the next message names, which is received after that. Raises as `receive`."""
        self._read = self.receive(deadline_s)
        return str(wire.unseal(self._read).header["step"])

    def finish(self) -> None:
        """Nothing: the lobby goes on for other runs."""

    def is_gone(self) -> bool:
        """See `Channel.is_gone`."""
        return self.inbox.ended or self._lobby.channel.is_gone()

    def close(self, reason: str = "") -> None:
        """Take nothing more for this run; the lobby ends with the last run that is on it."""
        self.inbox.end()
        self._lobby.leave(self.run, reason)


class Lobby:
    """A lobby conversation and the ends that runs have of it. Safe between threads.

    `overheard(run)` hears of each refusal that comes, when whoever leads the run may be waiting for something else.
    """

    def __init__(self, channel: Channel, overheard: Overheard = lambda _run: None) -> None:
        self.channel, self._overheard = channel, overheard
        self._talks: dict[str, RunTalk] = {}
        self._lock, self._ended, self._unasked = threading.Lock(), False, 0

    def of(self, run: str) -> RunTalk:
        """Return the run's end of this lobby, the same as long as the run is on it."""
        with self._lock:
            talk = self._talks.setdefault(run, RunTalk(self, run))
            if self._ended:
                talk.inbox.end()
            return talk

    @property
    def runs(self) -> list[str]:
        """The runs that are on this lobby now."""
        with self._lock:
            return sorted(self._talks)

    def hand(self, run: str, data: bytes, is_refusal: bool = False) -> bool:
        """Put a message before its run; return whether there is such a run here, with room for it."""
        with self._lock:
            talk = self._talks.get(run)
        try:
            if talk is None:
                return False
            talk.inbox.put(data, 0)
        except (PipeBusy, PipeEnded):
            return False
        if is_refusal:
            talk.refused = True
            self._overheard(run)
        return True

    def unasked(self) -> bool:
        """Count a message that nobody awaits; return whether there were so many that the lobby was closed."""
        self._unasked += 1
        if self._unasked >= UNASKED:
            self.channel.close("it said too much that nobody asked for")
        return self._unasked >= UNASKED

    def drop(self, run: str) -> None:
        """Forget a run that has ended; the lobby stays open."""
        with self._lock:
            talk = self._talks.pop(run, None)
        if talk is not None:
            talk.inbox.end()

    def leave(self, run: str, reason: str = "") -> None:
        """Forget a run that broke off, and close the lobby where no other run is on it."""
        self.drop(run)
        if not self.runs:
            self.channel.close(reason)

    def end(self) -> None:
        """The road is gone: what came before may still be read, nothing else comes."""
        with self._lock:
            self._ended = True
            talks = list(self._talks.values())
        for talk in talks:
            talk.inbox.end()
