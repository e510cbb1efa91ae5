"""The joint scorecard's own algorithm in clear: the same polynomial, grid, steps, rounds and refit on the joined table.

What encryption and fixed point add is the difference between the joint run and this; what the method itself loses is the
difference between this and exact logistic regression (`pooled`).
"""

from collections.abc import Sequence

import numpy as np

from lianxin.federation import regression, scorecard
from lianxin.federation.scorecard import GRID, DescentState, Floats, grid_steps, residual_polynomial, row_bends
from lianxin.simulations.pooled import PooledBank


def clear_scores(banks: Sequence[PooledBank], rounds: int, ridge: float, signed: bool = False) -> dict[str, Floats]:
    """Return each bank's predicted chances on its test rows, of the joint model with its refit (protocols.md, section 5).

    With `signed` the rounds let no weight be positive, as `sign_check = "drop"` does; the refit is not told.
    """
    weights = clear_weights(banks, rounds, ridge, signed)
    return {bank.name: _refitted(bank, weights, ridge) for bank in banks}


def clear_weights(banks: Sequence[PooledBank], rounds: int, ridge: float, signed: bool = False) -> Floats:
    """Return the platform's weights after these rounds."""
    shared = DescentState(banks[0].shared_train.shape[1], ridge, signed=signed)
    own = {bank.name: _begun(bank, ridge, signed) for bank in banks}
    for _ in range(rounds):
        gradient, bends, rose = np.zeros(banks[0].shared_train.shape[1]), [], []
        for bank in banks:
            residual, theirs, its = _residuals(bank, shared, own[bank.name])
            gradient += bank.shared_train.T @ residual
            bends.append(theirs)
            design = _with_intercept(bank.own_train)
            rose.append(own[bank.name].advance(design.T @ residual, design, its))
        rose.append(
            shared.advance(gradient, np.concatenate([bank.shared_train for bank in banks]), np.concatenate(bends))
        )
        if any(rose):
            for state in (shared, *own.values()):
                state.restart()
    return shared.weights


def _begun(bank: PooledBank, ridge: float, signed: bool) -> DescentState:
    width = bank.own_train.shape[1]
    begun = DescentState(width + 1, ridge, [*([1.0] * width), 0.0], signed)
    begun.begin(int(np.sum(bank.y_train)), len(bank.y_train))
    return begun


def _with_intercept(own: Floats) -> Floats:
    return np.column_stack([own, np.ones(len(own))])


def _residuals(bank: PooledBank, shared: DescentState, own: DescentState) -> tuple[Floats, Floats, Floats]:
    """Return the rows' residuals, and their curvatures as the platform and as the bank can tell them."""
    z_a = scorecard.scores(bank.shared_train, shared.lookahead)
    z_b = scorecard.scores(_with_intercept(bank.own_train), own.lookahead)
    mean, spread = grid_steps(float(z_a.mean()), float(z_a.std()))
    both = grid_steps(float(z_b.mean()) + mean * GRID, max(float(z_b.std()) + spread * GRID, GRID))
    polynomial = residual_polynomial(*both)
    a0, a1, a2 = polynomial
    z = z_a + z_b
    bends = row_bends(polynomial, z_a, both[0] - mean), row_bends(polynomial, z_b, mean)
    return a0 + a1 * z + a2 * z * z - bank.y_train, *bends


def _refitted(bank: PooledBank, weights: Floats, ridge: float) -> Floats:
    train = np.column_stack([bank.shared_train @ weights, bank.own_train])
    test = np.column_stack([bank.shared_test @ weights, bank.own_test])
    return regression.predict(regression.fit_logistic(train, bank.y_train, ridge), test)
