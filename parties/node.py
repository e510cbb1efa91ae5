"""What every node has: its identity, store, ledger, registry, gate, catalogue, seeds and a way to talk.

A node writes only under its state folder. `open_node` is the one place where the parts are put together; platform and
bank build on it. In a trial every draw comes from the seed of the configuration, in production from the system, and the
hash of a run's seed is in the ledger before the run begins, so that the party can open it to an auditor later.
"""

import fcntl
import hashlib
import os
import signal
import stat
import time
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Executor, ProcessPoolExecutor
from dataclasses import dataclass, field
from importlib import metadata
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import IO, Any

from lianxin.crypto import canonical
from lianxin.crypto.errors import CryptoError
from lianxin.crypto.paillier import SecretKey
from lianxin.crypto.randomness import SEED_BYTES, Drbg, derive_seed, system_seed
from lianxin.federation.channel import Channel
from lianxin.federation.contract import RunContract
from lianxin.federation.errors import InputFault
from lianxin.federation.model import Clock
from lianxin.federation.session import Session
from lianxin.parties import catalogue as catalogues
from lianxin.parties.boundary import Boundary
from lianxin.parties.clock import SimulatedClock, SystemClock
from lianxin.parties.config import NodeConfig
from lianxin.parties.consent import ConsentRegister, decode_signed
from lianxin.parties.decision import Catalogue
from lianxin.parties.identity import Identity, load_identity
from lianxin.parties.keys import KeyStore, load_protection
from lianxin.parties.ledger import CATALOGUE_SETTING, Ledger, Witness
from lianxin.parties.store import Store
from lianxin.parties.trace import LedgerTrace

SUBJECT_KEY_FILE = "subject.key"
IMPORT_BATCH = 5_000
WORKER_DEADLINE_S = 60.0
WORKERS_LOST = (
    "a worker process of this node was killed or ran out of memory, which ended the run here; give the node more memory or "
    "fewer workers, and launch again"
)
Event = Callable[[str], None]


