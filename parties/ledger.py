"""A party's append-only ledger: a leaf for everything that crosses or decides, in an RFC 9162 tree (docs/records.md).

A leaf is on disk before its index is returned, so whoever sends bytes after `append` never sends what the ledger does
not know (that of a release that goes on in a message: with the message's own); appends that come together share one
transaction (`ledger_commit`). The tree's hashes lie in the store in
tiles of 256, and memory holds their frontier alone. A store that contradicts its own last signed checkpoint is refused.
Leaves hold digests and counts only, and a node's have a secret salt each (`ledger_salt`): peers see their hashes.

A checkpoint is a signed note (`crypto/notes.py`). One is made when CHECKPOINT_S of activity went by since the last, at a
run's end, at an export and at the end of the node. With a quorum of witnesses, nothing is released once a leaf has
waited for their cosignatures longer than the hours allowed (rule W01).
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

from lianxin.crypto import canonical, merkle, notes, signing
from lianxin.crypto.errors import CryptoError, EncodingRejected, SignatureRejected
from lianxin.crypto.failpoints import reach
from lianxin.crypto.randomness import Drbg
from lianxin.crypto.tiles import TiledTree
from lianxin.federation.errors import EvidenceRejected, GateRefused, InputFault
from lianxin.federation.model import Clock
from lianxin.parties.clock import later
from lianxin.parties.ledger_commit import NO_PREFACE, Entry, GroupCommit, Kept, Leaf, Preface, envelope_row, joined
from lianxin.parties.ledger_export import CATALOGUE_SETTING, catalogue_of, write_evidence
from lianxin.parties.ledger_keys import LedgerKeys
from lianxin.parties.ledger_mark import mark_at
from lianxin.parties.ledger_salt import salted
from lianxin.parties.ledger_tree import opened_frontier, registry_root
from lianxin.parties.ledger_witness import TIME, Witness, cosigners, has_cosigned, note_of, note_record
from lianxin.parties.store import Store
from lianxin.parties.store_hold import HOLD, check_hold

__all__ = ["CATALOGUE_SETTING", "Ledger", "Witness", "registry_root"]

CHECKPOINT_S = 60
ANSWERS_TO = 16  # an answer of a witness belongs to one of so many last checkpoints
_OURS = frozenset({"type", "version", "time", "party", "operator", "code_version", "salt"})
_NEEDED = frozenset({"kind", "run"})
_WITNESSED_BY = "witnessed-by/"


class Ledger:
    """One party's ledger over its store. Safe to share between threads."""

    def __init__(
        self,
        store: Store,
        party: str,
        signing_key: signing.SigningKey | LedgerKeys,
        clock: Clock,
        code_version: str,
        operator: str,
        quorum: int = 0,
        quorum_hours: int = 4,
        witnesses: Mapping[str, str | Sequence[str]] | None = None,
        salts: Drbg | None = None,
    ) -> None:
        """Open the ledger in `store`; `quorum` witnesses have to cosign within `quorum_hours`, none when it is 0.

        `witnesses` are the parties whose cosignatures count, with their pinned node keys. `salts` gives the leaves' salts; a
        node has one. Raises EvidenceRejected when leaves are missing or the last stored checkpoint disagrees with the tree.
        """
        self._store, self._party, self._keys, self._clock = store, party, LedgerKeys.of(signing_key), clock
        self._code_version, self._operator = code_version, operator
        self._quorum, self._quorum_hours, self._witnesses = quorum, quorum_hours, dict(witnesses or {})
        self._salt_key = salts.child_seed("leaf") if salts is not None else b""
        self.raise_mark: Callable[[int], None] | None = None
        self.raise_mark_soon: Callable[[int], None] | None = None
        self._is_held = store.setting(HOLD) is not None
        self._frontier = opened_frontier(store, party)
        self.on_disk = self._frontier.size  # leaves that no loss of power takes back: a release that goes on may be none yet
        self._last = self._checked_last()
        self._due = later(self._last_time(), CHECKPOINT_S) if self._last else ""
        self._covered, self._since = (self._found_cover() if quorum else 0), ""
        self._commits = GroupCommit(self._write)

    @property
    def size(self) -> int:
        """The number of leaves."""
        return self._frontier.size

    def root(self, size: int | None = None) -> str:
        """Return the root over the first `size` leaves, by default all, in hex."""
        return self._tree().root(size).hex()

    def append(self, leaf_fields: Leaf, operator: str | None = None, settings: Kept = None) -> tuple[int, str]:
        """Append one leaf and return its index and the SHA-256 of its canonical bytes, once it and `settings` are on disk.

        `leaf_fields` holds `kind`, `run` (empty when the leaf belongs to no run) and the fields of the kind; the rest
        is added here. `operator` names another operator than the node's. Raises ValueError for fields that the ledger
        itself sets or that are missing, EncodingRejected for values without a canonical form, RunStopped when the
        disk does not write.
        """
        return self._submit(lambda: Entry([self._leaf(leaf_fields, operator)], beside={"settings": settings or {}}))[0]

    def append_many(self, leaves_fields: Iterable[Leaf], operator: str | None = None) -> list[tuple[int, str]]:
        """Append leaves in order, all or none, and return what `append` would for each."""
        return self._submit(lambda: Entry([self._leaf(fields, operator) for fields in leaves_fields]))

    def append_envelope(
        self, leaf_fields: Mapping[str, Any], header: bytes, signature: bytes, beside: Mapping[str, Any] | None = None
    ) -> tuple[int, str]:
        """Append an envelope's leaf together with its canonical header and signature; return what `append` does.

        `beside` goes to disk with it, as in `Entry`. Raises InputFault when the header's sequence number is already used
        in this direction.
        """
        row = envelope_row(leaf_fields["direction"], header, signature)
        return self._submit(lambda: Entry([self._leaf(leaf_fields, None)], row, dict(beside or {})))[0]

    def append_prefaced(self, before: Preface) -> list[tuple[int, str]]:
        """Append what would go in front of a release by itself, in one transaction; return what `append` would for each."""
        return self._submit(lambda: Entry([self._leaf(fields, who) for fields, who in before.leaves], before.envelope))

    def append_release(
        self,
        leaf_fields: Mapping[str, Any],
        consents: Sequence[str],
        uses: Sequence[tuple[str, str]] = (),
        settings: Mapping[str, bytes] | None = None,
        before: Preface = NO_PREFACE,
    ) -> tuple[int, str]:
        """Append a release's leaf together with the ids of the consents behind it; return index and release id.

        `uses` are pairs of a consent that allows a limited number of uses and the use that this release is part of;
        `settings` are kept with the leaf in the store, all or nothing, such as the commitments under its `rows_root`;
        `before` is what goes in front of it.
        Raises GateRefused (W01), after a refusal leaf, when the quorum of witnesses is overdue.
        """
        self.check_witnessed(leaf_fields)

        def make() -> Entry:
            leaf = self._leaf(leaf_fields, None)
            lists = {hashlib.sha256(leaf).hexdigest(): list(consents)}
            beside = {"release_consents": lists, "uses": list(uses), "settings": dict(settings or {})}
            leaves = [*(self._leaf(fields, who) for fields, who in before.leaves), leaf]
            waits = not before.goes_on or bool(uses and not before.late_mark)
            return Entry(leaves, before.envelope, beside, marks=not before.late_mark, waits=waits)

        return self._submit(make)[-1]

    def append_registry(self, signed_records: Sequence[Mapping[str, Any]], run: str = "") -> tuple[int, str]:
        """Append signed consents and revocations to the registry together with the one leaf that commits to them.

        One record is named by its hash, several by the root over the whole registry. Returns what `append` does.
        """
        if not signed_records:
            raise ValueError("a registry leaf speaks of at least one record")
        encoded = [canonical.encode(dict(signed)) for signed in signed_records]
        with self._commits.alone():
            fields: dict[str, Any] = {"kind": "registry", "run": run}
            fields["epoch"] = self._store.registry_epoch() + len(encoded)
            if len(encoded) == 1:
                fields["record_hash"] = canonical.record_hash(signed_records[0]["record"])
            else:
                fields["registry_root"] = registry_root(chain(self._store.iterate_registry(), encoded))
            entry = Entry([self._leaf(fields, None)], beside={"registry": encoded})
            self._write([entry])
        return _answers(entry)[0]

    def append_registry_lines(
        self, lines: Iterable[bytes], named: Mapping[str, Any], keys: Mapping[str, tuple[str, str]] | None = None,
        operator: str | None = None,
    ) -> tuple[int, str]:  # fmt: skip
        """Append the canonical bytes of signed records, read as they are written, with the leaf that commits to them.

        `named` holds the leaf's `epoch`, `record_hash` or `registry_root`, and what else it says, and `keys` firms' keys with
        their types that are registered with it, under kind `firm-keys`. Returns as `append`.
        """
        with self._commits.alone():
            leaf = self._leaf({"kind": "registry", "run": "", **named}, operator)
            entry = Entry([leaf], beside={"registry": lines, "firm_keys": dict(keys or {})})
            self._write([entry])
        return _answers(entry)[0]

    def checkpoint(self) -> dict[str, Any]:
        """Sign the ledger's present size and root, keep the note, and return the line by which it is kept."""
        with self._commits.alone():
            return self._sign_head()

    def close(self) -> None:
        """Leave a checkpoint over the last leaf, if there is none, and the mark at it. The store stays its owner's."""
        with self._commits.alone():
            self._sign_if_behind()
            self._mark()

    def inclusion_proof(self, index: int, size: int | None = None) -> list[str]:
        """Return the hashes, in hex, that show leaf `index` under the root over `size` leaves, by default all."""
        tree = self._tree()
        return [node.hex() for node in tree.inclusion_proof(index, tree.size if size is None else size)]

    def consistency_proof(self, old: int, size: int | None = None) -> list[str]:
        """Return the hashes, in hex, that show the first `old` leaves to be a prefix of the first `size`, by default all."""
        tree = self._tree()
        return [node.hex() for node in tree.consistency_proof(old, tree.size if size is None else size)]

    def sign_with(self, keys: LedgerKeys, witnesses: Mapping[str, str | Sequence[str]]) -> None:
        """Sign heads with other keys of this party from now on, and count the cosignatures of other ones."""
        with self._commits.alone():
            self._keys, self._witnesses = keys, dict(witnesses)

    # Witnesses

    def request_for(self, witness: str) -> bytes:
        """Return this ledger's head with a proof from the last one that `witness` is known to have (C2SP tlog-witness).

        The head is the last checkpoint, or a new one when leaves came after it.
        """
        with self._commits.alone():
            note, tree = note_of(self._sign_if_behind()), self._tree()
        size, known = notes.parse_checkpoint(note.text).size, int(self._store.setting(_WITNESSED_BY + witness) or b"0")
        known = known if known <= size else 0
        return notes.make_request(known, tree.consistency_proof(known, size) if known else [], note)

    def take_answer(self, answer: bytes, witness: str, node_key: str) -> int:
        """Keep a witness's cosignature with the checkpoint that it is for and return that one's size, 0 for no cosignature.

        An answer that names a size instead says from where the next proof has to start. Raises SignatureRejected when
        it is a cosignature of none of the last checkpoints, EncodingRejected when it is neither, or more than one line:
        nothing that was not verified is kept.
        """
        if answer[:1].isdigit():
            self._store.put_setting(_WITNESSED_BY + witness, str(notes.parse_size(answer)).encode())
            return 0
        given, *more = notes.parse_signatures(answer.decode(errors="replace"))
        if more:
            raise EncodingRejected(f"what {witness} answered is more than its own line of signature")
        with self._commits.alone():
            data, note = self._cosigned_head(given, witness, node_key)
            size, record = notes.parse_checkpoint(note.text).size, note_record(notes.parse_note(note.encode()))
            self._last = record if data == self._store.last_checkpoint() else self._last
            self._store.replace_checkpoint(data, canonical.encode(record))
            self._store.put_setting(_WITNESSED_BY + witness, str(size).encode())
            if self._quorum and cosigners(note, self._witnesses) >= self._quorum and size > self._covered:
                self._covered, self._since = size, ""
        return size

    def _cosigned_head(self, given: notes.NoteSignature, witness: str, node_key: str) -> tuple[bytes, notes.Note]:
        for data, _ in zip(self._store.newest_checkpoints(), range(ANSWERS_TO), strict=False):
            record = canonical.decode_fragment(data)
            if record.get("type") != "checkpoint-note":
                break
            note = note_of(record)
            if has_cosigned(notes.Note(note.text, (given,)), witness, node_key):
                return data, note if has_cosigned(note, witness, node_key) else note.with_signatures([given])
        raise SignatureRejected(f"what {witness} answered is a cosignature of no checkpoint of this ledger")

    def check_witnessed(self, leaf_fields: Mapping[str, Any]) -> None:
        """Raise GateRefused, after a refusal leaf: W01 with an overdue quorum, R04 after a restore with a loss."""
        if self._is_held:
            check_hold(self._store, self._party, self.append, leaf_fields)
            self._is_held = False
        if not self._quorum or not self._is_overdue():
            return
        peer = str(leaf_fields.get("recipient", leaf_fields.get("peer", "")))
        step = leaf_fields.get("step", "")
        self.append({"kind": "refusal", "rule": "W01", "run": leaf_fields["run"], "peer": peer, "step": step})
        raise GateRefused(
            f"for more than {self._quorum_hours} hours {self._party} has had leaves that {self._quorum} witnesses did not "
            "cosign, and nothing leaves it (rule W01); take its head to them with `lianxin ledger cosign`",
            "W01",
        )

    def _is_overdue(self) -> bool:
        if self.size <= self._covered:
            return False
        if not self._since:
            leaf = self._store.leaf(self._covered)
            self._since = json.loads(leaf)["time"] if leaf else ""
        return bool(self._since) and self._clock.now() > later(self._since, 3600 * self._quorum_hours)

    def _found_cover(self) -> int:
        for data in self._store.newest_checkpoints():
            record = canonical.decode_fragment(data)
            if record.get("type") == "checkpoint-note" and cosigners(note_of(record), self._witnesses) >= self._quorum:
                return notes.parse_checkpoint(note_of(record).text).size
        return 0

    # Evidence

    def export(self, folder: Path, run: str | None = None, catalogue: bytes | None = None) -> Path:
        """Write this party's evidence of one run to `folder`/evidence and return that path.

        `run` may be left out when the node knows one run only; `catalogue` is by default the one that its contract names
        for this party. The ledger and registry are written whole, under a fresh checkpoint when the last one is behind.
        The folder appears complete or not at all. Raises InputFault when the run, its contract or the catalogue is
        missing, EvidenceRejected when the stored leaves are not the ones under that checkpoint.
        """
        contract = self._contract_of(run)
        catalogue = catalogue_of(self._store, self._party, contract) if catalogue is None else catalogue
        if catalogue is None:
            raise InputFault(f"{self._party} has no catalogue to export; publish or import one first")
        with self._commits.alone():
            head = notes.parse_checkpoint(note_of(self._sign_if_behind()).text)
            return write_evidence(self._store, self._party, folder, contract, catalogue, head)

    def _contract_of(self, run: str | None) -> bytes:
        rows = [row for row in self._store.runs() if run in (None, row.run) and row.contract]
        if len(rows) != 1:
            wanted = "one run" if run is None else f"run {run}"
            raise InputFault(f"{self._party} holds {len(rows)} contracts where {wanted} is asked for; name a known run")
        return rows[0].contract

    # What is written; its callers keep every other writer out

    def _leaf(self, fields: Mapping[str, Any], operator: str | None) -> bytes:
        if _OURS & set(fields) or not set(fields) >= _NEEDED:
            raise ValueError(f"a leaf's fields hold {sorted(_NEEDED)} and none of {sorted(_OURS)}")
        leaf = {
            **fields, "type": "leaf", "version": 1, "time": self._clock.now(), "party": self._party,
            "operator": self._operator if operator is None else operator, "code_version": self._code_version,
        }  # fmt: skip
        return salted(leaf, self._salt_key)

    def _submit(self, make: Callable[[], Entry]) -> list[tuple[int, str]]:
        return _answers(self._commits.submit(make))

    def _write(self, entries: Sequence[Entry]) -> None:
        first = self._frontier.size
        leaves = [leaf for entry in entries for leaf in entry.leaves]
        frontier, tiles = self._frontier.grown(map(merkle.leaf_hash, leaves))
        beside: dict[str, Any] = {"envelopes": [], "release_consents": {}, "registry": [], "uses": [], "tiles": tiles}
        beside |= {"settings": {}, "firm_keys": {}, "standing": []}
        at = first
        for entry in entries:
            beside["envelopes"] += [entry.envelope(at)] if entry.envelope else []
            for name, more in entry.beside.items():
                beside[name] = joined(beside[name], more)
            at += len(entry.leaves)
        waits = any(entry.waits for entry in entries)
        self._store.append_leaves(first, leaves, **beside, waits=waits)
        self._frontier = frontier
        self.on_disk = frontier.size if waits else self.on_disk
        for entry in entries:
            entry.first, first = first, first + len(entry.leaves)
        if any(entry.marks and entry.beside.get("uses") for entry in entries):  # an older copy would forget these uses
            self._mark()
        self._sign_when_due()

    def _sign_when_due(self) -> None:
        now = self._clock.now()
        if not self._due:
            self._due = later(now, CHECKPOINT_S)
        elif now >= self._due:
            with suppress(Exception):  # the leaves are in, whatever becomes of their head: the next one says so
                self._sign_head()

    def _sign_if_behind(self) -> dict[str, Any]:
        is_behind = not self._last or notes.parse_checkpoint(note_of(self._last).text).size != self._frontier.size
        return self._sign_head() if is_behind else dict(self._last)

    def _sign_head(self) -> dict[str, Any]:
        now = self._clock.now()
        head = notes.Checkpoint(notes.log_name(self._party), self.size, self._tree().root(), (TIME + now,))
        note = self._keys.signed(head)
        reach("checkpoint-sign/before")
        self._store.add_checkpoint(self.size, canonical.encode(note_record(note)))
        reach("checkpoint-sign/after")
        self.on_disk = self.size
        self._last, self._due = note_record(note), later(now, CHECKPOINT_S)
        self._mark()
        return dict(self._last)

    def _mark(self) -> None:
        mark_at(self.raise_mark, self.on_disk)

    def _tree(self) -> TiledTree:
        return TiledTree(self._frontier, self._store.tile)

    def _checked_last(self) -> dict[str, Any]:
        if (data := self._store.last_checkpoint()) is None:
            return {}
        try:
            record = canonical.decode_fragment(data)
            head = self._keys.head_of(record, self._party)
            agrees = head.root == self._tree().root(head.size)
        except (CryptoError, EvidenceRejected, ValueError, KeyError, TypeError, IndexError):
            agrees = False
        if not agrees:
            raise EvidenceRejected(
                f"the ledger of {self._party} disagrees with its own last signed checkpoint: leaves were lost or "
                "changed; restore the store from a copy that is not older than that checkpoint"
            )
        return record if record.get("type") == "checkpoint-note" else {}

    def _last_time(self) -> str:
        extensions = notes.parse_checkpoint(note_of(self._last).text).extensions
        return next((line.removeprefix(TIME) for line in extensions if line.startswith(TIME)), self._clock.now())


def _answers(entry: Entry) -> list[tuple[int, str]]:
    return [(entry.first + n, hashlib.sha256(leaf).hexdigest()) for n, leaf in enumerate(entry.leaves)]
