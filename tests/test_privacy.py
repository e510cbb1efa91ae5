"""What epsilon asks of a bank, and the budget that it is spent from: planned, charged once, refused by name, shown."""

import importlib.util
import json
import threading
from pathlib import Path

import numpy as np
import pytest
from conversations import contract_of

from lianxin.crypto import canonical
from lianxin.crypto.signing import SigningKey
from lianxin.federation.errors import GateRefused, InputFault, RunStopped
from lianxin.parties import cli, privacy
from lianxin.parties.clock import SimulatedClock
from lianxin.parties.config import PrivacySection
from lianxin.parties.ledger import Ledger
from lianxin.parties.preparation import Prepared
from lianxin.parties.privacy import PrivacyBudget, PrivacySettings, plan_privacy, training_digest
from lianxin.parties.store import Store

DAY = 86_400
SETTINGS = PrivacySettings(2.0, 1e-6, "record", 3.0, 1.25, 0.05, 60)


def asked(run: str = "run-1", epsilon: int = 2000, **changes):
    """A contract of a network that asks for so many thousandths of epsilon."""
    terms = {"local_epochs": 1, "batch_rows": 256, **changes}
    return contract_of(3, model="mlp", run=run, epsilon_thousandths=epsilon, **terms)


class House:
    """A bank's store, ledger and clock."""

    def __init__(self, folder: Path, **limits: int) -> None:
        self.folder, self.clock = folder, SimulatedClock("2026-03-01T00:00:00Z")
        self.limits = PrivacySection(**limits)
        self.open()

    def open(self) -> None:
        self.store = Store(self.folder / "store.sqlite")
        self.ledger = Ledger(self.store, "bank-1", SigningKey.from_seed(b"k" * 32), self.clock, "0.5.0", "wang")
        self.budget = PrivacyBudget(self.store, self.clock, self.limits, self.ledger)

    def restart(self) -> None:
        self.store.close()
        self.open()

    def leaves(self) -> list[dict]:
        return [leaf for leaf in map(json.loads, self.store.leaves()) if leaf["kind"] == "privacy"]


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


# ---- planning


def test_a_contract_without_epsilon_asks_for_nothing():
    assert plan_privacy(asked(epsilon=0), 5000) is None


def test_the_plan_covers_every_step_of_every_round():
    settings = plan_privacy(asked(rounds=6, local_epochs=2, batch_rows=256), 5000)
    assert settings.sample_rate == 0.0512  # 256 of 5000 rows
    assert settings.steps == 6 * 2 * 20
    assert (settings.epsilon, settings.delta, settings.unit, settings.clip) == (2.0, 1e-6, "record", 3.0)


def test_a_bank_of_fewer_rows_than_a_batch_draws_all_of_them_in_each_step():
    settings = plan_privacy(asked(batch_rows=256, epsilon=8000), 200)
    assert (settings.sample_rate, settings.steps) == (1.0, 6)


def test_less_epsilon_more_rounds_and_fewer_rows_ask_for_more_noise():
    plain = plan_privacy(asked(), 5000).noise_multiplier
    assert plan_privacy(asked(epsilon=1000), 5000).noise_multiplier > 1.4 * plain
    assert plan_privacy(asked(rounds=24), 5000).noise_multiplier > 1.4 * plain
    assert plan_privacy(asked(), 1000).noise_multiplier > 1.4 * plain


def test_a_delta_that_may_tell_a_whole_row_is_refused():
    with pytest.raises(
        RunStopped, match=r"delta is 10\^-4 and this bank trains on 20000 rows.*DP03.*delta_exponent to 5"
    ):
        plan_privacy(asked(delta_exponent=4), 20_000)


def test_an_epsilon_that_drowns_a_step_in_noise_is_refused():
    with pytest.raises(RunStopped, match=r"an epsilon of 0\.05 over 200 rounds on 300 rows needs noise.*DP03"):
        plan_privacy(asked(epsilon=50, rounds=200), 300)


def test_an_epsilon_that_no_noise_keeps_is_refused():
    with pytest.raises(RunStopped, match="DP03"):
        plan_privacy(asked(epsilon=1, rounds=200, local_epochs=100), 1000)


