"""Commands about a node's ledger: look, prove, say what left, write evidence, and be a witness.

The commands that only read open the store beside a running node; those of a witness write, and need the node stopped.
"""

import csv
import io
import json
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from lianxin.federation.errors import EvidenceRejected, InputFault

if TYPE_CHECKING:
    from lianxin.parties.config import NodeConfig
    from lianxin.parties.store import Store

ledger = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="What a node's ledger holds, shows and proves.")
Config = Annotated[Path, typer.Argument(help="The node's TOML file.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line.")]
OutFile = Annotated[Path, typer.Option("--out", help="The file to write.")]
_SHOWN = ("time", "kind", "run", "operator")


@ledger.command("show")
def show(
    config: Config,
    last: Annotated[int, typer.Option(min=1, max=100_000, help="How many leaves, the newest.")] = 20,
    run: Annotated[str | None, typer.Option(help="Only leaves of this run.")] = None,
    kind: Annotated[str | None, typer.Option(help="Only leaves of this kind: release, envelope, contract...")] = None,
    as_json: AsJson = False,
) -> None:
    """Show the newest leaves, of all or of one run or kind.

    Example: lianxin ledger show platform.toml --kind refusal --last 5
    """
    _, store, _ = _opened(config)
    wanted = {"run": run, "kind": kind}
    start = max(0, store.next_position() - last) if run is None and kind is None else 0
    leaves = ((start + n, json.loads(leaf)) for n, leaf in enumerate(store.leaves(start)))
    chosen = deque((one for one in leaves if all(v in (None, one[1].get(k)) for k, v in wanted.items())), maxlen=last)
    if as_json:
        typer.echo(json.dumps({"leaves": [{"index": index, **leaf} for index, leaf in chosen]}, ensure_ascii=False))
        return
    table = Table("leaf", *_SHOWN, "says")
    for index, leaf in chosen:
        table.add_row(str(index), *(str(leaf.get(name, "")) for name in _SHOWN), _says(leaf))
    Console().print(table)


def _says(leaf: dict[str, Any]) -> str:
    names = ("direction", "peer", "recipient", "step", "message_type", "event", "rows", "rule", "epoch")
    return " ".join(str(leaf[name]) for name in names if leaf.get(name) not in (None, ""))


