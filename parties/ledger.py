"""A party's append-only ledger: a leaf for everything that crosses or decides, in an RFC 9162 tree (docs/records.md).

A leaf is on disk before its index is returned, so whoever sends bytes after `append` never sends what the ledger does
not know. The tree is rebuilt from the store at start, and a store that contradicts its own last signed checkpoint is
refused. Leaves hold digests and counts only.

A `Witness` keeps the signed heads of the other parties' ledgers, so that no party can rewrite its own later.
`export` writes the evidence of docs/records.md, "Run folder", which an auditor verifies without this module.
"""

import hashlib
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from lianxin.crypto import canonical, merkle, signing
from lianxin.crypto.errors import CryptoError
from lianxin.federation.errors import EvidenceRejected, InputFault
from lianxin.federation.model import Clock
from lianxin.parties.store import EnvelopeRow, Store

CATALOGUE_SETTING = "catalogue"
_OURS = frozenset({"type", "version", "time", "party", "operator", "code_version"})
_NEEDED = frozenset({"kind", "run"})
_HEAD = {"type": str, "version": int, "party": str, "size": int, "root": str, "time": str}
_ROOT = re.compile(r"[0-9a-f]{64}")


class Ledger:
    """One party's ledger over its store. Safe to share between threads."""

    def __init__(
        self,
        store: Store,
        party: str,
        signing_key: signing.SigningKey,
        clock: Clock,
        code_version: str,
        operator: str,
    ) -> None:
        """Rebuild the tree from `store`. Raises EvidenceRejected when the last stored checkpoint disagrees with it."""
        self._store, self._party, self._key, self._clock = store, party, signing_key, clock
        self._code_version, self._operator = code_version, operator
        self._lock = threading.RLock()
        self._tree = merkle.MerkleTree()
        for leaf in store.leaves():
            self._tree.append(leaf)
        self._check_last_checkpoint()

    @property
    def size(self) -> int:
        """The number of leaves."""
        with self._lock:
            return self._tree.size

    def root(self) -> str:
        """Return the root over all leaves, in hex."""
        with self._lock:
            return self._tree.root().hex()

    def append(self, leaf_fields: Mapping[str, Any], operator: str | None = None) -> tuple[int, str]:
        """Append one leaf and return its index and the SHA-256 of its canonical bytes, once it is on disk.

        `leaf_fields` holds `kind`, `run` (empty when the leaf belongs to no run) and the fields of the kind; the rest
        is added here. `operator` names another operator than the node's. Raises ValueError for fields that the ledger
        itself sets or that are missing, EncodingRejected for values without a canonical form.
        """
        return self.append_many([leaf_fields], operator)[0]

    def append_many(
        self, leaves_fields: Iterable[Mapping[str, Any]], operator: str | None = None
    ) -> list[tuple[int, str]]:
        """Append leaves in order, all or none, and return what `append` would for each."""
        with self._lock:
            return self._commit([self._leaf(fields, operator) for fields in leaves_fields])

    def append_envelope(self, leaf_fields: Mapping[str, Any], header: bytes, signature: bytes) -> tuple[int, str]:
        """Append an envelope's leaf together with its canonical header and signature; return what `append` does.

        Raises InputFault when the header's sequence number is already used in this direction.
        """
        with self._lock:
            leaf = self._leaf(leaf_fields, None)
            row = _envelope_row(self._tree.size, leaf_fields["direction"], header, signature)
            return self._commit([leaf], envelopes=[row])[0]

    def append_release(self, leaf_fields: Mapping[str, Any], consents: Sequence[str]) -> tuple[int, str]:
        """Append a release's leaf together with the ids of the consents behind it; return index and release id."""
        with self._lock:
            leaf = self._leaf(leaf_fields, None)
            release = hashlib.sha256(leaf).hexdigest()
            return self._commit([leaf], release_consents={release: list(consents)})[0]

    def append_registry(self, signed_records: Sequence[Mapping[str, Any]], run: str = "") -> tuple[int, str]:
        """Append signed consents and revocations to the registry together with the one leaf that commits to them.

        One record is named by its hash, several by the root over the whole registry. Returns what `append` does.
        """
        if not signed_records:
            raise ValueError("a registry leaf speaks of at least one record")
        with self._lock:
            encoded = [canonical.encode(dict(signed)) for signed in signed_records]
            epoch = self._store.registry_epoch() + len(encoded)
            fields: dict[str, Any] = {"kind": "registry", "run": run, "epoch": epoch}
            if len(encoded) == 1:
                fields["record_hash"] = canonical.record_hash(signed_records[0]["record"])
            else:
                fields["registry_root"] = registry_root(chain(self._store.iterate_registry(), encoded))
            return self._commit([self._leaf(fields, None)], registry=encoded)[0]

    def checkpoint(self) -> dict[str, Any]:
        """Sign the ledger's present size and root, keep the signed record, and return it."""
        with self._lock:
            record = {
                "type": "checkpoint",
                "version": 1,
                "party": self._party,
                "size": self._tree.size,
                "root": self._tree.root().hex(),
                "time": self._clock.now(),
            }
            signed = signing.sign_record(record, [(self._party, self._key)])
            self._store.add_checkpoint(self._tree.size, canonical.encode(signed))
            return signed

    def inclusion_proof(self, index: int) -> list[str]:
        """Return the hashes, in hex, that show leaf `index` under the present root."""
        with self._lock:
            return [node.hex() for node in self._tree.inclusion_proof(index, self._tree.size)]

    def consistency_proof(self, old: int) -> list[str]:
        """Return the hashes, in hex, that show the first `old` leaves to be a prefix of the present ledger."""
        with self._lock:
            return [node.hex() for node in self._tree.consistency_proof(old, self._tree.size)]

    def export(self, folder: Path, run: str | None = None, catalogue: bytes | None = None) -> Path:
        """Write this party's evidence of one run to `folder`/evidence and return that path.

        `run` may be left out when the node knows one run only; `catalogue` is by default the setting "catalogue". The
        ledger and registry are written whole, under a fresh checkpoint when the last one is behind. The folder appears
        complete or not at all. Raises InputFault when the run, its contract or the catalogue is missing.
        """
        with self._lock:
            contract = self._contract_of(run)
            catalogue = self._store.setting(CATALOGUE_SETTING) if catalogue is None else catalogue
            if catalogue is None:
                raise InputFault(f"{self._party} has no catalogue to export; publish or import one first")
            if self._last_checkpoint_size() != self._tree.size:
                self.checkpoint()
            name = canonical.decode_fragment(contract)["record"]["run"]
            files = {"contract.json": [contract, b"\n"], "catalogue.csv": [catalogue], **self._line_files(name)}
            return _write_folder(folder, "evidence", files)

    def _line_files(self, run: str) -> dict[str, Iterable[bytes]]:
        store = self._store
        keys = ({"subject_key": subject, "key": key} for subject, key in store.firm_keys().items())
        lists = ({"release": name, "consents": ids} for name, ids in store.release_consents().items())
        envelopes = (
            {"header": canonical.decode(row.header), "signature": row.signature.hex()} for row in store.envelopes(run)
        )
        return {
            "ledger.jsonl": _lines(store.leaves()),
            "checkpoints.jsonl": _lines(store.checkpoints()),
            "witnessed.jsonl": _lines(store.witnessed()),
            "registry.jsonl": _lines(store.iterate_registry()),
            "firm_keys.jsonl": _lines(map(canonical.encode, keys)),
            "release_consents.jsonl": _lines(map(canonical.encode, lists)),
            "envelopes.jsonl": _lines(map(canonical.encode, envelopes)),
        }

    def _leaf(self, fields: Mapping[str, Any], operator: str | None) -> bytes:
        if _OURS & set(fields) or not set(fields) >= _NEEDED:
            raise ValueError(f"a leaf's fields hold {sorted(_NEEDED)} and none of {sorted(_OURS)}")
        leaf = {
            **fields,
            "type": "leaf",
            "version": 1,
            "time": self._clock.now(),
            "party": self._party,
            "operator": self._operator if operator is None else operator,
            "code_version": self._code_version,
        }
        return canonical.encode(leaf)

    def _commit(self, leaves: Sequence[bytes], **beside: Any) -> list[tuple[int, str]]:
        self._store.append_leaves(self._tree.size, leaves, **beside)
        return [(self._tree.append(leaf), hashlib.sha256(leaf).hexdigest()) for leaf in leaves]

    def _check_last_checkpoint(self) -> None:
        data = self._store.last_checkpoint()
        if data is None:
            return
        try:
            record = signing.verify_signed(canonical.decode_fragment(data), {self._party: self._key.public_hex})
            agrees = record["root"] == self._tree.root(record["size"]).hex()
        except (CryptoError, ValueError, KeyError, TypeError):
            agrees = False
        if not agrees:
            raise EvidenceRejected(
                f"the ledger of {self._party} disagrees with its own last signed checkpoint: leaves were lost or "
                "changed; restore the store from a copy that is not older than that checkpoint"
            )

    def _last_checkpoint_size(self) -> int:
        data = self._store.last_checkpoint()
        return -1 if data is None else canonical.decode_fragment(data)["record"]["size"]

    def _contract_of(self, run: str | None) -> bytes:
        rows = [row for row in self._store.runs() if run in (None, row.run) and row.contract]
        if len(rows) != 1:
            wanted = "one run" if run is None else f"run {run}"
            raise InputFault(f"{self._party} holds {len(rows)} contracts where {wanted} is asked for; name a known run")
        return rows[0].contract


