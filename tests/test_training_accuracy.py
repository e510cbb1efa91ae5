"""On real rows: federated as good as pooled, on FATE's horizontal split of the Taiwan data."""

from typing import Any

import numpy as np
import pytest
from conftest import SHARED

from lianxin.federation.evaluation import auc
from lianxin.parties import training
from lianxin.parties.preparation import Prepared
from lianxin.parties.records import read_table
from lianxin.simulations import clear_networks

DATA = SHARED / "data"
SEED = b"s" * 32
WITHIN = 0.003
SETTINGS = training.LocalSettings(epochs=2, batch_rows=128, rate=0.03)
PARTS = {"guest": slice(0, 8000), "host-1": slice(8000, 16000), "host-2": slice(16000, 24000)}


def taiwan() -> tuple[training.NetworkSpec, dict[str, Prepared], Prepared]:
    """Return the shape, FATE's three banks of 8,000 rows each, and its 6,000 test rows, prepared from sums alone."""
    table, order = read_table(DATA / "taiwan_default_raw.csv.gz"), read_table(DATA / "taiwan_default_fate_guest.csv.gz")
    place = {row: number for number, row in enumerate(table.column("id"))}
    rows = [place[row] for row in order.column("id")]

    def column(name: str) -> list[Any]:
        values = table.column(name)
        return [values[row] for row in rows]

    names = [name for name in table.columns if name not in ("id", "y", "split")]
    columns, labels = {name: column(name) for name in names}, column("y")
    banks = {bank: {name: columns[name][part] for name in names} for bank, part in PARTS.items()}
    preparation = clear_networks.agreed_preparation(banks, names, 50, 16)
    test = preparation.apply({name: values[24000:] for name, values in columns.items()}, labels[24000:])
    prepared = {bank: preparation.apply(values, labels[PARTS[bank]]) for bank, values in banks.items()}
    return training.NetworkSpec("mlp", preparation.columns, preparation.sizes, (32, 16), 4), prepared, test


@pytest.mark.skipif(not DATA.is_dir(), reason="shared/data is not beside the checkout")
def test_federated_training_is_within_three_thousandths_of_pooled_training_of_the_same_network() -> None:
    spec, banks, test = taiwan()
    start, rounds = training.initial(spec, SEED), 10
    runs = (
        clear_networks.federated(spec, start, banks, SETTINGS, rounds, 24, SEED),
        clear_networks.pooled(spec, start, banks, SETTINGS, rounds, SEED),
    )
    federated, pooled = (auc(test.labels, training.predict(spec, run.weights, test)) or 0.0 for run in runs)
    assert federated > pooled - WITHIN, f"federated {federated:.4f}, pooled {pooled:.4f}"
    assert federated > 0.775 and np.isfinite(runs[0].losses).all()
