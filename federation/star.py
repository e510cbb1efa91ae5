"""The star: one platform with K banks, common bins and platform weights, own bank weights (protocols.md, section 5).

`PlatformStar` and `BankStar` hold what each side knows between messages: codes, weights of evidence, weights, the
masks of the current attempt. Neither knows a firm or a channel. Sums over banks are in Z_{2^W} under pairwise masks
(crypto.pairwise_masks): the platform opens totals of all the banks of a round, never one bank's.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from lianxin.crypto import paillier, pairwise_masks
from lianxin.crypto.errors import CryptoError
from lianxin.federation import regression
from lianxin.federation.binning import Columns, intercept
from lianxin.federation.contract import RunContract
from lianxin.federation.errors import PeerError, RunStopped
from lianxin.federation.rounds import PlatformOutcome
from lianxin.federation.scorecard import (
    COUNT_BITS,
    WOE_BITS,
    DescentState,
    Floats,
    Layouts,
    gradient_value,
    plan_layouts,
    scores,
)


def woe_integers(goods: Sequence[int], bads: Sequence[int]) -> tuple[int, ...]:
    """Return the weights of evidence of a feature's bins at 2^12."""
    good, bad = sum(goods), sum(bads)
    return tuple(round(regression.woe(g, b, good, bad) * 2**WOE_BITS) for g, b in zip(goods, bads, strict=True))


def design_of(columns: Columns) -> Floats:
    """Return the WOE-coded design, a row a training row, a column a feature."""
    coded = [np.array(w, dtype=float)[np.array(c)] for c, w in zip(columns.codes, columns.woe, strict=True)]
    return np.stack(coded, axis=1) / 2.0**WOE_BITS if coded else np.zeros((columns.rows, 0))


def merge_small_bins(goods: list[int], bads: list[int], minima: tuple[int, int, int]) -> list[int]:
    """Return old bin → new bin such that every new bin has at least minima = (rows, bads, goods).

    The smallest offender joins the bin whose share of bads is nearest; new bins keep the order of the old ones.
    """
    groups = [[b] for b in range(len(goods))]

    def count(group: list[int]) -> tuple[int, int, int]:
        bad, good = sum(bads[b] for b in group), sum(goods[b] for b in group)
        return bad + good, bad, good

    def rate(group: list[int]) -> float:
        rows, bad, _ = count(group)
        return bad / rows if rows else 0.0

    while len(groups) > 1:
        short = [g for g in groups if any(c < m for c, m in zip(count(g), minima, strict=True))]
        if not short:
            break
        worst = min(short, key=lambda g: (count(g)[0], g))
        others = [g for g in groups if g is not worst]
        nearest = min(others, key=lambda g: (abs(rate(g) - rate(worst)), g))
        groups = sorted([g for g in others if g is not nearest] + [sorted(worst + nearest)])
    mapping = [0] * len(goods)
    for new, group in enumerate(groups):
        for old in group:
            mapping[old] = new
    return mapping


@dataclass
class BankTable:
    """The platform's view of one bank: its training rows as shared rows, its features' codes, its keys and round."""

    rows: list[int] = field(repr=False)
    columns: Columns = field(repr=False)
    public: paillier.PublicKey | None = None
    outcome: PlatformOutcome | None = None


@dataclass(frozen=True)
class FeatureTable:
    """What the platform learned of one feature: counts a bin over all banks, weights of evidence, information value."""

    name: str
    goods: tuple[int, ...]
    bads: tuple[int, ...]
    woe: tuple[int, ...]
    information_value: float
    merged: tuple[int, ...]


