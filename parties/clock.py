"""Where a node's time comes from: the system, or a simulation's fixed instant."""

from datetime import UTC, datetime, timedelta

FORMAT = "%Y-%m-%dT%H:%M:%SZ"


class SystemClock:
    """The operating system's time."""

    def now(self) -> str:
        """Return the time as `YYYY-MM-DDTHH:MM:SSZ` (UTC)."""
        return datetime.now(UTC).strftime(FORMAT)


class SimulatedClock:
    """A clock that stands still unless it is moved, so that a rerun writes the same times."""

    def __init__(self, start: str) -> None:
        self._now = datetime.strptime(start, FORMAT)

    def now(self) -> str:
        """Return the simulated time."""
        return self._now.strftime(FORMAT)

    def advance(self, seconds: int) -> None:
        """Move the clock forward."""
        self._now += timedelta(seconds=seconds)


def after(time: str, days: int) -> str:
    """Return the time `days` days after `time`."""
    return (datetime.strptime(time, FORMAT) + timedelta(days=days)).strftime(FORMAT)
