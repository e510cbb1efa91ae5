"""Commands of a data steward: desensitise a table under a policy, suggest a policy, make a key, trace a leaked table."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import click
import typer
from rich.console import Console
from typer.core import TyperGroup

from lianxin.federation.errors import GateRefused, InputFault

if TYPE_CHECKING:
    from lianxin.parties.decision import Catalogue
    from lianxin.parties.desensitise import Policy
    from lianxin.parties.desensitise_table import Outcome

DEFAULT = "table"


class TableByDefault(TyperGroup):
    """A group whose first word need not be a command: everything else goes to `table`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put `table` before arguments that name no command."""
        if args and args[0] not in self.commands and args[0] != "--help":
            args = [DEFAULT, *args]
        return super().parse_args(ctx, args)


desensitise = typer.Typer(
    cls=TableByDefault, no_args_is_help=True, rich_markup_mode=None,
    help="Make a table harmless under a policy, and measure how harmless it is.",
)  # fmt: skip
TableFile = Annotated[Path, typer.Argument(help="The table: .csv, .csv.gz or .parquet.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line.")]
CatalogueFile = Annotated[
    Path | None, typer.Option("--catalogue", help="A catalogue file; the packaged draft without it.")
]
Project = Annotated[str, typer.Option("--project", help="The project, as the policy names it.")]


@desensitise.callback()
def _group() -> None:
    """Make a table harmless under a policy, and measure how harmless it is.

    Example: lianxin desensitise --policy policy.toml firms.csv --out shared.csv --report risk.html
    """


@desensitise.command(DEFAULT)
def table(
    source: TableFile,
    policy: Annotated[Path, typer.Option("--policy", help="The policy's TOML file.")],
    out: Annotated[Path | None, typer.Option("--out", help="The new table, .csv or .parquet.")] = None,
    key: Annotated[Path | None, typer.Option("--key", help="The owner's key file, for pseudonyms and noise.")] = None,
    report: Annotated[Path | None, typer.Option("--report", help="Write the risk report to this HTML file.")] = None,
    report_only: Annotated[bool, typer.Option("--report-only", help="Measure and report; write no table.")] = False,
    provider: Annotated[str, typer.Option("--provider", help="The owner's party id, named in the grade.")] = "owner",
    earlier: Annotated[
        list[Path] | None, typer.Option("--earlier", help="A table that the recipient holds already; repeat it for more.")
    ] = None,
    watermark: Annotated[Path | None, typer.Option("--watermark", help="A key file: add canary rows.")] = None,
    recipient: Annotated[str | None, typer.Option("--recipient", help="Whom the watermark is for.")] = None,
    canaries: Annotated[int, typer.Option("--canaries", min=1, help="How many canary rows.")] = 10,
    catalogue: CatalogueFile = None, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Transform a table under a policy; nothing is written unless its measured grade is accepted (R22).

    Example: lianxin desensitise --policy policy.toml firms.csv --out shared.csv --report risk.html
    """
    from lianxin.parties import desensitise_table
    from lianxin.parties.clock import SystemClock
    from lianxin.parties.desensitise import load_policy
    from lianxin.parties.desensitise_catalogue import check_roles
    from lianxin.parties.desensitise_report import write_html

    _check_asked(out, report, report_only, watermark, recipient, provider)
    asked = load_policy(policy)
    check_roles(asked, _catalogue(catalogue))
    secret = desensitise_table.load_key(key) if key else _no_key(asked)
    now = SystemClock().now()
    outcome = desensitise_table.desensitise_table(asked, source, secret, provider, now, earlier or ())
    if watermark is not None and recipient is not None and not report_only:
        outcome = _marked(asked, outcome, desensitise_table.load_key(watermark), recipient, canaries)
    if report is not None:
        write_html(report, outcome)
    is_accepted = outcome.grade["accepted"]
    if out is not None and not report_only and is_accepted:
        desensitise_table.write_table(out, outcome.left)
    _show(outcome, as_json)
    if not report_only and not is_accepted:
        why = "; ".join(outcome.after.reasons)
        raise GateRefused(
            f"{source.name} is not accepted for {asked.model} sharing (R22), nothing was written: {why}", "R22"
        )


