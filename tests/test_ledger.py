import hashlib
import json
import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest
from stores import Place, edited

from lianxin.crypto import canonical, merkle, notes, signing
from lianxin.crypto.errors import EncodingRejected
from lianxin.federation.errors import EvidenceRejected, InputFault, RunStopped
from lianxin.parties.ledger import Ledger, registry_root
from lianxin.parties.ledger_export import keep_catalogue
from lianxin.parties.store import Store

NOW = "2026-05-01T08:00:00Z"
KEY, PEER = (signing.SigningKey.from_seed(bytes([n]) * 32) for n in (1, 2))
NOTE = {"kind": "note", "run": ""}


class StillClock:
    def now(self) -> str:
        return "2026-05-01T08:00:00Z"


@pytest.fixture
def path(any_store: Place) -> Place:
    return any_store


def head_in(line: dict[str, Any]) -> notes.Checkpoint:
    return notes.parse_checkpoint(notes.parse_note(line["note"].encode()).text)


def open_ledger(path: Place, key: signing.SigningKey = KEY) -> Ledger:
    return Ledger(Store(path), "bank-a", key, StillClock(), "lianxin 0.1.0", "operator-1")


def header(seq: int, **changes: Any) -> bytes:
    fields = {"type": "envelope", "version": 1, "run": "run-1", "conversation": "matching/a", "sender": "bank-a"}
    return canonical.encode({**fields, "seq": seq, **changes})


@pytest.mark.rule("R26", "R28")
def test_a_leaf_carries_who_when_and_which_code_and_comes_back_with_its_hash(path: Place) -> None:
    index, digest = open_ledger(path).append({**NOTE, "text": "联信"})
    (leaf,) = Store(path).leaves()
    assert (index, digest) == (0, hashlib.sha256(leaf).hexdigest())
    assert canonical.decode(leaf) == {
        **NOTE,
        "text": "联信",
        "type": "leaf",
        "version": 1,
        "time": "2026-05-01T08:00:00Z",
        "party": "bank-a",
        "operator": "operator-1",
        "code_version": "lianxin 0.1.0",
    }


def test_a_leaf_is_on_disk_for_another_reader_before_append_returns(path: Place) -> None:
    ledger = open_ledger(path)
    for count in range(1, 4):
        ledger.append(NOTE)
        with edited(path) as other:
            assert other.execute("select count(*) from leaves").fetchone() == (count,)


def test_the_store_writes_ahead_and_syncs_every_commit(tmp_path: Path) -> None:
    with Store(tmp_path / "a.db")._engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2


def test_a_reopened_ledger_has_the_same_root_and_goes_on(path: Place) -> None:
    first = open_ledger(path)
    first.append_many([{**NOTE, "n": n} for n in range(2500)])
    checkpoint = first.checkpoint()
    again = open_ledger(path)
    assert (again.size, again.root()) == (2500, first.root()) == (2500, head_in(checkpoint).root.hex())
    assert again.append(NOTE)[0] == 2500
    assert again.root() == merkle.root_of(Store(path).leaves()).hex()


def test_a_checkpoint_is_signed_by_the_node_key_and_kept(path: Place) -> None:
    ledger = open_ledger(path)
    ledger.append(NOTE)
    kept = ledger.checkpoint()
    notes.verify(notes.parse_note(kept["note"].encode()), "lianxin/bank-a", KEY.public_hex)
    assert head_in(kept) == notes.Checkpoint("lianxin/bank-a", 1, bytes.fromhex(ledger.root()), (f"time {NOW}",))
    assert Store(path).checkpoints() == [canonical.encode(kept)]


STORE_EDITS = {
    "a changed leaf": "update leaves set data = (select data from leaves where position = 0) where position = 1",
    "a dropped leaf": "delete from leaves where position = 2",
    "two leaves swapped": "update leaves set position = 10 + case position when 0 then 1 when 1 then 0 else 2 end",
}


@pytest.mark.parametrize("edit", STORE_EDITS.values(), ids=STORE_EDITS)
def test_a_store_that_contradicts_its_last_checkpoint_is_refused(path: Place, edit: str) -> None:
    ledger = open_ledger(path)
    ledger.append_many([{**NOTE, "n": n} for n in range(3)])
    ledger.checkpoint()
    with edited(path) as other:
        other.execute(edit)
        other.execute("update leaves set position = position - 10 where position >= 10")
    with pytest.raises(EvidenceRejected, match="last signed checkpoint"):
        open_ledger(path)
    with edited(path) as other:
        other.execute("delete from checkpoints")
    assert open_ledger(path).size in (2, 3)  # without the signed head nobody notices


def test_a_checkpoint_of_another_key_does_not_open_the_ledger(path: Place) -> None:
    open_ledger(path, PEER).checkpoint()
    with pytest.raises(EvidenceRejected):
        open_ledger(path)


def test_threads_get_distinct_indices_without_gaps(path: Place) -> None:
    ledger, indices = open_ledger(path), []

    def work() -> None:
        indices.extend(ledger.append(NOTE)[0] for _ in range(25))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(indices) == list(range(100))
    assert open_ledger(path).root() == ledger.root()


