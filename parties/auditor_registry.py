"""What an auditor checks of a registry: who signed each record, with which key, what the ledger commits to, its snapshots.

`History` is the registry along one ledger: the state that a leaf was written at, and how often each limited consent had
been used by then. It goes forward only and keeps one state, since epochs do not fall along a ledger.
"""

import hashlib
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from heapq import merge
from operator import itemgetter

from lianxin.crypto import canonical, merkle, snapshot
from lianxin.crypto.errors import CryptoError
from lianxin.parties import decision, decision_consents
from lianxin.parties.auditor_columns import checker
from lianxin.parties.auditor_evidence import Evidence, Finding, Record, Run, fits, leaf_finding
from lianxin.parties.auditor_lines import Places, Records
from lianxin.parties.decision_consents import essence_of, snapshot_value
from lianxin.parties.decision_signers import grantors_of, keys_root, signers_of

_FIRM_KEY = {"subject_key": str, "key": str}
_is_consent_list = checker({"release": str, "consents": [str]})
_WITHOUT_KEY_LEAVES = ("lianxin 0.1.", "lianxin 0.2.")
_KEPT = 256
_UNFIT = (CryptoError, KeyError, TypeError, ValueError, AttributeError)


def use_of(leaf: Record) -> str:
    """Return the use that a limited consent is counted by: the one that the leaf names, else its run."""
    return text if isinstance(text := leaf.get("use"), str) and text else leaf["run"]


class History:
    """The registry and the uses of its limited consents as one party's leaves have them, walked forward once."""

    def __init__(self, own: Evidence) -> None:
        self._own, self._state, self._epoch, self._is_broken = own, decision.Registry(), 0, False
        self._used: dict[str, set[str]] = defaultdict(set)
        self._lost: dict[str, int] = {}
        self._limits: dict[tuple[bytes, int], tuple[str, ...]] = {}
        self._times: list[str] = []
        self._lists = Places()
        for at in range(len(own.records["release_consents"])):
            release = _release_of(own.records["release_consents"], at)
            if release is not None:
                self._lists.add(release, at)

    def at(self, epoch: int) -> decision.Registry | None:
        """Return the state at `epoch`, or at the latest asked for; None where the records do not make one.

        The state is good until the next call. Signatures are `registry_findings`'s part.
        """
        if self._is_broken or epoch > len(self._own.records["registry"]):
            return None
        if epoch <= self._state.epoch == self._epoch:
            return self._state
        for place in range(self._epoch, epoch):
            signed = self._own.records["registry"][place]
            try:
                record = signed["record"]
                self._state.admit(essence_of(record), bytes.fromhex(canonical.record_hash(record)))
                self._note_times(record)
            except _UNFIT:
                self._is_broken = True
                return None
            self._epoch += 1
        self._state = replace(self._state, epoch=self._epoch)
        return self._state

    def _note_times(self, record: Record) -> None:
        for name in ("not_before", "expires_at"):
            time = record.get(name)
            place = bisect_left(self._times, time) if isinstance(time, str) else -1
            if place >= 0 and self._times[place : place + 1] != [time]:
                self._times.insert(place, str(time))

    def era(self, now: str) -> tuple[int, int]:
        """Return what the state of every consent without a limit depends on: its records, and which of their times are past."""
        return self._epoch, bisect_right(self._times, now)

    def list_of(self, index: int) -> int | None:
        """Return the line of the list of consents behind the release at this leaf, None when it is missing."""
        return self.first_list(_name(self._own.release_id(index)))

    def first_list(self, release: bytes) -> int | None:
        """Return the line of the first list of consents of a release, named by its id; None where there is none."""
        return self._lists.get(release)

    def lists(self) -> Iterator[tuple[int, bytes | None]]:
        """Yield each line of the lists of consents with the id of its release, None where it is no list."""
        records = self._own.records["release_consents"]
        return ((at, _release_of(records, at)) for at in range(len(records)))

    def consents_of(self, index: int) -> list[str] | None:
        """Return the ids of the consents behind the release at this leaf, None when their list is missing."""
        at = self.list_of(index)
        found = {} if at is None else self._own.records["release_consents"][at]
        return found["consents"] if _is_consent_list(found) else None

    def digest_of(self, index: int) -> bytes:
        """Return the hash of the list behind the release at this leaf, without the release's id; b"" when it is missing."""
        at, records = self.list_of(index), self._own.records["release_consents"]
        if at is None:
            return b""
        line = records.line(at) if isinstance(records, Records) else canonical.encode(records[at])
        return hashlib.sha256(line[:-78] if _is_plain(line) else line).digest()

    def note_uses(self, index: int, leaf: Record) -> None:
        """Count what the release at this leaf used; the leaves before it are counted already."""
        for name in self._limited_of(index):
            self._used[name].add(use_of(leaf))

    def note_restore(self, leaf: Record) -> None:
        """Count every use of the consents with a limit as used where the leaf says that a store was restored with a loss."""
        if leaf.get("rule") and type(leaf.get("epoch")) is int and (registry := self.at(leaf["epoch"])) is not None:
            most = ((name, consent.terms.get("max_uses")) for name, consent in registry.consents.items())
            self._lost.update((name, count) for name, count in most if type(count) is int)

    def _limited_of(self, index: int) -> tuple[str, ...]:
        """Return which of the consents behind a release limit their uses, or are unknown."""
        key = (self.digest_of(index), self._epoch)
        if key not in self._limits:
            if len(self._limits) >= _KEPT:
                self._limits.clear()
            known = ((name, self._state.consents.get(name)) for name in self.consents_of(index) or ())
            self._limits[key] = tuple(name for name, consent in known if consent is None or _is_limited(consent))
        return self._limits[key]

    def is_same_era(self, one: str, other: str) -> bool:
        """Return whether no consent's time is past at one of these times alone."""
        return bisect_right(self._times, one) == bisect_right(self._times, other)

    def is_limited(self, scope: decision_consents.Scope) -> bool:
        """Return whether some consent of a scope limits its uses."""
        return any(map(_is_limited, self._state.by_scope.get(scope, ())))

    def uses(self, consents: Iterable[str], but: Record | None = None) -> dict[str, int]:
        """Return by how many uses each limited one of these consents was used, leaving out that of the leaf `but`."""
        own = set() if but is None else {use_of(but)}
        return {
            name: len(self._used.get(name, set()) - own) + self._lost.get(name, 0)
            for name in consents
            if name in self._used or name in self._lost
        }


