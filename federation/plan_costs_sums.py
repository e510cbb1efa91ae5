"""What the secret sums of a scorecard over several banks send and compute between one bank and the platform.

A sum is five instructions and five replies (federation/sum_mod): of the counts once, of the gradients in every round. Records
and messages are built as the stages build them, at their largest, with no bank lost; what a rerun adds is not foreseen.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping

from lianxin.crypto import shamir
from lianxin.crypto.signing import SigningKey
from lianxin.federation import secure_sum_records as records
from lianxin.federation import wire
from lianxin.federation.plan_operations import Work
from lianxin.federation.plan_sizes import Part, Sizes, one, times
from lianxin.federation.scorecard import COUNT_BITS
from lianxin.federation.secure_sum import SumTerms
from lianxin.federation.secure_sum_request import (
    AGREE,
    KEYS,
    OPEN,
    SHARES,
    SUM,
    SumRequest,
    array_of,
    boxes_to_text,
    terms_for,
)

STEP = "learning.exchange"
SEAL_BYTES = 16
_DIGEST = "0" * 64
_NUMBERS = ("restart", "attempt")
_SIGNER = SigningKey.from_seed(bytes(32))  # its signatures are as long as anybody's


def is_summed(sizes: Sizes) -> bool:
    """Whether what a bank gives is added to other banks' in secret."""
    return sizes.contract.model == "scorecard" and len(sizes.contract.banks) > 1


def parts(sizes: Sizes, rounds: int) -> list[Part]:
    """Return what crosses for the sums of a run, a part a message and direction."""
    counted = list(_sum(sizes, "query.count", 0, 2 * sum(sizes.bins), COUNT_BITS))
    trained = _sum(sizes, "train", rounds, sizes.features, sizes.layouts.width_bits)
    return counted + [times(part, rounds) for part in trained]


def _sum(sizes: Sizes, kind: str, round_number: int, length: int, width: int) -> Iterator[Part]:
    contract, bank, banks = sizes.contract, sizes.bank, sorted(sizes.contract.banks)
    attempt = contract.rounds + contract.spare_attempts if round_number else 0
    request = SumRequest(f"{kind}/{round_number}/{attempt}/0", tuple(banks), 0, width, length)
    terms = terms_for(contract, request)
    key = records.sign_as(terms, records.KEY, bank, _SIGNER, key=_DIGEST)
    signed = records.sign_as(terms, records.SET, bank, _SIGNER, view=_DIGEST, included=banks)
    boxes = boxes_to_text({peer: _box(terms, bank, peer) for peer in banks if peer != bank})
    shares = dict.fromkeys(banks, "0" * 2 * shamir.SHARE_BYTES)
    opening = records.sign_as(
        terms, records.OPENING, bank, _SIGNER, included=banks, self=shares, pairs={}, backups={}
    )  # fmt: skip
    values = array_of([0] * length, width).nbytes
    stages = [
        (KEYS, {}, {"sum_key": key}),
        (SHARES, {"sum_keys": json.dumps([key] * len(banks))}, {"sum_shares": boxes}),
        (kind, {"sum_boxes": boxes}, {}),
        (AGREE, {"sum_received": json.dumps(banks)}, {"sum_set": signed}),
        (OPEN, {"sum_sets": json.dumps([signed] * len(banks))}, {"sum_opening": opening}),
    ]  # fmt: skip
    for stage, told, said in stages:
        said_bytes = values if stage == kind else 0
        yield one(STEP, False, _message(stage, round_number, bank, {SUM: request.to_text(), **told}))
        yield one(STEP, True, _message(stage, round_number, bank, said, said_bytes))


def _box(terms: SumTerms, bank: str, peer: str) -> bytes:
    entries = dict.fromkeys(("keys", "self", "share", "pair"), _DIGEST)
    record = records.sign_as(terms, records.SHARE, bank, _SIGNER, recipient=peer, **entries)
    return records.join_box(record, bytes(shamir.SHARE_BYTES * len(terms.banks) + SEAL_BYTES))


def _message(
    kind: str, round_number: int, bank: str, texts: Mapping[str, str], values: int = 0
) -> wire.LearningMessage:
    name, form = f"{kind}/{round_number}/{bank}", wire.form_number("PUBLIC")
    message = wire.LearningMessage(message_id=name, reply_to=name, kind=kind, round=round_number)
    for key, text in texts.items():
        message.config.add(name=key, declared_form=form, value=text)
    for key in _NUMBERS if not kind.startswith("query.sum") else ():
        message.metrics.add(name=key, declared_form=form, value=1)
    if values:
        message.arrays.add(name="masked", declared_form=form, dtype="uint64", shape=[values, 1], data=bytes(values))
    return message


# ---- processor time


def bank_work(sizes: Sizes) -> Work:
    """Return what a bank computes for one sum: it signs, checks what the others signed, and shares a secret with each."""
    if not is_summed(sizes):
        return Counter()
    banks = len(sizes.contract.banks)
    return Counter(sign=banks + 2, verify=3 * banks - 1, group_base=1, group_multiply=banks - 1)


def platform_work(sizes: Sizes) -> Work:
    """Return what the platform computes for one sum with one bank: it checks the bank's records."""
    return Counter(verify=len(sizes.contract.banks) + 2) if is_summed(sizes) else Counter()