def test_a_second_writer_of_the_same_store_fails_instead_of_forking(path: Place) -> None:
    first, second = open_ledger(path), open_ledger(path)
    first.append(NOTE)
    with pytest.raises(InputFault, match="already written"):
        second.append({**NOTE, "other": True})
    assert second.size == 0
    assert open_ledger(path).size == 1


def test_a_batch_with_one_bad_leaf_writes_none(path: Place) -> None:
    ledger = open_ledger(path)
    with pytest.raises(EncodingRejected):
        ledger.append_many([NOTE, {**NOTE, "share": 0.5}])
    assert ledger.size == Store(path).leaf_count() == 0


@pytest.mark.parametrize(
    "fields", [{"kind": "note"}, {"run": ""}, {**NOTE, "time": "x"}, {**NOTE, "party": "x"}], ids=str
)
def test_leaf_fields_that_the_ledger_sets_itself_or_misses_are_our_mistake(path: Place, fields: dict) -> None:
    with pytest.raises(ValueError, match="leaf's fields"):
        open_ledger(path).append(fields)


def test_an_envelope_and_its_leaf_go_in_together_or_not_at_all(path: Place) -> None:
    ledger = open_ledger(path)
    leaf = {"kind": "envelope", "run": "run-1", "direction": "out"}
    assert ledger.append_envelope(leaf, header(0), b"s")[0] == 0
    with pytest.raises(InputFault):
        ledger.append_envelope(leaf, header(0, step="again"), b"s")
    assert (ledger.size, len(Store(path).envelopes())) == (1, 1)
    assert ledger.append_envelope({**leaf, "direction": "in"}, header(0), b"s")[0] == 1
    assert [row.ledger_index for row in Store(path).envelopes("run-1")] == [0, 1]
    assert Store(path).envelopes("run-2") == []


def test_a_release_keeps_its_consents_under_its_id(path: Place) -> None:
    ledger = open_ledger(path)
    _, release = ledger.append_release({"kind": "release", "run": "run-1"}, ["c-2", "c-1"])
    assert Store(path).release_consents() == {release: ["c-2", "c-1"]}


def test_what_is_kept_beside_a_release_goes_in_with_its_leaf_or_not_at_all(path: Place) -> None:
    first, second = open_ledger(path), open_ledger(path)
    first.append_release({"kind": "release", "run": "run-1"}, ["c-1"], settings={"release-commitments/ab": b"salt"})
    assert Store(path).setting("release-commitments/ab") == b"salt"
    with pytest.raises(InputFault, match="already written"):
        second.append_release({"kind": "release", "run": "run-2"}, ["c-1"], settings={"release-commitments/cd": b"x"})
    assert Store(path).setting("release-commitments/cd") is None


def test_the_registry_grows_with_the_leaf_that_commits_to_it(path: Place) -> None:
    ledger = open_ledger(path)
    signed = [signing.sign_record({"type": "consent", "version": 1, "n": n}, [("firm", PEER)]) for n in range(3)]
    ledger.append_registry(signed[:2])
    ledger.append_registry(signed[2:])
    leaves = [canonical.decode(leaf) for leaf in Store(path).leaves()]
    assert [leaf["epoch"] for leaf in leaves] == [2, 3]
    assert leaves[0]["registry_root"] == registry_root(map(canonical.encode, signed[:2]))
    assert leaves[1]["record_hash"] == canonical.record_hash(signed[2]["record"])
    assert Store(path).registry_records() == [canonical.encode(one) for one in signed]
    assert Store(path).registry_records(1) == [canonical.encode(signed[0])]


def test_proofs_from_the_ledger_verify_against_its_checkpoints(path: Place) -> None:
    ledger = open_ledger(path)
    ledger.append_many([{**NOTE, "n": n} for n in range(5)])
    old = ledger.root()
    ledger.append_many([{**NOTE, "n": n} for n in range(6)])
    proof = [bytes.fromhex(node) for node in ledger.consistency_proof(5)]
    merkle.verify_consistency(5, 11, bytes.fromhex(old), bytes.fromhex(ledger.root()), proof)
    leaf = merkle.leaf_hash(list(Store(path).leaves())[7])
    path_up = [bytes.fromhex(node) for node in ledger.inclusion_proof(7)]
    merkle.verify_inclusion(leaf, 7, 11, path_up, bytes.fromhex(ledger.root()))


def exportable(path: Place) -> Ledger:
    ledger, store = open_ledger(path), Store(path)
    contract = {"type": "run-contract", "version": 1, "run": "run-1"}
    store.put_run("run-1", "done", canonical.encode(signing.sign_record(contract, [("bank-a", KEY)])))
    store.put_setting("catalogue", b"field_name_en\n")
    store.add_firm_keys({"ab": PEER.public_hex})
    ledger.append_envelope({"kind": "envelope", "run": "run-1", "direction": "out"}, header(0, step="train"), b"s")
    ledger.append_envelope({"kind": "envelope", "run": "run-2", "direction": "out"}, header(0, run="run-2"), b"s")
    return ledger


