"""A conversation between two parties in one run: signed envelopes in order, guarded and traced at both ends.

What each envelope is checked for, in this order, before its message reaches a protocol: sender = the authenticated
peer, recipient, run, conversation, contract hash [S01]; signature by the peer's pinned node key [S02]; sequence number
and hash of the sender's previous envelope, so that nothing is replayed, reordered, dropped or spliced [S03]; not
expired [S04]; step and type as the protocol expects [S05]; the wire guard [G..]. A refusal is logged as a leaf, the peer
gets a signed record with the rule id and nothing else. Bytes that are no canonical envelope, or that hold more than its
definition, are refused before all of this [G02, G03, G06].

What is sent needs a right in a fitting mode, for this recipient and purpose; a value that names its release needs that one,
of its own field, and no more firms cross under a release than it let go [G04]. The receiver sees no rights and cannot tell.

Protocols are generators without I/O: they yield `Send` and `Receive` and are driven by `converse`, whatever the channel.
"""

import re
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from google.protobuf.message import Message

from lianxin.crypto import canonical
from lianxin.crypto.errors import CryptoError, SignatureRejected
from lianxin.crypto.failpoints import reach
from lianxin.crypto.signing import SigningKey, sign_record, verify_by
from lianxin.federation import wire
from lianxin.federation.channel import Channel
from lianxin.federation.contract import RunContract
from lianxin.federation.errors import GuardRefused, PeerError, PeerGone
from lianxin.federation.model import MODES, Clock, Provenance
from lianxin.federation.waits import Waits

GENESIS = "0" * 64
ROW_MODES = frozenset({*MODES, "SPLITS"})
FITTING_MODES = {
    "AGGREGATE": frozenset({"AGGREGATE"}), "DESENSITISED": frozenset(MODES[2:]), "PLAIN": frozenset(MODES[3:]),
}  # fmt: skip
SCORE_STEPS = frozenset({"scoring.points", "scoring.answer"})  # a score is row-level too: it crosses as DESENSITISED
# so is the side of a cut on which a row lies, and a node's set of rows
SPLIT_STEPS = frozenset({"boosting.histogram", "boosting.split", "boosting.score", "scoring.answer"})
_OWN_STEPS = {"SCORE_ONLY": SCORE_STEPS, "SPLITS": SPLIT_STEPS}
_RULE = re.compile(r"[A-Z]{1,8}[0-9]{0,2}(-[A-Z]{1,8})?")
T = TypeVar("T")


@dataclass(frozen=True)
class Send:
    """The protocol says `message` in `step`; `rights` are the releases behind it."""

    message: Message
    step: str
    rights: tuple[Provenance, ...] = ()


@dataclass(frozen=True)
class Receive:
    """The protocol waits for one of `types` in `step`, for `patience` times the step's deadline."""

    step: str
    types: tuple[type[Message], ...]
    patience: float = 1.0


Role = Generator[Send | Receive, Any, T]


class Trace(Protocol):
    """Where crossings are logged, durably, before bytes leave and before a message is acted on."""

    def crossed(
        self,
        direction: str,
        peer: str,
        opened: wire.Opened,
        crossings: Sequence[wire.Crossing],
        rights: Sequence[Provenance],
        envelope: bytes,
    ) -> None: ...

    def refused(self, run: str, peer: str, rule: str, step: str, message_hash: str | None) -> None: ...


