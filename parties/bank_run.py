"""One run at a bank, whatever its model: matching, its training rows and its keys, and the gate before each use.

Labels and own features stay here. What goes out is encrypted under the bank's own key, masked against the other banks,
or an aggregate that passed the output gate; each after a release for (firm, platform, purpose, mode, fields), asked
anew in every round. What is computed is the model's: `bank_scorecard`, `bank_trees`.
"""

import threading
from abc import abstractmethod
from collections.abc import Sequence
from functools import partial
from typing import Any

from lianxin.crypto import paillier
from lianxin.crypto.blocks import share_processors
from lianxin.crypto.errors import CryptoError
from lianxin.crypto.pool import RandomiserPool
from lianxin.crypto.randomness import Drbg
from lianxin.federation import apps, binning, matching, streams
from lianxin.federation.binning import BankKeys
from lianxin.federation.channel import Link
from lianxin.federation.contract import RunContract
from lianxin.federation.errors import LianxinError, PeerError, RunStopped
from lianxin.federation.model import Provenance, Released
from lianxin.federation.session import Role, converse
from lianxin.parties.bank_side import BankSide
from lianxin.parties.coding_fields import BinLimits, fit_field
from lianxin.parties.node import Node
from lianxin.parties.outputs import far_from_earlier
from lianxin.parties.records import LoanTable
from lianxin.parties.replies import Reply
from lianxin.parties.workers import processes_of


class BankRun(BankSide):
    """A bank's side of one run of a joint model; its steps are called by the bank's ClientApp."""

    def __init__(self, node: Node, contract: RunContract, table: LoanTable, link: Link) -> None:
        super().__init__(node, contract, table, link)
        self.firms: list[str] = []
        self.dropped: list[tuple[str, str]] = []
        self.keys: BankKeys | None = None
        self._key_fault: LianxinError | None = None

    def client_app(self) -> Any:
        """See `BankSide.client_app`."""
        return apps.make_client_app(self)

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

    def select(self) -> Reply:
        """Choose features together with the platform; no model does unless it says how. Raises PeerError (S05)."""
        raise PeerError("selection across the parties is none of this model's steps", "S05")

    # ---- helpers of every step

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

    # ---- query.match

    def match(self) -> Reply:
        """Find the shared firms and say which of them are trained on."""
        self._once("match")
        contract, name = self.contract, self.node.party
        released = self._release(range(len(self.table.identifiers)), "matching.query")
        self.features = [feature for feature in self.features if feature in released.columns]
        secret_key = None
        if contract.matching == "paillier":
            secret_key = self._key_of(matching.PURPOSE, self.drbg.child("matching-key"))
        self._prepare_key()
        self.node.say("matching", self.contract.run)
        side = matching.Side(contract, name, released, self.drbg.child("matching"), self.node.executor)
        self.firms = self._talk(matching.bank_role(side, secret_key), f"matching/{name}")
        self.node.say(f"matched {len(self.firms)}", self.contract.run)
        self._send_training_rows(released.provenance)
        self.rights = ()
        return {}, {}, {}

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
        draws = len(self.table.identifiers) * self.contract.turns  # at least: only how large tables pay
        source = paillier.OwnerEncryptor(key, self.contract.exponents, draws)
        seed = self.drbg.child_seed("randomiser-pool", key.public.key_id)
        reserve = partial(self.node.store.reserve, f"pool/{key.public.key_id}")
        ahead, processes = self.node.config.randomisers_ahead, processes_of(self.node.executor)
        return RandomiserPool(source, seed, reserve, ahead, processes)

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

    # ---- for the models

    def _key(self) -> BankKeys:
        """Return the training key, waiting for it. Raises what kept it from being made."""
        self._maker.join(self.contract.step_deadline_s)
        if self.keys is None:
            raise self._key_fault or RunStopped(
                f"the training key was not ready within {self.contract.step_deadline_s} s; raise step_deadline_s"
            )
        return self.keys

    def _fit_specs(self, released: Released) -> None:
        """Fit the bins of the own features that may be used; a feature of one bin is left out by name."""
        names = [name for name in self.features if name in released.columns]
        limits, self._withheld = BinLimits.of(self.contract), self._kept_back(released)
        fits = {name: fit_field(name, released.columns[name], limits, self.node.rules) for name in names}
        self.specs = {name: fit.spec for name, fit in fits.items() if not fit.reason}
        self.dropped = [(name, fit.reason) for name, fit in fits.items() if fit.reason]
        self.notes = [(name, note) for name, fit in fits.items() for note in fit.notes]
