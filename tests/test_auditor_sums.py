"""What an auditor finds of secret sums and networks: sets that nobody signed, second sets, noise that was not paid for."""

import hashlib
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import network_world
import pytest
import worlds
from evidence_lists import listed
from worlds import World

from lianxin.crypto import canonical
from lianxin.federation.network_terms import threshold
from lianxin.parties import auditor, auditor_sums
from lianxin.parties.auditor_evidence import Run
from lianxin.parties.identity import load_identity

finished = network_world.finished
CHECKS = (auditor_sums.sum_findings, auditor_sums.privacy_findings, auditor_sums.round_findings)
PLATFORM, BANKS = "coordinator", ("bank-1", "bank-2", "bank-3")
Lie = Callable[[Run], Any]


def read(world: World) -> Run:
    """The evidence of a finished run, to be changed at will."""
    evidence = {path.name: listed(path) for path in (world.layout.folder / "parties").iterdir()}
    contract = deepcopy(evidence[PLATFORM].contract["record"])
    keys = {entry["party"]: entry["node_key"] for entry in contract["parties"]}
    return Run(contract, canonical.record_hash(contract), keys, evidence)


def found(run: Run) -> list[str]:
    return [one.detail for party in sorted(run.evidence) for check in CHECKS for one in check(run, run.evidence[party])]


def leaves(run: Run, party: str, kind: str, **named: Any) -> list[dict[str, Any]]:
    return [leaf for leaf in run.evidence[party].leaves if leaf.get("kind") == kind and named.items() <= leaf.items()]


def training(run: Run, party: str = "bank-1", turn: int = 1) -> dict[str, Any]:
    return next(one for one in leaves(run, party, "secure-sum") if one["label"].startswith(f"train/{turn}/"))


def test_honest_evidence_has_no_finding_and_tells_of_every_sum(finished: World) -> None:
    run = read(finished)
    assert found(run) == []
    for bank in BANKS:
        kinds = [leaf["label"] for leaf in leaves(run, bank, "secure-sum")]
        rounds = [f"{kind}/{turn}/0/0" for turn in (1, 2, 3) for kind in ("train", "query.judge")]
        assert kinds == ["query.firsta/0/0/0", "query.seconda/0/0/0", "query.judge/0/0/0", *rounds]
        assert all(leaf["included"] == list(BANKS) == leaf["asked"] for leaf in leaves(run, bank, "secure-sum"))
    told = leaves(run, PLATFORM, "network-round")
    assert [(leaf["round"], leaf["accepted"]) for leaf in told] == [(1, True), (2, True), (3, True)]


def test_the_leaf_of_a_sum_holds_what_was_signed_and_no_share_mask_or_value(finished: World) -> None:
    leaf = training(read(finished))
    assert {name for one in leaf["keys"] for name in one} == {"party", "key", "signature"}
    assert {name for one in leaf["sets"] for name in one} == {"party", "signature"}
    own = {"asked", "contract_hash", "included", "keys", "kind", "label", "run", "senders", "sets", "threshold"}
    own |= {"question"}
    of_every_leaf = {"code_version", "operator", "party", "salt", "time", "type", "version"}
    assert set(leaf) == own | of_every_leaf


@pytest.mark.parametrize("banks", range(3, 60))
def test_the_auditors_own_copy_of_the_policy_is_the_policy(banks: int) -> None:
    assert auditor_sums.policy_threshold(banks) == threshold(banks)


def drop(leaf: dict[str, Any]) -> None:
    leaf["kind"] = "nothing"


def privacy(of: Run, at: int | None = None, **changes: Any) -> dict[str, Any]:
    """Put a leaf of privacy into bank-1's ledger, before its first round."""
    asked = {"epsilon_thousandths": 2000, "delta_exponent": 5, "unit": "record"}
    common = {name: training(of)[name] for name in ("type", "version", "time", "party", "operator", "code_version")}
    leaf = common | {
        "kind": "privacy",
        "run": of.id,
        "contract_hash": of.contract_hash,
        "left_thousandths": 6000,
        "days": 0,
    }
    own = of.evidence["bank-1"]
    first = next(i for i, one in enumerate(own.leaves) if one.get("kind") == "envelope" and one["round"] == 1)
    place = (first - 2) if at is None else at
    own.leaves.insert(place, leaf | asked | changes)
    own.ledger_lines.insert(place, b"")
    return own.leaves[place]