def _release_of(records: Sequence[Record], at: int) -> bytes | None:
    """Return the release that a list of consents is of, without decoding the list where it can be seen; None for no list."""
    line = records.line(at) if isinstance(records, Records) else b""
    if _is_plain(line):
        return line[-66:-2]
    return _name(records[at]["release"]) if _is_consent_list(records[at]) else None


def _is_plain(line: bytes) -> bool:
    """Return whether a canonical line ends in a release's id and starts with its consents."""
    return line[-78:-66] == b',"release":"' and line[-2:] == b'"}' and line.startswith(b'{"consents":[')


def _name(text: str) -> bytes:
    return text.encode(errors="surrogatepass")


def _is_limited(consent: decision.Consent) -> bool:
    return "max_uses" in consent.terms or "frequency" in consent.terms


def registry_findings(run: Run, own: Evidence) -> Iterator[Finding]:
    """Yield where consents and revocations are not the ones that the ledger commits to, or not their firm's own."""
    records, tree, covered = own.records["registry"], _tree(own.records["registry"]), set()
    root_until = newest = 0
    for index, leaf in own.of_kind("registry"):
        epoch = leaf["epoch"]
        if epoch < newest:
            what = f"epoch {epoch} comes after epoch {newest}; a registry only grows"
            yield leaf_finding(own, index, what, "which records it took back")
        elif not epoch <= len(records) or not _is_named(leaf, records, tree):
            what = f"the registry up to epoch {epoch} is not what the leaf commits to"
            yield leaf_finding(own, index, what, "for its consents and revocations in the order it logged them")
        covered.add(epoch)
        newest = max(newest, epoch)
        root_until = max(root_until, epoch if "registry_root" in leaf else 0)
    bare = next((epoch for epoch in range(root_until + 1, len(records) + 1) if epoch not in covered), 0)
    if bare:
        yield Finding(f"{own.party}, epoch {bare}: no leaf commits to this record", f"ask {own.party} whence it is")
    yield from _signature_findings(own)


def _tree(records: Sequence[Record]) -> merkle.MerkleTree:
    tree = merkle.MerkleTree()
    for at, record in enumerate(records):
        line = records.line(at) if isinstance(records, Records) else b""
        tree.append(line or canonical.encode(record))
    return tree


def _is_named(leaf: Record, records: Sequence[Record], tree: merkle.MerkleTree) -> bool:
    epoch = leaf["epoch"]
    if "registry_root" in leaf:
        return bool(leaf["registry_root"] == tree.root(epoch).hex())
    record = records[epoch - 1].get("record") if epoch else None
    return isinstance(record, dict) and leaf.get("record_hash") == canonical.record_hash(record)


def _signature_findings(own: Evidence) -> Iterator[Finding]:
    keys = {one["subject_key"]: one["key"] for one in own.records["firm_keys"] if fits(one, _FIRM_KEY)}
    kinds = {
        one["subject_key"]: one["kind"] for one in own.records["firm_keys"] if fits(one, _FIRM_KEY | {"kind": str})
    }
    for epoch, signed in enumerate(own.records["registry"], 1):
        try:
            decision.verify_record(signed, keys, kinds)
        except (CryptoError, KeyError, TypeError):
            yield Finding(
                f"{own.party}, epoch {epoch}: malformed, or not signed by the firm's registered key (rule R37)",
                f"ask {own.party} for the firm's own signature",
                rule="R37",
            )
    try:
        decision.Registry().extended(own.records["registry"], {}, verify=False)
    except CryptoError:
        yield Finding(f"{own.party}: its records do not make one registry", f"ask {own.party} for the missing consents")


