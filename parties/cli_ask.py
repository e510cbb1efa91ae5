"""`lianxin audit ask`: the auditor's questions to packs or run folders, one command a question (docs/questions.md)."""

import csv
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lianxin.federation.errors import EvidenceRejected, InputFault
from lianxin.parties.cli_audit import audit
from lianxin.parties.language import shown
from lianxin.parties.new_files import check_new

if TYPE_CHECKING:
    from lianxin.parties.auditor_questions import Answer, Case
    from lianxin.parties.auditor_questions_firm import Shown

ask = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
audit.add_typer(ask, name="ask")
Given = Annotated[list[Path], typer.Argument(help="Evidence packs, or run folders; several are joined by party.")]
Run = Annotated[str, typer.Option("--run", help="Only this run.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object, with all rows, as the last line.")]
CsvFile = Annotated[Path | None, typer.Option("--csv", help="Write all rows to this CSV file.")]
Limit = Annotated[int, typer.Option(min=0, max=100_000, help="How many rows to print; the files have all.")]
Firm = Annotated[str, typer.Option("--firm", help="A firm's subject key; its identifier with --subject-secret.")]
Secret = Annotated[
    Path | None,
    typer.Option("--subject-secret", help="The provider's subject secret, to name a firm by its identifier."),
]
_DIGITS, _NAMES = 12, 3


@ask.callback()
def _group() -> None:
    """Ask evidence what an auditor has to know.

    Example: lianxin audit ask who-got build/demo --field revenue
    """


@ask.command("who-got")
def who_got(
    evidence: Given,
    recipient: Annotated[str, typer.Option(help="Only what this party got.")] = "",
    field: Annotated[str, typer.Option(help="Only releases of this field.")] = "",
    purpose: Annotated[str, typer.Option(help="Only this purpose, such as P4.")] = "",
    since: Annotated[str, typer.Option(help="A day, or a time such as 2026-01-31T08:00:00Z; included.")] = "",
    until: Annotated[str, typer.Option(help="A day or a time; included.")] = "",
    run: Run = "",
    firm: Firm = "",
    subject_secret: Secret = None,
    ids: Annotated[bool, typer.Option("--ids", help="Name every consent behind each release.")] = False,
    limit: Limit = 100,
    csv_file: CsvFile = None,
    as_json: AsJson = False,
) -> None:
    """Say who got which fields of whom, when, for what, by which right, and what left.

    Example: lianxin audit ask who-got run-1.evidence --recipient bank-1 --field tax_late_cnt_24m
    """
    from lianxin.parties.auditor_questions import Wanted
    from lianxin.parties.auditor_questions_releases import who_got as asked

    subject = _subject(firm, subject_secret)
    with _opened(evidence) as case:
        _tell(asked(case, Wanted(recipient, field, purpose, run, since, until), subject, ids), as_json, csv_file, limit)


@ask.command("after-revocation")
def after_revocation(
    evidence: Given, run: Run = "", limit: Limit = 100, csv_file: CsvFile = None, as_json: AsJson = False
) -> None:
    """Say which authorisations were used after expiry, revocation, refusal or pause; no row is good.

    Example: lianxin audit ask after-revocation run-1.evidence
    """
    from lianxin.parties.auditor_questions_uses import after_revocation as asked

    with _opened(evidence) as case:
        _tell(asked(case, run), as_json, csv_file, limit)


@ask.command("learned")
def learned(
    evidence: Given,
    party: Annotated[str, typer.Option("--party", help="The party that learned something.")],
    run: Run = "",
    limit: Limit = 100,
    csv_file: CsvFile = None,
    as_json: AsJson = False,
) -> None:
    """Say what a party was sent: messages by form and class, fields, rows, bytes, beside the plan.

    Example: lianxin audit ask learned run-1.evidence --party bank-1
    """
    from lianxin.parties.auditor_questions_messages import learned as asked

    with _opened(evidence) as case:
        _tell(asked(case, party, run), as_json, csv_file, limit)


@ask.command("agree")
def agree(
    evidence: Given, run: Run = "", limit: Limit = 100, csv_file: CsvFile = None, as_json: AsJson = False
) -> None:
    """Say whether all logs agree: both ends of each message, and the heads kept of each ledger.

    Example: lianxin audit ask agree platform.evidence bank-1.evidence
    """
    from lianxin.parties.auditor_questions_agree import agree as asked

    with _opened(evidence) as case:
        _tell(asked(case, run), as_json, csv_file, limit)


