"""The platform node: banks dial it, hold its lobby, and it leads runs from proposal to evidence.

A run: draft the contract, propose it with its plan to each bank, gather signed approvals, send the contract with all
signatures, then let Flower's ServerApp drive the rounds while banks open the matching and vertical conversations. It
ends `finished` or `failed` with one sentence, and every bank that is still there is told which.
"""

import hashlib
import json
import logging
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import BrokenExecutor
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from lianxin.crypto import canonical, paillier
from lianxin.crypto.blocks import share_processors
from lianxin.crypto.errors import CryptoError
from lianxin.crypto.transcript import TranscriptDigest
from lianxin.federation import apps, wire
from lianxin.federation.channel import Channel
from lianxin.federation.contract import RunContract
from lianxin.federation.errors import ContractRefused, InputFault, LianxinError, PeerError, RunStopped
from lianxin.federation.grid import PartyGrid
from lianxin.federation.scoring import MODEL as SCORING
from lianxin.federation.session import PeerRefused, Session
from lianxin.parties.agreement import draft_contract, join_signatures, open_contract
from lianxin.parties.config import RunConfig
from lianxin.parties.node import WORKERS_LOST, Node
from lianxin.parties.plan_kept import Meter
from lianxin.parties.platform_run import PlatformRun
from lianxin.parties.query_conversations import STANDING, end_expired, resumed_session
from lianxin.parties.query_platform import QueryDesk
from lianxin.parties.quota import SplitQuota
from lianxin.parties.records import FirmTable, load_firm_table, read_table
from lianxin.parties.retention import sweep_daily
from lianxin.parties.run_kinds import platform_run
from lianxin.parties.score_platform import ScoreDesk, check_fields, completed
from lianxin.parties.store import Store

CONNECT_DEADLINE_S = 60.0
APPROVAL_DEADLINE_S = 86400.0
CLOSE_DEADLINE_S = 30.0
HOLD_S = 0.5
Planner = Callable[[RunContract], dict[str, Any]]
StrategyFactory = Callable[[RunContract, PlatformRun], Any]


@dataclass
class ActiveRun:
    """A run under way: its work, the learning channels as banks open them, and what failed in their conversations."""

    work: PlatformRun
    learning: dict[str, Channel] = field(default_factory=dict)
    failures: list[LianxinError] = field(default_factory=list)
    arrived: threading.Condition = field(default_factory=threading.Condition)
    done: threading.Event = field(default_factory=threading.Event)


