"""Conversations over a network that fails, in memory and over gRPC through a relay that cuts: one suite, two roads."""

import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from faults.cutting_proxy import CuttingProxy

from lianxin.federation import services_road
from lianxin.federation.channel import Channel, Handler, MemoryNetwork
from lianxin.federation.errors import DeadlinePassed, PeerGone
from lianxin.federation.resumption import WINDOW_MESSAGES
from lianxin.federation.services import GrpcLink, serve
from lianxin.parties.identity import load_identity, make_network

RUN, CONVERSATION = "run-0001", "matching/bank-1"
SOON_S = 10.0
MIB = 2**20
Stop = Callable[[], object]


class MachineClock:
    def now(self) -> str:
        return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Road:
    """A platform with one handler and the bank that dials it, over one of the two roads, and what may befall the road."""

    def __init__(self, kind: str, folder: Path) -> None:
        self._kind, self._folder = kind, folder
        self._stops: list[Stop] = []

    def start(self, handler: Handler, window_s: float = 20.0, bank_window_s: float = 20.0) -> Channel:
        """Start the platform with `handler`; return the bank's channel to it."""
        if self._kind == "memory":
            network = MemoryNetwork(handler, resume_window_s=min(window_s, bank_window_s))
            self.platform, self._link = network, network.link("bank-1")
            self.sever, self.mend = lambda: network.sever("bank-1"), lambda: network.mend("bank-1")
            self.stop_platform: Stop = network.close
        else:
            self._start_grpc(handler, window_s, bank_window_s)
        self._stops += [self._link.close, self.stop_platform]
        return self._link.open(CONVERSATION, RUN)

    def _start_grpc(self, handler: Handler, window_s: float, bank_window_s: float) -> None:
        me, bank = load_identity(self._folder / "platform"), load_identity(self._folder / "bank-1")
        self.platform = serve(
            "127.0.0.1:0", me.server_tls(), me.pinned_peers(), handler, on_refused=self._refused,
            resume_window_s=window_s,
        )  # fmt: skip
        self.refused: list[str] = []
        self.proxy = CuttingProxy(f"127.0.0.1:{self.platform.port}")
        self._link = GrpcLink(self.proxy.address, bank.client_tls("platform"), resume_window_s=bank_window_s)
        self.sever, self.mend, self.stop_platform = self.proxy.sever, self.proxy.mend, self.platform.stop
        self._stops.append(self.proxy.close)

    def _refused(self, rule: str, uri: str | None) -> None:
        self.refused.append(rule)

    def cut(self) -> None:
        self.sever()
        self.mend()

    @property
    def failures(self) -> list[Exception]:
        return [failure for _, _, failure in self.platform.failures]

    def stop(self) -> None:
        for stop in self._stops[1:] + self._stops[:1]:
            stop()


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("network")
    make_network(folder, "platform", ["bank-1"], None, MachineClock(), 2)
    return folder


@pytest.fixture(params=["memory", "grpc"])
def road(request: pytest.FixtureRequest, network: Path) -> Iterator[Road]:
    road = Road(request.param, network)
    yield road
    road.stop()


@pytest.fixture
def wire(network: Path) -> Iterator[Road]:
    """The road over gRPC alone, for what happens at single bytes."""
    road = Road("grpc", network)
    yield road
    road.stop()


