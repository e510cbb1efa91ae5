"""A provider's registry of consents over its store and ledger.

What comes in is checked as a whole, then written as a whole with the one leaf that commits to it, then marked in
`high-water.json`; only then is it acknowledged. A list is streamed: verified lines wait in an unnamed file, memory holds what
the registry keeps of each consent. The root over the registry grows with it.
"""

import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import replace
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import IO, Any

from lianxin.crypto import canonical
from lianxin.crypto.failpoints import reach
from lianxin.crypto.frontier import Frontier
from lianxin.crypto.snapshot import Snapshot
from lianxin.federation.errors import EvidenceRejected, InputFault
from lianxin.parties.consent_admission import Admission
from lianxin.parties.consent_high_water import HighWater, Mark, check_mark, read_mark
from lianxin.parties.consent_import import BLOCK, Checked, checked_lines, record_bytes
from lianxin.parties.consent_schema import (
    FIRM_KEY,
    check_any_record,
    check_consent_record,
    check_keys,
    check_notice,
    check_revocation_record,
)
from lianxin.parties.decision import Catalogue, ConsentRejected, Registry, verify_record
from lianxin.parties.decision_consents import essence_of, snapshot_entries
from lianxin.parties.decision_signers import check_kind, check_registered, keys_root, signers_of
from lianxin.parties.ledger import Ledger
from lianxin.parties.store import Store

SNAPSHOT_AT_ONCE = 5_000
_KEYS_NAMED = "firm-keys/named"
NOTICE_SETTINGS = "notice/"
Keys = Mapping[str, tuple[str, str]]


