"""What a node's status and a run's end look like in a terminal: the texts behind the commands of `cli_nodes`."""

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import typer

from lianxin.federation.errors import LianxinError
from lianxin.parties.control import ask
from lianxin.parties.language import shown
from lianxin.parties.plan_kept import describe_kept
from lianxin.parties.run_remedies import tell

if TYPE_CHECKING:
    from lianxin.parties.config import NodeConfig

NOTES = 5  # of the newest that a status shows


def report_end(ended: Mapping[str, Any], as_json: bool) -> None:
    """Say how a run ended or that an agreement stands. Raises the LianxinError that ended it otherwise."""
    if ended["state"] == "standing":
        command = "score" if ended.get("model") == "scoring" else "query"
        said = f"agreement {ended['run']} stands until {ended['expires_at']}; banks ask under it with `lianxin bank {command}`"
        typer.echo(json.dumps(dict(ended)) if as_json else shown(said))
        return
    if ended["state"] != "finished":
        fault = LianxinError(tell(ended))
        fault.exit_code = ended.get("exit_code", 3)
        raise fault
    typer.echo(json.dumps(dict(ended)) if as_json else shown(f"run {ended['run']} finished; {_came_to(ended)}"))
    for sentence in describe_kept(ended.get("planned", {})) if not as_json else ():
        typer.echo(shown(sentence))


def _came_to(ended: Mapping[str, Any]) -> str:
    """Return what a finished run came to: the firms matched or, of a network, its rounds and each bank's figures."""
    if ended["matched"]:
        return f"matched {ended['matched']}"
    metrics = ended.get("metrics", {})
    rounds = f"{ended['rounds']} rounds; " if "rounds" in ended else ""
    shown = (f"{bank}: {', '.join(_figures(numbers)) or 'no figure'}" for bank, numbers in sorted(metrics.items()))
    return f"{rounds}{'; '.join(shown)}" if metrics else f"{rounds}no figures"


def _figures(numbers: Mapping[str, Any]) -> list[str]:
    """Return AUC and how many rows it is over, from figures in millionths."""
    areas = [
        f"{name.removeprefix('auc_')} {numbers[name] / 10**6:.4f}"
        for name in sorted(numbers)
        if name.startswith("auc_")
    ]
    return [f"AUC of {numbers['test_rows']:,} rows", *areas] if areas else []


def is_told(note: str, is_network: bool) -> bool:
    """Return whether whoever follows a launch is shown this note; of a network each bank's answers are too many."""
    words = note.split()
    is_answer = len(words) == 2 and words[1].startswith(("query.", "train", "evaluate"))
    return not (is_network and (is_answer or words[:2] in (["begin", "round"], ["end", "round"])))


def _terms_of(party: str, contract: Mapping[str, Any]) -> list[str]:
    """Return a waiting proposal in a few lines: who, what for, which of this party's fields, until when."""
    asked = [f"{entry['field']} ({entry['use']})" for entry in contract["fields"] if entry["provider"] == party]
    head = f"{contract['run']} waits: proposed by {contract['proposer']} of {contract['platform']}"
    if contract["model"] == "field_query":
        offered = [entry["field"] for entry in contract["fields"] if entry["provider"] == contract["platform"]]
        return [
            head,
            f"  a standing agreement for field queries, purpose {contract['purpose']}, until {contract['expires_at']}",
            f"  {party} names firms by {', '.join(asked)} and may ask for: {', '.join(offered)}",
        ]
    if contract["model"] == "scoring":
        count = len(contract["models"])
        models = (
            f"the model of run {contract['models'][0]}" if count == 1 else f"models {', '.join(contract['models'])}"
        )
        return [
            head,
            f"  a standing agreement for joint scores, purpose {contract['purpose']}, until {contract['expires_at']}",
            f"  {party} names firms by {', '.join(asked)} and is given the platform's part of {models}",
        ]
    sums = f"rows {contract['min_rows']}, bads {contract['min_bads']}, goods {contract['min_goods']}"
    return [
        head,
        f"  purpose {contract['purpose']}, {contract['matching']} matching",
        f"  {contract['key_bits']}-bit keys, {contract['profile']}",
        f"  asks of {party}: {', '.join(asked)}",
        f"  {contract['rounds']} rounds, until {contract['expires_at']}",
        f"  least sizes: {sums}; when a bank is lost: {contract['on_loss']}",
    ]


def _of_platform(answer: Mapping[str, Any]) -> Iterator[str]:
    """Yield who is connected to a platform and what is under way there: a node that has done nothing says that."""
    here = ", ".join(answer["connected"])
    yield f"connected: {here}" if here else "no bank is connected"
    if not (answer["ended"] or answer["under_way"]):
        yield "no run yet"
    for run in answer["under_way"]:
        if run not in answer["resumed"]:
            yield f"{run}: under way"


def notes_of(answer: Mapping[str, Any], run: str) -> list[str]:
    """Return the notes of a node's answer that are about `run`, and of no other."""
    return [note for (_, note), about in zip(answer["events"], answer["of_runs"], strict=True) if about == run]


def _newest_notes(answer: Mapping[str, Any]) -> Iterator[str]:
    """Yield a node's newest notes; where they are of more than one run, each with its run."""
    newest = list(zip(answer["events"], answer["of_runs"], strict=True))[-NOTES:]
    is_mixed = len({run for _, run in newest if run}) > 1
    for (_, note), run in newest:
        yield f"{run}: {shown(note)}" if is_mixed and run and run not in note else shown(note)


def show_status(config: "NodeConfig", as_json: bool) -> None:
    """Print what the running node of `config` has done and what waits at it."""
    from lianxin.federation import plan

    answer = ask(config.state, {"do": "status", "from": 0})
    if as_json:
        typer.echo(json.dumps({key: answer[key] for key in answer if key != "ok"}))
        return
    for sentence in _of_platform(answer) if "connected" in answer else ():
        typer.echo(shown(sentence))
    for run, outcome in answer["ended"].items():
        why = tell(outcome)
        typer.echo(shown(f"{run}: {outcome['state']}") + (f": {shown(why)}" if why else ""))
    for run in answer["resumed"]:
        typer.echo(shown(f"{run}: under way again since this node was started"))
    for run, proposal in answer.get("waiting", {}).items():
        for sentence in _terms_of(answer["party"], proposal["contract"]):
            typer.echo(shown(sentence))
        for sentence in plan.describe_plan(proposal["plan"]):
            typer.echo(shown(f"  {sentence}"))
        typer.echo(
            shown(f"answer with `lianxin bank approve {run} --node FILE --operator YOU` or `lianxin bank refuse ...`")
        )
    for note in _newest_notes(answer):
        typer.echo(f"  {note}")
    if "road" in answer:
        typer.echo(shown(answer["road"]["sentence"]))
