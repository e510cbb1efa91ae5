"""The plan of a run: what every party sees before it approves (protocols.md, section 9).

A plan is a canonical record, `type` "plan", made from the contract and a calibration alone:

- `learns`: who learns what at each step, and what a malicious side could read (`plan_leakage`);
- `messages`: envelopes and bytes a step and direction, at most, repeated rounds included (`plan_costs`); bytes are the
  messages', as ledgers count them, the signed headers around them stand in `totals` as `wire_bytes`;
- `totals`: for each party bytes, processor time and wall time, in microseconds, for the contract's rounds;
- `budgets`: queries, rows, attempts, numbers that each side may see; `advice` and `not_protected`: sentences.

With a reference calibration it is a function of the contract, so that a simulation's transcript stays equal; the
report compares what crossed with `check_transcript_against_plan`, and what it cost with `plan_actual.compare`.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from lianxin.crypto import canonical
from lianxin.federation import plan_leakage
from lianxin.federation.contract import RunContract
from lianxin.federation.field_query import MODEL as FIELD_QUERY
from lianxin.federation.plan_calibration import (
    REFERENCE,
    Calibration,
    Meter,
    measure_calibration,
    reference_calibration,
)
from lianxin.federation.plan_costs import LINK_BYTES_PER_S, RECORD_BYTES, bank_traffic, bank_work, platform_work
from lianxin.federation.plan_costs_networks import REFERENCE_COSTS, NetworkCosts
from lianxin.federation.plan_networks import NETWORK_MODELS, describe_network_plan, network_plan
from lianxin.federation.plan_operations import cpu_us
from lianxin.federation.plan_queries import describe_query_plan, query_plan
from lianxin.federation.plan_scoring import MODEL as SCORING
from lianxin.federation.plan_scoring import describe_scoring_plan, scoring_plan
from lianxin.federation.plan_sizes import Sizes, Traffic
from lianxin.federation.plan_terms import NOTHING, Terms
from lianxin.federation.scorecard import plan_layouts
from lianxin.federation.steps import STEPS

__all__ = [
    "REFERENCE",
    "Calibration",
    "Meter",
    "check_transcript_against_plan",
    "describe_plan",
    "make_plan",
    "measure_calibration",
    "possible_attempts",
    "reference_calibration",
]


def make_plan(
    contract: RunContract, calibration: Calibration | NetworkCosts, platform_firms: int | None = None
) -> dict[str, Any]:
    """Return the plan of `contract` as a canonical record.

    `platform_firms` is how many firms the platform declares for matching, which no term of the contract bounds; by
    default as many as `max_rows`. Raises PackingOverflow when the contract's sizes fit no layout, ValueError for a
    calibration of another key size. A standing agreement has the short plan of `plan_queries` or `plan_scoring`.
    """
    if contract.is_standing:
        return query_plan(contract) if contract.model == FIELD_QUERY else scoring_plan(contract)
    if contract.is_network:
        return network_plan(contract, calibration if isinstance(calibration, NetworkCosts) else REFERENCE_COSTS)
    if isinstance(calibration, NetworkCosts):
        raise ValueError("costs of a network cannot price another model")
    if calibration.key_bits != contract.key_bits:
        raise ValueError(f"a calibration for {calibration.key_bits} bits cannot price keys of {contract.key_bits}")
    firms = contract.max_rows if platform_firms is None else platform_firms
    sizes = [Sizes(contract, bank, firms) for bank in contract.banks]
    first = _plan_of(contract, calibration, sizes, 0)
    return _plan_of(contract, calibration, sizes, len(canonical.encode(first)) + RECORD_BYTES)


def _plan_of(
    contract: RunContract, calibration: Calibration, sizes: Sequence[Sizes], plan_bytes: int
) -> dict[str, Any]:
    at_most = [entry for one in sizes for entry in bank_traffic(one, possible_attempts(contract), plan_bytes)]
    planned = [entry for one in sizes for entry in bank_traffic(one, contract.turns, plan_bytes)]
    return {
        "type": "plan",
        "version": 1,
        "run": contract.run,
        "contract": contract.hash,
        "model": contract.model,
        "parties": [contract.platform, *contract.banks],
        "matching": contract.matching,
        "calibration": calibration.record(),
        "learns": plan_leakage.learns(contract),
        "messages": [_message(entry) for entry in at_most],
        "totals": totals_of(sizes, calibration, planned, at_most, contract.turns),
        "budgets": {**_budgets(contract), "firms_of_platform": sizes[0].firms},
        "advice": plan_leakage.advice(contract),
        "not_protected": plan_leakage.not_protected(contract),
    }


def possible_attempts(contract: RunContract) -> int:
    """Return how many attempts at rounds may really happen: a rerun needs a lost bank and enough others left.

    A tree is grown with one bank alone and in one attempt.
    """
    if contract.model == "boosted_trees":
        return contract.trees
    spare = len(contract.banks) - max(2, contract.min_banks) if contract.on_loss == "rerun" else 0
    prepared = plan_layouts(contract).masks.slots
    return min(prepared, contract.rounds + max(0, min(spare, contract.spare_attempts)))


def _message(entry: Traffic) -> dict[str, Any]:
    return {name: value for name, value in asdict(entry).items() if name != "wire_bytes"}


def _budgets(contract: RunContract) -> dict[str, Any]:
    sizes = {
        "queries_a_bank": contract.max_queries,
        "rows_a_bank": contract.max_rows,
        "bins_a_feature": contract.max_bins,
    }
    if contract.model == "boosted_trees":
        grown = {name: contract.record[name] for name in ("trees", "depth", "split_bits", "nodes")}
        return {**sizes, **grown, "sums_to_bank": Terms(contract).numbers_to_bank_of_trees}
    terms = Terms(contract)
    return {
        **sizes,
        "rounds": contract.rounds,
        "attempts": possible_attempts(contract),
        "attempts_prepared": plan_layouts(contract).masks.slots,
        "numbers_to_platform": terms.numbers_to_platform,
        "numbers_to_banks": [
            {"party": bank, "numbers": terms.numbers_to(bank) + terms.correlations(bank)} for bank in contract.banks
        ],
    }


def totals_of(
    sizes: Sequence[Sizes], calibration: Calibration, planned: Sequence[Traffic], at_most: Sequence[Traffic], turns: int
) -> list[dict[str, Any]]:
    """Return for each party, the platform first, its bytes, processor time and wall time.

    The platform serves its banks on one processor; a bank waits for it, and for the link.
    """
    platform = sizes[0].contract.platform
    banks = {
        one.bank: cpu_us(bank_work(one, turns) + _signatures(planned, one.bank), calibration) for one in sizes
    }  # fmt: skip
    served = cpu_us(_platform_operations(sizes, turns) + _signatures(planned, platform), calibration)
    waits = {platform: served + max(banks.values()), **{bank: served + own for bank, own in banks.items()}}
    return [
        {
            "party": party,
            "bytes_sent": sum(entry.bytes for entry in planned if entry.sender == party),
            "bytes_at_most": sum(entry.bytes for entry in at_most if entry.sender == party),
            "wire_bytes": sum(entry.wire_bytes for entry in planned if entry.sender == party),
            "cpu_us": own,
            "wall_us": waits[party] + _carried(planned, party) * 1_000_000 // LINK_BYTES_PER_S,
        }
        for party, own in {platform: served, **banks}.items()
    ]


def _platform_operations(sizes: Sequence[Sizes], turns: int) -> Counter[str]:
    own_key = Counter(generate_key=int(sizes[0].contract.model == "scorecard"))
    return sum((platform_work(one, turns) for one in sizes), own_key)


def _signatures(traffic: Iterable[Traffic], party: str) -> Counter[str]:
    work: Counter[str] = Counter()
    for entry in traffic:
        work["sign"] += entry.envelopes * (entry.sender == party)
        work["verify"] += entry.envelopes * (entry.recipient == party)
    return work


def _carried(traffic: Iterable[Traffic], party: str) -> int:
    return sum(entry.wire_bytes for entry in traffic if party in (entry.sender, entry.recipient))


# ---- what a person and the report read


def describe_plan(plan: Mapping[str, Any]) -> list[str]:
    """Return the plan as plain sentences for a terminal: who learns what, the cost, and what is not protected."""
    if plan.get("model") == FIELD_QUERY:
        return describe_query_plan(plan)
    if plan.get("model") == SCORING:
        return describe_scoring_plan(plan)
    if plan.get("model") in NETWORK_MODELS:
        return describe_network_plan(plan)
    budgets, calibration = plan["budgets"], plan["calibration"]
    lines = [f"Plan of run {plan['run']} between {', '.join(plan['parties'])}; matching by {plan['matching']}."]
    lines += [_described(entry) for entry in plan["learns"]]
    lines.append(
        f"The run makes {_turns(budgets)}, over at most {budgets['rows_a_bank']} training rows and "
        f"{budgets['queries_a_bank']} matching queries a bank, and {budgets['firms_of_platform']} firms of the platform."
    )
    lines += [_priced(total) for total in plan["totals"]]
    bits, source = calibration["key_bits"], calibration["source"]
    lines.append(f"Times are {source} costs with keys of {bits} bits, one processor a party.")
    lines += [f"Not protected: {sentence}" for sentence in plan["not_protected"]]
    return lines + [f"Advice: {sentence}." for sentence in plan["advice"]]


def _turns(budgets: Mapping[str, Any]) -> str:
    if "trees" in budgets:
        return f"at most {budgets['trees']} trees of depth {budgets['depth']} a bank, nodes {budgets['nodes']}"
    return f"{budgets['rounds']} rounds in at most {budgets['attempts']} attempts"


def _described(entry: Mapping[str, str]) -> str:
    line = f"At {entry['step']}, {entry['who']}: {entry['what']}."
    return line if entry["malicious"] == NOTHING else f"{line} If malicious: {entry['malicious']}."


def _priced(total: Mapping[str, Any]) -> str:
    sent, most = total["bytes_sent"] / 1e6, total["bytes_at_most"] / 1e6
    seconds, wall = total["cpu_us"] / 1e6, total["wall_us"] / 1e6
    return (
        f"{total['party']} sends about {sent:.1f} MB (at most {most:.1f} MB) and computes for about {seconds:.0f} s; "
        f"its part ends after about {wall:.0f} s."
    )


def check_transcript_against_plan(
    plan: Mapping[str, Any], observed: Mapping[str, tuple[int, int]], party: str | None = None
) -> list[str]:
    """Return a sentence for each step that sent more than the plan allows; an empty list is good.

    `observed[step]` is (envelopes, bytes of their messages), both directions of all conversations; with `party`, of
    that party's conversations alone.
    """
    allowed: dict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))
    for entry in plan["messages"]:
        if party in (None, entry["sender"], entry["recipient"]):
            envelopes, size = allowed[entry["step"]]
            allowed[entry["step"]] = (envelopes + entry["envelopes"], size + entry["bytes"])
    sentences = []
    for step in sorted(observed, key=lambda name: (list(STEPS).index(name) if name in STEPS else len(STEPS), name)):
        names = zip(("envelopes", "bytes"), observed[step], allowed[step], strict=True)
        over = [f"{found} {name} where the plan allows {most}" for name, found, most in names if found > most]
        if over:
            sentences.append(f"step {step} carried {' and '.join(over)}")
    return sentences
