"""What a stranger, another bank or a lying bank gets by dialling into a conversation over gRPC: the same refusal, whatever
the rule, and nothing of the conversation. Clients here hold a valid certificate and keep none of our limits."""

import queue
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest

from lianxin.federation import admission
from lianxin.federation.channel import Channel
from lianxin.federation.errors import PeerError, PeerGone
from lianxin.federation.resumption import Frame
from lianxin.federation.services import REFUSED_TEXT, RunningServer, decode_frame, encode_frame, serve
from lianxin.parties.identity import load_identity, make_network

TOKEN, OTHER_TOKEN = "a1" * 32, "b2" * 32
URI = "spiffe://lianxin.test/"
SOON_S = 5.0


class MachineClock:
    def now(self) -> str:
        return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def until(condition: Callable[[], object]) -> None:
    for _ in range(500):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("the condition did not come true in 5 s")


def metadata(token: str | None = TOKEN, stream: Any = 1, heard: Any = None, **ids: str) -> tuple[tuple[str, str], ...]:
    asked = {
        "lianxin-run": ids.get("run", "run-0001"),
        "lianxin-conversation": ids.get("conversation", "matching/shared"),
    }
    asked |= {"lianxin-token": token, "lianxin-stream": str(stream)} if token is not None else {}
    return tuple((asked | ({} if heard is None else {"lianxin-heard": str(heard)})).items())


class RawStream:
    """A stream in the hands of a bank that says what it likes."""

    def __init__(self, road: grpc.Channel, asked: Any) -> None:
        self._saying: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        outgoing = iter(self._saying.get, None)
        self.call = road.stream_stream("/lianxin.party.Matching/Converse")(outgoing, metadata=asked, timeout=10)

    def say(self, frame: Frame | bytes) -> None:
        self._saying.put(frame if isinstance(frame, bytes) else encode_frame(frame))

    def hear(self) -> Frame:
        return decode_frame(next(self.call))

    def end(self) -> tuple[grpc.StatusCode, str]:
        """Return how the platform ended it."""
        with suppress(grpc.RpcError):
            list(self.call)
        self._saying.put(None)
        return self.call.code(), self.call.details()


class World:
    """A platform that greets and then listens, and the banks' own roads to it."""

    def __init__(self, folder: Path) -> None:
        self._folder, me = folder, load_identity(folder / "platform")
        self.heard: list[bytes] = []
        self.faults: list[PeerError] = []
        self.refused: list[tuple[str, str | None]] = []
        self.server: RunningServer = serve(
            "127.0.0.1:0", me.server_tls(), me.pinned_peers(), self.greet,
            on_refused=lambda rule, uri: self.refused.append((rule, uri)),
        )  # fmt: skip
        self._roads: list[grpc.Channel] = []

    def greet(self, channel: Channel) -> None:
        try:
            channel.send(b"a secret greeting")
            while True:
                self.heard.append(channel.receive(SOON_S))
        except PeerError as fault:
            self.faults.append(fault)

    def dial(self, asked: Any, bank: str = "bank-1") -> RawStream:
        folder = self._folder / bank
        files = [(folder / name).read_bytes() for name in ("pinned/platform.crt", "tls.key", "tls.crt")]
        road = grpc.secure_channel(f"127.0.0.1:{self.server.port}", grpc.ssl_channel_credentials(*files))
        self._roads.append(road)
        return RawStream(road, asked)

    def stop(self) -> None:
        for road in self._roads:
            road.close()
        self.server.stop()


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("network")
    make_network(folder, "platform", ["bank-1", "bank-2"], None, MachineClock(), 2)
    return folder


@pytest.fixture
def world(network: Path) -> Iterator[World]:
    world = World(network)
    yield world
    world.stop()


