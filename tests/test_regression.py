"""WOE and IV by hand, the regressions against scikit-learn and scipy, and what has no optimum refused."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression

from lianxin.federation import regression
from lianxin.federation.regression import (
    FitNotConverged,
    fit_logistic,
    fit_star,
    information_value,
    predict,
    sigmoid,
    woe,
)

RIDGES = (0.1, 1.0, 25.0)


def _rows(seed, rows, columns, offset=-1.5):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(rows, columns))
    weights = rng.normal(size=columns)
    return X, (rng.random(rows) < sigmoid(X @ weights + offset)).astype(int)


def _bank(seed, rows, own, offset):
    X, y = _rows(seed, rows, 3 + own, offset)
    return X[:, :3], X[:, 3:], y


def _sklearn(X, y, ridge, weights=None):
    model = LogisticRegression(C=1 / ridge, tol=1e-12, max_iter=10_000, solver="newton-cholesky")
    model.fit(X, y, sample_weight=weights)
    return np.concatenate((model.intercept_, model.coef_[0]))


def test_woe_is_positive_where_good_firms_are_over_represented():
    assert woe(30, 10, 100, 100) == pytest.approx(math.log(3))
    assert woe(10, 30, 100, 100) == pytest.approx(-math.log(3))


def test_woe_of_a_bin_without_one_class_is_the_clip():
    assert woe(30, 0, 100, 50) == 6.0
    assert woe(0, 5, 100, 50) == -6.0
    assert woe(0, 0, 100, 50) == 0.0


@given(st.integers(1, 10**6), st.integers(1, 10**6), st.integers(0, 10**6), st.integers(0, 10**6))
def test_woe_never_leaves_its_clip(good, bad, other_good, other_bad):
    assert -6.0 <= woe(good, bad, good + other_good, bad + other_bad) <= 6.0


@pytest.mark.parametrize("counts", [(-1, 2, 5, 5), (6, 2, 5, 5), (0, 0, 0, 5), (0, 0, 5, 0)])
def test_woe_of_impossible_counts_is_refused(counts):
    with pytest.raises(ValueError, match="totals"):
        woe(*counts)


def test_information_value_is_the_sum_of_share_differences_times_woe():
    expected = (0.6 - 0.2) * math.log(3) + (0.4 - 0.8) * math.log(0.5)
    assert information_value([60, 40], [10, 40]) == pytest.approx(expected)


@given(st.lists(st.tuples(st.integers(0, 500), st.integers(0, 500)), min_size=1, max_size=8))
def test_information_value_is_never_negative(bins):
    assert information_value(*zip(*bins, strict=True)) >= 0.0


def test_sigmoid_does_not_overflow():
    assert sigmoid([-1000.0, 0.0, 1000.0]).tolist() == [0.0, 0.5, 1.0]


@pytest.mark.parametrize("ridge", RIDGES)
@pytest.mark.parametrize("offset", [-4.0, 0.0])
def test_logistic_regression_agrees_with_scikit_learn(ridge, offset):
    X, y = _rows(1, 800, 6, offset)
    np.testing.assert_allclose(fit_logistic(X, y, ridge), _sklearn(X, y, ridge), atol=1e-6)


def test_row_weights_agree_with_scikit_learn_and_zero_drops_a_row():
    X, y = _rows(2, 400, 4)
    weights = np.random.default_rng(3).integers(0, 4, 400)
    mine = fit_logistic(X, y, 1.0, weights)
    np.testing.assert_allclose(mine, _sklearn(X, y, 1.0, weights), atol=1e-6)
    np.testing.assert_allclose(mine, fit_logistic(np.repeat(X, weights, axis=0), np.repeat(y, weights), 1.0), atol=1e-9)


def test_the_ridge_does_not_bind_the_intercept():
    X, y = _rows(4, 500, 2)
    coefficients = fit_logistic(X, y, 1e9)
    assert np.abs(coefficients[1:]).max() < 1e-6
    assert sigmoid(coefficients[0]) == pytest.approx(y.mean(), abs=1e-6)


def test_without_columns_the_fit_is_the_base_rate():
    assert predict(fit_logistic(np.zeros((4, 0)), [1, 0, 0, 0], 1.0), np.zeros((2, 0))) == pytest.approx([0.25, 0.25])


def test_step_halving_saves_a_fit_that_plain_newton_steps_lose(monkeypatch):
    X = np.array([[-2.5], [-11.8], [2.8], [0.0], [3.1], [-17.5]])
    y, weights = np.array([1, 0, 0, 0, 0, 1]), np.array([1.0, 0.01, 100.0, 1000.0, 0.01, 0.1])
    np.testing.assert_allclose(_gradient(fit_logistic(X, y, 0.1, weights), X, y, 0.1, weights), 0.0, atol=1e-9)
    monkeypatch.setattr(regression, "_halved", lambda blocks, penalty, at, step, value: (at + step, value))
    with pytest.raises(FitNotConverged):
        fit_logistic(X, y, 0.1, weights)


def _gradient(coefficients, X, y, ridge, weights):
    design = np.hstack((np.ones((len(X), 1)), X))
    penalised = np.concatenate(([0.0], coefficients[1:]))
    return design.T @ (weights * (sigmoid(design @ coefficients) - y)) + ridge * penalised


@pytest.mark.parametrize(
    ("X", "y", "ridge"),
    [
        ([[1.0], [2.0], [3.0], [4.0]], [0, 0, 1, 1], 0.0),
        ([[1.0], [2.0], [3.0]], [1, 1, 1], 1.0),
        ([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0], [4.0, 4.0]], [0, 1, 0, 1], 0.0),
    ],
    ids=["separable", "one-class", "equal-columns"],
)
def test_a_fit_without_a_single_finite_optimum_is_refused_by_name(X, y, ridge):
    with pytest.raises(FitNotConverged):
        fit_logistic(X, y, ridge)


@pytest.mark.parametrize(
    ("X", "y", "weights", "ridge", "message"),
    [
        ([[1.0], [2.0]], [0, 1, 1], None, 1.0, "as many labels"),
        ([[1.0], [2.0]], [0, 3], None, 1.0, "labels are"),
        ([[1.0], [float("nan")]], [0, 1], None, 1.0, "finite"),
        ([[1.0], [2.0]], [0, 1], [1.0, -1.0], 1.0, "not negative"),
        ([[1.0], [2.0]], [0, 1], None, -1.0, "ridge"),
        ([1.0, 2.0], [0, 1], None, 1.0, "matrix"),
    ],
    ids=["rows", "labels", "nan", "weights", "ridge", "vector"],
)
def test_unusable_input_is_refused_with_its_reason(X, y, weights, ridge, message):
    with pytest.raises(ValueError, match=message):
        fit_logistic(X, y, ridge, weights)


def test_a_star_with_one_bank_is_the_plain_regression():
    shared, own, y = _bank(5, 600, 2, -1.0)
    star = fit_star([(shared, own, y)], 1.0)
    plain = fit_logistic(np.hstack((shared, own)), y, 1.0)
    np.testing.assert_allclose(np.concatenate((star.intercepts, star.shared, star.own[0])), plain, atol=1e-9)


def test_a_star_is_the_optimum_of_the_joint_objective():
    groups = [_bank(6, 500, 2, -1.0), _bank(7, 300, 4, 0.5), _bank(8, 200, 0, -2.0)]
    star = fit_star(groups, 2.0)
    widths = [own.shape[1] for _, own, _ in groups]

    def loss(vector):
        shared, rest, total = vector[:3], vector[3:], 0.0
        for (A, B, y), width in zip(groups, widths, strict=True):
            intercept, own, rest = rest[0], rest[1 : 1 + width], rest[1 + width :]
            z = intercept + A @ shared + B @ own
            total += np.sum(np.logaddexp(0, z) - y * z) + own @ own
        return total + shared @ shared

    found = minimize(loss, np.zeros(3 + 3 + sum(widths)), method="BFGS", options={"gtol": 1e-5})
    parts = [np.concatenate(([b], own)) for b, own in zip(star.intercepts, star.own, strict=True)]
    mine = np.concatenate((star.shared, *parts))
    np.testing.assert_allclose(mine, found.x, atol=1e-5)
    assert loss(mine) <= found.fun + 1e-9


def test_banks_of_a_star_learn_from_each_other_only_through_the_shared_weights():
    small, large = _bank(9, 60, 1, -1.0), _bank(10, 3000, 1, -1.0)
    alone, together = fit_star([small], 1.0), fit_star([small, large], 1.0)
    moved = [np.abs(together.shared - fit.shared).max() for fit in (fit_star([large], 1.0), alone)]
    assert moved[0] < 0.15 < moved[1]
    no_shared = [(np.zeros((len(y), 0)), own, y) for _, own, y in (small, large)]
    np.testing.assert_allclose(fit_star(no_shared, 1.0).own[0], fit_star(no_shared[:1], 1.0).own[0], atol=1e-9)


def test_a_star_predicts_with_the_named_banks_own_part():
    groups = [_bank(11, 300, 2, -1.0), _bank(12, 300, 2, 1.0)]
    star = fit_star(groups, 1.0)
    shared, own, y = groups[1]
    expected = sigmoid(star.intercepts[1] + shared @ star.shared + own @ star.own[1])
    assert star.predict(1, shared, own) == pytest.approx(expected)
    assert star.predict(1, shared, own).mean() == pytest.approx(y.mean(), abs=1e-9)


@pytest.mark.parametrize("groups", [[], [_bank(1, 50, 1, 0.0), (np.zeros((50, 2)), *_bank(1, 50, 1, 0.0)[1:])]])
def test_a_star_without_common_shared_columns_is_refused(groups):
    with pytest.raises(ValueError, match="same shared columns"):
        fit_star(groups, 1.0)