def _check_asked(
    out: Path | None,
    report: Path | None,
    report_only: bool,
    watermark: Path | None,
    recipient: str | None,
    provider: str,
) -> None:
    from lianxin.parties.desensitise_table import check_out

    if out is None and not report_only:
        raise InputFault("--out is missing; name the new table, or ask for --report-only")
    if out is not None:
        check_out(out)
    if report is not None and report.suffix.lower() not in (".html", ".htm"):
        raise InputFault(f"{report} is no .html file; name the report so")
    if (watermark is None) != (recipient is None):
        raise InputFault("--watermark and --recipient go together; give both or neither")
    if recipient == provider:
        raise InputFault("the recipient holds the key of these pseudonyms (R24); desensitise for somebody else")


def _catalogue(path: Path | None) -> "Catalogue":
    from lianxin.parties.catalogue import load_catalogue, load_draft

    return load_draft() if path is None else load_catalogue(path)


def _no_key(policy: "Policy") -> bytes:
    if policy.is_keyed:
        raise InputFault("the policy has pseudonyms or noise; name the owner's key file with --key")
    return b""


def _marked(policy: "Policy", outcome: "Outcome", key: bytes, recipient: str, count: int) -> "Outcome":
    from lianxin.parties.desensitise_watermark import with_canaries

    return outcome.with_canaries(with_canaries(policy, outcome.left, key, recipient, count), count)


def _show(outcome: "Outcome", as_json: bool) -> None:
    from lianxin.parties.desensitise_report import columns_table, summary, terminal_table

    if as_json:
        typer.echo(json.dumps(summary(outcome), ensure_ascii=False))
        return
    console = Console()
    console.print(terminal_table(outcome))
    console.print(columns_table(outcome))
    if outcome.canaries:
        typer.echo(f"{outcome.canaries} canary rows were added; the figures do not count them")


@desensitise.command("suggest")
def suggest(
    source: TableFile, project: Project = "name-the-project", catalogue: CatalogueFile = None,
    model: Annotated[str, typer.Option("--model", help="public, agreement or enclave.")] = "agreement",
    out: Annotated[Path | None, typer.Option("--out", help="Write the policy here; else it is printed.")] = None,
) -> None:  # fmt: skip
    """Suggest a policy for a table's columns, from the catalogue; read it before it is used.

    Example: lianxin desensitise suggest firms.csv --project trial-2026 --out policy.toml
    """
    from lianxin.parties.desensitise import policy_of
    from lianxin.parties.desensitise_catalogue import suggest_policy
    from lianxin.parties.desensitise_table import RawColumns
    from lianxin.parties.records import read_table

    words = suggest_policy(_catalogue(catalogue), RawColumns(read_table(source)), project, model)
    policy_of(words, "the suggestion")
    if out is None:
        typer.echo(words)
        return
    if out.exists():
        raise InputFault(f"{out} exists already; remove it or choose another name")
    out.write_text(words, encoding="utf-8")


@desensitise.command("key")
def key(path: Annotated[Path, typer.Argument(help="Where the key file is written; one that is there stays.")]) -> None:
    """Make a key file for pseudonyms, noise or watermarks: 32 random bytes, readable by you alone.

    Example: lianxin desensitise key desensitisation.key
    """
    from lianxin.parties.desensitise_table import load_key
    from lianxin.parties.keys import make_key_file

    make_key_file(path)
    load_key(path)
    typer.echo(f"{path}; keep it apart from the tables, and give it to no recipient")


@desensitise.command("trace")
def trace(
    leaked: TableFile, project: Project,
    watermark: Annotated[Path, typer.Option("--key", help="The key file of the watermark.")],
    recipients: Annotated[list[str], typer.Option("--recipient", help="A recipient to look for; repeat it for more.")],
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Look for the canary rows of each recipient in a leaked table.

    Example: lianxin desensitise trace leaked.csv --project trial-2026 --key mark.key --recipient bank-a --recipient bank-b
    """
    from lianxin.parties.desensitise_table import RawColumns, load_key
    from lianxin.parties.desensitise_watermark import trace
    from lianxin.parties.records import read_table

    found = trace(RawColumns(read_table(leaked)), load_key(watermark), project, recipients)
    if as_json:
        typer.echo(json.dumps({"project": project, "canaries": found}))
        return
    for recipient, count in found.items():
        typer.echo(f"{recipient}: {count} canary rows" if count else f"{recipient}: none")
