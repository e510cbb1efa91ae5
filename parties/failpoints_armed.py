"""One fault, armed: at the n-th time that a failpoint is reached, something bad happens, once.

Written `point/when:action:nth`, as `envelope-send/after:sigkill:3`. A node of a trial reads it from the environment variable
LIANXIN_FAILPOINT when it is opened; a production node does not start while that is set. Tests arm the same in one process.
"""

import errno
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from lianxin.crypto import failpoints
from lianxin.federation.errors import InputFault

VARIABLE = "LIANXIN_FAILPOINT"
WHEN = ("before", "after")
DELAY_S = 0.25


class Panic(Exception):
    """A fault of the program that nobody foresaw, made on purpose."""


def _fail(code: int) -> None:
    raise OSError(code, os.strerror(code))


def _panic() -> None:
    raise Panic


ACTIONS: Mapping[str, Callable[[], None]] = {
    "panic": _panic,
    "delay": lambda: time.sleep(DELAY_S),
    "eio": lambda: _fail(errno.EIO),
    "enospc": lambda: _fail(errno.ENOSPC),
    "sigkill": lambda: os.kill(os.getpid(), signal.SIGKILL),
}


@dataclass
class Fault:
    """What happens (`action`) at the `nth` time that `place`, such as `decrypt/after`, is reached. `hits` counts all places.

    A call of it is what `failpoints.arm` asks for. Safe to share between threads.
    """

    place: str
    action: str
    nth: int = 1
    hits: Counter[str] = field(default_factory=Counter)
    has_struck: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def __call__(self, name: str) -> None:
        """Note that `name` was reached, and strike where it is due. Raises Panic or OSError when that is what is armed."""
        with self._lock:
            self.hits[name] += 1
            is_due = name == self.place and not self.has_struck and self.hits[name] >= self.nth
            self.has_struck |= is_due
        if is_due:
            self.strike()

    def strike(self) -> None:
        """Do what the fault does. Raises Panic or OSError when that is what is armed."""
        ACTIONS[self.action]()

    def __str__(self) -> str:
        return f"{self.place}:{self.action}:{self.nth}"


def parse_fault(text: str) -> Fault:
    """Return the fault that is written `point/when:action:nth`. Raises InputFault for anything else."""
    place, _, rest = text.partition(":")
    action, _, nth = rest.partition(":")
    point, _, when = place.partition("/")
    is_known = point in failpoints.POINTS and when in WHEN and action in ACTIONS
    if not is_known or not nth.isascii() or not nth.isdecimal() or not 1 <= len(nth) <= 9 or int(nth) == 0:
        raise InputFault(
            f"{VARIABLE} is no fault: write POINT/before or POINT/after, an action and which time, such as "
            "envelope-send/after:sigkill:3 (docs/faults.md), or unset it"
        )
    return Fault(place, action, int(nth))


def arm_for(profile: str, environment: Mapping[str, str] = os.environ) -> Fault | None:
    """Arm what the environment asks of a node of `profile` and return it, None where it asks for nothing.

    Raises InputFault where a production node would start armed, and for a text that is no fault.
    """
    text = environment.get(VARIABLE)
    if text is None:
        return None
    if profile != "trial":
        raise InputFault(
            f"{VARIABLE} is set, which makes a node fail on purpose, and this is a {profile} node; unset it and start again"
        )
    fault = parse_fault(text)
    failpoints.arm(fault)
    return fault
