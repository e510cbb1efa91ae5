"""What is said beside a network's figures: sure or weak recommendations, bounds of a plan, notes of a launch."""

from typing import Any

import pytest

from lianxin.federation.errors import RunStopped
from lianxin.federation.plan_actual import Expected
from lianxin.federation.plan_actual_networks import bounded
from lianxin.parties.cli_status import is_told, report_end
from lianxin.parties.preparation import agreed_kind
from lianxin.parties.report import render
from lianxin.parties.report_plots import loss_svg
from lianxin.simulations.advice_networks import network_advice, still_falling


def advice_on(auc: dict[str, float | None], rows: int = 200, tests: int = 50, chosen: str = "local") -> list[str]:
    figures = {"recommended": {"bank-1": chosen}, "validation_rows": {"bank-1": rows}, "auc": {"bank-1": auc}}
    return network_advice(figures, {"bank-1": {"test_rows": list(range(tests))}}, [])


def test_a_recommendation_on_few_rows_is_weak_and_test_rows_may_say_otherwise() -> None:
    agreeing = {"local": 0.75, "federated": 0.7, "personalised": 0.7, "pooled": 0.9}
    assert advice_on(agreeing) == []
    assert "fewer than 100 make this weak" in advice_on(agreeing, rows=99)[0]
    assert "no row was held back" in advice_on(agreeing, rows=0)[0]
    assert "federated is better than the recommended local by 0.1000" in advice_on({**agreeing, "federated": 0.85})[0]
    assert "it has no test rows" in advice_on(dict.fromkeys(agreeing), tests=0)[0]
    assert "worse than chance (AUC below 0.5) by local, federated" in advice_on({"local": 0.4, "federated": 0.4})[0]


def test_a_loss_that_still_falls_asks_for_more_rounds() -> None:
    def curve(*losses: int) -> list[dict[str, Any]]:
        return [{"round": n, "validation_loss_micro": loss, "accepted": True} for n, loss in enumerate(losses)]

    assert still_falling(curve(690_000, 600_000, 540_000)) == [
        "The loss still fell by 10.0 % in the last round: more --rounds may help."
    ]
    assert still_falling(curve(690_000, 600_000, 599_000)) == [] and still_falling([]) == []


def test_a_ranking_worse_than_chance_says_so_beside_its_ks() -> None:
    given = {"auc": {"overall": {"federated": 0.3}}, "ks": {"overall": {"federated": 0.4}}}
    assert "worse than chance" in render(given)
    assert "worse than chance" not in render({**given, "auc": {"overall": {"federated": 0.6}}})


def test_a_round_that_was_taken_back_has_a_hollow_mark_and_a_legend() -> None:
    losses = {"rows held back": [(0, 0.6), (1, 0.9), (2, 0.5)]}
    assert loss_svg(losses, "a").count("#ffffff") < loss_svg(losses, "a", [1]).count("#ffffff")
    shown = render({"network": {"losses": losses, "taken_back": [1]}})
    assert "a round that was taken back" in shown
    assert "a round that was taken back" not in render({"network": {"losses": losses, "taken_back": []}})


def test_at_most_is_never_below_expected() -> None:
    def totals(*spent: int) -> list[dict[str, Any]]:
        return [{"party": f"p{n}", "cpu_us": one, "wall_us": 10} for n, one in enumerate(spent)]

    found = bounded({"totals": totals(5, 5)}, {"totals": totals(8, 1)}, Expected([], totals(6, 7), {}), True)["totals"]
    assert [total["cpu_us"] for total in found] == [8, 7] and all(total["wall_us"] == 15 for total in found)


def test_kinds_that_differ_name_the_banks_with_text() -> None:
    with pytest.raises(RunStopped, match=r"text at others \(text at bank-2\)"):
        agreed_kind("debt", ["number", "text", "empty"], ["bank-1", "bank-2", "bank-3"])


def test_a_launch_tells_rounds_and_not_each_answer(capsys: pytest.CaptureFixture[str]) -> None:
    notes = [
        "bank-1 query.firsta",
        "bank-1 train",
        "begin round 1",
        "round 1 rows 90",
        "end round 1",
        "rolled back round 1",
    ]
    assert [note for note in notes if is_told(note, True)] == ["round 1 rows 90", "rolled back round 1"]
    assert all(is_told(note, False) for note in notes)
    metrics = {"bank-1": {"test_rows": 60, "auc_federated": 712_345, "ks_federated": 1}, "bank-2": {}}
    report_end({"run": "run-1", "state": "finished", "matched": {}, "rounds": 3, "metrics": metrics}, False)
    said = capsys.readouterr().out
    assert said == "run run-1 finished; 3 rounds; bank-1: AUC of 60 rows, federated 0.7123; bank-2: no figure\n"
