"""The bank node: it dials its platform, weighs what is proposed, and does its part of the runs that it approved.

A proposal that the bank's own table, keys or dates cannot carry is refused at once. Else its policy file answers, or,
where there is none, the proposal waits for `lianxin bank approve` or `refuse`. After the contract carries every
signature the bank takes up the run with the ClientApp of its installed package. Each run has a thread of its own, so that
the lobby goes on for others: `bank_lobby` hands out what comes, `bank_approvals` waits for people.
"""

import threading
from collections.abc import Mapping
from functools import partial
from typing import Any

from lianxin.federation import wire
from lianxin.federation.channel import Channel, Link
from lianxin.federation.contract import RunContract, decode_contract
from lianxin.federation.errors import (
    DeadlinePassed,
    GuardRefused,
    LianxinError,
    PeerError,
    PeerGone,
    RunStopped,
)
from lianxin.federation.session import Session, rule_id
from lianxin.parties import checkpoint
from lianxin.parties.agreement import Verdict, approve, check_proposal, judge_by_policy, open_contract
from lianxin.parties.bank_approvals import Approvals, GivenUp, LostWaiting, Pending
from lianxin.parties.bank_evaluation import check_columns
from lianxin.parties.bank_lobby import APPROVAL_DEADLINE_S, BankLobby, Part
from lianxin.parties.bank_road import PlatformRoad
from lianxin.parties.bank_side import ResumableSide
from lianxin.parties.bank_standing import StandingAskers
from lianxin.parties.bank_worker import Worker, write_result
from lianxin.parties.commitments import plan_fault
from lianxin.parties.ended_runs import EndedRuns
from lianxin.parties.network_agreement import judge_network
from lianxin.parties.node import Node
from lianxin.parties.peer_trust import end_kept
from lianxin.parties.proposals_again import is_open_still
from lianxin.parties.query_bank import BankQueries
from lianxin.parties.query_conversations import STANDING
from lianxin.parties.records import load_loan_table, read_table
from lianxin.parties.records_source import how_read
from lianxin.parties.run_ending import Step, carry_out
from lianxin.parties.run_kinds import bank_run
from lianxin.parties.run_life import BUSY, RunCancelled
from lianxin.parties.run_link import RunLink
from lianxin.parties.run_remedies import failed, terms_of
from lianxin.parties.runs_left import (
    check_goes_on,
    drop_result,
    end_left,
    has_done_its_part,
    is_numbered,
    is_unused,
    recall_ends,
)
from lianxin.parties.score_rows import Scorer


