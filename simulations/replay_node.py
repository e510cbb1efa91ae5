"""A party's node as it was in a recorded run, from its evidence and its opening, in a folder that is thrown away afterwards.

Seed, table, configuration and bin rules are the opening's; registry, catalogue and contract are the evidence's. Time stands
where the recorded leaf of each release has it, and the registry at that leaf's epoch, so that every consent is decided on
anew as it was then: a release is found by its recipient, mode, step and round. What is drawn for the ledger alone, such as
salts, is drawn anew. It is in no message.
"""

from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lianxin.crypto import canonical
from lianxin.crypto.key_file import protect_by_key
from lianxin.crypto.randomness import Drbg, derive_seed
from lianxin.crypto.signing import SigningKey
from lianxin.federation.channel import Channel
from lianxin.federation.contract import RunContract
from lianxin.federation.errors import EvidenceRejected, GateRefused, InputFault
from lianxin.federation.model import Provenance
from lianxin.federation.session import Session
from lianxin.parties.auditor_evidence import Evidence
from lianxin.parties.auditor_questions import consent_lists
from lianxin.parties.auditor_registry import History, use_of
from lianxin.parties.boundary import AGGREGATE, Boundary
from lianxin.parties.boundary_clock import LedgerClock
from lianxin.parties.catalogue import load_catalogue
from lianxin.parties.clock import SimulatedClock
from lianxin.parties.coding_rules import load_rules
from lianxin.parties.config import DataSection, EvaluationSection, NodeConfig, PrivacySection, QuotaSection
from lianxin.parties.decision import Registry
from lianxin.parties.identity import Identity, party_uri
from lianxin.parties.keys import KeyStore
from lianxin.parties.ledger import Ledger
from lianxin.parties.node import SUBJECT_KEY_FILE, Node, make_executor, write_subject_key
from lianxin.parties.objections import Objections, put_objections
from lianxin.parties.opening import Opening
from lianxin.parties.run_inputs import put_outputs
from lianxin.parties.store import Store
from lianxin.parties.trace import LedgerTrace
from lianxin.simulations.replay_road import RecordedKey, Recording

_CODE = "lianxin replay"
_COLUMNS = ("id", "label", "split", "loan_id")
_OUTSIDE = ("T01", "W01")  # what a machine's clock or the witnesses had refused, whatever the consents said


class InstantClock(LedgerClock):
    """A clock that shows the time of the leaf that is being made again."""

    def __init__(self, time: str) -> None:
        super().__init__(SimulatedClock(time))
        self.time = time

    def now(self) -> str:
        """Return that time."""
        return self.time

    @contextmanager
    def held(self) -> Iterator[str]:
        """See `LedgerClock.held`."""
        yield self.time

    def fault_s(self) -> int:
        """Return 0: no machine's clock is asked."""
        return 0


class RegisterThen:
    """The registry of the evidence as it was at an epoch, which may also go back: banks are served one after the other."""

    def __init__(self, own: Evidence, store: Store) -> None:
        self.store, self.epoch = store, 0
        self._own, self._history, self._reached = own, History(own), 0

    def registry(self) -> Registry:
        """Return the state at `epoch`. Raises EvidenceRejected where the records do not reach or make it."""
        if self.epoch < self._reached:
            self._history = History(self._own)
        self._reached = self.epoch
        state = self._history.at(self.epoch)
        if state is None:
            raise EvidenceRejected(
                f"the registry of {self._own.party} does not reach epoch {self.epoch}; verify it first"
            )
        return state

    @contextmanager
    def held(self) -> Iterator[Registry]:
        """Yield the state at `epoch`."""
        yield self.registry()


