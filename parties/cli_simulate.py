"""Simulations from the command line: a made-up province, the SBA loans, or your own tables."""

import json
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from lianxin.federation.errors import InputFault
from lianxin.parties import cli_network_options
from lianxin.parties.cli_model_options import ModelChoice, model_options
from lianxin.parties.language import shown, table_shown

simulate = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Whole runs on made-up or real data.")
Out = Annotated[Path | None, typer.Option("--out", help="A new folder for the run; a temporary one without it.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line.")]
Seed = Annotated[int, typer.Option(min=0, help="Every draw of the run comes from it.")]
Rounds = Annotated[int | None, typer.Option(min=1, max=200, help="Of a scorecard, to 15; of a network, 20 without it.")]
_ROUNDS = 6
KeyBits = Annotated[int, typer.Option("--key-bits", help="Bits of every Paillier modulus; 2048 is the floor.")]
Workers = Annotated[int, typer.Option(min=0, max=64, help="Processes for the heavy kernels; the result is the same.")]
Matching = Annotated[str, typer.Option(help="paillier or ecdh.")]
Profile = Annotated[str, typer.Option(help="full_exponents, or short_exponents: faster under one assumption more.")]
Nodes = Annotated[str, typer.Option(help="memory: all nodes in this process; processes: each its own, on gRPC.")]
ConsentRate = Annotated[float, typer.Option("--consent-rate", help="The share of firms that consent.")]
CatalogueFile = Annotated[Path | None, typer.Option("--catalogue", help="A catalogue in place of the generated one.")]
_STAGES = ("approved", "matched", "query.match", "counted", "query.count", "train", "evaluate")


def _terms(
    seed: int, matching: str, key_bits: int, rounds: int | None, workers: int, profile: str, choice: ModelChoice, **more: Any
) -> Any:  # fmt: skip
    from lianxin.federation.contract import MATCHING_PROTOCOLS, MINIMUM_KEY_BITS, PROFILES
    from lianxin.parties.agreement import MOST_ROUNDS
    from lianxin.simulations.layout import Terms

    if matching not in MATCHING_PROTOCOLS:
        raise InputFault(f"matching is {' or '.join(MATCHING_PROTOCOLS)}; hashing ids is no protection and not offered")
    if not MINIMUM_KEY_BITS <= key_bits <= 8192 or key_bits % 2:
        raise InputFault(f"--key-bits is an even number from {MINIMUM_KEY_BITS} to 8192")
    if profile not in PROFILES:
        raise InputFault(f"--profile is {' or '.join(PROFILES)}")
    if rounds is not None and choice.model == "boosted_trees":
        raise InputFault("--rounds is an option of scorecards; say with --trees how many trees are grown")
    if rounds is not None and rounds > MOST_ROUNDS and not choice.is_network:
        raise InputFault(f"--rounds of a scorecard is at most {MOST_ROUNDS}")
    if rounds is None:
        rounds = cli_network_options.ROUNDS if choice.is_network else _ROUNDS
    more |= {"model": choice.model, "model_terms": dict(choice.terms), "binning": choice.binning}
    return Terms(seed, matching, profile=profile, key_bits=key_bits, rounds=rounds, workers=workers, **more)


