"""A store in PostgreSQL: who may open it, what it must promise, what a lost connection does."""

import threading
from pathlib import Path

import pytest
import sqlalchemy as sa
from stores import Cluster, connected, edited

from lianxin.crypto import signing
from lianxin.federation.errors import InputFault, RunStopped
from lianxin.parties import store_postgres
from lianxin.parties.clock import SimulatedClock
from lianxin.parties.config import load_node
from lianxin.parties.ledger import Ledger
from lianxin.parties.store import Store
from lianxin.parties.store_open import open_store
from lianxin.parties.store_postgres import checked_url

KEY = signing.SigningKey.from_seed(bytes([1]) * 32)
NOTE = {"kind": "note", "run": ""}
END_ALL = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND usename = 'lianxin'"


def ledger_in(store: Store) -> Ledger:
    return Ledger(store, "bank-a", KEY, SimulatedClock("2026-05-01T08:00:00Z"), "lianxin 0.7.0", "operator-1")


REFUSED = {
    "a password in the URL": ("postgresql+psycopg://li:secret@db/lx", "store.url holds a password"),
    "a password in its query": ("postgresql+psycopg://li@db/lx?password=secret", "store.url holds a password"),
    "another dialect": ("mysql://li@db/lx", "another database than PostgreSQL"),
    "another driver": ("postgresql+psycopg2://li@db/lx", "another database than PostgreSQL"),
    "a file": ("state/store.sqlite", "is no URL"),
}


@pytest.mark.parametrize(("url", "says"), REFUSED.values(), ids=REFUSED)
def test_a_url_that_a_store_must_not_have_is_refused_and_not_repeated(url: str, says: str) -> None:
    with pytest.raises(InputFault, match=says) as fault:
        checked_url(url, None)
    assert "secret" not in str(fault.value)