@dataclass
class Session:
    """One party's end of one conversation. Not shared between threads.

    `follows` lets the peer lead the round number forward, as a bank does in Flower's conversation.
    """

    party: str
    contract: RunContract
    key: SigningKey = field(repr=False)
    channel: Channel
    trace: Trace
    clock: Clock
    epoch: Callable[[], int]
    conversation: str
    round: int = 0
    follows: bool = False
    _sent: int = 0
    _received: int = 0
    _last_sent: str = GENESIS
    _last_received: str = GENESIS
    last_step: str = "contract.agree"
    _named: dict[str, set[int]] = field(default_factory=dict)
    waits: Waits = field(default_factory=Waits, repr=False)

    @property
    def peer(self) -> str:
        """The party at the other end, as the channel authenticated it."""
        return self.channel.peer

    def send(self, message: Message, step: str, rights: Sequence[Provenance] = ()) -> None:
        """Guard, seal, trace and send `message`. Raises GuardRefused when it may not cross, PeerGone when the conversation
        was closed at this end, as it is when its run is stopped: nothing has left then, and no leaf says so."""
        self.last_step = step
        if self.channel.closed:
            raise PeerGone(f"conversation {self.conversation} with {self.peer} was closed at this end: nothing is sent")
        try:
            crossings = wire.guard(message, step, self.contract.record["forms"], bool(rights))
            self._check_rights(crossings, rights, step)
            self._verify_releases(message, rights, step)
        except GuardRefused as refusal:
            self.trace.refused(self.contract.run, self.peer, refusal.rule, step, None)
            raise
        data, opened = wire.seal(self._header(step), message, self.key)
        reach("envelope-send/before")
        self.trace.crossed("out", self.peer, opened, crossings, rights, data)
        reach("envelope-send/after")
        self._sent, self._last_sent = self._sent + 1, opened.message_hash
        self.channel.send(data)

    def _check_rights(self, crossings: Sequence[wire.Crossing], rights: Sequence[Provenance], step: str) -> None:
        modes = {right.mode for right in rights}
        for crossing in crossings:
            if crossing.form not in wire.FREE_FORMS and not modes & fitting_modes(crossing.form, step):
                raise GuardRefused(
                    f"{crossing.name} is {crossing.form} and no release in a fitting mode is behind it", "G04"
                )
        for right in rights:
            if right.recipient != self.peer or right.provider != self.party:
                raise GuardRefused("a release stands behind the message, but for another recipient", "G04")
            if right.purpose != self.contract.purpose:
                raise GuardRefused("a release stands behind the message, but for another purpose", "G04")
            if right.mode in ROW_MODES and self.round and right.round and right.round != self.round:
                raise GuardRefused("a release of rows stands behind the message, but for another round", "G04")

    def _verify_releases(self, message: Message, rights: Sequence[Provenance], step: str) -> None:
        """Refuse (G04) a value whose own release is not among `rights`, or is one of another field, mode or of fewer firms.

        The firms of a release are counted over the whole conversation.
        """
        behind, named = {right.release_id: right for right in rights}, dict[str, set[int]]()
        for value in wire.released_values(message):
            right = behind.get(value.release)
            if right is None or value.field not in right.fields or right.mode not in fitting_modes(value.form, step):
                raise GuardRefused(
                    "a value names a release that is not behind the message or is not of its field", "G04"
                )
            firms = named.setdefault(value.release, set(self._named.get(value.release, ())))
            firms.add(value.firm)
            if len(firms) > right.rows:
                raise GuardRefused("more firms than a release let go would cross under it", "G04")
        self._named.update(named)

    def _header(self, step: str) -> dict[str, Any]:
        return {
            "type": "envelope", "version": 1, "run": self.contract.run, "conversation": self.conversation,
            "step": step, "round": self.round, "seq": self._sent, "sender": self.party, "recipient": self.peer,
            "previous": self._last_sent, "contract": self.contract.hash, "epoch": self.epoch(),
            "expires_at": self.contract.expires_at,
        }  # fmt: skip

    def receive(self, step: str, types: tuple[type[Message], ...], deadline_s: float) -> Message:
        """Return the peer's next message. Raises PeerError with a rule id when it is not what may come now, DeadlinePassed
        or PeerGone when nothing comes."""
        try:
            with self.waits.on(self.contract.run, self.peer, step, deadline_s):
                data = self.channel.receive(deadline_s)
            return self.accept(data, step, types)
        except PeerError as fault:
            fault.party, fault.step = fault.party or self.peer, fault.step or step
            raise

    def accept(self, data: bytes, step: str, types: tuple[type[Message], ...]) -> Message:
        """Check one envelope that came and return its message; see the module's list of checks."""
        self.last_step = step
        opened: wire.Opened | None = None
        try:
            opened = wire.unseal(data)
            self._check_header(opened, step)
            self._check_refusal(opened)
            if not isinstance(opened.message, types):
                raise PeerError(self._says(f"sent a {opened.header['message_type']} out of turn"), "S05")
            crossings = wire.guard(opened.message, step, self.contract.record["forms"], with_right=True)
        except (GuardRefused, PeerError) as refusal:
            self._refuse(refusal, step, opened)
            raise (
                refusal if isinstance(refusal, PeerError) else PeerError(self._says(str(refusal)), refusal.rule)
            ) from None
        reach("envelope-ack/before")
        self.trace.crossed("in", self.peer, opened, crossings, (), data)
        reach("envelope-ack/after")
        self._received, self._last_received = self._received + 1, opened.message_hash
        return opened.message

    def _check_header(self, opened: wire.Opened, step: str) -> None:
        header = opened.header
        expected = {
            "sender": self.peer, "recipient": self.party, "run": self.contract.run,
            "conversation": self.conversation,
        }  # fmt: skip
        for name, value in expected.items():
            if header[name] != value:
                raise PeerError(self._says(f"sent an envelope whose {name} is not this conversation's"), "S01")
        if header["contract"] != self.contract.hash:
            raise PeerError(self._says("works under a contract whose hash differs from the signed one"), "S01")
        self._check_signature(opened)
        if header["seq"] != self._received or header["previous"] != self._last_received:
            raise PeerError(self._says("replayed, reordered or dropped an envelope"), "S03")
        if header["expires_at"] != self.contract.expires_at or self.clock.now() >= self.contract.expires_at:
            raise PeerError(self._says("sent an envelope after the contract's end"), "S04")
        self._check_turn(header, step)

    def _check_turn(self, header: Mapping[str, Any], step: str) -> None:
        if header["message_type"] == "Refusal":
            return
        if self.follows and header["round"] >= self.round:
            self.round = header["round"]
        if header["step"] != step or header["round"] != self.round:
            raise PeerError(self._says(f"sent step {header['step']} where {step} was due"), "S05")

    def _check_signature(self, opened: wire.Opened) -> None:
        try:
            wire.verify_envelope(opened, self.contract.node_keys[self.peer])
        except SignatureRejected as error:
            raise PeerError(self._says("sent an envelope that its node key did not sign as it is"), "S02") from error

    def _check_refusal(self, opened: wire.Opened) -> None:
        if isinstance(opened.message, wire.Refusal):
            record = open_refusal(opened.message, self.contract.node_keys[self.peer])
            rule = rule_id(record.get("rule"))
            raise PeerRefused(self._says(f"refused by rule {rule}; ask its operator for the reason"), rule)

    def _refuse(self, refusal: GuardRefused | PeerError, step: str, opened: wire.Opened | None) -> None:
        if isinstance(refusal, PeerRefused) and opened is not None:
            self.trace.crossed("in", self.peer, opened, [], (), b"")
            self._received, self._last_received = self._received + 1, opened.message_hash
            return
        self.trace.refused(self.contract.run, self.peer, refusal.rule, step, opened.message_hash if opened else None)
        self.refuse(refusal.rule, step)

    def refuse(self, rule: str, step: str) -> None:
        """Tell the peer by a signed record that `rule` ends this conversation; a peer that is gone is not waited for."""
        record = {"type": "refusal", "version": 1, "run": self.contract.run, "party": self.party, "rule": rule}
        signed = sign_record(record, [(self.party, self.key)])
        try:
            self.send(wire.Refusal(refusal=canonical.encode({"type": "signed", "version": 1, **signed})), step)
        except PeerError:
            return

    def _says(self, what: str) -> str:
        return f"{self.peer} {what} (run {self.contract.run}, {self.conversation})"


