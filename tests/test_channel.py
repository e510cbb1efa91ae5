"""One suite over both roads: what a protocol may expect of a channel, in memory and over gRPC with mutual TLS."""

import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from lianxin.federation.admission import is_conversation_id, is_run_id
from lianxin.federation.channel import (
    MESSAGE_LIMIT_BYTES,
    Channel,
    Handler,
    Link,
    MemoryNetwork,
    MessageTooLarge,
)
from lianxin.federation.errors import DeadlinePassed, InputFault, PeerGone
from lianxin.federation.resumption import WINDOW_MESSAGES, Pipe, PipeBusy, PipeEnded
from lianxin.federation.services import GrpcLink, RunningServer, serve
from lianxin.parties.identity import load_identity, make_network

RUN = "run-0001"
MIB = 2**20
SOON_S = 5.0


class MachineClock:
    def now(self) -> str:
        return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Road:
    """A platform with one handler, and links to it, over one of the two roads."""

    def __init__(self, kind: str, folder: Path) -> None:
        self._kind, self._folder = kind, folder
        self._platform: MemoryNetwork | RunningServer | None = None
        self._links: list[Link] = []

    def start(self, handler: Handler, send_deadline_s: float = 30.0) -> None:
        self._send_deadline_s = send_deadline_s
        if self._kind == "memory":
            self._platform = MemoryNetwork(handler, send_deadline_s=send_deadline_s)
            return
        me = load_identity(self._folder / "platform")
        self._platform = serve(
            "127.0.0.1:0",
            me.server_tls(),
            me.pinned_peers(),
            handler,
            on_refused=lambda rule, uri: None,
            send_deadline_s=send_deadline_s,
        )

    @property
    def failures(self) -> list[tuple[str, str, Exception]]:
        return list(self._platform.failures)

    def open(self, bank: str = "bank-1", conversation: str = "", run: str = RUN) -> Channel:
        return self.link(bank).open(conversation or f"matching/{bank}", run)

    def link(self, bank: str) -> Link:
        if isinstance(self._platform, MemoryNetwork):
            link = self._platform.link(bank)
        else:
            tls = load_identity(self._folder / bank).client_tls("platform")
            address = f"127.0.0.1:{self._platform.port}"
            link = GrpcLink(address, tls, start_deadline_s=SOON_S, send_deadline_s=self._send_deadline_s)
        self._links.append(link)
        return link

    def stop_platform(self) -> None:
        if isinstance(self._platform, MemoryNetwork):
            self._platform.close()
        else:
            self._platform.stop()

    def stop(self) -> None:
        for link in self._links:
            link.close()
        self.stop_platform()


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("network")
    make_network(folder, "platform", ["bank-1", "bank-2"], None, MachineClock(), 2)
    return folder


@pytest.fixture(params=["memory", "grpc"])
def road(request: pytest.FixtureRequest, network: Path) -> Iterator[Road]:
    road = Road(request.param, network)
    yield road
    road.stop()


def echo(channel: Channel) -> None:
    while True:
        try:
            message = channel.receive(SOON_S)
        except PeerGone:
            return
        channel.send(message)


def until(condition: Callable[[], object]) -> None:
    for _ in range(500):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("the condition did not come true in 5 s")


def test_messages_of_one_mebibyte_come_back_in_order(road: Road) -> None:
    road.start(echo)
    channel = road.open()
    for number in range(6):
        channel.send(bytes([number]) * MIB)
        assert channel.receive(SOON_S) == bytes([number]) * MIB


def test_an_empty_message_is_a_message(road: Road) -> None:
    road.start(echo)
    channel = road.open()
    channel.send(b"")
    assert channel.receive(SOON_S) == b""


def test_the_platform_sees_the_authenticated_party_the_run_and_the_conversation(road: Road) -> None:
    road.start(lambda channel: channel.send(f"{channel.peer} {channel.run} {channel.conversation}".encode()))
    assert road.open("bank-2", "learning/bank-2").receive(SOON_S) == b"bank-2 run-0001 learning/bank-2"


def test_the_bank_sees_the_platform_as_its_peer(road: Road) -> None:
    road.start(echo)
    channel = road.open()
    assert (channel.peer, channel.run, channel.conversation) == ("platform", RUN, "matching/bank-1")


