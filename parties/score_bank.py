"""The bank's side of joint scoring: one asker a standing agreement, which keeps one conversation open between requests.

The firm's code leaves the bank as in a field query, by a release of the bank's gate in plaintext. What comes back is the
platform's part of each model, which `score_card` makes a score of: this module knows no card. A conversation in which
something went wrong is over; the next request opens another. One request is on the road at a time.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from lianxin.federation import field_query, scoring
from lianxin.federation.channel import Channel, Link
from lianxin.federation.contract import RunContract
from lianxin.federation.errors import GateRefused, InputFault, PeerGone
from lianxin.federation.field_query import FIRMS_A_REQUEST
from lianxin.federation.scoring import Asked, Part
from lianxin.federation.session import PeerRefused, Session, converse
from lianxin.parties.decision import ReleaseRequest
from lianxin.parties.identifiers import check_uscc, normalise_identifier
from lianxin.parties.ledger_commit import Preface
from lianxin.parties.node import Node
from lianxin.parties.query_bank import BUSY_DEADLINE_S, BankQueries
from lianxin.parties.trace import HoldingTrace

IDLE_S = 60.0  # a conversation that was silent for longer is closed before the next request; the platform waits longer
HERE = "here"  # of a firm whose code may not leave the bank, so that the platform was not asked


@dataclass
class _Road:
    """The conversation that is open, with how many requests it has carried."""

    channel: Channel
    session: Session
    trace: HoldingTrace
    number: int
    carried: int = 0
    used_at: float = 0.0


@dataclass(frozen=True)
class Parts:
    """What a request brought: its id, the models in the order asked, each firm's parts; None where its code stayed here."""

    request: str
    models: tuple[str, ...]
    by_firm: Mapping[str, tuple[Part, ...] | None]