def test_a_password_comes_from_a_file_that_others_cannot_read(tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.write_text("s3cret\n")
    path.chmod(0o640)
    with pytest.raises(InputFault, match="set its mode to 600"):
        checked_url("postgresql+psycopg://li@db/lx", path)
    path.chmod(0o600)
    url = checked_url("postgresql+psycopg://li@db/lx", path)
    assert url.password == "s3cret" and "s3cret" not in str(url) + store_postgres.named(url)
    path.write_text("\n")
    with pytest.raises(InputFault, match="is empty"):
        checked_url("postgresql+psycopg://li@db/lx", path)
    with pytest.raises(InputFault, match="cannot be read"):
        checked_url("postgresql+psycopg://li@db/lx", tmp_path / "absent")


def test_a_nodes_configuration_opens_it_for_one_node_alone_and_for_any_reader(
    postgres: Cluster, tmp_path: Path
) -> None:
    config = tmp_path / "p.toml"
    url = postgres.schema().render_as_string()
    config.write_text(
        'role = "platform"\noperator = "li-na"\nidentity = "id"\nstate = "state"\nlisten = "127.0.0.1:1"\n'
        f'[store]\nurl = "{url}"\n'
    )
    node = load_node(config)
    with pytest.raises(InputFault, match="holds no store yet"):
        open_store(node, read_only=True)
    first = open_store(node)
    first.put_setting("a", b"1")
    with pytest.raises(InputFault, match="another node uses this database"):
        open_store(node)
    reader = open_store(node, read_only=True)
    assert reader.setting("a") == b"1"
    with pytest.raises(RunStopped):
        reader.put_setting("a", b"2")
    first.close()
    open_store(node).close()
    assert reader.setting("a") == b"1"
    reader.close()


def test_without_the_lock_two_nodes_would_write_to_one_database(postgres: Cluster) -> None:
    url = postgres.schema()
    first, second = Store(url), Store(url)
    ledger_in(first).append(NOTE)
    assert ledger_in(second).append(NOTE)[0] == 1
    first.close(), second.close()


def test_a_server_that_does_not_wait_for_its_disk_is_refused(postgres: Cluster) -> None:
    url = postgres.schema()
    options = f"{url.query['options']} -csynchronous_commit=off"
    with pytest.raises(InputFault, match="synchronous_commit = off"):
        Store(url.update_query_dict({"options": options}))


def test_text_is_ordered_by_its_bytes_whatever_the_database_sorts_by(postgres: Cluster) -> None:
    store = Store(postgres.schema())
    store.add_firm_keys({name: "k" for name in ("b", "B", "é", "a")})
    assert list(store.firm_keys()) == ["B", "a", "b", "é"]
    store.close()


def test_a_lost_connection_is_one_sentence_and_the_next_transaction_connects_again(postgres: Cluster) -> None:
    url = postgres.schema()
    store = Store(url, holds=True)
    ledger = ledger_in(store)
    ledger.append(NOTE)
    with pytest.raises(RunStopped, match="did not carry out a transaction"), store.writing() as connection:
        connection.execute(sa.text("UPDATE settings SET value = 'x'"))
        with connected(url) as other:
            other.execute(END_ALL)
        connection.execute(sa.text("UPDATE settings SET value = 'y'"))
    assert ledger.append(NOTE)[0] == 1  # and the lock is taken again
    with pytest.raises(InputFault, match="another node uses"):
        Store(url, holds=True)
    store.close()


def test_a_node_that_lost_its_database_to_another_node_does_not_write_again(postgres: Cluster) -> None:
    url = postgres.schema()
    first = Store(url, holds=True)
    with connected(url) as other:
        other.execute(END_ALL)
    second = Store(url, holds=True)
    with pytest.raises(InputFault, match="another node uses this database"):
        first.put_setting("a", b"1")
    second.close(), first.close()


def test_a_node_that_comes_back_behind_another_nodes_leaves_signs_and_writes_nothing(postgres: Cluster) -> None:
    url = postgres.schema()
    first = Store(url, holds=True)
    ledger = ledger_in(first)
    ledger.append(NOTE), ledger.append(NOTE)
    with connected(url) as other:
        other.execute(END_ALL)
    second = Store(url, holds=True)
    ledger_in(second).append({**NOTE, "n": 2})
    heads = second.checkpoints()
    second.close()
    for write in (ledger.checkpoint, lambda: first.put_setting("a", b"1"), lambda: ledger.append(NOTE)):
        with pytest.raises(InputFault, match="has 3 leaves where this node left 2"):
            write()
    assert (first.checkpoints(), first.setting("a")) == (heads, None)
    first._left_at = None  # without it the first node signs the shorter head after the longer one
    ledger.checkpoint()
    assert first.last_checkpoint() not in heads
    first.close()
    again = Store(url, holds=True)
    assert ledger_in(again).append(NOTE)[0] == 3
    again.close()


def test_a_commit_whose_answer_was_lost_is_looked_up_and_not_written_twice(
    postgres: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(postgres.schema())
    ledger = ledger_in(store)
    ledger.append(NOTE)
    commit = store._writer.dialect.do_commit

    def lost(connection: sa.Connection) -> None:
        commit(connection)
        raise sa.exc.OperationalError("commit", {}, OSError("the server closed the connection"))

    with monkeypatch.context() as broken:
        broken.setattr(store._writer.dialect, "do_commit", lost)
        assert ledger.append({**NOTE, "n": 1})[0] == 1
    with monkeypatch.context() as broken:  # without the look-up it would be told as not written, and be there
        broken.setattr(store._writer.dialect, "do_commit", lost)
        broken.setattr(store, "_has", lambda *_: False)
        with pytest.raises(RunStopped):
            ledger.append({**NOTE, "n": 2})
    assert store.leaf_count() == 3 > ledger.size
    store.close()


def test_a_server_that_is_killed_under_four_writers_keeps_what_was_answered(tmp_path: Path) -> None:
    import stores

    own = stores.cluster()
    server = next(own)
    url = server.schema()
    ledger, answered = ledger_in(Store(url)), list[int]()

    def work() -> None:
        with pytest.raises(RunStopped):
            for _ in range(10_000):
                answered.append(ledger.append(NOTE)[0])

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    while len(answered) < 60:
        assert any(thread.is_alive() for thread in threads)
    server.stop()
    for thread in threads:
        thread.join(30)
    server.start()
    again = ledger_in(Store(url))
    assert set(answered) <= set(range(again.size)) and again.size <= len(answered) + 4
    assert again.append(NOTE)[0] == again.size - 1
    own.close()


def test_a_second_writer_of_one_setting_is_refused_and_not_lost(postgres: Cluster) -> None:
    url = postgres.schema()
    store = Store(url)
    assert store.reserve("n", 3) == 0

    def between(kept: bytes | None) -> bytes:
        with edited(url) as other:
            other.execute("update settings set value = ? where key = 'reserved/n'", (b"9",))
        return b"4"

    with pytest.raises(RunStopped):
        store.change_setting("reserved/n", between)
    assert store.setting("reserved/n") == b"9"
    store.close()
