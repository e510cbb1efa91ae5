"""A peer that is revoked: cut at once, turned away, named in what ends, and trusted again only under keys that are new."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import query_world
from query_world import BANK, OTHER, PLATFORM, RUN
from test_key_rotation import NOW, PARTIES, Door, answered, config_of, sent

from lianxin.crypto import canonical
from lianxin.crypto.rotation import NODE, TLS
from lianxin.federation.errors import InputFault, LianxinError, PeerError
from lianxin.federation.services import GrpcLink
from lianxin.federation.tls import LiveTls
from lianxin.parties import cli, rotating
from lianxin.parties.clock import SimulatedClock, SystemClock
from lianxin.parties.config import load_node, load_run
from lianxin.parties.identity import load_identity, make_network
from lianxin.parties.node import Node, open_node
from lianxin.parties.peer_trust import revoke, revoked_in
from lianxin.parties.rotating import Wish
from lianxin.parties.store import Store

WHO, WHY = "operator-li", "its key was seen elsewhere"


def renewed(folder: Path, party: str, now: str) -> tuple[Path, str]:
    """Give a party keys that are new, both of them, and return its introduction with the fingerprint."""
    config = config_of(folder, party)
    for what in (TLS, NODE):
        rotating.rotate(config, Wish(what), now)
    signed, fingerprint = rotating.introduce(config, now)
    return sent(folder, signed), fingerprint


# ---- over real connections


class RevokingDoor(Door):
    """A door whose platform has revoked the parties in `gone`."""

    def __init__(self, network: Path) -> None:
        self.gone: list[str] = []
        super().__init__(network)

    def identity(self, party: str) -> Any:
        found = super().identity(party)
        return found.without(self.gone) if party == "platform" else found


@pytest.fixture
def door(tmp_path: Path) -> Iterator[RevokingDoor]:
    make_network(tmp_path / "net", PARTIES[0], PARTIES[1:], None, SimulatedClock(NOW), 2)
    made = RevokingDoor(tmp_path / "net")
    yield made
    made.close()


def test_an_open_stream_of_a_revoked_bank_is_cut_and_the_next_is_refused_while_others_go_on(door: RevokingDoor) -> None:
    link, other = door.link(), door.link("bank-2")
    open_stream, others = link.open("contracts/bank-1", "run-0001"), other.open("contracts/bank-2", "run-0001")
    assert answered(open_stream) and answered(others)
    door.gone.append("bank-1")
    door.server.cut("bank-1")
    with pytest.raises(PeerError):
        open_stream.receive(5.0)
    with pytest.raises(PeerError) as caught:
        link.open("contracts/bank-1/1", "run-0001")
    assert caught.value.rule == "I00" and set(door.refused) == {"I20"}
    assert answered(others)


def test_without_the_cut_a_revoked_bank_goes_on_in_the_stream_that_it_has(door: RevokingDoor) -> None:
    open_stream = door.link().open("contracts/bank-1", "run-0001")
    door.gone.append("bank-1")
    assert answered(open_stream)


def test_a_bank_that_revokes_its_platform_hangs_up_and_dials_it_no_more(door: RevokingDoor) -> None:
    gone: list[str] = []
    tls = LiveTls(lambda: door.identity("bank-1").without(gone).client_tls("platform"))
    link = GrpcLink(f"127.0.0.1:{door.server.port}", tls, start_deadline_s=1.0)
    channel = link.open("contracts/bank-1", "run-0001")
    assert answered(channel)
    gone.append("platform")
    with pytest.raises(PeerError) as caught:
        link.open("contracts/bank-1/1", "run-0001")
    assert caught.value.rule == "I20"
    link.cut()
    with pytest.raises(PeerError) as caught:
        channel.receive(5.0)
    assert caught.value.rule == "I20"
    link.close()


# ---- at an open node


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return query_world.tables(tmp_path_factory.mktemp("tables"))


def leaves(node: Node, kind: str) -> list[dict[str, Any]]:
    return [leaf for leaf in map(canonical.decode, node.store.leaves()) if leaf["kind"] == kind]


def test_a_platform_that_revokes_a_bank_ends_what_goes_on_with_it_and_survives_a_restart(
    tmp_path: Path, tables: Any
) -> None:
    layout = query_world.lay(tmp_path / "run", tables)
    query_world.write_agreement(layout, "queries-2")
    with query_world.running(layout) as nodes:
        nodes.agree()
        cut: list[str] = []
        nodes.platform.cut = cut.append  # type: ignore[attr-defined]
        done = revoke(nodes.platform, BANK, WHO, WHY)
        assert done == {"party": BANK, "ended": [RUN], "left": []} and cut == [BANK] and nodes.platform.desks == {}
        with pytest.raises(InputFault, match=f"names bank {BANK}, which was revoked"):
            nodes.platform.check(load_run(layout.folder / "queries-2.toml"))
        with pytest.raises(InputFault, match="is revoked here already"):
            revoke(nodes.platform, BANK, WHO, WHY)
        (leaf,) = leaves(nodes.platform.node, "peer")
        assert (leaf["event"], leaf["peer"], leaf["rule"], leaf["operator"]) == ("revoked", BANK, "I20", WHO)
        assert WHY.encode() not in canonical.encode(leaf)
    again = open_node(load_node(layout.home(PLATFORM) / "node.toml"))
    try:
        assert set(again.identity.revoked) == {BANK} and set(again.identity.peers) == {OTHER}
        assert again.identity.pinned_peers()[f"spiffe://lianxin.test/{BANK}"].revoked
    finally:
        again.close()


def test_a_bank_refuses_a_proposal_that_names_a_bank_which_it_revoked(tmp_path: Path, tables: Any) -> None:
    layout = query_world.lay(tmp_path / "run", tables)
    with query_world.running(layout) as nodes:
        revoke(nodes.banks[BANK], OTHER, WHO, WHY)
        with pytest.raises(LianxinError, match=rf"{BANK} refused the contract .* \(rule C20\)"):
            nodes.agree()


def test_without_what_was_kept_the_bank_would_sign_with_whom_it_revoked(tmp_path: Path, tables: Any) -> None:
    layout = query_world.lay(tmp_path / "run", tables)
    with query_world.running(layout) as nodes:
        revoke(nodes.banks[BANK], OTHER, WHO, WHY)
        node = nodes.banks[BANK].node
        node.identity = load_identity(node.config.identity)
        assert nodes.agree().run == RUN


def test_a_stolen_key_cannot_rotate_itself_back_and_only_new_keys_are_trusted_again(tmp_path: Path) -> None:
    folder = tmp_path / "net"
    make_network(folder, PARTIES[0], PARTIES[1:], None, SimulatedClock(NOW), 2)
    platform, store = config_of(folder, "platform"), Store(tmp_path / "p.sqlite")
    identity = load_identity(folder / "platform")
    noted: list[Any] = []
    append = lambda leaf, who, kept: [store.put_setting(*one) for one in kept.items()]  # noqa: E731
    ledger = SimpleNamespace(append=append, sign_with=lambda *_keys: None, checkpoint=lambda: b"")
    node = SimpleNamespace(
        identity=identity, store=store, ledger=ledger, clock=SystemClock(), counts=Counter(),
        party="platform", say=lambda *what, **_how: noted.append(what), register=SimpleNamespace(pin=noted.append),
    )  # fmt: skip
    revoke(SimpleNamespace(node=node), "bank-1", WHO, WHY)
    stolen = rotating.rotate(config_of(folder, "bank-1"), Wish(NODE, 0, 1), NOW)
    rotating.accept(platform, sent(folder, stolen), NOW)
    later = load_identity(folder / "platform", now=stolen["record"]["until"])
    assert later.keys_of("bank-1") == (stolen["record"]["new"],) and revoked_in(store, later) == ["bank-1"]
    signed, fingerprint = rotating.introduce(config_of(folder, "bank-1"), NOW)
    with pytest.raises(InputFault, match="had before"):
        rotating.accept_peer(platform, sent(folder, signed), fingerprint, NOW)
    path, fingerprint = renewed_after(folder)
    with pytest.raises(InputFault, match="another fingerprint"):
        rotating.accept_peer(platform, path, "0" * 64, NOW)
    found = rotating.accept_peer(platform, path, fingerprint, NOW)
    trusted = load_identity(folder / "platform")
    assert revoked_in(store, trusted) == [] and trusted.peers["bank-1"].node_key == found.node_key
    store.close()


def renewed_after(folder: Path) -> tuple[Path, str]:
    """The bank's new identity, made in a folder from which the stolen key is gone."""
    rotations = folder / "bank-1" / "rotations"
    for path in rotations.iterdir():
        path.unlink()
    return renewed(folder, "bank-1", NOW)


def test_the_command_revokes_also_where_the_node_does_not_run(
    tmp_path: Path, tables: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    layout = query_world.lay(tmp_path / "run", tables)
    config = str(layout.home(BANK) / "node.toml")
    assert cli.run(["bank", "revoke-peer", OTHER, config, "--operator", WHO, "--reason", WHY, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"party": OTHER, "ended": [], "left": []}
    assert cli.run(["bank", "revoke-peer", "bank-9", config, "--operator", WHO, "--reason", WHY]) == 2
    assert "no peer of bank-1" in capsys.readouterr().err
