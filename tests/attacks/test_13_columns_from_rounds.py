"""Attack 13: the bank reads the platform's columns from all that it decrypts over the rounds of a run.

Each round it opens, row by row, residual + mask, and knows its own part of the residual: without the mask it solves a
quadratic for the row's score z_A, and after as many rounds as the platform has features the scores span the platform's
columns. Under the mask every opened value is uniform whatever z_A is: what remains is the bank's own gradient, d_B numbers a
round, and no row's value.
"""

import numpy as np
import pytest
from rounds_in_clear_sight import Training

from lianxin.crypto import packing, paillier
from lianxin.crypto.keyed_ciphertexts import decode_keyed
from lianxin.crypto.packing import centre
from lianxin.crypto.randomness import Drbg
from lianxin.federation import rounds, scorecard, wire

ROWS, FEATURES, ROUNDS = 126, 2, 4


def known_mask(n):
    """A mask that is no secret: in the middle of the ring, so that the sums still come out."""
    return int(n) // 2


def trained(bank_key, monkeypatch, is_masked):
    training = Training(ROWS, FEATURES, bank_key, seed=13)
    if not is_masked:
        monkeypatch.setattr(rounds, "mask_of", lambda _drbg, n, *_: known_mask(n))
    for attempt in range(ROUNDS):
        training.round(attempt)
    monkeypatch.undo()
    return training


def opened_rows(training, played, mask=0):
    """What the bank reads of each row in a round: residual and mask in the row's slot, less a mask that it knows."""
    layout, key = training.layouts.residual, training.bank_key
    packs = [
        c for s, m in training.said[played] if isinstance(m, wire.MaskedResiduals)
        for c in decode_keyed(key.public, m.ciphertexts)
    ]  # fmt: skip
    values = paillier.Decryptor(key).decrypt_many(packs, Drbg(b"o" * 32))
    modulus, known = 1 << layout.width_bits, packing.read_slots(mask, layout, layout.slots)
    readings = [
        (v - m) % modulus for value in values
        for v, m in zip(packing.read_slots(int(value), layout, layout.slots), known, strict=True)
    ]  # fmt: skip
    return [centre(v, layout.width_bits) for v in readings[: training.rows]]


def solved_scores(training):
    """The bank's estimate of z_A, rounds x rows: the root of its own quadratic that is nearer to the public mean."""
    found, mask = [], known_mask(training.bank_key.public.n)
    for played in range(ROUNDS):
        a0, a1, a2 = training.polynomial(played)
        readings = np.array([float(v) for v in opened_rows(training, played, mask)]) / 2.0**scorecard.RESIDUAL_BITS
        own = training.own_scores[played]
        residual = readings + training.labels
        # a2 z² + a1 z + a0 = residual with z = z_A + z_B
        inside = np.clip(a1 * a1 - 4 * a2 * (a0 - residual), 0.0, None)
        root = (residual - a0) / a1 if abs(a2) < 1e-9 else (-a1 + np.sqrt(inside)) / (2 * a2)
        found.append(root - own)
    return np.stack(found)


def share_explained(training, estimates):
    """The share of the estimates' spread, over rows, that lies in the space of the platform's columns."""
    columns = np.column_stack([training.design, np.ones(training.rows)])
    fitted = columns @ np.linalg.lstsq(columns, estimates.T, rcond=None)[0]
    spread = estimates.T - estimates.T.mean(axis=0)
    rest = estimates.T - fitted
    informative = spread.std(axis=0) > 1e-6
    return 1.0 - (rest[:, informative] ** 2).sum(axis=0) / (spread[:, informative] ** 2).sum(axis=0)


def test_without_the_masks_the_scores_of_all_rows_and_with_them_the_columns_are_read(bank_key, monkeypatch):
    training = trained(bank_key, monkeypatch, is_masked=False)
    estimates = solved_scores(training)
    truth = np.stack(training.seen_scores)
    assert np.abs(estimates - truth).max() < 1e-3, "every row's score, every round"
    assert share_explained(training, estimates).min() > 0.999
    moved = estimates[1:] - estimates[1:].mean(axis=1, keepdims=True)
    assert np.linalg.matrix_rank(moved, tol=1e-2) == FEATURES, "the rounds span the platform's columns"


def test_under_the_masks_no_opened_value_tells_of_a_row(bank_key, monkeypatch):
    training = trained(bank_key, monkeypatch, is_masked=True)
    width = training.layouts.residual.width_bits
    opened = np.array([[float(v) / 2.0**width for v in opened_rows(training, t)] for t in range(ROUNDS)])
    explained = share_explained(training, opened)
    by_chance = FEATURES / (ROWS - 1)
    assert explained.max() < by_chance + 4 * np.sqrt(2 * by_chance / (ROWS - 1)), "as much as noise lies in any columns"
    assert abs(opened.mean()) < 4 / np.sqrt(12 * opened.size) and 0.27 < opened.std() < 0.31, "uniform in [-1/2, 1/2)"
    truth = np.stack(training.seen_scores)[1:]
    correlations = [abs(np.corrcoef(a, b)[0, 1]) for a, b in zip(opened[1:], truth, strict=True)]
    assert max(correlations) < 4 / np.sqrt(ROWS)


def test_the_same_rounds_give_both_sides_their_gradients_masked_or_not(bank_key, monkeypatch):
    masked, bare = (trained(bank_key, monkeypatch, is_masked=flag) for flag in (True, False))
    step = 2.0 ** (masked.layouts.rounding_bits - scorecard.GRADIENT_BITS)
    for one, other in zip(masked.gradients, bare.gradients, strict=True):
        np.testing.assert_allclose(one, other, atol=4 * step)


@pytest.mark.parametrize("is_masked", [False, True])
def test_the_platforms_gradient_is_opened_by_the_bank_under_a_mask_alone(bank_key, monkeypatch, is_masked):
    training = Training(ROWS, FEATURES, bank_key, seed=13)
    if not is_masked:
        monkeypatch.setattr(Drbg, "below", lambda _drbg, _bound: 0)
        monkeypatch.setattr(rounds, "mask_of", lambda _drbg, n, *_: known_mask(n))
    training.round(0)
    monkeypatch.undo()
    message = next(m for s, m in training.said[0] if isinstance(m, wire.MaskedGradient))
    ciphertexts = decode_keyed(bank_key.public, message.ciphertexts)
    values = paillier.Decryptor(bank_key).decrypt_many(ciphertexts, Drbg(b"g" * 32))
    layout, modulus = training.layouts.residual, 1 << training.layouts.width_bits
    sums = [sum(packing.read_slots(int(v), layout, layout.slots)) % modulus for v in values]
    read = np.array([scorecard.gradient_value(v, training.layouts) for v in sums])
    near = np.allclose(read, training.gradients[0], atol=1.0)
    assert near != is_masked
