"""What a network's platform makes of answers: a bank's description of its fields, and a sum that honest banks can give."""

import json
from typing import Any

import numpy as np

from lianxin.federation import rollback
from lianxin.federation.contract import RunContract
from lianxin.federation.errors import PeerError
from lianxin.parties.preparation import MOST_CATEGORIES
from lianxin.parties.training_updates import dequantise

_LOSS_ONE = 1 << rollback.LOSS_BITS
_MOST_TEXT = 256


def sum_fault(contract: RunContract, total: np.ndarray, banks: int) -> str:
    """Return what no sum of honest banks is, "" when it is one.

    Faults are an impossible number of rows, and an average beyond the norm that each bank bounds its own change to: an
    average of such changes cannot be beyond it, but for rounding.
    """
    rows, bound = int(total[0]), contract.norm_bound_thousandths / 1000
    if not banks <= rows <= contract.max_rows * banks:
        return "the banks' sum is over no possible number of rows"
    step = dequantise(total[2:], contract.update_bits, rows).astype(np.float64)
    rounded = len(step) ** 0.5 * 2.0**-contract.update_bits
    far = float(np.linalg.norm(step)) > bound * (1 + 1e-6) + rounded
    return "the banks' average change is beyond the bound on each bank's own" if far else ""


def signed(total: Any) -> np.ndarray:
    """Return a sum in Z_{2^64} as signed numbers, by two's complement."""
    return np.asarray(total).astype(np.uint64, copy=False).view(np.int64) if _is_unsigned(total) else np.asarray(total)


def _is_unsigned(total: Any) -> bool:
    return np.asarray(total).dtype == np.uint64


def micro(loss: int, rows: int) -> int:
    """Return the mean of a sum of losses (2^-20 nats), in millionths; 0 without rows."""
    return round(loss * 10**6 / (_LOSS_ONE * rows)) if rows else 0


def description(text: str, bank: str) -> tuple[dict[str, tuple[str, tuple[str, ...]]], bool]:
    """Return kind and texts of each field as a bank gives them, and whether it can judge rounds.

    Raises PeerError (NN02) when it is no such list.
    """
    try:
        said = json.loads(text)
        found = {entry["field"]: (entry["kind"], tuple(entry["texts"])) for entry in said["fields"]}
        known = all(kind in ("number", "text", "empty") for kind, _ in found.values()) and all(
            len(texts) <= MOST_CATEGORIES and all(isinstance(one, str) and len(one) <= _MOST_TEXT for one in texts)
            for _, texts in found.values()
        )
        judges = said["judges"]
        known = known and type(judges) is bool
    except (ValueError, TypeError, KeyError):
        known = judges = False
    if not known:
        raise PeerError(f"{bank}'s description of its fields is none", "NN02")
    return found, judges
