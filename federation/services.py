"""The road between machines: gRPC with mutual TLS, one bidirectional stream a conversation, dialled by the bank.

Server side: who speaks, what for, and which conversation a stream goes on with is decided by `admission` from gRPC's
AuthContext and the stream's metadata, before a byte is read. Whoever is refused is told REFUSED_TEXT, whatever the rule.

Client side: gRPC Python shows no AuthContext, so the pinned server certificate is the connection's only trust root
(gRPC verifies partial chains: a leaf may be a root). TLS compares a name fixed in `ClientTls`; the address dialled
proves nothing. The first signed envelope each way, another module's work, says again who is there.

One gRPC message is one frame of `resumption`. A stream that breaks is dialled again and the conversation goes on; a dead
connection is noticed by keepalive pings within 16 s. A second stream for one conversation takes the place of the first,
which may be half dead: the server has room for as many streams again as conversations.

Memory is bounded: 4 MiB a message, a window of messages each way at each end, a fixed HTTP/2 window (bandwidth probing
would grow it), a fixed number of conversations, no compression (attacks.md, row 23).
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from lianxin.crypto.randomness import system_seed
from lianxin.federation.admission import (
    CONVERSATION_KEY,
    FAREWELL_S,
    HEARD_KEY,
    RUN_KEY,
    SERVICES,
    STREAM_KEY,
    TOKEN_KEY,
    Host,
    NoRoom,
    PinnedPeer,
    Refused,
    Switchboard,
    check_ids,
    check_peer,
    read_count,
    read_dial,
)
from lianxin.federation.channel import (
    CLOSE_DEADLINE_S,
    SEND_DEADLINE_S,
    Channel,
    ClientTls,
    DialledChannel,
    Handler,
    Link,
    ResumableChannel,
    ServerTls,
    Stream,
    Unreachable,
    hang_up,
    read_pem,
)
from lianxin.federation.errors import DeadlinePassed, InputFault, PeerError, PeerGone
from lianxin.federation.resumption import RESUME_WINDOW_S, ConversationEnd, Frame
from lianxin.proto import party_pb2

PACKAGE = "lianxin.party"
REFUSED_TEXT = "this peer or conversation is not admitted"
ADMITTED = ("lianxin-admitted", "1")
CONVERSATION_LIMIT_S = 24 * 3600.0
_ENVELOPE_TAG = b"\x1a"  # field 3, length-delimited
_RECEIVE_LIMIT_BYTES = 4 * 2**20
_ATTEMPT_S = 0.2
_OPTIONS: list[tuple[str, Any]] = [
    ("grpc.max_receive_message_length", _RECEIVE_LIMIT_BYTES),
    ("grpc.max_send_message_length", _RECEIVE_LIMIT_BYTES),
    ("grpc.max_metadata_size", 8 * 1024),
    ("grpc.absolute_max_metadata_size", 16 * 1024),
    ("grpc.default_compression_algorithm", 0),
    ("grpc.compression_enabled_algorithms_bitset", 1),
    ("grpc.keepalive_time_ms", 8_000),
    ("grpc.keepalive_timeout_ms", 8_000),
    ("grpc.http2.ping_timeout_ms", 8_000),  # without it a ping is waited for 60 s, whatever the line above says
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 2 * 2**20),
]
_SERVER_OPTIONS: list[tuple[str, Any]] = [
    ("grpc.so_reuseport", 0),
    ("grpc.server_handshake_timeout_ms", 10_000),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 4_000),
    ("grpc.http2.max_ping_strikes", 2),
]
_CLIENT_OPTIONS: list[tuple[str, Any]] = [
    ("grpc.enable_retries", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
]
_PATHS = {f"/{PACKAGE}.{service}/Converse": kind for kind, service in SERVICES.items()}

OnRefused = Callable[[str, str | None], None]
Now = Callable[[], datetime]
UTC_NOW: Now = partial(datetime.now, UTC)


def encode_frame(frame: Frame) -> bytes:
    """Return a frame as it crosses: a `lianxin.party.Frame` in its canonical encoding."""
    return _before_message(frame) + (frame.message or b"")


def _before_message(frame: Frame) -> bytes:
    """Return a frame's encoding up to its message: protobuf itself would take 3 ms to encode one of 1 MiB."""
    out = party_pb2.Frame(number=frame.number, acknowledged=frame.acknowledged)
    if frame.closed:
        out.closed = True
    elif frame.finished:
        out.finished = True
    head = bytes(out.SerializeToString(deterministic=True))
    return head if frame.message is None else head + _ENVELOPE_TAG + _varint(len(frame.message))