@pytest.mark.parametrize("missing", ["torch", "opacus"])
def test_a_bank_without_the_extra_says_what_to_install(monkeypatch, missing):
    found = importlib.util.find_spec
    monkeypatch.setattr(privacy, "find_spec", lambda name: None if name == missing else found(name))
    with pytest.raises(InputFault, match=r"pip install 'lianxin\[nn\]'"):
        plan_privacy(asked(), 5000)


# ---- the budget


def test_a_run_is_charged_whole_with_one_leaf_that_holds_counts_alone(house):
    house.budget.charge(asked(), SETTINGS, 5000)
    (leaf,) = house.leaves()
    told = {
        name: leaf[name]
        for name in leaf
        if name not in ("type", "version", "time", "party", "operator", "code_version", "salt")
    }
    assert told == {
        "kind": "privacy", "run": "run-1", "contract_hash": asked().hash, "unit": "record", "epsilon_thousandths": 2000,
        "delta_exponent": 6, "rows": 5000, "noise_thousandths": 1250, "steps": 60, "sample_rate_millionths": 50_000,
        "left_thousandths": 6000,
        "days": 0,
    }  # fmt: skip


def test_a_resumed_run_is_not_charged_again_and_goes_on_with_its_first_settings(house):
    first = house.budget.charge(asked(), SETTINGS, 5000)
    house.restart()
    fewer = PrivacySettings(2.0, 1e-6, "record", 3.0, 9.0, 0.5, 12)
    assert house.budget.charge(asked(), fewer, 4990) == first == SETTINGS
    assert len(house.leaves()) == 1
    assert house.budget.report()["left_thousandths"] == 6000


def test_runs_add_up_and_the_one_too_many_is_refused_before_it_spends_or_tells_anything(house):
    for number in range(4):
        house.budget.charge(asked(f"run-{number}"), SETTINGS, 5000)
    house.restart()
    with pytest.raises(
        GateRefused, match=r"asks for epsilon 2 .*; epsilon 0 and delta .*DP01.*nothing was trained"
    ) as refusal:
        house.budget.charge(asked("run-9"), SETTINGS, 5000)
    assert refusal.value.rule == "DP01"
    assert [leaf["run"] for leaf in house.leaves()] == ["run-0", "run-1", "run-2", "run-3"]
    assert house.budget.report()["left_thousandths"] == 0


def test_deltas_are_a_budget_too(tmp_path):
    house = House(tmp_path, epsilon_thousandths=10**6, delta_exponent=5)
    for number in range(10):
        house.budget.charge(asked(f"run-{number}"), SETTINGS, 5000)
    with pytest.raises(GateRefused, match="delta 0 are left"):
        house.budget.charge(asked("run-10"), SETTINGS, 5000)
    (tmp_path / "other").mkdir()
    with pytest.raises(GateRefused):
        House(tmp_path / "other", delta_exponent=7).budget.charge(asked(), SETTINGS, 5000)


def test_without_a_window_nothing_comes_back_and_with_one_it_does_to_the_second(tmp_path):
    for days, folder in ((0, "ever"), (365, "window")):
        (tmp_path / folder).mkdir()
        house = House(tmp_path / folder, epsilon_thousandths=2000, days=days)
        house.budget.charge(asked(), SETTINGS, 5000)
        house.clock.advance(365 * DAY - 1)
        with pytest.raises(GateRefused):
            house.budget.charge(asked("run-2"), SETTINGS, 5000)
        house.clock.advance(1)
        if days:
            house.budget.charge(asked("run-2"), SETTINGS, 5000)
            assert [run["counts"] for run in house.budget.report()["runs"]] == [False, True]
        else:
            house.clock.advance(3650 * DAY)
            with pytest.raises(GateRefused):
                house.budget.charge(asked("run-2"), SETTINGS, 5000)


class Stopped(BaseException):
    """The node is killed here."""


@pytest.mark.parametrize("place", ["before the leaf", "after the leaf"])
def test_a_node_killed_while_it_charges_has_spent_and_tells_it_once(house, monkeypatch, place):
    append = house.ledger.append

    def killed(fields, operator=None):
        if place == "after the leaf":
            append(fields, operator)
        raise Stopped

    monkeypatch.setattr(house.ledger, "append", killed)
    with pytest.raises(Stopped):
        house.budget.charge(asked(), SETTINGS, 5000)
    house.restart()
    assert house.budget.report()["left_thousandths"] == 6000
    assert house.budget.charge(asked(), SETTINGS, 5000) == SETTINGS
    assert len(house.leaves()) == 1


