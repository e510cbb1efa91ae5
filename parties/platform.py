"""The platform node: banks dial it, hold its lobby, and it leads runs from proposal to evidence.

Which runs go on at once, and which wait, is in `platform_turns`; standing agreements are in `platform_standing`.

A run: draft the contract, propose it with its plan to each bank, gather signed approvals, send the contract with all
signatures, then let Flower's ServerApp drive the rounds while banks open the matching and vertical conversations. It
ends `finished` or `failed` with one sentence, and every bank that is still there is told which.
"""

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager
from difflib import get_close_matches
from functools import partial
from typing import TYPE_CHECKING, Any

from lianxin.crypto import canonical, paillier
from lianxin.crypto.blocks import share_processors
from lianxin.federation import wire
from lianxin.federation.channel import Channel
from lianxin.federation.contract import RunContract
from lianxin.federation.errors import ContractRefused, InputFault, LianxinError, RunStopped
from lianxin.federation.scoring import MODEL as SCORING
from lianxin.federation.session import PeerRefused, Session
from lianxin.parties import checkpoint, run_queue
from lianxin.parties.active_run import ActiveRun, cause_of
from lianxin.parties.agreement import draft_contract, join_signatures, open_contract
from lianxin.parties.commitments import keep_plan
from lianxin.parties.config import RunConfig
from lianxin.parties.ended_runs import EndedRuns
from lianxin.parties.fault_words import fault_words
from lianxin.parties.institutions import check_institutions, tell_open_door
from lianxin.parties.limits_disk import DiskShort
from lianxin.parties.lobby import Lobby
from lianxin.parties.network_agreement import judge_network
from lianxin.parties.node import WORKERS_LOST, Node
from lianxin.parties.peer_trust import end_kept
from lianxin.parties.plan_kept import Meter
from lianxin.parties.platform_lobby import LobbyDesk
from lianxin.parties.platform_standing import StandingDesks
from lianxin.parties.platform_turns import RunTurns
from lianxin.parties.proposals_again import Offer, proposal_of
from lianxin.parties.query_conversations import STANDING
from lianxin.parties.query_platform import QueryDesk
from lianxin.parties.quota import SplitQuota
from lianxin.parties.records import FirmTable, load_firm_table, read_table
from lianxin.parties.records_source import how_read
from lianxin.parties.retention import write_model
from lianxin.parties.run_ending import Step, carry_out
from lianxin.parties.run_kinds import platform_run
from lianxin.parties.run_life import WITHDRAWN, Place, Places, RunLife
from lianxin.parties.run_remedies import failed
from lianxin.parties.runs_left import drop_result, is_numbered, is_unused, recall_ends
from lianxin.parties.runs_resumed import closing_sessions, has_ended, may_miss, taken_up, tell_end, tell_ends, untold
from lianxin.parties.score_platform import check_fields, completed
from lianxin.parties.transcript_digest import transcript_digest

if TYPE_CHECKING:
    from lianxin.federation.grid import PartyGrid

CONNECT_DEADLINE_S = 60.0
APPROVAL_DEADLINE_S = 86400.0
HOLD_S = 0.5
GRACE_S = 2.0  # a run whose banks have not answered by then lets another one go on in its place
Planner = Callable[[RunContract], dict[str, Any]]
StrategyFactory = Callable[[RunContract, Any], Any]


