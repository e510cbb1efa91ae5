"""Rotations as ledgers, auditors, runs and modules that keep keys see them."""

import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import query_world
import worlds
from evidence_world import KEYS, PLATFORM, World, failed
from query_world import BANK
from test_key_rotation import NEW, OLD, THIEF, said, sent
from worlds import province as province

from lianxin.crypto import canonical, notes, rotation
from lianxin.crypto.errors import SignatureRejected
from lianxin.crypto.rotation import NODE, Rotation
from lianxin.crypto.signing import SigningKey
from lianxin.federation.errors import InputFault
from lianxin.parties import auditor, auditor_ledger, auditor_rotations, key_rotation, rotating
from lianxin.parties import node as node_module
from lianxin.parties.clock import after
from lianxin.parties.config import load_node
from lianxin.parties.ledger_keys import LedgerKeys
from lianxin.parties.ledger_witness import note_of, note_record
from lianxin.parties.node import open_node
from lianxin.parties.rotating import Wish
from lianxin.simulations.layout import Layout

# ---- in the ledger, and as the auditor follows it


def announced(ledger: Any, signed: dict[str, Any]) -> None:
    ledger.append({"kind": "key-rotation", "run": "", "peer": PLATFORM, "rotation": signed})


def of_platform(new: SigningKey = NEW, **changes: Any) -> Rotation:
    return said(party=PLATFORM, old=KEYS[PLATFORM].public_hex, new=new.public_hex, **changes)


def goes_over(world: World) -> None:
    ledger, old = world.parties[PLATFORM].ledger, KEYS[PLATFORM]
    ledger.sign_with(LedgerKeys((NEW, old), (old.public_hex, NEW.public_hex)), {})
    announced(ledger, rotation.sign(of_platform(), old, NEW))


def uses_only(key: SigningKey) -> Callable[[World], None]:
    def change(world: World) -> None:
        known = (KEYS[PLATFORM].public_hex, NEW.public_hex)
        world.parties[PLATFORM].ledger.sign_with(LedgerKeys((key,), known), {})

    return change


def is_forged(world: World) -> None:
    announced(world.parties[PLATFORM].ledger, rotation.sign(of_platform(), THIEF, NEW))
    uses_only(NEW)(world)


def test_the_auditor_follows_a_rotation_and_both_keys_sign_while_both_count(tmp_path: Path) -> None:
    run = World(tmp_path, {"after release": goes_over, "after end": uses_only(NEW)}).story()
    assert failed(run) == {}
    assert failed(run, known_keys={PLATFORM: NEW.public_hex}) == {}
    assert "contract" in failed(run, known_keys={PLATFORM: THIEF.public_hex})


LEDGER_LIES = {
    "another key without a statement": {"after end": uses_only(NEW)},
    "a statement that the old key did not sign": {"after end": is_forged},
    "the old key after its end": {"after release": goes_over, "after end": uses_only(KEYS[PLATFORM])},
}


@pytest.mark.parametrize("lie", LEDGER_LIES)
def test_the_auditor_refuses_a_ledger(lie: str, tmp_path: Path) -> None:
    assert set(failed(World(tmp_path, LEDGER_LIES[lie]).story())) == {"checkpoints"}


def shown_to_a_bank(key: SigningKey) -> Callable[[World], None]:
    """A head of another ledger of the same size, which a bank holds of the platform."""

    def change(world: World) -> None:
        uses_only(NEW)(world)
        size = world.parties[PLATFORM].ledger.size
        head = notes.Checkpoint(notes.log_name(PLATFORM), size, b"\x13" * 32, ())
        note = LedgerKeys((key,), (key.public_hex,)).signed(head)
        world.parties["bank-a"].ledger._store.add_witnessed(PLATFORM, canonical.encode(note_record(note)))

    return change


