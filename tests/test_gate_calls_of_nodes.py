"""Calls of the gate and the guard about a node's own keys, ledger, copies, peers and turns that no other quick test shows.

`mutants.MUTANTS` names these tests; with the call taken out each fails.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import consents
import pytest
import worlds
from test_gate_calls import all_signed, half_signed, never
from test_key_rotation import NOW, config_of, sent
from test_key_rotation import network as network

from lianxin.crypto import canonical
from lianxin.crypto.errors import SignatureRejected
from lianxin.crypto.signing import SigningKey, sign_record
from lianxin.federation import services_health, services_road
from lianxin.federation.admission import PinnedPeer
from lianxin.federation.errors import EvidenceRejected, GateRefused, InputFault, PeerError, RunStopped
from lianxin.federation.resumption import Frame
from lianxin.federation.services_health import HealthDoor
from lianxin.federation.wire import Crossing
from lianxin.parties import (
    doctor_node,
    identity_chain,
    key_rotation,
    peer_trust,
    platform_turns,
    rotating,
    runs_resumed,
    store_restore,
)
from lianxin.parties.identity_chain import ACCEPTED, Introduced
from lianxin.parties.ledger import Ledger
from lianxin.parties.ledger_keys import LedgerKeys
from lianxin.parties.limits_disk import DiskShort
from lianxin.parties.platform_turns import RunTurns
from lianxin.parties.run_life import Places, RunLife
from lianxin.parties.store import Store
from lianxin.parties.store_copy import check_ledger
from lianxin.parties.trace import LedgerTrace

ends = worlds.ends
OLD, NEW, THIEF = (SigningKey.from_seed(name * 32) for name in (b"o", b"n", b"x"))
PARTY = "platform-a"
BOTH = LedgerKeys((NEW,), (OLD.public_hex, NEW.public_hex))


# ---- the door


class Aborted(Exception):
    """What a gRPC context raises when it ends a call."""


class Context:
    """As much of a gRPC context as a call's handler looks at."""

    def auth_context(self) -> dict[str, Any]:
        return {}

    def abort(self, _status: Any, _text: str) -> None:
        raise Aborted


def health(charge: Any) -> Any:
    parties = {"spiffe://lianxin.test/bank-1": PinnedPeer("bank-1", "0" * 64)}
    return HealthDoor(parties, lambda: True, lambda: None, charge)._check(b"", Context())  # type: ignore[arg-type, return-value]


def test_who_shows_no_certificate_is_not_told_whether_the_node_serves() -> None:
    with pytest.raises(Aborted):
        health(lambda _party: None)


def test_a_peer_that_asks_after_the_health_too_often_is_told_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def over(_party: str) -> None:
        raise PeerError("too often", "L11")

    monkeypatch.setattr(services_health, "check_peer", lambda _auth, peers, _now: (next(iter(peers.values())), ""))
    assert health(lambda _party: None)
    with pytest.raises(Aborted):
        health(over)


def test_what_costs_more_than_a_peer_may_is_not_said_and_ends_the_conversation() -> None:
    def charge(_size: int) -> None:
        raise PeerError("over the bytes of a run", "L13")

    lost: list[PeerError] = []
    end = SimpleNamespace(frames=lambda _stream: iter([Frame(0, 0, b"x" * 100)]), lose=lost.append)
    assert list(services_road.bytes_of(end, 1, charge)) == []  # type: ignore[arg-type]
    assert [fault.rule for fault in lost] == ["L13"]


# ---- heads of the node's own ledger


@pytest.fixture
def rewritten(tmp_path: Path) -> Iterator[Store]:
    """A store whose ledger somebody made anew, and signed with a key of his own."""
    store = Store(tmp_path / "rewritten.sqlite")
    ledger = Ledger(store, PARTY, THIEF, consents.Clock(), "test", "operator-1")
    ledger.append_many({"kind": "note", "run": "", "n": n} for n in range(3))
    ledger.checkpoint()
    yield store
    store.close()


def head_by(key: SigningKey) -> dict[str, Any]:
    record = {"type": "checkpoint", "version": 1, "party": PARTY, "size": 1, "root": "0" * 64, "time": consents.NOW}
    return sign_record(record, [(PARTY, key)])