FOREIGN = {
    "another token": ("bank-1", metadata(OTHER_TOKEN, 2, 0)),
    "another run": ("bank-1", metadata(stream=2, heard=0, run="run-0002")),
    "another conversation": ("bank-1", metadata(stream=2, heard=0, conversation="matching/other")),
    "a stream from before": ("bank-1", metadata(stream=1, heard=0)),
    "a token that is none": ("bank-1", metadata("A1" * 32, 2, 0)),
    "a short token": ("bank-1", metadata("a1", 2, 0)),
    "a count that is none": ("bank-1", metadata(stream=2, heard="-1")),
    "a count in other digits": ("bank-1", metadata(stream=2, heard="1_0")),
    "a stream that is none": ("bank-1", metadata(stream="x", heard=0)),
    "another bank with the token": ("bank-2", metadata(stream=2, heard=0)),
    "another bank with a token of its own": ("bank-2", metadata(OTHER_TOKEN, 2, 0)),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_a_resumption_without_the_right_to_it_is_refused_uniformly_and_disturbs_nothing(
    world: World, case: str
) -> None:
    rightful = world.dial(metadata())
    assert rightful.hear().message == b"a secret greeting"
    bank, asked = FOREIGN[case]
    thief = world.dial(asked, bank)
    assert thief.end() == (grpc.StatusCode.UNAUTHENTICATED, REFUSED_TEXT)
    assert world.refused == [("I09", URI + bank)] and thief.call.initial_metadata() in ((), None)
    rightful.say(Frame(0, 1, b"still here"))
    until(lambda: world.heard == [b"still here"])


def test_the_rightful_bank_takes_the_place_of_its_own_half_dead_stream(world: World) -> None:
    first = world.dial(metadata())
    assert first.hear().message == b"a secret greeting"
    second = world.dial(metadata(stream=2, heard=0))
    assert second.hear().message == b"a secret greeting"
    first.say(Frame(0, 1, b"from the old stream"))
    second.say(Frame(0, 1, b"from the new one"))
    until(lambda: world.heard)
    assert first.end()[0] in (grpc.StatusCode.CANCELLED, grpc.StatusCode.OK)
    assert world.heard == [b"from the new one"] and world.refused == []


def test_if_tokens_were_not_compared_another_process_of_the_bank_would_get_the_conversation(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "_is_same", lambda token, other: True)
    assert world.dial(metadata()).hear().message == b"a secret greeting"
    assert world.dial(metadata(OTHER_TOKEN, 2, 0)).hear().message == b"a secret greeting"


def test_a_conversation_that_is_over_is_not_resumed(world: World) -> None:
    stream = world.dial(metadata())
    stream.hear()
    stream.say(Frame(0, 1, closed=True))
    assert stream.hear().closed and stream.end()[0] is grpc.StatusCode.OK
    until(lambda: not world.server._host._attended)
    late = world.dial(metadata(stream=2, heard=1))
    assert late.end() == (grpc.StatusCode.UNAUTHENTICATED, REFUSED_TEXT) and world.refused == [("I09", URI + "bank-1")]


def test_a_bank_that_claims_to_have_heard_what_was_never_said_is_refused_and_its_conversation_is_over(
    world: World,
) -> None:
    stream = world.dial(metadata())
    stream.hear()
    liar = world.dial(metadata(stream=2, heard=2))
    assert liar.end() == (grpc.StatusCode.UNAUTHENTICATED, REFUSED_TEXT)
    until(lambda: world.faults)
    assert world.refused == [("I10", URI + "bank-1")] and world.faults[0].rule == "I10"
    assert "bank-1 claims to have heard 2 messages where 0 to 1 are possible" in str(world.faults[0])


LIES: dict[str, list[Frame | bytes]] = {
    "a message again": [Frame(0, 1, b"one"), Frame(0, 1, b"one")],
    "a message left out": [Frame(1, 1, b"two")],
    "an acknowledgement of what was never said": [Frame(0, 2)],
    "more than the window": [Frame(n, 1, b"x") for n in range(40)],
    "bytes that are no frame": [b"\xff\xff"],
}


@pytest.mark.parametrize("case", LIES)
def test_a_bank_that_breaks_the_numbering_is_cut_off_by_name_without_a_word_of_why(
    world: World, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if case == "more than the window":
        monkeypatch.setattr(world, "heard", SlowList())
    stream = world.dial(metadata())
    stream.hear()
    for frame in LIES[case]:
        stream.say(frame)
    status, text = stream.end()
    assert status is grpc.StatusCode.UNAUTHENTICATED and text == REFUSED_TEXT
    until(lambda: world.faults)
    assert world.faults[0].rule == "I10" and world.refused == [("I10", URI + "bank-1")]
    assert world.heard in ([], [b"one"], [b"x"])


class SlowList(list[bytes]):
    """A list into which things are put slowly, as a protocol that works on each message takes them."""

    def append(self, item: bytes) -> None:
        time.sleep(0.3)
        super().append(item)


def test_a_conversation_without_a_token_ends_with_its_stream(world: World) -> None:
    stream = world.dial(metadata(None))
    stream.hear()
    stream.call.cancel()
    until(lambda: world.faults)
    assert isinstance(world.faults[0], PeerGone) and str(world.faults[0]).endswith("was cut.")
