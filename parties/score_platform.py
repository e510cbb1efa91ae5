"""The platform's side of joint scoring: one desk a standing agreement, which scores whom the gate lets go.

**One request** is one release: its fields are those of the models that are asked for, and its leaf, in one transaction
behind the leaf of kind `score` that says who asks, counts whom the gate left out by which rule. A release of nobody is one
all the same, so that a reply is the same whether somebody was let go or not.

**Equal work.** The gate judges every firm; one that is not in the table goes to it under a name that no firm has, as a
natural person's, who has consented to nothing. Every firm is scored, on its released row or on a dummy one, its record made,
and put aside where there is no score. The mark beside the store, which a use of a limited consent raises, is raised for
every request, once the answer's leaf and the release are on disk. The road (`Paced`) gives an answer to the network on the
next tick of a schedule of 5 ms that begins when its request came: what is left of a difference has to cross a tick to be
seen. A schedule that ran on from request to request would let it through: who asks at all phases of a tick sees the mean of
what is rounded.

**One version.** What a bank was given of a firm stands for the quarter, and of so many models at most (`score_standing`).
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import count, product
from typing import Any

from lianxin.federation import scoring
from lianxin.federation.channel import Channel
from lianxin.federation.contract import RunContract
from lianxin.federation.errors import DeadlinePassed, GateRefused, InputFault, PeerError, PeerGone
from lianxin.federation.model import Released
from lianxin.federation.scoring import NOTHING, TICK_S, Answer, Asked
from lianxin.federation.session import converse
from lianxin.parties import decision
from lianxin.parties.config import RunConfig
from lianxin.parties.decision import Registry, ReleaseRequest
from lianxin.parties.identifiers import normalise_identifier, subject_type_of
from lianxin.parties.institutions import check_institution
from lianxin.parties.ledger_commit import Preface
from lianxin.parties.ledger_mark import mark_at
from lianxin.parties.node import Node
from lianxin.parties.query_platform import QueryDesk
from lianxin.parties.records import FirmTable
from lianxin.parties.retention import expiring_fields
from lianxin.parties.score_cuts import ServedTrees
from lianxin.parties.score_parts import ServedModel, ToBank, fields_of, is_live, served_model
from lianxin.parties.score_quota import ScoreQuota
from lianxin.parties.score_standing import Standing, Turn
from lianxin.parties.store_ledger import StandingRow
from lianxin.parties.trace import HoldingTrace

STRANGERS = "NP"  # the type of a name that no firm has: of such a one nothing leaves without its consent


class Paced(Channel):
    """A channel whose messages out leave on the ticks, 5 ms apart, of a schedule that begins when one came in.

    `due` is what has to be done before the next one leaves, once its leaf is on disk, if anything; `turn` is given back then.
    """

    def __init__(
        self, channel: Channel, now: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self.peer, self.conversation, self.run = channel.peer, channel.conversation, channel.run
        self._channel, self._now, self._sleep = channel, now, sleep
        self._began = now()
        self.is_answering = False
        self.due: Callable[[], None] | None = None
        self.turn: Turn | None = None

    def receive(self, deadline_s: float) -> bytes:
        """See `Channel.receive`; a new schedule begins with what comes."""
        self.is_answering = False
        data = self._channel.receive(deadline_s)
        self._began, self.is_answering = self._now(), True
        return data

    def send(self, data: bytes) -> None:
        """Wait for what is due and for the next tick, then see `Channel.send`."""
        due, self.due = self.due, None
        if self.turn is not None:
            self.turn.give_back()
        if due is not None:
            due()
        passed = self._now() - self._began
        self._sleep((int(passed / TICK_S) + 1) * TICK_S - passed)
        self._channel.send(data)

    def finish(self) -> None:
        """See `Channel.finish`."""
        self._channel.finish()

    def is_gone(self) -> bool:
        """See `Channel.is_gone`."""
        return self._channel.is_gone()

    def close(self, reason: str = "") -> None:
        """See `Channel.close`."""
        self._channel.close(reason)


@dataclass(frozen=True)
class _Talk:
    """One conversation at the desk."""

    bank: str
    conversation: str
    road: Paced
    trace: HoldingTrace
    turn: Turn


class ScoreDesk(QueryDesk):
    """Answers the requests of one scoring agreement, each conversation in its thread."""

    service = "scoring"

    def __init__(self, node: Node, contract: RunContract, table: FirmTable, row_of: Mapping[str, int]) -> None:
        super().__init__(node, contract, table, row_of)
        scoring.hand_over_soon()
        self._scores = ScoreQuota(node.store, node.clock, node.config.quota)
        self._models: dict[str, ServedModel | ServedTrees] = {}
        self._roads: dict[Channel, Paced] = {}
        self._loading = threading.Lock()

    def serve(self, channel: Channel) -> None:
        """Answer the requests of a conversation until it ends or nothing is asked for as long as a step may take.

        Raises PeerError for what a bank may not ask.
        """
        self._roads[channel] = road = Paced(channel)
        road.turn = turn = Turn(self.node.store, channel.peer, self.contract.step_deadline_s)
        talk = _Talk(channel.peer, channel.conversation, road, self.node.trace.holding(), turn)
        try:
            self._enter(channel)
            number = self._admit(talk.bank, talk.conversation)
            session = self.node.session(self.contract, road, talk.conversation)
            session.trace = talk.trace
            requests = (scoring.request_id(self.contract, talk.bank, number, place) for place in count())
            role = scoring.platform_role(self.contract, requests, partial(self._answer_request, talk))
            converse(role, session, self.contract.step_deadline_s)
        except (PeerGone, DeadlinePassed):
            self.node.say(f"{talk.bank} asks for no more scores in {talk.conversation}")
        finally:
            self._end(talk, channel)

    def _end(self, talk: _Talk, channel: Channel) -> None:
        """End a conversation, each part of it though another fails: the disk may not take the leaf that is held back."""
        with ExitStack() as ending:
            ending.callback(self._roads.pop, channel, None)
            ending.callback(self._leave, channel)
            ending.callback(channel.finish)
            ending.callback(talk.trace.settle)
            ending.callback(talk.turn.give_back)

    def close(self) -> None:
        """Serve nobody any more: what is being answered is, and a conversation in which nothing is asked is cut at once."""
        with self._idle:
            self._closed = True
            silent = [one for one in self._open if not self._roads[one].is_answering]
        for channel in silent:
            channel.close("the agreement has ended")
        super().close()

    # ---- one request

    def _answer_request(self, talk: _Talk, asked: Asked) -> Answer:
        self._check_open()
        if any(firm != normalise_identifier(firm) for firm in asked.firms):
            raise PeerError("a request for scores names a firm in another spelling than the normal one", "Q02")
        talk.turn.take()
        check_institution(self.node, self.contract, talk.bank, None, "scoring.ask")
        self._scores.charge(talk.bank, len(asked.firms))
        models = [self._model_for(talk.bank, run) for run in asked.models]
        if len({model.mode for model in models}) > 1:
            raise PeerError(
                "a request for scores asks for scorecards and for trees; each kind has a request of its own", "Q02"
            )
        known = [firm in self._row_of for firm in asked.firms]
        standing = self._standing(talk.bank, asked, known)
        released = self._let_go(talk, asked, models, known.count(False), standing.names)
        fields = fields_of(models)
        talk.road.due = self._raise_mark
        columns = _filled(asked.firms, fields, released, models)
        records, talk.trace.standing = _records(asked.firms, set(released.firms), columns, models, standing)
        return Answer(records, released.provenance)

    def _standing(self, bank: str, asked: Asked, known: Sequence[bool]) -> Standing:
        """Return what the bank was given of these firms in this quarter; one that is unknown has a name that no firm has."""
        pairs = zip(asked.firms, known, strict=True)
        names = [firm if is_known else f"\x00{place}" for place, (firm, is_known) in enumerate(pairs)]
        node, now = self.node, self.node.clock.now()
        most = node.config.quota.models_a_firm
        return Standing.of(node.store, node.boundary.subject_key, bank, now, asked.models, names, most)

    def _model_for(self, bank: str, run: str) -> ToBank:
        """Return what of a model is the bank's: of trees the cuts of its own ensemble. Raises PeerError (Q06)."""
        try:
            return self._model(run).for_bank(bank)
        except InputFault as fault:
            raise PeerError(f"a model of a scoring agreement is not served: {fault}", "Q06") from None

    def _model(self, run: str) -> ServedModel | ServedTrees:
        with self._loading:
            try:
                if run not in self._models:
                    self._models[run] = served_model(self.node, run)
            except InputFault as fault:
                raise PeerError(f"a model of a scoring agreement is not served: {fault}", "Q06") from None
            model = self._models[run]
            if not is_live(self.node, model.contract):
                del self._models[run]
                raise PeerError(f"the model of run {run} was dropped, or its time is over", "Q06")
            return model

    def _let_go(
        self, talk: _Talk, asked: Asked, models: Sequence[ToBank], unknown: int, names: Sequence[str]
    ) -> Released:
        """Return what the gate lets go of these firms' rows, all fields of it. Raises PeerError by the gate's rule."""
        fields, mode = fields_of(models), models[0].mode
        leaf = {
            "kind": "score", "run": self.contract.run, "peer": talk.bank, "score": asked.request,
            "purpose": asked.purpose, "models": list(asked.models), "firms": len(names), "unknown": unknown,
            "conversation": talk.conversation,
        }  # fmt: skip
        try:
            before = talk.trace.preface(leaf, asked.operator)
            released = self._release_rows(talk.bank, asked, fields, names, before, mode)
        except GateRefused as refusal:
            raise PeerError(f"nothing may be scored for {talk.bank} (rule {refusal.rule})", refusal.rule) from None
        talk.trace.written()
        if lacking := sorted(set(fields) - released.columns.keys()):
            raise PeerError(f"field {lacking[0]} of a model may no longer be used for scores", "R01")
        return released

    def _release_rows(
        self, bank: str, asked: Asked, fields: Sequence[str], names: Sequence[str], before: Preface, mode: str
    ) -> Released:
        request = ReleaseRequest(self.node.party, bank, asked.purpose, mode, "scoring.answer", tuple(fields))
        catalogue = self.node.boundary.catalogue_of(self.contract.record)
        since = {entry.expiry_from for entry in expiring_fields(catalogue, fields).values()}
        columns, dates = (
            {name: [self._value(firm, name) for firm in asked.firms] for name in wanted}
            for wanted in (fields, sorted(since & self.table.columns.keys()))
        )
        pairs = zip(asked.firms, names, strict=True)
        types = [subject_type_of(firm) if firm == name else STRANGERS for firm, name in pairs]
        return self.node.boundary.release(
            dict(self.contract.record), request, names, columns, subject_types=types, dates=dates, use=asked.request,
            query=asked.request, empty=True, before=before,
        )  # fmt: skip

    def _raise_mark(self) -> None:
        """Raise the mark beside the store: of every request, as the use of a limited consent asks for."""
        mark_at(self.node.ledger.raise_mark_soon, self.node.ledger.on_disk)


