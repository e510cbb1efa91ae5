"""DP-SGD as it is run here: the accountant beside another one, whole units clipped, noise that is there and that repeats."""

import math

import dp_accounting
import numpy as np
import pytest
import torch
from dp_accounting.pld import PLDAccountant
from scipy import stats

from lianxin.crypto.randomness import Drbg
from lianxin.federation.errors import RunStopped
from lianxin.parties import training_private
from lianxin.parties.preparation import Prepared
from lianxin.parties.privacy import PrivacySettings
from lianxin.parties.training import (
    LocalSettings,
    NetworkSpec,
    alone,
    build,
    initial,
    parameters_of,
    train_local,
    weights_of,
)
from lianxin.parties.training_private import LOSS_SHARE, epsilon_of, least_noise, noise_of, private_epochs

SEED = b"s" * 32
SPEC = NetworkSpec("logistic", 3, (), (4,), 4)
GRID = [
    (0.7, 0.05, 200, 1e-6), (1.0, 0.01, 1000, 1e-5), (0.8, 0.001, 20_000, 1e-6), (2.0, 0.05, 2000, 1e-6), (5.0, 0.2, 500, 1e-6),
    (1.5, 1.0, 20, 1e-6), (20.0, 0.3, 300, 1e-8),
]  # fmt: skip


# ---- the accountant


@pytest.mark.parametrize(("noise", "rate", "steps", "delta"), GRID)
def test_epsilon_agrees_with_another_accountant_within_two_percent(noise, rate, steps, delta):
    step = dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(noise))
    other = PLDAccountant(value_discretization_interval=1e-3)
    other.compose(dp_accounting.SelfComposedDpEvent(step, steps))
    assert epsilon_of(noise, rate, steps, delta) == pytest.approx(other.get_epsilon(delta), rel=0.02)


@pytest.mark.parametrize(("epsilon", "rate", "steps"), [(0.5, 0.1, 60), (2.0, 0.05, 120), (8.0, 0.2, 60)])
def test_the_planned_noise_keeps_epsilon_and_hardly_more(epsilon, rate, steps):
    noise = least_noise(epsilon, 1e-6, rate, steps)
    assert epsilon_of(noise / 1000, rate, steps, 1e-6) <= epsilon
    assert epsilon_of(0.97 * noise / 1000, rate, steps, 1e-6) > epsilon


