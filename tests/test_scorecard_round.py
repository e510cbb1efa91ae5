"""Binning and rounds as machines between a bank and the platform, checked against plain numpy."""

import numpy as np
import pytest
from conversations import bank_keys, contract_of, play, right

from lianxin.crypto.keyed_ciphertexts import KEY_TAG_BYTES
from lianxin.crypto.randomness import Drbg
from lianxin.federation import binning, regression, rounds, scorecard
from lianxin.federation.errors import PeerError

ROWS = 120


@pytest.fixture(scope="module")
def setting(bank_key, platform_key):
    """A bank and the platform after binning: everything that rounds need, and the plain values to compare with."""
    rng = np.random.default_rng(5)
    contract = contract_of(banks=2, max_rows=512)
    layouts = scorecard.plan_layouts(contract)

    def columns(count, bins, intercept):
        codes = [rng.integers(0, bins, ROWS).tolist() for _ in range(count)]
        woe = [tuple(int(v) for v in np.round(rng.normal(0, 0.6, bins) * 4096)) for _ in range(count)]
        sizes = [bins] * count
        if intercept:
            constant = binning.intercept(ROWS)
            codes, sizes, woe = [*codes, constant[0]], [*sizes, constant[1]], [*woe, constant[2]]
        return binning.Columns(tuple(codes), tuple(sizes), tuple(woe))

    features, own = columns(4, 5, False), columns(2, 4, True)
    labels = rng.integers(0, 2, ROWS).tolist()
    root = Drbg(b"r" * 32)
    bank = binning.Work(contract, layouts, "bank-1", root.child("bank"), (right("bank-1", "platform-a"),))
    platform = binning.Work(contract, layouts, "bank-1", root.child("platform"), (right("platform-a", "bank-1"),))
    keys = bank_keys(bank_key)
    _, public, _ = play(binning.bank_keys_role(bank, keys), binning.platform_keys_role(platform, platform_key))
    counts, _, _ = play(
        binning.bank_count_role(bank, keys, labels), binning.platform_count_role(platform, public, features)
    )
    corrections, _, _ = play(
        binning.bank_masks_role(bank, keys, own), binning.platform_masks_role(platform, platform_key, public.n, ROWS)
    )
    return locals()


def design(columns):
    return np.stack([np.array(w)[c] for c, w in zip(columns.codes, columns.woe, strict=True)], axis=1) / 4096.0


def play_round(setting, attempt, bank_live=None, platform_live=None, weights=0.3):
    own, features = setting["own"], setting["features"]
    z_b, z_a = design(own) @ np.full(3, weights), design(features) @ np.full(4, -weights)
    all_rows = [True] * ROWS
    bank_turn = rounds.BankTurn(
        setting["bank"], attempt, setting["keys"], own, setting["labels"], z_b, bank_live or all_rows,
        [c[attempt] for c in setting["corrections"]],
    )  # fmt: skip
    platform_turn = rounds.PlatformTurn(
        setting["platform"], attempt, setting["public"], features, z_a, platform_live or all_rows
    )
    bank, platform, said = play(rounds.bank_round_role(bank_turn), rounds.platform_round_role(platform_turn))
    layouts = setting["layouts"]
    g_a = [
        scorecard.gradient_value((t - m) % (1 << layouts.width_bits), layouts)
        for t, m in zip(bank.totals, platform.masks, strict=True)
    ]
    return z_a, z_b, np.array(g_a), bank.gradient, bank, said


def expected_residuals(z_a, z_b, labels, said):
    choice = next(m for s, m in said if s == "bank" and type(m).__name__ == "RangeChoice")
    a0, a1, a2 = scorecard.residual_polynomial(choice.mean_steps, choice.spread_steps)
    z = z_a + z_b
    return a0 + a1 * z + a2 * z * z - np.array(labels)


def test_label_counts_equal_the_plain_cross_table(setting):
    y = np.array(setting["labels"])
    for feature, codes in enumerate(setting["features"].codes):
        for b, (goods, bads) in enumerate(setting["counts"][feature]):
            chosen = y[np.array(codes) == b]
            assert (goods, bads) == (int((chosen == 0).sum()), int((chosen == 1).sum()))


def test_both_gradients_equal_the_plain_ones_within_the_declared_rounding(setting):
    z_a, z_b, g_a, g_b, _, said = play_round(setting, attempt=0)
    residuals = expected_residuals(z_a, z_b, setting["labels"], said)
    step = 2.0 ** (setting["layouts"].rounding_bits - scorecard.GRADIENT_BITS)
    assert step < 0.05
    np.testing.assert_allclose(g_a, design(setting["features"]).T @ residuals, atol=2 * step)
    np.testing.assert_allclose(g_b, design(setting["own"]).T @ residuals, atol=2 * step)


def test_each_side_knows_a_rows_curvature_from_its_own_score_and_the_others_mean(setting):
    z_a, z_b, _, _, bank, said = play_round(setting, attempt=3)
    told = next(m for s, m in said if s == "platform" and type(m).__name__ == "ScoreRange")
    choice = next(m for s, m in said if s == "bank" and type(m).__name__ == "RangeChoice")
    _, a1, a2 = scorecard.residual_polynomial(choice.mean_steps, choice.spread_steps)
    wanted = np.clip(a1 + 2 * a2 * (z_b + told.mean_steps / 4), 0.02, 0.25)
    np.testing.assert_allclose(bank.bends, wanted, rtol=1e-12)
    exact = a1 + 2 * a2 * (z_a + z_b)
    assert np.corrcoef(bank.bends, exact)[0, 1] > 0.1 and np.abs(bank.bends - exact).max() < 0.25


