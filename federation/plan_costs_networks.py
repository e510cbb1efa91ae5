"""What a network across banks sends and computes: its questions and secret sums counted, message by message.

A sum is five messages to each bank and five back (`sum_mod`); their texts are signed records, of which a sample of the same
names is made and measured. A vector is 8 bytes a number, weights cross as 4 bytes each.

Processor time: the platform has no torch, so that no training step can be timed there. What a bank computes is counted in
multiplications of a weight by a row's number (six a row, weight and pass, forwards and backwards: Kaplan et al. 2020, 2.1),
priced by a matrix product in numpy, with a fixed price a step for torch's own work; masks are priced by the kernel that makes
them, messages and what else is no kernel at reference prices, scaled as masks are.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from lianxin.crypto import canonical, shamir
from lianxin.crypto.pairwise_masks import keystream_words
from lianxin.federation.contract import RunContract
from lianxin.federation.plan_costs import LINK_BYTES_PER_S
from lianxin.federation.plan_sizes import Traffic, envelope_bytes
from lianxin.federation.secure_sum_request import WORD, SumRequest

FIRST_CELLS, REFINED_CELLS, MOST_CATEGORIES, MOST_WEIGHTS, FIELDS_A_PART = 2818, 512, 64, 130_000, 32
MESSAGE_BYTES, NAMED_BYTES = 24, 16  # a message of Flower's without values; a value's name and tags
SIGNATURE_BYTES, STATUS_BYTES, CLOSED_BYTES, METRICS_BYTES = 300, 260, 360, 160
FIELD_BYTES, TEXT_BYTES, MOST_FIELD_BYTES, MOST_SAID = 44, 12, 20_000, 1 << 20
KNOT_BYTES, SEALED_BYTES, SHARES_HEAD, MARK_BYTES = 42, 28, 4, 32
STEP = "learning.exchange"
_PS_A_US = 1_000_000
Part = tuple[str, bool, int, int]  # step, whether the bank sends it, messages, their bytes


@dataclass(frozen=True)
class NetworkSizes:
    """What a run's messages and work are counted by: numbers of a network, of the two passes of counts, rows, steps."""

    weights: int
    first: int
    second: int
    numeric: int
    texts: int
    rows: int
    attempts: int
    said: int = 0  # bytes of one bank's lists, where they are bounded and not counted


@dataclass(frozen=True)
class NetworkCosts:
    """Unit costs in picoseconds of processor time: a multiplication, a step of training, a masked word, a message at one
    end, one bank's keys, shares and signatures for another in a sum, the start of a process that trains, a row that the gate is
    asked for, and what a party does once."""

    source: str
    multiply_ps: int = 90
    step_ps: int = 450_000_000
    word_ps: int = 2_600
    message_ps: int = 2_600_000_000
    pair_ps: int = 1_300_000_000
    start_ps: int = 3_000_000_000_000
    row_ps: int = 40_000_000
    party_ps: int = 240_000_000_000

    def record(self) -> dict[str, Any]:
        """Return the costs as they stand in a plan."""
        return {one.name: getattr(self, one.name) for one in fields(self)}


REFERENCE_COSTS = NetworkCosts("reference")
_REFERENCE_WORD_PS, _LONG, _WIDE, _TIMES = 2_600, 1 << 16, 64, 40


