"""What an auditor checks of one party's ledger: leaves, signed heads, consents and revocations, and the agreement.

Each check yields a finding for each fault, none when all is well; a finding names the party, the leaf and what to ask.
"""

from collections.abc import Iterator

from lianxin.crypto import canonical, merkle, notes, signing
from lianxin.crypto.errors import CryptoError
from lianxin.parties import decision
from lianxin.parties.auditor_evidence import KINDS, Evidence, Finding, Record, Run, fits

_FIRM_KEY = {"subject_key": str, "key": str}


def leaf_findings(run: Run, own: Evidence) -> Iterator[Finding]:
    """Yield the leaves that are not canonical, not this party's, or lack fields of their kind."""
    ask = f"ask {own.party} for the ledger that it signed"
    for index, leaf in enumerate(own.leaves):
        shape = KINDS.get(leaf.get("kind", ""), {})
        if not leaf:
            yield Finding(f"{own.party}, leaf {index}: no canonical leaf", ask)
        elif leaf.get("type") != "leaf" or leaf.get("version") != 1 or leaf["party"] != own.party:
            yield Finding(f"{own.party}, leaf {index}: another type, version or party", ask)
        elif not fits(leaf, shape):
            yield Finding(f"{own.party}, leaf {index}: lacks fields of its kind", ask)


def checkpoint_findings(run: Run, own: Evidence) -> Iterator[Finding]:
    """Yield the signed heads that the ledger does not agree with, and leaves that no head covers."""
    heads = [(n, _verified_head(signed, own.party, run)) for n, signed in enumerate(own.records["checkpoints"])]
    last = -1
    for n, head in heads:
        where = f"{own.party}, checkpoint {n}"
        if head is None:
            yield Finding(f"{where}: not signed by its node key", f"ask {own.party} who signed it")
            continue
        if not last <= head["size"]:
            yield Finding(f"{where}: a shorter ledger than before", f"ask {own.party} which leaves it dropped")
        elif not _is_prefix(head, own):
            yield Finding(
                f"{where}: its {head['size']} leaves are not the ledger's; leaves were changed, reordered or dropped",
                f"ask {own.party} for the ledger that it signed",
            )
        last = max(last, head["size"])
    if last < len(own.ledger_lines):
        yield Finding(
            f"{own.party}, leaf {max(last, 0)}: no checkpoint covers it and the leaves after it",
            f"ask {own.party} for a checkpoint over its whole ledger",
        )


def witnessed_findings(run: Run, own: Evidence) -> Iterator[Finding]:
    """Yield the heads that this party saw of others and that are no prefix of their ledgers now."""
    for n, signed in enumerate(own.records["witnessed"]):
        party = _log_of(signed)
        head = _verified_head(signed, party, run) if party else None
        if head is None:
            yield Finding(f"{own.party}, witnessed head {n}: no party of the run signed it", f"ask {own.party}")
        elif party in run.evidence and not _is_prefix(head, run.evidence[party]):
            yield Finding(
                f"{party}: its ledger of {head['size']} leaves, as {own.party} saw it, is not in its evidence",
                f"ask {party} why it signed two ledgers",
            )


def cosignature_findings(run: Run, own: Evidence) -> Iterator[Finding]:
    """Yield the cosignatures of the run's parties on this party's heads, and on those it kept, that do not verify."""
    for name in ("checkpoints", "witnessed"):
        for n, line in enumerate(own.records[name]):
            note = _note_of(line)
            for party, key in run.node_keys.items():
                if note is not None and not _cosignature_holds(note, party, key):
                    yield Finding(
                        f"{own.party}, {name} {n}: the cosignature of {party} does not verify",
                        f"ask {own.party} whence it has it",
                    )


def _cosignature_holds(note: notes.Note, party: str, node_key: str) -> bool:
    name = notes.log_name(party)
    if (name, notes.key_id(name, notes.COSIGNATURE, node_key)) not in {(s.name, s.key_id) for s in note.signatures}:
        return True  # it has not cosigned this head
    try:
        notes.verify_cosignature(note, name, node_key)
    except CryptoError:
        return False
    return True


def _note_of(line: Record) -> notes.Note | None:
    try:
        return notes.parse_note(line["note"].encode()) if fits(line, {"type": str, "note": str}) else None
    except (CryptoError, ValueError):
        return None


def _log_of(line: Record) -> str:
    """Return the party that a kept head says it is of, "" when it says none."""
    if (note := _note_of(line)) is not None:
        return note.text.partition("\n")[0].removeprefix(notes.log_name(""))
    record = line.get("record")
    named = record.get("party") if isinstance(record, dict) else None
    return named if isinstance(named, str) else ""