def _folder(out: Path | None) -> Path:
    from lianxin.simulations.layout import check_out

    folder = out.resolve() if out is not None else Path(tempfile.mkdtemp(prefix="lianxin-"))
    check_out(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        is_writable = os.access(folder, os.W_OK | os.X_OK)
    except OSError:
        is_writable = False
    if not is_writable:
        raise InputFault(f"{folder} cannot be written; give --out a new folder in a place that can be written")
    return folder


@simulate.command("province")
@model_options
def province(
    out: Out = None, firms: Annotated[int, typer.Option(min=200, help="Firms the platform knows.")] = 8000,
    banks: Annotated[int, typer.Option(min=1, max=20, help="Banks.")] = 3,
    loans: Annotated[int, typer.Option(min=100, help="Loans of each bank.")] = 1000,
    nodes: Nodes = "memory", matching: Matching = "paillier", key_bits: KeyBits = 2048, rounds: Rounds = None,
    workers: Workers = 2, seed: Seed = 1, profile: Profile = "full_exponents",
    score_consents: Annotated[bool, typer.Option("--score-consents", help="Firms consent to scores too (P2, P3).")] = False,
    as_json: AsJson = False, *, model: ModelChoice,
) -> None:  # fmt: skip
    """A made-up province: firms with public records, banks with loans, and a true gain from joining.

    Example: lianxin simulate province --nodes processes --out build/demo
    """
    from lianxin.simulations.layout import choose_catalogue
    from lianxin.simulations.tables import check_inputs
    from lianxin.simulations.world import make_province

    terms = _terms(
        seed, matching, key_bits, rounds, workers, profile, model, consent_permille=900, outsider_permille=40,
        compute_only_permille=20, revoked_firms=1, score_consents=score_consents,
    )  # fmt: skip
    if terms.is_network:
        cli_network_options.check_banks(terms.model, terms.model_terms, banks, loans)
    folder = _folder(out)
    world = make_province(seed, folder / "tables", firms, banks, loans)
    if terms.is_network:
        inputs, left = _across(list(world.banks), "uscc", "label_bad", "split", None)
        _run(folder, inputs, terms, choose_catalogue(inputs, None, True), nodes, as_json, {}, absent=left)
        return
    inputs = check_inputs(world.platform, list(world.banks), "uscc", "label_bad", "split")
    _run(folder, inputs, terms, choose_catalogue(inputs, None, True), nodes, as_json, {})


@simulate.command("sba")
@model_options
def sba(
    data: Annotated[Path, typer.Option("--data", help="The public SBA loan table.")],
    out: Out = None, banks: Annotated[int, typer.Option(min=1, max=20, help="How many of the largest banks.")] = 3,
    nodes: Nodes = "memory", matching: Matching = "paillier", key_bits: KeyBits = 2048, rounds: Rounds = None,
    workers: Workers = 2, seed: Seed = 1, consent_rate: ConsentRate = 1.0, catalogue: CatalogueFile = None,
    profile: Profile = "full_exponents", as_json: AsJson = False, *, model: ModelChoice,
) -> None:  # fmt: skip
    """Real small-firm loans of the U.S. Small Business Administration, as a platform and its largest banks.

    Example: lianxin simulate sba --data sba_loans.csv.gz --out runs/sba
    """
    from lianxin.simulations.layout import choose_catalogue, round_share
    from lianxin.simulations.sba import map_sba

    share = round_share(consent_rate)
    terms = _terms(seed, matching, key_bits, rounds, workers, profile, model, consent_permille=share)
    if terms.is_network:
        cli_network_options.check_banks(terms.model, terms.model_terms, banks)
    folder = _folder(out)
    inputs = map_sba(data, folder / "tables", banks)
    if terms.is_network:
        paths = [bank.path for bank in inputs.banks if bank.path is not None]
        across, left = _across(paths, "firm_id", "Default", "split", "loan_id")
        own = choose_catalogue(across, catalogue, False)
        _run(folder, across, terms, own, nodes, as_json, dict(inputs.refused_columns), absent=left)
        return
    notes = [
        "The platform's row of a firm is the one of its first approval, so that no later loan reaches an earlier one.",
        *(f"Column {name} was left out: {reason}." for name, reason in inputs.left_out_columns.items()),
    ]
    chosen = choose_catalogue(inputs, catalogue, False, terms.is_trees, terms.is_shown)
    _run(folder, inputs, terms, chosen, nodes, as_json, dict(inputs.refused_columns), notes)


@simulate.command("files")
@model_options
def files(
    bank: Annotated[list[Path], typer.Option("--bank", help="A bank's table; repeat it for more banks.")],
    id_column: Annotated[str, typer.Option("--id", help="The column that names the firm, in every table.")],
    label: Annotated[str, typer.Option("--label", help="The banks' column with 1 for bad and 0 for good.")],
    platform: Annotated[Path | None, typer.Option("--platform", help="The platform's table; a network has none.")] = None,
    split: Annotated[str | None, typer.Option("--split", help="The banks' column with train or test.")] = None,
    loan_id: Annotated[str | None, typer.Option("--loan-id", help="The column that tells a firm's loans apart.")] = None,
    out: Out = None, nodes: Nodes = "memory", matching: Matching = "paillier", key_bits: KeyBits = 2048,
    rounds: Rounds = None, workers: Workers = 2, seed: Seed = 1, consent_rate: ConsentRate = 1.0,
    catalogue: CatalogueFile = None, profile: Profile = "full_exponents", as_json: AsJson = False, *,
    model: ModelChoice,
) -> None:  # fmt: skip
    """Your own two or more tables: a platform's and banks', or for a network three banks' or more.

    Example: lianxin simulate files --platform p.csv.gz --bank b.csv.gz --id uscc --label bad --split split --json
    """
    from lianxin.simulations.layout import choose_catalogue, round_share
    from lianxin.simulations.tables import check_inputs

    share = round_share(consent_rate)
    terms = _terms(seed, matching, key_bits, rounds, workers, profile, model, consent_permille=share)
    if terms.is_network:
        if platform is not None:
            raise InputFault("a network is trained across banks alone; leave --platform out, or choose a joint --model")
        cli_network_options.check_banks(terms.model, terms.model_terms, len(bank))
        inputs, left = _across(bank, id_column, label, split, loan_id)
        own = choose_catalogue(inputs, catalogue, False)
        _run(_folder(out), inputs, terms, own, nodes, as_json, {}, absent=left)
        return
    if platform is None:
        raise InputFault(f"a {model.model} joins a platform's table with banks'; name it with --platform")
    inputs = check_inputs(platform, bank, id_column, label, split, loan_id)
    chosen = choose_catalogue(inputs, catalogue, False, terms.is_trees, terms.is_shown)
    _run(_folder(out), inputs, terms, chosen, nodes, as_json, {})


def _across(
    banks: Sequence[Path], id_column: str, label: str, split: str | None, loan_id: str | None
) -> tuple[Any, tuple[str, ...]]:
    """Return the inputs of a run across banks, and the columns left out since not every bank has them."""
    from lianxin.federation.network_terms import LEAST_SECRET
    from lianxin.simulations.tables import check_network_inputs

    return check_network_inputs(banks, id_column, label, split, loan_id, LEAST_SECRET)


def _run(
    folder: Path, inputs: Any, terms: Any, catalogue: Any, nodes: str, as_json: bool, refused: dict[str, str],
    notes: Sequence[str] = (), absent: Sequence[str] = (),
) -> None:  # fmt: skip
    from lianxin.simulations import layout as layouts
    from lianxin.simulations import runner

    if nodes not in ("memory", "processes"):
        raise InputFault("--nodes is memory or processes")
    console = Console(stderr=True)
    address = runner.free_address() if nodes == "processes" else "127.0.0.1:7443"
    with _progress(console, len(inputs.banks), terms.turns) as watch:
        layout = layouts.lay_out(folder, inputs, terms, catalogue, address)
        if nodes == "memory":
            ran = runner.run_in_memory(layout, watch)
        else:
            ran = runner.run_as_processes(layout, watch, lambda pids: _show_pids(console, pids))
    _conclude(layout, ran, refused, notes, as_json, console, absent)


def _show_pids(console: Console, pids: dict[str, int]) -> None:
    for party, pid in pids.items():
        console.print(shown(f"{party}: process {pid}"))


class _progress:
    """A bar that moves with the platform's notes."""

    def __init__(self, console: Console, banks: int, rounds: int) -> None:
        self._total = banks * (5 + rounds + 1)
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), console=console, transient=True
        )

    def __enter__(self) -> Callable[[str], None]:
        self._bar.__enter__()
        task = self._bar.add_task(shown("issuing keys and consents"), total=self._total)

        def watch(note: str) -> None:
            words = note.split()
            moved = any(word in _STAGES for word in words)
            self._bar.update(task, advance=int(moved), description=shown(note)[:48])

        return watch

    def __exit__(self, *failure: Any) -> None:
        self._bar.__exit__(*failure)


