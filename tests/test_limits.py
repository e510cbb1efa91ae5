"""What one peer may cost: the toll at the door, refusals that do not flood the ledger, and the disk under a node."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torture import cases

from lianxin.federation.errors import InputFault, PeerError, RunStopped
from lianxin.federation.limits import ADDRESSES_KEPT, RUNS_KEPT, Bucket, Limits, Toll, TooOften
from lianxin.parties import config
from lianxin.parties.config_operations import GIB, LimitsSection
from lianxin.parties.limits_disk import LOOK_EVERY_BYTES, DiskGuard, DiskShort
from lianxin.parties.limits_node import KINDS_KEPT, QUIET_S, RefusalLog, StoredDay, limits_of
from lianxin.parties.store import Store

SMALL = Limits(
    message_bytes=1000, messages_per_s=10, message_burst=5, dials_per_minute=6, run_bytes=4000, day_bytes=9000
)


class Time:
    def __init__(self) -> None:
        self.now, self.day = 100.0, "2026-01-05"


def a_toll(limits: Limits = SMALL, **more: Any) -> tuple[Toll, Time]:
    time = Time()
    return Toll(limits, lambda: time.now, lambda: time.day, **more), time


def rule_of(work: Any) -> str:
    with pytest.raises(PeerError) as refused:
        work()
    return refused.value.rule


# ---- the toll


@cases()
@given(st.floats(0.5, 20), st.integers(1, 40), st.lists(st.floats(0, 2), min_size=1, max_size=20))
def test_a_bucket_never_gives_more_than_its_burst_and_what_has_flowed_since(
    rate: float, burst: int, waits: list[float]
) -> None:
    now, given_out, bucket = 50.0, 0, Bucket(rate, burst, 50.0)
    for wait in waits:
        now += wait
        while bucket.take_if_there(now):
            given_out += 1
    assert given_out <= burst + rate * sum(waits) + 1e-6
    assert given_out >= min(burst, 1)


def test_a_clock_that_goes_back_gives_nothing() -> None:
    bucket = Bucket(1.0, 2, 100.0)
    assert [bucket.take_if_there(100.0) for _ in range(3)] == [True, True, False]
    assert not bucket.take_if_there(50.0) and not bucket.take_if_there(100.5) and bucket.take_if_there(101.0)


def test_a_message_over_the_limit_is_refused_and_one_at_the_limit_is_not() -> None:
    toll, _ = a_toll()
    toll.heard("bank-1", "run-1", 1000)
    assert rule_of(lambda: toll.heard("bank-1", "run-1", 1001)) == "L10"


def test_dials_over_the_minutes_share_are_refused_and_come_back_with_time() -> None:
    toll, time = a_toll()
    for _ in range(6):
        toll.dial("bank-1")
    with pytest.raises(TooOften) as refused:
        toll.dial("bank-1")
    assert refused.value.rule == "L11"
    toll.dial("bank-2")
    time.now += 10.0
    toll.dial("bank-1")


def test_messages_that_come_too_fast_are_held_back_and_noted_once() -> None:
    noted: list[tuple[str, str]] = []
    toll, time = a_toll(note=lambda *what: noted.append(what))
    holds = [toll.heard("bank-1", "run-1", 1) for _ in range(8)]
    assert holds[:5] == [0.0] * 5 and holds[5] == pytest.approx(0.1) and holds[7] == pytest.approx(0.3)
    assert noted == [("L12", "bank-1")]
    time.now += 2.0
    assert toll.heard("bank-1", "run-1", 1) == 0.0


def test_a_run_and_a_day_have_their_bytes_in_both_directions_and_another_party_its_own() -> None:
    toll, time = a_toll()
    for _ in range(4):
        toll.heard("bank-1", "run-1", 500)
        toll.said("bank-1", "run-1", 500)
    assert rule_of(lambda: toll.said("bank-1", "run-1", 1)) == "L13"
    toll.heard("bank-2", "run-1", 500)
    for run in ("run-2", "run-3", "run-4", "run-5"):
        toll.said("bank-1", run, 1000)
    assert rule_of(lambda: [toll.said("bank-1", "run-6", 999), toll.said("bank-1", "run-7", 999)]) == "L14"
    time.day = "2026-01-06"
    toll.said("bank-1", "run-8", 1000)
    assert toll.bytes_of("bank-1")[1] == 1000


def test_the_bytes_of_a_day_outlive_a_restart_and_those_of_yesterday_do_not(tmp_path: Path) -> None:
    store = Store(tmp_path / "store.sqlite")
    first, _ = a_toll(kept=StoredDay(store))
    first.said("bank-1", "run-1", 3000)
    first.save()
    second, time = a_toll(kept=StoredDay(store))
    assert second.bytes_of("bank-1") == ({}, 3000)
    time.day = "2026-01-06"
    assert second.bytes_of("bank-1")[1] == 0
    store.close()


def test_ever_new_runs_and_addresses_take_no_more_memory_and_escape_no_day() -> None:
    toll, _ = a_toll(Limits(day_bytes=100_000))
    with pytest.raises(PeerError, match="in one day"):
        for number in range(10**6):
            toll.said("bank-1", f"run-{number}", 50)
    assert len(toll._accounts["bank-1"].runs) == RUNS_KEPT
    for number in range(3000):
        toll.is_worth_telling(f"ipv4:10.0.{number >> 8}.{number & 255}", None)
    assert len(toll._addresses) == ADDRESSES_KEPT and "ipv4:10.0.0.0" not in toll._accounts


def test_refusals_of_nobody_from_one_address_are_told_no_oftener_than_dials_are_allowed() -> None:
    toll, _ = a_toll()
    assert [toll.is_worth_telling("ipv4:10.0.0.1", None) for _ in range(8)] == [True] * 6 + [False] * 2
    assert toll.is_worth_telling("ipv4:10.0.0.2", None) and toll.is_worth_telling("ipv4:10.0.0.1", "spiffe://bank-1")
    toll.dial("bank-1")  # uses its own share


# ---- what a configuration says


def test_the_section_has_the_doors_defaults_and_no_limit_that_nobody_keeps() -> None:
    assert limits_of(LimitsSection()) == Limits()
    assert set(LimitsSection.model_fields) - set(Limits.__dataclass_fields__) == {
        "run_disk_bytes", "free_disk_bytes", "free_disk_permille",
    }  # fmt: skip


def test_a_limit_out_of_bounds_is_one_sentence_with_its_key(tmp_path: Path) -> None:
    node = tmp_path / "node.toml"
    node.write_text(
        'role="platform"\noperator="op-1"\nidentity="i"\nstate="s"\nlisten="x:1"\n[limits]\nconversations = 1\n'
    )
    with pytest.raises(InputFault, match=r"limits\.conversations"):
        config.load_node(node)


# ---- refusals in the ledger


class Leaves(list):
    def append(self, leaf: dict[str, Any], operator: str | None = None) -> None:
        super().append(leaf)


def a_log() -> tuple[RefusalLog, Leaves, Counter[str], Time]:
    leaves, counts, time = Leaves(), Counter[str](), Time()
    return RefusalLog(leaves, lambda what: counts.update([what]), lambda: time.now), leaves, counts, time  # type: ignore[arg-type]


def test_a_flood_of_refusals_is_one_leaf_a_minute_with_their_number() -> None:
    log, leaves, counts, time = a_log()
    for second in range(130):
        for _ in range(100):
            log.refused("L11", "spiffe://bank-1")
        time.now += 1.0
        log.refused("I04", "spiffe://stranger") if second == 0 else None
    log.close()
    assert counts == {"limits/L11": 13_000, "refusals/I04": 1}
    of_bank = [leaf.get("times", 1) for leaf in leaves if leaf["rule"] == "L11"]
    assert sum(of_bank) == 13_000 and len(of_bank) == 4  # at 0, 60 and 120 seconds, and at the end
    assert [leaf["peer"] for leaf in leaves if leaf["rule"] == "I04"] == ["spiffe://stranger"]


def test_without_the_pause_every_refusal_is_a_leaf(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lianxin.parties.limits_node.QUIET_S", 0.0)
    log, leaves, _, _ = a_log()
    for _ in range(500):
        log.refused("L11", "spiffe://bank-1")
    assert len(leaves) == 500 and QUIET_S == 60.0


def test_ever_new_peers_take_no_more_memory_and_lose_no_count() -> None:
    log, leaves, _, _ = a_log()
    for number in range(2 * KINDS_KEPT):
        log.refused("I04", f"spiffe://{number}")
        log.refused("I04", f"spiffe://{number}")
    assert len(log._open) == KINDS_KEPT
    log.close()
    assert sum(leaf.get("times", 1) for leaf in leaves) == 4 * KINDS_KEPT


# ---- the disk


def a_guard(free: int, whole: int = 100 * GIB, **limits: Any) -> tuple[DiskGuard, dict[str, int], Counter[str]]:
    disk, counts = {"free": free}, Counter[str]()
    guard = DiskGuard(Path("state"), LimitsSection(**limits), counts, lambda _: (disk["free"], whole), lambda: 0.0)
    return guard, disk, counts


def test_a_run_does_not_begin_below_the_floor_and_the_sentence_says_what_to_do() -> None:
    guard, disk, counts = a_guard(GIB)
    guard.check_start()
    disk["free"] = GIB - 1
    with pytest.raises(DiskShort, match="bytes are free where this node keeps its state") as short:
        guard.check_start()
    assert short.value.rule == "L15" and isinstance(short.value, RunStopped) and counts == {"limits/L15": 1}


def test_a_small_disk_has_a_small_floor() -> None:
    guard, disk, _ = a_guard(free=GIB // 2, whole=8 * GIB)  # 5 % of 8 GiB is 410 MiB
    guard.check_start()
    disk["free"] = GIB // 4
    with pytest.raises(DiskShort):
        guard.check_start()


def test_a_run_goes_on_below_the_floor_and_ends_by_name_before_it_fills_the_disk() -> None:
    guard, disk, _ = a_guard(GIB // 2)
    for _ in range(100):
        guard.charge("run-1", 1000)
    disk["free"] = GIB // 4 + LOOK_EVERY_BYTES
    with pytest.raises(DiskShort, match="run run-1 was ended before it fills it"):
        for _ in range(10 * LOOK_EVERY_BYTES // 2**20):
            guard.charge("run-1", 2**20)
            disk["free"] -= 2**20
    assert disk["free"] >= GIB // 4 - LOOK_EVERY_BYTES


def test_a_run_may_write_its_share_and_another_run_its_own() -> None:
    guard, _, counts = a_guard(50 * GIB, run_disk_bytes=2**20)
    guard.charge("run-1", 2**20)
    with pytest.raises(DiskShort, match="run run-1 would write over 1048576 bytes") as over:
        guard.charge("run-1", 1)
    assert over.value.rule == "L16" and counts == {"limits/L16": 1}
    guard.charge("run-2", 2**20)
