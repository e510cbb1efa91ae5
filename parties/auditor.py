"""The auditor: verifies the evidence of one run offline, with code that trusts no party (boundary.md, section 8c).

Read are the folders of docs/records.md, "Run folder". Signatures are checked under the node keys of the contract that
all parties signed (and, where given, under the keys that the auditor itself knows), ledgers as RFC 9162 trees under
their signed checkpoints, and every release is decided again by `decision`, the same pure rules that the gate used. The
auditor's modules import the standard library, `crypto`, `decision` and each other: no node, store, wire or Flower code.

What cannot be seen here: a value that left without any leaf or envelope at either end, and what a value was before it
was encrypted. The checks by name are `packs`, `files`, `contract`, `parts`, `parties`, `receipts` and the keys of
`PARTY_CHECKS`. Files stay on disk; large evidence is read by two processes, in memory that does not grow with a leaf's size.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lianxin.crypto import canonical, signing
from lianxin.crypto.errors import CryptoError
from lianxin.parties import (
    auditor_commitments,
    auditor_envelopes,
    auditor_ledger,
    auditor_limits,
    auditor_pack,
    auditor_plan,
    auditor_policy,
    auditor_quotas,
    auditor_receipts,
    auditor_registry,
    auditor_releases,
    auditor_retention,
    auditor_scores,
    auditor_sums,
    auditor_times,
    auditor_workers,
)
from lianxin.parties.auditor_evidence import CONTRACT, NOBODY, Evidence, Finding, Record, Run, fits, read_evidence
from lianxin.parties.auditor_verdict import FINDINGS_PER_CHECK, OF_THE_RUN, Check, Verdict, checked

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
    "plan": auditor_plan.plan_findings,
    "policy": auditor_policy.policy_findings,
    "limits": auditor_limits.limit_findings,
    "quotas": auditor_quotas.quota_findings,
    "retention": auditor_retention.retention_findings,
    "commitments": auditor_commitments.commitment_findings,
}


WITNESS_CHECKS = ("leaves", "checkpoints", "witnessed", "cosignatures")
_SPLIT = {"envelopes": auditor_envelopes.envelope_findings}
_SPLIT_AT = 20_000
_HEAVY = ("receipts", "consents", "envelopes")
Say = Callable[[str], None]


def verify_run(
    run_dir: Path, known_keys: Mapping[str, str] | None = None, workers: int | None = None, say: Say | None = None
) -> Verdict:
    """Return the verdict on the evidence under `run_dir`/parties; evidence of any content gives one, never an error.

    `known_keys` are node keys (party to public hex) that the auditor holds from elsewhere; without them the verdict is
    as good as the contract's own. `workers` are processes beside this one, by default two for much evidence; `say` is
    told of progress.
    """
    folders = sorted(path for path in (run_dir / "parties").glob("*") if path.is_dir())
    return _verify({folder.name: folder for folder in folders}, known_keys, workers, say or _silent)


def verify_packs(
    paths: Sequence[Path], known_keys: Mapping[str, str] | None = None, workers: int | None = None,
    say: Say | None = None, scratch: Path | None = None,
) -> Verdict:  # fmt: skip
    """Return the verdict on evidence packs and run folders of one run, taken together: each party against the others.

    What was given must hold; of parties of whom nothing was given `Verdict.missing` tells. A party outside the contract
    counts as a witness when `known_keys` has its key. Packs are unpacked under `scratch` (by default the system's folder
    for temporary files) and removed again.
    """
    with tempfile.TemporaryDirectory(prefix="lianxin-audit-", dir=scratch) as made:
        folders: dict[str, Path] = {}
        found = _gathered(paths, Path(made), folders, say or _silent)
        if found:
            return Verdict("", tuple(found))
        return _verify(folders, known_keys, workers, say or _silent, one_sided=True)


def _silent(_text: str) -> None:
    pass


def _gathered(paths: Sequence[Path], scratch: Path, folders: dict[str, Path], say: Say) -> list[Check]:
    """Put each party's folder into `folders`; return what is wrong with the packs, nothing where they can be judged."""
    runs: dict[str, str] = {}
    try:
        for number, path in enumerate(paths):
            if path.is_dir():
                here = path
            else:
                say(f"unpacking {path.name}")
                here = scratch / str(number)
                auditor_pack.unpack(path, here)
                runs[auditor_pack.manifest_of(path).run] = path.name
            for folder in sorted(one for one in (here / "parties").glob("*") if one.is_dir()):
                _take(folder, folders)
    except auditor_pack.PackFault as fault:
        return [Check("packs", path.name, False, str(fault), "ask for the pack again")]
    if len(runs) > 1:
        what = f"the packs are of several runs: {', '.join(sorted(runs))}"
        return [Check("packs", OF_THE_RUN, False, what, "give packs of one run")]
    return []


