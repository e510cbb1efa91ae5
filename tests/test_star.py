"""The star's sums: the platform opens totals over the banks of a round, and what does not add up is refused."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conversations import contract_of
from flwr.app import Message
from hypothesis import given
from hypothesis import strategies as st

from lianxin.federation import apps, grid, sum_mod
from lianxin.federation.binning import Columns
from lianxin.federation.errors import PeerError, RunStopped
from lianxin.federation.secure_sum import SumBelowThreshold
from lianxin.federation.secure_sum_leader import Summed
from lianxin.federation.secure_sum_request import SUM, SUMMAND, SumRequest, terms_for
from lianxin.federation.star import BankStar, BankTable, PlatformStar, merge_small_bins
from lianxin.parties.bank_scorecard import BankScorecard

BANKS = ["bank-1", "bank-2", "bank-3"]
GOODS, BADS = [60, 40, 30], [10, 20, 30]
MINIMA = (50, 5, 5)


def star_with(rows: int) -> PlatformStar:
    """Return a platform's star of one feature of three bins; each of three banks has `rows` rows."""
    star = PlatformStar(contract_of(3), ["f0"])
    for bank in BANKS:
        codes = tuple(row % 3 for row in range(rows))
        star.tables[bank] = BankTable(list(range(rows)), Columns((codes,), (3,)))
    return star


def test_the_platform_takes_the_sum_of_all_banks() -> None:
    star = star_with(sum(GOODS) + sum(BADS))
    star.open_counts([3 * count for count in (*GOODS, *BADS)])
    (feature,) = star.kept
    assert (list(feature.goods), list(feature.bads)) == ([3 * g for g in GOODS], [3 * b for b in BADS])
    assert star.base_rate == pytest.approx(60 / 190)
    assert sorted(feature.woe) in (list(feature.woe), list(feature.woe)[::-1]) and len(set(feature.woe)) == 3


@pytest.mark.parametrize("total", [[1] * 5, [1] * 7, [2**63] * 6], ids=["short", "long", "still masked"])
def test_what_is_no_total_of_counts_is_refused(total: list[int]) -> None:
    with pytest.raises(PeerError) as refused:
        star_with(190).open_counts(total)
    assert refused.value.rule == "B06"


def test_a_round_of_another_length_or_of_a_bank_without_one_is_refused() -> None:
    star = star_with(190)
    star.open_counts([3 * count for count in (*GOODS, *BADS)])
    for banks, totals, rule in ((BANKS, [0, 0], "B06"), (BANKS, [0], "S05")):
        with pytest.raises(PeerError) as refused:
            star.close_round(banks, totals)
        assert refused.value.rule == rule


def test_no_feature_that_tells_ends_the_run_in_a_sentence() -> None:
    with pytest.raises(RunStopped, match="no platform feature"):
        star_with(60).open_counts([60, 60, 60, 0, 0, 0])


# ---- who a bank adds its values with


def request_of(banks: list[str], width: int, kind: str = "train/2/1/0") -> dict[str, str]:
    return {SUM: SumRequest(kind, tuple(banks), 0, width, 4).to_text()}


def bank_of(banks: int, **terms: Any) -> Any:
    """Return a bank's side of a run, as far as it says which banks its values are added over."""
    contract = contract_of(banks, **terms)
    left = list(contract.banks)
    here = SimpleNamespace(contract=contract, node=SimpleNamespace(party="bank-1"), _banks_left=left)
    here._banks = lambda texts, width: BankScorecard._banks(here, texts, width)
    return here


def test_a_bank_gives_nothing_that_several_banks_add_without_a_sum() -> None:
    with pytest.raises(PeerError) as refused:
        bank_of(3)._banks({}, 94)
    assert refused.value.rule == "L04"
    assert bank_of(1)._banks({}, 94) == ["bank-1"]


def test_a_bank_keeps_to_the_contracts_ring_in_which_totals_wrap() -> None:
    assert bank_of(3)._banks(request_of(BANKS, 94), 94) == BANKS
    for width in (64, 93, 96, 128):
        with pytest.raises(PeerError) as refused:
            bank_of(3)._banks(request_of(BANKS, width), 94)
        assert refused.value.rule == "SS01"