def _varint(number: int) -> bytes:
    groups = [number >> shift & 0x7F for shift in range(0, max(number.bit_length(), 1), 7)]
    return bytes([*(group | 0x80 for group in groups[:-1]), groups[-1]])


def decode_frame(data: bytes) -> Frame:
    """Return the frame in `data`. Raises PeerError (I10) for bytes that are not exactly what `encode_frame` makes."""
    read = party_pb2.Frame()
    try:
        read.ParseFromString(data)
    except DecodeError:
        raise PeerError("A peer sent bytes that are no frame.", "I10") from None
    message = read.envelope if read.WhichOneof("said") == "envelope" else None
    frame = Frame(read.number, read.acknowledged, message, read.finished, read.closed)
    head = _before_message(frame)
    if len(data) != len(head) + len(message or b"") or not data.startswith(head):
        raise PeerError("A peer sent a frame in another encoding than the canonical one.", "I10")
    return frame


def _frames_of(call: Any) -> Iterator[Frame]:
    """Yield what comes on a stream until it ends, however it ends."""
    try:
        for data in call:
            yield decode_frame(data)
    except grpc.RpcError:
        return


@dataclass(eq=False)
class _Door(grpc.GenericRpcHandler):
    """Admits each stream, then moves frames between it and its conversation: a reader thread and gRPC's own writer."""

    parties: Mapping[str, PinnedPeer]
    host: Host
    on_refused: OnRefused
    now: Now

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        """Return the handler of one of the services; None (unimplemented) for any other path."""
        kind = _PATHS.get(handler_call_details.method)
        if kind is None:
            return None
        return grpc.stream_stream_rpc_method_handler(partial(self._converse, kind))

    def _converse(self, kind: str, incoming: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        ended = threading.Event()
        end, stream, uri = self._admit(kind, context, lambda seconds: ended.wait(seconds) or context.cancel())
        # the reader comes first: a dial that is cancelled here raises below, and only the reader sees that it is gone
        threading.Thread(target=self._hear, args=(_frames_of(incoming), end, stream, uri), daemon=True).start()
        if not context.add_callback(partial(_let_go, end, stream, ended)):
            _let_go(end, stream, ended)
        context.send_initial_metadata((ADMITTED, (HEARD_KEY, str(end.heard))))
        yield from map(encode_frame, end.frames(stream))
        if end.fault is not None and not isinstance(end.fault, PeerGone):
            context.abort(grpc.StatusCode.UNAUTHENTICATED, REFUSED_TEXT)

    def _admit(
        self, kind: str, context: grpc.ServicerContext, cut_after: Callable[[float], object]
    ) -> tuple[ConversationEnd, int, str]:
        uri: str | None = None
        try:
            peer, uri = check_peer(context.auth_context(), self.parties, self.now())
            others = {pinned.party for pinned in list(self.parties.values())} - {peer.party}
            dial = read_dial(context.invocation_metadata(), kind, peer.party, others)
            return *self.host.connect(dial, cut_after), uri
        except NoRoom:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, REFUSED_TEXT)
        except Exception as doubt:  # whatever it is, gRPC would send its text to the peer
            self._report(doubt, uri)
            context.abort(grpc.StatusCode.UNAUTHENTICATED, REFUSED_TEXT)
        raise AssertionError("abort raises")

    def _hear(self, frames: Iterator[Frame], end: ConversationEnd, stream: int, uri: str) -> None:
        broken = self.host.hear(frames, end, stream)
        if broken is not None:
            self._report(broken, uri)

    def _report(self, doubt: Exception, uri: str | None) -> None:
        try:
            if not isinstance(doubt, PeerError):
                self.host.failures.append(("", "", doubt))
                doubt = Refused("I02", "A peer's certificate cannot be judged.")
            self.on_refused(doubt.rule, getattr(doubt, "uri", None) or uri)
        except Exception as failure:
            self.host.failures.append(("", "", failure))