def fitting_modes(form: str, step: str) -> frozenset[str]:
    """Return the modes of a release that lets values of `form` cross in `step`; a consent to a score is for scores, the
    sides of a tree's cuts are for trees."""
    fitting = FITTING_MODES.get(form, ROW_MODES)
    if form != "DESENSITISED":
        return fitting
    return fitting | {mode for mode, steps in _OWN_STEPS.items() if step in steps}


class PeerRefused(PeerError):
    """The peer sent a signed refusal; `rule` is its reason."""


def rule_id(said: object) -> str:
    """Return the rule id that a peer gave, W00 for anything else: a peer's text is shown to nobody and logged nowhere."""
    return said if isinstance(said, str) and _RULE.fullmatch(said) else "W00"


def open_refusal(message: Any, node_key: str) -> Mapping[str, Any]:
    """Return the record of a signed refusal. Raises PeerError if it is not signed by `node_key`."""
    try:
        envelope = canonical.decode(message.refusal)
        return verify_by({"record": envelope["record"], "signatures": envelope["signatures"]}, node_key)
    except (CryptoError, KeyError) as error:
        raise PeerError("a refusal came that its sender did not sign", "S02") from error


def converse(role: Role[T], session: Session, deadline_s: float) -> T:
    """Drive `role` over `session` to its end and return its result; each wait ends after `deadline_s` seconds."""
    answer: Message | None = None
    while True:
        try:
            wish = role.send(answer)
        except StopIteration as end:
            return end.value
        except CryptoError as error:
            raise _blame(session, str(error), "N01") from error
        except PeerError as fault:
            raise _blame(session, str(fault), fault.rule) from fault
        if isinstance(wish, Send):
            session.send(wish.message, wish.step, wish.rights)
            answer = None
        else:
            answer = session.receive(wish.step, wish.types, deadline_s * wish.patience)


def _blame(session: Session, what: str, rule: str) -> PeerError:
    """A protocol found that the peer's messages do not hold: log it, tell the peer the rule, return what to raise."""
    session.trace.refused(session.contract.run, session.peer, rule, session.last_step, None)
    session.refuse(rule, session.last_step)
    return PeerError(f"{session.peer}: {what} (run {session.contract.run}, {session.conversation})", rule)
