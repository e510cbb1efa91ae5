"""What privacy costs in AUC: the benchmark on a small made-up table, and its mistakes in words."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from lianxin.parties import cli
from lianxin.simulations.bench_privacy import TABLE


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(4)
    values = rng.normal(size=(1500, 3))
    bad = rng.random(1500) < 1 / (1 + np.exp(1 - 2 * values[:, 0]))
    lines = ["id,a,b,c,y,split"]
    lines += [
        f"{row},{a:.4f},{b:.4f},{c:.4f},{int(bad[row])},{'test' if row % 3 == 0 else 'train'}"
        for row, (a, b, c) in enumerate(values)
    ]
    (tmp_path / TABLE).write_bytes(gzip.compress("\n".join(lines).encode()))
    return tmp_path


def test_the_benchmark_sets_auc_beside_epsilon_and_beside_no_privacy(folder, capsys):
    asked = ["bench", "privacy", "--folder", str(folder), "--epsilon", "2", "--rounds", "4"]
    assert cli.run([*asked, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert set(record["auc"]) == {"2", "none", "local", "client_2"}
    assert record["auc"]["none"] > 0.7 and record["noise"]["2"] > 0.5
    ratios = record["client_noise"]
    assert ratios["3"] > 10 * ratios["100"] > 0.5 * 10 * ratios["1000"]


@pytest.mark.parametrize(
    ("flags", "said"), [(["--epsilon", "0"], "epsilons from 0.1 on"), ([], "give --folder the folder")]
)
def test_a_mistake_is_one_sentence(tmp_path, capsys, flags, said):
    assert cli.run(["bench", "privacy", "--folder", str(tmp_path), *flags]) == 2
    assert said in capsys.readouterr().err
