"""Commands of a party that opens a run to an auditor: `lianxin bank open`, `lianxin platform open`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lianxin.parties.cli_nodes import AsJson, Config, RunId, bank, platform, role_config

if TYPE_CHECKING:
    from lianxin.parties.opening import Opening

Out = Annotated[Path, typer.Option("--out", help="The folder to write; readable by you alone.")]


@bank.command("open")
def bank_open(config: Config, run: RunId, out: Out, as_json: AsJson = False) -> None:
    """Write what an auditor needs to make this bank's side of a run again: seed, subject key, table, configuration.

    Example: lianxin bank open a.toml run-1 --out opening-a
    """
    _open("bank", config, run, out, as_json)


@platform.command("open")
def platform_open(config: Config, run: RunId, out: Out, as_json: AsJson = False) -> None:
    """Write what an auditor needs to make the platform's side of a run again: seed, subject key, table, configuration.

    Example: lianxin platform open platform.toml run-1 --out opening-platform
    """
    _open("platform", config, run, out, as_json)


def _open(role: str, config: Path, run: str, out: Path, as_json: bool) -> None:
    from lianxin.parties.opening import SEEN, open_run

    opening = open_run(role_config(config, role), run, out)
    typer.echo(SEEN, err=True)
    typer.echo(
        json.dumps(_told(opening, out)) if as_json else f"wrote {out}: what {opening.party} committed to for {run}"
    )


def _told(opening: "Opening", out: Path) -> dict[str, str]:
    return {
        "opening": str(out), "party": opening.party, "run": opening.run, "seed_commitment": opening.seed_commitment,
        "inputs_commitment": opening.inputs_commitment,
    }  # fmt: skip
