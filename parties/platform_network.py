"""The platform's side of a network across banks: it agrees preparation, adds up, averages and judges; it has no rows.

It brings no field and matches nobody. What it hands on to the banks, preparation and weights, are aggregates over all of
them, and cross behind a release of its own gate in mode AGGREGATE that names the banks' fields (`decision`).
"""

import base64
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from lianxin.crypto import canonical
from lianxin.crypto.randomness import derive_seed
from lianxin.federation import apps, rollback, strategies
from lianxin.federation.channel import Channel
from lianxin.federation.contract import RunContract
from lianxin.federation.errors import PeerError, RunStopped
from lianxin.federation.federated import AGREE, EVALUATE, JUDGE, MOST_PARTS, PREPARE, TRAIN, Question, count_kind
from lianxin.federation.model import Provenance
from lianxin.federation.network_terms import model_hash
from lianxin.federation.sum_mod import Summed
from lianxin.parties import checkpoint
from lianxin.parties.decision import AGGREGATE, ReleaseRequest
from lianxin.parties.network_answers import description, micro, signed, sum_fault
from lianxin.parties.node import Node
from lianxin.parties.preparation import (
    FIRST_GRID,
    Grid,
    NumberField,
    Preparation,
    TextField,
    agreed_categories,
    agreed_kind,
    knots_from,
    refine,
)
from lianxin.parties.records import FirmTable
from lianxin.parties.replies import Reply
from lianxin.parties.training_shapes import (
    NetworkSpec,
    Weights,
    bytes_of,
    count,
    digest,
    flatten,
    initial,
    spec_of,
    unflatten,
    weights_from_bytes,
)
from lianxin.parties.training_updates import dequantise

STEP = "learning.exchange"
FIELDS_A_PART = 32
MOST_WEIGHTS = 130_000  # their sum crosses in one message
Curve = list[dict[str, Any]]


def initial_seed(contract: RunContract) -> bytes:
    """Return the seed of the first weights: whoever has the contract draws the same."""
    return derive_seed(bytes.fromhex(model_hash(contract)), "first weights")


