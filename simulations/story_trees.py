"""The parts of a report that a run of boosted trees has in place of rounds and weights of evidence."""

from collections.abc import Mapping
from typing import Any

from lianxin.simulations.layout import Layout
from lianxin.simulations.results import Outcome
from lianxin.simulations.results_trees import importance_of
from lianxin.simulations.runner import Ran

LIMITS = (
    "With nodes shown the platform learns which rows fall into a node together; hidden, the cuts of its features alone.",
    "A bank learns, of each firm that agreed, a bit for every distinct cut of its model: at most split_bits in a run.",
    "No sum of fewer rows than the contract's minimum is looked at, but that is the bank's own rule: only it sees the sums.",
)


def tree_parts(layout: Layout, ran: Ran, outcome: Outcome) -> dict[str, Any]:
    """Return title, trees as `rounds`, no table of weights, importance by field and party, and the limits of trees."""
    return {
        "title": "Joint boosted trees: what they bring, and what left each node",
        "rounds": _trees(ran, outcome.models),
        "woe": [],
        "importance": importance_of(outcome.platform_model, outcome.models, layout.parties[0]),
        "limits": list(LIMITS),
    }


def _trees(ran: Ran, models: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    marks = {note: at for at, note in ran.events if note.startswith(("begin round ", "end round "))}
    count = sum(note.startswith("end round ") for note in marks)
    return [_tree(number, marks, ran, models) for number in range(1, count + 1)]


def _tree(number: int, marks: Mapping[str, float], ran: Ran, models: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    live = [int(note.split()[3]) for _, note in ran.events if note.startswith(f"tree {number} ")]
    losses = {}
    for bank, model in models.items():
        for name, key in (("log-loss", "train_loss_micro"), ("validation log-loss", "validation_loss_micro")):
            values = model["ensemble"][key]
            if values:
                losses[f"{name}, {bank}"] = values[number - 1] / 10**6 if number <= len(values) else None
    return {
        "tree": number, "seconds": marks[f"end round {number}"] - marks[f"begin round {number}"], "live_rows": sum(live),
        "revoked": sum(note == f"revoked before round {number}" for _, note in ran.events), **losses,
    }  # fmt: skip
