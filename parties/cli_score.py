"""Commands of a bank that scores firms: scores of a list, models in service, drift."""

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from lianxin.federation.errors import InputFault
from lianxin.parties.cli_nodes import AsJson, BankConfig, _config, bank
from lianxin.parties.control import ask

BASE_DEADLINE_S, FIRM_DEADLINE_S = 120.0, 0.1
FIRMS_A_REQUEST = 500  # with their values a request to the node stays under its limit of a megabyte
Who = Annotated[str, typer.Option("--operator", help="Who asks; named in both ledgers.")]
Decides = Annotated[str, typer.Option("--operator", help="Who decides; named in the ledger.")]
Model = Annotated[str, typer.Option("--model", help="One run's model; without it the champion and its challengers.")]
RunName = Annotated[str, typer.Argument(help="The run whose model it is.")]
_HEAD = ("firm", "platform", "own", "model", "role", "part", "score", "pd", "reasons")

models = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Which of the bank's models are in service. Example: lianxin bank model list --node a.toml",
)
bank.add_typer(models, name="model")


@bank.command("score")
def bank_score(
    table: Annotated[
        Path, typer.Argument(help="Firms, a row each: the id column, and own features where these are newer.")
    ],
    config: BankConfig,
    operator: Who,
    model: Model = "",
    purpose: Annotated[str, typer.Option("--purpose", help="P2 or P3, where agreements for both stand.")] = "",
    run: Annotated[str, typer.Option("--run", help="The scoring agreement, where several stand.")] = "",
    column: Annotated[str, typer.Option("--column", help="The column of codes; the node's id column without it.")] = "",
    out: Annotated[Path | None, typer.Option("--out", help="Write the scores here as CSV; else show them.")] = None,
    as_json: AsJson = False,
) -> None:
    """Score firms by the bank's card and the platform's part; who has none is scored by the bank alone and marked so.

    Example: lianxin bank score firms.csv --node a.toml --operator zhao --out scores.csv
    """
    if out is not None and (out.exists() or not out.parent.is_dir()):
        raise InputFault(f"{out} exists already or its folder does not; choose another name")
    settings = _config(config, "bank")
    rows = _rows(table, column or settings.data.id, settings.data.label or "")
    request = {"do": "score", "model": model, "purpose": purpose, "run": run, "operator": operator}
    answer = _joined(_answers(settings.state, request, rows))
    if out is not None:
        draft = out.with_name(out.name + ".new")
        draft.write_text(_csv(answer), encoding="utf-8")
        draft.rename(out)
    if as_json:
        typer.echo(json.dumps(answer, ensure_ascii=False))
    elif out is not None:
        typer.echo(f"wrote {len(answer['firms'])} firms to {out}")
    else:
        _print(answer)


@models.command("list")
def model_list(config: BankConfig, as_json: AsJson = False) -> None:
    """List the bank's models: their role, what keeps one from service, withdrawals that touch it.

    Example: lianxin bank model list --node a.toml
    """
    _decide(config, {"action": "list"}, as_json)


@models.command("promote")
def model_promote(run: RunName, config: BankConfig, operator: Decides, as_json: AsJson = False) -> None:
    """Make a run's model the champion; not by who proposed the run.

    Example: lianxin bank model promote run-2 --node a.toml --operator wang
    """
    _decide(config, {"action": "promote", "run": run, "operator": operator}, as_json)


@models.command("challenge")
def model_challenge(run: RunName, config: BankConfig, operator: Decides, as_json: AsJson = False) -> None:
    """Score a run's model beside the champion.

    Example: lianxin bank model challenge run-2 --node a.toml --operator wang
    """
    _decide(config, {"action": "challenge", "run": run, "operator": operator}, as_json)


@models.command("rollback")
def model_rollback(config: BankConfig, operator: Decides, as_json: AsJson = False) -> None:
    """Bring back the champion before this one.

    Example: lianxin bank model rollback --node a.toml --operator wang
    """
    _decide(config, {"action": "rollback", "operator": operator}, as_json)