class ConsentRegister:
    """A provider's registry of consents and what ends them. Safe to share between threads; one process a store."""

    def __init__(
        self, store: Store, ledger: Ledger, admission: Admission | None = None, high_water: Path | None = None
    ) -> None:
        """Open the registry. `admission` judges what comes in now; without one only signatures and order count.

        Raises EvidenceRejected when the store is behind the mark in the file `high_water`, or is another one.
        """
        self.store, self._ledger = store, ledger
        self._admission, self._high_water = admission, high_water
        self._lock = threading.RLock()
        self._registry, self._root = Registry(), Frontier()
        self._published: tuple[tuple[int, str, bytes], int] | None = None
        self._mark = HighWater(high_water) if high_water is not None else None
        if high_water is not None:
            self._check_high_water(high_water)
        if self._mark is not None:
            ledger.raise_mark, ledger.raise_mark_soon = self._mark.raise_size, self._mark.raise_soon

    @property
    def epoch(self) -> int:
        """The number of records in the registry, as the last decision or import left it: every record comes in here.

        A registry that has not been read yet is read.
        """
        return self._registry.epoch or self.registry().epoch

    def register_firm_keys(
        self, keys: Mapping[str, str], kinds: Mapping[str, str] | None = None, operator: str | None = None
    ) -> None:
        """Register firms' public keys (subject key to key, hex) with one leaf that names the operator who did so.

        `kinds` says which type of subject an identifier was found to be, by subject key. Raises InputFault for another
        form, another key or another type than is registered.
        """
        try:
            for subject, key in keys.items():
                check_keys({"subject_key": subject, "key": key}, FIRM_KEY, {})
            told = {subject: check_kind(kind) for subject, kind in (kinds or {}).items()}
        except ConsentRejected:
            raise InputFault(
                "a list of firm keys maps subject keys to public keys, 64 lower-case hex digits each, with a kind of ENT, "
                "IND or NP where it is known"
            ) from None
        with self.held():
            self._add_keys({subject: (key, told.get(subject, "")) for subject, key in keys.items()}, operator)

    def name_keys(self) -> None:
        """Write the leaf that commits to all registered keys, once, for a store of a version that wrote none."""
        with self._lock:
            keys, kinds = self.store.firm_keys(), self.store.firm_kinds()
            if not keys or self.store.setting(_KEYS_NAMED) is not None:
                return
            if not any(canonical.decode(leaf)["kind"] == "firm-keys" for leaf in self.store.leaves()):
                named = {"kind": "firm-keys", "keys": len(keys), "keys_root": keys_root(keys, kinds)}
                self._ledger.append_registry_lines((), named)
            self.store.put_setting(_KEYS_NAMED, b"1")

    def keep_notice(self, notice: Mapping[str, Any]) -> str:
        """Keep a notice on which consents may be given without a request, and return its hash; raises ConsentRejected."""
        digest = check_notice(notice)
        self.store.put_setting(NOTICE_SETTINGS + digest, canonical.encode(dict(notice)))
        return digest

    def import_records(self, signed_records: Sequence[Mapping[str, Any]]) -> int:
        """Add signed records, all or none, with one ledger leaf; return the new epoch.

        Raises ConsentRejected, SignatureRejected or EncodingRejected before anything is written.
        """
        return self.import_lines([_encoded(signed) for signed in signed_records])

    def import_lines(self, lines: Iterable[bytes], executor: Executor | None = None) -> int:
        """Add signed records, each the canonical bytes of one, all or none, with one ledger leaf; return the new epoch.

        Signatures are verified in the executor's workers. Raises ConsentRejected, SignatureRejected or EncodingRejected
        before anything is written.
        """
        with self.held() as registry, tempfile.TemporaryFile() as spool:
            intake = _Intake(registry, self._root.copy(), self._admission, self._has_notice)
            for page in _pages(checked_lines(lines, executor)):
                intake.take(page, *self._keys_of(page), spool)
            if intake.count:
                self._commit(intake, spool)
            return self._registry.epoch

    def revoke(self, *revocations: Mapping[str, Any]) -> int:
        """Add signed revocations, all or none, and return the epoch from which their consents are dead.

        A consent that is revoked already stays so, and nothing is written of it.
        """
        fresh = []
        with self.held() as registry:
            for signed in revocations:
                record = check_revocation(signed, self.store.firm_keys_of(_named_subjects(signed)))
                fresh += [signed] if registry.ended.get(record["consent_id"]) != "REVOKED" else []
            reach("revoke/before")
            epoch = self.import_records(fresh)
            reach("revoke/after")
            return epoch

    def judge_by(self, catalogue: Catalogue) -> None:
        """Judge what comes in from now on by this catalogue."""
        with self._lock:
            self._admission = replace(self._admission, catalogue=catalogue) if self._admission is not None else None

    def pin(self, parties: Mapping[str, str]) -> None:
        """Take the word of these parties, by node key, from now on."""
        with self._lock:
            self._admission = replace(self._admission, parties=dict(parties)) if self._admission is not None else None

    def registry(self) -> Registry:
        """Return the present state of the registry, cached by epoch.

        Raises EvidenceRejected when the store holds fewer records than it did: a copy of yesterday was put back.
        """
        with self._lock:
            epoch = self.store.registry_epoch()
            if epoch < self._registry.epoch:
                raise EvidenceRejected("the registry is shorter than it was; restore the store that holds all of it")
            if epoch > self._registry.epoch:
                root = self._root.copy()
                self._registry, self._root = self._registry.grown(self._stored(root, epoch)), root
            return self._registry

    def snapshot(self, now: str) -> Snapshot:
        """Return the map of every consent's state at `now` and its record's digest, with its Merkle tree."""
        with self.held() as registry:
            return Snapshot(snapshot_entries(registry, now, self._uses(registry)))

    def publish_snapshot(self, now: str) -> str:
        """Have a registry leaf with the present snapshot's root, and return that root in hex."""
        return self.published(now)[0].root.hex()

    def published(self, now: str) -> tuple[Snapshot, int]:
        """Return the snapshot at `now` and the index of the leaf that has its root: a new one unless the newest has it.

        A leaf of an import has one already; one that a single record brought has it up to 5,000 consents.
        """
        with self.held() as registry:
            made = self.snapshot(now)
            if self._published is None or self._published[0] != (registry.epoch, now, made.root):
                named = {"epoch": registry.epoch, "registry_root": self._root.root().hex()}
                shown = {"snapshot_root": made.root.hex(), "snapshot_at": now}
                reach("snapshot-root/before")
                index, _ = self._ledger.append_registry_lines((), named | shown)
                reach("snapshot-root/after")
                self._published = (registry.epoch, now, made.root), index
            return made, self._published[1]

    def mark(self) -> None:
        """Raise the mark beside the store to where registry and ledger are; it never falls."""
        with self.held() as registry:
            if self._mark is not None:
                self._mark.raise_to(Mark(registry.epoch, self._root.root().hex(), self._ledger.on_disk))

    @contextmanager
    def held(self) -> Iterator[Registry]:
        """Hold the registry still: no consent or revocation comes in before the block ends."""
        with self._lock:
            yield self.registry()

    def _keys_of(self, page: list[tuple[bytes, Checked]]) -> tuple[dict[str, str], dict[str, str]]:
        """Return the registered keys, and the known types, of all whom a page of records names."""
        subjects = {signer.subject for _, checked in page for signer in checked.signers}
        subjects |= {grantor.subject for _, checked in page for grantor in checked.grantors}
        keys, kinds = self.store.firm_keys_of(subjects), self.store.firm_kinds_of(subjects)
        return keys if self._admission is None else self._admission.party_keys() | keys, kinds

    def _has_notice(self, digest: str) -> bool:
        return self.store.setting(NOTICE_SETTINGS + digest) is not None

    def _add_keys(self, keys: Keys, operator: str | None = None) -> None:
        """Register what is new of `keys` in one transaction with the leaf that commits to all keys from then on."""
        known, known_kinds = self.store.firm_keys_of(keys), self.store.firm_kinds_of(keys)
        new = {
            subject: (key, kind)
            for subject, (key, kind) in keys.items()
            if known.get(subject) != key or kind not in ("", known_kinds.get(subject))
        }
        if new:
            after = self.store.firm_keys() | {subject: key for subject, (key, _) in new.items()}
            kinds = self.store.firm_kinds() | {subject: kind for subject, (_, kind) in new.items() if kind}
            named = {"kind": "firm-keys", "keys": len(after), "keys_root": keys_root(after, kinds)}
            self._ledger.append_registry_lines((), named, new, operator)

    def _commit(self, intake: "_Intake", spool: IO[bytes]) -> None:
        registry = intake.finished()
        named: dict[str, Any] = {"epoch": registry.epoch}
        if intake.count == 1:
            named["record_hash"] = intake.digest.hex()
        else:
            named["registry_root"] = intake.root.root().hex()
        now, root = self._admission.now() if self._admission is not None else "", b""
        if now and (intake.count > 1 or len(registry.consents) <= SNAPSHOT_AT_ONCE):
            root = Snapshot(snapshot_entries(registry, now, self._uses(registry))).root
            named |= {"snapshot_root": root.hex(), "snapshot_at": now}
        self._add_keys({subject: (key, "") for subject, key in intake.party_keys.items()})
        spool.seek(0)
        reach("consent-write/before")
        reach("snapshot-root/before")
        index, _ = self._ledger.append_registry_lines((line[:-1] for line in spool), named)
        reach("snapshot-root/after")
        reach("consent-write/after")
        self._published = ((registry.epoch, now, root), index) if root else None
        self._registry, self._root = registry, intake.root
        self.mark()

    def _uses(self, registry: Registry) -> dict[str, int]:
        limited = [name for name, consent in registry.consents.items() if "max_uses" in consent.terms]
        return {name: len(uses) for name, uses in self.store.uses(limited).items()} if limited else {}

    def _stored(self, root: Frontier, epoch: int) -> Iterator[tuple[dict[str, Any], bytes]]:
        mark = None if self._high_water is None else read_mark(self._high_water)
        for line in self.store.iterate_registry(self._registry.epoch):
            if root.size == epoch:
                return
            root.append(line)
            if mark is not None and mark.epoch == root.size:
                check_mark(self._high_water or Path(), mark, epoch, root.root().hex(), self._ledger.size)
            yield essence_of(canonical.decode_fragment(line)["record"]), sha256(record_bytes(line)).digest()

    def _check_high_water(self, path: Path) -> None:
        mark = read_mark(path)
        if mark is not None:
            epoch = self.store.registry_epoch()
            there = mark.registry_root if epoch >= mark.epoch > 0 else Frontier().root().hex()
            check_mark(path, mark, epoch, there, self._ledger.size)
        self.registry()
        self.mark()


