"""What one peer may cost a node at its door: sizes, rates and bytes, counted for each authenticated party. No gRPC, no clock.

    L10  a message longer than `message_bytes`; the conversation ends (over 4 MiB gRPC itself ends the stream, unread)
    L11  more dials than `dials_per_minute`; told "no room now", so that an honest bank comes again
    L12  messages faster than `messages_per_s` after a burst: not refused, but read no faster than that
    L13  more than `run_bytes` in one run, both directions together; the conversation ends
    L14  more than `day_bytes` within one day of the clock, both directions together; the conversation ends
    L17  more conversations in all than `conversations_in_all`; told "no room now"

Bytes count both ways because a bank that breaks and resumes its streams is sent a window anew each time (`resumption`).
A dial of nobody that is pinned here counts for its network address alone, so that it uses up nobody's share.

Memory is bounded: parties are those that are pinned, of each party RUNS_KEPT runs and of all addresses ADDRESSES_KEPT are
remembered, the oldest go first. Who opens ever new runs to start at nothing again still has `day_bytes` over all of them.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from lianxin.federation.errors import PeerError, PeerGone

ADDRESSES_KEPT = 1024
RUNS_KEPT = 64
LONGEST_HOLD_S = 1.0
_SAVED_EVERY_BYTES = 2**24


@dataclass(frozen=True)
class Limits:
    """Sizes in bytes, rates by second or minute, each for one peer; the two `in_all` for everybody together."""

    message_bytes: int = 4 * 2**20
    messages_per_s: int = 5_000
    message_burst: int = 50_000
    dials_per_minute: int = 600
    run_bytes: int = 64 * 2**30
    day_bytes: int = 512 * 2**30
    conversations: int = 32
    conversations_in_all: int = 512
    connections_in_all: int = 512


class TooOften(PeerGone):
    """A peer dials more often than it may (L11): worth another attempt, later."""


class Bucket:
    """A token bucket: `rate` tokens a second, at most `burst` of them kept. Times are seconds of any steady clock."""

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate, self._burst, self._level, self._at = rate, burst, burst, now

    def take(self, now: float) -> float:
        """Take one token and return how many seconds ago it should not have been taken yet, 0 when it was there."""
        self._fill(now)
        self._level -= 1
        return max(-self._level / self._rate, 0)

    def take_if_there(self, now: float) -> bool:
        """Take one token if there is one; return whether there was."""
        self._fill(now)
        if self._level < 1:
            return False
        self._level -= 1
        return True

    def _fill(self, now: float) -> None:
        self._level = min(self._burst, self._level + max(now - self._at, 0) * self._rate)
        self._at = max(now, self._at)


class DayKept(Protocol):
    """Where the bytes of a day outlive a restart."""

    def read(self, party: str, day: str) -> int: ...

    def write(self, party: str, day: str, count: int) -> None: ...


@dataclass
class _Account:
    """What one party has cost so far."""

    messages: Bucket
    dials: Bucket
    runs: "OrderedDict[str, int]" = field(default_factory=OrderedDict)
    day: str = ""
    of_day: int = 0
    saved: int = 0
    held_back: bool = False


class Toll:
    """Counts what each peer costs. Safe between threads.

    `steady` returns seconds, `today` the day as text; `note(rule, party)` hears of what is held back but not refused.
    """

    def __init__(
        self,
        limits: Limits,
        steady: Callable[[], float],
        today: Callable[[], str],
        note: Callable[[str, str], None] = lambda _rule, _party: None,
        kept: DayKept | None = None,
    ) -> None:
        self.limits = limits
        self._steady, self._today, self._note, self._kept = steady, today, note, kept
        self._accounts: dict[str, _Account] = {}
        self._addresses: OrderedDict[str, Bucket] = OrderedDict()
        self._lock = threading.Lock()

    def dial(self, party: str) -> None:
        """Count a dial of an authenticated party. Raises TooOften (L11)."""
        with self._lock:
            if not self._account(party).dials.take_if_there(self._steady()):
                raise TooOften(f"{party} dialled over {self.limits.dials_per_minute} times a minute.", "L11")

    def is_worth_telling(self, address: str, uri: str | None) -> bool:
        """Count a refused dial of a network address and return whether it is one of the first that one minute allows.

        One of a pinned peer, whose `uri` is known, always is: its dials are counted by `dial`.
        """
        if uri is not None:
            return True
        with self._lock:
            now = self._steady()
            bucket = self._addresses.setdefault(address, self._dials(now))
            self._addresses.move_to_end(address)
            if len(self._addresses) > ADDRESSES_KEPT:
                self._addresses.popitem(last=False)
            return bucket.take_if_there(now)

    def heard(self, party: str, run: str, size: int) -> float:
        """Count a message that came in; return for how many seconds nothing more should be read from this stream.

        Raises PeerError: L10, L13 or L14.
        """
        if size > self.limits.message_bytes:
            raise PeerError(f"{party} sent a message of {size} bytes where {self.limits.message_bytes} may be.", "L10")
        with self._lock:
            account = self._account(party)
            hold = min(account.messages.take(self._steady()), LONGEST_HOLD_S)
            begins, account.held_back = hold > 0 and not account.held_back, hold > 0
            self._charge(party, account, run, size)
        if begins:
            self._note("L12", party)
        return hold

    def said(self, party: str, run: str, size: int) -> None:
        """Count a message that goes out. Raises PeerError: L13 or L14."""
        with self._lock:
            self._charge(party, self._account(party), run, size)

    def bytes_of(self, party: str) -> tuple[dict[str, int], int]:
        """Return (bytes of each run that is remembered, bytes of today) of a party."""
        with self._lock:
            account = self._account(party)
            self._turn_day(party, account)
            return dict(account.runs), account.of_day

    def save(self) -> None:
        """Keep what was counted since the last time."""
        with self._lock:
            for party, account in self._accounts.items():
                if account.of_day != account.saved:
                    self._save(party, account)

    def _charge(self, party: str, account: _Account, run: str, size: int) -> None:
        self._turn_day(party, account)
        account.runs[run] = account.runs.pop(run, 0) + size
        if len(account.runs) > RUNS_KEPT:
            account.runs.popitem(last=False)
        account.of_day += size
        if account.of_day - account.saved >= _SAVED_EVERY_BYTES:
            self._save(party, account)
        if account.runs[run] > self.limits.run_bytes:
            raise PeerError(_over(party, f"run {run}", self.limits.run_bytes, "run_bytes"), "L13")
        if account.of_day > self.limits.day_bytes:
            raise PeerError(_over(party, "one day", self.limits.day_bytes, "day_bytes"), "L14")

    def _turn_day(self, party: str, account: _Account) -> None:
        day = self._today()
        if day != account.day:
            account.day = day
            account.of_day = account.saved = self._kept.read(party, day) if self._kept else 0

    def _save(self, party: str, account: _Account) -> None:
        account.saved = account.of_day
        if self._kept is not None:
            self._kept.write(party, account.day, account.of_day)

    def _account(self, party: str) -> _Account:
        account = self._accounts.get(party)
        if account is None:
            now = self._steady()
            messages = Bucket(self.limits.messages_per_s, self.limits.message_burst, now)
            account = self._accounts[party] = _Account(messages, self._dials(now))
        return account

    def _dials(self, now: float) -> Bucket:
        return Bucket(self.limits.dials_per_minute / 60, self.limits.dials_per_minute, now)


def _over(party: str, where: str, limit: int, key: str) -> str:
    return f"{party} and this node exchanged over {limit} bytes in {where} ([limits] {key}): raise it if that is right."