def _filled(
    firms: Sequence[str], fields: Sequence[str], released: Released, models: Sequence[ToBank]
) -> dict[str, list[Any]]:
    """Return each field's values of every firm: as released, or a dummy's."""
    place = {firm: row for row, firm in enumerate(released.firms)}
    nobody = {name: next(model.dummy(name) for model in models if name in model.fields) for name in fields}
    rows = [place.get(firm, -1) for firm in firms]
    return {name: [*map(([*released.columns[name], nobody[name]]).__getitem__, rows)] for name in fields}


def _records(
    firms: Sequence[str], live: set[str], columns: Mapping[str, Sequence[Any]], models: Sequence[ToBank],
    standing: Standing,
) -> tuple[bytes, tuple[StandingRow, ...]]:  # fmt: skip
    """Return the records of all firms and models, and what is to be kept of them.

    Each is made, and nothing stands in the place of one not let go, or that no part is left of.
    """
    made = [[scoring.encode_part(part) for part in model.parts(columns)] for model in models]
    rows = enumerate(zip(firms, zip(*made, strict=True), strict=True))
    settled = [one for place, (firm, records) in rows for one in standing.settled(place, firm in live, records)]
    return b"".join(given or NOTHING for given, _ in settled), tuple(row for _, row in settled)


# ---- the terms of an agreement


