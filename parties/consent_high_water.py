"""A mark beside the store of how far the registry and the ledger had come: a copy of yesterday is told by it.

Whoever restores an older copy of the store brings withdrawn consents back to life, and makes unused again what was used
up: consents with a limit, budgets, sets that were asked for. The mark is raised after each change of the registry, each
release by a limited consent and each checkpoint, so also when the node stops: on disk before any of them is acknowledged,
after its leaf is, in a file of its own: `state/high-water.json`. A crash between the two leaves a mark that is behind the
store, never one before it. A store that is behind the mark, or that holds another registry up to it, is refused at the
start (attack 18).

It is no stronger than the folder that it lies in: who restores both is found out by the heads that the other parties keep
of this ledger (`ledger.Witness`), at the next contract or by the auditor.
"""

import os
import threading
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


class HighWater:
    """The mark in one file, raised and never lowered. Safe to share between threads; holds no other lock."""

    def __init__(self, path: Path) -> None:
        """Read the mark in `path`, if there is one. Raises EvidenceRejected for a file that holds none."""
        self._path, self._lock, self._mark = path, threading.Lock(), read_mark(path)

    def raise_to(self, mark: Mark) -> None:
        """Put down where registry and ledger are; the ledger may have been further already."""
        with self._lock:
            size = max(mark.ledger_size, self._mark.ledger_size if self._mark else 0)
            self._write(mark._replace(ledger_size=size))

    def raise_size(self, ledger_size: int) -> None:
        """Put down that the ledger has come to `ledger_size` leaves, once the registry has a mark."""
        with self._lock:
            if self._mark is not None and ledger_size > self._mark.ledger_size:
                self._write(self._mark._replace(ledger_size=ledger_size))

    def _write(self, mark: Mark) -> None:
        write_mark(self._path, mark)
        self._mark = mark


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
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
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
