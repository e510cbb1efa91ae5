"""Runs of a network across banks: one model at all parties, the same in secret and in clear, whatever carries it."""

import base64
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import network_world
import numpy as np
import pytest
import worlds
from worlds import World, leaves_in

from lianxin.federation.contract import RunContract
from lianxin.federation.errors import InputFault, PeerError, RunStopped
from lianxin.parties import training
from lianxin.parties.auditor import verify_run
from lianxin.parties.bank_network import BankNetwork
from lianxin.parties.preparation import Preparation
from lianxin.parties.records import read_table
from lianxin.parties.report import render
from lianxin.simulations import clear_networks, results, story
from lianxin.simulations.replay import replay_run
from lianxin.simulations.tables import Inputs, check_network_inputs

finished = network_world.finished


def model_of(world: World, party: str) -> dict[str, Any]:
    return json.loads((world.layout.run_state(party) / "model.json").read_text())


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return network_world.tables_of(tmp_path_factory.mktemp("tables"))


@pytest.fixture(scope="module")
def clear(tables: Inputs, tmp_path_factory: pytest.TempPathFactory) -> World:
    return worlds.run(network_world.lay(tmp_path_factory.mktemp("clear") / "run", tables, aggregation="clear"))


@pytest.fixture
def outcome(finished: World) -> Iterator[results.Outcome]:
    yield results.gather(finished.layout, finished.ran)


def test_all_parties_end_with_the_same_model_and_the_evidence_holds(finished: World) -> None:
    digests = {model_of(finished, party)["model_sha256"] for party in [finished.platform, *finished.banks]}
    assert len(digests) == 1
    kept = base64.b64decode(model_of(finished, finished.platform)["weights"])
    assert training.digest(np.frombuffer(kept, dtype="<f4")) == digests.pop()
    assert verify_run(finished.layout.folder).ok


def test_a_secret_sum_adds_no_error_at_all(finished: World, clear: World) -> None:
    ours, plain = (model_of(world, world.platform) for world in (finished, clear))
    assert ours["curve"] == plain["curve"]
    assert ours["preparation"] == plain["preparation"]
    assert ours["model_sha256"] == plain["model_sha256"]


def test_training_lowers_the_loss_of_rows_that_were_held_back(finished: World) -> None:
    losses = [one["validation_loss_micro"] for one in model_of(finished, finished.platform)["curve"]]
    assert losses[0] == 693147  # ln 2: the first predictions are one half
    assert losses == sorted(losses, reverse=True)


def test_the_run_agrees_on_what_the_tables_in_clear_would_give(finished: World) -> None:
    model = model_of(finished, finished.banks[0])
    columns = {}
    for bank in finished.layout.inputs.banks:
        assert bank.path is not None
        table, rows = read_table(bank.path), model_of(finished, bank.party)["training_rows"]
        columns[bank.party] = {name: [table.column(name)[row] for row in rows] for name in bank.features}
    fields = sorted(finished.layout.inputs.banks[0].features)
    agreed = clear_networks.agreed_preparation(columns, fields, 50, 16)
    assert Preparation.from_record(model["preparation"]) == agreed


def test_a_replay_gives_equal_bytes(finished: World) -> None:
    assert replay_run(finished.layout.folder).transcript_sha256 == finished.ran.summary["transcript_sha256"]


def test_the_platform_is_sent_no_update_of_a_bank(finished: World, clear: World) -> None:
    def forms(world: World) -> set[str]:
        leaves = [leaf for bank in world.banks for leaf in world.leaves(bank, "envelope")]
        told = [leaf for leaf in leaves if leaf["direction"] == "out" and leaf["step"] == "learning.exchange"]
        trained = [leaf for leaf in told if leaf["round"] and leaf["round"] <= 3]
        return {one["form"] for leaf in trained for one in leaf["forms"]}

    assert forms(finished) == {"CONTROL", "PUBLIC", "MASKED", "AGGREGATE"}  # the word of each bank is the aggregate
    assert "MASKED" not in forms(clear)


def test_the_platform_has_neither_a_table_nor_matches(finished: World) -> None:
    assert finished.ran.summary["matched"] == {}
    kinds = {leaf["conversation"].split("/")[0] for leaf in finished.leaves(finished.platform, "envelope")}
    assert kinds == {"contracts", "learning"}


