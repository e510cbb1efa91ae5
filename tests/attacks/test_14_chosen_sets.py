"""Row 14 in networks: a platform that chooses who is summed and what each bank is asked, for one bank's value.

Each attack leads true sums to their end and reads the victim's value off the totals once the one defence is taken away.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import network_world
import numpy as np
import pytest
import worlds
from flwr.app import Context, Message, Metadata, RecordDict
from sums_grid import Bank, contract_for, key_of, piped
from sums_world import names_of
from torture import ONLY

from lianxin.federation import apps, grid, secure_sum_request, sum_mod
from lianxin.federation.errors import PeerError, RunStopped
from lianxin.federation.federated import JUDGE, TRAIN, NetworkStrategy, Question
from lianxin.federation.network_terms import can_go_on, groups_in, groups_of, least_of
from lianxin.federation.secure_sum import PlatformSum, SumCheated, SumTerms
from lianxin.federation.secure_sum_request import (
    AGREE,
    KEYS,
    OPEN,
    SHARES,
    SumRequest,
    boxes_from_text,
    boxes_to_text,
    terms_for,
    vector_of,
)
from lianxin.federation.sum_mod import Summed, secure_sum_mod

LENGTH, VICTIM = 4, "bank-01"
COUNT = "query.firsta"
WEIGHTS = {"weights": np.arange(3, dtype=np.float32)}


class World:
    """Banks behind their mods and a platform that says what it likes: `value` is what a bank gives for what it is asked."""

    def __init__(self, banks: int, **terms: Any) -> None:
        contract = contract_for(banks, **terms)
        self.contract, self.names = contract, names_of(banks)
        self.banks = {name: Bank(name, contract, key_of(name), np.zeros(0)) for name in self.names}
        self.mods = {name: secure_sum_mod(bank.make_sum, bank.memory, contract) for name, bank in self.banks.items()}

    def value(self, bank: str, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
        weight = int(np.sum(arrays["weights"])) if "weights" in arrays else 1
        return np.full(LENGTH, (1 + self.names.index(bank)) * 1000 * weight, dtype=np.int64)

    def say(self, bank: str, kind: str, turn: int, arrays: Mapping[str, np.ndarray], texts: Mapping[str, str]) -> Any:
        metadata = Metadata(1, "m", 0, 1, "", str(turn), 0.0, 1e6, kind)
        content = apps.record_of(dict(arrays), {}, dict(texts))
        message = Message(content=content, metadata=metadata)  # type: ignore[call-overload]
        context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config={})
        return apps.parts_of(self.mods[bank](message, context, lambda m, _c: self.answer(bank, m)).content)

    def answer(self, bank: str, message: Message) -> Message:
        value = self.value(bank, apps.parts_of(message.content)[0])
        return Message(content=apps.record_of({"summand": value}, {}, {}), reply_to=message)

    def whole(
        self, kind: str, turn: int, banks: Sequence[str], attempt: int = 0, texts: Mapping[str, str] | None = None,
        arrays: Mapping[str, Mapping[str, np.ndarray]] | None = None,
    ) -> list[int]:  # fmt: skip
        """Lead a sum through all stages; return the total. `arrays` may differ from bank to bank."""
        made = SumRequest(f"{kind}/{turn}/{attempt}/0", tuple(sorted(banks)), 0, 64, LENGTH)
        total = _Careless(terms_for(self.contract, made))
        named, told = {"sum": made.to_text()}, arrays or {}
        said = {bank: self.say(bank, KEYS, turn, {}, named) for bank in banks}
        keys = {**named, "sum_keys": json.dumps(total.keys({bank: s[2]["sum_key"] for bank, s in said.items()}))}
        said = {bank: self.say(bank, SHARES, turn, {}, keys) for bank in banks}
        boxes = total.boxes({bank: boxes_from_text(s[2]["sum_shares"]) for bank, s in said.items()})
        said = {
            bank: self.say(
                bank,
                kind,
                turn,
                told.get(bank, {}),
                {**named, **(texts or {}), "sum_boxes": boxes_to_text(boxes[bank])},
            )
            for bank in banks
        }
        masked = total.masked({bank: vector_of(s[0]["masked"], 64) for bank, s in said.items()})
        received = {**named, "sum_received": json.dumps(masked)}
        said = {bank: self.say(bank, AGREE, turn, {}, received) for bank in banks}
        sets = {**named, "sum_sets": json.dumps(total.sets({bank: s[2]["sum_set"] for bank, s in said.items()}))}
        said = {bank: self.say(bank, OPEN, turn, {}, sets) for bank in banks}
        opened = total.total({bank: s[2]["sum_opening"].encode() for bank, s in said.items()})
        return np.asarray(opened).view(np.int64).tolist()


class _Careless(PlatformSum):
    """A platform that passes on whatever sets the banks sign."""

    def sets(self, replies: Mapping[str, str]) -> list[str]:
        return list(replies.values())


def rule_of(call: Any) -> str:
    with pytest.raises(PeerError) as refused:
        call()
    return refused.value.rule


def true_value(world: World, arrays: Mapping[str, np.ndarray]) -> list[int]:
    return world.value("bank-05", arrays).tolist()


def difference(more: Sequence[int], less: Sequence[int]) -> list[int]:
    return [a - b for a, b in zip(more, less, strict=True)]


# ---- sets


def test_a_bank_that_one_sum_went_without_is_in_none_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def attack() -> tuple[World, list[int]]:
        world = World(5, rounds=5)
        less = world.whole(TRAIN, 1, world.names[:4], arrays=dict.fromkeys(world.names, WEIGHTS))
        near = {"weights": WEIGHTS["weights"] + np.float32(1e-6)}
        more = world.whole(TRAIN, 2, world.names, arrays=dict.fromkeys(world.names, near))
        return world, difference(more, less)

    assert rule_of(attack) == "SS01"
    monkeypatch.setattr(sum_mod, "gone_with", lambda _contract, _request, gone: gone)
    world, found = attack()
    assert found == true_value(world, WEIGHTS)


def test_under_a_contract_that_stops_without_a_bank_no_set_shrinks(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(5, on_loss="stop")
    assert rule_of(lambda: world.whole(TRAIN, 1, world.names[:4])) == "SS01"
    monkeypatch.setattr(secure_sum_request, "least_of", lambda _contract, _banks: 4)
    assert world.whole(TRAIN, 1, world.names[:4])[0] == 10_000


@pytest.mark.parametrize("kind", [TRAIN, JUDGE])
def test_the_same_weights_are_opened_over_one_set_in_whatever_round(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def attack() -> tuple[World, list[int]]:
        world = World(5, rounds=5)
        arrays = dict.fromkeys(world.names, WEIGHTS)
        more = world.whole(kind, 1, world.names, arrays=arrays)
        return world, difference(more, world.whole(kind, 2, world.names[:4], arrays=arrays))

    assert rule_of(attack) == "SS08"
    monkeypatch.setattr(sum_mod, "content_of", lambda *_: "")
    world, found = attack()
    assert found == true_value(world, WEIGHTS)


def test_the_same_counts_under_another_name_are_opened_over_one_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def attack() -> tuple[World, list[int]]:
        world, texts = World(5), {"categories": "age"}
        more = world.whole(COUNT, 0, world.names, texts=texts)
        return world, difference(more, world.whole("query.firstb", 0, world.names[:4], texts=texts))

    assert rule_of(attack) == "SS08"
    monkeypatch.setattr(sum_mod, "content_of", lambda *_: "")
    world, found = attack()
    assert found == true_value(world, {})


def test_other_weights_may_be_asked_without_a_bank_that_was_lost_and_the_same_of_the_same_banks() -> None:
    world = World(5, rounds=5)
    first = world.whole(TRAIN, 1, world.names, arrays=dict.fromkeys(world.names, WEIGHTS))
    assert world.whole(TRAIN, 2, world.names, arrays=dict.fromkeys(world.names, WEIGHTS)) == first  # taken back
    other = {"weights": np.ones(3, dtype=np.float32)}
    assert world.whole(TRAIN, 3, world.names[:4], arrays=dict.fromkeys(world.names, other))[0] == 30_000


# ---- how few


def test_who_names_the_banks_does_not_lower_the_threshold(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(10)
    assert least_of(world.contract, world.contract.banks) == 7
    assert rule_of(lambda: world.whole(TRAIN, 1, world.names[:3])) == "SS01"
    monkeypatch.setattr(secure_sum_request, "least_of", lambda _contract, _banks: 3)
    colluders = sum(int(world.value(bank, {})[0]) for bank in world.names[1:3])
    assert world.whole(TRAIN, 1, world.names[:3])[0] - colluders == int(world.value(VICTIM, {})[0])


@pytest.mark.parametrize(
    ("banks", "terms", "least"),
    [(3, {}, 3), (4, {}, 3), (10, {}, 7), (10, {"min_banks": 9}, 9), (10, {"on_loss": "stop"}, 10), (12, {}, 9)],
)
def test_the_floor_of_a_run_is_the_threshold_of_all_its_banks(banks: int, terms: dict[str, Any], least: int) -> None:
    contract = contract_for(banks, **terms)
    request = SumRequest("train/1/0/0", contract.banks, 0, 64, LENGTH)
    assert least_of(contract, contract.banks) == terms_for(contract, request).threshold == least
    assert can_go_on(contract, contract.banks[:least]) and not can_go_on(contract, contract.banks[: least - 1])


# ---- questions


def test_banks_that_are_asked_different_things_open_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def attack() -> tuple[World, list[int]]:
        world, dead = World(3), {"weights": np.zeros(3, dtype=np.float32)}
        return world, world.whole(TRAIN, 1, world.names, arrays={**dict.fromkeys(world.names, dead), VICTIM: WEIGHTS})

    assert rule_of(attack) == "SS07"
    monkeypatch.setattr(sum_mod, "question_of", lambda *_: "")
    world, found = attack()
    assert found == world.value(VICTIM, WEIGHTS).tolist()


ASKED: dict[str, tuple[Any, ...]] = {
    "kind": (JUDGE, 1, WEIGHTS, {"stands": 1}, {"phase": "a"}),
    "round": (TRAIN, 2, WEIGHTS, {"stands": 1}, {"phase": "a"}),
    "a number": (TRAIN, 1, WEIGHTS, {"stands": 0}, {"phase": "a"}),
    "a text": (TRAIN, 1, WEIGHTS, {"stands": 1}, {"phase": "b"}),
    "a type": (TRAIN, 1, {"weights": WEIGHTS["weights"].view(np.int32)}, {"stands": 1}, {"phase": "a"}),
    "a shape": (TRAIN, 1, {"weights": WEIGHTS["weights"].reshape(3, 1)}, {"stands": 1}, {"phase": "a"}),
    "a name": (TRAIN, 1, {"others": WEIGHTS["weights"]}, {"stands": 1}, {"phase": "a"}),
}


@pytest.mark.parametrize("what", ASKED)
def test_a_question_is_bound_by_every_part_of_it_but_the_sums_own(what: str) -> None:
    plain = secure_sum_request.question_of(TRAIN, 1, WEIGHTS, {"stands": 1}, {"phase": "a"})
    own = {"phase": "a", "sum": "x", "sum_boxes": "y"}
    assert secure_sum_request.question_of(TRAIN, 1, WEIGHTS, {"stands": 1}, own) == plain
    assert secure_sum_request.question_of(*ASKED[what]) != plain


def test_a_platform_names_the_bank_that_signs_another_question() -> None:
    world = World(4)
    made = SumRequest("train/1/0/0", world.names, 0, 64, LENGTH)
    banks = {name: bank.make_sum(made) for name, bank in world.banks.items()}
    led = PlatformSum(terms_for(world.contract, made), "a" * 64)
    boxes = led.boxes({
        name: bank.share(keys) for keys in [led.keys({n: b.advertise() for n, b in banks.items()})]
        for name, bank in banks.items()
    })  # fmt: skip
    zeros = np.zeros(LENGTH, dtype=np.uint64)
    asked = {**dict.fromkeys(world.names, "a" * 64), "bank-02": "b" * 64}
    masked = led.masked({name: bank.mask(boxes[name], zeros, asked[name]) for name, bank in banks.items()})
    signed = {name: bank.agree(masked) for name, bank in banks.items()}
    with pytest.raises(SumCheated) as named:
        led.sets(signed)
    assert (named.value.party, named.value.rule) == ("bank-02", "SS07")


# ---- what leaves without a sum


@pytest.mark.parametrize("is_checked", [True, False])
def test_no_summand_crosses_a_banks_session_under_a_secret_contract(
    is_checked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    contract = contract_for(3)
    banks = [Bank(name, contract, key_of(name), np.ones(LENGTH, dtype=np.int64)) for name in names_of(3)]
    monkeypatch.setattr(sum_mod, "adds_in_secret", lambda _contract: False)  # as if the mod were left out by mistake
    if not is_checked:
        monkeypatch.setattr(grid, "adds_in_secret", lambda _contract: False)
    with piped(banks) as road:
        asked = road.create_message(apps.record_of({}, {}, {"note": "go"}), TRAIN, 1, "1")
        (reply,) = road.send_and_receive([asked])
        assert reply.has_error() is is_checked
    if is_checked:
        assert isinstance(banks[0].failure, PeerError) and banks[0].failure.rule == "SS01"
    else:
        assert apps.parts_of(reply.content)[0]["summand"].tolist() == [1] * LENGTH


# ---- groups


def test_groups_are_one_partition_of_a_run_and_every_bank_is_in_one() -> None:
    contract = contract_for(13, groups=4)
    groups = groups_in(contract)
    assert sorted(bank for group in groups for bank in group) == list(contract.banks)
    assert {len(group) for group in groups} == {3, 4}
    assert groups == groups_in(contract_for(13, groups=4, aggregation="clear"))
    assert len({groups_of(contract.banks, 4, salt) for salt in "abcdefgh"}) > 1


def test_training_is_summed_in_groups_and_everything_else_over_all_banks() -> None:
    contract = contract_for(12, groups=4)
    group, other = groups_in(contract)[:2]
    assert terms_for(contract, SumRequest("train/1/0/0", group, 0, 64, LENGTH)).threshold == 3
    for banks in (contract.banks, (*group[:2], other[0])):
        assert (
            rule_of(lambda banks=banks: terms_for(contract, SumRequest("train/1/0/0", banks, 0, 64, LENGTH))) == "SS01"
        )
    for kind in (JUDGE, COUNT):
        terms = terms_for(contract, SumRequest(f"{kind}/1/0/0", contract.banks, 0, 64, LENGTH))
        assert isinstance(terms, SumTerms) and terms.threshold == 9


@ONLY
@pytest.mark.slow
def test_a_run_of_twelve_banks_in_four_groups_ends_with_one_model(tmp_path: Path) -> None:
    tables = network_world.tables_of(tmp_path / "tables", banks=12, rows=260)
    terms = {"rounds": 2, "groups": 4, "strategy": "fedmedian", "personalisation": "none", "local_epochs": 1}
    world = worlds.run(network_world.lay(tmp_path / "run", tables, **terms))
    kept = {
        json.loads((world.layout.run_state(party) / "model.json").read_text())["model_sha256"]
        for party in (world.platform, *world.banks)
    }
    assert len(kept) == 1
    for bank in world.banks:
        asked = {one["label"].split("/")[0]: len(one["asked"]) for one in world.leaves(bank, "secure-sum")}
        assert asked[TRAIN] == 3 and {asked[kind] for kind in asked if kind != TRAIN} == {12}


@pytest.mark.slow
def test_first_weights_do_not_depend_on_how_a_run_adds_up(tmp_path: Path) -> None:
    tables, digests = network_world.tables_of(tmp_path / "tables", rows=300), set[str]()
    for aggregation in ("secret", "clear"):
        terms = {"model": "mlp", "rounds": 1, "personalisation": "none", "aggregation": aggregation}
        world = worlds.run(network_world.lay(tmp_path / aggregation, tables, **terms))
        digests.add(json.loads((world.layout.run_state(world.platform) / "model.json").read_text())["model_sha256"])
    assert len(digests) == 1


# ---- a bank that breaks the protocol


class Steps:
    """The platform's part of one question, which keeps what it is told."""

    first_attempt = 0

    def __init__(self) -> None:
        self.lost: list[str] = []

    def drop_round(self, lost: Sequence[str]) -> None:
        self.lost += lost


