"""The joint scorecard's own algorithm in clear: the same polynomial, grid, steps, rounds and refit on the joined table.

What encryption and fixed point add is the difference between the joint run and this; what the method itself loses is the
difference between this and exact logistic regression (`pooled`).
"""

from collections.abc import Sequence

import numpy as np

from lianxin.federation import regression, scorecard
from lianxin.federation.scorecard import GRID, DescentState, Floats, grid_steps, residual_polynomial
from lianxin.simulations.pooled import PooledBank


def clear_scores(banks: Sequence[PooledBank], rounds: int, ridge: float) -> dict[str, Floats]:
    """Return each bank's predicted chances on its test rows, of the joint model with its refit (protocols.md, section 5)."""
    shared = DescentState(banks[0].shared_train.shape[1], ridge)
    own = {bank.name: DescentState(bank.own_train.shape[1] + 1, ridge, _penalties(bank)) for bank in banks}
    rates = {bank.name: float(np.mean(bank.y_train)) for bank in banks}
    everybody = float(np.mean(np.concatenate([bank.y_train for bank in banks])))
    for _ in range(rounds):
        gradient, rose = np.zeros(banks[0].shared_train.shape[1]), []
        for bank in banks:
            residual = _residuals(bank, shared, own[bank.name])
            gradient += bank.shared_train.T @ residual
            design = _with_intercept(bank.own_train)
            rose.append(own[bank.name].advance(design.T @ residual, design, rates[bank.name]))
        rose.append(shared.advance(gradient, np.concatenate([bank.shared_train for bank in banks]), everybody))
        if any(rose):
            for state in (shared, *own.values()):
                state.restart()
    return {bank.name: _refitted(bank, shared.weights, ridge) for bank in banks}


def _penalties(bank: PooledBank) -> list[float]:
    return [*([1.0] * bank.own_train.shape[1]), 0.0]


def _with_intercept(own: Floats) -> Floats:
    return np.column_stack([own, np.ones(len(own))])


def _residuals(bank: PooledBank, shared: DescentState, own: DescentState) -> Floats:
    z_a = scorecard.scores(bank.shared_train, shared.lookahead)
    z_b = scorecard.scores(_with_intercept(bank.own_train), own.lookahead)
    mean, spread = grid_steps(float(z_a.mean()), float(z_a.std()))
    both = grid_steps(float(z_b.mean()) + mean * GRID, max(float(z_b.std()) + spread * GRID, GRID))
    a0, a1, a2 = residual_polynomial(*both)
    z = z_a + z_b
    return a0 + a1 * z + a2 * z * z - bank.y_train


def _refitted(bank: PooledBank, weights: Floats, ridge: float) -> Floats:
    train = np.column_stack([bank.shared_train @ weights, bank.own_train])
    test = np.column_stack([bank.shared_test @ weights, bank.own_test])
    return regression.predict(regression.fit_logistic(train, bank.y_train, ridge), test)
