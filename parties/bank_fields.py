"""What a bank lets be counted of its fields, and which preparation it applies: never one that a sum did not need.

A field is counted once in each pass, before the preparation is agreed, and again only by the very same question (a
platform that was killed). A preparation must treat each field as what the bank said it is; a text that fewer of the
bank's own firms have than its minimum is "other" here, whatever list came, so that no list can single a row out.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lianxin.crypto import canonical
from lianxin.crypto.errors import CryptoError
from lianxin.federation.contract import RunContract
from lianxin.federation.errors import PeerError
from lianxin.federation.federated import PASSES
from lianxin.parties.coding import as_text, is_missing
from lianxin.parties.preparation import FIRST_GRID, Grid, Preparation, refine

Columns = Mapping[str, Sequence[Any]]
_OTHER = "\x00other"


class FieldCounts:
    """The questions for counts that a bank has answered, by pass and field."""

    def __init__(self, asked: Mapping[str, str] | None = None) -> None:
        self.asked = dict(asked or {})

    def grids(self, which: str, part: int, names: Sequence[str], totals: np.ndarray | None) -> list[Grid]:
        """Return the grid of each field in this pass. Raises PeerError (S05) for a field that was counted otherwise."""
        told = b"" if totals is None else totals.tobytes()
        digest = hashlib.sha256(repr((which, part, list(names))).encode() + told).hexdigest()
        for name in names:
            if self.asked.get(f"{which}/{name}", digest) != digest:
                raise PeerError("a field was to be counted a second time, and otherwise than before", "S05")
        found = [FIRST_GRID] * len(names) if which == PASSES[0] else _refined(len(names), totals)
        self.asked |= dict.fromkeys((f"{which}/{name}" for name in names), digest)
        return found


def _refined(fields: int, totals: np.ndarray | None) -> list[Grid]:
    size = FIRST_GRID.cells + 1
    if totals is None or totals.dtype != np.int64 or totals.shape != (size * fields,):
        raise PeerError("the sums of the first counts do not fit their fields", "NN02")
    return [refine(totals[place * size : (place + 1) * size], FIRST_GRID) for place in range(fields)]


def told(text: str) -> Mapping[str, Any]:
    """Return a record that the platform sent. Raises PeerError (NN02) where it is none."""
    try:
        return canonical.decode(text.encode())
    except CryptoError:
        raise PeerError("the platform sent a record that is not in canonical form", "NN02") from None


def named(text: str, features: Sequence[str]) -> list[str]:
    """Return the fields that counts are asked for. Raises PeerError (NN02) for others than the contract's."""
    names = told(text).get("fields")
    if not isinstance(names, list) or not names or not set(names) <= set(features) or len(set(names)) != len(names):
        raise PeerError("counts were asked for of other fields than the contract's", "NN02")
    return names


def check_kinds(preparation: Preparation, kinds: Mapping[str, str]) -> None:
    """Raise PeerError (NN02) where a preparation treats a field as another kind than this bank said it is of."""
    as_said = all(kinds[number.name] in ("number", "empty") for number in preparation.numbers)
    if not as_said or any(kinds[text.name] not in ("text", "empty") for text in preparation.texts):
        raise PeerError("the preparation takes a field for another kind than this bank said; it is refused", "NN02")
    if any(_OTHER in text.categories for text in preparation.texts):
        raise PeerError("the preparation names a text that stands for all others; it is refused", "NN02")


def without_rare(columns: Columns, often: Mapping[str, Sequence[str]]) -> dict[str, Sequence[Any]]:
    """Return the columns with each text that is not in its field's list of `often` as one that no list names."""
    found = dict(columns)
    for name, texts in often.items():
        kept = frozenset(texts)
        found[name] = [v if is_missing(v) or as_text(v) in kept else _OTHER for v in columns[name]]
    return found


def held_back_fault(bank: str, contract: RunContract, had: tuple[int, int, int]) -> str:
    """Return why a bank has no word on rounds, "" when its rows held back (firms, with bads, with goods) are enough."""
    needed = (contract.min_rows, contract.min_bads, contract.min_goods)
    if all(have >= least for have, least in zip(had, needed, strict=True)):
        return ""
    return (
        f"{bank} has no word on rounds: it holds back {had[0]} firms, {had[1]} with a bad and {had[2]} with a good loan, and "
        f"the contract asks for {needed[0]}, {needed[1]} and {needed[2]}; give it more rows, hold back a larger share "
        "(validation_permille), or set max_loss_rise_permille to 0"
    )
