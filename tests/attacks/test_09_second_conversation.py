"""Attack 9: a bank opens a step a second time, or under another spelling, to meet the same masks over other data."""

import threading
from types import SimpleNamespace

import pytest

from lianxin.federation.errors import PeerError
from lianxin.parties.platform_scorecard import PlatformScorecard as PlatformRun


@pytest.fixture
def run():
    """A platform's run in round 2, attempt 3 of six rounds with two banks, its admission alone."""
    contract = SimpleNamespace(banks=("bank-a", "bank-b"), rounds=6)
    return SimpleNamespace(
        contract=contract, round=2, attempt=3, opened_rounds=1, lost={"bank-b"}, _served=set(), _lock=threading.RLock()
    )


def test_each_step_is_admitted_once_under_its_one_name(run):
    assert PlatformRun._admit_once(run, "bank-a", "matching/bank-a") == ("match", 0, 3)
    assert PlatformRun._admit_once(run, "bank-a", "vertical/bank-a/round/2/3") == ("round", 2, 3)
    for again in ("matching/bank-a", "vertical/bank-a/round/2/3"):
        with pytest.raises(PeerError) as refusal:
            PlatformRun._admit_once(run, "bank-a", again)
        assert refusal.value.rule == "M01"


@pytest.mark.parametrize(
    "spelling",
    [
        "matching/bank-a/round/2/3", "vertical/bank-a", "matching/bank-a/match", "vertical/bank-a/round/02/3",
        "vertical/bank-a/round/2/3/x", "vertical/bank-a/round/2/2", "vertical/bank-a/round/1/3", "matching/bank-b",
        "vertical/bank-a/scoring",
    ],
)  # fmt: skip
def test_another_spelling_attempt_or_bank_and_scoring_before_the_end_are_refused(run, spelling):
    with pytest.raises(PeerError) as refusal:
        PlatformRun._admit_once(run, "bank-a", spelling)
    assert refusal.value.rule == "S01" and run._served == set()


def test_a_lost_bank_takes_no_further_part(run):
    with pytest.raises(PeerError, match="not its own or not due"):
        PlatformRun._admit_once(run, "bank-b", "vertical/bank-b/round/2/3")
