"""Benchmarks from the command line: the Paillier core beside other libraries, and matching between two processes."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from lianxin.federation.errors import InputFault, RunStopped

bench = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="How fast this machine is, beside other libraries."
)
PeersPython = Annotated[
    Path | None,
    typer.Option("--peers", help="A Python interpreter that has phe, gmpy2, pypaillier and openmined-psi."),
]
Bits = Annotated[int, typer.Option("--bits", help="Bits of every Paillier modulus; 2048 is the floor.")]
Out = Annotated[Path | None, typer.Option("--out", help="A folder for the figures as JSON and as a page with a plot.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]


@bench.command("crypto")
def crypto(
    peers: PeersPython = None, bits: Bits = 2048,
    rows: Annotated[int, typer.Option(min=64, max=1_000_000, help="Rows of the histogram, terms of the powers.")] = 30_000,
    repeat: Annotated[int, typer.Option(min=1, max=100, help="Rounds; figures are medians over them.")] = 3,
    out: Out = None, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Encryption, decryption, the encrypted histogram and multi-exponentiation, pinned to one core.

    Example: lianxin bench crypto --peers build/peers/bin/python --out build/bench
    """
    from lianxin.simulations import bench_crypto, bench_report
    from lianxin.simulations.bench_peers import Peers

    asked = Peers(peers)
    bench_crypto.check_bits(bits)
    _check_out(out)
    console = Console(stderr=True)
    with console.status("measuring") as status:
        record = bench_crypto.bench_crypto(bits, rows, repeat, asked, status.update)
    _conclude(record, out, as_json, console, bench_report)


