"""Binning and rounds as machines between a bank and the platform, checked against plain numpy."""

import numpy as np
import pytest
from conversations import bank_keys, contract_of, play, right

from lianxin.crypto.keyed_ciphertexts import KEY_TAG_BYTES
from lianxin.crypto.randomness import Drbg
from lianxin.federation import binning, rounds, scorecard
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
    short = binning.Columns(
        tuple(codes[:-1] for codes in setting["features"].codes), setting["features"].bins
    )
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