@pytest.mark.parametrize("key", [KEYS[PLATFORM], NEW], ids=["replaced", "in force"])
def test_a_head_that_a_replaced_key_alone_signed_convicts_nobody_of_two_ledgers(
    key: SigningKey, tmp_path: Path
) -> None:
    run = World(tmp_path, {"after release": goes_over, "after end": shown_to_a_bank(key)}).story()
    verdict = auditor.verify_run(run)
    assert {check.name.split("/")[0] for check in verdict.failures} and not verdict.ok
    told = " ".join(check.detail for check in verdict.failures)
    if key is NEW:
        assert "signed two different ledgers" in told and PLATFORM in dict(verdict.accused)
    else:
        assert "by a node key that platform had replaced by then, and by it alone" in told
        assert "two different ledgers" not in told and PLATFORM not in dict(verdict.accused)


def test_without_the_rule_of_times_a_thief_of_an_old_key_goes_on_with_the_ledger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auditor_ledger, "_is_signed_in_time", lambda *_: True)
    assert failed(World(tmp_path, LEDGER_LIES["the old key after its end"]).story()) == {}


def test_a_part_of_a_pack_that_the_new_key_signed_is_its_partys(tmp_path: Path) -> None:
    run = World(tmp_path, {"after release": goes_over, "after end": uses_only(NEW)}).story()
    folder = run / "parties" / PLATFORM
    assert auditor_rotations.reaches(folder, KEYS[PLATFORM].public_hex, NEW.public_hex)
    assert not auditor_rotations.reaches(folder, KEYS[PLATFORM].public_hex, THIEF.public_hex)
    assert not auditor_rotations.reaches(folder, KEYS["bank-a"].public_hex, NEW.public_hex)


# ---- an open node


@pytest.fixture
def laid(tmp_path: Path, province: Any) -> Layout:
    return worlds.lay(tmp_path / "run", province, **worlds.SHORT)


def test_a_node_takes_a_rotation_up_and_goes_on_under_both_keys_until_the_old_one_is_retired(laid: Layout) -> None:
    bank = laid.parties[1]
    config = load_node(laid.home(bank) / "node.toml")
    node = open_node(config)
    before, now = node.identity.signing_key, node.clock.now()
    try:
        signed = rotating.rotate(config, Wish(NODE, 0, 1), now)
        key_rotation.refresh(node)
        key_rotation.refresh(node)
        leaves = [canonical.decode(leaf) for leaf in node.store.leaves()]
        assert [leaf["rotation"] for leaf in leaves if leaf["kind"] == "key-rotation"] == [signed]
        assert node.identity.signing_key.public_hex == signed["record"]["new"] != before.public_hex
        note = note_of(node.ledger.checkpoint())
        for key in (before.public_hex, signed["record"]["new"]):
            notes.verify(note, notes.log_name(bank), key)
        contract = SimpleNamespace(node_keys={bank: before.public_hex})
        assert node.session(contract, None, "contracts/x").key.public_hex == before.public_hex
    finally:
        node.close()
    worlds.edit_toml(laid.home(bank) / "node.toml", lambda t: t["simulation"].update(clock=after(now, 2)))
    later = open_node(load_node(laid.home(bank) / "node.toml"))
    try:
        assert not (config.identity / "node.key").exists() and list(later.identity.held) == [signed["record"]["new"]]
        with pytest.raises(SignatureRejected):
            notes.verify(note_of(later.ledger.checkpoint()), notes.log_name(bank), before.public_hex)
    finally:
        later.close()


def test_paillier_keys_of_runs_that_are_over_are_dropped_and_those_in_use_stay(tmp_path: Path) -> None:
    rows = [SimpleNamespace(run="run-1", state="finished"), SimpleNamespace(run="run-2", state="running")]
    store = SimpleNamespace(runs=lambda: rows)
    for run in ("run-1", "run-2"):
        (tmp_path / "keys" / run).mkdir(parents=True)
        (tmp_path / "keys" / run / "labels.json").write_text("{}")
    assert key_rotation.retire_paillier(store, tmp_path, dry=True) == {
        "dropped": ["run-1/labels"],
        "kept": ["run-2/labels"],
    }
    assert (tmp_path / "keys" / "run-1" / "labels.json").exists()
    key_rotation.retire_paillier(store, tmp_path, dry=False)
    assert [path.name for path in (tmp_path / "keys").iterdir()] == ["run-2"]
    with pytest.raises(InputFault, match="in use by a run under way"):
        key_rotation.retire_paillier(store, tmp_path, dry=False)


