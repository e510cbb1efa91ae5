"""A backup of a node, taken while it runs or while it is stopped: one folder for its owner alone, the same for both databases.

    backup.json   the manifest, signed by the node key: party, time, sizes, roots, every file with its SHA-256
    store.sqlite  the store at one moment
    state/        high-water.json, the saved keys (encrypted as they lie), the runs' folders

The mark is read first, then the store, then the files: what the mark says is in the store, and what the store speaks of is in
the files. The ledger of the copy is hashed leaf by leaf and held against its signed head and the mark before the folder
appears, whole or not at all. What is not in it: the identity folder, tables, catalogues, configuration.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lianxin.crypto import canonical
from lianxin.crypto.signing import SigningKey, sign_record
from lianxin.federation.errors import InputFault, RunStopped
from lianxin.parties import store_schema as schema
from lianxin.parties.consent_high_water import FILE as MARK
from lianxin.parties.consent_high_water import check_mark, read_mark
from lianxin.parties.ledger_keys import LedgerKeys
from lianxin.parties.software import code_version
from lianxin.parties.store import Store
from lianxin.parties.store_copy import check_ledger, copy_to_file, registry_roots

MANIFEST, STORE, STATE = "backup.json", "store.sqlite", "state"
FOLDERS = ("keys", "runs")
_BLOCK = 2**20


def answer(served: Any, request: Mapping[str, Any]) -> dict[str, Any]:
    """Take a backup of a running node; see `parties.control`."""
    node, out = served.node, Path(request["to"])
    if not out.is_absolute():
        raise InputFault("the folder of a backup is named by its whole path")
    made = back_up(node.store, node.party, node.identity.ledger_keys(), node.config.state, out, node.clock.now())
    node.counts["backups"] += 1
    node.say(f"backed up to {out}: {made['ledger_size']} leaves, {made['epoch']} records of the registry")
    return {"backup": made}


def back_up(store: Store, party: str, key: SigningKey | LedgerKeys, state: Path, out: Path, now: str) -> dict[str, Any]:
    """Write a backup to the new folder `out` and return its manifest's record.

    Raises InputFault where `out` is there already, EvidenceRejected where the store does not hold, RunStopped where the disk
    does not write: nothing is left behind then.
    """
    if out.exists():
        raise InputFault(f"{out} exists already; name a new folder for each backup")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))  # mode 700
    except OSError as fault:
        raise InputFault(f"{out} cannot be written ({fault.strerror}); choose another place") from None
    try:
        record = _filled(draft, store, party, LedgerKeys.of(key), state, now)
        draft.rename(out)
        _settle(out.parent)
        return record
    except OSError as fault:
        raise RunStopped(
            f"the backup to {out} was not written ({fault.strerror}); see that its disk has room and works"
        ) from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _filled(draft: Path, store: Store, party: str, keys: LedgerKeys, state: Path, now: str) -> dict[str, Any]:
    (draft / STATE).mkdir(mode=0o700)
    if (state / MARK).is_file():
        _copy(state / MARK, draft / STATE / MARK)
    copy_to_file(store, draft / STORE)
    for file in state_files(state):
        _copy(state / file, draft / STATE / file)
    told = _checked(draft, party, keys)
    record = {
        "type": "store-backup", "version": 1, "party": party, "time": now, "code_version": code_version(),
        "schema": schema.SCHEMA_VERSION, "dialect": store.dialect, **told, "files": list(_listed(draft)),
    }  # fmt: skip
    (draft / MANIFEST).write_bytes(canonical.encode(sign_record(record, [(party, keys.signing[0])])) + b"\n")
    for path in [draft / MANIFEST, *(draft / one["path"] for one in record["files"])]:
        _settle(path)
    return record


def _checked(draft: Path, party: str, keys: LedgerKeys) -> dict[str, Any]:
    """Return what the copy in a draft holds. Raises EvidenceRejected unless it holds all that its mark says."""
    copy = Store(f"sqlite:///file:{draft / STORE}?mode=ro&uri=true", read_only=True)
    try:
        size, root = check_ledger(copy, party, keys)
        epoch, mark = copy.registry_epoch(), read_mark(draft / STATE / MARK)
        at_mark, at_end = registry_roots(copy, mark.epoch if mark else 0, epoch)
        if mark is not None:
            check_mark(draft / STATE / MARK, mark, epoch, at_mark, size)
        return {"ledger_size": size, "ledger_root": root, "epoch": epoch, "registry_root": at_end}
    finally:
        copy.close()


def state_files(state: Path) -> Iterator[Path]:
    """Yield the files of a state folder that a backup holds, relative to it, in order; drafts and links are left out."""
    for name in FOLDERS:
        for path in sorted((state / name).rglob("*")):
            if path.is_file() and not path.is_symlink() and path.suffix != ".new":
                yield path.relative_to(state)


def _listed(draft: Path) -> Iterator[dict[str, Any]]:
    for path in sorted(draft.rglob("*")):
        if path.is_file():
            name, size = path.relative_to(draft).as_posix(), path.stat().st_size
            yield {"path": name, "bytes": size, "sha256": digest_of(path)}


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file, hex, read a block at a time."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        with source.open("rb") as given, open(os.open(target, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as taken:
            shutil.copyfileobj(given, taken, _BLOCK)
    except FileNotFoundError:
        target.unlink(missing_ok=True)  # a checkpoint goes when its run ends


def _settle(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
