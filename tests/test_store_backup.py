"""Backups: of one moment whatever is written meanwhile, whole or not there, and an older one is no way back to what was."""

import shutil
import stat
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import consents as w
import pytest
import sqlalchemy as sa
from store_world import KEY, NOTE, PARTY, config_of, filled, ledger_in, owner, state_of
from stores import Cluster, Place, edited

from lianxin.crypto import canonical, signing
from lianxin.crypto.errors import CryptoError
from lianxin.federation.errors import EvidenceRejected, InputFault, LianxinError, RunStopped
from lianxin.parties import store_backup
from lianxin.parties.ledger_keys import LedgerKeys
from lianxin.parties.store import Store
from lianxin.parties.store_backup import answer, back_up
from lianxin.parties.store_open import lock_state
from lianxin.parties.store_restore import JUMP, Owner, restore


def rows_in(store: Store) -> list[Any]:
    named = (store.leaves(), store.registry_records(), store.checkpoints(), store.witnessed("bank-1"))
    return [*map(list, named), store.release_consents(), store.uses(["c-1"]), store.settings_under("a")]


def test_a_backup_of_either_database_is_restored_into_the_other(
    any_store: Place, postgres: Cluster, tmp_path: Path
) -> None:
    store, state = filled(any_store), state_of(tmp_path / "old")
    record = back_up(store, PARTY, KEY, state, tmp_path / "backup", w.NOW)
    assert (record["ledger_size"], record["epoch"], record["dialect"]) == (602, 1, store.dialect)
    assert record["ledger_root"] == ledger_in(store).root()
    url = "" if isinstance(any_store, sa.URL) else postgres.schema().render_as_string()
    fresh = config_of(tmp_path / "new", url)
    done = restore(fresh, tmp_path / "backup", owner("the old machine burnt down"))
    assert (done["runs_ended"], done["lost_leaves"], done["is_held"]) == (["run-1"], 0, True)
    again = Store(url or tmp_path / "new" / "store.sqlite")
    assert again.dialect != store.dialect
    before, after = rows_in(store), rows_in(again)
    assert (
        after[0][:602] == before[0] and after[2][:1] == before[2] and after[1:2] + after[3:] == before[1:2] + before[3:]
    )
    assert {row.run: row.state for row in again.runs()} == {"run-1": "failed", "run-2": "standing"}
    assert again.reserve("query/run-2", 1) == 7 + JUMP  # nothing is numbered twice
    assert ledger_in(again).append(NOTE)[0] == again.leaf_count() - 1
    assert (tmp_path / "new" / "keys" / "run-1" / "labels.json").read_text() == "keys/run-1/labels.json"
    assert sorted(path.name for path in (tmp_path / "new" / "runs" / "run-1").iterdir()) == ["model.json"]
    assert oct((tmp_path / "new" / "runs" / "run-1" / "model.json").stat().st_mode)[-3:] == "600"
    store.close(), again.close()


def test_a_backup_under_four_writers_is_a_prefix_of_the_ledger(any_store: Place, tmp_path: Path) -> None:
    store = filled(any_store, 20)
    ledger, stopped = ledger_in(store), threading.Event()

    def work() -> None:
        while not stopped.is_set():
            ledger.append({**NOTE, "text": "x" * 200})

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        made = [back_up(store, PARTY, KEY, tmp_path, tmp_path / f"backup-{n}", w.NOW) for n in range(3)]
    finally:
        stopped.set()
        for thread in threads:
            thread.join()
    leaves = list(store.leaves())
    sizes = [record["ledger_size"] for record in made]
    assert sizes == sorted(sizes) and 20 < sizes[0] < sizes[-1] <= len(leaves)
    for n, record in enumerate(made):
        copy = Store(tmp_path / f"backup-{n}" / "store.sqlite")
        assert list(copy.leaves()) == leaves[: record["ledger_size"]]
        assert ledger.root(record["ledger_size"]) == record["ledger_root"]
        copy.close()
    store.close()


