"""A bank's own comparison at the end of a run: local, federated and personalised network on its own rows.

`local` is the same network, trained from the same first weights for as many epochs on the bank's own rows alone; which
one to use is recommended by the rows that were held back, never by the test rows.
"""

from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from lianxin.crypto.randomness import derive_seed
from lianxin.federation.contract import RunContract
from lianxin.parties import training
from lianxin.parties.preparation import Preparation, Prepared
from lianxin.parties.records import LoanTable
from lianxin.parties.training_shapes import NetworkSpec, Weights

Parts = tuple[Sequence[int], Sequence[int], Sequence[int]]


class NetworkRows:
    """A bank's table as the network takes it."""

    def __init__(
        self, contract: RunContract, preparation: Preparation, table: LoanTable, columns: Mapping[str, Sequence[Any]]
    ) -> None:
        self.contract, self.preparation, self.table = contract, preparation, table
        self.spec: NetworkSpec = training.spec_of(contract, preparation)
        numbers = {firm: place for place, firm in enumerate(sorted(set(table.identifiers)))}
        self._firms = [numbers[firm] for firm in table.identifiers] if contract.privacy_unit == "firm" else None
        self._all = preparation.apply(columns, table.labels, self._firms)

    def prepared(self, rows: Sequence[int]) -> Prepared:
        """Return these rows of the table."""
        return self._all.take(np.array(rows, dtype=np.int64))


@dataclass(frozen=True)
class Compared:
    """The three models: weights, scores of the test rows, log-loss of the rows held back (None without such rows)."""

    weights: Mapping[str, Weights] = field(repr=False)
    scores: Mapping[str, np.ndarray] = field(repr=False)
    losses: Mapping[str, float | None]
    recommended: str
    kept: str
    note: str

    def losses_micro(self) -> dict[str, int]:
        """Return the known losses in millionths of a nat."""
        return {name: round(loss * 10**6) for name, loss in self.losses.items() if loss is not None}


def compare(rows: NetworkRows, weights: Weights, first: Weights, parts: Parts, seed: bytes) -> Compared:
    """Return the models on a bank's rows; `parts` are its training, held-back and test rows, `first` the first weights."""
    train, validation, test = (rows.prepared(part) for part in parts)
    spec, contract = rows.spec, rows.contract
    settings = replace(training.settings_of(contract), proximal=0.0, norm_bound=float("inf"))
    alone = replace(settings, epochs=contract.local_epochs * contract.rounds)
    local = training.train_local(spec, first, train, alone, derive_seed(seed, "local")).weights
    own = training.personalise(
        spec, weights, train, validation, settings, contract.personalisation, derive_seed(seed, "personalised")
    )
    models = {"local": local, "federated": weights, "personalised": own.weights}
    losses = {name: training.log_loss(spec, one, validation) for name, one in models.items()}
    scores = {name: training.predict(spec, one, test) for name, one in models.items()}
    return Compared(models, scores, losses, training.recommend(losses), own.kept, own.note)


def rows_as_text(rows: Sequence[int]) -> str:
    """Return places of rows as they stand in a checkpoint: base64 of little-endian uint32."""
    return b64encode(np.asarray(rows, dtype="<u4").tobytes()).decode()


def rows_from(text: str) -> list[int]:
    """Return the places of rows of `rows_as_text`."""
    return [int(row) for row in np.frombuffer(b64decode(text), dtype="<u4")]
