"""Peers that mean harm with what an operator accepts: certificates, overlaps and identities that would hurt others."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from test_key_rotation import NOW, PARTIES, Door, answered, config_of, rotated, sent
from test_key_rotation import network as network

from lianxin.crypto import canonical, rotation, signing
from lianxin.crypto.errors import SignatureRejected
from lianxin.crypto.rotation import NODE, TLS, Rotation
from lianxin.crypto.signing import SigningKey
from lianxin.federation.errors import InputFault, PeerError
from lianxin.parties import identity_chain, rotating
from lianxin.parties.clock import SimulatedClock, after
from lianxin.parties.identity import load_identity, make_network
from lianxin.parties.identity_chain import ACCEPTED, EARLIER, fingerprint_of, statement_path
from lianxin.parties.identity_of import identity_of
from lianxin.parties.rotating import Wish

OPEN_BLOCK = "-----BEGIN CERTIFICATE-----\n"


def tls_statement(
    network: Path, mangle: Callable[[str], str] = str, key: Any = None, party: str = "bank-1", **changes: Any
) -> Path:
    """A TLS rotation as a party's own code would sign it if its author wished harm."""
    config = config_of(network, party)
    identity, planned = identity_of(config, NOW), rotating.plan(config, Wish(TLS), NOW)
    new = key or ec.generate_private_key(ec.SECP256R1())
    pem = rotating._successor(rotating._newest_certificate(identity, network / party), new, NOW, 365)
    said = {**vars(planned), "new": fingerprint_of(pem), "certificate": mangle(pem.decode()), **changes}
    return sent(network, rotation.sign(Rotation(**said), identity.signing_key))


def is_accepted(network: Path, statement: Path) -> int:
    return rotating.accept(config_of(network, "platform"), statement, NOW).number


MANGLED: dict[str, Callable[[str], str]] = {
    "without its last newline": lambda pem: pem.rstrip("\n"),
    "with a block that never ends": lambda pem: pem + OPEN_BLOCK,
    "with a block of nothing": lambda pem: pem + OPEN_BLOCK + "AAAA\n-----END CERTIFICATE-----\n",
    "with a second certificate": lambda pem: pem + pem,
    "after other text": lambda pem: "of bank-1:\n" + pem,
}


@pytest.mark.parametrize("what", MANGLED)
def test_a_certificate_is_taken_alone_or_not_at_all(what: str, network: Path) -> None:
    with pytest.raises(InputFault, match="not one certificate in PEM and nothing else"):
        is_accepted(network, tls_statement(network, MANGLED[what]))
    assert not (network / "platform" / "rotations").exists()


@pytest.fixture
def door(network: Path) -> Iterator[Door]:
    rotating.accept(config_of(network, "platform"), rotated(network, "bank-2", Wish(TLS, 0, 1)), NOW)
    made = Door(network)
    yield made
    made.close()


