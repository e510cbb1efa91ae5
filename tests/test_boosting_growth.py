"""How an ensemble grows in clear: against a second implementation, against scikit-learn, and rule by rule."""

import gzip
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from boosting_world import SAMPLING, Table, made_up
from conftest import SHARED
from conversations import contract_of
from naive_trees import Column, NaiveTrees
from sklearn.ensemble import HistGradientBoostingClassifier
from torture import repeats

from lianxin.crypto import canonical
from lianxin.crypto.errors import PackingOverflow
from lianxin.crypto.randomness import Drbg
from lianxin.federation import evaluation
from lianxin.federation.boosting_cells import CURVATURE_LIMIT, VALUE_LIMIT, Scales, plan_cells
from lianxin.federation.boosting_cuts import Candidates, sums_of
from lianxin.federation.boosting_ensemble import MISSING, ORDERED, Cut, Ensemble, TreeColumns, TreeShapes
from lianxin.federation.boosting_growth import Growth, Histograms, Opening, TreeTerms, grow, grow_alone
from lianxin.federation.errors import InputFault
from lianxin.parties.coding import fit_bins
from lianxin.simulations.clear_trees import ClearPlatform, clear_ensemble, predict_clear

SMALL = TreeTerms(trees=3, depth=3, min_rows=5, rate_thousandths=300, split_bits=64)


def grown(terms: TreeTerms, table: Table, seed: bytes = SAMPLING) -> Ensemble:
    return clear_ensemble(terms, table.labels, table.platform, table.own, Drbg(seed))


def as_dicts(ensemble: Ensemble) -> list[dict[int, Any]]:
    cuts = (ensemble.platform_cuts, ensemble.own_cuts)
    return [
        {s.node: (s.own, tuple(cuts[s.own][s.cut])) for s in tree.splits} | {x.node: x.value for x in tree.leaves}
        for tree in ensemble.trees
    ]


def columns_of(table: Table) -> list[Column]:
    return [
        Column(own, j, side.codes[j].tolist(), side.shapes.bins[j], side.shapes.kinds[j])
        for own, side in ((False, table.platform), (True, table.own))
        for j in range(len(side.shapes.bins))
    ]


def test_trees_are_those_of_a_second_implementation_without_arrays() -> None:
    for case in repeats("trees against the naive ones", 150):
        chance = Drbg(SAMPLING).child("naive", case)
        table = made_up(30 + chance.below(60), case, platform=1 + chance.below(5), own=chance.below(4))
        terms = replace(
            SMALL, trees=2, min_rows=1 + chance.below(8), depth=1 + chance.below(3), split_bits=1 + chance.below(6),
            weight_permille=(300, 1000, 4000)[chance.below(3)],
        )  # fmt: skip
        ensemble, naive = grown(terms, table), NaiveTrees(columns_of(table), table.labels, terms)
        assert as_dicts(ensemble) == naive.trees, case
        bits = table.platform.sides(ensemble.platform_cuts)
        assert ensemble.raw_scores(table.own, bits).tolist() == naive.raw, case
        assert set(ensemble.platform_cuts) == naive.known and len(naive.known) <= terms.split_bits, case


def test_of_two_siblings_the_smaller_alone_is_asked_for_and_the_other_is_what_is_left() -> None:
    table, asked = made_up(300, seed=4), list[Histograms]()
    growth = Growth(SMALL, table.labels, table.own, table.platform.shapes, Drbg(SAMPLING))
    clear = ClearPlatform(table.platform)

    def histograms(opening: Opening, ask: Histograms) -> Any:
        asked.append(ask)
        return clear.histograms(opening, ask)

    assert grow(growth, histograms, clear.sides) == grown(SMALL, table)
    for ask in asked:
        rows = sum(int(node.sum()) for node in ask.nodes)
        assert rows == 300 if ask.level == 0 else 0 < rows <= 150
        assert [total[0] for total in ask.totals] == [int(node.sum()) for node in ask.nodes]


# ---- rules


def one_feature(codes: list[int], labels: list[int], kind: int = ORDERED, bins: int | None = None) -> Table:
    shape = [bins or max(codes) + 1]
    return Table(labels, TreeColumns.of([codes], shape, [kind], len(codes)), TreeColumns.of([], [], [], len(codes)))