class Moments:
    """When each release of a run was made, by what it was asked for; it sets clock and registry to that moment."""

    def __init__(self, own: Evidence, run: str, register: RegisterThen, clock: InstantClock) -> None:
        self._own, self._register, self._clock = own, register, clock
        self._due: dict[tuple[str, str, str, int], deque[int]] = defaultdict(deque)
        for index, leaf in own.of_kind("release", run):
            self._due[leaf["recipient"], leaf["mode"], leaf["step"], int(leaf.get("round", 0))].append(index)
        refused = [leaf for _, leaf in own.of_kind("refusal", run) if leaf["rule"] in _OUTSIDE]
        self._outside = [(leaf["peer"], leaf.get("step", ""), leaf["rule"]) for leaf in refused]

    def go_to(self, recipient: str, mode: str, step: str, round: int) -> int | None:
        """Stand at the next release of this kind and return its leaf's index; one that was refused then has none.

        Raises GateRefused where a clock or the witnesses had it refused, which nobody can make again.
        """
        if due := self._due.get((recipient, mode, step, round)):
            index = due.popleft()
            leaf = self._own.leaves[index]
            self._clock.time, self._register.epoch = leaf["time"], leaf["epoch"]
            return index
        for peer, at, rule in self._outside:
            if (peer, at) == (recipient, step):
                raise GateRefused(f"the recorded gate let nothing cross at step {step} (rule {rule})", rule)
        return None

    def check(self, index: int, made: Provenance) -> str:
        """Return the recorded release's id. Raises EvidenceRejected where its leaf lets go what this gate does not."""
        leaf, own = self._own.leaves[index], self._own
        names = ("fields", "rows", "consent_root")
        where = f"step {leaf['step']}, round {made.round}"
        other = [
            name
            for name, value in zip(names, (list(made.fields), made.rows, made.consent_root), strict=True)
            if leaf[name] != value
        ]
        if other:
            raise EvidenceRejected(
                f"{own.party}, leaf {index}: the release of {where}, differs in {', '.join(other)} "
                f"from what its gate gives for the opened table and the registry of then; ask {own.party} what it let go"
            )
        return own.release_id(index)


class GateThen(Boundary):
    """The gate, which decides each release as of the moment of its recorded leaf, whose id the release then has.

    Ids are behind the commitments to matching queries, and a leaf's salt cannot be drawn again.
    """

    moments: Moments
    recording: Recording
    _index: int | None = None

    def release(
        self, contract: Any, request: Any, firms: Any, columns: Any, round: int = 0, *more: Any, **named: Any
    ) -> Any:
        """See `Boundary.release`."""
        self._index = self.moments.go_to(request.recipient, request.mode, request.step, round)
        return super().release(contract, request, firms, columns, round, *more, **named)

    def aggregate(
        self, contract: Any, request: Any, rows: Any, bads: Any, goods: Any, fields: Any, step: str, round: int = 0,
        **named: Any,
    ) -> Any:  # fmt: skip
        """See `Boundary.aggregate`."""
        self._index = self.moments.go_to(request.recipient, AGGREGATE, step, round)
        return super().aggregate(contract, request, rows, bads, goods, fields, step, round, **named)

    def _write(self, *what: Any) -> Provenance:
        made = super()._write(*what)
        if self._index is None:
            return made
        try:
            return replace(made, release_id=self.moments.check(self._index, made))
        except EvidenceRejected as fault:
            self.recording.fault = self.recording.fault or fault
            raise


class _ObjectionsThen(Objections):
    """The objections that were open at the moment that the clock shows."""

    def __init__(self, store: Store, ledger: Ledger, clock: InstantClock) -> None:
        super().__init__(store, ledger)
        self._clock = clock

    def disputed(self) -> dict[str, dict[str, str]]:
        """See `Objections.disputed`."""
        found: dict[str, dict[str, str]] = defaultdict(dict)
        for one in self.records():
            if one["opened_at"] <= self._clock.time < one.get("resolved_at", "9"):
                found[one["field"]][one["subject_key"]] = one["due_at"]
        return dict(found)


class _Silent:
    """A trace that writes nothing: the recorded ledger has the leaves already."""

    def crossed(self, *_what: Any) -> None:
        """See `federation.session.Trace`."""

    def refused(self, *_what: Any) -> None:
        """See `federation.session.Trace`."""


@dataclass
class OpenedNode(Node):
    """A node whose seed was opened and whose messages are held against a recording."""

    seed: bytes = b""
    recording: Recording | None = None

    def run_seed(self, run: str) -> bytes:
        """Return the opened seed."""
        return self.seed

    def session(self, contract: RunContract, channel: Channel, conversation: str, round: int = 0) -> Session:
        """Return this node's end of one conversation; its epochs are those that the recording names."""
        recording = self.recording
        assert recording is not None
        epoch: Callable[[], int] = lambda: recording.epoch(conversation)  # noqa: E731
        key = self.identity.signing_key
        return Session(self.party, contract, key, channel, _Silent(), self.clock, epoch, conversation, round)


