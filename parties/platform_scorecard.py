"""The platform's side of a joint scorecard: label counts, rounds of gradient steps, sub-scores in points.

See `platform_run` for what every model shares. Nothing here sees a label, a bank's features or one bank's sum.
"""

import threading
from collections.abc import Mapping, Sequence
from typing import Any

from lianxin.crypto import paillier
from lianxin.crypto.blocks import share_processors
from lianxin.federation import apps, binning, rounds, scorecard
from lianxin.federation.binning import Columns, Work
from lianxin.federation.contract import RunContract
from lianxin.federation.errors import GateRefused, LianxinError, PeerError, RunStopped
from lianxin.federation.model import Provenance, Released
from lianxin.federation.monotone import Order
from lianxin.federation.points import HUNDREDTHS, FeaturePoints, PointsTable, bin_points, factor, rounding
from lianxin.federation.reasons import reason_table
from lianxin.federation.secure_sum_leader import Summed
from lianxin.federation.selection import PRODUCTS, Verdict, platform_selection_role
from lianxin.federation.session import Session, converse
from lianxin.federation.star import COUNT_BITS, BankTable, PlatformStar, design_of
from lianxin.parties.node import Node
from lianxin.parties.platform_run import Handler, PlatformRun
from lianxin.parties.records import FirmTable
from lianxin.parties.replies import Reply


