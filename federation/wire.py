"""The codec and the wire guard: the one place where bytes of a peer become values, and values become bytes.

The guard walks each message by reflection, on both ends. It refuses (rule ids in brackets):
- a field without a form [G01], a message type that the step does not list [G02], unknown fields [G03], of the envelope
  too, which would carry them under the same header, hash and signature;
- a form that needs a right, with no release behind it [G04]; which release, `session` compares;
- a named value whose form is not the one that the contract declares for its name [G05];
- bytes that are not the canonical encoding, or a message above the size limit [G06].
Messages are used through this module alone; the generated modules are imported nowhere else but at the gRPC edge.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from dataclasses import field as entry
from functools import lru_cache
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.unknown_fields import UnknownFieldSet

from lianxin.crypto import canonical
from lianxin.crypto.errors import CryptoError
from lianxin.crypto.signing import SigningKey
from lianxin.crypto.signing import verify as verify_signature
from lianxin.federation.errors import GuardRefused
from lianxin.federation.protobuf_parser import require_parser
from lianxin.federation.steps import STEPS
from lianxin.proto import (
    boosting_pb2,
    contract_pb2,
    crossing_pb2,
    envelope_pb2,
    learning_pb2,
    matching_pb2,
    query_pb2,
    scoring_pb2,
    vertical_pb2,
)
from lianxin.proto.boosting_pb2 import (
    Cut,
    CutBits,
    CutBitsNoted,
    NodeHistograms,
    SplitBits,
    SplitChoice,
    TreeFeatures,
    TreeGradients,
    TreeGrown,
    TreeNodes,
    TreeOpening,
)
from lianxin.proto.contract_pb2 import Approval, Proposal, Refusal, RunClosed, RunStatus, SignedContract
from lianxin.proto.learning_pb2 import LearningMessage, NamedArray, NamedNumber, NamedText
from lianxin.proto.matching_pb2 import (
    BankBlindedElements,
    BankCommitment,
    BankMatches,
    BankOpening,
    BankQueries,
    PlatformAnswers,
    PlatformEvaluatedElements,
    PlatformMatchesNoted,
    PlatformOpening,
    PlatformTags,
)
from lianxin.proto.query_pb2 import DesensitisedField, PlainField, QueryReply, QueryRequest, RefusedField
from lianxin.proto.scoring_pb2 import ScoreReply, ScoreRequest
from lianxin.proto.vertical_pb2 import (
    CrossProducts,
    EncryptedLabels,
    HistogramNoted,
    LabelHistogram,
    LiveRows,
    MaskedGradient,
    MaskedResiduals,
    MaskSet,
    MaskSums,
    MaskTotals,
    OwnColumns,
    OwnCorrelations,
    PointsNoted,
    RangeChoice,
    ResidualShares,
    RoundNoted,
    ScorePoints,
    ScoreRange,
    SelectionNoted,
    SelectionVerdict,
    TrainingKey,
    TrainingRows,
    TrainingRowsNoted,
)

__all__ = [
    "MESSAGES",
    "Approval",
    "BankBlindedElements",
    "BankCommitment",
    "BankMatches",
    "BankOpening",
    "BankQueries",
    "CrossProducts",
    "Crossing",
    "Cut",
    "CutBits",
    "CutBitsNoted",
    "DesensitisedField",
    "EncryptedLabels",
    "HistogramNoted",
    "LabelHistogram",
    "LearningMessage",
    "LiveRows",
    "MaskSet",
    "MaskSums",
    "MaskTotals",
    "MaskedGradient",
    "MaskedResiduals",
    "NamedArray",
    "NamedNumber",
    "NamedText",
    "NodeHistograms",
    "Opened",
    "OwnColumns",
    "OwnCorrelations",
    "PlainField",
    "PlatformAnswers",
    "PlatformEvaluatedElements",
    "PlatformMatchesNoted",
    "PlatformOpening",
    "PlatformTags",
    "PointsNoted",
    "Proposal",
    "QueryReply",
    "QueryRequest",
    "RangeChoice",
    "Refusal",
    "RefusedField",
    "ReleasedValue",
    "ResidualShares",
    "RoundNoted",
    "RunClosed",
    "RunStatus",
    "ScorePoints",
    "ScoreRange",
    "ScoreReply",
    "ScoreRequest",
    "SelectionNoted",
    "SelectionVerdict",
    "SignedContract",
    "SplitBits",
    "SplitChoice",
    "TrainingKey",
    "TrainingRows",
    "TrainingRowsNoted",
    "TreeFeatures",
    "TreeGradients",
    "TreeGrown",
    "TreeNodes",
    "TreeOpening",
    "form_number",
    "form_of",
    "guard",
    "parts_of",
    "released_values",
    "seal",
    "unseal",
    "verify_envelope",
]

MESSAGE_LIMIT_BYTES = 1024 * 1024 + 64 * 1024
FREE_FORMS = frozenset({"CONTROL", "PUBLIC"})
ENVELOPE_DOMAIN = "envelope"
_MODULES = (contract_pb2, matching_pb2, vertical_pb2, boosting_pb2, learning_pb2, query_pb2, scoring_pb2)
MESSAGES: Mapping[str, type[Message]] = {
    name: getattr(module, name) for module in _MODULES for name in module.DESCRIPTOR.message_types_by_name
}


@dataclass(frozen=True)
class Crossing:
    """One field that crosses: `name` as `Message.field`, `form` by name."""

    name: str
    form: str


@dataclass(frozen=True)
class Opened:
    """A decoded envelope: `header` is its record, `encoded` that record's canonical bytes, `message_hash` their SHA-256."""

    header: Mapping[str, Any]
    message: Message
    signature: bytes
    message_hash: str
    encoded: bytes = entry(repr=False)


