"""Commands about scenarios: list the stories, play one to its auditor's verdict, compare two runs, show many on one page."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from lianxin.federation.errors import EvidenceRejected, InputFault, LianxinError
from lianxin.parties.cli_simulate import AsJson, Out, _folder, _progress, simulate
from lianxin.parties.language import shown, table_shown
from lianxin.parties.new_files import check_new

Quick = Annotated[bool, typer.Option("--quick", help="The small form of the story: seconds in place of minutes.")]
OwnSeed = Annotated[int | None, typer.Option("--seed", min=0, help="Another seed than the story's own.")]
OwnWorkers = Annotated[
    int, typer.Option("--workers", min=0, max=64, help="Processes for the heavy kernels; the same result.")
]
RunDirs = Annotated[list[Path] | None, typer.Argument(help="Run folders; without --all.")]


@simulate.command("list")
def list_stories(as_json: AsJson = False) -> None:
    """The packaged scenarios: name, title, the verdict that each must end with, and about how long it takes.

    Example: lianxin simulate list
    """
    from lianxin.simulations.scenario import load_scenario, packaged

    stories = [load_scenario(name) for name in packaged()]
    rows = [
        {
            "name": story.name, "title": story.scenario.title, "expected": story.expect.model_dump(),
            "about_s": story.scenario.about_s, "quick_about_s": story.quick.about_s,
        }
        for story in stories
    ]  # fmt: skip
    if as_json:
        typer.echo(json.dumps(rows, ensure_ascii=False))
        return
    table = Table(Column("name", no_wrap=True, min_width=max(map(len, packaged()))), "title", "ends", "takes", "--quick",
                  box=None, padding=(0, 2, 1, 0), pad_edge=False)  # fmt: skip
    for row, story in zip(rows, stories, strict=True):
        whole, quick = _about(story.scenario.about_s), _about(story.quick.about_s)
        table.add_row(story.name, Text(story.scenario.title), _expected(row["expected"]), whole, quick)
    Console().print(table_shown(table))


def _about(seconds: int) -> str:
    """Return about how long a story takes, "-" where nobody measured it."""
    if not seconds:
        return "-"
    return f"{seconds} s" if seconds < 120 else f"{round(seconds / 60)} min"


def _expected(expect: Any) -> str:
    told = [str(expect[name]) for name in ("accused", "check", "rule") if expect[name]]
    return str(expect["verdict"]) + (f" ({', '.join(told)})" if told else "")


@simulate.command("run")
def run(
    story: Annotated[str, typer.Argument(metavar="NAME|FILE", help="A scenario of `simulate list`, or a TOML file.")],
    out: Out = None, quick: Quick = False, seed: OwnSeed = None, workers: OwnWorkers = 0, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Play a scenario from its first table to the auditor's verdict; exit 0 when it ends as its story says.

    Example: lianxin simulate run ramen-loan --quick --out build/ramen
    """
    from lianxin.simulations.scenario import load_scenario

    scenario = load_scenario(story).at(seed=seed)
    typer.echo(shown(scenario.scenario.title))
    played = _play(scenario, _folder(out), quick, workers)
    if as_json:
        typer.echo(json.dumps(played.result, ensure_ascii=False))
    if not played.as_expected:
        raise EvidenceRejected(
            f"scenario {scenario.name} did not end as its story says: {'; '.join(played.ending.surprises)}"
        )


def _play(scenario: Any, folder: Path, quick: bool, workers: int) -> Any:
    """Play a scenario with a bar of progress, then say its verdict in a line; return how it went."""
    from lianxin.simulations.scenario_run import run_scenario

    console = Console(stderr=True)
    told = scenario.at(quick)
    with _progress(console, told.world.banks, told.layout_terms().turns) as watch:
        played = run_scenario(scenario, folder, quick, watch, workers)
    typer.echo(_ended(played))
    typer.echo(f"{shown('report')}: {folder / 'report.html'}")
    return played


def _ended(played: Any) -> str:
    told = "as its story says" if played.as_expected else "NOT as its story says"
    return f"{shown(played.ending.sentence)} ({shown(told)})"


