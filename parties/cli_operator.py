"""The platform operator's day: institutions, catalogue, sources, consents, usage (docs/operators-day.md)."""

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lianxin.federation.errors import InputFault, RunStopped
from lianxin.parties.cli_nodes import AsJson, bank, platform
from lianxin.parties.language import shown, table_shown

if TYPE_CHECKING:
    from lianxin.parties.config import NodeConfig
    from lianxin.parties.store import Store

institutions = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
catalogue = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
platform.add_typer(institutions, name="institutions")
platform.add_typer(catalogue, name="catalogue")
bank.add_typer(catalogue, name="catalogue")
NodeFile = Annotated[Path, typer.Option("--node", help="The node's TOML file.")]
Operator = Annotated[str, typer.Option("--operator", help="Who decides; named in the ledger.")]
Bank = Annotated[str, typer.Argument(help="The bank's party id, as it is pinned here.")]
Reason = Annotated[str, typer.Option("--reason", help="Why, in a sentence; it is kept.")]
Digest = Annotated[str, typer.Argument(help="The first 12 digits of what is approved, as they were shown.")]
HtmlFile = Annotated[Path | None, typer.Option("--html", help="Write an HTML page to this new file too.")]


@institutions.callback()
def _institutions() -> None:
    """The register of banks: licence, agreement, scope and days; approved by a second operator.

    Example: lianxin platform institutions list --node platform.toml
    """


@catalogue.callback()
def _catalogue() -> None:
    """Versions of the catalogue that this node publishes while it runs.

    Example: lianxin platform catalogue history --node platform.toml
    """