def epsilon(run: Run, asked: int = 2000) -> None:
    run.contract.update(epsilon_thousandths=asked, delta_exponent=5, privacy_unit="record")


def two(leaf: dict[str, Any]) -> None:
    leaf["included"] = ["bank-1", "bank-2"]


LIES: dict[str, tuple[Lie, str]] = {
    "another contract": (lambda r: training(r).update(contract_hash="0" * 64), "is under another contract"),
    "no label": (lambda r: training(r).update(label="train/1"), "has a label that is none"),
    "a label twice": (
        lambda r: training(r, turn=2).update(training(r), kind="secure-sum"), "sum train/1/0/0 opened a label twice"),
    "the platform among the banks": (
        lambda r: training(r)["asked"].append(PLATFORM), "parties that are not the contract's banks"),
    "a sum of two": (lambda r: training(r).update(asked=["bank-1", "bank-2"]), "is of fewer than 3 banks"),
    "a bank twice": (lambda r: training(r)["sets"].append(training(r)["sets"][0]), "lists a bank twice"),
    "a bank from nowhere": (
        lambda r: training(r).update(senders=["bank-1", "bank-2"]), "did not come through the stage before"),
    "without the own value": (
        lambda r: training(r).update(included=["bank-2", "bank-3"]), "without this bank's own value"),
    "a threshold below the policy": (lambda r: training(r).update(threshold=2), "fewer than the policy's 3 of 3"),
    "too few signed sets": (lambda r: training(r)["sets"].pop(), "fewer than the policy's 3 of 3"),
    "a key of another label": (
        lambda r: training(r)["keys"].__setitem__(0, training(r, turn=2)["keys"][0]), "a key that its bank did not sign"),
    "a key of another bank": (
        lambda r: training(r)["keys"][0].update(training(r)["keys"][1], party="bank-1"), "did not sign for this sum"),
    "a key that is lacking": (lambda r: training(r)["keys"].pop(), "has a bank without a signed key"),
    "a set of another round": (
        lambda r: training(r)["sets"].__setitem__(0, training(r, turn=2)["sets"][0]), "a set that bank-1 did not sign"),
    "no release of rows": (
        lambda r: [drop(one) for one in leaves(r, "bank-1", "release", round=1, mode="COMPUTE_ONLY")],
        "without a release of rows for round 1"),
    "no release of the sum": (
        lambda r: [drop(one) for one in leaves(r, "bank-1", "release", round=1, step="train")],
        "without a release of an aggregate for round 1"),
    "a sum that is hidden": (lambda r: drop(training(r)), "no leaf tells who opened the sum of training of round 1"),
    "noise that is not paid for": (epsilon, "epsilon 2000 thousandths, no leaf says what it cost"),
    "noise that nobody asked for": (privacy, "and the contract asks for none"),
    "noise paid for twice": (lambda r: (epsilon(r), privacy(r), privacy(r)), "a run's privacy was spent twice"),
    "less noise than agreed": (
        lambda r: (epsilon(r), privacy(r, epsilon_thousandths=9000)), "on another epsilon_thousandths than the"),
    "another unit": (lambda r: (epsilon(r), privacy(r, unit="firm")), "on another unit than the contract's"),
    "noise paid for afterwards": (
        lambda r: (epsilon(r), privacy(r, at=len(r.evidence["bank-1"].leaves) - 1)), "spent after its first training"),
    "a budget that is overdrawn": (
        lambda r: (epsilon(r), privacy(r, left_thousandths=0), privacy(r, run="run-0", left_thousandths=0)),
        "runs spent 4000 thousandths of epsilon together, of a budget of 2000"),
    "a round that is not told": (
        lambda r: drop(leaves(r, PLATFORM, "network-round", round=2)[0]), "no leaf tells what became of round 2"),
    "a round told in two ways": (
        lambda r: leaves(r, PLATFORM, "network-round", round=2)[0].update(round=1), "round 1 is told twice"),
    "more rounds taken back than agreed": (
        lambda r: (r.contract.update(max_rollbacks=1),
                   [one.update(accepted=False) for one in leaves(r, PLATFORM, "network-round")]),
        "3 rounds were taken back, the contract allows 1"),
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
def test_each_lie_is_found(finished: World, lie: str) -> None:
    run = read(finished)
    tell, what = LIES[lie]
    tell(run)
    assert any(what in one for one in found(run)), found(run)


@pytest.mark.parametrize("right", ["in time", "a rolling window"])
def test_noise_that_was_paid_for_is_no_finding_of_its_bank(finished: World, right: str) -> None:
    run = read(finished)
    epsilon(run)
    if right == "in time":
        privacy(run)
    else:
        privacy(run, left_thousandths=0, days=30)
        privacy(run, run="run-0", left_thousandths=0, days=30)
    assert not [one for one in found(run) if one.startswith("bank-1")]


def signed_again(world: World, leaf: dict[str, Any], run: Run, signers: tuple[str, ...]) -> None:
    """Let `signers` sign the leaf's set as it now is, as banks that take part in a lie would."""
    head = {"version": 1, "run": run.id, "contract": run.contract_hash, "label": leaf["label"]}
    texts = []
    for one in leaf["keys"]:
        record = {**head, "type": "secure-sum-key", "party": one["party"], "key": one["key"]}
        entry = {"key": run.node_keys[one["party"]], "signer": one["party"], "signature": one["signature"]}
        texts.append(canonical.encode({"record": record, "signatures": [entry]}).decode())
    keys = hashlib.sha256(canonical.encode({"keys": sorted(texts)})).hexdigest()
    view = hashlib.sha256(
        canonical.encode({"keys": keys, "senders": leaf["senders"], "question": leaf["question"]})
    ).hexdigest()
    leaf["sets"] = []
    for bank in signers:
        record = {**head, "type": "secure-sum-set", "party": bank, "view": view, "included": leaf["included"]}
        signature = load_identity(world.layout.home(bank) / "identity").signing_key.sign_record(record, bank)[
            "signature"
        ]
        leaf["sets"].append({"party": bank, "signature": signature})


def test_a_second_set_that_banks_signed_for_one_round_is_found(
    finished: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = read(finished)
    leaf = training(run)
    signed_again(finished, leaf, run, BANKS)
    assert found(run) == []
    two(leaf)
    signed_again(finished, leaf, run, ("bank-1", "bank-2"))
    leaf["threshold"] = 2
    monkeypatch.setattr(auditor_sums, "policy_threshold", lambda banks: 2)
    assert any("second set of banks opened for train/1" in one for one in found(run))
    monkeypatch.setattr(auditor_sums, "_place_fault", lambda *_: "")
    assert found(run) == []  # nothing else would have told


def test_the_whole_pack_verifies_with_the_checks_of_networks_among_the_others(finished: World) -> None:
    verdict = auditor.verify_run(finished.layout.folder)
    assert verdict.ok and {"sums", "privacy", "rounds"} <= {check.name for check in verdict.checks}


def test_a_bank_that_opens_sums_and_writes_no_leaf_does_not_verify(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lianxin.federation.secure_sum import BankSum
    from lianxin.parties.sums_told import ToldSum

    silent = ToldSum.open

    def open_sum(self: ToldSum, sets: Any) -> bytes:
        return BankSum.open(self, sets) if self.bank == "bank-2" else silent(self, sets)

    monkeypatch.setattr(ToldSum, "open", open_sum)
    tables = network_world.tables_of(tmp_path / "tables", rows=300)
    world = worlds.run(network_world.lay(tmp_path / "run", tables, rounds=1))
    failed = {(one.name, one.subject) for one in auditor.verify_run(world.layout.folder).failures}
    assert failed == {("sums", "bank-2")}
    monkeypatch.setitem(auditor.PARTY_CHECKS, "sums", lambda run, own: iter(()))
    assert auditor.verify_run(world.layout.folder).ok


def test_evidence_of_any_content_gives_a_finding_and_never_an_error(finished: World) -> None:
    run = read(finished)
    leaf = training(run)
    leaf["label"] = "\x1b[31m"
    leaf["sets"][0]["party"] = "nobody"
    leaf["keys"][0]["key"] = "\ud7ff"
    assert any("of an odd name" in one for one in found(run))
    run.contract["rounds"] = 10**18
    assert len(found(run)) > 900
