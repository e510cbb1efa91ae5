"""Boosted trees in clear beside a finished run: each bank's own ensemble, grown again on the joined table.

The same algorithm on the same rows, bins, quantised gradients and draws; only the encryption is left out, so its AUC
(`auc_clear`, `pooled`) is the joint one to the last digit. A row whose consent ended leaves from the same tree on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lianxin.crypto.randomness import Drbg, derive_seed
from lianxin.federation import evaluation
from lianxin.federation.boosting_ensemble import Ensemble, Flags, TreeColumns
from lianxin.federation.boosting_growth import Growth, TreeTerms, grow
from lianxin.federation.boosting_rows import number_firms
from lianxin.federation.contract import RunContract
from lianxin.parties.node import simulated_seed
from lianxin.parties.records import FirmTable, LoanTable
from lianxin.parties.tree_columns import specs_of, tree_columns
from lianxin.simulations.clear_trees import ClearPlatform, predict_clear
from lianxin.simulations.pooled import Figures, PooledResult, with_overall


@dataclass(frozen=True)
class TreeRun:
    """What one bank's ensemble is grown again from: both models as the nodes kept them, both tables, the run's seed."""

    contract: RunContract
    bank: str
    seed: int
    platform_model: Mapping[str, Any]
    bank_model: Mapping[str, Any]
    firms: FirmTable
    loans: LoanTable

    def columns(self, rows: Sequence[int]) -> tuple[TreeColumns, TreeColumns]:
        """Return these loans in the platform's bins and in the bank's own."""
        row_of = {firm: row for row, firm in enumerate(self.firms.identifiers)}
        places = [row_of[self.loans.identifiers[row]] for row in rows]
        platform = tree_columns(specs_of(self.platform_model["features"]), self.firms.columns, places)
        return platform, tree_columns(specs_of(self.bank_model["features"]), self.loans.columns, rows)

    def labels(self, rows: Sequence[int]) -> list[int]:
        """Return these loans' labels."""
        return [self.loans.labels[row] for row in rows]


class _Withdrawing(Growth):
    """Growth whose rows leave as they left in the run: `left[place]` is the first tree, from 1, without that row."""

    left: Mapping[int, int] = {}

    def tree(self, live: Flags | None = None, may_grow: bool = True) -> Any:
        number = len(self.losses) + 1
        return super().tree(np.array([self.left.get(row, number + 1) > number for row in range(self.own.rows)]))


def grown_in_clear(run: TreeRun) -> Ensemble:
    """Return the ensemble that the bank would have grown on the joined table."""
    rows = run.bank_model["training_rows"]
    platform, own = run.columns(rows)
    drbg = Drbg(derive_seed(simulated_seed(run.seed), run.bank, run.contract.run)).child("growth")
    firms = number_firms([run.loans.identifiers[row] for row in rows])
    growth = _Withdrawing(TreeTerms.of(run.contract), run.labels(rows), own, platform.shapes, drbg, firms)
    growth.left = {place: tree for place, tree in run.bank_model["left"]}
    clear = ClearPlatform(platform)
    return grow(growth, clear.histograms, clear.sides)


def pooled_trees(runs: Sequence[TreeRun]) -> PooledResult:
    """Return each bank's ensemble in clear on its test rows, as the reference `pooled`; there is none over all banks."""
    labels, predictions = dict[str, Any](), dict[str, Any]()
    for run in runs:
        rows = run.bank_model["test_rows"]
        labels[run.bank] = np.array(run.labels(rows), dtype=np.int64)
        predictions[run.bank] = predict_clear(grown_in_clear(run), *run.columns(rows))
    everything, scores = with_overall(labels), with_overall(predictions)
    auc = {level: evaluation.auc(everything[level], scores[level]) for level in everything}
    ks = {level: evaluation.ks(everything[level], scores[level]) for level in everything}
    return PooledResult(Figures(auc, ks, scores), None, everything, ())


def tree_figures(models: Mapping[str, Mapping[str, Any]], events: Sequence[tuple[float, str]]) -> dict[str, Any]:
    """Return `trees` {bank: kept, grown, cuts} and `seconds_per_tree`, a tree of all banks, of a run's notes."""
    marks = {note: at for at, note in events if note.startswith(("begin round ", "end round "))}
    numbers = [note.split()[-1] for note in marks if note.startswith("end ")]
    seconds = [marks[f"end round {n}"] - marks[f"begin round {n}"] for n in numbers]
    trees = {
        bank: {"kept": len(model["ensemble"]["trees"]), "grown": model["ensemble"]["grown"],
               "platform_cuts": len(model["ensemble"]["platform_cuts"]), "own_cuts": len(model["ensemble"]["own_cuts"])}
        for bank, model in models.items()
    }  # fmt: skip
    return {"trees": trees, "seconds_per_tree": round(sum(seconds) / len(seconds), 3) if seconds else None}


def importance_of(
    platform_model: Mapping[str, Any], models: Mapping[str, Mapping[str, Any]], platform: str
) -> list[dict[str, Any]]:
    """Return each feature's share of its bank's gain and its number of cuts, by bank, the largest share first.

    Only a simulation knows the platform's fields behind the places that a bank's importance names.
    """
    entries: list[dict[str, Any]] = []
    for bank, model in models.items():
        named = {
            (platform, "platform"): [entry["field"] for entry in platform_model["features"]],
            (bank, "own"): [entry["field"] for entry in model["features"]],
        }
        found = model["importance"]
        total = max(1, sum(sum(side["gain_micro"]) for side in found.values()))
        entries += [
            {"bank": bank, "party": party, "field": field, "cuts": cuts, "share": gain / total}
            for (party, side), fields in named.items()
            for field, gain, cuts in zip(fields, found[side]["gain_micro"], found[side]["cuts"], strict=True)
        ]
    return sorted(entries, key=lambda e: (e["bank"], -e["share"], e["field"]))