@ledger.command("left")
def left(
    config: Config,
    by: Annotated[
        list[str] | None, typer.Option(help="peer, field, form, purpose, run or day; repeat it for more.")
    ] = None,
    csv_file: Annotated[Path | None, typer.Option("--csv", help="Write the table to this CSV file too.")] = None,
    html_file: Annotated[Path | None, typer.Option("--html", help="Write the table to this HTML page too.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say what left this node, from its leaves alone: messages, bytes, releases and rows.

    Example: lianxin ledger left platform.toml --by peer --by field --csv left.csv
    """
    from lianxin.parties.ledger_left import COUNTS, DIMENSIONS, what_left

    chosen = by or ["peer", "form"]
    if set(chosen) - set(DIMENSIONS) or len(set(chosen)) < len(chosen):
        raise InputFault(f"--by is one of {', '.join(DIMENSIONS)}, each at most once")
    party, store, _ = _opened(config)
    count = store.next_position()
    lines = what_left(store.leaves(0, count), chosen)
    head = (*chosen, *COUNTS)
    if csv_file is not None:
        _write(csv_file, _csv(head, lines))
    if html_file is not None:
        _write(html_file, _page(party, count, head, lines))
    if as_json:
        typer.echo(json.dumps({"party": party, "leaves": count, "by": chosen, "lines": lines}, ensure_ascii=False))
        return
    table = Table(*head)
    for line in lines:
        table.add_row(*(str(line[name]) for name in head))
    Console().print(table)


def _csv(head: tuple[str, ...], lines: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, head, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def _page(party: str, count: int, head: tuple[str, ...], lines: list[dict[str, Any]]) -> str:
    from lianxin.parties.ledger_left import COUNTS
    from lianxin.parties.report_page import Part, heading, page, paragraph, table, text

    rows = [[text(line[name]) for name in head] for line in lines]
    body = table([heading(name) for name in head], rows, range(len(head) - len(COUNTS), len(head)))
    lead = paragraph(
        text(f"From the {count} leaves of the ledger of {party}. A message counts in every line it touches.")
    )
    return page(f"What left {party}", lead, [Part("left", "What left", body)])


@ledger.command("prove")
def prove(
    config: Config,
    out: OutFile,
    leaf: Annotated[int | None, typer.Option(min=0, help="The number of the leaf to prove.")] = None,
    firm: Annotated[str | None, typer.Option(help="The identifier of the firm whose releases to prove.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write a proof of one leaf, or of every release that held one firm, for someone else to check.

    Example: lianxin ledger prove platform.toml --leaf 12 --out proof.json
    """
    from lianxin.crypto import canonical
    from lianxin.parties.consent import subject_key
    from lianxin.parties.identifiers import normalise_identifier
    from lianxin.parties.ledger_proof import prove_leaf, prove_subject
    from lianxin.parties.node import SUBJECT_KEY_FILE, read_subject_key

    if (leaf is None) == (firm is None):
        raise InputFault("say what to prove: either --leaf N or --firm IDENTIFIER")
    party, store, settings = _opened(config)
    if leaf is not None:
        proof = prove_leaf(store, party, leaf)
    else:
        secret = read_subject_key(settings.identity / SUBJECT_KEY_FILE)
        proof = prove_subject(store, party, subject_key(secret, normalise_identifier(str(firm))))
    _write(out, canonical.encode(proof).decode() + "\n")
    found = {"party": party, "leaves": len(proof["leaves"]), "out": str(out)}
    typer.echo(json.dumps(found) if as_json else f"{found['leaves']} leaves of {party} proved in {out}")


@ledger.command("check")
def check(
    proof: Annotated[Path, typer.Argument(help="A proof that `lianxin ledger prove` wrote.")],
    key: Annotated[str, typer.Option("--key", help="The party's node key, in hex.")],
    as_json: AsJson = False,
) -> None:
    """Check a proof with nothing but the party's node key.

    Example: lianxin ledger check proof.json --key 3b6a27bcceb6a42d62a3a8d02a6f0d73653215771de243a63ac048a18b59da29
    """
    from lianxin.crypto import canonical
    from lianxin.crypto.errors import CryptoError
    from lianxin.parties.auditor_proof import verify_proof

    try:
        record = canonical.decode_fragment(_read(proof).removesuffix(b"\n"))
        head = verify_proof(record, key)
    except CryptoError as fault:
        raise EvidenceRejected(f"{proof}: {fault}") from None
    if as_json:
        typer.echo(json.dumps({"ok": True, "party": record["party"], "size": head.size, "leaves": record["leaves"]}))
        return
    typer.echo(f"{len(record['leaves'])} leaves hold under the head of {head.size} that {record['party']} signed")
    for entry in record["leaves"]:
        typer.echo(f"  leaf {entry['index']}: {entry['leaf']['time']} {entry['leaf']['kind']} {_says(entry['leaf'])}")


@ledger.command("export")
def export(
    config: Config,
    run: Annotated[str, typer.Option(help="The run whose evidence is written.")],
    out: Annotated[Path, typer.Option("--out", help="The folder that gets `evidence`.")],
) -> None:
    """Write the evidence of one run, up to the last checkpoint, for an auditor.

    Example: lianxin ledger export platform.toml --run run-1 --out handed-over/parties/platform-qh
    """
    from lianxin.parties.ledger_export import export_from_store

    party, store, settings = _opened(config)
    typer.echo(f"wrote {export_from_store(store, party, run, out, settings.state / 'runs' / run)}")


@ledger.command("head")
def head(
    config: Config, witness: Annotated[str, typer.Option(help="The party that will cosign.")], out: OutFile
) -> None:
    """Write this ledger's head as a request to a witness (C2SP tlog-witness); the node has to be stopped.

    Example: lianxin ledger head platform.toml --witness bank-a --out head.txt
    """
    node = _node(config)
    try:
        _peer_key(node, witness)
        _write(out, node.head(witness).decode())
    finally:
        node.close()
    typer.echo(f"wrote {out}; have it answered with `lianxin ledger cosign`")


@ledger.command("cosign")
def cosign(
    config: Config,
    request: Annotated[Path, typer.Argument(help="What `lianxin ledger head` wrote.")],
    party: Annotated[str, typer.Option(help="The party whose head it is.")],
    out: OutFile,
) -> None:
    """Cosign another party's head if it extends the last one; the node has to be stopped.

    Example: lianxin ledger cosign bank.toml head.txt --party platform-qh --out answer.txt
    """
    node = _node(config)
    try:
        answer = node.keep_head(_read(request), party, _peer_key(node, party))
    finally:
        node.close()
    _write(out, answer.decode())
    if answer[:1].isdigit():
        raise EvidenceRejected(f"not cosigned: the proof has to start from a ledger of {answer.decode().strip()} leaves; "
                               f"give {out} to {party} with `lianxin ledger take`, and ask for a new head")  # fmt: skip
    typer.echo(f"wrote {out}; {party} takes it with `lianxin ledger take`")


@ledger.command("take")
def take(
    config: Config,
    answer: Annotated[Path, typer.Argument(help="What `lianxin ledger cosign` wrote.")],
    witness: Annotated[str, typer.Option(help="The party that answered.")],
) -> None:
    """Keep a witness's cosignature with the checkpoint that it is for; the node has to be stopped.

    Example: lianxin ledger take platform.toml answer.txt --witness bank-a
    """
    node = _node(config)
    try:
        size = node.ledger.take_answer(_read(answer), witness, _peer_key(node, witness))
    finally:
        node.close()
    typer.echo(
        f"{witness} has cosigned {size} leaves" if size else f"noted which head {witness} knows; write a new one"
    )


def _opened(config: Path) -> "tuple[str, Store, NodeConfig]":
    """Return the party, its store opened for reading only, and the configuration."""
    from lianxin.parties.config import load_node
    from lianxin.parties.identity_of import identity_of
    from lianxin.parties.store_open import open_store

    settings = load_node(config)
    store = open_store(settings, read_only=True)
    return identity_of(settings).party, store, settings


def _node(config: Path) -> Any:
    from lianxin.parties.config import load_node
    from lianxin.parties.node import open_node

    return open_node(load_node(config))


def _peer_key(node: Any, party: str) -> str:
    peer = node.identity.peers.get(party)
    if peer is None:
        raise InputFault(
            f"{party} is none of the parties that this node knows: {', '.join(sorted(node.identity.peers))}"
        )
    return str(peer.node_key)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        raise InputFault(f"{path} cannot be read; check the path") from None


def _write(path: Path, text: str) -> None:
    draft = path.with_name(path.name + ".new")
    try:
        draft.write_text(text, encoding="utf-8")
        draft.rename(path)
    except OSError:
        raise InputFault(f"{path} cannot be written; choose another place") from None
