"""A bank that lost its platform says so: in its log, its status, its figures; and it keeps what became of what waited."""

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import query_world
import worlds
import yaml
from conftest import ROOT
from query_world import BANK, OTHER, PLATFORM, Network, wait_for

from lianxin.federation.errors import DeadlinePassed, InputFault, PeerError, PeerGone
from lianxin.federation.resumption import ConversationEnd
from lianxin.federation.services_dialling import _Dialler
from lianxin.parties import bank_road, cli, watch, watch_log
from lianxin.parties.config import load_run
from lianxin.parties.runs_listed import listed
from lianxin.simulations.tables import Inputs

RUN = "queries-2"


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return query_world.tables(tmp_path_factory.mktemp("tables"))


@pytest.fixture
def network(tables: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Network]:
    """A platform with two banks, of which bank-1 has people who decide."""
    monkeypatch.setattr(bank_road, "AWAY_S", 0.2)
    layout = query_world.lay(tmp_path / "run", tables)
    worlds.edit_toml(layout.home(BANK) / "node.toml", lambda content: content.pop("policy"))
    with query_world.running(layout) as found:
        wait_for(lambda: all(bank.road.is_up for bank in found.banks.values()))
        yield found


@contextmanager
def written() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    log = watch_log.open_log("json", "info", "here", stream)
    try:
        yield stream
    finally:
        watch_log.close_log(log)


def events(stream: io.StringIO, *names: str) -> list[dict[str, Any]]:
    return [one for one in map(json.loads, stream.getvalue().splitlines()) if one["event"] in names]


def figures(served: Any) -> dict[str, dict[Any, float]]:
    watching = watch.Watch(served)
    try:
        return {figure.name: dict(figure.samples) for figure in watching.figures()}
    finally:
        watch_log.close_log(watching._log)


def age(served: Any, peer: str) -> float:
    return figures(served)["lianxin_peer_heard_age_seconds"][(("peer", peer),)]


def road_of(network: Network) -> Any:
    return network.banks[BANK].link._network  # type: ignore[attr-defined]


def test_a_lost_platform_is_an_event_a_figure_and_a_sentence_and_so_is_its_return(
    network: Network, capsys: pytest.CaptureFixture[str]
) -> None:
    bank, road = network.banks[BANK], road_of(network)
    connected = {(("peer", PLATFORM),): 1}
    assert figures(bank)["lianxin_peer_connected"] == connected
    home = str(network.layout.home(BANK) / "node.toml")
    with written() as log:
        road.sever(BANK)
        wait_for(lambda: not bank.road.is_up)
        assert figures(bank)["lianxin_peer_connected"] == {(("peer", PLATFORM),): 0}
        assert figures(network.platform)["lianxin_peer_connected"] == {(("peer", BANK),): 0, (("peer", OTHER),): 1}
        assert cli.run(["bank", "status", home]) == 0
        *_, last = capsys.readouterr().out.strip().splitlines()
        assert last.startswith(f"{PLATFORM} is away since 20") and "ask its operator" in last
        road.mend(BANK)
        wait_for(lambda: bank.road.is_up)
    (away,) = events(log, "platform-away")
    assert away["level"] == "warning" and away["party"] == BANK and PLATFORM in away["what"]
    assert [one["party"] for one in events(log, "connected")] == [BANK]
    assert figures(bank)["lianxin_peer_connected"] == connected
    assert cli.run(["bank", "status", home]) == 0
    assert "platform is connected since 20" in capsys.readouterr().out


