"""The star: one platform with K banks, common bins and platform weights, own bank weights (protocols.md, section 5).

`PlatformStar` and `BankStar` hold what each side knows between messages: codes, weights of evidence, weights, the
masks of the current attempt. Neither knows a firm or a channel. Sums over banks are in Z_{2^W} and secret
(federation.secure_sum): the platform opens totals of all the banks of a round, never one bank's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from lianxin.crypto import paillier
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

__all__ = ["COUNT_BITS", "BankStar", "BankTable", "FeatureTable", "OwnScreen", "PlatformStar", "design_of",
           "merge_small_bins", "screen_own", "woe_integers"]  # fmt: skip


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
        self.descent = self._descent()
        self.gradient_norms: list[float] = []

    @property
    def count_length(self) -> int:
        """How many counts a bank adds: goods, then bads, in the bins of each feature."""
        return 2 * sum(next(iter(self.tables.values())).columns.bins)

    def open_counts(self, flat: Sequence[int], orders: Mapping[str, Order] | None = None) -> None:
        """Take the banks' counts, summed, merge bins as the contract's minimums and the wished `orders` ask, and keep the
        features that still tell, by information value and by correlation with one another.

        Raises RunStopped if no feature is left, PeerError (B06) if the sum is no possible count.
        """
        bins = next(iter(self.tables.values())).columns.bins
        rows = sum(table.columns.rows for table in self.tables.values())
        if len(flat) != self.count_length or any(v > rows for v in flat):
            raise PeerError("the banks' counts do not add up to counts; one of them left the protocol", "B06")
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
        self.descent = self._descent()
        self._drop_correlated()

    def _descent(self) -> DescentState:
        return DescentState(len(self.kept), self.contract.ridge, signed=self.contract.sign_check == "drop")

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
        self.descent = self._descent()

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

    def close_round(self, banks: Sequence[str], totals: Sequence[int]) -> bool:
        """Take one step by the gradient sums of `banks`, of which each is under its outcome's masks; return whether the
        decrement rose twice.

        `totals` are integers modulo 2^W, one a kept feature. Raises PeerError (B06) for another number of them, (S05) for
        a bank that had no round.
        """
        modulus = 1 << self.layouts.width_bits
        if len(totals) != len(self.kept):
            raise PeerError("the banks' gradients do not add up: another number of entries than of features", "B06")
        designs, bends = [], []
        for bank in sorted(banks):
            outcome, table = self.tables[bank].outcome, self.tables[bank]
            if outcome is None:
                raise PeerError(f"{bank} answered a round without having it run", "S05")
            totals = [(int(t) - m) % modulus for t, m in zip(totals, outcome.masks, strict=True)]
            designs.append(design_of(table.columns)[np.array(outcome.active, dtype=bool)])
            bends.append(outcome.bends)
            table.outcome = None
        gradient = np.array([gradient_value(t, self.layouts) for t in totals])
        self.gradient_norms.append(float(np.linalg.norm(gradient + self.descent.ridge * self.descent.lookahead)))
        return self.descent.advance(gradient, np.concatenate(designs), np.concatenate(bends))


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
        self.descent = self._descent()
        self.corrections: list[list[int]] = []
        self._attempts: set[int] = set()
        self.pending: tuple[Floats, list[bool], Floats] | None = None
        self.gradient_norms: list[float] = []

    def drop(self, places: Sequence[int]) -> None:
        """Leave own features out before the first round, with what was prepared for them; the intercept stays."""
        left = [place for place in range(len(self.own.bins)) if place not in places]
        self.own = chosen(self.own, left)
        self.woe = list(self.own.woe[:-1])
        self.corrections = [self.corrections[place] for place in left] if self.corrections else []
        self.descent = self._descent()

    def _descent(self) -> DescentState:
        bound = [*([1.0] * (len(self.own.bins) - 1)), 0.0]
        begun = DescentState(len(bound), self.contract.ridge, bound, signed=self.contract.sign_check == "drop")
        begun.begin(sum(self.labels), len(self.labels))
        return begun

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
        gradient, active, bends = self.pending
        self.pending = None
        self.gradient_norms.append(float(np.linalg.norm(gradient + self.descent.ridge * self.descent.lookahead)))
        design = design_of(self.own)[np.array(active, dtype=bool)]
        return self.descent.advance(gradient, design, bends)


def _counts(codes: Sequence[int], labels: Sequence[int], bins: int) -> tuple[list[int], list[int]]:
    goods, bads = [0] * bins, [0] * bins
    for code, label in zip(codes, labels, strict=True):
        (bads if label else goods)[code] += 1
    return goods, bads
