"""What the auditor says of sizes, quotas and budgets: what a party let go beyond the contract, or over all of its runs."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import audit_world
import pytest
from audit_world import QUOTA, Told, ask, found, match, passes_without, sized
from evidence_world import BANK, NOW, PLATFORM, World

from lianxin.parties import auditor_limits
from lianxin.parties.auditor_quotas import DAY_S, Window

terms = audit_world.terms
LATER = "2026-06-15T08:00:00Z"


def bank_right(world: World, **changes: Any) -> str:
    return world.parties[BANK].release([], recipient=PLATFORM, fields=["bad_flag"], **changes)


def matches_few(world: World) -> None:
    match(world, 4)
    bank_right(world, step="binning.rows", rows=4)


def more_rows(world: World) -> None:
    bank_right(world, step="binning.rows", rows=audit_world.MATCHED + 1)


def more_queries(world: World) -> None:
    ask(world, bank_right(world, step="matching.query"), 65)


def more_tags(world: World) -> None:
    right = world.parties[PLATFORM].release([], recipient=BANK, fields=["region"], step="matching.query", rows=6)
    sized(world, PLATFORM, BANK, "PlatformTags", "matching.compare", 16 * 65 + 16, [right])


def one_attempt_more(world: World) -> None:
    right, header = bank_right(world, round=3), {"conversation": f"vertical/{BANK}/round/3/4", "round": 3}
    world.cross(BANK, PLATFORM, "HistogramNoted", "CONTROL", [right], header=header)


LIMITS: dict[str, tuple[Callable[[], Told], str, str, str]] = {
    "fewer matched firms than the minimum": (lambda: Told(matched=4), PLATFORM, "minimum is 5", "OUT-ROWS"),
    "rows that were not matched": (lambda: Told(forged=more_rows), BANK, "the matching let 6 through", "G04"),
    "more queries than the contract": (lambda: Told(forged=more_queries), BANK, "the contract allows 64", "M01"),
    "more tags than firms released": (lambda: Told(forged=more_tags), PLATFORM, "6 were released", "G04"),
    "an attempt too many": (lambda: Told(forged=one_attempt_more), BANK, "attempt 4 at round 3", ""),
}  # fmt: skip


@pytest.mark.parametrize("case", LIMITS)
def test_a_run_beyond_its_contract_is_named_with_party_leaf_and_rule(
    tmp_path: Path, case: str, terms: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    if "tags" in case:
        terms(max_firms=192)  # the contract's own bound is another test's
    told, party, says, rule = LIMITS[case]
    run = told().story(tmp_path)
    monkeypatch.delitem(audit_world.auditor.PARTY_CHECKS, "plan")  # it counts messages, and says the same of some
    failures = found(run)
    assert {check.name for check in failures} == {"limits"}, failures
    check = next(check for check in failures if check.subject == party)
    assert says in check.detail and check.rule == rule and check.leaf >= 0 and "ask" in check.remedy
    assert passes_without(run, "limits", monkeypatch)


def test_sizes_are_reckoned_in_the_partys_favour() -> None:
    limits = auditor_limits._message_limits({"max_queries": 64, "max_firms": 64, "max_rows": 64, "key_bits": 2048})
    paillier = auditor_limits.query_bytes("BankQueries", 2048)
    assert paillier == 2 * 2048 // 8 + 32

    def fault(kind: str, size: int, peer: str = "b") -> str:
        return (limits.fault({"message_type": kind, "peer": peer}, size) or ("", ""))[1]

    assert [fault("BankQueries", 64 * paillier + extra, f"b{extra}") for extra in (0, 16, paillier + 16)] == [
        "",
        "",
        "M01",
    ]
    assert fault("BankBlindedElements", 64 * 40) == "" and fault("BankBlindedElements", 64 * 28) == "M01"
    assert fault("TrainingRows", 4 * 64 + 10) == "" and fault("TrainingRows", 64, "c") == ""
    assert fault("PlatformTags", 16 * 66) == "M01"


# ---- quotas over all runs of a ledger


def asks_elsewhere(world: World) -> None:
    """Another run of the same day, in which the bank asked for as many firms again."""
    platform = world.parties[PLATFORM]
    leaf = {
        "direction": "in",
        "peer": BANK,
        "conversation": "matching/a",
        "step": "matching.query",
        "round": 0,
        "seq": 0,
    }
    leaf |= {"message_type": "BankBlindedElements", "message_hash": "0" * 64, "payload_hash": "0" * 64, "rule": ""}
    leaf |= {"forms": [], "releases": [], "decision": "allow", "rows": 0, "size_bytes": 80 * 64 + 16, "run": "run-0"}
    platform.ledger.append({"kind": "envelope", **leaf})


def logs(kind: str, *amounts: dict[str, Any], time: str = NOW) -> Callable[[World], None]:
    """Leaves of one kind of another run at the platform, at a time."""

    def forge(world: World) -> None:
        platform = world.parties[PLATFORM]
        platform.clock.time = time
        for amount in amounts:
            platform.ledger.append({"kind": kind, "run": "run-0", "peer": BANK, **amount})

    return forge


ASKED = {"query": "q", "purpose": "P4", "mode": "PLAINTEXT", "fields": ["region"], "conversation": "query/a/0"}
SCORED = {"score": "s", "purpose": "P4", "models": ["m"], "conversation": "scoring/a/0"}


def statistics(number: int) -> Callable[[World], None]:
    def forge(world: World) -> None:
        for _ in range(number):
            world.parties[PLATFORM].release([], recipient=BANK, mode="AGGREGATE", fields=["region"], run="run-0")

    return forge


QUOTAS: dict[str, tuple[Callable[[World], None], str, str]] = {
    "matching queries": (asks_elsewhere, "M04", "143 matching queries in 30 days, the quota is 128"),
    "field queries": (logs("query", ASKED | {"firms": 12}, ASKED | {"firms": 9}), "Q01", "21 firms"),
    "scores": (logs("score", SCORED | {"firms": 31, "unknown": 0}), "Q01", "31 firms"),
    "sides of cuts": (logs("split-bits", {"bits": 5, "left": 3}, {"bits": 4, "left": 0}), "BQ01", "9 sides of cuts"),
    "more sides than were left": (logs("split-bits", {"bits": 1, "left": -1}), "BQ01", "than were left"),
    "statistics of a field": (statistics(4), "OUT-BUDGET", "4 statistics"),
}


@pytest.mark.parametrize("case", QUOTAS)
def test_a_quota_that_was_passed_over_all_runs_is_named_with_leaf_and_rule(
    tmp_path: Path, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    forge, rule, says = QUOTAS[case]
    run = Told(forged=forge).story(tmp_path)
    [check] = found(run)
    assert (check.name, check.subject, check.rule) == ("quotas", PLATFORM, rule), check
    assert says in check.detail and check.leaf >= 0 and PLATFORM in check.remedy
    assert passes_without(run, "quotas", monkeypatch)


def test_what_was_let_go_before_the_window_counts_no_more(tmp_path: Path) -> None:
    def forge(world: World) -> None:
        logs("query", ASKED | {"firms": 20})(world)
        for party in world.parties.values():
            party.clock.time = LATER
        logs("query", ASKED | {"firms": 20}, time=LATER)(world)

    assert found(Told(forged=forge, quota=QUOTA).story(tmp_path)) == []


def test_what_was_let_go_before_the_proposal_had_the_quota_of_its_time(tmp_path: Path) -> None:
    told = Told()
    tell = told._before

    def before(world: World) -> None:
        logs("query", ASKED | {"firms": 21})(world)
        tell(world)

    told._before = before  # type: ignore[method-assign]
    assert found(told.story(tmp_path)) == []


def spends(*amounts: tuple[str, int, int]) -> Callable[[World], None]:
    """What runs of a bank's table spent of ε: when, how much, what the leaf says is left."""

    def forge(world: World) -> None:
        for time, epsilon, left in amounts:
            for party in world.parties.values():
                party.clock.time = time
            leaf = {"contract_hash": "0" * 64, "unit": "record", "epsilon_thousandths": epsilon, "delta_exponent": 6}
            world.parties[BANK].ledger.append(
                {"kind": "privacy", "run": "run-0", **leaf, "left_thousandths": left, "days": 30}
            )

    return forge


def test_a_budget_of_privacy_in_a_rolling_window_is_added_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Told(forged=spends((NOW, 600, 400), (NOW, 500, 400))).story(tmp_path)
    [check] = found(run)
    assert (check.name, check.subject, check.rule) == ("quotas", BANK, "DP01") and "1100 thousandths" in check.detail
    assert passes_without(run, "quotas", monkeypatch)


def test_privacy_that_was_spent_before_the_window_counts_no_more(tmp_path: Path) -> None:
    assert found(Told(forged=spends((NOW, 600, 400), (LATER, 900, 100))).story(tmp_path)) == []


def test_a_window_is_the_sum_over_its_days_whatever_came_before() -> None:
    chance = random.Random(7)
    for by_day in (False, True):
        window, added = Window(3, by_day), list[tuple[int, int]]()
        at = 0
        for _ in range(300):
            at += chance.randrange(DAY_S)
            amount = chance.randrange(9)
            added.append((at, amount))
            total = window.add(at, amount)
            since = (at // DAY_S - 2) * DAY_S if by_day else at - 3 * DAY_S + 121
            assert total == sum(one for when, one in added if when >= since)
