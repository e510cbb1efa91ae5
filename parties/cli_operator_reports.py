"""Commands that report to the platform's operator: sources, consents, usage. They read the store and change nothing, but for
a load that is kept and a list that is written, each with its leaf."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lianxin.federation.errors import InputFault
from lianxin.parties.cli_nodes import AsJson, Config, platform
from lianxin.parties.cli_operator import HtmlFile, _ask, _table, now_of_node, opened
from lianxin.parties.language import shown

if TYPE_CHECKING:
    from lianxin.parties.source_quality import Finding
    from lianxin.parties.source_quality_terms import Source

SourcesFile = Annotated[Path | None, typer.Option("--sources", help="The sources' TOML file (docs/operators-day.md).")]
FOUND = 2


@platform.command("sources")
def sources(
    config: Config, file: SourcesFile = None,
    table: Annotated[Path | None, typer.Option("--table", help="Another table than the node's, such as a new load.")] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep this load, so that the next is compared with it.")] = False,
    operator: Annotated[str, typer.Option("--operator", help="Who keeps it; named in the ledger.")] = "",
    html: HtmlFile = None, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Say how good the sources' data are: schema, codes, duplicates, lag, missing, disputed. Exit 2 where anything fails.

    Example: lianxin platform sources platform.toml --sources sources.toml --keep --operator op-li
    """
    from lianxin.parties.objections import objections_in
    from lianxin.parties.source_quality import FAIL, judge, load_record, worst
    from lianxin.parties.source_quality_kept import before
    from lianxin.parties.source_quality_page import sources_page
    from lianxin.parties.source_quality_table import look_at

    settings, store = opened(config)
    path, promised = table or settings.data.table, _sources(file)
    if path is None:
        raise InputFault(f"{config} names no table; give one with --table")
    now, look = now_of_node(settings), look_at(path, settings.data.id, settings.data.columns)
    known = before(store, look.digest)
    findings = judge(look, _catalogue_of(store), promised, settings.data.id, now[:10], objections_in(store), known)
    load = load_record(look, findings, now)
    if keep:
        _ask(
            config,
            {"what": "load", "load": json.dumps(load, ensure_ascii=False), "operator": operator or settings.operator},
        )
    if html is not None:
        write_new(html, "--html", sources_page(load, findings))
    if as_json:
        typer.echo(json.dumps(load, ensure_ascii=False))
    else:
        _tell_findings(findings)
    if worst(findings) == FAIL:
        raise typer.Exit(FOUND)


def _tell_findings(findings: "list[Finding]") -> None:
    said = [one.record for one in findings if one.level != "ok"]
    if said:
        _table(("level", "check", "where", "said", "remedy"), said)
    typer.echo(shown(f"{len(findings) - len(said)} of {len(findings)} checks are well"))


@platform.command("consents")
def consents(
    config: Config,
    within: Annotated[int, typer.Option("--within", help="Those that end within so many days.")] = 30,
    unused: Annotated[int, typer.Option("--unused", help="Those that are live for so many days and never used.")] = 90,
    list_file: Annotated[
        Path | None, typer.Option("--list", help="Write which they are to this new file, for you alone; it has a leaf.")
    ] = None,
    operator: Annotated[str, typer.Option("--operator", help="Who lists them; named in the ledger.")] = "",
    as_json: AsJson = False,
) -> None:
    """Count the consents to look after: ending soon, unused, used up, over-used, withdrawn from models.

    Example: lianxin platform consents platform.toml --within 30
    """
    from lianxin.parties.operator_consents import check_days, counts, listed, look_after

    check_days(within, unused)
    settings, store = opened(config)
    now = now_of_node(settings)
    registry, found = look_after(store, now, within, unused)
    report = counts(registry, found, now)
    if list_file is not None:
        from lianxin.parties.new_files import check_new

        check_new(list_file, "--list")
        numbers = {kind: len(names) for kind, names in found.items()}
        _ask(config, {"what": "listed", "numbers": numbers, "operator": operator or settings.operator})
        write_private(list_file, listed(registry, found))
    if as_json:
        typer.echo(json.dumps(report, ensure_ascii=False))
        return
    _table(("kind", "bank", "purpose", "field", "consents"), report["rows"])
    typer.echo(
        shown(
            "nothing to look after"
            if not report["rows"]
            else f"counts in tens; small ones are shown as <{report['least']}"
        )
    )


@platform.command("usage")
def usage(
    config: Config,
    month: Annotated[str, typer.Option("--month", help="A month that is over, such as 2026-01.")],
    source: Annotated[str, typer.Option("--source", help="Only this source's report.")] = "",
    file: SourcesFile = None,
    html: HtmlFile = None,
    csv_file: Annotated[Path | None, typer.Option("--csv", help="Write all lines of use to this new CSV file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Report to each data source what its fields were used for in a month, by whom, to what effect.

    Example: lianxin platform usage platform.toml --month 2026-01 --source tax-bureau --html tax.html
    """
    from lianxin.parties.identity_of import identity_of
    from lianxin.parties.operator_consents import models_under
    from lianxin.parties.source_quality_terms import source_of
    from lianxin.parties.usage_report import check_month, reports, uses_in
    from lianxin.parties.usage_report_page import usage_csv, usage_page

    settings, store = opened(config)
    check_month(month, now_of_node(settings))
    owner = source_of(_catalogue_of(store), _sources(file))
    party = identity_of(settings).party
    found = reports(uses_in(store.leaves(), month), party, month, owner, models_under(settings.state))
    chosen = [one for one in found if source in ("", one["source"])]
    if source and not chosen:
        names = ", ".join(one["source"] for one in found) or "none"
        raise InputFault(f"nothing of that source was used in {month} (used were: {names})")
    if html is not None:
        if len(chosen) != 1:
            raise InputFault("--html is a page for one source; say which with --source")
        write_new(html, "--html", usage_page(chosen[0]))
    if csv_file is not None:
        write_new(csv_file, "--csv", usage_csv(chosen))
    if as_json:
        typer.echo(json.dumps({"month": month, "reports": chosen}, ensure_ascii=False))
        return
    _table(("source", "field", "bank", "purpose", "kind", "runs", "requests", "firms"), _lines(chosen))


def _lines(reports: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{"source": one["source"], **line} for one in reports for line in one["uses"]]


def _sources(file: Path | None) -> "list[Source]":
    from lianxin.parties.source_quality_terms import load_sources

    return [] if file is None else load_sources(file)


def _catalogue_of(store: Any) -> Any:
    from lianxin.parties.catalogue import load_draft
    from lianxin.parties.decision_catalogue import Catalogue
    from lianxin.parties.ledger_export import CATALOGUE_SETTING

    kept = store.setting(CATALOGUE_SETTING)
    return load_draft() if kept is None else Catalogue.from_csv_bytes(kept)


def write_new(path: Path, option: str, text: str) -> None:
    """Write a new file, whole or not at all. Raises InputFault where one is there already."""
    from lianxin.parties.new_files import check_new

    check_new(path, option)
    _write(path, [text.encode()], 0o644)


def write_private(path: Path, lines: Iterable[bytes]) -> None:
    """Write lines to a new file that its owner alone may read, whole or not at all."""
    _write(path, (line + b"\n" for line in lines), 0o600)


def _write(path: Path, parts: Iterable[bytes], mode: int) -> None:
    import os

    draft = path.with_name(path.name + ".new")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError as fault:
        raise InputFault(f"{path} cannot be written: {fault.strerror or 'the system refused it'}") from None
    finally:
        draft.unlink(missing_ok=True)
