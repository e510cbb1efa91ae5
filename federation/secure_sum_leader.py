"""The platform's lead of secure sums through Flower's messages: every group of a round through every stage at once.

The messages are listed in federation/sum_mod; what is added, opened and refused is federation/secure_sum's.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lianxin.federation.contract import RunContract
from lianxin.federation.errors import PeerError
from lianxin.federation.secure_sum import PlatformSum, SumCheated, SumTerms, Vector
from lianxin.federation.secure_sum_request import (
    AGREE,
    KEYS,
    MASKED,
    OPEN,
    SHARES,
    SUM,
    SUMMAND,
    WORD,
    Arrays,
    Numbers,
    SumRequest,
    Texts,
    boxes_from_text,
    boxes_to_text,
    question_of,
    terms_for,
    vector_of,
)
from lianxin.federation.secure_sum_terms import added, as_vector, ring_fault, zeros

Reply = tuple[Arrays, Numbers, Texts]
Ask = Callable[[str, int, Numbers, Mapping[str, Texts]], tuple[Mapping[str, Reply], Sequence[str]]]


@dataclass(frozen=True)
class Summed:
    """What became of one group: `total` in the ring, the banks in it, sorted, and the app's replies without summands."""

    total: Vector
    contributors: tuple[str, ...]
    replies: Mapping[str, Reply]


class SumLeader:
    """Leads sums through the stages, all groups of a round at once. A bank lost before its vector came is left out, one lost
    after it counts.

    `is_secret` false adds summands in clear, in simulation: the same integers and the same floor of banks.
    """

    def __init__(self, contract: RunContract, is_secret: bool | None = None) -> None:
        self._contract = contract
        self.is_secret = contract.aggregation == "secret" if is_secret is None else is_secret

    def run(
        self, ask: Ask, kind: str, round_number: int, attempt: int, groups: Sequence[Sequence[str]],
        numbers: Numbers, texts: Texts, length: int, width: int = WORD, arrays: Arrays | None = None,
    ) -> dict[int, Summed]:  # fmt: skip
        """Return the sum of each group, by its place in `groups`.

        `ask(kind, round, numbers, {bank: texts})` sends to these banks, with `arrays` where the kind is the sum's own, and
        returns (replies by bank, the lost). Raises SumBelowThreshold where a group has too few banks left, SumCheated
        naming who broke the protocol before the vectors came; who breaks it after that is left out of the opening.
        """
        led, question = {}, question_of(kind, round_number, arrays or {}, numbers, texts)
        for group, banks in enumerate(groups):
            request = SumRequest(f"{kind}/{round_number}/{attempt}/{group}", tuple(sorted(banks)), group, width, length)
            led[group] = _Led(request, terms_for(self._contract, request), question)
        runner = _Stages(ask, round_number, led)
        return runner.secretly(kind, numbers, texts) if self.is_secret else runner.in_clear(kind, numbers, texts)


class _Led:
    """One group's sum as the platform leads it."""

    def __init__(self, request: SumRequest, terms: SumTerms, question: str = "") -> None:
        self.request, self.terms, self.sum = request, terms, PlatformSum(terms, question)
        self.replies: dict[str, Reply] = {}
        self.out: dict[str, Texts] = {bank: {} for bank in request.banks}


