"""Small worlds for tests of whole runs: a province laid out in a folder, run once, and shared by all that look at it.

Made once per pytest run and never changed by a test: whoever tampers with a folder copies it first (`copy_of`).
Paillier keys are the slowest part of a small run, and a function of their arguments: `known_keys` makes each only once.
"""

import shutil
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import tomli_w
from conversations import contract_of, party

from lianxin.crypto import canonical, paillier
from lianxin.crypto.randomness import Drbg
from lianxin.crypto.signing import SigningKey
from lianxin.federation import wire
from lianxin.federation.channel import Pipe, PipedChannel
from lianxin.federation.contract import RunContract
from lianxin.federation.session import Session
from lianxin.parties.clock import SimulatedClock
from lianxin.parties.ledger import Ledger
from lianxin.parties.records import read_table
from lianxin.parties.store import Store
from lianxin.parties.trace import LedgerTrace
from lianxin.simulations.layout import Layout, Terms, choose_catalogue, lay_out
from lianxin.simulations.runner import Ran, run_in_memory
from lianxin.simulations.tables import Inputs, check_inputs, write_table
from lianxin.simulations.world import make_province

ID, LABEL, SPLIT = "uscc", "label_bad", "split"
BANNED = "ban_medical"
PLATFORM_FIELDS = ("judgment_cnt_36m", "utility_continuity_m", "tax_late_cnt_24m", BANNED)
BANK_FIELDS = ("loan_rate", "dpd_max_12m")
CONSENTS = {"consent_permille": 970, "outsider_permille": 50, "compute_only_permille": 20, "revoked_firms": 1}
QUICK = {"rounds": 3, "minimums": {"spare_attempts": 1, "max_bins": 3}}
SHORT = {"profile": "short_exponents"}  # the same model in a third of the time, where a test is not about exponents
Memo = dict[tuple[Any, ...], paillier.SecretKey]
_KEYS: Memo = {}
_MADE: dict[str, Any] = {}


@dataclass(frozen=True)
class World:
    """A finished run in memory: its folder, how it went."""

    layout: Layout
    ran: Ran

    @property
    def platform(self) -> str:
        return self.layout.parties[0]

    @property
    def banks(self) -> list[str]:
        return self.layout.parties[1:]

    def leaves(self, party: str, kind: str = "") -> list[dict[str, Any]]:
        """Return a party's ledger leaves, of one kind or of all, in order."""
        return leaves_in(self.layout.home(party) / "evidence", kind)


def leaves_in(evidence: Path, kind: str = "") -> list[dict[str, Any]]:
    """Return the leaves of an evidence folder, of one kind or of all."""
    leaves = [canonical.decode(line) for line in (evidence / "ledger.jsonl").read_bytes().splitlines()]
    return [leaf for leaf in leaves if kind in ("", leaf["kind"])]


def tables_of(folder: Path, seed: int = 5, firms: int = 1200, banks: int = 2, loans: int = 300) -> Inputs:
    """Write a province with few columns to `folder` and return its checked tables."""
    province = make_province(seed, folder, firms=firms, banks=banks, loans=loans)
    _keep_columns(province.platform, (ID, *PLATFORM_FIELDS))
    for bank in province.banks:
        _keep_columns(bank, (ID, LABEL, SPLIT, *BANK_FIELDS))
    return check_inputs(province.platform, list(province.banks), ID, LABEL, SPLIT)


def _keep_columns(path: Path, names: tuple[str, ...]) -> None:
    frame = read_table(path).frame
    write_table(path, {name: frame[name].to_list() for name in names})


def lay(folder: Path, inputs: Inputs, address: str = "127.0.0.1:7443", **terms: Any) -> Layout:
    """Lay a run out in `folder`, matched by ECDH and quick, unless `terms` say otherwise."""
    chosen = Terms(**{"seed": 5, "matching": "ecdh", **QUICK, **CONSENTS, **terms})
    return lay_out(folder, inputs, chosen, choose_catalogue(inputs, None, True), address)


@contextmanager
def known_keys() -> Iterator[None]:
    """Let each Paillier key be generated once for its arguments and its generator's seed."""
    generate = paillier.generate_secret_key

    def remembered(bits: int, owner: str, purpose: str, run: str, drbg: Drbg) -> paillier.SecretKey:
        place = (bits, owner, purpose, run, drbg.child_seed("test-memo"))
        if place not in _KEYS:
            _KEYS[place] = generate(bits, owner, purpose, run, drbg)
        return _KEYS[place]

    with mock.patch.object(paillier, "generate_secret_key", remembered):
        yield


