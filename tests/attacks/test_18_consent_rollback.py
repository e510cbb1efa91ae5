"""Attack 18: put yesterday's store back, so that a consent withdrawn today is alive again.

The attacker stops the node, copies files of the state folder and starts it again; it has no key of the node. Each test
first shows the attack succeeding with the defence taken out: no mark beside the store, or no witness of the ledger.
"""

import contextlib
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import consents as w
import pytest
from audit_world import found, passes_without
from evidence_world import BANK, KEYS, PLATFORM, World, a_revocation

from lianxin.crypto import canonical, signing
from lianxin.crypto.errors import ProofOfInclusionRejected
from lianxin.federation.errors import EvidenceRejected, GateRefused, RunStopped
from lianxin.parties import consent_high_water
from lianxin.parties.ledger import Ledger
from lianxin.parties.ledger_witness import Witness
from lianxin.parties.store import Store

FIELDS = ("staff_count",)
MARK = "high-water.json"


def start(folder: Path, *, marked: bool = True) -> w.Provider:
    return w.Provider(folder, w.FIRM, high_water=marked, attesting=())


def take(node: w.Provider) -> tuple[str, ...]:
    return node.boundary.release(w.contract_of(), w.request_of(*FIELDS), [w.FIRM], {"staff_count": [1]}).firms


def given_again() -> dict[str, object]:
    return w.signed(w.consent_record(consent_id="consent-2", created_at=w.NOW, not_before=w.NOW))


def stop(node: w.Provider) -> None:
    with node.store.writing() as connection:
        connection.exec_driver_sql("COMMIT")
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.exec_driver_sql("BEGIN")
    node.store.close()


def withdrawn_yesterday(folder: Path, *, marked: bool = True) -> Path:
    """Run a node that is given a consent, copies its folder, and then takes the withdrawal; return the copy."""
    state, copy = folder / "state", folder / "yesterday"
    state.mkdir()
    node = start(state, marked=marked)
    node.give(w.FIRM, consent_id="consent-1")
    stop(node)
    shutil.copytree(state, copy)
    node = start(state, marked=marked)
    node.register.revoke(w.signed(w.revocation_record()))
    with pytest.raises(GateRefused) as refused:
        take(node)
    assert refused.value.rule == "R04"
    stop(node)
    return copy


def put_back(folder: Path, copy: Path, *names: str) -> None:
    for name in names:
        shutil.copy(copy / name, folder / "state" / name)


@pytest.mark.rule("R04")
def test_yesterdays_store_does_not_start_and_would_release_without_the_mark(tmp_path: Path) -> None:
    for name, marked in (("kept", True), ("weak", False)):
        folder = tmp_path / name
        folder.mkdir()
        put_back(folder, withdrawn_yesterday(folder, marked=marked), "store.db")
        if marked:
            with pytest.raises(EvidenceRejected, match="older or another copy"):
                start(folder / "state")
        else:
            node = start(folder / "state", marked=False)
            assert take(node) == (w.FIRM,)
            node.store.close()


def test_a_store_of_another_registry_of_the_same_length_does_not_start(tmp_path: Path) -> None:
    copy = withdrawn_yesterday(tmp_path)
    node = start(copy, marked=False)
    node.register.import_records([w.signed(w.consent_record(consent_id="consent-2"))])
    node.boundary.release(w.contract_of(), w.request_of(*FIELDS), [w.FIRM], {"staff_count": [1]})
    stop(node)
    put_back(tmp_path, copy, "store.db")
    with pytest.raises(EvidenceRejected, match="older or another copy"):
        start(tmp_path / "state")


def test_a_store_that_went_on_starts_and_the_mark_rises_before_a_change_is_acknowledged(tmp_path: Path) -> None:
    withdrawn_yesterday(tmp_path)
    node = start(tmp_path / "state")
    before = consent_high_water.read_mark(tmp_path / "state" / MARK)
    node.register.import_records([given_again()])
    after = consent_high_water.read_mark(tmp_path / "state" / MARK)
    assert before is not None and after is not None
    assert (before.epoch, after.epoch, after.ledger_size) == (2, 3, node.ledger.size)
    node.store.close()


