"""The command about a bank's privacy budget: what its table may spend, what runs have spent, what is left."""

import json
from typing import TYPE_CHECKING, Any

import typer

from lianxin.parties.cli_nodes import AsJson, Config, bank, role_config

if TYPE_CHECKING:
    from lianxin.parties.config import NodeConfig


@bank.command("privacy")
def bank_privacy(config: Config, as_json: AsJson = False) -> None:
    """Show the budget of differential privacy, what each run has spent of it, and what is left.

    Example: lianxin bank privacy a.toml --json
    """
    report = _report(role_config(config, "bank"))
    if as_json:
        typer.echo(json.dumps(report))
        return
    for line in _lines(report):
        typer.echo(line)


def _report(config: "NodeConfig") -> dict[str, Any]:
    from lianxin.parties.clock import now_of
    from lianxin.parties.privacy import open_runs, report_of, spent_of
    from lianxin.parties.store_open import open_store

    store = open_store(config, read_only=True)
    try:
        now = now_of(config.simulation.clock if config.simulation else None)
        return report_of(spent_of(store), config.privacy, now) | {"without_privacy": open_runs(store)}
    finally:
        store.close()


def _lines(report: dict[str, Any]) -> list[str]:
    budget, days = report["budget"], report["budget"]["days"]
    window = f"any {days} days" if days else "all runs"
    said = [f"budget: epsilon {_epsilon(budget)} and delta 10^-{budget['delta_exponent']} over {window}"]
    for run in report["runs"]:
        counts = "" if run["counts"] else " (out of the window)"
        said.append(
            f"{run['run']}: epsilon {_epsilon(run)}, delta 10^-{run['delta_exponent']} a {run['unit']}, {run['rows']} rows, "
            f"noise {run['noise_thousandths'] / 1000:g} over {run['steps']} steps, {run['time']}{counts}"
        )
    left = max(0, report["left_delta_e12"]) / 10**12
    said.append(f"left: epsilon {report['left_thousandths'] / 1000:g} and delta {left:.3g}")
    if report["without_privacy"]:
        said.append(
            f"without privacy: {', '.join(report['without_privacy'])}; networks trained so are in no budget and give no bound"
        )
    return said


def _epsilon(record: dict[str, Any]) -> str:
    return f"{record['epsilon_thousandths'] / 1000:g}"
