"""The short plan of a standing agreement for field queries: nothing is computed, so it says who learns what, and no cost.

It has the keys of a run's plan (`plan`); `messages` and `totals` are empty, since how often a bank asks is no term.
"""

from collections.abc import Mapping
from typing import Any

from lianxin.federation.contract import RunContract
from lianxin.federation.field_query import FIRMS_A_REQUEST, MODEL


def query_plan(contract: RunContract) -> dict[str, Any]:
    """Return the plan of a standing agreement as a canonical record."""
    fields = contract.fields_of(contract.platform, "feature")
    return {
        "type": "plan", "version": 1, "run": contract.run, "contract": contract.hash, "model": MODEL,
        "parties": [contract.platform, *contract.banks], "learns": _learns(contract, fields), "messages": [],
        "totals": [], "budgets": {"firms_a_request": FIRMS_A_REQUEST, "fields": len(fields)},
        "advice": [], "not_protected": _not_protected(contract),
    }  # fmt: skip


def _learns(contract: RunContract, fields: tuple[str, ...]) -> list[dict[str, str]]:
    platform, bank = contract.platform, contract.banks[0] if len(contract.banks) == 1 else "each bank"
    asked = "which firms the bank asks about by their codes, when, for which fields, and which person asks"
    told = f"the values of the firms it names, of at most these fields: {', '.join(fields)}; for the others, which rule refuses"
    tries = "asks about firms that are none of its business, as often as its quota lets it"
    keeps = "keeps the list of firms and sets it against what else it knows of the bank's business"
    return [
        {"who": platform, "what": asked, "step": "query.ask", "malicious": keeps},
        {"who": bank, "what": told, "step": "query.answer", "malicious": tries},
    ]


def _not_protected(contract: RunContract) -> list[str]:
    return [
        f"{contract.platform} sees every firm that is asked about in clear: a query is not hidden from it.",
        "What a bank has read it can keep or pass on: after the answer only its duties bind it.",
        "Values are the platform's as it holds them; whether they are true is proved by nothing here.",
        "Sizes, times and the order of messages are seen by whoever watches the network.",
    ]


def describe_query_plan(plan: Mapping[str, Any]) -> list[str]:
    """Return the plan as plain sentences for a terminal."""
    budgets = plan["budgets"]
    lines = [f"Standing agreement {plan['run']} between {', '.join(plan['parties'])}: field queries, no training."]
    lines += [
        f"At {one['step']}, {one['who']}: {one['what']}. If malicious: {one['malicious']}." for one in plan["learns"]
    ]
    lines.append(f"A request names at most {budgets['firms_a_request']} firms and {budgets['fields']} fields.")
    return lines + [f"Not protected: {sentence}" for sentence in plan["not_protected"]]
