"""The arithmetic of the joint scorecard (protocols.md, section 5): vertical logistic regression in fixed point.

z = z_A + z_B, platform A and bank B. On this round's range σ(z) ≈ p(z) = a0 + a1·z + a2·z², and the residual is
bilinear in what each side knows:

    p(z) - y = [a0 + a1·z_B + a2·z_B² - y] + z_A·[a1 + 2·a2·z_B] + a2·z_A²

Scales: WOE at 2^12, z at 2^16, the slope bracket at 2^40, residuals at 2^56. |z_A|, |z_B| <= 16 by local clipping;
a public shift s = 2^20 keeps the exponent z_A + s non-negative, and B folds -s·slope into its constant.

Slots are as wide as interval arithmetic over the contract's bounds says: rows, banks, slots, the clipping of scores and
weights, the scales, and the largest coefficients of the public table (a test walks all of it). `plan_layouts` gives a
layout only together with the proof that no packed value overflows, from single residuals to the sum over all banks.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from lianxin.crypto.intervals import Interval, around, exactly, signed, unsigned
from lianxin.crypto.packing import FREE_BITS, ProvedRange, SlotLayout, centre, plan_layout, prove_fits, prove_within
from lianxin.federation.contract import RunContract

WOE_BITS = 12
SCORE_BITS = 16
SLOPE_BITS = 40
RESIDUAL_BITS = SCORE_BITS + SLOPE_BITS
GRADIENT_BITS = RESIDUAL_BITS + WOE_BITS
SCORE_LIMIT = 16.0
WOE_LIMIT = 6
SHIFT = 1 << (SCORE_BITS + 4)
EXPONENT_BITS = SCORE_BITS + 5
GRID = 0.25
SPREAD_STEPS = 32
MEAN_STEPS = int(2 * SCORE_LIMIT / GRID)
RESIDUAL_LIMIT = 64
SIGNIFICANT_BITS = 24
WEIGHT_GRID = 2.0**-24
LABEL_SHIFT, TAG_SHIFT, TAG_BITS = 32, 64, 40
COUNT_BITS = 64
COEFFICIENT_BITS = 10
COEFFICIENT_LIMITS = (1024, 295, 47)  # of |a0|, |a1|, |a2| over the public grid, at 2^10
_MASK_WEIGHT_BITS = 15
_DOUBLE_NOISE = 1 << 12  # of a bracket at 2^56: doubles below 32 are 2^-48 apart, and few operations round
_FLOOR_WEIGHT = 0.01
_POINTS = 161
LEAST_BEND, MOST_BEND = 0.02, 0.25
_SAFETY = 1.6

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Layouts:
    """The slots of a run. `residual` packs gradient terms under a bank's key, `masks` the masks of all attempts under
    the platform's; `rounding_bits` low bits of every returned total are dropped. `proof` shows that nothing overflows."""

    residual: SlotLayout
    masks: SlotLayout
    rounding_bits: int
    proof: tuple[ProvedRange, ...] = field(default=(), repr=False, compare=False)

    @property
    def width_bits(self) -> int:
        """W: every total of the run is an integer modulo 2^W."""
        return self.residual.width_bits


