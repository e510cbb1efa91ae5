"""A node's saved keys: on disk before use, found again, protected by what the configuration names, silent about secrets."""

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import worlds

from lianxin.crypto import key_file, paillier
from lianxin.crypto.key_file import Label
from lianxin.crypto.randomness import Drbg
from lianxin.federation.errors import InputFault, RunStopped
from lianxin.parties import cli
from lianxin.parties.config import KEY_FILE, load_node
from lianxin.parties.keys import KeyStore, load_protection, make_key_file

finished = worlds.finished
PARTY, PURPOSE, THE_RUN, BITS = "bank-1", "labels", "run-1", 256
PASSPHRASE = "a horse that nobody staples"
KEY = paillier.generate_secret_key(BITS, PARTY, PURPOSE, THE_RUN, Drbg(bytes(32)).child("test_keys"))


def never() -> paillier.SecretKey:
    pytest.fail("a key was made although one is saved")


def spellings(number: int) -> list[bytes]:
    """Return how a secret number would look if it were written somewhere."""
    size = (number.bit_length() + 7) // 8
    texts = [str(number), f"{number:x}", f"{number:X}"]
    return [*(text.encode() for text in texts), number.to_bytes(size, "big"), number.to_bytes(size, "little")]


@pytest.fixture
def store(tmp_path: Path) -> KeyStore:
    return KeyStore(tmp_path / "state", PARTY, key_file.protect_by_key(bytes(32)))


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "state" / "keys" / THE_RUN / f"{PURPOSE}.json"


# ---- one key


def test_a_key_is_on_disk_for_its_owner_alone_before_it_is_handed_out(store: KeyStore, place: Path) -> None:
    assert store.paillier_key(PURPOSE, THE_RUN, BITS, lambda: KEY) is KEY
    assert stat.S_IMODE(place.stat().st_mode) == 0o600
    assert stat.S_IMODE(place.parent.stat().st_mode) == stat.S_IMODE(place.parent.parent.stat().st_mode) == 0o700
    assert sorted(place.parent.iterdir()) == [place]


def test_a_saved_key_is_found_again_by_another_start_of_the_node(store: KeyStore, tmp_path: Path) -> None:
    store.paillier_key(PURPOSE, THE_RUN, BITS, lambda: KEY)
    again = KeyStore(tmp_path / "state", PARTY, key_file.protect_by_key(bytes(32)))
    assert again.paillier_key(PURPOSE, THE_RUN, BITS, never).reveal_primes() == KEY.reveal_primes()


def test_each_purpose_and_run_has_a_key_of_its_own(store: KeyStore, tmp_path: Path) -> None:
    made = []
    for purpose, run in ((PURPOSE, THE_RUN), ("matching", THE_RUN), (PURPOSE, "run-2")):
        drbg = Drbg(bytes(32)).child(purpose, run)
        key = store.paillier_key(
            purpose, run, BITS, lambda p=purpose, r=run, d=drbg: paillier.generate_secret_key(BITS, PARTY, p, r, d)
        )
        made.append(key.public.key_id)
    assert len(set(made)) == 3
    files = sorted(path.relative_to(tmp_path / "state" / "keys") for path in tmp_path.rglob("*.json"))
    assert [str(path) for path in files] == ["run-1/labels.json", "run-1/matching.json", "run-2/labels.json"]


def test_a_key_that_cannot_be_saved_is_not_used(store: KeyStore, place: Path) -> None:
    place.parent.parent.mkdir(parents=True)
    place.parent.write_text("a file where the folder should be")
    with pytest.raises(RunStopped, match=r"labels\.json cannot be (read|written)"):
        store.paillier_key(PURPOSE, THE_RUN, BITS, lambda: KEY)


