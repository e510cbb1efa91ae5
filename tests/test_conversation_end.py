"""How a conversation is over: both closed, nothing said in vain, and a dial that was given up leaves nothing behind."""

import threading
import time
from pathlib import Path

import grpc
import pytest
from test_grpc_channel import SOON_S, Platform, network, platform, until

from lianxin.crypto.randomness import system_seed
from lianxin.federation import admission, services
from lianxin.federation.errors import LianxinError, PeerError
from lianxin.federation.resumption import ConversationEnd, Frame
from lianxin.parties.identity import load_identity

__all__ = ["network", "platform"]


def test_an_end_that_waits_to_be_over_wakes_when_both_have_closed() -> None:
    end = ConversationEnd("bank-1", "matching/bank-1", 5.0)
    stream = end.prepare()
    end.attach(stream, 0)
    end.accept(stream, Frame(0, 0, closed=True))
    woken: list[float] = []

    def wait() -> None:
        began = time.monotonic()
        assert end.await_end(5.0)
        woken.append(time.monotonic() - began)

    waiter = threading.Thread(target=wait)
    waiter.start()
    time.sleep(0.2)
    farewell = end.due(stream)
    waiter.join(10)
    assert farewell is not None and farewell.closed and woken[0] < 2.0


def test_a_peer_that_says_again_and_again_that_it_has_finished_breaks_the_rules() -> None:
    end = ConversationEnd("bank-1", "matching/bank-1", 5.0)
    stream = end.prepare()
    end.attach(stream, 0)
    with pytest.raises(PeerError, match="frames that say nothing") as broken:
        for _ in range(100):
            end.accept(stream, Frame(0, 0, finished=True))
    assert broken.value.rule == "I10"


def test_dials_that_are_given_up_before_the_answer_leave_no_conversation(
    network: Path, platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = services.Host.connect

    def slow(*asked):
        connected = connect(*asked)
        time.sleep(0.2)
        return connected

    def brief(channel):
        try:
            channel.receive(0.05)
        except LianxinError:
            return

    monkeypatch.setattr(services.Host, "connect", slow)
    platform.start(brief, resume_window_s=0.5)
    tls = load_identity(network / "bank-1").client_tls("platform")
    credentials = grpc.ssl_channel_credentials(*(path.read_bytes() for path in (tls.pinned, tls.key, tls.certificate)))
    with grpc.secure_channel(platform.address, credentials) as road:
        grpc.channel_ready_future(road).result(SOON_S)
        converse = road.stream_stream("/lianxin.party.Matching/Converse")
        for _ in range(4):
            names = {
                admission.RUN_KEY: "run-0001", admission.CONVERSATION_KEY: "matching/bank-1",
                admission.TOKEN_KEY: system_seed().hex(), admission.STREAM_KEY: "1",
            }  # fmt: skip
            call = converse(iter([]), metadata=tuple(names.items()))
            time.sleep(0.1)
            call.cancel()
        assert platform.server is not None
        host = platform.server._host
        until(lambda: host._attended)
        until(lambda: not host._attended)
