"""A bank's side of boosted trees: its own ensemble, a tree a round, and the sides of its cuts for the firms it may score.

See `bank_run` for what every model shares, `federation/boosting` for what is said. The ensemble is this bank's alone:
nothing is summed over banks. A row whose consent has ended, here or at the platform, is in no later tree.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lianxin.federation import apps, boosting, boosting_delivery, evaluation, scorecard
from lianxin.federation.binning import Work
from lianxin.federation.boosting_ensemble import Ensemble, Flags, Importance, TreeColumns
from lianxin.federation.boosting_growth import Growth, TreeTerms, grow_alone
from lianxin.federation.channel import Link
from lianxin.federation.contract import RunContract
from lianxin.federation.errors import GateRefused, PeerError
from lianxin.parties.bank_evaluation import EVIDENCE, Evidence, tree_evidence
from lianxin.parties.bank_run import BankRun
from lianxin.parties.node import Node
from lianxin.parties.records import LoanTable
from lianxin.parties.replies import Reply
from lianxin.parties.tree_columns import feature_records, tree_columns


class BankTrees(BankRun):
    """A bank's side of one run of boosted trees."""

    def __init__(self, node: Node, contract: RunContract, table: LoanTable, link: Link) -> None:
        super().__init__(node, contract, table, link)
        self.trees: boosting.BankTrees | None = None
        self.left: dict[int, int] = {}
        self._tree = 0
        self._is_grown = False

    def _work(self) -> Work:
        layouts, drbg = scorecard.plan_layouts(self.contract), self.drbg.child("vertical")
        return Work(self.contract, layouts, self.node.party, drbg, self.rights, self.node.executor)

    # ---- query.count

    def count(self, texts: apps.Texts) -> Reply:
        """Exchange the training key for the shapes of the platform's columns; label counts are not asked for."""
        self._once("count")
        released = self._release(self.training, "boosting.open")
        if len(released.firms) != len(self.training):
            raise GateRefused("consents ended between matching and training; launch the run again", "R04")
        self._fit_specs(released)
        self.rights = (released.provenance,)
        shapes = self._talk(boosting.bank_open_role(self._work(), self._key()), f"vertical/{self.node.party}/binning")
        own = tree_columns(self.specs, self.table.columns, self.training)
        growth = Growth(TreeTerms.of(self.contract), self._labels(), own, shapes, self.drbg.child("growth"))
        self.trees = boosting.BankTrees(growth)
        self._key().pool.planned = self._planned()
        self.rights = ()
        self.node.say("counted")
        return {}, {}, {}

    def _planned(self) -> int:
        """Return how many encryptions all trees take: a row a tree, with hidden nodes a row a level."""
        passes = self.contract.trees * (self.contract.depth if self.contract.nodes == "hidden" else 1)
        return len(self.training) * passes * self.contract.row_sample_permille // 1000

    def _labels(self) -> list[int]:
        return [self.table.labels[row] for row in self.training]

    # ---- train

    def train(self, round_number: int, numbers: apps.Numbers, texts: apps.Texts) -> Reply:
        """Grow the next tree with the platform; say whether it was the last."""
        trees, keys = self._ready(), self._key()
        if round_number != self._tree + 1 or self._is_grown:
            raise PeerError(f"tree {round_number} was asked for after tree {self._tree}", "S05")
        self._tree = round_number
        self.node.take_revocations(round_number)
        live = self._live(round_number)
        turn = boosting.BankTreeTurn(self._work(), keys, trees, live)
        conversation = f"vertical/{self.node.party}/tree/{round_number}"
        outcome = self._talk(boosting.bank_tree_role(turn), conversation, round_number)
        for place in np.flatnonzero(~outcome.active).tolist():
            self.left.setdefault(place, round_number)
        self._is_grown = outcome.grown.stop
        self.node.say(f"tree {round_number} {int(outcome.active.sum())}")
        return {}, {"stopped": int(outcome.grown.stop)}, {}

    def _ready(self) -> boosting.BankTrees:
        if self.trees is None:
            raise PeerError("a tree was asked for before keys were exchanged", "S05")
        return self.trees

    def _live(self, tree: int) -> Flags:
        """Return which training rows may be in this tree, after the gate let their labels and their sums go."""
        released = self._release(self.training, "boosting.gradients", tree)
        firms, live = [self.table.identifiers[row] for row in self.training], set(released.firms)
        flags = np.array([firm in live for firm in firms], dtype=np.bool_) & self._ready().growth.active
        kept = [(firm, label) for firm, label in zip(firms, self._labels(), strict=True) if firm in live]
        right = self._aggregate("boosting.split", [f for f, _ in kept], [y for _, y in kept], tree, False)
        self.rights = (released.provenance, right)
        return flags

    # ---- evaluate

    def evaluate(self, numbers: apps.Numbers) -> Reply:
        """Receive the sides of the model's cuts, keep the model, and compare on held-out rows."""
        ensemble = self._ready().growth.ensemble()
        cuts, last = len(ensemble.platform_cuts), self._work()
        role = boosting_delivery.bank_cut_bits_role(last, cuts, len(self.firms))
        firms, sides = self._talk(role, f"vertical/{self.node.party}/scoring")
        self.result = self._compare(ensemble, {self.firms[firm]: place for place, firm in enumerate(firms)}, sides)
        self.finished = True
        return {}, self._metrics(), {}

    def _compare(self, ensemble: Ensemble, place: Mapping[str, int], sides: Flags) -> dict[str, Any]:
        """Return held-out scores; `sides[place[firm]]` are a firm's, of each cut."""
        firms, split = self.table.identifiers, self.table.split
        rows = [row for row, firm in enumerate(firms) if split[row] == "test" and firm in place]
        own = tree_columns(self.specs, self.table.columns, rows)
        bits = sides[[place[firms[row]] for row in rows]]
        alone = self._alone()
        return {
            "labels": [self.table.labels[row] for row in rows],
            "joint": ensemble.predict(own, bits).tolist(),
            "bank_only": alone.predict(own, np.zeros((len(rows), 0), dtype=np.bool_)).tolist(),
            "test_rows": rows, "subjects": [self.node.boundary.subject_key(firms[row]) for row in rows],
            "ensemble": ensemble, "alone": alone,
            EVIDENCE: self._evidence(ensemble, alone, place, sides, own, bits),
        }  # fmt: skip

    def _evidence(
        self, ensemble: Ensemble, alone: Ensemble, place: Mapping[str, int], sides: Flags, own: TreeColumns, bits: Flags
    ) -> Evidence:
        """Return what the evaluation needs beyond the held-out scores."""
        firms = self.table.identifiers
        rows = [row for row in self.training if firms[row] in place]
        trained = tree_columns(self.specs, self.table.columns, rows)
        train = {
            "joint": ensemble.predict(trained, sides[[place[firms[row]] for row in rows]]).tolist(),
            "bank_only": alone.predict(trained, np.zeros((len(rows), 0), dtype=np.bool_)).tolist(),
        }
        return tree_evidence(
            rows, train, ensemble, own, bits, list(self.specs), self.contract.platform, self.node.party
        )

    def _alone(self) -> Ensemble:
        """Return the ensemble of the own features at the same settings, grown here in clear."""
        own = tree_columns(self.specs, self.table.columns, self.training)
        return grow_alone(TreeTerms.of(self.contract), self._labels(), own, self.drbg.child("growth-alone"))

    def _metrics(self) -> apps.Numbers:
        """Return held-out figures where the output gate lets them go; none where rows or labels are too few."""
        labels = self.result["labels"]
        firms = [self.table.identifiers[row] for row in self.result["test_rows"]]
        try:
            right = self._aggregate("evaluation", firms, labels, self.contract.trees + 1)
        except GateRefused:
            self.rights = ()
            return {}
        self.rights = (right,)
        figures: apps.Numbers = {"test_rows": len(labels)}
        for model in ("bank_only", "joint"):
            area, distance = evaluation.auc(labels, self.result[model]), evaluation.ks(labels, self.result[model])
            if area is not None and distance is not None:
                figures[f"auc_{model}"] = round(area * 10**6)
                figures[f"ks_{model}"] = round(distance * 10**6)
        return figures

    def model_record(self) -> dict[str, Any]:
        """See `BankRun.model_record`; docs/records.md, "tree models"."""
        ensemble: Ensemble = self.result["ensemble"]
        shapes = self._ready().growth.platform
        return {
            "type": "bank-trees", "version": 1, "run": self.contract.run, "features": feature_records(self.specs),
            "platform_features": [list(pair) for pair in zip(shapes.bins, shapes.kinds, strict=True)],
            "ensemble": ensemble.to_record(), "bank_only": self.result["alone"].to_record(),
            "importance": _importance(ensemble.importance(len(shapes.bins), len(self.specs))),
            "training_rows": list(self.training), "test_rows": list(self.result["test_rows"]),
            "left": [[place, tree] for place, tree in sorted(self.left.items())],
        }  # fmt: skip


def _importance(found: Importance) -> dict[str, Any]:
    """Return gain and number of cuts by feature position, the platform's features named by their places alone."""
    pairs: dict[str, tuple[Sequence[int], Sequence[int]]] = {
        "platform": (found.platform_gain_micro, found.platform_cuts), "own": (found.own_gain_micro, found.own_cuts),
    }  # fmt: skip
    return {side: {"gain_micro": list(gains), "cuts": list(cuts)} for side, (gains, cuts) in pairs.items()}
