"""Commands about keys and certificates: seal, rotate, accept a peer's, revoke a peer, what expires."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from lianxin.parties.cli_nodes import As, AsJson, Config, bank, platform, role_config

if TYPE_CHECKING:
    from lianxin.parties.config import NodeConfig

What = Annotated[Literal["tls", "node", "paillier"], typer.Argument(help="tls, node or paillier.")]
Node = Annotated[Path, typer.Option("--node", help="The node's TOML file.")]
Statement = Annotated[Path, typer.Argument(help="The file that the peer's operator sent.")]
Dry = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")]
InDays = Annotated[int, typer.Option("--in-days", help="In how many days the new one is used.")]
Overlap = Annotated[int, typer.Option("--overlap-days", help="For how many days after that both are taken.")]
Valid = Annotated[int, typer.Option("--valid-days", help="For how long a new certificate is valid.")]
Out = Annotated[Path, typer.Option("--out", help="The folder for the statement that peers accept.")]
Fingerprint = Annotated[str, typer.Option("--fingerprint", help="What the peer's operator told by other means.")]
Reason = Annotated[str, typer.Option("--reason", help="Why, in one line; it stays in this node's store.")]
IntroductionOut = Annotated[Path, typer.Option("--out", help="The file to write for the peers.")]


@platform.command("rotate")
def platform_rotate(
    what: What, config: Config, in_days: InDays = 0, overlap_days: Overlap = 14, valid_days: Valid = 365,
    out: Out = Path(), dry_run: Dry = False, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Go over to a new TLS certificate, node key or Paillier keys, without stopping the platform's node.

    Example: lianxin platform rotate tls platform.toml --in-days 3
    """
    _rotate(role_config(config, "platform"), what, (in_days, overlap_days, valid_days), out, dry_run, as_json)


