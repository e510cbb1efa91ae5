"""The output gate: what a statistic must keep to before it may leave, beside the rules on its fields.

1. Size: at least the contract's minimum of rows (OUT-ROWS), of bads and of goods (OUT-BADS), counted in distinct firms;
   for a purpose without natural persons, of enterprises only (R29).
2. Differencing: an output about a set of firms that differs from the set of an earlier output to the same recipient, with
   a field in common, by at least one firm and by fewer than the minimum is refused (OUT-DIFF): the recipient could
   subtract one from the other. The sets are kept as sorted 8-byte HMACs under a key of this node, so the comparison is
   exact but for collisions of 64 bits, and the store tells nobody who was in them.
3. Budget: outputs per recipient and field in a window of days, and distinct sets per recipient (OUT-BUDGET). A set is
   never forgotten, since an old output can be subtracted as well; when there are too many, new sets are refused.

Outputs in this sense are what a recipient can read: label tables, figures on held-out rows, counts. Sums inside a round of
training are opened over all banks, once a round and at another model each time; a withdrawal between two rounds must
take its firm out at once, so rounds are counted in the budget and not held against each other (docs/threat-model.md).
"""

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from lianxin.crypto import canonical
from lianxin.crypto.randomness import derive_seed
from lianxin.federation.contract import RunContract
from lianxin.federation.errors import RunStopped
from lianxin.parties.clock import after
from lianxin.parties.config import QuotaSection
from lianxin.parties.decision_purposes import PURPOSES
from lianxin.parties.identifiers import subject_type_of
from lianxin.parties.store import Store

_INDEX, _ROWS = "outputs/", "output-rows/"
_NAME_BYTES = 8
Names = np.ndarray


def size_rule(contract: Mapping[str, Any], rows: int, bads: int | None, goods: int | None) -> str:
    """Return the rule under whose minimum of rows, bads or goods a statistic falls, "" when it may leave."""
    if rows < contract["min_rows"]:
        return "OUT-ROWS"
    counts = ((bads, contract["min_bads"]), (goods, contract["min_goods"]))
    return "OUT-BADS" if any(count is not None and count < least for count, least in counts) else ""


def persons_rule(purpose: str, firms: Sequence[str] | None) -> str:
    """Return R29 for a statistic that may hold no natural person and names its firms not at all, or one of them; else "".

    A sole trader counts as a natural person.
    """
    if purpose in PURPOSES and PURPOSES[purpose].persons:
        return ""
    return "R29" if not firms or any(subject_type_of(firm) != "ENT" for firm in firms) else ""


def sizes_by_firm(firms: Sequence[str], labels: Sequence[int]) -> tuple[int, int, int]:
    """Return how many distinct firms rows have, how many of them a bad one, and how many a good one.

    Ten loans of one firm are one firm's figure (OUT-ROWS, OUT-BADS): the minimums are to hide a firm, not a loan.
    """
    bads = {firm for firm, label in zip(firms, labels, strict=True) if label}
    goods = {firm for firm, label in zip(firms, labels, strict=True) if not label}
    return len(set(firms)), len(bads), len(goods)