@dataclass(frozen=True)
class ReleasedValue:
    """A value that names its release: the release's id, the catalogue's field, the place of its firm, the value's form."""

    release: str
    field: str
    firm: int
    form: str


@lru_cache(maxsize=1024)  # of the fields of all messages: their options are decoded anew at each look
def form_of(field: FieldDescriptor) -> str | None:
    """Return the name of the form that `field` declares, None if it declares none."""
    value = field.GetOptions().Extensions[crossing_pb2.form]
    return crossing_pb2.Form.Name(value) if value else None


def parts_of(message: Message) -> Iterator[Message]:
    """Yield a message and every message in it."""
    yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for inner in value if field.is_repeated else [value]:
                yield from parts_of(inner)


def released_values(message: Message) -> Iterator[ReleasedValue]:
    """Yield what a message says was let go by a release that it names: its parts with a `release` and a `field`."""
    for part in parts_of(message):
        fields: Mapping[str, FieldDescriptor] = part.DESCRIPTOR.fields_by_name
        if {"release", "field"} <= set(fields):
            said: Any = part
            form = next((form for form in map(form_of, fields.values()) if form and form not in FREE_FORMS), "")
            yield ReleasedValue(said.release.hex(), said.field, getattr(said, "firm", 0), form)


def form_number(name: str) -> int:
    """Return the wire number of the form `name`."""
    return crossing_pb2.Form.Value(name)


def guard(message: Message, step: str, declared: Mapping[str, str], with_right: bool) -> list[Crossing]:
    """Return what would cross in `message`, each populated field with its form.

    `declared` maps a named value to the form that the contract lists; `with_right` says whether a release stands behind
    the message. Raises GuardRefused with a rule id if any of it may not cross.
    """
    kind = message.DESCRIPTOR.name
    if kind not in STEPS[step].messages:
        raise GuardRefused(f"a {kind} may not cross in step {step}; the contract does not list it there", "G02")
    crossings = list(_walk(message, declared))
    rightless = [c for c in crossings if c.form not in FREE_FORMS]
    if rightless and not with_right:
        raise GuardRefused(f"{rightless[0].name} is {rightless[0].form} and no release stands behind it", "G04")
    return crossings


def _walk(message: Message, declared: Mapping[str, str]) -> Iterator[Crossing]:
    if len(UnknownFieldSet(message)):
        raise GuardRefused(f"a {message.DESCRIPTOR.name} holds fields that its definition does not have", "G03")
    for field in message.DESCRIPTOR.fields:
        if form_of(field) is None:
            raise GuardRefused(f"{message.DESCRIPTOR.name}.{field.name} carries no form; add one to its proto", "G01")
    populated = {field.name: value for field, value in message.ListFields()}
    for field in message.DESCRIPTOR.fields:
        if field.name not in populated and form_of(field) != "DECLARED":  # an empty named value still has its name
            continue
        yield Crossing(f"{message.DESCRIPTOR.name}.{field.name}", _form_here(message, field, declared))
        if field.message_type is not None:
            for inner in populated[field.name] if field.is_repeated else [populated[field.name]]:
                yield from _walk(inner, declared)