@ask.command("complete")
def complete(
    evidence: Given,
    party: Annotated[str, typer.Option("--party", help="Only this party's log.")] = "",
    limit: Limit = 100,
    csv_file: CsvFile = None,
    as_json: AsJson = False,
) -> None:
    """Say whether each log is complete: hash chain, signed heads, gaps in numbers and in time.

    Example: lianxin audit ask complete platform.evidence
    """
    from lianxin.parties.auditor_questions_complete import complete as asked

    with _opened(evidence) as case:
        _tell(asked(case, party), as_json, csv_file, limit)


@ask.command("firms")
def firms(
    evidence: Given,
    model: Annotated[str, typer.Option("--model", help="The run that the model was trained in.")],
    limit: Limit = 100,
    csv_file: CsvFile = None,
    as_json: AsJson = False,
) -> None:
    """Say which firms' data are in a model, by which consents, and who has withdrawn since.

    Example: lianxin audit ask firms run-1.evidence --model run-1 --csv firms.csv
    """
    from lianxin.parties.auditor_questions_firms import firms_in_model as asked

    with _opened(evidence) as case:
        _tell(asked(case, model), as_json, csv_file, limit)


@ask.command("firm")
def firm(
    evidence: Given,
    firm: Firm,
    subject_secret: Secret = None,
    proof: Annotated[
        list[Path] | None, typer.Option("--proof", help="What `lianxin ledger|consent prove` wrote; repeat it.")
    ] = None,
    limit: Limit = 1000,
    csv_file: CsvFile = None,
    as_json: AsJson = False,
) -> None:
    """Tell one firm's whole history: what it signed, what was released by it, and how it stands.

    Example: lianxin audit ask firm run-1.evidence --firm 91110000600037341L --subject-secret subject.key --proof firm.json
    """
    from lianxin.parties.auditor_questions_firm import firm_history as asked

    subject = _subject(firm, subject_secret)
    with _opened(evidence) as case:
        proofs, receipts = _proofs(case, proof or [])
        _tell(asked(case, subject, proofs, receipts), as_json, csv_file, limit)


@ask.command("desensitised")
def desensitised(
    evidence: Given, run: Run = "", limit: Limit = 100, csv_file: CsvFile = None, as_json: AsJson = False
) -> None:
    """Say which releases left as desensitised, and by which measured grade.

    Example: lianxin audit ask desensitised run-1.evidence
    """
    from lianxin.parties.auditor_questions_releases import desensitised as asked

    with _opened(evidence) as case:
        _tell(asked(case, run), as_json, csv_file, limit)


@ask.command("replayable")
def replayable(
    evidence: Given, run: Run = "", limit: Limit = 1000, csv_file: CsvFile = None, as_json: AsJson = False
) -> None:
    """Say whether a run can be replayed, and what is missing for it.

    Example: lianxin audit ask replayable run-1.evidence
    """
    from lianxin.parties.auditor_questions_replay import replayable as asked

    with _opened(evidence) as case:
        _tell(asked(case, run), as_json, csv_file, limit)


@ask.command("sample")
def sample(
    evidence: Given,
    count: Annotated[int, typer.Option("--count", min=1, max=10_000, help="How many releases to draw.")],
    seed: Annotated[str, typer.Option("--seed", help="A word of your own that draws them.")],
    run: Run = "",
    limit: Limit = 1000,
    csv_file: CsvFile = None,
    as_json: AsJson = False,
) -> None:
    """Draw releases, verify every consent behind them again, and list the papers to ask for.

    Example: lianxin audit ask sample run-1.evidence --count 20 --seed "a word of mine"
    """
    from lianxin.parties.auditor_questions_sample import sample as asked

    with _opened(evidence) as case:
        _tell(asked(case, count, seed, run), as_json, csv_file, limit)


@contextmanager
def _opened(given: Sequence[Path]) -> "Iterator[Case]":
    """Give the case in these packs and folders; packs are unpacked beside the system's temporary files, and removed."""
    from lianxin.parties.auditor_manifest import PackFault
    from lianxin.parties.auditor_pack import unpack
    from lianxin.parties.auditor_questions import QuestionFault, open_case

    with tempfile.TemporaryDirectory(prefix="lianxin-ask-") as place:
        folders = []
        for n, path in enumerate(given):
            folder = path if path.is_dir() else Path(place) / str(n)
            if not path.exists():
                raise InputFault(f"{path} is not there; name a pack or a run folder")
            try:
                if folder is not path:
                    unpack(path, folder)
            except PackFault as fault:
                raise EvidenceRejected(f"{path}: {fault}") from None
            folders.append(folder)
        try:
            yield open_case(folders)
        except QuestionFault as fault:
            raise InputFault(str(fault)) from None
        except PackFault as fault:
            raise EvidenceRejected(str(fault)) from None


