"""The platform's part of a model that is served: from a firm's row to whole points and the numbers of reason codes.

Its part of boosted trees is made in `score_cuts`. Read from the run's `model.json` as the training left it; a model that an
operator dropped after a withdrawal, whose time is over or that is of another kind is refused by name.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from lianxin.federation.contract import RunContract
from lianxin.federation.errors import InputFault, PeerError
from lianxin.federation.points import PointsTable, points_table
from lianxin.federation.reasons import numbers_of, read_reasons, reason_codes
from lianxin.federation.scoring import MODE, REASONS, SubScore
from lianxin.parties.agreement import open_contract
from lianxin.parties.coding import BinSpec
from lianxin.parties.lineage import MODEL, read_mark
from lianxin.parties.node import Node
from lianxin.parties.score_cuts import BankCuts, ServedTrees, check_breadth, nobodys_value, read_trees

PLATFORM_MODEL, PLATFORM_TREES = "platform-model", "platform-trees"
Columns = Mapping[str, Sequence[Any]]


@dataclass(frozen=True)
class ServedModel:
    """One run's scorecard at the platform: bins and points of each field, the numbers of its reason codes, a dummy row.

    `mode` is that of the releases by which its scores leave.
    """

    mode: ClassVar[str] = MODE
    run: str
    contract: RunContract
    fields: tuple[str, ...]
    specs: tuple[BinSpec, ...] = field(repr=False)
    merged: tuple[tuple[int, ...], ...] = field(repr=False)
    table: PointsTable = field(repr=False)
    numbers: Mapping[str, int] = field(repr=False)

    def for_bank(self, _bank: str) -> "ServedModel":
        """Return what is served to a bank: to each of its run the same. Raises InputFault for a model of too few fields."""
        check_breadth(self.run, sum(len(set(feature.points)) > 1 for feature in self.table.features))
        return self

    def parts(self, columns: Columns) -> list[SubScore]:
        """Return the sub-score and the reasons of each row."""
        bins = [
            [merged[code] for code in spec.encode(columns[name])]
            for name, spec, merged in zip(self.fields, self.specs, self.merged, strict=True)
        ]
        values = self.table.sums(bins).tolist()
        return [SubScore(value, self._reasons(row)) for value, row in zip(values, zip(*bins, strict=True), strict=True)]

    def _reasons(self, bins: Sequence[int]) -> tuple[int, ...]:
        return tuple(self.numbers[name] for name in reason_codes(self.table.lost(bins), REASONS))

    def dummy(self, name: str) -> Any:
        """Return a value of one of its fields that is nobody's: it takes the way that every value takes."""
        return nobodys_value(self.specs[self.fields.index(name)])


ToBank = ServedModel | BankCuts
Reader = Callable[[str, RunContract, Mapping[str, Any]], ServedModel | ServedTrees]


def model_fault(node: Node, run: str) -> str:
    """Return why a run's model is not to be used at this node now, in one sentence without its end, "" when it may be."""
    row, folder = node.store.run(run), node.config.state / "runs" / run
    faults = {
        f"run {run} is not known to {node.party}": row is None,
        f"run {run} has not finished": row is not None and row.state != "finished",
        f"the model of run {run} was dropped after a withdrawal": read_mark(folder)["choice"] == "drop",
        f"{node.party} holds no model of run {run}, or no longer": not (folder / MODEL).is_file(),
    }
    found = next((what for what, holds in faults.items() if holds), "")
    if found or row is None:
        return found
    try:
        until = contract_of(node, run).retain_until
    except PeerError:
        return f"the contract of run {run} is of an earlier version, or its signatures do not hold"
    return f"the model of run {run} was to be kept until {until}" if until <= node.clock.now() else ""


def contract_of(node: Node, run: str) -> RunContract:
    """Return the contract of a run that this node knows. Raises PeerError (C01, C05) for one that does not hold."""
    row = node.store.run(run)
    return open_contract(row.contract if row is not None else b"")


def is_live(node: Node, contract: RunContract) -> bool:
    """Return whether a model that was in order is so still: there, kept no longer than agreed, not dropped."""
    folder = node.config.state / "runs" / contract.run
    is_kept = (folder / MODEL).is_file() and node.clock.now() < contract.retain_until
    return is_kept and read_mark(folder)["choice"] != "drop"


def check_model(node: Node, run: str) -> None:
    """Raise InputFault naming why a run's model is not to be used at this node now."""
    if fault := model_fault(node, run):
        raise InputFault(f"{fault}; name another model, or train it again")


def read_model(node: Node, run: str) -> tuple[RunContract, dict[str, Any]]:
    """Return the contract and the model record of a run. Raises InputFault naming why the model is not to be used."""
    check_model(node, run)
    return contract_of(node, run), _record(node.config.state / "runs" / run / MODEL, run)


def _record(path: Path, run: str) -> dict[str, Any]:
    try:
        record = json.loads(path.read_bytes())
    except (OSError, ValueError):
        record = None
    if not isinstance(record, dict):
        raise InputFault(f"the model of run {run} cannot be read; restore {path}, or train it again")
    return record


def served_model(node: Node, run: str) -> ServedModel | ServedTrees:
    """Return a run's model, ready to score. Raises InputFault naming why it cannot be served."""
    contract, record = read_model(node, run)
    readers: dict[str, Reader] = {PLATFORM_MODEL: _read_points, PLATFORM_TREES: read_trees}
    read = readers.get(str(record.get("type")))
    if read is None:
        raise InputFault(f"the model of run {run} is of a kind that is not served: scorecards and boosted trees are")
    try:
        return read(run, contract, record)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError):
        raise InputFault(f"the model of run {run} is damaged or of an earlier version; train it again") from None


def _read_points(run: str, contract: RunContract, record: Mapping[str, Any]) -> ServedModel:
    features = record["features"]
    fields = tuple(entry["field"] for entry in features)
    specs = tuple(BinSpec.from_record(entry["bins"]) for entry in features)
    merged = tuple(tuple(entry["merged"]) for entry in features)
    table = points_table(features, record["points_to_double_odds"])
    numbers = dict(zip(fields, numbers_of(fields, read_reasons(record["reasons"])), strict=True))
    model = ServedModel(run, contract, fields, specs, merged, table, numbers)
    model.parts({name: [model.dummy(name)] for name in fields})
    return model


def fields_of(models: Sequence[ToBank]) -> tuple[str, ...]:
    """Return the fields of several models, each once, in the order of their first."""
    return tuple(dict.fromkeys(name for model in models for name in model.fields))
