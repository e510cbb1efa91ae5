"""The loads of a platform's table as they were looked at: kept, so that the next one is compared with the one before.

A load is kept once for a table and what was found in it, with a leaf of kind `source-load` that has its record's hash. The
last hundred are kept; a record has no value and no firm.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lianxin.crypto import canonical
from lianxin.federation.errors import InputFault
from lianxin.parties.institutions import check_operator
from lianxin.parties.store import Store

if TYPE_CHECKING:
    from lianxin.parties.node import Node

LOADS, MOST = "source-loads", 100
Record = dict[str, Any]


def loads_of(store: Store) -> list[Record]:
    """Return the loads that a store keeps, oldest first."""
    kept = store.setting(LOADS)
    return list(canonical.decode(kept)["loads"]) if kept else []


def before(store: Store, digest: str) -> Record | None:
    """Return the newest load of another table than the one with this SHA-256, None where there was none."""
    return next((one for one in reversed(loads_of(store)) if one["table_sha256"] != digest), None)


def keep_load(node: "Node", load: Mapping[str, Any], operator: str) -> Record:
    """Keep a load, unless the newest one says the same but for the time; return how many are kept and whether it is new."""
    if load.get("type") != "source-load" or load.get("version") != 1:
        raise InputFault("what is to be kept is no record of a load; use `lianxin platform sources --keep`")
    check_operator(operator)
    kept = loads_of(node.store)
    if kept and _told(kept[-1]) == _told(load):
        return {"kept": len(kept), "is_new": False}
    loads = [*kept, dict(load)][-MOST:]
    leaf = {"kind": "source-load", "run": "", "record_hash": canonical.record_hash(dict(load)), "level": load["level"]}
    settings = {LOADS: canonical.encode({"type": LOADS, "version": 1, "loads": loads})}
    node.ledger.append(leaf, operator, settings)
    return {"kept": len(loads), "is_new": True}


def _told(load: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in load.items() if name != "at"}
