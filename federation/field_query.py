"""A field query: a bank asks the platform for named fields of named firms under a standing agreement.

Parties: bank B, platform P; one request is one conversation `query/<B>/<n>`, n rising at B. Nothing is hidden from the
two: there is no cryptography here beyond the signed envelopes. What may cross is the gate's word, field by field.

    1. B -> P  QueryRequest: a request id that run, bank and n give; purpose, mode and the person who asks; up to 1,000
               firms by their codes, in PLAIN form, by B's own release of its identifier.
    2. P       refuses the whole request if it is not as agreed (R01, Q02), the quota is used up (Q01) or the number is
               not new (Q03), and what is left of it once the agreement has ended (S01). Else it decides each field of
               each firm by itself: what one field lacks takes nothing from the others (R05). What may cross is
               released, a use counted for each firm and request.
    3. P -> B  QueryReply, in chunks of whole firms: values as held (PLAIN) or transformed (DESENSITISED), each with the
               right behind it and the hash of the release; or the rule that refuses.

Learned: B, the released values and which rule refuses the others; P, which firms B asks about, when and what for. A
firm that P does not know goes the same way as one that it knows: with no authorisation the two have the same answer, and
with one the values are `missing`. The contract's purpose is the only one that may be asked for.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as entry
from typing import Any

from google.protobuf.message import Message

from lianxin.federation import wire
from lianxin.federation.contract import RunContract
from lianxin.federation.errors import PeerError
from lianxin.federation.model import Provenance
from lianxin.federation.session import Receive, Role, Send, rule_id

MODEL = "field_query"
PURPOSES = ("P1", "P2", "P3", "P5", "P6", "P8")
MODES = {"plaintext": "PLAINTEXT", "desensitised": "DESENSITISED"}
FIRMS_A_REQUEST, FIELDS_A_REQUEST, IDENTIFIER_CHARACTERS = 1_000, 256, 64
FIRMS_A_CHUNK = 50
OPERATOR = re.compile(r"[a-z0-9][a-z0-9.-]{1,62}[a-z0-9]")
FIELD = re.compile(r"[A-Za-z0-9_.-]{1,64}", re.ASCII)
_GRADE = re.compile(r"[0-9a-f]{64}", re.ASCII)
_RIGHT = re.compile(r"[A-Za-z0-9-]{1,64}", re.ASCII)
_RELEASE_BYTES = 32
FORMS = ("PLAIN", "DESENSITISED", "REFUSED")


@dataclass(frozen=True)
class Question:
    """What is asked: `fields` (catalogue ids) of each of `firms`, in `mode`, by the person `operator`."""

    request: str
    purpose: str
    mode: str
    operator: str
    fields: tuple[str, ...]
    firms: tuple[str, ...] = entry(repr=False)


@dataclass(frozen=True)
class FieldAnswer:
    """One field of one firm: a refusal has a `rule`; else `value` (None: not on file), `right` and `release` (hex)."""

    field: str
    form: str
    value: str | None = entry(default=None, repr=False)
    right: str = ""
    disputed: bool = False
    release: str = ""
    rule: str = ""


@dataclass(frozen=True)
class FirmAnswer:
    """All fields of one firm, in the request's order, and the releases behind them."""

    fields: tuple[FieldAnswer, ...]
    rights: tuple[Provenance, ...] = ()


Desk = Callable[[Question], Iterator[FirmAnswer]]


def request_id(contract: RunContract, bank: str, number: int) -> str:
    """Return the id of a bank's `number`-th request under a contract: unique at the platform, whoever asks."""
    return f"{contract.run}.{bank}.{number}"


def conversation_of(bank: str, number: int) -> str:
    """Return the conversation in which a bank's `number`-th request is put."""
    return f"query/{bank}/{number}"


def agreement_fault(contract: RunContract) -> str:
    """Return what a standing agreement lacks, in one sentence without its end, "" when it is whole."""
    banks = contract.banks
    faults = {
        f"purpose must be one of {', '.join(PURPOSES)}": contract.purpose not in PURPOSES,
        "features must name the platform's fields that may be asked": not contract.fields_of(
            contract.platform, "feature"
        ),
        "each bank needs exactly one identifier": any(len(contract.fields_of(b, "identifier")) != 1 for b in banks),
        "a bank brings neither features nor a label": any(
            contract.fields_of(bank, use) for bank in banks for use in ("feature", "label")
        ),
    }
    return next((what for what, holds in faults.items() if holds), "")


# ---- the bank


def bank_role(question: Question, right: Provenance) -> Role[list[tuple[FieldAnswer, ...]]]:
    """Ask and return the answers, firm by firm in the question's order. Raises PeerError (Q04) for what does not fit."""
    yield Send(encode_question(question), "query.ask", (right,))
    found: dict[tuple[int, str], FieldAnswer] = {}
    chunk = 0
    while len(found) < len(question.firms) * len(question.fields):
        reply: Any = yield Receive("query.answer", (wire.QueryReply,))
        _require_answer(reply.chunk == chunk, "chunks out of order")
        _take(reply, question, found)
        chunk += 1
    return [
        tuple(found[place, name] for name in question.fields) for place in range(len(question.firms))
    ]  # fmt: skip


def encode_question(question: Question) -> Message:
    """Return the message that asks it."""
    return wire.QueryRequest(
        request=question.request, purpose=question.purpose, mode=question.mode, operator=question.operator,
        fields=question.fields, firms=question.firms,
    )  # fmt: skip


