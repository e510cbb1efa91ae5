"""What a joint scorecard over banks is beside one that a bank makes with the platform alone, and which one is recommended."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import conftest
import numpy as np
import pytest
from conversations import contract_of

from lianxin.federation import evaluation, regression
from lianxin.federation.binning import Columns
from lianxin.federation.scorecard import WOE_BITS
from lianxin.federation.star import BankTable, PlatformStar, screen_own
from lianxin.parties.coding_fields import BinLimits, fit_field
from lianxin.parties.records import load_firm_table, load_loan_table, read_table
from lianxin.simulations.clear_scorecard import clear_scores
from lianxin.simulations.pooled import PooledBank
from lianxin.simulations.results_star import (
    ALONE,
    MARGIN,
    STAR,
    VERTICAL,
    StarBank,
    advice_lines,
    recommend,
    validation_aucs,
    vertical_scores,
)
from lianxin.simulations.sba import map_sba

SBA = conftest.SHARED / "data" / "sba_loans.csv.gz"
SCALE = 2.0**WOE_BITS
ROUNDS, RIDGE = 6, 1.0
RISING, PEAKED = (-1.2, 0.0, 1.2), (-1.2, 1.2, -1.2)


def bank_of(name: str, codes: np.ndarray, own: np.ndarray, labels: np.ndarray, woe: list[Any], split: int) -> StarBank:
    shared = np.stack([np.asarray(table)[codes[:, k]] for k, table in enumerate(woe)], axis=1)
    one = PooledBank(
        name, shared[:split], own[:split], labels[:split], shared[split:], own[split:], labels[split:],
        tuple(f"g{k}" for k in range(own.shape[1])),
    )  # fmt: skip
    return StarBank(one, codes[:split], codes[split:], tuple(len(w) for w in woe), np.arange(split))


def made_up(shapes: tuple[tuple[float, ...], ...], rows: int = 1500) -> list[StarBank]:
    """Return banks whose bads follow the bins of the platform's first feature by `shapes` and one own feature all alike."""
    rng, woe = np.random.default_rng(5), [[-1.0, 0.0, 1.0], [-0.5, 0.5, 0.0]]
    banks = []
    for place, shape in enumerate(shapes):
        codes, own = rng.integers(0, 3, (rows, 2)), rng.normal(0, 1, (rows, 1))
        z = -1.0 + np.array(shape)[codes[:, 0]] + 0.7 * own[:, 0]
        labels = (rng.random(rows) < 1 / (1 + np.exp(-z))).astype(int)
        banks.append(bank_of(f"bank-{place + 1}", codes, own, labels, woe, rows * 2 // 3))
    return banks


def aucs(banks: list[StarBank], scores: Any) -> dict[str, float]:
    return {b.joined.name: evaluation.auc(b.joined.y_test.tolist(), list(scores[b.joined.name])) or 0.0 for b in banks}


def test_banks_that_are_alike_are_told_to_use_the_scorecard_over_all_of_them() -> None:
    found = validation_aucs(made_up((RISING,) * 3), ROUNDS, RIDGE, False)
    assert set(recommend(found).values()) == {STAR}
    assert all(row[STAR] > row[ALONE] + 0.05 for row in found.values())


def test_a_bank_whose_firms_are_of_another_kind_is_told_to_go_with_the_platform_alone() -> None:
    banks = made_up((RISING, RISING, PEAKED))
    found = validation_aucs(banks, ROUNDS, RIDGE, False)
    recommended = recommend(found)
    assert recommended["bank-3"] == VERTICAL
    alone, star = (
        aucs(banks, scores)["bank-3"]
        for scores in (
            vertical_scores(banks, ROUNDS, RIDGE, False), clear_scores([b.joined for b in banks], ROUNDS, RIDGE)
        )
    )  # fmt: skip
    assert alone > star + MARGIN
    auc = {bank: {"joint": 0.7, VERTICAL: 0.7} for bank in found}
    (line,) = [line for line in advice_lines(auc, found, recommended) if line.startswith("bank-3")]
    assert "use vertical only" in line


def test_a_difference_that_held_back_rows_do_not_show_is_said_and_a_class_that_is_absent_recommends_nothing() -> None:
    held = {"bank-1": {STAR: 0.7, VERTICAL: 0.704, ALONE: 0.6}, "bank-2": {STAR: None, VERTICAL: None, ALONE: None}}
    recommended = recommend(held)
    assert recommended == {"bank-1": STAR, "bank-2": STAR}
    auc = {"bank-1": {"joint": 0.7, VERTICAL: 0.71}, "bank-2": {"joint": None, VERTICAL: None}}
    (line,) = advice_lines(auc, held, recommended)
    assert "better by 0.0100" in line


# ---- real loans


def sba_banks(folder: Path) -> list[StarBank]:
    """Return the three largest banks of the SBA loans in the bins that a run would make, by the run's own functions."""
    inputs = map_sba(SBA, folder)
    firms = load_firm_table(read_table(inputs.platform.path), "firm_id")
    row_of = {firm: row for row, firm in enumerate(firms.identifiers)}
    loans = {
        b.party: load_loan_table(read_table(b.path), "firm_id", "Default", "split", "loan_id") for b in inputs.banks
    }
    contract = contract_of(len(loans), max_rows=100_000)
    limits, names = BinLimits.of(contract), sorted(firms.columns)
    rows = {b: [r for r, part in enumerate(t.split) if part == "train"] for b, t in loans.items()}
    values = {n: [firms.columns[n][row_of[loans[b].identifiers[r]]] for b in loans for r in rows[b]] for n in names}
    specs = {n: fit_field(n, values[n], limits).spec for n in names}
    names = [n for n in names if specs[n].count > 1]
    star = PlatformStar(contract, names)
    for bank, table in loans.items():
        places = [row_of[table.identifiers[r]] for r in rows[bank]]
        codes = tuple(specs[n].encode([firms.columns[n][p] for p in places]) for n in names)
        star.tables[bank] = BankTable(places, Columns(codes, tuple(specs[n].count for n in names)))
    star.open_counts(_counts(star, {b: [loans[b].labels[r] for r in rows[b]] for b in loans}))
    return [_sba_bank(contract, star, specs, firms, row_of, bank, table, rows[bank]) for bank, table in loans.items()]


def _counts(star: PlatformStar, labels: dict[str, list[int]]) -> list[int]:
    flat: list[int] = []
    for place, bins in enumerate(next(iter(star.tables.values())).columns.bins):
        codes = np.concatenate([np.array(star.tables[b].columns.codes[place]) for b in labels])
        y = np.concatenate([np.array(labels[b]) for b in labels])
        for value in (0, 1):
            flat += np.bincount(codes[y == value], minlength=bins).tolist()
    return flat


def _sba_bank(
    contract: Any, star: PlatformStar, specs: Any, firms: Any, row_of: Any, bank: str, table: Any, train: list[int]
) -> StarBank:
    test = [r for r, part in enumerate(table.split) if part == "test"]
    limits, names = BinLimits.of(contract), sorted(table.columns)
    own = {n: fit_field(n, [table.columns[n][r] for r in train], limits).spec for n in names}
    labels = [table.labels[r] for r in train]
    columns = Columns(
        tuple(own[n].encode([table.columns[n][r] for r in train]) for n in names), tuple(own[n].count for n in names)
    )
    screen = screen_own(contract, names, columns, labels)
    everything = [*train, *test]
    places = [row_of[table.identifiers[r]] for r in everything]
    codes = np.stack(
        [
            np.array(f.merged)[np.array(specs[f.name].encode([firms.columns[f.name][p] for p in places]))]
            for f in star.kept
        ],
        axis=1,
    )
    design = np.stack(
        [
            np.array(f.woe)[np.array(f.merged)[np.array(own[f.name].encode([table.columns[f.name][r] for r in everything]))]]
            for f in screen.kept
        ],
        axis=1,
    ) / SCALE  # fmt: skip
    woe = [np.array(f.woe) / SCALE for f in star.kept]
    found = bank_of(bank, codes, design, np.array([table.labels[r] for r in everything]), woe, len(train))
    numbers = {firm: k for k, firm in enumerate(dict.fromkeys(table.identifiers[r] for r in train))}
    return replace(found, firms=np.array([numbers[table.identifiers[r]] for r in train]))


@pytest.mark.skipif(not SBA.exists(), reason="shared/data is not beside the checkout")
def test_on_real_loans_no_bank_loses_more_than_the_margin_by_the_star_without_being_told(tmp_path: Path) -> None:
    banks = sba_banks(tmp_path)
    star = aucs(banks, clear_scores([b.joined for b in banks], ROUNDS, RIDGE))
    vertical = aucs(banks, vertical_scores(banks, ROUNDS, RIDGE, False))
    alone = {}
    for one in (b.joined for b in banks):
        fitted = regression.fit_logistic(one.own_train, one.y_train, RIDGE)
        alone[one.name] = regression.predict(fitted, one.own_test)
    found = validation_aucs(banks, ROUNDS, RIDGE, False)
    recommended = recommend(found)
    table = {b: {"joint": star[b], VERTICAL: vertical[b], ALONE: aucs(banks, alone)[b]} for b in star}
    print({"test": table, "held back": found, "recommended": recommended})
    lines = advice_lines(table, found, recommended)
    for bank in star:
        assert star[bank] >= vertical[bank] - MARGIN or any(line.startswith(bank) for line in lines)
