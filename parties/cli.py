"""The command line: `lianxin network|platform|bank|simulate|audit|replay|bench`.

A mistake ends in one sentence and a non-zero exit; `--debug` shows the traceback. Modules of the simulations are
imported inside the commands that need them, so that a node never loads them.
"""

import os

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")  # the same sums in the same order, and cores for the kernels that matter
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import re
import sys
from functools import cache
from typing import Annotated

import click
import typer
import typer.core

from lianxin.crypto.errors import CryptoError
from lianxin.federation.errors import LianxinError
from lianxin.federation.protobuf_parser import require_parser
from lianxin.parties import (
    cli_ask,
    cli_audit,
    cli_bench,
    cli_bins,
    cli_boundary,
    cli_card,
    cli_catalogue,
    cli_consent,
    cli_desensitise,
    cli_doctor,
    cli_document,
    cli_explain,
    cli_export,
    cli_keys,
    cli_ledger,
    cli_nodes,
    cli_open,
    cli_operator,
    cli_operator_reports,
    cli_privacy,
    cli_query,
    cli_replay,
    cli_runs,
    cli_scenarios,
    cli_score,
    cli_serve,
    cli_simulate,
    cli_store,
    error_codes,
    error_codes_paths,
    language,
    report_page,
)

typer.core.HAS_RICH = False  # with it, plain help is escaped for a markup that it is not printed in: \[required]
app = typer.Typer(
    name="lianxin", no_args_is_help=True, rich_markup_mode=None,
    help="Joint credit models between a platform and banks; no raw field leaves its owner unless a named rule lets it.",
)  # fmt: skip
app.add_typer(cli_nodes.network, name="network")
app.add_typer(cli_query.platform, name="platform")  # the groups of cli_nodes, with the commands of field queries
app.add_typer(cli_query.bank, name="bank")
FURTHER = (
    cli_ask, cli_bins, cli_card, cli_doctor, cli_document, cli_export, cli_keys, cli_open, cli_operator,
    cli_operator_reports, cli_privacy, cli_runs, cli_scenarios, cli_score, cli_serve, cli_store,
)  # fmt: skip  # modules whose commands are in the groups above
app.add_typer(cli_simulate.simulate, name="simulate")
app.add_typer(cli_audit.audit, name="audit")
app.add_typer(cli_boundary.boundary, name="boundary")
app.command(name="replay")(cli_replay.replay)
app.command(name="doctor")(cli_doctor.doctor)
app.command(name="explain")(cli_explain.explain)
app.add_typer(cli_bench.bench, name="bench")
app.add_typer(cli_ledger.ledger, name="ledger")
app.add_typer(cli_catalogue.catalogue, name="catalogue")
app.add_typer(cli_consent.consent, name="consent")
app.add_typer(cli_desensitise.desensitise, name="desensitise")
STOPPED = 130
_SAID_TWICE = re.compile(r"( Did you mean [^?]*\?)\1")
STOPPED_SENTENCE = "stopped by the operator; what was begun in --out stays there and can be removed"


def _show_version(is_asked: bool) -> None:
    if is_asked:
        from importlib.metadata import version

        typer.echo(f"lianxin {version('lianxin')}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of a fault.")] = False,
    lang: Annotated[str, typer.Option("--lang", help="en or zh: of reports and refusals; after a command too.")] = "en",
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and end.", is_eager=True, callback=_show_version)
    ] = False,
) -> None:
    """Joint credit models between a platform and banks."""
    click.get_current_context().obj = {"debug": debug}


@cache
def command() -> click.Command:
    """Return the whole tree of commands."""
    return typer.main.get_command(app)


def main() -> None:
    """Run the command line and exit with its code: 0 done, 2 a mistake in what was asked, 3 and up see errors.py."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command and return its exit code; faults are told on standard error."""
    debug = "--debug" in arguments
    try:
        require_parser()
        arguments = language.taken(arguments)
        error_codes_paths.follow_links(arguments)
        outcome = command().main(args=arguments, prog_name="lianxin", standalone_mode=False)
        code = outcome if isinstance(outcome, int) else 0
        if code == STOPPED:
            _tell(STOPPED_SENTENCE, error_codes.STOPPED)
        return code
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.UsageError as fault:
        path = fault.ctx.command_path if fault.ctx is not None else "lianxin"
        said = _SAID_TWICE.sub(r"\1", fault.format_message())  # typer and click both guess what was meant
        _tell(f"{said.rstrip('.')}; see `{path} --help`", error_codes.USAGE)
        return 2
    except click.Abort:
        _tell(STOPPED_SENTENCE, error_codes.STOPPED)
        return STOPPED
    except (LianxinError, CryptoError) as fault:
        if debug:
            raise
        first, *further = getattr(fault, "lines", [str(fault)])  # a file's mistakes are a line each
        _tell(first, error_codes.code_of(fault))
        for line in further:
            _tell(f"  {line}", "")
        return getattr(fault, "exit_code", 4)
    except Exception as fault:
        if debug:
            raise
        if said := error_codes_paths.said_of(fault):
            _tell(said, error_codes.PATH)
            return 2
        _tell(
            f"a fault of this program ({type(fault).__name__}); run the command again with --debug and report what it shows",
            error_codes.FAULT_OF_OURS,
        )
        return 1


def _tell(sentence: str, code: str) -> None:
    """Print a sentence and its code to standard error, without what would steer the terminal: it may quote a file or a peer."""
    said = report_page.plain(language.told(" ".join(sentence.splitlines()))) + (f" ({code})" if code else "")
    from rich.console import Console

    Console(stderr=True, soft_wrap=True, highlight=False).print(said, style="red", markup=False)


if __name__ == "__main__":
    main()
