"""A bank's side of a joint scorecard: label counts, rounds of gradient steps, the refit on the platform's sub-scores.

See `bank_run` for what every model shares.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from lianxin.federation import apps, binning, regression, rounds, scorecard
from lianxin.federation.binning import BankKeys, Columns, Work
from lianxin.federation.channel import Link
from lianxin.federation.contract import RunContract
from lianxin.federation.errors import GateRefused, PeerError
from lianxin.federation.model import Released
from lianxin.federation.monotone import Order
from lianxin.federation.screening import minima_of
from lianxin.federation.secure_sum_request import KEYS, SUM, SUMMAND, SumRequest, array_of, text_of
from lianxin.federation.selection import PRODUCTS, bank_selection_role, columns_a_row
from lianxin.federation.star import COUNT_BITS, BankStar, FeatureTable, OwnScreen, chosen, screen_own
from lianxin.parties.bank_evaluation import EVIDENCE, Evidence, linear_evidence
from lianxin.parties.bank_run import BankRun
from lianxin.parties.bin_notes import against_data, left_out_because, merge_notes
from lianxin.parties.node import Node
from lianxin.parties.records import LoanTable
from lianxin.parties.replies import Reply
from lianxin.parties.scorecard_card import Card
from lianxin.parties.scorecard_refit import Fitted, Refit, Rows, chances_of
from lianxin.parties.sums_kept import bank_mod


class BankScorecard(BankRun):
    """A bank's side of one scorecard run."""

    def __init__(self, node: Node, contract: RunContract, table: LoanTable, link: Link) -> None:
        super().__init__(node, contract, table, link)
        self.star: BankStar | None = None
        self.tables: dict[str, FeatureTable] = {}
        self._round = 0
        self._active: list[bool] = []
        self._banks_left = list(contract.banks)

    def client_app(self) -> Any:
        """See `BankSide.client_app`: counts and gradients of several banks leave under the masks of a secret sum."""
        if len(self.contract.banks) == 1:
            return super().client_app()
        return apps.make_client_app(self, [self._begin_sum, bank_mod(self.node, self.contract, self.drbg)])

    def _begin_sum(self, message: Any, context: Any, call_next: Any) -> Any:
        """Let no release of the round before stand behind what a new sum begins with: keys and shares need none."""
        if message.metadata.message_type == KEYS:
            self.rights = ()
        return call_next(message, context)

    def _work(self) -> Work:
        layouts = scorecard.plan_layouts(self.contract)
        return Work(
            self.contract, layouts, self.node.party, self.drbg.child("vertical"), self.rights, self.node.executor
        )

    # ---- query.count

    def count(self, texts: apps.Texts) -> Reply:
        """Count labels in the platform's bins, prepare the masks of all attempts, return the counts to be added."""
        self._once("count")
        if len(self._banks(texts, COUNT_BITS)) < len(self.contract.banks):
            raise PeerError("counts are added over all of the contract's banks, and some were left out", "L04")
        released = self._release(self.training, "binning.count")
        if len(released.firms) != len(self.training):
            raise GateRefused("consents ended between matching and counting; launch the run again", "R04")
        self.rights = (released.provenance,)
        star = self._fit_own(released)
        keys = self._key()
        work, labels = self._work(), star.labels
        keys.pool.planned = len(labels) * (1 + 2 * self.contract.rounds + columns_a_row(self.contract, self.node.party))
        counts, star.corrections = self._count_and_masks(work, keys, labels, star)
        self.star = star
        flat = [v for bins in counts for v in (*(g for g, _ in bins), *(b for _, b in bins))]
        right = self._aggregate("binning.count", released.firms, labels, 0)
        self.rights = (released.provenance, right)
        self.node.say("counted", self.contract.run)
        return {SUMMAND: array_of(flat, COUNT_BITS)}, {}, {}

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
        """Fit, merge and choose the own features; a feature that goes is in `dropped` with its reason."""
        self._fit_specs(released)
        labels = list(released.columns[self.label])
        codes = tuple(spec.encode(released.columns[name]) for name, spec in self.specs.items())
        columns = Columns(codes, tuple(spec.count for spec in self.specs.values()))
        orders = {name: Order(self.node.rules.of(name).monotone, spec.ordered) for name, spec in self.specs.items()}
        screen = screen_own(self.contract, list(self.specs), columns, labels, orders)
        self.dropped += screen.dropped
        self._note_bins(released, codes, labels, orders, screen)
        self.tables = {feature.name: feature for feature in screen.kept}
        self.specs = {f.name: self.specs[f.name].merged(dict(enumerate(f.merged))) for f in screen.kept}
        return BankStar(self.contract, self.node.party, labels, screen.columns)

    def _note_bins(
        self, released: Released, codes: Sequence[Sequence[int]], labels: Sequence[int], orders: Mapping[str, Order],
        screen: OwnScreen,
    ) -> None:  # fmt: skip
        """Say what counts did to own bins, what goes against its direction, and what is left out for knowing the outcome."""
        for (name, spec), column in zip(self.specs.items(), codes, strict=True):
            goods, bads = (np.bincount(np.array(column)[np.array(labels) == y], minlength=spec.count) for y in (0, 1))
            minima = minima_of(self.contract)
            said = against_data(name, goods.tolist(), bads.tolist(), minima, orders[name])
            self.notes += [(name, note) for note in said]
        self.notes += [(one.name, note) for one in screen.kept for note in merge_notes(one.merged, orders[one.name])]
        values = released.columns
        self.dropped = [
            (n, left_out_because(why, values[n], labels) if n in values else why) for n, why in self.dropped
        ]

    # ---- query.select

    def select(self) -> Reply:
        """Find with the platform which columns of the two repeat one another; own ones that go are dropped here."""
        self._once("select")
        star, keys = self._ready()
        released = self._release(self.training, PRODUCTS)
        if len(released.firms) != len(self.training):
            raise GateRefused("consents ended between counting and selection; launch the run again", "R04")
        right = self._aggregate(PRODUCTS, released.firms, star.labels, 0)
        self.rights = (released.provenance, right)
        own, limit = chosen(star.own, range(len(star.own.bins) - 1)), self.contract.max_vif_hundredths
        role = bank_selection_role(self._work(), keys, own, len(star.labels), limit)
        found = self._talk(role, f"vertical/{self.node.party}/selection")
        names = list(self.specs)
        for place in found.own_dropped:
            reason = (
                f"its variance inflation is {found.own_inflations[place]:.2f}, above the contract's {limit / 100:.2f}"
            )
            self.dropped.append((names[place], reason))
            del self.specs[names[place]]
        star.drop(found.own_dropped)
        self.rights = ()
        self.node.say(f"selection dropped {len(found.own_dropped)}", self.contract.run)
        return {}, {}, {}

    # ---- train

    def train(self, round_number: int, numbers: apps.Numbers, texts: apps.Texts) -> Reply:
        """Run one round with the platform; return the gradient's sums, masked by the platform, to be added over the banks."""
        star, keys = self._ready()
        is_rerun, before = round_number == self._round, len(self._banks_left)
        rose = self._settle(round_number, numbers)
        self.node.take_revocations(round_number, self.contract.run)
        attempt, banks = apps.number(numbers, "attempt"), self._banks(texts, star.layouts.width_bits)
        self._check_rerun(is_rerun, len(banks), before)
        released = self._release(self.training, "round.residuals", round_number)
        live = self._usable(released)
        flags = [self.table.identifiers[row] in live for row in self.training]
        if self._active:  # a row that was left out takes part no more: a platform cannot pick a batch anew each round
            flags = [flag and active for flag, active in zip(flags, self._active, strict=True)]
        labels = [label for label, flag in zip(star.labels, flags, strict=True) if flag]
        firms = [self.table.identifiers[row] for row, flag in zip(self.training, flags, strict=True) if flag]
        self.rights = (released.provenance, self._aggregate("round.range", firms, labels, round_number, False))
        turn = rounds.BankTurn(
            self._work(), attempt, keys, star.own, star.labels, star.scores(), flags, star.attempt_corrections(attempt)
        )
        conversation = f"vertical/{self.node.party}/round/{round_number}/{attempt}"
        outcome = self._talk(rounds.bank_round_role(turn), conversation, round_number)
        star.pending, self._active = (outcome.gradient, outcome.active, outcome.bends), outcome.active
        self.node.say(f"round {round_number} {sum(outcome.active)}", self.contract.run)
        return {SUMMAND: array_of(outcome.totals, star.layouts.width_bits)}, {"rose": int(rose)}, {}

    def _banks(self, texts: apps.Texts, width: int) -> list[str]:
        """Return the banks over which a value is added.

        Raises PeerError (L04) where several banks' values are asked for without a sum, or of a set of banks that the
        contract does not go on with, (SS01) for another ring: one that totals do not wrap in tells more than the sum.
        """
        if len(self.contract.banks) == 1:
            return list(self.contract.banks)
        request = SumRequest.from_text(text_of(texts, SUM))
        banks = list(request.banks)
        if request.width != width:
            raise PeerError("a sum was asked for in another ring than the contract's", "SS01")
        known = self.node.party in banks and set(banks) <= set(self._banks_left) and banks == sorted(set(banks))
        if not known or len(banks) < max(2, self.contract.min_banks):
            raise PeerError("a round names no proper set of this contract's banks", "L04")
        if len(banks) < len(self._banks_left) and self.contract.on_loss != "rerun":
            raise PeerError("a round leaves banks out, and the contract says that the run stops then", "L04")
        self._banks_left = banks
        return banks

    @staticmethod
    def _check_rerun(is_rerun: bool, banks: int, before: int) -> None:
        """Raise PeerError (L04) for a round that is run again with all of its banks: of two sums of the same banks at one
        model, one without a row, the difference is that row's residual. A lost bank's sum hides it."""
        if is_rerun and banks == before:
            raise PeerError("a round was asked for a second time although no bank was lost", "L04")

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
        work = Refit(self.contract, self.node.party, self.specs, self._woe())
        scored_rows, training = self._rows_of(refit, points), self._rows_of(self.training)
        held_out = self._rows_of(test, points)
        fitted = work.fit(scored_rows, training)
        alone = Rows(held_out.bins, held_out.labels)
        made = work.card(fitted, scored_rows, training, held_out, self._texts())
        card = replace(made, platform_reasons=tuple(one for one in made.platform_reasons if self._may_count(one.field)))
        assert card.bank_only is not None
        return {
            "joint_pd": chances_of(card.joint, held_out), "bank_only_pd": chances_of(card.bank_only, alone),
            "labels": list(held_out.labels),
            "joint": regression.predict(fitted.joint, work.design(held_out)).tolist() if test else [],
            "bank_only": regression.predict(fitted.bank_only, work.design(alone)).tolist() if test else [],
            "test_rows": test, "subjects": [self.node.boundary.subject_key(self.table.identifiers[r]) for r in test],
            "refit_rows": refit, "training_rows": self.training,
            "active": list(self._active),
            "refit_coefficients": fitted.joint.tolist(),
            "wrong_sign": dict(work.wrong_sign),
            "card": card.to_record(),
            EVIDENCE: self._evidence(work, fitted, card, refit, scored_rows, held_out),
        }  # fmt: skip

    def _evidence(
        self, work: Refit, fitted: Fitted, card: Card, refit: Sequence[int], scored: Rows, held_out: Rows
    ) -> Evidence:
        """Return what the evaluation needs beyond the held-out scores."""
        alone = Rows(scored.bins, scored.labels)
        assert card.bank_only is not None
        chances = {"joint": chances_of(card.joint, scored), "bank_only": chances_of(card.bank_only, alone)}
        train = {
            "joint": regression.predict(fitted.joint, work.design(scored)).tolist(),
            "bank_only": regression.predict(fitted.bank_only, work.design(alone)).tolist(),
        }
        design = work.design(held_out)
        return linear_evidence(
            refit, train, fitted.joint, design, list(self.specs), self.contract.platform, self.node.party, chances
        )

    def _woe(self) -> list[tuple[int, ...]]:
        assert self.star is not None
        return list(self.star.woe)

    def _rows_of(self, rows: Sequence[int], points: Mapping[int, int] | None = None) -> Rows:
        """Return rows of the table in the own features' bins, with the sub-scores of `points` by shared row, if any."""
        place = {firm: row for row, firm in enumerate(self.firms)}
        bins = [spec.encode([self.table.columns[n][row] for row in rows]) for n, spec in self.specs.items()]
        given = None if points is None else [points[place[self.table.identifiers[row]]] for row in rows]
        return Rows(bins, [self.table.labels[row] for row in rows], given)

    def _texts(self) -> dict[str, dict[str, str]]:
        """Return the plain words of fields, as far as this bank's own catalogue has any."""
        words = {entry.id: entry.name_zh for entry in self.node.catalogue.values()}
        return dict.fromkeys((self.node.party, self.contract.platform), words)

    def _may_count(self, name: str) -> bool:
        """Return whether a field of the platform may be a feature at all: one that law or catalogue bars has no code here."""
        entry = self.node.catalogue.get(name)
        return entry is None or not (entry.class_ == "BAN" or entry.default_release == "NEVER")

    def model_record(self) -> dict[str, Any]:
        """Return the bank's model of this run, for its own state folder."""
        star, _ = self._ready()
        return {
            "type": "bank-model", "version": 2, "run": self.contract.run,
            "features": [
                {"field": name, "bins": spec.to_record(), "woe": list(woe), "goods": list(self.tables[name].goods),
                 "bads": list(self.tables[name].bads),
                 "iv_micro": round(self.tables[name].information_value * 10**6)}
                for (name, spec), woe in zip(self.specs.items(), star.woe, strict=True)
            ],
            "dropped": [{"field": name, "reason": reason} for name, reason in self.dropped],
            "notes": [{"field": name, "note": note} for name, note in self.notes],
            "wrong_sign": self.result["wrong_sign"],
            "weights": [round(w * 2**24) for w in star.descent.weights],
            "refit_micro": [round(v * 10**6) for v in self.result["refit_coefficients"]],
            "gradient_norms_milli": [round(v * 1000) for v in star.gradient_norms],
            "training_rows": list(self.result["training_rows"]), "test_rows": list(self.result["test_rows"]),
            "refit_rows": list(self.result["refit_rows"]), "active": self.result["active"],
            "card": self.result["card"],
        }  # fmt: skip
