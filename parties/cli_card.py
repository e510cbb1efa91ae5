"""Commands about a bank's finished scorecard: show or export it, and score a table with an exported one."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lianxin.federation.errors import InputFault
from lianxin.parties.cli_nodes import AsJson, BankConfig, RunId, bank, role_config

if TYPE_CHECKING:
    from rich.table import Table

    from lianxin.parties.scorecard_card import Card, CardScore

OutFile = Annotated[Path | None, typer.Option("--out", help="The file to write; shown in the terminal without it.")]
BaseRate = Annotated[
    float | None,
    typer.Option("--base-rate", help="The portfolio's share of bads, where the sample's is another: 0.02."),
]
_SHOWN = 20
_CELLS = (1, 2, 4, 5, 6, 7)  # of a points table's row, those that a terminal has room for


@bank.command("card")
def bank_card(
    run: RunId,
    config: BankConfig,
    form: Annotated[str, typer.Option("--format", help="json, csv or pmml, of the file that --out names.")] = "",
    out: OutFile = None,
    base_rate: BaseRate = None,
    bank_only: Annotated[
        bool, typer.Option("--bank-only", help="The card without the platform's sub-score, for firms that have none.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show the scorecard of a finished run, or export it: JSON, CSV for a spreadsheet, PMML 4.4 for an engine.

    Example: lianxin bank card run-1 --node a.toml --format pmml --out card.pmml
    """
    from lianxin.parties.scorecard_export import check_writable, export_card, write_beside
    from lianxin.parties.software import code_version

    _check_form(form, out)
    if out is not None:
        check_writable(out)
    card = _card_of(run, config, base_rate, bank_only)
    if out is not None:
        write_beside(out, export_card(card, form or "json", code_version()))
    if as_json:
        typer.echo(json.dumps(_summary(card, form or "json", out), ensure_ascii=False))
        return
    if out is None:
        _show(card)
    now = _now(config)
    for line in [*card.scale(), *_warnings(card), *_marks(run, config), *_expired(card, now)]:
        typer.echo(line, err=True)
    if out is not None:
        typer.echo(f"wrote {out}")


def _check_form(form: str, out: Path | None) -> None:
    """Raise InputFault for a format that a card does not have, and for one without a file to be written in it."""
    from lianxin.parties.scorecard_export import FORMATS

    if form and form not in FORMATS:
        raise InputFault(f"--format is one of {', '.join(FORMATS)}; {form} is none of them")
    if form and out is None:
        raise InputFault(f"--format {form} is the format of a file; say with --out which one to write")


def _card_of(run: str, config: Path, base_rate: float | None, bank_only: bool) -> "Card":
    from lianxin.federation.contract import IDENTIFIER
    from lianxin.parties.scorecard_export import stored_card

    state = role_config(config, "bank").state
    if IDENTIFIER.fullmatch(run) is None:
        raise InputFault("a run's id has 3 to 64 of a-z, 0-9 and '-'")
    card = stored_card(state / "runs" / run, run)
    return _adjusted(card.without_platform() if bank_only else card, base_rate)


def _adjusted(card: "Card", base_rate: float | None) -> "Card":
    return card if base_rate is None else card.at_base_rate(_micro(base_rate))


def _micro(rate: float) -> int:
    return round(rate * 1_000_000) if 0.0 < rate < 1.0 else 0


def _summary(card: "Card", form: str, out: Path | None) -> dict[str, Any]:
    if out is None:
        return card.to_record()
    return {
        "run": card.run, "bank": card.bank, "format": form, "out": str(out), "features": list(card.fields),
        "base_points": card.joint.base_points, "multiplier_micro": card.joint.multiplier_micro,
        "facts": dict(card.facts), "warnings": _warnings(card), "scale": card.scale(),
    }  # fmt: skip


def _warnings(card: "Card") -> list[str]:
    found = []
    if card.facts.get("separable"):
        found.append(
            "bads and goods of the training rows separate completely: the ridge alone keeps these points finite; give "
            "the run more rows or fewer features before the card decides anything"
        )
    if card.facts.get("sub_score_reversed"):
        found.append("more points of the platform make a firm riskier on this card; look at the data before using it")
    return found


def _marks(run: str, config: Path) -> list[str]:
    from lianxin.parties.lineage import read_mark

    mark = read_mark(role_config(config, "bank").state / "runs" / run)
    if not mark["revocations"] or mark["choice"] != "none":
        return []
    return [
        "firms behind this model have withdrawn, and nobody has decided about it yet; see `lianxin boundary models`"
    ]


def _now(config: Path) -> str:
    from lianxin.parties.clock import now_of

    simulation = role_config(config, "bank").simulation
    return now_of(simulation.clock if simulation else None)


