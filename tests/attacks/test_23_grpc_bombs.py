"""Attack 23: a pinned bank, or nobody at all, that would fill a platform's memory or keep others out, over gRPC.

The platform's door runs in a process of its own and the attack in another, both on the loopback interface and bounded in
number and time. Under each attack the server's memory stays under twice what it was, and a bank that keeps the rules is
served all the while. The controls take one defence away, and the same attack succeeds.
"""

import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import hostile_peer
import pytest
from attacked_server import SHARE, STRANGER, Attacked
from torture import FACTOR

from lianxin.federation import services_road
from lianxin.federation.resumption import WINDOW_MESSAGES
from lianxin.federation.services import GrpcLink
from lianxin.parties.identity import load_identity, make_network

MIB = 2**20
TINY = 100_000 * min(FACTOR, 10)


class MachineClock:
    def now(self) -> str:
        return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass
class Seen:
    """What there was to see while an attack went on: the server's memory, an honest bank's round trips, what it kept."""

    before: int
    peak: int
    quiet_s: float
    trips_s: list[float] = field(default_factory=list)
    open: int = 0
    kept: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    opened: dict[str, int] = field(default_factory=dict)
    did: dict[str, Any] = field(default_factory=dict)

    @property
    def grown(self) -> int:
        return self.peak - self.before


class Scene:
    """An attacked server and an honest bank that talks to it."""

    def __init__(self, network: Path, *lifted: str) -> None:
        self._network, self.server = network, Attacked(network, *lifted)
        self._link = GrpcLink(f"127.0.0.1:{self.server.port}", load_identity(network / "bank-1").client_tls("platform"))
        self._channel = self._link.open("matching/bank-1", "run-0001")
        self._quiet_s = statistics.median(self._trip() for _ in range(40))

    def _trip(self) -> float:
        began = time.monotonic()
        self._channel.send(b"x" * 100)
        assert len(self._channel.receive(5.0)) == 100
        return time.monotonic() - began

    def under(self, attack: str, number: int, seconds: float, tries: int = 3) -> Seen:
        """Return what was seen while `attack` went on; it is begun again where the attacker's own process broke down."""
        before, rss = self.server.ask(), self.server.rss
        seen = Seen(rss, rss, self._quiet_s)
        process = hostile_peer.begin(self._network, self.server.port, attack, number, seconds)
        while process.poll() is None:
            seen.trips_s.append(self._trip())
            about = self.server.ask()
            seen.peak = max(seen.peak, self.server.rss)
            seen.open, seen.kept = max(seen.open, about["open"]), max(seen.kept, about["kept"])
            time.sleep(0.01)
        said = process.communicate()[0]
        if process.returncode and tries > 1:
            return self.under(attack, number, seconds, tries - 1)
        seen.did = json.loads(said)
        about = self.server.ask()
        seen.refused = _since(before["refused"], about["refused"])
        seen.opened = _since(before["opened"], about["opened"])
        return seen

    def close(self) -> None:
        self._link.close()
        self.server.stop()


