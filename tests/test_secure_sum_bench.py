"""The benchmark of secure sums plays whole sums, counts what each side used, and stops where a total is wrong."""

import json

import pytest

from lianxin.federation import secure_sum_platform
from lianxin.federation.errors import InputFault, RunStopped
from lianxin.parties import cli
from lianxin.simulations.bench_sums import STAGES, Asked, bench_sums


def test_a_benchmark_plays_a_whole_sum_and_says_what_each_side_used(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["bench", "sums", "--banks", "5", "--parameters", "1000", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["exact"] is True and record["lost"] == 1 and record["machine"]
    assert set(record["bank_cpu_s_by_stage_max"]) == set(record["platform_cpu_s_by_stage"]) == set(STAGES)
    assert 0 < record["bank_cpu_s"] <= record["bank_cpu_s_max"] and record["platform_cpu_s"] > 0
    assert 0 < record["bank_bytes_beyond_vector"] == record["bank_bytes_sent"] - 8000


def test_a_sum_that_is_wrong_stops_the_benchmark(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secure_sum_platform, "added", lambda _terms, total, _other, _sign: total)
    with pytest.raises(RunStopped, match="void"):
        bench_sums(Asked(3, 10), lambda _note: None)


@pytest.mark.parametrize("asked", [Asked(2, 10), Asked(65, 10), Asked(5, 0), Asked(5, 10, 2)], ids=str)
def test_sizes_that_cannot_be_are_refused(asked: Asked) -> None:
    with pytest.raises(InputFault):
        bench_sums(asked, lambda _note: None)
