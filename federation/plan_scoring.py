"""The short plan of a scoring agreement: what each side learns when a bank asks for scores of named firms.

It has the keys of a run's plan (`plan`); `messages` and `totals` are empty, since how often a bank asks is no term.
"""

from collections.abc import Mapping
from typing import Any

from lianxin.federation.contract import RunContract

MODEL = "scoring"


def scoring_plan(contract: RunContract) -> dict[str, Any]:
    """Return the plan of a scoring agreement as a canonical record."""
    fields = contract.fields_of(contract.platform, "feature")
    return {
        "type": "plan", "version": 1, "run": contract.run, "contract": contract.hash, "model": MODEL,
        "parties": [contract.platform, *contract.banks], "learns": _learns(contract, fields), "messages": [],
        "totals": [], "budgets": {"models": len(contract.models), "fields": len(fields)},
        "advice": [], "not_protected": _not_protected(contract),
    }  # fmt: skip


def _learns(contract: RunContract, fields: tuple[str, ...]) -> list[dict[str, str]]:
    platform, bank = contract.platform, contract.banks[0] if len(contract.banks) == 1 else "each bank"
    models = ", ".join(contract.models)
    asked = "which firms the bank asks about by their codes, when, for which models, and which person asks"
    told = (
        f"of each firm it names, under models {models}: its sub-score in whole points with up to four reasons, or the sides "
        f"of the model's cuts, made from at most these fields: {', '.join(fields)}; for the others only that there is none"
    )
    tries = (
        "asks about firms that are none of its business, as often as its quota lets it; asks again after each change of the "
        "data and reads the difference"
    )
    keeps = "keeps the list of firms and sets it against what else it knows of the bank's business; answers wrongly"
    return [
        {"who": platform, "what": asked, "step": "scoring.ask", "malicious": keeps},
        {"who": bank, "what": told, "step": "scoring.answer", "malicious": tries},
    ]


def _not_protected(contract: RunContract) -> list[str]:
    return [
        f"{contract.platform} sees every firm that is asked about in clear: a request is not hidden from it.",
        "A sub-score is a function of the platform's fields: scores of one firm under several models, or over time, add up.",
        "Unknown, unauthorised and expired firms are answered alike, in one size and on one schedule; how many firms a "
        "request names, and when, is seen by whoever watches the network.",
        "What a bank has read it can keep or pass on: after the answer only its duties bind it.",
    ]


def describe_scoring_plan(plan: Mapping[str, Any]) -> list[str]:
    """Return the plan as plain sentences for a terminal."""
    budgets = plan["budgets"]
    lines = [f"Standing agreement {plan['run']} between {', '.join(plan['parties'])}: joint scoring, no training."]
    lines += [
        f"At {entry['step']}, {entry['who']}: {entry['what']}. If malicious: {entry['malicious']}."
        for entry in plan["learns"]
    ]
    models, fields = (
        f"{budgets[name]} {name if budgets[name] != 1 else name[:-1]}" for name in ("models", "fields")
    )
    lines.append(f"A request may ask for {models}, made from {fields}.")
    return lines + [f"Not protected: {sentence}" for sentence in plan["not_protected"]]