class PlatformStar:
    """The platform's model state of one run."""

    def __init__(self, contract: RunContract, features: Sequence[str]) -> None:
        self.contract, self.layouts = contract, plan_layouts(contract)
        self.features = list(features)
        self.tables: dict[str, BankTable] = {}
        self.kept: list[FeatureTable] = []
        self.dropped: list[tuple[str, str]] = []
        self.base_rate = 0.0
        self.descent = DescentState(0, contract.ridge)
        self.gradient_norms: list[float] = []

    def open_counts(self, masked: Mapping[str, Sequence[int]]) -> None:
        """Sum the banks' masked counts, merge bins below the contract's minimums, keep features that still tell.

        Raises RunStopped if no feature is left, PeerError (B06) if the sum is no possible count.
        """
        bins = next(iter(self.tables.values())).columns.bins
        flat = _summed(masked, COUNT_BITS)
        rows = sum(table.columns.rows for table in self.tables.values())
        if len(flat) != 2 * sum(bins) or any(v > rows for v in flat):
            raise PeerError("the banks' masked counts do not add up to counts; one of them left the protocol", "B06")
        minima = (self.contract.min_rows, self.contract.min_bads, self.contract.min_goods)
        place = 0
        for name, count in zip(self.features, bins, strict=True):
            goods, bads = flat[place : place + count], flat[place + count : place + 2 * count]
            place += 2 * count
            self.base_rate = sum(bads) / max(1, sum(bads) + sum(goods))
            self._keep(name, goods, bads, minima)
        if not self.kept:
            raise RunStopped("no platform feature tells good from bad once small bins are merged; the run ends here")
        self._recode()
        self.descent = DescentState(len(self.kept), self.contract.ridge)

    def _keep(self, name: str, goods: list[int], bads: list[int], minima: tuple[int, int, int]) -> None:
        mapping = merge_small_bins(goods, bads, minima)
        size = max(mapping) + 1
        good, bad = [0] * size, [0] * size
        for old, new in enumerate(mapping):
            good[new] += goods[old]
            bad[new] += bads[old]
        if size < 2 or min(bad) < minima[1] or min(good) < minima[2]:
            self.dropped.append((name, "fewer than two bins hold the contract's minimum of rows, bads and goods"))
            return
        value = regression.information_value(good, bad)
        self.kept.append(FeatureTable(name, tuple(good), tuple(bad), woe_integers(good, bad), value, tuple(mapping)))

    def _recode(self) -> None:
        for table in self.tables.values():
            codes = []
            for feature in self.kept:
                column = table.columns.codes[self.features.index(feature.name)]
                codes.append([feature.merged[code] for code in column])
            sizes = tuple(len(f.woe) for f in self.kept)
            table.columns = Columns(tuple(codes), sizes, tuple(f.woe for f in self.kept))

    def scores(self, bank: str) -> Floats:
        """Return z_A of the bank's training rows at the lookahead weights."""
        return scores(design_of(self.tables[bank].columns), self.descent.lookahead)

    def close_round(self, masked: Mapping[str, Sequence[int]]) -> bool:
        """Open the sum of the banks' masked gradients, take one step, return whether the decrement rose twice."""
        modulus = 1 << self.layouts.width_bits
        totals = _summed(masked, self.layouts.width_bits)
        designs = []
        for bank in sorted(masked):
            outcome, table = self.tables[bank].outcome, self.tables[bank]
            if outcome is None:
                raise PeerError(f"{bank} answered a round without having it run", "S05")
            totals = [(t - m) % modulus for t, m in zip(totals, outcome.masks, strict=True)]
            designs.append(design_of(table.columns)[np.array(outcome.active, dtype=bool)])
            table.outcome = None
        gradient = np.array([gradient_value(t, self.layouts) for t in totals])
        self.gradient_norms.append(float(np.linalg.norm(gradient + self.descent.ridge * self.descent.lookahead)))
        return self.descent.advance(gradient, np.concatenate(designs), self.base_rate)


def _summed(masked: Mapping[str, Sequence[int]], width_bits: int) -> list[int]:
    try:
        return pairwise_masks.sum_masked([masked[bank] for bank in sorted(masked)], width_bits)
    except CryptoError as error:
        raise PeerError(f"the banks' masked values do not add up: {error}", "B06") from error


