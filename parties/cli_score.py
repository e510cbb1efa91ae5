"""Commands of a bank that scores firms: scores of a list, models in service, drift."""

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from lianxin.federation.errors import InputFault, LianxinError
from lianxin.parties.cli_nodes import AsJson, BankConfig, bank, role_config
from lianxin.parties.control import ask
from lianxin.parties.language import shown, table_shown

BASE_DEADLINE_S, FIRM_DEADLINE_S = 120.0, 0.1
FIRMS_A_REQUEST = 500  # with their values a request to the node stays under its limit of a megabyte
Who = Annotated[str, typer.Option("--operator", help="Who asks; named in both ledgers.")]
Decides = Annotated[str, typer.Option("--operator", help="Who decides; named in the ledger.")]
Model = Annotated[
    str,
    typer.Option("--model", help="One run's model, for comparison where it is not in service; else the champion's."),
]
RunName = Annotated[str, typer.Argument(help="The run whose model it is.")]
_HEAD = ("firm", "platform", "own", "model", "role", "part", "score", "pd", "reasons")
_NUMBERS, _FORMULAS = ("score", "pd"), ("=", "+", "-", "@", "\t", "\r", "\n")

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
    purpose: Annotated[
        str, typer.Option("--purpose", help="P2 (loan approval) or P3 (monitoring), where agreements for both stand.")
    ] = "",
    run: Annotated[str, typer.Option("--run", help="The scoring agreement, where several stand.")] = "",
    column: Annotated[str, typer.Option("--column", help="The column of codes; the node's id column without it.")] = "",
    out: Annotated[
        Path | None, typer.Option("--out", help="Write the scores here as CSV as they come; else show them.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Score firms by the bank's model and the platform's part; who has none is scored by the bank alone and marked so.

    Example: lianxin bank score firms.csv --node a.toml --operator zhao --out scores.csv
    """
    _check_out(out)
    settings = role_config(config, "bank")
    rows = _rows(table, column or settings.data.id, settings.data.label or "", settings.data.columns)
    request = {"do": "score", "model": model, "purpose": purpose, "run": run, "operator": operator}
    parts, fault = _collected(_answers(settings.state, request, rows), out)
    if parts:
        answer = _joined(parts)
        if as_json:
            typer.echo(json.dumps(answer, ensure_ascii=False))
        elif out is not None:
            typer.echo(f"wrote {len(answer['firms'])} firms to {out}")
            _close(answer, ())
        else:
            _print(answer)
    if fault is not None:
        _say_missing(sum(len(part["firms"]) for part in parts), len(rows), out if parts else None)
        raise fault


@models.command("list")
def model_list(config: BankConfig, as_json: AsJson = False) -> None:
    """List the bank's models: their role, what keeps one from service, withdrawals that touch it.

    Example: lianxin bank model list --node a.toml
    """
    _decide(config, {"action": "list"}, as_json)


@models.command("promote")
def model_promote(run: RunName, config: BankConfig, operator: Decides, as_json: AsJson = False) -> None:
    """Make a run's model the champion; not by who proposed or approved the run, or made it a challenger.

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
    answer = ask(role_config(config, "bank").state, {"do": "monitor", "model": model, "days": days}, BASE_DEADLINE_S)
    if as_json:
        typer.echo(json.dumps({name: answer[name] for name in ("days", "models")}))
        return
    for one in answer["models"]:
        typer.echo(f"model of run {one['run']}, last {answer['days']} days")
        for line in one["lines"]:
            typer.echo(f"  {line['name']}: {_stability(line)}")


def _stability(line: Mapping[str, Any]) -> str:
    what = "score" if line["rows"] == 1 else "scores"
    if "grade" not in line:
        return f"{line['rows']} {what}, nothing to compare"
    index, chance = line["index_micro"] / 1e6, line["chance_micro"] / 1e6
    grade = line["grade"] if index > chance else f"{line['grade']}, but no more than chance gives so few"
    return f"index {index:.3f} ({grade}; by chance about {chance:.3f}), {line['rows']} {what}"


def _rows(path: Path, column: str, label: str, called: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return the list's rows, columns as they are `called` here; a label in it is no feature. Raises InputFault."""
    from lianxin.parties.records import read_table

    table = read_table(path)
    here = {written: name for name, written in called.items()}
    names = {here.get(written, written): written for written in table.columns}
    if column not in names:
        raise InputFault(f"{path} has no column {column}; say with --column which one holds the firms' codes")
    codes = table.text(names[column])
    if None in codes:
        raise InputFault(f"data row {codes.index(None) + 1} of {table.file} has no code; fill it in or remove the row")
    if len(set(codes)) != len(codes):
        raise InputFault(f"a firm stands twice in {table.file}; leave each firm once")
    given = {name: table.column(names[name]) for name in names if name not in (column, label)}
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


def _check_out(out: Path | None) -> None:
    if out is not None and (out.exists() or not out.parent.is_dir()):
        raise InputFault(f"{out} exists already or its folder does not; choose another name")
    if out is not None and _draft(out).exists():
        raise InputFault(f"{_draft(out)} holds scores of a command that was cut off; move it away first")


def _draft(out: Path) -> Path:
    return out.with_name(out.name + ".new")


def _collected(answers: Iterator[dict[str, Any]], out: Path | None) -> tuple[list[dict[str, Any]], LianxinError | None]:
    """Return the parts that came, written to `out` one by one, and the fault that ended them: their uses are spent."""
    parts: list[dict[str, Any]] = []
    try:
        for part in answers:
            parts.append(part)
            if out is not None:
                with _draft(out).open("a", encoding="utf-8") as file:
                    file.write(_csv(part, is_first=len(parts) == 1))
    except LianxinError as fault:
        return parts, fault
    finally:
        if out is not None and parts:
            _draft(out).rename(out)
    return parts, None


def _say_missing(came: int, of: int, out: Path | None) -> None:
    """Say on the error stream what is missing after a fault, and where to go on."""
    where = f"; those that came are in {out}" if out is not None else ""
    typer.echo(f"{came} of {of} firms were scored{where}; score the list again from data row {came + 1}", err=True)


def _joined(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the answers of all parts of a list as one, with the ids of their requests and what is to be said of each."""
    firms = [firm for part in parts for firm in part["firms"]]
    notes = dict.fromkeys(
        note if at == 0 else f"firms {at * FIRMS_A_REQUEST + 1} to {at * FIRMS_A_REQUEST + len(part['firms'])}: {note}"
        for at, part in enumerate(parts)
        for note in part["notes"]
    )
    requests = ",".join(part["request"] for part in parts if part["request"])
    return {**parts[0], "request": requests, "notes": list(notes), "firms": firms}


def _lines(answer: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    for firm in answer["firms"]:
        for one in firm["scores"]:
            known = "score" in one
            chance = f"{one['pd_micro'] / 1e6:.6f}" if known else ""
            yield (
                firm["firm"], firm["platform"], firm["own"], one["run"], one["role"], one["part"],
                str(one["score"]) if known else "", chance, " ".join(one["reasons"]) if known else "",
            )  # fmt: skip


def _csv(answer: Mapping[str, Any], is_first: bool = True) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if is_first:
        writer.writerow(_HEAD)
    writer.writerows(_guarded(line) for line in _lines(answer))
    return text.getvalue()


def _guarded(line: Sequence[str]) -> list[str]:
    """Return the cells as a spreadsheet may open them: no text begins a formula; a score is a number and may be below zero."""
    return [
        f"'{cell}" if name not in _NUMBERS and cell.startswith(_FORMULAS) else cell
        for name, cell in zip(_HEAD, line, strict=True)
    ]


def _print(answer: Mapping[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 1))
    for name in ("firm", "part", "score", "pd"):
        table.add_column(name, no_wrap=True)
    table.add_column("model")
    table.add_column("reasons")
    for line in _lines(answer):
        one = dict(zip(_HEAD, line, strict=True))
        cells = [
            *(one[name] for name in ("firm", "part", "score", "pd")),
            f"{one['model']} {one['role']}",
            one["reasons"],
        ]
        table.add_row(*map(Text, cells))
    Console(highlight=False).print(table_shown(table))
    used = {code for firm in answer["firms"] for one in firm["scores"] for code in one.get("reasons", ())}
    _close(answer, sorted(used & answer["texts"].keys()))


def _close(answer: Mapping[str, Any], codes: Sequence[str]) -> None:
    """Say what stands under scores: the codes that were used, the sums, what went wrong beside them, what they are not."""
    for code in codes:
        typer.echo(f"{code}: {answer['texts'][code]}")
    for run in [one["run"] for one in answer["firms"][0]["scores"]]:
        made = [one["part"] for firm in answer["firms"] for one in firm["scores"] if one["run"] == run]
        typer.echo(f"{run}: {made.count('joint')} of {len(made)} with the platform's part, {_alone(made)}")
    for note in answer["notes"]:
        typer.echo(shown(note))
    typer.echo(shown(answer["note"]))


def _alone(made: Sequence[str]) -> str:
    return f"{made.count('bank_only')} of {len(made)} by the bank alone"


def _decide(config: Path, request: Mapping[str, Any], as_json: bool) -> None:
    answer = ask(role_config(config, "bank").state, {"do": "models", **request}, BASE_DEADLINE_S)
    if as_json:
        typer.echo(json.dumps({name: answer[name] for name in ("models", "history")}))
        return
    for one in answer["models"]:
        role = f"{one['role']} (first of the agreement)" if one["by_default"] else one["role"]
        state = one["fault"] or role or "not in service"
        touched = f"; {one['withdrawals']} withdrawals, {one['choice']}" if one["withdrawals"] else ""
        typer.echo(f"{one['run']}: {state}{touched}")
