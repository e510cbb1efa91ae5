"""A node's state made again from a backup: into an empty state alone, and everything is verified before anything is written.

The mark that lies in the state folder says how far the lost store had come (`consent_high_water`). A backup behind it, or none
to hold it against, is refused: it would bring withdrawn consents back to life (attack 18). An operator can accept the loss
with a reason; then the ledger says so, limited consents are used up, and the node releases nothing until the registry is
whole again and another operator has ended the hold (`store_hold`).

What was numbered since the backup is not known, so in any restored store the counters of conversations and attempts jump, runs
that were under way end as failed, and their checkpoints stay behind.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lianxin.crypto import canonical
from lianxin.crypto.errors import CryptoError
from lianxin.crypto.randomness import Drbg, system_seed
from lianxin.crypto.signing import SigningKey, verify_signed
from lianxin.federation.errors import EvidenceRejected, InputFault, RunStopped
from lianxin.federation.model import Clock
from lianxin.parties import checkpoint, store_hold
from lianxin.parties.boundary_clock import LedgerClock, newest_time
from lianxin.parties.config import NodeConfig
from lianxin.parties.consent_high_water import FILE as MARK
from lianxin.parties.consent_high_water import SIZE_FILE, Mark, read_mark, write_mark
from lianxin.parties.institutions import PREFIX as INSTITUTIONS
from lianxin.parties.institutions import standing_of
from lianxin.parties.ledger import Ledger
from lianxin.parties.ledger_keys import LedgerKeys
from lianxin.parties.peer_trust import PREFIX as REVOKED
from lianxin.parties.software import code_version
from lianxin.parties.store import Store
from lianxin.parties.store_backup import FOLDERS, MANIFEST, STATE, STORE, digest_of
from lianxin.parties.store_copy import check_ledger, copy_rows, registry_roots, with_no_log
from lianxin.parties.store_ledger import put_uses
from lianxin.parties.store_open import lock_state, open_store, store_file

JUMP = 1_000_000  # conversations and attempts that may have been numbered since the backup
MOST_MANIFEST_BYTES = 2**26
_LEFT = frozenset({MARK, SIZE_FILE, "lock", "control.sock"})


@dataclass(frozen=True)
class Owner:
    """Whose store it is and who restores it; `accept_loss` is the reason for taking an older copy, "" for none."""

    party: str
    key: SigningKey | LedgerKeys
    clock: Clock
    operator: str
    accept_loss: str = ""


def read_manifest(folder: Path, party: str, keys: LedgerKeys) -> dict[str, Any]:
    """Return the manifest's record, each file it names there with its digest.

    Raises InputFault for a folder that is no backup, EvidenceRejected for one of another party or key or with another file.
    """
    try:
        with (folder / MANIFEST).open("rb") as file:
            signed = canonical.decode_fragment(file.read(MOST_MANIFEST_BYTES).removesuffix(b"\n"))
    except OSError:
        raise InputFault(f"{folder} holds no {MANIFEST}; name a folder that `backup` wrote") from None
    except CryptoError:
        raise EvidenceRejected(f"{folder / MANIFEST} is no manifest of a backup; use another backup") from None
    try:
        record = _verified(signed, party, keys)
        files = {str(one["path"]): str(one["sha256"]) for one in record["files"]}
    except (CryptoError, KeyError, TypeError):
        raise EvidenceRejected(
            f"the backup in {folder} is not signed by the node key of {party}; use one of this node's own"
        ) from None
    if (record.get("type"), record.get("party")) != ("store-backup", party):
        raise EvidenceRejected(f"{folder / MANIFEST} is no manifest of a backup of {party}; use another backup")
    for name, digest in files.items():
        _check_file(folder, name, digest)
    return record


def _verified(signed: Mapping[str, Any], party: str, keys: LedgerKeys) -> dict[str, Any]:
    """Return the record that one of the party's node keys signed: a backup outlives the key in force when it was made."""
    for public in keys.known[:-1]:
        with suppress(CryptoError):
            return verify_signed(signed, {party: public})
    return verify_signed(signed, {party: keys.known[-1]})


def _check_file(folder: Path, name: str, digest: str, source: Path | None = None) -> None:
    parts = Path(name).parts
    is_known = name in (STORE, f"{STATE}/{MARK}") or (parts[0] == STATE and len(parts) > 2 and parts[1] in FOLDERS)
    path = folder / name
    if not is_known or ".." in parts or path.is_symlink() or not path.is_file() or digest_of(path) != digest:
        raise EvidenceRejected(
            f"{name} of the backup in {source or folder} is not the file that was backed up; use another backup"
        )


