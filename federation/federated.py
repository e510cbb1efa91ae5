"""A network across banks as Flower leads it: what the platform asks, what a bank answers, round after round.

The platform adds up and nothing else; it has no rows. Every figure that it learns of a single bank is in the reply's
own named values, which passed that bank's output gate; everything else comes as a sum over banks (`sum_mod`).

1. `query.prepare`: each bank says which fields are numbers and which texts enough of its rows have.
2. `query.first…`, `query.second…`, in parts: counts of the numeric fields in the cells of a public grid and then of
   the finer grid that follows from their sum. `query.agree` brings the preparation that all banks apply.
3. A round: `train` brings weights, and the sum of rows, losses and updates comes back; Flower's strategy makes the new
   weights of it; `query.judge` brings these, and the sum of losses on rows held back comes back with each bank's word.
   Weights that the banks find worse are taken back (`rollback`).
4. `evaluate` brings the final weights; each bank compares models on its test rows and keeps its own.

A lost bank: with `on_loss` rerun it is waited for and the sum is asked for again, with all, under a fresh attempt; where
it stays away those that are left go on, if they are enough. Once every vector has come, those left open the sum.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from lianxin.federation import grid as road  # sets Flower's environment before Flower is imported

from flwr.app import ArrayRecord, Context, Message  # isort: skip
from flwr.clientapp import ClientApp  # isort: skip
from flwr.serverapp import Grid  # isort: skip
from flwr.serverapp.strategy import Result, Strategy  # isort: skip

from lianxin.federation.apps import Arrays, Numbers, Texts, parts_of, record_of
from lianxin.federation.contract import RunContract
from lianxin.federation.errors import PeerError, RunStopped
from lianxin.federation.network_terms import can_go_on, groups_in
from lianxin.federation.secure_sum_request import content_of
from lianxin.federation.sum_mod import SumCheated, SumLeader, Summed

Reply = tuple[Arrays, Numbers, Texts]
Replies = Mapping[str, Reply]
PREPARE, AGREE, TRAIN, JUDGE, EVALUATE = "query.prepare", "query.agree", "train", "query.judge", "evaluate"
PASSES = ("first", "second")
PARTS = "abcdefgh"  # a sum's label has letters alone
MOST_PARTS = len(PARTS)
SUM_KINDS = ("sumkeys", "sumshares", "sumagree", "sumopen")
_AFTER_MASKS = tuple(f"query.{kind}" for kind in SUM_KINDS[2:])
MOST_RETURNS = 64  # how often one question is asked again for banks that come back and go


@dataclass(frozen=True)
class Question:
    """What all banks are asked; `length` is that of the summand, 0 where none is asked for, `groups` how many sums."""

    kind: str
    round: int = 0
    length: int = 0
    groups: int = 1
    arrays: Arrays = field(default_factory=dict)
    numbers: Numbers = field(default_factory=dict)
    texts: Texts = field(default_factory=dict)


class NetworkPlatformSteps(Protocol):
    """What the platform does between two questions; it says each next question itself."""

    next_round: int
    first_attempt: int

    def preparing(self) -> Iterator[Question]: ...

    def answered(self, question: Question, replies: Replies) -> None: ...

    def summed(self, question: Question, sums: Mapping[Any, Summed]) -> None: ...

    def before_round(self, round_number: int) -> None: ...

    def training(self, round_number: int) -> Question: ...

    def judging(self, round_number: int) -> Question | None: ...

    def end_round(self, round_number: int) -> None: ...

    def evaluation(self) -> Question: ...

    def drop_round(self, lost: Sequence[str]) -> None: ...


class NetworkBankSteps(Protocol):
    """What a bank does when it is asked; each returns what goes back."""

    def turn(self, kind: str, round_number: int) -> None: ...

    def describe(self) -> Reply: ...

    def count(self, which: str, part: int, arrays: Arrays, texts: Texts) -> Reply: ...

    def agree(self, texts: Texts) -> Reply: ...

    def train_round(self, round_number: int, arrays: Arrays, numbers: Numbers) -> Reply: ...

    def judge(self, round_number: int, arrays: Arrays, numbers: Numbers) -> Reply: ...

    def compare(self, arrays: Arrays, numbers: Numbers) -> Reply: ...


class NetworkStrategy(Strategy):
    """Flower's strategy for networks: a reply floor, replies by party id, sums that are opened whole or not at all."""

    def __init__(self, contract: RunContract, steps: NetworkPlatformSteps, sums: Any = None) -> None:
        self.contract, self.steps = contract, steps
        self._sums = sums if sums is not None else SumLeader(contract)
        self._banks: dict[int, str] = {}
        self._told: set[str] = set()
        self._opened_over: dict[str, set[str]] = {}

    def summary(self) -> None:
        """Nothing to log: the contract says it all."""

    def start(self, grid: Grid, initial_arrays: ArrayRecord | None = None, **_options: Any) -> Result:  # type: ignore[override]
        """Run preparation, the contract's rounds and the evaluation. Raises RunStopped by the contract's rules."""
        self._banks = dict(grid.banks)  # type: ignore[attr-defined]
        for question in self.steps.preparing():
            self._put(grid, question)
        for round_number in range(self.steps.next_round, self.contract.rounds + 1):
            self._round(grid, round_number)
        self._put(grid, self.steps.evaluation())
        return Result()

    def _round(self, grid: Grid, round_number: int) -> None:
        self.steps.before_round(round_number)
        self._put(grid, self.steps.training(round_number))
        judging = self.steps.judging(round_number)
        if judging is not None:
            self._put(grid, judging)
        self.steps.end_round(round_number)

    def _put(self, grid: Grid, question: Question) -> None:
        if question.length:
            self.steps.summed(question, self._sum(grid, question))
            return
        replies: dict[str, Reply] = {}
        for _ in range(MOST_RETURNS):
            asked = dict.fromkeys((bank for bank in self._left(grid) if bank not in replies), question.texts)
            replies |= self._say(grid, question, question.kind, question.round, question.numbers, asked)[0]
            self._check_lost(grid)
            if set(self._left(grid)) <= set(replies):
                break
        else:
            raise RunStopped(f"banks were lost {MOST_RETURNS} times at {question.kind}; look at their logs")
        self.steps.answered(question, dict(sorted(replies.items())))

    def _sum(self, grid: Grid, question: Question) -> Mapping[Any, Summed]:
        spare, first = self.contract.spare_attempts, self.steps.first_attempt
        for attempt in range(first, first + MOST_RETURNS):
            banks, before = self._left(grid), len(self._told)
            groups = [banks] if question.groups == 1 else self._groups(banks)
            self._check_sets(question, banks)
            ask = partial(self._ask, grid, question)
            try:
                sums = self._sums.run(
                    ask, question.kind, question.round, attempt, groups, question.numbers, question.texts,
                    question.length, arrays=question.arrays,
                )  # fmt: skip
            except (RunStopped, SumCheated) as fault:
                self._leave_out(grid, fault)
                if not self._check_lost(grid) or (len(self._told) > before and not spare):
                    raise
                spare -= len(self._told) > before
                continue
            opened = {bank for one in sums.values() for bank in one.contributors}
            self._opened_over[content_of(question.kind, question.arrays, question.texts)] = opened
            self._check_lost(grid)
            return sums
        raise RunStopped(f"banks were lost {MOST_RETURNS} times at {question.kind}; look at their logs")

    def _check_sets(self, question: Question, banks: Sequence[str]) -> None:
        """Raise RunStopped where banks would refuse: one question is opened over one set of banks, in whatever round."""
        content = content_of(question.kind, question.arrays, question.texts)
        if content and self._opened_over.get(content, set(banks)) != set(banks):
            raise RunStopped(
                f"round {question.round} would ask the same of fewer banks than before: the round before was taken back and a "
                "bank is lost since; its part alone would be the difference, so that the run stops here"
            )

    def _groups(self, left: Sequence[str]) -> list[list[str]]:
        """Return those who are left of each group of the run."""
        return [[bank for bank in group if bank in left] for group in groups_in(self.contract)]

    def _leave_out(self, grid: Grid, fault: RunStopped | SumCheated) -> None:
        """Count a bank that broke a sum's protocol as lost: the sum is asked for again without it, by the contract's rules."""
        if isinstance(fault, SumCheated) and fault.is_sole and fault.party in self._left(grid):
            grid.lost[fault.party] = fault  # type: ignore[attr-defined]

    def _ask(
        self, grid: Grid, question: Question, kind: str, round_number: int, numbers: Numbers,
        texts: Mapping[str, Texts],
    ) -> tuple[dict[str, Reply], list[str]]:  # fmt: skip
        """Ask for one stage of a sum. A bank that is lost while it can still be in the sum is waited for: see `_sum`."""
        replies, lost = self._say(grid, question, kind, round_number, numbers, texts)
        if kind not in _AFTER_MASKS and self._may_return(grid, lost):
            raise RunStopped(f"{', '.join(lost)} left while round {round_number} was added up")
        return replies, lost

    def _say(
        self, grid: Grid, question: Question, kind: str, round_number: int, numbers: Numbers,
        texts: Mapping[str, Texts],
    ) -> tuple[dict[str, Reply], list[str]]:  # fmt: skip
        """Ask the banks of `texts` and return (their replies, those that are lost); arrays go with the question itself."""
        arrays = question.arrays if kind == question.kind else {}
        here = [node for node in sorted(grid.get_node_ids()) if self._banks[node] in texts]
        asked = [
            grid.create_message(record_of(arrays, numbers, texts[self._banks[node]]), kind, node, str(round_number))
            for node in here
        ]
        replies = {
            self._banks[reply.metadata.src_node_id]: parts_of(reply.content)
            for reply in grid.send_and_receive(asked)
            if not reply.has_error()
        }
        return dict(sorted(replies.items())), sorted(set(texts) - set(replies))

    def _left(self, grid: Grid) -> list[str]:
        return [self._banks[node] for node in sorted(grid.get_node_ids())]

    def _check_lost(self, grid: Grid) -> bool:
        """Return whether banks were lost since the last look and the run may go on. Raises RunStopped where it may not."""
        gone = getattr(grid, "lost", {})
        lost = sorted(set(gone) - self._told)
        if not lost:
            return False
        if self._may_return(grid, lost):
            lost = sorted(set(lost) - grid.await_return(lost))  # type: ignore[attr-defined]
            if not lost:
                return True
        self._told |= set(lost)
        self.steps.drop_round(lost)
        if self.contract.on_loss == "stop" or not can_go_on(self.contract, self._left(grid)):
            raise RunStopped(f"{', '.join(lost)} left the run: {gone[lost[0]]}; by the contract the run stops here")
        return True

    def _may_return(self, grid: Grid, lost: Sequence[str]) -> bool:
        return self.contract.on_loss == "rerun" and bool(lost and getattr(grid, "may_return", list)(lost))

    # ---- Flower's own hooks; the rounds above do not use them

    def configure_train(self, server_round: int, arrays: Any, config: Any, grid: Grid) -> list[Message]:
        """Return nothing: rounds are led by `start`."""
        return []

    def aggregate_train(self, server_round: int, replies: Any) -> tuple[None, None]:
        """Return nothing: sums are taken by `start`."""
        return None, None

    def configure_evaluate(self, server_round: int, arrays: Any, config: Any, grid: Grid) -> list[Message]:
        """Return nothing: the evaluation is led by `start`."""
        return []

    def aggregate_evaluate(self, server_round: int, replies: Any) -> None:
        """Return nothing: figures are taken by `start`."""


