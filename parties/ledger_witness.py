"""Witnesses: parties that keep the heads of each other's ledgers, so that no party can rewrite its own later.

A log shows its head with a consistency proof from the last one that the witness cosigned (C2SP tlog-witness, `add-checkpoint`);
the witness keeps the head, then answers with its cosignature/v1, or, when the proof starts elsewhere, with the size
that it knows. Both heads of a fork are kept: together they prove it. Heads of before 0.3 are signed records of type
`checkpoint`, later ones are notes; both are kept as a line of `witnessed.jsonl`.
"""

import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from lianxin.crypto import canonical, merkle, notes, signing
from lianxin.crypto.errors import CryptoError, ProofOfInclusionRejected, SignatureRejected
from lianxin.crypto.failpoints import reach
from lianxin.crypto.notes import Checkpoint, Note
from lianxin.federation.errors import EvidenceRejected
from lianxin.parties.clock import FORMAT
from lianxin.parties.store import Store

_HEAD = {"type": str, "version": int, "party": str, "size": int, "root": str, "time": str}
_ROOT = re.compile(r"[0-9a-f]{64}")
TIME = "time "


def note_record(note: Note) -> dict[str, Any]:
    """Return the line by which a note is kept: `{"type": "checkpoint-note", "version": 1, "note": text}`."""
    return {"type": "checkpoint-note", "version": 1, "note": note.encode().decode()}


def note_of(record: Mapping[str, Any]) -> Note:
    """Return the note of a kept line. Raises EncodingRejected when it holds none."""
    return notes.parse_note(str(record.get("note", "")).encode())


def head_of(record: Mapping[str, Any], party: str, node_key: str) -> Checkpoint:
    """Return the head that `party` signed with `node_key`, as a note or as a signed record of before 0.3.

    Raises SignatureRejected for another signer, EvidenceRejected when it is no checkpoint of its ledger.
    """
    if record.get("type") == "checkpoint-note":
        return _note_head(record, party, node_key)
    head = signing.verify_signed(record, {party: node_key})
    fits = set(head) == set(_HEAD) and all(type(head[name]) is kind for name, kind in _HEAD.items())
    is_head = fits and (head["type"], head["party"]) == ("checkpoint", party)
    if not is_head or head["size"] < 0 or not _ROOT.fullmatch(head["root"]):
        raise _no_checkpoint(party)
    return Checkpoint(notes.log_name(party), head["size"], bytes.fromhex(head["root"]), (TIME + head["time"],))


def _note_head(record: Mapping[str, Any], party: str, node_key: str) -> Checkpoint:
    try:
        note = note_of(record)
        head = notes.parse_checkpoint(note.text)
    except CryptoError:
        raise _no_checkpoint(party) from None
    notes.verify(note, notes.log_name(party), node_key)
    if head.origin != notes.log_name(party):
        raise _no_checkpoint(party)
    return head


def _bare(record: Mapping[str, Any], party: str, node_key: str) -> Mapping[str, Any]:
    """Return a head that `head_of` let pass as it is kept: without the lines of others, which nobody here verified."""
    if record.get("type") != "checkpoint-note":
        return record
    return note_record(notes.signed_alone(note_of(record), notes.log_name(party), node_key))


def has_cosigned(note: Note, party: str, node_key: str) -> bool:
    """Return whether a note carries a cosignature of `party` that verifies under `node_key`."""
    try:
        notes.verify_cosignature(note, notes.log_name(party), node_key)
    except SignatureRejected:
        return False
    return True


def cosigners(note: Note, witnesses: Mapping[str, str | Sequence[str]]) -> int:
    """Return how many of `witnesses` (party to node key, or to all that it had) cosigned a note, each key counted once."""
    found = set()
    for party, keys in witnesses.items():
        known = (keys,) if isinstance(keys, str) else keys
        found |= set([key for key in known if has_cosigned(note, party, key)][:1])
    return len(found)


def _no_checkpoint(party: str) -> EvidenceRejected:
    return EvidenceRejected(f"what {party} signed is no checkpoint of its ledger (docs/records.md); ask it for one")


def seconds_of(time: str) -> int:
    """Return a time of the form `YYYY-MM-DDTHH:MM:SSZ` as seconds after 1970-01-01 (UTC)."""
    return int(datetime.strptime(time, FORMAT).replace(tzinfo=UTC).timestamp())


