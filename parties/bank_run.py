"""One run at a bank: what it does at each of Flower's instructions.

Labels and own features stay here. What goes out is encrypted under the bank's own key, masked against the other banks,
or an aggregate that passed the output gate; each after a release for (firm, platform, purpose, mode, fields), asked
anew in every round.
"""

import json
import threading
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from lianxin.crypto import canonical, paillier
from lianxin.crypto.blocks import share_processors
from lianxin.crypto.errors import CryptoError
from lianxin.crypto.pool import RandomiserPool
from lianxin.crypto.randomness import Drbg
from lianxin.crypto.signing import sign_record
from lianxin.federation import apps, binning, evaluation, matching, regression, rounds, scorecard, streams
from lianxin.federation.binning import BankKeys, Columns, Work
from lianxin.federation.channel import Link
from lianxin.federation.contract import RunContract
from lianxin.federation.errors import GateRefused, LianxinError, PeerError, RunStopped
from lianxin.federation.model import Provenance, Released
from lianxin.federation.session import Role, converse
from lianxin.federation.star import COUNT_BITS, BankStar, MaskAgreement, design_of, round_label
from lianxin.parties import coding
from lianxin.parties.decision import ReleaseRequest
from lianxin.parties.idle import IdleFiller
from lianxin.parties.node import Node
from lianxin.parties.outputs import far_from_earlier, sizes_by_firm
from lianxin.parties.records import LoanTable
from lianxin.parties.replies import Reply, read_agreement
from lianxin.parties.retention import date_columns

POOL_CAPACITY = 65_536  # 36 MB at 2048 bits


