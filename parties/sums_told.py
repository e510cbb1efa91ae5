"""A bank's secret sums as its ledger tells them: one leaf `secure-sum`, on disk before the bank opens a sum.

It holds what was signed in public, the keys and the sets, and no share, mask or value: docs/records.md, "Ledger leaves".
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from lianxin.crypto import canonical
from lianxin.crypto.randomness import Drbg
from lianxin.crypto.signing import SigningKey
from lianxin.federation.secure_sum import BankSum, SumTerms


class Leaves(Protocol):
    """The ledger, as far as a sum writes to it."""

    def append(self, leaf_fields: Mapping[str, Any], operator: str | None = None) -> tuple[int, str]:
        """Append one leaf."""


class ToldSum(BankSum):
    """A bank's end of one sum that writes its leaf when the sum is opened."""

    def __init__(self, terms: SumTerms, bank: str, signing_key: SigningKey, drbg: Drbg, ledger: Leaves) -> None:
        super().__init__(terms, bank, signing_key, drbg)
        self._ledger = ledger

    def open(self, sets: Sequence[str]) -> bytes:
        """See `BankSum.open`; the leaf is on disk before this returns."""
        opening = super().open(sets)
        self._ledger.append(self._leaf(sets))
        return opening

    def _leaf(self, sets: Sequence[str]) -> dict[str, Any]:
        return {
            "kind": "secure-sum", "run": self.terms.run, "contract_hash": self.terms.contract_hash,
            "label": self.terms.label, "asked": list(self.terms.ordered), "threshold": self.terms.threshold,
            "keys": [_told(text, "key") for text in sorted(self._keys)], "senders": list(self._senders),
            "question": self.question, "included": list(self.included), "sets": [_told(text) for text in sorted(sets)],
        }  # fmt: skip


def _told(text: str, *names: str) -> dict[str, str]:
    """Return who signed a record, the signature, and the named entries: the rest of it follows from the leaf."""
    signed = canonical.decode_fragment(text.encode())
    (entry,) = signed["signatures"]
    own = {name: signed["record"][name] for name in names}
    return {"party": signed["record"]["party"], "signature": entry["signature"], **own}
