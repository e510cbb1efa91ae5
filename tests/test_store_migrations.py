"""Stores of every earlier version become stores of this one: whole or not at all, and their ledgers go on."""

import lzma
import shutil
import sqlite3
import tarfile
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import make_golden
import pytest
from stores import edited

from lianxin.crypto import canonical
from lianxin.federation.errors import InputFault
from lianxin.parties import store_migrations
from lianxin.parties import store_schema as schema
from lianxin.parties.auditor import verify_run
from lianxin.parties.clock import SimulatedClock
from lianxin.parties.ledger import Ledger
from lianxin.parties.ledger_export import export_from_store
from lianxin.parties.store import Store

PACKS = sorted(make_golden.GOLDEN.glob("*.tar.xz"))
RUN, PARTY = "run-1", "bank-1"
WRITTEN = {"0.1.0": 1, "0.2.0": 1, "0.3.0": 2}


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """A folder with the run and the store of each golden archive, by its name; copied before it is changed."""
    found = {}
    for pack in PACKS:
        found[pack.name.removesuffix(".tar.xz")] = folder = tmp_path_factory.mktemp("golden")
        with lzma.open(pack) as data, tarfile.open(fileobj=data) as archive:
            archive.extractall(folder, filter="data")
    return found


def copied(unpacked: Mapping[str, Path], version: str, folder: Path) -> Path:
    return Path(shutil.copy(unpacked[version] / "store.sqlite", folder / "store.sqlite"))


def version_in(path: Path) -> int:
    with sqlite3.connect(path) as other:
        return int(other.execute("select version from schema").fetchone()[0])


def node_key(store: Store) -> Any:
    """Stand in for the key that signed the golden ledger, whose public half the contract names."""
    row = store.run(RUN)
    assert row is not None
    parties = canonical.decode_fragment(row.contract)["record"]["parties"]
    return SimpleNamespace(public_hex=next(one["node_key"] for one in parties if one["party"] == PARTY))


@pytest.mark.parametrize("version", [pack.name.removesuffix(".tar.xz") for pack in PACKS])
def test_a_store_of_an_earlier_version_is_migrated_its_ledger_goes_on_and_its_evidence_holds(
    unpacked: Mapping[str, Path], version: str, tmp_path: Path
) -> None:
    path = copied(unpacked, version, tmp_path)
    written = version_in(path)
    assert written == WRITTEN.get(version, min(written, schema.SCHEMA_VERSION))
    store = Store(path)
    assert (store.migrated_from, version_in(path)) == (written, schema.SCHEMA_VERSION)
    last = canonical.decode(list(store.leaves())[-1])["time"]
    ledger = Ledger(store, PARTY, node_key(store), SimulatedClock(last), "lianxin", "operator-1")
    assert ledger.append({"kind": "note", "run": ""})[0] == store.leaf_count() - 1
    store.close()
    assert Store(path).migrated_from == schema.SCHEMA_VERSION


@pytest.mark.parametrize("version", ["0.3.0"])
def test_what_a_migrated_store_exports_is_verified_beside_the_other_parties(
    unpacked: Mapping[str, Path], version: str, tmp_path: Path
) -> None:
    store, run = Store(copied(unpacked, version, tmp_path)), tmp_path / "run"
    shutil.copytree(unpacked[version] / "run", run)
    own = run / "parties" / PARTY
    shutil.copytree(own / "evidence", tmp_path / "before")
    shutil.rmtree(own / "evidence")
    export_from_store(store, PARTY, RUN, own, tmp_path)
    for name in ("ledger.jsonl", "registry.jsonl", "envelopes.jsonl", "checkpoints.jsonl"):
        assert (own / "evidence" / name).read_bytes() == (tmp_path / "before" / name).read_bytes()
    for file in (tmp_path / "before").iterdir():  # what lies in the run's folder and not in the store
        if not (own / "evidence" / file.name).exists():
            shutil.copy(file, own / "evidence")
    assert verify_run(run).ok


def test_every_version_has_its_step_and_every_table_its_version() -> None:
    assert set(store_migrations.STEPS) >= set(range(2, schema.SCHEMA_VERSION + 1))
    made = {table.info["since"] for table in schema.metadata.tables.values()}
    assert made == set(range(1, schema.SCHEMA_VERSION + 1))


def test_a_migration_that_is_interrupted_leaves_the_old_store(
    unpacked: Mapping[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = copied(unpacked, "0.1.0", tmp_path)
    before = path.read_bytes()

    def power_cut(connection: Any) -> None:
        store_migrations.to_3(connection)
        raise KeyboardInterrupt

    with monkeypatch.context() as broken, pytest.raises(KeyboardInterrupt):
        broken.setattr(store_migrations, "STEPS", {**store_migrations.STEPS, 3: power_cut})
        Store(path)
    with sqlite3.connect(path) as other:
        names = {name for (name,) in other.execute("select name from sqlite_master where type = 'table'")}
        other.execute("pragma wal_checkpoint(truncate)")
    assert version_in(path) == 1 and not names & {"uses", "tiles", "firm_kinds", "standing_scores"}
    assert len(before) == path.stat().st_size
    assert Store(path).migrated_from == 1


def test_an_interrupted_migration_in_postgresql_leaves_the_old_store_too(
    postgres: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = postgres.schema()
    Store(url).close()
    with edited(url) as other:
        for name in ("standing_scores", "tiles", "uses", "firm_kinds"):
            other.execute(f"drop table {name}")
        other.execute("update schema set version = 1")
    with monkeypatch.context() as broken, pytest.raises(KeyError):
        broken.setattr(store_migrations, "STEPS", {2: store_migrations.to_2})
        Store(url)
    with edited(url) as other:
        assert other.execute("select to_regclass('uses'), version from schema").fetchone() == (None, 1)
    store = Store(url)
    assert store.migrated_from == 1 and store.uses(["c"]) == {}
    store.close()


def test_a_newer_store_is_refused_in_one_sentence_and_not_touched(unpacked: Mapping[str, Path], tmp_path: Path) -> None:
    path = copied(unpacked, "0.1.0", tmp_path)
    with sqlite3.connect(path) as other:
        other.execute("update schema set version = 99")
    with pytest.raises(InputFault, match="schema version 99, this program reads") as fault:
        Store(path)
    assert "\n" not in str(fault.value)
    with sqlite3.connect(path) as other:
        assert not other.execute("select name from sqlite_master where name = 'uses'").fetchall()


def test_an_older_store_is_not_migrated_by_whoever_only_reads(unpacked: Mapping[str, Path], tmp_path: Path) -> None:
    path = copied(unpacked, "0.1.0", tmp_path)
    with pytest.raises(InputFault, match="start the node once"):
        Store(f"sqlite:///file:{path}?mode=ro&uri=true")
    assert version_in(path) == 1