class BankNode(BankLobby, Approvals, StandingAskers):
    """A bank's running node over its link to the platform."""

    def __init__(self, node: Node, link: Link) -> None:
        self.node, self.link, self.road = node, link, PlatformRoad(node)
        data = node.config.data
        assert data.label is not None and data.table is not None
        self.label = data.label
        self.table = load_loan_table(
            read_table(data.table, data.columns), data.id, data.label, data.split, data.loan_id
        )
        if told := how_read(data.table):
            node.say(told)
        node.rules.check_columns(self.table.columns, data.label)
        check_columns(node.config.evaluation, self.table)
        self.pending: dict[str, Pending] = {}
        self.ended = EndedRuns(node.store)
        self.parts: dict[str, Part] = {}
        self.standing: dict[str, BankQueries] = {}
        self.scorer = Scorer(node, self.table)
        self.members: dict[str, Worker] = {}
        self._stop = threading.Event()
        recall_ends(node, self.ended)
        end_kept(node, self.ended)
        for row in node.store.runs():
            if row.state == STANDING:
                self._stand(open_contract(row.contract))
            elif row.state == "running":
                self._go_on(open_contract(row.contract))

    # ---- the lobby

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
        conversation, known = str(opened.header["conversation"]), getattr(self.ended, "known", self.ended.get)
        is_again = is_open_still(self.node, contract, conversation, known(contract.run) is not None)
        if not is_again:
            self._check_new(channel, contract)
        session = self.node.session(contract, channel, conversation if is_again else f"contracts/{self.node.party}")
        if (part := self.parts.get(contract.run)) is not None:
            part.session = session
        session.accept(data, "contract.agree", (wire.Proposal,))
        odd = plan_fault(self.node, contract, proposal.plan)
        if not is_again:
            self.node.contract_event(contract.run, contract.hash, "proposed")
        own = self.node.config.operator
        unread = (Verdict("C01", odd), own) if odd else None
        full = (Verdict(BUSY, "as many runs as may are under way here"), own) if self._is_full(contract) else None
        try:
            verdict, operator = unread or full or self._judge(channel, contract, proposal.plan)
        except GivenUp:
            self._close(session, contract, self._await(session, "contract.close", (wire.RunStatus,)), None)
            return
        except LostWaiting as lost:
            self._break_off(contract, lost)
            return
        if verdict.rule:
            self._refuse(session, contract, verdict, operator)
            return
        approval = approve(contract, self.node.party, self.node.identity.key_for(contract.node_keys))
        self.node.contract_event(contract.run, contract.hash, "approved", operator=operator, proposer=contract.proposer)
        session.send(wire.Approval(approval=approval), "contract.agree")
        self.node.say(f"approved {contract.run}", contract.run)
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
        if not verdict.rule and (short := self.node.trace.short_of_disk()):
            verdict = Verdict("L15", short)
        if verdict.rule:
            return verdict, operator
        policy = self.node.config.policy
        if policy is not None:
            if policy.operator == contract.proposer:
                return Verdict("R26", "the proposer may not approve"), policy.operator
            return judge_by_policy(contract, policy, self.node.party), policy.operator
        return self._wait_for_person(channel, contract, plan)

    def _refuse(self, session: Session, contract: RunContract, verdict: Verdict, operator: str) -> None:
        self.node.contract_event(contract.run, contract.hash, "refused", verdict.rule, operator)
        session.refuse(verdict.rule, "contract.agree")
        fault = RunStopped(verdict.reason)
        fault.party = self.node.party
        record = failed(contract.run, fault, self.node.party, (), "contract.agree", verdict.rule, "refused")
        self.ended[contract.run] = record | terms_of(contract)
        self.node.say(f"refused {contract.run}: {verdict.reason}")

    # ---- a run

    def _take_part(self, session: Session, contract: RunContract) -> None:
        try:
            patience = APPROVAL_DEADLINE_S * (1 + len(contract.banks))
            answer: Any = self._await(session, "contract.agree", (wire.SignedContract, wire.RunStatus), patience)
        except RunCancelled as word:
            self._withdraw(session, contract, word, None)
            return
        except (PeerGone, RunStopped) as fault:
            self._break_off(contract, fault)
            raise
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
        link = RunLink(self.link)
        worker = Worker(self.node, contract, bank_run(self.node, contract, self.table, link), link)
        self.members[contract.run] = worker
        worker.start()
        self._follow(session, contract, worker)

    def _follow(self, session: Session, contract: RunContract, worker: "Worker") -> None:
        """Wait for the end of a run under way while its worker does this bank's part."""
        try:
            status = self._await(session, "contract.close", (wire.RunStatus,))
        except RunCancelled as word:
            self._withdraw(session, contract, word, worker)
            return
        except (PeerGone, DeadlinePassed):
            if not contract.is_network and self.members.pop(contract.run, None) is not None and not worker.is_done:
                worker.stop()
                why = f"{session.peer} went away while run {contract.run} was under way"
                end_left(self.node, contract, why, self.ended, step="contract.close")
            raise
        except RunStopped as fault:
            if not self._stop.is_set() and self.members.pop(contract.run, None) is not None:
                worker.stop()
                end_left(self.node, contract, str(fault), self.ended)
            raise
        self.members.pop(contract.run, None)
        self._close(session, contract, status, worker)

    # ---- a run that goes on after this node, its platform or the road was down

    def _go_on(self, contract: RunContract) -> None:
        """Take up a run that was under way when this node ended, or fail it where it cannot go on.

        A joint model's run of which this bank had done its part is not failed: the platform tells how it ended.
        """
        if has_done_its_part(self.node, contract):
            self.node.say(f"run {contract.run} waits to hear from {contract.platform} how it ended")
            return
        try:
            check_goes_on(self.node, contract)
            link = RunLink(self.link)
            run = bank_run(self.node, contract, self.table, link)
            kept = checkpoint.read(self.node.run_folder(contract.run), contract.run)
            if kept is not None and isinstance(run, ResumableSide):
                run.restore(kept)
        except LianxinError as fault:
            end_left(self.node, contract, str(fault), self.ended)
            return
        self.members[contract.run] = Worker(self.node, contract, run, link, again=True)
        self.node.say(f"run {contract.run} is resumed")

    @property
    def resumed(self) -> list[str]:
        """The runs under way that this node takes part in again since it was started."""
        return sorted(run for run, member in self.members.items() if member.again)

    def _was_in(self, run: str) -> bool:
        row = self.node.store.run(run)
        return (
            row is not None
            and row.state in ("running", "finished", "failed")
            and not open_contract(row.contract).is_standing
        )

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
        if row.state == "running":
            self._close(session, contract, status, self.members.pop(run, None))
        else:
            steps: list[Step] = [("the answer to the end", lambda: self._confirm(session, contract, status))]
            carry_out(self.node, run, [*steps, ("the evidence", lambda: self.node.export(run))])

    def _check_signed(self, session: Session, contract: RunContract, data: bytes) -> None:
        if open_contract(data).hash != contract.hash:
            raise PeerError(f"{session.peer} signed another contract than the one approved; nothing was started", "C05")

    def _close(
        self, session: Session, contract: RunContract, status: Any, worker: Worker | None,
        word: RunCancelled | None = None,
    ) -> None:  # fmt: skip
        """End a run here as the platform says that it ended; `word` is that of a person who left it here."""
        if worker is not None:
            worker.over.set()
            worker.end_soon()
        state = status.state if status.state in ("finished", "failed", "refused") else "failed"
        failure, rule = word or (worker.failure if worker else None), rule_id(status.rule) if status.rule else ""
        if self.node.store.run(contract.run) is not None:
            self.node.store.set_run_state(contract.run, state, rule)
        self.node.contract_event(contract.run, contract.hash, state, rule, *([word.operator] if word else []))
        steps = [self._model_step(contract, state, worker)]
        steps += [("the answer to the end", lambda: self._confirm(session, contract, status))]
        if self.node.store.run(contract.run) is not None:
            steps += [("the evidence", lambda: self.node.export(contract.run))]
        steps += [("its checkpoint", lambda: checkpoint.remove(self.node.run_folder(contract.run)))]
        carry_out(self.node, contract.run, steps)
        step = "contract.agree" if worker is None else "learning.exchange"
        record = _record_of(contract, self.node.party, state, rule, failure, step)
        self.ended[contract.run] = record | terms_of(contract) | {"bytes_sent": self.node.bytes_sent}
        self.node.counts[f"runs/{state}"] += 1
        is_agreement_over = contract.is_standing and state == "finished"
        over = f"agreement {contract.run} was ended by {contract.platform}"
        self.node.say(over if is_agreement_over else f"run {contract.run} {state}")

    def _model_step(self, contract: RunContract, state: str, worker: Worker | None) -> Step:
        """Return the step that leaves a model of a run that finished, and none of one that did not."""
        if state != "finished":
            return "a failed run's model", partial(drop_result, self.node, contract.run)
        work = worker.work if worker is not None and worker.work.result else None
        return "the model", lambda: None if work is None else write_result(self.node, work)

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


def _record_of(
    contract: RunContract, own: str, state: str, rule: str, failure: LianxinError | None, step: str
) -> dict[str, Any]:
    """Return how a run ended at a bank: by its own failure, or as the platform told it, in `step` as far as it knows."""
    parties = (contract.platform, *contract.banks)
    if state == "finished":
        return {"run": contract.run, "state": state, "rule": rule, "error": ""}
    if failure is not None:
        return failed(contract.run, failure, own, parties, step, rule, state)
    why = f"{contract.platform} told this node that it ended"
    return {
        "run": contract.run, "state": state, "rule": rule, "error": "", "why": why, "party": contract.platform,
        "step": step,
    }  # fmt: skip


__all__ = ["BankNode", "Pending", "write_result"]