def run(layout: Layout, **options: Any) -> World:
    """Run a layout in this process."""
    with known_keys():
        return World(layout, run_in_memory(layout, **options))


def edit_toml(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Rewrite a TOML file after `change` to its content."""
    content = tomllib.loads(path.read_text())
    change(content)
    path.write_text(tomli_w.dumps(content))


def copy_of(world: World, folder: Path) -> Path:
    """Return a copy of a finished run's folder, to be tampered with."""
    return Path(shutil.copytree(world.layout.folder, folder, ignore=shutil.ignore_patterns("control.sock")))


def _once(name: str, make: Callable[[], Any]) -> Any:
    """Return what `make` gives, made at its first use in this pytest run: each module has fixtures of its own."""
    if name not in _MADE:
        _MADE[name] = make()
    return _MADE[name]


def _province(factory: pytest.TempPathFactory) -> Inputs:
    return _once("province", lambda: tables_of(factory.mktemp("province")))


@pytest.fixture(scope="session")
def province(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    """The small province's tables."""
    return _province(tmp_path_factory)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A finished run of the small province in memory."""
    return _once("finished", lambda: run(lay(tmp_path_factory.mktemp("finished") / "run", _province(tmp_path_factory))))


CONVERSATION, STEP = "contracts/bank-1", "contract.close"
START = "2026-01-05T01:00:00Z"


class End:
    """One end of a conversation in memory: its session, its own ledger, and a way to lie under its own key."""

    def __init__(self, folder: Path, party: str, key: SigningKey, contract: RunContract, channel: PipedChannel) -> None:
        self.store, self.clock = Store(folder / f"{party}.sqlite"), SimulatedClock(START)
        ledger = Ledger(self.store, party, key, self.clock, "lianxin test", "operator-1")
        self.key, self.channel = key, channel
        self.session = Session(
            party, contract, key, channel, LedgerTrace(ledger), self.clock, lambda: 0, channel.conversation
        )

    def leaves(self) -> list[dict[str, Any]]:
        """Return the ledger so far."""
        return [canonical.decode(leaf) for leaf in self.store.leaves()]

    def refusals(self) -> list[str]:
        """Return the rules of the refusal leaves."""
        return [leaf["rule"] for leaf in self.leaves() if leaf["kind"] == "refusal"]

    def taken(self) -> bytes:
        """Take the next envelope off the road before the peer sees it."""
        return self.channel.outbox.take(0.0)

    def put(self, data: bytes) -> None:
        """Put bytes on the road to the peer, past this end's own session."""
        self.channel.outbox.put(data, 0.0)

    def sealed(self, message: Any, step: str = STEP, **header: Any) -> bytes:
        """Return an envelope that this end signs although its session would never send it."""
        data, _ = wire.seal({**self.session._header(step), **header}, message, self.key)
        return data


class Ends:
    """A bank and a platform in one conversation; `heard` is what either hears next of the other."""

    def __init__(self, folder: Path, conversation: str = CONVERSATION, **terms: Any) -> None:
        keys = {name: SigningKey.from_seed(name.encode().ljust(32, b".")) for name in ("platform-a", "bank-1")}
        roles = {"platform-a": "platform", "bank-1": "bank"}
        parties = [{**party(name, roles[name]), "node_key": keys[name].public_hex} for name in keys]
        self.contract = contract_of(parties=parties, **terms)
        up, down = Pipe(), Pipe()
        roads = {"platform-a": ("bank-1", up, down), "bank-1": ("platform-a", down, up)}
        self.platform, self.bank = (
            End(folder, name, keys[name], self.contract, PipedChannel(peer, conversation, "test-run-1", i, o, 1.0))
            for name, (peer, i, o) in roads.items()
        )

    def close(self) -> None:
        """Release both stores."""
        self.platform.store.close()
        self.bank.store.close()


@pytest.fixture
def ends(tmp_path: Path) -> Iterator[Ends]:
    """A bank and a platform in a conversation of an agreed contract."""
    pair = Ends(tmp_path)
    yield pair
    pair.close()
