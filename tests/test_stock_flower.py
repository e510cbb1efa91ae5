"""The same apps under stock Flower: `flwr run` with its simulation runtime ends with the weights of a run on our own road.

The Grid's refusals are tried on a stock Grid made up in memory; the long test starts a SuperLink of its own and ends it.
"""

import contextlib
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import network_world
import psutil
import pytest
import worlds
from conftest import ROOT
from flwr.supercore.task_identity import TaskIdentity
from torture import ONLY

from lianxin.federation import stock
from lianxin.federation.apps import parts_of, record_of
from lianxin.federation.errors import InputFault, PeerError, RunStopped
from lianxin.simulations import flower_runs, runner
from lianxin.simulations.layout import Terms, choose_catalogue, lay_out
from lianxin.simulations.tables import check_network_inputs

APP = ROOT / "simulations" / "flower"
BIN = Path(sys.executable).parent
START_S, RUN_S = 30, 150
Seats = dict[int, "MadeUpSeat"]


class MadeUpSeat:
    """A bank that says its name and counts; it fails where it is told to."""

    def __init__(self, party: str) -> None:
        self.party, self.closed, self.fails = party, False, ""

    def app(self, message: Any, _context: Any) -> Any:
        if self.fails:
            raise PeerError(f"the taxes of firm 7 at {self.party}", self.fails)
        numbers = parts_of(message.content)[1]
        return stock.Message(record_of({}, {"seen": numbers["ask"] + 1}, {"who": self.party}), reply_to=message)

    def propose(self, contract: str) -> str:
        return f"{self.party} signs {contract}"

    def signed(self, contract: str) -> None:
        if contract != "signed":
            raise PeerError("another contract", "C05")

    def close(self) -> None:
        self.closed = True


class MadeUpGrid(stock.Grid):
    """A stock Grid in memory: nodes with ids like Flower's, replies in another order than the questions."""

    def __init__(self, seats: Seats, run: int) -> None:
        self.seats, self.run_id, self.silent = seats, run, set[int]()
        self.client = stock.StockClient(lambda node_config, _run: seats[node_config["partition-id"]])

    def set_run(self, run: Any) -> None: ...

    @property
    def run(self) -> Any: ...

    def create_message(self, *_: Any, **__: Any) -> Any: ...

    def push_messages(self, messages: Any) -> Any: ...

    def pull_messages(self, message_ids: Any) -> Any: ...

    def get_node_ids(self) -> Iterable[int]:
        return list(self.seats)

    def send_and_receive(self, messages: Iterable[Any], *, timeout: float | None = None) -> Iterable[Any]:
        asked = [message for message in messages if message.metadata.dst_node_id not in self.silent]
        return [self.client(one, self._context(one.metadata.dst_node_id)) for one in reversed(asked)]

    def _context(self, node: int) -> Any:
        config = {"partition-id": node}
        return stock.Context(self.run_id, node, config, stock.RecordDict(), {})


@pytest.fixture
def made_up(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., MadeUpGrid]]:
    for name in ("_run_id", "_task_id", "_node_id"):  # what Flower's own process would have set
        monkeypatch.setattr(TaskIdentity, name, 1)
    yield lambda *parties: MadeUpGrid({77 - k: MadeUpSeat(party) for k, party in enumerate(parties)}, id(request))
    stock._seats.clear()


def ask(grid: stock.StockGrid, kind: str = "train") -> list[Any]:
    return grid.send_and_receive(
        [grid.create_message(record_of({}, {"ask": 4}, {}), kind, place, "2") for place in grid.get_node_ids()]
    )


def test_replies_come_by_party_id_whatever_the_order_of_nodes(made_up: Callable[..., MadeUpGrid]) -> None:
    grid = stock.StockGrid(made_up("bank-c", "bank-a", "bank-b"), ["bank-b", "bank-c", "bank-a"], 1.0)
    replies = ask(grid)
    assert grid.banks == {1: "bank-a", 2: "bank-b", 3: "bank-c"}
    assert [reply.metadata.src_node_id for reply in replies] == [1, 2, 3]
    assert [parts_of(reply.content)[1:] for reply in replies] == [({"seen": 5}, {"who": f"bank-{b}"}) for b in "abc"]


