"""The plan of a network across banks: who learns what, what it costs, and that a run came to what was said."""

import network_world
import pytest
from conversations import contract_of
from worlds import World

from lianxin.crypto import canonical
from lianxin.federation import plan, plan_actual
from lianxin.federation import plan_costs_networks as costs
from lianxin.federation.plan_actual import EVERYBODY
from lianxin.federation.plan_costs_networks import NetworkCosts
from lianxin.parties import platform_network, preparation
from lianxin.parties.training_shapes import NetworkSpec, count
from lianxin.simulations import planned, results

finished = network_world.finished
Q = {"min_banks": 3, "validation_permille": 150}


def network(banks: int = 3, model: str = "logistic", **terms):
    fields = [{"provider": f"bank-{k + 1}", "field": f"g{n}", "use": "feature"} for k in range(banks) for n in range(4)]
    return contract_of(banks, model=model, **{"fields": fields, **Q, **terms})


def plan_of(*given, **terms):
    return plan.make_plan(network(*given, **terms), costs.REFERENCE_COSTS)


def said(made):
    return " ".join([*(f"{e['who']}: {e['what']} ({e['malicious']})" for e in made["learns"]), *made["not_protected"]])


# ---- who learns what


def test_the_platform_learns_sums_and_by_bank_only_texts_words_and_figures():
    made = plan_of()
    by_bank = [e["what"] for e in made["learns"] if e["who"] == "platform-a" and "each bank" in e["what"]]
    assert len(by_bank) == 3 and all(any(word in what for what in by_bank) for word in ("texts", "worse", "AUC"))
    sums = [e for e in made["learns"] if "never one bank's" in e["what"]]
    assert len(sums) == 2 and all("with 2 of the banks, another one's" in e["malicious"] for e in sums)


def test_how_many_must_collude_follows_from_the_policy_of_all_the_contracts_banks():
    ten, all_ten = said(plan_of(10)), said(plan_of(10, min_banks=10))
    assert "together with 6 of the banks, saying that the rest are lost" in ten and "sum over 7 to 10 banks" in ten
    assert "together with 9 of the banks, knows" in all_ten and "sum over 10 banks" in all_ten
    grouped = said(plan_of(12, groups=4, strategy="fedmedian"))
    assert "in each of 4 groups, the same in all rounds" in grouped and "together with 2 of the banks" in grouped
    assert "sum over 9 to 12 banks" in grouped  # counts are over all banks, not over a group


def test_what_a_bank_checks_of_weights_and_what_rests_on_the_platform_is_told():
    told = said(plan_of())
    assert "trains from what it judged and what stands (rule NN04)" in told and "learns them once" in told
    assert "The preparation rests on the platform" in told
    assert "reads the figures of these instead, once" in said(plan_of(max_loss_rise_permille=0))
    assert "AUC and KS of the federated model" in said(plan_of(epsilon_thousandths=2500))


def test_sums_in_clear_are_said_to_show_every_banks_own():
    told = said(plan_of(aggregation="clear"))
    assert "every bank's own, since this simulation adds up in clear" in told and "never one bank's" not in told


def test_epsilon_is_told_with_its_unit_and_what_it_does_not_cover():
    told = said(plan_of(epsilon_thousandths=2500, delta_exponent=6, privacy_unit="firm"))
    assert "all records of one firm: epsilon 2.5, delta 10^-6" in told and "Outside of epsilon: the preparation" in told
    assert "No noise is added" in said(plan_of())


def test_false_weights_and_what_limits_them_are_told():
    told = said(plan_of(norm_bound_thousandths=4000))
    assert "weights made for the purpose" in told and "bound of 4 on an update's norm" in told


def test_the_defence_that_is_in_force_is_told():
    assert "worse by 2 % is taken back, 3 times at most" in said(plan_of(max_loss_rise_permille=20, max_rollbacks=3))
    assert "rounds are not judged" in said(plan_of(max_loss_rise_permille=0))
    assert any("max_loss_rise_permille" in one for one in plan_of(max_loss_rise_permille=0)["advice"])


