"""What an operator looks after among the consents: those that end soon, are never used, used up, or withdrawn from models.

Counts by bank, purpose and field, shown in tens (`operator_suppression`); who they are of is in no answer. A list for the desk
that has to write to firms goes to a file for its owner alone, behind a leaf that says so (`consents-listed`).
    ends soon    live, and expires within so many days
    unused       live for at least so many days, and behind no release yet
    used up      its number of uses is reached
    over-used    more uses are kept than it allows: the gate lets none through, so this asks for a look at the store
    in models    withdrawn, and behind a release of a run whose model is here
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from lianxin.crypto import canonical
from lianxin.federation.errors import InputFault
from lianxin.parties import store_schema
from lianxin.parties.clock import after
from lianxin.parties.decision import Registry
from lianxin.parties.lineage import models_touched
from lianxin.parties.operator_suppression import LEAST, shown
from lianxin.parties.store import Store

KINDS = ("ends soon", "unused", "used up", "over-used", "in models")
LIVE = ("ACTIVE", "PAUSED")
DAYS, UNUSED_DAYS = 30, 90
_PAGE = 10_000
Found = dict[str, list[str]]


def look_after(store: Store, now: str, within: int = DAYS, unused: int = UNUSED_DAYS) -> tuple[Registry, Found]:
    """Return the registry and the consents of each kind, by id in the registry's order.

    `within` and `unused` are days. In memory are the registry, one set of the ids behind releases, and what was found.
    """
    registry = Registry.from_signed(canonical.decode_fragment(line) for line in store.iterate_registry())
    used, behind = _uses(store, registry), _behind_releases(store)
    found: Found = {kind: [] for kind in KINDS}
    soon, long_ago = after(now, within), after(now, -unused)
    for name, consent in registry.consents.items():
        state, count = registry.state_of(name, now, used.get(name, 0)), used.get(name, 0)
        most = consent.terms.get("max_uses")
        is_live = state in LIVE
        holds = {
            "ends soon": is_live and consent.terms["expires_at"] <= soon,
            "unused": is_live and consent.terms["not_before"] <= long_ago and name not in behind,
            "used up": state == "USED_UP",
            "over-used": most is not None and count > most,
        }
        for kind, is_so in holds.items():
            if is_so:
                found[kind].append(name)
    revoked = [name for name, why in registry.ended.items() if why == "REVOKED"]
    touched = {name for names in models_touched(store, revoked).values() for name in names}
    found["in models"] = [name for name in registry.consents if name in touched]
    return registry, found


def counts(registry: Registry, found: Found, now: str, least: int = LEAST) -> dict[str, Any]:
    """Return the report: for each kind how many, by bank and purpose (`field` is empty there) and by field of these."""
    rows = []
    for kind in KINDS:
        terms = [registry.consents[name].terms for name in found[kind]]
        by_scope = Counter((one["recipient"], one["purpose"], "") for one in terms)
        by_scope.update((one["recipient"], one["purpose"], name) for one in terms for name in one["fields"])
        rows += [
            {"kind": kind, "bank": bank, "purpose": purpose, "field": field, "consents": shown(count, least)}
            for (bank, purpose, field), count in sorted(by_scope.items())
        ]
    return {"type": "consent-report", "version": 1, "at": now, "least": least, "rows": rows}


def listed(registry: Registry, found: Found) -> Iterator[bytes]:
    """Yield a line for each consent that was found: its kind, id, subject key and scope, as canonical JSON."""
    for kind in KINDS:
        for name in found[kind]:
            consent = registry.consents[name]
            told = {key: consent.terms[key] for key in ("recipient", "purpose", "expires_at")}
            yield json.dumps({"kind": kind, "consent_id": name, "subject_key": consent.subject, **told}).encode()


def list_leaf(lines: Mapping[str, int]) -> dict[str, Any]:
    """Return the leaf that says how many consents of each kind were listed for a desk; they are not named in it."""
    return {"kind": "consents-listed", "run": "", "count": sum(lines.values())}


def check_days(within: int, unused: int) -> None:
    """Raise InputFault for a number of days that cannot be."""
    if not (1 <= within <= 3650 and 1 <= unused <= 3650):
        raise InputFault("--within and --unused are numbers of days from 1 to 3650")


def models_under(state: Path) -> Iterator[dict[str, Any]]:
    """Yield each model of a run that lies under a node's state folder; one that cannot be read is left out."""
    for path in sorted((state / "runs").glob("*/model.json")):
        try:
            record = json.loads(path.read_bytes())
        except (OSError, ValueError):
            continue
        if isinstance(record, dict):
            yield record


def _uses(store: Store, registry: Registry) -> dict[str, int]:
    limited = [name for name, consent in registry.consents.items() if "max_uses" in consent.terms]
    return {
        name: len(uses)
        for start in range(0, len(limited), _PAGE)
        for name, uses in store.uses(limited[start : start + _PAGE]).items()
    }


def _behind_releases(store: Store) -> set[str]:
    found: set[str] = set()
    with store.reading() as connection:
        rows = connection.execution_options(yield_per=_PAGE).scalars(
            sa.select(store_schema.release_consents.c.consents)
        )
        for names in rows:
            found.update(json.loads(names))
    return found
