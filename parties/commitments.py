"""What a node keeps of a run's beginning and says of its end, for the auditor: plan, policy, software, commitments.

When a run is proposed, the plan that the parties approve on, the policy that decides here and the software that runs are
kept in the store; the leaves `proposed` and `approved` name them by their hashes. With the evidence these become
`plan.json`, `policy.json`, `software.json` and `commitments.json` (docs/evidence.md).
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lianxin.crypto import canonical
from lianxin.crypto.errors import CryptoError
from lianxin.federation.contract import RunContract
from lianxin.parties.software import software_record
from lianxin.parties.store import Store
from lianxin.parties.transcript_digest import transcript_digest

if TYPE_CHECKING:
    from lianxin.parties.config import NodeConfig
    from lianxin.parties.node import Node

MODEL = "model.json"
_COMMITTED = {"seed-committed": "seed", "inputs-committed": "inputs"}
_MARKS = tuple(f'"event":"{event}"'.encode() for event in _COMMITTED)
Record = dict[str, Any]


def keep_plan(node: "Node", contract: RunContract, plan: Mapping[str, Any]) -> bytes:
    """Keep what this node proposes a run with, and return the plan's canonical bytes as the banks are sent them."""
    data = canonical.encode(dict(plan))
    _keep(node, contract.run, data)
    return data


def plan_fault(node: "Node", contract: RunContract, plan: bytes) -> str:
    """Keep the plan that a run is proposed with here; return what is wrong with it, "" for a plan of this contract."""
    try:
        record = canonical.decode(plan)
    except CryptoError:
        return "the plan is no canonical record"
    if (record["type"], record.get("run"), record.get("contract")) != ("plan", contract.run, contract.hash):
        return "the plan is not one of this contract"
    _keep(node, contract.run, plan)
    return ""


def _keep(node: "Node", run: str, plan: bytes) -> None:
    software = canonical.encode(software_record())
    digest = hashlib.sha256(software).hexdigest()
    kept = {_place(run, "plan"): plan, _place(run, "software"): digest.encode(), f"software/{digest}": software}
    if (policy := policy_of(node.config, node.party)) is not None:
        kept[_place(run, "policy")] = canonical.encode(policy)
    for key, value in kept.items():
        node.store.put_setting(key, value)


def is_kept_as_now(node: "Node", run: str) -> bool:
    """Return whether a run was heard of here under the policy and by the software that this node has now."""
    policy, digest = policy_of(node.config, node.party), hashlib.sha256(canonical.encode(software_record())).hexdigest()
    kept = node.store.setting(_place(run, "policy")), node.store.setting(_place(run, "software"))
    return kept == (None if policy is None else canonical.encode(policy), digest.encode())


def policy_of(config: "NodeConfig", party: str) -> Record | None:
    """Return the record of the policy in force: a platform's quotas, a bank's limits for approval unattended or None."""
    if config.role == "platform":
        return {"type": "platform-policy", "version": 1, "party": party, "quota": config.quota.model_dump()}
    if config.policy is None:
        return None
    limits = config.policy.model_dump(exclude_none=True)
    return {"type": "approval-policy", "version": 1, "party": party, **limits}


def proposal_hashes(store: Store, run: str, event: str) -> dict[str, str]:
    """Return `plan_hash`, `policy_hash` and `software_hash` for a leaf of this event, of what was kept; empty for others."""
    if event not in ("proposed", "approved"):
        return {}
    kept = {name: store.setting(_place(run, name)) for name in ("plan", "policy")}
    hashes = {f"{name}_hash": hashlib.sha256(data).hexdigest() for name, data in kept.items() if data is not None}
    software = store.setting(_place(run, "software"))
    return hashes if software is None else hashes | {"software_hash": software.decode()}


@dataclass
class Commitments:
    """Finds a run's commitments among the ledger's leaves as they pass by, and the ids of all releases."""

    run: str
    found: dict[str, Record] = field(default_factory=dict)
    releases: set[str] = field(default_factory=set)

    def see(self, index: int, leaf: bytes) -> None:
        """Take note of one leaf."""
        if b'"kind":"release"' in leaf:
            self.releases.add(hashlib.sha256(leaf).hexdigest())
        if not any(mark in leaf for mark in _MARKS):
            return
        record = canonical.decode(leaf)
        name = _COMMITTED.get(record.get("event", ""))
        if name and (record.get("kind"), record.get("run")) == ("contract", self.run):
            self.found.setdefault(name, {"commitment": record["contract_hash"], "leaf": index})


def documents(store: Store, party: str, seen: Commitments, home: Path) -> dict[str, Iterable[bytes]]:
    """Return the four files of one run's evidence by name, `commitments.json` to be read after the ledger has passed by.

    `home` is the run's folder under the node's state. What the store did not keep has no file.
    """
    run = seen.run
    kept = {f"{name}.json": store.setting(_place(run, name)) for name in ("plan", "policy")}
    digest = store.setting(_place(run, "software"))
    kept["software.json"] = None if digest is None else store.setting(f"software/{digest.decode()}")
    files: dict[str, Iterable[bytes]] = {name: [data, b"\n"] for name, data in kept.items() if data is not None}
    return files | {"commitments.json": _commitments(store, party, seen, home)}


def _commitments(store: Store, party: str, seen: Commitments, home: Path) -> Iterator[bytes]:
    record = {
        "type": "run-commitments", "version": 1, "run": seen.run, "party": party, **seen.found,
        "transcript": transcript_digest(store, seen.run), **_models(home / MODEL),
    }  # fmt: skip
    yield canonical.encode(record) + b"\n"


def _models(path: Path) -> Record:
    try:
        data = path.read_bytes()
        own = json.loads(data).get("model_sha256")
    except (OSError, ValueError, AttributeError):
        return {}
    models: Record = {"models": {path.name: hashlib.sha256(data).hexdigest()}}
    return models | ({"model_sha256": own} if isinstance(own, str) else {})


def _place(run: str, what: str) -> str:
    return f"proposal/{run}/{what}"