Mod = Callable[[Message, Context, Callable[[Message, Context], Message]], Message]


def make_network_app(steps: NetworkBankSteps, mods: Sequence[Mod] = ()) -> ClientApp:
    """Return a bank's ClientApp for networks; `mods` stand around every question, those of secret sums among them."""
    app, around = ClientApp(), [_turning(steps), *mods]
    answers: dict[str, Callable[[int, Reply], Reply]] = {
        PREPARE: lambda _, said: steps.describe(),
        AGREE: lambda _, said: steps.agree(said[2]),
        JUDGE: lambda turn, said: steps.judge(turn, said[0], said[1]),
    }
    for place, which in enumerate(PASSES):
        for part in range(MOST_PARTS):
            answers[count_kind(place, part)] = partial(_count, steps, which, part)
    for kind, answer in answers.items():
        app.query(kind.removeprefix("query."), mods=around)(_answering(answer))
    for kind in SUM_KINDS:
        app.query(kind, mods=around)(_out_of_place)
    app.train(mods=around)(_answering(lambda turn, said: steps.train_round(turn, said[0], said[1])))
    app.evaluate(mods=around)(_answering(lambda _, said: steps.compare(said[0], said[1])))
    return app


def count_kind(place: int, part: int) -> str:
    """Return the kind of the question for counts: pass 0 or 1, and which part of the numeric fields."""
    return f"query.{PASSES[place]}{PARTS[part]}"


def _count(steps: NetworkBankSteps, which: str, part: int, _: int, said: Reply) -> Reply:
    return steps.count(which, part, said[0], said[2])


def _answering(answer: Callable[[int, Reply], Reply]) -> Callable[[Message, Context], Message]:
    def handle(message: Message, _context: Context) -> Message:
        reply = answer(int(message.metadata.group_id), parts_of(message.content))
        return Message(content=record_of(*reply), reply_to=message)

    return handle


def _out_of_place(message: Message, _context: Context) -> Message:
    raise PeerError(f"{message.metadata.message_type} was asked for outside a secret sum", "S05")


def _turning(steps: NetworkBankSteps) -> Mod:
    """Return the mod that tells a bank which question comes next, before anything else looks at it."""

    def turn(message: Message, context: Context, call_next: Callable[[Message, Context], Message]) -> Message:
        steps.turn(message.metadata.message_type, int(message.metadata.group_id))
        return call_next(message, context)

    return turn


__all__ = ["JUDGE", "NetworkStrategy", "Question", "count_kind", "make_network_app", "road"]
