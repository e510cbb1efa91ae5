"""What expires is told thirty days ahead with what to do, and a node does not serve under a certificate that has ended."""

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conversations import contract_of
from test_key_rotation import config_of, sent

from lianxin.crypto.rotation import TLS
from lianxin.federation.errors import InputFault
from lianxin.parties import key_expiry, rotating
from lianxin.parties.clock import SimulatedClock, after
from lianxin.parties.identity import load_identity, make_network
from lianxin.parties.key_expiry import AUTHORITY, CONTRACT, OWN, PEER, refuse_expired, warnings
from lianxin.parties.rotating import Wish

START = "2026-05-01T08:00:00Z"


@pytest.fixture
def network(tmp_path: Path) -> Path:
    make_network(tmp_path / "net", "platform", ["bank-1", "bank-2"], None, SimulatedClock(START), 90)
    return tmp_path / "net"


def told(network: Path, party: str, day: int, contracts: Any = ()) -> list[tuple[str, str, int]]:
    now = after(START, day)
    identity = load_identity(network / party, now=now)
    found = warnings(config_of(network, party), identity, now, contracts)
    assert all(len(one.remedy) > 20 and one.party in one.line() for one in found)
    return [(one.what, one.party, one.days_left) for one in found]


def test_nothing_is_said_while_thirty_days_are_left_and_everything_after(network: Path) -> None:
    assert told(network, "bank-1", 60) == []
    assert told(network, "bank-1", 61) == [
        (AUTHORITY, "bank-1", 29), (OWN, "bank-1", 29), (PEER, "bank-2", 29), (PEER, "platform", 29)
    ]  # fmt: skip
    assert {left for _, _, left in told(network, "bank-1", 91)} == {-1}


def test_a_rotation_ends_the_warning_of_whose_it_is_and_the_authority_matters_until_all_have_left_it(
    network: Path,
) -> None:
    late = after(START, 70)
    for party in ("bank-1", "bank-2", "platform"):
        statement = sent(network, rotating.rotate(config_of(network, party), Wish(TLS, 0, 1), late))
        for other in {"bank-1", "bank-2", "platform"} - {party}:
            rotating.accept(config_of(network, other), statement, late)
        left = {what for what, _, _ in told(network, "platform", 70)}
        assert (AUTHORITY in left) == (party != "platform")
    assert told(network, "platform", 71) == told(network, "bank-1", 71) == []


def test_a_contract_is_warned_of_by_its_run(network: Path) -> None:
    contract = contract_of()
    days = [after(contract.expires_at, -days) for days in (31, 10)]
    config, identity = config_of(network, "bank-1"), load_identity(network / "bank-1", now=START)
    found = [[w for w in warnings(config, identity, now, [contract]) if w.what == CONTRACT] for now in days]
    assert found[0] == [] and [(w.party, w.days_left) for w in found[1]] == [(contract.run, 10)]


def test_a_node_does_not_serve_under_a_certificate_that_has_ended_and_says_what_to_do(network: Path) -> None:
    identity = load_identity(network / "bank-1", now=START)
    refuse_expired(identity, after(START, 89))
    with pytest.raises(InputFault, match=r"expired at .* rotate it with `lianxin bank rotate tls FILE`"):
        refuse_expired(identity, after(START, 90))


def test_a_warning_is_an_event_and_a_count(network: Path) -> None:
    now = after(START, 80)
    said: list[str] = []
    node = SimpleNamespace(
        config=config_of(network, "bank-1"), identity=load_identity(network / "bank-1", now=now), counts=Counter(),
        store=SimpleNamespace(runs=list), clock=SimulatedClock(now), say=lambda what, **_: said.append(what),
    )  # fmt: skip
    assert len(key_expiry.warn(node)) == 4
    assert dict(node.counts) == {
        "expiry/own-certificate": 1, "expiry/peer-certificate": 2, "expiry/authority": 1, "expiry/contract": 0
    }  # fmt: skip
    assert said[1].startswith("own certificate of bank-1 expires in 10 days (2026-07-30T08:00:00Z): rotate it")
