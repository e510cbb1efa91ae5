"""What a run costs before it runs: envelopes and bytes a step, processor time a party, from the contract alone.

Sizes are those of the real messages, built empty at their largest and cut as `matching`, `binning`, `rounds` and
`streams` cut them; operations are counted as those roles do them, and priced by a `Calibration`. Everything is an upper
bound at the contract's `max_queries`, `max_rows` and `max_bins`, and at the number of firms that the platform declares.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from lianxin.crypto import canonical, fixed_base, modulus_proof, paillier, psi_paillier
from lianxin.crypto.group import ELEMENT_BYTES
from lianxin.crypto.histogram import BLOCK_ROWS, count_multiplications, plan_groups
from lianxin.crypto.keyed_ciphertexts import KEY_TAG_BYTES
from lianxin.crypto.query_commitment import COMMITMENT_BYTES
from lianxin.federation import matching, wire
from lianxin.federation.contract import RunContract
from lianxin.federation.plan_calibration import Calibration
from lianxin.federation.rounds import POINT_BYTES
from lianxin.federation.scorecard import MEAN_STEPS, SCORE_BITS, SPREAD_STEPS, WOE_BITS, Layouts, plan_layouts
from lianxin.federation.steps import STEPS
from lianxin.federation.streams import ROW_BYTES

LINK_BYTES_PER_S = 12_500_000
RECORD_BYTES = 1024  # a signed checkpoint or approval, or one more signature over a contract
LEARNING_BYTES = 1024  # names, numbers and ids of one Flower message, without its arrays and lists
AGREEMENT_BYTES = 1024  # one bank's signed agreement key
BANK_NAME_BYTES = 72  # one bank in a list of names
CONVERSATION_SUFFIX = 16
POWER_BITS, WEIGHT_BITS = SCORE_BITS + 5, WOE_BITS + 3


@dataclass(frozen=True)
class Traffic:
    """What one party sends another in one step: `bytes` of the messages, `wire_bytes` of the envelopes around them."""

    step: str
    sender: str
    recipient: str
    envelopes: int
    bytes: int
    wire_bytes: int


@dataclass(frozen=True)
class Sizes:
    """The contract's sizes as one bank's conversations see them; lengths in bytes, counts at their largest."""

    contract: RunContract
    bank: str
    firms: int

    @property
    def features(self) -> int:
        """d_A: the platform's features."""
        return len(self.contract.fields_of(self.contract.platform, "feature"))

    @property
    def own(self) -> int:
        """d_B: the bank's own features, and the intercept."""
        return len(self.contract.fields_of(self.bank, "feature")) + 1

    @property
    def ciphertext(self) -> int:
        """The length of one ciphertext."""
        return (2 * self.contract.key_bits + 7) // 8

    def ciphertexts(self, count: int) -> bytes:
        """Return as many bytes as that many ciphertexts behind their key's tag take."""
        return bytes(KEY_TAG_BYTES + self.ciphertext * count)

    @property
    def matched(self) -> int:
        """How many firms can match."""
        return min(matching.padded(self.contract.max_queries), self.firms)

    @property
    def is_ecdh(self) -> bool:
        """Whether matching runs in the group alone."""
        return self.contract.matching == "ecdh"

    @property
    def query_chunk(self) -> int:
        """How many matching queries go into a chunk: each carries a commitment."""
        query = ELEMENT_BYTES if self.is_ecdh else self.ciphertext
        size = query + COMMITMENT_BYTES
        return max(1, self.contract.chunk_bytes // size)

    @property
    def features_a_chunk(self) -> int:
        """How many features' sums go into a chunk."""
        return max(1, self.contract.chunk_bytes // (self.ciphertext * self.contract.max_bins))

    @cached_property
    def layouts(self) -> Layouts:
        """The slots of this run."""
        return plan_layouts(self.contract)

    def chunk_rows(self, ciphertexts_a_row: int) -> int:
        """Return how many rows go into a chunk: whole packs of slots (see `binning.Work.chunk_rows`)."""
        slots = self.layouts.residual.slots
        rows = self.contract.chunk_bytes // (ciphertexts_a_row * self.contract.key_bits // 4)
        return max(slots, rows // slots * slots)

    def packs(self, rows: int) -> int:
        """Return how many ciphertexts carry that many rows, a slot each."""
        return -(-rows // self.layouts.residual.slots)


_Build = Callable[[int, int], Any]  # (chunk, items) to a message
_Part = tuple[str, bool, int, int]  # step, whether the bank sends it, messages, their bytes


def bank_traffic(sizes: Sizes, attempts: int, plan_bytes: int) -> list[Traffic]:
    """Return what crosses between one bank and the platform in a run of `attempts` rounds whose plan has `plan_bytes`:
    an entry a step and direction."""
    parts = [*_agreement(sizes, plan_bytes), *_matching(sizes), *_binning(sizes), *_points(sizes)]
    parts += _learning(sizes, attempts)
    parts += ((step, from_bank, count * attempts, size * attempts) for step, from_bank, count, size in _round(sizes))
    found: dict[tuple[str, bool], tuple[int, int]] = {}
    for step, from_bank, messages, size in parts:
        before = found.get((step, from_bank), (0, 0))
        found[step, from_bank] = before[0] + messages, before[1] + size
    order = sorted(found, key=lambda key: (list(STEPS).index(key[0]), not key[1]))
    return [_entry(sizes, *key, *found[key]) for key in order]


def _entry(sizes: Sizes, step: str, from_bank: bool, messages: int, size: int) -> Traffic:
    bank, platform = sizes.bank, sizes.contract.platform
    sender, recipient = (bank, platform) if from_bank else (platform, bank)
    wire_bytes = size + messages * envelope_bytes(sizes.contract, bank, step)
    return Traffic(step, sender, recipient, messages, size, wire_bytes)


def envelope_bytes(contract: RunContract, bank: str, step: str) -> int:
    """Return how much longer than its message an envelope of this step is, at most."""
    kind = STEPS[step].conversation
    texts = (contract.run, f"{kind}/{bank}", step, bank, contract.platform, contract.expires_at)
    longest = max(len(name) for name in STEPS[step].messages)
    hashes_and_signature, numbers, payload_head = 34 + 34 + 66, 3 + 5 + 6, 5
    headed = sum(2 + len(text) for text in texts) + CONVERSATION_SUFFIX + 2 + longest
    return headed + hashes_and_signature + numbers + payload_head


def _one(step: str, from_bank: bool, message: Any) -> _Part:
    return step, from_bank, 1, message.ByteSize()


def _stream(step: str, from_bank: bool, total: int, size: int, build: _Build) -> _Part:
    """Cut `total` items by `size`; `build(chunk, items)` is one message."""
    count = max(1, -(-total // size))
    full = (count - 1) * build(count, size).ByteSize() if count > 1 else 0
    return step, from_bank, count, full + build(count, total - (count - 1) * size).ByteSize()


def _agreement(sizes: Sizes, plan_bytes: int) -> Iterator[_Part]:
    terms, parties = len(canonical.encode(dict(sizes.contract.record))), len(sizes.contract.banks) + 1
    yield _one("contract.agree", False, wire.Proposal(contract=bytes(terms), plan=bytes(plan_bytes)))
    yield _one("contract.agree", True, wire.Approval(approval=bytes(terms + RECORD_BYTES)))
    yield _one("contract.agree", False, wire.SignedContract(contract=bytes(terms + parties * RECORD_BYTES)))
    yield _one("contract.close", False, wire.RunStatus(state="x" * 32, rule="x" * 16, checkpoint=bytes(RECORD_BYTES)))
    yield _one("contract.close", True, wire.RunClosed(checkpoint=bytes(RECORD_BYTES)))


def _key_bytes(sizes: Sizes) -> dict[str, bytes]:
    length = (sizes.contract.key_bits + 7) // 8
    proof = length + modulus_proof.ROUNDS * (2 * length + 1)
    return {"modulus": bytes(length), "modulus_proof": bytes(proof)}


def _matching(sizes: Sizes) -> Iterator[_Part]:
    contract = sizes.contract
    queries, rows = matching.padded(contract.max_queries), matching.padded(sizes.firms)
    root = nonce = bytes(32)
    key = {} if sizes.is_ecdh else _key_bytes(sizes)
    yield _one("matching.open", True, wire.BankOpening(nonce=nonce, padded_queries=queries, **key))
    yield _one("matching.open", False, wire.PlatformOpening(nonce=nonce, padded_rows=rows, input_root=root))
    yield _one("matching.commit", True, wire.BankCommitment(query_root=root))
    yield _stream("matching.query", True, queries, sizes.query_chunk, _question(sizes))
    yield _stream("matching.query", False, queries, sizes.query_chunk, _answer(sizes))
    tag = psi_paillier.TAG_BYTES
    yield _stream(
        "matching.compare", False, rows, contract.chunk_bytes // tag,
        lambda chunk, n: wire.PlatformTags(chunk=chunk, tags=bytes(tag * n), last=True),
    )  # fmt: skip
    yield _stream(
        "matching.share", True, sizes.matched, contract.chunk_bytes // ROW_BYTES,
        lambda chunk, n: wire.BankMatches(chunk=chunk, positions=bytes(ROW_BYTES * n), last=True),
    )  # fmt: skip
    yield _one("matching.share", False, wire.PlatformMatchesNoted(matched=sizes.matched))


def _question(sizes: Sizes) -> _Build:
    if sizes.is_ecdh:
        return lambda chunk, n: wire.BankBlindedElements(
            chunk=chunk, elements=bytes(ELEMENT_BYTES * n), commitments=bytes(COMMITMENT_BYTES * n)
        )
    return lambda chunk, n: wire.BankQueries(
        chunk=chunk, ciphertexts=sizes.ciphertexts(n), commitments=bytes(COMMITMENT_BYTES * n)
    )


def _answer(sizes: Sizes) -> _Build:
    if sizes.is_ecdh:
        return lambda chunk, n: wire.PlatformEvaluatedElements(chunk=chunk, elements=bytes(ELEMENT_BYTES * n))
    return lambda chunk, n: wire.PlatformAnswers(chunk=chunk, answers=sizes.ciphertexts(n) + bytes(ELEMENT_BYTES * n))


def _binning(sizes: Sizes) -> Iterator[_Part]:
    contract, rows, of = sizes.contract, sizes.contract.max_rows, sizes.ciphertexts
    yield _stream(
        "binning.rows", True, rows, contract.chunk_bytes // ROW_BYTES,
        lambda chunk, n: wire.TrainingRows(chunk=chunk, rows=bytes(ROW_BYTES * n), last=True),
    )  # fmt: skip
    yield _one("binning.rows", False, wire.TrainingRowsNoted(rows=rows, live=bytes((rows + 7) // 8)))
    yield _one("binning.keys", True, wire.TrainingKey(**_key_bytes(sizes)))
    yield _one("binning.keys", False, wire.TrainingKey(**_key_bytes(sizes)))
    yield _stream(
        "binning.count", True, rows, sizes.chunk_rows(1),
        lambda chunk, n: wire.EncryptedLabels(chunk=chunk, ciphertexts=of(n)),
    )  # fmt: skip
    yield _stream("binning.count", False, sizes.features, sizes.features_a_chunk, _sums(sizes))
    yield _one("binning.count", True, wire.HistogramNoted(sound=True))
    yield _stream(
        "binning.masks", False, rows, sizes.chunk_rows(1),
        lambda chunk, n: wire.MaskSet(chunk=chunk, ciphertexts=of(n)),
    )  # fmt: skip
    yield _one("binning.masks", True, wire.MaskSums(ciphertexts=of(sizes.own)))
    total = (sizes.layouts.width_bits + 7) // 8
    yield _one("binning.masks", False, wire.MaskTotals(totals=bytes(total * sizes.own * sizes.layouts.masks.slots)))


def _sums(sizes: Sizes) -> _Build:
    bins, of = sizes.contract.max_bins, sizes.ciphertexts
    return lambda _chunk, n: wire.LabelHistogram(bins=[bins] * n, ciphertexts=of(bins * n), last=True)


def _round(sizes: Sizes) -> Iterator[_Part]:
    rows, of = sizes.contract.max_rows, sizes.ciphertexts
    live, widest = bytes((rows + 7) // 8), {"mean_steps": -MEAN_STEPS, "spread_steps": SPREAD_STEPS}
    for from_bank in (True, False):
        yield _one("round.rows", from_bank, wire.LiveRows(bitmap=live))
    yield _one("round.range", False, wire.ScoreRange(**widest))
    yield _one("round.range", True, wire.RangeChoice(**widest))
    chunk_rows = sizes.chunk_rows(2)
    yield _stream(
        "round.residuals", True, rows, chunk_rows,
        lambda chunk, n: wire.ResidualShares(chunk=chunk, constants=of(n), slopes=of(n)),
    )  # fmt: skip
    yield _stream(
        "round.residuals", False, rows, chunk_rows,
        lambda chunk, n: wire.MaskedResiduals(chunk=chunk, ciphertexts=of(sizes.packs(n))),
    )  # fmt: skip
    yield _one("round.gradient", False, wire.MaskedGradient(ciphertexts=of(sizes.features)))
    yield _one("round.gradient", True, wire.RoundNoted(rows=rows))


def _points(sizes: Sizes) -> Iterator[_Part]:
    def part(chunk: int, n: int) -> Any:
        return wire.ScorePoints(chunk=chunk, rows=bytes(ROW_BYTES * n), points=bytes(POINT_BYTES * n), last=True)

    size = sizes.contract.chunk_bytes // (2 * POINT_BYTES)
    yield _stream("scoring.points", False, sizes.matched, size, part)
    yield _one("scoring.points", True, wire.PointsNoted(rows=sizes.matched))


def _learning(sizes: Sizes, attempts: int) -> Iterator[_Part]:
    """An instruction and a reply for matching, counting, each attempt and the evaluation."""
    step, counts = "learning.exchange", 2 * 8 * sizes.features * sizes.contract.max_bins
    totals = sizes.features * 8 * -(-sizes.layouts.width_bits // 64)
    messages, banks = 3 + attempts, len(sizes.contract.banks)
    told = banks * AGREEMENT_BYTES + attempts * banks * BANK_NAME_BYTES
    yield step, False, messages, messages * LEARNING_BYTES + told
    yield step, True, messages, messages * LEARNING_BYTES + AGREEMENT_BYTES + counts + attempts * totals


# ---- processor time


def bank_work(sizes: Sizes, rounds: int) -> Counter[str]:
    """Return how many of each priced operation a bank does in a run of `rounds` rounds."""
    contract, rows = sizes.contract, sizes.contract.max_rows
    own_bins = [contract.max_bins] * (sizes.own - 1) + [1]
    queries = matching.padded(contract.max_queries)
    cells = sizes.features * contract.max_bins
    packs = sizes.packs(rows)
    work = Counter(
        generate_key=1, prove_key=1, check_key=1, textbook=sizes.own,
        encrypt=rows + 2 * rows * rounds, decrypt=cells + (packs + sizes.features) * rounds,
        multiply=_histogram_multiplications(rows, own_bins) + _owner_tables(contract),
        power_bit=WEIGHT_BITS * sum(own_bins),
    )  # fmt: skip
    if sizes.is_ecdh:
        return work + Counter(group_hash=queries, group_multiply=2 * queries)
    matching_work = Counter(generate_key=1, prove_key=1, encrypt=queries, decrypt=queries, group_multiply=queries)
    return work + matching_work + Counter(multiply=_owner_tables(contract))


def platform_work(sizes: Sizes, rounds: int) -> Counter[str]:
    """Return how many of each priced operation the platform does with one bank, its own key's generation left out."""
    contract, rows = sizes.contract, sizes.contract.max_rows
    bins = [contract.max_bins] * sizes.features
    packs = sizes.packs(rows)
    histogram = _histogram_multiplications(rows, bins)
    work = Counter(
        prove_key=1, check_key=1, encrypt=rows, decrypt=sizes.own,
        multiply=histogram + (histogram + 3 * rows) * rounds, power_bit=(POWER_BITS * rows + WEIGHT_BITS * sum(bins)) * rounds,
    )  # fmt: skip
    expected = rounds * (rows // sizes.layouts.residual.slots + len(bins))
    work += _randomisers(contract, sum(bins), sum(bins))
    work += _randomisers(contract, (packs + len(bins)) * rounds, expected)
    return work + _matching_evaluation(sizes)


def _matching_evaluation(sizes: Sizes) -> Counter[str]:
    queries, rows = matching.padded(sizes.contract.max_queries), matching.padded(sizes.firms)
    if sizes.is_ecdh:
        return Counter(group_hash=rows, group_multiply=rows + queries)
    exponent = psi_paillier.EXPONENT_BOUND.bit_length()
    work = Counter(check_key=1, power_bit=exponent * queries, group_base=queries + rows)
    return work + _randomisers(sizes.contract, queries, min(queries, sizes.query_chunk))


def _randomisers(contract: RunContract, draws: int, expected: int) -> Counter[str]:
    """The randomisers of one key, by the rule of `paillier.randomiser_for`."""
    if expected < paillier.TEXTBOOK_DRAWS:
        return Counter(textbook=draws)
    bases = fixed_base.WIDE_BASES + fixed_base.BIT_BASES
    rows = contract.key_bits // fixed_base.WINDOW_BITS + fixed_base.BIT_BASES // fixed_base.WINDOW_BITS
    return Counter(randomise=draws, textbook=bases, multiply=rows << fixed_base.WINDOW_BITS)


def _owner_tables(contract: RunContract) -> int:
    """The owner's two tables modulo p² and q², each entry about a third of a multiplication modulo n²."""
    return 2 * (contract.key_bits // 2 // fixed_base.WINDOW_BITS << fixed_base.WINDOW_BITS) // 3


def _histogram_multiplications(rows: int, bins: Sequence[int]) -> int:
    if not bins:
        return 0
    parts = [BLOCK_ROWS] * (rows // BLOCK_ROWS) + [rows % BLOCK_ROWS] * (rows % BLOCK_ROWS > 0)
    cost = {size: count_multiplications(size, bins, plan_groups(size, bins)) for size in set(parts)}
    return sum(cost[size] for size in parts) + len(parts) * sum(bins)


def cpu_us(work: Counter[str], calibration: Calibration) -> int:
    """Return the microseconds of processor time that `work` takes."""
    return sum(count * getattr(calibration, f"{unit}_ns") for unit, count in work.items()) // 1000