@bank.command("monitor")
def bank_monitor(
    config: BankConfig,
    model: Model = "",
    days: Annotated[int, typer.Option("--days", min=1, max=400, help="How many days back.")] = 30,
    as_json: AsJson = False,
) -> None:
    """Compare what was scored with the training: stability index of score bands and own features, 0.1 watch, 0.25 shifted.

    Example: lianxin bank monitor --node a.toml --days 30
    """
    answer = ask(_config(config, "bank").state, {"do": "monitor", "model": model, "days": days}, BASE_DEADLINE_S)
    if as_json:
        typer.echo(json.dumps({name: answer[name] for name in ("days", "models")}))
        return
    for one in answer["models"]:
        typer.echo(f"model of run {one['run']}, last {answer['days']} days")
        for line in one["lines"]:
            typer.echo(f"  {line['name']}: {_stability(line)}")


def _stability(line: Mapping[str, Any]) -> str:
    if "grade" not in line:
        return f"{line['rows']} rows, nothing to compare"
    index, chance = line["index_micro"] / 1e6, line["chance_micro"] / 1e6
    return f"index {index:.3f} ({line['grade']}; by chance about {chance:.3f}), {line['rows']} rows"


def _rows(path: Path, column: str, label: str) -> list[dict[str, Any]]:
    """Return the list's rows; a label in it is no feature. Raises InputFault."""
    from lianxin.parties.records import read_table

    table = read_table(path)
    if column not in table.columns:
        raise InputFault(f"{path} has no column {column}; say with --column which one holds the firms' codes")
    codes = table.text(column)
    if None in codes:
        raise InputFault(f"data row {codes.index(None) + 1} of {table.file} has no code; fill it in or remove the row")
    if len(set(codes)) != len(codes):
        raise InputFault(f"a firm stands twice in {table.file}; leave each firm once")
    given = {name: table.column(name) for name in table.columns if name not in (column, label)}
    return [
        {"firm": code, "values": {name: values[row] for name, values in given.items()}}
        for row, code in enumerate(codes)
    ]


def _answers(state: Path, request: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    if not rows:
        raise InputFault("the list has no firm; give it a row each")
    for start in range(0, len(rows), FIRMS_A_REQUEST):
        part = rows[start : start + FIRMS_A_REQUEST]
        yield ask(state, {**request, "rows": part}, BASE_DEADLINE_S + FIRM_DEADLINE_S * len(part))["answer"]


def _joined(answers: Iterator[dict[str, Any]]) -> dict[str, Any]:
    """Return the answers of all parts of a list as one, with the ids of their requests."""
    parts = list(answers)
    firms = [firm for part in parts for firm in part["firms"]]
    return {**parts[0], "request": ",".join(part["request"] for part in parts if part["request"]), "firms": firms}


def _lines(answer: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    for firm in answer["firms"]:
        for one in firm["scores"]:
            known = "score" in one
            chance = f"{one['pd_micro'] / 1e6:.6f}" if known else ""
            yield (
                firm["firm"], firm["platform"], firm["own"], one["run"], one["role"], one["part"],
                str(one["score"]) if known else "", chance, " ".join(one["reasons"]) if known else "",
            )  # fmt: skip


def _csv(answer: Mapping[str, Any]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_HEAD)
    writer.writerows(_guarded(line) for line in _lines(answer))
    return text.getvalue()


def _guarded(line: Sequence[str]) -> list[str]:
    """Return the cells as a spreadsheet may open them: none begins a formula, a score may be below zero."""
    formulas = ("=", "+", "@", "\t", "\r")
    return [f"'{cell}" if cell.startswith(formulas) else cell for cell in line]


def _print(answer: Mapping[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = Table(*_HEAD)
    for line in _lines(answer):
        shown.add_row(*(Text(cell) for cell in line))
    console = Console(highlight=False)
    console.print(shown)
    for code, text in sorted(answer["texts"].items()):
        console.print(f"{code}: {text}", markup=False, soft_wrap=True)
    console.print(answer["note"], markup=False, soft_wrap=True)


def _decide(config: Path, request: Mapping[str, Any], as_json: bool) -> None:
    answer = ask(_config(config, "bank").state, {"do": "models", **request}, BASE_DEADLINE_S)
    if as_json:
        typer.echo(json.dumps({name: answer[name] for name in ("models", "history")}))
        return
    for one in answer["models"]:
        state = one["fault"] or one["role"] or "not in service"
        touched = f"; {one['withdrawals']} withdrawals, {one['choice']}" if one["withdrawals"] else ""
        typer.echo(f"{one['run']}: {state}{touched}")
