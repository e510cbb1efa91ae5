"""The parts of a report that a network across banks has in place of matching, rounds of a scorecard and weights of evidence."""

from collections.abc import Mapping
from typing import Any

from lianxin.federation.contract import RunContract
from lianxin.federation.network_terms import least_of
from lianxin.simulations.advice_networks import network_advice, privacy_sentence
from lianxin.simulations.results import Outcome
from lianxin.simulations.results_networks import train_losses
from lianxin.simulations.runner import Ran

TITLE = "A network across banks: what it brings, and what left each node"
LIMITS = (
    "The platform learns the sums over the banks, the weights of each round, and what each bank lets be known of its own.",
    "A bank that trains on wrong rows, or sends another update than it trained, is not found out; what it does to the model "
    "is judged, and a round that most banks find worse is taken back.",
)
CLEAR = (
    "Updates were added in clear, for comparison: the platform of this simulation saw each bank's own, which no production "
    "run allows."
)


def network_parts(contract: RunContract, ran: Ran, outcome: Outcome) -> dict[str, Any]:
    """Return title, the part `network`, its limits and plan, and nothing of matching and weights of evidence."""
    return {
        "title": TITLE, "matched": {}, "rounds": [], "woe": [],
        "advice": network_advice(outcome.figures, outcome.models, outcome.platform_model["curve"]),
        "privacy": privacy_sentence(outcome.figures.get("privacy")),
        "network": {
            "terms": _terms(contract),
            "banks": _banks(outcome),
            "losses": {
                name: train_losses(outcome.platform_model["curve"], key)
                for name, key in (("training rows", "train_loss_micro"), ("rows held back", "validation_loss_micro"))
            },
            "taken_back": list(outcome.platform_model["rolled_back"]),
            "rounds": _rounds(ran, outcome.platform_model),
            "defence": defence(contract, outcome.platform_model),
        },
        "network_limits": [*([CLEAR] if contract.aggregation == "clear" else []), *LIMITS],
    }  # fmt: skip


def _terms(contract: RunContract) -> dict[str, Any]:
    epsilon, banks = contract.epsilon_thousandths / 1000, len(contract.banks)
    noise = f"ε = {epsilon:g}, δ = 10^-{contract.delta_exponent}, a {contract.privacy_unit}" if epsilon else "no noise"
    opened = (
        f"secret, opened by {least_of(contract, contract.banks)} of {banks} banks"
        if contract.aggregation == "secret"
        else "in clear"
    )
    hidden = "none" if contract.model == "logistic" else contract.record["hidden_units"]
    return {
        "Network": contract.model, "Hidden units": hidden, "Strategy": contract.strategy, "Sums": opened,
        "Rounds": contract.rounds, "Privacy of training": noise,
    }  # fmt: skip


def defence(contract: RunContract, model: Mapping[str, Any]) -> str:
    """Return which defence against poisoned updates the run had, in a sentence or two."""
    bound = f"Each bank keeps its update under a norm of {contract.norm_bound_thousandths / 1000:g} by itself. "
    groups = (
        f"Updates were averaged in {contract.groups} groups of banks; {contract.strategy} was given the groups' averages. "
        if contract.groups > 1 else ""
    )  # fmt: skip
    if not (contract.max_loss_rise_permille and contract.validation_permille):
        return bound + groups + "Rounds were not judged: nothing takes a poisoned round back."
    taken = ", ".join(str(one) for one in model["rolled_back"]) or "none"
    return (
        bound
        + groups
        + "The banks judged each round on rows held back; it is taken back when the loss rises by more than "
        f"{contract.max_loss_rise_permille / 10:g} %. Taken back: {taken}."
    )


def _banks(outcome: Outcome) -> list[dict[str, Any]]:
    figures = outcome.figures
    return [
        {"bank": bank, **{name: figures["auc"][bank][name] for name in ("local", "federated", "personalised", "pooled")},
         "recommended": model["recommended"], "rows": figures["validation_rows"][bank],
         "losses": figures["validation_loss"][bank], "is weak": bank in figures["weak_recommendations"],
         "personal model": _personal(model)}
        for bank, model in outcome.models.items()
    ]  # fmt: skip


def _personal(model: Mapping[str, Any]) -> str:
    """Return what became of the personal model; a bank may well use its local one beside it."""
    why = str(model["note"]).replace("; the federated model is kept", "")
    return f"personalised = federated: {why}" if model["personalised"] == "none" else why


def _rounds(ran: Ran, model: Mapping[str, Any]) -> list[dict[str, Any]]:
    marks = {note: at for at, note in ran.events if note.startswith(("begin round ", "end round "))}
    rows = []
    for one in model["curve"]:
        number = one["round"]
        begin, end = marks.get(f"begin round {number}"), marks.get(f"end round {number}")
        entry = {"round": number, "rows": one.get("rows"), "outcome": "stands" if one.get("accepted", True) else "taken back",
                 "why": one.get("reason", "")}  # fmt: skip
        entry["seconds"] = end - begin if begin is not None and end is not None else None
        for name, key in (("training loss", "train_loss_micro"), ("held-back loss", "validation_loss_micro")):
            entry[name] = one[key] / 10**6 if key in one else None
        entry["revoked"] = sum(note == f"revoked before round {number}" for _, note in ran.events)
        rows.append(entry)
    return rows