def _tell_notes(console: Console, layout: Any, outcome: Any, most: int = 12) -> None:
    """Print what each party's bins came to beside their rules, and that nothing was held out where nothing was."""
    models = {layout.parties[0]: outcome.platform_model, **outcome.models}
    notes = [
        f"{party}, {one['field']}: {one['note']}" for party, model in models.items() for one in model.get("notes", ())
    ]
    for note in notes[:most]:
        console.print(shown(f"note: {note}"), highlight=False, markup=False, soft_wrap=True)
    if len(notes) > most:
        more = f"and {len(notes) - most} more notes; `lianxin bank bins --run` and `lianxin platform bins` show all"
        console.print(shown(more), highlight=False, soft_wrap=True)
    if not outcome.evaluation["levels"]:
        said = "no held-out rows with a score: nothing says how the models do on firms that they were not fitted on"
        console.print(shown(f"{said}; mark some rows test"), highlight=False, soft_wrap=True)


def _told_of(layout: Any, figures: dict[str, Any]) -> str:
    if not layout.terms.is_network:
        return f"{figures['matched']['overall']} firms matched"
    used = ", ".join(
        f"{bank}: {model} of {_losses(figures['validation_loss'][bank])} on {figures['validation_rows'][bank]:,} rows"
        for bank, model in figures["recommended"].items()
    )
    return f"recommended by log-loss of rows held back: {used}; model {figures['model_sha256'][:16]}"