def _let_go(end: ConversationEnd, stream: int, ended: threading.Event) -> None:
    end.detach(stream)
    ended.set()


class RunningServer:
    """A platform's open door. `failures` holds what handlers raised: (party, conversation, exception)."""

    def __init__(self, server: grpc.Server, host: Host, pool: ThreadPoolExecutor, port: int) -> None:
        self.port = port
        self.failures = host.failures
        self._server, self._host, self._pool = server, host, pool

    def stop(self, grace_s: float = 0.0) -> None:
        """Admit nobody more, give open conversations `grace_s` seconds, say farewell in the rest and join their threads.

        A bank that is cut off just then cannot be told: it finds nobody until its own window to resume has passed.
        """
        ended = self._server.stop(grace_s + FAREWELL_S)
        ended.wait(grace_s)
        self._host.close("the server is stopping")
        ended.wait(FAREWELL_S + CLOSE_DEADLINE_S)
        self._host.join(CLOSE_DEADLINE_S)
        self._pool.shutdown(wait=False, cancel_futures=True)


def serve(
    address: str,
    tls: ServerTls,
    parties: Mapping[str, PinnedPeer],
    handler: Handler,
    *,
    on_refused: OnRefused,
    max_streams: int = 64,
    max_streams_per_party: int = 16,
    send_deadline_s: float = SEND_DEADLINE_S,
    resume_window_s: float = RESUME_WINDOW_S,
    now: Now = UTC_NOW,
) -> RunningServer:
    """Listen on `address` (`host:port`, port 0 for any) and run `handler` for each conversation of a pinned peer.

    `parties` maps URIs to peers and is read anew for each stream: a peer that is taken out is refused from then on.
    `on_refused(rule, uri)` hears of each refusal. A conversation whose stream broke is kept `resume_window_s` seconds, and
    counts among the party's as long. Raises InputFault for unreadable files or a taken address.
    """
    switchboard = Switchboard(resume_window_s, max_streams, max_streams_per_party)
    host = Host(switchboard, partial(ResumableChannel, send_deadline_s=send_deadline_s), handler)
    streams = 2 * max_streams
    pool = ThreadPoolExecutor(streams, thread_name_prefix="lianxin-door")
    options = [*_OPTIONS, *_SERVER_OPTIONS, ("grpc.max_concurrent_streams", streams)]
    door = _Door(parties, host, on_refused, now)
    server = grpc.server(pool, handlers=[door], options=options, maximum_concurrent_rpcs=streams)
    pair = [(read_pem(tls.key), read_pem(tls.certificate))]
    credentials = grpc.ssl_server_credentials(pair, read_pem(tls.authority), require_client_auth=True)
    try:
        port = server.add_secure_port(address, credentials)
    except RuntimeError:
        raise InputFault(f"Cannot listen on {address}: is it taken, or are the TLS files no pair?") from None
    server.start()
    return RunningServer(server, host, pool, port)