class _Stages:
    def __init__(self, ask: Ask, round_number: int, led: Mapping[int, _Led]) -> None:
        self._ask, self._round, self._led = ask, round_number, led

    def secretly(self, kind: str, numbers: Numbers, texts: Texts) -> dict[int, Summed]:
        for one in self._stage(KEYS, {}, {}):
            keys = json.dumps(one.sum.keys(_texts_of(one, "sum_key")))
            one.out = {bank: {"sum_keys": keys} for bank in one.replies}
        for one in self._stage(SHARES, {}, {}):
            shares = {bank: _boxes_of(bank, text) for bank, text in _texts_of(one, "sum_shares").items()}
            one.out = {bank: {"sum_boxes": boxes_to_text(got)} for bank, got in one.sum.boxes(shares).items()}
        for one in self._stage(kind, numbers, texts):
            received = json.dumps(one.sum.masked(_vectors_of(one, MASKED)))
            one.out = {bank: {"sum_received": received} for bank in one.replies}
        kept = {group: dict(one.replies) for group, one in self._led.items()}
        for one in self._stage(AGREE, {}, {}):
            signed = _without_cheats(one.sum.sets, _texts_of(one, "sum_set"))
            one.out = {bank: {"sum_sets": json.dumps(signed)} for bank in one.replies}
        totals = {}
        for one in self._stage(OPEN, {}, {}):
            openings = {bank: text.encode() for bank, text in _texts_of(one, "sum_opening").items()}
            totals[one.request.group] = _without_cheats(one.sum.total, openings)
        return {
            group: Summed(totals[group], one.sum.contributors, _without(kept[group], MASKED))
            for group, one in self._led.items()
        }

    def in_clear(self, kind: str, numbers: Numbers, texts: Texts) -> dict[int, Summed]:
        summed = {}
        for one in self._stage(kind, numbers, texts, named=False):
            vectors = _vectors_of(one, SUMMAND)
            one.terms.check_enough(kind, vectors, one.request.banks)
            for bank, vector in vectors.items():
                if fault := ring_fault(one.terms, vector):
                    raise SumCheated("SS05", f"sent what is no vector of this sum: {fault}", bank)
            total = zeros(one.terms)
            for bank in sorted(vectors):
                total = added(one.terms, total, as_vector(one.terms, vectors[bank]), 1)
            summed[one.request.group] = Summed(total, tuple(sorted(vectors)), _without(one.replies, SUMMAND))
        return summed

    def _stage(self, kind: str, numbers: Numbers, texts: Texts, named: bool = True) -> Sequence[_Led]:
        """Ask every bank that is still in its group; leave each group's replies in it."""
        asked: dict[str, Texts] = {}
        for one in self._led.values():
            about = {SUM: one.request.to_text()} if named else {}
            asked |= {bank: {**texts, **own, **about} for bank, own in one.out.items()}
        replies, _lost = self._ask(kind, self._round, numbers, asked)
        for one in self._led.values():
            one.replies = {bank: replies[bank] for bank in sorted(one.out) if bank in replies}
        return list(self._led.values())


def _without_cheats(stage: Callable[[dict[str, Any]], Any], replies: Mapping[str, Any]) -> Any:
    """Return what a stage gives of the replies without those of banks that it names: their vectors stay in the sum."""
    left = dict(replies)
    while True:
        try:
            return stage(left)
        except SumCheated as fault:
            if left.pop(fault.party, None) is None:
                raise


def _texts_of(one: _Led, name: str) -> dict[str, str]:
    return {bank: _own_text(bank, texts, name) for bank, (_, _, texts) in one.replies.items()}


def _own_text(bank: str, texts: Texts, name: str) -> str:
    if name not in texts:
        raise SumCheated("SS01", f"answered a stage of a sum without its '{name}'", bank)
    return texts[name]


def _boxes_of(bank: str, text: str) -> dict[str, bytes]:
    try:
        return boxes_from_text(text)
    except PeerError as fault:
        raise SumCheated(fault.rule, "sent boxes in a form that is none", bank) from None


def _vectors_of(one: _Led, name: str) -> dict[str, Vector]:
    vectors = {}
    for bank, (arrays, _, _) in one.replies.items():
        try:
            vectors[bank] = vector_of(arrays[name], one.request.width)
        except (KeyError, PeerError):
            raise SumCheated("SS05", "sent no vector of this sum, or one of another type or shape", bank) from None
    return vectors


def _without(replies: Mapping[str, Reply], name: str) -> dict[str, Reply]:
    return {
        bank: ({key: array for key, array in arrays.items() if key != name}, numbers, texts)
        for bank, (arrays, numbers, texts) in replies.items()
    }
