"""Which rows and features the trees of one bank are grown on: drawn from the bank's generator, never by gradient.

The sums of two trees over nearly the same rows tell, subtracted, the bins of the rows that lie between. So any two sets of
rows that the bank ever draws for trees with the platform are the same, or differ by `min_rows` firms or more; the
platform refuses others [BT02]. A share of rows that cannot keep this is refused before the first tree. Where rows have
left since, as many firms more are set aside for the rest of the run; where this does not help, growth ends.

Bounds: the rule looks at pairs. Sums of three sets or more may still be set against each other, and sums of few rows can
name their rows anyway (`boosting`).
"""

from collections.abc import Sequence

import numpy as np

from lianxin.crypto.randomness import Drbg
from lianxin.federation.boosting_ensemble import Flags, Ints
from lianxin.federation.boosting_rows import firms_behind, is_near, pack_flags
from lianxin.federation.boosting_terms import TreeTerms
from lianxin.federation.errors import RunStopped

_TRIED = 8  # so many trees' sets are drawn beforehand: a share whose sets come too near shows in the first few


class Samples:
    """The rows that take part (`active`), those held out (`validation`), and the draws of each tree.

    Raises RunStopped where the shares leave too few rows for a tree, or sets that come too near to each other;
    `is_joint` says whether there is a platform to ask, without which neither matters.
    """

    def __init__(self, terms: TreeTerms, rows: int, drbg: Drbg, firms: Sequence[int] | Ints | None, is_joint: bool):
        self._terms, self._drbg, self._is_joint = terms, drbg, is_joint
        self.firms: Ints | None = None if firms is None else np.array(firms, dtype=np.int64)
        if self.firms is not None and len(self.firms) != rows:
            raise ValueError(f"{len(self.firms)} firms for {rows} rows; there is one a row")
        self.active: Flags = np.ones(rows, dtype=np.bool_)
        self.validation = self._drawn(self.active, terms.validation_permille, "validation")
        self._aside: Flags = np.zeros(rows, dtype=np.bool_)
        self._earlier: list[bytes] = []
        if is_joint:
            self._check_shares()

    def _check_shares(self) -> None:
        terms, pool, sets = self._terms, self._pool(), list[bytes]()
        for tree in range(min(terms.trees, _TRIED)):
            rows = self._of_tree(tree)
            if not self.is_enough(rows):
                raise RunStopped(self._too_few(rows, pool))
            if is_near(rows, sets, terms.min_rows, self.firms):
                raise RunStopped(
                    f"row_sample_permille {terms.row_sample_permille} of {int(pool.sum())} training rows draws trees that "
                    f"differ by fewer than the contract's {terms.min_rows} firms, so that two trees' sums tell the rows "
                    "between them; take 1000, or a smaller share"
                )
            sets.append(pack_flags(rows))

    def _too_few(self, rows: Flags, pool: Flags) -> str:
        found = f"{int(rows.sum())} rows of {firms_behind(rows, self.firms)} firms"
        return (
            f"of {len(pool)} training rows {found} are left to grow a tree on, under the contract's {self._terms.min_rows}; "
            f"raise row_sample_permille ({self._terms.row_sample_permille}), lower validation_permille "
            f"({self._terms.validation_permille}), or bring more rows"
        )

    def keep(self, live: Flags) -> None:
        """Let the rows that are not live take part no more."""
        self.active &= live

    def is_enough(self, rows: Flags) -> bool:
        """Return whether at least `min_rows` firms are behind the rows."""
        return firms_behind(rows, self.firms) >= self._terms.min_rows

    def rows(self, tree: int) -> Flags | None:
        """Return the rows that a tree is grown on; None where no set is left that may be asked about."""
        drawn = self._of_tree(tree)
        if not self._is_joint:
            return drawn
        if self._is_near(drawn):
            self._set_aside(tree)
            drawn = self._of_tree(tree)
        if not self.is_enough(drawn) or self._is_near(drawn):
            return None
        packed = pack_flags(drawn)
        self._earlier += [packed] if packed not in self._earlier else []
        return drawn

    def _is_near(self, rows: Flags) -> bool:
        return is_near(rows, self._earlier, self._terms.min_rows, self.firms)

    def _set_aside(self, tree: int) -> None:
        """Draw as many firms as the contract's minimum, whose rows no later tree is grown on."""
        firms = np.arange(len(self.active)) if self.firms is None else self.firms
        names = np.unique(firms[self._pool()]).tolist()
        self._drbg.child("aside", tree).shuffle(names)
        self._aside |= np.isin(firms, names[: self._terms.min_rows])

    def _pool(self) -> Flags:
        return self.active & ~self.validation & ~self._aside

    def _of_tree(self, tree: int) -> Flags:
        return self._drawn(self._pool(), self._terms.row_sample_permille, "rows", tree)

    def _drawn(self, rows: Flags, permille: int, *labels: str | int) -> Flags:
        places = np.flatnonzero(rows)
        keys = np.frombuffer(self._drbg.child(*labels).bytes(8 * len(rows)), dtype=">u8")[places]
        count = (len(places) * permille + 500) // 1000
        drawn = np.zeros(len(rows), dtype=np.bool_)
        drawn[places[np.argsort(keys, kind="stable")[:count]]] = True
        return drawn

    def columns(self, count: int, *labels: str | int) -> tuple[int, ...]:
        """Return the features of `count` that are drawn for a tree, in ascending order."""
        places = list(range(count))
        self._drbg.child(*labels).shuffle(places)
        return tuple(sorted(places[: -(-count * self._terms.column_sample_permille // 1000)]))