def measure_network_costs(clock_ns: Callable[[], int]) -> NetworkCosts:
    """Return what the kernels cost here, in well under a second; what is no kernel is scaled as the masks are.

    `clock_ns` is processor time in nanoseconds; no torch is needed.
    """
    left = np.ones((_WIDE, _WIDE), dtype=np.float32)
    product = _least(lambda: [left @ left for _ in range(_TIMES)], clock_ns) * 1000 // (_TIMES * _WIDE**3)
    word = max(1, _least(lambda: keystream_words(bytes(32), "calibration", _LONG), clock_ns) * 1000 // _LONG)
    base = REFERENCE_COSTS
    scaled = {
        name: max(1, getattr(base, name) * word // _REFERENCE_WORD_PS)
        for name in ("step_ps", "message_ps", "pair_ps", "start_ps", "row_ps", "party_ps")
    }
    return NetworkCosts("measured", multiply_ps=max(1, product), word_ps=word, **scaled)


def _least(work: Callable[[], Any], clock_ns: Callable[[], int]) -> int:
    times = []
    for _ in range(7):
        start = clock_ns()
        work()
        times.append(clock_ns() - start)
    return max(1, min(times[1:]))


# ---- sizes


def planned_sizes(contract: RunContract) -> NetworkSizes:
    """Return the sizes that a plan expects: every field a number, with a place of its own for what is missing."""
    features = len(contract.fields_of(contract.banks[0], "feature"))
    weights = weights_of(contract, 2 * features)
    return NetworkSizes(
        weights, FIRST_CELLS * features, REFINED_CELLS * features, features, 0, contract.max_rows, contract.rounds
    )


def largest_sizes(contract: RunContract) -> NetworkSizes:
    """Return the largest sizes that the contract lets a run have; banks that come back mid-sum make more attempts."""
    features = len(contract.fields_of(contract.banks[0], "feature"))
    weights = min(MOST_WEIGHTS, weights_of(contract, (MOST_CATEGORIES + 2) * features) + 1)
    second = (FIRST_CELLS + 2 * REFINED_CELLS) * features
    said = min(MOST_SAID, MOST_FIELD_BYTES * features)
    attempts = contract.rounds + contract.spare_attempts
    return NetworkSizes(weights, FIRST_CELLS * features, second, features, features, contract.max_rows, attempts, said)


def weights_of(contract: RunContract, inputs: int) -> int:
    """Return how many weights the contract's network has on so many input numbers."""
    width, found = inputs * (8 if contract.model == "tabular" else 1), 0
    for units in () if contract.model == "logistic" else contract.record["hidden_units"]:
        found += width * units + units * (3 if contract.model == "tabular" else 1)
        width = units
    return found + width + 1


def is_judged(contract: RunContract) -> bool:
    """Return whether the banks judge each round on rows held back."""
    return bool(contract.max_loss_rise_permille and contract.validation_permille)


# ---- messages


def network_traffic(contract: RunContract, bank: str, sizes: NetworkSizes, plan_bytes: int) -> list[Traffic]:
    """Return what crosses between one bank and the platform, an entry a step and direction."""
    found: dict[tuple[str, bool], tuple[int, int]] = {}
    for step, from_bank, messages, size in [*_agreement(contract, plan_bytes), *_learning(contract, bank, sizes)]:
        before = found.get((step, from_bank), (0, 0))
        found[step, from_bank] = before[0] + messages, before[1] + size
    order = ("contract.agree", STEP, "contract.close")
    return [
        _entry(contract, bank, step, from_bank, found[step, from_bank]) for step in order for from_bank in (True, False)
    ]


def _entry(contract: RunContract, bank: str, step: str, from_bank: bool, carried: tuple[int, int]) -> Traffic:
    ends = (bank, contract.platform) if from_bank else (contract.platform, bank)
    messages, size = carried
    return Traffic(step, ends[0], ends[1], messages, size, size + messages * envelope_bytes(contract, bank, step))


def _agreement(contract: RunContract, plan_bytes: int) -> Iterator[Part]:
    terms, parties = len(canonical.encode(dict(contract.record))), len(contract.banks) + 1
    yield "contract.agree", False, 1, terms + plan_bytes
    yield "contract.agree", True, 1, terms + 2 * SIGNATURE_BYTES
    yield "contract.agree", False, 1, terms + parties * SIGNATURE_BYTES
    yield "contract.close", False, 1, STATUS_BYTES
    yield "contract.close", True, 1, CLOSED_BYTES


def _learning(contract: RunContract, bank: str, sizes: NetworkSizes) -> Iterator[Part]:
    said = sizes.said or sizes.numeric * FIELD_BYTES + sizes.texts * (FIELD_BYTES + 4 * TEXT_BYTES)
    prepared = sizes.numeric * (FIELD_BYTES + KNOT_BYTES * contract.quantiles) + max(said, sizes.texts * FIELD_BYTES)
    weights = 4 * sizes.weights + 2 * NAMED_BYTES + MARK_BYTES
    yield STEP, True, 2, 2 * MESSAGE_BYTES + said
    yield STEP, False, 2, 2 * MESSAGE_BYTES + prepared
    parts = -(-sizes.numeric // FIELDS_A_PART)
    for length, told in ((sizes.first, 0), (sizes.second, 8 * sizes.first)):
        names = sizes.numeric * FIELD_BYTES
        for part in range(parts):
            size = (length // parts, told // parts + names // parts)
            yield from _sum(contract, bank, f"query.first{part}/0/0/0", *size)
    if is_judged(contract):
        yield from _sum(contract, bank, "query.judge/0/0/0", 2, weights)
    for turn in range(1, sizes.attempts + 1):
        yield from _sum(contract, bank, f"train/{turn}/0/0", 2 + sizes.weights, weights, contract.groups)
        if is_judged(contract):
            yield from _sum(contract, bank, f"query.judge/{turn}/0/0", 2, weights)
    yield STEP, False, 1, MESSAGE_BYTES + weights
    yield STEP, True, 1, MESSAGE_BYTES + METRICS_BYTES


def _sum(contract: RunContract, bank: str, label: str, length: int, told: int, groups: int = 1) -> Iterator[Part]:
    """Yield one sum's messages: `told` are the bytes that the question itself brings beside the sum's."""
    if contract.aggregation == "clear":
        yield STEP, False, 1, MESSAGE_BYTES + told
        yield STEP, True, 1, MESSAGE_BYTES + NAMED_BYTES + 8 * length
        return
    texts = _sum_texts(contract, bank, label, length, groups)
    yield STEP, False, 5, 5 * (MESSAGE_BYTES + NAMED_BYTES) + told + sum(texts["to"])
    yield STEP, True, 5, 5 * (MESSAGE_BYTES + NAMED_BYTES) + 8 * length + sum(texts["back"])


def _sum_texts(contract: RunContract, bank: str, label: str, length: int, groups: int) -> Mapping[str, Sequence[int]]:
    """Return the bytes of the texts of a sum, to a bank and back."""
    banks = tuple(sorted({bank, *contract.banks[: -(-len(contract.banks) // groups)]}))
    request = len(SumRequest(label, banks, 0, WORD, length).to_text())
    key, made = _signed(contract, label, bank, key="0" * 64), dict.fromkeys(("keys", "self", "share", "pair"), "0" * 64)
    share = _signed(contract, label, bank, recipient=bank, **made)
    sealed = SHARES_HEAD + len(share) + SEALED_BYTES + shamir.SHARE_BYTES * len(banks)
    boxes = (len(banks) - 1) * (4 * -(-sealed // 3) + len(bank) + 6)
    told = _signed(contract, label, bank, view="0" * 64, included=list(banks))
    opened = dict.fromkeys(banks, "0" * (2 * shamir.SHARE_BYTES))
    opening = _signed(contract, label, bank, included=list(banks), self=opened, pairs={}, backups={})
    lists = [len(json.dumps([text] * len(banks))) for text in (key, told)]
    names = len(json.dumps(list(banks)))
    return {
        "to": (5 * (request + NAMED_BYTES), lists[0], boxes, names, lists[1]),
        "back": (len(key), boxes, len(told), len(opening)),
    }


def _signed(contract: RunContract, label: str, bank: str, **entries: Any) -> str:
    """Return a record as it would be signed, to be measured."""
    record = {"type": "secure-sum-set", "version": 1, "run": contract.run, "contract": "0" * 64, "label": label,
              "party": bank, **entries}  # fmt: skip
    signature = {"key": "0" * 64, "signer": bank, "signature": "0" * 128}
    return canonical.encode({"record": record, "signatures": [signature]}).decode()


# ---- processor time


def bank_ps(contract: RunContract, sizes: NetworkSizes, traffic: Sequence[Traffic], costs: NetworkCosts) -> int:
    """Return a bank's processor time in picoseconds: training, its own models to compare with, masks, messages."""
    passes = contract.rounds * contract.local_epochs
    others = passes + (0 if contract.personalisation == "none" else 4 * contract.local_epochs)
    steps = -(-sizes.rows // contract.batch_rows)
    trained = (passes + others) * (6 * sizes.rows * sizes.weights * costs.multiply_ps + steps * costs.step_ps)
    return (
        costs.start_ps + trained + _masked(contract, sizes) * costs.word_ps + _messages(contract, sizes, traffic, costs)
    )


def platform_ps(contract: RunContract, sizes: NetworkSizes, traffic: Sequence[Traffic], costs: NetworkCosts) -> int:
    """Return the platform's processor time in picoseconds: it removes one mask a bank, and carries every message."""
    unmasked = _numbers(contract, sizes) * len(contract.banks)
    return costs.party_ps + unmasked * costs.word_ps + _messages(contract, sizes, traffic, costs)


def _messages(contract: RunContract, sizes: NetworkSizes, traffic: Sequence[Traffic], costs: NetworkCosts) -> int:
    pairs = 0 if contract.aggregation == "clear" else _sums(contract, sizes) * len(contract.banks)
    return sum(entry.envelopes for entry in traffic) * costs.message_ps + pairs * costs.pair_ps


def _sums(contract: RunContract, sizes: NetworkSizes) -> int:
    return 2 * -(-sizes.numeric // FIELDS_A_PART) + (1 + is_judged(contract)) * sizes.attempts + is_judged(contract)


def _numbers(contract: RunContract, sizes: NetworkSizes) -> int:
    """Return how many numbers of one bank are added up in a run."""
    return sizes.first + sizes.second + sizes.attempts * (sizes.weights + 4)


def _masked(contract: RunContract, sizes: NetworkSizes) -> int:
    in_group = -(-len(contract.banks) // contract.groups)
    return 0 if contract.aggregation == "clear" else _numbers(contract, sizes) * in_group


def totals_of_network(
    contract: RunContract, sizes: Mapping[str, NetworkSizes], traffic: Mapping[str, Sequence[Traffic]], costs: NetworkCosts
) -> list[dict[str, Any]]:  # fmt: skip
    """Return for each party, the platform first, its bytes, processor time and wall time, in microseconds.

    Banks work side by side, each on a processor of its own, and the platform waits for the slowest.
    """
    every = [entry for entries in traffic.values() for entry in entries]
    largest = max(sizes.values(), key=lambda one: one.rows)
    own = {bank: bank_ps(contract, sizes[bank], traffic[bank], costs) // _PS_A_US for bank in traffic}
    served = platform_ps(contract, largest, every, costs) // _PS_A_US
    cpu = {contract.platform: served, **own}
    wall = served + max(own.values())
    return [
        {
            "party": party,
            "bytes_sent": sum(entry.bytes for entry in every if entry.sender == party),
            "wire_bytes": sum(entry.wire_bytes for entry in every if entry.sender == party),
            "cpu_us": spent,
            "wall_us": wall + _carried(every, party) * 1_000_000 // LINK_BYTES_PER_S,
        }
        for party, spent in cpu.items()
    ]


def _carried(traffic: Sequence[Traffic], party: str) -> int:
    return sum(entry.wire_bytes for entry in traffic if party in (entry.sender, entry.recipient))
