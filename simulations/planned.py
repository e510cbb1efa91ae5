"""The plan of a finished simulation beside what it came to: bytes by step and party, processor time, seconds by phase.

The plan in the transcript is priced at the published unit costs, so that its bytes are the same anywhere. The comparison
is made with costs measured on this machine, and at the sizes that the run turned out to have.
"""

import base64
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing import Pipe, get_context
from multiprocessing.connection import Connection
from typing import Any

from lianxin.crypto import canonical
from lianxin.crypto.randomness import Drbg
from lianxin.federation import plan, plan_actual
from lianxin.federation.contract import RunContract
from lianxin.federation.plan_actual import EVERYBODY, Actual
from lianxin.federation.plan_actual_networks import bounded, expect_network
from lianxin.federation.plan_calibration import Calibration
from lianxin.federation.plan_costs_networks import FIRST_CELLS, REFINED_CELLS, NetworkSizes, measure_network_costs
from lianxin.federation.plan_networks import network_plan
from lianxin.federation.plan_sizes import Known
from lianxin.parties import coding
from lianxin.simulations.layout import Layout
from lianxin.simulations.results import Outcome, contract_of, leaves_of, seconds_of
from lianxin.simulations.runner import Ran, reference_plan

CALIBRATION_S = 2.0
SAMPLE_NS = 10_000_000
PAUSES = 25  # times as long as a sample took
RARE_KERNELS = ("prove_key_ns", "check_key_ns")  # a quarter of a second each, and done once or twice in a run
_METER_SEED = b"calibration of this machine     "
BOUNDS = (
    "At most, of times: the approved plan's, priced as it was approved or as this machine is, whichever is larger, and never "
    "below what is expected."
)


@lru_cache(maxsize=4)
def calibrate(key_bits: int) -> Calibration:
    """Return what the kernels cost on this machine now with keys of `key_bits`: about two seconds, once a process."""
    return plan.measure_calibration(key_bits, Drbg(_METER_SEED), time.process_time_ns, CALIBRATION_S)


@dataclass
class Beside:
    """What a meter beside a run found, once the run is over: unit costs and its own processor time meanwhile."""

    calibration: Calibration | None = None
    own_cpu_s: float = 0.0


@contextmanager
def metered(key_bits: int) -> Iterator[Beside]:
    """Measure the kernels, a hundredth of a second at a time, in a process of its own while the body runs.

    A machine that is shared gives a run other seconds than the moment after it: what is yielded knows the unit costs of
    the body's own seconds when the body has ended.
    """
    ours, theirs = Pipe()
    process = get_context("forkserver").Process(target=_meter, args=(theirs, key_bits), daemon=True)
    process.start()
    theirs.close()
    found = Beside()
    try:
        ours.recv()  # its tables are made
        yield found
        ours.send("")
        found.calibration, found.own_cpu_s = ours.recv()
    finally:
        process.kill()
        process.join()
        ours.close()


def _meter(pipe: Connection, key_bits: int) -> None:
    """Sample in turn until the other side says that it has ended, then send the costs and what measuring took."""
    meter = plan.Meter(key_bits, Drbg(_METER_SEED), time.process_time_ns)
    for name in RARE_KERNELS:
        meter.sample(name, 0)
    names = [name for name in meter.kernels if name not in RARE_KERNELS]
    pipe.send("")
    began, turn = time.process_time(), 0
    while turn < len(names) or not pipe.poll():
        before = time.process_time()
        meter.sample(names[turn % len(names)], SAMPLE_NS)
        turn += 1
        pipe.poll(PAUSES * (time.process_time() - before))
    pipe.send((meter.calibration(), time.process_time() - began))