@bank.command("rotate")
def bank_rotate(
    what: What, config: Config, in_days: InDays = 0, overlap_days: Overlap = 14, valid_days: Valid = 365,
    out: Out = Path(), dry_run: Dry = False, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Go over to a new TLS certificate, node key or Paillier keys, without stopping the bank's node.

    Example: lianxin bank rotate node a.toml --dry-run
    """
    _rotate(role_config(config, "bank"), what, (in_days, overlap_days, valid_days), out, dry_run, as_json)


@platform.command("accept-rotation")
def platform_accept_rotation(statement: Statement, config: Node, as_json: AsJson = False) -> None:
    """Take a bank's signed statement that it goes over to another key.

    Example: lianxin platform accept-rotation rotation-bank-a-1.json --node platform.toml
    """
    _accept_rotation(role_config(config, "platform"), statement, as_json)


@bank.command("accept-rotation")
def bank_accept_rotation(statement: Statement, config: Node, as_json: AsJson = False) -> None:
    """Take the platform's, or another bank's, signed statement that it goes over to another key.

    Example: lianxin bank accept-rotation rotation-platform-qh-1.json --node a.toml
    """
    _accept_rotation(role_config(config, "bank"), statement, as_json)


@platform.command("revoke-peer")
def platform_revoke_peer(
    party: Annotated[str, typer.Argument(help="The bank's party id.")],
    config: Config, operator: As, reason: Reason, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Trust a bank no more, at once: its connections are cut and its runs end.

    Example: lianxin platform revoke-peer bank-a platform.toml --operator li --reason "key lost"
    """
    _revoke(role_config(config, "platform"), party, operator, reason, as_json)


@bank.command("revoke-peer")
def bank_revoke_peer(
    party: Annotated[str, typer.Argument(help="The platform's or another bank's party id.")],
    config: Config, operator: As, reason: Reason, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Trust the platform or another bank no more, at once: this bank leaves its runs.

    Example: lianxin bank revoke-peer bank-b a.toml --operator wang --reason "key lost"
    """
    _revoke(role_config(config, "bank"), party, operator, reason, as_json)


@platform.command("introduce")
def platform_introduce(config: Config, out: IntroductionOut, as_json: AsJson = False) -> None:
    """Write who this platform is now, for banks that are to accept it anew, and show the fingerprint to tell them.

    Example: lianxin platform introduce platform.toml --out platform.identity.json
    """
    _introduce(role_config(config, "platform"), out, as_json)


@bank.command("introduce")
def bank_introduce(config: Config, out: IntroductionOut, as_json: AsJson = False) -> None:
    """Write who this bank is now, for peers that are to accept it anew, and show the fingerprint to tell them.

    Example: lianxin bank introduce a.toml --out bank-a.identity.json
    """
    _introduce(role_config(config, "bank"), out, as_json)


@platform.command("accept-peer")
def platform_accept_peer(statement: Statement, config: Node, fingerprint: Fingerprint, as_json: AsJson = False) -> None:
    """Accept a bank's new identity, both keys new; one that was revoked is trusted again.

    Example: lianxin platform accept-peer bank-a.identity.json --node platform.toml --fingerprint 5f3a
    """
    _accept_peer(role_config(config, "platform"), statement, fingerprint, as_json)


@bank.command("accept-peer")
def bank_accept_peer(statement: Statement, config: Node, fingerprint: Fingerprint, as_json: AsJson = False) -> None:
    """Accept a new identity of the platform or of another bank, both keys new.

    Example: lianxin bank accept-peer platform.identity.json --node a.toml --fingerprint 5f3a
    """
    _accept_peer(role_config(config, "bank"), statement, fingerprint, as_json)


@platform.command("protect-keys")
def platform_protect_keys(config: Config, as_json: AsJson = False) -> None:
    """Seal the platform's signing and TLS keys on disk under what [keys] names.

    Example: lianxin platform protect-keys platform.toml
    """
    _protect(role_config(config, "platform"), as_json)


@bank.command("protect-keys")
def bank_protect_keys(config: Config, as_json: AsJson = False) -> None:
    """Seal a bank's signing and TLS keys on disk under what [keys] names.

    Example: lianxin bank protect-keys a.toml
    """
    _protect(role_config(config, "bank"), as_json)


# ---- what they do


def _now(config: "NodeConfig") -> str:
    from lianxin.parties.clock import now_of

    return now_of(config.simulation.clock if config.simulation else None)


def _tell(said: Mapping[str, Any], text: str, as_json: bool) -> None:
    typer.echo(json.dumps(dict(said)) if as_json else text)


def _taken_up(config: "NodeConfig") -> str:
    """Have a running node take up what is new; return in words when it is in force."""
    from lianxin.federation.errors import LianxinError
    from lianxin.parties.control import ask

    try:
        ask(config.state, {"do": "keys", "what": "take-up"})
    except LianxinError:
        return "the node takes it up when it is started"
    return "the running node has taken it up"


def _rotate(
    config: "NodeConfig", what: str, days: tuple[int, int, int], out: Path, dry: bool, as_json: bool
) -> None:  # fmt: skip
    if what == "paillier":
        _retire_paillier(config, dry, as_json)
        return
    from lianxin.crypto import canonical
    from lianxin.parties import rotating

    wish, now = rotating.Wish(what, *days), _now(config)
    planned = rotating.plan(config, wish, now)
    said = {
        "party": planned.party,
        "number": planned.number,
        "what": what,
        "starts": planned.starts,
        "until": planned.until,
    }
    name = f"rotation {planned.number} of {planned.party} ({what})"
    words = f"{name}: used from {planned.starts}, the old one until {planned.until}"
    if dry:
        _tell({**said, "dry_run": True}, f"{words}; nothing was done", as_json)
        return
    signed = rotating.rotate(config, wish, now)
    path = out / f"rotation-{planned.party}-{planned.number}.json"
    path.write_bytes(canonical.encode(signed) + b"\n")
    taken = _taken_up(config)
    _tell({**said, "new": signed["record"]["new"], "statement": str(path)},
          f"{words}; {taken}. Give {path} to every peer, who takes it with `accept-rotation` before then", as_json)  # fmt: skip


def _retire_paillier(config: "NodeConfig", dry: bool, as_json: bool) -> None:
    from lianxin.federation.errors import InputFault
    from lianxin.parties.control import ask
    from lianxin.parties.key_rotation import retire_paillier

    request = {"do": "keys", "what": "retire-paillier", "dry": dry}
    if _runs(config):
        found = ask(config.state, request)
    else:
        from lianxin.parties.store_open import open_store

        if not config.state.is_dir():
            raise InputFault(f"{config.state} is not there: the node was never started, and has no saved key")
        store = open_store(config)
        try:
            found = retire_paillier(store, config.state, dry)
        finally:
            store.close()
    said = {"dropped": found["dropped"], "kept": found["kept"]}
    word = "would be dropped" if dry else "dropped"
    _tell(said, f"{len(said['dropped'])} saved Paillier keys {word}, {len(said['kept'])} in use kept; "
                "the next run makes new ones", as_json)  # fmt: skip


def _accept_rotation(config: "NodeConfig", statement: Path, as_json: bool) -> None:
    from lianxin.parties import rotating

    found = rotating.accept(config, statement, _now(config))
    said = {
        "party": found.party,
        "number": found.number,
        "what": found.what,
        "starts": found.starts,
        "until": found.until,
    }
    words = (
        f"accepted rotation {found.number} of {found.party} ({found.what}); its old one is taken until {found.until}"
    )
    _tell(said, f"{words}; {_taken_up(config)}", as_json)


def _revoke(config: "NodeConfig", party: str, operator: str, reason: str, as_json: bool) -> None:
    who = operator or config.operator
    found = _revoked_there(config, party, who, reason) if _runs(config) else _revoked_here(config, party, who, reason)
    ended, left = ", ".join(found["ended"]) or "none", found["left"]
    _tell({"party": party, "ended": found["ended"], "left": left},
          f"{party} is revoked; runs and agreements ended: {ended}", as_json)  # fmt: skip
    if left:
        from lianxin.federation.errors import RunStopped

        raise RunStopped(f"{party} is revoked and cut off, but these could not be ended: {', '.join(left)}; ask again")


def _runs(config: "NodeConfig") -> bool:
    from lianxin.parties.control import SOCKET

    return (config.state / SOCKET).exists()


def _revoked_there(config: "NodeConfig", party: str, operator: str, reason: str) -> dict[str, Any]:
    from lianxin.parties.control import ask

    request = {"do": "keys", "what": "revoke", "party": party, "operator": operator, "reason": reason}
    return ask(config.state, request)


def _revoked_here(config: "NodeConfig", party: str, operator: str, reason: str) -> dict[str, Any]:
    """Revoke at a node that does not run: it is opened for as long as that takes, and dials nobody."""
    from types import SimpleNamespace

    from lianxin.parties.ended_runs import EndedRuns
    from lianxin.parties.node import open_node
    from lianxin.parties.peer_trust import end_kept, revoke

    node = open_node(config)
    try:
        found = revoke(SimpleNamespace(node=node), party, operator, reason)
        return found | {"ended": end_kept(node, EndedRuns(node.store))}
    finally:
        node.close()


def _introduce(config: "NodeConfig", out: Path, as_json: bool) -> None:
    from lianxin.crypto import canonical
    from lianxin.parties import rotating

    signed, fingerprint = rotating.introduce(config, _now(config))
    out.write_bytes(canonical.encode(signed) + b"\n")
    said = {"party": signed["record"]["party"], "fingerprint": fingerprint, "out": str(out)}
    _tell(said, f"wrote {out}; tell its fingerprint by other means: {fingerprint}", as_json)


def _accept_peer(config: "NodeConfig", statement: Path, fingerprint: str, as_json: bool) -> None:
    from lianxin.parties import rotating

    found = rotating.accept_peer(config, statement, fingerprint, _now(config))
    said = {"party": found.party, "node_key": found.node_key, "certificate_sha256": found.certificate_sha256}
    _tell(said, f"accepted the new identity of {found.party}; {_taken_up(config)}", as_json)


def _protect(config: "NodeConfig", as_json: bool) -> None:
    from lianxin.parties import rotating

    sealed = [path.name for path in rotating.protect(config, _now(config))]
    _tell({"sealed": sealed}, f"sealed: {', '.join(sealed) or 'none, they were before'}", as_json)
