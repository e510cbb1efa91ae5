"""One party's side of a recorded run, made again from what that party opens: every message it said, or the first that differs.

    1. The opened seed and inputs are the ones that the party's ledger committed to before the run began.
    2. The party's own run classes (`parties/run_kinds`) run over `replay_road`: what the others said comes from the recording,
       what this side says must be the recorded message, bit for bit, its signature included.
    3. At a bank the platform's instructions lead. At the platform its strategy leads, bank by bank; what a bank opened before
       an answer of its own is served before that answer is handed over.

So a party that says what it should not, within all that a receiver can check, is found: a label encrypted as another, a mask
that holds more, a table that was changed before the run's second round. What it committed to may still be false. The
conversation in which the contract is agreed and closed is left to `lianxin audit verify`: signatures, no computation.
"""

import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lianxin.crypto import canonical, paillier
from lianxin.crypto.errors import CryptoError
from lianxin.federation import apps
from lianxin.federation.contract import RunContract
from lianxin.federation.errors import EvidenceRejected, InputFault, LianxinError, PeerError, RunStopped
from lianxin.federation.grid import LocalGrid
from lianxin.parties.agreement import open_contract
from lianxin.parties.auditor_evidence import Evidence, read_evidence
from lianxin.parties.bank_worker import Worker
from lianxin.parties.config import DataSection
from lianxin.parties.opening import Opening, read_opening
from lianxin.parties.platform_run import PlatformRun
from lianxin.parties.records import FirmTable, load_firm_table, load_loan_table, read_table
from lianxin.parties.run_inputs import COMMITTED
from lianxin.parties.run_kinds import bank_run, platform_run
from lianxin.parties.run_link import RunLink
from lianxin.simulations.replay_node import OpenedNode, node_then
from lianxin.simulations.replay_road import DoesNotFollow, RecordedChannel, RecordedLink, Recording

__all__ = ["DoesNotFollow", "SideReplayed", "replay_side"]