def completed(node: Node, config: RunConfig) -> RunConfig:
    """Return a scoring agreement's terms with the fields of its models, where it names none; any other terms unchanged.

    Raises InputFault for a model that cannot be served or whose training a bank had no part in, and for a field that no
    score may be made of for this purpose.
    """
    if config.model != scoring.MODEL:
        return config
    if not config.models:
        raise InputFault(f"agreement {config.run} names no models; list the runs whose models are served in models")
    models = [served_model(node, run) for run in config.models]
    for model in models:
        if strangers := sorted(set(config.banks) - set(model.contract.banks)):
            raise InputFault(f"{strangers[0]} had no part in run {model.run} and may not be served its model")
    fields = fields_of([model.for_bank(bank) for model in models for bank in config.banks])
    if config.features and set(config.features) != set(fields):
        raise InputFault(f"the features of agreement {config.run} are those of its models: {', '.join(fields)}")
    return config.model_copy(update={"features": list(fields)})


def check_fields(node: Node, contract: RunContract) -> None:
    """Raise InputFault where the gate would let a field of a scoring agreement go in no score at all."""
    for run, bank in product(contract.models, contract.banks):
        model = served_model(node, run).for_bank(bank)
        request = ReleaseRequest(node.party, bank, contract.purpose, model.mode, "scoring.answer", model.fields)
        decided = decision.decide_release(contract.record, node.catalogue, Registry(), request, contract.created_at)
        if decided.refused:
            name, rule = decided.refused[0]
            raise InputFault(
                f"field {name} may not be used for scores of purpose {contract.purpose} (rule {rule}); serve a model "
                "without it"
            )
