"""What an auditor checks of one party's ledger: leaves, signed heads, consents and revocations, and the agreement.

Each check yields a finding for each fault, none when all is well; a finding names the party, the leaf and what to ask.
"""

from collections.abc import Iterator

from lianxin.crypto import notes, signing
from lianxin.crypto.errors import CryptoError
from lianxin.parties import auditor_rotations
from lianxin.parties.auditor_columns import OWN, seconds_of
from lianxin.parties.auditor_evidence import NOBODY, Evidence, Finding, Record, Run, fits, leaf_finding

PART = "part"  # the document of a part's description in a pack
_TIME = "time "  # the extension line of a checkpoint


def leaf_findings(run: Run, own: Evidence) -> Iterator[Finding]:
    """Yield the leaves that are not canonical, not this party's, or lack fields of their kind."""
    ask, columns = "for the ledger that it signed", own.columns
    for index, flags in enumerate(columns.flags):
        if flags & OWN and columns.kinds[index]:
            continue
        leaf = own.leaves[index]
        if not leaf:
            yield leaf_finding(own, index, "no canonical leaf", ask)
        elif not flags & OWN:
            yield leaf_finding(own, index, "another type, version or party", ask)
        else:
            yield leaf_finding(own, index, "lacks fields of its kind", ask)


def checkpoint_findings(run: Run, own: Evidence) -> Iterator[Finding]:
    """Yield the signed heads that the ledger does not agree with, and leaves that no head covers."""
    for index, what in auditor_rotations.odd_leaves(own, run.eras.get(own.party, ())):
        yield leaf_finding(own, index, what, "who held the key then")
    last = -1
    for n, signed in enumerate(own.records["checkpoints"]):
        head = _verified_head(signed, own.party, run)
        where = f"{own.party}, checkpoint {n}"
        if head is None:
            yield Finding(f"{where}: not signed by its node key", f"ask {own.party} who signed it")
            continue
        if not _is_signed_in_time(signed, own.party, run, head["size"]):
            what = "its head is signed by a node key that was replaced, or by one that no leaf before it names"
            yield Finding(f"{where}: {what}", f"ask {own.party} for its rotations", head["size"])
        if not last <= head["size"]:
            ask = f"ask {own.party} which leaves it dropped"
            yield Finding(f"{where}: a shorter ledger than before", ask, head["size"])
        elif not _is_prefix(head, own):
            yield Finding(
                f"{where}: its {head['size']} leaves are not the ledger's; leaves were changed, reordered or dropped",
                f"ask {own.party} for the ledger that it signed",
                head["size"] - 1,
            )
        last = max(last, head["size"])
    if last < len(own.ledger_lines):
        yield Finding(
            f"{own.party}, leaf {max(last, 0)}: no checkpoint covers it and the leaves after it",
            f"ask {own.party} for a checkpoint over its whole ledger",
            max(last, 0),
        )


def witnessed_findings(run: Run, own: Evidence) -> Iterator[Finding]:
    """Yield the heads that this party saw of others and that are no prefix of their ledgers now.

    A head of more leaves than the other exported is no fork where it is later than that export (`later_heads`).
    """
    for n, signed in enumerate(own.records["witnessed"]):
        party = _log_of(signed)
        if _is_foreign(run, party):
            continue
        head = _verified_head(signed, party, run) if party else None
        if head is None:
            yield Finding(f"{own.party}, witnessed head {n}: no party of the run signed it", f"ask {own.party}")
        elif party in run.evidence and _is_of_old_key(run, signed, head, party):
            what = f"a head of {head['size']} leaves is signed by a node key that {party} had replaced by then, and by it alone"
            ask = f"ask {own.party} when it took it, and {party} who held that key then"
            yield Finding(f"{own.party}, witnessed head {n}: {what}", ask, accused=NOBODY)
        elif party in run.evidence and _is_later(run, head, party):
            continue
        elif party in run.evidence and not _is_prefix(head, run.evidence[party]):
            ask = f"ask {party} why it signed two ledgers"
            what = _fork(head, party, own.party, run.evidence[party])
            yield Finding(what, ask, max(head["size"] - 1, -1), accused=party)


def heads_of(run: Run, own: Evidence) -> Iterator[tuple[Record, Record]]:
    """Yield each head that this party signed (`size`, `root`, `time`) with the line that holds it.

    They are its own checkpoints, and what the others kept of them: a head that its signer left out counts as well.
    """
    for holder, evidence in run.evidence.items():
        for line in evidence.records["checkpoints" if holder == own.party else "witnessed"]:
            if holder == own.party or _log_of(line) == own.party:
                head = _verified_head(line, own.party, run)
                if head is not None and (holder == own.party or not _is_of_old_key(run, line, head, own.party)):
                    yield head, line


def cosigned_at(line: Record, party: str, node_key: str) -> int | None:
    """Return when `party` cosigned the head of this line, in seconds after 1970-01-01 (UTC); None where it did not."""
    note = _note_of(line)
    try:
        return notes.verify_cosignature(note, notes.log_name(party), node_key) if note is not None else None
    except (CryptoError, ValueError):
        return None


def foreign_heads(run: Run, own: Evidence) -> int:
    """Return of how many kept heads this run says nothing: they are of parties that have no key in its contract."""
    return sum(_is_foreign(run, _log_of(line)) for line in own.records["witnessed"])


def later_heads(run: Run, own: Evidence) -> list[str]:
    """Return of whom this party kept heads of more leaves than their evidence has, signed after it was exported."""
    found = set()
    for signed in own.records["witnessed"]:
        party = _log_of(signed)
        head = _verified_head(signed, party, run) if party in run.evidence and party in run.node_keys else None
        if head is not None and _is_later(run, head, party) and not _is_of_old_key(run, signed, head, party):
            found.add(party)
    return sorted(found)


