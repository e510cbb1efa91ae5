"""Small worlds for tests of networks across banks: a few banks with a few hundred made-up loans, laid out and run.

`tables_of` writes the banks' tables, `lay` a folder that is ready to run under a platform without a table, `worlds.run`
runs it. `finished` is one run in secret, made once per pytest run and never changed by a test.
"""

import math
from pathlib import Path
from typing import Any

import pytest
import worlds
from worlds import World

from lianxin.simulations.layout import Layout, Terms, choose_catalogue, lay_out
from lianxin.simulations.tables import Inputs, check_network_inputs, write_table
from lianxin.simulations.world import stream

ID, LABEL, SPLIT = "firm", "label_bad", "split"
QUICK = {"validation_permille": 300, "hidden_units": [8], "batch_rows": 64, "local_rate_millionths": 100_000}
_CITIES = ("north", "south", "east")


def bank_columns(seed: int, bank: int, rows: int) -> dict[str, list[Any]]:
    """Return a bank's loans: two numbers and a city that tell good from bad, one number that does not, some missing."""
    rng = stream(seed, "network", bank)
    x, y, z = (rng.standard_normal(rows) for _ in range(3))
    city = rng.integers(0, len(_CITIES), rows)
    bad = rng.random(rows) < 1 / (1 + math.e ** (1.0 - 1.5 * x + y - 0.8 * (city == 2)))
    gaps = rng.random(rows) < 0.3
    return {
        ID: [f"firm {bank} {row}" for row in range(rows)],
        LABEL: [int(one) for one in bad],
        SPLIT: ["test" if row % 5 == 0 else "train" for row in range(rows)],
        "turnover": [round(float(v) * 10, 3) for v in x],
        "age": [None if gap else round(float(v), 3) for v, gap in zip(y, gaps, strict=True)],
        "noise": [round(float(v), 3) for v in z],
        "city": [_CITIES[place] for place in city],
    }


def tables_of(folder: Path, seed: int = 5, banks: int = 3, rows: int = 500) -> Inputs:
    """Write the tables of `banks` banks to `folder` and return the checked inputs."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"bank-{bank + 1}.csv.gz" for bank in range(banks)]
    for bank, path in enumerate(paths):
        write_table(path, bank_columns(seed, bank, rows))
    return check_network_inputs(paths, ID, LABEL, SPLIT, None, least=1)[0]


def lay(folder: Path, inputs: Inputs, address: str = "127.0.0.1:7443", model: str = "logistic", **terms: Any) -> Layout:
    """Lay a run out in `folder`; `terms` are the contract's own names (rounds, strategy, aggregation, epsilon_thousandths)."""
    rounds, revoked = terms.pop("rounds", 3), terms.pop("revoked_firms", 0)
    chosen = Terms(seed=5, model=model, rounds=rounds, model_terms={**QUICK, **terms}, revoked_firms=revoked)
    return lay_out(folder, inputs, chosen, choose_catalogue(inputs, None, False), address)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A finished run of three banks in memory, added in secret."""
    return worlds._once("network", lambda: _run(tmp_path_factory.mktemp("network")))


def _run(folder: Path) -> World:
    return worlds.run(lay(folder / "run", tables_of(folder / "tables")))
