"""What the auditor says of commitments: seeds and inputs fixed before the run, and a transcript that is the envelopes'."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import audit_world
import pytest
import worlds
from audit_world import Told, found, passes_without, rewrite
from evidence_world import BANK, PLATFORM, World

from lianxin.crypto import canonical
from lianxin.parties import auditor_commitments
from lianxin.parties.auditor_evidence import Run, read_evidence
from lianxin.parties.store import Store
from lianxin.parties.transcript_digest import transcript_digest

terms = audit_world.terms
finished = worlds.finished
COMMITTED = "commitments.json"
Change = Callable[[dict[str, Any]], None]


def sets(**entries: Any) -> Change:
    return lambda record: record.update(entries)


def without(name: str) -> Change:
    return lambda record: record.pop(name)


CHANGED: dict[str, tuple[str, Change, str]] = {
    "another seed": (COMMITTED, lambda one: one["seed"].update(commitment="0" * 64), "another seed"),
    "another leaf of the inputs": (COMMITTED, lambda one: one["inputs"].update(leaf=0), "another inputs"),
    "no inputs": (COMMITTED, without("inputs"), "its inputs is not in one leaf"),
    "another transcript": (COMMITTED, sets(transcript="0" * 64), "transcript"),
    "another party's": (COMMITTED, sets(party="bank-b"), "another type, version, run or party, or"),
    "another program": ("software.json", sets(code_version="lianxin 9.9.9"), "another program"),
    "another interpreter": ("software.json", sets(python="CPython 2.7"), "another software"),
}


@pytest.mark.parametrize("case", CHANGED)
def test_commitments_that_are_not_the_leaves_are_named(
    tmp_path: Path, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, change, says = CHANGED[case]
    run = Told().story(tmp_path)
    rewrite(run, BANK, name, change)
    [check] = found(run)
    assert (check.name, check.subject) == ("commitments", BANK) and says in check.detail and BANK in check.remedy
    assert passes_without(run, "commitments", monkeypatch)


@pytest.mark.parametrize("name", [COMMITTED, "software.json"])
def test_a_file_that_the_leaves_ask_for_and_that_is_gone_is_named(tmp_path: Path, name: str) -> None:
    run = Told().story(tmp_path)
    (run / "parties" / PLATFORM / "evidence" / name).unlink()
    [check] = found(run)
    assert (check.name, check.subject) == ("commitments", PLATFORM) and name in check.detail and check.leaf >= 0


def commits(event: str) -> Callable[[World], None]:
    def late(world: World) -> None:
        world.parties[BANK].log("contract", event=event, contract_hash="0" * 64, rule="")

    return late


def test_a_seed_that_is_committed_to_again_is_named(tmp_path: Path) -> None:
    failures = found(Told(forged=commits("seed-committed")).story(tmp_path))
    assert {check.name for check in failures} == {"commitments"}
    assert any("seed is committed to a second time" in check.detail and check.leaf >= 0 for check in failures)


def late_inputs(told: Told) -> None:
    """Let a bank commit to its inputs after what it has released."""
    tell = told._before

    def before(world: World) -> None:
        log = world.parties[BANK].log
        world.parties[BANK].log = lambda kind, **leaf: (
            None if leaf.get("event") == "inputs-committed" else log(kind, **leaf)
        )  # type: ignore[method-assign]
        tell(world)
        world.parties[BANK].log = log  # type: ignore[method-assign]
        commits("inputs-committed")(world)

    told._before = before  # type: ignore[method-assign]


def test_inputs_that_are_committed_to_after_the_first_release_bind_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Told()
    late_inputs(told)
    run = told.story(tmp_path)
    [check] = found(run)
    assert (check.name, check.subject) == ("commitments", BANK) and "after the first release" in check.detail
    assert check.leaf >= 0 and passes_without(run, "commitments", monkeypatch)


def test_a_signature_that_was_left_out_of_the_envelopes_changes_the_transcript(tmp_path: Path) -> None:
    run = Told().story(tmp_path)
    path = run / "parties" / PLATFORM / "evidence" / "envelopes.jsonl"
    path.write_bytes(b"".join(line + b"\n" for line in path.read_bytes().splitlines()[:-2]))
    assert "commitments" in {check.name for check in found(run)}


def test_the_digest_is_the_nodes_own(finished: worlds.World) -> None:
    for party in finished.layout.parties:
        store = Store(finished.layout.home(party) / "state" / "store.sqlite")
        own = read_evidence(finished.layout.home(party))
        assert auditor_commitments._Conversations.of(own).digest() == transcript_digest(store, "run-1")
        store.close()


def test_a_digest_does_not_depend_on_the_order_in_which_envelopes_lie() -> None:
    entries = [bytes([n]) * 40 for n in (1, 2, 3)]
    for order in ((0, 1, 2), (2, 0, 1)):
        group = b"".join(entries[n] for n in order)
        assert list(auditor_commitments._ascending(group, 40)) == entries


def test_a_networks_weights_are_those_of_its_last_round() -> None:
    rounds = [(n, {"weights_sha256": text}) for n, text in ((3, "aa"), (9, "bb"))]
    platform: Any = SimpleNamespace(party=PLATFORM, of_kind=lambda kind, run: iter(rounds))
    bank: Any = SimpleNamespace(party=BANK)
    contract = {"model": "mlp", "platform": PLATFORM, "run": "run-1"}
    run = Run(contract, "", {}, {PLATFORM: platform, BANK: bank})
    assert list(auditor_commitments._model_findings(run, bank, {"model_sha256": "bb"})) == []
    for own, leaf in ((bank, -1), (platform, 9)):
        [finding] = auditor_commitments._model_findings(run, own, {"model_sha256": "aa"})
        assert "last" in finding.detail or "leaf 9" in finding.detail
        assert finding.leaf == leaf


def test_commitments_of_a_whole_run_name_its_leaves(finished: worlds.World) -> None:
    for party in finished.layout.parties:
        evidence = finished.layout.home(party) / "evidence"
        record = json.loads((evidence / COMMITTED).read_bytes())
        leaves = (evidence / "ledger.jsonl").read_bytes().splitlines()
        for name, event in auditor_commitments.EVENTS.items():
            leaf = canonical.decode(leaves[record[name]["leaf"]])
            assert (leaf["event"], leaf["contract_hash"]) == (event, record[name]["commitment"])