def test_a_person_reads_the_plan_as_sentences():
    made = plan_of(model="mlp")
    lines = plan.describe_plan(made)
    assert lines[0] == "Plan of run test-run-1, a network (mlp) across bank-1, bank-2, bank-3."
    assert any("reference costs without torch" in line for line in lines)
    assert sum(line.startswith("Not protected: ") for line in lines) == len(made["not_protected"])
    assert canonical.decode(canonical.encode(made)) == made


# ---- what it costs


def test_the_numbers_that_the_plan_counts_by_are_those_of_the_parties():
    assert preparation.FIRST_GRID.cells + 1 == costs.FIRST_CELLS
    assert costs.REFINED_CELLS == preparation.REFINED_CELLS and costs.MOST_CATEGORIES == preparation.MOST_CATEGORIES
    assert costs.MOST_WEIGHTS == platform_network.MOST_WEIGHTS
    assert costs.FIELDS_A_PART == platform_network.FIELDS_A_PART


@pytest.mark.parametrize("model", ["logistic", "mlp", "tabular"])
def test_weights_are_counted_as_the_network_has_them(model):
    agreed = network(model=model, hidden_units=[7, 5])
    spec = NetworkSpec(model, 8, (), (7, 5), agreed.embedding_width)
    assert costs.weights_of(agreed, 8) == count(spec)


@pytest.mark.parametrize("terms", [{}, {"aggregation": "clear"}, {"rounds": 20}, {"model": "tabular"}])
def test_what_is_expected_never_passes_the_bound(terms):
    made = plan_of(**terms)
    for total in made["totals"]:
        assert 0 < total["bytes_sent"] <= total["bytes_at_most"] and total["cpu_us"] <= total["wall_us"]


def test_more_banks_rounds_and_rows_cost_more():
    def cpu(**terms):
        return plan_of(**terms)["totals"][1]["cpu_us"]

    assert cpu() < cpu(rounds=7) and cpu() < cpu(max_rows=4096) and cpu() < cpu(local_epochs=5)
    assert plan_of(4)["totals"][1]["bytes_sent"] > plan_of(3)["totals"][1]["bytes_sent"]


def test_a_platform_measures_its_machine_without_torch():
    ticks = iter(range(0, 10**12, 10**6))
    measured = costs.measure_network_costs(lambda: next(ticks))
    assert measured.source == "measured" and all(v > 0 for n, v in measured.record().items() if n != "source")
    made = plan.make_plan(network(), measured)
    assert made["calibration"]["source"] == "measured"
    with pytest.raises(ValueError, match="cannot price another model"):
        plan.make_plan(contract_of(), NetworkCosts("reference"))


def test_a_run_of_three_banks_comes_to_the_bytes_that_were_expected(finished: World):
    outcome = results.gather(finished.layout, finished.ran)
    compared = planned.network_plan_part(finished.layout, finished.ran, outcome)["compared"]
    (whole,) = [row for row in compared if row["figure"] == "bytes" and row["party"] == EVERYBODY]
    assert 1 / plan_actual.GOOD_FACTOR < whole["factor"] < plan_actual.GOOD_FACTOR
    assert whole["actual"] < whole["at_most"]
    for row in compared:
        if row["figure"] == "bytes":
            assert row["actual"] <= row["at_most"] and 1 / 1.5 < row["factor"] < 1.5, row
    assert {row["figure"] for row in compared} == {"bytes", "cpu_s", "wall_s"}


def test_no_step_of_a_run_carries_more_than_its_plan_allows(finished: World):
    made = plan.make_plan(results.contract_of(finished.layout), costs.REFERENCE_COSTS)
    observed: dict[str, tuple[int, int]] = {}
    for party in finished.layout.parties:
        for leaf in finished.leaves(party, "envelope"):
            if leaf["direction"] == "out":
                envelopes, size = observed.get(leaf["step"], (0, 0))
                observed[leaf["step"]] = (envelopes + 1, size + leaf["size_bytes"])
    assert plan.check_transcript_against_plan(made, observed) == []
