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

from lianxin.crypto import canonical
from lianxin.parties import (
    auditor_commitments,
    auditor_ends,
    auditor_envelopes,
    auditor_given,
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
    auditor_rotations,
    auditor_scores,
    auditor_sums,
    auditor_times,
    auditor_told,
    auditor_workers,
)
from lianxin.parties.auditor_evidence import NOBODY, Evidence, Finding, Record, Run, read_evidence
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
    "end": auditor_ends.ending_findings,
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
    given = auditor_given.Given()
    given.add(run_dir)
    return _verify(given, known_keys, workers, say or _silent)


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
        given = auditor_given.Given()
        found = _gathered(paths, Path(made), given, say or _silent)
        verdict = found or _verify(given, known_keys, workers, say or _silent, one_sided=True)
        return replace(verdict, checks=(*given.damaged, *verdict.checks))


def _silent(_text: str) -> None:
    pass


def _gathered(paths: Sequence[Path], scratch: Path, given: auditor_given.Given, say: Say) -> Verdict | None:
    """Put packs and folders into `given`; return the verdict where they cannot be judged at all, else None.

    A damaged pack among others is named; nothing of it is taken, and the others are judged.
    """
    for number, path in enumerate(paths):
        if path.is_dir():
            given.add(path)
            continue
        say(f"unpacking {path.name}")
        try:
            given.unpack(path, scratch / str(number))
        except auditor_pack.PackFault as fault:
            given.damaged += _pack_fault(path.name, fault).checks
    if given.damaged and not given.folders:
        return Verdict("", ())
    runs = sorted({run for _, run in given.packs})
    if len(runs) > 1:
        what = f"the packs are of several runs: {', '.join(runs)}"
        return Verdict("", (Check("packs", OF_THE_RUN, False, what, "give packs of one run"),))
    return None


def _pack_fault(where: str, fault: auditor_pack.PackFault) -> Verdict:
    has_advice = any(sign in str(fault) for sign in ("; ", ": ask "))
    return Verdict("", (Check("packs", where, False, str(fault), "" if has_advice else "ask for the pack again"),))


def _verify(
    given: auditor_given.Given, known_keys: Mapping[str, str] | None, workers: int | None, say: Say,
    one_sided: bool = False,
) -> Verdict:  # fmt: skip
    try:
        contract, why = auditor_given.contract_of(given.contracts(), known_keys)
        if contract is None and (two := given.of_two_runs()):
            remedy = "nothing was judged; --known-keys tells which contract is meant"
            return Verdict("", (Check("packs", OF_THE_RUN, False, two, remedy),))
        if contract is not None:
            given.lay_aside({**(known_keys or {}), **auditor_given.keys_of(contract)})
        folders = given.latest()
    except auditor_pack.PackFault as fault:
        return _pack_fault(OF_THE_RUN, fault)
    count = auditor_workers.workers_for(_bytes_of(folders), workers)
    evidence = {}
    with auditor_workers.pool_of(count) as pool:
        for party, folder in folders.items():
            say(f"reading {party}")
            evidence[party] = auditor_given.with_part(read_evidence(folder, auditor_workers.spread_over(pool)), folder)
    checks = [check for party, one in evidence.items() for check in _file_checks(party, one)]
    odd = _contract_findings(contract, why, evidence, known_keys)
    checks += checked("contract", OF_THE_RUN, odd, _signed_by(contract, known_keys))
    if contract is None:
        return Verdict("", tuple(checks))
    run = Run(contract, canonical.record_hash(contract), auditor_given.keys_of(contract), evidence)
    witnesses = {
        party: key for party, key in (known_keys or {}).items() if party in evidence and party not in run.node_keys
    }
    missing = tuple(sorted(set(run.node_keys) - set(evidence))) if one_sided else ()
    checks += checked("packs", OF_THE_RUN, auditor_given.run_findings(given, run.id), f"of run {run.id}")
    checks += checked("parts", OF_THE_RUN, auditor_given.part_findings(given), "signed by their parties")
    checks += checked("parties", OF_THE_RUN, _party_findings(run, witnesses, missing), f"{len(run.node_keys)} parties")
    checks += _run_checks(run, witnesses, count, say)
    return Verdict(run.id, tuple(_as_known(checks, run, known_keys)), missing)


