"""Ledgers that a party wrote anew, signed and whole, that leave out what accuses it; and evidence that accuses who did nothing.

`resealed` is what a party can do that has its own key and whose heads nobody kept: other leaves, one head over them.
"""

import base64
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import audit_world
import pytest
from audit_world import CLOSE, Told, contract_hash, found
from evidence_world import BANK, KEYS, NOW, PLATFORM, RUN, World, a_contract

from lianxin.crypto import canonical, merkle, notes, signing
from lianxin.parties import auditor, auditor_commitments, auditor_ends, auditor_policy, auditor_receipts
from lianxin.parties.pack_export import write_pack

terms = audit_world.terms
KNOWN = {name: KEYS[name].public_hex for name in (PLATFORM, BANK)}
Leaf = dict[str, Any]
Change = Callable[[list[Leaf]], list[Leaf]]


def evidence_of(run: Path, party: str) -> Path:
    return run / "parties" / party / "evidence"


def a_head(party: str, ledger: Sequence[bytes], time: str = NOW) -> bytes:
    """A head over a ledger, signed by its party, as it stands in checkpoints.jsonl and witnessed.jsonl."""
    tree = merkle.MerkleTree()
    for line in ledger:
        tree.append(line)
    name = notes.log_name(party)
    text = f"{name}\n{len(ledger)}\n{base64.b64encode(tree.root(len(ledger))).decode()}\ntime {time}\n"
    note = notes.Note(text, (notes.sign(text, name, KEYS[party]),)).encode().decode()
    return canonical.encode({"type": "checkpoint-note", "version": 1, "note": note})


def leaves_of(run: Path, party: str) -> list[bytes]:
    return (evidence_of(run, party) / "ledger.jsonl").read_bytes().splitlines()


def resealed(run: Path, party: str, change: Change) -> Path:
    """Let a party write its ledger anew; nobody kept a head of the one before."""
    ledger = [canonical.encode(leaf) for leaf in change([json.loads(line) for line in leaves_of(run, party)])]
    folder = evidence_of(run, party)
    (folder / "ledger.jsonl").write_bytes(b"".join(line + b"\n" for line in ledger))
    (folder / "checkpoints.jsonl").write_bytes(a_head(party, ledger) + b"\n")
    for other in {PLATFORM, BANK} - {party}:
        (evidence_of(run, other) / "witnessed.jsonl").write_bytes(b"")
    return run


def without(*events: str) -> Change:
    return lambda leaves: [leaf for leaf in leaves if leaf.get("event") not in events]


def an_end(event: str) -> Leaf:
    return {"event": event, "contract_hash": contract_hash(), "rule": ""}


def behind(like: str, **changes: Any) -> Change:
    """Put a leaf behind the last one: the last leaf of an event, changed."""

    def change(leaves: list[Leaf]) -> list[Leaf]:
        [*_, last] = [leaf for leaf in leaves if leaf.get("event") == like]
        return [*leaves, {**last, **changes}]

    return change


def names(run: Path) -> dict[tuple[str, str], str]:
    """The failed checks by name and who is accused, with what the first of each says."""
    told: dict[tuple[str, str], str] = {}
    for check in found(run):
        told.setdefault((check.name, check.accused), check.detail)
    return told


def test_a_ledger_written_anew_without_a_change_verifies(tmp_path: Path) -> None:
    assert found(resealed(Told().story(tmp_path), BANK, lambda leaves: leaves)) == []


# ---- messages that are denied


DENIED = {"status": {**CLOSE, "unlogged": ["in"]}}


@pytest.mark.parametrize("event", ["failed", "refused"])
def test_who_finished_excuses_nobody_by_a_later_end(tmp_path: Path, event: str) -> None:
    run = resealed(World(tmp_path, DENIED).story(), BANK, behind("finished", event=event))
    told = names(run)
    assert set(told) == {("end", BANK), ("receipts", BANK)} and "an earlier leaf says finished" in told["end", BANK]