EDITS = {
    "a changed leaf": "update leaves set data = (select data from leaves where position = 4) where position = 3",
    "a dropped leaf": "delete from leaves where position = 3",
    "a head of before": "delete from tiles",
}


@pytest.mark.parametrize("edit", ["a changed leaf", "a dropped leaf"])
def test_a_store_that_does_not_hold_leaves_no_backup(tmp_path: Path, edit: str) -> None:
    store = filled(tmp_path / "a.db")
    with edited(tmp_path / "a.db") as other:
        other.execute(EDITS[edit])
    with pytest.raises(EvidenceRejected, match=r"ledger of platform-a .* does not hold"):
        back_up(store, PARTY, KEY, tmp_path, tmp_path / "backup", w.NOW)
    assert [path.name for path in tmp_path.iterdir() if "backup" in path.name] == []


def test_a_disk_that_does_not_write_leaves_no_backup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = filled(tmp_path / "a.db", 5)

    def full(_path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store_backup, "_settle", full)
    with pytest.raises(RunStopped, match="No space left on device"):
        back_up(store, PARTY, KEY, tmp_path, tmp_path / "backup", w.NOW)
    assert [path.name for path in tmp_path.iterdir() if "backup" in path.name] == []
    monkeypatch.undo()
    back_up(store, PARTY, KEY, tmp_path, tmp_path / "backup", w.NOW)
    with pytest.raises(InputFault, match="exists already"):
        back_up(store, PARTY, KEY, tmp_path, tmp_path / "backup", w.NOW)