class BankScores(BankQueries):
    """Asks the platform for its part of scores under one agreement. Safe between threads."""

    service = "scoring"

    def __init__(
        self, node: Node, contract: RunContract, link: Link, has_codes: bool, now: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(node, contract, link, has_codes)
        scoring.hand_over_soon()
        self._now = now
        self._road: _Road | None = None
        self._idle_s = min(IDLE_S, contract.step_deadline_s / 2)

    def parts(self, firms: Sequence[str], models: Sequence[str], operator: str) -> Parts:
        """Return the platform's part of each of `models` for up to 1,000 firms.

        Raises InputFault for what cannot be asked, PeerError when the platform refuses, breaks the protocol or is gone.
        """
        asked = self._asked(firms, models, operator)
        if not self._turn.acquire(timeout=BUSY_DEADLINE_S):
            raise InputFault("other scores of this bank are on the road; ask again when they have come")
        try:
            if self._closed:
                raise InputFault(f"agreement {self.contract.run} has ended; ask the platform to launch a new one")
            return self._ask_for(asked)
        finally:
            self._turn.release()

    def close(self) -> None:
        """Ask nothing more, wait for what is on the road, and end the conversation that is open."""
        super().close()
        self._hang_up()

    def _asked(self, firms: Sequence[str], models: Sequence[str], operator: str) -> Asked:
        if field_query.OPERATOR.fullmatch(operator) is None:
            raise InputFault("an operator's name is 3 to 64 of a-z, 0-9, '.' and '-'; say who asks with --operator")
        strange = [run for run in models if run not in self.contract.models]
        if strange or not models:
            served = ", ".join(self.contract.models)
            raise InputFault(f"agreement {self.contract.run} serves the models {served}; name some of these")
        named = tuple(dict.fromkeys(normalise_identifier(firm) for firm in firms))
        if not 0 < len(named) <= FIRMS_A_REQUEST or not all(named):
            raise InputFault(f"a request for scores names 1 to {FIRMS_A_REQUEST} firms by their codes")
        for firm in named if self._has_codes else ():
            check_uscc(firm)
        if any(len(name) > field_query.IDENTIFIER_CHARACTERS for name in named):
            raise InputFault("a firm's identifier is too long to be one; check the list of firms")
        return Asked("", self.contract.purpose, operator, tuple(dict.fromkeys(models)), named)

    def _ask_for(self, asked: Asked) -> Parts:
        road = self._open_road()
        request = scoring.request_id(self.contract, self.node.party, road.number, road.carried)
        try:
            right, firms = self._name(asked, request, road)
        except GateRefused as refusal:
            if refusal.rule in ("T01", "W01"):
                raise
            return Parts("", asked.models, dict.fromkeys(asked.firms))
        sent = Asked(request, asked.purpose, asked.operator, asked.models, firms)
        with self._carried_by(road):
            reply = converse(scoring.reply_role(sent, right), road.session, float(self.contract.step_deadline_s))
            self._note_scored(road, request, reply)
        given = dict(zip(firms, reply.parts, strict=True))
        return Parts(request, asked.models, {firm: given.get(firm) for firm in asked.firms})

    def _name(self, asked: Asked, request: str, road: _Road) -> tuple[Any, tuple[str, ...]]:
        """Return the right to name firms to the platform, and those that may be named. Raises GateRefused for none."""
        contract = self.contract
        leaf = {
            "kind": "score", "run": contract.run, "peer": contract.platform, "score": request, "purpose": asked.purpose,
            "models": list(asked.models), "firms": len(asked.firms), "conversation": road.session.conversation,
        }  # fmt: skip
        asks = ReleaseRequest(
            self.node.party, contract.platform, asked.purpose, "PLAINTEXT", "scoring.ask", (self._identifier,)
        )
        released = self.node.boundary.release(
            dict(contract.record),
            asks,
            asked.firms,
            {},
            use=request,
            query=request,
            before=Preface(((leaf, asked.operator),), goes_on=True),
        )
        return released.provenance, released.firms

    def _note_scored(self, road: _Road, request: str, reply: scoring.Reply) -> None:
        """Say how many scores came under which release, which the platform's own ledger has to agree with.

        It goes to disk with the leaf of the message that brought them, before anything is made of them.
        """
        leaf = {"kind": "scored", "run": self.contract.run, "peer": self.contract.platform, "score": request}
        told = {**leaf, "release": reply.release, "scores": reply.scores}
        self.node.ledger.append_prefaced(road.trace.preface(told))
        road.trace.written()

    # ---- the conversation that is kept open

    def _open_road(self) -> _Road:
        road = self._road
        if road is not None and not road.channel.is_gone() and self._now() - road.used_at < self._idle_s:
            return road
        self._hang_up()
        number = self.node.store.reserve(f"scoring/{self.contract.run}", 1)
        conversation = scoring.conversation_of(self.node.party, number)
        channel = self._link.open(conversation, self.contract.run)
        self.node.store.put_setting(self._open_key, conversation.encode())
        session = self.node.session(self.contract, channel, conversation)
        session.trace = trace = self.node.trace.holding()
        self._road = _Road(channel, session, trace, number, used_at=self._now())
        return self._road

    def _hang_up(self) -> None:
        road, self._road = self._road, None
        if road is None:
            return
        with ExitStack() as ending:
            ending.callback(self.node.store.delete_setting, self._open_key)
            ending.callback(road.channel.close)
            ending.callback(road.channel.finish)
            ending.callback(road.trace.settle)

    @contextmanager
    def _carried_by(self, road: _Road) -> Iterator[None]:
        """Count a request that was answered; end the conversation of one that was not, and say so where it was cut off."""
        is_cut = True
        try:
            yield
            is_cut = False
            road.carried, road.used_at = road.carried + 1, self._now()
        except PeerRefused:
            is_cut = False
            self._hang_up()
            raise
        except PeerGone as gone:
            what = f"it does not serve run {self.contract.run} or ended: its log has the rule"
            raise PeerGone(f"{gone}; {what}") from None
        finally:
            if is_cut:
                self._note_cut(road.session.conversation.encode())
                self._hang_up()
