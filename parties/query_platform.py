"""The platform's side of field queries: one desk a standing agreement, which decides and answers firm by firm.

Each field of a firm is judged by itself; the fields that one right lets go leave in one release, whose leaf names the
request and the use that limited consents are counted by: the request and the firm's place in it, so that a firm in a
batch is one use however many releases it takes. What is refused is an answer, not a failure (R05). A firm that is not in
the table is judged and answered like one whose values are not on file.
"""

import threading
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from lianxin.federation import field_query
from lianxin.federation.channel import Channel
from lianxin.federation.contract import RunContract
from lianxin.federation.errors import GateRefused, PeerError
from lianxin.federation.field_query import FieldAnswer, FirmAnswer, Question
from lianxin.federation.model import Released
from lianxin.federation.session import converse
from lianxin.parties.decision import Decision, ReleaseRequest
from lianxin.parties.identifiers import normalise_identifier
from lianxin.parties.institutions import check_institution
from lianxin.parties.node import Node
from lianxin.parties.query_conversations import log_question, text_of
from lianxin.parties.query_judgement import judge, newest_grade
from lianxin.parties.quota import FieldQuota
from lianxin.parties.records import FirmTable
from lianxin.parties.retention import expiring_fields

CLOSE_DEADLINE_S = 30.0
_LAST = "query-number/{run}/{bank}"