def _take(folder: Path, folders: dict[str, Path]) -> None:
    """Take a party's folder; of two of one party the later one, whose ledger goes on where the other's ends."""
    other = folders.setdefault(folder.name, folder)
    if other == folder:
        return
    ledgers = [one / "evidence" / "ledger.jsonl" for one in (other, folder)]
    short, long = sorted(ledgers, key=lambda path: path.stat().st_size if path.is_file() else 0)
    if not _is_start(short, long):
        raise auditor_pack.PackFault(
            f"part {folder.name}: two exports of it were given, and one's ledger is not the beginning of the other's; give "
            f"them one by one, and ask {folder.name} why it has two ledgers", folder.name, "ledger.jsonl",
        )  # fmt: skip
    folders[folder.name] = long.parent.parent


def _is_start(short: Path, long: Path) -> bool:
    try:
        with short.open("rb") as one, long.open("rb") as other:
            while block := one.read(2**20):
                if other.read(len(block)) != block:
                    return False
    except OSError:
        return False
    return True


def _verify(
    folders: Mapping[str, Path],
    known_keys: Mapping[str, str] | None,
    workers: int | None,
    say: Say,
    one_sided: bool = False,
) -> Verdict:
    count = auditor_workers.workers_for(_bytes_of(folders), workers)
    evidence = {}
    with auditor_workers.pool_of(count) as pool:
        for party, folder in folders.items():
            say(f"reading {party}")
            evidence[party] = read_evidence(folder, auditor_workers.spread_over(pool))
    checks = [check for party, one in evidence.items() for check in _file_checks(party, one)]
    contract = next((found for one in evidence.values() if (found := _signed_contract(one))), None)
    findings = _contract_findings(contract, evidence, known_keys)
    checks += checked("contract", OF_THE_RUN, findings, "one, signed by all")
    if contract is None:
        return Verdict("", tuple(checks))
    keys = {entry["party"]: entry["node_key"] for entry in contract["parties"]}
    run = Run(contract, canonical.record_hash(contract), keys, evidence)
    witnesses = {party: key for party, key in (known_keys or {}).items() if party in evidence and party not in keys}
    missing = tuple(sorted(set(keys) - set(evidence))) if one_sided else ()
    checks += checked("parts", OF_THE_RUN, _part_findings(folders, {**keys, **witnesses}), "signed by their parties")
    checks += checked("parties", OF_THE_RUN, _party_findings(run, witnesses, missing), f"{len(keys)} parties")
    return Verdict(run.id, (*checks, *_run_checks(run, witnesses, count, say)), missing)


def _bytes_of(folders: Mapping[str, Path]) -> int:
    return sum(
        file.stat().st_size for one in folders.values() for file in (one / "evidence").glob("*") if file.is_file()
    )


@dataclass(frozen=True)
class _Task:
    """One check of one party (or of the run), or one of the equal parts that it is done in."""

    name: str
    subject: str
    part: int = 0
    parts: int = 1


def _run_checks(run: Run, witnesses: Mapping[str, str], workers: int, say: Say) -> Iterator[Check]:
    tasks = list(_tasks(run, witnesses))
    with auditor_workers.pool_of(workers, _begin, run, witnesses) as pool:
        if pool is None:
            results: Iterator[list[Check]] = (_check(run, witnesses, task) for task in tasks)
        else:
            heavy = [place for name in _HEAVY for place, task in enumerate(tasks) if task.name == name]
            results = auditor_workers.in_order(pool, _work, tasks, heavy)
        failed, parts = False, 0
        for place, found in enumerate(results):
            task, parts = tasks[place], parts + 1
            say(f"{task.name} of {task.subject}, {place + 1} of {len(tasks)}")
            failed = failed or not found[0].ok
            if parts == task.parts:
                yield from found if not found[0].ok or not failed or parts == 1 else ()
                failed, parts = False, 0
            elif not found[0].ok:
                yield from found