def node_then(
    own: Evidence, opening: Opening, contract: RunContract, recording: Recording, folder: Path, workers: int = 0
) -> OpenedNode:
    """Return the node, its state under the empty `folder`. Raises InputFault or EvidenceRejected for what does not fit."""
    config = _config(own, opening, folder)
    begun = next(
        (index for index, leaf in own.of_kind("contract", contract.run) if leaf["event"] == "seed-committed"), 0
    )
    config.state.mkdir(mode=0o700)
    store = Store(config.state / "store.sqlite")
    clock, register = InstantClock(own.leaves[begun]["time"]), RegisterThen(own, store)
    register.epoch = own.epoch_before(begun)
    key = SigningKey.from_seed(derive_seed(opening.seed, "replay-ledger"))
    ledger = Ledger(store, own.party, key, clock, _CODE, config.operator)
    catalogue = load_catalogue(config.data.catalogue or folder)
    salts = Drbg(derive_seed(opening.seed, "replay-salts"))
    gate = GateThen(own.party, catalogue, register, ledger, clock, opening.subject_secret, salts, config.quota)  # type: ignore[arg-type]
    gate.moments, gate.recording = Moments(own, contract.run, register, clock), recording
    gate.objections = _ObjectionsThen(store, ledger, clock)
    _put_state(own, opening, store, begun)
    identity = _identity(own, opening, contract, config, RecordedKey(contract.node_keys[own.party], recording))
    keys = KeyStore(config.state, own.party, protect_by_key(derive_seed(opening.seed, "replay-keys")))
    return OpenedNode(
        config, identity, store, ledger, register, gate, catalogue, clock, LedgerTrace(ledger), keys,  # type: ignore[arg-type]
        load_rules(opening.rules), make_executor(workers), seed=opening.seed, recording=recording,
    )  # fmt: skip


def _config(own: Evidence, opening: Opening, folder: Path) -> NodeConfig:
    """Return the configuration of the opening, with its paths in `folder`."""
    said = opening.configuration
    if "desensitisation_sha256" in opening.inputs:
        raise InputFault(
            f"{own.party} desensitises by a policy, which an opening does not carry: this side is not replayed"
        )
    (folder / "identity").mkdir(mode=0o700)
    write_subject_key(folder / "identity" / SUBJECT_KEY_FILE, opening.subject_secret)
    (folder / "catalogue.csv").write_bytes(own.catalogue)
    try:
        columns: dict[str, Any] = {**_columns(said["columns"])}
        table, catalogue = opening.table, folder / "catalogue.csv"
        return NodeConfig(
            role=said["role"], operator=said["operator"], identity=folder / "identity", state=folder / "state",
            data=DataSection(table=table, catalogue=catalogue, attesting=said["attesting"], **columns),
            quota=QuotaSection(**said["quota"]), privacy=PrivacySection(**said["privacy"]),
            evaluation=EvaluationSection(**said["evaluation"]),
        )  # fmt: skip
    except (KeyError, TypeError, ValueError):
        raise InputFault(
            f"the configuration in the opening of {own.party} is none of a run (docs/records.md, run-configuration)"
        ) from None


def _columns(said: Any) -> dict[str, str]:
    """Return the columns that an opening names. Raises ValueError for another key, such as a path, and for what is no text."""
    if not isinstance(said, dict) or not all(key in _COLUMNS and isinstance(one, str) for key, one in said.items()):
        raise ValueError("odd columns")
    return dict(said)


def _identity(own: Evidence, opening: Opening, contract: RunContract, config: NodeConfig, key: SigningKey) -> Identity:
    place = config.identity
    return Identity(own.party, opening.role, party_uri(own.party), key, place, place, place, place, {})


def _put_state(own: Evidence, opening: Opening, store: Store, begun: int) -> None:
    """Put into the new store what earlier runs left behind: uses of limited consents, outputs, objections."""
    hashes = {leaf["record_hash"] for _, leaf in own.of_kind("objection")}
    if any(canonical.record_hash(one) not in hashes for one in opening.objections):
        raise EvidenceRejected(
            f"an objection in the opening of {own.party} is in no leaf of its ledger; ask {own.party}"
        )
    if opening.objections:
        put_objections(store, opening.objections)
    put_outputs(store, opening.outputs, opening.sets)
    lists = dict(consent_lists(own))
    earlier = [(index, leaf) for index, leaf in own.of_kind("release") if index < begun]
    uses = {(name, use_of(leaf)) for index, leaf in earlier for name in lists.get(own.release_id(index), ())}
    store.append_leaves(0, [], uses=sorted(uses))
    store.put_setting("uses/counted", b"1")
