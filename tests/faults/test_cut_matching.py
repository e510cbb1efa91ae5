"""Matching over gRPC through a relay that cuts: the result and the transcript are those of the run that nobody cut."""

import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from conversations import contract_of, party, right
from faults.cutting_proxy import CuttingProxy

from lianxin.crypto import paillier
from lianxin.crypto.randomness import Drbg
from lianxin.crypto.signing import SigningKey
from lianxin.crypto.transcript import TranscriptDigest
from lianxin.federation import matching
from lianxin.federation.channel import Channel
from lianxin.federation.contract import RunContract
from lianxin.federation.model import Released
from lianxin.federation.services import GrpcLink, serve
from lianxin.federation.session import Session, converse
from lianxin.parties.clock import SimulatedClock
from lianxin.parties.identity import load_identity, make_network

NOW = "2026-01-05T01:00:00Z"
DEADLINE_S = 30.0
KEYS = {name: SigningKey.from_seed(name.encode().ljust(32, b".")) for name in ("platform-a", "bank-1")}
Event = tuple[str, str, int]


class MachineClock:
    def now(self) -> str:
        return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Watch:
    """Both ends' trace: the transcript, and something to happen at each crossing (who, direction, sequence number)."""

    def __init__(self, on_crossing: Callable[[Event], None]) -> None:
        self.digests = {name: TranscriptDigest() for name in KEYS}
        self.events: list[Event] = []
        self.refusals: list[str] = []
        self._on_crossing, self._lock = on_crossing, threading.Lock()

    def of(self, name: str) -> "End":
        return End(self, name)

    def cross(self, name: str, direction: str, header: Any, envelope: bytes) -> None:
        place = (header["conversation"], header["sender"], header["seq"])
        with self._lock:
            self.digests[name].add(*place, hashlib.sha256(envelope).digest())
            self.events.append((name, direction, header["seq"]))
        self._on_crossing((name, direction, header["seq"]))


class End:
    """One end's `session.Trace`."""

    def __init__(self, watch: Watch, name: str) -> None:
        self._watch, self._name = watch, name

    def crossed(
        self, direction: str, peer: str, opened: Any, crossings: Sequence[Any], rights: Sequence[Any], envelope: bytes
    ) -> None:
        self._watch.cross(self._name, direction, opened.header, envelope)

    def refused(self, run: str, peer: str, rule: str, step: str, message_hash: str | None) -> None:
        self._watch.refusals.append(rule)


class Match:
    """One run of matching between a bank and a platform on gRPC, through a relay."""

    def __init__(
        self, folder: Path, contract: RunContract, key: paillier.SecretKey | None, own: int, theirs: int
    ) -> None:
        self._folder, self._contract, self._key = folder, contract, key
        names = [f"firm-{number:05d}" for number in range(max(own, theirs))]
        root = Drbg(b"s" * 32)
        bank = Released(right("bank-1", "platform-a"), tuple(names[:own]), {})
        platform = Released(right("platform-a", "bank-1"), tuple(names[-theirs:]), {})
        self._bank = matching.Side(contract, "bank-1", bank, root.child("bank"))
        self._platform = matching.Side(
            contract, "bank-1", platform, root.child("platform"), charge=lambda queries: None
        )

    def run(self, on_crossing: Callable[[CuttingProxy, Event], None]) -> tuple[list[str], list[str], Watch]:
        """Return (the bank's firms, the platform's, what crossed)."""
        found: dict[str, list[str]] = {}
        watch = Watch(lambda event: on_crossing(proxy, event))

        def handle(channel: Channel) -> None:
            session = self._session("platform-a", channel, watch)
            found["platform-a"] = converse(matching.platform_role(self._platform), session, DEADLINE_S)
            channel.finish()

        me = load_identity(self._folder / "platform-a")
        server = serve("127.0.0.1:0", me.server_tls(), me.pinned_peers(), handle, on_refused=lambda rule, uri: None)
        proxy = CuttingProxy(f"127.0.0.1:{server.port}")
        tls = load_identity(self._folder / "bank-1").client_tls("platform-a")
        link = GrpcLink(proxy.address, tls, "platform-a")
        try:
            channel = link.open("matching/bank-1", self._contract.run)
            session = self._session("bank-1", channel, watch)
            found["bank-1"] = converse(matching.bank_role(self._bank, self._key), session, DEADLINE_S)
            channel.finish()
            channel.close()
        finally:
            link.close()
            server.stop()
            proxy.close()
        assert list(server.failures) == [] and watch.refusals == []
        return found["bank-1"], found["platform-a"], watch

    def _session(self, name: str, channel: Channel, watch: Watch) -> Session:
        clock = SimulatedClock(NOW)
        return Session(name, self._contract, KEYS[name], channel, watch.of(name), clock, lambda: 0, "matching/bank-1")


def contract(protocol: str) -> RunContract:
    """Return a contract whose chunks are smaller than any that parties could agree on, to have many of them."""
    roles = {"platform-a": "platform", "bank-1": "bank"}
    parties = [{**party(name, roles[name]), "node_key": KEYS[name].public_hex} for name in KEYS]
    agreed = contract_of(matching=protocol, parties=parties)
    return RunContract({**agreed.record, "chunk_bytes": {"ecdh": 1024, "paillier": 16 * 1024}[protocol]})


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("network")
    make_network(folder, "platform-a", ["bank-1"], None, MachineClock(), 2)
    return folder


def nothing(proxy: CuttingProxy, event: Event) -> None:
    """Let everything through."""


@pytest.fixture(scope="module")
def ecdh(network: Path) -> Match:
    return Match(network, contract("ecdh"), None, own=250, theirs=400)


@pytest.fixture(scope="module")
def uncut(ecdh: Match) -> Iterator[tuple[list[str], list[str], Watch]]:
    yield ecdh.run(nothing)


def digests(watch: Watch) -> set[str]:
    return {digest.hexdigest() for digest in watch.digests.values()}


def test_an_uncut_run_has_many_chunks_and_one_transcript_at_both_ends(
    uncut: tuple[list[str], list[str], Watch],
) -> None:
    ours, theirs, watch = uncut
    assert ours == theirs and len(ours) == 250 and len(digests(watch)) == 1 and len(watch.events) > 60


@pytest.mark.parametrize("who", list(KEYS))
@pytest.mark.parametrize("direction", ["out", "in"])
def test_ecdh_matching_cut_at_each_chunk_ends_with_the_same_firms_and_the_same_transcript(
    ecdh: Match, uncut: tuple[list[str], list[str], Watch], who: str, direction: str
) -> None:
    cuts: list[Event] = []

    def cut(proxy: CuttingProxy, event: Event) -> None:
        if event[:2] == (who, direction):
            cuts.append(event)
            proxy.cut()

    ours, theirs, watch = ecdh.run(cut)
    assert (ours, theirs, digests(watch)) == (*uncut[:2], digests(uncut[2]))
    assert sorted(watch.events) == sorted(uncut[2].events) and len(cuts) > 10


def test_paillier_matching_cut_at_each_chunk_ends_with_the_same_firms_and_the_same_transcript(
    network: Path, matching_key: paillier.SecretKey
) -> None:
    match = Match(network, contract("paillier"), matching_key, own=64, theirs=100)
    uncut = match.run(nothing)
    ours, theirs, watch = match.run(lambda proxy, event: proxy.cut())
    assert len(ours) == 64 and (ours, theirs, digests(watch)) == (*uncut[:2], digests(uncut[2]))
    assert sorted(watch.events) == sorted(uncut[2].events)
