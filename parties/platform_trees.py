"""The platform's side of boosted trees: sums over its bins, sides of the cuts that a bank asks for.

See `platform_run` for what every model shares, `federation/boosting` for what is said. What a bank learns of a row here is
a bit for each distinct cut, so rows are released in mode SPLITS from the training rows on: the gate asks each firm for
mode DESENSITISED and is asked anew in every tree. A cut's bit is charged to the bank's quota before it leaves.

The bank reads the sums of each tree by itself, so each is held against what it read before (OUT-DIFF): when a firm leaves
between two trees a drawn group leaves beside it, or the difference of two sums would be that firm's bins. Who has left
takes part in no later tree.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from lianxin.federation import apps, boosting_delivery, boosting_platform, scorecard
from lianxin.federation.binning import Columns, Work
from lianxin.federation.boosting_ensemble import TreeColumns
from lianxin.federation.contract import RunContract
from lianxin.federation.model import Provenance, Released
from lianxin.federation.session import Session, converse
from lianxin.parties.decision import SPLITS
from lianxin.parties.node import Node
from lianxin.parties.platform_run import Handler, PlatformRun
from lianxin.parties.quota import SplitQuota
from lianxin.parties.records import FirmTable
from lianxin.parties.replies import Reply
from lianxin.parties.tree_columns import feature_records, kind_of, tree_columns


class PlatformTrees(PlatformRun):
    """The platform's side of one run of boosted trees."""

    def __init__(self, node: Node, contract: RunContract, table: FirmTable) -> None:
        super().__init__(node, contract, table)
        self.tables: dict[str, TreeColumns] = {}
        self.trees: dict[str, boosting_platform.PlatformTrees] = {}
        self._grown: set[str] = set()
        self._staying: dict[str, set[str]] = {}
        self.quota = SplitQuota(node.store, node.clock, node.config.quota)
        self.quota.check(contract.banks, contract.split_bits)

    def _work(self, bank: str, *rights: Provenance) -> Work:
        drbg, layouts = self.drbg.child("vertical", bank), scorecard.plan_layouts(self.contract)
        return Work(self.contract, layouts, bank, drbg, rights, self.node.executor)

    def _release(
        self, bank: str, step: str, firms: Sequence[str], round_number: int = 0, mode: str = SPLITS
    ) -> Released:
        """See `PlatformRun._release`; from the training rows on a row is one whose sides may be told."""
        return super()._release(bank, step, firms, round_number, "COMPUTE_ONLY" if step == "matching.query" else mode)

    def prepare_key(self) -> None:
        """Nothing: the platform needs no key of its own."""

    def handlers(self, bank: str) -> Mapping[str, tuple[str, Handler]]:
        """See `PlatformRun.handlers`."""
        if bank not in self.tables:
            return {}
        if bank not in self.trees:
            return {f"vertical/{bank}/binning": ("binning", self._open)}
        if bank in self._grown:
            return {f"vertical/{bank}/scoring": ("scoring", self._score)}
        return {f"vertical/{bank}/tree/{self.round}": ("round", self._tree)} if self.round >= 1 else {}

    # ---- conversations

    def _open(self, bank: str, session: Session) -> None:
        role = boosting_platform.platform_open_role(self._work(bank), self.tables[bank])
        public = converse(role, session, self.contract.step_deadline_s)
        charge = partial(self._charge, bank)
        self.trees[bank] = boosting_platform.PlatformTrees(public, self.tables[bank], charge)
        self.node.say(f"counted {bank}", self.contract.run)

    def _tree(self, bank: str, session: Session) -> None:
        shared, tree = self._shared(bank), session.round
        firms = [shared.firms[row] for row in shared.rows]
        released = self._release(bank, "boosting.split", sorted(set(firms)), tree)
        live = self._stays(bank, firms, released)
        if len(live) < self.contract.min_rows:
            live = set()  # nothing may be summed: the bank is told so, and keeps what has grown
        kept = [firm for firm in firms if firm in live]
        right = (self._aggregate(bank, "boosting.histogram", kept, tree, readable=True),) if kept else ()
        flags = np.array([firm in live for firm in firms], dtype=np.bool_)
        work = self._work(bank, released.provenance, *right)
        turn = boosting_platform.PlatformTreeTurn(work, self.trees[bank], flags, shared.firm_numbers())
        outcome = converse(boosting_platform.platform_tree_role(turn), session, self.contract.step_deadline_s)
        self.node.say(f"tree {tree} {bank} {int(outcome.active.sum())}", self.contract.run)

    def _stays(self, bank: str, firms: Sequence[str], released: Released) -> set[str]:
        """Return the firms of this tree: those of the tree before, less those that left, less a drawn group beside them."""
        before = self._staying.get(bank, set(firms))
        live = self._live(bank, released) & before
        if live != before or bank not in self._staying:
            live -= self.node.boundary.to_leave_out(bank, self.features, sorted(live), self.contract.min_rows)
        self._staying[bank] = live
        return live

    def _charge(self, bank: str, cuts: int) -> None:
        """Charge new distinct cuts to the bank, on disk, before a side of them is told. Raises PeerError (BQ01)."""
        left = self.quota.charge(bank, self.contract.run, cuts)
        self.node.ledger.append(
            {"kind": "split-bits", "run": self.contract.run, "peer": bank, "bits": cuts, "left": left}
        )

    def _score(self, bank: str, session: Session) -> None:
        shared = self._shared(bank)
        released = self._release(bank, "boosting.score", shared.firms, self.contract.trees + 1)
        place = {firm: row for row, firm in enumerate(shared.firms)}
        rows = [place[firm] for firm in released.firms]
        columns = tree_columns(self.specs, released.columns, range(len(rows)))
        work = self._work(bank, released.provenance)
        role = boosting_delivery.platform_cut_bits_role(work, rows, columns.sides(self.trees[bank].cuts))
        converse(role, session, self.contract.step_deadline_s)
        self.scored[bank] = len(rows)

    # ---- what Flower's strategy asks for

    def take_bins(self, columns: Mapping[str, Columns]) -> None:
        """See `PlatformRun.take_bins`."""
        kinds = [kind_of(self.specs[name]) for name in self.features]
        for bank, coded in columns.items():
            self.tables[bank] = TreeColumns.of(coded.codes, coded.bins, kinds, coded.rows)

    def counted(self, replies: Mapping[str, Reply]) -> None:
        """Note that every bank has exchanged keys."""
        self._wait_for(replies)
        self.node.say("phase training", self.contract.run)

    def trained(self, round_number: int, replies: Mapping[str, Reply]) -> apps.Numbers:
        """Note which ensembles are grown; each bank asks for the sides of its cuts when it is evaluated."""
        self._wait_for(replies)
        is_last = round_number == self.contract.trees
        self._grown |= {bank for bank in replies if is_last or self.trees[bank].stopped}
        self.node.say(f"end round {round_number}", self.contract.run)
        if set(self.tables) <= self._grown | self.lost:
            self.node.say("phase scoring", self.contract.run)
        return {}

    def model_record(self) -> dict[str, Any] | None:
        """See `PlatformRun.model_record`; docs/records.md, "tree models"."""
        if not self.tables:
            return None
        return {
            "type": "platform-trees", "version": 1, "run": self.contract.run, "features": feature_records(self.specs),
            "banks": {
                bank: {"cuts": [list(cut) for cut in trees.cuts], "trees": trees.grown}
                for bank, trees in sorted(self.trees.items())
            },
            "dropped": [{"field": name, "reason": reason} for name, reason in self.dropped],
            "refused": [{"field": name, "rule": rule} for name, rule in self.refused],
        }  # fmt: skip
