"""Standing agreements at a bank: kept to ask under, and ended by the platform or by their time."""

from collections.abc import Callable, MutableMapping
from typing import TYPE_CHECKING, Any

from lianxin.federation import wire
from lianxin.federation.channel import Channel, Link
from lianxin.federation.contract import RunContract
from lianxin.federation.scoring import MODEL as SCORING
from lianxin.parties.bank_lobby import Part
from lianxin.parties.identifiers import identifiers_are_uscc
from lianxin.parties.node import Node
from lianxin.parties.query_bank import BankQueries
from lianxin.parties.query_conversations import end_expired, resumed_session
from lianxin.parties.records import LoanTable
from lianxin.parties.retention import sweep_daily
from lianxin.parties.runs_left import end_left, expired
from lianxin.parties.score_bank import BankScores

if TYPE_CHECKING:
    from lianxin.parties.bank_worker import Worker


class StandingAskers:
    """What a `BankNode` does for standing agreements, and for contracts whose time has passed."""

    node: Node
    link: Link
    table: LoanTable
    standing: dict[str, BankQueries]
    members: "dict[str, Worker]"
    parts: dict[str, Part]
    ended: MutableMapping[str, dict[str, Any]]
    _close: Callable[..., None]

    def _stand(self, contract: RunContract) -> None:
        """Keep an agreement ready to be asked under; the lobby goes on."""
        has_codes = identifiers_are_uscc(self.table.identifiers)
        kind = BankScores if contract.model == SCORING else BankQueries
        self.standing[contract.run] = kind(self.node, contract, self.link, has_codes)
        self.node.say(f"agreement {contract.run} stands until {contract.expires_at}")

    def _end_standing(self, channel: Channel, data: bytes, run: str) -> None:
        contract = self.standing[run].contract
        session = resumed_session(self.node, contract, channel, f"contracts/{self.node.party}")
        status = session.accept(data, "contract.close", (wire.RunStatus,))
        self.standing.pop(run).close()
        self._close(session, contract, status, None)

    def _end_expired(self) -> None:
        """End the agreements whose time has passed: each side by itself, since no envelope may cross any more."""
        sweep_daily(self.node)
        for run, asker in list(self.standing.items()):
            if asker.contract.expires_at <= self.node.clock.now():
                self.standing.pop(run).close()
                end_expired(self.node, asker.contract)
                self.ended[run] = {"run": run, "state": "finished", "rule": "", "error": ""}
        for run, member in list(self.members.items()):
            if run not in self.parts and member.contract.expires_at <= self.node.clock.now():
                self.members.pop(run).stop()
                end_left(self.node, member.contract, str(expired(member.contract)), self.ended)