def test_a_bank_that_fails_sends_its_rule_and_not_its_words(made_up: Callable[..., MadeUpGrid]) -> None:
    seats = made_up("bank-a", "bank-b", "bank-c")
    grid = stock.StockGrid(seats, ["bank-a", "bank-b", "bank-c"], 1.0)
    seats.seats[76].fails = "NN01"
    second = ask(grid)[1]
    assert (second.has_error(), second.error.reason) == (True, "NN01")
    assert "taxes" not in str(grid.lost["bank-b"]) and grid.lost["bank-b"].rule == "NN01"  # type: ignore[attr-defined]
    assert grid.get_node_ids() == [1, 3]


def test_a_bank_that_is_silent_is_lost_after_the_deadline(made_up: Callable[..., MadeUpGrid]) -> None:
    seats = made_up("bank-a", "bank-b", "bank-c")
    grid = stock.StockGrid(seats, ["bank-a", "bank-b", "bank-c"], 1.0)
    seats.silent.add(75)
    assert ask(grid)[2].has_error() and "did not answer train within 1 s" in str(grid.lost["bank-c"])


def test_a_seat_is_let_go_after_the_evaluation(made_up: Callable[..., MadeUpGrid]) -> None:
    seats = made_up("bank-a")
    ask(stock.StockGrid(seats, ["bank-a"], 1.0), "evaluate")
    assert seats.seats[77].closed


@pytest.mark.parametrize(
    ("there", "says"),
    [
        (("bank-a", "bank-a", "bank-b"), "two nodes say that they are bank-a"),
        (("bank-a", "bank-b"), "2 nodes connected and 2 of the run's 3 banks"),
        (("bank-a", "bank-b", "bank-x"), "3 nodes connected and 2 of the run's 3 banks"),
        (("bank-a", "bank-b", "bank-c", "bank-x"), "4 nodes connected and 3 of the run's 3 banks"),
    ],
)
def test_nodes_that_are_not_the_banks_start_nothing(
    made_up: Callable[..., MadeUpGrid], there: tuple[str, ...], says: str
) -> None:
    with pytest.raises(RunStopped, match=says):
        stock.StockGrid(made_up(*there), ["bank-a", "bank-b", "bank-c"], 0.2)


def test_a_bank_that_refuses_the_contract_stops_the_run(made_up: Callable[..., MadeUpGrid]) -> None:
    grid = stock.StockGrid(made_up("bank-a", "bank-b"), ["bank-a", "bank-b"], 1.0)
    assert grid.ask(stock.PROPOSE, {"contract": "it"})["bank-b"] == {"approval": "bank-b signs it"}
    with pytest.raises(RunStopped, match=r"rule C05.*nothing was started"):
        grid.ask(stock.SIGNED, {"contract": "another"})


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"folder": ""}, "say where the run is to be kept"),
        ({"tables": "/nowhere/a.csv"}, "is no file"),
        ({"tables": ""}, "3 banks or more"),
        ({"terms": "[1]"}, "JSON object"),
    ],
)
def test_a_configuration_that_cannot_be_used_is_refused_in_a_sentence(
    tmp_path: Path, changes: dict[str, str], says: str
) -> None:
    config = {
        "folder": str(tmp_path / "run"), "tables": "", "id": "firm", "label": "y", "split": "", "loan-id": "", "seed": 1,
        "model": "logistic", "strategy": "fedavg", "aggregation": "secret", "rounds": 2, "terms": "{}",
    }  # fmt: skip
    with pytest.raises(InputFault, match=says):
        flower_runs.lay({**config, **changes})
    assert not (tmp_path / "run").exists()