FILES = {"contract.json", "catalogue.csv", "commitments.json"} | {
    f"{name}.jsonl"
    for name in (
        *("ledger", "checkpoints", "witnessed", "registry", "firm_keys", "release_consents", "envelopes", "grades"),
    )
}


def test_an_export_holds_every_evidence_file_the_whole_ledger_and_one_run(path: Place, tmp_path: Path) -> None:
    folder = exportable(path).export(tmp_path / "out", "run-1")
    assert {file.name for file in folder.iterdir()} == FILES
    assert [line.encode() for line in (folder / "ledger.jsonl").read_text().splitlines()] == list(Store(path).leaves())
    (envelope,) = (folder / "envelopes.jsonl").read_text().splitlines()
    assert json.loads(envelope)["header"]["run"] == "run-1"
    (head,) = (folder / "checkpoints.jsonl").read_text().splitlines()
    assert head_in(json.loads(head)).size == 2


def test_a_second_export_replaces_the_first_and_leaves_nothing_else_behind(path: Place, tmp_path: Path) -> None:
    ledger = exportable(path)
    ledger.export(tmp_path / "out")
    ledger.append(NOTE)
    folder = ledger.export(tmp_path / "out")
    assert len((folder / "ledger.jsonl").read_text().splitlines()) == 3
    assert [entry.name for entry in (tmp_path / "out").iterdir()] == ["evidence"]


def test_an_export_that_breaks_half_way_leaves_the_old_evidence_as_it_was(
    path: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = exportable(path)
    folder = ledger.export(tmp_path / "out")
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    ledger.append(NOTE)
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(RunStopped, match="disk full"):
        ledger.export(tmp_path / "out")
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    assert [entry.name for entry in (tmp_path / "out").iterdir()] == ["evidence"]


def test_a_run_is_exported_with_the_catalogue_that_its_contract_names(path: Place, tmp_path: Path) -> None:
    ledger, store = exportable(path), Store(path)
    agreed, today = b"field_name_en\nrevenue\n", b"field_name_en\nrevenue\nregion\n"
    digest = hashlib.sha256(agreed).hexdigest()
    contract = {"type": "run-contract", "version": 3, "run": "run-1", "catalogues": {"bank-a": digest}}
    store.put_run("run-1", "done", canonical.encode(signing.sign_record(contract, [("bank-a", KEY)])))
    for catalogue in (agreed, today):  # the node was started again with another file
        keep_catalogue(store, catalogue)
    assert store.setting("catalogue") == today
    assert (ledger.export(tmp_path / "out") / "catalogue.csv").read_bytes() == agreed
    store.delete_setting(f"catalogue/{digest}")  # a store of before 0.3 kept the present one alone
    assert (ledger.export(tmp_path / "out") / "catalogue.csv").read_bytes() == today


def test_an_export_without_a_known_run_or_catalogue_is_refused_in_one_sentence(path: Place, tmp_path: Path) -> None:
    with pytest.raises(InputFault, match="contracts"):
        open_ledger(path).export(tmp_path)
    ledger = exportable(path)
    Store(path).delete_setting("catalogue")
    with pytest.raises(InputFault, match="catalogue"):
        ledger.export(tmp_path)
    with pytest.raises(InputFault, match="run-9"):
        ledger.export(tmp_path, "run-9")


def test_a_store_of_another_version_and_a_foreign_file_are_refused(path: Place, tmp_path: Path) -> None:
    Store(path).close()
    with edited(path) as other:
        other.execute("update schema set version = 99")
    with pytest.raises(InputFault, match="version 99"):
        Store(path)
    with sqlite3.connect(tmp_path / "foreign.db") as other:
        other.execute("create table things (a)")
    with pytest.raises(InputFault, match="version none"):
        Store(tmp_path / "foreign.db")
    (tmp_path / "text").write_text("no database " * 100)
    with pytest.raises(InputFault, match="cannot be opened"):
        Store(tmp_path / "text")


def test_runs_settings_and_firm_keys_are_kept_and_changed_by_rule(path: Place) -> None:
    store = Store(path)
    store.put_run("run-1", "proposed", b"contract")
    store.set_run_state("run-1", "failed", "the peer left")
    row = Store(path).run("run-1")
    assert row is not None and (row.state, row.contract, row.note) == ("failed", b"contract", "the peer left")
    assert store.run("run-2") is None
    with pytest.raises(InputFault, match="not known"):
        store.set_run_state("run-2", "failed")
    store.put_setting("round", b"1")
    store.put_setting("round", b"2")
    assert Store(path).setting("round") == b"2"
    store.delete_setting("round")
    assert store.setting("round") is None
    store.add_firm_keys({"a": "1"})
    store.add_firm_keys({"a": "1", "b": "2"})
    with pytest.raises(InputFault, match="another key"):
        store.add_firm_keys({"c": "3", "a": "9"})
    assert store.firm_keys() == {"a": "1", "b": "2"}
