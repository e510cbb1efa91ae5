"""Small made-up tables for tests of boosted trees, and a run of trees between two protocol machines in memory."""

from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from conversations import play, right

from lianxin.crypto import paillier
from lianxin.crypto.pool import CountedPlaces, RandomiserPool
from lianxin.crypto.randomness import Drbg
from lianxin.federation import scorecard
from lianxin.federation.binning import BankKeys, Work
from lianxin.federation.boosting import BankTrees, BankTreeTurn, bank_tree_role
from lianxin.federation.boosting_ensemble import CATEGORIES, MISSING, ORDERED, Ensemble, Flags, TreeColumns
from lianxin.federation.boosting_growth import Growth, TreeTerms
from lianxin.federation.boosting_platform import PlatformTrees, PlatformTreeTurn, platform_tree_role
from lianxin.federation.contract import RunContract
from lianxin.federation.session import Role, Send

SAMPLING = b"t" * 32
TO_BANK, TO_PLATFORM = right("platform-a", "bank-1"), right("bank-1", "platform-a")


@dataclass(frozen=True)
class Table:
    """Rows joined of both sides, binned, with labels 0 and 1."""

    labels: list[int]
    platform: TreeColumns
    own: TreeColumns


def made_up(rows: int, seed: int, platform: int = 4, own: int = 2, most_bins: int = 7) -> Table:
    """Return rows whose label depends on missing values, categories and both sides' numbers."""
    chance = np.random.Generator(np.random.PCG64(seed))
    sides = [_columns(chance, rows, count, most_bins) for count in (platform, own)]
    pull = sum(
        weight * side.codes[j] for side in sides for j, weight in enumerate(chance.normal(0, 0.5, 8)[: len(side.codes)])
    )
    jump = sum(
        1.5 * (column == bins - 1) for side in sides for column, bins in zip(side.codes, side.shapes.bins, strict=True)
    )
    z = pull + jump
    z = z - np.mean(z) if np.ndim(z) else np.zeros(rows)
    return Table((chance.random(rows) < 1 / (1 + np.exp(-z))).astype(int).tolist(), *sides)


def _columns(chance: Any, rows: int, count: int, most_bins: int) -> TreeColumns:
    bins = [int(chance.integers(2, most_bins + 1)) for _ in range(count)]
    kinds = [(ORDERED, MISSING, CATEGORIES)[j % 3] for j in range(count)]
    codes = [np.minimum(chance.integers(0, b, rows), chance.integers(0, b, rows)).tolist() for b in bins]
    return TreeColumns.of(codes, bins, kinds, rows)


@dataclass
class Run:
    """One bank's run of trees with the platform: what each side keeps, and what was said."""

    contract: RunContract
    bank: BankTrees
    platform: PlatformTrees
    keys: BankKeys
    said: list[tuple[str, Any]] = field(default_factory=list)
    live: dict[int, tuple[Flags, Flags]] = field(default_factory=dict)
    executor: Executor | None = None

    def work(self, party: str) -> Work:
        """Return what a side computes with."""
        rights = (TO_BANK,) if party == "platform" else (TO_PLATFORM,)
        layouts, drbg = scorecard.plan_layouts(self.contract), Drbg(party.encode().ljust(32))
        return Work(self.contract, layouts, "bank-1", drbg, rights, self.executor)

    def bank_turn(self, number: int = 0) -> BankTreeTurn:
        """Return the bank's input to a tree."""
        every = np.ones(self.platform.columns.rows, dtype=np.bool_)
        return BankTreeTurn(self.work("bank"), self.keys, self.bank, self.live.get(number, (every, every))[0])

    def platform_turn(self, number: int = 0) -> PlatformTreeTurn:
        """Return the platform's input to a tree."""
        every = np.ones(self.platform.columns.rows, dtype=np.bool_)
        return PlatformTreeTurn(self.work("platform"), self.platform, self.live.get(number, (every, every))[1])

    def tree(self, number: int = 0) -> bool:
        """Grow one tree; return whether it was the last."""
        turns = (bank_tree_role(self.bank_turn(number)), platform_tree_role(self.platform_turn(number)))
        grown, answered, said = play(*turns)
        assert (grown.grown.tree, grown.grown.stop, grown.cuts) == (answered.tree, answered.stop, answered.cuts)
        self.said += said
        return answered.stop

    def grow(self) -> Ensemble:
        """Grow to the end and return the bank's model."""
        number = 0
        while not self.tree(number):
            number += 1
        return self.bank.growth.ensemble()


def start(contract: RunContract, table: Table, key: paillier.SecretKey) -> Run:
    """Return a run whose keys are exchanged and whose shapes are known."""
    terms = TreeTerms.of(contract)
    growth = Growth(terms, table.labels, table.own, table.platform.shapes, Drbg(SAMPLING))
    pool = RandomiserPool(paillier.OwnerEncryptor(key, "short"), b"p" * 32, CountedPlaces(), capacity=1024)
    return Run(contract, BankTrees(growth), PlatformTrees(key.public, table.platform), BankKeys(key, pool))


def tampered(role: Role[Any], change: Callable[[Any], Any]) -> Role[Any]:
    """Play `role`, but say what `change` makes of each message; None from it stands for no change."""
    answer = None
    while True:
        try:
            wish = role.send(answer)
        except StopIteration as end:
            return end.value
        if isinstance(wish, Send):
            wish = replace(wish, message=change(wish.message) or wish.message)
        answer = yield wish
