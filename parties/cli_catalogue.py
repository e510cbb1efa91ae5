"""Commands of people who keep a catalogue: look a field up, check a file, add a province's fields."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lianxin.federation.errors import InputFault

if TYPE_CHECKING:
    from lianxin.parties.decision import Catalogue, Field

catalogue = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="What each field is, and how it may leave.")
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line.")]
FINDINGS = 2


@catalogue.command("show")
def show(
    field: Annotated[str | None, typer.Argument(help="A field's id; without it all fields are listed.")] = None,
    file: Annotated[
        Path | None, typer.Option("--file", help="A catalogue file; the packaged draft without it.")
    ] = None,
    class_: Annotated[str | None, typer.Option("--class", help="Only this class: PUB LIM BIZ PI SPI BAN.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show one field, or the fields of a class, of a catalogue.

    Example: lianxin catalogue show --class SPI
    """
    from lianxin.parties.catalogue import load_merged
    from lianxin.parties.decision_catalogue import CLASSES

    if class_ is not None and class_ not in CLASSES:
        raise InputFault(f"--class is none of {', '.join(CLASSES)}; name one of them")
    found = load_merged(file)
    if field is not None and field not in found:
        raise InputFault("the catalogue has no field of that id; `lianxin catalogue show` lists them all")
    names = [field] if field is not None else list(found)
    fields = [found[name] for name in names if class_ in (None, found[name].class_)]
    if as_json:
        typer.echo(json.dumps(_about(found) | {"fields": [_record(one) for one in fields]}, ensure_ascii=False))
    elif field is not None:
        _print_one(_record(fields[0]) if fields else {})
    else:
        _print_table(fields, found)


def _about(found: "Catalogue") -> dict[str, Any]:
    return {"version": found.version, "digest": found.digest}


def _record(field: "Field") -> dict[str, Any]:
    return {name.rstrip("_"): value for name, value in asdict(field).items()}


def _print_one(record: Mapping[str, Any]) -> None:
    for name, value in record.items():
        typer.echo(f"{name.replace('_', ' '):16} {value if value != '' else '-'}")


def _print_table(fields: "list[Field]", found: "Catalogue") -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table()
    for name in ("field", "class", "release", "subjects", "seen", "expires", "name"):
        table.add_column(name, no_wrap=name != "name")
    for one in fields:
        row = (one.id, one.class_, one.default_release, one.subject_type, "yes" if one.verified else "no")
        table.add_row(*row, one.expiry, one.name_zh)
    Console().print(table)
    seen = sum(one.verified for one in fields)
    typer.echo(
        f"{len(fields)} fields of catalogue {found.version or 'without a version'}, a proposal of this project and no official "
        f"list; {seen} headings were seen in a source"
    )


@catalogue.command("lint")
def lint(
    file: Annotated[Path, typer.Argument(help="The catalogue file.")],
    as_json: AsJson = False,
) -> None:
    """Check a catalogue for contradictions (exit 2 where there are any), and list what nobody has recorded yet.

    Example: lianxin catalogue lint province.csv
    """
    from lianxin.parties import catalogue as catalogues

    found = catalogues.load_catalogue(file)
    findings = catalogues.lint(found)
    notes = {"untested_secrets": catalogues.untested(found), "undated": catalogues.undated(found)}
    if as_json:
        typer.echo(json.dumps(_about(found) | {"findings": findings, **notes}, ensure_ascii=False))
    else:
        _print_findings(findings, notes)
    if findings:
        raise typer.Exit(FINDINGS)


def _print_findings(findings: list[str], notes: Mapping[str, list[str]]) -> None:
    for finding in findings:
        typer.echo(finding)
    for what, key in (
        ("trade secrets whose three tests (R39) no provider has recorded", "untested_secrets"),
        ("fields that expire (R21) without a date to count from", "undated"),
    ):
        if notes[key]:
            typer.echo(f"{len(notes[key])} {what}: {', '.join(notes[key])}")
    typer.echo(f"contradictions: {len(findings)}")


@catalogue.command("merge")
def merge(
    base: Annotated[Path, typer.Argument(help="The catalogue that is added to.")],
    additions: Annotated[list[Path], typer.Argument(help="Files with more fields, or with tighter ones.")],
    out: Annotated[Path, typer.Option("--out", help="Where the merged catalogue is written.")],
    as_json: AsJson = False,
) -> None:
    """Merge additions into a catalogue; what would loosen a field is refused with its line.

    Example: lianxin catalogue merge national.csv qinghai.csv --out merged.csv
    """
    from lianxin.parties.catalogue import load_merged

    if out.exists():
        raise InputFault(f"{out} exists already; remove it or choose another name")
    merged = load_merged(base, additions)
    _write_beside(out, merged.to_csv_bytes())
    if as_json:
        typer.echo(json.dumps(_about(merged) | {"fields": len(merged)}))
    else:
        typer.echo(f"wrote {out}: {len(merged)} fields, version {merged.version}, digest {merged.digest}")


def _write_beside(path: Path, data: bytes) -> None:
    draft = path.with_name(path.name + ".new")
    try:
        draft.write_bytes(data)
        os.replace(draft, path)
    except OSError:
        raise InputFault(f"{path} cannot be written; check the folder") from None
    finally:
        draft.unlink(missing_ok=True)
