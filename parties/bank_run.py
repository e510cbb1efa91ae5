"""One run at a bank, whatever its model: matching, its training rows and its keys, and the gate before each use.

Labels and own features stay here. What goes out is encrypted under the bank's own key, masked against the other banks,
or an aggregate that passed the output gate; each after a release for (firm, platform, purpose, mode, fields), asked
anew in every round. What is computed is the model's: `bank_scorecard`, `bank_trees`.
"""

import json
import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import partial
from typing import Any

from lianxin.crypto import canonical, paillier
from lianxin.crypto.blocks import share_processors
from lianxin.crypto.errors import CryptoError
from lianxin.crypto.pool import RandomiserPool
from lianxin.crypto.randomness import Drbg
from lianxin.crypto.signing import sign_record
from lianxin.federation import apps, binning, evaluation, matching, streams
from lianxin.federation.binning import BankKeys
from lianxin.federation.channel import Link
from lianxin.federation.contract import RunContract
from lianxin.federation.errors import GateRefused, LianxinError, PeerError, RunStopped
from lianxin.federation.model import Provenance, Released
from lianxin.federation.session import Role, converse
from lianxin.federation.star import MaskAgreement
from lianxin.parties import coding
from lianxin.parties.coding_fields import BinLimits, fit_field
from lianxin.parties.decision import ReleaseRequest
from lianxin.parties.idle import IdleFiller
from lianxin.parties.node import Node
from lianxin.parties.outputs import far_from_earlier, sizes_by_firm
from lianxin.parties.records import LoanTable
from lianxin.parties.replies import Reply, read_agreement
from lianxin.parties.retention import date_columns
from lianxin.parties.withheld import NO_CELLS, Cells, firms_of, kept_back


