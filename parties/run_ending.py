"""The last steps of a run, done whatever happens to one of them: an end that is on disk is never taken back.

Once the leaf and the state of an end are written, the run has ended so. What follows (telling, a checkpoint, the evidence) is
tried again when a disk or this program fails in it, and what could not be done is said, with what to do about it.
"""

import logging
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from lianxin.federation.errors import LianxinError

if TYPE_CHECKING:
    from lianxin.parties.node import Node

TRIES, PAUSE_S = 2, 0.2
Step = tuple[str, Callable[[], object]]


def carry_out(node: "Node", run: str, steps: Sequence[Step]) -> list[str]:
    """Do all `steps`, each a name and what to do; return the names of those that failed twice. Raises nothing of theirs.

    A step that a peer ended (`LianxinError`) is not tried again: the peer would take it for another.
    """
    return [name for name, do in steps if not _is_done(node, run, name, do)]


def _is_done(node: "Node", run: str, name: str, do: Callable[[], object]) -> bool:
    for attempt in range(1, TRIES + 1):
        try:
            do()
            return True
        except LianxinError as fault:
            node.say(f"run {run}: {name} was not done: {fault}")
            return False
        except Exception as fault:
            logging.getLogger("lianxin").exception("a fault at the end of run %s (%s), attempt %d", run, name, attempt)
            node.say(f"run {run}: {name} failed ({type(fault).__name__}), attempt {attempt} of {TRIES}")
            time.sleep(PAUSE_S)
    node.say(
        f"run {run}: {name} could not be done; see that the disk of the state folder works, and start the node again"
    )
    return False