def message(number: int, size: int = 3000) -> bytes:
    return number.to_bytes(4, "big") * (size // 4)


def echo(channel: Channel) -> None:
    while True:
        try:
            channel.send(channel.receive(SOON_S))
        except PeerGone:
            return


def until(condition: Callable[[], object]) -> None:
    for _ in range(1000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("the condition did not come true in 10 s")


def is_seconds(start: float, low: float, high: float) -> bool:
    return low <= time.monotonic() - start <= high


# ---- cuts that nobody notices


@pytest.mark.parametrize("moment", ["before the answer is read", "after it was read", "while more are under way"])
def test_a_conversation_both_ways_that_is_cut_at_each_message_is_heard_once_and_in_order(
    road: Road, moment: str
) -> None:
    channel, ahead = road.start(echo), 4 if moment == "while more are under way" else 0
    for number in range(12 + ahead):
        if number < 12:
            channel.send(message(number))
        if moment != "after it was read":
            road.cut()
        if number >= ahead:
            assert channel.receive(SOON_S) == message(number - ahead)
        if moment == "after it was read":
            road.cut()
    assert road.failures == []


def test_a_stream_to_the_platform_that_is_cut_at_each_message_is_heard_once_and_in_order(road: Road) -> None:
    heard: list[bytes] = []

    def hear(channel: Channel) -> None:
        for _ in range(16):
            heard.append(channel.receive(SOON_S))

    channel = road.start(hear)
    for number in range(16):
        channel.send(message(number, 100_000))
        road.cut()
    channel.finish()
    channel.close()
    until(lambda: len(heard) == 16)
    assert heard == [message(number, 100_000) for number in range(16)]


def test_a_stream_to_the_bank_that_is_cut_at_each_message_is_heard_once_and_in_order(road: Road) -> None:
    def say(channel: Channel) -> None:
        for number in range(16):
            channel.send(message(number, MIB))

    channel = road.start(say)
    for number in range(16):
        assert channel.receive(SOON_S) == message(number, MIB)
        road.cut()
    with pytest.raises(PeerGone, match="platform ended conversation"):
        channel.receive(SOON_S)
    assert road.failures == []


def test_cuts_in_a_row_and_dials_that_find_nobody_are_outlived(road: Road) -> None:
    channel = road.start(echo)
    for number in range(3):
        road.sever()
        channel.send(message(number))
        for _ in range(3):
            time.sleep(0.03)
            road.cut()
        assert channel.receive(SOON_S) == message(number)


@pytest.mark.parametrize("first", range(200, 6200, 400))
def test_a_connection_cut_after_any_number_of_bytes_loses_and_repeats_nothing(wire: Road, first: int) -> None:
    channel = wire.start(echo)
    for number in range(4):
        wire.proxy.cut_after(first + 1000 * number)
        channel.send(message(number, 2000))
        channel.send(message(100 + number, 2000))
        assert [channel.receive(SOON_S) for _ in range(2)] == [message(number, 2000), message(100 + number, 2000)]
    assert wire.proxy.connections > 1 and wire.failures == []


def test_an_opening_that_is_cut_before_its_answer_opens_one_conversation(wire: Road) -> None:
    begun: list[Channel] = []

    def note(channel: Channel) -> None:
        begun.append(channel)
        echo(channel)

    wire.start(note).close()
    begun.clear()
    for answered in range(1500, 4500, 250):  # the handshake of a new connection and the first frames of HTTP/2
        wire.proxy.cut()
        wire.proxy.cut_after(answered)
        channel = wire._link.open(CONVERSATION, RUN)
        channel.send(b"hello")
        assert channel.receive(SOON_S) == b"hello"
        channel.close()
        wire.proxy.mend()
    assert len(begun) == len(range(1500, 4500, 250)) and wire.refused == []


def test_the_last_words_of_a_bank_that_closes_while_it_is_cut_off_arrive(road: Road) -> None:
    heard: list[bytes] = []
    channel = road.start(lambda channel: [heard.append(channel.receive(SOON_S)) for _ in range(3)])
    road.sever()
    for number in range(3):
        channel.send(message(number))
    channel.finish()
    threading.Timer(0.3, road.mend).start()
    channel.close()
    until(lambda: len(heard) == 3)
    assert heard == [message(number) for number in range(3)] and road.failures == []


def test_the_last_words_of_a_platform_whose_handler_returns_while_it_is_cut_off_arrive(road: Road) -> None:
    def answer(channel: Channel) -> None:
        channel.receive(SOON_S)
        road.sever()
        channel.send(b"all I have")

    channel = road.start(answer)
    channel.send(b"question")
    threading.Timer(0.5, road.mend).start()
    assert channel.receive(SOON_S) == b"all I have"
    with pytest.raises(PeerGone, match="platform ended conversation"):
        channel.receive(SOON_S)


# ---- what a cut does not outlive


def test_a_cut_that_outlasts_the_window_is_peer_gone_at_both_ends_in_one_sentence(road: Road) -> None:
    channel = road.start(lambda channel: (channel.receive(SOON_S), channel.receive(SOON_S)), 0.6, 0.6)
    channel.send(b"one")
    time.sleep(0.1)
    started = time.monotonic()
    road.sever()
    with pytest.raises(PeerGone) as gone:
        channel.receive(SOON_S)
    assert is_seconds(started, 0.5, 6.0)
    until(lambda: road.failures)
    said = "The connection of conversation matching/bank-1 with {} was cut and not resumed for 0.6 s."
    assert (str(gone.value), str(road.failures[0])) == (said.format("platform"), said.format("bank-1"))
    with pytest.raises(PeerGone, match="not resumed"):
        channel.send(b"two")


def test_a_deadline_of_a_wait_is_not_renewed_by_cuts(road: Road) -> None:
    channel = road.start(lambda channel: channel.receive(SOON_S))
    started = time.monotonic()
    threading.Timer(0.2, road.cut).start()
    with pytest.raises(DeadlinePassed, match="its message 0 was awaited"):
        channel.receive(0.6)
    assert is_seconds(started, 0.5, 4.0)
    channel.close()


def test_a_peer_that_stalls_without_a_cut_passes_the_deadline_by_what_was_awaited(wire: Road) -> None:
    channel = wire.start(echo)
    channel.send(b"one")
    assert channel.receive(SOON_S) == b"one"
    wire.proxy.stall()
    channel.send(b"two")
    with pytest.raises(DeadlinePassed, match=r"sent nothing in conversation matching/bank-1 for 0\.3 s: its message 1"):
        channel.receive(0.3)
    wire.proxy.mend()
    assert channel.receive(SOON_S) == b"two"


def test_a_connection_that_is_held_without_a_cut_is_noticed_by_its_pings_and_dialled_anew(
    wire: Road, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OPTIONS", "SERVER_OPTIONS"):  # eight times as fast as in earnest, where it takes 16 s
        options = [
            (key, value // 8 if "ping" in key or "keepalive" in key else value)
            for key, value in vars(services_road)[name]
        ]
        monkeypatch.setattr(services_road, name, options)
    channel = wire.start(echo)
    channel.send(b"one")
    assert channel.receive(SOON_S) == b"one"
    started = time.monotonic()
    wire.proxy.stall()
    channel.send(b"two")
    assert channel.receive(SOON_S) == b"two"
    assert is_seconds(started, 1.0, 8.0) and wire.proxy.connections == 2 and wire.failures == []


def test_a_peer_that_never_reads_holds_one_window_however_often_it_is_cut(road: Road) -> None:
    gate = threading.Event()
    channel = road.start(lambda channel: gate.wait(20))
    for number in range(WINDOW_MESSAGES):
        channel.send(message(number, MIB))
        road.cut()
    channel._send_deadline_s = 0.3
    with pytest.raises(DeadlinePassed, match=r"did not read in conversation matching/bank-1 for 0\.3 s: message 0"):
        channel.send(b"one too many")
    assert channel.outbox.size_bytes == WINDOW_MESSAGES * MIB
    gate.set()


def test_a_platform_that_stops_says_farewell_at_once_whatever_the_window(road: Road) -> None:
    channel = road.start(echo)
    started = time.monotonic()
    threading.Thread(target=road.stop_platform, daemon=True).start()
    with pytest.raises(PeerGone, match="platform ended conversation"):
        channel.receive(SOON_S)
    assert is_seconds(started, 0.0, 5.0)


def test_a_bank_that_closes_its_link_says_farewell_at_once_whatever_the_window(road: Road) -> None:
    road.start(lambda channel: channel.receive(SOON_S))
    started = time.monotonic()
    road._link.close()
    until(lambda: road.failures)
    assert is_seconds(started, 0.0, 5.0) and "bank-1 ended conversation" in str(road.failures[0])


def test_a_bank_that_returns_to_a_platform_that_was_restarted_is_told_at_once(wire: Road, network: Path) -> None:
    channel = wire.start(echo)
    channel.send(b"one")
    assert channel.receive(SOON_S) == b"one"
    me = load_identity(network / "platform")
    other = serve("127.0.0.1:0", me.server_tls(), me.pinned_peers(), echo, on_refused=wire._refused)
    wire.proxy.sever()
    wire.proxy._target = ("127.0.0.1", other.port)
    wire.proxy.mend()
    started = time.monotonic()
    with pytest.raises(PeerGone, match="carries conversation matching/bank-1 no more"):
        channel.receive(SOON_S)
    assert is_seconds(started, 0.0, 6.0) and wire.refused == ["I09"]
    other.stop()
