"""The toll and the wire protocol's number on the real road: who pays, what a peer is told, which side is to be upgraded."""

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from test_grpc_channel import RUN, SOON_S, Platform, dial, metadata, network, platform, raw_channel, until

from lianxin.federation import admission, services_dialling
from lianxin.federation.admission import OtherProtocol, check_protocol, read_protocol
from lianxin.federation.channel import Channel
from lianxin.federation.errors import PeerError, PeerGone
from lianxin.federation.limits import Limits, Toll
from lianxin.federation.resumption import Frame
from lianxin.federation.services import GrpcLink, encode_frame

__all__ = ["dial", "network", "platform"]  # fixtures
URI = "spiffe://lianxin.test/bank-1"


def a_toll(noted: list[tuple[str, str]] | None = None, **limits: int) -> Toll:
    note = (lambda *what: noted.append(what)) if noted is not None else (lambda *_: None)
    return Toll(Limits(**limits), time.monotonic, lambda: "2026-01-05", note)


def said(
    road: grpc.Channel, *more: tuple[str, str], frames: int = 1, size: int = 10
) -> tuple[grpc.StatusCode, dict[str, str]]:
    """Return the status of one conversation and the metadata that came at its end."""
    converse = road.stream_stream("/lianxin.party.Matching/Converse")
    call = converse(
        iter([encode_frame(Frame(n, 0, bytes(size))) for n in range(frames)]),
        metadata=(*metadata(), *more), timeout=SOON_S,
    )  # fmt: skip
    with suppress(grpc.RpcError):
        list(call)
    return call.code(), dict(call.trailing_metadata() or ())


# ---- the toll


def test_a_peer_that_dials_too_often_is_told_to_come_later_and_another_peer_is_served(
    network: Path, platform: Platform, dial: Callable[..., GrpcLink]
) -> None:
    platform.start(lambda channel: None, toll=a_toll(dials_per_minute=5))
    with raw_channel(network, platform.address) as road:
        codes = [said(road)[0] for _ in range(8)]
    assert codes[5:] == [grpc.StatusCode.RESOURCE_EXHAUSTED] * 3 and platform.refused == [("L11", URI)] * 3
    dial(platform.address, "bank-2").open("matching/bank-2", RUN)


def test_a_run_over_its_bytes_ends_by_name_at_the_platform_and_the_log_has_the_rule(
    platform: Platform, dial: Callable[..., GrpcLink]
) -> None:
    platform.start(toll=a_toll(run_bytes=2**20))
    channel = dial(platform.address).open("matching/bank-1", RUN)
    with pytest.raises(PeerGone):
        for _ in range(100):
            channel.send(bytes(2**16))
            channel.receive(SOON_S)
    until(lambda: platform.server.failures)
    failure: Any = platform.server.failures[0][2]
    assert failure.rule == "L13" and "run_bytes" in str(failure) and platform.refused[0] == ("L13", URI)


def test_without_the_limit_the_same_run_goes_on(platform: Platform, dial: Callable[..., GrpcLink]) -> None:
    platform.start(toll=a_toll())
    channel = dial(platform.address).open("matching/bank-1", RUN)
    for _ in range(100):
        channel.send(bytes(2**16))
        assert len(channel.receive(SOON_S)) == 2**16


def test_a_message_over_the_nodes_own_limit_ends_the_conversation_by_name(
    platform: Platform, dial: Callable[..., GrpcLink]
) -> None:
    platform.start(toll=a_toll(message_bytes=2**20))
    channel = dial(platform.address).open("matching/bank-1", RUN)
    channel.send(bytes(2**20 + 1))
    with pytest.raises(PeerGone):
        channel.receive(SOON_S)
    assert platform.refused[0] == ("L10", URI)


def test_messages_that_come_too_fast_are_read_no_faster_and_none_is_lost(
    platform: Platform, dial: Callable[..., GrpcLink]
) -> None:
    noted: list[tuple[str, str]] = []
    platform.start(toll=a_toll(noted, messages_per_s=50, message_burst=10))
    channel, started = dial(platform.address).open("matching/bank-1", RUN), time.monotonic()
    for number in range(30):
        channel.send(number.to_bytes(4, "big"))
        assert channel.receive(SOON_S) == number.to_bytes(4, "big")
    assert time.monotonic() - started > 0.3 and noted[0] == ("L12", "bank-1") and platform.refused == []