UNFIT = {
    "without this bank": (BANKS[1:], {}),
    "fewer than the contract goes on with": (BANKS[:2], {"min_banks": 3}),
    "without a bank where the run stops": (BANKS[:2], {"on_loss": "stop"}),
    "one bank": (BANKS[:1], {}),
}


@pytest.mark.parametrize("case", UNFIT)
def test_a_bank_refuses_sums_over_banks_that_the_contract_does_not_go_on_with(case: str) -> None:
    banks, terms = UNFIT[case]
    with pytest.raises(PeerError) as refused:
        bank_of(3, **terms)._banks(request_of(banks, 94), 94)
    assert refused.value.rule == "L04"


def test_a_bank_that_was_left_out_once_does_not_come_back() -> None:
    bank = bank_of(4)
    assert bank._banks(request_of([*BANKS], 94), 94) == BANKS
    with pytest.raises(PeerError):
        bank._banks(request_of([*BANKS, "bank-4"], 94), 94)


LEFT = [
    (2, "rerun", 1, 2),
    (3, "rerun", 1, 3),
    (4, "rerun", 1, 3),
    (4, "rerun", 4, 4),
    (4, "stop", 1, 4),
    (7, "rerun", 1, 5),
]


@pytest.mark.parametrize(("banks", "on_loss", "floor", "threshold"), LEFT)
def test_a_sum_is_opened_by_as_many_banks_as_the_policy_and_the_contract_ask_for(
    banks: int, on_loss: str, floor: int, threshold: int
) -> None:
    contract = contract_of(banks, on_loss=on_loss, min_banks=floor)
    request = SumRequest("train/1/0/0", tuple(sorted(contract.banks)), 0, 94, 4)
    assert terms_for(contract, request).threshold == threshold


def test_the_mod_lets_no_value_out_that_was_asked_for_without_a_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    def app(message: Message, _context: Any) -> Message:
        return Message(content=apps.record_of({SUMMAND: np.ones(3, np.uint64)}, {}, {}), reply_to=message)

    asked = Road(2).create_message(apps.record_of({}, {"attempt": 0}, {}), "train", 1, "1")
    mod = sum_mod.secure_sum_mod(
        lambda _request: pytest.fail("no sum was asked for"), sum_mod.SumsInMemory(), contract_of(2)
    )
    with pytest.raises(PeerError) as refused:
        mod(asked, None, app)  # type: ignore[arg-type]
    assert refused.value.rule == "SS01"
    monkeypatch.setattr(sum_mod, "is_summed", lambda _contract, _kind: False)
    with pytest.raises(PeerError) as refused:
        mod(asked, None, app)  # type: ignore[arg-type]
    assert refused.value.rule == "SS01"
    monkeypatch.setattr(sum_mod, "_without_summand", lambda reply: reply)
    stolen = mod(asked, None, app)  # type: ignore[arg-type]
    assert apps.parts_of(stolen.content)[0][SUMMAND].tolist() == [1, 1, 1]


# ---- how the strategy leads rounds


class Road(grid.PartyGrid):
    """A grid without banks behind it: `gone` names those that are lost."""

    def __init__(self, banks: int) -> None:
        super().__init__(dict.fromkeys(f"bank-{k + 1}" for k in range(banks)), 0.0)  # type: ignore[arg-type]


