"""The scorecard in clear: weight of evidence, ridge logistic regression, and its star over several banks.

These are the exact models that the encrypted protocol approximates (protocols.md, section 5), so that "the same
result as on one table" can be measured. Everything is deterministic numpy.

    WOE_b = ln((good_b / good) / (bad_b / bad)), |WOE| <= 6        IV = sum_b (good_b / good - bad_b / bad) WOE_b
    logistic: minimise  sum_i c_i [ln(1 + e^z_i) - y_i z_i] + ridge/2 |w|^2,   z = b + X w
    star:     z = b_k + X_shared w_A + X_own w_Bk for the rows of bank k; the weights w_A are common to all banks

The ridge binds the weights and never an intercept, and is added to the *summed* log-loss (scikit-learn's C is
1/ridge). Both are solved by Newton's method with step halving; a positive WOE is a good sign, so weights on WOE come
out negative when the label 1 is bad.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lianxin.federation.errors import RunStopped

Floats = NDArray[np.float64]
Group = tuple[ArrayLike, ArrayLike, ArrayLike]

WOE_CLIP = 6.0
TOLERANCE = 1e-10
MAX_STEPS = 100
MAX_HALVINGS = 40


class FitNotConverged(RunStopped):
    """A regression has no finite optimum that Newton's method reaches: separable rows, one class, equal columns."""


@dataclass(frozen=True)
class StarFit:
    """A fitted star: `shared` is w_A, `own[k]` and `intercepts[k]` belong to the k-th group."""

    shared: Floats
    own: tuple[Floats, ...]
    intercepts: tuple[float, ...]

    def predict(self, bank: int, shared: ArrayLike, own: ArrayLike) -> Floats:
        """Return the bad probability of each row of the group at place `bank`."""
        log_odds = self.intercepts[bank] + _matrix(shared) @ self.shared + _matrix(own) @ self.own[bank]
        return sigmoid(log_odds)


@dataclass(frozen=True)
class _Block:
    """Rows whose j-th design column is parameter `places[j]` of the joint vector."""

    design: Floats = field(repr=False)
    labels: Floats = field(repr=False)
    weights: Floats = field(repr=False)
    places: NDArray[np.intp]


def woe(good: int, bad: int, goods: int, bads: int) -> float:
    """Return a bin's weight of evidence from its counts and the totals, within [-6, 6]; positive means safer.

    A bin without bads is at +6, one without goods at -6, an empty one at 0. ValueError if a total has no rows of a
    class or is less than the bin's count.
    """
    if not (0 <= good <= goods and 0 <= bad <= bads and goods and bads):
        raise ValueError("a bin's goods and bads lie between 0 and their totals, which are positive")
    if good == 0 or bad == 0:
        return WOE_CLIP * (bool(good) - bool(bad))
    return float(np.clip(np.log((good / goods) / (bad / bads)), -WOE_CLIP, WOE_CLIP))


def information_value(good: Sequence[int], bad: Sequence[int]) -> float:
    """Return a feature's information value, at least 0, from the goods and bads of all its bins, in the same order."""
    goods, bads = sum(good), sum(bad)
    pairs = zip(good, bad, strict=True)
    return float(sum((g / goods - b / bads) * woe(g, b, goods, bads) for g, b in pairs)) if goods and bads else 0.0


def sigmoid(log_odds: ArrayLike) -> Floats:
    """Return 1 / (1 + e^-z) of each element, without overflow."""
    z = np.asarray(log_odds, dtype=np.float64)
    small = np.exp(-np.abs(z))
    return np.where(z >= 0, 1.0, small) / (1.0 + small)


def fit_logistic(X: ArrayLike, y: ArrayLike, ridge: float, weights: ArrayLike | None = None) -> Floats:
    """Return the 1 + columns coefficients, intercept first, of the ridge logistic regression of y (0/1) on X.

    `weights` are one non-negative number a row. ValueError on input of other shapes or values, FitNotConverged when
    there is no finite optimum.
    """
    design = _with_intercept(_matrix(X))
    block = _block(design, y, weights, np.arange(design.shape[1]))
    penalty = np.full(design.shape[1], float(ridge))
    penalty[0] = 0.0
    return _newton([block], penalty)


def predict(coefficients: ArrayLike, X: ArrayLike) -> Floats:
    """Return the bad probability of each row of X under `coefficients` as `fit_logistic` returns them."""
    return sigmoid(_with_intercept(_matrix(X)) @ np.asarray(coefficients, dtype=np.float64))


