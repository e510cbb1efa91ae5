"""The star's sums: the platform opens totals over all the banks of a round, and what does not add up is refused."""

from itertools import combinations

import pytest
from conversations import contract_of
from hypothesis import given
from hypothesis import strategies as st

from lianxin.crypto import pairwise_masks
from lianxin.federation.binning import Columns
from lianxin.federation.errors import PeerError, RunStopped
from lianxin.federation.scorecard import COUNT_BITS
from lianxin.federation.star import (
    BankStar,
    BankTable,
    MaskAgreement,
    PlatformStar,
    merge_small_bins,
    round_label,
)

BANKS = ["bank-1", "bank-2", "bank-3"]
GOODS, BADS = [60, 40, 30], [10, 20, 30]
MINIMA = (50, 5, 5)


@pytest.fixture
def agreements() -> dict[str, MaskAgreement]:
    made = {bank: MaskAgreement(bank, "test-run-1", bank.encode().ljust(32, b".")) for bank in BANKS}
    keys = {bank: agreement.public for bank, agreement in made.items()}
    for agreement in made.values():
        agreement.agree(keys)
    return made


def star_with(rows: int) -> PlatformStar:
    """Return a platform's star of one feature of three bins; each of three banks has `rows` rows."""
    star = PlatformStar(contract_of(3), ["f0"])
    for bank in BANKS:
        codes = tuple(row % 3 for row in range(rows))
        star.tables[bank] = BankTable(list(range(rows)), Columns((codes,), (3,)))
    return star


def masked(agreements: dict[str, MaskAgreement], values: list[int], label: str = "counts") -> dict[str, list[int]]:
    return {bank: one.masked(values, label, BANKS, COUNT_BITS) for bank, one in agreements.items()}


def test_the_platform_opens_the_sum_of_all_banks(agreements: dict[str, MaskAgreement]) -> None:
    star = star_with(sum(GOODS) + sum(BADS))
    star.open_counts(masked(agreements, [*GOODS, *BADS]))
    (feature,) = star.kept
    assert (list(feature.goods), list(feature.bads)) == ([3 * g for g in GOODS], [3 * b for b in BADS])
    assert star.base_rate == pytest.approx(60 / 190)
    assert sorted(feature.woe) in (list(feature.woe), list(feature.woe)[::-1]) and len(set(feature.woe)) == 3


def test_one_banks_counts_and_the_sum_of_two_are_no_counts_to_the_platform(
    agreements: dict[str, MaskAgreement]
) -> None:
    said = masked(agreements, [*GOODS, *BADS])
    assert not set(said["bank-1"]) & {*GOODS, *BADS}
    for few in (1, 2):
        for banks in combinations(BANKS, few):
            with pytest.raises(PeerError) as refused:
                star_with(190).open_counts({bank: said[bank] for bank in banks})
            assert refused.value.rule == "B06"


def test_a_bank_that_masks_for_another_set_of_banks_spoils_the_sum(agreements: dict[str, MaskAgreement]) -> None:
    said = masked(agreements, [*GOODS, *BADS])
    said["bank-1"] = agreements["bank-1"].masked([*GOODS, *BADS], "counts", BANKS[:2], COUNT_BITS)
    with pytest.raises(PeerError, match="do not add up"):
        star_with(190).open_counts(said)


def test_a_round_that_runs_again_meets_other_masks(agreements: dict[str, MaskAgreement]) -> None:
    zero = [0] * 4
    rounds = [(2, 1, BANKS), (2, 2, BANKS), (3, 1, BANKS), (2, 1, BANKS[:2])]
    labels = [round_label(number, attempt, banks) for number, attempt, banks in rounds]
    masks = [tuple(agreements["bank-1"].masked(zero, label, BANKS, 96)) for label in labels]
    assert len(set(masks)) == 4
    again = [agreements[bank].masked(zero, labels[3], BANKS[:2], 96) for bank in BANKS[:2]]
    assert pairwise_masks.sum_masked(again, 96) == zero


def test_no_feature_that_tells_ends_the_run_in_a_sentence(agreements: dict[str, MaskAgreement]) -> None:
    with pytest.raises(RunStopped, match="no platform feature"):
        star_with(60).open_counts(masked(agreements, [20, 20, 20, 0, 0, 0]))


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