class _Intake:
    """A registry state that grows by a list, with its root; nothing of it counts before it is finished and kept."""

    def __init__(
        self, registry: Registry, root: Frontier, admission: Admission | None, has_notice: Callable[[str], bool]
    ) -> None:
        self.root, self.count, self.digest = root, 0, b""
        self.party_keys: dict[str, str] = {}
        self._registry, self._admission = registry.grown(()), admission
        self._now = admission.now() if admission else ""
        self._has_notice, self._notices = has_notice, set[str]()

    def take(
        self, page: list[tuple[bytes, Checked]], keys: Mapping[str, str], kinds: Mapping[str, str], spool: IO[bytes]
    ) -> None:
        for line, checked in page:
            check_registered(checked.signers, keys, checked.grantors, kinds)
            if self._admission is not None:
                self._admission.check(checked, self._registry, self._now)
                self._check_notice(checked.essence)
            self._registry.admit(checked.essence, checked.digest)
            self._note_party(checked)
            self.root.append(line)
            spool.write(line + b"\n")
            self.count, self.digest = self.count + 1, checked.digest

    def _check_notice(self, record: Mapping[str, Any]) -> None:
        """What a consent without a request was told is on file here, or nobody can say what it was (R06)."""
        if record["type"] != "consent" or record["version"] == 1 or record["consent_id"] in self._registry.asked:
            return
        digest = record["notice_hash"]
        if digest not in self._notices and not self._has_notice(digest):
            raise ConsentRejected(
                "a consent that nobody requested is given on a notice that is not on file here (R06); take the notice in "
                "with `lianxin consent notice`, then the consent"
            )
        self._notices.add(digest)

    def _note_party(self, checked: Checked) -> None:
        if "attested_by" in checked.essence or "attestation" in checked.essence or "requester" in checked.essence:
            self.party_keys |= {signer.subject: signer.key for signer in checked.signers}

    def finished(self) -> Registry:
        return replace(self._registry, epoch=self._registry.epoch + self.count)


