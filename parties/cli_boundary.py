"""Commands about what the gate holds back and lets go: objections, deletions, marked models.

They work on a node that runs, through its control socket, and on one that does not, by opening its store.
"""

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from lianxin.federation.errors import InputFault

if TYPE_CHECKING:
    from lianxin.parties.node import Node

boundary = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="What the gate holds back: objections, deletions, marked models."
)
NodeFile = Annotated[Path, typer.Option("--node", help="The node's TOML file.")]
Who = Annotated[str, typer.Option("--operator", help="Who does this; named in the ledger.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line.")]
_SHOWN = 12


@boundary.command("objection")
def objection(
    action: Annotated[Literal["open", "resolve", "list"], typer.Argument(help="open, resolve or list.")],
    node: NodeFile,
    subject: Annotated[str, typer.Argument(help="The firm's code to open, an objection's id to resolve.")] = "",
    field: Annotated[str, typer.Option("--field", help="The catalogue field that the firm disputes.")] = "",
    state: Annotated[str, typer.Option("--state", help="How it ends: repaired or rejected.")] = "",
    operator: Who = "",
    as_json: AsJson = False,
) -> None:
    """Note that a firm disputes a value, say how that ended, or list what is open (rule R27).

    Example: lianxin boundary objection open 91630000600037341L --field judgment_cnt_36m --node a.toml --operator li
    """
    request = {"act": f"objection-{action}", "subject": subject, "field": field, "state": state, "operator": operator}
    answer = _ask(node, request)
    _show(answer["objections"], as_json, ("objection", "field", "state", "due_at", "subject"), "no objection")


@boundary.command("sweep")
def sweep(
    node: NodeFile,
    evidence: Annotated[str, typer.Option("--evidence", help="Also delete this run's exported evidence (R16).")] = "",
    operator: Who = "",
    as_json: AsJson = False,
) -> None:
    """Delete models and scores whose contract's retention has passed (rule R07).

    Example: lianxin boundary sweep --node a.toml --operator li
    """
    answer = _ask(node, {"act": "sweep", "evidence": evidence, "operator": operator})
    _show(answer["deleted"], as_json, ("run", "rule", "count"), "nothing is due")


@boundary.command("models")
def models(
    node: NodeFile,
    run: Annotated[str, typer.Option("--run", help="The run whose marked model is decided about.")] = "",
    choice: Annotated[str, typer.Option("--choice", help="retrain, drop or keep.")] = "",
    operator: Who = "",
    as_json: AsJson = False,
) -> None:
    """List the models that withdrawals touch, or record what is done about one: retrain, drop or keep (rule R04).

    Example: lianxin boundary models --node a.toml --run run-1 --choice retrain --operator li
    """
    answer = _ask(node, {"act": "models", "run": run, "choice": choice, "operator": operator})
    _show(answer["models"], as_json, ("run", "revocations", "choice", "operator"), "no model is touched")


def _ask(path: Path, request: Mapping[str, Any]) -> dict[str, Any]:
    """Return the answer of the node that runs on this configuration, else of its store, opened for this once."""
    from lianxin.parties.config import load_node
    from lianxin.parties.control import ask
    from lianxin.parties.node import open_node

    config = load_node(path)
    if not config.state.is_dir():
        raise InputFault(f"{config.state} is not there: the node was never started, and holds nothing yet")
    with suppress(InputFault):  # no node answers: it does not run
        return ask(config.state, {"do": "boundary", **request})
    node = open_node(config)
    try:
        return act(node, request)
    finally:
        node.close()


def act(node: "Node", request: Mapping[str, Any]) -> dict[str, Any]:
    """Do at a node what one of these commands asks and return what it shows; what a running node answers, too.

    Raises InputFault for a request that cannot be done, GateRefused (R16) for evidence that is kept.
    """
    what, operator = str(request["act"]), str(request.get("operator", "")) or node.config.operator
    _check_operator(operator)
    if what.startswith("objection-"):
        return {"objections": _objections(node, what.removeprefix("objection-"), request, operator)}
    if what == "sweep":
        return {"deleted": _sweep(node, str(request["evidence"]), operator)}
    if what == "models":
        return {"models": _models(node, str(request["run"]), str(request["choice"]), operator)}
    raise ValueError("unknown request")


def _check_operator(operator: str) -> None:
    from lianxin.parties.config import OPERATOR

    if re.fullmatch(OPERATOR, operator) is None:
        raise InputFault("an operator's name is 3 to 64 of a-z, 0-9, '.' and '-'; say who decides with --operator")


def _objections(node: "Node", action: str, request: Mapping[str, Any], operator: str) -> list[dict[str, Any]]:
    from lianxin.parties.identifiers import normalise_identifier

    kept, now, subject = node.boundary.objections, node.clock.now(), str(request["subject"])
    if action == "list":
        return [_shown(one) for one in kept.records()]
    if not subject:
        raise InputFault(
            "say whose value is disputed, or which objection ends; see `lianxin boundary objection --help`"
        )
    if action == "resolve":
        return [_shown(kept.resolve(subject, str(request["state"]), now, operator))]
    field = str(request["field"])
    if field not in node.catalogue:
        raise InputFault("the catalogue of this node has no field of that name; say which one with --field")
    key = node.boundary.subject_key(normalise_identifier(subject))
    return [_shown(kept.open(key, field, now, operator))]


def _shown(record: Mapping[str, Any]) -> dict[str, Any]:
    return {**record, "subject": record["subject_key"][:_SHOWN]}


def _sweep(node: "Node", evidence: str, operator: str) -> list[dict[str, Any]]:
    from lianxin.parties import retention

    done = retention.sweep(node)
    if evidence:
        retention.delete_evidence(node, evidence, operator)
        done.append({"run": evidence, "rule": "R16", "count": 1})
    return done


def _models(node: "Node", run: str, choice: str, operator: str) -> list[dict[str, Any]]:
    from lianxin.parties import lineage

    marks = lineage.mark_models(node)
    if not run and not choice:
        return marks
    if not run or not choice:
        raise InputFault("a decision about a model names both the run (--run) and the choice (--choice)")
    return [lineage.choose(node, run, choice, operator)]


def _show(rows: list[dict[str, Any]], as_json: bool, columns: tuple[str, ...], nothing: str) -> None:
    if as_json:
        typer.echo(json.dumps({"rows": rows}, ensure_ascii=False, sort_keys=True))
        return
    if not rows:
        typer.echo(nothing)
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns, box=None)
    for row in rows:
        table.add_row(*(str(row.get(name, "")) for name in columns))
    Console(soft_wrap=True, highlight=False).print(table)
