"""A bank's update as whole numbers: bounded, then in fixed point, so that sums over banks are exact. No torch here.

An update is what local training changed of the weights. Its L2 norm is brought under the contract's bound by scaling,
then each number is rounded to `bits` fractional bits. Nothing is ever clipped into the ring of the secret sum: what does
not fit is refused before it is masked (`network_terms.summand_fits` is the bound for all banks and rows at once).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lianxin.federation.errors import RunStopped

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
_SLACK = 1e-6  # rounding of the scaling itself


def within_bound(update: NDArray[Any], bound: float) -> tuple[Floats, bool]:
    """Return the update, scaled down to an L2 norm of `bound` where it is above it, and whether it was."""
    wide = np.asarray(update, dtype=np.float64)
    norm = float(np.sqrt((wide * wide).sum()))
    if not np.isfinite(norm) or norm <= bound:
        return wide, False
    return wide * (bound / norm), True


def quantise(update: NDArray[Any], bits: int, bound: float) -> Ints:
    """Return round(update · 2^bits), ties to even. Raises RunStopped when a number is none or the norm is over `bound`."""
    wide = np.asarray(update, dtype=np.float64)
    norm = float(np.sqrt((wide * wide).sum()))
    if not norm <= bound * (1 + _SLACK):  # NaN fails too
        raise RunStopped(
            f"this bank's update is over its norm bound of {bound:g} or holds numbers that are none; nothing of it was "
            "sent, lower local_rate_millionths"
        )
    return np.rint(wide * 2.0**bits).astype(np.int64)


def dequantise(total: NDArray[Any], bits: int, rows: int = 1) -> Floats:
    """Return the average update, total / (2^bits · rows), of a sum over banks of rows times quantised update."""
    if rows < 1:
        raise RunStopped("the banks' sum is over no rows; nothing can be averaged")
    return np.asarray(total, dtype=np.float64) / (2.0**bits * rows)
