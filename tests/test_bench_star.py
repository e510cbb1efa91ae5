"""The star benchmark's own arithmetic: which runs are made, what grows how, and a plot of it."""

from pathlib import Path
from typing import Any

import pytest

from lianxin.federation.errors import InputFault
from lianxin.simulations import bench_star
from lianxin.simulations.bench_star import Asked


def point(banks: int, rows: int) -> dict[str, Any]:
    """A run whose processor time grows with rows x banks, its bytes with the square of the banks, its time not at all."""
    costs = {"cpu_s": banks * rows / 10, "bytes_sent": 1000.0 * banks**2, "peak_mb": 200.0}
    return {
        "banks": banks, "rows": rows, "wall_s": 12.0, "verified": True,
        **{name: {"platform": cost, "bank_median": cost, "bank_most": cost, "all": cost} for name, cost in costs.items()},
    }  # fmt: skip


ASKED = Asked(banks=(5, 10, 40), rows=(150, 300))
POINTS = [point(banks, rows) for banks, rows in ASKED.points()]


def test_each_number_of_banks_and_of_rows_is_run_once() -> None:
    assert ASKED.points() == [(5, 150), (10, 150), (40, 150), (5, 300)]


def test_the_power_with_which_a_cost_grows_is_found() -> None:
    found = bench_star._exponents(ASKED, POINTS)
    assert found["banks"] == {"cpu_s": 1.0, "bytes": 2.0, "wall_s": 0.0}
    assert found["rows"]["cpu_s"] == 1.0


def test_the_figures_and_the_plot_name_every_run() -> None:
    record = {"points": POINTS, "exponents": bench_star._exponents(ASKED, POINTS)}
    lines = bench_star.lines_of(record)
    assert len(lines) == 1 + len(POINTS) + 2 and "1.0 (CPU), 2.0 (bytes)" in lines[-2]
    drawn = bench_star.draw(record).decode()
    assert drawn == bench_star.draw(record).decode() and all(f">{banks}<" in drawn for banks in (5, 10, 40))


@pytest.mark.parametrize("asked", [Asked(rows=(99,)), Asked(banks=(0,))], ids=["few loans", "no bank"])
def test_a_star_that_cannot_be_is_refused_and_nothing_is_written(asked: Asked, tmp_path: Path) -> None:
    with pytest.raises(InputFault, match="at least"):
        bench_star.bench_star(asked, tmp_path / "out", lambda _: None)
    assert not (tmp_path / "out").exists()
