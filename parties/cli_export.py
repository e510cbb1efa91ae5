"""`lianxin audit export`: the evidence of one run in one file that an auditor verifies without us (docs/evidence.md)."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lianxin.federation.errors import InputFault
from lianxin.parties.cli_audit import audit

if TYPE_CHECKING:
    from lianxin.parties.identity import Identity

_EVIDENCE = "evidence"


@audit.command("export")
def export(
    run_dir: Annotated[Path, typer.Argument(help="A simulated run's folder, or with --node STATE/runs/RUN.")],
    out: Annotated[Path, typer.Option("--out", help="The pack to write, such as run-1.evidence.")],
    node: Annotated[Path | None, typer.Option("--node", help="The node's TOML file, for its own part alone.")] = None,
    party: Annotated[list[str] | None, typer.Option(help="Only this party of a simulated run; repeat it.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line.")] = False,
) -> None:
    """Write the evidence of a run to one file, each party's part signed by its node key.

    Example: lianxin audit export build/demo --out demo.evidence
    """
    from lianxin.parties.clock import SystemClock
    from lianxin.parties.pack_export import write_pack

    if node is not None and party:
        raise InputFault("--party chooses among a simulated run's parties; a node exports its own part alone")
    with _identities(run_dir, node, party or []) as found:
        folders = {name: folder for name, (folder, _) in found.items()}
        keys = {name: identity.signing_key for name, (_, identity) in found.items()}
        manifest = write_pack(folders, keys, out, SystemClock().now(), lambda what: typer.echo(what, err=True))
    names, size = [part["party"] for part in manifest["parts"]], out.stat().st_size
    said = {"run": manifest["run"], "parties": names, "bytes": size, "out": str(out)}
    typer.echo(json.dumps(said) if as_json else f"wrote {out}: run {manifest['run']}, {', '.join(names)}, {size} bytes")


@contextmanager
def _identities(run_dir: Path, node: Path | None, chosen: list[str]) -> "Iterator[dict[str, tuple[Path, Identity]]]":
    """Give by party the folder of its evidence and its identity."""
    if node is None:
        yield _simulated(run_dir, chosen)
        return
    with tempfile.TemporaryDirectory(prefix="lianxin-export-") as place:
        yield _own(run_dir, node, Path(place))


def _simulated(run_dir: Path, chosen: list[str]) -> "dict[str, tuple[Path, Identity]]":
    from lianxin.parties.config import load_node
    from lianxin.parties.identity_of import identity_of

    there = sorted(path.parent.name for path in (run_dir / "parties").glob("*/node.toml"))
    if not there:
        raise InputFault(f"{run_dir} is no simulated run's folder; name one, or give a node's TOML file with --node")
    if unknown := sorted(set(chosen) - set(there)):
        raise InputFault(f"{run_dir} has no party {unknown[0]} (there are: {', '.join(there)})")
    found = {}
    for party in chosen or there:
        home = run_dir / "parties" / party
        found[party] = (home / _EVIDENCE, identity_of(load_node(home / "node.toml")))
    return found


def _own(run_dir: Path, node: Path, place: Path) -> "dict[str, tuple[Path, Identity]]":
    """Return a node's own part: the evidence that it wrote at the run's end, or that of its store as it is now."""
    from lianxin.parties.cli_ledger import _opened
    from lianxin.parties.config import load_node
    from lianxin.parties.identity_of import identity_of
    from lianxin.parties.ledger_export import export_from_store

    settings = load_node(node)
    identity = identity_of(settings)
    if run_dir.resolve().parent != (settings.state / "runs").resolve():
        raise InputFault(f"{run_dir} is no run of that node; name a folder of {settings.state / 'runs'}")
    folder = run_dir / _EVIDENCE
    if not folder.is_dir():
        party, store, _ = _opened(node)
        folder = export_from_store(store, party, run_dir.resolve().name, place, run_dir)
    return {identity.party: (folder, identity)}
