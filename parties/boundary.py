"""The gate: the one door where a party's rows leave, and the only place where a `Released` is made.

release(contract, request, firms, columns), under the registry's lock so that no withdrawal slips in between:

1. fields: `decision.decide_release` by contract and class; a refused field's column is dropped;
2. firms: `decision.decide_firm` for each distinct firm by its live consents; a refused firm's rows are dropped;
3. trace: a root over one salted commitment a firm and a root over the sorted ids of the consents used go into a
   release leaf, which is on disk before anything is returned; its hash is the release id.

A firm's commitment is HMAC(s, k), k its subject key and s derived from the release's secret salt and k, so that opening
one firm's history (`prove_firm`) opens no other's. Salt and commitments are kept beside the ledger.

A statistic leaves by `aggregate`: its fields are decided in mode AGGREGATE, and it covers at least the contract's
minimum of rows (OUT-ROWS), of bads and of goods (OUT-BADS). What may not cross at all is a `GateRefused` with its rule
and a refusal leaf. No leaf, error or summary holds an identifier, a subject key or a value.
"""

import hashlib
import hmac
import threading
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import compress
from typing import Any, NoReturn

from lianxin.crypto import canonical, merkle
from lianxin.crypto.errors import ProofOfInclusionRejected
from lianxin.crypto.randomness import Drbg, derive_seed
from lianxin.federation.errors import GateRefused, InputFault
from lianxin.federation.model import Clock, Provenance, Released
from lianxin.parties import decision
from lianxin.parties.consent import ConsentRegister, subject_key
from lianxin.parties.decision import AGGREGATE, MODES, Catalogue, Registry, ReleaseDecision, ReleaseRequest
from lianxin.parties.identifiers import subject_type_of
from lianxin.parties.ledger import Ledger

_COMMITMENTS = "release-commitments/"
_SALT_BYTES = 32
_NO_ROWS = merkle.EMPTY_ROOT.hex()


@dataclass(frozen=True)
class ReleaseSummary:
    """What one release kept back, for the party's own eyes: refused fields and numbers of firms, each by rule."""

    release_id: str
    run: str
    step: str
    round: int
    fields: tuple[str, ...]
    rows: int
    consents: int
    refused: tuple[tuple[str, str], ...]
    excluded: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class FirmProof:
    """One firm's place in a release: its salt and the path from its commitment to the leaf's `rows_root`."""

    salt: str = field(repr=False)
    index: int
    rows: int
    path: tuple[str, ...]


@dataclass(frozen=True)
class _Firms:
    """The distinct firms of a release by what was decided."""

    released: Mapping[str, str] = field(repr=False)
    consents: tuple[str, ...]
    excluded: tuple[tuple[str, int], ...]


