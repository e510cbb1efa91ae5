"""What differential privacy costs in AUC: `lianxin bench privacy`, on the Taiwan table cut among banks at random.

For each epsilon the same network is trained by FedAvg with DP-SGD in each bank, summed as in a run, and its AUC on the
test rows set beside training without privacy and beside each bank's own network without privacy. Beside it, privacy of a
whole bank (client level: McMahan et al., ICLR 2018): each bank's update clipped to a norm of 1 and Gaussian noise on their
mean, which is what an epsilon for banks rather than records would take.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from lianxin.crypto.randomness import Drbg, derive_seed
from lianxin.federation.contract import NETWORK_TERMS
from lianxin.federation.errors import InputFault
from lianxin.federation.evaluation import auc
from lianxin.parties.node import simulated_seed
from lianxin.parties.preparation import Prepared
from lianxin.parties.privacy import PrivacySettings, rate_millionths, steps_of
from lianxin.parties.records import read_table
from lianxin.parties.training import LocalSettings, NetworkSpec, initial, predict
from lianxin.parties.training_private import least_noise, noise_of
from lianxin.simulations.bench_machine import describe_machine
from lianxin.simulations.clear_networks import agreed_preparation, federated, local

TABLE, LABEL = "taiwan_default_raw.csv.gz", "y"
BITS, DELTA = 24, 1e-6
Say = Callable[[str], None]


@dataclass(frozen=True)
class Asked:
    """Which epsilons, how many banks and rounds, how they train (clipped gradients take a higher rate), how many seeds."""

    epsilons: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0)
    banks: int = 3
    rounds: int = 10
    batch_rows: int = 256
    rate: float = 0.05
    private_rate: float = 0.15
    clip: float = 3.0
    seeds: int = 1

    def check(self) -> None:
        """Raise InputFault for numbers that cannot be measured."""
        if not self.epsilons or min(self.epsilons) < 0.1 or self.banks < 1 or self.rounds < 1 or self.seeds < 1:
            raise InputFault("give epsilons from 0.1 on, and at least one bank, round and seed")


def bench_privacy(asked: Asked, folder: Path, say: Say) -> dict[str, Any]:
    """Return AUC by epsilon, mean over the seeds, with what is set beside it. Raises InputFault for a missing table."""
    asked.check()
    banks, test = _parts(folder, asked.banks)
    found = [_measured(asked, banks, test, number, say) for number in range(1, asked.seeds + 1)]
    rows = min(bank.rows for bank in banks.values())
    return {
        "bench": "privacy", "data": TABLE, "banks": asked.banks, "rows_a_bank": rows, "test_rows": test.rows,
        "rounds": asked.rounds, "seeds": asked.seeds, "delta": DELTA, "parameters": len(_start(asked, test, b"w" * 32)),
        "noise": {f"{one:g}": _plan(asked, rows, one).noise_multiplier for one in asked.epsilons},
        "auc": {name: round(mean(one[name] for one in found), 4) for name in found[0]},
        "client_noise": _client_noise(asked, len(_start(asked, test, b"w" * 32))), "machine": describe_machine(),
    }  # fmt: skip


def _parts(folder: Path, banks: int) -> tuple[dict[str, Prepared], Prepared]:
    """Return the banks' training rows, dealt in turn, and the test rows, on the preparation that the banks agree on."""
    path = folder / TABLE
    if not path.is_file():
        raise InputFault(f"{path} is missing; give --folder the folder with the public data sets")
    table = read_table(path)
    fields = [name for name in table.columns if name not in ("id", LABEL, "split")]
    split = np.array(table.column("split"))
    places = {f"bank-{k + 1}": np.flatnonzero(split == "train")[k::banks].tolist() for k in range(banks)}
    columns = {name: _numbers(table.column(name)) for name in fields}
    labels = [int(value) for value in table.column(LABEL)]

    def at(rows: Sequence[int]) -> dict[str, list[float]]:
        return {name: [values[row] for row in rows] for name, values in columns.items()}

    parts = {bank: at(rows) for bank, rows in places.items()}
    preparation = agreed_preparation(parts, fields, 50, NETWORK_TERMS["quantiles"])
    held = np.flatnonzero(split == "test").tolist()
    prepared = {bank: preparation.apply(parts[bank], [labels[row] for row in rows]) for bank, rows in places.items()}
    return prepared, preparation.apply(at(held), [labels[row] for row in held])


