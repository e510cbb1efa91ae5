"""The same sums through Flower's messages, in memory and over gRPC: whoever dies where, the total is exact or there is none."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from flwr.app import Context, Message, Metadata, RecordDict
from sums_grid import Bank, asker, contract_for, key_of, lead, network_of, over_grpc, piped
from sums_world import names_of

from lianxin.federation import apps
from lianxin.federation.errors import PeerError, RunStopped
from lianxin.federation.grid import LocalGrid, PartyGrid
from lianxin.federation.network_terms import groups_in
from lianxin.federation.secure_sum import SumBelowThreshold, SumCheated, from_ring
from lianxin.federation.secure_sum_leader import _Led, _Stages
from lianxin.federation.sum_mod import SumLeader, SumRequest, SumsInMemory, secure_sum_mod, terms_for

KINDS = ("query.sumkeys", "query.sumshares", "train", "query.sumagree", "query.sumopen")
LENGTH = 7


def value_of(number: int) -> np.ndarray:
    return np.array([-number, number * 2**40, *range(number, number + LENGTH - 2)], dtype=np.int64)


def banks_of(banks: int, dies: dict[str, str] | None = None, **terms: Any) -> list[Bank]:
    contract = contract_for(banks, **terms)
    values = {name: value_of(number) for number, name in enumerate(names_of(banks), start=1)}
    return [Bank(name, contract, key_of(name), values[name], (dies or {}).get(name, "")) for name in names_of(banks)]


def plain(banks: Sequence[Bank], included: Sequence[str]) -> list[int]:
    return sum(bank.value for bank in banks if bank.name in included).tolist()  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", [LocalGrid, PartyGrid])
def test_the_total_is_the_plain_sum_and_no_bank_sends_its_summand(kind: type[PartyGrid]) -> None:
    banks = banks_of(3)
    with piped(banks, kind) as grid:
        summed = lead(grid, banks[0].contract, LENGTH)[0]
    assert from_ring(summed.total, 64).tolist() == plain(banks, names_of(3))  # type: ignore[union-attr]
    assert summed.contributors == names_of(3)
    for bank in banks:
        arrays, numbers, texts = summed.replies[bank.name]
        assert arrays == {} and numbers == {"rows": 10} and texts == {"note": bank.name}
        assert bank.heard == list(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_bank_that_dies_at_any_stage_in_memory_costs_the_others_nothing(kind: str) -> None:
    banks = banks_of(4, {"bank-02": kind})
    with piped(banks) as grid:
        summed = lead(grid, banks[0].contract, LENGTH)[0]
    assert ("bank-02" in summed.contributors) == (kind in KINDS[3:])
    assert from_ring(summed.total, 64).tolist() == plain(banks, summed.contributors)  # type: ignore[union-attr]


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return network_of(tmp_path_factory.mktemp("network"), 5)


def grpc_banks(network: dict[str, Any], dies: dict[str, str]) -> list[Bank]:
    contract = contract_for(5, {name: known.signing_key.public_hex for name, known in network.items()})
    return [
        Bank(name, contract, network[name].signing_key, value_of(number), dies.get(name, ""))
        for number, name in enumerate(names_of(5), start=1)
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_over_grpc_as_many_banks_as_the_threshold_allows_may_die_at_any_stage(
    network: dict[str, Any], kind: str
) -> None:
    banks = grpc_banks(network, {"bank-04": kind})
    with over_grpc(banks, network) as grid:
        summed = lead(grid, banks[0].contract, LENGTH)[0]
        assert set(grid.lost) == {"bank-04"}
    assert ("bank-04" in summed.contributors) == (kind in KINDS[3:])
    assert from_ring(summed.total, 64).tolist() == plain(banks, summed.contributors)  # type: ignore[union-attr]


def test_over_grpc_one_more_death_leaves_the_sum_closed_and_a_later_attempt_with_the_rest_is_refused(
    network: dict[str, Any],
) -> None:
    banks = grpc_banks(network, {"bank-02": "train", "bank-04": "query.sumagree"})
    with over_grpc(banks, network) as grid:
        with pytest.raises(SumBelowThreshold) as stopped:
            lead(grid, banks[0].contract, LENGTH)
        assert stopped.value.missing == ("bank-04",) and stopped.value.left == 3
    assert all(bank.memory.opened("train/3") is None for bank in banks)


@pytest.mark.parametrize("width", [94, 97, 8])
def test_wide_rings_cross_as_rows_of_bytes(width: int) -> None:
    banks, size = banks_of(3), (width + 7) // 8
    for number, bank in enumerate(banks, start=1):
        rows = [(number * 7**30 % 2**width + at) % 2**width for at in range(LENGTH)]
        bank.value = np.array([list(row.to_bytes(size, "little")) for row in rows], dtype=np.uint8)
    with piped(banks) as grid:
        total = lead(grid, banks[0].contract, LENGTH, width)[0].total
    expected = [sum((k * 7**30 % 2**width + at) % 2**width for k in (1, 2, 3)) % 2**width for at in range(LENGTH)]
    assert list(total) == expected


def test_groups_are_summed_apart_in_the_same_stages() -> None:
    banks = banks_of(12, groups=4, rounds=5)
    names = names_of(12)
    groups = [list(group) for group in groups_in(banks[0].contract)]
    assert sorted(bank for group in groups for bank in group) == list(names)
    with piped(banks) as grid:
        summed = lead(grid, banks[0].contract, LENGTH, groups=groups)
    for number, group in enumerate(groups):
        assert list(summed[number].contributors) == group
        assert from_ring(summed[number].total, 64).tolist() == plain(banks, group)  # type: ignore[union-attr]
    assert all(len(bank.heard) == 5 for bank in banks)


def test_in_clear_the_same_integers_come_out() -> None:
    secret, clear = banks_of(3), banks_of(3, aggregation="clear")
    with piped(secret) as grid:
        total = lead(grid, secret[0].contract, LENGTH)[0].total
    with piped(clear) as grid:
        summed = lead(grid, clear[0].contract, LENGTH)[0]
    assert np.array_equal(summed.total, total) and all(bank.heard == ["train"] for bank in clear)
    assert summed.contributors == names_of(3) and summed.replies["bank-01"][0] == {}


def test_in_clear_too_few_banks_stop_the_round_too() -> None:
    banks = banks_of(3, {"bank-01": "train"}, aggregation="clear")
    with piped(banks) as grid, pytest.raises(SumBelowThreshold):
        lead(grid, banks[0].contract, LENGTH)


# ---- attempts


def test_a_round_whose_sum_was_opened_is_opened_again_only_over_the_same_banks_with_the_same_values() -> None:
    banks = banks_of(4)
    with piped(banks) as grid:
        first = lead(grid, banks[0].contract, LENGTH)[0]
        again = lead(grid, banks[0].contract, LENGTH, attempt=1)[0]
        assert np.array_equal(first.total, again.total)
        banks[3].value = value_of(9)
        with pytest.raises(SumBelowThreshold):
            lead(grid, banks[0].contract, LENGTH, attempt=2)
    assert isinstance(banks[3].failure, PeerError) and banks[3].failure.rule == "SS08"


class OneBank:
    """A bank's mod alone, with messages made by hand: `say` is what a platform that cheats would send."""

    def __init__(self, banks: int = 3) -> None:
        self.banks = {bank.name: bank for bank in banks_of(banks)}
        self.contract = next(iter(self.banks.values())).contract
        self.mods = {
            name: secure_sum_mod(bank.make_sum, bank.memory, bank.contract) for name, bank in self.banks.items()
        }

    def say(self, bank: str, kind: str, round_number: int = 3, **texts: str) -> dict[str, Any]:
        metadata = Metadata(1, "m", 0, 1, "", str(round_number), 0.0, 1e6, kind)
        message = Message(content=apps.record_of({}, {}, texts), metadata=metadata)  # type: ignore[call-overload]
        context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config={})
        reply = self.mods[bank](message, context, lambda m, _c: self.app(bank, m))
        arrays, numbers, said = apps.parts_of(reply.content)
        return {**arrays, **numbers, **said}

    def app(self, bank: str, message: Message) -> Message:
        return Message(content=apps.record_of({"summand": self.banks[bank].value}, {}, {}), reply_to=message)

    def ask(self, kind: str, round_number: int, _numbers: Any, texts: Any) -> Any:
        replies = {}
        for bank, said in texts.items():
            got = self.say(bank, kind, round_number, **said)
            arrays = {name: value for name, value in got.items() if isinstance(value, np.ndarray)}
            replies[bank] = (arrays, {}, {name: value for name, value in got.items() if isinstance(value, str)})
        return replies, []

    def lead(self, attempt: int = 0, group: Sequence[str] | None = None, round_number: int = 3) -> Any:
        groups = [list(group or self.banks)]
        return SumLeader(self.contract).run(self.ask, "train", round_number, attempt, groups, {}, {}, LENGTH)[0]


