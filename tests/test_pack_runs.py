"""Packs of real runs: what a node keeps for them, what the command writes, how large they are, and whom they name."""

import hashlib
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
import query_world
import worlds
from attacks import test_01_dictionary as dictionary
from conftest import ROOT
from typer.testing import CliRunner
from worlds import World

from lianxin.crypto import canonical
from lianxin.crypto.randomness import derive_seed
from lianxin.crypto.signing import SigningKey
from lianxin.parties import commitments, run_inputs
from lianxin.parties.auditor import verify_run
from lianxin.parties.auditor_manifest import MEMBERS
from lianxin.parties.auditor_pack import manifest_of, part_key, unpack
from lianxin.parties.cli import app
from lianxin.parties.config import load_node
from lianxin.parties.node import simulated_seed
from lianxin.parties.pack_export import write_pack
from lianxin.parties.software import software_record
from lianxin.parties.store import Store

finished = worlds.finished
tables, shared = query_world.tables_of_module, query_world.shared
MOST_A_MESSAGE = 1000  # bytes of a pack for each distinct message
OF_MESSAGES = ("envelopes.jsonl", "ledger.jsonl")


def command(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(one) for one in arguments])


@pytest.fixture(scope="module")
def pack(finished: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("pack") / "run-1.evidence"
    result = command("audit", "export", finished.layout.folder, "--out", out, "--json")
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout.splitlines()[-1])
    assert said == {
        "run": "run-1",
        "parties": sorted(finished.layout.parties),
        "bytes": out.stat().st_size,
        "out": str(out),
    }
    return out


