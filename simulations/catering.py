"""A made-up town of noodle shops: firms without collateral, what a platform knows of them, banks that lent to some.

Nobody in it exists. A shop has next to nothing that a bank could take as security, and its accounts say little: most of its
sales are small change. What tells a careful owner from a careless one lies with public bodies: months without a break in
power, water and gas, bills in arrears, judgments against it, tax returns filed late. A loan goes bad by that conduct for
the most part and by a standing that the bank sees for the rest, so that joining the two sides truly predicts better.
Codes are valid (GB 32100-2015), of Xining and Haidong, with an organisation number outside the issued series; two in five
shops are sole traders. A shop in a food court has no meter of its own: all that is read from meters is missing together.

One seed gives the same bytes (one numpy release on one kind of processor).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lianxin.federation.errors import InputFault
from lianxin.parties.identifiers import ALPHABET, uscc_from
from lianxin.simulations.tables import write_table
from lianxin.simulations.world import Flags, Floats, Generator, Rows, stream

FIELD_CLASSES: Mapping[str, str] = {
    "utility_continuity_m": "LIM",
    "pwr_arrears_cnt": "LIM",
    "water_arrears_cnt": "LIM",
    "gas_arrears_cnt": "LIM",
    "judgment_cnt_36m": "PUB",
    "enforced_amt_total": "PUB",
    "tax_late_cnt_24m": "LIM",
}
_REGIONS = ("630102", "630103", "630104", "630105", "630202", "630203")
_SOLE_TRADERS, _FOOD_COURT, _NEW, _ABROAD, _TESTED = 0.4, 0.12, 0.08, 0.05, 0.25
_CONDUCT_EFFECT, _STANDING_EFFECT, _BAD_RATE = 1.7, 0.7, 0.2
_METERED = ("utility_continuity_m", "pwr_arrears_cnt", "water_arrears_cnt", "gas_arrears_cnt")


@dataclass(frozen=True)
class _Shops:
    """Hidden traits, one entry a shop; `size` is the logarithm of yearly sales in yuan, the scores are N(0, 1)."""

    codes: list[str]
    size: Floats
    conduct: Floats
    standing: Floats

    def at(self, rows: Rows) -> "_Shops":
        return _Shops([self.codes[row] for row in rows], self.size[rows], self.conduct[rows], self.standing[rows])


def make_catering(seed: int, folder: Path, firms: int, banks: int, loans: int) -> tuple[Path, list[Path]]:
    """Write `platform.csv.gz` and `bank-1.csv.gz`… to `folder`; return their paths.

    Each bank lent to `loans` shops of its own, once each; 95 % of them are among the platform's `firms`. Raises InputFault
    where the banks would need more shops than the platform knows.
    """
    inside = loans - round(loans * _ABROAD)
    if inside * banks > firms:
        raise InputFault(
            f"{firms} shops cannot give each of {banks} banks {inside} customers of its own; ask for fewer loans"
        )
    folder.mkdir(parents=True, exist_ok=True)
    everyone = _draw_shops(seed, firms + banks * (loans - inside))
    platform = folder / "platform.csv.gz"
    known = everyone.at(np.arange(firms))
    write_table(platform, {"uscc": known.codes} | _platform_fields(stream(seed, "catering-platform"), known))
    circle = stream(seed, "catering-customers").permutation(firms)
    paths = []
    for bank in range(banks):
        outside = np.arange(loans - inside) + firms + bank * (loans - inside)
        rows = np.concatenate((circle[bank * inside : (bank + 1) * inside], outside))
        paths.append(folder / f"bank-{bank + 1}.csv.gz")
        write_table(paths[-1], _bank_table(stream(seed, "catering-bank", bank), everyone, rows))
    return platform, paths


def _draw_shops(seed: int, count: int) -> _Shops:
    rng = stream(seed, "catering")
    numbers = rng.choice(len(ALPHABET) ** 5, size=count, replace=False)
    regions, sole = rng.choice(len(_REGIONS), size=count), rng.random(count) < _SOLE_TRADERS
    codes = [
        uscc_from("9", "2" if trader else "1", _REGIONS[region], "QC0" + _five_characters(int(number)))
        for number, region, trader in zip(numbers, regions, sole, strict=True)
    ]
    return _Shops(codes, rng.normal(13.2, 0.7, count), rng.standard_normal(count), rng.standard_normal(count))


def _five_characters(number: int) -> str:
    digits = []
    for _ in range(5):
        number, digit = divmod(number, len(ALPHABET))
        digits.append(ALPHABET[digit])
    return "".join(digits)


def _platform_fields(rng: Generator, shops: _Shops) -> dict[str, list[Any]]:
    """Return the platform's columns, in the order of FIELD_CLASSES."""
    count, conduct = len(shops.codes), shops.conduct
    no_meter, new = rng.random(count) < _FOOD_COURT, rng.random(count) < _NEW
    months = np.clip(np.round(24 + 10 * (0.8 * conduct + rng.normal(0.0, 0.6, count))), 0, 36).astype(int)
    judgments = rng.poisson(np.exp(-1.3 - 0.8 * conduct))
    enforced = np.where(judgments > 0, np.round(np.exp(rng.normal(10.2, 0.8, count)) * judgments, -2), 0).astype(int)
    drawn = {
        "utility_continuity_m": months,
        "pwr_arrears_cnt": rng.poisson(np.exp(-1.0 - 0.7 * conduct)),
        "water_arrears_cnt": rng.poisson(np.exp(-1.5 - 0.6 * conduct)),
        "gas_arrears_cnt": rng.poisson(np.exp(-1.6 - 0.6 * conduct)),
        "judgment_cnt_36m": judgments,
        "enforced_amt_total": enforced,
        "tax_late_cnt_24m": rng.poisson(np.exp(-0.9 - 0.7 * conduct)),
    }
    missing = {name: no_meter for name in _METERED} | {"tax_late_cnt_24m": new}
    nothing = np.zeros(count, dtype=bool)
    return {name: _blank(drawn[name], missing.get(name, nothing)) for name in FIELD_CLASSES}