def test_a_head_is_taken_under_a_key_that_the_party_had_and_under_no_other() -> None:
    assert [BOTH.head_of(head_by(key), PARTY).size for key in (OLD, NEW)] == [1, 1]
    with pytest.raises(SignatureRejected):
        BOTH.head_of(head_by(THIEF), PARTY)


def test_the_doctor_finds_no_ledger_sound_that_another_key_signed(
    rewritten: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        doctor_node, "identity_of", lambda _config: SimpleNamespace(party=PARTY, ledger_keys=lambda: BOTH)
    )
    with pytest.raises(SignatureRejected):
        list(doctor_node._head(None, rewritten, rewritten.next_position()))  # type: ignore[arg-type]


def test_no_copy_holds_whose_ledger_another_key_signed(rewritten: Store) -> None:
    assert check_ledger(rewritten, PARTY, LedgerKeys.of(THIEF))[0] == rewritten.next_position()
    with pytest.raises(EvidenceRejected, match="another key signed that"):
        check_ledger(rewritten, PARTY, BOTH)


def test_a_manifest_is_one_of_the_nodes_own_keys_or_nothing_is_restored() -> None:
    record = {"type": "store-backup", "version": 1, "party": PARTY}
    for key in (OLD, NEW):
        assert store_restore._verified(sign_record(record, [(PARTY, key)]), PARTY, BOTH) == record
    with pytest.raises(SignatureRejected):
        store_restore._verified(sign_record(record, [(PARTY, THIEF)]), PARTY, BOTH)


# ---- peers that were introduced anew, and contracts that name keys or peers


def claimed(node_key: SigningKey, signer: SigningKey) -> dict[str, Any]:
    """A bank's introduction under a node key, signed by whoever says that it is his."""
    said = Introduced("bank-1", "bank", "spiffe://lianxin.test/bank-1", node_key.public_hex, "none", 0, "0" * 64)
    return sign_record(said.record(), [("bank-1", signer)])


def test_an_introduction_is_signed_by_the_key_that_it_names() -> None:
    assert identity_chain.verify_introduced(claimed(NEW, NEW)).node_key == NEW.public_hex
    with pytest.raises(SignatureRejected):
        identity_chain.verify_introduced(claimed(NEW, THIEF))


def test_no_introduction_is_read_from_the_folder_that_its_key_did_not_sign(tmp_path: Path) -> None:
    (tmp_path / ACCEPTED).mkdir()
    (tmp_path / ACCEPTED / "bank-1.json").write_bytes(canonical.encode(claimed(NEW, THIEF)))
    with pytest.raises(InputFault, match=r"bank-1\.json"):
        list(identity_chain.read_introduced(tmp_path))