def _verified_head(line: Record, party: str, run: Run) -> Record | None:
    """Return `size` and `root` of a head that the party's node key signed, as a note or as a record of before 0.3."""
    try:
        if line.get("type") == "checkpoint-note":
            return _noted_head(line, party, run.node_keys[party])
        record = signing.verify_signed(line, {party: run.node_keys[party]})
    except (CryptoError, KeyError, ValueError):
        return None
    is_head = record["type"] == "checkpoint" and fits(record, {"party": str, "size": int, "root": str, "time": str})
    return record if is_head and record["party"] == party else None


def _noted_head(line: Record, party: str, node_key: str) -> Record | None:
    note = _note_of(line)
    if note is None or line.get("version") != 1:
        return None
    notes.verify(note, notes.log_name(party), node_key)
    head = notes.parse_checkpoint(note.text)
    return {"size": head.size, "root": head.root.hex()} if head.origin == notes.log_name(party) else None


def _is_prefix(head: Record, evidence: Evidence) -> bool:
    size = head["size"]
    return 0 <= size <= evidence.tree.size and evidence.tree.root(size).hex() == head["root"]


def registry_findings(run: Run, own: Evidence) -> Iterator[Finding]:
    """Yield where consents and revocations are not the ones that the ledger commits to, or not their firm's own."""
    records, covered, root_until = own.records["registry"], set(), 0
    for index, leaf in own.of_kind("registry"):
        epoch = leaf["epoch"]
        if not 0 < epoch <= len(records) or not _is_named(leaf, records[:epoch]):
            yield Finding(
                f"{own.party}, leaf {index}: the registry up to epoch {epoch} is not what the leaf commits to",
                f"ask {own.party} for its consents and revocations in the order it logged them",
            )
        covered.add(epoch)
        root_until = max(root_until, epoch if "registry_root" in leaf else 0)
    bare = [epoch for epoch in range(root_until + 1, len(records) + 1) if epoch not in covered]
    if bare:
        yield Finding(f"{own.party}, epoch {bare[0]}: no leaf commits to this record", f"ask {own.party} whence it is")
    yield from _signature_findings(own)


def _signature_findings(own: Evidence) -> Iterator[Finding]:
    keys = {one["subject_key"]: one["key"] for one in own.records["firm_keys"] if fits(one, _FIRM_KEY)}
    for epoch, signed in enumerate(own.records["registry"], 1):
        try:
            decision.verify_record(signed, keys)
        except (CryptoError, KeyError, TypeError):
            yield Finding(
                f"{own.party}, epoch {epoch}: malformed, or not signed by the firm's registered key (rule R37)",
                f"ask {own.party} for the firm's own signature",
            )
    try:
        decision.Registry().extended(own.records["registry"], {}, verify=False)
    except CryptoError:
        yield Finding(f"{own.party}: its records do not make one registry", f"ask {own.party} for the missing consents")


def _is_named(leaf: Record, records: list[Record]) -> bool:
    if "registry_root" in leaf:
        return leaf["registry_root"] == merkle.root_of(map(canonical.encode, records)).hex()
    record = records[-1].get("record")
    return isinstance(record, dict) and leaf.get("record_hash") == canonical.record_hash(record)


def _firm_keys(own: Evidence) -> dict[str, str]:
    return {one["subject_key"]: one["key"] for one in own.records["firm_keys"] if fits(one, _FIRM_KEY)}


def approval_findings(run: Run, own: Evidence) -> Iterator[Finding]:
    """Yield a finding when no leaf shows the contract agreed before the first release."""
    agreed = [
        index
        for index, leaf in own.of_kind("contract", run.id)
        if leaf["contract_hash"] == run.contract_hash and leaf["event"] in ("proposed", "approved", "signed")
    ]
    released = [index for index, _ in own.of_kind("release", run.id)]
    if not agreed or (released and released[0] < agreed[0]):
        yield Finding(
            f"{own.party}: no leaf shows that the contract was agreed before the first release",
            f"ask {own.party} which operator approved it, and when",
        )
    for index, leaf in own.of_kind("contract", run.id):
        proposer, operator = run.contract.get("proposer"), str(leaf.get("operator", "")).strip()
        if leaf["event"] == "approved" and leaf["contract_hash"] == run.contract_hash and operator in ("", proposer):
            yield Finding(
                f"{own.party}, leaf {index}: the operator who approved is nobody or the proposer (R26)",
                f"ask {own.party} who decided",
            )