class BankRun:
    """A bank's side of one run; its steps are called by the bank's ClientApp."""

    def __init__(self, node: Node, contract: RunContract, table: LoanTable, link: Link) -> None:
        self.node, self.contract, self.table, self.link = node, contract, table, link
        self.drbg = node.run_drbg(contract.run)
        self.identifiers = contract.fields_of(node.party, "identifier")
        self.features = list(contract.fields_of(node.party, "feature"))
        (self.label,) = contract.fields_of(node.party, "label")
        self.firms: list[str] = []
        self.training: list[int] = []
        self.specs: dict[str, coding.BinSpec] = {}
        self.star: BankStar | None = None
        self.keys: BankKeys | None = None
        self._key_fault: LianxinError | None = None
        seed = self.drbg.child_seed("agreement")
        self.agreement = MaskAgreement(node.party, contract.run, seed)
        self.rights: tuple[Provenance, ...] = ()
        self.finished = False
        self.result: dict[str, Any] = {}
        self.filler = IdleFiller()
        self._round = 0
        self._banks_left = list(contract.banks)
        self._done: set[str] = set()
        self._active: list[bool] = []

    # ---- helpers of every step

    def _once(self, step: str) -> None:
        if step in self._done:
            raise PeerError(f"the platform asked for {step} a second time; its randomness serves once", "S05")
        self._done.add(step)

    def _talk(self, role: Role[Any], conversation: str, round_number: int = 0) -> Any:
        return self._talk_all([role], conversation, round_number)[0]

    def _talk_all(self, roles: Sequence[Role[Any]], conversation: str, round_number: int = 0) -> list[Any]:
        channel = self.filler.watch(self.link.open(conversation, self.contract.run))
        session = self.node.session(self.contract, channel, conversation, round_number)
        try:
            results = [converse(role, session, self.contract.step_deadline_s) for role in roles]
            channel.finish()
            return results
        finally:
            channel.close()

    def _release(self, rows: Sequence[int], step: str, round_number: int = 0) -> Released:
        columns = {name: [self.table.columns[name][row] for row in rows] for name in self.features}
        columns[self.label] = [self.table.labels[row] for row in rows]
        firms = [self.table.identifiers[row] for row in rows]
        request = self._request(step, [*self.identifiers, self.label, *self.features])
        dates = date_columns(self.node.catalogue, request.fields, self.table.columns, rows)
        record = dict(self.contract.record)
        return self.node.boundary.release(record, request, firms, columns, round_number, dates=dates)

    def _request(self, step: str, fields: Sequence[str]) -> ReleaseRequest:
        platform, purpose = self.contract.platform, self.contract.purpose
        return ReleaseRequest(self.node.party, platform, purpose, "COMPUTE_ONLY", step, tuple(fields))

    def _work(self) -> Work:
        layouts = scorecard.plan_layouts(self.contract)
        return Work(
            self.contract, layouts, self.node.party, self.drbg.child("vertical"), self.rights, self.node.executor
        )

    # ---- query.match

    def match(self) -> Reply:
        """Find the shared firms, say which of them are trained on, and announce the key for masks between banks."""
        self._once("match")
        contract, name = self.contract, self.node.party
        released = self._release(range(len(self.table.identifiers)), "matching.query")
        self.features = [feature for feature in self.features if feature in released.columns]
        secret_key = None
        if contract.matching == "paillier":
            secret_key = self._key_of(matching.PURPOSE, self.drbg.child("matching-key"))
        self._prepare_key()
        self.node.say("matching")
        side = matching.Side(contract, name, released, self.drbg.child("matching"), self.node.executor)
        self.firms = self._talk(matching.bank_role(side, secret_key), f"matching/{name}")
        self.node.say(f"matched {len(self.firms)}")
        self._send_training_rows(released.provenance)
        record = {
            "type": "agreement-key", "version": 1, "run": contract.run, "contract": contract.hash, "party": name,
            "key": self.agreement.public.hex(),
        }  # fmt: skip
        signed = sign_record(record, [(name, self.node.identity.signing_key)])
        self.rights = ()
        return {}, {}, {"agreement_key": canonical.encode(signed).decode()}

    def _prepare_key(self) -> None:
        """Make the training key while matching waits for the platform; a key serves one purpose, so it is another one."""
        drbg = self.drbg.child("training-key")

        def make() -> None:
            share_processors()
            try:
                key = self._key_of(binning.LABEL_PURPOSE, drbg)
                self.keys = BankKeys(key, self._pool(key))
                self.filler.start(self.keys.pool)
            except LianxinError as fault:
                self._key_fault = fault
            except CryptoError as fault:
                self._key_fault = RunStopped(f"the training key of this run cannot be used: {fault}")

        self._maker = threading.Thread(target=make, daemon=True)
        self._maker.start()

    def _key_of(self, purpose: str, drbg: Drbg) -> paillier.SecretKey:
        bits, party, run = self.contract.key_bits, self.node.party, self.contract.run
        return self.node.paillier_key(
            purpose, run, bits, lambda: paillier.generate_secret_key(bits, party, purpose, run, drbg)
        )

    def _pool(self, key: paillier.SecretKey) -> RandomiserPool:
        """Return the training key's pool; its places are reserved in the store, so that none serves twice."""
        source = paillier.OwnerEncryptor(key, self.contract.exponents)
        seed = self.drbg.child_seed("randomiser-pool", key.public.key_id)
        reserve = partial(self.node.store.reserve, f"pool/{key.public.key_id}")
        return RandomiserPool(source, seed, reserve, POOL_CAPACITY, self.node.executor)

    def _send_training_rows(self, right: Provenance) -> None:
        place = {firm: row for row, firm in enumerate(self.firms)}
        rows = [
            row for row, firm in enumerate(self.table.identifiers) if firm in place and self.table.split[row] == "train"
        ]
        fields, firms = [self.label, *self.features], self.table.identifiers
        rows = far_from_earlier(self.node.boundary, self.contract, fields, rows, firms)
        rows.sort(key=lambda row: (place[self.table.identifiers[row]], row))
        if not rows or len({self.table.labels[row] for row in rows}) < 2:
            raise RunStopped(
                f"{self.node.party}'s shared training rows hold one class of the label only; give it more loans"
            )
        if len(rows) > self.contract.max_rows:
            raise RunStopped(f"{self.node.party} has more training rows than the contract's {self.contract.max_rows}")
        shared = [place[self.table.identifiers[row]] for row in rows]
        role = streams.send_rows(shared, self.contract.chunk_bytes, (right,))
        live = self._talk(role, f"vertical/{self.node.party}/rows")
        self.training = [row for row, flag in zip(rows, live, strict=True) if flag]

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
        self._maker.join(self.contract.step_deadline_s)
        if self.keys is None:
            raise self._key_fault or RunStopped(
                f"the training key was not ready within {self.contract.step_deadline_s} s; raise step_deadline_s"
            )
        work, labels = self._work(), star.labels
        self.keys.pool.planned = len(labels) * (1 + 2 * self.contract.rounds)
        counts, star.corrections = self._count_and_masks(work, labels, star)
        self.star = star
        flat = [v for bins in counts for v in (*(g for g, _ in bins), *(b for _, b in bins))]
        masked = self.agreement.masked(flat, "counts", self.contract.banks, COUNT_BITS)
        right = self._aggregate("binning.count", released.firms, labels, 0)
        self.rights = (released.provenance, right)
        self.node.say("counted")
        return {"masked_counts": np.array(masked, dtype=np.uint64)}, {}, {}

    def _count_and_masks(self, work: Work, labels: Sequence[int], star: BankStar) -> tuple[Any, list[list[int]]]:
        assert self.keys is not None
        keys = self.keys
        results = self._talk_all(
            [
                binning.bank_keys_role(work, keys),
                binning.bank_count_role(work, keys, labels),
                binning.bank_masks_role(work, keys, star.own),
            ],
            f"vertical/{self.node.party}/binning",
        )
        return results[1], results[2]

    def _agreement_keys(self, texts: apps.Texts) -> dict[str, bytes]:
        try:
            entries = json.loads(texts.get("agreement_keys", ""))
            keys = {}
            for entry, bank in zip(entries, self.contract.banks, strict=True):
                signed = read_agreement(canonical.encode(entry).decode(), bank, self.contract)
                keys[bank] = bytes.fromhex(signed["record"]["key"])
        except (ValueError, TypeError):
            raise PeerError("the platform relayed no complete list of the banks' agreement keys", "A01") from None
        if keys[self.node.party] != self.agreement.public:
            raise PeerError("the platform relayed another agreement key as this bank's own", "A01")
        return keys

    def _fit_own(self, released: Released) -> BankStar:
        names = [name for name in self.features if name in released.columns]
        specs = {n: coding.fit_bins(released.columns[n], self.contract.max_bins, self.contract.min_rows) for n in names}
        self.specs = {name: spec for name, spec in specs.items() if spec.count > 1}
        codes = tuple(spec.encode(released.columns[name]) for name, spec in self.specs.items())
        columns = Columns(codes, tuple(spec.count for spec in self.specs.values()))
        return BankStar(self.contract, self.node.party, list(released.columns[self.label]), columns)

    def _aggregate(
        self, step: str, firms: Sequence[str], labels: Sequence[int], round_number: int, readable: bool = True
    ) -> Provenance:
        """Return the right of a statistic of rows; `readable` where the platform sees it, not a sum over all banks."""
        request, record, fields = self._request(step, ()), dict(self.contract.record), [self.label, *self.specs]
        return self.node.boundary.aggregate(
            record, request, *sizes_by_firm(firms, labels), fields, step, round_number, firms=firms, readable=readable
        )

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

    def _banks(self, texts: apps.Texts) -> list[str]:
        try:
            banks = json.loads(texts.get("banks", ""))
        except ValueError:
            banks = []
        known = isinstance(banks, list) and all(isinstance(bank, str) for bank in banks)
        known = (
            known and self.node.party in banks and set(banks) <= set(self._banks_left) and banks == sorted(set(banks))
        )
        floor = max(min(2, len(self.contract.banks)), self.contract.min_banks)
        if not known or len(banks) < floor:
            raise PeerError("a round names no proper set of this contract's banks", "L04")
        if len(banks) < len(self._banks_left) and self.contract.on_loss != "rerun":
            raise PeerError("a round leaves banks out, and the contract says that the run stops then", "L04")
        self._banks_left = banks
        return banks

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