def descended(rounds_made, signed=False, begun=True, rate=0.03):
    """Return the weights of both sides, their columns and labels, after rounds of a made-up run with rare bads, and the
    gradient at the platform's weights."""
    rng = np.random.default_rng(11)
    common, sides = rng.normal(size=(4000, 1)), []
    for width in (5, 3):
        sides.append(0.6 * common * rng.normal(size=width) + 0.7 * rng.normal(size=(4000, width)))
    x_a, x_b = sides[0], np.column_stack([sides[1], np.ones(4000)])
    z = x_a @ [-0.9, 0.5, -0.4, 0.2, -0.6] + x_b[:, :3] @ [-0.5, 0.4, -0.3]
    y = (z + rng.logistic(size=4000) > np.quantile(z + rng.logistic(size=4000), 1 - rate)).astype(int)
    platform = scorecard.DescentState(5, 1.0, signed=signed)
    bank = scorecard.DescentState(4, 1.0, [1.0, 1.0, 1.0, 0.0], signed)
    if begun:
        bank.begin(int(y.sum()), 4000)
    for _ in range(rounds_made):
        p = 1 / (1 + np.exp(-(x_a @ platform.lookahead + x_b @ bank.lookahead)))
        bends = np.clip(p * (1 - p), 0.02, 0.25)
        platform.advance(x_a.T @ (p - y), x_a, bends)
        bank.advance(x_b.T @ (p - y), x_b, bends)
    p = 1 / (1 + np.exp(-(x_a @ platform.weights + x_b @ bank.weights)))
    return platform.weights, bank.weights, x_a, x_b, y, x_a.T @ (p - y) + platform.weights


def test_six_rounds_come_near_the_exact_regression_where_bads_are_rare_and_from_zero_they_would_not():
    distance = {}
    for begun in (True, False):
        weights, _, x_a, x_b, y, _ = descended(6, begun=begun)
        exact = regression.fit_logistic(np.column_stack([x_a, x_b[:, :3]]), y, 1.0)
        distance[begun] = float(np.linalg.norm(weights - exact[1:6]))
    assert distance[True] < 0.16 and distance[False] > 1.8 * distance[True]


def test_with_drop_no_weight_is_ever_positive_and_those_held_at_zero_are_the_ones_that_want_to_be():
    free, *_ = descended(60)
    assert (free > 0.05).any()
    for rounds_made in (1, 2, 6):
        platform, bank, *_ = descended(rounds_made, signed=True)
        assert platform.max() <= 0 and bank[:3].max() <= 0 and bank[3] < 0
    held, bank, *_, gradient = descended(200, signed=True)
    assert (held == 0).any() and (held < -0.05).any()
    assert (gradient[held == 0] < 0.1).all() and np.abs(gradient[held < 0]).max() < 0.1  # Kuhn and Tucker's conditions


def test_a_row_revoked_at_either_side_is_gone_from_both_gradients(setting):
    bank_live, platform_live = [True] * ROWS, [True] * ROWS
    bank_live[7] = False
    platform_live[11] = platform_live[64] = False
    z_a, z_b, g_a, g_b, bank, said = play_round(setting, 1, bank_live, platform_live)
    residuals = expected_residuals(z_a, z_b, setting["labels"], said)
    residuals[[7, 11, 64]] = 0.0
    assert [i for i, live in enumerate(bank.active) if not live] == [7, 11, 64]
    np.testing.assert_allclose(g_a, design(setting["features"]).T @ residuals, atol=0.05)
    np.testing.assert_allclose(g_b, design(setting["own"]).T @ residuals, atol=0.05)
    sent = [m for _, m in said if type(m).__name__ == "ResidualShares"]
    assert sum(len(m.constants) - KEY_TAG_BYTES for m in sent) == (ROWS - 3) * 512


def test_masks_of_one_attempt_do_not_serve_another(setting):
    z_a, z_b, _, g_b, _, _ = play_round(setting, 2)
    wrong = rounds.BankTurn(
        setting["bank"], 2, setting["keys"], setting["own"], setting["labels"], z_b, [True] * ROWS,
        [c[3] for c in setting["corrections"]],
    )  # fmt: skip
    turn = rounds.PlatformTurn(setting["platform"], 2, setting["public"], setting["features"], z_a, [True] * ROWS)
    off, _, _ = play(rounds.bank_round_role(wrong), rounds.platform_round_role(turn))
    assert np.abs(off.gradient - g_b).max() > 1e3


def test_a_histogram_that_leaves_a_row_out_is_refused(setting, bank_key):
    short = binning.Columns(tuple(codes[:-1] for codes in setting["features"].codes), setting["features"].bins)
    with pytest.raises(PeerError, match=r"do not add up|another number of rows"):
        play(
            binning.bank_count_role(setting["bank"], setting["keys"], setting["labels"]),
            binning.platform_count_role(setting["platform"], setting["public"], short),
        )


def test_the_residual_limit_covers_every_polynomial_of_the_public_grid():
    worst = 0.0
    for mean in range(-scorecard.MEAN_STEPS, scorecard.MEAN_STEPS + 1, 3):
        for spread in range(1, scorecard.SPREAD_STEPS + 1):
            a0, a1, a2 = scorecard.residual_polynomial(mean, spread)
            worst = max(worst, abs(a0) + 32 * abs(a1) + 1024 * abs(a2) + 1)
    assert worst < scorecard.RESIDUAL_LIMIT


def test_slots_at_thirty_thousand_rows_are_as_wide_as_the_design_says():
    layouts = scorecard.plan_layouts(contract_of(max_rows=30_000))
    assert layouts.residual.width_bits <= 96
    assert layouts.residual.slots >= 20
    assert layouts.masks.slots == 9
