"""Commands of people who run nodes: make a trial network, set up, launch, approve, refuse, look."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tomli_w
import typer

from lianxin.federation.errors import InputFault, LianxinError, RunStopped
from lianxin.parties.cli_status import is_told, notes_of, report_end, show_status
from lianxin.parties.control import ask
from lianxin.parties.language import shown

if TYPE_CHECKING:
    from lianxin.parties.config import NodeConfig

network = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Keys and certificates for a local trial.")
platform = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="The platform operator's node.")
bank = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="A bank's node.")
Config = Annotated[Path, typer.Argument(help="The node's TOML file.")]
As = Annotated[str, typer.Option("--operator", help="Who decides; it is named in the ledger.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line.")]
LAUNCH_POLL_S = 0.5


@network.command("init")
def network_init(
    folder: Annotated[Path, typer.Argument(help="Where each party's identity folder is written.")],
    platform_id: Annotated[str, typer.Option("--platform", help="The platform's party id.")],
    banks: Annotated[list[str], typer.Option("--bank", help="A bank's party id; repeat it for more.")],
    address: Annotated[str, typer.Option(help="Where the platform will listen, host:port.")] = "127.0.0.1:7443",
    days: Annotated[int, typer.Option(help="How long the certificates are valid.")] = 90,
) -> None:
    """Make a test CA, keys and certificates for a local trial.

    Example: lianxin network init net --platform platform-qh --bank bank-a --bank bank-b
    """
    from lianxin.crypto.randomness import system_seed
    from lianxin.parties.clock import SystemClock
    from lianxin.parties.config import KEY_FILE
    from lianxin.parties.identity import make_network
    from lianxin.parties.keys import make_key_file
    from lianxin.parties.node import SUBJECT_KEY_FILE, write_subject_key

    make_network(folder, platform_id, banks, None, SystemClock(), days, {platform_id: address})
    for party in [platform_id, *banks]:
        write_subject_key(folder / party / SUBJECT_KEY_FILE, system_seed())
        make_key_file(folder / party / KEY_FILE)
        typer.echo(f"{folder / party}")


_OPTIONS = {
    "operator": "--operator", "listen": "--listen", "platform_address": "--platform", "data.id": "--id",
    "data.label": "--label", "data.firm_keys": "--firm-keys", "data.consents": "--consents",
}  # fmt: skip  # from which option of `init` a key of the file comes


def _init(path: Path, settings: Mapping[str, Any]) -> None:
    from lianxin.parties.config import KEY_FILE, load_node
    from lianxin.parties.config_mistakes import ConfigMistakes, by_option
    from lianxin.parties.keys import make_key_file

    if path.exists():
        raise InputFault(f"{path} exists already; remove it or choose another name")
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".new")
    draft.write_text(tomli_w.dumps(dict(settings)))
    try:
        if (identity := load_node(draft).identity).is_dir():
            make_key_file(identity / KEY_FILE)
        draft.rename(path)
    except ConfigMistakes as fault:
        raise by_option(fault, f"{settings['role']} init", _OPTIONS) from None
    finally:
        draft.unlink(missing_ok=True)
    typer.echo(shown(f"wrote {path}; start it with `lianxin {settings['role']} serve {path}`"))


def _data(
    table: Path, id_column: str, catalogue: Path | None, consents: Path | None, firm_keys: Path | None
) -> dict[str, str]:
    given = {"table": table, "catalogue": catalogue, "consents": consents, "firm_keys": firm_keys}
    return {"id": id_column} | {name: str(path.resolve()) for name, path in given.items() if path is not None}


Table = Annotated[Path, typer.Option("--table", help="The node's table: .csv, .csv.gz or .parquet.")]
IdColumn = Annotated[str, typer.Option("--id", help="The column that names the firm.")]
IdentityFolder = Annotated[Path, typer.Option("--identity", help="The party's identity folder.")]
OperatorName = Annotated[str, typer.Option("--operator", help="The node's operator, named in its ledger.")]
Catalogue = Annotated[Path | None, typer.Option("--catalogue", help="A catalogue file; the packaged draft without it.")]
Consents = Annotated[Path | None, typer.Option("--consents", help="Signed consents, a line each.")]
FirmKeyFile = Annotated[Path | None, typer.Option("--firm-keys", help="The firms' registered keys, a line each.")]


@platform.command("init")
def platform_init(
    config: Config, identity: IdentityFolder, table: Table, id_column: IdColumn, operator: OperatorName,
    listen: Annotated[str, typer.Option(help="host:port to listen on.")] = "127.0.0.1:7443",
    catalogue: Catalogue = None, consents: Consents = None, firm_keys: FirmKeyFile = None,
) -> None:  # fmt: skip
    """Write a platform node's configuration.

    Example: lianxin platform init platform.toml --identity net/platform-qh --table firms.csv.gz --id uscc --operator li
    """
    _init(config, {
        "role": "platform", "operator": operator, "identity": str(identity.resolve()), "state": f"{config.stem}-state",
        "listen": listen, "data": _data(table, id_column, catalogue, consents, firm_keys),
    })  # fmt: skip


@bank.command("init")
def bank_init(
    config: Config, identity: IdentityFolder, table: Table, id_column: IdColumn, operator: OperatorName,
    label: Annotated[str, typer.Option("--label", help="The column with 1 for bad and 0 for good.")],
    address: Annotated[str, typer.Option("--platform", help="The platform's host:port.")] = "127.0.0.1:7443",
    split: Annotated[str | None, typer.Option("--split", help="The column with train or test.")] = None,
    loan_id: Annotated[str | None, typer.Option("--loan-id", help="The column that tells a firm's loans apart.")] = None,
    catalogue: Catalogue = None, consents: Consents = None, firm_keys: FirmKeyFile = None,
) -> None:  # fmt: skip
    """Write a bank node's configuration. Without a [policy] in it, proposals wait for `lianxin bank approve`.

    Example: lianxin bank init a.toml --identity net/bank-a --table loans.csv.gz --id uscc --label label_bad --operator wang
    """
    data = _data(table, id_column, catalogue, consents, firm_keys) | {"label": label}
    data |= {name: value for name, value in (("split", split), ("loan_id", loan_id)) if value}
    _init(config, {
        "role": "bank", "operator": operator, "identity": str(identity.resolve()), "state": f"{config.stem}-state",
        "platform_address": address, "data": data,
    })  # fmt: skip


def role_config(path: Path, role: str) -> "NodeConfig":
    """Return the node configuration at `path`. Raises InputFault for another role's."""
    from lianxin.parties.config import load_node

    config = load_node(path)
    if config.role != role:
        raise InputFault(
            f"{path} is a {config.role}'s configuration and this is a command of the {role}; give the {role}'s file"
        )
    return config


