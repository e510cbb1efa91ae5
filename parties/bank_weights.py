"""Which weights a bank of a network takes: only those that all banks were asked about, so that none is asked of alone.

The first weights follow from the contract. Where rounds are judged, each candidate is judged once, and the next round
brings the candidate if it stands and the weights of before if it does not; the last question brings those that stand.
So weights that were made for one bank would have to be judged by it first, as the one candidate of a round, and what is
asked in a sum is the same at every bank or the sum is never opened. Where rounds are not judged, the first weights are
checked, and one set of weights a round is taken.

What is kept here is part of the bank's checkpoint, which is on disk before an answer leaves.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from lianxin.federation.errors import PeerError

RULE = "NN04"
_NOTHING = -1


@dataclass
class WeightsTaken:
    """Digests of the weights that stand and of the last candidate, with what this bank found of it.

    `settled` is the last round of which it is known which weights it begins with. `loss` (2^-20 nats) over `rows` rows
    held back, and `word` (1 worse, 0 not, -1 none), are of the candidate of round `judged_in`; `least` over `least_rows`
    is of the best weights that stood. Rows are 0 where nothing was judged.
    """

    is_judged: bool
    standing: str = ""
    settled: int = 0
    candidate: str = ""
    judged_in: int = _NOTHING
    is_answered: bool = False
    loss: int = 0
    rows: int = 0
    word: int = _NOTHING
    least: int = 0
    least_rows: int = 0

    def settle(self, round_number: int, digest: str, stands: bool) -> None:
        """Take the weights that a round begins with. Raises PeerError (NN04) when they are not the ones that stand."""
        if self.settled == round_number:
            self._check(digest == self.standing, "a round was asked for again with other weights")
            return
        is_next = stands and self.is_judged
        if is_next:
            self._check(self.judged_in == round_number - 1, "weights are said to stand that were not judged")
        if self.is_judged or round_number == 1:
            expected = self.candidate if is_next else self.standing
            self._check(digest == expected, "weights came that are not the ones that stand")
        if is_next and self.rows and (not self.least_rows or self.loss * self.least_rows < self.least * self.rows):
            self.least, self.least_rows = self.loss, self.rows
        self.standing, self.settled = digest, round_number

    def judge(self, round_number: int, digest: str) -> bool:
        """Take a round's candidate; return whether it was answered before. Raises PeerError (NN04) for another one."""
        if self.judged_in == round_number:
            self._check(digest == self.candidate, "a second candidate came to be judged in one round")
            return self.is_answered
        self._check(self.is_judged and self.settled == round_number, "weights came to be judged out of turn")
        self._check(bool(round_number) or digest == self.standing, "the first weights are not the contract's")
        self.candidate, self.judged_in, self.is_answered = digest, round_number, False
        return False

    def answer(self, loss: int, rows: int, word: int = _NOTHING) -> None:
        """Keep what this bank found of the candidate."""
        self.loss, self.rows, self.word, self.is_answered = loss, rows, word, True

    @staticmethod
    def _check(holds: bool, what: str) -> None:
        if not holds:
            raise PeerError(f"{what}; nothing was answered", RULE)

    def to_record(self) -> dict[str, Any]:
        """Return what is kept, as canonical-JSON values."""
        return asdict(self)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "WeightsTaken":
        """Return what `to_record` wrote."""
        return cls(**record)
