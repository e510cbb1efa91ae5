"""The gate: the one door where a party's rows leave, and the only place where a `Released` is made.

release(contract, request, firms, columns), under the registry's lock so that no withdrawal slips in between, and at one
instant of a clock that never goes back (`boundary_clock`, T01):

1. fields: `decision.decide_release` by contract and class; a refused field's column is dropped;
2. firms: `decision.decide_firm` for each distinct firm by its live consents; a refused firm's rows are dropped;
3. values: what has expired or is disputed for too long is withheld, transforms are applied (`boundary_values`);
4. trace: a root over one salted commitment a firm and a root over the sorted ids of the consents used go into a
   release leaf, which is on disk before anything is returned, together with the uses of limited consents; its hash is
   the release id (`boundary_proofs`, `boundary_uses`).

A statistic leaves by `aggregate`: its fields are decided in mode AGGREGATE, and the output gate (`outputs`) asks for the
contract's minimums (OUT-ROWS, OUT-BADS), for a distance from earlier outputs (OUT-DIFF) and a budget (OUT-BUDGET). What
may not cross at all is a `GateRefused` with its rule and a refusal leaf. No leaf, error or summary holds an identifier,
a subject key or a value.
"""

import threading
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from itertools import compress
from typing import Any, NoReturn

from lianxin.crypto import canonical, merkle
from lianxin.crypto.randomness import Drbg
from lianxin.federation.errors import GateRefused
from lianxin.federation.model import Clock, Provenance, Released
from lianxin.parties import decision
from lianxin.parties.boundary_clock import LedgerClock, newest_time
from lianxin.parties.boundary_grades import Desensitiser
from lianxin.parties.boundary_proofs import (
    FirmProof,
    commitments_to,
    firm_commitment,
    firm_salt,
    prove,
    verify_firm,
)
from lianxin.parties.boundary_shape import check_shape, types_of
from lianxin.parties.boundary_uses import UseCount, uses_of
from lianxin.parties.boundary_values import Values, desensitised, kept_values
from lianxin.parties.catalogue_versions import earlier
from lianxin.parties.config import QuotaSection
from lianxin.parties.consent import ConsentRegister, subject_key
from lianxin.parties.decision import AGGREGATE, MODES, SPLITS, Catalogue, Registry, ReleaseDecision, ReleaseRequest
from lianxin.parties.ledger import Ledger
from lianxin.parties.ledger_commit import NO_PREFACE, Preface
from lianxin.parties.objections import Objections
from lianxin.parties.outputs import OutputGate, persons_rule, size_rule

