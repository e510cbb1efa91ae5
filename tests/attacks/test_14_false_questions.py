"""Attack 14, false questions: a platform that asks one bank of a network what the protocol never asks.

Weights made to single a row out, judged again and again, or evaluated in any round; a preparation whose categories are
exact values of one row; counts in a later round, after a firm withdrew. Each attack works once its mend is taken out. And a
bank that lies: its huge update costs a round, not the run.
"""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import network_world
import numpy as np
import pytest
import worlds
from conversations import contract_of, fields_of

from lianxin.crypto import canonical
from lianxin.crypto.randomness import Drbg
from lianxin.federation import rollback
from lianxin.federation.errors import GateRefused, PeerError, RunStopped
from lianxin.parties import bank_fields, bank_network, platform_network, training
from lianxin.parties.bank_weights import WeightsTaken
from lianxin.parties.network_answers import sum_fault
from lianxin.parties.preparation import SCORE_ONE, NumberField, Preparation, TextField
from lianxin.parties.records import LoanTable

BANKS = ["bank-1", "bank-2", "bank-3"]
FIELDS = ["g0", "g1", "g2", "g3"]
ROWS, SECRET_ROW = 300, 7
NUMBERS = tuple(NumberField(name, (0.0, 1.0), (-SCORE_ONE, SCORE_ONE), False) for name in FIELDS[:3])
AGREED = Preparation(NUMBERS, (TextField("g3", ("north", "south")),))


