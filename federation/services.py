"""The road between machines: gRPC with mutual TLS, one bidirectional stream a conversation, dialled by the bank.

Server side: `check_peer` decides who speaks from gRPC's AuthContext, before a byte is read (attacks.md, row 25):

    I01  the TLS version is 1.3                  (gRPC Python cannot refuse 1.2 in the handshake)
    I02  there is a client certificate, and it parses
    I03  it has exactly one URI name, the same that the AuthContext shows
    I04  that URI is pinned
    I05  the SHA-256 of the certificate is the one pinned for that URI
    I06  it is valid now                         (a connection may outlive its certificate)
    I07  run and conversation ids are well formed, fit the service and name no other pinned party
    I08  the party has no more than its share of conversations open

I03 reads the certificate too because the AuthContext cuts a name at its first NUL byte: `spiffe://x/bank\\0.evil` shows
there as `spiffe://x/bank`. A certificate that is expired or another authority's fails in the handshake already, of
which gRPC Python tells nobody.

Client side: gRPC Python shows no AuthContext, so the pinned server certificate is the connection's only trust root
(gRPC verifies partial chains: a leaf may be a root). TLS compares a name fixed in `ClientTls`; the address dialled
proves nothing. The first signed envelope each way, another module's work, says again who is there.

Memory is bounded: 4 MiB a message, `QUEUE_MESSAGES` a direction, a fixed HTTP/2 window (bandwidth probing would grow
it), a fixed number of conversations, no compression (attacks.md, row 23).
"""

import hashlib
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from lianxin.federation.channel import (
    CLOSE_DEADLINE_S,
    FAILURES_KEPT,
    SEND_DEADLINE_S,
    SERVICES,
    Channel,
    ClientTls,
    Handler,
    Link,
    PinnedPeer,
    Pipe,
    PipedChannel,
    PipeEnded,
    ServerTls,
    check_ids,
    is_opening,
    read_pem,
)
from lianxin.federation.errors import DeadlinePassed, InputFault, PeerError, PeerGone

PACKAGE = "lianxin.party"
RUN_KEY, CONVERSATION_KEY = "lianxin-run", "lianxin-conversation"
REFUSED_TEXT = "this peer or conversation is not admitted"
ADMITTED = ("lianxin-admitted", "1")
CONVERSATION_LIMIT_S = 24 * 3600.0
_RECEIVE_LIMIT_BYTES = 4 * 2**20
_ATTEMPT_S = 0.2
_OPTIONS: list[tuple[str, Any]] = [
    ("grpc.max_receive_message_length", _RECEIVE_LIMIT_BYTES),
    ("grpc.max_send_message_length", _RECEIVE_LIMIT_BYTES),
    ("grpc.max_metadata_size", 8 * 1024),
    ("grpc.absolute_max_metadata_size", 16 * 1024),
    ("grpc.default_compression_algorithm", 0),
    ("grpc.compression_enabled_algorithms_bitset", 1),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 2 * 2**20),
]
_SERVER_OPTIONS: list[tuple[str, Any]] = [
    ("grpc.so_reuseport", 0),
    ("grpc.server_handshake_timeout_ms", 10_000),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
    ("grpc.http2.max_ping_strikes", 2),
]
_CLIENT_OPTIONS: list[tuple[str, Any]] = [
    ("grpc.enable_retries", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
]
_PATHS = {f"/{PACKAGE}.{service}/Converse": kind for kind, service in SERVICES.items()}

OnRefused = Callable[[str, str | None], None]
Now = Callable[[], datetime]
UTC_NOW: Now = partial(datetime.now, UTC)


def check_peer(auth: Mapping[str, Any], parties: Mapping[str, PinnedPeer], now: datetime) -> tuple[PinnedPeer, str]:
    """Return the pinned peer that an AuthContext proves, with its URI; raises PeerError with rule I01 to I06."""
    if list(auth.get("ssl_tls_version", ())) != [b"TLSv1.3"]:
        raise _Refused("I01", "A peer connected with another TLS version than 1.3.")
    certificate = _only_certificate(auth)
    uri = _only_uri(auth, certificate)
    pinned = parties.get(uri)
    if pinned is None:
        raise _Refused("I04", "A peer's URI is not pinned here.", uri)
    if hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest() != pinned.certificate_sha256:
        raise _Refused("I05", f"A peer shows the URI of {pinned.party} with a certificate that is not pinned.", uri)
    if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
        raise _Refused("I06", f"The certificate of {pinned.party} is not valid now: renew and pin it anew.", uri)
    return pinned, uri


class _Refused(PeerError):
    """A peer that is not admitted; `uri` is what its certificate says, if it says one thing."""

    def __init__(self, rule: str, message: str, uri: str | None = None) -> None:
        super().__init__(message, rule)
        self.uri = uri


def _only_certificate(auth: Mapping[str, Any]) -> x509.Certificate:
    try:
        (pem,) = auth.get("x509_pem_cert", ())
        return x509.load_pem_x509_certificate(pem)
    except ValueError:
        raise _Refused("I02", "A peer's certificate is missing or cannot be read.") from None


def _only_uri(auth: Mapping[str, Any], certificate: x509.Certificate) -> str:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        (uri,) = names.get_values_for_type(x509.UniformResourceIdentifier)
        (shown,) = auth.get("peer_uri", ())
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension):
        raise _Refused("I03", "A peer's certificate does not have exactly one URI name.") from None
    if shown != uri.encode():
        raise _Refused("I03", "A peer's URI name is not what TLS shows of it.")
    return uri


