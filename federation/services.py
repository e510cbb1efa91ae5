"""The road between machines: gRPC with mutual TLS, one bidirectional stream a conversation, dialled by the bank.

Server side, this file: who speaks, what for, and which conversation a stream goes on with is decided by `admission` from
gRPC's AuthContext and the stream's metadata, before a byte is read. Whoever is refused is told REFUSED_TEXT, whatever the
rule; only a pinned peer of another wire protocol is told which ones are spoken here. Client side: `services_dialling`.

One gRPC message is one frame of `resumption`. A stream that breaks is dialled again and the conversation goes on; a dead
connection is noticed by keepalive pings within 16 s. A second stream for one conversation takes the place of the first,
which may be half dead: the server has room for as many streams again as conversations.

Memory is bounded: 4 MiB a message, a window of messages each way at each end, a fixed HTTP/2 window (bandwidth probing
would grow it), a fixed number of connections and conversations, no compression (attacks.md, row 23; `services_road`). What
a peer costs beyond that is counted by `limits`.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

import grpc

from lianxin.federation import listening, services_road
from lianxin.federation.admission import (
    FAREWELL_S,
    HEARD_KEY,
    PROTOCOL,
    PROTOCOL_KEY,
    Dial,
    Host,
    NoRoom,
    OtherProtocol,
    PinnedPeer,
    Refused,
    Switchboard,
    check_peer,
    check_protocol,
    read_dial,
    read_protocol,
)
from lianxin.federation.channel import (
    CLOSE_DEADLINE_S,
    SEND_DEADLINE_S,
    Handler,
    ResumableChannel,
)
from lianxin.federation.errors import PeerError, PeerGone
from lianxin.federation.limits import Limits, Toll, TooOften
from lianxin.federation.resumption import RESUME_WINDOW_S, ConversationEnd, Frame
from lianxin.federation.services_dialling import GrpcLink as GrpcLink
from lianxin.federation.services_health import HealthDoor
from lianxin.federation.services_road import ADMITTED, PATHS, bytes_of, frames_of
from lianxin.federation.services_road import decode_frame as decode_frame
from lianxin.federation.services_road import encode_frame as encode_frame
from lianxin.federation.services_tls import server_credentials
from lianxin.federation.tls import Tls

REFUSED_TEXT = "this peer or conversation is not admitted"
OTHER_PROTOCOL_TEXT = "another wire protocol is spoken here"

OnRefused = Callable[[str, str | None], None]
Now = Callable[[], datetime]
UTC_NOW: Now = partial(datetime.now, UTC)


@dataclass(eq=False)
class _Door(grpc.GenericRpcHandler):
    """Admits each stream, then moves frames between it and its conversation: a reader thread and gRPC's own writer."""

    parties: Mapping[str, PinnedPeer]
    host: Host
    on_refused: OnRefused
    now: Now
    toll: Toll

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        """Return the handler of one of the services; None (unimplemented) for any other path."""
        kind = PATHS.get(handler_call_details.method)
        if kind is None:
            return None
        return grpc.stream_stream_rpc_method_handler(partial(self._converse, kind))

    def _converse(self, kind: str, incoming: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        ended = threading.Event()
        dial, end, stream, uri = self._admit(kind, context, lambda seconds: ended.wait(seconds) or context.cancel())
        heard = frames_of(incoming, partial(self.toll.heard, dial.party, dial.run))
        # the reader comes first: a dial that is cancelled here raises below, and only the reader sees that it is gone
        threading.Thread(target=self._hear, args=(heard, end, stream, uri), daemon=True).start()
        if not context.add_callback(partial(_let_go, end, stream, ended)):
            _let_go(end, stream, ended)
        context.send_initial_metadata((ADMITTED, (HEARD_KEY, str(end.heard)), (PROTOCOL_KEY, str(PROTOCOL))))
        yield from bytes_of(end, stream, partial(self._charge, dial, uri))
        if end.fault is not None and not isinstance(end.fault, PeerGone):
            context.abort(grpc.StatusCode.UNAUTHENTICATED, REFUSED_TEXT)

    def _admit(
        self, kind: str, context: grpc.ServicerContext, cut_after: Callable[[float], object]
    ) -> tuple[Dial, ConversationEnd, int, str]:
        uri: str | None = None
        status, told = grpc.StatusCode.UNAUTHENTICATED, REFUSED_TEXT
        try:
            peer, uri = check_peer(context.auth_context(), self.parties, self.now())
            self.toll.dial(peer.party)
            check_protocol(read_protocol(context.invocation_metadata()), peer.party)
            others = {pinned.party for pinned in list(self.parties.values())} - {peer.party}
            dial = read_dial(context.invocation_metadata(), kind, peer.party, others)
            return dial, *self.host.connect(dial, cut_after), uri
        except Exception as doubt:  # whatever it is, gRPC would send its text to the peer
            if self.toll.is_worth_telling(_address(context), uri):
                self._report(doubt, uri)
            if isinstance(doubt, NoRoom | TooOften):
                status = grpc.StatusCode.RESOURCE_EXHAUSTED
            elif isinstance(doubt, OtherProtocol):
                status, told = grpc.StatusCode.FAILED_PRECONDITION, OTHER_PROTOCOL_TEXT
                context.set_trailing_metadata(((PROTOCOL_KEY, str(PROTOCOL)),))
        context.abort(status, told)
        raise AssertionError("abort raises")

    def _charge(self, dial: Dial, uri: str, size: int) -> None:
        try:
            self.toll.said(dial.party, dial.run, size)
        except PeerError as over:
            self._report(over, uri)
            raise

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


def _address(context: grpc.ServicerContext) -> str:
    """Return a peer's network address without its port, as gRPC shows it."""
    return str(context.peer()).rpartition(":")[0]


def _let_go(end: ConversationEnd, stream: int, ended: threading.Event) -> None:
    end.detach(stream)
    ended.set()


class RunningServer:
    """A platform's open door. `failures` holds what handlers raised: (party, conversation, exception)."""

    def __init__(self, server: grpc.Server, host: Host, pool: ThreadPoolExecutor, port: int) -> None:
        self.port = port
        self.failures = host.failures
        self._server, self._host, self._pool = server, host, pool

    def cut(self, party: str) -> None:
        """End every conversation of `party` at once: it is trusted no more (rule I20)."""
        self._host.cut(party, "I20")

    @property
    def conversations(self) -> int:
        """How many conversations are open."""
        return self._host.open_count

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
    tls: Tls,
    parties: Mapping[str, PinnedPeer],
    handler: Handler,
    *,
    on_refused: OnRefused,
    max_streams: int = 64,
    max_streams_per_party: int = 16,
    send_deadline_s: float = SEND_DEADLINE_S,
    resume_window_s: float = RESUME_WINDOW_S,
    now: Now = UTC_NOW,
    toll: Toll | None = None,
    is_serving: Callable[[], bool] | None = None,
    own: Mapping[str, PinnedPeer] | None = None,
) -> RunningServer:
    """Listen on `address` (`host:port`, port 0 for any) and run `handler` for each conversation of a pinned peer.

    `parties` maps URIs to peers and is read anew for each stream: a peer that is taken out is refused from then on.
    `on_refused(rule, uri)` hears of each refusal. A conversation whose stream broke is kept `resume_window_s` seconds, and
    counts among the party's as long. `toll` counts what each peer costs, by the default limits unless given. `is_serving` is
    what the health service says to peers and to who shows a certificate of `own`. Raises InputFault for unreadable files,
    StillHeld for a taken address.
    """
    switchboard = Switchboard(resume_window_s, max_streams, max_streams_per_party)
    host = Host(switchboard, partial(ResumableChannel, send_deadline_s=send_deadline_s), handler)
    streams = 2 * max_streams
    pool = ThreadPoolExecutor(streams, thread_name_prefix="lianxin-door")
    toll = toll or Toll(Limits(), time.monotonic, lambda: now().strftime("%Y-%m-%d"))
    bounds = [
        ("grpc.max_concurrent_streams", streams),
        ("grpc.max_allowed_incoming_connections", toll.limits.connections_in_all),
    ]
    options = [*services_road.OPTIONS, *services_road.SERVER_OPTIONS, *bounds]
    door = _Door(parties, host, on_refused, now, toll)
    health = [HealthDoor(parties, is_serving, now, toll.dial, own or {})] if is_serving is not None else []
    server = grpc.server(pool, handlers=[door, *health], options=options, maximum_concurrent_rpcs=streams)
    try:
        port = server.add_secure_port(address, server_credentials(tls))
    except RuntimeError:
        listening.refuse(address, tls)
    server.start()
    return RunningServer(server, host, pool, port)