@platform.command("launch")
def platform_launch(
    run: Annotated[Path, typer.Argument(help="The run's TOML file.")],
    config: Annotated[Path, typer.Option("--node", help="The platform node's TOML file.")],
    operator: As = "",
    wait: Annotated[bool, typer.Option(help="Follow the run to its end.")] = True,
    as_json: AsJson = False,
) -> None:
    """Propose a run to its banks and, once all have signed, lead it.

    Example: lianxin platform launch run.toml --node platform.toml
    """
    state = role_config(config, "platform").state
    begun = ask(state, {"do": "launch", "config": str(run.resolve()), "operator": operator})
    name, seen = begun["run"], begun["from"]
    while wait:
        answer = _followed(state, name, str(config), seen)
        for note in notes_of(answer, name):
            if is_told(note, begun["network"]):
                typer.echo(shown(note), err=True)
        if answer["missed"]:
            typer.echo(shown(f"{answer['missed']} notes of the node came and went meanwhile"), err=True)
        seen = answer["next"]
        if name in answer["ended"]:
            report_end(answer["ended"][name], as_json)
            return
        time.sleep(LAUNCH_POLL_S)
    typer.echo(json.dumps({"run": name}) if as_json else shown(f"run {name} is proposed"))


def _followed(state: Path, run: str, config: str, seen: int) -> dict[str, Any]:
    """Return what is new. Raises RunStopped where the node is gone: a run across banks goes on when it is started again."""
    try:
        return ask(state, {"do": "status", "from": seen})
    except LianxinError:
        raise RunStopped(
            f"the platform's node was stopped while run {run} was under way; start it again with `lianxin platform serve "
            f"{config}` (a network's run goes on by itself) and follow it with `lianxin platform status {config}`"
        ) from None


@platform.command("status")
def platform_status(config: Config, as_json: AsJson = False) -> None:
    """Show what the platform's running node has done.

    Example: lianxin platform status platform.toml --json
    """
    show_status(role_config(config, "platform"), as_json)


@platform.command("keys")
def platform_keys(config: Config, as_json: AsJson = False) -> None:
    """List the platform's saved Paillier keys: owner, purpose, run, bits, key id, protection; nothing secret.

    Example: lianxin platform keys platform.toml
    """
    from lianxin.parties.keys import list_keys

    typer.echo(list_keys(role_config(config, "platform").state, as_json))


@bank.command("keys")
def bank_keys(config: Config, as_json: AsJson = False) -> None:
    """List a bank's saved Paillier keys: owner, purpose, run, bits, key id, protection; nothing secret.

    Example: lianxin bank keys a.toml --json
    """
    from lianxin.parties.keys import list_keys

    typer.echo(list_keys(role_config(config, "bank").state, as_json))


@bank.command("status")
def bank_status(config: Config, as_json: AsJson = False) -> None:
    """Show what a bank's running node has done, and each waiting proposal with its plan.

    Example: lianxin bank status a.toml
    """
    show_status(role_config(config, "bank"), as_json)


RunId = Annotated[str, typer.Argument(help="The run's id.")]
BankConfig = Annotated[Path, typer.Option("--node", help="The bank node's TOML file.")]


@bank.command("approve")
def bank_approve(run: RunId, config: BankConfig, operator: As) -> None:
    """Approve a waiting proposal; the operator must be another than the proposer.

    Example: lianxin bank approve run-1 --node a.toml --operator wang
    """
    ask(role_config(config, "bank").state, {"do": "decide", "run": run, "yes": True, "operator": operator})
    typer.echo(shown(f"approved {run}"))


@bank.command("refuse")
def bank_refuse(run: RunId, config: BankConfig, operator: As) -> None:
    """Refuse a waiting proposal; the platform is told the rule and nothing else.

    Example: lianxin bank refuse run-1 --node a.toml --operator wang
    """
    ask(role_config(config, "bank").state, {"do": "decide", "run": run, "yes": False, "operator": operator})
    typer.echo(shown(f"refused {run}"))
