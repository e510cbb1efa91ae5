"""The plan of a network across banks: who learns what at each question, what it costs, and what is not protected.

It has the keys of a run's plan (`plan`). Nothing is matched, and the platform computes on sums alone. What crosses and what it
costs is counted in `plan_costs_networks`.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from lianxin.crypto import canonical
from lianxin.federation.contract import NETWORK_MODELS, RunContract
from lianxin.federation.network_terms import groups_in, least_of
from lianxin.federation.plan_costs_networks import (
    REFERENCE_COSTS,
    STEP,
    NetworkCosts,
    is_judged,
    largest_sizes,
    network_traffic,
    planned_sizes,
    totals_of_network,
)
from lianxin.federation.plan_terms import NOTHING, REPLAY, Learns

__all__ = ["NETWORK_MODELS", "describe_network_plan", "network_plan"]
_NAMES = "the contract: parties, field names and sizes of all"


def network_plan(contract: RunContract, costs: NetworkCosts = REFERENCE_COSTS) -> dict[str, Any]:
    """Return the plan of a network's run as a canonical record."""
    first = _plan_of(contract, costs, 0)
    return _plan_of(contract, costs, len(canonical.encode(first)) + 64)


def _plan_of(contract: RunContract, costs: NetworkCosts, plan_bytes: int) -> dict[str, Any]:
    planned, largest = planned_sizes(contract), largest_sizes(contract)
    at_most = [entry for bank in contract.banks for entry in network_traffic(contract, bank, largest, plan_bytes)]
    expected = {bank: network_traffic(contract, bank, planned, plan_bytes) for bank in contract.banks}
    most = Counter[str]()
    for entry in at_most:
        most[entry.sender] += entry.bytes
    totals = totals_of_network(contract, dict.fromkeys(contract.banks, planned), expected, costs)
    return {
        "type": "plan", "version": 1, "run": contract.run, "contract": contract.hash, "model": contract.model,
        "parties": [contract.platform, *contract.banks], "calibration": costs.record(),
        "learns": [asdict(entry) for entry in _learns(contract)],
        "messages": [{name: value for name, value in asdict(one).items() if name != "wire_bytes"} for one in at_most],
        "totals": [{**total, "bytes_at_most": most[str(total["party"])]} for total in totals],
        "budgets": _budgets(contract), "advice": _advice(contract), "not_protected": _not_protected(contract),
    }  # fmt: skip


def _budgets(contract: RunContract) -> dict[str, int]:
    names = (
        "rounds", "min_rows", "min_banks", "groups", "epsilon_thousandths", "delta_exponent", "norm_bound_thousandths",
        "max_loss_rise_permille", "max_rollbacks", "validation_permille",
    )  # fmt: skip
    found = {name: int(contract.record[name]) for name in names}
    sizes = planned_sizes(contract)
    return {**found, "rows_a_bank": contract.max_rows, "weights": sizes.weights, "threshold": _in_group(contract)[1]}


def _in_group(contract: RunContract) -> tuple[int, int]:
    """Return how many banks a run's smallest group has, and with how few of them its sum may be opened."""
    smallest = min(groups_in(contract), key=len)
    return len(smallest), least_of(contract, smallest)


def _in_all(contract: RunContract) -> tuple[int, int]:
    """Return the same of the sums over all banks: counts, and losses."""
    return len(contract.banks), least_of(contract, contract.banks)


# ---- who learns what


