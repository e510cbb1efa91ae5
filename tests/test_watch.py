"""A node is watched by its log, its metrics, its health: complete, bounded, and without a firm, a value or a peer's text."""

import json
import re
import socket
import threading
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path

import grpc
import pytest
import worlds
from grpc_health.v1 import health_pb2
from prometheus_client.parser import text_string_to_metric_families

from lianxin.federation import services
from lianxin.federation.admission import PinnedPeer
from lianxin.federation.errors import InputFault, StillHeld
from lianxin.parties import cli, watch, watch_figures, watch_health, watch_log, watch_metrics, watch_notify
from lianxin.parties.config import load_node
from lianxin.parties.control import ControlServer
from lianxin.parties.identity import load_identity
from lianxin.parties.node import open_node
from lianxin.parties.platform import PlatformNode
from lianxin.parties.records import load_firm_table, read_table

# ---- the figures of a node that has carried a run


@pytest.fixture(scope="module")
def served(tmp_path_factory, finished):
    folder = worlds.copy_of(finished, tmp_path_factory.mktemp("watched") / "run")
    home = folder / "parties" / finished.platform
    node = open_node(load_node(home / "node.toml"))
    found = PlatformNode(node, lambda contract: {})
    watching = watch.Watch(found, lambda: 3)
    node.watch = watching
    yield found, watching, home / "node.toml"
    found.close()
    watching.end() if watching._thread.is_alive() else watch_log.close_log(watching._log)
    node.close()


finished = worlds.finished
province = worlds.province


def by_name(watching) -> dict[str, dict]:
    return {figure.name: dict(figure.samples) for figure in watching.figures()}


def test_the_figures_say_what_the_node_holds(served):
    node, found = served[0].node, by_name(served[1])
    assert found["lianxin_ledger_leaves"] == {(): node.ledger.size}
    assert found["lianxin_runs"] == {(("state", "finished"),): 1}
    assert found["lianxin_conversations_open"] == {(): 3}
    states = {labels[0][1]: count for labels, count in found["lianxin_consents"].items()}
    registry = node.register.registry()
    assert sum(states.values()) == len(registry.consents) > 100 and states["withdrawn"] >= 1
    assert found["lianxin_peer_connected"] == {(("peer", bank),): 0 for bank in ("bank-1", "bank-2")}
    assert all(found["lianxin_healthy"].values())


def test_what_comes_into_the_ledger_is_counted_by_rule_from_then_on(served):
    node, watching = served[0].node, served[1]
    before = by_name(watching)
    served[0].refused("I05", "spiffe://lianxin.test/bank-9")
    node.ledger.append({"kind": "alarm", "run": "", "peer": "bank-1", "rule": "T01", "skew_s": 99})
    node.counts["limits/L01"] += 7
    now = by_name(watching)

    def grown(name: str, *labels: tuple[str, str]) -> float:
        return now[name].get(labels, 0) - before[name].get(labels, 0)

    assert grown("lianxin_refusals_total", ("rule", "I05")) == 1
    assert grown("lianxin_alarms_total", ("rule", "T01")) == 1
    assert grown("lianxin_leaves_total", ("kind", "refusal")) == 1
    assert now["lianxin_events_total"][(("event", "limits/L01"),)] == 7


def test_every_count_of_the_node_is_a_metric(served):
    node = served[0].node
    node.counts["retries/some-step"] += 1
    labels = {one[0][1] for one in by_name(served[1])["lianxin_events_total"]}
    assert set(node.counts) <= labels


def test_time_is_given_to_the_phases_of_a_run(served, monkeypatch):
    seconds = iter((10.0, 14.0, 19.0))
    monkeypatch.setattr("lianxin.parties.node.time.monotonic", lambda: next(seconds))
    for what in ("phase matching", "phase training", "run run-7 finished"):
        served[0].node.say(what, "run-7")
    monkeypatch.undo()
    found = by_name(served[1])["lianxin_run_phase_seconds_total"]
    assert found == {(("phase", "matching"),): 4.0, (("phase", "training"),): 5.0}


def test_one_group_that_cannot_be_read_takes_nothing_from_the_others(served, monkeypatch):
    def broken(_watched):
        raise KeyError("91630000MA7500001X")

    monkeypatch.setattr(watch_figures, "_consents", broken)
    found = by_name(served[1])
    assert "lianxin_consents" not in found and "lianxin_ledger_leaves" in found
    assert by_name(served[1])["lianxin_events_total"][(("event", "watch/unread"),)] >= 1


def identifiers(home: Path) -> list[str]:
    config = load_node(home)
    return load_firm_table(read_table(config.data.table), config.data.id).identifiers