def _expired(card: "Card", now: str) -> list[str]:
    from lianxin.parties.clock import kept_past

    said = kept_past(card.retain_until, now)
    return [f"this scorecard {said}"] if said else []


def _show(card: "Card") -> None:
    from rich.console import Console

    console = Console()
    for name in card.parts():
        for table in _tables(card, name):
            console.print(table)


def _tables(card: "Card", name: str) -> "list[Table]":
    """Return a sum's bins and bands as tables that fit 80 columns: numbers and codes stay whole, texts are folded."""
    from rich.table import Table
    from rich.text import Text

    from lianxin.parties.scorecard_card import NAMES
    from lianxin.parties.scorecard_export import band_rows, bin_rows

    base = f"base {card.parts()[name].base_points} points"
    title = Text(f"Scorecard of {card.bank}, {card.run}: {NAMES[name]}, {base}")
    bins = Table(title=title, title_justify="left")
    _columns(bins, ("code",), ("field", "bin"), ("points", "lost", "rows"))
    for row in bin_rows(card, name):
        bins.add_row(*(Text(str(row[k])) for k in _CELLS))
    bands = Table(title=Text(f"{NAMES[name]}, by band of scores"), title_justify="left")
    _columns(bands, (), (), ("from", "to", "rows", "bads", "chance of default"))
    for row in band_rows(card, name):
        bands.add_row(*(str(row[k]) for k in (8, 9, 7, 10, 11)))
    return [bins, bands]


def _columns(table: "Table", codes: Sequence[str], texts: Sequence[str], numbers: Sequence[str]) -> None:
    for names, folds, justify in ((codes, False, "left"), (texts, True, "left"), (numbers, False, "right")):
        for name in names:
            table.add_column(name, no_wrap=not folds, overflow="fold", justify=justify)  # type: ignore[arg-type]


@bank.command("score-card")
def bank_score_card(
    card_file: Annotated[Path, typer.Argument(help="A scorecard that `lianxin bank card` exported: JSON or PMML.")],
    table: Annotated[Path, typer.Argument(help="Rows with the card's own features: .csv, .csv.gz or .parquet.")],
    id_column: Annotated[str, typer.Option("--id", help="A column to carry over, such as the firm's code.")] = "",
    points_column: Annotated[
        str, typer.Option("--points", help="The column of sub-scores, empty where none; platform_points without it.")
    ] = "",
    against: Annotated[str, typer.Option("--against", help="What points are lost against: best or mean.")] = "best",
    base_rate: BaseRate = None,
    out: OutFile = None,
    as_json: AsJson = False,
) -> None:
    """Score a table with an exported scorecard, without a node and without asking anybody.

    Example: lianxin bank score-card card.json firms.csv --id uscc --out scores.csv
    """
    from lianxin.parties.clock import SystemClock
    from lianxin.parties.records import read_table
    from lianxin.parties.scorecard_export import check_writable, load_card, scores_csv, write_beside
    from lianxin.parties.scorecard_table import card_rows_of

    if out is not None:
        check_writable(out)
    card = _adjusted(load_card(card_file), base_rate)
    rows = read_table(table)
    names = rows.text(id_column) if id_column else None
    taken = card_rows_of(card, rows, points_column)
    scores = card.score(taken.own.columns, taken.points, against=against)
    for line in (*_expired(card, SystemClock().now()), *taken.notes):
        typer.echo(line, err=True)
    if out is not None:
        write_beside(out, scores_csv(scores, names, id_column))
    if as_json:
        typer.echo(_listed(card, scores, names, taken.notes))
    elif out is not None:
        typer.echo(f"wrote {counted(len(scores), 'score')} to {out}")
    else:
        for place, score in enumerate(scores[:_SHOWN]):
            typer.echo(_line(score, names[place] if names else None))
        if len(scores) > _SHOWN:
            typer.echo(f"and {len(scores) - _SHOWN} more; write them all with --out")


def _listed(
    card: "Card", scores: "list[CardScore]", names: list[str | None] | None, notes: Sequence[str]
) -> str:  # fmt: skip
    shown = [score.to_record() for score in scores]
    if names is not None:
        shown = [{"id": name, **record} for name, record in zip(names, shown, strict=True)]
    return json.dumps({"run": card.run, "rows": len(shown), "notes": list(notes), "scores": shown}, ensure_ascii=False)


def counted(number: int, thing: str) -> str:
    """Return a number and what it counts, in the plural where it is not one."""
    return f"{number} {thing}{'' if number == 1 else 's'}"


def _line(score: "CardScore", name: str | None) -> str:
    first = "" if name is None else f"{name} "
    return f"{first}{score.score} {score.pd_micro / 10**6:.4f} {score.model} {' '.join(score.reasons)}".rstrip()
