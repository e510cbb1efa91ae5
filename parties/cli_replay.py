"""Commands of replay: a simulated run as a whole, and one party's side of any run from what it opens."""

import json
from pathlib import Path
from typing import Annotated

import typer

from lianxin.parties.cli_audit import audit
from lianxin.parties.report_page import plain

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line.")]
Workers = Annotated[int, typer.Option("--workers", min=0, max=64, help="Processes that compute; they change no byte.")]


def replay(
    run: Annotated[Path, typer.Argument(help="The run's folder, or its pack.")],
    scenario: Annotated[
        Path | None, typer.Option("--scenario", help="The run folder's scenario.json; a pack needs it.")
    ] = None,
    tables: Annotated[Path | None, typer.Option("--tables", help="Where the tables are now, by file name.")] = None,
    workers: Workers = 2,
    as_json: AsJson = False,
) -> None:
    """Run a simulated run again from its scenario and seed, and compare every message and every model's digest.

    Example: lianxin replay build/demo
    """
    from lianxin.simulations.replay import replay_run

    outcome = replay_run(run, scenario, tables, workers)
    typer.echo(json.dumps(outcome.to_record()) if as_json else plain(outcome.sentence()))


@audit.command("replay-party")
def replay_party(
    evidence: Annotated[list[Path], typer.Argument(help="Packs, or the folder of a run.")],
    opening: Annotated[Path, typer.Option("--opening", help="The folder that `bank open` or `platform open` wrote.")],
    messages: Annotated[
        Path, typer.Option("--messages", help="The folder of `--record`, of any party in these messages.")
    ],
    workers: Workers = 2,
    as_json: AsJson = False,
) -> None:
    """Make one party's side of a run again from what it opened, and hold each of its messages against the recording.

    Example: lianxin audit replay-party bank-a.evidence --opening opening-a --messages recording
    """
    from lianxin.simulations.replay_evidence import home_of
    from lianxin.simulations.replay_party import replay_side

    with home_of(evidence, opening) as home:
        outcome = replay_side(home, opening, messages, workers)
    typer.echo(json.dumps(outcome.to_record()) if as_json else plain(outcome.sentence()))
