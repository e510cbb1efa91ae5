"""The sizes of one bank's conversations in a run, and messages cut by them: what `plan_costs` and its models count with.

A plan counts at the contract's bounds. `Known` holds what a run's sizes were in the end, so that the same counting says
what these should have cost: `plan_actual` sets that beside what they did cost.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from lianxin.crypto.group import ELEMENT_BYTES
from lianxin.crypto.keyed_ciphertexts import KEY_TAG_BYTES
from lianxin.crypto.query_commitment import COMMITMENT_BYTES
from lianxin.federation import matching
from lianxin.federation.contract import RunContract
from lianxin.federation.scorecard import Layouts, plan_layouts
from lianxin.federation.steps import STEPS

CONVERSATION_SUFFIX = 16
Build = Callable[[int, int], Any]  # (chunk, items) to a message
Part = tuple[str, bool, int, int]  # step, whether the bank sends it, messages, their bytes


@dataclass(frozen=True)
class Known:
    """What one bank's run came to: its training rows, the bins of each feature used at both sides, the firms matched.

    `bins` are the platform's features (a bin count each), `own_bins` the bank's without its intercept, `turns` the rounds
    or trees that were made; `nodes` is how many nodes' sums were asked for in all and `cuts` the platform's cuts used,
    both 0 for a scorecard.
    """

    rows: int
    bins: tuple[int, ...]
    own_bins: tuple[int, ...]
    matched: int
    turns: int
    nodes: int = 0
    cuts: int = 0


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
    """The sizes that one bank's conversations see, in rows, bins and bytes: the contract's largest, or `known` ones."""

    contract: RunContract
    bank: str
    firms: int
    known: Known | None = None

    @property
    def rows(self) -> int:
        """Training rows."""
        return self.known.rows if self.known else self.contract.max_rows

    @cached_property
    def bins(self) -> tuple[int, ...]:
        """The platform's features, a bin count each."""
        if self.known:
            return self.known.bins
        return (self.contract.max_bins,) * len(self.contract.fields_of(self.contract.platform, "feature"))

    @cached_property
    def own_bins(self) -> tuple[int, ...]:
        """The bank's own features, a bin count each, without the intercept."""
        if self.known:
            return self.known.own_bins
        return (self.contract.max_bins,) * len(self.contract.fields_of(self.bank, "feature"))

    @property
    def features(self) -> int:
        """d_A: the platform's features."""
        return len(self.bins)

    @property
    def own(self) -> int:
        """d_B: the bank's own features, and the intercept."""
        return len(self.own_bins) + 1

    @property
    def ciphertext(self) -> int:
        """The length of one ciphertext."""
        return (2 * self.contract.key_bits + 7) // 8

    def ciphertexts(self, count: int) -> bytes:
        """Return as many bytes as that many ciphertexts behind their key's tag take."""
        return bytes(KEY_TAG_BYTES + self.ciphertext * count)

    @property
    def matched(self) -> int:
        """How many firms can match, or did."""
        return self.known.matched if self.known else min(matching.padded(self.contract.max_queries), self.firms)

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
        return max(1, self.contract.chunk_bytes // (self.ciphertext * max(self.bins, default=1)))

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


def one(step: str, from_bank: bool, message: Any) -> Part:
    """Return one message of a step."""
    return step, from_bank, 1, message.ByteSize()


def stream(step: str, from_bank: bool, total: int, size: int, build: Build) -> Part:
    """Return `total` items cut by `size`; `build(chunk, items)` is one message."""
    count = max(1, -(-total // size))
    full = (count - 1) * build(count, size).ByteSize() if count > 1 else 0
    return step, from_bank, count, full + build(count, total - (count - 1) * size).ByteSize()


def times(part: Part, count: int) -> Part:
    """Return a part that crosses `count` times."""
    step, from_bank, messages, size = part
    return step, from_bank, messages * count, size * count


def envelope_bytes(contract: RunContract, bank: str, step: str) -> int:
    """Return how much longer than its message an envelope of this step is, at most."""
    kind = STEPS[step].conversation
    texts = (contract.run, f"{kind}/{bank}", step, bank, contract.platform, contract.expires_at)
    longest = max(len(name) for name in STEPS[step].messages)
    hashes_and_signature, numbers, payload_head = 34 + 34 + 66, 3 + 5 + 6, 5
    headed = sum(2 + len(text) for text in texts) + CONVERSATION_SUFFIX + 2 + longest
    return headed + hashes_and_signature + numbers + payload_head
