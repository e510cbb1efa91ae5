"""The bank's side of field queries: one asker a standing agreement; answers are handed on and kept nowhere.

The firm's code leaves the bank as its own field, by a release of the bank's gate in plaintext: a published code of an
enterprise is open, a sole trader is a natural person and must have consented here too, else its code does not leave and
the platform hears nothing of it. One request is on the road at a time.
"""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any, TypeVar

from lianxin.federation import field_query
from lianxin.federation.channel import Link
from lianxin.federation.contract import RunContract
from lianxin.federation.errors import GateRefused, InputFault, PeerGone
from lianxin.federation.field_query import FIELDS_A_REQUEST, FIRMS_A_REQUEST, FieldAnswer, Question
from lianxin.federation.model import Provenance
from lianxin.federation.session import PeerRefused, converse
from lianxin.parties.decision import ReleaseRequest
from lianxin.parties.identifiers import check_uscc, normalise_identifier
from lianxin.parties.node import Node
from lianxin.parties.query_conversations import Receipts, log_question
from lianxin.parties.query_judgement import judge

BUSY_DEADLINE_S = 60.0
Asker = TypeVar("Asker", bound="BankQueries")
NOT_OUR_DECISION = (
    "This file shows what a third party holds and was allowed to give. It is no credit decision, no rating and no advice; "
    "whoever decides decides by their own rules and answers for it."
)


