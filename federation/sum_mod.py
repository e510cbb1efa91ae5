"""Secure sums through Flower's messages: a mod around a bank's ClientApp, and the leader that a strategy calls.

A message that carries the text `sum` (`SumRequest` as JSON) is part of a sum. The kinds `query.sumkeys`,
`query.sumshares`, `query.sumagree` and `query.sumopen` are answered by the mod; any other kind (`train`, `query.count`) goes
to the app, whose array `summand` never leaves the bank: it goes back masked, as `masked`.

| message | to a bank | from a bank |
|---|---|---|
| query.sumkeys | sum | sum_key |
| query.sumshares | sum, sum_keys | sum_shares |
| the kind itself | sum, sum_boxes and the strategy's own values | masked and the app's own values |
| query.sumagree | sum, sum_received | sum_set |
| query.sumopen | sum, sum_sets | sum_opening |

Nothing is unmasked twice (SS08): a label is used once, and a bank that opened a set of one (kind, round) takes part in
another attempt of it only with the same value, and opens only the same set: the same total, of which nothing new is
learnt. The same weights, or the same counts, asked for in another round are opened over the same set too. Of a network a
bank that one sum went without is in none after it (SS01). `SumMemory` keeps all that durably, so that a bank that was
killed knows it too. What has to be summed is refused without a sum before the app sees it.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from lianxin.federation import grid as road  # sets Flower's environment before Flower is imported

from flwr.app import Context, Message  # isort: skip

from lianxin.federation.apps import parts_of, record_of
from lianxin.federation.contract import RunContract
from lianxin.federation.errors import PeerError, RunStopped
from lianxin.federation.network_terms import adds_in_secret, is_summed
from lianxin.federation.secure_sum import BankSum, SumBelowThreshold, SumCheated
from lianxin.federation.secure_sum_leader import Ask, SumLeader, Summed
from lianxin.federation.secure_sum_request import (
    AGREE,
    KEYS,
    MASKED,
    OPEN,
    SHARES,
    SUM,
    SUMMAND,
    Arrays,
    Numbers,
    SumMemory,
    SumRequest,
    SumsInMemory,
    Texts,
    array_of,
    boxes_from_text,
    boxes_to_text,
    content_of,
    gone_with,
    list_of,
    question_of,
    terms_for,
    text_of,
    vector_of,
)

__all__ = ["Ask", "SumBelowThreshold", "SumCheated", "SumLeader", "SumMemory", "SumRequest", "Summed", "SumsInMemory",
           "road", "secure_sum_mod", "terms_for"]  # fmt: skip
Next = Callable[[Message, Context], Message]


@dataclass
class _Current:
    """A sum that a bank takes part in."""

    request: SumRequest
    sum: BankSum
    digest: str = ""
    content: str = ""

    @property
    def places(self) -> list[str]:
        """What is opened over one set alone: the (kind, round), and what was asked, whatever the round."""
        return [self.request.place, *([f"content/{self.content}"] if self.content else [])]


def secure_sum_mod(
    make_bank_sum: Callable[[SumRequest], BankSum], memory: SumMemory, contract: RunContract
) -> Callable[[Message, Context, Next], Message]:
    """Return the Flower mod of one bank. `make_bank_sum` gives a fresh `BankSum`, by its own contract (`terms_for`).

    The mod raises SumCheated where the platform or another bank breaks the protocol, RunStopped where the app's value
    does not fit the ring; nothing has left then.
    """
    sums: dict[str, _Current] = {}

    def mod(message: Message, context: Context, call_next: Next) -> Message:
        texts = parts_of(message.content)[2]
        kind = message.metadata.message_type
        if SUM not in texts:
            if kind in _STAGES:
                raise SumCheated("SS01", "asked for a stage of a sum without naming it")
            if not adds_in_secret(contract):
                return call_next(message, context)
            if is_summed(contract, kind):
                raise SumCheated("SS01", "asked in clear for a value that is for a sum")
            return _without_summand(call_next(message, context))
        request = SumRequest.from_text(texts[SUM])
        if kind == KEYS:
            return _answer(
                message, {}, {}, {"sum_key": _begin(request, sums, make_bank_sum, memory, contract).sum.advertise()}
            )
        current = sums.get(request.label)
        if current is None or current.request != request:
            raise SumCheated("SS08", "asked for a stage of a sum that this bank is not in")
        if kind in _STAGES:
            return _answer(message, {}, {}, _STAGES[kind](current, texts, memory))
        if kind != request.kind or int(message.metadata.group_id or 0) != request.round:
            raise SumCheated("SS01", "asked for another value than the one that the sum's label names")
        reply = call_next(message, context)
        return reply if reply.has_error() else _masked(message, reply, current, texts, memory)

    return mod


def _without_summand(reply: Message) -> Message:
    """Return a reply as it is. Raises SumCheated (SS01) where it has a value that leaves this bank in a sum alone."""
    if not reply.has_error() and SUMMAND in parts_of(reply.content)[0]:
        raise SumCheated("SS01", "asked in clear for a value that is for a sum")
    return reply


def _begin(
    request: SumRequest, sums: dict[str, _Current], make_bank_sum: Callable[[SumRequest], BankSum], memory: SumMemory,
    contract: RunContract,
) -> _Current:  # fmt: skip
    made = _Current(request, make_bank_sum(request))
    gone = gone_with(contract, request, memory.gone()) if contract.is_network else frozenset[str]()
    if not memory.reserve(request.label):
        raise SumCheated("SS08", "asked for a sum under a label that was used before")
    if gone != memory.gone():
        memory.note_gone(gone)
    sums.clear()
    sums[request.label] = made
    return made


def _shares(current: _Current, texts: Texts, _memory: SumMemory) -> Texts:
    boxes = current.sum.share(list_of(texts, "sum_keys"))
    return {"sum_shares": boxes_to_text(boxes)}


def _masked(message: Message, reply: Message, current: _Current, texts: Texts, memory: SumMemory) -> Message:
    arrays, numbers, own_texts = parts_of(reply.content)
    if SUMMAND not in arrays:
        raise RunStopped(f"the app gave no '{SUMMAND}' to add to sum {current.request.label}; nothing was sent")
    request, width = current.request, current.request.width
    try:
        values = vector_of(arrays.pop(SUMMAND), width)
    except PeerError as fault:
        raise RunStopped(f"the app's '{SUMMAND}' cannot be added: {fault}; nothing was sent") from None
    current.digest = hashlib.sha256(array_of(values, width).tobytes()).hexdigest()
    before = memory.opened(current.request.place)
    if before is not None and before[1] != current.digest:
        raise SumCheated("SS08", "asked again for a sum that was opened, where this bank's value is now another one")
    question = _asked(message, current)
    if not all(_opened(memory, place, request.banks) <= set(request.banks) for place in current.places):
        raise SumCheated("SS08", "asked again for what was opened over other banks")
    masked = current.sum.mask(boxes_from_text(text_of(texts, "sum_boxes")), values, question)
    return _answer(message, {**arrays, MASKED: array_of(masked, width)}, numbers, own_texts)


def _asked(message: Message, current: _Current) -> str:
    """Note what the value is computed from; return the digest of all that was asked."""
    kind, (arrays, numbers, texts) = current.request.kind, parts_of(message.content)
    current.content = content_of(kind, arrays, texts)
    return question_of(kind, current.request.round, arrays, numbers, texts)


def _opened(memory: SumMemory, place: str, default: tuple[str, ...]) -> set[str]:
    before = memory.opened(place)
    return set(default if before is None else before[0])


def _agree(current: _Current, texts: Texts, memory: SumMemory) -> Texts:
    received = list_of(texts, "sum_received")
    if any(_opened(memory, place, tuple(received)) != set(received) for place in current.places):
        raise SumCheated("SS08", "asked to open a second set of banks for one round, or for the same question")
    return {"sum_set": current.sum.agree(received)}


def _open(current: _Current, texts: Texts, memory: SumMemory) -> Texts:
    opening = current.sum.open(list_of(texts, "sum_sets"))
    for place in current.places:
        memory.note_opened(place, current.sum.included, current.digest)
    return {"sum_opening": opening.decode()}


_STAGES: Mapping[str, Callable[[_Current, Texts, SumMemory], Texts]] = {
    SHARES: _shares, AGREE: _agree, OPEN: _open, KEYS: lambda *_: {},
}  # fmt: skip


def _answer(message: Message, arrays: Arrays, numbers: Numbers, texts: Texts) -> Message:
    return Message(content=record_of(arrays, numbers, texts), reply_to=message)
