"""A bank's side of boosted trees: its own ensemble, a tree a round, and the sides of its cuts for the firms it may score.

See `bank_run` for what every model shares, `federation/boosting` for what is said. The ensemble is this bank's alone:
nothing is summed over banks. A row whose consent has ended, here or at the platform, is in no later tree. Where too few
are left for a tree, or its labels too few for the gate, the ensemble stays as it is.

With nodes shown, the rows of nodes tell the platform on which side of this bank's own cuts each row lies: its own features
are released in mode SPLITS then, from the training rows on, and those that the gate refuses are left out. The label
is computed on in either case.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from lianxin.federation import apps, boosting, boosting_delivery, scorecard
from lianxin.federation.binning import Work
from lianxin.federation.boosting_ensemble import Ensemble, Flags, Importance, TreeColumns, probabilities
from lianxin.federation.boosting_growth import Growth, TreeTerms, grow_alone
from lianxin.federation.boosting_rows import number_firms
from lianxin.federation.channel import Link
from lianxin.federation.contract import RunContract
from lianxin.federation.errors import GateRefused, PeerError, RunStopped
from lianxin.federation.model import Provenance, Released
from lianxin.parties.bank_evaluation import EVIDENCE, tree_evidence
from lianxin.parties.bank_run import BankRun
from lianxin.parties.decision import SPLITS
from lianxin.parties.node import Node
from lianxin.parties.records import LoanTable
from lianxin.parties.replies import Reply
from lianxin.parties.score_trees import service_record
from lianxin.parties.tree_columns import feature_records, tree_columns
from lianxin.parties.withheld import NO_CELLS

_TOO_FEW = ("OUT-ROWS", "OUT-BADS")


class BankTrees(BankRun):
    """A bank's side of one run of boosted trees."""

    def __init__(self, node: Node, contract: RunContract, table: LoanTable, link: Link) -> None:
        super().__init__(node, contract, table, link)
        self.trees: boosting.BankTrees | None = None
        self.left: dict[int, int] = {}
        self.refused: list[tuple[str, str]] = []
        self._is_shown = contract.nodes == "shown"
        self._active: Flags = np.ones(0, dtype=np.bool_)
        self._right: Provenance | None = None
        self._tree = 0
        self._is_grown = False

    def _work(self) -> Work:
        layouts, drbg = scorecard.plan_layouts(self.contract), self.drbg.child("vertical")
        return Work(self.contract, layouts, self.node.party, drbg, self.rights, self.node.executor)

    # ---- releases

    def _showable(self, rows: list[int]) -> list[int]:
        """See `BankRun._showable`: with shown nodes, rows whose firms let the sides of the own features' cuts be told."""
        if not self._is_shown:
            return rows
        asked = list(self.features)
        try:
            released = self._release(rows, "binning.rows", mode=SPLITS, fields=asked)
        except GateRefused as refusal:  # no feature may be shown; the platform's sides of the rows still are
            self.refused = [(name, refusal.rule) for name in asked]
            released = self._release(rows, "binning.rows", mode=SPLITS, fields=[])
        rules = dict(self.node.boundary.refusals(self.contract.run))
        self.features = [name for name in asked if name in released.columns]
        known = {name for name, _ in self.refused}
        self.refused += [(name, rules.get(name, "R39")) for name in asked if name not in {*self.features, *known}]
        live = set(released.firms)
        return [row for row in rows if self.table.identifiers[row] in live]

    def _released(self, step: str, shown_step: str, tree: int = 0) -> tuple[tuple[Released, ...], set[str]]:
        """Return the releases of the training rows behind a tree, and the firms that are in all of them."""
        if not self._is_shown:
            releases: tuple[Released, ...] = (self._release(self.training, step, tree),)
        else:
            label = self._release(self.training, step, tree, fields=[self.label])
            names = [name for name in self.features if not self.specs or name in self.specs]
            releases = (label, self._release(self.training, shown_step, tree, SPLITS, names))
        return releases, set.intersection(*(self._usable(released) for released in releases))

    # ---- query.count

    def count(self, texts: apps.Texts) -> Reply:
        """Exchange the training key for the shapes of the platform's columns; label counts are not asked for."""
        self._once("count")
        releases, _ = self._released("boosting.open", "boosting.open")
        if any(len(released.firms) != len(self.training) for released in releases):
            raise GateRefused("consents ended between matching and training; launch the run again", "R04")
        self._fit_specs(releases[-1])
        self._withheld = NO_CELLS.union(*(self._kept_back(released) for released in releases))
        self.rights = tuple(released.provenance for released in releases)
        shapes = self._talk(boosting.bank_open_role(self._work(), self._key()), f"vertical/{self.node.party}/binning")
        own = tree_columns(self.specs, releases[-1].columns, range(len(self.training)))
        drbg = self.drbg.child("growth")
        firms = number_firms([self.table.identifiers[row] for row in self.training])
        growth = Growth(TreeTerms.of(self.contract), self._labels(), own, shapes, drbg, firms)
        self._active = growth.active.copy()
        self.trees = boosting.BankTrees(growth)
        self._key().pool.planned = self._planned()
        self.rights = ()
        self.node.say("counted", self.contract.run)
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
        self.node.take_revocations(round_number, self.contract.run)
        live = self._live(round_number)
        turn = boosting.BankTreeTurn(self._work(), keys, trees, live, partial(self._admit, round_number))
        conversation = f"vertical/{self.node.party}/tree/{round_number}"
        outcome = self._talk(boosting.bank_tree_role(turn), conversation, round_number)
        self._active = outcome.active
        for place in np.flatnonzero(~outcome.active).tolist():
            self.left.setdefault(place, round_number)
        self._is_grown = outcome.grown.stop
        if not trees.growth.trees or self._right is None:
            raise RunStopped(
                f"too few rows or labels of {self.node.party} take part for a first tree; see its ledger for the rule, "
                "and give it more loans"
            )
        self.rights = (*self.rights, self._right)
        self.node.say(f"tree {round_number} {int(outcome.active.sum())}", self.contract.run)
        return {}, {"stopped": int(outcome.grown.stop)}, {}

    def _ready(self) -> boosting.BankTrees:
        if self.trees is None:
            raise PeerError("a tree was asked for before keys were exchanged", "S05")
        return self.trees

    def _live(self, tree: int) -> Flags:
        """Return which training rows may be in this tree, as far as this side knows, after the gate let them go."""
        releases, live = self._released("boosting.gradients", "boosting.histogram", tree)
        self.rights = tuple(released.provenance for released in releases)
        flags = np.array([self.table.identifiers[row] in live for row in self.training], dtype=np.bool_)
        return flags & self._active

    def _admit(self, tree: int, active: Flags) -> tuple[Provenance, ...] | None:
        """Return the rights of a tree over the rows that take part at both sides; None where they are too few for one."""
        rows = [self.training[place] for place in np.flatnonzero(active)]
        labels = [self.table.labels[row] for row in rows]
        try:
            self._right = self._aggregate(
                "boosting.split", [self.table.identifiers[r] for r in rows], labels, tree, False
            )
        except GateRefused as refusal:
            if refusal.rule not in _TOO_FEW:
                raise
            return None
        return (*self.rights, self._right)

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
        alone, known = self._alone(), [row for row in self.training if firms[row] in place]
        trained = tree_columns(self.specs, self.table.columns, known)
        told = sides[[place[firms[row]] for row in known]]
        return {
            "labels": [self.table.labels[row] for row in rows],
            "joint": ensemble.predict(own, bits).tolist(),
            "bank_only": alone.predict(own, np.zeros((len(rows), 0), dtype=np.bool_)).tolist(),
            "test_rows": rows, "subjects": [self.node.boundary.subject_key(firms[row]) for row in rows],
            "ensemble": ensemble, "alone": alone,
            **self._of_training(ensemble, alone, known, trained, told, own, bits),
        }  # fmt: skip

    def _of_training(
        self, ensemble: Ensemble, alone: Ensemble, rows: Sequence[int], trained: TreeColumns, told: Flags,
        own: TreeColumns, bits: Flags,
    ) -> dict[str, Any]:  # fmt: skip
        """Return what the evaluation needs beyond the held-out scores, and what drift is compared with in service."""
        nothing = np.zeros((len(rows), 0), dtype=np.bool_)
        raw = {"joint": ensemble.raw_scores(trained, told), "bank_only": alone.raw_scores(trained, nothing)}
        train = {model: probabilities(values).tolist() for model, values in raw.items()}
        names, labels = list(self.specs), [self.table.labels[row] for row in rows]
        return {
            EVIDENCE: tree_evidence(
                rows, train, ensemble, own, bits, names, self.contract.platform, self.node.party
            ),
            "service": service_record(self.contract, trained, raw, labels),
        }  # fmt: skip

    def _alone(self) -> Ensemble:
        """Return the ensemble of the own features at the same settings, grown here in clear on the rows that did not leave."""
        own, places = self._ready().growth.own, np.flatnonzero(self._active)
        labels = [self.table.labels[self.training[place]] for place in places]
        own = TreeColumns.of(own.codes[:, places].tolist(), own.shapes.bins, own.shapes.kinds, len(places))
        return grow_alone(TreeTerms.of(self.contract), labels, own, self.drbg.child("growth-alone"))

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
            "left": [[place, tree] for place, tree in sorted(self.left.items())], **self.result["service"],
            "refused": [{"field": name, "rule": rule} for name, rule in self.refused],
        }  # fmt: skip


def _importance(found: Importance) -> dict[str, Any]:
    """Return gain and number of cuts by feature position, the platform's features named by their places alone."""
    pairs: dict[str, tuple[Sequence[int], Sequence[int]]] = {
        "platform": (found.platform_gain_micro, found.platform_cuts), "own": (found.own_gain_micro, found.own_cuts),
    }  # fmt: skip
    return {side: {"gain_micro": list(gains), "cuts": list(cuts)} for side, (gains, cuts) in pairs.items()}
