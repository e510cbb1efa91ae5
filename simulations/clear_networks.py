"""The same networks on rows that nobody may join in life, in clear: pooled, local and federated without a network.

All three start from the same weights and train with the same settings. `federated` is the very sum of a run: rows times
the quantised update of each bank, added as whole numbers, divided once. A run with secret sums gives the same weights to
the bit, since the sum of integers knows no order; `pooled` and `local` are what the report sets beside it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from lianxin.crypto.randomness import derive_seed
from lianxin.parties import preparation as prep
from lianxin.parties.training import LocalSettings, NetworkSpec, dequantise, quantise, train_local
from lianxin.parties.training_shapes import Weights

Columns = Mapping[str, Sequence[Any]]


@dataclass(frozen=True)
class ClearRun:
    """The last weights and the rows-weighted mean training loss of each round."""

    weights: Weights = field(repr=False)
    losses: tuple[float, ...]


def agreed_preparation(
    tables: Mapping[str, Columns], fields: Sequence[str], least_rows: int, quantiles: int
) -> prep.Preparation:
    """Return what the banks would agree on over these training columns: the run's own steps, with sums in clear."""
    numbers, texts = list[prep.NumberField](), list[prep.TextField]()
    for name in fields:
        columns = [table[name] for table in tables.values()]
        if prep.agreed_kind(name, [prep.kind_of(values) for values in columns]) == "number":
            numbers.append(_number_field(name, columns, least_rows, quantiles))
        else:
            named = [prep.categories_of(values, least_rows) for values in columns]
            texts.append(prep.TextField(name, prep.agreed_categories(named)))
    return prep.Preparation(tuple(numbers), tuple(texts))


def _number_field(name: str, columns: Sequence[Sequence[Any]], least_rows: int, quantiles: int) -> prep.NumberField:
    def total(grid: prep.Grid) -> prep.Ints:
        return np.sum([prep.histogram_of(values, grid, least_rows) for values in columns], axis=0)

    grid = prep.refine(total(prep.FIRST_GRID), prep.FIRST_GRID)
    return prep.knots_from(name, total(grid), grid, quantiles)


def pooled(
    spec: NetworkSpec,
    start: Weights,
    banks: Mapping[str, prep.Prepared],
    settings: LocalSettings,
    rounds: int,
    seed: bytes,
) -> ClearRun:
    """Return the network trained on all banks' rows at once, as many epochs as each bank would train on its own."""
    return local(spec, start, prep.joined(list(banks.values())), settings, rounds, derive_seed(seed, "pooled"))


def local(
    spec: NetworkSpec, start: Weights, prepared: prep.Prepared, settings: LocalSettings, rounds: int, seed: bytes
) -> ClearRun:
    """Return the network trained on one bank's rows alone, as many epochs as in the federation and without its bounds."""
    free = replace(settings, proximal=0.0, norm_bound=float("inf"), privacy=None)
    weights, losses = start, list[float]()
    for number in range(1, rounds + 1):
        outcome = train_local(spec, weights, prepared, free, derive_seed(seed, "local", number), number)
        weights = outcome.weights
        losses.append(outcome.loss)
    return ClearRun(weights, tuple(losses))


def federated(
    spec: NetworkSpec,
    start: Weights,
    banks: Mapping[str, prep.Prepared],
    settings: LocalSettings,
    rounds: int,
    bits: int,
    seed: bytes,
    alter: Callable[[str, int, prep.Ints], prep.Ints] = lambda bank, number, update: update,
) -> ClearRun:
    """Return FedAvg over the banks (FedProx where the settings have a proximal weight).

    `alter(bank, round, quantised update)` stands where a bank's update leaves it: what an attacker would change.
    """
    weights, losses = start, list[float]()
    for number in range(1, rounds + 1):
        total, loss_sum, rows = np.zeros(len(start), dtype=np.int64), 0.0, 0
        for bank in sorted(banks):
            outcome = train_local(spec, weights, banks[bank], settings, derive_seed(seed, bank, number), number)
            update = quantise(outcome.update, bits, settings.norm_bound)
            total += outcome.rows * alter(bank, number, update)
            rows, loss_sum = rows + outcome.rows, loss_sum + outcome.rows * outcome.loss
        weights = (weights + dequantise(total, bits, rows)).astype(np.float32)
        losses.append(loss_sum / rows)
    return ClearRun(weights, tuple(losses))