def test_neighbouring_bins_merge_until_each_holds_enough_rows_before_a_cut_is_looked_at() -> None:
    codes = [0] * 60 + [1] * 3 + [2] * 60  # the three rows of bin 1 are bad, and so are those of bin 0
    table = one_feature(codes, [1] * 63 + [0] * 60)
    for least, expected in ((1, 1), (50, 0)):  # with cells of 50, bin 1 is merged with bin 2 and no cut sets it apart
        ensemble = grown(replace(SMALL, trees=1, depth=1, min_rows=least), table)
        assert ensemble.platform_cuts == (Cut(0, expected, 0),)
        assert all(leaf.rows >= least for leaf in ensemble.trees[0].leaves)


@pytest.mark.parametrize(("missing_is_bad", "kind"), [(True, 1), (False, 0)], ids=["with the low", "with the high"])
def test_missing_values_go_to_the_side_that_they_resemble(missing_is_bad: bool, kind: int) -> None:
    codes = [0] * 100 + [1] * 100 + [2] * 100  # low values are bad
    labels = (
        [1] * 90 + [0] * 10 + [0] * 90 + [1] * 10 + ([1] * 90 + [0] * 10 if missing_is_bad else [0] * 90 + [1] * 10)
    )
    ensemble = grown(replace(SMALL, trees=1, depth=1), one_feature(codes, labels, MISSING))
    assert ensemble.platform_cuts == (Cut(0, 0, kind),)


def test_too_few_missing_rows_have_no_side_of_their_own() -> None:
    codes = [0] * 100 + [1] * 100 + [2] * 3
    labels = [1] * 90 + [0] * 10 + [0] * 90 + [1] * 10 + [1] * 3
    ensemble = grown(replace(SMALL, trees=1, depth=1, min_rows=5), one_feature(codes, labels, MISSING))
    assert ensemble.platform_cuts == (Cut(0, 0, 0),)


def test_ties_go_to_the_first_feature_the_lowest_bin_and_the_platform() -> None:
    labels, codes = [1] * 50 + [0] * 50, [0] * 50 + [2] * 50  # bin 1 is empty: cuts 0 and 1 are the same
    twice = TreeColumns.of([codes, codes], [3, 3], [0, 0], 100)
    ensemble = grown(replace(SMALL, trees=1, depth=1), Table(labels, twice, twice))
    assert (ensemble.platform_cuts, ensemble.own_cuts) == ((Cut(0, 0, 0),), ())


def test_no_cut_is_made_where_nothing_is_gained() -> None:
    ensemble = grown(SMALL, one_feature([0, 1] * 50, [0, 0, 1, 1] * 25))
    assert [len(tree.splits) for tree in ensemble.trees] == [0, 0, 0] and ensemble.platform_cuts == ()


def test_distinct_cuts_stay_within_their_number_and_known_ones_are_used_on() -> None:
    table = made_up(400, seed=8)
    free, capped = (grown(replace(SMALL, trees=8, split_bits=bits), table) for bits in (64, 4))
    assert len(free.platform_cuts) > 4 >= len(capped.platform_cuts)
    later = [split for tree in capped.trees[4:] for split in tree.splits if not split.own]
    assert later and capped.train_loss_micro[-1] < capped.train_loss_micro[0]


def test_nothing_is_held_back_while_a_cut_is_left_for_every_node_to_come() -> None:
    table = made_up(400, seed=8)
    few, many = (grown(replace(SMALL, trees=3, split_bits=bits), table) for bits in (3 * 7, 100_000))
    assert few.trees == many.trees and few.platform_cuts == many.platform_cuts and len(few.platform_cuts) > 7


def test_a_weight_of_bads_is_as_if_each_bad_stood_there_so_often() -> None:
    codes, labels = [0] * 40 + [1] * 60, [1] * 20 + [0] * 20 + [1] * 5 + [0] * 55
    terms = replace(SMALL, trees=1, depth=1, min_rows=1)
    weighted = grown(replace(terms, weight_permille=3000), one_feature(codes, labels))
    thrice = [row for row, bad in enumerate(labels) for _ in range(3 if bad else 1)]
    repeated = grown(terms, one_feature([codes[r] for r in thrice], [labels[r] for r in thrice]))
    assert weighted.base == repeated.base
    for a, b in zip(weighted.trees[0].leaves, repeated.trees[0].leaves, strict=True):
        assert abs(a.value - b.value) < 2**24 * 1e-3