def _as_known(checks: Sequence[Check], run: Run, known_keys: Mapping[str, str] | None) -> Iterator[Check]:
    """Yield the checks without what accuses a party under a key that is not the one known to be its own."""
    odd = {p for p, key in run.node_keys.items() if (known_keys or {}).get(p, key) not in {e.key for e in run.eras[p]}}
    for check in checks:
        yield replace(check, accused="") if check.accused in odd else check


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
    try:
        return _judge(run, witnesses, task)
    except Exception as fault:  # evidence is anybody's bytes: what no check foresaw is a verdict, too
        kind = type(fault).__name__
        what = f"{task.subject}: the check {task.name} stopped at something that it cannot judge ({kind})"
        found = Finding(what, "look at what the other checks say, and at this evidence by hand", accused=NOBODY)
        return checked(task.name, task.subject, [found], "")


def _judge(run: Run, witnesses: Mapping[str, str], task: _Task) -> list[Check]:
    if task.name == "receipts":
        receipts = auditor_receipts.Receipts(run)
        passed = receipts.excused_detail() or "both ends know each message"
        return checked("receipts", OF_THE_RUN, receipts.findings(), passed)
    if task.subject in witnesses:
        run = replace(run, node_keys={**run.node_keys, **witnesses})
    own = run.evidence[task.subject]
    passed = _passed(run, own, task.name)
    if task.parts > 1:
        return checked(task.name, task.subject, _SPLIT[task.name](run, own, task.part, task.parts), passed)
    return checked(task.name, task.subject, PARTY_CHECKS[task.name](run, own), passed)


def _passed(run: Run, own: Evidence, name: str) -> str:
    """Return what a check that holds says: also what it did not judge."""
    if name == "commitments" and auditor_commitments.is_old(run):
        return auditor_commitments.OLD
    said = ["verified"]
    if name == "witnessed":
        if foreign := auditor_ledger.foreign_heads(run, own):
            said.append(f"{foreign} heads of parties of other runs not judged")
        for party in auditor_ledger.later_heads(run, own):
            said.append(f"{party} went on after its export; what came later is not in it")
    return "; ".join([*said, *auditor_told.told(run, own, name)])


def _file_checks(party: str, evidence: Evidence) -> list[Check]:
    findings = (
        Finding(f"{party}: {what}", f"ask {party} to export its evidence again") for what in evidence.unreadable
    )
    return checked("files", party, findings, f"{len(evidence.ledger_lines)} leaves read")


def _contract_findings(
    contract: Record | None, why: str, evidence: Mapping[str, Evidence], known_keys: Mapping[str, str] | None
) -> Iterator[Finding]:
    if contract is None and why:
        yield Finding(why, "give the parties' node keys as you know them (--known-keys)")
        return
    if contract is None:
        yield Finding(
            "no folder holds a contract that all of its parties signed, with terms of their types",
            "ask the platform for the contract",
        )
        return
    named = {entry["party"] for entry in contract["parties"]}
    for party, one in evidence.items():
        signed = auditor_given.signed_contract(one.contract)
        if signed != contract and (party in named or party not in (known_keys or {})):
            yield Finding(
                f"{party}: contract.json differs from the others' or lacks a party's signature",
                f"ask {party} under which contract it ran", accused=party,
            )  # fmt: skip
    eras = auditor_rotations.eras_of(evidence, auditor_given.keys_of(contract))
    for entry in contract["parties"]:
        known = (known_keys or {}).get(entry["party"])
        if known is not None and known not in {era.key for era in eras[entry["party"]]}:
            yield Finding(f"{entry['party']}: its node key is not the one known to the auditor", "ask its operator")


def _signed_by(contract: Record | None, known_keys: Mapping[str, str] | None) -> str:
    """Return what is said of a contract that holds: also whose key is the contract's own word alone."""
    others = [
        entry["party"] for entry in (contract or {"parties": []})["parties"] if entry["party"] not in (known_keys or {})
    ]
    if known_keys is None or not others:
        return "one, signed by all"
    return f"one, signed by all; no key of {', '.join(others)} was given, and whether it is its own was not checked"


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
