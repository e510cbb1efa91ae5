"""What both sides of a secure sum agree on before it, the ring it is added in, and what may go wrong (rules SS01-SS09).

A vector is uint64 words, shape (length,), where the ring has 64 bits; a list of Python integers where it has others.
"""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from lianxin.crypto.pairwise_masks import WORD_BITS, keystream, keystream_words
from lianxin.federation import network_terms
from lianxin.federation.errors import PeerError, RunStopped

Vector = np.ndarray | list[int]
LONGEST, WIDEST = 1 << 24, 4096


class SumBelowThreshold(RunStopped):
    """Fewer banks than the threshold came through a stage; the sum stays closed. `missing` names who did not come."""

    def __init__(self, label: str, stage: str, left: int, threshold: int, missing: Sequence[str]) -> None:
        super().__init__(
            f"{left} banks came through '{stage}' of sum {label} and {threshold} are needed, {len(missing)} are missing "
            f"({', '.join(missing)}); nothing was opened there, run the round again"
        )
        self.stage, self.left, self.threshold, self.missing = stage, left, threshold, tuple(missing)


class SumCheated(PeerError):
    """A party broke the protocol of a secure sum. `party` is who, "" where it cannot be told or is the platform.

    `is_sole` is false where it may as well have been another party.
    """

    def __init__(self, rule: str, what: str, party: str = "", sole: bool = True) -> None:
        super().__init__(f"{party or 'the platform'} {what} (rule {rule})", rule)
        self.party, self.is_sole = party, bool(party) and sole


@dataclass(frozen=True)
class SumTerms:
    """The terms of one sum: `label` (kind/round/attempt/group) is used once in a run; `node_keys` verify signatures.

    `width_bits` is the ring's, `length` how many values are summed. Raises PeerError (SS01) for terms that cannot be:
    fewer than 2 banks, one listed twice or without a key, a threshold outside 2..N.
    """

    run: str
    contract_hash: str
    label: str
    banks: tuple[str, ...]
    threshold: int
    width_bits: int
    length: int
    node_keys: Mapping[str, str] = field(repr=False)

    def __post_init__(self) -> None:
        banks = set(self.banks)
        if len(banks) != len(self.banks) or not banks <= set(self.node_keys):
            raise SumCheated("SS01", "lists a bank twice, or one that the contract does not have")
        if not 2 <= self.threshold <= len(banks):
            raise SumCheated("SS01", f"wants a sum of {len(banks)} banks with a threshold of {self.threshold}")
        if not (1 <= self.width_bits <= WIDEST and 1 <= self.length <= LONGEST and self.label):
            raise SumCheated("SS01", "wants a sum of a length or a ring that cannot be")

    @property
    def ordered(self) -> tuple[str, ...]:
        """The banks in the order of their ids; a bank's number in it, from 1, is where its shares are taken."""
        return tuple(sorted(self.banks))

    def place_of(self, bank: str) -> int:
        """Return the bank's number, from 1."""
        return self.ordered.index(bank) + 1

    @property
    def context(self) -> str:
        """What every key, mask and box of this sum is bound to besides the run."""
        return f"secure-sum/{self.contract_hash}/{self.label}"

    def check_enough(self, stage: str, left: Collection[str], of: Collection[str]) -> None:
        """Raise SumBelowThreshold where fewer than the threshold are left of those who were asked."""
        if len(left) < self.threshold:
            raise SumBelowThreshold(self.label, stage, len(left), self.threshold, sorted(set(of) - set(left)))

    def commit(self, kind: str, parties: Sequence[str], secret: bytes) -> str:
        """Return the SHA-256 that binds a 32-byte secret of this sum to its kind and owners, in hex."""
        parts = [b"lianxin/secure-sum/1", *(text.encode() for text in (self.run, self.context, kind, *parties)), secret]
        return hashlib.sha256(b"".join(len(part).to_bytes(4, "big") + part for part in parts)).hexdigest()


def policy_threshold(banks: int) -> int:
    """Return the least threshold that a bank accepts: the contract's policy; two banks are both needed."""
    return min(network_terms.threshold(banks), max(2, banks))


def expand(terms: SumTerms, seed: bytes) -> Vector:
    """Return the mask that `seed` stands for in this sum."""
    if terms.width_bits == WORD_BITS:
        return keystream_words(seed, terms.context, terms.length)
    return keystream(seed, terms.context, terms.length, terms.width_bits)


def added(terms: SumTerms, total: Vector, other: Vector, sign: int) -> Vector:
    """Return total + sign·other in the ring; 64-bit totals are changed in place."""
    if isinstance(total, np.ndarray):
        return np.add(total, other, out=total) if sign > 0 else np.subtract(total, other, out=total)
    ring = (1 << terms.width_bits) - 1
    return [(left + sign * int(right)) & ring for left, right in zip(total, other, strict=True)]


def zeros(terms: SumTerms) -> Vector:
    """Return the zero vector of the sum."""
    return np.zeros(terms.length, dtype=np.uint64) if terms.width_bits == WORD_BITS else [0] * terms.length


def ring_fault(terms: SumTerms, values: object) -> str:
    """Return why `values` are no vector of this sum, "" when they are one."""
    if isinstance(values, np.ndarray):
        if values.dtype != np.uint64 or values.ndim != 1:
            return "a vector is one row of uint64 words"
        values = values if terms.width_bits == WORD_BITS else values.tolist()
    elif not isinstance(values, list | tuple) or not all(type(value) is int for value in values):
        return "a vector is whole numbers"
    if len(values) != terms.length:
        return f"a vector has {terms.length} values"
    if not isinstance(values, np.ndarray) and (min(values) < 0 or max(values) >> terms.width_bits):
        return f"a value does not fit {terms.width_bits} bits"
    return ""


def as_vector(terms: SumTerms, values: Sequence[int] | np.ndarray) -> Vector:
    """Return a copy of checked values in the form that the ring is added in."""
    if terms.width_bits == WORD_BITS:
        return np.array(values, dtype=np.uint64)
    return [int(value) for value in values]


def to_ring(values: Sequence[int] | np.ndarray, width_bits: int) -> Vector:
    """Return signed numbers in two's complement: uint64 words for 64 bits, integers in [0, 2^W) for other widths.

    Raises RunStopped at a number outside [-2^(W-1), 2^(W-1)): nothing is clipped into the ring.
    """
    if isinstance(values, np.ndarray) and values.dtype == np.int64 and width_bits == WORD_BITS:
        return values.reshape(-1).view(np.uint64).copy()
    half = 1 << (width_bits - 1)
    numbers = [int(value) for value in values]
    if numbers and not (-half <= min(numbers) and max(numbers) < half):
        raise RunStopped(
            f"a value does not fit {width_bits} bits with its sign; lower the bound that the contract sets"
        )
    ring = [value & (2 * half - 1) for value in numbers]
    return np.array(ring, dtype=np.uint64) if width_bits == WORD_BITS else ring


def from_ring(total: Sequence[int] | np.ndarray, width_bits: int) -> Vector:
    """Return the signed numbers of a total: int64, shape (length,), for 64 bits, a list of integers for other widths."""
    if width_bits == WORD_BITS:
        return np.asarray(total, dtype=np.uint64).view(np.int64)
    half = 1 << (width_bits - 1)
    return [int(value) - 2 * half if value >= half else int(value) for value in total]