def _asked_for(metadata: Any, kind: str, peer: PinnedPeer, uri: str, known: set[str]) -> tuple[str, str]:
    values = [[value for key, value in metadata if key == wanted] for wanted in (CONVERSATION_KEY, RUN_KEY)]
    if [len(found) for found in values] != [1, 1]:
        raise _Refused("I07", f"{peer.party} named no run or conversation, or more than one.", uri)
    conversation, run = values[0][0], values[1][0]
    if not is_opening(conversation, run, kind, strangers=known - {peer.party}):
        raise _Refused("I07", f"{peer.party} may not open a conversation under these ids.", uri)
    return conversation, run


@dataclass(eq=False)
class _Door(grpc.GenericRpcHandler):
    """Admits each stream, then runs the handler over it: a reader thread, a handler thread and gRPC's own writer."""

    parties: Mapping[str, PinnedPeer]
    handler: Handler
    on_refused: OnRefused
    share: int
    send_deadline_s: float
    now: Now
    failures: deque[tuple[str, str, Exception]] = field(default_factory=partial(deque, maxlen=FAILURES_KEPT))
    handling: dict[threading.Thread, PipedChannel] = field(default_factory=dict)
    _open: Counter[str] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        """Return the handler of one of the four services; None (unimplemented) for any other path."""
        kind = _PATHS.get(handler_call_details.method)
        if kind is None:
            return None
        return grpc.stream_stream_rpc_method_handler(partial(self._converse, kind))

    def _converse(self, kind: str, incoming: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        channel = self._admit(kind, context)
        ended = threading.Event()
        thread = threading.Thread(target=self._handle, args=(channel, context, ended), daemon=True)
        with self._lock:
            self.handling[thread] = channel
        thread.start()
        if not context.add_callback(lambda: _terminate(channel, ended)):
            _terminate(channel, ended)
        context.send_initial_metadata((ADMITTED,))
        threading.Thread(target=_pour, args=(incoming, channel), daemon=True).start()
        yield from channel.outbox.drain()

    def _admit(self, kind: str, context: grpc.ServicerContext) -> PipedChannel:
        try:
            peer, uri = check_peer(context.auth_context(), self.parties, self.now())
            known = {pinned.party for pinned in list(self.parties.values())}
            conversation, run = _asked_for(context.invocation_metadata(), kind, peer, uri, known)
            self._take_share(peer, uri)
        except Exception as doubt:  # whatever it is, gRPC would send its text to the peer
            self._report(doubt)
            context.abort(grpc.StatusCode.UNAUTHENTICATED, REFUSED_TEXT)
        return PipedChannel(peer.party, conversation, run, Pipe(), Pipe(), self.send_deadline_s)

    def _take_share(self, peer: PinnedPeer, uri: str) -> None:
        with self._lock:
            if self._open[peer.party] >= self.share:
                raise _Refused("I08", f"{peer.party} has {self.share} conversations open and wants another.", uri)
            self._open[peer.party] += 1

    def _report(self, doubt: Exception) -> None:
        try:
            if not isinstance(doubt, _Refused):
                self.failures.append(("", "", doubt))
                doubt = _Refused("I02", "A peer's certificate cannot be judged.")
            self.on_refused(doubt.rule, doubt.uri)
        except Exception as failure:
            self.failures.append(("", "", failure))

    def _handle(self, channel: PipedChannel, context: grpc.ServicerContext, ended: threading.Event) -> None:
        try:
            self.handler(channel)
        except Exception as failure:
            self.failures.append((channel.peer, channel.conversation, failure))
        finally:
            channel.close()
            if not ended.wait(CLOSE_DEADLINE_S):
                context.cancel()
            with self._lock:
                self._open[channel.peer] -= 1
                self.handling.pop(threading.current_thread(), None)


def _pour(incoming: Iterable[bytes], channel: PipedChannel) -> None:
    """Move what arrives into the channel's inbox, and past it once this end has closed."""
    try:
        for message in incoming:
            with suppress(PipeEnded):
                channel.inbox.put(message)
    except grpc.RpcError:
        channel.outbox.end(drop=True)
    finally:
        channel.inbox.end()


def _terminate(channel: PipedChannel, ended: threading.Event) -> None:
    channel.inbox.end()
    channel.outbox.end(drop=True)
    ended.set()


class RunningServer:
    """A platform's open door. `failures` holds what handlers raised: (party, conversation, exception)."""

    def __init__(self, server: grpc.Server, door: _Door, pool: ThreadPoolExecutor, port: int) -> None:
        self.port = port
        self.failures = door.failures
        self._server, self._door, self._pool = server, door, pool

    def stop(self, grace_s: float = 0.0) -> None:
        """Admit nobody more, give open conversations `grace_s` seconds, cut the rest and join their threads."""
        self._server.stop(grace_s).wait(grace_s + CLOSE_DEADLINE_S)
        for thread, channel in list(self._door.handling.items()):
            channel.close("the server is stopping")
            thread.join(CLOSE_DEADLINE_S)
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
    now: Now = UTC_NOW,
) -> RunningServer:
    """Listen on `address` (`host:port`, port 0 for any) and run `handler` for each conversation of a pinned peer.

    `parties` maps URIs to peers and is read anew for each conversation: a peer that is taken out is refused from then
    on. `on_refused(rule, uri)` hears of each refusal. Raises InputFault for unreadable files or a taken address.
    """
    door = _Door(parties, handler, on_refused, max_streams_per_party, send_deadline_s, now)
    pool = ThreadPoolExecutor(max_streams, thread_name_prefix="lianxin-door")
    options = [*_OPTIONS, *_SERVER_OPTIONS, ("grpc.max_concurrent_streams", max_streams)]
    server = grpc.server(pool, handlers=[door], options=options, maximum_concurrent_rpcs=max_streams)
    pair = [(read_pem(tls.key), read_pem(tls.certificate))]
    credentials = grpc.ssl_server_credentials(pair, read_pem(tls.authority), require_client_auth=True)
    try:
        port = server.add_secure_port(address, credentials)
    except RuntimeError:
        raise InputFault(f"Cannot listen on {address}: is it taken, or are the TLS files no pair?") from None
    server.start()
    return RunningServer(server, door, pool, port)


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
    ) -> None:
        """Prepare to dial `address`; raises InputFault when a TLS file cannot be used."""
        self._platform = platform
        self._start_deadline_s, self._send_deadline_s = start_deadline_s, send_deadline_s
        self._conversation_limit_s = conversation_limit_s
        pems = [read_pem(path) for path in (tls.pinned, tls.key, tls.certificate)]
        credentials = grpc.ssl_channel_credentials(*pems)
        name = ("grpc.ssl_target_name_override", tls.server_name)
        self._road = grpc.secure_channel(address, credentials, [*_OPTIONS, *_CLIENT_OPTIONS, name])
        self._channels: list[_GrpcChannel] = []

    def open(self, conversation: str, run: str) -> Channel:
        """Return a channel once the platform has admitted this party; raises InputFault, PeerError or PeerGone.

        The service is the one that the conversation id's first segment names.
        """
        check_ids(conversation, run)
        until = time.monotonic() + self._start_deadline_s
        while True:
            channel = self._attempt(conversation, run)
            try:
                channel.await_admission(until - time.monotonic())
            except _Unreachable:
                if time.monotonic() + _ATTEMPT_S > until:
                    raise
                time.sleep(_ATTEMPT_S)
                continue
            self._channels = [c for c in self._channels if not c.closed] + [channel]
            return channel

    def close(self) -> None:
        """See `Link.close`."""
        for channel in self._channels:
            channel.close("the link was closed")
        self._road.close()

    def _attempt(self, conversation: str, run: str) -> "_GrpcChannel":
        channel = _GrpcChannel(self._platform, conversation, run, Pipe(), Pipe(), self._send_deadline_s)
        method = f"/{PACKAGE}.{SERVICES[conversation.split('/')[0]]}/Converse"
        metadata = ((RUN_KEY, run), (CONVERSATION_KEY, conversation))
        limit_s, outgoing = self._conversation_limit_s, channel.outbox.drain()
        channel.begin(self._road.stream_stream(method)(outgoing, timeout=limit_s, metadata=metadata))
        return channel


