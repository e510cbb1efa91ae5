"""What a joint scorecard over several banks is to each of them beside one that the bank makes with the platform alone.

`vertical_only` is the scorecard of one bank and the platform: platform weights, and weights of evidence in the joint run's
bins, of that bank's rows alone, by the joint run's own algorithm in clear. Only a simulation can hold it against the joint one
without making it: a bank in life sees its joint and its bank-only card, and must run with the platform alone to know more.

`recommended` says which of "star", "vertical_only" and "bank_only" to use: the joint scorecard, unless another is better by
more than MARGIN of AUC on training rows that were held back in turn (all models fitted again without them, in the run's
bins), never by the test rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from lianxin.federation import evaluation, regression
from lianxin.federation.scorecard import WOE_BITS, Floats
from lianxin.federation.screening import woe_integers
from lianxin.simulations.clear_scorecard import clear_scores
from lianxin.simulations.pooled import PooledBank

STAR, VERTICAL, ALONE = "star", "vertical_only", "bank_only"
MARGIN = 0.005
MODELS = (STAR, VERTICAL, ALONE)
FOLDS = 5


@dataclass(frozen=True)
class StarBank:
    """One bank's rows in the run's bins: `joined` with the common weights of evidence, `shared` as bins, rows x features.

    `firms` are the numbers of the training rows' firms.
    """

    joined: PooledBank
    shared_train: np.ndarray = field(repr=False)
    shared_test: np.ndarray = field(repr=False)
    bins: tuple[int, ...]
    firms: np.ndarray = field(repr=False)

    def take(self, flags: np.ndarray) -> PooledBank:
        """Return the bank with the flagged training rows to train on and the others as its test rows."""
        one = self.joined
        return replace(
            one, shared_train=one.shared_train[flags], own_train=one.own_train[flags], y_train=one.y_train[flags],
            shared_test=one.shared_train[~flags], own_test=one.own_train[~flags], y_test=one.y_train[~flags],
        )  # fmt: skip

    def by_itself(self, flags: np.ndarray | None = None) -> PooledBank:
        """Return the bank with weights of evidence of its own rows alone; `flags` as in `take`."""
        labels = self.joined.y_train
        counted = np.ones(len(labels), dtype=bool) if flags is None else flags
        shared = [_own_woe(self.shared_train[counted, k], labels[counted], bins) for k, bins in enumerate(self.bins)]
        train, test = (_coded(shared, codes, len(rows)) for codes, rows in (
            (self.shared_train, labels), (self.shared_test, self.joined.y_test)))  # fmt: skip
        whole = replace(self, joined=replace(self.joined, shared_train=train, shared_test=test))
        return whole.joined if flags is None else whole.take(flags)


def _own_woe(codes: np.ndarray, labels: np.ndarray, bins: int) -> Floats:
    goods, bads = (np.bincount(codes[labels == y], minlength=bins).tolist() for y in (0, 1))
    return np.array(woe_integers(goods, bads), dtype=float) / 2.0**WOE_BITS


def _coded(woe: Sequence[Floats], codes: np.ndarray, rows: int) -> Floats:
    columns = [table[codes[:, place]] for place, table in enumerate(woe)]
    return np.stack(columns, axis=1) if columns else np.zeros((rows, 0))


def vertical_scores(banks: Sequence[StarBank], rounds: int, ridge: float, signed: bool) -> dict[str, list[float]]:
    """Return each bank's chances on its test rows by the scorecard that it makes with the platform alone."""
    found: dict[str, list[float]] = {}
    for bank in banks:
        found |= {name: p.tolist() for name, p in clear_scores([bank.by_itself()], rounds, ridge, signed).items()}
    return found


def validation_aucs(
    banks: Sequence[StarBank], rounds: int, ridge: float, signed: bool
) -> dict[str, dict[str, float | None]]:
    """Return {bank: {"star", "vertical_only", "bank_only": AUC}}, the mean over FOLDS on firms that were held back in turn.

    None where one class is absent in every fold.
    """
    folds = [_held_back(banks, fold, rounds, ridge, signed) for fold in range(FOLDS)]
    return {name: {model: _mean([fold[name][model] for fold in folds]) for model in MODELS} for name in folds[0]}


def _held_back(
    banks: Sequence[StarBank], fold: int, rounds: int, ridge: float, signed: bool
) -> dict[str, dict[str, float | None]]:
    flags = {bank.joined.name: bank.firms % FOLDS != fold for bank in banks}
    kept = {bank.joined.name: bank.take(flags[bank.joined.name]) for bank in banks}
    star = clear_scores(list(kept.values()), rounds, ridge, signed)
    found = {}
    for bank in banks:
        name = bank.joined.name
        one = kept[name]
        fitted = regression.fit_logistic(one.own_train, one.y_train, ridge)
        vertical = clear_scores([bank.by_itself(flags[name])], rounds, ridge, signed)[name]
        scored = {STAR: star[name], VERTICAL: vertical, ALONE: regression.predict(fitted, one.own_test)}
        found[name] = {model: evaluation.auc(one.y_test.tolist(), p.tolist()) for model, p in scored.items()}
    return found


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def recommend(validation: Mapping[str, Mapping[str, float | None]]) -> dict[str, str]:
    """Return the model for each bank: the star's unless another is better by more than MARGIN on the rows held back."""
    return {bank: _best(figures) for bank, figures in validation.items()}


def _best(figures: Mapping[str, float | None]) -> str:
    known = {model: value for model, value in figures.items() if value is not None}
    if STAR not in known:
        return STAR
    best = max(known, key=lambda model: (known[model], model == STAR))
    return best if known[best] > known[STAR] + MARGIN else STAR


def advice_lines(
    auc: Mapping[str, Mapping[str, Any]], validation: Mapping[str, Mapping[str, float | None]],
    recommended: Mapping[str, str],
) -> list[str]:  # fmt: skip
    """Return the report's sentences: where another model is recommended, and where the test rows say other than this."""
    lines = []
    for bank, model in recommended.items():
        held, level = validation[bank], auc[bank]
        behind = _less(level.get(VERTICAL), level.get("joint"))
        if model != STAR:
            lines.append(
                f"{bank}: use {model.replace('_', ' ')}. On training rows that were held back it reaches an AUC of "
                f"{held[model]:.4f}, the scorecard over all banks {held[STAR]:.4f}."
            )
        elif behind > MARGIN:
            lines.append(
                f"{bank}: on test rows the scorecard of this bank and the platform alone is better by {behind:.4f} of AUC; "
                "the training rows that were held back did not show it."
            )
    return lines


def _less(one: float | None, other: float | None) -> float:
    return 0.0 if one is None or other is None else one - other
