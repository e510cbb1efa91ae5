"""Commands of an auditor: verify a run's evidence, replay a simulated run."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from lianxin.federation.errors import EvidenceRejected, InputFault

audit = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Check evidence, offline, trusting nobody.")
RunDir = Annotated[Path, typer.Argument(help="The run's folder.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line.")]


@audit.callback()
def _group() -> None:
    """Check evidence, offline, trusting nobody."""


@audit.command("verify")
def verify(run_dir: RunDir, as_json: AsJson = False) -> None:
    """Check contract, consents, every ledger against the others, and run every decision again.

    Example: lianxin audit verify build/demo
    """
    from lianxin.parties.auditor import verify_run

    if not (run_dir / "parties").is_dir():
        raise InputFault(f"{run_dir} is no run folder: it has no parties/; name the folder that `--out` gave")
    verdict = verify_run(run_dir)
    if as_json:
        typer.echo(json.dumps(verdict.to_record()))
    else:
        table = Table("check", "party", "holds", "detail")
        for check in verdict.checks:
            table.add_row(check.name, check.subject, "yes" if check.ok else "NO", check.detail if not check.ok else "")
        Console().print(table)
        typer.echo("verified" if verdict.ok else "NOT VERIFIED")
    if not verdict.ok:
        first = verdict.failures[0]
        raise EvidenceRejected(f"{first.name} of {first.subject}: {first.detail}; {first.remedy}")


def replay(run_dir: RunDir, as_json: AsJson = False) -> None:
    """Run a simulated run again from its seed and compare every message byte for byte.

    Example: lianxin replay build/demo
    """
    from lianxin.simulations.replay import replay_run

    outcome = replay_run(run_dir)
    if as_json:
        typer.echo(json.dumps(outcome.to_record()))
    else:
        typer.echo(f"{outcome.compared} messages are equal, byte for byte; transcript {outcome.transcript_sha256}")