def fit_star(groups: Sequence[Group], ridge: float) -> StarFit:
    """Return the joint optimum over all groups, each (shared columns, own columns, labels): one w_A, own w_B and b.

    Groups have the same shared columns and any own ones, also none. Errors as `fit_logistic`.
    """
    shared_width, own_widths = _star_widths(groups)
    penalty = np.full(shared_width + sum(own_widths) + len(own_widths), float(ridge))
    blocks, start = [], shared_width
    for (shared, own, labels), width in zip(groups, own_widths, strict=True):
        penalty[start] = 0.0
        places = np.concatenate((np.arange(shared_width), np.arange(start, start + 1 + width)))
        blocks.append(_block(np.hstack((_matrix(shared), _with_intercept(_matrix(own)))), labels, None, places))
        start += 1 + width
    return _star_fit(_newton(blocks, penalty), shared_width, own_widths)


def _star_widths(groups: Sequence[Group]) -> tuple[int, list[int]]:
    shared = {_matrix(group[0]).shape[1] for group in groups}
    if len(shared) != 1:
        raise ValueError(f"a star needs at least one group, all with the same shared columns, not {sorted(shared)}")
    return shared.pop(), [_matrix(group[1]).shape[1] for group in groups]


def _star_fit(solution: Floats, shared_width: int, own_widths: Sequence[int]) -> StarFit:
    own, intercepts, start = [], [], shared_width
    for width in own_widths:
        intercepts.append(float(solution[start]))
        own.append(solution[start + 1 : start + 1 + width])
        start += 1 + width
    return StarFit(solution[:shared_width], tuple(own), tuple(intercepts))


def _newton(blocks: Sequence[_Block], penalty: Floats) -> Floats:
    if not (penalty >= 0).all():
        raise ValueError("the ridge is a number that is not negative")
    solution = np.zeros(penalty.size)
    value = _objective(blocks, penalty, solution)
    for _ in range(MAX_STEPS):
        step = _newton_step(blocks, penalty, solution)
        if np.abs(step).max() <= TOLERANCE * (1.0 + np.abs(solution).max()):
            return solution + step
        solution, value = _halved(blocks, penalty, solution, step, value)
    raise FitNotConverged(
        f"the regression did not settle in {MAX_STEPS} Newton steps; its rows may be separable: raise the ridge"
    )


def _newton_step(blocks: Sequence[_Block], penalty: Floats, at: Floats) -> Floats:
    gradient, curvature = penalty * at, np.diag(penalty)
    for block in blocks:
        chance = sigmoid(block.design @ at[block.places])
        gradient[block.places] += block.design.T @ (block.weights * (chance - block.labels))
        bend = block.weights * chance * (1.0 - chance)
        curvature[np.ix_(block.places, block.places)] += block.design.T @ (block.design * bend[:, None])
    try:
        step = np.asarray(np.linalg.solve(curvature, -gradient), dtype=np.float64)
    except np.linalg.LinAlgError:
        step = np.full(at.size, np.nan)
    if not np.isfinite(step).all():
        raise FitNotConverged(
            "the regression has no single optimum: one class, separable rows or equal columns; raise the ridge"
        )
    return step


def _halved(blocks: Sequence[_Block], penalty: Floats, at: Floats, step: Floats, value: float) -> tuple[Floats, float]:
    rounding = 1e-13 * (1.0 + abs(value))
    for halvings in range(MAX_HALVINGS):
        candidate = at + step * 0.5**halvings
        reached = _objective(blocks, penalty, candidate)
        if reached <= value + rounding:
            return candidate, reached
    raise FitNotConverged("no Newton step lowers the regression's loss; scale the columns or raise the ridge")


def _objective(blocks: Sequence[_Block], penalty: Floats, at: Floats) -> float:
    loss = 0.5 * float(penalty @ (at * at))
    for block in blocks:
        log_odds = block.design @ at[block.places]
        loss += float(block.weights @ (np.logaddexp(0.0, log_odds) - block.labels * log_odds))
    return loss


def _block(design: Floats, labels: ArrayLike, weights: ArrayLike | None, places: NDArray[np.intp]) -> _Block:
    y = np.asarray(labels, dtype=np.float64)
    c = np.ones(y.shape) if weights is None else np.asarray(weights, dtype=np.float64)
    if y.shape != (design.shape[0],) or c.shape != y.shape or not y.size:
        raise ValueError(f"{design.shape[0]} rows need as many labels and weights, not {y.shape} and {c.shape}")
    if not np.isin(y, (0.0, 1.0)).all():
        raise ValueError("labels are 0 (good) or 1 (bad)")
    if not (np.isfinite(c) & (c >= 0)).all() or not np.isfinite(design).all():
        raise ValueError("columns are finite numbers and weights are finite and not negative")
    return _Block(design, y, c, places)


def _matrix(columns: ArrayLike) -> Floats:
    matrix = np.asarray(columns, dtype=np.float64)
    if matrix.ndim != 2:
        raise ValueError(f"columns come as a rows x columns matrix, not with {matrix.ndim} dimensions")
    return matrix


def _with_intercept(matrix: Floats) -> Floats:
    return np.hstack((np.ones((matrix.shape[0], 1)), matrix))
