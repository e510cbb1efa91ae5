"""A bank's side of a run while it goes on: a thread that takes the platform's instructions, and what it leaves on disk.

A network's thread outlives its platform and its own process. When the learning conversation ends before the run does,
it dials the next one, `learning/<bank>/<n>`, with n counted durably; a bank that was killed does so from its
checkpoint, which is on disk before the answer that rests on it leaves. A joint model's run ends with its conversation.
"""

import json
import logging
import threading
from collections.abc import Callable
from concurrent.futures import BrokenExecutor
from typing import Any

from lianxin.federation.channel import Channel
from lianxin.federation.contract import RunContract
from lianxin.federation.errors import DeadlinePassed, LianxinError, PeerGone, RunStopped
from lianxin.parties import checkpoint
from lianxin.parties.bank_evaluation import write_evaluation
from lianxin.parties.bank_side import BankSide, ResumableSide
from lianxin.parties.fault_words import fault_words
from lianxin.parties.lineage import BY_ROW, CHANCES
from lianxin.parties.node import WORKERS_LOST, Node
from lianxin.parties.retention import write_beside, write_model
from lianxin.parties.run_ending import carry_out
from lianxin.parties.run_link import RunLink

REDIAL_S = 1.0
END_S, ENDS_S, JOIN_DEADLINE_S = 5.0, 5.0, 30.0


class Worker(threading.Thread):
    """Runs a bank's ClientApp until the run is over; `over` is set by whoever hears that it is."""

    def __init__(self, node: Node, contract: RunContract, run: BankSide, link: RunLink, again: bool = False) -> None:
        super().__init__(daemon=True)
        self.again = again
        self.node, self.contract, self.work, self.link = node, contract, run, link
        self.failure: LianxinError | None = None
        self.over = threading.Event()

    def stop(self) -> None:
        """End this bank's part now: its conversations are closed, and no other is opened."""
        self.over.set()
        self.link.close()

    @property
    def is_done(self) -> bool:
        """Whether this bank's part is done and on disk, so that only the run's end is waited for."""
        return self.failure is None and self.work.finished and bool(self.work.result)

    def end_soon(self) -> None:
        """Wait for the thread to end by itself, since its conversations have; close what is still open after a while."""
        self.join(ENDS_S)
        if self.is_alive():
            self.link.close()
            self.join(JOIN_DEADLINE_S)

    def run(self) -> None:
        """Do the bank's part; what stopped it is in `failure` then."""
        try:
            self._follow(self.work) if isinstance(self.work, ResumableSide) else self._once(
                f"learning/{self.node.party}"
            )
        except LianxinError as failure:
            self._fail(failure)
        except (BrokenExecutor, TimeoutError):
            self._fail(RunStopped(WORKERS_LOST))
        except Exception as fault:
            logging.getLogger("lianxin").exception("a fault in run %s", self.contract.run)
            self._fail(RunStopped(fault_words(fault, f"run {self.contract.run}")))

    def _fail(self, failure: LianxinError) -> None:
        self.failure = failure
        self.node.say(f"stopped: {failure}", self.contract.run)

    def _once(self, name: str) -> None:
        channel = self.work.filler.watch(self.link.open(name, self.contract.run))
        try:
            self._answer(channel, name, self._writing(), lambda: self.work.finished)
            channel.finish()
        finally:
            self.work.filler.stop()
            channel.close()

    def _answer(self, channel: Channel, name: str, app: Any, is_over: Callable[[], bool]) -> None:
        from lianxin.federation.grid import answer_instructions  # Flower is loaded when a run begins, not before

        session = self.node.session(self.contract, channel, name)
        session.follows = True
        patience = float(self.contract.step_deadline_s) * (1 + len(self.contract.banks))
        answer_instructions(app, session, lambda: self.work.rights, patience, is_over)

    def _follow(self, work: ResumableSide) -> None:
        """Take part in one learning conversation after the other, until the run is over."""
        while not self.over.is_set():
            try:
                self._take_part(work)
            except (PeerGone, DeadlinePassed):
                pause = END_S if self.work.finished else REDIAL_S
                if not self.over.wait(pause):
                    self.node.say(f"dialling again for run {self.contract.run}")

    def _take_part(self, work: ResumableSide) -> None:
        number = self.node.store.reserve(f"learning/{self.contract.run}", 1)
        name = f"learning/{self.node.party}" + (f"/{number}" if number else "")
        channel = self.link.open(name, self.contract.run)
        try:
            self._answer(channel, name, self._keeping(work), self.over.is_set)
        finally:
            channel.close()

    def _writing(self) -> Callable[[Any, Any], Any]:
        """Return the ClientApp of a joint model's run, whose result is on disk before its last answer leaves."""
        app = self.work.client_app()

        def answer(asked: Any, context: Any) -> Any:
            reply = app(asked, context)
            if self.work.finished and self.work.result:
                self._write()
            return reply

        return answer

    def _write(self) -> None:
        """Write the result, at a second try where a disk fails once. Raises RunStopped: the platform must not count on it."""
        run = self.contract.run
        if self.over.is_set():
            raise RunStopped(f"run {run} had ended at {self.node.party} when its model was ready; nothing was written")
        if carry_out(self.node, run, [("the model", lambda: write_result(self.node, self.work))]):
            raise RunStopped(
                f"{self.node.party} could not write its model of run {run}; see that the disk of its state folder works, and "
                "launch the run anew under another id"
            )

    def _keeping(self, work: ResumableSide) -> Callable[[Any, Any], Any]:
        """Return the ClientApp, each answer of which is on disk before it leaves."""
        from lianxin.federation.federated import SUM_KINDS

        app, stages = work.client_app(), frozenset(f"query.{kind}" for kind in SUM_KINDS)

        def answer(asked: Any, context: Any) -> Any:
            reply = app(asked, context)
            if asked.metadata.message_type not in stages:
                checkpoint.write(self.node.run_folder(self.contract.run), work.checkpoint())
                if work.finished:
                    write_result(self.node, work)
            return reply

        return answer


def write_result(node: Node, run: BankSide) -> None:
    """Keep a run's held-out scores and, last, its model in the bank's own state folder: where it is, all is there."""
    folder = node.run_folder(run.contract.run)
    scores = {name: run.result[name] for name in BY_ROW} | {k: run.result[k] for k in CHANCES if k in run.result}
    write_beside(folder / "scores.json", json.dumps(scores).encode())
    write_evaluation(run, folder)
    write_model(folder, run.model_record())