def test_watch_does_not_call_a_bank_well_that_has_lost_its_platform(
    network: Network, capsys: pytest.CaptureFixture[str]
) -> None:
    bank = network.banks[BANK]
    bank.node.watch = watch.Watch(bank)
    home = str(network.layout.home(BANK) / "node.toml")
    try:
        assert cli.run(["bank", "watch", home]) == 0 and capsys.readouterr().out.startswith(f"{BANK}: well")
        road_of(network).sever(BANK)
        wait_for(lambda: not bank.road.is_up)
        assert cli.run(["bank", "watch", home]) == 0
        first, second, *_ = capsys.readouterr().out.splitlines()
        assert first == f"{BANK}: not well" and second.strip().startswith("platform is away since 20")
        assert cli.run(["bank", "watch", home, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["road"]["connected"] is False
    finally:
        watch_log.close_log(bank.node.watch._log)
        bank.node.watch = None


def test_an_idle_road_that_stands_is_heard_and_a_cut_one_is_not(network: Network) -> None:
    bank = network.banks[BANK]
    for served, peer in ((bank, PLATFORM), (network.platform, BANK)):
        served.node.heard_at[peer] -= 1000.0
        wait_for(lambda served=served, peer=peer: age(served, peer) < 5)
    road_of(network).sever(BANK)
    wait_for(lambda: not bank.road.is_up)
    for served, peer in ((bank, PLATFORM), (network.platform, BANK)):
        before = served.node.heard_at[peer]
        wait_for(lambda served=served, peer=peer: age(served, peer) > 0.6)
        assert served.node.heard_at[peer] == before


def test_a_proposal_whose_platform_was_lost_ends_here_as_lost_and_is_listed(network: Network) -> None:
    bank = network.banks[BANK]
    with written() as log:
        network.platform.submit(load_run(query_world.write_agreement(network.layout, RUN)))
        wait_for(lambda: RUN in bank.pending)
        road_of(network).close(0.2)  # as a platform that is killed: nobody says how the run ended
        wait_for(lambda: RUN in bank.ended)
    (found,) = [one for one in listed(bank) if one["run"] == RUN]
    assert found["state"] == "failed" and found["model"] == "field_query" and found["since"]
    assert "was lost before anybody here answered" in found["why"] and "gave" not in found["why"]
    (told,) = [one for one in events(log, "run-failed") if one["party"] == BANK]
    assert told["run"] == RUN
    leaves = [leaf["event"] for leaf in network.leaves(BANK, "contract", RUN)]
    assert leaves == ["proposed", "failed"]
    with pytest.raises(InputFault, match=r"waits here .* was lost before anybody here answered.*launch the run anew"):
        bank.decide(RUN, True, "operator-sun")
    with pytest.raises(InputFault, match=r"no proposal of run queries-9 waits here .*see the id in"):
        bank.decide("queries-9", True, "operator-sun")
    bank.ended._newest.clear()  # as after a restart
    assert [one["run"] for one in listed(bank) if one["run"] == RUN] == [RUN]


def test_what_a_person_ends_is_logged_with_the_person_and_each_line_names_its_run(network: Network) -> None:
    with written() as log:
        network.platform.submit(load_run(query_world.write_agreement(network.layout, RUN)))
        wait_for(lambda: RUN in network.banks[BANK].pending)
        network.banks[BANK].decide(RUN, True, "operator-sun")
        wait_for(lambda: all(RUN in bank.standing for bank in network.banks.values()) and RUN in network.platform.desks)
        network.banks[OTHER].standing[RUN].ask(network.fresh(1), [query_world.OPEN], "plaintext", query_world.ASKER)
        wait_for(lambda: events(log, "note"))
        network.platform.end(RUN, "operator-li")
        wait_for(lambda: all(RUN in bank.ended for bank in network.banks.values()))
        wait_for(lambda: len(events(log, "agreement-ended")) == 3)
    ends = {one["party"]: one["what"] for one in events(log, "agreement-ended")}
    assert "ended by operator-li" in ends[PLATFORM] and "bank-1, bank-2" in ends[PLATFORM]
    assert ends[BANK] == f"agreement {RUN} was ended by {PLATFORM}"
    assert not events(log, "run-finished")
    named = events(log, "approved", "agreement-ended", "agreement-stands", "approval-awaited", "run-proposed", "note")
    assert {one["run"] for one in named} == {RUN} and len(events(log, "approved")) == 4
    assert any(one["what"].startswith("answered ") for one in events(log, "note"))


def test_a_bank_that_is_stopped_does_not_call_its_platform_away(network: Network) -> None:
    bank = network.banks[BANK]
    with written() as log:
        bank.close()
        network.threads[0].join(query_world.SOON_S)
    assert not events(log, "platform-away") and not network.threads[0].is_alive()


# ---- the exit code of an outage


class Dead:
    """A call that came to nothing, as gRPC shows it."""

    def __init__(self, status: grpc.StatusCode, details: str = "") -> None:
        self._status, self._details = status, details

    def code(self) -> grpc.StatusCode:
        return self._status

    def details(self) -> str:
        return self._details


@pytest.mark.parametrize(
    ("call", "kind", "exit_code"),
    [
        (Dead(grpc.StatusCode.UNAVAILABLE), PeerGone, 3),
        (Dead(grpc.StatusCode.CANCELLED), DeadlinePassed, 3),
        (Dead(grpc.StatusCode.RESOURCE_EXHAUSTED), PeerGone, 3),
        (Dead(grpc.StatusCode.UNAUTHENTICATED), PeerError, 4),
        (Dead(grpc.StatusCode.UNAVAILABLE, "CERTIFICATE_VERIFY_FAILED"), PeerError, 4),
    ],
    ids=["down", "silent", "full", "refused", "impostor"],
)
def test_an_outage_is_exit_3_and_only_who_is_not_who_it_should_be_is_4(call: Dead, kind: type, exit_code: int) -> None:
    dialler = object.__new__(_Dialler)
    dialler._end = ConversationEnd(PLATFORM, f"query/{BANK}/1")
    dialler._road = type("Road", (), {"address": "platform.example:7443"})()  # type: ignore[assignment]
    fault = dialler._refusal(call)
    assert isinstance(fault, kind) and fault.exit_code == exit_code
    if exit_code == 3 and call.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
        assert "platform.example:7443" in str(fault) and "ask its operator" in str(fault)


def test_the_alerts_tell_a_bank_from_its_platform() -> None:
    rules = yaml.safe_load((ROOT / "docs" / "deploy" / "alerts.yml").read_text(encoding="utf-8"))["groups"][0]["rules"]
    away = {one["alert"]: one["expr"] for one in rules if "lianxin_peer_connected" in one["expr"]}
    assert set(away) == {"LianxinBankAway", "LianxinPlatformAway"}
    assert 'role="platform"' in away["LianxinBankAway"] and 'role="bank"' in away["LianxinPlatformAway"]
