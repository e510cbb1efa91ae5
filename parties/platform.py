"""The platform node: banks dial it, hold its lobby, and it leads runs from proposal to evidence.

A run: draft the contract, propose it with its plan to each bank, gather signed approvals, send the contract with all
signatures, then let Flower's ServerApp drive the rounds while banks open the matching and vertical conversations. It
ends `finished` or `failed` with one sentence, and every bank that is still there is told which.
"""

import json
import logging
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import BrokenExecutor
from difflib import get_close_matches
from functools import partial
from typing import Any

from lianxin.crypto import canonical, paillier
from lianxin.crypto.blocks import share_processors
from lianxin.federation import apps, wire
from lianxin.federation.channel import Channel
from lianxin.federation.contract import RunContract
from lianxin.federation.errors import ContractRefused, InputFault, LianxinError, RunStopped
from lianxin.federation.grid import PartyGrid
from lianxin.federation.scoring import MODEL as SCORING
from lianxin.federation.session import PeerRefused, Session
from lianxin.parties import checkpoint
from lianxin.parties.active_run import ActiveRun, cause_of
from lianxin.parties.agreement import draft_contract, join_signatures, open_contract
from lianxin.parties.commitments import keep_plan
from lianxin.parties.config import RunConfig
from lianxin.parties.network_agreement import judge_network
from lianxin.parties.node import WORKERS_LOST, Node
from lianxin.parties.plan_kept import Meter
from lianxin.parties.query_conversations import STANDING, end_expired, resumed_session
from lianxin.parties.query_platform import QueryDesk
from lianxin.parties.quota import SplitQuota
from lianxin.parties.records import FirmTable, load_firm_table, read_table
from lianxin.parties.retention import sweep_daily, write_beside
from lianxin.parties.run_kinds import platform_run
from lianxin.parties.runs_left import is_numbered, is_unused
from lianxin.parties.runs_resumed import closing_sessions, has_ended, may_miss, taken_up, tell_end, tell_ends, untold
from lianxin.parties.score_platform import ScoreDesk, check_fields, completed
from lianxin.parties.transcript_digest import transcript_digest