def _subject(firm: str, secret: Path | None) -> str:
    """Return the subject key of a firm that was named by it, or by its identifier with the provider's secret."""
    from lianxin.parties.consent import subject_key
    from lianxin.parties.identifiers import normalise_identifier
    from lianxin.parties.node import read_subject_key

    if secret is None or not firm:
        return firm
    return subject_key(read_subject_key(secret), normalise_identifier(firm))


def _proofs(case: "Case", paths: Sequence[Path]) -> "tuple[list[dict[str, Any]], list[Shown]]":
    """Return the ledger-proofs in these files, and what the consent-proofs show under the contracts' node keys."""
    from lianxin.crypto import canonical
    from lianxin.crypto.errors import CryptoError
    from lianxin.parties.auditor_questions_firm import Shown
    from lianxin.parties.consent_proof import verify_consent_proof

    keys = {party: key for run in case.runs.values() for party, key in run.node_keys.items()}
    ledger_proofs, receipts = [], []
    for path in paths:
        try:
            record = canonical.decode_fragment(path.read_bytes().removesuffix(b"\n"))
            if record.get("type") == "consent-proof":
                named = record.get("ledger")
                party = named.get("party") if isinstance(named, dict) else None
                found = verify_consent_proof(record, keys.get(party if isinstance(party, str) else "", ""))
                receipts.append(Shown(found.party, found.consent_id, found.state, found.at))
            else:
                ledger_proofs.append(record)
        except OSError:
            raise InputFault(f"{path} cannot be read; check the path") from None
        except CryptoError as fault:
            raise EvidenceRejected(f"{path}: {fault}") from None
    return ledger_proofs, receipts


def _tell(answer: "Answer", as_json: bool, csv_file: Path | None, limit: int) -> None:
    """Print an answer row by row as JSON or as a table, and write all of it to the CSV file if one was named."""
    if csv_file is not None:
        check_new(csv_file, "--csv")
    rows = answer.rows if csv_file is None else _copied(answer, csv_file)
    if as_json:
        _print_json(answer, rows)
        return
    first = list(islice(rows, limit))
    rest = sum(1 for _ in rows)
    for line in lines_of(answer, first):
        typer.echo(line)
    if rest:
        typer.echo(shown(f"... {rest} rows more; --limit, --csv or --json shows them"))
    for sentence in [*answer.said, answer.cannot_tell]:
        typer.echo(shown(_clean(sentence)))


def _print_json(answer: "Answer", rows: "Iterator[dict[str, Any]]") -> None:
    """Print one object a piece at a time: its rows may be millions."""
    typer.echo(f'{{"question": {json.dumps(answer.question)}, "rows": [', nl=False)
    for n, row in enumerate(rows):
        typer.echo((", " if n else "") + json.dumps(row), nl=False)
    typer.echo(f'], "said": {json.dumps(answer.said)}, "cannot_tell": {json.dumps(answer.cannot_tell)}}}')


def _copied(answer: "Answer", path: Path) -> "Iterator[dict[str, Any]]":
    """Pass the rows on while they are written to a CSV file, which appears when it is whole."""
    draft = path.with_name(path.name + ".new")
    try:
        with draft.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(answer.columns)
            for row in answer.rows:
                writer.writerow([_spreadsheet(row[name]) for name in answer.columns])
                yield row
        draft.rename(path)
    except OSError:
        raise InputFault(f"{path} cannot be written; choose another place") from None
    finally:
        draft.unlink(missing_ok=True)


def _spreadsheet(cell: Any) -> Any:
    """Return a cell that no spreadsheet takes for a formula."""
    text = " ".join(cell) if isinstance(cell, list) else cell
    return "'" + text if isinstance(text, str) and text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def lines_of(answer: "Answer", rows: "Sequence[Mapping[str, Any]]") -> list[str]:
    """Return a table in plain text: the shown columns, long hashes and lists cut short, "" under every absent value."""
    if not rows:
        return []
    table = [list(answer.shown), *([_cell(name, row[name]) for name in answer.shown] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in table]


def _cell(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "NO"
    if isinstance(value, int):
        return "" if value < 0 else str(value)
    if isinstance(value, list):
        more = f" +{len(value) - _NAMES}" if len(value) > _NAMES else ""
        return " ".join(_cell(name, one) for one in value[:_NAMES]) + more
    is_hash = len(value) == 64 and set(value) <= set("0123456789abcdef") and name != "subject_key"
    return _clean(value[:_DIGITS] if is_hash else value)


def _clean(text: str) -> str:
    """Return what a file of others says, without what would steer a terminal."""
    return "".join(char if char.isprintable() else "?" for char in text)
