"""Training benchmarks: data sets become the parties' tables by a rule, and one small run gives every figure."""

import json
import tomllib
from multiprocessing import active_children
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from conftest import SHARED
from typer.testing import CliRunner

from lianxin.federation import evaluation
from lianxin.federation.errors import InputFault
from lianxin.parties.cli import app
from lianxin.parties.records import load_firm_table, load_loan_table, read_table
from lianxin.simulations import bench_training, datasets, planned, wide_world
from lianxin.simulations.clear_scorecard import clear_scores
from lianxin.simulations.pooled import PooledBank, pooled_reference
from lianxin.simulations.tables import write_table

ABSENT = "shared/data is not beside the checkout"


@pytest.fixture
def polish(tmp_path):
    """A table in the form of the Polish set, with gaps that grow with a column's number."""
    rng, rows = np.random.default_rng(2), 600
    columns = {"firm_id": [f"P{n}" for n in range(rows)]}
    for number in range(1, 65):
        gone = rng.random(rows) < number / 200
        columns[f"Attr{number}"] = [
            None if g else round(float(v), 3) for g, v in zip(gone, rng.normal(size=rows), strict=True)
        ]
    columns["bankrupt"] = (rng.random(rows) < 0.2).astype(int).tolist()
    columns["split"] = ["test" if n % 5 == 0 else "train" for n in range(rows)]
    write_table(tmp_path / "polish_bankruptcy_5year.csv.gz", columns)
    return tmp_path


def test_the_polish_platform_has_the_fields_with_fewest_gaps_as_many_as_a_tenth_of_the_rows_bears(polish):
    inputs = datasets.map_dataset("polish", polish, polish / "out")
    most = 480 // 10 // (datasets.ROUNDS + datasets.BINS)
    assert len(inputs.platform.features) == most == 3
    table = read_table(polish / "polish_bankruptcy_5year.csv.gz")
    gaps = {n: sum(v is None for v in table.column(n)) for n in table.columns if n.startswith("Attr")}
    bank = set(inputs.banks[0].features)
    assert len(bank) == 20 and not bank & set(inputs.platform.features)
    worst = max(gaps[name] for name in inputs.platform.features)
    assert all(gaps[name] >= worst for name in set(gaps) - bank - set(inputs.platform.features))


def test_fewer_rows_are_drawn_by_the_seed_and_kept_in_order(polish):
    first = datasets.map_dataset("polish", polish, polish / "a", rows=250)
    datasets.map_dataset("polish", polish, polish / "b", rows=250)
    assert first.platform.rows == first.banks[0].rows == 250
    for name in ("platform.csv.gz", "bank-1.csv.gz"):
        assert (polish / "a" / name).read_bytes() == (polish / "b" / name).read_bytes()
    firms = load_firm_table(read_table(polish / "a" / "platform.csv.gz"), "firm_id").identifiers
    loans = load_loan_table(
        read_table(polish / "a" / "bank-1.csv.gz"), "firm_id", "label_bad", "split", None
    ).identifiers
    assert list(firms) == list(loans)


@pytest.mark.parametrize(("name", "sentence"), [("moon", "is none"), ("gmsc", "is missing")])
def test_a_set_that_is_none_or_not_there_is_refused_by_name(tmp_path, name, sentence):
    with pytest.raises(InputFault, match=sentence):
        datasets.map_dataset(name, tmp_path, tmp_path / "out")


def test_a_file_without_a_needed_column_is_refused_by_name(tmp_path):
    pl.DataFrame({"id": [1], "y": [0]}).write_csv(tmp_path / "plain.csv")
    write_table(tmp_path / "taiwan_default_raw.csv.gz", {"id": [1], "y": [0]})
    with pytest.raises(InputFault, match="lacks split"):
        datasets.map_dataset("taiwan", tmp_path, tmp_path / "out")


@pytest.mark.skipif(not (SHARED / "data").is_dir(), reason=ABSENT)
def test_the_public_sets_give_each_side_its_columns(tmp_path):
    sides = {}
    for name, rows in (("taiwan_fate", 300), ("polish", None)):
        inputs = datasets.map_dataset(name, SHARED / "data", tmp_path / name, rows)
        sides[name] = len(inputs.platform.features), len(inputs.banks[0].features)
    assert sides == {"taiwan_fate": (10, 13), "polish": (33, 20)}