def test_many_runs_at_once_spend_no_more_than_the_budget(house):
    done = []

    def charge(number: int) -> None:
        try:
            PrivacyBudget(house.store, house.clock, house.limits, house.ledger).charge(
                asked(f"run-{number}"), SETTINGS, 99
            )
            done.append(number)
        except GateRefused:
            pass

    threads = [threading.Thread(target=charge, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == len(house.leaves()) == 4


# ---- trainings of a run


def test_the_same_round_on_the_same_rows_counts_once_however_often_it_is_done(house):
    contract = asked(rounds=2)
    assert [house.budget.begin_training(contract, 1, "aa") for _ in range(5)] == [1] * 5
    house.restart()
    assert house.budget.begin_training(contract, 1, "aa") == 1
    assert house.budget.begin_training(contract, 2, "aa") == 2


def test_other_weights_in_the_same_round_are_another_training_and_one_too_many_is_refused(house):
    """A platform that sends a round again with other weights would have free answers otherwise."""
    contract = asked(rounds=2)
    house.budget.begin_training(contract, 1, "aa")
    house.budget.begin_training(contract, 1, "bb")
    with pytest.raises(GateRefused, match=r"charged for 2 trainings.*DP02.*nothing was trained") as refusal:
        house.budget.begin_training(contract, 2, "cc")
    assert refusal.value.rule == "DP02"
    assert house.budget.begin_training(contract, 1, "aa") == 2


def test_the_digest_of_a_training_tells_any_change_of_weights_or_rows():
    rng = np.random.default_rng(1)
    numbers, labels = rng.normal(size=(6, 2)).astype(np.float32), np.array([0, 1, 0, 1, 0, 1])
    rows = Prepared(numbers, np.zeros((6, 1), dtype=np.int64), labels)
    weights = np.ones(3, dtype=np.float32)
    named = [Prepared(numbers, rows.categories, labels, np.arange(6)), Prepared(numbers, rows.categories, 1 - labels)]
    digests = {
        training_digest(weights, one)
        for one in (rows, rows.take([0, 1, 2, 3, 4]), rows.take([1, 0, 2, 3, 4, 5]), *named)
    }
    assert len(digests | {training_digest(weights * 2, rows)}) == 6
    assert training_digest(weights.copy(), rows.take(np.arange(6))) == training_digest(weights, rows)


# ---- what an operator sees


def node_file(house: House) -> Path:
    path = house.folder / "bank.toml"
    path.write_text(
        'role = "bank"\noperator = "wang"\nidentity = "id"\nstate = "."\nplatform_address = "127.0.0.1:7443"\n'
        '[data]\ntable = "t.csv"\nid = "uscc"\nlabel = "bad"\n[privacy]\nepsilon_thousandths = 3000\n'
    )
    return path


def test_the_command_shows_budget_runs_and_what_is_left(house, capsys):
    house.budget.charge(asked(), SETTINGS, 5000)
    house.store.put_run(
        "open-run", "finished", canonical.encode({"record": dict(asked("open-run", 0).record), "signatures": []})
    )
    path = str(node_file(house))
    assert cli.run(["bank", "privacy", path, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["budget"] == {"epsilon_thousandths": 3000, "delta_exponent": 5, "days": 0}
    assert [(run["run"], run["unit"], run["rows"]) for run in shown["runs"]] == [("run-1", "record", 5000)]
    assert (shown["left_thousandths"], shown["left_delta_e12"], shown["without_privacy"]) == (
        1000,
        9_000_000,
        ["open-run"],
    )
    assert cli.run(["bank", "privacy", path]) == 0
    said = capsys.readouterr().out
    assert "run-1: epsilon 2" in said and "left: epsilon 1" in said and "without privacy: open-run" in said


def test_the_command_before_the_first_start_says_so(tmp_path, capsys):
    house = House(tmp_path)
    path = node_file(house)
    house.store.close()
    (tmp_path / "store.sqlite").unlink()
    assert cli.run(["bank", "privacy", str(path)]) == 2
    assert "start the node once" in capsys.readouterr().err
