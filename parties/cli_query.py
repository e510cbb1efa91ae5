"""Commands of people who ask about single firms under a standing agreement, and of the one who ends it."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from lianxin.federation.errors import InputFault
from lianxin.parties.cli_nodes import AsJson, BankConfig, RunId, bank, platform, role_config
from lianxin.parties.control import ask
from lianxin.parties.language import shown, table_shown

BASE_DEADLINE_S, FIRM_DEADLINE_S = 120.0, 1.0
Who = Annotated[str, typer.Option("--operator", help="Who asks; named in both ledgers.")]
Fields = Annotated[
    str, typer.Option("--fields", help="Catalogue ids, joined by commas; all of the agreement without it.")
]
Purpose = Annotated[str, typer.Option("--purpose", help="P1, P2, P3, P5, P6 or P8: the agreement's.")]
Mode = Annotated[str, typer.Option("--mode", help="plaintext, by consent; or desensitised, by a measured grade.")]
Agreement = Annotated[str, typer.Option("--run", help="The agreement, where several are for the purpose.")]


@bank.command("query")
def bank_query(
    config: BankConfig, purpose: Purpose, operator: Who,
    firm: Annotated[str, typer.Argument(help="The firm's code; or give --file.")] = "",
    file: Annotated[Path | None, typer.Option("--file", help="A table of codes: .csv, .csv.gz or .parquet.")] = None,
    column: Annotated[str, typer.Option("--column", help="Its column of codes, where it has several.")] = "",
    fields: Fields = "", mode: Mode = "plaintext", run: Agreement = "",
    html: Annotated[Path | None, typer.Option("--html", help="Write printable credit files here.")] = None,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Ask the platform for fields of a firm, or of up to 1,000; nothing of the answer is kept by the node.

    Example: lianxin bank query 91110000600037341L --fields reg_capital,staff_count --purpose P2 --node a.toml --operator zhao
    """
    _check_new(html)
    answer = _ask(config, _firms(firm, file, column), fields, purpose, mode, operator, run)
    _show(answer, html, as_json)


@bank.command("credit-file")
def bank_credit_file(
    firm: Annotated[str, typer.Argument(help="The firm's code.")],
    config: BankConfig, purpose: Purpose, operator: Who,
    out: Annotated[Path | None, typer.Option("--out", help="Write the printable file here; else show a table.")] = None,
    fields: Fields = "", mode: Mode = "plaintext", run: Agreement = "", as_json: AsJson = False,
) -> None:  # fmt: skip
    """Ask for a firm's fields and lay them out as a credit file: values, rights, refusals, receipts; no decision.

    Example: lianxin bank credit-file 91110000600037341L --purpose P2 --node a.toml --operator zhao --out firm.html
    """
    _check_new(out)
    answer = _ask(config, [firm], fields, purpose, mode, operator, run)
    _show(answer, out, as_json)


@platform.command("end")
def platform_end(
    run: RunId,
    config: Annotated[Path, typer.Option("--node", help="The platform node's TOML file.")],
    operator: Annotated[str, typer.Option("--operator", help="Who ends it; named in the ledger.")] = "",
    as_json: AsJson = False,
) -> None:
    """End a standing agreement; both sides write its evidence.

    Example: lianxin platform end queries-1 --node platform.toml
    """
    ended = ask(role_config(config, "platform").state, {"do": "end", "run": run, "operator": operator}, BASE_DEADLINE_S)
    told = ", ".join(ended["told"]) or "no bank, since none is connected"
    typer.echo(json.dumps({k: ended[k] for k in ended if k != "ok"}) if as_json else f"ended {run}; told {told}")


def _firms(firm: str, file: Path | None, column: str) -> list[str]:
    if bool(firm) == (file is not None):
        raise InputFault("name one firm, or a table of codes with --file, and not both")
    if file is None:
        return [firm]
    from lianxin.parties.records import read_table

    table = read_table(file)
    if not column and len(table.columns) > 1:
        raise InputFault(f"{file} has {len(table.columns)} columns; say with --column which one holds the codes")
    codes = table.text(column or table.columns[0])
    if None in codes:
        raise InputFault(f"data row {codes.index(None) + 1} of {table.file} has no code; fill it in or remove the row")
    return [str(code) for code in codes]


def _ask(
    config: Path, firms: list[str], fields: str, purpose: str, mode: str, operator: str, run: str
) -> dict[str, Any]:
    request = {
        "do": "query", "firms": firms, "fields": [name.strip() for name in fields.split(",") if name.strip()],
        "purpose": purpose, "mode": mode, "operator": operator, "run": run,
    }  # fmt: skip
    deadline_s = BASE_DEADLINE_S + FIRM_DEADLINE_S * len(firms)
    answer: dict[str, Any] = ask(role_config(config, "bank").state, request, deadline_s)["answer"]
    return answer


def _check_new(out: Path | None) -> None:
    """Refuse before anything is asked: a question that was answered is a use that is spent."""
    if out is not None and (out.exists() or not out.parent.is_dir()):
        raise InputFault(f"{out} exists already or its folder does not; choose another name")


def _show(answer: dict[str, Any], out: Path | None, as_json: bool) -> None:
    if out is not None:
        from lianxin.parties.query_file import page

        draft = out.with_name(out.name + ".new")
        draft.write_text(page(answer), encoding="utf-8")
        draft.rename(out)
    if as_json:
        typer.echo(json.dumps(answer, ensure_ascii=False))
    elif out is not None:
        typer.echo(shown(f"wrote {out}; keep it until {answer['retain_until']}, then delete it"))
    else:
        _print(answer)


def _print(answer: dict[str, Any]) -> None:
    from rich.console import Console

    from lianxin.parties.query_file import footer, tables

    console = Console(highlight=False)
    for table in tables(answer):
        console.print(table_shown(table))
    for name, value in footer(answer):
        console.print(f"{shown(str(name))}: {shown(str(value))}", markup=False, soft_wrap=True)
    console.print(shown(answer["note"]), markup=False, soft_wrap=True)