def test_the_end_of_one_party_excuses_not_what_two_others_did(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = resealed(World(tmp_path, DENIED).story(), BANK, behind("finished", event="failed"))
    monkeypatch.setattr(auditor_receipts, "broke_off", lambda _run, _party: True)
    monkeypatch.setitem(auditor.PARTY_CHECKS, "end", lambda _run, _own: iter(()))
    assert found(run) == []  # without the rule on whose end counts, the denial passes


def test_a_bank_that_was_lost_need_not_have_received_what_was_sent(tmp_path: Path, terms: Callable[..., None]) -> None:
    def lost(leaves: list[Leaf]) -> list[Leaf]:
        return [{**leaf, "event": "failed"} if leaf.get("event") == "finished" else leaf for leaf in leaves]

    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    terms(on_loss="rerun")
    verdict = auditor.verify_run(resealed(World(tmp_path / "one", DENIED).story(), BANK, lost))
    assert verdict.ok, verdict.failures
    assert "left 1 messages unreceived" in {check.name: check.detail for check in verdict.checks}["receipts"]
    terms(on_loss="stop")
    assert set(names(resealed(World(tmp_path / "other", DENIED).story(), BANK, lost))) == {("receipts", BANK)}


def test_a_refusal_before_the_run_finished_is_no_receipt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = World(tmp_path, {"status": {"unlogged": ["in"], "refused": True}}).story()
    told = names(run)
    assert set(told) == {("receipts", BANK)} and "says that it refused it" in told["receipts", BANK]
    monkeypatch.setattr(auditor_receipts, "finished_at", lambda _run, _party: -1)
    verdict = auditor.verify_run(run)
    assert verdict.ok and "1 messages were refused by bank-a" in {c.name: c.detail for c in verdict.checks}["receipts"]


def test_a_refusal_by_a_rule_that_is_none_is_no_receipt(tmp_path: Path) -> None:
    def renamed(leaves: list[Leaf]) -> list[Leaf]:
        return [{**leaf, "rule": "because"} if leaf["kind"] == "refusal" else leaf for leaf in leaves]

    lies = {"status": {"unlogged": ["in"], "refused": True}, "end": "broken off"}
    assert ("receipts", BANK) in names(resealed(World(tmp_path, lies).story(), BANK, renamed))


# ---- the end of a run


def test_who_was_told_the_end_has_to_say_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = resealed(Told().story(tmp_path), BANK, without("finished"))
    told = names(run)
    assert set(told) == {("end", BANK)} and "no leaf says how it ended" in told["end", BANK]
    monkeypatch.setattr(auditor_ends, "_told_findings", lambda *_: iter(()))
    assert found(run) == []


def test_a_release_after_the_end_was_told_is_named(tmp_path: Path) -> None:
    def again(world: World) -> None:
        world.parties[BANK].release([], recipient=PLATFORM, fields=["bad_flag"], mode="AGGREGATE")

    run = resealed(Told(lies={"after end": again}).story(tmp_path), BANK, without("finished"))
    details = [check.detail for check in found(run)]
    assert any("a release after the run's end was told" in detail for detail in details)


def test_a_bank_cannot_say_that_a_run_failed_whose_finish_it_was_told(tmp_path: Path) -> None:
    def failing(leaves: list[Leaf]) -> list[Leaf]:
        return [{**leaf, "event": "failed"} if leaf.get("event") == "finished" else leaf for leaf in leaves]

    told = names(resealed(Told().story(tmp_path), BANK, failing))
    assert "took part in telling that it finished" in told["end", BANK]


# ---- commitments, policy and approval


def bare(run: Path, party: str) -> Path:
    """A party that commits to nothing."""
    (evidence_of(run, party) / "commitments.json").unlink()
    return resealed(run, party, without("seed-committed", "inputs-committed"))


@pytest.mark.parametrize("party", [PLATFORM, BANK])
def test_a_party_that_commits_to_nothing_is_named(tmp_path: Path, party: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run = bare(Told().story(tmp_path), party)
    details = " ".join(check.detail for check in found(run))
    assert set(names(run)) == {("commitments", party)}
    assert "commits to its seed and inputs" in details and "commitments.json is missing" in details
    monkeypatch.setattr(auditor_commitments, "_has_to_commit", lambda _run, _own: False)
    assert found(run) == []


def test_commitments_come_before_the_first_message_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def early(leaves: list[Leaf]) -> list[Leaf]:
        """Let the first message that came to the platform stand before what it commits to."""
        at = next(n for n, leaf in enumerate(leaves) if leaf["kind"] == "envelope")
        seed = next(n for n, leaf in enumerate(leaves) if leaf.get("event") == "seed-committed")
        return [*leaves[:seed], leaves[at], *leaves[seed:at], *leaves[at + 1 :]]

    run = resealed(Told().story(tmp_path), PLATFORM, early)
    said = json.loads((evidence_of(run, PLATFORM) / "commitments.json").read_bytes())
    for one in ("seed", "inputs"):
        said[one]["leaf"] += 1
    (evidence_of(run, PLATFORM) / "commitments.json").write_bytes(canonical.encode(said) + b"\n")
    [check] = found(run)
    assert check.name == "commitments" and "after the first message of the run" in check.detail and check.message


def test_a_platform_that_names_a_plan_names_its_quotas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stripped(leaves: list[Leaf]) -> list[Leaf]:
        return [{name: value for name, value in leaf.items() if name != "policy_hash"} for leaf in leaves]

    run = resealed(Told().story(tmp_path), PLATFORM, stripped)
    (evidence_of(run, PLATFORM) / "policy.json").unlink()
    told = names(run)
    assert set(told) == {("policy", PLATFORM)} and "no policy" in told["policy", PLATFORM]
    monkeypatch.setattr(auditor_policy, "_unnamed_findings", lambda *_: iter(()))
    assert found(run) == []


def test_evidence_from_before_commitments_says_so(tmp_path: Path) -> None:
    verdict = auditor.verify_run(World(tmp_path).story())
    told = {check.detail for check in verdict.checks if check.name == "commitments"}
    assert verdict.ok and told == {auditor_commitments.OLD}


@pytest.mark.rule("R26")
def test_a_bank_approves_before_its_first_release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = resealed(World(tmp_path).story(), BANK, without("approved"))
    assert "no leaf shows that the contract was approved" in names(run)["approval", BANK]
    monkeypatch.setitem(auditor.PARTY_CHECKS, "approval", lambda _run, _own: iter(()))
    assert found(run) == []


@pytest.mark.rule("R26")
def test_what_a_bank_signed_is_judged_as_its_approval_is(tmp_path: Path, terms: Callable[..., None]) -> None:
    signed = behind("approved", event="signed", approver="operator-li", proposer="operator-li")
    [check] = found(resealed(World(tmp_path).story(), BANK, signed))
    assert check.name == "approval" and check.rule == "R26" and "the proposer" in check.detail


# ---- packs, contracts and heads


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return World(tmp_path_factory.mktemp("honest")).story()


def packed(run: Path, out: Path, *parties: str, keys: Mapping[str, signing.SigningKey] = KEYS) -> Path:
    write_pack({name: evidence_of(run, name) for name in parties}, keys, out, NOW)
    return out


def test_a_part_that_somebody_else_signed_neither_counts_nor_accuses(honest: Path, tmp_path: Path) -> None:
    shutil.copytree(honest / "parties", tmp_path / "parties")
    resealed(tmp_path, BANK, behind("finished", event="failed"))
    forged = packed(tmp_path, tmp_path / "forged.evidence", BANK, keys={BANK: KEYS["stranger"]})
    both = packed(honest, tmp_path / "both.evidence", PLATFORM, BANK)
    for given in ([both, forged], [forged, both], [forged, packed(honest, tmp_path / "one", PLATFORM)]):
        verdict = auditor.verify_packs(given, KNOWN)
        assert {check.name for check in verdict.failures} == {"parts"} and verdict.accused == []


def test_two_exports_of_one_ledger_have_to_be_the_same(honest: Path, tmp_path: Path) -> None:
    shutil.copytree(honest / "parties", tmp_path / "parties")
    (evidence_of(tmp_path, PLATFORM) / "registry.jsonl").write_bytes(b"")
    given = [packed(honest, tmp_path / "one", PLATFORM, BANK), packed(tmp_path, tmp_path / "two", PLATFORM)]
    [check] = auditor.verify_packs(given, KNOWN).failures
    assert check.name == "packs" and "registry.jsonl" in check.detail and "not the same" in check.detail


def test_a_pack_is_of_the_run_of_its_contract(honest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lianxin.parties.pack_export._run_of", lambda _evidence: "run-9")
    verdict = auditor.verify_packs([packed(honest, tmp_path / "nine", PLATFORM, BANK)], KNOWN)
    [check] = verdict.failures
    assert check.name == "packs" and RUN in check.detail and verdict.line.endswith(f"; run {RUN}")


def signed_by_strangers(run: Path, to: Path) -> Path:
    """A folder of the bank alone, with a contract that it signed for everybody."""
    shutil.copytree(run / "parties" / BANK, to / "parties" / BANK)
    record = a_contract()["record"]
    own = {name: signing.SigningKey.from_seed(bytes([50 + n]) * 32) for n, name in enumerate((PLATFORM, BANK))}
    for entry in record["parties"]:
        entry["node_key"] = own[entry["party"]].public_hex
    signed = canonical.encode(signing.sign_record(record, list(own.items())))
    (evidence_of(to, BANK) / "contract.json").write_bytes(signed + b"\n")
    return packed(to, to / "fake.evidence", BANK)


@pytest.mark.parametrize("is_first", [True, False])
def test_of_two_contracts_the_known_keys_tell_which_and_without_them_nobody_is_accused(
    honest: Path, tmp_path: Path, is_first: bool
) -> None:
    both = [signed_by_strangers(honest, tmp_path), packed(honest, tmp_path / "one", PLATFORM)]
    given = both if is_first else both[::-1]
    verdict = auditor.verify_packs(given)
    [check] = verdict.failures
    assert verdict.accused == [] and check.name == "packs" and "(contract " in check.detail
    assert "--known-keys" in check.remedy and verdict.run == ""
    assert [party for party, _ in auditor.verify_packs(given, KNOWN).accused] == [BANK]


def kept(run: Path, to: Path, time: str) -> Path:
    """Let the platform have kept a head of the bank's ledger with one leaf more than the bank exported."""
    shutil.copytree(run / "parties", to / "parties")
    line = a_head(BANK, [*leaves_of(run, BANK), b"one more"], time)
    with (evidence_of(to, PLATFORM) / "witnessed.jsonl").open("ab") as file:
        file.write(line + b"\n")
    return to


def test_a_head_that_is_later_than_the_export_is_no_fork(honest: Path, tmp_path: Path) -> None:
    verdict = auditor.verify_run(kept(honest, tmp_path / "later", "2026-06-01T00:00:00Z"))
    assert verdict.ok, verdict.failures
    assert any("bank-a went on after its export" in check.detail for check in verdict.checks)
    assert set(names(kept(honest, tmp_path / "same", NOW))) == {("witnessed", BANK)}


def test_an_export_says_when_it_was_made(honest: Path, tmp_path: Path) -> None:
    run = kept(honest, tmp_path, "2026-06-01T00:00:00Z")
    given = [packed(run, tmp_path / "now", PLATFORM, BANK)]
    assert auditor.verify_packs(given).ok
    write_pack({name: evidence_of(run, name) for name in KNOWN}, KEYS, tmp_path / "then", "2026-07-01T00:00:00Z")
    assert auditor.verify_packs([tmp_path / "then"]).accused[0][0] == BANK


@pytest.mark.parametrize("odd", [{"model": []}, {"retain_until": []}, {"platform": {}}, {"key_bits": "2048"}], ids=str)
def test_terms_of_odd_types_give_a_verdict(tmp_path: Path, terms: Callable[..., None], odd: dict[str, Any]) -> None:
    run = Told().story(tmp_path)
    for party in (PLATFORM, BANK):
        (evidence_of(run, party) / "contract.json").write_bytes(canonical.encode(a_contract(**odd)) + b"\n")
    [check] = found(run)
    assert check.name == "contract" and "terms of their types" in check.detail


def test_what_no_check_foresaw_fails_that_check(honest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stops(_run: object, _own: object) -> Any:
        raise TypeError("unhashable type")

    monkeypatch.setitem(auditor.PARTY_CHECKS, "snapshots", stops)
    failures = found(honest)
    assert {(check.name, check.accused) for check in failures} == {("snapshots", "")}
    assert "stopped at something that it cannot judge (TypeError)" in failures[0].detail
