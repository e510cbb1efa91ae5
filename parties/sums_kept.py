"""What a bank keeps on disk of its secret sums: each label is used once, each (kind, round) and each question is opened to
one set alone, and a bank that one sum went without is in none after it.

A bank that was killed while a sum was opened so answers for it when it is back (rule SS08).
"""

from typing import Any

from lianxin.crypto import canonical
from lianxin.crypto.randomness import Drbg
from lianxin.federation.contract import RunContract
from lianxin.federation.secure_sum import BankSum
from lianxin.federation.sum_mod import SumRequest, secure_sum_mod, terms_for
from lianxin.parties.node import Node
from lianxin.parties.store import Store
from lianxin.parties.sums_told import ToldSum

_USED = b"1"


class SumsKept:
    """A `SumMemory` in a node's store; what it notes is on disk before it returns."""

    def __init__(self, store: Store, run: str) -> None:
        self._store, self._run = store, run

    def reserve(self, label: str) -> bool:
        """Note that a label is used; return whether it was not before."""
        was_there = False

        def use(kept: bytes | None) -> bytes:
            nonlocal was_there
            was_there = kept is not None
            return _USED

        self._store.change_setting(f"sum-labels/{self._run}/{label}", use)
        return not was_there

    def opened(self, place: str) -> tuple[tuple[str, ...], str] | None:
        """Return (banks of the set, digest of the own value) that was opened at kind/round, if any was."""
        kept = self._store.setting(self._opened(place))
        if kept is None:
            return None
        record = canonical.decode(kept)
        return tuple(record["banks"]), record["digest"]

    def note_opened(self, place: str, banks: tuple[str, ...], digest: str) -> None:
        """Note that a set is opened, before the opening leaves."""
        record = {"type": "opened-sum", "version": 1, "banks": list(banks), "digest": digest}
        self._store.put_setting(self._opened(place), canonical.encode(record))

    def gone(self) -> frozenset[str]:
        """Return the banks that a sum went without."""
        kept = self._store.setting(f"sum-gone/{self._run}")
        return frozenset(canonical.decode(kept)["banks"]) if kept is not None else frozenset()

    def note_gone(self, banks: frozenset[str]) -> None:
        """Note the banks that are gone."""
        record = {"type": "gone-banks", "version": 1, "banks": sorted(banks)}
        self._store.put_setting(f"sum-gone/{self._run}", canonical.encode(record))

    def _opened(self, place: str) -> str:
        return f"sum-opened/{self._run}/{place}"


def bank_mod(node: Node, contract: RunContract, drbg: Drbg) -> Any:
    """Return the Flower mod with which this bank takes part in the sums of a run."""
    own = drbg.child("sums")

    def make(request: SumRequest) -> BankSum:
        return ToldSum(terms_for(contract, request), node.party, node.identity.key_for(contract.node_keys), own, node.ledger)

    return secure_sum_mod(make, SumsKept(node.store, contract.run), contract)