def test_an_introduction_that_its_key_did_not_sign_is_refused_before_the_folder_is_touched(
    network: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signed, _ = rotating.introduce(config_of(network, "bank-1"), NOW)
    signed["record"]["node_key"] = NEW.public_hex  # which whoever sends this does not have
    monkeypatch.setattr(
        rotating, "known_of", lambda _folder: SimpleNamespace(node_keys=(), certificates=(), tls_keys=())
    )
    monkeypatch.setattr(rotating, "_take_in", never)
    told = canonical.record_hash(signed["record"])
    with pytest.raises(InputFault, match="nothing was accepted"):
        rotating.accept_peer(config_of(network, "platform"), sent(network, signed), told, NOW)


def kept_by(contract: bytes) -> Any:
    """As much of a node as has one run under way, with this contract in its store."""
    row = SimpleNamespace(run="test-run-1", state="running", contract=contract, note="")
    store = SimpleNamespace(runs=lambda: [row], run=lambda _run: row)
    identity = SimpleNamespace(revoked={"bank-1": None})
    return SimpleNamespace(store=store, party="bank-1", identity=identity, say=lambda *_what, **_how: None)


def test_a_contract_that_lacks_signatures_keeps_no_retired_key(ends: worlds.Ends) -> None:
    assert [one.run for one in key_rotation.contracts_under_way(kept_by(all_signed(ends)))] == ["test-run-1"]
    with pytest.raises(PeerError) as refused:
        key_rotation.contracts_under_way(kept_by(half_signed(ends)))
    assert refused.value.rule == "C05"


def test_a_run_that_nobody_has_signed_yet_keeps_its_key_and_no_node_from_starting(ends: worlds.Ends) -> None:
    node = kept_by(canonical.encode(dict(ends.contract.record)))
    node.store.run("").state = "proposed"
    assert [one.run for one in key_rotation.contracts_under_way(node)] == ["test-run-1"]


def test_a_contract_that_lacks_signatures_is_not_ended_as_a_revoked_peers(
    ends: worlds.Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    over: list[str] = []
    monkeypatch.setattr(peer_trust, "_end_kept", lambda _node, contract, *_more: over.append(contract.run))
    assert peer_trust.end_kept(kept_by(all_signed(ends)), {}) == over == ["test-run-1"]
    with pytest.raises(PeerError) as refused:
        peer_trust.end_kept(kept_by(half_signed(ends)), {})
    assert (refused.value.rule, over) == ("C05", ["test-run-1"])


# ---- runs that wait, go on, or have no room


def test_a_run_that_waited_when_its_node_was_stopped_is_not_begun() -> None:
    turns, life = SimpleNamespace(places=Places(1), lives={}, _lead=never), RunLife("run-1", 0, "operator-1")

    def stopped(_life: RunLife) -> None:
        raise RunStopped("this node was stopped while the run waited")

    turns._check_turn, turns._begin = stopped, lambda _life, place: place.take()
    with pytest.raises(RunStopped):
        RunTurns._take_turn(turns, life)  # type: ignore[arg-type]


def resumed(contract: bytes, takes_up: Any, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Resume the one run of a platform; return the contracts under which it was taken up, adopted and led."""
    under: list[Any] = []
    monkeypatch.setattr(platform_turns, "take_up", lambda _node, found, *_more: under.append(found) or takes_up())
    turns = SimpleNamespace(
        node=kept_by(contract), lives={}, runs={}, ended={}, adopt=under.append, _lead_again=lambda _contract: None
    )
    RunTurns.resume(turns, "test-run-1")  # type: ignore[arg-type]
    return under


def test_a_run_is_resumed_under_the_contract_that_its_parties_signed_and_no_other(
    ends: worlds.Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert resumed(all_signed(ends), lambda: True, monkeypatch) == [ends.contract, ends.contract]
    with pytest.raises(PeerError) as refused:
        resumed(half_signed(ends), never, monkeypatch)
    assert refused.value.rule == "C05"


def test_a_run_that_was_left_is_not_taken_up_with_a_bank_that_may_take_part_no_more(
    ends: worlds.Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    def suspended(*_arguments: Any) -> None:
        raise GateRefused("bank-1 is suspended", "I31")

    told: list[str] = []
    network = SimpleNamespace(PlatformNetwork=never)
    monkeypatch.setitem(sys.modules, "lianxin.parties.platform_network", network)
    monkeypatch.setattr(runs_resumed, "check_institutions", suspended)
    monkeypatch.setattr(runs_resumed, "check_goes_on", lambda *_: None)
    monkeypatch.setattr(runs_resumed, "untold", lambda *_: None)
    monkeypatch.setattr(runs_resumed, "end_left", lambda _node, _contract, why, _ended: told.append(why))
    assert not runs_resumed.take_up(SimpleNamespace(), ends.contract, {}, {})  # type: ignore[arg-type]
    assert told == ["bank-1 is suspended"]


def test_what_there_is_no_room_for_is_not_written() -> None:
    def short(*_arguments: Any) -> None:
        raise DiskShort("the disk is nearly full", "L15")

    ledger = SimpleNamespace(append_envelope=never, check_witnessed=lambda _leaf: None)
    names = ("run", "conversation", "step", "seq", "message_type", "payload_hash", "payload_bytes")
    opened = SimpleNamespace(
        header=dict.fromkeys(names, "") | {"round": 0}, message_hash="", encoded=b"", signature=b""
    )
    trace = LedgerTrace(ledger, disk=SimpleNamespace(charge=short))  # type: ignore[arg-type]
    with pytest.raises(DiskShort):
        trace.crossed("in", "bank-1", opened, [Crossing("x", "CONTROL")], (), b"")  # type: ignore[arg-type]