@institutions.command("enter")
def enter(
    bank_id: Bank, node: NodeFile, operator: Operator,
    licence: Annotated[str, typer.Option(help="The number of the bank's licence.")],
    agreement: Annotated[str, typer.Option(help="The number of the agreement with it.")],
    until: Annotated[str, typer.Option(help="The agreement's last day, such as 2027-12-31.")],
    since: Annotated[str, typer.Option("--from", help="Its first day; today without it.")] = "",
    purpose: Annotated[list[str] | None, typer.Option(help="A purpose allowed; repeat it. All without it.")] = None,
    model: Annotated[list[str] | None, typer.Option(help="A model allowed; repeat it. All without it.")] = None,
    field: Annotated[list[str] | None, typer.Option(help="A field allowed; repeat it. All without it.")] = None,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Write an institution's terms down; another operator approves them.

    Example: lianxin platform institutions enter bank-a --licence B1 --agreement A7 --until 2027-12-31 --node a.toml --operator
    op-li
    """
    scope = {"purposes": purpose or ["*"], "models": model or ["*"], "fields": field or ["*"]}
    terms = {"licence": licence, "agreement": agreement, "valid_from": since or _today(node), "valid_until": until}
    answer = _ask(node, {"what": "enter", "bank": bank_id, "operator": operator, **scope, **terms})
    _tell(answer, as_json, f"{bank_id} waits: approve {answer['institution']['waiting']} as another operator")


@institutions.command("approve")
def approve(bank_id: Bank, digest: Digest, node: NodeFile, operator: Operator, as_json: AsJson = False) -> None:
    """Put terms in force that another operator entered.

    Example: lianxin platform institutions approve bank-a 0123456789ab --node platform.toml --operator zhang
    """
    answer = _ask(node, {"what": "approve", "bank": bank_id, "digest": digest, "operator": operator})
    _tell(answer, as_json, f"{bank_id} is {answer['institution']['state']}")


@institutions.command("suspend")
def suspend(bank_id: Bank, node: NodeFile, operator: Operator, reason: Reason, as_json: AsJson = False) -> None:
    """Let a bank take part in nothing more, at once; runs under way with it are cancelled.

    Example: lianxin platform institutions suspend bank-a --reason "licence withdrawn" --node platform.toml --operator li
    """
    answer = _ask(node, {"what": "suspend", "bank": bank_id, "reason": reason, "operator": operator})
    ended = answer.get("cancelled", [])
    _tell(answer, as_json, f"{bank_id} is suspended" + (f"; cancelled: {', '.join(ended)}" if ended else ""))
    if left := answer.get("not_cancelled"):
        raise RunStopped(
            f"{bank_id} is suspended, and these runs with it go on: {', '.join(sorted(left))}; suspend it again in a moment, "
            "or stop the node: they end when it starts"
        )


@institutions.command("resume")
def resume(bank_id: Bank, node: NodeFile, operator: Operator, reason: Reason, as_json: AsJson = False) -> None:
    """End a suspension; another operator than the one who suspended does.

    Example: lianxin platform institutions resume bank-a --reason "licence renewed" --node platform.toml --operator zhang
    """
    answer = _ask(node, {"what": "resume", "bank": bank_id, "reason": reason, "operator": operator})
    _tell(answer, as_json, f"{bank_id} is {answer['institution']['state']}")


@institutions.command("list")
def list_institutions(node: NodeFile, as_json: AsJson = False) -> None:
    """List the register: each bank's state, licence, agreement, scope and last day.

    Example: lianxin platform institutions list --node platform.toml
    """
    answer = _ask(node, {"what": "institutions"})
    if as_json:
        typer.echo(json.dumps(answer, ensure_ascii=False))
        return
    names = ("bank", "state", "waiting", "licence", "agreement", "purposes", "models", "fields", "valid_until")
    _table(names, answer["institutions"])
    if not answer["in_force"]:
        typer.echo(shown("no institution was ever approved here: any pinned bank may take part"))


@institutions.command("show")
@institutions.command("history")
def show(bank_id: Bank, node: NodeFile, as_json: AsJson = False) -> None:
    """Show how a bank stands and every entry of its file: what, when, by whom, why.

    Example: lianxin platform institutions show bank-a --node platform.toml
    """
    answer = _ask(node, {"what": "show", "bank": bank_id})
    if as_json:
        typer.echo(json.dumps(answer, ensure_ascii=False))
        return
    for name, value in answer["institution"].items():
        typer.echo(f"{name.replace('_', ' '):12} {', '.join(value) if isinstance(value, list) else value or '-'}")
    _table(("at", "event", "operator", "reason"), answer["history"])


@catalogue.command("publish")
def publish(
    file: Annotated[Path, typer.Argument(help="The new version, a whole catalogue file.")],
    node: NodeFile,
    operator: Operator,
    reason: Reason = "",
    as_json: AsJson = False,
) -> None:
    """Publish a version for the next contracts; one that loosens a field waits for a second operator.

    Example: lianxin platform catalogue publish catalogue-2.csv --node platform.toml --operator li
    """
    answer = _ask(node, {"what": "publish", "file": str(file.resolve()), "reason": reason, "operator": operator})
    _tell_version(answer, as_json)


@catalogue.command("approve")
def approve_catalogue(digest: Digest, node: NodeFile, operator: Operator, as_json: AsJson = False) -> None:
    """Put a version in force that another operator proposed and that loosens a field.

    Example: lianxin platform catalogue approve 0123456789ab --node platform.toml --operator zhang
    """
    _tell_version(_ask(node, {"what": "approve-catalogue", "digest": digest, "operator": operator}), as_json)


@catalogue.command("history")
def history(node: NodeFile, as_json: AsJson = False) -> None:
    """List the versions that were published here, and the one that waits.

    Example: lianxin platform catalogue history --node platform.toml --json
    """
    from lianxin.parties.catalogue_versions import versions

    kept = versions(opened(node)[1])
    if as_json:
        typer.echo(json.dumps(kept, ensure_ascii=False))
        return
    rows = [
        one | {name: len(one[name]) for name in ("added", "tightened", "loosened", "expired")} | {"digest": one["digest"][:12]}
        for one in [*kept["versions"], *kept["waiting"]]
    ]  # fmt: skip
    _table(("at", "digest", "name", "operator", "second", "added", "tightened", "loosened", "expired"), rows)
    if kept["waiting"]:
        typer.echo(shown("the last one waits for a second operator: `catalogue approve`"))


def _tell_version(answer: Mapping[str, Any], as_json: bool) -> None:
    counts = ", ".join(f"{name} {len(answer[name])}" for name in ("added", "tightened", "loosened", "expired"))
    names = [f"loosened: {one['field']} in column {one['column']}" for one in answer["loosened"]]
    told = f"version {answer['digest'][:12]} is in force for the next contracts: {counts}"
    if answer["state"] == "waiting":
        told = f"version {answer['digest'][:12]} waits for a second operator: {counts}"
    _tell(answer, as_json, "\n".join([*names, told]))


def _tell(answer: Mapping[str, Any], as_json: bool, sentence: str) -> None:
    typer.echo(json.dumps(dict(answer), ensure_ascii=False) if as_json else "\n".join(map(shown, sentence.split("\n"))))


def _table(names: tuple[str, ...], rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(*(name.replace("_", " ") for name in names), box=None)
    for row in rows:
        cells = (row.get(name, "") for name in names)
        table.add_row(*(", ".join(cell) if isinstance(cell, list) else str(cell) for cell in cells))
    Console(soft_wrap=True, highlight=False, markup=False).print(table_shown(table))


def _today(node: Path) -> str:
    from lianxin.parties.config import load_node

    return now_of_node(load_node(node))[:10]


def now_of_node(config: "NodeConfig") -> str:
    """Return the time by which a node of this configuration judges, from outside: a trial's stands still."""
    from lianxin.parties.clock import now_of

    return now_of(config.simulation.clock if config.simulation else None)


def _ask(path: Path, request: Mapping[str, Any]) -> dict[str, Any]:
    """Return the answer of the node that runs on this configuration, else of its store, opened for this once."""
    from lianxin.parties.config import load_node
    from lianxin.parties.control import ask
    from lianxin.parties.node import open_node
    from lianxin.parties.operator_desk import act

    config = load_node(path)
    if not config.state.is_dir():
        raise InputFault(f"{config.state} is not there: the node was never started; start it with `serve`")
    with suppress(InputFault):  # no node answers: it does not run
        answer = ask(config.state, {"do": "operator", **request})
        return {name: value for name, value in answer.items() if name != "ok"}
    node = open_node(config)
    try:
        return act(node, request)
    finally:
        node.close()


def opened(path: Path) -> "tuple[NodeConfig, Store]":
    """Return a node's configuration and its store, only read: the node may run."""
    from lianxin.parties.config import load_node
    from lianxin.parties.store_open import open_store

    config = load_node(path)
    return config, open_store(config, read_only=True)
