"""One quota of matching queries a bank: over runs, restarts and sessions, spent before anything is answered."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lianxin.federation.errors import PeerError
from lianxin.parties.clock import SimulatedClock
from lianxin.parties.config import QuotaSection
from lianxin.parties.quota import QueryQuota
from lianxin.parties.store import Store

DAY = 86_400


@pytest.fixture
def clock() -> SimulatedClock:
    return SimulatedClock("2026-03-01T00:00:00Z")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store.sqlite")


def test_one_query_above_the_quota_is_refused_by_name_and_spends_nothing(store, clock):
    quota = QueryQuota(store, clock, QuotaSection(queries=128, days=30))
    assert quota.charge("bank-1", "run-1", 64) == 64
    with pytest.raises(PeerError, match="asks 65 matching queries and 64 are left of 128 in 30 days") as refusal:
        quota.charge("bank-1", "run-2", 65)
    assert refusal.value.rule == "M04"
    assert quota.charge("bank-1", "run-2", 64) == 0


def test_a_restarted_platform_and_another_run_share_the_quota(store, clock, tmp_path):
    limits = QuotaSection(queries=128, days=30)
    QueryQuota(store, clock, limits).charge("bank-1", "run-1", 128)
    store.close()
    again = QueryQuota(Store(tmp_path / "store.sqlite"), clock, limits)
    with pytest.raises(PeerError, match="0 are left"):
        again.charge("bank-1", "run-2", 64)


def test_banks_have_a_quota_each(store, clock):
    quota = QueryQuota(store, clock, QuotaSection(queries=64, days=30))
    assert quota.charge("bank-1", "run-1", 64) == quota.charge("bank-2", "run-1", 64) == 0


def test_queries_come_back_when_the_window_has_passed_and_not_a_second_before(store, clock):
    quota = QueryQuota(store, clock, QuotaSection(queries=64, days=30))
    quota.charge("bank-1", "run-1", 64)
    clock.advance(30 * DAY - 1)
    with pytest.raises(PeerError):
        quota.charge("bank-1", "run-2", 64)
    clock.advance(1)
    assert quota.charge("bank-1", "run-2", 64) == 0


def test_a_hundred_sessions_at_once_spend_no_more_than_the_quota(store, clock):
    quota = QueryQuota(store, clock, QuotaSection(queries=64 * 10, days=30))

    def ask(number: int) -> bool:
        try:
            quota.charge("bank-1", f"run-{number}", 64)
        except PeerError:
            return False
        return True

    with ThreadPoolExecutor(20) as sessions:
        assert sum(sessions.map(ask, range(100))) == 10
