"""A network that fails on command: a relay on the loopback interface between those who dial and one server.

It moves bytes and understands none. Everything it can do to them, anybody between a bank and its platform can.
"""

import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

_PIECE = 64 * 1024
SPOILED: Mapping[str, Callable[[bytes], bytes]] = {  # what an evil or broken road makes of a piece
    "changed by one bit": lambda piece: piece[:-1] + bytes([piece[-1] ^ 1]),
    "twice": lambda piece: piece + piece,
    "in another order": lambda piece: piece[len(piece) // 2 :] + piece[: len(piece) // 2],
}


@dataclass(eq=False)
class _Pair:
    """A connection through the relay: the dialler's socket and the one to the server."""

    near: socket.socket
    far: socket.socket
    moving: threading.Event = field(default_factory=threading.Event)

    def cut(self) -> None:
        """End it in both directions; what was not read yet is lost."""
        self.moving.set()
        for end in (self.near, self.far):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue


class CuttingProxy:
    """Listens on `address` and relays to `target` (`host:port`). `connections` counts those it has let through."""

    def __init__(self, target: str) -> None:
        host, port = target.rsplit(":", 1)
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.connections = 0
        self._pairs: list[_Pair] = []
        self._open = True
        self._bytes_left: int | None = None
        self._spoil, self.spoiled = "", 0
        self._rate_bytes_s = 0
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """End every connection now; new ones are let through."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            pair.cut()

    def cut_after(self, size_bytes: int) -> None:
        """Let this many bytes more through, both directions together, then cut once."""
        with self._lock:
            self._bytes_left = size_bytes

    def sever(self) -> None:
        """Cut, and turn away whoever dials until `mend`."""
        self._open = False
        self.cut()

    def mend(self) -> None:
        """Let new connections through again, and held bytes."""
        self._open = True
        for pair in self._pairs:
            pair.moving.set()

    def stall(self) -> None:
        """Hold the bytes of every connection that there is, until `mend`, without ending any."""
        for pair in self._pairs:
            pair.moving.clear()

    def spoil(self, how: str) -> None:
        """Pass the next piece of bytes on as `SPOILED[how]` makes it, once. `spoiled` counts what was passed on so."""
        self._spoil = how

    def slow(self, rate_bytes_s: int) -> None:
        """Pass so many bytes a second in each direction of each connection from now on; 0 is as many as come."""
        self._rate_bytes_s = rate_bytes_s

    def close(self) -> None:
        """End everything."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if not self._open:
                near.close()
                continue
            try:
                far = socket.create_connection(self._target, timeout=5.0)
            except OSError:
                near.close()
                continue
            self._join(near, far)

    def _join(self, near: socket.socket, far: socket.socket) -> None:
        for end in (near, far):
            end.settimeout(None)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        pair = _Pair(near, far)
        pair.moving.set()
        with self._lock:
            self._pairs.append(pair)
            self.connections += 1
        for source, sink in ((near, far), (far, near)):
            threading.Thread(target=self._move, args=(pair, source, sink), daemon=True).start()

    def _move(self, pair: _Pair, source: socket.socket, sink: socket.socket) -> None:
        try:
            while piece := source.recv(_PIECE):
                pair.moving.wait()
                piece = self._spoiled(piece)
                passing = self._allowed(len(piece))
                self._pass_on(sink, piece[:passing])
                if passing < len(piece):
                    self.cut()
        except OSError:
            pass
        pair.cut()
        source.close()

    def _allowed(self, size: int) -> int:
        with self._lock:
            if self._bytes_left is None:
                return size
            allowed = min(size, self._bytes_left)
            self._bytes_left = None if allowed < size else self._bytes_left - allowed
            return allowed

    def _spoiled(self, piece: bytes) -> bytes:
        with self._lock:
            how, self._spoil = self._spoil, ""
            self.spoiled += bool(how)
        return SPOILED[how](piece) if how else piece

    def _pass_on(self, sink: socket.socket, piece: bytes) -> None:
        sent = 0
        while sent < len(piece) and (rate := self._rate_bytes_s):
            some = piece[sent : sent + max(1, rate // 20)]
            time.sleep(len(some) / rate)
            sink.sendall(some)
            sent += len(some)
        sink.sendall(piece[sent:])