def _learns(contract: RunContract) -> Iterator[Learns]:
    platform, rows = contract.platform, contract.min_rows
    yield Learns("every party", _NAMES, "contract.agree", NOTHING)
    said = f"of each bank by name: which fields are numbers, and the texts of the others that {rows} of its firms or more have"
    yield Learns(platform, said, STEP, NOTHING)
    yield Learns(platform, _counts(contract), STEP, _reads(contract, "counts", _in_all(contract)))
    agreed = "the preparation: edges of each field's quantiles over all banks, and the texts that 3 banks or more named"
    yield Learns("each bank", agreed, STEP, "subtracts its own part of the sums; a bank alone sees no other bank's")
    yield Learns(platform, _updates(contract), STEP, _reads(contract, "update", _in_group(contract)))
    yield Learns("each bank", _weights(contract), STEP, "asks the weights which rows they were made of (see below)")
    if is_judged(contract):
        words = (
            "in each round the sum of the banks' losses on rows held back, and of each bank by name whether it is worse"
        )
        yield Learns(platform, words, STEP, _false_weights(contract))
        yield Learns(
            "each bank",
            "whether the round's weights stand",
            STEP,
            "says worse of good rounds, which a majority outvotes",
        )
    yield Learns(
        "both sides", "which banks take part in each round, and came through which stage of its sum", STEP, NOTHING
    )
    models = (
        "the federated model" if contract.epsilon_thousandths else "its local, the federated and its personalised model"
    )
    figures = f"each bank's own figures on its test rows: AUC and KS of {models}"
    yield Learns(platform, figures, STEP, _false_figures(contract))


def _counts(contract: RunContract) -> str:
    whole = "how many rows lie in each cell of a public grid, then of a finer one, for each numeric field"
    return f"{whole}: {_summed(contract, _in_all(contract))}"


def _updates(contract: RunContract) -> str:
    groups = "" if contract.groups == 1 else f"in each of {contract.groups} groups, the same in all rounds, "
    summed = _summed(contract, _in_group(contract))
    return f"in each of {contract.rounds} rounds, {groups}rows, losses and weight changes: {summed}"


def _summed(contract: RunContract, over: tuple[int, int]) -> str:
    if contract.aggregation == "clear":
        return "every bank's own, since this simulation adds up in clear"
    banks, few = over
    return f"their sum over {banks if few >= banks else f'{few} to {banks}'} banks, never one bank's"


def _reads(contract: RunContract, what: str, over: tuple[int, int]) -> str:
    """Return what a platform that leaves the protocol reads of one bank's counts or update."""
    if contract.aggregation == "clear":
        return f"reads rows off a bank's own {what}"
    return (
        f"{_together(over)}, another one's {what}; alone nothing more: a bank signs which banks are in a sum and what they "
        "were asked, opens one set of them (rule SS08), and a later set only shrinks (rule SS01)"
    )


def _together(over: tuple[int, int]) -> str:
    banks, few = over
    return f"with {few - 1} of the banks" + ("" if few >= banks else ", saying that the rest are lost")


def _weights(contract: RunContract) -> str:
    return (
        f"the weights of each round, which are the average over all banks' rows ({contract.strategy}), before and after; with "
        "its own update taken off, the average of the others'"
    )


def _false_weights(contract: RunContract) -> str:
    bounds = f"the bound of {contract.norm_bound_thousandths / 1000:g} on an update's norm and the sum over the banks"
    noise = ", and the noise on every step" if contract.epsilon_thousandths else "; no noise hides what comes back"
    return (
        "sends banks weights made for the purpose, under which few rows alone move the update, and reads them from the sum; "
        f"{bounds} limit it{noise}. A bank takes one candidate a round, and trains from what it judged and what stands (rule "
        f"NN04); a sum is opened only where all were asked the same. That a candidate is the average is {REPLAY}"
    )


def _false_figures(contract: RunContract) -> str:
    if is_judged(contract):
        return "learns them once, of the weights that stood after the last round (rule NN04)"
    return "brings false weights and reads the figures of these instead, once"


# ---- what is not protected


