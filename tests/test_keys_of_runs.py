"""Saved keys and seeds in whole runs: what a run leaves, what stops it, and that no secret shows in anything it writes."""

import json
import shutil
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest
import worlds
from worlds import World

from lianxin.crypto import key_file, paillier
from lianxin.crypto.key_file import Label
from lianxin.crypto.randomness import Drbg
from lianxin.federation.errors import RunStopped
from lianxin.parties.config import KEY_FILE, load_node
from lianxin.parties.keys import list_keys, load_protection
from lianxin.parties.node import Node, open_node
from lianxin.simulations import runner
from lianxin.simulations.layout import RUN

finished = worlds.finished
BITS = 256
KEY = paillier.generate_secret_key(BITS, "bank-1", "labels", RUN, Drbg(bytes(32)).child("test_keys_of_runs"))


def never() -> paillier.SecretKey:
    pytest.fail("a key was made although one is saved")


def spellings(number: int) -> list[bytes]:
    """Return how a secret number would look if it were written somewhere."""
    size = (number.bit_length() + 7) // 8
    texts = [str(number), f"{number:x}", f"{number:X}"]
    return [*(text.encode() for text in texts), number.to_bytes(size, "big"), number.to_bytes(size, "little")]


def protection_of(world: World, party: str) -> key_file.Protection:
    return load_protection(load_node(world.layout.home(party) / "node.toml"))


def keys_of(world: World) -> Iterator[tuple[Path, str, str]]:
    """Yield (file, owner, purpose) of each key that a run by ECDH and binning needs."""
    for party in (world.platform, *world.banks):
        purpose = "masks" if party == world.platform else "labels"
        yield world.layout.home(party) / "state" / "keys" / RUN / f"{purpose}.json", party, purpose


def test_a_run_leaves_each_partys_keys_saved_under_its_own_protection(finished: World) -> None:
    for path, party, purpose in keys_of(finished):
        assert [entry.name for entry in path.parent.iterdir()] == [path.name]
        opened = key_file.open_key(path.read_bytes(), protection_of(finished, party), Label(party, purpose, RUN))
        assert opened.public.bits == 2048
    entries = json.loads(list_keys(finished.layout.home(finished.platform) / "state", True))["keys"]
    assert [(entry["purpose"], entry["bits"]) for entry in entries] == [("masks", 2048)]


def canaries(world: World) -> dict[str, list[bytes]]:
    """Return every spelling of each party's primes, run seed and key file, by what it is."""
    found = {}
    for path, party, purpose in keys_of(world):
        if path.exists():
            key = key_file.open_key(path.read_bytes(), protection_of(world, party), Label(party, purpose, RUN))
            found |= {f"{name} of {party}": spellings(n) for name, n in zip("pq", key.reveal_primes(), strict=True)}
        home = world.layout.home(party)
        found[f"key file of {party}"] = spellings(int((home / "identity" / KEY_FILE).read_text(), 16))
        node = open_node(load_node(home / "node.toml"))
        found[f"seed of {party}"] = spellings(int.from_bytes(node.run_seed(RUN), "big"))
        node.close()
    return found