@dataclass
class Node:
    """The parts of one running node."""

    config: NodeConfig
    identity: Identity
    store: Store
    ledger: Ledger
    register: ConsentRegister
    boundary: Boundary
    catalogue: Catalogue
    clock: Clock
    trace: LedgerTrace
    keys: KeyStore
    executor: Executor | None = None
    lock: IO[bytes] | None = None
    _events: list[tuple[float, str]] = field(default_factory=list)
    bytes_sent: int = 0

    @property
    def party(self) -> str:
        """This node's party id."""
        return self.identity.party

    def session(self, contract: RunContract, channel: Channel, conversation: str, round: int = 0) -> Session:
        """Return this node's end of one conversation of a run."""
        return Session(
            self.party, contract, self.identity.signing_key, channel, self.trace, self.clock,
            lambda: self.register.epoch, conversation, round,
        )  # fmt: skip

    def run_seed(self, run: str) -> bytes:
        """Return the secret seed of a run at this node, made and kept at its first use."""
        key = f"seed/{run}"
        kept = self.store.setting(key)
        if kept is not None:
            return self.keys.open_seed(kept, run)
        simulation = self.config.simulation
        seed = derive_seed(simulated_seed(simulation.seed), self.party, run) if simulation else system_seed()
        commitment = hashlib.sha256(b"lianxin/seed\x00" + seed).hexdigest()
        leaf = {"kind": "contract", "run": run, "event": "seed-committed", "rule": "", "contract_hash": commitment}
        self.ledger.append(leaf)
        self.store.put_setting(key, self.keys.seal_seed(seed, run))
        return seed

    def run_drbg(self, run: str) -> Drbg:
        """Return the root generator of a run at this node."""
        return Drbg(self.run_seed(run))

    def paillier_key(self, purpose: str, run: str, bits: int, make: Callable[[], SecretKey]) -> SecretKey:
        """Return this node's Paillier key of one purpose and run: the saved one, or a new one that is saved first."""
        return self.keys.paillier_key(purpose, run, bits, make)

    def renew_workers(self) -> None:
        """Put a fresh pool in place of one that lost a worker: a pool that broke takes no work ever again."""
        if self.executor is None:
            return
        try:
            self.executor.submit(os.getpid).result(WORKER_DEADLINE_S)
        except (BrokenExecutor, TimeoutError):
            self.executor.shutdown(wait=False, cancel_futures=True)
            self.executor = make_executor(self.config.workers)

    def run_folder(self, run: str) -> Path:
        """Return the folder of one run under the state folder, made if needed."""
        folder = self.config.state / "runs" / run
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def contract_event(
        self, run: str, contract_hash: str, event: str, rule: str = "", operator: str | None = None
    ) -> None:
        """Append a contract leaf."""
        leaf = {"kind": "contract", "run": run, "contract_hash": contract_hash, "event": event, "rule": rule}
        self.ledger.append(leaf, operator)

    def take_revocations(self, before_round: int) -> int:
        """Import the trial's signed revocations that are due before this round; return how many."""
        simulation = self.config.simulation
        due = [path for after, path in (simulation.revocations if simulation else []) if after == before_round - 1]
        for path in due:
            for line in _lines(path):
                self.register.revoke(decode_signed(line))
                self.say(f"revoked before round {before_round}")
        return len(due)

    def say(self, what: str) -> None:
        """Note a step of progress, with the seconds of a steady clock, for whoever watches this node."""
        self._events.append((time.monotonic(), what))

    def events(self, start: int = 0) -> list[tuple[float, str]]:
        """Return the notes of progress from the `start`-th on."""
        return self._events[start:]

    def export(self, run: str) -> Path:
        """Write this node's evidence of a run to its state folder and return that path."""
        return self.ledger.export(self.run_folder(run), run)

    def head(self) -> bytes:
        """Return a fresh signed checkpoint of this node's ledger, in canonical bytes."""
        return canonical.encode(self.ledger.checkpoint())

    def keep_head(self, data: bytes, party: str, node_key: str) -> None:
        """Keep another party's signed checkpoint, so that it cannot rewrite its ledger later."""
        witness = Witness(self.store, self.party, self.identity.signing_key)
        witness.keep_head(canonical.decode_fragment(data), party, node_key)

    def close(self) -> None:
        """Release the store and the workers."""
        if self.executor is not None:
            self.executor.shutdown(wait=False, cancel_futures=True)
        self.store.close()
        if self.lock is not None:
            self.lock.close()


def _lock(state: Path) -> IO[bytes]:
    """Return the open lock of a state folder: one process a ledger. Raises InputFault when another node holds it."""
    handle = (state / "lock").open("ab")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        handle.close()
        raise InputFault(
            f"a node already runs on {state}; stop it first, or give this one its own state folder"
        ) from None
    return handle


def simulated_seed(seed: int) -> bytes:
    """Return the 32-byte root seed of a simulation's whole number."""
    return hashlib.sha256(f"lianxin/simulation/{seed}".encode()).digest()


def code_version() -> str:
    """Return the installed version of this package."""
    return f"lianxin {metadata.version('lianxin')}"


def open_node(config: NodeConfig, recording: Path | None = None) -> Node:
    """Return the node of `config`, its consents imported at the first start. Raises InputFault for what is missing."""
    identity = load_identity(config.identity)
    if identity.role != config.role:
        raise InputFault(
            f"{config.identity} holds the keys of a {identity.role}, the configuration is a {config.role}'s"
        )
    protection = load_protection(config)
    config.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    clock: Clock = SimulatedClock(config.simulation.clock) if config.simulation else SystemClock()
    lock = _lock(config.state)
    store = Store(config.state / "store.sqlite")
    ledger = Ledger(store, identity.party, identity.signing_key, clock, code_version(), config.operator)
    register = ConsentRegister(store, ledger)
    catalogue = _catalogue(config)
    store.put_setting(CATALOGUE_SETTING, catalogue.to_csv_bytes())
    secret = read_subject_key(config.identity / SUBJECT_KEY_FILE)
    salt = (
        derive_seed(simulated_seed(config.simulation.seed), identity.party, "salt")
        if config.simulation
        else system_seed()
    )
    boundary = Boundary(identity.party, catalogue, register, ledger, clock, secret, Drbg(salt))
    keys = KeyStore(config.state, identity.party, protection)
    node = Node(config, identity, store, ledger, register, boundary, catalogue, clock, LedgerTrace(ledger), keys)
    node.trace = LedgerTrace(ledger, recording, lambda size, way: _count(node, size, way))
    node.executor, node.lock = make_executor(config.workers), lock
    _import_consents(node)
    return node


