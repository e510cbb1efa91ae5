"""The Flower apps: thin adapters between Flower's messages and the star's two sides.

ServerApp and strategy run on the platform, one ClientApp in each bank, from installed packages only. A run is
`query.match` and `query.count` (round 0), `train` for each round, `evaluate` at the end; each is one Flower message to
each bank, and inside it the bank talks to the platform's matching and vertical conversations. What the apps do is
passed in: `PlatformSteps` and `BankSteps` are implemented where the data is.

Counts and gradients of several banks are secret sums (`sum_mod`): the platform opens the total alone. A bank that is lost
before it gave its value is left out of the sum, where the threshold of banks is there without it; one that is lost later
counts. Below the threshold the round stays closed: if the contract says `rerun` and enough banks remain, it is run again
with the others under a fresh attempt, whose masks are new; else the run stops. One bank has nobody to add to.

Boosted trees are a tree a round. Each bank's ensemble is its own: nothing is summed, a lost bank leaves the others' tree
as it is, and a bank that has stopped early is asked for no further tree.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import numpy as np

from lianxin.federation import grid as road  # sets Flower's environment before Flower is imported

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict  # isort: skip
from flwr.clientapp import ClientApp  # isort: skip
from flwr.serverapp import Grid, ServerApp  # isort: skip
from flwr.serverapp.strategy import Result, Strategy  # isort: skip

from lianxin.federation.contract import RunContract
from lianxin.federation.errors import PeerError, RunStopped
from lianxin.federation.secure_sum import SumBelowThreshold
from lianxin.federation.secure_sum_leader import SumLeader, Summed
from lianxin.federation.secure_sum_request import AGREE, KEYS, OPEN, SHARES, SUMMAND, vector_of

Numbers = dict[str, int]
Texts = dict[str, str]
Arrays = dict[str, np.ndarray]
Mod = Callable[[Message, Context, Callable[[Message, Context], Message]], Message]
COUNT, TRAIN = "query.count", "train"


class PlatformSteps(Protocol):
    """What the platform does with the banks' replies.

    Trees have `counted` and `trained` of the replies by bank, a scorecard of the sum over the banks (`Summed`), which has
    them. Attempts, and `summand` (length and ring of what is summed), are a scorecard's alone.
    """

    def matched(self, replies: dict[str, tuple[Arrays, Numbers, Texts]]) -> None: ...

    def summand(self, kind: str) -> tuple[int, int]: ...

    def counted(self, replies: Any) -> None: ...

    def selected(self, replies: dict[str, tuple[Arrays, Numbers, Texts]]) -> None: ...

    def next_attempt(self) -> int: ...

    def before_round(self, round_number: int) -> None: ...

    def drop_round(self, lost: Sequence[str]) -> None: ...

    def trained(self, round_number: int, replies: Any) -> Numbers: ...

    def evaluated(self, replies: dict[str, tuple[Arrays, Numbers, Texts]]) -> None: ...


class BankSteps(Protocol):
    """What a bank does when it is told to; each returns what goes back."""

    def match(self) -> tuple[Arrays, Numbers, Texts]: ...

    def count(self, texts: Texts) -> tuple[Arrays, Numbers, Texts]: ...

    def select(self) -> tuple[Arrays, Numbers, Texts]: ...

    def train(self, round_number: int, numbers: Numbers, texts: Texts) -> tuple[Arrays, Numbers, Texts]: ...

    def evaluate(self, numbers: Numbers) -> tuple[Arrays, Numbers, Texts]: ...


def record_of(arrays: Arrays, numbers: Numbers, texts: Texts) -> RecordDict:
    """Return Flower's content of named arrays, whole numbers and texts."""
    content: dict[str, Any] = {}
    if arrays:
        content[road.ARRAYS] = ArrayRecord({name: road.Array(values) for name, values in arrays.items()})
    if numbers:
        content[road.METRICS] = MetricRecord(dict(numbers))
    if texts:
        content[road.CONFIG] = ConfigRecord(dict(texts))
    return RecordDict(content)


def parts_of(content: RecordDict) -> tuple[Arrays, Numbers, Texts]:
    """Return (arrays, numbers, texts) of Flower's content, each empty where it has none."""
    arrays = content.array_records.get(road.ARRAYS, ArrayRecord())
    numbers = content.metric_records.get(road.METRICS, MetricRecord())
    texts = content.config_records.get(road.CONFIG, ConfigRecord())
    return (
        {name: road.values_of(array) for name, array in arrays.items()},
        {name: int(value) for name, value in numbers.items()},  # type: ignore[arg-type]
        {name: str(value) for name, value in texts.items()},
    )