@pytest.fixture(scope="module")
def backup(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backup without a mark, copied before it is changed."""
    folder = tmp_path_factory.mktemp("backup")
    store = filled(folder / "a.db", 300)
    back_up(store, PARTY, KEY, state_of(folder / "old"), folder / "made", w.NOW)
    store.close()
    return folder / "made"


def _changed(folder: Path, name: str) -> None:
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(bytes(data))


def _edited(folder: Path, **changes: Any) -> None:
    signed = canonical.decode_fragment((folder / "backup.json").read_bytes().removesuffix(b"\n"))
    signed["record"] |= changes
    (folder / "backup.json").write_bytes(canonical.encode(signed))


def _signed_anew(folder: Path, key: signing.SigningKey, **changes: Any) -> None:
    signed = canonical.decode_fragment((folder / "backup.json").read_bytes().removesuffix(b"\n"))
    again = signing.sign_record(signed["record"] | changes, [(PARTY, key)])
    (folder / "backup.json").write_bytes(canonical.encode(again))


BAD_BACKUPS: dict[str, tuple[Any, type[LianxinError], str]] = {
    "no manifest": (lambda one: (one / "backup.json").unlink(), InputFault, "holds no backup.json"),
    "a manifest that is none": (lambda one: (one / "backup.json").write_bytes(b"{"), EvidenceRejected, "no manifest"),
    "a changed store": (lambda one: _changed(one, "store.sqlite"), EvidenceRejected, "store.sqlite of the backup"),
    "a changed key": (lambda one: _changed(one, "state/keys/run-1/labels.json"), EvidenceRejected, "labels.json"),
    "a missing file": (lambda one: (one / "state/runs/run-1/model.json").unlink(), EvidenceRejected, "model.json"),
    "a manifest that was edited": (lambda one: _edited(one, ledger_size=1), EvidenceRejected, "not signed by"),
    "another key": (lambda one: _signed_anew(one, w.BANK_KEY), EvidenceRejected, "not signed by"),
    "another party": (lambda one: _signed_anew(one, KEY, party="platform-b"), EvidenceRejected, "no manifest of a backup of"),
    "a file outside": (
        lambda one: _signed_anew(one, KEY, files=[{"path": "state/keys/../../../etc/passwd", "sha256": "00"}]),
        EvidenceRejected, "is not the file",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("spoil", "kind", "says"), BAD_BACKUPS.values(), ids=BAD_BACKUPS)
def test_a_backup_that_is_not_what_was_made_is_refused_before_anything_is_written(
    backup: Path, tmp_path: Path, spoil: Any, kind: type[LianxinError], says: str
) -> None:
    shutil.copytree(backup, tmp_path / "backup")
    spoil(tmp_path / "backup")
    with pytest.raises(kind, match=says):
        restore(config_of(tmp_path / "state"), tmp_path / "backup", owner("why not"))
    assert not (tmp_path / "state").exists() or not list((tmp_path / "state").iterdir())


def test_what_was_laid_beside_the_signed_files_is_not_restored(backup: Path, tmp_path: Path) -> None:
    shutil.copytree(backup, tmp_path / "backup")
    planted = tmp_path / "backup/state/runs/run-7/model.json"
    planted.parent.mkdir()
    planted.write_text("another model")
    (tmp_path / "backup/state/runs/run-1/link").symlink_to("/etc/hostname")
    restore(config_of(tmp_path / "state"), tmp_path / "backup", owner("gone"))
    assert sorted(path.name for path in (tmp_path / "state/runs").rglob("*")) == ["model.json", "run-1"]
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "state").rglob("*") if path.is_dir()}
    assert modes == {0o700}


def test_a_backup_of_before_the_node_key_was_rotated_is_still_the_nodes_own(backup: Path, tmp_path: Path) -> None:
    rotated = LedgerKeys((w.BANK_KEY,), (w.BANK_KEY.public_hex, KEY.public_hex))
    done = restore(config_of(tmp_path / "state"), backup, Owner(PARTY, rotated, w.Clock(), "operator-1", "gone"))
    assert done["party"] == PARTY


def test_a_restore_wants_an_empty_state_and_nobody_at_work_there(backup: Path, tmp_path: Path) -> None:
    config = config_of(tmp_path / "state")
    config.state.mkdir()
    (config.state / "store.sqlite").write_text("")
    with pytest.raises(InputFault, match="is not empty"):
        restore(config, backup, owner("gone"))
    (config.state / "store.sqlite").unlink()
    with lock_state(config.state), pytest.raises(InputFault, match="already runs"):
        restore(config, backup, owner("gone"))
    restore(config, backup, owner("gone"))


def test_a_database_that_holds_a_store_is_not_restored_into(backup: Path, postgres: Cluster, tmp_path: Path) -> None:
    url = postgres.schema()
    store = Store(url)
    ledger_in(store).append(NOTE)
    store.close()
    with pytest.raises(InputFault, match="holds a store already"):
        restore(config_of(tmp_path / "state", url.render_as_string()), backup, owner("gone"))


# ---- the running node


def test_a_running_node_answers_with_a_backup_and_counts_it(tmp_path: Path) -> None:
    store = filled(tmp_path / "a.db", 5)
    said, counts = list[str](), dict[str, int]()
    identity = SimpleNamespace(ledger_keys=lambda: LedgerKeys.of(KEY))
    node = SimpleNamespace(
        store=store, party=PARTY, identity=identity, config=config_of(tmp_path / "state"), clock=w.Clock(), counts=counts,
        say=lambda what, *_run, **_how: said.append(what),
    )  # fmt: skip
    counts["backups"] = 0
    made = answer(SimpleNamespace(node=node), {"do": "backup", "to": str(tmp_path / "backup")})["backup"]
    assert (made["ledger_size"], counts["backups"], len(said)) == (7, 1, 1)
    with pytest.raises(InputFault, match="whole path"):
        answer(SimpleNamespace(node=node), {"do": "backup", "to": "backup"})
    with pytest.raises((InputFault, CryptoError)):
        answer(SimpleNamespace(node=node), {"do": "backup", "to": str(tmp_path / "backup")})