class Witness:
    """Remembers the heads of other parties' ledgers: the newest of each, and both heads of a fork as its proof.

    One process a store; safe to share between threads.
    """

    def __init__(self, store: Store, party: str, signing_key: signing.SigningKey) -> None:
        self._store, self._party, self._key = store, party, signing_key
        self._lock = threading.Lock()

    def keep_head(self, signed: Mapping[str, Any], party: str, node_key: str) -> None:
        """Keep a checkpoint that `party` signed with `node_key`; what came between is left to the auditor.

        Raises SignatureRejected for another signer, EvidenceRejected for a head that is shorter than one already kept
        or that differs from one of its size. A fork's second head is kept too: together they prove it.
        """
        with self._lock:
            record = _head_of(signed, party, node_key)
            self._keep(signed, record, self._newest(party))

    def cosign(
        self, signed: Mapping[str, Any], party: str, node_key: str, proof: Sequence[bytes] = ()
    ) -> dict[str, Any]:
        """Keep a checkpoint that extends the newest one kept, and return it with this party's signature added.

        `proof` is the RFC 9162 consistency proof from that one, empty for a first head. Raises as `keep_head`, and
        ProofOfInclusionRejected when the proof does not join the two.
        """
        with self._lock:
            record = _head_of(signed, party, node_key)
            newest = self._newest(party)
            if newest and newest["size"] and record["size"] > newest["size"]:
                roots = bytes.fromhex(newest["root"]), bytes.fromhex(record["root"])
                merkle.verify_consistency(newest["size"], record["size"], *roots, proof)
            self._keep(signed, record, newest)
        return {"record": record, "signatures": [*signed["signatures"], self._key.sign_record(record, self._party)]}

    def _newest(self, party: str) -> dict[str, Any] | None:
        heads = (canonical.decode_fragment(data)["record"] for data in self._store.witnessed(party))
        return max(heads, key=lambda head: head["size"], default=None)

    def _keep(self, signed: Mapping[str, Any], record: dict[str, Any], newest: dict[str, Any] | None) -> None:
        if newest and record["size"] < newest["size"]:
            raise EvidenceRejected(
                f"{record['party']} shows a ledger of {record['size']} leaves after one of {newest['size']}; ask it "
                "which leaves it dropped"
            )
        self._store.add_witnessed(record["party"], canonical.encode(dict(signed)))
        if newest and record["size"] == newest["size"] and record["root"] != newest["root"]:
            raise EvidenceRejected(
                f"{record['party']} signed two different ledgers of {record['size']} leaves; both heads are kept as "
                "evidence, hand them to the auditor"
            )


def _head_of(signed: Mapping[str, Any], party: str, node_key: str) -> dict[str, Any]:
    record = signing.verify_signed(signed, {party: node_key})
    fits = set(record) == set(_HEAD) and all(type(record[name]) is kind for name, kind in _HEAD.items())
    is_head = fits and (record["type"], record["party"]) == ("checkpoint", party)
    if not is_head or record["size"] < 0 or not _ROOT.fullmatch(record["root"]):
        raise EvidenceRejected(f"what {party} signed is no checkpoint of its ledger (docs/records.md); ask it for one")
    return record


def registry_root(encoded_records: Iterable[bytes]) -> str:
    """Return the root, in hex, over the canonical bytes of a registry's signed records."""
    return merkle.root_of(encoded_records).hex()


def _envelope_row(index: int, direction: str, header: bytes, signature: bytes) -> EnvelopeRow:
    fields = canonical.decode(header)
    return EnvelopeRow(
        ledger_index=index,
        direction=direction,
        run=fields["run"],
        conversation=fields["conversation"],
        sender=fields["sender"],
        seq=fields["seq"],
        header=header,
        signature=signature,
        message_hash=hashlib.sha256(header).hexdigest(),
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