class OutputGate:
    """What one node let go so far. Calls come one at a time, under the gate's lock."""

    def __init__(self, store: Store, limits: QuotaSection, secret: bytes) -> None:
        self._store, self._limits = store, limits
        self._key = derive_seed(secret, "output-rows")

    def admit(self, recipient: str, fields: Sequence[str], firms: Sequence[str] | None, least: int, now: str) -> str:
        """Charge one output of `fields` over the distinct `firms` to the recipient and return "".

        Returns OUT-BUDGET or OUT-DIFF, having charged nothing, when it may not leave. Without `firms` it is counted and
        compared with nothing. `least` is the smallest difference, in firms, that two sets may have.
        """
        index = self._index(recipient)
        spent = self._spent(index, now)
        if any(spent.get(name, 0) >= self._limits.outputs for name in fields):
            return "OUT-BUDGET"
        if firms is not None:
            rule = self._admit_set(recipient, index, sorted(set(fields)), self._names(firms), least)
            if rule:
                return rule
        self._charge(index, fields, now)
        self._store.put_setting(_INDEX + recipient, canonical.encode(index))
        return ""

    def to_leave_out(self, recipient: str, fields: Sequence[str], firms: Sequence[str], least: int) -> frozenset[str]:
        """Return the firms without which an output over `firms` would not be held against an earlier one.

        Empty when nothing is in its way. Which firms go is drawn by their keyed names, and they are `least` at a time,
        so that whoever subtracts finds a group and not a firm.
        """
        sets, out = self._sets(recipient, self._index(recipient), fields), set[str]()
        ranked = sorted(set(firms), key=lambda firm: hmac.digest(self._key, f"left out {firm}".encode(), "sha256"))
        while ranked and any(_is_too_near(self._names(ranked), earlier, least) for earlier in sets):
            out.update(ranked[:least])
            ranked = ranked[least:]
        return frozenset(out)

    def _names(self, firms: Sequence[str]) -> Names:
        names = {hmac.digest(self._key, firm.encode(), "sha256")[:_NAME_BYTES] for firm in firms}
        return np.frombuffer(b"".join(sorted(names)), dtype=">u8")

    def _index(self, recipient: str) -> dict[str, Any]:
        kept = self._store.setting(_INDEX + recipient)
        return canonical.decode(kept) if kept else {"type": "outputs", "version": 1, "spent": [], "sets": []}

    def _spent(self, index: Mapping[str, Any], now: str) -> dict[str, int]:
        """Return the number of outputs of each field within the window, and forget the days before it."""
        since = after(now, -self._limits.days)[:10]
        index["spent"][:] = [entry for entry in index["spent"] if entry["day"] > since]
        counts: dict[str, int] = {}
        for entry in index["spent"]:
            counts[entry["field"]] = counts.get(entry["field"], 0) + entry["outputs"]
        return counts

    def _charge(self, index: Mapping[str, Any], fields: Sequence[str], now: str) -> None:
        today = {entry["field"]: entry for entry in index["spent"] if entry["day"] == now[:10]}
        for name in sorted(set(fields)):
            if name in today:
                today[name]["outputs"] += 1
            else:
                index["spent"].append({"day": now[:10], "field": name, "outputs": 1})

    def _sets(self, recipient: str, index: Mapping[str, Any], fields: Sequence[str]) -> list[Names]:
        related = [entry["rows"] for entry in index["sets"] if set(entry["fields"]) & set(fields)]
        return [np.frombuffer(self._kept(f"{_ROWS}{recipient}/{name}"), dtype=">u8") for name in related]

    def _kept(self, place: str) -> bytes:
        data = self._store.setting(place)
        if data is None:  # taken as empty, it would let every difference from it pass
            raise RunStopped("the store has lost the rows of an earlier output; restore the store from its backup")
        return data

    def _admit_set(self, recipient: str, index: dict[str, Any], fields: list[str], names: Names, least: int) -> str:
        if any(_is_too_near(names, earlier, least) for earlier in self._sets(recipient, index, fields)):
            return "OUT-DIFF"
        digest = hashlib.sha256(names.tobytes()).hexdigest()
        known = next((entry for entry in index["sets"] if entry["rows"] == digest), None)
        if known is not None:
            known["fields"] = sorted({*known["fields"], *fields})
            return ""
        if len(index["sets"]) >= self._limits.output_sets:
            return "OUT-BUDGET"
        self._store.put_setting(f"{_ROWS}{recipient}/{digest}", names.tobytes())
        index["sets"].append({"rows": digest, "fields": fields})
        return ""


def _is_too_near(names: Names, earlier: Names, least: int) -> bool:
    if abs(len(names) - len(earlier)) >= least:
        return False
    return 0 < np.setxor1d(names, earlier, assume_unique=True).size < least


class LeavesOut(Protocol):
    """A gate that says which firms an output must do without."""

    def to_leave_out(self, recipient: str, fields: Sequence[str], firms: Sequence[str], least: int) -> frozenset[str]:
        """See `OutputGate.to_leave_out`."""
        ...


def far_from_earlier(
    gate: LeavesOut, contract: RunContract, fields: Sequence[str], rows: Sequence[int], firms: Sequence[str]
) -> list[int]:
    """Return the rows (`firms[row]` is the firm) that a run may use without its table being refused by OUT-DIFF.

    A firm that withdrew since the last run is such a difference: a drawn group of others stays out beside it, or nobody
    could ever train again after one withdrawal.
    """
    out = gate.to_leave_out(contract.platform, fields, [firms[row] for row in rows], contract.min_rows)
    return [row for row in rows if firms[row] not in out]