def _since(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    return {name: count - before.get(name, 0) for name, count in after.items() if count != before.get(name, 0)}


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("network")
    make_network(folder, "platform", ["bank-1", "bank-2", STRANGER], None, MachineClock(), 2)
    return folder


@pytest.fixture(scope="module")
def defended(network: Path) -> Iterator[Scene]:
    scene = Scene(network)
    yield scene
    scene.close()


@pytest.fixture
def lifted(network: Path) -> Iterator[Callable[..., Scene]]:
    """A server without the defences that are named."""
    scenes: list[Scene] = []

    def make(*names: str) -> Scene:
        scenes.append(Scene(network, *names))
        return scenes[-1]

    yield make
    for scene in scenes:
        scene.close()


ATTACKS: dict[str, tuple[int, float]] = {
    "big_messages": (3, 4.0),
    "gzip_bombs": (5, 2.0),
    "tiny_messages": (TINY, 5.0 * TINY / 100_000),
    "slow_handshakes": (60, 1.6),
    "slow_streams": (200, 2.0),
    "header_bombs": (10, 2.0),
    "endless_headers": (4_000, 2.0),
    "rapid_resets": (10_000, 3.0),
    "strangers": (40, 1.5),
}


ENDS: dict[str, Callable[[Seen], bool]] = {
    "tiny_messages": lambda seen: seen.refused.get("I10", 0) > 0,
    "slow_handshakes": lambda seen: seen.did["open"] == 0,
    "slow_streams": lambda seen: bool({"I08", "L11"} & seen.refused.keys()),
    "strangers": lambda seen: seen.refused.keys() == {"I04"} and seen.opened == {},
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_under_attack_memory_stays_and_an_honest_bank_is_served(attack: str, defended: Scene) -> None:
    seen = defended.under(attack, *ATTACKS[attack])
    assert seen.did["sent"] >= min(ATTACKS[attack][0], 20) or attack == "big_messages"
    assert seen.peak < 2 * seen.before, f"{seen.before} -> {seen.peak} bytes"
    assert seen.open <= SHARE + 1 and seen.kept <= 2 * WINDOW_MESSAGES
    assert len(seen.trips_s) > 5 and ENDS.get(attack, lambda _: True)(seen)
    assert statistics.median(seen.trips_s) < max(40 * seen.quiet_s, 0.25)


# ---- each with the defence taken away


def test_without_the_limit_of_a_message_big_ones_fill_the_memory(lifted: Callable[..., Scene]) -> None:
    assert lifted("sizes").under("big_messages", 3, 4.0).grown > 40 * MIB


def test_without_the_ban_on_compression_a_bomb_unfolds(lifted: Callable[..., Scene]) -> None:
    assert lifted("sizes", "compression").under("gzip_bombs", 4, 2.0).grown > 40 * MIB


def test_without_a_window_tiny_messages_pile_up(lifted: Callable[..., Scene]) -> None:
    assert lifted("window").under("tiny_messages", 30_000, 4.0).kept > 1_000


def test_without_a_limit_on_header_lists_a_bomb_unfolds(lifted: Callable[..., Scene]) -> None:
    assert lifted("metadata").under("header_bombs", 10, 2.0).grown > 40 * MIB


def test_without_a_limit_on_header_lists_one_may_never_end(lifted: Callable[..., Scene]) -> None:
    assert lifted("metadata").under("endless_headers", 4_000, 3.0).grown > 30 * MIB


def test_without_a_deadline_of_handshakes_slow_ones_stay_open(lifted: Callable[..., Scene]) -> None:
    did = lifted("handshakes").under("slow_handshakes", 30, 1.4).did
    assert did["open"] == did["sent"] > 0


def test_without_shares_one_bank_takes_every_place_by_silence_and_by_resets(lifted: Callable[..., Scene]) -> None:
    scene = lifted("conversations", "dials")
    assert scene.under("slow_streams", 200, 2.0).open > 100
    assert scene.under("rapid_resets", 10_000, 3.0).opened.get("bank-2", 0) > 0


def test_without_pins_whoever_has_a_certificate_of_the_authority_opens_conversations(
    lifted: Callable[..., Scene],
) -> None:
    assert lifted("pins").under("strangers", 10, 1.5).opened.get(STRANGER, 0) > 0


# ---- what the options say


def option(name: str) -> Any:
    return {**dict(services_road.OPTIONS), **dict(services_road.SERVER_OPTIONS)}[name]


def test_the_options_are_those_that_the_attacks_were_tried_against() -> None:
    assert tuple(map(int, grpc.__version__.split(".")[:2])) >= (1, 66)
    assert option("grpc.max_receive_message_length") == 4 * MIB
    assert option("grpc.absolute_max_metadata_size") <= 16 * 1024
    assert option("grpc.compression_enabled_algorithms_bitset") == 1  # the identity alone
    dead_s = (option("grpc.keepalive_time_ms") + option("grpc.http2.ping_timeout_ms")) / 1000
    assert dead_s < 60 and option("grpc.keepalive_timeout_ms") == option("grpc.http2.ping_timeout_ms")
    assert option("grpc.http2.min_ping_interval_without_data_ms") < option("grpc.keepalive_time_ms")
    assert option("grpc.server_handshake_timeout_ms") <= 10_000