def test_the_page_is_read_by_prometheus_and_names_no_firm_key_or_run(served):
    found, watching, path = served
    page = watch_metrics.page_of(watching.figures).decode()
    families = list(text_string_to_metric_families(page))
    assert len(families) > 25 and all(family.name.startswith("lianxin_") for family in families)
    assert all(family.documentation and family.type in ("counter", "gauge") for family in families)
    subjects = [one.subject for one in found.node.register.registry().consents.values()]
    for secret in (
        *identifiers(path),
        *subjects,
        "run-1",
        str(path.parent),
        found.node.identity.signing_key.public_hex,
    ):
        assert secret not in page
    assert "python_gc" not in page and "process_" not in page
    names = Counter(figure.name for figure in watching.figures())
    assert set(names.values()) == {1}


# ---- the page over HTTP


@pytest.fixture
def page():
    ill: list[watch_health.Ailment] = []
    figures = [watch_figures.Figure("lianxin_runs", "Runs.", {(("state", "finished"),): 2})]
    server = watch_metrics.MetricsServer("127.0.0.1:0", lambda: figures, lambda: ill)
    yield f"http://127.0.0.1:{server.port}", ill, server
    server.close()


def got(url: str, **options) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, **options), timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as fault:
        return fault.code, fault.read().decode()


def test_metrics_and_health_are_served_and_nothing_else(page):
    address, ill, _ = page
    status, text = got(f"{address}/metrics")
    assert status == 200 and 'lianxin_runs{state="finished"} 2.0' in text
    assert got(f"{address}/healthz") == (200, '{"status": "SERVING", "wrong": []}')
    ill.append(watch_health.Ailment("disk", "no room"))
    assert got(f"{address}/healthz") == (503, '{"status": "NOT_SERVING", "wrong": ["disk"]}')
    for path in ("/", "/../etc/passwd", "/metrics/x", "/debug"):
        assert got(address + path)[0] == 404
    assert got(f"{address}/metrics", data=b"x")[0] == 501  # POST


def test_who_holds_connections_open_is_bounded_and_locks_nobody_out(page, monkeypatch):
    address, _, server = page
    monkeypatch.setattr(watch_metrics._Pages, "timeout", 0.1)
    before = threading.active_count()
    idle = [socket.create_connection(("127.0.0.1", server.port), 5) for _ in range(12)]
    try:
        assert threading.active_count() <= before + watch_metrics.AT_ONCE
        done = threading.Event()
        for _ in range(50):
            try:
                if got(f"{address}/healthz")[0] == 200:
                    done.set()
                    break
            except OSError:
                done.wait(0.1)
        assert done.is_set()
    finally:
        for one in idle:
            one.close()


def test_a_taken_port_is_one_sentence(page):
    _, _, server = page
    with pytest.raises(StillHeld, match=r"cannot be served on 127\.0\.0\.1:\d+: another program has the port"):
        watch_metrics.MetricsServer(f"127.0.0.1:{server.port}", lambda: [], lambda: [])


def test_without_the_extra_the_metrics_say_what_to_install(monkeypatch):
    monkeypatch.setattr(watch_metrics, "find_spec", lambda name: None)
    with pytest.raises(InputFault, match="lianxin\\[watch\\]"):
        watch_metrics.MetricsServer("127.0.0.1:0", lambda: [], lambda: [])


# ---- health


def test_each_ailment_is_named_with_what_to_do(served, monkeypatch):
    node = served[0].node
    assert watch_health.ailments(node) == []
    monkeypatch.setattr(watch_health, "disk_of", lambda folder: (1 << 20, 1 << 40))
    monkeypatch.setattr(type(node.clock), "fault_s", lambda clock: 99)
    monkeypatch.setattr(type(node.store), "next_position", lambda store: 0)
    assert [one.what for one in watch_health.ailments(node)] == ["store", "clock", "disk"]
    assert all(len(one.sentence) > 30 for one in watch_health.ailments(node))


def test_little_room_on_a_large_disk_or_on_a_small_one_is_judged_apart():
    assert watch_health.is_short(900 << 20, 1 << 40) and not watch_health.is_short(2 << 30, 1 << 40)
    assert not watch_health.is_short(900 << 20, 4 << 30)  # over a fifth of a small disk


