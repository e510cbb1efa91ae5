"""The evaluation as one value, its record, and what a finished run writes and prints of it."""

import json
import shutil

import numpy as np
import pytest
import worlds
from worlds import finished, province  # noqa: F401 - fixtures

from lianxin.crypto import canonical
from lianxin.crypto.randomness import Drbg
from lianxin.federation import evaluation
from lianxin.federation.errors import InputFault
from lianxin.federation.evaluation_leaks import Leak
from lianxin.federation.evaluation_models import NO_ROWS, ONE_CLASS, TRAIN, evaluate_models, run_record
from lianxin.federation.evaluation_stability import Stability
from lianxin.parties import bank_evaluation
from lianxin.parties.config import EvaluationSection
from lianxin.parties.records import LoanTable
from lianxin.parties.report import render
from lianxin.parties.report_evaluation import paired_table, segments_html
from lianxin.simulations import evaluations, results, story

SEED = Drbg(b"e" * 32)


def rows(size=2600, seed=1, share=0.1):
    rng = np.random.default_rng(seed)
    labels = (rng.random(size) < share).astype(int)
    common = rng.normal(size=size) - 2.2
    joint, alone = common + 1.5 * labels, common + 0.7 * labels
    return labels, {"bank_only": 1 / (1 + np.exp(-alone)), "joint": 1 / (1 + np.exp(-joint))}


def test_every_figure_of_a_level_is_there_and_agrees_with_the_plain_ones():
    labels, scores = rows()
    found = evaluate_models(labels, scores, None, SEED)
    for name, vector in scores.items():
        figures = found.models[name]
        assert figures.auc.value == pytest.approx(evaluation.auc(labels, vector), abs=1e-12)
        assert figures.ks.value == evaluation.ks(labels, vector)
        assert figures.gini.low == pytest.approx(2 * figures.auc.low - 1)
        assert figures.brier and figures.hosmer_lemeshow.degrees == 10 and figures.bands and len(figures.lift) == 10
    assert found.first == "joint" and found.paired["bank_only"].low > 0
    assert (found.rows, found.firms, found.notes) == (2600, 2600, ())
    assert evaluate_models(labels, scores, None, SEED, TRAIN, True).models["joint"].hosmer_lemeshow.degrees == 8


def test_a_record_is_canonical_and_holds_millionths():
    labels, scores = rows()
    found = evaluate_models(labels, scores, None, SEED)
    record = run_record(
        "run-1", "bank-1", [found], [], 2, {"age": Stability(0.3, 0.01)}, (), (Leak("Term", None, "why"),)
    )
    again = canonical.decode(canonical.encode(record))
    assert again == record and again["small_segments"] == 2
    (level,) = again["levels"]
    joint = next(entry for entry in level["models"] if entry["model"] == "joint")
    assert joint["auc"]["value"] == round(found.models["joint"].auc.value * 10**6)
    assert joint["lift"][0]["rows"] == found.models["joint"].lift[0].rows
    assert again["stability"] == [{"name": "age", "grade": "shifted", "index": 300_000, "by_chance": 10_000}]
    assert again["leaks"] == [{"field": "Term", "reason": "why"}]


def test_few_bads_print_the_interval_and_say_that_it_is_too_small():
    labels = np.zeros(2600, dtype=int)
    labels[::50] = 1
    found = evaluate_models(labels, {"joint": rows()[1]["joint"]}, None, SEED)
    assert found.notes[0].startswith("2,600 rows at 2.0 % give 52 bads")
    assert found.models["joint"].auc.high - found.models["joint"].auc.low > 0.1


def test_loans_of_one_firm_are_counted_as_one_firm_and_said_to_be():
    labels, scores = rows()
    firms = np.arange(labels.size) // 2
    found = evaluate_models(labels, scores, firms, SEED)
    assert found.firms == 1300 and "2,600 rows are of 1,300 firms" in found.notes[-1]


@pytest.mark.parametrize("labels", [[0, 0, 0], []], ids=["goods", "none"])
def test_rows_of_one_class_have_no_figure_and_say_why(labels):
    found = evaluate_models(labels, {"joint": [0.1] * len(labels)}, None, SEED)
    assert (found.models, found.paired, found.notes) == ({}, {}, (ONE_CLASS if labels else NO_ROWS,))
    canonical.encode(found.to_record())


def test_scores_that_are_points_have_no_calibration():
    labels, scores = rows()
    figures = evaluate_models(labels, {"joint": scores["joint"] * 600}, None, SEED).models["joint"]
    assert figures.brier is figures.hosmer_lemeshow is None and figures.bands == ()
    assert "brier" not in evaluate_models(labels, {"joint": scores["joint"] * 600}, None, SEED).to_record()["models"][0]


