"""Commands about a node's store: what is in it, a backup, and making a node again from one."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lianxin.federation.errors import InputFault
from lianxin.parties.cli_nodes import AsJson, Config, bank, platform, role_config
from lianxin.parties.language import shown

if TYPE_CHECKING:
    from lianxin.parties.config import NodeConfig
    from lianxin.parties.store_restore import Owner

BACKUP_DEADLINE_S = 3600.0
To = Annotated[Path, typer.Option("--to", help="The new folder that gets the backup.")]
From = Annotated[Path | None, typer.Option("--from", help="The folder that `backup` wrote.")]
Accept = Annotated[bool, typer.Option("--accept-loss", help="Restore a copy that is older than the lost store.")]
Lift = Annotated[bool, typer.Option("--lift", help="End the hold of a node that was restored with a loss.")]
Reason = Annotated[str, typer.Option("--reason", help="Why; it is kept in the ledger.")]
Who = Annotated[str, typer.Option("--operator", help="Who decides; it is named in the ledger.")]


@platform.command("store")
def platform_store(config: Config, as_json: AsJson = False) -> None:
    """Show the platform's store: version, database, size, how much it holds.

    Example: lianxin platform store platform.toml --json
    """
    _store("platform", config, as_json)


@bank.command("store")
def bank_store(config: Config, as_json: AsJson = False) -> None:
    """Show a bank's store: version, database, size, how much it holds.

    Example: lianxin bank store a.toml
    """
    _store("bank", config, as_json)


def _store(role: str, config: Path, as_json: bool) -> None:
    from lianxin.parties.store_open import open_store
    from lianxin.parties.store_report import report_of

    store = open_store(role_config(config, role), read_only=True)
    try:
        found = report_of(store)
    finally:
        store.close()
    if as_json:
        typer.echo(json.dumps(found))
        return
    typer.echo(
        f"{found['place']} ({found['dialect']}), schema version {found['version']}, {found['size_bytes']:,} bytes"
    )
    typer.echo(", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in found["counts"].items()))
    if not found["is_durable"]:
        typer.echo(shown("the database may lose what it has confirmed: set fsync and synchronous_commit to on"))
    if found["is_held"]:
        typer.echo(shown("restored with a loss: nothing is released until another operator ends the hold"))


@platform.command("backup")
def platform_backup(config: Config, to: To, as_json: AsJson = False) -> None:
    """Back up the platform's state, whether its node runs or not; the copy is checked before it appears.

    Example: lianxin platform backup platform.toml --to backups/2026-05-01
    """
    _back_up("platform", config, to, as_json)


@bank.command("backup")
def bank_backup(config: Config, to: To, as_json: AsJson = False) -> None:
    """Back up a bank's state, whether its node runs or not; the copy is checked before it appears.

    Example: lianxin bank backup a.toml --to backups/2026-05-01
    """
    _back_up("bank", config, to, as_json)


def _back_up(role: str, config: Path, to: Path, as_json: bool) -> None:
    made = _made(role_config(config, role), to.resolve())
    told = {name: made[name] for name in ("party", "time", "dialect", "ledger_size", "epoch")}
    if as_json:
        typer.echo(json.dumps({**told, "backup": str(to), "files": len(made["files"])}))
        return
    said = (
        f"wrote {to}: {told['party']} at {told['time']}, {told['ledger_size']} leaves and {told['epoch']} records of the "
        f"registry, {len(made['files'])} files; the identity folder, tables and configuration are not in it"
    )
    typer.echo(shown(said))


def _made(config: "NodeConfig", to: Path) -> dict[str, Any]:
    """Return the manifest of a backup that the running node takes, or of one taken of a node that is stopped."""
    from lianxin.parties.control import SOCKET, ask
    from lianxin.parties.store_backup import back_up
    from lianxin.parties.store_open import lock_state, open_store

    if not config.state.is_dir():
        raise InputFault(f"{config.state} is not there: the node was never started, and there is nothing to back up")
    try:
        lock = lock_state(config.state)
    except InputFault:
        if not (config.state / SOCKET).exists():
            raise
        made: dict[str, Any] = ask(config.state, {"do": "backup", "to": str(to)}, BACKUP_DEADLINE_S)["backup"]
        return made
    with lock:
        open_store(config, read_only=True).close()  # nothing is created where nothing was
        store, owner = open_store(config), _owner(config, "")
        try:
            return back_up(store, owner.party, owner.key, config.state, to, owner.clock.now())
        finally:
            store.close()


@platform.command("restore")
def platform_restore(
    config: Config, source: From = None, accept_loss: Accept = False, lift: Lift = False, reason: Reason = "",
    operator: Who = "", as_json: AsJson = False,
) -> None:  # fmt: skip
    """Restore the platform's state from a backup into an empty state folder; an older copy than the lost store is refused.

    Example: lianxin platform restore platform.toml --from backups/2026-05-01
    """
    _restore("platform", config, source, accept_loss, lift, reason, operator, as_json)


@bank.command("restore")
def bank_restore(
    config: Config, source: From = None, accept_loss: Accept = False, lift: Lift = False, reason: Reason = "",
    operator: Who = "", as_json: AsJson = False,
) -> None:  # fmt: skip
    """Restore a bank's state from a backup into an empty state folder; an older copy than the lost store is refused.

    Example: lianxin bank restore a.toml --from backups/2026-05-01
    """
    _restore("bank", config, source, accept_loss, lift, reason, operator, as_json)


def _restore(
    role: str,
    config: Path,
    source: Path | None,
    accept_loss: bool,
    lift: bool,
    reason: str,
    operator: str,
    as_json: bool,
) -> None:
    from lianxin.parties import store_restore

    settings = role_config(config, role)
    if lift == (source is not None):
        raise InputFault("say either --from FOLDER, to restore a backup, or --lift, to end the hold of a restored node")
    if (accept_loss or lift) and not (reason and operator):
        raise InputFault(
            "accepting a loss, and ending its hold, needs --operator and --reason: both are kept in the ledger"
        )
    owner = _owner(settings, operator, reason if accept_loss else "")
    if lift:
        found = store_restore.lift(settings, owner, reason)
        typer.echo(json.dumps(found) if as_json else f"the hold of {found['party']} is ended; the node may be started")
        if not as_json:
            for what in ("revoked", "suspended", "standing"):
                typer.echo(f"{shown(what)}: {', '.join(found[what]) or shown('none')}")
        return
    assert source is not None
    done = store_restore.restore(settings, source, owner)
    if as_json:
        typer.echo(json.dumps(done))
        return
    for line in _told(done):
        typer.echo(shown(line))


def _told(done: dict[str, Any]) -> list[str]:
    lines = [
        f"restored {done['party']} as of {done['backup_time']}: {done['ledger_size']} leaves, {done['epoch']} records"
    ]
    if done["is_held"]:
        lost = f"lost for certain: {done['lost_records']} consents and withdrawals, {done['lost_leaves']} leaves"
        lines.append(f"{lost}; nothing is released until another operator ends the hold (docs/operations-store.md)")
    if done["runs_ended"]:
        lines.append(f"ended as failed, launch them anew under other ids: {', '.join(done['runs_ended'])}")
    return lines


def _owner(config: "NodeConfig", operator: str, accept_loss: str = "") -> "Owner":
    from lianxin.parties.clock import SimulatedClock, SystemClock
    from lianxin.parties.identity import load_identity
    from lianxin.parties.keys import load_protection
    from lianxin.parties.store_restore import Owner

    identity = load_identity(config.identity, lambda: load_protection(config))
    clock = SimulatedClock(config.simulation.clock) if config.simulation else SystemClock()
    return Owner(identity.party, identity.ledger_keys(), clock, operator or config.operator, accept_loss)
