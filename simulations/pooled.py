"""The reference that no bank may build in life: the same scorecard fitted on the joined table, in clear.

Only a simulation holds every side's rows, so only here can "joint" be compared with "pooled" (protocols.md, section
5). Two references, on the rows, bins, WOE, ridge and split of the joint run:

- `pooled`: the joint run's own model, one w_A for all banks with each bank's own w_B and intercept, by exact Newton;
- `pooled_single`: one plain regression over all banks' rows, on the platform's columns and the bank columns that
  every bank has by name; None when they have none in common.

Test rows are scored once. The level `overall` is all banks' test rows one after the other.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lianxin.federation import evaluation
from lianxin.federation.regression import fit_logistic, fit_star, predict

OVERALL = "overall"
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class PooledBank:
    """One bank's rows joined with the platform's, WOE-coded: matrices are rows x columns, labels 0/1 with 1 = bad."""

    name: str
    shared_train: Floats = field(repr=False)
    own_train: Floats = field(repr=False)
    y_train: NDArray = field(repr=False)
    shared_test: Floats = field(repr=False)
    own_test: Floats = field(repr=False)
    y_test: NDArray = field(repr=False)
    own_columns: tuple[str, ...]


@dataclass(frozen=True)
class Figures:
    """One model on the test rows; keys are the bank names and `overall`. A figure is None where a class is absent."""

    auc: Mapping[str, float | None]
    ks: Mapping[str, float | None]
    predictions: Mapping[str, Floats] = field(repr=False)


@dataclass(frozen=True)
class PooledResult:
    """Both references; `labels` are the test labels in the order of the predictions, `common` the shared names."""

    pooled: Figures
    pooled_single: Figures | None
    labels: Mapping[str, NDArray] = field(repr=False)
    common: tuple[str, ...]


def pooled_reference(banks: Sequence[PooledBank], ridge: float) -> PooledResult:
    """Return `pooled` and `pooled_single` of these banks; ValueError on unusable input, FitNotConverged as fits do."""
    _check(banks)
    star = fit_star([(bank.shared_train, bank.own_train, bank.y_train) for bank in banks], ridge)
    places = {bank.name: place for place, bank in enumerate(banks)}
    common = _common_columns(banks)
    single = _single(banks, common, ridge) if common else None
    return PooledResult(
        pooled=_figures(banks, lambda bank: star.predict(places[bank.name], bank.shared_test, bank.own_test)),
        pooled_single=single,
        labels=with_overall({bank.name: np.asarray(bank.y_test) for bank in banks}),
        common=common,
    )


def _single(banks: Sequence[PooledBank], common: tuple[str, ...], ridge: float) -> Figures:
    def design(bank: PooledBank, shared: Floats, own: Floats) -> Floats:
        return np.hstack((shared, own[:, [bank.own_columns.index(name) for name in common]]))

    joined = np.vstack([design(bank, bank.shared_train, bank.own_train) for bank in banks])
    fit = fit_logistic(joined, np.concatenate([bank.y_train for bank in banks]), ridge)
    return _figures(banks, lambda bank: predict(fit, design(bank, bank.shared_test, bank.own_test)))


def _figures(banks: Sequence[PooledBank], score: Callable[[PooledBank], Floats]) -> Figures:
    labels = with_overall({bank.name: np.asarray(bank.y_test) for bank in banks})
    predictions = with_overall({bank.name: score(bank) for bank in banks})
    return Figures(
        auc={level: evaluation.auc(labels[level], predictions[level]) for level in labels},
        ks={level: evaluation.ks(labels[level], predictions[level]) for level in labels},
        predictions=predictions,
    )


def with_overall(by_bank: Mapping[str, NDArray]) -> dict[str, NDArray]:
    """Return the banks' rows with those of the level `overall` before them: all banks' one after the other."""
    return {OVERALL: np.concatenate(list(by_bank.values())), **by_bank}


def _common_columns(banks: Sequence[PooledBank]) -> tuple[str, ...]:
    everywhere = set.intersection(*(set(bank.own_columns) for bank in banks))
    return tuple(name for name in banks[0].own_columns if name in everywhere)


def _check(banks: Sequence[PooledBank]) -> None:
    names = [bank.name for bank in banks]
    if not names or len({*names, OVERALL}) != len(names) + 1:
        raise ValueError(f"pooling needs at least one bank, each with its own name and none called {OVERALL!r}")
    for bank in banks:
        for own in (bank.own_train, bank.own_test):
            if own.ndim != 2 or not own.shape[1] == len(bank.own_columns) == len(set(bank.own_columns)):
                raise ValueError(f"{bank.name}: name each own column once, in the order of the matrices")
