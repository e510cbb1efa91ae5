"""One side of a matching benchmark, as a process of its own: `python -m lianxin.simulations.bench_side ROLE SETTINGS`.

It runs the production role over the production road: gRPC with mutual TLS on loopback, signed envelopes, the wire guard
and a ledger with a leaf on disk for every envelope. Only the gate and the quota are left out: the firms are nobody's, have
given no consents and are handed to the role as they are.

On standard output it prints one JSON object a line: the platform `{"port"}` when it listens, the bank
`{"key_generation_s"}` when its key stands and `{"bytes"}` as it goes, both at the end what they used. CPU time and
memory are those of the process with its workers, from when it was ready to when it had its result; a bank's key
generation, which needs no peer, is told apart.
"""

import hashlib
import json
import os
import queue
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from lianxin.crypto import paillier
from lianxin.crypto.randomness import Drbg
from lianxin.federation import matching, services, wire
from lianxin.federation.channel import Channel
from lianxin.federation.contract import RunContract, parse_contract
from lianxin.federation.model import Provenance, Released
from lianxin.federation.session import Role, Session, converse
from lianxin.parties.clock import SimulatedClock
from lianxin.parties.identity import Identity, load_identity
from lianxin.parties.ledger import Ledger
from lianxin.parties.node import make_executor
from lianxin.parties.store import Store
from lianxin.parties.trace import LedgerTrace
from lianxin.simulations.bench_contract import BANK, DEADLINE_S, PLATFORM, made_up_right
from lianxin.simulations.bench_machine import cpu_seconds, tree_cpu_s, tree_peak_mb

CONVERSATION = f"matching/{BANK}"
_TOLD_EVERY_S = 1.0
_WITHIN_THE_CONTRACT = "2026-06-01T00:00:00Z"


@dataclass(frozen=True)
class MadeUpRows:
    """Firms that no gate released because they are nobody's, in the shape that a role takes its rows."""

    provenance: Provenance
    firms: tuple[str, ...] = field(repr=False)
    columns: Mapping[str, Sequence[Any]] = field(default_factory=dict)


