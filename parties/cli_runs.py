"""Commands about runs: which there are, cancel one, withdraw from one, let one go on."""

import json
from pathlib import Path
from typing import Annotated

import typer

from lianxin.parties.cli_nodes import As, AsJson, BankConfig, Config, RunId, bank, platform, role_config
from lianxin.parties.control import ask
from lianxin.parties.language import shown

PlatformConfig = Annotated[Path, typer.Option("--node", help="The platform node's TOML file.")]
Reason = Annotated[str, typer.Option("--reason", help="Why; it is kept here and told to nobody.")]
All = Annotated[bool, typer.Option("--all", help="Show every run that ended, not only the newest 50.")]


def _show(config: Path, role: str, everything: bool, as_json: bool) -> None:
    from lianxin.parties.runs_listed import described

    answer = ask(role_config(config, role).state, {"do": "runs", "what": "list", "all": everything})
    if as_json:
        typer.echo(json.dumps({"runs": answer["runs"]}))
        return
    for run in answer["runs"]:
        for sentence in described(run):
            typer.echo(shown(sentence))
    if not answer["runs"]:
        typer.echo(shown("no run is known here"))


@platform.command("runs")
def platform_runs(config: Config, everything: All = False, as_json: AsJson = False) -> None:
    """List the runs of a running platform: where each stands, whom it waits for until when, why it failed, what to do.

    Example: lianxin platform runs platform.toml --json
    """
    _show(config, "platform", everything, as_json)


@bank.command("runs")
def bank_runs(config: Config, everything: All = False, as_json: AsJson = False) -> None:
    """List the runs of a running bank's node, as `lianxin platform runs` does.

    Example: lianxin bank runs a.toml
    """
    _show(config, "bank", everything, as_json)


def _ask_about(config: Path, role: str, what: str, run: str, operator: str = "", reason: str = "") -> dict[str, object]:
    request = {"do": "runs", "what": what, "run": run, "operator": operator, "reason": reason}
    return ask(role_config(config, role).state, request)


@platform.command("cancel")
def platform_cancel(run: RunId, config: PlatformConfig, operator: As, reason: Reason = "") -> None:
    """Cancel a run that is queued, waits for approvals or is under way: it fails by rule C12 on every node.

    Example: lianxin platform cancel run-1 --node platform.toml --operator li --reason "wrong features"
    """
    _ask_about(config, "platform", "cancel", run, operator, reason)
    typer.echo(shown(f"run {run} is being cancelled; `lianxin platform runs {config}` shows its end"))


@platform.command("resume")
def platform_resume(
    run: RunId, config: PlatformConfig, operator: Annotated[str, typer.Option("--operator", help="Who asks.")] = ""
) -> None:
    """Let a run go on that is queued, or that was interrupted and has a checkpoint; others say what to do instead.

    Example: lianxin platform resume run-1 --node platform.toml
    """
    typer.echo(shown(str(_ask_about(config, "platform", "resume", run, operator)["said"])))


@bank.command("leave")
def bank_leave(run: RunId, config: BankConfig, operator: As, reason: Reason = "") -> None:
    """Withdraw this bank from a run: a waiting proposal is refused, a run under way fails by rule C13 on every node.

    Example: lianxin bank leave run-1 --node a.toml --operator wang
    """
    _ask_about(config, "bank", "leave", run, operator, reason)
    typer.echo(shown(f"this bank leaves run {run}; `lianxin bank runs {config}` shows its end"))