class Bank(bank_network.BankNetwork):
    """A bank whose gate lets all firms through but those of `gone`, and of which every statistic is noted."""

    def __init__(self, **terms: Any) -> None:
        columns = {f"g{k}": [float((row * (k + 3)) % 101) / 100 for row in range(ROWS)] for k in range(3)}
        columns["g3"] = [("north", "south")[row % 2] for row in range(ROWS)]
        columns["g3"][SECRET_ROW] = "the one firm on the island"
        labels = [int(row % 3 == 0) for row in range(ROWS)]
        split = ["test" if row % 5 == 4 else "train" for row in range(ROWS)]
        table = LoanTable([f"firm {row}" for row in range(ROWS)], labels, split, columns)
        self.said: list[str] = []
        node = SimpleNamespace(
            party="bank-1", executor=None, say=lambda what, *_run: self.said.append(what), run_drbg=lambda _: Drbg(bytes(32)),
            take_revocations=lambda *_: None,
            boundary=SimpleNamespace(to_leave_out=lambda *_: frozenset(), subject_key=str),
        )  # fmt: skip
        super().__init__(node, contract_of_banks(**terms), table, None)  # type: ignore[arg-type]
        self.gone: set[str] = set()
        self.stated: list[tuple[str, int, bool]] = []
        train = [row for row in range(ROWS) if split[row] == "train"]
        self.training, self.validation, self._is_chosen = train[:180], train[180:], True

    def _ask_gate(self, round_number: int) -> set[str]:
        return set(self.table.identifiers) - self.gone

    def _statistic(self, rows: Any, step: str, round_number: int, readable: bool) -> Any:
        self.stated.append((step, len(rows), readable))

    def agreed(self, preparation: Preparation = AGREED) -> "Bank":
        self.agree({"preparation": canonical.encode(preparation.to_record()).decode()})
        return self

    def shown(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        return {"weights": weights, "preparation": self._ready().preparation.mark}

    def first(self) -> np.ndarray:
        return training.initial(self._ready().spec, bank_network.initial_seed(self.contract))


def contract_of_banks(**terms: Any) -> Any:
    fields = [f for f in fields_of(BANKS) if f["provider"] != "platform-a"]
    own = {"model": "logistic", "min_banks": 3, "validation_permille": 200, "rounds": 3, "fields": fields}
    return contract_of(3, **{**own, **terms})


def refused(rule: str, ask: Callable[[], Any]) -> None:
    with pytest.raises(PeerError) as found:
        ask()
    assert found.value.rule == rule


def begun(**terms: Any) -> tuple[Bank, np.ndarray]:
    """Return a bank that has judged the first weights and trained in round 1, and these weights."""
    bank = Bank(**terms).agreed()
    first = bank.first()
    if bank.taken.is_judged:
        bank.judge(0, bank.shown(first), {})
    bank.train_round(1, bank.shown(first), {"stands": 1})
    return bank, first


# ---- weights


def bisected(bank: Bank, probes: int = 18) -> float:
    """Return where along a line this bank's own loss crosses what is called worse, by its words alone."""
    low, high, line = 0.0, 8.0, np.ones_like(bank.first())
    for _ in range(probes):
        middle = (low + high) / 2
        is_worse = bank.judge(1, bank.shown((middle * line).astype(np.float32)), {})[1]["verdict"]
        low, high = (low, middle) if is_worse else (middle, high)
    return high


def test_a_bank_judges_one_candidate_a_round_and_says_the_same_again() -> None:
    bank, first = begun()
    candidate = (first + 0.25).astype(np.float32)
    said = bank.judge(1, bank.shown(candidate), {})
    again = bank.judge(1, bank.shown(candidate), {})
    assert said[1] == again[1] and said[0]["summand"].tolist() == again[0]["summand"].tolist()
    refused("NN04", lambda: bisected(bank))
    assert ("query.judge", len(bank.validation), True) in bank.stated  # the word is readable, and gated as such


def test_without_the_memory_of_candidates_words_in_one_round_tell_a_banks_own_loss(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The control: the exact loss of one bank, which only sums should show, by eighteen words."""
    bank, _ = begun()
    monkeypatch.setattr(WeightsTaken, "judge", lambda *_: False)
    crossing = (bisected(bank) * np.ones_like(bank.first())).astype(np.float32)
    held, spec = bank._ready().prepared(bank.validation), bank._ready().spec
    assert training.log_loss(spec, crossing, held) == pytest.approx(1.02 * np.log(2), abs=1e-4)


def test_a_restarted_bank_remembers_what_it_judged() -> None:
    bank, first = begun()
    bank.judge(1, bank.shown(first), {})
    kept = WeightsTaken.from_record(
        canonical.decode(canonical.encode({"type": "kept", "version": 1, "w": bank.taken.to_record()}))["w"]
    )
    assert kept == bank.taken
    with pytest.raises(PeerError, match="second candidate"):
        kept.judge(1, "00" * 32)


@pytest.mark.parametrize("stands", [0, 1])
def test_the_next_round_begins_with_the_candidate_that_stands_or_with_the_weights_of_before(stands: int) -> None:
    bank, first = begun()
    candidate, crafted = (first + 0.1).astype(np.float32), (first + 99).astype(np.float32)
    bank.judge(1, bank.shown(candidate), {})
    right, other = (candidate, first) if stands else (first, candidate)
    for wrong in (crafted, other):
        refused("NN04", lambda wrong=wrong: bank.train_round(2, bank.shown(wrong), {"stands": stands}))
    bank.train_round(2, bank.shown(right), {"stands": stands})
    bank.train_round(2, bank.shown(right), {"stands": stands})  # a round that is run again
    refused("NN04", lambda: bank.train_round(2, bank.shown(crafted), {"stands": stands}))


def test_without_the_check_a_bank_trains_from_weights_made_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: crafted weights are trained from, and what comes back is their update."""
    bank, first = begun()
    monkeypatch.setattr(WeightsTaken, "settle", lambda *_: None)
    assert bank.train_round(2, bank.shown((first + 99).astype(np.float32)), {"stands": 1})[0]["summand"].any()


def test_the_first_weights_are_the_contracts_whether_rounds_are_judged_or_not() -> None:
    judged, other = Bank().agreed(), Bank(max_loss_rise_permille=0).agreed()
    crafted = (judged.first() + 1).astype(np.float32)
    refused("NN04", lambda: judged.judge(0, judged.shown(crafted), {}))
    refused("NN04", lambda: judged.train_round(1, judged.shown(judged.first()), {"stands": 1}))  # not judged before
    refused("NN04", lambda: other.train_round(1, other.shown(crafted), {"stands": 1}))
    other.train_round(1, other.shown(other.first()), {"stands": 1})
    other.train_round(2, other.shown(crafted), {"stands": 1})
    refused("NN04", lambda: other.train_round(2, other.shown(other.first()), {"stands": 1}))
    refused("NN04", lambda: other.judge(2, other.shown(crafted), {}))


def test_a_question_comes_in_its_own_rounds_alone() -> None:
    bank = Bank()
    for kind, number in (("evaluate", 3), ("evaluate", 0), ("train", 0), ("train", 4), ("query.judge", 4),
                         ("query.firsta", 1), ("query.agree", 1), ("query.prepare", 2)):  # fmt: skip
        refused("S05", lambda kind=kind, number=number: bank.turn(kind, number))
    for kind, number in (("query.firsta", 0), ("query.sumopen", 0), ("query.judge", 0), ("train", 1), ("evaluate", 4)):
        bank.turn(kind, number)


def evaluated(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> tuple[Callable[[Any], Any], np.ndarray]:
    """Return how to ask a bank after its last round, where `_metrics` counts what it is asked, and the weights that stand."""
    figures = iter(range(700_000, 800_000))
    monkeypatch.setattr(bank, "_metrics", lambda: {"auc_federated": next(figures)})
    monkeypatch.setattr(bank, "_finish", lambda _: setattr(bank, "finished", True))
    bank.taken.settled, bank.taken.judged_in, bank.taken.candidate = 3, 3, bank.taken.standing
    return lambda weights: bank.compare(bank.shown(weights), {"stands": 1})[1]["auc_federated"], bank.first()


def test_figures_are_said_once_of_the_weights_that_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    ask, first = evaluated(begun()[0], monkeypatch)
    assert [ask(first), ask(first)] == [700_000, 700_000]
    refused("NN04", lambda: ask((first + 1).astype(np.float32)))


def test_without_the_check_figures_are_said_of_any_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    ask, first = evaluated(begun()[0], monkeypatch)
    monkeypatch.setattr(WeightsTaken, "settle", lambda *_: None)
    assert ask((first + 1).astype(np.float32))


def test_figures_of_models_that_were_trained_without_noise_stay_where_privacy_is_asked_for() -> None:
    assert Bank().models == ("local", "federated", "personalised")
    assert Bank(epsilon_thousandths=4000).models == ("federated",)


# ---- preparation


def test_a_preparation_treats_each_field_as_the_bank_said() -> None:
    values = TextField("g0", ("0.21", "0.24"))
    refused("NN02", lambda: Bank().agreed(Preparation(NUMBERS[1:], (values, AGREED.texts[0]))))
    number = NumberField("g3", (0.0, 1.0), (-SCORE_ONE, SCORE_ONE), False)
    refused("NN02", lambda: Bank().agreed(Preparation((*NUMBERS, number), ())))


def of_the_island(bank: Bank) -> np.ndarray:
    """Return the place of the one firm's text when the platform's list names it."""
    island = TextField("g3", tuple(sorted(["north", bank.columns["g3"][SECRET_ROW]])))
    return bank.agreed(Preparation(NUMBERS, (island,)))._ready().prepared([SECRET_ROW, 0]).categories.ravel()


def test_a_text_of_too_few_own_firms_is_other_whatever_list_came() -> None:
    assert of_the_island(Bank()).tolist() == [0, 2]


def test_without_the_own_count_a_category_is_a_single_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bank_network, "without_rare", lambda columns, _: columns)
    assert of_the_island(Bank()).tolist() == [3, 2]


def test_a_list_cannot_name_what_stands_for_the_others() -> None:
    refused("NN02", lambda: Bank().agreed(Preparation(NUMBERS, (TextField("g3", (bank_fields._OTHER,)),))))


def test_a_round_under_another_preparation_is_refused() -> None:
    bank, first = begun()
    other = Preparation(NUMBERS, (TextField("g3", ("north",)),))
    refused("NN02", lambda: bank.judge(1, {"weights": first, "preparation": other.mark}, {}))
    assert other.mark.tolist() != AGREED.mark.tolist()


# ---- counts


def ask_counts(bank: Bank, fields: list[str], part: int = 0) -> int:
    texts = {"categories": canonical.encode({"type": "told", "version": 1, "fields": fields}).decode()}
    return int(bank.count("first", part, {}, texts)[0]["summand"].sum())


def test_counts_are_of_the_rows_that_the_gate_lets_through_and_said_once() -> None:
    bank = Bank()
    bank.gone = {bank.table.identifiers[row] for row in bank.training[:30]}
    assert ask_counts(bank, ["g0", "g1"]) == 2 * 150 == ask_counts(bank, ["g0", "g1"])
    refused("S05", lambda: ask_counts(bank, ["g0"]))
    refused("S05", lambda: ask_counts(bank, ["g0", "g1"], 1))
    assert ask_counts(bank, ["g2"], 1) == 150
    bank.agreed()
    refused("S05", lambda: ask_counts(bank, ["g2"], 1))


def test_without_the_memory_a_field_is_counted_beside_others_and_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bank_fields.FieldCounts, "grids", lambda *given: [bank_fields.FIRST_GRID] * len(given[3]))
    bank = Bank()
    assert ask_counts(bank, ["g0", "g1"]) - ask_counts(bank, ["g1"]) == len(bank.training)


# ---- privacy


def test_without_the_budgets_charge_no_round_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    class Spent:
        def charge(self, *_given: Any) -> Any:
            raise GateRefused("nothing is left", "DP01")

    bank = Bank(epsilon_thousandths=4000)
    monkeypatch.setattr(bank_network, "plan_privacy", lambda *_: "settings")
    monkeypatch.setattr(bank, "_budget", Spent)
    with pytest.raises(GateRefused):
        bank.agreed()
    refused("S05", lambda: bank.train_round(1, {}, {"stands": 1}))
    bank._prepare(AGREED)  # in the order of before: rows first, and the charge refused after it
    refused("S05", lambda: bank.train_round(1, {}, {"stands": 1}))


# ---- a bank that lies, and banks that are small


def test_losses_beyond_all_bounds_are_bounded_and_worse() -> None:
    terms, most = contract_of_banks(), rollback.MOST_NATS << rollback.LOSS_BITS
    assert [rollback.summed_loss(x, 10) for x in (np.inf, np.nan, 1e300, 129.0)] == [10 * most] * 4
    assert rollback.says_worse(7 << rollback.LOSS_BITS, 10 * most, 10, 10, terms)
    with pytest.raises(OverflowError):  # the control: as it was reckoned before
        round(np.inf * (1 << rollback.LOSS_BITS) * 10)


@pytest.mark.parametrize("norm", [9.9, 10.1])
def test_an_average_beyond_every_banks_bound_is_no_average_of_theirs(norm: float) -> None:
    step = round(norm * 300 * 2**24 / 2)
    total = np.array([300, 0, step, step, step, step], dtype=np.int64)
    assert bool(sum_fault(contract_of_banks(), total, 3)) is (norm > 10)


def test_a_liars_huge_update_costs_a_round_and_not_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train = bank_network.BankNetwork.train_round

    def huge(self: Any, round_number: int, *given: Any) -> Any:
        reply = train(self, round_number, *given)
        if self.node.party == "bank-3" and round_number == 1:
            reply[0]["summand"][2:] = 1 << 60
        return reply

    monkeypatch.setattr(bank_network.BankNetwork, "train_round", huge)
    tables = network_world.tables_of(tmp_path / "tables", rows=400)
    layout = network_world.lay(tmp_path / "run", tables, rounds=2, local_epochs=1)
    worlds.run(layout)
    model = json.loads((layout.run_state(layout.parties[0]) / "model.json").read_text())
    assert model["rolled_back"] == [1] and "rule NN03" in model["curve"][1]["reason"] and model["curve"][2]["accepted"]


def described(judges: list[bool]) -> dict[str, Any]:
    fields = [{"field": name, "kind": "number", "texts": []} for name in FIELDS]
    said = [json.dumps({"fields": fields, "judges": one}) for one in judges]
    return {bank: ({}, {}, {"categories": text}) for bank, text in zip(BANKS, said, strict=True)}


def test_a_run_that_no_bank_can_judge_is_refused_before_anything_is_spent() -> None:
    handed = SimpleNamespace(aggregate=lambda *_given, **_more: None)
    node = SimpleNamespace(party="platform-a", boundary=handed, say=lambda *_what, **_how: None)
    work = platform_network.PlatformNetwork(node, contract_of_banks())  # type: ignore[arg-type]
    questions = work.preparing()
    with pytest.raises(RunStopped, match=r"no bank can judge rounds: none holds back 50 firms.*max_loss_rise_permille"):
        work.answered(next(questions), described([False] * 3))
    work.answered(next(work.preparing()), described([False, True, False]))  # one bank's word is enough to go on


def test_a_bank_too_small_to_judge_says_so_with_what_it_has_and_needs() -> None:
    bank = Bank()
    assert bank._can_judge() and not bank.said
    bank.validation = bank.validation[:9]
    assert not bank._can_judge()
    assert (
        "bank-1 has no word on rounds: it holds back 9 firms" in bank.said[0] and "asks for 50, 5 and 5" in bank.said[0]
    )
