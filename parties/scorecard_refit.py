"""The bank's last step: exact logistic regression on the platform's points and its own features, made a scorecard.

    z = b0 + b1 · x + Σ β_j · WOE_j,  x = -s · ln 2 / PDO of the platform's points s          (log-odds of bad)
    exact score = offset - F · z,     F = PDO / ln 2, offset = base_score - F · ln(base_odds)

so that the multiplier of s is b1, the base points are offset - F · b0, and an own bin is worth -F · β · WOE, each rounded.
What the rounding does is measured on the rows of the refit and on held-out rows: AUC and KS of both scores, the largest
and the mean distance, Spearman's rank correlation. The chance of default is fitted on the *rounded* score.

The ridge keeps the refit finite where bads and goods separate; the card then says `separable`: its weights are the
ridge's choice, and more rows or fewer features are what helps.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lianxin.federation import evaluation, regression
from lianxin.federation.contract import RunContract
from lianxin.federation.errors import RunStopped
from lianxin.federation.points import FeaturePoints, bin_points, factor, log_odds, rounding
from lianxin.federation.reasons import Reason, reason_table
from lianxin.federation.scorecard import WOE_BITS
from lianxin.federation.screening import fit_signed
from lianxin.parties.coding import BinSpec
from lianxin.parties.scorecard_card import BILLION, MILLION, Calibration, Card, Part

BANDS = 10
NEARLY_APART, LEAST_RIDGE = 0.99, 1e-6
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Rows:
    """Rows to fit on or to look at: each own feature's bins, the labels, the platform's points where there are any."""

    bins: Sequence[Sequence[int]] = field(repr=False)
    labels: Sequence[int] = field(repr=False)
    points: Sequence[int] | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Fitted:
    """What the refit found: coefficients of both models (intercept first; the joint one's second is the sub-score's)."""

    joint: Floats
    bank_only: Floats


class Refit:
    """One bank's refit: its own features' bins and weights of evidence (at 2^12), and the contract's scale."""

    def __init__(
        self, contract: RunContract, bank: str, specs: Mapping[str, BinSpec], woe: Sequence[Sequence[int]]
    ) -> None:
        self.contract, self.bank, self.specs, self.woe = contract, bank, dict(specs), [tuple(w) for w in woe]
        self.pdo = contract.points_to_double_odds
        self.wrong_sign: dict[str, list[str]] = {}

    def design(self, rows: Rows) -> Floats:
        """Return the columns of the regression: the log-odds that the points stand for, if any, then the own WOE."""
        columns = [] if rows.points is None else [log_odds(rows.points, self.pdo)]
        columns += [
            np.array(w, dtype=float)[np.asarray(b, dtype=np.intp)] / 2.0**WOE_BITS
            for w, b in zip(self.woe, rows.bins, strict=True)
        ]
        return np.stack(columns, axis=1) if columns else np.zeros((len(rows.labels), 0))

    def fit(self, scored: Rows, training: Rows) -> Fitted:
        """Return both models: the joint one on `scored`, the bank's alone on all its training rows.

        Raises RunStopped where a fit has one class of the label only, or does not settle.
        """
        return Fitted(self._fit(scored, "rows with score consent"), self._fit(training, "training rows"))

    def _fit(self, rows: Rows, what: str) -> Floats:
        if len(set(rows.labels)) < 2:
            raise RunStopped(
                f"{self.bank}'s {what} hold one class of the label only; give it more loans, or ask more firms for a "
                "consent in score mode"
            )
        try:
            first, drops = int(rows.points is not None), self.contract.sign_check == "drop"
            fitted, wrong = fit_signed(self.design(rows), rows.labels, self.contract.ridge, first, drops)
            self.wrong_sign["joint" if first else "bank_only"] = [list(self.specs)[place - first] for place in wrong]
            return fitted
        except regression.FitNotConverged as fault:
            raise RunStopped(
                f"{self.bank}'s regression on its {what} did not settle; raise ridge_thousandths in the run's terms and "
                "launch it again"
            ) from fault

    def card(
        self, fitted: Fitted, scored: Rows, training: Rows, test: Rows, texts: Mapping[str, Mapping[str, str]]
    ) -> Card:
        """Return the finished card. `test` may be empty; `texts` has the plain words of fields by party and field."""
        joint, alone = self._part(fitted.joint, scored), self._part(fitted.bank_only, training)
        given = np.array([joint.platform_part(p) for p in scored.points or ()], dtype=np.int64)
        own, theirs = (self._reasons(party, texts) for party in (self.bank, self.contract.platform))
        place = {reason.field: reason for reason in own}
        return Card(
            self.contract.run, self.bank, self.contract.platform, self.contract.hash,
            self.contract.retain_until, self.pdo,
            self.contract.base_score, self.contract.base_odds,
            tuple(self.specs.values()), tuple(place[name] for name in self.specs), theirs,
            int(given.max()), round(float(given.mean())), joint, alone, self._facts(fitted, joint, scored, test),
        )  # fmt: skip

    def _reasons(self, party: str, texts: Mapping[str, Mapping[str, str]]) -> tuple[Reason, ...]:
        return reason_table(self.contract, party, texts.get(party))

    def _part(self, coefficients: Floats, rows: Rows) -> Part:
        has_points = rows.points is not None
        own = coefficients[2 if has_points else 1 :]
        features = tuple(
            FeaturePoints(name, bin_points(float(b), w, self.pdo), tuple(np.bincount(codes, minlength=len(w)).tolist()))
            for name, b, w, codes in zip(self.specs, own, self.woe, rows.bins, strict=True)
        )
        base = round(self._offset() - factor(self.pdo) * float(coefficients[0]))
        multiplier = round(float(coefficients[1]) * MILLION) if has_points else 0
        bare = Part(base, multiplier, features, Calibration(0, 0, 1))
        totals = totals_of(bare, rows)
        return Part(base, multiplier, features, self._calibrate(totals, rows.labels))

    def _offset(self) -> float:
        return self.contract.base_score - factor(self.pdo) * math.log(self.contract.base_odds)

    def _calibrate(self, totals: NDArray[np.int64], labels: Sequence[int]) -> Calibration:
        unit, base = factor(self.pdo), self.contract.base_score
        a, b = regression.fit_logistic(((totals - base) / unit)[:, None], np.array(labels), self.contract.ridge)
        intercept, slope = float(a - b * base / unit), float(b / unit)
        rate = round(sum(labels) / len(labels) * MILLION)
        line = Calibration(round(intercept * MILLION), round(slope * BILLION), rate)
        return Calibration(line.intercept_micro, line.slope_nano, rate, bands_of(totals, labels, line))

    def _is_separable(self, exact: Floats, rows: Rows) -> bool:
        """Return whether some weights part all bads from all goods: those without a ridge would, and have no end."""
        area = evaluation.auc(rows.labels, -exact)
        if area is None or area < NEARLY_APART:
            return False
        try:
            free = regression.fit_logistic(self.design(rows), np.array(rows.labels), LEAST_RIDGE)
        except regression.FitNotConverged:
            return True
        return is_separable(self.exact(free, rows), rows.labels)

    def exact(self, coefficients: Floats, rows: Rows) -> Floats:
        """Return each row's score before any rounding on this side."""
        z = coefficients[0] + self.design(rows) @ coefficients[1:]
        return self._offset() - factor(self.pdo) * z

    def _facts(self, fitted: Fitted, joint: Part, scored: Rows, test: Rows) -> dict[str, object]:
        exact = self.exact(fitted.joint, scored)
        return {
            "refit_rows": len(scored.labels), "refit_bads": sum(scored.labels),
            "separable": self._is_separable(exact, scored), "sub_score_reversed": joint.multiplier_micro <= 0,
            "rounding": {
                name: rounding_effect(self.exact(fitted.joint, rows), totals_of(joint, rows), rows.labels)
                for name, rows in (("refit", scored), ("test", test))
                if rows.labels
            },
        }  # fmt: skip