# ---- keys that a module keeps

MODULE = """
import socket, sys
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(sys.argv[2]))
door = socket.socket(socket.AF_UNIX)
door.bind(sys.argv[1])
door.listen(8)
print("ready", flush=True)
while True:
    with door.accept()[0] as line, line.makefile("rwb") as stream:
        stream.write(key.sign(bytes.fromhex(stream.readline().decode())))
"""


class Module:
    """A signer in a process of its own: the key is there alone, this one sends bytes and gets signatures."""

    def __init__(self, place: Path, seed: bytes) -> None:
        self.place, self.signed = place, 0
        self.public_hex = SigningKey.from_seed(seed).public_hex
        command = [sys.executable, "-c", MODULE, str(place), seed.hex()]
        self._child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._child.stdout is not None and self._child.stdout.readline() == "ready\n"

    def sign(self, data: bytes) -> bytes:
        self.signed += 1
        with socket.socket(socket.AF_UNIX) as line:
            line.connect(str(self.place))
            line.sendall(data.hex().encode() + b"\n")
            return b"".join(iter(lambda: line.recv(64), b""))

    def close(self) -> None:
        self._child.terminate()
        self._child.wait(5)
        assert self._child.stdout is not None
        self._child.stdout.close()


def test_a_signer_in_another_process_signs_a_whole_agreement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = query_world.lay(tmp_path / "run", query_world.tables(tmp_path / "tables"))
    place = layout.home(BANK) / "identity" / "node.key"
    module = Module(tmp_path / "s", bytes.fromhex(place.read_text().strip()))
    load = node_module.load_identity
    place.unlink()  # the key is in the module alone

    def with_module(folder: Path, *more: Any) -> Any:
        return load(folder, *more, module=module) if folder == place.parent else load(folder, *more)

    monkeypatch.setattr(node_module, "load_identity", with_module)
    try:
        with query_world.running(layout) as nodes:
            nodes.agree()
            nodes.ask(*nodes.fresh(2), fields=(query_world.OPEN,))
            nodes.end()
    finally:
        module.close()
    assert module.signed >= 5 and auditor.verify_run(layout.folder).ok


# ---- a whole agreement during which a node key is rotated


def test_an_agreement_goes_on_under_its_key_and_the_next_one_is_made_under_the_new(tmp_path: Path) -> None:
    layout = query_world.lay(tmp_path / "run", query_world.tables(tmp_path / "tables"))
    query_world.write_agreement(layout, "queries-2")
    configs = {party: load_node(layout.home(party) / "node.toml") for party in layout.parties}
    with query_world.running(layout) as nodes:
        first, now = nodes.agree(), nodes.node(BANK).clock.now()
        for mover in (query_world.PLATFORM, BANK):
            statement = sent(tmp_path, rotating.rotate(configs[mover], Wish(NODE, 0, 1), now))
            for party in set(layout.parties) - {mover}:
                rotating.accept(configs[party], statement, now)
        for party in layout.parties:
            key_rotation.refresh(nodes.node(party))
        nodes.ask(*nodes.fresh(2), fields=(query_world.OPEN,))
        second = nodes.agree("queries-2")
        changed = {party for party in layout.parties if first.node_keys[party] != second.node_keys[party]}
        assert changed == {query_world.PLATFORM, BANK}
        nodes.ask(*nodes.fresh(2), fields=(query_world.OPEN,), run="queries-2")
        nodes.end()
    assert [check for check in auditor.verify_run(layout.folder).checks if not check.ok] == []


def test_a_module_that_gives_another_signature_stops_with_one_sentence() -> None:
    key = SigningKey.from_signer(SimpleNamespace(public_hex=OLD.public_hex, sign=lambda _data: bytes(64)))
    with pytest.raises(SignatureRejected, match="gave a signature that does not verify"):
        key.sign("envelope", b"x")
    with pytest.raises(SignatureRejected):
        SigningKey.from_signer(SimpleNamespace(public_hex="00" * 32, sign=OLD.sign))
