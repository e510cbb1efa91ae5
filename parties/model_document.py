"""The model document of a run at a bank: what the bank's own state says, under the headings that a validator asks for.

The headings follow the Federal Reserve's SR 11-7 (2011), which other supervisors' guidance resembles: purpose, data, method,
assumptions and limits, development evidence, outcomes analysis, benchmarking, sensitivity, implementation, monitoring,
governance, retirement. `gather` reads the run's model, evaluation, contract, ledger leaves and withdrawal mark; `render` lays
them out as one HTML file that needs nothing from elsewhere, holds no time of its own and no firm, and is the same for the same
state; a notice stands above it once the model is past its time.

What only people know, the bank writes itself: a TOML file with a text under any heading's name.
"""

import hashlib
import json
import tomllib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lianxin.crypto import canonical
from lianxin.federation.contract import IDENTIFIER, RunContract
from lianxin.federation.errors import InputFault
from lianxin.parties.agreement import open_contract
from lianxin.parties.bank_evaluation import EVALUATION
from lianxin.parties.lineage import MODEL, read_mark
from lianxin.parties.model_document_facts import header_html
from lianxin.parties.model_document_sections import SECTIONS
from lianxin.parties.report_page import Part, page, paragraph, text
from lianxin.parties.store import Store

Leaf = Mapping[str, Any]


@dataclass(frozen=True)
class Release:
    """Releases of one step and mode: how many, the most firms and consents in one, who was left out, by rule."""

    step: str
    mode: str
    count: int
    firms: int
    consents: int
    excluded: Mapping[str, int]


@dataclass(frozen=True)
class ModelFacts:
    """What a model document is made of."""

    bank: str
    state: str
    contract: RunContract = field(repr=False)
    model: Mapping[str, Any] = field(repr=False)
    evaluation: Mapping[str, Any] = field(repr=False)
    mark: Mapping[str, Any]
    releases: tuple[Release, ...]
    consents: int
    refused: tuple[tuple[str, str], ...]
    events: tuple[Leaf, ...] = field(repr=False)
    envelopes: Mapping[str, tuple[int, int]]  # "out", "in": how many, bytes
    code_versions: tuple[str, ...]
    digests: Mapping[str, str]
    leaves: int
    words: Mapping[str, str] = field(repr=False)
    now: str = ""  # to see whether the model is past its time; nothing else of it is shown
    is_simulated: bool = False


def gather(
    store: Store, state: Path, bank: str, run: str, words: Mapping[str, str] | None = None, now: str = "",
    is_simulated: bool = False,
) -> ModelFacts:  # fmt: skip
    """Return the facts of a finished run from a bank's store and state folder; `now` is the node's time, "" without one.

    Raises InputFault for a run that is unknown or trained nothing, and for a model that was deleted.
    """
    row = store.run(run) if IDENTIFIER.fullmatch(run) else None
    if row is None:
        raise InputFault(f"{bank} knows no run of that name; see `lianxin bank status` for the runs that it knows")
    contract, folder = open_contract(row.contract), state / "runs" / run
    if contract.is_standing:
        raise InputFault(f"run {run} is an agreement to be asked under; it trained no model to be documented")
    model, mark = _record(folder, MODEL), read_mark(folder)
    if not model:
        why = "its retention has passed, or it was dropped" if row.state == "finished" else f"the run is {row.state}"
        raise InputFault(f"run {run} has no model here any more or not yet ({why}); launch it again to have one")
    leaves = [canonical.decode(leaf) for leaf in store.leaves()]
    own = [leaf for leaf in leaves if leaf["run"] == run]
    names = (MODEL, EVALUATION)
    digests = {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names if (folder / name).is_file()
    }
    return ModelFacts(
        bank, row.state, contract, model, _record(folder, EVALUATION), mark, _releases(own), _consents(store, own),
        tuple(sorted({(entry["field"], entry["rule"]) for leaf in _of(own, "release") for entry in leaf["refused"]})),
        tuple(_of(own, "contract")), _envelopes(own), tuple(sorted({leaf["code_version"] for leaf in own})), digests,
        len(leaves), dict(words or {}), now, is_simulated,
    )  # fmt: skip


def load_words(path: Path) -> dict[str, str]:
    """Return the bank's own text a heading from a TOML file. Raises InputFault naming a key that is no heading, or no text."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise InputFault(f"{path} cannot be read; check the path") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as fault:
        raise InputFault(f"{path} is no TOML: {fault}; mend that line") from None
    headings = [anchor for anchor, _, _ in SECTIONS]
    for key, value in content.items():
        if key not in headings or not isinstance(value, str):
            raise InputFault(f"{path}: {key} is no heading with a text; the headings are {', '.join(headings)}")
    return content


def render(facts: ModelFacts) -> str:
    """Return the model document as one HTML page."""
    parts = [Part(anchor, title, _own_words(facts, anchor) + body(facts)) for anchor, title, body in SECTIONS]
    return page(f"Model document: {facts.contract.run} at {facts.bank}", header_html(facts), parts)


def _own_words(facts: ModelFacts, anchor: str) -> str:
    words = facts.words.get(anchor, "").strip()
    return "".join(paragraph(text(part.strip()), "lead") for part in words.split("\n\n")) if words else ""


def _record(folder: Path, name: str) -> dict[str, Any]:
    try:
        return dict(json.loads((folder / name).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def _of(leaves: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [leaf for leaf in leaves if leaf["kind"] == kind]


def _releases(leaves: list[dict[str, Any]]) -> tuple[Release, ...]:
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for leaf in _of(leaves, "release"):
        groups.setdefault((leaf["step"], leaf["mode"]), []).append(leaf)
    return tuple(_release(step, mode, found) for (step, mode), found in groups.items())


def _release(step: str, mode: str, found: list[dict[str, Any]]) -> Release:
    excluded: Counter[str] = Counter()
    for leaf in found:
        for entry in leaf["excluded"]:
            excluded[entry["rule"]] = max(excluded[entry["rule"]], entry["firms"])
    firms, consents = (max(leaf[key] for leaf in found) for key in ("rows", "consents"))
    return Release(step, mode, len(found), firms, consents, dict(sorted(excluded.items())))


def _consents(store: Store, leaves: list[dict[str, Any]]) -> int:
    """Return how many distinct consents stand behind the run's releases."""
    by_release = store.release_consents()
    ids = (hashlib.sha256(canonical.encode(leaf)).hexdigest() for leaf in _of(leaves, "release"))
    return len({consent for release in ids for consent in by_release.get(release, ())})


def _envelopes(leaves: list[dict[str, Any]]) -> dict[str, tuple[int, int]]:
    found = {}
    for way in ("out", "in"):
        sizes = [leaf["size_bytes"] for leaf in _of(leaves, "envelope") if leaf["direction"] == way]
        found[way] = (len(sizes), sum(sizes))
    return found
