"""The same apps under Flower's own Grid: a stock SuperLink with SuperNodes, or its simulation runtime.

`PartyGrid` and `LocalGrid` know banks; a stock Grid knows nodes with random ids, in no order, that say themselves who
they are. `StockGrid` asks each who it is (`query.party`), gives the banks the places of their sorted ids, waits for
replies with a deadline, and hands them on by bank. `StockClient` is a ClientApp that finds the seat of the bank whose
message came; what goes wrong in a seat goes back as a rule id, where Flower would send the exception's text.

What a stock Grid does not have: mutual TLS by party, envelopes with signatures, the wire guard, the transcript. A bank
is who it says it is, until it signs the contract and the keys of its sums with its node key (docs/flower.md). A party's
node never takes this road and runs no code that it received.
"""

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from lianxin.federation import grid as road  # sets Flower's environment before Flower is imported

from flwr.app import ArrayRecord, Context, Error, Message, Metadata, RecordDict  # isort: skip
from flwr.clientapp import ClientApp  # isort: skip
from flwr.serverapp import Grid, ServerApp  # isort: skip
from flwr.serverapp.strategy import Strategy  # isort: skip

from lianxin.federation.apps import parts_of, record_of
from lianxin.federation.errors import DeadlinePassed, LianxinError, PeerError, RunStopped
from lianxin.federation.session import rule_id

PARTY, PROPOSE, SIGNED = "query.party", "query.propose", "query.signed"
_POLL_S = 0.1
# The seats of this process, by run and node: Flower's simulation copies the ClientApp itself for each message.
_seats: dict[tuple[int, int], "Seat"] = {}


class StockGrid(Grid):
    """A stock Grid as the strategies know one: banks in places 1..K by party id, bounded waits, replies in that order."""

    def __init__(self, stock: Grid, parties: Sequence[str], deadline_s: float) -> None:
        self._stock, self._deadline_s = stock, deadline_s
        self.banks = dict(enumerate(sorted(parties), start=1))
        self.lost: dict[str, LianxinError] = {}
        self._waiting: dict[str, tuple[Message, str]] = {}
        self._nodes = self._meet()
        self._places = {self._nodes[bank]: place for place, bank in self.banks.items()}

    def _meet(self) -> dict[str, int]:
        """Return each bank's node id. Raises RunStopped when the nodes that connect in time are not exactly the banks."""
        until = time.monotonic() + self._deadline_s
        while len(nodes := sorted(self._stock.get_node_ids())) < len(self.banks) and time.monotonic() < until:
            time.sleep(_POLL_S)
        asked = [Message(record_of({}, {"phase": 0}, {}), node, PARTY, group_id="0") for node in nodes]
        found: dict[str, int] = {}
        for reply in self._stock.send_and_receive(asked, timeout=self._deadline_s):
            party = "" if reply.has_error() else parts_of(reply.content)[2].get("party", "")
            if party in found:
                raise RunStopped(f"two nodes say that they are {party}; nothing was started")
            found[party] = reply.metadata.src_node_id
        if set(found) != set(self.banks.values()):
            raise RunStopped(
                f"{len(nodes)} nodes connected and {len(set(found) & set(self.banks.values()))} of the run's "
                f"{len(self.banks)} banks are among them; start one node a bank, and no other"
            )
        return found

    def set_run(self, run: Any) -> None:
        """Kept for Flower's interface: the stock Grid has its run."""

    @property
    def run(self) -> Any:
        """The stock Grid's description of the run."""
        return self._stock.run

    def get_node_ids(self) -> Sequence[int]:
        """Return the places of the banks that are still there."""
        return [place for place, bank in self.banks.items() if bank not in self.lost]

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Return an instruction to the bank in place `dst_node_id`; `group_id` is the round."""
        node = self._nodes[self.banks[dst_node_id]]
        return Message(content, node, message_type, ttl=ttl, group_id=group_id)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send messages; return the ids that the stock Grid gave them."""
        return self._stock.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies that are there."""
        return self._stock.pull_messages(message_ids)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Send each message and return the replies by party id; a bank that fails or is late gives an error reply."""
        asked = {message.metadata.dst_node_id: message for message in messages}
        replies = {
            reply.metadata.src_node_id: reply
            for reply in self._stock.send_and_receive(list(asked.values()), timeout=timeout or self._deadline_s)
        }
        return [self._taken(asked[node], replies.get(node)) for node in sorted(asked, key=self._places.__getitem__)]

    def _taken(self, asked: Message, reply: Message | None) -> Message:
        place = self._places[asked.metadata.dst_node_id]
        bank, kind = self.banks[place], asked.metadata.message_type
        if reply is None:
            self.lost[bank] = DeadlinePassed(f"{bank} did not answer {kind} within {self._deadline_s:.0f} s", "S03")
        elif reply.has_error():
            rule = rule_id(reply.error.reason or "")
            self.lost[bank] = PeerError(f"{bank} could not do {kind} (rule {rule})", rule)
        metadata = Metadata(1, "", place, 0, "", asked.metadata.group_id, 0.0, 1.0, kind)
        if bank in self.lost or reply is None:
            return Message(error=Error(road.LOST, getattr(self.lost[bank], "rule", "L01")), metadata=metadata)  # type: ignore[call-overload]
        return Message(content=reply.content, metadata=metadata)  # type: ignore[call-overload]

    def ask(self, kind: str, texts: Mapping[str, str]) -> dict[str, dict[str, str]]:
        """Return every bank's texts in answer to `texts`. Raises RunStopped where one did not answer."""
        asked = [self.create_message(record_of({}, {}, dict(texts)), kind, place, "0") for place in self.get_node_ids()]
        replies = self.send_and_receive(asked)
        if self.lost:
            raise RunStopped(f"{next(iter(self.lost.values()))}; nothing was started")
        return {self.banks[reply.metadata.src_node_id]: parts_of(reply.content)[2] for reply in replies}