def test_each_service_carries_its_own_conversations(road: Road) -> None:
    road.start(lambda channel: channel.send(channel.conversation.encode()))
    link = road.link("bank-1")
    for kind in ("contracts", "matching", "vertical", "learning"):
        assert link.open(f"{kind}/bank-1", RUN).receive(SOON_S) == f"{kind}/bank-1".encode()


def test_two_banks_talk_at_once_and_never_hear_each_other(road: Road) -> None:
    road.start(echo)
    channels = {bank: road.open(bank) for bank in ("bank-1", "bank-2")}
    for number in range(4):
        for bank, channel in channels.items():
            channel.send(f"{bank} {number}".encode())
    for bank, channel in channels.items():
        assert [channel.receive(SOON_S) for _ in range(4)] == [f"{bank} {n}".encode() for n in range(4)]


def test_a_sender_is_held_back_while_the_peer_does_not_read(road: Road) -> None:
    read, sent = threading.Event(), []
    road.start(lambda channel: (read.wait(20), echo(channel)))
    channel = road.open()
    total = 40

    def send_all() -> None:
        for number in range(total):
            channel.send(bytes([number]) * MIB)
            sent.append(number)

    threading.Thread(target=send_all, daemon=True).start()
    time.sleep(0.7)
    assert len(sent) == WINDOW_MESSAGES
    read.set()
    assert [channel.receive(SOON_S)[0] for _ in range(total)] == list(range(total))


def test_sending_to_a_peer_that_never_reads_passes_its_deadline(road: Road) -> None:
    gate = threading.Event()
    road.start(lambda channel: gate.wait(20), send_deadline_s=0.3)
    channel = road.open()
    with pytest.raises(DeadlinePassed, match=r"platform did not read in conversation matching/bank-1 for 0\.3 s"):
        for _ in range(60):
            channel.send(bytes(MIB))
    gate.set()


def test_a_silent_peer_passes_the_deadline_of_receive_and_may_still_be_heard(road: Road) -> None:
    gate = threading.Event()
    road.start(lambda channel: (gate.wait(20), channel.send(b"late")))
    channel = road.open()
    with pytest.raises(DeadlinePassed, match=r"platform sent nothing in conversation matching/bank-1 for 0\.2 s"):
        channel.receive(0.2)
    gate.set()
    assert channel.receive(SOON_S) == b"late"


def test_what_was_sent_before_finish_is_read_and_wanting_more_is_peer_gone(road: Road) -> None:
    heard: list[bytes] = []
    road.start(lambda channel: [heard.append(channel.receive(SOON_S)) for _ in range(3)])
    channel = road.open()
    channel.send(b"one")
    channel.send(b"two")
    channel.finish()
    until(lambda: road.failures)
    assert heard == [b"one", b"two"]
    assert isinstance(road.failures[0][2], PeerGone)


def test_finishing_leaves_the_other_direction_open(road: Road) -> None:
    road.start(echo)
    channel = road.open()
    channel.send(b"last word")
    channel.finish()
    channel.finish()
    assert channel.receive(SOON_S) == b"last word"
    assert road.failures == []


def test_the_last_message_of_a_finished_and_closed_channel_is_not_lost(road: Road) -> None:
    heard: list[bytes] = []
    road.start(lambda channel: (time.sleep(0.3), [heard.append(channel.receive(SOON_S)) for _ in range(12)]))
    channel = road.open()
    for number in range(12):
        channel.send(bytes([number]) * MIB)
    channel.finish()
    channel.close()
    until(lambda: len(heard) == 12)
    assert [message[0] for message in heard] == list(range(12))


def test_sending_after_finish_is_a_bug_of_this_side(road: Road) -> None:
    road.start(echo)
    channel = road.open()
    channel.finish()
    with pytest.raises(ValueError, match="send after finish"):
        channel.send(b"more")


def test_a_handler_that_returns_is_peer_gone_after_its_last_message(road: Road) -> None:
    road.start(lambda channel: channel.send(b"all I have"))
    channel = road.open()
    assert channel.receive(SOON_S) == b"all I have"
    with pytest.raises(PeerGone, match="platform ended conversation matching/bank-1, before the message that was due"):
        channel.receive(SOON_S)
    with pytest.raises(PeerGone, match="nothing more can be sent"):
        [channel.send(bytes(MIB)) for _ in range(60)]


