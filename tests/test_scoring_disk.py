"""What a score costs the disk: fewer waits than transactions, and nothing leaves before what stands behind it is there."""

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import consents as w
import pytest
import scoring_world
from scoring_world import Scene

from lianxin.crypto import canonical
from lianxin.federation.errors import EvidenceRejected
from lianxin.parties import consent_high_water as mark
from lianxin.parties import ledger_salt
from lianxin.parties.consent_high_water import PLACE_BYTES, SIZE_FILE, HighWater, Mark
from lianxin.parties.store import Store

shared = scoring_world.shared
Events = list[tuple[Any, ...]]


# ---- what a release has behind it when it leaves


def watched(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> Events:
    """Return what both nodes do to their disks and to the road from now on, in order."""
    events: Events = []
    for node in (scene.bank.node, scene.platform.node):
        watch(node, events, monkeypatch)
    road, desk_road = scene.asker._road, next(iter(scene.desk._roads.values()))
    assert road is not None
    for party, channel in (("bank", road.channel), ("platform", desk_road._channel)):
        honest = channel.send
        monkeypatch.setattr(
            channel, "send", lambda data, party=party, honest=honest: (events.append((party, "sends")), honest(data))[1]
        )
    return events


def watch(node: Any, events: Events, monkeypatch: pytest.MonkeyPatch) -> None:
    party = "platform" if node.identity.role == "platform" else "bank"
    append, soon = node.store.append_leaves, node.ledger.raise_mark_soon

    def appended(first: int, leaves: Any, **beside: Any) -> None:
        append(first, leaves, **beside)
        events.append((party, [canonical.decode(leaf)["kind"] for leaf in leaves], beside["waits"]))

    def marked(size: int) -> None:
        soon(size)
        events.append((party, "mark", size == node.ledger.size == node.ledger.on_disk))

    monkeypatch.setattr(node.store, "append_leaves", appended)
    monkeypatch.setattr(node.ledger, "raise_mark_soon", marked)


def test_each_end_waits_for_the_disk_once_before_a_message_and_the_bank_once_after(
    shared: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared.ask(*shared.fresh())
    events = watched(shared, monkeypatch)
    shared.ask(*shared.fresh())
    assert [(what, *more) for party, what, *more in events if party == "bank"] == [
        (["score", "release"], False), (["envelope"], True), ("sends",), (["envelope", "scored"], True),
    ]  # fmt: skip
    assert [(what, *more) for party, what, *more in events if party == "platform"] == [
        (["envelope", "score", "release"], False), (["envelope"], True), ("mark", True), ("sends",),
    ]  # fmt: skip


def test_the_mark_does_not_come_before_leaves_that_a_loss_of_power_may_take(shared: Scene) -> None:
    (firm,) = shared.fresh()
    shared.ask(firm)
    node = shared.platform.node
    first = node.ledger.size
    talk = shared.platform.node.trace.holding()
    before = talk.preface({"kind": "note", "run": ""})
    release = {"kind": "note", "run": "", "purpose": "P3"}
    node.ledger.append_release(release, (), [("consent-1", "use-1")], {}, before)
    assert (node.ledger.size, node.ledger.on_disk) == (first + 2, first)
    node.register.mark()
    assert read(node).ledger_size == first
    node.ledger.append({"kind": "note", "run": ""})
    node.register.mark()
    assert read(node).ledger_size == node.ledger.on_disk == node.ledger.size == first + 3


def read(node: Any) -> Mark:
    found = mark.read_mark(node.config.state / mark.FILE)
    assert found is not None
    return found


def test_what_is_not_waited_for_is_committed_without_a_flush_and_read_at_once(tmp_path: Path) -> None:
    store, said = Store(tmp_path / "store.sqlite"), list[str]()
    store.append_leaves(0, [b"0"])
    (connection,) = store._drive._waiting
    connection.set_trace_callback(said.append)
    store.append_leaves(1, [b"1"], waits=False)
    assert Store(tmp_path / "store.sqlite").leaf(1) == b"1"
    store.append_leaves(2, [b"2"])
    steps = [line for line in said if line.startswith(("PRAGMA synchronous", "COMMIT"))]
    assert steps == ["PRAGMA synchronous=NORMAL", "COMMIT", "PRAGMA synchronous=FULL", "COMMIT"]
    with pytest.raises(ZeroDivisionError), store.writing_fast(waits=False):
        raise ZeroDivisionError
    assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
    store.close()
    with pytest.raises(sqlite3.ProgrammingError):
        connection.execute("select 1")


# ---- the mark's second file


def raised(path: Path, *sizes: int) -> None:
    water = HighWater(path)
    if mark.read_mark(path) is None:
        water.raise_to(Mark(1, "ab" * 32, 5))
    for size in sizes:
        water.raise_soon(size)
    water.close()


def torn(path: Path, *places: int) -> None:
    file = path.with_name(SIZE_FILE)
    data = bytearray(file.read_bytes())
    for place in places:
        data[place * PLACE_BYTES + 20 : (place + 1) * PLACE_BYTES] = bytes(PLACE_BYTES - 20)
    file.write_bytes(data)


def size_at(path: Path) -> int:
    found = mark.read_mark(path)
    return found.ledger_size if found else -1


def test_a_mark_of_one_file_is_read_and_goes_on_in_two(tmp_path: Path) -> None:
    path = tmp_path / mark.FILE
    mark.write_mark(path, Mark(1, "ab" * 32, 5))
    assert size_at(path) == 5 and not (tmp_path / SIZE_FILE).exists()
    raised(path, 7, 9, 8)
    assert size_at(path) == 9 and (tmp_path / SIZE_FILE).stat().st_mode & 0o777 == 0o600
    raised(path, 8, 12)
    assert size_at(path) == 12


@pytest.mark.parametrize("count", range(1, 5))
def test_a_place_torn_while_it_is_written_leaves_the_size_before(tmp_path: Path, count: int) -> None:
    path = tmp_path / mark.FILE
    raised(path, *range(10, 10 + count))
    torn(path, (count - 1) % 2)
    assert size_at(path) == (8 + count if count > 1 else 5)
    raised(path, 30)
    assert size_at(path) == 30


def unreadable(path: Path) -> None:
    path.with_name(SIZE_FILE).unlink()
    path.with_name(SIZE_FILE).mkdir()


SPOILED: dict[str, Callable[[Path], object]] = {
    "both places torn": lambda path: torn(path, 0, 1),
    "empty": lambda path: path.with_name(SIZE_FILE).write_bytes(b""),
    "unreadable": unreadable,
}


@pytest.mark.parametrize("how", SPOILED)
def test_a_second_file_without_a_whole_place_is_refused_and_not_taken_for_none(tmp_path: Path, how: str) -> None:
    path = tmp_path / mark.FILE
    raised(path, 10, 11)
    SPOILED[how](path)
    with pytest.raises(EvidenceRejected, match="no mark of a ledger"):
        mark.read_mark(path)


def test_a_new_first_file_has_all_and_lowers_what_a_restore_lowers(tmp_path: Path) -> None:
    path = tmp_path / mark.FILE
    raised(path, 10)
    water = HighWater(path)
    water.raise_size(10)
    assert size_at(path) == 10 and not (tmp_path / SIZE_FILE).exists()
    water.raise_soon(14)
    water.raise_to(Mark(2, "cd" * 32, 11))
    assert (size_at(path), sorted(one.name for one in tmp_path.iterdir())) == (14, [mark.FILE])
    water.raise_soon(15)
    mark.write_mark(path, Mark(1, "ab" * 32, 3))
    assert size_at(path) == 3


def test_a_store_of_before_the_last_quick_mark_does_not_start_unless_that_file_is_gone(tmp_path: Path) -> None:
    node = w.Provider(tmp_path, w.FIRM, high_water=True, attesting=())
    node.register.import_records([w.signed(w.consent_record(w.FIRM, consent_id="consent-1"))])
    node.ledger.close()
    assert node.ledger.raise_mark_soon is not None
    node.ledger.raise_mark_soon(node.ledger.size + 1)
    node.store.close()
    with pytest.raises(EvidenceRejected, match="older or another copy"):
        w.Provider(tmp_path, w.FIRM, high_water=True, attesting=())
    (tmp_path / SIZE_FILE).unlink()
    w.Provider(tmp_path, w.FIRM, high_water=True, attesting=()).store.close()


# ---- a leaf is encoded once


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"salty": 1, "a": "?" * 64},
        {"zz": {"salt": "?" * 64}},
        {"aa": [{"salt": "?" * 64}]},
        {"x": '"salt":"' + "?" * 64},
    ],
)
def test_a_leaf_encoded_once_is_the_one_encoded_by_parts(more: dict[str, Any]) -> None:
    leaf = {"kind": "note", "run": "", "type": "leaf", "version": 1, "time": "2026-01-01T00:00:00Z", **more}
    for one in (leaf, more, {"zz": 1, **more}):
        assert ledger_salt.salted(one, b"key") == ledger_salt._salted_by_parts(one, b"key")
