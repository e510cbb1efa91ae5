"""What an auditor checks of commitments: that seeds, inputs, transcript, models and program are the ones committed to.

`commitments.json` says which leaves commit to a run's seed and inputs, the digest of the transcript, and the digests of the
models; the auditor finds each again. The leaves stand once each, the inputs' behind the seed's, before the first release and
the first message of the run itself: what is committed to afterwards binds nobody. Where one party commits, or names a plan,
each has to that took part; agreements that stand, and the platform of a network, draw nothing at random. The transcript's
digest is made again of the envelopes in evidence (crypto/transcript); that both ends have the same envelopes is the check
`receipts`. A network's weights are those of its platform's last leaf `network-round`, at every party. The program that ran is
the one that the run's leaves name. Evidence of before 0.6 has none of this and is not judged here, and the verdict says so.

That the committed seed and inputs give these messages is shown by opening them, which replay does (docs/audit.md).
"""

import hashlib
from collections.abc import Iterator, Mapping
from itertools import pairwise

from lianxin.crypto import canonical
from lianxin.parties.auditor_evidence import HEADER, Evidence, Finding, Record, Run, fits, leaf_finding, message_of
from lianxin.parties.auditor_plan import approvals_with, document_findings
from lianxin.parties.auditor_sums import is_network

EVENTS: Mapping[str, str] = {"seed": "seed-committed", "inputs": "inputs-committed"}
_SAID = {"seed", "inputs", "transcript", "models", "model_sha256"}
_PLACE = {"commitment": str, "leaf": int}
_CLOSE = "contract.close"
_STANDING = frozenset({"field_query", "scoring"})
OLD = "evidence of before 0.6: nothing to judge"
_SEQ_BYTES, _HASH_BYTES = 8, 32


def commitment_findings(run: Run, own: Evidence) -> Iterator[Finding]:
    """Yield where a party's commitments are missing, late, or not what its leaves and messages give again."""
    record = own.documents.get("commitments", {})
    leaves = {name: _committed(run, own, event) for name, event in EVENTS.items()}
    yield from _order_findings(run, own, leaves)
    yield from _software_findings(run, own)
    if not record:
        if leaves["inputs"]:
            what = f"{own.party}: commitments.json is missing, and leaf {leaves['inputs'][0][0]} commits to inputs"
            yield Finding(what, f"ask {own.party} to export its evidence again", leaves["inputs"][0][0])
        elif _has_to_commit(run, own):
            what = f"{own.party}: commitments.json is missing, and the run is of a version that keeps it"
            yield Finding(what, f"ask {own.party} to export its evidence again")
        return
    head = {"type": "run-commitments", "version": 1, "run": run.id, "party": own.party}
    if any(record.get(name) != value for name, value in head.items()) or not set(record) <= head.keys() | _SAID:
        yield Finding(
            f"{own.party}, commitments.json: another type, version, run or party, or odd entries",
            f"ask {own.party} for its own commitments",
        )
        return
    for name, found in leaves.items():
        yield from _named_findings(own, name, found, record.get(name))
    yield from _transcript_findings(own, record)
    yield from _model_findings(run, own, record)


def is_old(run: Run) -> bool:
    """Return whether nothing in evidence says that the run is one of those that commit: no plan named, no inputs fixed."""
    return not any(
        _committed(run, one, EVENTS["inputs"])
        or any("plan_hash" in leaf for _, leaf in one.of_kind("contract", run.id))
        for party, one in run.evidence.items()
        if party in run.node_keys
    )


def _has_to_commit(run: Run, own: Evidence) -> bool:
    """Return whether this party drew from its seed in the run: it took part in it, beyond the agreement."""
    is_coordinator = own.party == run.contract.get("platform") and is_network(run)
    if is_coordinator or run.contract.get("model") in _STANDING or is_old(run):
        return False
    return _began(run, own)[0] < len(own.leaves)


def _began(run: Run, own: Evidence) -> tuple[int, str, str]:
    """Return the index of the first release or message outside the agreement's conversations, what it is, and its place."""
    end = len(own.leaves)
    release = next(own.columns.of_kind("release", run.id), end)
    crossed = (
        (index, leaf) for index, leaf in own.crossings(run.id) if not leaf["conversation"].startswith("contracts/")
    )
    index, leaf = next(crossed, (end, {}))
    if release <= index:
        return release, "the first release", ""
    return index, "the first message of the run", message_of(own.party, leaf)


def _committed(run: Run, own: Evidence, event: str) -> list[tuple[int, Record]]:
    return [(index, leaf) for index, leaf in own.of_kind("contract", run.id) if leaf["event"] == event]


# ---- seeds and inputs