class QueryDesk:
    """Answers the queries of one standing agreement, each in its conversation's thread."""

    service = "query"

    def __init__(self, node: Node, contract: RunContract, table: FirmTable, row_of: Mapping[str, int]) -> None:
        self.node, self.contract, self.table, self._row_of = node, contract, table, row_of
        self._quota = FieldQuota(node.store, node.clock, node.config.quota)
        self._open, self._closed, self._idle = set[Channel](), False, threading.Condition()

    def serve(self, channel: Channel) -> None:
        """Answer the one request of a conversation. Raises PeerError for what a bank may not ask."""
        self._enter(channel)
        try:
            number = self._admit(channel.peer, channel.conversation)
            session = self.node.session(self.contract, channel, channel.conversation)
            request = field_query.request_id(self.contract, channel.peer, number)
            desk = partial(self._answers, channel.peer, channel.conversation)
            role = field_query.platform_role(self.contract, request, desk)
            firms = converse(role, session, float(self.contract.step_deadline_s))
            self.node.say(f"answered {request}: {firms} firms", self.contract.run)
        finally:
            channel.finish()
            self._leave(channel)

    def close(self) -> None:
        """Serve nobody any more, and cut off who is silent, so that nothing crosses after the agreement's end.

        A conversation that is open ends at its next firm; one in which nothing is asked is closed after a while.
        """
        with self._idle:
            self._closed = True
            is_idle = self._idle.wait_for(lambda: not self._open, CLOSE_DEADLINE_S)
        if not is_idle:
            self._cut()

    def _cut(self) -> None:
        with self._idle:
            left = list(self._open)
        for channel in left:
            channel.close("the agreement has ended")
        with self._idle:
            self._idle.wait_for(lambda: not self._open, CLOSE_DEADLINE_S)

    def _enter(self, channel: Channel) -> None:
        with self._idle:
            if self._closed or channel.peer not in self.contract.banks:
                raise PeerError(f"{channel.peer} asks under an agreement that has ended or is not its own", "S01")
            self._open.add(channel)

    def _leave(self, channel: Channel) -> None:
        with self._idle:
            self._open.discard(channel)
            self._idle.notify_all()

    def _check_open(self) -> None:
        with self._idle:
            if self._closed:
                raise PeerError("the agreement has ended", "S01")

    def _admit(self, bank: str, conversation: str) -> int:
        """Return the request's number, which is higher than any before: a conversation is served once, also after a
        restart. Raises PeerError: S01, Q03."""
        own = f"{self.service}/{bank}/"
        number = conversation.removeprefix(own)
        if not (number.isascii() and number.isdecimal() and conversation == f"{own}{int(number)}"):
            raise self._not_admitted(bank, "S01", "a conversation that is no query of its own")

        def later(kept: bytes | None) -> bytes:
            if kept is not None and int(number) <= int(kept):
                raise self._not_admitted(bank, "Q03", "a query whose number was used before")
            return number.encode()

        self.node.store.change_setting(_LAST.format(run=self.contract.run, bank=bank), later)
        return int(number)

    def _not_admitted(self, bank: str, rule: str, what: str) -> PeerError:
        self.node.trace.refused(self.contract.run, bank, rule, f"{self.service}.ask", None)
        return PeerError(f"{bank} opened {what} (run {self.contract.run})", rule)

    # ---- one question

    def _answers(self, bank: str, conversation: str, question: Question) -> Iterator[FirmAnswer]:
        self._check_open()
        if any(firm != normalise_identifier(firm) for firm in question.firms):
            raise PeerError("a query names a firm in another spelling than the normal one", "Q02")
        check_institution(self.node, self.contract, bank, question.fields, "query.ask")
        self._quota.charge(bank, len(question.firms))
        log_question(self.node, self.contract, bank, question, conversation)
        return self._each(bank, question)

    def _each(self, bank: str, question: Question) -> Iterator[FirmAnswer]:
        refused: Counter[str] = Counter()
        for place in range(len(question.firms)):
            self._check_open()
            answer = self._answer(bank, question, place)
            refused.update(one.rule for one in answer.fields if one.form == "REFUSED")
            if place == len(question.firms) - 1:
                self._log_refused(bank, question, refused)
            yield answer

    def _log_refused(self, bank: str, question: Question, refused: Mapping[str, int]) -> None:
        leaf = {"kind": "refusal", "run": self.contract.run, "peer": bank, "step": "query.answer"}
        leaves = [{**leaf, "rule": rule, "query": question.request, "values": n} for rule, n in sorted(refused.items())]
        self.node.ledger.append_many(leaves, question.operator)

    def _answer(self, bank: str, question: Question, place: int) -> FirmAnswer:
        firm, use = question.firms[place], f"{question.request}.{place}"
        request = self._request(bank, question, question.fields)
        judged = judge(self.node, self.contract.record, request, firm, use)
        answers = {name: FieldAnswer(name, "REFUSED", rule=one.rule) for name, one in judged.items() if not one.allow}
        rights = []
        for names in _by_right(judged):
            try:
                released = self._release(bank, question, names, firm, use)
            except GateRefused as refusal:  # withdrawn or used up since it was judged
                answers |= {name: FieldAnswer(name, "REFUSED", rule=refusal.rule) for name in names}
                continue
            rights.append(released.provenance)
            answers |= {name: _answered(name, request, judged[name], released) for name in names}
        return FirmAnswer(tuple(answers[name] for name in question.fields), tuple(rights))

    def _request(self, bank: str, question: Question, fields: Sequence[str]) -> ReleaseRequest:
        grade = newest_grade(self.node) if question.mode == "DESENSITISED" else ""
        return ReleaseRequest(
            self.node.party, bank, question.purpose, question.mode, "query.answer", tuple(fields), grade
        )  # fmt: skip

    def _release(self, bank: str, question: Question, names: Sequence[str], firm: str, use: str) -> Released:
        columns = {name: [self._value(firm, name)] for name in names}
        request = self._request(bank, question, names)
        catalogue = self.node.boundary.catalogue_of(self.contract.record)
        since = {entry.expiry_from for entry in expiring_fields(catalogue, names).values()}
        dates = {name: [self._value(firm, name)] for name in since if name in self.table.columns}
        return self.node.boundary.release(
            dict(self.contract.record), request, [firm], columns, dates=dates, use=use, query=question.request
        )

    def _value(self, firm: str, name: str) -> Any:
        row = self._row_of.get(firm)
        return self.table.columns[name][row] if row is not None and name in self.table.columns else None


def _by_right(judged: Mapping[str, Decision]) -> list[list[str]]:
    """Return the allowed fields, grouped by the consents behind them; what needs none goes with the first group."""
    groups: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for name, one in judged.items():
        if one.allow:
            groups[one.consents].append(name)
    free = groups.pop((), [])
    found = list(groups.values()) or ([[]] if free else [])
    return [[*names, *(free if place == 0 else [])] for place, names in enumerate(found)]


def _answered(name: str, request: ReleaseRequest, judged: Decision, released: Released) -> FieldAnswer:
    if name not in released.columns:
        return FieldAnswer(name, "REFUSED", rule="R22" if request.grade else "R13")
    form = "DESENSITISED" if request.mode == "DESENSITISED" else "PLAIN"
    consents = released.consents or judged.consents
    right = consents[0] if judged.consents else request.grade or "OPEN"  # what needs none goes beside what does
    is_disputed = released.firms[0] in released.disputed.get(name, frozenset())
    value = text_of(released.columns[name][0])
    return FieldAnswer(name, form, value, right, is_disputed, released.provenance.release_id)