CONNECT_DEADLINE_S = 60.0
APPROVAL_DEADLINE_S = 86400.0
HOLD_S = 0.5
Planner = Callable[[RunContract], dict[str, Any]]
StrategyFactory = Callable[[RunContract, Any], Any]


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
        self.table = FirmTable([], {}) if data.table is None else load_firm_table(read_table(data.table), data.id)
        node.rules.check_columns(self.table.columns)
        self.lobby: dict[str, Channel] = {}
        self.runs: dict[str, ActiveRun] = {}
        self.desks: dict[str, QueryDesk] = {}
        self.ended: dict[str, dict[str, Any]] = {}
        self._arrival = threading.Condition()
        self._leading = threading.Lock()
        self._closing = threading.Event()
        self._meter: Meter | None = None  # a run that was resumed has none: what it took before is not known
        self._row_of = {firm: row for row, firm in enumerate(self.table.identifiers)}
        for row in node.store.runs():
            if row.state == STANDING:
                self._stand(open_contract(row.contract))
        self._left = taken_up(node, self.runs, self.ended)
        self.resumed: list[str] = []

    def take_up(self) -> None:
        """Go on with the run that was under way when this node ended, if any, in a thread of its own."""
        self.resumed = [contract.run for contract in self._left]
        for contract in self._left:
            threading.Thread(target=self._lead_again, args=(contract,), daemon=True, name="resumed run").start()

    # ---- conversations

    def handle(self, channel: Channel) -> None:
        """Serve one conversation until it ends; the lobby and learning streams are held open for a run to use."""
        kind = channel.conversation.split("/")[0]
        if kind == "contracts":
            tell_ends(self.node, channel)
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
        if active is None and kind == "learning" and has_ended(self.node, channel.run):
            return
        if active is None or kind in ("query", "scoring"):
            self.node.trace.refused(channel.run, channel.peer, "S01", kind, None)
            return
        if kind == "learning":
            if not is_numbered(channel.conversation, kind, channel.peer) or not is_unused(
                self.node, channel.run, channel.conversation
            ):
                self.node.trace.refused(channel.run, channel.peer, "S03", kind, None)
                return
            active.hold(channel)
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
        if (refusal := judge_network(contract, self.node.identity, self.node.config.profile)).rule:
            raise InputFault(f"run {contract.run} cannot be proposed: {refusal.reason} (rule {refusal.rule})")
        if contract.model == SCORING:
            check_fields(self.node, contract)
        if contract.model == "boosted_trees":
            SplitQuota(self.node.store, self.node.clock, self.node.config.quota).check(
                contract.banks, contract.split_bits
            )
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
        run, plan = contract.run, keep_plan(self.node, contract, self._planner(contract))
        self.node.store.put_run(run, "proposed", canonical.encode(dict(contract.record)))
        self.node.contract_event(run, contract.hash, "proposed", operator=operator)
        self.node.say(f"run {run} proposed")
        sessions: dict[str, Session] = {}
        active: ActiveRun | None = None
        try:
            sessions = self._lobby_sessions(contract)
            signed = self._agree(contract, sessions, plan)
            if contract.is_standing:
                return self._begin_standing(contract, sessions, signed, operator)
            self.node.renew_workers()
            active = ActiveRun(platform_run(self.node, contract, self.table))
            self.runs[run] = active
            for session in sessions.values():
                session.send(wire.SignedContract(contract=signed), "contract.agree")
            self.node.store.put_run(run, "running", signed)
            self.node.contract_event(run, contract.hash, "signed", operator=operator)
            self._carry(contract, sessions, active)
        except Exception as fault:
            raise self._fail(contract, sessions, active, fault) from fault
        finally:
            self._let_go(run, active)
        return self._succeed(contract, active)

    def _lead_again(self, contract: RunContract) -> None:
        """Lead a run that was left on from its checkpoint; how it ends is in `ended`."""
        active = self.runs[contract.run]
        with self._leading:
            try:
                self._carry(contract, {}, active)
            except Exception as fault:
                failure = self._fail(contract, {}, active, fault)
                self.node.say(f"failed {contract.run}: {failure}")
            else:
                self._succeed(contract, active)
            finally:
                self._let_go(contract.run, active)

    def _carry(self, contract: RunContract, sessions: Mapping[str, Session], active: ActiveRun) -> None:
        """Drive a signed run to its end and tell the banks."""
        try:
            self._drive(contract, active)
        finally:
            active.finish()  # lets go of the learning streams, on which a bank would still wait
        self._end(contract, sessions, "finished", "")

    def _succeed(self, contract: RunContract, active: ActiveRun) -> dict[str, Any]:
        summary = self.ended[contract.run] = self._summary(contract, active)
        self.node.say(f"run {contract.run} finished")
        return summary

    def _fail(
        self, contract: RunContract, sessions: Mapping[str, Session], active: ActiveRun | None, fault: Exception
    ) -> LianxinError:
        """End a run as failed and return what a person should read."""
        run = contract.run
        cause = cause_of(run, active, fault)
        self._end(contract, sessions, "failed", getattr(cause, "rule", "RUN"))
        self.ended[run] = {"run": run, "state": "failed", "error": str(cause), "exit_code": cause.exit_code}
        return cause

    def _let_go(self, run: str, active: ActiveRun | None) -> None:
        if active is not None:
            active.finish()
        self.runs.pop(run, None)
        self.resumed = [one for one in self.resumed if one != run]

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

    def _agree(self, contract: RunContract, sessions: dict[str, Session], plan: bytes) -> bytes:
        proposal = canonical.encode(dict(contract.record))
        self._meter = Meter(self.node, canonical.decode_fragment(plan))
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
        absent = active.absent(contract.banks, float(contract.step_deadline_s) + contract.rejoin_s * active.again)
        if absent and not (active.again and may_miss(contract, absent)):
            raise RunStopped(f"{', '.join(absent)} signed and then did not take up the run; see that bank's log")
        active.work.drop_round(absent)
        learning = active.sessions(self.node, contract, set(contract.banks) - set(absent))
        rights = getattr(active.work, "rights_to", None)
        returned = partial(active.returned, self.node, contract) if contract.is_network else None
        grid = self._grid(learning, float(contract.step_deadline_s), self.node.say, rights, returned)
        self.node.say("phase matching")
        apps.run_server_app(apps.make_server_app(self._strategy(contract, active.work)), grid)
        paillier.forget_evaluators()
        self._write_model(contract, active)

    def _write_model(self, contract: RunContract, active: ActiveRun) -> None:
        record = active.work.model_record()
        if record is not None:
            path = self.node.run_folder(contract.run) / "model.json"
            write_beside(path, json.dumps(record, ensure_ascii=False).encode())

    def _end(self, contract: RunContract, sessions: Mapping[str, Session], state: str, rule: str) -> None:
        untold(self.node, contract)
        self.node.contract_event(contract.run, contract.hash, state, rule)
        self.node.store.set_run_state(contract.run, state, rule)
        sessions = closing_sessions(self.node, contract, sessions, self.lobby)
        tell_end(self.node, contract, sessions, state, rule)
        self.node.ledger.checkpoint()
        checkpoint.remove(self.node.run_folder(contract.run))
        if self._is_signed(contract.run):
            self.node.export(contract.run)

    def _is_signed(self, run: str) -> bool:
        row = self.node.store.run(run)
        return row is not None and b'"signatures"' in row.contract

    def _summary(self, contract: RunContract, active: ActiveRun) -> dict[str, Any]:
        work = active.work
        return {
            "run": contract.run, "state": "finished", "contract": contract.hash, "rounds": contract.turns,
            "matched": {bank: len(shared.firms) for bank, shared in work.shared.items()},
            "scored": dict(work.scored), "metrics": {bank: dict(numbers) for bank, numbers in work.metrics.items()},
            "transcript_sha256": transcript_digest(self.node.store, contract.run), "bytes_sent": self.node.bytes_sent,
            **({"planned": kept} if self._meter and (kept := self._meter.read()) else {}),
        }  # fmt: skip

    def close(self) -> None:
        """Let go of every conversation that is held open."""
        self._closing.set()
        for active in list(self.runs.values()):
            active.finish()
