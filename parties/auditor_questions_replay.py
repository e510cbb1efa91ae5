"""Can a run be replayed: which of all that a replay needs is committed to in each ledger, and what of it is in evidence.

A replay needs the contract and the plan, seeds and inputs (which a party opens to the auditor alone: committed to by a leaf),
the policy and the catalogue that were in force, the registry up to the run, the transcript to compare with, and the software.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from lianxin.crypto import canonical
from lianxin.parties.auditor_evidence import Evidence, Record, Run
from lianxin.parties.auditor_questions import Answer, Case, Row, text
from lianxin.parties.auditor_registry import History

_COLUMNS = ("run", "party", "item", "committed", "in_evidence", "detail", "leaf")
_CANNOT = (
    "Evidence cannot tell that a seed or an input is the one that was used: its party opens it to you "
    "(`lianxin audit replay-party`), and the replay shows it. A party may have lost what it committed to."
)
OPENED = ("seed", "inputs")  # committed to by evidence, and shown to the auditor alone
_AGREED = ("proposed", "approved", "signed")


def replayable(case: Case, run: str = "") -> Answer:
    """Answer whether a run, or each, can be replayed; a row for each party and item that a replay needs.

    `committed` says that a leaf or the signed contract holds the item's digest, `in_evidence` that the item itself was given
    and has that digest (of seeds and inputs never: their party opens them). Raises QuestionFault for an unknown run.
    """
    said: list[str] = []
    runs = [case.run(run)] if run else list(case.runs.values())
    return Answer("replayable", _COLUMNS, _COLUMNS, _rows(case, runs, said), said, _CANNOT)


@dataclass(frozen=True)
class _Item:
    committed: bool
    in_evidence: bool
    detail: str
    leaf: int = -1


def _rows(case: Case, runs: list[Run], said: list[str]) -> Iterator[Row]:
    for run in runs:
        lacking = []
        for party in sorted(run.node_keys):
            if party not in run.evidence:
                lacking.append(f"all of {party}'s evidence")
                continue
            for name, item in _items(case, run, run.evidence[party]):
                is_open = name in OPENED or item.in_evidence
                lacking += [f"{party}'s {name}"] * (not (item.committed and is_open))
                yield {
                    "run": run.id, "party": party, "item": name, "committed": item.committed,
                    "in_evidence": item.in_evidence, "detail": item.detail, "leaf": item.leaf,
                }  # fmt: skip
        able = "can be replayed once its parties open their seeds and inputs"
        missing = f"lacks for a full replay: {', '.join(lacking)}"
        said.append(f"run {run.id} {missing if lacking else able}")
    said += case.silence()


def _items(case: Case, run: Run, own: Evidence) -> Iterator[tuple[str, _Item]]:
    events = [(index, leaf) for index, leaf in own.of_kind("contract", run.id)]
    yield "contract", _contract(run, events)
    yield "seed", _commitment(events, "seed-committed")
    yield "inputs", _commitment(events, "inputs-committed")
    yield "plan", _hashed(case, run, own, events, "plan")
    yield "policy", _hashed(case, run, own, events, "policy")
    yield "catalogue", _catalogue(run, own)
    yield "registry", _registry(run, own)
    yield "transcript", _transcript(case, run, own)
    yield "software", _software(case, run, own, events)
    yield "model", _model(case, run, own)


Events = list[tuple[int, Record]]


def _contract(run: Run, events: Events) -> _Item:
    agreed = [
        (at, leaf) for at, leaf in events if leaf["contract_hash"] == run.contract_hash and leaf["event"] in _AGREED
    ]
    return _Item(bool(agreed), True, "signed by all parties", agreed[-1][0] if agreed else -1)


def _commitment(events: Events, event: str) -> _Item:
    found = [(at, leaf) for at, leaf in events if leaf["event"] == event]
    detail = "a leaf commits to it; its party opens it" if found else f"no leaf `{event}`"
    return _Item(bool(found), False, detail, found[0][0] if found else -1)


def _hashed(case: Case, run: Run, own: Evidence, events: Events, name: str) -> _Item:
    """Return how `plan.json` or `policy.json` stands beside the hash of it in a leaf of the agreement."""
    told = [
        (at, text(leaf, f"{name}_hash"))
        for at, leaf in events
        if leaf["event"] in _AGREED and text(leaf, f"{name}_hash")
    ]
    record = case.member(run.id, own.party, f"{name}.json")
    if not told:
        return _Item(
            False, bool(record), f"no leaf has a `{name}_hash`" + (f"; {name}.json is there" if record else "")
        )
    is_same = bool(record) and any(canonical.record_hash(record) == digest for _, digest in told)
    missing = f"{name}.json is not the one committed to" if record else f"{name}.json is not in evidence"
    return _Item(True, is_same, "" if is_same else missing, told[-1][0])


def _catalogue(run: Run, own: Evidence) -> _Item:
    named = run.contract["catalogues"].get(own.party)
    is_same = named == hashlib.sha256(own.catalogue).hexdigest()
    return _Item(bool(named), is_same, "" if is_same else "the catalogue in evidence is not the contract's")


def _registry(run: Run, own: Evidence) -> _Item:
    first = next((index for index, _ in own.of_kind("release", run.id)), len(own.ledger_lines))
    epoch, records = own.epoch_before(first), len(own.records["registry"])
    is_there = epoch <= records and History(own).at(epoch) is not None
    is_told = not records or epoch > 0
    detail = f"epoch {epoch} at the first release" if epoch else "no consents are kept here"
    return _Item(is_told, is_there, detail, first if first < len(own.ledger_lines) else -1)


def _transcript(case: Case, run: Run, own: Evidence) -> _Item:
    crossed = sum(1 for _, leaf in own.of_kind("envelope", run.id) if leaf["decision"] != "refuse")
    headers = len(own.records["envelopes"])
    digest = text(case.member(run.id, own.party, "commitments.json"), "transcript")
    detail = f"{headers} headers to {crossed} leaves" + ("" if digest else "; no digest of it in commitments.json")
    return _Item(crossed > 0, headers == crossed, detail)


def _software(case: Case, run: Run, own: Evidence, events: Events) -> _Item:
    versions = sorted({leaf["code_version"] for _, leaf in events})
    record = case.member(run.id, own.party, "software.json")
    hashes = {digest for _, leaf in events if (digest := text(leaf, "software_hash"))}
    is_same = text(record, "code_version") in versions and (not hashes or canonical.record_hash(record) in hashes)
    missing = "software.json is not what the leaves say" if record else "no software.json, so no digests of what ran"
    return _Item(bool(versions), is_same, ", ".join(versions) + ("" if is_same else f"; {missing}"))


def _model(case: Case, run: Run, own: Evidence) -> _Item:
    models: object = case.member(run.id, own.party, "commitments.json").get("models")
    count = len(models) if isinstance(models, Mapping) else 0
    weights = [at for at, _ in own.of_kind("network-round", run.id)]
    detail = f"digests of model files: {count}" if count else "no digest of a model in commitments.json"
    return _Item(bool(count or weights), bool(count), detail, weights[-1] if weights else -1)