def test_where_the_numerical_bound_fails_the_looser_one_stands(monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("the discretised mean is too far off")

    exact = epsilon_of(1.0, 0.01, 1000, 1e-5)
    monkeypatch.setattr(training_private.PRVAccountant, "get_epsilon", broken)
    assert exact < epsilon_of(1.0, 0.01, 1000, 1e-5) < 1.3 * exact


# ---- what one step does


def rows_of(count, seed=1, firms=None):
    rng = np.random.default_rng(seed)
    numbers = rng.normal(size=(count, 3)).astype(np.float32)
    labels = (rng.random(count) < 1 / (1 + np.exp(-2 * numbers[:, 0]))).astype(np.int64)
    return Prepared(numbers, np.zeros((count, 0), dtype=np.int64), labels, firms)


def settings_of(unit="record", noise=1.0, rate=1.0, clip=1.0, epochs=1, step=1.0, **more):
    plan = PrivacySettings(1.0, 1e-6, unit, clip, noise, rate, 10)
    return LocalSettings(epochs, 64, step, privacy=plan, momentum=more.pop("momentum", 0.0), **more)


def trained(rows, settings, seed=SEED, spec=SPEC):
    """Return the change of the weights, flat, and the loss that is told."""
    weights = initial(spec, b"w" * 32)
    with alone():
        module = build(spec, weights)
        loss = private_epochs(module, rows, settings, seed)
        return weights_of(module, spec).astype(np.float64) - weights, loss


def gradient_of(rows, places, spec=SPEC):
    """Return the summed gradient of these rows at the first weights, flat."""
    module = build(spec, initial(spec, b"w" * 32))
    numbers, categories = torch.from_numpy(rows.numbers[places]), torch.from_numpy(rows.categories[places])
    labels = torch.from_numpy(rows.labels[places].astype(np.float32))
    torch.nn.functional.binary_cross_entropy_with_logits(
        module(numbers, categories), labels, reduction="sum"
    ).backward()
    with torch.no_grad():
        for one in module.parameters():
            one.copy_(one.grad)
    return np.concatenate([one.ravel() for one in parameters_of(module, spec)]).astype(np.float64)


def clipped(vector, norm):
    return vector * min(1.0, norm / np.linalg.norm(vector))


@pytest.mark.parametrize("unit", ["record", "firm"])
def test_a_step_is_the_mean_of_each_units_clipped_gradient(unit):
    firms = np.repeat(np.arange(8), [1, 2, 3, 30, 1, 1, 5, 7])
    order = np.random.default_rng(3).permutation(50)
    rows = rows_of(50, firms=firms).take(order)
    members = (
        [[place] for place in range(50)] if unit == "record" else [np.flatnonzero(rows.firms == k) for k in range(8)]
    )
    expected = -sum(clipped(gradient_of(rows, one), 0.3) for one in members) / len(members)
    change, _ = trained(rows, settings_of(unit, noise=0.0, clip=0.3))
    np.testing.assert_allclose(change, expected, atol=2e-6)


def largest_move(unit, rows):
    """How far the mean of clipped gradients moves when firm 0, with 400 of 500 rows, is taken out; in units of C/|firms|."""
    without = rows.take(rows.firms != 0)
    full, _ = trained(rows, settings_of(unit, noise=0.0, clip=0.5))
    less, _ = trained(without, settings_of(unit, noise=0.0, clip=0.5))
    firms, fewer = len(set(rows.firms)), len(set(without.firms))
    counts = (firms, fewer) if unit == "firm" else (rows.rows, without.rows)
    return np.linalg.norm(full * counts[0] - less * counts[1]) / 0.5


def test_a_firm_of_many_rows_weighs_no_more_than_one_clipped_vector():
    rows = rows_of(500, firms=np.concatenate([np.zeros(400, dtype=np.int64), np.arange(1, 101)]))
    assert largest_move("firm", rows) == pytest.approx(1.0, abs=1e-3)
    assert largest_move("record", rows) > 50  # clipping single rows alone leaves the firm what it is


def test_a_firm_with_more_rows_than_are_held_at_a_time_is_still_one_vector(monkeypatch):
    rows = rows_of(300, firms=np.concatenate([np.zeros(200, dtype=np.int64), np.arange(1, 101)]))
    for unit in ("firm", "record"):
        whole = trained(rows, settings_of(unit, rate=0.7))
        monkeypatch.setattr(training_private, "_GRADIENTS_HELD", 4 * 16)  # 16 rows of the four weights
        pieces = trained(rows, settings_of(unit, rate=0.7))
        monkeypatch.undo()
        np.testing.assert_allclose(pieces[0], whole[0], atol=1e-5)
        assert pieces[1] == pytest.approx(whole[1], abs=1e-5)


def test_firms_that_are_not_said_stop_the_training():
    with pytest.raises(RunStopped, match="do not say whose they are"):
        trained(rows_of(50), settings_of("firm"))


def test_a_step_that_draws_nobody_adds_noise_all_the_same(monkeypatch):
    monkeypatch.setattr(training_private._Units, "drawn", lambda *_: np.zeros(0, dtype=np.int64))
    change, loss = trained(rows_of(20), settings_of())
    assert np.abs(change).min() > 0 and np.isfinite(change).all() and np.isfinite(loss)


def test_units_are_drawn_independently_with_the_chance_of_the_plan():
    units = training_private._Units(rows_of(1000), "record")
    drbg = Drbg(SEED)
    draws = [units.drawn(drbg, 0.05) for _ in range(400)]
    sizes = np.array([len(one) for one in draws])
    assert sizes.mean() == pytest.approx(50, abs=1.5)
    assert sizes.var() == pytest.approx(47.5, rel=0.3)  # a batch of fixed size has none
    often = np.bincount(np.concatenate(draws), minlength=1000)
    assert often.max() < 50 and often.min() > 3


def test_the_noise_of_an_update_has_the_deviation_that_was_planned():
    """400 rounds of one step on the same row set: the spread of each weight around the exact step."""
    rows = rows_of(40)
    exact, loss = trained(rows, settings_of(noise=0.0))
    seeds = [bytes([k % 256, k // 256]) * 16 for k in range(400)]
    found = [trained(rows, settings_of(noise=2.0), seed) for seed in seeds]
    spread = np.std(np.array([change for change, _ in found]) - exact, axis=0) * 40
    np.testing.assert_allclose(spread, 2.0 * math.sqrt(1 + LOSS_SHARE**2), rtol=0.12)
    told = np.array([one for _, one in found])
    assert told.mean() == pytest.approx(loss, abs=0.25)
    assert told.std() * 40 == pytest.approx(2.0 * math.sqrt(1 + LOSS_SHARE**2) * 4.0 / LOSS_SHARE, rel=0.12)


def test_the_noise_is_normal_far_into_the_tails():
    numbers = noise_of(Drbg(SEED), 200_000, 3.0)
    assert stats.kstest(numbers / 3.0, "norm").pvalue > 0.001
    tails = np.abs(training_private._normals(Drbg(SEED), 4_000_000))
    for far, share in ((3.0, 2.7e-3), (4.0, 6.334e-5)):
        assert (tails > far).mean() == pytest.approx(share, rel=0.2)


# ---- repeats


def test_the_same_seed_weights_and_rows_give_the_same_bytes():
    rows, settings = rows_of(200), settings_of(rate=0.2, epochs=2)
    first, again = trained(rows, settings), trained(rows, settings)
    assert first[0].tobytes() == again[0].tobytes() and first[1] == again[1]


def test_a_round_done_again_after_a_bank_was_lost_gives_the_same_bytes():
    """train_local gets the seed of (run, round); an attempt has no part in it, so that it costs nothing."""
    weights, rows = initial(SPEC, b"w" * 32), rows_of(200)
    attempts = [train_local(SPEC, weights, rows, settings_of(rate=0.2), SEED, 3) for _ in range(2)]
    assert attempts[0].update.tobytes() == attempts[1].update.tobytes()
    assert attempts[0].loss == attempts[1].loss


def noise_over(rows, seed):
    """The noise that a training adds: with and without noise, from the same seed."""
    return trained(rows, settings_of(noise=1.0), seed)[0] - trained(rows, settings_of(noise=0.0), seed)[0]


def test_a_round_on_other_rows_has_other_noise_even_from_the_same_seed():
    """Equal noise on two sets of rows would cancel: the difference would be the missing row's clipped gradient."""
    rows = rows_of(100)
    fewer = rows.take(np.arange(99))
    apart = noise_over(rows, SEED) * 100 - noise_over(fewer, SEED) * 99
    assert np.linalg.norm(apart) > 0.5


def test_the_attack_succeeds_where_noise_is_a_function_of_the_seed_alone(monkeypatch):
    monkeypatch.setattr(training_private, "training_digest", lambda *_: "")
    rows = rows_of(100)
    other = Prepared(rows.numbers, rows.categories, np.append(rows.labels[:99], 1 - rows.labels[99]))
    both = [trained(one, settings_of(noise=50.0, clip=9.0))[0] * -100 for one in (rows, other)]
    apart = gradient_of(rows, [99]) - gradient_of(other, [99])
    np.testing.assert_allclose(both[0] - both[1], apart, atol=1e-2)  # the last row alone, and all noise gone


def test_torchs_own_generator_is_neither_drawn_from_nor_seeded():
    before = torch.get_rng_state()
    trained(rows_of(100), settings_of(rate=0.3))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("model", ["logistic", "mlp", "tabular"])
@pytest.mark.parametrize("unit", ["record", "firm"])
def test_every_model_learns_under_privacy_and_is_a_plain_module_afterwards(model, unit):
    rng = np.random.default_rng(5)
    base = rows_of(3000, firms=rng.integers(0, 1500, 3000))
    rows = Prepared(base.numbers, rng.integers(0, 3, (3000, 1)), base.labels, base.firms)
    spec = NetworkSpec(model, 3, (3,), (8,), 2)
    settings = settings_of(unit, noise=1.0, rate=0.1, epochs=3, step=0.1, momentum=0.9)
    weights = initial(spec, b"w" * 32)
    outcome = train_local(spec, weights, rows, settings, SEED)
    from lianxin.federation.evaluation import auc
    from lianxin.parties.training import predict

    assert auc(rows.labels.tolist(), predict(spec, outcome.weights, rows).tolist()) > 0.8
    module = build(spec, weights)
    private_epochs(module, rows, settings, SEED)
    assert not any(hasattr(one, "grad_sample") for one in module.parameters())
    assert type(module(torch.zeros(2, 3), torch.zeros(2, 1, dtype=torch.int64))) is torch.Tensor
