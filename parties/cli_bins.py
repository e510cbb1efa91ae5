"""Commands of the binning workbench: a bank's own bins before a run, either side's bins after one."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lianxin.federation.errors import InputFault
from lianxin.parties.cli_nodes import AsJson, BankConfig, RunId, bank, platform, role_config

if TYPE_CHECKING:
    from lianxin.parties.workbench import BinTable, Workbench

Fields = Annotated[list[str] | None, typer.Option("--field", help="A field to show; repeat it for more, all without.")]
PlatformConfig = Annotated[Path, typer.Option("--node", help="The platform node's TOML file.")]


@bank.command("bins")
def bank_bins(
    config: BankConfig,
    fields: Fields = None,
    run: Annotated[str, typer.Option("--run", help="A finished run's bins instead of the table's.")] = "",
    max_bins: Annotated[int, typer.Option("--max-bins", min=2, max=32, help="The contract's most bins.")] = 8,
    min_rows: Annotated[int, typer.Option("--min-rows", min=1, help="The contract's least rows of a bin.")] = 50,
    min_bads: Annotated[int, typer.Option("--min-bads", min=1, help="The contract's least bads of a bin.")] = 5,
    min_goods: Annotated[int, typer.Option("--min-goods", min=1, help="The contract's least goods of a bin.")] = 5,
    as_json: AsJson = False,
) -> None:
    """Show the bins of the bank's own table: rows, goods, bads, weight of evidence, information value, advice.

    Example: lianxin bank bins --node bank-a.toml --field loan_rate
    """
    from lianxin.parties.coding_fields import BinLimits
    from lianxin.parties.coding_rules import load_rules
    from lianxin.parties.records import load_loan_table, read_table
    from lianxin.parties.workbench import bank_workbench, model_workbench

    node = role_config(config, "bank")
    if run:
        _show(model_workbench(_model(node.state, run), fields or ()), as_json)
        return
    data = node.data
    assert data.table is not None
    table = load_loan_table(read_table(data.table, data.columns), data.id, data.label or "", data.split, data.loan_id)
    rules = load_rules(node.binning.file)
    rules.check_columns(table.columns, data.label or "")
    limits = BinLimits(max_bins, min_rows, min_bads, min_goods)
    _show(bank_workbench(table, rules, limits, fields or ()), as_json)


@platform.command("bins")
def platform_bins(run: RunId, config: PlatformConfig, fields: Fields = None, as_json: AsJson = False) -> None:
    """Show the bins of a finished scorecard run: counts over all its banks, weight of evidence, information value.

    Example: lianxin platform bins run-1 --node platform.toml
    """
    from lianxin.parties.workbench import model_workbench

    _show(model_workbench(_model(role_config(config, "platform").state, run), fields or ()), as_json)


def _model(state: Path, run: str) -> Path:
    from lianxin.federation.contract import IDENTIFIER

    if IDENTIFIER.fullmatch(run) is None:
        raise InputFault("a run's id is 3 to 64 of a-z, 0-9 and '-'")
    return state / "runs" / run / "model.json"


def _show(found: "Workbench", as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(found.to_record(), ensure_ascii=False))
        return
    typer.echo(f"{found.rows:,} rows, {found.bads:,} bads")
    for sentence in found.advice:
        typer.echo(f"  {sentence}")
    for table in found.tables:
        for line in _lines(table):
            typer.echo(line)


def _lines(table: "BinTable") -> list[str]:
    if table.dropped:
        return ["", f"{table.field}: left out: {table.dropped}", *(f"  {sentence}" for sentence in table.advice)]
    width = max(20, *(len(line.label) for line in table.bins))
    head = f"  {'bin':{width}} {'rows':>9} {'share':>6} {'goods':>9} {'bads':>9} {'bad rate':>8} {'WOE':>8}"
    rows = [
        f"  {line.label:{width}} {line.goods + line.bads:>9,} {line.share:>6.1%} {line.goods:>9,} {line.bads:>9,} "
        f"{line.bads / (line.goods + line.bads):>8.2%} {line.woe:>8.4f}"
        for line in table.bins
    ]
    return ["", f"{table.field}: IV {table.information_value:.4f}", head, *rows, *(f"  - {s}" for s in table.advice)]