def test_a_crash_before_the_renaming_leaves_no_key_and_the_next_start_saves_one(
    store: KeyStore, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "rename", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        store.paillier_key(PURPOSE, THE_RUN, BITS, lambda: KEY)
    assert not place.exists()
    monkeypatch.undo()
    store.paillier_key(PURPOSE, THE_RUN, BITS, lambda: KEY)
    assert sorted(place.parent.iterdir()) == [place]


def test_bytes_and_name_are_synchronised_before_the_key_is_handed_out(
    store: KeyStore, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[Any] = []
    rename, fsync = Path.rename, os.fsync
    monkeypatch.setattr(Path, "rename", lambda self, to: order.append("rename") or rename(self, to))
    monkeypatch.setattr(os, "fsync", lambda handle: order.append(os.fstat(handle).st_ino) or fsync(handle))
    store.paillier_key(PURPOSE, THE_RUN, BITS, lambda: KEY)
    file, run, keys, state = (path.stat().st_ino for path in (place, *place.parents[:3]))
    assert order == [file, "rename", run, keys, state]


def _other_party(place: Path) -> None:
    named = paillier.secret_key_from_primes(*KEY.reveal_primes(), "bank-2", PURPOSE, THE_RUN)
    place.write_bytes(key_file.seal_key(named, key_file.protect_by_key(bytes(32)), bytes(16)))


def _other_protection(place: Path) -> None:
    place.write_bytes(key_file.seal_key(KEY, key_file.protect_by_key(b"x" * 32), bytes(16)))


BROKEN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "cut short": (lambda place: place.write_bytes(place.read_bytes()[:-40]), "cut short or damaged"),
    "empty": (lambda place: place.write_bytes(b""), "cut short or damaged"),
    "of another bank": (_other_party, "owner bank-2, asked for owner bank-1"),
    "under another key file": (_other_protection, "another passphrase or key file"),
    "of another purpose": (
        lambda place: place.write_bytes(place.read_bytes().replace(b'"labels"', b'"matching"')),
        "purpose matching, asked for purpose labels",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_file_that_does_not_open_stops_the_run_and_stays(store: KeyStore, place: Path, name: str) -> None:
    break_it, words = BROKEN[name]
    store.paillier_key(PURPOSE, THE_RUN, BITS, lambda: KEY)
    break_it(place)
    left = place.read_bytes()
    with pytest.raises(RunStopped, match=words) as caught:
        store.paillier_key(PURPOSE, THE_RUN, BITS, never)
    assert str(caught.value).startswith(f"{place}: ") and "\n" not in str(caught.value)
    assert place.read_bytes() == left


def test_a_saved_key_of_another_size_than_the_contract_is_not_used(store: KeyStore, place: Path) -> None:
    store.paillier_key(PURPOSE, THE_RUN, BITS, lambda: KEY)
    with pytest.raises(RunStopped, match="of 256 bits, the contract asks for 2048"):
        store.paillier_key(PURPOSE, THE_RUN, 2048, never)


def test_a_maker_that_gives_another_key_than_was_asked_for_is_a_fault_and_saves_nothing(
    store: KeyStore, place: Path
) -> None:
    for purpose, bits in (("matching", BITS), (PURPOSE, 512)):
        with pytest.raises(ValueError, match="than was asked for"):
            store.paillier_key(purpose, THE_RUN, bits, lambda: KEY)
    assert not place.parent.exists()


@pytest.mark.parametrize("run", ["../../outside", "a", "run/1", "Run-1", "x" * 65, ""])
def test_a_run_whose_name_is_a_path_reaches_no_file(store: KeyStore, tmp_path: Path, run: str) -> None:
    with pytest.raises(RunStopped, match="choose such a run id"):
        store.paillier_key(PURPOSE, run, BITS, never)
    assert list(tmp_path.iterdir()) == []


def test_a_passphrase_is_stretched_once_for_all_keys_of_a_node_and_once_more_after_its_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stretch, calls = key_file.Scrypt, []
    monkeypatch.setattr(key_file, "Scrypt", lambda *cost: calls.append(cost) or stretch(*cost))
    for start in (1, 2):
        keys = KeyStore(tmp_path / "state", PARTY, key_file.protect_by_passphrase(PASSPHRASE))
        for run in (f"run-{start}", f"run-{start + 2}", f"run-{start + 1}"):
            named = paillier.secret_key_from_primes(*KEY.reveal_primes(), PARTY, PURPOSE, run)
            keys.paillier_key(PURPOSE, run, BITS, lambda named=named: named)
        assert len(calls) == start
    assert len({cost[0] for cost in calls}) == 1


# ---- what protects them


def node_file(folder: Path, **changes: Any) -> Path:
    """Write a bank's configuration beside an identity folder and return its path."""
    (folder / "identity").mkdir(parents=True, exist_ok=True)
    config = {
        "role": "bank", "operator": "operator-wang", "identity": "identity", "state": "state",
        "platform_address": "127.0.0.1:7443", "data": {"table": "loans.csv", "id": "uscc", "label": "label_bad"},
    }  # fmt: skip
    path = folder / "node.toml"
    path.write_text(tomli_w.dumps(config | changes))
    return path


def private(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def seals_alike(a: key_file.Protection, b: key_file.Protection) -> bool:
    """Return whether what one protection seals opens under the other."""
    label = Label("bank-1", "run-seed", "run-1")
    return key_file.open_seed(key_file.seal_seed(bytes(32), label, a, bytes(16)), b, label) == bytes(32)


def test_without_a_section_the_key_file_of_the_identity_folder_protects(tmp_path: Path) -> None:
    config = load_node(node_file(tmp_path))
    make_key_file(tmp_path / "identity" / KEY_FILE)
    secret = bytes.fromhex((tmp_path / "identity" / "keys.key").read_text())
    assert seals_alike(load_protection(config), key_file.protect_by_key(secret))


def test_a_key_file_or_a_passphrase_file_is_read_where_the_section_names_it(tmp_path: Path) -> None:
    private(tmp_path / "own.key", "ab" * 32 + "\n")
    by_key = load_protection(load_node(node_file(tmp_path, keys={"key_file": "own.key"})))
    assert seals_alike(by_key, key_file.protect_by_key(b"\xab" * 32))
    private(tmp_path / "words", PASSPHRASE + "\n")
    by_words = load_protection(load_node(node_file(tmp_path, keys={"passphrase_file": "words"})))
    assert seals_alike(by_words, key_file.protect_by_passphrase(PASSPHRASE))


@pytest.mark.parametrize("keys", [{}, {"key_file": "a", "passphrase_file": "b"}])
def test_a_section_with_none_or_both_is_refused_by_name(tmp_path: Path, keys: dict[str, str]) -> None:
    with pytest.raises(InputFault, match="exactly one of key_file and passphrase_file"):
        load_node(node_file(tmp_path, keys=keys))


def test_a_passphrase_in_the_configuration_itself_is_no_key_that_it_may_have(tmp_path: Path) -> None:
    with pytest.raises(InputFault, match=r"keys\.passphrase: is no key") as caught:
        load_node(node_file(tmp_path, keys={"passphrase": PASSPHRASE}))
    assert PASSPHRASE not in str(caught.value)


def test_a_production_node_without_its_key_file_is_told_and_gets_none(tmp_path: Path) -> None:
    with pytest.raises(InputFault, match=r"keys\.key, which protects this node's keys, is missing") as caught:
        load_protection(load_node(node_file(tmp_path)))
    assert "\n" not in str(caught.value) and not (tmp_path / "identity" / KEY_FILE).exists()


def test_a_trial_node_without_its_key_file_makes_one_and_keeps_it(tmp_path: Path) -> None:
    config = load_node(node_file(tmp_path, profile="trial"))
    first, path = load_protection(config), tmp_path / "identity" / KEY_FILE
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert seals_alike(first, load_protection(config))


BAD_SECRETS: dict[str, tuple[str, str, int, str]] = {
    "a key file open to others": ("key_file", "ab" * 32, 0o640, "set its mode to 600"),
    "a passphrase file open to others": ("passphrase_file", PASSPHRASE, 0o604, "set its mode to 600"),
    "a short key file": ("key_file", "ab" * 31, 0o600, "64 lower-case hex digits"),
    "a key file in capitals": ("key_file", "AB" * 32, 0o600, "64 lower-case hex digits"),
    "a short passphrase": ("passphrase_file", "eleven char", 0o600, "at least 12 characters"),
    "two lines of passphrase": ("passphrase_file", PASSPHRASE + "\nmore", 0o600, "one line"),
    "an empty passphrase": ("passphrase_file", "\n", 0o600, "one line"),
}


@pytest.mark.parametrize("name", BAD_SECRETS)
def test_a_secret_file_that_is_open_or_malformed_is_refused_without_its_words(tmp_path: Path, name: str) -> None:
    kind, text, mode, words = BAD_SECRETS[name]
    private(tmp_path / "secret", text, mode)
    with pytest.raises(InputFault, match=words) as caught:
        load_protection(load_node(node_file(tmp_path, keys={kind: "secret"})))
    assert text.strip() == "" or text.strip() not in str(caught.value)


def test_a_key_file_is_made_once_and_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / KEY_FILE
    make_key_file(path)
    text = path.read_text()
    make_key_file(path)
    assert path.read_text() == text and len(bytes.fromhex(text)) == 32
    make_key_file(tmp_path / "other")
    assert (tmp_path / "other").read_text() != text
    with pytest.raises(InputFault, match="cannot be written"):
        make_key_file(tmp_path / "nowhere" / KEY_FILE)


# ---- commands


@pytest.fixture
def network(tmp_path: Path) -> Path:
    words = ["network", "init", str(tmp_path / "net"), "--platform", "platform-a", "--bank", "bank-1"]
    assert cli.run(words) == 0
    return tmp_path / "net"


def init(folder: Path, name: str) -> int:
    words = ["--identity", str(folder), "--table", "t.csv", "--id", "uscc", "--operator", "operator-li"]
    return cli.run(["bank", "init", str(folder.parent / name), *words, "--label", "label_bad"])


def test_init_gives_a_node_a_key_file_and_leaves_one_that_is_there(network: Path) -> None:
    for party in ("platform-a", "bank-1"):
        path = network / party / KEY_FILE
        assert stat.S_IMODE(path.stat().st_mode) == 0o600 and len(path.read_text().strip()) == 64
    path = network / "bank-1" / KEY_FILE
    before = path.read_text()
    assert init(network / "bank-1", "a.toml") == 0 and path.read_text() == before
    path.unlink()
    assert init(network / "bank-1", "b.toml") == 0 and path.read_text() != before


def test_saved_keys_are_listed_without_opening_them_and_a_damaged_one_does_not_hide_the_others(
    network: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert init(network / "bank-1", "a.toml") == 0
    config = network / "a.toml"
    state = load_node(config).state
    assert cli.run(["bank", "keys", str(config)]) == 0
    assert "no key is saved here yet" in capsys.readouterr().out
    keys = KeyStore(state, PARTY, key_file.protect_by_key(bytes(32)))
    keys.paillier_key(PURPOSE, THE_RUN, BITS, lambda: KEY)
    damaged = state / "keys" / THE_RUN / "matching.json"
    damaged.write_bytes(b"{")
    (network / "bank-1" / KEY_FILE).unlink()
    assert cli.run(["bank", "keys", str(config), "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["keys"]
    assert listed[0] == {
        "owner": PARTY, "purpose": PURPOSE, "run": THE_RUN, "bits": BITS, "key_id": KEY.public.key_id,
        "protection": "key file",
    }  # fmt: skip
    assert listed[1]["file"] == str(damaged) and "cut short or damaged" in listed[1]["fault"]
    assert cli.run(["bank", "keys", str(config)]) == 0
    shown = capsys.readouterr().out
    assert f"purpose {PURPOSE}" in shown and KEY.public.key_id in shown
    assert not [text for prime in KEY.reveal_primes() for text in spellings(prime) if text in shown.encode()]
    assert cli.run(["platform", "keys", str(config)]) == 2
