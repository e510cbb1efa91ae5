"""A made-up province: small firms, what a platform knows of them, and banks that lent to some of them.

Nobody in it exists. Every firm has three hidden numbers: its size, its conduct towards public bodies and suppliers,
which the platform's fields show, and its standing at a bank, which the bank's fields show. A loan goes bad by a
logistic model of conduct and standing both, so that joining the two sides truly predicts better than one. Codes are
valid (GB 32100-2015), of districts of Qinghai, with an organisation number outside the issued `MA…` series. Values
that come from one source are missing together.

One seed gives the same bytes (one numpy release on one kind of processor).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lianxin.federation.errors import InputFault
from lianxin.parties.identifiers import ALPHABET, uscc_from
from lianxin.simulations.tables import write_table

FIELD_CLASSES: Mapping[str, str] = {
    "reg_capital": "PUB",
    "judgment_cnt_36m": "PUB",
    "tax_late_cnt_24m": "LIM",
    "utility_continuity_m": "LIM",
    "pwr_arrears_cnt": "LIM",
    "vat_sales_12m": "BIZ",
    "tax_yoy": "BIZ",
    "si_insured_cnt": "BIZ",
    "pwr_kwh_12m": "BIZ",
    "key_person_dishonest_flag": "PI",
    "ind_tax_amt": "SPI",
    "ban_medical": "BAN",
}
REGIONS = ("630102", "630103", "630104", "630105", "630202", "630203", "632221", "632521", "632801", "632802")
_REGION_WEIGHTS = (0.14, 0.14, 0.16, 0.14, 0.1, 0.1, 0.04, 0.05, 0.08, 0.05)
BAD_RATES = (0.18, 0.16, 0.2)
_SOLE_TRADERS, _NEW_FIRMS, _NO_METER, _ABROAD, _TESTED = 0.12, 0.1, 0.15, 0.05, 0.2
_SHARED_ONE_IN = 40
_CONDUCT_EFFECT, _STANDING_EFFECT, _DEBT_EFFECT = 1.5, 1.25, 0.4
_SIZE_MEAN, _SIZE_SPREAD = 14.2, 1.2

Floats = NDArray[np.float64]
Generator = np.random.Generator
Flags = NDArray[np.bool_]
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Province:
    """Where the tables lie and what is true of them.

    `truth` holds `seed`, `firms`, `sole_traders`, `fields` (field -> class) and `banks`: for each its `party`,
    `loans`, `bads`, `matched` (customers that the platform knows) and `bayes_auc`, the AUC of the probabilities that
    drew its outcomes.
    """

    platform: Path
    banks: tuple[Path, ...]
    truth: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True)
class _Firms:
    """Hidden traits, one entry a firm; `size` is the logarithm of yearly sales in yuan, the scores are N(0, 1)."""

    codes: list[str]
    sole: Flags
    size: Floats
    conduct: Floats
    standing: Floats

    def at(self, rows: Rows) -> "_Firms":
        codes = [self.codes[row] for row in rows]
        return _Firms(codes, self.sole[rows], self.size[rows], self.conduct[rows], self.standing[rows])


def make_province(seed: int, folder: Path, firms: int = 8000, banks: int = 3, loans: int = 1000) -> Province:
    """Write `platform.csv.gz` and `bank-1.csv.gz`… to `folder` and return the province.

    Each bank lent to `loans` firms, once each; 95 % of them are among the platform's `firms`, and one in forty of
    those is a customer of the next bank too (more where the banks need more firms than there are). Raises InputFault
    when a bank would need more firms than the province has.
    """
    inside = loans - round(loans * _ABROAD)
    if min(firms, banks, loans) < 1 or inside > firms:
        raise InputFault(f"{firms} firms cannot give each of {banks} banks {inside} customers; ask for fewer loans")
    if seed < 0:
        raise InputFault("a seed is a whole number from 0 on; give another")
    folder.mkdir(parents=True, exist_ok=True)
    everyone = _draw_firms(seed, firms + banks * (loans - inside))
    known = everyone.at(np.arange(firms))
    platform = folder / "platform.csv.gz"
    write_table(platform, {"uscc": known.codes} | _platform_fields(stream(seed, "platform"), known))
    stories = [_write_bank(seed, folder, everyone, firms, bank, (inside, loans)) for bank in range(banks)]
    truth = {"seed": seed, "firms": firms, "sole_traders": int(known.sole.sum()), "fields": dict(FIELD_CLASSES)}
    paths = tuple(folder / f"{story['party']}.csv.gz" for story in stories)
    return Province(platform, paths, truth | {"banks": stories})


def stream(seed: int, purpose: str, number: int = 0) -> Generator:
    """Return the numbers of one purpose: the door to chance for whatever is made up, and for what is sampled of it."""
    return np.random.default_rng([seed, number, *purpose.encode()])


def _draw_firms(seed: int, count: int) -> _Firms:
    rng = stream(seed, "firms")
    sole = rng.random(count) < _SOLE_TRADERS
    size = rng.normal(_SIZE_MEAN, _SIZE_SPREAD, count) - 1.5 * sole
    return _Firms(_draw_codes(rng, sole), sole, size, rng.standard_normal(count), rng.standard_normal(count))


def _draw_codes(rng: np.random.Generator, sole: Flags) -> list[str]:
    numbers = rng.choice(len(ALPHABET) ** 5, size=len(sole), replace=False, shuffle=True)
    regions = rng.choice(len(REGIONS), size=len(sole), p=_REGION_WEIGHTS)
    return [
        uscc_from("9", "2" if trader else "1", REGIONS[region], "QH0" + _five_characters(int(number)))
        for number, region, trader in zip(numbers, regions, sole, strict=True)
    ]


def _five_characters(number: int) -> str:
    digits = []
    for _ in range(5):
        number, digit = divmod(number, len(ALPHABET))
        digits.append(ALPHABET[digit])
    return "".join(digits)


def _platform_fields(rng: np.random.Generator, firms: _Firms) -> dict[str, list[Any]]:
    """Return the platform's columns, in the order of FIELD_CLASSES."""
    count = len(firms.codes)
    drawn = _public_fields(rng, firms) | _tax_fields(rng, firms) | _utility_fields(rng, firms)
    insured = np.floor(np.exp(0.75 * firms.size - 8.6 + 0.08 * firms.conduct + _noise(rng, count, 0.4)))
    drawn["si_insured_cnt"] = _blank(insured.astype(int), firms.sole)
    dishonest = rng.random(count) < _sigmoid(-3.6 - 0.9 * firms.conduct)
    drawn["key_person_dishonest_flag"] = dishonest.astype(int).tolist()
    drawn["ban_medical"] = _blank((rng.random(count) < 0.3).astype(int), rng.random(count) > 0.02)
    return {name: drawn[name] for name in FIELD_CLASSES}