class Boundary:
    """A party's gate. Safe to share between threads."""

    def __init__(
        self,
        party: str,
        catalogue: Catalogue,
        register: ConsentRegister,
        ledger: Ledger,
        clock: Clock,
        subject_secret: bytes,
        salt_drbg: Drbg,
    ) -> None:
        self._party, self._catalogue, self._register = party, catalogue, register
        self._ledger, self._clock = ledger, clock
        self._subject_secret, self._salt_drbg = subject_secret, salt_drbg
        self._summaries: list[ReleaseSummary] = []
        self._lock = threading.RLock()

    def release(
        self,
        contract: Mapping[str, Any],
        request: ReleaseRequest,
        firms: Sequence[str],
        columns: Mapping[str, Sequence[Any]],
        round: int = 0,
        subject_types: Sequence[str] | None = None,
    ) -> Released:
        """Return the rows and columns that may cross, after the ledger has the leaf that says so.

        `firms[i]` is the normalised identifier of row i, `columns[f][i]` its value of field f; columns that the request
        does not name are left out, and a field that the contract uses as identifier needs none: `firms` is it.
        `subject_types[i]` (ENT, IND, NP) is by default read off the identifier. `rows` of the leaf and the provenance
        count distinct firms. Raises GateRefused when no field or no firm may cross, after a refusal leaf; InputFault
        when lengths differ or a requested column is missing.
        """
        types = _types_of(firms, subject_types)
        _check_shape(contract, request, firms, columns)
        with self._lock, self._register.held() as registry:
            now = self._clock.now()
            fields = self._decide_fields(contract, request, registry, now)
            request = replace(request, fields=tuple(dict.fromkeys(request.fields)))
            decided = self._decide_firms(contract, request, fields, types, registry, now)
            if not decided.released:
                self._refuse(contract, request, decided.excluded[0][0] if decided.excluded else "OUT-ROWS")
            provenance = self._record(contract, request, round, registry, fields, decided)
        keep = [firm in decided.released for firm in firms]
        kept = {name: tuple(compress(columns[name], keep)) for name in fields.allowed if name in columns}
        return Released(provenance, tuple(compress(firms, keep)), kept)

    def aggregate(
        self,
        contract: Mapping[str, Any],
        request: ReleaseRequest,
        rows: int,
        bads: int | None,
        goods: int | None,
        fields: Sequence[str],
        step: str,
        round: int = 0,
    ) -> Provenance:
        """Return the right of a statistic of `fields` over `rows` rows to cross, after the ledger has its leaf.

        `bads` and `goods` are the numbers of each label behind a label statistic, None for any other. Raises
        GateRefused: OUT-ROWS or OUT-BADS under the contract's minimums, or the rule of the first refused field.
        """
        request = replace(request, fields=tuple(fields), step=step, mode=AGGREGATE)
        with self._lock, self._register.held() as registry:
            release = decision.decide_release(contract, self._catalogue, registry, request, self._clock.now())
            rule = release.refused[0][1] if release.refused else release.rule
            rule = rule or self._foreign_rule(request) or _output_rule(contract, rows, bads, goods)
            if rule:
                self._refuse(contract, request, rule)
            return self._write(contract, request, round, registry, release, rows, _NO_ROWS, _Firms({}, (), ()))

    def summaries(self, run: str) -> tuple[ReleaseSummary, ...]:
        """Return what each release of a run kept back, in order, since this gate was opened; the leaves hold it all."""
        return tuple(summary for summary in self._summaries if summary.run == run)

    def refusals(self, run: str) -> list[tuple[str, str]]:
        """Return the distinct (field, rule) that were refused in a run, sorted."""
        return sorted({refused for summary in self.summaries(run) for refused in summary.refused})

    def excluded(self, run: str) -> list[tuple[str, int, str, int]]:
        """Return (step, round, rule, number of firms) of every release of a run that left firms out, in order."""
        return [(s.step, s.round, rule, firms) for s in self.summaries(run) for rule, firms in s.excluded]

    def prove_firm(self, rows_root: str, firm: str) -> FirmProof | None:
        """Return the proof that a firm's row is under a release's `rows_root`, None when it was not in that release.

        Raises InputFault when this party made no release of that root.
        """
        kept = self._register.store.setting(_COMMITMENTS + rows_root)
        if kept is None:
            raise InputFault("no release of this party has that root of rows; take it from a release leaf")
        key = subject_key(self._subject_secret, firm)
        commitments = [kept[at : at + merkle.HASH_BYTES] for at in range(_SALT_BYTES, len(kept), merkle.HASH_BYTES)]
        own_salt = firm_salt(kept[:_SALT_BYTES], key)
        if (own := firm_commitment(own_salt, key)) not in commitments:
            return None
        tree = merkle.MerkleTree()
        for commitment in commitments:
            tree.append(commitment)
        index = commitments.index(own)
        path = tuple(node.hex() for node in tree.inclusion_proof(index, tree.size))
        return FirmProof(own_salt.hex(), index, tree.size, path)

    def _foreign_rule(self, request: ReleaseRequest) -> str:
        return "" if request.provider == self._party else "R09"

    def _decide_fields(
        self, contract: Mapping[str, Any], request: ReleaseRequest, registry: Registry, now: str
    ) -> ReleaseDecision:
        release = decision.decide_release(contract, self._catalogue, registry, request, now)
        rule = self._foreign_rule(request) or _mode_rule(request.mode) or release.rule
        if rule:
            self._refuse(contract, request, rule)
        return release

    def _decide_firms(
        self,
        contract: Mapping[str, Any],
        request: ReleaseRequest,
        fields: ReleaseDecision,
        types: Mapping[str, str],
        registry: Registry,
        now: str,
    ) -> _Firms:
        uses = self._uses(registry, contract.get("run", ""))
        released: dict[str, str] = {}
        consents: set[str] = set()
        excluded: Counter[str] = Counter()
        for firm, kind in types.items():
            key, needed = subject_key(self._subject_secret, firm), fields.needed_by(kind)
            decided = decision.decide_firm(key, needed, request, registry, now, self._catalogue, kind, uses)
            if decided.allow:
                released[firm] = key
                consents.update(decided.consents)
            else:
                excluded[decided.rule] += 1
        ranked = sorted(excluded.items(), key=lambda item: (-item[1], item[0]))
        return _Firms(released, tuple(sorted(consents)), tuple(ranked))

    def _uses(self, registry: Registry, run: str) -> dict[str, int]:
        """Return, for each consent with a limit, how many other runs have used it."""
        limited = {name for name, consent in registry.consents.items() if "max_uses" in consent.record}
        if not limited:
            return {}
        store = self._register.store
        lists, runs_of = store.release_consents(), defaultdict[str, set[str]](set)
        for leaf in store.leaves():
            release = hashlib.sha256(leaf).hexdigest()
            for name in limited.intersection(lists.get(release, ())):
                runs_of[name].add(canonical.decode(leaf)["run"])
        return {name: len(runs - {run}) for name, runs in runs_of.items()}

    def _record(
        self,
        contract: Mapping[str, Any],
        request: ReleaseRequest,
        round: int,
        registry: Registry,
        fields: ReleaseDecision,
        firms: _Firms,
    ) -> Provenance:
        salt = self._salt_drbg.child_seed("release", str(contract.get("run")), request.step, round, self._ledger.size)
        commitments = [firm_commitment(firm_salt(salt, key), key) for key in firms.released.values()]
        rows_root = merkle.root_of(commitments).hex()
        self._register.store.put_setting(_COMMITMENTS + rows_root, salt + b"".join(commitments))
        return self._write(contract, request, round, registry, fields, len(commitments), rows_root, firms)

    def _write(
        self,
        contract: Mapping[str, Any],
        request: ReleaseRequest,
        round: int,
        registry: Registry,
        fields: ReleaseDecision,
        rows: int,
        rows_root: str,
        firms: _Firms,
    ) -> Provenance:
        scope: dict[str, Any] = {
            "provider": request.provider,
            "recipient": request.recipient,
            "purpose": request.purpose,
            "mode": request.mode,
            "rows": rows,
            "rows_root": rows_root,
            "consent_root": merkle.root_of(consent.encode() for consent in firms.consents).hex(),
            "epoch": registry.epoch,
        }
        leaf = scope | {
            "kind": "release",
            "run": contract["run"],
            "step": request.step,
            "round": round,
            "contract_hash": canonical.record_hash(dict(contract)),
            "catalogue_hash": self._catalogue.digest,
            "fields": list(fields.allowed),
            "refused": [{"field": name, "rule": rule} for name, rule in fields.refused],
            "excluded": [{"rule": rule, "firms": count} for rule, count in firms.excluded],
            "consents": len(firms.consents),
        }
        _, release_id = self._ledger.append_release(leaf, firms.consents)
        self._summaries.append(
            ReleaseSummary(
                release_id=release_id,
                run=contract["run"],
                step=request.step,
                round=round,
                fields=fields.allowed,
                rows=rows,
                consents=len(firms.consents),
                refused=fields.refused,
                excluded=firms.excluded,
            )
        )
        return Provenance(release_id=release_id, fields=fields.allowed, **scope)

    def _refuse(self, contract: Mapping[str, Any], request: ReleaseRequest, rule: str) -> NoReturn:
        peer, run = request.recipient, str(contract.get("run", ""))
        self._ledger.append({"kind": "refusal", "run": run, "peer": peer, "rule": rule, "step": request.step})
        advice = "ask for what the contract and the firms' live consents allow"
        raise GateRefused(f"the gate lets nothing cross at step {request.step} (rule {rule}); {advice}", rule)


