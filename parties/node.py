"""What every node has: its identity, store, ledger, registry, gate, catalogue, seeds and a way to talk.

A node writes only under its state folder. `open_node` is the one place where the parts are put together; platform and
bank build on it. In a trial every draw comes from the seed of the configuration, in production from the system, and the
hash of a run's seed is in the ledger before the run begins, so that the party can open it to an auditor later.
"""

import hashlib
import os
import resource
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Executor, ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import IO, Any

from lianxin.crypto import canonical, notes
from lianxin.crypto.errors import CryptoError
from lianxin.crypto.paillier import SecretKey
from lianxin.crypto.randomness import Drbg, derive_seed, system_seed
from lianxin.federation.channel import Channel
from lianxin.federation.contract import IDENTIFIER, RunContract
from lianxin.federation.errors import InputFault
from lianxin.federation.session import Session
from lianxin.federation.waits import Waits
from lianxin.parties import catalogue as catalogues
from lianxin.parties import failpoints_armed, key_rotation, lineage, retention
from lianxin.parties.boundary import Boundary
from lianxin.parties.boundary_clock import TOLERANCE_S, LedgerClock, newest_time, seconds_between
from lianxin.parties.boundary_grades import Desensitiser, grade_leaf, grade_of, keep_grade
from lianxin.parties.catalogue_versions import in_force
from lianxin.parties.clock import SimulatedClock, SystemClock
from lianxin.parties.coding_rules import NO_RULES, BinRules, load_rules
from lianxin.parties.commitments import proposal_hashes
from lianxin.parties.config import NodeConfig
from lianxin.parties.consent import Admission, ConsentRegister, decode_signed
from lianxin.parties.consent_high_water import FILE as HIGH_WATER
from lianxin.parties.decision import Catalogue
from lianxin.parties.event_ring import EventRing
from lianxin.parties.fault_log import keep_texts_out
from lianxin.parties.identity import Identity, load_identity
from lianxin.parties.keys import KeyStore, load_protection
from lianxin.parties.ledger import Ledger, Witness
from lianxin.parties.ledger_export import keep_catalogue
from lianxin.parties.ledger_witness import TIME
from lianxin.parties.limits_disk import DiskGuard
from lianxin.parties.run_inputs import commit_inputs
from lianxin.parties.software import code_version
from lianxin.parties.store import Store
from lianxin.parties.store_open import close_state, lock_state, open_store
from lianxin.parties.subject_key import SUBJECT_KEY_FILE, read_subject_key, write_subject_key
from lianxin.parties.trace import LedgerTrace
from lianxin.parties.watch_log import classify, log_note
from lianxin.parties.workers import Workers