def test_a_crash_between_the_store_and_the_mark_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    withdrawn_yesterday(tmp_path)
    node = start(tmp_path / "state")

    def crash(*_: object) -> None:
        raise OSError("power cut")

    monkeypatch.setattr("lianxin.parties.consent_high_water.write_mark", crash)
    with pytest.raises(OSError, match="power cut"):
        node.register.import_records([given_again()])
    node.store.close()
    monkeypatch.undo()
    again = start(tmp_path / "state")
    assert again.register.epoch == 3
    again.store.close()


def take_once(node: w.Provider, run: str) -> tuple[str, ...]:
    contract = w.contract_of(run=run)
    return node.boundary.release(contract, w.request_of(*FIELDS), [w.FIRM], {"staff_count": [1]}).firms


def used_up(folder: Path, *, marked: bool) -> Path:
    """Run a node with a consent for one use, copy its folder, and then let the use be taken; return the copy."""
    state, copy = folder / "state", folder / "before the use"
    state.mkdir(parents=True)
    node = start(state, marked=marked)
    once = w.consent_record(w.FIRM, consent_id="consent-1", max_uses=1)
    node.register.import_records([w.signed(once, w.FIRM)])
    stop(node)
    shutil.copytree(state, copy)
    node = start(state, marked=marked)
    assert take_once(node, "run-1") == (w.FIRM,)
    with pytest.raises(GateRefused):
        take_once(node, "run-2")
    stop(node)  # without a checkpoint, as a node that is killed
    return copy


def test_a_consent_for_one_use_is_not_made_unused_by_the_store_of_before(tmp_path: Path) -> None:
    for name, marked in (("kept", True), ("weak", False)):
        put_back(tmp_path / name, used_up(tmp_path / name, marked=marked), "store.db")
        if marked:
            with pytest.raises(EvidenceRejected, match="older or another copy"):
                start(tmp_path / name / "state")
        else:
            node = start(tmp_path / name / "state", marked=False)
            assert take_once(node, "run-2") == (w.FIRM,)
            node.store.close()


def test_each_checkpoint_and_the_stop_of_a_node_raise_the_mark(tmp_path: Path) -> None:
    node = start(tmp_path)
    mark = tmp_path / MARK

    def size() -> int:
        found = consent_high_water.read_mark(mark)
        return found.ledger_size if found else -1

    before = size()
    node.ledger.append({"kind": "note", "run": ""})
    assert size() == before < node.ledger.size  # a leaf that nothing is counted by does not raise it...
    node.ledger.checkpoint()
    assert size() == node.ledger.size  # ...the checkpoint over it does, and so does the last one
    node.ledger.append({"kind": "note", "run": ""})
    node.ledger.close()
    assert size() == node.ledger.size
    node.store.close()


def test_the_mark_is_raised_after_the_leaf_is_on_disk_and_a_crash_before_it_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = start(tmp_path)
    once = w.consent_record(w.FIRM, consent_id="consent-1", max_uses=1)
    node.register.import_records([w.signed(once, w.FIRM)])
    there = list[tuple[int, int]]()

    def crash(_path: Path, mark: consent_high_water.Mark) -> None:
        with sqlite3.connect(tmp_path / "store.db") as other:
            there.append((mark.ledger_size, *other.execute("select count(*) from leaves").fetchone()))
        raise OSError("power cut")

    monkeypatch.setattr(consent_high_water, "write_mark", crash)
    with pytest.raises(RunStopped, match="mark beside the store"):
        take_once(node, "run-1")
    node.store.close()
    monkeypatch.undo()
    assert there and all(marked <= kept for marked, kept in there)
    again = start(tmp_path)
    with pytest.raises(GateRefused):  # the use was not handed out, and stays counted
        take_once(again, "run-2")
    again.store.close()


SPOILED: list[tuple[str, Callable[[bytes], bytes]]] = [
    ("empty", lambda data: b""),
    ("cut", lambda data: data[:-3]),
    ("lowered", lambda data: data.replace(b'"epoch":2', b'"epoch":1')),
    ("of another kind", lambda data: data.replace(b"high-water", b"low-water-")),
]


