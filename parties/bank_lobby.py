"""A bank's lobby, which its runs share: what comes is handed to its run, and each run has a thread of its own.

A bank may withdraw from a run: its part stops, the platform is told by a signed refusal (rule C13) in the run's own
conversation of the lobby, and the run ends there as failed.
"""

import logging
import threading
import time
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lianxin.federation import wire
from lianxin.federation.channel import Channel, Link
from lianxin.federation.contract import RunContract
from lianxin.federation.errors import DeadlinePassed, InputFault, LianxinError, PeerError, PeerGone, RunStopped
from lianxin.federation.session import Session
from lianxin.parties.bank_road import PlatformRoad
from lianxin.parties.boundary_clock import seconds_between
from lianxin.parties.fault_words import fault_words
from lianxin.parties.lobby import Lobby
from lianxin.parties.node import Node
from lianxin.parties.run_life import WITHDRAWN, RunCancelled
from lianxin.parties.run_remedies import failed, tell, terms_of
from lianxin.parties.runs_left import RULE, end_left, expired

if TYPE_CHECKING:
    from lianxin.parties.bank_worker import Worker

POLL_S = 0.5
RECONNECT_S = 1.0
APPROVAL_DEADLINE_S = 86400.0
JOIN_DEADLINE_S = 30.0
FAREWELL_S = 60.0
FULL_S = 5.0
MOST_AT_ONCE = 256  # runs in one lobby: proposals that wait for people cost a thread each


@dataclass
class Part:
    """A bank's part in a run since its proposal: where it stands, for people, and the word by which a person leaves it."""

    run: str
    phase: str = "proposed"
    contract: RunContract | None = None
    leaving: RunCancelled | None = None
    began: float = field(default_factory=time.monotonic)
    session: Session | None = None


def _has_refused(session: Session) -> bool:
    """Tell the platform that this bank takes no further part; return whether that could be said: other runs go on beside."""
    try:
        session.refuse(RULE, "contract.agree")
    except Exception:
        logging.getLogger("lianxin").exception("a fault could not be told")
        return False
    return True


