"""What a star of many banks costs: `lianxin bench star`. A platform and each bank are processes of their own on gRPC.

Each point is a whole run as `lianxin simulate` makes it, with consents, gate, ledger and mutual TLS, then verified: a made-up
platform whose firms lend from one bank each. Time, bytes, processor time and memory are of each node. Cost is looked at
against the number of banks at one size, and against the rows of a bank at one number of banks: the exponent is the slope of
a straight line through the logarithms, 1 where twice as much costs twice as much. A node's start and its keys cost the same
whatever it holds, so that few rows grow by less.
"""

import io
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from lianxin.federation.errors import InputFault, RunStopped
from lianxin.parties import auditor
from lianxin.simulations import layout, runner
from lianxin.simulations.bench_machine import describe_machine
from lianxin.simulations.wide_world import Shape, make_wide

FIGURES, PLOT = "star.json", "star.svg"
_MINIMUMS = {"max_bins": 3, "spare_attempts": 0}
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Asked:
    """What is measured: numbers of banks at `rows[0]` loans each, and loans a bank at `banks[0]` banks."""

    banks: tuple[int, ...] = (5, 10, 20, 40)
    rows: tuple[int, ...] = (150, 600, 2400)
    fields: int = 6
    own_fields: int = 2
    rounds: int = 1
    matching: str = "ecdh"
    key_bits: int = 2048
    seed: int = 1

    def points(self) -> list[tuple[int, int]]:
        """Return (banks, rows) of every run, each once."""
        named = [(banks, self.rows[0]) for banks in self.banks] + [(self.banks[0], rows) for rows in self.rows]
        return list(dict.fromkeys(named))


def bench_star(asked: Asked, out: Path, tell: Tell) -> dict[str, Any]:
    """Run every point and return their figures; `out` gets the figures, the plot and each run's folder.

    Raises InputFault where `out` holds something already, RunStopped where a run did not end as it should.
    """
    if min(*asked.banks, *asked.rows) < 1 or min(asked.rows) < 100:
        raise InputFault("a bank of a star has at least 100 loans, and a star at least one bank")
    layout.check_out(out)
    out.mkdir(parents=True, exist_ok=True)
    points = [_point(asked, banks, rows, out / f"banks-{banks}-rows-{rows}", tell) for banks, rows in asked.points()]
    record = {
        "bench": "star", "key_bits": asked.key_bits, "profile": "short_exponents", "matching": asked.matching,
        "rounds": asked.rounds, "fields": asked.fields, "own_fields": asked.own_fields, "points": points,
        "exponents": _exponents(asked, points), "machine": describe_machine(),
    }  # fmt: skip
    (out / FIGURES).write_text(json.dumps(record, indent=1) + "\n")
    (out / PLOT).write_bytes(draw(record))
    return record


def _point(asked: Asked, banks: int, rows: int, home: Path, tell: Tell) -> dict[str, Any]:
    tell(f"{banks} banks, {rows} loans each: keys and consents")
    shape = Shape(firms=2 * banks * rows, fields=asked.fields, loans=rows, own_fields=asked.own_fields)
    inputs = make_wide(asked.seed, home / "tables", shape, banks)
    terms = replace(
        layout.Terms(seed=asked.seed, matching=asked.matching, key_bits=asked.key_bits, rounds=asked.rounds),
        profile="short_exponents", outsider_permille=0, minimums=_MINIMUMS,
    )  # fmt: skip
    laid = layout.lay_out(
        home / "run", inputs, terms, layout.choose_catalogue(inputs, None, False), runner.free_address()
    )
    nodes = runner.Processes(laid)
    try:
        tell(f"{banks} banks, {rows} loans each: {banks + 1} nodes start")
        nodes.start()
        begun = time.monotonic()
        nodes.launch()
        ran = nodes.wait(lambda note: tell(f"{banks} banks, {rows} loans each: {note}"))
        wall = time.monotonic() - begun
    finally:
        nodes.stop()
    tell(f"{banks} banks, {rows} loans each: verifying")
    return {"banks": banks, "rows": rows, "wall_s": round(wall, 1), "verified": _verified(laid), **_costs(laid, ran)}


def _verified(laid: layout.Layout) -> bool:
    if not auditor.verify_run(laid.folder).ok:
        raise RunStopped(
            f"the evidence of a star of {len(laid.parties) - 1} banks does not verify; the figures are void"
        )
    return True