class Healthy:
    """The platform's port with its health service, and who asks it."""

    def __init__(self, layout: worlds.Layout) -> None:
        self.layout, self.is_well = layout, True
        self.platform = self.identity(layout.parties[0])
        self.parties = dict(self.platform.pinned_peers())
        self.server = services.serve(
            "127.0.0.1:0", self.platform.server_tls(), self.parties, lambda channel: None,
            on_refused=lambda rule, uri: None, is_serving=lambda: self.is_well, own=watch_health.own_pin(self.platform),
        )  # fmt: skip

    def identity(self, party: str):
        return load_identity(self.layout.home(party) / "identity")

    def ask(self, party: str, service: str = "") -> int:
        own = self.identity(party)
        pems = [own.authority, own.tls_key, own.tls_certificate]
        pems[0] = self.platform.tls_certificate
        credentials = grpc.ssl_channel_credentials(*(path.read_bytes() for path in pems))
        options = [("grpc.ssl_target_name_override", "localhost")]
        with grpc.secure_channel(f"127.0.0.1:{self.server.port}", credentials, options) as road:
            check = road.unary_unary("/grpc.health.v1.Health/Check")
            answer = check(health_pb2.HealthCheckRequest(service=service).SerializeToString(), timeout=20)
        return health_pb2.HealthCheckResponse.FromString(answer).status


@pytest.fixture(scope="module")
def healthy(finished):
    one = Healthy(finished.layout)
    yield one
    one.server.stop()


def test_pinned_peers_and_the_operators_own_probe_are_told_whether_the_node_serves(healthy):
    assert healthy.ask("bank-1") == healthy.ask("platform", "lianxin.party") == health_pb2.HealthCheckResponse.SERVING
    healthy.is_well = False
    assert healthy.ask("bank-1") == health_pb2.HealthCheckResponse.NOT_SERVING
    healthy.is_well = True


def test_who_is_not_pinned_is_told_nothing(healthy):
    uri = next(uri for uri, pin in healthy.parties.items() if pin.party == "bank-2")
    kept = healthy.parties[uri]
    healthy.parties[uri] = PinnedPeer("bank-2", "0" * 64)
    try:
        with pytest.raises(grpc.RpcError) as caught:
            healthy.ask("bank-2")
        assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
    finally:
        healthy.parties[uri] = kept
    assert healthy.ask("bank-2") == health_pb2.HealthCheckResponse.SERVING  # the pin alone decided


def test_an_unknown_service_is_not_found(healthy):
    with pytest.raises(grpc.RpcError) as caught:
        healthy.ask("bank-1", "other")
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


# ---- systemd


def test_systemd_is_told_on_its_socket(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        name = f"\0lianxin-test-{tmp_path.name}-{id(heard)}"
        heard.bind(name)
        heard.settimeout(5)
        assert watch_notify.notify(watch_notify.READY, {"NOTIFY_SOCKET": "@" + name[1:]})
        assert heard.recv(100) == b"READY=1"
    assert not watch_notify.notify(watch_notify.READY, {})
    assert not watch_notify.notify(watch_notify.READY, {"NOTIFY_SOCKET": str(tmp_path / "nobody")})
    assert watch_notify.watchdog_s({"WATCHDOG_USEC": "120000000"}) == 60.0
    assert watch_notify.watchdog_s({"WATCHDOG_USEC": "120000000", "WATCHDOG_PID": "1"}) == 0.0


def test_a_watched_node_says_that_it_lives_only_while_it_can_be_looked_at(served, monkeypatch):
    told: list[str] = []
    alive, deaf = threading.Event(), threading.Event()
    monkeypatch.setattr(
        watch, "notify", lambda state: (told.append(state), state == watch_notify.ALIVE and alive.set())
    )
    monkeypatch.setattr(watch, "LOOK_S", 0.02)
    watching = watch.Watch(served[0]).begin()
    try:
        assert alive.wait(10)
        until_alive = threading.Event()
        monkeypatch.setattr(watching._watched.tail, "look", lambda: (deaf.set(), 1 / 0))
        assert deaf.wait(10)
        until_alive.wait(0.1)
        said = len(told)
        until_alive.wait(0.2)
        assert len(told) == said and watch_notify.ALIVE in told
    finally:
        watching.end()
        served[0].node.watch = served[1]


# ---- the commands


def test_the_watch_command_shows_a_running_nodes_figures(served, capsys, tmp_path):
    found, _, path = served
    control = ControlServer(found.node.config.state, lambda request: watch.answer(found, request))
    try:
        assert cli.run(["platform", "watch", str(path)]) == 0
        text = capsys.readouterr().out
        assert text.startswith("platform: well") and re.search(r"ledger_leaves +\d", text)
        assert cli.run(["platform", "watch", str(path), "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
        assert told["party"] == "platform" and told["wrong"] == []
        assert {one["name"] for one in told["figures"]} >= {"lianxin_runs", "lianxin_consents"}
    finally:
        control.close()


def test_a_node_that_nobody_watches_says_so(served, monkeypatch):
    monkeypatch.setattr(served[0].node, "watch", None)
    with pytest.raises(InputFault, match="is not watched"):
        watch.answer(served[0], {})