def test_a_bank_ends_a_conversation_in_which_its_platform_costs_too_much(
    platform: Platform, dial: Callable[..., GrpcLink]
) -> None:
    def flood(channel: Channel) -> None:
        while True:
            channel.send(bytes(2**18))

    platform.start(flood)
    channel = dial(platform.address, toll=a_toll(run_bytes=2**20)).open("matching/bank-1", RUN)
    with pytest.raises(PeerError) as ended:
        for _ in range(20):
            channel.receive(SOON_S)
    assert ended.value.rule == "L13" and "platform and this node exchanged over" in str(ended.value)


def test_nobody_of_ours_dials_past_the_connections_that_there_may_be(network: Path, platform: Platform) -> None:
    platform.start(lambda channel: None, toll=a_toll(connections_in_all=2))
    roads = [raw_channel(network, platform.address, options=[("grpc.use_local_subchannel_pool", 1)]) for _ in range(3)]
    try:
        for road in roads[:2]:
            grpc.channel_ready_future(road).result(SOON_S)
        with pytest.raises(grpc.FutureTimeoutError):
            grpc.channel_ready_future(roads[2]).result(0.5)
        roads[0].close()
        grpc.channel_ready_future(roads[2]).result(SOON_S)
    finally:
        for road in roads:
            road.close()


# ---- the wire protocol


def test_a_bank_of_the_version_before_which_names_no_protocol_is_served(network: Path, platform: Platform) -> None:
    platform.start(lambda channel: None)
    with raw_channel(network, platform.address) as road:
        assert said(road)[0] is grpc.StatusCode.OK
        assert said(road, ("lianxin-protocol", "1"))[0] is grpc.StatusCode.OK
        assert said(road, ("lianxin-protocol", "2"))[0] is grpc.StatusCode.OK
    assert platform.refused == []


@pytest.mark.parametrize("number", ["0", "3", "99", "x", "-1", "9" * 16])
def test_a_bank_of_another_protocol_is_refused_and_told_which_is_spoken_here(
    network: Path, platform: Platform, number: str
) -> None:
    platform.start(lambda channel: None)
    with raw_channel(network, platform.address) as road:
        code, ending = said(road, ("lianxin-protocol", number))
    assert code is grpc.StatusCode.FAILED_PRECONDITION and ending["lianxin-protocol"] == "2"
    assert platform.refused == [("I11", URI)]


def test_two_numbers_are_refused_as_two_names_are(network: Path, platform: Platform) -> None:
    platform.start(lambda channel: None)
    with raw_channel(network, platform.address) as road:
        assert said(road, ("lianxin-protocol", "1"), ("lianxin-protocol", "2"))[0] is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize(("mine", "older"), [(7, "the node of platform"), (0, "this node")])
def test_a_bank_that_is_refused_for_its_protocol_says_which_side_to_upgrade(
    platform: Platform, dial: Callable[..., GrpcLink], monkeypatch: pytest.MonkeyPatch, mine: int, older: str
) -> None:
    platform.start(lambda channel: None)
    monkeypatch.setattr(services_dialling, "PROTOCOL", mine)
    with pytest.raises(PeerError, match=f"speaks wire protocols up to 2, this node {mine}: upgrade {older}") as refused:
        dial(platform.address).open("matching/bank-1", RUN)
    assert refused.value.rule == "I11" and not isinstance(refused.value, PeerGone)


def test_a_platform_of_the_version_before_which_names_no_protocol_serves_a_bank_of_this_one(
    platform: Platform, dial: Callable[..., GrpcLink], monkeypatch: pytest.MonkeyPatch
) -> None:
    platform.start()
    monkeypatch.setattr("lianxin.federation.services.PROTOCOL_KEY", "unknown-key")
    channel = dial(platform.address).open("matching/bank-1", RUN)
    channel.send(b"hello")
    assert channel.receive(SOON_S) == b"hello"


def test_a_bank_refuses_a_platform_of_a_protocol_that_it_does_not_speak(
    platform: Platform, dial: Callable[..., GrpcLink], monkeypatch: pytest.MonkeyPatch
) -> None:
    platform.start()
    monkeypatch.setattr("lianxin.federation.services.PROTOCOL", 9)
    with pytest.raises(PeerError, match="platform speaks wire protocol 9, this node 1 to 2: upgrade this node"):
        dial(platform.address).open("matching/bank-1", RUN)


def test_only_the_protocol_of_now_and_of_before_is_spoken() -> None:
    assert list(admission.PROTOCOLS_SPOKEN) == [admission.PROTOCOL - 1, admission.PROTOCOL]
    assert read_protocol(()) == 1 and read_protocol((("lianxin-protocol", "2"),)) == 2
    with pytest.raises(
        OtherProtocol, match="bank-1 speaks wire protocol 0, this node 1 to 2: upgrade the node of bank-1"
    ):
        check_protocol(0, "bank-1")
