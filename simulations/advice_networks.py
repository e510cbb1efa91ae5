"""What a reader of a network's figures must be told beside them: how sure a recommendation is, what noise the models carry."""

from collections.abc import Mapping, Sequence
from typing import Any

from lianxin.simulations.results_star import MARGIN

OWN = ("local", "federated", "personalised")
WEAK_ROWS = 100
STILL_FALLING = 0.005
Curve = Sequence[Mapping[str, Any]]


def held_back(models: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return each bank's log-losses on its rows held back, how many these are, and the banks with too few to choose well."""
    rows = {bank: len(model["validation_rows"]) for bank, model in models.items()}
    losses = {
        bank: {name: loss / 10**6 for name, loss in model["validation_loss_micro"].items()}
        for bank, model in models.items()
    }
    weak = [bank for bank, count in rows.items() if count < WEAK_ROWS]
    return {"validation_loss": losses, "validation_rows": rows, "weak_recommendations": weak}


def network_advice(figures: Mapping[str, Any], models: Mapping[str, Mapping[str, Any]], curve: Curve) -> list[str]:
    """Return sentences: weak recommendations, test rows that say otherwise, banks without any, rankings worse than chance."""
    lines = []
    for bank, chosen in figures["recommended"].items():
        lines += _on_choice(bank, chosen, figures["validation_rows"][bank])
        lines += _on_tests(bank, chosen, figures["auc"][bank], len(models[bank]["test_rows"]))
    return [*lines, *still_falling(curve)]


def _on_choice(bank: str, chosen: str, rows: int) -> list[str]:
    if not rows:
        return [
            f"{bank}: no row was held back, so that nothing chose between its models; {chosen} is named for want of that."
        ]
    if rows < WEAK_ROWS:
        return [f"{bank}: {chosen} is recommended on {rows} rows held back; fewer than {WEAK_ROWS} make this weak."]
    return []


def _on_tests(bank: str, chosen: str, auc: Mapping[str, float | None], rows: int) -> list[str]:
    if not rows:
        return [
            f"{bank}: it has no test rows, so that nothing says how its models do on rows they were not trained on."
        ]
    known = {name: value for name in OWN if (value := auc.get(name)) is not None}
    if not known:
        return [f"{bank}: its test rows are all good or all bad, so that its models have no AUC."]
    lines, best = [], max(known, key=lambda name: (known[name], name == chosen))
    if chosen in known and known[best] - known[chosen] > MARGIN:
        lines.append(
            f"{bank}: on test rows {best} is better than the recommended {chosen} by {known[best] - known[chosen]:.4f} of AUC; "
            "the rows held back did not show it."
        )
    if worse := [name for name, value in auc.items() if value is not None and value < 0.5]:
        lines.append(
            f"{bank}: test rows are ranked worse than chance (AUC below 0.5) by {', '.join(worse)}, whatever the KS."
        )
    return lines


def still_falling(curve: Curve) -> list[str]:
    """Return the hint that more rounds may help, where the loss of the last round that stands was still falling."""
    for key in ("validation_loss_micro", "train_loss_micro"):
        found = [(one["round"], one[key]) for one in curve if one.get("accepted", True) and one.get(key)]
        if len(found) < 2:
            continue
        (before, was), (last, now) = found[-2:]
        fall = (was - now) / was
        if last == before + 1 and fall >= STILL_FALLING:
            return [f"The loss still fell by {100 * fall:.1f} % in the last round: more --rounds may help."]
        return []
    return []


def privacy_figures(terms: Mapping[str, Any], leaves: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return what differential privacy a run had, from each bank's privacy leaf; None without any."""
    if not terms["epsilon_thousandths"]:
        return None
    return {
        "epsilon": terms["epsilon_thousandths"] / 1000, "delta_exponent": terms["delta_exponent"],
        "unit": terms["privacy_unit"], "clip": terms["clip_thousandths"] / 1000,
        "noise": {bank: leaf["noise_thousandths"] / 1000 for bank, leaf in leaves.items()},
        "epsilon_left": {bank: leaf["left_thousandths"] / 1000 for bank, leaf in leaves.items()},
    }  # fmt: skip


def privacy_sentence(privacy: Mapping[str, Any] | None) -> str:
    """Return the words beside the first table of results, "" where a run had no differential privacy."""
    if privacy is None:
        return ""
    return (
        f"ε = {privacy['epsilon']:g} per {privacy['unit']} at each bank, δ = 1e-{privacy['delta_exponent']}, "
        f"noise σ = {_each(privacy['noise'])}, budget left ε = {_each(privacy['epsilon_left'])}. "
        "The federated network is trained with this noise; the personalised one begins with it and goes on without noise on "
        "rows of its own bank, where it stays; local and pooled are without noise."
    )


def _each(values: Mapping[str, float]) -> str:
    """Return one number where all banks have the same, else each bank's."""
    if len(set(values.values())) == 1:
        return f"{next(iter(values.values())):g}"
    return ", ".join(f"{value:g} ({bank})" for bank, value in values.items())
