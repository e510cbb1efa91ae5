"""Standing agreements at the platform: kept to be asked under, and ended by a person or by their time."""

import threading
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any

from lianxin.federation import wire
from lianxin.federation.contract import RunContract
from lianxin.federation.errors import InputFault
from lianxin.federation.scoring import MODEL as SCORING
from lianxin.federation.session import Session
from lianxin.parties.lobby import Lobby
from lianxin.parties.node import Node
from lianxin.parties.query_conversations import STANDING, end_expired, resumed_session
from lianxin.parties.query_platform import QueryDesk
from lianxin.parties.records import FirmTable
from lianxin.parties.retention import sweep_daily
from lianxin.parties.score_platform import ScoreDesk


class StandingDesks:
    """What a `PlatformNode` does for standing agreements, one desk each."""

    node: Node
    table: FirmTable
    lobby: dict[str, Lobby]
    desks: dict[str, QueryDesk]
    ended: MutableMapping[str, dict[str, Any]]
    _arrival: threading.Condition
    _row_of: Mapping[str, int]
    _end: Callable[..., None]

    def _begin_standing(
        self, contract: RunContract, sessions: Mapping[str, Session], signed: bytes, operator: str
    ) -> dict[str, Any]:
        """Keep a signed agreement to be asked under; nothing is trained and the next run may be led."""
        self.node.store.put_run(contract.run, STANDING, signed)
        self.node.contract_event(contract.run, contract.hash, "signed", operator=operator)
        self._stand(contract)
        for session in sessions.values():
            session.send(wire.SignedContract(contract=signed), "contract.agree")
        self.ended[contract.run] = {
            "run": contract.run, "state": STANDING, "contract": contract.hash, "expires_at": contract.expires_at,
            "model": contract.model,
        }  # fmt: skip
        return self.ended[contract.run]

    def _stand(self, contract: RunContract) -> None:
        kind = ScoreDesk if contract.model == SCORING else QueryDesk
        self.desks[contract.run] = kind(self.node, contract, self.table, self._row_of)
        self.node.say(f"agreement {contract.run} stands until {contract.expires_at}")

    def end(self, run: str, operator: str | None = None) -> dict[str, Any]:
        """End a standing agreement and return how; banks that are not connected learn it when they ask next.

        Raises InputFault when no such agreement stands.
        """
        desk = self.desks.pop(run, None)
        if desk is None:
            standing = ", ".join(sorted(self.desks)) or "none"
            raise InputFault(f"no standing agreement {run} is kept here (standing: {standing})")
        return self._end_standing(desk, operator or self.node.config.operator)

    def _end_standing(self, desk: QueryDesk, operator: str) -> dict[str, Any]:
        desk.close()
        contract = desk.contract
        self.node.contract_event(contract.run, contract.hash, "ended", operator=operator)
        self.node.ledger.checkpoint()  # with the mark: in an older copy the agreement stands
        with self._arrival:
            lobbies = {bank: self.lobby[bank] for bank in contract.banks if bank in self.lobby}
        sessions = {
            bank: resumed_session(self.node, contract, lobby.of(contract.run), f"contracts/{bank}")
            for bank, lobby in lobbies.items()
        }
        self._end(contract, sessions, "finished", "")
        for lobby in lobbies.values():
            lobby.drop(contract.run)
        told = sorted(sessions)
        self.node.say(f"agreement {contract.run} was ended by {operator}; told: {', '.join(told) or 'nobody'}")
        self.ended[contract.run] = {"run": contract.run, "state": "finished", "told": told, "matched": {}}
        return self.ended[contract.run]

    def _end_expired(self) -> None:
        """End the agreements whose time has passed: each side by itself, since no envelope may cross any more."""
        sweep_daily(self.node)
        due = [run for run, desk in list(self.desks.items()) if desk.contract.expires_at <= self.node.clock.now()]
        for desk in filter(None, (self.desks.pop(run, None) for run in due)):
            desk.close()
            end_expired(self.node, desk.contract)