def test_a_wide_table_has_its_shape_its_gaps_and_a_label_that_both_sides_tell_of(tmp_path):
    shape = wide_world.Shape(firms=900, fields=12, loans=500, own_fields=3)
    inputs = wide_world.make_wide(4, tmp_path, shape)
    assert (inputs.platform.rows, len(inputs.platform.features)) == (900, 12)
    assert (inputs.banks[0].rows, len(inputs.banks[0].features)) == (500, 3)
    loans = load_loan_table(read_table(inputs.banks[0].path), "firm_id", "label_bad", "split", None)
    assert 0.1 < np.mean(loans.labels) < 0.4 and len(set(loans.identifiers)) == 500
    gaps = load_firm_table(read_table(inputs.platform.path), "firm_id").columns["field_05"]
    assert 0.05 < sum(value is None for value in gaps) / 900 < 0.2
    with pytest.raises(InputFault, match="ask for fewer loans"):
        wide_world.make_wide(4, tmp_path, wide_world.Shape(10, 2, 11, 1))


def test_the_rounds_in_clear_come_near_exact_regression_and_the_refit_is_part_of_them():
    rng, banks = np.random.default_rng(8), []
    weights = rng.normal(0, 0.5, 5)
    for name in ("bank-1", "bank-2"):
        shared, own = rng.normal(0, 0.7, (3000, 5)), rng.normal(0, 0.7, (3000, 2))
        z = shared @ weights + own @ np.array([0.8, -0.6]) - 1.2
        y = (rng.random(3000) < 1 / (1 + np.exp(-z))).astype(int)
        half = slice(0, 1500), slice(1500, 3000)
        parts = [values[part] for part in half for values in (shared, own, y)]
        banks.append(PooledBank(name, *parts, own_columns=("a", "b")))
    exact, found = pooled_reference(banks, 1.0).pooled, clear_scores(banks, 6, 1.0)
    for bank in banks:
        assert abs(evaluation.auc(bank.y_test, found[bank.name]) - exact.auc[bank.name]) < 0.004


# ---- one run


@pytest.fixture(scope="module")
def figures(tmp_path_factory):
    """The figures of one small training over a made-up shape, with both references and the plan."""
    out = tmp_path_factory.mktemp("bench")
    kept = dict(wide_world.SHAPES)
    wide_world.SHAPES["qinghai"] = wide_world.Shape(firms=500, fields=5, loans=400, own_fields=2)
    try:
        (asked,) = bench_training.asked_for(
            "qinghai", model="boosted_trees", nodes="shown", trees=2, depth=2, workers=0, rows=None
        )
        return bench_training.bench_training(asked, None, out, lambda _: None), out / asked.name
    finally:
        wide_world.SHAPES.clear()
        wide_world.SHAPES.update(kept)


def test_a_run_tells_quality_beside_its_references_time_bytes_memory_and_the_plans_factor(figures):
    record, home = figures
    assert set(record["auc"]) == {"joint", "bank_only", "clear", "clear_uncapped", "scikit_learn"}
    assert record["paired"]["joint-clear"]["difference"] == 0.0, "trees joint and in clear are the same trees"
    assert record["seconds_per_tree"] > 0 and record["ledger_verified"] is True
    assert 0.9 < record["times_planned"]["bytes"] < 1.1
    assert 0.2 < record["times_planned"]["cpu_s"] < 5.0, "1.5 is promised of a quiet machine, which this may not be"
    assert record["cpu_s"] and record["peak_mb"] and record["bytes_sent"]["bank-1"] > 10_000
    assert json.loads((home / "figures.json").read_text()) == json.loads(json.dumps(record))


def test_the_report_of_a_run_puts_plan_expectation_and_outcome_side_by_side(figures):
    page = (figures[1] / "report.html").read_text()
    assert "Times expected" in page and "boosting.gradients" in page and "costs measured on this machine" in page


