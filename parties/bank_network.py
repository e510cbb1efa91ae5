"""A bank's side of a network across banks: what it says of its columns, its training, its word on each round, its models.

Rows, labels and the bank's own update stay here. What goes out: lists of texts that enough rows have, and figures on
held-out rows, as aggregates that passed the output gate; everything else as a summand of a sum over the banks. The gate
is asked for the training rows anew in every round, and a firm that has withdrawn is in no later one.
"""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from lianxin.federation import apps, federated, rollback
from lianxin.federation.channel import Link
from lianxin.federation.contract import RunContract
from lianxin.federation.errors import GateRefused, PeerError, RunStopped
from lianxin.federation.model import Provenance
from lianxin.federation.network_terms import RING_BITS
from lianxin.parties import training
from lianxin.parties.bank_fields import FieldCounts, check_kinds, held_back_fault, named, told, without_rare
from lianxin.parties.bank_side import ResumableSide
from lianxin.parties.bank_weights import WeightsTaken
from lianxin.parties.network_models import Compared, NetworkRows, compare, rows_as_text, rows_from
from lianxin.parties.node import Node
from lianxin.parties.outputs import far_from_earlier, sizes_by_firm
from lianxin.parties.platform_network import STEP, initial_seed
from lianxin.parties.preparation import Preparation, categories_of, histogram_of, kind_of
from lianxin.parties.privacy import PrivacyBudget, PrivacySettings, plan_privacy, training_digest
from lianxin.parties.records import LoanTable
from lianxin.parties.replies import Reply, arrays_named
from lianxin.parties.training_shapes import Weights

_STAGES = frozenset(f"query.{kind}" for kind in federated.SUM_KINDS)


