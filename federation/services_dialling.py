"""The bank's end of the gRPC road: one connection to its platform, a stream dialled for each conversation and after each cut.

gRPC Python shows a client no AuthContext, so the pinned server certificate is the connection's only trust root (gRPC
verifies partial chains: a leaf may be a root). TLS compares a name fixed in `ClientTls`; the address dialled proves
nothing. The first signed envelope each way, another module's work, says again who is there.
"""

import threading
import time
from functools import partial
from typing import Any

import grpc

from lianxin.crypto.randomness import system_seed
from lianxin.federation import services_road
from lianxin.federation.admission import (
    CONVERSATION_KEY,
    HEARD_KEY,
    PROTOCOL,
    PROTOCOL_KEY,
    RUN_KEY,
    SERVICES,
    STREAM_KEY,
    TOKEN_KEY,
    NoRoom,
    check_ids,
    check_protocol,
    read_count,
    read_protocol,
)
from lianxin.federation.channel import (
    SEND_DEADLINE_S,
    Channel,
    DialledChannel,
    Link,
    Stream,
    Unreachable,
    hang_up,
)
from lianxin.federation.errors import DeadlinePassed, PeerError, PeerGone
from lianxin.federation.limits import Toll
from lianxin.federation.resumption import RESUME_WINDOW_S, ConversationEnd
from lianxin.federation.services_road import ADMITTED, PACKAGE, Charge, Weigh, bytes_of, frames_of
from lianxin.federation.services_tls import Road
from lianxin.federation.tls import Tls

CONVERSATION_LIMIT_S = 24 * 3600.0
_ATTEMPT_S = 0.2


class GrpcLink(Link):
    """A bank's connection to its platform; made at the first `open`, which waits until the platform is up."""

    def __init__(
        self,
        address: str,
        tls: Tls,
        platform: str = "platform",
        *,
        start_deadline_s: float = 30.0,
        send_deadline_s: float = SEND_DEADLINE_S,
        conversation_limit_s: float = CONVERSATION_LIMIT_S,
        resume_window_s: float = RESUME_WINDOW_S,
        toll: Toll | None = None,
    ) -> None:
        """Prepare to dial `address`; raises InputFault when a TLS file cannot be used.

        A stream that breaks is dialled again for `resume_window_s` seconds, which should be under any step's deadline.
        `toll` counts what the platform costs this bank; without one it is counted and never too much.
        """
        self._platform, self._resume_window_s = platform, resume_window_s
        self._start_deadline_s, self._send_deadline_s = start_deadline_s, send_deadline_s
        self._conversation_limit_s, self._toll = conversation_limit_s, toll
        self._road = Road(address, tls, [*services_road.OPTIONS, *services_road.CLIENT_OPTIONS])
        self._channels: list[DialledChannel] = []

    def open(self, conversation: str, run: str) -> Channel:
        """Return a channel once the platform has admitted this party; raises InputFault, PeerError or PeerGone.

        The service is the one that the conversation id's first segment names.
        """
        check_ids(conversation, run)
        end = ConversationEnd(self._platform, conversation, self._resume_window_s)
        dialler = _Dialler(self._road, end, run, time.monotonic() + self._conversation_limit_s, self._toll)
        try:
            first = self._first_stream(dialler)
        except PeerError:
            end.give_up()
            raise
        channel = DialledChannel(end, run, self._send_deadline_s, dialler.resume)
        channel.begin(first)
        self._channels = [c for c in self._channels if c.carrier.is_alive() or not c.closed] + [channel]
        return channel

    def cut(self) -> None:
        """End every conversation at once and dial no more: the platform is trusted no more (docs/keys.md)."""
        for channel in self._channels:
            channel.end.lose(PeerError(f"{self._platform} was revoked at this end.", "I20"))
        self._road.close()

    @property
    def conversations(self) -> int:
        """How many conversations are open."""
        return sum(not channel.closed for channel in self._channels)

    def close(self) -> None:
        """See `Link.close`."""
        hang_up(self._channels)
        self._road.close()

    def _first_stream(self, dialler: "_Dialler") -> Stream:
        until = time.monotonic() + self._start_deadline_s
        while True:
            try:
                return dialler.dial(until - time.monotonic())
            except Unreachable:
                if time.monotonic() + _ATTEMPT_S > until:
                    raise
                time.sleep(_ATTEMPT_S)


