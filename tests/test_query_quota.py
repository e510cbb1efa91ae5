"""The quota of field queries: in firms a bank, by days, over restarts, spent before anything is answered."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lianxin.crypto import canonical
from lianxin.federation.errors import PeerError
from lianxin.parties.clock import SimulatedClock
from lianxin.parties.config import QuotaSection
from lianxin.parties.quota import FieldQuota
from lianxin.parties.store import Store

DAY_S = 86_400


@pytest.fixture
def clock() -> SimulatedClock:
    return SimulatedClock("2026-03-01T23:59:59Z")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store.sqlite")


def limits(firms: int = 10, days: int = 3) -> QuotaSection:
    return QuotaSection(field_queries=firms, days=days)


def test_one_firm_above_the_quota_is_refused_by_name_and_spends_nothing(store: Store, clock: SimulatedClock) -> None:
    quota = FieldQuota(store, clock, limits())
    assert quota.charge("bank-1", 8) == 2
    with pytest.raises(PeerError, match=r"asks about 3 firms and 2 are left of 10 in 3 days.*field_queries") as refusal:
        quota.charge("bank-1", 3)
    assert refusal.value.rule == "Q01"
    assert quota.charge("bank-1", 2) == 0 and quota.charge("bank-2", 10) == 0


def test_a_days_queries_come_back_as_a_whole_when_the_window_has_passed(store: Store, clock: SimulatedClock) -> None:
    quota = FieldQuota(store, clock, limits())
    quota.charge("bank-1", 10)
    for _ in range(2):
        clock.advance(DAY_S)
        with pytest.raises(PeerError):
            quota.charge("bank-1", 1)
    clock.advance(1)
    assert quota.charge("bank-1", 10) == 0


def test_a_restart_changes_nothing_and_what_is_kept_is_a_line_a_day(
    store: Store, clock: SimulatedClock, tmp_path: Path
) -> None:
    for _ in range(50):
        FieldQuota(store, clock, limits(1000)).charge("bank-1", 1)
        clock.advance(3600)
    store.close()
    again = Store(tmp_path / "store.sqlite")
    kept = again.setting("field-quota/bank-1")
    assert kept is not None and len(canonical.decode(kept)["spent"]) == 3
    assert FieldQuota(again, clock, limits(1000)).charge("bank-1", 1) == 1000 - 50  # the first day's one is back


def test_a_hundred_queries_at_once_spend_no_more_than_the_quota(store: Store, clock: SimulatedClock) -> None:
    quota = FieldQuota(store, clock, limits(10))

    def ask(_: int) -> bool:
        try:
            quota.charge("bank-1", 1)
        except PeerError:
            return False
        return True

    with ThreadPoolExecutor(20) as sessions:
        assert sum(sessions.map(ask, range(100))) == 10
