"""Objections of firms to what is held about them, and how they end (rule R27).

A firm says that its value of a field is wrong. From then on the value is `disputed`: it is still released, with a mark
and its number in the release leaf. Somebody answers within 20 days: `repaired`, the value was corrected in the table, or
`rejected`, it stands. A value whose answer is overdue is withheld until somebody answers. Every change is a leaf of kind
`objection` with the hash of the record: the record itself, with its subject key, stays beside the ledger.

Source: Credit Reporting Regulation 25.
"""

import threading
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from lianxin.crypto import canonical
from lianxin.federation.errors import InputFault
from lianxin.parties.clock import after
from lianxin.parties.ledger import Ledger
from lianxin.parties.store import Store

ANSWER_DAYS = 20
ENDS = ("repaired", "rejected")
_KEPT = "objections"
Record = dict[str, Any]


def objections_in(store: Store) -> list[Record]:
    """Return every objection that a store keeps, in the order in which they were opened."""
    kept = store.setting(_KEPT)
    return list(canonical.decode(kept)["objections"]) if kept else []


def put_objections(store: Store, records: list[Record]) -> None:
    """Keep these objections in place of those that a store has."""
    store.put_setting(_KEPT, canonical.encode({"type": "objections", "version": 1, "objections": records}))


class Objections:
    """One node's objections, in its store and ledger. Safe to share between threads."""

    def __init__(self, store: Store, ledger: Ledger) -> None:
        self._store, self._ledger, self._lock = store, ledger, threading.Lock()

    def open(self, subject_key: str, field: str, now: str, operator: str) -> Record:
        """Note an objection and return its record. Raises InputFault when this value is disputed already."""
        with self._lock:
            return self._opened(subject_key, field, now, operator)

    def _opened(self, subject_key: str, field: str, now: str, operator: str) -> Record:
        records = self.records()
        if any(self._is_open(one, subject_key, field) for one in records):
            raise InputFault("an objection to this field of this firm is open already; resolve it first")
        record = {
            "type": "objection", "version": 1, "objection": f"objection-{len(records) + 1}", "subject_key": subject_key,
            "field": field, "state": "disputed", "opened_at": now, "due_at": after(now, ANSWER_DAYS), "operator": operator,
        }  # fmt: skip
        self._keep([*records, record], record, operator)
        return record

    def resolve(self, objection: str, state: str, now: str, operator: str) -> Record:
        """End an objection as `repaired` or `rejected` and return its record. Raises InputFault for what is not open."""
        if state not in ENDS:
            raise InputFault(f"an objection ends as {' or '.join(ENDS)}; say which with --state")
        with self._lock:
            return self._resolved(objection, state, now, operator)

    def _resolved(self, objection: str, state: str, now: str, operator: str) -> Record:
        records = self.records()
        place = next((i for i, one in enumerate(records) if one["objection"] == objection), None)
        if place is None or records[place]["state"] != "disputed":
            raise InputFault(f"no open objection {objection} is known here; see `lianxin boundary objection list`")
        records[place] = records[place] | {"state": state, "resolved_at": now, "operator": operator}
        self._keep(records, records[place], operator)
        return records[place]

    def records(self) -> list[Record]:
        """Return every objection, in the order in which they were opened."""
        return objections_in(self._store)

    def disputed(self) -> dict[str, dict[str, str]]:
        """Return, for each field with an open objection, by when the answer for each subject key is due."""
        found: dict[str, dict[str, str]] = defaultdict(dict)
        for one in self.records():
            if one["state"] == "disputed":
                found[one["field"]][one["subject_key"]] = one["due_at"]
        return dict(found)

    def _is_open(self, record: Mapping[str, Any], subject_key: str, field: str) -> bool:
        return (record["subject_key"], record["field"], record["state"]) == (subject_key, field, "disputed")

    def _keep(self, records: list[Record], changed: Record, operator: str) -> None:
        leaf = {
            "kind": "objection", "run": "", "event": changed["state"], "field": changed["field"],
            "record_hash": canonical.record_hash(changed),
        }  # fmt: skip
        self._ledger.append(leaf, operator)
        put_objections(self._store, records)
