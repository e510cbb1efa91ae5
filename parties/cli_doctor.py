"""`lianxin doctor`: what is wrong with this machine or node, and what to do about it; and a running node on one screen."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lianxin.parties.cli_nodes import AsJson, Config, bank, platform, role_config
from lianxin.parties.control import ask
from lianxin.parties.language import shown

if TYPE_CHECKING:
    from lianxin.parties.doctor import Line


def doctor(
    config: Annotated[Path | None, typer.Argument(help="A node's TOML file; the machine alone without it.")] = None,
    self_test: Annotated[
        bool, typer.Option("--self-test", help="Also carry a tiny run to its end, in seconds.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Look at this machine, its installation and a node, and say what to do about what is wrong.

    Each line is ok, warn or fail. The exit code is 2 when something failed, else 0.

    Example: lianxin doctor bank.toml --self-test
    """
    from lianxin.parties.doctor import worst
    from lianxin.parties.doctor_machine import look_at_machine

    lines = look_at_machine()
    if config is not None:
        from lianxin.parties.doctor_node import look_at_node

        lines += look_at_node(config)
    if self_test:
        lines.append(_tested())
    _print(lines, as_json)
    raise typer.Exit(worst(lines))


def _tested() -> "Line":
    from lianxin.parties.doctor import FAIL, OK, Line, guarded

    def look() -> "list[Line]":
        from lianxin.simulations.self_test import carry_out

        with tempfile.TemporaryDirectory(prefix="lianxin-self-test-") as folder:
            return [Line("self-test", OK, carry_out(Path(folder)))]

    (line,) = guarded("self-test", look, "install lianxin again with its constraints file")
    return line if line.state == OK else line._replace(state=FAIL)


def _print(lines: "Sequence[Line]", as_json: bool) -> None:
    counts = {state: sum(line.state == state for line in lines) for state in ("ok", "warn", "fail")}
    if as_json:
        typer.echo(json.dumps({"lines": [line._asdict() for line in lines], **counts}, ensure_ascii=False))
        return
    for line in lines:
        typer.echo(_in_words(line).text())
    typer.echo(shown(f"{counts['ok']} ok, {counts['warn']} to look at, {counts['fail']} failed"))


def _in_words(line: "Line") -> "Line":
    """Return a line in the chosen language; its state stays the word that scripts look for."""
    return line._replace(what=shown(line.what), found=shown(line.found), remedy=shown(line.remedy))


def _watch(config: Path, role: str, as_json: bool) -> None:
    answer = ask(role_config(config, role).state, {"do": "watch"})
    if as_json:
        typer.echo(json.dumps({name: answer[name] for name in ("party", "figures", "wrong", "road") if name in answer}))
        return
    road = answer.get("road", {"connected": True})
    typer.echo(f"{answer['party']}: {shown('well' if not answer['wrong'] and road['connected'] else 'not well')}")
    if not road["connected"]:
        typer.echo(f"  {shown(road['sentence'])}")
    for one in answer["wrong"]:
        typer.echo(f"  {shown(one['what'])}: {shown(one['sentence'])}")
    for figure in answer["figures"]:
        for labels, value in figure["samples"]:
            typer.echo(
                f"  {figure['name'].removeprefix('lianxin_') + _label(labels):<58} {_told(figure['name'], value)}"
            )


def _label(labels: Mapping[str, Any]) -> str:
    return "".join(f" {value}" for _, value in sorted(labels.items()) if value)


def _told(name: str, value: float) -> str:
    """Return a figure as a person reads it: a moment as the day and the time in UTC."""
    is_moment = name.endswith("_time_seconds")
    return datetime.fromtimestamp(value, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if is_moment else _number(value)


def _number(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.2f}"


@platform.command("watch")
def platform_watch(config: Config, as_json: AsJson = False) -> None:
    """Show a running platform's figures: health, runs, peers, ledger, consents, quotas, memory, disk, certificates.

    Example: lianxin platform watch platform.toml
    """
    _watch(config, "platform", as_json)


@bank.command("watch")
def bank_watch(config: Config, as_json: AsJson = False) -> None:
    """Show a running bank's figures: health, runs, peers, ledger, budget, memory, disk, certificates.

    Example: lianxin bank watch a.toml --json
    """
    _watch(config, "bank", as_json)