def restore(config: NodeConfig, folder: Path, owner: Owner) -> dict[str, Any]:
    """Restore a backup into the empty state of `config` and return what was restored and lost.

    Raises InputFault where the state is not empty, EvidenceRejected for a backup that does not hold or is older than the
    mark in the state folder unless `owner.accept_loss` says why; nothing is written then.
    """
    record = read_manifest(folder, owner.party, LedgerKeys.of(owner.key))
    config.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    with lock_state(config.state):
        _check_empty(config)
        draft = Path(tempfile.mkdtemp(prefix=".restore-", dir=config.state))
        try:
            return _restored(config, folder, record, owner, draft)
        except OSError as fault:
            raise RunStopped(
                f"the restore into {config.state} stopped ({fault.strerror}); empty the folder but for {MARK}, see that its "
                "disk has room and works, and restore again"
            ) from None
        finally:
            shutil.rmtree(draft, ignore_errors=True)


def _take(folder: Path, draft: Path, record: Mapping[str, Any]) -> None:
    """Copy what the manifest lists, and nothing else that lies beside it; each copy is what was signed."""
    for one in record["files"]:
        name = Path(one["path"])
        if name.name == checkpoint.FILE or name.parts == (STATE, MARK):
            continue
        place = draft / name
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        shutil.copyfile(folder / name, place)
        os.chmod(place, 0o600)
        _check_file(draft, one["path"], one["sha256"], folder)
    for made in filter(Path.is_dir, draft.rglob("*")):
        os.chmod(made, 0o700)


def _check_empty(config: NodeConfig) -> None:
    found = sorted(path.name for path in config.state.iterdir() if path.name not in _LEFT)
    if found:
        raise InputFault(
            f"{config.state} is not empty: a backup is restored beside {MARK} alone; move the rest away, such as {found[0]}"
        )
    if config.store.url:
        store = open_store(config)
        try:
            if store.leaf_count() or store.registry_epoch() or store.runs():
                raise InputFault(f"{store.place} holds a store already; restore into an empty database")
        finally:
            store.close()


def _restored(config: NodeConfig, folder: Path, record: Mapping[str, Any], owner: Owner, draft: Path) -> dict[str, Any]:
    _take(folder, draft, record)
    store = Store(draft / STORE)
    try:
        size, _ = check_ledger(store, owner.party, LedgerKeys.of(owner.key))
        lost = _lost(store, read_mark(config.state / MARK), size, record)
        if lost["is_behind"] and not owner.accept_loss:
            raise EvidenceRejected(_refusal(lost, record, config))
        ended = _changed(store, owner, record, lost)
        mark = _mark_of(store)
    finally:
        store.close()
    with_no_log(draft / STORE)
    _place(config, draft, mark)
    return {
        "party": owner.party, "backup_time": record["time"], "ledger_size": mark.ledger_size, "epoch": mark.epoch,
        "lost_records": lost["records"], "lost_leaves": lost["leaves"], "is_held": lost["is_behind"], "runs_ended": ended,
    }  # fmt: skip