def test_the_platforms_part_moves_together_and_counts_as_all_of_it():
    design = np.random.default_rng(1).normal(size=(500, 3))
    evidence = bank_evaluation.linear_evidence(
        [], {}, np.array([0.5, 2.0, 1.0, 0.0]), design, ["age", "rate"], "p", "b"
    )
    assert evidence.columns == {"p": (bank_evaluation.PLATFORM_PART,), "b": ("age", "rate")}
    order = np.arange(500)[::-1]
    moved = evidence.score({bank_evaluation.PLATFORM_PART: order})
    np.testing.assert_allclose(moved, 2 * design[order, 0] + design[:, 1], atol=1e-12)
    np.testing.assert_allclose(evidence.score({}), 2 * design[:, 0] + design[:, 1], atol=1e-12)


def test_a_column_to_evaluate_by_must_be_in_the_table():
    table = LoanTable(["a"], [0], ["test"], {"trade": ["x"]})
    bank_evaluation.check_columns(EvaluationSection(segments=["trade"]), table)
    with pytest.raises(InputFault, match=r"evaluation.time: the bank's table has no column approved"):
        bank_evaluation.check_columns(EvaluationSection(time="approved"), table)
    mixed = LoanTable(["a", "b"], [0, 1], ["test"] * 2, {"day": ["2025-01-01", 7]})
    with pytest.raises(InputFault, match=r"evaluation.time: the column day holds both numbers and text"):
        bank_evaluation.check_columns(EvaluationSection(time="day"), mixed)


# ---- a finished run


@pytest.fixture(scope="module")
def outcome(finished):  # noqa: F811
    return results.gather(finished.layout, finished.ran)


def test_a_bank_writes_its_evaluation_beside_the_model(finished):  # noqa: F811
    bank = finished.banks[0]
    data = (finished.layout.run_state(bank) / "evaluation.json").read_bytes()
    record, scores = canonical.decode(data), json.loads((finished.layout.run_state(bank) / "scores.json").read_text())
    assert (record["type"], record["run"], record["party"]) == ("evaluation", "run-1", bank)
    test, train = record["levels"]
    assert (test["level"], test["rows"], train["level"]) == ("test", len(scores["labels"]), "train")
    joint = next(entry for entry in test["models"] if entry["model"] == "joint")
    assert joint["auc"]["value"] == round(evaluation.auc(scores["labels"], scores["joint"]) * 10**6)
    assert {item["block"] for item in record["importance"]} >= {f"all of {bank}", "all of platform"}
    assert {item["name"] for item in record["stability"]} >= {"score joint", "score bank_only"}
    assert not any(subject.encode() in data for subject in scores["subjects"])


def test_a_simulation_prints_intervals_and_every_comparison_as_a_paired_test(outcome):
    assert set(outcome.figures["intervals"]) == set(outcome.figures["auc"])
    for level, models in outcome.figures["intervals"].items():
        for model, (low, high) in models.items():
            assert low <= outcome.figures["auc"][level][model] <= high
        tests = outcome.figures["paired"][level]
        assert set(tests) >= {"joint-bank_only", "joint-pooled"}
        gain = outcome.figures["auc"][level]["joint"] - outcome.figures["auc"][level]["bank_only"]
        assert tests["joint-bank_only"]["difference"] == pytest.approx(gain, abs=1e-6)
        assert set(tests["joint-pooled"]) == {"difference", "low", "high", "p"}
    json.dumps(outcome.figures)


def test_the_intervals_are_the_same_each_time(finished, outcome):  # noqa: F811
    scores = {
        bank: json.loads((finished.layout.run_state(bank) / "scores.json").read_text()) for bank in finished.banks
    }
    assert evaluations.compare(finished.layout, outcome.curves, scores) == outcome.evaluation


def test_report_and_terminal_show_each_comparison(finished, outcome):  # noqa: F811
    summary = story.summary_of(finished.layout, finished.ran, outcome)
    page = render(summary)
    assert "How sure the figures are" in page and "Paired tests of AUC" in page and "Permutation importance" in page
    assert page.count("<td>joint less bank only</td>") == len(outcome.figures["paired"])
    assert "the interval is too wide to rank models by" in page
    table = paired_table(summary)
    assert table.row_count == sum(len(tests) for tests in outcome.figures["paired"].values())
    assert "give" in str(table.caption)
    assert paired_table({}) is None


def test_segments_and_an_out_of_time_test_come_with_the_configuration(finished, tmp_path):  # noqa: F811
    """The run of a bank is replayed from its files: what `evaluate_run` needs of it is its table, rows and scores."""
    found = bank_evaluation.evaluate_run(_replayed(finished, EvaluationSection(segments=["half"], time="day")))
    names = [level["level"] for level in found["levels"]]
    assert names == ["test", "out of time"] and bank_evaluation.AS_LATE in found["notes"]
    late = found["levels"][1]
    assert 0 < late["rows"] < found["levels"][0]["rows"]
    shown = {part["level"] for part in found["segments"]}
    assert len(shown) + found["small_segments"] == 2 and shown <= {"half=left", "half=right"}
    canonical.encode(found)