class StarStrategy(Strategy):
    """Flower's strategy for the star: a reply floor, replies by party id, rounds that are opened whole or not at all."""

    def __init__(self, contract: RunContract, steps: PlatformSteps) -> None:
        self.contract, self.steps = contract, steps
        self._sums = SumLeader(contract, is_secret=True)
        self._banks: dict[int, str] = {}
        self._numbers: Numbers = {"restart": 0}
        self._told: set[str] = set()

    def summary(self) -> None:
        """Nothing to log: the contract says it all."""

    def start(self, grid: Grid, initial_arrays: ArrayRecord | None = None, **_options: Any) -> Result:  # type: ignore[override]
        """Run matching, counting, the contract's rounds and the evaluation. Raises RunStopped by the contract's rules."""
        self._banks = dict(grid.banks)  # type: ignore[attr-defined]
        self.steps.matched(self._ask(grid, "query.match", 0, {}, {}, floor=len(self._banks)))
        self.steps.counted(self._count(grid))
        if self.contract.max_vif_hundredths:
            self.steps.selected(self._ask(grid, "query.select", 0, {}, {}, floor=len(self._banks)))
        for round_number in range(1, self.contract.rounds + 1):
            self._round(grid, round_number)
        self._evaluate(grid, self.contract.rounds + 1)
        return Result()

    def _count(self, grid: Grid) -> Summed:
        """Return the sum of all banks' counts; a bank that is not in it stops the run before training."""
        try:
            summed = self._sum(grid, COUNT, 0, 0, {})
        except SumBelowThreshold as fault:
            if not (lost := self._newly_lost(grid)):
                raise
            raise self._not_through(grid, COUNT, lost) from fault
        if absent := sorted(set(self._banks.values()) - set(summed.contributors)):
            raise self._not_through(grid, COUNT, absent)
        return summed

    def _round(self, grid: Grid, round_number: int) -> None:
        self.steps.before_round(round_number)
        while True:
            attempt = self.steps.next_attempt()
            try:
                summed = self._sum(grid, TRAIN, round_number, attempt, {**self._numbers, "attempt": attempt})
            except SumBelowThreshold as fault:
                if not (lost := self._newly_lost(grid)):
                    raise
                self._let_go(grid, lost)
                if fault.stage == "open":
                    raise RunStopped(
                        f"{', '.join(lost)} left while the sum of round {round_number} was being opened, and a bank opens "
                        "one sum a round; launch the run again"
                    ) from fault
                continue
            self._numbers = self.steps.trained(round_number, summed)
            self._let_go(grid, self._newly_lost(grid))
            return

    def _sum(self, grid: Grid, kind: str, round_number: int, attempt: int, numbers: Numbers) -> Summed:
        """Return the sum over the banks that are there. Raises SumBelowThreshold where too few stay."""
        banks = [self._banks[node] for node in sorted(grid.get_node_ids())]
        (length, width), ask = self.steps.summand(kind), partial(self._say, grid)
        if len(self._banks) > 1:
            return self._sums.run(ask, kind, round_number, attempt, [banks], numbers, {}, length, width)[0]
        replies, lost = ask(kind, round_number, numbers, {bank: {} for bank in banks})
        if lost or not replies:
            raise self._not_through(grid, kind, list(self._banks.values()))
        arrays = next(iter(replies.values()))[0]
        if SUMMAND not in arrays:
            raise PeerError(f"{banks[0]} answered {kind} without its '{SUMMAND}'", "L04")
        return Summed(vector_of(arrays[SUMMAND], width), tuple(banks), replies)

    def _say(
        self, grid: Grid, kind: str, round_number: int, numbers: Numbers, texts: Mapping[str, Texts]
    ) -> tuple[dict[str, tuple[Arrays, Numbers, Texts]], list[str]]:
        """Ask the banks of `texts`; return (their replies, those that are lost)."""
        here = [node for node in sorted(grid.get_node_ids()) if self._banks[node] in texts]
        asked = [
            grid.create_message(record_of({}, numbers, texts[self._banks[node]]), kind, node, str(round_number))
            for node in here
        ]
        replies = self._parts(reply for reply in grid.send_and_receive(asked) if not reply.has_error())
        return replies, sorted(set(texts) - set(replies))

    def _newly_lost(self, grid: Grid) -> list[str]:
        left = {self._banks[node] for node in grid.get_node_ids()}
        lost = sorted(set(self._banks.values()) - left - self._told)
        self._told |= set(lost)
        return lost

    def _evaluate(self, grid: Grid, last: int) -> None:
        """Have each bank that is left evaluate; one that is lost now may not have its model, and counts as lost in a round."""
        replies = list(grid.send_and_receive(self.configure_evaluate(last, ArrayRecord(), ConfigRecord(), grid)))
        self._let_go(grid, [self._banks[reply.metadata.src_node_id] for reply in replies if reply.has_error()])
        self.aggregate_evaluate(last, replies)

    def _let_go(self, grid: Grid, lost: Sequence[str]) -> None:
        """Go on without these banks. Raises RunStopped where the contract says so."""
        if lost:
            self.steps.drop_round(lost)
            self._check_floor(len(list(grid.get_node_ids())), lost, grid)

    def _check_floor(self, left: int, lost: Sequence[str], grid: Grid) -> None:
        floor = max(2, self.contract.min_banks)
        if self.contract.on_loss == "stop" or left < floor:
            cause = getattr(grid, "lost", {}).get(lost[0])
            raise RunStopped(f"{', '.join(lost)} left the run: {cause}; by the contract the run stops here")

    def _not_through(self, grid: Grid, kind: str, lost: Sequence[str]) -> RunStopped:
        cause, when = getattr(grid, "lost", {}).get(lost[0]), "" if kind == TRAIN else " before training"
        return RunStopped(f"{', '.join(lost)} did not come through {kind}: {cause}; the run stops{when}")

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> list[Message]:
        """Return nothing: a scorecard's rounds are led by `start`, in the stages of a secret sum."""
        return []

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return nothing: sums are opened by `start`."""
        return None, None

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> list[Message]:
        """Return one `evaluate` message a bank that is still there."""
        return _messages(
            grid, sorted(grid.get_node_ids()), "evaluate", server_round, {"restart": self._numbers["restart"]}, {}
        )

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Keep what the banks let be known of their held-out rows."""
        answered = [reply for reply in replies if not reply.has_error()]
        self.steps.evaluated(self._parts(answered))
        return None

    def _ask(
        self, grid: Grid, kind: str, round_number: int, numbers: Numbers, texts: Texts, floor: int
    ) -> dict[str, tuple[Arrays, Numbers, Texts]]:
        asked = _messages(grid, sorted(grid.get_node_ids()), kind, round_number, numbers, texts)
        replies = list(grid.send_and_receive(asked))
        lost = [self._banks[reply.metadata.src_node_id] for reply in replies if reply.has_error()]
        if len(replies) - len(lost) < floor:
            raise self._not_through(grid, kind, lost)
        return self._parts(replies)

    def _parts(self, replies: Iterable[Message]) -> dict[str, tuple[Arrays, Numbers, Texts]]:
        return {self._banks[reply.metadata.src_node_id]: parts_of(reply.content) for reply in replies}