def check_consent(
    signed: Mapping[str, Any], firm_keys: Mapping[str, str], kinds: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Return the consent when its schema holds and the keys registered for its grantors (`firm_keys`) signed it.

    `kinds` says which type of subject each key is registered as. Raises ConsentRejected or SignatureRejected.
    """
    check_consent_record(_record_of(signed))
    return verify_record(signed, firm_keys, kinds)


def check_revocation(signed: Mapping[str, Any], firm_keys: Mapping[str, str]) -> dict[str, Any]:
    """Return the revocation when its schema holds and the key registered for its subject signed it.

    Raises ConsentRejected or SignatureRejected.
    """
    check_revocation_record(_record_of(signed))
    return verify_record(signed, firm_keys)


def decode_signed(data: bytes) -> dict[str, Any]:
    """Return the signed record whose canonical encoding is `data`; raises EncodingRejected for any other bytes."""
    return canonical.decode_fragment(data)


def _record_of(signed: Any) -> Any:
    if not isinstance(signed, Mapping) or "record" not in signed:
        raise ConsentRejected("a signed record holds `record` and `signatures`")
    return signed["record"]


def _encoded(signed: Mapping[str, Any]) -> bytes:
    check_any_record(_record_of(signed))
    return canonical.encode(dict(signed))


def _named_subjects(signed: Mapping[str, Any]) -> set[str]:
    record = _record_of(signed)
    check_revocation_record(record)
    return {signer.subject for signer in signers_of(record)}


def _pages(checked: Iterator[tuple[bytes, Checked]]) -> Iterator[list[tuple[bytes, Checked]]]:
    while page := list(islice(checked, BLOCK)):
        yield page