def test_a_second_block_in_a_folder_keeps_no_other_bank_out(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was accepted by a node that did not look: what is trusted is written anew from what was read."""
    monkeypatch.setattr(rotating, "_check_alone", lambda *_: None)
    is_accepted(door.network, tls_statement(door.network, MANGLED["with a block that never ends"]))
    assert answered(door.link("bank-2").open("contracts/bank-2", "run-0001"))
    trusted = load_identity(door.network / "platform").pems[""].trusted
    assert trusted.count(b"-----BEGIN") == trusted.count(b"-----END") == 5  # the authority's, and two of each


def test_without_that_it_would_shut_out_a_bank_that_has_rotated(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rotating, "_check_alone", lambda *_: None)
    monkeypatch.setattr(identity_chain, "pem_of", bytes)
    is_accepted(door.network, tls_statement(door.network, MANGLED["with a block that never ends"]))
    with pytest.raises(PeerError):
        door.link("bank-2").open("contracts/bank-2", "run-0001")


@pytest.mark.parametrize(
    "changes",
    [{"until": "2999-01-01T00:00:00Z"}, {"until": after(NOW, 91)}, {"starts": after(NOW, 95), "until": after(NOW, 96)}],
    ids=["for ever", "a day too long", "too late"],
)
def test_a_peer_takes_no_longer_overlap_than_a_node_would_make(changes: dict[str, Any], network: Path) -> None:
    with pytest.raises(InputFault, match="takes the old key for longer than 90 days"):
        is_accepted(network, tls_statement(network, **changes))


def test_the_longest_overlap_that_a_node_makes_is_taken_also_by_a_slower_clock(network: Path) -> None:
    path = sent(network, rotating.rotate(config_of(network, "bank-1"), Wish(NODE, 90, 90), NOW))
    assert rotating.accept(config_of(network, "platform"), path, after(NOW, -1)).number == 1


def test_a_time_that_no_calendar_has_is_no_statement(network: Path) -> None:
    with pytest.raises(InputFault, match="no statement of a key's rotation"):
        is_accepted(network, tls_statement(network, starts="2026-13-45T99:99:99Z", until="2027-13-45T99:99:99Z"))


def test_a_new_certificate_around_a_tls_key_that_was_held_before_is_not_taken(network: Path) -> None:
    for party in ("bank-1", "bank-2"):  # its own, and another party's, whose public key all peers know
        key = load_pem_private_key((network / party / "tls.key").read_bytes(), None)
        with pytest.raises(InputFault, match="the new key is one that a party had before"):
            is_accepted(network, tls_statement(network, key=key))


# ---- a peer introduced anew


def anew(folder: Path, network: Path, party: str = "bank-1") -> tuple[Path, str, Path]:
    """A bank's introduction from a folder that was made from nothing: no statement comes before it."""
    make_network(folder, PARTIES[0], PARTIES[1:], None, SimulatedClock(NOW), 2)
    signed, fingerprint = rotating.introduce(config_of(folder, party), NOW)
    return sent(network, signed), fingerprint, folder


def test_statements_of_the_keys_before_are_not_read_as_of_the_new_identity(network: Path, tmp_path: Path) -> None:
    platform = config_of(network, "platform")
    for number, what in enumerate((NODE, TLS), 1):  # a thief's, or honest ones: as many as it likes
        assert is_accepted(network, rotated(network, "bank-1", Wish(what))) == number
    path, fingerprint, folder = anew(tmp_path / "anew", network)
    found = rotating.accept_peer(platform, path, fingerprint, NOW)
    identity = load_identity(network / "platform")
    assert identity.chains["bank-1"].values(NODE) == [found.node_key] and identity.chains["bank-1"].number == 0
    new = [is_accepted(network, sent(network, rotating.rotate(config_of(folder, "bank-1"), Wish(what), NOW)))
           for what in (TLS, NODE)]  # fmt: skip
    assert new == [1, 2] and len(load_identity(network / "platform").chains["bank-1"].values(NODE)) == 2


def test_without_the_hash_in_their_names_they_would_keep_the_node_from_starting(
    network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_accepted(network, rotated(network, "bank-1", Wish(NODE)))
    path, fingerprint, _ = anew(tmp_path / "anew", network)
    named = statement_path
    monkeypatch.setattr(identity_chain, "statement_path", lambda *where, root="": named(*where))
    with pytest.raises(InputFault, match="replaces another key than its newest"):
        rotating.accept_peer(config_of(network, "platform"), path, fingerprint, NOW)
    assert not (network / "platform" / ACCEPTED / "bank-1.json").exists()  # it was tried, and is as it was
    assert load_identity(network / "platform").party == "platform"


def test_an_identity_with_another_partys_key_is_not_taken(network: Path) -> None:
    identity = identity_of(config_of(network, "bank-2"), NOW)
    signed, _ = rotating.introduce(config_of(network, "bank-1"), NOW)
    record = {**signed["record"], "node_key": identity.signing_key.public_hex}
    forged = signing.sign_record(record, [("bank-1", identity.signing_key)])
    with pytest.raises(InputFault, match="had before"):
        rotating.accept_peer(config_of(network, "platform"), sent(network, forged), canonical.record_hash(record), NOW)


def test_an_identity_around_a_tls_key_that_was_held_before_is_not_taken(network: Path) -> None:
    config, fresh = config_of(network, "bank-1"), SigningKey.from_seed(bytes(32))
    key = load_pem_private_key((network / "bank-1" / "tls.key").read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    pem = rotating._successor(rotating._newest_certificate(identity_of(config), network / "bank-1"), key, NOW, 365)
    signed, _ = rotating.introduce(config, NOW)
    record = {**signed["record"], "node_key": fresh.public_hex, "certificate": pem.decode()}
    with pytest.raises(InputFault, match="had before"):
        rotating.accept_peer(
            config_of(network, "platform"), sent(network, signing.sign_record(record, [("bank-1", fresh)])),
            canonical.record_hash(record), NOW,
        )  # fmt: skip


def test_an_identity_that_was_replaced_is_not_taken_again(network: Path, tmp_path: Path) -> None:
    platform = config_of(network, "platform")
    shown = [anew(tmp_path / name, network)[:2] for name in ("first",)]
    first, told = shown[0]
    kept = first.read_bytes()
    rotating.accept_peer(platform, first, told, NOW)
    second, other, _ = anew(tmp_path / "second", network)
    rotating.accept_peer(platform, second, other, NOW)
    assert len(list((network / "platform" / ACCEPTED / EARLIER).glob("bank-1.*.json"))) == 1
    first.write_bytes(kept)
    with pytest.raises(InputFault, match="had before"):
        rotating.accept_peer(platform, first, told, NOW)


def test_an_introduction_whose_number_no_chain_can_have_is_none() -> None:
    key = SigningKey.from_seed(bytes(32))
    record = {
        "type": "peer-identity", "version": 1, "party": "bank-1", "role": "bank", "uri": "u", "node_key": key.public_hex,
        "certificate": "c", "number": -1, "last": "0" * 64,
    }  # fmt: skip
    with pytest.raises(SignatureRejected, match="no peer's identity"):
        identity_chain.verify_introduced(signing.sign_record(record, [("bank-1", key)]))
