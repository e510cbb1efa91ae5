"""Joint scoring: a bank asks the platform for its part of named firms' scores under a standing agreement [D].

Parties: bank B, platform P. One conversation `scoring/<B>/<n>`, n rising at B, serves many requests in sequence, a file in
batches or single firms as they come, so that no dial is paid between them (protocols.md, section 8).

    1. B -> P  ScoreRequest: a request id that run, bank, n and its place in the conversation give; purpose, the person who
               asks, which of the agreement's models; up to 1,000 firms by their codes, in PLAIN form, by B's own release.
    2. P       refuses the whole request if it is not as agreed (R01, Q02), the quota is used up (Q01), the number of the
               conversation is not new (Q03) or the agreement has ended (S01). Else the gate decides firm by firm, and one
               release lets go whom it may; a use is counted for each firm and request. Whom it may not let go, and whom P
               does not know, is scored on a dummy row all the same, and the result is thrown away.
    3. P -> B  ScoreReply: 17 bytes for each firm and model, whatever is known of the firm, on the ticks of a schedule.

The models of one request are of one kind. P's part of a scorecard is a sub-score in points with reasons, by a release in
mode SCORE_ONLY; its part of boosted trees is the firm's sides of the cuts that B's own ensemble has (`boosting`, step 6), a
bit each, by a release in mode SPLITS, for which a consent to scores alone is too little.

Learned: B, P's sub-score of each scorecard with up to four reason codes, or a side of each cut of its trees, or that there
is none; P, which firms B asks about, when and what for. That there is no score says nothing of why: an unknown firm, one
without consent, one whose consent has ended or is used up have the same bytes after the same work; the rule is in P's own
ledger alone. What B asks for a firm whose score it gets tells B that the firm is P's and consented: B asks in its own name,
by a consent that the firm gave for this.
"""

import hashlib
import struct
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as entry
from typing import Any

import numpy as np
from google.protobuf.message import Message

from lianxin.federation import wire
from lianxin.federation.boosting_ensemble import Flags
from lianxin.federation.contract import RunContract
from lianxin.federation.errors import GuardRefused, PeerError
from lianxin.federation.field_query import FIRMS_A_REQUEST, IDENTIFIER_CHARACTERS, OPERATOR
from lianxin.federation.model import Provenance
from lianxin.federation.session import Receive, Role, Send

MODEL = "scoring"
PURPOSES = ("P2", "P3")
MODE = "SCORE_ONLY"
CUTS_MODE = "SPLITS"  # of the platform's part of boosted trees
MOST_CUTS = 64
REASONS = 4
TICK_S = 0.005
SWITCH_S = 0.0005
_RECORD = struct.Struct(f">Bq{REASONS}H")
RECORD_BYTES = _RECORD.size
_NO_SCORE, _SCORE = 0, 1


@dataclass(frozen=True)
class Asked:
    """What is asked: the platform's part of each of `models` (run ids) for each of `firms`, by the person `operator`."""

    request: str
    purpose: str
    operator: str
    models: tuple[str, ...]
    firms: tuple[str, ...] = entry(repr=False)


@dataclass(frozen=True)
class SubScore:
    """The platform's part of one model for one firm: `value` in points, the numbers of its `reasons`, worst first.

    Of boosted trees `value` holds the sides of the bank's cuts (`cut_values`), and there are no reasons.
    """

    value: int
    reasons: tuple[int, ...] = ()


@dataclass(frozen=True)
class Answer:
    """What a platform's desk answers: the encoded records, and the release behind them."""

    records: bytes = entry(repr=False)
    right: Provenance


Part = SubScore | None


@dataclass(frozen=True)
class Reply:
    """What came back to a bank: the parts of each firm in the order asked, and the id of the release behind them."""

    parts: list[tuple[Part, ...]]
    release: str

    @property
    def scores(self) -> int:
        """How many firms there is a part of."""
        return sum(any(part is not None for part in parts) for parts in self.parts)


Desk = Callable[[Asked], Answer]


def hand_over_soon() -> None:
    """Let a thread that computes give way after half a millisecond: a message passes through three threads at each end."""
    sys.setswitchinterval(SWITCH_S)


def request_id(contract: RunContract, bank: str, number: int, place: int) -> str:
    """Return the id of the request at `place` (from 0) of a bank's `number`-th conversation under a contract."""
    return f"{contract.run}.{bank}.{number}.{place}"


def conversation_of(bank: str, number: int) -> str:
    """Return the `number`-th conversation in which a bank asks for scores."""
    return f"scoring/{bank}/{number}"


def agreement_fault(contract: RunContract) -> str:
    """Return what a scoring agreement lacks, in one sentence without its end, "" when it is whole."""
    banks = contract.banks
    faults = {
        f"purpose must be one of {', '.join(PURPOSES)}": contract.purpose not in PURPOSES,
        "models must name the runs whose models are served": not contract.models,
        "features must name the platform's fields of these models": not contract.fields_of(
            contract.platform, "feature"
        ),
        "each bank needs exactly one identifier": any(len(contract.fields_of(b, "identifier")) != 1 for b in banks),
        "a bank brings neither features nor a label": any(
            contract.fields_of(bank, use) for bank in banks for use in ("feature", "label")
        ),
    }
    return next((what for what, holds in faults.items() if holds), "")


# ---- records of fixed length


def encode_part(part: SubScore) -> bytes:
    """Return the record of a score. ValueError for more than four reasons, struct.error for what does not fit."""
    if len(part.reasons) > REASONS:
        raise ValueError(f"a score has at most {REASONS} reasons")
    return _RECORD.pack(_SCORE, part.value, *part.reasons, *[0] * (REASONS - len(part.reasons)))


