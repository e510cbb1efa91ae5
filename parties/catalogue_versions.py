"""Versions of a node's catalogue that were published while it runs: what changed, who decided, which one a contract names.

    published   nothing is loosened: one operator suffices, and the version is in force for the next contracts
    proposed    a field is loosened, or one that had no class becomes open: it waits, with a reason
    published   by another operator who names its digest (four eyes, rule R26)

A field is compared with what the newest version that had it said: taking it out and putting it back loosens it no less. What
was agreed stays as it was: a contract names its catalogue by digest, and the gate decides by that version (`of_contract`).
From the first publication on, the store says what is in force, and another file in the configuration is refused at the
start: a class is never changed in silence. Each change is a leaf of kind `catalogue`, in one transaction with the bytes.
"""

import hashlib
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lianxin.crypto import canonical
from lianxin.federation.errors import InputFault
from lianxin.parties import catalogue as catalogues
from lianxin.parties.catalogue_additions import loosened_column
from lianxin.parties.decision_catalogue import Catalogue, Field
from lianxin.parties.institutions import check_four_eyes, check_operator, checked_text
from lianxin.parties.ledger_export import CATALOGUE_SETTING
from lianxin.parties.store import Store

if TYPE_CHECKING:
    from lianxin.parties.node import Node

VERSIONS = "catalogue-versions"
_OPEN = ("OPEN", "OPEN_NAME")
_GATED = (
    "class_",
    "id_role",
    "default_release",
    "subject_type",
    "category",
    "expiry",
    "expiry_from",
    "is_duty",
    "transform",
)
_CHANGING = threading.Lock()
Record = dict[str, Any]


@dataclass(frozen=True)
class Changes:
    """What a new version does to fields, by id, sorted: `loosened` with the column that lets more cross, `expired` are those
    that it has no more, `reworded` changed in nothing that the gate reads."""

    added: tuple[str, ...] = ()
    tightened: tuple[str, ...] = ()
    loosened: tuple[tuple[str, str], ...] = ()
    expired: tuple[str, ...] = ()
    reworded: tuple[str, ...] = ()

    def record(self) -> Record:
        """Return the changes as they stand in a record."""
        plain = {name: list(getattr(self, name)) for name in ("added", "tightened", "expired", "reworded")}
        return plain | {"loosened": [{"field": name, "column": column} for name, column in self.loosened]}


def compare(known: Mapping[str, Field], current: Catalogue, new: Catalogue) -> Changes:
    """Return what `new` changes; `known` has each field as the newest version that had it said."""
    found: dict[str, list[Any]] = {name: [] for name in ("added", "tightened", "loosened", "reworded")}
    for name, entry in sorted(new.items()):
        before = known.get(name)
        column = _loosened(before, entry)
        if column:
            found["loosened"].append((name, column))
        elif name not in current:
            found["added"].append(name)
        elif before is not None and before != entry:
            found["reworded" if _gated(before) == _gated(entry) else "tightened"].append(name)
    expired = tuple(sorted(name for name in current if name not in new))
    return Changes(expired=expired, **{name: tuple(names) for name, names in found.items()})


def _loosened(before: Field | None, entry: Field) -> str:
    if before is None:
        return "default_release" if entry.default_release in _OPEN else ""
    return loosened_column(before, entry)


def _gated(entry: Field) -> list[Any]:
    return [getattr(entry, name) for name in _GATED]


def in_force(store: Store, configured: Catalogue) -> Catalogue:
    """Return the catalogue that a node starts with: the newest that was published, else the configured one.

    Raises InputFault when versions were published and the configuration has come to name another file.
    """
    kept = versions(store)
    if not kept["versions"]:
        return configured
    newest = kept["versions"][-1]["digest"]
    if configured.digest not in (kept["configured"], newest):
        raise InputFault(
            "the configured catalogue is neither the newest published version nor the one before the first: put the file "
            "back, start the node, and publish the other with `catalogue publish`"
        )
    return configured if configured.digest == newest else _read(store, newest)


def earlier(store: Store) -> dict[str, Catalogue]:
    """Return every version that was in force here, by digest; empty where none was ever published."""
    kept = versions(store)
    digests = [kept["configured"]] * bool(kept["versions"]) + [one["digest"] for one in kept["versions"]]
    return {digest: _read(store, digest) for digest in digests}


