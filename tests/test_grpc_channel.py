"""What only the gRPC road can get wrong: the start, TLS versions, dead processes, sizes, shares and metadata."""

import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from lianxin.federation import services
from lianxin.federation.channel import Channel, Handler
from lianxin.federation.errors import DeadlinePassed, InputFault, PeerError, PeerGone
from lianxin.federation.resumption import Frame
from lianxin.federation.services import GrpcLink, RunningServer, encode_frame, serve
from lianxin.parties.identity import Identity, load_identity, make_network

RUN = "run-0001"
SOON_S = 5.0


class MachineClock:
    def now(self) -> str:
        return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass
class Platform:
    """A running platform that notes whom it heard and whom it refused."""

    identity: Identity
    server: RunningServer | None = None
    heard: list[str] = field(default_factory=list)
    refused: list[tuple[str, str | None]] = field(default_factory=list)

    def start(self, handler: Handler | None = None, address: str = "127.0.0.1:0", **options: Any) -> "Platform":
        options.setdefault("on_refused", lambda rule, uri: self.refused.append((rule, uri)))
        me = self.identity
        self.server = serve(address, me.server_tls(), me.pinned_peers(), handler or self.echo, **options)
        return self

    def echo(self, channel: Channel) -> None:
        self.heard.append(channel.peer)
        while True:
            try:
                channel.send(channel.receive(SOON_S))
            except PeerGone:
                return

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server.port}"


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("network")
    make_network(folder, "platform", ["bank-1", "bank-2"], None, MachineClock(), 2)
    return folder


@pytest.fixture
def platform(network: Path) -> Iterator[Platform]:
    platform = Platform(load_identity(network / "platform"))
    yield platform
    if platform.server:
        platform.server.stop()


@pytest.fixture
def dial(network: Path) -> Iterator[Callable[..., GrpcLink]]:
    links: list[GrpcLink] = []

    def make(address: str, bank: str = "bank-1", **options: Any) -> GrpcLink:
        options.setdefault("start_deadline_s", SOON_S)
        links.append(GrpcLink(address, load_identity(network / bank).client_tls("platform"), **options))
        return links[-1]

    yield make
    for link in links:
        link.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def until(condition: Callable[[], object]) -> None:
    for _ in range(500):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("the condition did not come true in 5 s")


def raw_channel(network: Path, address: str, **call: Any) -> grpc.Channel:
    """A bank's valid TLS identity in the hands of a client that keeps none of our limits."""
    folder = network / "bank-1"
    files = [(folder / name).read_bytes() for name in ("pinned/platform.crt", "tls.key", "tls.crt")]
    return grpc.secure_channel(address, grpc.ssl_channel_credentials(*files), **call)


def metadata(run: str = RUN, conversation: str = "matching/bank-1") -> tuple[tuple[str, str], ...]:
    return (("lianxin-run", run), ("lianxin-conversation", conversation))


def status_of(road: grpc.Channel, headers: Any, message: bytes = b"hello", **call: Any) -> grpc.StatusCode:
    converse = road.stream_stream("/lianxin.party.Matching/Converse")
    try:
        list(converse(iter([message]), metadata=headers, timeout=SOON_S, **call))
    except grpc.RpcError as failed:
        return failed.code()
    return grpc.StatusCode.OK


def test_a_platform_that_is_not_up_is_one_clear_sentence_after_the_deadline(dial: Callable[..., GrpcLink]) -> None:
    link = dial(f"127.0.0.1:{free_port()}", start_deadline_s=0.5)
    started = time.monotonic()
    with pytest.raises(PeerGone, match=r"platform does not answer at .*: its node is down"):
        link.open("matching/bank-1", RUN)
    assert 0.2 < time.monotonic() - started < 3


