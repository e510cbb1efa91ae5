"""Attack 11: the platform solves for the bank's labels from the gradients that it is shown.

It knows its own columns X and its scores z_A, and after each round the sum Xᵀr over the residuals r = p(z) - y. The least
squares solution nearest to what it expects of r without labels is the best linear guess. Over the full batch it says hardly
more than the platform's own sub-score, which the finished model reveals anyway and the plan says so; over sixteen rows it
is the labels themselves. The contract knows no batch, and both roles refuse a round under its minimum of rows. Which rows
take part the platform can narrow by saying that consents have ended; a bank takes no row back that was left out once, so that
no round is over another batch than the one before.
"""

from types import SimpleNamespace

import numpy as np
import pytest
from conversations import play, right
from rounds_in_clear_sight import Training

from lianxin.crypto import canonical
from lianxin.federation import binning, evaluation, rounds, scorecard
from lianxin.federation.contract import parse_contract
from lianxin.federation.errors import PeerError
from lianxin.federation.star import BankStar
from lianxin.parties.bank_scorecard import BankScorecard

ROWS, FEATURES, ROUNDS, BATCH = 400, 6, 4, 16


def label_guesses(training, rows=None):
    """The platform's guess of each label: the residuals that explain its gradients best, away from its own forecast."""
    chosen = np.arange(training.rows) if rows is None else np.array(rows)
    design, guesses = training.design[chosen], []
    for played, gradient in enumerate(training.gradients):
        a0, a1, a2 = training.polynomial(played)
        z = training.seen_scores[played][chosen]
        forecast = a0 + a1 * z + a2 * z * z
        blind = forecast - forecast.mean()
        correction, *_ = np.linalg.lstsq(design.T, gradient - design.T @ blind, rcond=1e-9)
        guesses.append(forecast - (blind + correction))
    return np.mean(guesses, axis=0)


@pytest.fixture(scope="module")
def full(bank_key):
    training = Training(ROWS, FEATURES, bank_key)
    for attempt in range(ROUNDS):
        training.round(attempt)
    return training


def test_the_full_batch_tells_labels_no_better_than_the_platforms_own_sub_score(full):
    labels = full.labels.tolist()
    guessed = evaluation.auc(labels, label_guesses(full).tolist())
    sub_score = evaluation.auc(labels, scores_after(full).tolist())
    assert sub_score > 0.6, "the platform's fields do tell something"
    assert guessed <= sub_score + 0.02
    assert np.linalg.matrix_rank(np.stack(full.gradients)) <= FEATURES, "more rounds add no row of X"


def scores_after(training):
    """The platform's sub-score at its last weights."""
    return training.design @ training.weights.weights


def test_a_batch_of_sixteen_rows_gives_every_label_away_where_no_minimum_holds(bank_key):
    training = Training(ROWS, 20, bank_key, seed=12, least=1)
    chosen = np.random.default_rng(3).choice(ROWS, BATCH, replace=False)
    while len(set(training.labels[chosen])) < 2:
        chosen = np.random.default_rng(int(chosen[0]) + 4).choice(ROWS, BATCH, replace=False)
    training.round(0, np.isin(np.arange(ROWS), chosen).tolist())
    rows = sorted(chosen.tolist())
    guessed = label_guesses(training, rows)
    assert evaluation.auc(training.labels[rows].tolist(), guessed.tolist()) > 0.99


@pytest.mark.parametrize("live", [BATCH, 49])
def test_a_round_over_a_batch_is_refused_by_the_contracts_minimum(bank_key, live):
    training = Training(ROWS, FEATURES, bank_key)
    with pytest.raises(PeerError) as refused:
        training.round(0, [row < live for row in range(ROWS)])
    assert refused.value.rule == "OUT-ROWS"


def test_no_contract_can_name_a_batch_or_a_minimum_under_fifty_rows(full):
    record = dict(canonical.decode(canonical.encode(dict(full.contract.record))))
    for change in ({"batch": BATCH}, {"min_rows": BATCH}):
        with pytest.raises(PeerError) as refused:
            parse_contract({**record, **change})
        assert refused.value.rule == "C01"


# ---- another batch each round


PICKED, WIDE, BATCHES = 200, 40, 4


