"""The bank node: it dials its platform, weighs what is proposed, and does its part of the runs that it approved.

A proposal that the bank's own table, keys or dates cannot carry is refused at once. Else its policy file answers, or,
where there is none, the proposal waits for `lianxin bank approve` or `refuse`. After the contract carries every
signature the bank takes up the run with the ClientApp of its installed package.
"""

import logging
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lianxin.crypto import canonical
from lianxin.federation import wire
from lianxin.federation.channel import Channel, Link
from lianxin.federation.contract import RunContract, decode_contract
from lianxin.federation.errors import (
    DeadlinePassed,
    GuardRefused,
    InputFault,
    LianxinError,
    PeerError,
    PeerGone,
    RunStopped,
)
from lianxin.federation.scoring import MODEL as SCORING
from lianxin.federation.session import Session, rule_id
from lianxin.parties import checkpoint
from lianxin.parties.agreement import Verdict, approve, check_proposal, judge_by_policy, open_contract
from lianxin.parties.bank_evaluation import check_columns
from lianxin.parties.bank_side import ResumableSide
from lianxin.parties.bank_worker import Worker, write_result
from lianxin.parties.commitments import plan_fault
from lianxin.parties.config import OPERATOR
from lianxin.parties.identifiers import identifiers_are_uscc
from lianxin.parties.network_agreement import judge_network
from lianxin.parties.node import Node
from lianxin.parties.query_bank import BankQueries
from lianxin.parties.query_conversations import STANDING, end_expired, resumed_session
from lianxin.parties.records import load_loan_table, read_table
from lianxin.parties.retention import sweep_daily
from lianxin.parties.run_kinds import bank_run
from lianxin.parties.runs_left import check_goes_on, end_left, expired, is_numbered, is_unused
from lianxin.parties.score_bank import BankScores
from lianxin.parties.score_rows import Scorer

POLL_S = 0.5
RECONNECT_S = 1.0
APPROVAL_DEADLINE_S = 86400.0
JOIN_DEADLINE_S = 30.0


@dataclass
class Pending:
    """A proposal that waits for a person."""

    contract: RunContract
    plan: Mapping[str, Any]
    answered: threading.Event = field(default_factory=threading.Event)
    verdict: Verdict | None = None
    operator: str = ""