def test_a_port_that_accepts_and_says_nothing_passes_the_start_deadline(dial: Callable[..., GrpcLink]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        link = dial(f"127.0.0.1:{mute.getsockname()[1]}", start_deadline_s=0.5)
        with pytest.raises((DeadlinePassed, PeerGone)):
            link.open("matching/bank-1", RUN)


def test_a_bank_that_starts_first_waits_for_its_platform(platform: Platform, dial: Callable[..., GrpcLink]) -> None:
    port = free_port()
    threading.Timer(0.6, platform.start, kwargs={"address": f"127.0.0.1:{port}"}).start()
    channel = dial(f"127.0.0.1:{port}").open("matching/bank-1", RUN)
    channel.send(b"hello")
    assert channel.receive(SOON_S) == b"hello"


def test_a_link_finds_a_platform_that_was_restarted(platform: Platform, dial: Callable[..., GrpcLink]) -> None:
    platform.start()
    address = platform.address
    link = dial(address)
    first = link.open("matching/bank-1", RUN)
    platform.server.stop()
    with pytest.raises(PeerGone):
        first.receive(SOON_S)
    platform.start(address=address)
    second = link.open("matching/bank-1", RUN)
    second.send(b"again")
    assert second.receive(SOON_S) == b"again"


PEER_PROCESS = """
import os, sys, time
from pathlib import Path
from lianxin.federation.services import GrpcLink
from lianxin.parties.identity import load_identity
me = load_identity(Path(sys.argv[1]) / "bank-1")
channel = GrpcLink(sys.argv[2], me.client_tls("platform")).open("matching/bank-1", "run-0001")
channel.send(b"alive")
channel.receive(20)
os._exit(9)
"""


def test_a_bank_whose_process_dies_is_peer_gone_at_the_platform_once_the_time_to_resume_is_up(
    network: Path, platform: Platform
) -> None:
    def handler(channel: Channel) -> None:
        assert channel.receive(20) == b"alive"
        channel.send(b"now die")
        channel.receive(20)

    platform.start(handler, resume_window_s=1.0)
    subprocess.run([sys.executable, "-c", PEER_PROCESS, str(network), platform.address], timeout=30)
    assert not platform.server.failures
    until(lambda: platform.server.failures)
    party, _, failure = platform.server.failures[0]
    assert party == "bank-1" and isinstance(failure, PeerGone) and "not resumed for 1 s" in str(failure)


def test_a_client_of_tls_1_2_is_refused_before_the_handler(
    network: Path, platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    platform.start()
    speak_http2(network, platform.server.port, ssl.TLSVersion.TLSv1_2)
    until(lambda: platform.refused)
    assert platform.refused == [("I01", None)] and platform.heard == []

    speak_http2(network, platform.server.port, ssl.TLSVersion.TLSv1_3)
    until(lambda: platform.heard)
    assert platform.heard == ["bank-1"] and len(platform.refused) == 1

    real = services.check_peer
    lax = lambda auth, parties, now: real({**auth, "ssl_tls_version": [b"TLSv1.3"]}, parties, now)  # noqa: E731
    monkeypatch.setattr(services, "check_peer", lax)
    speak_http2(network, platform.server.port, ssl.TLSVersion.TLSv1_2)
    until(lambda: len(platform.heard) == 2)


def speak_http2(network: Path, port: int, version: ssl.TLSVersion) -> None:
    """Open one Converse stream by hand (RFC 9113; header fields as literals, RFC 7541 section 6.2.2)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(["h2"])
    folder = network / "bank-1"
    context.load_verify_locations(folder / "ca.crt")
    context.load_cert_chain(folder / "tls.crt", folder / "tls.key")
    fields = {":method": "POST", ":scheme": "https", ":path": "/lianxin.party.Matching/Converse"}
    fields |= {":authority": "localhost", "te": "trailers", "content-type": "application/grpc", **dict(metadata())}
    block = b"".join(
        b"\x00" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
        for name, value in fields.items()
    )
    plain = socket.create_connection(("127.0.0.1", port), timeout=SOON_S)
    with context.wrap_socket(plain, server_hostname="localhost") as tls:
        tls.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b"") + frame(1, 0x4, 1, block))
        tls.recv(4096)
        time.sleep(0.2)


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def test_a_message_over_four_mebibytes_ends_the_conversation_unread(network: Path, platform: Platform) -> None:
    received: list[bytes] = []
    platform.start(lambda channel: received.append(channel.receive(SOON_S)))
    with raw_channel(network, platform.address, options=[("grpc.max_send_message_length", -1)]) as road:
        assert status_of(road, metadata(), bytes(4 * 2**20 + 1)) is not grpc.StatusCode.OK
    until(lambda: platform.server.failures)
    assert received == [] and isinstance(platform.server.failures[0][2], PeerGone)


def test_a_compressed_message_is_refused_so_that_no_bomb_unfolds(network: Path, platform: Platform) -> None:
    received: list[bytes] = []
    platform.start(lambda channel: received.append(channel.receive(SOON_S)))
    with raw_channel(network, platform.address, compression=grpc.Compression.Gzip) as road:
        assert status_of(road, metadata(), bytes(2**20)) is not grpc.StatusCode.OK
    assert received == []


def test_an_unknown_method_reaches_no_handler(network: Path, platform: Platform) -> None:
    platform.start()
    with raw_channel(network, platform.address) as road, pytest.raises(grpc.RpcError) as failed:
        road.unary_unary("/lianxin.party.Matching/Other")(b"", timeout=SOON_S)
    assert failed.value.code() is grpc.StatusCode.UNIMPLEMENTED and platform.heard == []


BAD_METADATA = {
    "no metadata": (),
    "no run": metadata()[1:],
    "no conversation": metadata()[:1],
    "two runs": (*metadata(), ("lianxin-run", "run-0002")),
    "two conversations": (*metadata(), ("lianxin-conversation", "matching/bank-1")),
    "two tokens": (*metadata(), ("lianxin-token", "a1" * 32), ("lianxin-token", "a1" * 32)),
    "a path in the run": metadata(run="../../etc"),
    "a long run": metadata(run="r" * 65),
    "a run in capitals": metadata(run="RUN-0001"),
    "another service's conversation": metadata(conversation="learning/bank-1"),
    "another bank's conversation": metadata(conversation="matching/bank-2"),
    "a conversation that climbs": metadata(conversation="matching/../learning"),
    "a conversation of 4 KB": metadata(conversation="matching/" + "b" * 4096),
}


@pytest.mark.parametrize("case", BAD_METADATA)
def test_ids_that_are_malformed_or_another_partys_are_refused_and_reported(
    network: Path, platform: Platform, case: str
) -> None:
    platform.start()
    with raw_channel(network, platform.address) as road:
        assert status_of(road, BAD_METADATA[case]) is grpc.StatusCode.UNAUTHENTICATED
    assert platform.refused == [("I07", "spiffe://lianxin.test/bank-1")] and platform.heard == []


def test_good_ids_over_the_same_raw_client_are_admitted(network: Path, platform: Platform) -> None:
    platform.start()
    with raw_channel(network, platform.address) as road:
        assert status_of(road, metadata(), encode_frame(Frame(0, 0, b"hello"))) is grpc.StatusCode.OK
    assert platform.refused == [] and platform.heard == ["bank-1"]


def test_a_party_over_its_share_of_conversations_is_refused_and_gets_it_back_when_one_ends(
    platform: Platform, dial: Callable[..., GrpcLink]
) -> None:
    platform.start(max_streams_per_party=2)
    link, other = dial(platform.address), dial(platform.address, "bank-2")
    open_now = [link.open("matching/bank-1", RUN) for _ in range(2)]
    with pytest.raises(PeerError, match="platform refused conversation matching/bank-1") as refused:
        link.open("matching/bank-1", RUN)
    assert refused.value.rule == "I00" and platform.refused == [("I08", "spiffe://lianxin.test/bank-1")]
    other.open("matching/bank-2", RUN)
    open_now[0].close()
    time.sleep(0.1)
    link.open("matching/bank-1", RUN)


def test_a_platform_without_room_says_so(platform: Platform, dial: Callable[..., GrpcLink]) -> None:
    platform.start(max_streams=1)
    dial(platform.address).open("matching/bank-1", RUN)
    with pytest.raises(PeerGone, match="has no room"):
        dial(platform.address, "bank-2").open("matching/bank-2", RUN)


def test_a_certificate_that_ran_out_while_connected_opens_nothing_more(
    platform: Platform, dial: Callable[..., GrpcLink]
) -> None:
    times = [datetime.now(UTC)]
    platform.start(now=lambda: times[-1])
    link = dial(platform.address)
    link.open("matching/bank-1", RUN)
    times.append(times[0] + timedelta(days=3))
    with pytest.raises(PeerError, match="refused"):
        link.open("matching/bank-1", RUN)
    assert platform.refused == [("I06", "spiffe://lianxin.test/bank-1")]


def test_a_peer_taken_out_of_the_pinned_list_is_refused_from_then_on(
    network: Path, platform: Platform, dial: Callable[..., GrpcLink]
) -> None:
    parties = platform.identity.pinned_peers()
    platform.server = serve(
        "127.0.0.1:0",
        platform.identity.server_tls(),
        parties,
        platform.echo,
        on_refused=lambda rule, uri: platform.refused.append((rule, uri)),
    )
    link = dial(platform.address)
    link.open("matching/bank-1", RUN)
    del parties["spiffe://lianxin.test/bank-1"]
    with pytest.raises(PeerError, match="refused"):
        link.open("matching/bank-1", RUN)
    assert platform.refused == [("I04", "spiffe://lianxin.test/bank-1")]


def test_a_refusal_that_cannot_be_logged_is_still_a_refusal_with_the_fixed_text(
    network: Path, platform: Platform
) -> None:
    def fail(rule: str, uri: str | None) -> None:
        raise OSError("disk-canary-5512 is full")

    platform.start(on_refused=fail)
    with raw_channel(network, platform.address) as road, pytest.raises(grpc.RpcError) as failed:
        list(road.stream_stream("/lianxin.party.Matching/Converse")(iter([b""]), metadata=(), timeout=SOON_S))
    assert failed.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert failed.value.details() == services.REFUSED_TEXT
    assert "canary" in str(platform.server.failures[0][2]) and platform.heard == []


def test_a_taken_address_and_a_missing_tls_file_are_input_faults(network: Path, platform: Platform) -> None:
    platform.start()
    me = platform.identity
    with pytest.raises(InputFault, match=r"cannot listen on .* another program has the port"):
        serve(platform.address, me.server_tls(), {}, platform.echo, on_refused=lambda rule, uri: None)
    with pytest.raises(InputFault, match=r"TLS file .* cannot be read"):
        GrpcLink(
            platform.address, replace(load_identity(network / "bank-1").client_tls("platform"), key=network / "no")
        )