class OneBank(BankScorecard):
    """The real bank's training over a made-up table, against a platform that says which rows are live in each round."""

    def __init__(self, training):
        self.contract, self.keys, self.result, self.world = training.contract, training.keys, {}, training
        own = binning.Columns(training.own.codes[:-1], training.own.bins[:-1])
        self.star = BankStar(training.contract, "bank-1", training.labels.tolist(), own)
        training.own = self.star.own
        self.star.corrections = list(zip(*(training._corrections(k) for k in range(4)), strict=True))
        self.training, self._round, self._active = list(range(training.rows)), -1, []
        self._banks_left = ["bank-1"]
        self.table = SimpleNamespace(identifiers=[f"firm-{row}" for row in range(training.rows)])
        self.node = SimpleNamespace(party="bank-1", take_revocations=lambda *_: None, say=lambda *_what, **_how: None)
        self.told = []

    def _work(self):
        return self.world.bank

    def _banks(self, _texts, _width):
        return ["bank-1"]

    def _release(self, _rows, *_step):
        return SimpleNamespace(firms=self.table.identifiers, provenance=right("bank-1", "platform-a"))

    def _usable(self, released):
        return set(released.firms)

    def _aggregate(self, *_statistic):
        return right("bank-1", "platform-a")

    def _talk(self, role, _conversation, number):
        world, z_a = self.world, np.zeros(self.world.rows)
        turn = rounds.PlatformTurn(world.platform, number, self.keys.secret_key.public, world.columns, z_a, self.told)
        mine, theirs, said = play(role, rounds.platform_round_role(turn))
        pairs = zip(mine.totals, theirs.masks, strict=True)
        modulus = 1 << world.layouts.width_bits
        sums = np.array([scorecard.gradient_value((total - mask) % modulus, world.layouts) for total, mask in pairs])
        world.said, world.gradients, world.seen_scores = [said], [sums], [z_a]
        return mine

    def guessed(self, number, rows):
        """Return the platform's guess of these rows' labels after a round over them alone."""
        self.told = [row in rows for row in range(self.world.rows)]
        self.train(number, {"attempt": number, "restart": 0}, {})
        return label_guesses(self.world, rows).tolist()


class Forgetful(OneBank):
    """A bank that does not remember which rows were left out: the defence taken out."""

    _active = property(lambda _self: [], lambda _self, _rows: None)


def unforeseeable(bank_key):
    """Return rows whose labels no feature tells: what is guessed of them was read, not forecast."""
    training = Training(PICKED, WIDE, bank_key)
    training.labels = np.random.default_rng(4).integers(0, 2, PICKED)
    return training


def test_a_platform_that_picks_another_batch_each_round_reads_all_labels_of_a_bank_that_forgets(bank_key):
    forgetful, size = Forgetful(unforeseeable(bank_key)), PICKED // BATCHES
    batches = [range(start, start + size) for start in range(0, PICKED, size)]
    guessed = [guess for number, rows in enumerate(batches) for guess in forgetful.guessed(number, list(rows))]
    honest = OneBank(unforeseeable(bank_key))
    over_all = honest.guessed(0, list(range(PICKED)))
    picked, whole = (evaluation.auc(honest.star.labels, guesses) for guesses in (guessed, over_all))
    assert picked > 0.97 and whole < 0.85


def test_a_row_that_was_left_out_of_a_round_takes_part_in_no_later_one(bank_key):
    bank = OneBank(unforeseeable(bank_key))
    bank.guessed(0, list(range(60)))
    with pytest.raises(PeerError) as refused:
        bank.guessed(1, list(range(60, 120)))
    assert refused.value.rule == "OUT-ROWS"
    bank.guessed(2, list(range(PICKED)))
    assert bank._active == [row < 60 for row in range(PICKED)]


def test_a_round_is_not_run_again_with_the_same_banks_to_read_the_row_that_is_left_out(bank_key, monkeypatch):
    def residual(bank):
        rows = list(range(PICKED))
        bank.guessed(0, rows)
        whole = bank.world.gradients[-1]
        bank.told = [row != 0 for row in rows]
        bank.train(0, {"attempt": 1, "restart": 0}, {})
        apart = whole - bank.world.gradients[-1]
        design = bank.world.design[0]
        return float(design @ apart / (design @ design))

    with pytest.raises(PeerError) as refused:
        residual(OneBank(unforeseeable(bank_key)))
    assert refused.value.rule == "L04"
    monkeypatch.setattr(OneBank, "_check_rerun", lambda *_: None)
    open_to_it = OneBank(unforeseeable(bank_key))
    label = open_to_it.star.labels[0]
    assert (residual(open_to_it) < 0) == bool(label)