class _Unreachable(PeerGone):
    """No connection yet, or it ended before anything was said: worth another attempt while the deadline allows."""


class _GrpcChannel(PipedChannel):
    """The bank's end of a stream: gRPC's own thread empties the outbox, a reader thread fills the inbox."""

    def begin(self, call: Any) -> None:
        """Read from `call` until it ends."""
        self._call = call
        self._refused: PeerError | None = None
        self._answered, self._over = threading.Event(), threading.Event()
        threading.Thread(target=self._read, daemon=True).start()

    def await_admission(self, deadline_s: float) -> None:
        """Return once the platform has admitted the conversation; raises PeerError, PeerGone or DeadlinePassed."""
        if not self._answered.wait(deadline_s):
            self._call.cancel()
            raise DeadlinePassed(f"{self.peer} did not admit conversation {self.conversation} in time.")
        if self._refused is not None:
            raise self._refused

    def close(self, reason: str = "") -> None:
        """End both ways: the peer has a few seconds to read what was sent and to end too, then it is cut off."""
        super().close(reason)
        self._over.wait(CLOSE_DEADLINE_S)
        self._call.cancel()

    def _read(self) -> None:
        if ADMITTED not in [tuple(item) for item in self._call.initial_metadata()]:
            self._refused = self._refusal(self._call.code(), self._call.details() or "")
        self._answered.set()
        _pour(self._call, self)
        _terminate(self, self._over)

    def _refusal(self, status: grpc.StatusCode, details: str) -> PeerError:
        """Return what a person is told; `details` is searched for gRPC's own words and never shown."""
        if status is grpc.StatusCode.UNAUTHENTICATED:
            return PeerError(f"{self.peer} refused conversation {self.conversation}: its log has the rule.", "I00")
        if status is grpc.StatusCode.RESOURCE_EXHAUSTED:
            return PeerGone(f"{self.peer} has no room for conversation {self.conversation} now: try again later.")
        if status is not grpc.StatusCode.UNAVAILABLE:
            return PeerGone(f"{self.peer} does not carry on conversation {self.conversation}: compare versions.")
        if "CERTIFICATE_VERIFY_FAILED" in details:
            text = f"What answers as {self.peer} shows another certificate than the pinned one, or that has expired"
            return PeerError(f"{text}: check the address, then ask its operator.", "I05")
        return _Unreachable(f"{self.peer} does not answer: is it running here, and does it know this certificate?")