def plan_part(layout: Layout, ran: Ran, outcome: Outcome, calibration: Calibration | None = None) -> dict[str, Any]:
    """Return the report's `plan`: {"learns", "totals", "budgets", "compared", "calibration"}.

    Without a `calibration` the comparison is priced at the published costs.
    """
    contract = contract_of(layout)
    made, costs = reference_plan(contract), calibration or plan.reference_calibration(contract.key_bits)
    known = known_sizes(layout, ran, outcome)
    plan_bytes = len(canonical.encode(made))
    workers = 0 if ran.pids else layout.terms.workers
    expected = plan_actual.expect(contract, costs, known, layout.inputs.platform.rows, plan_bytes, workers)
    return {
        "learns": made["learns"],
        "budgets": made["budgets"],
        "compared": plan_actual.compare(made, expected, actual_of(layout, ran)),
        "calibration": costs.source,
        "workers": workers,
    }


def network_plan_part(layout: Layout, ran: Ran, outcome: Outcome) -> dict[str, Any]:
    """Return the report's `plan` of a network: {"learns", "budgets", "compared", "calibration"}, priced on this machine."""
    contract, costs = contract_of(layout), measure_network_costs(time.process_time_ns)
    made = reference_plan(contract)
    starts = None if ran.pids else 1
    known = network_sizes(contract, outcome)
    expected = expect_network(contract, costs, known, len(canonical.encode(made)), starts)
    at_most = bounded(made, network_plan(contract, costs), expected, starts is not None)
    return {
        "learns": made["learns"], "budgets": made["budgets"], "calibration": costs.source, "workers": 0,
        "bounds": BOUNDS, "compared": plan_actual.compare(at_most, expected, actual_of(layout, ran)),
    }  # fmt: skip


def network_sizes(contract: RunContract, outcome: Outcome) -> dict[str, NetworkSizes]:
    """Return what each bank's run came to: weights and cells from the preparation that all agreed on, rows from its own."""
    prepared = outcome.platform_model["preparation"]
    weights = len(base64.b64decode(outcome.platform_model["weights"])) // 4
    numbers, texts = len(prepared["numbers"]), len(prepared["texts"])
    cells = (FIRST_CELLS * numbers, REFINED_CELLS * numbers)
    return {
        bank: NetworkSizes(weights, *cells, numbers, texts, len(own["training_rows"]), contract.rounds)
        for bank, own in outcome.models.items()
    }


def known_sizes(layout: Layout, ran: Ran, outcome: Outcome) -> dict[str, Known]:
    """Return what each bank's run came to, from the models that the nodes kept; banks without one are absent."""
    model = outcome.platform_model
    bins = tuple(_bins(feature) for feature in model["features"])
    return {
        bank: Known(
            rows=len(own["training_rows"]),
            bins=bins,
            own_bins=tuple(_bins(feature) for feature in own["features"]),
            matched=ran.summary["matched"].get(bank, 0),
            turns=_turns(model, bank),
        )
        for bank, own in outcome.models.items()
    }


def _bins(feature: Mapping[str, Any]) -> int:
    return len(feature["woe"]) if "woe" in feature else coding.BinSpec.from_record(feature["bins"]).count


def _turns(model: Mapping[str, Any], bank: str) -> int:
    return len(model["gradient_norms_milli"]) if "gradient_norms_milli" in model else model["banks"][bank]["trees"]


def actual_of(layout: Layout, ran: Ran) -> Actual:
    """Return what was measured of a run: message bytes from the ledgers, processor time and phases from the run."""
    sent: Counter[tuple[str, str]] = Counter()
    for party in layout.parties:
        for leaf in leaves_of(layout, party):
            if leaf["kind"] == "envelope" and leaf["direction"] == "out":
                sent[leaf["step"], party] += leaf["size_bytes"]
    took = seconds_of(ran.events)
    return Actual(dict(sent), dict(ran.cpu_s), took, took["total"])


def factor_of(rows: Sequence[Mapping[str, Any]], figure: str, party: str = EVERYBODY) -> float | None:
    """Return actual over expected of one figure of a party, over all steps; None where it was not measured."""
    found = [row["factor"] for row in rows if (row["figure"], row["party"], row["step"]) == (figure, party, "")]
    return found[0] if found else None