def shown_in(folder: Path, secrets: dict[str, list[bytes]]) -> list[str]:
    """Return which secret stands in which file under `folder`, key files and sockets apart."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != KEY_FILE]
    assert len(files) > 20
    return [
        f"{name} in {path}"
        for path in files
        for name, texts in secrets.items()
        if any(text in data for data in [path.read_bytes()] for text in texts)
    ]


def test_no_file_of_a_finished_run_shows_a_prime_a_seed_or_a_key_file(finished: World, tmp_path: Path) -> None:
    folder = worlds.copy_of(finished, tmp_path / "run")
    secrets = canaries(World(worlds.Layout(folder, finished.layout.inputs, finished.layout.terms,
                                           finished.layout.catalogue), finished.ran))  # fmt: skip
    assert len(secrets) == 4 * len(finished.layout.parties)
    assert shown_in(folder, secrets) == []
    (folder / "parties" / "planted.txt").write_bytes(b"p = " + next(iter(secrets.values()))[0])
    assert len(shown_in(folder, secrets)) == 1


@pytest.mark.parametrize(
    ("party", "purpose", "protocol"),
    [("platform", "masks", "ecdh"), ("bank-1", "labels", "ecdh"), ("bank-1", "matching", "paillier")],
)
def test_a_run_stops_at_a_saved_key_that_does_not_open_and_shows_no_secret(
    party: str, purpose: str, protocol: str, tmp_path: Path, caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    notes: list[str] = []
    say = Node.say
    monkeypatch.setattr(Node, "say", lambda node, what, run="": notes.append(what) or say(node, what, run))
    inputs = worlds.tables_of(tmp_path / "tables", 3, 300, 2, 150)
    layout = worlds.lay(tmp_path / "run", inputs, rounds=1, matching=protocol)
    broken = layout.home(party) / "state" / "keys" / RUN / f"{purpose}.json"
    broken.parent.mkdir(parents=True)
    broken.write_bytes(b'{"type":"paillier-key","version":1}')
    with worlds.known_keys(), pytest.raises(RunStopped) as caught:
        runner.run_in_memory(layout)
    sentence = f"{broken}: the file lacks a field of a saved key"
    said = "".join(traceback.format_exception(caught.value)) + caplog.text + "".join(capfd.readouterr()) + str(notes)
    assert any(sentence in note and "\n" not in note for note in [*notes, str(caught.value)])
    broken.unlink()
    secrets = canaries(World(layout, None))  # type: ignore[arg-type]
    assert len(secrets) > 6
    assert not [name for name, texts in secrets.items() for text in texts if text in said.encode()]
    assert shown_in(layout.folder, secrets) == []


def test_a_seed_is_sealed_for_its_run_and_no_other_is_taken_not_even_a_plain_one(tmp_path: Path) -> None:
    inputs = worlds.tables_of(tmp_path / "tables", 3, 60, 2, 40)
    layout = worlds.lay(tmp_path / "run", inputs)
    node = open_node(load_node(layout.home("bank-1") / "node.toml"))
    try:
        seed = node.run_seed("run-9")
        kept = node.store.setting("seed/run-9")
        assert kept is not None and seed not in kept and seed.hex().encode() not in kept
        assert node.run_seed("run-9") == seed
        node.store.put_setting("seed/run-8", bytes(range(32)))
        with pytest.raises(RunStopped, match="seed of run run-8"):
            node.run_seed("run-8")
        node.store.put_setting("seed/run-7", kept)
        with pytest.raises(RunStopped, match=r"seed of run run-7 .* run run-9, asked for run run-7"):
            node.run_seed("run-7")
    finally:
        node.close()


def test_a_node_started_again_under_another_key_file_is_told_and_nothing_is_overwritten(tmp_path: Path) -> None:
    inputs = worlds.tables_of(tmp_path / "tables", 3, 60, 2, 40)
    layout = worlds.lay(tmp_path / "run", inputs)
    home = layout.home("bank-1")
    node = open_node(load_node(home / "node.toml"))
    node.run_seed(RUN)
    node.paillier_key(
        "labels", RUN, BITS, lambda: paillier.secret_key_from_primes(*KEY.reveal_primes(), "bank-1", "labels", RUN)
    )
    node.close()
    shutil.copy(home / "identity" / KEY_FILE, tmp_path / "kept.key")
    (home / "identity" / KEY_FILE).unlink()
    node = open_node(load_node(home / "node.toml"))
    try:
        with pytest.raises(RunStopped, match="another passphrase or key file protects"):
            node.paillier_key("labels", RUN, BITS, never)
        with pytest.raises(RunStopped, match="another passphrase or key file protects"):
            node.run_seed(RUN)
    finally:
        node.close()
    shutil.copy(tmp_path / "kept.key", home / "identity" / KEY_FILE)
    node = open_node(load_node(home / "node.toml"))
    try:
        assert node.paillier_key("labels", RUN, BITS, never).reveal_primes() == KEY.reveal_primes()
    finally:
        node.close()
