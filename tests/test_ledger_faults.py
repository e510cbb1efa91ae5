"""Group commit, and what happens to a ledger when its disk is full, its process is killed or its store is changed."""

import json
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import sqlalchemy as sa
from stores import Place
from torture import IS_TORTURE

from lianxin.crypto import canonical, signing
from lianxin.federation.errors import EvidenceRejected, InputFault, RunStopped
from lianxin.parties.clock import SimulatedClock
from lianxin.parties.ledger import Ledger
from lianxin.parties.ledger_commit import Entry, GroupCommit
from lianxin.parties.store import Store

KEY = signing.SigningKey.from_seed(bytes([1]) * 32)
NOTE = {"kind": "note", "run": ""}
HERE = Path(__file__).resolve().parent


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "bank-a.db"


def open_ledger(path: Place, store: Store | None = None) -> Ledger:
    clock = SimulatedClock("2026-05-01T08:00:00Z")
    return Ledger(store or Store(path), "bank-a", KEY, clock, "lianxin 0.3.0", "operator-1")


class SlowDisk:
    """A `write` that waits to be let on, and remembers what went in together."""

    def __init__(self) -> None:
        self.batches: list[list[bytes]] = []
        self.begun, self.go_on = threading.Event(), threading.Event()

    def write(self, entries: list[Entry]) -> None:
        self.begun.set()
        assert self.go_on.wait(10)
        leaves = [leaf for entry in entries for leaf in entry.leaves]
        if b"bad" in leaves:
            raise InputFault("this one is refused")
        self.batches.append(leaves)
        for entry in entries:
            entry.first = 0


def submit_all(
    commits: GroupCommit, names: list[bytes]
) -> tuple[list[threading.Thread], dict[bytes, Exception | None]]:
    outcome: dict[bytes, Exception | None] = {}

    def work(name: bytes) -> None:
        try:
            commits.submit(lambda: Entry([name]))
            outcome[name] = None
        except InputFault as fault:
            outcome[name] = fault

    threads = [threading.Thread(target=work, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    return threads, outcome


@pytest.mark.parametrize("names", [[b"1", b"2", b"3"], [b"1", b"bad", b"3"]], ids=["all good", "one refused"])
def test_who_comes_while_the_disk_is_busy_goes_in_together_and_a_refused_one_alone_fails(names: list[bytes]) -> None:
    disk = SlowDisk()
    commits = GroupCommit(disk.write)
    first, _ = submit_all(commits, [b"0"])
    assert disk.begun.wait(10)
    rest, outcome = submit_all(commits, names)
    while len(commits._queue) < len(names):
        pass
    disk.go_on.set()
    for thread in [*first, *rest]:
        thread.join(10)
    good = [name for name in names if name != b"bad"]
    assert sorted(leaf for batch in disk.batches for leaf in batch) == [b"0", *good]
    assert len(disk.batches) == (2 if len(good) == 3 else 3)
    assert [name for name, fault in outcome.items() if fault] == [name for name in names if name == b"bad"]


def test_nobody_writes_while_somebody_is_alone_and_all_of_them_after(path: Path) -> None:
    ledger, seen = open_ledger(path), []
    with ledger._commits.alone():
        threads = [threading.Thread(target=lambda: seen.append(ledger.append(NOTE)[0])) for _ in range(5)]
        for thread in threads:
            thread.start()
        assert (ledger.size, seen) == (0, [])
    for thread in threads:
        thread.join(10)
    assert sorted(seen) == list(range(5))


def test_leaves_registry_and_checkpoints_of_many_threads_make_one_ledger(any_store: Place) -> None:
    path = any_store
    ledger = open_ledger(path)
    consent = signing.sign_record({"type": "consent", "version": 1}, [("firm", KEY)])
    work = [
        lambda: ledger.append(NOTE),
        lambda: ledger.append_registry([consent]),
        ledger.checkpoint,
        lambda: ledger.size,
    ]
    threads = [threading.Thread(target=lambda one=one: [one() for _ in range(20)]) for one in work * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert ledger.size == Store(path).leaf_count() == 80
    epochs = [leaf["epoch"] for leaf in map(json.loads, Store(path).leaves()) if leaf["kind"] == "registry"]
    assert epochs == list(range(1, 41))
    assert open_ledger(path).root() == ledger.root()


def limit(store: Store, pages: int) -> None:
    with store.writing_fast() as connection:
        connection._connection.execute(f"PRAGMA max_page_count={pages}")  # type: ignore[union-attr]


def test_a_full_disk_stops_the_ledger_in_one_sentence_loses_nothing_and_is_left_behind(path: Path) -> None:
    store = Store(path)
    ledger, count = open_ledger(path, store), 0
    limit(store, 60)
    with pytest.raises(RunStopped, match="could not be written") as refused:
        for count in range(10_000):  # noqa: B007
            ledger.append({**NOTE, "text": "x" * 900})
    assert (refused.value.exit_code, ledger.size) == (3, count)
    with pytest.raises(RunStopped):
        ledger.append_many([{**NOTE, "text": "x" * 900}] * 3)
    assert Store(path).leaf_count() == count > 10
    limit(store, 10_000)
    assert ledger.append(NOTE)[0] == count
    assert open_ledger(path).root() == ledger.root()


def test_leaves_that_could_not_be_committed_are_not_in_the_ledger(
    any_store: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, store = any_store, Store(any_store)
    ledger = open_ledger(path, store)
    root = ledger.append(NOTE) and ledger.root()
    with monkeypatch.context() as broken:

        def fail(_connection: sa.Connection) -> None:
            raise sa.exc.OperationalError("commit", {}, OSError(28, "No space left on device"))

        broken.setattr(store._writer.dialect, "do_commit", fail)
        with pytest.raises(RunStopped):
            ledger.append(NOTE)
        assert (ledger.size, ledger.root()) == (1, root)
    assert ledger.append(NOTE)[0] == 1
    assert open_ledger(path).root() == ledger.root()


def test_a_process_that_is_killed_loses_and_reorders_no_leaf_that_it_had_answered_for(tmp_path: Path) -> None:
    trials = 200 if IS_TORTURE else 20
    ran = subprocess.run(
        [sys.executable, str(HERE / "killed_ledger.py"), str(tmp_path), str(trials), "7"],
        capture_output=True, timeout=250, check=True,
    )  # fmt: skip
    found = json.loads(ran.stdout)
    assert found["said"] > 5 * trials
    assert {name: found[name] for name in ("lost", "reordered", "stuck")} == {"lost": 0, "reordered": 0, "stuck": 0}


def test_evidence_of_leaves_that_are_not_under_the_checkpoint_is_not_written(path: Path, tmp_path: Path) -> None:
    ledger, store = open_ledger(path), Store(path)
    contract = signing.sign_record({"type": "run-contract", "version": 1, "run": "run-1"}, [("bank-a", KEY)])
    store.put_run("run-1", "done", canonical.encode(contract))
    ledger.append_many({**NOTE, "n": n} for n in range(600))
    ledger.export(tmp_path / "good", catalogue=b"field_name_en\n")
    with sqlite3.connect(path) as other:  # deep in a full tile: the start does not read it
        other.execute("update leaves set data = (select data from leaves where position = 4) where position = 3")
    with pytest.raises(EvidenceRejected, match="not the ones under its last checkpoint"):
        ledger.export(tmp_path / "bad", catalogue=b"field_name_en\n")
    assert list((tmp_path / "bad").iterdir()) == []
