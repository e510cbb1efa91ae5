"""What `lianxin doctor` says: a line for each thing that was looked at, ok, warn or fail, with what to do about it.

`doctor_machine` looks at the machine and the installation, `doctor_node` at one node's file and what it names. Nothing is
changed; a running node is not disturbed.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from lianxin.crypto.errors import CryptoError
from lianxin.federation.errors import LianxinError
from lianxin.parties.error_codes_paths import said_of

OK, WARN, FAIL = "ok", "warn", "fail"


class Line(NamedTuple):
    """One thing: its name, `state` (ok, warn or fail), what was found, and what to do where it is not ok."""

    what: str
    state: str
    found: str
    remedy: str = ""

    def text(self) -> str:
        """Return the line as it is printed."""
        more = f"; {self.remedy}" if self.remedy else ""
        return f"{self.state:<4}  {self.what}: {self.found}{more}"


def guarded(what: str, look: Callable[[], Iterable[Line]], remedy: str) -> Iterator[Line]:
    """Yield what `look` finds; what it raises is a failure of `what`: our own sentences as they are, others by their kind."""
    try:
        yield from look()
    except (LianxinError, CryptoError) as fault:
        yield from (Line(what, FAIL, one) for one in getattr(fault, "lines", [str(fault)]))
    except Exception as fault:  # whatever is broken here, the other lines are wanted all the more
        if said := said_of(fault):
            yield Line(what, FAIL, said)
        else:
            yield Line(what, FAIL, f"it could not be looked at ({type(fault).__name__})", remedy)


def each_once(lines: Iterable[Line]) -> list[Line]:
    """Return the lines, each failure told where it was met first: what fails by the same sentence again was not looked at."""
    first: dict[str, str] = {}
    told: list[Line] = []
    for line in lines:
        where = first.setdefault(line.found, line.what) if line.state == FAIL else line.what
        again = Line(line.what, WARN, f"not looked at because of {where}", f"mend {where} first")
        told.append(line if where == line.what else again)
    return told


def worst(lines: Iterable[Line]) -> int:
    """Return the exit code: 2 when something failed, else 0; a warning is told and fails nothing."""
    return 2 if any(line.state == FAIL for line in lines) else 0
