"""What a bank was given of a firm stands for the calendar quarter: one version per firm, bank, model and quarter.

Sub-scores of one firm that differ, over time or over models, add up to its fields. So a later request of the quarter is
answered with the first value, whatever became of the data since, and a bank is given at most `[quota] models_a_firm`
models' parts of one firm in it, over all agreements. A firm for which no asked model is left is judged like one that nobody
knows: it has no score, and no use of its consent is spent.

Kept are the subject key, never the code, and the record that was given, in the transaction of the leaf without which the
answer does not leave. The same is looked up and written for a firm without a score, under a key that is nobody's. One
request of a bank is answered at a time (`Turn`), so that two at once see what each other gave.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from lianxin.federation.errors import PeerError
from lianxin.parties.clock import quarter_of
from lianxin.parties.store import Store
from lianxin.parties.store_ledger import StandingRow

_TURNS: WeakKeyDictionary[Store, dict[str, threading.Lock]] = WeakKeyDictionary()
_MAKING = threading.Lock()


class Turn:
    """A bank's turn at one store: held by one conversation from its request until what it gives is on disk."""

    def __init__(self, store: Store, bank: str, deadline_s: float) -> None:
        with _MAKING:
            self._lock = _TURNS.setdefault(store, {}).setdefault(bank, threading.Lock())
        self._deadline_s, self._is_held = deadline_s, False

    def take(self) -> None:
        """Wait for the turn. Raises PeerError (S01) when the bank's other requests take longer than a step may."""
        self.give_back()
        if not self._lock.acquire(timeout=self._deadline_s):
            raise PeerError("other requests for scores of this bank are being answered", "S01")
        self._is_held = True

    def give_back(self) -> None:
        """Let the next one in, where the turn is held."""
        if self._is_held:
            self._is_held = False
            self._lock.release()


@dataclass(frozen=True)
class Standing:
    """What stands of a request's firms, place by place, for one bank and quarter, and for which models a part is left.

    `names[place]` is what the gate judges: the firm, or a name that no firm has.
    """

    bank: str
    quarter: str
    models: tuple[str, ...]
    names: tuple[str, ...] = field(repr=False)
    _keys: tuple[str, ...] = field(repr=False)
    _nobodys: tuple[str, ...] = field(repr=False)
    _kept: Mapping[str, Mapping[str, bytes]] = field(repr=False)
    _left: tuple[frozenset[str], ...] = field(repr=False)

    @classmethod
    def of(
        cls, store: Store, subject_key: Callable[[str], str], bank: str, now: str, models: Sequence[str],
        names: Sequence[str], most: int,
    ) -> "Standing":  # fmt: skip
        """Return what stands of the firms `names`, of which a bank may be given at most `most` models' parts."""
        nobodys = [f"\x00{place}" for place in range(len(names))]
        keys, others = [subject_key(name) for name in names], [subject_key(name) for name in nobodys]
        quarter = quarter_of(now)
        kept = store.standing(bank, quarter, [*keys, *others])
        left = tuple(_left(kept.get(key, {}), models, most) for key in keys)
        judged = (name if free else nobody for name, free, nobody in zip(names, left, nobodys, strict=True))
        return cls(bank, quarter, tuple(models), tuple(judged), tuple(keys), tuple(others), kept, left)

    def settled(self, place: int, is_live: bool, made: Sequence[bytes]) -> Iterator[tuple[bytes | None, StandingRow]]:
        """Yield for each model what is given of the firm at `place`, None for no part, and the row to keep.

        `made` are the records that the models make now; `is_live` says whether the gate let the firm go.
        """
        for model, record in zip(self.models, made, strict=True):
            is_given = is_live and model in self._left[place]
            key = (self._nobodys[place], self._keys[place])[is_given]
            stands = self._kept.get(key, {}).get(model, record)
            yield (None, stands)[is_given], StandingRow(key, self.bank, self.quarter, model, stands)


def _left(kept: Mapping[str, bytes], models: Sequence[str], most: int) -> frozenset[str]:
    """Return those of the models that stand already, and of the others, in their order, as many as are left."""
    fresh = [model for model in models if model not in kept]
    return frozenset(kept.keys() & set(models)) | frozenset(fresh[: max(0, most - len(kept))])