def versions(store: Store) -> Record:
    """Return what is kept of versions: `configured` (the digest before the first), `versions`, `waiting` (none or one)."""
    kept = store.setting(VERSIONS)
    return (
        canonical.decode(kept)
        if kept
        else {"type": VERSIONS, "version": 1, "configured": "", "versions": [], "waiting": []}
    )


def _read(store: Store, digest: str) -> Catalogue:
    data = store.setting(f"{CATALOGUE_SETTING}/{digest}")
    if data is None or hashlib.sha256(data).hexdigest() != digest:
        raise InputFault("the store has lost a catalogue that was published; restore the store from its backup")
    return Catalogue.from_csv_bytes(data)


def publish(node: "Node", new: Catalogue, reason: str, operator: str) -> Record:
    """Publish a version, or have it wait for a second operator where it loosens anything; return its entry with `state`.

    Raises InputFault for a file that contradicts itself or changes nothing, and where it loosens without a reason.
    """
    check_operator(operator)
    if findings := catalogues.lint(new):
        raise InputFault(f"field {findings[0]} ({len(findings)} contradictions in all); see `lianxin catalogue lint`")
    with _CHANGING:
        if new.digest == node.catalogue.digest:
            raise InputFault("this catalogue is the one in force, byte for byte; there is nothing to publish")
        changes = compare(dict(_known(node)), node.catalogue, new)
        entry = {
            "digest": new.digest, "before": node.catalogue.digest, "name": new.version, "at": node.clock.now(),
            "operator": operator, "second": "", "reason": "", **changes.record(),
        }  # fmt: skip
        if not changes.loosened:
            return _put_in_force(node, entry, new, operator)
        if not reason:
            name, column = changes.loosened[0]
            raise InputFault(
                f"this version loosens {len(changes.loosened)} fields, the first {name} in column {column}; say why with "
                "--reason, and another operator approves it"
            )
        entry["reason"] = checked_text(reason, "--reason")
        _keep(node, "proposed", entry, versions(node.store) | {"waiting": [entry]}, new, operator)
        return entry | {"state": "waiting"}


def approve(node: "Node", digest: str, operator: str) -> Record:
    """Put the version that waits in force, named by its digest or the first 12 digits of it; return its entry with `state`.

    Raises InputFault when no such version waits or another was published since, GateRefused (R26) for its own proposer.
    """
    check_operator(operator)
    with _CHANGING:
        waiting = [one for one in versions(node.store)["waiting"] if digest in (one["digest"], one["digest"][:12])]
        if not waiting:
            raise InputFault("no version with that digest waits for approval; see `catalogue history`")
        entry = waiting[0]
        check_four_eyes(entry["operator"], operator, "this version was proposed")
        if entry["before"] != node.catalogue.digest:
            raise InputFault("another version was published since this one was proposed; publish it anew")
        return _put_in_force(node, entry | {"second": operator}, _read(node.store, entry["digest"]), operator)


def _put_in_force(node: "Node", entry: Record, new: Catalogue, operator: str) -> Record:
    kept = versions(node.store)
    first = kept["configured"] or node.catalogue.digest
    kept |= {"configured": first, "versions": [*kept["versions"], entry], "waiting": []}
    _keep(node, "published", entry, kept, new, operator)
    node.catalogue = new
    node.boundary.use_catalogue(new, earlier(node.store))
    node.register.judge_by(new)
    node.say(f"catalogue {new.digest[:12]} is in force for the next contracts")
    return entry | {"state": "in force"}


def _keep(node: "Node", event: str, entry: Record, kept: Record, new: Catalogue, operator: str) -> None:
    counts = {name: len(entry[name]) for name in ("added", "tightened", "loosened", "expired")}
    leaf = {
        "kind": "catalogue", "run": "", "event": event, "catalogue_hash": entry["digest"], "before": entry["before"], **counts,
        "record_hash": canonical.record_hash({"type": "catalogue-version", "version": 1, **entry}),
    }  # fmt: skip
    settings = {VERSIONS: canonical.encode(kept), f"{CATALOGUE_SETTING}/{new.digest}": new.to_csv_bytes()}
    if event == "published":
        settings[CATALOGUE_SETTING] = new.to_csv_bytes()
    node.ledger.append(leaf, operator, settings)


def _known(node: "Node") -> Iterator[tuple[str, Field]]:
    """Yield each field of every version, oldest first, so that a dictionary keeps what was said last."""
    for version in earlier(node.store).values():
        yield from version.items()
    yield from node.catalogue.items()