def _numbers(values: Sequence[Any]) -> list[float]:
    return [float(value) for value in values]


def _spec(test: Prepared) -> NetworkSpec:
    return NetworkSpec("mlp", test.numbers.shape[1], (), tuple(NETWORK_TERMS["hidden_units"]), 1)


def _start(asked: Asked, test: Prepared, seed: bytes) -> Any:
    return initial(_spec(test), seed)


def _plan(asked: Asked, rows: int, epsilon: float) -> PrivacySettings:
    rate = rate_millionths(asked.batch_rows, rows) / 10**6
    steps = asked.rounds * steps_of(1, rate)
    noise = least_noise(epsilon, DELTA, rate, steps) / 1000
    return PrivacySettings(epsilon, DELTA, "record", asked.clip, noise, rate, steps)


def _measured(
    asked: Asked, banks: Mapping[str, Prepared], test: Prepared, number: int, say: Say
) -> dict[str, float]:  # fmt: skip
    spec, seed = _spec(test), simulated_seed(number)
    start, rows = _start(asked, test, seed), min(bank.rows for bank in banks.values())
    plain = LocalSettings(1, asked.batch_rows, asked.rate)

    def area(weights: Any) -> float:
        return auc(test.labels.tolist(), predict(spec, weights, test).tolist()) or 0.0

    def run(settings: LocalSettings, **alter: Any) -> float:
        return area(federated(spec, start, banks, settings, asked.rounds, BITS, seed, **alter).weights)

    found = {}
    for epsilon in asked.epsilons:
        say(f"epsilon {epsilon:g}, seed {number}")
        private = replace(plain, rate=asked.private_rate, privacy=_plan(asked, rows, epsilon))
        found[f"{epsilon:g}"] = run(private)
    say(f"without privacy, seed {number}")
    found["none"] = run(plain)
    found["local"] = mean(area(local(spec, start, one, plain, asked.rounds, seed).weights) for one in banks.values())
    noise = least_noise(max(asked.epsilons), DELTA, 1.0, asked.rounds) / 1000
    alter = _noised(seed, noise / math.sqrt(len(banks)))  # their mean then has 1/banks of it
    found[f"client_{max(asked.epsilons):g}"] = run(replace(plain, norm_bound=1.0), alter=alter)
    return found


def _noised(seed: bytes, deviation: float) -> Callable[[str, int, Any], Any]:
    """Return what adds a bank's share of client-level noise to its update, in the update's fixed point."""

    def alter(bank: str, number: int, update: Any) -> Any:
        drbg = Drbg(derive_seed(seed, "client", bank, number))
        return update + np.rint(noise_of(drbg, len(update), deviation * 2.0**BITS)).astype(np.int64)

    return alter


def _client_noise(asked: Asked, parameters: int) -> dict[str, float]:
    """Return, by number of banks, how many times the largest mean update the noise of client-level privacy is."""
    noise = least_noise(max(asked.epsilons), DELTA, 1.0, asked.rounds) / 1000
    return {str(banks): round(noise * math.sqrt(parameters) / banks, 2) for banks in (3, 10, 100, 1000)}


def lines_of(record: Mapping[str, Any]) -> list[str]:
    """Return the figures as sentences for a terminal."""
    areas = record["auc"]
    private = [name for name in areas if name not in ("none", "local") and not name.startswith("client")]
    client = next(name for name in areas if name.startswith("client"))
    said = [f"epsilon {name}: AUC {areas[name]:.4f}, noise {record['noise'][name]:.2f}" for name in private]
    said.append(f"without privacy: AUC {areas['none']:.4f}; each bank alone, without privacy: {areas['local']:.4f}")
    said.append(f"a whole bank protected, epsilon {client.removeprefix('client_')}: AUC {areas[client]:.4f}")
    ratios = ", ".join(f"{ratio:g} times with {banks} banks" for banks, ratio in record["client_noise"].items())
    return [*said, f"noise for whole banks, beside the largest mean update: {ratios}"]
