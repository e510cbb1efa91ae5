"""Flower's Grid over our conversations: the same ServerApp, strategy and ClientApps whatever carries them.

Flower is the learning engine, our envelopes are the road (ADR 0002). Each Flower message becomes a `LearningMessage`
whose arrays, metrics and configuration entries are named and carry the form that the contract declares for the name,
so that the wire guard, the gate and the ledger see each of them.

`PartyGrid` sends to all banks at once and waits for each with a deadline; `LocalGrid` goes bank by bank, in order, for
simulation, replay and tests. Both encode and decode every message, which also copies it. A bank that is gone or refuses
comes back as a Flower error reply with a rule id, never with a text of the peer's.
"""

import os

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import logging
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, Metadata, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

from lianxin.federation import wire
from lianxin.federation.errors import DeadlinePassed, LianxinError, PeerError, PeerGone
from lianxin.federation.model import Provenance
from lianxin.federation.network_terms import adds_in_secret
from lianxin.federation.session import Session, rule_id

logging.getLogger("flwr").setLevel(logging.ERROR)

STEP = "learning.exchange"
ARRAYS, METRICS, CONFIG = "arrays", "metrics", "config"
SUMMAND = "summand"
LOST = 1
_DTYPES = ("uint8", "uint64", "int64", "float32", "float64")
_TTL_S = 10.0**7
_LEARNING_ERROR = "L01"
_TRIES = 5


def values_of(array: Array) -> np.ndarray[Any, Any]:
    """Return the values of an array of Flower, in its own dtype and shape. Raises ValueError for bytes that are none.

    Its header is parsed as a literal, and CPython 3.11 counts the depth of what is parsed for all threads at once: where
    another thread imports torch meanwhile, which compiles, one of the two now and then fails by SystemError.
    """
    for _ in range(_TRIES - 1):
        try:
            return array.numpy()
        except SystemError:
            continue
    return array.numpy()


def encode_message(message: Message, forms: Mapping[str, str], reply_to: str = "") -> Any:
    """Return the wire form of a Flower message. `forms` declares the form of every name."""
    metadata = message.metadata
    out = wire.LearningMessage(
        message_id=metadata.message_id, reply_to=reply_to, kind=metadata.message_type, round=int(metadata.group_id or 0)
    )
    if message.has_error():
        out.error = message.error.reason or _LEARNING_ERROR
        return out
    content = message.content
    for name, array in sorted(content.array_records.get(ARRAYS, ArrayRecord()).items()):
        values = np.ascontiguousarray(values_of(array))
        entry = out.arrays.add(name=name, declared_form=_form(forms, name), dtype=str(values.dtype))
        entry.shape.extend(values.shape)
        entry.data = values.astype(values.dtype.newbyteorder("<")).tobytes()
    for name, number in sorted(content.metric_records.get(METRICS, MetricRecord()).items()):
        out.metrics.add(name=name, declared_form=_form(forms, name), value=int(number))  # type: ignore[arg-type]
    for name, text in sorted(content.config_records.get(CONFIG, ConfigRecord()).items()):
        out.config.add(name=name, declared_form=_form(forms, name), value=str(text))
    return out


def _form(forms: Mapping[str, str], name: str) -> int:
    return wire.form_number(forms.get(name, "FORM_UNSPECIFIED"))


def decode_content(message: Any) -> RecordDict:
    """Return the Flower content of a wire message. Raises PeerError (L02) for an array that is none."""
    arrays = {entry.name: _array(entry) for entry in message.arrays}
    metrics = {entry.name: entry.value for entry in message.metrics}
    config = {entry.name: entry.value for entry in message.config}
    content: dict[str, Any] = {}
    if arrays:
        content[ARRAYS] = ArrayRecord(arrays)
    if metrics:
        content[METRICS] = MetricRecord(metrics)
    if config:
        content[CONFIG] = ConfigRecord(config)
    return RecordDict(content)


def _array(entry: Any) -> Array:
    if entry.dtype not in _DTYPES:
        raise PeerError("an array of a type that the wire does not know was sent", "L02")
    dtype = np.dtype(entry.dtype).newbyteorder("<")
    if not entry.shape or len(entry.shape) > 4 or len(entry.data) != dtype.itemsize * math.prod(entry.shape):
        raise PeerError("an array was sent whose bytes do not fit its shape", "L02")
    values = np.frombuffer(entry.data, dtype=dtype).reshape(tuple(entry.shape))
    return Array(values.astype(np.dtype(entry.dtype)))