def plan_layouts(contract: RunContract) -> Layouts:
    """Return the layouts that the contract's sizes prove free of overflow. Raises PackingOverflow if none fits."""
    gradient = gradient_range(contract.max_rows).total(len(contract.banks))
    residual = plan_layout(gradient.magnitude, contract.key_bits)
    mask_sums = mask_sum_range(contract.max_rows, residual.width_bits)
    width = mask_sums.signed_bits
    masks = SlotLayout(width, min(contract.attempts, (contract.key_bits - FREE_BITS) // width), contract.key_bits)
    rounding_bits = max(0, gradient.magnitude.bit_length() - SIGNIFICANT_BITS)
    return Layouts(residual, masks, rounding_bits, _prove(contract, residual, masks, mask_sums, rounding_bits))


def _prove(
    contract: RunContract, residual: SlotLayout, masks: SlotLayout, mask_sums: Interval, rounding_bits: int
) -> tuple[ProvedRange, ...]:
    row = residual_ranges()
    totals = total_ranges(contract.max_rows, len(contract.banks), residual.slots, rounding_bits)
    limit = signed((RESIDUAL_LIMIT << RESIDUAL_BITS).bit_length())
    return (
        prove_within("exponent, score and shift", exponent_range(), unsigned(EXPONENT_BITS)),
        prove_within("residual under its limit", row["residual"], limit),
        *prove_fits(residual, {**row, **totals}),
        *prove_fits(masks, {"sum of masks": mask_sums}),
        *_prove_counts(contract),
    )


def exponent_range() -> Interval:
    """Return the range of z_A + s at 2^16, the exponent of one row: positive."""
    return around(SHIFT - 1) + exactly(SHIFT)


def residual_ranges() -> dict[str, Interval]:
    """Return, by name in the order of a round's steps, the range of what is computed for one row.

    The residual's range is that of bracket + slope·z_A + a2·z_A²: the shift cancels, and each coefficient counts alone.
    """
    z, fixed = around(int(SCORE_LIMIT)), around(SHIFT - 1)
    a0, a1, a2 = map(around, COEFFICIENT_LIMITS)
    slope = (a1 + (a2 * z).scale(2) << SLOPE_BITS - COEFFICIENT_BITS) + around(1)
    label = unsigned(1) << RESIDUAL_BITS
    bracket = (a0 + a1 * z + a2 * z.square() << RESIDUAL_BITS - COEFFICIENT_BITS) - label + around(_DOUBLE_NOISE)
    factor = (a2 << RESIDUAL_BITS - 2 * SCORE_BITS - COEFFICIENT_BITS) + around(1)
    square = factor * fixed.square()
    return {
        "slope": slope,
        "constant less shifted slope": bracket - slope.scale(SHIFT),
        "slope times exponent": slope * exponent_range(),
        "square term": square,
        "residual": bracket + slope * fixed + square,
    }


def gradient_range(rows: int) -> Interval:
    """Return the range of Σ WOE·residual over at most `rows` rows of one bank, at 2^68, under the declared limits."""
    term = around(WOE_LIMIT << WOE_BITS) * around(RESIDUAL_LIMIT << RESIDUAL_BITS)
    return term.total_at_most(rows)


def total_ranges(rows: int, banks: int, slots: int, rounding_bits: int) -> dict[str, Interval]:
    """Return, by name, the range of every total mod 2^W as it is read: with the carry of each slot and the rounding."""
    carry, rounding, weight = around(1), around((1 << rounding_bits) >> 1), around(WOE_LIMIT << WOE_BITS)
    one = gradient_range(rows)
    answered = one + carry.total(slots) + rounding
    corrected = one + (weight * carry).total_at_most(rows) + carry + rounding
    return {
        "a bank's sum for the platform": answered,
        "the platform's gradient": answered.total(banks),
        "a bank's own gradient": corrected,
    }


def mask_sum_range(rows: int, width_bits: int) -> Interval:
    """Return the range of Σ weight·mask over at most `rows` rows: weights within ±2^15, masks in [0, 2^W]."""
    return (around(1 << _MASK_WEIGHT_BITS) * Interval(0, 1 << width_bits)).total_at_most(rows)


def _prove_counts(contract: RunContract) -> tuple[ProvedRange, ...]:
    """Prove the fields of the label counts (protocols.md, section 4): rows, bads, masked tags, and their sum over banks.

    n has its top bit set, so that a plaintext of key_bits - 1 bits never wraps around it.
    """
    rows = unsigned(1).total_at_most(contract.max_rows)
    hidden = unsigned(contract.key_bits - TAG_SHIFT - 2)
    tags = unsigned(TAG_BITS).total_at_most(contract.max_rows) + hidden
    plaintext = rows + (rows << LABEL_SHIFT) + (tags << TAG_SHIFT)
    return (
        prove_within("rows of a bin", rows, unsigned(LABEL_SHIFT)),
        prove_within("bads of a bin", rows, unsigned(TAG_SHIFT - LABEL_SHIFT)),
        prove_within("label counts under their mask", plaintext, unsigned(contract.key_bits - 1)),
        prove_within("counts over all banks", rows.total(len(contract.banks)), unsigned(COUNT_BITS)),
    )


def grid_steps(mean: float, spread: float) -> tuple[int, int]:
    """Return (mean, spread) in public grid steps of 0.25, the spread rounded up, both within their limits."""
    steps = max(-MEAN_STEPS, min(MEAN_STEPS, round(mean / GRID)))
    return steps, max(0, min(SPREAD_STEPS, math.ceil(spread / GRID)))


@lru_cache(maxsize=256)
def residual_polynomial(mean_steps: int, spread_steps: int) -> tuple[float, float, float]:
    """Return (a0, a1, a2), the least squares quadratic for σ on a normal of that mean and spread.

    The weight has a floor of 0.01, so that far rows still count. Both sides compute this from the contract's grid; the
    platform never takes coefficients from a bank. Raises ValueError outside the grid.
    """
    if abs(mean_steps) > MEAN_STEPS or not 1 <= spread_steps <= SPREAD_STEPS:
        raise ValueError("a range outside the public grid was asked for")
    mean, spread = mean_steps * GRID, spread_steps * GRID
    u = [-4.0 + 8.0 * k / (_POINTS - 1) for k in range(_POINTS)]
    weight = [max(math.exp(-0.5 * t * t), _FLOOR_WEIGHT) for t in u]
    target = [_sigmoid(mean + spread * t) for t in u]
    moments = [sum(w * t**k for w, t in zip(weight, u, strict=True)) for k in range(5)]
    right = [sum(w * t**k * y for w, t, y in zip(weight, u, target, strict=True)) for k in range(3)]
    c0, c1, c2 = _solve([[moments[i + j] for j in range(3)] for i in range(3)], right)
    c1, c2 = c1 / spread, c2 / (spread * spread)
    return c0 - c1 * mean + c2 * mean * mean, c1 - 2.0 * c2 * mean, c2


def _sigmoid(z: float) -> float:
    return 1.0 / (1.0 + math.exp(-z)) if z >= 0 else math.exp(z) / (1.0 + math.exp(z))


def _solve(matrix: list[list[float]], right: list[float]) -> list[float]:
    rows = [[*line, value] for line, value in zip(matrix, right, strict=True)]
    for i in range(len(rows)):
        rows[i] = [v / rows[i][i] for v in rows[i]]
        for j in range(len(rows)):
            if j != i:
                rows[j] = [a - rows[j][i] * b for a, b in zip(rows[j], rows[i], strict=True)]
    return [row[-1] for row in rows]


def scores(design: Floats, weights: Floats) -> Floats:
    """Return design @ weights, clipped to ±16: one z a row."""
    return np.clip(design @ weights, -SCORE_LIMIT, SCORE_LIMIT)


def fixed_scores(z: Floats) -> list[int]:
    """Return z at 2^16, within (-s, s)."""
    return [max(1 - SHIFT, min(SHIFT - 1, int(v))) for v in np.rint(z * 2.0**SCORE_BITS)]


def residual_shares(
    polynomial: tuple[float, float, float], bank_scores: Floats, labels: Sequence[int]
) -> tuple[list[int], list[int]]:
    """Return the bank's (constants, slopes) a row, as integers at 2^56 and 2^40, the shift already folded in."""
    a0, a1, a2 = polynomial
    constants, slopes = [], []
    for z, y in zip(bank_scores.tolist(), labels, strict=True):
        slope = round((a1 + 2.0 * a2 * z) * 2.0**SLOPE_BITS)
        slopes.append(slope)
        constants.append(round((a0 + a1 * z + a2 * z * z - y) * 2.0**RESIDUAL_BITS) - slope * SHIFT)
    return constants, slopes


def square_terms(polynomial: tuple[float, float, float], fixed: Sequence[int]) -> list[int]:
    """Return a2·z_A² at 2^56 for each of the platform's scores at 2^16."""
    factor = round(polynomial[2] * 2.0 ** (RESIDUAL_BITS - 2 * SCORE_BITS))
    return [factor * z * z for z in fixed]


def rounded(total: int, layouts: Layouts) -> int:
    """Return a total mod 2^W, its low bits dropped: 24 significant bits of the bound remain."""
    half = (1 << layouts.rounding_bits) >> 1
    kept = ((total + half) >> layouts.rounding_bits) << layouts.rounding_bits
    return kept % (1 << layouts.width_bits)


def gradient_value(total: int, layouts: Layouts) -> float:
    """Return the gradient entry that a total mod 2^W stands for."""
    return centre(total, layouts.width_bits) / 2.0**GRADIENT_BITS


def row_bends(polynomial: tuple[float, float, float], scores: Floats, other_mean_steps: int) -> Floats:
    """Return each row's p'(z), where of z a side knows its own part and the mean of the other's on the grid.

    Within [0.02, 0.25]: σ' is nowhere more, and a row on which p has flattened still counts.
    """
    _, a1, a2 = polynomial
    return np.clip(a1 + 2.0 * a2 * (scores + other_mean_steps * GRID), LEAST_BEND, MOST_BEND)


class DescentState:
    """One side's weights under quasi-Newton steps with Nesterov momentum (protocols.md, section 5, step 5).

    w ← v − (1.6·XᵀDX + λI)^{-1}(g + λv), D = p'(z) of each row as this side knows it (`row_bends`). The other side steps at
    once: the curvature of both is at most twice that of one, and momentum bears 4/3 of a safe step, hence 1.6 > 2·3/4.
    Weights lie on a grid of 2^-24, so that a rerun elsewhere gives the same integers. `penalised[j]` is 0 for an intercept.
    With `signed` no penalised weight is ever positive (a weight of evidence wants none): those that a step would turn so are
    held at 0, the most positive first, and the others take the step that is best beside them. In the next they are free again.
    """

    def __init__(self, size: int, ridge: float, penalised: Sequence[float] | None = None, signed: bool = False) -> None:
        bound = np.array(penalised if penalised is not None else [1.0] * size)
        self.ridge = ridge * bound
        self.weights: Floats = np.zeros(size)
        self.lookahead: Floats = np.zeros(size)
        self._signed = (bound > 0) & signed
        self._momentum, self._scale = 1.0, 1.0
        self._decrement, self._rises = math.inf, 0

    def begin(self, bads: int, rows: int) -> None:
        """Start the last weight, an intercept, at the log-odds of its rows: from 0 six rounds do not get there where bads
        are rare."""
        bad = min(max(float(bads), 0.5), rows - 0.5)
        self.weights[-1] = math.log(bad / (rows - bad))
        self.weights = _on_grid(self.weights)
        self.lookahead = self.weights.copy()

    def advance(self, gradient: Floats, design: Floats, bends: Floats) -> bool:
        """Take one step on the summed log-loss gradient at `lookahead`, by the rows' curvatures; return whether the decrement
        rose twice."""
        hessian = (
            _SAFETY * (design.T @ (design * bends[:, None])) + np.diag(self.ridge) + 1e-9 * np.eye(len(self.weights))
        )
        full = gradient + self.ridge * self.lookahead
        stepped = self._stepped(hessian, full)
        decrement = float(full @ (self.lookahead - stepped)) / self._scale
        fresh = _on_grid(stepped)
        following = (1.0 + math.sqrt(1.0 + 4.0 * self._momentum**2)) / 2.0
        push = (self._momentum - 1.0) / following
        ahead = _on_grid(fresh + push * (fresh - self.weights))
        self.lookahead = np.where(self._signed, np.minimum(ahead, 0.0), ahead)
        self.weights, self._momentum = fresh, following
        return self._rose(decrement)

    def _stepped(self, hessian: Floats, full: Floats) -> Floats:
        free = np.ones(len(full), dtype=bool)
        while True:
            at, held = self.lookahead[free], self.lookahead[~free]
            right = self._scale * full[free] - hessian[np.ix_(free, ~free)] @ held
            fresh = np.zeros(len(full))
            fresh[free] = at - np.linalg.solve(hessian[np.ix_(free, free)], right)
            wrong = np.where(self._signed, fresh, 0.0)
            if not (wrong > 0.0).any():
                return fresh
            free[int(wrong.argmax())] = False

    def _rose(self, decrement: float) -> bool:
        self._rises = self._rises + 1 if decrement > 1.5 * self._decrement else 0
        self._decrement = decrement
        return self._rises >= 2

    def restart(self) -> None:
        """Forget the momentum and halve the step."""
        self.lookahead, self._momentum = self.weights.copy(), 1.0
        self._scale, self._rises = self._scale / 2.0, 0


def _on_grid(weights: Floats) -> Floats:
    return np.rint(weights / WEIGHT_GRID) * WEIGHT_GRID
