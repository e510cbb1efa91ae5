"""The same boosted trees on the joined table, in clear: the reference that no bank may build in life.

`clear_ensemble` grows with the very rules, samples and quantised gradients of the joint run (federation/boosting_growth);
only the two answers differ, which here come from the platform's columns at once. Joint and clear trees are equal, integer
by integer.
"""

from collections.abc import Sequence

import numpy as np

from lianxin.crypto.randomness import Drbg
from lianxin.federation.boosting_cuts import sums_of
from lianxin.federation.boosting_ensemble import Ensemble, Flags, Ints, TreeColumns
from lianxin.federation.boosting_growth import Growth, Histograms, Opening, Sides, TreeTerms, grow


def clear_ensemble(
    terms: TreeTerms, labels: Sequence[int], platform: TreeColumns, own: TreeColumns, drbg: Drbg
) -> Ensemble:
    """Return the ensemble over rows whose platform columns are at hand. `drbg` draws what the bank's would."""
    growth = Growth(terms, labels, own, platform.shapes, drbg)
    return grow(growth, ClearPlatform(platform).histograms, ClearPlatform(platform).sides)


class ClearPlatform:
    """Answers what growth asks, from the platform's columns in clear."""

    def __init__(self, columns: TreeColumns) -> None:
        self._columns = columns
        self._width = max(columns.shapes.bins, default=1)

    def histograms(self, opening: Opening, ask: Histograms) -> Ints:
        """Return nodes x sampled features x bins x (rows, Σg, Σh)."""
        codes = self._columns.codes[list(opening.features)]
        sums = [sums_of(codes, rows, opening.gradients, opening.curvatures, self._width) for rows in ask.nodes]
        return np.stack(sums) if sums else np.zeros((0, len(codes), self._width, 3), dtype=np.int64)

    def sides(self, ask: Sides) -> list[Flags]:
        """Return for each cut which rows lie left of it."""
        return [self._columns.left_of(cut) for cut in ask.cuts]


def predict_clear(ensemble: Ensemble, platform: TreeColumns, own: TreeColumns) -> np.ndarray:
    """Return each row's probability to be bad, the platform's bits taken from its columns."""
    return ensemble.predict(own, platform.sides(ensemble.platform_cuts))