def firm_salt(release_salt: bytes, key: str) -> bytes:
    """Return the 32-byte salt of one subject key under a release's salt."""
    return derive_seed(release_salt, "firm", key)


def firm_commitment(salt: bytes, key: str) -> bytes:
    """Return the 32-byte commitment HMAC-SHA-256(salt, subject key)."""
    return hmac.digest(salt, key.encode(), hashlib.sha256)


def verify_firm(proof: FirmProof, key: str, rows_root: str) -> None:
    """Raise ProofOfInclusionRejected unless `proof` shows subject key `key` among the rows under `rows_root`."""
    try:
        salt, root, path = bytes.fromhex(proof.salt), bytes.fromhex(rows_root), [bytes.fromhex(n) for n in proof.path]
    except ValueError:
        raise ProofOfInclusionRejected("a firm's proof is not in hex digits") from None
    digest = merkle.leaf_hash(firm_commitment(salt, key))
    merkle.verify_inclusion(digest, proof.index, proof.rows, path, root)


def _mode_rule(mode: str) -> str:
    if mode not in MODES:
        return "R03"
    return "R22" if mode == "DESENSITISED" else ""


def _output_rule(contract: Mapping[str, Any], rows: int, bads: int | None, goods: int | None) -> str:
    if rows < contract["min_rows"]:
        return "OUT-ROWS"
    counts = ((bads, contract["min_bads"]), (goods, contract["min_goods"]))
    return "OUT-BADS" if any(count is not None and count < least for count, least in counts) else ""


def _types_of(firms: Sequence[str], subject_types: Sequence[str] | None) -> dict[str, str]:
    if subject_types is None:
        return {firm: subject_type_of(firm) for firm in firms}
    if len(subject_types) != len(firms) or not set(subject_types) <= set(decision.SUBJECT_TYPES):
        raise InputFault("a release needs one subject type a row, each of ENT, IND and NP")
    types = dict(zip(firms, subject_types, strict=True))
    if any(types[firm] != kind for firm, kind in zip(firms, subject_types, strict=True)):
        raise InputFault("two rows of one firm have different subject types; correct the table")
    return types


def _check_shape(
    contract: Mapping[str, Any], request: ReleaseRequest, firms: Sequence[str], columns: Mapping[str, Sequence[Any]]
) -> None:
    identifiers = {listed["field"] for listed in contract.get("fields", ()) if listed["use"] == "identifier"}
    for name in request.fields:
        if name not in columns and name not in identifiers:
            raise InputFault(f"field {name} is requested and the table has no column of it; bind one or ask for less")
        if name in columns and len(columns[name]) != len(firms):
            raise InputFault(f"the column of field {name} has another number of rows than the list of firms")
