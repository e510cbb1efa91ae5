"""What the terms of a network across banks must keep, and what follows from them: one place for both sides and the plan.

A bank's update is its weights' change in fixed point of `update_bits` fractional bits, times its rows: an integer in
Z_{2^64}, exact, with a bound that is checked before it is masked and never clipped into the ring.
"""

import hashlib
from collections.abc import Collection, Sequence

from lianxin.crypto import canonical
from lianxin.federation.contract import RunContract

RING_BITS = 64
LEAST_SECRET = 3
LEAST_GROUPED = 12
NETWORK_SUMS, COUNTS, STAR_SUMS = ("train", "query.judge"), ("query.first", "query.second"), ("train", "query.count")


def threshold(banks: int) -> int:
    """Return how many of `banks` must stay to open their sum: max(3, 2N/3 rounded down, + 1) (Bonawitz et al. 2017, 6)."""
    return max(LEAST_SECRET, 2 * banks // 3 + 1)


def groups_of(banks: Sequence[str], groups: int, salt: str) -> tuple[tuple[str, ...], ...]:
    """Return the groups of a run, the same in all its rounds: banks dealt in the order of SHA-256(salt, bank).

    Groups that changed from round to round would give sums that differ by one bank.
    """
    dealt = sorted(banks, key=lambda bank: hashlib.sha256(f"groups/{salt}/{bank}".encode()).digest())
    return tuple(tuple(sorted(dealt[place::groups])) for place in range(groups))


def groups_in(contract: RunContract) -> tuple[tuple[str, ...], ...]:
    """Return the groups in which the contract's banks are summed at `train`; all in one where it has no groups."""
    return groups_of(contract.banks, contract.groups, model_hash(contract))


def model_hash(contract: RunContract) -> str:
    """Return the SHA-256 of the contract without how it adds up: in clear and in secret the same model comes out."""
    return canonical.record_hash({name: said for name, said in contract.record.items() if name != "aggregation"})


def least_of(contract: RunContract, banks: Sequence[str]) -> int:
    """Return the fewest of these banks, all of a run's or of a group, whose sum is opened: the policy of them all.

    However many are said to be lost, it stays: else whoever names the banks of a sum would name its threshold too. It is
    min_banks of all banks where that is more, and every bank where the run stops without one.
    """
    if contract.on_loss == "stop":
        return max(LEAST_SECRET, len(banks))
    floor = contract.min_banks if len(banks) == len(contract.banks) else 0
    return max(threshold(len(banks)), floor)


def can_go_on(contract: RunContract, left: Collection[str]) -> bool:
    """Return whether those who are left are enough for the sums over all banks, and in each group."""
    if len(left) < least_of(contract, contract.banks):
        return False
    return all(len(set(group) & set(left)) >= least_of(contract, group) for group in groups_in(contract))


def adds_in_secret(contract: RunContract) -> bool:
    """Whether what a bank adds may leave it under the masks of a sum alone."""
    if contract.is_network:
        return bool(contract.aggregation == "secret")
    return bool(contract.model == "scorecard" and len(contract.banks) > 1)


def is_summed(contract: RunContract, kind: str) -> bool:
    """Whether a question of this kind is answered by a value that is added to other banks'."""
    if not contract.is_network:
        return kind in STAR_SUMS
    return kind in NETWORK_SUMS or kind.startswith(COUNTS)


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
        return (
            "an update of norm_bound_thousandths at update_bits times the rows does not fit 64 bits; lower one of them"
        )
    return ""


def summand_fits(contract: RunContract) -> bool:
    """Return whether the sum of every bank's largest update stays in the ring, read as a signed number."""
    largest = contract.norm_bound_thousandths * contract.max_rows * len(contract.banks) << contract.update_bits
    return largest // 1000 < 1 << (RING_BITS - 2)