def rule_of(call: Any) -> str:
    with pytest.raises(PeerError) as refused:
        call()
    return refused.value.rule


def request(**changes: Any) -> str:
    made = SumRequest("train/3/0/0", names_of(3), 0, 64, LENGTH)
    return replace(made, **changes).to_text()


def test_a_label_is_used_once_even_after_a_restart() -> None:
    one = OneBank()
    one.lead()
    assert rule_of(one.lead) == "SS08"
    bank = one.banks["bank-01"]
    one.mods["bank-01"] = secure_sum_mod(bank.make_sum, bank.memory, bank.contract)  # restarted, with what it kept
    assert rule_of(lambda: one.say("bank-01", "query.sumkeys", sum=request())) == "SS08"
    assert one.lead(attempt=1).contributors == names_of(3)


def test_a_second_set_of_one_round_is_opened_by_nobody() -> None:
    one = OneBank(5)
    one.lead()
    assert rule_of(lambda: one.lead(1, names_of(4))) == "SS08"
    assert one.lead(0, names_of(4), round_number=4).contributors == names_of(4)
    assert rule_of(lambda: one.lead(0, round_number=5)) == "SS01"  # bank-05 does not come back


def test_another_group_number_does_not_make_it_another_round() -> None:
    one = OneBank(5)
    one.lead()

    asked = SumRequest("train/3/1/1", names_of(4), 1, 64, LENGTH)
    led = {1: _Led(asked, terms_for(one.contract, asked))}
    assert rule_of(lambda: _Stages(one.ask, 3, led).secretly("train", {}, {})) == "SS08"
    for bank in one.banks.values():
        assert bank.memory.opened("train/3")[0] == names_of(5)  # type: ignore[index]