RUNS_REMEMBERED = 64
__all__ = ["Boundary", "FirmProof", "ReleaseSummary", "firm_commitment", "firm_salt", "verify_firm"]
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
class _Firms:
    """The distinct firms of a release by what was decided: those released with their subject keys, consents, the rest."""

    released: Mapping[str, str] = field(default_factory=dict, repr=False)
    consents: tuple[str, ...] = ()
    excluded: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class _Case:
    """One decision under way: what is asked, at which instant, against which state of the registry."""

    contract: Mapping[str, Any]
    request: ReleaseRequest
    registry: Registry
    now: str
    round: int
    use: str = ""
    query: str = ""
    before: Preface = NO_PREFACE
    empty: bool = False

    @property
    def run(self) -> str:
        """The run's id, "" for a contract without one."""
        return str(self.contract.get("run", ""))

    @property
    def use_name(self) -> str:
        """What a limited consent's use is counted by."""
        return self.use or self.run


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
        limits: QuotaSection | None = None,
    ) -> None:
        self._party, self._catalogue, self._register = party, catalogue, register
        self._ledger, self._subject_secret, self._salt_drbg = ledger, subject_secret, salt_drbg
        store = register.store
        self._earlier: Mapping[str, Catalogue] = earlier(store)
        self._clock = clock if isinstance(clock, LedgerClock) else LedgerClock(clock, newest_time(store))
        self.objections = Objections(store, ledger)
        self.desensitiser: Desensitiser | None = None
        self._uses, self._outputs = UseCount(store), OutputGate(store, limits or QuotaSection(), subject_secret)
        self._summaries: OrderedDict[str, list[ReleaseSummary]] = OrderedDict()
        self._hashed: tuple[dict[str, Any], str] = {}, ""
        self._decided: dict[tuple[str, str, ReleaseRequest, str], ReleaseDecision] = {}  # the last
        self._is_alarmed, self._lock = False, threading.RLock()

    def release(
        self,
        contract: Mapping[str, Any],
        request: ReleaseRequest,
        firms: Sequence[str],
        columns: Mapping[str, Sequence[Any]],
        round: int = 0,
        subject_types: Sequence[str] | None = None,
        *,
        use: str = "",
        grade: str = "",
        query: str = "",
        dates: Mapping[str, Sequence[Any]] | None = None,
        empty: bool = False,
        before: Preface = NO_PREFACE,
    ) -> Released:
        """Return the rows and columns that may cross, after the ledger has the leaf that says so.

        `firms[i]` is the normalised identifier of row i, `columns[f][i]` its value of field f; columns that the request
        does not name are left out, and a field that the contract uses as identifier needs none: `firms` is it.
        `subject_types[i]` (ENT, IND, NP) is by default read off the identifier. `rows` of the leaf and the provenance
        count distinct firms. `use` names what a limited consent is used for, by default the run; `grade` the measured
        grade that a DESENSITISED release relies on, by default the newest of the node's policy; `query` the request
        that this release answers; `dates` are columns that periods count from and that do not leave. With `empty`, a
        release of no firm is one all the same, after the same work: whether anybody was let go is in its leaf alone.
        `before` is what goes to disk in front of it, in one transaction. Raises GateRefused when no field or no firm may
        cross, after a refusal leaf; InputFault when lengths differ or a requested column is missing.
        """
        types = types_of(firms, subject_types)
        check_shape(contract, request, firms, columns)
        with self._lock, self._register.held() as registry, self._clock.held() as now:
            case = _Case(contract, request, registry, now, round, use, query, before, empty)
            self._check_clock(case)
            case = replace(case, request=self._graded(case, grade))
            fields = self._decide_fields(case)
            case = replace(case, request=replace(case.request, fields=tuple(dict.fromkeys(request.fields))))
            decided = self._decide_firms(case, fields, types)
            if not decided.released and not empty:
                self._refuse(case, decided.excluded[0][0] if decided.excluded else "OUT-ROWS")
            values = self._values(case, fields, columns, dates or {}, firms, decided)
            provenance = self._record(case, fields, decided, values)
        rows = tuple(compress(firms, [firm in decided.released for firm in firms]))
        return Released(provenance, rows, values.columns, values.disputed, decided.consents)

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
        *,
        firms: Sequence[str] | None = None,
        readable: bool = True,
    ) -> Provenance:
        """Return the right of a statistic of `fields` over `rows` rows to cross, after the ledger has its leaf.

        `bads` and `goods` are the numbers of each label behind a label statistic, None for any other. `firms` are those
        that the statistic is about, of each row: many rows of few firms count as few. With `readable`, where the
        recipient sees it by itself, it is compared with earlier outputs. Raises GateRefused: OUT-ROWS, OUT-BADS,
        OUT-DIFF, OUT-BUDGET, R29, or the rule of the first refused field.
        """
        rows = rows if firms is None else min(rows, len(set(firms)))
        request = replace(request, fields=tuple(fields), step=step, mode=AGGREGATE)
        with self._lock, self._register.held() as registry, self._clock.held() as now:
            case = _Case(contract, request, registry, now, round)
            self._check_clock(case)
            release = decision.decide_release(contract, self.catalogue_of(contract), registry, request, now)
            rule = release.refusal or release.rule or self._foreign_rule(request)
            rule = rule or persons_rule(request.purpose, firms) or size_rule(contract, rows, bads, goods)
            seen = firms if readable else None
            rule = rule or self._outputs.admit(request.recipient, fields, seen, contract["min_rows"], now)
            if rule:
                self._refuse(case, rule)
            return self._write(case, release, rows, _NO_ROWS, _Firms(), {})

    def to_leave_out(self, recipient: str, fields: Sequence[str], firms: Sequence[str], least: int) -> frozenset[str]:
        """Return the firms without which a statistic of `fields` is not refused by OUT-DIFF; see `outputs`."""
        with self._lock:
            return self._outputs.to_leave_out(recipient, fields, firms, least)

    def summaries(self, run: str) -> tuple[ReleaseSummary, ...]:
        """Return what each release of one of the newest runs kept back, in order, since this gate was opened; the leaves
        hold it all."""
        return tuple(self._summaries.get(run, ()))

    def refusals(self, run: str) -> list[tuple[str, str]]:
        """Return the distinct (field, rule) that were refused in a run, sorted."""
        return sorted({refused for summary in self.summaries(run) for refused in summary.refused})

    def excluded(self, run: str) -> list[tuple[str, int, str, int]]:
        """Return (step, round, rule, number of firms) of every release of a run that left firms out, in order."""
        return [(s.step, s.round, rule, firms) for s in self.summaries(run) for rule, firms in s.excluded]

    def catalogue_of(self, contract: Mapping[str, Any]) -> Catalogue:
        """Return the version of the catalogue that a contract names, where it was in force here, else the present one."""
        named = contract.get("catalogues")
        return self._earlier.get(str(named.get(self._party)) if isinstance(named, Mapping) else "", self._catalogue)

    def use_catalogue(self, present: Catalogue, earlier: Mapping[str, Catalogue]) -> None:
        """Decide by `present` where a contract names none of `earlier`, the versions by digest."""
        with self._lock:
            self._catalogue, self._earlier = present, earlier

    def subject_key(self, firm: str) -> str:
        """Return the subject key of a normalised identifier at this party."""
        return subject_key(self._subject_secret, firm)

    def prove_firm(self, rows_root: str, firm: str) -> FirmProof | None:
        """Return the proof that a firm's row is under a release's `rows_root`, None when it was not in that release.

        Raises InputFault when this party made no release of that root.
        """
        return prove(self._register.store, rows_root, self.subject_key(firm))

    def _check_clock(self, case: _Case) -> None:
        """Refuse to decide while the machine's clock disagrees with the ledger (T01); the first time, say so in a leaf."""
        skew = self._clock.fault_s()
        if skew and not self._is_alarmed:
            self._ledger.append({"kind": "alarm", "run": case.run, "rule": "T01", "skew_s": skew})
        self._is_alarmed = bool(skew)
        if skew:
            self._refuse(case, "T01")

    def _foreign_rule(self, request: ReleaseRequest) -> str:
        return "" if request.provider == self._party else "R09"

    def _graded(self, case: _Case, grade: str) -> ReleaseRequest:
        """Return the request with the grade that it relies on, as it is in every other mode."""
        if case.request.mode != "DESENSITISED" or self.desensitiser is None:
            return case.request
        return replace(case.request, grade=grade or case.request.grade or self.desensitiser.newest())

    def _mode_rule(self, request: ReleaseRequest) -> str:
        if request.mode not in (*MODES, SPLITS):
            return "R03"
        if request.mode != "DESENSITISED":
            return ""
        return "" if self.desensitiser is not None and self.desensitiser.has(request.grade) else "R22"

    def _grades(self) -> dict[str, Any]:
        return {} if self.desensitiser is None else {"grades": self.desensitiser.grades}

    def _decide_fields(self, case: _Case) -> ReleaseDecision:
        request, registry, contract = case.request, case.registry, case.contract
        catalogue = self.catalogue_of(contract)
        known = (self._contract_hash(contract), catalogue.digest, request, now := case.now)
        if (release := self._decided.get(known)) is None or request.mode == "DESENSITISED":
            release = decision.decide_release(contract, catalogue, registry, request, now, **self._grades())
            self._decided = {known: release}
        rule = self._foreign_rule(request) or self._mode_rule(request) or release.rule
        if rule:
            self._refuse(case, rule)
        return release

    def _decide_firms(self, case: _Case, fields: ReleaseDecision, types: Mapping[str, str]) -> _Firms:
        request, registry = case.request, case.registry
        keys = {firm: self.subject_key(firm) for firm in types}
        scopes = (registry.by_scope.get((key, request.recipient, request.purpose), ()) for key in keys.values())
        ids = (one.id for scope in scopes for one in scope)
        uses = self._uses.others(registry, ids, case.use_name, len(types) if case.empty else 0)
        released: dict[str, str] = {}
        consents: set[str] = set()
        excluded: Counter[str] = Counter()
        terms: dict[str, Any] = {"scores": fields.scores, **self._grades()}
        asked = (request, registry, case.now, self.catalogue_of(case.contract))
        judges = {k: decision.Judge(fields.needed_by(k), *asked, k, **terms) for k in set(types.values())}
        for firm, kind in types.items():
            judge = judges[kind]
            decided = judge.decide_firm(keys[firm], uses)
            if decided.allow:
                released[firm] = keys[firm]
                consents.update(decided.consents)
            else:
                excluded[decided.rule] += 1
        ranked = sorted(excluded.items(), key=lambda item: (-item[1], item[0]))
        return _Firms(released, tuple(sorted(consents)), tuple(ranked))

    def _values(
        self,
        case: _Case,
        fields: ReleaseDecision,
        columns: Mapping[str, Sequence[Any]],
        dates: Mapping[str, Sequence[Any]],
        firms: Sequence[str],
        decided: _Firms,
    ) -> Values:
        disputes, catalogue = self.objections.disputed(), self.catalogue_of(case.contract)
        mode, names = case.request.mode, fields.allowed
        values = kept_values(
            names, columns, dates, firms, decided.released, catalogue, disputes, case.now, decision.is_shown(mode)
        )
        by = self.desensitiser if mode == "DESENSITISED" else None
        return desensitised(values, by, case.run, case.request.recipient)

    def _record(self, case: _Case, fields: ReleaseDecision, firms: _Firms, values: Values) -> Provenance:
        place = ("release", str(case.contract.get("run")), case.request.step, case.round, self._ledger.size)
        salt = self._salt_drbg.child_seed(*place)
        root, kept = commitments_to(salt, firms.released.values())
        return self._write(case, fields, len(firms.released), root, firms, values.leaf_keys(), kept)

    def _write(
        self, case: _Case, fields: ReleaseDecision, rows: int, rows_root: str, firms: _Firms, more: Mapping[str, Any],
        kept: Mapping[str, bytes] | None = None,
    ) -> Provenance:  # fmt: skip
        request, contract = case.request, case.contract
        scope: dict[str, Any] = {
            "provider": request.provider,
            "recipient": request.recipient,
            "purpose": request.purpose,
            "mode": request.mode,
            "rows": rows,
            "rows_root": rows_root,
            "consent_root": merkle.root_of_all([consent.encode() for consent in firms.consents]).hex(),
            "epoch": case.registry.epoch,
        }
        table = "" if self.desensitiser is None else self.desensitiser.table_of(request.grade)
        named = {"use": case.use, "query": case.query, "grade": request.grade, "table_hash": table}
        leaf = scope | {
            "kind": "release",
            "run": contract["run"],
            "step": request.step,
            "round": case.round,
            "contract_hash": self._contract_hash(contract),
            "catalogue_hash": self.catalogue_of(contract).digest,
            "fields": list(fields.allowed),
            "refused": [{"field": name, "rule": rule} for name, rule in fields.refused],
            "excluded": [{"rule": rule, "firms": count} for rule, count in firms.excluded],
            "consents": len(firms.consents),
            **{name: value for name, value in named.items() if value},
            **more,
        }
        asked = len(firms.released) + sum(count for _, count in firms.excluded)
        uses = uses_of(case.registry, firms.consents, case.use_name, asked if case.empty else 0)
        _, release_id = self._ledger.append_release(leaf, firms.consents, uses, kept, case.before)
        if not case.query:  # answers to queries go on for as long as their agreement
            counts: dict[str, Any] = {"rows": rows, "consents": len(firms.consents), "excluded": firms.excluded}
            place: dict[str, Any] = {"run": contract["run"], "step": request.step, "round": case.round}
            summary = ReleaseSummary(release_id, fields=fields.allowed, refused=fields.refused, **place, **counts)
            self._summaries.setdefault(str(contract["run"]), []).append(summary)
            if len(self._summaries) > RUNS_REMEMBERED:
                self._summaries.popitem(last=False)
        return Provenance(release_id=release_id, fields=fields.allowed, round=case.round, **scope)

    def _contract_hash(self, contract: Mapping[str, Any]) -> str:
        """Return a contract's hash, made anew unless the contract is, entry by entry, the one of the release before."""
        if self._hashed[0] != contract:
            known = deepcopy(dict(contract))
            self._hashed = known, canonical.record_hash(known)
        return self._hashed[1]

    def _refuse(self, case: _Case, rule: str) -> NoReturn:
        step, peer = case.request.step, case.request.recipient
        self._ledger.append({"kind": "refusal", "run": case.run, "peer": peer, "rule": rule, "step": step})
        advice = _ADVICE.get(rule, "ask for what the contract and the firms' live consents allow")
        raise GateRefused(f"the gate lets nothing cross at step {step} (rule {rule}); {advice}", rule)


_ADVICE = {
    "T01": "set this machine's clock right, then start the node again",
    "OUT-DIFF": "it differs from an earlier output by too few firms; leave a larger group of firms out",
    "OUT-BUDGET": "the recipient has had as many outputs as [quota] allows; wait, or raise the limit",
}
