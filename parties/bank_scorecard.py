"""A bank's side of a joint scorecard: label counts, rounds of gradient steps, the refit on the platform's sub-scores.

See `bank_run` for what every model shares.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lianxin.federation import apps, binning, evaluation, regression, rounds, scorecard
from lianxin.federation.binning import BankKeys, Columns, Work
from lianxin.federation.channel import Link
from lianxin.federation.contract import RunContract
from lianxin.federation.errors import GateRefused, PeerError, RunStopped
from lianxin.federation.model import Released
from lianxin.federation.star import COUNT_BITS, BankStar, design_of, round_label
from lianxin.parties.bank_run import BankRun
from lianxin.parties.node import Node
from lianxin.parties.records import LoanTable
from lianxin.parties.replies import Reply


class BankScorecard(BankRun):
    """A bank's side of one scorecard run."""

    def __init__(self, node: Node, contract: RunContract, table: LoanTable, link: Link) -> None:
        super().__init__(node, contract, table, link)
        self.star: BankStar | None = None
        self._round = 0
        self._active: list[bool] = []

    def _work(self) -> Work:
        layouts = scorecard.plan_layouts(self.contract)
        return Work(
            self.contract, layouts, self.node.party, self.drbg.child("vertical"), self.rights, self.node.executor
        )

    # ---- query.count

    def count(self, texts: apps.Texts) -> Reply:
        """Count labels in the platform's bins, prepare the masks of all attempts, return masked counts."""
        self._once("count")
        self.agreement.agree(self._agreement_keys(texts))
        released = self._release(self.training, "binning.count")
        if len(released.firms) != len(self.training):
            raise GateRefused("consents ended between matching and counting; launch the run again", "R04")
        self.rights = (released.provenance,)
        star = self._fit_own(released)
        keys = self._key()
        work, labels = self._work(), star.labels
        keys.pool.planned = len(labels) * (1 + 2 * self.contract.rounds)
        counts, star.corrections = self._count_and_masks(work, keys, labels, star)
        self.star = star
        flat = [v for bins in counts for v in (*(g for g, _ in bins), *(b for _, b in bins))]
        masked = self.agreement.masked(flat, "counts", self.contract.banks, COUNT_BITS)
        right = self._aggregate("binning.count", released.firms, labels, 0)
        self.rights = (released.provenance, right)
        self.node.say("counted")
        return {"masked_counts": np.array(masked, dtype=np.uint64)}, {}, {}

    def _count_and_masks(
        self, work: Work, keys: BankKeys, labels: Sequence[int], star: BankStar
    ) -> tuple[Any, list[list[int]]]:
        results = self._talk_all(
            [
                binning.bank_keys_role(work, keys),
                binning.bank_count_role(work, keys, labels),
                binning.bank_masks_role(work, keys, star.own),
            ],
            f"vertical/{self.node.party}/binning",
        )
        return results[1], results[2]

    def _fit_own(self, released: Released) -> BankStar:
        self._fit_specs(released)
        codes = tuple(spec.encode(released.columns[name]) for name, spec in self.specs.items())
        columns = Columns(codes, tuple(spec.count for spec in self.specs.values()))
        return BankStar(self.contract, self.node.party, list(released.columns[self.label]), columns)

    # ---- train

    def train(self, round_number: int, numbers: apps.Numbers, texts: apps.Texts) -> Reply:
        """Run one round with the platform; return the gradient's masked sums under the masks of this round's banks."""
        star, keys = self._ready()
        rose = self._settle(round_number, numbers)
        self.node.take_revocations(round_number)
        attempt, banks = apps.number(numbers, "attempt"), self._banks(texts)
        released = self._release(self.training, "round.residuals", round_number)
        live = set(released.firms)
        flags = [self.table.identifiers[row] in live for row in self.training]
        labels = [label for label, flag in zip(star.labels, flags, strict=True) if flag]
        firms = [self.table.identifiers[row] for row, flag in zip(self.training, flags, strict=True) if flag]
        self.rights = (released.provenance, self._aggregate("round.range", firms, labels, round_number, False))
        turn = rounds.BankTurn(
            self._work(), attempt, keys, star.own, star.labels, star.scores(), flags, star.attempt_corrections(attempt)
        )
        conversation = f"vertical/{self.node.party}/round/{round_number}/{attempt}"
        outcome = self._talk(rounds.bank_round_role(turn), conversation, round_number)
        star.pending, self._active = (outcome.gradient, outcome.active), outcome.active
        label = round_label(round_number, attempt, banks)
        masked = self.agreement.masked(outcome.totals, label, banks, star.layouts.width_bits)
        data = binning.encode_totals(masked, star.layouts)
        self.node.say(f"round {round_number} {sum(outcome.active)}")
        return {"masked_gradient": np.frombuffer(data, dtype=np.uint8)}, {"rose": int(rose)}, {}

    def _ready(self) -> tuple[BankStar, BankKeys]:
        if self.star is None or self.keys is None:
            raise PeerError("a round was asked for before labels were counted", "S05")
        return self.star, self.keys

    def _settle(self, round_number: int, numbers: apps.Numbers) -> bool:
        """Take the step of the round before, now that the platform has opened it; a rerun forgets what it replaces."""
        star, _ = self._ready()
        if round_number not in (self._round, self._round + 1):
            raise PeerError(f"round {round_number} was asked for after round {self._round}", "S05")
        is_rerun, self._round = round_number == self._round, round_number
        if is_rerun:
            star.pending = None
            return False
        rose = star.settle()
        if apps.number(numbers, "restart"):
            star.descent.restart()
        return rose

    # ---- evaluate

    def evaluate(self, numbers: apps.Numbers) -> Reply:
        """Receive the sub-scores, refit on them and the own features, and compare on held-out rows."""
        star, _ = self._ready()
        star.settle()
        if apps.number(numbers, "restart"):
            star.descent.restart()
        points = self._talk(
            rounds.bank_points_role(self._work(), len(self.firms)),
            f"vertical/{self.node.party}/scoring",
            0,
        )
        self.result = self._compare(points)
        self.finished = True
        return {}, self._metrics(), {}

    def _compare(self, points: dict[int, int]) -> dict[str, Any]:
        place = {firm: row for row, firm in enumerate(self.firms)}
        scored = [r for r, firm in enumerate(self.table.identifiers) if place.get(firm, -1) in points]
        trained = set(self.training)
        refit = [row for row in scored if row in trained]
        test = [row for row in scored if self.table.split[row] == "test"]
        if len({self.table.labels[row] for row in refit}) < 2:
            raise RunStopped(f"{self.node.party}'s rows with score consent hold one class of the label only")
        own_all, labels = self._own_design(self.training), [self.table.labels[row] for row in self.training]
        alone = regression.fit_logistic(own_all, np.array(labels), self.contract.ridge)
        pdo = self.contract.points_to_double_odds

        def joined(rows: Sequence[int]) -> np.ndarray:
            values = np.array([points[place[self.table.identifiers[row]]] for row in rows], dtype=float)
            return np.column_stack([scorecard.log_odds(values, pdo), self._own_design(rows)])

        joint = regression.fit_logistic(
            joined(refit), np.array([self.table.labels[r] for r in refit]), self.contract.ridge
        )
        return {
            "labels": [self.table.labels[row] for row in test],
            "joint": regression.predict(joint, joined(test)).tolist() if test else [],
            "bank_only": regression.predict(alone, self._own_design(test)).tolist() if test else [],
            "test_rows": test, "subjects": [self.node.boundary.subject_key(self.table.identifiers[r]) for r in test],
            "refit_rows": refit, "training_rows": self.training,
            "active": list(self._active),
            "refit_coefficients": joint.tolist(),
        }  # fmt: skip

    def _own_design(self, rows: Sequence[int]) -> np.ndarray:
        assert self.star is not None
        codes = tuple(spec.encode([self.table.columns[n][row] for row in rows]) for n, spec in self.specs.items())
        woe = tuple(self.star.woe)
        if not codes:
            return np.zeros((len(rows), 0))
        return design_of(Columns(codes, tuple(len(w) for w in woe), woe))

    def _metrics(self) -> apps.Numbers:
        """Return held-out figures where the output gate lets them go; none where rows or labels are too few."""
        labels = self.result["labels"]
        firms = [self.table.identifiers[row] for row in self.result["test_rows"]]
        try:
            right = self._aggregate("evaluation", firms, labels, self.contract.rounds + 1)
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
        """Return the bank's model of this run, for its own state folder."""
        star, _ = self._ready()
        return {
            "type": "bank-model", "version": 1, "run": self.contract.run,
            "features": [
                {"field": name, "bins": spec.to_record(), "woe": list(woe)}
                for (name, spec), woe in zip(self.specs.items(), star.woe, strict=True)
            ],
            "weights": [round(w * 2**24) for w in star.descent.weights],
            "refit_micro": [round(v * 10**6) for v in self.result["refit_coefficients"]],
            "gradient_norms_milli": [round(v * 1000) for v in star.gradient_norms],
            "training_rows": list(self.result["training_rows"]), "test_rows": list(self.result["test_rows"]),
            "refit_rows": list(self.result["refit_rows"]), "active": self.result["active"],
        }  # fmt: skip