class EnsembleStrategy(StarStrategy):
    """Flower's strategy for boosted trees: `train` is the next tree at every bank whose ensemble still grows."""

    def __init__(self, contract: RunContract, steps: PlatformSteps) -> None:
        super().__init__(contract, steps)
        self._stopped: set[str] = set()

    def start(self, grid: Grid, initial_arrays: ArrayRecord | None = None, **_options: Any) -> Result:  # type: ignore[override]
        """Run matching, key exchange, the trees and the evaluation. Raises RunStopped by the contract's rules."""
        self._banks = dict(grid.banks)  # type: ignore[attr-defined]
        self.steps.matched(self._ask(grid, "query.match", 0, {}, {}, floor=len(self._banks)))
        self.steps.counted(self._ask(grid, COUNT, 0, {}, {}, floor=len(self._banks)))
        for tree in range(1, self.contract.trees + 1):
            if not self._growing(grid):
                break
            self._tree(grid, tree)
        self._evaluate(grid, self.contract.trees + 1)
        return Result()

    def _growing(self, grid: Grid) -> list[int]:
        return [node for node in sorted(grid.get_node_ids()) if self._banks[node] not in self._stopped]

    def _tree(self, grid: Grid, tree: int) -> None:
        self.steps.before_round(tree)
        asked = self.configure_train(tree, ArrayRecord(), ConfigRecord(), grid)
        replies = list(grid.send_and_receive(asked))
        lost = [self._banks[reply.metadata.src_node_id] for reply in replies if reply.has_error()]
        if lost:
            self.steps.drop_round(lost)
            self._check_floor(len(list(grid.get_node_ids())), lost, grid)
        self.aggregate_train(tree, [reply for reply in replies if not reply.has_error()])

    def _check_floor(self, left: int, lost: Sequence[str], grid: Grid) -> None:
        if self.contract.on_loss == "stop" or left < max(1, self.contract.min_banks):
            cause = getattr(grid, "lost", {}).get(lost[0])
            raise RunStopped(f"{', '.join(lost)} left the run: {cause}; by the contract the run stops here")

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> list[Message]:
        """Return one `train` message to each bank whose ensemble grows; the round's number is the tree's."""
        return _messages(grid, self._growing(grid), "train", server_round, {}, {})

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Note which banks have stopped early; a reply that does not say is refused (L04)."""
        parts = self._parts(replies)
        self._stopped |= {bank for bank, (_, numbers, _) in parts.items() if number(numbers, "stopped")}
        self.steps.trained(server_round, parts)
        return None, None

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> list[Message]:
        """Return one `evaluate` message to each bank that is still there, whether its ensemble stopped early or not."""
        return _messages(grid, sorted(grid.get_node_ids()), "evaluate", server_round, {}, {})


def _messages(
    grid: Grid, nodes: Sequence[int], kind: str, round_number: int, numbers: Numbers, texts: Texts
) -> list[Message]:
    return [grid.create_message(record_of({}, numbers, texts), kind, node, str(round_number)) for node in nodes]


def make_server_app(strategy: Strategy) -> ServerApp:
    """Return the platform's ServerApp: it starts `strategy` on whatever grid it is given."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        strategy.start(grid, ArrayRecord())

    return app


