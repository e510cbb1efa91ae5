"""The run in little of `evidence_world` with what a node tells since plans are kept, and evidence forged as a test asks.

`Told` says what each party puts beside its ledger: plan, policy, seed and inputs committed to. `forged` are what a cheat does
at the point of the story where the first values leave.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import evidence_world
import pytest
from evidence_world import BANK, PLATFORM, RUN, World

from lianxin.crypto import canonical
from lianxin.parties import auditor

CLOSE = {"header": {"step": "contract.close", "conversation": "contracts/a"}}
MATCHED = 6
CONTRACT: dict[str, Any] = {
    "model": "scorecard", "matching": "ecdh", "profile": "full_exponents", "key_bits": 2048, "max_queries": 64,
    "max_firms": 64, "max_rows": 64, "min_intersection": 5, "on_loss": "stop", "proposer": "operator-li",
}  # fmt: skip
POLICY: dict[str, Any] = {
    "type": "approval-policy", "version": 1, "party": BANK, "operator": "operator-wang", "purposes": ["P4"],
    "matching": ["ecdh"], "max_rounds": 15, "min_key_bits": 2048, "min_rows": 4, "profiles": ["full_exponents"],
    "models": ["scorecard"], "max_trees": 200, "nodes": ["shown"], "max_split_bits": 64, "max_network_rounds": 100,
    "aggregation": ["secret"], "max_epsilon_thousandths": 0,
}  # fmt: skip
QUOTA = {"queries": 128, "field_queries": 20, "split_bits": 8, "scores": 30, "models_a_firm": 4, "days": 30,
         "outputs": 3, "output_sets": 8}  # fmt: skip


def a_plan(**changes: Any) -> dict[str, Any]:
    """Return the plan of the run in little: two messages of each road are more than enough."""
    roads = [(step, *ends) for step in STEPS for ends in ((PLATFORM, BANK), (BANK, PLATFORM))]
    learns = [{"who": "both sides", "what": "sums", "step": step, "malicious": "nothing further"} for step in STEPS]
    return {
        "type": "plan", "version": 1, "run": RUN, "contract": contract_hash(), "model": "scorecard",
        "parties": [PLATFORM, BANK], "learns": learns, "totals": [],
        "messages": [
            {"step": step, "sender": sender, "recipient": recipient, "envelopes": 2, "bytes": 5000}
            for step, sender, recipient in roads
        ],
        **changes,
    }  # fmt: skip


STEPS = ("contract.close", "matching.query", "matching.share", "binning.count")


def contract_hash() -> str:
    """Return the hash of the contract of this test."""
    return canonical.record_hash(evidence_world.a_contract()["record"])


@dataclass
class Told:
    """What the two parties keep and say; None for what a node of before did not."""

    plan: dict[str, Any] | None = None
    bank_plan: dict[str, Any] | None = None
    policy: dict[str, Any] = field(default_factory=lambda: dict(POLICY))
    quota: dict[str, Any] = field(default_factory=lambda: dict(QUOTA))
    matched: int = MATCHED
    forged: Callable[[World], None] | None = None
    lies: dict[str, Any] = field(default_factory=dict)

    def story(self, folder: Path) -> Path:
        """Play the run and return its folder."""
        return World(folder, {"status": CLOSE, "before release": self._before, **self.lies}).story()

    def _before(self, world: World) -> None:
        plan = a_plan() if self.plan is None else self.plan
        quota = {"type": "platform-policy", "version": 1, "party": PLATFORM, "quota": self.quota}
        self._agree(world, PLATFORM, "proposed", {"plan": plan, "policy": quota})
        self._agree(world, BANK, "approved", {"plan": self.bank_plan or plan, "policy": self.policy})
        for party in world.parties.values():
            for event in ("seed-committed", "inputs-committed"):
                digest = hashlib.sha256(f"{party.name} {event}".encode()).hexdigest()
                party.log("contract", event=event, contract_hash=digest, rule="")
        match(world, self.matched)
        if self.forged is not None:
            self.forged(world)

    def _agree(self, world: World, name: str, event: str, told: dict[str, dict[str, Any]]) -> None:
        party = world.parties[name]
        version = {"type": "software", "version": 1, "code_version": "lianxin 0.3.0", "python": "", "distributions": []}
        digest = hashlib.sha256(canonical.encode(version)).hexdigest()
        party.store.put_setting(f"software/{digest}", canonical.encode(version))
        party.store.put_setting(f"proposal/{RUN}/software", digest.encode())
        for what, record in told.items():
            party.store.put_setting(f"proposal/{RUN}/{what}", canonical.encode(record))
        hashes = {
            f"{what}_hash": canonical.record_hash(record) for what, record in {**told, "software": version}.items()
        }
        party.log("contract", contract_hash=contract_hash(), event=event, rule="", **hashes)


def match(world: World, firms: int) -> None:
    """Let the two sides match so many firms, as their messages' sizes have it."""
    bank, platform = world.parties[BANK], world.parties[PLATFORM]
    bank_right = bank.release([], recipient=PLATFORM, fields=["bad_flag"], step="matching.query", rows=firms)
    platform.release([], recipient=BANK, fields=["region"], step="matching.query", rows=firms)
    ask(world, bank_right, 64)
    sized(world, BANK, PLATFORM, "BankMatches", "matching.share", 4 * firms + 3, [bank_right])


def ask(world: World, right: str, queries: int) -> None:
    """Let the bank ask so many matching queries."""
    sized(world, BANK, PLATFORM, "BankBlindedElements", "matching.query", 64 * queries + 6, [right])


def sized(world: World, sender: str, to: str, kind: str, step: str, size: int, releases: list[str]) -> None:
    """Let a message of so many bytes cross, in a conversation of its step."""
    header = {"step": step, "payload_bytes": size, "conversation": f"{step.split('.')[0]}/a"}
    world.cross(sender, to, kind, "PSEUDONYM", releases, header=header, leaf={"size_bytes": size})


@pytest.fixture(autouse=True)
def terms(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let the world's contract have the terms of a scorecard; call it to change them."""
    plain = evidence_world.a_contract

    def change(**changes: Any) -> None:
        monkeypatch.setattr(evidence_world, "a_contract", lambda **more: plain(**{**CONTRACT, **changes, **more}))

    change()
    return change


def found(run: Path) -> list[auditor.Check]:
    """Return the checks that fail on the evidence of a run."""
    return list(auditor.verify_run(run).failures)


def passes_without(run: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Return whether forged evidence goes unseen once the check is taken out."""
    left = {other: check for other, check in auditor.PARTY_CHECKS.items() if other != name}
    monkeypatch.setattr(auditor, "PARTY_CHECKS", left)
    return auditor.verify_run(run).ok


def rewrite(run: Path, party: str, name: str, change: Callable[[dict[str, Any]], None]) -> None:
    """Change one record file of a party's evidence."""
    path = run / "parties" / party / "evidence" / name
    record = json.loads(path.read_bytes())
    change(record)
    path.write_bytes(canonical.encode(record) + b"\n")