class PlatformNode:
    """The platform's running node. `handle` is what a network calls for each conversation that a bank opens."""

    def __init__(
        self,
        node: Node,
        planner: Planner,
        grid: type[PartyGrid] = PartyGrid,
        strategy: StrategyFactory = apps.strategy_of,
    ) -> None:
        self.node, self._planner, self._grid, self._strategy = node, planner, grid, strategy
        data = node.config.data
        self.table: FirmTable = load_firm_table(read_table(data.table), data.id)
        node.rules.check_columns(self.table.columns)
        self.lobby: dict[str, Channel] = {}
        self.runs: dict[str, ActiveRun] = {}
        self.desks: dict[str, QueryDesk] = {}
        self.ended: dict[str, dict[str, Any]] = {}
        self._arrival = threading.Condition()
        self._leading = threading.Lock()
        self._closing = threading.Event()
        self._row_of = {firm: row for row, firm in enumerate(self.table.identifiers)}
        for row in node.store.runs():
            if row.state == STANDING:
                self._stand(open_contract(row.contract))

    # ---- conversations

    def handle(self, channel: Channel) -> None:
        """Serve one conversation until it ends; the lobby and learning streams are held open for a run to use."""
        kind = channel.conversation.split("/")[0]
        if kind == "contracts":
            with self._arrival:
                self.lobby[channel.peer] = channel
                self._arrival.notify_all()
            self._hold(channel)
            return
        desk = self.desks.get(channel.run)
        if desk is not None and kind == desk.service:
            desk.serve(channel)
            return
        active = self.runs.get(channel.run)
        if active is None or kind in ("query", "scoring"):
            self.node.trace.refused(channel.run, channel.peer, "S01", kind, None)
            return
        if kind == "learning":
            with active.arrived:
                active.learning[channel.peer] = channel
                active.arrived.notify_all()
            active.done.wait()
            return
        try:
            share_processors()
            active.work.serve(channel)
        except LianxinError as failure:
            active.failures.append(failure)
            raise
        except (BrokenExecutor, TimeoutError):
            active.failures.append(RunStopped(WORKERS_LOST))
            raise
        except Exception as fault:
            logging.getLogger("lianxin").exception("a fault in %s", channel.conversation)
            sentence = (
                f"a fault of this program ({type(fault).__name__}) ended {channel.conversation}; report it with the log"
            )
            active.failures.append(RunStopped(sentence))
            raise

    def _hold(self, channel: Channel) -> None:
        while not self._closing.wait(HOLD_S) and not channel.is_gone():
            self._end_expired()
        with self._arrival:
            if self.lobby.get(channel.peer) is channel:
                del self.lobby[channel.peer]

    def refused(self, rule: str, uri: str | None) -> None:
        """Log a peer that the network's door turned away."""
        leaf = {"kind": "refusal", "run": "", "peer": uri or "", "rule": rule, "step": "connect"}
        self.node.ledger.append(leaf)

    # ---- runs

    def check(self, config: RunConfig) -> None:
        """Raise InputFault, before anything is proposed, for terms that this platform cannot keep."""
        if self.node.store.run(config.run) is not None:
            raise InputFault(f"run {config.run} exists already; choose another run id")
        for name in config.features:
            if name not in self.table.columns:
                near = get_close_matches(name, list(self.table.columns), n=1)
                hint = f"; did you mean {near[0]}?" if near else "; take it out of the run's features"
                raise InputFault(f"the run asks for field {name}, which {self.node.party} does not hold{hint}")
        self._draft(config)

    def _draft(self, config: RunConfig) -> RunContract:
        """Return the contract of these terms, a scoring agreement's with what its models ask for."""
        terms = completed(self.node, config)
        contract = draft_contract(terms, self.node.identity, self.node.catalogue.digest, self.node.clock.now())
        if contract.model == SCORING:
            check_fields(self.node, contract)
        if contract.model == "boosted_trees":
            SplitQuota(self.node.store, self.node.clock, self.node.config.quota).check(contract.banks, contract.split_bits)
        return contract

    def launch(self, config: RunConfig, operator: str | None = None) -> dict[str, Any]:
        """Lead a run to its end and return its summary. Raises the LianxinError that ended it, after telling the banks."""
        self.check(config)
        if not self._leading.acquire(blocking=False):
            raise InputFault("another run is under way at this platform; wait until it has ended")
        try:
            contract = self._draft(config)
            return self._lead(contract, operator or self.node.config.operator)
        finally:
            self._leading.release()

    def _lead(self, contract: RunContract, operator: str) -> dict[str, Any]:
        run = contract.run
        self.node.store.put_run(run, "proposed", canonical.encode(dict(contract.record)))
        self.node.contract_event(run, contract.hash, "proposed", operator=operator)
        self.node.say(f"run {run} proposed")
        sessions: dict[str, Session] = {}
        active: ActiveRun | None = None
        try:
            sessions = self._lobby_sessions(contract)
            signed = self._agree(contract, sessions)
            if contract.is_standing:
                return self._begin_standing(contract, sessions, signed, operator)
            self.node.renew_workers()
            active = ActiveRun(platform_run(self.node, contract, self.table))
            self.runs[run] = active
            for session in sessions.values():
                session.send(wire.SignedContract(contract=signed), "contract.agree")
            self.node.store.put_run(run, "running", signed)
            self.node.contract_event(run, contract.hash, "signed", operator=operator)
            try:
                self._drive(contract, active)
            finally:
                active.done.set()  # lets go of the learning streams, on which a bank would still wait
            self._end(contract, sessions, "finished", "")
        except Exception as fault:
            failure = self._sentence(run, fault)
            cause = self._cause(active, failure)
            self._end(contract, sessions, "failed", getattr(cause, "rule", "RUN"))
            self.ended[run] = {"run": run, "state": "failed", "error": str(cause), "exit_code": cause.exit_code}
            raise cause from fault
        finally:
            if active is not None:
                active.done.set()
            self.runs.pop(run, None)
        summary = self._summary(contract, active)
        self.ended[run] = summary
        self.node.say(f"run {run} finished")
        return summary

    # ---- standing agreements

    def _begin_standing(
        self, contract: RunContract, sessions: Mapping[str, Session], signed: bytes, operator: str
    ) -> dict[str, Any]:
        """Keep a signed agreement to be asked under; nothing is trained and the next run may be led."""
        self.node.store.put_run(contract.run, STANDING, signed)
        self.node.contract_event(contract.run, contract.hash, "signed", operator=operator)
        self._stand(contract)
        for session in sessions.values():
            session.send(wire.SignedContract(contract=signed), "contract.agree")
        self.ended[contract.run] = {
            "run": contract.run, "state": STANDING, "contract": contract.hash, "expires_at": contract.expires_at,
            "model": contract.model,
        }  # fmt: skip
        return self.ended[contract.run]

    def _stand(self, contract: RunContract) -> None:
        kind = ScoreDesk if contract.model == SCORING else QueryDesk
        self.desks[contract.run] = kind(self.node, contract, self.table, self._row_of)
        self.node.say(f"agreement {contract.run} stands until {contract.expires_at}")

    def end(self, run: str, operator: str | None = None) -> dict[str, Any]:
        """End a standing agreement and return how; banks that are not connected learn it when they ask next.

        Raises InputFault when no such agreement stands, or another run is under way.
        """
        if run not in self.desks:
            standing = ", ".join(sorted(self.desks)) or "none"
            raise InputFault(f"no standing agreement {run} is kept here (standing: {standing})")
        if not self._leading.acquire(blocking=False):
            raise InputFault("a run is under way at this platform; end the agreement when it has ended")
        try:
            return self._end_standing(self.desks.pop(run), operator or self.node.config.operator)
        finally:
            self._leading.release()

    def _end_standing(self, desk: QueryDesk, operator: str) -> dict[str, Any]:
        desk.close()
        contract = desk.contract
        self.node.contract_event(contract.run, contract.hash, "ended", operator=operator)
        with self._arrival:
            channels = {bank: self.lobby[bank] for bank in contract.banks if bank in self.lobby}
        sessions = {
            bank: resumed_session(self.node, contract, channel, f"contracts/{bank}")
            for bank, channel in channels.items()
        }
        self._end(contract, sessions, "finished", "")
        told = sorted(sessions)
        self.ended[contract.run] = {"run": contract.run, "state": "finished", "told": told, "matched": {}}
        return self.ended[contract.run]

    def _end_expired(self) -> None:
        """End the agreements whose time has passed: each side by itself, since no envelope may cross any more."""
        sweep_daily(self.node)
        due = [run for run, desk in list(self.desks.items()) if desk.contract.expires_at <= self.node.clock.now()]
        for desk in filter(None, (self.desks.pop(run, None) for run in due)):
            desk.close()
            end_expired(self.node, desk.contract)

    def _sentence(self, run: str, fault: Exception) -> LianxinError:
        if isinstance(fault, LianxinError):
            return fault
        logging.getLogger("lianxin").error("a fault in run %s", run, exc_info=fault)
        return RunStopped(f"a fault of this program ({type(fault).__name__}) ended run {run}; report it with the log")

    def _cause(self, active: ActiveRun | None, failure: LianxinError) -> LianxinError:
        """Return what a person should read: the first failure inside a conversation says more than its echo."""
        own = [f for f in (active.failures if active else []) if type(f) is not PeerError or f.rule != "S05"]
        return own[0] if own and isinstance(failure, RunStopped) else failure

    def _lobby_sessions(self, contract: RunContract) -> dict[str, Session]:
        with self._arrival:
            self._arrival.wait_for(lambda: set(contract.banks) <= set(self.lobby), CONNECT_DEADLINE_S)
            absent = sorted(set(contract.banks) - set(self.lobby))
            if absent:
                raise RunStopped(
                    f"{', '.join(absent)} did not connect within {CONNECT_DEADLINE_S:.0f} s; start the bank's node"
                )
            channels = {bank: self.lobby[bank] for bank in contract.banks}
        return {bank: self.node.session(contract, ch, f"contracts/{bank}") for bank, ch in channels.items()}

    def _agree(self, contract: RunContract, sessions: dict[str, Session]) -> bytes:
        proposal = canonical.encode(dict(contract.record))
        made = self._planner(contract)
        plan, self._meter = canonical.encode(made), Meter(self.node, made)
        for session in sessions.values():
            session.send(wire.Proposal(contract=proposal, plan=plan), "contract.agree")
        approvals: dict[str, bytes] = {}
        for bank, session in sorted(sessions.items()):
            try:
                answer: Any = session.receive("contract.agree", (wire.Approval,), APPROVAL_DEADLINE_S)
            except PeerRefused as refusal:
                self.node.contract_event(contract.run, contract.hash, "refused", refusal.rule)
                del sessions[bank]
                self._hang_up(sessions, set(sessions) - set(approvals))
                raise ContractRefused(f"{bank} refused the contract of run {contract.run} (rule {refusal.rule}); "
                                      "ask its operator what to change and launch a new run") from refusal  # fmt: skip
            approvals[bank] = answer.approval
            self.node.say(f"approved {bank}")
        return join_signatures(contract, (self.node.party, self.node.identity.signing_key), approvals)

    def _hang_up(self, sessions: dict[str, Session], banks: set[str]) -> None:
        """Leave the lobby of banks whose answer comes too late to be read; they dial again."""
        for bank in banks:
            sessions.pop(bank).channel.close()
            self.lobby.pop(bank, None)

    def _drive(self, contract: RunContract, active: ActiveRun) -> None:
        maker = threading.Thread(target=active.work.prepare_key, daemon=True)
        maker.start()
        with active.arrived:
            active.arrived.wait_for(lambda: set(contract.banks) <= set(active.learning), contract.step_deadline_s)
            absent = sorted(set(contract.banks) - set(active.learning))
        if absent:
            raise RunStopped(f"{', '.join(absent)} signed and then did not take up the run; see that bank's log")
        learning = {
            bank: self.node.session(contract, active.learning[bank], f"learning/{bank}") for bank in contract.banks
        }
        grid = self._grid(learning, float(contract.step_deadline_s), self.node.say)
        self.node.say("phase matching")
        apps.run_server_app(apps.make_server_app(self._strategy(contract, active.work)), grid)
        paillier.forget_evaluators()
        self._write_model(contract, active)

    def _write_model(self, contract: RunContract, active: ActiveRun) -> None:
        record = active.work.model_record()
        if record is not None:
            path = self.node.run_folder(contract.run) / "model.json"
            path.write_text(json.dumps(record, ensure_ascii=False))

    def _end(self, contract: RunContract, sessions: Mapping[str, Session], state: str, rule: str) -> None:
        self.node.contract_event(contract.run, contract.hash, state, rule)
        self.node.store.set_run_state(contract.run, state, rule)
        heads = {session.peer: self.node.head(session.peer) for session in sessions.values()}  # one head for all
        for session in sessions.values():
            try:
                status = wire.RunStatus(state=state, rule=rule, checkpoint=heads[session.peer])
                session.send(status, "contract.close")
            except LianxinError:
                self.node.say(f"{session.peer} could not be told the end of {contract.run}")
        for bank, session in sessions.items():
            try:
                closed: Any = session.receive("contract.close", (wire.RunClosed,), CLOSE_DEADLINE_S)
                self.node.keep_head(closed.checkpoint, bank, contract.node_keys[bank])
                self.node.take_answer(closed.cosignature, bank, contract.node_keys[bank])
            except (LianxinError, CryptoError):
                self.node.say(f"{bank} did not confirm the end of {contract.run}")
        self.node.ledger.checkpoint()
        if self._is_signed(contract.run):
            self.node.export(contract.run)

    def _is_signed(self, run: str) -> bool:
        row = self.node.store.run(run)
        return row is not None and b'"signatures"' in row.contract

    def _summary(self, contract: RunContract, active: ActiveRun) -> dict[str, Any]:
        work = active.work
        return {
            "run": contract.run, "state": "finished", "contract": contract.hash,
            "matched": {bank: len(shared.firms) for bank, shared in work.shared.items()},
            "scored": dict(work.scored), "metrics": {bank: dict(numbers) for bank, numbers in work.metrics.items()},
            "transcript_sha256": transcript_digest(self.node.store, contract.run), "bytes_sent": self.node.bytes_sent,
            **({"planned": kept} if (kept := self._meter.read()) else {}),
        }  # fmt: skip

    def close(self) -> None:
        """Let go of every conversation that is held open."""
        self._closing.set()
        for active in list(self.runs.values()):
            active.done.set()


def transcript_digest(store: Store, run: str) -> str:
    """Return the transcript's SHA-256 over the envelopes of a run sorted by (conversation, sender, seq).

    An envelope counts by the SHA-256 of its canonical header, which holds its payload's hash, and its signature. The
    closing receipts are outside: they hold ledger heads, and leaves come in the order of threads. Raises
    TranscriptConflict when one place holds two.
    """
    digest = TranscriptDigest()
    for row in store.envelopes(run):
        if canonical.decode(row.header)["step"] == "contract.close":
            continue
        digest.add(row.conversation, row.sender, row.seq, hashlib.sha256(row.header + row.signature).digest())
    return digest.hexdigest()
