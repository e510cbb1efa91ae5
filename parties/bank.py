"""The bank node: it dials its platform, weighs what is proposed, and does its part of the runs that it approved.

A proposal that the bank's own table, keys or dates cannot carry is refused at once. Else its policy file answers, or,
where there is none, the proposal waits for `lianxin bank approve` or `refuse`. After the contract carries every
signature the bank takes up the run with the ClientApp of its installed package.
"""

import json
import logging
import re
import threading
import time
from collections.abc import Mapping
from concurrent.futures import BrokenExecutor
from dataclasses import dataclass, field
from typing import Any

from lianxin.crypto import canonical
from lianxin.federation import apps, wire
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
from lianxin.federation.grid import answer_instructions
from lianxin.federation.scoring import MODEL as SCORING
from lianxin.federation.session import Session, rule_id
from lianxin.parties.agreement import Verdict, approve, check_proposal, judge_by_policy, open_contract
from lianxin.parties.bank_evaluation import check_columns, write_evaluation
from lianxin.parties.bank_run import BankRun
from lianxin.parties.config import OPERATOR
from lianxin.parties.identifiers import identifiers_are_uscc
from lianxin.parties.lineage import BY_ROW, CHANCES
from lianxin.parties.node import WORKERS_LOST, Node
from lianxin.parties.query_bank import BankQueries
from lianxin.parties.query_conversations import STANDING, end_expired, resumed_session
from lianxin.parties.records import load_loan_table, read_table
from lianxin.parties.retention import sweep_daily
from lianxin.parties.run_kinds import bank_run
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
        assert data.label is not None
        self.label = data.label
        self.table = load_loan_table(read_table(data.table), data.id, data.label, data.split, data.loan_id)
        node.rules.check_columns(self.table.columns, node.config.data.label or "")
        check_columns(node.config.evaluation, self.table)
        self.pending: dict[str, Pending] = {}
        self.ended: dict[str, dict[str, Any]] = {}
        self.standing: dict[str, BankQueries] = {}
        self.scorer = Scorer(node, self.table)
        self._stop = threading.Event()
        for row in node.store.runs():
            if row.state == STANDING:
                self._stand(open_contract(row.contract))

    # ---- the lobby

    def serve(self) -> None:
        """Hold the lobby and answer proposals until `close`; a platform that goes away is dialled again."""
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
        self.node.contract_event(contract.run, contract.hash, "proposed")
        verdict, operator = self._judge(channel, contract, proposal.plan)
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
        run = bank_run(self.node, contract, self.table, self.link)
        worker = _Worker(self.node, contract, run, self.link)
        worker.start()
        status = self._await(session, "contract.close", (wire.RunStatus,))
        worker.join(JOIN_DEADLINE_S)
        self._close(session, contract, status, worker)

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

    def _close(self, session: Session, contract: RunContract, status: Any, worker: "_Worker | None") -> None:
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
        answer = self.node.keep_head(status.checkpoint, session.peer, contract.node_keys[session.peer])
        session.send(wire.RunClosed(checkpoint=self.node.head(session.peer), cosignature=answer), "contract.close")
        was_standing = contract.is_standing and self.node.store.run(contract.run) is not None
        if worker is not None or was_standing:
            self.node.export(contract.run)
        self.ended[contract.run] = record | {"bytes_sent": self.node.bytes_sent}
        self.node.say(f"run {contract.run} {state}")

    def close(self) -> None:
        """Stop serving; a run under way fails at its next wait."""
        self._stop.set()
        self.scorer.monitor.flush()
        self.link.close()


class _Worker(threading.Thread):
    """Runs a bank's ClientApp until the run is over."""

    def __init__(self, node: Node, contract: RunContract, run: BankRun, link: Link) -> None:
        super().__init__(daemon=True)
        self.node, self.contract, self.work, self.link = node, contract, run, link
        self.failure: LianxinError | None = None

    def run(self) -> None:
        name = f"learning/{self.node.party}"
        try:
            channel = self.work.filler.watch(self.link.open(name, self.contract.run))
            session = self.node.session(self.contract, channel, name)
            session.follows = True
            patience = float(self.contract.step_deadline_s) * (1 + len(self.contract.banks))
            try:
                answer_instructions(
                    apps.make_client_app(self.work),
                    session,
                    lambda: self.work.rights,
                    patience,
                    lambda: self.work.finished,
                )
                channel.finish()
            finally:
                self.work.filler.stop()
                channel.close()
        except LianxinError as failure:
            self.failure = failure
            self.node.say(f"stopped: {failure}")
        except (BrokenExecutor, TimeoutError):
            self.failure = RunStopped(WORKERS_LOST)
            self.node.say(f"stopped: {WORKERS_LOST}")
        except Exception as fault:
            logging.getLogger("lianxin").exception("a fault in %s", name)
            sentence = f"a fault of this program ({type(fault).__name__}) ended the run here; report it with the log"
            self.failure = RunStopped(sentence)
            self.node.say(f"stopped: {sentence}")


def write_result(node: Node, run: BankRun) -> None:
    """Keep a run's model and held-out scores in the bank's own state folder."""
    folder = node.run_folder(run.contract.run)
    (folder / "model.json").write_text(json.dumps(run.model_record(), ensure_ascii=False))
    scores = {name: run.result[name] for name in BY_ROW} | {k: run.result[k] for k in CHANCES if k in run.result}
    (folder / "scores.json").write_text(json.dumps(scores))
    write_evaluation(run, folder)