class BankNetwork(ResumableSide):
    """A bank's side of one run; its steps are called by the bank's ClientApp."""

    compared: Compared

    def __init__(self, node: Node, contract: RunContract, table: LoanTable, link: Link) -> None:
        super().__init__(node, contract, table, link)
        self.validation: list[int] = []
        self.columns: dict[str, Sequence[Any]] = dict(table.columns)
        self.preparation: Preparation | None = None
        self.privacy: PrivacySettings | None = None
        self._rows: NetworkRows | None = None
        self._round, self._live_of, self._is_chosen = 0, -1, False
        self._live: set[str] = set()
        self.taken = WeightsTaken(bool(contract.max_loss_rise_permille and contract.validation_permille))
        self._counts = FieldCounts()
        self._figures: apps.Numbers | None = None

    @property
    def models(self) -> tuple[str, ...]:  # type: ignore[override]
        """The models whose figures may be known: own ones are trained without noise and stay where privacy is asked for."""
        return ("federated",) if self.contract.epsilon_thousandths else ("local", "federated", "personalised")

    def client_app(self) -> Any:
        """See `BankSide.client_app`."""
        return federated.make_network_app(self, self._mods())

    def _mods(self) -> list[Any]:
        if self.contract.aggregation == "clear":
            return []
        from lianxin.parties.sums_kept import bank_mod

        return [bank_mod(self.node, self.contract, self.drbg)]

    def _behind(self) -> list[str]:
        return [self.label, *self.features]

    # ---- turns and releases

    def turn(self, kind: str, round_number: int) -> None:
        """Note which question comes: a release stands behind messages of its own round alone. Raises PeerError (S05)."""
        last = self.contract.rounds
        first, end = {federated.TRAIN: (1, last), federated.JUDGE: (0, last), federated.EVALUATE: (last + 1,) * 2}.get(
            kind, (0, last if kind in _STAGES else 0)
        )
        if not max(self._round, first) <= round_number <= end:
            raise PeerError(f"{kind} came for round {round_number} after round {self._round}", "S05")
        if round_number != self._round:
            self._round, self.rights = round_number, ()

    def _stand(self, right: Provenance) -> None:
        self.rights = (*(one for one in self.rights if one.release_id != right.release_id), right)

    def _ask_gate(self, round_number: int) -> set[str]:
        """Return the firms of this run's rows that may be used in a round: asked once a round, of the gate."""
        if self._live_of != round_number:
            released = self._release(self._asked_rows(), STEP, round_number)
            self.features = [name for name in self.features if name in released.columns]
            if not self._is_chosen:
                self._withheld = self._kept_back(released)
            self._live, self._live_of = self._usable(released), round_number
            self.rights = (released.provenance,)
        return self._live

    def _asked_rows(self) -> list[int]:
        return [*self.training, *self.validation]

    def _blank_withheld(self) -> None:
        """Work without the values that the gate keeps back: they are missing; what it keeps back later costs the row."""
        gone: dict[str, set[str]] = {}
        for name, firm in self._withheld:
            gone.setdefault(name, set()).add(firm)
        for name, firms in gone.items():
            known = zip(self.table.columns[name], self.table.identifiers, strict=True)
            self.columns[name] = [None if firm in firms else value for value, firm in known]

    def _statistic(self, rows: Sequence[int], step: str, round_number: int, readable: bool) -> Provenance:
        firms, labels = [self.table.identifiers[r] for r in rows], [self.table.labels[r] for r in rows]
        right = self._aggregate(step, firms, labels, round_number, readable)
        self._stand(right)
        return right

    def _of(self, rows: Sequence[int], firms: set[str]) -> list[int]:
        return [row for row in rows if self.table.identifiers[row] in firms]

    # ---- query.prepare: what may be said of the columns

    def describe(self) -> Reply:
        """Choose the rows of this run, and say each field's kind and the texts that enough firms have.

        A platform that was killed asks again: the rows are chosen once.
        """
        if not self._is_chosen:
            self._choose_rows()
            self._is_chosen = True
        live, fields = self._of(self.training, self._ask_gate(0)), []
        for name, kind in sorted(self._kinds(live).items()):
            texts = self._often(name, live) if kind == "text" else ()
            fields.append({"field": name, "kind": kind, "texts": list(texts)})
        self._statistic(live, "query.prepare", 0, readable=True)
        self.node.say(f"prepared {len(live)}", self.contract.run)
        said = {"fields": fields, "judges": self._can_judge()}
        return {}, {}, {"categories": json.dumps(said, ensure_ascii=False, separators=(",", ":"))}

    def _kinds(self, rows: Sequence[int]) -> dict[str, str]:
        return {name: kind_of([self.columns[name][row] for row in rows]) for name in self.features}

    def _often(self, name: str, rows: Sequence[int]) -> tuple[str, ...]:
        """Return the texts that enough firms of these rows have: ten loans of one firm say a text once."""
        column, firms = self.columns[name], self.table.identifiers
        values = [value for _, value in dict.fromkeys((firms[row], column[row]) for row in rows)]
        return categories_of(values, self.contract.min_rows)

    def _can_judge(self) -> bool:
        """Return whether enough rows are held back for this bank's word on rounds; say so where they are too few."""
        firms = [self.table.identifiers[row] for row in self.validation]
        labels = [self.table.labels[row] for row in self.validation]
        fault = held_back_fault(self.node.party, self.contract, sizes_by_firm(firms, labels))
        if self.taken.is_judged and fault:
            self.node.say(fault, self.contract.run)
        return self.taken.is_judged and not fault

    def _choose_rows(self) -> None:
        train = [row for row, part in enumerate(self.table.split) if part == "train"]
        self.training = train
        asked = list(self.features)
        live = self._ask_gate(0)
        self._blank_withheld()
        if missing := [name for name in asked if name not in self.features]:
            raise RunStopped(
                f"the gate of {self.node.party} refuses field {missing[0]} to this run, and a network needs every field at "
                "every bank; leave it out of the run"
            )
        fields, firms = self._behind(), self.table.identifiers
        rows = far_from_earlier(self.node.boundary, self.contract, fields, self._of(train, live), firms)
        self._check_classes(rows)
        if len(rows) > self.contract.max_rows:
            raise RunStopped(f"{self.node.party} has more training rows than the contract's {self.contract.max_rows}")
        held_back = self._held_back(rows)
        self.validation = self._of(rows, held_back)
        self.training = self._of(rows, {firms[row] for row in rows} - held_back)
        self._check_classes(self.training)

    def _held_back(self, rows: Sequence[int]) -> set[str]:
        """Return the firms whose rows judge rounds: a drawn share of those with a bad loan, and of those without."""
        bad = {self.table.identifiers[row] for row in rows if self.table.labels[row]}
        found = set[str]()
        for with_bad in (True, False):
            firms = sorted(
                {self.table.identifiers[row] for row in rows if (self.table.identifiers[row] in bad) is with_bad}
            )
            ranked = sorted(firms, key=lambda firm: self.drbg.child_seed("held-back", firm))
            found.update(ranked[: len(ranked) * self.contract.validation_permille // 1000])
        return found

    # ---- query.first, query.second: counts in the cells of a grid

    def count(self, which: str, part: int, arrays: apps.Arrays, texts: apps.Texts) -> Reply:
        """Return the counts of some numeric fields, as a summand; none once the preparation is agreed."""
        if self.preparation is not None or not self._is_chosen:
            raise PeerError("counts were asked for before the fields or after the preparation", "S05")
        live = self._of(self.training, self._ask_gate(0))
        names = named(texts.get("categories", ""), self.features)
        totals = None if which == federated.PASSES[0] else arrays_named(arrays, "preparation")
        grids = self._counts.grids(which, part, names, totals)
        self._statistic(live, f"query.{which}", 0, readable=False)
        columns = ([self.columns[name][row] for row in live] for name in names)
        counts = [histogram_of(v, grid, self.contract.min_rows) for v, grid in zip(columns, grids, strict=True)]
        return {"summand": np.concatenate(counts).astype(np.int64)}, {}, {}

    # ---- query.agree

    def agree(self, texts: apps.Texts) -> Reply:
        """Take the preparation that all banks apply, and spend what the run's differential privacy costs."""
        if not self._is_chosen:
            raise PeerError("a preparation came before the fields were asked for", "S05")
        agreed = Preparation.received(told(texts.get("preparation", "")), self.features)
        check_kinds(agreed, self._kinds(self.training))
        if self.preparation is not None and self.preparation != agreed:
            raise PeerError("a second preparation came, and it is another one", "S05")
        self._spend()
        self._prepare(agreed)
        self.node.say("counted", self.contract.run)
        return {}, {}, {}

    def _prepare(self, preparation: Preparation) -> None:
        often = {text.name: self._often(text.name, self.training) for text in preparation.texts}
        rows = NetworkRows(self.contract, preparation, self.table, without_rare(self.columns, often))
        if not self.taken.standing:
            self.taken.standing = training.digest(training.initial(rows.spec, initial_seed(self.contract)))
        self.preparation, self._rows = preparation, rows

    def _spend(self) -> None:
        planned = plan_privacy(self.contract, len(self.training))
        self.privacy = None if planned is None else self._budget().charge(self.contract, planned, len(self.training))

    def _budget(self) -> PrivacyBudget:
        return PrivacyBudget(self.node.store, self.node.clock, self.node.config.privacy, self.node.ledger)

    def _ready(self) -> NetworkRows:
        if self._rows is None or (self.contract.epsilon_thousandths and self.privacy is None):
            raise PeerError("a round was asked for before the preparation was agreed and its privacy paid for", "S05")
        return self._rows

    def _brought(self, arrays: apps.Arrays) -> Weights:
        """Return the weights of a round's question, which must be under this bank's own preparation."""
        rows = self._ready()
        if not np.array_equal(arrays_named(arrays, "preparation"), rows.preparation.mark):
            raise PeerError("a round came under another preparation than the one agreed", "NN02")
        return training.received_weights(rows.spec, arrays.get("weights"))

    def _settle(self, round_number: int, weights: Weights, numbers: apps.Numbers) -> None:
        self.taken.settle(round_number, training.digest(weights), bool(apps.number(numbers, "stands")))

    # ---- train

    def train_round(self, round_number: int, arrays: apps.Arrays, numbers: apps.Numbers) -> Reply:
        """Train from the weights that stand, on the rows that the gate lets be used in this round; return the summand."""
        rows, contract, weights = self._ready(), self.contract, self._brought(arrays)
        self._settle(round_number, weights, numbers)
        self.node.take_revocations(round_number, self.contract.run)
        live = self._of(self.training, self._ask_gate(round_number))
        self._statistic(live, "train", round_number, readable=False)
        prepared = rows.prepared(live)
        if self.privacy is not None:
            self._budget().begin_training(contract, round_number, training_digest(weights, prepared))
        settings = training.settings_of(contract, self.privacy)
        seed = self.drbg.child_seed("training", round_number)
        outcome = training.train_local(rows.spec, weights, prepared, settings, seed, round_number)
        update = training.quantise(outcome.update, contract.update_bits, settings.norm_bound)
        head = [outcome.rows, rollback.summed_loss(outcome.loss, outcome.rows)]
        self.node.say(f"trained {round_number} {outcome.rows}", self.contract.run)
        return {"summand": _checked(np.concatenate([head, update * outcome.rows]), contract)}, {}, {}

    # ---- query.judge

    def judge(self, round_number: int, arrays: apps.Arrays, _numbers: apps.Numbers) -> Reply:
        """Return the loss on the rows held back as a summand and, where these are enough, this bank's word in clear.

        A round's candidate is judged once: asked again the same is said, and another candidate is refused (NN04).
        """
        weights, taken = self._brought(arrays), self.taken
        is_again = taken.judge(round_number, training.digest(weights))
        held, firms = self._of(self.validation, self._ask_gate(round_number)), self.table.identifiers
        live = far_from_earlier(self.node.boundary, self.contract, self._behind(), held, firms)
        may_say = self._may_say(live, round_number)
        if not is_again:
            taken.answer(*(self._judgement(weights, live) if may_say else (0, 0)))
        word = {"verdict": taken.word} if may_say and taken.word >= 0 else {}
        return {"summand": np.array([taken.rows, taken.loss], dtype=np.int64)}, word, {}

    def _may_say(self, live: list[int], round_number: int) -> bool:
        """Return whether the output gate lets this bank's word on these rows be read."""
        try:
            self._statistic(live, "query.judge", round_number, readable=True)
        except GateRefused:
            return False
        return True

    def _judgement(self, weights: Weights, live: list[int]) -> tuple[int, int, int]:
        taken, spec = self.taken, self._ready().spec
        loss = rollback.summed_loss(training.log_loss(spec, weights, self._ready().prepared(live)) or 0.0, len(live))
        least = taken.least if taken.least_rows else None
        return loss, len(live), int(rollback.says_worse(least, loss, len(live), taken.least_rows, self.contract))

    # ---- evaluate

    def compare(self, arrays: apps.Arrays, numbers: apps.Numbers) -> Reply:
        """End the training: keep the models and their held-out scores, return the figures that may be known.

        Asked again, with the weights that stand as before, the same figures are said.
        """
        weights = self._brought(arrays)
        self._settle(self.contract.rounds + 1, weights, numbers)
        if not self.finished:
            self._finish(weights)
        figures = self._metrics()
        if figures and self._figures is not None:
            figures = self._figures
        self._figures = figures
        return {}, dict(figures), {}

    def _finish(self, weights: Weights) -> None:
        rows, live = self._ready(), self._ask_gate(self.contract.rounds + 1)
        test = [row for row, part in enumerate(self.table.split) if part == "test"]
        parts = (self._of(self.training, live), self._of(self.validation, live), test)
        first = training.initial(rows.spec, initial_seed(self.contract))
        self.compared = compare(rows, weights, first, parts, self.drbg.child_seed("own models"))
        subjects = [self.node.boundary.subject_key(self.table.identifiers[row]) for row in test]
        scores = {name: vector.tolist() for name, vector in self.compared.scores.items()}
        self.result = {
            "labels": [self.table.labels[row] for row in test], "test_rows": test, "subjects": subjects, **scores,
            "joint": scores[self.compared.recommended], "bank_only": scores["local"],
        }  # fmt: skip
        self.finished = True

    def model_record(self) -> dict[str, Any]:
        """See `BankSide.model_record`; docs/records.md, "networks"."""
        rows, compared = self._ready(), self.compared
        return {
            "type": "bank-network", "version": 1, "run": self.contract.run, "model": self.contract.model,
            "shape": rows.spec.to_record(), "preparation": rows.preparation.to_record(), "features": [],
            "model_sha256": training.digest(compared.weights["federated"]),
            "weights": {n: base64.b64encode(training.bytes_of(w)).decode() for n, w in compared.weights.items()},
            "recommended": compared.recommended, "personalised": compared.kept, "note": compared.note,
            "validation_loss_micro": compared.losses_micro(), "training_rows": list(self.training),
            "validation_rows": list(self.validation), "test_rows": list(self.result["test_rows"]),
            "noise_thousandths": 0 if self.privacy is None else round(self.privacy.noise_multiplier * 1000),
        }  # fmt: skip

    # ---- what is kept between rounds

    def checkpoint(self) -> dict[str, Any]:
        """Return what a bank that starts again goes on with, as canonical-JSON values."""
        of_firm = {firm: row for row, firm in enumerate(self.table.identifiers)} if self._withheld else {}
        return {
            "type": "bank-network-checkpoint", "version": 1, "run": self.contract.run, "round": self._round,
            "table_sha256": self._table_digest, "is_chosen": self._is_chosen,
            **({} if self.preparation is None else {"preparation": self.preparation.to_record()}),
            "training_rows": rows_as_text(self.training), "validation_rows": rows_as_text(self.validation),
            "withheld": sorted([name, of_firm[firm]] for name, firm in self._withheld),
            "weights": self.taken.to_record(), "counted": self._counts.asked,
            **({} if self._figures is None else {"figures": dict(self._figures)}),
        }  # fmt: skip

    @cached_property
    def _table_digest(self) -> str:
        table = self.node.config.data.table
        assert table is not None  # a bank has one
        return hashlib.sha256(table.read_bytes()).hexdigest()

    def restore(self, kept: Mapping[str, Any]) -> None:
        """Go on from a checkpoint; what the run's privacy costs was spent before and is read again.

        Raises RunStopped when the bank's table is another one than the run began with.
        """
        if kept["table_sha256"] != self._table_digest:
            raise RunStopped(f"the table of {self.node.party} was changed while run {self.contract.run} was under way")
        self.training, self.validation = rows_from(kept["training_rows"]), rows_from(kept["validation_rows"])
        self._withheld = frozenset((name, self.table.identifiers[row]) for name, row in kept["withheld"])
        self._blank_withheld()
        self._round, self._is_chosen = kept["round"], kept["is_chosen"]
        self.taken, self._counts = WeightsTaken.from_record(kept["weights"]), FieldCounts(kept["counted"])
        self._figures = dict(kept["figures"]) if "figures" in kept else None
        if "preparation" in kept:
            self._spend()
            self._prepare(Preparation.from_record(kept["preparation"]))


def _checked(summand: np.ndarray, contract: RunContract) -> np.ndarray:
    """Return the summand, of which a sum over all banks stays in the ring. Raises RunStopped."""
    values = summand.astype(np.int64)
    if int(np.abs(values).max()) * len(contract.banks) >= 1 << (RING_BITS - 1):
        raise RunStopped("this bank's update does not fit the sum; lower norm_bound_thousandths or update_bits")
    return values


__all__ = ["BankNetwork", "sizes_by_firm"]