def _not_protected(contract: RunContract) -> list[str]:
    return [
        *_noise(contract),
        "Local training runs on whatever weights come: a platform that leaves the protocol can make them so that single rows "
        "stand out in the sum.",
        _collusion(contract),
        "Sums of two rounds over different banks differ by who came or left: where one bank is in one and not in the other, "
        "the difference tells of its update, as far as the others' stayed alike.",
        "The finished weights are information: whoever has them, every bank and the platform, can ask them whether a row was "
        "trained on, and what the average row of a kind is like.",
        "Texts of a field and figures are known by bank, not as sums.",
        "The preparation rests on the platform: banks hold it to the kinds they said, to one for all of them, and to texts "
        f"that {contract.min_rows} of their own firms have; edges that set few rows apart they cannot tell from true ones.",
        _poison(contract),
        "Sizes, times and the order of messages are seen by whoever watches the network.",
    ]


def _noise(contract: RunContract) -> list[str]:
    if not contract.epsilon_thousandths:
        return ["No noise is added: weights and updates can remember rows."]
    unit = "one record" if contract.privacy_unit == "record" else "all records of one firm"
    return [
        f"Noise in each bank's training bounds what all rounds together tell of {unit}: epsilon "
        f"{contract.epsilon_thousandths / 1000:g}, delta 10^-{contract.delta_exponent}, for the whole run, and added to the "
        "table's earlier runs.",
        "Outside of epsilon: the preparation, losses and words on rows held back, figures on test rows, a bank's own local and "
        "personalised models, which stay with it, and what is common to many rows.",
    ]


def _collusion(contract: RunContract) -> str:
    if contract.aggregation == "clear":
        return "Updates are added in clear: the platform sees each bank's own."
    over = _in_group(contract)
    return (
        f"A sum is opened with {over[1]} of {over[0]} banks or more in it: {contract.platform} together {_together(over)}, "
        "knows another one's update."
    )


def _poison(contract: RunContract) -> str:
    kept = f"In force against wrong updates: each bank's own bound of {contract.norm_bound_thousandths / 1000:g} on their norm"
    if contract.groups > 1:
        kept += f"; {contract.strategy} over the averages of {contract.groups} groups"
    if is_judged(contract):
        kept += (
            f"; a round that most banks find worse by {contract.max_loss_rise_permille / 10:g} % is taken back, "
            f"{contract.max_rollbacks} times at most"
        )
    else:
        kept += "; rounds are not judged"
    return f"{kept}. In a sum nobody sees whose update was wrong, and a bank that lies keeps to no bound."


def _advice(contract: RunContract) -> list[str]:
    found = []
    if not contract.epsilon_thousandths:
        found.append("set epsilon_thousandths where a row's having been trained on must stay unknown")
    if not is_judged(contract):
        found.append("set max_loss_rise_permille and validation_permille, so that a poisoned round can be taken back")
    if len(contract.banks) == 3:
        found.append("with 3 banks every bank must stay for a sum to be opened; one that leaves stops the run")
    return found


# ---- what a person reads


def describe_network_plan(plan: Mapping[str, Any]) -> list[str]:
    """Return the plan as plain sentences for a terminal."""
    budgets = plan["budgets"]
    lines = [f"Plan of run {plan['run']}, a network ({plan['model']}) across {', '.join(plan['parties'][1:])}."]
    for entry in plan["learns"]:
        told = f"At {entry['step']}, {entry['who']}: {entry['what']}."
        lines.append(told if entry["malicious"] == NOTHING else f"{told} If malicious: {entry['malicious']}.")
    lines.append(
        f"The run makes {budgets['rounds']} rounds of about {budgets['weights']:,} weights, over at most "
        f"{budgets['rows_a_bank']:,} training rows a bank."
    )
    for total in plan["totals"]:
        lines.append(
            f"{total['party']} sends about {total['bytes_sent'] / 1e6:.1f} MB (at most {total['bytes_at_most'] / 1e6:.1f} MB) "
            f"and computes for about {total['cpu_us'] / 1e6:.0f} s; its part ends after about {total['wall_us'] / 1e6:.0f} s."
        )
    lines.append(f"Times are {plan['calibration']['source']} costs without torch, one processor a party.")
    lines += [f"Not protected: {sentence}" for sentence in plan["not_protected"]]
    return lines + [f"Advice: {sentence}." for sentence in plan["advice"]]