def test_a_changed_value_does_not_leave_under_the_masks_of_another_attempt() -> None:
    one = OneBank()
    one.lead()
    one.banks["bank-02"].value = value_of(11)
    assert rule_of(lambda: one.lead(1)) == "SS08"


def test_a_stage_of_a_sum_that_was_not_begun_is_refused() -> None:
    one = OneBank()
    for kind in ("query.sumshares", "train", "query.sumagree", "query.sumopen"):
        assert rule_of(lambda kind=kind: one.say("bank-01", kind, sum=request())) == "SS08"


@pytest.mark.parametrize("kind", ["query.sumkeys", "train", "query.judge", "query.firsta", "query.secondh"])
def test_what_is_summed_is_refused_without_a_sum_before_the_app_sees_it(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, heard = OneBank(), list[str]()
    monkeypatch.setattr(one, "app", lambda bank, _message: heard.append(bank))
    assert rule_of(lambda: one.say("bank-01", kind)) == "SS01"
    assert not heard


def test_a_sum_is_of_the_kind_and_round_that_its_label_names() -> None:
    one = OneBank()
    one.say("bank-01", "query.sumkeys", sum=request())
    assert rule_of(lambda: one.say("bank-01", "evaluate", sum=request())) == "SS01"
    assert rule_of(lambda: one.say("bank-01", "train", 4, sum=request())) == "SS01"
    assert rule_of(lambda: one.say("bank-01", "train", sum=request(length=8))) == "SS08"


BAD_REQUESTS = {
    "no JSON": "sum",
    "a list": "[]",
    "not canonical": request() + " ",
    "an entry missing": '{"label":"train/3/0/0"}',
    "a label without an attempt": request(label="train/3/0"),
    "a label of another group": request(group=1),
    "a negative round": request(label="train/-3/0/0"),
    "a width that is a text": json.dumps({**json.loads(request()), "width": "64"}, separators=(",", ":")),
    "two banks": request(banks=names_of(2)),
    "a bank twice": request(banks=("bank-01", "bank-01", "bank-02")),
    "a stranger": request(banks=("bank-01", "bank-02", "bank-99")),
    "no value": request(length=0),
    "no ring": request(width=0),
}


@pytest.mark.parametrize("case", BAD_REQUESTS)
def test_a_request_that_cannot_be_is_refused_and_uses_no_label(case: str) -> None:
    one = OneBank()
    assert rule_of(lambda: one.say("bank-01", "query.sumkeys", sum=BAD_REQUESTS[case])) == "SS01"
    assert one.say("bank-01", "query.sumkeys", sum=request())["sum_key"]


def test_banks_of_different_groups_are_summed_by_nobody() -> None:
    contract = contract_for(12, groups=3)
    mixed = SumRequest("train/3/0/0", names_of(4), 0, 64, LENGTH)
    with pytest.raises(SumCheated) as refused:
        terms_for(contract, mixed)
    assert refused.value.rule == "SS01"


def test_fewer_banks_than_the_contracts_floor_are_summed_by_nobody() -> None:
    contract = contract_for(5, min_banks=4)
    with pytest.raises(SumCheated):
        terms_for(contract, SumRequest("train/3/0/0", names_of(3), 0, 64, LENGTH))
    assert terms_for(contract, SumRequest("train/3/0/0", names_of(4), 0, 64, LENGTH)).threshold == 4


def test_a_star_of_two_banks_is_summed_by_both_or_not_at_all() -> None:
    contract = contract_for(2, model="scorecard", min_banks=2)
    terms = terms_for(contract, SumRequest("train/3/0/0", names_of(2), 0, 94, LENGTH))
    assert terms.threshold == 2
    with pytest.raises(SumCheated):
        terms_for(contract, SumRequest("train/3/0/0", names_of(1), 0, 94, LENGTH))


BAD_SUMMANDS = {
    "fractions": np.zeros(LENGTH),
    "two dimensions": np.zeros((LENGTH, 1), dtype=np.int64),
    "too short": np.zeros(LENGTH - 1, dtype=np.int64),
    "bytes": np.zeros((LENGTH, 8), dtype=np.uint8),
}


@pytest.mark.parametrize("case", BAD_SUMMANDS)
def test_an_app_whose_value_does_not_fit_sends_nothing(case: str) -> None:
    one = OneBank()
    one.banks["bank-02"].value = BAD_SUMMANDS[case]
    with pytest.raises(RunStopped, match="nothing was sent"):
        one.lead()


def test_a_reply_without_what_its_stage_asks_names_its_bank() -> None:
    for kind in KINDS:
        one = OneBank()

        def ask(asked: str, round_number: int, numbers: Any, texts: Any, kind: str = kind, one: OneBank = one) -> Any:
            replies, lost = one.ask(asked, round_number, numbers, texts)
            return ({**replies, "bank-02": ({}, {}, {})} if asked == kind else replies), lost

        with pytest.raises(SumCheated) as refused:
            SumLeader(one.contract).run(ask, "train", 3, 0, [list(names_of(3))], {}, {}, LENGTH)
        assert refused.value.party == "bank-02" and refused.value.rule in ("SS01", "SS05")


def test_a_memory_says_once_that_a_label_is_new() -> None:
    memory = SumsInMemory()
    assert memory.reserve("a") and not memory.reserve("a") and memory.reserve("b")
    memory.note_opened("train/1", ("x", "y"), "d")
    assert memory.opened("train/1") == (("x", "y"), "d") and memory.opened("train/2") is None


def test_a_grid_that_lost_a_bank_is_asked_for_the_others() -> None:
    banks = banks_of(4, {"bank-01": "train"}, aggregation="clear")
    with piped(banks) as grid:
        lead(grid, banks[0].contract, LENGTH)
        replies, lost = asker(grid)("train", 5, {}, {name: {} for name in names_of(4)})
    assert lost == ["bank-01"] and sorted(replies) == ["bank-02", "bank-03", "bank-04"]