def test_sums_over_cells_of_one_row_name_the_row_once_gradients_differ_as_the_leak_statement_says() -> None:
    table, named = made_up(400, seed=14, platform=6, own=3, most_bins=20), list[bool]()
    growth = Growth(replace(SMALL, trees=20), table.labels, table.own, table.platform.shapes, Drbg(SAMPLING))
    clear = ClearPlatform(table.platform)

    def histograms(opening: Opening, ask: Histograms) -> Any:
        answer = clear.histograms(opening, ask)
        for rows, sums in zip(ask.nodes, answer, strict=True):
            for count, g, h in sums.reshape(-1, 3).tolist():
                fitting = rows & (opening.gradients == g) & (opening.curvatures == h)
                named.extend([bool(fitting.sum() == 1)] if count == 1 and opening.tree >= 10 else [])
        return answer

    grow(growth, histograms, clear.sides)
    assert len(named) > 50 and sum(named) > len(named) / 3


def test_a_bank_alone_grows_on_its_own_features_and_a_bank_without_any_stays_at_the_base_rate() -> None:
    table = made_up(300, seed=10, own=3)
    alone = grow_alone(SMALL, table.labels, table.own, Drbg(SAMPLING))
    assert alone.platform_cuts == () and alone.own_cuts
    none = grow_alone(SMALL, table.labels, TreeColumns.of([], [], [], 300), Drbg(SAMPLING))
    rate = sum(table.labels) / 300
    chances = none.predict(TreeColumns.of([], [], [], 5), np.zeros((5, 0), dtype=np.bool_))
    assert np.allclose(chances, rate, atol=1e-6)


# ---- the model


def test_a_reloaded_ensemble_scores_to_the_last_bit_and_counts_what_it_used() -> None:
    table = made_up(400, seed=12)
    ensemble = grown(SMALL, table)
    data = canonical.encode(ensemble.to_record())
    again = Ensemble.from_record(canonical.decode(data))
    assert again == ensemble
    bits = table.platform.sides(ensemble.platform_cuts)
    assert (again.raw_scores(table.own, bits) == ensemble.raw_scores(table.own, bits)).all()
    importance = ensemble.importance(4, 2)
    splits = [split for tree in ensemble.trees for split in tree.splits]
    assert sum(importance.platform_cuts) + sum(importance.own_cuts) == len(splits)
    assert sum(importance.platform_gain_micro) + sum(importance.own_gain_micro) == sum(s.gain_micro for s in splits)
    with pytest.raises(ValueError):
        ensemble.raw_scores(table.own, bits[:, 1:])


DAMAGE: dict[str, Any] = {
    "another type": lambda r: r.update(type="tree"),
    "another version": lambda r: r.update(version=2),
    "another scale": lambda r: r.update(value_bits=16),
    "no base": lambda r: r.pop("base"),
    "a text for a number": lambda r: r.update(base="0"),
    "a cut that is not listed": lambda r: r["trees"][0]["splits"][0].update(cut=99),
    "a cut before the first": lambda r: r["trees"][0]["splits"][0].update(cut=-1),
    "a leaf is missing": lambda r: r["trees"][0]["leaves"].pop(),
    "a node twice": lambda r: r["trees"][0]["leaves"].append(r["trees"][0]["leaves"][0]),
    "a node below the depth": lambda r: r.update(depth=1),
    "an unknown entry": lambda r: r["trees"][0]["leaves"][0].update(more=1),
    "a cut of two numbers": lambda r: r["platform_cuts"][0].pop(),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_record_is_refused(damage: str) -> None:
    record = canonical.decode(canonical.encode(grown(SMALL, made_up(400, seed=12)).to_record()))
    DAMAGE[damage](record)
    with pytest.raises(InputFault, match="damaged"):
        Ensemble.from_record(record)


def test_columns_whose_codes_or_kinds_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError):
        TreeColumns.of([[0, 3]], [3], [0], 2)
    with pytest.raises(ValueError):
        TreeShapes((3,), (3,))
    with pytest.raises(ValueError):
        Growth(SMALL, [0], TreeColumns.of([], [], [], 2), TreeShapes((), ()), Drbg(SAMPLING))


# ---- fixed point


@pytest.mark.parametrize("rows", [64, 1023, 1024, 250_000])
def test_a_cell_of_as_many_extreme_rows_as_the_contract_allows_keeps_its_fields_apart(rows: int) -> None:
    layout = plan_cells(contract_of(max_rows=rows, depth=6))
    extremes = np.array([VALUE_LIMIT, -VALUE_LIMIT]), np.array([CURVATURE_LIMIT, 0])
    high, low = layout.encode(*extremes)
    sums = layout.decode([high * rows, low * rows, high * (rows - 1) + low, 0])
    assert sums[0].tolist() == [rows, rows * VALUE_LIMIT, rows * CURVATURE_LIMIT]
    assert sums[1].tolist() == [rows, -rows * VALUE_LIMIT, 0]
    assert sums[2].tolist() == [rows, (rows - 2) * VALUE_LIMIT, (rows - 1) * CURVATURE_LIMIT]
    assert sums[3].tolist() == [0, 0, 0]
    assert (high * rows).bit_length() <= layout.width_bits and layout.cells * layout.width_bits < 2048
    assert len(layout.proof) == 5 and layout.cells >= 16