class Witness:
    """Remembers the heads of other parties' ledgers: the newest of each, and both heads of a fork as its proof.

    One process a store; safe to share between threads.
    """

    _lock = threading.RLock()

    def __init__(self, store: Store, party: str, signing_key: signing.SigningKey, former: Sequence[str] = ()) -> None:
        """`former` are further public keys of this party, under which it has cosigned before."""
        self._store, self._party, self._key = store, party, signing_key
        self._known = (signing_key.public_hex, *former)

    def keep(self, record: Mapping[str, Any], party: str, node_key: str) -> None:
        """Keep a checkpoint that `party` signed with `node_key`; what came between is left to the auditor.

        Raises SignatureRejected for another signer, EvidenceRejected for a head that is shorter than one already kept
        or that differs from one of its size. A fork's second head is kept too: together they prove it.
        """
        with self._lock:
            head, bare = head_of(record, party, node_key), _bare(record, party, node_key)
            self._check(bare, party, head)
            self._keep(bare, party)

    def cosign(
        self, record: Mapping[str, Any], party: str, node_key: str, proof: Sequence[bytes] = (), now: str = ""
    ) -> dict[str, Any]:
        """Keep a checkpoint that extends the last one cosigned, and return it with this party's cosignature of time `now`.

        `proof` is the RFC 9162 consistency proof from that one, empty for a first head. The head is on disk before this
        returns, with two signatures: the log's own and this one; lines of others would be believed unverified later.
        Raises as `keep`, and ProofOfInclusionRejected when the proof does not join the two.
        """
        with self._lock:
            head = head_of(record, party, node_key)
            if record.get("type") != "checkpoint-note":
                raise _no_checkpoint(party)
            bare = _bare(record, party, node_key)
            self._check(bare, party, head)
            base = self._base(party)
            if base and base.size:
                merkle.verify_consistency(base.size, head.size, base.root, head.root, proof)
            note = note_of(bare)
            own = notes.cosign(note.text, notes.log_name(self._party), self._key, seconds_of(now))
            cosigned = note_record(notes.parse_note(note.with_signatures([own]).encode()))
            self._keep(cosigned, party)
        return cosigned

    def keep_head(self, request: bytes, party: str, node_key: str, now: str) -> bytes:
        """Keep the head that a log shows, and return what it is told: a cosignature line, or where its proof has to start.

        Raises as `keep` for a head that contradicts one kept, EncodingRejected for bytes that are no request.
        """
        old, proof, note = notes.parse_request(request)
        reach("witness-answer/before")
        record = note_record(note)
        with self._lock:
            base = self._base(party)
            try:
                if base is not None and old != base.size:
                    raise ProofOfInclusionRejected("the proof starts from another head than the one cosigned last")
                cosigned = note_of(self.cosign(record, party, node_key, proof, now))
            except ProofOfInclusionRejected:
                self.keep(record, party, node_key)
                reach("witness-answer/after")
                return f"{base.size if base else 0}\n".encode()
        reach("witness-answer/after")
        return cosigned.signatures[-1].line().encode()

    def _heads(self, party: str) -> Iterator[tuple[Checkpoint, bool]]:
        """Yield the kept heads of a party, the newest and so the longest first, each with whether the next may start there.

        It may where a cosignature of this one verifies, and at a signed record of before 0.3: then a head was kept if
        it was longer.
        """
        for data in self._store.newest_witnessed(party):
            record = canonical.decode_fragment(data)
            if record.get("type") == "checkpoint-note":
                note = note_of(record)
                yield notes.parse_checkpoint(note.text), any(has_cosigned(note, self._party, key) for key in self._known)
            else:
                inner = record["record"]
                yield Checkpoint("", inner["size"], bytes.fromhex(inner["root"])), True

    def _base(self, party: str) -> Checkpoint | None:
        """Return the head that the next one must extend, None before the first."""
        return next((head for head, is_base in self._heads(party) if is_base), None)

    def _check(self, record: Mapping[str, Any], party: str, head: Checkpoint) -> None:
        """Raise EvidenceRejected for a head that is shorter than the longest kept, or another of its size: that is kept."""
        longest, _ = next(self._heads(party), (None, False))
        same_size = [one for one in (longest, self._base(party)) if one and one.size == head.size]
        if longest and head.size < longest.size:
            raise EvidenceRejected(
                f"{party} shows a ledger of {head.size} leaves after one of {longest.size}; ask it which leaves it dropped"
            )
        if any(one.root != head.root for one in same_size):
            self._keep(record, party)
            raise EvidenceRejected(
                f"{party} signed two different ledgers of {head.size} leaves; both heads are kept as evidence, hand "
                "them to the auditor"
            )

    def _keep(self, record: Mapping[str, Any], party: str) -> None:
        self._store.add_witnessed(party, canonical.encode(dict(record)))
