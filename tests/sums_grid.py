"""Banks that answer secure sums through Flower's messages, in memory or over gRPC, and a platform that leads them."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from conversations import contract_of, fields_of, party, right
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from sums_world import names_of

from lianxin.crypto.randomness import Drbg
from lianxin.crypto.signing import SigningKey
from lianxin.federation import apps
from lianxin.federation.channel import Channel, Pipe, PipedChannel
from lianxin.federation.contract import RunContract
from lianxin.federation.errors import LianxinError
from lianxin.federation.grid import LocalGrid, PartyGrid, answer_instructions
from lianxin.federation.secure_sum import BankSum
from lianxin.federation.services import GrpcLink, serve
from lianxin.federation.session import Session
from lianxin.federation.sum_mod import SumLeader, Summed, SumRequest, SumsInMemory, secure_sum_mod, terms_for
from lianxin.parties.clock import SimulatedClock
from lianxin.parties.identity import load_identity, make_network

PLATFORM, NOW = "platform-a", "2026-01-05T01:00:00Z"
FORMS = {
    **dict.fromkeys(("sum", "sum_received", "attempt"), "CONTROL"), "sum_shares": "CIPHERTEXT", "masked": "MASKED",
    **dict.fromkeys(("sum_key", "sum_keys", "sum_boxes", "sum_set", "sum_sets", "note"), "PUBLIC"),
    "sum_opening": "MASKED", "summand": "MASKED", "rows": "PUBLIC",
}  # fmt: skip
PATIENCE_S = 5.0


class Silent:
    """A trace that keeps nothing."""

    def crossed(self, *_said: Any) -> None: ...

    def refused(self, *_said: Any) -> None: ...


class Killed(Exception):
    """A bank's process ends here."""


def key_of(name: str) -> SigningKey:
    return SigningKey.from_seed(name.encode().ljust(32, b"."))


def contract_for(banks: int, keys: Mapping[str, str] | None = None, **terms: Any) -> RunContract:
    """Return the contract of a network across that many banks; node keys are `keys` or those of `key_of`."""
    names = names_of(banks)
    known = keys or {name: key_of(name).public_hex for name in (PLATFORM, *names)}
    parties = [{**party(n, "platform" if n == PLATFORM else "bank"), "node_key": known[n]} for n in (PLATFORM, *names)]
    terms = {"model": "logistic", "min_banks": min(3, banks), **terms}
    return contract_of(parties=parties, fields=fields_of(list(names)), forms=FORMS, **terms)


class Bank:
    """A bank whose value at `train` is `value`; it dies at the message kind `dies_at`, before it answers."""

    def __init__(self, name: str, contract: RunContract, key: SigningKey, value: np.ndarray, dies_at: str = "") -> None:
        self.name, self.contract, self.key, self.value, self.dies_at = name, contract, key, value, dies_at
        self.memory, self.heard = SumsInMemory(), list[str]()
        self.failure: BaseException | None = None

    def make_sum(self, request: SumRequest) -> BankSum:
        drbg = Drbg(bytes(32)).child("sums_grid", self.name)
        return BankSum(terms_for(self.contract, request), self.name, self.key, drbg)

    def app(self) -> ClientApp:
        app = ClientApp(mods=[self._mortal, secure_sum_mod(self.make_sum, self.memory, self.contract)])

        @app.train()
        def train(message: Message, _context: Context) -> Message:
            content = apps.record_of({"summand": self.value}, {"rows": 10}, {"note": self.name})
            return Message(content=content, reply_to=message)

        def unreached(message: Message, _context: Context) -> Message:
            raise AssertionError("a sum's stages are answered by the mod")

        for action in ("sumkeys", "sumshares", "sumagree", "sumopen"):  # Flower looks an action up before its mods
            app.query(action)(unreached)
        return app

    def _mortal(self, message: Message, context: Context, call_next: Callable[[Message, Context], Message]) -> Message:
        self.heard.append(message.metadata.message_type)
        if message.metadata.message_type == self.dies_at:
            raise Killed
        return call_next(message, context)

    def live(self, channel: Channel) -> None:
        """Answer over `channel` until the platform hangs up or this bank ends."""
        session = session_of(self.name, self.contract, self.key, channel)
        session.follows = True
        rights = (right(self.name, PLATFORM),)
        try:
            answer_instructions(self.app(), session, lambda: rights, PATIENCE_S, lambda: False)
        except (LianxinError, Killed) as end:
            self.failure = end
        finally:
            channel.close()


