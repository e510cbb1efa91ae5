"""Commands of an auditor: verify a run's evidence."""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lianxin.federation.errors import EvidenceRejected, InputFault, RunStopped
from lianxin.parties.language import shown, table_shown
from lianxin.parties.new_files import check_new

if TYPE_CHECKING:
    from lianxin.parties.auditor_verdict import Verdict

audit = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Check evidence, offline, trusting nobody.")
Given = Annotated[
    list[Path], typer.Argument(help="Evidence packs or run folders of one run; several are taken together.")
]
KnownKeys = Annotated[
    Path | None, typer.Option("--known-keys", help='A JSON file {"party": node key in hex}, known from elsewhere.')
]
Html = Annotated[Path | None, typer.Option("--html", help="Write the verdict as a page to this file.")]
Everything = Annotated[bool, typer.Option("--all", help="Print each check that holds, not only how many of each party do.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line.")]
_KEY = re.compile(r"[0-9a-f]{64}")
_FEW = 16


@audit.callback()
def _group() -> None:
    """Check evidence, offline, trusting nobody."""


@audit.command("verify")
def verify(
    given: Given, known_keys: KnownKeys = None, html: Html = None, everything: Everything = False, as_json: AsJson = False
) -> None:  # fmt: skip
    """Check contract, consents, every ledger against the others, and run every decision again.

    Example: lianxin audit verify build/demo
    """
    from lianxin.parties.verdict_report import write_verdict

    if html is not None:
        check_new(html, "--html")
    keys = _read_keys(known_keys) if known_keys is not None else None
    with Console(stderr=True).status("reading") as status:
        verdict = _verdict_on(given, keys, lambda said: status.update(escape(shown(said))))
    if html is not None:
        write_verdict(html, verdict)
    if as_json:
        typer.echo(json.dumps(verdict.to_record()))
    else:
        _show(verdict, everything)
    if not verdict.ok:
        first = verdict.failures[0]
        raise EvidenceRejected(f"{first.name} of {first.subject}: {first.told}")


def _verdict_on(given: list[Path], keys: Mapping[str, str] | None, say: Callable[[str], None]) -> "Verdict":
    from lianxin.parties.auditor import verify_packs, verify_run

    for path in given:
        if not path.exists():
            raise InputFault(f"{path} does not exist; name a pack or the folder that `--out` gave")
        if path.is_dir() and not (path / "parties").is_dir():
            raise InputFault(f"{path} is no run folder: it has no parties/; name the folder that `--out` gave")
    try:
        if len(given) == 1 and given[0].is_dir():
            return verify_run(given[0], keys, say=say)
        return verify_packs(given, keys, say=say)
    except OSError as fault:
        raise RunStopped(
            f"the evidence could not be read or unpacked: {fault.strerror or 'the system refused it'}"
        ) from None


def _read_keys(path: Path) -> Mapping[str, str]:
    try:
        keys = json.loads(path.read_bytes())
    except OSError as fault:
        raise InputFault(f"{path} cannot be read: {fault.strerror or 'the system refused it'}") from None
    except (ValueError, RecursionError):
        raise InputFault(f'{path} is no JSON; write {{"party": "its node key in hex"}}') from None
    if not isinstance(keys, dict) or not all(isinstance(key, str) and _KEY.fullmatch(key) for key in keys.values()):
        raise InputFault(f"{path} holds something else than a node key of 64 hex digits for each party")
    return keys


def _show(verdict: "Verdict", everything: bool) -> None:
    """Print a verdict. Its texts quote files of others, so nothing of them reaches the terminal but what prints."""
    from lianxin.parties.auditor_verdict import named
    from lianxin.parties.report_page import plain

    typer.echo(shown(plain(verdict.line)))
    for party, detail in verdict.accused:
        typer.echo(shown(plain(named(party, detail))))
    table = Table("check", "party", "holds", "detail")
    for row in _rows(verdict, everything):
        table.add_row(*(escape(shown(plain(cell))) for cell in row))
    Console().print(table_shown(table))


def _rows(verdict: "Verdict", everything: bool) -> Iterator[tuple[str, str, str, str]]:
    """Yield what failed, then what holds: where that is much, how many checks of each party that have nothing more to say."""
    from lianxin.parties.auditor_verdict import OF_THE_RUN

    yield from ((check.name, check.subject, "NO", check.told) for check in verdict.failures)
    held = [check for check in verdict.checks if check.ok]
    alone = [
        check for check in held
        if everything or len(held) <= _FEW or check.subject == OF_THE_RUN or check.detail.startswith("verified; ")
    ]  # fmt: skip
    yield from ((check.name, check.subject, "yes", check.detail) for check in alone)
    rest = Counter(check.subject for check in held if check not in alone)
    yield from ((f"{count} more", party, "yes", "--all names them") for party, count in sorted(rest.items()))