def test_the_lines_of_a_run_name_every_figure(figures):
    text = "\n".join(bench_training.lines_of(figures[0]))
    for words in (
        "AUC joint:",
        "AUC joint-clear:",
        "seconds a tree",
        "sent:",
        "memory:",
        "processor:",
        "times planned",
    ):
        assert words in text


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "give --data or --shape"),
        (["--data", "polish", "--shape", "qinghai"], "one of the two"),
        (["--data", "polish"], "--folder is missing"),
        (["--data", "moon"], "moon is none"),
        (["--data", "polish", "--model", "forest"], "forest is none"),
        (["--data", "polish", "--nodes", "veiled"], "shown or hidden"),
    ],
    ids=["nothing", "both", "no-folder", "unknown", "model", "nodes"],
)
def test_a_wrong_option_is_one_sentence(tmp_path, arguments, sentence):
    result = CliRunner().invoke(app, ["bench", "training", "--out", str(tmp_path / "o"), *arguments])
    assert isinstance(result.exception, InputFault) and sentence in str(result.exception)


def test_a_warm_pool_waits_before_the_first_round_and_fits_one_process_only(monkeypatch):
    said, contract = [], SimpleNamespace(is_network=False, model="boosted_trees", banks=("bank-1",))
    monkeypatch.setattr(bench_training.time, "sleep", lambda seconds: said.append(seconds))
    monkeypatch.setattr(bench_training, "strategy_of", lambda *given: given)
    steps = SimpleNamespace(counted=lambda replies: said.append(replies) or "done")
    led = bench_training._strategy_that_waits(7.5, contract, steps)
    assert led == (contract, steps) and said == []
    assert led[1].counted("replies") == "done" and said == [7.5, "replies"]
    with pytest.raises(InputFault, match="--processes"):
        bench_training.asked_for("taiwan", model="scorecard", nodes="shown", warm_pool_s=5.0, processes=True)


def test_a_warm_pool_holds_all_that_the_run_takes(tmp_path, monkeypatch):
    for party in ("platform", "bank-1"):
        (tmp_path / party).mkdir()
        (tmp_path / party / "node.toml").write_text('role = "x"\n[data]\n')
    laid = SimpleNamespace(parties=("platform", "bank-1"), home=lambda party: tmp_path / party)
    monkeypatch.setattr(bench_training.runner, "run_in_memory", lambda *given: given[2].args)
    asked = bench_training.Asked("taiwan", warm_pool_s=3.0)
    assert bench_training._run(asked, laid, print) == (3.0,)
    assert tomllib.loads((tmp_path / "bank-1" / "node.toml").read_text())["randomisers_ahead"] == 4_194_304
    assert "randomisers" not in (tmp_path / "platform" / "node.toml").read_text()


def test_a_run_is_priced_by_costs_measured_while_it_ran_less_the_measuring():
    before = set(active_children())
    with planned.metered(2048) as beside:
        assert beside.calibration is None and len(set(active_children()) - before) == 1
    assert not set(active_children()) - before
    assert beside.calibration.source == "measured" and beside.calibration.key_bits == 2048
    assert beside.calibration.multiply_ns < beside.calibration.encrypt_ns < beside.calibration.check_key_ns
    assert 0 < beside.own_cpu_s < 10
    ran = SimpleNamespace(cpu_s={planned.EVERYBODY: 10.0 + beside.own_cpu_s})
    bench_training._take_off(ran, beside.own_cpu_s)
    assert ran.cpu_s[planned.EVERYBODY] == pytest.approx(10)
    apart = SimpleNamespace(cpu_s={"bank-1": 3.0})  # processes are counted each by itself, without the meter
    bench_training._take_off(apart, 1.0)
    assert apart.cpu_s == {"bank-1": 3.0}


def test_a_meter_ends_with_a_run_that_fails(monkeypatch):
    said = []

    class Process(SimpleNamespace):
        def start(self):
            self.args[0].send("")

        def kill(self):
            said.append("killed")

        def join(self):
            said.append("joined")

    monkeypatch.setattr(planned, "get_context", lambda kind: SimpleNamespace(Process=Process))
    with pytest.raises(RuntimeError), planned.metered(2048):
        raise RuntimeError
    assert said == ["killed", "joined"]