class BankLobby:
    """What a `BankNode` does in its lobby."""

    node: Node
    link: Link
    road: PlatformRoad
    members: "dict[str, Worker]"
    parts: dict[str, Part]
    pending: dict[str, Any]
    ended: MutableMapping[str, dict[str, Any]]
    _stop: threading.Event
    _end_expired: Callable[[], None]
    _answer: Callable[[Channel, bytes], None]
    _close: Callable[..., None]
    decide: Callable[[str, bool, str], None]

    def serve(self) -> None:
        """Hold the lobby and answer proposals until `close`; a platform that goes away is dialled again."""
        for member in list(self.members.values()):
            member.start()
        while not self._stop.is_set():
            try:
                channel = self.link.open(f"contracts/{self.node.party}", "lobby")
            except PeerError as fault:
                if not isinstance(fault, PeerGone | DeadlinePassed):
                    raise
                self._is_away()
                continue
            self.road.look(channel)
            lobby = Lobby(channel)
            try:
                self._hold(lobby)
            except PeerGone:
                self._is_away()
            finally:
                lobby.end()
                channel.close()

    def _is_away(self) -> None:
        """Say that the platform is away, unless this node is being stopped, and wait before it is dialled again."""
        if not self._stop.is_set():
            self.road.lost()
        self._stop.wait(RECONNECT_S)

    def _hold(self, lobby: Lobby) -> None:
        while not self._stop.is_set():
            self._end_expired()
            self._tell_silent()
            self.road.look(lobby.channel)
            try:
                data = lobby.channel.receive(POLL_S)
            except DeadlinePassed:
                continue
            self._hear(lobby, data)

    def _tell_silent(self) -> None:
        """Say, once for each wait, who has been silent for long."""
        for wait in self.node.waits.silent():
            self.node.counts["heartbeats/missed"] += 1
            self.node.say(f"run {wait.run} waits for {wait.party} in {wait.step}", wait.run)

    def _hear(self, lobby: Lobby, data: bytes) -> None:
        """Hand a message to its run; what begins or ends one has a thread of its own."""
        try:
            run = str(wire.unseal(data).header["run"])
        except LianxinError:
            run = ""  # nothing can be read off it: it is judged, and refused, by itself
        if run and lobby.hand(run, data):
            return
        if len(lobby.runs) >= MOST_AT_ONCE or (run and run in self.parts):
            self.node.trace.refused("", lobby.channel.peer, "S05", "contract.agree", None)
            lobby.unasked()
            return
        lobby.of(run)
        threading.Thread(target=self._quietly, args=(lobby, run, data), daemon=True, name=f"run {run}").start()

    def _quietly(self, lobby: Lobby, run: str, data: bytes) -> None:
        talk = lobby.of(run)
        self.parts[run] = Part(run)
        try:
            self._answer(talk, data)
        except PeerGone as gone:
            self.node.say(f"left {run}: {gone}", run)
        except LianxinError as failure:
            self.node.say(f"refused: {failure}", run)
        except Exception as fault:
            logging.getLogger("lianxin").exception("a fault at a message in the lobby")
            self.node.trace.refused("", talk.peer, "W00", "contract.agree", None)
            self.node.say(
                f"refused: a message of {talk.peer} that this program could not read ({type(fault).__name__})", run
            )
            self._broken(lobby, run, fault)
        finally:
            self.parts.pop(run, None)
            lobby.drop(run)

    def _broken(self, lobby: Lobby, run: str, fault: Exception) -> None:
        """A fault of this program, or of its disk, ended a run's thread here: end the run, and hang up, so that nobody waits.

        What the platform had to say it says again when this bank dials anew.
        """
        part, worker = self.parts.get(run), self.members.pop(run, None)
        session = part.session if part is not None else None
        if worker is not None and not worker.is_done and not worker.contract.is_network:
            worker.stop()
            end_left(self.node, worker.contract, fault_words(fault, f"run {run}"), self.ended, step="contract.close")
        elif worker is not None and worker.contract.is_network:
            self.members[run] = worker
        elif session is not None and self.node.store.run(run) is None:
            self._break_off(session.contract, RunStopped(fault_words(fault, f"run {run}")))
        if len(lobby.runs) == 1 or session is None or not _has_refused(session):
            lobby.channel.close("a fault of this program")

    # ---- waits of one run

    def _await(self, session: Session, step: str, types: tuple[Any, ...], deadline_s: float | None = None) -> Any:
        """Return the platform's next word on a run.

        Raises RunCancelled when a person here leaves the run, RunStopped at the contract's or this node's end,
        DeadlinePassed, and PeerGone with the lobby.
        """
        contract, part = session.contract, self.parts.get(session.contract.run)
        left = seconds_between(contract.expires_at, self.node.clock.now())
        until = time.monotonic() + (left if deadline_s is None else deadline_s)
        with self.node.waits.on(contract.run, session.peer, step, until - time.monotonic()):
            while not self._stop.is_set():
                if part is not None and part.leaving is not None:
                    word, part.leaving = part.leaving, None
                    raise word
                try:
                    data = session.channel.receive(POLL_S)
                except DeadlinePassed:
                    self._check_time(contract, until if deadline_s else None)
                    continue
                kind = wire.unseal(data).message
                actual = "contract.close" if isinstance(kind, wire.RunStatus) else step
                return session.accept(data, actual, types)
        raise RunStopped("this node was stopped while a run was under way")

    def _check_time(self, contract: RunContract, until: float | None) -> None:
        if contract.expires_at <= self.node.clock.now():
            raise expired(contract)
        if until is not None and time.monotonic() > until:
            raise DeadlinePassed(f"{contract.platform} said nothing of run {contract.run} in the time that it had")

    def _is_full(self, contract: RunContract) -> bool:
        """Return whether as many runs as may go on here do so already, also after a moment's patience."""
        until = time.monotonic() + FULL_S
        while not contract.is_standing and len(self.members) >= self.node.config.runs.at_once:
            if time.monotonic() > until or self._stop.wait(POLL_S / 5):
                return True
        return False

    def _break_off(self, contract: RunContract, fault: LianxinError, rule: str = RULE, operator: str = "") -> None:
        """End a run here that was approved and is not signed by all: nothing of it was begun."""
        if self._stop.is_set():
            return
        self.node.contract_event(contract.run, contract.hash, "failed", rule, *([operator] if operator else []))
        parties = (contract.platform, *contract.banks)
        record = failed(contract.run, fault, self.node.party, parties, "contract.agree", rule)
        self.ended[contract.run] = record | terms_of(contract)
        self.node.say(f"run {contract.run} failed: {fault}")

    # ---- a bank that withdraws

    def leave(self, run: str, operator: str, reason: str = "") -> None:
        """Withdraw from a run, by rule C13, in the name of `operator`; a proposal that waits is refused.

        Raises InputFault for a run in which this bank takes no part now.
        """
        if run in self.pending:
            self.decide(run, False, operator)
            return
        part, why = self.parts.get(run), f": {reason}" if reason else ""
        said = f"{operator} of {self.node.party} withdrew from run {run} (rule {WITHDRAWN}){why}"
        if part is not None:
            part.leaving = RunCancelled(said, WITHDRAWN, operator)
            return
        member = self.members.pop(run, None)
        if member is None:
            row, known = self.node.store.run(run), getattr(self.ended, "known", self.ended.get)(run)
            state = f"is {row.state} here" if row is not None else "is not known here"
            raise InputFault(f"run {run} {state}, not under way; {tell(known or {}) or 'see `lianxin bank runs`'}")
        member.stop()
        end_left(self.node, member.contract, said, self.ended, WITHDRAWN, operator)

    def _withdraw(self, session: Session, contract: RunContract, word: RunCancelled, worker: "Worker | None") -> None:
        """Stop this bank's part, tell the platform, and take its word on the run's end."""
        if worker is not None:
            self.members.pop(contract.run, None)
            worker.stop()
            worker.join(JOIN_DEADLINE_S)
        session.refuse(WITHDRAWN, "contract.agree")
        try:
            status: Any = None
            while not isinstance(status, wire.RunStatus):
                status = self._await(session, "contract.agree", (wire.SignedContract, wire.RunStatus), FAREWELL_S)
        except LianxinError:
            if self.node.store.run(contract.run) is None:
                self._break_off(contract, word, WITHDRAWN, word.operator)
            else:
                end_left(self.node, contract, str(word), self.ended, WITHDRAWN, word.operator)
            return
        self._close(session, contract, status, worker, word)
