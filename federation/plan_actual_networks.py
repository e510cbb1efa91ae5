"""What a network's run came to beside its plan: the same counting at the sizes that it turned out to have."""

from collections.abc import Mapping

from lianxin.federation.contract import RunContract
from lianxin.federation.plan_actual import Expected
from lianxin.federation.plan_costs_networks import NetworkCosts, NetworkSizes, network_traffic, totals_of_network


def expect_network(
    contract: RunContract,
    costs: NetworkCosts,
    known: Mapping[str, NetworkSizes],
    plan_bytes: int,
    starts: int | None = None,
) -> Expected:
    """Return what a run of these sizes a bank should come to; `plan_actual.compare` sets it beside what it did come to.

    `starts` is how many processes that train were started where all parties shared one and worked in turn, so that the wall
    is their time together; None where each had its own.
    """
    traffic = {bank: network_traffic(contract, bank, sizes, plan_bytes) for bank, sizes in known.items()}
    every = [entry for entries in traffic.values() for entry in entries]
    totals = totals_of_network(contract, known, traffic, costs)
    if starts is not None:
        totals[0]["cpu_us"] += (starts - len(known)) * costs.start_ps // 1_000_000
        together = sum(total["cpu_us"] for total in totals)
        totals = [{**total, "wall_us": together} for total in totals]
    return Expected(every, totals, {})