class PartyGrid(Grid):
    """Flower's Grid over one learning conversation a bank. Node ids are 1..K in the order of party ids."""

    def __init__(
        self,
        sessions: Mapping[str, Session],
        deadline_s: float,
        watch: Callable[[str], None] | None = None,
        rights: Callable[[str], Sequence[Provenance]] | None = None,
        returned: Callable[[Sequence[str]], Mapping[str, Session]] | None = None,
    ) -> None:
        self.banks = dict(enumerate(sorted(sessions), start=1))
        self._sessions = dict(sessions)
        self._deadline_s = deadline_s
        self._watch = watch or (lambda _event: None)
        self._rights = rights or (lambda _bank: ())
        self._returned = returned
        self._waiting: dict[str, Message] = {}
        self._asked: Counter[str] = Counter()
        self.lost: dict[str, LianxinError] = {}

    def set_run(self, run: Any) -> None:
        """Kept for Flower's interface: the run is the contract's."""

    @property
    def run(self) -> Any:
        """Flower's description of a run; ours is in the contract."""
        from flwr.supercore.run import Run

        return Run.create_empty(1)

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Return an instruction whose id is a function of (kind, round, bank), so that a rerun gives the same bytes.

        What is asked a second time has a number after it: an answer to the first is none to the second (L03).
        """
        message_id = f"{message_type}/{group_id}/{self.banks[dst_node_id]}"
        again, self._asked[message_id] = self._asked[message_id], self._asked[message_id] + 1
        message_id += f"/{again}" if again else ""
        metadata = Metadata(1, message_id, 0, dst_node_id, "", group_id, 0.0, ttl or _TTL_S, message_type)
        return Message(content=content, metadata=metadata)  # type: ignore[call-overload]

    def get_node_ids(self) -> Sequence[int]:
        """Return the ids of the banks that are still there."""
        return [node for node, bank in self.banks.items() if bank not in self.lost]

    def may_return(self, banks: Iterable[str]) -> list[str]:
        """Return those of `banks` that are gone or silent and worth waiting for; one that broke a rule is not."""
        if self._returned is None:
            return []
        return sorted(bank for bank in banks if isinstance(self.lost.get(bank), PeerGone | DeadlinePassed))

    def await_return(self, banks: Iterable[str]) -> set[str]:
        """Wait for the lost `banks` that may return; return which are back, each in a conversation of its own."""
        away = self.may_return(banks)
        if self._returned is None or not away:
            return set()
        for bank in away:
            self._watch(f"waiting for {bank}")
        back = self._returned(away)
        for bank, session in back.items():
            self._sessions[bank] = session
            del self.lost[bank]
            self._watch(f"{bank} is back")
        return set(back)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Send each message to its bank; return their ids."""
        return [self._push(message) for message in messages]

    def _push(self, message: Message) -> str:
        bank = self.banks[message.metadata.dst_node_id]
        session = self._sessions[bank]
        session.round = int(message.metadata.group_id or 0)
        self._waiting[message.metadata.message_id] = message
        try:
            session.send(encode_message(message, session.contract.record["forms"]), STEP, self._rights(bank))
        except PeerError as error:
            self.lost[bank] = error
        return message.metadata.message_id

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return the reply to each message, in the order of party ids; a bank that is gone gives an error reply."""
        asked = [self._waiting.pop(message_id) for message_id in message_ids]
        return [self._pull(message) for message in sorted(asked, key=lambda m: m.metadata.dst_node_id)]

    def _pull(self, asked: Message) -> Message:
        bank = self.banks[asked.metadata.dst_node_id]
        if bank not in self.lost:
            try:
                return self._reply(asked, self._sessions[bank])
            except PeerError as error:
                self.lost[bank] = error
        rule = getattr(self.lost[bank], "rule", _LEARNING_ERROR)
        return _answer(asked, error=Error(code=LOST, reason=rule))

    def _reply(self, asked: Message, session: Session) -> Message:
        message: Any = session.receive(STEP, (wire.LearningMessage,), self._deadline_s)
        if message.reply_to != asked.metadata.message_id or message.kind != asked.metadata.message_type:
            raise PeerError(f"{session.peer} answered another instruction than the one it got", "L03")
        if message.error:
            rule = rule_id(message.error)
            raise PeerError(f"{session.peer} could not do {message.kind} (rule {rule})", rule)
        self._watch(f"{session.peer} {message.kind}")
        return _answer(asked, content=decode_content(message))

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Send all messages, then take every reply; the wait for each is bounded by the grid's deadline."""
        return self.pull_messages(self.push_messages(list(messages)))


class LocalGrid(PartyGrid):
    """The same, one bank after the other: a run in one process whose order never depends on threads."""

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Send each message and take its reply before the next is sent, in the order of party ids."""
        ordered = sorted(messages, key=lambda m: m.metadata.dst_node_id)
        return [reply for message in ordered for reply in self.pull_messages(self.push_messages([message]))]


def _answer(asked: Message, content: RecordDict | None = None, error: Error | None = None) -> Message:
    meta = asked.metadata
    metadata = Metadata(
        meta.run_id,
        "",
        meta.dst_node_id,
        meta.src_node_id,
        meta.message_id,
        meta.group_id,
        0.0,
        _TTL_S,
        meta.message_type,
    )
    if error is not None:
        return Message(error=error, metadata=metadata)  # type: ignore[call-overload]
    return Message(content=content, metadata=metadata)  # type: ignore[call-overload]


def _checked(reply: Message, session: Session) -> Message:
    """Return a reply as it is. Raises PeerError (SS01) where it holds what leaves this bank under a sum's masks alone."""
    arrays = ArrayRecord() if reply.has_error() else reply.content.array_records.get(ARRAYS, ArrayRecord())
    if SUMMAND in arrays and adds_in_secret(session.contract):
        raise PeerError("a value that is for a secret sum was about to leave in clear; nothing was sent", "SS01")
    return reply


def answer_instructions(
    app: ClientApp,
    session: Session,
    rights: Callable[[], Sequence[Provenance]],
    deadline_s: float,
    is_over: Callable[[], bool],
) -> None:
    """Run a bank's side: take each instruction, call the installed ClientApp, send its reply, until the run is over.

    A failure inside the app goes back as its rule id and ends the loop by raising here.
    """
    forms = session.contract.record["forms"]
    context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config={})
    while not is_over():
        incoming: Any = session.receive(STEP, (wire.LearningMessage,), deadline_s)
        metadata = Metadata(1, incoming.message_id, 0, 1, "", str(incoming.round), 0.0, _TTL_S, incoming.kind)
        asked = Message(content=decode_content(incoming), metadata=metadata)  # type: ignore[call-overload]
        try:
            reply = _checked(app(asked, context), session)
        except LianxinError as failure:
            error = Error(code=LOST, reason=getattr(failure, "rule", _LEARNING_ERROR))
            session.send(encode_message(_answer(asked, error=error), forms, incoming.message_id), STEP)
            raise
        session.send(encode_message(reply, forms, incoming.message_id), STEP, rights())
