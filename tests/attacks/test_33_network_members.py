"""Attack 33 on networks: who was trained on, and a field of a firm, read from the weights that a round brings out.

Membership: the offline likelihood-ratio attack (Carlini et al., IEEE S&P 2022, section IV-C): shadow networks trained
without a row say how confident a network is on it that never saw it; a row on which the released one is more confident was
trained on. Beside it the plain threshold on the loss (Yeom et al., CSF 2018). Attributes: the attacker knows a row but for
one binary field, and takes the value on which the network errs less.

A bank alone is attacked, with its update in clear, by whoever knows everything but the one row: what secret sums keep from
the platform is no part of this. Without privacy an overfitting network gives members away (the control). With it both
attacks are near a guess, and below what epsilon allows: an attack on an (epsilon, delta)-private training is right on a
member with no more than e^epsilon times its false alarms (plus delta), so its advantage is (e^eps - 1)/(e^eps + 1) at most.
"""

import math
from functools import cache

import numpy as np
import pytest

from lianxin.federation import evaluation
from lianxin.parties.preparation import Prepared
from lianxin.parties.privacy import PrivacySettings, steps_of
from lianxin.parties.training import LocalSettings, NetworkSpec, initial, predict, train_local
from lianxin.parties.training_private import least_noise

ROWS, COLUMNS, PAIRS, EPSILON, RATE = 120, 16, 4, 1.0, 0.25
SPEC = NetworkSpec("mlp", COLUMNS, (), (128,), 1)


def population(seed):
    """Twice as many rows as are trained on, hard to tell bad from good; the last column is the secret field."""
    rng = np.random.default_rng(seed)
    numbers = rng.normal(size=(2 * ROWS, COLUMNS)).astype(np.float32)
    numbers[:, -1] = np.where(rng.random(2 * ROWS) < 0.5, 1.0, -1.0)
    truth = 0.3 * numbers[:, :3].sum(axis=1)
    labels = (rng.random(2 * ROWS) < 1 / (1 + np.exp(-truth))).astype(np.int64)
    return Prepared(numbers, np.zeros((2 * ROWS, 0), dtype=np.int64), labels), rng


def settings(is_private):
    if not is_private:
        return LocalSettings(epochs=120, batch_rows=30, rate=0.05, norm_bound=1e6)
    steps = steps_of(10, RATE)
    plan = PrivacySettings(EPSILON, 1e-5, "record", 1.0, least_noise(EPSILON, 1e-5, RATE, steps) / 1000, RATE, steps)
    return LocalSettings(epochs=10, batch_rows=30, rate=0.1, norm_bound=1e6, privacy=plan)


def confidence(weights, rows):
    """The logit of the probability that the network gives each row's own label."""
    chances = np.clip(predict(SPEC, weights, rows), 1e-9, 1 - 1e-9)
    own = np.where(rows.labels == 1, chances, 1 - chances)
    return np.log(own / (1 - own))


def trained(rows, members, is_private, number):
    weights = initial(SPEC, b"w" * 32)
    return train_local(SPEC, weights, rows.take(members), settings(is_private), number.to_bytes(32, "big")).weights


@cache
def attacked(is_private, seed=33):
    """The population, who is in, the released network, and the shadows' confidence on rows that they did not see.

    Shadows come in pairs that share the rows out between them, so each row has as many that never saw it.
    """
    rows, rng = population(seed)

    def drawn():
        members = np.zeros(2 * ROWS, dtype=bool)
        members[rng.permutation(2 * ROWS)[:ROWS]] = True
        return members

    inside = drawn()
    released = trained(rows, inside, is_private, 1)
    unseen = np.zeros((PAIRS, 2 * ROWS))
    for pair in range(PAIRS):
        half = drawn()
        for number, members in enumerate((half, ~half)):
            found = confidence(trained(rows, members, is_private, 2 + 2 * pair + number), rows)
            unseen[pair, ~members] = found[~members]
    return rows, inside, released, unseen.mean(axis=0), math.sqrt(unseen.var(axis=0).mean())


def ratio_attack(is_private):
    rows, inside, released, mean, spread = attacked(is_private)
    return area(inside, (confidence(released, rows) - mean) / spread)


def loss_attack(is_private):
    rows, inside, released, _, _ = attacked(is_private)
    return area(inside, confidence(released, rows))


def attribute_attack(is_private):
    """How much oftener the secret field of a member is guessed than that of a row that was not trained on."""
    rows, inside, released, _, _ = attacked(is_private)
    flipped = rows.numbers.copy()
    flipped[:, -1] *= -1
    other = Prepared(flipped, rows.categories, rows.labels)
    right = confidence(released, rows) > confidence(released, other)
    return float(right[inside].mean() - right[~inside].mean())


def area(inside, scores):
    return evaluation.auc(inside.astype(int).tolist(), scores.tolist())


def bound(epsilon):
    """The largest AUC of a membership attack on an epsilon-private training: 1/2 and half of the largest advantage."""
    return 0.5 + (math.exp(epsilon) - 1) / (math.exp(epsilon) + 1) / 2


@pytest.mark.parametrize("attack", [ratio_attack, loss_attack], ids=["ratio", "loss"])
def test_an_overfitting_network_tells_who_was_trained_on(attack):
    found = attack(False)
    assert found > 0.75, f"the attack's AUC is {found:.3f} without privacy"


@pytest.mark.parametrize("attack", [ratio_attack, loss_attack], ids=["ratio", "loss"])
def test_with_differential_privacy_it_does_not(attack):
    found = attack(True)
    sampling = 3 * math.sqrt((2 * ROWS + 1) / (12 * ROWS * ROWS))  # three deviations of an AUC that knows nothing
    assert found < min(bound(EPSILON), 0.5 + sampling), f"the attack's AUC is {found:.3f} with epsilon {EPSILON}"
    assert found < attack(False) - 0.15


def test_a_field_of_those_trained_on_is_guessed_oftener_without_privacy_and_hardly_with_it():
    clear, private = attribute_attack(False), attribute_attack(True)
    assert clear > 0.12, f"members' fields are guessed {clear:.3f} oftener"
    assert private < 0.1, f"members' fields are guessed {private:.3f} oftener with privacy"


def test_the_bound_of_an_attack_is_a_guess_at_no_epsilon_and_everything_at_much():
    assert bound(0.0) == 0.5
    assert bound(1.0) == pytest.approx(0.731, abs=1e-3)
    assert bound(10.0) > 0.9999
