"""The sums of a node and the best place to cut it (protocols.md, section 6): exact sums, then one formula in doubles.

Sums are integers in an array features x bins x (rows, Σg, Σh), the platform's sampled features before the bank's. Equal
sums give equal doubles, whoever summed them; the array's order is the order of ties.
"""

from collections.abc import Collection, Sequence

import numpy as np

from lianxin.federation.boosting_cells import Scales
from lianxin.federation.boosting_ensemble import (
    ALONE,
    CATEGORIES,
    MISSING,
    UP_TO,
    UP_TO_OR_MISSING,
    Codes,
    Cut,
    Flags,
    Floats,
    Ints,
    TreeShapes,
)

NodeSums = Ints
_LEAST_GAIN = 1e-9  # doubles of no gain at all come this near to 0
_KINDS = 3


def sums_of(codes: Codes, rows: Flags, gradients: Ints, curvatures: Ints, width: int) -> NodeSums:
    """Return features x width x (rows, Σg, Σh) of the rows chosen, from codes (features x rows) below `width`."""
    features, places = len(codes), np.flatnonzero(rows)
    cells = (codes[:, places].astype(np.int64) + width * np.arange(features)[:, None]).ravel()
    counts = np.bincount(cells, minlength=features * width)
    weighted = [  # sums of integers below 2^53 are exact in doubles
        np.bincount(cells, np.tile(values[places], features).astype(np.float64), features * width)
        for values in (gradients, curvatures)
    ]
    return np.stack([counts, *weighted], axis=-1).astype(np.int64).reshape(features, width, 3)


class Candidates:
    """Where a tree's nodes may be cut: at its sampled features, on merged cells of at least `min_rows` rows."""

    def __init__(
        self,
        platform: TreeShapes,
        features: Sequence[int],
        own: TreeShapes,
        own_features: Sequence[int],
        min_rows: int,
        scales: Scales,
        ridge: float,
    ) -> None:
        self._platform, self._own, self._own_features = tuple(features), own, tuple(own_features)
        kinds = [*(platform.kinds[j] for j in features), *(own.kinds[j] for j in own_features)]
        bins = [*(platform.bins[j] for j in features), *(own.bins[j] for j in own_features)]
        self._kinds, self._bins = np.array(kinds, dtype=np.int64), np.array(bins, dtype=np.int64)
        self.width = max(bins, default=1)
        self._least, self._scales, self._ridge = min_rows, scales, ridge

    def joined(self, platform: Ints, own: NodeSums) -> NodeSums:
        """Return the platform's sums, padded to this tree's width, before the bank's own."""
        padded = np.zeros((len(self._platform), self.width, 3), dtype=np.int64)
        width = min(self.width, platform.shape[1]) if platform.size else 0
        padded[:, :width] = platform[:, :width]
        return np.concatenate([padded, own])

    def best(self, sums: NodeSums, known: Collection[Cut] | None) -> tuple[bool, Cut, float] | None:
        """Return (is it the bank's own, the cut, its gain) of the best cut, None where none gains anything.

        With `known`, a platform cut must be one of these; neighbouring bins then merge up to the next known one.
        """
        if not len(sums):
            return None
        gains = self._gains(sums, self._allowed(known))
        at = int(np.argmax(gains))
        gain = float(gains.flat[at])
        if not gain > _LEAST_GAIN:
            return None
        line, bin_, kind = at // (self.width * _KINDS), at // _KINDS % self.width, at % _KINDS
        is_own = line >= len(self._platform)
        feature = self._own_features[line - len(self._platform)] if is_own else self._platform[line]
        return is_own, Cut(feature, bin_, kind), gain

    def left_sums(self, sums: NodeSums, cut: Cut) -> tuple[int, int, int]:
        """Return (rows, Σg, Σh) left of a cut of the platform's, as the node's sums have it."""
        line = self._platform.index(cut.feature)
        left = sums[line, cut.bin] if cut.kind == ALONE else sums[line, : cut.bin + 1].sum(axis=0)
        if cut.kind == UP_TO_OR_MISSING:
            left = left + sums[line, self._bins[line] - 1]
        return int(left[0]), int(left[1]), int(left[2])

    def _allowed(self, known: Collection[Cut] | None) -> Flags:
        allowed = np.ones((len(self._bins), self.width, _KINDS), dtype=np.bool_)
        if known is not None:
            allowed[: len(self._platform)] = False
            lines = {feature: line for line, feature in enumerate(self._platform)}
            for cut in known:
                if cut.feature in lines:
                    allowed[lines[cut.feature], cut.bin, cut.kind] = True
        allowed[self._kinds == CATEGORIES, :, UP_TO] = False
        allowed[self._kinds != MISSING, :, UP_TO_OR_MISSING] = False
        allowed[self._kinds != CATEGORIES, :, ALONE] = False
        return allowed

    def _gains(self, sums: NodeSums, allowed: Flags) -> Floats:
        """Return the gain features x bins x kinds, minus infinity where a cut may not be."""
        total, below = sums[0].sum(axis=0), sums.cumsum(axis=1)
        missing = self._missing(sums)
        left = np.stack([below, below + missing[:, None], sums], axis=2)
        parts = [self._strength(part) for part in (left, total - left)]
        gains = parts[0] + parts[1] - self._strength(total)
        return np.where(self._open(sums, missing, allowed), gains, -np.inf)

    def _missing(self, sums: NodeSums) -> Ints:
        last = sums[np.arange(len(sums)), self._bins - 1]
        return np.where((self._kinds == MISSING)[:, None], last, 0)

    def _strength(self, sums: Ints) -> Floats:
        gradients = sums[..., 1] / self._scales.gradient
        return gradients * gradients / (sums[..., 2] / self._scales.curvature + self._ridge)

    def _open(self, sums: NodeSums, missing: Ints, allowed: Flags) -> Flags:
        """Return where a cut may be: both sides and every merged cell hold at least `min_rows` rows."""
        rows, least = sums[..., 0], self._least
        present = rows.copy()
        lines = np.arange(len(rows))
        present[lines, self._bins - 1] -= missing[:, 0]
        whole = rows.sum(axis=1, keepdims=True)
        enough = (missing[:, 0] >= least)[:, None]
        return np.stack(
            [
                self._closing(rows, allowed[..., UP_TO]),
                self._closing(present, allowed[..., UP_TO_OR_MISSING]) & enough,
                allowed[..., ALONE] & (rows >= least) & (whole - rows >= least),
            ],
            axis=2,
        )

    def _closing(self, rows: Ints, allowed: Flags) -> Flags:
        """Return after which bins a merged cell is complete and what is right of it holds enough rows too."""
        closing, held = np.zeros(rows.shape, dtype=np.bool_), np.zeros(len(rows), dtype=np.int64)
        right = rows.sum(axis=1)
        for bin_ in range(rows.shape[1]):
            held, right = held + rows[:, bin_], right - rows[:, bin_]
            closing[:, bin_] = allowed[:, bin_] & (held >= self._least) & (right >= self._least)
            held = np.where(closing[:, bin_], 0, held)
        return closing