@pytest.fixture(scope="module")
def unpacked(pack: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unpacked")
    unpack(pack, folder)
    return folder


def document(folder: Path, party: str, name: str) -> dict[str, Any]:
    return canonical.decode((folder / "parties" / party / "evidence" / name).read_bytes().removesuffix(b"\n"))


def contract_leaves(world: World, party: str) -> list[dict[str, Any]]:
    return world.leaves(party, "contract")


# ---- what a run's parties hand over


def test_the_pack_of_a_run_verifies_and_holds_every_member_of_every_party_under_its_node_key(
    finished: World, pack: Path, unpacked: Path
) -> None:
    keys = {entry["party"]: entry["node_key"] for entry in contract_record(finished)["parties"]}
    for part in manifest_of(pack).parts:
        has_policy = (unpacked / "parties" / part.party / "evidence" / "policy.json").exists()
        assert [member.name for member in part.members] == list(MEMBERS) and has_policy
        assert part_key(unpacked / "parties" / part.party) == part.key == keys[part.party]
    assert verify_run(unpacked, keys).failures == ()


def contract_record(world: World) -> dict[str, Any]:
    data = (world.layout.home(world.platform) / "evidence" / "contract.json").read_bytes()
    return canonical.decode_fragment(data.removesuffix(b"\n"))["record"]


def test_every_party_has_the_plan_that_was_proposed_and_its_leaves_name_it(finished: World, unpacked: Path) -> None:
    plans = {party: document(unpacked, party, "plan.json") for party in finished.layout.parties}
    assert len({canonical.encode(plan) for plan in plans.values()}) == 1
    plan = plans[finished.platform]
    assert (plan["type"], plan["contract"]) == ("plan", canonical.record_hash(contract_record(finished)))
    for party in finished.layout.parties:
        policy = document(unpacked, party, "policy.json")
        hashes = {"plan_hash": canonical.record_hash(plan), "policy_hash": canonical.record_hash(policy)}
        hashes["software_hash"] = canonical.record_hash(software_record())
        events = {leaf["event"]: leaf for leaf in contract_leaves(finished, party)}
        for event in ("proposed", "approved") if party in finished.banks else ("proposed",):
            assert {name: events[event][name] for name in hashes} == hashes
        for event in ("signed", "finished", "seed-committed"):
            assert not {"plan_hash", "policy_hash", "software_hash"} & set(events[event])


def test_a_policy_is_the_one_of_the_nodes_configuration(finished: World, unpacked: Path) -> None:
    for party in finished.layout.parties:
        config, policy = load_node(finished.layout.home(party) / "node.toml"), document(unpacked, party, "policy.json")
        assert policy == commitments.policy_of(config, party)
        assert policy["type"] == ("platform-policy" if party == finished.platform else "approval-policy")


def test_seed_and_inputs_are_committed_to_one_after_the_other_and_can_be_opened(
    finished: World, unpacked: Path
) -> None:
    for party in finished.layout.parties:
        said, leaves = document(unpacked, party, "commitments.json"), finished.leaves(party)
        seed = commitments_of(leaves, "seed-committed")
        inputs = commitments_of(leaves, "inputs-committed")
        assert inputs["leaf"] == seed["leaf"] + 1 and (said["seed"], said["inputs"]) == (seed, inputs)
        config = load_node(finished.layout.home(party) / "node.toml")
        secret = derive_seed(simulated_seed(config.simulation.seed), party, "run-1")
        assert run_inputs.seed_commitment(secret) == seed["commitment"]
        store = Store(config.state / "store.sqlite")
        kept = run_inputs.kept_inputs(store, "run-1")
        store.close()
        assert kept is not None and run_inputs.inputs_commitment(secret, kept) == inputs["commitment"]
        assert kept["table_sha256"] == hashlib.sha256(config.data.table.read_bytes()).hexdigest()
        assert run_inputs.inputs_commitment(secret, kept | {"table_sha256": "0" * 64}) != inputs["commitment"]


def commitments_of(leaves: list[dict[str, Any]], event: str) -> dict[str, Any]:
    ((place, leaf),) = [(n, one) for n, one in enumerate(leaves) if one.get("event") == event]
    return {"commitment": leaf["contract_hash"], "leaf": place}


def test_transcript_and_model_digests_are_those_of_the_run(finished: World, unpacked: Path) -> None:
    said = document(unpacked, finished.platform, "commitments.json")
    assert said["transcript"] == finished.ran.summary["transcript_sha256"]
    for party in finished.layout.parties:
        model = (finished.layout.run_state(party) / "model.json").read_bytes()
        models = document(unpacked, party, "commitments.json")["models"]
        assert models == {"model.json": hashlib.sha256(model).hexdigest()}


def test_the_software_is_named_with_the_digest_of_every_distributions_file_list(
    finished: World, unpacked: Path
) -> None:
    record = document(unpacked, finished.platform, "software.json")
    assert record == software_record()
    assert {leaf["code_version"] for leaf in finished.leaves(finished.platform)} == {record["code_version"]}
    digests = {one["name"].lower(): one["record_sha256"] for one in record["distributions"]}
    assert all(len(digests[name]) == 64 for name in ("lianxin", "cryptography", "numpy"))


# ---- the command


def test_a_node_exports_its_own_part_alone_and_one_party_of_a_simulated_run_can_be_chosen(
    finished: World, tmp_path: Path
) -> None:
    bank = finished.banks[0]
    node, own = finished.layout.home(bank) / "node.toml", finished.layout.run_state(bank)
    assert command("audit", "export", own, "--node", node, "--out", tmp_path / "own").exit_code == 0
    folder = finished.layout.folder
    assert command("audit", "export", folder, "--party", bank, "--out", tmp_path / "chosen").exit_code == 0
    for name in ("own", "chosen"):
        assert unpack(tmp_path / name, tmp_path / f"{name}-out") == [bank]
    files = [{f.name: f.read_bytes() for f in (tmp_path / f"{n}-out").rglob("evidence/*")} for n in ("own", "chosen")]
    assert files[0] == files[1]


def test_mistakes_of_an_export_are_one_sentence_and_write_nothing(finished: World, tmp_path: Path) -> None:
    folder, node = finished.layout.folder, finished.layout.home(finished.banks[0]) / "node.toml"
    cases = {
        "no party": (folder, "--party", "bank-9"),
        "no simulated run's folder": (tmp_path,),
        "no run of that node": (folder, "--node", node),
        "exports its own part alone": (folder, "--node", node, "--party", "platform"),
    }
    for says, arguments in cases.items():
        result = command("audit", "export", *arguments, "--out", tmp_path / "x")
        assert says in str(result.exception) and not (tmp_path / "x").exists()


def test_a_standing_agreement_is_exported_while_it_stands(shared: query_world.Network, tmp_path: Path) -> None:
    nodes = {query_world.PLATFORM: shared.platform.node, query_world.BANK: shared.banks[query_world.BANK].node}
    for party in nodes:
        nodes[party].ledger.checkpoint()  # as a node does within a minute of activity
        node = shared.layout.home(party) / "node.toml"
        state = load_node(node).state / "runs" / query_world.RUN
        out = tmp_path / f"{party}.evidence"
        assert command("audit", "export", state, "--node", node, "--out", out).exit_code == 0
        assert unpack(out, tmp_path / "run") == [party]
        assert document(tmp_path / "run", party, "plan.json")["model"] == "field_query"
        said = document(tmp_path / "run", party, "commitments.json")
        assert not {"seed", "inputs", "models"} & set(said) and said["transcript"]


# ---- how large, and about whom


def sizes(pack: Path, evidence: Path) -> dict[str, int]:
    """Return how many bytes of a pack there are for each distinct message: whole, and of messages and their leaves alone."""
    messages = set()
    for file in evidence.rglob("envelopes.jsonl"):
        headers = (json.loads(line)["header"] for line in file.read_bytes().splitlines())
        messages |= {(one["conversation"], one["sender"], one["seq"]) for one in headers}
    members = [member for part in manifest_of(pack).parts for member in part.members]
    own = sum(block.stored for member in members if member.name in OF_MESSAGES for block in member.blocks)
    return {"messages": len(messages), "whole": pack.stat().st_size // len(messages), "own": own // len(messages)}


def test_a_message_takes_less_than_a_kilobyte_of_a_pack(pack: Path, unpacked: Path, tmp_path: Path) -> None:
    with tarfile.open(ROOT / "simulations" / "golden" / "0.5.0-network.tar.xz") as golden:
        golden.extractall(tmp_path, filter="data")
    folders = {folder.name: folder / "evidence" for folder in next(tmp_path.rglob("parties")).iterdir()}
    keys = {party: SigningKey.from_seed(bytes([n]) * 32) for n, party in enumerate(folders)}
    write_pack(folders, keys, tmp_path / "network.evidence", "2026-05-01T08:00:00Z")
    found = {"scorecard": sizes(pack, unpacked), "network": sizes(tmp_path / "network.evidence", tmp_path)}
    print(json.dumps(found))
    assert all(one["own"] < MOST_A_MESSAGE for one in found.values())  # the rest are consents, and grows with the firms


def test_a_pack_holds_no_firms_code_and_no_digest_of_one(finished: World, pack: Path, unpacked: Path) -> None:
    codes, keys = dictionary.codes_of(finished), dictionary.published_keys(finished)
    seen = b"\x00".join(
        [pack.read_bytes(), *(file.read_bytes() for file in sorted(unpacked.rglob("*")) if file.is_file())]
    )
    assert len(codes) > 1000 and len(seen) > 10**6
    assert dictionary.hits_of_text(seen, codes) == [] and [code for code in codes if code.encode() in seen] == []
    words = {word[:16] for word in dictionary.re.findall(rb"[0-9a-f]{16,}", seen)}
    digests = dictionary.keyed(keys[:8]).values()
    assert not [code for code in codes[::8] for digest in digests if digest(code.encode()).hex()[:16].encode() in words]
    planted = b" ".join([seen, hashlib.sha256(codes[7].encode()).hexdigest().encode()])
    assert dictionary.hits_of_text(planted, codes) == ["sha256 of code 7"]