def session_of(name: str, contract: RunContract, key: SigningKey, channel: Channel) -> Session:
    return Session(name, contract, key, channel, Silent(), SimulatedClock(NOW), lambda: 0, channel.conversation)


@contextmanager
def piped(banks: Sequence[Bank], kind: type[PartyGrid] = LocalGrid) -> Iterator[PartyGrid]:
    """Give a grid to banks in threads of this process."""
    sessions, threads = {}, []
    for bank in banks:
        up, down = Pipe(), Pipe()
        name, run = f"learning/{bank.name}", bank.contract.run
        own = PipedChannel(PLATFORM, name, run, down, up, PATIENCE_S)
        their = PipedChannel(bank.name, name, run, up, down, PATIENCE_S)
        sessions[bank.name] = session_of(PLATFORM, bank.contract, key_of(PLATFORM), their)
        threads.append(threading.Thread(target=bank.live, args=(own,), daemon=True))
        threads[-1].start()
    try:
        yield kind(sessions, PATIENCE_S)
    finally:
        for session in sessions.values():
            session.channel.close()
        for thread in threads:
            thread.join(PATIENCE_S)


def network_of(folder: Path, banks: int) -> dict[str, Any]:
    """Return the identities of a made-up network by party."""
    make_network(folder, PLATFORM, list(names_of(banks)), None, SimulatedClock(NOW), 400)
    return {name: load_identity(folder / name) for name in (PLATFORM, *names_of(banks))}


@contextmanager
def over_grpc(banks: Sequence[Bank], known: Mapping[str, Any]) -> Iterator[PartyGrid]:
    """Give a grid to banks in threads that dial the platform over gRPC with mutual TLS on the loopback interface."""
    come: dict[str, Channel] = {}
    everybody, over = threading.Semaphore(0), threading.Event()

    def admit(channel: Channel) -> None:
        come[channel.peer] = channel
        everybody.release()
        over.wait(60.0)

    me = known[PLATFORM]
    server = serve(
        "127.0.0.1:0", me.server_tls(), me.pinned_peers(), admit, on_refused=lambda *_: None, resume_window_s=0.3
    )
    links = []

    def live(bank: Bank) -> None:
        tls = known[bank.name].client_tls(PLATFORM)
        link = GrpcLink(f"127.0.0.1:{server.port}", tls, PLATFORM, start_deadline_s=PATIENCE_S, resume_window_s=0.3)
        links.append(link)
        bank.live(link.open(f"learning/{bank.name}", bank.contract.run))
        link.close()

    threads = [threading.Thread(target=live, args=(bank,), daemon=True) for bank in banks]
    for thread in threads:
        thread.start()
    try:
        assert all(everybody.acquire(timeout=10.0) for _ in banks)
        contract, key = banks[0].contract, me.signing_key
        sessions = {name: session_of(PLATFORM, contract, key, channel) for name, channel in come.items()}
        yield PartyGrid(sessions, PATIENCE_S)
    finally:
        over.set()
        for channel in come.values():
            channel.close()
        for thread in threads:
            thread.join(PATIENCE_S)
        server.stop()


def asker(grid: PartyGrid) -> Callable[..., Any]:
    """Return the `ask` of a leader over a grid."""
    nodes = {bank: node for node, bank in grid.banks.items()}

    def ask(kind: str, round_number: int, numbers: Mapping[str, int], texts: Mapping[str, Mapping[str, str]]) -> Any:
        asked = [
            grid.create_message(apps.record_of({}, dict(numbers), dict(said)), kind, nodes[bank], str(round_number))
            for bank, said in sorted(texts.items()) if bank not in grid.lost
        ]  # fmt: skip
        replies, lost = {}, [bank for bank in texts if bank in grid.lost]
        for reply in grid.send_and_receive(asked):
            bank = grid.banks[reply.metadata.src_node_id]
            if reply.has_error():
                lost.append(bank)
            else:
                replies[bank] = apps.parts_of(reply.content)
        return replies, lost

    return ask


def lead(
    grid: PartyGrid, contract: RunContract, length: int, width: int = 64, attempt: int = 0,
    groups: Sequence[Sequence[str]] | None = None,
) -> dict[int, Summed]:  # fmt: skip
    """Lead one round of `train` over every bank that is there."""
    there = [bank for bank in grid.banks.values() if bank not in grid.lost]
    return SumLeader(contract).run(
        asker(grid), "train", 3, attempt, groups or [there], {"attempt": attempt}, {"note": "go"}, length, width
    )