def _is_later(run: Run, head: Record, party: str) -> bool:
    """Return whether a head is of more leaves than the evidence of its party, and later than that was exported."""
    exported = run.evidence[party]
    if head["size"] <= exported.tree.size:
        return False
    at, until = seconds_of(head["time"]), exported_at(run, exported)
    return at is not None and until is not None and at > until


def exported_at(run: Run, own: Evidence) -> int | None:
    """Return when a party exported its evidence: as its part of the pack says, else not before its own last head."""
    said = seconds_of(own.documents.get(PART, {}).get("exported_at"))
    if said is not None:
        return said
    heads = (_verified_head(line, own.party, run) for line in own.records["checkpoints"])
    return max((at for head in heads if head and (at := seconds_of(head["time"])) is not None), default=None)


def _is_of_old_key(run: Run, signed: Record, head: Record, party: str) -> bool:
    """Return whether a head that is not the ledger's was signed by none but a key that the party no longer had.

    Whoever stole that key can make one, so that it convicts nobody of two ledgers.
    """
    if party not in run.evidence or _is_prefix(head, run.evidence[party]):
        return False
    return not _is_signed_in_time(signed, party, run, head["size"])


def _is_foreign(run: Run, party: str) -> bool:
    return bool(party) and party not in run.node_keys


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
    """Return the party that a kept head says it is of, "" when it says none, or no signature on it is named like that."""
    if (note := _note_of(line)) is not None:
        origin = note.text.partition("\n")[0]
        is_named = any(one.name == origin for one in note.signatures)
        return origin.removeprefix(notes.log_name("")) if is_named else ""
    record = line.get("record")
    named = record.get("party") if isinstance(record, dict) else None
    return named if isinstance(named, str) else ""


def _is_signed_in_time(line: Record, party: str, run: Run, size: int) -> bool:
    """Return whether a party's own head carries the signature of the key that was its own at that size."""
    eras = run.eras.get(party, ())
    return len(eras) < 2 or _head_under(line, party, auditor_rotations.key_at(eras, size)) is not None


def _verified_head(line: Record, party: str, run: Run) -> Record | None:
    """Return `size` and `root` of a head that a node key of the party signed: the contract's, or one by rotations."""
    keys = [era.key for era in run.eras.get(party, ())]
    return next(filter(None, (_head_under(line, party, key) for key in keys)), None)


def _head_under(line: Record, party: str, node_key: str) -> Record | None:
    """Return `size` and `root` of a head that this key signed, as a note or as a record of before 0.3."""
    try:
        if line.get("type") == "checkpoint-note":
            return _noted_head(line, party, node_key)
        record = signing.verify_signed(line, {party: node_key})
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
    if head.origin != notes.log_name(party):
        return None
    time = next((line.removeprefix(_TIME) for line in head.extensions if line.startswith(_TIME)), "")
    return {"size": head.size, "root": head.root.hex(), "time": time}


def _is_prefix(head: Record, evidence: Evidence) -> bool:
    size = head["size"]
    return 0 <= size <= evidence.tree.size and evidence.tree.root(size).hex() == head["root"]


def _fork(head: Record, party: str, witness: str, evidence: Evidence) -> str:
    """Return in words how a kept head and the evidence of its party differ; roots by their first digits."""
    size, shown = head["size"], f"root {head['root'][:16]}…"
    if not 0 <= size <= evidence.tree.size:
        said = f"{party} signed a ledger of {size} leaves, which it showed to {witness} ({shown})"
        return f"{said}, and its evidence has {evidence.tree.size} leaves"
    root = evidence.tree.root(size).hex()[:16]
    said = f"{party} signed two different ledgers of {size} leaves: one it showed to {witness} ({shown})"
    return f"{said}, another is in its evidence (root {root}…)"


def approval_findings(run: Run, own: Evidence) -> Iterator[Finding]:
    """Yield a finding when no leaf shows the contract agreed before the first release: at a bank, approved (R26)."""
    is_bank = own.party != run.contract.get("platform")
    leaves = [pair for pair in own.of_kind("contract", run.id) if pair[1]["contract_hash"] == run.contract_hash]
    released = next((index for index, _ in own.of_kind("release", run.id)), None)
    is_decided = is_bank and (released is not None or any(leaf["event"] == "finished" for _, leaf in leaves))
    events = ("approved",) if is_decided else ("proposed", "approved", "signed")
    agreed = [index for index, leaf in leaves if leaf["event"] in events]
    if not agreed or (released is not None and released < agreed[0]):
        word = "approved" if is_decided else "agreed"
        yield Finding(
            f"{own.party}: no leaf shows that the contract was {word} before the first release",
            f"ask {own.party} which operator approved it, and when",
        )
    for index, leaf in leaves:
        if leaf["event"] in (("approved", "signed") if is_bank else ("approved",)) and _is_one_person(run, leaf):
            what = "the operator who approved is nobody or the proposer (R26)"
            yield leaf_finding(own, index, what, "who decided", "R26")


def _is_one_person(run: Run, leaf: Record) -> bool:
    """Return whether the operator who approved, as a leaf says, is the one who proposed, or nobody.

    What a bank signs after its approval names both; the leaf's own operator is then only whose node it is.
    """
    names = [leaf["approver"]] if "approver" in leaf else []
    names += [leaf["operator"]] if leaf["event"] == "approved" or not names else []
    proposer = run.contract.get("proposer")
    return any(not isinstance(name, str) or name.strip() in ("", proposer) for name in names)