def test_every_round_stands_behind_a_release_of_its_own(finished: World) -> None:
    for bank in finished.banks:
        rows = [leaf for leaf in finished.leaves(bank, "release") if leaf["mode"] == "COMPUTE_ONLY"]
        assert [leaf["round"] for leaf in rows] == [0, 1, 2, 3, 4]


def test_the_figures_and_the_report_show_local_federated_and_personalised(
    finished: World, outcome: results.Outcome
) -> None:
    figures = outcome.figures
    assert set(figures["auc"]) == {"overall", *finished.banks} and figures["same_model"]
    for row in figures["auc"].values():
        assert set(row) == {"local", "federated", "personalised", "pooled"} and all(v > 0.7 for v in row.values())
    assert figures["epsilon"] == 0 and figures["aggregation"] == "secret" and figures["rolled_back"] == []
    assert set(figures["recommended"]) == set(finished.banks)
    page = render(story.summary_of(finished.layout, finished.ran, outcome))
    for said in ("Network across banks", "Taken back: none", "secret, opened by 3 of 3 banks", "no noise"):
        assert said in page


def test_a_withdrawn_firm_is_in_no_later_round(tables: Inputs, tmp_path: Path) -> None:
    world = worlds.run(network_world.lay(tmp_path / "run", tables, revoked_firms=1))
    bank = world.banks[0]
    rows = [leaf["rows"] for leaf in world.leaves(bank, "release") if leaf["mode"] == "COMPUTE_ONLY"]
    assert rows == [400, 400, 400, 399, 399]


def test_fewer_than_three_banks_are_refused_in_one_sentence(tables: Inputs) -> None:
    paths = [bank.path for bank in tables.banks if bank.path is not None][:2]
    with pytest.raises(InputFault, match="across 3 banks or more, and 2 --bank tables were given"):
        check_network_inputs(paths, "firm", "label_bad", "split", None, 3)


def test_columns_that_one_bank_lacks_are_left_out_by_name(tmp_path: Path) -> None:
    inputs = network_world.tables_of(tmp_path)
    paths = [bank.path for bank in inputs.banks if bank.path is not None]
    columns = network_world.bank_columns(5, 0, 60)
    del columns["noise"]
    network_world.write_table(paths[0], columns)
    found, left = check_network_inputs(paths, "firm", "label_bad", "split", None, 3)
    assert left == ("noise",) and "noise" not in found.banks[1].features


# ---- what a bank or a platform could get wrong


def test_a_bank_whose_training_runs_away_stops_the_run_and_sends_nothing(
    tables: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "train_local", _altered(lambda update: np.full_like(update, np.nan)))
    layout = network_world.lay(tmp_path / "run", tables)
    with pytest.raises(RunStopped, match="nothing of it was sent"):
        worlds.run(layout)
    sent = leaves_in(layout.home("bank-1") / "evidence", "envelope")
    assert not [leaf for leaf in sent if leaf["round"] and any(one["form"] == "MASKED" for one in leaf["forms"])]


def _altered(change: Callable[[np.ndarray], np.ndarray]) -> Callable[..., Any]:
    train = training.train_local

    def changed(*given: Any, **more: Any) -> Any:
        outcome = train(*given, **more)
        return replace(outcome, update=change(outcome.update))

    return changed


def test_rounds_that_most_banks_find_worse_are_taken_back_and_stop_the_run(
    tables: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "train_local", _altered(lambda update: -20 * update))
    layout = network_world.lay(
        tmp_path / "run", tables, aggregation="clear", norm_bound_thousandths=10**6, max_rollbacks=1
    )
    with pytest.raises(RunStopped, match="round 2 was taken back: 3 of 3 banks found it worse"):
        worlds.run(layout)


def test_a_bank_refuses_rounds_out_of_order(finished: World) -> None:
    class Quiet(BankNetwork):
        def __init__(self) -> None:
            self.contract = RunContract({"rounds": 3})
            self._round, self.rights = 2, ()

    bank = Quiet()
    bank.turn("train", 3)
    for late in (1, 2, 5):
        with pytest.raises(PeerError, match="came for round"):
            bank.turn("train", late)
