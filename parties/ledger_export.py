"""Writing the evidence of docs/records.md, "Run folder", which an auditor verifies without this program's node.

Every file is written as it is read from the store, a page at a time. The leaves are hashed on the way: what is not under
the head that was just signed leaves no evidence behind.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Set
from pathlib import Path

from lianxin.crypto import canonical, notes
from lianxin.crypto.merkle import leaf_hash
from lianxin.crypto.notes import Checkpoint
from lianxin.crypto.tiles import Frontier, TiledTree
from lianxin.federation.errors import EvidenceRejected, InputFault, RunStopped
from lianxin.parties.commitments import Commitments, documents
from lianxin.parties.decision_signers import key_lines
from lianxin.parties.ledger_witness import note_of
from lianxin.parties.store import Store

GRADE_SETTINGS = "grade/"
CATALOGUE_SETTING = "catalogue"


def keep_catalogue(store: Store, catalogue: bytes) -> None:
    """Keep a catalogue as the present one and under its digest: a run's evidence needs the one that its contract names."""
    store.put_setting(f"{CATALOGUE_SETTING}/{hashlib.sha256(catalogue).hexdigest()}", catalogue)
    store.put_setting(CATALOGUE_SETTING, catalogue)


def catalogue_of(store: Store, party: str, contract: bytes) -> bytes | None:
    """Return the catalogue that a signed contract names for `party`; the present one in a store that kept no other."""
    named = canonical.decode_fragment(contract)["record"].get("catalogues", {}).get(party, "")
    kept = store.setting(f"{CATALOGUE_SETTING}/{named}")
    return store.setting(CATALOGUE_SETTING) if kept is None else kept


def write_evidence(
    store: Store,
    party: str,
    folder: Path,
    contract: bytes,
    catalogue: bytes,
    head: Checkpoint,
    home: Path | None = None,
) -> Path:
    """Write one run's evidence to `folder`/evidence and return that path; the folder appears complete or not at all.

    `home` is the run's folder under the node's state, where its model is; by default `folder`.

    Raises EvidenceRejected when the stored leaves are not the ones under `head`, RunStopped when the disk is full.
    """
    record = canonical.decode_fragment(contract)["record"]
    run, parties = record["run"], {entry["party"] for entry in record.get("parties", ())}
    seen = Commitments(run)
    ledger = _checked_lines(store, party, head, seen)
    files = {
        "contract.json": [contract, b"\n"],
        "catalogue.csv": [catalogue],
        "ledger.jsonl": ledger,
        **_files(store, run, parties, seen),
        **documents(store, party, seen, home or folder),
    }
    try:
        return _write_folder(folder, "evidence", files)
    except OSError as fault:
        raise RunStopped(
            f"the evidence of run {run} could not be written to {folder}: {fault.strerror or fault}"
        ) from fault


def export_from_store(store: Store, party: str, run: str, folder: Path, home: Path) -> Path:
    """Write one run's evidence up to the last checkpoint, from a store that is only read, and return its path.

    That is for a running node, and for an agreement that still stands. Raises InputFault for a run without a contract.
    """
    row, data = store.run(run), store.last_checkpoint()
    catalogue = catalogue_of(store, party, row.contract) if row is not None and row.contract else None
    if row is None or catalogue is None or data is None:
        raise InputFault(f"{party} has no finished contract, catalogue or checkpoint for run {run}; name a known run")
    head = notes.parse_checkpoint(note_of(canonical.decode_fragment(data)).text)
    return write_evidence(store, party, folder, row.contract, catalogue, head, home)


def _files(store: Store, run: str, parties: Set[str], seen: Commitments) -> dict[str, Iterable[bytes]]:
    """Return what is beside the ledger, which is written, and so `seen`, before: of releases that came after it, no list."""
    lists = (
        {"release": name, "consents": ids} for name, ids in store.release_consents().items() if name in seen.releases
    )
    envelopes = (
        {"header": canonical.decode(row.header), "signature": row.signature.hex()} for row in store.envelopes(run)
    )
    return {
        "checkpoints.jsonl": _lines(store.checkpoints()),
        "witnessed.jsonl": _lines(store.witnessed(*parties)),
        "registry.jsonl": _lines(store.iterate_registry()),
        "firm_keys.jsonl": _lines(key_lines(store.firm_keys(), store.firm_kinds())),
        "release_consents.jsonl": _lines(map(canonical.encode, lists)),
        "envelopes.jsonl": _lines(map(canonical.encode, envelopes)),
        "grades.jsonl": _lines(store.settings_under(GRADE_SETTINGS).values()),
    }


def _checked_lines(store: Store, party: str, head: Checkpoint, seen: Commitments) -> Iterator[bytes]:
    frontier, tiles = Frontier(), dict[tuple[int, int], bytes]()
    for index, leaf in enumerate(store.leaves(0, head.size)):
        seen.see(index, leaf)
        frontier, full = frontier.grown([leaf_hash(leaf)])
        tiles |= {(tile.level, tile.index): tile.data for tile in full if tile.level}
        yield leaf + b"\n"
    if frontier.size != head.size or TiledTree(frontier, lambda level, index: tiles[level, index]).root() != head.root:
        raise EvidenceRejected(
            f"the stored leaves of {party} are not the ones under its last checkpoint: leaves were lost or changed; no "
            "evidence was written, restore the store from a copy"
        )


def _lines(records: Iterable[bytes]) -> Iterator[bytes]:
    return (record + b"\n" for record in records)


def _write_folder(parent: Path, name: str, files: Mapping[str, Iterable[bytes]]) -> Path:
    parent.mkdir(parents=True, exist_ok=True)
    target, fresh = parent / name, Path(tempfile.mkdtemp(prefix=f".{name}-", dir=parent))
    try:
        for file_name, data in files.items():
            with (fresh / file_name).open("wb") as file:
                file.writelines(data)
                file.flush()
                os.fsync(file.fileno())
        if target.exists():
            target.rename(fresh.with_suffix(".old"))
        fresh.rename(target)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.rmtree(fresh.with_suffix(".old"), ignore_errors=True)
    return target