@dataclass(frozen=True)
class SideReplayed:
    """A side every message of which follows; it exists only then. `inputs` is whether they were committed to by a leaf."""

    party: str
    run: str
    messages: int

    def sentence(self) -> str:
        """Return the result as one sentence."""
        return (
            f"every message of {self.party} follows from its committed seed and inputs ({self.messages} in {self.run})"
        )

    def to_record(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return {"follows": True, **vars(self)}


def replay_side(home: Path, opening: Path, messages: Path, workers: int = 0) -> SideReplayed:
    """Make a party's side of a run again and return how much of it follows.

    `home` is the party's folder with its `evidence`, `opening` the folder that it wrote, `messages` what `--record` kept.
    Raises DoesNotFollow naming the first message that does not, EvidenceRejected for an opening that is not the committed one
    or a recording that is not the evidence's, InputFault for what is missing.
    """
    opened, own = read_opening(opening), read_evidence(home)
    if own.party != opened.party:
        raise InputFault(f"the opening is {opened.party}'s and the evidence {own.party}'s; give the two of one party")
    contract = _contract(own)
    _check_committed(own, opened, contract)
    recording = Recording(own, contract.run, messages)
    with tempfile.TemporaryDirectory(prefix="lianxin-replay-") as place:
        node = node_then(own, opened, contract, recording, Path(place), workers)
        try:
            _play(node, contract, recording)
        finally:
            node.close()
    return SideReplayed(own.party, contract.run, recording.followed)


def _contract(own: Evidence) -> RunContract:
    try:
        contract = open_contract(canonical.encode(own.contract))
    except (PeerError, CryptoError):
        raise EvidenceRejected(
            f"the contract of {own.party} is not signed by its parties; verify the evidence first"
        ) from None
    if contract.is_standing or contract.is_network:
        raise InputFault(f"a run of {contract.model} is not replayed from one side; scorecards and boosted trees are")
    if own.party not in contract.node_keys:
        raise EvidenceRejected(f"{own.party} is no party of the contract in its evidence; verify the evidence first")
    return contract


def _check_committed(own: Evidence, opened: Opening, contract: RunContract) -> None:
    """Raise EvidenceRejected where seed or inputs are not those of the run's leaves."""
    if opened.run != contract.run:
        raise InputFault(
            f"the opening is of run {opened.run} and the evidence of run {contract.run}; give the two of one run"
        )
    for event, digest, what in (
        ("seed-committed", opened.seed_commitment, "seed"), (COMMITTED, opened.inputs_commitment, "inputs"),
    ):  # fmt: skip
        leaves = [(n, leaf) for n, leaf in own.of_kind("contract", contract.run) if leaf["event"] == event]
        if not leaves:
            raise EvidenceRejected(
                f"no leaf of {own.party} commits to its {what} of run {contract.run}; nothing can be shown"
            )
        if len(leaves) > 1 or leaves[0][1]["contract_hash"] != digest:
            raise EvidenceRejected(
                f"{own.party}, leaf {leaves[0][0]}: the opened {what} of run {contract.run} are not what was committed to; ask "
                f"{own.party} for those of the run"
            )


def _play(node: OpenedNode, contract: RunContract, recording: Recording) -> None:
    """Run the side to its end. Raises DoesNotFollow for the first difference, whatever else it led to."""
    fault: LianxinError | None = None
    try:
        fault = (_play_bank if node.identity.role == "bank" else _play_platform)(node, contract, recording)
    except LianxinError as ended:
        fault = ended
    finally:
        paillier.forget_evaluators()
    if recording.fault is not None:
        raise recording.fault
    if isinstance(fault, EvidenceRejected | InputFault):
        raise fault
    recording.check_all_said()


def _play_bank(node: OpenedNode, contract: RunContract, recording: Recording) -> LianxinError | None:
    data = node.config.data
    assert data.table is not None and data.label is not None
    table = load_loan_table(read_table(data.table, data.columns), data.id, data.label, data.split, data.loan_id)
    node.rules.check_columns(table.columns, data.label)
    link = RunLink(RecordedLink(recording, contract.platform))
    worker = Worker(node, contract, bank_run(node, contract, table, link), link)
    worker.run()  # in this thread
    return worker.failure


def _play_platform(node: OpenedNode, contract: RunContract, recording: Recording) -> LianxinError | None:
    table = _firms(node.config.data)
    node.rules.check_columns(table.columns)
    work = platform_run(node, contract, table)
    assert isinstance(work, PlatformRun)
    work.prepare_key()
    server = _Served(work, contract, recording)
    channels = {
        bank: RecordedChannel(recording, f"learning/{bank}", bank, server.before(bank)) for bank in contract.banks
    }
    sessions = {bank: node.session(contract, channel, channel.conversation) for bank, channel in channels.items()}
    grid = LocalGrid(sessions, float(contract.step_deadline_s), node.say, getattr(work, "rights_to", None))
    apps.run_server_app(apps.make_server_app(apps.strategy_of(contract, work)), grid)
    return None


def _firms(data: DataSection) -> FirmTable:
    return FirmTable([], {}) if data.table is None else load_firm_table(read_table(data.table, data.columns), data.id)


class _Served:
    """Serves a bank's recorded conversations, in the order in which it opened them, before its next answer is handed over."""

    def __init__(self, work: PlatformRun, contract: RunContract, recording: Recording) -> None:
        self._work, self._recording = work, recording
        names = {name for one in (recording.said, recording.heard) for name in one if not name.startswith("learning/")}
        begun = {name: recording.began(name) for name in names}
        ordered = sorted((place, name) for name, place in begun.items())
        self._waiting = {bank: [one for one in ordered if one[1].split("/")[1] == bank] for bank in contract.banks}

    def before(self, bank: str) -> Callable[[int], None]:
        """Return what serves the conversations of a bank that began before a place of the recording."""

        def serve(place: int) -> None:
            while self._waiting[bank] and self._waiting[bank][0][0] < place:
                _, name = self._waiting[bank].pop(0)
                with suppress(PeerError, RunStopped):  # as in the run, where the bank hears no more
                    self._work.serve(RecordedChannel(self._recording, name, bank))
                if self._recording.fault is not None:
                    raise self._recording.fault

        return serve
