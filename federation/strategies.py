"""Flower's strategies by name, fed with one reply a group of banks: Flower averages, takes the median or Adam's step.

The banks' updates never reach a strategy: a group's are added in secret (federation.secure_sum) and the group's average
is what the strategy is given, as if the group were one client. FedAvg of one group is that average, to the last bit.
What a strategy keeps from round to round (FedAdam's two moments: Reddi et al. 2021, algorithm 2) is a canonical record,
so that a round can be taken back and a run resumed.

Banks are asked by federation.federated, so Flower's own sampling and its wait for nodes are never entered; the least
numbers of nodes are 1 all the same, because that wait has no end.
"""

import base64
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lianxin.federation import grid as road  # sets Flower's environment before Flower is imported

from flwr.app import Array, ArrayRecord, Message, Metadata, MetricRecord, RecordDict  # isort: skip
from flwr.serverapp.strategy import FedAdam, FedAvg, FedMedian, FedProx  # isort: skip

from lianxin.federation.contract import RunContract
from lianxin.federation.errors import RunStopped

Weights = Sequence[np.ndarray]
_ROWS = "rows"
_MOMENTS = ("m_t", "v_t")
_NO_WAIT: dict[str, Any] = {
    "min_train_nodes": 1,
    "min_evaluate_nodes": 1,
    "min_available_nodes": 1,
    "weighted_by_key": _ROWS,
}


def inner_strategy(contract: RunContract) -> FedAvg:
    """Return Flower's strategy of the contract's name.

    `fedprox` aggregates as FedAvg; its proximal term is in the banks' local training. `fedadam` steps by
    `server_rate_millionths`.
    """
    made: dict[str, Any] = {
        "fedavg": lambda: FedAvg(**_NO_WAIT),
        "fedprox": lambda: FedProx(**_NO_WAIT, proximal_mu=contract.proximal_thousandths / 1000),
        "fedadam": lambda: FedAdam(**_NO_WAIT, eta=contract.server_rate_millionths / 1_000_000),
        "fedmedian": lambda: FedMedian(**_NO_WAIT),
    }
    return made[contract.strategy]()


def combine(
    strategy: FedAvg, round_number: int, before: Weights, averages: Sequence[tuple[Weights, int]]
) -> list[np.ndarray]:
    """Return the weights after a round: float32 arrays of the shapes of `before`.

    `averages` holds a (weights, rows) pair for each group, in the order of groups; `before` is what the round began
    with. Raises RunStopped where there is no group, where shapes differ or where the result is no number.
    """
    if not averages or any(rows < 1 for _, rows in averages):
        raise RunStopped(f"no rows were trained on in round {round_number}; there is nothing to average")
    if any([w.shape for w in weights] != [b.shape for b in before] for weights, _ in averages):
        raise RunStopped(f"the averages of round {round_number} have other shapes than the weights; the run stops")
    if isinstance(strategy, FedAdam):
        strategy.current_arrays = _named(before)
    replies = [_reply(group, weights, rows) for group, (weights, rows) in enumerate(averages, start=1)]
    with np.errstate(over="ignore", invalid="ignore"):  # a result that is no number is refused below
        arrays, _ = strategy.aggregate_train(round_number, replies)
    after = [np.asarray(road.values_of(array), dtype=np.float32) for array in (arrays or {}).values()]
    if not all(np.isfinite(array).all() for array in after):
        raise RunStopped(
            f"round {round_number} gave weights that are no numbers; lower local_rate_millionths or "
            "server_rate_millionths"
        )
    return after


def _named(weights: Weights) -> dict[str, np.ndarray]:
    return {f"{place:03d}": np.asarray(array, dtype=np.float32) for place, array in enumerate(weights)}


def _reply(group: int, weights: Weights, rows: int) -> Message:
    arrays = ArrayRecord({name: Array(array) for name, array in _named(weights).items()})
    content = RecordDict({road.ARRAYS: arrays, road.METRICS: MetricRecord({_ROWS: rows})})
    metadata = Metadata(1, f"group/{group}", group, 0, "", "", 0.0, 1.0, "train")
    return Message(content=content, metadata=metadata)  # type: ignore[call-overload]


def state(strategy: FedAvg) -> dict[str, Any]:
    """Return what the strategy keeps between rounds as a canonical record; empty for all but FedAdam."""
    kept = {name: getattr(strategy, name, None) for name in _MOMENTS}
    return {name: [_written(array) for _, array in sorted(found.items())] for name, found in kept.items() if found}


def restore(strategy: FedAvg, record: Mapping[str, Any]) -> None:
    """Set the strategy back to a `state`. Raises RunStopped for a record that is none of this strategy's."""
    keeps = isinstance(strategy, FedAdam)
    if set(record) not in ((set(), set(_MOMENTS)) if keeps else (set(),)):
        raise RunStopped("the kept state is not this strategy's; the run cannot be resumed from it")
    for name in _MOMENTS if keeps else ():
        found = [_read(entry) for entry in record.get(name, [])]
        setattr(strategy, name, _named(found) if found else None)


def _written(array: np.ndarray) -> dict[str, Any]:
    data = np.ascontiguousarray(array, dtype="<f4").tobytes()
    return {"shape": list(array.shape), "float32": base64.b64encode(data).decode("ascii")}


def _read(entry: Mapping[str, Any]) -> np.ndarray:
    try:
        shape, data = tuple(entry["shape"]), base64.b64decode(entry["float32"], validate=True)
        sizes_fit = all(type(size) is int and size >= 0 for size in shape) and len(data) == 4 * math.prod(shape)
    except (KeyError, TypeError, ValueError):
        sizes_fit = False
    if not sizes_fit:
        raise RunStopped("the kept state of the strategy is damaged; the run cannot be resumed from it")
    return np.frombuffer(data, dtype="<f4").reshape(shape).astype(np.float32)