def _costs(laid: layout.Layout, ran: runner.Ran) -> dict[str, Any]:
    """Return what the platform used, and the middle and the most of what a bank used."""
    first, *banks = laid.parties
    found: dict[str, Any] = {}
    for name, by_party in (("cpu_s", ran.cpu_s), ("peak_mb", ran.peak_mb), ("bytes_sent", ran.bytes_sent)):
        of_banks = [by_party[bank] for bank in banks]
        found[name] = {
            "platform": round(by_party[first], 2), "bank_median": round(median(of_banks), 2),
            "bank_most": round(max(of_banks), 2), "all": round(by_party[first] + sum(of_banks), 2),
        }  # fmt: skip
    return found


def _exponents(asked: Asked, points: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Return the slope of log cost against log size: over banks and over rows, of CPU seconds, bytes and wall time."""
    by_banks = [one for one in points if one["rows"] == asked.rows[0]]
    by_rows = [one for one in points if one["banks"] == asked.banks[0]]
    costs: dict[str, Callable[[Mapping[str, Any]], float]] = {
        "cpu_s": lambda one: one["cpu_s"]["all"], "bytes": lambda one: one["bytes_sent"]["all"],
        "wall_s": lambda one: one["wall_s"],
    }  # fmt: skip
    return {
        name: {cost: _slope([one[name] for one in line], [read(one) for one in line]) for cost, read in costs.items()}
        for name, line in (("banks", by_banks), ("rows", by_rows))
        if len(line) > 1
    }


def _slope(sizes: Sequence[float], costs: Sequence[float]) -> float:
    slope, _ = np.polyfit(np.log(sizes), np.log(np.maximum(costs, 1e-9)), 1)
    return round(float(slope), 3)


def draw(record: Mapping[str, Any]) -> bytes:
    """Return the plot of a record as SVG: CPU seconds and bytes of all nodes against banks, and against rows of a bank."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    settings: Any = {"svg.fonttype": "none", "svg.hashsalt": "bench", "font.size": 9, "font.family": "sans-serif"}
    with rc_context(rc=settings):
        figure = Figure(figsize=(9.0, 3.6), layout="constrained")
        FigureCanvasAgg(figure)
        least = {name: min(one[name] for one in record["points"]) for name in ("banks", "rows")}
        for place, (along, fixed) in enumerate((("banks", "rows"), ("rows", "banks"))):
            line = sorted((one for one in record["points"] if one[fixed] == least[fixed]), key=lambda one: one[along])
            _draw(figure.add_subplot(1, 2, place + 1), line, along, fixed)
        written = io.BytesIO()
        metadata: Any = {"Date": None, "Creator": None}
        figure.savefig(written, format="svg", metadata=metadata)
    return written.getvalue()


def _draw(axes: Any, line: Sequence[Mapping[str, Any]], along: str, fixed: str) -> None:
    sizes = [one[along] for one in line]
    curves = (
        ("CPU s, all nodes", "#1f4e8c", [one["cpu_s"]["all"] for one in line]),
        ("MB sent, all nodes", "#b7611f", [one["bytes_sent"]["all"] / 1e6 for one in line]),
        ("seconds by the wall", "#2a8c8c", [one["wall_s"] for one in line]),
    )
    for name, colour, costs in curves:
        axes.plot(sizes, costs, marker="o", color=colour, label=name)
        ideal = [costs[0] * size / sizes[0] for size in sizes]
        axes.plot(sizes, ideal, linestyle=":", linewidth=1, color=colour)
    axes.set(xscale="log", yscale="log")
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.minorticks_off()
    names = {"banks": "banks", "rows": "loans a bank"}
    axes.set_xlabel(f"{names[along]} ({line[0][fixed]} {names[fixed]}); dotted: in proportion")
    axes.legend(frameon=False, fontsize=8)


def lines_of(record: Mapping[str, Any]) -> list[str]:
    """Return what a terminal shows of a record, a line a point."""
    head = f"{'banks':>6}{'rows':>7}{'wall s':>9}{'CPU s':>9}{'MB sent':>9}{'platform MB':>13}{'a bank MB':>11}"
    rows = [
        f"{one['banks']:>6}{one['rows']:>7}{one['wall_s']:>9}{one['cpu_s']['all']:>9}"
        f"{one['bytes_sent']['all'] / 1e6:>9.1f}{one['peak_mb']['platform']:>13.0f}{one['peak_mb']['bank_median']:>11.0f}"
        for one in record["points"]
    ]
    told = [
        f"against {name}, cost grows with the power {figures['cpu_s']} (CPU), {figures['bytes']} (bytes), "
        f"{figures['wall_s']} (wall)"
        for name, figures in record["exponents"].items()
    ]
    return [head, *rows, *told]