def _lost(store: Store, mark: Mark | None, size: int, record: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the backup lacks by the mark beside the lost store: the least that is known."""
    epoch = store.registry_epoch()
    if mark is None:
        return {"is_behind": True, "records": 0, "leaves": 0, "mark": None}
    (root,) = registry_roots(store, mark.epoch)
    is_behind = root != mark.registry_root or size < mark.ledger_size
    gone = {"records": max(0, mark.epoch - epoch), "leaves": max(0, mark.ledger_size - size)}
    return {"is_behind": is_behind, "mark": mark, **gone}


def _refusal(lost: Mapping[str, Any], record: Mapping[str, Any], config: NodeConfig) -> str:
    way = "restore the newest one, or accept the loss with --accept-loss and a reason"
    if lost["mark"] is None:
        return (
            f"nothing in {config.state} says that the backup of {record['time']} is the newest: put the {MARK} of the lost "
            f"state folder there first; {way}"
        )
    return (
        f"the backup of {record['time']} is behind {config.state / MARK}: it lacks {lost['records']} consents and withdrawals "
        f"and {lost['leaves']} leaves, or holds others; {way}"
    )


def _changed(store: Store, owner: Owner, record: Mapping[str, Any], lost: Mapping[str, Any]) -> list[str]:
    """Make of a copy what may go on: its runs ended, its counters moved on, and the leaf that says what happened."""
    epoch, size = store.registry_epoch(), store.next_position()
    ledger = _ledger(store, owner)
    ended = [row for row in store.runs() if row.state == "running"]
    for row in ended:
        agreed = canonical.record_hash(canonical.decode_fragment(row.contract)["record"])
        ledger.append({"kind": "contract", "run": row.run, "contract_hash": agreed, "event": "failed", "rule": "RUN"})
        store.set_run_state(row.run, "failed", "RUN")
    for name, value in store.settings_under("reserved/").items():
        store.put_setting(name, str(int(value) + JUMP).encode())
    ledger.append({
        "kind": "restore", "run": "", "rule": store_hold.RULE if lost["is_behind"] else "", "backup_time": record["time"],
        "backup_hash": canonical.record_hash(dict(record)), "epoch": epoch, "ledger_size": size,
        "lost_records": lost["records"], "lost_leaves": lost["leaves"], "reason": owner.accept_loss,
    })  # fmt: skip
    if lost["is_behind"]:
        _use_up(store)
        store_hold.put_hold(store, _hold(owner, epoch, size, lost["mark"]))
    ledger.checkpoint()
    return [row.run for row in ended]


def _ledger(store: Store, owner: Owner) -> Ledger:
    """Return the ledger with a clock that does not go behind its last leaf."""
    clock, salts = LedgerClock(owner.clock, newest_time(store)), Drbg(system_seed())
    return Ledger(store, owner.party, owner.key, clock, code_version(), owner.operator, salts=salts)


def _hold(owner: Owner, epoch: int, size: int, mark: Mark | None) -> dict[str, Any]:
    wanted = {} if mark is None else {"wanted": {"epoch": mark.epoch, "registry_root": mark.registry_root}}
    return {"operator": owner.operator, "epoch": epoch, "size": size, "reason": owner.accept_loss, **wanted}


def _use_up(store: Store) -> None:
    """Count every use of every consent that has a limit: which of them were used since is not known."""
    with store.writing() as connection:
        for consent, most in _limited(store):
            put_uses(connection, [(consent, f"lost/{n}") for n in range(most)])


def _limited(store: Store) -> Iterator[tuple[str, int]]:
    for line in store.iterate_registry():
        record = json.loads(line)["record"]
        if record["type"] == "consent" and "max_uses" in record:
            yield record["consent_id"], record["max_uses"]


def _mark_of(store: Store) -> Mark:
    epoch = store.registry_epoch()
    (root,) = registry_roots(store, epoch)
    return Mark(epoch, root, store.next_position())


def _place(config: NodeConfig, draft: Path, mark: Mark) -> None:
    """Put everything into its place, the mark last: until it is there the node does not start on an older store."""
    for name in FOLDERS:
        if (draft / STATE / name).is_dir():
            (draft / STATE / name).rename(config.state / name)
    if config.store.url:
        source, target = Store(draft / STORE), open_store(config)
        try:
            copy_rows(source, target)
        finally:
            source.close()
            target.close()
    else:
        (draft / STORE).rename(store_file(config))
    write_mark(config.state / MARK, mark)


def lift(config: NodeConfig, owner: Owner, reason: str) -> dict[str, Any]:
    """End the hold of a stopped node, with a leaf; return what it was, and who is refused and which agreements stand there.

    Limited consents that came in since the restore count as used up too. Raises InputFault where nothing is held, where records
    are missing that the mark spoke of, or where the same operator decides who accepted the loss.
    """
    with lock_state(config.state):
        store = open_store(config)
        try:
            hold = store_hold.hold_of(store)
            _check_lift(store, hold, owner, reason)
            assert hold is not None
            ledger = _ledger(store, owner)
            _use_up(store)
            told = {"epoch": store.registry_epoch(), "ledger_size": hold["size"], "reason": reason}
            ledger.append({"kind": "restore", "run": "", "rule": store_hold.RULE, "event": "lifted", **told})
            store_hold.end_hold(store)
            ledger.checkpoint()
            write_mark(config.state / MARK, _mark_of(store))
            return {"party": owner.party, "held_since_epoch": hold["epoch"], **told, **_decided(store)}
        finally:
            store.close()


def _decided(store: Store) -> dict[str, list[str]]:
    """Return what of an operator's decisions is in a store: peers revoked, institutions suspended, agreements that stand."""
    files = store.settings_under(INSTITUTIONS).items()
    suspended = [key for key, kept in files if standing_of(canonical.decode(kept)["entries"]).suspended_by]
    return {
        "revoked": [key.removeprefix(REVOKED) for key in store.settings_under(REVOKED)],
        "suspended": [key.removeprefix(INSTITUTIONS) for key in suspended],
        "standing": [row.run for row in store.runs() if row.state == "standing"],
    }


def _check_lift(store: Store, hold: Mapping[str, Any] | None, owner: Owner, reason: str) -> None:
    if hold is None:
        raise InputFault(f"nothing is held at {owner.party}; it was not restored with a loss, or its hold was ended")
    if "wanted" in hold and not store_hold.is_whole(store, hold):
        raise InputFault(
            f"the mark says which {hold['wanted']['epoch']} records the registry had: import those after {hold['epoch']} "
            "again, in their order, before the hold is ended"
        )
    if owner.operator == hold["operator"] or not reason:
        raise InputFault(
            "another operator than the one who accepted the loss ends the hold, with a reason; name both by --operator and "
            "--reason"
        )
