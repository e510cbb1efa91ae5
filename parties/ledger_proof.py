"""Proofs from a stored ledger that anyone can check offline (`auditor_proof`): of one leaf, or of one firm's releases.

A proof holds the signed checkpoint, each leaf with its path to that checkpoint's root and, for a firm, its salt and
path to the leaf's root of rows. It opens no other firm: a leaf holds counts and digests.
"""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from lianxin.crypto import canonical, merkle, notes
from lianxin.crypto.tiles import TILE_HASHES, TiledTree, restored
from lianxin.federation.errors import EvidenceRejected, InputFault
from lianxin.parties import boundary_proofs
from lianxin.parties.ledger_witness import note_of
from lianxin.parties.store import Store

_NO_ROWS = merkle.EMPTY_ROOT.hex()


def prove_leaf(store: Store, party: str, index: int) -> dict[str, Any]:
    """Return the proof of one leaf. Raises InputFault when there is none, or no checkpoint covers it yet."""
    note, tree = _last_head(store, party)
    if not 0 <= index < tree.size:
        raise InputFault(
            f"the last checkpoint of {party} covers leaves 0 to {tree.size - 1}; leaf {index} is not one of them"
        )
    leaf = store.leaf(index)
    if leaf is None:
        raise EvidenceRejected(f"the store of {party} lacks leaf {index}, which its last checkpoint covers; restore it")
    return _proof(party, note, "", [_entry(tree, index, leaf)])


def prove_subject(store: Store, party: str, subject: str) -> dict[str, Any]:
    """Return the proof of every release, under the last checkpoint, that holds the firm of a subject key."""
    note, tree = _last_head(store, party)
    return _proof(party, note, subject, list(_releases_of(store, tree, subject)))


def _releases_of(store: Store, tree: TiledTree, subject: str) -> Iterator[dict[str, Any]]:
    for index, data in enumerate(store.leaves(0, tree.size)):
        if b'"kind":"release"' not in data:
            continue
        rows_root = canonical.decode(data).get("rows_root", _NO_ROWS)
        try:
            firm = None if rows_root == _NO_ROWS else boundary_proofs.prove(store, rows_root, subject)
        except InputFault:  # its commitments were deleted with what was derived from them
            continue
        if firm is not None:
            yield _entry(tree, index, data) | {"firm": asdict(firm) | {"path": list(firm.path)}}


def _entry(tree: TiledTree, index: int, leaf: bytes) -> dict[str, Any]:
    path = [node.hex() for node in tree.inclusion_proof(index, tree.size)]
    return {"index": index, "leaf": canonical.decode(leaf), "path": path}


def _proof(party: str, note: notes.Note, subject: str, leaves: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "type": "ledger-proof", "version": 1, "party": party, "checkpoint": note.encode().decode(), "leaves": leaves,
    } | ({"subject_key": subject} if subject else {})  # fmt: skip


def _last_head(store: Store, party: str) -> tuple[notes.Note, TiledTree]:
    """Return the last checkpoint and the tree that it covers; raises EvidenceRejected when the store disagrees with it."""
    data = store.last_checkpoint()
    record = canonical.decode_fragment(data) if data else {}
    if record.get("type") != "checkpoint-note":
        raise InputFault(f"the store of {party} has no checkpoint of this version; start its node once")
    note = note_of(record)
    head = notes.parse_checkpoint(note.text)
    start = head.size - head.size % TILE_HASHES
    last = b"".join(map(merkle.leaf_hash, store.leaves(start, head.size)))
    try:
        tree = TiledTree(restored(head.size, last, store.tile), store.tile)
        agrees = tree.root() == head.root
    except (ValueError, IndexError):
        agrees = False
    if not agrees:
        raise EvidenceRejected(f"the store of {party} disagrees with its last checkpoint; restore it from a copy")
    return note, tree
