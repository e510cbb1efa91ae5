"""The road of one side's replay: what the others said comes from the recording, what this side says is held against it.

A `Recording` is one party's envelopes of a run in the order of its ledger, with their bytes as somebody recorded them. Each
header and signature must be the ones in the party's evidence, so a recording that was changed is not believed. A
`RecordedChannel` gives the peer's messages in order and takes this side's: the first that is another than the recorded one
ends the replay. The auditor has no node key, and needs none: a recorded signature is handed out for the very bytes that it
signs, and for nothing else.
"""

import base64
import hashlib
import re
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from lianxin.crypto import canonical
from lianxin.crypto.errors import CryptoError, SignatureRejected
from lianxin.crypto.signing import SigningKey, verify
from lianxin.federation import wire
from lianxin.federation.channel import Channel, Link
from lianxin.federation.errors import EvidenceRejected, GuardRefused, InputFault, LianxinError, PeerGone
from lianxin.parties.auditor_evidence import HEADER, Evidence, fits

AGREEMENT = "contracts"
DIFFERS = "differs"
NO_SIGNATURE = bytes(64)
_SIGNATURE = re.compile(rb'"signature[\\]*":[\\]*"([0-9a-f]{128})')  # records may stand inside records, as text
_BASE64 = re.compile(rb"[A-Za-z0-9+/]{256,}={0,2}")
_NAME = re.compile(r"[a-z0-9-]{1,64}(/[a-z0-9-]{1,64}){0,5}")
_NAMED = ("conversation", "sender", "seq", "step", "round", "message_type")
_MOST_BYTES = 8 * 2**20


