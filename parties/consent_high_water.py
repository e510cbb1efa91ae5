"""A mark beside the store of how far the registry and the ledger had come: a copy of yesterday is told by it.

Whoever restores an older copy of the store brings withdrawn consents back to life, and makes unused again what was used
up: consents with a limit, budgets, sets that were asked for. The mark is raised after each change of the registry, each
release by a limited consent and each checkpoint, so also when the node stops: on disk before any of them is acknowledged,
after its leaf is, in a file of its own: `state/high-water.json`. A crash between the two leaves a mark that is behind the
store, never one before it. A store that is behind the mark, or that holds another registry up to it, is refused at the
start (attack 18).

Answers that count a use each are too many for a file that is made anew each time. For them the size alone is put into one of
two places, in turn, of a second file, `state/high-water.size`: in place, so that the disk is waited for once and nothing of
the folder changes. A place that was torn by a loss of power was never acknowledged, and the other one stands. The mark is the
larger of the two files; a new first file takes the second away.

It is no stronger than the folder that it lies in: who restores both is found out by the heads that the other parties keep
of this ledger (`ledger.Witness`), at the next contract or by the auditor.
"""

import hashlib
import os
import threading
from pathlib import Path
from typing import NamedTuple

from lianxin.crypto import canonical
from lianxin.crypto.errors import EncodingRejected
from lianxin.federation.errors import EvidenceRejected

FILE, SIZE_FILE = "high-water.json", "high-water.size"
PLACE_BYTES = 4096  # of each place: no write to one touches a sector or page of the other
_SHAPE = {"type": str, "version": int, "epoch": int, "registry_root": str, "ledger_size": int}


class Mark(NamedTuple):
    """How far a node had come: records of the registry, the root over them (hex), leaves of the ledger."""

    epoch: int
    registry_root: str
    ledger_size: int


class HighWater:
    """The mark in its files, raised and never lowered. Safe to share between threads; holds no other lock."""

    def __init__(self, path: Path) -> None:
        """Read the mark at `path`, if there is one. Raises EvidenceRejected for files that hold none."""
        self._path, self._lock, self._mark = path, threading.Lock(), read_mark(path)
        self._first = self._mark.ledger_size if self._mark and not size_file(path).exists() else -1  # in the first file
        self._places: int | None = None
        self._turn = 0

    def raise_to(self, mark: Mark) -> None:
        """Put down where registry and ledger are; the ledger may have been further already."""
        with self._lock:
            size = max(mark.ledger_size, self._mark.ledger_size if self._mark else 0)
            self._write(mark._replace(ledger_size=size))

    def raise_size(self, ledger_size: int) -> None:
        """Put down in the first file that the ledger has come to `ledger_size` leaves, once the registry has a mark."""
        with self._lock:
            if self._mark is not None and ledger_size > self._first:
                self._write(self._mark._replace(ledger_size=max(ledger_size, self._mark.ledger_size)))

    def raise_soon(self, ledger_size: int) -> None:
        """As `raise_size`, in the second file."""
        with self._lock:
            if self._mark is None or ledger_size <= self._mark.ledger_size:
                return
            if self._places is None:
                self._places = _opened_places(self._path, self._mark.ledger_size)
            os.pwrite(self._places, _place(ledger_size), self._turn * PLACE_BYTES)
            os.fdatasync(self._places)
            self._mark, self._turn = self._mark._replace(ledger_size=ledger_size), 1 - self._turn

    def close(self) -> None:
        """Let go of the second file; the next that is put down opens it again."""
        places, self._places = self._places, None
        if places is not None:
            os.close(places)

    def _write(self, mark: Mark) -> None:
        self.close()
        write_mark(self._path, mark)
        self._mark, self._first = mark, mark.ledger_size


def size_file(path: Path) -> Path:
    """Return the second file of the mark whose first is `path`."""
    return path.with_name(SIZE_FILE)


def read_mark(path: Path) -> Mark | None:
    """Return the mark at `path`, None when there is none. Raises EvidenceRejected for anything that is none."""
    mark = _read_first(path)
    size = _read_places(size_file(path)) if mark is not None else 0
    return mark._replace(ledger_size=max(mark.ledger_size, size)) if mark is not None else None


def _read_first(path: Path) -> Mark | None:
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
    """Put `mark` in the first file and take the second away, whole and on disk before this returns."""
    _put(path, canonical.encode({"type": "high-water", "version": 1, **mark._asdict()}))
    size_file(path).unlink(missing_ok=True)
    _sync_folder(path)


def _put(path: Path, data: bytes) -> None:
    draft = path.with_name(path.name + ".new")
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def _sync_folder(path: Path) -> None:
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _place(ledger_size: int) -> bytes:
    """Return a size as it stands in a place: canonical JSON, its SHA-256 in hex, a line feed."""
    said = canonical.encode({"type": "high-water-size", "version": 1, "ledger_size": ledger_size})
    return b"%b %b\n" % (said, hashlib.sha256(said).hexdigest().encode())


def _opened_places(path: Path, ledger_size: int) -> int:
    """Return the second file, open, made anew with the same size in both places and on disk."""
    place = size_file(path)
    _put(place, _place(ledger_size).ljust(PLACE_BYTES, b"\n") * 2)
    _sync_folder(path)
    return os.open(place, os.O_WRONLY)


def _read_places(path: Path) -> int:
    """Return the larger size of the places that are whole, 0 without a file. Raises EvidenceRejected where none is."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return 0
    except OSError:
        data = b""
    sizes = [size for at in (0, PLACE_BYTES) if (size := _size_in(data[at : at + PLACE_BYTES])) is not None]
    if not sizes:
        raise EvidenceRejected(f"{path} is no mark of a ledger; restore it together with the newest store")
    return max(sizes)


def _size_in(place: bytes) -> int | None:
    line = place.partition(b"\n")[0]
    try:
        size = canonical.decode(line.partition(b" ")[0])["ledger_size"]
    except (EncodingRejected, KeyError):
        return None
    return size if type(size) is int and place.startswith(_place(size)) else None


def check_mark(path: Path, mark: Mark, epoch: int, root_there: str, ledger_size: int) -> None:
    """Raise EvidenceRejected unless a store of `epoch` records and `ledger_size` leaves has all that `mark` had.

    `root_there` is the root over the store's first `mark.epoch` records.
    """
    if epoch < mark.epoch or ledger_size < mark.ledger_size or root_there != mark.registry_root:
        raise EvidenceRejected(
            f"the store holds {epoch} consents and withdrawals and {ledger_size} leaves, and is not the one of which {path} "
            f"says {mark.epoch} and {mark.ledger_size}: an older or another copy was put back; restore the newest one"
        )