def _order_findings(run: Run, own: Evidence, leaves: Mapping[str, list[tuple[int, Record]]]) -> Iterator[Finding]:
    seeds, inputs = leaves["seed"], leaves["inputs"]
    if not inputs:
        others = [party for party, one in sorted(run.evidence.items()) if _committed(run, one, EVENTS["inputs"])]
        if seeds and others:
            what = f"it commits to a seed and to no inputs, as {others[0]} does"
            yield leaf_finding(own, seeds[0][0], what, "for its table, configuration and rules of that run")
        elif _has_to_commit(run, own):
            at, what, place = _began(run, own)
            said = f"no leaf commits to its {'inputs' if seeds else 'seed and inputs'} before {what}"
            yield leaf_finding(own, at, said, "for its table, configuration and rules of that run", "", place)
        return
    index, _ = inputs[0]
    if not seeds or seeds[0][0] > index:
        yield leaf_finding(own, index, "its inputs are committed to without a seed before them", "when it fixed them")
    first, what, place = _began(run, own)
    late = [name for name, found in leaves.items() if found and found[0][0] > first]
    if late:
        said = f"its {' and '.join(late)} {'is' if late == ['seed'] else 'are'} committed to after {what}"
        yield leaf_finding(own, index, said, "what it did before", "", place)
    for name, found in leaves.items():
        if len(found) > 1:
            yield leaf_finding(own, found[1][0], f"its {name} is committed to a second time", "which one it ran with")


def _named_findings(own: Evidence, name: str, found: list[tuple[int, Record]], said: object) -> Iterator[Finding]:
    if not found and said is None:
        return
    if not fits(said, _PLACE) or not isinstance(said, dict) or not found:
        at = found[0][0] if found else -1
        what = f"{own.party}, commitments.json: what it says of its {name} is not in one leaf of the ledger"
        yield Finding(what, f"ask {own.party} which {name} it committed to", at)
        return
    index, leaf = found[0]
    if (said["leaf"], said["commitment"]) != (index, leaf["contract_hash"]):
        yield leaf_finding(own, index, f"commitments.json names another {name} than this leaf", "which one it ran with")


# ---- the transcript


def _transcript_findings(own: Evidence, record: Record) -> Iterator[Finding]:
    said = record.get("transcript")
    if said != _Conversations.of(own).digest():
        yield Finding(
            f"{own.party}, commitments.json: its transcript is not the one of its envelopes",
            f"ask {own.party} for the envelopes that it left out or changed",
        )


class _Conversations:
    """The envelopes by (conversation, sender), 40 bytes each: number and hash, as `crypto.transcript` orders them."""

    def __init__(self) -> None:
        self.groups: dict[tuple[bytes, bytes], bytearray] = {}

    @classmethod
    def of(cls, own: Evidence) -> "_Conversations":
        found = cls()
        for envelope in own.records["envelopes"]:
            header = envelope.get("header")
            if isinstance(header, dict) and fits(header, HEADER) and header["step"] != _CLOSE:
                found._add(header, envelope.get("signature"))
        return found

    def _add(self, header: Record, signature: object) -> None:
        try:
            signed = bytes.fromhex(signature) if isinstance(signature, str) else b""
            seq = header["seq"].to_bytes(_SEQ_BYTES, "big")
        except (ValueError, OverflowError):
            return
        place = (header["conversation"].encode(), header["sender"].encode())
        digest = hashlib.sha256(canonical.encode(header) + signed).digest()
        self.groups.setdefault(place, bytearray()).extend(seq + digest)

    def digest(self) -> str:
        """Return the transcript digest, hex."""
        whole, size = hashlib.sha256(), _SEQ_BYTES + _HASH_BYTES
        for place in sorted(self.groups):
            head, group = b"".join(_prefixed(part) for part in place), bytes(self.groups[place])
            for entry in _ascending(group, size):
                whole.update(head + _prefixed(entry[:_SEQ_BYTES]) + _prefixed(entry[_SEQ_BYTES:]))
        return whole.hexdigest()


def _ascending(group: bytes, size: int) -> Iterator[bytes]:
    """Yield the entries of a group in order; as they come where they are, which costs no memory."""

    def entries() -> Iterator[bytes]:
        return (group[at : at + size] for at in range(0, len(group), size))

    return entries() if all(one < other for one, other in pairwise(entries())) else iter(sorted(entries()))


def _prefixed(part: bytes) -> bytes:
    return len(part).to_bytes(8, "big") + part


# ---- models and the program


def _model_findings(run: Run, own: Evidence, record: Record) -> Iterator[Finding]:
    said, platform = record.get("model_sha256"), run.evidence.get(str(run.contract.get("platform")))
    if said is None or platform is None or not is_network(run):
        return
    last = None
    for index, leaf in platform.of_kind("network-round", run.id):
        last = (index, leaf["weights_sha256"])
    if last is not None and last[1] != said:
        what = f"{own.party}, commitments.json: its weights are not those of leaf {last[0]} of {platform.party}"
        yield Finding(what, f"ask {own.party} which weights it has", last[0] if own is platform else -1)


def _software_findings(run: Run, own: Evidence) -> Iterator[Finding]:
    software, leaves = own.documents.get("software", {}), list(own.of_kind("contract", run.id))
    index, leaf = next((pair for pair in leaves if "plan_hash" in pair[1]), leaves[0] if leaves else (-1, {}))
    if not software:
        if "plan_hash" in leaf:  # since then it is kept
            yield leaf_finding(own, index, "software.json, of the program that wrote this leaf, is missing", "for it")
    elif software.get("type") != "software" or leaf.get("code_version") != software.get("code_version"):
        what = "software.json is of another program than the one that wrote this leaf"
        yield leaf_finding(own, index, what, "which program it ran")
    elif named := approvals_with(run, own, "software_hash"):
        yield from document_findings(run, own, "software", named)
