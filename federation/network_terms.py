"""What the terms of a network across banks must keep, and what follows from them: one place for both sides and the plan.

A bank's update is its weights' change in fixed point of `update_bits` fractional bits, times its rows: an integer in
Z_{2^64}, exact, with a bound that is checked before it is masked and never clipped into the ring.
"""

from lianxin.federation.contract import RunContract

RING_BITS = 64
LEAST_SECRET = 3
LEAST_GROUPED = 12


def threshold(banks: int) -> int:
    """Return how many of `banks` must stay to open their sum: max(3, 2N/3 rounded down, + 1) (Bonawitz et al. 2017, 6)."""
    return max(LEAST_SECRET, 2 * banks // 3 + 1)


def groups_of(banks: tuple[str, ...], groups: int, round_number: int) -> tuple[tuple[str, ...], ...]:
    """Return the banks of each group of a round: dealt in sorted order, turned by one place each round."""
    ordered = sorted(banks)
    turn = round_number % max(1, len(ordered))
    turned = ordered[turn:] + ordered[:turn]
    return tuple(tuple(sorted(turned[place::groups])) for place in range(groups))


def network_fault(contract: RunContract) -> str:
    """Return what keeps a network from being trained across these banks, "" when nothing does."""
    banks, groups = len(contract.banks), contract.groups
    if banks < LEAST_SECRET and contract.aggregation == "secret":
        return "a sum of fewer than 3 banks shows each of them the other's update; add banks"
    if contract.min_banks < min(LEAST_SECRET, banks):
        return f"min_banks must be at least {min(LEAST_SECRET, banks)}"
    if groups > 1 and (banks < LEAST_GROUPED or banks // groups < LEAST_SECRET):
        return f"groups need {LEAST_GROUPED} banks or more and {LEAST_SECRET} in each; lower groups"
    if contract.strategy == "fedmedian" and contract.aggregation == "secret" and groups < 3:
        return "fedmedian takes the median of groups' averages; set groups to 3 or more, or choose another strategy"
    if not summand_fits(contract):
        return "an update of norm_bound_thousandths at update_bits times the rows does not fit 64 bits; lower one of them"
    return ""


def summand_fits(contract: RunContract) -> bool:
    """Return whether the sum of every bank's largest update stays in the ring, read as a signed number."""
    largest = contract.norm_bound_thousandths * contract.max_rows * len(contract.banks) << contract.update_bits
    return largest // 1000 < 1 << (RING_BITS - 2)
