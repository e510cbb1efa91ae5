"""What a bank's side of every run has, joint or across banks: its rows, the gate before each use, and its held-out figures.

Labels and own features stay here. What goes out does so after a release for (firm, platform, purpose, mode, fields), asked
anew in every round, or as an aggregate that passed the output gate. `bank_run` adds what joint models share, matching
and keys; `bank_network` trains a network across the banks.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lianxin.federation import evaluation
from lianxin.federation.channel import Link
from lianxin.federation.contract import RunContract
from lianxin.federation.errors import GateRefused, PeerError, RunStopped
from lianxin.federation.model import Provenance, Released
from lianxin.parties.coding import BinSpec
from lianxin.parties.decision import ReleaseRequest
from lianxin.parties.idle import IdleFiller
from lianxin.parties.node import Node
from lianxin.parties.outputs import sizes_by_firm
from lianxin.parties.records import LoanTable
from lianxin.parties.retention import date_columns
from lianxin.parties.withheld import NO_CELLS, Cells, firms_of, kept_back

if TYPE_CHECKING:
    from lianxin.federation import apps


class BankSide(ABC):
    """A bank's side of one run; its steps are called by the bank's ClientApp."""

    models: tuple[str, ...] = ("bank_only", "joint")

    def __init__(self, node: Node, contract: RunContract, table: LoanTable, link: Link) -> None:
        self.node, self.contract, self.table, self.link = node, contract, table, link
        self.drbg = node.run_drbg(contract.run)
        self.identifiers = contract.fields_of(node.party, "identifier")
        self.features = list(contract.fields_of(node.party, "feature"))
        (self.label,) = contract.fields_of(node.party, "label")
        self.training: list[int] = []
        self.specs: dict[str, BinSpec] = {}
        self.notes: list[tuple[str, str]] = []
        self.rights: tuple[Provenance, ...] = ()
        self.finished = False
        self.result: dict[str, Any] = {}
        self.filler = IdleFiller(node.executor)
        self._withheld = NO_CELLS
        self._done: set[str] = set()

    @abstractmethod
    def client_app(self) -> Any:
        """Return the ClientApp that takes Flower's instructions of this run."""

    @abstractmethod
    def model_record(self) -> dict[str, Any]:
        """Return the bank's model of this run, for its own state folder."""

    def _once(self, step: str) -> None:
        if step in self._done:
            raise PeerError(f"the platform asked for {step} a second time; its randomness serves once", "S05")
        self._done.add(step)

    def _release(
        self, rows: Sequence[int], step: str, round_number: int = 0, mode: str = "COMPUTE_ONLY",
        fields: Sequence[str] | None = None,
    ) -> Released:  # fmt: skip
        """Return these rows of `fields`, by default the label and all features, as far as the gate lets them go."""
        names, held = [self.label, *self.features] if fields is None else fields, self._held()
        columns = {name: [held[name][row] for row in rows] for name in names}
        firms = [self.table.identifiers[row] for row in rows]
        request = self._request(step, [*self.identifiers, *names], mode)
        record = dict(self.contract.record)
        dates = date_columns(self.node.boundary.catalogue_of(record), request.fields, self.table.columns, rows)
        return self.node.boundary.release(record, request, firms, columns, round_number, dates=dates)

    def _request(self, step: str, fields: Sequence[str], mode: str = "COMPUTE_ONLY") -> ReleaseRequest:
        platform, purpose = self.contract.platform, self.contract.purpose
        return ReleaseRequest(self.node.party, platform, purpose, mode, step, tuple(fields))

    def _held(self) -> dict[str, Sequence[Any]]:
        return {**self.table.columns, self.label: self.table.labels}

    def _kept_back(self, released: Released) -> Cells:
        live = set(released.firms)
        places = [row for row in self._asked_rows() if self.table.identifiers[row] in live]
        return kept_back(self._held(), places, released)

    def _asked_rows(self) -> list[int]:
        """Return the rows that the gate is asked for, in order."""
        return self.training

    def _usable(self, released: Released) -> set[str]:
        """Return the firms of a release of the training rows of which no value was kept back since bins were fitted."""
        return set(released.firms) - firms_of(self._kept_back(released) - self._withheld)

    def _check_classes(self, rows: Sequence[int]) -> None:
        """Raise RunStopped, with the counts, where the gate would let no figure of these rows' labels go (OUT-BADS)."""
        firms, labels = [self.table.identifiers[row] for row in rows], [self.table.labels[row] for row in rows]
        _, bads, goods = sizes_by_firm(firms, labels)
        least = (self.contract.min_bads, self.contract.min_goods)
        if bads < least[0] or goods < least[1]:
            raise RunStopped(
                f"{self.node.party}'s {len(rows)} shared training rows have {bads} firms with a bad loan and {goods} with a "
                f"good one, and the contract asks for {least[0]} and {least[1]}; give it more loans"
            )

    def _aggregate(
        self, step: str, firms: Sequence[str], labels: Sequence[int], round_number: int, readable: bool = True
    ) -> Provenance:
        """Return the right of a statistic of rows; `readable` where the platform sees it, not a sum over all banks."""
        request, record, fields = self._request(step, ()), dict(self.contract.record), self._behind()
        return self.node.boundary.aggregate(
            record, request, *sizes_by_firm(firms, labels), fields, step, round_number, firms=firms, readable=readable
        )

    def _behind(self) -> list[str]:
        """Return the fields that a statistic of this run's rows is made of."""
        return [self.label, *self.specs]

    def _metrics(self) -> "apps.Numbers":
        """Return held-out figures where the output gate lets them go; none where rows or labels are too few."""
        labels = self.result["labels"]
        firms = [self.table.identifiers[row] for row in self.result["test_rows"]]
        try:
            right = self._aggregate("evaluation", firms, labels, self.contract.turns + 1)
        except GateRefused:
            self.rights = ()
            return {}
        self.rights = (right,)
        figures: apps.Numbers = {"test_rows": len(labels)}
        for model in self.models:
            area, distance = evaluation.auc(labels, self.result[model]), evaluation.ks(labels, self.result[model])
            if area is not None and distance is not None:
                figures[f"auc_{model}"] = round(area * 10**6)
                figures[f"ks_{model}"] = round(distance * 10**6)
        return figures


class ResumableSide(BankSide):
    """A bank's side of a run that goes on after the bank was killed; runs of joint models do not."""

    @abstractmethod
    def checkpoint(self) -> dict[str, Any]:
        """Return what a bank that starts again goes on with, as canonical-JSON values."""

    @abstractmethod
    def restore(self, kept: Mapping[str, Any]) -> None:
        """Go on from what `checkpoint` gave. Raises RunStopped where it no longer fits what the bank holds."""