class PlatformNetwork:
    """The platform's side of one run; its steps are called by Flower's strategy."""

    def __init__(self, node: Node, contract: RunContract, _table: FirmTable | None = None) -> None:
        self.node, self.contract = node, contract
        self.shared: dict[str, Any] = {}
        self.scored: dict[str, int] = {}
        self.metrics: dict[str, apps.Numbers] = {}
        self.lost: set[str] = set()
        self.next_round, self.first_attempt = 1, 0
        self.preparation: Preparation | None = None
        self._is_agreed = False
        self.weights: Weights | None = None
        self.curve: Curve = []
        self.inner = strategies.inner_strategy(contract)
        self.standing = rollback.Standing()
        self._candidate: Weights | None = None
        self._verdict: rollback.Decision | None = None
        self._stands, self._trained = 1, (0, 0)
        self._kinds: dict[str, str] = {}
        self._lists: dict[str, tuple[str, ...]] = {}
        self._grids: dict[str, Grid] = {}
        self._numbers: dict[str, NumberField] = {}
        self._totals: dict[str, np.ndarray] = {}
        self._rights: dict[str, tuple[Provenance, ...]] = {}
        self._before: dict[str, Any] = {}

    # ---- what a run at the platform is asked for

    def prepare_key(self) -> None:
        """Nothing: no key of the platform's takes part."""

    def serve(self, channel: Channel) -> None:
        """Refuse: a network has no conversation beside Flower's (S01)."""
        raise PeerError(f"{channel.peer} opened a conversation that a network does not have", "S01")

    def rights_to(self, bank: str) -> tuple[Provenance, ...]:
        """Return the releases behind what is handed on to a bank; none before there is anything to hand on."""
        return self._rights.get(bank, ())

    def drop_round(self, lost: Sequence[str]) -> None:
        """The banks that are lost take no further part."""
        self.lost |= set(lost)
        for bank in lost:
            self.node.say(f"lost {bank}", self.contract.run)

    # ---- preparation

    def preparing(self) -> Iterator[Question]:
        """Yield the questions before the first round; the next one follows from the answers to the last."""
        if self.preparation is None:
            self.node.say("phase binning", self.contract.run)
            yield Question(PREPARE)
            yield from self._counting(0)
            yield from self._counting(1)
            self._agree()
            self._keep()
        if not self._is_agreed:
            yield Question(AGREE, texts={"preparation": self._told(self._preparation().to_record())})
            if self.is_judged:
                self._candidate = self._weights()
                yield self._judging(0)
            self._is_agreed = True
            self._keep()
        self.node.say("phase training", self.contract.run)

    def _counting(self, place: int) -> Iterator[Question]:
        names = [name for name, kind in sorted(self._kinds.items()) if kind == "number"]
        parts = [names[k : k + FIELDS_A_PART] for k in range(0, len(names), FIELDS_A_PART)]
        if len(parts) > MOST_PARTS:
            raise RunStopped(f"a network takes at most {FIELDS_A_PART * MOST_PARTS} numeric fields; leave some out")
        for part, fields in enumerate(parts):
            grids = [self._grids.get(name, FIRST_GRID) for name in fields]
            arrays = {"preparation": np.concatenate([self._totals[name] for name in fields])} if place else {}
            texts = {"categories": self._told({"fields": fields})}
            yield Question(count_kind(place, part), 0, sum(g.cells + 1 for g in grids), 1, arrays, {}, texts)

    def _agree(self) -> None:
        texts = tuple(
            TextField(name, self._lists[name]) for name, kind in sorted(self._kinds.items()) if kind == "text"
        )
        self.preparation = Preparation(tuple(self._numbers[name] for name in sorted(self._numbers)), texts)
        if count(self.spec) > MOST_WEIGHTS:
            raise RunStopped(
                f"the network has {count(self.spec):,} weights, a round carries {MOST_WEIGHTS:,} at most; lower hidden_units "
                "or embedding_width"
            )
        self.weights = initial(self.spec, initial_seed(self.contract))

    @staticmethod
    def _told(record: Mapping[str, Any]) -> str:
        return canonical.encode({"type": "told", "version": 1, **record}).decode()

    @property
    def spec(self) -> NetworkSpec:
        """The network's shape, known once the preparation is."""
        return spec_of(self.contract, self._preparation())

    @property
    def is_judged(self) -> bool:
        """Whether the banks judge each round on rows held back."""
        return bool(self.contract.max_loss_rise_permille and self.contract.validation_permille)

    def _preparation(self) -> Preparation:
        if self.preparation is None:
            raise PeerError("a round was asked for before the preparation was agreed", "S05")
        return self.preparation

    def _weights(self) -> Weights:
        if self.weights is None:
            raise PeerError("a round was asked for before there were weights", "S05")
        return self.weights

    # ---- answers

    def answered(self, question: Question, replies: Mapping[str, Reply]) -> None:
        """Take the banks' replies to a question without a sum."""
        if question.kind == PREPARE:
            self._described(replies)
        elif question.kind == EVALUATE:
            self.metrics = {bank: numbers for bank, (_, numbers, _) in replies.items()}

    def _described(self, replies: Mapping[str, Reply]) -> None:
        told = {bank: description(texts.get("categories", ""), bank) for bank, (_, _, texts) in replies.items()}
        self._check_judges([bank for bank, (_, judges) in told.items() if judges])
        said = {bank: described for bank, (described, _) in told.items()}
        fields = sorted(self.contract.fields_of(self.contract.banks[0], "feature"))
        for bank, described in said.items():
            if sorted(described) != fields:
                raise PeerError(f"{bank} describes other fields than the contract's", "NN02")
        for name in fields:
            self._kinds[name] = agreed_kind(name, [described[name][0] for described in said.values()], list(said))
            if self._kinds[name] == "text":
                self._lists[name] = agreed_categories([described[name][1] for described in said.values()])
        self._rights = {bank: (self._hand_on(bank, len(said)),) for bank in said}

    def _check_judges(self, judges: Sequence[str]) -> None:
        """Raise RunStopped, before anything is charged or trained, when no bank holds enough rows back to judge rounds."""
        least = (
            f"{self.contract.min_rows} firms, {self.contract.min_bads} with a bad loan and {self.contract.min_goods}"
        )
        if self.is_judged and not judges:
            raise RunStopped(
                f"no bank can judge rounds: none holds back {least} with a good one, as the contract asks; give the banks "
                "more rows, hold back a larger share (validation_permille), or set max_loss_rise_permille to 0"
            )

    def _hand_on(self, bank: str, banks: int) -> Provenance:
        """Return the right to hand aggregates over the banks on to one of them; each is over min_rows at a bank or more."""
        names = [*self.contract.fields_of(bank, "label"), *self.contract.fields_of(bank, "feature")]
        request = ReleaseRequest(self.node.party, bank, self.contract.purpose, AGGREGATE, STEP, tuple(names))
        least, record = self.contract.min_rows * banks, dict(self.contract.record)
        return self.node.boundary.aggregate(record, request, least, None, None, names, STEP, readable=False)

    def summed(self, question: Question, sums: Mapping[Any, Summed]) -> None:
        """Take the sums over the banks of each group."""
        if question.kind == TRAIN:
            self._averaged(question, sums)
        elif question.kind == JUDGE:
            (one,) = sums.values()
            self._judged(question.round, one)
        else:
            (one,) = sums.values()
            self._counted(question, signed(one.total))

    def _counted(self, question: Question, totals: np.ndarray) -> None:
        fields, start = canonical.decode(question.texts["categories"].encode())["fields"], 0
        for name in fields:
            grid = self._grids.get(name, FIRST_GRID)
            part = totals[start : start + grid.cells + 1]
            start += grid.cells + 1
            if name in self._totals:
                self._numbers[name] = knots_from(name, part, grid, self.contract.quantiles)
            else:
                self._totals[name], self._grids[name] = part, refine(part, grid)

    # ---- rounds

    def before_round(self, round_number: int) -> None:
        """Note that a round begins; a trial's withdrawals come in here."""
        self.node.take_revocations(round_number, self.contract.run)
        self.node.say(f"begin round {round_number}", self.contract.run)

    def training(self, round_number: int) -> Question:
        """Return the question of a round: the weights that stand, for the sum of rows, losses and updates."""
        numbers = {"stands": self._stands}
        return Question(
            TRAIN, round_number, 2 + count(self.spec), self.contract.groups, self._shown(self._weights()), numbers
        )

    def _shown(self, weights: Weights) -> apps.Arrays:
        """Return what a question about weights brings: they, and the mark of the preparation that they are under."""
        return {"weights": weights, "preparation": self._preparation().mark}

    def _averaged(self, question: Question, sums: Mapping[Any, Summed]) -> None:
        weights, spec, averages, rows, loss = self._weights(), self.spec, [], 0, 0
        self._before = strategies.state(self.inner)
        for _, one in sorted(sums.items()):
            total = signed(one.total)
            here = int(total[0])
            if fault := sum_fault(self.contract, total, len(one.contributors)):
                self._refuse_round(fault)
                return
            average = weights + dequantise(total[2:], self.contract.update_bits, here)
            averages.append((unflatten(spec, average.astype(np.float32)), here))
            rows, loss = rows + here, loss + int(total[1])
        after = strategies.combine(self.inner, question.round, unflatten(spec, weights), averages)
        self._candidate, self._trained = flatten(after), (rows, loss)

    def _refuse_round(self, fault: str) -> None:
        reason = f"{fault} (rule NN03), so that one of them left the protocol"
        self._verdict = rollback.taken_back(self.standing, reason, self.contract)
        self._candidate, self._trained = None, (0, 0)

    def judging(self, round_number: int) -> Question | None:
        """Return the question whether the round's weights are worse, None where there is nothing to judge."""
        return self._judging(round_number) if self.is_judged and self._candidate is not None else None

    def _judging(self, round_number: int) -> Question:
        assert self._candidate is not None
        return Question(JUDGE, round_number, 2, 1, self._shown(self._candidate))

    def _judged(self, round_number: int, one: Summed) -> None:
        rows, loss = (int(value) for value in signed(one.total))
        words = {
            bank: bool(numbers["verdict"]) for bank, (_, numbers, _) in one.replies.items() if "verdict" in numbers
        }
        self._verdict = rollback.judge(self.standing, rollback.Verdicts(words, loss, rows), self.contract)
        validated = {"validation_loss_micro": micro(loss, rows), "validation_rows": rows}
        if not round_number:
            self.standing = self._verdict.standing
            self.curve = [{"round": 0, "rows": 0, "accepted": True, "reason": "the first weights", **validated}]
        else:
            self.curve.append({"round": round_number, **validated})

    def end_round(self, round_number: int) -> None:
        """Take the round's weights, or take them back. Raises RunStopped when too many were."""
        if not self.curve or self.curve[-1]["round"] != round_number:
            self.curve.append({"round": round_number})
        decided = self._verdict or rollback.Decision(True, "rounds are not judged", False, self.standing)
        rows, loss = self._trained
        self.curve[-1] |= {
            "rows": rows, "train_loss_micro": micro(loss, rows), "accepted": decided.accepted, "reason": decided.reason,
        }  # fmt: skip
        self.standing, self._verdict, self._stands = decided.standing, None, int(decided.accepted)
        if decided.stops:
            raise RunStopped(rollback.stop_sentence(decided, round_number, self.contract))
        if decided.accepted:
            self.weights = self._candidate
        else:
            strategies.restore(self.inner, self._before)
            self.node.say(f"rolled back round {round_number}", self.contract.run)
        self.node.ledger.append(
            {
                "kind": "network-round", "run": self.contract.run, "round": round_number, "accepted": decided.accepted,
                "reason": decided.reason, "rows": rows, "weights_sha256": digest(self._weights()),
            }
        )  # fmt: skip
        self.next_round = round_number + 1
        self._keep()
        self.node.say(f"round {round_number} rows {rows}", self.contract.run)
        self.node.say(f"end round {round_number}", self.contract.run)

    def evaluation(self) -> Question:
        """Return the last question: the final weights, for the figures that the banks let be known."""
        self.node.say("phase scoring", self.contract.run)
        arrays, numbers = self._shown(self._weights()), {"stands": self._stands}
        return Question(EVALUATE, self.contract.rounds + 1, arrays=arrays, numbers=numbers)

    # ---- what is kept

    def model_record(self) -> dict[str, Any] | None:
        """Return the platform's model of this run; docs/records.md, "networks"."""
        if self.weights is None:
            return None
        return {
            "type": "platform-network", "version": 1, "run": self.contract.run, "model": self.contract.model,
            "shape": self.spec.to_record(), "preparation": self._preparation().to_record(),
            "weights": base64.b64encode(bytes_of(self.weights)).decode(), "model_sha256": digest(self.weights),
            "curve": self.curve, "rolled_back": self.rolled_back, "features": [], "refused": [],
        }  # fmt: skip

    @property
    def rolled_back(self) -> list[int]:
        """The rounds whose weights were taken back."""
        return [one["round"] for one in self.curve if not one.get("accepted", True)]

    def _keep(self) -> None:
        checkpoint.write(self.node.run_folder(self.contract.run), self.checkpoint())

    def checkpoint(self) -> dict[str, Any]:
        """Return what a platform that starts again goes on with, as canonical-JSON values: whole rounds alone."""
        return {
            "type": "platform-network-checkpoint", "version": 1, "run": self.contract.run, "next_round": self.next_round,
            "preparation": self._preparation().to_record(), "weights": base64.b64encode(bytes_of(self._weights())).decode(),
            "strategy": strategies.state(self.inner), "standing": vars(self.standing), "stands": self._stands,
            "is_agreed": self._is_agreed,
            "curve": [dict(one) for one in self.curve],
        }  # fmt: skip

    def restore(self, kept: Mapping[str, Any]) -> None:
        """Go on from a checkpoint. Raises InputFault, PeerError or RunStopped when it is damaged."""
        self.preparation = Preparation.from_record(kept["preparation"])
        self.weights = weights_from_bytes(self.spec, base64.b64decode(kept["weights"]))
        strategies.restore(self.inner, kept["strategy"])
        self.standing, self._stands = rollback.Standing(**kept["standing"]), kept["stands"]
        self._is_agreed = kept["is_agreed"]
        self.curve, self.next_round = [dict(one) for one in kept["curve"]], kept["next_round"]
        self._rights = {bank: (self._hand_on(bank, len(self.contract.banks)),) for bank in self.contract.banks}


__all__ = ["PlatformNetwork", "initial_seed", "signed"]
