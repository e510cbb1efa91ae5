"""A code for each sentence that a person may be told, so that it can be looked up: `lianxin explain LX-1234`.

`error_codes.csv` beside this module has a line for each place in our code that makes an error: its code, module, functions,
class, rule and sentence with `{}` where a value stands. `tests/generate_errors.py` writes it from the source; a code is given
once and never to another sentence. What was raised is found again by its class, the functions it came through and its text.
"""

import csv
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

from lianxin.federation.errors import InputFault, LianxinError

FILE = Path(__file__).with_name("error_codes.csv")
COLUMNS = ("code", "module", "functions", "class", "rule", "sentence")
FAULT_OF_OURS, USAGE, STOPPED, PATH = "LX-0001", "LX-0002", "LX-0003", "LX-0004"
_HOLE = "{}"
_LONGEST = 4096  # characters of a message that are compared
_SHAPE = re.compile(r"LX-[0-9]{4}")
_TELLING, _TELLING_ALONE = 8, 20  # characters of its own that make a sentence known: in its class, and in another


class Entry(NamedTuple):
    """One code: where its error is made, as what class and by which rule, and its sentence with `{}` for values."""

    code: str
    module: str
    functions: str
    kind: str
    rule: str
    sentence: str

    @property
    def words(self) -> int:
        """Return how many characters of the sentence are fixed."""
        return len(self.sentence.replace(_HOLE, ""))


@cache
def entries() -> tuple[Entry, ...]:
    """Return every code that was ever given, by code. Raises OSError or ValueError where the package's file is broken."""
    with FILE.open(encoding="utf-8", newline="") as file:
        rows = csv.reader(file)
        if tuple(next(rows)) != COLUMNS:
            raise ValueError("error_codes.csv has other columns")
        return tuple(Entry(*row) for row in rows)


def code_of(fault: BaseException) -> str:
    """Return the code of what was caught, "" where none is known. It never fails: an error is told with a code or without."""
    given = getattr(fault, "code", "")
    if isinstance(given, str) and _SHAPE.fullmatch(given):
        return given
    try:
        return _found(fault)
    except Exception:  # an error about an error would hide the first one
        return ""


def explain(code: str) -> Entry:
    """Return a code's entry. Raises InputFault for what is no code, or none of this version."""
    wanted = code.upper() if code.upper().startswith("LX-") else f"LX-{code}"
    for entry in entries():
        if entry.code == wanted:
            return entry
    raise InputFault(
        "that is no error code of this version; codes look like LX-1001 and stand in brackets after an error's sentence, "
        "rules look like R02"
    )


def is_said_by(sentence: str, message: str) -> bool:
    """Return whether `message` is `sentence` with something in place of each `{}`; linear in the message's length."""
    first, *rest = sentence.split(_HOLE)
    if not rest:
        return message == sentence
    last = rest.pop()
    if not (message.startswith(first) and message.endswith(last) and len(message) >= len(first) + len(last)):
        return False
    at, end = len(first), len(message) - len(last)
    for part in rest:
        found = message.find(part, at, end)
        if found < 0:
            return False
        at = found + len(part)
    return True


def _found(fault: BaseException) -> str:
    message = str(fault)[:_LONGEST]
    near = {place: depth for depth, place in enumerate(_places(fault), 1)}
    said = [(entry, _order(entry, fault, near)) for entry in entries() if is_said_by(entry.sentence, message)]
    entry, order = max(said, key=lambda found: found[1], default=(None, _NOT))
    return entry.code if entry is not None and any(order[:2]) else _general(fault)


_Order = tuple[bool, bool, bool, int, int]
_NOT: _Order = (False, False, False, 0, 0)


def _order(entry: Entry, fault: BaseException, near: Mapping[tuple[str, str], int]) -> _Order:
    """Return how well an entry whose sentence fits names a fault: by its words, then by class, rule and place."""
    is_ours = entry.kind == type(fault).__name__ or type(fault) is LianxinError  # over a socket the class was lost
    depth = max((near.get((entry.module, function), 0) for function in entry.functions.split()), default=0)
    tells = entry.words >= (_TELLING if is_ours else _TELLING_ALONE)
    agrees = entry.rule in ("", getattr(fault, "rule", entry.rule))
    return tells, is_ours and depth > 0, is_ours and agrees, depth, entry.words


def _places(fault: BaseException) -> Iterator[tuple[str, str]]:
    """Yield the module and the function of each frame of ours that the fault came through, the innermost last."""
    trace = fault.__traceback__
    while trace is not None:
        frame = trace.tb_frame
        name = str(frame.f_globals.get("__name__", ""))
        if name.startswith("lianxin."):
            yield name.removeprefix("lianxin.").replace(".", "/"), frame.f_code.co_qualname.replace(".<locals>", "")
        trace = trace.tb_next


def _general(fault: BaseException) -> str:
    """Return the code of the nearest class that has one of its own, for a sentence that no line of the file has."""
    general = {entry.kind: entry.code for entry in entries() if entry.sentence == _HOLE and not entry.module}
    return next((general[one.__name__] for one in type(fault).__mro__ if one.__name__ in general), "")