class CountingTrace(LedgerTrace):
    """The ledger's trace, which also counts the bytes of envelopes sent and received."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__(ledger)
        self.bytes = {"in": 0, "out": 0}

    def crossed(
        self,
        direction: str,
        peer: str,
        opened: wire.Opened,
        crossings: Sequence[wire.Crossing],
        rights: Sequence[Provenance],
        envelope: bytes,
    ) -> None:
        """Write the leaf and count."""
        super().crossed(direction, peer, opened, crossings, rights, envelope)
        self.bytes[direction] += len(envelope)


class BenchSide:
    """What one side has: its identity, the contract, its firms and a ledger in its own folder."""

    def __init__(self, party: str, settings: Mapping[str, Any]) -> None:
        home = Path(settings["network"]) / party
        self.identity: Identity = load_identity(home)
        self.contract: RunContract = parse_contract(settings["contract"])
        peer = PLATFORM if party == BANK else BANK
        firms = tuple(Path(settings["firms"][party]).read_text().split("\n"))
        rows = cast(Released, MadeUpRows(made_up_right(party, peer, len(firms)), firms))
        self.clock = SimulatedClock(_WITHIN_THE_CONTRACT)
        self.store = Store(home / "store.sqlite")
        ledger = Ledger(self.store, party, self.identity.signing_key, self.clock, "bench", "bench")
        self.trace = CountingTrace(ledger)
        self.executor = make_executor(settings["workers"])
        self.drbg = Drbg(bytes.fromhex(settings["seed"])).child(party)
        self.side = matching.Side(self.contract, BANK, rows, self.drbg.child("matching"), self.executor, _unlimited)

    def converse(self, role: Role[list[str]], channel: Channel) -> list[str]:
        """Run `role` over `channel` to its end and return the shared firms."""
        session = Session(
            self.identity.party, self.contract, self.identity.signing_key, channel, self.trace, self.clock,
            lambda: 1, CONVERSATION,
        )  # fmt: skip
        try:
            firms = converse(role, session, DEADLINE_S)
            channel.finish()
            return firms
        finally:
            channel.close()

    def close(self) -> None:
        """Let the workers and the store go."""
        if self.executor is not None:
            self.executor.shutdown(cancel_futures=True)
        self.store.close()


def _unlimited(_queries: int) -> None:
    """The quota of a benchmark, which a platform gives as `charge`: made-up firms need none."""


def measured(side: BenchSide, work: Callable[[], list[str]]) -> dict[str, Any]:
    """Return what a side used while it found the shared firms, and digests of what it found."""
    cpu_before, start = tree_cpu_s(os.getpid()), time.monotonic()
    firms = work()
    end = time.monotonic()
    used = {"cpu_s": tree_cpu_s(os.getpid()) - cpu_before, "peak_mb": tree_peak_mb(os.getpid())}
    return {**used, "start": start, "end": end, "bytes_out": side.trace.bytes["out"], "matched": len(firms)} | {
        "set_sha256": digest_of(sorted(firms)), "order_sha256": digest_of(firms)
    }  # fmt: skip


def digest_of(firms: Sequence[str]) -> str:
    """Return the SHA-256, hex, of firms in their order."""
    return hashlib.sha256("\n".join(firms).encode()).hexdigest()


def run_platform(side: BenchSide) -> dict[str, Any]:
    """Listen, hold one conversation and return what it took."""
    ended = queue.Queue[Any]()

    def handle(channel: Channel) -> None:
        try:
            ended.put(side.converse(matching.platform_role(side.side), channel))
        except Exception as failure:
            ended.put(failure)
            raise

    def conversation() -> list[str]:
        found = ended.get()
        if isinstance(found, Exception):
            raise found
        return found

    me = side.identity
    server = services.serve(
        "127.0.0.1:0", me.server_tls(), me.pinned_peers(), handle, on_refused=lambda rule, uri: ended.put(_turned_away(rule))
    )  # fmt: skip
    tell({"port": server.port})
    try:
        return measured(side, conversation)
    finally:
        server.stop(1.0)


def _turned_away(rule: str) -> Exception:
    return RuntimeError(f"the platform of the benchmark turned its bank away by rule {rule}")


def run_bank(side: BenchSide, address: str) -> dict[str, Any]:
    """Make a key where the protocol needs one, dial, hold the conversation and return what it took."""
    keys: list[paillier.SecretKey] = []
    took = cpu_seconds(lambda: keys.extend(_keys(side)))
    tell({"key_generation_s": round(took, 3)})
    link = services.GrpcLink(address, side.identity.client_tls(PLATFORM), PLATFORM)
    role = told_as_it_goes(matching.bank_role(side.side, keys[0] if keys else None), side.trace)
    try:
        return measured(side, lambda: side.converse(role, link.open(CONVERSATION, side.contract.run)))
    finally:
        link.close()


def _keys(side: BenchSide) -> list[paillier.SecretKey]:
    if side.contract.matching != "paillier":
        return []
    drbg, run = side.drbg.child("matching-key"), side.contract.run
    return [paillier.generate_secret_key(side.contract.key_bits, BANK, matching.PURPOSE, run, drbg)]


def told_as_it_goes(role: Role[list[str]], trace: CountingTrace) -> Role[list[str]]:
    """Return the same machine, which tells about once a second how many bytes have crossed."""
    answer, last = None, time.monotonic()
    while True:
        try:
            wish = role.send(answer)
        except StopIteration as end:
            return end.value
        if time.monotonic() - last > _TOLD_EVERY_S:
            last = time.monotonic()
            tell({"bytes": sum(trace.bytes.values())})
        answer = yield wish


def tell(event: Mapping[str, Any]) -> None:
    """Print one event for the process that started this one."""
    print(json.dumps(dict(event)), flush=True)


def main() -> None:
    """Run one side to its end; when it is asked to stop, its workers stop too."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    party, settings = sys.argv[1], json.loads(Path(sys.argv[2]).read_text())
    side = BenchSide(party, settings)
    try:
        used = run_bank(side, sys.argv[3]) if party == BANK else run_platform(side)
        tell({"used": used})
    finally:
        side.close()


if __name__ == "__main__":
    main()