class BankRun(ABC):
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
        self.dropped: list[tuple[str, str]] = []
        self.notes: list[tuple[str, str]] = []
        self.keys: BankKeys | None = None
        self._key_fault: LianxinError | None = None
        seed = self.drbg.child_seed("agreement")
        self.agreement = MaskAgreement(node.party, contract.run, seed)
        self.rights: tuple[Provenance, ...] = ()
        self.finished = False
        self.result: dict[str, Any] = {}
        self.filler = IdleFiller(always=node.executor is not None)
        self._banks_left = list(contract.banks)
        self._withheld = NO_CELLS
        self._done: set[str] = set()

    # ---- what a model brings

    @abstractmethod
    def count(self, texts: apps.Texts) -> Reply:
        """Do what comes between matching and the first round."""

    @abstractmethod
    def train(self, round_number: int, numbers: apps.Numbers, texts: apps.Texts) -> Reply:
        """Run one round with the platform."""

    @abstractmethod
    def evaluate(self, numbers: apps.Numbers) -> Reply:
        """End the training, keep the model and its held-out scores, return the figures that may be known."""

    @abstractmethod
    def model_record(self) -> dict[str, Any]:
        """Return the bank's model of this run, for its own state folder."""

    def select(self) -> Reply:
        """Choose features together with the platform; no model does unless it says how. Raises PeerError (S05)."""
        raise PeerError("selection across the parties is none of this model's steps", "S05")

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

    def _release(
        self, rows: Sequence[int], step: str, round_number: int = 0, mode: str = "COMPUTE_ONLY",
        fields: Sequence[str] | None = None,
    ) -> Released:  # fmt: skip
        """Return these rows of `fields`, by default the label and all features, as far as the gate lets them go."""
        names, held = [self.label, *self.features] if fields is None else fields, self._held()
        columns = {name: [held[name][row] for row in rows] for name in names}
        firms = [self.table.identifiers[row] for row in rows]
        request = self._request(step, [*self.identifiers, *names], mode)
        dates = date_columns(self.node.catalogue, request.fields, self.table.columns, rows)
        record = dict(self.contract.record)
        return self.node.boundary.release(record, request, firms, columns, round_number, dates=dates)

    def _request(self, step: str, fields: Sequence[str], mode: str = "COMPUTE_ONLY") -> ReleaseRequest:
        platform, purpose = self.contract.platform, self.contract.purpose
        return ReleaseRequest(self.node.party, platform, purpose, mode, step, tuple(fields))

    def _held(self) -> dict[str, Sequence[Any]]:
        return {**self.table.columns, self.label: self.table.labels}

    def _kept_back(self, released: Released) -> Cells:
        live = set(released.firms)
        places = [row for row in self.training if self.table.identifiers[row] in live]
        return kept_back(self._held(), places, released)

    def _usable(self, released: Released) -> set[str]:
        """Return the firms of a release of the training rows of which no value was kept back since bins were fitted."""
        return set(released.firms) - firms_of(self._kept_back(released) - self._withheld)

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
        return RandomiserPool(source, seed, reserve, self.node.config.randomisers_ahead, self.node.executor)

    def _send_training_rows(self, right: Provenance) -> None:
        place = {firm: row for row, firm in enumerate(self.firms)}
        rows = [
            row for row, firm in enumerate(self.table.identifiers) if firm in place and self.table.split[row] == "train"
        ]
        rows = self._showable(rows)
        fields, firms = [self.label, *self.features], self.table.identifiers
        rows = far_from_earlier(self.node.boundary, self.contract, fields, rows, firms)
        rows.sort(key=lambda row: (place[self.table.identifiers[row]], row))
        if not rows or len({self.table.labels[row] for row in rows}) < 2:
            raise RunStopped(
                f"{self.node.party}'s shared training rows hold one class of the label only; give it more loans"
            )
        self._check_classes(rows)
        if len(rows) > self.contract.max_rows:
            raise RunStopped(f"{self.node.party} has more training rows than the contract's {self.contract.max_rows}")
        shared = [place[self.table.identifiers[row]] for row in rows]
        role = streams.send_rows(shared, self.contract.chunk_bytes, (right,))
        live = self._talk(role, f"vertical/{self.node.party}/rows")
        self.training = [row for row, flag in zip(rows, live, strict=True) if flag]

    def _showable(self, rows: list[int]) -> list[int]:
        """Return the rows that may be trained on; a model that shows more of a row than that it takes part asks for more."""
        return rows

    def _check_classes(self, rows: Sequence[int]) -> None:
        """Raise RunStopped, with the counts, where the gate would let no figure of these rows' labels go (OUT-BADS)."""
        firms, labels = [self.table.identifiers[row] for row in rows], [self.table.labels[row] for row in rows]
        _, bads, goods = sizes_by_firm(firms, labels)
        least = (self.contract.min_bads, self.contract.min_goods)
        if bads < least[0] or goods < least[1]:
            raise RunStopped(
                f"{self.node.party}'s {len(rows)} shared training rows have {bads} firms with a bad loan and {goods} with a "
                f"good one, and the contract asks for {least[0]} and {least[1]}; give it more loans"
            )

    # ---- for the models

    def _key(self) -> BankKeys:
        """Return the training key, waiting for it. Raises what kept it from being made."""
        self._maker.join(self.contract.step_deadline_s)
        if self.keys is None:
            raise self._key_fault or RunStopped(
                f"the training key was not ready within {self.contract.step_deadline_s} s; raise step_deadline_s"
            )
        return self.keys

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

    def _fit_specs(self, released: Released) -> None:
        """Fit the bins of the own features that may be used; a feature of one bin is left out by name."""
        names = [name for name in self.features if name in released.columns]
        limits, self._withheld = BinLimits.of(self.contract), self._kept_back(released)
        fits = {name: fit_field(name, released.columns[name], limits, self.node.rules) for name in names}
        self.specs = {name: fit.spec for name, fit in fits.items() if not fit.reason}
        self.dropped = [(name, fit.reason) for name, fit in fits.items() if fit.reason]
        self.notes = [(name, note) for name, fit in fits.items() for note in fit.notes]

    def _aggregate(
        self, step: str, firms: Sequence[str], labels: Sequence[int], round_number: int, readable: bool = True
    ) -> Provenance:
        """Return the right of a statistic of rows; `readable` where the platform sees it, not a sum over all banks."""
        request, record, fields = self._request(step, ()), dict(self.contract.record), [self.label, *self.specs]
        return self.node.boundary.aggregate(
            record, request, *sizes_by_firm(firms, labels), fields, step, round_number, firms=firms, readable=readable
        )

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

    def _metrics(self) -> apps.Numbers:
        """Return held-out figures where the output gate lets them go; none where rows or labels are too few."""
        labels = self.result["labels"]
        firms = [self.table.identifiers[row] for row in self.result["test_rows"]]
        try:
            right = self._aggregate("evaluation", firms, labels, self.contract.turns + 1)
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
