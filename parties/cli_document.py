"""The command that writes a bank's model document."""

import json
from pathlib import Path
from typing import Annotated

import typer

from lianxin.parties.cli_nodes import AsJson, BankConfig, RunId, bank, role_config

Words = Annotated[Path | None, typer.Option("--words", help="A TOML file with the bank's own text under headings.")]


@bank.command("document")
def bank_document(
    run: RunId,
    config: BankConfig,
    out: Annotated[Path, typer.Option("--out", help="The HTML file to write.")],
    words: Words = None,
    as_json: AsJson = False,
) -> None:
    """Write the model document of a finished run: data, consents, method, outcomes with intervals, limits, approvals.

    Example: lianxin bank document run-1 --node a.toml --out document.html
    """
    from lianxin.parties.clock import now_of
    from lianxin.parties.identity_of import identity_of
    from lianxin.parties.model_document import gather, load_words, render
    from lianxin.parties.scorecard_export import check_writable, write_beside
    from lianxin.parties.store_open import open_store

    check_writable(out)
    settings = role_config(config, "bank")
    own = load_words(words) if words is not None else {}
    store = open_store(settings, read_only=True)
    try:
        simulation = settings.simulation
        now = now_of(simulation.clock if simulation else None)
        party = identity_of(settings).party
        facts = gather(store, settings.state, party, run, own, now, simulation is not None)
    finally:
        store.close()
    write_beside(out, render(facts).encode("utf-8"))
    if as_json:
        typer.echo(json.dumps({"run": run, "bank": facts.bank, "document": str(out), "consents": facts.consents}))
    else:
        typer.echo(f"wrote {out}")
