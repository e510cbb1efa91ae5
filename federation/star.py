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
from lianxin.federation.binning import Columns, intercept
from lianxin.federation.contract import RunContract
from lianxin.federation.errors import PeerError, RunStopped
from lianxin.federation.monotone import NO_ORDER, Order, merge_small_bins
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
from lianxin.federation.screening import (
    FeatureTable,
    Moments,
    correlated,
    feature_table,
    minima_of,
    woe_integers,
)

__all__ = ["COUNT_BITS", "BankStar", "BankTable", "FeatureTable", "MaskAgreement", "OwnScreen", "PlatformStar", "design_of",
           "merge_small_bins", "round_label", "screen_own", "woe_integers"]  # fmt: skip


def design_of(columns: Columns) -> Floats:
    """Return the WOE-coded design, a row a training row, a column a feature."""
    coded = [np.array(w, dtype=float)[np.array(c)] for c, w in zip(columns.codes, columns.woe, strict=True)]
    return np.stack(coded, axis=1) / 2.0**WOE_BITS if coded else np.zeros((columns.rows, 0))


@dataclass
class BankTable:
    """The platform's view of one bank: its training rows as shared rows, its features' codes, its keys and round."""

    rows: list[int] = field(repr=False)
    columns: Columns = field(repr=False)
    public: paillier.PublicKey | None = None
    outcome: PlatformOutcome | None = None


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

    def open_counts(self, masked: Mapping[str, Sequence[int]], orders: Mapping[str, Order] | None = None) -> None:
        """Sum the banks' masked counts, merge bins as the contract's minimums and the wished `orders` ask, and keep the
        features that still tell, by information value and by correlation with one another.

        Raises RunStopped if no feature is left, PeerError (B06) if the sum is no possible count.
        """
        bins = next(iter(self.tables.values())).columns.bins
        flat = _summed(masked, COUNT_BITS)
        rows = sum(table.columns.rows for table in self.tables.values())
        if len(flat) != 2 * sum(bins) or any(v > rows for v in flat):
            raise PeerError("the banks' masked counts do not add up to counts; one of them left the protocol", "B06")
        place = 0
        for name, count in zip(self.features, bins, strict=True):
            goods, bads = flat[place : place + count], flat[place + count : place + 2 * count]
            place += 2 * count
            self.base_rate = sum(bads) / max(1, sum(bads) + sum(goods))
            self._keep(
                feature_table(name, goods, bads, minima_of(self.contract), (orders or {}).get(name, NO_ORDER)), name
            )
        if not self.kept:
            raise RunStopped("no platform feature tells good from bad once small bins are merged; the run ends here")
        self._recode()
        self.descent = DescentState(len(self.kept), self.contract.ridge)
        self._drop_correlated()

    def _keep(self, found: FeatureTable | str, name: str) -> None:
        reason = found if isinstance(found, str) else weak(found, self.contract)
        if isinstance(found, str) or reason:
            self.dropped.append((name, reason))
        else:
            self.kept.append(found)

    def _drop_correlated(self) -> None:
        if self.contract.max_correlation_permille >= 1000:
            return
        moments = sum_moments([Moments.of(self.tables[bank].columns) for bank in sorted(self.tables)])
        self.drop(_correlated(self.kept, moments, self.contract))

    def drop(self, reasons: Mapping[str, str]) -> None:
        """Leave features out before the first round, each with its reason. Raises RunStopped if none is left."""
        self.dropped += reasons.items()
        left = [place for place, feature in enumerate(self.kept) if feature.name not in reasons]
        if not left:
            raise RunStopped(
                "selection leaves no platform feature; loosen max_vif_hundredths or max_correlation_permille"
            )
        self.kept = [self.kept[place] for place in left]
        for table in self.tables.values():
            table.columns = chosen(table.columns, left)
        self.descent = DescentState(len(self.kept), self.contract.ridge)

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


def weak(feature: FeatureTable, contract: RunContract) -> str:
    """Return why a feature tells too little for the contract, "" when it does not."""
    least = contract.min_iv_millionths / 10**6
    if feature.information_value >= least:
        return ""
    return f"its information value of {feature.information_value:.4f} is under the contract's {least:.4f}"


def sum_moments(parts: Sequence[Moments]) -> Moments:
    """Return the moments over all parts of the rows, of which there is at least one."""
    total, *others = parts
    for other in others:
        total = total + other
    return total


def _correlated(features: Sequence[FeatureTable], moments: Moments, contract: RunContract) -> dict[str, str]:
    values, limit = [feature.information_value for feature in features], contract.max_correlation_permille
    return correlated([feature.name for feature in features], values, moments.correlations(), limit)


def chosen(columns: Columns, places: Sequence[int]) -> Columns:
    """Return only the columns at these places, in their order."""
    woe = tuple(columns.woe[place] for place in places) if columns.woe else ()
    return Columns(tuple(columns.codes[place] for place in places), tuple(columns.bins[place] for place in places), woe)


@dataclass(frozen=True)
class OwnScreen:
    """What a bank keeps of its own features: their tables, `columns` in merged bins, and (feature, reason) dropped."""

    kept: tuple[FeatureTable, ...]
    columns: Columns = field(repr=False)
    dropped: tuple[tuple[str, str], ...]


def screen_own(
    contract: RunContract, names: Sequence[str], columns: Columns, labels: Sequence[int],
    orders: Mapping[str, Order] | None = None,
) -> OwnScreen:  # fmt: skip
    """Return a bank's own features as they enter its run: merged by its own counts, chosen by the contract's terms."""
    kept, dropped, codes = list[FeatureTable](), list[tuple[str, str]](), list[list[int]]()
    for name, column, bins in zip(names, columns.codes, columns.bins, strict=True):
        order = (orders or {}).get(name, NO_ORDER)
        found = feature_table(name, *_counts(column, labels, bins), minima_of(contract), order)
        reason = found if isinstance(found, str) else weak(found, contract)
        if isinstance(found, str) or reason:
            dropped.append((name, reason))
            continue
        kept.append(found)
        codes.append([found.merged[code] for code in column])
    merged = Columns(tuple(codes), tuple(len(f.woe) for f in kept), tuple(f.woe for f in kept))
    gone = _correlated(kept, Moments.of(merged), contract) if kept else {}
    left = [place for place, feature in enumerate(kept) if feature.name not in gone]
    return OwnScreen(tuple(kept[place] for place in left), chosen(merged, left), (*dropped, *gone.items()))


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

    def drop(self, places: Sequence[int]) -> None:
        """Leave own features out before the first round, with what was prepared for them; the intercept stays."""
        left = [place for place in range(len(self.own.bins)) if place not in places]
        self.own = chosen(self.own, left)
        self.woe = list(self.own.woe[:-1])
        self.corrections = [self.corrections[place] for place in left] if self.corrections else []
        self.descent = DescentState(len(left), self.contract.ridge, [*([1.0] * (len(left) - 1)), 0.0])

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
