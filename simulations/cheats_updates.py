"""A bank of a network that sends an update which it was not trained to: many times too large, or turned round.

A bank bounds its update's norm itself, and a secret sum shows nobody's update: neither the platform nor an auditor can
say from the files whose summand was which. What is seen is what the update does: the other banks find the round worse on
rows of their own, it is taken back, and the leaf of that round says so. The bank can be named by a replay of its side.
"""

from collections.abc import Callable
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from lianxin.parties.replies import Reply
from lianxin.simulations.cheats_hooks import Banks, ByOneParty, on_run, replace_method

_HEAD = 2  # rows and summed loss stand before the update in a summand
_SUMMAND = "summand"
_MOST = 2**57  # sixteen of them still fit the ring of a sum


class PoisonedUpdate(ByOneParty):
    """A bank's updates of these `rounds` are `times` too large, with `how` "turned" in the opposite direction too.

    With `lies` its word on every candidate is the wrong one: that its poisoned rounds stand and the others do not.
    """

    kind: ClassVar[str] = "poisoned_update"
    how: Literal["scaled", "turned"] = "turned"
    times: int = Field(default=10, ge=2, le=1000)
    rounds: list[int] = Field(default=[2], min_length=1)
    lies: bool = True

    def tamper(self, platform: Any, banks: Banks) -> None:
        """See `Cheat.tamper`."""

        def meet(run: Any) -> None:
            replace_method(run, "train_round", self._poisoned)
            if self.lies:
                replace_method(run, "judge", self._lying)

        on_run(self.bank(banks), meet)

    def _poisoned(self, honest: Callable[..., Reply]) -> Callable[..., Reply]:
        def train_round(round_number: int, *asked: Any) -> Reply:
            arrays, numbers, texts = honest(round_number, *asked)
            if round_number not in self.rounds:
                return arrays, numbers, texts
            summand, factor = arrays[_SUMMAND], -self.times if self.how == "turned" else self.times
            changed = np.clip(summand[_HEAD:].astype(object) * factor, -_MOST, _MOST).astype(np.int64)
            return {**arrays, _SUMMAND: np.concatenate([summand[:_HEAD], changed])}, numbers, texts

        return train_round

    def _lying(self, honest: Callable[..., Reply]) -> Callable[..., Reply]:
        def judge(round_number: int, *asked: Any) -> Reply:
            arrays, numbers, texts = honest(round_number, *asked)
            said = {name: int(round_number not in self.rounds) for name in numbers if name == "verdict"}
            return arrays, {**numbers, **said}, texts

        return judge
