"""Which firms' data are in which model, and what a withdrawal does to models and files that exist already.

A run's lineage is in the ledger: its release leaves commit to the ids of the consents behind them. After a withdrawal
(Personal Information Protection Law 15, 47; rule R04) earlier processing stays valid, so a model that was trained stays,
marked: `touched.json` beside `model.json` counts the withdrawals and holds what the operator chose (retrain, drop, keep),
and a leaf of kind `model-marked` says so. Rows that were derived of the firm, a bank's scores of its held-out loans, are
taken out of the files at once, with a `deletion` leaf: by the subject keys that were kept beside the scores when they were
made, since the table may have other rows by now. Scores without such keys, of a version before, go whole.
"""

import hashlib
import json
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from lianxin.crypto import canonical
from lianxin.crypto.merkle import root_of
from lianxin.federation.contract import IDENTIFIER
from lianxin.federation.errors import InputFault
from lianxin.parties import store_schema
from lianxin.parties.retention import delete_derived, write_beside
from lianxin.parties.store import Store

if TYPE_CHECKING:
    from lianxin.parties.node import Node

CHOICES = ("retrain", "drop", "keep")
SIDECAR, MODEL, SCORES = "touched.json", "model.json", "scores.json"
BY_ROW = ("labels", "joint", "bank_only", "subjects", "test_rows")  # of scores.json, an entry for each held-out loan
CHANCES = ("joint_pd", "bank_only_pd", "local", "federated", "personalised")  # also by row: of cards, of networks
_MARKING = threading.Lock()  # a run that ends and an operator's command may come together


def models_touched(store: Store, revoked: Iterable[str]) -> dict[str, list[str]]:
    """Return, for each run that used one of these consents, those that it used, sorted: read off the ledger."""
    wanted, found = set(revoked), defaultdict[str, set[str]](set)
    if not wanted:
        return {}
    for leaf in store.leaves():
        if b'"kind":"release"' in leaf:
            release = hashlib.sha256(leaf).hexdigest()
            found[canonical.decode(leaf)["run"]] |= wanted.intersection(_consents_of(store, release))
    return {run: sorted(used) for run, used in sorted(found.items()) if used}


def _consents_of(store: Store, release: str) -> list[str]:
    lists = store_schema.release_consents
    with store.reading() as connection:
        ids = connection.scalar(sa.select(lists.c.consents).where(lists.c.release == release))
    return json.loads(ids) if ids else []


def mark_models(node: "Node") -> list[dict[str, Any]]:
    """Mark every model at this node that a withdrawal touches, take the firms' rows out of its files; return the marks.

    What is marked already, with as many withdrawals, stays as it is: doing it twice writes nothing twice.
    """
    with _MARKING:
        return list(_marked(node))


def _marked(node: "Node") -> Iterator[dict[str, Any]]:
    registry = node.register.registry()
    revoked = [name for name, why in registry.ended.items() if why == "REVOKED"]
    for run, used in models_touched(node.store, revoked).items():
        folder = node.config.state / "runs" / run
        if not (folder / MODEL).is_file():
            continue
        known = read_mark(folder)
        if known["revocations"] < len(used):
            subjects = {registry.consents[name].subject for name in used}
            _forget_rows(node, run, folder, subjects)
            yield _mark(node, folder, run, used, {"choice": "none"}, None)
        else:
            yield known


def read_mark(folder: Path) -> dict[str, Any]:
    """Return a run folder's mark, one of no withdrawals where there is none."""
    try:
        return dict(json.loads((folder / SIDECAR).read_text()))
    except (OSError, ValueError):
        return {"run": folder.name, "revocations": 0, "choice": "none"}


def choose(node: "Node", run: str, choice: str, operator: str) -> dict[str, Any]:
    """Record what an operator decided about a marked model, and do it where it is `drop`; return the new mark.

    Raises InputFault for another word or a model that no withdrawal touches.
    """
    if IDENTIFIER.fullmatch(run) is None:
        raise InputFault("a model is named by its run's id, 3 to 64 of a-z, 0-9 and '-'; see `lianxin boundary models`")
    folder = node.config.state / "runs" / run
    mark = read_mark(folder)
    if choice not in CHOICES:
        raise InputFault(f"a marked model is {', '.join(CHOICES)}; say which with --choice")
    if not mark["revocations"]:
        raise InputFault(f"no withdrawal touches a model of run {run}; see `lianxin boundary models`")
    registry = node.register.registry()
    used = models_touched(node.store, [name for name, why in registry.ended.items() if why == "REVOKED"]).get(run, [])
    chosen = _mark(node, folder, run, used, {"choice": choice}, operator)
    if choice == "drop":
        delete_derived(node, run, "R04", operator)
    return chosen


def _mark(
    node: "Node", folder: Path, run: str, used: list[str], choice: Mapping[str, str], operator: str | None
) -> dict[str, Any]:
    consents = root_of(name.encode() for name in used).hex()
    leaf = {"kind": "model-marked", "run": run, "revocations": len(used), "consent_root": consents, **choice}
    node.ledger.append(leaf, operator)
    named = {"operator": operator or node.config.operator, "marked_at": node.clock.now()}
    mark = {"type": "model-touched", "version": 1, "run": run, "revocations": len(used), **choice, **named}
    write_beside(folder / SIDECAR, json.dumps(mark, sort_keys=True).encode())
    return mark


def _forget_rows(node: "Node", run: str, folder: Path, subjects: set[str]) -> None:
    """Take the rows of these subjects out of a bank's held-out scores; the model's coefficients stay.

    The scores are written first and say which rows the model may still name, so that after a crash in between, which
    leaves the model unmarked, the next time finishes it.
    """
    path = folder / SCORES
    if not path.is_file():
        return
    data = path.read_bytes()
    model, scores = json.loads((folder / MODEL).read_text()), json.loads(data)
    left, gone = _without(scores, subjects)
    if gone:
        dataset = hashlib.sha256(data).hexdigest()
        node.ledger.append({"kind": "deletion", "run": run, "dataset": dataset, "rule": "R04", "count": gone})
        write_beside(path, json.dumps(left).encode())
    if model.get("test_rows", []) != left["test_rows"]:
        kept = {"test_rows": left["test_rows"]}
        write_beside(folder / MODEL, json.dumps(model | kept, ensure_ascii=False).encode())


def _without(scores: Mapping[str, Any], subjects: set[str]) -> tuple[dict[str, Any], int]:
    """Return the scores without the rows of these subjects, and how many those are; all of them where none is named."""
    rows = len(scores["labels"])
    stays = [one not in subjects for one in scores.get("subjects", ())] or [False] * rows
    named = (*BY_ROW, *(name for name in CHANCES if name in scores))
    left = {name: [value for value, kept in zip(scores.get(name, ()), stays, strict=False) if kept] for name in named}
    return {**scores, **left}, rows - sum(stays)