def test_a_handler_that_raises_is_peer_gone_without_its_text_and_kept_for_the_owner(road: Road) -> None:
    def fail(channel: Channel) -> None:
        channel.send(b"before")
        raise RuntimeError("secret-canary-7391")

    road.start(fail)
    channel = road.open()
    assert channel.receive(SOON_S) == b"before"
    with pytest.raises(PeerGone) as gone:
        channel.receive(SOON_S)
    assert "canary" not in f"{gone.value!r} {gone.value.__cause__!r} {gone.value.__context__!r}"
    party, conversation, failure = road.failures[0]
    assert (party, conversation, str(failure)) == ("bank-1", "matching/bank-1", "secret-canary-7391")


def test_a_bank_that_closes_mid_stream_is_peer_gone_at_the_platform(road: Road) -> None:
    road.start(lambda channel: (channel.receive(SOON_S), channel.receive(20)))
    channel = road.open()
    channel.send(b"one")
    channel.close("the operator stopped the node")
    until(lambda: road.failures)
    failure = road.failures[0][2]
    assert isinstance(failure, PeerGone) and "bank-1 ended conversation matching/bank-1" in str(failure)
    assert "operator" not in str(failure)


def test_closing_wakes_a_receive_that_waits_at_this_end(road: Road) -> None:
    road.start(echo)
    channel = road.open()
    threading.Timer(0.2, channel.close, args=["the run was stopped"]).start()
    with pytest.raises(PeerGone, match=r"closed at this end \(the run was stopped\)"):
        channel.receive(20)


def test_a_platform_that_stops_mid_stream_is_peer_gone_at_the_bank(road: Road) -> None:
    road.start(echo)
    channel = road.open()
    threading.Timer(0.2, road.stop_platform).start()
    with pytest.raises(PeerGone, match="platform ended conversation"):
        channel.receive(20)


def test_a_message_over_the_limit_is_not_sent(road: Road) -> None:
    road.start(echo)
    channel = road.open()
    with pytest.raises(MessageTooLarge, match="over the limit"):
        channel.send(bytes(MESSAGE_LIMIT_BYTES + 1))
    channel.send(bytes(MESSAGE_LIMIT_BYTES))
    assert len(channel.receive(SOON_S)) == MESSAGE_LIMIT_BYTES


def test_a_closed_link_opens_nothing_it_had_open(road: Road) -> None:
    road.start(echo)
    link = road.link("bank-1")
    channel = link.open("matching/bank-1", RUN)
    link.close()
    with pytest.raises(PeerGone, match="the link was closed"):
        channel.receive(SOON_S)


@pytest.mark.parametrize("run", ["", "ab", "Run-1", "run_1", "run/1", "r" * 65, "run-1\n", "run-１", "../run"])
def test_a_run_id_with_other_letters_or_lengths_opens_nothing(road: Road, run: str) -> None:
    road.start(echo)
    with pytest.raises(InputFault, match="run id"):
        road.open(run=run)


BAD_CONVERSATIONS = ["", "matching/../bank-1", "matching//b", "matching/", "other/bank-1", "Matching/b", "matching/b\0"]


@pytest.mark.parametrize("conversation", [*BAD_CONVERSATIONS, "matching/" + "b" * 90, "matching/\u2215b", "/matching"])
def test_a_conversation_id_that_could_be_a_path_or_no_service_is_refused(conversation: str) -> None:
    assert not is_conversation_id(conversation)


def test_ordinary_ids_are_accepted() -> None:
    assert is_run_id("run-0001") and is_conversation_id("matching/bank-1") and is_conversation_id("vertical/b.1/r-2")


def test_a_full_pipe_and_an_empty_pipe_are_busy_and_an_ended_one_drains_first() -> None:
    pipe = Pipe(capacity=1)
    with pytest.raises(PipeBusy):
        pipe.take(0.01)
    pipe.put(b"one")
    with pytest.raises(PipeBusy):
        pipe.put(b"two", 0.01)
    pipe.end()
    with pytest.raises(PipeEnded):
        pipe.put(b"two")
    assert pipe.take() == b"one"
    with pytest.raises(PipeEnded):
        pipe.take()


def test_a_closed_memory_network_opens_nothing_and_leaves_no_thread() -> None:
    before = threading.active_count()
    network = MemoryNetwork(echo)
    network.link("bank-1").open("matching/bank-1", RUN)
    network.close()
    assert threading.active_count() == before
    with pytest.raises(PeerGone, match="network was closed"):
        network.link("bank-1").open("matching/bank-1", RUN)