WORKER_DEADLINE_S = 60.0
WORKERS_LOST = (
    "a worker process of this node was killed or ran out of memory, which ended the run here; give the node more memory or "
    "fewer workers, and launch again"
)


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
    clock: LedgerClock
    trace: LedgerTrace
    keys: KeyStore
    rules: BinRules = NO_RULES
    executor: Executor | None = None
    lock: IO[bytes] | None = None
    notes: EventRing = field(default_factory=EventRing)
    _eyes: dict[str, dict[str, str]] = field(default_factory=dict)
    bytes_sent: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    waits: Waits = field(default_factory=Waits)
    watch: Any = None  # what looks after a served node (`watch.Watch`)
    heard_at: dict[str, float] = field(default_factory=dict)  # by party: when a message of it came in, steady seconds
    swept: str = ""  # the day of the last sweep

    @property
    def party(self) -> str:
        """This node's party id."""
        return self.identity.party

    def session(self, contract: RunContract, channel: Channel, conversation: str, round: int = 0) -> Session:
        """Return this node's end of one conversation of a run."""
        return Session(
            self.party, contract, self.identity.key_for(contract.node_keys), channel, self.trace, self.clock,
            lambda: self.register.epoch, conversation, round, waits=self.waits,
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
        commit_inputs(self, run, seed)
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
        """Return the folder of one run under the state folder, made if needed. Raises InputFault for an id that is none."""
        if IDENTIFIER.fullmatch(run) is None:
            raise InputFault("a run's folder is asked for under an id that is none (3 to 64 of a-z, 0-9 and '-')")
        folder = self.config.state / "runs" / run
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def contract_event(
        self, run: str, contract_hash: str, event: str, rule: str = "", operator: str | None = None, proposer: str = ""
    ) -> None:
        """Append a contract leaf. An approval names both of the four eyes: `proposer`, and the operator who approves (R26).

        What this party signs after that names the two again.
        """
        leaf = {"kind": "contract", "run": run, "contract_hash": contract_hash, "event": event, "rule": rule}
        if proposer:
            self._eyes[run] = {"proposer": proposer, "approver": operator or self.config.operator}
        leaf |= proposal_hashes(self.store, run, event)
        self.ledger.append(leaf | (self._eyes.get(run, {}) if event in ("approved", "signed") else {}), operator)

    def take_revocations(self, before_round: int, run: str = "") -> int:
        """Import the trial's signed revocations that are due before this round; return how many."""
        simulation = self.config.simulation
        due = [path for after, path in (simulation.revocations if simulation else []) if after == before_round - 1]
        for path in due:
            for line in _lines(path):
                self.register.revoke(decode_signed(line))
                self.say(f"revoked before round {before_round}", run)
        return len(due)

    def say(self, what: str, run: str = "", level: str = "info") -> None:
        """Note a step of progress, with the seconds of a steady clock, for whoever watches this node, and for its log.

        `run` is the run that it is about; a sentence that names one (`watch_log.classify`) need not be told.
        """
        run = run or classify(what)[1]
        self.notes.add(time.monotonic(), what, run)
        log_note(self.party, what, run, level)

    def events(self, start: int = 0) -> list[tuple[float, str]]:
        """Return the notes of progress from the `start`-th on that are still kept."""
        return self.notes.since(start)

    @property
    def noted(self) -> int:
        """How many notes there have been: the position of the next one."""
        return self.notes.noted

    def export(self, run: str) -> Path:
        """Write this node's evidence of a run to its state folder and return that path.

        What was withdrawn while the run went on is out of its files, and its model marked, before the ledger is written.
        """
        lineage.mark_models(self)
        return self.ledger.export(self.run_folder(run), run)

    def head(self, peer: str) -> bytes:
        """Return this ledger's head as `peer` is asked to cosign it: a signed note with the proof that it extends the last."""
        return self.ledger.request_for(peer)

    def keep_head(self, request: bytes, party: str, node_key: str) -> bytes:
        """Keep another party's head, so that it cannot rewrite its ledger later; return the answer to it."""
        witness = Witness(self.store, self.party, self.identity.signing_key, self.identity.ledger_keys().known)
        answer = witness.keep_head(request, party, node_key, self.clock.now())
        self.heard(_time_of(request), party)
        return answer

    def take_answer(self, answer: bytes, party: str, node_key: str) -> None:
        """Keep another party's cosignature of this ledger's head; one that does not hold is told and not kept.

        It may be of the key of a contract or, where the party has rotated it since, of one that is taken as its own now.
        """
        doubt: CryptoError | None = None
        for key in dict.fromkeys((node_key, *self.identity.keys_of(party))) if answer else ():
            try:
                self.ledger.take_answer(answer, party, key)
                return
            except CryptoError as fault:
                doubt = doubt or fault
        if doubt is not None:
            self.say(f"the cosignature of {party} was not kept: {doubt}")

    def heard(self, time: str, party: str) -> None:
        """Write an alarm leaf when the time that a peer signed is over 30 seconds from this node's (rule T01)."""
        skew = abs(seconds_between(time, self.clock.now()))
        if skew > TOLERANCE_S:
            self.ledger.append({"kind": "alarm", "run": "", "peer": party, "rule": "T01", "skew_s": skew})

    def close(self) -> None:
        """Release the store and the workers."""
        if self.executor is not None:
            self.executor.shutdown(wait=False, cancel_futures=True)
        try:
            self.ledger.close()
        finally:
            self.store.close()
            if self.lock is not None:
                self.lock.close()


def _time_of(request: bytes) -> str:
    """Return the time in a head that a peer showed and that was verified, "" without one."""
    lines = notes.parse_checkpoint(notes.parse_request(request)[2].text).extensions
    return next((line.removeprefix(TIME) for line in lines if line.startswith(TIME)), "")


def simulated_seed(seed: int) -> bytes:
    """Return the 32-byte root seed of a simulation's whole number."""
    return hashlib.sha256(f"lianxin/simulation/{seed}".encode()).digest()


def open_node(config: NodeConfig, recording: Path | None = None) -> Node:
    """Return the node of `config`, its consents imported at the first start. Raises InputFault for what is missing."""
    failpoints_armed.arm_for(config.profile)
    identity = load_identity(config.identity, lambda: load_protection(config))
    if identity.role != config.role:
        raise InputFault(
            f"{config.identity} holds the keys of a {identity.role}, the configuration is a {config.role}'s"
        )
    rules = load_rules(config.binning.file)
    keep_texts_out()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # no core dump: keys and seeds are in memory from here on
    protection = load_protection(config)
    close_state(config.state)
    lock = lock_state(config.state)
    store = open_store(config)
    if config.data.database:
        from lianxin.parties.records_postgres import take_copy

        take_copy(config)
    clock = _clock(config, store)
    witness, key, pinned = config.witness, identity.ledger_keys(), identity.witness_keys()
    salts = Drbg(_salt_seed(config, identity.party))
    ledger = Ledger(
        store, identity.party, key, clock, code_version(), config.operator, witness.quorum, witness.hours, pinned, salts
    )
    catalogue = in_force(store, _catalogue(config))
    register = ConsentRegister(store, ledger, _admission(config, identity, clock, catalogue), config.state / HIGH_WATER)
    keep_catalogue(store, catalogue.to_csv_bytes())
    secret = read_subject_key(config.identity / SUBJECT_KEY_FILE)
    boundary = Boundary(identity.party, catalogue, register, ledger, clock, secret, salts, config.quota)
    keys = KeyStore(config.state, identity.party, protection)
    node = Node(config, identity, store, ledger, register, boundary, catalogue, clock, LedgerTrace(ledger), keys, rules)
    disk = DiskGuard(config.state, config.limits, node.counts)
    node.trace = LedgerTrace(ledger, recording, lambda *crossed: _count(node, *crossed), disk)
    node.executor, node.lock = make_executor(config.workers), lock
    key_rotation.begin(node)
    register.name_keys()
    _import_consents(node)
    boundary.desensitiser = _desensitiser(node, secret)
    retention.sweep_daily(node)
    lineage.mark_models(node)
    return node


def _salt_seed(config: NodeConfig, party: str) -> bytes:
    """Return the seed of this start's salts, which are kept with what they salt."""
    simulation = config.simulation
    return derive_seed(simulated_seed(simulation.seed), party, "salt") if simulation else system_seed()


def _clock(config: NodeConfig, store: Store) -> LedgerClock:
    """Return the clock that this node's ledger and gate share; in a trial it stands still."""
    if config.simulation:
        return LedgerClock(SimulatedClock(config.simulation.clock), newest_time(store))
    return LedgerClock(SystemClock(), newest_time(store), lambda: time.clock_gettime(time.CLOCK_BOOTTIME))


def _desensitiser(node: Node, secret: bytes) -> Desensitiser | None:
    """Return the node's policy with its grade, None without one; measured once for each policy and table file.

    Raises InputFault for a policy that calls a column less than the catalogue does, or does not fit the table.
    """
    path = node.config.data.desensitisation
    if path is None:
        return None
    from lianxin.parties.desensitise import load_policy, measure
    from lianxin.parties.desensitise_catalogue import check_roles
    from lianxin.parties.records import read_table

    policy, own = load_policy(path), derive_seed(secret, "desensitisation")
    check_roles(policy, node.catalogue)
    own_table = node.config.data.table
    assert own_table is not None  # config.load_node asks for it beside a policy
    digest = hashlib.sha256(own_table.read_bytes()).hexdigest()
    if not grade_of(node.store, policy.hash, digest):
        table = read_table(own_table, node.config.data.columns)
        columns = {name: table.column(name) for name in table.columns}
        record = measure(policy, columns, derive_seed(own, "measure"), node.party, node.clock.now())
        node.ledger.append(grade_leaf(keep_grade(node.store, record, digest), record))
    return Desensitiser(policy, grade_of(node.store, policy.hash, digest), own)


def _count(node: Node, size: int, direction: str, peer: str) -> None:
    node.counts[f"bytes/{direction}"] += size
    node.counts[f"envelopes/{direction}"] += 1
    if direction == "out":
        node.bytes_sent += size
    else:
        node.heard_at[peer] = time.monotonic()


def make_executor(workers: int) -> Executor | None:
    """Return a pool of `workers` processes that import nothing of the node, None for computing in the caller."""
    if not workers:
        return None
    context = get_context("forkserver")
    return Workers(ProcessPoolExecutor(workers, context, initializer=_leave_stopping_to_the_owner), workers)


def _leave_stopping_to_the_owner() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _catalogue(config: NodeConfig) -> Catalogue:
    return catalogues.load_merged(config.data.catalogue, config.data.catalogue_additions)


def _import_consents(node: Node) -> None:
    data = node.config.data
    if node.register.epoch or data.consents is None or data.firm_keys is None:
        return
    try:
        keys = map(canonical.decode_fragment, _lines(data.firm_keys))
        entries = list(keys)
        kinds = {entry["subject_key"]: entry["kind"] for entry in entries if "kind" in entry}
        node.register.register_firm_keys({entry["subject_key"]: entry["key"] for entry in entries}, kinds)
    except (CryptoError, KeyError, TypeError) as fault:
        raise InputFault(
            f"{data.firm_keys} is no list of firm keys, one a line (docs/records.md): check the path"
        ) from fault
    try:
        node.register.import_lines(_lines(data.consents), node.executor)
    except (CryptoError, KeyError, TypeError) as fault:
        raise InputFault(f"{data.consents}: {_plain(fault)}; no node starts on consents that do not hold") from fault


def _plain(fault: Exception) -> str:
    return str(fault).rstrip(".") if isinstance(fault, CryptoError) else "a line is no signed consent or revocation"


def _admission(config: NodeConfig, identity: Identity, clock: LedgerClock, catalogue: Catalogue) -> Admission:
    """Return by what this node's registry judges what comes in: its own party, its pinned peers, its clock."""
    parties = {peer.party: peer.node_key for peer in identity.peers.values()}
    parties[identity.party] = identity.signing_key.public_hex
    return Admission(identity.party, clock, parties, frozenset(config.data.attesting), catalogue)


def _lines(path: Path) -> Iterator[bytes]:
    """Yield a file's lines one at a time, without their ends."""
    try:
        with path.open("rb") as file:
            yield from (line.rstrip(b"\n") for line in file)
    except OSError:
        raise InputFault(f"{path} cannot be read; check the path in [data]") from None


__all__ = ["SUBJECT_KEY_FILE", "Node", "make_executor", "open_node", "read_subject_key", "simulated_seed", "write_subject_key"]
