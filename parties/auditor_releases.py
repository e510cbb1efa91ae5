"""What an auditor decides again: every release of a party, its fields by the contract and its rows by live consents.

`decision` is the gate's own rule book, run on the contract, the catalogue and the registry at the epoch that the leaf
names, with the leaf's time as `now`. A firm's row may leave by the newest consent that covers it; a consent that limits
its uses is counted over the other runs of the same ledger.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from lianxin.crypto import merkle
from lianxin.crypto.errors import CryptoError
from lianxin.parties import decision
from lianxin.parties.auditor_evidence import Evidence, Finding, Record, Run, fits

_CONSENT_LIST = {"release": str, "consents": [str]}


@dataclass
class _Snapshots:
    """The registry's states by epoch, built forward from one another; signatures are `registry_findings`'s part."""

    own: Evidence
    states: dict[int, decision.Registry] = field(default_factory=lambda: {0: decision.Registry()})

    def at(self, epoch: int) -> decision.Registry | None:
        """Return the state at `epoch`, None when there is no such state."""
        if epoch not in self.states:
            try:
                start = max(known for known in self.states if known <= epoch)
                records = self.own.records["registry"][start:epoch]
                state = self.states[start].extended(records, {}, verify=False)
            except (CryptoError, KeyError, TypeError, ValueError):
                return None
            if state.epoch != epoch:
                return None
            self.states[epoch] = state
        return self.states[epoch]


def release_findings(run: Run, own: Evidence) -> Iterator[Finding]:
    """Yield the releases whose terms, epoch or allowed and refused fields the rules do not give again."""
    snapshots, catalogue = _Snapshots(own), _catalogue(own)
    if catalogue is None:
        yield Finding(f"{own.party}: its catalogue cannot be read", f"ask {own.party} for the catalogue of the run")
        return
    for index, leaf in own.of_kind("release", run.id):
        reason = _release_fault(run, own, index, leaf, catalogue, snapshots.at(leaf["epoch"]))
        if reason:
            yield Finding(f"{own.party}, leaf {index}: {reason}", f"ask {own.party} by which right the fields left")


def _release_fault(
    run: Run,
    own: Evidence,
    index: int,
    leaf: Record,
    catalogue: decision.Catalogue,
    registry: decision.Registry | None,
) -> str:
    if leaf["contract_hash"] != run.contract_hash or leaf["provider"] != own.party:
        return "the release is under another contract or of another provider"
    if leaf["catalogue_hash"] != catalogue.digest:
        return "the release was decided under another catalogue than the one in evidence"
    if registry is None or leaf["epoch"] != own.epoch_before(index):
        return f"the release was decided at epoch {leaf['epoch']}, which is not the registry's epoch at that leaf"
    again = decision.decide_release(run.contract, catalogue, registry, _request(leaf), leaf["time"])
    refused = {(one["field"], one["rule"]) for one in leaf["refused"]}
    if set(again.allowed) != set(leaf["fields"]) or set(again.refused) != refused:
        odd = sorted(set(leaf["fields"]) ^ set(again.allowed)) or sorted(field for field, _ in refused)
        rules = dict(again.refused)
        return f"decided again, field {odd[0]} comes out otherwise (rule {rules.get(odd[0], 'none')})"
    return ""


def _request(leaf: Record) -> decision.ReleaseRequest:
    fields = (*leaf["fields"], *(one["field"] for one in leaf["refused"]))
    return decision.ReleaseRequest(
        leaf["provider"], leaf["recipient"], leaf["purpose"], leaf["mode"], leaf["step"], fields
    )


def _catalogue(own: Evidence) -> decision.Catalogue | None:
    try:
        return decision.Catalogue.from_csv_bytes(own.catalogue)
    except CryptoError:
        return None


def consent_findings(run: Run, own: Evidence) -> Iterator[Finding]:
    """Yield the releases whose consents were not live, do not cover them, or are not the ones committed to."""
    snapshots, catalogue = _Snapshots(own), _catalogue(own)
    lists = {one["release"]: one["consents"] for one in own.records["release_consents"] if fits(one, _CONSENT_LIST)}
    used_by: dict[str, set[str]] = defaultdict(set)
    for index, leaf in own.of_kind("release"):
        ids = lists.get(own.release_id(index))
        if leaf["run"] == run.id and catalogue is not None:
            case = _Case.of(run, leaf, snapshots.at(leaf["epoch"]) or decision.Registry(), catalogue)
            for reason in _consent_faults(case, ids, lambda one: len(used_by[one] - {run.id})):
                yield Finding(f"{own.party}, leaf {index}: {reason}", f"ask {own.party} for the firm's consent")
        for consent_id in ids or ():
            used_by[consent_id].add(leaf["run"])


@dataclass(frozen=True)
class _Case:
    """One release decided again: its leaf, the registry at its epoch, and how the fields come out."""

    leaf: Record
    registry: decision.Registry
    catalogue: decision.Catalogue
    request: decision.ReleaseRequest
    fields: decision.ReleaseDecision

    @classmethod
    def of(cls, run: Run, leaf: Record, registry: decision.Registry, catalogue: decision.Catalogue) -> "_Case":
        request = _request(leaf)
        fields = decision.decide_release(run.contract, catalogue, registry, request, leaf["time"])
        return cls(leaf, registry, catalogue, request, fields)


def _consent_faults(case: _Case, ids: list[str] | None, uses: Callable[[str], int]) -> Iterator[str]:
    if ids is None:
        yield "the list of consents behind the release is missing"
        return
    leaf = case.leaf
    root = merkle.root_of(one.encode() for one in sorted(ids)).hex()
    if root != leaf["consent_root"] or len(ids) != leaf["consents"] or len(ids) != len(set(ids)):
        yield "the list of consents is not the one that the leaf commits to"
    firms = {consent.record["subject_key"] for one in ids if (consent := case.registry.consents.get(one))}
    if case.fields.needing_consent and len(firms) < leaf["rows"]:
        yield f"{leaf['rows']} rows left by the consents of {len(firms)} firms (rule R02)"
    for consent_id in ids:
        rule = _consent_rule(case, consent_id, uses(consent_id))
        if rule:
            yield f"consent {consent_id} was not live or does not cover the release (rule {rule})"


def _consent_rule(case: _Case, consent_id: str, uses: int) -> str:
    consent = case.registry.consents.get(consent_id)
    if consent is None:
        return "R02"
    try:
        again = _decided_again(case, consent.record, {consent_id: uses})
    except (KeyError, TypeError):  # a malformed record, which the registry's own check names
        return "R37"
    if not again.allow:
        return again.rule
    return "" if again.consents in ((), (consent_id,)) else "R03"


def _decided_again(case: _Case, record: decision.Record, uses: dict[str, int]) -> decision.Decision:
    kind, leaf = record["subject_type"], case.leaf
    needed = case.fields.needed_by(kind)
    registry, catalogue = case.registry, case.catalogue
    return decision.decide_firm(
        record["subject_key"], needed, case.request, registry, leaf["time"], catalogue, kind, uses
    )