@bench.command("matching")
def matching(
    queries: Annotated[int, typer.Option(min=50, max=1_000_000, help="Firms of the bank.")],
    rows: Annotated[int, typer.Option(min=50, max=1_000_000, help="Firms of the platform.")],
    protocol: Annotated[str, typer.Option(help="paillier or ecdh.")] = "paillier",
    bits: Bits = 2048,
    workers: Annotated[int, typer.Option(min=0, max=64, help="Worker processes of each side; 0 computes in it.")] = 0,
    pinned: Annotated[bool, typer.Option("--pinned", help="Keep both sides on one core: CPU time without company.")] = False,
    peers: PeersPython = None, out: Out = None, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Two processes find the firms they share, over gRPC with mutual TLS; time, bytes and memory of both.

    Example: lianxin bench matching --queries 1000 --rows 10000 --protocol ecdh --json
    """
    from lianxin.simulations import bench_crypto, bench_matching, bench_report
    from lianxin.simulations.bench_peers import Peers

    other = Peers(peers)
    bench_crypto.check_bits(bits)
    asked = bench_matching.Asked(queries, rows, protocol, bits, workers, pinned)
    bench_matching.check_asked(asked)
    _check_out(out)
    console = Console(stderr=True)
    with console.status("measuring") as status:
        record = bench_matching.bench_matching(asked, other, status.update)
    _conclude(record, out, as_json, console, bench_report)


@bench.command("scoring")
def scoring(
    firms: Annotated[int, typer.Option(min=1_500, max=1_000_000, help="Firms of the platform; two of three consent.")] = 3_000,
    singles: Annotated[int, typer.Option(min=100, max=100_000, help="Single requests that are timed.")] = 500,
    batches: Annotated[int, typer.Option(min=1, max=30, help="Batches of 1,000 firms that are timed.")] = 5,
    folder: Annotated[Path | None, typer.Option("--folder", help="Where the nodes' stores are made; its disk counts.")] = None,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Joint scores a second in batches, and the time of a single one, between two processes over gRPC with mutual TLS.

    Example: lianxin bench scoring --folder build --json
    """
    from lianxin.simulations.bench_scoring import Asked, bench_scoring

    if folder is not None:
        _check_out(folder)
    with Console(stderr=True).status("measuring") as status:
        record = bench_scoring(Asked(firms, singles, batches), folder, status.update)
    _tell(record, as_json)


@bench.command("ledger")
def ledger(
    leaves: Annotated[int, typer.Option(min=1_000, max=100_000_000, help="How many leaves fill the store.")] = 100_000,
    folder: Annotated[Path | None, typer.Option("--folder", help="Where the store is made; its disk is measured.")] = None,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Leaves a second, alone and together, beside the flushes of the disk; memory, and bytes a leaf.

    Example: lianxin bench ledger --leaves 100000 --folder build --json
    """
    from lianxin.simulations.bench_ledger import bench_ledger

    if folder is not None:
        _check_out(folder)
    with Console(stderr=True).status("measuring") as status:
        record = bench_ledger(leaves, folder, status.update)
    _tell(record, as_json)


@bench.command("audit")
def audit(
    leaves: Annotated[int, typer.Option(min=1_000, max=100_000_000, help="Leaves of both parties together.")] = 100_000,
    folder: Annotated[Path | None, typer.Option("--folder", help="Where the pack is made and unpacked.")] = None,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Seconds and memory to verify one large evidence pack, and its bytes a message.

    Example: lianxin bench audit --leaves 100000 --folder build --json
    """
    from lianxin.simulations.bench_audit import Asked, bench_audit

    if folder is not None:
        _check_out(folder)
    with Console(stderr=True).status("making evidence") as status:
        record = bench_audit(Asked(leaves), folder, status.update)
    _tell(record, as_json)


@bench.command("sums")
def sums(
    banks: Annotated[int, typer.Option(min=3, max=64, help="Banks of the sum.")] = 40,
    parameters: Annotated[int, typer.Option(min=1, max=10_000_000, help="64-bit values that each bank adds.")] = 100_000,
    lost: Annotated[int, typer.Option(min=-1, help="Banks that leave after their shares; -1: as many as may.")] = -1,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """A secure sum of banks' vectors: CPU seconds of a bank and of the platform, bytes of a bank, on one core.

    Example: lianxin bench sums --banks 40 --parameters 100000 --json
    """
    from lianxin.simulations.bench_sums import Asked, bench_sums

    with Console(stderr=True).status("measuring") as status:
        record = bench_sums(Asked(banks, parameters, lost), status.update)
    _tell(record, as_json)


@bench.command("star")
def star(
    out: Annotated[Path, typer.Option("--out", help="A new folder for the figures, the plot and each run.")],
    banks: Annotated[list[int] | None, typer.Option("--banks", min=1, max=64, help="Repeat it; 5 10 20 40 without.")] = None,
    rows: Annotated[list[int] | None, typer.Option("--rows", min=100, help="Loans a bank; 150 600 2400 without.")] = None,
    rounds: Annotated[int, typer.Option(min=1, max=15, help="Rounds of the scorecard.")] = 1,
    matching: Annotated[str, typer.Option(help="paillier or ecdh.")] = "ecdh",
    bits: Bits = 2048, as_json: AsJson = False,
) -> None:  # fmt: skip
    """One platform and many banks, each a process of its own: time, bytes and memory a node, and how they grow.

    Example: lianxin bench star --banks 5 --banks 40 --rows 150 --out build/star --json
    """
    from lianxin.simulations.bench_star import Asked, bench_star, lines_of

    points = Asked.banks if banks is None else tuple(banks), Asked.rows if rows is None else tuple(rows)
    asked = Asked(*points, rounds=rounds, matching=matching, key_bits=bits)
    with Console(stderr=True).status("measuring") as status:
        record = bench_star(asked, out, status.update)
    typer.echo(json.dumps(record) if as_json else "\n".join(lines_of(record)))


@bench.command("soak")
def soak(
    out: Annotated[Path, typer.Option("--out", help="A new folder for the figures, the plot and the nodes.")],
    runs: Annotated[int, typer.Option(min=30, max=10_000, help="How many runs, one after the other.")] = 300,
    model: Annotated[str, typer.Option(help="logistic (three banks), or scorecard (two banks).")] = "logistic",
    rows: Annotated[int, typer.Option(min=300, max=10_000, help="Loans of each bank.")] = 300,
    processes: Annotated[bool, typer.Option("--processes", help="Each node a process of its own.")] = False,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Many small runs through nodes that are never restarted: whether memory, files, threads and time stay flat.

    Example: lianxin bench soak --runs 300 --processes --out build/soak
    """
    from lianxin.simulations.bench_soak import Asked, bench_soak, check_model, lines_of

    check_model(model)
    with Console(stderr=True).status("soaking") as status:
        record = bench_soak(Asked(runs, model, rows, processes), out, status.update)
    typer.echo(json.dumps(record) if as_json else "\n".join(lines_of(record)))


@bench.command("grids")
def grids(
    parameters: Annotated[int, typer.Option(min=1_000, max=125_000, help="Weights of the network, about.")] = 100_000,
    rounds: Annotated[int, typer.Option(min=2, max=100, help="Rounds that are timed; figures are medians.")] = 10,
    folder: Annotated[Path | None, typer.Option("--folder", help="Where the nodes' stores are made; its disk counts.")] = None,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """A round of a network across three banks: in one process, and over gRPC with mutual TLS; in clear, and in secret.

    Example: lianxin bench grids --folder build --json
    """
    from lianxin.simulations.bench_grids import Asked, bench_grids

    if folder is not None:
        _check_out(folder)
    with Console(stderr=True).status("measuring") as status:
        record = bench_grids(Asked(parameters=parameters, rounds=rounds), status.update, folder)
    _tell(record, as_json)


def _tell(record: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(record))
        return
    for name, value in record.items():
        if name not in ("bench", "machine"):
            typer.echo(f"{name}: {value}")


@bench.command("training")
def training(
    data: Annotated[str, typer.Option("--data", help="taiwan, taiwan_fate, polish, sba, gmsc, or all.")] = "",
    shape: Annotated[str, typer.Option("--shape", help="qinghai or province: a made-up table, not --data.")] = "",
    folder: Annotated[Path | None, typer.Option("--folder", help="The folder of the public data sets.")] = None,
    model: Annotated[str, typer.Option("--model", help="scorecard or boosted_trees.")] = "scorecard",
    nodes: Annotated[str, typer.Option("--nodes", help="Of trees: shown or hidden.")] = "shown",
    rows: Annotated[int | None, typer.Option("--rows", min=200, help="Keep this many rows; all without it.")] = None,
    bits: Bits = 2048,
    rounds: Annotated[int, typer.Option(min=1, max=15, help="Rounds of a scorecard.")] = 6,
    trees: Annotated[int, typer.Option(min=1, max=200, help="Trees of an ensemble.")] = 30,
    depth: Annotated[int, typer.Option(min=1, max=6, help="Levels of a tree.")] = 4,
    matching: Annotated[str, typer.Option(help="paillier or ecdh.")] = "ecdh",
    profile: Annotated[str, typer.Option(help="full_exponents (scorecards) or short_exponents (trees).")] = "",
    workers: Annotated[int, typer.Option(min=0, max=64, help="Worker processes, all nodes in one process.")] = 2,
    processes: Annotated[bool, typer.Option("--processes", help="Each node a process of its own, without workers.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Every draw comes from it.")] = 1,
    warm_pool: Annotated[
        float, typer.Option("--warm-pool", min=0, metavar="SECONDS", help="Wait before the first round, for randomisers ahead.")
    ] = 0.0,
    out: Annotated[Path, typer.Option("--out", help="A folder, for report.html and figures.json of each run.")] = Path("runs"),
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Whole trainings on public data: AUC beside the references in clear, seconds, bytes, memory, the plan beside it.

    Example: lianxin bench training --data taiwan --folder data --model boosted_trees --out build/bench --json
    """
    from lianxin.simulations import bench_training

    if bool(data) == bool(shape):
        raise InputFault("give --data or --shape, one of the two")
    choices = {"model": model, "nodes": nodes, "rows": rows, "key_bits": bits, "rounds": rounds, "trees": trees,
               "depth": depth, "matching": matching, "profile": profile, "workers": workers,
               "processes": processes or bool(shape), "seed": seed, "warm_pool_s": warm_pool}  # fmt: skip
    asked = bench_training.asked_for(data or shape, **choices)
    records = []
    with Console(stderr=True).status("training") as status:
        for one in asked:
            records.append(bench_training.bench_training(one, folder, out, status.update))
            if not as_json:
                typer.echo("\n".join(bench_training.lines_of(records[-1])))
    if as_json:
        typer.echo(json.dumps(records if len(records) > 1 else records[0]))


@bench.command("privacy")
def privacy(
    folder: Annotated[Path, typer.Option("--folder", help="The folder of the public data sets.")],
    epsilon: Annotated[list[float] | None, typer.Option("--epsilon", help="Repeat it for more; 1, 2, 4, 8 without it.")] = None,
    banks: Annotated[int, typer.Option(min=1, max=100, help="Among how many banks the table is dealt.")] = 3,
    rounds: Annotated[int, typer.Option(min=1, max=200, help="Rounds of one epoch each.")] = 10,
    seeds: Annotated[int, typer.Option(min=1, max=20, help="Figures are means over so many seeds.")] = 1,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """AUC by epsilon, beside training without privacy and beside privacy of whole banks.

    Example: lianxin bench privacy --folder data --epsilon 2 --epsilon 8 --json
    """
    from lianxin.simulations.bench_privacy import Asked, bench_privacy, lines_of

    asked = Asked(tuple(epsilon or (1.0, 2.0, 4.0, 8.0)), banks, rounds, seeds=seeds)
    with Console(stderr=True).status("training") as status:
        record = bench_privacy(asked, folder, status.update)
    typer.echo(json.dumps(record) if as_json else "\n".join(lines_of(record)))


def _check_out(out: Path | None) -> None:
    from lianxin.simulations.bench_report import check_folder

    if out is not None:
        check_folder(out)


def _conclude(record: Mapping[str, Any], out: Path | None, as_json: bool, console: Console, report: Any) -> None:
    page = report.write_report(out, record) if out is not None else None
    if as_json:
        typer.echo(json.dumps(record))
    else:
        for table in report.terminal_tables(record):
            Console().print(table)
        for note in record["notes"]:
            typer.echo(note)
    if page is not None:
        console.print(f"report: {page}", highlight=False, soft_wrap=True)
    if record.get("correct") is False:
        raise RunStopped("matching did not find the plain intersection of the two lists; the figures above are void")