def _losses(losses: dict[str, float]) -> str:
    return " / ".join(f"{name} {loss:.4f}" for name, loss in losses.items()) or "no figures"


def _conclude(
    layout: Any, ran: Any, refused: dict[str, str], notes: Sequence[str], as_json: bool, console: Console,
    absent: Sequence[str] = (),
) -> None:  # fmt: skip
    from lianxin.parties.report import summary_table, write_report
    from lianxin.parties.report_evaluation import paired_table
    from lianxin.simulations import planned, results, story

    outcome = results.gather(layout, ran, results.verify_apart)
    outcome.figures["refused"]["fields"] = sorted({*outcome.figures["refused"]["fields"], *refused, *absent})
    costs = None if layout.terms.is_network else planned.calibrate(layout.terms.key_bits)
    summary = story.summary_of(layout, ran, outcome, calibration=costs)
    left = [f"Column {name} was left out: not every bank has it." for name in absent]
    summary["limits"] = [*left, *notes, *summary["limits"]]
    summary["refusals"] += [
        {"party": layout.parties[0], "field": name, "rule": "LEAK", "reason": reason}
        for name, reason in refused.items()
    ]
    report = layout.folder / "report.html"
    write_report(report, summary)
    (layout.folder / "result.json").write_text(json.dumps(outcome.figures, indent=1))
    for table in (summary_table(summary), paired_table(summary)):
        if table is not None:
            console.print(table_shown(table))
    _tell_notes(console, layout, outcome)
    for line in (*left, *(summary.get("advice", ()) if layout.terms.is_network else ())):
        console.print(shown(f"note: {line}"), highlight=False, markup=False, soft_wrap=True)
    sentence = "evidence verified" if outcome.verdict.ok else "EVIDENCE NOT VERIFIED; run `lianxin audit verify`"
    what = _told_of(layout, outcome.figures)
    console.print(shown(f"{what}; {sentence}"), highlight=False)
    for party, pid in ran.pids.items():
        typer.echo(shown(f"{party} ran as process {pid}"))
    typer.echo(f"{shown('report')}: {report}")
    if as_json:
        typer.echo(json.dumps(outcome.figures))
