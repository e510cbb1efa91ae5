"""Flower's strategies by name: what each does with groups' averages, that FedAvg of one group is exact, and the state."""

import json
from fractions import Fraction

import numpy as np
import pytest
from conversations import contract_of
from torture import repeats

from lianxin.crypto import canonical
from lianxin.federation import strategies
from lianxin.federation.errors import RunStopped

SHAPES = ((3, 4), (4,), (1, 4), (1,))


def weights_of(seed: int, scale: float = 1.0) -> list[np.ndarray]:
    drawn = np.random.default_rng(seed)
    return [(scale * drawn.standard_normal(shape)).astype(np.float32) for shape in SHAPES]


def named(name: str, **terms: int) -> strategies.FedAvg:
    return strategies.inner_strategy(contract_of(3, strategy=name, **terms))


def bytes_of(weights: strategies.Weights) -> bytes:
    return b"".join(array.astype("<f4").tobytes() for array in weights)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("fedavg", "FedAvg"), ("fedprox", "FedProx"), ("fedadam", "FedAdam"), ("fedmedian", "FedMedian")],
)
def test_a_name_gives_flowers_own_class_which_waits_for_nobody(name: str, kind: str) -> None:
    made = named(name)
    assert (type(made).__name__, type(made).__module__.split(".")[0]) == (kind, "flwr")
    assert made.min_train_nodes == made.min_evaluate_nodes == made.min_available_nodes == 1


def test_the_contracts_rates_reach_flower() -> None:
    assert named("fedadam", server_rate_millionths=30_000).eta == pytest.approx(0.03)
    assert named("fedprox", proximal_thousandths=250).proximal_mu == 0.25


@pytest.mark.parametrize("name", ["fedavg", "fedprox"])
def test_the_average_of_one_group_comes_back_bit_for_bit(name: str) -> None:
    strategy, before = named(name), weights_of(0)
    for case in repeats(f"strategies: exact {name}", 500):
        average = weights_of(case, 10.0 ** (case % 7 - 3))
        assert bytes_of(strategies.combine(strategy, 1, before, [(average, 1 + 977 * case)])) == bytes_of(average)


def test_the_average_of_groups_is_weighted_by_rows() -> None:
    groups = [(weights_of(seed), 100 * (seed + 1)) for seed in range(3)]
    after = strategies.combine(named("fedavg"), 1, weights_of(9), groups)
    for place, array in enumerate(after):
        flat = [[Fraction(float(v)) for v in weights[place].ravel()] for weights, _ in groups]
        exact = [
            sum(r * v for (_, r), v in zip(groups, column, strict=True)) / 600 for column in zip(*flat, strict=True)
        ]
        assert array.dtype == np.float32
        np.testing.assert_allclose(array.ravel(), [float(v) for v in exact], rtol=1e-5, atol=1e-7)


def test_the_median_ignores_one_group_that_is_far_off() -> None:
    groups = [(weights_of(1), 100), (weights_of(2), 100), ([1e6 * w for w in weights_of(3)], 100)]
    after = strategies.combine(named("fedmedian"), 1, weights_of(9), groups)
    for place, array in enumerate(after):
        assert np.array_equal(array, np.median([weights[place] for weights, _ in groups], axis=0).astype(np.float32))
    assert max(np.abs(array).max() for array in after) < 10


def test_adam_steps_from_the_weights_before_as_its_paper_says() -> None:
    before, average = weights_of(1), weights_of(2)
    after = strategies.combine(named("fedadam", server_rate_millionths=20_000), 1, before, [(average, 50)])
    for start, mean, end in zip(before, average, after, strict=True):
        change = mean.astype(np.float64) - start
        rate = 0.02 * np.sqrt(1 - 0.99**2) / (1 - 0.9**2)
        np.testing.assert_allclose(end, start + rate * 0.1 * change / (np.sqrt(0.01 * change**2) + 1e-3), rtol=1e-4)


@pytest.mark.parametrize("name", ["fedavg", "fedprox", "fedadam", "fedmedian"])
def test_a_strategy_restored_from_its_state_goes_on_as_if_nothing_had_happened(name: str) -> None:
    def rounds(strategy: strategies.FedAvg, first: int, last: int, weights: strategies.Weights) -> strategies.Weights:
        for number in range(first, last):
            groups = [(weights_of(10 * number + g), 10 + g) for g in range(3)]
            weights = strategies.combine(strategy, number, weights, groups)
        return weights

    whole = rounds(named(name), 1, 5, weights_of(0))
    first, second = named(name), named(name)
    middle = rounds(first, 1, 3, weights_of(0))
    kept = canonical.decode_fragment(canonical.encode(strategies.state(first)))
    strategies.restore(second, kept)
    assert bytes_of(rounds(second, 3, 5, middle)) == bytes_of(whole)
    assert bool(kept) == (name == "fedadam")


def test_a_round_that_is_taken_back_leaves_adams_moments_as_they_were() -> None:
    strategy, before = named("fedadam"), weights_of(0)
    strategies.combine(strategy, 1, before, [(weights_of(1), 10)])
    kept = strategies.state(strategy)
    strategies.combine(strategy, 2, before, [(weights_of(2, 1e4), 10)])
    assert strategies.state(strategy) != kept
    strategies.restore(strategy, kept)
    assert strategies.state(strategy) == kept
    strategies.restore(strategy, {})
    assert strategies.state(strategy) == {}


def test_a_damaged_or_foreign_state_is_refused_in_a_sentence() -> None:
    strategy = named("fedadam")
    strategies.combine(strategy, 1, weights_of(0), [(weights_of(1), 10)])
    kept = strategies.state(strategy)
    for spoil in (
        lambda r: r.pop("v_t"),
        lambda r: r["m_t"][0].update(shape=[5, 5]),
        lambda r: r["m_t"][0].update(float32="!"),
        lambda r: r["m_t"][0].update(shape=[-1, -12]),
        lambda r: r["v_t"].append(3),
    ):
        record = json.loads(json.dumps(kept))
        spoil(record)
        with pytest.raises(RunStopped, match="cannot be resumed"):
            strategies.restore(named("fedadam"), record)
    with pytest.raises(RunStopped, match="cannot be resumed"):
        strategies.restore(named("fedavg"), kept)


def test_what_cannot_be_combined_stops_the_run_in_a_sentence() -> None:
    with pytest.raises(RunStopped, match="nothing to average"):
        strategies.combine(named("fedavg"), 4, weights_of(0), [])
    with pytest.raises(RunStopped, match="nothing to average"):
        strategies.combine(named("fedavg"), 4, weights_of(0), [(weights_of(1), 0)])
    with pytest.raises(RunStopped, match="other shapes"):
        strategies.combine(named("fedavg"), 4, weights_of(0), [(weights_of(1)[:2], 5)])
    with pytest.raises(RunStopped, match="no numbers"):
        strategies.combine(named("fedavg"), 4, weights_of(0), [([w * np.float32("nan") for w in weights_of(1)], 5)])
    with pytest.raises(RunStopped, match="no numbers"):
        strategies.combine(named("fedadam"), 4, weights_of(0), [(weights_of(1, 3e38), 5)])