def test_the_app_that_is_sent_holds_nothing_but_the_names_of_what_is_installed() -> None:
    """A node never runs code that came: what stock Flower sends to its own nodes has no code of ours in it either."""
    lines = [
        line
        for path in sorted(APP.glob("*.py"))
        for line in path.read_text(encoding="utf-8").splitlines()
        if line and not line.startswith(('"""', "from lianxin.simulations.flower_runs import ", "__all__ = "))
    ]
    assert lines == [] and {path.name for path in APP.iterdir() if path.is_file()} == {
        "client_app.py", "pyproject.toml", "server_app.py",
    }  # fmt: skip


@pytest.fixture
def superlink(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Start a SuperLink with the simulation runtime, and end it and what it started; yield the environment to use."""
    address = runner.free_address()
    home = tmp_path / "flower"
    home.mkdir()
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "here"\n[superlink.here]\naddress = "{address}"\ninsecure = true\n'
    )
    environment = {
        **os.environ, "FLWR_HOME": str(home), "FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1",
        "RAY_USAGE_STATS_ENABLED": "0", "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
    }  # fmt: skip
    host, port = address.split(":")
    command = [str(BIN / "flower-superlink"), "--insecure", "--simulation", "--isolation", "subprocess", "--host", host,
               "--port", port, "--disable-runtime-dependency-installation"]  # fmt: skip
    with (tmp_path / "superlink.log").open("wb") as log:
        link = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        wait_until_up(f"http://{address}/health", link)
        yield environment
    finally:
        end(psutil.Process(link.pid))


def end(link: psutil.Process) -> None:
    """End a SuperLink, then whatever it started that outlives it: a simulation detaches, with its Ray processes."""
    started = link.children(recursive=True)
    link.terminate()
    psutil.wait_procs([link], timeout=10)
    _, left = psutil.wait_procs(started, timeout=3)
    for process in [*left, *([link] if link.is_running() else [])]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, timeout=5)


def wait_until_up(url: str, link: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + START_S
    while time.monotonic() < until:
        assert link.poll() is None, "the SuperLink ended at its start"
        try:
            with urllib.request.urlopen(url, timeout=1):
                return
        except OSError:
            time.sleep(0.2)
    raise AssertionError("the SuperLink did not come up")


@ONLY
@pytest.mark.slow
@pytest.mark.timeout(240)
def test_stock_flower_ends_with_the_same_weights_as_our_own_road(tmp_path: Path, superlink: dict[str, str]) -> None:
    network_world.tables_of(tmp_path / "tables", rows=300)
    paths = sorted((tmp_path / "tables").glob("*.csv.gz"))
    config = {"folder": tmp_path / "stock", "tables": ",".join(map(str, paths)), "id": network_world.ID,
              "label": network_world.LABEL, "split": network_world.SPLIT, "terms": json.dumps(network_world.QUICK)}  # fmt: skip
    said = " ".join(f"{name}='{value}'" for name, value in config.items()) + " rounds=2 seed=5"
    federation = "num-supernodes=3 client-resources-num-cpus=2 init-args-num-cpus=2"
    command = [str(BIN / "flwr"), "run", str(APP), "here", "--stream", "--federation-config", federation]
    told = subprocess.run(
        [*command, "--run-config", said], env=superlink, capture_output=True, text=True, timeout=RUN_S
    )
    assert (tmp_path / "stock" / flower_runs.RESULT).is_file(), told.stdout[-3000:] + told.stderr[-2000:]
    found = json.loads((tmp_path / "stock" / flower_runs.RESULT).read_text())
    assert found["model_sha256"] == digest_in_memory(tmp_path / "own", paths)
    assert {"bank-1", "bank-2", "bank-3"} == set(found["metrics"])


def digest_in_memory(folder: Path, paths: list[Path]) -> str:
    inputs, _ = check_network_inputs(paths, network_world.ID, network_world.LABEL, network_world.SPLIT, None, least=3)
    terms = Terms(seed=5, model="logistic", rounds=2, model_terms=network_world.QUICK)
    laid = worlds.run(lay_out(folder, inputs, terms, choose_catalogue(inputs, None, False))).layout
    record = json.loads((laid.run_state(laid.parties[0]) / "model.json").read_text())
    return str(record["model_sha256"])
