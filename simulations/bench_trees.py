"""References for boosted trees: the clear ensemble without the cap on cuts, and scikit-learn's at equal settings.

scikit-learn's HistGradientBoostingClassifier gets the same bins, number of trees, depth, learning rate, ridge and least
rows a leaf. What remains different: it splits categories into sets, leaves gradients as they are, merges no bins of a node
before it cuts, and knows no cap on the platform's cuts.
"""

from dataclasses import replace
from typing import Any

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier

from lianxin.crypto.randomness import Drbg, derive_seed
from lianxin.federation.boosting_ensemble import CATEGORIES, MISSING, TreeColumns
from lianxin.federation.boosting_growth import TreeTerms
from lianxin.parties.node import simulated_seed
from lianxin.simulations.clear_trees import clear_ensemble, predict_clear
from lianxin.simulations.results_trees import TreeRun

UNCAPPED = 1 << 20


def uncapped_scores(run: TreeRun) -> np.ndarray:
    """Return the test rows' chances by the run's own algorithm in clear, with any number of the platform's cuts."""
    rows, terms = run.bank_model["training_rows"], replace(TreeTerms.of(run.contract), split_bits=UNCAPPED)
    drbg = Drbg(derive_seed(simulated_seed(run.seed), run.bank, run.contract.run)).child("growth")
    ensemble = clear_ensemble(terms, run.labels(rows), *run.columns(rows), drbg)
    return predict_clear(ensemble, *run.columns(run.bank_model["test_rows"]))


def sklearn_scores(run: TreeRun) -> np.ndarray:
    """Return the test rows' chances by scikit-learn's histogram trees on the same bins at equal settings."""
    train, test = (_table(run.columns(run.bank_model[name])) for name in ("training_rows", "test_rows"))
    contract = run.contract
    model = HistGradientBoostingClassifier(
        max_iter=contract.trees, learning_rate=contract.learning_rate_thousandths / 1000, max_depth=contract.depth,
        max_leaf_nodes=None, min_samples_leaf=contract.min_rows, l2_regularization=contract.ridge, early_stopping=False,
        categorical_features=_categories(run.columns(run.bank_model["test_rows"])), random_state=run.seed,
    )  # fmt: skip
    model.fit(train, run.labels(run.bank_model["training_rows"]))
    return model.predict_proba(test)[:, 1]


def _table(sides: tuple[TreeColumns, TreeColumns]) -> np.ndarray:
    """Return rows x features of bin numbers, the platform's first; a missing value is not a number."""
    return np.column_stack([values for side in sides for values in _values(side)])


def _values(side: TreeColumns) -> list[np.ndarray]:
    found = []
    for codes, bins, kind in zip(side.codes, side.shapes.bins, side.shapes.kinds, strict=True):
        values = codes.astype(float)
        found.append(np.where(codes == bins - 1, np.nan, values) if kind == MISSING else values)
    return found


def _categories(sides: tuple[TreeColumns, TreeColumns]) -> Any:
    return [kind == CATEGORIES for side in sides for kind in side.shapes.kinds]
