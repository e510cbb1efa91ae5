"""Rotations: who may announce another key, what is taken while both count, and that a running door closes nothing for it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from worlds import province as province

from lianxin.crypto import canonical, rotation, signing
from lianxin.crypto.errors import SignatureRejected
from lianxin.crypto.rotation import NODE, TLS, Chain, Rotation
from lianxin.crypto.signing import SigningKey
from lianxin.federation.errors import InputFault, PeerError, PeerGone
from lianxin.federation.services import GrpcLink, serve
from lianxin.federation.tls import LiveTls
from lianxin.parties import cli, rotating
from lianxin.parties.clock import SimulatedClock, SystemClock, after
from lianxin.parties.config import KeysSection, NodeConfig
from lianxin.parties.identity import load_identity, make_network
from lianxin.parties.identity_chain import statement_path
from lianxin.parties.identity_of import identity_of
from lianxin.parties.identity_secrets import is_sealed
from lianxin.parties.keys import make_key_file
from lianxin.parties.peer_trust import LivePins
from lianxin.parties.rotating import Wish

NOW = SystemClock().now()
PARTIES = ("platform", "bank-1", "bank-2")
OLD, NEW, THIEF = (SigningKey.from_seed(bytes([n]) * 32) for n in (1, 2, 3))


def config_of(folder: Path, party: str, **more: Any) -> NodeConfig:
    role = "platform" if party == "platform" else "bank"
    return NodeConfig(
        role=role, operator="operator-1", identity=folder / party, state=folder / f"{party}-state", **more
    )


@pytest.fixture
def network(tmp_path: Path) -> Path:
    make_network(tmp_path / "net", PARTIES[0], PARTIES[1:], None, SimulatedClock(NOW), 2)
    return tmp_path / "net"


def sent(network: Path, signed: dict[str, Any]) -> Path:
    path = network / "sent.json"
    path.write_bytes(canonical.encode(signed) + b"\n")
    return path


def rotated(network: Path, party: str, wish: Wish, now: str = NOW) -> Path:
    return sent(network, rotating.rotate(config_of(network, party), wish, now))


# ---- the statement by itself


def said(**changes: Any) -> Rotation:
    whole = {
        "party": "bank-1", "number": 1, "what": NODE, "old": OLD.public_hex, "new": NEW.public_hex, "certificate": "",
        "starts": "2026-05-01T00:00:00Z", "until": "2026-05-15T00:00:00Z", "made_at": "2026-05-01T00:00:00Z",
        "previous": rotation.GENESIS,
    }  # fmt: skip
    return Rotation(**{**whole, **changes})


FIRST = Chain("bank-1", "c" * 64, OLD.public_hex)


def test_a_chain_takes_the_statement_that_the_old_and_the_new_key_signed() -> None:
    chain = FIRST.followed_by(rotation.sign(said(), OLD, NEW))
    assert chain.values(NODE) == [OLD.public_hex, NEW.public_hex] and chain.values(TLS) == ["c" * 64]
    assert chain.in_force(NODE, "2026-04-30T23:59:59Z") == OLD.public_hex
    assert chain.in_force(NODE, "2026-05-01T00:00:00Z") == NEW.public_hex
    assert chain.accepted(NODE, "2026-05-14T23:59:59Z") == (OLD.public_hex, NEW.public_hex)
    assert chain.accepted(NODE, "2026-05-15T00:00:00Z") == (NEW.public_hex,)


BAD = {
    "another key signed for the old one": lambda: rotation.sign(said(), THIEF, NEW),
    "the new key did not sign": lambda: rotation.sign(said(), OLD),
    "another key signed for the new one": lambda: rotation.sign(said(), OLD, THIEF),
    "another party's": lambda: rotation.sign(said(party="bank-2"), OLD, NEW),
    "a number that is not next": lambda: rotation.sign(said(number=2), OLD, NEW),
    "after another statement": lambda: rotation.sign(said(previous="a" * 64), OLD, NEW),
    "of another old key": lambda: rotation.sign(said(old=THIEF.public_hex), OLD, NEW),
    "that ends before it starts": lambda: rotation.sign(said(until="2026-04-01T00:00:00Z"), OLD, NEW),
    "of a kind that there is none of": lambda: rotation.sign(said(what="root"), OLD, NEW),
    "with one key more": lambda: signing.sign_record({**said().record(), "more": 1}, [("bank-1", OLD)]),
    "altered after it was signed": lambda: {
        **rotation.sign(said(), OLD, NEW), "record": {**said().record(), "until": "2030-01-01T00:00:00Z"}
    },
}  # fmt: skip


@pytest.mark.parametrize("bad", BAD)
def test_a_chain_refuses_every_other_statement(bad: str) -> None:
    with pytest.raises(SignatureRejected):
        FIRST.followed_by(BAD[bad]())


def test_a_statement_that_was_taken_is_not_taken_again_and_the_next_one_builds_on_it() -> None:
    signed = rotation.sign(said(), OLD, NEW)
    chain = FIRST.followed_by(signed)
    with pytest.raises(SignatureRejected, match="older one was shown again"):
        chain.followed_by(signed)
    third = said(number=2, old=NEW.public_hex, new=THIEF.public_hex, previous=chain.last)
    with pytest.raises(SignatureRejected):
        chain.followed_by(rotation.sign(third, OLD, THIEF))  # the key that was replaced signs nothing any more
    assert chain.followed_by(rotation.sign(third, NEW, THIEF)).values(NODE)[-1] == THIEF.public_hex


# ---- in a folder


def test_a_node_key_is_rotated_here_and_at_a_peer_and_the_old_one_leaves_at_the_end(network: Path) -> None:
    before = load_identity(network / "bank-1")
    statement = rotated(network, "bank-1", Wish(NODE, 1, 3))
    found = rotating.accept(config_of(network, "platform"), statement, NOW)
    days = [after(NOW, n) for n in (0, 1, 4)]
    own = [load_identity(network / "bank-1", now=day) for day in days]
    assert [one.signing_key.public_hex for one in own] == [before.signing_key.public_hex, found.new, found.new]
    assert own[1].key_for({"bank-1": before.signing_key.public_hex}).public_hex == before.signing_key.public_hex
    platform = [load_identity(network / "platform", now=day) for day in days]
    both = (before.signing_key.public_hex, found.new)
    assert [one.keys_of("bank-1") for one in platform] == [both, both[::-1], both[1:]]
    assert [one.peers["bank-1"].node_key for one in platform] == [both[0], both[1], both[1]]


def test_a_peer_refuses_what_it_took_before_and_what_is_of_nobody_it_knows(network: Path) -> None:
    statement, platform = rotated(network, "bank-1", Wish(NODE)), config_of(network, "platform")
    rotating.accept(platform, statement, NOW)
    with pytest.raises(InputFault, match="older one was shown again"):
        rotating.accept(platform, statement, NOW)
    with pytest.raises(InputFault, match="no peer here"):
        rotating.accept(config_of(network, "bank-1"), statement, NOW)
    statement.write_text("{}")
    with pytest.raises(InputFault, match="no signed statement"):
        rotating.accept(platform, statement, NOW)


def test_a_peer_refuses_a_rotation_whose_overlap_is_over(network: Path) -> None:
    statement = rotated(network, "bank-1", Wish(NODE, 0, 1))
    late = after(NOW, 2)
    with pytest.raises(InputFault, match="its overlap ended"):
        rotating.accept(config_of(network, "platform"), statement, late)
    assert rotating.accept(config_of(network, "platform"), statement, NOW).number == 1


def test_a_certificate_of_another_name_or_party_is_not_taken(network: Path) -> None:
    config = config_of(network, "bank-2")
    theirs = rotating.rotate(config, Wish(TLS), NOW)
    identity = identity_of(config_of(network, "bank-1"), NOW)
    record = {**theirs["record"], "party": "bank-1", "old": identity.chains["bank-1"].certificate_sha256}
    forged = signing.sign_record(record, [("bank-1", identity.signing_key)])
    with pytest.raises(InputFault, match="does not have exactly the name"):
        rotating.accept(config_of(network, "platform"), sent(network, forged), NOW)


def test_a_second_rotation_waits_until_the_first_one_is_over(network: Path) -> None:
    config = config_of(network, "bank-1")
    rotating.rotate(config, Wish(NODE, 0, 1), NOW)
    with pytest.raises(InputFault, match="overlaps until"):
        rotating.plan(config, Wish(NODE), NOW)
    rotating.rotate(config, Wish(TLS), NOW)
    rotating.rotate(config, Wish(NODE), after(NOW, 2))
    assert identity_of(config, NOW).chains["bank-1"].number == 3


def test_a_statement_whose_key_was_never_written_changes_nothing_and_one_that_was_altered_is_named(
    network: Path,
) -> None:
    before = load_identity(network / "bank-1").signing_key.public_hex
    rotated(network, "bank-1", Wish(NODE))
    place = statement_path(network / "bank-1", "bank-1", 1)
    whole = place.read_bytes()
    place.unlink()  # killed between the key and the statement
    assert load_identity(network / "bank-1").signing_key.public_hex == before
    place.write_bytes(whole.replace(b'"number":1', b'"number":2'))
    with pytest.raises(InputFault, match=place.name):
        load_identity(network / "bank-1")


def test_a_folder_of_before_is_read_as_it_is(network: Path) -> None:
    identity = load_identity(network / "bank-1")
    assert identity.pems == {} and identity.statements == {party: [] for party in PARTIES}
    assert {path.name for path in (network / "bank-1").iterdir()} == {
        "tls.key", "tls.crt", "ca.crt", "node.key", "peers.json", "pinned"
    }  # fmt: skip


# ---- keys at rest


def protected(network: Path, party: str = "bank-1") -> NodeConfig:
    key = network / "elsewhere.key"
    make_key_file(key)
    return config_of(network, party, keys=KeysSection(key_file=key))


def test_keys_are_sealed_and_open_again_with_their_protection_alone(network: Path) -> None:
    before, config = load_identity(network / "bank-1"), protected(network)
    assert [path.name for path in rotating.protect(config, NOW)] == ["node.key", "tls.key"]
    assert identity_of(config).signing_key.public_hex == before.signing_key.public_hex
    assert identity_of(config).server_tls().pems().key.startswith(b"-----BEGIN")
    assert rotating.protect(config, NOW) == []
    with pytest.raises(InputFault, match="is encrypted"):
        load_identity(network / "bank-1")
    other = network / "other.key"
    make_key_file(other)
    with pytest.raises(InputFault, match="another passphrase or key file"):
        identity_of(config_of(network, "bank-1", keys=KeysSection(key_file=other)))


def test_a_rotation_of_sealed_keys_makes_sealed_keys(network: Path) -> None:
    config = protected(network)
    rotating.protect(config, NOW)
    rotating.rotate(config, Wish(TLS), NOW)
    rotating.rotate(config, Wish(NODE), NOW)
    assert [is_sealed(path) for path in rotating.own_keys(network / "bank-1", "bank-1")] == [True] * 4
    assert len(identity_of(config).held) == 2


def test_a_sealed_key_moved_to_another_place_does_not_open(network: Path) -> None:
    config = protected(network)
    rotating.protect(config, NOW)
    (network / "bank-1" / "node.key").write_bytes((network / "bank-1" / "tls.key").read_bytes())
    with pytest.raises(InputFault, match=r"node\.key: the saved secret is for run tls\.key"):
        identity_of(config)


def test_a_wrong_passphrase_is_one_sentence_and_a_key_open_to_others_is_refused_by_name(network: Path) -> None:
    words = network / "words"
    words.write_text("correct horse battery\n")
    words.chmod(0o600)
    config = config_of(network, "bank-1", keys=KeysSection(passphrase_file=words))
    rotating.protect(config, NOW)
    words.write_text("wrong horse battery\n")
    with pytest.raises(InputFault, match="another passphrase or key file") as caught:
        identity_of(config)
    assert str(caught.value).count(". ") == 0
    rotating.rotate(config_of(network, "bank-2"), Wish(NODE), NOW)
    place = statement_path(network / "bank-2", "bank-2", 1, "key")
    place.chmod(0o640)
    with pytest.raises(InputFault, match=rf"{place.name} can be read by others: set its mode to 0600"):
        load_identity(network / "bank-2")


def test_the_commands_rotate_and_accept_and_a_dry_run_does_nothing(
    network: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for party in ("platform", "bank-1"):
        role = "platform" if party == "platform" else "bank"
        more = 'listen = "127.0.0.1:0"\n' if role == "platform" else 'platform_address = "127.0.0.1:1"\n[data]\n'
        more += "" if role == "platform" else 'table = "t.csv"\nid = "uscc"\nlabel = "bad"\n'
        text = f'role = "{role}"\noperator = "operator-1"\nidentity = "net/{party}"\nstate = "{party}-state"\n{more}'
        (tmp_path / f"{party}.toml").write_text(text)
    bank, out = str(tmp_path / "bank-1.toml"), str(tmp_path)
    assert cli.run(["bank", "rotate", "tls", bank, "--dry-run"]) == 0
    assert "nothing was done" in capsys.readouterr().out and not (network / "bank-1" / "rotations").exists()
    assert cli.run(["bank", "rotate", "tls", bank, "--out", out, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["what"] == "tls" and Path(said["statement"]).exists()
    platform = str(tmp_path / "platform.toml")
    assert cli.run(["platform", "accept-rotation", said["statement"], "--node", platform]) == 0
    assert "accepted rotation 1 of bank-1 (tls)" in capsys.readouterr().out
    assert load_identity(network / "platform").peers["bank-1"].certificate_sha256 == said["new"]


# ---- over real connections


class Door:
    """A platform's door and a bank's link, both over identities that are read anew at each connection."""

    def __init__(self, network: Path) -> None:
        self.network, self.now, self.refused = network, NOW, list[str]()
        self.server = serve(
            "127.0.0.1:0", LiveTls(lambda: self.identity("platform").server_tls()),
            LivePins(lambda: self.identity("platform").pinned_peers()), self._echo,
            on_refused=lambda rule, _uri: self.refused.append(rule),
        )  # fmt: skip
        self._links: list[GrpcLink] = []

    def identity(self, party: str) -> Any:
        return load_identity(self.network / party, now=self.now)

    def link(self, bank: str = "bank-1") -> GrpcLink:
        tls = LiveTls(lambda: self.identity(bank).client_tls("platform"))
        self._links.append(GrpcLink(f"127.0.0.1:{self.server.port}", tls, start_deadline_s=1.0))
        return self._links[-1]

    def _echo(self, channel: Any) -> None:
        while True:
            try:
                channel.send(channel.receive(10.0))
            except PeerGone:
                return

    def close(self) -> None:
        for link in self._links:
            link.close()
        self.server.stop()


@pytest.fixture
def door(network: Path) -> Iterator[Door]:
    made = Door(network)
    yield made
    made.close()


def answered(channel: Any) -> bool:
    channel.send(b"hello")
    return channel.receive(5.0) == b"hello"


def test_both_sides_rotate_their_certificates_while_a_conversation_stays_open(door: Door) -> None:
    link = door.link()
    first = link.open("contracts/bank-1", "run-0001")
    assert answered(first)
    for party, other in (("platform", "bank-1"), ("bank-1", "platform")):
        rotating.accept(config_of(door.network, other), rotated(door.network, party, Wish(TLS, 0, 1)), NOW)
    second = link.open("contracts/bank-1/1", "run-0001")
    assert answered(second) and answered(first)
    assert door.refused == []
    shown = door.identity("bank-1").client_tls("platform").pems().certificate
    assert shown != (door.network / "bank-1" / "tls.crt").read_bytes()


def test_the_old_certificate_is_taken_during_the_overlap_and_refused_after_it(door: Door) -> None:
    thief = load_identity(door.network / "bank-1")
    rotating.accept(config_of(door.network, "platform"), rotated(door.network, "bank-1", Wish(TLS, 0, 1)), NOW)
    address = f"127.0.0.1:{door.server.port}"
    old = GrpcLink(address, thief.client_tls("platform"), start_deadline_s=3.0)
    assert answered(old.open("contracts/bank-1", "run-0001"))
    old.close()
    door.now = after(NOW, 1)
    late = GrpcLink(address, thief.client_tls("platform"), start_deadline_s=3.0)
    with pytest.raises(PeerError) as caught:
        late.open("contracts/bank-1/1", "run-0001")
    late.close()
    assert caught.value.rule == "I00" and door.refused == ["I05"]
    assert answered(door.link().open("contracts/bank-1/2", "run-0001"))


def test_a_rotated_certificate_that_was_not_accepted_is_turned_away(door: Door) -> None:
    rotated(door.network, "bank-2", Wish(TLS))
    with pytest.raises(PeerError):
        door.link("bank-2").open("contracts/bank-2", "run-0001")