class _Dialler:
    """Dials streams for one conversation: the first opens it, those that follow resume it."""

    def __init__(self, road: Road, end: ConversationEnd, run: str, limit_at: float, toll: Toll | None) -> None:
        self._end, self._limit_at = end, limit_at
        self._weigh: Weigh = partial(toll.heard, end.peer, run) if toll else lambda _size: 0.0
        self._charge: Charge = partial(toll.said, end.peer, run) if toll else lambda _size: None
        self._road, self._path = road, f"/{PACKAGE}.{SERVICES[end.conversation.split('/')[0]]}/Converse"
        names = ((RUN_KEY, run), (CONVERSATION_KEY, end.conversation), (PROTOCOL_KEY, str(PROTOCOL)))
        self._names = (*names, (TOKEN_KEY, system_seed().hex())) if end.resume_window_s else names

    def resume(self, deadline_s: float) -> Stream:
        """Return a stream that goes on with the conversation. Raises as `dial`, but never for the certificate shown."""
        if time.monotonic() > self._limit_at:
            raise PeerGone(f"Conversation {self._end.conversation} with {self._end.peer} has lasted as long as it may.")
        try:
            return self.dial(deadline_s, (HEARD_KEY, str(self._end.heard)))
        except PeerError as refusal:
            raise self._unreachable() if refusal.rule == "I05" else refusal from None

    def dial(self, deadline_s: float, *heard: tuple[str, str]) -> Stream:
        """Return a stream, which opens the conversation unless `heard` is given.

        Raises PeerError, Unreachable, NoRoom or DeadlinePassed.
        """
        number = self._end.prepare()
        metadata = (*self._names, (STREAM_KEY, str(number)), *heard)
        outgoing = bytes_of(self._end, number, self._charge)
        try:
            call = self._road.stream_stream(self._path)(
                outgoing, timeout=self._limit_at - time.monotonic(), metadata=metadata
            )
        except ValueError:  # the link was closed meanwhile
            raise self._unreachable() from None
        watchdog = threading.Timer(max(deadline_s, 0.0), call.cancel)
        watchdog.daemon = True
        watchdog.start()
        try:
            answer = {key: value for key, value in call.initial_metadata()}
            if ADMITTED[0] not in answer:
                raise self._refusal(call)
            check_protocol(read_protocol(answer.items()), self._end.peer)
            if (heard_there := read_count(answer.get(HEARD_KEY))) is None:
                raise PeerError(f"{self._end.peer} does not say what it has heard: compare versions.", "I10")
            self._end.attach(number, heard_there)
            return Stream(number, frames_of(call, self._weigh), call.cancel)
        except PeerError:
            call.cancel()
            raise
        finally:
            watchdog.cancel()

    def _refusal(self, call: Any) -> PeerError:
        """Return what a person is told; the call's details are searched for gRPC's own words and never shown."""
        status, details = call.code(), call.details() or ""
        peer, conversation = self._end.peer, self._end.conversation
        if status is grpc.StatusCode.FAILED_PRECONDITION:
            return _spoken_there(call.trailing_metadata() or (), peer)
        if status is grpc.StatusCode.UNAUTHENTICATED:
            return PeerError(f"{peer} refused conversation {conversation}: its log has the rule.", "I00")
        if status is grpc.StatusCode.RESOURCE_EXHAUSTED:
            return NoRoom(f"{peer} has no room for conversation {conversation} now: try again later.")
        if status is grpc.StatusCode.CANCELLED:
            return DeadlinePassed(
                f"{peer} did not admit conversation {conversation} at {self._road.address} in time: see that the address is "
                "right and no firewall is between, then ask its operator whether its node runs"
            )
        if status is not grpc.StatusCode.UNAVAILABLE:
            return PeerGone(f"{peer} does not carry on conversation {conversation}: compare versions.")
        if "CERTIFICATE_VERIFY_FAILED" in details:
            text = f"What answers as {peer} shows another certificate than the pinned one, or that has expired"
            return PeerError(f"{text}: check the address, then ask its operator.", "I05")
        return self._unreachable()

    def _unreachable(self) -> Unreachable:
        return Unreachable(
            f"{self._end.peer} does not answer at {self._road.address}: its node is down, cannot be reached from here or does "
            "not know this certificate; see that the address is right and no firewall is between, then ask its operator"
        )


def _spoken_there(metadata: Any, peer: str) -> PeerError:
    """Return what a person is told whose platform speaks other wire protocols; it says its newest."""
    theirs = read_count(next((value for key, value in metadata if key == PROTOCOL_KEY), None)) or 0
    older = f"the node of {peer}" if theirs < PROTOCOL else "this node"
    return PeerError(f"{peer} speaks wire protocols up to {theirs}, this node {PROTOCOL}: upgrade {older}.", "I11")