def _public_fields(rng: np.random.Generator, firms: _Firms) -> dict[str, list[Any]]:
    count = len(firms.codes)
    capital = np.exp(0.7 * firms.size + 4.2 + _noise(rng, count, 0.7))
    judgments = rng.poisson(np.exp(-1.6 - 0.75 * firms.conduct + 0.2 * (firms.size - _SIZE_MEAN)))
    return {
        "reg_capital": _blank(np.maximum(np.round(capital, -4), 10_000).astype(int), firms.sole),
        "judgment_cnt_36m": judgments.tolist(),
    }


def _tax_fields(rng: np.random.Generator, firms: _Firms) -> dict[str, list[Any]]:
    """A firm in its first year has no tax record; a sole trader's tax is a person's and a field of its own."""
    count = len(firms.codes)
    new = rng.random(count) < _NEW_FIRMS
    sales = np.exp(firms.size + 0.15 * firms.conduct + _noise(rng, count, 0.25)).astype(int)
    growth = np.round(0.04 + 0.22 * (0.65 * firms.conduct + _noise(rng, count, 0.76)), 3)
    late = rng.poisson(np.exp(-1.1 - 0.75 * firms.conduct))
    paid = np.where(sales < 300_000, 0, np.round(sales * rng.uniform(0.01, 0.03, count))).astype(int)
    return {
        "vat_sales_12m": _blank(sales, new | firms.sole),
        "tax_yoy": _blank(growth, new | firms.sole),
        "tax_late_cnt_24m": _blank(late, new),
        "ind_tax_amt": _blank(paid, new | ~firms.sole),
    }