@simulate.command("compare")
def compare(
    first: Annotated[Path, typer.Argument(metavar="A", help="A run folder.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="Another run folder.")], as_json: AsJson = False,
) -> None:  # fmt: skip
    """Two run folders side by side: terms that differ, AUC, bytes, seconds, verdicts, the first differing message.

    Example: lianxin simulate compare build/demo build/ramen
    """
    from lianxin.simulations.scenario_compare import compare_runs

    found = compare_runs(first, second)
    if as_json:
        typer.echo(json.dumps(found, ensure_ascii=False))
        return
    table = Table("", "A", "B")
    for line in _compared(found):
        table.add_row(*(Text(cell) for cell in line))
    Console().print(table_shown(table))
    typer.echo(shown(_parted(found["messages"])))


def _compared(found: Mapping[str, Any]) -> list[Sequence[str]]:
    lines: list[Sequence[str]] = [(name, str(one), str(other)) for name, (one, other) in found["terms"].items()]
    for level, models in found["auc"].items():
        lines += [(f"AUC {level}, {model}", _figure(pair[0]), _figure(pair[1])) for model, pair in models.items()]
    lines += [("bytes sent", *(f"{count:,}" for count in found["bytes"]))]
    lines += [("seconds of the run", *("-" if s is None else f"{s:,.1f}" for s in found["seconds"]))]
    return [*lines, ("verdict", *found["verdicts"])]


def _figure(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else "-"


def _parted(messages: Mapping[str, Any]) -> str:
    if messages["first"] is None:
        return f"all {messages['equal']} messages at the platform are equal"
    one, other = messages["first"]["messages"]
    named = one if one == other else f"{one} here, {other} there"
    differs = "; ".join(f"{name}: {pair[0]} and {pair[1]}" for name, pair in messages["first"]["differs"].items())
    return f"{messages['equal']} messages are equal, then they part at {named} ({differs or 'in the header alone'})"


@simulate.command("gallery")
def gallery(
    run_dirs: RunDirs = None, page: Annotated[Path, typer.Option("--out", help="The page to write.")] = Path("gallery.html"),
    everything: Annotated[bool, typer.Option("--all", help="Play every packaged scenario first.")] = False,
    runs: Annotated[Path | None, typer.Option("--runs", help="With --all: where the runs are kept; else they are not.")] = None,
    quick: Quick = False, workers: OwnWorkers = 0,
) -> None:  # fmt: skip
    """One page with a card for each run: story, plots, rounds, bytes by form, and the auditor's verdict.

    Example: lianxin simulate gallery build/demo build/ramen --out gallery.html
    """
    from lianxin.simulations.gallery import write_gallery

    check_new(page, "--out")
    if everything == bool(run_dirs):
        raise InputFault("name the run folders to show, or give --all to play every packaged scenario; one of the two")
    if everything:
        _gallery_of_all(page, runs, quick, workers)
    else:
        write_gallery(page, run_dirs or [])
    typer.echo(f"{shown('gallery')}: {page}")


def _gallery_of_all(page: Path, runs: Path | None, quick: bool, workers: int) -> None:
    """Play all stories and show those that could be played; raise EvidenceRejected when one did not end as told."""
    import tempfile

    from lianxin.simulations.gallery import write_gallery
    from lianxin.simulations.scenario import load_scenario, packaged

    surprised: list[str] = []
    with tempfile.TemporaryDirectory(prefix="lianxin-gallery-") as place:
        folders = []
        for name in packaged():
            folder = (runs or Path(place)) / name
            typer.echo(shown(f"playing {name}"))
            try:
                played = _play(load_scenario(name), folder, quick, workers)
            except LianxinError as fault:
                surprised.append(f"{name}: {fault}")
                continue
            folders.append(folder)
            surprised += [] if played.as_expected else [f"{name}: {played.ending.surprises[0]}"]
        write_gallery(page, folders)
    if surprised:
        raise EvidenceRejected(f"{len(surprised)} stories did not end as told; the first is {surprised[0]}")