def _firm_keys(own: Evidence) -> tuple[dict[str, str], dict[str, str]]:
    """Return the registered keys, and what kind of subject each is known to be of, by subject key."""
    lines = [one for one in own.records["firm_keys"] if fits(one, _FIRM_KEY)]
    kinds = {one["subject_key"]: one["kind"] for one in lines if isinstance(one.get("kind"), str)}
    return {one["subject_key"]: one["key"] for one in lines}, kinds


def firm_key_findings(run: Run, own: Evidence) -> Iterator[Finding]:
    """Yield where the keys that make a consent count are not those that leaves commit to, from contracts of version 3 on.

    The last leaf's root is that over all keys in evidence. Roots before it cannot be built again, since nothing says
    which keys came when; of them the number counts: as many subjects as have signed by then had a key.
    """
    (keys, kinds), leaves = _firm_keys(own), list(own.of_kind("firm-keys"))
    if run.version < 3 or not (keys or leaves):
        return
    last = leaves[-1][1] if leaves else {}
    if (last.get("keys"), last.get("keys_root")) != (len(keys), keys_root(keys, kinds)):
        yield Finding(
            f"{own.party}: the {len(keys)} registered keys in evidence are not those that its last leaf of keys commits to",
            f"ask {own.party} who registered which key, and when",
        )
    yield from _unregistered(own)


def _unregistered(own: Evidence) -> Iterator[Finding]:
    """Yield the first leaf by which more subjects have signed than had a key; what wrote it must have known such leaves."""
    named, read, registered = set[str](), 0, 0
    for index, leaf in merge(own.of_kind("firm-keys"), own.of_kind("registry"), key=itemgetter(0)):
        if leaf["kind"] == "firm-keys":
            registered = leaf["keys"]
            continue
        for signed in own.records["registry"][read : leaf["epoch"]]:
            named |= _subjects(signed)
        read = max(read, leaf["epoch"])
        if len(named) > registered and not leaf["code_version"].startswith(_WITHOUT_KEY_LEAVES):
            what = f"{len(named)} subjects have signed, and {registered} keys were registered before"
            yield leaf_finding(own, index, f"{what} (rule R37)", "who registered the others", "R37")
            return


def _subjects(signed: Record) -> set[str]:
    try:
        signers, grantors = signers_of(signed["record"]), grantors_of(signed["record"])
        return {one.subject for one in signers} | {one.subject for one in grantors}
    except (CryptoError, KeyError, TypeError):
        return set()  # malformed, which the records' own check names


def snapshot_findings(run: Run, own: Evidence) -> Iterator[Finding]:
    """Yield the leaves whose snapshot root is not that of the registry at their epoch, with the uses counted by then."""
    history = History(own)
    snapshots = _Snapshots(own, history)
    kinds = map(own.of_kind, ("registry", "release", "restore"))
    for index, leaf in merge(*kinds, key=itemgetter(0)):
        if leaf["kind"] == "restore":
            history.note_restore(leaf)
        elif leaf["kind"] == "release":
            history.at(own.epoch_before(index))
            history.note_uses(index, leaf)
        elif (
            "snapshot_root" in leaf
            and snapshots.root_at(leaf["epoch"], leaf.get("snapshot_at")) != leaf["snapshot_root"]
        ):
            what = f"its snapshot is not the state of the registry at epoch {leaf['epoch']}"
            yield leaf_finding(own, index, what, "which consents it showed as live")


class _Snapshots:
    """The snapshots along one ledger. From one to the next few consents change: those that a record names, those with a
    limit, and where a time has passed all of them."""

    def __init__(self, own: Evidence, history: History) -> None:
        self._records, self._history = own.records["registry"], history
        self._forget()

    def _forget(self) -> None:
        self._map, self._epoch, self._now, self._limited = snapshot.Snapshot(()), 0, "", set[str]()

    def root_at(self, epoch: int, now: object) -> str:
        """Return the root of the consents' states at an epoch and time, hex; "" where there is none."""
        registry = self._history.at(epoch)
        if registry is None or registry.epoch != epoch or not isinstance(now, str):
            return ""
        try:
            self._map.put(self._changed(registry, now))
        except _UNFIT:
            self._forget()
            return ""
        return self._map.root.hex()

    def _changed(self, registry: decision.Registry, now: str) -> dict[str, bytes]:
        """Return the entries that may differ from those of the last call."""
        named = self._named_until(registry)
        is_same = self._history.is_same_era(self._now, now)
        self._limited.update(name for name in named if _is_limited(registry.consents[name]))
        self._epoch, self._now = registry.epoch, now
        names = named | self._limited if is_same else registry.consents.keys()
        uses = self._history.uses(self._limited)
        return {
            name: snapshot_value(registry.state_of(name, now, uses.get(name, 0)), registry.consents[name].digest)
            for name in names
        }

    def _named_until(self, registry: decision.Registry) -> set[str]:
        found = set[str]()
        for place in range(self._epoch, registry.epoch):
            record = self._records[place]["record"]
            found.update(str(record[name]) for name in ("consent_id", "supersedes") if name in record)
        return found & registry.consents.keys()