def _utility_fields(rng: np.random.Generator, firms: _Firms) -> dict[str, list[Any]]:
    """A firm without a meter of its own has no utility record."""
    count = len(firms.codes)
    unmetered = rng.random(count) < _NO_METER
    months = np.clip(np.round(25 + 9 * (0.7 * firms.conduct + _noise(rng, count, 0.71))), 0, 36).astype(int)
    power = np.exp(0.8 * firms.size - 1.6 + 0.1 * firms.conduct + _noise(rng, count, 0.6)).astype(int)
    return {
        "utility_continuity_m": _blank(months, unmetered),
        "pwr_arrears_cnt": _blank(rng.poisson(np.exp(-1.2 - 0.7 * firms.conduct)), unmetered),
        "pwr_kwh_12m": _blank(power, unmetered),
    }


def _write_bank(
    seed: int, folder: Path, everyone: _Firms, known: int, bank: int, customers: tuple[int, int]
) -> dict[str, Any]:
    rng = stream(seed, "bank", bank)
    firms = everyone.at(_customers(seed, rng, known, bank, customers))
    fields, debt = _bank_fields(rng, firms)
    risk = -_CONDUCT_EFFECT * firms.conduct - _STANDING_EFFECT * firms.standing + _DEBT_EFFECT * debt
    chance = _sigmoid(risk + _intercept(risk, BAD_RATES[bank % len(BAD_RATES)]))
    bad = rng.random(len(chance)) < chance
    roles = {"uscc": firms.codes, "label_bad": bad.astype(int).tolist(), "split": _split(rng, bad)}
    party = f"bank-{bank + 1}"
    write_table(folder / f"{party}.csv.gz", roles | fields)
    story = {"party": party, "loans": customers[1], "bads": int(bad.sum()), "matched": customers[0]}
    return story | {"bayes_auc": _auc(chance, bad)}


def _customers(seed: int, rng: np.random.Generator, known: int, bank: int, customers: tuple[int, int]) -> Rows:
    """Return the rows of this bank's customers: a window on one circle of the known firms, and firms of its own."""
    inside, loans = customers
    circle = stream(seed, "customers").permutation(known)
    window = (np.arange(inside) + bank * (inside - inside // _SHARED_ONE_IN)) % known
    outside = np.arange(loans - inside) + known + bank * (loans - inside)
    return rng.permutation(np.concatenate((circle[window], outside)))


def _bank_fields(rng: np.random.Generator, firms: _Firms) -> tuple[dict[str, list[Any]], Floats]:
    """Return the bank's columns and the standardised burden of debt; past days due are those of earlier loans."""
    count = len(firms.codes)
    debt = rng.standard_normal(count)
    amount = np.maximum(np.round(np.exp(0.8 * firms.size + 1.5 + 0.5 * debt), -3), 10_000).astype(int)
    rate = np.clip(np.round(4.6 - 0.5 * firms.standing + 0.2 * debt + _noise(rng, count, 0.3), 2), 3.0, 9.0)
    turnover = np.exp(firms.size - 0.4 + 0.5 * firms.standing + _noise(rng, count, 0.4)).astype(int)
    late = rng.random(count) < _sigmoid(-1.3 - 1.1 * firms.standing)
    overdue = np.where(late, np.ceil(rng.exponential(12 * np.exp(-0.3 * firms.standing))), 0).astype(int)
    columns = {
        "loan_amt": amount.tolist(),
        "loan_rate": rate.tolist(),
        "acct_turnover_12m": _blank(turnover, rng.random(count) < 0.06),
        "dpd_max_12m": _blank(overdue, rng.random(count) < 0.2),
    }
    return columns, debt


def _split(rng: np.random.Generator, bad: Flags) -> list[str]:
    """Return the split: a fifth of the bad and a fifth of the good loans, drawn at random, are for testing."""
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


def _auc(score: Floats, bad: Flags) -> float:
    """Return the chance that a bad loan scores above a good one (Mann and Whitney; scores are distinct)."""
    ranks = np.empty(len(score))
    ranks[np.argsort(score)] = np.arange(1, len(score) + 1)
    bads, goods = int(bad.sum()), int((~bad).sum())
    return round(float((ranks[bad].sum() - bads * (bads + 1) / 2) / max(bads * goods, 1)), 4)


def _noise(rng: np.random.Generator, count: int, spread: float) -> Floats:
    return rng.normal(0.0, spread, count)


def _sigmoid(value: Floats) -> Floats:
    return 1 / (1 + np.exp(-value))


def _blank(values: Any, missing: Flags) -> list[Any]:
    return [None if gone else value for value, gone in zip(values.tolist(), missing.tolist(), strict=True)]
