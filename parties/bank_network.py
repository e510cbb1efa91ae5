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

from lianxin.crypto import canonical
from lianxin.crypto.errors import CryptoError
from lianxin.federation import apps, federated, rollback
from lianxin.federation.channel import Link
from lianxin.federation.contract import RunContract
from lianxin.federation.errors import GateRefused, PeerError, RunStopped
from lianxin.federation.model import Provenance
from lianxin.federation.network_terms import RING_BITS
from lianxin.parties import training
from lianxin.parties.bank_side import BankSide
from lianxin.parties.network_models import Compared, NetworkRows, compare
from lianxin.parties.node import Node
from lianxin.parties.outputs import far_from_earlier, sizes_by_firm
from lianxin.parties.platform_network import LOSS_ONE, STEP, initial_seed
from lianxin.parties.preparation import FIRST_GRID, Grid, Preparation, categories_of, histogram_of, kind_of, refine
from lianxin.parties.privacy import PrivacyBudget, PrivacySettings, plan_privacy, training_digest
from lianxin.parties.records import LoanTable
from lianxin.parties.replies import Reply, arrays_named


class BankNetwork(BankSide):
    """A bank's side of one run; its steps are called by the bank's ClientApp."""

    models = ("local", "federated", "personalised")
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
        self._least: tuple[int, int] | None = None
        self._judged: tuple[int, int] | None = None
        self._judged_in = -1
        self._grids: dict[str, Grid] = {}

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
        last = self.contract.rounds + 1
        if not self._round <= round_number <= last:
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
        self._ask_gate(0)
        fields = []
        for name in sorted(self.features):
            values = [self.columns[name][row] for row in self.training]
            kind = kind_of(values)
            texts = categories_of(self._by_firm(name), self.contract.min_rows) if kind == "text" else ()
            fields.append({"field": name, "kind": kind, "texts": list(texts)})
        self._statistic(self.training, "query.prepare", 0, readable=True)
        self.node.say(f"prepared {len(self.training)}")
        return {}, {}, {"categories": json.dumps({"fields": fields}, ensure_ascii=False, separators=(",", ":"))}

    def _by_firm(self, name: str) -> list[Any]:
        """Return the distinct values of each firm of the training rows: ten loans of one firm say a text once."""
        column, firms = self.columns[name], self.table.identifiers
        return [value for _, value in dict.fromkeys((firms[row], column[row]) for row in self.training)]

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
        """Return the counts of some numeric fields, as a summand."""
        self._ask_gate(0)
        names = self._named(texts)
        if which == federated.PASSES[1]:
            self._refine(names, arrays_named(arrays, "preparation"))
        self._statistic(self.training, f"query.{which}", 0, readable=False)
        is_first = which == federated.PASSES[0]
        counts = [self._histogram(name, FIRST_GRID if is_first else self._grids[name]) for name in names]
        return {"summand": np.concatenate(counts).astype(np.int64)}, {}, {}

    def _histogram(self, name: str, grid: Grid) -> np.ndarray:
        return histogram_of([self.columns[name][row] for row in self.training], grid, self.contract.min_rows)

    def _named(self, texts: apps.Texts) -> list[str]:
        names = _told(texts.get("categories", "")).get("fields")
        if (
            not isinstance(names, list)
            or not names
            or not set(names) <= set(self.features)
            or len(set(names)) != len(names)
        ):
            raise PeerError("counts were asked for of other fields than the contract's", "NN02")
        return names

    def _refine(self, names: Sequence[str], totals: np.ndarray) -> None:
        size = FIRST_GRID.cells + 1
        if totals.dtype != np.int64 or totals.shape != (size * len(names),):
            raise PeerError("the sums of the first counts do not fit their fields", "NN02")
        for place, name in enumerate(names):
            self._grids[name] = refine(totals[place * size : (place + 1) * size], FIRST_GRID)

    # ---- query.agree

    def agree(self, texts: apps.Texts) -> Reply:
        """Take the preparation that all banks apply, and spend what the run's differential privacy costs."""
        if not self._is_chosen:
            raise PeerError("a preparation came before the fields were asked for", "S05")
        agreed = Preparation.received(_told(texts.get("preparation", "")), self.features)
        if self.preparation is not None and self.preparation != agreed:
            raise PeerError("a second preparation came, and it is another one", "S05")
        self._prepare(agreed)
        self._spend()
        self.node.say("counted")
        return {}, {}, {}

    def _prepare(self, preparation: Preparation) -> None:
        self.preparation = preparation
        self._rows = NetworkRows(self.contract, preparation, self.table, self.columns)

    def _spend(self) -> None:
        planned = plan_privacy(self.contract, len(self.training))
        self.privacy = None if planned is None else self._budget().charge(self.contract, planned, len(self.training))

    def _budget(self) -> PrivacyBudget:
        return PrivacyBudget(self.node.store, self.node.clock, self.node.config.privacy, self.node.ledger)

    def _ready(self) -> NetworkRows:
        if self._rows is None:
            raise PeerError("a round was asked for before the preparation was agreed", "S05")
        return self._rows

    # ---- train

    def train_round(self, round_number: int, arrays: apps.Arrays, numbers: apps.Numbers) -> Reply:
        """Train from the weights that came, on the rows that the gate lets be used in this round; return the summand."""
        rows, contract = self._ready(), self.contract
        self._note_standing(numbers, round_number)
        weights = training.received_weights(rows.spec, arrays.get("weights"))
        self.node.take_revocations(round_number)
        live = self._of(self.training, self._ask_gate(round_number))
        self._statistic(live, "train", round_number, readable=False)
        prepared = rows.prepared(live)
        if self.privacy is not None:
            self._budget().begin_training(contract, round_number, training_digest(weights, prepared))
        settings = training.settings_of(contract, self.privacy)
        seed = self.drbg.child_seed("training", round_number)
        outcome = training.train_local(rows.spec, weights, prepared, settings, seed, round_number)
        update = training.quantise(outcome.update, contract.update_bits, settings.norm_bound)
        head = [outcome.rows, round(outcome.loss * LOSS_ONE * outcome.rows)]
        self.node.say(f"trained {round_number} {outcome.rows}")
        return {"summand": _checked(np.concatenate([head, update * outcome.rows]), contract)}, {}, {}

    def _note_standing(self, numbers: apps.Numbers, round_number: int) -> None:
        """Learn whether the weights that were judged last stand; the least loss of those that do is what later ones meet.

        A round that is run again says so of the round before it once more: its own weights were no candidate then.
        """
        if apps.number(numbers, "stands") and self._judged is not None and self._judged_in < round_number:
            found, rows = self._judged
            if self._least is None or found * self._least[1] < self._least[0] * rows:
                self._least = self._judged
        self._judged = None

    # ---- query.judge

    def judge(self, round_number: int, arrays: apps.Arrays, numbers: apps.Numbers) -> Reply:
        """Return the loss on the rows held back as a summand and, where these are enough, this bank's word in clear."""
        rows = self._ready()
        weights = training.received_weights(rows.spec, arrays.get("weights"))
        live = self._of(self.validation, self._ask_gate(round_number))
        try:
            self._statistic(live, "query.judge", round_number, readable=False)
        except GateRefused:
            return {"summand": np.zeros(2, dtype=np.int64)}, {}, {}
        loss = training.log_loss(rows.spec, weights, rows.prepared(live)) or 0.0
        found = (round(loss * LOSS_ONE * len(live)), len(live))
        least, before = self._least if self._least is not None else (None, 0)
        worse = rollback.says_worse(least, found[0], found[1], before, self.contract)
        self._judged, self._judged_in = found, round_number
        return {"summand": np.array([found[1], found[0]], dtype=np.int64)}, {"verdict": int(worse)}, {}

    # ---- evaluate

    def compare(self, arrays: apps.Arrays, numbers: apps.Numbers) -> Reply:
        """End the training: keep the models and their held-out scores, return the figures that may be known."""
        rows = self._ready()
        self._note_standing(numbers, self.contract.rounds + 1)
        weights = training.received_weights(rows.spec, arrays.get("weights"))
        live = self._ask_gate(self.contract.rounds + 1)
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
        return {}, self._metrics(), {}

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
            "training_rows": _packed(self.training), "validation_rows": _packed(self.validation),
            "withheld": sorted([name, of_firm[firm]] for name, firm in self._withheld),
            "least": list(self._least or ()), "judged": list(self._judged or ()), "judged_in": self._judged_in,
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
        self.training, self.validation = _unpacked(kept["training_rows"]), _unpacked(kept["validation_rows"])
        self._withheld = frozenset((name, self.table.identifiers[row]) for name, row in kept["withheld"])
        self._blank_withheld()
        self._round, self._is_chosen, self._judged_in = kept["round"], kept["is_chosen"], kept["judged_in"]
        self._least, self._judged = (tuple(kept[name]) or None for name in ("least", "judged"))
        if "preparation" in kept:
            self._prepare(Preparation.from_record(kept["preparation"]))
            self._spend()


def _packed(rows: Sequence[int]) -> str:
    return base64.b64encode(np.asarray(rows, dtype="<u4").tobytes()).decode()


def _unpacked(text: str) -> list[int]:
    return [int(row) for row in np.frombuffer(base64.b64decode(text), dtype="<u4")]


def _told(text: str) -> Mapping[str, Any]:
    try:
        return canonical.decode(text.encode())
    except CryptoError:
        raise PeerError("the platform sent a record that is not in canonical form", "NN02") from None


def _checked(summand: np.ndarray, contract: RunContract) -> np.ndarray:
    """Return the summand, of which a sum over all banks stays in the ring. Raises RunStopped."""
    values = summand.astype(np.int64)
    if int(np.abs(values).max()) * len(contract.banks) >= 1 << (RING_BITS - 1):
        raise RunStopped("this bank's update does not fit the sum; lower norm_bound_thousandths or update_bits")
    return values


__all__ = ["BankNetwork", "sizes_by_firm"]
