"""What a run left behind at every node, and whether it could have happened: a checker that knows none of the programs.

`read_kept` takes it from a node's store as it lies on disk; `check` says in sentences what cannot be. It looks for five things:

1. no row without live consent crosses: behind each release stand consents that its provider had, and had not withdrawn,
   when the release was written;
2. a place of a pool of randomisers is reserved once;
3. a ledger only grows: whatever was seen of it before is a prefix of it now;
4. an envelope is in a conversation once in each direction, and in order;
5. what somebody took in, its sender has in its own ledger, and said before.
"""

import hashlib
import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Leaf = Mapping[str, Any]


@dataclass
class Kept:
    """One party's ledger, the records of its registry in order, and the consents behind each release by its id."""

    leaves: list[bytes] = field(default_factory=list)
    registry: list[Mapping[str, Any]] = field(default_factory=list)
    consents: dict[str, list[str]] = field(default_factory=dict)


@dataclass
class History:
    """What all parties kept, ledgers as they were seen on the way, and places reserved: (pool, first, count)."""

    kept: dict[str, Kept] = field(default_factory=dict)
    seen: list[tuple[str, list[bytes]]] = field(default_factory=list)
    places: list[tuple[str, int, int]] = field(default_factory=list)


def read_kept(store: Path) -> Kept:
    """Return what one node's store holds; nothing where there is none yet."""
    if not store.exists():
        return Kept()
    with sqlite3.connect(f"file:{store}?mode=ro", uri=True) as base:
        try:
            leaves = [bytes(data) for (data,) in base.execute("select data from leaves order by position")]
            registry = [
                json.loads(data)["record"] for (data,) in base.execute("select data from registry order by epoch")
            ]
            consents = {release: json.loads(ids) for release, ids in base.execute("select * from release_consents")}
        except sqlite3.OperationalError:  # a store that was killed before it had its tables
            return Kept()
    return Kept(leaves, registry, consents)


def check(history: History) -> list[str]:
    """Return what cannot have happened, a sentence each; none of it for an honest history."""
    said = [*_reserved_twice(history.places), *_rewritten(history)]
    ledgers = {party: [json.loads(leaf) for leaf in kept.leaves] for party, kept in history.kept.items()}
    for party, kept in history.kept.items():
        said += _released_without_consent(party, kept)
        said += _out_of_order(party, ledgers[party])
    return [*said, *_never_said(ledgers)]


def _reserved_twice(places: Sequence[tuple[str, int, int]]) -> Iterator[str]:
    ends: dict[str, int] = {}
    for pool, first, count in sorted(places):
        if first < ends.get(pool, 0):
            yield f"randomisers {first} to {min(ends[pool], first + count) - 1} of pool {pool[:8]} were reserved twice"
        ends[pool] = max(ends.get(pool, 0), first + count)


def _rewritten(history: History) -> Iterator[str]:
    for party, before in history.seen:
        now = history.kept[party].leaves[: len(before)]
        if now != before:
            at = next((n for n, (one, other) in enumerate(zip(now, before, strict=False)) if one != other), len(now))
            yield f"the ledger of {party} is not what it was: leaf {at} of {len(before)} is gone or another"


def _released_without_consent(party: str, kept: Kept) -> Iterator[str]:
    since, until = _lives(kept.registry)
    epoch = 0
    for position, data in enumerate(kept.leaves):
        leaf = json.loads(data)
        if leaf["kind"] == "registry":
            epoch = max(epoch, leaf["epoch"])
        if leaf["kind"] != "release":
            continue
        behind = kept.consents.get(hashlib.sha256(data).hexdigest(), [])
        if len(set(behind)) != leaf["consents"]:
            yield f"release {position} of {party} says {leaf['consents']} consents and {len(set(behind))} are behind it"
        if leaf["rows"] and leaf["mode"] != "AGGREGATE" and not behind:
            yield f"release {position} of {party} lets {leaf['rows']} rows go without a consent"
        for name in behind:
            if since.get(name, epoch + 1) > epoch:
                yield f"release {position} of {party} stands on consent {name}, which was not there yet"
            if until.get(name, epoch + 1) <= epoch:
                yield f"release {position} of {party} stands on consent {name}, which was withdrawn before"


def _lives(registry: Sequence[Mapping[str, Any]]) -> tuple[dict[str, int], dict[str, int]]:
    """Return from which epoch each consent is there, and from which it is withdrawn."""
    since: dict[str, int] = {}
    until: dict[str, int] = {}
    for epoch, record in enumerate(registry, 1):
        known = since if record["type"] == "consent" else until
        known.setdefault(record["consent_id"], epoch)
    return since, until


def _envelopes(ledger: Sequence[Leaf], direction: str) -> Iterator[tuple[tuple[str, str, str], int, str]]:
    for leaf in ledger:
        if leaf["kind"] == "envelope" and leaf["direction"] == direction:
            yield (leaf["run"], leaf["conversation"], leaf["peer"]), leaf["seq"], leaf["message_hash"]


def _out_of_order(party: str, ledger: Sequence[Leaf]) -> Iterator[str]:
    for direction in ("in", "out"):
        due: dict[tuple[str, str, str], int] = {}
        for place, seq, _ in _envelopes(ledger, direction):
            if seq != due.get(place, 0):
                yield f"{party} has envelope {seq} ({direction}) of {place[1]} where {due.get(place, 0)} is due"
            due[place] = seq + 1


def _never_said(ledgers: Mapping[str, Sequence[Leaf]]) -> Iterator[str]:
    said = {
        (party, place[2], place[0], place[1], seq): message
        for party, ledger in ledgers.items()
        for place, seq, message in _envelopes(ledger, "out")
    }
    for party, ledger in ledgers.items():
        for (run, conversation, peer), seq, message in _envelopes(ledger, "in"):
            if said.get((peer, party, run, conversation, seq)) != message:
                yield f"{party} took in envelope {seq} of {conversation}, which {peer} has not in its ledger"
