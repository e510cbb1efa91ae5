"""Made-up rows and the refit on them: two own features of a bank and points of the platform, all of it in clear."""

import math
from typing import Any

import numpy as np
from conversations import contract_of

from lianxin.federation import regression
from lianxin.federation.points import factor
from lianxin.federation.scorecard import WOE_BITS
from lianxin.parties.coding import BinSpec
from lianxin.parties.scorecard_card import Card
from lianxin.parties.scorecard_refit import Refit, Rows

BANK = "bank-1"
G0 = BinSpec("numeric", (1.0, 2.0), (), (0, 1, 2, 0))
G1 = BinSpec("text", (), ("shop", "farm"), (0, 1, 2, 1))
SPECS = {"g0": G0, "g1": G1}
Made = tuple[Card, Rows, dict[str, list[Any]]]


def made_up(rows: int = 600, seed: int = 3, slope: float = 1.0) -> tuple[Refit, Rows, Rows, dict[str, list[Any]]]:
    """Return a refit over made-up rows of two own features: (refit, scored rows, training rows, the raw columns)."""
    draw = np.random.default_rng(seed)
    numbers = draw.choice([0.5, 1.5, 2.5, math.nan], rows).tolist()
    columns: dict[str, list[Any]] = {
        "g0": [None if math.isnan(v) else v for v in numbers],
        "g1": draw.choice(["shop", "farm", "mill"], rows).tolist(),
    }
    bins = [spec.encode(columns[name]) for name, spec in SPECS.items()]
    points = draw.integers(-60, 60, rows).tolist()
    z = -1.0 - slope * np.array(points) / factor(20) + 0.7 * np.array(bins[0]) - 0.5 * np.array(bins[1])
    labels = (draw.random(rows) < regression.sigmoid(z)).astype(int).tolist()
    woe = [woe_of(column, labels, spec.count) for column, spec in zip(bins, SPECS.values(), strict=True)]
    refit = Refit(contract_of(banks=1), BANK, SPECS, woe)
    return refit, Rows(bins, labels, points), Rows(bins, labels), columns


def woe_of(codes: list[int], labels: list[int], bins: int) -> list[int]:
    """Return the weights of evidence of a feature's bins at 2^12."""
    bad = [sum(y for c, y in zip(codes, labels, strict=True) if c == b) for b in range(bins)]
    rows = [codes.count(b) for b in range(bins)]
    totals = (sum(rows) - sum(bad), sum(bad))
    return [round(regression.woe(n - k, k, *totals) * 2**WOE_BITS) for n, k in zip(rows, bad, strict=True)]


def made_card() -> Made:
    """Return (card, scored rows, raw columns) of the made-up rows; the first hundred stand for held-out ones."""
    refit, scored, training, columns = made_up()
    test = Rows([b[:100] for b in scored.bins], scored.labels[:100], (scored.points or [])[:100])
    card = refit.card(refit.fit(scored, training), scored, training, test, {BANK: {"g0": "years in business"}})
    return card, scored, columns