def _tasks(run: Run, witnesses: Mapping[str, str]) -> Iterator[_Task]:
    for party in sorted(set(run.node_keys) & set(run.evidence)):
        for name in PARTY_CHECKS:
            parts = 1 + len(run.evidence[party].records["envelopes"]) // _SPLIT_AT if name in _SPLIT else 1
            yield from (_Task(name, party, part, parts) for part in range(parts))
    yield from (_Task(name, party) for party in sorted(witnesses) for name in WITNESS_CHECKS)
    yield _Task("receipts", OF_THE_RUN)


_judged: list[tuple[Run, Mapping[str, str]]] = []  # what a worker judges, once it has begun


def _begin(run: Run, witnesses: Mapping[str, str]) -> None:
    _judged[:] = [(run, witnesses)]


def _work(task: _Task) -> list[Check]:
    return _check(*_judged[0], task)


def _check(run: Run, witnesses: Mapping[str, str], task: _Task) -> list[Check]:
    if task.name == "receipts":
        receipts = auditor_receipts.Receipts(run)
        passed = receipts.excused_detail() or "both ends know each message"
        return checked("receipts", OF_THE_RUN, receipts.findings(), passed)
    if task.subject in witnesses:
        run = replace(run, node_keys={**run.node_keys, **witnesses})
    own = run.evidence[task.subject]
    foreign = auditor_ledger.foreign_heads(run, own) if task.name == "witnessed" else 0
    passed = f"verified; {foreign} heads of parties of other runs not judged" if foreign else "verified"
    if task.parts > 1:
        return checked(task.name, task.subject, _SPLIT[task.name](run, own, task.part, task.parts), passed)
    return checked(task.name, task.subject, PARTY_CHECKS[task.name](run, own), passed)


def _file_checks(party: str, evidence: Evidence) -> list[Check]:
    findings = (
        Finding(f"{party}: {what}", f"ask {party} to export its evidence again") for what in evidence.unreadable
    )
    return checked("files", party, findings, f"{len(evidence.ledger_lines)} leaves read")


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
    named = {entry["party"] for entry in contract["parties"]}
    for party, one in evidence.items():
        if _signed_contract(one) != contract and (party in named or party not in (known_keys or {})):
            yield Finding(
                f"{party}: contract.json differs from the others' or lacks a party's signature",
                f"ask {party} under which contract it ran", accused=party,
            )  # fmt: skip
    for entry in contract["parties"]:
        known = (known_keys or {}).get(entry["party"])
        if known_keys is not None and known != entry["node_key"]:
            yield Finding(f"{entry['party']}: its node key is not the one known to the auditor", "ask its operator")


def _part_findings(folders: Mapping[str, Path], keys: Mapping[str, str]) -> Iterator[Finding]:
    """Yield the parts of packs that another key signed than the party's node key."""
    for party, folder in folders.items():
        try:
            key = auditor_pack.part_key(folder)
        except auditor_pack.PackFault as fault:
            yield Finding(str(fault), f"ask {party} for its pack again")
            continue
        if key and party in keys and key != keys[party]:
            yield Finding(
                f"{party}: its part of the pack is signed by another key than its node key", f"ask {party} who made it"
            )


def _party_findings(run: Run, witnesses: Mapping[str, str], missing: Sequence[str]) -> Iterator[Finding]:
    for party in sorted(set(run.node_keys) - set(run.evidence) - set(missing)):
        yield Finding(f"{party}: its folder is missing, the contract names it", f"ask {party} for its evidence")
    for party in sorted(set(run.evidence) - set(run.node_keys) - set(witnesses)):
        yield Finding(f"{party}: the contract does not name it", "ask who put this folder here", accused=NOBODY)


__all__ = [
    "FINDINGS_PER_CHECK",
    "PARTY_CHECKS",
    "WITNESS_CHECKS",
    "Check",
    "Verdict",
    "read_evidence",
    "verify_packs",
    "verify_run",
]