class BankStar:
    """One bank's model state of one run. `columns` are its own binned features over its training rows."""

    def __init__(self, contract: RunContract, bank: str, labels: Sequence[int], columns: Columns) -> None:
        self.contract, self.bank = contract, bank
        self.layouts: Layouts = plan_layouts(contract)
        self.labels = list(labels)
        self.woe = [
            woe_integers(*_counts(codes, labels, n)) for codes, n in zip(columns.codes, columns.bins, strict=True)
        ]
        codes, size, weight = intercept(len(self.labels))
        self.own = Columns((*columns.codes, codes), (*columns.bins, size), (*self.woe, weight))
        self.base_rate = sum(self.labels) / len(self.labels)
        self.descent = DescentState(len(self.own.bins), contract.ridge, [*([1.0] * len(columns.bins)), 0.0])
        self.descent.weights[-1] = self.descent.lookahead[-1] = 0.0
        self.corrections: list[list[int]] = []
        self._attempts: set[int] = set()
        self.pending: tuple[Floats, list[bool]] | None = None
        self.gradient_norms: list[float] = []

    def scores(self) -> Floats:
        """Return z_B of the training rows at the lookahead weights."""
        return scores(design_of(self.own), self.descent.lookahead)

    def attempt_corrections(self, attempt: int) -> list[int]:
        """Return Σ x_i·m_i of one attempt per own column, once. Raises PeerError (S05) for an attempt that was made
        already or whose masks were not prepared: none is used twice."""
        if not 0 <= attempt < self.layouts.masks.slots or attempt in self._attempts:
            raise PeerError(f"attempt {attempt} was made already, or no masks were prepared for it", "S05")
        self._attempts.add(attempt)
        return [column[attempt] for column in self.corrections]

    def settle(self) -> bool:
        """Take the step of the round that closed, return whether the decrement rose twice."""
        if self.pending is None:
            return False
        gradient, active = self.pending
        self.pending = None
        self.gradient_norms.append(float(np.linalg.norm(gradient + self.descent.ridge * self.descent.lookahead)))
        design = design_of(self.own)[np.array(active, dtype=bool)]
        return self.descent.advance(gradient, design, self.base_rate)


def _counts(codes: Sequence[int], labels: Sequence[int], bins: int) -> tuple[list[int], list[int]]:
    goods, bads = [0] * bins, [0] * bins
    for code, label in zip(codes, labels, strict=True):
        (bads if label else goods)[code] += 1
    return goods, bads


class MaskAgreement:
    """The pairwise masks of one bank in one run: its key, and a seed with each other bank, from signed keys."""

    def __init__(self, bank: str, run: str, seed: bytes) -> None:
        self.bank, self.run = bank, run
        self._secret, self.public = pairwise_masks.agreement_keypair(seed)
        self._seeds: dict[str, bytes] = {}

    def agree(self, keys: Mapping[str, bytes]) -> None:
        """Derive a seed with each other bank of `keys` (party id to X25519 public key)."""
        others = {bank: key for bank, key in keys.items() if bank != self.bank}
        try:
            self._seeds = {
                bank: pairwise_masks.pair_seed(self._secret, key, self.run, "star", _pair(self.bank, bank))
                for bank, key in others.items()
            }
        except CryptoError as error:
            raise PeerError(f"another bank's agreement key is none: {error}", "A01") from error

    @staticmethod
    def check_key(key: bytes) -> None:
        """Raise CryptoError unless `key` is an X25519 key with which a secret can be shared."""
        secret, _ = pairwise_masks.agreement_keypair(b"\x01" * 32)
        pairwise_masks.pair_seed(secret, key, "check", "star", ("a", "b"))

    def masked(self, values: Sequence[int], label: str, banks: Sequence[str], width_bits: int) -> list[int]:
        """Return `values` under the masks with the other banks of this round. `label` is used once in a run."""
        seeds = {bank: self._seeds[bank] for bank in banks if bank != self.bank}
        mask = pairwise_masks.mask_vector(self.bank, seeds, label, len(values), width_bits)
        return pairwise_masks.apply_mask(values, mask, width_bits)


def _pair(one: str, other: str) -> tuple[str, str]:
    return (one, other) if one < other else (other, one)


def round_label(round_number: int, attempt: int, banks: Sequence[str]) -> str:
    """Return the label of a round's masks: another attempt or another set of banks never meets the same mask."""
    return json.dumps([round_number, attempt, sorted(banks)])
