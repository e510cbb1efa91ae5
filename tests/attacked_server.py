"""A platform's door in a process of its own, so that its memory can be read while it is attacked.

Its handler sends back what it is sent. `python attacked_server.py NETWORK LIFTED...` prints its port and then, for each
line that it reads, one JSON object about itself. Each word of LIFTED takes one defence away.
"""

import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from lianxin.federation import resumption, services_road
from lianxin.federation.channel import Channel
from lianxin.federation.errors import LianxinError
from lianxin.federation.limits import Limits, Toll
from lianxin.federation.services import serve
from lianxin.parties.identity import load_identity

HANDSHAKE_MS = 700
SHARE = 8
MANY = 2**20
STRANGER = "bank-3"  # has a certificate of the network's authority and is not pinned


class Attacked:
    """A server that is running, as a test sees it."""

    def __init__(self, network: Path, *lifted: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__)), str(network), *lifted],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.port = int(self._read())

    @property
    def rss(self) -> int:
        """The bytes of memory that the server's process has now."""
        return int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def ask(self) -> dict[str, Any]:
        """Return what the server says about itself."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return json.loads(self._read())

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def stop(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()


def lift(lifted: list[str]) -> None:
    """Take away the defences that stand in options and constants."""
    more: list[tuple[str, Any]] = [("grpc.server_handshake_timeout_ms", HANDSHAKE_MS)]
    if "sizes" in lifted:
        more += [("grpc.max_receive_message_length", -1)]
    if "compression" in lifted:
        more += [("grpc.compression_enabled_algorithms_bitset", 7)]
    if "metadata" in lifted:
        more += [("grpc.max_metadata_size", 2**29), ("grpc.absolute_max_metadata_size", 2**30)]
    if "handshakes" in lifted:
        more += [("grpc.server_handshake_timeout_ms", 120_000)]
    if "window" in lifted:
        resumption.WINDOW_MESSAGES = 2**30
        resumption.Pipe.__init__.__defaults__ = (2**30, 2**40, None)
    changed = dict(more)
    for options in (services_road.OPTIONS, services_road.SERVER_OPTIONS):
        options[:] = [(key, value) for key, value in options if key not in changed]
    services_road.SERVER_OPTIONS += list(changed.items())


def main(network: Path, *lifted: str) -> None:
    refused: Counter[str] = Counter()
    opened: Counter[str] = Counter()

    def echo(channel: Channel) -> None:
        opened[channel.peer] += 1
        try:
            while True:
                channel.send(channel.receive(30.0))
        except LianxinError:
            return

    lift(list(lifted))
    me = load_identity(network / "platform")
    pinned = {uri: peer for uri, peer in me.pinned_peers().items() if peer.party != STRANGER or "pins" in lifted}
    most = MANY if "dials" in lifted else 1_200
    limits = Limits(
        dials_per_minute=most, message_bytes=2**40 if "sizes" in lifted else 4 * 2**20,
        connections_in_all=MANY if "handshakes" in lifted else 64,
    )  # fmt: skip
    share = 2000 if "conversations" in lifted else SHARE
    server = serve(
        "127.0.0.1:0", me.server_tls(), pinned, echo, on_refused=lambda rule, uri: refused.update([rule]),
        max_streams=4 * share, max_streams_per_party=share, resume_window_s=1.0, send_deadline_s=30.0,
        toll=Toll(limits, time.monotonic, lambda: "2026-01-05"),
    )  # fmt: skip
    print(server.port, flush=True)
    for _ in sys.stdin:
        attended = list(server._host._attended)
        kept = max(
            (end.inbox.count - end.inbox.left + end.outbox.count - end.outbox.left for end in attended), default=0
        )
        about = {"refused": dict(refused), "opened": dict(opened), "open": len(attended), "kept": kept}
        print(json.dumps(about | {"threads": threading.active_count()}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
