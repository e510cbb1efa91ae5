"""A bank's finished scorecard: base points, a multiplier for the platform's sub-score, whole points for each own bin.

    score = base points + f(platform's points) + Σ over the own features of the points of the row's bin
    f(s)  = ⌊(multiplier · s + 500,000) / 1,000,000⌋          the multiplier in millionths, so that f is exact

Higher is safer. A score of `base_score` stands for odds good:bad of `base_odds`, and every `points_to_double_odds` more
double them. Everything is an integer: the card scores the same wherever it is read. A row without points of the platform
is scored by the bank-only card, which is kept beside the joint one, and says so.

**Chance of default.** 1 / (1 + e^-(a + b·score)), a and b fitted on the rows of the refit (`scorecard_refit`). Where the
sample's bad rate is not the portfolio's, `at_base_rate` moves a by the difference of the two rates' log-odds (King and
Zeng 2001, prior correction).

**Reason codes** are those of `federation.reasons`: own features by their points lost, the platform's as codes alone.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from lianxin.federation.errors import InputFault
from lianxin.federation.points import BASELINES, FeaturePoints, Integers, points_table
from lianxin.federation.reasons import Reason, codes_of, merged_codes, read_reasons
from lianxin.parties.coding import BinSpec

MILLION, BILLION = 10**6, 10**9
JOINT, BANK_ONLY = "joint", "bank_only"
NAMES = {JOINT: "joint", BANK_ONLY: "bank only"}
PLATFORM_POINTS = "platform_points"
TYPE, VERSION = "bank-scorecard", 1
Band = tuple[int, int, int, int, int]


@dataclass(frozen=True)
class Calibration:
    """How a score becomes a chance of default. `bands` are the scores of the refit's rows in bands, riskiest first:
    (lowest score, highest score, rows, bads, mean chance in millionths)."""

    intercept_micro: int
    slope_nano: int
    bad_rate_micro: int
    bands: tuple[tuple[int, int, int, int, int], ...] = ()

    def chance_micro(self, score: int) -> int:
        """Return the chance of default of a score, in millionths."""
        return round(_chance(self.intercept_micro / MILLION + self.slope_nano * score / BILLION) * MILLION)

    def odds_at(self, score: int) -> float:
        """Return the odds, good to one bad, that a score stands for by this calibration."""
        return math.exp(min(-(self.intercept_micro / MILLION + self.slope_nano * score / BILLION), 700.0))

    def points_to_double(self) -> float | None:
        """Return how many points double these odds, None where more points do not raise them."""
        return math.log(2.0) * BILLION / -self.slope_nano if self.slope_nano < 0 else None

    def at_base_rate(self, bad_rate_micro: int) -> "Calibration":
        """Return this calibration for a portfolio of another bad rate, in millionths. Raises InputFault out of (0, 1)."""
        if not 0 < bad_rate_micro < MILLION:
            raise InputFault("a base rate lies between 0 and 1, for instance 0.02 for two bads in a hundred")
        shift = _log_odds(bad_rate_micro) - _log_odds(self.bad_rate_micro)
        bands = tuple((*band[:4], round(_chance(_log_odds(band[4]) + shift) * MILLION)) for band in self.bands)
        return Calibration(self.intercept_micro + round(shift * MILLION), self.slope_nano, bad_rate_micro, bands)

    def to_record(self) -> dict[str, Any]:
        """Return the calibration as canonical-JSON values."""
        names = ("from", "to", "rows", "bads", "pd_micro")
        return {
            "intercept_micro": self.intercept_micro, "slope_nano": self.slope_nano,
            "bad_rate_micro": self.bad_rate_micro,
            "bands": [dict(zip(names, band, strict=True)) for band in self.bands],
        }  # fmt: skip


@dataclass(frozen=True)
class Part:
    """One of a card's two sums: with the platform's sub-score (a multiplier that is not 0), or without it."""

    base_points: int
    multiplier_micro: int
    features: tuple[FeaturePoints, ...]
    calibration: Calibration

    def platform_part(self, points: int) -> int:
        """Return f(points): what the platform's sub-score adds to the total."""
        return (self.multiplier_micro * points + MILLION // 2) // MILLION

    def to_record(self) -> dict[str, Any]:
        """Return the sum as canonical-JSON values."""
        return {
            "base_points": self.base_points, "multiplier_micro": self.multiplier_micro,
            "features": [{"field": f.field, "points": list(f.points), "rows": list(f.rows)} for f in self.features],
            "calibration": self.calibration.to_record(),
        }  # fmt: skip


@dataclass(frozen=True)
class CardScore:
    """One row's score: by which part of the card, the total, the chance of default in millionths, reason codes."""

    model: str
    score: int
    pd_micro: int
    reasons: tuple[str, ...]

    def to_record(self) -> dict[str, Any]:
        """Return the score as JSON values."""
        return {"model": self.model, "score": self.score, "pd_micro": self.pd_micro, "reasons": list(self.reasons)}


@dataclass(frozen=True)
class Card:
    """A bank's scorecard of one run. `bins` and `reasons` are those of the own features in the order of both parts.

    `platform_best` and `platform_mean` are the highest and the mean f over the rows of the refit: what points of the
    platform are lost against. A model is kept no longer than `retain_until`, the contract's. `facts` say how the card was
    made: rows, bads, rounding effect, warnings.
    """

    run: str
    bank: str
    platform: str
    contract: str
    retain_until: str
    points_to_double_odds: int
    base_score: int
    base_odds: int
    bins: tuple[BinSpec, ...]
    reasons: tuple[Reason, ...]
    platform_reasons: tuple[Reason, ...]
    platform_best: int
    platform_mean: int
    joint: Part
    bank_only: Part | None
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def fields(self) -> tuple[str, ...]:
        """The own features that a row needs, in the card's order."""
        return tuple(reason.field for reason in self.reasons)

    def encode(self, columns: Mapping[str, Sequence[Any]]) -> list[list[int]]:
        """Return each own feature's bins. Raises InputFault naming the columns that are not there."""
        absent = [name for name in self.fields if name not in columns]
        if absent:
            raise InputFault(
                f"the table has no column {', '.join(absent)}, which the scorecard of run {self.run} needs; add it, "
                "empty where the value is not known"
            )
        return [spec.encode(columns[name]) for spec, name in zip(self.bins, self.fields, strict=True)]

    def score(
        self,
        columns: Mapping[str, Sequence[Any]],
        platform_points: Sequence[int | None],
        platform_codes: Sequence[Sequence[int]] = (),
        against: str = "best",
    ) -> list[CardScore]:
        """Return a score for each row. `columns` holds the own features, a column a name; missing and unseen values have
        bins of their own. `platform_points` has the sub-score of each row or None, `platform_codes` the numbers that came
        with it, or nothing. `against` says what points are lost against: `best` or `mean`.

        Raises InputFault for a column that is not there, and for a row without sub-score where there is no bank-only card.
        """
        if against not in BASELINES:
            raise InputFault(f"points are lost against one of {', '.join(BASELINES)}")
        if against == "mean" and not all(sum(f.rows) for f in self.joint.features):
            raise InputFault("this file does not say how many rows each bin had; use the JSON export, or `best`")
        rows, codes = len(platform_points), platform_codes or [()] * len(platform_points)
        bins = self.encode(columns)
        if any(len(column) != rows for column in bins):
            raise ValueError(f"{rows} sub-scores came for columns of another length")
        own = {name: own_points(part, bins, rows) for name, part in self.parts().items()}
        return [
            self._row(own, row, points, numbers, against)
            for row, (points, numbers) in enumerate(zip(platform_points, codes, strict=True))
        ]

    def parts(self) -> dict[str, Part]:
        """Return the card's sums by name, the joint one first."""
        return {JOINT: self.joint} | ({BANK_ONLY: self.bank_only} if self.bank_only is not None else {})

    def bands(self) -> dict[str, tuple[Band, ...]]:
        """Return the bands of each sum's calibration by name."""
        return {name: part.calibration.bands for name, part in self.parts().items()}

    def trained_rows(self) -> dict[str, tuple[int, ...]]:
        """Return the rows of the training in each own bin by field."""
        return {feature.field: feature.rows for feature in self.joint.features}

    def _row(
        self, own: Mapping[str, Integers], row: int, points: int | None, numbers: Sequence[int], against: str
    ) -> CardScore:
        is_joint = points is not None or not self.joint.multiplier_micro
        name, part = (JOINT, self.joint) if is_joint else (BANK_ONLY, self.bank_only)
        if part is None:
            raise InputFault(
                f"row {row + 1} has no {PLATFORM_POINTS}, and this file holds no card without them; export it as JSON, or "
                "give every row its points"
            )
        earned = own[name][:, row].tolist()
        added = part.platform_part(points) if points is not None else 0
        total = part.base_points + added + sum(earned)
        lost = {
            reason.code: feature.baseline(against) - value
            for reason, feature, value in zip(self.reasons, part.features, earned, strict=True)
        }
        top = self.platform_best if against == "best" else self.platform_mean
        missed = top - added if part.multiplier_micro else 0
        reasons = merged_codes(lost, codes_of(numbers, self.platform_reasons), missed)
        model = JOINT if part.multiplier_micro else BANK_ONLY
        return CardScore(model, total, part.calibration.chance_micro(total), tuple(reasons))

    def texts(self) -> dict[str, str]:
        """Return the plain text of every code of the card."""
        return {reason.code: reason.text for reason in (*self.reasons, *self.platform_reasons)}

    def at_base_rate(self, bad_rate_micro: int) -> "Card":
        """Return the card with its chances of default moved to a portfolio's bad rate; see `Calibration.at_base_rate`."""
        moved = {
            name: replace(part, calibration=part.calibration.at_base_rate(bad_rate_micro))
            for name, part in self.parts().items()
        }
        return replace(self, joint=moved[JOINT], bank_only=moved.get(BANK_ONLY))

    def scale(self) -> list[str]:
        """Return a sentence for each sum: on which scale its points are, and what they mean by its calibration."""
        set_by = (
            f"points are on the scale of the ridge regression, where {self.base_score} are {self.base_odds}:1 and "
            f"{self.points_to_double_odds} double the odds; chances of default come from the calibration, by which "
        )
        return [
            f"{NAMES[name]}: {set_by}{meaning(self.base_score, part.calibration)}"
            for name, part in self.parts().items()
        ]

    def without_platform(self) -> "Card":
        """Return the bank-only card as a card of its own. Raises InputFault when there is none."""
        if self.bank_only is None:
            raise InputFault(f"the scorecard of run {self.run} holds no card without the platform's sub-score")
        return replace(self, joint=self.bank_only, bank_only=None, platform_best=0, platform_mean=0, facts={})

    def to_record(self) -> dict[str, Any]:
        """Return the card as canonical-JSON values."""
        record = {
            "type": TYPE, "version": VERSION, "run": self.run, "bank": self.bank, "platform": self.platform,
            "contract": self.contract, "retain_until": self.retain_until, "points_to_double_odds": self.points_to_double_odds,
            "base_score": self.base_score, "base_odds": self.base_odds,
            "features": [
                {**reason.to_record(), "bins": spec.to_record()}
                for reason, spec in zip(self.reasons, self.bins, strict=True)
            ],
            "platform_reasons": [reason.to_record() for reason in self.platform_reasons],
            "platform_best": self.platform_best, "platform_mean": self.platform_mean, "facts": dict(self.facts),
        }  # fmt: skip
        return record | {name: part.to_record() for name, part in self.parts().items()}


def meaning(score: int, calibration: Calibration) -> str:
    """Return what a score means by a calibration, for instance "600 points mean odds of 63:1 and 19.4 double them"."""
    double = calibration.points_to_double()
    more = "more points do not raise them" if double is None else f"{double:.1f} double them"
    return f"{score} points mean odds of {calibration.odds_at(score):.3g}:1 and {more}"


def own_points(part: Part, bins: Sequence[Sequence[int]], rows: int) -> Integers:
    """Return the points of each own feature (an axis) and row (the other), from each feature's bins."""
    earned = np.zeros((len(part.features), rows), dtype=np.int64)
    for place, (feature, column) in enumerate(zip(part.features, bins, strict=True)):
        earned[place] = np.array(feature.points, dtype=np.int64)[np.asarray(column, dtype=np.intp)]
    return earned


def read_card(record: Mapping[str, Any]) -> Card:
    """Return the card that `to_record` wrote; raises InputFault when the record is none."""
    try:
        if record["type"] != TYPE or record["version"] != VERSION:
            raise InputFault(f"this is no scorecard of version {VERSION}; export it again with this version")
        card = _read(record)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise InputFault("the scorecard is damaged; export it again") from None
    for part in card.parts().values():
        counts = [(f.field, len(f.points)) for f in part.features]
        if counts != [(r.field, s.count) for r, s in zip(card.reasons, card.bins, strict=True)]:
            raise InputFault("the scorecard's points do not fit its bins; export it again")
    return card


def _read(record: Mapping[str, Any]) -> Card:
    features = record["features"]
    texts = [str(record[name]) for name in ("run", "bank", "platform", "contract", "retain_until")]
    scale = [_whole(record[name]) for name in ("points_to_double_odds", "base_score", "base_odds")]
    return Card(
        texts[0], texts[1], texts[2], texts[3], texts[4], scale[0], scale[1], scale[2],
        tuple(BinSpec.from_record(entry["bins"]) for entry in features),
        read_reasons(features), read_reasons(record["platform_reasons"]),
        _whole(record["platform_best"]), _whole(record["platform_mean"]),
        _part(record[JOINT], scale[0]), _part(record[BANK_ONLY], scale[0]) if BANK_ONLY in record else None,
        dict(record["facts"]),
    )  # fmt: skip


def _part(record: Mapping[str, Any], points_to_double_odds: int) -> Part:
    entry = record["calibration"]
    bands = tuple(
        tuple(_whole(band[name]) for name in ("from", "to", "rows", "bads", "pd_micro")) for band in entry["bands"]
    )
    calibration = Calibration(
        _whole(entry["intercept_micro"]), _whole(entry["slope_nano"]), _whole(entry["bad_rate_micro"]),
        bands,  # type: ignore[arg-type]
    )  # fmt: skip
    table = points_table(record["features"], points_to_double_odds)
    return Part(_whole(record["base_points"]), _whole(record["multiplier_micro"]), table.features, calibration)


def _whole(value: Any) -> int:
    if type(value) is not int or abs(value) >= 1 << 53:
        raise ValueError("a card's numbers are whole and below 2^53")
    return value


def _chance(log_odds: float) -> float:
    if log_odds >= 0:
        return 1.0 / (1.0 + math.exp(-log_odds))
    return math.exp(log_odds) / (1.0 + math.exp(log_odds))


def _log_odds(rate_micro: int) -> float:
    rate = min(max(rate_micro, 1), MILLION - 1) / MILLION
    return math.log(rate / (1.0 - rate))