def totals_of(part: Part, rows: Rows) -> NDArray[np.int64]:
    """Return the whole-point score of each row."""
    totals = np.full(len(rows.labels), part.base_points, dtype=np.int64)
    if rows.points is not None:
        totals += np.array([part.platform_part(p) for p in rows.points], dtype=np.int64)
    for feature, codes in zip(part.features, rows.bins, strict=True):
        totals += np.array(feature.points, dtype=np.int64)[np.asarray(codes, dtype=np.intp)]
    return totals


def chances_of(part: Part, rows: Rows) -> list[float]:
    """Return the chance of default that the card delivers for each row."""
    return [part.calibration.chance_micro(int(total)) / MILLION for total in totals_of(part, rows)]


def is_separable(scores: Floats, labels: Sequence[int]) -> bool:
    """Return whether every bad of these rows scores below every good."""
    bad = np.array(labels, dtype=bool)
    return bool(bad.any() and not bad.all() and scores[bad].max() < scores[~bad].min())


def rounding_effect(exact: Floats, totals: NDArray[np.int64], labels: Sequence[int]) -> dict[str, int]:
    """Return what whole points change: AUC and KS of both scores in millionths where both classes are there, the distance
    in thousandths of a point, the rank correlation in millionths, and the rows."""
    found = {
        "rows": len(labels),
        **rounding(exact, totals),
        "rank_micro": round(rank_correlation(exact, totals) * MILLION),
    }
    for name, measure in (("auc", evaluation.auc), ("ks", evaluation.ks)):
        for kind, scores in (("exact", exact), ("card", totals.astype(float))):
            value = measure(labels, -scores)
            if value is not None:
                found[f"{name}_{kind}_micro"] = round(value * MILLION)
    return found


def rank_correlation(one: Floats, other: NDArray[np.int64]) -> float:
    """Return Spearman's rank correlation, ties at midranks; 1 where one of the two says nothing."""
    first, second = _midranks(one), _midranks(other)
    spread = float(first.std() * second.std())
    return float(((first - first.mean()) * (second - second.mean())).mean() / spread) if spread else 1.0


def _midranks(values: NDArray) -> Floats:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts - 1) / 2.0)[place], dtype=np.float64)


def bands_of(
    totals: NDArray[np.int64], labels: Sequence[int], line: Calibration
) -> tuple[tuple[int, int, int, int, int], ...]:
    """Return at most ten bands of about as many rows each, riskiest first; rows of one score share a band."""
    distinct, place = np.unique(totals, return_inverse=True)
    rows = np.bincount(place)
    bads = np.bincount(place, weights=np.array(labels, dtype=float)).astype(int)
    band = np.minimum((np.cumsum(rows) - 1) * BANDS // len(totals), BANDS - 1)
    chances = np.array([line.chance_micro(int(s)) for s in distinct], dtype=float)
    found = []
    for number in sorted(set(band.tolist())):
        here = band == number
        count = int(rows[here].sum())
        chance = round(float((chances[here] * rows[here]).sum() / count))
        found.append((int(distinct[here].min()), int(distinct[here].max()), count, int(bads[here].sum()), chance))
    return tuple(found)
