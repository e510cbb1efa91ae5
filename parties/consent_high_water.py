"""A mark beside the store of how far the registry and the ledger had come: a copy of yesterday is told by it.

Whoever restores an older copy of the store brings withdrawn consents back to life. The mark is written after each change
of the registry, on disk before the change is acknowledged, in a file of its own: `state/high-water.json`. A store that is
behind it, or that holds another registry up to it, is refused at the start (attack 18).

It is no stronger than the folder that it lies in: who restores both is found out by the heads that the other parties keep
of this ledger (`ledger.Witness`), at the next contract or by the auditor.
"""

import os
from pathlib import Path
from typing import NamedTuple

from lianxin.crypto import canonical
from lianxin.crypto.errors import EncodingRejected
from lianxin.federation.errors import EvidenceRejected

FILE = "high-water.json"
_SHAPE = {"type": str, "version": int, "epoch": int, "registry_root": str, "ledger_size": int}


class Mark(NamedTuple):
    """How far a node had come: records of the registry, the root over them (hex), leaves of the ledger."""

    epoch: int
    registry_root: str
    ledger_size: int


def read_mark(path: Path) -> Mark | None:
    """Return the mark in a file, None when there is none. Raises EvidenceRejected for anything that is none."""
    try:
        record = canonical.decode(path.read_bytes())
    except FileNotFoundError:
        return None
    except (EncodingRejected, OSError):
        record = {}
    fits = set(record) == set(_SHAPE) and all(type(record[name]) is kind for name, kind in _SHAPE.items())
    if not fits or (record["type"], record["version"]) != ("high-water", 1):
        raise EvidenceRejected(f"{path} is no mark of a registry; restore it together with the newest store")
    return Mark(record["epoch"], record["registry_root"], record["ledger_size"])


def write_mark(path: Path, mark: Mark) -> None:
    """Put `mark` in the file, whole and on disk before this returns."""
    draft = path.with_name(path.name + ".new")
    with draft.open("wb") as file:
        file.write(canonical.encode({"type": "high-water", "version": 1, **mark._asdict()}))
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def check_mark(path: Path, mark: Mark, epoch: int, root_there: str, ledger_size: int) -> None:
    """Raise EvidenceRejected unless a store of `epoch` records and `ledger_size` leaves has all that `mark` had.

    `root_there` is the root over the store's first `mark.epoch` records.
    """
    if epoch < mark.epoch or ledger_size < mark.ledger_size or root_there != mark.registry_root:
        raise EvidenceRejected(
            f"the store holds {epoch} consents and withdrawals and {ledger_size} leaves, and is not the one of which {path} "
            f"says {mark.epoch} and {mark.ledger_size}: an older or another copy was put back; restore the newest one"
        )
