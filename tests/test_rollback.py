"""The rule by which a round stands or is taken back, and that it holds while one bank lies."""

import itertools

import pytest
from conversations import contract_of

from lianxin.federation.contract import RunContract
from lianxin.federation.errors import RunStopped
from lianxin.federation.rollback import LOSS_BITS, Standing, Verdicts, judge, says_worse, stop_sentence

NAT = 1 << LOSS_BITS
BEFORE = Standing(loss=400 * NAT, rows=1000, rollbacks=0)


def contract(banks: int = 5, **terms: int) -> RunContract:
    return contract_of(banks, **{"max_loss_rise_permille": 100, "max_rollbacks": 2, **terms})


def said(words: str, loss: int = 400 * NAT, rows: int = 1000) -> Verdicts:
    """Return the verdicts of as many banks as there are words: w for worse, any other letter for not worse."""
    return Verdicts({f"bank-{place}": word == "w" for place, word in enumerate(words)}, loss, rows)


def test_a_round_that_most_banks_find_worse_is_taken_back() -> None:
    found = judge(BEFORE, said("wwwnn", 600 * NAT), contract())
    assert (found.accepted, found.stops, found.standing) == (False, False, Standing(400 * NAT, 1000, 1))
    assert found.reason == "3 of 5 banks found it worse on their validation rows"


def test_a_round_that_stands_becomes_what_the_next_is_judged_by_only_if_it_is_better() -> None:
    assert judge(BEFORE, said("nnnnn", 300 * NAT), contract()).standing == Standing(300 * NAT, 1000, 0)
    assert judge(BEFORE, said("nnnnn", 420 * NAT), contract()).standing == BEFORE
    assert judge(BEFORE, said("nnnnn", 420 * NAT, 2000), contract()).standing == Standing(420 * NAT, 2000, 0)


@pytest.mark.parametrize("banks", [3, 4, 5, 8, 9, 12, 40])
@pytest.mark.parametrize("loss", [-(2**62), -1, 0, 400 * NAT, 10**6 * NAT, 2**62])
def test_one_liar_can_neither_stop_a_good_run_nor_hide_a_bad_round(banks: int, loss: int) -> None:
    good, bad = (
        judge(BEFORE, said("w" + "n" * (banks - 1), loss), contract(banks)),
        judge(BEFORE, said("n" + "w" * (banks - 1), loss), contract(banks)),
    )
    assert good.accepted and not bad.accepted


@pytest.mark.parametrize("loss", [-(2**62), 2**62])
def test_a_sum_that_no_losses_can_have_is_never_kept(loss: int) -> None:
    assert judge(Standing(), said("nnnnn", loss), contract()).standing == Standing()
    assert judge(Standing(), said("nnnnn", NAT, 2**60), contract()).standing == Standing()


def test_by_the_sum_alone_a_liar_would_stop_a_good_run_and_hide_a_bad_round() -> None:
    """The control: the naive rule, which asks the secret sum and nobody else."""

    def naive(loss: int) -> bool:
        return loss * BEFORE.rows * 1000 <= BEFORE.loss * 1000 * 1100

    honest_good, honest_bad, lie = 300 * NAT, 900 * NAT, 10**5 * NAT
    assert naive(honest_good) and not naive(honest_bad)
    assert not naive(honest_good + lie) and naive(honest_bad - lie)
    assert judge(BEFORE, said("wnnnn", honest_good + lie), contract()).accepted
    assert not judge(BEFORE, said("nwwww", honest_bad - lie), contract()).accepted


def test_from_nine_banks_on_a_summed_loss_that_rose_needs_a_third_and_one_more() -> None:
    risen, terms = 600 * NAT, contract(12)
    assert not judge(BEFORE, said("w" * 5 + "n" * 7, risen), terms).accepted
    assert judge(BEFORE, said("w" * 4 + "n" * 8, risen), terms).accepted
    assert judge(BEFORE, said("w" * 5 + "n" * 7, 430 * NAT), terms).accepted


def test_more_rounds_taken_back_than_the_contract_allows_stop_the_run_with_the_reason() -> None:
    standing, stops = BEFORE, []
    for _ in range(3):
        found = judge(standing, said("wwwww"), contract())
        standing, stops = found.standing, [*stops, found.stops]
    assert stops == [False, False, True]
    sentence = stop_sentence(found, 7, contract())
    assert sentence.startswith("round 7 was taken back: 5 of 5 banks") and "allows 2" in sentence


def test_a_contract_without_the_rule_lets_everything_stand() -> None:
    terms = contract(max_loss_rise_permille=0)
    assert judge(BEFORE, said("wwwww"), terms).accepted and judge(BEFORE, said(""), terms).accepted
    assert not says_worse(1, 10**9, 10, 10, terms)


def test_a_round_that_nobody_judged_stops_the_run() -> None:
    with pytest.raises(RunStopped, match="no bank judged"):
        judge(BEFORE, said(""), contract())


def test_a_bank_calls_a_candidate_worse_beyond_the_allowed_rise_of_the_mean_and_not_at_it() -> None:
    terms = contract()
    assert not says_worse(1000, 1100, 10, 10, terms) and says_worse(1000, 1101, 10, 10, terms)
    assert not says_worse(1000, 2200, 20, 10, terms) and says_worse(1000, 2201, 20, 10, terms)
    assert not says_worse(None, 5000, 10, 10, terms) and not says_worse(1000, 5000, 0, 10, terms)


def test_small_steps_add_up_against_the_least_loss_of_what_stood() -> None:
    """Each step is within a tenth of the one before; measured against the best, the second is caught."""
    terms, losses = contract(), [1000, 1080, 1160]
    assert [says_worse(1000, loss, 10, 10, terms) for loss in losses] == [False, False, True]
    assert not any(says_worse(a, b, 10, 10, terms) for a, b in itertools.pairwise(losses))