@dataclass(frozen=True)
class Difference:
    """The first message of a side that is not the recorded one: where it is, and which entries and fields differ, by name."""

    party: str
    conversation: str
    sender: str
    seq: int
    step: str
    round: int
    message_type: str
    header: tuple[str, ...] = ()
    fields: tuple[str, ...] = ()
    what: str = DIFFERS

    @property
    def place(self) -> str:
        """The message as conversation/sender/seq."""
        return f"{self.conversation}/{self.sender}/{self.seq}"

    def sentence(self) -> str:
        """Return it as one sentence."""
        where = f"{self.message_type} of {self.sender} in step {self.step}, round {self.round}"
        names = f": {in_words(self.header, self.fields)}" if self.what == DIFFERS else ""
        return f"message {self.place} ({where}) {self.what}{names}"

    def to_record(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return {**vars(self), "header": list(self.header), "fields": list(self.fields), "place": self.place}


class DoesNotFollow(EvidenceRejected):
    """A message of a party does not follow from what it committed to; `difference` says which."""

    def __init__(self, difference: Difference) -> None:
        super().__init__(
            f"{difference.sentence()}; it does not follow from what {difference.party} committed to, so ask {difference.party} "
            "what it computed there"
        )
        self.difference = difference


@dataclass(frozen=True)
class Message:
    """One recorded envelope: its place in the party's ledger order, its header, its signature, and the file with its bytes."""

    place: int
    header: Mapping[str, Any]
    encoded: bytes
    signature: bytes
    path: Path

    def read(self) -> bytes:
        """Return the envelope's bytes. Raises InputFault where nobody recorded them, EvidenceRejected where they are others."""
        try:
            if not self.path.is_file():
                raise OSError("no regular file")
            with self.path.open("rb") as file:
                data = file.read(_MOST_BYTES)
        except OSError:
            raise InputFault(
                f"message {self.name} is not in the recording at {self.path}; give the folder of --record"
            ) from None
        try:
            opened = wire.unseal(data)
        except GuardRefused:
            opened = None
        if opened is None or opened.encoded != self.encoded or opened.signature != self.signature:
            raise EvidenceRejected(
                f"message {self.name} of the recording is not the one in the evidence; ask who recorded it"
            )
        return data

    @property
    def name(self) -> str:
        """The message as conversation/sender/seq."""
        return place_of(self.header)


class Recording:
    """What one party said and heard in a run, apart from the conversation in which the contract was agreed and closed."""

    def __init__(self, own: Evidence, run: str, folder: Path) -> None:
        self.party, self.run = own.party, run
        self.said: dict[str, deque[Message]] = defaultdict(deque)
        self.heard: dict[str, deque[Message]] = defaultdict(deque)
        self.followed = 0
        self.fault: LianxinError | None = None  # the first, whatever it led to afterwards
        self._signatures: dict[bytes, bytes] = {}
        for message in _messages(own, run, folder):
            name, is_own = message.header["conversation"], message.header["sender"] == own.party
            (self.said if is_own else self.heard)[name].append(message)
            if is_own:
                self._signatures[hashlib.sha256(message.encoded).digest()] = message.signature
        self.embedded = _embedded(self.said)
        self.has_failed = any(leaf["event"] in ("failed", "refused") for _, leaf in own.of_kind("contract", run))

    def signature_of(self, header: bytes) -> bytes:
        """Return the recorded signature of an envelope's header, zeros for one that was not recorded."""
        return self._signatures.get(hashlib.sha256(header).digest(), NO_SIGNATURE)

    def epoch(self, conversation: str) -> int:
        """Return the registry's epoch that this side's next message of a conversation names."""
        due = self.said.get(conversation)
        return int(due[0].header["epoch"]) if due else 0

    def began(self, conversation: str) -> int:
        """Return the place of the first message that is still to come in a conversation."""
        return min(
            (due[0].place for due in (self.said.get(conversation), self.heard.get(conversation)) if due), default=-1
        )

    def take(self, data: bytes) -> None:
        """Hold what this side says against the recording.

        Raises DoesNotFollow, PeerGone where the recording of a run that broke ends.
        """
        if self.fault is not None:
            raise self.fault
        opened = wire.unseal(data)
        due = self.said.get(opened.header["conversation"])
        if not due:
            if self.has_failed:
                raise PeerGone("the recorded run ended here")
            self._refuse(
                difference_of(self.party, opened.header, "is not in the recording: this side says more than was said")
            )
        message = due[0]
        if message.encoded != opened.encoded:
            self._refuse(_compared(self.party, message.header, self.bytes_of(message), opened))
        due.popleft()
        self.followed += 1

    def bytes_of(self, message: Message) -> bytes:
        """Return a message's bytes; what is wrong with the recording accuses nobody, and ends the replay. Raises as `read`."""
        try:
            return message.read()
        except LianxinError as fault:
            self.fault = self.fault or fault
            raise

    def check_all_said(self) -> None:
        """Raise DoesNotFollow for the first recorded message that this side had no cause to say."""
        left = sorted((due[0] for due in self.said.values() if due), key=lambda message: message.place)
        if left:
            self._refuse(difference_of(self.party, left[0].header, "was said, and its side says nothing there"))

    def _refuse(self, difference: Difference) -> NoReturn:
        self.fault = self.fault or DoesNotFollow(difference)
        raise self.fault


class RecordedChannel(Channel):
    """One conversation over a recording; `before` is called with a message's place before it is handed over."""

    def __init__(
        self, recording: Recording, conversation: str, peer: str, before: Callable[[int], None] | None = None
    ) -> None:
        self.peer, self.conversation, self.run = peer, conversation, recording.run
        self._recording, self._before = recording, before

    def send(self, data: bytes) -> None:
        """See `Channel.send`; the bytes are compared and go nowhere."""
        self._recording.take(data)

    def receive(self, deadline_s: float) -> bytes:
        """See `Channel.receive`; nothing is waited for."""
        due = self._recording.heard.get(self.conversation)
        if not due:
            raise PeerGone(f"the recording of {self.conversation} ends here")
        if self._before is not None:
            self._before(due[0].place)
        return self._recording.bytes_of(due.popleft())

    def finish(self) -> None:
        """See `Channel.finish`."""

    def close(self, reason: str = "") -> None:
        """See `Channel.close`."""


class RecordedLink(Link):
    """A bank's way to its platform, over a recording."""

    def __init__(self, recording: Recording, platform: str) -> None:
        self._recording, self._platform = recording, platform

    def open(self, conversation: str, run: str) -> Channel:
        """See `Link.open`."""
        return RecordedChannel(self._recording, conversation, self._platform)

    def close(self) -> None:
        """See `Link.close`."""


class RecordedKey(SigningKey):
    """A party's node key as an auditor has it: its public half and the signatures that were recorded."""

    def __init__(self, public_hex: str, recording: Recording) -> None:
        self.public_hex, self._recording = public_hex, recording

    def sign(self, domain: str, data: bytes) -> bytes:
        """Return the recorded signature on these very bytes, zeros where this party signed no such thing."""
        if domain == wire.ENVELOPE_DOMAIN:
            return self._recording.signature_of(data)
        return next((one for one in self._recording.embedded if self._holds(domain, data, one)), NO_SIGNATURE)

    def _holds(self, domain: str, data: bytes, signature: bytes) -> bool:
        try:
            verify(self.public_hex, domain, data, signature)
        except SignatureRejected:
            return False
        return True


def place_of(header: Mapping[str, Any]) -> str:
    """Return a message as conversation/sender/seq."""
    return f"{header['conversation']}/{header['sender']}/{header['seq']}"


def difference_of(party: str, header: Mapping[str, Any], what: str) -> Difference:
    """Return the difference that a message is there at all."""
    return Difference(party, **{name: header[name] for name in _NAMED}, what=what)


def differing(first: wire.Opened, second: wire.Opened) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of the header entries and of the message fields in which two envelopes differ."""
    entries = tuple(name for name in first.header if first.header[name] != second.header.get(name))
    fields = first.message.DESCRIPTOR.fields
    return entries, tuple(
        one.name for one in fields if getattr(first.message, one.name) != getattr(second.message, one.name, None)
    )


def in_words(entries: Sequence[str], fields: Sequence[str]) -> str:
    """Return the names of what differs; where no field does, the header alone."""
    header = f"in its header {', '.join(entries)}" if entries else ""
    message = f"in its message {', '.join(fields)}" if fields else ""
    found = " and ".join(one for one in (message, header) if one)
    return "what differs is " + (found or "neither its header nor its message, but its signature or encoding")


def _compared(party: str, recorded: Mapping[str, Any], data: bytes, said: wire.Opened) -> Difference:
    header, fields = differing(wire.unseal(data), said)
    return Difference(party, **{name: recorded[name] for name in _NAMED}, header=header, fields=fields)


def _messages(own: Evidence, run: str, folder: Path) -> Iterable[Message]:
    for place, record in enumerate(own.records["envelopes"]):
        try:
            header, signature = record["header"], bytes.fromhex(record["signature"])
            if header["run"] != run or header["conversation"].split("/")[0] == AGREEMENT:
                continue
            named = f"{header['sender']}-{header['seq']:06d}.envelope"
            if not fits(header, HEADER) or not all(
                _NAME.fullmatch(name) for name in (run, header["conversation"], header["sender"])
            ):
                raise ValueError("a name that is none")
            path = folder / run / header["conversation"].replace("/", "_") / named
            yield Message(place, header, canonical.encode(header), signature, path)
        except (KeyError, TypeError, ValueError, AttributeError, CryptoError):
            raise EvidenceRejected(
                f"envelopes.jsonl of {own.party}, line {place + 1}, is no envelope; verify the evidence before it is replayed"
            ) from None


def _embedded(said: Mapping[str, Iterable[Message]]) -> list[bytes]:
    """Return the signatures on records inside this side's messages: of secret sums, and of refusals."""
    kinds = ("LearningMessage", "Refusal")
    messages = [one for due in said.values() for one in due if one.header["message_type"] in kinds]
    return [bytes.fromhex(found.decode()) for one in messages for found in _signatures_in(one.read())]


def _signatures_in(data: bytes) -> list[bytes]:
    """Return the signatures in a message, those in front of a sealed box, which crosses in base64, included."""
    found = _SIGNATURE.findall(data)
    for text in _BASE64.findall(data):
        with suppress(ValueError):
            found += _SIGNATURE.findall(base64.b64decode(text, validate=True))
    return found
