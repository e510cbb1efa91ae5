"""Attack 9: a bank opens a step a second time, or under another spelling, to meet the same masks over other data."""

import threading
from types import SimpleNamespace

import pytest

from lianxin.federation.errors import PeerError
from lianxin.parties.platform_scorecard import PlatformScorecard


@pytest.fixture
def run():
    """A platform's run in round 2, attempt 3 of six rounds with two banks, its admission alone."""
    run = object.__new__(PlatformScorecard)
    run.contract = SimpleNamespace(banks=("bank-a", "bank-b"), rounds=6)
    run.round, run.attempt, run.opened_rounds, run.lost = 2, 3, 1, {"bank-b"}
    run._served, run._lock = set(), threading.RLock()
    return run


def test_each_step_is_admitted_once_under_its_one_name(run):
    assert run._admit_once("bank-a", "matching/bank-a") == ("match", run._match, 0)
    assert run._admit_once("bank-a", "vertical/bank-a/round/2/3") == ("round", run._round, 2)
    for again in ("matching/bank-a", "vertical/bank-a/round/2/3"):
        with pytest.raises(PeerError) as refusal:
            run._admit_once("bank-a", again)
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
        run._admit_once("bank-a", spelling)
    assert refusal.value.rule == "S01" and run._served == set()


def test_a_lost_bank_takes_no_further_part(run):
    with pytest.raises(PeerError, match="not its own or not due"):
        run._admit_once("bank-b", "vertical/bank-b/round/2/3")
