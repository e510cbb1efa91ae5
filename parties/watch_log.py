"""A node's log: one line an event on standard error, as text or as a JSON object, with no value and no text of a peer.

What is written is what `Node.say` notes, refusals and alarms as they come into the ledger (`watch_tail`), and faults of
this program without any exception's text (`fault_log`). An event that repeats is written five times a minute; how often
it came in between is said by the next one. Without `open_log`, as in a simulation, notes go nowhere.
"""

import json
import logging
import re
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, datetime
from typing import IO, Any

from lianxin.parties.clock import FORMAT
from lianxin.parties.fault_log import WITHOUT_TEXT

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
EVENTS = logging.getLogger("lianxin.events")
EVENTS.addHandler(logging.NullHandler())  # else Python would print warnings of a simulation's nodes
REPEATS, WINDOW_S, MOST_KEYS = 5, 60.0, 512
_RUN = r"(?P<run>[a-z0-9-]{3,64})"
_KINDS = [
    (re.compile(pattern), event, level)
    for pattern, event, level in (
        (rf"run {_RUN} (failed|cancelled)", "run-failed", "warning"),
        (rf"failed {_RUN}:", "run-failed", "warning"),
        (rf"run {_RUN} finished", "run-finished", "info"),
        (rf"run {_RUN} proposed", "run-proposed", "info"),
        (rf"run {_RUN} is resumed", "run-resumed", "info"),
        (rf"agreement {_RUN} stands", "agreement-stands", "info"),
        (rf"agreement {_RUN} (has ended|was ended by )", "agreement-ended", "info"),
        (rf"waiting for approval of {_RUN}", "approval-awaited", "info"),
        (r"approved ", "approved", "info"),
        (rf"refused {_RUN}:", "proposal-refused", "warning"),
        (r"refused: ", "message-refused", "warning"),
        (r"phase ", "phase", "info"),
        (r"lost ", "bank-lost", "warning"),
        (r"stopped: ", "run-stopped", "warning"),
        (r"connected", "connected", "info"),
        (r"[a-z0-9-]{3,64} is away since ", "platform-away", "warning"),
        (rf"dialling again for run {_RUN}", "dialled-again", "info"),
        (r"revoked ", "revoked", "info"),
        (r"the cosignature of ", "cosignature-refused", "warning"),
        (r"rolled back ", "rolled-back", "warning"),
        (rf"run {_RUN}[ :]", "note", "info"),
    )
]


def log_note(party: str, what: str, run: str = "", level: str = "info") -> None:
    """Write what a node noted to its log, if it keeps one; the event's name and run are read off our own sentence."""
    event, named, kind = classify(what)
    chosen = kind if level == "info" else level
    log_event(party, event, chosen, run or named, {"what": what})


def log_event(party: str, event: str, level: str, run: str, fields: dict[str, Any]) -> None:
    """Write one event; `fields` are counts, rules, party ids and sentences of this program."""
    number = LEVELS[level]
    if EVENTS.isEnabledFor(number):
        EVENTS.log(number, "%s", event, extra={"party": party, "run": run, "event": event, "fields": fields})


def classify(what: str) -> tuple[str, str, str]:
    """Return the event's name, the run that the sentence names ("" for none) and the level of a note."""
    for pattern, event, level in _KINDS:
        if found := pattern.match(what):
            return event, found.groupdict().get("run") or "", level
    return "note", "", "info"


class Repeats(logging.Filter):
    """Lets an event through five times a minute; the next one after that says how many were left out."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._now, self._lock = now, threading.Lock()
        self._seen: OrderedDict[tuple[Any, ...], tuple[float, int, int]] = OrderedDict()

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the record is written; one that is may carry `left_out`."""
        what = getattr(record, "fields", {}).get("what", record.getMessage())
        key, now = (record.levelno, record.msg, what), self._now()
        with self._lock:
            since, count, left_out = self._seen.pop(key, (now, 0, 0))
            if now - since >= WINDOW_S:
                since, count = now, 0
            is_written = count < REPEATS
            self._seen[key] = (since, count + 1, 0 if is_written else left_out + 1)
            while len(self._seen) > MOST_KEYS:
                self._seen.popitem(last=False)
        if is_written and left_out:
            record.left_out = left_out
        return is_written


def _told(record: logging.LogRecord, party: str) -> dict[str, Any]:
    """Return a record as what is written of it: only what this program said, never an exception's text."""
    own = getattr(record, "event", "")
    told = {
        "time": datetime.fromtimestamp(record.created, UTC).strftime(FORMAT), "level": record.levelname.lower(),
        "party": getattr(record, "party", party), "run": getattr(record, "run", ""), "event": own or "fault",
    }  # fmt: skip
    told |= getattr(record, "fields", {}) if own else {"what": record.getMessage()}
    told |= {"left_out": left_out} if (left_out := getattr(record, "left_out", 0)) else {}
    return told | ({"trace": record.exc_text} if record.exc_text else {})


class JsonLines(logging.Formatter):
    """One JSON object a line."""

    def __init__(self, party: str) -> None:
        super().__init__()
        self._party = party

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        return json.dumps(_told(record, self._party), ensure_ascii=False, sort_keys=True)


class TextLines(JsonLines):
    """One line of text an event: time, level, party, run, event, then what there is more; a trace keeps its lines.

    What begins with the event's name is not said twice: `approved bank-1`, `connected`.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        told = _told(record, self._party)
        head = [str(told.pop(name)) or "-" for name in ("time", "level", "party", "run", "event")]
        trace, what = str(told.pop("trace", "")), f"{told.pop('what', '')} ".removeprefix(f"{head[-1]} ").strip()
        more = [f"{name}={value}" for name, value in sorted(told.items())]
        line = " ".join(" ".join([*head, *([what] if what else []), *more]).splitlines())
        return f"{line}\n{trace}" if trace else line


def open_log(
    form: str, level: str, party: str, stream: IO[str] | None = None, now: Callable[[], float] = time.monotonic
) -> logging.Handler:
    """Write the log of `party` to `stream` (standard error) from now on, as `text` or `json`, from `level` on.

    Whoever asks twice has two logs; `close_log` ends one.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines(party) if form == "json" else TextLines(party))
    handler.addFilter(WITHOUT_TEXT)
    handler.addFilter(Repeats(now))
    logger = logging.getLogger("lianxin")
    logger.setLevel(min(LEVELS[level], logger.level or LEVELS[level]))
    handler.setLevel(LEVELS[level])
    logger.addHandler(handler)
    return handler


def close_log(handler: logging.Handler) -> None:
    """Write no more to this log."""
    logger = logging.getLogger("lianxin")
    logger.removeHandler(handler)
    if not logger.handlers:
        logger.setLevel(logging.NOTSET)
    handler.close()