class BankQueries:
    """Asks the platform under one standing agreement. Safe between threads."""

    service = "query"

    def __init__(self, node: Node, contract: RunContract, link: Link, has_codes: bool) -> None:
        """`has_codes` says that the bank's firms are named by unified social credit codes, so that others are refused."""
        self.node, self.contract, self._link, self._has_codes = node, contract, link, has_codes
        (self._identifier,) = contract.fields_of(node.party, "identifier")
        self._turn, self._closed = threading.Lock(), False
        self._open_key = f"{self.service}-open/{contract.run}"
        self._note_cut(node.store.setting(self._open_key))  # the node ended while a query was on the road
        node.store.delete_setting(self._open_key)

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields that the agreement lets this bank ask for."""
        return self.contract.fields_of(self.contract.platform, "feature")

    def ask(self, firms: Sequence[str], fields: Sequence[str], mode: str, operator: str) -> dict[str, Any]:
        """Return what the platform answers, as a record for people (docs/reference.md, "Field queries").

        No `fields` asks for all that the agreement lists. Raises InputFault for what cannot be asked, GateRefused when no
        code may leave here, PeerError when the platform refuses the request, breaks the protocol or is gone.
        """
        question = self._question(firms, fields, mode, operator)
        if not self._turn.acquire(timeout=BUSY_DEADLINE_S):
            raise InputFault("another query of this bank is on the road; ask again when it has ended")
        try:
            if self._closed:
                raise InputFault(f"agreement {self.contract.run} has ended; ask the platform to launch a new one")
            return self._ask(question)
        finally:
            self._turn.release()

    def close(self) -> None:
        """Ask nothing more, and wait for the query that is on the road."""
        self._closed = True
        if self._turn.acquire(timeout=BUSY_DEADLINE_S):
            self._turn.release()

    def _question(self, firms: Sequence[str], fields: Sequence[str], mode: str, operator: str) -> Question:
        if field_query.OPERATOR.fullmatch(operator) is None:
            raise InputFault("an operator's name is 3 to 64 of a-z, 0-9, '.' and '-'; say who asks with --operator")
        if mode not in field_query.MODES:
            raise InputFault(f"the mode is one of {', '.join(field_query.MODES)}; say which with --mode")
        named = tuple(dict.fromkeys(normalise_identifier(firm) for firm in firms))
        if not 0 < len(named) <= FIRMS_A_REQUEST or not all(named):
            raise InputFault(f"a query names 1 to {FIRMS_A_REQUEST} firms by their codes; ask in several requests")
        for firm in named if self._has_codes else ():
            check_uscc(firm)
        if any(len(name) > field_query.IDENTIFIER_CHARACTERS for name in named):
            raise InputFault("a firm's identifier is too long to be one; check the list of firms")
        asked = tuple(dict.fromkeys(fields)) or self.fields
        if len(asked) > FIELDS_A_REQUEST or not all(map(field_query.FIELD.fullmatch, asked)):
            raise InputFault(f"a query names at most {FIELDS_A_REQUEST} fields by their catalogue ids; check --fields")
        return Question("", self.contract.purpose, field_query.MODES[mode], operator, asked, named)

    def _ask(self, question: Question) -> dict[str, Any]:
        number = self.node.store.reserve(f"query/{self.contract.run}", 1)
        question = replace(question, request=field_query.request_id(self.contract, self.node.party, number))
        conversation = field_query.conversation_of(self.node.party, number)
        kept_back = self._kept_back(question)
        channel = self._link.open(conversation, self.contract.run)
        try:
            right, asked = self._release(question)
            kept_back = {firm: kept_back.get(firm, "R04") for firm in question.firms if firm not in set(asked)}
            sent = replace(question, firms=asked)
            leaf = log_question(self.node, self.contract, self.contract.platform, sent, conversation)
            session = self.node.session(self.contract, channel, conversation)
            session.trace = receipts = Receipts(self.node.trace)
            role = field_query.bank_role(sent, right)
            with self._on_the_road(conversation):
                answers = converse(role, session, float(self.contract.step_deadline_s))
                channel.finish()
        finally:
            channel.close()
        found: dict[str, Any] = {firm: self._shown(one) for firm, one in zip(asked, answers, strict=True)}
        found |= {firm: self._shown(_refused(question, rule)) for firm, rule in kept_back.items()}
        record = self._record(question, leaf, receipts.hashes)
        return record | {
            "firms": [{"firm": firm, "fields": found[firm], "here": firm in kept_back} for firm in question.firms]
        }

    @contextmanager
    def _on_the_road(self, conversation: str) -> Iterator[None]:
        """Let an auditor tell a conversation that was cut off, by whatever, from one whose messages somebody hides."""
        self.node.store.put_setting(self._open_key, conversation.encode())
        try:
            yield
        except PeerRefused:
            raise
        except PeerGone as gone:
            self._note_cut(conversation.encode())
            what = f"it does not serve run {self.contract.run} or ended: its log has the rule"
            raise PeerGone(f"{gone}; {what}") from None
        except Exception:
            self._note_cut(conversation.encode())
            raise
        finally:
            self.node.store.delete_setting(self._open_key)

    def _note_cut(self, conversation: bytes | None) -> None:
        if conversation is None:
            return
        leaf = {"kind": "refusal", "run": self.contract.run, "peer": self.contract.platform, "rule": "Q05"}
        self.node.ledger.append({**leaf, "step": f"{self.service}.answer", "conversation": conversation.decode()})

    def _request(self, question: Question) -> ReleaseRequest:
        platform, purpose = self.contract.platform, question.purpose
        return ReleaseRequest(self.node.party, platform, purpose, "PLAINTEXT", "query.ask", (self._identifier,))

    def _kept_back(self, question: Question) -> dict[str, str]:
        """Return the rule that keeps each firm's code here; where it keeps all, the gate says so before anybody dials."""
        contract, request, use = self.contract.record, self._request(question), question.request
        judged = {firm: judge(self.node, contract, request, firm, use)[self._identifier] for firm in question.firms}
        kept = {firm: one.rule for firm, one in judged.items() if not one.allow}
        if len(kept) == len(question.firms):
            self._release(question)
        return kept

    def _release(self, question: Question) -> tuple[Provenance, tuple[str, ...]]:
        """Return the right to name firms to the platform, and those that may be named. Raises GateRefused for none."""
        contract, use = dict(self.contract.record), question.request
        released = self.node.boundary.release(contract, self._request(question), question.firms, {}, use=use, query=use)
        return released.provenance, released.firms

    def _shown(self, answers: Sequence[FieldAnswer]) -> list[dict[str, Any]]:
        names = {
            one.field: self.node.catalogue[one.field].name_zh for one in answers if one.field in self.node.catalogue
        }
        return [asdict(one) | {"name": names.get(one.field, "")} for one in answers]

    def _record(self, question: Question, leaf: str, receipts: Sequence[str]) -> dict[str, Any]:
        return {
            "request": question.request, "run": self.contract.run, "agreement": self.contract.agreement,
            "bank": self.node.party, "platform": self.contract.platform, "purpose": question.purpose,
            "mode": question.mode, "operator": question.operator, "time": self.node.clock.now(),
            "retain_until": self.contract.retain_until, "leaf": leaf, "messages": list(receipts),
            "note": NOT_OUR_DECISION,
        }  # fmt: skip


def _refused(question: Question, rule: str) -> list[FieldAnswer]:
    return [FieldAnswer(name, "REFUSED", rule=rule) for name in question.fields]


def agreement_for(standing: Mapping[str, BankQueries], purpose: str, run: str = "") -> BankQueries:
    """Return the asker whose agreement is for `purpose`, the one named `run` where several are. Raises GateRefused (R01)
    when there is none, InputFault when one must be named."""
    return chosen([one for one in standing.values() if type(one) is BankQueries], purpose, run)


def chosen(standing: Sequence[Asker], purpose: str, run: str) -> Asker:
    """Return the one whose agreement is for `purpose`, "" for any, and is `run`, "" for any; raises as `agreement_for`."""
    found = [one for one in standing if purpose in ("", one.contract.purpose) and run in ("", one.contract.run)]
    if not found:
        wanted = f" for purpose {purpose}" if purpose else ""
        raise GateRefused(f"no standing agreement{wanted} (rule R01); ask the platform to launch one for it", "R01")
    if len(found) > 1:
        names, of = ", ".join(sorted(one.contract.run for one in found)), f"for purpose {purpose} " if purpose else ""
        raise InputFault(f"several agreements are {of}({names}); name one with --run")
    return found[0]