@pytest.mark.parametrize(("how", "spoil"), SPOILED, ids=[how for how, _ in SPOILED])
def test_a_spoiled_mark_is_refused_and_not_taken_for_none(
    tmp_path: Path, how: str, spoil: Callable[[bytes], bytes]
) -> None:
    withdrawn_yesterday(tmp_path)
    path = tmp_path / "state" / MARK
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(EvidenceRejected):
        start(tmp_path / "state")


@pytest.mark.parametrize("is_witnessed", [False, True])
def test_who_puts_back_the_mark_too_is_found_out_by_whoever_has_seen_the_ledger(
    tmp_path: Path, is_witnessed: bool
) -> None:
    copy = withdrawn_yesterday(tmp_path)
    bank = Store(tmp_path / "bank.db")
    witness = Witness(bank, "bank-1", signing.SigningKey.from_seed(b"b" * 32))
    node = start(tmp_path / "state")
    key = node.key.public_hex
    if is_witnessed:
        witness.keep_head(node.ledger.request_for("bank-1"), "platform-a", key, w.NOW)
    stop(node)
    put_back(tmp_path, copy, "store.db", MARK)
    back = start(tmp_path / "state")
    assert take(back) == (w.FIRM,)
    head = back.ledger.request_for("bank-1")
    if is_witnessed:
        with pytest.raises((EvidenceRejected, ProofOfInclusionRejected)):
            told = witness.keep_head(head, "platform-a", key, w.NOW)
            back.ledger.take_answer(told, "bank-1", witness_key(witness))
            witness.keep_head(back.ledger.request_for("bank-1"), "platform-a", key, w.NOW)
    else:
        assert witness.keep_head(head, "platform-a", key, w.NOW)
    for store in (back.store, bank):
        store.close()


def witness_key(_: Witness) -> str:
    return signing.SigningKey.from_seed(b"b" * 32).public_hex


def test_a_mark_is_canonical_and_holds_no_more_than_sizes_and_a_root(tmp_path: Path) -> None:
    withdrawn_yesterday(tmp_path)
    record = canonical.decode((tmp_path / "state" / MARK).read_bytes())
    assert set(record) == {"type", "version", "epoch", "registry_root", "ledger_size"}


# ---- what the auditor says of it


def rolls_back(world: World) -> None:
    """A platform that takes a withdrawal, lets the bank see its ledger, and then goes on from yesterday's store."""
    party, bank = world.parties[PLATFORM], world.parties[BANK]
    yesterday = world.folder / "yesterday.db"
    with sqlite3.connect(world.folder / f"{PLATFORM}.db") as now, sqlite3.connect(yesterday) as copy:
        now.backup(copy)
    party.ledger.append_registry([a_revocation(1)])
    bank.witness.keep(party.ledger.checkpoint(), PLATFORM, KEYS[PLATFORM].public_hex)
    party.store.close()
    party.store = Store(yesterday)
    party.ledger = Ledger(party.store, PLATFORM, KEYS[PLATFORM], party.clock, "lianxin 0.3.0", "operator-1")
    party.witness = Witness(party.store, PLATFORM, KEYS[PLATFORM])


@pytest.mark.rule("R04")
def test_the_auditor_names_the_platform_whose_ledger_a_bank_has_seen_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:  # the bank would see it itself, and not keep the later head
        patch.setattr(Witness, "keep", forgetful(Witness.keep))
        run = World(tmp_path, {"before release": rolls_back}).story()
    failures = found(run)
    assert {(check.name, check.accused) for check in failures} == {("witnessed", PLATFORM)}
    assert passes_without(run, "witnessed", monkeypatch)


def forgetful(keep: Callable[..., None]) -> Callable[..., None]:
    """Return a witness' memory that lets a head pass which does not go on from the one before."""

    def kept(*arguments: object) -> None:
        with contextlib.suppress(EvidenceRejected):
            keep(*arguments)

    return kept
