"""The auditor: verifies the evidence of one run offline, with code that trusts no party (boundary.md, section 8c).

Read are the folders of docs/records.md, "Run folder". Signatures are checked under the node keys of the contract that
all parties signed (and, where given, under the keys that the auditor itself knows), ledgers as RFC 9162 trees under
their signed checkpoints, and every release is decided again by `decision`, the same pure rules that the gate used. The
auditor's modules import the standard library, `crypto`, `decision` and each other: no node, store, wire or Flower code.

What cannot be seen here: a value that left without any leaf or envelope at either end, and what a value was before it
was encrypted. The checks by name are `files`, `contract`, `parties`, `receipts` and the keys of `PARTY_CHECKS`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lianxin.crypto import canonical, signing
from lianxin.crypto.errors import CryptoError
from lianxin.parties import (
    auditor_envelopes,
    auditor_ledger,
    auditor_receipts,
    auditor_registry,
    auditor_releases,
    auditor_scores,
    auditor_sums,
    auditor_times,
)
from lianxin.parties.auditor_evidence import CONTRACT, Evidence, Finding, Record, Run, fits, read_evidence

FINDINGS_PER_CHECK = 50
PARTY_CHECKS: Mapping[str, Callable[[Run, Evidence], Iterator[Finding]]] = {
    "leaves": auditor_ledger.leaf_findings,
    "checkpoints": auditor_ledger.checkpoint_findings,
    "times": auditor_times.time_findings,
    "witnessed": auditor_ledger.witnessed_findings,
    "cosignatures": auditor_ledger.cosignature_findings,
    "registry": auditor_registry.registry_findings,
    "firm-keys": auditor_registry.firm_key_findings,
    "snapshots": auditor_registry.snapshot_findings,
    "approval": auditor_ledger.approval_findings,
    "releases": auditor_releases.release_findings,
    "consents": auditor_releases.consent_findings,
    "envelopes": auditor_envelopes.envelope_findings,
    "sequence": auditor_envelopes.sequence_findings,
    "terms": auditor_envelopes.term_findings,
    "rights": auditor_envelopes.right_findings,
    "minimum-rows": auditor_envelopes.minimum_findings,
    "scores": auditor_scores.score_findings,
    "sums": auditor_sums.sum_findings,
    "privacy": auditor_sums.privacy_findings,
    "rounds": auditor_sums.round_findings,
    "end": auditor_envelopes.end_findings,
}


@dataclass(frozen=True)
class Check:
    """One thing that was checked: `subject` is the party, `detail` says what was found, `remedy` what to ask whom.

    `leaf`, `rule` and `message` are those of the `Finding`.
    """

    name: str
    subject: str
    ok: bool
    detail: str
    remedy: str = ""
    leaf: int = -1
    rule: str = ""
    message: str = ""


@dataclass(frozen=True)
class Verdict:
    """All checks of one run's evidence; `run` is empty when no contract could be read."""

    run: str
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether every check passed."""
        return all(check.ok for check in self.checks)

    @property
    def failures(self) -> tuple[Check, ...]:
        """The checks that failed."""
        return tuple(check for check in self.checks if not check.ok)

    def to_record(self) -> Record:
        """Return the verdict as a canonical record."""
        checks = [asdict(check) for check in self.checks]
        return {"type": "verdict", "version": 1, "run": self.run, "ok": self.ok, "checks": checks}


def verify_run(run_dir: Path, known_keys: Mapping[str, str] | None = None) -> Verdict:
    """Return the verdict on the evidence under `run_dir`/parties; evidence of any content gives one, never an error.

    `known_keys` are node keys (party to public hex) that the auditor holds from elsewhere; without them the verdict is
    as good as the contract's own.
    """
    folders = sorted(path for path in (run_dir / "parties").glob("*") if path.is_dir())
    evidence = {folder.name: read_evidence(folder) for folder in folders}
    checks = [check for party, one in evidence.items() for check in _file_checks(party, one)]
    contract = next((found for one in evidence.values() if (found := _signed_contract(one))), None)
    checks += _checked("contract", "run", _contract_findings(contract, evidence, known_keys), "one, signed by all")
    if contract is None:
        return Verdict("", tuple(checks))
    keys = {entry["party"]: entry["node_key"] for entry in contract["parties"]}
    run = Run(contract, canonical.record_hash(contract), keys, evidence)
    return Verdict(run.id, (*checks, *_run_checks(run)))


def _run_checks(run: Run) -> Iterator[Check]:
    yield from _checked("parties", "run", _party_findings(run), f"{len(run.node_keys)} parties")
    for party in sorted(set(run.node_keys) & set(run.evidence)):
        for name, check in PARTY_CHECKS.items():
            own = run.evidence[party]
            foreign = auditor_ledger.foreign_heads(run, own) if name == "witnessed" else 0
            passed = f"verified; {foreign} heads of parties of other runs not judged" if foreign else "verified"
            yield from _checked(name, party, check(run, own), passed)
    excused = auditor_receipts.excused_detail(run)
    passed = excused or "both ends know each message"
    yield from _checked("receipts", "run", auditor_receipts.receipt_findings(run), passed)


def _file_checks(party: str, evidence: Evidence) -> list[Check]:
    findings = (
        Finding(f"{party}: {what}", f"ask {party} to export its evidence again") for what in evidence.unreadable
    )
    return _checked("files", party, findings, f"{len(evidence.ledger_lines)} leaves read")


def _checked(name: str, subject: str, findings: Iterable[Finding], passed: str) -> list[Check]:
    found = list(findings)
    if not found:
        return [Check(name, subject, True, passed)]
    shown = [Check(name, subject, False, **asdict(one)) for one in found[:FINDINGS_PER_CHECK]]
    rest = len(found) - len(shown)
    more = [Check(name, subject, False, f"{rest} more of this check at {subject}", "mend the ones above first")]
    return shown + (more if rest else [])


def _signed_contract(evidence: Evidence) -> Record | None:
    record: Any = evidence.contract.get("record")
    if not fits(record, CONTRACT):
        return None
    keys = {entry["party"]: entry["node_key"] for entry in record["parties"]}
    try:
        signing.verify_signed(evidence.contract, keys)
    except CryptoError:
        return None
    return record if record["type"] == "run-contract" and len(keys) == len(record["parties"]) else None


def _contract_findings(
    contract: Record | None, evidence: Mapping[str, Evidence], known_keys: Mapping[str, str] | None
) -> Iterator[Finding]:
    if contract is None:
        yield Finding("no folder holds a contract that all of its parties signed", "ask the platform for the contract")
        return
    for party, one in evidence.items():
        if _signed_contract(one) != contract:
            yield Finding(
                f"{party}: contract.json differs from the others' or lacks a party's signature",
                f"ask {party} under which contract it ran",
            )
    for entry in contract["parties"]:
        known = (known_keys or {}).get(entry["party"])
        if known_keys is not None and known != entry["node_key"]:
            yield Finding(f"{entry['party']}: its node key is not the one known to the auditor", "ask its operator")


def _party_findings(run: Run) -> Iterator[Finding]:
    for party in sorted(set(run.node_keys) - set(run.evidence)):
        yield Finding(f"{party}: its folder is missing, the contract names it", f"ask {party} for its evidence")
    for party in sorted(set(run.evidence) - set(run.node_keys)):
        yield Finding(f"{party}: the contract does not name it", "ask who put this folder here")