def test_a_fault_in_the_evaluation_costs_neither_model_nor_run(finished, tmp_path, monkeypatch):  # noqa: F811
    run, said = _replayed(finished, EvaluationSection()), []
    run.node.say = lambda what, *_run, **_how: said.append(what)
    bank_evaluation.write_evaluation(run, tmp_path)
    assert canonical.decode((tmp_path / "evaluation.json").read_bytes())["levels"] and not said
    (tmp_path / "evaluation.json").unlink()
    monkeypatch.setattr(bank_evaluation, "leaks", lambda *_: 1 / 0)
    bank_evaluation.write_evaluation(run, tmp_path)
    assert "no evaluation of run-1" in said[0] and not list(tmp_path.iterdir())


def test_a_listed_field_of_the_contract_is_flagged(finished):  # noqa: F811
    found = bank_evaluation.evaluate_run(_replayed(finished, EvaluationSection(known_after=["loan_rate", "absent"])))
    assert [(leak["field"], leak["reason"]) for leak in found["leaks"]] == [
        ("loan_rate", "known only after the decision")
    ]


class _Replayed:
    """What the evaluation reads of a finished run."""

    def __init__(self, world, section):
        from types import SimpleNamespace

        from lianxin.parties.records import load_loan_table, read_table

        bank, inputs = world.banks[0], world.layout.inputs
        table = load_loan_table(read_table(inputs.banks[0].path), worlds.ID, worlds.LABEL, worlds.SPLIT, None)
        size = len(table.labels)
        extra = {"half": ["left" if k % 3 else "right" for k in range(size)], "day": [k % 97 for k in range(size)]}
        self.table = LoanTable(table.identifiers, table.labels, table.split, {**table.columns, **extra})
        self.node = SimpleNamespace(config=SimpleNamespace(evaluation=section), party=bank)
        self.contract = SimpleNamespace(run="run-1")
        self.drbg, self.features, self.specs = SEED, ["loan_rate"], {}
        state = world.layout.run_state(bank)
        self.result = json.loads((state / "scores.json").read_text())
        self.training = json.loads((state / "model.json").read_text())["training_rows"]


def _replayed(world, section):
    return _Replayed(world, section)


def test_an_evaluation_goes_when_the_model_goes(finished, tmp_path):  # noqa: F811
    from lianxin.parties.config import load_node
    from lianxin.parties.node import open_node
    from lianxin.parties.retention import delete_derived

    copy = worlds.copy_of(finished, tmp_path / "run") / "parties" / finished.banks[0]
    node = open_node(load_node(copy / "node.toml"))
    try:
        assert delete_derived(node, "run-1", "R07")[0]["count"] == 3
        assert not (copy / "state" / "runs" / "run-1" / "evaluation.json").exists()
    finally:
        node.close()
        shutil.rmtree(copy)


# ---- on a page


def test_names_of_others_are_escaped_on_the_page():
    hostile = "<script>alert('x')</script>"
    labels, scores = rows(600)
    level = evaluate_models(labels, {"joint": scores["joint"], hostile: scores["bank_only"]}, None, SEED, hostile)
    record = run_record("run-1", "b", [level], [level], 0, {hostile: Stability(0.2, 0.1)}, (), (), (hostile,))
    leaking = {hostile: [{"field": hostile, "reason": hostile, "auc": 950_000}]}
    page = render({"evaluation": record, "bank_evaluations": {hostile: record}, "leaks": leaking})
    assert "<script" not in page and "&lt;script&gt;" in page and "These features may know the outcome" in page


def test_a_segment_of_few_bads_is_shown_and_said_to_be_small():
    labels, scores = rows(600)
    level = evaluate_models(labels, scores, None, SEED, "trade=retail")
    page = segments_html(run_record("run-1", "b", [], [level], 3))
    assert "trade=retail" in page and "3 segments have too few firms" in page
    assert "fewer than 100 bads, too few to rank models by: 1." in page
    assert segments_html({}) == ""


def test_rows_of_one_class_and_an_empty_record_still_make_a_page():
    level = evaluate_models([0, 0, 0], {"joint": [0.1, 0.2, 0.3]}, None, SEED)
    page = render({"evaluation": run_record("run-1", "b", [level])})
    assert "one class of the label only" in page and "How sure the figures are" in page
    assert "How sure the figures are" not in render({"evaluation": run_record("run-1", "b", [])})