class Seat(Protocol):
    """One bank in a process of a stock federation."""

    @property
    def party(self) -> str: ...

    @property
    def app(self) -> Any: ...

    def propose(self, contract: str) -> str: ...

    def signed(self, contract: str) -> None: ...

    def close(self) -> None: ...


class StockClient(ClientApp):
    """The ClientApp that a stock runtime loads. `take_seat(node_config, run_config)` opens a bank, once in a run."""

    def __init__(self, take_seat: Callable[[Mapping[str, Any], Mapping[str, Any]], Seat]) -> None:
        super().__init__()
        self._take_seat = take_seat

    def __call__(self, message: Message, context: Context) -> Message:
        """Answer one message; a failure goes back as its rule id and nothing else."""
        try:
            return self._answer(message, context)
        except LianxinError as failure:
            rule = getattr(failure, "rule", "L01")
            logging.getLogger("lianxin").error("a bank could not do %s: %s", message.metadata.message_type, failure)
        except Exception:
            rule = "L01"
            logging.getLogger("lianxin").exception("a fault in %s", message.metadata.message_type)
        return Message(Error(road.LOST, rule), reply_to=message)

    def _answer(self, message: Message, context: Context) -> Message:
        place = (context.run_id, context.node_id)
        if place not in _seats:
            _seats[place] = self._take_seat(context.node_config, context.run_config)
        seat, kind = _seats[place], message.metadata.message_type
        texts = parts_of(message.content)[2]
        if kind == PARTY:
            return _said(message, party=seat.party)
        if kind == PROPOSE:
            return _said(message, approval=seat.propose(texts.get("contract", "")))
        if kind == SIGNED:
            seat.signed(texts.get("contract", ""))
            return _said(message, party=seat.party)
        reply = seat.app(message, context)
        if kind == "evaluate":
            seat.close()
        return reply


def _said(message: Message, **texts: str) -> Message:
    return Message(record_of({}, {}, texts), reply_to=message)


def make_stock_server(
    lead: Callable[[Callable[[Sequence[str], float], StockGrid], Mapping[str, Any]], None],
) -> ServerApp:
    """Return the ServerApp that a stock runtime loads: `lead(grid_of, run_config)` leads the run.

    `grid_of(banks, deadline_s)` gives the Grid for a strategy once every bank is there.
    """
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        lead(lambda parties, deadline_s: StockGrid(grid, parties, deadline_s), context.run_config)

    return app


def start(strategy: Strategy, grid: StockGrid) -> None:
    """Run a strategy on a stock Grid to its end."""
    strategy.start(grid, ArrayRecord())
