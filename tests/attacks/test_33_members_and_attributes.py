"""Attack 33: who was trained on, and what a firm's fields are, read from the finished model.

Membership: the likelihood-ratio attack (Carlini et al., IEEE S&P 2022, section IV). An attacker who can draw rows of the
same kind trains shadow models with and without a row, and asks under which of the two the released model's confidence on
the row is the likelier. Attributes: the bank holds a firm's sub-score in whole points and its own fields, and guesses in
which bin a platform feature of the firm lies; a firm whose points it was not given is guessed from the bin's share alone.

What is measured here is what a model without noise gives away: a scorecard of few features over hundreds of rows hardly
tells members from others, one with a column for every five rows does, and a ridge does not help. Points do tell
attributes: with few features much, and the plan says that they are row values. Training with differential privacy, and
the same figures with it, are no part of this version; these tests are the figures without.
"""

import numpy as np
import pytest

from lianxin.federation import evaluation
from lianxin.federation.regression import fit_logistic, predict

ROWS, SHADOWS, BINS = 300, 48, 5


def population(features, seed):
    """Twice as many rows as are trained on: WOE-coded columns and labels."""
    rng = np.random.default_rng(seed)
    design = np.linspace(-1.0, 1.0, BINS)[rng.integers(0, BINS, (2 * ROWS, features))]
    truth = design @ rng.normal(0, 1.5 / np.sqrt(features), features) - 0.7
    return design, (rng.random(2 * ROWS) < 1 / (1 + np.exp(-truth))).astype(int), rng


def confidence(weights, design, labels):
    """The logit of the probability that a model gives each row's own label."""
    chances = np.clip(predict(weights, design), 1e-9, 1 - 1e-9)
    own = np.where(labels == 1, chances, 1 - chances)
    return np.log(own / (1 - own))


def membership_auc(features, ridge, seed=33):
    """The attack's AUC over all rows: released model against shadows with and without each row."""
    design, labels, rng = population(features, seed)

    def trained():
        members = np.zeros(2 * ROWS, dtype=bool)
        members[rng.permutation(2 * ROWS)[:ROWS]] = True
        return members, confidence(fit_logistic(design[members], labels[members], ridge), design, labels)

    released, seen = trained()
    shadows = [trained() for _ in range(SHADOWS)]
    inside, values = np.stack([m for m, _ in shadows]), np.stack([v for _, v in shadows])
    ratios = np.zeros(2 * ROWS)
    for row in range(2 * ROWS):
        member, other = values[inside[:, row], row], values[~inside[:, row], row]
        spread = np.sqrt((member.var() + other.var()) / 2) + 1e-6
        ratios[row] = ((seen[row] - other.mean()) ** 2 - (seen[row] - member.mean()) ** 2) / (2 * spread**2)
    return evaluation.auc(released.astype(int).tolist(), ratios.tolist())


def test_a_scorecard_of_few_features_hardly_tells_who_was_trained_on():
    area = membership_auc(features=10, ridge=1.0)
    assert 0.45 < area < 0.62, f"the membership attack's AUC is {area:.3f}"


def test_the_same_attack_finds_members_where_columns_are_many_for_the_rows():
    few, many = membership_auc(features=10, ridge=1.0), membership_auc(features=60, ridge=1.0)
    assert many > 0.58 and many > few + 0.05, f"{few:.3f} and {many:.3f}"


def test_a_penalty_is_no_defence_against_it():
    assert membership_auc(features=60, ridge=10.0) > 0.58


# ---- attributes


def bin_guesses(features, seed, points_to_double_odds=20):
    """Share of firms whose bin of feature 0 is guessed: from bins' shares alone, and from the points by Bayes."""
    rng = np.random.default_rng(seed)
    codes = rng.choice(BINS, (features, 4000), p=[0.4, 0.25, 0.15, 0.1, 0.1])
    woe = np.linspace(-1.2, 1.2, BINS)
    weights = rng.uniform(0.5, 1.0, features)
    values = scorecard_points((weights[:, None] * woe[codes]).sum(axis=0), points_to_double_odds)
    known, asked = slice(0, 3000), slice(3000, 4000)
    tables = {}
    for value, code in zip(values[known].tolist(), codes[0, known].tolist(), strict=True):
        tables.setdefault(value, np.zeros(BINS))[code] += 1
    common = np.bincount(codes[0, known], minlength=BINS)
    blind = (codes[0, asked] == common.argmax()).mean()
    guessed = [int(tables.get(value, common).argmax()) for value in values[asked].tolist()]
    return blind, float((np.array(guessed) == codes[0, asked]).mean())


def scorecard_points(sub_scores, points_to_double_odds):
    """Whole points, as they are delivered."""
    return np.rint(sub_scores * points_to_double_odds / np.log(2.0)).astype(int)


@pytest.mark.parametrize(("features", "least", "most"), [(1, 0.99, 1.01), (3, 0.6, 1.01), (24, 0.3, 0.55)])
def test_points_tell_a_feature_the_more_the_fewer_features_stand_behind_them(features, least, most):
    blind, told = bin_guesses(features, seed=7)
    assert blind < 0.45
    assert least < told < most, f"{told:.3f} where the bins' shares alone give {blind:.3f}"


def test_coarser_points_tell_less():
    fine, coarse = (bin_guesses(3, 7, pdo)[1] for pdo in (20, 1))
    assert coarse < fine - 0.1, f"{fine:.3f} and {coarse:.3f}"


def test_the_plan_says_that_points_are_read_row_by_row():
    from conversations import contract_of

    from lianxin.federation import plan

    made = plan.make_plan(contract_of(), plan.reference_calibration(2048))
    told = [entry for entry in made["learns"] if entry["step"] == "scoring.points"]
    assert told and "sub-score" in told[0]["what"] and "sets them against" in told[0]["malicious"]
    assert any("model is itself information" in sentence for sentence in made["not_protected"])
