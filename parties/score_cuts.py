"""The platform's part of boosted trees that are served: a firm's sides of the cuts of the asking bank's own ensemble.

A bank is given the sides of its own cuts and of no other bank's, in the order in which the training told them, and only the
fields that these cuts name are released for it. A side is a bit of a value: it leaves in mode SPLITS.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from lianxin.federation.boosting_ensemble import Cut
from lianxin.federation.contract import RunContract
from lianxin.federation.errors import InputFault
from lianxin.federation.scoring import CUTS_MODE, MOST_CUTS, SubScore, cut_values
from lianxin.parties.coding import BinSpec
from lianxin.parties.tree_columns import specs_of, tree_columns

LEAST_FIELDS = 3


@dataclass(frozen=True)
class BankCuts:
    """What is served to one bank of a run: `cuts` of the bins `specs` of the fields that they name, in that order."""

    mode: ClassVar[str] = CUTS_MODE
    run: str
    contract: RunContract
    specs: Mapping[str, BinSpec] = field(repr=False)
    cuts: tuple[Cut, ...] = field(repr=False)

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields that a row needs."""
        return tuple(self.specs)

    def parts(self, columns: Mapping[str, Sequence[Any]]) -> list[SubScore]:
        """Return each row's sides as a sub-score without reasons."""
        rows = range(len(columns[self.fields[0]]))
        return [SubScore(value) for value in cut_values(tree_columns(self.specs, columns, rows).sides(self.cuts))]

    def dummy(self, name: str) -> Any:
        """Return a value of one of its fields that is nobody's."""
        return nobodys_value(self.specs[name])


@dataclass(frozen=True)
class ServedTrees:
    """One run's boosted trees at the platform, by bank."""

    run: str
    contract: RunContract
    banks: Mapping[str, BankCuts] = field(repr=False)

    def for_bank(self, bank: str) -> BankCuts:
        """Return what is served to a bank. Raises InputFault for one whose trees cut too few of the platform's."""
        if bank not in self.banks:
            raise InputFault(
                f"{bank} has no trees of run {self.run} that cut a field of the platform; serve it another model"
            )
        check_breadth(self.run, len(self.banks[bank].fields))
        return self.banks[bank]


def read_trees(run: str, contract: RunContract, record: Mapping[str, Any]) -> ServedTrees:
    """Return the trees that a platform's model record holds. Raises InputFault for damaged bins, KeyError, TypeError,
    ValueError, IndexError or AttributeError for a record that is otherwise damaged."""
    specs, banks = specs_of(record["features"]), dict[str, BankCuts]()
    for bank, entry in record["banks"].items():
        cuts = tuple(Cut(*map(int, cut)) for cut in entry["cuts"])
        if cuts:
            banks[bank] = _to_bank(run, contract, specs, cuts)
    return ServedTrees(run, contract, banks)


def _to_bank(run: str, contract: RunContract, specs: Mapping[str, BinSpec], cuts: Sequence[Cut]) -> BankCuts:
    """Return a bank's cuts with the fields that they name alone; a dummy row shows that the record is whole."""
    named = [name for place, name in enumerate(specs) if any(cut.feature == place for cut in cuts)]
    places = [list(specs)[cut.feature] for cut in cuts]
    moved = tuple(cut._replace(feature=named.index(name)) for cut, name in zip(cuts, places, strict=True))
    made = BankCuts(run, contract, {name: specs[name] for name in named}, moved)
    row = tree_columns(made.specs, {name: [made.dummy(name)] for name in named}, [0])
    if len(moved) > MOST_CUTS or len(set(moved)) < len(moved) or not all(row.shapes.fits(cut) for cut in moved):
        raise ValueError("cuts that no training made")
    return made


def check_breadth(run: str, fields: int) -> None:
    """Raise InputFault for a model whose part depends on fewer than three fields: of one field, the part is the field."""
    if fields < LEAST_FIELDS:
        raise InputFault(
            f"the platform's part of run {run} depends on {fields} of its fields and would all but tell them; serve a model "
            f"of at least {LEAST_FIELDS}"
        )


def nobodys_value(spec: BinSpec) -> Any:
    """Return a value of a field that is nobody's and takes the way that every value takes."""
    if spec.kind == "numeric":
        return spec.uppers[len(spec.uppers) // 2] if spec.uppers else 0.0
    return spec.categories[-1] if spec.categories else "-"