def led_past(fault: SumCheated, **terms: Any) -> tuple[list[str], list[list[str]]]:
    """Lead one question of four banks whose first attempt ends in `fault`; return (the lost, who was asked in turn)."""
    road = grid.PartyGrid(dict.fromkeys(names_of(4)), 0.0)  # type: ignore[arg-type]
    steps, asked, faults = Steps(), list[list[str]](), [fault]

    class Leader:
        def run(self, _ask: Any, _kind: str, _turn: int, _attempt: int, groups: Any, *_rest: Any, **_more: Any) -> Any:
            asked.extend(list(group) for group in groups)
            if faults:
                raise faults.pop()
            return {}

    strategy = NetworkStrategy(contract_for(4, **terms), steps, Leader())  # type: ignore[arg-type]
    strategy._banks = dict(road.banks)
    strategy._sum(road, Question(TRAIN, 1, LENGTH))
    return steps.lost, asked


def test_a_bank_that_is_named_in_a_sum_is_left_out_and_the_others_go_on() -> None:
    lost, asked = led_past(SumCheated("SS05", "sent no vector", "bank-02"))
    assert lost == ["bank-02"] and asked == [list(names_of(4)), ["bank-01", "bank-03", "bank-04"]]


STOPS = {
    "by the contract": (SumCheated("SS05", "sent no vector", "bank-02"), {"on_loss": "stop"}, RunStopped),
    "below the floor": (SumCheated("SS05", "sent no vector", "bank-02"), {"min_banks": 4}, RunStopped),
    "nobody is named": (SumCheated("SS07", "showed banks different sets"), {}, SumCheated),
    "one of two did it": (SumCheated("SS04", "and bank-03 differ", "bank-02", sole=False), {}, SumCheated),
}


@pytest.mark.parametrize("case", STOPS)
def test_a_fault_in_a_sum_stops_the_run(case: str) -> None:
    fault, terms, kind = STOPS[case]
    with pytest.raises(kind):
        led_past(fault, **terms)


def test_a_platform_does_not_ask_the_same_of_fewer_banks_after_a_round_that_was_taken_back() -> None:
    road = grid.PartyGrid(dict.fromkeys(names_of(4)), 0.0)  # type: ignore[arg-type]
    given = [Summed(np.zeros(LENGTH, dtype=np.uint64), names_of(4), {})]

    class Leader:
        def run(self, *_asked: Any, **_more: Any) -> Any:
            return {0: given[0]}

    strategy = NetworkStrategy(contract_for(4), Steps(), Leader())  # type: ignore[arg-type]
    strategy._banks = dict(road.banks)
    for turn in (1, 2):
        strategy._sum(road, Question(TRAIN, turn, LENGTH, arrays=WEIGHTS))
    road.lost["bank-04"] = PeerError("gone", "L01")
    with pytest.raises(RunStopped, match="the same of fewer banks"):
        strategy._sum(road, Question(TRAIN, 3, LENGTH, arrays=WEIGHTS))
