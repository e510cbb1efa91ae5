"""Where a node's time comes from: the system, or a simulation's fixed instant."""

import time
from datetime import UTC, datetime, timedelta

FORMAT = "%Y-%m-%dT%H:%M:%SZ"


class SystemClock:
    """The operating system's time."""

    _told = (-1, "")  # the second that was told last, and how it is written: it is asked for many times within one

    def now(self) -> str:
        """Return the time as `YYYY-MM-DDTHH:MM:SSZ` (UTC)."""
        second, told = self._told
        if second != (now := int(time.time())):
            told = datetime.fromtimestamp(now, UTC).strftime(FORMAT)
            self._told = now, told
        return told


class SimulatedClock:
    """A clock that stands still unless it is moved, so that a rerun writes the same times."""

    def __init__(self, start: str) -> None:
        self._now = datetime.strptime(start, FORMAT)
        self._told = self._now.strftime(FORMAT)

    def now(self) -> str:
        """Return the simulated time."""
        return self._told

    def advance(self, seconds: int) -> None:
        """Move the clock forward."""
        self._now += timedelta(seconds=seconds)
        self._told = self._now.strftime(FORMAT)


def now_of(simulated: str | None) -> str:
    """Return the fixed time of a trial's node, the system's where it has none."""
    return SystemClock().now() if simulated is None else SimulatedClock(simulated).now()


def kept_past(retain_until: str, now: str) -> str:
    """Return what is to be said of a model that is past its time, "" while it may be kept."""
    return (
        "" if now < retain_until else f"was to be kept until {retain_until} and its contract is over; train a new one"
    )


def quarter_of(time: str) -> str:
    """Return the calendar quarter of a time, such as 2026-Q3; quarters sort as they follow each other."""
    return f"{time[:4]}-Q{(int(time[5:7]) + 2) // 3}"


def later(time: str, seconds: int) -> str:
    """Return the time `seconds` seconds after `time`."""
    return (datetime.strptime(time, FORMAT) + timedelta(seconds=seconds)).strftime(FORMAT)


def after(time: str, days: int) -> str:
    """Return the time `days` days after `time`."""
    return (datetime.strptime(time, FORMAT) + timedelta(days=days)).strftime(FORMAT)
