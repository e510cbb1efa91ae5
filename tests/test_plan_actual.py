"""What a run came to beside its plan: the bound, what was to be expected at the real sizes, and the factor between."""

from types import SimpleNamespace

import pytest
from conversations import contract_of

from lianxin.federation import plan, plan_actual, plan_costs
from lianxin.federation.plan_actual import EVERYBODY, Actual
from lianxin.federation.plan_sizes import Known, Sizes
from lianxin.parties.plan_kept import Meter, describe_kept

COSTS = plan.reference_calibration(2048)


def features(provider, count):
    return [{"provider": provider, "field": f"{provider}.f{i}", "use": "feature"} for i in range(count)]


def contract(**changes):
    fields = [*features("platform-a", 10), *features("bank-1", 3)]
    return contract_of(fields=fields, max_rows=4096, max_queries=1024, **changes)


def known(**changes):
    found = {"rows": 1000, "bins": (5,) * 8, "own_bins": (4,) * 3, "matched": 900, "turns": 6}
    return Known(**{**found, **changes})


def expected(agreed=None, **changes):
    return plan_actual.expect(agreed or contract(), COSTS, {"bank-1": known(**changes)}, 5000)


def rows_of(agreed, should, actual):
    return plan_actual.compare(plan.make_plan(agreed, COSTS, 5000), should, actual)


def one(rows, figure, party, step=""):
    (found,) = [r for r in rows if (r["figure"], r["party"], r["step"]) == (figure, party, step)]
    return found


MODELS = [{}, {"max_vif_hundredths": 500}, {"model": "boosted_trees"}, {"model": "boosted_trees", "nodes": "hidden"}]


@pytest.mark.parametrize("terms", MODELS, ids=["scorecard", "selection", "shown", "hidden"])
def test_what_is_expected_never_passes_the_bound_and_grows_with_the_rows(terms):
    agreed = contract(**terms)
    bound = {(e["step"], e["sender"]): e["bytes"] for e in plan.make_plan(agreed, COSTS, 5000)["messages"]}
    turns = agreed.turns
    less, more = (expected(agreed, rows=rows, turns=turns) for rows in (500, 1000))
    for entry in more.messages:
        assert entry.bytes <= bound[entry.step, entry.sender]
    for small, large in zip(less.totals, more.totals, strict=True):
        assert small["cpu_us"] < large["cpu_us"] and small["bytes_sent"] < large["bytes_sent"]


@pytest.mark.parametrize("terms", MODELS, ids=["scorecard", "selection", "shown", "hidden"])
def test_known_sizes_at_the_contracts_bounds_are_the_contracts_plan(terms):
    agreed = contract(**terms)
    largest = Known(agreed.max_rows, (agreed.max_bins,) * 10, (agreed.max_bins,) * 3, 1024, agreed.turns)
    at_bounds, of_contract = Sizes(agreed, "bank-1", 5000, largest), Sizes(agreed, "bank-1", 5000)
    assert plan_costs.bank_traffic(at_bounds, agreed.turns, 0) == plan_costs.bank_traffic(of_contract, agreed.turns, 0)
    for work in (plan_costs.bank_work, plan_costs.platform_work):
        assert work(at_bounds, agreed.turns) == work(of_contract, agreed.turns)


def test_each_step_and_the_whole_stand_beside_what_was_measured():
    agreed, should = contract(), expected()
    bytes_of = {(e.step, e.sender): e.bytes for e in should.messages}
    rows = rows_of(agreed, should, Actual(bytes_of, {EVERYBODY: 3.0}, {"training": 2.0}, 9.0))
    assert all(row["factor"] == pytest.approx(1.0) for row in rows if row["figure"] == "bytes" and row["expected"])
    whole = one(rows, "bytes", EVERYBODY)
    assert whole["actual"] == sum(bytes_of.values()) and whole["actual"] < whole["at_most"]
    total = sum(t["cpu_us"] for t in should.totals) / 1e6
    assert one(rows, "cpu_s", EVERYBODY)["factor"] == pytest.approx(3.0 / total)
    assert one(rows, "phase_s", EVERYBODY, "training")["actual"] == 2.0
    assert one(rows, "wall_s", EVERYBODY)["actual"] == 9.0


def test_parties_that_ran_apart_are_told_apart_and_what_was_not_measured_has_no_factor():
    rows = rows_of(contract(), expected(), Actual({}, {"platform-a": 2.0, "bank-1": 4.0}))
    assert one(rows, "cpu_s", "bank-1")["actual"] == 4.0
    assert one(rows, "cpu_s", "platform-a")["factor"] is not None
    assert one(rows, "cpu_s", EVERYBODY)["actual"] == 6.0
    assert not [row for row in rows if row["figure"] == "wall_s"]
    unmeasured = rows_of(contract(), expected(), Actual())
    assert {row["factor"] for row in unmeasured if row["figure"] == "cpu_s"} == {None}


def test_a_step_in_which_nothing_crossed_counts_as_nought():
    rows = rows_of(contract(), expected(), Actual({("matching.open", "bank-1"): 10}))
    assert one(rows, "bytes", "platform-a", "scoring.points")["actual"] == 0


def test_a_bank_that_was_lost_is_no_part_of_what_is_expected():
    both = contract_of(2, fields=[*features("platform-a", 4)])
    alone = plan_actual.expect(both, COSTS, {"bank-2": known(bins=(5,) * 4, own_bins=())}, 500)
    assert {total["party"] for total in alone.totals} == {"platform-a", "bank-2"}


def test_short_exponents_are_priced_as_what_they_are():
    agreed = contract(profile="short_exponents")
    full, short = (plan_actual.expect(c, COSTS, {"bank-1": known()}, 5000) for c in (contract(), agreed))
    saved = full.totals[1]["cpu_us"] - short.totals[1]["cpu_us"]
    encryptions = 1000 * 13 + 1024
    assert saved >= encryptions * (COSTS.encrypt_ns - COSTS.short_encrypt_ns) // 1000


def test_workers_start_and_make_tables_of_their_own():
    alone, two = (plan_actual.expect(contract(), COSTS, {"bank-1": known()}, 5000, workers=n) for n in (0, 2))
    more = two.totals[0]["cpu_us"] - alone.totals[0]["cpu_us"]
    assert more > 2 * plan_actual.WORKER_START_US and two.totals[1] == alone.totals[1]


# ---- at a platform in production


def meter_of(simulation):
    node = SimpleNamespace(party="platform-a", bytes_sent=1_000, config=SimpleNamespace(simulation=simulation))
    return node, Meter(node, plan.make_plan(contract(), COSTS))


def test_a_platform_says_at_the_end_what_the_run_took_beside_its_plan():
    node, meter = meter_of(None)
    node.bytes_sent += 5_000_000
    kept = meter.read()
    assert kept["bytes_sent"]["actual"] == 5_000_000 and kept["bytes_sent"]["planned"] > 0
    assert kept["cpu_s"]["planned"] > 1.0 and 0.0 <= kept["cpu_s"]["actual"] < 60.0
    (sentence,) = describe_kept(kept)
    assert sentence.startswith("sent 5.0 MB, computed for") and "the plan said" in sentence


def test_a_simulation_keeps_its_summary_the_same_on_every_machine():
    assert meter_of(object())[1].read() == {}
    assert describe_kept({}) == []
