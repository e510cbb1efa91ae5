"""A run's checkpoint in a node's run folder: what a node that was killed goes on with, whole or not there at all.

The file is one line with the SHA-256 and length of what follows, then that: a canonical record in which arrays are
base64 of little-endian bytes. It is written beside and renamed, and on disk before `write` returns.
"""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lianxin.crypto import canonical
from lianxin.crypto.errors import CryptoError
from lianxin.federation.errors import RunStopped

FILE = "checkpoint"


def write(folder: Path, record: Mapping[str, Any]) -> None:
    """Keep `record` (canonical-JSON values with `type`, `version` and `run`) in place of what was kept before."""
    body = canonical.encode(dict(record))
    head = {"type": "run-checkpoint", "version": 1, "sha256": hashlib.sha256(body).hexdigest(), "bytes": len(body)}
    draft = folder / (FILE + ".new")
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(canonical.encode(head) + b"\n" + body)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(folder / FILE)
    _settle(folder)


def read(folder: Path, run: str) -> dict[str, Any] | None:
    """Return what is kept of `run`, None where nothing is. Raises RunStopped when it is damaged or another run's."""
    try:
        data = (folder / FILE).read_bytes()
    except FileNotFoundError:
        return None
    head, _, body = data.partition(b"\n")
    try:
        told = canonical.decode(head)
        is_whole = told["sha256"] == hashlib.sha256(body).hexdigest() and told["bytes"] == len(body)
        record = canonical.decode(body) if is_whole else {}
    except (CryptoError, KeyError):
        record = {}
    if record.get("run") != run:
        raise RunStopped(f"the checkpoint of run {run} is damaged, so it cannot go on; launch it anew under another id")
    return record


def remove(folder: Path) -> None:
    """Forget what is kept: the run has ended."""
    (folder / FILE).unlink(missing_ok=True)


def _settle(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