class Steps:
    """The platform's part, which keeps what it is told."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def summand(self, _kind: str) -> tuple[int, int]:
        return 2, 94

    def next_attempt(self) -> int:
        self.calls.append("attempt")
        return self.calls.count("attempt") - 1

    def before_round(self, number: int) -> None:
        self.calls.append(f"round {number}")

    def drop_round(self, lost: list[str]) -> None:
        self.calls.append(f"lost {' '.join(lost)}")

    def trained(self, number: int, summed: Summed) -> dict[str, int]:
        self.calls.append(f"opened {' '.join(summed.contributors)}")
        return {"restart": 0}


def lead(banks: int, outcomes: list[Any], **terms: Any) -> Steps:
    """Lead one round whose sums come to `outcomes` in turn: (the banks in it, who is lost by then), or a stage that fails."""
    road, steps = Road(banks), Steps()
    strategy = apps.StarStrategy(contract_of(banks, **terms), steps)  # type: ignore[arg-type]
    strategy._banks = dict(road.banks)

    def run(_ask: Any, kind: str, number: int, attempt: int, groups: Any, *_rest: Any) -> dict[int, Summed]:
        what, lost = outcomes.pop(0)
        road.lost |= dict.fromkeys(lost, PeerError("gone", "L01"))
        if isinstance(what, str):
            raise SumBelowThreshold(f"{kind}/{number}/{attempt}/0", what, 1, 3, lost)
        return {0: Summed([1, 2], tuple(what), {})}

    strategy._sums = SimpleNamespace(run=run)  # type: ignore[assignment]
    strategy._round(road, 1)
    assert not outcomes
    return steps


def test_a_sum_that_is_opened_without_a_lost_bank_is_the_round() -> None:
    steps = lead(4, [(["bank-1", "bank-2", "bank-3"], ["bank-4"])])
    assert steps.calls == ["round 1", "attempt", "opened bank-1 bank-2 bank-3", "lost bank-4"]


@pytest.mark.parametrize("stage", ["keys", "shares", "masked", "agree"])
def test_below_the_threshold_a_round_runs_again_with_the_others_under_a_fresh_attempt(stage: str) -> None:
    steps = lead(3, [(stage, ["bank-3"]), (["bank-1", "bank-2"], [])])
    assert steps.calls == ["round 1", "attempt", "lost bank-3", "attempt", "opened bank-1 bank-2"]


STOPS = {
    "while a sum was being opened": (3, [("open", ["bank-3"])], {}, "while the sum of round 1 was being opened"),
    "where the contract says so": (3, [("masked", ["bank-3"])], {"on_loss": "stop"}, "by the contract the run stops"),
    "below the contract's least": (4, [(BANKS, ["bank-4"])], {"min_banks": 4}, "by the contract the run stops"),
    "and one is left": (2, [("masked", ["bank-2"])], {}, "by the contract the run stops"),
    "and nobody was lost": (3, [("masked", [])], {}, "1 banks came through 'masked'"),
}


@pytest.mark.parametrize("case", STOPS)
def test_a_bank_is_lost(case: str) -> None:
    banks, outcomes, terms, sentence = STOPS[case]
    with pytest.raises(RunStopped, match=sentence):
        lead(banks, outcomes, **terms)


# ---- masks and bins


def test_masks_that_are_used_up_are_not_used_twice() -> None:
    columns = Columns((tuple(row % 2 for row in range(60)),), (2,))
    star = BankStar(contract_of(rounds=2, spare_attempts=1), "bank-1", [row % 2 for row in range(60)], columns)
    star.corrections = [[7] * star.layouts.masks.slots for _ in star.own.bins]
    assert star.attempt_corrections(star.layouts.masks.slots - 1) == [7, 7]
    with pytest.raises(PeerError, match="no masks were prepared"):
        star.attempt_corrections(star.layouts.masks.slots)


@given(st.lists(st.tuples(st.integers(0, 90), st.integers(0, 90)), min_size=1, max_size=8))
def test_merged_bins_keep_every_row_and_the_minimum_of_rows_bads_and_goods(counts: list[tuple[int, int]]) -> None:
    goods, bads = [g for g, _ in counts], [b for _, b in counts]
    mapping = merge_small_bins(goods, bads, MINIMA)
    size = max(mapping) + 1
    assert sorted(set(mapping)) == list(range(size)) and len(mapping) == len(counts)
    assert [mapping.index(new) for new in range(size)] == sorted(mapping.index(new) for new in range(size))
    for new in range(size if size > 1 else 0):
        good = sum(g for g, m in zip(goods, mapping, strict=True) if m == new)
        bad = sum(b for b, m in zip(bads, mapping, strict=True) if m == new)
        assert good + bad >= MINIMA[0] and bad >= MINIMA[1] and good >= MINIMA[2]
