"""What a network's run came to beside its plan: the same counting at the sizes that it turned out to have."""

from collections.abc import Mapping
from typing import Any

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


def bounded(plan: Mapping[str, Any], here: Mapping[str, Any], expected: Expected, is_in_turn: bool) -> dict[str, Any]:
    """Return the approved plan with times that bound what is expected: a party's largest of the approved count, of the same
    count at this machine's costs (`here`), and of what is expected. In turn, the wall is the parties' time together."""
    totals = []
    for approved in plan["totals"]:
        counts = [one for one in (*here["totals"], *expected.totals) if one["party"] == approved["party"]]
        times = {name: max(one[name] for one in (approved, *counts)) for name in ("cpu_us", "wall_us")}
        totals.append({**approved, **times})
    if is_in_turn:
        together = sum(total["cpu_us"] for total in totals)
        totals = [{**total, "wall_us": max(together, total["wall_us"])} for total in totals]
    return {**plan, "totals": totals}