class GrpcLink(Link):
    """A bank's connection to its platform; made at the first `open`, which waits until the platform is up."""

    def __init__(
        self,
        address: str,
        tls: ClientTls,
        platform: str = "platform",
        *,
        start_deadline_s: float = 30.0,
        send_deadline_s: float = SEND_DEADLINE_S,
        conversation_limit_s: float = CONVERSATION_LIMIT_S,
        resume_window_s: float = RESUME_WINDOW_S,
    ) -> None:
        """Prepare to dial `address`; raises InputFault when a TLS file cannot be used.

        A stream that breaks is dialled again for `resume_window_s` seconds, which should be under any step's deadline.
        """
        self._platform, self._resume_window_s = platform, resume_window_s
        self._start_deadline_s, self._send_deadline_s = start_deadline_s, send_deadline_s
        self._conversation_limit_s = conversation_limit_s
        pems = [read_pem(path) for path in (tls.pinned, tls.key, tls.certificate)]
        credentials = grpc.ssl_channel_credentials(*pems)
        name = ("grpc.ssl_target_name_override", tls.server_name)
        self._road = grpc.secure_channel(address, credentials, [*_OPTIONS, *_CLIENT_OPTIONS, name])
        self._channels: list[DialledChannel] = []

    def open(self, conversation: str, run: str) -> Channel:
        """Return a channel once the platform has admitted this party; raises InputFault, PeerError or PeerGone.

        The service is the one that the conversation id's first segment names.
        """
        check_ids(conversation, run)
        end = ConversationEnd(self._platform, conversation, self._resume_window_s)
        dialler = _Dialler(self._road, end, run, time.monotonic() + self._conversation_limit_s)
        try:
            first = self._first_stream(dialler)
        except PeerError:
            end.give_up()
            raise
        channel = DialledChannel(end, run, self._send_deadline_s, dialler.resume)
        channel.begin(first)
        self._channels = [c for c in self._channels if c.carrier.is_alive() or not c.closed] + [channel]
        return channel

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

    def __init__(self, road: grpc.Channel, end: ConversationEnd, run: str, limit_at: float) -> None:
        self._end, self._limit_at = end, limit_at
        self._method = road.stream_stream(f"/{PACKAGE}.{SERVICES[end.conversation.split('/')[0]]}/Converse")
        names = ((RUN_KEY, run), (CONVERSATION_KEY, end.conversation))
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
        outgoing = map(encode_frame, self._end.frames(number))
        try:
            call = self._method(outgoing, timeout=self._limit_at - time.monotonic(), metadata=metadata)
        except ValueError:  # the link was closed meanwhile
            raise self._unreachable() from None
        watchdog = threading.Timer(max(deadline_s, 0.0), call.cancel)
        watchdog.daemon = True
        watchdog.start()
        try:
            answer = {key: value for key, value in call.initial_metadata()}
            if ADMITTED[0] not in answer:
                raise self._refusal(call.code(), call.details() or "")
            if (heard_there := read_count(answer.get(HEARD_KEY))) is None:
                raise PeerError(f"{self._end.peer} does not say what it has heard: compare versions.", "I10")
            self._end.attach(number, heard_there)
            return Stream(number, _frames_of(call), call.cancel)
        except PeerError:
            call.cancel()
            raise
        finally:
            watchdog.cancel()

    def _refusal(self, status: grpc.StatusCode, details: str) -> PeerError:
        """Return what a person is told; `details` is searched for gRPC's own words and never shown."""
        peer, conversation = self._end.peer, self._end.conversation
        if status is grpc.StatusCode.UNAUTHENTICATED:
            return PeerError(f"{peer} refused conversation {conversation}: its log has the rule.", "I00")
        if status is grpc.StatusCode.RESOURCE_EXHAUSTED:
            return NoRoom(f"{peer} has no room for conversation {conversation} now: try again later.")
        if status is grpc.StatusCode.CANCELLED:
            return DeadlinePassed(f"{peer} did not admit conversation {conversation} in time.")
        if status is not grpc.StatusCode.UNAVAILABLE:
            return PeerGone(f"{peer} does not carry on conversation {conversation}: compare versions.")
        if "CERTIFICATE_VERIFY_FAILED" in details:
            text = f"What answers as {peer} shows another certificate than the pinned one, or that has expired"
            return PeerError(f"{text}: check the address, then ask its operator.", "I05")
        return self._unreachable()

    def _unreachable(self) -> Unreachable:
        return Unreachable(f"{self._end.peer} does not answer: is it running here, and does it know this certificate?")
