"""How much a score rests on each party and each column: permutation importance (Breiman 2001; Fisher et al. 2019).

The values of a block, all columns of a party or one column, are handed to other rows at random, the same order for every
column of the block, and the score is computed anew: the AUC that is lost is what the block brings. Columns that say the same
stand in for each other, so that the columns' losses need not add up to their party's. What a score is does not matter here:
the caller brings a function from row orders to scores, and `additive` is the one for a sum of parts, such as a scorecard's
log-odds.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lianxin.crypto.randomness import Drbg
from lianxin.federation.evaluation import Floats, auc

REPEATS = 10
Scorer = Callable[[Mapping[str, NDArray]], ArrayLike]  # {column: from which row each row takes its value} -> scores


@dataclass(frozen=True)
class Importance:
    """A block and the AUC that is lost without it: mean, least and most over the repeats."""

    block: str
    loss: float
    low: float
    high: float


def permutation_importance(
    labels: ArrayLike, score: Scorer, blocks: Mapping[str, Sequence[str]], drbg: Drbg, repeats: int = REPEATS
) -> tuple[Importance, ...]:
    """Return the importance of each block {name: its columns}, largest loss first; empty if a class is absent.

    `score` is called once with no column moved, then `repeats` times a block. A block's draws depend on its name alone, so
    that another block beside it changes nothing.
    """
    outcome = np.asarray(labels)
    whole = auc(outcome, score({}))
    if whole is None:
        return ()
    found = []
    for name, columns in blocks.items():
        stream, lost = drbg.child("permutation", name), []
        for _ in range(repeats):
            order = permutation(stream, outcome.size)
            area = auc(outcome, score(dict.fromkeys(columns, order)))
            assert area is not None
            lost.append(whole - area)
        found.append(Importance(name, float(np.mean(lost)), min(lost), max(lost)))
    return tuple(sorted(found, key=lambda item: (-item.loss, item.block)))


def additive(parts: Mapping[str, Floats]) -> Scorer:
    """Return the scorer of a score that is the sum of one part a column {column: one value a row}."""
    total = np.sum(list(parts.values()), axis=0)

    def score(orders: Mapping[str, NDArray]) -> Floats:
        return total + sum((parts[name][order] - parts[name] for name, order in orders.items()), np.zeros(1))

    return score


def permutation(drbg: Drbg, size: int) -> NDArray:
    """Return a random order of `size` rows: the ranks of as many 64-bit draws; a tie among them is of no account."""
    return np.argsort(np.frombuffer(drbg.bytes(8 * size), dtype="<u8"), kind="stable")