def _count(node: Node, size: int, direction: str) -> None:
    if direction == "out":
        node.bytes_sent += size


def make_executor(workers: int) -> Executor | None:
    """Return a pool of `workers` processes that import nothing of the node, None for computing in the caller."""
    if not workers:
        return None
    return ProcessPoolExecutor(workers, get_context("forkserver"), initializer=_leave_stopping_to_the_owner)


def _leave_stopping_to_the_owner() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _catalogue(config: NodeConfig) -> Catalogue:
    return catalogues.load_catalogue(config.data.catalogue) if config.data.catalogue else catalogues.load_draft()


def _import_consents(node: Node) -> None:
    data = node.config.data
    if node.register.epoch or data.consents is None or data.firm_keys is None:
        return
    try:
        keys = map(canonical.decode_fragment, _lines(data.firm_keys))
        node.register.register_firm_keys({entry["subject_key"]: entry["key"] for entry in keys})
    except (CryptoError, KeyError, TypeError) as fault:
        raise InputFault(
            f"{data.firm_keys} is no list of firm keys, one a line (docs/records.md): check the path"
        ) from fault
    lines = _lines(data.consents)
    try:
        while batch := [decode_signed(line) for line in islice(lines, IMPORT_BATCH)]:
            _check_providers(node, batch)
            node.register.import_records(batch)
    except (CryptoError, KeyError, TypeError) as fault:
        raise InputFault(f"{data.consents}: {_plain(fault)}; no node starts on consents that do not hold") from fault


def _plain(fault: Exception) -> str:
    return str(fault).rstrip(".") if isinstance(fault, CryptoError) else "a line is no signed consent or revocation"


def _check_providers(node: Node, batch: list[dict[str, Any]]) -> None:
    foreign = sum(signed["record"].get("provider", node.party) != node.party for signed in batch)
    if foreign:
        raise InputFault(f"{foreign} consents in {node.config.data.consents} name another provider than {node.party}")


def _lines(path: Path) -> Iterator[bytes]:
    """Yield a file's lines one at a time, without their ends."""
    try:
        with path.open("rb") as file:
            yield from (line.rstrip(b"\n") for line in file)
    except OSError:
        raise InputFault(f"{path} cannot be read; check the path in [data]") from None


def write_subject_key(path: Path, secret: bytes) -> None:
    """Write the node's subject secret, readable by its owner alone. Raises InputFault when it is there already."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise InputFault(f"{path} exists already; a new subject key would orphan every consent") from None
    with os.fdopen(handle, "w") as file:
        file.write(secret.hex() + "\n")


def read_subject_key(path: Path) -> bytes:
    """Return the node's subject secret. Raises InputFault when it is missing, open to others or malformed."""
    try:
        mode, text = path.stat().st_mode, path.read_text().strip()
    except OSError:
        raise InputFault(f"{path} is missing; `lianxin {{platform,bank}} init` writes it") from None
    if stat.S_IMODE(mode) & 0o077:
        raise InputFault(f"{path} can be read by others; set its mode to 600")
    try:
        secret = bytes.fromhex(text)
    except ValueError:
        secret = b""
    if len(secret) != SEED_BYTES:
        raise InputFault(f"{path} does not hold {SEED_BYTES} bytes in hex; restore it")
    return secret
