"""The platform's side of agreement: lobbies that runs share, banks that answer in their own time, and banks that withdraw.

A run that waits for people keeps nobody back: after GRACE_S it gives its place to another one and takes one again when all
have signed (`run_life`).
"""

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from lianxin.federation import wire
from lianxin.federation.channel import Channel
from lianxin.federation.contract import RunContract
from lianxin.federation.errors import ContractRefused, DeadlinePassed, LianxinError, PeerError, PeerGone, RunStopped
from lianxin.federation.session import PeerRefused, Session
from lianxin.parties.lobby import Lobby
from lianxin.parties.node import Node
from lianxin.parties.proposals_again import Offer
from lianxin.parties.run_life import WITHDRAWN, Place, RunCancelled, RunLife

CONNECT_DEADLINE_S = 60.0
APPROVAL_DEADLINE_S = 86400.0
HOLD_S = 0.5
GRACE_S = 2.0  # a run whose banks have not answered by then lets another one go on in its place


class LobbyDesk:
    """What a `PlatformNode` does in its banks' lobbies."""

    node: Node
    lobby: dict[str, Lobby]
    lives: dict[str, RunLife]
    _arrival: threading.Condition
    _closing: threading.Event
    _end_expired: Callable[[], None]

    def _hold(self, channel: Channel) -> None:
        """Hold a bank's lobby until it is gone, and hand each message to the run that its header names."""
        lobby = Lobby(channel, self._overheard)
        with self._arrival:
            self.lobby[channel.peer] = lobby
            self._arrival.notify_all()
        try:
            while not self._closing.is_set():
                self._end_expired()
                self._tell_silent()
                if not channel.is_cut():
                    self.node.heard_at[channel.peer] = time.monotonic()
                try:
                    self._hand(lobby, channel.receive(HOLD_S))
                except DeadlinePassed:
                    continue
        except PeerGone:
            return
        finally:
            lobby.end()
            with self._arrival:
                if self.lobby.get(channel.peer) is lobby:
                    del self.lobby[channel.peer]

    def _hand(self, lobby: Lobby, data: bytes) -> None:
        """Put a message before its run; what names none that is open is refused, what names nothing is for each to judge."""
        try:
            opened = wire.unseal(data)
        except LianxinError as fault:
            if not [run for run in lobby.runs if lobby.hand(run, data)]:
                self._unasked(lobby, getattr(fault, "rule", "W00"), None)
            return
        if not lobby.hand(opened.header["run"], data, isinstance(opened.message, wire.Refusal)):
            self._unasked(lobby, "S01", opened.message_hash)

    def _unasked(self, lobby: Lobby, rule: str, message_hash: str | None) -> None:
        self.node.trace.refused("", lobby.channel.peer, rule, "contract.agree", message_hash)
        lobby.unasked()

    def _overheard(self, run: str) -> None:
        """Stop a run under way in whose lobby a bank has refused; while it is agreed, whoever asks for approvals hears it."""
        life = self.lives.get(run)
        if life is not None and life.phase not in ("queued", "agreement"):
            life.stop(RunStopped(f"a bank ended run {run}"))

    def _tell_silent(self) -> None:
        """Say, once for each wait, who has been silent for long."""
        for wait in self.node.waits.silent():
            self.node.counts["heartbeats/missed"] += 1
            self.node.say(f"run {wait.run} waits for {wait.party} in {wait.step}", wait.run)

    # ---- agreement

    def _lobby_sessions(self, contract: RunContract, life: RunLife, place: Place) -> dict[str, Session]:
        began, banks = time.monotonic(), set(contract.banks)
        absent = sorted(banks)
        with self.node.waits.on(contract.run, ", ".join(absent), "connect", CONNECT_DEADLINE_S), self._arrival:
            while absent and time.monotonic() < began + CONNECT_DEADLINE_S:
                self._arrival.wait_for(lambda: banks <= set(self.lobby), HOLD_S)
                absent = sorted(banks - set(self.lobby))
                self._check(life)
                self._spare(place, began if absent else None)
            if absent:
                raise RunStopped(
                    f"{', '.join(absent)} did not connect within {CONNECT_DEADLINE_S:.0f} s; start the bank's node"
                )
            talks = {bank: self.lobby[bank].of(contract.run) for bank in contract.banks}
        return {bank: self.node.session(contract, ch, f"contracts/{bank}") for bank, ch in talks.items()}

    def _spare(self, place: Place, began: float | None) -> None:
        """Let another run go on where this one has waited since `began` for longer than a program takes to answer."""
        if began is not None and time.monotonic() > began + GRACE_S:
            place.give()

    def _refusal_of(self, contract: RunContract, refusal: PeerRefused) -> ContractRefused:
        cause = ContractRefused(f"{refusal.party} refused the contract of run {contract.run} (rule {refusal.rule}); "
                                "ask its operator what to change and launch a new run")  # fmt: skip
        cause.party, cause.step = refusal.party, "contract.agree"
        return cause

    def _withdrew(self, contract: RunContract, refusal: PeerRefused) -> RunCancelled:
        what = f"{refusal.party} withdrew from run {contract.run} (rule {WITHDRAWN})"
        cause = RunCancelled(what, WITHDRAWN)
        cause.party, cause.step = refusal.party, "contract.agree"
        return cause

    def _approval(self, bank: str, offer: Offer, life: RunLife, place: Place) -> bytes:
        """Return a bank's approval. Raises PeerRefused, naming the bank, as soon as any bank refuses.

        A bank that goes away meanwhile may come back, and is made the proposal again; PeerGone says that it did not.
        """
        began = time.monotonic()
        with self.node.waits.on(life.run, bank, "contract.agree", APPROVAL_DEADLINE_S):
            while True:
                self._check(life)
                offer.make_again(self.lobby.get)
                session = offer.sessions[bank]
                try:
                    data = session.channel.receive(HOLD_S)
                except (DeadlinePassed, PeerGone) as fault:
                    is_over = time.monotonic() > began + APPROVAL_DEADLINE_S
                    if is_over or (isinstance(fault, PeerGone) and not offer.may_return(bank)):
                        raise
                    self._spare(place, began)
                    self._hear_refusals(offer.sessions)
                    self._pause(fault)
                    continue
                try:
                    answer: Any = session.accept(data, "contract.agree", (wire.Approval,))
                except PeerError as fault:
                    fault.party, fault.step = session.peer, "contract.agree"
                    raise
                return bytes(answer.approval)

    def _pause(self, fault: LianxinError) -> None:
        """Wait a little for a bank to come to the lobby, where it is gone."""
        if isinstance(fault, PeerGone):
            with self._arrival:
                self._arrival.wait(HOLD_S)

    def _hear_refusals(self, sessions: Mapping[str, Session]) -> None:
        for session in sessions.values():
            while getattr(session.channel, "refused", False):
                session.receive("contract.agree", (wire.Approval,), 0.0)

    def _check(self, life: RunLife, sessions: Mapping[str, Session] | None = None) -> None:
        """Raise what ends a run that is not under way yet: a person, a bank, or the end of this node."""
        life.check()
        if self._closing.is_set():
            raise RunStopped(f"this node was stopped before run {life.run} began")
        self._hear_refusals(sessions or {})

    def _withdrawal(self, contract: RunContract, sessions: Mapping[str, Session]) -> LianxinError | None:
        """Return by what a bank ended the run in its lobby, None where none did."""
        for bank, session in sorted(sessions.items()):
            try:
                while getattr(session.channel, "refused", False):
                    session.receive("contract.agree", (wire.Approval,), 0.0)
            except PeerRefused as refusal:
                session.channel.refused = False  # type: ignore[attr-defined]
                if refusal.rule != WITHDRAWN:
                    return PeerError(
                        f"{bank} ended run {contract.run} by rule {refusal.rule}; see its log", refusal.rule
                    )
                what = f"{bank} withdrew from run {contract.run} (rule {WITHDRAWN})"
                return RunCancelled(what, WITHDRAWN)
            except PeerError:
                continue
        return None