class PlatformScorecard(PlatformRun):
    """The platform's side of one scorecard run."""

    def __init__(self, node: Node, contract: RunContract, table: FirmTable) -> None:
        super().__init__(node, contract, table)
        self.star = PlatformStar(contract, self.features)
        self.mask_key: paillier.SecretKey | None = None
        self._key_fault: LianxinError | None = None
        self._key_ready = threading.Event()
        self.restarts = 0
        self._rounding: dict[str, dict[str, int]] = {}
        self._verdicts: dict[str, Verdict] = {}

    def _work(self, bank: str, *rights: Provenance) -> Work:
        drbg = self.drbg.child("vertical", bank)
        return Work(self.contract, self.star.layouts, bank, drbg, rights, self.node.executor)

    def prepare_key(self) -> None:
        """Make the platform's mask key of this run; conversations that need it wait for it."""
        share_processors()
        drbg, purpose = self.drbg.child("mask-key"), binning.MASK_PURPOSE
        bits, party, run = self.contract.key_bits, self.node.party, self.contract.run
        try:
            self.mask_key = self.node.paillier_key(
                purpose, run, bits, lambda: paillier.generate_secret_key(bits, party, purpose, run, drbg)
            )
        except LianxinError as fault:
            self._key_fault = fault
        finally:
            self._key_ready.set()

    def handlers(self, bank: str) -> Mapping[str, tuple[str, Handler]]:
        """See `PlatformRun.handlers`."""
        due: dict[str, tuple[str, Handler]] = {
            f"vertical/{bank}/binning": ("binning", self._binning),
        }
        if self.round >= 1 and self.attempt >= 0:
            due[f"vertical/{bank}/round/{self.round}/{self.attempt}"] = ("round", self._round)
        if not self.round and self.contract.max_vif_hundredths and self.star.kept:
            due[f"vertical/{bank}/selection"] = ("selection", self._selection)
        if self.opened_rounds >= self.contract.rounds:
            due[f"vertical/{bank}/scoring"] = ("scoring", self._score)
        return due

    def _binning(self, bank: str, session: Session) -> None:
        shared, deadline = self._shared(bank), self.contract.step_deadline_s
        if not self._key_ready.wait(deadline) or self.mask_key is None or shared.right is None:
            raise self._key_fault or RunStopped(
                f"the platform's mask key was not ready within {deadline} s; raise step_deadline_s"
            )
        firms = [shared.firms[row] for row in shared.rows]
        right = self._aggregate(bank, "binning.count", firms, readable=True)  # the bank opens its counts by bin
        table, work = self._table(bank), self._work(bank, shared.right, right)
        table.public = converse(binning.platform_keys_role(work, self.mask_key), session, deadline)
        converse(binning.platform_count_role(work, table.public, table.columns), session, deadline)
        rows = len(shared.rows)
        converse(binning.platform_masks_role(work, self.mask_key, table.public.n, rows), session, deadline)
        self.node.say(f"counted {bank}", self.contract.run)

    def _table(self, bank: str) -> BankTable:
        if bank not in self.star.tables:
            raise PeerError(f"{bank} asks for a step before the bins are fitted", "S05")
        return self.star.tables[bank]

    def _round(self, bank: str, session: Session) -> None:
        attempt = int(session.conversation.rsplit("/", 1)[1])
        shared, table = self._shared(bank), self._table(bank)
        firms = [shared.firms[row] for row in shared.rows]
        released = self._release(bank, "round.residuals", sorted(set(firms)), session.round)
        live = self._live(bank, released)
        flags = [firm in live for firm in firms]
        aggregate = self._aggregate(bank, "round.range", [f for f in firms if f in live], session.round)
        with self._lock:
            if table.public is None or (session.round, attempt) != (self.round, self.attempt):
                raise PeerError(f"{bank} came too late for attempt {attempt}", "S05")
            scores = self.star.scores(bank)
        work = self._work(bank, released.provenance, aggregate)
        turn = rounds.PlatformTurn(work, attempt, table.public, table.columns, scores, flags)
        table.outcome = converse(rounds.platform_round_role(turn), session, self.contract.step_deadline_s)
        self.node.say(f"round {session.round} {bank} {sum(table.outcome.active)}", self.contract.run)

    def _score(self, bank: str, session: Session) -> None:
        shared = self._shared(bank)
        released = self._release(bank, "scoring.points", shared.firms, self.contract.rounds + 1, "SCORE_ONLY")
        place = {firm: row for row, firm in enumerate(shared.firms)}
        rows = [place[firm] for firm in released.firms]
        bins = self._bins(released)
        values = self.points_table().sums(bins).tolist()
        work = self._work(bank, released.provenance)
        converse(rounds.platform_points_role(work, rows, values), session, self.contract.step_deadline_s)
        self.scored[bank] = len(rows)
        sizes = tuple(len(f.woe) for f in self.star.kept)
        z = scorecard.scores(
            design_of(Columns(tuple(bins), sizes, tuple(f.woe for f in self.star.kept))), self.star.descent.weights
        )
        self._rounding[bank] = rounding(-z * factor(self.contract.points_to_double_odds), values)

    def _bins(self, released: Released) -> list[list[int]]:
        """Return for each kept feature the released rows' bins, merged as they were at the counts."""
        return [
            [f.merged[code] for code in self.specs[f.name].encode(released.columns[f.name])] for f in self.star.kept
        ]

    def points_table(self) -> PointsTable:
        """Return what each bin of the kept features is worth under the weights so far, in hundredths of a point."""
        pdo = self.contract.points_to_double_odds
        return PointsTable(
            tuple(
                FeaturePoints(f.name, bin_points(float(w), f.woe, pdo, HUNDREDTHS), _rows_of(f.goods, f.bads))
                for f, w in zip(self.star.kept, self.star.descent.weights, strict=True)
            ),
            pdo,
            HUNDREDTHS,
        )

    # ---- what Flower's strategy asks for

    def take_bins(self, columns: Mapping[str, Columns]) -> None:
        """See `PlatformRun.take_bins`."""
        self.star.features = list(self.features)
        for bank, coded in columns.items():
            self.star.tables[bank] = BankTable(self.shared[bank].rows, coded)

    def summand(self, kind: str) -> tuple[int, int]:
        """Return how many numbers each bank adds to the sum of this kind, and the bits of their ring."""
        if kind == apps.COUNT:
            return self.star.count_length, COUNT_BITS
        return len(self.star.kept), self.star.layouts.width_bits

    def counted(self, summed: Summed) -> None:
        """Take the sum of the banks' counts, derive the common weights of evidence."""
        self._wait_for(summed.contributors)
        orders = {name: Order(self.node.rules.of(name).monotone, spec.ordered) for name, spec in self.specs.items()}
        self.star.open_counts([int(value) for value in summed.total], orders)
        self.specs = {feature.name: self.specs[feature.name] for feature in self.star.kept}
        self.node.say("phase training", self.contract.run)

    def _selection(self, bank: str, session: Session) -> None:
        shared, table, deadline = self._shared(bank), self._table(bank), self.contract.step_deadline_s
        firms = [shared.firms[row] for row in shared.rows]
        released = self._release(bank, PRODUCTS, sorted(set(firms)))
        if len(released.firms) != len(set(firms)) or table.public is None:
            raise GateRefused("consents ended between counting and selection; launch the run again", "R04")
        right = self._aggregate(bank, PRODUCTS, firms, readable=True)
        work = self._work(bank, released.provenance, right)
        role = platform_selection_role(work, table.public, table.columns, self.contract.max_vif_hundredths)
        self._verdicts[bank] = converse(role, session, deadline)

    def selected(self, replies: Mapping[str, Reply]) -> None:
        """Drop the features that any bank found too much inflated by the columns of both parties."""
        self._wait_for(replies)
        absent = sorted(set(replies) - set(self._verdicts))
        if absent:
            raise PeerError(f"{absent[0]} answered selection without its verdict", "S05")
        limit, reasons = self.contract.max_vif_hundredths / 100, dict[str, str]()
        for bank, verdict in sorted(self._verdicts.items()):
            for place in verdict.dropped:
                found = verdict.inflations[place] / 100
                name = self.star.kept[place].name
                reasons.setdefault(
                    name, f"its variance inflation at {bank} is {found:.2f}, above the contract's {limit:.2f}"
                )
        self.star.drop(reasons)
        self.specs = {feature.name: self.specs[feature.name] for feature in self.star.kept}
        self.node.say(f"selection dropped {len(reasons)}", self.contract.run)

    def next_attempt(self) -> int:
        """Return a fresh attempt number, durable before it is used. Raises RunStopped when the masks are used up."""
        attempt = self.node.store.reserve(f"attempt/{self.contract.run}", 1)
        with self._lock:
            self.attempt = attempt
        if self.attempt >= self.star.layouts.masks.slots:
            raise RunStopped("every prepared attempt is used up; launch a new run with more spare attempts")
        return self.attempt

    def drop_round(self, lost: Sequence[str]) -> None:
        """Forget an unopened round; the banks that are lost take no further part."""
        super().drop_round(lost)
        for table in self.star.tables.values():
            table.outcome = None

    def trained(self, round_number: int, summed: Summed) -> apps.Numbers:
        """Step by the sum of the gradients of the banks that are in it, and say whether momentum restarts."""
        self._wait_for(summed.contributors)
        rose = self.star.close_round(summed.contributors, [int(total) for total in summed.total])
        restart = rose or any(numbers.get("rose") for _, numbers, _ in summed.replies.values())
        self.opened_rounds += 1
        if restart:
            self.star.descent.restart()
            self.restarts += 1
        if self.restarts >= 3:
            raise RunStopped("training restarted three times and still does not settle; check the labels and the bins")
        self.node.say(f"end round {round_number}", self.contract.run)
        if round_number == self.contract.rounds:
            self.node.say("phase scoring", self.contract.run)
        return {"restart": int(restart)}

    def model_record(self) -> dict[str, Any] | None:
        """See `PlatformRun.model_record`."""
        if not self.star.kept:
            return None
        points, texts = self.points_table(), {f.id: f.name_zh for f in self.node.catalogue.values()}
        return {
            "type": "platform-model", "version": 2, "run": self.contract.run,
            "points_to_double_odds": self.contract.points_to_double_odds,
            "features": [
                {"bins": self.specs[f.name].to_record(), "merged": list(f.merged), "woe": list(f.woe),
                 "goods": list(f.goods), "bads": list(f.bads), "iv_micro": round(f.information_value * 10**6), **entry}
                for f, entry in zip(self.star.kept, points.to_record(), strict=True)
            ],
            "reasons": [reason.to_record() for reason in reason_table(self.contract, self.node.party, texts)],
            "rounding": dict(sorted(self._rounding.items())),
            "weights": [round(w * 2**24) for w in self.star.descent.weights],
            "dropped": [{"field": name, "reason": reason} for name, reason in [*self.dropped, *self.star.dropped]],
            "notes": [{"field": name, "note": note} for name, note in self.notes],
            "wrong_sign": self._wrong_sign(),
            "refused": [{"field": name, "rule": rule} for name, rule in self.refused],
            "gradient_norms_milli": [round(v * 1000) for v in self.star.gradient_norms],
        }  # fmt: skip

    def _wrong_sign(self) -> list[str]:
        """Return the features whose weight came out positive, or with `sign_check` "drop" was held at 0."""
        drops, weights = self.contract.sign_check == "drop", self.star.descent.weights
        return [f.name for f, w in zip(self.star.kept, weights, strict=True) if w > 0 or (drops and w == 0)]


def _rows_of(goods: Sequence[int], bads: Sequence[int]) -> tuple[int, ...]:
    return tuple(good + bad for good, bad in zip(goods, bads, strict=True))