def run_server_app(app: ServerApp, grid: Grid) -> None:
    """Run the ServerApp on `grid` to its end."""
    app(grid, Context(run_id=1, node_id=0, node_config={}, state=RecordDict(), run_config={}))


def make_client_app(steps: BankSteps, mods: Sequence[Mod] = ()) -> ClientApp:
    """Return a bank's ClientApp over what the bank does at each instruction; `mods` stand around what is summed."""
    app = ClientApp()
    for kind in (KEYS, SHARES, AGREE, OPEN) if mods else ():
        app.query(kind.removeprefix("query."), mods=list(mods))(_out_of_place)

    @app.query("match")
    def match(message: Message, _context: Context) -> Message:
        return _reply(message, steps.match())

    @app.query("count", mods=list(mods))
    def count(message: Message, _context: Context) -> Message:
        return _reply(message, steps.count(parts_of(message.content)[2]))

    @app.query("select")
    def select(message: Message, _context: Context) -> Message:
        return _reply(message, steps.select())

    @app.train(mods=list(mods))
    def train(message: Message, _context: Context) -> Message:
        _, numbers, texts = parts_of(message.content)
        return _reply(message, steps.train(int(message.metadata.group_id), numbers, texts))

    @app.evaluate()
    def evaluate(message: Message, _context: Context) -> Message:
        return _reply(message, steps.evaluate(parts_of(message.content)[1]))

    return app


def _out_of_place(message: Message, _context: Context) -> Message:
    raise PeerError(f"{message.metadata.message_type} was asked for outside a secret sum", "S05")


def _reply(message: Message, parts: tuple[Arrays, Numbers, Texts]) -> Message:
    return Message(content=record_of(*parts), reply_to=message)


def number(numbers: Numbers, name: str) -> int:
    """Return a named whole number of a message. Raises PeerError (L04) when it is not there."""
    if name not in numbers:
        raise PeerError(f"an instruction came without its '{name}'", "L04")
    return numbers[name]


StrategyFactory = Callable[[RunContract, PlatformSteps], Strategy]


def strategy_of(contract: RunContract, steps: Any) -> Strategy:
    """Return the strategy that leads a run of this contract's model; `steps` is the platform's side of that model."""
    if contract.is_network:
        from lianxin.federation.federated import NetworkStrategy

        return NetworkStrategy(contract, steps)
    kind = EnsembleStrategy if contract.model == "boosted_trees" else StarStrategy
    return kind(contract, steps)