def test_a_level_that_does_not_fit_the_key_is_refused() -> None:
    class Tiny:
        max_rows, key_bits, depth = 250_000, 1024, 6

    with pytest.raises(PackingOverflow):
        plan_cells(Tiny())  # type: ignore[arg-type]


@pytest.mark.parametrize("weight", [100, 1000, 2500, 100_000])
def test_gradients_and_curvatures_fit_16_bits_under_any_class_weight(weight: int) -> None:
    chances = np.array([0.0, 0.5, 1.0, 0.0, 0.5, 1.0])
    g, h = Scales(weight).quantised(chances, np.array([0, 0, 0, 1, 1, 1]))
    assert np.abs(g).max() == VALUE_LIMIT and g.min() >= -VALUE_LIMIT
    assert h.max() in (CURVATURE_LIMIT, CURVATURE_LIMIT - 1) and h.min() == 0


def test_candidates_are_the_trees_own_and_sums_are_exact() -> None:
    table = made_up(200, seed=13)
    g, h = np.arange(200) - 100, np.arange(200) * 300
    sums = sums_of(table.platform.codes, np.arange(200) % 2 == 0, g, h, 9)
    for j, bins in enumerate(table.platform.shapes.bins):
        for b in range(bins):
            rows = [r for r in range(0, 200, 2) if table.platform.codes[j, r] == b]
            assert sums[j, b].tolist() == [len(rows), sum(g[rows]), sum(h[rows])]
    nothing = Candidates(table.platform.shapes, (), table.own.shapes, (), 5, Scales(1000), 1.0)
    assert nothing.best(np.zeros((0, 1, 3), dtype=np.int64), None) is None


# ---- real data


@pytest.fixture(scope="module")
def taiwan() -> tuple[Table, Table]:
    """Training and test rows of the Taiwan set, all 23 fields binned at the platform."""
    path = SHARED / "data" / "taiwan_default_raw.csv.gz"
    if not path.exists():
        pytest.skip("shared/data is not beside the checkout")
    lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    names = lines[0].split(",")
    rows = [dict(zip(names, line.split(","), strict=True)) for line in lines[1:]]
    parts = [[row for row in rows if row["split"] == split] for split in ("train", "test")]
    fields = [name for name in names if name not in ("id", "y", "split")]
    values = [[[float(row[name]) for row in part] for name in fields] for part in parts]
    specs = [fit_bins(column, 32, 50) for column in values[0]]

    def table(part: int) -> Table:
        labels = [int(row["y"]) for row in parts[part]]
        codes = [spec.encode(column) for spec, column in zip(specs, values[part], strict=True)]
        columns = TreeColumns.of(codes, [spec.count for spec in specs], [ORDERED] * len(specs), len(labels))
        return Table(labels, columns, TreeColumns.of([], [], [], len(labels)))

    return table(0), table(1)


def test_clear_trees_are_within_three_thousandths_of_auc_of_scikit_learns_at_equal_settings(
    taiwan: tuple[Table, Table],
) -> None:
    train, test = taiwan
    terms = TreeTerms(trees=20, depth=4, split_bits=100_000)
    theirs = HistGradientBoostingClassifier(
        max_iter=20, learning_rate=0.2, max_depth=4, max_leaf_nodes=None, min_samples_leaf=50, l2_regularization=1.0,
        early_stopping=False, random_state=1,
    ).fit(train.platform.codes.T, train.labels)  # fmt: skip
    reference = evaluation.auc(test.labels, theirs.predict_proba(test.platform.codes.T)[:, 1])
    for bits in (100_000, 64):  # scikit-learn knows no cap on distinct cuts; sixty-four cost little
        ensemble = grown(replace(terms, split_bits=bits), train)
        auc = evaluation.auc(test.labels, predict_clear(ensemble, test.platform, test.own))
        assert auc is not None and reference is not None and abs(auc - reference) <= 0.003
        assert len(ensemble.platform_cuts) <= bits