class BankNode:
    """A bank's running node over its link to the platform."""

    def __init__(self, node: Node, link: Link) -> None:
        self.node, self.link = node, link
        data = node.config.data
        assert data.label is not None and data.table is not None
        self.label = data.label
        self.table = load_loan_table(read_table(data.table), data.id, data.label, data.split, data.loan_id)
        node.rules.check_columns(self.table.columns, data.label)
        check_columns(node.config.evaluation, self.table)
        self.pending: dict[str, Pending] = {}
        self.ended: dict[str, dict[str, Any]] = {}
        self.standing: dict[str, BankQueries] = {}
        self.scorer = Scorer(node, self.table)
        self.members: dict[str, Worker] = {}
        self._stop = threading.Event()
        for row in node.store.runs():
            if row.state == STANDING:
                self._stand(open_contract(row.contract))
            elif row.state == "running":
                self._go_on(open_contract(row.contract))

    # ---- the lobby

    def serve(self) -> None:
        """Hold the lobby and answer proposals until `close`; a platform that goes away is dialled again."""
        for member in self.members.values():
            member.start()
        while not self._stop.is_set():
            try:
                channel = self.link.open(f"contracts/{self.node.party}", "lobby")
            except PeerError as fault:
                if not isinstance(fault, PeerGone | DeadlinePassed):
                    raise
                self._stop.wait(RECONNECT_S)
                continue
            self.node.say("connected")
            try:
                self._hold(channel)
            except PeerGone:
                self._stop.wait(RECONNECT_S)
            finally:
                channel.close()

    def _hold(self, channel: Channel) -> None:
        while not self._stop.is_set():
            self._end_expired()
            try:
                data = channel.receive(POLL_S)
            except DeadlinePassed:
                continue
            try:
                self._answer(channel, data)
            except PeerGone:
                raise
            except LianxinError as failure:
                self.node.say(f"refused: {failure}")
            except Exception as fault:
                logging.getLogger("lianxin").exception("a fault at a message in the lobby")
                self.node.trace.refused("", channel.peer, "W00", "contract.agree", None)
                self.node.say(
                    f"refused: a message of {channel.peer} that this program could not read ({type(fault).__name__})"
                )

    def _answer(self, channel: Channel, data: bytes) -> None:
        try:
            opened = wire.unseal(data)
            proposal: Any = opened.message
            if isinstance(proposal, wire.RunStatus) and opened.header["run"] in self.standing:
                self._end_standing(channel, data, opened.header["run"])
                return
            if isinstance(proposal, wire.RunStatus) and self._was_in(opened.header["run"]):
                self._end_member(channel, data, opened.header)
                return
            if not isinstance(proposal, wire.Proposal):
                raise PeerError(f"{channel.peer} sent something else than a proposal into the lobby", "S05")
            contract = decode_contract(proposal.contract)
        except (PeerError, GuardRefused) as fault:
            self.node.trace.refused("", channel.peer, fault.rule, "contract.agree", None)
            channel.close()
            raise
        self._check_new(channel, contract)
        session = self.node.session(contract, channel, f"contracts/{self.node.party}")
        session.accept(data, "contract.agree", (wire.Proposal,))
        odd = plan_fault(self.node, contract, proposal.plan)
        self.node.contract_event(contract.run, contract.hash, "proposed")
        unread = (Verdict("C01", odd), self.node.config.operator)
        verdict, operator = unread if odd else self._judge(channel, contract, proposal.plan)
        if verdict.rule:
            self._refuse(session, contract, verdict, operator)
            return
        approval = approve(contract, self.node.party, self.node.identity.signing_key)
        self.node.contract_event(contract.run, contract.hash, "approved", operator=operator, proposer=contract.proposer)
        session.send(wire.Approval(approval=approval), "contract.agree")
        self.node.say(f"approved {contract.run}")
        self._take_part(session, contract)

    def _check_new(self, channel: Channel, contract: RunContract) -> None:
        """Raise PeerError (C08) for a run id that was here before: seeds, keys and masks of a run serve once."""
        store, run = self.node.store, contract.run
        if store.run(run) is None and store.setting(f"seed/{run}") is None and not store.envelopes(run):
            return
        self.node.trace.refused(run, channel.peer, "C08", "contract.agree", None)
        channel.close()
        raise PeerError(f"{channel.peer} proposed run {run}, whose id was used here before; it needs a new one", "C08")

    def _judge(self, channel: Channel, contract: RunContract, plan: bytes) -> tuple[Verdict, str]:
        columns = set(self.table.columns)
        verdict = check_proposal(contract, self.node.identity, columns, self.label, self.node.clock.now())
        operator = self.node.config.operator
        verdict = verdict if verdict.rule else judge_network(contract, self.node.identity, self.node.config.profile)
        if verdict.rule:
            return verdict, operator
        policy = self.node.config.policy
        if policy is not None:
            if policy.operator == contract.proposer:
                return Verdict("R26", "the proposer may not approve"), policy.operator
            return judge_by_policy(contract, policy, self.node.party), policy.operator
        return self._wait_for_person(channel, contract, plan)

    def _wait_for_person(self, channel: Channel, contract: RunContract, plan: bytes) -> tuple[Verdict, str]:
        pending = Pending(contract, canonical.decode(plan))
        self.pending[contract.run] = pending
        self.node.say(f"waiting for approval of {contract.run}")
        try:
            until = time.monotonic() + APPROVAL_DEADLINE_S
            while not pending.answered.wait(POLL_S):
                if self._stop.is_set() or channel.is_gone():
                    raise PeerGone(f"{channel.peer} gave up run {contract.run} before anybody here answered")
                if time.monotonic() > until:
                    return Verdict("C06", "nobody answered in time"), self.node.config.operator
            assert pending.verdict is not None
            return pending.verdict, pending.operator
        finally:
            del self.pending[contract.run]

    def decide(self, run: str, is_yes: bool, operator: str) -> None:
        """Answer a waiting proposal. Raises InputFault when none waits or the proposer would approve its own."""
        if re.fullmatch(OPERATOR, operator) is None:
            raise InputFault("an operator's name is 3 to 64 of a-z, 0-9, '.' and '-'; say who decides with --operator")
        pending = self.pending.get(run)
        if pending is None:
            waiting = ", ".join(sorted(self.pending)) or "none"
            raise InputFault(f"no proposal of run {run} waits here (waiting: {waiting})")
        if is_yes and operator == pending.contract.proposer:
            raise InputFault("the operator who proposed a run may not approve it (R26); let a second person decide")
        pending.verdict = Verdict("", "") if is_yes else Verdict("C07", "refused by the operator")
        pending.operator = operator
        pending.answered.set()

    def _refuse(self, session: Session, contract: RunContract, verdict: Verdict, operator: str) -> None:
        self.node.contract_event(contract.run, contract.hash, "refused", verdict.rule, operator)
        session.refuse(verdict.rule, "contract.agree")
        self.ended[contract.run] = {
            "run": contract.run,
            "state": "refused",
            "rule": verdict.rule,
            "error": verdict.reason,
        }
        self.node.say(f"refused {contract.run}: {verdict.reason}")

    # ---- a run

    def _take_part(self, session: Session, contract: RunContract) -> None:
        answer: Any = self._await(session, "contract.agree", (wire.SignedContract, wire.RunStatus))
        if isinstance(answer, wire.RunStatus):
            self._close(session, contract, answer, None)
            return
        try:
            self._check_signed(session, contract, answer.contract)
        except PeerError as fault:
            self.node.trace.refused(contract.run, session.peer, fault.rule, "contract.agree", None)
            session.refuse(fault.rule, "contract.agree")
            session.channel.close()
            raise
        is_standing = contract.is_standing
        self.node.store.put_run(contract.run, STANDING if is_standing else "running", answer.contract)
        self.node.contract_event(contract.run, contract.hash, "signed")
        if is_standing:
            self._stand(contract)
            return
        self.node.renew_workers()
        worker = Worker(self.node, contract, bank_run(self.node, contract, self.table, self.link), self.link)
        self.members[contract.run] = worker
        worker.start()
        try:
            status = self._await(session, "contract.close", (wire.RunStatus,))
        except PeerGone:
            if not contract.is_network:
                del self.members[contract.run]
                end_left(self.node, contract, f"{session.peer} went away while run {contract.run} was under way", self.ended)
            raise
        self._close(session, contract, status, self.members.pop(contract.run))

    # ---- a run that goes on after this node, its platform or the road was down

    def _go_on(self, contract: RunContract) -> None:
        """Take up a run that was under way when this node ended, or fail it where it cannot go on."""
        try:
            check_goes_on(self.node, contract)
            run = bank_run(self.node, contract, self.table, self.link)
            kept = checkpoint.read(self.node.run_folder(contract.run), contract.run)
            if kept is not None and isinstance(run, ResumableSide):
                run.restore(kept)
        except LianxinError as fault:
            end_left(self.node, contract, str(fault), self.ended)
            return
        self.members[contract.run] = Worker(self.node, contract, run, self.link, again=True)
        self.node.say(f"run {contract.run} is resumed")

    @property
    def resumed(self) -> list[str]:
        """The runs under way that this node takes part in again since it was started."""
        return sorted(run for run, member in self.members.items() if member.again)

    def _was_in(self, run: str) -> bool:
        row = self.node.store.run(run)
        return row is not None and row.state in ("running", "finished", "failed") and open_contract(row.contract).is_network

    def _end_member(self, channel: Channel, data: bytes, header: Mapping[str, Any]) -> None:
        """Take the end of a run that was resumed, told in a conversation of its own that was never used before.

        A bank that knows the end already answers once more: the platform did not hear it.
        """
        run, conversation, party = header["run"], header["conversation"], self.node.party
        if not is_numbered(conversation, "contracts", party) or not is_unused(self.node, run, conversation):
            raise PeerError(f"{channel.peer} tells the end of run {run} in a conversation that is none", "S01")
        row = self.node.store.run(run)
        assert row is not None  # see _was_in
        contract = open_contract(row.contract)
        session = self.node.session(contract, channel, conversation)
        status = session.accept(data, "contract.close", (wire.RunStatus,))
        if row.state == "running" and run in self.members:
            self._close(session, contract, status, self.members.pop(run))
        else:
            self._confirm(session, contract, status)

    # ---- standing agreements

    def _stand(self, contract: RunContract) -> None:
        """Keep an agreement ready to be asked under; the lobby goes on."""
        has_codes = identifiers_are_uscc(self.table.identifiers)
        kind = BankScores if contract.model == SCORING else BankQueries
        self.standing[contract.run] = kind(self.node, contract, self.link, has_codes)
        self.node.say(f"agreement {contract.run} stands until {contract.expires_at}")

    def _end_standing(self, channel: Channel, data: bytes, run: str) -> None:
        contract = self.standing[run].contract
        session = resumed_session(self.node, contract, channel, f"contracts/{self.node.party}")
        status = session.accept(data, "contract.close", (wire.RunStatus,))
        self.standing.pop(run).close()
        self._close(session, contract, status, None)

    def _end_expired(self) -> None:
        """End the agreements whose time has passed: each side by itself, since no envelope may cross any more."""
        sweep_daily(self.node)
        for run, asker in list(self.standing.items()):
            if asker.contract.expires_at <= self.node.clock.now():
                self.standing.pop(run).close()
                end_expired(self.node, asker.contract)
                self.ended[run] = {"run": run, "state": "finished", "rule": "", "error": ""}
        for run, member in list(self.members.items()):
            if member.contract.expires_at <= self.node.clock.now():
                self.members.pop(run).over.set()
                end_left(self.node, member.contract, str(expired(member.contract)), self.ended)

    def _check_signed(self, session: Session, contract: RunContract, data: bytes) -> None:
        if open_contract(data).hash != contract.hash:
            raise PeerError(f"{session.peer} signed another contract than the one approved; nothing was started", "C05")

    def _await(self, session: Session, step: str, types: tuple[Any, ...]) -> Any:
        while not self._stop.is_set():
            try:
                data = session.channel.receive(POLL_S)
            except DeadlinePassed:
                continue
            kind = wire.unseal(data).message
            actual = "contract.close" if isinstance(kind, wire.RunStatus) else step
            return session.accept(data, actual, types)
        raise RunStopped("this node was stopped while a run was under way")

    def _close(self, session: Session, contract: RunContract, status: Any, worker: "Worker | None") -> None:
        if worker is not None:
            worker.over.set()
            worker.join(JOIN_DEADLINE_S)
        state = status.state if status.state in ("finished", "failed", "refused") else "failed"
        failure, rule = worker.failure if worker else None, rule_id(status.rule) if status.rule else ""
        record = {
            "run": contract.run,
            "state": state,
            "rule": rule,
            "error": str(failure) if failure and state != "finished" else "",
        }
        if self.node.store.run(contract.run) is not None:
            self.node.store.set_run_state(contract.run, state, rule)
        self.node.contract_event(contract.run, contract.hash, state, rule)
        if worker is not None and worker.work.result:
            write_result(self.node, worker.work)
        self._confirm(session, contract, status)
        was_standing = contract.is_standing and self.node.store.run(contract.run) is not None
        if worker is not None or was_standing:
            self.node.export(contract.run)
        checkpoint.remove(self.node.run_folder(contract.run))
        self.ended[contract.run] = record | {"bytes_sent": self.node.bytes_sent}
        self.node.say(f"run {contract.run} {state}")

    def _confirm(self, session: Session, contract: RunContract, status: Any) -> None:
        answer = self.node.keep_head(status.checkpoint, session.peer, contract.node_keys[session.peer])
        session.send(wire.RunClosed(checkpoint=self.node.head(session.peer), cosignature=answer), "contract.close")

    def close(self) -> None:
        """Stop serving; a run under way fails at its next wait."""
        self._stop.set()
        for member in list(self.members.values()):
            member.over.set()
        self.scorer.monitor.flush()
        self.link.close()


__all__ = ["BankNode", "Pending", "write_result"]