def _bank_table(rng: Generator, everyone: _Shops, rows: Rows) -> dict[str, list[Any]]:
    """Return a bank's table: a small loan, what passed through the account, days past due on earlier small loans."""
    shops = everyone.at(rng.permutation(rows))
    count, standing = len(shops.codes), shops.standing
    risk = -_CONDUCT_EFFECT * shops.conduct - _STANDING_EFFECT * standing
    bad = rng.random(count) < _sigmoid(risk + _intercept(risk, _BAD_RATE))
    amount = np.maximum(np.round(np.exp(0.6 * shops.size + 3.2 + rng.normal(0.0, 0.4, count)), -3), 10_000).astype(int)
    turnover = np.exp(shops.size - 1.2 + 0.4 * standing + rng.normal(0.0, 0.6, count)).astype(int)
    late = rng.random(count) < _sigmoid(-1.6 - 0.9 * standing)
    overdue = np.where(late, np.ceil(rng.exponential(10.0, count)), 0).astype(int)
    return {
        "uscc": shops.codes, "label_bad": bad.astype(int).tolist(), "split": _split(rng, bad),
        "loan_amt": amount.tolist(), "acct_turnover_12m": _blank(turnover, rng.random(count) < 0.1),
        "dpd_max_12m": _blank(overdue, rng.random(count) < 0.5),
    }  # fmt: skip


def _split(rng: Generator, bad: Flags) -> list[str]:
    """Return the split: a quarter of the bad and of the good loans, drawn at random, is for testing."""
    tested = np.zeros(len(bad), dtype=bool)
    for kind in (True, False):
        rows = rng.permutation(np.flatnonzero(bad == kind))
        tested[rows[: round(_TESTED * len(rows))]] = True
    return np.where(tested, "test", "train").tolist()


def _intercept(risk: Floats, rate: float) -> float:
    """Return the constant that makes the mean chance equal `rate`, by bisection."""
    low, high = -20.0, 20.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _sigmoid(risk + middle).mean() < rate else (low, middle)
    return low


def _sigmoid(value: Floats) -> Floats:
    return 1 / (1 + np.exp(-value))


def _blank(values: Any, missing: Flags) -> list[Any]:
    return [None if gone else value for value, gone in zip(values.tolist(), missing.tolist(), strict=True)]
