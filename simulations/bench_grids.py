"""What the road costs a round of a network: `lianxin bench grids`, whole nodes with their ledgers, gates and real training.

The same three banks with made-up rows train a network of about `parameters` weights by FedAvg: in one process through
`LocalGrid` and as processes of their own through `PartyGrid` over gRPC with mutual TLS on loopback, added in clear and in
secret. A round is from the platform's note that it begins to its note that it has ended, checkpoint included; the first
one, in which PyTorch warms up, is left out. Rows are few, so that training hides nothing.
"""

import json
import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from lianxin.federation.errors import InputFault, RunStopped
from lianxin.simulations.bench_machine import describe_machine
from lianxin.simulations.layout import Layout, Terms, choose_catalogue, lay_out
from lianxin.simulations.runner import free_address, run_as_processes, run_in_memory
from lianxin.simulations.tables import Inputs, check_network_inputs, write_table
from lianxin.simulations.world import stream

ID, LABEL, SPLIT = "firm", "label_bad", "split"
FIELDS, SEED = 8, 11
MOST_PARAMETERS = 125_000
Say = Callable[[str], None]


@dataclass(frozen=True)
class Asked:
    """Banks, weights of the network (about), rounds that are timed after the first, and rows a bank."""

    banks: int = 3
    parameters: int = 100_000
    rounds: int = 10
    rows: int = 400


def bench_grids(asked: Asked, say: Say, folder: Path | None = None) -> dict[str, Any]:
    """Return the medians of a round in milliseconds by road and aggregation, and what follows from them.

    Raises InputFault for sizes that no run has, RunStopped when the roads do not give the same model.
    """
    if not 3 <= asked.banks <= 8 or not 1_000 <= asked.parameters <= MOST_PARAMETERS or not 2 <= asked.rounds <= 100:
        raise InputFault(f"a bench of grids has 3 to 8 banks, 1,000 to {MOST_PARAMETERS:,} weights and 2 to 100 rounds")
    with tempfile.TemporaryDirectory(dir=folder) as made:
        inputs = _tables(Path(made) / "tables", asked)
        times, models = {}, {}
        for aggregation in ("clear", "secret"):
            for road in ("local", "party"):
                say(f"{road} grid, {aggregation}")
                layout = _laid(Path(made) / f"{road}-{aggregation}", inputs, asked, aggregation)
                ran = run_in_memory(layout) if road == "local" else run_as_processes(layout)
                times[road, aggregation] = _rounds(ran.events)
                models[road, aggregation] = _digest(layout)
    for aggregation in ("clear", "secret"):
        if models["local", aggregation] != models["party", aggregation]:
            raise RunStopped("the two grids did not end with the same model; report it with the two transcripts")
    return _record(asked, times)


def _record(asked: Asked, times: dict[tuple[str, str], list[float]]) -> dict[str, Any]:
    middle = {f"{road}_{aggregation}_ms": round(1000 * median(own), 1) for (road, aggregation), own in times.items()}
    return {
        "bench": "grids", "machine": describe_machine(), **vars(asked), "parameters": _weights(_width(asked.parameters)),
        **middle, "beyond_local_ms": round(middle["party_secret_ms"] - middle["local_secret_ms"], 1),
        "beyond_local_clear_ms": round(middle["party_clear_ms"] - middle["local_clear_ms"], 1),
        "secret_to_clear": round(middle["party_secret_ms"] / middle["party_clear_ms"], 2), "same_model": True,
    }  # fmt: skip


def _digest(layout: Layout) -> str:
    return str(json.loads((layout.run_state(layout.parties[0]) / "model.json").read_text())["model_sha256"])


def _rounds(events: Sequence[tuple[float, str]]) -> list[float]:
    """Return the seconds of each round but the first."""
    marks = [(at, note) for at, note in events if note.startswith(("begin round ", "end round "))]
    took = [end - start for (start, first), (end, _) in pairwise(marks) if first.startswith("begin")]
    return took[1:]


def _width(parameters: int) -> int:
    """Return the units of each of two hidden layers that give about so many weights."""
    return max(4, round((math.sqrt((FIELDS + 4) ** 2 + 4 * parameters) - FIELDS - 4) / 2))


def _weights(width: int) -> int:
    return (FIELDS + 1) * width + (width + 1) * width + width + 1


def _tables(folder: Path, asked: Asked) -> Inputs:
    folder.mkdir(parents=True)
    paths = [folder / f"bank-{bank + 1}.csv.gz" for bank in range(asked.banks)]
    for bank, path in enumerate(paths):
        rng = stream(SEED, "bench grids", bank)
        values = rng.standard_normal((FIELDS, asked.rows))
        bad = rng.random(asked.rows) < 1 / (1 + math.e ** (1.0 - values[0] - values[1]))
        columns: dict[str, list[Any]] = {ID: [f"firm {bank} {row}" for row in range(asked.rows)]}
        columns |= {LABEL: [int(one) for one in bad]}
        columns |= {SPLIT: ["test" if row % 5 == 0 else "train" for row in range(asked.rows)]}
        columns |= {f"x{place}": [round(float(v), 3) for v in own] for place, own in enumerate(values)}
        write_table(path, columns)
    return check_network_inputs(paths, ID, LABEL, SPLIT, None, least=1)[0]


def _laid(folder: Path, inputs: Inputs, asked: Asked, aggregation: str) -> Layout:
    width = _width(asked.parameters)
    terms = {"aggregation": aggregation, "hidden_units": [width, width], "local_epochs": 1, "max_loss_rise_permille": 0}
    chosen = Terms(seed=SEED, model="mlp", rounds=asked.rounds + 1, model_terms=terms, revoked_firms=0)
    return lay_out(folder, inputs, chosen, choose_catalogue(inputs, None, False), free_address())
