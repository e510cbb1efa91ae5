"""What both ends of the gRPC road share: its options, and one frame of `resumption` as the bytes of one gRPC message.

Which option stands against what (attacks.md, row 23; docs/limits.md; tests/attacks/test_23_grpc_bombs.py):

- messages: 4 MiB each way, no compression, so that none unfolds to more than came;
- header lists: 8 KiB, past which gRPC refuses at random more and more of them, and 16 KiB, past which it refuses all;
- pings: every 8 s, answered within 8 s, so that a peer that died silently is noticed in 16 s; the server parts from a client
  that pings more often than every 4 s;
- handshakes: 10 s, then the connection is closed;
- HTTP/2 windows: fixed, because bandwidth probing would let them grow.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from lianxin.federation.admission import SERVICES
from lianxin.federation.errors import PeerError
from lianxin.federation.resumption import ConversationEnd, Frame
from lianxin.proto import party_pb2

PACKAGE = "lianxin.party"
PATHS = {f"/{PACKAGE}.{service}/Converse": kind for kind, service in SERVICES.items()}
ADMITTED = ("lianxin-admitted", "1")
_ENVELOPE_TAG = b"\x1a"  # field 3, length-delimited
RECEIVE_LIMIT_BYTES = 4 * 2**20
OPTIONS: list[tuple[str, Any]] = [
    ("grpc.max_receive_message_length", RECEIVE_LIMIT_BYTES),
    ("grpc.max_send_message_length", RECEIVE_LIMIT_BYTES),
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
SERVER_OPTIONS: list[tuple[str, Any]] = [
    ("grpc.so_reuseport", 0),
    ("grpc.server_handshake_timeout_ms", 10_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 4_000),
    ("grpc.http2.max_ping_strikes", 2),
]
CLIENT_OPTIONS: list[tuple[str, Any]] = [
    ("grpc.enable_retries", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
]
Weigh = Callable[[int], float]
Charge = Callable[[int], None]


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


def frames_of(call: Any, weigh: Weigh) -> Iterator[Frame]:
    """Yield what comes on a stream until it ends, however it ends; `weigh(size)` is asked before each is looked at.

    Raises PeerError: what `weigh` raises, and I10. The seconds that it returns are waited before the next is read: what
    the peer says meanwhile stays with the peer, held back by HTTP/2's own windows.
    """
    try:
        for data in call:
            hold_s = weigh(len(data))
            yield decode_frame(data)
            if hold_s:
                time.sleep(hold_s)
    except grpc.RpcError:
        return


def bytes_of(end: ConversationEnd, stream: int, charge: Charge) -> Iterator[bytes]:
    """Yield what `end` has to say on `stream`, as it crosses; `charge(size)` is asked before each.

    A PeerError of `charge` ends the conversation.
    """
    for data in map(encode_frame, end.frames(stream)):
        try:
            charge(len(data))
        except PeerError as over:
            end.lose(over)
            return
        yield data
