"""Which runs go on at once at a platform, which wait, and how a person cancels one or lets it go on.

Runs are led in the order in which they were launched, `[runs] at_once` of them at once; those behind them are queued in the
store, and go on after a restart. A run that was cancelled ends `failed` by rule C12 on every node.
"""

import logging
import threading
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any

from lianxin.federation.contract import RunContract
from lianxin.federation.errors import InputFault, LianxinError, RunStopped
from lianxin.federation.session import Session
from lianxin.parties import run_queue
from lianxin.parties.active_run import ActiveRun
from lianxin.parties.agreement import open_contract
from lianxin.parties.config import RunConfig
from lianxin.parties.node import Node
from lianxin.parties.run_life import CANCELLED, Place, Places, RunCancelled, RunLife
from lianxin.parties.run_remedies import failed, tell
from lianxin.parties.runs_resumed import take_up

END_AGAIN_S = 2.0


class RunTurns:
    """What a `PlatformNode` does about the turns of its runs."""

    node: Node
    lives: dict[str, RunLife]
    runs: dict[str, ActiveRun]
    ended: MutableMapping[str, dict[str, Any]]
    desks: Mapping[str, Any]
    places: Places
    resumed: list[str]
    _left: list[RunContract]
    _queueing: threading.Lock
    _closing: threading.Event
    check: Callable[[RunConfig], None]
    _draft: Callable[[RunConfig], RunContract]
    _fail: Callable[..., LianxinError]
    _lead: Callable[[RunContract, RunLife, Place], dict[str, Any]]
    _lead_again: Callable[[RunContract], None]

    def launch(self, config: RunConfig, operator: str | None = None) -> dict[str, Any]:
        """Lead a run to its end, once its turn has come, and return its summary.

        Raises InputFault where it cannot be led or too many wait, else the LianxinError that ended it, after telling the
        banks.
        """
        return self._take_turn(self._enqueue(config, operator))

    def submit(self, config: RunConfig, operator: str | None = None) -> int:
        """Queue a run, to be led in a thread of its own, and return how many wait before it. Raises as `launch`."""
        life = self._enqueue(config, operator)
        self._spawn(life)
        return self.places.before(life.number)

    def _enqueue(self, config: RunConfig, operator: str | None) -> RunLife:
        limits = self.node.config.runs
        with self._queueing:
            self.check(config)
            if len(self.lives) >= limits.at_once + limits.queued:
                raise InputFault(
                    f"{len(self.lives)} runs are under way or wait at this platform, as many as it may have; wait until one "
                    "has ended, or raise queued in its [runs]"
                )
            life = self.lives[config.run] = run_queue.keep(self.node, config, operator or self.node.config.operator)
            self.places.enter(life.number)
        self.ended.pop(config.run, None)
        return life

    def _spawn(self, life: RunLife) -> None:
        threading.Thread(target=self._lead_quietly, args=(life,), daemon=True, name=f"run {life.run}").start()

    def _lead_quietly(self, life: RunLife) -> None:
        try:
            self._take_turn(life)
        except LianxinError as failure:
            if not self._closing.is_set():
                self.ended.setdefault(life.run, failed(life.run, failure, self.node.party, life.banks, life.phase))
                self.node.say(f"failed {life.run}: {failure}")
        except Exception:
            logging.getLogger("lianxin").exception("a fault while run %s was led", life.run)

    def _take_turn(self, life: RunLife) -> dict[str, Any]:
        place = Place(self.places, life, lambda: self._check_turn(life))
        try:
            contract = self._begin(life, place)
            return self._lead(contract, life, place)
        finally:
            self.places.leave(life.number)
            place.give()
            self.lives.pop(life.run, None)

    def _check_turn(self, life: RunLife) -> None:
        life.check()
        if self._closing.is_set():
            raise RunStopped(
                f"this node was stopped while run {life.run} waited; it goes on when the node is started again"
            )

    def _begin(self, life: RunLife, place: Place) -> RunContract:
        """Wait for the run's turn and return its contract. A run that was cancelled or cannot be drafted any more ends."""
        if before := self.places.before(life.number):
            self.node.say(f"run {life.run} is queued behind {before}")
        try:
            place.take()
            contract = self._draft(run_queue.terms_of(self.node, life.run))
        except LianxinError as fault:
            if not self._closing.is_set() or life.stopped is not None:
                self._end_queued(life, fault)
            raise
        return contract

    def _end_queued(self, life: RunLife, fault: LianxinError) -> None:
        rule, operator = str(getattr(fault, "rule", "RUN")), getattr(fault, "operator", "") or life.operator
        leaf = {"kind": "refusal", "run": life.run, "peer": "", "rule": rule, "step": "queue"}
        self.node.ledger.append(leaf, operator)
        self.node.store.set_run_state(life.run, "failed", rule)
        run_queue.forget(self.node, life.run)
        self.ended[life.run] = failed(life.run, fault, self.node.party, life.banks, "queue", rule)

    def _fail_at_last(
        self, contract: RunContract, sessions: Mapping[str, Session], active: ActiveRun | None, fault: Exception
    ) -> LianxinError:
        """End a run as failed and return what a person should read.

        While this node's disk takes nothing, that is tried again until it does: else the banks would wait and the run never
        end. A node that is stopped meanwhile ends the run, or goes on with it, at its next start.
        """
        life, tries = self.lives.get(contract.run), 0
        phase = life.phase if life else ""
        while True:
            try:
                return self._fail(contract, sessions, active, fault)
            except Exception:
                if self._closing.is_set():
                    raise
                self._tell_unended(contract.run, tries)
            tries += 1
            self._closing.wait(END_AGAIN_S)
            if life is not None:
                life.phase = phase  # it broke off there, not where it was to be ended

    def _tell_unended(self, run: str, tries: int) -> None:
        if tries:
            return  # once is enough, most of all where the disk is full
        logging.getLogger("lianxin").exception("a fault while run %s was ended", run)
        self.node.say(f"run {run} cannot be ended yet; see that the disk of the state folder works and has room", run)

    # ---- after a restart, and by a person

    def take_up(self) -> None:
        """Go on with the runs that were under way or queued when this node ended, each in a thread of its own."""
        self.resumed = [contract.run for contract in self._left]
        for contract in self._left:
            threading.Thread(target=self._lead_again, args=(contract,), daemon=True, name="resumed run").start()
        for life in run_queue.left(self.node):
            if life.run not in self.lives:
                self.lives[life.run] = life
                self.places.enter(life.number)
                self._spawn(life)

    def cancel(self, run: str, operator: str, reason: str = "") -> None:
        """End a run that is queued or under way, by rule C12, in the name of `operator`.

        It has ended, and the banks that are there have been told, when it is in `ended`. Raises InputFault for a run that is
        neither, or that is nearly over.
        """
        life = self.lives.get(run)
        if life is None:
            raise InputFault(self._not_under_way(run))
        why = f": {reason}" if reason else ""
        said = f"{operator} of {self.node.party} cancelled run {run} (rule {CANCELLED}){why}"
        life.stop(RunCancelled(said, CANCELLED, operator))
        active = self.runs.get(run)
        if active is not None:
            active.finish()
        self.node.say(f"run {run} is cancelled")

    def resume(self, run: str) -> str:
        """Let a queued or interrupted run go on, and return what happens with it. Raises InputFault where nothing can."""
        life, row = self.lives.get(run), self.node.store.run(run)
        if life is not None:
            return f"run {run} goes on by itself: {life.phase_now(self.runs.get(run))}"
        if row is not None and row.state == run_queue.QUEUED:
            waiting = [one for one in run_queue.left(self.node) if one.run == run]
            for one in waiting:
                self.lives[run] = one
                self._spawn(one)
            return f"run {run} is queued again"
        if (
            row is not None
            and row.state == "running"
            and take_up(self.node, open_contract(row.contract), self.runs, self.ended)
        ):
            contract = open_contract(row.contract)
            self.adopt(contract)
            threading.Thread(target=self._lead_again, args=(contract,), daemon=True, name="resumed run").start()
            return f"run {run} is resumed"
        raise InputFault(self._not_under_way(run))

    def adopt(self, contract: RunContract) -> None:
        """Give a run that goes on from its checkpoint a life of its own."""
        life = RunLife(contract.run, -1, self.node.config.operator).described(contract, "running")
        self.lives[contract.run] = self.runs[contract.run].life = life

    def _not_under_way(self, run: str) -> str:
        row, known = self.node.store.run(run), getattr(self.ended, "known", self.ended.get)(run)
        if row is None:
            return f"run {run} is not known here; see `lianxin platform runs`"
        if run in self.desks:
            return f"{run} is a standing agreement; end it with `lianxin platform end`"
        return f"run {run} is {row.state}, not under way; {tell(known or {}) or 'launch a new one under another id'}"