NOTHING = bytes(RECORD_BYTES)
"""The record of a firm without a score, whatever the reason."""


def decode_parts(records: bytes, models: int) -> list[tuple[Part, ...]]:
    """Return the parts of each firm, a tuple in the order of the models. Raises PeerError (Q04) for bytes that fit none."""
    _require_answer(len(records) % (RECORD_BYTES * models) == 0, "records of another length")
    parts = [_decoded(*fields) for fields in _RECORD.iter_unpack(records)]
    return [tuple(parts[at : at + models]) for at in range(0, len(parts), models)]


def _decoded(status: int, value: int, *reasons: int) -> Part:
    _require_answer(status in (_NO_SCORE, _SCORE), "a status that nobody knows")
    given = tuple(number for number in reasons if number)
    _require_answer(reasons[: len(given)] == given and len(set(given)) == len(given), "reasons out of order or twice")
    if status == _NO_SCORE:
        _require_answer(not value and not given, "a value where there is no score")
        return None
    return SubScore(value, given)


def _require_answer(holds: bool, what: str) -> None:
    if not holds:
        raise PeerError(f"the answer does not fit what was asked: {what}", "Q04")


def cut_values(sides: Flags) -> list[int]:
    """Return a value for each row of `sides` (rows x at most 64 cuts): a bit a cut, 1 for left, the first in the highest.

    Its eight bytes are what a training delivers of the row, and zeros after them.
    """
    padded = np.zeros((len(sides), MOST_CUTS), dtype=np.bool_)
    padded[:, : sides.shape[1]] = sides
    values: list[int] = np.packbits(padded, axis=1).view(">i8").ravel().tolist()
    return values


def sides_of_cuts(parts: Sequence[SubScore], cuts: int) -> Flags:
    """Return rows x `cuts`, whether the row lies left of the cut. Raises PeerError (Q04) for what is no part of trees."""
    _require_answer(not any(part.reasons for part in parts), "reasons beside the sides of cuts")
    values = np.array([part.value for part in parts], dtype=">i8").reshape(len(parts), 1)
    sides = np.unpackbits(values.view(np.uint8), axis=1).astype(np.bool_)
    _require_answer(not sides[:, cuts:].any(), "sides of more cuts than the model has")
    return sides[:, :cuts]


# ---- the bank


def bank_role(asked: Asked, right: Provenance) -> Role[list[tuple[Part, ...]]]:
    """Ask once in a conversation and return the parts of each firm in the order asked. Raises PeerError (Q04)."""
    reply = yield from reply_role(asked, right)
    return reply.parts


def reply_role(asked: Asked, right: Provenance) -> Role[Reply]:
    """As `bank_role`, with the release under which the parts came."""
    yield Send(encode_request(asked), "scoring.ask", (right,))
    reply: Any = yield Receive("scoring.answer", (wire.ScoreReply,))
    parts = decode_parts(reply.scores, len(asked.models))
    _require_answer(len(parts) == len(asked.firms), "another number of firms")
    _require_answer(len(reply.release) == hashlib.sha256().digest_size, "no release's id")
    return Reply(parts, reply.release.hex())


def encode_request(asked: Asked) -> Message:
    """Return the message that asks it."""
    return wire.ScoreRequest(
        request=asked.request, purpose=asked.purpose, operator=asked.operator, models=asked.models, firms=asked.firms
    )


# ---- the platform


def platform_role(contract: RunContract, requests: Iterator[str], desk: Desk) -> Role[None]:
    """Answer request after request, whose ids `requests` gives, until the conversation ends at one of its ends.

    `desk` is asked once a request; it may refuse by a PeerError, which ends the conversation.
    """
    for request in requests:
        message = yield Receive("scoring.ask", (wire.ScoreRequest,))
        asked = read_request(message, contract, request)
        answer = desk(asked)
        _check_rows(answer, len(asked.models))
        reply = wire.ScoreReply(scores=answer.records, release=bytes.fromhex(answer.right.release_id))
        yield Send(reply, "scoring.answer", (answer.right,))


def _check_rows(answer: Answer, models: int) -> None:
    """Refuse (G04) to send scores of more firms than the release let go: the guard cannot tell firms apart in bytes."""
    size, nothing = RECORD_BYTES * models, NOTHING * models
    rows = (answer.records[at : at + size] for at in range(0, len(answer.records), size))
    if sum(row != nothing for row in rows) > answer.right.rows:
        raise GuardRefused("scores of more firms than a release let go would cross under it", "G04")


def read_request(message: Any, contract: RunContract, request: str) -> Asked:
    """Return what a message asks. Raises PeerError: R01 for another purpose, Q02 for anything else not agreed."""
    models, firms = tuple(message.models), tuple(message.firms)
    if message.purpose != contract.purpose:
        raise PeerError("scores are asked for another purpose than the standing agreement's", "R01")
    faults: Mapping[str, bool] = {
        "another request id than is due in its conversation": message.request != request,
        "nobody who asks": OPERATOR.fullmatch(message.operator) is None,
        "no models, one twice or one that is not agreed": not (
            _fits(models, 4) and set(models) <= set(contract.models)
        ),
        "no firms, too many or one twice": not _fits(firms, FIRMS_A_REQUEST),
        "a firm whose name is too long": any(not 0 < len(name) <= IDENTIFIER_CHARACTERS for name in firms),
    }
    for what, holds in faults.items():
        if holds:
            raise PeerError(f"a request for scores has {what}", "Q02")
    return Asked(request, message.purpose, message.operator, models, firms)


def _fits(names: Sequence[str], most: int) -> bool:
    return 0 < len(names) <= most and len(set(names)) == len(names)
