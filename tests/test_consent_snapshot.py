"""Snapshots: what a root over a sorted map proves to be there and not to be there, and what it does not let anyone claim."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torture import cases

from lianxin.crypto import canonical, merkle, snapshot
from lianxin.crypto.errors import ProofOfInclusionRejected

UNIVERSE = ("", "a", "aa", "ab", "b", "b-", "\u00e9", "\ufffd", "\U0001f600", "c")
maps = st.dictionaries(st.sampled_from(UNIVERSE), st.binary(max_size=2), max_size=7)


def is_refused(verify: Callable[..., None], *claim: Any) -> None:
    with pytest.raises(ProofOfInclusionRejected):
        verify(*claim)


def naive_root(entries: dict[str, bytes]) -> bytes:
    """The root by RFC 9162's recursion, a second way beside the levels."""
    leaves = [len(k).to_bytes(4, "big") + k + v for k, v in sorted((k.encode(), v) for k, v in entries.items())]
    return hashlib.sha256(b"lianxin/snapshot\x00" + len(leaves).to_bytes(8, "big") + merkle.root_of(leaves)).digest()


@cases(200)
@given(st.lists(maps, max_size=5))
def test_a_map_that_grows_and_changes_has_the_root_of_one_that_is_made_anew(steps: list[dict[str, bytes]]) -> None:
    grown, entries = snapshot.Snapshot(()), dict[str, bytes]()
    for step in steps:
        grown.put(step)
        entries |= step
        assert grown.root == naive_root(entries)
        assert grown.prove("aa") == snapshot.Snapshot(entries.items()).prove("aa")


@cases(per_example=len(UNIVERSE))
@given(maps)
def test_every_key_is_proved_to_be_there_or_not_and_never_both(entries: dict[str, bytes]) -> None:
    made = snapshot.Snapshot(entries.items())
    assert made.root == naive_root(entries)
    for key in UNIVERSE:
        proof = snapshot.proof_from_record(
            canonical.decode(canonical.encode(snapshot.proof_to_record(made.prove(key))))
        )
        if key in entries:
            snapshot.verify_present(made.root, key, entries[key], proof)
            is_refused(snapshot.verify_absent, made.root, key, proof)
            is_refused(snapshot.verify_present, made.root, key, entries[key] + b"x", proof)
        else:
            snapshot.verify_absent(made.root, key, proof)
            is_refused(snapshot.verify_present, made.root, key, b"", proof)


@cases(per_example=10)
@given(maps.filter(bool))
def test_no_proof_made_of_true_leaves_hides_a_key(entries: dict[str, bytes]) -> None:
    made = snapshot.Snapshot(entries.items())
    places = [None, *(made.prove(key).at for key in entries)]
    for hidden, before, after, more in product(entries, places, places, (0, 1)):
        is_refused(snapshot.verify_absent, made.root, hidden, snapshot.Proof(made.size - more, None, before, after))


@cases(per_example=10)
@given(maps)
def test_a_changed_proof_does_not_verify(entries: dict[str, bytes]) -> None:
    made = snapshot.Snapshot(entries.items())
    for key in UNIVERSE:
        for changed in changes_of(made.prove(key)):
            if key in entries:
                is_refused(snapshot.verify_present, made.root, key, entries[key], changed)
            else:
                is_refused(snapshot.verify_absent, made.root, key, changed)


def changes_of(proof: snapshot.Proof) -> Iterator[snapshot.Proof]:
    yield from (replace(proof, size=proof.size + more) for more in (1, 2, 7))
    for name in ("at", "before", "after"):
        place = getattr(proof, name)
        if place is not None:
            changes = [{"index": place.index + 1}, {"value": place.value + b"\0"}, {"path": (*place.path, b"\0" * 32)}]
            changes += [{"path": place.path[:-1]}] if place.path else []
            yield from (replace(proof, **{name: replace(place, **change)}) for change in changes)


def test_a_key_twice_is_no_map() -> None:
    with pytest.raises(ValueError, match="twice"):
        snapshot.Snapshot([("a", b"1"), ("a", b"2")])


@pytest.mark.parametrize("record", [{}, {"size": 1, "at": {}}, {"type": "snapshot-proof", "version": 2, "size": 0}])
def test_what_is_no_proof_is_refused_as_such(record: dict[str, object]) -> None:
    with pytest.raises(ProofOfInclusionRejected, match="no snapshot proof"):
        snapshot.proof_from_record(record)
