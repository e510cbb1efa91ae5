"""Whether a round stands: the banks judge each candidate on rows that no training has seen, and a bad one is taken back.

A secret sum hides which bank sent what, so a poisoned update cannot be looked for among the updates; what it does to
the model can be seen. After each round every bank compares the loss of the candidate on its own validation rows with
the least loss that it saw of weights that stand (`says_worse`: comparing with the least one, not the last one, keeps a
model from being led astray by many small steps), and says one word in clear. The losses are added in secret.

The rule must hold while one bank lies. Its share in a secret sum can be any number, so the sum alone decides nothing;
its word is one of K:

1. A candidate that more than half of the banks find worse is taken back, whatever the sum says: one bank cannot hide it.
2. A candidate whose summed loss rose by more than the contract allows is taken back if a third of the banks and one
   more find it worse too: the one more may lie, and then a third still speak the truth (this adds to rule 1 from nine
   banks on). A sum that no losses can have is left out of account.
3. Everything else stands.

With two banks (clear aggregation alone) both must find it worse. A round that is taken back leaves the weights and the
strategy's state of before; more than `max_rollbacks` of them in a run stop it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from lianxin.federation.contract import RunContract
from lianxin.federation.errors import RunStopped

LOSS_BITS = 20
"""A loss is a whole number of 2^-20 nats."""
_PERMILLE = 1000
MOST_NATS = 128
"""What a row's loss counts as at most: weights that one liar made huge are worse, and no number overflows."""


@dataclass(frozen=True)
class Standing:
    """What stands: the summed loss (2^-20 nats) over `rows` validation rows of the best weights accepted, and how many
    rounds of the run were taken back. `rows` is 0 before anything was judged."""

    loss: int = 0
    rows: int = 0
    rollbacks: int = 0


@dataclass(frozen=True)
class Verdicts:
    """What the banks said of a candidate: each bank's word, and the sum of losses (2^-20 nats) over `rows` rows."""

    worse: Mapping[str, bool]
    loss: int
    rows: int


@dataclass(frozen=True)
class Decision:
    """Whether the candidate stands, why (one clause), whether the run stops, and what the next round is judged by."""

    accepted: bool
    reason: str
    stops: bool
    standing: Standing


def summed_loss(mean: float, rows: int) -> int:
    """Return the sum of so many rows' losses in 2^-20 nats; a mean beyond `MOST_NATS`, or that is no number, counts as that."""
    bounded = min(mean, MOST_NATS) if math.isfinite(mean) else MOST_NATS
    return round(bounded * (1 << LOSS_BITS) * rows)


def says_worse(least: int | None, found: int, rows: int, least_rows: int, contract: RunContract) -> bool:
    """Return a bank's word on a candidate: its loss `found` over `rows` rows against the `least` of accepted weights.

    Losses are sums in 2^-20 nats. The mean may rise by `max_loss_rise_permille`; 0 means that nothing is ever worse.
    A bank that has judged nothing yet, or has no rows to judge by, never says worse.
    """
    if least is None or not rows or not least_rows or not contract.max_loss_rise_permille:
        return False
    return _rose(least, least_rows, found, rows, contract)


def _rose(least: int, least_rows: int, found: int, rows: int, contract: RunContract) -> bool:
    allowed = _PERMILLE + contract.max_loss_rise_permille
    return found * least_rows * _PERMILLE > least * rows * allowed


def judge(before: Standing, verdicts: Verdicts, contract: RunContract) -> Decision:
    """Return whether a round's candidate stands, by the rule above.

    Raises RunStopped when no bank judged although the contract asks for it.
    """
    if not contract.max_loss_rise_permille:
        return Decision(True, "rounds are not judged by this contract", False, before)
    if not verdicts.worse:
        raise RunStopped("no bank judged the round; without validation rows a bad round cannot be told")
    banks, worse = len(verdicts.worse), sum(verdicts.worse.values())
    if _is_worse(before, verdicts, contract):
        return taken_back(before, f"{worse} of {banks} banks found it worse on their validation rows", contract)
    return Decision(True, f"{banks - worse} of {banks} banks let it stand", False, _best(before, verdicts, contract))


def _is_worse(before: Standing, verdicts: Verdicts, contract: RunContract) -> bool:
    banks, worse = len(verdicts.worse), sum(verdicts.worse.values())
    if 2 * worse > banks:
        return True
    witnesses = 1 - (-banks // 3)
    return worse >= witnesses and _is_credible(verdicts, contract) and _sum_rose(before, verdicts, contract)


def _is_credible(verdicts: Verdicts, contract: RunContract) -> bool:
    most_rows = contract.max_rows * len(contract.banks)
    return 0 < verdicts.rows <= most_rows and 0 <= verdicts.loss <= verdicts.rows * MOST_NATS << LOSS_BITS


def _sum_rose(before: Standing, verdicts: Verdicts, contract: RunContract) -> bool:
    return before.rows > 0 and _rose(before.loss, before.rows, verdicts.loss, verdicts.rows, contract)


def _best(before: Standing, verdicts: Verdicts, contract: RunContract) -> Standing:
    is_less = not before.rows or verdicts.loss * before.rows < before.loss * verdicts.rows
    if _is_credible(verdicts, contract) and is_less:
        return Standing(verdicts.loss, verdicts.rows, before.rollbacks)
    return before


def taken_back(before: Standing, why: str, contract: RunContract) -> Decision:
    """Return the decision that a round is taken back, and whether it is one too many."""
    standing = Standing(before.loss, before.rows, before.rollbacks + 1)
    return Decision(False, why, standing.rollbacks > contract.max_rollbacks, standing)


def stop_sentence(decision: Decision, round_number: int, contract: RunContract) -> str:
    """Return the sentence that a run ends with when `decision.stops`."""
    return (
        f"round {round_number} was taken back: {decision.reason}; the contract allows {contract.max_rollbacks} such "
        "rounds and this is one more: a bank may be sending poisoned updates, or local_rate_millionths is too high"
    )
