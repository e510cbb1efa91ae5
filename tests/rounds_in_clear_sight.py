"""Rounds of the joint scorecard between the real roles, kept with all that the attacks of rows 11 and 13 look at."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
from conversations import bank_keys, contract_of, play, right

from lianxin.crypto import paillier
from lianxin.crypto.randomness import Drbg
from lianxin.federation import binning, rounds, scorecard, wire


def coded(rng: np.random.Generator, rows: int, features: int, bins: int = 5) -> tuple[binning.Columns, np.ndarray]:
    """Return random columns in WOE bins and the design that they make, rows x features."""
    codes = rng.integers(0, bins, (features, rows))
    steps = np.round(np.linspace(-1.0, 1.0, bins) * 4096).astype(int)
    woe = [tuple(int(v) for v in steps) for _ in range(features)]
    design = np.stack([steps[c] for c in codes], axis=1) / 4096.0
    return binning.Columns(tuple(c.tolist() for c in codes), (bins,) * features, tuple(woe)), design


@dataclass
class Training:
    """A platform and one bank that train: what each of them knows, and every message of every round."""

    rows: int
    features: int
    bank_key: paillier.SecretKey = field(repr=False)
    seed: int = 11
    least: int = 50
    said: list[list[tuple[str, Any]]] = field(default_factory=list, repr=False)
    gradients: list[np.ndarray] = field(default_factory=list, repr=False)
    seen_scores: list[np.ndarray] = field(default_factory=list, repr=False)
    own_scores: list[np.ndarray] = field(default_factory=list, repr=False)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        fields = [{"provider": "platform-a", "field": f"f{k}", "use": "feature"} for k in range(self.features)]
        fields += [{"provider": "bank-1", "field": f"g{k}", "use": "feature"} for k in range(3)]
        self.contract = contract_of(max_rows=1024, fields=fields, min_rows=50)
        self.layouts = scorecard.plan_layouts(self.contract)
        self.columns, self.design = coded(rng, self.rows, self.features)
        own, self.own_design = coded(rng, self.rows, 3)
        truth = self.design @ rng.normal(0, 0.8, self.features) + self.own_design @ np.array([1.2, -1.0, 0.8])
        self.labels = (rng.random(self.rows) < 1 / (1 + np.exp(-truth + 1.0))).astype(int)
        extra = binning.intercept(self.rows)
        self.own = binning.Columns((*own.codes, extra[0]), (*own.bins, extra[1]), (*own.woe, extra[2]))
        self.own_design = np.column_stack([self.own_design, np.ones(self.rows)])
        self.keys, root = bank_keys(self.bank_key), Drbg(bytes([self.seed]) * 32)
        terms = self.contract if self.least == 50 else Weaker(self.contract, min_rows=self.least)
        self.bank = binning.Work(terms, self.layouts, "bank-1", root.child("b"), (right("bank-1", "platform-a"),))  # type: ignore[arg-type]
        self.platform = binning.Work(terms, self.layouts, "bank-1", root.child("p"), (right("platform-a", "bank-1"),))  # type: ignore[arg-type]
        base = float(self.labels.mean())
        self.weights = scorecard.DescentState(self.features, 1.0)
        self.own_weights = scorecard.DescentState(4, 1.0, [1.0, 1.0, 1.0, 0.0])
        self.own_weights.begin(int(self.labels.sum()), self.rows)
        self.base = base

    def round(self, attempt: int, live: Sequence[bool] | None = None) -> None:
        """Play one round; both sides step on the gradients that they are left with."""
        flags = list(live) if live is not None else [True] * self.rows
        z_a = scorecard.scores(self.design, self.weights.lookahead)
        z_b = scorecard.scores(self.own_design, self.own_weights.lookahead)
        corrections = self._corrections(attempt)
        turn = rounds.BankTurn(
            self.bank, attempt, self.keys, self.own, self.labels.tolist(), z_b, [True] * self.rows, corrections
        )
        other = rounds.PlatformTurn(self.platform, attempt, self.bank_key.public, self.columns, z_a, flags)
        mine, theirs, said = play(rounds.bank_round_role(turn), rounds.platform_round_role(other))
        modulus = 1 << self.layouts.width_bits
        pairs = zip(mine.totals, theirs.masks, strict=True)
        gradient = np.array([scorecard.gradient_value((t - m) % modulus, self.layouts) for t, m in pairs])
        active = np.array(mine.active)
        self.said.append(said)
        self.gradients.append(gradient)
        self.seen_scores.append(z_a)
        self.own_scores.append(z_b)
        self.weights.advance(gradient, self.design[active], theirs.bends)
        self.own_weights.advance(mine.gradient, self.own_design[active], mine.bends)

    def _corrections(self, attempt: int) -> list[int]:
        """What the bank's masks of this attempt sum to, as the step of masks tells it once a run."""
        slots, rows = self.layouts.residual, self.rows
        masks: list[int] = []
        for pack in range(-(-rows // slots.slots)):
            mask = rounds.mask_of(self.platform.drbg, self.bank_key.public.n, attempt, pack)
            masks += [mask >> slots.shift(k) for k in range(slots.slots)]
        modulus = 1 << self.layouts.width_bits
        values = [m % modulus for m in masks[:rows]]
        table = zip(self.own.codes, self.own.woe, strict=True)
        return [sum(woe[c] * m for c, m in zip(codes, values, strict=True)) % modulus for codes, woe in table]

    def polynomial(self, played: int) -> tuple[float, float, float]:
        """The public polynomial that both sides read in a round."""
        choice = next(m for s, m in self.said[played] if isinstance(m, wire.RangeChoice))
        return scorecard.residual_polynomial(choice.mean_steps, choice.spread_steps)


class Weaker(SimpleNamespace):
    """The contract's terms with `changes` that no contract may have: a defence taken out."""

    def __init__(self, contract: Any, **changes: Any) -> None:
        super().__init__(**changes)
        self._contract = contract

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_contract"], name)