def _take(reply: Any, question: Question, found: dict[tuple[int, str], FieldAnswer]) -> None:
    """Add a chunk's answers to `found`: each asked for, each once, in the form of the mode, and at least one."""
    before = len(found)
    by_mode = {"PLAINTEXT": reply.plain, "DESENSITISED": reply.desensitised}
    foreign = [values for mode, values in by_mode.items() if mode != question.mode and values]
    _require_answer(not foreign, "values in another form than asked for")
    form = FORMS[0] if question.mode == "PLAINTEXT" else FORMS[1]
    answers = [(one, _decoded(one, form)) for one in by_mode[question.mode]]
    _check_releases(answers)
    answers += [(one, FieldAnswer(one.field, "REFUSED", rule=rule_id(one.rule))) for one in reply.refused]
    for one, answer in answers:
        place = (one.firm, one.field)
        is_asked = one.firm < len(question.firms) and one.field in question.fields
        _require_answer(is_asked and place not in found, "a field that was not asked for, or twice")
        found[place] = answer
    _require_answer(len(found) > before, "a chunk without answers")


def _decoded(one: Any, form: str) -> FieldAnswer:
    _require_answer(_RIGHT.fullmatch(one.right) is not None, "a value without a right")
    _require_answer(len(one.release) == _RELEASE_BYTES, "a value without its release")
    _require_answer(not (one.missing and one.value), "a value that is said to be missing")
    value = None if one.missing else one.value
    return FieldAnswer(one.field, form, value, one.right, one.disputed, one.release.hex())


def _check_releases(answers: Sequence[tuple[Any, FieldAnswer]]) -> None:
    """A release of a firm's values rests on one of its consents; what needs none goes with it."""
    consents: dict[tuple[str, int], set[str]] = defaultdict(set)
    for one, answer in answers:
        if answer.right != "OPEN" and not _GRADE.fullmatch(answer.right):
            consents[answer.release, one.firm].add(answer.right)
    _require_answer(all(len(found) == 1 for found in consents.values()), "one release by two consents")


def _require_answer(holds: bool, what: str) -> None:
    if not holds:
        raise PeerError(f"the answer does not fit the query: {what}", "Q04")


# ---- the platform


def platform_role(contract: RunContract, request: str, desk: Desk) -> Role[int]:
    """Answer the one request `request` of a conversation and return how many firms it named.

    `desk` is asked once, before the first answer is made; it may refuse by a PeerError.
    """
    message = yield Receive("query.ask", (wire.QueryRequest,))
    question = read_question(message, contract, request)
    for chunk, (reply, rights) in enumerate(_chunks(desk(question), question, contract.chunk_bytes)):
        reply.chunk = chunk
        yield Send(reply, "query.answer", rights)
    return len(question.firms)


def read_question(message: Any, contract: RunContract, request: str) -> Question:
    """Return the question in a message. Raises PeerError: R01 for another purpose, Q02 for anything else not agreed."""
    fields, firms = tuple(message.fields), tuple(message.firms)
    if message.purpose != contract.purpose:
        raise PeerError("a query is for another purpose than the standing agreement's", "R01")
    faults: Mapping[str, bool] = {
        "another request id than its conversation's": message.request != request,
        "a mode that is neither plaintext nor desensitised": message.mode not in MODES.values(),
        "nobody who asks": OPERATOR.fullmatch(message.operator) is None,
        "no fields, too many or one twice": not _fits(fields, FIELDS_A_REQUEST),
        "no firms, too many or one twice": not _fits(firms, FIRMS_A_REQUEST),
        "a firm whose name is too long": any(not 0 < len(name) <= IDENTIFIER_CHARACTERS for name in firms),
        "a field that no catalogue could list": not all(FIELD.fullmatch(name) for name in fields),
    }
    for what, holds in faults.items():
        if holds:
            raise PeerError(f"a query has {what}", "Q02")
    return Question(request, message.purpose, message.mode, message.operator, fields, firms)


def _fits(names: Sequence[str], most: int) -> bool:
    return 0 < len(names) <= most and len(set(names)) == len(names)


def _chunks(
    answers: Iterator[FirmAnswer], question: Question, chunk_bytes: int
) -> Iterator[tuple[Any, tuple[Provenance, ...]]]:
    """Yield replies of whole firms, cut once they reach `chunk_bytes` or 50 firms, with the rights behind each."""
    reply, rights, firms = wire.QueryReply(), list[Provenance](), 0
    for place, answer in enumerate(answers):
        for one in answer.fields:
            _add(reply, place, one)
        rights += answer.rights
        firms += 1
        is_last = place == len(question.firms) - 1
        if is_last or firms == FIRMS_A_CHUNK or reply.ByteSize() >= chunk_bytes:
            yield reply, tuple(rights)
            reply, rights, firms = wire.QueryReply(), [], 0


def _add(reply: Any, place: int, one: FieldAnswer) -> None:
    if one.form == "REFUSED":
        reply.refused.add(firm=place, field=one.field, rule=one.rule)
        return
    values = reply.plain if one.form == "PLAIN" else reply.desensitised
    values.add(
        firm=place, field=one.field, value=one.value or "", missing=one.value is None, disputed=one.disputed,
        right=one.right, release=bytes.fromhex(one.release),
    )  # fmt: skip