def _form_here(message: Message, field: FieldDescriptor, declared: Mapping[str, str]) -> str:
    form = form_of(field) or ""
    if form != "DECLARED":
        return form
    named: Any = message
    listed = declared.get(named.name, "DECLARED")
    if listed == "DECLARED" or form_number(listed) != named.declared_form:
        raise GuardRefused(f"a named value of {message.DESCRIPTOR.name} crosses in an undeclared form", "G05")
    return listed


def seal(header: dict[str, Any], message: Message, key: SigningKey) -> tuple[bytes, Opened]:
    """Return the envelope's bytes and what the receiver will see of it. `header` lacks the payload's entries."""
    payload = message.SerializeToString(deterministic=True)
    if len(payload) > MESSAGE_LIMIT_BYTES:
        raise GuardRefused(f"a {message.DESCRIPTOR.name} of {len(payload)} bytes is above the message limit", "G06")
    record = {**header, **_payload_entries(message.DESCRIPTOR.name, payload)}
    data = canonical.encode(record)
    signature = key.sign(ENVELOPE_DOMAIN, data)
    envelope = envelope_pb2.Envelope(payload=payload, signature=signature, message_type=record["message_type"])
    for name in ("run", "conversation", "step", "round", "seq", "sender", "recipient", "epoch", "expires_at"):
        setattr(envelope, name, record[name])
    envelope.previous = bytes.fromhex(record["previous"])
    envelope.contract = bytes.fromhex(record["contract"])
    return envelope.SerializeToString(deterministic=True), Opened(record, message, signature, _sha256(data), data)


def _payload_entries(kind: str, payload: bytes) -> dict[str, Any]:
    return {"message_type": kind, "payload_hash": _sha256(payload), "payload_bytes": len(payload)}


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def unseal(data: bytes) -> Opened:
    """Return the decoded envelope, its signature not yet checked. Raises GuardRefused on anything not canonical."""
    envelope = _parse(envelope_pb2.Envelope, data)
    kind = MESSAGES.get(envelope.message_type)
    if kind is None:
        raise GuardRefused("an envelope names a message type that this version does not know", "G02")
    message = _parse(kind, envelope.payload)
    record = {
        "type": "envelope", "version": 1, "run": envelope.run, "conversation": envelope.conversation,
        "step": envelope.step, "round": envelope.round, "seq": envelope.seq, "sender": envelope.sender,
        "recipient": envelope.recipient, "previous": envelope.previous.hex(), "contract": envelope.contract.hex(),
        "epoch": envelope.epoch, "expires_at": envelope.expires_at,
        **_payload_entries(envelope.message_type, envelope.payload),
    }  # fmt: skip
    if record["step"] not in STEPS:
        raise GuardRefused("an envelope names a step that this version does not know", "G02")
    try:
        encoded = canonical.encode(record)
    except CryptoError as error:
        raise GuardRefused("an envelope's header has no canonical form", "G06") from error
    return Opened(record, message, envelope.signature, _sha256(encoded), encoded)


def _parse(kind: type[Message], data: bytes) -> Any:
    require_parser()
    if len(data) > MESSAGE_LIMIT_BYTES + 4096:
        raise GuardRefused(f"a {kind.DESCRIPTOR.name} is above the message limit", "G06")
    message = kind()
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise GuardRefused(f"bytes that should be a {kind.DESCRIPTOR.name} are none", "G06") from error
    if message.SerializeToString(deterministic=True) != data:
        raise GuardRefused(f"a {kind.DESCRIPTOR.name} is not in its canonical encoding", "G06")
    _check_known(message)
    return message


def _check_known(message: Message) -> None:
    """Refuse fields that the definition does not have, at any depth: they are encoded again as they came."""
    for part in parts_of(message):
        if len(UnknownFieldSet(part)):
            raise GuardRefused(f"a {part.DESCRIPTOR.name} holds fields that its definition does not have", "G03")


def verify_envelope(opened: Opened, node_key: str) -> None:
    """Check the envelope's signature under the sender's pinned node key. Raises SignatureRejected."""
    verify_signature(node_key, ENVELOPE_DOMAIN, opened.encoded, opened.signature)