class PlatformNode(RunTurns, LobbyDesk, StandingDesks):
    """The platform's running node. `handle` is what a network calls for each conversation that a bank opens."""

    def __init__(
        self,
        node: Node,
        planner: Planner,
        grid: "type[PartyGrid] | None" = None,
        strategy: StrategyFactory | None = None,
    ) -> None:
        self.node, self._planner, self._grid, self._strategy = node, planner, grid, strategy
        data = node.config.data
        self.table = (
            FirmTable([], {}) if data.table is None else load_firm_table(read_table(data.table, data.columns), data.id)
        )
        if told := how_read(data.table):
            node.say(told)
        node.rules.check_columns(self.table.columns)
        self.lobby: dict[str, Lobby] = {}
        self.runs: dict[str, ActiveRun] = {}
        self.desks: dict[str, QueryDesk] = {}
        self.cut: Callable[[str], object] = lambda _party: None  # how the roads to a party are cut, set by who serves
        self.ended = EndedRuns(node.store)
        self.lives: dict[str, RunLife] = {}
        self.places = Places(node.config.runs.at_once)
        self._arrival = threading.Condition()
        self._queueing, self._renewing = threading.Lock(), threading.Lock()
        self._closing = threading.Event()
        self._row_of = {firm: row for row, firm in enumerate(self.table.identifiers)}
        end_kept(node, self.ended)
        for row in node.store.runs():
            if row.state == STANDING:
                self._stand(open_contract(row.contract))
        recall_ends(node, self.ended)
        self._left = taken_up(node, self.runs, self.ended)
        for contract in self._left:
            self.adopt(contract)
        self.resumed: list[str] = []

    # ---- conversations

    def handle(self, channel: Channel) -> None:
        """Serve one conversation until it ends; the lobby and learning streams are held open for a run to use."""
        kind = channel.conversation.split("/")[0]
        if kind == "contracts":
            tell_ends(self.node, channel)
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
            with self._held(channel):
                active.hold(channel)
            return
        try:
            share_processors()
            with self._held(channel):
                active.work.serve(channel)
        except LianxinError as failure:
            active.failures.append(failure)
            raise
        except (BrokenExecutor, TimeoutError):
            active.failures.append(RunStopped(WORKERS_LOST))
            raise
        except Exception as fault:
            logging.getLogger("lianxin").exception("a fault in %s", channel.conversation)
            active.failures.append(RunStopped(fault_words(fault, channel.conversation)))
            raise

    @contextmanager
    def _held(self, channel: Channel) -> Iterator[None]:
        """Let the conversation be closed when its run is stopped. Raises what stopped it, where something has."""
        life = self.lives.get(channel.run)
        try:
            if life is not None:
                life.holds(channel)
            yield
        finally:
            if life is not None:
                life.lets_go(channel)

    def refused(self, rule: str, uri: str | None) -> None:
        """Log a peer that the network's door turned away."""
        leaf = {"kind": "refusal", "run": "", "peer": uri or "", "rule": rule, "step": "connect"}
        self.node.ledger.append(leaf)

    # ---- runs

    def check(self, config: RunConfig) -> None:
        """Raise InputFault, before anything is proposed, for terms that this platform cannot keep."""
        if self.node.store.run(config.run) is not None:
            raise InputFault(f"run {config.run} exists already; choose another run id")
        if short := self.node.trace.short_of_disk():
            raise DiskShort(short, "L15")
        for name in config.features:
            if name not in self.table.columns:
                near = get_close_matches(name, list(self.table.columns), n=1)
                hint = f"; did you mean {near[0]}?" if near else "; take it out of the run's features"
                raise InputFault(f"the run asks for field {name}, which {self.node.party} does not hold{hint}")
        self._draft(config)
        tell_open_door(self.node, config.run)

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
        check_institutions(self.node, contract)
        return contract

    def _lead(self, contract: RunContract, life: RunLife, place: Place) -> dict[str, Any]:
        """Lead a run whose turn has come to its end. Raises the LianxinError that ended it, after telling the banks."""
        run, operator = contract.run, life.described(contract, "agreement").operator
        sessions: dict[str, Session] = {}
        active: ActiveRun | None = None
        try:
            plan = keep_plan(self.node, contract, self._planner(contract))
            self.node.store.put_run(run, "proposed", canonical.encode(dict(contract.record)))
            run_queue.forget(self.node, run)
            self.node.contract_event(run, contract.hash, "proposed", operator=operator)
            self.node.say(f"run {run} proposed")
            sessions = self._lobby_sessions(contract, life, place)
            signed = self._agree(contract, sessions, plan, life, place)
            life.phase = "approved"
            place.take()
            self._check(life, sessions)
            if contract.is_standing:
                return self._begin_standing(contract, sessions, signed, operator)
            with self._renewing:
                self.node.renew_workers()
            active = ActiveRun(platform_run(self.node, contract, self.table), life=life)
            self.runs[run], life.phase = active, "running"
            self.node.store.put_run(run, "running", signed)  # before any bank can know of it: see `take_up`
            for session in sessions.values():
                session.send(wire.SignedContract(contract=signed), "contract.agree")
            self.node.contract_event(run, contract.hash, "signed", operator=operator)
            self._carry(contract, sessions, active)
        except Exception as fault:
            raise self._fail_at_last(contract, sessions, active, fault) from fault
        finally:
            self._let_go(run, active)
        return self._succeed(contract, active)

    def _lead_again(self, contract: RunContract) -> None:
        """Lead a run that was left on from its checkpoint; how it ends is in `ended`."""
        active, life = self.runs[contract.run], self.lives[contract.run]
        place = Place(self.places, life, lambda: None)
        place.take_at_once()
        try:
            self._carry(contract, {}, active)
        except Exception as fault:
            failure = self._fail_at_last(contract, {}, active, fault)
            self.node.say(f"failed {contract.run}: {failure}")
        else:
            self._succeed(contract, active)
        finally:
            self._let_go(contract.run, active)
            self.lives.pop(contract.run, None)
            place.give()

    def _carry(self, contract: RunContract, sessions: Mapping[str, Session], active: ActiveRun) -> None:
        """Drive a signed run to its end and tell the banks."""
        try:
            self._drive(contract, active)
        finally:
            active.finish()  # lets go of the learning streams, on which a bank would still wait
        self._end(contract, sessions, "finished", "")

    def _succeed(self, contract: RunContract, active: ActiveRun) -> dict[str, Any]:
        summary = self.ended[contract.run] = self._summary(contract, active)
        self.node.counts["runs/finished"] += 1
        self.node.say(f"run {contract.run} finished")
        return summary

    def _fail(
        self, contract: RunContract, sessions: Mapping[str, Session], active: ActiveRun | None, fault: Exception
    ) -> LianxinError:
        """End a run as failed and return what a person should read."""
        run = contract.run
        life = self.lives.get(run)
        withdrawn = self._withdrawal(contract, sessions) or (life and life.stopped)
        is_refused = isinstance(fault, ContractRefused)  # of several refusals the one that was heard first
        cause = cause_of(run, active, fault) if is_refused or not withdrawn else withdrawn
        step = life.phase_now(active) if life else ""
        if life is not None:
            life.stop(cause)  # no thread of the run waits on
            life.phase = "closing"
        rule, operator = getattr(cause, "rule", "RUN"), getattr(cause, "operator", "")
        self._end(contract, sessions, "failed", rule, operator)
        run_queue.forget(self.node, run)
        self.ended[run] = failed(run, cause, self.node.party, contract.banks, step)
        self.node.counts["runs/failed"] += 1
        return cause

    def _let_go(self, run: str, active: ActiveRun | None) -> None:
        if active is not None:
            active.finish()
        self.runs.pop(run, None)
        for lobby in list(self.lobby.values()):
            lobby.drop(run)
        if not self.runs:
            paillier.forget_evaluators()
        self.resumed = [one for one in self.resumed if one != run]

    # ---- agreement

    def _agree(
        self, contract: RunContract, sessions: dict[str, Session], plan: bytes, life: RunLife, place: Place
    ) -> bytes:
        life.meter = Meter(self.node, canonical.decode_fragment(plan))
        offer = Offer(self.node, contract, proposal_of(contract, plan), sessions)
        for bank in sessions:
            offer.make(bank)
        for bank in sorted(sessions):
            try:
                offer.approvals[bank] = self._approval(bank, offer, life, place)
            except PeerRefused as refusal:
                self.node.contract_event(contract.run, contract.hash, "refused", refusal.rule)
                if refusal.rule == WITHDRAWN:
                    raise self._withdrew(contract, refusal) from refusal
                del sessions[refusal.party]
                raise self._refusal_of(contract, refusal) from refusal
            self.node.say(f"approved {bank}", contract.run)
        own = self.node.party, self.node.identity.key_for(contract.node_keys)
        return join_signatures(contract, own, offer.approvals)

    # ---- what is driven

    def _drive(self, contract: RunContract, active: ActiveRun) -> None:
        from lianxin.federation import apps  # Flower is loaded when a run begins, not before
        from lianxin.federation.grid import PartyGrid

        maker = threading.Thread(target=active.work.prepare_key, daemon=True)
        maker.start()
        patience = float(contract.step_deadline_s) + contract.rejoin_s * active.again
        with self.node.waits.on(contract.run, ", ".join(contract.banks), "learning.exchange", patience):
            absent = active.absent(contract.banks, patience)
        if absent and not (active.again and may_miss(contract, absent)):
            raise RunStopped(f"{', '.join(absent)} signed and then did not take up the run; see that bank's log")
        active.work.drop_round(absent)
        learning = active.sessions(self.node, contract, set(contract.banks) - set(absent))
        rights = getattr(active.work, "rights_to", None)
        returned = partial(active.returned, self.node, contract) if contract.is_network else None
        say = partial(self.node.say, run=contract.run)
        grid = (self._grid or PartyGrid)(learning, float(contract.step_deadline_s), say, rights, returned)
        self.node.say("phase matching", contract.run)
        apps.run_server_app(apps.make_server_app((self._strategy or apps.strategy_of)(contract, active.work)), grid)
        self._write_model(contract, active)

    def _write_model(self, contract: RunContract, active: ActiveRun) -> None:
        record = active.work.model_record()
        if record is not None:
            write_model(self.node.run_folder(contract.run), record)

    def _end(
        self, contract: RunContract, sessions: Mapping[str, Session], state: str, rule: str, operator: str = ""
    ) -> None:
        is_signed = self._is_signed(contract.run)  # who has not signed, or refused, knows the end by itself
        if is_signed:
            untold(self.node, contract)
        self.node.contract_event(contract.run, contract.hash, state, rule, *([operator] if operator else []))
        self.node.store.set_run_state(contract.run, state, rule)
        here = {bank: self.lobby[bank].of(contract.run) for bank in contract.banks if bank in self.lobby}
        sessions = closing_sessions(self.node, contract, sessions, here) if is_signed else sessions
        steps: list[Step] = [
            ("a failed run's model", lambda: None if state == "finished" else drop_result(self.node, contract.run)),
            ("telling the banks", lambda: tell_end(self.node, contract, sessions, state, rule)),
            ("its checkpoint", self.node.ledger.checkpoint),
            ("its saved state", lambda: checkpoint.remove(self.node.run_folder(contract.run))),
        ]
        if is_signed:
            steps += [("the evidence", lambda: self.node.export(contract.run))]
        carry_out(self.node, contract.run, steps)

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
            **({"planned": kept} if active.life and active.life.meter and (kept := active.life.meter.read()) else {}),
        }  # fmt: skip

    def close(self) -> None:
        """Let go of every conversation that is held open."""
        self._closing.set()
        for life in list(self.lives.values()):
            life.over.set()
        for active in list(self.runs.values()):
            active.finish()
